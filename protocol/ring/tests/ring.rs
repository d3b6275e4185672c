//! What a ring does for one writer and its readers in one thread.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;

use broadcaster_ring::{
    CAPACITY_WORDS_MIN, Corrupt, Cursor, Doorbell, HEADER_WORDS, MAGIC, Poll, PushError, Reader, Ringer, Start, Words,
    WordsMut, Writer,
};
use common::{Message, Mortal, drain, memory, poll};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed};

const CAPACITY: usize = 64;

type Memory = Arc<[AtomicU64]>;

fn ring(first_sequence: u64) -> (Memory, Writer<Memory>, Reader<Memory>) {
    let memory = memory(CAPACITY);
    let writer = Writer::new(memory.clone(), first_sequence);
    let reader = Reader::open(memory.clone(), Start::Newest).unwrap();
    (memory, writer, reader)
}

/// Publishes so many records of three words.
fn publish<W: WordsMut>(writer: &mut Writer<W>, records: u64) {
    for _ in 0..records {
        let sequence = writer.cursor().sequence;
        writer.push(1, &[], &sequence.to_le_bytes()).unwrap();
    }
    let _ = writer.publish();
}

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}

#[test]
fn metadata_and_payload_of_every_length_are_copied_across_the_wrap() {
    let (_, mut writer, mut reader) = ring(0);
    let bytes: Vec<u8> = (1..=48).collect();
    for metadata in 0..=20 {
        for payload in 0..=48 {
            let (metadata, payload) = (&bytes[..metadata], &bytes[..payload]);
            let sequence = writer.cursor().sequence;
            writer.push(4, metadata, payload).unwrap();
            let _ = writer.publish();
            let (polled, messages) = poll(&mut reader, 0).unwrap();
            assert_eq!(polled, Poll::Messages(1));
            assert_eq!(
                messages,
                [Message { sequence, kind: 4, batch: 0, metadata: metadata.to_vec(), payload: payload.to_vec() }]
            );
        }
    }
    assert_eq!(reader.cursor(), writer.cursor());
}

#[test]
fn a_record_is_at_most_a_quarter_of_the_ring() {
    let (_, mut writer, mut reader) = ring(0);
    assert_eq!(writer.record_bytes_max(), CAPACITY * 8 / 4);
    assert_eq!(writer.push(1, &[1], &[2; 104]), Ok(()));
    assert_eq!(writer.push(1, &[1], &[2; 105]), Err(PushError::TooLarge { len: 136, max: 128 }));
    assert_eq!(
        writer.push(1, &[1; 1 << 16], &[]),
        Err(PushError::MetadataTooLarge { len: 1 << 16, max: (1 << 16) - 1 })
    );
    let _ = writer.publish();
    assert_eq!(sequences(&drain(&mut reader)), [0]);
}

#[test]
fn records_are_invisible_until_they_are_published() {
    let (_, mut writer, mut reader) = ring(7);
    writer.push(1, &[], b"a").unwrap();
    writer.push(1, &[], b"b").unwrap();
    assert!(!reader.is_ready());
    assert_eq!(poll(&mut reader, 100).unwrap().0, Poll::Empty);
    let _ = writer.publish();
    assert!(reader.is_ready());
    assert_eq!(sequences(&poll(&mut reader, 100).unwrap().1), [7, 8]);
}

#[test]
fn a_batch_that_is_larger_than_half_of_the_ring_appears_in_parts() {
    let (_, mut writer, mut reader) = ring(0);
    for _ in 0..10 {
        writer.push(1, &[], &[0; 8]).unwrap(); // 30 words
    }
    assert_eq!(poll(&mut reader, usize::MAX).unwrap().0, Poll::Empty);
    writer.push(1, &[], &[0; 8]).unwrap();
    assert_eq!(poll(&mut reader, usize::MAX).unwrap().0, Poll::Messages(10));
}

#[test]
fn a_poll_copies_until_it_has_enough_bytes() {
    let (_, mut writer, mut reader) = ring(0);
    publish(&mut writer, 5);
    assert_eq!(sequences(&poll(&mut reader, 0).unwrap().1), [0]);
    assert_eq!(sequences(&poll(&mut reader, 26).unwrap().1), [1, 2], "25 bytes each, with their header");
    assert_eq!(sequences(&poll(&mut reader, 1000).unwrap().1), [3, 4]);
}

#[test]
fn a_lapped_reader_learns_the_exact_loss_and_continues_at_the_oldest_record() {
    let (memory, mut writer, mut reader) = ring(0);
    publish(&mut writer, 21); // 63 words
    publish(&mut writer, 1); // gives up at least 2 + 8 words: 4 records
    let oldest = Reader::open(memory, Start::Oldest).unwrap();
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { lost: 4 });
    assert_eq!(reader.cursor(), oldest.cursor());
    assert_eq!(sequences(&drain(&mut reader)), (4..22).collect::<Vec<_>>());
    publish(&mut writer, 1000);
    assert!(matches!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { lost: 979..1000 }));
    assert_eq!(drain(&mut reader).last().unwrap().sequence, 1021);
}

#[test]
fn a_record_that_ends_one_word_behind_the_oldest_gives_it_up() {
    let (_, mut writer, mut reader) = ring(0);
    publish(&mut writer, 20); // 60 words
    writer.push(1, &[], &[0; 24]).unwrap(); // 5 words
    let _ = writer.publish();
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { lost: 3 }, "9 words or more");
}

#[test]
fn readers_begin_where_they_state() {
    let (memory, mut writer, _) = ring(100);
    let open = |start| Reader::open(memory.clone(), start).unwrap();
    let first = Cursor { position: 0, sequence: 100 };
    assert_eq!([Start::Oldest, Start::Newest].map(|start| open(start).cursor()), [first, first]);
    publish(&mut writer, 2);
    assert_eq!(open(Start::Oldest).cursor(), first);
    assert_eq!(open(Start::Newest).cursor(), Cursor { position: 6, sequence: 102 });
    assert_eq!(open(Start::Newest).cursor(), writer.cursor());
    let mut reader = open(Start::At(Cursor { position: 3, sequence: 101 }));
    assert_eq!(sequences(&drain(&mut reader)), [101]);
    publish(&mut writer, 50);
    let mut reader = open(Start::At(Cursor { position: 3, sequence: 101 }));
    let oldest = open(Start::Oldest).cursor().sequence;
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { lost: oldest - 101 });
}

#[test]
fn sequence_numbers_wrap() {
    let (_, mut writer, mut reader) = ring(u64::MAX - 1);
    publish(&mut writer, 3);
    assert_eq!(sequences(&drain(&mut reader)), [u64::MAX - 1, u64::MAX, 0]);
    publish(&mut writer, 30);
    assert!(matches!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { .. }));
    assert_eq!(drain(&mut reader).last().unwrap().sequence, 30);
}

#[test]
fn a_closed_ring_is_read_to_its_end() {
    let (memory, mut writer, mut reader) = ring(0);
    writer.push(1, &[], b"last").unwrap();
    let _ = writer.close();
    let mut late = Reader::open(memory, Start::Newest).unwrap();
    assert!(late.is_ready());
    assert_eq!(poll(&mut late, 0).unwrap().0, Poll::Closed);
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Messages(1));
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Closed);
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Closed);
}

#[test]
fn a_dropped_writer_does_not_close_its_ring() {
    let (_, writer, mut reader) = ring(0);
    drop(writer);
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Empty);
}

#[test]
fn other_memory_is_not_a_ring() {
    let open = |memory: &[AtomicU64]| Reader::open(memory, Start::Oldest).map(|_| ());
    assert_eq!(open(&memory(CAPACITY)), Err(Corrupt::Magic { found: 0, expected: MAGIC }));
    assert_eq!(open(&[]), Err(Corrupt::Magic { found: 0, expected: MAGIC }));
    let (memory, ..) = ring(0);
    assert_eq!(open(&memory), Ok(()));
    let stated = CAPACITY as u64;
    assert_eq!(open(&memory[..HEADER_WORDS + 32]), Err(Corrupt::Capacity { stated, words: HEADER_WORDS + 32 }));
    for stated in [0, 1, 32, 63, 65, 128, u64::MAX] {
        memory[1].store(stated, Relaxed);
        assert_eq!(open(&memory), Err(Corrupt::Capacity { stated, words: HEADER_WORDS + CAPACITY }));
    }
    memory[1].store(CAPACITY_WORDS_MIN / 2, Relaxed);
    assert!(matches!(open(&memory[..HEADER_WORDS + 8]), Err(Corrupt::Capacity { .. })));
    memory[0].store(MAGIC + (1 << 48), Relaxed);
    assert_eq!(open(&memory), Err(Corrupt::Magic { found: MAGIC + (1 << 48), expected: MAGIC }), "another version");
}

#[test]
fn a_corrupt_ring_is_named() {
    /// The first error of a reader that has read two records of three words, of which there are four, if a word is replaced.
    fn error(index: usize, word: u64) -> Option<Corrupt> {
        let (memory, mut writer, mut reader) = ring(100);
        publish(&mut writer, 4);
        poll(&mut reader, 30).unwrap();
        assert_eq!(reader.cursor(), Cursor { position: 6, sequence: 102 });
        memory[index].store(word, Relaxed);
        loop {
            match poll(&mut reader, 0) {
                Ok((Poll::Messages(_) | Poll::Lapped { .. }, _)) => {}
                Ok(_) => return None,
                Err(corrupt) => return Some(corrupt),
            }
        }
    }

    const HEAD: usize = 16;
    const TAIL: usize = 32;
    let data = |position: usize| HEADER_WORDS + position;
    let bounds = |tail, head| Some(Corrupt::Bounds { position: 6, tail, head });
    assert_eq!(error(HEAD, 12), None);
    assert_eq!(error(HEAD, 3), bounds(0, 3));
    assert_eq!(error(HEAD, 6 + CAPACITY as u64 + 1), bounds(0, 71));
    assert_eq!(error(TAIL, 12), bounds(12, 12));
    assert_eq!(error(TAIL, 15), bounds(15, 12));
    assert_eq!(error(TAIL, u64::MAX), bounds(u64::MAX, 12));
    let record = |word| Some(Corrupt::Record { position: 6, word });
    // Of the batches, one has no messages, one has too many, and one has another flag.
    for word in [33, u64::from(u32::MAX), 8 | 1 << 40, 8 | 9 << 48, 8 | 1 << 40 | 3 << 48, 8 | 3 << 40 | 1 << 48] {
        assert_eq!(error(data(6), word), record(word), "{word:#x}");
    }
    let sequence = |position, found, next| Some(Corrupt::Sequence { position, found, next });
    assert_eq!(error(data(8), 101), sequence(6, 101, 102));
    assert_eq!(error(data(8), 103), sequence(6, 103, 102));
    // The tail claims that one record is lost.
    assert_eq!(error(TAIL, 9), None);
    let (memory, mut writer, mut reader) = ring(100);
    publish(&mut writer, 4);
    memory[TAIL].store(9, Relaxed);
    for found in [99, 100, 119, 100 + (1 << 63)] {
        memory[data(11)].store(found, Relaxed);
        assert_eq!(poll(&mut reader, 0), Err(Corrupt::Sequence { position: 9, found, next: 100 }));
    }
    memory[data(11)].store(118, Relaxed);
    assert_eq!(poll(&mut reader, 0).unwrap().0, Poll::Lapped { lost: 18 }, "of batches of empty messages");
}

#[test]
fn a_batch_is_one_record_with_several_messages() {
    let (_, mut writer, mut reader) = ring(u64::MAX - 1);
    writer.push_batch(2, 5, &[9; 20]).unwrap();
    writer.push(1, b"", b"alone").unwrap();
    let _ = writer.publish();
    let (polled, records) = poll(&mut reader, usize::MAX).unwrap();
    assert_eq!(polled, Poll::Messages(6));
    let numbers: Vec<_> = records.iter().map(|record| (record.sequence, record.batch, record.payload.len())).collect();
    assert_eq!(numbers, [(u64::MAX - 1, 5, 20), (3, 0, 5)]);
    assert_eq!((reader.cursor(), reader.newest()), (writer.cursor(), Ok(writer.cursor())));
}

#[test]
fn all_messages_of_a_batch_that_is_overwritten_are_lost() {
    let (_, mut writer, mut reader) = ring(0);
    // Ten words each, of which the ring holds six.
    for _ in 0..20 {
        writer.push_batch(2, 16, &[0; 64]).unwrap();
        let _ = writer.publish();
    }
    let Poll::Lapped { lost } = poll(&mut reader, 0).unwrap().0 else { panic!("it was lapped") };
    let (polled, records) = poll(&mut reader, usize::MAX).unwrap();
    assert_eq!((lost % 16, records[0].sequence, records.len() as u64), (0, lost, 20 - lost / 16));
    assert_eq!(polled, Poll::Messages(320 - lost));
}

#[test]
#[should_panic(expected = "6 messages in 23 bytes")]
fn a_batch_states_a_length_for_each_message() {
    let _ = ring(0).1.push_batch(2, 6, &[0; 23]);
}

#[test]
fn a_writer_that_never_stops_moving_the_tail_costs_a_reader_bounded_work() {
    /// A ring whose tail is another one for each load.
    #[derive(Debug)]
    struct Moving(Memory, Cell<u64>);

    impl Words for Moving {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn load(&self, index: usize, ordering: Ordering) -> u64 {
            self.1.set(self.1.get() + 1);
            if index == 32 { self.1.get() } else { self.0.load(index, ordering) }
        }

        fn fence(&self, ordering: Ordering) {
            self.0.fence(ordering);
        }
    }

    let (memory, mut writer, reader) = ring(0);
    publish(&mut writer, 1);
    memory[16].store(u64::MAX, Relaxed);
    let moving = Moving(memory, Cell::new(0));
    let mut lapped = Reader::open(&moving, Start::At(reader.cursor())).unwrap();
    assert_eq!(poll(&mut lapped, 0).unwrap().0, Poll::Empty);
    assert!(lapped.is_ready());
    assert_eq!(Reader::open(&moving, Start::Oldest).unwrap_err(), Corrupt::Overtaken);
    let loads = moving.1.get();
    assert!(loads < 200, "{loads} loads");
}

#[test]
fn records_before_a_corrupt_one_are_read() {
    let (memory, mut writer, mut reader) = ring(0);
    publish(&mut writer, 3);
    memory[HEADER_WORDS + 8].store(77, Relaxed);
    assert_eq!(sequences(&poll(&mut reader, usize::MAX).unwrap().1), [0, 1]);
    for _ in 0..2 {
        assert_eq!(poll(&mut reader, usize::MAX), Err(Corrupt::Sequence { position: 6, found: 77, next: 2 }));
    }
}

#[test]
#[should_panic(expected = "not 100 words")]
fn a_ring_has_a_power_of_two_of_words() {
    Writer::new(memory(100 - HEADER_WORDS), 0);
}

#[test]
fn a_writer_that_dies_between_two_stores_leaves_what_it_has_published() {
    /// Pushes batches of records of several sizes until memory no longer changes; returns how many are published.
    fn write(words: &Mortal) -> u64 {
        let mut writer = Writer::new(words.clone(), 0);
        let head_of = |words: &Mortal| words.memory[16].load(Relaxed);
        let (mut published, mut pushed, mut head) = (0, 0, 0);
        for batch in 0..30u64 {
            for size in 0..batch % 3 + 1 {
                let before = writer.cursor();
                writer.push(1, &[3; 5][..size as usize], &vec![7; (batch * 7 + size * 31) as usize % 90]).unwrap();
                if head_of(words) != head {
                    // More than half of the ring would have waited.
                    (published, head) = (before.sequence, before.position);
                }
                pushed = writer.cursor().sequence;
            }
            let _ = writer.publish();
            if head_of(words) != head {
                (published, head) = (pushed, head_of(words));
            }
        }
        published
    }

    let published = write(&Mortal::new(CAPACITY, usize::MAX));
    assert!(published > 50);
    for stores in (3..).step_by(if cfg!(miri) { 97 } else { 1 }) {
        let words = Mortal::new(CAPACITY, stores);
        let last = write(&words);
        for start in [Start::Oldest, Start::At(Cursor { position: 0, sequence: 0 })] {
            let mut reader = Reader::open(words.memory.clone(), start).unwrap();
            let mut next = reader.cursor().sequence;
            loop {
                match poll(&mut reader, 0).unwrap() {
                    (Poll::Messages(_), messages) => assert_eq!(messages[0].sequence, next),
                    (Poll::Lapped { lost }, _) => next += lost - 1,
                    (Poll::Empty, _) => break,
                    (Poll::Closed, _) => unreachable!("nothing closes it"),
                }
                next += 1;
            }
            assert_eq!(next, last, "after {stores} stores");
        }
        if last == published {
            return;
        }
    }
}

#[test]
fn a_listener_is_woken_once_for_each_sleep() {
    let word = memory(0);
    let mut doorbell = Doorbell::new(word.clone(), 3);
    let mut ringers = [Ringer::new(word.clone(), 3), Ringer::new(word.clone(), 3)];
    let published = Writer::new(memory(CAPACITY), 0).publish();
    let mut ring = || ringers.each_mut().map(|ringer| ringer.must_ring(&published));
    assert_eq!(ring(), [false; 2], "awake at first");
    for _ in 0..3 {
        assert!(doorbell.arm(|| false));
        assert_eq!((ring(), ring()), ([true; 2], [false; 2]));
        doorbell.disarm();
        assert_eq!(ring(), [false; 2], "awake");
        doorbell.disarm();
        assert_eq!(ring(), [false; 2], "still awake");
    }
    assert!(doorbell.arm(|| false) && doorbell.arm(|| false), "armed twice without waking");
    assert_eq!(ring(), [true; 2]);
}

#[test]
fn a_listener_that_is_ready_does_not_sleep() {
    let word = memory(0);
    let mut doorbell = Doorbell::new(word.clone(), 0);
    let mut ringer = Ringer::new(word.clone(), 0);
    let published = Writer::new(memory(CAPACITY), 0).publish();
    assert!(!doorbell.arm(|| {
        assert!(ringer.must_ring(&published), "it is armed before it looks");
        true
    }));
    assert!(!ringer.must_ring(&published));
}

#[test]
fn a_doorbell_outlives_its_owner() {
    let word = memory(0);
    let mut ringer = Ringer::new(word.clone(), 0);
    let published = Writer::new(memory(CAPACITY), 0).publish();
    for _ in 0..3 {
        let mut doorbell = Doorbell::new(word.clone(), 0);
        assert!(!ringer.must_ring(&published));
        assert!(doorbell.arm(|| false));
        assert!(ringer.must_ring(&published));
    }
}

#[test]
fn a_reader_needs_no_write_access() {
    struct ReadOnly(Memory);

    impl Words for ReadOnly {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn load(&self, index: usize, ordering: Ordering) -> u64 {
            self.0.load(index, ordering)
        }

        fn fence(&self, ordering: Ordering) {
            self.0.fence(ordering);
        }
    }

    let (memory, mut writer, _) = ring(0);
    let mut reader = Reader::open(ReadOnly(memory.clone()), Start::Oldest).unwrap();
    publish(&mut writer, 1);
    assert_eq!(sequences(&drain(&mut reader)), [0]);
}
