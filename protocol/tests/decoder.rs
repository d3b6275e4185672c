//! The decoder makes the same of a stream whatever pieces it comes in, and refuses what it must. What it allocates is
//! counted in `memory.rs`.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::control::{
    Control, Extension, Goodbye, Hello, Lagged, MAGIC, Monitor, Named, Open, Opened, Overflow, Refused, RefusedCode,
    Report, Role, Subscribe, Subscribed, Welcome,
};
use broadcaster_protocol::decode::{CHUNK_BYTES, CONSUMER_CHUNK_BYTES};
use broadcaster_protocol::limits::{
    BATCH_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES,
};
use broadcaster_protocol::{ChannelId, CodecError, DecodeError, Decoder, Header, Item, Run, SenderId};
use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const PUBLISH: u8 = 0x01;

const BATCH: u8 = 0x02;

const OPTIONAL: u8 = 0x01;

const MIB: usize = 1024 * 1024;

/// A run of a lender pins at most so many times what it shows.
const PINS_FACTOR_MAX: usize = 4;

/// What a stream says, without a word about the runs and batches that its messages came in.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Message { channel: u32, sender: u64, sequence: u64, payload: Vec<u8> },
    Control(Control),
}

/// A stream that is well-formed, with what it says.
#[derive(Debug, Clone, Default)]
struct Wire {
    bytes: Vec<u8>,
    said: Vec<Said>,
    /// For each frame: where it ends, and how many items of `said` are said by then.
    ends: Vec<(usize, usize)>,
}

impl Wire {
    fn publish(&mut self, channel: u32, sender: u64, sequence: u64, payload: Vec<u8>) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header::publish(ChannelId(channel), SenderId::from_raw(sender), sequence, len);
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(&payload);
        self.said.push(Said::Message { channel, sender, sequence, payload });
        self.ends.push((self.bytes.len(), self.said.len()));
    }

    fn batch(&mut self, channel: u32, sender: u64, first: u64, payloads: Vec<Vec<u8>>) {
        let body = records(&payloads);
        let len = u32::try_from(body.len()).unwrap();
        let header = Header::batch(ChannelId(channel), SenderId::from_raw(sender), first, len);
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(&body);
        for (at, payload) in (0..).zip(payloads) {
            self.said.push(Said::Message { channel, sender, sequence: first.wrapping_add(at), payload });
        }
        self.ends.push((self.bytes.len(), self.said.len()));
    }

    fn control(&mut self, control: Control) {
        control.encode(&mut self.bytes).unwrap();
        self.said.push(Said::Control(control));
        self.ends.push((self.bytes.len(), self.said.len()));
    }

    /// A frame of a kind that no version knows yet.
    fn unknown(&mut self, kind: u8, flags: u8, len: usize) {
        self.bytes.extend_from_slice(Header::control(kind, flags, u32::try_from(len).unwrap()).as_bytes());
        self.bytes.resize(self.bytes.len() + len, 0xee);
        self.ends.push((self.bytes.len(), self.said.len()));
    }

    /// How many items are said when `at` bytes were read, and what a decoder holds then.
    fn progress(&self, at: usize) -> (usize, usize) {
        let whole = self.ends.partition_point(|&(end, _)| end <= at);
        let (start, said) = whole.checked_sub(1).map_or((0, 0), |last| self.ends[last]);
        let held = match at - start {
            0 => 0,
            1..HEADER_BYTES => HEADER_BYTES,
            _ => self.ends[whole].0 - start,
        };
        (said, held)
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

/// One stream on its way through a decoder.
struct Stream<'a> {
    decoder: Decoder,
    lends: bool,
    wire: &'a [u8],
    at: usize,
    said: Vec<Said>,
    /// A server keeps runs for as long as somebody has to get them.
    kept: Vec<Run>,
}

impl<'a> Stream<'a> {
    fn new(lends: bool, payload_bytes_max: u32, wire: &'a [u8]) -> Self {
        let decoder = if lends { Decoder::lender(payload_bytes_max) } else { Decoder::consumer(payload_bytes_max) };
        Self { decoder, lends, wire, at: 0, said: Vec::new(), kept: Vec::new() }
    }

    /// One read as a server does it: at most `max` bytes go where the decoder wants them, then everything is decoded.
    fn read(&mut self, chunk: &mut BytesMut, max: usize) -> Result<(), DecodeError> {
        let rest = &self.wire[self.at..];
        let mut target = self.decoder.target(chunk);
        assert!(target.has_remaining_mut(), "a read into no room looks like the end of a stream");
        let len = max.min(rest.len()).min(target.remaining_mut());
        target.put_slice(&rest[..len]);
        self.at += len;
        self.decode(chunk)
    }

    fn decode(&mut self, chunk: &mut BytesMut) -> Result<(), DecodeError> {
        while let Some(item) = self.decoder.next(chunk).inspect_err(|_| assert!(chunk.is_empty()))? {
            match item {
                Item::Control(control) => self.said.push(Said::Control(control)),
                Item::Run(run) => {
                    check_run(&run, self.lends);
                    self.said.extend(messages_of(&run));
                    self.kept.push(run);
                }
            }
        }
        assert!(chunk.is_empty(), "what is not decoded stays in the decoder");
        assert_eq!(self.decoder.is_mid_frame(), self.decoder.held_bytes() > 0);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.at == self.wire.len()
    }

    /// Everything complete was said, and nothing but the start of the next frame is held.
    fn check(&self, wire: &Wire) {
        let (said, held) = wire.progress(self.at);
        assert_eq!(self.said.len(), said, "items after {} bytes", self.at);
        assert_eq!(self.decoder.held_bytes(), held, "held after {} bytes", self.at);
    }

    /// The runs that were kept still say what they said.
    fn check_kept(&self) {
        let kept: Vec<Said> = self.kept.iter().flat_map(messages_of).collect();
        let messages = self.said.iter().filter(|said| matches!(said, Said::Message { .. }));
        assert!(kept.iter().eq(messages));
    }
}

/// The messages of a run, read by hand.
fn messages_of(run: &Run) -> Vec<Said> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let mut rest: &[u8] = run.bytes();
    let mut messages = Vec::new();
    while let Some((header, tail)) = rest.split_at_checked(HEADER_BYTES) {
        let (mut body, tail) = tail.split_at(usize::try_from(number(&header[..4])).unwrap());
        let mut sequence = number(&header[20..]);
        let mut say = |payload: &[u8]| {
            let (channel, sender) = (u32::try_from(number(&header[8..12])).unwrap(), number(&header[12..20]));
            messages.push(Said::Message { channel, sender, sequence, payload: payload.to_vec() });
            sequence = sequence.wrapping_add(1);
        };
        assert_eq!([header[5], header[6], header[7]], [0; 3]);
        match header[4] {
            PUBLISH => say(body),
            BATCH => {
                while let Some((len, records)) = body.split_at_checked(RECORD_HEADER_BYTES) {
                    let (payload, more) = records.split_at(usize::try_from(number(len)).unwrap());
                    say(payload);
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

fn check_run(run: &Run, lends: bool) {
    let by_hand = messages_of(run);
    assert!(!by_hand.is_empty() && by_hand.len() as u64 == run.messages());
    let (channel, sender, first) = (run.channel().0, run.sender().raw(), run.first());
    let told = run.iter().zip(0..).map(|((sequence, payload), at)| {
        assert_eq!(sequence, first.wrapping_add(at));
        Said::Message { channel, sender, sequence, payload: payload.to_vec() }
    });
    assert!(told.eq(by_hand));
    let (shown, pinned) = (run.bytes().len(), run.pinned_bytes());
    assert!(pinned >= shown && (!lends || pinned <= shown * PINS_FACTOR_MAX), "{pinned} pinned for {shown}");
}

/// What a decoder makes of `bytes` in pieces of these sizes: what was said, and how it ended.
fn decode_in(
    bytes: &[u8],
    lends: bool,
    payload_bytes_max: u32,
    sizes: &[usize],
) -> (Vec<Said>, Option<DecodeError>, bool) {
    let mut stream = Stream::new(lends, payload_bytes_max, bytes);
    let mut chunk = BytesMut::new();
    for &size in sizes.iter().cycle() {
        if stream.is_over() {
            break;
        }
        if let Err(error) = stream.read(&mut chunk, size) {
            stays_failed(&mut stream.decoder, &error);
            return (stream.said, Some(error), false);
        }
    }
    stream.check_kept();
    (stream.said, None, stream.decoder.is_mid_frame())
}

/// What a decoder makes of `bytes` in one piece, however long.
fn decode_whole(bytes: &[u8], lends: bool, payload_bytes_max: u32) -> (Vec<Said>, Option<DecodeError>, bool) {
    let mut stream = Stream::new(lends, payload_bytes_max, bytes);
    let error = stream.decode(&mut BytesMut::from(bytes)).err();
    (stream.said, error, stream.decoder.is_mid_frame())
}

/// Whatever comes after an error, there is no way back, and nothing is held.
fn stays_failed(decoder: &mut Decoder, error: &DecodeError) {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![7; 100]);
    wire.control(Control::Stop);
    let mut chunk = BytesMut::new();
    for bytes in [&wire.bytes[..], &[], &wire.bytes[..10]] {
        decoder.target(&mut chunk).put_slice(bytes);
        assert_eq!(decoder.next(&mut chunk).unwrap_err(), *error);
        assert!(chunk.is_empty() && !decoder.is_mid_frame());
        assert_eq!(decoder.held_bytes(), 0);
    }
}

/// The error that a stream of nothing but `bytes` ends with, at once.
fn error_of(bytes: &[u8]) -> DecodeError {
    let (said, error, _) = decode_whole(bytes, true, PAYLOAD_BYTES_MAX);
    assert!(said.is_empty(), "{said:?}");
    error.expect("an error")
}

// ---- what streams are made of ----

#[derive(Debug, Clone)]
enum Part {
    /// So many frames of this size by one sender on one channel; `jumps`: after a hole in its sequence numbers.
    Frames {
        channel: u32,
        sender: u64,
        jumps: bool,
        frames: usize,
        len: usize,
    },
    /// One batch of messages of these sizes.
    Batch {
        channel: u32,
        sender: u64,
        jumps: bool,
        lens: Vec<usize>,
    },
    Control(Control),
    Unknown {
        kind: u8,
        len: usize,
    },
}

fn wire_of(parts: &[Part]) -> Wire {
    let mut wire = Wire::default();
    // Close to the end of the numbers, so that some runs go past it.
    let mut sequences = [[u64::MAX - 3; 4]; 4];
    for (fill, part) in parts.iter().enumerate() {
        match part {
            Part::Control(control) => wire.control(control.clone()),
            Part::Unknown { kind, len } => wire.unknown(*kind, OPTIONAL, *len),
            Part::Batch { channel, sender, jumps, lens } => {
                let next = &mut sequences[*channel as usize][usize::try_from(*sender).unwrap()];
                *next = next.wrapping_add(u64::from(*jumps));
                let payloads = (0..).zip(lens).map(|(at, &len)| filled(fill, next.wrapping_add(at), len)).collect();
                wire.batch(*channel, *sender, *next, payloads);
                *next = next.wrapping_add(lens.len() as u64);
            }
            Part::Frames { channel, sender, jumps, frames, len } => {
                let next = &mut sequences[*channel as usize][usize::try_from(*sender).unwrap()];
                *next = next.wrapping_add(u64::from(*jumps));
                for _ in 0..*frames {
                    wire.publish(*channel, *sender, *next, filled(fill, *next, *len));
                    *next = next.wrapping_add(1);
                }
            }
        }
    }
    wire
}

/// A payload that is unlike others, and unlike itself a few bytes on.
fn filled(fill: usize, sequence: u64, len: usize) -> Vec<u8> {
    let mut payload = vec![fill.to_le_bytes()[0]; len];
    for (at, block) in payload.chunks_mut(509).enumerate() {
        block[0] = (at as u64 ^ sequence).to_le_bytes()[0];
    }
    payload
}

fn frames(frames: std::ops::Range<usize>, len: impl Strategy<Value = usize>) -> impl Strategy<Value = Part> {
    (1..3_u32, 1..3_u64, prop::bool::weighted(0.1), frames, len)
        .prop_map(|(channel, sender, jumps, frames, len)| Part::Frames { channel, sender, jumps, frames, len })
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

/// Frames of up to a few kilobytes, control messages, and what must be skipped.
fn small_part() -> impl Strategy<Value = Part> {
    let unknown = (select(vec![0x00, 0x03, 0x30, 0x41, 0x5f, 0x7f, 0xff]), 0..100_usize);
    prop_oneof![
        6 => frames(1..20, 0..100_usize),
        2 => frames(1..4, 0..3000_usize),
        4 => batch(),
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
    ]
}

fn text(bytes_max: usize) -> impl Strategy<Value = String> {
    let letters = select(vec!['a', '.', 'ß', '日', '\u{1f600}', '\0']);
    vec(letters, 0..bytes_max / 4).prop_map(|letters| letters.into_iter().collect())
}

/// Numbers at and around the places where their encoding changes.
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

fn control() -> impl Strategy<Value = Control> {
    let roles = select(vec![Role::Sender, Role::Listener, Role::Inspector]);
    let overflows = select(vec![Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect]);
    let hello = (
        prop_oneof![Just(MAGIC), any::<[u8; 4]>()],
        (number_16(), number_16(), roles, number()),
        (number_32(), number_32(), text(64), extensions()),
    );
    let welcome = (number_16(), number(), number(), number_32(), number_32(), text(64), extensions());
    prop_oneof![
        hello.prop_map(
            |(magic, (protocol_min, protocol_max, role, capabilities), (pid, sender_number, version, extensions))| {
                Control::Hello(Hello {
                    magic,
                    protocol_min,
                    protocol_max,
                    role,
                    capabilities,
                    pid,
                    sender_number,
                    version,
                    extensions,
                })
            }
        ),
        welcome.prop_map(|(protocol, capabilities, sender, payload_bytes_max, pid, version, extensions)| {
            Control::Welcome(Welcome { protocol, capabilities, sender, payload_bytes_max, pid, version, extensions })
        }),
        (number_16(), text(1024))
            .prop_map(|(code, reason)| Control::Refused(Refused::new(RefusedCode::from_number(code), reason))),
        text(1024).prop_map(|reason| Control::Goodbye(Goodbye { reason })),
        (text(300), number()).prop_map(|(channel, next_sequence)| Control::Open(Open { channel, next_sequence })),
        (number_32(), number_32()).prop_map(|(channel, listeners)| Control::Opened(Opened { channel, listeners })),
        (text(300), overflows).prop_map(|(channel, overflow)| Control::Subscribe(Subscribe { channel, overflow })),
        (text(300), number_32()).prop_map(|(channel, id)| Control::Subscribed(Subscribed { channel, id })),
        (number_32(), number()).prop_map(|(channel, count)| Control::Lagged(Lagged { channel, count })),
        Just(Control::Inspect),
        (vec(number(), 11), extensions()).prop_map(|(numbers, extensions)| Control::Report(Report {
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
        })),
        Just(Control::Stop),
        vec(text(60), 0..20).prop_map(|channels| Control::Monitor(Monitor { channels })),
        Just(Control::Monitoring),
        (number_32(), text(300)).prop_map(|(channel, name)| Control::Named(Named { channel, name })),
    ]
}

/// Sizes of reads, used in turn; 0 is a read that found nothing.
fn small_reads() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![0..3_usize, 25..31_usize, 1..3000_usize, Just(usize::MAX)];
    vec(size, 1..12).prop_filter("some reads find something", |sizes| sizes.iter().any(|&size| size > 0))
}

/// Sizes of reads that get through megabytes.
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
    assert!(stream.said == wire.said);
    if keeps {
        stream.check_kept();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_says_the_same(
        parts in vec(small_part(), 0..12),
        sizes in small_reads(),
        lends: bool,
        keeps: bool,
    ) {
        let wire = wire_of(&parts);
        let (said, error, mid_frame) = decode_whole(&wire.bytes, lends, PAYLOAD_BYTES_MAX);
        assert!(said == wire.said && error.is_none() && !mid_frame, "in one piece: {error:?}");
        reads_as_written(&wire, lends, keeps, &sizes);
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
            assert!(stream.said == wire.said);
            stream.check_kept();
        }
    }

    #[test]
    fn a_broken_stream_harms_none_that_shares_its_chunk(
        parts in vec(small_part(), 1..8),
        broken in vec(small_part(), 0..4),
        sizes in small_reads(),
    ) {
        let (wire, mut broken) = (wire_of(&parts), wire_of(&broken));
        broken.unknown(0x7f, 0, 10);
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
        assert_eq!(failed, Some(DecodeError::UnknownKind { kind: 0x7f }));
        assert!(bad.said == broken.said && good.said == wire.said);
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
        let (said, error, _) = decode_whole(&wire.bytes, true, 0);
        assert!(error.is_none() && said == wire.said);
    }

    #[test]
    fn control_bodies_are_as_long_as_they_say(control in control(), cut in any::<prop::sample::Index>(), more: u8) {
        let mut wire = Vec::new();
        control.encode(&mut wire).unwrap();
        let (kind, body) = (control.kind(), &wire[HEADER_BYTES..]);
        let frame = |body: &[u8]| {
            [Header::control(kind, 0, u32::try_from(body.len()).unwrap()).as_bytes(), body].concat()
        };
        let trailing = CodecError::Trailing { len: body.len() + 1, used: body.len() };
        let longer = [body, &[more]].concat();
        assert_eq!(error_of(&frame(&longer)), DecodeError::Control { kind, source: trailing });
        if !body.is_empty() {
            let shorter = error_of(&frame(&body[..cut.index(body.len())]));
            assert!(matches!(shorter, DecodeError::Control { source: CodecError::Invalid { .. }, .. }), "{shorter:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_of_large_frames_says_the_same(
        parts in vec(large_part(), 1..8),
        sizes in large_reads(),
        lends: bool,
        keeps: bool,
    ) {
        reads_as_written(&wire_of(&parts), lends, keeps, &sizes);
    }
}

/// Bytes that are not a stream: noise, streams with damage, headers with a few bits set.
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
    // The first bytes of a header decide; few of them are wild, so that more than the first header is looked at.
    let header = (
        0..200_u8,
        select(vec![PUBLISH, BATCH, BATCH, 0x10, 0x13, 0x24, 0x80, 0x7f]),
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

/// The way of a buffer that was made for a frame as large as the one before, through each kind of thing that can come
/// in its place.
#[test]
fn a_large_frame_may_be_followed_by_anything() {
    let large = |len| Part::Frames { channel: 1, sender: 1, jumps: false, frames: 1, len };
    let small = |frames, len| Part::Frames { channel: 2, sender: 1, jumps: false, frames, len };
    let batch = |messages| Part::Batch { channel: 1, sender: 1, jumps: false, lens: vec![20; messages] };
    let stop = Part::Control(Control::Stop);
    let skipped = Part::Unknown { kind: 0x30, len: 10 };
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

/// Room for as many frames like it as fit into four chunks, but for one at least.
#[test]
fn a_large_frame_makes_room_for_the_next_until_another_size_comes() {
    let mut frame = Wire::default();
    frame.publish(1, 1, 1, vec![]);
    let mut control = Wire::default();
    control.control(Control::Stop);
    let mut skipped = Wire::default();
    skipped.unknown(0x7f, OPTIONAL, 10);
    let lender = || (Decoder::lender(PAYLOAD_BYTES_MAX), CHUNK_BYTES);
    let consumer = || (Decoder::consumer(PAYLOAD_BYTES_MAX), CONSUMER_CHUNK_BYTES);
    for ((mut decoder, chunk_bytes), len, frames) in
        [(lender(), 70_000, 3), (lender(), MIB, 1), (consumer(), 400_000, 2), (consumer(), 2 * MIB, 1)]
    {
        let mut large = Wire::default();
        large.publish(1, 1, 0, vec![1; len]);
        let mut chunk = BytesMut::new();
        for other in [&frame, &control, &skipped] {
            decoder.target(&mut chunk).put_slice(&large.bytes[..100]);
            assert!(matches!(decoder.next(&mut chunk), Ok(None)));
            decoder.target(&mut chunk).put_slice(&large.bytes[100..]);
            assert!(matches!(decoder.next(&mut chunk), Ok(Some(Item::Run(_)))));
            // A read that finds nothing changes nothing.
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
    wire.bytes.extend_from_slice(Header::control(0x7f, 0, 0).as_bytes());
    wire.bytes.resize(before + MIB / 2, 0xee);
    for sizes in [[usize::MAX], [100_000], [CHUNK_BYTES]] {
        for lends in [true, false] {
            let (said, error, _) = decode_in(&wire.bytes, lends, PAYLOAD_BYTES_MAX, &sizes);
            assert!(said == wire.said && error == Some(DecodeError::UnknownKind { kind: 0x7f }));
        }
    }
}

#[test]
fn consecutive_frames_of_one_read_are_one_run() {
    let mut wire = Wire::default();
    for sequence in [7, 8, 9] {
        wire.publish(1, 1, sequence, b"same".to_vec());
    }
    wire.publish(1, 1, 11, b"after a hole".to_vec());
    wire.publish(2, 1, 12, b"another channel".to_vec());
    wire.publish(2, 2, 13, b"another sender".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.said == wire.said);
    assert_eq!(stream.kept.iter().map(Run::messages).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[test]
fn consecutive_batches_are_one_run() {
    let mut wire = Wire::default();
    let three = || vec![b"a".to_vec(), vec![], b"ccc".to_vec()];
    wire.batch(1, 1, u64::MAX, three());
    wire.batch(1, 1, 2, three());
    wire.batch(1, 1, 6, three()); // after a hole
    wire.publish(1, 1, 9, b"another kind".to_vec());
    let mut stream = Stream::new(true, 1000, &wire.bytes);
    stream.read(&mut BytesMut::new(), usize::MAX).unwrap();
    assert!(stream.said == wire.said);
    assert_eq!(stream.kept.iter().map(Run::messages).collect::<Vec<_>>(), [6, 3, 1]);
}

#[test]
fn the_messages_of_a_batch_fill_it() {
    let fits = records(&[b"abc".to_vec(), vec![], b"d".to_vec()]);
    let cut_at = |at: usize| fits[..at].to_vec();
    let huge = |len: u32| [&len.to_le_bytes()[..], b"abc"].concat();
    let mut bodies = vec![vec![], [&fits[..], b"\0"].concat(), huge(4), huge(u32::MAX - 3), huge(u32::MAX)];
    // A cut between two messages leaves a batch that is in order.
    bodies.extend((1..fits.len()).filter(|at| ![7, 11].contains(at)).map(cut_at));
    for body in bodies {
        let len = u32::try_from(body.len()).unwrap();
        let bad = [Header::batch(ChannelId(1), SenderId::new(1, 1), 1, len).as_bytes(), &body].concat();
        assert_eq!(error_of(&bad), DecodeError::BadBatch { len }, "{body:?}");
        let mut wire = Wire::default();
        wire.batch(1, SenderId::new(1, 1).raw(), 0, vec![b"x".to_vec()]);
        wire.bytes.extend_from_slice(&bad);
        for sizes in [[1], [usize::MAX]] {
            let (said, error, _) = decode_in(&wire.bytes, true, 1000, &sizes);
            assert!(said == wire.said && error == Some(DecodeError::BadBatch { len }), "{body:?}");
        }
    }
}

/// Senders keep each message within the daemon's limit; how many they put in a batch has a limit of its own.
#[test]
fn the_size_of_a_batch_has_nothing_to_do_with_the_largest_payload() {
    let mut wire = Wire::default();
    wire.batch(1, 1, 0, vec![vec![1; 10]; 20]);
    wire.batch(1, 1, 20, vec![vec![1; 10]; 20]);
    for sizes in [[1], [usize::MAX]] {
        assert_eq!(decode_in(&wire.bytes, true, 10, &sizes), (wire.said.clone(), None, false));
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
    let control_too_large = |kind, len| DecodeError::ControlTooLarge { kind, len };
    for (header, error) in [
        (publish(1001), too_large(1001)),
        (publish(u32::MAX), too_large(u32::MAX)),
        (batch(BATCH_BYTES_MAX + 1), DecodeError::BatchTooLarge { len: BATCH_BYTES_MAX + 1 }),
        (batch(u32::MAX), DecodeError::BatchTooLarge { len: u32::MAX }),
        (Header::control(0x10, 0, CONTROL_BYTES_MAX + 1), control_too_large(0x10, CONTROL_BYTES_MAX + 1)),
        (Header::control(0x10, 0, u32::MAX), control_too_large(0x10, u32::MAX)),
        (Header::control(0x7f, OPTIONAL, u32::MAX), control_too_large(0x7f, u32::MAX)),
    ] {
        let mut wire = Wire::default();
        wire.publish(1, 1, u64::MAX, vec![1; 1000]);
        let before = wire.bytes.len();
        wire.bytes.extend_from_slice(header.as_bytes());
        for lends in [true, false] {
            let mut stream = Stream::new(lends, 1000, &wire.bytes);
            let mut chunk = BytesMut::new();
            stream.read(&mut chunk, before + HEADER_BYTES - 1).unwrap();
            assert_eq!((stream.said.len(), stream.decoder.held_bytes()), (1, HEADER_BYTES));
            assert_eq!(stream.read(&mut chunk, 1), Err(error.clone()));
            stays_failed(&mut stream.decoder, &error);
        }
    }
}

#[test]
fn the_largest_lengths_are_allowed() {
    let mut wire = Wire::default();
    wire.publish(1, 1, 0, vec![1; 1000]);
    wire.unknown(0x7f, OPTIONAL, CONTROL_BYTES_MAX as usize);
    wire.publish(1, 1, 1, vec![1; 1000]);
    let (said, error, _) = decode_whole(&wire.bytes, true, 1000);
    assert!(error.is_none() && said == wire.said);
    // No decoder takes more than the protocol allows, whatever it was told.
    let header = Header::publish(ChannelId(1), SenderId::new(1, 1), 0, PAYLOAD_BYTES_MAX + 1);
    let (_, error, _) = decode_whole(header.as_bytes(), true, u32::MAX);
    assert_eq!(error, Some(DecodeError::PayloadTooLarge { len: PAYLOAD_BYTES_MAX + 1, max: PAYLOAD_BYTES_MAX }));
}

#[test]
fn an_oversize_frame_ends_a_stream_in_the_middle_of_a_run() {
    let mut frames = Wire::default();
    frames.publish(1, 1, 0, vec![1; 10]);
    frames.publish(1, 1, 1, vec![1; 10]);
    frames.publish(1, 1, 2, vec![1; 11]);
    let (said, error, _) = decode_whole(&frames.bytes, true, 10);
    assert!(said == frames.said[..2]);
    assert_eq!(error, Some(DecodeError::PayloadTooLarge { len: 11, max: 10 }));

    let mut batches = Wire::default();
    let fits = BATCH_BYTES_MAX as usize - RECORD_HEADER_BYTES;
    batches.batch(1, 1, 0, vec![vec![1; fits]]);
    batches.batch(1, 1, 1, vec![vec![1; fits]]);
    batches.batch(1, 1, 2, vec![vec![1; fits + 1]]);
    let (said, error, _) = decode_whole(&batches.bytes, true, PAYLOAD_BYTES_MAX);
    assert!(said == batches.said[..2]);
    assert_eq!(error, Some(DecodeError::BatchTooLarge { len: BATCH_BYTES_MAX + 1 }));
}

#[test]
fn unknown_kinds_are_skipped_if_optional_and_fatal_otherwise() {
    let known = [0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x24, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85];
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        for len in [0, 1, 4096] {
            let mut wire = Wire::default();
            wire.control(Control::Inspect);
            wire.unknown(kind, OPTIONAL, len);
            wire.unknown(kind, OPTIONAL, len);
            wire.control(Control::Stop);
            assert_eq!(decode_whole(&wire.bytes, true, 0), (wire.said, None, false), "kind {kind:#04x}");

            let mut wire = Wire::default();
            wire.control(Control::Inspect);
            wire.unknown(kind, 0, len);
            wire.control(Control::Stop);
            let error = DecodeError::UnknownKind { kind };
            assert_eq!(decode_whole(&wire.bytes, true, 0), (vec![Said::Control(Control::Inspect)], Some(error), false));
        }
    }
}

#[test]
fn known_kinds_may_be_flagged_optional() {
    let mut wire = Wire::default();
    wire.control(Control::Lagged(Lagged { channel: 1, count: 2 }));
    wire.bytes[5] = OPTIONAL;
    assert_eq!(decode_whole(&wire.bytes, true, 0), (wire.said, None, false));
}

#[test]
fn reserved_bits_are_fatal() {
    let mut publish = Wire::default();
    publish.publish(0, 0, 0, b"x".to_vec());
    let mut batch = Wire::default();
    batch.batch(0, 0, 0, vec![b"x".to_vec()]);
    let mut inspect = Wire::default();
    inspect.control(Control::Inspect);
    let mut unknown = Wire::default();
    unknown.unknown(0x7f, OPTIONAL, 0);
    // Bytes 5 to 7 are flags and reserved; a control frame has nothing to say in 8 to 27 either.
    for (wire, places) in [(&publish, 5..8), (&batch, 5..8), (&inspect, 5..28), (&unknown, 5..28)] {
        for bit in places.flat_map(|at| (0..8).map(move |bit| (at, 1_u8 << bit))) {
            let is_control = wire.bytes[4] > BATCH;
            if is_control && bit == (5, OPTIONAL) {
                continue;
            }
            let (at, bit) = bit;
            let mut bytes = wire.bytes.clone();
            bytes[at] |= bit;
            assert!(matches!(error_of(&bytes), DecodeError::Reserved { .. }), "bit {bit:#010b} of byte {at}");
            // Behind a frame that is in order, the frame is still delivered.
            let (said, error, _) = decode_whole(&[&publish.bytes[..], &bytes].concat(), true, 100);
            assert!(said == publish.said && matches!(error, Some(DecodeError::Reserved { .. })));
        }
    }
}

#[test]
fn values_that_no_version_has_are_fatal() {
    let mut wire = Wire::default();
    wire.control(Control::Subscribe(Subscribe { channel: "c".into(), overflow: Overflow::Disconnect }));
    let overflow = wire.bytes.len() - 1;
    for (at, byte) in [(overflow, 4), (overflow, 250), (HEADER_BYTES + 1, 0xff)] {
        let mut bytes = wire.bytes.clone();
        bytes[at] = byte;
        let error = error_of(&bytes);
        assert!(matches!(error, DecodeError::Control { source: CodecError::Invalid { .. }, .. }), "{error:?}");
    }
}

#[test]
fn every_body_up_to_the_limit_comes_back() {
    // The smallest extensions take two bytes each, and the most memory for each byte of the body.
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
        assert_eq!(decode_whole(&wire.bytes, true, 0), (wire.said, None, false), "{count} extensions");
    }
    let mut out = b"before".to_vec();
    report(most, b"x").encode(&mut out).unwrap_err();
    assert_eq!(out, b"before");
}
