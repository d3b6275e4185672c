//! The writing end of a ring. It never waits, and no reader can make it fail.

use crate::layout::{self, Capacity, HEADER_WORDS, MAGIC, RECORD_WORDS, Record, at};
use crate::reader::Cursor;
use crate::words::{WORD_BYTES, WordsMut};
use broadcaster_protocol::limits::HEADER_BYTES;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

/// A message cannot be a record. The ring is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The record would be larger than a quarter of the ring.
    #[error("a record of {len} bytes does not fit into a ring whose records have at most {max} bytes")]
    TooLarge {
        /// Bytes of the record.
        len: usize,
        /// Bytes of the largest record.
        max: usize,
    },
    /// The metadata is larger than a record can state.
    #[error("{len} bytes of metadata do not fit into a record, whose metadata has at most {max} bytes")]
    MetadataTooLarge {
        /// Bytes of the metadata.
        len: usize,
        /// Bytes of the largest metadata.
        max: usize,
    },
}

/// Proof that everything before it is visible to each listener that is not asleep: what a [`Ringer`](crate::Ringer) requires.
#[derive(Debug)]
#[must_use = "a sleeping listener must be woken"]
pub struct Published(());

/// The writing end of a ring.
///
/// A batch is any number of calls of [`push`](Self::push) and then one of [`publish`](Self::publish). A writer that ends at any moment, even
/// between two stores, leaves a ring that holds its published records. Dropping it does not [close](Self::close) the ring.
///
/// ```
/// use broadcaster_ring::{HEADER_WORDS, Poll, Reader, Start, Writer};
/// use bytes::BytesMut;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..HEADER_WORDS + 64).map(|_| AtomicU64::new(0)).collect();
/// let mut writer = Writer::new(&memory[..], 100);
/// let mut reader = Reader::open(&memory[..], Start::Newest)?;
///
/// writer.push(1, b"", b"hello")?;
/// writer.push(1, b"", b"world")?;
/// let mut bytes = BytesMut::new();
/// assert_eq!(reader.poll(&mut bytes, 4096, |_| [])?, Poll::Empty);
/// let _ = writer.publish(); // nothing sleeps here
/// assert_eq!(reader.poll(&mut bytes, 4096, |_| *b"> ")?, Poll::Messages(2));
/// assert_eq!(bytes, "> hello> world");
/// assert_eq!(reader.cursor().sequence, 102);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    words: W,
    capacity: Capacity,
    /// Where the oldest record begins that is not given up.
    tail: u64,
    /// Where the next record begins, and its number.
    next: Cursor,
    /// The same for readers.
    published: Cursor,
    /// Bytes of the frames of all records.
    frame_bytes: u64,
}

impl<W: WordsMut> Writer<W> {
    /// Begins a ring in words that are all zero. The first record has the sequence number `first_sequence`.
    ///
    /// # Panics
    ///
    /// If the number of words is not [`HEADER_WORDS`] and a power of two from [`CAPACITY_WORDS_MIN`](crate::CAPACITY_WORDS_MIN) to
    /// [`CAPACITY_WORDS_MAX`](crate::CAPACITY_WORDS_MAX).
    pub fn new(words: W, first_sequence: u64) -> Self {
        let count = words.count();
        let Some(capacity) = layout::capacity(count) else {
            panic!("a ring has {HEADER_WORDS} words and a power of two, not {count} words");
        };
        words.store(at::CAPACITY, capacity.words(), Relaxed);
        words.store(at::FIRST_SEQUENCE, first_sequence, Relaxed);
        words.store(at::MAGIC, MAGIC, Release);
        let next = Cursor { position: 0, sequence: first_sequence };
        Self { words, capacity, tail: 0, next, published: next, frame_bytes: 0 }
    }

    /// Bytes of the largest record: a quarter of the ring. Besides its metadata and its payload, each padded to a multiple of 8 bytes, a record
    /// has 16 bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.capacity.bytes(self.capacity.record_words_max())
    }

    /// Where the next record begins, and its sequence number.
    pub fn cursor(&self) -> Cursor {
        self.next
    }

    /// Appends a record, which readers see after the next [`publish`](Self::publish). If more than half of the ring would wait for that, the
    /// records before this one become visible now; listeners that sleep are still woken after the next `publish`.
    ///
    /// # Errors
    ///
    /// [`PushError`] if the message cannot be a record: the socket carries it.
    #[inline]
    pub fn push(&mut self, kind: u8, metadata: &[u8], payload: &[u8]) -> Result<(), PushError> {
        let (record, words) = self.record(kind, 0, metadata, payload)?;
        self.append(&record, words, metadata, payload);
        Ok(())
    }

    /// The same for a batch of so many messages, in one record. In `body`, each of them has its length before it, 4 bytes.
    ///
    /// # Errors
    ///
    /// [`PushError`] if the batch cannot be a record: the socket carries it.
    ///
    /// # Panics
    ///
    /// If there are no messages, or fewer than 4 bytes for each.
    pub fn push_batch(&mut self, kind: u8, messages: u16, body: &[u8]) -> Result<(), PushError> {
        assert!(messages > 0 && body.len() / 4 >= usize::from(messages), "{messages} messages in {} bytes", body.len());
        let (record, words) = self.record(kind, messages, &[], body)?;
        self.append(&record, words, &[], body);
        Ok(())
    }

    #[inline]
    fn append(&mut self, record: &Record, words: u64, metadata: &[u8], payload: &[u8]) {
        let start = self.next.position;
        let end = start + words;
        if end - self.published.position > self.capacity.unpublished_words_max() {
            self.commit();
        }
        if end - self.tail > self.capacity.words() {
            self.make_room(end);
        }
        self.words.store(self.capacity.index(start), record.first_word(), Relaxed);
        self.store_bytes(start + 1, metadata);
        self.store_bytes(start + record.words_to_payload(), payload);
        let last = record.last_sequence();
        self.words.store(self.capacity.index(end - 1), last, Relaxed);
        self.next = Cursor { position: end, sequence: last.wrapping_add(1) };
        self.frame_bytes += HEADER_BYTES as u64 + u64::from(record.metadata_bytes) + u64::from(record.payload_bytes);
    }

    /// Makes all records visible. Then each sleeping listener must be woken: see [`Ringer`](crate::Ringer).
    #[inline]
    pub fn publish(&mut self) -> Published {
        self.commit();
        self.words.fence(SeqCst);
        Published(())
    }

    /// Makes all records visible, and states that none follows. A reader learns this after the last record.
    pub fn close(&mut self) -> Published {
        self.commit();
        self.words.store(at::CLOSED, 1, Release);
        self.words.fence(SeqCst);
        Published(())
    }

    #[inline]
    fn commit(&mut self) {
        self.words.store(at::FRAME_BYTES, self.frame_bytes, Relaxed);
        self.words.store(at::HEAD, self.next.position, Release);
        self.published = self.next;
    }

    /// The next record and its words.
    #[inline]
    fn record(&self, kind: u8, batch: u16, metadata: &[u8], payload: &[u8]) -> Result<(Record, u64), PushError> {
        let Ok(metadata_bytes) = u16::try_from(metadata.len()) else {
            return Err(PushError::MetadataTooLarge { len: metadata.len(), max: u16::MAX.into() });
        };
        let record = u32::try_from(payload.len())
            .map(|payload_bytes| Record { kind, sequence: self.next.sequence, batch, metadata_bytes, payload_bytes })
            .map(|record| (record, record.words()));
        match record {
            Ok((record, words)) if words <= self.capacity.record_words_max() => Ok((record, words)),
            _ => {
                let bytes = |part: &[u8]| part.len().next_multiple_of(WORD_BYTES);
                let len = 2 * WORD_BYTES + bytes(metadata) + bytes(payload);
                Err(PushError::TooLarge { len, max: self.record_bytes_max() })
            }
        }
    }

    /// Gives up the oldest records, so that a record can end at `end`. Some more are given up at once: then the tail rarely changes, and a
    /// reader that was lapped has time to continue there. What remains begins before the published head.
    #[cold]
    fn make_room(&mut self, end: u64) {
        let goal = end - self.capacity.words() + self.capacity.tail_stride_words();
        while self.tail < goal {
            // This word is the writer's own, and begins a record. If this process has overwritten it, only readers notice.
            let word = self.words.load(self.capacity.index(self.tail), Relaxed);
            let words = Record::parse(word, 0).map_or(RECORD_WORDS, |record| record.words());
            self.tail = self.published.position.min(self.tail + words);
        }
        self.words.store(at::TAIL, self.tail, Release);
        self.words.fence(Release);
    }

    #[inline]
    fn store_bytes(&self, position: u64, bytes: &[u8]) {
        let (front, back) = bytes.split_at(bytes.len().min(self.capacity.bytes_to_wrap(position)));
        self.words.store_bytes(self.capacity.index(position), front);
        if !back.is_empty() {
            self.words.store_bytes(HEADER_WORDS, back);
        }
    }
}
