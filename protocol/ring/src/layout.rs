//! Where everything is in the words of a ring. This module never loads or stores a word.

use crate::words::WORD_BYTES;

/// The first word of a ring: the letters `SBRING` and the version of the layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SBRING\x01\x00");

/// Words before the data. What the writer changes for each batch, what it changes now and then, and what it never changes are 128 bytes apart,
/// because processors fetch cache lines in pairs.
pub const HEADER_WORDS: usize = 64;

/// The least capacity: a record with a body of two words is a quarter of it.
pub const CAPACITY_WORDS_MIN: u64 = 16;

/// The largest capacity, 1 GiB. The length of every record fits into its first word.
pub const CAPACITY_WORDS_MAX: u64 = 1 << 27;

/// Words of a record besides its metadata and payload: the first and the last.
pub(crate) const RECORD_WORDS: u64 = 2;

/// Bytes of a message in a batch, at least: its length.
const BATCHED_BYTES_MIN: u32 = 4;

/// The most messages for each word of a ring: those of a batch whose payloads are empty.
pub const MESSAGES_PER_WORD_MAX: u64 = 2;

/// The flag of a record that is a batch.
const BATCH: u8 = 1;

/// Indices of the words of the header.
pub(crate) mod at {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const CAPACITY: usize = 1;
    pub(crate) const FIRST_SEQUENCE: usize = 2;
    pub(crate) const HEAD: usize = 16;
    pub(crate) const CLOSED: usize = 17;
    pub(crate) const FRAME_BYTES: usize = 18;
    pub(crate) const TAIL: usize = 32;
}

/// Words of data in a row of `words`, if it can be a ring.
pub(crate) fn capacity(words: usize) -> Option<Capacity> {
    let capacity = u64::try_from(words.checked_sub(HEADER_WORDS)?).ok()?;
    let allowed = (CAPACITY_WORDS_MIN..=CAPACITY_WORDS_MAX).contains(&capacity) && capacity.is_power_of_two();
    allowed.then_some(Capacity(capacity))
}

/// The number of words of the data, a power of two. Positions count words since the ring began and are never reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity(u64);

impl Capacity {
    #[inline]
    pub(crate) fn words(self) -> u64 {
        self.0
    }

    /// The largest record, in words.
    #[inline]
    pub(crate) fn record_words_max(self) -> u64 {
        self.0 / 4
    }

    /// The most words that wait to be published.
    #[inline]
    pub(crate) fn unpublished_words_max(self) -> u64 {
        self.0 / 2
    }

    /// How much further than necessary the tail moves, in words.
    #[inline]
    pub(crate) fn tail_stride_words(self) -> u64 {
        self.0 / 8
    }

    /// Index of the word at `position`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "less than the capacity, which was a usize")]
    pub(crate) fn index(self, position: u64) -> usize {
        HEADER_WORDS + (position & (self.0 - 1)) as usize
    }

    /// Bytes of as many words, at most the capacity.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "less than the bytes of the memory")]
    pub(crate) fn bytes(self, words: u64) -> usize {
        words.min(self.0) as usize * WORD_BYTES
    }

    /// Bytes from `position` to the end of the data, where the ring continues at the start of the data.
    #[inline]
    pub(crate) fn bytes_to_wrap(self, position: u64) -> usize {
        (self.index(self.0 - 1) + 1 - self.index(position)) * WORD_BYTES
    }
}

/// A record, without its metadata and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The kind of frame that it stands for.
    pub kind: u8,
    /// Sequence number of its first message.
    pub sequence: u64,
    /// How many messages a batch consists of. 0: it is no batch, but one message.
    pub batch: u16,
    /// Bytes of its metadata. A batch has none.
    pub metadata_bytes: u16,
    /// Bytes of its payload.
    pub payload_bytes: u32,
}

impl Record {
    /// The first word of the record: the bytes 0 to 8 of the header of its frame. If it is a batch, a flag states that, and the number of its
    /// messages is in the place of the size of the metadata.
    #[inline]
    pub(crate) fn first_word(&self) -> u64 {
        let body_bytes = u64::from(self.metadata_bytes) + u64::from(self.payload_bytes);
        let (flags, field) = if self.batch > 0 { (BATCH, self.batch) } else { (0, self.metadata_bytes) };
        body_bytes | u64::from(self.kind) << 32 | u64::from(flags) << 40 | u64::from(field) << 48
    }

    /// The record that begins with `word`, unless no record does.
    #[inline]
    pub(crate) fn parse(word: u64, sequence: u64) -> Option<Self> {
        let [a, b, c, d, kind, flags, field @ ..] = word.to_le_bytes();
        let (body_bytes, field) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes(field));
        let (batch, metadata_bytes) = match flags {
            0 => (0, field),
            BATCH if field > 0 && u32::from(field) <= body_bytes / BATCHED_BYTES_MIN => (field, 0),
            _ => return None,
        };
        let payload_bytes = body_bytes.checked_sub(u32::from(metadata_bytes))?;
        Some(Self { kind, sequence, batch, metadata_bytes, payload_bytes })
    }

    /// How many messages it holds.
    #[inline]
    pub fn messages(&self) -> u64 {
        u64::from(self.batch.max(1))
    }

    /// Sequence number of its last message.
    #[inline]
    pub(crate) fn last_sequence(&self) -> u64 {
        self.sequence.wrapping_add(self.messages() - 1)
    }

    /// Words from the start of the record to its payload.
    #[inline]
    pub(crate) fn words_to_payload(&self) -> u64 {
        1 + u64::from(self.metadata_bytes).div_ceil(8)
    }

    /// Words of the whole record.
    #[inline]
    pub(crate) fn words(&self) -> u64 {
        RECORD_WORDS + u64::from(self.metadata_bytes).div_ceil(8) + u64::from(self.payload_bytes).div_ceil(8)
    }
}
