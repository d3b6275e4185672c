//! Messages of a ring as runs of frames, with an end that the ring does not have; and what a reader's page shows.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;

use broadcaster_protocol::decode::Item;
use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH, KIND_RETAIN};
use broadcaster_protocol::limits::{BATCH_BYTES_MAX, HEADER_BYTES, META_BYTES_MAX};
use broadcaster_protocol::{ChannelId, Decoder, Header, SenderId};
use broadcaster_ring::{
    Corrupt, Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PAGE_MAGIC, PageReader, PageWriter, Sample, Start, Taken, Writer,
};
use bytes::BytesMut;
use common::memory;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

const CHANNEL: ChannelId = ChannelId(7);

const SENDER: SenderId = SenderId::new(42, 3);

/// Words of data: room for eight records of 8 bytes.
const CAPACITY: usize = 24;

type Memory = Arc<[AtomicU64]>;

fn ring() -> (Memory, Writer<Memory>) {
    let memory = memory(CAPACITY.next_power_of_two());
    (memory.clone(), Writer::new(memory, 100))
}

fn publish(writer: &mut Writer<Memory>, messages: u64) {
    for _ in 0..messages {
        let payload = writer.cursor().sequence.to_le_bytes();
        writer.push(KIND_PUBLISH, b"", &payload).unwrap();
        let _ = writer.publish();
    }
}

fn intake(memory: &Memory, start: Start) -> Intake<Memory> {
    Intake::open(memory.clone(), start, CHANNEL, SENDER).unwrap()
}

/// How many were lost, and the sequence numbers of those that were taken.
fn taken(taken: &Taken) -> (u64, Vec<u64>) {
    let sequences = taken.run.iter().flat_map(|run| {
        assert_eq!((run.channel(), run.sender()), (CHANNEL, SENDER));
        run.iter().map(|(sequence, payload)| {
            assert_eq!(payload, &sequence.to_le_bytes()[..]);
            sequence
        })
    });
    (taken.lost, sequences.collect())
}

#[test]
fn messages_are_taken_as_frames() {
    let (memory, mut writer) = ring();
    let mut intake = intake(&memory, Start::Oldest);
    assert!(intake.take(None, 1000).unwrap().is_empty() && !intake.is_ready());
    publish(&mut writer, 5);
    assert!(intake.is_ready());
    assert_eq!(taken(&intake.take(None, 2 * (HEADER_BYTES + 8)).unwrap()), (0, vec![100, 101]));
    assert_eq!(taken(&intake.take(None, 1000).unwrap()), (0, vec![102, 103, 104]));
    assert_eq!(intake.frame_bytes(), 5 * (28 + 8));
    assert_eq!((intake.cursor(), intake.newest()), (writer.cursor(), Ok(writer.cursor())));
    let _ = writer.close();
    assert!(intake.take(None, 1000).unwrap().is_empty());
}

#[test]
fn memory_is_used_again_once_no_message_refers_to_it() {
    let memory = memory(256);
    let mut writer = Writer::new(memory.clone(), 100);
    let mut intake = intake(&memory, Start::Oldest);
    let mut take = |messages| {
        publish(&mut writer, messages);
        intake.take(None, usize::MAX).unwrap().run.unwrap()
    };
    let burst = take(10);
    let (address, pinned_bytes) = (burst.bytes().as_ptr(), burst.pinned_bytes());
    assert!((10 * 36..=1000).contains(&pinned_bytes), "{pinned_bytes}");
    // What the burst occupies is not pinned by others as well.
    let small = [take(1), take(1)];
    for run in &small {
        assert!((36..=100).contains(&run.pinned_bytes()), "{}", run.pinned_bytes());
        assert!(run.bytes().as_ptr().addr().wrapping_sub(address.addr()) >= pinned_bytes);
    }
    drop((burst, small));
    let address = take(10).bytes().as_ptr();
    for _ in 0..3 {
        let run = take(1);
        assert_eq!(run.bytes().as_ptr(), address);
        assert!(run.pinned_bytes() >= 10 * 36, "it pins everything");
    }
    let burst = take(10);
    assert_eq!(burst.bytes().as_ptr(), address);
    // A look at an empty ring gives up nothing.
    assert!(intake.take(None, 1000).unwrap().is_empty());
    drop(burst);
    publish(&mut writer, 10);
    assert_eq!(intake.take(None, 1000).unwrap().run.unwrap().bytes().as_ptr(), address);
}

/// The body of a batch whose messages are their sequence numbers.
fn batch(sequences: std::ops::Range<u64>) -> Vec<u8> {
    sequences.flat_map(|sequence| [&8u32.to_le_bytes()[..], &sequence.to_le_bytes()].concat()).collect()
}

#[test]
fn a_run_has_frames_of_one_kind() {
    let memory = memory(256);
    let mut writer = Writer::new(memory.clone(), 100);
    let mut intake = intake(&memory, Start::Oldest);
    publish(&mut writer, 2);
    writer.push_batch(KIND_BATCH, 3, &batch(102..105)).unwrap();
    writer.push_batch(KIND_BATCH, 1, &batch(105..106)).unwrap();
    let _ = writer.publish();
    publish(&mut writer, 1);
    let runs = [vec![100, 101], vec![102, 103, 104, 105], vec![106]];
    for (kind, sequences) in [KIND_PUBLISH, KIND_BATCH, KIND_PUBLISH].into_iter().zip(runs) {
        let found = intake.take(None, 1000).unwrap();
        let frames = found.run.clone().unwrap().into_bytes();
        assert_eq!(taken(&found), (0, sequences));
        // As a socket would have carried them.
        let Some(Item::Run(run)) = Decoder::consumer(1024).next(&mut BytesMut::from(&frames[..])).unwrap() else {
            panic!("a run")
        };
        assert_eq!((run.into_bytes(), Header::peek(&frames).unwrap().kind()), (frames, kind));
    }
    assert_eq!(intake.frame_bytes(), 3 * (28 + 8) + (28 + 36) + (28 + 12));
    assert!(intake.take(None, 1000).unwrap().is_empty());
}

#[test]
fn a_batch_that_does_not_fill_its_body_is_corrupt() {
    let stated = |messages, body: &[u8]| {
        let memory = memory(4096);
        let mut writer = Writer::new(memory.clone(), 100);
        writer.push_batch(KIND_BATCH, messages, body).unwrap();
        let _ = writer.publish();
        intake(&memory, Start::Oldest).take(None, 1000).map(|taken| taken.run.unwrap().messages())
    };
    let body = batch(100..103);
    assert_eq!(stated(3, &body), Ok(3));
    for messages in [1, 2, 4, 9] {
        assert!(matches!(stated(messages, &body), Err(Corrupt::Record { position: 0, .. })), "{messages}");
    }
    assert!(matches!(stated(3, &body[..35]), Err(Corrupt::Record { .. })));
    assert!(matches!(stated(4, &[&body[..], &[1, 0, 0, 0]].concat()), Err(Corrupt::Record { .. })));
    let most = BATCH_BYTES_MAX as usize / 12;
    assert!(stated(most as u16, &batch(0..most as u64)).is_ok());
    let more = most + 1;
    assert!(matches!(stated(more as u16, &batch(0..more as u64)), Err(Corrupt::Record { .. })), "as for a socket");
}

#[test]
fn an_end_within_a_batch_is_none_that_an_honest_sender_has() {
    let memory = memory(256);
    let mut writer = Writer::new(memory.clone(), 100);
    let mut intake = intake(&memory, Start::Oldest);
    writer.push_batch(KIND_BATCH, 3, &batch(100..103)).unwrap();
    let _ = writer.publish();
    assert_eq!(intake.take(Some(102), 1000).unwrap_err(), Corrupt::Sequence { position: 0, found: 102, next: 100 });
    assert_eq!(taken(&intake.take(Some(103), 1000).unwrap()), (0, vec![100, 101, 102]));
}

#[test]
fn nothing_is_taken_from_the_end_on() {
    let (memory, mut writer) = ring();
    let mut intake = intake(&memory, Start::Oldest);
    publish(&mut writer, 5);
    assert_eq!(taken(&intake.take(Some(103), 1000).unwrap()), (0, vec![100, 101, 102]));
    assert!(intake.take(Some(103), 1000).unwrap().is_empty());
    assert!(intake.take(Some(50), 1000).unwrap().is_empty());
    assert_eq!(taken(&intake.take(Some(105), 1000).unwrap()), (0, vec![103, 104]));
}

#[test]
fn what_was_overwritten_from_the_end_on_is_not_lost() {
    let (memory, mut writer) = ring();
    let (mut one, mut other) = (intake(&memory, Start::Oldest), intake(&memory, Start::Oldest));
    publish(&mut writer, 100);
    let lapped = one.take(Some(110), 1000).unwrap();
    assert_eq!(taken(&lapped), (10, vec![]));
    assert!(one.take(Some(110), 1000).unwrap().is_empty());
    assert_eq!(one.cursor().sequence, 110);
    let (lost, sequences) = taken(&other.take(Some(199), 1000).unwrap());
    assert!(lost > 80 && sequences == (100 + lost..199).collect::<Vec<_>>(), "{lost} lost, then {sequences:?}");
}

#[test]
fn an_intake_continues_where_it_is_sent() {
    let (memory, mut writer) = ring();
    let mut intake = intake(&memory, Start::Newest);
    publish(&mut writer, 3);
    let newest = intake.newest().unwrap();
    assert_eq!(newest.sequence, 103);
    intake.seek(newest);
    publish(&mut writer, 1);
    assert_eq!(taken(&intake.take(None, 1000).unwrap()), (0, vec![103]));
}

#[test]
fn only_messages_are_taken() {
    for (kind, metadata) in [(KIND_RETAIN, 0), (KIND_PUBLISH, META_BYTES_MAX as usize + 1)] {
        let memory = memory(1 << 14);
        let mut writer = Writer::new(memory.clone(), 0);
        writer.push(KIND_PUBLISH, &vec![0; META_BYTES_MAX as usize], b"1").unwrap();
        writer.push(kind, &vec![0; metadata], b"2").unwrap();
        let _ = writer.publish();
        let mut intake = Intake::open(memory, Start::Oldest, CHANNEL, SENDER).unwrap();
        assert_eq!(intake.take(None, 1 << 20).unwrap().run.unwrap().messages(), 1);
        assert!(matches!(intake.take(None, 1 << 20), Err(Corrupt::Record { .. })), "{kind}");
    }
}

#[test]
fn no_position_makes_an_intake_panic() {
    let (memory, mut writer) = ring();
    publish(&mut writer, 3);
    for word in 0..HEADER_WORDS {
        for value in [0, 1, 5, u64::MAX - 1, u64::MAX] {
            let before = memory[word].swap(value, Relaxed);
            for start in [Start::Oldest, Start::Newest, Start::At(Cursor { position: u64::MAX, sequence: u64::MAX })] {
                if let Ok(mut intake) = Intake::open(memory.clone(), start, CHANNEL, SENDER) {
                    for end in [None, Some(0), Some(101), Some(u64::MAX)] {
                        let _ = (intake.newest(), intake.take(end, 100), intake.take(end, 0));
                    }
                }
            }
            memory[word].store(before, Relaxed);
        }
    }
}

fn page() -> Memory {
    (0..PAGE_BYTES / 8).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn a_page_shows_what_its_reader_does() {
    let memory = page();
    assert_eq!(PageReader::open(&memory[..]).unwrap_err(), Corrupt::Magic { found: 0, expected: PAGE_MAGIC });
    assert!(PageReader::open(&memory[..8]).is_err());
    let mut writer = PageWriter::new(&memory[..]);
    let mut reader = PageReader::open(&memory[..]).unwrap();
    assert_eq!((reader.sample(), reader.is_called()), (Sample::default(), false));
    writer.count(30, 3, 0);
    writer.count(90, 2, 7);
    assert_eq!(reader.sample(), Sample { position: 90, received: 5, lost: 7 });
    writer.call();
    assert!(reader.is_called() && !reader.is_called());
    writer.call();
    writer.call();
    assert!(reader.is_called() && !reader.is_called());
}

#[test]
fn a_page_has_the_doorbell_of_its_reader() {
    let (ring, page) = (memory(32), page());
    let mut writer = Writer::new(ring.clone(), 0);
    let mut sleeper = PageWriter::new(&page[..]);
    let mut ringer = PageReader::open(&page[..]).unwrap();
    assert!(!ringer.must_ring(&writer.publish()), "it is awake");
    assert!(!sleeper.arm(|| true), "something is ready");
    assert!(!ringer.must_ring(&writer.publish()));
    assert!(sleeper.arm(|| false));
    assert!(ringer.must_ring(&writer.publish()) && !ringer.must_ring(&writer.publish()), "once for each sleep");
    sleeper.disarm();
    assert!(sleeper.arm(|| false) && ringer.must_ring(&writer.publish()));
    sleeper.disarm();
    assert!(!ringer.must_ring(&writer.publish()));
}
