mod surviving;

use super::*;
use crate::ChannelName;
use crate::machine::send::look;
use crate::machine::session::tests::{feed_bytes, welcome};
use crate::machine::{
    Carrier, Confirmation, Confirming, Counted, Ended, First, Link, Machine, OWN, PendingSend, Receipted, Rejected,
    Requested, Requesting, Sending, Step, Subscriber, Transfer, confirm, count, flush,
};
use broadcaster_protocol::control::{
    AddLink, Credit, Declined, Goodbye, InboxOpened, Listeners, Opened, Prepare, Prepared, Recall, Receipt,
    RefusedCode, Report, RingAccepted, Welcome, kind,
};
use broadcaster_protocol::limits::{CREDIT_MESSAGE_BYTES, HEADER_BYTES};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId};
use broadcaster_ring::{Cursor, HEADER_WORDS, Intake, PageReader, PageWriter, PushError, Sample, Start, Writer};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

type Memory = Arc<[AtomicU64]>;

/// Where replies arrive.
const INBOX: ChannelId = ChannelId(99);

/// Words of data of a ring, 32 KiB. Its largest record has 8 KiB.
const CAPACITY_WORDS: usize = 4096;

fn memory(words: usize) -> Memory {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// A ring in the memory of this process.
#[derive(Debug)]
struct SimulatedRing {
    memory: Memory,
    writer: Option<Writer<Memory>>,
}

impl SimulatedRing {
    fn writer(&mut self) -> &mut Writer<Memory> {
        self.writer.as_mut().expect("it has begun")
    }
}

impl RingOutput for SimulatedRing {
    fn begin(&mut self, first: u64) {
        assert!(self.writer.is_none(), "it begins once");
        self.writer = Some(Writer::new(Arc::clone(&self.memory), first));
    }

    fn push(&mut self, metadata: &[u8], payload: &[u8]) -> Result<(), PushError> {
        self.writer().push(broadcaster_protocol::frame::KIND_PUBLISH, metadata, payload)
    }

    fn push_batch(&mut self, messages: u16, body: &[u8]) -> Result<(), PushError> {
        self.writer().push_batch(broadcaster_protocol::frame::KIND_BATCH, messages, body)
    }

    fn publish(&mut self) -> Published {
        self.writer().publish()
    }

    fn close(&mut self) -> Published {
        self.writer().close()
    }

    fn bytes(&self) -> u64 {
        (self.memory.len() * 8) as u64
    }

    fn position(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.cursor().position)
    }
}

/// The other end of a reader in the memory of this process.
#[derive(Debug)]
struct SimulatedBell {
    page: PageReader<Memory>,
    reader: Arc<Rung>,
    calls_seen: usize,
}

#[derive(Debug, Default)]
struct Rung {
    times: AtomicUsize,
    /// How often the sender has called it to the ring.
    calls: AtomicUsize,
    is_broken: AtomicBool,
    /// The sender holds the bell.
    is_held: AtomicBool,
}

impl SimulatedBell {
    fn boxed(page: &Memory, reader: &Arc<Rung>) -> Box<dyn Bell> {
        reader.is_held.store(true, Ordering::Relaxed);
        let (page, reader) = (PageReader::open(Arc::clone(page)).expect("a page"), Arc::clone(reader));
        Box::new(Self { page, reader, calls_seen: 0 })
    }
}

impl Bell for SimulatedBell {
    fn ring(&mut self, published: &Published) -> bool {
        if self.page.must_ring(published) {
            self.reader.times.fetch_add(1, Ordering::Relaxed);
        }
        !self.reader.is_broken.load(Ordering::Relaxed)
    }

    fn call(&mut self) {
        self.reader.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self) -> u64 {
        let Sample { received, lost, .. } = self.page.sample();
        received.saturating_add(lost)
    }

    /// A reader that answers calls at once has an answer after each of them.
    fn is_called(&mut self) -> bool {
        let is_answered = self.reader.calls.load(Ordering::Relaxed) > self.calls_seen;
        self.calls_seen = self.reader.calls.load(Ordering::Relaxed);
        self.page.is_called() || is_answered
    }

    fn position(&self) -> u64 {
        self.page.sample().position
    }

    fn has_left(&self, published: &Published) -> bool {
        self.page.has_left(published)
    }

    fn is_relaying(&self) -> bool {
        self.page.is_relaying()
    }
}

impl Drop for SimulatedBell {
    fn drop(&mut self) {
        self.reader.is_held.store(false, Ordering::Relaxed);
    }
}

/// A reader with its page, as itself sees it.
struct Reader {
    page: PageWriter<Memory>,
    memory: Memory,
    rung: Arc<Rung>,
}

impl Reader {
    fn new() -> Self {
        let memory = memory(64);
        Self { page: PageWriter::new(Arc::clone(&memory)), memory, rung: Arc::default() }
    }

    fn bell(&self) -> Box<dyn Bell> {
        SimulatedBell::boxed(&self.memory, &self.rung)
    }

    fn times_rung(&self) -> usize {
        self.rung.times.load(Ordering::Relaxed)
    }
}

/// A ring as the daemon knows it.
struct Relay {
    memory: Memory,
    intake: Option<Intake<Memory>>,
    reader: Reader,
}

/// One publication as the daemon knows it.
#[derive(Default)]
struct Received {
    name: String,
    next: u64,
    relay: Option<Relay>,
}

/// What the daemon does with offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    All,
    None,
    /// It answers none.
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Daemon,
    Room,
    Answer,
}

#[derive(Debug, PartialEq)]
enum Failure {
    Rejected(Rejected),
    Refused,
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<Ended> for Failure {
    fn from(_: Ended) -> Self {
        Self::Refused
    }
}

/// A connection to a daemon that handles what it reads at once, and reads rings when it must, or on request.
struct Bus {
    serves: bool,
    /// The next attempt to connect is the last of its kind.
    fails: bool,
    connected: bool,
    has_rings: bool,
    takes: Takes,
    /// The memory of rings can be made.
    has_memory: bool,
    /// Bytes that the connection takes.
    room: usize,
    /// It reads descriptors, and the publisher has read that it does.
    is_prepared: bool,
    /// Whether the publisher reads descriptors: it was asked to, and has answered.
    publisher_prepared: Option<bool>,
    /// The channels whose rings are accepted as soon as it does.
    pending: Vec<u32>,
    /// What the descriptor that goes with the next frame refers to.
    attached: Option<Memory>,
    decoder: Decoder,
    chunk: BytesMut,
    answers: VecDeque<(Control, Option<Box<dyn Bell>>)>,
    /// The bells that came with what was read.
    bells: VecDeque<Option<Box<dyn Bell>>>,
    publications: BTreeMap<u32, Received>,
    next_id: u32,
    /// The messages that were accepted, by channel.
    accepted: Vec<(String, u64, Vec<u8>)>,
    /// How many of them were in a ring.
    relayed: usize,
    /// The numbers of the requests among them.
    addresses: Vec<u64>,
    /// The control frames that were read, except for those of the handshake.
    controls: Vec<Control>,
    /// A listener replies to this request as soon as it is there.
    replies_to: Option<u64>,
    time: Option<Instant>,
    reads: usize,
    rings_made: usize,
    /// Bytes of credit that each call to a ring is answered with, at once; 0: it is not.
    answers_calls: u64,
    calls_answered: usize,
    /// The id that it gives the sender.
    sender: u64,
    payload_bytes_max: u32,
}

impl Bus {
    fn new() -> Self {
        Self {
            serves: true,
            fails: false,
            connected: false,
            has_rings: true,
            takes: Takes::All,
            has_memory: true,
            room: usize::MAX,
            is_prepared: false,
            publisher_prepared: None,
            pending: Vec::new(),
            attached: None,
            decoder: Decoder::consumer(1 << 20),
            chunk: BytesMut::new(),
            answers: VecDeque::new(),
            bells: VecDeque::new(),
            publications: BTreeMap::new(),
            next_id: 3,
            accepted: Vec::new(),
            relayed: 0,
            addresses: Vec::new(),
            controls: Vec::new(),
            replies_to: None,
            time: None,
            reads: 0,
            rings_made: 0,
            answers_calls: 0,
            calls_answered: 0,
            sender: 77,
            payload_bytes_max: 1 << 20,
        }
    }

    fn answer(&mut self, control: impl Into<Control>) {
        self.answers.push_back((control.into(), None));
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = bytes.split_at(bytes.len().min(target.remaining_mut()));
            target.put_slice(now);
            bytes = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).expect("frames") {
                match item {
                    Item::Control(control) => self.handle(control),
                    Item::Run(run) => self.accept(&run),
                    Item::Discarded(header) => panic!("{header:?}"),
                }
            }
        }
    }

    /// A data frame was read.
    fn accept(&mut self, run: &Run) {
        let publication = self.publications.get_mut(&run.channel().0).expect("an open channel");
        assert!(
            publication.relay.as_ref().is_none_or(|relay| relay.intake.is_none()),
            "a data frame on a channel whose messages are in a ring"
        );
        publication.next = accepted(&mut self.accepted, publication, run);
    }

    fn handle(&mut self, control: Control) {
        match &control {
            Control::Hello(hello) => {
                let Control::Welcome(welcome) = welcome() else { unreachable!("a welcome") };
                assert!(hello.capabilities == 0 || self.has_rings);
                let (capabilities, sender) = (u64::from(self.has_rings), self.sender);
                return self.answer(Welcome {
                    capabilities,
                    sender,
                    payload_bytes_max: self.payload_bytes_max,
                    ..welcome
                });
            }
            Control::Open(open) => {
                let (name, next, id) = (open.channel.clone(), open.next_sequence, self.next_id);
                self.next_id += 1;
                self.publications.insert(id, Received { name: name.clone(), next, relay: None });
                return self.answer(Opened { channel: name, id, listeners: 1, extensions: Vec::new() });
            }
            Control::Prepare(_) => {
                return self.answer(Prepared::default());
            }
            Control::Prepared(_) => {
                assert_eq!(self.publisher_prepared.replace(true), Some(false), "an answer");
                return std::mem::take(&mut self.pending).into_iter().for_each(|id| self.answer_offer(id));
            }
            Control::OfferRing(offer) => {
                assert!(self.is_prepared, "a descriptor that is not read");
                let memory = self.attached.take().expect("its descriptor");
                assert_eq!(offer.bytes, (memory.len() * 8) as u64);
                let publication = self.publications.get_mut(&offer.id).expect("an open channel");
                assert!(publication.relay.is_none(), "one ring at a time");
                publication.relay = Some(Relay { memory, intake: None, reader: Reader::new() });
                if self.takes != Takes::Later {
                    self.answer_offer(offer.id);
                }
            }
            Control::BeginRing(begin) => {
                let publication = self.publications.get_mut(&begin.id).expect("an open channel");
                let relay = publication.relay.as_mut().expect("a ring that was accepted");
                assert_eq!(begin.sequence, publication.next, "behind all data frames, and in front of all records");
                let sender = SenderId::from_raw(77);
                let intake = Intake::open(Arc::clone(&relay.memory), Start::Oldest, ChannelId(begin.id), sender);
                let intake = relay.intake.insert(intake.expect("a ring"));
                assert_eq!(intake.cursor(), Cursor { position: 0, sequence: begin.sequence });
                assert_eq!(intake.newest().expect("a ring").position, 0, "the first record comes later");
            }
            Control::EndRing(end) => {
                self.relay_from(end.id, Some(end.sequence));
                let publication = self.publications.get_mut(&end.id).expect("an open channel");
                let relay = publication.relay.take().expect("a ring that has begun");
                let newest = relay.intake.expect("a ring that has begun").newest().expect("a ring");
                assert_eq!((publication.next, newest.sequence), (end.sequence, end.sequence));
                let mut behind = broadcaster_ring::Reader::open(relay.memory, Start::Newest).expect("a ring");
                assert_eq!(behind.poll(&mut BytesMut::new(), 1, |_| []), Ok(broadcaster_ring::Poll::Closed));
            }
            Control::Confirm(confirm) => {
                self.relay_from(confirm.id, None);
                let next_sequence = self.publications[&confirm.id].next;
                let (listeners, took, lagging, worst) = (1, 1, 0, Vec::new());
                let (number, extensions) = (confirm.number, Vec::new());
                self.answer(Receipt { number, next_sequence, listeners, took, lagging, worst, extensions });
            }
            Control::Inspect(_) => {
                self.relay();
                self.answer(Report::default());
            }
            Control::CountListeners(count) => {
                self.relay();
                let listeners = u32::try_from(self.accepted.len()).expect("few");
                self.answer(Listeners { number: count.number, listeners, extensions: Vec::new() });
            }
            Control::OpenInbox(_) => return self.answer(InboxOpened { id: INBOX.0, extensions: Vec::new() }),
            Control::LinkAdded(_) | Control::Unlink(_) => {}
            other => panic!("{other:?}"),
        }
        self.controls.push(control);
    }

    fn answer_offer(&mut self, id: u32) {
        let publication = self.publications.get_mut(&id).expect("an open channel");
        if self.takes == Takes::None {
            publication.relay = None;
            return self.answer(Declined::new(kind::OFFER_RING, id, RefusedCode::Memory, "no listener can use it"));
        }
        if self.publisher_prepared != Some(true) {
            self.pending.push(id);
            if self.publisher_prepared.is_none() {
                self.publisher_prepared = Some(false);
                self.answer(Prepare::default());
            }
            return;
        }
        let bell = publication.relay.as_ref().expect("it was offered").reader.bell();
        self.answers.push_back((RingAccepted { id, extensions: Vec::new() }.into(), Some(bell)));
    }

    /// Reads all rings.
    fn relay(&mut self) {
        let ids: Vec<u32> = self.publications.keys().copied().collect();
        ids.into_iter().for_each(|id| self.relay_from(id, None));
    }

    fn relay_from(&mut self, id: u32, end: Option<u64>) {
        let publication = self.publications.get_mut(&id).expect("an open channel");
        while let Some(relay) = &mut publication.relay
            && let Some(intake) = &mut relay.intake
        {
            let taken = intake.take(end, 1000).expect("a ring");
            assert_eq!(taken.lost, 0, "tests send less than a ring");
            let Some(run) = taken.run else { return };
            let mut frames = run.clone();
            while let Some(frame) = frames.front() {
                self.addresses.extend(frame.metadata.reply_address().map(|address| address.number));
                frames.skip_front();
            }
            let before = self.accepted.len();
            publication.next = accepted(&mut self.accepted, publication, &run);
            self.relayed += self.accepted.len() - before;
        }
    }

    /// What was written requires that the sender looks at its connection.
    fn call(&mut self, id: u32) {
        self.publications.get_mut(&id).and_then(|own| own.relay.as_mut()).expect("a ring").reader.page.call();
    }

    /// A listener is introduced. It sleeps.
    fn link(&mut self, id: u32, link: u32) -> Reader {
        let mut reader = Reader::new();
        assert!(reader.page.arm(|| false));
        let bell = reader.bell();
        self.answers.push_back((AddLink { id, link, extensions: Vec::new() }.into(), Some(bell)));
        self.call(id);
        reader
    }

    fn recall(&mut self, id: u32) {
        self.answer(Recall { id, extensions: Vec::new() });
        self.call(id);
    }

    /// The daemon is gone, with what it had not read.
    fn break_off(&mut self) {
        self.connected = false;
        self.answers.clear();
        self.bells.clear();
        self.publications.clear();
        (self.is_prepared, self.publisher_prepared, self.attached) = (false, None, None);
        self.pending.clear();
        (self.decoder, self.chunk) = (Decoder::consumer(1 << 20), BytesMut::new());
    }

    /// The sequence numbers of the messages of a channel that were accepted.
    fn sequences(&self, name: &str) -> Vec<u64> {
        self.accepted.iter().filter(|(channel, ..)| channel == name).map(|&(_, sequence, _)| sequence).collect()
    }

    fn kinds(&self) -> Vec<u8> {
        self.controls.iter().map(Control::kind).collect()
    }
}

/// Accepts a run. Returns the sequence number that is due.
fn accepted(messages: &mut Vec<(String, u64, Vec<u8>)>, publication: &Received, run: &Run) -> u64 {
    let mut next = publication.next;
    for (sequence, payload) in run.iter() {
        assert_eq!(sequence, next, "no gap and no repetition");
        next += 1;
        messages.push((publication.name.clone(), sequence, payload.to_vec()));
    }
    next
}

impl Link for Bus {
    type Wait = Due;
    type Error = Ended;

    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Due>, Ended> {
        while !machine.is_ready() {
            if std::mem::take(&mut self.fails) {
                return Err(Ended::Goodbye);
            }
            if !self.serves {
                return Ok(Step::Wait(Due::Daemon));
            }
            if !self.connected {
                self.connected = true;
                let wants_rings = machine.wants_rings() && self.has_rings;
                machine.session_mut().announce_rings(wants_rings);
                machine.connected();
            }
            while let bytes @ [_, ..] = machine.outgoing() {
                let bytes = bytes.to_vec();
                self.take(&bytes);
                machine.sent(bytes.len());
            }
            if let Transfer::Wait(wait) = self.read_answer(machine) {
                return Ok(Step::Wait(wait));
            }
            machine.received()?;
        }
        Ok(Step::Done(Carrier::Stream))
    }

    fn read(&mut self, _: &mut Subscriber, _: bool) -> Result<Step<(), Due>, Ended> {
        unreachable!("a publisher does not subscribe")
    }

    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Due> {
        self.reads += 1;
        if !self.connected {
            return Transfer::Broken;
        }
        if self.answers_calls > 0 && self.calls() > self.calls_answered {
            self.calls_answered = self.calls();
            self.answer(Credit { id: ID, bytes: self.answers_calls, extensions: Vec::new() });
        }
        let mut bytes = Vec::new();
        // At most one frame with descriptors, at the beginning.
        while let Some((answer, bell)) = self.answers.pop_front_if(|(_, bell)| bytes.is_empty() || bell.is_none()) {
            if answer.descriptors() > 0 {
                self.bells.push_back(bell);
            }
            self.is_prepared |= matches!(answer, Control::Prepared(_));
            answer.encode(&mut bytes).expect("encoded");
        }
        if let Some(number) = self.replies_to {
            self.relay();
            if self.addresses.contains(&number) {
                self.replies_to = None;
                bytes.extend(Header::reply(INBOX, SenderId::new(8, 1), number, 6).as_bytes());
                bytes.extend(b"answer");
            }
        }
        if bytes.is_empty() {
            return Transfer::Wait(Due::Answer);
        }
        feed_bytes(machine, &bytes);
        Transfer::Bytes(bytes.len())
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Due> {
        if !self.connected {
            return Transfer::Broken;
        }
        let bytes = [head, body].concat();
        let taken = bytes.len().min(self.room);
        if taken == 0 {
            return Transfer::Wait(Due::Room);
        }
        self.room -= taken;
        self.take(&bytes[..taken]);
        Transfer::Bytes(taken)
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), Ended> {
        if loss == Loss::Ended(Ended::Goodbye) {
            machine.accepted();
        }
        if loss == Loss::Closed {
            machine.abandoned();
        }
        machine.disconnected();
        self.break_off();
        match loss {
            Loss::Ended(ended @ Ended::Refused(_)) => Err(ended),
            Loss::Ended(_) | Loss::Write | Loss::Closed => Ok(()),
        }
    }

    fn time(&self) -> Option<Instant> {
        self.time
    }

    fn make_ring(&mut self) -> Option<Box<dyn RingOutput>> {
        if !self.has_memory {
            return None;
        }
        assert!(self.attached.is_none(), "one descriptor waits for its frame");
        self.rings_made += 1;
        let memory = memory(HEADER_WORDS + CAPACITY_WORDS);
        self.attached = Some(Arc::clone(&memory));
        Some(Box::new(SimulatedRing { memory, writer: None }))
    }

    fn take_bell(&mut self) -> Option<Box<dyn Bell>> {
        self.bells.pop_front().expect("a frame with a bell")
    }

    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<Due> {
        assert!(self.attached.is_some(), "a frame with a descriptor");
        self.write(frame, &[])
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).expect("a name")
}

fn publisher(rings: Rings) -> Publisher {
    Publisher::new(name("news"), "test", 7, 1).with_rings(rings)
}

type Sent = Result<Step<(), Due>, Failure>;

const DONE: Sent = Ok(Step::Done(()));

fn payload(sequence: u64) -> Vec<u8> {
    format!("message {sequence}").into_bytes()
}

fn send_on(publisher: &mut Publisher, bus: &mut Bus, place: Place) -> Sent {
    let payload = payload(publisher.next(place));
    PendingSend::new(publisher, bus, place, &[], &payload).poll()
}

fn send(publisher: &mut Publisher, bus: &mut Bus) -> Sent {
    send_on(publisher, bus, OWN)
}

fn flushed(publisher: &mut Publisher, bus: &mut Bus) -> Sent {
    flush(publisher, bus)
}

fn send_all(publisher: &mut Publisher, bus: &mut Bus, count: usize) {
    (0..count).for_each(|_| assert_eq!(send(publisher, bus), DONE));
}

/// Sends until so many channels have a ring. Returns how many messages that took.
fn until_rings(publisher: &mut Publisher, bus: &mut Bus, rings: usize) -> u64 {
    let before = publisher.committed();
    while publisher.rings() != rings {
        assert_eq!(send(publisher, bus), DONE);
        bus.relay();
        assert!(publisher.committed() - before < 2000, "nothing changes");
    }
    publisher.committed() - before
}

/// Sends until the daemon has read an offer.
fn until_offered(publisher: &mut Publisher, bus: &mut Bus) {
    while !bus.kinds().contains(&kind::OFFER_RING) {
        assert_eq!(send(publisher, bus), DONE);
        assert!(publisher.committed() < 100, "no offer");
    }
}

/// A publisher whose messages are in a ring.
fn active() -> (Publisher, Bus) {
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    until_rings(&mut publisher, &mut bus, 1);
    bus.relay();
    (publisher, bus)
}

/// Everything up to `count` was accepted, in order, with its payload.
fn check(publisher: &Publisher, bus: &mut Bus, count: u64) {
    bus.relay();
    assert_eq!(publisher.committed(), count);
    let expected: Vec<_> = (0..count).map(|sequence| ("news".to_owned(), sequence, payload(sequence))).collect();
    assert_eq!(bus.accepted, expected);
}

#[test]
fn messages_move_to_a_ring_after_any_number_and_back() {
    for k in 0..=20 {
        for back in 0..=60 {
            let (mut publisher, mut bus) = (publisher(Rings::After(k)), Bus::new());
            for sequence in 0..80 {
                if sequence == back && publisher.rings() == 1 {
                    bus.recall(3);
                }
                assert_eq!(send(&mut publisher, &mut bus), DONE, "{k}, {back}, {sequence}");
            }
            check(&publisher, &mut bus, 80);
            // Both sides are asked to read descriptors, and there is an offer: three answers.
            let begins = u64::from(k) + 3 * u64::from(ANSWER_MESSAGES);
            let in_ring = if back > begins { back - begins } else { 80 - begins };
            assert_eq!(bus.relayed as u64, in_ring, "{k}, {back}");
            let kinds = [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING];
            assert_eq!(bus.kinds(), kinds[..if back > begins { 3 } else { 2 }]);
        }
    }
}

#[test]
fn an_answer_may_come_after_any_number_of_messages() {
    for accepts in [true, false] {
        for k in 0..=20 {
            let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
            bus.takes = Takes::Later;
            until_offered(&mut publisher, &mut bus);
            for sequence in 0..60 {
                if sequence == k {
                    bus.takes = if accepts { Takes::All } else { Takes::None };
                    bus.answer_offer(3);
                }
                assert_eq!(send(&mut publisher, &mut bus), DONE);
            }
            let count = publisher.committed();
            check(&publisher, &mut bus, count);
            let kinds = [kind::OFFER_RING, kind::BEGIN_RING];
            assert_eq!(bus.kinds(), kinds[..if accepts { 2 } else { 1 }], "{accepts}, {k}");
            assert_eq!((publisher.rings() == 1, bus.relayed > 0), (accepts, accepts));
        }
    }
}

/// Sends a message over a connection that takes so many bytes at a time.
fn send_in_parts(publisher: &mut Publisher, bus: &mut Bus, room: usize, leaves: bool) {
    let payload = payload(publisher.committed());
    let mut sending = Sending::new(OWN, &[], &payload);
    loop {
        bus.room = room;
        match sending.poll::<_, Failure>(publisher, bus).expect("sent") {
            Step::Done(()) => return,
            Step::Wait(due) => assert_eq!(due, Due::Room),
        }
        if leaves {
            sending.leave(publisher);
        }
    }
}

#[test]
fn frames_about_rings_may_be_written_in_any_parts() {
    for room in 1..=80 {
        for leaves in [false, true] {
            let (mut publisher, mut bus) = (publisher(Rings::After(3)), Bus::new());
            assert_eq!(bus.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
            for sequence in 0..100 {
                if sequence == 50 {
                    bus.recall(3);
                }
                send_in_parts(&mut publisher, &mut bus, room, leaves);
            }
            check(&publisher, &mut bus, 100);
            assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING], "{room}");
            assert!(bus.relayed >= 10, "{room}: {}", bus.relayed);
        }
    }
}

#[test]
fn an_offer_waits_for_room_alone_and_keeps_no_message_waiting() {
    let (mut publisher, mut bus) = (publisher(Rings::After(1)), Bus::new());
    // The daemon reads descriptors from now on.
    until_rings(&mut publisher, &mut bus, 1);
    let others = ["one", "two"].map(|channel| publisher.place(&name(channel)).expect("room"));
    for place in others {
        assert_eq!(send_on(&mut publisher, &mut bus, place), DONE);
    }
    bus.controls.clear();
    for _ in 1..=20 {
        for place in others {
            // It is written completely, and leaves no room.
            let message = payload(publisher.next(place));
            let mut sending = Sending::new(place, &[], &message);
            for (room, sent) in [(0, Ok(Step::Wait(Due::Room))), (HEADER_BYTES + message.len(), DONE)] {
                bus.room = room;
                assert_eq!(sending.poll(&mut publisher, &mut bus), sent);
            }
        }
    }
    assert_eq!((bus.rings_made, bus.kinds().len()), (2, 0), "one is made, and offered when there is room");
    bus.room = usize::MAX;
    for _ in 0..100 {
        for place in others {
            assert_eq!(send_on(&mut publisher, &mut bus, place), DONE);
        }
    }
    bus.relay();
    assert_eq!((bus.rings_made, publisher.rings()), (3, 3));
    for channel in ["one", "two"] {
        assert_eq!(bus.sequences(channel), (0..121).collect::<Vec<_>>());
    }
}

/// The next daemon has taken all messages from the first that is in no doubt, and nothing else.
fn check_after_loss(
    publisher: &mut Publisher,
    bus: &mut Bus,
    before: usize,
    doubtful: impl FnOnce(u64) -> u64,
    context: &str,
) {
    let count = publisher.committed();
    bus.relay();
    let sequences = bus.sequences("news");
    let first = count - (sequences.len() - before) as u64;
    assert_eq!(sequences[before..], (first..count).collect::<Vec<_>>(), "{context}");
    assert!(sequences[..before].iter().all(|&sequence| sequence < first), "{context}: accepted twice");
    assert_eq!(publisher.take_doubt(), doubtful(first), "{context}");
}

#[test]
fn what_a_lost_connection_took_is_in_doubt_and_everything_else_is_sent() {
    for takes in [Takes::All, Takes::None, Takes::Later] {
        for lost_at in 0..=40 {
            for room in [usize::MAX, 0, 1, 10, HEADER_BYTES + 10, 100] {
                let context = format!("{takes:?}, {lost_at}, {room}");
                let (mut publisher, mut bus) = (publisher(Rings::After(5)), Bus::new());
                bus.takes = takes;
                for _ in 0..lost_at {
                    assert_eq!(send(&mut publisher, &mut bus), DONE);
                }
                // Perhaps one more is written in part.
                bus.room = room;
                let _: Sent = send(&mut publisher, &mut bus);
                let was_in_ring = publisher.rings() == 1;
                bus.relay();
                bus.break_off();
                let before = bus.accepted.len();
                (bus.room, bus.takes) = (usize::MAX, Takes::All);
                // A sender in a ring does not notice at once, unless it looks.
                if was_in_ring {
                    publisher.set_loss(Loss::Closed);
                }
                for _ in 0..50 {
                    assert_eq!(send(&mut publisher, &mut bus), DONE, "{context}");
                }
                check_after_loss(&mut publisher, &mut bus, before, |first| first, &context);
                assert_eq!(publisher.rings(), 1, "{context}: the next daemon is offered a ring as well");
            }
        }
    }
}

#[test]
fn messages_in_a_ring_are_in_doubt_once_their_daemon_is_gone() {
    let (mut publisher, mut bus) = active();
    assert_eq!(confirmed(&mut publisher, &mut bus), Ok(Step::Done(Confirmation::Accepted)));
    let count = publisher.committed();
    bus.break_off();
    // No system call would notice.
    send_all(&mut publisher, &mut bus, 100);
    assert_eq!((publisher.committed(), publisher.rings()), (count + 100, 1));
    assert_eq!(confirmed(&mut publisher, &mut bus), Ok(Step::Done(Confirmation::InDoubt(100))));
    assert_eq!(confirmed(&mut publisher, &mut bus), Ok(Step::Done(Confirmation::Accepted)));
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!(bus.sequences("news").last(), Some(&(count + 100)));
}

#[test]
fn a_sender_reads_its_connection_now_and_then() {
    let (mut publisher, mut bus) = active();
    bus.break_off();
    let reads = bus.reads;
    let sent = until_rings(&mut publisher, &mut bus, 0);
    assert!((1000..=1100).contains(&sent) && bus.reads - reads < 10, "{sent}, {} reads", bus.reads - reads);
    let reads = bus.reads;
    until_rings(&mut publisher, &mut bus, 1);
    for _ in 0..10 {
        send_all(&mut publisher, &mut bus, 100);
        bus.relay();
    }
    assert!(bus.reads - reads < 10, "{} reads for 1000 messages", bus.reads - reads);
}

fn confirmed(publisher: &mut Publisher, bus: &mut Bus) -> Result<Step<Confirmation, Due>, Failure> {
    let commits = publisher.commits();
    confirm(publisher, bus, commits)
}

// ---- messages that are fed ----

fn feed_all(publisher: &mut Publisher, count: usize) {
    for _ in 0..count {
        let payload = payload(publisher.committed());
        publisher.feed(&payload).expect("fed");
    }
}

#[test]
fn messages_are_fed_and_flushed_through_every_change() {
    for k in 0..=20 {
        for batch in 1..=7 {
            for back in [40, 60, 90] {
                let (mut publisher, mut bus) = (publisher(Rings::After(k)), Bus::new());
                while publisher.committed() < 120 {
                    feed_all(&mut publisher, batch);
                    if publisher.committed() >= back && publisher.rings() == 1 {
                        bus.recall(3);
                    }
                    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
                    assert_eq!(publisher.waiting_bytes(), publisher.outgoing().len(), "nothing waits aside");
                    // Every other batch has a message behind it that is sent.
                    if publisher.committed() % 2 == 0 {
                        feed_all(&mut publisher, 1);
                        assert_eq!(send(&mut publisher, &mut bus), DONE);
                    }
                }
                let count = publisher.committed();
                check(&publisher, &mut bus, count);
                assert!(bus.relayed > 0 || back < 90, "{k}, {batch}, {back}");
            }
        }
    }
}

#[test]
fn a_sender_that_only_feeds_gets_a_ring() {
    for batch in [1, 7, 30] {
        let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
        for _ in 0..150 / batch {
            feed_all(&mut publisher, batch);
            assert_eq!(flushed(&mut publisher, &mut bus), DONE);
        }
        assert_eq!(publisher.rings(), 1, "{batch}");
        feed_all(&mut publisher, 10);
        assert_eq!(flushed(&mut publisher, &mut bus), DONE);
        let count = publisher.committed();
        check(&publisher, &mut bus, count);
        assert!(bus.relayed >= 10);
    }
}

#[test]
fn what_is_fed_appears_when_it_is_flushed_and_wakes_once() {
    let (mut publisher, mut bus) = active();
    let mut listener = bus.link(3, 1);
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!(listener.times_rung(), 1, "it sleeps");
    bus.relay();
    let before = bus.accepted.len();
    assert!(listener.page.arm(|| false));
    let words = |bus: &Bus| {
        let relay = bus.publications.values().find_map(|publication| publication.relay.as_ref()).expect("a ring");
        relay.intake.as_ref().expect("it has begun").newest().expect("intact").position
    };
    let start = words(&bus);
    feed_all(&mut publisher, 100);
    bus.relay();
    assert_eq!((bus.accepted.len(), listener.times_rung()), (before, 1));
    assert!(publisher.waiting_bytes() > 1000);
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    assert_eq!(publisher.waiting_bytes(), 0);
    bus.relay();
    assert_eq!((bus.accepted.len(), listener.times_rung()), (before + 100, 2));
    let bytes: usize = bus.accepted[before..].iter().map(|(_, _, payload)| 4 + payload.len()).sum();
    assert_eq!(words(&bus) - start, 2 + bytes.div_ceil(8) as u64, "they are one batch");
}

#[test]
fn what_was_fed_and_not_flushed_outlasts_the_daemon() {
    for goodbye in [false, true] {
        let (mut publisher, mut bus) = active();
        let sent = publisher.committed();
        feed_all(&mut publisher, 10);
        if goodbye {
            bus.recall(3);
            bus.answer(Goodbye { reason: String::new(), extensions: Vec::new() });
        } else {
            bus.break_off();
            publisher.set_loss(Loss::Closed);
        }
        let before = bus.accepted.len();
        assert_eq!(flushed(&mut publisher, &mut bus), DONE);
        assert_eq!(publisher.committed(), sent + 10);
        // A daemon that stops has accepted what it took from the connection. How far it has read the ring is not known.
        check_after_loss(&mut publisher, &mut bus, before, |first| if goodbye { 1 } else { first }, "fed");
        assert_eq!(bus.accepted.len() - before, 10);
        assert_eq!(bus.relayed, 1, "the messages were written to the next daemon");
    }
}

#[test]
fn what_was_fed_is_published_at_the_end_of_a_publisher() {
    let (mut publisher, mut bus) = active();
    feed_all(&mut publisher, 10);
    publisher.publish();
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert!(publisher.is_written());
}

// ---- messages that cannot be in a ring ----

#[test]
fn a_message_that_is_too_large_for_the_ring_goes_by_the_connection() {
    let large = vec![7; CAPACITY_WORDS * 2];
    for fed in 0..3 {
        let (mut publisher, mut bus) = active();
        let begun = publisher.committed();
        feed_all(&mut publisher, fed);
        assert_eq!(PendingSend::new(&mut publisher, &mut bus, OWN, &[], &large).poll(), DONE);
        assert_eq!(publisher.rings(), 0);
        send_all(&mut publisher, &mut bus, 30);
        let count = publisher.committed();
        assert_eq!((count, bus.relayed), (begun + fed as u64 + 31, 1 + fed));
        assert_eq!(bus.sequences("news"), (0..count).collect::<Vec<_>>());
        assert_eq!(bus.accepted[usize::try_from(begun).expect("few") + fed].2, large);
        assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING]);
    }
}

#[test]
fn a_large_message_among_those_that_are_fed_ends_the_ring_in_its_place() {
    let large = vec![7; CAPACITY_WORDS * 2];
    for at in 0..=20 {
        let (mut publisher, mut bus) = active();
        let begun = publisher.committed();
        for fed in 0..=20 {
            if fed == at {
                publisher.feed(&large).expect("fed");
            } else {
                feed_all(&mut publisher, 1);
            }
        }
        assert_eq!(flushed(&mut publisher, &mut bus), DONE);
        assert_eq!(flushed(&mut publisher, &mut bus), DONE);
        bus.relay();
        assert_eq!(bus.sequences("news"), (0..begun + 21).collect::<Vec<_>>(), "{at}");
        assert_eq!((bus.relayed, publisher.rings()), (1 + at, 0));
        assert_eq!(publisher.waiting_bytes(), 0);
    }
}

#[test]
fn a_message_that_is_rejected_leaves_the_ring_alone() {
    let (mut publisher, mut bus) = active();
    let committed = publisher.committed();
    let sent: Sent = PendingSend::new(&mut publisher, &mut bus, OWN, &[], &vec![0; (1 << 20) + 1]).poll();
    assert!(matches!(sent, Err(Failure::Rejected(Rejected::TooLarge(_)))));
    let sent: Sent = PendingSend::new(&mut publisher, &mut bus, OWN, &vec![0; 40_000], &[]).poll();
    assert_eq!(sent, Err(Failure::Rejected(Rejected::MetadataTooLarge(40_000))));
    assert_eq!((publisher.rings(), publisher.committed()), (1, committed));
}

#[test]
fn a_message_to_retain_goes_by_the_connection() {
    let (mut publisher, mut bus) = active();
    let begun = publisher.committed();
    for payload in [&b"value"[..], b""] {
        let lifetime = crate::machine::Lifetime::default();
        let sent: Sent = Sending::retain(OWN, lifetime, &[], payload).poll(&mut publisher, &mut bus);
        assert_eq!(sent, DONE);
    }
    assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING]);
    assert_eq!((bus.sequences("news").len() as u64, bus.relayed), (begun + 2, 1));
    // Another ring is offered after a while.
    send_all(&mut publisher, &mut bus, 100);
    assert_eq!((publisher.rings(), bus.rings_made), (1, 2));
    assert_eq!(bus.kinds()[3..], [kind::OFFER_RING, kind::BEGIN_RING]);
}

// ---- whether and when a ring is offered ----

#[test]
fn publisher_with_a_history_never_offers_a_ring() {
    let retaining = publisher(Rings::After(0)).with_history(5);
    for mut publisher in [retaining, publisher(Rings::Never)] {
        let mut bus = Bus::new();
        assert!(!publisher.wants_rings());
        assert_eq!(bus.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
        send_all(&mut publisher, &mut bus, 2000);
        assert_eq!((bus.kinds(), bus.rings_made, publisher.rings()), (Vec::new(), 0, 0));
    }
}

// ---- backpressure ----

/// What a message of [`payload`] with a number of two digits uses up, alone in its frame.
const COST: u64 = HEADER_BYTES as u64 + 10 + CREDIT_MESSAGE_BYTES;

/// The id of the own channel.
const ID: u32 = 3;

impl Bus {
    /// Grants credit, as soon as the publisher reads.
    fn grant(&mut self, bytes: u64) {
        self.answer(Credit { id: ID, bytes, extensions: Vec::new() });
        if self.publications.get(&ID).is_some_and(|own| own.relay.is_some()) {
            self.call(ID);
        }
    }

    /// How often the publisher has called the daemon to its ring.
    fn calls(&self) -> usize {
        self.rung().calls.load(Ordering::Relaxed)
    }

    fn rung(&self) -> &Arc<Rung> {
        &self.publications[&ID].relay.as_ref().expect("a ring").reader.rung
    }
}

/// A publisher with backpressure and a ring, which has credit for so many messages.
fn paced(messages: u64) -> (Publisher, Bus) {
    let mut publisher = publisher(Rings::After(0)).with_backpressure(Duration::from_secs(5));
    let mut bus = Bus::new();
    assert_eq!(bus.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
    let granted = 40 * COST;
    bus.grant(granted);
    until_rings(&mut publisher, &mut bus, 1);
    while send(&mut publisher, &mut bus) == DONE {}
    let cost = |sequence| (HEADER_BYTES + payload(sequence).len()) as u64 + CREDIT_MESSAGE_BYTES;
    let used: u64 = (0..publisher.committed()).map(cost).sum();
    bus.grant(used - granted + messages * COST);
    look::<_, Failure>(&mut publisher, &mut bus).expect("connected");
    assert_eq!(publisher.lacks_credit(OWN), messages == 0);
    (publisher, bus)
}

#[test]
fn messages_in_a_ring_use_up_credit() {
    let (mut publisher, mut bus) = paced(10);
    let begun = publisher.committed();
    send_all(&mut publisher, &mut bus, 10);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    assert!(publisher.lacks_credit(OWN) && publisher.committed() == begun + 10);
    // More than nothing is enough for any message.
    bus.grant(1);
    assert_eq!(send(&mut publisher, &mut bus), DONE);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    bus.grant(COST - 1);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)), "the debt is paid");
    bus.grant(COST);
    assert_eq!(send(&mut publisher, &mut bus), DONE);
    check(&publisher, &mut bus, begun + 12);
    assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING], "the ring goes on");
}

#[test]
fn the_daemon_is_called_when_half_of_the_credit_is_used_up_and_when_it_all_is() {
    let (mut publisher, mut bus) = paced(0);
    bus.grant(20 * COST);
    let before = bus.calls();
    let mut calls = Vec::new();
    for _ in 0..20 {
        assert_eq!(send(&mut publisher, &mut bus), DONE);
        calls.push(bus.calls() - before);
    }
    assert_eq!(calls, [&[0; 9][..], &[1; 10], &[2]].concat());
    for _ in 0..5 {
        assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    }
    assert_eq!(bus.calls() - before, 2, "once is enough");
    bus.grant(2 * COST);
    send_all(&mut publisher, &mut bus, 2);
    assert_eq!(bus.calls() - before, 4, "and again after each grant");
}

#[test]
fn what_is_fed_waits_for_credit_and_goes_into_the_ring() {
    let (mut publisher, mut bus) = paced(1);
    let begun = publisher.committed();
    for _ in 0..500 {
        let payload = payload(publisher.next(OWN));
        publisher.feed(&payload).expect("fed");
    }
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)), "a batch has used up all credit");
    let mut grants = 0;
    while !publisher.is_flushed() {
        bus.grant(100 * COST);
        grants += 1;
        let flushed = flushed(&mut publisher, &mut bus);
        assert!(flushed == DONE || flushed == Ok(Step::Wait(Due::Answer)), "{flushed:?}");
        assert!(grants < 100, "it does not go on");
    }
    assert!(grants > 1, "{grants}");
    check(&publisher, &mut bus, begun + 500);
    assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING]);
}

#[test]
fn credit_that_arrives_while_messages_are_published_is_used() {
    let (mut publisher, mut bus) = paced(1);
    let begun = publisher.committed();
    for _ in 0..500 {
        let payload = payload(publisher.next(OWN));
        publisher.feed(&payload).expect("fed");
    }
    (bus.answers_calls, bus.calls_answered) = (1_000_000, bus.calls());
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    check(&publisher, &mut bus, begun + 500);
}

#[test]
fn what_lacks_credit_when_the_ring_begins_is_in_the_ring() {
    let mut publisher = publisher(Rings::After(0)).with_backpressure(Duration::from_secs(5));
    let mut bus = Bus::new();
    bus.takes = Takes::Later;
    assert_eq!(bus.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
    bus.grant(30 * COST);
    until_offered(&mut publisher, &mut bus);
    while send(&mut publisher, &mut bus) == DONE {}
    for _ in 0..100 {
        let payload = payload(publisher.next(OWN));
        publisher.feed(&payload).expect("fed");
    }
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    bus.takes = Takes::All;
    bus.answer_offer(ID);
    for _ in 0..20 {
        let _ = flushed(&mut publisher, &mut bus);
    }
    assert_eq!((publisher.rings(), bus.kinds()), (1, vec![kind::OFFER_RING, kind::BEGIN_RING]));
    bus.grant(1000 * COST);
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert_eq!(bus.relayed, 100);
}

#[test]
fn what_lacks_credit_when_the_ring_ends_waits_for_it_on_the_connection() {
    let (mut publisher, mut bus) = paced(1);
    let begun = publisher.committed();
    for _ in 0..500 {
        let payload = payload(publisher.next(OWN));
        publisher.feed(&payload).expect("fed");
    }
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    bus.recall(ID);
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING]);
    assert!(publisher.rings() == 0 && !publisher.is_flushed());
    bus.grant(1_000_000);
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    check(&publisher, &mut bus, begun + 500);
}

#[test]
fn without_credit_a_lost_connection_takes_the_ring_and_nothing_that_waits() {
    let (mut publisher, mut bus) = paced(5);
    send_all(&mut publisher, &mut bus, 5);
    for _ in 0..50 {
        let payload = payload(publisher.next(OWN));
        publisher.feed(&payload).expect("fed");
    }
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)));
    bus.relay();
    bus.break_off();
    assert_eq!(flushed(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)), "it has no credit there either");
    bus.answer(Credit { id: ID + 1, bytes: 1_000_000, extensions: Vec::new() });
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
}

#[test]
fn without_the_capability_nothing_is_offered() {
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    bus.has_rings = false;
    send_all(&mut publisher, &mut bus, 1000);
    assert_eq!((bus.kinds(), bus.rings_made), (Vec::new(), 0));
    bus.answer(Recall { id: 3, extensions: Vec::new() });
    assert!(matches!(confirmed(&mut publisher, &mut bus), Ok(Step::Done(Confirmation::InDoubt(1000)))));
}

#[test]
fn an_offer_that_is_declined_is_repeated_less_and_less_often() {
    for has_memory in [true, false] {
        let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
        (bus.takes, bus.has_memory) = (Takes::None, has_memory);
        let mut offers = Vec::new();
        let mut give_up = |publisher: &mut Publisher, bus: &mut Bus| {
            // What is seen of an attempt: an offer that was read, or the wait that begins.
            let patience = publisher.publications[0].upload.patience;
            assert_eq!(send(publisher, bus), DONE);
            if publisher.publications[0].upload.patience != patience {
                offers.push(publisher.committed() - 1);
            }
        };
        (0..10_000).for_each(|_| give_up(&mut publisher, &mut bus));
        // The daemon is asked once to read descriptors. Then it is 8 messages from the offer to the answer.
        let wait = if has_memory { 8 } else { 0 };
        let expected = [8 + wait, 72 + 2 * wait, 584 + 3 * wait, 4680 + 4 * wait];
        assert_eq!(offers, expected, "{has_memory}");
    }
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    send_all(&mut publisher, &mut bus, 1);
    (0..100).for_each(|_| publisher.publications[0].upload.give_up(Rings::After(0)));
    assert_eq!(publisher.publications[0].upload.due, 262_144);
}

/// How many messages a publisher sends before it offers a ring, if each takes so long.
fn offers_after(pause: Duration, count: u64) -> Option<u64> {
    let (mut publisher, mut bus) = (publisher(Rings::WhenBusy), Bus::new());
    let mut now = Instant::now();
    for _ in 0..count {
        bus.time = Some(now);
        assert_eq!(send(&mut publisher, &mut bus), DONE);
        if bus.rings_made > 0 {
            return Some(publisher.committed() - 1);
        }
        now += pause;
    }
    None
}

#[test]
fn busy_channel_is_offered_a_ring() {
    assert_eq!(offers_after(Duration::from_micros(1), 2000), Some(584), "64 begin the count, and 8 prepare the daemon");
    assert_eq!(offers_after(Duration::from_micros(480), 2000), Some(584), "512 in less than 250 ms");
    assert_eq!(offers_after(Duration::from_millis(4), 20_000), None);
    // Bursts of 400 messages.
    let (mut publisher, mut bus) = (publisher(Rings::WhenBusy), Bus::new());
    let mut now = Instant::now();
    for _ in 0..20 {
        bus.time = Some(now);
        send_all(&mut publisher, &mut bus, 400);
        now += Duration::from_secs(1);
    }
    assert_eq!(bus.rings_made, 0);
}

#[test]
fn time_is_not_read_for_each_message() {
    let (mut publisher, mut bus) = (publisher(Rings::WhenBusy), Bus::new());
    assert_eq!(bus.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
    let (mut steps, mut now) = (0, Instant::now());
    for _ in 0..1000 {
        bus.time = Some(now);
        now += Duration::from_millis(10);
        steps += usize::from(publisher.is_step_due(OWN));
        send_all(&mut publisher, &mut bus, 1);
    }
    assert_eq!(steps, 1000 / 64);
}

#[test]
fn so_many_channels_have_rings_and_the_others_do_without() {
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    let places: Vec<Place> = (0..6).map(|n| publisher.place(&name(&format!("channel.{n}"))).expect("room")).collect();
    for _ in 0..100 {
        for &place in &places {
            // The first message on a channel opens it.
            assert_eq!(send_on(&mut publisher, &mut bus, place), DONE);
        }
    }
    bus.relay();
    assert_eq!((publisher.rings(), bus.rings_made), (RINGS_MAX, RINGS_MAX));
    for n in 0..6 {
        assert_eq!(bus.sequences(&format!("channel.{n}")), (0..100).collect::<Vec<_>>());
    }
    // A ring that ends makes room for another one.
    bus.recall(4);
    for _ in 0..200 {
        for &place in &places {
            assert_eq!(send_on(&mut publisher, &mut bus, place), DONE);
        }
        bus.relay();
    }
    assert_eq!((publisher.rings(), bus.rings_made), (RINGS_MAX, RINGS_MAX + 1));
    assert_eq!(bus.accepted.len(), 6 * 300);
}

// ---- the readers of a ring ----

#[test]
fn listeners_are_woken_from_the_answer_on_and_only_while_they_sleep() {
    let (mut publisher, mut bus) = active();
    bus.controls.clear();
    let mut listeners = [bus.link(3, 10), bus.link(3, 11)];
    assert_eq!(send(&mut publisher, &mut bus), DONE);
    let added: Vec<_> = bus.controls.iter().map(|control| format!("{control:?}")).collect();
    assert!(
        matches!(&bus.controls[..], [Control::LinkAdded(one), Control::LinkAdded(other)] if (one.link, other.link) == (10, 11)),
        "{added:?}"
    );
    for listener in &mut listeners {
        assert_eq!(listener.times_rung(), 1, "the message that is behind the answer wakes it");
    }
    send_all(&mut publisher, &mut bus, 10);
    assert!(listeners.iter().all(|listener| listener.times_rung() == 1), "once for each sleep");
    listeners[1].page.disarm();
    assert!(listeners[0].page.arm(|| false));
    send_all(&mut publisher, &mut bus, 10);
    assert_eq!(listeners.each_ref().map(Reader::times_rung), [2, 1]);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
}

#[test]
fn a_link_that_ends_is_dropped_on_either_side() {
    let (mut publisher, mut bus) = active();
    let listeners = [bus.link(3, 10), bus.link(3, 11), bus.link(3, 12)];
    let held = || listeners.each_ref().map(|listener| listener.rung.is_held.load(Ordering::Relaxed));
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!(held(), [true; 3]);
    bus.answer(Unlink { link: 11, extensions: Vec::new() });
    bus.answer(Unlink { link: 99, extensions: Vec::new() });
    bus.call(3);
    bus.controls.clear();
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!((held(), bus.controls.len()), ([true, false, true], 0), "the daemon knows");
    listeners[0].rung.is_broken.store(true, Ordering::Relaxed);
    send_all(&mut publisher, &mut bus, 2);
    assert_eq!(held(), [false, false, true]);
    assert!(matches!(&bus.controls[..], [Control::Unlink(unlink)] if unlink.link == 10), "{:?}", bus.controls);
    bus.recall(3);
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!(held(), [false; 3], "the ring has ended");
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
}

#[test]
fn page_that_cannot_be_used_is_not_linked() {
    let (mut publisher, mut bus) = active();
    bus.controls.clear();
    bus.answers.push_back((AddLink { id: 3, link: 5, extensions: Vec::new() }.into(), None));
    bus.call(3);
    send_all(&mut publisher, &mut bus, 1);
    assert!(matches!(&bus.controls[..], [Control::Unlink(unlink)] if unlink.link == 5));
    let links: u32 = 70;
    let _listeners: Vec<_> = (100..100 + links).map(|link| bus.link(3, link)).collect();
    bus.controls.clear();
    send_all(&mut publisher, &mut bus, 1);
    let added = bus.kinds().iter().filter(|&&kind| kind == kind::LINK_ADDED).count();
    assert_eq!((added, bus.controls.len()), (LINKS_MAX, links as usize));
}

#[test]
fn a_daemon_that_cannot_be_woken_gets_no_ring() {
    // Its page is of no use.
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    bus.takes = Takes::Later;
    until_offered(&mut publisher, &mut bus);
    bus.answers.push_back((RingAccepted { id: 3, extensions: Vec::new() }.into(), None));
    send_all(&mut publisher, &mut bus, 20);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert_eq!(bus.kinds(), [kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING]);
    // Its doorbell is of no use any more.
    let (mut publisher, mut bus) = active();
    let relay = bus.publications[&3].relay.as_ref().expect("a ring");
    relay.reader.rung.is_broken.store(true, Ordering::Relaxed);
    send_all(&mut publisher, &mut bus, 20);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert_eq!((bus.kinds().last(), bus.relayed), (Some(&kind::END_RING), 2));
}

#[test]
fn a_link_and_a_recall_may_cross_the_end_of_a_ring() {
    let (mut publisher, mut bus) = active();
    bus.controls.clear();
    bus.recall(3);
    let listener = bus.link(3, 5);
    bus.answer(Recall { id: 3, extensions: Vec::new() });
    send_all(&mut publisher, &mut bus, 1);
    assert_eq!(bus.kinds(), [kind::END_RING], "the daemon has forgotten the link");
    assert!(!listener.rung.is_held.load(Ordering::Relaxed));
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert!(bus.bells.is_empty());
}

#[test]
fn a_ring_may_be_recalled_in_the_same_breath() {
    let (mut publisher, mut bus) = (publisher(Rings::After(0)), Bus::new());
    until_offered(&mut publisher, &mut bus);
    while !bus.answers.iter().any(|(answer, _)| matches!(answer, Control::RingAccepted(_))) {
        send_all(&mut publisher, &mut bus, 1);
        assert!(publisher.committed() < 100, "it is not accepted");
    }
    bus.answer(Recall { id: 3, extensions: Vec::new() });
    send_all(&mut publisher, &mut bus, 20);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    assert_eq!((bus.kinds(), bus.relayed), (vec![kind::OFFER_RING, kind::BEGIN_RING, kind::END_RING], 0));
}

#[test]
fn what_was_not_requested_ends_the_connection() {
    let unexpected: [fn() -> Control; 6] = [
        || Prepared::default().into(),
        || RingAccepted { id: 3, extensions: Vec::new() }.into(),
        || Declined::new(kind::OFFER_RING, 3, RefusedCode::Memory, "").into(),
        || Recall { id: 4, extensions: Vec::new() }.into(),
        || AddLink { id: 4, link: 1, extensions: Vec::new() }.into(),
        || RingAccepted { id: 4, extensions: Vec::new() }.into(),
    ];
    for control in unexpected {
        let (mut publisher, mut bus) = active();
        bus.answers.push_back((control(), None));
        let count = publisher.committed();
        assert_eq!(
            confirmed(&mut publisher, &mut bus),
            Ok(Step::Done(Confirmation::InDoubt(count))),
            "{:?}",
            control()
        );
    }
}

// ---- questions ----

#[test]
fn questions_follow_what_was_published() {
    let (mut publisher, mut bus) = active();
    let begun = publisher.committed();
    feed_all(&mut publisher, 3);
    let ticket = publisher.count_listeners(0);
    // The daemon answers with the number of messages that it has accepted.
    let counted = || u32::try_from(begun + 3).expect("few");
    assert_eq!(count::<_, Failure>(&mut publisher, &mut bus, ticket), Ok(Step::Done(Counted::Listeners(counted()))));

    feed_all(&mut publisher, 3);
    let fed = publisher.committed();
    let payload = payload(fed);
    let mut confirming = Confirming::new(OWN, &[], &payload);
    let receipt = confirming.poll::<_, Failure>(&mut publisher, &mut bus);
    assert!(
        matches!(&receipt, Ok(Step::Done(Receipted::Receipt(receipt))) if receipt.next_sequence == fed + 1),
        "{receipt:?}"
    );
    assert!(publisher.is_settled(), "the receipt confirms what was sent before");

    feed_all(&mut publisher, 3);
    assert_eq!(confirmed(&mut publisher, &mut bus), Ok(Step::Done(Confirmation::Accepted)));
    assert_eq!(bus.accepted.len() as u64, fed + 4);
    assert_eq!(publisher.rings(), 1, "none of them ends the ring");
}

#[test]
fn a_request_is_a_message_in_the_ring() {
    let (mut publisher, mut bus) = active();
    let relayed = bus.relayed;
    for number in 0..3 {
        publisher.begin_request(number);
        let mut requesting = Requesting::new(OWN, number, b"", b"a question");
        let step = requesting.poll::<_, Failure>(&mut publisher, &mut bus);
        assert_eq!(step, Ok(Step::Done(Requested::Taken(1))));
        publisher.forget_request(number);
    }
    assert_eq!((bus.relayed - relayed, publisher.rings()), (3, 1));
    let opened = bus.kinds().iter().filter(|&&kind| kind == kind::OPEN_INBOX).count();
    assert_eq!(opened, 0, "handled by the daemon, once");
    assert!(bus.accepted.iter().rev().take(3).all(|(_, _, payload)| payload == b"a question"));
    assert_eq!(bus.addresses, [0, 1, 2], "each states where its replies go");
}

#[test]
fn reply_is_taken_though_it_is_there_before_the_request_returns() {
    let (mut publisher, mut bus) = active();
    publisher.begin_request(1);
    let mut requesting = Requesting::new(OWN, 1, b"", b"opens the inbox");
    assert!(matches!(requesting.poll::<_, Failure>(&mut publisher, &mut bus), Ok(Step::Done(Requested::Taken(_)))));
    publisher.begin_request(77);
    bus.replies_to = Some(77);
    // The sender looks at its connection as soon as the message is in the ring.
    publisher.publications[0].upload.active().expect("a ring").unread = UNREAD_MAX - 1;
    let mut requesting = Requesting::new(OWN, 77, b"", b"a question");
    let step = requesting.poll_first::<_, Failure>(&mut publisher, &mut bus);
    assert!(matches!(&step, Ok(Step::Done(First::Reply(_)))), "{step:?}");
    assert_eq!(publisher.late_replies(), 0);
}

// ---- the end of a connection ----

fn goodbye() -> Control {
    Goodbye { reason: String::new(), extensions: Vec::new() }.into()
}

#[test]
fn a_daemon_that_has_read_the_end_of_a_ring_has_accepted_all_of_it() {
    let (mut publisher, mut bus) = active();
    send_all(&mut publisher, &mut bus, 10);
    bus.recall(3);
    send_all(&mut publisher, &mut bus, 10);
    let count = publisher.committed();
    check(&publisher, &mut bus, count);
    bus.answer(goodbye());
    assert_eq!(read_all(&mut publisher, &mut bus), Ok(()));
    assert!(!publisher.is_ready());
    assert_eq!(publisher.take_doubt(), 0);
    // The same daemon stops before it is read that the ring is over.
    let (mut publisher, mut bus) = active();
    let first = publisher.committed() - 1;
    send_all(&mut publisher, &mut bus, 10);
    bus.recall(3);
    bus.answer(goodbye());
    bus.room = 0;
    assert_eq!(read_all(&mut publisher, &mut bus), Ok(()));
    assert_eq!(publisher.take_doubt(), 11, "those in the ring; {first} were accepted");
}

#[test]
fn a_daemon_that_stops_states_how_much_of_a_ring_it_has_accepted() {
    for is_recalled in [false, true] {
        for accepted in [0, 4, 11] {
            let (mut publisher, mut bus) = active();
            send_all(&mut publisher, &mut bus, 10);
            let relay = bus.publications.get_mut(&ID).and_then(|own| own.relay.as_mut()).expect("a ring");
            relay.reader.page.finish(0, accepted);
            if is_recalled {
                bus.recall(ID);
            }
            bus.answer(goodbye());
            bus.room = 0;
            assert_eq!(read_all(&mut publisher, &mut bus), Ok(()));
            assert_eq!(publisher.take_doubt(), 11 - accepted, "{is_recalled}");
        }
    }
}

fn read_all(publisher: &mut Publisher, bus: &mut Bus) -> Result<(), Failure> {
    look(publisher, bus)
}

#[test]
fn why_a_connection_has_ended_is_reported_by_the_next_call() {
    let (mut publisher, mut bus) = active();
    send_all(&mut publisher, &mut bus, 1);
    let refused = broadcaster_protocol::control::Refused::new(RefusedCode::Memory, "no memory");
    bus.answer(refused);
    // The call comes between the look before the message and that after it.
    publisher.publications[0].upload.active().expect("a ring").unread = UNREAD_MAX - 1;
    let count = publisher.committed();
    assert_eq!(send(&mut publisher, &mut bus), DONE, "the message was published");
    assert_eq!(publisher.committed(), count + 1);
    bus.relay();
    assert_eq!(bus.sequences("news"), (0..=count).collect::<Vec<_>>());
    assert_eq!(send(&mut publisher, &mut bus), Err(Failure::Refused), "this one was not");
    assert_eq!(publisher.committed(), count + 1);
    assert_eq!(publisher.take_doubt(), count + 1);
    assert_eq!(send(&mut publisher, &mut bus), DONE);
}

#[test]
fn a_sender_without_a_daemon_waits_for_the_next_one() {
    let (mut publisher, mut bus) = active();
    feed_all(&mut publisher, 5);
    (bus.serves, bus.connected) = (false, false);
    publisher.set_loss(Loss::Closed);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    let waiting: Vec<u64> = publisher.take_waiting().into_iter().map(|(_, sequence, _)| sequence).collect();
    let next = publisher.committed();
    assert_eq!(waiting, (next - 5..next).collect::<Vec<_>>(), "what was fed is not lost");
}
