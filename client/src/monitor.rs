//! The observing handle: the messages of many channels as they pass. It never starts a daemon and never counts as a listener.

use crate::ChannelName;
use crate::error::{ConnectError, RecvError};
use crate::machine::{Selector, Subscriber, Subscription};
use crate::message::{Message, MessageRef};
use crate::path::{ConnectConfig, Path, Pending, SocketPath, Until};
use crate::policy::Overflow;
use crate::receiver::{Closer, Receiver};
use crate::select::sealed::Ready;
use std::collections::BTreeSet;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {crate::receiver::Messages, futures_core::Stream, std::future::poll_fn};

/// Observes the messages of the bus as they pass: see [`Daemon::monitor`](crate::Daemon::monitor).
///
/// It receives every message that the daemon accepts on its channels, or a report of the loss at that point in the stream, as a
/// [`Listener`](crate::Listener) does. A slow monitor loses the oldest messages that wait for it. Observing never affects delivery, and a
/// monitor's losses are not the bus's.
///
/// A monitor does not start a daemon, and it reports that the daemon is gone: [`RecvError::Connect`]. Receive again to look for the next
/// one; the first thing that it yields then is a gap for each of its channels.
///
/// It is not `Clone`, for the same reason as a listener.
///
/// ```
/// use system_broadcaster::Options;
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let mut sender = bus.sender("com.example.sync")?;
/// let mut monitor = bus.daemon().monitor(["com.example.sync"])?;
/// sender.send(b"without a listener")?;
/// assert_eq!(monitor.recv()?.payload(), b"without a listener");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a monitor that is dropped observes nothing"]
pub struct Monitor {
    receiver: Receiver,
}

impl Monitor {
    /// An observer of these channels; of all, if there are none.
    pub(crate) fn new(channels: BTreeSet<ChannelName>, config: ConnectConfig) -> Self {
        let selectors = match channels.is_empty() {
            true => vec![Selector::All],
            false => channels.into_iter().map(Selector::Name).collect(),
        };
        let observe =
            |selector| Subscription { selector, overflow: Overflow::DropOldest.into(), observer: true, replay: 0 };
        let subscriptions = selectors.into_iter().map(observe).collect();
        let subscriber = Subscriber::new(subscriptions, config.purpose_or("monitor"), broadcaster_local::pid());
        Self { receiver: Receiver::new(subscriber, Path::Socket(SocketPath::new(config))) }
    }

    pub(crate) fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// How many messages this monitor has lost, as far as they were counted.
    pub fn lost(&self) -> u64 {
        self.receiver.lost()
    }

    /// A handle that ends the receives of this monitor from another thread: see [`Listener::closer`](crate::Listener::closer).
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`] if this process or the system is out of descriptors or, on Windows, of pipes.
    pub fn closer(&mut self) -> Result<Closer, ConnectError> {
        self.receiver.closer()
    }

    /// Waits for the next message. While the daemon is running, this can wait indefinitely.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] where messages were lost. [`RecvError::Connect`] once when the daemon is gone. Receive again to look for the
    /// next one, which fails with [`ConnectError::NotRunning`] as long as there is none.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.receiver.wait(Until::Forever)?;
        self.receiver.message()
    }

    /// Waits for the next message and lends it: nothing is allocated or copied.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
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

    /// The messages as a stream, with gaps and errors in their places. Only a [`Closer`] ends it.
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
}

impl Ready for Monitor {
    fn poll_ready(&mut self) -> Result<Option<Pending>, ConnectError> {
        self.receiver.poll_ready()
    }
}

/// One descriptor for the whole life of the monitor: see [`Listener`](crate::Listener#impl-AsFd-for-Listener).
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl std::os::fd::AsFd for Monitor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
