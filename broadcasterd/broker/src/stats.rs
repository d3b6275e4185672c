//! The counters of one broker. They only ever grow; nothing decides by them.

/// What a broker has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Frames accepted from senders.
    pub frames_accepted: u64,
    /// Header and payload bytes of those frames.
    pub bytes_accepted: u64,
    /// Frames written to listeners, each counted once per listener.
    pub frames_delivered: u64,
    /// Frames dropped for slow listeners, each counted once per listener. What was waiting when a listener left is
    /// neither delivered nor lost.
    pub frames_lost: u64,
    /// Connections that were refused or ended by the broker.
    pub connections_refused: u64,
}
