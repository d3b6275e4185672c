//! The choices that a program makes, the daemon's answers to them, and the places where the bus can be, as this crate presents them.

use crate::machine::Rings;
use broadcaster_protocol::{control, endpoint};
use std::fmt;
use std::path::PathBuf;

/// What happens to a listener that does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest waiting messages are dropped.
    #[default]
    DropOldest,
    /// New messages are dropped until there is room.
    DropNewest,
    /// Only the newest message, or batch of messages, is kept.
    Latest,
    /// The listener is disconnected: after what has arrived already, a receive fails with [`RefusalCode::TooSlow`]. The next one joins
    /// again, with a gap.
    Disconnect,
}

impl From<Overflow> for control::Overflow {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::DropOldest => Self::DropOldest,
            Overflow::DropNewest => Self::DropNewest,
            Overflow::Latest => Self::Latest,
            Overflow::Disconnect => Self::Disconnect,
        }
    }
}

/// When a sender sends the messages of a channel through memory that it shares with listeners: see [`Options::shared_memory`].
///
/// [`Options::shared_memory`]: crate::Options::shared_memory
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SharedMemory {
    /// For a sender with [backpressure](crate::Options::backpressure), when the channel is busy, which is after 512 messages within 250 ms. A sender
    /// without it would be faster than its listeners, which would lose more than through the socket.
    #[default]
    Auto,
    /// From the first messages on, with backpressure or without it.
    Always,
    /// Never.
    Never,
}

impl SharedMemory {
    /// When a sender offers a ring.
    pub(crate) fn rings(self, has_backpressure: bool) -> Rings {
        match self {
            Self::Auto if has_backpressure => Rings::WhenBusy,
            Self::Always => Rings::After(0),
            Self::Auto | Self::Never => Rings::Never,
        }
    }
}

/// What takes the daemon's place if none can be reached or started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Fallback {
    /// Nothing: there is an error.
    #[default]
    None,
    /// Notifications of the system. Only macOS has them; elsewhere this is the same as [`None`](Self::None).
    ///
    /// Such a message leaves what this library promises: any process of the session can read it and post others like it under any name,
    /// losses are not counted, and order is not kept. It is for a program that prefers that to an error, such as one in a sandbox.
    /// [`Sender::capabilities`](crate::Sender::capabilities) and [`Listener::capabilities`](crate::Listener::capabilities) show how
    /// messages travel at present.
    ///
    /// - Payloads have at most 4096 bytes, and metadata is dropped. In an app sandbox macOS lets no payload pass: listeners receive a gap,
    ///   which shows that something was sent and not what.
    /// - [`Message::sender`](crate::Message::sender) is the sender's claim.
    /// - A listener receives only while the main thread runs `CFRunLoop` or `NSApp`, which need not be the thread that receives. If it does
    ///   not for as long as the handle's timeout, a receive fails with [`ConnectError::NoRunLoop`](crate::ConnectError::NoRunLoop).
    /// - Handles look for the daemon again, after a second and then less and less often, at least twice a minute. One that has found it
    ///   uses both for 40 s; a message that arrives twice is received once. A listener receives one gap without a count.
    /// - It never replaces a daemon that answers and refuses.
    Notifications,
    /// The notifications of `system-broadcaster` 0.1, always and in place of the daemon, to communicate with programs that were built with
    /// that version. Only macOS has them; elsewhere this is the same as [`None`](Self::None).
    ///
    /// Payloads have at most 1000 bytes; there is neither a sender nor a sequence number (both are 0), no protection and no count. Handles
    /// without this option do not receive them.
    CompatibleWith0_1,
}

/// Why a daemon refuses a connection, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// Client and daemon have no protocol version in common.
    Version,
    /// The client runs as another user.
    OtherUser,
    /// Too many connections, from this process or in total. There may be room later.
    Connections,
    /// Too many channels or subscriptions, on this connection or in total.
    Channels,
    /// The client broke the protocol.
    Protocol,
    /// The handshake took too long.
    Handshake,
    /// The listener chose [`Overflow::Disconnect`] and was too slow.
    TooSlow,
    /// The daemon's memory budget is used up, and this connection holds the most of it.
    Memory,
    /// The handle did not finish a message, or did not read, for too long. A handle that reconnects never reports this.
    Stalled,
    /// Another code, of a later version.
    Other(u16),
}

impl From<control::RefusedCode> for RefusalCode {
    fn from(code: control::RefusedCode) -> Self {
        use control::RefusedCode as Wire;
        match code {
            Wire::Version => Self::Version,
            Wire::OtherUser => Self::OtherUser,
            Wire::Connections => Self::Connections,
            Wire::Channels => Self::Channels,
            Wire::Protocol => Self::Protocol,
            Wire::Handshake => Self::Handshake,
            Wire::TooSlow => Self::TooSlow,
            Wire::Memory => Self::Memory,
            Wire::Stalled => Self::Stalled,
            other => Self::Other(other.number()),
        }
    }
}

/// One place where the bus can be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The socket. Its directory holds the lock as well.
    pub socket: PathBuf,
    /// The rule that led to it.
    pub origin: Origin,
}

impl From<endpoint::Candidate> for Candidate {
    fn from(candidate: endpoint::Candidate) -> Self {
        Self { socket: candidate.socket, origin: candidate.origin.into() }
    }
}

/// The rule that led to a [`Candidate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// [`Options::socket`](crate::Options::socket) or the variable `BROADCASTER_SOCKET`.
    Explicit,
    /// The system's own directory for this user.
    RunUser,
    /// `XDG_RUNTIME_DIR`.
    XdgRuntime,
    /// The state directory.
    State,
    /// A hashed name in a short directory, because the path in the state directory is too long.
    Short,
    /// The pipe that is named after the user, on Windows.
    Pipe,
}

impl From<endpoint::Origin> for Origin {
    fn from(origin: endpoint::Origin) -> Self {
        match origin {
            endpoint::Origin::Explicit => Self::Explicit,
            endpoint::Origin::RunUser => Self::RunUser,
            endpoint::Origin::XdgRuntime => Self::XdgRuntime,
            endpoint::Origin::State => Self::State,
            endpoint::Origin::Short => Self::Short,
            endpoint::Origin::Pipe => Self::Pipe,
        }
    }
}

/// Why there is no place for the bus: a given path cannot be used, or no directory is known at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError(endpoint::EndpointError);

impl From<endpoint::EndpointError> for EndpointError {
    fn from(error: endpoint::EndpointError) -> Self {
        Self(error)
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for EndpointError {}
