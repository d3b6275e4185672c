//! What can go wrong, one enum per verb. Each sentence names the value, the limit and, where there is one, the remedy.

use broadcaster_protocol::control::RefusedCode;
use broadcaster_protocol::endpoint::EndpointError;
use broadcaster_protocol::{ChannelName, NameError};
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
    /// No daemon runs, and this handle must not start one.
    #[error("no broadcaster daemon answers at {}; start one with `broadcasterd start`", socket.display())]
    NotRunning {
        /// The first place that was tried.
        socket: PathBuf,
    },
    /// No daemon runs, and none can be started: there is no program for it.
    #[error(
        "no broadcaster daemon answers at {}, and no `broadcasterd` is beside this program or in PATH; install it, or \
         name it in BROADCASTERD", socket.display()
    )]
    NoProgram {
        /// The first place that was tried.
        socket: PathBuf,
    },
    /// `BROADCASTERD` is not an absolute path.
    #[error("BROADCASTERD must be an absolute path, not {path:?}")]
    RelativeProgram {
        /// Its value.
        path: PathBuf,
    },
    /// A daemon was started and did not come up.
    #[error("{} could not start the daemon: {reason}", program.display())]
    Start {
        /// The program that was started.
        program: PathBuf,
        /// What it said.
        reason: String,
    },
    /// This process could not become the daemon.
    #[error("this process could not host the daemon: {reason}")]
    Host {
        /// Why.
        reason: String,
    },
    /// The deadline passed.
    #[error("the daemon at {} has not answered within {after:?} ({doing})", socket.display())]
    TimedOut {
        /// The place that was tried last.
        socket: PathBuf,
        /// The deadline.
        after: Duration,
        /// What was waited for.
        doing: &'static str,
    },
    /// The daemon refused this connection.
    #[error("the daemon refused: {reason}")]
    Refused {
        /// Why, for programs.
        code: RefusedCode,
        /// Why, for people.
        reason: String,
    },
    /// The process at the other end belongs to somebody else.
    #[error("{} is served by uid {owner}, not by uid {uid}: it is not used", socket.display())]
    OtherUser {
        /// The socket.
        socket: PathBuf,
        /// Who serves it.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// What answers does not speak the protocol.
    #[error("what answers at {} is not a broadcaster daemon: {reason}", socket.display())]
    NotADaemon {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        reason: String,
    },
    /// No daemon can be had, and notifications do not come through either: nothing delivers them to this process. macOS does that in
    /// the run loop of the main thread.
    #[error(
        "no broadcaster daemon can be had, and no notification arrives: for {after:?} the main thread of this program has run \
         neither CFRunLoop nor NSApp"
    )]
    NoRunLoop {
        /// For how long that was so.
        after: Duration,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a frame was not sent. But for [`Unfinished`](Self::Unfinished), a frame whose sending failed is not on its way and
/// never will be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The payload is larger than the daemon accepts. Nothing was sent.
    #[error("the payload has {len} bytes; the limit is {max}")]
    TooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        max: u32,
    },
    /// The daemon has not taken the frame within the handle's deadline.
    #[error("the daemon has not taken the frame within {after:?}")]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// The daemon has taken the beginning of the frame, and not all of it within the handle's deadline. The handle keeps the
    /// rest: the frame is sent when [`flush`](crate::Sender::flush), or a later send, succeeds, and lost if the handle is
    /// dropped before.
    #[error("the daemon has taken only a part of the frame within {after:?}; the rest goes out with the next flush")]
    Unfinished {
        /// The deadline; zero for [`try_send`](crate::Sender::try_send).
        after: Duration,
    },
    /// [`try_send`](crate::Sender::try_send) only: it would have to wait.
    #[error("the daemon can not take the frame at once")]
    Full,
    /// The daemon is gone, and no other could be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Frames are missing at this place of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The channel that they were on.
    pub channel: ChannelName,
    /// How many. `None`: the daemon that counted them is gone; the sequence numbers of the messages on either side tell
    /// for each sender that lives on.
    pub count: Option<u64>,
}

/// Why there is no message. None of these ends the listener: receive again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// Frames are missing at this place of the stream; the next receive yields the first frame after the hole.
    #[error("{} on channel {:?} were missed", missing(.0.count), .0.channel.as_str())]
    Lagged(Lag),
    /// Nothing came before the deadline.
    #[error("no message within {after:?}")]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// [`try_recv`](crate::Listener::try_recv) only: nothing is there now.
    #[error("no message is there now")]
    Empty,
    /// The daemon is gone, and no other could be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

fn missing(count: Option<u64>) -> String {
    match count {
        Some(1) => "1 message".to_owned(),
        Some(count) => format!("{count} messages"),
        None => "an unknown number of messages".to_owned(),
    }
}
