//! The outbox against its [`model`](super::model), and bounds of its work and memory.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::losses::Count;
use super::model::{Frame, Model, Run as ModelRun};
use super::{Delivered, ENTRY_BYTES, IDLE_SLOTS, Losses, Outbox, Pushed, Room, Span, Terms};
use crate::memory::Ledger;
use broadcaster_protocol::control::{Control, Overflow, kind};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId};
use bytes::{BufMut, BytesMut};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const SENDER: SenderId = SenderId::new(1, 1);

/// A kind of control frame that receivers skip.
const MARKER: u8 = 0xf0;

const ROOMY: Room = Room { bytes: usize::MAX, messages: u64::MAX };

const POLICIES: [Overflow; 3] = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];

fn terms(overflow: Overflow) -> Terms {
    Terms { overflow, observer: false, replay: 0 }
}

fn single(channel: u32, sequence: u64, payload: usize) -> Vec<u8> {
    let header = Header::publish(ChannelId(channel), SENDER, sequence, payload as u32);
    [header.as_bytes(), &vec![7; payload]].concat()
}

fn batch(channel: u32, sequence: u64, messages: u64, payload: usize) -> Vec<u8> {
    let record = [&(payload as u32).to_le_bytes()[..], &vec![7; payload]].concat();
    let body = record.repeat(messages as usize);
    [Header::batch(ChannelId(channel), SENDER, sequence, body.len() as u32).as_bytes(), &body].concat()
}

fn decode(wire: &[u8]) -> Run {
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    decoder.target(&mut chunk).put_slice(wire);
    match decoder.next(&mut chunk).unwrap() {
        Some(Item::Run(run)) if run.bytes().len() == wire.len() => run,
        other => panic!("not one run: {other:?}"),
    }
}

fn lagged(frame: &[u8]) -> (u32, u64) {
    let (mut decoder, mut chunk) = (Decoder::consumer(PAYLOAD_BYTES_MAX), BytesMut::new());
    decoder.target(&mut chunk).put_slice(frame);
    match decoder.next(&mut chunk).unwrap() {
        Some(Item::Control(Control::Lagged(lagged))) => (lagged.id, lagged.count),
        other => panic!("not a Lagged: {other:?}"),
    }
}

/// An outbox on its own ledger, and a sender that numbers its messages.
struct Bench {
    outbox: Outbox,
    ledger: Ledger,
    losses: Losses,
    next: BTreeMap<u32, u64>,
}

impl Bench {
    fn new() -> Self {
        let ledger = Ledger::default();
        Self { outbox: Outbox::new(&ledger), ledger, losses: Losses::default(), next: BTreeMap::new() }
    }

    fn span(&mut self, channel: u32, messages: u64, payload: usize) -> Rc<Span> {
        let next = self.next.entry(channel).or_default();
        let wire: Vec<u8> = (*next..*next + messages).flat_map(|n| single(channel, n, payload)).collect();
        *next += messages;
        Span::new(decode(&wire), &self.ledger)
    }

    fn push(&mut self, channel: u32, messages: u64, terms: Terms, room: Room) -> Pushed {
        let span = self.span(channel, messages, 10);
        self.outbox.push_span(&span, terms, room, &mut self.losses)
    }

    fn queue(&mut self, channel: u32, overflow: Overflow, room: Room) {
        let pushed = self.push(channel, 1, terms(overflow), room);
        assert!(pushed == Pushed::Queued || overflow == Overflow::DropNewest && pushed == Pushed::Lost, "{pushed:?}");
    }

    fn visits(&self) -> u64 {
        self.outbox.head.visits + self.outbox.body.visits
    }

    fn write_all(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while !self.outbox.is_empty() {
            let offered: Vec<u8> = self.outbox.outgoing(64).flatten().copied().collect();
            self.outbox.advance(offered.len());
            wire.extend(offered);
        }
        wire
    }
}

/// Prints the seed of a failing sequence.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing seed is {}", self.0);
        }
    }
}

/// An outbox and its model, which do the same and are compared after each step.
struct Pair {
    bench: Bench,
    model: Model,
    rng: Rng,
    endings: u32,
    room: Room,
    channels: u32,
    /// The policy of each channel; drawn anew for each span if there is none.
    policies: Option<Vec<Overflow>>,
    /// For each channel, the number of control frames that preceded each message.
    controls_before: BTreeMap<u32, Vec<u32>>,
    controls: u32,
    /// Those control frames that confirm the beginning or the end of a subscription.
    confirmations: BTreeSet<u32>,
    /// Bytes of a frame that was written in part.
    pending: Vec<u8>,
    /// What the reader of the stream knows: the next message of each channel, and the control frames so far.
    due: BTreeMap<u32, u64>,
    controls_read: u32,
    delivered: [u64; 4],
    read: [u64; 4],
}

impl Pair {
    /// Connections end after about `endings` operations, or when the sequence does.
    fn new(seed: u64, endings: u32) -> Self {
        let mut rng = Rng::with_seed(seed);
        let channels = rng.u32(1..=6);
        let fixed = rng.bool();
        let policies = fixed.then(|| (0..channels).map(|_| POLICIES[rng.usize(..3)]).collect());
        let room = Room { bytes: rng.usize(150..8000), messages: rng.u64(2..120) };
        Self {
            bench: Bench::new(),
            model: Model::default(),
            rng,
            endings,
            room,
            channels,
            policies,
            controls_before: BTreeMap::new(),
            controls: 0,
            confirmations: BTreeSet::new(),
            pending: Vec::new(),
            due: BTreeMap::new(),
            controls_read: 0,
            delivered: [0; 4],
            read: [0; 4],
        }
    }

    fn play(&mut self, steps: usize) {
        let writes = self.rng.u32(2..40);
        for _ in 0..steps {
            match self.rng.u32(..103) {
                0..8 => self.push_control(),
                100.. => self.lose(),
                8..10 => {
                    self.bench.outbox.collapse_latest(&mut self.bench.losses);
                    self.model.collapse_latest();
                }
                10..12 => {
                    self.bench.outbox.drop_oldest_half(&mut self.bench.losses);
                    self.model.drop_oldest_half();
                }
                12 if self.rng.u32(..self.endings) < 50 => return self.end(),
                step if step < 12 + writes => self.write(),
                _ => {
                    if self.push() == Pushed::TooSlow {
                        return self.end();
                    }
                }
            }
            self.compare();
        }
        while !self.bench.outbox.is_empty() {
            self.write();
            self.compare();
        }
        for (channel, next) in &self.bench.next {
            assert_eq!(self.due.get(channel).copied().unwrap_or_default(), *next, "messages of {channel} are missing");
        }
        assert_eq!(self.bench.ledger.held(), 0, "an empty outbox holds memory");
    }

    /// The connection ends: what is half written is completed, and nothing else but control frames.
    fn end(&mut self) {
        self.bench.outbox.clear_frames(&mut self.bench.losses);
        self.model.clear_frames();
        self.compare();
        while !self.bench.outbox.is_empty() {
            self.write();
            self.compare();
        }
        let parted = self.bench.outbox.take_parted();
        self.count(&parted);
        let accepted: u64 = self.bench.next.values().sum();
        let lost = self.bench.losses.total() + self.bench.losses.observed();
        assert_eq!(self.delivered[0] + self.delivered[2] + lost, accepted);
        assert_eq!(self.bench.ledger.held(), 0, "an empty outbox holds memory");
    }

    fn push_control(&mut self) {
        let kind = [kind::SUBSCRIBED, kind::UNSUBSCRIBED, MARKER, MARKER, MARKER][self.rng.usize(..5)];
        let confirms = kind != MARKER;
        let frame = [Header::control(kind, 1, 4).as_bytes(), &self.controls.to_le_bytes()].concat();
        self.model.push_control(self.controls, frame.len());
        if confirms {
            self.model.settle_all();
            self.confirmations.insert(self.controls);
        }
        self.bench.outbox.push_control(frame, None);
        self.controls += 1;
    }

    /// A message is lost before it is queued.
    fn lose(&mut self) {
        let channel = self.rng.u32(..self.channels);
        let terms = Terms { overflow: Overflow::DropOldest, observer: self.rng.u32(..4) == 0, replay: 0 };
        let next = self.bench.next.entry(channel).or_default();
        let frame = Frame { bytes: 100, first: *next, messages: 1 };
        *next += 1;
        self.controls_before.entry(channel).or_default().resize(*next as usize, self.controls);
        self.bench.outbox.push_loss(ChannelId(channel), 1, terms, &mut self.bench.losses);
        self.model.push_loss(&ModelRun::new(channel, vec![frame], terms));
    }

    fn push(&mut self) -> Pushed {
        let channel = self.rng.u32(..self.channels);
        let overflow = match &self.policies {
            _ if self.rng.u32(..self.endings) == 0 => Overflow::Disconnect,
            Some(policies) => policies[channel as usize],
            None => POLICIES[self.rng.usize(..3)],
        };
        let terms = Terms { overflow, observer: self.rng.u32(..4) == 0, replay: 0 };
        let next = self.bench.next.entry(channel).or_default();
        let (mut wire, mut frames) = (Vec::new(), Vec::new());
        let batched = self.rng.bool();
        let many = if self.rng.bool() { 1 } else { self.rng.usize(1..12) };
        for _ in 0..many {
            let (messages, payload) = if batched { (self.rng.u64(1..5), 3) } else { (1, self.rng.usize(..200)) };
            let frame =
                if batched { batch(channel, *next, messages, payload) } else { single(channel, *next, payload) };
            frames.push(Frame { bytes: frame.len(), first: *next, messages });
            *next += messages;
            wire.extend(frame);
        }
        self.controls_before.entry(channel).or_default().resize(*next as usize, self.controls);
        let span = Span::new(decode(&wire), &self.bench.ledger);
        if terms.slows_senders() && self.rng.u32(..3) == 0 {
            let lost = (self.model.lost_by_bus, self.model.lost_by_observers);
            self.bench.outbox.push_credited(&span, terms, self.room);
            self.model.push_credited(ModelRun::new(channel, frames, terms), self.room);
            assert_eq!(lost, (self.model.lost_by_bus, self.model.lost_by_observers), "credited frames cost others");
            return Pushed::Queued;
        }
        let pushed = self.bench.outbox.push_span(&span, terms, self.room, &mut self.bench.losses);
        assert_eq!(pushed, self.model.push(ModelRun::new(channel, frames, terms), self.room));
        pushed
    }

    fn write(&mut self) {
        let slices = self.rng.usize(1..8);
        let offered: Vec<u8> = self.bench.outbox.outgoing(slices).flatten().copied().collect();
        assert_eq!(offered.is_empty(), self.bench.outbox.is_empty(), "something is outgoing if something waits");
        let bytes = match self.rng.u32(..3) {
            0 => offered.len(),
            1 => self.rng.usize(..=offered.len()),
            _ => self.rng.usize(..=offered.len().min(80)),
        };
        let begun = self.pending.len();
        let stream = [&std::mem::take(&mut self.pending)[..], &offered].concat();
        let (mut at, end) = (0, begun + bytes);
        while at < end {
            let size = Header::peek(&stream[at..]).unwrap().frame_bytes();
            let frame = &stream[at..at + size];
            if at + size > end {
                if at > 0 || begun == 0 {
                    self.begin(frame);
                }
                self.pending = stream[at..end].to_vec();
                break;
            }
            self.read(frame);
            at += size;
        }
        let delivered = self.bench.outbox.advance(bytes);
        if self.bench.outbox.is_empty() {
            self.model.keep_all();
        }
        self.count(&delivered);
        let counts = self.delivered.iter().zip(&self.read);
        assert!(counts.into_iter().all(|(delivered, read)| delivered <= read), "more is delivered than was written");
    }

    fn count(&mut self, delivered: &Delivered) {
        for (at, count) in [delivered.bus, delivered.observers].into_iter().enumerate() {
            self.delivered[2 * at] += count.messages;
            self.delivered[2 * at + 1] += count.bytes;
        }
    }

    fn begin(&mut self, frame: &[u8]) {
        if Header::peek(frame).unwrap().is_data() {
            self.model.begin();
        }
    }

    fn read(&mut self, frame: &[u8]) {
        let header = Header::peek(frame).unwrap();
        if matches!(header.kind(), MARKER | kind::SUBSCRIBED | kind::UNSUBSCRIBED) {
            assert_eq!(self.model.finish_control(), self.controls_read, "control frames keep their order");
            self.controls_read += 1;
        } else if header.is_data() {
            let (channel, due, observer) = self.model.finish_frame();
            assert_eq!((header.channel().0, header.sequence(), frame.len()), (channel, due.first, due.bytes));
            let expected = self.due.entry(channel).or_default();
            assert_eq!(header.sequence(), *expected, "all losses of {channel} before this frame were reported");
            *expected += due.messages;
            self.read[2 * usize::from(observer)] += due.messages;
            self.read[2 * usize::from(observer) + 1] += due.bytes as u64;
        } else {
            let (channel, count) = lagged(frame);
            let expected = self.due.entry(channel).or_default();
            let place = self.controls_before[&channel][*expected as usize];
            assert_eq!(self.controls_read, place, "a gap stands where its first message stood");
            for _ in 0..count {
                assert!(
                    self.model.lost.contains(&(channel, *expected)),
                    "message {expected} of {channel} was not lost"
                );
                *expected += 1;
            }
            assert!(count > 0, "a gap of nothing");
            let end = self.controls_before[&channel][*expected as usize - 1];
            assert!(
                self.confirmations.range(place..end).next().is_none(),
                "what is lost behind a confirmation is reported behind it"
            );
        }
    }

    /// What waits and what is delivered is exact once a half-written entry is parted. Every other time it stays as it is.
    fn compare(&mut self) {
        let outbox = &mut self.bench.outbox;
        outbox.invariants();
        assert_eq!(self.bench.losses.total(), self.model.lost_by_bus);
        assert_eq!(self.bench.losses.observed(), self.model.lost_by_observers);
        if self.rng.bool() {
            return;
        }
        outbox.part();
        outbox.recharge();
        outbox.invariants();
        let parted = [outbox.parted.bus, outbox.parted.observers].map(|count| [count.messages, count.bytes]);
        let delivered = self.delivered.iter().zip(parted.as_flattened()).map(|(delivered, parted)| delivered + parted);
        assert!(delivered.eq(self.read), "delivered is what was written completely");
        assert_eq!(outbox.queue(), self.model.queue());
        assert_eq!(outbox.replies_bytes(), self.model.replies_bytes());
        assert_eq!(outbox.droppable_bytes(), self.model.droppable_bytes());
        let by_channel: u64 = self.bench.losses.by_channel().iter().map(|(_, lost)| lost).sum();
        assert_eq!(by_channel, self.model.lost_by_bus);
    }
}

#[test]
fn outbox_does_what_its_model_does() {
    for seed in 0..2000 {
        let _seed = Seed(seed);
        Pair::new(seed, 500).play(80);
    }
}

#[test]
fn long_sequences_do_what_the_model_does() {
    for seed in 10_000..10_020 {
        let _seed = Seed(seed);
        Pair::new(seed, 50_000).play(3000);
    }
}

/// Frames that each of the tests below queues, far more than fit.
const PUSHES: u32 = 40_000;
const CHANNELS: u32 = 1000;
/// Entries that each of them may visit on average.
const VISITS_MAX: u64 = 5;

fn full() -> Room {
    Room { bytes: usize::MAX, messages: 3000 }
}

/// Queues frames of many channels in turn, with a half-written frame in front, and bounds work and memory.
fn bound(policy: impl Fn(u32) -> Overflow, mut each: impl FnMut(&mut Bench, u32)) {
    let mut bench = Bench::new();
    bench.queue(0, Overflow::DropOldest, ROOMY);
    bench.outbox.advance(5);
    for n in 0..PUSHES {
        let channel = n % CHANNELS;
        bench.queue(channel, policy(channel), full());
        each(&mut bench, n);
        if n % 1000 == 0 {
            bench.outbox.invariants();
        }
    }
    bench.outbox.invariants();
    let visits = bench.visits() / u64::from(PUSHES);
    assert!(visits <= VISITS_MAX, "{visits} entries are visited for each frame");
    let footprint = bench.outbox.footprint();
    assert!(footprint < 1 << 20, "{footprint} bytes of bookkeeping");
    bench.write_all();
    assert_eq!(bench.ledger.held(), 0);
}

#[test]
fn dropping_the_oldest_costs_constant_work_across_many_channels() {
    bound(|_| Overflow::DropOldest, |_, _| {});
}

#[test]
fn dropping_the_newest_costs_constant_work_across_many_channels() {
    bound(
        |_| Overflow::DropNewest,
        |bench, n| {
            if n % 7 == 0 {
                let offered: usize = bench.outbox.outgoing(2).map(<[u8]>::len).sum();
                bench.outbox.advance(offered - 1);
            }
        },
    );
}

#[test]
fn replacing_the_latest_costs_constant_work_across_many_channels() {
    let mut losses = Losses::default();
    bound(|_| Overflow::Latest, |bench, _| bench.outbox.collapse_latest(&mut losses));
}

#[test]
fn mixed_policies_cost_constant_work_across_many_channels() {
    bound(|channel| POLICIES[channel as usize % 3], |_, _| {});
}

#[test]
fn gaps_between_control_frames_cost_constant_work() {
    bound(
        |channel| POLICIES[channel as usize % 2],
        |bench, n| {
            if n % 20 == 0 {
                bench.outbox.push_control(Header::control(MARKER, 1, 0).as_bytes().to_vec(), None);
            }
        },
    );
}

#[test]
fn dropping_halves_costs_constant_work() {
    let mut losses = Losses::default();
    bound(
        |_| Overflow::DropOldest,
        |bench, n| {
            if n % 3 == 0 {
                bench.outbox.drop_oldest_half(&mut losses);
            }
        },
    );
}

#[test]
fn slots_are_given_back_as_the_queue_shrinks() {
    let mut bench = Bench::new();
    (0..65_536).for_each(|n| bench.queue(n % 5, Overflow::DropOldest, ROOMY));
    assert!(bench.outbox.footprint() >= 65_536 * 40);
    while bench.outbox.queue().0 > 100 {
        let offered: usize = bench.outbox.outgoing(64).map(<[u8]>::len).sum();
        bench.outbox.advance(offered);
    }
    bench.outbox.invariants();
    assert!(bench.outbox.footprint() <= 400 * ENTRY_BYTES, "{} bytes", bench.outbox.footprint());
    bench.write_all();
    assert_eq!((bench.outbox.footprint(), bench.ledger.held()), (0, 0));
    assert!(bench.outbox.body.footprint(0) <= IDLE_SLOTS * ENTRY_BYTES);
}

#[test]
fn dropped_slots_are_given_back_too() {
    let mut bench = Bench::new();
    (0..65_536).for_each(|n| bench.queue(n % 5, Overflow::DropOldest, ROOMY));
    bench.queue(0, Overflow::DropOldest, Room { bytes: 200, messages: 1 });
    assert!(bench.outbox.footprint() < 4096, "{} bytes", bench.outbox.footprint());
    bench.outbox.clear_frames(&mut bench.losses);
    assert_eq!((bench.outbox.footprint(), bench.ledger.held()), (0, 0));
    assert_eq!(bench.losses.total(), 65_537);
}

#[test]
fn half_written_frame_pins_its_span_and_is_never_dropped() {
    let mut bench = Bench::new();
    let span = bench.span(1, 3, 100);
    let pinned = bench.ledger.held();
    let _ = bench.outbox.push_span(&span, terms(Overflow::DropOldest), ROOMY, &mut bench.losses);
    drop(span);
    assert_eq!(bench.outbox.half_written_bytes(), 0);
    assert_eq!(bench.outbox.advance(128 + 50).bus.messages, 0, "runs are delivered whole until they are parted");
    assert_eq!((bench.outbox.half_written_bytes(), bench.outbox.droppable_bytes()), (pinned, 0));
    bench.outbox.drop_oldest_half(&mut bench.losses);
    assert_eq!((bench.losses.total(), bench.outbox.queue()), (1, (1, 128)), "the third frame is lost");
    assert_eq!((bench.outbox.half_written_bytes(), bench.outbox.droppable_bytes()), (pinned, 0));
    bench.outbox.clear_frames(&mut bench.losses);
    assert_eq!((bench.losses.total(), bench.outbox.half_written_bytes()), (1, pinned));
    bench.outbox.invariants();
    assert_eq!(bench.outbox.outgoing(64).map(<[u8]>::len).sum::<usize>(), 78, "its end, and no gap behind it");
    assert_eq!(bench.outbox.advance(78).bus, Count { messages: 2, bytes: 256 });
    assert_eq!(bench.ledger.held(), 0);
}

#[test]
fn run_that_was_written_up_to_a_frame_can_be_dropped() {
    let mut bench = Bench::new();
    assert_eq!(bench.push(1, 3, terms(Overflow::DropOldest), ROOMY), Pushed::Queued);
    bench.outbox.advance(38);
    bench.outbox.drop_oldest_half(&mut bench.losses);
    assert_eq!((bench.losses.total(), bench.outbox.queue(), bench.outbox.half_written_bytes()), (2, (0, 0), 0));
    bench.outbox.invariants();
    assert_eq!(lagged(&bench.write_all()), (1, 2));
}

#[test]
fn one_frame_fits_into_an_empty_queue_and_the_next_disconnects() {
    let tiny = Room { bytes: 100, messages: 2 };
    let mut bench = Bench::new();
    let mut push = |wire: &[u8]| {
        let span = Span::new(decode(wire), &bench.ledger);
        let pushed = bench.outbox.push_span(&span, terms(Overflow::Disconnect), tiny, &mut bench.losses);
        bench.outbox.invariants();
        pushed
    };
    assert_eq!(push(&batch(1, 0, 50, 10)), Pushed::Queued, "a batch is one frame");
    assert_eq!(push(&single(1, 50, 1)), Pushed::TooSlow);
    bench.write_all();
    let mut push = |wire: &[u8]| {
        let span = Span::new(decode(wire), &bench.ledger);
        bench.outbox.push_span(&span, terms(Overflow::Disconnect), tiny, &mut bench.losses)
    };
    assert_eq!(push(&[single(1, 51, 90), single(1, 52, 90)].concat()), Pushed::TooSlow, "two frames must have room");
}

#[test]
fn latest_keeps_one_frame_of_each_channel_and_stays_within_the_room() {
    let mut bench = Bench::new();
    let room = Room { bytes: usize::MAX, messages: 4 };
    bench.outbox.collapse_latest(&mut bench.losses);
    for channel in (0..6).chain(0..6) {
        bench.queue(channel, Overflow::Latest, room);
        bench.outbox.invariants();
    }
    assert_eq!((bench.outbox.queue().0, bench.losses.total()), (4, 8));
}

#[test]
fn latest_keeps_everything_while_the_connection_takes_it() {
    let mut bench = Bench::new();
    (0..10).for_each(|_| bench.queue(1, Overflow::Latest, ROOMY));
    assert_eq!(bench.outbox.queue().0, 10);
    bench.outbox.collapse_latest(&mut bench.losses);
    assert_eq!((bench.outbox.queue().0, bench.losses.total()), (1, 9));
    bench.queue(1, Overflow::Latest, ROOMY);
    assert_eq!((bench.outbox.queue().0, bench.losses.total()), (1, 10), "until it runs empty");
    bench.write_all();
    (0..10).for_each(|_| bench.queue(1, Overflow::Latest, ROOMY));
    assert_eq!(bench.outbox.queue().0, 10);
}

#[test]
fn observers_are_counted_apart() {
    let mut bench = Bench::new();
    let (observer, room) =
        (Terms { overflow: Overflow::DropOldest, observer: true, replay: 0 }, Room { bytes: 1000, messages: 2 });
    for terms in [observer, terms(Overflow::DropOldest), observer, terms(Overflow::DropOldest)] {
        assert_eq!(bench.push(1, 1, terms, room), Pushed::Queued);
    }
    assert_eq!((bench.losses.total(), bench.losses.observed()), (1, 1));
    assert_eq!(bench.losses.by_channel(), [(ChannelId(1), 1)]);
    let offered: usize = bench.outbox.outgoing(64).map(<[u8]>::len).sum();
    let delivered = bench.outbox.advance(offered);
    assert_eq!((delivered.bus.messages, delivered.observers.messages), (1, 1));
    assert_eq!((delivered.bus.bytes, delivered.observers.bytes), (38, 38));
}

#[test]
fn connections_that_read_are_charged_for_spans_only() {
    for overflow in POLICIES {
        let mut bench = Bench::new();
        (0..IDLE_SLOTS as u32).for_each(|n| bench.queue(n % 5, overflow, ROOMY));
        bench.outbox.invariants();
        assert_eq!(bench.outbox.footprint(), 0, "{overflow:?}");
        bench.write_all();
        assert_eq!(bench.ledger.held(), 0);
    }
}

#[test]
fn half_written_gap_does_not_grow() {
    let mut bench = Bench::new();
    bench.outbox.push_loss(ChannelId(1), 1, terms(Overflow::DropOldest), &mut bench.losses);
    let gap: Vec<u8> = bench.outbox.outgoing(64).flatten().copied().collect();
    bench.outbox.advance(gap.len() - 1);
    bench.outbox.push_loss(ChannelId(1), 2, terms(Overflow::DropOldest), &mut bench.losses);
    bench.outbox.push_loss(ChannelId(1), 3, terms(Overflow::DropOldest), &mut bench.losses);
    bench.outbox.invariants();
    let wire = bench.write_all();
    assert_eq!(lagged(&gap), (1, 1));
    assert_eq!(lagged(&wire[1..]), (1, 5), "what was lost since is a gap of its own");
    assert_eq!(bench.losses.total(), 6);
}
