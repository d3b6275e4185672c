//! How a handle connects. Where the bus may be is read from the environment when a handle is made; which program starts the
//! daemon, when one is needed.

use crate::daemon::Daemon;
use crate::error::ConnectError;
use crate::native::{self, Dialect};
use crate::transport::Plan;
use crate::{Listener, Sender};
use broadcaster_protocol::ChannelName;
use broadcaster_protocol::control::Overflow;
use broadcaster_protocol::endpoint::Candidate;
use std::path::PathBuf;
use std::time::Duration;

/// How long a connection may take to come about, and a send to be taken, unless a handle is told otherwise (5 s).
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// Set to a non-empty value other than `0`, it keeps this library from starting or hosting a daemon.
pub const NO_AUTOSTART_VARIABLE: &str = "BROADCASTER_NO_AUTOSTART";

/// How a [`Sender`], a [`Listener`] or a [`Daemon`] connects.
///
/// ```no_run
/// use std::time::Duration;
/// use system_broadcaster::{Options, Overflow};
///
/// let options = Options::new().deadline(Duration::from_millis(200)).embedded(false);
/// let mut sender = options.sender("com.example.sync")?;
/// let mut listener = options.overflow(Overflow::Latest).listener("com.example.sync")?;
/// # Ok::<(), system_broadcaster::ConnectError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    plan: Plan,
    overflow: Overflow,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// What [`Sender::create`] and [`Listener::create`] use: the user's bus, started if need be.
    pub fn new() -> Self {
        let off = std::env::var_os(NO_AUTOSTART_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
        let plan = Plan {
            socket: None,
            program: None,
            deadline: DEADLINE_DEFAULT,
            autostart: !off,
            embedded: !off,
            activate: true,
            native: None,
        };
        Self { plan, overflow: Overflow::default() }
    }

    /// Uses the bus at this socket and no other: an absolute path of at most 107 bytes (103 on macOS and the BSDs), on Windows
    /// a pipe `\\.\pipe\NAME`. The
    /// same as the variable `BROADCASTER_SOCKET`, which it overrides.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.plan.socket = Some(path.into());
        self
    }

    /// Starts this program if a daemon is needed, rather than the one in `BROADCASTERD`, beside the running program or
    /// in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.plan.program = Some(path.into());
        self
    }

    /// How long a connection may take to come about, and a send to be taken: [`DEADLINE_DEFAULT`] unless set. Zero
    /// never waits, so that a handshake, which takes a few exchanges, can hardly succeed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.plan.deadline = deadline;
        self
    }

    /// Whether a daemon may be started if none answers. On, unless `BROADCASTER_NO_AUTOSTART` is set. A service manager that
    /// listens on the socket starts one all the same: that is the user's own setting.
    #[must_use]
    pub fn autostart(mut self, autostart: bool) -> Self {
        self.plan.autostart = autostart;
        self
    }

    /// Whether this process may host the broker, on one background thread, if no daemon answers and none can be started.
    /// On, unless `BROADCASTER_NO_AUTOSTART` is set; without the crate's feature `embedded` it is always off.
    ///
    /// The host thread ends with the process, or when nobody was connected for a minute. It takes at most a quarter of the
    /// process's descriptors for connections. What was sent and not delivered when the process ends is lost, as when a daemon
    /// is killed. A process that hosts must not `fork` and go on without `exec`: the child would keep the lock.
    #[must_use]
    pub fn embedded(mut self, embedded: bool) -> Self {
        self.plan.embedded = embedded;
        self
    }

    /// Whether to go by notifications of the system if no daemon can be reached or started. Off, and only macOS has them: elsewhere
    /// this changes nothing.
    ///
    /// It is off because such a message leaves what this library promises: any process of the session can read it and post
    /// others like it under any name, nobody counts what is lost, and order is not kept. A program that is better off with that than
    /// with an error, such as one in a sandbox, asks for it, and sees in [`Sender::capabilities`] and [`Listener::capabilities`]
    /// which way its messages go.
    ///
    /// - Payloads have at most 4096 bytes. In an app sandbox macOS lets no payload pass: listeners are told of a gap, which says
    ///   that something was sent and not what.
    /// - [`Message::sender`](crate::Message::sender) is the sender's own word.
    /// - A listener hears only while the main thread runs `CFRunLoop` or `NSApp`, which need not be the thread that receives. If it
    ///   does not for as long as the handle's deadline, a receive fails with [`ConnectError::NoRunLoop`].
    /// - Handles look for the daemon again, after a second and then ever more rarely, at least twice a minute. One that has found it
    ///   goes both ways for a while; what a listener gets twice it is given once, and it is told of one gap without a count.
    /// - It is no way around a daemon that answers and refuses.
    #[must_use]
    pub fn native_fallback(mut self, fallback: bool) -> Self {
        self.plan.native = if fallback { native::notifications(Dialect::Current) } else { None };
        self
    }

    #[cfg(all(test, unix))]
    pub(crate) fn with_native(mut self, native: native::Native) -> Self {
        self.plan.native = Some(native);
        self
    }

    /// Whether to speak with programs that were built with `system-broadcaster` 0.1, in place of the daemon. Off, and for macOS only:
    /// elsewhere this changes nothing. Overrides [`native_fallback`](Self::native_fallback), and is overridden by it.
    ///
    /// The notifications are those of 0.1, under the channel's own name: payloads of at most 1000 bytes, without sender and sequence
    /// number (both are 0), unprotected, uncounted. Handles without this option do not hear them.
    #[must_use]
    pub fn compatible_with_0_1(mut self, compatible: bool) -> Self {
        self.plan.native = if compatible { native::notifications(Dialect::V01) } else { None };
        self
    }

    /// What happens to a listener that does not keep up: [`Overflow::DropOldest`] unless set. Listeners only.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// A sender on `channel`, connected.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the deadline.
    pub fn sender(&self, channel: impl AsRef<str>) -> Result<Sender, ConnectError> {
        Sender::connect(ChannelName::new(channel.as_ref())?, self.plan.clone())
    }

    /// A listener on `channel`, connected: it gets every message that the daemon accepts from now on.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the deadline.
    pub fn listener(&self, channel: impl AsRef<str>) -> Result<Listener, ConnectError> {
        Listener::connect(ChannelName::new(channel.as_ref())?, self.overflow, self.plan.clone())
    }

    /// The running daemon, to look at or to stop. Never starts one, not even by connecting to a socket that a service manager
    /// holds.
    pub fn daemon(&self) -> Daemon {
        Daemon::new(Plan { autostart: false, embedded: false, activate: false, ..self.plan.clone() })
    }

    /// The sockets where the bus may be, best first: clients try all of them, a daemon serves the first that it can.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Endpoint`] if a given path can not be used, or no directory is known at all.
    pub fn candidates(&self) -> Result<Vec<Candidate>, ConnectError> {
        self.plan.candidates()
    }
}
