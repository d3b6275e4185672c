//! What the path of a handle can do. It never chooses a path.

use broadcaster_protocol::limits;

/// How the messages of a handle travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Through the daemon, with every promise.
    Daemon,
    /// Through notifications of the system: see [`Fallback::Notifications`](crate::Fallback::Notifications).
    Notifications,
}

/// What the path of a handle can do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// How messages travel.
    pub transport: Transport,
    /// Payloads arrive. If not, a listener receives a gap, which shows that something was sent and not what.
    pub payload: bool,
    /// Metadata arrives.
    pub metadata: bool,
    /// The messages of one sender arrive in order.
    pub ordering: bool,
    /// Listeners learn how many messages they lost. If not, they learn at most that some were lost.
    pub lag_counts: bool,
    /// The receipt of messages can be confirmed: see [`Sender::confirm`](crate::Sender::confirm).
    pub confirmation: bool,
    /// Through how many rings in shared memory a sender sends at present: see [`Options::shared_memory`](crate::Options::shared_memory).
    pub rings: usize,
    /// The largest payload, in bytes. A daemon may be configured to accept less.
    pub payload_bytes_max: u32,
}

impl Capabilities {
    /// The capabilities of the daemon.
    pub(crate) const DAEMON: Self = Self {
        transport: Transport::Daemon,
        payload: true,
        metadata: true,
        ordering: true,
        lag_counts: true,
        confirmation: true,
        rings: 0,
        payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
    };
}
