//! The introduction of a listener to the sender of a ring, and the end of that. It never touches a message.
//!
//! ```text
//! relay delivers a run -> OfferLink -> LinkReady -> AddLink -> LinkAdded -> Follow
//!                         listener     listener     sender     sender       listener
//! ```

use super::upload::unlink;
use super::{Link, LinkState, Passing, RingPhase};
use crate::broker::Broker;
use crate::effect::{Attachment, Effect, Effects};
use crate::event::{ConnId, LinkId, Moment, RingId};
use crate::limits::{ALONE_MAX, INTRODUCTION_TIMEOUT, LINKS_MAX, LINKS_PER_LISTENER_MAX, LINKS_PER_RING_MAX};
use crate::registry::{Channel, Selector, Subscriber};
use crate::session::Refusal;
use broadcaster_protocol::ChannelId;
use broadcaster_protocol::control::{AddLink, Control, Follow, OfferLink, RefusedCode};
use broadcaster_ring::Sample;

impl Broker {
    /// The subscribers of the channel that can read a ring themselves.
    pub(super) fn may_follow(&self, id: ChannelId) -> impl Iterator<Item = ConnId> {
        let channel = self.registry.channel(id);
        let by_name = channel.map(|channel| Selector::Name(channel.name().clone()));
        let subscribers = channel.into_iter().flat_map(Channel::subscribers);
        let may_follow = move |subscriber: &&Subscriber| {
            by_name.as_ref().is_some_and(|by_name| self.is_follower(subscriber, by_name))
        };
        subscribers.filter(may_follow).map(|subscriber| subscriber.conn)
    }

    /// Whether the subscriber can read a ring itself: it can map one, and is a listener by name that loses the oldest messages when it is slow, as
    /// readers of a ring do.
    fn is_follower(&self, subscriber: &Subscriber, by_name: &Selector) -> bool {
        let Some(Some(connection)) = self.connections.get(subscriber.conn.0) else { return false };
        let deciding = || connection.subscriptions.get(subscriber.conn, by_name);
        connection.shares_memory
            && subscriber.terms.slows_senders()
            && deciding().is_some_and(|deciding| deciding.rank() == subscriber.rank())
    }

    /// Offers the ring to a listener that can read it itself, if there is one. One at a time, so that few descriptors are in flight; and only while the
    /// relay delivers, because then the sender is awake.
    pub(super) fn introduce(&mut self, now: Moment, id: RingId, effects: &mut Effects) {
        let Some(ring) = self.rings.rings.get(&id) else { return };
        let may_introduce = ring.phase == RingPhase::Active
            && ring.introducing.is_none()
            && !(ring.is_recalled || ring.is_searched)
            && ring.links.len() < LINKS_PER_RING_MAX
            && self.rings.links.len() < LINKS_MAX;
        if !may_introduce {
            return;
        }
        let (channel, sender, bytes) = (ring.channel, ring.sender, ring.bytes);
        let mut others = self
            .may_follow(channel)
            .filter(|listener| !ring.links.contains_key(listener) && !ring.refused.contains(listener))
            .peekable();
        let is_searched = others.peek().is_none();
        let next = others.find(|&listener| !self.is_busy(listener));
        drop(others);
        self.turn_work += self.registry.channel(channel).map_or(0, |channel| channel.subscribers().len());
        if let Some(ring) = self.rings.rings.get_mut(&id) {
            ring.is_searched = is_searched;
        }
        if let Some(listener) = next
            && self.may_pass(now, listener, id, effects)
        {
            let link = self.add_link(now, id, listener, channel);
            let offer = OfferLink { link: link.0, id: channel.0, sender: sender.raw(), bytes, extensions: Vec::new() };
            self.reply_with(now, listener, &Control::OfferLink(offer), Some(Attachment::Ring(id)), effects);
        }
    }

    /// Whether the listener is being introduced to another sender, is asked whether it can be, has as many links as it may have, or does not
    /// read at the moment.
    fn is_busy(&self, listener: ConnId) -> bool {
        let Some(Some(connection)) = self.connections.get(listener.0) else { return true };
        let mut links = connection.links.iter().filter_map(|id| self.rings.links.get(id));
        let is_asked = matches!(connection.passing, Passing::Asked(_));
        connection.blocked.is_some()
            || is_asked
            || connection.links.len() >= LINKS_PER_LISTENER_MAX
            || links.any(|link| matches!(link.state, LinkState::Offered | LinkState::Adding))
    }

    fn add_link(&mut self, now: Moment, ring: RingId, listener: ConnId, channel: ChannelId) -> LinkId {
        let id = self.rings.new_link();
        let link = Link {
            ring,
            listener,
            channel,
            state: LinkState::Offered,
            start: None,
            end: None,
            counted: Sample::default(),
            frame_bytes: 0,
            is_awaited: false,
            deadline: None,
        };
        self.rings.links.insert(id, link);
        self.rings.set_link_deadline(id, Some(now.after(INTRODUCTION_TIMEOUT)));
        if let Some(ring) = self.rings.rings.get_mut(&ring) {
            ring.links.insert(listener, id);
            ring.introducing = Some(id);
        }
        if let Some(connection) = self.connection(listener) {
            connection.links.insert(id);
        }
        id
    }

    pub(crate) fn link_ready(&mut self, now: Moment, conn: ConnId, id: LinkId, is_usable: bool, effects: &mut Effects) {
        if self.connection(conn).is_none_or(|connection| connection.is_leaving()) || self.phase.is_over() {
            return;
        }
        if let Err((code, reason)) = self.check_shares_memory(conn) {
            return self.refuse(now, conn, code, &reason, effects);
        }
        let link = self.rings.links.get_mut(&id);
        let Some(link) = link.filter(|link| link.listener == conn && link.state == LinkState::Offered) else {
            return self.reply(now, conn, &unlink(id), effects); // it has ended in the meantime
        };
        if !is_usable {
            self.reply(now, conn, &unlink(id), effects);
            return self.refuse_link(now, id, effects);
        }
        link.state = LinkState::Adding;
        let (ring, channel) = (link.ring, link.channel);
        let Some(sender) = self.rings.rings.get(&ring).map(|ring| ring.conn) else { return };
        self.rings.set_link_deadline(id, Some(now.after(INTRODUCTION_TIMEOUT)));
        effects.push(Effect::KeepLink { link: id, ring });
        let add = Control::AddLink(AddLink { id: channel.0, link: id.0, extensions: Vec::new() });
        self.reply_with(now, sender, &add, Some(Attachment::Link(id)), effects);
    }

    /// The sender wakes the listener from now on: it can follow, from where the relay stands.
    pub(crate) fn link_added(
        &mut self,
        now: Moment,
        conn: ConnId,
        id: LinkId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let Some(link) = self.rings.links.get_mut(&id) else { return Ok(()) };
        let ring = self.rings.rings.get_mut(&link.ring).filter(|ring| ring.conn == conn);
        let Some(ring) = ring else { return Ok(()) };
        let (LinkState::Adding, Some(at)) = (link.state, ring.relay) else {
            return Err((RefusedCode::Protocol, format!("the link {} is not being added", id.0)));
        };
        (link.state, link.start) = (LinkState::Following, Some(at.sequence));
        link.counted.position = at.position;
        ring.introducing = None;
        ring.followers.insert(link.listener);
        let (ring, listener) = (link.ring, link.listener);
        self.rings.set_link_deadline(id, None);
        self.rings.set_ring_deadline(ring, None);
        let follow = Follow { link: id.0, position: at.position, sequence: at.sequence, extensions: Vec::new() };
        self.reply(now, listener, &Control::Follow(follow), effects);
        self.review_rings(effects);
        Ok(())
    }

    /// One end cannot use the link, or the listener has read it to its end. The server has just looked at the ring.
    pub(crate) fn unlink(
        &mut self,
        now: Moment,
        conn: ConnId,
        id: LinkId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let Some(link) = self.rings.links.get(&id) else { return Ok(()) };
        let (state, ring, is_listener) = (link.state, link.ring, link.listener == conn);
        let sender = self.rings.rings.get(&ring).map(|ring| ring.conn);
        match state {
            LinkState::Offered | LinkState::Adding if is_listener => self.refuse_link(now, id, effects),
            LinkState::Following if is_listener => {
                self.lose_rest(now, id, effects);
                self.refuse_link(now, id, effects);
                self.review_rings(effects);
            }
            LinkState::Draining if is_listener => self.end_link(now, id, effects),
            LinkState::Adding if sender == Some(conn) => {
                let listener = link.listener;
                self.reply(now, listener, &unlink(id), effects);
                self.refuse_link(now, id, effects);
            }
            // It cannot wake the listener, which may read the ring at this moment. The end of the ring has a place that both know.
            LinkState::Following if sender == Some(conn) => self.recall(now, ring, effects),
            LinkState::Offered | LinkState::Adding | LinkState::Following | LinkState::Draining | LinkState::Ended => {}
        }
        Ok(())
    }

    /// The relay serves the listener as long as the ring lives.
    fn refuse_link(&mut self, now: Moment, id: LinkId, effects: &mut Effects) {
        let Some(link) = self.rings.links.get(&id) else { return };
        if let Some(ring) = self.rings.rings.get_mut(&link.ring) {
            ring.refused.insert(link.listener);
        }
        self.end_link(now, id, effects);
    }

    /// What a listener loses that follows no more, and has not read everything: the relay takes over behind that.
    fn lose_rest(&mut self, now: Moment, id: LinkId, effects: &mut Effects) {
        let Some(link) = self.rings.links.get_mut(&id) else { return };
        let (conn, channel) = (link.listener, link.channel);
        let Some(ring) = self.rings.rings.get(&link.ring) else { return };
        let Some(start) = link.start else { return };
        let counted = link.counted.received + link.counted.lost;
        let rest = ring.takeover().sequence.wrapping_sub(start).saturating_sub(counted);
        link.end = Some(start.wrapping_add(counted)); // and nothing behind is counted on the link
        let terms = self.registry.subscriber(channel, conn).map(|subscriber| subscriber.terms);
        if let Some(terms) = terms.filter(|_| rest > 0) {
            self.change_waiting(now, conn, |connection, losses| {
                connection.outbox.push_loss(channel, rest, terms, losses);
            });
            if let Some(connection) = self.connection(conn) {
                connection.request_write(conn, effects);
            }
        }
    }

    /// The subscriptions of the listener have changed: it follows no ring that it may not follow any more. Before the answer, and the server has
    /// just looked at the rings.
    pub(crate) fn end_unfounded_links(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let links = self.connection(conn).map(|connection| connection.links.clone()).unwrap_or_default();
        for id in links {
            let Some(link) = self.rings.links.get(&id) else { continue };
            let Some(ring) = self.rings.rings.get(&link.ring).filter(|_| link.state != LinkState::Draining) else {
                continue;
            };
            let by_name = self.registry.channel(link.channel).map(|channel| Selector::Name(channel.name().clone()));
            let subscriber = self.registry.subscriber(link.channel, conn);
            if let (Some(by_name), Some(subscriber)) = (by_name, subscriber)
                && self.is_follower(subscriber, &by_name)
            {
                continue;
            }
            let (sender, sequence) = (ring.conn, ring.takeover().sequence);
            let (ring, follows) = (link.ring, link.state == LinkState::Following);
            if follows {
                self.reply(now, sender, &unlink(id), effects);
            }
            self.unfollow(now, id, sequence, effects);
            self.set_alone(now, ring);
        }
    }

    /// Ends the link, without a word to the listener. The sender need not wake it any more.
    pub(super) fn end_link(&mut self, now: Moment, id: LinkId, effects: &mut Effects) {
        let Some(link) = self.rings.links.get_mut(&id) else { return };
        if link.state == LinkState::Ended {
            return;
        }
        let (is_known, ring, listener) = (link.is_known_to_sender(), link.ring, link.listener);
        link.state = LinkState::Ended;
        self.rings.set_link_deadline(id, None);
        effects.push(Effect::EndLink(id));
        let Some(ring_state) = self.rings.rings.get_mut(&ring) else { return };
        if ring_state.introducing == Some(id) {
            ring_state.introducing = None;
        }
        if ring_state.links.get(&listener) == Some(&id) {
            ring_state.links.remove(&listener);
            ring_state.followers.remove(&listener);
        }
        let (sender, ends) = (ring_state.conn, ring_state.phase == RingPhase::Ended);
        if is_known && !ends {
            self.reply(now, sender, &unlink(id), effects);
        }
        self.set_alone(now, ring);
    }

    /// A ring that no listener follows is recalled after a while.
    fn set_alone(&mut self, now: Moment, id: RingId) {
        let Some(ring) = self.rings.rings.get(&id) else { return };
        if ring.followers.is_empty() && !ring.is_recalled && ring.phase == RingPhase::Active && ring.deadline.is_none()
        {
            self.rings.set_ring_deadline(id, Some(now.after(ALONE_MAX)));
        }
    }

    pub(crate) fn link_ended(&mut self, now: Moment, id: LinkId, sample: Option<Sample>, effects: &mut Effects) {
        if let Some(sample) = sample {
            self.count_sample(id, sample);
        }
        self.rings.set_link_deadline(id, None);
        if let Some(link) = self.rings.links.remove(&id)
            && let Some(connection) = self.connection(link.listener)
        {
            connection.links.remove(&id);
            self.note_lag(now, link.listener, effects);
        }
    }

    pub(crate) fn link_sampled(&mut self, now: Moment, id: LinkId, sample: Sample, effects: &mut Effects) {
        self.count_sample(id, sample);
        let drained = self
            .rings
            .links
            .get(&id)
            .is_some_and(|link| link.state == LinkState::Draining && self.rings.unread(link) == 0);
        if drained {
            self.end_link(now, id, effects);
        }
        if let Some((ring, listener)) = self.rings.links.get(&id).map(|link| (link.ring, link.listener))
            && self.is_paced(ring)
        {
            self.note_lag(now, listener, effects);
        }
    }

    /// An introduction has taken too long.
    pub(super) fn expire_link(&mut self, now: Moment, id: LinkId, effects: &mut Effects) {
        self.rings.set_link_deadline(id, None);
        let Some(link) = self.rings.links.get(&id) else { return };
        let (state, listener) = (link.state, link.listener);
        match state {
            LinkState::Offered | LinkState::Adding => {
                self.reply(now, listener, &unlink(id), effects);
                self.refuse_link(now, id, effects);
            }
            LinkState::Following | LinkState::Draining | LinkState::Ended => {} // they have no deadline
        }
    }
}

impl Link {
    /// Whether the sender has been given the doorbell, and has it still.
    fn is_known_to_sender(&self) -> bool {
        matches!(self.state, LinkState::Adding | LinkState::Following)
    }
}
