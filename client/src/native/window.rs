//! Which messages were heard already, for the time in which one may come by both ways, and which senders have left some out. Both
//! memories are bounded.

use broadcaster_protocol::SenderId;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// How many messages are remembered.
const MESSAGES_MAX: usize = 1024;

/// Of how many senders the place is remembered.
const SENDERS_MAX: usize = 1024;

/// One message, whichever way it came.
type Key = (SenderId, u64);

/// The messages that were heard of late.
#[derive(Debug, Default)]
pub(super) struct Heard {
    order: VecDeque<Key>,
    payloads: BTreeMap<Key, Bytes>,
}

impl Heard {
    /// Whether a message that came as a notification is new. One that says to be a message which was heard is not, whatever is in it.
    pub(super) fn is_new(&mut self, sender: SenderId, sequence: u64, payload: &Bytes) -> bool {
        self.remember((sender, sequence), || payload.clone())
    }

    /// Whether a message that came from the daemon is new. Only the very same message is not: the daemon knows who sent what, so that a
    /// forged notification takes nothing away.
    pub(super) fn is_new_from_daemon(&mut self, sender: SenderId, sequence: u64, payload: &[u8]) -> bool {
        match self.payloads.get(&(sender, sequence)) {
            Some(heard) => heard != payload,
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

/// The number that is due of each sender.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<SenderId, u64>);

impl Places {
    /// Whether messages of this sender are missing before this one. Nobody knows how many: one that was overtaken may still come.
    pub(super) fn leaves_gap(&mut self, sender: SenderId, sequence: u64) -> bool {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            self.0.clear(); // each of them begins anew with its next message
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
    fn a_message_that_comes_by_both_ways_is_heard_once() {
        let hello = Bytes::from_static(b"hello");
        let mut heard = Heard::default();
        assert!(heard.is_new(A, 0, &hello));
        assert!(!heard.is_new_from_daemon(A, 0, &hello));
        assert!(heard.is_new_from_daemon(A, 1, &hello));
        assert!(!heard.is_new(A, 1, &hello));
        assert!(heard.is_new(B, 0, &hello), "another sender, another message");
        assert!(!heard.is_new(B, 0, &hello), "nor twice by the same way");
    }

    #[test]
    fn a_forged_notification_takes_no_message_away() {
        let mut heard = Heard::default();
        assert!(heard.is_new(A, 0, &Bytes::from_static(b"forged")));
        assert!(heard.is_new_from_daemon(A, 0, b"true"));
        assert!(!heard.is_new(A, 0, &Bytes::from_static(b"forged again")));
    }

    #[test]
    fn memory_has_an_end() {
        let mut heard = Heard::default();
        let numbers = 0..u64::try_from(MESSAGES_MAX).expect("small") + 1;
        assert!(numbers.clone().all(|number| heard.is_new(A, number, &Bytes::new())));
        assert_eq!((heard.order.len(), heard.payloads.len()), (MESSAGES_MAX, MESSAGES_MAX));
        assert!(!heard.is_new(A, 1, &Bytes::new()), "still known");
        assert!(heard.is_new(A, 0, &Bytes::new()), "the oldest was forgotten");
        let mut places = Places::default();
        for number in 0..5000 {
            places.leaves_gap(SenderId::new(3, number), 0);
            assert!(places.0.len() <= SENDERS_MAX);
        }
    }

    #[test]
    fn a_number_that_was_left_out_is_a_gap_and_a_late_one_is_none() {
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
