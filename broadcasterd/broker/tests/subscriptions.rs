//! Random sequences of subscriptions, publications, watches and their ends, against a list of them all. No limit is reached here.

#![allow(clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::{
    Control, CountListeners, Open, Overflow, Selector, Subscribe, Unsubscribe, Unwatch, Watch,
};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, ChannelName, ChannelPattern, Decoder, Header, Item, Run, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 7] = ["a", "a.b", "a.b.c", "a.*", "b.b", "a.", "c"];

const PATTERNS: [&str; 9] = ["*", "a.*", "*.b", "a.**", "**", "*.*.c", "a.b", "b.**", "*.**"];

/// Prints the seed of a failing sequence.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing seed is {}", self.0);
        }
    }
}

/// What one client has requested, and what it has received since it was last asked.
#[derive(Default)]
struct Client {
    conn: Option<ConnId>,
    sender: Option<SenderId>,
    decoder: Option<Decoder>,
    chunk: BytesMut,
    received: Vec<Item>,
    subscriptions: BTreeMap<u32, (Selector, bool)>,
    publications: BTreeMap<String, (ChannelId, u64)>,
    /// The request for a number of listeners that waits for each channel.
    counting: BTreeMap<String, (u32, u32)>,
    watches: BTreeMap<u32, (String, BTreeSet<u64>)>,
    names: BTreeMap<u32, String>,
}

impl Client {
    /// The control messages that it has received since it was last asked.
    fn controls(&self) -> Vec<Control> {
        let controls = self.received.iter().filter_map(|item| match item {
            Item::Control(control) => Some(control.clone()),
            Item::Run(_) | Item::Discarded(_) => None,
        });
        controls.collect()
    }

    fn covers(&self, name: &str, observers: bool) -> bool {
        self.subscriptions.values().any(|(selector, observer)| (observers || !observer) && covers(selector, name))
    }
}

fn covers(selector: &Selector, name: &str) -> bool {
    match selector {
        Selector::Name(covered) => covered == name,
        Selector::All => true,
        Selector::Pattern(pattern) => ChannelPattern::new(pattern).unwrap().covers(&ChannelName::new(name).unwrap()),
        Selector::Other { .. } => false,
    }
}

struct World {
    broker: Broker,
    rng: Rng,
    clients: Vec<Client>,
    numbers: u32,
    conns: usize,
    /// How often each thing has happened.
    done: BTreeMap<&'static str, u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut limits = Limits::default();
        limits.wildcards_max = 100;
        limits.observers_max = 100;
        let broker = Broker::new(limits, 1000, 1, "test", Moment::default());
        let clients = (0..5).map(|_| Client::default()).collect();
        Self { broker, rng: Rng::with_seed(seed), clients, numbers: 0, conns: 0, done: BTreeMap::new() }
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn note(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(Moment::default(), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) => self.read(conn),
                other => panic!("{other:?}"),
            }
        }
    }

    fn read(&mut self, conn: ConnId) {
        loop {
            let outgoing: Vec<u8> = self.broker.outgoing(conn).flatten().copied().collect();
            if outgoing.is_empty() {
                return;
            }
            let client = self.clients.iter_mut().find(|client| client.conn == Some(conn)).unwrap();
            let (decoder, mut rest) = (client.decoder.as_mut().unwrap(), &outgoing[..]);
            while !rest.is_empty() {
                let mut target = decoder.target(&mut client.chunk);
                let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
                target.put_slice(now);
                rest = later;
                while let Some(item) = decoder.next(&mut client.chunk).unwrap() {
                    client.received.push(item);
                }
            }
            self.handle(Event::Written { conn, bytes: outgoing.len(), blocked: false });
        }
    }

    /// Writes a request and returns what the client has received by then.
    fn request(&mut self, at: usize, request: impl Into<Control>) -> Vec<Control> {
        let conn = self.clients[at].conn.unwrap();
        self.handle(Event::Control { conn, control: request.into() });
        self.handle(Event::Flushed);
        self.broker.invariants();
        self.clients[at].controls()
    }

    fn connect(&mut self, at: usize) {
        self.conns += 1;
        let (conn, pid) = (ConnId(self.conns - 1), 100 + u32::try_from(at).unwrap());
        let decoder = Some(Decoder::consumer(PAYLOAD_BYTES_MAX));
        self.clients[at] = Client { conn: Some(conn), decoder, ..Client::default() };
        self.handle(Event::Opened { conn, pid, uid: 1000 });
        self.handle(Event::Control { conn, control: handshake::hello("a test", "test", pid, self.numbers).into() });
        let Some(Item::Control(Control::Welcome(welcome))) = self.clients[at].received.pop() else {
            panic!("no Welcome")
        };
        self.clients[at].sender = Some(SenderId::from_raw(welcome.sender));
    }

    fn close(&mut self, at: usize) {
        let conn = self.clients[at].conn.unwrap();
        self.clients[at] = Client::default();
        self.handle(Event::Closed { conn });
        self.handle(Event::Flushed);
        self.broker.invariants();
    }

    fn subscribe(&mut self, at: usize) {
        let selector = match self.rng.u32(..8) {
            0 => Selector::All,
            1..4 => Selector::Pattern(PATTERNS[self.rng.usize(..PATTERNS.len())].to_owned()),
            _ => Selector::Name(NAMES[self.rng.usize(..NAMES.len())].to_owned()),
        };
        if self.clients[at].subscriptions.values().any(|(own, _)| *own == selector) {
            return;
        }
        let (observer, subscription) = (self.rng.u32(..4) == 0, self.number());
        let overflow = [Overflow::DropOldest, Overflow::Latest][self.rng.usize(..2)];
        self.clients[at].subscriptions.insert(subscription, (selector.clone(), observer));
        let request = Subscribe { subscription, selector, overflow, observer, extensions: Vec::new() };
        let answers = self.request(at, request);
        assert!(answers.iter().any(|answer| matches!(answer, Control::Subscribed(_))), "{answers:?}");
        self.note("subscribed");
    }

    fn unsubscribe(&mut self, at: usize) {
        let numbers: Vec<_> = self.clients[at].subscriptions.keys().copied().collect();
        let Some(subscription) = self.rng.choice(numbers) else { return };
        self.clients[at].subscriptions.remove(&subscription);
        let answers = self.request(at, Unsubscribe { subscription, extensions: Vec::new() });
        assert!(answers.iter().any(|answer| matches!(answer, Control::Unsubscribed(_))), "{answers:?}");
        self.note("unsubscribed");
    }

    fn open(&mut self, at: usize) {
        let name = NAMES[self.rng.usize(..NAMES.len())];
        if self.clients[at].publications.contains_key(name) {
            return;
        }
        let answers = self.request(at, Open { channel: name.to_owned(), next_sequence: 0, extensions: Vec::new() });
        let opened = answers.iter().find_map(|answer| match answer {
            Control::Opened(opened) => Some(opened),
            _ => None,
        });
        assert_eq!(opened.unwrap().listeners as usize, self.listeners(name).len());
        self.clients[at].publications.insert(name.to_owned(), (ChannelId(opened.unwrap().id), 0));
        self.note("opened");
    }

    fn count(&mut self, at: usize) {
        let names: Vec<_> = self.clients[at].publications.keys().cloned().collect();
        let Some(name) = self.rng.choice(names) else { return };
        let (number, minimum) = (self.number(), self.rng.u32(..5));
        self.clients[at].counting.insert(name.clone(), (number, minimum));
        let id = self.clients[at].publications[&name].0.0;
        self.request(at, CountListeners { number, id, minimum, extensions: Vec::new() });
    }

    fn watch(&mut self, at: usize) {
        let (watch, name) = (self.number(), NAMES[self.rng.usize(..NAMES.len())]);
        self.clients[at].watches.insert(watch, (name.to_owned(), BTreeSet::new()));
        self.request(at, Watch { watch, channel: name.to_owned(), extensions: Vec::new() });
        self.note("watched");
    }

    fn unwatch(&mut self, at: usize) {
        let numbers: Vec<_> = self.clients[at].watches.keys().copied().collect();
        let Some(watch) = self.rng.choice(numbers) else { return };
        let answers = self.request(at, Unwatch { watch, extensions: Vec::new() });
        assert!(matches!(answers.last(), Some(Control::Unwatched(_))), "{answers:?}");
        self.digest();
        self.clients[at].watches.remove(&watch);
        self.note("unwatched");
    }

    /// The sender ids of the clients that listen to the name.
    fn listeners(&self, name: &str) -> BTreeSet<u64> {
        let listeners = self.clients.iter().filter(|client| client.covers(name, false));
        listeners.map(|client| client.sender.unwrap().raw()).collect()
    }

    /// The channels that exist.
    fn channels(&self) -> BTreeSet<&str> {
        let mut channels = BTreeSet::new();
        for client in &self.clients {
            channels.extend(client.publications.keys().map(String::as_str));
            let by_name = client.subscriptions.values().filter_map(|(selector, observer)| match selector {
                Selector::Name(name) if !observer => Some(name.as_str()),
                _ => None,
            });
            channels.extend(by_name);
        }
        channels
    }

    /// Lets each client digest what it has received, and compares it with what should have happened. Returns the messages by client and
    /// channel.
    fn digest(&mut self) -> BTreeMap<(usize, String), u64> {
        let mut messages = BTreeMap::new();
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            let mut counted = 0;
            for item in std::mem::take(&mut client.received) {
                match item {
                    Item::Run(run) => {
                        let name = client.names.get(&run.channel().0).expect("a name before the first message");
                        *messages.entry((at, name.clone())).or_default() += run.messages();
                    }
                    Item::Control(Control::Named(named)) if named.name.is_empty() => {
                        client.names.remove(&named.id).expect("the end of a channel that was named");
                    }
                    Item::Control(Control::Named(named)) => _ = client.names.insert(named.id, named.name),
                    Item::Control(Control::Presence(presence)) => {
                        let (_, present) = client.watches.get_mut(&presence.watch).unwrap();
                        match presence.present {
                            true => assert!(present.insert(presence.listener), "{presence:?}"),
                            false => assert!(present.remove(&presence.listener), "{presence:?}"),
                        }
                    }
                    Item::Control(Control::Listeners(listeners)) => {
                        let (name, minimum) = client
                            .counting
                            .iter()
                            .find_map(|(name, (number, minimum))| {
                                (*number == listeners.number).then_some((name.clone(), *minimum))
                            })
                            .expect("an answer to a request that waits");
                        assert!(listeners.listeners >= minimum, "{listeners:?}");
                        client.counting.remove(&name);
                        counted += 1;
                    }
                    Item::Control(
                        Control::Subscribed(_)
                        | Control::Unsubscribed(_)
                        | Control::Opened(_)
                        | Control::Watched(_)
                        | Control::Unwatched(_),
                    ) => {}
                    other => panic!("{other:?}"),
                }
            }
            (0..counted).for_each(|_| self.note("counted"));
        }
        for client in &self.clients {
            for (name, present) in client.watches.values() {
                assert_eq!(*present, self.listeners(name), "those that listen to {name:?}");
            }
            for (name, (_, minimum)) in &client.counting {
                assert!(self.listeners(name).len() < *minimum as usize, "{name:?} has {minimum} listeners");
            }
        }
        messages
    }

    /// Publishes a message with each publication, and checks that each client which covers the channel receives it once.
    fn publish(&mut self) {
        self.digest();
        let mut expected = BTreeMap::new();
        for at in 0..self.clients.len() {
            let names: Vec<_> = self.clients[at].publications.keys().cloned().collect();
            for name in names {
                let client = &mut self.clients[at];
                let (id, next) = client.publications.get_mut(&name).unwrap();
                let run = message(*id, client.sender.unwrap(), *next);
                *next += 1;
                let conn = client.conn.unwrap();
                self.handle(Event::Run { conn, run });
                for (other, client) in self.clients.iter().enumerate() {
                    if client.covers(&name, true) {
                        *expected.entry((other, name.clone())).or_default() += 1;
                    }
                }
            }
        }
        self.handle(Event::Flushed);
        assert_eq!(self.digest(), expected);
        let snapshot = self.broker.snapshot(Moment::default());
        let channels: BTreeMap<_, _> =
            snapshot.channels.iter().map(|channel| (channel.name.as_str(), channel.listeners)).collect();
        let expected = self.channels().into_iter().map(|name| (name, self.listeners(name).len()));
        assert_eq!(channels, expected.collect());
    }
}

fn message(channel: ChannelId, sender: SenderId, sequence: u64) -> Run {
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    decoder.target(&mut chunk).put_slice(Header::publish(channel, sender, sequence, 0).as_bytes());
    match decoder.next(&mut chunk).unwrap() {
        Some(Item::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_client_receives_what_its_subscriptions_cover_whatever_came_and_went() {
    let mut done = BTreeMap::new();
    for seed in 0..60 {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        for _ in 0..150 {
            let at = world.rng.usize(..world.clients.len());
            if world.clients[at].conn.is_none() {
                world.connect(at);
            }
            match world.rng.u32(..20) {
                0 => world.close(at),
                1..7 => world.subscribe(at),
                7..11 => world.unsubscribe(at),
                11..14 => world.open(at),
                14..16 => world.count(at),
                16..18 => world.watch(at),
                18 => world.unwatch(at),
                _ => {}
            }
            world.publish();
        }
        for (what, times) in world.done {
            *done.entry(what).or_insert(0) += times;
        }
    }
    for (what, times) in &done {
        assert!(*times > 100, "{times} times {what}");
    }
    assert_eq!(done.len(), 6, "{done:?}");
}
