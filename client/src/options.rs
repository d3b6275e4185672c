//! How a handle connects. Where the bus is and which program starts the daemon is read from the environment for each attempt.

use crate::ChannelName;
use crate::daemon::Daemon;
use crate::error::{ConnectError, RecvError};
use crate::path::ConnectConfig;
use crate::path::notifications::{Dialect, service};
use crate::policy::{Candidate, Fallback, Overflow, SharedMemory};
use crate::retained::{ValueReader, is_limit};
use crate::{Listener, Message, Presence, Selector, Sender};
use std::path::PathBuf;
use std::time::Duration;

/// How long a connection may take, and how long a send may wait, unless a handle has its own timeout (5 s).
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The longest history of a channel, in messages: see [`Options::history`] and [`Options::replay`].
pub const HISTORY_MAX: u32 = 1024;

/// Set to a non-empty value other than `0`, this variable keeps the library from starting or hosting a daemon.
pub const NO_AUTOSTART_VARIABLE: &str = "BROADCASTER_NO_AUTOSTART";

/// Set to `0`, this variable keeps the library from using shared memory: see [`Options::shared_memory`]. Any other value except `1` and an
/// empty one is an error of every connection, [`ConnectError::SharedMemory`].
pub const SHARED_MEMORY_VARIABLE: &str = "BROADCASTER_SHARED_MEMORY";

/// How a [`Sender`], a [`Listener`] or a [`Daemon`] connects. Cloning copies the options.
///
/// ```no_run
/// use std::time::Duration;
/// use system_broadcaster::{Options, Overflow};
///
/// let options = Options::new().timeout(Duration::from_millis(200)).embedded(false);
/// let mut sender = options.sender("com.example.sync")?;
/// let mut listener = options.overflow(Overflow::Latest).listener("com.example.sync")?;
/// # Ok::<(), system_broadcaster::ConnectError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    config: ConnectConfig,
    overflow: Overflow,
    backpressure: Duration,
    history: u32,
    replay: u32,
    shared_memory: SharedMemory,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// What [`Sender::create`] and [`Listener::create`] use: the user's bus, started if necessary.
    pub fn new() -> Self {
        let off = std::env::var_os(NO_AUTOSTART_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
        let config = ConnectConfig {
            socket: None,
            program: None,
            purpose: None,
            timeout: TIMEOUT_DEFAULT,
            autostart: !off,
            embedded: !off,
            activate: true,
            reconnect: true,
            notifications: None,
        };
        Self {
            config,
            overflow: Overflow::default(),
            backpressure: Duration::ZERO,
            history: 0,
            replay: 1,
            shared_memory: SharedMemory::default(),
        }
    }

    /// Uses the bus at this socket and no other: an absolute path of at most 107 bytes (103 on macOS and the BSDs), on Windows a pipe
    /// `\\.\pipe\NAME`. This overrides the variable `BROADCASTER_SOCKET`, which does the same.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.socket = Some(path.into());
        self
    }

    /// Starts this program if a daemon is needed, rather than the one in `BROADCASTERD`, beside the running program or in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.program = Some(path.into());
        self
    }

    /// How long a connection may take in total, and how long a send may wait: [`TIMEOUT_DEFAULT`] unless set. With zero nothing waits, so
    /// that a handshake, which takes a few exchanges, rarely succeeds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// What the handle is for, as `broadcasterd peers` shows it; at most 64 bytes are kept.
    #[must_use]
    pub fn purpose(mut self, purpose: &str) -> Self {
        self.config.purpose = Some(purpose.to_owned());
        self
    }

    /// Whether a daemon may be started if none answers. On, unless `BROADCASTER_NO_AUTOSTART` is set. A service manager that listens on
    /// the socket starts one in any case: that is the user's own setting.
    ///
    /// A program beside the running one or in `PATH` is used only if it and its directory belong to this user or root and are writable by
    /// neither group nor others.
    #[must_use]
    pub fn autostart(mut self, autostart: bool) -> Self {
        self.config.autostart = autostart;
        self
    }

    /// Whether this process may host the broker, on one background thread, if no daemon answers and none can be started. On, unless
    /// `BROADCASTER_NO_AUTOSTART` is set; without the crate's feature `embedded` it is always off.
    ///
    /// The host thread ends with the process, or after a minute without connections. What was sent and not delivered when the process ends
    /// is lost, as when a daemon is killed. A forked child takes no part in hosting: its copies of the locks and the sockets are closed
    /// before `fork` returns.
    ///
    /// A host uses up to half of the process's descriptors: 348 connections with the usual limit of 1024, 1500 with 4096. A connection
    /// takes one descriptor, and a second one while its client does not read. Further handles are refused
    /// ([`RefusalCode::Connections`](crate::RefusalCode::Connections)); a later receive or send of theirs succeeds when there is room again.
    /// A program can raise its limit before it creates its first handle. The library never does, because children inherit the limit, and
    /// code that uses `select` fails with descriptors above 1023. An installed `broadcasterd` raises its own, for 4096 connections.
    #[must_use]
    pub fn embedded(mut self, embedded: bool) -> Self {
        self.config.embedded = embedded;
        self
    }

    /// What takes the daemon's place if none can be reached or started: [`Fallback::None`] unless set.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.config.notifications = match fallback {
            Fallback::None => None,
            Fallback::Notifications => service(Dialect::Current),
            Fallback::CompatibleWith0_1 => service(Dialect::V01),
        };
        self
    }

    #[cfg(all(test, unix))]
    pub(crate) fn with_service(mut self, service: service::Service) -> Self {
        self.config.notifications = Some(service);
        self
    }

    /// What happens to a listener that does not keep up: [`Overflow::DropOldest`] unless set. Only for listeners.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Lets listeners slow a sender down, so that they lose nothing of what it sends: each listener that is behind may delay it for this
    /// long. Zero, the default: a sender never waits for a listener. Only for senders.
    ///
    /// A send, or a flush, then waits as long as a listener of its channel is behind: blocking or async, while
    /// [`Sender::try_send`](crate::Sender::try_send) returns [`SendError::Full`](crate::SendError::Full). It gives up after the
    /// [timeout](Self::timeout) and this duration together. A listener that has been behind for this long without a break is left behind: it
    /// loses messages, is informed as usual, and delays no sender again until it has caught up. All that are behind are left behind at the
    /// same time, so that the delay is not added up.
    ///
    /// A sender with backpressure uses [shared memory](Self::shared_memory) when its channel is busy.
    ///
    /// Only listeners with [`Overflow::DropOldest`] count. Listeners with another policy, and observers, never slow a sender. Other senders,
    /// and other channels of the same sender, are not affected. Messages can still be lost if the daemon dies
    /// ([`Sender::confirm`](crate::Sender::confirm)) or runs out of memory, or if senders without backpressure send to the same listener.
    ///
    /// The daemon counts milliseconds: a part of one is rounded up, and a duration of more than `u32::MAX` of them (49 days) is that long.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.log")?;
    /// let mut sender = bus.backpressure(Duration::from_secs(60)).sender("com.example.log")?;
    /// let sending = std::thread::spawn(move || (0..20_000).try_for_each(|_| sender.send(&[0; 1000])));
    /// for sequence in 0..20_000 {
    ///     assert_eq!(listener.recv()?.sequence(), sequence); // 20 MB, and nothing is lost
    /// }
    /// sending.join().expect("it does not panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn backpressure(mut self, longest: Duration) -> Self {
        self.backpressure = longest;
        self
    }

    /// Lets the daemon retain every message that a sender sends, so that later listeners receive the last `messages` of each channel
    /// ([`replay`](Self::replay)): at most [`HISTORY_MAX`], and a higher number is that. 0 turns it off, as it is unless set. Only for senders.
    ///
    /// A channel has one history, of all its senders; each message shortens it to the number that its own sender has set. Messages without
    /// a payload, and requests, are sent as usual and not retained. A [lifetime](Sender::retain_for) ends for each message on its own.
    ///
    /// A send does not wait to learn whether the daemon retains the message: [`Receipt::not_retained`](crate::Receipt::not_retained) of
    /// [`Sender::send_confirmed`] shows it. Small messages that are [fed](Sender::feed) take a frame of their own each, and the sender copies each
    /// message for the daemon that may come after this one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.clone().history(3).sender("com.example.log")?;
    /// for line in ["one", "two", "three", "four"] {
    ///     sender.send(line.as_bytes())?;
    /// }
    /// sender.confirm()?;
    /// let mut late = bus.replay(10).listener("com.example.log")?;
    /// sender.send(b"five")?;
    /// for (line, is_replayed) in [("two", true), ("three", true), ("four", true), ("five", false)] {
    ///     let message = late.recv()?;
    ///     assert_eq!((message.payload(), message.is_replayed()), (line.as_bytes(), is_replayed));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn history(mut self, messages: u32) -> Self {
        self.history = messages.min(HISTORY_MAX);
        self
    }

    /// How many messages that the daemon [retains](Sender::retain) of each channel a listener receives first: 1 unless set, which is the
    /// channel's value; 0 for none; at most [`HISTORY_MAX`], and a higher number is that. Only for listeners.
    ///
    /// The listener remembers sender and sequence number of so many retained messages of each channel, in order not to yield any of them again
    /// after a reconnection.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// bus.sender("com.example.theme")?.retain(b"dark")?;
    /// let mut listener = bus.listener("com.example.theme")?;
    /// assert!(listener.recv()?.is_replayed());
    /// let mut only_changes = bus.replay(0).listener("com.example.theme")?;
    /// assert!(only_changes.recv_timeout(Duration::from_millis(10)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn replay(mut self, messages: u32) -> Self {
        self.replay = messages.min(HISTORY_MAX);
        self
    }

    /// Whether a sender may send through memory that it shares with listeners, instead of the daemon's socket: [`SharedMemory::Auto`]
    /// unless set, for busy channels of senders with [`backpressure`](Self::backpressure). Only for senders.
    ///
    /// A channel then has a ring of 4 MiB. Listeners with [`Overflow::DropOldest`] that subscribe to the channel by its name read the ring
    /// themselves, without the daemon. The daemon reads it for all other listeners. A send makes no system call, except to wake
    /// those that sleep. Order, sequence numbers and reports of lost messages are the same as over the socket.
    ///
    /// # What differs
    ///
    /// - `Ok` means that the message is in the ring. If the daemon is killed, the listeners that read the ring receive all of it, and the
    ///   others do not: [`Sender::confirm`] counts as in doubt everything in the ring that was not confirmed before. A sender without such
    ///   listeners notices that its daemon is gone after at most 1024 more messages.
    /// - If the daemon stops, what is in the ring is delivered. What the sender puts into it before it notices that is in doubt.
    /// - Messages of one sender on different channels have no common order.
    /// - A listener that is more than 4 MiB behind loses the oldest messages. Each message takes 16 bytes of the ring besides its own, and a small one
    ///   that is [fed](Sender::feed) with others 4.
    ///
    /// # Without a daemon
    ///
    /// When the daemon is killed, the sender and the listeners that read its ring go on with each other, while each of them looks for the next
    /// daemon in its own calls. A message waits for the next daemon as well, which may have other listeners, so that
    /// [`Sender::flush`] and [`Sender::confirm`] wait for it. A send that returns `Ok` meanwhile has reached the ring, as always. When 1 MiB
    /// waits, or if a listener of the channel did not read the ring, sends wait for the next daemon as they do without shared memory.
    ///
    /// When the listeners have found the next daemon, the ring ends, and a new one may begin. What a listener received from the ring, it does not
    /// receive again. It reports one gap all the same: it cannot know what other senders have lost. A message that requests replies or a receipt, or is
    /// to be retained, waits for the next daemon.
    ///
    /// - Each send makes a step towards the next daemon. What the last ones have put into the ring reaches other listeners with
    ///   [`Sender::flush`] or [`Sender::confirm`]; a sender that is dropped before keeps it from them.
    /// - A receive that finds no daemon in time, and nothing in the ring, returns the error. The next one reads on.
    /// - What listeners have received without a daemon, they receive twice if the next daemon gives the sender another [`id`](Sender::id), because
    ///   another sender of this process has taken it, or if it rejects one of the messages that wait, because it accepts only smaller ones.
    ///
    /// # With backpressure
    ///
    /// A sender with [`backpressure`](Self::backpressure) overwrites nothing that a listener still has to read: it waits for listeners that
    /// have more than 1 MiB of the ring to read, for as long as it waits for others. It calls the daemon, which grants it credit, at
    /// least once for each MiB. A sender without it never waits, and is faster than its listeners if it never pauses.
    ///
    /// # Limits
    ///
    /// - A sender has rings for 4 channels at a time, and each of them at most 64 listeners that read it themselves.
    /// - Messages with more than 512 KiB of payload and metadata, and messages to [retain](Sender::retain), go through the socket. They end
    ///   the ring. The next one is offered after 64 more messages at the earliest, and each further one after 8 times as many, up to 262,144.
    ///   The same holds when the daemon declines a ring, for instance because no listener could read it.
    /// - It has no effect together with [`history`](Self::history) or [`fallback`](Self::fallback), with a daemon that is too old, or on
    ///   systems other than Linux with 64-bit pointers.
    /// - The variable `BROADCASTER_SHARED_MEMORY=0` turns it off.
    ///
    /// ```
    /// use system_broadcaster::{Options, SharedMemory};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.frames")?;
    /// let mut sender = bus.shared_memory(SharedMemory::Always).sender("com.example.frames")?;
    /// for sequence in 0..1000 {
    ///     sender.send(b"frame")?;
    ///     assert_eq!(listener.recv()?.sequence(), sequence); // whichever way it took
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn shared_memory(mut self, shared_memory: SharedMemory) -> Self {
        self.shared_memory = shared_memory;
        self
    }

    /// A connected sender on `channel`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the timeout.
    pub fn sender(&self, channel: &str) -> Result<Sender, ConnectError> {
        let mut sender = self.unconnected_sender(channel)?;
        sender.connect()?;
        Ok(sender)
    }

    /// [`sender`](Self::sender) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`sender`](Self::sender).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn sender_async(&self, channel: &str) -> Result<Sender, ConnectError> {
        let mut sender = self.unconnected_sender(channel)?;
        sender.connect_async().await?;
        Ok(sender)
    }

    fn unconnected_sender(&self, channel: &str) -> Result<Sender, ConnectError> {
        let (channel, config) = (ChannelName::new(channel)?, self.config.clone());
        Ok(Sender::new(&channel, config, self.backpressure, self.history, self.shared_memory))
    }

    /// A connected listener on `channel`: it receives every message that the daemon accepts from now on.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the timeout.
    pub fn listener(&self, channel: &str) -> Result<Listener, ConnectError> {
        self.listener_on([ChannelName::new(channel)?])
    }

    /// [`listener`](Self::listener) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`listener`](Self::listener).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn listener_async(&self, channel: &str) -> Result<Listener, ConnectError> {
        self.listener_on_async([ChannelName::new(channel)?]).await
    }

    /// A connected listener on many channels, over one connection: by their names, and by patterns that cover them from the moment they
    /// appear. [`Message::channel`](crate::Message::channel) is the channel of each message. A message that several selectors cover is
    /// received once.
    ///
    /// The daemon allows 1024 of them for one listener. Without any, the listener receives nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if there is no connection within the timeout; [`ConnectError::Refused`] if there are too many selectors, with
    /// [`RefusalCode::Channels`](crate::RefusalCode::Channels); [`ConnectError::Unsupported`] if the daemon is too old for patterns.
    ///
    /// ```
    /// use system_broadcaster::{Options, Selector};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener_on([Selector::name("com.example.sync")?, Selector::name("com.example.log")?])?;
    /// bus.sender("com.example.log")?.send(b"hello")?;
    /// let message = listener.recv()?;
    /// assert_eq!((message.channel().as_str(), message.payload()), ("com.example.log", &b"hello"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listener_on<S: Into<Selector>>(
        &self,
        selectors: impl IntoIterator<Item = S>,
    ) -> Result<Listener, ConnectError> {
        let mut listener = self.unconnected_listener(selectors)?;
        listener.receiver().connect()?;
        Ok(listener)
    }

    /// [`listener_on`](Self::listener_on) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`listener_on`](Self::listener_on).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn listener_on_async<S: Into<Selector>>(
        &self,
        selectors: impl IntoIterator<Item = S>,
    ) -> Result<Listener, ConnectError> {
        let mut listener = self.unconnected_listener(selectors)?;
        listener.receiver().connect_async().await?;
        Ok(listener)
    }

    fn unconnected_listener<S: Into<Selector>>(
        &self,
        selectors: impl IntoIterator<Item = S>,
    ) -> Result<Listener, ConnectError> {
        Listener::new(selectors.into_iter().map(Into::into), self.overflow, self.replay, self.config.clone())
    }

    /// The value of `channel`: the newest message that the daemon [retains](Sender::retain) of it; `None` if it retains nothing.
    ///
    /// This takes a connection of its own and does not count as a listener, unless the daemon has 16 observers already. It waits for at most
    /// twice the [timeout](Self::timeout). A [fallback](Self::fallback) plays no part.
    ///
    /// # Errors
    ///
    /// [`RecvError::Connect`] as for [`listener`](Self::listener). [`RecvError::TimedOut`] if the daemon does not answer.
    /// [`RecvError::Lagged`] if it has no memory to deliver the value.
    ///
    /// ```
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.theme")?;
    /// assert_eq!(bus.retained_value("com.example.theme")?, None);
    /// sender.retain(b"dark")?;
    /// let value = bus.retained_value("com.example.theme")?.expect("there is one now");
    /// assert_eq!((value.payload(), value.sender()), (&b"dark"[..], sender.id()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retained_value(&self, channel: &str) -> Result<Option<Message>, RecvError> {
        let channel = ChannelName::new(channel).map_err(ConnectError::Name)?;
        let mut reader = ValueReader::new(channel.clone(), self.config.clone(), true);
        match reader.connect() {
            Err(error) if is_limit(&error) => {
                reader = ValueReader::new(channel, self.config.clone(), false);
                reader.connect()?;
            }
            connected => connected?,
        }
        reader.value()
    }

    /// [`retained_value`](Self::retained_value) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retained_value`](Self::retained_value).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retained_value_async(&self, channel: &str) -> Result<Option<Message>, RecvError> {
        let channel = ChannelName::new(channel).map_err(ConnectError::Name)?;
        let mut reader = ValueReader::new(channel.clone(), self.config.clone(), true);
        match reader.connect_async().await {
            Err(error) if is_limit(&error) => {
                reader = ValueReader::new(channel, self.config.clone(), false);
                reader.connect_async().await?;
            }
            connected => connected?,
        }
        reader.value_async().await
    }

    /// Reports which processes listen to `channel`, and each that joins or leaves. The channel need not exist. All listeners that are there
    /// have been reported when this returns: see [`Presence`], with an example. A fallback plays no part.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the timeout; [`ConnectError::Refused`] if the daemon has too
    /// many of these handles; [`ConnectError::Unsupported`] if it is too old.
    pub fn presence(&self, channel: &str) -> Result<Presence, ConnectError> {
        let mut presence = Presence::new(ChannelName::new(channel)?, self.config.clone());
        presence.connect()?;
        Ok(presence)
    }

    /// [`presence`](Self::presence) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`presence`](Self::presence).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn presence_async(&self, channel: &str) -> Result<Presence, ConnectError> {
        let mut presence = Presence::new(ChannelName::new(channel)?, self.config.clone());
        presence.connect_async().await?;
        Ok(presence)
    }

    /// The running daemon, to inspect, observe or stop. It never starts one, not even by connecting to a socket that a service manager
    /// holds.
    pub fn daemon(&self) -> Daemon {
        let (autostart, embedded, activate, reconnect) = (false, false, false, false);
        Daemon::new(ConnectConfig { autostart, embedded, activate, reconnect, ..self.config.clone() })
    }

    /// The sockets where the bus can be, best first: clients try all of them, a daemon serves the first that it can.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Endpoint`] if a given path cannot be used, or no directory is known at all.
    pub fn candidates(&self) -> Result<Vec<Candidate>, ConnectError> {
        Ok(self.config.candidates()?.into_iter().map(Into::into).collect())
    }
}
