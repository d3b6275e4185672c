//! The counters of one broker, and a picture of all that it knows at one moment. Nothing decides by them.

use crate::event::ConnId;
use broadcaster_protocol::ChannelName;
use std::time::Duration;

/// What a broker has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages accepted from senders.
    pub messages_accepted: u64,
    /// Bytes of the frames that they came in.
    pub bytes_accepted: u64,
    /// Messages written to listeners, each counted once per listener.
    pub messages_delivered: u64,
    /// Messages dropped for slow listeners, each counted once per listener. What was waiting when a listener left is
    /// neither delivered nor lost.
    pub messages_lost: u64,
    /// Connections that were refused or ended by the broker.
    pub connections_refused: u64,
}

/// Most channels that are named for one connection in a [`Snapshot`].
pub(crate) const CONN_CHANNELS_MAX: usize = 4;

/// All that a broker knows at one moment, for people and programs that look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Since the broker began.
    pub uptime: Duration,
    /// What it has done since then.
    pub stats: Stats,
    /// Bytes of memory that frames in transit hold now.
    pub held_bytes: usize,
    /// Every channel that somebody has open, in the order of their names.
    pub channels: Vec<ChannelSnapshot>,
    /// Every connection, in the order of their numbers.
    pub connections: Vec<ConnSnapshot>,
}

/// One channel. Its counters begin with it, and end with the last connection that has it open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// Its name.
    pub name: ChannelName,
    /// Connections that may publish on it.
    pub senders: usize,
    /// Connections that listen on it.
    pub listeners: usize,
    /// Messages accepted on it.
    pub messages_accepted: u64,
    /// Bytes of the frames that they came in.
    pub bytes_accepted: u64,
    /// Messages on it that were dropped for slow listeners, each counted once per listener.
    pub messages_lost: u64,
}

/// What a connection is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerRole {
    /// It has not said Hello yet.
    Greeting,
    /// It publishes.
    Sender,
    /// It listens.
    Listener,
    /// It looks at the daemon.
    Inspector,
    /// It watches messages as they pass.
    Monitor,
    /// It was told that it is over.
    Leaving,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnSnapshot {
    /// Its number.
    pub conn: ConnId,
    /// Process at the other end, from the kernel; 0 where it does not tell.
    pub pid: u32,
    /// What it is.
    pub role: PeerRole,
    /// Since it was accepted.
    pub age: Duration,
    /// Its channels, 4 at most, in no order.
    pub channels: Vec<ChannelName>,
    /// How many channels it has.
    pub channels_total: usize,
    /// Messages accepted from it, or written to it.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Messages dropped for it because it was slow.
    pub messages_lost: u64,
    /// Messages that wait for it.
    pub queue_messages: u64,
    /// Bytes of their frames, with 64 bytes of bookkeeping for each run of them.
    pub queue_bytes: usize,
    /// For how long it has not taken all that it was offered; `None` if it has.
    pub blocked: Option<Duration>,
}
