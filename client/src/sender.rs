//! The sending handle. It waits for the daemon, within a timeout, and never for a listener.

use crate::capabilities::Capabilities;
use crate::error::{ConnectError, SendError};
use crate::machine::{self, Confirmation, Link, Machine, OWN, PendingSend, Place, Posted, Publisher, Transfer};
use crate::metadata::Metadata;
use crate::options::Options;
use crate::path::{Clock, ConnectConfig, Path, Until, Waited, Waiter};
use crate::receiver::HANDSHAKE_ALLOWANCE;
use crate::{ChannelName, SenderId};
use broadcaster_protocol::limits::HEADER_BYTES;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    futures_sink::Sink,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// Bytes of frames that [`Sender::feed`] gathers before it writes them.
const BATCH_BYTES: usize = 64 * 1024;

/// Sends messages to every listener on a channel, in all processes of this user.
///
/// # What a send means
///
/// `Ok` means that the message was handed to the daemon: it is in the daemon's socket, behind this sender's earlier messages. Every
/// listener that joined before the daemon takes it from there receives it, or receives a report that it lost it. Sending without a
/// listener is not an error. A sender never waits for a listener, however slow.
///
/// A daemon that is killed loses the messages in its socket; listeners receive a gap. A daemon that stops delivers them.
/// [`confirm`](Self::confirm) waits until the daemon has accepted them.
///
/// # When the daemon is slow, stopped or gone
///
/// A send waits for a full socket, for at most the handle's timeout ([`Options::timeout`], 5 s unless set). If the daemon is gone, the
/// send connects to the next one, starting it if allowed, and sends the message there. The sender keeps its [`id`](Self::id) and
/// continues to count.
///
/// # Threads and tasks
///
/// A sender is `Send`, `Sync`, `Unpin` and `'static`. It is not `Clone`: its id and its sequence numbers promise one order of messages.
/// Create a sender for each thread, or put one behind a mutex.
///
/// # Example
///
/// ```
/// use system_broadcaster::Options;
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let mut listener = bus.listener("com.example.sync")?;
/// let mut sender = bus.sender("com.example.sync")?;
/// sender.send(b"hello")?;
/// assert_eq!(listener.recv()?.payload(), b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Sender {
    pub(crate) publisher: Publisher,
    pub(crate) path: Path,
    pub(crate) waiter: Waiter,
    /// Dropped last: it waits for a broker in this process.
    #[cfg(feature = "embedded")]
    delivery: crate::embedded::Delivery,
}

impl Sender {
    /// A sender on `channel` of this user's bus, which is started if necessary.
    ///
    /// Blocks, for a few milliseconds unless the system is in trouble, and for at most 5 s. In async code use
    /// [`create_async`](Self::create_async).
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within 5 s.
    pub fn create(channel: &str) -> Result<Self, ConnectError> {
        Options::new().sender(channel)
    }

    /// [`create`](Self::create) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn create_async(channel: &str) -> Result<Self, ConnectError> {
        Options::new().sender_async(channel).await
    }

    pub(crate) fn new(channel: &ChannelName, config: ConnectConfig) -> Self {
        let number = u32::try_from(crate::random() >> 32).unwrap_or_default();
        let publisher = Publisher::new(channel.clone(), config.purpose_or("sender"), broadcaster_local::pid(), number);
        Self {
            publisher,
            path: Path::of_sender(config, channel),
            waiter: Waiter::default(),
            #[cfg(feature = "embedded")]
            delivery: crate::embedded::Delivery::default(),
        }
    }

    pub(crate) fn connect(&mut self) -> Result<(), ConnectError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        waiter.block_on(Until::Forever, || path.connect(publisher))?;
        Ok(())
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn connect_async(&mut self) -> Result<(), ConnectError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        poll_fn(|cx| waiter.poll_on(cx, Until::Forever, || path.connect(publisher))).await?;
        Ok(())
    }

    /// What the path can do at present. It changes only for a handle with [`Options::fallback`].
    pub fn capabilities(&self) -> Capabilities {
        self.path.capabilities()
    }

    /// The name of the channel that the sender was created for.
    pub fn channel(&self) -> &ChannelName {
        self.publisher.channel()
    }

    /// The sender as listeners see it; the same for as long as the handle lives.
    pub fn id(&self) -> SenderId {
        self.publisher.id().into()
    }

    /// Sends `payload`, in one write, and waits until the daemon's socket has taken it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message was not sent, and will not be, unless the error is [`SendError::Unfinished`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(OWN, &[], payload)
    }

    /// Sends `payload` with `metadata`, which listeners read from [`Message::metadata`](crate::Message::metadata). Without metadata this
    /// is [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// ```
    /// use system_broadcaster::{Metadata, Options};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let (mut listener, mut sender) = (bus.listener("news")?, bus.sender("news")?);
    /// sender.send_with(&Metadata::new().content_type("application/json")?, b"{}")?;
    /// let message = listener.recv()?;
    /// assert_eq!((message.metadata().content_type(), message.payload()), (Some("application/json"), &b"{}"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_with(&mut self, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(OWN, metadata.as_bytes(), payload)
    }

    /// Sends `payload` on another channel, over the same connection.
    ///
    /// The first message on a channel opens it, which takes one round trip to the daemon; the first one after a reconnection does that
    /// again. From then on it costs what [`send`](Self::send) costs. Each channel counts its messages separately, from 0, and keeps counting
    /// as long as the handle lives. Messages on all channels go out in the order of the calls. A channel cannot be closed; a connection has
    /// up to 1024, and a sender remembers 65 536.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); [`SendError::Name`] if the name is not allowed; [`SendError::Declined`] if the daemon does not open the
    /// channel.
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let (mut news, mut sports) = (bus.listener("news")?, bus.listener("sports")?);
    /// let mut sender = bus.sender("news")?;
    /// sender.send(b"an election")?;
    /// sender.send_to("sports", b"a match")?;
    /// assert_eq!(news.recv()?.payload(), b"an election");
    /// let message = sports.recv()?;
    /// assert_eq!((message.payload(), message.sender(), message.sequence()), (&b"a match"[..], sender.id(), 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_to(&mut self, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.send_bytes(place, &[], payload)
    }

    /// [`send_to`](Self::send_to) with metadata, as in [`send_with`](Self::send_with).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send_to_with(&mut self, channel: &str, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.send_bytes(place, metadata.as_bytes(), payload)
    }

    fn send_bytes(&mut self, place: Place, metadata: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let timeout = self.path.config().timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let mut pending = PendingSend::new(publisher, path, place, metadata, payload);
        let waited = waiter.block_on_for(timeout, || pending.poll::<SendError>())?;
        outcome(&waited, pending.has_begun(), timeout)
    }

    /// Sends `payload` if the daemon's socket takes it at once. Does not wait, except for about a millisecond while a handshake is under
    /// way.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the socket is full; [`SendError::Connecting`] if there is no connection yet. The message was not sent.
    /// [`SendError::Unfinished`] if the socket has room for a part of it only, as with messages of hundreds of kilobytes.
    pub fn try_send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.try_send_bytes(&[], payload)
    }

    /// [`try_send`](Self::try_send) with `metadata`.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_send_with(&mut self, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.try_send_bytes(metadata.as_bytes(), payload)
    }

    fn try_send_bytes(&mut self, metadata: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        if !path.is_usable() {
            let connected = waiter.block_on(Until::Now, || path.connect(publisher))?;
            if let (Waited::Elapsed, true) = (&connected, path.is_greeting()) {
                waiter.block_on(Until::after(HANDSHAKE_ALLOWANCE), || path.connect(publisher))?;
            }
        }
        let mut pending = PendingSend::new(publisher, path, OWN, metadata, payload);
        let waited = waiter.block_on(Until::Now, || pending.poll::<SendError>())?;
        let begun = pending.has_begun();
        drop(pending);
        match outcome(&waited, begun, Duration::ZERO) {
            Err(SendError::TimedOut { .. }) if path.is_usable() => Err(SendError::Full),
            Err(SendError::TimedOut { .. }) => Err(SendError::Connecting),
            other => other,
        }
    }

    /// Sends `payload` without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the message is either not sent at all, or begun: then the handle keeps the rest, and it
    /// is sent completely when [`flush`](Self::flush), or a later send, succeeds.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_async(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes_async(OWN, &[], payload).await
    }

    /// [`send_with`](Self::send_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_with_async(&mut self, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes_async(OWN, metadata.as_bytes(), payload).await
    }

    /// [`send_to`](Self::send_to) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async). The channel may be open already, or be opened by then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_to_async(&mut self, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.send_bytes_async(place, &[], payload).await
    }

    /// [`send_to_with`](Self::send_to_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    ///
    /// # Cancel safety
    ///
    /// As [`send_to_async`](Self::send_to_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_to_with_async(
        &mut self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.send_bytes_async(place, metadata.as_bytes(), payload).await
    }

    #[cfg(feature = "tokio")]
    async fn send_bytes_async(&mut self, place: Place, metadata: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let timeout = self.path.config().timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let until = Until::after_by(Clock::Runtime, timeout);
        let mut pending = PendingSend::new(publisher, path, place, metadata, payload);
        let waited = poll_fn(|cx| waiter.poll_on(cx, until, || pending.poll::<SendError>())).await?;
        outcome(&waited, pending.has_begun(), timeout)
    }

    /// Appends `payload` to what was fed before, without writing it yet. When 64 KiB have gathered, they are written first, which waits
    /// like [`flush`](Self::flush). Call `flush` at the end: many small messages then take few writes.
    ///
    /// # Errors
    ///
    /// [`SendError`]; this message was not appended. What was fed before is kept, except for what [`flush`](Self::flush) drops.
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), SendError> {
        if self.must_flush_before(payload) {
            self.flush()?;
        }
        if self.path.carries_messages() {
            self.connect()?; // it may be time to look for the daemon
        }
        self.append(payload)
    }

    /// [`feed`](Self::feed) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, this message was not appended, and what was fed before is kept.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn feed_async(&mut self, payload: &[u8]) -> Result<(), SendError> {
        if self.must_flush_before(payload) {
            self.flush_async().await?;
        }
        if self.path.carries_messages() {
            self.connect_async().await?;
        }
        // A task that only feeds must yield as well.
        poll_fn(|cx| self.waiter.poll_on(cx, Until::Now, || Ok::<_, ConnectError>(machine::Step::Done(())))).await?;
        self.append(payload)
    }

    fn must_flush_before(&self, payload: &[u8]) -> bool {
        let waiting = self.publisher.waiting_bytes();
        waiting > 0 && waiting + HEADER_BYTES + payload.len() > BATCH_BYTES
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), SendError> {
        let Self { publisher, path, .. } = self;
        if path.carries_messages() {
            return Ok(machine::post(publisher, path, OWN, payload)?);
        }
        let sequence = publisher.committed();
        publisher.feed(payload)?;
        if path.duplicates() {
            path.written(publisher, Posted { channel: publisher.channel(), sequence, payload });
        }
        Ok(())
    }

    /// Writes everything that was fed, and waits until the daemon's socket has taken it.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`]: what was not written is kept for the next call. [`SendError::Connect`] with a refusal: it was dropped.
    /// [`SendError::TooLarge`]: the daemon was replaced by one with a lower limit; a message that was fed before is larger than that and was
    /// dropped, and the others were written.
    pub fn flush(&mut self) -> Result<(), SendError> {
        let timeout = self.path.config().timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let waited = waiter.block_on_for(timeout, || machine::flush::<_, SendError>(publisher, path))?;
        outcome(&waited, false, timeout)
    }

    /// [`flush`](Self::flush) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, what was not written is kept for the next call.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn flush_async(&mut self) -> Result<(), SendError> {
        let until = Until::after_by(Clock::Runtime, self.path.config().timeout);
        poll_fn(|cx| self.poll_flush(cx, until)).await
    }

    #[cfg(feature = "tokio")]
    fn poll_flush(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<(), SendError>> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let waited = ready!(waiter.poll_on(cx, until, || machine::flush::<_, SendError>(publisher, path)))?;
        Poll::Ready(outcome(&waited, false, until.duration()))
    }

    /// Waits until the daemon has accepted everything that this handle has sent or fed, with one round trip: every listener that had joined
    /// receives it, or a report of its loss. Without anything new to confirm it returns at once.
    ///
    /// # What the result means
    ///
    /// `Ok`: the daemon has accepted every message that no earlier call reported as [in doubt](SendError::InDoubt). It does not mean that a
    /// listener has received them.
    ///
    /// A message that was handed to a daemon which is gone is never sent again, and the next daemon cannot confirm it. It is reported,
    /// however many reconnections ago that was; unless that daemon has stopped in an orderly way, because then it has accepted everything
    /// (on macOS and the BSDs it is reported all the same).
    ///
    /// # Errors
    ///
    /// - [`SendError::InDoubt`]: this many messages may be lost. Messages that the handle kept, or sent on a later connection, are not among
    ///   them; the next `confirm` covers those.
    /// - [`SendError::Unconfirmed`]: the timeout has passed. The daemon may still accept what was sent, and the next `confirm` continues to
    ///   wait for that.
    /// - [`SendError::Connect`]: what was fed could not be written, as in [`flush`](Self::flush), or the daemon refused what was sent.
    /// - [`SendError::NoConfirmation`]: messages travel as notifications ([`Options::fallback`]), which are never confirmed.
    ///   [`Capabilities::confirmation`] reports it in advance.
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.sync")?;
    /// assert!(sender.capabilities().confirmation);
    /// sender.send(b"one")?;
    /// sender.feed(b"two")?;
    /// sender.confirm()?;
    /// assert_eq!(bus.daemon().status()?.messages_accepted, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn confirm(&mut self) -> Result<(), SendError> {
        let timeout = self.path.config().timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let commits = publisher.commits();
        let waited = waiter.block_on_for(timeout, || machine::confirm::<_, SendError>(publisher, path, commits))?;
        self.confirmed(&waited, timeout)
    }

    /// [`confirm`](Self::confirm) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`confirm`](Self::confirm).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing changes for what was sent or fed: the next `confirm` covers it as well.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn confirm_async(&mut self) -> Result<(), SendError> {
        let until = Until::after_by(Clock::Runtime, self.path.config().timeout);
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let commits = publisher.commits();
        let waited =
            poll_fn(|cx| waiter.poll_on(cx, until, || machine::confirm::<_, SendError>(publisher, path, commits)))
                .await?;
        self.confirmed(&waited, until.duration())
    }

    fn confirmed(&self, waited: &Waited<Confirmation>, after: Duration) -> Result<(), SendError> {
        match *waited {
            Waited::Done(Confirmation::Accepted) => Ok(()),
            Waited::Done(Confirmation::InDoubt(_)) if self.path.carries_messages() => Err(SendError::NoConfirmation),
            Waited::Done(Confirmation::InDoubt(count)) => Err(SendError::InDoubt { count }),
            Waited::Elapsed | Waited::Closed => Err(SendError::Unconfirmed { after }),
        }
    }

    /// The sender as a sink that owns it, for combinators such as `forward`. Items are payloads: anything that is `AsRef<[u8]>`.
    #[cfg(feature = "tokio")]
    pub fn into_sink(self) -> SenderSink {
        SenderSink { sender: self, flushing: None }
    }
}

/// The place of `channel`, which is known from now on.
fn place_of(publisher: &mut Publisher, channel: &str) -> Result<Place, SendError> {
    match publisher.known(channel) {
        Some(place) => Ok(place),
        None => Ok(publisher.place(&ChannelName::new(channel)?)?),
    }
}

fn outcome(waited: &Waited<()>, begun: bool, after: Duration) -> Result<(), SendError> {
    match waited {
        Waited::Done(()) => Ok(()),
        Waited::Elapsed | Waited::Closed if begun => Err(SendError::Unfinished { after }),
        Waited::Elapsed | Waited::Closed => Err(SendError::TimedOut { after }),
    }
}

/// Writes what was fed, or written in part, as far as that is possible without waiting. A forked child leaves that to its parent.
impl Drop for Sender {
    fn drop(&mut self) {
        while self.publisher.is_ready() && !self.publisher.is_written() && self.path.is_own() {
            match self.path.write(self.publisher.outgoing(), &[]) {
                Transfer::Bytes(bytes @ 1..) => self.publisher.sent(bytes),
                Transfer::Bytes(_) | Transfer::Wait(_) | Transfer::Broken => return,
            }
        }
        #[cfg(feature = "embedded")]
        if self.publisher.is_ready() {
            self.delivery.sender = Some(self.publisher.id());
        }
    }
}

/// One descriptor for the whole life of the sender, across restarts of the daemon. It is readable whenever
/// [`try_send`](Sender::try_send) is worth calling: at first, after every call that succeeds, and when there is room or a connection again
/// after [`SendError::Full`] or [`SendError::Connecting`]. It must not be read from.
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl std::os::fd::AsFd for Sender {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

/// A [`Sender`] as a sink that owns it.
///
/// Items are gathered as by [`Sender::feed`] and written when 64 KiB wait, and when the sink is flushed. Closing the sink flushes it. An
/// error is a [`SendError`]; the sink can be used again after it.
///
/// # Panics
///
/// When it is polled outside a tokio runtime with I/O and time enabled.
#[cfg(feature = "tokio")]
#[derive(Debug)]
#[must_use = "a sink does nothing unless it is polled"]
pub struct SenderSink {
    sender: Sender,
    /// The operation whose flush is under way, and when it gives up.
    flushing: Option<(Operation, Until)>,
}

/// What a sink flushes for. A sink does not learn that an operation was dropped, only that another one has begun.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// To make room for an item.
    Ready,
    Flush,
    Close,
}

/// A task that waits is polled when the deadline comes. A flush that is overdue by this was dropped, and another one has begun.
#[cfg(feature = "tokio")]
const DROPPED_AFTER: Duration = Duration::from_millis(100);

#[cfg(feature = "tokio")]
impl SenderSink {
    /// The sender. What was gathered and not written is kept for its next flush.
    pub fn into_inner(self) -> Sender {
        self.sender
    }

    fn poll_flush_for(&mut self, cx: &mut Context<'_>, operation: Operation) -> Poll<Result<(), SendError>> {
        let until = match self.flushing {
            Some((begun, until)) if begun == operation && until.overdue(Clock::Runtime) < DROPPED_AFTER => until,
            _ => Until::after_by(Clock::Runtime, self.sender.path.config().timeout),
        };
        self.flushing = Some((operation, until));
        let flushed = ready!(self.sender.poll_flush(cx, until));
        self.flushing = None;
        Poll::Ready(flushed)
    }
}

#[cfg(feature = "tokio")]
impl<Item: AsRef<[u8]>> Sink<Item> for SenderSink {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.sender.publisher.waiting_bytes() < BATCH_BYTES && !self.sender.path.carries_messages() {
            // A task that only feeds must yield as well.
            let budget = tokio::task::coop::poll_proceed(cx);
            return budget.map(|budget| {
                budget.made_progress();
                Ok(())
            });
        }
        self.poll_flush_for(cx, Operation::Ready)
    }

    fn start_send(mut self: Pin<&mut Self>, item: Item) -> Result<(), SendError> {
        self.flushing = None;
        self.sender.append(item.as_ref())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_flush_for(cx, Operation::Flush)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_flush_for(cx, Operation::Close)
    }
}
