//! Backpressure on a sender whose messages are in a ring: what it spends, and which listeners are behind. Who waits for whom is decided in
//! [`credit`](crate::credit).
//!
//! A sender without credit has at most three quarters of its ring in front of the slowest listener that counts, so that it overwrites nothing that
//! is to be read: a quarter that a listener may have to read when credit is granted, a quarter of credit, and the message that
//! uses up more than is left, which has at most a quarter.

use super::{Link, LinkState, Ring, Rings};
use crate::broker::Broker;
use crate::credit::Lag;
use crate::delivery::Published;
use crate::effect::Effects;
use crate::event::{ConnId, LinkId, Moment, RingId};
use crate::session::Refusal;
use broadcaster_protocol::control::{AwaitProgress, Control};
use broadcaster_protocol::{ChannelId, Run};
use broadcaster_ring::HEADER_WORDS;
use std::collections::BTreeSet;

const WORD_BYTES: u64 = size_of::<u64>() as u64;

/// A quarter of what a ring of so many bytes has for messages.
pub(super) fn ring_room(bytes: u64) -> u64 {
    bytes.saturating_sub(HEADER_WORDS as u64 * WORD_BYTES) / 4
}

/// What a listener may have to read that has caught up, in a ring with so much room.
fn caught_up(room: u64) -> u64 {
    room / 4
}

impl Rings {
    /// How far the listener with these links is behind in the rings of senders with backpressure.
    fn lag(&self, links: &BTreeSet<LinkId>) -> Lag {
        let links = links.iter().filter_map(|id| self.links.get(id));
        links.filter_map(|link| Some(self.rings.get(&link.ring)?.lag_of(self, link))).max().unwrap_or_default()
    }
}

impl Ring {
    /// How far the listener of the link is behind, if the sender has backpressure.
    fn lag_of(&self, rings: &Rings, link: &Link) -> Lag {
        let is_reading = match link.state {
            LinkState::Following => true,
            LinkState::Draining => rings.unread(link) > 0,
            LinkState::Offered | LinkState::Adding | LinkState::Ended => false,
        };
        let Some(room) = self.room.filter(|_| is_reading) else { return Lag::None };
        let words = self.head.newest.position.saturating_sub(link.counted.position);
        match words.saturating_mul(WORD_BYTES) {
            bytes if bytes > room => Lag::Behind,
            bytes if bytes > caught_up(room) => Lag::Late,
            _ => Lag::None,
        }
    }
}

impl Broker {
    /// Whether the ring belongs to a sender with backpressure, which calls the server when it needs credit.
    pub fn is_paced(&self, ring: RingId) -> bool {
        self.rings.rings.get(&ring).is_some_and(|ring| ring.room.is_some())
    }

    /// Whether the sender of the ring may lack credit: the server looks at the listeners that read the ring.
    pub fn wants_credit(&self, ring: RingId) -> bool {
        self.rings.rings.get(&ring).is_some_and(|ring| self.credits.is_wanting(ring.channel, ring.conn))
    }

    /// The relay is about to pass these messages on. Returns bytes and messages of those at the front that are covered by credit.
    pub(super) fn spend_relayed(&mut self, now: Moment, id: RingId, run: &Run) -> (usize, u64) {
        let Some(ring) = self.rings.rings.get(&id).filter(|ring| ring.room.is_some()) else { return (0, 0) };
        let (conn, channel) = (ring.conn, ring.channel);
        let is_newest = ring.relay.is_some_and(|at| at == ring.head.newest);
        let connection = self.connections.get(conn.0).and_then(Option::as_ref);
        let pace = connection.and_then(|connection| connection.publications.get(&channel)?.pace.as_ref());
        let covered = pace.map_or((0, 0), |pace| pace.covered(run.bytes(), run.messages()));
        if is_newest {
            self.spend_up_to_head(now, id); // also for what was lost
        } else {
            self.spend_in_ring(now, id, run.bytes().len() as u64, run.messages());
        }
        covered
    }

    /// The sender has used up credit for all that is in the ring, unless the relay is going to come to that.
    pub(crate) fn spend_all(&mut self, now: Moment, id: RingId) {
        if self.rings.rings.get(&id).is_some_and(|ring| ring.relay.is_none_or(|at| at == ring.head.newest)) {
            self.spend_up_to_head(now, id);
        }
    }

    fn spend_up_to_head(&mut self, now: Moment, id: RingId) {
        let Some(ring) = self.rings.rings.get(&id) else { return };
        let bytes = ring.head.frame_bytes.saturating_sub(ring.spent.0);
        let messages = ring.messages().saturating_sub(ring.spent.1);
        self.spend_in_ring(now, id, bytes, messages);
    }

    fn spend_in_ring(&mut self, now: Moment, id: RingId, bytes: u64, messages: u64) {
        let Some(ring) = self.rings.rings.get_mut(&id).filter(|ring| ring.room.is_some()) else { return };
        if (bytes, messages) == (0, 0) {
            return;
        }
        ring.spent = (ring.spent.0.saturating_add(bytes), ring.spent.1.saturating_add(messages));
        let (conn, channel) = (ring.conn, ring.channel);
        let published = Published { channel, sender: ring.sender, first: ring.first, messages, bytes };
        let connection = self.connections.get_mut(conn.0).and_then(Option::as_mut);
        let publication = connection.and_then(|connection| connection.publications.get_mut(&channel));
        if let Some(pace) = publication.and_then(|publication| publication.pace.as_mut()) {
            self.credits.spend(now, &self.limits, conn, &published, pace);
        }
    }

    /// Notes which followers of the sender's ring on the channel are behind. They may have come further since they were looked at.
    pub(crate) fn note_followers(&mut self, now: Moment, sender: ConnId, channel: ChannelId, effects: &mut Effects) {
        let Some(ring) = self.ring_of(sender, channel).and_then(|id| self.rings.rings.get(&id)) else { return };
        let listeners: Vec<_> = ring.links.keys().copied().collect();
        for listener in listeners {
            self.note_lag(now, listener, effects);
        }
    }

    /// Notes how far the listener is behind in rings. It is requested to report when that is over.
    pub(crate) fn note_lag(&mut self, now: Moment, listener: ConnId, effects: &mut Effects) {
        let room = self.room();
        let Some(connection) = self.connections.get_mut(listener.0).and_then(Option::as_mut) else { return };
        let lag = self.rings.lag(&connection.links);
        self.turn_work += connection.links.len();
        if lag != connection.backlog.in_rings {
            connection.backlog.in_rings = lag;
            if connection.note_backlog(now, room) {
                self.credits.recovering.insert(listener);
            }
        }
        // Senders wait for the end of the one, or can wait for it again after the end of the other.
        let awaited = if connection.backlog.left_behind { Lag::Late } else { Lag::Behind };
        if lag >= awaited {
            for link in connection.links.clone() {
                self.await_progress(now, link, awaited, effects);
            }
        }
    }

    /// The ring has ended: no sender waits for those that read its rest.
    pub(super) fn note_readers(&mut self, now: Moment, id: RingId, effects: &mut Effects) {
        let readers = self.rings.links.values().filter(|link| link.ring == id).map(|link| link.listener);
        for listener in readers.collect::<Vec<_>>() {
            self.note_lag(now, listener, effects);
        }
    }

    /// If the listener of the link is behind as far as this, or farther, it reports as soon as it is so no more.
    fn await_progress(&mut self, now: Moment, id: LinkId, lag: Lag, effects: &mut Effects) {
        let Some(link) = self.rings.links.get(&id).filter(|link| !link.is_awaited) else { return };
        let Some(ring) = self.rings.rings.get(&link.ring) else { return };
        if link.state != LinkState::Following || ring.lag_of(&self.rings, link) < lag {
            return;
        }
        // Half of what it may have to read is left then, so that it has something to do until more arrives.
        let room = ring.room.unwrap_or(0);
        let allowed = if lag == Lag::Behind { room } else { caught_up(room) };
        let ahead = allowed / WORD_BYTES / 2;
        let position = ring.head.newest.position.saturating_sub(ahead);
        let listener = link.listener;
        if let Some(link) = self.rings.links.get_mut(&id) {
            link.is_awaited = true;
        }
        let request = AwaitProgress { link: id.0, position, extensions: Vec::new() };
        self.reply(now, listener, &Control::AwaitProgress(request), effects);
    }

    /// The listener has come to where it was to report. The server has just looked at the ring and at its page.
    pub(crate) fn progress(
        &mut self,
        now: Moment,
        conn: ConnId,
        id: LinkId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let link = self.rings.links.get_mut(&id).filter(|link| link.listener == conn);
        if let Some(link) = link {
            link.is_awaited = false;
            self.note_lag(now, conn, effects);
        }
        Ok(())
    }
}
