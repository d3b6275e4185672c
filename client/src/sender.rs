//! The sending handle. It waits for the daemon, within a timeout, and for listeners only if that is requested.

use crate::capabilities::Capabilities;
use crate::error::{ConnectError, SendError};
use crate::machine::{
    self, Confirmation, Confirming, Counted, Lifetime, Link, Machine, OWN, PendingSend, Place, Posted, Publisher,
    Receipted, Ticket, Transfer, Unattended,
};
use crate::metadata::Metadata;
use crate::options::Options;
use crate::path::{Clock, ConnectConfig, Path, Until, Wait, Waited, Waiter};
use crate::policy::SharedMemory;
use crate::receipt::Receipt;
use crate::receiver::HANDSHAKE_ALLOWANCE;
use crate::shared_sender::SharedSender;
use crate::{ChannelName, SenderId};
use broadcaster_protocol::limits::HEADER_BYTES;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    futures_sink::Sink,
    std::convert::Infallible,
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
/// listener is not an error. A sender never waits for a listener, however slow, unless it has [`Options::backpressure`]. With
/// [`Options::shared_memory`], a ring in memory takes the place of the daemon's socket.
///
/// A daemon that is killed loses the messages in its socket; listeners receive a gap. A daemon that stops delivers them. Listeners that read a ring
/// lose nothing that is in it.
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
/// Create a sender for each thread, or share one with [`into_shared`](Self::into_shared).
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
    /// How long a send may wait, for the daemon and for listeners.
    pub(crate) timeout: Duration,
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

    pub(crate) fn new(
        channel: &ChannelName,
        config: ConnectConfig,
        backpressure: Duration,
        history: u32,
        shared_memory: SharedMemory,
    ) -> Self {
        let number = u32::try_from(crate::random() >> 32).unwrap_or_default();
        let publisher = Publisher::new(channel.clone(), config.purpose_or("sender"), broadcaster_local::pid(), number);
        Self {
            publisher: publisher
                .with_backpressure(backpressure)
                .with_history(history)
                .with_rings(shared_memory.rings(!backpressure.is_zero())),
            timeout: config.timeout.saturating_add(backpressure),
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

    /// What the path can do at present. It changes for a handle with [`Options::fallback`], and for one that may use
    /// [shared memory](Options::shared_memory).
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { rings: self.publisher.rings(), ..self.path.capabilities() }
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
    /// [`SendError::TimedOut`]: the socket, or with [backpressure](Options::backpressure) a listener, did not get ahead in time.
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
        let timeout = self.timeout;
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
    /// [`SendError::Full`] if the socket is full, or with [backpressure](Options::backpressure) a listener is behind;
    /// [`SendError::Connecting`] if there is no connection yet. The message was not sent.
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
        if !path.is_usable() && !publisher.goes_on(OWN) {
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
        let timeout = self.timeout;
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
        let timeout = self.timeout;
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
        let until = Until::after_by(Clock::Runtime, self.timeout);
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
        let timeout = self.timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let commits = publisher.commits();
        let waited = waiter.block_on_for(timeout, || machine::confirm::<_, SendError>(publisher, path, commits))?;
        confirmed(&waited, &self.path, timeout)
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
        let until = Until::after_by(Clock::Runtime, self.timeout);
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let commits = publisher.commits();
        let waited =
            poll_fn(|cx| waiter.poll_on(cx, until, || machine::confirm::<_, SendError>(publisher, path, commits)))
                .await?;
        confirmed(&waited, &self.path, until.duration())
    }

    /// Sends `payload`, and waits until the daemon has accepted it and reports what became of it: how many listeners the channel has, for how
    /// many of them the message was queued, and which of them lag. This takes one round trip, and confirms everything that was sent before on
    /// the channel as well.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), for a message that was not sent. If it was sent:
    ///
    /// - [`SendError::InDoubt`]: the connection ended before the receipt arrived. The count is that of [`confirm`](Self::confirm), this message
    ///   included.
    /// - [`SendError::Unconfirmed`]: the timeout has passed. The daemon may still accept the message.
    /// - [`SendError::NoConfirmation`]: messages travel as notifications ([`Options::fallback`]). This one was probably not sent.
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.sync")?;
    /// assert_eq!(sender.send_confirmed(b"to nowhere")?.listeners, 0);
    /// let _listener = bus.listener("com.example.sync")?;
    /// let receipt = sender.send_confirmed(b"to one listener")?;
    /// assert_eq!((receipt.listeners, receipt.took, receipt.lagging), (1, 1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_confirmed(&mut self, payload: &[u8]) -> Result<Receipt, SendError> {
        let timeout = self.timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let mut pending = PendingReceipt { publisher, confirming: Confirming::new(OWN, &[], payload) };
        let waited = waiter.block_on_for(timeout, || pending.poll(path))?;
        received(waited, &pending.confirming, timeout)
    }

    /// [`send_confirmed`](Self::send_confirmed) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send_confirmed`](Self::send_confirmed).
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async). A message that was sent stays sent, and a later [`confirm`](Self::confirm) covers it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_confirmed_async(&mut self, payload: &[u8]) -> Result<Receipt, SendError> {
        let until = Until::after_by(Clock::Runtime, self.timeout);
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let mut pending = PendingReceipt { publisher, confirming: Confirming::new(OWN, &[], payload) };
        let waited = poll_fn(|cx| waiter.poll_on(cx, until, || pending.poll(path))).await?;
        received(waited, &pending.confirming, until.duration())
    }

    /// How many listeners the channel has now: connections that receive its messages, by its name or by a pattern, except for observers. This
    /// takes one round trip. Listeners may join and leave at any time.
    ///
    /// # Errors
    ///
    /// [`SendError::Unanswered`]: the timeout has passed. [`SendError::Connect`]: there is no daemon. [`SendError::NoConfirmation`]: messages
    /// travel as notifications ([`Options::fallback`]), whose listeners nothing counts.
    pub fn listeners(&mut self) -> Result<u32, SendError> {
        let timeout = self.path.config().timeout;
        counted(self.count(0, timeout)?, || SendError::Unanswered { after: timeout })
    }

    /// Waits until the channel has at least `minimum` listeners, and returns how many it has. If the daemon is replaced meanwhile, the
    /// next one is asked.
    ///
    /// A message that is sent after this reaches at least those of them that have not left.
    ///
    /// # Errors
    ///
    /// [`SendError::TooFewListeners`]: the timeout has passed. The others are those of [`listeners`](Self::listeners).
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::{Options, SendError};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.sync")?;
    /// assert_eq!(sender.listeners()?, 0);
    /// let too_few = sender.wait_for_listeners(1, Duration::from_millis(1));
    /// assert!(matches!(too_few, Err(SendError::TooFewListeners { minimum: 1, .. })));
    /// let listener = bus.clone();
    /// let listener = std::thread::spawn(move || listener.listener("com.example.sync")?.recv_timeout(Duration::from_secs(60)));
    /// sender.wait_for_listeners(1, Duration::from_secs(60))?;
    /// sender.send(b"it is there")?;
    /// assert_eq!(listener.join().expect("it does not panic")?.payload(), b"it is there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_listeners(&mut self, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        counted(self.count(minimum, timeout)?, || SendError::TooFewListeners { minimum, after: timeout })
    }

    fn count(&mut self, minimum: u32, timeout: Duration) -> Result<Waited<Counted>, SendError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let mut pending = PendingCount::new(publisher, minimum);
        waiter.block_on_for(timeout, || pending.poll(path))
    }

    /// [`listeners`](Self::listeners) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`listeners`](Self::listeners).
    ///
    /// # Cancel safety
    ///
    /// Nothing changes if the future is dropped before it is ready.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn listeners_async(&mut self) -> Result<u32, SendError> {
        let timeout = self.path.config().timeout;
        counted(self.count_async(0, timeout).await?, || SendError::Unanswered { after: timeout })
    }

    /// [`wait_for_listeners`](Self::wait_for_listeners) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`wait_for_listeners`](Self::wait_for_listeners).
    ///
    /// # Cancel safety
    ///
    /// Nothing changes if the future is dropped before it is ready.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn wait_for_listeners_async(&mut self, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        let waited = self.count_async(minimum, timeout).await?;
        counted(waited, || SendError::TooFewListeners { minimum, after: timeout })
    }

    #[cfg(feature = "tokio")]
    async fn count_async(&mut self, minimum: u32, timeout: Duration) -> Result<Waited<Counted>, SendError> {
        let until = Until::after_by(Clock::Runtime, timeout);
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let mut pending = PendingCount::new(publisher, minimum);
        poll_fn(|cx| waiter.poll_on(cx, until, || pending.poll(path))).await
    }

    /// The sender for several threads and tasks at a time, over the same connection.
    pub fn into_shared(mut self) -> SharedSender {
        self.waiter = Waiter::default();
        SharedSender::new(self)
    }

    /// The sender as a sink that owns it, for combinators such as `forward`. Items are payloads: anything that is `AsRef<[u8]>`.
    #[cfg(feature = "tokio")]
    pub fn into_sink(self) -> SenderSink {
        SenderSink { sender: self, flushing: None }
    }
}

/// # Retained messages
///
/// The daemon retains a message for listeners that join later, so that they receive the current value at once.
impl Sender {
    /// Sends `payload`, and lets the daemon retain it: each listener that joins the channel later receives it first
    /// ([`Options::replay`]). It takes the place of what the daemon has retained of the channel before, whichever sender that was from; with
    /// [`Options::history`], that many messages are retained. Returns when the daemon retains it, with the receipt of
    /// [`send_confirmed`](Self::send_confirmed).
    ///
    /// An empty payload clears the channel instead, as [`clear_retained`](Self::clear_retained) does.
    ///
    /// # For how long
    ///
    /// The daemon retains the message until another one takes its place, the channel is cleared, its [lifetime](Self::retain_for) is over, or
    /// the daemon ends. It does not matter whether this sender lives on.
    ///
    /// Nothing is written to disk. The sender keeps a copy of the last message that it has retained on each channel, and hands it to the
    /// next daemon as soon as it is connected to that: with its next call, or at once in
    /// [`keep_retained`](Self::keep_retained). The copy is dropped when the message is no longer the channel's value. So after a restart, values
    /// of senders that live on come back; those of others, and older messages of a [history](Options::history), do not.
    ///
    /// # Limits
    ///
    /// Unless it is configured otherwise, a daemon retains 16 MiB in total, on 4096 channels, and up to [`HISTORY_MAX`](crate::HISTORY_MAX)
    /// messages of each.
    ///
    /// # Errors
    ///
    /// [`SendError::NotRetained`]: listeners have received the message, but the daemon does not retain it. Otherwise as
    /// [`send_confirmed`](Self::send_confirmed); after [`SendError::InDoubt`] and [`SendError::Unconfirmed`] the sender keeps its copy, and the
    /// message may be retained. Notifications ([`Options::fallback`]) are never retained: [`SendError::NoConfirmation`].
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.theme")?;
    /// sender.retain(b"light")?;
    /// sender.retain(b"dark")?;
    /// drop(sender);
    ///
    /// let mut late = bus.listener("com.example.theme")?;
    /// let message = late.recv()?;
    /// assert_eq!((message.payload(), message.is_replayed()), (&b"dark"[..], true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain(&mut self, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, None, &[], payload)
    }

    /// [`retain`](Self::retain) for at most `lifetime` from now. A part of a millisecond is rounded up.
    ///
    /// The lifetime goes on while the daemon is replaced.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.progress")?;
    /// sender.retain_for(b"90 %", Duration::from_millis(1))?;
    /// while bus.retained_value("com.example.progress")?.is_some() {} // not for long
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain_for(&mut self, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, Some(lifetime), &[], payload)
    }

    /// [`retain`](Self::retain) with `metadata`, for at most `lifetime` if there is one.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain); [`SendError::Metadata`] if there is too much metadata.
    ///
    /// ```
    /// use system_broadcaster::{Metadata, Options};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let json = Metadata::new().content_type("application/json")?;
    /// bus.sender("com.example.theme")?.retain_with(&json, b"{}", None)?;
    /// let value = bus.retained_value("com.example.theme")?.expect("it is retained");
    /// assert_eq!(value.metadata().content_type(), Some("application/json"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain_with(
        &mut self,
        metadata: &Metadata,
        payload: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, lifetime, metadata.as_bytes(), payload)
    }

    /// [`retain`](Self::retain) on another channel, over the same connection: see [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain) and [`send_to`](Self::send_to).
    pub fn retain_to(&mut self, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.retain_bytes(place, None, &[], payload)
    }

    /// Clears what the daemon retains of the channel, whichever senders that is from: later listeners receive nothing first. Listeners that
    /// have joined receive an empty message with [`Message::is_cleared`](crate::Message::is_cleared). Without effect on the daemon if it retains
    /// nothing.
    ///
    /// # Errors
    ///
    /// As [`send_confirmed`](Self::send_confirmed).
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// bus.sender("com.example.alarm")?.retain(b"fire")?;
    /// let mut listener = bus.listener("com.example.alarm")?;
    /// bus.sender("com.example.alarm")?.clear_retained()?;
    /// assert_eq!(bus.retained_value("com.example.alarm")?, None);
    /// assert_eq!(listener.recv()?.payload(), b"fire");
    /// assert!(listener.recv()?.is_cleared());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear_retained(&mut self) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, None, &[], &[])
    }

    /// [`clear_retained`](Self::clear_retained) on another channel.
    ///
    /// # Errors
    ///
    /// As [`clear_retained`](Self::clear_retained) and [`send_to`](Self::send_to).
    pub fn clear_retained_on(&mut self, channel: &str) -> Result<Receipt, SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.retain_bytes(place, None, &[], &[])
    }

    /// Stays connected for `duration`, and connects again whenever the connection ends, so that the next daemon receives at once what this
    /// sender has [retained](Self::retain). Without it, a sender connects again with its next call: this is for programs that retain a value
    /// and then have nothing to send for a long time.
    ///
    /// # Errors
    ///
    /// [`SendError::Connect`] if the daemon is gone and no other was available within the handle's timeout: call again to continue.
    /// [`SendError::NoConfirmation`] if messages travel as notifications.
    ///
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// use std::time::Duration;
    /// use system_broadcaster::testing::Bus;
    ///
    /// let mut bus = Bus::new();
    /// let mut sender = bus.sender("com.example.theme")?;
    /// sender.retain(b"dark")?;
    /// bus.restart();
    /// assert_eq!(bus.options().retained_value("com.example.theme")?, None); // the sender does not know yet
    /// while bus.options().retained_value("com.example.theme")?.is_none() {
    ///     sender.keep_retained(Duration::from_millis(10))?;
    /// }
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_retained(&mut self, duration: Duration) -> Result<(), SendError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let waited = waiter.block_on(Until::after(duration), || machine::attend::<_, SendError>(publisher, path))?;
        attended(&waited)
    }

    fn retain_bytes(
        &mut self,
        place: Place,
        lifetime: Option<Duration>,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<Receipt, SendError> {
        let timeout = self.timeout;
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let confirming = Confirming::retain(place, lifetime_from(lifetime, path), metadata, payload);
        let mut pending = PendingReceipt { publisher, confirming };
        let waited = waiter.block_on_for(timeout, || pending.poll(path))?;
        let receipt = received(waited, &pending.confirming, timeout)?;
        drop(pending);
        retained(receipt, || self.publisher.name(place).clone())
    }

    /// [`retain`](Self::retain) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_async(&mut self, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, None, &[], payload).await
    }

    /// [`retain_for`](Self::retain_for) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_for_async(&mut self, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, Some(lifetime), &[], payload).await
    }

    /// [`retain_with`](Self::retain_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_with_async(
        &mut self,
        metadata: &Metadata,
        payload: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, lifetime, metadata.as_bytes(), payload).await
    }

    /// [`retain_to`](Self::retain_to) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_to_async(&mut self, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.retain_bytes_async(place, None, &[], payload).await
    }

    /// [`clear_retained`](Self::clear_retained) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn clear_retained_async(&mut self) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, None, &[], &[]).await
    }

    /// [`clear_retained_on`](Self::clear_retained_on) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`send_confirmed_async`](Self::send_confirmed_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn clear_retained_on_async(&mut self, channel: &str) -> Result<Receipt, SendError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.retain_bytes_async(place, None, &[], &[]).await
    }

    /// [`keep_retained`](Self::keep_retained) without blocking the thread, and without an end: for a task, or a branch of `select!`.
    ///
    /// # Errors
    ///
    /// As [`keep_retained`](Self::keep_retained). It never returns `Ok`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn keep_retained_async(&mut self) -> Result<Infallible, SendError> {
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        poll_fn(|cx| waiter.poll_on(cx, Until::Forever, || machine::attend::<_, SendError>(publisher, path))).await?;
        Err(SendError::NoConfirmation)
    }

    #[cfg(feature = "tokio")]
    async fn retain_bytes_async(
        &mut self,
        place: Place,
        lifetime: Option<Duration>,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<Receipt, SendError> {
        let until = Until::after_by(Clock::Runtime, self.timeout);
        let Self { publisher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let confirming = Confirming::retain(place, lifetime_from(lifetime, path), metadata, payload);
        let mut pending = PendingReceipt { publisher, confirming };
        let waited = poll_fn(|cx| waiter.poll_on(cx, until, || pending.poll(path))).await?;
        let receipt = received(waited, &pending.confirming, until.duration())?;
        drop(pending);
        retained(receipt, || self.publisher.name(place).clone())
    }
}

/// The lifetime of a message that is sent now.
pub(crate) fn lifetime_from(lifetime: Option<Duration>, path: &Path) -> Lifetime {
    lifetime.map_or_else(Lifetime::default, |lifetime| Lifetime::new(lifetime, path.now()))
}

/// What a call that retains a message returns.
pub(crate) fn retained(receipt: Receipt, channel: impl FnOnce() -> ChannelName) -> Result<Receipt, SendError> {
    match receipt.not_retained {
        None => Ok(receipt),
        Some(reason) => Err(SendError::NotRetained { channel: channel(), reason }),
    }
}

/// What a call that stays connected returns.
pub(crate) fn attended(waited: &Waited<Unattended>) -> Result<(), SendError> {
    match waited {
        Waited::Elapsed | Waited::Closed => Ok(()),
        Waited::Done(Unattended) => Err(SendError::NoConfirmation),
    }
}

/// The place of `channel`, which is known from now on.
pub(crate) fn place_of(publisher: &mut Publisher, channel: &str) -> Result<Place, SendError> {
    match publisher.known(channel) {
        Some(place) => Ok(place),
        None => Ok(publisher.place(&ChannelName::new(channel)?)?),
    }
}

/// A message whose receipt is due. When it is dropped, the publisher keeps what was begun, and forgets the receipt.
struct PendingReceipt<'a> {
    publisher: &'a mut Publisher,
    confirming: Confirming<'a>,
}

impl PendingReceipt<'_> {
    fn poll(&mut self, path: &mut Path) -> Result<machine::Step<Receipted, Wait>, SendError> {
        self.confirming.poll(self.publisher, path)
    }
}

impl Drop for PendingReceipt<'_> {
    fn drop(&mut self) {
        self.confirming.leave(self.publisher);
        self.confirming.forget(self.publisher);
    }
}

/// A wish for the number of listeners, which ends when it is dropped.
struct PendingCount<'a> {
    publisher: &'a mut Publisher,
    ticket: Ticket,
}

impl<'a> PendingCount<'a> {
    fn new(publisher: &'a mut Publisher, minimum: u32) -> Self {
        let ticket = publisher.count_listeners(minimum);
        Self { publisher, ticket }
    }

    fn poll(&mut self, path: &mut Path) -> Result<machine::Step<Counted, Wait>, SendError> {
        machine::count(self.publisher, path, self.ticket)
    }
}

impl Drop for PendingCount<'_> {
    fn drop(&mut self) {
        self.publisher.forget_count(self.ticket);
    }
}

/// What a call that requests a receipt returns.
pub(crate) fn received(
    waited: Waited<Receipted>,
    confirming: &Confirming<'_>,
    after: Duration,
) -> Result<Receipt, SendError> {
    match waited {
        Waited::Done(Receipted::Receipt(receipt)) => Ok(Receipt::from(*receipt)),
        Waited::Done(Receipted::InDoubt(count)) => Err(SendError::InDoubt { count }),
        Waited::Done(Receipted::Declined(declined)) => Err((*declined).into()),
        Waited::Done(Receipted::Unconfirmed) => Err(SendError::NoConfirmation),
        Waited::Elapsed | Waited::Closed if confirming.is_sent() => Err(SendError::Unconfirmed { after }),
        Waited::Elapsed | Waited::Closed if confirming.has_begun() => Err(SendError::Unfinished { after }),
        Waited::Elapsed | Waited::Closed => Err(SendError::TimedOut { after }),
    }
}

/// What a call that counts listeners returns.
pub(crate) fn counted(waited: Waited<Counted>, elapsed: impl FnOnce() -> SendError) -> Result<u32, SendError> {
    match waited {
        Waited::Done(Counted::Listeners(listeners)) => Ok(listeners),
        Waited::Done(Counted::Declined(declined)) => Err((*declined).into()),
        Waited::Done(Counted::Uncounted) => Err(SendError::NoConfirmation),
        Waited::Elapsed | Waited::Closed => Err(elapsed()),
    }
}

/// What a call that confirms returns.
pub(crate) fn confirmed(waited: &Waited<Confirmation>, path: &Path, after: Duration) -> Result<(), SendError> {
    match *waited {
        Waited::Done(Confirmation::Accepted) => Ok(()),
        Waited::Done(Confirmation::InDoubt(_)) if path.carries_messages() => Err(SendError::NoConfirmation),
        Waited::Done(Confirmation::InDoubt(count)) => Err(SendError::InDoubt { count }),
        Waited::Elapsed | Waited::Closed => Err(SendError::Unconfirmed { after }),
    }
}

pub(crate) fn outcome(waited: &Waited<()>, begun: bool, after: Duration) -> Result<(), SendError> {
    match waited {
        Waited::Done(()) => Ok(()),
        Waited::Elapsed | Waited::Closed if begun => Err(SendError::Unfinished { after }),
        Waited::Elapsed | Waited::Closed => Err(SendError::TimedOut { after }),
    }
}

/// Writes what was fed, or written in part, as far as that is possible without waiting. A forked child leaves that to its parent.
impl Drop for Sender {
    fn drop(&mut self) {
        while self.publisher.is_ready() && self.path.is_own() {
            self.publisher.publish();
            if self.publisher.is_written() {
                break;
            }
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
            _ => Until::after_by(Clock::Runtime, self.sender.timeout),
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
