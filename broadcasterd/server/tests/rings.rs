//! The driver with rings in plain memory: what it does with descriptors, when it reads a ring and how much, and that it keeps nothing.

#![allow(clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Limits, Moment, RingId};
use broadcaster_protocol::control::{
    BeginRing, Confirm, Control, EndRing, Inspect, LinkAdded, LinkReady, OfferRing, Open, Overflow, Prepare, Prepared,
    Selector, Subscribe, Unlink, capability,
};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId, handshake};
use broadcaster_ring::{Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PageReader, PageWriter, Sample, Start, Writer};
use broadcaster_server::driver::{Drain, Driver, Input, Output, Request, Socket};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Words of data in a ring.
const CAPACITY: usize = 64 * 1024;

type Words = Arc<[AtomicU64]>;

/// What can be sent over a socket.
#[derive(Debug, Clone)]
enum Descriptor {
    Memory(Words),
    /// Its owner looks whether it must be rung.
    Doorbell(#[expect(dead_code, reason = "only its owners are counted")] Rc<()>),
}

fn words(count: usize) -> Words {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Both directions of one connection.
#[derive(Debug, Default)]
struct Pipe {
    /// Each part was one write.
    to_daemon: VecDeque<(Vec<u8>, Vec<Descriptor>)>,
    to_client: Vec<u8>,
    /// What has come with the byte at this place.
    to_client_with: Vec<(usize, Vec<Descriptor>)>,
    /// Bytes that may wait for the client.
    capacity: usize,
    broken: bool,
    stopped: bool,
}

#[derive(Debug)]
struct End(Rc<RefCell<Pipe>>);

impl Socket for End {
    const KEEPS_BYTES_WHEN_STOPPED: bool = true;

    type Descriptor = Descriptor;
    type Memory = Words;
    type Page = Words;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        self.read_with_descriptors(target, &mut VecDeque::new())
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let frame: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_with_descriptors(&frame, &[])
    }

    fn rings_max(_connections_max: usize) -> usize {
        16
    }

    fn read_with_descriptors(
        &self,
        target: &mut Limit<&mut BytesMut>,
        received: &mut VecDeque<Descriptor>,
    ) -> io::Result<usize> {
        let pipe = &mut *self.0.borrow_mut();
        let mut size = 0;
        while let Some((bytes, descriptors)) = pipe.to_daemon.front_mut()
            && target.has_remaining_mut()
        {
            let has_descriptors = !descriptors.is_empty();
            let part = bytes.len().min(target.remaining_mut());
            target.put_slice(&bytes[..part]);
            bytes.drain(..part);
            received.extend(descriptors.drain(..));
            size += part;
            if bytes.is_empty() {
                pipe.to_daemon.pop_front();
            }
            if has_descriptors {
                break;
            }
        }
        match size {
            0 if pipe.broken => Err(io::ErrorKind::ConnectionReset.into()),
            0 if !pipe.stopped => Err(io::ErrorKind::WouldBlock.into()),
            _ if received.len() > 4 => Err(io::ErrorKind::InvalidData.into()),
            _ => Ok(size),
        }
    }

    fn write_with_descriptors(&self, frame: &[u8], descriptors: &[&Descriptor]) -> io::Result<usize> {
        let pipe = &mut *self.0.borrow_mut();
        if pipe.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let size = frame.len().min(pipe.capacity.saturating_sub(pipe.to_client.len()));
        if size == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !descriptors.is_empty() {
            let descriptors = descriptors.iter().map(|&descriptor| descriptor.clone()).collect();
            pipe.to_client_with.push((pipe.to_client.len(), descriptors));
        }
        pipe.to_client.extend_from_slice(&frame[..size]);
        Ok(size)
    }

    fn open_memory(descriptor: &Descriptor, bytes: RangeInclusive<usize>) -> io::Result<Words> {
        match descriptor {
            Descriptor::Memory(words) if bytes.contains(&(words.len() * 8)) => Ok(Arc::clone(words)),
            Descriptor::Memory(_) | Descriptor::Doorbell(_) => Err(io::Error::other("not such memory")),
        }
    }

    fn make_page() -> io::Result<(Descriptor, Words)> {
        let page = words(PAGE_BYTES / 8);
        Ok((Descriptor::Memory(Arc::clone(&page)), page))
    }

    fn make_doorbell() -> io::Result<Descriptor> {
        Ok(Descriptor::Doorbell(Rc::new(())))
    }

    fn stop_reading(&self) {
        self.0.borrow_mut().stopped = true;
    }

    fn shut_down(&self) {}
}

fn frame(control: impl Into<Control>) -> Vec<u8> {
    let mut frame = Vec::new();
    control.into().encode(&mut frame).unwrap();
    frame
}

/// A client by hand.
struct Client {
    conn: ConnId,
    pipe: Rc<RefCell<Pipe>>,
    decoder: Decoder,
    chunk: BytesMut,
    id: SenderId,
    channel: ChannelId,
    messages: u64,
    lost: u64,
    /// The latest of them that concern rings.
    controls: Vec<Control>,
    received: VecDeque<Descriptor>,
}

impl Client {
    fn send_with(&self, control: impl Into<Control>, descriptors: &[Descriptor]) {
        self.pipe.borrow_mut().to_daemon.push_back((frame(control), descriptors.to_vec()));
    }

    fn send(&self, control: impl Into<Control>) {
        self.send_with(control, &[]);
    }

    /// Publishes by the socket.
    fn publish(&self, sequence: u64) {
        let frame = [Header::publish(self.channel, self.id, sequence, 1).as_bytes(), b"x"].concat();
        self.pipe.borrow_mut().to_daemon.push_back((frame, Vec::new()));
    }

    /// Reads what has arrived.
    fn read(&mut self) {
        let pipe = &mut *self.pipe.borrow_mut();
        let bytes = std::mem::take(&mut pipe.to_client);
        self.received.extend(pipe.to_client_with.drain(..).flat_map(|(_, descriptors)| descriptors));
        let mut answers = 0;
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
                    Item::Control(Control::Opened(opened)) => self.channel = ChannelId(opened.id),
                    Item::Control(Control::Named(_) | Control::Subscribed(_) | Control::Prepared(_)) => {}
                    Item::Control(Control::Prepare(_)) => answers += 1,
                    Item::Control(control) => self.controls.push(control),
                    Item::Discarded(header) => panic!("{header:?}"),
                }
            }
        }
        (0..answers).for_each(|_| pipe.to_daemon.push_back((frame(Prepared::default()), Vec::new())));
    }

    fn counts(&mut self) -> (u64, u64) {
        self.read();
        (self.messages, self.lost)
    }

    fn take_controls(&mut self) -> Vec<Control> {
        self.read();
        std::mem::take(&mut self.controls)
    }
}

/// The ring of a sender, as that sees it.
struct Ring {
    memory: Words,
    writer: Option<Writer<Words>>,
    relay: Option<PageReader<Words>>,
}

impl Ring {
    /// Publishes so many messages of 8 bytes; returns whether the daemon must be woken.
    fn publish(&mut self, messages: usize) -> bool {
        let writer = self.writer.as_mut().unwrap();
        (0..messages).for_each(|_| writer.push(KIND_PUBLISH, b"", b"12345678").unwrap());
        let published = writer.publish();
        self.relay.as_mut().unwrap().must_ring(&published)
    }

    fn is_relaying(&self) -> bool {
        self.relay.as_ref().unwrap().is_relaying()
    }

    fn sequence(&self) -> u64 {
        self.writer.as_ref().unwrap().cursor().sequence
    }

    fn is_called(&mut self) -> bool {
        self.relay.as_mut().unwrap().is_called()
    }
}

struct Bus {
    driver: Driver<End>,
    now: Moment,
    requests: Vec<Request>,
    processes: u32,
}

impl Bus {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let broker = Broker::new(limits, 1, 1, "test", Moment::default());
        Self { driver: Driver::new(broker), now: Moment::default(), requests: Vec::new(), processes: 0 }
    }

    fn turn<T>(&mut self, turn: impl FnOnce(&mut Driver<End>, Moment) -> T) -> T {
        let result = turn(&mut self.driver, self.now);
        self.requests.extend(std::iter::from_fn(|| self.driver.next_request()));
        self.driver.invariants();
        result
    }

    fn connect_with(&mut self, capabilities: u64) -> Client {
        let pipe = Rc::new(RefCell::new(Pipe { capacity: usize::MAX, ..Pipe::default() }));
        self.processes += 1;
        let pid = self.processes;
        let conn = self.turn(|driver, now| driver.accept(now, End(Rc::clone(&pipe)), pid, 1));
        let client = Client {
            conn,
            pipe,
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            id: SenderId::new(0, 0),
            channel: ChannelId(0),
            messages: 0,
            lost: 0,
            controls: Vec::new(),
            received: VecDeque::new(),
        };
        let mut hello = handshake::hello("test", "test", pid, 1);
        hello.capabilities = capabilities;
        client.send(hello);
        if capabilities == capability::RINGS {
            client.send(Prepare::default());
        }
        client
    }

    /// The client reads, and the daemon reads its answers.
    fn exchange(&mut self, client: &mut Client) {
        client.read();
        self.read_all(client.conn);
    }

    fn listener_with(&mut self, capabilities: u64) -> Client {
        let mut client = self.connect_with(capabilities);
        let (selector, overflow) = (Selector::Name("news".to_owned()), Overflow::DropOldest);
        client.send(Subscribe { subscription: 1, selector, overflow, observer: false, extensions: Vec::new() });
        self.read_all(client.conn);
        client.read();
        client
    }

    fn listener(&mut self) -> Client {
        self.listener_with(capability::RINGS)
    }

    fn plain_listener(&mut self) -> Client {
        self.listener_with(capability::NONE)
    }

    fn sender(&mut self) -> Client {
        let mut client = self.connect_with(capability::RINGS);
        client.send(Open { channel: "news".to_owned(), next_sequence: 0, extensions: Vec::new() });
        self.read_all(client.conn);
        client.read();
        client
    }

    fn read_all(&mut self, conn: ConnId) {
        while self.turn(|driver, now| driver.read(now, conn)) == Input::More {}
    }

    fn offer(&mut self, sender: &mut Client, memory: &Words) {
        let bytes = memory.len() as u64 * 8;
        let offer = OfferRing { id: sender.channel.0, bytes, extensions: Vec::new() };
        sender.send_with(offer, &[Descriptor::Memory(Arc::clone(memory))]);
        self.read_all(sender.conn);
        self.exchange(sender);
    }

    /// The sender begins a ring of this capacity, with this message.
    fn begin_with(&mut self, sender: &mut Client, first: u64, capacity: usize) -> Ring {
        let memory = words(HEADER_WORDS + capacity);
        self.offer(sender, &memory);
        assert!(matches!(sender.take_controls()[..], [Control::RingAccepted(_)]));
        let Some(Descriptor::Memory(page)) = sender.received.pop_front() else { panic!("no page") };
        assert!(matches!(sender.received.pop_front(), Some(Descriptor::Doorbell(_))));
        assert_eq!(Arc::strong_count(&page), 2, "the daemon has it mapped, and no descriptor of it");
        let writer = Writer::new(Arc::clone(&memory), first);
        let mut ring = Ring { memory, writer: Some(writer), relay: Some(PageReader::open(page).unwrap()) };
        ring.is_called(); // to the answer
        sender.send(BeginRing { id: sender.channel.0, sequence: first, extensions: Vec::new() });
        ring
    }

    fn begin(&mut self, sender: &mut Client, first: u64) -> (Ring, RingId) {
        let ring = self.begin_with(sender, first, CAPACITY);
        self.requests.clear();
        self.read_all(sender.conn);
        let [Request::WatchRing(id)] = self.requests[..] else { panic!("{:?}", self.requests) };
        self.relay(id);
        (ring, id)
    }

    /// Reads from the ring until it is empty; returns the number of turns.
    fn relay(&mut self, id: RingId) -> usize {
        let mut turns = 1;
        while self.turn(|driver, now| driver.relay(now, id)) == Input::More {
            turns += 1;
        }
        turns
    }

    /// Everything until the listener follows the ring: what it reads with, and what it shows.
    fn introduce(
        &mut self,
        (sender, ring, id): (&mut Client, &mut Ring, RingId),
        listener: &mut Client,
    ) -> (Intake<Words>, PageWriter<Words>, u32) {
        assert!(ring.publish(1), "the relay sleeps");
        self.relay(id);
        self.exchange(listener);
        let controls = listener.take_controls();
        let [Control::OfferLink(offer)] = &controls[..] else { panic!("{controls:?}") };
        let Some(Descriptor::Memory(memory)) = listener.received.pop_front() else { panic!("no ring") };
        let page = words(PAGE_BYTES / 8);
        let writer = PageWriter::new(Arc::clone(&page));
        let doorbell = Rc::new(());
        let descriptors = [Descriptor::Memory(Arc::clone(&page)), Descriptor::Doorbell(Rc::clone(&doorbell))];
        listener.send_with(LinkReady { link: offer.link, extensions: Vec::new() }, &descriptors);
        drop(descriptors);
        self.read_all(listener.conn);
        assert!(ring.is_called(), "the sender has something to read");
        assert!(matches!(sender.take_controls()[..], [Control::AddLink(_)]));
        assert!(
            matches!(&sender.received.make_contiguous()[0], Descriptor::Memory(added) if Arc::ptr_eq(added, &page))
        );
        sender.received.clear();
        assert_eq!(Rc::strong_count(&doorbell), 1, "it was passed on");
        sender.send(LinkAdded { link: offer.link, extensions: Vec::new() });
        self.read_all(sender.conn);
        let controls = listener.take_controls();
        let [Control::Follow(follow)] = &controls[..] else { panic!("{controls:?}") };
        let at = Start::At(Cursor { position: follow.position, sequence: follow.sequence });
        let intake = Intake::open(memory, at, ChannelId(offer.id), SenderId::from_raw(offer.sender)).unwrap();
        (intake, writer, offer.link)
    }
}

/// The listener reads everything, and shows that.
fn read_ring(intake: &mut Intake<Words>, page: &mut PageWriter<Words>) -> u64 {
    let mut messages = 0;
    while let Some(run) = intake.take(None, 4096).unwrap().run {
        page.count(intake.cursor().position, run.messages(), 0);
        messages += run.messages();
    }
    messages
}

#[test]
fn listener_is_introduced_and_the_daemon_sleeps() {
    let mut bus = Bus::new();
    let (mut listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let (mut intake, mut page, _) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
    assert!(ring.publish(3), "the relay sleeps until then");
    bus.relay(id);
    assert_eq!((listener.counts(), plain.counts()), ((1, 0), (4, 0)));
    assert_eq!(read_ring(&mut intake, &mut page), 3);
    assert!(ring.is_relaying(), "without the daemon, one listener would miss what the sender publishes");
    // Without a listener that needs it, the relay is never woken again.
    plain.pipe.borrow_mut().broken = true;
    bus.read_all(plain.conn);
    assert!(!ring.is_relaying());
    assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::Empty);
    assert!(!ring.publish(5));
    assert_eq!(read_ring(&mut intake, &mut page), 5);
    let report = bus.turn(Driver::report);
    assert_eq!((report.messages_accepted, report.messages_delivered, report.messages_lost), (9, 1 + 4 + 8, 0));
    let snapshot = bus.turn(Driver::snapshot);
    assert_eq!((snapshot.rings, snapshot.links), (1, 1));
    assert_eq!(snapshot.connections[0].queue_messages, 0);
}

#[test]
fn relay_that_was_off_continues_where_a_subscriber_joins() {
    let mut bus = Bus::new();
    let mut listener = bus.listener();
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let (mut intake, mut page, _) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
    assert!(!ring.publish(10));
    bus.requests.clear();
    assert!(!ring.is_relaying());
    let mut plain = bus.plain_listener();
    assert_eq!(bus.requests, [Request::WatchRing(id)]);
    assert!(ring.is_relaying());
    bus.relay(id);
    assert!(ring.publish(2));
    bus.relay(id);
    assert_eq!((plain.counts(), read_ring(&mut intake, &mut page)), ((2, 0), 12));
}

#[test]
fn look_at_a_ring_in_between_loses_no_wake_up() {
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    assert!(ring.publish(1));
    sender.send(Confirm { number: 1, id: sender.channel.0, extensions: Vec::new() });
    bus.read_all(sender.conn);
    assert_eq!(plain.counts(), (1, 0), "it was read before the answer");
    let controls = sender.take_controls();
    let [Control::Receipt(receipt)] = &controls[..] else { panic!("{controls:?}") };
    assert_eq!((receipt.next_sequence, receipt.took), (1, 2));
    assert!(ring.is_called(), "the sender is called to the receipt");
    // The doorbell was rung, so that the relay looks again.
    bus.relay(id);
    assert!(ring.publish(1));
    bus.relay(id);
    assert_eq!(plain.counts(), (2, 0));
    // Without a ring before: the relay was asleep all the time.
    ring.writer.as_mut().unwrap().push(KIND_PUBLISH, b"", b"x").unwrap();
    let _ = ring.writer.as_mut().unwrap().publish(); // and dies before it rings
    sender.send(Confirm { number: 1, id: sender.channel.0, extensions: Vec::new() });
    bus.read_all(sender.conn);
    assert_eq!(plain.counts(), (3, 0));
    assert!(ring.publish(1), "the relay sleeps still");
}

#[test]
fn turn_of_the_relay_is_bounded() {
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let messages = 10_000;
    assert!(ring.publish(messages));
    assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::More);
    let bytes = 64 * 1024 + 100;
    assert!(plain.counts().0 * 36 <= bytes, "{} messages in one turn", plain.messages);
    let turns = bus.relay(id);
    assert!((5..10).contains(&turns), "{turns} turns for 360 KB");
    assert_eq!(plain.counts(), (messages as u64, 0));
    let sample = ring.relay.unwrap().sample();
    assert_eq!((sample.received, sample.lost, sample.position), (10_000, 0, 30_000));
}

#[test]
fn healthy_listeners_lose_nothing_when_a_whole_ring_is_read_at_once() {
    let mut limits = Limits::default();
    (limits.outbox_bytes_max, limits.outbox_messages_max) = (256 * 1024, 100_000);
    let mut bus = Bus::with(limits);
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, _) = bus.begin(&mut sender, 0);
    ring.publish(20_000);
    sender.send(EndRing { id: sender.channel.0, sequence: 20_000, extensions: Vec::new() });
    bus.read_all(sender.conn);
    assert_eq!(plain.counts(), (20_000, 0));
}

#[test]
fn inspecting_looks_at_all_rings() {
    let mut bus = Bus::new();
    let mut listener = bus.listener();
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let (mut intake, mut page, _) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
    ring.publish(7);
    assert_eq!(read_ring(&mut intake, &mut page), 7);
    let mut inspector = bus.connect_with(capability::NONE);
    inspector.send(Inspect::default());
    bus.read_all(inspector.conn);
    let controls = inspector.take_controls();
    let [Control::Report(report)] = &controls[..] else { panic!("{controls:?}") };
    assert_eq!((report.messages_accepted, report.messages_delivered), (8, 8));
}

#[test]
fn ring_that_overtakes_the_daemon_loses_exactly_what_was_overwritten() {
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    // Even before the daemon has read that it begins.
    let mut ring = bus.begin_with(&mut sender, 0, 1024);
    ring.publish(5000);
    bus.read_all(sender.conn);
    let Some(&Request::WatchRing(id)) = bus.requests.last() else { panic!("{:?}", bus.requests) };
    bus.relay(id);
    let (messages, lost) = plain.counts();
    assert_eq!(messages + lost, 5000);
    assert!((100..400).contains(&messages), "{messages} messages fit");
    assert_eq!(bus.turn(Driver::report).messages_accepted, 5000);
}

#[test]
fn end_of_a_ring_stands_before_what_follows_by_the_socket() {
    let mut bus = Bus::new();
    let (mut listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let (mut intake, mut page, link) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
    ring.publish(20_000);
    let sequence = ring.sequence();
    let _ = ring.writer.as_mut().unwrap().close();
    sender.send(EndRing { id: sender.channel.0, sequence, extensions: Vec::new() });
    sender.publish(sequence);
    bus.read_all(sender.conn);
    assert_eq!(plain.counts(), (20_002, 0));
    assert_eq!(bus.requests.last(), Some(&Request::UnwatchRing(id)));
    let controls = listener.take_controls();
    assert!(matches!(&controls[..], [Control::Unfollow(unfollow)] if unfollow.sequence == sequence));
    assert_eq!(listener.counts(), (2, 0));
    assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::Ended);
    // The rest that the listener reads is counted, and then nothing is kept.
    assert_eq!(read_ring(&mut intake, &mut page), 20_000);
    listener.send(Unlink { link, extensions: Vec::new() });
    bus.read_all(listener.conn);
    let report = bus.turn(Driver::report);
    assert_eq!((report.messages_accepted, report.messages_delivered), (20_002, 2 * 20_002));
    assert_eq!(report.messages_lost, 0);
}

#[test]
fn nothing_is_kept_of_a_ring_that_has_ended() {
    for ends in [true, false] {
        let mut bus = Bus::new();
        let mut listener = bus.listener();
        let mut sender = bus.sender();
        let (mut ring, id) = bus.begin(&mut sender, 0);
        let (intake, page, link) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
        if ends {
            sender.send(EndRing { id: sender.channel.0, sequence: 1, extensions: Vec::new() });
            bus.read_all(sender.conn);
            listener.send(Unlink { link, extensions: Vec::new() });
        } else {
            sender.pipe.borrow_mut().broken = true;
            bus.read_all(sender.conn);
            listener.pipe.borrow_mut().broken = true;
        }
        bus.read_all(listener.conn);
        drop((intake, page));
        let Ring { memory, writer, relay } = ring;
        drop((writer, relay));
        assert_eq!(Arc::strong_count(&memory), 1, "ended by a frame: {ends}");
    }
}

#[test]
fn memory_that_is_no_ring_is_declined_or_refused() {
    let mut bus = Bus::new();
    let _listener = bus.listener();
    let mut sender = bus.sender();
    let id = sender.channel.0;
    let declined = |bus: &mut Bus, sender: &mut Client, bytes: u64, descriptor: Descriptor| {
        sender.send_with(OfferRing { id, bytes, extensions: Vec::new() }, &[descriptor]);
        bus.read_all(sender.conn);
        let controls = sender.take_controls();
        let [Control::Declined(declined)] = &controls[..] else { panic!("{controls:?}") };
        declined.reason.clone()
    };
    let good = (HEADER_WORDS + 1024) as u64 * 8;
    let sized = |words: usize| Descriptor::Memory(self::words(words));
    for (bytes, descriptor) in [
        (good, sized(HEADER_WORDS + 1023)),
        (good, Descriptor::Doorbell(Rc::new(()))),
        (good, Descriptor::Memory(words(0))),
    ] {
        assert_eq!(declined(&mut bus, &mut sender, bytes, descriptor), "not such memory");
    }
    for bytes in [0, good - 8, good + 1, u64::MAX, (HEADER_WORDS as u64 + (1 << 22)) * 8] {
        let reason = declined(&mut bus, &mut sender, bytes, sized(1));
        assert!(reason.starts_with(&format!("a ring of {bytes} bytes: ")), "{reason}");
    }
    // What is declined for another reason, or comes too late, is not kept either.
    let memory = words(HEADER_WORDS + 1024);
    let mut other = bus.connect_with(capability::RINGS);
    other.send(Open { channel: "other".to_owned(), next_sequence: 0, extensions: Vec::new() });
    bus.read_all(other.conn);
    other.read();
    bus.offer(&mut other, &memory);
    assert!(matches!(other.take_controls()[..], [Control::Declined(_)]));
    assert_eq!(Arc::strong_count(&memory), 1);
    let page = words(PAGE_BYTES / 8);
    let _shown = PageWriter::new(Arc::clone(&page));
    let descriptors = [Descriptor::Memory(Arc::clone(&page)), Descriptor::Doorbell(Rc::new(()))];
    other.send_with(LinkReady { link: 99, extensions: Vec::new() }, &descriptors);
    drop(descriptors);
    bus.read_all(other.conn);
    assert!(matches!(other.take_controls()[..], [Control::Unlink(_)]));
    assert_eq!(Arc::strong_count(&page), 2);
    // What is in it counts from its beginning on.
    let memory = words(HEADER_WORDS + 1024);
    bus.offer(&mut sender, &memory);
    sender.take_controls();
    sender.send(BeginRing { id, sequence: 0, extensions: Vec::new() });
    bus.read_all(sender.conn);
    let controls = sender.take_controls();
    let [Control::Refused(refused)] = &controls[..] else { panic!("{controls:?}") };
    assert!(refused.reason.contains("magic number"), "{}", refused.reason);
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn corrupt_record_ends_the_sender() {
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    ring.publish(3);
    ring.memory[HEADER_WORDS + 3].store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    bus.relay(id);
    let controls = sender.take_controls();
    assert!(matches!(&controls[..], [Control::Refused(refused)] if refused.reason.contains("is not correct")));
    assert_eq!(plain.counts(), (1, 2), "what was before is delivered, and the rest is lost");
}

/// A sender that states that nothing of its ring is intact does not keep the daemon busy.
#[test]
fn ring_without_an_intact_record_keeps_the_relay_asleep() {
    const TAIL: usize = 32;
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    ring.publish(2);
    assert_eq!(bus.relay(id), 1);
    ring.memory[TAIL].store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::Empty);
    assert_eq!(plain.counts(), (2, 0));
    // The next look at it shows what is wrong.
    bus.turn(Driver::report);
    let controls = sender.take_controls();
    assert!(matches!(&controls[..], [Control::Refused(refused)] if refused.reason.contains("is not correct")));
}

#[test]
fn closed_ring_without_an_end_keeps_the_relay_asleep() {
    let mut bus = Bus::new();
    let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    ring.publish(2);
    let _ = ring.writer.as_mut().unwrap().close();
    assert_eq!(bus.relay(id), 1);
    assert_eq!(plain.counts(), (2, 0));
}

#[test]
fn descriptors_and_frames_belong_together() {
    let mut bus = Bus::new();
    let _listener = bus.listener();
    // A frame without its descriptors.
    let mut sender = bus.sender();
    sender.send(OfferRing { id: sender.channel.0, bytes: 4096, extensions: Vec::new() });
    bus.read_all(sender.conn);
    let controls = sender.take_controls();
    assert!(matches!(&controls[..], [Control::Refused(refused)] if refused.reason.contains("descriptors")));
    // One of two.
    let mut other = bus.listener();
    other.send_with(LinkReady { link: 1, extensions: Vec::new() }, &[Descriptor::Doorbell(Rc::new(()))]);
    bus.read_all(other.conn);
    assert!(matches!(&other.take_controls()[..], [Control::Refused(_)]));
    // Descriptors without frames are never more than four, and end with the connection.
    let hoarder = bus.listener();
    let kept = Rc::new(());
    for _ in 0..4 {
        hoarder.send_with(Inspect::default(), &[Descriptor::Doorbell(Rc::clone(&kept))]);
    }
    bus.read_all(hoarder.conn);
    assert!(hoarder.pipe.borrow().to_daemon.is_empty(), "a read that ends behind descriptors is not the last one");
    assert_eq!(Rc::strong_count(&kept), 5);
    hoarder.send_with(Inspect::default(), &[Descriptor::Doorbell(Rc::clone(&kept))]);
    bus.read_all(hoarder.conn);
    assert_eq!(Rc::strong_count(&kept), 1);
    // They end with the last frame that has an effect, too.
    let hoarder = bus.listener();
    hoarder.send_with(Inspect::default(), &[Descriptor::Doorbell(Rc::clone(&kept))]);
    bus.read_all(hoarder.conn);
    assert_eq!(Rc::strong_count(&kept), 2);
    hoarder.pipe.borrow_mut().capacity = 0;
    hoarder.send(BeginRing { id: 99, sequence: 0, extensions: Vec::new() });
    bus.read_all(hoarder.conn);
    assert_eq!(Rc::strong_count(&kept), 1);
    // A connection that has not agreed on rings gets rid of them at once.
    let plain = bus.plain_listener();
    plain.send_with(Inspect::default(), &[Descriptor::Doorbell(Rc::clone(&kept))]);
    bus.read_all(plain.conn);
    assert_eq!(Rc::strong_count(&kept), 1);
}

/// A listener without room for the offer of a ring, with the sender of that.
fn offered_without_room(bus: &mut Bus) -> (Client, Client, Ring) {
    let mut listener = bus.listener();
    let mut sender = bus.sender();
    let (mut ring, id) = bus.begin(&mut sender, 0);
    ring.publish(1);
    bus.relay(id);
    listener.read();
    listener.pipe.borrow_mut().capacity = 0;
    bus.read_all(listener.conn); // it is prepared, and offered the ring
    (listener, sender, ring)
}

#[test]
fn descriptors_go_with_the_first_byte_and_only_once() {
    let mut bus = Bus::new();
    let (mut listener, _sender, _ring) = offered_without_room(&mut bus);
    let mut places = Vec::new();
    for room in 1..200 {
        listener.pipe.borrow_mut().capacity = room;
        if bus.turn(|driver, now| driver.write(now, listener.conn)) == Output::Done {
            break;
        }
        places.extend(listener.pipe.borrow().to_client_with.iter().map(|(at, _)| *at));
        assert!(places.iter().all(|&at| at == 0), "the offer begins there");
    }
    assert!(!places.is_empty());
    assert_eq!(listener.pipe.borrow().to_client_with.len(), 1);
    assert!(matches!(listener.take_controls()[..], [Control::OfferLink(_)]));
    assert_eq!(listener.received.len(), 1);
}

#[test]
fn frame_whose_descriptors_are_gone_is_withdrawn() {
    let mut bus = Bus::new();
    let (mut listener, sender, _ring) = offered_without_room(&mut bus);
    sender.send(EndRing { id: sender.channel.0, sequence: 1, extensions: Vec::new() });
    sender.publish(1);
    bus.read_all(sender.conn);
    listener.pipe.borrow_mut().capacity = usize::MAX;
    assert_eq!(bus.turn(|driver, now| driver.write(now, listener.conn)), Output::Done);
    assert!(matches!(listener.take_controls()[..], [Control::Unlink(_)]));
    assert_eq!((listener.counts(), listener.received.len()), ((2, 0), 0));
}

#[test]
fn sender_that_disappears_has_published_what_its_ring_holds() {
    for in_a_write in [false, true] {
        let mut bus = Bus::new();
        let (_listener, mut plain) = (bus.listener(), bus.plain_listener());
        let mut sender = bus.sender();
        let (mut ring, id) = bus.begin(&mut sender, 0);
        ring.publish(5000);
        sender.pipe.borrow_mut().broken = true;
        if in_a_write {
            // The daemon learns it when it writes a request for an end.
            bus.now = bus.now.after(Duration::from_secs(20));
            bus.turn(Driver::tick);
            bus.read_all(sender.conn);
        } else {
            bus.read_all(sender.conn);
        }
        assert_eq!(plain.counts(), (5000, 0), "in a write: {in_a_write}");
        assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::Ended);
    }
}

#[test]
fn stop_recalls_rings_and_delivers_what_they_hold() {
    for answers in [false, true] {
        let mut bus = Bus::new();
        let (mut listener, mut plain) = (bus.listener(), bus.plain_listener());
        let mut sender = bus.sender();
        let (mut ring, id) = bus.begin(&mut sender, 0);
        let (mut intake, mut page, _) = bus.introduce((&mut sender, &mut ring, id), &mut listener);
        bus.requests.clear();
        ring.publish(10); // of which the daemon knows when it begins to wait
        bus.turn(Driver::stop);
        assert!(!bus.requests.contains(&Request::Drain), "the sender is waited for");
        assert!(ring.is_called());
        assert!(matches!(sender.take_controls()[..], [Control::Recall(_)]));
        if answers {
            ring.publish(90);
            sender.send(EndRing { id: sender.channel.0, sequence: ring.sequence(), extensions: Vec::new() });
            sender.publish(ring.sequence());
            bus.read_all(sender.conn);
        } else {
            assert!(!bus.requests.contains(&Request::Drain));
            bus.now = bus.now.after(Duration::from_millis(20));
            bus.turn(Driver::tick);
            ring.publish(140);
        }
        assert!(bus.requests.contains(&Request::Drain), "it answers: {answers}");
        while bus.turn(Driver::drain) != Drain::Done {}
        let total = if answers { 102 } else { 151 };
        assert_eq!(plain.counts(), (total, 0));
        let controls = listener.take_controls();
        assert!(matches!(controls[..], [Control::Unfollow(_), Control::Goodbye(_)]), "{controls:?}");
        assert_eq!(read_ring(&mut intake, &mut page), if answers { 100 } else { 150 });
        assert_eq!(bus.turn(|driver, now| driver.relay(now, id)), Input::Ended);
    }
}

#[test]
fn daemon_that_stops_states_what_it_has_accepted_in_a_ring_that_it_does_not_read() {
    let mut bus = Bus::new();
    let (mut listener, mut sender) = (bus.listener(), bus.sender());
    let (mut ring, id) = bus.begin(&mut sender, 0);
    let _reads = bus.introduce((&mut sender, &mut ring, id), &mut listener);
    ring.publish(10);
    bus.turn(Driver::stop);
    bus.now = bus.now.after(Duration::from_millis(20));
    bus.turn(Driver::tick);
    ring.publish(5);
    while bus.turn(Driver::drain) != Drain::Done {}
    let accepted = ring.sequence();
    ring.publish(3); // which no daemon accepts
    let Sample { received, lost, .. } = ring.relay.as_ref().unwrap().sample();
    assert_eq!((received + lost, accepted), (16, 16), "with the message that has introduced the listener");
}
