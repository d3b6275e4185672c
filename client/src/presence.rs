//! The presence handle: which processes listen to a channel. It never receives a message and never counts as a listener.

use crate::error::{ConnectError, RecvError};
use crate::machine::{Link, Presented, Watcher, watch};
use crate::path::{Clock, ConnectConfig, Pending, Polled, SocketPath, Until, Waited, Waiter};
use crate::receiver::{Closer, HANDSHAKE_ALLOWANCE};
use crate::select::sealed::Ready;
use crate::{ChannelName, SenderId};
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    futures_core::Stream,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// A listener of a channel: one connection of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    id: SenderId,
    purpose: String,
}

impl Peer {
    #[cfg(feature = "testing")]
    pub(crate) fn new(id: SenderId, purpose: String) -> Self {
        Self { id, purpose }
    }

    /// Identifies its connection. It changes when the listener connects again.
    pub fn id(&self) -> SenderId {
        self.id
    }

    /// Its process id, as the kernel reports it to the daemon; `None` where it does not.
    pub fn pid(&self) -> Option<u32> {
        self.id.pid()
    }

    /// What it listens for, as it has stated with [`Options::purpose`](crate::Options::purpose).
    pub fn purpose(&self) -> &str {
        &self.purpose
    }
}

/// What a [`Presence`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceEvent {
    /// A listener has joined, or was there when the handle was created.
    Joined(Peer),
    /// A listener has left: it has left the channel, its process has ended, or its connection is lost.
    Left(Peer),
}

impl PresenceEvent {
    /// The listener.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Joined(peer) | Self::Left(peer) => peer,
        }
    }
}

impl From<Presented> for PresenceEvent {
    fn from(Presented { present, listener, purpose }: Presented) -> Self {
        let peer = Peer { id: listener.into(), purpose };
        if present { Self::Joined(peer) } else { Self::Left(peer) }
    }
}

/// Reports which processes listen to a channel, and each that joins or leaves: see [`Options::presence`](crate::Options::presence).
///
/// # Events
///
/// First it yields [`PresenceEvent::Joined`] for each listener that is there when the handle is created. All of them have arrived by then, so
/// that [`try_recv`](Self::try_recv) yields them without waiting, and [`present`](Self::present) lists them. After that it
/// yields each listener that joins or leaves. A process that listens with two handles is two listeners. Patterns count: a listener
/// whose pattern covers the channel is there. Observers, such as [`Monitor`](crate::Monitor), do not count.
///
/// # When the daemon is gone
///
/// The handle finds the next daemon, starting it if allowed, and yields the differences. Listeners connect to the next daemon one
/// after the other: one that is slower than this handle has left, and joins when it is there.
///
/// # A slow handle
///
/// Up to 64 KiB of reports wait in the daemon. A handle that does not receive for longer is disconnected; it connects again with the next
/// receive, and yields the differences. Nothing else is affected.
///
/// # Example
///
/// ```
/// use system_broadcaster::{Options, PresenceEvent, RecvError};
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let listener = bus.clone().purpose("the editor").listener("com.example.sync")?;
///
/// let mut presence = bus.presence("com.example.sync")?;
/// let Some(editor) = presence.present().next() else { panic!("there is a listener") };
/// assert_eq!((editor.pid(), editor.purpose()), (Some(std::process::id()), "the editor"));
/// assert_eq!(presence.recv()?, PresenceEvent::Joined(editor.clone()));
/// assert!(matches!(presence.try_recv(), Err(RecvError::Empty)));
///
/// drop(listener);
/// assert_eq!(presence.recv()?, PresenceEvent::Left(editor));
/// assert_eq!(presence.present().count(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a handle that is dropped reports nothing"]
pub struct Presence {
    watcher: Watcher,
    path: SocketPath,
    waiter: Waiter,
    /// Found by [`select`](crate::select()), and not handed out yet.
    deferred: Option<Result<PresenceEvent, RecvError>>,
}

impl Presence {
    pub(crate) fn new(channel: ChannelName, config: ConnectConfig) -> Self {
        let watcher = Watcher::new(channel, config.purpose_or("presence"), broadcaster_local::pid());
        Self { watcher, path: SocketPath::new(config), waiter: Waiter::default(), deferred: None }
    }

    pub(crate) fn connect(&mut self) -> Result<(), ConnectError> {
        let Self { watcher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        waiter.block_on(Until::Forever, || path.connect(watcher))?;
        Ok(())
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn connect_async(&mut self) -> Result<(), ConnectError> {
        let Self { watcher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        poll_fn(|cx| waiter.poll_on(cx, Until::Forever, || path.connect(watcher))).await?;
        Ok(())
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        self.watcher.channel()
    }

    /// The listeners that are there, as far as the daemon's reports have arrived, in the order of their ids. Only receiving reads
    /// further reports.
    pub fn present(&self) -> impl Iterator<Item = Peer> + '_ {
        self.watcher.present().map(|(id, purpose)| Peer { id: id.into(), purpose: purpose.to_owned() })
    }

    /// A handle that ends the receives of this one from another thread: see [`Listener::closer`](crate::Listener::closer).
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`] if this process or the system is out of descriptors or, on Windows, of pipes.
    pub fn closer(&mut self) -> Result<Closer, ConnectError> {
        Closer::of(&mut self.waiter)
    }

    /// Waits for the next event. While a daemon is available, this can wait indefinitely.
    ///
    /// # Errors
    ///
    /// [`RecvError::Connect`] if the daemon is gone and no other was available within the handle's timeout: receive again to continue.
    /// [`RecvError::Closed`] once a [`Closer`] has closed the handle. Nothing is ever lost, so that there is no [`RecvError::Lagged`].
    pub fn recv(&mut self) -> Result<PresenceEvent, RecvError> {
        self.wait(Until::Forever)
    }

    /// Waits for the next event for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if there was none; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<PresenceEvent, RecvError> {
        self.wait(Until::after(timeout))
    }

    /// The next event, if it has arrived. Does not wait, except for about a millisecond while a handshake is under way.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] if none has arrived; [`RecvError::Connecting`] if there is no connection yet; otherwise as
    /// [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<PresenceEvent, RecvError> {
        self.wait(Until::Now)
    }

    fn wait(&mut self, until: Until) -> Result<PresenceEvent, RecvError> {
        if let Some(found) = self.deferred.take() {
            return found;
        }
        let Self { watcher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        match waiter.block_on(until, || watch(watcher, path))? {
            Waited::Done(presented) => Ok(presented.into()),
            Waited::Closed => Err(RecvError::Closed),
            Waited::Elapsed => self.elapsed(until),
        }
    }

    #[cold]
    fn elapsed(&mut self, until: Until) -> Result<PresenceEvent, RecvError> {
        match until {
            Until::Deadline(_, after) => Err(RecvError::TimedOut { after }),
            Until::Now | Until::Forever if self.path.is_up() => Err(RecvError::Empty),
            Until::Now | Until::Forever if !self.path.is_greeting() => Err(RecvError::Connecting),
            Until::Now | Until::Forever => {
                let Self { watcher, path, waiter, .. } = self;
                match waiter.block_on(Until::after(HANDSHAKE_ALLOWANCE), || path.connect(watcher))? {
                    Waited::Done(_) => self.wait(Until::Now),
                    Waited::Closed => Err(RecvError::Closed),
                    Waited::Elapsed => Err(RecvError::Connecting),
                }
            }
        }
    }

    /// Waits for the next event without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no event is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn recv_async(&mut self) -> Result<PresenceEvent, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    #[cfg(feature = "tokio")]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<PresenceEvent, RecvError>> {
        if let Some(found) = self.deferred.take() {
            return Poll::Ready(found);
        }
        let Self { watcher, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        Poll::Ready(match ready!(waiter.poll_on(cx, Until::Forever, || watch(watcher, path)))? {
            Waited::Done(presented) => Ok(presented.into()),
            Waited::Closed => Err(RecvError::Closed),
            Waited::Elapsed => self.elapsed(Until::Forever),
        })
    }

    /// The events as a stream. Only a [`Closer`] ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream loses no event.
    ///
    /// # Panics
    ///
    /// When it is polled outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn events(&mut self) -> impl Stream<Item = Result<PresenceEvent, RecvError>> + Send + Unpin + '_ {
        Events(self)
    }
}

impl Ready for Presence {
    fn poll_ready(&mut self) -> Result<Option<Pending>, ConnectError> {
        if self.deferred.is_some() {
            return Ok(None);
        }
        let Self { watcher, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let found = match waiter.poll_once(|| watch(watcher, path)) {
            Ok(Polled::Pending(pending)) => return Ok(Some(pending)),
            Ok(Polled::Done(presented)) => Ok(presented.into()),
            Ok(Polled::Closed) => Err(RecvError::Closed),
            Err(error) => Err(RecvError::Connect(error)),
        };
        self.deferred = Some(found);
        Ok(None)
    }
}

#[cfg(feature = "tokio")]
struct Events<'a>(&'a mut Presence);

#[cfg(feature = "tokio")]
impl Stream for Events<'_> {
    type Item = Result<PresenceEvent, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|received| match received {
            Err(RecvError::Closed) => None,
            received => Some(received),
        })
    }
}

/// One descriptor for the whole life of the handle: see [`Listener`](crate::Listener#impl-AsFd-for-Listener).
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl std::os::fd::AsFd for Presence {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}
