//! Which messages were received recently, since a message may arrive by both carriers, and where messages of a sender are missing. The
//! memory for both is bounded.

use broadcaster_protocol::SenderId;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// How many messages are remembered.
const MESSAGES_MAX: usize = 1024;

/// How many senders are remembered with their next sequence number.
const SENDERS_MAX: usize = 1024;

/// One message, whatever carried it.
type Key = (SenderId, u64);

/// The messages that were received recently.
#[derive(Debug, Default)]
pub(super) struct Recent {
    order: VecDeque<Key>,
    payloads: BTreeMap<Key, Bytes>,
}

impl Recent {
    /// Whether a message that arrived as a notification is new. It is not if its sender and sequence number are known, whatever its
    /// payload.
    pub(super) fn is_new(&mut self, sender: SenderId, sequence: u64, payload: &Bytes) -> bool {
        self.remember((sender, sequence), || payload.clone())
    }

    /// Whether a message that arrived from the daemon is new. It is not if it was received with the same payload. The daemon verifies
    /// senders, so a forged notification suppresses no message.
    pub(super) fn is_new_from_daemon(&mut self, sender: SenderId, sequence: u64, payload: &[u8]) -> bool {
        match self.payloads.get(&(sender, sequence)) {
            Some(received) => received != payload,
            None => self.remember((sender, sequence), || Bytes::copy_from_slice(payload)),
        }
    }

    fn remember(&mut self, key: Key, payload: impl FnOnce() -> Bytes) -> bool {
        if self.payloads.contains_key(&key) {
            return false;
        }
        if self.order.len() == MESSAGES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.payloads.remove(&oldest);
        }
        self.order.push_back(key);
        self.payloads.insert(key, payload());
        true
    }
}

/// The next sequence number of each sender.
#[derive(Debug, Default)]
pub(super) struct NextSequences(BTreeMap<SenderId, u64>);

impl NextSequences {
    /// Whether messages of this sender are missing before this one. Their number is unknown, because some may still arrive late.
    pub(super) fn leaves_gap(&mut self, sender: SenderId, sequence: u64) -> bool {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            self.0.clear(); // each sender starts over with its next message
        }
        let after = sequence.saturating_add(1);
        match self.0.get_mut(&sender) {
            Some(due) => {
                let gap = sequence > *due;
                *due = after.max(*due);
                gap
            }
            None => {
                self.0.insert(sender, after);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SenderId = SenderId::new(1, 1);
    const B: SenderId = SenderId::new(2, 1);

    #[test]
    fn a_message_that_arrives_by_both_carriers_is_new_once() {
        let hello = Bytes::from_static(b"hello");
        let mut recent = Recent::default();
        assert!(recent.is_new(A, 0, &hello));
        assert!(!recent.is_new_from_daemon(A, 0, &hello));
        assert!(recent.is_new_from_daemon(A, 1, &hello));
        assert!(!recent.is_new(A, 1, &hello));
        assert!(recent.is_new(B, 0, &hello), "another sender, another message");
        assert!(!recent.is_new(B, 0, &hello), "nor twice by the same carrier");
    }

    #[test]
    fn a_forged_notification_suppresses_no_message() {
        let mut recent = Recent::default();
        assert!(recent.is_new(A, 0, &Bytes::from_static(b"forged")));
        assert!(recent.is_new_from_daemon(A, 0, b"true"));
        assert!(!recent.is_new(A, 0, &Bytes::from_static(b"forged again")));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        let numbers = 0..u64::try_from(MESSAGES_MAX).expect("small") + 1;
        assert!(numbers.clone().all(|number| recent.is_new(A, number, &Bytes::new())));
        assert_eq!((recent.order.len(), recent.payloads.len()), (MESSAGES_MAX, MESSAGES_MAX));
        assert!(!recent.is_new(A, 1, &Bytes::new()), "still known");
        assert!(recent.is_new(A, 0, &Bytes::new()), "the oldest was forgotten");
        let mut next_sequences = NextSequences::default();
        for number in 0..5000 {
            next_sequences.leaves_gap(SenderId::new(3, number), 0);
            assert!(next_sequences.0.len() <= SENDERS_MAX);
        }
    }

    #[test]
    fn a_skipped_number_is_a_gap_and_a_late_one_is_not() {
        let mut next_sequences = NextSequences::default();
        assert!(!next_sequences.leaves_gap(A, 7), "a sender may have begun long ago");
        assert!(!next_sequences.leaves_gap(A, 8));
        assert!(next_sequences.leaves_gap(A, 10));
        assert!(!next_sequences.leaves_gap(A, 9));
        assert!(!next_sequences.leaves_gap(A, 11));
        assert!(!next_sequences.leaves_gap(B, 3));
        assert!(next_sequences.leaves_gap(A, u64::MAX));
        assert!(!next_sequences.leaves_gap(A, u64::MAX));
    }
}
