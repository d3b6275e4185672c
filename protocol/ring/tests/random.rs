//! Random sequences against a simple model, and memory that a hostile writer changes at any time. A failure prints its seed;
//! `RING_SEED` repeats it.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;

use broadcaster_ring::{Cursor, HEADER_WORDS, Poll, Reader, Start, Words, Writer};
use bytes::BytesMut;
use common::{Message, memory, poll};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const CAPACITIES: [usize; 4] = [16, 32, 64, 256];

/// Runs as many seeds, fewer under Miri, or the one that `RING_SEED` states.
fn seeds(count: u64, run: impl Fn(&mut Rng)) {
    let count = if cfg!(miri) { count.div_ceil(500) } else { count };
    let seeds = match std::env::var("RING_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        struct Seed(u64);
        impl Drop for Seed {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("RING_SEED={}", self.0);
                }
            }
        }
        let _printed_on_failure = Seed(seed);
        run(&mut Rng::with_seed(seed));
    }
}

fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let len = rng.usize(..=max);
    (0..len).map(|_| rng.u8(..)).collect()
}

type Memory = Arc<[AtomicU64]>;

/// A ring, and every record that was pushed, with the words in which it begins and ends.
struct Model {
    writer: Writer<Memory>,
    memory: Memory,
    pushed: Vec<(u64, Message, u64)>,
    published: usize,
    closed: bool,
}

impl Model {
    fn new(rng: &mut Rng) -> Self {
        let memory = memory(CAPACITIES[rng.usize(..CAPACITIES.len())]);
        let first = [0, 7, u64::MAX - 20][rng.usize(..3)];
        let writer = Writer::new(memory.clone(), first);
        Self { writer, memory, pushed: Vec::new(), published: 0, closed: false }
    }

    fn capacity(&self) -> u64 {
        (self.memory.len() - HEADER_WORDS) as u64
    }

    fn push(&mut self, rng: &mut Rng) {
        let (kind, before) = (rng.u8(..), self.writer.cursor());
        let max = self.writer.record_bytes_max();
        let metadata_max = if rng.bool() { 0 } else { max / 4 };
        let (mut metadata, payload) = (bytes(rng, metadata_max), bytes(rng, max));
        let batch = if payload.len() >= 4 && rng.u8(..3) == 0 { rng.usize(1..=payload.len() / 4) as u16 } else { 0 };
        if batch > 0 {
            metadata.clear();
        }
        let words = 2 + metadata.len().div_ceil(8) + payload.len().div_ceil(8);
        let pushed = match batch {
            0 => self.writer.push(kind, &metadata, &payload),
            _ => self.writer.push_batch(kind, batch, &payload),
        };
        assert_eq!(pushed.is_ok(), words * 8 <= max, "{words} words: {pushed:?}");
        let after = self.writer.cursor();
        if pushed.is_err() {
            assert_eq!(before, after);
            return;
        }
        assert_eq!(after.position, before.position + words as u64);
        assert_eq!(after.sequence, before.sequence.wrapping_add(batch.max(1).into()));
        // What a reader sees of a batch that is not published is not part of the model, so it is published in time.
        self.pushed.push((
            before.position,
            Message { sequence: before.sequence, kind, batch, metadata, payload },
            after.position,
        ));
        let from = self.pushed[self.published].0;
        if after.position - from > self.capacity() / 4 {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let _ = self.writer.publish();
        self.published = self.pushed.len();
    }

    /// Index of the first record that must be intact, whatever the writer gave up in advance.
    fn surely_intact(&self) -> usize {
        let end = self.pushed.last().map_or(0, |last| last.2);
        let oldest = (end + 1).saturating_sub(self.capacity() / 2);
        self.pushed.partition_point(|record| record.0 < oldest).min(self.published)
    }
}

/// A reader and the index of the record that it reads next.
type Listener = (Reader<Memory>, usize);

fn open(model: &Model, rng: &mut Rng) -> Listener {
    let start = match rng.u8(..3) {
        0 => Start::Oldest,
        1 => Start::Newest,
        _ => {
            let index = rng.usize(..=model.published);
            let reader = Reader::open(model.memory.clone(), Start::Oldest).unwrap();
            let record = model.pushed.get(index);
            let cursor = record
                .map_or(model.writer.cursor(), |record| Cursor { position: record.0, sequence: record.1.sequence });
            drop(reader);
            return (Reader::open(model.memory.clone(), Start::At(cursor)).unwrap(), index);
        }
    };
    let reader = Reader::open(model.memory.clone(), start).unwrap();
    let position = reader.cursor().position;
    let index = model.pushed.partition_point(|record| record.0 < position);
    match start {
        Start::Newest => assert_eq!(index, model.published),
        _ => assert!(index <= model.surely_intact()),
    }
    (reader, index)
}

fn read(model: &Model, (reader, next): &mut Listener, bytes_max: usize) {
    assert_eq!(reader.is_ready(), *next < model.published || model.closed);
    let (polled, messages) = poll(reader, bytes_max).unwrap();
    match polled {
        Poll::Messages(_) => {
            let end = *next + messages.len();
            assert!(end <= model.published);
            assert!(messages.iter().eq(model.pushed[*next..end].iter().map(|record| &record.1)));
            *next = end;
        }
        Poll::Lapped { lost } => {
            assert!(lost > 0);
            let mut left = lost;
            while left > 0 {
                left = left.checked_sub(model.pushed[*next].1.messages()).expect("a record is lost as a whole");
                *next += 1;
            }
            assert!(*next <= model.surely_intact());
        }
        Poll::Empty => assert_eq!((*next, model.closed), (model.published, false)),
        Poll::Closed => assert_eq!((*next, model.closed), (model.published, true)),
    }
    let cursor = reader.cursor();
    let expected = model
        .pushed
        .get(*next)
        .map_or((model.writer.cursor().position, model.writer.cursor().sequence), |r| (r.0, r.1.sequence));
    assert_eq!((cursor.position, cursor.sequence), expected);
}

#[test]
fn every_reader_receives_or_loses_each_record_as_the_model_does() {
    seeds(1500, |rng| {
        let mut model = Model::new(rng);
        let mut listeners = vec![open(&model, rng)];
        for _ in 0..300 {
            match rng.u8(..16) {
                0..6 => model.push(rng),
                6..9 => model.publish(),
                9 if listeners.len() < 4 => listeners.push(open(&model, rng)),
                10 => (0..20).for_each(|_| model.push(rng)),
                _ => {
                    let listener = rng.usize(..listeners.len());
                    read(&model, &mut listeners[listener], rng.usize(..200));
                }
            }
        }
        let _ = model.writer.close();
        (model.published, model.closed) = (model.pushed.len(), true);
        for listener in &mut listeners {
            while listener.1 < model.published {
                read(&model, listener, usize::MAX);
            }
            read(&model, listener, 0);
        }
    });
}

/// Memory in which a load returns anything now and then, and which counts the loads.
struct Hostile {
    memory: Memory,
    rng: RefCell<Rng>,
    /// One load of as many returns something else, on average; 0 for none.
    one_of: Cell<u32>,
    loads: Cell<usize>,
}

/// A word that is likely to mislead: near a limit, a position or a length, or close to the truth.
fn misleading(rng: &mut Rng, word: u64, capacity: u64) -> u64 {
    match rng.u8(..9) {
        0 => 0,
        1 => u64::MAX - rng.u64(..4),
        2 => rng.u64(..),
        3 => word ^ (1 << rng.u8(..64)),
        4 => word.wrapping_add(rng.u64(..9)).wrapping_sub(4),
        5 => word.wrapping_add(capacity).wrapping_sub(rng.u64(..3)),
        6 => rng.u64(..4 * capacity),
        7 => rng.u64(..capacity * 8) | u64::from(rng.u8(..)) << 48,
        _ => u64::from(u32::MAX) | 1 << 32 | u64::from(rng.u16(..)) << 48,
    }
}

impl Words for Hostile {
    fn count(&self) -> usize {
        self.memory.len()
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.loads.set(self.loads.get() + 1);
        let word = self.memory.load(index, ordering);
        let mut rng = self.rng.borrow_mut();
        match self.one_of.get() {
            0 => word,
            one_of if rng.u32(..one_of) > 0 => word,
            _ => misleading(&mut rng, word, (self.memory.len() - HEADER_WORDS) as u64),
        }
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

/// Polls, and checks that the work and the memory are bounded. Whatever was copied is as large as the ring at most.
fn poll_hostile(reader: &mut Reader<&Hostile>, hostile: &Hostile, bytes_max: usize) -> bool {
    let capacity = hostile.memory.len() - HEADER_WORDS;
    let mut out = BytesMut::new();
    hostile.loads.set(0);
    let polled = reader.poll(&mut out, bytes_max, |_| []);
    // Each record takes its words and the tail; each of 16 attempts to resume takes six words.
    let loads = hostile.loads.get();
    assert!(loads <= 2 + capacity + capacity / 2 + 2 + 16 * 6, "{loads} loads of {capacity} words");
    assert!(out.len() <= capacity * 8 && out.capacity() <= 2 * capacity * 8 + 64);
    if !matches!(polled, Ok(Poll::Messages(_))) {
        assert!(out.is_empty(), "{polled:?}");
    }
    if let Ok(Poll::Messages(messages)) = polled {
        assert!((1..=capacity as u64 * 2).contains(&messages));
    }
    polled.is_ok()
}

#[test]
fn a_hostile_writer_costs_a_reader_bounded_work_and_no_panic() {
    seeds(3000, |rng| {
        let mut model = Model::new(rng);
        let hostile = Hostile {
            memory: model.memory.clone(),
            rng: RefCell::new(rng.fork()),
            one_of: Cell::new(0),
            loads: Cell::new(0),
        };
        let mut readers = vec![Reader::open(&hostile, Start::Oldest).unwrap()];
        hostile.one_of.set([0, 2, 10, 100][rng.usize(..4)]);
        for _ in 0..100 {
            match rng.u8(..8) {
                0..3 => model.push(rng),
                3 => model.publish(),
                4 => {
                    // For good, in the header half of the time.
                    let header = [0, 1, 2, 16, 17, 32];
                    let data = HEADER_WORDS + rng.usize(..model.capacity() as usize);
                    let index = if rng.bool() { header[rng.usize(..header.len())] } else { data };
                    let word = model.memory[index].load(Ordering::Relaxed);
                    let word = misleading(rng, word, model.capacity());
                    model.memory[index].store(word, Ordering::Relaxed);
                }
                5 if readers.len() < 4 => {
                    let start = [Start::Oldest, Start::Newest][rng.usize(..2)];
                    readers.extend(Reader::open(&hostile, start));
                }
                _ => {
                    let (reader, bytes_max) = (rng.usize(..readers.len()), rng.usize(..4000));
                    poll_hostile(&mut readers[reader], &hostile, bytes_max);
                }
            }
        }
    });
}

#[test]
fn a_reader_reports_what_an_honest_writer_cannot_have_stored() {
    const HEADERS: [usize; 3] = [16, 17, 32];
    seeds(100, |rng| {
        let mut model = Model::new(rng);
        (0..20).for_each(|_| model.push(rng));
        model.publish();
        let mut oldest = Reader::open(model.memory.clone(), Start::Oldest).unwrap();
        let from = oldest.cursor().position;
        let (polled, honest) = poll(&mut oldest, usize::MAX).unwrap();
        assert_eq!(polled, Poll::Messages(honest.iter().map(Message::messages).sum()));
        let data = (from..model.writer.cursor().position).map(|p| HEADER_WORDS + (p % model.capacity()) as usize);
        for index in HEADERS.into_iter().chain(data) {
            let word = model.memory[index].load(Ordering::Relaxed);
            for _ in 0..20 {
                let start = model.pushed.iter().find(|record| record.0 == from).unwrap();
                let cursor = Cursor { position: from, sequence: start.1.sequence };
                let mut reader = Reader::open(model.memory.clone(), Start::At(cursor)).unwrap();
                model.memory[index].store(misleading(rng, word, model.capacity()), Ordering::Relaxed);
                // Either the reader finds out, or only contents differ: sequence numbers are consecutive all the same.
                let mut next = cursor.sequence;
                while let Ok((Poll::Messages(_), messages)) = poll(&mut reader, 0) {
                    assert_eq!(messages[0].sequence, next);
                    next = next.wrapping_add(messages[0].messages());
                }
                model.memory[index].store(word, Ordering::Relaxed);
            }
        }
    });
}
