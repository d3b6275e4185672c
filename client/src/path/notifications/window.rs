//! Which messages were received lately, because one may arrive by both carriers, and which senders have left some out. Both
//! memories are bounded.

use broadcaster_protocol::SenderId;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// How many messages are remembered.
const MESSAGES_MAX: usize = 1024;

/// How many senders are remembered with their next sequence number.
const SENDERS_MAX: usize = 1024;

/// One message, whatever carried it.
type Key = (SenderId, u64);

/// The messages that were received lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    order: VecDeque<Key>,
    payloads: BTreeMap<Key, Bytes>,
}

impl Recent {
    /// Whether a message that arrived as a notification is new. One that claims to be a message which was received is not,
    /// whatever it contains.
    pub(super) fn is_new(&mut self, sender: SenderId, sequence: u64, payload: &Bytes) -> bool {
        self.remember((sender, sequence), || payload.clone())
    }

    /// Whether a message that arrived from the daemon is new. Only the very same message is not: the daemon knows its senders,
    /// so that a forged notification suppresses nothing.
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
pub(super) struct Places(BTreeMap<SenderId, u64>);

impl Places {
    /// Whether messages of this sender are missing before this one. Their number is unknown: one that was overtaken may still
    /// arrive.
    pub(super) fn leaves_gap(&mut self, sender: SenderId, sequence: u64) -> bool {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            self.0.clear(); // each of them starts over with its next message
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
        let mut places = Places::default();
        for number in 0..5000 {
            places.leaves_gap(SenderId::new(3, number), 0);
            assert!(places.0.len() <= SENDERS_MAX);
        }
    }

    #[test]
    fn a_number_left_out_is_a_gap_and_a_late_one_is_not() {
        let mut places = Places::default();
        assert!(!places.leaves_gap(A, 7), "a sender may have begun long ago");
        assert!(!places.leaves_gap(A, 8));
        assert!(places.leaves_gap(A, 10));
        assert!(!places.leaves_gap(A, 9));
        assert!(!places.leaves_gap(A, 11));
        assert!(!places.leaves_gap(B, 3));
        assert!(places.leaves_gap(A, u64::MAX));
        assert!(!places.leaves_gap(A, u64::MAX));
    }
}
