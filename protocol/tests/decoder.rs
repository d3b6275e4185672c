//! The decoder yields the same items for a stream however its bytes are split, and rejects what the protocol forbids.
//! `memory.rs` counts its allocations.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::control::{
    AddLink, AwaitProgress, BeginRing, Control, EndRing, Extension, Follow, Goodbye, Hello, InboxOpened, Inspect,
    Lagged, LinkAdded, LinkReady, MAGIC, Named, OfferLink, OfferRing, Open, OpenInbox, Opened, Overflow, Prepare,
    Prepared, Progress, Recall, Refused, RefusedCode, Report, Retained, RingAccepted, Selector, Stop, Subscribe,
    Subscribed, Superseded, Unfollow, Unlink, Welcome,
};
use broadcaster_protocol::decode::{CHUNK_BYTES, CONSUMER_CHUNK_BYTES};
use broadcaster_protocol::limits::{
    BATCH_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, META_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES,
};
use broadcaster_protocol::{ChannelId, CodecError, DecodeError, Decoder, Header, Item, Run, SenderId};
use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const PUBLISH: u8 = 0x01;

const BATCH: u8 = 0x02;

const REPLY: u8 = 0x03;

const RETAIN: u8 = 0x04;

const REDECLARE: u8 = 0x05;

const OPTIONAL: u8 = 0x01;

const MIB: usize = 1024 * 1024;

/// A run of a lender pins at most this many times its own bytes.
const PINS_FACTOR_MAX: usize = 4;

/// What a stream contains, without the runs and batches that its messages came in.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Message {
        channel: u32,
        sender: u64,
        sequence: u64,
        metadata: Vec<u8>,
        payload: Vec<u8>,
    },
    /// A message that is neither a Publish frame nor in a batch: its kind is the first number.
    Special {
        kind: u8,
        channel: u32,
        sender: u64,
        sequence: u64,
        metadata: Vec<u8>,
        payload: Vec<u8>,
    },
    Discarded {
        channel: u32,
        sender: u64,
        sequence: u64,
        body_bytes: u32,
    },
    Control(Control),
}

impl From<Header> for Event {
    fn from(header: Header) -> Self {
        Self::Discarded {
            channel: header.channel().0,
            sender: header.sender().raw(),
            sequence: header.sequence(),
            body_bytes: header.body_bytes(),
        }
    }
}

/// The position of a frame in a stream, and its events.
#[derive(Debug, Clone)]
struct WireFrame {
    start: usize,
    end: usize,
    events: Vec<Event>,
    /// Its kind is unknown, and it may be skipped.
    is_optional: bool,
}

/// A well-formed stream.
#[derive(Debug, Clone, Default)]
struct Wire {
    bytes: Vec<u8>,
    frames: Vec<WireFrame>,
}

impl Wire {
    fn push(&mut self, parts: &[&[u8]], events: Vec<Event>) {
        let start = self.bytes.len();
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.frames.push(WireFrame { start, end: self.bytes.len(), events, is_optional: false });
    }

    fn publish(&mut self, channel: u32, sender: u64, sequence: u64, payload: Vec<u8>) {
        self.publish_with(channel, sender, sequence, Vec::new(), payload);
    }

    fn publish_with(&mut self, channel: u32, sender: u64, sequence: u64, metadata: Vec<u8>, payload: Vec<u8>) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header::publish(ChannelId(channel), SenderId::from_raw(sender), sequence, len);
        let header = header.with_metadata(u16::try_from(metadata.len()).unwrap());
        let parts = [header.as_bytes(), &metadata, &payload].map(<[u8]>::to_vec);
        let event = Event::Message { channel, sender, sequence, metadata, payload };
        self.push(&parts.each_ref().map(Vec::as_slice), vec![event]);
    }

    fn reply(&mut self, inbox: u32, sender: u64, request: u64, metadata: Vec<u8>, payload: Vec<u8>) {
        self.special(REPLY, inbox, sender, request, metadata, payload);
    }

    /// A frame of a kind that has constructors like that of a Publish frame.
    fn special(&mut self, kind: u8, channel: u32, sender: u64, sequence: u64, metadata: Vec<u8>, payload: Vec<u8>) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = match kind {
            REPLY => Header::reply,
            RETAIN => Header::retain,
            REDECLARE => Header::redeclare,
            kind => panic!("kind {kind}"),
        };
        let header = header(ChannelId(channel), SenderId::from_raw(sender), sequence, len);
        let header = header.with_metadata(u16::try_from(metadata.len()).unwrap());
        let parts = [header.as_bytes(), &metadata, &payload].map(<[u8]>::to_vec);
        let event = Event::Special { kind, channel, sender, sequence, metadata, payload };
        self.push(&parts.each_ref().map(Vec::as_slice), vec![event]);
    }

    fn batch(&mut self, channel: u32, sender: u64, first: u64, payloads: Vec<Vec<u8>>) {
        let body = records(&payloads);
        let len = u32::try_from(body.len()).unwrap();
        let header = Header::batch(ChannelId(channel), SenderId::from_raw(sender), first, len);
        let message = |(at, payload)| {
            let sequence = first.wrapping_add(at);
            Event::Message { channel, sender, sequence, metadata: Vec::new(), payload }
        };
        self.push(&[header.as_bytes(), &body], (0..).zip(payloads).map(message).collect());
    }

    fn control(&mut self, control: impl Into<Control>) {
        let (control, mut frame) = (control.into(), Vec::new());
        control.encode(&mut frame).unwrap();
        self.push(&[&frame], vec![Event::Control(control)]);
    }

    /// A frame of a kind that no version defines yet.
    fn unknown(&mut self, kind: u8, flags: u8, len: usize) {
        let header = Header::control(kind, flags, u32::try_from(len).unwrap());
        self.push(&[header.as_bytes(), &vec![0xee; len]], Vec::new());
        self.frames.last_mut().unwrap().is_optional = flags == OPTIONAL;
    }

    fn events(&self) -> Vec<Event> {
        self.frames.iter().flat_map(|frame| frame.events.clone()).collect()
    }

    /// The first frame that is not complete when `at` bytes have been read, if any byte of it has been.
    fn incomplete_at(&mut self, at: usize) -> Option<&mut WireFrame> {
        let frame = self.frames.partition_point(|frame| frame.end <= at);
        self.frames.get_mut(frame).filter(|frame| frame.start < at)
    }

    /// The number of events of the frames that are complete when `at` bytes have been read, and the number of bytes after them,
    /// unless they are known to be skipped.
    fn progress(&self, at: usize) -> (usize, usize) {
        let (complete, rest) = self.frames.split_at(self.frames.partition_point(|frame| frame.end <= at));
        let events = complete.iter().map(|frame| frame.events.len()).sum();
        let arrived = at - complete.last().map_or(0, |frame| frame.end);
        let is_skipped = arrived >= HEADER_BYTES && rest.first().is_some_and(|frame| frame.is_optional);
        (events, if is_skipped { 0 } else { arrived })
    }
}

/// The body of a batch.
fn records(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for payload in payloads {
        body.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        body.extend_from_slice(payload);
    }
    body
}

/// One stream and its decoder.
struct Stream<'a> {
    decoder: Decoder,
    lends: bool,
    wire: &'a [u8],
    at: usize,
    events: Vec<Event>,
    /// Runs that are kept, as a server keeps them until they are delivered.
    kept: Vec<Run>,
    /// The incomplete frame is being discarded.
    discards: bool,
}

impl<'a> Stream<'a> {
    fn new(lends: bool, payload_bytes_max: u32, wire: &'a [u8]) -> Self {
        let decoder = if lends { Decoder::lender(payload_bytes_max) } else { Decoder::consumer(payload_bytes_max) };
        Self { decoder, lends, wire, at: 0, events: Vec::new(), kept: Vec::new(), discards: false }
    }

    /// One read: at most `max` bytes go where the decoder wants them, then everything is decoded.
    fn read(&mut self, chunk: &mut BytesMut, max: usize) -> Result<(), DecodeError> {
        self.fill(chunk, max);
        self.decode(chunk)
    }

    /// One read, without decoding.
    fn fill(&mut self, chunk: &mut BytesMut, max: usize) {
        let rest = &self.wire[self.at..];
        let mut target = self.decoder.target(chunk);
        assert!(target.has_remaining_mut(), "a read without room looks like the end of a stream");
        let len = max.min(rest.len()).min(target.remaining_mut());
        target.put_slice(&rest[..len]);
        self.at += len;
    }

    fn decode(&mut self, chunk: &mut BytesMut) -> Result<(), DecodeError> {
        while self.decode_one(chunk)? {}
        assert!(chunk.is_empty(), "bytes that are not decoded stay in the decoder");
        let holds = self.discards || self.decoder.held_bytes() > 0;
        assert!(self.decoder.is_mid_frame() || !holds, "the decoder holds a part of a frame");
        Ok(())
    }

    /// Decodes one item; `false` if there is none.
    fn decode_one(&mut self, chunk: &mut BytesMut) -> Result<bool, DecodeError> {
        match self.decoder.next(chunk).inspect_err(|_| assert!(chunk.is_empty()))? {
            None => return Ok(false),
            Some(Item::Control(control)) => self.events.push(Event::Control(control)),
            Some(Item::Discarded(header)) => {
                assert!(std::mem::take(&mut self.discards), "a frame that was not discarded");
                self.events.push(header.into());
            }
            Some(Item::Run(run)) => {
                check_run(&run);
                if self.at > 0 {
                    check_pins(&run, self.lends);
                }
                self.events.extend(messages_of(&run));
                self.kept.push(run);
            }
        }
        assert!(!self.discards, "an item before the discarded frame is complete");
        Ok(true)
    }

    /// Discards the incomplete frame, in `wire` as well.
    fn discard(&mut self, wire: &mut Wire) {
        let at = self.at;
        let expected = wire.incomplete_at(at).filter(|frame| at - frame.start >= HEADER_BYTES && !self.discards);
        let expected = expected.and_then(|frame| {
            let header = Header::peek(&self.wire[frame.start..]).unwrap();
            matches!(header.kind(), PUBLISH | REPLY | RETAIN | REDECLARE).then_some((frame, header))
        });
        assert_eq!(self.decoder.incomplete_frame().is_some(), expected.is_some());
        assert_eq!(self.decoder.discard_frame(), expected.is_some());
        if let Some((frame, header)) = expected {
            frame.events = vec![header.into()];
            self.discards = true;
        }
        assert!(!self.decoder.discard_frame(), "a frame can be discarded only once");
    }

    fn is_over(&self) -> bool {
        self.at == self.wire.len()
    }

    /// Everything complete has been decoded, and only the bytes of the next frame that have arrived are held.
    fn check(&self, wire: &Wire) {
        let (events, held) = wire.progress(self.at);
        assert_eq!(self.events.len(), events, "events after {} bytes", self.at);
        let held = if self.discards { 0 } else { held };
        assert_eq!(self.decoder.held_bytes(), held, "held after {} bytes", self.at);
    }

    /// The runs that were kept are unchanged.
    fn check_kept(&self) {
        let kept: Vec<Event> = self.kept.iter().flat_map(messages_of).collect();
        let messages =
            self.events.iter().filter(|event| matches!(event, Event::Message { .. } | Event::Special { .. }));
        assert!(kept.iter().eq(messages));
    }
}

/// The messages of a run, read by hand.
fn messages_of(run: &Run) -> Vec<Event> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let mut rest: &[u8] = run.bytes();
    let mut messages = Vec::new();
    while let Some((header, tail)) = rest.split_at_checked(HEADER_BYTES) {
        let (body, tail) = tail.split_at(usize::try_from(number(&header[..4])).unwrap());
        let (metadata, mut body) = body.split_at(usize::try_from(number(&header[6..8])).unwrap());
        let mut sequence = number(&header[20..]);
        let mut push = |payload: &[u8]| {
            let (channel, sender) = (u32::try_from(number(&header[8..12])).unwrap(), number(&header[12..20]));
            let (metadata, payload) = (metadata.to_vec(), payload.to_vec());
            messages.push(Event::Message { channel, sender, sequence, metadata, payload });
            sequence = sequence.wrapping_add(1);
        };
        assert_eq!(header[5], 0);
        match header[4] {
            PUBLISH => push(body),
            kind @ (REPLY | RETAIN | REDECLARE) => {
                let (channel, sender) = (u32::try_from(number(&header[8..12])).unwrap(), number(&header[12..20]));
                let (metadata, payload) = (metadata.to_vec(), body.to_vec());
                messages.push(Event::Special { kind, channel, sender, sequence, metadata, payload });
            }
            BATCH => {
                assert!(metadata.is_empty());
                while let Some((len, records)) = body.split_at_checked(RECORD_HEADER_BYTES) {
                    let (payload, more) = records.split_at(usize::try_from(number(len)).unwrap());
                    push(payload);
                    body = more;
                }
                assert!(body.is_empty());
            }
            kind => panic!("a run has a frame of kind {kind}"),
        }
        rest = tail;
    }
    assert!(rest.is_empty());
    messages
}

fn check_run(run: &Run) {
    let by_hand = messages_of(run);
    assert!(!by_hand.is_empty() && by_hand.len() as u64 == run.messages());
    let (channel, first) = (run.channel().0, run.first());
    let mut rest = run.clone();
    let mut messages = Vec::new();
    while let Some(frame) = rest.front() {
        let (sender, sequence) = (frame.sender.raw(), frame.sequence);
        let (metadata, payload) = (frame.metadata.as_bytes().to_vec(), frame.payload.to_vec());
        let special = [(run.is_reply(), REPLY), (run.is_retained(), RETAIN), (run.is_redeclared(), REDECLARE)];
        messages.push(match special.iter().find(|(is_kind, _)| *is_kind) {
            Some(&(_, kind)) => Event::Special { kind, channel, sender, sequence, metadata, payload },
            None => Event::Message { channel, sender, sequence, metadata, payload },
        });
        rest.skip_front();
    }
    assert!(messages == by_hand);
    for ((at, (sequence, payload)), message) in (0..).zip(run.iter()).zip(&messages) {
        assert_eq!(sequence, first.wrapping_add(at));
        assert!(matches!(
            message,
            Event::Message { payload: by_hand, .. } | Event::Special { payload: by_hand, .. } if *by_hand == payload
        ));
    }
    let is_alone = !(run.is_reply() || run.is_redeclared()) || messages.len() == 1;
    assert!(is_alone, "a reply is a run of its own, and so is what is declared again");
}

/// The memory that a run pins, if it was read as [`Decoder::target`] requires.
fn check_pins(run: &Run, lends: bool) {
    let (own, pinned) = (run.bytes().len(), run.pinned_bytes());
    assert!(pinned >= own && (!lends || pinned <= own * PINS_FACTOR_MAX), "{pinned} pinned for {own}");
}

/// The result of decoding some bytes.
#[derive(Debug, Clone, PartialEq)]
struct Decoded {
    events: Vec<Event>,
    error: Option<DecodeError>,
    mid_frame: bool,
}

impl Decoded {
    /// The result for a stream of whole frames.
    fn all_of(wire: &Wire) -> Self {
        Self { events: wire.events(), error: None, mid_frame: false }
    }

    /// The result for a stream of whole frames that are followed by an error.
    fn then(wire: &Wire, error: DecodeError) -> Self {
        Self { error: Some(error), ..Self::all_of(wire) }
    }
}

/// Decodes `bytes` in pieces of these sizes.
fn decode_in(bytes: &[u8], lends: bool, payload_bytes_max: u32, sizes: &[usize]) -> Decoded {
    let mut stream = Stream::new(lends, payload_bytes_max, bytes);
    let mut chunk = BytesMut::new();
    for &size in sizes.iter().cycle() {
        if stream.is_over() {
            break;
        }
        if let Err(error) = stream.read(&mut chunk, size) {
            stays_failed(&mut stream.decoder, &error);
            return Decoded { events: stream.events, error: Some(error), mid_frame: false };
        }
    }
    stream.check_kept();
    Decoded { events: stream.events, error: None, mid_frame: stream.decoder.is_mid_frame() }
}

/// Decodes `bytes` in one piece of any length, without a read.
fn decode_whole(bytes: &[u8], lends: bool, payload_bytes_max: u32) -> Decoded {
    let mut stream = Stream::new(lends, payload_bytes_max, bytes);
    let error = stream.decode(&mut BytesMut::from(bytes)).err();
    Decoded { events: stream.events, error, mid_frame: stream.decoder.is_mid_frame() }
}

/// After an error, the decoder yields the same error for any further bytes, and holds nothing.
fn stays_failed(decoder: &mut Decoder, error: &DecodeError) {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![7; 100]);
    wire.control(Stop::default());
    let mut chunk = BytesMut::new();
    for bytes in [&wire.bytes[..], &[], &wire.bytes[..10]] {
        for parks in [false, true] {
            decoder.target(&mut chunk).put_slice(bytes);
            if parks {
                decoder.park(&mut chunk);
            }
            assert_eq!(decoder.next(&mut chunk).unwrap_err(), *error);
            assert!(chunk.is_empty() && !decoder.is_mid_frame() && !decoder.discard_frame());
            assert_eq!(decoder.held_bytes(), 0);
        }
    }
}

/// The error that the decoder yields for `bytes` before any item.
fn error_of(bytes: &[u8]) -> DecodeError {
    let decoded = decode_whole(bytes, true, PAYLOAD_BYTES_MAX);
    assert!(decoded.events.is_empty(), "{decoded:?}");
    decoded.error.expect("an error")
}

/// A control frame with this body.
fn control_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [Header::control(kind, 0, u32::try_from(body.len()).unwrap()).as_bytes(), body].concat()
}

// ---- parts of generated streams ----

#[derive(Debug, Clone)]
enum Part {
    /// Frames of this size by one sender on one channel, with metadata of these sizes in turn; `jumps`: after a gap in its
    /// sequence numbers; `retain`: of the kind that the daemon retains.
    Frames {
        retain: bool,
        channel: u32,
        sender: u64,
        jumps: bool,
        frames: usize,
        meta: Vec<usize>,
        len: usize,
    },
    /// One batch of messages of these sizes.
    Batch {
        channel: u32,
        sender: u64,
        jumps: bool,
        lens: Vec<usize>,
    },
    /// One frame with a payload of this size: a reply, or a message that is declared again.
    Single {
        kind: u8,
        channel: u32,
        sender: u64,
        sequence: u64,
        meta: usize,
        len: usize,
    },
    Control(Control),
    Unknown {
        kind: u8,
        len: usize,
    },
}

fn wire_of(parts: &[Part]) -> Wire {
    let mut wire = Wire::default();
    // Close to the largest number, so that some runs wrap around.
    let mut sequences = [[u64::MAX - 3; 4]; 4];
    for (fill, part) in parts.iter().enumerate() {
        match part {
            Part::Control(control) => wire.control(control.clone()),
            Part::Unknown { kind, len } => wire.unknown(*kind, OPTIONAL, *len),
            Part::Single { kind, channel, sender, sequence, meta, len } => {
                let (metadata, payload) = (filled(!fill, *sequence, *meta), filled(fill, *sequence, *len));
                wire.special(*kind, *channel, *sender, *sequence, metadata, payload);
            }
            Part::Batch { channel, sender, jumps, lens } => {
                let next = &mut sequences[*channel as usize][usize::try_from(*sender).unwrap()];
                *next = next.wrapping_add(u64::from(*jumps));
                let payloads = (0..).zip(lens).map(|(at, &len)| filled(fill, next.wrapping_add(at), len)).collect();
                wire.batch(*channel, *sender, *next, payloads);
                *next = next.wrapping_add(lens.len() as u64);
            }
            Part::Frames { retain, channel, sender, jumps, frames, meta, len } => {
                let next = &mut sequences[*channel as usize][usize::try_from(*sender).unwrap()];
                *next = next.wrapping_add(u64::from(*jumps));
                for meta in meta.iter().cycle().take(*frames) {
                    // Any bytes are metadata: the decoder does not read them.
                    let metadata = filled(!fill, *next, *meta);
                    let payload = filled(fill, *next, *len);
                    match retain {
                        true => wire.special(RETAIN, *channel, *sender, *next, metadata, payload),
                        false => wire.publish_with(*channel, *sender, *next, metadata, payload),
                    }
                    *next = next.wrapping_add(1);
                }
            }
        }
    }
    wire
}

/// A payload that differs from others, and from itself a few bytes later.
fn filled(fill: usize, sequence: u64, len: usize) -> Vec<u8> {
    let mut payload = vec![fill.to_le_bytes()[0]; len];
    for (at, block) in payload.chunks_mut(509).enumerate() {
        block[0] = (at as u64 ^ sequence).to_le_bytes()[0];
    }
    payload
}

fn frames(frames: std::ops::Range<usize>, len: impl Strategy<Value = usize>) -> impl Strategy<Value = Part> {
    let size = prop_oneof![4 => Just(0), 2 => 0..40_usize, 1 => select(vec![1, usize::from(META_BYTES_MAX)])];
    let meta = prop_oneof![2 => Just(vec![0]), 1 => vec(size, 1..5)];
    let rarely = prop::bool::weighted(0.1);
    (prop::bool::weighted(0.3), 1..3_u32, 1..3_u64, rarely, frames, meta, len).prop_map(
        |(retain, channel, sender, jumps, frames, meta, len)| Part::Frames {
            retain,
            channel,
            sender,
            jumps,
            frames,
            meta,
            len,
        },
    )
}

fn batch() -> impl Strategy<Value = Part> {
    let small = vec(0..60_usize, 1..60);
    let full = select(vec![vec![BATCH_BYTES_MAX as usize - RECORD_HEADER_BYTES], vec![0; 1024], vec![60; 64]]);
    let lens = prop_oneof![4 => small, 1 => full];
    (1..3_u32, 1..3_u64, prop::bool::weighted(0.1), lens).prop_map(|(channel, sender, jumps, lens)| Part::Batch {
        channel,
        sender,
        jumps,
        lens,
    })
}

/// Replies and messages that are declared again, some of them with consecutive numbers, or with the number that a message would have
/// next.
fn single(len: impl Strategy<Value = usize>) -> impl Strategy<Value = Part> {
    let kind = select(vec![REPLY, REDECLARE]);
    (kind, 1..3_u32, 1..3_u64, (u64::MAX - 3)..=u64::MAX, 0..20_usize, len).prop_map(
        |(kind, channel, sender, sequence, meta, len)| Part::Single { kind, channel, sender, sequence, meta, len },
    )
}

/// Frames of up to a few kilobytes, control messages, and frames to be skipped.
fn small_part() -> impl Strategy<Value = Part> {
    let unknown = (select(vec![0x00, 0x06, 0x3f, 0x4f, 0x5f, 0xf0, 0xff]), 0..100_usize);
    prop_oneof![
        6 => frames(1..20, 0..100_usize),
        2 => frames(1..4, 0..3000_usize),
        4 => batch(),
        3 => single(0..3000_usize),
        3 => control().prop_map(Part::Control),
        1 => unknown.prop_map(|(kind, len)| Part::Unknown { kind, len }),
    ]
}

/// Frames around and above the size of a chunk, alone and in a row.
fn large_part() -> impl Strategy<Value = Part> {
    let edges = [CHUNK_BYTES, CONSUMER_CHUNK_BYTES].map(|size| [size - HEADER_BYTES, size]).concat();
    let around = (select(edges), 0..3_usize).prop_map(|(edge, more)| edge + more - 1);
    prop_oneof![
        4 => small_part(),
        2 => frames(1..4, around),
        2 => frames(1..5, select(vec![70_000, 200_000])),
        1 => frames(1..3, Just(MIB)),
        1 => single(select(vec![70_000, MIB])),
    ]
}

fn text(bytes_max: usize) -> impl Strategy<Value = String> {
    let letters = select(vec!['a', '.', 'ß', '日', '\u{1f600}', '\0']);
    vec(letters, 0..bytes_max / 4).prop_map(|letters| letters.into_iter().collect())
}

/// Numbers at and around the values where their encoding changes.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, 65_530..65_540_u64, any::<u32>().prop_map(u64::from), any::<u64>()]
}

fn number_32() -> impl Strategy<Value = u32> {
    prop_oneof![0..300_u32, 65_530..65_540_u32, any::<u32>()]
}

fn number_16() -> impl Strategy<Value = u16> {
    prop_oneof![0..300_u16, any::<u16>()]
}

fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let one = (number_16(), vec(any::<u8>(), 0..300)).prop_map(|(id, data)| Extension { id, data });
    prop_oneof![4 => Just(Vec::new()), 1 => vec(one, 0..8)]
}

/// Open numbers: those that are defined, and others.
fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        text(300).prop_map(Selector::Name),
        Just(Selector::All),
        text(300).prop_map(Selector::Pattern),
        (3..=u16::MAX, text(300)).prop_map(|(kind, text)| Selector::Other { kind, text }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let magic = prop_oneof![Just(MAGIC), any::<[u8; 4]>()];
    let numbers = (number_16(), number_16(), number(), number_32(), number_32());
    (magic, numbers, text(64), text(64), extensions()).prop_map(|(magic, numbers, purpose, version, extensions)| {
        let (protocol_min, protocol_max, capabilities, pid, sender_number) = numbers;
        Hello { magic, protocol_min, protocol_max, capabilities, pid, sender_number, purpose, version, extensions }
    })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let numbers = (number_16(), number(), number(), number_32(), number_32());
    (numbers, text(64), extensions()).prop_map(|(numbers, version, extensions)| {
        let (protocol, capabilities, sender, payload_bytes_max, pid) = numbers;
        Welcome { protocol, capabilities, sender, payload_bytes_max, pid, version, extensions }
    })
}

fn report() -> impl Strategy<Value = Report> {
    (vec(number(), 11), extensions()).prop_map(|(numbers, extensions)| Report {
        uptime_ms: numbers[0],
        connections: numbers[1],
        senders: numbers[2],
        listeners: numbers[3],
        channels: numbers[4],
        messages_accepted: numbers[5],
        bytes_accepted: numbers[6],
        messages_delivered: numbers[7],
        messages_lost: numbers[8],
        held_bytes: numbers[9],
        held_bytes_max: numbers[10],
        extensions,
    })
}

/// What introduces shared memory.
fn ring() -> impl Strategy<Value = Control> {
    let fields = (number_32(), number_32(), number(), number(), extensions());
    (0..16, fields).prop_map(|(kind, (id, link, sequence, bytes, extensions))| match kind {
        0 => OfferRing { id, bytes, extensions }.into(),
        1 => RingAccepted { id, extensions }.into(),
        2 => BeginRing { id, sequence, extensions }.into(),
        3 => EndRing { id, sequence, extensions }.into(),
        4 => Recall { id, extensions }.into(),
        5 => OfferLink { link, id, sender: sequence, bytes, extensions }.into(),
        6 => LinkReady { link, extensions }.into(),
        7 => AddLink { id, link, extensions }.into(),
        8 => LinkAdded { link, extensions }.into(),
        9 => Follow { link, position: bytes, sequence, extensions }.into(),
        10 => Unfollow { link, sequence, extensions }.into(),
        11 => Unlink { link, extensions }.into(),
        12 => Prepare { extensions }.into(),
        13 => Prepared { extensions }.into(),
        14 => AwaitProgress { link, position: bytes, extensions }.into(),
        _ => Progress { link, extensions }.into(),
    })
}

fn control() -> impl Strategy<Value = Control> {
    let overflow = number_16().prop_map(Overflow::from_number);
    let code = number_16().prop_map(RefusedCode::from_number);
    prop_oneof![
        hello().prop_map(Control::from),
        welcome().prop_map(Control::from),
        (code, text(1024), extensions())
            .prop_map(|(code, reason, extensions)| Refused { code, reason, extensions }.into()),
        (text(1024), extensions()).prop_map(|(reason, extensions)| Goodbye { reason, extensions }.into()),
        (text(300), number(), extensions()).prop_map(|(channel, next_sequence, extensions)| Open {
            channel,
            next_sequence,
            extensions
        }
        .into()),
        (text(300), number_32(), number_32(), extensions()).prop_map(|(channel, id, listeners, extensions)| Opened {
            channel,
            id,
            listeners,
            extensions
        }
        .into()),
        (number_32(), selector(), overflow, any::<bool>(), extensions()).prop_map(
            |(subscription, selector, overflow, observer, extensions)| {
                Subscribe { subscription, selector, overflow, observer, extensions }.into()
            }
        ),
        (number_32(), extensions())
            .prop_map(|(subscription, extensions)| Subscribed { subscription, extensions }.into()),
        (number_32(), number(), extensions())
            .prop_map(|(id, count, extensions)| Lagged { id, count, extensions }.into()),
        (number_32(), text(300), extensions()).prop_map(|(id, name, extensions)| Named { id, name, extensions }.into()),
        extensions().prop_map(|extensions| OpenInbox { extensions }.into()),
        (number_32(), number_32(), extensions())
            .prop_map(|(id, count, extensions)| Retained { id, count, extensions }.into()),
        (number_32(), number(), extensions()).prop_map(|(id, sequence, extensions)| Superseded {
            id,
            sequence,
            extensions
        }
        .into()),
        (number_32(), extensions()).prop_map(|(id, extensions)| InboxOpened { id, extensions }.into()),
        ring(),
        extensions().prop_map(|extensions| Inspect { extensions }.into()),
        report().prop_map(Control::from),
        extensions().prop_map(|extensions| Stop { extensions }.into()),
    ]
}

/// The size of a read.
fn small_read() -> impl Strategy<Value = usize> {
    prop_oneof![0..3_usize, 25..31_usize, 1..3000_usize, Just(usize::MAX)]
}

/// Sizes of reads, used in turn; 0 is a read without data.
fn small_reads() -> impl Strategy<Value = Vec<usize>> {
    vec(small_read(), 1..12).prop_filter("some reads return data", |sizes| sizes.iter().any(|&size| size > 0))
}

/// Sizes of reads, large enough for megabytes.
fn large_reads() -> impl Strategy<Value = Vec<usize>> {
    let edge = select(vec![CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, CONSUMER_CHUNK_BYTES]);
    let size = prop_oneof![0..3_usize, 1..3000_usize, 3000..100_000_usize, edge, Just(300_000), Just(usize::MAX)];
    (vec(size, 0..6), 20_000..300_000_usize).prop_map(|(mut sizes, enough)| {
        sizes.push(enough);
        sizes
    })
}

/// Reads `wire` in pieces of these sizes and checks after each read that nothing is late and nothing is held too long.
fn reads_as_written(wire: &Wire, lends: bool, keeps: bool, sizes: &[usize]) {
    let mut stream = Stream::new(lends, PAYLOAD_BYTES_MAX, &wire.bytes);
    let mut chunk = BytesMut::new();
    for &size in sizes.iter().cycle() {
        if stream.is_over() {
            break;
        }
        stream.read(&mut chunk, size).unwrap();
        stream.check(wire);
        if !keeps {
            stream.kept.clear();
        }
    }
    assert!(stream.events == wire.events());
    if keeps {
        stream.check_kept();
    }
}

/// Reads `wire` with these steps: the size of a read, whether the bytes are parked before they are decoded, and whether the
/// frame that is then incomplete is discarded.
fn discards_exactly(mut wire: Wire, steps: &[(usize, bool, bool)], lends: bool) {
    let bytes = wire.bytes.clone();
    let mut stream = Stream::new(lends, PAYLOAD_BYTES_MAX, &bytes);
    let mut chunk = BytesMut::new();
    for &(size, parks, discards) in steps.iter().chain([&(4000, false, false)]).cycle() {
        if stream.is_over() {
            break;
        }
        stream.fill(&mut chunk, size);
        if parks {
            stream.decoder.park(&mut chunk);
        }
        stream.decode(&mut chunk).unwrap();
        stream.check(&wire);
        if discards {
            stream.discard(&mut wire);
            stream.check(&wire);
        }
    }
    assert!(stream.events == wire.events());
    assert!(!stream.decoder.is_mid_frame());
    stream.check_kept();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_yields_the_same_events(
        parts in vec(small_part(), 0..12),
        sizes in small_reads(),
        lends: bool,
        keeps: bool,
    ) {
        let wire = wire_of(&parts);
        assert!(decode_whole(&wire.bytes, lends, PAYLOAD_BYTES_MAX) == Decoded::all_of(&wire), "in one piece");
        reads_as_written(&wire, lends, keeps, &sizes);
    }

    #[test]
    fn a_parked_stream_continues_where_it_stopped(
        parts in vec(small_part(), 0..12),
        other in vec(small_part(), 1..4),
        steps in vec((prop_oneof![0..100_usize, Just(usize::MAX)], 0..4_usize), 1..12),
        lends: bool,
    ) {
        let (wire, other) = (wire_of(&parts), wire_of(&other));
        let mut stream = Stream::new(lends, PAYLOAD_BYTES_MAX, &wire.bytes);
        let mut chunk = BytesMut::new();
        let steps = steps.into_iter().chain([(usize::MAX, 1)]);
        for (size, items) in steps.collect::<Vec<_>>().into_iter().cycle() {
            if stream.is_over() {
                break;
            }
            stream.fill(&mut chunk, size);
            let mut more = true;
            while more {
                // A few items, then another stream uses the chunk.
                for _ in 0..items {
                    more = more && stream.decode_one(&mut chunk).unwrap();
                }
                let left = chunk.len();
                let held = stream.decoder.held_bytes();
                stream.decoder.park(&mut chunk);
                assert!(chunk.is_empty() && stream.decoder.held_bytes() == held + left);
                let mut user = Stream::new(lends, PAYLOAD_BYTES_MAX, &other.bytes);
                while !user.is_over() {
                    user.read(&mut chunk, usize::MAX).unwrap();
                }
                assert!(user.events == other.events());
                if items == 0 {
                    stream.decode(&mut chunk).unwrap();
                    more = false;
                }
            }
            stream.check(&wire);
        }
        assert!(stream.events == wire.events());
        stream.check_kept();
    }

    #[test]
    fn a_discarded_frame_affects_no_other(
        parts in vec(small_part(), 1..12),
        steps in vec((small_read(), any::<bool>(), any::<bool>()), 1..12),
        lends: bool,
    ) {
        discards_exactly(wire_of(&parts), &steps, lends);
    }

    #[test]
    fn streams_that_share_a_chunk_do_not_mix(
        streams in vec(vec(small_part(), 1..6), 2..5),
        lends: bool,
        turns in vec((0..4_usize, 0..5000_usize), 1..20),
    ) {
        let wires: Vec<Wire> = streams.iter().map(|parts| wire_of(parts)).collect();
        let mut streams: Vec<Stream<'_>> =
            wires.iter().map(|wire| Stream::new(lends, PAYLOAD_BYTES_MAX, &wire.bytes)).collect();
        let mut chunk = BytesMut::new();
        let turns_and_then_all = turns.into_iter().chain((0..streams.len()).map(|at| (at, usize::MAX)));
        let mut turns = turns_and_then_all.cycle();
        while !streams.iter().all(Stream::is_over) {
            let (at, size) = turns.next().unwrap();
            let at = at % streams.len();
            streams[at].read(&mut chunk, size).unwrap();
            streams.iter().zip(&wires).for_each(|(stream, wire)| stream.check(wire));
        }
        for (stream, wire) in streams.iter().zip(&wires) {
            assert!(stream.events == wire.events());
            stream.check_kept();
        }
    }

    #[test]
    fn a_malformed_stream_does_not_affect_another_that_shares_its_chunk(
        parts in vec(small_part(), 1..8),
        broken in vec(small_part(), 0..4),
        sizes in small_reads(),
    ) {
        let (wire, mut broken) = (wire_of(&parts), wire_of(&broken));
        broken.unknown(0xf0, 0, 10);
        let mut good = Stream::new(true, PAYLOAD_BYTES_MAX, &wire.bytes);
        let mut bad = Stream::new(true, PAYLOAD_BYTES_MAX, &broken.bytes);
        let mut chunk = BytesMut::new();
        let mut failed = None;
        for &size in sizes.iter().cycle() {
            if good.is_over() && failed.is_some() {
                break;
            }
            if let Err(error) = bad.read(&mut chunk, size) {
                assert_eq!(*failed.get_or_insert(error.clone()), error);
            }
            good.read(&mut chunk, size).unwrap();
            good.check(&wire);
        }
        assert_eq!(failed, Some(DecodeError::UnknownKind { kind: 0xf0 }));
        assert!(bad.events == broken.events() && good.events == wire.events());
        good.check_kept();
    }

    #[test]
    fn garbage_ends_the_same_in_any_chunking(
        bytes in garbage(),
        sizes in small_reads(),
        payload_bytes_max in select(vec![0, 100, 70_000, 1 << 20]),
    ) {
        let whole = decode_whole(&bytes, false, payload_bytes_max);
        assert!(whole == decode_whole(&bytes, true, payload_bytes_max), "lender and consumer");
        assert!(whole == decode_in(&bytes, false, payload_bytes_max, &sizes), "consumer in pieces");
        assert!(whole == decode_in(&bytes, true, payload_bytes_max, &sizes), "lender in pieces");
    }

    #[test]
    fn control_messages_come_back(control in control()) {
        let mut wire = Wire::default();
        wire.control(control);
        assert!(decode_whole(&wire.bytes, true, 0) == Decoded::all_of(&wire));
    }

    /// A later version may append fields to a message. It may not remove any.
    #[test]
    fn appended_bytes_are_skipped_and_missing_bytes_are_fatal(
        control in control(),
        cut in any::<prop::sample::Index>(),
        appended in vec(any::<u8>(), 1..40),
    ) {
        let mut frame = Vec::new();
        control.encode(&mut frame).unwrap();
        let (kind, body) = (control.kind(), &frame[HEADER_BYTES..]);
        let longer = control_frame(kind, &[body, &appended].concat());
        let decoded = Decoded { events: vec![Event::Control(control)], error: None, mid_frame: false };
        assert!(decode_whole(&longer, true, 0) == decoded);
        let shorter = error_of(&control_frame(kind, &body[..cut.index(body.len())]));
        assert!(matches!(shorter, DecodeError::Control { source: CodecError::Invalid { .. }, .. }), "{shorter:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_of_large_frames_yields_the_same_events(
        parts in vec(large_part(), 1..8),
        sizes in large_reads(),
        lends: bool,
        keeps: bool,
    ) {
        reads_as_written(&wire_of(&parts), lends, keeps, &sizes);
    }

    #[test]
    fn a_discarded_large_frame_affects_no_other(
        parts in vec(large_part(), 1..6),
        sizes in large_reads(),
        choices in vec((any::<bool>(), any::<bool>()), 1..8),
        lends: bool,
    ) {
        let choices = choices.into_iter().cycle();
        // Parking is for bytes in the chunk; a frame larger than a chunk has a buffer of its own.
        let steps: Vec<_> = sizes.into_iter().zip(choices).map(|(size, (parks, discards))| (size, parks, discards)).collect();
        discards_exactly(wire_of(&parts), &steps, lends);
    }
}

/// Bytes that are not a stream: noise, damaged streams, headers with a few bits set.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..300);
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let damaged = (vec(small_part(), 1..6), damage).prop_map(|(parts, damage)| {
        let mut bytes = wire_of(&parts).bytes;
        for (at, byte) in damage.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes
    });
    // The first bytes of a header decide. Few of them are random, so that the decoder gets past the first header.
    let header = (
        0..200_u8,
        select(vec![PUBLISH, BATCH, BATCH, 0x10, 0x13, 0x22, 0x24, 0x25, 0x80, 0xf0]),
        0..2_u8,
        vec(any::<u8>(), 0..200),
    );
    let headers = vec(header, 1..8).prop_map(|headers| {
        let mut bytes = Vec::new();
        for (len, kind, flags, body) in headers {
            bytes.extend_from_slice(Header::control(kind, flags, u32::from(len)).as_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    });
    prop_oneof![noise, damaged, headers]
}

// ---- facts ----

/// The decoder makes room for a frame as large as the last one. Any other item may arrive in that buffer.
#[test]
fn a_large_frame_may_be_followed_by_anything() {
    let frames = |channel, frames, len| Part::Frames {
        retain: false,
        channel,
        sender: 1,
        jumps: false,
        frames,
        meta: vec![0, 9],
        len,
    };
    let large = |len| frames(1, 1, len);
    let small = |count, len| frames(2, count, len);
    let batch = |messages| Part::Batch { channel: 1, sender: 1, jumps: false, lens: vec![20; messages] };
    let stop = Part::Control(Stop::default().into());
    let skipped = Part::Unknown { kind: 0x3f, len: 10 };
    let followers = [
        vec![],
        vec![small(1, 0)],
        vec![small(5, 100)],
        vec![batch(3), batch(50)],
        vec![small(300, 1000)],
        vec![stop.clone()],
        vec![skipped.clone()],
        vec![stop.clone(), small(3, 10), stop.clone(), skipped.clone()],
        vec![large(70_000)],
        vec![large(200_000)],
        vec![large(MIB)],
        vec![large(MIB + 1)],
        vec![small(1, 10), large(MIB)],
        vec![skipped, stop, large(MIB)],
    ];
    for follower in followers {
        let mut parts = vec![large(MIB), large(MIB)];
        parts.extend(follower);
        parts.extend([large(MIB), small(1, 1)]);
        let wire = wire_of(&parts);
        for lends in [true, false] {
            for sizes in [[usize::MAX, 0], [100_000, 0], [CHUNK_BYTES, CHUNK_BYTES], [50_000, MIB - 7]] {
                reads_as_written(&wire, lends, lends, &sizes);
            }
        }
    }
}

/// The room is for as many such frames as fit into four chunks, and at least for one.
#[test]
fn a_large_frame_makes_room_for_the_next_until_another_size_comes() {
    let mut frame = Wire::default();
    frame.publish(1, 1, 1, vec![]);
    let mut control = Wire::default();
    control.control(Stop::default());
    let mut skipped = Wire::default();
    skipped.unknown(0xf0, OPTIONAL, 10);
    let lender = || (Decoder::lender(PAYLOAD_BYTES_MAX), CHUNK_BYTES);
    let consumer = || (Decoder::consumer(PAYLOAD_BYTES_MAX), CONSUMER_CHUNK_BYTES);
    for ((mut decoder, chunk_bytes), len, frames) in
        [(lender(), 70_000, 3), (lender(), MIB, 1), (consumer(), 400_000, 2), (consumer(), MIB, 1)]
    {
        let mut large = Wire::default();
        large.publish(1, 1, 0, vec![1; len]);
        let mut chunk = BytesMut::new();
        for other in [&frame, &control, &skipped] {
            decoder.target(&mut chunk).put_slice(&large.bytes[..100]);
            assert!(matches!(decoder.next(&mut chunk), Ok(None)));
            let mut rest = &large.bytes[100..];
            while !rest.is_empty() {
                assert!(matches!(decoder.next(&mut chunk), Ok(None)), "it is not complete");
                let mut target = decoder.target(&mut chunk);
                let (read, more) = rest.split_at(rest.len().min(target.remaining_mut()));
                target.put_slice(read);
                rest = more;
            }
            assert!(matches!(decoder.next(&mut chunk), Ok(Some(Item::Run(_)))));
            // A read without data changes nothing.
            for _ in 0..2 {
                assert!(matches!(decoder.next(&mut chunk), Ok(None)));
                assert_eq!(decoder.target(&mut chunk).remaining_mut(), frames * large.bytes.len());
            }
            decoder.target(&mut chunk).put_slice(&other.bytes);
            while decoder.next(&mut chunk).unwrap().is_some() {}
            assert_eq!(decoder.target(&mut chunk).remaining_mut(), chunk_bytes);
        }
    }
}

#[test]
fn an_error_in_the_room_for_a_large_frame_leaves_nothing() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; MIB]);
    wire.publish(1, 1, 1, vec![1; 10]);
    let before = wire.bytes.len();
    wire.bytes.extend_from_slice(Header::control(0xf0, 0, 0).as_bytes());
    wire.bytes.resize(before + MIB / 2, 0xee);
    for sizes in [[usize::MAX], [100_000], [CHUNK_BYTES]] {
        for lends in [true, false] {
            let decoded = decode_in(&wire.bytes, lends, PAYLOAD_BYTES_MAX, &sizes);
            assert!(decoded == Decoded::then(&wire, DecodeError::UnknownKind { kind: 0xf0 }));
        }
    }
}

#[test]
fn consecutive_frames_of_one_read_are_one_run() {
    let mut wire = Wire::default();
    for sequence in [7, 8, 9] {
        wire.publish(1, 1, sequence, b"same".to_vec());
    }
    wire.publish(1, 1, 11, b"after a gap".to_vec());
    wire.publish(2, 1, 12, b"another channel".to_vec());
    wire.publish(2, 2, 13, b"another sender".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.events == wire.events());
    assert_eq!(stream.kept.iter().map(Run::messages).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[test]
fn consecutive_batches_are_one_run() {
    let mut wire = Wire::default();
    let three = || vec![b"a".to_vec(), vec![], b"ccc".to_vec()];
    wire.batch(1, 1, u64::MAX, three());
    wire.batch(1, 1, 2, three());
    wire.batch(1, 1, 6, three()); // after a gap
    wire.publish(1, 1, 9, b"another kind".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.events == wire.events());
    assert_eq!(stream.kept.iter().map(Run::messages).collect::<Vec<_>>(), [6, 3, 1]);
}

#[test]
fn a_reply_is_a_run_of_its_own() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 7, b"a message".to_vec());
    wire.reply(1, 1, 8, vec![], b"a reply".to_vec());
    wire.reply(1, 1, 9, vec![9; 9], b"another".to_vec());
    wire.publish(1, 1, 8, b"the next message".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.events == wire.events());
    assert_eq!(stream.kept.iter().map(Run::is_reply).collect::<Vec<_>>(), [false, true, true, false]);
}

#[test]
fn retained_messages_are_runs_of_their_own_kind() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 7, b"a message".to_vec());
    wire.special(RETAIN, 1, 1, 8, vec![], b"retained".to_vec());
    wire.special(RETAIN, 1, 1, 9, vec![9; 9], b"retained too".to_vec());
    wire.special(RETAIN, 1, 1, 10, vec![], vec![]);
    wire.special(REDECLARE, 1, 1, 11, vec![], b"declared again".to_vec());
    wire.special(REDECLARE, 1, 1, 12, vec![], b"another".to_vec());
    wire.special(RETAIN, 1, 1, 13, vec![], b"retained".to_vec());
    wire.publish(1, 1, 14, b"the last message".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.events == wire.events());
    let kinds = stream.kept.iter().map(|run| (run.is_retained(), run.is_redeclared(), run.messages()));
    let (plain, retained, redeclared) = ((false, false, 1), (true, false, 1), (false, true, 1));
    let expected = [plain, (true, false, 3), redeclared, redeclared, retained, plain];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[test]
fn the_messages_of_a_batch_fill_it() {
    let fits = records(&[b"abc".to_vec(), vec![], b"d".to_vec()]);
    let cut_at = |at: usize| fits[..at].to_vec();
    let huge = |len: u32| [&len.to_le_bytes()[..], b"abc"].concat();
    let mut bodies = vec![vec![], [&fits[..], b"\0"].concat(), huge(4), huge(u32::MAX - 3), huge(u32::MAX)];
    // A cut between two messages leaves a well-formed batch.
    bodies.extend((1..fits.len()).filter(|at| ![7, 11].contains(at)).map(cut_at));
    for body in bodies {
        let len = u32::try_from(body.len()).unwrap();
        let bad = [Header::batch(ChannelId(1), SenderId::new(1, 1), 1, len).as_bytes(), &body].concat();
        assert_eq!(error_of(&bad), DecodeError::BadBatch { len }, "{body:?}");
        let mut wire = Wire::default();
        wire.batch(1, SenderId::new(1, 1).raw(), 0, vec![b"x".to_vec()]);
        wire.bytes.extend_from_slice(&bad);
        for sizes in [[1], [usize::MAX]] {
            let decoded = decode_in(&wire.bytes, true, 1000, &sizes);
            assert!(decoded == Decoded::then(&wire, DecodeError::BadBatch { len }), "{body:?}");
        }
    }
}

/// The payload limit applies to one message; a batch has a limit of its own.
#[test]
fn the_payload_limit_does_not_apply_to_the_body_of_a_batch() {
    let mut wire = Wire::default();
    wire.batch(1, 1, 0, vec![vec![1; 10]; 20]);
    wire.batch(1, 1, 20, vec![vec![1; 10]; 20]);
    for sizes in [[1], [usize::MAX]] {
        assert_eq!(decode_in(&wire.bytes, true, 10, &sizes), Decoded::all_of(&wire));
    }
}

#[test]
fn a_small_run_is_copied_by_a_lender_only() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; 100]);
    for (lends, pinned) in [(true, HEADER_BYTES + 100), (false, CONSUMER_CHUNK_BYTES)] {
        let mut stream = Stream::new(lends, 1000, &wire.bytes);
        stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
        assert_eq!(stream.kept[0].pinned_bytes(), pinned);
    }
}

#[test]
fn announced_lengths_are_checked_before_anything_else_is_read() {
    let publish = |len| Header::publish(ChannelId(1), SenderId::new(1, 1), 0, len);
    let batch = |len| Header::batch(ChannelId(1), SenderId::new(1, 1), 0, len);
    let too_large = |len| DecodeError::PayloadTooLarge { len, max: 1000 };
    let meta_too_large = |len, body| DecodeError::MetadataTooLarge { len, body };
    let control_too_large = |kind, len| DecodeError::ControlTooLarge { kind, len };
    for (header, error) in [
        (publish(1001), too_large(1001)),
        (publish(u32::MAX), too_large(u32::MAX)),
        (publish(1001).with_metadata(META_BYTES_MAX), too_large(1001)),
        (publish(1000).with_metadata(META_BYTES_MAX + 1), meta_too_large(META_BYTES_MAX + 1, 5097)),
        (publish(0).with_metadata(u16::MAX), meta_too_large(u16::MAX, 65_535)),
        (batch(BATCH_BYTES_MAX + 1), DecodeError::BatchTooLarge { len: BATCH_BYTES_MAX + 1 }),
        (batch(u32::MAX), DecodeError::BatchTooLarge { len: u32::MAX }),
        (Header::control(0x10, 0, CONTROL_BYTES_MAX + 1), control_too_large(0x10, CONTROL_BYTES_MAX + 1)),
        (Header::control(0x10, 0, u32::MAX), control_too_large(0x10, u32::MAX)),
        (Header::control(0xf0, OPTIONAL, u32::MAX), control_too_large(0xf0, u32::MAX)),
    ] {
        let mut wire = Wire::default();
        wire.publish(1, 1, u64::MAX, vec![1; 1000]);
        let before = wire.bytes.len();
        wire.bytes.extend_from_slice(header.as_bytes());
        for lends in [true, false] {
            let mut stream = Stream::new(lends, 1000, &wire.bytes);
            let mut chunk = BytesMut::new();
            stream.read(&mut chunk, before + HEADER_BYTES - 1).unwrap();
            assert_eq!((stream.events.len(), stream.decoder.held_bytes()), (1, HEADER_BYTES - 1));
            assert_eq!(stream.read(&mut chunk, 1), Err(error.clone()));
            stays_failed(&mut stream.decoder, &error);
        }
    }
}

#[test]
fn the_largest_lengths_are_allowed() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; 1000]);
    wire.unknown(0xf0, OPTIONAL, CONTROL_BYTES_MAX as usize);
    wire.publish(1, 1, 1, vec![1; 1000]);
    assert!(decode_whole(&wire.bytes, true, 1000) == Decoded::all_of(&wire));
    // No decoder accepts more than the protocol allows.
    let header = Header::publish(ChannelId(1), SenderId::new(1, 1), 0, PAYLOAD_BYTES_MAX + 1);
    let error = decode_whole(header.as_bytes(), true, u32::MAX).error;
    assert_eq!(error, Some(DecodeError::PayloadTooLarge { len: PAYLOAD_BYTES_MAX + 1, max: PAYLOAD_BYTES_MAX }));
}

#[test]
fn an_oversize_frame_ends_a_stream_in_the_middle_of_a_run() {
    let publish = |sequence, metadata: usize, payload: usize| {
        let mut wire = Wire::default();
        wire.publish_with(1, 1, sequence, vec![1; metadata], vec![1; payload]);
        wire
    };
    let batch = |sequence, payload: usize| {
        let mut wire = Wire::default();
        wire.batch(1, 1, sequence, vec![vec![1; payload]]);
        wire
    };
    let fits = BATCH_BYTES_MAX as usize - RECORD_HEADER_BYTES;
    let meta_max = usize::from(META_BYTES_MAX);
    for (mut wire, oversize, error) in [
        (publish(0, 0, 10), publish(1, 0, 11), DecodeError::PayloadTooLarge { len: 11, max: 10 }),
        (publish(0, meta_max, 10), publish(1, 3, 11), DecodeError::PayloadTooLarge { len: 11, max: 10 }),
        (
            publish(0, 0, 10),
            publish(1, meta_max + 1, 0),
            DecodeError::MetadataTooLarge { len: META_BYTES_MAX + 1, body: u32::from(META_BYTES_MAX) + 1 },
        ),
        (batch(0, fits), batch(1, fits + 1), DecodeError::BatchTooLarge { len: BATCH_BYTES_MAX + 1 }),
    ] {
        wire.bytes.extend_from_slice(&oversize.bytes);
        assert!(decode_whole(&wire.bytes, true, 10) == Decoded::then(&wire, error));
    }
}

#[test]
fn a_run_may_mix_sizes_of_metadata() {
    let mut wire = Wire::default();
    let sizes = [0, 1, 4096, 0, 7];
    for (sequence, size) in (0..).zip(sizes) {
        wire.publish_with(1, 1, sequence, vec![b'm'; size], vec![b'p'; size % 5]);
    }
    let mut stream = Stream::new(true, 4, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.events == wire.events());
    assert_eq!(stream.kept.iter().map(Run::messages).collect::<Vec<_>>(), [5]);
}

#[test]
fn metadata_larger_than_its_body_is_fatal() {
    let mut first = Wire::default();
    first.publish(1, 1, 0, b"first".to_vec());
    for (metadata, body) in [(1_u16, 0_u32), (4096, 4095)] {
        let mut bad = Header::publish(ChannelId(1), SenderId::from_raw(1), 1, body).as_bytes().to_vec();
        bad[6..8].copy_from_slice(&metadata.to_le_bytes());
        bad.resize(bad.len() + body as usize, 0);
        let error = DecodeError::MetadataTooLarge { len: metadata, body };
        assert_eq!(error_of(&bad), error);
        let bytes = [&first.bytes[..], &bad].concat();
        for sizes in [[1], [usize::MAX]] {
            assert_eq!(decode_in(&bytes, true, PAYLOAD_BYTES_MAX, &sizes), Decoded::then(&first, error.clone()));
        }
    }
}

#[test]
fn a_batch_with_metadata_is_fatal() {
    let mut wire = Wire::default();
    wire.batch(1, 1, 0, vec![b"first".to_vec()]);
    let mut bad = Wire::default();
    bad.batch(1, 1, 1, vec![b"second".to_vec()]);
    bad.bytes[6] = 4;
    let error = error_of(&bad.bytes);
    assert!(matches!(error, DecodeError::Reserved { kind: BATCH, .. }), "{error:?}");
    let bytes = [&wire.bytes[..], &bad.bytes].concat();
    for sizes in [[1], [usize::MAX]] {
        assert_eq!(decode_in(&bytes, true, PAYLOAD_BYTES_MAX, &sizes), Decoded::then(&wire, error.clone()));
    }
}

#[test]
fn unknown_kinds_are_skipped_if_optional_and_fatal_otherwise() {
    let known = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
        0x30, 0x31, 0x32, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x50, 0x51, 0x60, 0x61, 0x70, 0x71, 0x72, 0x73,
        0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0x82,
    ];
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        for len in [0, 1, 4096] {
            let mut wire = Wire::default();
            wire.control(Inspect::default());
            wire.unknown(kind, OPTIONAL, len);
            wire.unknown(kind, OPTIONAL, len);
            wire.control(Stop::default());
            assert_eq!(decode_whole(&wire.bytes, true, 0), Decoded::all_of(&wire), "kind {kind:#04x}");

            let mut wire = Wire::default();
            wire.control(Inspect::default());
            wire.unknown(kind, 0, len);
            wire.control(Stop::default());
            wire.frames.truncate(1);
            let error = DecodeError::UnknownKind { kind };
            assert_eq!(decode_whole(&wire.bytes, true, 0), Decoded::then(&wire, error));
        }
    }
}

#[test]
fn an_optional_frame_of_an_unknown_kind_may_use_every_field_and_be_as_large_as_a_message() {
    let mut wire = Wire::default();
    wire.control(Inspect::default());
    wire.unknown(0x06, OPTIONAL | 0x80, 3 * MIB);
    let unknown = wire.frames.last_mut().unwrap();
    unknown.is_optional = true;
    wire.bytes[unknown.start + 6..unknown.start + HEADER_BYTES].fill(0xff);
    wire.publish(1, 1, 0, b"x".to_vec());
    assert_eq!(decode_whole(&wire.bytes, true, 1), Decoded::all_of(&wire));
    for sizes in [&[1][..], &[7, 100_000], &[usize::MAX]] {
        reads_as_written(&wire, true, true, sizes);
        reads_as_written(&wire, false, false, sizes);
    }
    let too_large = Header::control(0x06, OPTIONAL, PAYLOAD_BYTES_MAX + 1);
    let error = DecodeError::ControlTooLarge { kind: 0x06, len: PAYLOAD_BYTES_MAX + 1 };
    assert_eq!(error_of(too_large.as_bytes()), error);
}

#[test]
fn known_kinds_may_be_flagged_optional() {
    let mut wire = Wire::default();
    wire.control(Lagged { id: 1, count: 2, extensions: vec![] });
    wire.bytes[5] = OPTIONAL;
    assert_eq!(decode_whole(&wire.bytes, true, 0), Decoded::all_of(&wire));
}

#[test]
fn reserved_bits_are_fatal() {
    let mut publish = Wire::default();
    publish.publish(0, 0, 0, b"x".to_vec());
    let mut batch = Wire::default();
    batch.batch(0, 0, 0, vec![b"x".to_vec()]);
    let single = |kind| {
        let mut wire = Wire::default();
        wire.special(kind, 0, 0, 0, vec![], b"x".to_vec());
        wire
    };
    let (reply, retain, redeclare) = (single(REPLY), single(RETAIN), single(REDECLARE));
    let mut inspect = Wire::default();
    inspect.control(Inspect::default());
    // Byte 5 has the flags. Bytes 6 and 7 are the size of metadata, which batches and control frames do not have. Bytes 8 to 27 are zero in a
    // control frame.
    let singles = [&publish, &reply, &retain, &redeclare].map(|wire| (wire, 5..6));
    for (wire, places) in singles.into_iter().chain([(&batch, 5..8), (&inspect, 5..28)]) {
        for bit in places.flat_map(|at| (0..8).map(move |bit| (at, 1_u8 << bit))) {
            let is_control = wire.bytes[4] > REDECLARE;
            if is_control && bit == (5, OPTIONAL) {
                continue;
            }
            let (at, bit) = bit;
            let mut bytes = wire.bytes.clone();
            bytes[at] |= bit;
            assert!(matches!(error_of(&bytes), DecodeError::Reserved { .. }), "bit {bit:#010b} of byte {at}");
            // A valid frame before it is still delivered.
            let decoded = decode_whole(&[&publish.bytes[..], &bytes].concat(), true, 100);
            assert!(decoded.events == publish.events() && matches!(decoded.error, Some(DecodeError::Reserved { .. })));
        }
    }
}

#[test]
fn values_outside_their_type_are_fatal() {
    let subscribe = Subscribe {
        subscription: 1,
        selector: Selector::Name("c".into()),
        overflow: Overflow::Disconnect,
        observer: true,
        extensions: vec![],
    };
    let mut wire = Wire::default();
    wire.control(subscribe);
    assert_eq!(wire.bytes[HEADER_BYTES..], [1, 0, 1, b'c', 3, 1, 0]);
    // Neither true nor false; not UTF-8; markers that no 16-bit number has.
    for (at, byte) in [(5, 2), (5, 255), (3, 0xff), (1, 252), (4, 253)] {
        let mut bytes = wire.bytes.clone();
        bytes[HEADER_BYTES + at] = byte;
        let error = error_of(&bytes);
        assert!(matches!(error, DecodeError::Control { source: CodecError::Invalid { .. }, .. }), "{error:?}");
    }
}

/// The receiver decides what it does not support; decoding never fails for a number that it does not know.
#[test]
fn open_numbers_survive_a_round_trip() {
    let round_trip = |control: Control| {
        let mut wire = Wire::default();
        wire.control(control);
        assert_eq!(decode_whole(&wire.bytes, true, 0), Decoded::all_of(&wire));
        wire.bytes[HEADER_BYTES..].to_vec()
    };
    let subscribe = |selector, overflow| {
        Subscribe { subscription: 0, selector, overflow, observer: false, extensions: vec![] }.into()
    };
    let bytes = |number: u16| match number {
        0..=250 => vec![number.to_le_bytes()[0]],
        _ => [&[251][..], &number.to_le_bytes()].concat(),
    };
    for number in [0, 1, 2, 3, 4, 9, 10, 11, 12, 250, 251, u16::MAX] {
        let overflow = Overflow::from_number(number);
        assert_eq!(overflow.number(), number);
        assert_eq!(matches!(overflow, Overflow::Other(_)), number > 3);
        let body = round_trip(subscribe(Selector::All, overflow));
        assert_eq!(body, [&[0, 1, 0], &bytes(number)[..], &[0, 0]].concat());

        let code = RefusedCode::from_number(number);
        assert_eq!(code.number(), number);
        assert_eq!(matches!(code, RefusedCode::Other(_)), !(1..=11).contains(&number));
        let body = round_trip(Refused::new(code, "").into());
        assert_eq!(body, [&bytes(number)[..], &[0, 0]].concat());

        if number > 2 {
            let selector = Selector::Other { kind: number, text: "a.*".into() };
            let body = round_trip(subscribe(selector, Overflow::Latest));
            assert_eq!(body, [&[0], &bytes(number)[..], b"\x03a.*\x02\0\0"].concat());
        }
    }
    // The selector for all channels has no text. With a text, it has a meaning that this version does not know.
    round_trip(subscribe(Selector::Other { kind: 1, text: "a.*".into() }, Overflow::Latest));
}

#[test]
fn unknown_extensions_reach_the_receiver_and_do_not_change_the_message() {
    let plain = Named { id: 7, name: "news".into(), extensions: vec![] };
    let extended = Named { extensions: vec![Extension { id: 9999, data: vec![1, 2, 3] }], ..plain.clone() };
    let mut wire = Wire::default();
    wire.control(plain.clone());
    wire.control(extended);
    let decoded = decode_whole(&wire.bytes, true, 0);
    assert_eq!(decoded, Decoded::all_of(&wire));
    let Some(Event::Control(Control::Named(named))) = decoded.events.last() else { panic!("{decoded:?}") };
    assert_eq!(Named { extensions: vec![], ..named.clone() }, plain);
}

#[test]
fn a_discarded_frame_is_reported_with_its_last_byte() {
    for (lends, len) in [(true, 1000), (false, 1000), (true, MIB), (false, MIB)] {
        let mut wire = Wire::default();
        wire.publish(1, 1, 0, vec![1; len]);
        wire.publish_with(1, 1, 1, vec![2; 9], vec![2; len]);
        wire.publish(1, 1, 2, vec![3; 10]);
        let (first, second) = (wire.frames[0].end, wire.frames[1].end);
        let bytes = wire.bytes.clone();
        let mut stream = Stream::new(lends, PAYLOAD_BYTES_MAX, &bytes);
        let mut chunk = BytesMut::new();
        let mut read_to = |stream: &mut Stream<'_>, end: usize| {
            while stream.at < end {
                stream.read(&mut chunk, end - stream.at).unwrap();
            }
        };
        read_to(&mut stream, first + HEADER_BYTES - 1);
        assert!(!stream.decoder.discard_frame(), "the header is not complete");
        read_to(&mut stream, first + HEADER_BYTES);
        assert_eq!(stream.decoder.incomplete_frame().map(|header| header.sequence()), Some(1));
        stream.discard(&mut wire);
        assert_eq!((stream.decoder.held_bytes(), stream.decoder.is_mid_frame()), (0, true));
        read_to(&mut stream, second - 1);
        assert_eq!((stream.events.len(), stream.decoder.held_bytes()), (1, 0));
        read_to(&mut stream, second);
        let body_bytes = u32::try_from(len).unwrap() + 9;
        let discarded = Event::Discarded { channel: 1, sender: 1, sequence: 1, body_bytes };
        assert_eq!(stream.events.len(), 2);
        assert!(stream.events[1] == discarded);
        assert_eq!((stream.decoder.held_bytes(), stream.decoder.is_mid_frame()), (0, false));
        read_to(&mut stream, bytes.len());
        assert!(stream.events == wire.events());
    }
}

#[test]
fn large_frames_of_other_kinds_are_read_and_discarded_like_a_message() {
    for (lends, kind) in
        [true, false].into_iter().flat_map(|lends| [REPLY, RETAIN, REDECLARE].map(|kind| (lends, kind)))
    {
        let mut wire = Wire::default();
        wire.special(kind, 1, 1, 5, vec![2; 9], vec![1; MIB]);
        wire.special(kind, 1, 1, 6, vec![2; 9], vec![2; MIB]);
        let first = wire.frames[0].end;
        let bytes = wire.bytes.clone();
        let mut stream = Stream::new(lends, PAYLOAD_BYTES_MAX, &bytes);
        let mut chunk = BytesMut::new();
        while stream.at < first + HEADER_BYTES {
            stream.read(&mut chunk, first + HEADER_BYTES - stream.at).unwrap();
        }
        assert_eq!(stream.decoder.incomplete_frame().map(|header| header.kind()), Some(kind));
        stream.discard(&mut wire);
        stream.read(&mut chunk, usize::MAX).unwrap();
        while !stream.is_over() {
            stream.read(&mut chunk, usize::MAX).unwrap();
        }
        assert!(stream.events == wire.events());
        assert!(matches!(stream.events[1], Event::Discarded { sequence: 6, .. }));
    }
    for header in [Header::reply, Header::retain, Header::redeclare] {
        let oversize = header(ChannelId(1), SenderId::new(1, 1), 0, 1001);
        let mut decoder = Decoder::lender(1000);
        let error = decoder.next(&mut BytesMut::from(oversize.as_bytes())).unwrap_err();
        assert_eq!(error, DecodeError::PayloadTooLarge { len: 1001, max: 1000 });
    }
}

#[test]
fn only_an_incomplete_and_valid_publish_frame_can_be_discarded() {
    let mut wire = Wire::default();
    wire.control(Goodbye { reason: "r".repeat(100), extensions: vec![] });
    let mut chunk = BytesMut::from(&wire.bytes[..50]);
    let mut decoder = Decoder::lender(1000);
    assert!(!decoder.discard_frame(), "there is no frame");
    assert!(matches!(decoder.next(&mut chunk), Ok(None)));
    assert!(decoder.is_mid_frame() && !decoder.discard_frame(), "control frames cannot be discarded");

    // Without its body, the number of messages of a batch would be unknown.
    let mut wire = Wire::default();
    wire.batch(1, 1, 0, vec![vec![1; 100]]);
    let mut decoder = Decoder::lender(1000);
    let mut chunk = BytesMut::from(&wire.bytes[..50]);
    assert!(matches!(decoder.next(&mut chunk), Ok(None)));
    assert!(decoder.is_mid_frame() && !decoder.discard_frame(), "batches cannot be discarded");

    // A parked frame has not been checked yet.
    let oversize = Header::publish(ChannelId(1), SenderId::new(1, 1), 0, 1001);
    let mut chunk = BytesMut::from(oversize.as_bytes());
    let mut decoder = Decoder::lender(1000);
    decoder.park(&mut chunk);
    assert!(!decoder.discard_frame());
    decoder.next(&mut chunk).unwrap_err();
}

/// Parked bytes may look like a frame, end the discarded frame and begin the next.
#[test]
fn a_frame_can_be_discarded_while_bytes_are_parked() {
    let mut wire = Wire::default();
    let header = Header::publish(ChannelId(1), SenderId::from_raw(1), 0, 1000);
    wire.publish(1, 1, 0, [&[1; 42], header.as_bytes(), &[1; 30]].concat());
    wire.publish(1, 1, 1, vec![2; 100]);
    wire.control(Stop::default());
    let bytes = wire.bytes.clone();
    let mut stream = Stream::new(true, 1000, &bytes);
    let mut chunk = BytesMut::new();
    stream.fill(&mut chunk, 50);
    stream.decoder.park(&mut chunk);
    stream.discard(&mut wire);
    for (size, held) in [(20, 20), (wire.frames[1].start + 30 - 70, 58 + 30)] {
        stream.fill(&mut chunk, size);
        stream.decoder.park(&mut chunk);
        assert_eq!(stream.decoder.held_bytes(), held);
        assert!(!stream.decoder.discard_frame(), "parked bytes of a discarded frame are not a header");
        stream.decode(&mut chunk).unwrap();
    }
    stream.check(&wire);
    stream.discard(&mut wire);
    stream.read(&mut chunk, usize::MAX).unwrap();
    assert!(stream.events == wire.events());
}

#[test]
fn a_closed_decoder_drops_everything() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; MIB]);
    for discards in [false, true] {
        let mut stream = Stream::new(true, PAYLOAD_BYTES_MAX, &wire.bytes);
        let mut chunk = BytesMut::new();
        stream.read(&mut chunk, 1000).unwrap();
        assert_eq!(discards && stream.decoder.discard_frame(), discards);
        stream.decoder.close();
        for parks in [false, true] {
            stream.fill(&mut chunk, 1000);
            if parks {
                stream.decoder.park(&mut chunk);
            }
            assert!(matches!(stream.decoder.next(&mut chunk), Ok(None)));
            assert!(chunk.is_empty() && stream.decoder.held_bytes() == 0 && !stream.decoder.is_mid_frame());
        }
    }
}

#[test]
fn a_larger_payload_limit_applies_to_the_next_bytes() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; 10]);
    let (mut decoder, mut chunk) = (Decoder::consumer(0), BytesMut::new());
    decoder.target(&mut chunk).put_slice(&wire.bytes[..HEADER_BYTES - 1]);
    assert!(matches!(decoder.next(&mut chunk), Ok(None)));
    decoder.set_payload_bytes_max(10);
    decoder.target(&mut chunk).put_slice(&wire.bytes[HEADER_BYTES - 1..]);
    assert!(matches!(decoder.next(&mut chunk), Ok(Some(Item::Run(_)))));
}

#[test]
fn every_body_up_to_the_limit_comes_back() {
    // The smallest extensions take two bytes each, and the most memory per byte of the body.
    let report = |count, data: &[u8]| {
        let mut extensions = vec![Extension { id: 0, data: vec![] }; count];
        extensions[count - 1].data = data.to_vec();
        Control::Report(Report { extensions, ..Report::default() })
    };
    let bytes = |count| 11 + if count > 250 { 3 } else { 1 } + 2 * count;
    let most = (1..).take_while(|&count| bytes(count) <= CONTROL_BYTES_MAX as usize).last().unwrap();
    assert_eq!(bytes(most), CONTROL_BYTES_MAX as usize);
    for count in [1, 250, 251, 400, 500, 1000, most] {
        let mut wire = Wire::default();
        wire.control(report(count, b""));
        assert_eq!(wire.bytes.len(), HEADER_BYTES + bytes(count));
        assert_eq!(decode_whole(&wire.bytes, true, 0), Decoded::all_of(&wire), "{count} extensions");
    }
    let mut out = b"before".to_vec();
    report(most, b"x").encode(&mut out).unwrap_err();
    assert_eq!(out, b"before");
}
