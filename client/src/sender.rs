//! The sending handle. It waits for the daemon, within a deadline, and never for a listener.

use crate::core::{Core, SenderCore, TooLarge};
use crate::error::{ConnectError, SendError};
use crate::native::{self, Capabilities, Transport, Voice};
use crate::options::Options;
use crate::transport::{Link, Plan, Step, Taken, Until, block_on};
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelName, Header, SenderId};
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    crate::transport::{Awaiting, poll_on},
    std::future::poll_fn,
};

/// Bytes of frames that [`Sender::feed`] gathers before it writes them.
const BATCH_BYTES: usize = 64 * 1024;

/// A payload of up to this size is copied behind its header: one buffer is cheaper for the kernel than two.
const COPIED_BYTES_MAX: usize = 4096;

/// Sends messages to every listener on a channel, in all processes of this user.
///
/// # What a send means
///
/// `Ok` means that the message was handed to the daemon: it is in the daemon's socket, in order behind this sender's
/// earlier ones. Every listener that joined before the daemon takes it from there gets it, or is told that it missed it.
/// Nobody listening is fine. A sender never waits for a listener, however slow.
///
/// A daemon that is killed takes the messages in its socket with it; listeners are told of the gap. A daemon that stops
/// in good order delivers them.
///
/// # When the daemon is slow, stopped or gone
///
/// A send waits for a full socket, at most for the handle's deadline ([`Options::deadline`], 5 s unless set). If the
/// daemon is gone, the send connects to the next one, starting it if allowed, and sends the message there; the sender
/// keeps its [`id`](Self::id) and goes on counting.
///
/// # Example
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let options = system_broadcaster::Options::new().socket(dir.path().join("bus.sock")).autostart(false);
/// # /*
/// let mut sender = Sender::create("com.example.sync")?;
/// # */
/// # let mut listener = options.listener("com.example.sync")?;
/// # let mut sender = options.sender("com.example.sync")?;
/// sender.send(b"hello")?;
/// # assert_eq!(listener.recv()?.payload(), b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Sender {
    core: SenderCore,
    link: Link,
    /// The frame under way, if it is small.
    small: Vec<u8>,
    voice: Option<Box<Voice>>,
    #[cfg(feature = "tokio")]
    awaiting: Awaiting,
}

impl Sender {
    /// A sender on `channel` of this user's bus, which is started if need be.
    ///
    /// Blocks, for a few milliseconds at most unless the system is in trouble; may be called inside an async runtime.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within 5 s.
    pub fn create(channel: impl AsRef<str>) -> Result<Self, ConnectError> {
        Options::new().sender(channel)
    }

    pub(crate) fn connect(channel: ChannelName, plan: Plan) -> Result<Self, ConnectError> {
        let mut sender = Self {
            voice: plan.native.as_ref().map(|native| Box::new(Voice::new(native, &channel))),
            core: SenderCore::new(channel, broadcaster_local::pid(), fastrand::u32(..)),
            link: Link::new(plan)?,
            small: Vec::new(),
            #[cfg(feature = "tokio")]
            awaiting: Awaiting::default(),
        };
        block_on(Until::Forever, || sender.way())?;
        Ok(sender)
    }

    /// What the way can do that messages take at present. It changes only for a handle with
    /// [`Options::native_fallback`] or [`Options::compatible_with_0_1`].
    pub fn capabilities(&self) -> Capabilities {
        match &self.voice {
            Some(voice) if voice.fallback.is_active() => voice.capabilities(),
            _ => Capabilities::DAEMON,
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        self.core.channel()
    }

    /// Who this sender is to listeners; the same for as long as the handle lives.
    pub fn id(&self) -> SenderId {
        self.core.id()
    }

    /// Sends `payload`, in one write, and waits until the daemon's socket has taken it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message was not sent, and will not be, unless the error is [`SendError::Unfinished`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        let mut flight = Flight::new(self, payload);
        if let Step::Done(()) = flight.step()? {
            return Ok(()); // without a look at the clock
        }
        let until = Until::after(flight.sender.link.plan().deadline);
        let sent = block_on(until, || flight.step())?;
        flight.outcome(sent, until)
    }

    /// Sends `payload` if the daemon's socket takes it at once.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if it would have to wait, for the socket or for a connection; the message was not sent.
    /// [`SendError::Unfinished`] if the socket has room for a part of it only, as with messages of hundreds of kilobytes.
    pub fn try_send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        let mut flight = Flight::new(self, payload);
        let sent = block_on(Until::Now, || flight.step())?;
        flight.outcome(sent, Until::Now)
    }

    /// Sends `payload` without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the message is either not sent at all, or begun: then the handle keeps
    /// the rest, and it is sent whole when [`flush`](Self::flush), or a later send, succeeds.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_async(&mut self, payload: &[u8]) -> Result<(), SendError> {
        let until = Until::after(self.link.plan().deadline);
        let mut flight = Flight::new(self, payload);
        let sent = poll_fn(|cx| {
            let mut awaiting = std::mem::take(&mut flight.sender.awaiting);
            let polled = poll_on(&mut awaiting, cx, until, || flight.step());
            flight.sender.awaiting = awaiting;
            polled
        })
        .await?;
        flight.outcome(sent, until)
    }

    /// Puts `payload` behind what was fed before, without writing it yet. When 64 KiB have gathered, they are written
    /// first. A handle that goes by notifications posts it at once. Follow it with [`flush`](Self::flush): many small messages then go out in few writes.
    ///
    /// # Errors
    ///
    /// [`SendError`]; this message was not put there. What was fed before is kept.
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), SendError> {
        if self.voice.is_some() && self.goes_by_notifications()? {
            return self.post(payload);
        }
        let waiting = self.core.waiting_bytes();
        if waiting > 0 && waiting + HEADER_BYTES + payload.len() > BATCH_BYTES {
            self.flush()?;
        }
        let sequence = self.core.committed();
        self.core.feed(payload).map_err(too_large)?;
        if self.voice.is_some() {
            self.join_in(sequence, payload);
        }
        Ok(())
    }

    /// Writes all that was fed, and waits until the daemon's socket has taken it.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`]: what was not written is kept for the next call. [`SendError::Connect`] with a refusal:
    /// it was dropped.
    pub fn flush(&mut self) -> Result<(), SendError> {
        let until = Until::after(self.link.plan().deadline);
        let flushed = block_on(until, || self.step_flush())?;
        self.flushed(flushed)
    }

    /// [`flush`](Self::flush) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not written is kept for the next call.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn flush_async(&mut self) -> Result<(), SendError> {
        let until = Until::after(self.link.plan().deadline);
        let flushed = poll_fn(|cx| {
            let mut awaiting = std::mem::take(&mut self.awaiting);
            let polled = poll_on(&mut awaiting, cx, until, || self.step_flush());
            self.awaiting = awaiting;
            polled
        })
        .await?;
        self.flushed(flushed)
    }

    fn flushed(&self, flushed: Option<()>) -> Result<(), SendError> {
        flushed.ok_or(SendError::TimedOut { after: self.link.plan().deadline })
    }

    /// Which way to go now, as far as that is clear without waiting.
    #[inline]
    fn way(&mut self) -> Result<Step<Transport>, ConnectError> {
        match &mut self.voice {
            None => Ok(match self.link.ready(&mut self.core)? {
                Step::Done(()) => Step::Done(Transport::Daemon),
                Step::Wait(wait) => Step::Wait(wait),
            }),
            Some(voice) => native::way(&mut voice.fallback, &mut self.link, &mut self.core, SenderCore::is_opening),
        }
    }

    /// Whether messages go by notifications now; gets the connection up first, if there can be one.
    #[cold]
    fn goes_by_notifications(&mut self) -> Result<bool, SendError> {
        let after = self.link.plan().deadline;
        match block_on(Until::after(after), || self.way())? {
            Some(transport) => Ok(transport == Transport::Notifications),
            None => Err(SendError::TimedOut { after }),
        }
    }

    /// Sends one message as a notification, behind those that were to go to the daemon.
    #[cold]
    fn post(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.post_waiting()?;
        let sequence = self.core.committed();
        self.post_as(sequence, payload)?;
        self.core.commit();
        Ok(())
    }

    /// Sends what was to go to the daemon as notifications; what is too large for one is lost, and that is told.
    fn post_waiting(&mut self) -> Result<(), SendError> {
        let mut outcome = Ok(());
        for (sequence, payload) in self.core.take_waiting() {
            outcome = outcome.and(self.post_as(sequence, &payload));
        }
        outcome
    }

    fn post_as(&self, sequence: u64, payload: &[u8]) -> Result<(), SendError> {
        let Some(voice) = &self.voice else { return Ok(()) };
        let posted = voice.post(self.core.channel(), self.core.id(), sequence, payload);
        posted.map_err(|native::TooLarge { max }| SendError::TooLarge { len: payload.len(), max })
    }

    /// The daemon has this message: listeners that have not found the daemon yet get it too.
    #[cold]
    fn join_in(&mut self, sequence: u64, payload: &[u8]) {
        if self.voice.as_mut().is_some_and(|voice| voice.joins_in()) {
            let _ = self.post_as(sequence, payload); // one that is too large has never been for them
        }
    }

    fn step_flush(&mut self) -> Result<Step<()>, SendError> {
        while self.core.waiting_bytes() > 0 {
            match self.way()? {
                Step::Wait(wait) => return Ok(Step::Wait(wait)),
                Step::Done(Transport::Notifications) => return self.post_waiting().map(Step::Done),
                Step::Done(Transport::Daemon) => {}
            }
            match self.link.write(self.core.outgoing(), &[]) {
                Taken::Bytes(bytes) => self.core.sent(bytes),
                Taken::Wait(wait) => return Ok(Step::Wait(wait)),
                Taken::Lost => self.lose()?,
            }
        }
        Ok(Step::Done(()))
    }

    fn lose(&mut self) -> Result<(), SendError> {
        self.link.lose_with_reason(&mut self.core).map_err(|error| {
            self.core.forget_waiting();
            error.into()
        })
    }
}

/// Writes what was fed, or half written, as far as that goes without waiting.
impl Drop for Sender {
    fn drop(&mut self) {
        if self.core.is_ready() && self.core.waiting_bytes() > 0 {
            let _ = self.link.write(self.core.outgoing(), &[]);
        }
    }
}

/// One message on its way out, straight from the caller's memory.
struct Flight<'a> {
    sender: &'a mut Sender,
    payload: &'a [u8],
    /// As it is stamped for the present connection.
    header: Option<Header>,
    written: usize,
}

impl<'a> Flight<'a> {
    fn new(sender: &'a mut Sender, payload: &'a [u8]) -> Self {
        Self { sender, payload, header: None, written: 0 }
    }

    #[inline]
    fn step(&mut self) -> Result<Step<()>, SendError> {
        loop {
            match self.sender.way()? {
                Step::Wait(wait) => return Ok(Step::Wait(wait)),
                Step::Done(Transport::Notifications) => return self.sender.post(self.payload).map(Step::Done),
                Step::Done(Transport::Daemon) => {}
            }
            if self.sender.core.waiting_bytes() > 0 {
                if let Step::Wait(wait) = self.sender.step_flush()? {
                    return Ok(Step::Wait(wait));
                }
                continue;
            }
            let header = match self.header {
                Some(header) => header,
                None => self.stamp()?,
            };
            let (head, body) = if self.payload.len() <= COPIED_BYTES_MAX {
                (&self.sender.small[self.written..], &[][..])
            } else if self.written < HEADER_BYTES {
                (&header.as_bytes()[self.written..], self.payload)
            } else {
                (&self.payload[self.written - HEADER_BYTES..], &[][..])
            };
            match self.sender.link.write(head, body) {
                Taken::Bytes(bytes) => {
                    self.written += bytes;
                    if self.written == header.frame_bytes() {
                        self.written = 0;
                        if self.sender.voice.is_some() {
                            self.sender.join_in(header.sequence(), self.payload);
                        }
                        self.sender.core.commit();
                        return Ok(Step::Done(()));
                    }
                }
                Taken::Wait(wait) => return Ok(Step::Wait(wait)),
                Taken::Lost => {
                    // No daemon has the whole message: it starts anew on the next connection.
                    (self.header, self.written) = (None, 0);
                    self.sender.lose()?;
                }
            }
        }
    }

    fn stamp(&mut self) -> Result<Header, SendError> {
        let header = self.sender.core.stamp(self.payload.len()).map_err(too_large)?;
        if self.payload.len() <= COPIED_BYTES_MAX {
            self.sender.small.clear();
            self.sender.small.extend_from_slice(header.as_bytes());
            self.sender.small.extend_from_slice(self.payload);
        }
        Ok(*self.header.insert(header))
    }

    fn outcome(self, sent: Option<()>, until: Until) -> Result<(), SendError> {
        match (sent, until) {
            (Some(()), _) => Ok(()),
            (None, Until::Deadline(_, after)) if self.written > 0 => Err(SendError::Unfinished { after }),
            (None, _) if self.written > 0 => Err(SendError::Unfinished { after: Duration::ZERO }),
            (None, Until::Deadline(_, after)) => Err(SendError::TimedOut { after }),
            (None, Until::Now | Until::Forever) => Err(SendError::Full),
        }
    }
}

/// A message of which a part was written must go on: the daemon would take what comes next for the rest of it.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let (Some(header), 1..) = (&self.header, self.written) {
            self.sender.core.adopt(header, self.payload, self.written);
        }
    }
}

fn too_large(TooLarge { len, max }: TooLarge) -> SendError {
    SendError::TooLarge { len, max }
}
