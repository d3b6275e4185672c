//! Every limit of the broker, by name. There is never a limit per user: all clients belong to one user, and a faulty
//! program must not exclude the others.

use broadcaster_protocol::limits::{HANDSHAKE_TIMEOUT, PAYLOAD_BYTES_MAX};
use std::time::Duration;

/// The limits of one broker. The defaults are those of `broadcasterd`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections (4096).
    pub connections_max: usize,
    /// Connections of one process (1024).
    pub connections_per_process_max: usize,
    /// Channels (65 536).
    pub channels_max: usize,
    /// Publications, subscriptions and watches of one connection, together (1024).
    pub channels_per_connection_max: usize,
    /// Largest payload of one frame, in bytes (64 MiB).
    pub payload_bytes_max: u32,
    /// Bytes that wait for one connection (4 MiB): frames, and 64 bytes of bookkeeping for each run of them. One frame
    /// always fits, whatever its size.
    pub outbox_bytes_max: usize,
    /// Messages that wait for one connection (65 536).
    pub outbox_messages_max: u64,
    /// Bytes of control frames that wait for a connection that does not read (64 KiB). Above it the connection is refused; one
    /// that reads may have 16 times as many for a moment. Those that announce replayed messages do not count, up to 2 MiB.
    pub replies_bytes_max: usize,
    /// Bytes of memory that messages in transit may hold (256 MiB). Above it observers lose first, then connections that do not read,
    /// then the largest holder.
    pub held_bytes_max: usize,
    /// Connections with an observer among their subscriptions (16).
    pub observers_max: usize,
    /// Subscriptions to all channels (64), observers included.
    pub wildcards_max: usize,
    /// Subscriptions to patterns (16 384), observers included. Their patterns have at most [`PATTERN_SEGMENTS`] times as many segments,
    /// together.
    pub patterns_max: usize,
    /// Connections that receive a channel, counted for each channel (4 194 304): what subscriptions to patterns and to all channels come to
    /// together. Each costs about 100 bytes.
    pub attachments_max: usize,
    /// Watches of the listeners of a channel (4096).
    pub watches_max: usize,
    /// Bytes of memory that retained messages of all channels may take (16 MiB), with about 300 bytes of bookkeeping for each; in any case
    /// no more than a quarter of [`held_bytes_max`](Self::held_bytes_max).
    pub retained_bytes_max: usize,
    /// Channels of which messages are retained (4096).
    pub retained_channels_max: usize,
    /// Messages that one channel may keep (1024).
    pub retained_messages_max: usize,
    /// Time from accept to a complete Hello (2 s).
    pub handshake_timeout: Duration,
    /// Time without a further byte after which a connection that has sent a part of a frame is refused (30 s).
    pub frame_timeout: Duration,
    /// Time without progress after which a connection gives up its memory before others do, and may be ended for its half-written
    /// frame (5 s). Nothing happens to it while the memory budget suffices.
    pub stalled_timeout: Duration,
    /// Time from the decision to end a connection to its end, in which the client can read the reason (1 s). An orderly stop
    /// spends as much before that on delivering what clients have sent.
    pub goodbye_timeout: Duration,
    /// The broker exits after this time without a connection and without retained messages; `None`, the default, means never.
    pub idle_exit_after: Option<Duration>,
}

impl Limits {
    /// Bytes of memory that retained messages may take: at most a quarter of the memory for messages in transit, because no connection can
    /// give them up.
    pub fn retained_bytes_effective(&self) -> usize {
        self.retained_bytes_max.min(self.held_bytes_max / 4)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_process_max: 1024,
            channels_max: 65_536,
            channels_per_connection_max: 1024,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            outbox_bytes_max: 4 * 1024 * 1024,
            outbox_messages_max: 65_536,
            replies_bytes_max: 64 * 1024,
            held_bytes_max: 256 * 1024 * 1024,
            observers_max: 16,
            wildcards_max: 64,
            patterns_max: 16_384,
            attachments_max: 4 * 1024 * 1024,
            watches_max: 4096,
            retained_bytes_max: 16 * 1024 * 1024,
            retained_channels_max: 4096,
            retained_messages_max: 1024,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            frame_timeout: Duration::from_secs(30),
            stalled_timeout: Duration::from_secs(5),
            goodbye_timeout: Duration::from_secs(1),
            idle_exit_after: None,
        }
    }
}

/// Segments of a pattern, on average, if there are as many patterns as [`Limits::patterns_max`] allows. It bounds the search for the
/// patterns that cover a new channel.
pub const PATTERN_SEGMENTS: usize = 8;

/// Work after which a turn ends: one unit for each message run, or loss, and connection that it is queued for, for each channel
/// that a subscription to a pattern or to all channels meets, for each step of a search for patterns, for each listener that is
/// reported to a watch, for each message that is retained, replayed or expires, and for each ring or page that is looked at. What is left
/// of the input waits for the next turn.
pub const TURN_WORK_MAX: usize = 32 * 1024;

/// The least credit up to which a sender with backpressure is granted more, in bytes, however many share a listener's room or the memory
/// budget.
pub(crate) const WINDOW_BYTES_MIN: u32 = 4 * 1024;

/// The most credit up to which a sender with backpressure is granted more, in bytes.
pub(crate) const WINDOW_BYTES_MAX: u32 = 1024 * 1024;

/// Rings of one connection. A sender of more busy channels uses its socket for the others.
pub(crate) const RINGS_PER_CONNECTION_MAX: usize = 4;

/// Links of one ring. The sender looks at each of them whenever it publishes.
pub(crate) const LINKS_PER_RING_MAX: usize = 64;

/// Links of one listener, with those that it reads to their ends still. The client library maps as many rings.
pub(crate) const LINKS_PER_LISTENER_MAX: usize = 32;

/// Links of all rings. Each takes 4 KiB of the daemon's addresses.
pub(crate) const LINKS_MAX: usize = 4096;

/// How long each end may take to answer in the introduction of a listener to a sender.
pub(crate) const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a ring may have no listener that reads it itself: until then it saves nothing.
pub(crate) const ALONE_MAX: Duration = Duration::from_secs(10);

/// How often the broker looks whether senders still publish into their rings, after it has requested them to end these.
pub(crate) const RECALL_STEP: Duration = Duration::from_millis(20);

/// A number of things, for a reason: `1 connection`, `4 connections`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}
