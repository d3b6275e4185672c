//! Random sequences: senders that obey credit and others, listeners that read at any speed, join and leave, and time that passes.

use crate::bus::{Bus, Sender, subscribe};
use crate::turns::Seed;
use broadcaster_broker::{ConnId, Event, Limits, Moment};
use broadcaster_protocol::control::{Overflow, Selector, Subscribe};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

const SEEDS: u64 = 60;
const STEPS: usize = 250;

/// The first two have senders with backpressure only.
const CHANNELS: [&str; 3] = ["paced", "also paced", "mixed"];
const PACED: usize = 2;

const POLICIES: [Overflow; 6] = [
    Overflow::DropOldest,
    Overflow::DropOldest,
    Overflow::DropOldest,
    Overflow::DropNewest,
    Overflow::Latest,
    Overflow::Disconnect,
];

/// A connection that listens.
struct Listener {
    conn: ConnId,
    /// For each channel that it covers, how many messages had been accepted, and whether its terms delay senders.
    covered: BTreeMap<usize, (u64, bool)>,
    /// Nothing but credited messages waits for it.
    only_credited: bool,
    left_behind: bool,
    /// Since when it is behind.
    behind: Option<Moment>,
}

/// A sender, its channel, and its patience if it has backpressure.
struct Source {
    sender: Sender,
    channel: usize,
    patience: Option<Duration>,
    /// Since when it has no credit.
    dry: Option<Moment>,
}

struct Sequence {
    rng: Rng,
    bus: Bus,
    room: (u64, usize),
    listeners: Vec<Listener>,
    sources: Vec<Source>,
    accepted: [u64; 3],
    payload_max: usize,
    seen: Seen,
}

/// What must have happened at all in some sequence.
#[derive(Debug, Default)]
struct Seen {
    waits: u64,
    left_behind: u64,
    caught_up: u64,
    losses: u64,
    overshoots: u64,
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut limits = Limits::default();
        limits.outbox_bytes_max = rng.usize(8..256) * 1024;
        limits.outbox_messages_max = rng.u64(50..5000);
        let room = (limits.outbox_messages_max, limits.outbox_bytes_max);
        let payload_max = if rng.u8(..4) == 0 { 2 * limits.outbox_bytes_max } else { 2000 };
        let bus = Bus::new(limits);
        let (listeners, sources) = (Vec::new(), Vec::new());
        Self { rng, bus, room, listeners, sources, accepted: [0; 3], payload_max, seen: Seen::default() }
    }

    fn play(mut self) -> Seen {
        for _ in 0..STEPS {
            match self.rng.u32(..100) {
                0..4 if self.listeners.len() < 8 => self.join(),
                4..7 if self.sources.len() < 8 => self.open(),
                7 if self.listeners.len() > 1 => {
                    let at = self.rng.usize(..self.listeners.len());
                    let listener = self.listeners.swap_remove(at);
                    self.bus.close(listener.conn);
                }
                8 if self.sources.len() > 1 => {
                    let at = self.rng.usize(..self.sources.len());
                    let source = self.sources.swap_remove(at);
                    self.bus.close(source.sender.conn);
                }
                9..15 => self.wait(),
                15..45 => self.read(),
                _ => self.publish(),
            }
            self.check();
        }
        self.end()
    }

    fn join(&mut self) {
        let conn = self.bus.connect();
        let mut covered = BTreeMap::new();
        let subscriptions = self.rng.u32(1..=2);
        for number in 0..subscriptions {
            let overflow = POLICIES[self.rng.usize(..POLICIES.len())];
            let observer = self.rng.u8(..8) == 0;
            let at = self.rng.usize(..CHANNELS.len() + 1);
            let selector = CHANNELS.get(at).map_or(Selector::All, |name| Selector::Name((*name).to_owned()));
            let channels = if at < CHANNELS.len() { at..at + 1 } else { 0..CHANNELS.len() };
            if channels.clone().any(|channel| covered.contains_key(&channel)) {
                continue; // so that the first subscription decides everywhere
            }
            self.bus.send(conn, Subscribe { selector, overflow, observer, ..subscribe(number, "") });
            let counts = overflow == Overflow::DropOldest && !observer;
            covered.extend(channels.map(|channel| (channel, (self.accepted[channel], counts))));
        }
        if self.rng.bool() {
            self.bus.stall(conn);
        }
        let only_credited = covered.iter().all(|(&channel, &(_, counts))| channel < PACED && counts);
        self.listeners.push(Listener { conn, covered, only_credited, left_behind: false, behind: None });
    }

    fn open(&mut self) {
        let channel = self.rng.usize(..CHANNELS.len());
        let paced = channel < PACED || self.rng.bool();
        let patience = paced.then(|| Duration::from_millis(self.rng.u64(1..10_000)));
        let sender = self.bus.sender(CHANNELS[channel], patience);
        self.sources.push(Source { sender, channel, patience, dry: None });
    }

    /// Time passes, and everything is compared at each deadline.
    fn wait(&mut self) {
        let end = self.bus.now.after(Duration::from_millis(self.rng.u64(..4000)));
        while let Some(deadline) = self.bus.broker.next_deadline().filter(|&deadline| deadline <= end) {
            self.bus.now = self.bus.now.max(deadline);
            self.bus.turn([Event::Tick]);
            self.check();
        }
        self.bus.now = end;
    }

    fn read(&mut self) {
        if self.listeners.is_empty() {
            return;
        }
        let conn = self.listeners[self.rng.usize(..self.listeners.len())].conn;
        if self.bus.peers[conn.0].ended {
            return;
        }
        match self.rng.u32(..10) {
            0 => self.bus.stall(conn),
            1 => self.bus.take_all(conn),
            _ => {
                self.bus.stall(conn);
                let bytes = self.rng.usize(..self.room.1 / 2);
                self.bus.take(conn, bytes);
            }
        }
    }

    /// Some senders publish in one turn, as far as their credit allows.
    fn publish(&mut self) {
        let mut events = Vec::new();
        for _ in 0..self.rng.u32(1..4) {
            if self.sources.is_empty() {
                return;
            }
            let at = self.rng.usize(..self.sources.len());
            let (sender, channel) = (self.sources[at].sender, self.sources[at].channel);
            for _ in 0..self.rng.u32(1..20) {
                if self.bus.publication(sender).balance.is_some_and(|balance| balance <= 0) {
                    break;
                }
                let payload = self.rng.usize(..self.payload_max);
                let payload = self.rng.usize(..=payload);
                events.push(self.bus.frames(sender, 1, payload));
                self.accepted[channel] += 1;
            }
        }
        self.bus.turn(events);
    }

    /// Compares the waits, and the listeners left behind, with the rules.
    fn check(&mut self) {
        let now = self.bus.now;
        let snapshot = self.bus.broker.snapshot(now);
        let of: BTreeMap<_, _> = snapshot.connections.iter().map(|connection| (connection.conn, connection)).collect();
        // A subscription to all channels that asked for it may have ended the connection.
        self.listeners
            .retain(|listener| of.contains_key(&listener.conn) && self.bus.peers[listener.conn.0].refused.is_none());
        for source in &mut self.sources {
            let has = self.bus.publication(source.sender).balance.is_none_or(|balance| balance > 0);
            source.dry = if has { None } else { Some(source.dry.unwrap_or(now)) };
            self.seen.waits += u64::from(source.dry == Some(now));
        }
        for listener in &mut self.listeners {
            let connection = of[&listener.conn];
            let (messages, bytes) = (connection.queue_messages, connection.queue_bytes);
            let is_behind = connection.blocked.is_some() && (messages > self.room.0 / 2 || bytes > self.room.1 / 2);
            self.seen.caught_up += u64::from(listener.left_behind && !connection.left_behind);
            if connection.left_behind && !listener.left_behind {
                let waited = |source: &Source| {
                    let (Some(dry), Some(patience)) = (source.dry, source.patience) else { return true };
                    listener.behind.is_some_and(|behind| dry.max(behind).after(patience) <= now)
                };
                // The sender that waited has credit again.
                assert!(self.sources.iter().any(waited), "{:?} is left behind for no reason", listener.conn);
                self.seen.left_behind += 1;
            }
            assert!(!connection.left_behind || messages > 0, "{:?} has caught up", listener.conn);
            listener.left_behind = connection.left_behind;
            listener.only_credited &= !connection.left_behind;
            listener.behind = if is_behind { Some(listener.behind.unwrap_or(now)) } else { None };
            self.seen.overshoots += u64::from(bytes > self.room.1);
        }
        for source in self.sources.iter().filter(|source| source.dry.is_some()) {
            let (Some(dry), Some(patience)) = (source.dry, source.patience) else { continue };
            let delays = |listener: &&Listener| {
                let counts = listener.covered.get(&source.channel).is_some_and(|&(_, counts)| counts);
                counts && !listener.left_behind && listener.behind.is_some()
            };
            let mut delaying = self.listeners.iter().filter(delays).peekable();
            assert!(delaying.peek().is_some(), "{:?} waits for nothing", source.sender);
            let waits_for = of[&source.sender.conn].waits_for;
            assert!(delaying.clone().any(|listener| Some(listener.conn) == waits_for), "{waits_for:?}");
            for listener in delaying {
                let behind = listener.behind.unwrap_or(now);
                assert!(dry.max(behind).after(patience) > now, "{:?} delays for too long", listener.conn);
            }
        }
        self.check_bounds();
    }

    /// What waits beyond the room is what the windows allow, and one frame for each sender.
    fn check_bounds(&self) {
        let window = (self.room.1 / 4).clamp(4 * 1024, 1024 * 1024);
        let frame = self.payload_max + 28 + 2 * 64;
        for listener in &self.listeners {
            let (_, bytes) = self.bus.broker.queue(listener.conn);
            // Senders that have left had their windows too.
            let senders = self.bus.peers.len();
            assert!(bytes <= self.room.1 + senders * (window + frame), "{bytes} bytes wait");
        }
    }

    /// Everybody reads: no sender waits, and every message was received or reported lost.
    fn end(mut self) -> Seen {
        for at in 0..self.listeners.len() {
            self.bus.take_all(self.listeners[at].conn);
        }
        self.check();
        assert!(self.bus.is_at_rest());
        assert_eq!(self.bus.broker.next_deadline(), None, "nothing has a deadline");
        for source in &self.sources {
            assert!(self.bus.publication(source.sender).balance.is_none_or(|balance| balance > 0));
        }
        for listener in &self.listeners {
            let peer = &self.bus.peers[listener.conn.0];
            let received: u64 = peer.messages.values().sum();
            let lost: u64 = peer.lost.values().sum();
            let accepted: u64 =
                listener.covered.iter().map(|(&channel, &(before, _))| self.accepted[channel] - before).sum();
            assert_eq!(received + lost, accepted, "messages of {:?}", listener.conn);
            assert!(lost == 0 || !listener.only_credited, "{:?} lost {lost} credited messages", listener.conn);
            self.seen.losses += lost;
        }
        self.seen
    }
}

#[test]
fn credited_messages_are_never_lost_and_no_sender_waits_for_ever() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let seen = Sequence::new(seed).play();
        all.waits += seen.waits;
        all.left_behind += seen.left_behind;
        all.caught_up += seen.caught_up;
        all.losses += seen.losses;
        all.overshoots += seen.overshoots;
    }
    let Seen { waits, left_behind, caught_up, losses, overshoots } = all;
    for seen in [waits, left_behind, caught_up, losses, overshoots] {
        assert!(seen > SEEDS, "too little happens: {all:?}");
    }
}
