//! Counts of what left an outbox, delivered or lost. Nothing decides by them.

use super::span::Extent;
use broadcaster_protocol::ChannelId;

/// Messages that were dropped from outboxes. What an observer loses is counted apart: it is not a loss of the bus.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    total: u64,
    observed: u64,
    by_channel: Vec<(ChannelId, u64)>,
}

impl Losses {
    pub(super) fn add(&mut self, channel: ChannelId, count: u64, observer: bool) {
        if observer {
            self.observed = self.observed.saturating_add(count);
            return;
        }
        self.total = self.total.saturating_add(count);
        match self.by_channel.last_mut() {
            Some((last, lost)) if *last == channel => *lost = lost.saturating_add(count),
            _ => self.by_channel.push((channel, count)),
        }
    }

    /// Messages lost by subscriptions that are not observers.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Messages lost by observers.
    #[cfg(test)]
    pub(crate) fn observed(&self) -> u64 {
        self.observed
    }

    /// Messages lost by all subscriptions.
    pub(crate) fn sum(&self) -> u64 {
        self.total.saturating_add(self.observed)
    }

    /// The messages of [`total`](Self::total) by channel. A channel may occur more than once.
    pub(crate) fn by_channel(&self) -> &[(ChannelId, u64)] {
        &self.by_channel
    }
}

/// A number of messages, and the bytes of their frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// Messages that were written to the connection, by the kind of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delivered {
    pub(crate) bus: Count,
    pub(crate) observers: Count,
}

impl Delivered {
    pub(super) fn add(&mut self, frames: Extent, observer: bool) {
        let count = if observer { &mut self.observers } else { &mut self.bus };
        count.messages += frames.messages;
        count.bytes += frames.bytes as u64;
    }
}
