//! The listening handle. One handle, one connection: a handle that is not read does not hold up another one.

use crate::core::{Ended, Heard, ListenerCore};
use crate::error::{ConnectError, Lag, RecvError};
use crate::message::{Message, MessageRef};
use crate::native::{self, Capabilities, Ear, News, Transport};
use crate::options::Options;
use crate::transport::{Link, Plan, Step, Taken, Until, Wait, block_on};
use broadcaster_protocol::ChannelName;
use broadcaster_protocol::control::Overflow;
use std::time::{Duration, Instant};
#[cfg(feature = "tokio")]
use {
    crate::transport::{Awaiting, poll_on},
    futures_core::Stream,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// How many times to look whether anything delivers notifications before that is an error.
const DEAF_LOOKS: u32 = 8;

/// How often to look for notifications while the daemon is there as well.
const LOOK_INTO_INBOX_EVERY: Duration = Duration::from_millis(50);

/// Gets every message that any process of this user sends on a channel.
///
/// # What is promised
///
/// From the moment that it is created, the listener gets every message that the daemon accepts on the channel, in order
/// for each sender and without duplicates, or is told in the very place how many it missed:
/// `received + told missed = accepted`.
///
/// # Lagging
///
/// Up to 4 MiB wait in the daemon for a listener that does not keep up, besides what is in its socket. Beyond that the
/// oldest are dropped (or what [`Options::overflow`] says), and the next receive yields [`RecvError::Lagged`] at the
/// place of the hole. The error ends nothing: receive again. No sender and no other listener notices.
///
/// # When the daemon is gone
///
/// The listener finds the next daemon, starting it if allowed, joins the channel again and yields one
/// [`RecvError::Lagged`] without a count: messages that were sent in between are missed, and the daemon that would know
/// how many is gone. [`Message::sequence`] goes on counting in senders that live on.
///
/// # Example
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let options = system_broadcaster::Options::new().socket(dir.path().join("bus.sock")).autostart(false);
/// # /*
/// let mut listener = Listener::create("com.example.sync")?;
/// # */
/// # let mut listener = options.listener("com.example.sync")?;
/// # let mut sender = options.sender("com.example.sync")?;
/// # sender.send(b"hello")?;
/// let message = listener.recv()?;
/// println!("{} bytes from process {}", message.payload().len(), message.sender_pid());
/// # assert_eq!(message.sender_pid(), std::process::id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    core: ListenerCore,
    link: Link,
    missed: u64,
    gaps: u64,
    ear: Option<Box<Ear>>,
    #[cfg(feature = "tokio")]
    awaiting: Awaiting,
}

impl Listener {
    /// A listener on `channel` of this user's bus, which is started if need be.
    ///
    /// Blocks, for a few milliseconds at most unless the system is in trouble; may be called inside an async runtime.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within 5 s.
    pub fn create(channel: impl AsRef<str>) -> Result<Self, ConnectError> {
        Options::new().listener(channel)
    }

    pub(crate) fn connect(channel: ChannelName, overflow: Overflow, plan: Plan) -> Result<Self, ConnectError> {
        let mut listener = Self {
            ear: plan.native.as_ref().map(|native| Box::new(Ear::new(native, &channel))),
            core: ListenerCore::new(channel, overflow, broadcaster_local::pid()),
            link: Link::new(plan)?,
            missed: 0,
            gaps: 0,
            #[cfg(feature = "tokio")]
            awaiting: Awaiting::default(),
        };
        match block_on(Until::Forever, || listener.way())? {
            Some(Transport::Notifications) => listener.open_ear()?,
            Some(Transport::Daemon) | None => {}
        }
        Ok(listener)
    }

    /// What the way can do that messages take at present. It changes only for a handle with
    /// [`Options::native_fallback`] or [`Options::compatible_with_0_1`].
    pub fn capabilities(&self) -> Capabilities {
        match &self.ear {
            Some(ear) if ear.fallback.is_active() => ear.capabilities(),
            _ => Capabilities::DAEMON,
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        self.core.channel()
    }

    /// How many messages this listener was told that it missed, as far as they were counted.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How many times messages may have been missed uncounted: the daemon was replaced, or notifications left something out.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Waits for the next message, without end while a daemon is there.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] where messages are missing. [`RecvError::Connect`] if the daemon is gone and no other could
    /// be reached within the handle's deadline. Either way, receive again to go on.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.wait(Until::Forever)?;
        self.message()
    }

    /// Waits for the next message and lends it: nothing is allocated or copied. For loops over many small messages.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn recv_ref(&mut self) -> Result<MessageRef<'_>, RecvError> {
        self.wait(Until::Forever)?;
        self.message_ref()
    }

    /// Waits for the next message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if none came; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message, RecvError> {
        self.wait(Until::after(timeout))?;
        self.message()
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] if none is there; otherwise as [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Message, RecvError> {
        self.wait(Until::Now)?;
        self.message()
    }

    /// Waits for the next message without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if the future is dropped before it is ready, no message is lost.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn recv_async(&mut self) -> Result<Message, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The messages as a blocking iterator, with lag in its place. It never ends by itself.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<Message, RecvError>> + '_ {
        std::iter::from_fn(|| Some(self.recv()))
    }

    /// The messages as a stream, with lag in its place. It never ends by itself.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the stream loses no message.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn messages(&mut self) -> impl Stream<Item = Result<Message, RecvError>> + Send + Unpin + '_ {
        Messages { listener: self }
    }

    /// The payloads as a stream, for programs that do not care who sent them and what they missed; the latter is still
    /// counted in [`missed`](Self::missed) and [`gaps`](Self::gaps). It ends with the first [`RecvError::Connect`]: no
    /// daemon could be reached within the handle's deadline, or it refused. Calling `listen` again begins anew.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the stream loses no message.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn listen(&mut self) -> impl Stream<Item = Vec<u8>> + Send + Unpin + '_ {
        Payloads { listener: self }
    }

    #[inline]
    fn wait(&mut self, until: Until) -> Result<(), RecvError> {
        match block_on(until, || self.step(until == Until::Forever))? {
            Some(()) => Ok(()),
            None => Err(match until {
                Until::Deadline(_, after) => RecvError::TimedOut { after },
                Until::Now | Until::Forever => RecvError::Empty,
            }),
        }
    }

    /// Finds the next message, as far as that goes without waiting; a `patient` caller lets the kernel wait in the read.
    #[inline]
    fn step(&mut self, patient: bool) -> Result<Step<()>, RecvError> {
        if self.ear.is_some() {
            return self.step_with_ear();
        }
        loop {
            match self.core.hear() {
                Ok(Heard::Frame) => return Ok(Step::Done(())),
                Ok(Heard::Nothing) => {}
                Ok(Heard::Lagged(count)) => return Err(self.lagged(count)),
                Err(ended) => self.ended(ended)?,
            }
            if !self.link.is_up() {
                match self.link.ready(&mut self.core)? {
                    Step::Wait(wait) => return Ok(Step::Wait(wait)),
                    Step::Done(()) => continue, // what came with the handshake is heard before the next read
                }
            }
            match self.link.read(&mut self.core, patient) {
                Taken::Bytes(_) | Taken::Lost => {}
                Taken::Wait(wait) => return Ok(Step::Wait(wait)),
            }
        }
    }

    /// Which way to go now, as far as that is clear without waiting.
    fn way(&mut self) -> Result<Step<Transport>, ConnectError> {
        match &mut self.ear {
            None => Ok(match self.link.ready(&mut self.core)? {
                Step::Done(()) => Step::Done(Transport::Daemon),
                Step::Wait(wait) => Step::Wait(wait),
            }),
            Some(ear) => native::way(&mut ear.fallback, &mut self.link, &mut self.core, |_| false),
        }
    }

    /// Hears notifications from now on. Whatever the daemon says later comes after a gap.
    fn open_ear(&mut self) -> Result<(), ConnectError> {
        let Some(ear) = &mut self.ear else { return Ok(()) };
        self.core.heard_elsewhere();
        let path = || "notifications of the system".into();
        ear.open().map_err(|source| ConnectError::Io { action: "listen to", path: path(), source })
    }

    /// [`step`](Self::step) for a handle that may go by notifications.
    #[cold]
    fn step_with_ear(&mut self) -> Result<Step<()>, RecvError> {
        loop {
            let Some(ear) = &mut self.ear else { return Err(RecvError::Empty) };
            let open = ear.joins_in();
            match ear.hear(self.core.channel()) {
                News::Message => return Ok(Step::Done(())),
                News::Missing => return Err(self.lagged(None)),
                News::Nothing => {}
            }
            match self.core.hear() {
                Ok(Heard::Frame) if self.core.frame().is_some_and(|frame| !ear.is_news(frame)) => continue,
                Ok(Heard::Frame) => return Ok(Step::Done(())),
                Ok(Heard::Nothing) => {}
                Ok(Heard::Lagged(count)) => return Err(self.lagged(count)),
                Err(ended) => self.ended(ended)?,
            }
            if !self.link.is_up() {
                let was_active = self.ear.as_ref().is_some_and(|ear| ear.fallback.is_active());
                match self.way()? {
                    Step::Wait(wait) => return Ok(Step::Wait(wait)),
                    Step::Done(Transport::Daemon) => {}
                    Step::Done(Transport::Notifications) => {
                        self.open_ear()?;
                        return if was_active { self.wait_for_notification() } else { Err(self.lagged(None)) };
                    }
                }
                continue;
            }
            match self.link.read(&mut self.core, false) {
                Taken::Bytes(_) | Taken::Lost => {}
                Taken::Wait(wait) if open => {
                    // Two descriptors, and one that can be waited for.
                    let soon = Instant::now() + LOOK_INTO_INBOX_EVERY;
                    return Ok(Step::Wait(Wait {
                        until: Some(wait.until.map_or(soon, |until| until.min(soon))),
                        ..wait
                    }));
                }
                Taken::Wait(wait) => return Ok(Step::Wait(wait)),
            }
        }
    }

    fn wait_for_notification(&mut self) -> Result<Step<()>, RecvError> {
        let patience = self.link.plan().deadline;
        let Some(ear) = &mut self.ear else { return Err(RecvError::Empty) };
        if ear.is_deaf(patience) {
            return Err(ConnectError::NoRunLoop { after: patience }.into());
        }
        // A main thread that is busy for a moment is not in its run loop either: it is looked at several times before it is blamed.
        let until = Instant::now().checked_add(patience / DEAF_LOOKS);
        let until = [ear.fallback.look_at(), until].into_iter().flatten().min();
        Ok(Step::Wait(Wait { fd: ear.readable(), writable: false, until }))
    }

    #[cold]
    fn lagged(&mut self, count: Option<u64>) -> RecvError {
        match count {
            Some(count) => self.missed += count,
            None => self.gaps += 1,
        }
        RecvError::Lagged(Lag { channel: self.core.channel().clone(), count })
    }

    #[cold]
    fn ended(&mut self, ended: Ended) -> Result<(), RecvError> {
        let error = match ended {
            Ended::Goodbye => None,
            ended => Some(self.link.why(ended)),
        };
        self.link.lose(&mut self.core);
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn message(&mut self) -> Result<Message, RecvError> {
        if let Some((frame, payload)) = self.ear.as_ref().and_then(|ear| ear.found()) {
            return Ok(Message::new(self.core.channel(), frame, payload.clone()));
        }
        match (self.core.frame(), self.core.payload()) {
            (Some(frame), Some(payload)) => Ok(Message::new(self.core.channel(), frame, payload)),
            _ => Err(RecvError::Empty),
        }
    }

    #[inline]
    fn message_ref(&self) -> Result<MessageRef<'_>, RecvError> {
        let heard = self.ear.as_ref().and_then(|ear| ear.found());
        let frame = heard.map(|(frame, _)| frame).or_else(|| self.core.frame()).ok_or(RecvError::Empty)?;
        Ok(MessageRef { channel: self.core.channel(), frame })
    }

    #[cfg(feature = "tokio")]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, RecvError>> {
        let mut awaiting = std::mem::take(&mut self.awaiting);
        let polled = poll_on(&mut awaiting, cx, Until::Forever, || self.step(false));
        self.awaiting = awaiting;
        ready!(polled)?;
        Poll::Ready(self.message())
    }
}

#[cfg(feature = "tokio")]
struct Messages<'a> {
    listener: &'a mut Listener,
}

#[cfg(feature = "tokio")]
impl Stream for Messages<'_> {
    type Item = Result<Message, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_recv(cx).map(Some)
    }
}

#[cfg(feature = "tokio")]
struct Payloads<'a> {
    listener: &'a mut Listener,
}

#[cfg(feature = "tokio")]
impl Stream for Payloads<'_> {
    type Item = Vec<u8>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        loop {
            match ready!(self.listener.poll_recv(cx)) {
                Ok(message) => return Poll::Ready(Some(message.into_payload().into())),
                Err(RecvError::Connect(_)) => return Poll::Ready(None),
                Err(RecvError::Lagged(_) | RecvError::TimedOut { .. } | RecvError::Empty) => {}
            }
        }
    }
}
