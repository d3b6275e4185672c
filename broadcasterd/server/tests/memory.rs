//! Counts the allocations of the driver and its broker. What they hold for messages never exceeds what the ledger charges, and is
//! given back with the charge.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "../../../protocol/tests/counting/mod.rs"]
mod counting;

use broadcaster_broker::{Broker, ConnId, Limits, Moment};
use broadcaster_protocol::control::{Control, Inspect, Open, Overflow, Selector, Subscribe};
use broadcaster_protocol::decode::CHUNK_BYTES;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelId, Header, SenderId, handshake};
use broadcaster_server::driver::{Driver, Input, Output, Request, Socket};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use counting::{Counting, LIVE};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// What a connection may keep that holds no message: the slots of an empty queue, a name that it was given, its share of a table.
const IDLE_BYTES: usize = 4 * 1024;

/// What the driver may keep: the chunk that it reads into, and a list for each kind of effect.
const DRIVER_BYTES: usize = 2 * CHUNK_BYTES;

const MIB: usize = 1024 * 1024;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that the driver has allocated: those of its turns, without those of the test.
    static DRIVER_LIVE: Cell<isize> = const { Cell::new(0) };
}

fn counted<T>(act: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    let value = act();
    DRIVER_LIVE.set(DRIVER_LIVE.get() + LIVE.get() - before);
    value
}

/// Bytes that the driver has allocated now.
fn live() -> usize {
    DRIVER_LIVE.get().unsigned_abs()
}

/// A connection that allocates nothing itself.
#[derive(Debug, Default)]
struct Pipe {
    to_daemon: Vec<u8>,
    /// Bytes of it that were read.
    read: usize,
    /// Bytes that the client takes before its socket is full.
    room: usize,
    shut: bool,
}

impl Pipe {
    /// The client sends these bytes; everything before them was read.
    fn receive(&mut self, bytes: &[u8]) {
        (self.to_daemon, self.read) = (bytes.to_vec(), 0);
    }
}

#[derive(Debug)]
struct End(Rc<RefCell<Pipe>>);

impl Socket for End {
    const KEEPS_BYTES_WHEN_STOPPED: bool = true;

    type Descriptor = ();
    type Memory = Arc<[AtomicU64]>;
    type Page = Arc<[AtomicU64]>;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let pipe = &mut *self.0.borrow_mut();
        let unread = &pipe.to_daemon[pipe.read..];
        let size = unread.len().min(target.remaining_mut());
        if size == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        target.put_slice(&unread[..size]);
        pipe.read += size;
        Ok(size)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let pipe = &mut *self.0.borrow_mut();
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = offered.min(pipe.room);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.room -= taken;
        Ok(taken)
    }

    fn stop_reading(&self) {}

    fn shut_down(&self) {
        self.0.borrow_mut().shut = true;
    }
}

struct Client {
    conn: ConnId,
    id: SenderId,
    pipe: Rc<RefCell<Pipe>>,
    /// The next sequence number on each channel that it has opened.
    next: Vec<u64>,
    /// Bytes of the frame that it has sent a part of which it has not sent.
    unfinished: usize,
}

impl Client {
    /// Bytes that the daemon has not read: the rest of a frame, if it has read a part of one.
    fn bytes_to_come(&self) -> usize {
        let pipe = self.pipe.borrow();
        self.unfinished + pipe.to_daemon.len() - pipe.read
    }
}

/// Clients that publish and listen on channels that are called by their numbers, of which all exist from the beginning.
struct Bus {
    driver: Driver<End>,
    now: Moment,
    clients: Vec<Client>,
    full: BTreeSet<ConnId>,
    /// What is allocated while no message is in transit.
    at_rest: usize,
    /// The most that was charged, and the most that was allocated beyond what is allocated at rest.
    peak: (usize, usize),
}

impl Bus {
    /// A bus on which `channels` exist, with a sender that has opened all of them.
    fn new(limits: Limits, channels: usize) -> Self {
        let now = Moment::default();
        let driver = counted(|| Driver::new(Broker::new(limits, 1, 1, "test", now)));
        let mut bus =
            Self { driver, now, clients: Vec::new(), full: BTreeSet::new(), at_rest: usize::MAX, peak: (0, 0) };
        bus.sender(channels);
        bus
    }

    fn turn<T>(&mut self, turn: impl FnOnce(&mut Driver<End>, Moment) -> T) -> T {
        let now = self.now;
        let result = counted(|| turn(&mut self.driver, now));
        while let Some(request) = self.driver.next_request() {
            let Request::ContinueWriting(conn) = request else { panic!("{request:?}") };
            self.full.insert(conn);
        }
        self.check();
        result
    }

    /// Compares what is allocated with what is charged.
    fn check(&mut self) {
        self.driver.invariants();
        let (held, allocated) = (self.driver.broker().held_bytes(), live().saturating_sub(self.at_rest));
        self.peak = (self.peak.0.max(held), self.peak.1.max(allocated));
        // The room for the rest of an incomplete frame is reserved. Nothing is charged for it, because its pages are untouched.
        let reserved: usize = self.clients.iter().map(Client::bytes_to_come).sum();
        assert!(allocated <= held + reserved, "{allocated} bytes are allocated, {held} are charged");
        assert!(held <= live(), "{held} bytes are charged, {} are allocated", live());
    }

    fn connect(&mut self) -> usize {
        let pipe = Rc::new(RefCell::new(Pipe { room: usize::MAX, ..Pipe::default() }));
        let pid = 100 + u32::try_from(self.clients.len()).unwrap();
        let end = End(Rc::clone(&pipe));
        let conn = self.turn(|driver, now| driver.accept(now, end, pid, 1));
        let (id, next) = (SenderId::new(pid, 1), Vec::new());
        self.clients.push(Client { conn, id, pipe, next, unfinished: 0 });
        let client = self.clients.len() - 1;
        self.request(client, handshake::hello("test", "test", pid, 1));
        client
    }

    fn sender(&mut self, channels: usize) -> usize {
        let client = self.connect();
        for channel in 0..channels {
            self.request(client, Open { channel: channel.to_string(), next_sequence: 0, extensions: Vec::new() });
        }
        self.clients[client].next = vec![0; channels];
        client
    }

    fn subscriber(&mut self, channels: impl IntoIterator<Item = usize>, overflow: Overflow, observer: bool) -> usize {
        let client = self.connect();
        for (subscription, channel) in (0..).zip(channels) {
            let selector = Selector::Name(channel.to_string());
            self.request(client, Subscribe { subscription, selector, overflow, observer, extensions: Vec::new() });
        }
        client
    }

    /// All have joined: what is allocated now, and what an idle connection may keep, holds no message.
    fn rest(&mut self) {
        self.at_rest = live() + self.clients.len() * IDLE_BYTES + DRIVER_BYTES;
    }

    fn request(&mut self, client: usize, control: impl Into<Control>) {
        let mut frame = Vec::new();
        control.into().encode(&mut frame).unwrap();
        self.send(client, &frame);
    }

    /// The client sends these bytes, and the daemon reads them.
    fn send(&mut self, client: usize, bytes: &[u8]) {
        let Client { conn, pipe, .. } = &self.clients[client];
        let conn = *conn;
        pipe.borrow_mut().receive(bytes);
        while self.turn(|driver, now| driver.read(now, conn)) == Input::More {}
    }

    /// The frame of the next message of the client on the channel.
    fn frame(&mut self, client: usize, channel: usize, len: usize) -> Vec<u8> {
        let Client { id, next, .. } = &mut self.clients[client];
        let sequence = next[channel];
        next[channel] += 1;
        let header = Header::publish(channel_id(channel), *id, sequence, u32::try_from(len).unwrap());
        let mut frame = header.as_bytes().to_vec();
        frame.resize(frame.len() + len, 7);
        frame
    }

    /// The client reads so many bytes.
    fn take(&mut self, client: usize, room: usize) {
        let Client { conn, pipe, .. } = &self.clients[client];
        let conn = *conn;
        pipe.borrow_mut().room = room;
        if self.full.contains(&conn) && self.turn(|driver, now| driver.write(now, conn)) == Output::Done {
            self.full.remove(&conn);
        }
    }

    fn held(&self) -> usize {
        self.driver.broker().held_bytes()
    }

    fn has_ended(&self, client: usize) -> bool {
        self.clients[client].pipe.borrow().shut
    }
}

/// The channels are opened in the order of their numbers, and the daemon counts from 1.
fn channel_id(channel: usize) -> ChannelId {
    ChannelId(u32::try_from(channel).unwrap() + 1)
}

#[test]
fn listeners_that_were_full_once_keep_nothing() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest] {
        let channels = 16;
        let mut limits = Limits::default();
        limits.outbox_messages_max = 20_000;
        let mut bus = Bus::new(limits, channels);
        let listeners: Vec<_> = (0..10).map(|_| bus.subscriber(0..channels, overflow, false)).collect();
        bus.rest();
        listeners.iter().for_each(|&listener| bus.take(listener, 0));
        // No two frames in a row are of the same channel, so that each has an entry in each queue.
        for _ in 0..15 {
            let frames: Vec<u8> = (0..1600).flat_map(|number| bus.frame(0, number % channels, 1)).collect();
            bus.send(0, &frames);
        }
        let (held, _) = bus.peak;
        let slots = listeners.len() * 20_000 * 24;
        assert!(held > slots || overflow == Overflow::Latest, "{overflow:?}: only {held} bytes were held");
        listeners.iter().for_each(|&listener| bus.take(listener, usize::MAX));
        assert_eq!(bus.held(), 0, "{overflow:?}");
    }
}

#[test]
fn a_refused_connection_holds_nothing_of_what_it_goes_on_sending() {
    let mut bus = Bus::new(Limits::default(), 1);
    let client = bus.sender(1);
    bus.rest();
    bus.clients[client].pipe.borrow_mut().room = 0;
    bus.request(client, handshake::hello("twice", "test", 1, 1));
    assert!(!bus.has_ended(client), "it does not read why");
    let frame = bus.frame(client, 0, 400_000);
    bus.send(client, &frame[..300_000]);
    assert!(bus.held() < 1000, "{} bytes are held", bus.held());
}

#[test]
fn memory_stays_within_the_budget_whatever_the_clients_do() {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let mut limits = Limits::default();
        (limits.held_bytes_max, limits.outbox_bytes_max) = (4 * MIB, MIB);
        limits.frame_timeout = Duration::MAX;
        let channels = 6;
        let mut bus = Bus::new(limits, channels);
        let policies = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];
        let listeners: Vec<_> = (0..30)
            .map(|_| {
                let of: Vec<_> = (0..channels).filter(|_| rng.bool()).collect();
                bus.subscriber(of, policies[rng.usize(0..3)], rng.usize(0..8) == 0)
            })
            .collect();
        let senders: Vec<_> = (0..8).map(|_| bus.sender(channels)).collect();
        bus.rest();
        for _ in 0..500 {
            match rng.usize(0..10) {
                0..=4 => publish(&mut bus, &mut rng, &senders, channels),
                5 => bus.request(listeners[rng.usize(0..listeners.len())], Inspect::default()),
                6 => {
                    bus.now = bus.now.after(Duration::from_millis(rng.u64(0..1500)));
                    bus.turn(Driver::tick);
                }
                _ => {
                    let room = [0, rng.usize(0..200), rng.usize(0..100_000), usize::MAX][rng.usize(0..4)];
                    bus.take(listeners[rng.usize(0..listeners.len())], room);
                }
            }
        }
        assert!(bus.peak.0 > 3 * MIB, "seed {seed}: the budget was meant to be reached, but {:?}", bus.peak);
        for &client in senders.iter().chain(&listeners) {
            bus.take(client, usize::MAX);
            if bus.clients[client].unfinished > 0 {
                let rest = vec![7; bus.clients[client].unfinished];
                bus.clients[client].unfinished = 0;
                bus.send(client, &rest);
            }
        }
        assert_eq!(bus.held(), 0, "seed {seed}");
        assert!(!listeners.iter().all(|&listener| bus.has_ended(listener)), "seed {seed}: all listeners have ended");
        assert!(!senders.iter().any(|&sender| bus.has_ended(sender)), "seed {seed}: a sender has ended");
    }
}

/// A sender publishes a few small messages, a large one, or a part of one and later the rest.
fn publish(bus: &mut Bus, rng: &mut Rng, senders: &[usize], channels: usize) {
    let sender = senders[rng.usize(0..senders.len())];
    if bus.clients[sender].unfinished > 0 {
        let rest = vec![7; std::mem::take(&mut bus.clients[sender].unfinished)];
        return bus.send(sender, &rest);
    }
    let mut frames: Vec<u8> = Vec::new();
    for _ in 0..rng.usize(1..200) {
        let channel = rng.usize(0..channels);
        frames.extend(bus.frame(sender, channel, rng.usize(0..300)));
    }
    let large = if rng.usize(0..3) == 0 { bus.frame(sender, 0, rng.usize(0..400_000)) } else { Vec::new() };
    let missing = if rng.bool() { rng.usize(0..=large.len().saturating_sub(HEADER_BYTES)) } else { 0 };
    frames.extend_from_slice(&large[..large.len() - missing]);
    bus.clients[sender].unfinished = missing;
    bus.send(sender, &frames);
}
