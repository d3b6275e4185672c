//! Random sequences of everything that senders, listeners and sockets do. Whatever happens, each listener receives every message once, in
//! order, or its loss is counted at that place.

use crate::bus::{Bus, CAPACITY, Sender, begin, subscribe, subscribe_to};
use broadcaster_broker::{ConnId, Limits, LinkId, RingId};
use broadcaster_protocol::control::{Overflow, Selector, capability};
use fastrand::Rng;
use std::collections::BTreeMap;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const LISTENERS: usize = 5;

/// Prints the seed of a failing sequence.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing seed is {}", self.0);
        }
    }
}

struct Play {
    bus: Bus,
    rng: Rng,
    /// One for each channel, with the number of messages that it has published, whichever way; `None` when it has left.
    senders: Vec<(Option<Sender>, u64)>,
    listeners: Vec<Listener>,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u64>,
}

struct Listener {
    conn: ConnId,
    /// The numbers of its subscriptions to channels.
    joined: BTreeMap<usize, u32>,
    /// The number of its subscription to all channels.
    all: Option<u32>,
    numbers: u32,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut limits = Limits::default();
        limits.outbox_messages_max = 200;
        let mut bus = Bus::new(limits);
        let senders = CHANNELS.map(|channel| (Some(bus.sender(channel)), 0)).into();
        let listeners = (0..LISTENERS).map(|number| {
            let conn = bus.connect_with(if number == 0 { capability::NONE } else { capability::RINGS });
            Listener { conn, joined: BTreeMap::new(), all: None, numbers: 0 }
        });
        let listeners = listeners.collect();
        Self { bus, rng: Rng::with_seed(seed), senders, listeners, done: BTreeMap::new() }
    }

    fn note(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn any_listener(&mut self) -> usize {
        self.rng.usize(..LISTENERS)
    }

    /// The ring of the sender, and whether its messages are there.
    fn ring(&self, sender: Sender) -> Option<(RingId, bool)> {
        let mut rings = self.bus.rings.iter().filter(|(_, ring)| ring.is_kept);
        let (&id, _) = rings.find(|(_, ring)| (ring.conn, ring.channel) == (sender.conn, sender.channel))?;
        Some((id, self.bus.snapshot(sender.conn).rings > 0))
    }

    /// Something happens that changes neither who sends nor who listens.
    fn step(&mut self) {
        match self.rng.u32(..20) {
            0 => self.give_up(),
            1..5 => self.listen(),
            5..8 => self.answer(),
            8 => self.bus.sample_all(),
            _ => self.send(),
        }
    }

    fn send(&mut self) {
        let at = self.rng.usize(..CHANNELS.len());
        let (Some(sender), published) = self.senders[at] else { return };
        match (self.ring(sender), self.rng.u32(..10)) {
            (ring, 0..6) => {
                let messages = if self.rng.u32(..40) == 0 { CAPACITY + 300 } else { self.rng.u64(1..=40) };
                self.senders[at].1 += messages;
                match ring {
                    Some((ring, true)) => {
                        self.bus.publish(ring, messages);
                        self.note("published in a ring");
                    }
                    _ => self.bus.send_messages(sender, published..published + messages),
                }
            }
            (Some((ring, true)), 6..=7) => {
                let max = self.rng.u64(1..100);
                self.bus.relay(ring, max);
            }
            (None, 8) => self.bus.offer(sender),
            (Some((_, false)), 8) => {
                self.bus.send(sender.conn, begin(sender, published));
                self.note("begun");
            }
            (Some((_, true)), 9) if self.rng.u32(..3) == 0 => {
                self.bus.end_upload(sender, published);
                self.note("ended");
            }
            _ => {}
        }
    }

    /// A listener that was offered a ring answers, or a sender that was given a link.
    fn answer(&mut self) {
        let listener = self.any_listener();
        let listener = self.listeners[listener].conn;
        if let Some(link) = self.bus.peers[listener.0].offers.keys().next_back().copied()
            && !self.bus.pages.contains_key(&link)
        {
            self.bus.ready(listener, link);
        }
        for (sender, _) in self.senders.clone() {
            let Some(sender) = sender else { continue };
            for line in self.bus.take_log(sender.conn) {
                if let Some(link) = line.strip_prefix("add ") {
                    self.bus.added(sender, LinkId(link.parse().unwrap()));
                    self.note("added");
                }
            }
        }
    }

    /// A listener reads its socket or its rings, or stops reading.
    fn listen(&mut self) {
        let listener = self.any_listener();
        let conn = self.listeners[listener].conn;
        match self.rng.u32(..6) {
            0 => self.bus.stall(conn),
            1 => {
                let bytes = self.rng.usize(1..2000);
                self.bus.take(conn, bytes);
            }
            2 => self.bus.take_all(conn),
            _ => {
                let max = self.rng.u64(1..200);
                self.bus.read_rings(conn, max);
            }
        }
    }

    /// A listener reads a ring no more.
    fn give_up(&mut self) {
        let listener = self.any_listener();
        let conn = self.listeners[listener].conn;
        let peer = &mut self.bus.peers[conn.0];
        // Otherwise an Unfollow may be on its way.
        let is_up_to_date = !peer.frozen && peer.room > 0 && self.bus.broker.outgoing(conn).next().is_none();
        if is_up_to_date
            && self.rng.u32(..3) == 0
            && peer.follows.pop_first().is_some_and(|(link, _)| {
                self.bus.unlink(conn, link);
                true
            })
        {
            self.note("given up");
        }
    }

    /// A listener or a sender leaves, or a listener joins.
    fn come_and_go(&mut self) {
        let listener = self.any_listener();
        match self.rng.u32(..20) {
            0..10 => self.subscribe(listener),
            10..19 => self.unsubscribe(listener),
            _ => {
                let at = self.rng.usize(..CHANNELS.len());
                if let Some(sender) = self.senders[at].0.take() {
                    self.bus.close(sender.conn);
                    self.note("senders that left");
                }
            }
        }
    }

    fn subscribe(&mut self, at: usize) {
        let (channel, all) = (self.rng.usize(..CHANNELS.len()), self.rng.u32(..4) == 0);
        let listener = &mut self.listeners[at];
        let number = listener.numbers;
        listener.numbers += 1;
        let conn = listener.conn;
        if all && listener.all.is_none() {
            listener.all = Some(number);
            self.bus.send(conn, subscribe_to(number, Selector::All, Overflow::DropOldest, false));
        } else if self.senders[channel].0.is_some() && !listener.joined.contains_key(&channel) {
            listener.joined.insert(channel, number);
            self.bus.send(conn, subscribe(number, CHANNELS[channel]));
        }
    }

    fn unsubscribe(&mut self, at: usize) {
        let (channel, all) = (self.rng.usize(..CHANNELS.len()), self.rng.bool());
        let listener = &mut self.listeners[at];
        let conn = listener.conn;
        if self.bus.peers[conn.0].frozen {
            return;
        }
        let number = if all { listener.all.take() } else { listener.joined.remove(&channel) };
        if let Some(number) = number {
            self.bus.unsubscribe(conn, number);
            self.note("unsubscribed");
        }
    }

    /// Everything that waits is read, every stream is in order, and the counters agree with all of them. With `complete`, every message has arrived at every
    /// listener, or a report of its loss.
    fn finish(&mut self, complete: bool) {
        for (sender, published) in self.senders.clone() {
            let Some(sender) = sender else { continue };
            if self.ring(sender).is_some() {
                self.bus.end_upload(sender, published);
            }
            assert_eq!(self.bus.peers[sender.conn.0].refused, None);
        }
        for listener in 0..LISTENERS {
            self.bus.take_all(self.listeners[listener].conn);
        }
        self.bus.sample_all();
        assert!(self.bus.pages.values().all(|page| page.ring.is_none()), "every listener has read the rest");
        let (mut received, mut lost) = (0, 0);
        for listener in &self.listeners {
            let peer = &self.bus.peers[listener.conn.0];
            assert_eq!(peer.refused, None);
            // For each channel, the message that is due, and what was lost in front of it.
            let mut due = BTreeMap::new();
            for (channel, messages, gap) in &peer.stream {
                let (next, losses) = due.entry(*channel).or_insert((0, 0));
                *losses += gap;
                lost += gap;
                let Some(messages) = messages else { continue };
                received += messages.end - messages.start;
                let is_due = messages.start == *next + *losses;
                // It may not have been subscribed for a while.
                assert!(is_due || !complete && messages.start > *next + *losses, "{messages:?}, not {next} + {losses}");
                (*next, *losses) = (messages.end, 0);
            }
            for (channel, &(sender, published)) in CHANNELS.iter().zip(&self.senders) {
                let Some(sender) = sender.filter(|_| complete) else { continue };
                let (next, losses) = due.get(&sender.channel).copied().unwrap_or_default();
                assert_eq!(next + losses, published, "the end of {channel:?}");
            }
        }
        let stats = self.bus.broker.stats();
        let accepted = self.senders.iter().map(|(_, published)| published).sum::<u64>();
        let counted = (stats.messages_accepted, stats.messages_delivered, stats.messages_lost);
        assert_eq!(counted, (accepted, received, lost));
        *self.done.entry("lost").or_default() += lost;
    }
}

fn all_happened(done: &BTreeMap<&str, u64>, expected: &[&str]) {
    for &what in expected {
        assert!(done.get(what).is_some_and(|&count| count > 20), "{what} is too rare: {done:?}");
    }
}

#[test]
fn a_listener_that_stays_receives_every_message_or_a_report_of_its_loss() {
    let mut done = BTreeMap::new();
    for seed in 0..150 {
        let _seed = Seed(seed);
        let mut play = Play::new(seed);
        for listener in 0..LISTENERS {
            for (number, channel) in (0..).zip(CHANNELS) {
                play.bus.send(play.listeners[listener].conn, subscribe(number, channel));
            }
        }
        (0..400).for_each(|_| play.step());
        play.finish(true);
        play.done.iter().for_each(|(what, count)| *done.entry(*what).or_default() += count);
    }
    all_happened(&done, &["published in a ring", "begun", "ended", "added", "given up", "lost"]);
}

#[test]
fn a_listener_that_comes_and_goes_receives_no_message_twice() {
    let mut done = BTreeMap::new();
    for seed in 1000..1150 {
        let _seed = Seed(seed);
        let mut play = Play::new(seed);
        for _ in 0..400 {
            match play.rng.u32(..5) {
                0 => play.come_and_go(),
                _ => play.step(),
            }
        }
        play.finish(false);
        play.done.iter().for_each(|(what, count)| *done.entry(*what).or_default() += count);
    }
    all_happened(
        &done,
        &["published in a ring", "begun", "ended", "added", "unsubscribed", "lost", "senders that left"],
    );
}
