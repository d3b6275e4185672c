//! Writers and readers on threads of their own. The model checker (`loom.rs`) knows more executions; these are longer, and run under Miri and
//! ThreadSanitizer as well.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;

use broadcaster_ring::{Doorbell, Poll, Published, Reader, Ringer, Start, Writer};
use common::{Message, memory, poll};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

const RECORDS: u64 = if cfg!(miri) { 60 } else { 100_000 };

/// The only message with this sequence number.
fn message(sequence: u64) -> Message {
    let byte = |salt: u64| sequence.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
    let (metadata, payload) = (sequence % 7, sequence * 5 % 97);
    Message {
        sequence,
        batch: 0,
        kind: byte(200),
        metadata: (0..metadata).map(byte).collect(),
        payload: (metadata..metadata + payload).map(byte).collect(),
    }
}

fn push(writer: &mut Writer<Arc<[std::sync::atomic::AtomicU64]>>) {
    let Message { kind, metadata, payload, .. } = message(writer.cursor().sequence);
    writer.push(kind, &metadata, &payload).unwrap();
}

/// What one reader has received and lost; every record was checked.
#[derive(Debug, Default)]
struct Tally {
    received: u64,
    lost: u64,
    closed: bool,
}

impl Tally {
    /// Polls until nothing is left.
    fn read<W: broadcaster_ring::Words>(&mut self, reader: &mut Reader<W>, bytes_max: usize) {
        loop {
            let (polled, messages) = poll(reader, bytes_max).unwrap();
            for received in messages {
                assert_eq!(received, message(self.received + self.lost));
                self.received += 1;
            }
            match polled {
                Poll::Messages(_) => {}
                Poll::Lapped { lost } => self.lost += lost,
                Poll::Empty => return,
                Poll::Closed => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

/// Readers that poll with these limits while a writer publishes batches.
fn poll_until_closed(capacity: usize, limits: [usize; 2]) {
    let memory = memory(capacity);
    let mut writer = Writer::new(memory.clone(), 0);
    let readers = limits.map(|bytes_max| {
        let mut reader = Reader::open(memory.clone(), Start::Oldest).unwrap();
        thread::spawn(move || {
            let mut tally = Tally::default();
            while !tally.closed {
                tally.read(&mut reader, bytes_max);
                thread::yield_now();
            }
            tally
        })
    });
    for sequence in 0..RECORDS {
        push(&mut writer);
        if sequence % 3 == 0 {
            let _ = writer.publish();
        }
        if sequence % 64 == 0 {
            thread::yield_now();
        }
    }
    let _ = writer.close();
    for reader in readers {
        let tally = reader.join().unwrap();
        assert_eq!(tally.received + tally.lost, RECORDS, "{tally:?}");
        assert!(tally.received > 0);
    }
}

#[test]
fn readers_of_a_small_ring_are_lapped_often() {
    poll_until_closed(128, [0, 400]);
}

#[test]
fn readers_of_a_large_ring_read_batches() {
    poll_until_closed(4096, [1000, usize::MAX]);
}

/// An eventfd: stays signalled until a wait returns.
#[derive(Default)]
struct Event(Mutex<bool>, Condvar);

impl Event {
    fn signal(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut signalled = self.1.wait_while(self.0.lock().unwrap(), |signalled| !*signalled).unwrap();
        *signalled = false;
    }
}

#[test]
fn a_sleeping_listener_of_two_writers_misses_no_wake_up() {
    let (word, event) = (memory(0), Arc::new(Event::default()));
    let mut doorbell = Doorbell::new(word.clone(), 0);
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let memory = memory(1024);
        let mut writer = Writer::new(memory.clone(), 0);
        readers.push((Reader::open(memory, Start::Oldest).unwrap(), Tally::default()));
        let (mut ringer, event) = (Ringer::new(word.clone(), 0), event.clone());
        writers.push(thread::spawn(move || {
            let mut wake = |published: &Published| {
                if ringer.must_ring(published) {
                    event.signal();
                }
            };
            for sequence in 0..RECORDS / 4 {
                push(&mut writer);
                wake(&writer.publish());
                if sequence % 5 == 0 {
                    thread::yield_now(); // so that the listener falls asleep now and then
                }
            }
            wake(&writer.close());
        }));
    }
    while readers.iter().any(|(_, tally)| !tally.closed) {
        for (reader, tally) in readers.iter_mut().filter(|(_, tally)| !tally.closed) {
            tally.read(reader, 1000);
        }
        let open = readers.iter().filter(|(_, tally)| !tally.closed);
        if doorbell.arm(|| open.clone().count() == 0 || open.clone().any(|(reader, _)| reader.is_ready())) {
            event.wait();
        }
        doorbell.disarm();
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for (_, tally) in readers {
        assert_eq!(tally.received + tally.lost, RECORDS / 4, "{tally:?}");
    }
}
