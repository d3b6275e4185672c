//! The counters of one broker. They only ever grow; nothing decides by them.

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
