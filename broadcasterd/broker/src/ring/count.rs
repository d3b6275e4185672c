//! What passes through rings, counted from what the server sees of their words. It trusts none of them: nothing that a client states makes a
//! count fall, or exceed what was accepted. A count that a hostile sender has driven to its end stays there.

use crate::broker::Broker;
use crate::connection::Reach;
use crate::effect::Effects;
use crate::event::{Head, LinkId, Moment, RingId};
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_ring::{Cursor, MESSAGES_PER_WORD_MAX, Sample};

/// The most bytes of a frame for each word of a ring: that of an empty message takes two.
const FRAME_BYTES_PER_WORD_MAX: u64 = HEADER_BYTES as u64 / 2;

/// Words and messages between two places of a ring, if the second can be behind the first.
pub(super) fn distance(from: Cursor, to: Cursor) -> Option<(u64, u64)> {
    let words = to.position.checked_sub(from.position)?;
    let messages = to.sequence.wrapping_sub(from.sequence);
    let fits = messages <= words.saturating_mul(MESSAGES_PER_WORD_MAX) && (messages > 0 || words == 0);
    fits.then_some((words, messages))
}

impl Broker {
    /// Everything up to the head is accepted. Returns whether the ring goes on.
    pub(crate) fn note_head(&mut self, now: Moment, id: RingId, head: Head, effects: &mut Effects) -> bool {
        let Some(ring) = self.rings.rings.get_mut(&id) else { return false };
        let before = ring.head;
        let (words, messages) = match distance(before.newest, head.newest) {
            Some((_, 0)) => return true,
            Some(distance) => distance,
            None => {
                let problem = "its head has moved back, or by a number of messages that does not fit";
                self.ring_corrupt(now, id, problem, effects);
                return false;
            }
        };
        let bytes_max = words.saturating_mul(FRAME_BYTES_PER_WORD_MAX);
        let bytes = head.frame_bytes.saturating_sub(before.frame_bytes).min(bytes_max);
        ring.head = Head { newest: head.newest, frame_bytes: before.frame_bytes.saturating_add(bytes) };
        let (conn, channel) = (ring.conn, ring.channel);
        let (followers, is_relayed) = (ring.followers.len(), ring.relay.is_some());
        self.stats.messages_accepted = self.stats.messages_accepted.saturating_add(messages);
        self.stats.ring_messages_accepted = self.stats.ring_messages_accepted.saturating_add(messages);
        self.stats.bytes_accepted = self.stats.bytes_accepted.saturating_add(bytes);
        let mut listeners = 0;
        if let Some(channel) = self.registry.channel_mut(channel) {
            channel.messages_accepted = channel.messages_accepted.saturating_add(messages);
            channel.bytes_accepted = channel.bytes_accepted.saturating_add(bytes);
            listeners = u32::try_from(channel.listeners()).unwrap_or(u32::MAX);
        }
        let Some(connection) = self.connection(conn) else { return true };
        connection.tally.messages = connection.tally.messages.saturating_add(messages);
        connection.tally.bytes = connection.tally.bytes.saturating_add(bytes);
        let Some(publication) = connection.publications.get_mut(&channel) else { return true };
        publication.next = head.newest.sequence;
        publication.not_retained = None;
        // Otherwise the relay knows how many took a message once it has read it.
        if !is_relayed {
            publication.reach = Reach { listeners, took: u32::try_from(followers).unwrap_or(u32::MAX) };
        }
        true
    }

    /// Counts what the listener has read and lost since it was last looked at.
    pub(super) fn count_sample(&mut self, id: LinkId, sample: Sample) {
        let Some(link) = self.rings.links.get(&id) else { return };
        let (readable, before) = (self.rings.readable(link), link.counted);
        let received = sample.received.min(readable.saturating_sub(before.lost)).max(before.received);
        let lost = sample.lost.min(readable.saturating_sub(received)).max(before.lost);
        let ring = self.rings.rings.get(&link.ring);
        let frame_bytes = ring.and_then(|ring| ring.head.frame_bytes.checked_div(ring.messages()));
        let Some(link) = self.rings.links.get_mut(&id) else { return };
        link.frame_bytes = frame_bytes.unwrap_or(link.frame_bytes);
        link.counted = Sample { position: sample.position.max(before.position), received, lost };
        let (conn, channel, frame_bytes) = (link.listener, link.channel, link.frame_bytes);
        let (received, lost) = (received - before.received, lost - before.lost);
        self.stats.messages_delivered = self.stats.messages_delivered.saturating_add(received);
        self.stats.messages_lost = self.stats.messages_lost.saturating_add(lost);
        if let Some(channel) = self.registry.channel_mut(channel) {
            channel.messages_lost = channel.messages_lost.saturating_add(lost);
        }
        if let Some(connection) = self.connection(conn) {
            connection.tally.messages = connection.tally.messages.saturating_add(received);
            connection.tally.bytes = connection.tally.bytes.saturating_add(received.saturating_mul(frame_bytes));
            connection.tally.lost = connection.tally.lost.saturating_add(lost);
        }
    }
}
