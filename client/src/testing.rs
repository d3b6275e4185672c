//! A private bus for tests, and the values that code under test receives.
//!
//! Requires the feature `testing`, which belongs in `[dev-dependencies]`:
//!
//! ```toml
//! [dev-dependencies]
//! system-broadcaster = { version = "0.2", features = ["testing"] }
//! ```
//!
//! A [`Bus`] has a daemon of its own in this process. Tests run in parallel, each with its own bus, and affect neither each other nor the
//! user's bus; environment variables have no influence. Creating and dropping one takes a few milliseconds. Nothing is simulated: the daemon
//! is the one that `broadcasterd` runs, and handles connect to it through a socket.
//!
//! ```
//! use system_broadcaster::testing::Bus;
//!
//! let bus = Bus::new();
//! let mut listener = bus.listener("com.example.sync")?;
//! bus.sender("com.example.sync")?.send(b"hello")?;
//! assert_eq!(listener.recv()?.payload(), b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can go wrong, on request
//!
//! | the program must cope with | call |
//! | --- | --- |
//! | a loss of exactly `n` messages at this point of the stream | [`Bus::lose`] |
//! | a gap without a count | [`Bus::restart`] |
//! | a daemon that stops in an orderly way, and is gone | [`Bus::stop`], [`Bus::start`] |
//! | a daemon that is killed | [`Bus::kill`], [`Bus::start`] |
//! | a daemon that hangs | [`Bus::pause`] |
//!
//! Functions that take a [`Message`], a [`Lag`] or a [`PresenceEvent`](crate::PresenceEvent) need no bus: see [`MessageBuilder`], [`lag`] and
//! [`peer`].
//!
//! To test a program in another process, pass [`Bus::socket`] to it in `BROADCASTER_SOCKET`, and set `BROADCASTER_NO_AUTOSTART=1`.

use crate::error::{ConnectError, Lag};
use crate::message::Retained;
use crate::{
    ChannelName, Lagging, Listener, Message, Metadata, NameError, Options, Peer, Receipt, Selector, Sender, SenderId,
};
use broadcaster_local::without_signals;
use broadcaster_protocol::endpoint::{Candidate, Origin};
use broadcaster_protocol::limits::RECEIPT_LAGGING_MAX;
use broadcaster_server::{Limits, ServerHandle, bind, serve};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A private bus. Its daemon runs on a thread of this process, and ends when this is dropped, as if it was killed; its directory is removed.
///
/// Methods block for a few milliseconds at most, unless they state otherwise, and can be called in a task.
///
/// Methods that end the daemon take `&mut self`, so that a bus that is shared by several tests cannot be ended by one of them. Handles outlive the
/// daemon, as always.
///
/// # Example
///
/// ```
/// use system_broadcaster::RecvError;
/// use system_broadcaster::testing::Bus;
///
/// let bus = Bus::new();
/// let mut listener = bus.listener("com.example.frames")?;
/// let mut sender = bus.sender("com.example.frames")?;
/// sender.send(b"before")?;
/// sender.confirm()?; // the daemon has accepted it
/// bus.lose("com.example.frames", 3);
/// sender.send(b"after")?;
///
/// assert_eq!(listener.recv()?.payload(), b"before");
/// assert!(matches!(listener.recv(), Err(RecvError::Lagged(lag)) if lag.count == Some(3)));
/// assert_eq!(listener.recv()?.payload(), b"after");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a bus that is dropped ends"]
pub struct Bus {
    /// Dropped before its directory.
    host: Option<Host>,
    socket: PathBuf,
    _directory: TempDir,
}

/// The thread of a running daemon.
#[derive(Debug)]
struct Host {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Command {
    Stop,
    Abort,
    Lose { channel: broadcaster_protocol::ChannelName, messages: u32, listeners: mpsc::SyncSender<usize> },
    Pause { paused: mpsc::SyncSender<()>, resumed: mpsc::Receiver<()> },
}

impl Bus {
    /// A running bus.
    ///
    /// # Panics
    ///
    /// If the system allows no temporary directory, socket or thread.
    #[allow(clippy::new_without_default)] // it has effects
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("broadcaster-test-").tempdir();
        let directory = directory.unwrap_or_else(|error| panic!("no directory for a private bus: {error}"));
        let mut bus = Self { host: None, socket: socket_in(directory.path()), _directory: directory };
        bus.start();
        bus
    }

    /// Options for handles on this bus and no other. They never start or host a daemon, so that after [`stop`](Self::stop) connecting fails
    /// with [`ConnectError::NotRunning`].
    pub fn options(&self) -> Options {
        Options::new().socket(&self.socket).autostart(false).embedded(false)
    }

    /// A connected sender on `channel`, with [`options`](Self::options).
    ///
    /// # Errors
    ///
    /// As [`Options::sender`].
    pub fn sender(&self, channel: &str) -> Result<Sender, ConnectError> {
        self.options().sender(channel)
    }

    /// A connected listener on `channel`, with [`options`](Self::options).
    ///
    /// # Errors
    ///
    /// As [`Options::listener`].
    pub fn listener(&self, channel: &str) -> Result<Listener, ConnectError> {
        self.options().listener(channel)
    }

    /// The socket of the bus, for other processes.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the daemon is running. One that [`Daemon::stop`](crate::Daemon::stop) has stopped is not.
    pub fn is_running(&self) -> bool {
        self.host.as_ref().is_some_and(|host| !host.thread.is_finished())
    }

    /// Starts the daemon, if it is not running.
    ///
    /// # Panics
    ///
    /// If the system allows no socket or thread.
    pub fn start(&mut self) {
        if !self.is_running() {
            let host = Host::start(&self.socket);
            self.host = Some(host.unwrap_or_else(|error| panic!("the private bus cannot start: {error}")));
        }
    }

    /// Stops the daemon in an orderly way, as `broadcasterd stop` does: it delivers everything that senders have handed over. What waits for a
    /// listener that does not read is lost after a second.
    pub fn stop(&mut self) {
        self.end(Command::Stop);
    }

    /// Ends the daemon as if it was killed: what it has not delivered is lost. Unlike a killed process it leaves no socket file.
    pub fn kill(&mut self) {
        self.end(Command::Abort);
    }

    /// [`stop`](Self::stop) and [`start`](Self::start): each listener yields a gap without a count, and continues.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    ///
    /// ```
    /// use system_broadcaster::RecvError;
    /// use system_broadcaster::testing::Bus;
    ///
    /// let mut bus = Bus::new();
    /// let mut listener = bus.listener("com.example.sync")?;
    /// let mut sender = bus.sender("com.example.sync")?;
    /// bus.restart();
    /// assert!(matches!(listener.recv(), Err(RecvError::Lagged(lag)) if lag.count.is_none()));
    /// sender.send(b"on the next daemon")?;
    /// assert_eq!(listener.recv()?.payload(), b"on the next daemon");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    fn end(&mut self, command: Command) {
        if let Some(host) = self.host.take() {
            let _ = host.commands.send(command);
            if let Err(panic) = host.thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Lets each listener of the channel lose `count` messages that were never sent, at this point of its stream, and returns how many listeners
    /// there are. The daemon accounts for them as for messages that it accepts and has no memory for: they count as accepted and lost, and
    /// [`RecvError::Lagged`](crate::RecvError::Lagged) reports them behind everything that it accepted before.
    ///
    /// A message that was sent before is certain to be accepted after [`Sender::confirm`].
    ///
    /// # Panics
    ///
    /// If the name is not allowed, or the daemon is not running.
    pub fn lose(&self, channel: &str, count: u32) -> usize {
        let channel = broadcaster_protocol::ChannelName::new(channel).unwrap_or_else(|error| panic!("{error}"));
        let (listeners, answer) = mpsc::sync_channel(1);
        self.command(Command::Lose { channel, messages: count, listeners });
        answer.recv().unwrap_or_else(|_| panic!("the private bus has stopped"))
    }

    /// Lets the daemon hang until the result is dropped: it accepts connections and answers nothing, like a process that was suspended.
    ///
    /// # Panics
    ///
    /// If the daemon is not running.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::testing::Bus;
    ///
    /// let bus = Bus::new();
    /// let mut sender = bus.options().timeout(Duration::from_millis(10)).sender("com.example.sync")?;
    /// let paused = bus.pause();
    /// sender.send(b"in the socket of the daemon")?;
    /// assert!(sender.confirm().is_err_and(|error| error.is_timeout()));
    /// drop(paused);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&self) -> Paused<'_> {
        let (paused, is_paused) = mpsc::sync_channel(1);
        let (resume, resumed) = mpsc::channel();
        self.command(Command::Pause { paused, resumed });
        is_paused.recv().unwrap_or_else(|_| panic!("the private bus has stopped"));
        Paused { bus: self, _resume: resume }
    }

    fn command(&self, command: Command) {
        let sent = self.host.as_ref().map(|host| host.commands.send(command));
        assert!(matches!(sent, Some(Ok(()))), "the private bus has stopped");
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            let _ = host.commands.send(Command::Abort);
            let _ = host.thread.join(); // a panic of the thread is not worth a second one
        }
    }
}

/// A daemon that hangs for as long as this exists: see [`Bus::pause`].
#[must_use = "the daemon continues when this is dropped"]
pub struct Paused<'a> {
    bus: &'a Bus,
    /// Dropping it resumes the daemon.
    _resume: mpsc::Sender<()>,
}

impl fmt::Debug for Paused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paused").field("socket", &self.bus.socket).finish_non_exhaustive()
    }
}

impl Host {
    fn start(socket: &Path) -> io::Result<Self> {
        let candidate = Candidate { socket: socket.to_owned(), origin: Origin::Explicit };
        let bound = bind(&[candidate]).map_err(io::Error::other)?;
        let (commands, received) = unbounded_channel();
        let (serving, is_serving) = mpsc::sync_channel(1);
        let run = move || {
            let report = serving.clone();
            let served = serve(bound, Limits::default(), env!("CARGO_PKG_VERSION"), move |server| {
                let _ = report.send(Ok(()));
                attend(server, received)
            });
            if let Err(error) = served {
                let _ = serving.try_send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("broadcaster-test".to_owned());
        let thread = without_signals(|| thread.spawn(run))?;
        match is_serving.recv() {
            Ok(serving) => serving.map(|()| Self { commands, thread }),
            Err(mpsc::RecvError) => Err(io::Error::other("its thread ended before it served")),
        }
    }
}

/// Carries commands out, until one of them is to stop.
async fn attend(server: ServerHandle, mut commands: UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Stop => return,
            Command::Abort => server.abort(),
            Command::Lose { channel, messages, listeners } => {
                let _ = listeners.send(server.lose(&channel, messages));
            }
            // It blocks the thread of the daemon, and so the daemon.
            Command::Pause { paused, resumed } => {
                let _ = paused.send(());
                let _ = resumed.recv();
            }
        }
    }
}

/// A path for the socket: in the directory or, on Windows, a pipe that is named after it.
fn socket_in(directory: &Path) -> PathBuf {
    match directory.file_name() {
        Some(name) if cfg!(windows) => Path::new(r"\\.\pipe").join(name),
        _ => directory.join("bus.sock"),
    }
}

/// Creates a [`Message`] as a listener receives it.
///
/// Unless set, the payload is empty, there is no metadata, the sender is unknown and the sequence number is 0.
///
/// ```
/// use system_broadcaster::Message;
/// use system_broadcaster::testing::MessageBuilder;
///
/// fn describe(message: &Message) -> String {
///     format!("{} bytes from {:?}", message.payload().len(), message.sender_pid())
/// }
///
/// let message = MessageBuilder::new("com.example.sync")?.payload(b"hello").sender(1234, 7).build();
/// assert_eq!(describe(&message), "5 bytes from Some(1234)");
/// # Ok::<(), system_broadcaster::NameError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct MessageBuilder {
    channel: ChannelName,
    sender: SenderId,
    sequence: u64,
    metadata: Bytes,
    payload: Bytes,
    retained: Retained,
}

impl MessageBuilder {
    /// A message on `channel`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the name is not allowed.
    pub fn new(channel: &str) -> Result<Self, NameError> {
        let (channel, sender) = (ChannelName::new(channel)?, sender_id(0, 0));
        Ok(Self { channel, sender, sequence: 0, metadata: Bytes::new(), payload: Bytes::new(), retained: Retained::No })
    }

    /// With this payload.
    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = Bytes::copy_from_slice(payload.as_ref());
        self
    }

    /// With this metadata.
    pub fn metadata(mut self, metadata: &Metadata) -> Self {
        self.metadata = Bytes::copy_from_slice(metadata.as_bytes());
        self
    }

    /// From the sender `number` of the process `pid`; 0 for a process that is not known.
    pub fn sender(mut self, pid: u32, number: u32) -> Self {
        self.sender = sender_id(pid, number);
        self
    }

    /// With this sequence number.
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// As a message that was retained before the listener joined: see [`Message::is_replayed`].
    pub fn replayed(mut self) -> Self {
        self.retained = Retained::Replayed;
        self
    }

    /// As a message that clears what the daemon retained, with an empty payload: see [`Message::is_cleared`].
    pub fn cleared(mut self) -> Self {
        (self.retained, self.payload) = (Retained::Yes, Bytes::new());
        self
    }

    /// With `value` as its payload, and the mark of its type, as a [`TypedSender`](crate::typed::TypedSender) sends it. It replaces metadata
    /// that was set before.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`](crate::typed::TypedSendError::Encode) if the codec cannot represent the value.
    #[cfg(feature = "serde")]
    pub fn value<T, C>(self, value: &T) -> Result<Self, crate::typed::TypedSendError>
    where
        T: crate::typed::Schema + serde::Serialize,
        C: crate::typed::Codec,
    {
        let (metadata, payload) = crate::typed::encode::<T, C>(value)?;
        Ok(self.metadata(&metadata).payload(payload))
    }

    /// The message.
    pub fn build(self) -> Message {
        let Self { channel, sender, sequence, metadata, payload, retained } = self;
        Message::new((channel, sender, sequence), metadata, payload, retained)
    }
}

/// A [`Lag`] as a listener reports it: of `count` messages on a channel, or of an unknown number on the channels of a pattern.
///
/// ```
/// use system_broadcaster::ChannelName;
/// use system_broadcaster::testing::lag;
///
/// let lag = lag(ChannelName::new("com.example.sync")?, Some(3));
/// assert_eq!(lag.to_string(), r#"3 messages were lost on channel "com.example.sync""#);
/// # Ok::<(), system_broadcaster::NameError>(())
/// ```
pub fn lag(on: impl Into<Selector>, count: Option<u64>) -> Lag {
    match on.into() {
        Selector::Name(channel) => Lag { channel: Some(channel), pattern: None, count },
        Selector::Pattern(pattern) => Lag { channel: None, pattern: Some(pattern), count },
    }
}

/// The receipt of a message that `listeners` listeners took, of which these lag. Change its fields for another one.
///
/// ```
/// use system_broadcaster::testing::{lagging, receipt, sender_id};
///
/// let mut receipt = receipt(3, [lagging(sender_id(1234, 1), 2, 100), lagging(sender_id(1235, 1), 5, 4000)]);
/// receipt.took = 2;
/// assert_eq!((receipt.listeners, receipt.took, receipt.lagging), (3, 2, 2));
/// assert_eq!(receipt.worst[0].pid(), Some(1235)); // the one that lags most
/// ```
pub fn receipt(listeners: u32, lagging: impl IntoIterator<Item = Lagging>) -> Receipt {
    let mut worst: Vec<_> = lagging.into_iter().collect();
    worst.sort_by_key(|lagging| std::cmp::Reverse(lagging.bytes));
    let lagging = u32::try_from(worst.len()).unwrap_or(u32::MAX);
    worst.truncate(RECEIPT_LAGGING_MAX);
    Receipt { listeners, took: listeners, lagging, worst, not_retained: None }
}

/// A listener of a [`receipt`], for which so many messages wait, whose frames have so many bytes.
pub fn lagging(listener: SenderId, messages: u64, bytes: u64) -> Lagging {
    Lagging { listener, messages, bytes }
}

/// A listener as a [`PresenceEvent`](crate::PresenceEvent) names it, with its purpose.
///
/// ```
/// use system_broadcaster::PresenceEvent;
/// use system_broadcaster::testing::{peer, sender_id};
///
/// let event = PresenceEvent::Joined(peer(sender_id(1234, 1), "editor"));
/// assert_eq!((event.peer().pid(), event.peer().purpose()), (Some(1234), "editor"));
/// ```
pub fn peer(id: SenderId, purpose: &str) -> Peer {
    Peer::new(id, purpose.to_owned())
}

/// The sender `number` of the process `pid`; 0 for a process that is not known.
pub fn sender_id(pid: u32, number: u32) -> SenderId {
    broadcaster_protocol::SenderId::new(pid, number).into()
}
