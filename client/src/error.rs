//! What can go wrong, one enum per verb. Each sentence names the value, the limit and, where there is one, the remedy; the cause is
//! the error's `source()`.

use crate::machine::{Declined, Rejected, RequesterGone, TooLarge};
use crate::{ChannelName, ChannelPattern, EndpointError, MetadataError, NameError, RefusalCode};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no connection to a daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The channel name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no place where a daemon could be.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No daemon is running, and this handle must not start one.
    #[error("no broadcaster daemon answers at {}; start one with `broadcasterd start`", socket.display())]
    NotRunning {
        /// The first place that was tried.
        socket: PathBuf,
    },
    /// No daemon is running, and there is no program to start one.
    #[error(
        "no broadcaster daemon answers at {}, and no `broadcasterd` is beside this program or in PATH; install it, or \
         name it in BROADCASTERD{}", socket.display(), Skipped::list(skipped)
    )]
    NoProgram {
        /// The first place that was tried.
        socket: PathBuf,
        /// The programs that were found and not run.
        skipped: Vec<Skipped>,
    },
    /// No daemon is running, and this process must not start or host one, because it has more rights than its caller: it is a
    /// set-user-ID program, for example.
    #[error(
        "no broadcaster daemon answers at {}, and this process has more rights than its caller and starts none; start one with \
         `broadcasterd start`", socket.display()
    )]
    Elevated {
        /// The first place that was tried.
        socket: PathBuf,
    },
    /// `BROADCASTERD` is not an absolute path.
    #[error("BROADCASTERD must be an absolute path, not {path:?}")]
    RelativeProgram {
        /// Its value.
        path: PathBuf,
    },
    /// `BROADCASTER_SHARED_MEMORY` is neither `0` nor `1`.
    #[error("BROADCASTER_SHARED_MEMORY must be 0 or 1, not {value:?}")]
    SharedMemory {
        /// Its value.
        value: OsString,
    },
    /// The daemon could not be started.
    #[error("{} could not start the daemon", program.display())]
    Start {
        /// The program that was run.
        program: PathBuf,
        /// What it reported, or why it could not be run.
        source: io::Error,
    },
    /// This process could not host the daemon.
    #[error("this process could not host the daemon")]
    Host {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This process runs in a sandbox in which no daemon is reachable. A daemon that it started or hosted would be private to the
    /// sandbox.
    #[error(
        "no broadcaster daemon answers at {} from within the {sandbox} sandbox; give the sandbox access to its directory and run a \
         daemon outside", socket.display()
    )]
    Sandboxed {
        /// The first place that was tried.
        socket: PathBuf,
        /// The kind of sandbox, such as `flatpak`.
        sandbox: &'static str,
    },
    /// The timeout has passed.
    #[error("no connection to the broadcaster daemon at {} within {after:?}: {}", socket.display(), Obstacle(*stage, *holder))]
    TimedOut {
        /// The place that was tried last.
        socket: PathBuf,
        /// The timeout.
        after: Duration,
        /// How far the attempt got.
        stage: Stage,
        /// The process that holds the lock of the bus, if it is known.
        holder: Option<u32>,
    },
    /// The daemon refused the connection.
    #[error("the daemon refused the connection: {reason}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
    /// The daemon does not support what this handle needs.
    #[error("daemon {version:?} does not support {what}; update broadcasterd and run `broadcasterd restart`")]
    Unsupported {
        /// What is not supported.
        what: String,
        /// The daemon's version.
        version: String,
    },
    /// The process at the other end belongs to another user.
    #[error("{} is served by uid {owner}, not by uid {uid}; it is not used", socket.display())]
    OtherUser {
        /// The socket.
        socket: PathBuf,
        /// The user who serves it.
        owner: u32,
        /// The user of this process.
        uid: u32,
    },
    /// The process at the other end does not speak the protocol.
    #[error("the process at {} is not a broadcaster daemon: {reason}", socket.display())]
    NotADaemon {
        /// The socket.
        socket: PathBuf,
        /// What it sent.
        reason: String,
    },
    /// No daemon is available, and nothing delivers notifications to this process either. macOS does that in the run loop of the
    /// main thread.
    #[error(
        "no broadcaster daemon is available, and notifications are not delivered: for {after:?} the main thread of this program \
         has run neither CFRunLoop nor NSApp"
    )]
    NoRunLoop {
        /// For how long.
        after: Duration,
    },
    /// A fallback was requested for a listener that is not on one channel by its name. Only macOS has notifications of the system;
    /// elsewhere such a listener has no fallback.
    #[error("notifications of the system can replace the daemon only for a listener on one channel, by its name")]
    NoFallback,
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

impl From<broadcaster_protocol::NameError> for ConnectError {
    fn from(error: broadcaster_protocol::NameError) -> Self {
        Self::Name(error.into())
    }
}

impl From<broadcaster_protocol::endpoint::EndpointError> for ConnectError {
    fn from(error: broadcaster_protocol::endpoint::EndpointError) -> Self {
        Self::Endpoint(error.into())
    }
}

/// A program that could start the daemon and was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The program.
    pub program: PathBuf,
    /// Why it was not run.
    pub reason: String,
}

impl Skipped {
    fn list(skipped: &[Self]) -> String {
        skipped.iter().map(|skipped| format!("; {skipped}")).collect()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not run: {}", self.program.display(), self.reason)
    }
}

/// What an attempt to connect was waiting for, and which process holds the lock, if it is known.
struct Obstacle(Stage, Option<u32>);

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(Stage::Locked, Some(pid)) => write!(f, "process {pid} holds its lock and does not listen"),
            Self(stage, Some(pid)) => write!(f, "{stage}; process {pid} holds its lock"),
            Self(stage, None) => write!(f, "{stage}"),
        }
    }
}

/// How far an attempt to connect got before its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// No process listens, or it is too busy to accept.
    Connect,
    /// A process holds the lock of the bus and does not listen.
    Locked,
    /// The daemon's program is still starting it.
    Start,
    /// A daemon was started and does not answer.
    Started,
    /// A process has accepted and does not answer.
    Handshake,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no process listens there, or it is too busy to accept",
            Self::Locked => {
                "a process holds the lock of the bus and does not listen; `broadcasterd doctor` names the process"
            }
            Self::Start => "it is still being started",
            Self::Started => "it was started and does not answer",
            Self::Handshake => "it accepts connections and does not answer; it is stopped or hangs",
        })
    }
}

/// Why a message was not sent, or not confirmed. Except for [`Unfinished`](Self::Unfinished), a message that was not sent is not under way
/// and never will be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The payload is larger than the path accepts, and was not sent. If the daemon was replaced by one with a lower limit, this can be the
    /// payload of an earlier message that waited.
    #[error("the payload has {len} bytes; the limit is {max}")]
    TooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        max: u32,
    },
    /// The daemon has not accepted the message within the handle's timeout; with [`Options::backpressure`](crate::Options::backpressure),
    /// neither within its duration as well.
    #[error("the daemon has not accepted the message within {after:?}")]
    TimedOut {
        /// The time in total.
        after: Duration,
    },
    /// The daemon has accepted the beginning of the message, and not all of it in time. The handle keeps the rest: it is sent when
    /// [`flush`](crate::Sender::flush), or a later send, succeeds, and lost if the handle is dropped before.
    #[error("the daemon has accepted only a part of the message within {after:?}; the next flush sends the rest")]
    Unfinished {
        /// The timeout; zero for [`try_send`](crate::Sender::try_send).
        after: Duration,
    },
    /// Only from [`try_send`](crate::Sender::try_send): the daemon's socket is full; or, with
    /// [`Options::backpressure`](crate::Options::backpressure), a listener is behind.
    #[error("there is no room for the message now; try again")]
    Full,
    /// Only from [`try_send`](crate::Sender::try_send): there is no connection yet.
    #[error("the connection to the daemon is not complete yet; try again")]
    Connecting,
    /// Only from [`confirm`](crate::Sender::confirm) and [`send_confirmed`](crate::Sender::send_confirmed): the daemon has not confirmed in time. It may still accept everything that was sent,
    /// and the next `confirm` waits for that again. What was not written is kept for the next call.
    #[error("the daemon has not confirmed within {after:?} what was sent; it is stopped, hangs or is busy")]
    Unconfirmed {
        /// The timeout.
        after: Duration,
    },
    /// Only from [`confirm`](crate::Sender::confirm) and [`send_confirmed`](crate::Sender::send_confirmed): this many messages may be lost, because the daemon that they were handed to is gone,
    /// or ended the connection, before it confirmed them. Each message is counted once. Sending one again may deliver it twice.
    ///
    /// Messages that were handed to a daemon that stopped in an orderly way are confirmed and not in doubt, except on macOS and the BSDs.
    #[error(
        "{} may be lost: the connection to the daemon ended before it confirmed {}",
        Messages(*count), if *count == 1 { "it" } else { "them" }
    )]
    InDoubt {
        /// How many messages.
        count: u64,
    },
    /// Only from calls that need an answer, such as [`confirm`](crate::Sender::confirm), [`retain`](crate::Sender::retain) and [`listeners`](crate::Sender::listeners): messages
    /// travel as notifications of the system. Nothing confirms those, or counts their listeners.
    #[error("messages travel without a daemon, as notifications of the system, and nothing confirms those")]
    NoConfirmation,
    /// Only from [`listeners`](crate::Sender::listeners): the daemon has not answered in time.
    #[error("the daemon has not answered within {after:?}; it is stopped, hangs or is busy")]
    Unanswered {
        /// The timeout.
        after: Duration,
    },
    /// Only from [`wait_for_listeners`](crate::Sender::wait_for_listeners): there were fewer listeners for all that time.
    #[error("the channel has had fewer than {} for {after:?}", Listeners(*minimum))]
    TooFewListeners {
        /// The number that was waited for.
        minimum: u32,
        /// The timeout.
        after: Duration,
    },
    /// Only from calls that name a channel: the name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The daemon does not open the channel, mostly because too many are open on this connection or in total. The message was not sent, or
    /// it is an earlier one on that channel that waited. Other channels are not affected, and a later attempt may succeed.
    #[error("channel {:?} cannot be opened: {reason}", channel.as_str())]
    Declined {
        /// The channel.
        channel: ChannelName,
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
    /// Only from calls that [retain](crate::Sender::retain) a message: listeners have received it as any other message, and the daemon does not
    /// retain it, because of a limit or because memory is short. It retains nothing of the channel now: an earlier value would be outdated.
    #[error("the daemon does not retain the message on channel {:?}: {reason}", channel.as_str())]
    NotRetained {
        /// The channel.
        channel: ChannelName,
        /// Why, for people.
        reason: String,
    },
    /// Only from calls that retain a message, and sends with [`Options::history`](crate::Options::history): the metadata leaves no room for the
    /// 15 bytes that state the lifetime and the length of the history.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The daemon is gone, and no other is available.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// As in `3 messages`.
struct Messages(u64);

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 message"),
            count => write!(f, "{count} messages"),
        }
    }
}

/// As in `3 listeners`.
struct Listeners(u32);

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 listener"),
            count => write!(f, "{count} listeners"),
        }
    }
}

impl SendError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::Unfinished { .. }
            | Self::Unconfirmed { .. }
            | Self::Unanswered { .. }
            | Self::TooFewListeners { .. } => true,
            Self::Connect(error) => error.is_timeout(),
            Self::TooLarge { .. }
            | Self::Full
            | Self::Connecting
            | Self::InDoubt { .. }
            | Self::NoConfirmation
            | Self::Name(_)
            | Self::NotRetained { .. }
            | Self::Metadata(_)
            | Self::Declined { .. } => false,
        }
    }
}

impl From<Rejected> for SendError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::TooLarge(too_large) => too_large.into(),
            Rejected::Declined(declined) => (*declined).into(),
            Rejected::MetadataTooLarge(len) => MetadataError::TooLarge { len }.into(),
        }
    }
}

impl From<Declined> for SendError {
    fn from(Declined { channel, code, reason }: Declined) -> Self {
        Self::Declined { channel, code: code.into(), reason }
    }
}

impl From<TooLarge> for SendError {
    fn from(TooLarge { len, max }: TooLarge) -> Self {
        Self::TooLarge { len, max }
    }
}

/// Why a request has no replies, or no further ones.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No listener took the request: the channel has none, or each of them lost it at once because it is slow.
    #[error("no listener took the request")]
    NoListeners,
    /// Only from [`request_one`](crate::Sender::request_one): no reply has arrived in time. Listeners have the request, and their replies
    /// are dropped from now on.
    #[error("no reply to the request within {after:?}")]
    NoReply {
        /// The timeout of the request.
        after: Duration,
    },
    /// The connection ended through which the request was sent. Listeners may have received it. No further replies will arrive; the next
    /// request uses the next daemon.
    #[error("the connection to the daemon ended before the request was answered; listeners may have received it")]
    ConnectionLost,
    /// Messages travel as notifications of the system ([`Options::fallback`](crate::Options::fallback)), which carry no replies.
    #[error("messages travel without a daemon, as notifications of the system, and those carry no replies")]
    NoDaemon,
    /// The metadata of the request leaves no room for the 15 bytes that state where replies go.
    #[error("the request has too much metadata")]
    Metadata(#[from] MetadataError),
    /// The request was not sent. [`SendError::Unconfirmed`] is the exception: it was sent, and the daemon has not stated in time whether
    /// a listener took it.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl RequestError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::NoReply { .. } => true,
            Self::Send(error) => error.is_timeout(),
            Self::NoListeners | Self::ConnectionLost | Self::NoDaemon | Self::Metadata(_) => false,
        }
    }
}

impl From<ConnectError> for RequestError {
    fn from(error: ConnectError) -> Self {
        Self::Send(error.into())
    }
}

impl From<Rejected> for RequestError {
    fn from(rejected: Rejected) -> Self {
        Self::Send(rejected.into())
    }
}

/// Why a reply was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The sender of the message requests no replies. A [reply address](crate::Metadata::reply_address) that an application wrote itself
    /// is not one that the bus can reply to.
    #[error("the sender of this message requests no replies")]
    NotRequested,
    /// The connection is gone through which the message came, and with it the way to the requester.
    #[error("the connection through which the request came is gone, and so is the requester")]
    Gone,
    /// The payload is larger than the daemon accepts.
    #[error("the reply has {len} bytes; the limit is {max}")]
    TooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        max: u32,
    },
    /// The daemon has not accepted the reply within the handle's timeout.
    #[error("the daemon has not accepted the reply within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The daemon has accepted the beginning of the reply, and not all of it in time. The handle keeps the rest, and sends it during
    /// the next receives and replies.
    #[error("the daemon has accepted only a part of the reply within {after:?}; the next receives send the rest")]
    Unfinished {
        /// The timeout.
        after: Duration,
    },
    /// A [`Closer`](crate::Closer) has closed the handle.
    #[error("the handle was closed")]
    Closed,
    /// A system call failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl ReplyError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Unfinished { .. } => true,
            Self::Connect(error) => error.is_timeout(),
            Self::NotRequested | Self::Gone | Self::TooLarge { .. } | Self::Closed => false,
        }
    }
}

impl From<RequesterGone> for ReplyError {
    fn from(_: RequesterGone) -> Self {
        Self::Gone
    }
}

impl From<TooLarge> for ReplyError {
    fn from(TooLarge { len, max }: TooLarge) -> Self {
        Self::TooLarge { len, max }
    }
}

/// Why a listener has not joined a channel, or has not left it. It still receives everything else, and nothing is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The daemon has declined the request because of a limit. The listener is as it was.
    #[error("the daemon declined the request: {reason}")]
    Declined {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
    /// The daemon has not answered within the handle's timeout. The request stands: it takes effect once the daemon carries it out, and
    /// the same call waits for it again.
    #[error("the daemon has not answered the request within {after:?}; it is stopped, hangs or is busy")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The answer is behind more than 65 MiB of messages that have arrived and were not received. The request stands: receive some of
    /// them, and the same call waits for it again.
    #[error("too many messages wait to be received before the answer to the request; receive some of them first")]
    Unread,
    /// The listener has a [`Fallback`](crate::Fallback): it has one channel, by its name.
    #[error("a listener with notifications as its fallback cannot change its channel")]
    NoFallback,
    /// A [`Closer`](crate::Closer) has closed the handle.
    #[error("the handle was closed")]
    Closed,
    /// The daemon is gone, and no other is available. The request stands, unless the daemon refuses it
    /// ([`ConnectError::Refused`], [`ConnectError::Unsupported`]): then the listener is as it was.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl SubscribeError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Connect(error) => error.is_timeout(),
            Self::Declined { .. } | Self::Unread | Self::NoFallback | Self::Closed => false,
        }
    }
}

/// A gap in the stream: messages were lost at this point.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The channel. `None`: any channel that `pattern` covers may have lost messages.
    pub channel: Option<ChannelName>,
    /// Where there is no channel: the pattern that the listener has subscribed to. `None` for a [`Monitor`](crate::Monitor) of all channels.
    pub pattern: Option<ChannelPattern>,
    /// How many messages were lost. `None`: the daemon that counted them is gone. For senders that live on, the sequence numbers of the messages
    /// on either side show it.
    pub count: Option<u64>,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Some(1) => f.write_str("1 message was lost")?,
            Some(count) => write!(f, "{count} messages were lost")?,
            None => f.write_str("an unknown number of messages may have been lost")?,
        }
        match (&self.channel, &self.pattern) {
            (Some(channel), _) => write!(f, " on channel {:?}", channel.as_str()),
            (None, Some(pattern)) => write!(f, " on the channels of the pattern {:?}", pattern.as_str()),
            (None, None) => Ok(()),
        }
    }
}

/// Why there is no message. Only [`Closed`](Self::Closed) ends a listener: after any other error, receive again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// Messages were lost at this point of the stream. The next receive yields the first message after the gap.
    #[error("{0}")]
    Lagged(Lag),
    /// No message arrived within the timeout.
    #[error("no message within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// Only from calls that do not wait: no message has arrived.
    #[error("no message has arrived")]
    Empty,
    /// Only from calls that do not wait: there is no connection yet.
    #[error("the connection to the daemon is not complete yet; try again")]
    Connecting,
    /// A [`Closer`](crate::Closer) has closed the handle.
    #[error("the handle was closed")]
    Closed,
    /// The daemon is gone, and no other is available.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl RecvError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Connect(error) => error.is_timeout(),
            Self::Lagged(_) | Self::Empty | Self::Connecting | Self::Closed => false,
        }
    }
}
