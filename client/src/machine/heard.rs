//! Which messages were received from rings whose daemon is gone: the next daemon may deliver them again. It never sees a ring.

use crate::ChannelName;
use broadcaster_protocol::{Run, SenderId};
use std::collections::VecDeque;
use std::ops::Range;

/// How many senders are remembered: as many as a listener has links.
const SENDERS_MAX: usize = 32;

/// What was received of one sender on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) channel: ChannelName,
    pub(super) sender: SenderId,
    /// The sequence numbers of its messages.
    pub(super) sequences: Range<u64>,
}

/// What was received of each sender, until it has sent something else.
#[derive(Debug, Default)]
pub(super) struct AllHeard(VecDeque<Heard>);

impl AllHeard {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn remember(&mut self, heard: Heard) {
        self.0.retain(|other| (&other.channel, other.sender) != (&heard.channel, heard.sender));
        if !heard.sequences.is_empty() {
            if self.0.len() == SENDERS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(heard);
        }
    }

    /// Drops the messages from the front of this run that were received before. The first one that was not ends that: a sender numbers its
    /// messages in order, and another one with the same id begins anew.
    pub(super) fn skip(&mut self, channel: &ChannelName, run: &mut Run) {
        let Some(sender) = run.front().map(|frame| frame.sender) else { return };
        let is_of = |heard: &Heard| heard.sender == sender && heard.channel == *channel;
        let Some(at) = self.0.iter().position(is_of) else { return };
        while let Some(frame) = run.front() {
            if !self.0[at].sequences.contains(&frame.sequence) {
                self.0.remove(at);
                return;
            }
            run.skip_front();
        }
    }
}
