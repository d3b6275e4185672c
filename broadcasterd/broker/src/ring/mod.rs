//! Rings: shared memory into which a sender publishes, and which listeners read themselves. It never sees the memory.
//!
//! ```text
//! sender --- ring ---+--- link ---> listener that reads the ring itself, a follower
//!                    +--- link ---> another one
//!                    +--- relay --> the server, outboxes ---> every other subscriber, by its socket
//! ```
//!
//! Two transitions are independent of each other. **Upload**: BeginRing and EndRing stand in the stream of the sender; from the one to the
//! other, all messages of the publication are in the ring. At first the relay reads them for all subscribers. **Delivery**: Follow and
//! Unfollow stand in the outbox of a listener; from the one to the other, it reads the ring itself, and the relay passes it by. So a
//! subscriber has one source at any moment, and each change of it has its exact place in its stream.
//!
//! Subscribers that are not listeners by name that drop the oldest stay with the relay, whose runs pass through `delivery` like those of a
//! socket. The server maps the memory, and names a ring in events and effects by a number.
//!
//! A decision that depends on the newest message, such as the answer to Unsubscribe or Confirm, needs a look at the ring:
//! [`Broker::rings_before`] names the rings of an event, and the server reads and samples them first. Counts are differences of such
//! samples, clamped, so that a client can falsify neither those of others nor make any fall.
//!
//! Descriptors travel with the first byte of a control frame. An outbox holds the name of what is attached; `outgoing` ends before such a
//! frame, and offers it alone. What was attached may have ended by then: the frame is withdrawn.
//!
//! A ring has one life: offered, active, ended. While no subscriber needs the relay, the server does not read the ring, and is not woken.

mod check;
mod count;
mod link;
mod pace;
mod passing;
mod upload;

pub(crate) use passing::Passing;
pub(crate) use upload::Upload;

use crate::broker::{Broker, Phase};
use crate::connection::Connection;
use crate::effect::{Attachment, Effect, Effects};
use crate::event::{ConnId, Event, Head, LinkId, Moment, RingId};
use crate::registry::Selector;
use crate::session::selector_of;
use broadcaster_protocol::control::{self, Control};
use broadcaster_protocol::{ChannelId, SenderId};
use broadcaster_ring::{Cursor, Sample};
use std::collections::{BTreeMap, BTreeSet};

/// All rings and links.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// How many rings there may be; 0: the server shares no memory.
    max: usize,
    rings: BTreeMap<RingId, Ring>,
    links: BTreeMap<LinkId, Link>,
    last_ring: u32,
    last_link: u32,
    deadlines: BTreeSet<(Moment, Due)>,
}

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Ring(RingId),
    Link(LinkId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RingPhase {
    /// Accepted; its messages come by the socket still.
    Offered,
    Active,
    /// [`Effect::EndRing`] was issued.
    Ended,
}

/// The ring of one publication.
#[derive(Debug)]
struct Ring {
    /// The connection of the sender.
    conn: ConnId,
    channel: ChannelId,
    sender: SenderId,
    /// Bytes of its memory.
    bytes: u64,
    /// Bytes that a listener may have to read before its sender, which has backpressure, gets no more credit.
    room: Option<u64>,
    /// For how many bytes and messages in it the sender has used up credit.
    spent: (u64, u64),
    phase: RingPhase,
    /// The sender knows that it is accepted.
    is_announced: bool,
    /// Sequence number of its first message.
    first: u64,
    /// Everything up to here is accepted.
    head: Head,
    /// Everything up to here was queued for the subscribers that do not follow; `None` if there are none.
    relay: Option<Cursor>,
    /// By listener, those that are being introduced and those that follow.
    links: BTreeMap<ConnId, LinkId>,
    /// Their listeners that follow.
    followers: BTreeSet<ConnId>,
    /// Listeners that cannot follow this ring.
    refused: BTreeSet<ConnId>,
    /// The link that is being introduced.
    introducing: Option<LinkId>,
    /// No other subscriber can follow.
    is_searched: bool,
    /// The sender was requested to end the ring.
    is_recalled: bool,
    /// When it is recalled, because it has no follower.
    deadline: Option<Moment>,
    /// Where its head was when the broker last looked whether the sender goes on, while the broker stops.
    seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// The listener was offered the ring.
    Offered,
    /// The sender was given its doorbell.
    Adding,
    /// The listener reads the ring from [`Link::start`] on.
    Following,
    /// The listener reads the ring up to [`Link::end`], if it has not reached that yet.
    Draining,
    /// [`Effect::EndLink`] was issued.
    Ended,
}

/// A ring and a listener that reads it itself, or is about to.
#[derive(Debug)]
struct Link {
    ring: RingId,
    listener: ConnId,
    channel: ChannelId,
    state: LinkState,
    /// Sequence number of the first message that the listener reads itself, once it follows.
    start: Option<u64>,
    /// Sequence number of the first one that it does not, once that is known.
    end: Option<u64>,
    /// What the listener was found to have read and lost, and where it was.
    counted: Sample,
    /// Bytes of a frame, on average, when the listener was last looked at.
    frame_bytes: u64,
    /// The listener was requested to report its progress, and has not.
    is_awaited: bool,
    deadline: Option<Moment>,
}

impl Ring {
    /// Where the relay takes over what a follower reads until now, if the server has just looked at the ring.
    fn takeover(&self) -> Cursor {
        self.relay.unwrap_or(self.head.newest)
    }

    /// Messages that were accepted.
    fn messages(&self) -> u64 {
        self.head.newest.sequence.wrapping_sub(self.first)
    }
}

impl Rings {
    /// Number of rings.
    pub(crate) fn len(&self) -> usize {
        self.rings.len()
    }

    /// Number of listeners that read a ring themselves.
    pub(crate) fn followers(&self) -> usize {
        self.rings.values().map(|ring| ring.followers.len()).sum()
    }

    pub(crate) fn is_supported(&self) -> bool {
        self.max > 0
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// How many listeners read the rings of the connection themselves.
    pub(crate) fn readers(&self, conn: ConnId) -> usize {
        self.rings.values().filter(|ring| ring.conn == conn).map(|ring| ring.followers.len()).sum()
    }

    /// Messages and bytes that were not read on each of these links whose listener reads the ring.
    pub(crate) fn followed(&self, links: &BTreeSet<LinkId>) -> impl Iterator<Item = (u64, usize)> {
        links.iter().filter_map(|id| self.links.get(id)).filter_map(|link| {
            let unread = self.unread(link);
            let bytes = match link.state {
                LinkState::Following => unread_bytes(self.rings.get(&link.ring)?, link),
                // The ring goes on without it, or has ended.
                LinkState::Draining => unread.saturating_mul(link.frame_bytes),
                LinkState::Offered | LinkState::Adding | LinkState::Ended => return None,
            };
            Some((unread, usize::try_from(bytes).unwrap_or(usize::MAX)))
        })
    }

    /// Messages that the listener has not read.
    fn unread(&self, link: &Link) -> u64 {
        self.readable(link).saturating_sub(link.counted.received + link.counted.lost)
    }

    /// Messages that the listener can have read by now.
    fn readable(&self, link: &Link) -> u64 {
        let Some(start) = link.start else { return 0 };
        let end = link.end.or_else(|| Some(self.rings.get(&link.ring)?.head.newest.sequence));
        end.unwrap_or(start).wrapping_sub(start)
    }

    fn set_ring_deadline(&mut self, id: RingId, deadline: Option<Moment>) {
        let Some(ring) = self.rings.get_mut(&id) else { return };
        let old = std::mem::replace(&mut ring.deadline, deadline);
        self.replace_deadline(Due::Ring(id), old, deadline);
    }

    fn set_link_deadline(&mut self, id: LinkId, deadline: Option<Moment>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let old = std::mem::replace(&mut link.deadline, deadline);
        self.replace_deadline(Due::Link(id), old, deadline);
    }

    fn replace_deadline(&mut self, due: Due, old: Option<Moment>, new: Option<Moment>) {
        if let Some(old) = old {
            self.deadlines.remove(&(old, due));
        }
        if let Some(new) = new {
            self.deadlines.insert((new, due));
        }
    }

    /// A number that no ring has.
    fn new_ring(&mut self) -> RingId {
        loop {
            self.last_ring = self.last_ring.wrapping_add(1);
            let id = RingId(self.last_ring);
            if !self.rings.contains_key(&id) {
                return id;
            }
        }
    }

    /// A number that no link has.
    fn new_link(&mut self) -> LinkId {
        loop {
            self.last_link = self.last_link.wrapping_add(1);
            let id = LinkId(self.last_link);
            if !self.links.contains_key(&id) {
                return id;
            }
        }
    }
}

/// Bytes of the ring that the listener has not read, or that are overwritten already.
fn unread_bytes(ring: &Ring, link: &Link) -> u64 {
    let words = ring.head.newest.position.saturating_sub(link.counted.position);
    words.saturating_mul(size_of::<u64>() as u64).min(ring.bytes)
}

impl Broker {
    /// Lets clients use up to `max` rings in all: the server can share memory with them. Before the first connection.
    pub fn support_rings(&mut self, max: usize) {
        self.rings.max = max;
    }

    /// Whether frames of the connection may come with descriptors.
    #[inline]
    pub fn expects_descriptors(&self, conn: ConnId) -> bool {
        matches!(self.connections.get(conn.0), Some(Some(connection)) if connection.expects_descriptors)
    }

    /// What has to be written with the first byte of what [`outgoing`](Self::outgoing) offers for the connection, which is one frame then. If it does
    /// not exist any more, the server reports [`Event::Withdrawn`] instead of a write.
    #[inline]
    pub fn attachment(&self, conn: ConnId) -> Option<Attachment> {
        self.connections.get(conn.0)?.as_ref()?.outbox.attachment()
    }

    /// The rings about which the event decides. Before the server reports it, it reports [`Event::Relayed`] for each of them that it reads,
    /// until the newest message, and then [`Event::RingSampled`] and [`Event::LinkSampled`] for all of [`links_of`](Self::links_of).
    pub fn rings_before(&self, event: &Event) -> Vec<RingId> {
        let own = |conn: ConnId, id: u32| self.ring_of(conn, ChannelId(id)).into_iter().collect();
        match event {
            Event::Closed { conn } => self.rings_of(*conn),
            Event::Control { conn, control: Control::EndRing(end) } => own(*conn, end.id),
            Event::Control { conn, control: Control::Confirm(confirm) } => own(*conn, confirm.id),
            Event::Control { control: Control::Unlink(unlink), .. } => {
                self.rings.links.get(&LinkId(unlink.link)).map(|link| link.ring).into_iter().collect()
            }
            Event::Control { control: Control::Subscribe(subscribe), .. } => self.covered_rings(&subscribe.selector),
            Event::Control { conn, control: Control::Unsubscribe(unsubscribe) } => {
                let connection = self.connections.get(conn.0).and_then(Option::as_ref);
                let selector =
                    connection.and_then(|connection| connection.subscriptions.selector(unsubscribe.subscription));
                selector.map(|selector| self.rings_under(selector)).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// The links of the ring that are being introduced or followed.
    pub fn links_of(&self, ring: RingId) -> impl Iterator<Item = LinkId> {
        self.rings.rings.get(&ring).into_iter().flat_map(|ring| ring.links.values().copied())
    }

    /// Whether the broker is about to stop and waits for senders to end their rings. Then the server looks at all rings before
    /// [`Event::Tick`].
    pub fn is_recalling(&self) -> bool {
        matches!(self.phase, Phase::Recalling { .. })
    }

    /// The rings of the connection's publications.
    fn rings_of(&self, conn: ConnId) -> Vec<RingId> {
        let connection = self.connections.get(conn.0).and_then(Option::as_ref);
        let publications = connection.into_iter().flat_map(|connection| connection.publications.values());
        publications.filter_map(|publication| publication.upload.ring()).collect()
    }

    /// The ring of the connection's publication on the channel.
    fn ring_of(&self, conn: ConnId, id: ChannelId) -> Option<RingId> {
        self.connections.get(conn.0)?.as_ref()?.publications.get(&id)?.upload.ring()
    }

    fn covered_rings(&self, selector: &control::Selector) -> Vec<RingId> {
        match selector_of(selector) {
            Ok(selector) => self.rings_under(&selector),
            Err(_) => Vec::new(), // it is going to be refused
        }
    }

    /// The active rings of the channels that the selector covers.
    fn rings_under(&self, selector: &Selector) -> Vec<RingId> {
        let rings = self.rings.rings.iter().filter(|(_, ring)| {
            let channel = self.registry.channel(ring.channel);
            ring.phase == RingPhase::Active && channel.is_some_and(|channel| selector.covers(channel.name()))
        });
        rings.map(|(&id, _)| id).collect()
    }

    /// Messages and bytes of the sender's ring on the channel that the listener has not read, if it reads the ring itself and they are
    /// more than half of it.
    pub(crate) fn far_behind_in_ring(&self, sender: ConnId, id: ChannelId, listener: ConnId) -> Option<(u64, u64)> {
        let ring = self.rings.rings.get(&self.ring_of(sender, id)?)?;
        let link = self.rings.links.get(ring.links.get(&listener)?)?;
        let bytes = unread_bytes(ring, link);
        (link.state == LinkState::Following && bytes > ring.bytes / 2).then(|| (self.rings.unread(link), bytes))
    }

    /// The connection's part in all rings ends: it is about to leave.
    pub(crate) fn leave_rings(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        for id in self.rings_of(conn) {
            self.end_upload(id, effects);
        }
        let links = self.connection(conn).map(|connection| connection.links.clone()).unwrap_or_default();
        for id in links {
            self.end_link(now, id, effects);
        }
        for ring in self.rings.rings.values_mut() {
            ring.refused.remove(&conn);
        }
    }

    /// Subscribers have joined or left: the relay is needed or not.
    pub(crate) fn review_rings(&mut self, effects: &mut Effects) {
        if self.rings.rings.is_empty() {
            return;
        }
        self.turn_work += self.rings.rings.len();
        let active = self.rings.rings.iter_mut().filter(|(_, ring)| ring.phase == RingPhase::Active);
        for (&id, ring) in active {
            ring.is_searched = false;
            let subscribers = self.registry.channel(ring.channel).map_or(0, |channel| channel.subscribers().len());
            let is_needed = subscribers > ring.followers.len();
            match (ring.relay, is_needed) {
                (None, true) => {
                    ring.relay = Some(ring.head.newest);
                    effects.push(Effect::Relay { ring: id, from: ring.relay });
                }
                (Some(_), false) => {
                    ring.relay = None;
                    effects.push(Effect::Relay { ring: id, from: None });
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }

    /// What was due has come.
    pub(crate) fn tick_rings(&mut self, now: Moment, effects: &mut Effects) {
        self.check_recalled(now, effects);
        while let Some(&(_, due)) = self.rings.deadlines.first().filter(|&&(deadline, _)| deadline <= now) {
            match due {
                Due::Ring(id) => self.recall(now, id, effects),
                Due::Link(id) => self.expire_link(now, id, effects),
            }
        }
    }
}

impl Connection {
    /// Publications whose messages are in a ring.
    pub(crate) fn rings(&self) -> usize {
        self.publications.values().filter(|publication| publication.upload.is_ring()).count()
    }
}
