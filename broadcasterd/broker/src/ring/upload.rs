//! From the offer of a ring to its end, and what the relay reads from it. It never decides which listener follows.

use super::count::distance;
use super::pace::ring_room;
use super::{LinkState, Ring, RingPhase};
use crate::broker::{Broker, Phase};
use crate::connection::ConnPhase;
use crate::credit::Pace;
use crate::delivery::Admission;
use crate::effect::{Attachment, Effect, Effects};
use crate::event::{ConnId, Head, LinkId, Moment, RingId};
use crate::limits::{ALONE_MAX, RECALL_STEP, RINGS_PER_CONNECTION_MAX, counted};
use crate::session::Refusal;
use broadcaster_protocol::control::{
    BeginRing, Control, Declined, EndRing, Recall, RefusedCode, RingAccepted, Unfollow, Unlink, kind,
};
use broadcaster_protocol::{ChannelId, Run};
use broadcaster_ring::Cursor;
use std::collections::{BTreeMap, BTreeSet};

/// How the messages of a publication arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Upload {
    /// By the socket.
    #[default]
    Socket,
    /// By the socket; the sender may use the ring.
    Offered(RingId),
    /// In the ring.
    Ring(RingId),
}

impl Upload {
    /// The ring of the publication.
    pub(crate) fn ring(self) -> Option<RingId> {
        match self {
            Self::Socket => None,
            Self::Offered(ring) | Self::Ring(ring) => Some(ring),
        }
    }

    /// Whether the messages are in a ring.
    #[inline]
    pub(crate) fn is_ring(self) -> bool {
        matches!(self, Self::Ring(_))
    }
}

impl Broker {
    pub(crate) fn ring_offered(
        &mut self,
        now: Moment,
        conn: ConnId,
        id: ChannelId,
        bytes: Result<u64, String>,
        effects: &mut Effects,
    ) {
        let is_over = self.phase.is_over();
        let phase = self.connection(conn).map(|connection| connection.phase);
        if phase == Some(ConnPhase::Greeting) {
            return self.refuse(now, conn, RefusedCode::Protocol, "the first frame is not a Hello", effects);
        }
        if phase != Some(ConnPhase::Active) || is_over {
            return;
        }
        match self.check_ring(conn, id).and_then(|()| bytes.map_err(|problem| (RefusedCode::Unsupported, problem))) {
            Ok(bytes) => self.accept_ring(now, conn, id, bytes, effects),
            Err((RefusedCode::Protocol, reason)) => self.refuse(now, conn, RefusedCode::Protocol, &reason, effects),
            Err((code, reason)) => {
                let declined = Declined::new(kind::OFFER_RING, id.0, code, reason);
                self.reply(now, conn, &Control::Declined(declined), effects);
            }
        }
    }

    /// Whether the publication may have a ring.
    fn check_ring(&mut self, conn: ConnId, id: ChannelId) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let rings_max = self.rings.max;
        let Some(connection) = self.connections.get(conn.0).and_then(Option::as_ref) else { return Ok(()) };
        let Some(publication) = connection.publications.get(&id) else {
            return Err((RefusedCode::Protocol, format!("channel {} is not open on this connection", id.0)));
        };
        if publication.upload.ring().is_some() {
            return Err((RefusedCode::Protocol, format!("the publication on channel {} has a ring already", id.0)));
        }
        let unsupported = |reason: &str| Err((RefusedCode::Unsupported, reason.to_owned()));
        if !matches!(self.phase, Phase::Idle(_) | Phase::Serving) {
            return unsupported("the daemon is stopping");
        }
        let rings = connection.publications.values().filter(|publication| publication.upload.ring().is_some());
        if rings.count() >= RINGS_PER_CONNECTION_MAX {
            let reason = format!("this connection has {RINGS_PER_CONNECTION_MAX} rings, which is the limit");
            return Err((RefusedCode::Channels, reason));
        }
        if self.rings.len() >= rings_max {
            return Err((
                RefusedCode::Channels,
                format!("the daemon has {}, which is the limit", counted(rings_max, "ring")),
            ));
        }
        self.turn_work += self.registry.channel(id).map_or(0, |channel| channel.subscribers().len());
        if self.may_follow(id).next().is_none() {
            return unsupported("no listener of the channel could read a ring");
        }
        Ok(())
    }

    fn accept_ring(&mut self, now: Moment, conn: ConnId, channel: ChannelId, bytes: u64, effects: &mut Effects) {
        let id = self.rings.new_ring();
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let (Some(sender), Some(publication)) = (connection.sender, connection.publications.get_mut(&channel)) else {
            return;
        };
        let mut room = None;
        if let Some(pace) = &mut publication.pace {
            let quarter = ring_room(bytes);
            if !pace.begin_ring(quarter) {
                let reason = format!("a ring of {bytes} bytes has no room for the credit of its sender");
                let declined = Declined::new(kind::OFFER_RING, channel.0, RefusedCode::Unsupported, reason);
                return self.reply(now, conn, &Control::Declined(declined), effects);
            }
            room = Some(quarter);
        }
        publication.upload = Upload::Offered(id);
        let ring = Ring {
            conn,
            channel,
            sender,
            bytes,
            room,
            spent: (0, 0),
            phase: RingPhase::Offered,
            is_announced: false,
            first: 0,
            head: Head { newest: Cursor { position: 0, sequence: 0 }, frame_bytes: 0 },
            relay: None,
            links: BTreeMap::new(),
            followers: BTreeSet::new(),
            refused: BTreeSet::new(),
            introducing: None,
            is_searched: false,
            is_recalled: false,
            deadline: None,
            seen: 0,
        };
        self.rings.rings.insert(id, ring);
        self.rings.set_ring_deadline(id, Some(now.after(ALONE_MAX)));
        effects.push(Effect::KeepRing(id));
        if self.may_pass(now, conn, id, effects) {
            self.announce_ring(now, id, effects);
        }
    }

    /// The sender may begin the ring.
    pub(super) fn announce_ring(&mut self, now: Moment, id: RingId, effects: &mut Effects) {
        let Some(ring) = self.rings.rings.get_mut(&id) else { return };
        if !std::mem::replace(&mut ring.is_announced, true) {
            let (conn, channel) = (ring.conn, ring.channel);
            let accepted = Control::RingAccepted(RingAccepted { id: channel.0, extensions: Vec::new() });
            self.reply_with(now, conn, &accepted, Some(Attachment::Relay(id)), effects);
        }
    }

    pub(crate) fn begin_ring(&mut self, conn: ConnId, begin: &BeginRing, effects: &mut Effects) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let channel = ChannelId(begin.id);
        let connection = self.connections.get_mut(conn.0).and_then(Option::as_mut);
        let publication = connection.and_then(|connection| connection.publications.get_mut(&channel));
        let offered = publication.and_then(|publication| match publication.upload {
            Upload::Offered(id) => Some((publication, id)),
            Upload::Socket | Upload::Ring(_) => None,
        });
        let Some((publication, id)) = offered else {
            let reason = format!("no ring was accepted for the publication on channel {}", begin.id);
            return Err((RefusedCode::Protocol, reason));
        };
        check_sequence("begins", begin.sequence, publication.next)?;
        publication.upload = Upload::Ring(id);
        let Some(ring) = self.rings.rings.get_mut(&id) else { return Ok(()) };
        if !ring.is_announced {
            let reason = format!("the ring of the publication on channel {} begins before it was accepted", begin.id);
            return Err((RefusedCode::Protocol, reason));
        }
        ring.phase = RingPhase::Active;
        ring.first = begin.sequence;
        ring.head.newest.sequence = begin.sequence;
        effects.push(Effect::BeginRing { ring: id, channel, sender: ring.sender, first: begin.sequence });
        self.review_rings(effects);
        Ok(())
    }

    /// The server has read the relay up to the head, which is final.
    pub(crate) fn end_ring(&mut self, conn: ConnId, end: &EndRing, effects: &mut Effects) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let Some(id) = self.ring_of(conn, ChannelId(end.id)) else {
            return Err((RefusedCode::Protocol, format!("the publication on channel {} has no ring", end.id)));
        };
        let publication = self.connection(conn).and_then(|connection| connection.publications.get(&ChannelId(end.id)));
        check_sequence("ends", end.sequence, publication.map_or(end.sequence, |publication| publication.next))?;
        self.end_upload(id, effects);
        Ok(())
    }

    /// The messages of the publication are in the ring no more.
    pub(super) fn end_upload(&mut self, id: RingId, effects: &mut Effects) {
        let Some(ring) = self.rings.rings.get_mut(&id) else { return };
        if ring.phase == RingPhase::Ended {
            return;
        }
        ring.phase = RingPhase::Ended;
        let (conn, channel) = (ring.conn, ring.channel);
        let connection = self.connection(conn);
        if let Some(publication) = connection.and_then(|connection| connection.publications.get_mut(&channel)) {
            publication.upload = Upload::Socket;
            publication.pace.iter_mut().for_each(Pace::end_ring);
        }
        effects.push(Effect::EndRing(id));
    }

    /// Every listener that follows has a place in its stream up to which it reads the ring.
    pub(crate) fn ring_ended(&mut self, now: Moment, id: RingId, head: Option<Head>, effects: &mut Effects) {
        if let Some(head) = head {
            self.note_head(now, id, head, effects);
        }
        self.end_upload(id, &mut Effects::new()); // if the server has begun
        self.rings.set_ring_deadline(id, None);
        let Some(ring) = self.rings.rings.get_mut(&id) else { return };
        let (channel, sequence) = (ring.channel, ring.head.newest.sequence);
        // Of a sender that is refused, the relay does not read the rest.
        let unread =
            ring.relay.take().and_then(|at| distance(at, ring.head.newest)).map_or(0, |(_, messages)| messages);
        if unread > 0 {
            let followers = std::mem::take(&mut ring.followers);
            self.lose(now, channel, unread, Some(&followers), effects);
        }
        let Some(ring) = self.rings.rings.get(&id) else { return };
        for link in ring.links.values().copied().collect::<Vec<_>>() {
            self.unfollow(now, link, sequence, effects);
        }
        self.rings.rings.remove(&id);
        self.note_readers(now, id, effects);
        if self.is_recalling() && self.rings.rings.is_empty() {
            self.drain(effects);
        }
    }

    /// The listener reads no more of the ring than what comes before `sequence`; or nothing, if it does not follow.
    pub(super) fn unfollow(&mut self, now: Moment, id: LinkId, sequence: u64, effects: &mut Effects) {
        let Some(link) = self.rings.links.get_mut(&id) else { return };
        let listener = link.listener;
        if link.state != LinkState::Following {
            self.reply(now, listener, &unlink(id), effects);
            return self.end_link(now, id, effects);
        }
        (link.state, link.end) = (LinkState::Draining, Some(sequence));
        if let Some(ring) = self.rings.rings.get_mut(&link.ring) {
            ring.links.remove(&listener);
            ring.followers.remove(&listener);
        }
        let unfollow = Unfollow { link: id.0, sequence, extensions: Vec::new() };
        self.reply(now, listener, &Control::Unfollow(unfollow), effects);
    }

    /// The relay has read messages, for all subscribers that do not follow.
    pub(crate) fn relayed(
        &mut self,
        now: Moment,
        id: RingId,
        head: Head,
        (at, lost, run): (Cursor, u64, Option<Run>),
        effects: &mut Effects,
    ) {
        if !self.note_head(now, id, head, effects) {
            return;
        }
        if distance(at, head.newest).is_none() {
            return self.ring_corrupt(now, id, "a message has another number than those before", effects);
        }
        let Some(ring) = self.rings.rings.get_mut(&id).filter(|ring| ring.relay.is_some()) else { return };
        ring.relay = Some(at);
        let (conn, channel) = (ring.conn, ring.channel);
        let followers = std::mem::take(&mut ring.followers);
        let mut reach = (lost > 0).then(|| self.lose(now, channel, lost, Some(&followers), effects));
        let has_run = run.is_some();
        if let Some(mut run) = run {
            let (bytes, messages) = self.spend_relayed(now, id, &run);
            if messages > 0 {
                let credited = run.split_front(bytes, messages);
                reach = Some(self.fan_out(now, credited, Admission::Credited, Some(&followers), effects));
            }
            if run.messages() > 0 {
                reach = Some(self.fan_out(now, run, Admission::Uncredited, Some(&followers), effects));
            }
        }
        if let Some(ring) = self.rings.rings.get_mut(&id) {
            ring.followers = followers;
        }
        if let Some(reach) = reach {
            self.set_reach(conn, channel, reach, None);
        }
        if has_run {
            self.introduce(now, id, effects);
        }
    }

    pub(crate) fn ring_corrupt(&mut self, now: Moment, id: RingId, problem: &str, effects: &mut Effects) {
        let Some(ring) = self.rings.rings.get(&id) else { return };
        let reason = format!("the ring of channel {} is not correct: {problem}", ring.channel.0);
        self.refuse(now, ring.conn, RefusedCode::Protocol, &reason, effects);
    }

    /// Requests the sender to end the ring; or declines it, if the sender does not know yet that it was accepted.
    pub(super) fn recall(&mut self, now: Moment, id: RingId, effects: &mut Effects) {
        self.rings.set_ring_deadline(id, None);
        let Some(ring) = self.rings.rings.get_mut(&id) else { return };
        let (conn, channel) = (ring.conn, ring.channel);
        if !ring.is_announced {
            let reason = "the ring is not needed any more".to_owned();
            let declined = Declined::new(kind::OFFER_RING, channel.0, RefusedCode::Unsupported, reason);
            self.reply(now, conn, &Control::Declined(declined), effects);
            self.end_upload(id, effects);
        } else if !std::mem::replace(&mut ring.is_recalled, true) {
            self.reply(now, conn, &Control::Recall(Recall { id: channel.0, extensions: Vec::new() }), effects);
        }
    }

    /// Requests all senders to end their rings before the broker stops: what they publish afterwards by their sockets goes to the next
    /// daemon, if it is not read.
    pub(crate) fn recall_all(&mut self, now: Moment, effects: &mut Effects) {
        let until = now.after(self.limits.goodbye_timeout);
        self.phase = Phase::Recalling { until, check: now.after(RECALL_STEP).min(until) };
        for id in self.rings.rings.keys().copied().collect::<Vec<_>>() {
            self.recall(now, id, effects);
            if let Some(ring) = self.rings.rings.get_mut(&id) {
                ring.seen = ring.head.newest.position;
            }
        }
    }

    /// While the broker stops: senders that do not go on are not waited for.
    pub(super) fn check_recalled(&mut self, now: Moment, effects: &mut Effects) {
        let Phase::Recalling { until, check } = self.phase else { return };
        if check > now {
            return;
        }
        let mut goes_on = false;
        for ring in self.rings.rings.values_mut() {
            goes_on |= std::mem::replace(&mut ring.seen, ring.head.newest.position) != ring.head.newest.position;
        }
        if goes_on && until > now {
            self.phase = Phase::Recalling { until, check: now.after(RECALL_STEP).min(until) };
        } else {
            self.drain(effects);
        }
    }
}

fn check_sequence(what: &str, sequence: u64, due: u64) -> Result<(), Refusal> {
    if sequence == due {
        return Ok(());
    }
    Err((RefusedCode::Protocol, format!("a ring {what} with the sequence number {sequence}, where {due} is due")))
}

/// The message that a link has ended.
pub(super) fn unlink(id: LinkId) -> Control {
    Control::Unlink(Unlink { link: id.0, extensions: Vec::new() })
}
