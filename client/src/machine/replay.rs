//! Which of the messages that arrive are replayed, and which of those have arrived before. Only retained messages pass through here.

use crate::ChannelName;
use broadcaster_protocol::{ChannelId, SenderId};
use std::collections::{BTreeMap, VecDeque};

/// Messages that are remembered at least, on all channels together, before older ones are forgotten.
const REMEMBERED_MAX: usize = 32 * 1024;

/// One message, on every daemon.
pub(super) type Identity = (SenderId, u64);

/// How many of the next messages of each channel are replayed.
#[derive(Debug, Default)]
pub(super) struct Announced {
    due: BTreeMap<ChannelId, u64>,
    /// The number that the present daemon has announced first.
    first: Option<u32>,
}

impl Announced {
    pub(super) fn announce(&mut self, id: ChannelId, count: u32) {
        self.first.get_or_insert(count);
        if count > 0 {
            *self.due.entry(id).or_default() += u64::from(count);
        }
    }

    /// So many messages have arrived, or were lost; returns how many of them were replayed, which are the first.
    pub(super) fn take(&mut self, id: ChannelId, messages: u64) -> u64 {
        let Some(due) = self.due.get_mut(&id) else { return 0 };
        let replayed = messages.min(*due);
        *due -= replayed;
        if *due == 0 {
            self.due.remove(&id);
        }
        replayed
    }

    /// The id no longer stands for its channel.
    pub(super) fn end(&mut self, id: ChannelId) {
        self.due.remove(&id);
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.first
    }
}

/// The retained messages of each channel that have arrived last, whichever daemon has sent them.
///
/// Channels that were used least recently are forgotten when there are too many.
#[derive(Debug, Default)]
pub(super) struct Seen {
    recent: BTreeMap<ChannelName, VecDeque<Identity>>,
    /// Those of `recent`.
    remembered: usize,
    before: BTreeMap<ChannelName, VecDeque<Identity>>,
}

impl Seen {
    /// Whether the message has arrived before.
    pub(super) fn contains(&self, channel: &ChannelName, identity: Identity) -> bool {
        let messages = self.recent.get(channel).or_else(|| self.before.get(channel));
        messages.is_some_and(|messages| messages.contains(&identity))
    }

    /// The message has arrived; the last `max` of its channel are remembered.
    pub(super) fn remember(&mut self, channel: &ChannelName, identity: Identity, max: u32) {
        if !self.recent.contains_key(channel) {
            if self.remembered >= REMEMBERED_MAX {
                (self.before, self.remembered) = (std::mem::take(&mut self.recent), 0);
            }
            let messages = self.before.remove(channel).unwrap_or_default();
            self.remembered += messages.len();
            self.recent.insert(channel.clone(), messages);
        }
        let Some(messages) = self.recent.get_mut(channel) else { return };
        messages.push_back(identity);
        self.remembered += 1;
        if messages.len() > max as usize {
            messages.pop_front();
            self.remembered -= 1;
        }
    }

    /// Forgets the channels that are not covered.
    pub(super) fn retain(&mut self, is_covered: impl Fn(&ChannelName) -> bool) {
        self.before.retain(|channel, _| is_covered(channel));
        self.recent.retain(|channel, _| is_covered(channel));
        self.remembered = self.recent.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).expect("a name")
    }

    fn message(sequence: u64) -> Identity {
        (SenderId::from_raw(7), sequence)
    }

    #[test]
    fn messages_are_counted_for_each_channel() {
        let (one, other) = (ChannelId(1), ChannelId(2));
        let mut announced = Announced::default();
        assert_eq!(announced.first(), None);
        announced.announce(one, 3);
        announced.announce(other, 0);
        assert_eq!((announced.first(), announced.take(other, 5)), (Some(3), 0));
        assert_eq!([2, 5, 1].map(|messages| announced.take(one, messages)), [2, 1, 0]);
        announced.announce(one, 1);
        announced.announce(one, 1);
        assert_eq!(announced.take(one, 9), 2);
        announced.announce(one, 1);
        announced.end(one);
        assert_eq!(announced.take(one, 1), 0);
    }

    #[test]
    fn the_last_messages_of_a_channel_are_remembered() {
        let mut seen = Seen::default();
        for sequence in 0..5 {
            seen.remember(&name("a"), message(sequence), 2);
        }
        let known =
            |seen: &Seen, channel| (0..5).filter(|&n| seen.contains(&name(channel), message(n))).collect::<Vec<_>>();
        assert_eq!((known(&seen, "a"), known(&seen, "b")), (vec![3, 4], vec![]));
        assert!(!seen.contains(&name("a"), (SenderId::from_raw(8), 4)), "the message of another sender");
        seen.remember(&name("b"), message(1), 2);
        seen.retain(|channel| channel.as_str() == "b");
        assert_eq!((known(&seen, "a"), known(&seen, "b"), seen.remembered), (vec![], vec![1], 1));
    }

    #[test]
    fn memory_is_bounded_and_the_channels_in_use_stay() {
        let mut seen = Seen::default();
        let channels = 3 * REMEMBERED_MAX;
        for n in 0..channels {
            seen.remember(&name(&n.to_string()), message(0), 1);
            seen.remember(&name("in use"), message(n as u64), 1);
            assert!(seen.contains(&name("in use"), message(n as u64)));
        }
        assert!(seen.recent.len() + seen.before.len() <= 2 * (REMEMBERED_MAX + 1));
        assert!(!seen.contains(&name("0"), message(0)));
        assert!(seen.contains(&name(&(channels - 1).to_string()), message(0)));
    }
}
