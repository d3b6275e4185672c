//! A listener with rings in plain memory, whose connection is a script.

use super::super::session::tests::{named, subscribed, unsubscribed};
use super::super::{
    Carrier, Change, Ended, Event, Link as Connection, Loss, Machine, Outcome, RingInput, RingReader, Selector, Step,
    Subscriber, Subscription, Transfer, receive, settle,
};
use super::{LINKS_MAX, MAPPED_BYTES_MAX, RUNS_MAX};
use crate::{ChannelName, ChannelPattern};
use broadcaster_protocol::control::{self, Control, OfferLink, Overflow, Prepare, Prepared, Welcome, capability, kind};
use broadcaster_protocol::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_MAX};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId};
use broadcaster_ring::{
    HEADER_WORDS, Intake, PAGE_BYTES, PageReader, PageWriter, Published, Sample, Start, WordsMut, Writer,
};
use bytes::{BufMut, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

type Memory = Arc<[AtomicU64]>;

fn memory(words: usize) -> Memory {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// The words of data in a ring: four records of the largest size.
const CAPACITY: usize = 64;

/// The sender of a ring.
struct Sender {
    memory: Memory,
    writer: Writer<Memory>,
    next: u64,
}

impl Sender {
    /// A ring whose first message has this number.
    fn begin(first: u64) -> Self {
        Self::begin_with(first, CAPACITY)
    }

    /// The same with so many words of data.
    fn begin_with(first: u64, capacity: usize) -> Self {
        let memory = memory(HEADER_WORDS + capacity);
        Self { writer: Writer::new(Arc::clone(&memory), first), memory, next: first }
    }

    /// Publishes so many messages of 8 bytes, which take 3 words each.
    fn publish(&mut self, messages: u64) {
        let _ = self.published(messages);
    }

    fn published(&mut self, messages: u64) -> Published {
        for _ in 0..messages {
            self.writer.push(1, b"", &self.next.to_le_bytes()).expect("fits");
            self.next += 1;
        }
        self.writer.publish()
    }

    /// Overwrites the newest record with what no record can be.
    fn corrupt(&mut self) {
        self.publish(1);
        (HEADER_WORDS..HEADER_WORDS + CAPACITY)
            .for_each(|index| self.memory.store(index, u64::MAX, std::sync::atomic::Ordering::Relaxed));
    }
}

/// The connection of a listener.
#[derive(Default)]
struct Scripted {
    /// The rings that come with offers.
    rings: VecDeque<Memory>,
    /// Pages of the links, in the order of the offers.
    pages: Vec<Memory>,
    arrived: Vec<u8>,
    written: BytesMut,
    /// The next write with descriptors takes nothing.
    is_full: bool,
    is_broken: bool,
    expects_descriptors: bool,
    reads: u32,
    /// No attempt to connect succeeds.
    fails: bool,
}

impl Connection for Scripted {
    type Wait = ();
    type Error = Ended;

    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, ()>, Ended> {
        if self.fails {
            return Err(Ended::Goodbye);
        }
        Ok(if machine.is_ready() { Step::Done(Carrier::Stream) } else { Step::Wait(()) })
    }

    fn read(&mut self, subscriber: &mut Subscriber, _: bool) -> Result<Step<(), ()>, Ended> {
        self.reads += 1;
        let size = self.arrived.len().min(subscriber.target().remaining_mut());
        if size == 0 {
            subscriber.has_drained();
            return Ok(Step::Wait(()));
        }
        subscriber.target().put_slice(&self.arrived.drain(..size).collect::<Vec<_>>());
        subscriber.has_read(size);
        Ok(Step::Done(()))
    }

    fn read_answer(&mut self, _: &mut impl Machine) -> Transfer<()> {
        Transfer::Broken
    }

    fn write(&mut self, head: &[u8], _: &[u8]) -> Transfer<()> {
        self.written.extend_from_slice(head);
        Transfer::Bytes(head.len())
    }

    fn lose(&mut self, _: &mut impl Machine, loss: Loss) -> Result<(), Ended> {
        match loss {
            Loss::Ended(ended) => Err(ended),
            Loss::Write | Loss::Closed => Ok(()),
        }
    }

    fn expect_descriptors(&mut self) {
        self.expects_descriptors = true;
    }

    fn open_ring(&mut self, offer: &OfferLink) -> Option<Box<dyn RingInput>> {
        let memory = self.rings.pop_front().expect("a ring comes with each offer");
        let nowhere = Start::At(broadcaster_ring::Cursor { position: 0, sequence: 0 });
        let intake = Intake::open(memory, nowhere, ChannelId(offer.id), SenderId::from_raw(offer.sender)).ok()?;
        let page = memory_of_page();
        self.pages.push(Arc::clone(&page));
        Some(Box::new(RingReader::new(intake, PageWriter::new(page))))
    }

    fn decline_ring(&mut self) {
        self.rings.pop_front().expect("a ring comes with each offer");
    }

    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<()> {
        match () {
            () if self.is_broken => Transfer::Broken,
            () if std::mem::take(&mut self.is_full) => Transfer::Wait(()),
            () => {
                // The rest goes without.
                self.written.extend_from_slice(&frame[..3]);
                Transfer::Bytes(3)
            }
        }
    }
}

fn memory_of_page() -> Memory {
    memory(PAGE_BYTES / 8)
}

fn to(selector: &str) -> Subscription {
    let selector = match selector.contains('*') {
        true => Selector::Pattern(ChannelPattern::new(selector).expect("a pattern")),
        false => Selector::Name(ChannelName::new(selector).expect("a name")),
    };
    Subscription { selector, overflow: Overflow::DropOldest, observer: false, replay: 0 }
}

fn welcome() -> Control {
    Control::Welcome(Welcome {
        protocol: PROTOCOL_MAX,
        capabilities: capability::RINGS,
        sender: 77,
        payload_bytes_max: 1 << 20,
        pid: 1,
        version: "9.9.9".to_owned(),
        extensions: Vec::new(),
    })
}

fn offer(link: u32, id: u32) -> Control {
    offer_with(link, id, CAPACITY)
}

fn offer_with(link: u32, id: u32, capacity: usize) -> Control {
    let (sender, bytes) = (SenderId::new(9, link).raw(), 8 * (HEADER_WORDS + capacity) as u64);
    Control::OfferLink(OfferLink { link, id, sender, bytes, extensions: Vec::new() })
}

fn follow(link: u32, position: u64, sequence: u64) -> Control {
    Control::Follow(control::Follow { link, position, sequence, extensions: Vec::new() })
}

fn unfollow(link: u32, sequence: u64) -> Control {
    Control::Unfollow(control::Unfollow { link, sequence, extensions: Vec::new() })
}

fn unlink(link: u32) -> Control {
    Control::Unlink(control::Unlink { link, extensions: Vec::new() })
}

fn lagged(id: u32, count: u64) -> Control {
    Control::Lagged(control::Lagged { id, count, extensions: Vec::new() })
}

/// What a listener found: a message by the number of its link (0: not from a ring) and its sequence number, or a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Message(u32, u64),
    Lost(u64),
    Gap,
}
use Found::{Gap, Lost, Message};

/// Messages of a link with these numbers.
fn messages(link: u32, sequences: std::ops::Range<u64>) -> Vec<Found> {
    sequences.map(|sequence| Message(link, sequence)).collect()
}

struct World {
    subscriber: Subscriber,
    connection: Scripted,
}

impl World {
    /// A listener that has joined these channels, which have the ids from 1 on.
    fn on(selectors: &[&str]) -> Self {
        let subscriber = Subscriber::new(selectors.iter().map(|selector| to(selector)).collect(), "test", 7);
        let mut world = Self { subscriber, connection: Scripted::default() };
        world.join(selectors);
        world
    }

    fn join(&mut self, selectors: &[&str]) {
        self.connect();
        let mut controls = vec![welcome()];
        for (number, name) in (0..).zip(selectors) {
            controls.push(subscribed(number));
            controls.push(named(number + 1, if name.contains('*') { "any" } else { name }));
        }
        self.greet(&controls);
        assert!(self.subscriber.is_ready());
    }

    /// Both sides announce descriptors, unless they have.
    fn prepare(&mut self) {
        if !self.connection.expects_descriptors {
            self.arrive(&[Prepare::default().into()]);
            assert_eq!(self.all(), []);
            assert!(self.connection.expects_descriptors);
            assert_eq!(self.written(), [Prepare::default().into(), Prepared::default().into()], "in this order");
            self.arrive(&[Prepared::default().into()]);
        }
    }

    fn connect(&mut self) {
        self.connection.expects_descriptors = false;
        self.subscriber.session_mut().announce_rings(true);
        self.subscriber.connected();
        let hello = self.subscriber.outgoing().len();
        self.subscriber.sent(hello);
    }

    /// These arrive during the handshake.
    fn greet(&mut self, controls: &[Control]) {
        self.arrive(controls);
        let bytes = std::mem::take(&mut self.connection.arrived);
        self.subscriber.target().put_slice(&bytes);
        self.subscriber.received().expect("the stream is well formed");
        let requests = self.subscriber.outgoing().len();
        self.subscriber.sent(requests);
    }

    fn arrive(&mut self, controls: &[Control]) {
        controls.iter().for_each(|control| control.encode(&mut self.connection.arrived).expect("encoded"));
    }

    /// A message arrives in the stream.
    fn arrive_message(&mut self, id: u32, sequence: u64) {
        let header = Header::publish(ChannelId(id), SenderId::new(8, 8), sequence, 0);
        self.connection.arrived.extend_from_slice(header.as_bytes());
    }

    /// The same, of the sender of the link with this number.
    fn arrive_message_of(&mut self, link: u32, id: u32, sequence: u64) {
        let header = Header::publish(ChannelId(id), SenderId::new(9, link), sequence, 8);
        self.connection.arrived.extend_from_slice(header.as_bytes());
        self.connection.arrived.extend_from_slice(&sequence.to_le_bytes());
    }

    /// The page of the link that was offered as this one, as its sender sees it.
    fn page(&self, at: usize) -> PageReader<Memory> {
        PageReader::open(Arc::clone(&self.connection.pages[at])).expect("a page")
    }

    /// What has arrived is read, and it is the turn of the stream.
    fn stream_first(&mut self) {
        let bytes = std::mem::take(&mut self.connection.arrived);
        self.subscriber.target().put_slice(&bytes);
        self.subscriber.links.runs = RUNS_MAX;
    }

    /// The next event; `None`: it waits.
    fn poll(&mut self) -> Result<Option<Found>, Ended> {
        let Step::Done(event) = receive(&mut self.subscriber, &mut self.connection, true)? else { return Ok(None) };
        Ok(Some(match event {
            Event::Lagged(Some(count)) => Lost(count),
            Event::Lagged(None) => Gap,
            Event::Frame => {
                let frame = self.subscriber.frame().expect("found");
                let link = if frame.sender.pid() == 9 { frame.sender.number() } else { 0 };
                if link > 0 {
                    assert_eq!(frame.payload, frame.sequence.to_le_bytes(), "link {link}");
                }
                Message(link, frame.sequence)
            }
        }))
    }

    /// Everything until it waits.
    fn all(&mut self) -> Vec<Found> {
        let mut all = Vec::new();
        while let Some(found) = self.poll().expect("the stream is well formed") {
            all.push(found);
        }
        all
    }

    /// What it has written since.
    fn written(&mut self) -> Vec<Control> {
        let mut decoder = Decoder::consumer(PAYLOAD_BYTES_MAX);
        let mut written = std::mem::take(&mut self.connection.written);
        decoder.target(&mut BytesMut::new());
        let mut controls = Vec::new();
        while let Some(Item::Control(control)) = decoder.next(&mut written).expect("well formed") {
            controls.push(control);
        }
        assert!(written.is_empty(), "whole frames");
        controls
    }

    /// Offers a ring as the link with this number.
    fn offer(&mut self, link: u32, id: u32, sender: &Sender) {
        self.prepare();
        self.connection.rings.push_back(Arc::clone(&sender.memory));
        self.arrive(&[offer(link, id)]);
    }

    /// A new ring of a sender on the channel with this id, which the listener follows from its beginning.
    fn following(&mut self, link: u32, id: u32, first: u64) -> Sender {
        let sender = Sender::begin(first);
        self.offer(link, id, &sender);
        assert_eq!(self.all(), []);
        assert_eq!(self.written(), [ready(link)]);
        self.arrive(&[follow(link, 0, first)]);
        assert_eq!(self.all(), []);
        sender
    }

    fn sample(&self, at: usize) -> Sample {
        PageReader::open(Arc::clone(&self.connection.pages[at])).expect("a page").sample()
    }

    fn request(&mut self, change: Change) -> Option<Outcome> {
        match settle(&mut self.subscriber, &mut self.connection, change).expect("the stream is well formed") {
            Step::Done(outcome) => Some(outcome),
            Step::Wait(()) => None,
        }
    }

    /// The error that ends the connection.
    fn ended(&mut self) -> Ended {
        loop {
            match self.poll() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it waits"),
                Err(ended) => return ended,
            }
        }
    }
}

fn ready(link: u32) -> Control {
    Control::LinkReady(control::LinkReady { link, extensions: Vec::new() })
}

// ---- introduction ----

#[test]
fn a_ring_is_read_from_where_the_stream_leaves_off() {
    let mut world = World::on(&["a"]);
    let mut sender = Sender::begin(5);
    sender.publish(2);
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), [], "its messages are in the stream until the daemon states otherwise");
    assert_eq!(world.written(), [ready(1)]);
    sender.publish(2);
    world.arrive_message(1, 5);
    world.arrive_message(1, 6);
    world.arrive(&[follow(1, 6, 7)]);
    assert_eq!(world.all(), [messages(0, 5..7), messages(1, 7..9)].concat());
    assert_eq!(world.subscriber.channel().map(ChannelName::as_str), Some("a"));
    sender.publish(1);
    assert_eq!(world.all(), messages(1, 9..10));
    let Sample { received, lost, .. } = world.sample(0);
    assert_eq!((received, lost), (3, 0));
}

#[test]
fn losses_of_the_stream_come_before_those_of_the_ring() {
    let mut world = World::on(&["a"]);
    let mut sender = Sender::begin(0);
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    sender.publish(100);
    world.arrive(&[lagged(1, 4), follow(1, 12, 4)]);
    let all = world.all();
    let [Lost(4), Lost(lapped), ..] = all[..] else { panic!("{all:?}") };
    assert_eq!(all[2..], messages(1, 4 + lapped..100));
    let Sample { received, lost, .. } = world.sample(0);
    assert_eq!((received + lost, lost), (96, lapped), "exactly, and none twice");
}

#[test]
fn each_place_in_the_stream_is_behind_what_was_kept_before_it() {
    let mut world = World::on(&["a", "b"]);
    let mut sender = Sender::begin(0);
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    sender.publish(6);
    let change = world.subscriber.subscribe(to("c"));
    world.arrive_message(1, 0);
    world.arrive(&[follow(1, 3, 1)]);
    world.arrive_message(2, 70);
    world.arrive(&[unfollow(1, 4)]);
    world.arrive_message(1, 4);
    world.arrive(&[subscribed(2), unlink(1)]);
    assert_eq!(world.request(change), Some(Outcome::Done));
    let expected = [messages(0, 0..1), messages(0, 70..71), messages(1, 1..4), messages(0, 4..5)].concat();
    assert_eq!(
        world.all(),
        expected,
        "the ring has its turn once everything before is received, and at its end at the latest"
    );
}

#[test]
fn descriptors_that_are_announced_during_the_handshake_are_expected_after_it() {
    let mut world =
        World { subscriber: Subscriber::new(vec![to("a"), to("b")], "test", 7), connection: Scripted::default() };
    world.connect();
    world.arrive_message(1, 0);
    let first = std::mem::take(&mut world.connection.arrived);
    world.greet(&[welcome(), subscribed(0), named(1, "a"), Prepare::default().into()]);
    world.connection.arrived = first;
    world.greet(&[]);
    assert!(!world.subscriber.is_ready() && !world.connection.expects_descriptors);
    world.greet(&[subscribed(1), named(2, "b")]);
    assert_eq!(world.all(), messages(0, 0..1));
    assert!(world.connection.expects_descriptors);
    assert_eq!(world.written(), [Prepare::default().into(), Prepared::default().into()]);

    let mut sender = Sender::begin(0);
    sender.publish(3);
    world.arrive(&[Prepared::default().into()]);
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [ready(1)]);
    world.arrive(&[follow(1, 3, 1)]);
    assert_eq!(world.all(), messages(1, 1..3));
}

#[test]
fn an_answer_that_has_no_room_is_written_later() {
    let mut world = World::on(&["a"]);
    let sender = Sender::begin(0);
    world.connection.is_full = true;
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), []);
    assert!(world.subscriber.writes());
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [ready(1)]);
    assert!(!world.subscriber.writes());
}

#[test]
fn what_cannot_be_used_is_unlinked() {
    let mut world = World::on(&["a"]);
    let sender = Sender::begin(0);
    world.connection.is_broken = true;
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [unlink(1)], "its answer could not be written");
    world.connection.is_broken = false;
    world.connection.rings.push_back(memory(HEADER_WORDS + CAPACITY));
    world.arrive(&[offer(2, 1)]);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [unlink(2)], "it is no ring");
    assert!(world.subscriber.links.is_empty());
}

#[test]
fn an_offer_that_is_withdrawn_is_not_answered() {
    let mut world = World::on(&["a"]);
    let sender = Sender::begin(0);
    world.offer(1, 1, &sender);
    world.arrive(&[unlink(1)]);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), []);
    assert!(world.connection.rings.is_empty(), "its descriptor does not stay for the next one");
    world.following(2, 1, 0);
    world.arrive(&[unlink(7)]);
    assert_eq!(world.all(), [], "one that was given up on both sides at once");
}

#[test]
fn links_and_their_memory_are_limited() {
    let mut world = World::on(&["a"]);
    for link in (1..).take(LINKS_MAX) {
        world.following(link, 1, 0);
    }
    let sender = Sender::begin(0);
    world.offer(100, 1, &sender);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [unlink(100)]);
    world.arrive(&[unfollow(7, 0)]);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [unlink(7)]);
    world.following(101, 1, 0);

    let mut world = World::on(&["a"]);
    world.prepare();
    for (link, bytes) in [(1, MAPPED_BYTES_MAX - 4096), (2, 4096), (3, 8)] {
        world.connection.rings.push_back(Arc::clone(&sender.memory));
        let Control::OfferLink(offer) = offer(link, 1) else { unreachable!("an offer") };
        world.arrive(&[OfferLink { bytes, ..offer }.into()]);
        assert_eq!(world.all(), []);
        assert_eq!(world.written(), [if link == 3 { unlink(3) } else { ready(link) }]);
    }
}

// ---- the order of sources ----

#[test]
fn rings_and_the_stream_have_their_turns() {
    let mut world = World::on(&["a", "b"]);
    let mut senders: BTreeMap<u32, Sender> =
        (1..=3).map(|link| (link, world.following(link, 1 + link % 2, 0))).collect();
    for round in 0..10 {
        senders.values_mut().for_each(|sender| sender.publish(2));
        let all = world.all();
        for link in 1..=3 {
            let of_link = all.iter().filter(|found| matches!(found, Message(of, _) if *of == link));
            assert!(of_link.eq(&messages(link, 2 * round..2 * round + 2)), "{all:?}");
        }
        assert_eq!(all.len(), 6);
    }
    // A sender that publishes whenever it was read does not keep the stream, or another ring, from its turn.
    senders.get_mut(&3).expect("a sender").publish(1);
    world.arrive_message(1, 0);
    let mut found = Vec::new();
    for _ in 0..2 * RUNS_MAX {
        senders.get_mut(&1).expect("a sender").publish(1);
        found.push(world.poll().expect("well formed").expect("something"));
    }
    let place = |wanted| found.iter().position(|found| *found == wanted).expect("it had its turn");
    assert!(place(Message(3, 20)) <= 1, "{found:?}");
    place(Message(0, 0)); // each run has two messages at most
}

#[test]
fn the_socket_is_read_though_a_ring_ends_every_wait() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    for sequence in 0..u64::from(RUNS_MAX) {
        assert!(world.subscriber.must_read(), "nothing shows yet what ends the wait");
        sender.publish(1);
        assert_eq!(world.poll(), Ok(Some(Message(1, sequence))));
        assert_eq!(world.subscriber.must_read(), sequence + 1 == u64::from(RUNS_MAX), "the ring has ended it");
        assert!(world.subscriber.links.arm(), "as before the next wait");
    }
    world.subscriber.has_drained();
    assert!(!world.subscriber.must_read());
}

// ---- ends ----

#[test]
fn a_link_is_read_to_its_end_before_the_stream_goes_on() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(5);
    world.arrive(&[unfollow(1, 5)]);
    world.arrive_message(1, 5);
    assert_eq!(world.all(), [messages(1, 0..5), messages(0, 5..6)].concat());
    assert!(world.subscriber.links.is_empty());
    assert_eq!(world.written(), [unlink(1)], "the daemon learns that nothing more is counted");
}

#[test]
fn nothing_behind_the_end_of_a_link_is_read() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    world.arrive(&[unfollow(1, 3)]);
    world.arrive_message(1, 3);
    world.stream_first();
    sender.publish(5);
    assert_eq!(world.all(), [messages(1, 0..3), messages(0, 3..4)].concat());
}

#[test]
fn a_reader_that_is_lapped_beyond_the_end_loses_what_is_before_it() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    assert_eq!(world.all(), messages(1, 0..2));
    sender.publish(200);
    world.arrive(&[unfollow(1, 10)]);
    world.arrive_message(1, 10);
    world.stream_first();
    assert_eq!(world.all(), [vec![Lost(8)], messages(0, 10..11)].concat());
    let Sample { received, lost, .. } = world.sample(0);
    assert_eq!((received, lost), (2, 8));
}

#[test]
fn a_reader_that_is_lapped_before_the_end_loses_and_receives_exactly() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(100);
    world.arrive(&[unfollow(1, 99)]);
    world.arrive_message(1, 99);
    world.stream_first();
    let all = world.all();
    let Some(Lost(lost)) = all.first().copied() else { panic!("{all:?}") };
    assert_eq!(all[1..], [messages(1, lost..99), messages(0, 99..100)].concat());
}

/// One turn does not take everything that is left.
#[test]
fn a_lapped_reader_of_a_large_ring_receives_the_rest_up_to_its_end_in_order() {
    const LARGE: usize = 1 << 14;
    let mut world = World::on(&["a"]);
    let mut sender = Sender::begin_with(0, LARGE);
    world.prepare();
    world.connection.rings.push_back(Arc::clone(&sender.memory));
    world.arrive(&[offer_with(1, 1, LARGE)]);
    assert_eq!(world.all(), []);
    world.arrive(&[follow(1, 0, 0)]);
    assert_eq!(world.all(), []);
    sender.publish(10_000);
    world.arrive(&[unfollow(1, 10_000)]);
    world.stream_first();
    let all = world.all();
    let Some(Lost(lost)) = all.first().copied() else { panic!("{:?}", all.first()) };
    assert_eq!(all[1..], messages(1, lost..10_000));
}

#[test]
fn a_request_pauses_the_links_that_it_concerns() {
    let mut world = World::on(&["a", "b"]);
    let mut a = world.following(1, 1, 0);
    let mut b = world.following(2, 2, 0);
    let left = world.subscriber.unsubscribe(&to("a").selector).expect("it has joined");
    a.publish(3);
    b.publish(3);
    assert_eq!(world.all(), messages(2, 0..3), "where the daemon ends the other one is not known");
    world.arrive(&[unfollow(1, 2), unsubscribed(0), unlink(1)]);
    assert_eq!(world.request(left), Some(Outcome::Done));
    b.publish(1);
    assert_eq!(
        world.all(),
        [messages(1, 0..2), messages(2, 3..4)].concat(),
        "all that was accepted before, and no more"
    );

    let joins = world.subscriber.subscribe(to("**"));
    b.publish(1);
    assert_eq!(world.all(), []);
    world.arrive(&[subscribed(2)]);
    assert_eq!(world.request(joins), Some(Outcome::Done));
    assert_eq!(world.all(), messages(2, 4..5), "the daemon has not ended it");
}

#[test]
fn a_link_without_a_stated_end_is_read_to_what_is_there() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    world.arrive(&[unlink(1)]);
    world.stream_first();
    assert_eq!(world.all(), messages(1, 0..2));
    assert!(world.subscriber.links.is_empty());
}

#[test]
fn links_of_a_lost_connection_are_read_until_the_next_daemon_serves() {
    let mut world = World::on(&["a", "b"]);
    let mut a = world.following(1, 1, 5);
    let mut b = world.following(2, 2, 5);
    let sender = Sender::begin(0);
    world.offer(3, 1, &sender);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [ready(3)]);
    a.publish(2);
    b.publish(50);
    let mut called = world.page(0);
    assert!(!called.is_called());
    world.subscriber.disconnected();
    assert!(called.is_called(), "its sender looks at its own connection");
    let all = world.all();
    assert_eq!(all[..2], messages(1, 5..7));
    let Lost(lost) = all[2] else { panic!("{all:?}") };
    assert_eq!(all[3..], messages(2, 5 + lost..55));
    a.publish(1);
    assert_eq!(world.all(), messages(1, 7..8), "without a daemon");
    world.connect();
    a.publish(1);
    assert_eq!(world.all(), messages(1, 8..9));
    world.greet(&[welcome(), subscribed(0)]);
    a.publish(1);
    assert_eq!(world.all(), messages(1, 9..10), "the other subscription is not confirmed");
    let published = a.published(1);
    assert!(!called.has_left(&published));
    world.greet(&[subscribed(1), named(1, "a"), named(2, "b")]);
    assert_eq!(world.all(), [messages(1, 10..11), vec![Gap, Gap]].concat());
    assert!(called.has_left(&published));
    assert!(world.subscriber.links.is_empty(), "the one that was not followed, too");
    a.publish(1);
    assert_eq!(world.all(), [], "the next daemon delivers it");
}

#[test]
fn rings_that_are_dropped_are_left() {
    let mut world = World::on(&["a", "b"]);
    let mut followed = world.following(1, 1, 0);
    let mut offered = Sender::begin(0);
    world.offer(2, 2, &offered);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [ready(2)]);
    let mut corrupt = world.following(3, 1, 0);
    corrupt.corrupt();
    assert_eq!(world.all(), []);
    let [one, two, three] = [0, 1, 2].map(|at| world.page(at));
    let published = followed.published(1);
    assert_eq!((one.has_left(&published), two.has_left(&offered.published(1))), (false, false));
    assert!(three.has_left(&published), "it was given up");
    world.subscriber.disconnected();
    world.join(&["a", "b"]);
    assert_eq!(world.all(), [messages(1, 0..1), vec![Gap, Gap]].concat());
    assert!(one.has_left(&published) && two.has_left(&published), "the one that was not followed, too");
}

#[test]
fn what_was_received_without_a_daemon_is_not_received_again() {
    let mut world = World::on(&["a", "b"]);
    let mut a = world.following(1, 1, 5);
    a.publish(2);
    world.subscriber.disconnected();
    a.publish(2);
    world.join(&["a", "b"]);
    assert_eq!(world.all(), [messages(1, 5..9), vec![Gap, Gap]].concat());
    for sequence in [7, 8, 9, 10] {
        world.arrive_message_of(1, 1, sequence);
        world.arrive_message_of(1, 2, sequence);
    }
    // Of the other channel, and of another sender, nothing was received.
    world.arrive_message(1, 7);
    let found = world.all();
    let of_a = |found: &[Found]| found.iter().filter(|&&found| found != Message(0, 7)).copied().collect::<Vec<_>>();
    assert_eq!(
        of_a(&found),
        [Message(1, 7), Message(1, 8), Message(1, 9), Message(1, 9), Message(1, 10), Message(1, 10)]
    );
    assert!(found.contains(&Message(0, 7)));

    // The next ring of the sender continues where it is.
    let mut next = Sender::begin(11);
    world.offer(1, 1, &next);
    assert_eq!(world.all(), []);
    world.arrive(&[follow(1, 0, 11)]);
    next.publish(1);
    assert_eq!(world.all(), messages(1, 11..12));
}

#[test]
fn a_sender_that_begins_anew_is_received() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 5);
    sender.publish(2);
    world.subscriber.disconnected();
    world.join(&["a"]);
    assert_eq!(world.all(), [messages(1, 5..7), vec![Gap]].concat());
    for sequence in 0..8 {
        world.arrive_message_of(1, 1, sequence); // the id of its process was used again
    }
    assert_eq!(world.all(), messages(1, 0..8));
}

#[test]
fn a_listener_finds_all_or_its_sender_finds_that_it_has_left() {
    for leaves_first in [false, true] {
        let mut world = World::on(&["a"]);
        let mut sender = world.following(1, 1, 5);
        let page = world.page(0);
        world.subscriber.disconnected();
        if leaves_first {
            world.join(&["a"]);
        }
        let found = if leaves_first { world.all() } else { Vec::new() };
        let published = sender.published(1);
        let has_left = page.has_left(&published);
        if !leaves_first {
            world.join(&["a"]);
        }
        let is_found = [found, world.all()].concat().contains(&Message(1, 5));
        assert_eq!((is_found, has_left), (!leaves_first, leaves_first));
    }
}

#[test]
fn what_was_kept_before_the_connection_was_lost_keeps_its_place() {
    let mut world = World::on(&["a", "b"]);
    let mut sender = Sender::begin(0);
    world.offer(1, 1, &sender);
    assert_eq!(world.all(), []);
    sender.publish(2);
    let change = world.subscriber.subscribe(to("c"));
    world.arrive_message(2, 9);
    world.arrive(&[follow(1, 0, 0)]);
    assert_eq!(world.request(change), None);
    world.subscriber.disconnected();
    world.subscriber.disconnected();
    assert_eq!(world.all(), [messages(0, 9..10), messages(1, 0..2)].concat());
    sender.publish(1);
    assert_eq!(world.all(), messages(1, 2..3));
}

#[test]
fn progress_that_a_lost_daemon_awaited_is_forgotten() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(1);
    world.arrive(&[await_progress(1, 3)]);
    assert_eq!(world.all(), messages(1, 0..1));
    world.arrive(&[await_progress(1, 100)]);
    assert_eq!(world.all(), []);
    world.written();
    world.subscriber.disconnected();
    sender.publish(20);
    assert_eq!(world.all(), messages(1, 1..21));
}

#[test]
fn a_channel_that_is_left_without_a_daemon_is_read_no_more() {
    let mut world = World::on(&["a", "b"]);
    let mut a = world.following(1, 1, 0);
    let mut b = world.following(2, 2, 0);
    world.subscriber.disconnected();
    world.subscriber.unsubscribe(&to("a").selector).expect("it has joined");
    a.publish(1);
    b.publish(1);
    assert_eq!(world.all(), messages(2, 0..1));
    assert!(world.page(0).has_left(&a.published(1)), "its sender waits for the next daemon");
    world.subscriber.subscribe(to("a"));
    a.publish(1);
    assert_eq!(world.all(), [], "what was published in between is not for it");
    world.connect();
    world.greet(&[welcome(), subscribed(1), named(1, "b"), subscribed(2), named(2, "a")]);
    assert_eq!(world.all(), [Gap]);
    assert!(world.subscriber.links.is_empty());
}

#[test]
fn what_is_in_a_ring_is_received_before_there_is_an_error() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    world.subscriber.disconnected();
    world.connection.fails = true;
    sender.publish(2);
    world.subscriber.links.runs = RUNS_MAX;
    let received = [world.poll(), world.poll(), world.poll(), world.poll()];
    assert_eq!(received, [Ok(Some(Message(1, 0))), Ok(Some(Message(1, 1))), Err(Ended::Goodbye), Err(Ended::Goodbye)]);
    sender.publish(1);
    assert_eq!(world.poll(), Ok(Some(Message(1, 2))));
}

#[test]
fn a_sender_that_goes_on_does_not_keep_its_listener_from_the_next_daemon() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(1);
    world.subscriber.disconnected();
    world.join(&["a"]);
    let mut received = 0;
    while world.poll().expect("well formed") != Some(Gap) {
        received += 1;
        sender.publish(1);
        assert!(received < 100, "it ends");
    }
    assert!(received >= 1);
}

#[test]
fn a_channel_that_was_left_is_not_read_when_the_connection_is_lost() {
    let mut world = World::on(&["a", "b"]);
    let mut a = world.following(1, 1, 0);
    let mut b = world.following(2, 2, 0);
    world.subscriber.unsubscribe(&to("a").selector).expect("it has joined");
    a.publish(1);
    b.publish(1);
    world.subscriber.disconnected();
    assert_eq!(world.all(), messages(2, 0..1));
}

// ---- corrupt rings ----

#[test]
fn a_corrupt_ring_is_given_up() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    assert_eq!(world.all(), messages(1, 0..2));
    sender.corrupt();
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [unlink(1)]);
    assert_eq!(world.all(), [], "once");
    assert_eq!(world.written(), []);
    world.arrive(&[lagged(1, 1)]);
    world.arrive_message(1, 3);
    assert_eq!(world.all(), [Lost(1), Message(0, 3)], "the daemon counts the rest, and serves it");
}

#[test]
fn the_end_of_a_ring_that_was_given_up_states_its_losses() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    assert_eq!(world.all(), messages(1, 0..2));
    sender.corrupt();
    assert_eq!(world.all(), []);
    // The daemon has ended the link before it has received that.
    world.arrive(&[unfollow(1, 7)]);
    world.arrive_message(1, 7);
    assert_eq!(world.all(), [Lost(5), Message(0, 7)]);
    assert!(world.subscriber.links.is_empty());
}

#[test]
fn a_ring_that_does_not_contain_its_end_loses_the_rest() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    world.arrive(&[unfollow(1, 6)]);
    world.stream_first();
    assert_eq!(world.all(), [messages(1, 0..2), vec![Lost(4)]].concat());
    assert_eq!(world.written(), [unlink(1)]);
    let mut sender = world.following(2, 1, 6);
    sender.corrupt();
    world.arrive(&[unfollow(2, 7)]);
    world.stream_first();
    assert_eq!(world.all(), [Lost(1)]);
    assert_eq!(world.written(), [unlink(2)]);
    assert!(world.subscriber.links.is_empty());
}

// ---- waiting ----

#[test]
fn a_ring_without_an_intact_message_does_not_keep_its_listener_awake() {
    const TAIL: usize = 32;
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    sender.publish(2);
    assert_eq!(world.all(), messages(1, 0..2));
    sender.memory[TAIL].store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    assert!(world.subscriber.arm(), "it waits");
}

#[test]
fn a_listener_waits_only_while_its_rings_have_nothing() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    let memory = Arc::clone(&world.connection.pages[0]);
    // As a sender sees it that has not rung before.
    let sleeps = |sender: &mut Sender| {
        PageReader::open(Arc::clone(&memory)).expect("a page").must_ring(&sender.writer.publish())
    };
    assert!(sleeps(&mut sender));
    sender.publish(2);
    assert_eq!(world.poll(), Ok(Some(Message(1, 0))));
    assert!(!sleeps(&mut sender), "it is awake");
    assert_eq!(world.all(), messages(1, 1..2));
    assert!(sleeps(&mut sender), "again");
    let _ = sender.writer.close();
    let reads = world.connection.reads;
    assert_eq!(world.all(), []);
    assert_eq!(world.connection.reads, reads + 1, "a ring that is closed does not keep it awake");
}

#[test]
fn a_link_that_is_paused_wakes_nothing() {
    let mut world = World::on(&["a"]);
    let mut sender = world.following(1, 1, 0);
    let mut page = PageReader::open(Arc::clone(&world.connection.pages[0])).expect("a page");
    assert!(page.must_ring(&sender.writer.publish()));
    world.subscriber.subscribe(to("**"));
    sender.publish(1);
    assert_eq!(world.all(), []);
    assert!(!page.must_ring(&sender.writer.publish()));
}

// ---- errors ----

#[test]
fn offers_and_ends_that_make_no_sense_end_the_connection() {
    let pattern = || World::on(&["*"]);
    let observer = || {
        let observer = Subscription { observer: true, ..to("a") };
        let subscriber = Subscriber::new(vec![observer, to("b")], "test", 7);
        let mut world = World { subscriber, connection: Scripted::default() };
        world.join(&["a", "b"]);
        world
    };
    let other = || {
        let slow = Subscription { overflow: Overflow::DropNewest, ..to("a") };
        let subscriber = Subscriber::new(vec![slow, to("b")], "test", 7);
        let mut world = World { subscriber, connection: Scripted::default() };
        world.join(&["a", "b"]);
        world
    };
    let plain = || World::on(&["a"]);
    let following = || {
        let mut world = World::on(&["a"]);
        world.following(1, 1, 0);
        world
    };
    let offered = || {
        let mut world = World::on(&["a"]);
        world.offer(1, 1, &Sender::begin(0));
        assert_eq!(world.all(), []);
        world
    };
    let prepared = |mut world: World| {
        world.prepare();
        world
    };
    let cases: [(World, Control); 14] = [
        (prepared(pattern()), offer(1, 1)),
        (prepared(observer()), offer(1, 1)),
        (prepared(other()), offer(1, 1)),
        (prepared(plain()), offer(1, 9)),
        (plain(), offer(1, 1)),
        (plain(), Prepared::default().into()),
        (offered(), Prepare::default().into()),
        (following(), offer(1, 1)),
        (plain(), follow(1, 0, 0)),
        (following(), follow(1, 0, 0)),
        (plain(), unfollow(1, 0)),
        (offered(), unfollow(1, 0)),
        (plain(), control::LinkReady { link: 1, extensions: Vec::new() }.into()),
        (plain(), control::Recall { id: 1, extensions: Vec::new() }.into()),
    ];
    for (mut world, control) in cases {
        world.arrive(std::slice::from_ref(&control));
        assert_eq!(world.ended(), Ended::Unexpected(control.kind()), "{control:?}");
    }
    let mut world = World::on(&["a"]);
    world.subscriber.disconnected();
    world.subscriber.session_mut().announce_rings(false);
    world.subscriber.connected();
    world.greet(&[welcome(), subscribed(0), named(1, "a")]);
    world.arrive(&[Prepare::default().into()]);
    assert_eq!(world.ended(), Ended::Unexpected(kind::PREPARE), "it was not announced");
}

#[test]
fn rings_are_of_use_to_listeners_that_lose_the_oldest() {
    let wants = |subscription| Subscriber::new(vec![subscription], "test", 7).wants_rings();
    assert!(wants(to("a")) && wants(to("*")), "a channel may be joined by its name later");
    assert!(!wants(Subscription { observer: true, ..to("a") }));
    assert!(!wants(Subscription { overflow: Overflow::Latest, ..to("a") }));
}

// ---- progress ----

fn await_progress(link: u32, position: u64) -> Control {
    Control::AwaitProgress(control::AwaitProgress { link, position, extensions: Vec::new() })
}

fn progress(link: u32) -> Control {
    Control::Progress(control::Progress { link, extensions: Vec::new() })
}

#[test]
fn progress_is_reported_once_at_the_place_where_it_is_awaited() {
    let mut world = World::on(&["news"]);
    let mut sender = world.following(1, 1, 0);
    world.written();
    // Messages have 3 words each.
    world.arrive(&[await_progress(1, 5 * 3)]);
    for received in 1..=8 {
        sender.publish(1);
        assert_eq!(world.all(), messages(1, received - 1..received));
        let expected = if received == 5 { vec![progress(1)] } else { vec![] };
        assert_eq!(world.written(), expected, "after {received} messages");
    }
    world.arrive(&[await_progress(1, 3)]);
    assert_eq!(world.all(), []);
    assert_eq!(world.written(), [progress(1)], "it has passed that place already");
}

#[test]
fn a_busy_listener_reports_its_progress_before_it_reads_on() {
    let mut world = World::on(&["news"]);
    let mut sender = world.following(1, 1, 0);
    world.written();
    world.arrive(&[await_progress(1, 3)]);
    world.stream_first();
    assert_eq!(world.poll(), Ok(None));
    sender.publish(1);
    assert_eq!(world.poll(), Ok(Some(Message(1, 0))));
    sender.publish(1);
    assert_eq!(world.poll(), Ok(Some(Message(1, 1))));
    assert_eq!(world.written(), [progress(1)]);
}

#[test]
fn progress_of_links_that_have_ended_is_not_reported() {
    let mut world = World::on(&["news", "sport"]);
    let mut senders = [world.following(1, 1, 0), world.following(2, 2, 0)];
    senders.iter_mut().for_each(|sender| sender.publish(2));
    world.arrive(&[await_progress(1, 6), await_progress(7, 0), await_progress(2, 1000), unfollow(1, 0)]);
    world.stream_first();
    assert_eq!(world.all(), messages(2, 0..2));
    assert_eq!(world.written().last(), Some(&unlink(1)), "nothing but that it has read to the end");
    // With the connection, the requests of its daemon are gone.
    world.join(&["news", "sport"]);
    senders[1].publish(10);
    world.all();
    assert_eq!(world.written(), []);
}
