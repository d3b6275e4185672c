//! Random sequences, compared with a model: messages that are retained, cleared and declared again, listeners that come, go and read at any
//! speed, and time that passes. The model has lists of messages and nothing else.

use crate::bus::{Bus, Got, Kind, frame, subscribe};
use crate::run::run_of;
use crate::turns::Seed;
use broadcaster_broker::{ConnId, Event, Limits, Moment};
use broadcaster_protocol::ChannelId;
use broadcaster_protocol::control::{Overflow, Selector, Subscribe, Unsubscribe};
use broadcaster_protocol::meta::Retention;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SEEDS: u64 = 100;
const STEPS: usize = 300;

const CHANNELS: [&str; 4] = ["a.x", "a.y", "b.x", "c"];

const POLICIES: [Overflow; 3] = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];

/// The first sender numbers are those of senders; listeners have others.
const SENDERS: u32 = 4;

/// What a message is recognized by: the number of its sender, its sequence number and its payload.
type Id = (u32, u64, Vec<u8>);

/// A message that is retained.
#[derive(Debug, Clone)]
struct Kept {
    id: Id,
    bytes: usize,
    expires: Option<Moment>,
}

/// A channel that exists.
#[derive(Debug, Default)]
struct Channel {
    history: Vec<Kept>,
    has_had_history: bool,
}

/// What a listener is to receive of a channel, in order, or to learn that it has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    Message {
        id: Id,
        retained: bool,
    },
    /// So many of the next ones are replayed.
    Retained(u32),
}

struct Subscription {
    selector: Selector,
    overflow: Overflow,
    observer: bool,
    replay: u32,
    order: u64,
}

/// A connection that listens.
struct Listener {
    conn: ConnId,
    subscriptions: BTreeMap<u32, Subscription>,
    made: u64,
    /// By channel, what it has not received yet.
    due: BTreeMap<&'static str, Vec<Due>>,
    /// The names of the ids that it knows.
    names: BTreeMap<u32, String>,
    /// Answers to its subscriptions by name of which nothing was retained.
    nothing: usize,
}

/// A sender that is connected, and the channels that it has open.
struct Source {
    conn: ConnId,
    open: BTreeSet<&'static str>,
}

struct Sequence {
    rng: Rng,
    bus: Bus,
    limits: Limits,
    /// How many of the policies listeners choose from.
    policies: usize,
    /// Memory that a retained message takes beside its frame.
    overhead: usize,
    channels: BTreeMap<&'static str, Channel>,
    sources: BTreeMap<u32, Source>,
    /// The sequence numbers that are due, of senders that are gone too.
    next: BTreeMap<(u32, &'static str), u64>,
    /// For each sender, what it must have learnt of its messages.
    superseded: BTreeMap<u32, Vec<(&'static str, u64)>>,
    listeners: Vec<Listener>,
    payloads: u64,
    /// Messages that were queued for listeners that are not observers.
    queued: u64,
    replayed: u64,
    declined: u64,
    seen: Seen,
}

/// What must have happened at all in the sequences.
#[derive(Debug, Default)]
struct Seen {
    replayed: u64,
    redeclared: u64,
    outdated: u64,
    expired: u64,
    declined: u64,
    superseded: u64,
    lost: u64,
    ended: u64,
}

impl Subscription {
    fn covers(&self, channel: &str) -> bool {
        match &self.selector {
            Selector::Name(name) => name == channel,
            Selector::Pattern(_) => channel.starts_with("a."),
            Selector::All => true,
            Selector::Other { .. } => false,
        }
    }
}

impl Listener {
    /// The subscription that decides how it receives the channel.
    fn deciding(&self, channel: &str) -> Option<&Subscription> {
        let covering = self.subscriptions.values().filter(|subscription| subscription.covers(channel));
        covering.min_by_key(|subscription| (subscription.observer, subscription.order))
    }
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut limits = Limits::default();
        limits.retained_bytes_max = rng.usize(1500..12_000);
        limits.retained_messages_max = rng.usize(1..8);
        limits.retained_channels_max = rng.usize(2..=4);
        limits.outbox_messages_max = rng.u64(3..30);
        limits.outbox_bytes_max = rng.usize(1000..20_000);
        let mut bus = Bus::new(Limits::default());
        let conn = bus.sender(1, "c");
        bus.retain(conn, "c", b"x", Retention::default());
        let overhead = bus.broker.snapshot(bus.now).retained_bytes - 29;
        Self {
            rng,
            bus: Bus::new(limits.clone()),
            policies: if seed.is_multiple_of(2) { POLICIES.len() } else { POLICIES.len() - 1 },
            limits,
            overhead,
            channels: BTreeMap::new(),
            sources: BTreeMap::new(),
            next: BTreeMap::new(),
            superseded: BTreeMap::new(),
            listeners: Vec::new(),
            payloads: 0,
            queued: 0,
            replayed: 0,
            declined: 0,
            seen: Seen::default(),
        }
    }

    fn play(mut self) -> Seen {
        for _ in 0..STEPS {
            match self.rng.u32(..100) {
                0..6 if self.listeners.len() < 6 => self.join(),
                6..12 => self.subscribe(),
                12..16 => self.unsubscribe(),
                16..18 => self.leave(),
                18..23 => self.connect_sender(),
                23..26 => self.disconnect_sender(),
                26..34 => self.wait(),
                34..50 => self.read(),
                50..60 => self.redeclare(),
                _ => self.publish(),
            }
            self.check();
        }
        for at in 0..self.listeners.len() {
            self.bus.take_all(self.listeners[at].conn);
        }
        self.check();
        for listener in &self.listeners {
            let left: Vec<_> = listener.due.values().flatten().collect();
            assert!(left.is_empty(), "{:?} has not received {left:?}", listener.conn);
        }
        let stats = self.bus.broker.stats();
        assert_eq!(stats.messages_delivered + stats.messages_lost, self.queued, "delivered and lost");
        self.seen.lost = stats.messages_lost;
        self.seen
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.rng.usize(..of.len())])
    }

    fn join(&mut self) {
        let conn = self.bus.connect(1000);
        if self.rng.bool() {
            self.bus.stall(conn);
        }
        self.listeners.push(Listener {
            conn,
            subscriptions: BTreeMap::new(),
            made: 0,
            due: BTreeMap::new(),
            names: BTreeMap::new(),
            nothing: 0,
        });
        let at = self.listeners.len() - 1;
        self.subscribe_one(at);
    }

    fn subscribe(&mut self) {
        if !self.listeners.is_empty() {
            let at = self.rng.usize(..self.listeners.len());
            self.subscribe_one(at);
        }
    }

    fn subscribe_one(&mut self, at: usize) {
        let selector = match self.rng.usize(..7) {
            5 => Selector::Pattern("a.*".to_owned()),
            6 => Selector::All,
            number => Selector::Name(CHANNELS[number % CHANNELS.len()].to_owned()),
        };
        let listener = &self.listeners[at];
        if listener.subscriptions.values().any(|subscription| subscription.selector == selector) {
            return;
        }
        let number = (1..).find(|number| !listener.subscriptions.contains_key(number)).unwrap();
        let (overflow, observer) = (POLICIES[self.rng.usize(..self.policies)], self.rng.u8(..6) == 0);
        let replay = [0, 1, 1, 2, 100][self.rng.usize(..5)];
        let lost = self.bus.broker.stats().messages_lost;
        let conn = listener.conn;
        self.bus.send(conn, Subscribe { overflow, observer, ..subscribe(number, selector.clone(), replay) });
        self.check_lost(lost, overflow == Overflow::Latest);

        if let (Selector::Name(name), false) = (&selector, observer) {
            let name = CHANNELS.into_iter().find(|channel| channel == name).unwrap();
            self.channels.entry(name).or_default();
        }
        let order = self.listeners[at].made;
        let subscription = Subscription { selector: selector.clone(), overflow, observer, replay, order };
        let mut replays = false;
        for (&channel, state) in &self.channels {
            let listener = &mut self.listeners[at];
            if !subscription.covers(channel) || listener.deciding(channel).is_some() {
                continue;
            }
            let count = state.history.len().min(usize::try_from(replay).unwrap());
            if count > 0 {
                let due = listener.due.entry(channel).or_default();
                due.push(Due::Retained(u32::try_from(count).unwrap()));
                let newest = state.history[state.history.len() - count..].iter();
                due.extend(newest.map(|kept| Due::Message { id: kept.id.clone(), retained: true }));
                replays = true;
                self.seen.replayed += count as u64;
                if !observer {
                    self.replayed += count as u64;
                    self.queued += count as u64;
                }
            }
        }
        let listener = &mut self.listeners[at];
        listener.made += 1;
        if matches!(selector, Selector::Name(_)) && replay > 0 && !replays {
            listener.nothing += 1;
        }
        listener.subscriptions.insert(number, subscription);
    }

    /// To replay drops nothing: as many messages are lost as before. A connection that takes no more bytes by that, however, keeps only the
    /// newest message of each channel that it receives under `Latest`.
    fn check_lost(&self, before: u64, may_collapse: bool) {
        let mut subscriptions = self.listeners.iter().flat_map(|listener| listener.subscriptions.values());
        let may_collapse = may_collapse || subscriptions.any(|subscription| subscription.overflow == Overflow::Latest);
        let lost = self.bus.broker.stats().messages_lost;
        assert!(lost == before || may_collapse, "{} messages are dropped for what is replayed", lost - before);
    }

    fn unsubscribe(&mut self) {
        if self.listeners.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.listeners.len());
        let numbers: Vec<u32> = self.listeners[at].subscriptions.keys().copied().collect();
        let Some(number) = self.any(&numbers) else { return };
        let conn = self.listeners[at].conn;
        // So that the ids of channels that it does not know any more are not used.
        self.bus.take_all(conn);
        self.receive(at);
        self.bus.send(conn, Unsubscribe { subscription: number, extensions: Vec::new() });
        self.listeners[at].subscriptions.remove(&number);
        self.end_unused();
    }

    fn leave(&mut self) {
        if self.listeners.len() > 1 {
            let at = self.rng.usize(..self.listeners.len());
            // What waits when a listener leaves is neither delivered nor lost.
            self.bus.take_all(self.listeners[at].conn);
            self.receive(at);
            let listener = self.listeners.swap_remove(at);
            self.bus.close(listener.conn);
            self.end_unused();
        }
    }

    fn connect_sender(&mut self) {
        let number = self.rng.u32(1..=SENDERS);
        if !self.sources.contains_key(&number) {
            let conn = self.bus.connect(number);
            self.sources.insert(number, Source { conn, open: BTreeSet::new() });
        }
        for _ in 0..2 {
            let channel = CHANNELS[self.rng.usize(..CHANNELS.len())];
            let source = self.sources.get_mut(&number).unwrap();
            if source.open.insert(channel) {
                let (conn, next) = (source.conn, *self.next.entry((number, channel)).or_insert(u64::MAX - 3));
                self.bus.open(conn, channel, next);
                self.channels.entry(channel).or_default();
                if self.rng.bool() {
                    self.redeclare_on(number, channel, conn);
                }
            }
        }
    }

    fn disconnect_sender(&mut self) {
        let numbers: Vec<u32> = self.sources.keys().copied().collect();
        if let Some(number) = self.any(&numbers) {
            let source = self.sources.remove(&number).unwrap();
            self.check_superseded(number, source.conn);
            self.bus.close(source.conn);
            self.end_unused();
        }
    }

    /// Time passes, and everything is compared at each deadline.
    fn wait(&mut self) {
        let end = self.bus.now.after(Duration::from_millis(self.rng.u64(..3000)));
        while let Some(deadline) = self.bus.broker.next_deadline().filter(|&deadline| deadline <= end) {
            self.bus.tick(deadline);
            self.expire();
            self.check();
        }
        self.bus.now = end;
    }

    fn read(&mut self) {
        if self.listeners.is_empty() {
            return;
        }
        let conn = self.listeners[self.rng.usize(..self.listeners.len())].conn;
        match self.rng.u32(..6) {
            0 => self.bus.stall(conn),
            1 => self.bus.take_all(conn),
            _ => {
                self.bus.stall(conn);
                let bytes = self.rng.usize(..3000);
                self.bus.take(conn, bytes);
            }
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.payloads += 1;
        let size = match self.rng.u32(..10) {
            0 => 0,
            1 => self.limits.retained_bytes_max,
            _ => self.rng.usize(8..600),
        };
        let mut payload = vec![0; size];
        payload.iter_mut().zip(self.payloads.to_le_bytes()).for_each(|(byte, number)| *byte = number);
        payload
    }

    fn retention(&mut self) -> Retention {
        let lifetime_ms = if self.rng.bool() { self.rng.u64(..5000) } else { 0 };
        let most = u32::try_from(self.limits.retained_messages_max).unwrap();
        let keep = if self.rng.u8(..20) == 0 { 100 } else { self.rng.u32(..=most) };
        Retention { lifetime_ms, keep }
    }

    /// A sender that is connected, and a channel that it has open.
    fn publication(&mut self) -> Option<(u32, &'static str, ConnId)> {
        let open = self
            .sources
            .iter()
            .flat_map(|(&number, source)| source.open.iter().map(move |&channel| (number, channel, source.conn)));
        let open: Vec<_> = open.collect();
        self.any(&open)
    }

    /// Some messages in one read.
    fn publish(&mut self) {
        let Some((number, channel, conn)) = self.publication() else { return };
        let (id, sender) = (ChannelId(self.bus.id(conn, channel)), self.bus.peers[conn.0].id);
        let is_retained = self.rng.u8(..4) > 0;
        let mut wire = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..self.rng.u32(1..5) {
            let (payload, retention) = (self.payload(), self.retention());
            let next = self.next.get_mut(&(number, channel)).unwrap();
            let kind = if is_retained { Kind::Retain(retention) } else { Kind::Publish };
            let bytes = frame(kind, id, sender, *next, &payload);
            messages.push(((number, *next, payload), retention, bytes.len()));
            wire.extend(bytes);
            *next = next.wrapping_add(1);
        }
        self.bus.turn([Event::Run { conn, run: run_of(&wire) }]);
        self.bus.peers[conn.0].publications.get_mut(channel).unwrap().1 = self.next[&(number, channel)];

        for listener in &mut self.listeners {
            let Some(deciding) = listener.deciding(channel) else { continue };
            let observer = deciding.observer;
            let due = listener.due.entry(channel).or_default();
            due.extend(messages.iter().map(|(id, ..)| Due::Message { id: id.clone(), retained: is_retained }));
            self.queued += if observer { 0 } else { messages.len() as u64 };
        }
        let mut declined = false;
        if is_retained {
            self.displace(channel, number);
            let last = messages.last().unwrap().0.1;
            for (id, retention, bytes) in messages {
                declined = !self.keep(channel, id, retention, bytes);
            }
            if declined {
                self.superseded.entry(number).or_default().push((channel, last));
            }
        }
        let reason = self.bus.not_retained(conn, channel);
        assert_eq!(reason.is_some(), declined, "{reason:?}");
    }

    fn redeclare(&mut self) {
        if let Some((number, channel, conn)) = self.publication() {
            self.redeclare_on(number, channel, conn);
        }
    }

    fn redeclare_on(&mut self, number: u32, channel: &'static str, conn: ConnId) {
        let next = self.next[&(number, channel)];
        let value = self.channels[channel].history.last().filter(|kept| kept.id.0 == number);
        let again = value.map(|kept| kept.id.1).filter(|_| self.rng.u8(..3) == 0);
        let sequence = again.unwrap_or_else(|| next.wrapping_sub(self.rng.u64(1..6)));
        let (mut payload, retention) = (self.payload(), self.retention());
        if payload.is_empty() {
            payload.push(0);
        }
        let (id, sender) = (ChannelId(self.bus.id(conn, channel)), self.bus.peers[conn.0].id);
        let bytes = frame(Kind::Redeclare(retention), id, sender, sequence, &payload);
        let lost = self.bus.broker.stats().messages_lost;
        self.bus.turn([Event::Run { conn, run: run_of(&bytes) }]);
        self.check_lost(lost, false);

        let state = &self.channels[channel];
        let is_value = state.history.last().is_some_and(|kept| (kept.id.0, kept.id.1) == (number, sequence));
        let id = (number, sequence, payload);
        let refused = match state.has_had_history {
            true => !is_value,
            false => !self.keep(channel, id.clone(), retention, bytes.len()),
        };
        self.seen.outdated += u64::from(refused);
        if refused {
            self.superseded.entry(number).or_default().push((channel, sequence));
        } else if !is_value {
            self.seen.redeclared += 1;
            for listener in &mut self.listeners {
                let Some(deciding) = listener.deciding(channel).filter(|deciding| deciding.replay > 0) else {
                    continue;
                };
                let observer = deciding.observer;
                let due = listener.due.entry(channel).or_default();
                due.extend([Due::Retained(1), Due::Message { id: id.clone(), retained: true }]);
                self.queued += u64::from(!observer);
                self.replayed += u64::from(!observer);
            }
        }
        let reason = self.bus.not_retained(conn, channel);
        assert_eq!(reason.is_some(), refused, "{reason:?}");
    }

    /// A sender has acted on the channel: the one that has retained its value, if that is another, learns it.
    fn displace(&mut self, channel: &'static str, by: u32) {
        let Some(value) = self.channels[channel].history.last().map(|kept| (kept.id.0, kept.id.1)) else { return };
        if value.0 != by {
            self.inform(channel, value);
        }
    }

    fn inform(&mut self, channel: &'static str, (number, sequence): (u32, u64)) {
        if self.sources.get(&number).is_some_and(|source| source.open.contains(channel)) {
            self.superseded.entry(number).or_default().push((channel, sequence));
            self.seen.superseded += 1;
        }
    }

    /// What the daemon should do with a message that it is to retain; returns whether it has, or has cleared the history.
    fn keep(&mut self, channel: &'static str, id: Id, retention: Retention, bytes: usize) -> bool {
        let taken: usize = self.channels.values().flat_map(|channel| &channel.history).map(|kept| kept.bytes).sum();
        let others = self.channels.iter().filter(|(name, other)| **name != channel && !other.history.is_empty());
        let histories = others.count();
        let state = self.channels.get_mut(channel).unwrap();
        state.has_had_history = true;
        if id.2.is_empty() {
            state.history.clear();
            return true;
        }
        let own: usize = state.history.iter().map(|kept| kept.bytes).sum();
        let (bytes, keep) = (bytes + self.overhead, usize::try_from(retention.keep.max(1)).unwrap());
        let free = self.limits.retained_bytes_max - (taken - own);
        let is_allowed = keep <= self.limits.retained_messages_max
            && bytes <= free
            && (histories < self.limits.retained_channels_max);
        if !is_allowed {
            state.history.clear();
            self.declined += 1;
            self.seen.declined += 1;
            return false;
        }
        let expires =
            (retention.lifetime_ms > 0).then(|| self.bus.now.after(Duration::from_millis(retention.lifetime_ms)));
        state.history.push(Kept { id, bytes, expires });
        while state.history.len() > keep || state.history.iter().map(|kept| kept.bytes).sum::<usize>() > free {
            state.history.remove(0);
        }
        true
    }

    fn expire(&mut self) {
        let now = self.bus.now;
        loop {
            // In the order of their ends: an older message may become the value for a moment.
            let expired = self.channels.iter().flat_map(|(&channel, state)| {
                let ends = state.history.iter().enumerate();
                ends.filter_map(move |(at, kept)| Some((kept.expires.filter(|&end| end <= now)?, channel, at)))
            });
            let Some((_, channel, at)) = expired.min() else { break };
            let history = &mut self.channels.get_mut(channel).unwrap().history;
            let kept = history.remove(at);
            self.seen.expired += 1;
            if at == history.len() {
                self.inform(channel, (kept.id.0, kept.id.1));
            }
        }
        self.end_unused();
    }

    /// Channels end that nothing keeps.
    fn end_unused(&mut self) {
        let before = self.channels.len();
        let (sources, listeners) = (&self.sources, &self.listeners);
        self.channels.retain(|&channel, state| {
            let is_listened =
                listeners.iter().flat_map(|listener| listener.subscriptions.values()).any(|subscription| {
                    !subscription.observer && subscription.selector == Selector::Name(channel.to_owned())
                });
            !state.history.is_empty() || is_listened || sources.values().any(|source| source.open.contains(channel))
        });
        self.seen.ended += (before - self.channels.len()) as u64;
    }

    /// Compares what the listener has received with what is due.
    fn receive(&mut self, at: usize) {
        let listener = &mut self.listeners[at];
        for got in self.bus.got(listener.conn) {
            let (id, lost) = match got {
                Got::Named(id, name) => {
                    listener.names.insert(id, name);
                    continue;
                }
                Got::Retained(_, 0) => {
                    assert!(listener.nothing > 0, "nothing is retained, and that was not asked");
                    listener.nothing -= 1;
                    continue;
                }
                Got::Retained(id, count) => {
                    let due = due(&mut listener.due, &listener.names, id);
                    assert_eq!(due.first(), Some(&Due::Retained(count)));
                    due.remove(0);
                    continue;
                }
                Got::Message { channel, sender, sequence, payload, retained } => {
                    let due = due(&mut listener.due, &listener.names, channel);
                    let message = Due::Message { id: (sender, sequence, payload), retained };
                    assert_eq!(due.first(), Some(&message), "{:?} has received another message", listener.conn);
                    due.remove(0);
                    continue;
                }
                Got::Lagged(id, lost) => (id, lost),
                Got::Subscribed(_) | Got::Unsubscribed(_) => continue,
                Got::Superseded(..) | Got::Refused(..) | Got::Other(_) => panic!("{got:?}"),
            };
            let due = due(&mut listener.due, &listener.names, id);
            for _ in 0..lost {
                assert!(matches!(due.first(), Some(Due::Message { .. })), "a loss is reported at another place");
                due.remove(0);
            }
        }
    }

    fn check_superseded(&mut self, number: u32, conn: ConnId) {
        let got = self.bus.got(conn).into_iter().filter_map(|got| match got {
            Got::Superseded(id, sequence) => Some((id, sequence)),
            _ => None,
        });
        let expected = self.superseded.remove(&number).unwrap_or_default();
        let expected = expected.into_iter().map(|(channel, sequence)| (self.bus.id(conn, channel), sequence));
        let (mut got, mut expected): (Vec<_>, Vec<_>) = (got.collect(), expected.collect());
        // Messages of several channels may end at the same moment.
        got.sort_by_key(|&(id, _)| id);
        expected.sort_by_key(|&(id, _)| id);
        assert_eq!(got, expected, "what sender {number} has learnt");
    }

    fn check(&mut self) {
        for at in 0..self.listeners.len() {
            self.receive(at);
        }
        let sources: Vec<_> = self.sources.iter().map(|(&number, source)| (number, source.conn)).collect();
        for (number, conn) in sources {
            self.check_superseded(number, conn);
        }
        let snapshot = self.bus.broker.snapshot(self.bus.now);
        let names: Vec<_> = snapshot.channels.iter().map(|channel| channel.name.as_str()).collect();
        assert_eq!(names, self.channels.keys().copied().collect::<Vec<_>>(), "channels");
        for channel in &snapshot.channels {
            let history = &self.channels[channel.name.as_str()].history;
            let value = history.last().map(|kept| {
                let bytes: usize = history.iter().map(|kept| kept.bytes).sum();
                (history.len(), bytes, kept.id.0, kept.expires.map(|end| end.since(self.bus.now)))
            });
            let shown = channel.history.as_ref();
            let shown = shown.map(|shown| (shown.messages, shown.bytes, shown.sender.number(), shown.lifetime));
            assert_eq!(shown, value, "history of {:?}", channel.name);
        }
        let ends = self.channels.values().flat_map(|channel| &channel.history).filter_map(|kept| kept.expires);
        assert_eq!(self.bus.broker.next_deadline(), ends.min(), "the next deadline");
        let stats = self.bus.broker.stats();
        assert_eq!((stats.messages_replayed, stats.retention_declined), (self.replayed, self.declined));
    }
}

/// What is due on the channel with this id.
fn due<'a>(all: &'a mut BTreeMap<&'static str, Vec<Due>>, names: &BTreeMap<u32, String>, id: u32) -> &'a mut Vec<Due> {
    let name = names.get(&id).unwrap_or_else(|| panic!("channel {id} has no name"));
    all.get_mut(name.as_str()).unwrap_or_else(|| panic!("nothing is due of {name:?}"))
}

#[test]
fn histories_and_replays_are_those_of_the_model() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let seen = Sequence::new(seed).play();
        all.replayed += seen.replayed;
        all.redeclared += seen.redeclared;
        all.outdated += seen.outdated;
        all.expired += seen.expired;
        all.declined += seen.declined;
        all.superseded += seen.superseded;
        all.lost += seen.lost;
        all.ended += seen.ended;
    }
    let Seen { replayed, redeclared, outdated, expired, declined, superseded, lost, ended } = all;
    for seen in [replayed, redeclared, outdated, expired, declined, superseded, lost, ended] {
        assert!(seen > SEEDS, "too little happens: {all:?}");
    }
}
