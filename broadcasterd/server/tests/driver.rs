//! The driver over pipes in memory: turns that are bounded, listeners that are healthy, and an orderly stop.

#![allow(clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Limits, Moment, TURN_WORK_MAX};
use broadcaster_protocol::control::{Control, Extension, Open, Overflow, Selector, Stop, Subscribe};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::meta::{Metadata, Retention};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId, handshake};
use broadcaster_server::driver::{Drain, Driver, Input, Output, Request, Socket};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Both directions of one connection.
#[derive(Debug, Default)]
struct Pipe {
    to_daemon: VecDeque<u8>,
    to_client: Vec<u8>,
    /// Bytes that may wait for the client.
    capacity: usize,
    short_of_memory: bool,
    /// Reading and writing fail.
    broken: bool,
    /// The client is gone: writing fails, and what it has sent can be read.
    left: bool,
    /// How often the daemon has written.
    writes: usize,
    /// The client can write no more.
    stopped: bool,
    shut: bool,
}

#[derive(Debug, Clone)]
struct End(Rc<RefCell<Pipe>>);

impl Socket for End {
    const KEEPS_BYTES_WHEN_STOPPED: bool = true;

    type Descriptor = ();
    type Memory = Arc<[AtomicU64]>;
    type Page = Arc<[AtomicU64]>;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let pipe = &mut self.0.borrow_mut();
        if pipe.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let size = pipe.to_daemon.len().min(target.remaining_mut());
        if size == 0 && !pipe.stopped && !pipe.left {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes: Vec<u8> = pipe.to_daemon.drain(..size).collect();
        target.put_slice(&bytes);
        Ok(size)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let pipe = &mut self.0.borrow_mut();
        if pipe.broken {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if pipe.left {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if pipe.short_of_memory {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        pipe.writes += 1;
        let room = pipe.capacity - pipe.to_client.len();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(room).collect();
        pipe.to_client.extend_from_slice(&offered);
        Ok(offered.len())
    }

    fn stop_reading(&self) {
        self.0.borrow_mut().stopped = true;
    }

    fn shut_down(&self) {
        self.0.borrow_mut().shut = true;
    }
}

/// A client by hand.
struct Client {
    conn: ConnId,
    pipe: Rc<RefCell<Pipe>>,
    decoder: Decoder,
    chunk: BytesMut,
    id: SenderId,
    /// Channel ids by name.
    channels: BTreeMap<String, ChannelId>,
    messages: u64,
    lost: u64,
    goodbye: bool,
}

impl Client {
    fn send(&self, bytes: &[u8]) {
        assert!(!self.pipe.borrow().stopped, "the client can write no more");
        self.pipe.borrow_mut().to_daemon.extend(bytes);
    }

    fn request(&self, control: impl Into<Control>) {
        let mut frame = Vec::new();
        control.into().encode(&mut frame).unwrap();
        self.send(&frame);
    }

    /// Reads what has arrived.
    fn read(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.pipe.borrow_mut().to_client);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
            target.put_slice(now);
            rest = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).unwrap() {
                match item {
                    Item::Run(run) => self.messages += run.messages(),
                    Item::Control(Control::Lagged(lagged)) => self.lost += lagged.count,
                    Item::Control(Control::Welcome(welcome)) => self.id = SenderId::from_raw(welcome.sender),
                    Item::Control(Control::Opened(opened)) => {
                        self.channels.insert(opened.channel, ChannelId(opened.id));
                    }
                    Item::Control(Control::Goodbye(_)) => self.goodbye = true,
                    Item::Control(_) | Item::Discarded(_) => {}
                }
            }
        }
        !bytes.is_empty()
    }

    fn frame(&self, channel: &str, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        [Header::publish(self.channels[channel], self.id, sequence, size).as_bytes(), payload].concat()
    }
}

fn subscribe(subscription: u32, channel: &str) -> Subscribe {
    let (selector, overflow) = (Selector::Name(channel.to_owned()), Overflow::DropOldest);
    Subscribe { subscription, selector, overflow, observer: false, extensions: Vec::new() }
}

struct Bus {
    driver: Driver<End>,
    now: Moment,
    requests: Vec<Request>,
    /// All bookkeeping is checked after each turn.
    checks: bool,
    /// Processes of the clients so far: each has its own.
    processes: u32,
}

impl Bus {
    fn new(limits: Limits) -> Self {
        let broker = Broker::new(limits, 1, 1, "test", Moment::default());
        let (now, requests) = (Moment::default(), Vec::new());
        Self { driver: Driver::new(broker), now, requests, checks: true, processes: 0 }
    }

    fn turn<T>(&mut self, turn: impl FnOnce(&mut Driver<End>, Moment) -> T) -> T {
        let result = turn(&mut self.driver, self.now);
        self.requests.extend(std::iter::from_fn(|| self.driver.next_request()));
        if self.checks {
            self.driver.invariants();
        }
        result
    }

    fn connect(&mut self, capacity: usize) -> Client {
        let pipe = Rc::new(RefCell::new(Pipe { capacity, ..Pipe::default() }));
        self.processes += 1;
        let pid = self.processes;
        let conn = self.turn(|driver, now| driver.accept(now, End(Rc::clone(&pipe)), pid, 1));
        let client = Client {
            conn,
            pipe,
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            id: SenderId::new(0, 0),
            channels: BTreeMap::new(),
            messages: 0,
            lost: 0,
            goodbye: false,
        };
        client.request(handshake::hello("test", "test", pid, 1));
        client
    }

    fn sender(&mut self, channels: &[&str]) -> Client {
        let mut client = self.connect(usize::MAX);
        for &channel in channels {
            client.request(Open { channel: channel.to_owned(), next_sequence: 0, extensions: Vec::new() });
        }
        self.read_all(client.conn);
        client.read();
        client
    }

    fn listener(&mut self, channels: &[&str], capacity: usize) -> Client {
        let mut client = self.connect(capacity);
        for (subscription, &channel) in (0..).zip(channels) {
            client.request(subscribe(subscription, channel));
        }
        self.read_all(client.conn);
        client.read();
        client
    }

    /// Lets the daemon read from the connection until nothing is left; returns the number of turns.
    fn read_all(&mut self, conn: ConnId) -> usize {
        let mut turns = 1;
        while self.turn(|driver, now| driver.read(now, conn)) == Input::More {
            turns += 1;
        }
        turns
    }

    fn write(&mut self, client: &Client) -> Output {
        self.turn(|driver, now| driver.write(now, client.conn))
    }
}

#[test]
fn healthy_listeners_lose_nothing_within_one_write() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 8 * 1024 * 1024;
    let mut bus = Bus::new(limits);
    let channels = ["a", "b"];
    let mut listeners: Vec<_> = (0..300).map(|_| bus.listener(&channels, usize::MAX)).collect();
    let sender = bus.sender(&channels);
    // No two frames in a row are of the same channel, so that each is a run.
    let frames = (0..2240).flat_map(|n| sender.frame(channels[n % 2], n as u64 / 2, b"x"));
    sender.send(&frames.collect::<Vec<_>>());
    let turns = bus.read_all(sender.conn);
    assert!(turns > 20, "672,000 deliveries were made in {turns} turns");
    for listener in &mut listeners {
        listener.read();
        assert_eq!((listener.messages, listener.lost), (2240, 0));
    }
    assert_eq!(bus.driver.broker().held_bytes(), 0);
}

#[test]
fn a_turn_for_thousands_of_listeners_is_bounded_and_only_those_that_do_not_read_lose() {
    const LISTENERS: usize = 4000;
    const FRAMES: usize = 120;
    let mut limits = Limits::default();
    limits.outbox_messages_max = 50;
    let mut bus = Bus::new(limits);
    bus.checks = false; // each joins in several turns, and a check looks at all of them
    let channels = ["a", "b"];
    let mut listeners: Vec<_> = (0..LISTENERS).map(|_| bus.listener(&channels, usize::MAX)).collect();
    let sender = bus.sender(&channels);
    bus.checks = true;
    // Every fourth reads no more; the first of these not even the rest of a frame.
    let stalled = |at: usize| at % 4 == 1;
    for (at, listener) in listeners.iter().enumerate().filter(|&(at, _)| stalled(at)) {
        listener.pipe.borrow_mut().capacity = if at == 1 { 10 } else { 0 };
    }
    let frames = (0..FRAMES).flat_map(|n| sender.frame(channels[n % 2], n as u64 / 2, b"x"));
    sender.send(&frames.collect::<Vec<_>>());
    let deliveries = FRAMES * LISTENERS;
    let turns = bus.read_all(sender.conn);
    assert!(turns >= deliveries / (TURN_WORK_MAX + LISTENERS), "{deliveries} deliveries were made in {turns} turns");
    assert_eq!(bus.requests.len(), LISTENERS / 4, "each of them is waited for once");
    for (at, listener) in listeners.iter_mut().enumerate() {
        if stalled(at) {
            listener.pipe.borrow_mut().capacity = usize::MAX;
            bus.checks = at % 100 == 1;
            assert_eq!(bus.write(listener), Output::Done);
        }
        listener.read();
        assert_eq!(listener.messages + listener.lost, FRAMES as u64);
        assert_eq!(listener.lost > 0, stalled(at), "listener {at} has lost {}", listener.lost);
    }
    let stats = bus.driver.broker().stats();
    assert_eq!(stats.messages_delivered + stats.messages_lost, deliveries as u64);
    assert_eq!(bus.driver.broker().held_bytes(), 0);
}

#[test]
fn input_that_waits_to_be_decoded_is_bounded_and_not_taken_for_a_stalled_frame() {
    let mut bus = Bus::new(Limits::default());
    let channels = ["a", "b"];
    let listeners: Vec<_> = (0..200).map(|_| bus.listener(&channels, usize::MAX)).collect();
    let senders: Vec<_> = (0..66).map(|_| bus.sender(&channels)).collect();
    senders[0].request(subscribe(0, "a"));
    bus.read_all(senders[0].conn);
    for sender in &senders {
        let frames = (0..400).flat_map(|n| sender.frame(channels[n % 2], n as u64 / 2, b"x"));
        sender.send(&frames.collect::<Vec<_>>());
        assert_eq!(bus.turn(|driver, now| driver.read(now, sender.conn)), Input::More);
        listeners.iter().for_each(|listener| listener.pipe.borrow_mut().to_client.clear());
    }
    let unread = |sender: &&Client| !sender.pipe.borrow().to_daemon.is_empty();
    assert_eq!(senders.iter().filter(unread).count(), 2, "others are not read while the input of 64 waits");
    bus.now = Moment(Duration::from_secs(40));
    bus.turn(Driver::tick);
    assert!(senders.iter().all(|sender| !sender.pipe.borrow().shut));
    // A connection may end while its input waits.
    senders[0].pipe.borrow_mut().broken = true;
    bus.read_all(senders[1].conn);
    assert!(senders[0].pipe.borrow().shut);
    for sender in &senders[1..] {
        bus.read_all(sender.conn);
    }
    let accepted = bus.driver.broker().stats().messages_accepted;
    assert!((65 * 400 + 1..66 * 400).contains(&accepted), "{accepted} messages were accepted");
}

#[test]
fn one_read_does_not_overflow_the_outbox_of_a_listener_that_takes_it() {
    let (mut bytes, mut messages) = (Limits::default(), Limits::default());
    bytes.outbox_bytes_max = 64 * 1024;
    messages.outbox_messages_max = 500;
    for (limits, writes_max) in [(Limits::default(), 50), (bytes, 100), (messages, 100)] {
        let mut bus = Bus::new(limits);
        let channels = ["a", "b"];
        let mut listener = bus.listener(&channels, usize::MAX);
        let sender = bus.sender(&channels);
        let frames = (0..2240).flat_map(|n| sender.frame(channels[n % 2], n as u64 / 2, b"x"));
        sender.send(&frames.collect::<Vec<_>>());
        let before = listener.pipe.borrow().writes;
        assert_eq!(bus.read_all(sender.conn), 1, "the frames fill 65,000 bytes: one read");
        let writes = listener.pipe.borrow().writes - before;
        assert!((35..writes_max).contains(&writes), "{writes} writes for 2240 runs");
        listener.read();
        assert_eq!((listener.messages, listener.lost), (2240, 0));
    }
}

#[test]
fn a_connection_ends_when_reading_fails_and_not_when_nothing_has_arrived() {
    let mut bus = Bus::new(Limits::default());
    let client = bus.connect(usize::MAX);
    assert_eq!(bus.driver.next_deadline(), Some(Moment(bus.driver.broker().limits().handshake_timeout)));
    bus.read_all(client.conn);
    assert_eq!(bus.driver.next_deadline(), None);
    assert_eq!(bus.turn(|driver, now| driver.read(now, client.conn)), Input::Empty);
    let other = bus.sender(&["news"]);
    let counts = (bus.driver.connections(), bus.driver.report(bus.now).connections);
    assert_eq!((counts, bus.driver.socket(client.conn).is_some()), ((2, 2), true));
    client.pipe.borrow_mut().broken = true;
    assert_eq!(bus.turn(|driver, now| driver.read(now, client.conn)), Input::Ended);
    assert!(client.pipe.borrow().shut && !other.pipe.borrow().shut);
    assert_eq!((bus.driver.connections(), bus.driver.socket(client.conn).is_none()), (1, true));
}

#[test]
fn what_a_listener_has_sent_before_it_leaves_is_read_though_writes_to_it_fail() {
    for stops in [false, true] {
        let mut bus = Bus::new(Limits::default());
        let (sender, mut other) = (bus.sender(&["to all"]), bus.listener(&["from the listener"], usize::MAX));
        let mut leaving = bus.sender(&["from the listener"]);
        leaving.request(subscribe(0, "to all"));
        bus.read_all(leaving.conn);
        leaving.read();
        // A part of a message waits for it.
        leaving.pipe.borrow_mut().capacity = 10;
        sender.send(&sender.frame("to all", 0, b"in part"));
        bus.read_all(sender.conn);
        assert_eq!(bus.requests.pop(), Some(Request::ContinueWriting(leaving.conn)));

        leaving.send(&leaving.frame("from the listener", 0, b"and its last words"));
        leaving.pipe.borrow_mut().left = true;
        sender.send(&sender.frame("to all", 1, b"which it cannot read"));
        bus.read_all(sender.conn);
        assert_eq!(bus.write(&leaving), Output::Done);
        if stops {
            bus.turn(Driver::stop);
            while bus.turn(Driver::drain) != Drain::Done {}
        } else {
            bus.read_all(leaving.conn); // what it has sent
            bus.read_all(leaving.conn); // and the end of that
        }
        assert!(leaving.pipe.borrow().shut, "the end of what it has sent closes the connection");
        other.read();
        assert_eq!((other.messages, other.lost), (1, 0));
        assert_eq!(bus.driver.broker().stats().messages_delivered, 1, "what it did not read is not delivered");
    }
}

#[test]
fn a_client_without_a_publication_announces_nothing() {
    let mut bus = Bus::new(Limits::default());
    let client = bus.connect(usize::MAX);
    bus.read_all(client.conn);
    client.send(Header::publish(ChannelId(1), client.id, 0, 1).as_bytes());
    bus.read_all(client.conn);
    assert!(client.pipe.borrow().shut, "it need not send the payload to be refused");
}

#[test]
fn input_is_charged_and_timed_only_while_a_frame_is_incomplete() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender(&["news"]);
    let frame = sender.frame("news", 0, &[7; 1000]);
    sender.send(&frame[..500]);
    bus.read_all(sender.conn);
    assert_eq!((bus.driver.broker().held_bytes(), bus.driver.next_deadline().is_some()), (500, true));
    sender.send(&frame[500..]);
    bus.read_all(sender.conn);
    assert_eq!((bus.driver.broker().held_bytes(), bus.driver.next_deadline()), (0, None));
    bus.now = Moment(Duration::from_secs(100));
    bus.turn(Driver::tick);
    assert!(!sender.pipe.borrow().shut);
}

#[test]
fn the_rest_of_a_discarded_frame_must_make_progress() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 100_000;
    let mut bus = Bus::new(limits);
    let sender = bus.sender(&["news"]);
    let frame = sender.frame("news", 0, &[7; 400_000]);
    sender.send(&frame[..200_000]);
    bus.read_all(sender.conn);
    assert_eq!(bus.driver.broker().held_bytes(), 0, "it is discarded");
    for piece in frame[200_000..].chunks(1000).take(4) {
        bus.now = bus.now.after(Duration::from_secs(20));
        bus.turn(Driver::tick);
        sender.send(piece);
        bus.read_all(sender.conn);
    }
    assert!(!sender.pipe.borrow().shut);
    bus.now = bus.now.after(Duration::from_secs(30));
    bus.turn(Driver::tick);
    assert!(sender.pipe.borrow().shut);
}

/// 44 messages of 4 KB in each of 60 sockets, and a listener whose socket takes a few of them at a time.
fn before_the_stop(limits: Limits) -> (Bus, Client, Vec<Client>) {
    let mut bus = Bus::new(limits);
    let listener = bus.listener(&["news"], 64 * 1024);
    let senders: Vec<_> = (0..60).map(|_| bus.sender(&["news"])).collect();
    for sender in &senders {
        (0..44).for_each(|number| sender.send(&sender.frame("news", number, &[7; 4096])));
    }
    (bus, listener, senders)
}

#[test]
fn an_orderly_stop_delivers_what_was_sent_while_the_listener_reads() {
    let (mut messages, mut held) = (Limits::default(), Limits::default());
    messages.outbox_messages_max = 50;
    held.held_bytes_max = 1024 * 1024;
    for limits in [Limits::default(), messages, held] {
        delivers_at_the_stop(limits);
    }
}

fn delivers_at_the_stop(limits: Limits) {
    let (mut bus, mut listener, senders) = before_the_stop(limits);
    senders[0].request(Stop::default());
    bus.turn(Driver::stop);
    assert_eq!(bus.requests, [Request::Drain]);
    bus.turn(Driver::drain);
    assert!(senders.iter().all(|sender| sender.pipe.borrow().stopped), "what is sent now would be lost");
    loop {
        match bus.turn(Driver::drain) {
            Drain::Done => break,
            Drain::More => {}
            Drain::Crowded(_) => {
                let (broker, limits) = (bus.driver.broker(), bus.driver.broker().limits());
                let (messages, bytes) = broker.queue(listener.conn);
                let is_behind = messages > limits.outbox_messages_max / 2 || bytes > limits.outbox_bytes_max / 2;
                assert!(is_behind || broker.held_bytes() > limits.held_bytes_max / 2, "it pauses too early");
                listener.read();
                bus.write(&listener);
            }
        }
    }
    while listener.read() {
        bus.write(&listener);
    }
    assert_eq!((listener.messages, listener.lost, listener.goodbye), (60 * 44, 0, true));
    assert!(listener.pipe.borrow().shut && senders.iter().all(|sender| sender.pipe.borrow().shut));
    assert_eq!(bus.requests.last(), Some(&Request::Exit));
}

#[test]
fn a_client_that_goes_on_sending_does_not_hold_up_the_stop() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender(&["news"]);
    bus.turn(Driver::stop);
    let (mut number, mut steps) = (0, 0);
    while bus.turn(Driver::drain) != Drain::Done {
        // More than it could: the daemon has closed the connection for reading.
        sender.pipe.borrow_mut().to_daemon.extend(sender.frame("news", number, b"x"));
        number += 1;
        steps += 1;
        assert!(steps < 100, "it is read without an end");
    }
    assert!(bus.driver.broker().stats().messages_accepted > 50);
}

#[test]
fn a_stalled_listener_does_not_hold_up_the_stop() {
    let (mut bus, listener, senders) = before_the_stop(Limits::default());
    bus.turn(Driver::stop);
    let crowded = loop {
        match bus.turn(Driver::drain) {
            Drain::More => {}
            Drain::Crowded(until) => break until,
            Drain::Done => panic!("the listener has lost messages before its time was over"),
        }
    };
    assert_eq!(crowded, Moment(Duration::from_secs(1)));
    bus.now = crowded;
    while bus.turn(Driver::drain) != Drain::Done {}
    bus.now = Moment(Duration::from_secs(2));
    bus.turn(Driver::tick);
    assert!(listener.pipe.borrow().shut && senders.iter().all(|sender| sender.pipe.borrow().shut));
    assert_eq!(bus.requests.last(), Some(&Request::Exit));
}

#[test]
fn an_orderly_stop_handles_input_that_takes_many_turns() {
    let mut bus = Bus::new(Limits::default());
    let channels = ["a", "b"];
    let mut listeners: Vec<_> = (0..200).map(|_| bus.listener(&channels, usize::MAX)).collect();
    let sender = bus.sender(&channels);
    let frames = (0..6 * 2240).flat_map(|n| sender.frame(channels[n % 2], n as u64 / 2, b"x"));
    sender.send(&frames.collect::<Vec<_>>());
    bus.turn(Driver::stop);
    let mut turns = 0;
    while bus.turn(Driver::drain) != Drain::Done {
        turns += usize::from(bus.driver.broker().stats().messages_accepted > 0);
    }
    assert!(turns > 70, "more turns than a connection is read at a stop: {turns}");
    for listener in &mut listeners {
        listener.read();
        assert_eq!((listener.messages, listener.lost, listener.goodbye), (6 * 2240, 0, true));
    }
}

#[test]
fn the_lock_is_released_before_the_client_that_requested_the_stop_learns_of_it() {
    let mut bus = Bus::new(Limits::default());
    let mut client = bus.connect(usize::MAX);
    client.request(Stop::default());
    bus.read_all(client.conn);
    while bus.turn(Driver::drain) != Drain::Done {}
    assert_eq!(bus.requests, [Request::Drain, Request::Release]);
    client.read();
    assert!(!client.goodbye);
    bus.turn(Driver::released);
    client.read();
    assert!(client.goodbye && client.pipe.borrow().shut);
    assert_eq!(bus.requests.last(), Some(&Request::Exit));
}

#[test]
fn shortage_of_memory_for_sockets_ends_no_connection() {
    let mut bus = Bus::new(Limits::default());
    let mut listener = bus.listener(&["news"], usize::MAX);
    let sender = bus.sender(&["news"]);
    listener.pipe.borrow_mut().short_of_memory = true;
    sender.send(&sender.frame("news", 0, b"x"));
    bus.read_all(sender.conn);
    assert_eq!(bus.requests, [Request::ContinueWriting(listener.conn)]);
    assert_eq!(bus.write(&listener), Output::Exhausted);
    listener.pipe.borrow_mut().short_of_memory = false;
    assert_eq!(bus.write(&listener), Output::Done);
    listener.read();
    assert_eq!((listener.messages, listener.pipe.borrow().shut), (1, false));
}

#[test]
fn a_frame_that_cannot_be_held_is_discarded_as_it_arrives() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1024 * 1024;
    let mut bus = Bus::new(limits);
    let mut listener = bus.listener(&["news"], usize::MAX);
    let sender = bus.sender(&["news"]);
    sender.send(&sender.frame("news", 0, b"before"));
    for piece in sender.frame("news", 1, &vec![7; 4 * 1024 * 1024]).chunks(200_000) {
        sender.send(piece);
        bus.read_all(sender.conn);
    }
    sender.send(&sender.frame("news", 2, b"after"));
    bus.read_all(sender.conn);
    listener.read();
    assert_eq!((listener.messages, listener.lost, sender.pipe.borrow().shut), (2, 1, false));
    assert_eq!(bus.driver.broker().stats().messages_accepted, 3);
    assert_eq!(bus.driver.broker().held_bytes(), 0);
}

#[test]
fn announced_bytes_that_have_not_arrived_cost_nothing() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1024 * 1024;
    let mut bus = Bus::new(limits);
    let mut listener = bus.listener(&["news"], usize::MAX);
    let idle: Vec<_> = (0..200).map(|_| bus.sender(&["other"])).collect();
    for sender in &idle {
        sender.send(&sender.frame("other", 0, &[7; 264 * 1024])[..29]);
        bus.read_all(sender.conn);
    }
    let sender = bus.sender(&["news"]);
    for piece in sender.frame("news", 0, &vec![7; 800_000]).chunks(100_000) {
        sender.send(piece);
        bus.read_all(sender.conn);
    }
    listener.read();
    assert_eq!((listener.messages, listener.lost), (1, 0));
    assert!(bus.driver.broker().held_bytes() < 10_000);
    bus.now = Moment(Duration::from_secs(30));
    bus.turn(Driver::tick);
    assert!(idle.iter().all(|sender| sender.pipe.borrow().shut), "and they end if nothing more arrives");
}

#[test]
fn input_of_a_refused_connection_is_not_kept() {
    let mut limits = Limits::default();
    limits.frame_timeout = Duration::from_secs(1);
    let mut bus = Bus::new(limits);
    let sender = bus.sender(&["news"]);
    sender.pipe.borrow_mut().capacity = 0; // it does not read its last frame
    sender.send(&sender.frame("news", 0, &vec![7; 500_000])[..400_000]);
    bus.read_all(sender.conn);
    assert!(bus.driver.broker().held_bytes() >= 400_000);
    bus.now = Moment(Duration::from_secs(1));
    bus.turn(Driver::tick);
    assert!(bus.driver.broker().held_bytes() < 1000 && !sender.pipe.borrow().shut);
    sender.send(&[7; 50_000]);
    bus.read_all(sender.conn);
    assert!(bus.driver.broker().held_bytes() < 1000);
}

#[test]
fn a_retained_message_ends_with_its_lifetime_and_pins_no_chunk() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender(&["theme"]);
    let metadata = Metadata::new().retention(Retention { lifetime_ms: 5000, keep: 1 }).unwrap();
    let frame = |sequence| {
        let header = Header::retain(sender.channels["theme"], sender.id, sequence, 1000);
        [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), &[1; 1000]].concat()
    };
    sender.send(&(0..40).flat_map(frame).collect::<Vec<_>>());
    bus.read_all(sender.conn);
    let snapshot = bus.driver.snapshot(bus.now);
    assert_eq!((snapshot.retained_channels, snapshot.retained_messages), (1, 1));
    assert!(snapshot.held_bytes < 1500, "{} bytes are held for one message of 1000", snapshot.held_bytes);
    sender.pipe.borrow_mut().stopped = true;
    bus.read_all(sender.conn);
    assert_eq!(bus.driver.connections(), 0);
    assert_eq!(bus.driver.next_deadline(), Some(Moment(Duration::from_secs(5))));

    let mut listener = bus.connect(usize::MAX);
    listener.request(Subscribe { extensions: vec![Extension::replay(9)], ..subscribe(1, "theme") });
    bus.read_all(listener.conn);
    listener.read();
    assert_eq!(listener.messages, 1, "it is replayed");
    bus.now = Moment(Duration::from_secs(5));
    bus.turn(Driver::tick);
    let snapshot = bus.driver.snapshot(bus.now);
    assert_eq!((snapshot.retained_channels, snapshot.held_bytes), (0, 0));
}

#[test]
fn a_message_that_cannot_be_held_is_not_retained() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1024 * 1024;
    let mut bus = Bus::new(limits);
    let mut listener = bus.listener(&["theme"], usize::MAX);
    let sender = bus.sender(&["theme"]);
    let frame = |sequence, bytes: usize| {
        let size = u32::try_from(bytes).unwrap();
        let header = Header::retain(sender.channels["theme"], sender.id, sequence, size);
        [header.as_bytes(), &vec![7; bytes]].concat()
    };
    sender.send(&frame(0, 100));
    bus.read_all(sender.conn);
    assert_eq!(bus.driver.snapshot(bus.now).retained_messages, 1);
    for piece in frame(1, 4 * 1024 * 1024).chunks(200_000) {
        sender.send(piece);
        bus.read_all(sender.conn);
    }
    listener.read();
    assert_eq!((listener.messages, listener.lost), (1, 1));
    assert_eq!(bus.driver.broker().stats().retention_declined, 1);
    assert_eq!(bus.driver.broker().held_bytes(), 0, "nor is the message before it");
}
