//! The listening handle. Each handle has a connection of its own, so that one that is not read never delays another.

use crate::Selector;
use crate::capabilities::Capabilities;
use crate::error::{ConnectError, RecvError, ReplyError, SubscribeError};
use crate::machine::{self, Subscriber, Subscription};
use crate::message::{Message, MessageRef, ReplyTo};
use crate::metadata::Metadata;
use crate::options::Options;
use crate::path::{ConnectConfig, Path, Pending, Until};
use crate::policy::Overflow;
use crate::receiver::{Closer, Receiver};
use crate::select::sealed::Ready;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    crate::receiver::{Messages, Payloads},
    futures_core::Stream,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll},
};

/// Receives every message that any process of this user sends on a channel, or on [many](Options::listener_on).
///
/// # Delivery
///
/// From the moment it is created, the listener receives every message that the daemon accepts on the channel, in order for each sender
/// and without duplicates. Where messages were lost, it receives a report with the exact count at that point in the stream:
/// `received + lost = accepted`.
///
/// # Retained messages
///
/// If the daemon [retains](crate::Sender::retain) a message of the channel, the listener receives that first, with
/// [`Message::is_replayed`](crate::Message::is_replayed), and then what is sent from now on: without a gap in between, and nothing twice.
/// [`Options::replay`] changes how many there can be. After a reconnection, only those are replayed that it has not received before. Replayed
/// messages come in addition to those in the sum above.
///
/// # Lagging
///
/// Up to 4 MiB wait in the daemon for a listener that does not keep up, in addition to what is in its socket. Beyond that the oldest
/// messages are dropped (or what [`Options::overflow`] chooses), and the next receive at that point yields [`RecvError::Lagged`]. The
/// listener continues: receive again. No sender and no other listener is affected.
///
/// # When the daemon is gone
///
/// The listener finds the next daemon, starting it if allowed, joins its channels again and yields one [`RecvError::Lagged`] without a
/// count for each of its selectors: messages that were sent in between are lost, and the daemon that could count them is gone. While no daemon is available,
/// receives fail with [`RecvError::Connect`]; the listener pauses for up to 250 ms before each further attempt, within the timeout of the
/// call.
///
/// # Threads and tasks
///
/// A listener is `Send`, `Sync`, `Unpin` and `'static`. It is not `Clone`: two listeners each receive every message, so a clone would be
/// a second subscription with a position of its own. Create another one instead.
///
/// # Example
///
/// ```
/// use system_broadcaster::Options;
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let mut listener = bus.listener("com.example.sync")?;
/// bus.sender("com.example.sync")?.send(b"hello")?;
/// let message = listener.recv()?;
/// assert_eq!(message.payload(), b"hello");
/// assert_eq!(message.sender_pid(), Some(std::process::id()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a listener that is dropped receives nothing"]
pub struct Listener {
    receiver: Receiver,
    overflow: Overflow,
    replay: u32,
}

impl Listener {
    /// A listener on `channel` of this user's bus, which is started if necessary.
    ///
    /// Blocks, for a few milliseconds unless the system is in trouble, and for at most 5 s. In async code use
    /// [`create_async`](Self::create_async).
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within 5 s.
    pub fn create(channel: &str) -> Result<Self, ConnectError> {
        Options::new().listener(channel)
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
        Options::new().listener_async(channel).await
    }

    pub(crate) fn new(
        selectors: impl IntoIterator<Item = Selector>,
        overflow: Overflow,
        replay: u32,
        config: ConnectConfig,
    ) -> Result<Self, ConnectError> {
        let mut distinct = Vec::new();
        for selector in selectors {
            if !distinct.contains(&selector) {
                distinct.push(selector);
            }
        }
        let subscriptions = distinct.iter().cloned().map(|selector| subscription(selector, overflow, replay)).collect();
        let subscriber = Subscriber::new(subscriptions, config.purpose_or("listener"), broadcaster_local::pid());
        let path = Path::of_listener(config, &distinct)?;
        Ok(Self { receiver: Receiver::new(subscriber, path), overflow, replay })
    }

    pub(crate) fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// What the path can do at present. It changes only for a handle with [`Options::fallback`].
    pub fn capabilities(&self) -> Capabilities {
        self.receiver.path().capabilities()
    }

    /// What it listens to, in the order in which that was requested.
    pub fn selectors(&self) -> impl Iterator<Item = Selector> + '_ {
        self.receiver.selectors().filter_map(|selector| match selector {
            machine::Selector::Name(name) => Some(Selector::Name(name.clone())),
            machine::Selector::Pattern(pattern) => Some(Selector::Pattern(pattern.clone())),
            machine::Selector::All => None,
        })
    }

    /// Joins a channel, or all channels that a pattern covers, over the same connection. When this returns, every message that the daemon
    /// accepts from now on is received, or reported as lost. Without effect if the listener has joined already. What the daemon
    /// [retains](crate::Sender::retain) of the channels is received first, except for those that another selector covers already.
    ///
    /// It waits for the daemon's answer, for at most the handle's timeout. Messages that arrive before the answer are kept, in order, for
    /// the next receives. After a reconnection the listener joins again, as it does for those that it was created with.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Declined`] if the daemon has too many channels, or this listener too many selectors: the listener is as it
    /// was. After [`SubscribeError::TimedOut`] the request stands, and may take effect later: see the errors.
    ///
    /// ```
    /// use system_broadcaster::{Options, Selector};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.sync")?;
    /// let log = Selector::name("com.example.log")?;
    /// listener.subscribe(&log)?;
    /// bus.sender("com.example.log")?.send(b"hello")?;
    /// assert_eq!(listener.recv()?.channel().as_str(), "com.example.log");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&mut self, selector: impl Into<Selector>) -> Result<(), SubscribeError> {
        self.receiver.subscribe(subscription(selector.into(), self.overflow, self.replay))
    }

    /// [`subscribe`](Self::subscribe) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the request stands, as after a timeout. No message is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn subscribe_async(&mut self, selector: impl Into<Selector>) -> Result<(), SubscribeError> {
        self.receiver.subscribe_async(subscription(selector.into(), self.overflow, self.replay)).await
    }

    /// Leaves what [`subscribe`](Self::subscribe), or the creation of the listener, has joined with this selector. Without effect if there
    /// is no such selector.
    ///
    /// It waits for the daemon's answer, for at most the handle's timeout. Messages that the daemon has accepted before it left are still
    /// received: for them, too, `received + lost = accepted`. Messages that another selector covers are received as before.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]. After [`SubscribeError::TimedOut`] the request stands, and takes effect later.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::{Options, Selector};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let (sync, log) = (Selector::name("com.example.sync")?, Selector::name("com.example.log")?);
    /// let mut listener = bus.listener_on([&sync, &log])?;
    /// listener.unsubscribe(&log)?;
    /// assert!(listener.selectors().eq([sync]));
    /// bus.sender("com.example.log")?.send(b"hello")?;
    /// assert!(listener.recv_timeout(Duration::from_millis(1)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsubscribe(&mut self, selector: &Selector) -> Result<(), SubscribeError> {
        self.receiver.unsubscribe(&selector.clone().into())
    }

    /// [`unsubscribe`](Self::unsubscribe) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the request stands, as after a timeout. No message is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn unsubscribe_async(&mut self, selector: &Selector) -> Result<(), SubscribeError> {
        self.receiver.unsubscribe_async(&selector.clone().into()).await
    }

    /// How many messages this listener has lost, as far as they were counted.
    pub fn lost(&self) -> u64 {
        self.receiver.lost()
    }

    /// How many times an unknown number of messages may have been lost: the daemon was replaced, or notifications left something out.
    pub fn gaps(&self) -> u64 {
        self.receiver.gaps()
    }

    /// A handle that ends the receives of this listener from another thread.
    ///
    /// With a closer, a blocking receive costs one more system call each time that it waits.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`] if this process or the system is out of descriptors or, on Windows, of pipes.
    ///
    /// ```
    /// use system_broadcaster::{Options, RecvError};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.sync")?;
    /// let closer = listener.closer()?;
    /// let waiting = std::thread::spawn(move || listener.recv());
    /// closer.close();
    /// assert!(matches!(waiting.join(), Ok(Err(RecvError::Closed))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn closer(&mut self) -> Result<Closer, ConnectError> {
        self.receiver.closer()
    }

    /// Waits for the next message. While a daemon is available, this can wait indefinitely.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] where messages were lost. [`RecvError::Connect`] if the daemon is gone and no other was available within the
    /// handle's timeout. In both cases, receive again to continue. [`RecvError::Closed`] once a [`Closer`] has closed the handle.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.receiver.wait(Until::Forever)?;
        self.receiver.message()
    }

    /// Waits for the next message and lends it: nothing is allocated or copied. For loops over many small messages.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn recv_ref(&mut self) -> Result<MessageRef<'_>, RecvError> {
        self.receiver.wait(Until::Forever)?;
        self.receiver.message_ref()
    }

    /// Waits for the next message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if none arrived; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message, RecvError> {
        self.receiver.wait(Until::after(timeout))?;
        self.receiver.message()
    }

    /// [`recv_ref`](Self::recv_ref) for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_ref_timeout(&mut self, timeout: Duration) -> Result<MessageRef<'_>, RecvError> {
        self.receiver.wait(Until::after(timeout))?;
        self.receiver.message_ref()
    }

    /// The next message, if it has arrived. Does not wait, except for about a millisecond while a handshake is under way.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] if no message has arrived; [`RecvError::Connecting`] if there is no connection yet; otherwise as
    /// [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Message, RecvError> {
        self.receiver.wait(Until::Now)?;
        self.receiver.message()
    }

    /// [`try_recv`](Self::try_recv), lending the message.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_ref(&mut self) -> Result<MessageRef<'_>, RecvError> {
        self.receiver.wait(Until::Now)?;
        self.receiver.message_ref()
    }

    /// Waits for the next message and appends it to `messages`, together with those behind it that have arrived, at most `max`. Returns
    /// how many were appended: at least one, unless `max` is 0. A gap behind a message is reported by the next receive.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv); nothing was appended.
    pub fn recv_many(&mut self, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.receiver.recv_many(messages, max)
    }

    /// Replies to a message whose sender [requests](crate::Sender::request) replies: over this listener's own connection, to the requester
    /// alone. `to` is the message, or its [`ReplyTo`], which can be kept to reply later.
    ///
    /// `Ok` means that the reply was handed to the daemon. A requester that no longer waits, or is gone, drops it without a trace. A
    /// listener may reply several times, or not at all.
    ///
    /// Waits only for the daemon, for at most the handle's timeout, and never for the requester.
    ///
    /// # Errors
    ///
    /// [`ReplyError::NotRequested`] for an ordinary message. [`ReplyError::Gone`] if the connection is gone through which it came. The reply
    /// was not sent, unless the error is [`ReplyError::Unfinished`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::{Options, ReplyError};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.double")?;
    /// let mut sender = bus.sender("com.example.double")?;
    /// let requester = std::thread::spawn(move || sender.request_one(b"21", Duration::from_secs(5)));
    /// let message = listener.recv()?;
    /// let number: u32 = std::str::from_utf8(message.payload())?.parse()?;
    /// listener.reply(&message, (2 * number).to_string().as_bytes())?;
    /// assert_eq!(requester.join().expect("it does not panic")?.payload(), b"42");
    ///
    /// bus.sender("com.example.double")?.send(b"1")?;
    /// let message = listener.recv()?;
    /// assert!(matches!(listener.reply(&message, b"2"), Err(ReplyError::NotRequested)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reply(&mut self, to: impl Into<Option<ReplyTo>>, payload: &[u8]) -> Result<(), ReplyError> {
        self.receiver.reply(to.into(), &Metadata::new(), payload)
    }

    /// [`reply`](Self::reply) with metadata, which the requester reads from [`Reply::metadata`](crate::Reply::metadata).
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    pub fn reply_with(
        &mut self,
        to: impl Into<Option<ReplyTo>>,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        self.receiver.reply(to.into(), metadata, payload)
    }

    /// [`reply`](Self::reply) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the reply is either not sent at all, or begun: then the handle keeps the rest, and
    /// sends it during the next receives and replies.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn reply_async(&mut self, to: impl Into<Option<ReplyTo>>, payload: &[u8]) -> Result<(), ReplyError> {
        self.receiver.reply_async(to.into(), &Metadata::new(), payload).await
    }

    /// [`reply_with`](Self::reply_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    ///
    /// # Cancel safety
    ///
    /// As [`reply_async`](Self::reply_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn reply_with_async(
        &mut self,
        to: impl Into<Option<ReplyTo>>,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        self.receiver.reply_async(to.into(), metadata, payload).await
    }

    /// Waits for the next message without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no message is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn recv_async(&mut self) -> Result<Message, RecvError> {
        poll_fn(|cx| self.receiver.poll_recv(cx)).await
    }

    /// [`recv_many`](Self::recv_many) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv); nothing was appended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no message is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn recv_many_async(&mut self, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.receiver.recv_many_async(messages, max).await
    }

    /// The messages as a blocking iterator, with gaps in their places. Only a [`Closer`] ends it.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<Message, RecvError>> + '_ {
        std::iter::from_fn(|| Receiver::item(self.recv()))
    }

    /// The messages as a stream, with gaps in their places. Only a [`Closer`] ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream loses no message.
    ///
    /// # Panics
    ///
    /// When it is polled outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn messages(&mut self) -> impl Stream<Item = Result<Message, RecvError>> + Send + Unpin + '_ {
        Messages(&mut self.receiver)
    }

    /// The payloads as a stream, for programs that do not need to know who sent them and what was lost. [`lost`](Self::lost) and
    /// [`gaps`](Self::gaps) still count the latter. It ends with the first [`RecvError::Connect`], when no daemon was available within the
    /// handle's timeout, or with a [`Closer`]. Call `listen` again to continue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream loses no message.
    ///
    /// # Panics
    ///
    /// When it is polled outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn listen(&mut self) -> impl Stream<Item = Vec<u8>> + Send + Unpin + '_ {
        Payloads(&mut self.receiver)
    }

    /// The listener as a stream that owns it, for tasks and for combinators that need `'static`.
    #[cfg(feature = "tokio")]
    pub fn into_stream(self) -> ListenerStream {
        ListenerStream { listener: self }
    }
}

fn subscription(selector: Selector, overflow: Overflow, replay: u32) -> Subscription {
    Subscription { selector: selector.into(), overflow: overflow.into(), observer: false, replay }
}

impl Ready for Listener {
    fn poll_ready(&mut self) -> Result<Option<Pending>, ConnectError> {
        self.receiver.poll_ready()
    }
}

/// One descriptor for the whole life of the listener, across restarts of the daemon. It is readable whenever
/// [`try_recv`](Listener::try_recv) is worth calling, also in order to connect again. It must not be read from.
///
/// It is created by the first call. A level-triggered event loop can take one message each time it is readable. An edge-triggered one
/// calls `try_recv` until it returns [`RecvError::Empty`] or [`RecvError::Connecting`]. The example `event_loop` uses `mio`.
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// The messages of a [`Listener`] as a stream that owns it, with gaps in their places. Only a [`Closer`] ends it.
///
/// # Panics
///
/// When it is polled outside a tokio runtime with I/O and time enabled.
#[cfg(feature = "tokio")]
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct ListenerStream {
    listener: Listener,
}

#[cfg(feature = "tokio")]
impl ListenerStream {
    /// The listener. No message is lost.
    pub fn into_inner(self) -> Listener {
        self.listener
    }
}

#[cfg(feature = "tokio")]
impl Stream for ListenerStream {
    type Item = Result<Message, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.receiver.poll_recv(cx).map(Receiver::item)
    }
}
