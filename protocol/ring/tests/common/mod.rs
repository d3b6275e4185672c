//! Memory of rings, and records as a reader copied them.
#![allow(dead_code, clippy::cast_possible_truncation, clippy::unwrap_used)]

use broadcaster_ring::{Corrupt, HEADER_WORDS, Poll, Reader, Record, Words, WordsMut};
use bytes::{Buf, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// The memory of a ring with so many words of data.
pub(crate) fn memory(capacity: usize) -> Arc<[AtomicU64]> {
    (0..HEADER_WORDS + capacity).map(|_| AtomicU64::new(0)).collect()
}

/// A record with its metadata and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) sequence: u64,
    pub(crate) kind: u8,
    /// How many messages it really is, if it is a batch.
    pub(crate) batch: u16,
    pub(crate) metadata: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    pub(crate) fn messages(&self) -> u64 {
        self.batch.max(1).into()
    }
}

const HEADER_BYTES: usize = 17;

fn header(record: &Record) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&record.sequence.to_le_bytes());
    bytes[8..10].copy_from_slice(&record.metadata_bytes.to_le_bytes());
    bytes[10..14].copy_from_slice(&record.payload_bytes.to_le_bytes());
    bytes[14] = record.kind;
    bytes[15..].copy_from_slice(&record.batch.to_le_bytes());
    bytes
}

/// The next records, or what else `poll` returns.
pub(crate) fn poll<W: Words>(reader: &mut Reader<W>, bytes_max: usize) -> Result<(Poll, Vec<Message>), Corrupt> {
    let mut bytes = BytesMut::from("before");
    let polled = reader.poll(&mut bytes, bytes_max, header);
    assert_eq!(bytes.split_to(6), "before");
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let sequence = bytes.get_u64_le();
        let (metadata, payload) = (usize::from(bytes.get_u16_le()), bytes.get_u32_le() as usize);
        let (kind, batch) = (bytes.get_u8(), bytes.get_u16_le());
        let (metadata, payload) = (bytes.split_to(metadata).to_vec(), bytes.split_to(payload).to_vec());
        messages.push(Message { sequence, kind, batch, metadata, payload });
    }
    let count = if let Ok(Poll::Messages(count)) = polled { count } else { 0 };
    assert_eq!(count, messages.iter().map(Message::messages).sum(), "{polled:?}");
    Ok((polled?, messages))
}

/// Payloads of all records that are left.
pub(crate) fn drain<W: Words>(reader: &mut Reader<W>) -> Vec<Message> {
    let mut messages = Vec::new();
    while let (Poll::Messages(_) | Poll::Lapped { .. }, more) = poll(reader, 1000).unwrap() {
        messages.extend(more);
    }
    messages
}

/// Memory whose writer dies after some stores: none that follows happens.
#[derive(Clone)]
pub(crate) struct Mortal {
    pub(crate) memory: Arc<[AtomicU64]>,
    pub(crate) stores_left: Arc<AtomicUsize>,
}

impl Mortal {
    pub(crate) fn new(capacity: usize, stores_left: usize) -> Self {
        Self { memory: memory(capacity), stores_left: Arc::new(AtomicUsize::new(stores_left)) }
    }
}

impl Words for Mortal {
    fn count(&self) -> usize {
        self.memory.len()
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.memory.load(index, ordering)
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
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
