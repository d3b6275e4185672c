//! The broker itself: what it consists of, its contract, and which event goes where.

use crate::connection::Connection;
use crate::credit::Credits;
use crate::effect::Effects;
use crate::event::{ConnId, Event, Moment};
use crate::limits::{Limits, TURN_WORK_MAX};
use crate::memory::Ledger;
use crate::registry::Registry;
use crate::retained::Histories;
use crate::ring::Rings;
use broadcaster_protocol::SenderId;
use broadcaster_protocol::control::{RefusedCode, version_text};
use std::collections::{BTreeMap, BTreeSet};

/// The most slices that one write offers.
const SLICES_MAX: usize = 64;

/// The broker: a value that turns events into effects.
///
/// # Contract
///
/// - [`handle`](Self::handle) is total: it takes every event at any time, never blocks, never fails and never panics on
///   anything that a client can cause. A misbehaving client is an event like any other; its consequence is an effect.
/// - `now` never decreases from call to call.
/// - Effects are complete when `handle` returns. [`Effect::Close`] and [`Effect::Discard`] are applied before the next event;
///   [`Effect::Write`] waits until the end of the turn at the latest.
/// - [`Effect::Write`] is issued once, and again after [`outgoing`](Self::outgoing) ran empty. Until then the
///   server writes as the connection takes it, and reports each step with [`Event::Written`]. The whole backlog stays here,
///   where policy and limits see it. While a sender waits for the connection, it is issued every 100 ms although the socket was full.
/// - A turn is a row of events with the same `now`. It ends when [`turn_is_full`](Self::turn_is_full), or earlier: then all its
///   writes are tried, and [`Event::Flushed`] is reported. The memory budget is enforced there, so that a connection which takes
///   its messages loses none. The effects of that event are applied before the next turn.
/// - [`next_deadline`](Self::next_deadline) is the time until which the server may sleep; then it reports [`Event::Tick`].
/// - Events and effects are closed enums and matched without a wildcard: a new one is a compile error in each place
///   that must handle it.
///
/// # Delivery
///
/// A listener receives every message that is accepted after its `Subscribed`, in order, or a report of how many it lost at
/// that point of the stream. Per sender, channel and listener: received + reported lost = accepted. A listener that stalls,
/// leaves or dies changes nothing for another one.
///
/// # Retained messages
///
/// The newest messages of a channel can be retained, each for a lifetime that its sender chooses: they are the channel's history, and the
/// newest of them is its value. A subscription that requests replay receives them between its `Subscribed` and the next message that
/// is accepted. Their memory has a limit of its own, a quarter of [`held_bytes_max`](Limits::held_bytes_max) at most, and is never given up
/// for connections. A message that does not fit empties the history, so that no older one passes for the value.
///
/// # Backpressure
///
/// A publication that is opened with backpressure receives credit at the end of a turn. What it sends within its credit waits for each
/// listener that counts, even above the room of its outbox, and so is lost to the memory budget only. No credit is granted while a
/// listener that counts is behind: its socket is full, and more than half of its room is used. Listeners that drop the oldest count,
/// observers do not. While a sender waits, the write to the listener is tried again ten times a second, because the system may report a
/// socket as writable late. One that is behind for as long as a sender without credit accepts is left behind, and counts again when its outbox
/// has run empty. So nothing waits for ever, and what exceeds the room is at most the sum of the windows, with one frame for each sender.
/// The daemon reads every connection all the time, and other publications notice nothing.
///
/// # Rings
///
/// After [`support_rings`](Self::support_rings), a sender may publish into shared memory, and listeners read it themselves; the server reads it for
/// all others. The broker never sees the memory: it introduces both ends to each other, states in each stream where the messages of the ring
/// begin and end, and counts what the server reports of the ring's words. Before an event about which a ring's newest message decides
/// ([`rings_before`](Self::rings_before)), the server reports what the ring holds. [`Effect::EndRing`] and [`Effect::EndLink`] are applied before the
/// next event, and answered at once.
///
/// # Memory
///
/// Every byte in transit is charged to a ledger, which the limit [`held_bytes_max`](Limits::held_bytes_max) bounds at the end of
/// each turn. Above it, these give up, in this order, each time the largest of them first, until the budget is kept:
///
/// 1. Observers lose what waits for them.
/// 2. Connections that have made no progress for [`stalled_timeout`](Limits::stalled_timeout) lose what waits for them, and are ended if
///    that does not suffice: a half-written frame cannot be dropped.
/// 3. Observers are ended.
/// 4. Listeners lose the oldest half of what waits for them. Senders lose the frame that they have sent a part of: it counts as accepted,
///    and every listener receives a report of its loss. Connections that bytes have waited for that long, however fast they read, are
///    ended for their half-written frames.
/// 5. Connections are ended, for their half-written frames and unread replies.
///
/// [`Effect::Close`]: crate::Effect::Close
/// [`Effect::Discard`]: crate::Effect::Discard
/// [`Effect::EndLink`]: crate::Effect::EndLink
/// [`Effect::EndRing`]: crate::Effect::EndRing
/// [`Effect::Write`]: crate::Effect::Write
#[derive(Debug)]
pub struct Broker {
    pub(crate) limits: Limits,
    pub(crate) version: String,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    pub(crate) started: Moment,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) counts: Counts,
    /// Connections of each process.
    pub(crate) processes: BTreeMap<u32, usize>,
    /// The connections that may publish, by their sender ids.
    pub(crate) senders: BTreeMap<SenderId, ConnId>,
    pub(crate) registry: Registry,
    /// Of connections; channels with backpressure and retained messages have their own.
    pub(crate) deadlines: BTreeSet<(Moment, ConnId)>,
    pub(crate) credits: Credits,
    pub(crate) retained: Histories,
    pub(crate) rings: Rings,
    pub(crate) ledger: Ledger,
    pub(crate) stats: Stats,
    pub(crate) phase: Phase,
    /// Work done since the last [`Event::Flushed`]: see [`TURN_WORK_MAX`].
    pub(crate) turn_work: usize,
    /// The most that one event has added to `turn_work`.
    pub(crate) event_work_max: usize,
    /// Both numbers of the turn before, for [`invariants`](Self::invariants).
    pub(crate) last_turn_work: (usize, usize),
    /// Connections that this event makes intolerable. They are refused at its end.
    pub(crate) to_refuse: Vec<(ConnId, RefusedCode, String)>,
}

/// The life of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Without a connection since then.
    Idle(Moment),
    Serving,
    /// Waiting for senders to end their rings: until the first moment at the latest. At the second one, the broker looks whether they go on.
    Recalling {
        until: Moment,
        check: Moment,
    },
    /// Waiting for what clients have sent up to now.
    Draining,
    /// Waiting until every connection has read what waits for it. No channel exists any more.
    Leaving,
    Over,
}

impl Phase {
    /// Whether the channels have ended.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Leaving | Self::Over)
    }
}

/// What a broker has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages accepted from senders, and replies.
    pub messages_accepted: u64,
    /// Bytes of the frames that carried them.
    pub bytes_accepted: u64,
    /// Messages written to listeners, each counted once per listener, and replies written to requesters. Replayed messages count too.
    pub messages_delivered: u64,
    /// Messages lost by listeners, each counted once per listener, and replies lost by requesters. What was waiting when a listener left is
    /// neither delivered nor lost.
    pub messages_lost: u64,
    /// Messages accepted in rings.
    pub ring_messages_accepted: u64,
    /// Replies accepted.
    pub replies_accepted: u64,
    /// Those of them whose requester had gone: there was no such inbox.
    pub replies_dropped: u64,
    /// Connections that were refused or ended by the broker.
    pub connections_refused: u64,
    /// Messages that were retained and queued for a subscription of a listener as it began, or when they were declared again; each counted
    /// once per listener.
    pub messages_replayed: u64,
    /// Messages that were to be retained, and were not: a limit was reached, or their bodies were dropped.
    pub retention_declined: u64,
    /// How often a listener that delayed senders with backpressure was left behind.
    pub listeners_left_behind: u64,
}

/// Numbers of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) open: usize,
    /// With a publication.
    pub(crate) senders: usize,
    /// With a subscription that is not an observer.
    pub(crate) listeners: usize,
    /// With a subscription that is an observer.
    pub(crate) observers: usize,
    pub(crate) leaving: usize,
}

impl Broker {
    /// A broker for the user `uid`, which runs in the process `pid` as program version `version`.
    pub fn new(limits: Limits, uid: u32, pid: u32, version: &str, now: Moment) -> Self {
        let ledger = Ledger::default();
        Self {
            limits,
            version: version_text(version),
            uid,
            pid,
            started: now,
            connections: Vec::new(),
            counts: Counts::default(),
            processes: BTreeMap::new(),
            senders: BTreeMap::new(),
            registry: Registry::default(),
            deadlines: BTreeSet::new(),
            credits: Credits::default(),
            retained: Histories::new(&ledger),
            rings: Rings::default(),
            ledger,
            stats: Stats::default(),
            phase: Phase::Idle(now),
            turn_work: 0,
            event_work_max: 0,
            last_turn_work: (0, 0),
            to_refuse: Vec::new(),
        }
    }

    /// Takes one event at the time `now` and appends what is to be done to `effects`.
    pub fn handle(&mut self, now: Moment, event: Event, effects: &mut Effects) {
        // What the end of a turn does is work of the next one, and bounded by itself.
        let work_before = if let Event::Flushed = event { usize::MAX } else { self.turn_work };
        match event {
            Event::Run { conn, run } => self.run(now, conn, run, effects),
            Event::Written { conn, bytes, blocked } => self.written(now, conn, bytes, blocked, effects),
            Event::Flushed => self.flushed(now, effects),
            Event::Control { conn, control } => self.control(now, conn, control, effects),
            Event::Holding { conn, bytes, frame } => self.holding(now, conn, bytes, frame),
            Event::Discarded { conn, header } => self.discarded(now, conn, &header, effects),
            Event::Lost { channel, messages } => self.lost(now, &channel, messages, effects),
            Event::Malformed { conn, error } => self.malformed(now, conn, &error, effects),
            Event::Opened { conn, pid, uid } => self.opened(now, conn, pid, uid, effects),
            Event::Closed { conn } => self.closed(now, conn, effects),
            Event::Tick => self.tick(now, effects),
            Event::Stop => self.stop(now, effects),
            Event::RingOffered { conn, channel, bytes } => self.ring_offered(now, conn, channel, bytes, effects),
            Event::LinkReady { conn, link, is_usable } => self.link_ready(now, conn, link, is_usable, effects),
            Event::DescriptorsMissing { conn } => {
                let reason = "a frame has come without its descriptors";
                self.refuse(now, conn, RefusedCode::Protocol, reason, effects);
            }
            Event::Relayed { ring, head, at, lost, run } => self.relayed(now, ring, head, (at, lost, run), effects),
            Event::RingSampled { ring, head } => {
                self.turn_work += 1;
                self.note_head(now, ring, head, effects);
                self.spend_all(now, ring);
            }
            Event::RingCorrupt { ring, problem } => self.ring_corrupt(now, ring, &problem, effects),
            Event::RingEnded { ring, head } => self.ring_ended(now, ring, head, effects),
            Event::LinkSampled { link, sample } => {
                self.turn_work += 1;
                self.link_sampled(now, link, sample, effects);
            }
            Event::LinkEnded { link, sample } => self.link_ended(now, link, sample, effects),
            Event::Withdrawn { conn } => self.withdrawn(now, conn, effects),
            Event::Drained => self.drained(now, effects),
        }
        while let Some((conn, code, reason)) = self.to_refuse.pop() {
            self.refuse(now, conn, code, &reason, effects);
        }
        self.event_work_max = self.event_work_max.max(self.turn_work.saturating_sub(work_before));
    }

    /// When the next [`Event::Tick`] is due; `None`: not before something else happens.
    pub fn next_deadline(&self) -> Option<Moment> {
        let first = self.deadlines.first().map(|&(deadline, _)| deadline);
        let check = if let Phase::Recalling { check, .. } = self.phase { Some(check) } else { None };
        let rings = self.rings.next_deadline();
        let others = [self.idle_exit(), self.credits.next_deadline(), self.retained.next_deadline(), rings, check];
        others.into_iter().flatten().chain(first).min()
    }

    /// When the broker ends because nothing needs it.
    pub(crate) fn idle_exit(&self) -> Option<Moment> {
        match (self.phase, self.limits.idle_exit_after) {
            (Phase::Idle(since), Some(wait)) if self.retained.is_empty() => Some(since.after(wait)),
            _ => None,
        }
    }

    /// The bytes to write to the connection, as slices in order, at most 64 of them; none if nothing waits.
    #[inline]
    pub fn outgoing(&mut self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        self.connection(conn).map(|connection| connection.outbox.outgoing(SLICES_MAX)).unwrap_or_default()
    }

    /// Messages that wait for the connection, and bytes of their frames with 64 bytes of bookkeeping for each run of them.
    pub fn queue(&self, conn: ConnId) -> (u64, usize) {
        self.connections.get(conn.0).and_then(Option::as_ref).map_or((0, 0), |connection| connection.outbox.queue())
    }

    /// The largest payload that the connection may send now, in bytes: 0 until it has had a publication, or a subscription that is not an
    /// observer.
    pub fn payload_bytes_max(&self, conn: ConnId) -> u32 {
        match self.connections.get(conn.0) {
            Some(Some(connection)) if connection.may_reply => self.limits.payload_bytes_max,
            _ => 0,
        }
    }

    /// Whether the connection publishes, subscribes to nothing and is not about to end.
    pub fn only_publishes(&self, conn: ConnId) -> bool {
        let connection =
            self.connections.get(conn.0).and_then(Option::as_ref).filter(|connection| !connection.is_leaving());
        connection.is_some_and(|connection| !connection.publications.is_empty() && connection.subscriptions.len() == 0)
    }

    /// Whether the connection is about to end, so that its input has no effect any more.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        self.connections.get(conn.0).and_then(Option::as_ref).is_some_and(Connection::is_leaving)
    }

    /// Whether the turn has done as much as one turn should: [`TURN_WORK_MAX`].
    pub fn turn_is_full(&self) -> bool {
        self.turn_work >= TURN_WORK_MAX
    }

    /// What the broker has done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes of memory that messages in transit hold now.
    pub fn held_bytes(&self) -> usize {
        self.ledger.held()
    }

    /// The limits that the broker was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    #[inline]
    pub(crate) fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.get_mut(conn.0)?.as_mut()
    }

    /// The open connections, in the order of their numbers.
    pub(crate) fn open_connections(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.connections.iter().enumerate().filter_map(|(at, connection)| Some((ConnId(at), connection.as_ref()?)))
    }
}
