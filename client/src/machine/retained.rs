//! What a publisher keeps of the messages that a daemon retains for it, and what it declares to the next daemon. It never decides what a
//! daemon retains. Clients declare again what was the value when the daemon ended: `Superseded` lets them forget everything else.

use super::frames::Frames;
use broadcaster_protocol::frame::KIND_REDECLARE;
use broadcaster_protocol::meta::{RETENTION_BYTES, Retention, tag};
use broadcaster_protocol::{ChannelId, SenderId};
use std::time::{Duration, Instant};

/// Bytes that the lifetime and the length of the history add to the metadata of a message.
pub const RETENTION_ENTRY_BYTES: usize = 3 + RETENTION_BYTES;

/// For how long a message is retained; without a limit by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// In milliseconds; 0 for no limit.
    ms: u64,
    /// When it ends.
    until: Option<Instant>,
}

impl Lifetime {
    /// So long from `now` on. A part of a millisecond is rounded up, and zero is one millisecond.
    pub fn new(lifetime: Duration, now: Instant) -> Self {
        let ms = u64::try_from(lifetime.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
        Self { ms, until: now.checked_add(lifetime) }
    }

    /// The retention of a message with this lifetime in a history of `keep` messages.
    pub(super) fn retention(self, keep: u32) -> Retention {
        Retention { lifetime_ms: self.ms, keep }
    }
}

/// The entry of the metadata that states a retention; `None` for the default, which needs no entry.
pub(super) fn entry(retention: Retention) -> Option<[u8; RETENTION_ENTRY_BYTES]> {
    if retention == Retention::default() {
        return None;
    }
    let mut entry = [0; RETENTION_ENTRY_BYTES];
    entry[0] = tag::RETENTION;
    let len = u16::try_from(RETENTION_BYTES).expect("a retention has twelve bytes");
    entry[1..3].copy_from_slice(&len.to_le_bytes());
    entry[3..].copy_from_slice(&retention.to_bytes());
    Some(entry)
}

/// The newest message of a channel that the daemon was to retain, as far as it is still the channel's value.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// `None`: there is none.
    sequence: Option<u64>,
    until: Option<Instant>,
    keep: u32,
    /// Without the entry that states the retention.
    metadata: Vec<u8>,
    payload: Vec<u8>,
}

/// Memory that a copy may have in addition to what it needs.
const SLACK_BYTES_MAX: usize = 4096;

impl Kept {
    /// This message takes the place of the one before. Without a payload, it only removes that.
    pub(super) fn replace(&mut self, sequence: u64, lifetime: Lifetime, keep: u32, metadata: &[u8], payload: &[u8]) {
        if payload.is_empty() {
            return self.clear();
        }
        (self.sequence, self.until, self.keep) = (Some(sequence), lifetime.until, keep);
        for (copy, bytes) in [(&mut self.metadata, metadata), (&mut self.payload, payload)] {
            copy.clear();
            copy.shrink_to(2 * bytes.len() + SLACK_BYTES_MAX);
            copy.extend_from_slice(bytes);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Removes the message with this number.
    pub(super) fn remove(&mut self, sequence: u64) {
        if self.sequence == Some(sequence) {
            self.clear();
        }
    }

    /// Removes a message that was not sent, as those from `first` on.
    pub(super) fn remove_from(&mut self, first: u64) {
        if self.sequence.is_some_and(|sequence| sequence >= first) {
            self.clear();
        }
    }

    /// The message with the number `before` has the number `now`, because others in front of it were dropped.
    pub(super) fn renumber(&mut self, before: u64, now: u64) {
        if self.sequence == Some(before) {
            self.sequence = Some(now);
        }
    }

    /// Removes a message whose lifetime is over at `now`, or that has more than `payload_bytes_max` bytes. A lifetime is over, too, if no
    /// time is known.
    pub(super) fn prune(&mut self, now: Option<Instant>, payload_bytes_max: u32) {
        let is_over = self.until.is_some_and(|until| now.is_none_or(|now| now >= until));
        if is_over || u32::try_from(self.payload.len()).is_ok_and(|bytes| bytes > payload_bytes_max) {
            self.clear();
        }
    }

    /// Whether there is a message.
    pub(super) fn is_some(&self) -> bool {
        self.sequence.is_some()
    }

    /// Appends the message, as one that was sent before, unless it is among those from `first` on, which are still to be sent.
    pub(super) fn declare(&self, frames: &mut Frames, ids: (ChannelId, SenderId), first: u64, now: Option<Instant>) {
        let Some(sequence) = self.sequence.filter(|&sequence| sequence < first) else { return };
        let left = self.until.zip(now).map(|(until, now)| Lifetime::new(until.saturating_duration_since(now), now));
        let entry = entry(left.unwrap_or_default().retention(self.keep));
        let metadata = [entry.as_ref().map_or(&[][..], |entry| entry), &self.metadata].concat();
        let len = u32::try_from(self.payload.len()).expect("it was sent");
        frames.append(ids, KIND_REDECLARE, sequence, &metadata, &self.payload, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broadcaster_protocol::Header;
    use broadcaster_protocol::meta::MetadataRef;

    const IDS: (ChannelId, SenderId) = (ChannelId(3), SenderId::from_raw(9));

    /// Sequence number, retention and payload of what is declared at `now`, when the next message has the number 10.
    fn declared(kept: &Kept, now: Instant) -> Option<(u64, Retention, Vec<u8>)> {
        let mut frames = Frames::default();
        kept.declare(&mut frames, IDS, 10, Some(now));
        let header = Header::peek(frames.outgoing())?;
        let body = &frames.outgoing()[broadcaster_protocol::limits::HEADER_BYTES..];
        let (metadata, payload) = body.split_at(usize::from(header.meta_bytes()));
        assert_eq!((header.kind(), header.channel(), header.sender()), (KIND_REDECLARE, IDS.0, IDS.1));
        Some((header.sequence(), MetadataRef::new(metadata).retention(), payload.to_vec()))
    }

    #[test]
    fn a_lifetime_is_declared_as_far_as_it_is_left() {
        let now = Instant::now();
        let mut kept = Kept::default();
        kept.replace(4, Lifetime::new(Duration::from_secs(10), now), 3, b"", b"value");
        let later = now + Duration::from_millis(2500);
        let retention = Retention { lifetime_ms: 7500, keep: 3 };
        assert_eq!(declared(&kept, later), Some((4, retention, b"value".to_vec())));
        kept.prune(Some(now + Duration::from_millis(9999)), u32::MAX);
        assert!(kept.is_some());
        kept.prune(Some(now + Duration::from_secs(10)), u32::MAX);
        assert_eq!(declared(&kept, later), None);
        kept.replace(5, Lifetime::new(Duration::from_secs(10), now), 3, b"", b"value");
        kept.prune(None, u32::MAX);
        assert!(!kept.is_some(), "no time is known");
        kept.replace(6, Lifetime::default(), 1, b"", b"value");
        kept.prune(None, u32::MAX);
        assert_eq!(declared(&kept, later), Some((6, Retention::default(), b"value".to_vec())));
        kept.prune(None, 4);
        assert!(!kept.is_some(), "the next daemon accepts less");
    }

    #[test]
    fn only_the_newest_message_that_was_sent_is_declared() {
        let now = Instant::now();
        let mut kept = Kept::default();
        assert_eq!(declared(&kept, now), None);
        kept.replace(1, Lifetime::default(), 1, b"", b"old");
        kept.replace(2, Lifetime::default(), 1, b"", b"new");
        kept.remove(1);
        assert_eq!(declared(&kept, now).expect("it is kept").0, 2);
        kept.renumber(2, 11);
        assert_eq!(declared(&kept, now), None, "it is still to be sent");
        kept.remove_from(12);
        assert!(kept.is_some());
        kept.remove_from(11);
        assert!(!kept.is_some());
        kept.replace(3, Lifetime::default(), 1, b"", b"value");
        kept.replace(4, Lifetime::default(), 1, b"", b"");
        assert_eq!(declared(&kept, now), None, "the channel was cleared");
    }

    #[test]
    fn a_lifetime_is_rounded_up_to_milliseconds() {
        let now = Instant::now();
        let ms = |lifetime| Lifetime::new(lifetime, now).ms;
        assert_eq!([Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(1001)].map(ms), [1, 1, 2]);
        assert_eq!(ms(Duration::MAX), u64::MAX);
        assert_eq!(Lifetime::default().ms, 0, "no limit");
    }
}
