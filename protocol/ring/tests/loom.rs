//! Interleavings of a writer, readers and listeners, with every value that the memory model lets them load. Runs under the model checker only:
//!
//! ```text
//! RUSTFLAGS='--cfg loom' cargo test -p broadcaster-ring --test loom --release --target-dir target/loom
//! ```
#![cfg(loom)]

use broadcaster_ring::{
    Corrupt, Cursor, Doorbell, HEADER_WORDS, PageReader, PageWriter, Poll, Reader, Ringer, Sample, Start, Words,
    WordsMut, Writer,
};
use bytes::BytesMut;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::sync::atomic::AtomicUsize;

/// Words of data: room for five records.
const CAPACITY: usize = 16;

/// Words of a record whose payload is one word.
const RECORD: u64 = 3;

const KIND: u8 = 1;

/// The words of the header that are in use. The others do not exist.
const HEADER: [usize; 7] = [0, 1, 2, 16, 17, 18, 32];

/// The memory of a ring.
#[derive(Clone)]
struct Memory(Arc<Vec<AtomicU64>>);

impl Memory {
    fn new() -> Self {
        Self(Arc::new((0..HEADER.len() + CAPACITY).map(|_| AtomicU64::new(0)).collect()))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        let used = || HEADER.iter().position(|&used| used == index).expect("a word of the header that is in use");
        &self.0[index.checked_sub(HEADER_WORDS).map_or_else(used, |data| HEADER.len() + data)]
    }
}

impl Words for Memory {
    fn count(&self) -> usize {
        HEADER_WORDS + CAPACITY
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.word(index).load(ordering)
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

impl WordsMut for Memory {
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        self.word(index).store(word, ordering);
    }
}

/// Memory whose writer dies after some stores: none that follows happens.
struct Mortal {
    memory: Memory,
    /// Not part of the model.
    stores_left: std::sync::Arc<AtomicUsize>,
}

impl Words for Mortal {
    fn count(&self) -> usize {
        self.memory.count()
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.memory.load(index, ordering)
    }

    fn fence(&self, ordering: Ordering) {
        self.memory.fence(ordering);
    }
}

impl WordsMut for Mortal {
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        if let Some(left) = self.stores_left.load(Ordering::Relaxed).checked_sub(1) {
            self.stores_left.store(left, Ordering::Relaxed);
            self.memory.store(index, word, ordering);
        }
    }
}

/// Explores all executions with at most three preemptions, or as many as `LOOM_MAX_PREEMPTIONS` states. More find nothing new and take minutes.
fn check(execution: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(execution);
}

fn payload(sequence: u64) -> [u8; 8] {
    (!sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

fn push<W: WordsMut>(writer: &mut Writer<W>) {
    let sequence = writer.cursor().sequence;
    writer.push(KIND, &[], &payload(sequence)).expect("it fits");
}

fn push_and_publish<W: WordsMut>(writer: &mut Writer<W>) {
    push(writer);
    let _ = writer.publish();
}

/// A ring in which so many records are published, and a reader at the first of them.
fn ring<W: WordsMut>(words: W, memory: &Memory, records: u64) -> (Writer<W>, Reader<Memory>) {
    let mut writer = Writer::new(words, 0);
    let first = writer.cursor();
    (0..records).for_each(|_| push_and_publish(&mut writer));
    let reader = Reader::open(memory.clone(), Start::At(first)).expect("a ring");
    (writer, reader)
}

#[derive(Debug, Default)]
struct Outcome {
    received: u64,
    lost: u64,
    closed: bool,
}

impl Outcome {
    fn counted(&self) -> u64 {
        self.received + self.lost
    }
}

/// Polls so many times, or until nothing is left. Checks that each record is intact and follows from the one before.
fn read(reader: &mut Reader<Memory>, polls: usize, bytes_max: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for _ in 0..polls {
        let first = reader.cursor().sequence;
        let mut bytes = BytesMut::new();
        let header = |record: &broadcaster_ring::Record| record.sequence.to_le_bytes();
        match reader.poll(&mut bytes, bytes_max, header).expect("an honest writer") {
            Poll::Messages(records) => {
                let intact = (first..first + records).flat_map(|sequence| [sequence.to_le_bytes(), payload(sequence)]);
                assert_eq!(bytes, intact.flatten().collect::<Vec<u8>>());
                outcome.received += records;
            }
            Poll::Lapped { lost } => {
                assert!(bytes.is_empty());
                outcome.lost += lost;
            }
            Poll::Empty => break,
            Poll::Closed => {
                outcome.closed = true;
                break;
            }
        }
        assert_eq!(reader.cursor().position, reader.cursor().sequence * RECORD);
    }
    outcome
}

const ONE_RECORD: usize = 0;

const ALL: usize = usize::MAX;

/// A writer that publishes so many records one by one while a reader, which is so many records behind already, polls so many times.
fn writer_and_reader(behind: u64, records: u64, polls: usize) {
    check(move || {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, behind);
        let writing = thread::spawn(move || (0..records).for_each(|_| push_and_publish(&mut writer)));
        let before = read(&mut reader, polls, ONE_RECORD);
        writing.join().expect("no panic");
        let after = read(&mut reader, usize::MAX, ALL);
        assert_eq!(before.counted() + after.counted(), behind + records, "{before:?} {after:?}");
    });
}

#[test]
fn a_reader_that_keeps_up_receives_every_record_across_the_wrap() {
    check(|| {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 4);
        assert_eq!(read(&mut reader, 1, ALL).received, 4);
        let writing = thread::spawn(move || (0..2).for_each(|_| push_and_publish(&mut writer)));
        let before = read(&mut reader, 3, ONE_RECORD);
        writing.join().expect("no panic");
        let after = read(&mut reader, usize::MAX, ALL);
        assert_eq!((before.received + after.received, before.lost + after.lost), (2, 0));
    });
}

#[test]
fn a_reader_that_is_lapped_while_it_copies_counts_what_it_lost() {
    writer_and_reader(5, 1, 2);
}

#[test]
fn a_reader_that_is_lapped_again_while_it_resumes_counts_what_it_lost() {
    writer_and_reader(5, 3, 2);
}

#[test]
fn a_reader_that_was_lapped_resumes_while_the_writer_goes_on() {
    writer_and_reader(6, 2, 2);
}

#[test]
fn a_reader_whose_whole_view_was_overwritten_resumes() {
    writer_and_reader(1, 6, 2);
}

#[test]
fn a_batch_that_overwrites_what_it_has_published_in_part_is_read() {
    check(|| {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 1);
        let writing = thread::spawn(move || {
            (0..5).for_each(|_| push(&mut writer));
            push_and_publish(&mut writer);
        });
        let before = read(&mut reader, 2, ONE_RECORD);
        writing.join().expect("no panic");
        let after = read(&mut reader, usize::MAX, ALL);
        assert_eq!(before.counted() + after.counted(), 7, "{before:?} {after:?}");
    });
}

#[test]
fn records_of_a_batch_appear_together() {
    check(|| {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 4);
        assert_eq!(read(&mut reader, 1, ALL).received, 4);
        let writing = thread::spawn(move || {
            push(&mut writer);
            push_and_publish(&mut writer);
        });
        let before = read(&mut reader, 1, ALL);
        assert!(matches!(before.received, 0 | 2), "{before:?}");
        writing.join().expect("no panic");
        assert_eq!(before.received + read(&mut reader, 2, ALL).received, 2);
    });
}

#[test]
fn closed_is_reported_after_the_last_record() {
    check(|| {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 0);
        let writing = thread::spawn(move || {
            push_and_publish(&mut writer);
            push(&mut writer);
            let _ = writer.close();
        });
        let before = read(&mut reader, 3, ONE_RECORD);
        assert!(!before.closed || before.received == 2, "{before:?}");
        writing.join().expect("no panic");
        let after = read(&mut reader, usize::MAX, ALL);
        assert!(after.closed && before.received + after.received == 2, "{before:?} {after:?}");
    });
}

/// A reader that opens a ring of so many records while the writer publishes so many more.
fn opens(start: Start, present: u64, records: u64) {
    check(move || {
        let memory = Memory::new();
        let (mut writer, _) = ring(memory.clone(), &memory, present);
        let writing = thread::spawn(move || (0..records).for_each(|_| push_and_publish(&mut writer)));
        let mut reader = Reader::open(memory, start).expect("a ring");
        let first = reader.cursor();
        assert_eq!(first.position, first.sequence * RECORD);
        writing.join().expect("no panic");
        assert_eq!(first.sequence + read(&mut reader, usize::MAX, ALL).counted(), present + records);
    });
}

#[test]
fn a_reader_may_begin_at_the_newest_record_at_any_time() {
    opens(Start::Newest, 1, 6);
}

#[test]
fn a_reader_may_begin_at_the_oldest_record_at_any_time() {
    opens(Start::Oldest, 5, 2);
}

#[test]
fn a_reader_may_begin_while_everything_is_overwritten() {
    opens(Start::Oldest, 1, 6);
}

#[test]
fn a_writer_that_dies_between_two_stores_leaves_what_it_has_published() {
    /// Of two records in a full ring: the tail, and for each record three words, the number of bytes and the head.
    const STORES: usize = 11;
    for stores in 0..=STORES {
        check(move || {
            let memory = Memory::new();
            let stores_left = std::sync::Arc::new(AtomicUsize::new(usize::MAX));
            let mortal = Mortal { memory: memory.clone(), stores_left: stores_left.clone() };
            let (mut writer, mut reader) = ring(mortal, &memory, 5);
            stores_left.store(stores, Ordering::Relaxed);
            let writing = thread::spawn(move || (0..2).for_each(|_| push_and_publish(&mut writer)));
            let before = read(&mut reader, 1, ONE_RECORD);
            writing.join().expect("no panic");
            let after = read(&mut reader, usize::MAX, ALL);
            let published = 5 + u64::from(stores >= 6) + u64::from(stores == STORES);
            assert_eq!(before.counted() + after.counted(), published, "{before:?} {after:?}");
        });
    }
}

#[test]
fn a_ring_that_begins_is_complete_as_soon_as_it_is_one() {
    check(|| {
        let memory = Memory::new();
        let words = memory.clone();
        let writing = thread::spawn(move || drop(Writer::new(words, 7)));
        match Reader::open(memory, Start::Oldest) {
            Ok(reader) => assert_eq!(reader.cursor(), Cursor { position: 0, sequence: 7 }),
            Err(error) => assert!(matches!(error, Corrupt::Magic { found: 0, .. }), "{error}"),
        }
        writing.join().expect("no panic");
    });
}

#[test]
fn the_bytes_of_all_frames_include_those_that_were_read() {
    /// Of a header and a payload.
    const FRAME_BYTES: u64 = 28 + 8;
    check(|| {
        let memory = Memory::new();
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 0);
        let writing = thread::spawn(move || (0..2).for_each(|_| push_and_publish(&mut writer)));
        let before = read(&mut reader, 2, ALL);
        let bytes = reader.frame_bytes();
        assert!(bytes >= before.received * FRAME_BYTES, "{bytes} bytes, {before:?}");
        writing.join().expect("no panic");
        assert_eq!(reader.frame_bytes(), 2 * FRAME_BYTES);
    });
}

/// The words of a page that are in use. The others do not exist.
const PAGE: [usize; 8] = [0, 16, 17, 18, 32, 33, 34, 63];

/// The memory of a page.
#[derive(Clone)]
struct Page(Arc<Vec<AtomicU64>>);

impl Page {
    fn new() -> Self {
        Self(Arc::new(PAGE.iter().map(|_| AtomicU64::new(0)).collect()))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[PAGE.iter().position(|&used| used == index).expect("a word of a page that is in use")]
    }
}

impl Words for Page {
    fn count(&self) -> usize {
        64
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.word(index).load(ordering)
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

impl WordsMut for Page {
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        self.word(index).store(word, ordering);
    }
}

#[test]
fn a_page_counts_every_record_before_the_position_that_it_shows() {
    check(|| {
        let page = Page::new();
        let mut reader = PageWriter::new(page.clone());
        let shown = PageReader::open(page).expect("a page");
        let reading = thread::spawn(move || {
            reader.count(RECORD, 1, 0);
            reader.count(4 * RECORD, 1, 2);
        });
        for _ in 0..2 {
            let Sample { position, received, lost } = shown.sample();
            assert!(position <= (received + lost) * RECORD, "{received} and {lost} before {position}");
        }
        reading.join().expect("no panic");
        assert_eq!(shown.sample(), Sample { position: 4 * RECORD, received: 2, lost: 2 });
    });
}

#[test]
fn a_writer_that_is_called_sees_what_was_written_before() {
    check(|| {
        let (page, socket) = (Page::new(), Arc::new(AtomicU64::new(0)));
        let mut reader = PageWriter::new(page.clone());
        let mut called = PageReader::open(page).expect("a page");
        let written = socket.clone();
        let reading = thread::spawn(move || {
            for message in 1..=2 {
                written.store(message, Ordering::Relaxed);
                reader.call();
            }
        });
        let calls = (0..2).filter(|_| called.is_called()).count() as u64;
        assert!(socket.load(Ordering::Relaxed) >= calls, "{calls} calls");
        reading.join().expect("no panic");
        assert!(called.is_called() || calls > 0);
    });
}

#[test]
fn a_reader_that_leaves_finds_a_record_or_its_writer_finds_that_it_has_left() {
    check(|| {
        let (memory, page) = (Memory::new(), Page::new());
        let (mut writer, mut reader) = ring(memory.clone(), &memory, 0);
        let mut leaving = PageWriter::new(page.clone());
        let shown = PageReader::open(page).expect("a page");
        let reading = thread::spawn(move || {
            leaving.leave();
            read(&mut reader, 3, usize::MAX).received
        });
        push(&mut writer);
        let has_left = shown.has_left(&writer.publish());
        let received = reading.join().expect("no panic");
        assert!(received == 1 || has_left, "{received} received");
    });
}

/// The word of a doorbell.
#[derive(Clone)]
struct Word(Arc<AtomicU64>);

impl Words for Word {
    fn count(&self) -> usize {
        1
    }

    fn load(&self, _: usize, ordering: Ordering) -> u64 {
        self.0.load(ordering)
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

impl WordsMut for Word {
    fn store(&self, _: usize, word: u64, ordering: Ordering) {
        self.0.store(word, ordering);
    }
}

/// An eventfd: stays signalled until a wait returns. The model checker reports a wait that never returns.
#[derive(Clone)]
struct Event(Arc<(Mutex<bool>, Condvar)>);

impl Event {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn signal(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_one();
    }

    fn wait(&self) {
        let mut signalled = self.0.0.lock().expect("no panic");
        while !*signalled {
            signalled = self.0.1.wait(signalled).expect("no panic");
        }
        *signalled = false;
    }
}

/// One listener of so many writers, each of which publishes so many records; perhaps it closes its ring with the last. The listener sleeps
/// whenever it has read everything.
fn doorbell(writers: u64, records: u64, closes: bool) {
    check(move || {
        let (word, event) = (Word(Arc::new(AtomicU64::new(0))), Event::new());
        let mut doorbell = Doorbell::new(word.clone(), 0);
        let (mut readers, mut writing) = (Vec::new(), Vec::new());
        for _ in 0..writers {
            let memory = Memory::new();
            let (mut writer, reader) = ring(memory.clone(), &memory, 0);
            let (mut ringer, event) = (Ringer::new(word.clone(), 0), event.clone());
            readers.push(reader);
            writing.push(thread::spawn(move || {
                for record in 1..=records {
                    push(&mut writer);
                    let published = if closes && record == records { writer.close() } else { writer.publish() };
                    if ringer.must_ring(&published) {
                        event.signal();
                    }
                }
            }));
        }
        let (mut received, mut closed) = (0, 0);
        loop {
            for reader in &mut readers {
                let outcome = read(reader, 2, ALL);
                received += outcome.received;
                closed += u64::from(outcome.closed);
            }
            if received == writers * records && (closed > 0 || !closes) {
                break;
            }
            if doorbell.arm(|| readers.iter().any(Reader::is_ready)) {
                event.wait();
            }
            doorbell.disarm();
        }
        for writing in writing {
            writing.join().expect("no panic");
        }
    });
}

#[test]
fn a_listener_that_sleeps_is_woken_for_each_record() {
    doorbell(1, 2, false);
}

#[test]
fn a_listener_that_sleeps_is_woken_when_a_ring_is_closed() {
    doorbell(1, 1, true);
}

#[test]
fn a_listener_of_two_writers_is_woken_by_each() {
    doorbell(2, 1, false);
}
