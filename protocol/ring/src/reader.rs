//! A reading end of a ring. It only loads, and takes nothing on trust: whatever the words contain, its work is bounded and it never panics.

use crate::layout::{self, Capacity, HEADER_WORDS, MAGIC, MESSAGES_PER_WORD_MAX, Record, at};
use crate::words::Words;
use bytes::BytesMut;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// How often a reader tries to find an intact record that the writer does not overwrite in the meantime.
const ATTEMPTS_MAX: usize = 16;

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Words since the ring began.
    pub position: u64,
    /// Sequence number of the message that begins there.
    pub sequence: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest intact record.
    Oldest,
    /// Behind the newest published record.
    Newest,
    /// At a place that another reader or the writer has stated. If it is overwritten already, the reader is lapped.
    At(Cursor),
}

/// What a ring holds for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Records with as many messages were copied, at least one.
    Messages(u64),
    /// The writer has overwritten the next records: exactly as many messages are lost. The reader continues at the oldest intact record.
    Lapped {
        /// Messages lost.
        lost: u64,
    },
    /// No further record can be read for now. Either none is published, or the writer overtook every attempt to find an intact one;
    /// [`Reader::is_ready`] is true in the second case.
    Empty,
    /// Every record was read, and none follows.
    Closed,
}

/// What becomes of a record that was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<const N: usize> {
    /// It is taken, behind these bytes.
    Accept([u8; N]),
    /// It is left for the next call.
    Postpone,
    /// It makes no sense: the ring is corrupt.
    Reject,
}

/// The words are not those of a correct ring. It cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// Another magic number: not a ring or page, or one of another version.
    #[error("the memory begins with {found:#018x} instead of the magic number {expected:#018x}")]
    Magic {
        /// The first word.
        found: u64,
        /// The magic number of a ring or a page.
        expected: u64,
    },
    /// The size of the memory and the stated capacity do not belong together.
    #[error("the ring states a capacity of {stated} words in a memory of {words} words")]
    Capacity {
        /// Words of data, as stated.
        stated: u64,
        /// Words of the memory.
        words: usize,
    },
    /// The head or the tail is where it cannot be.
    #[error("the ring states the head {head} and the tail {tail} to a reader at {position}")]
    Bounds {
        /// Position of the reader.
        position: u64,
        /// The stated tail.
        tail: u64,
        /// The stated head.
        head: u64,
    },
    /// No record can begin with this word, or it would end behind the head.
    #[error("the record at {position} cannot begin with {word:#018x}")]
    Record {
        /// Position of the record.
        position: u64,
        /// Its first word.
        word: u64,
    },
    /// A sequence number does not follow from the one before.
    #[error("the record at {position} has the sequence number {found}; the next one is {next}")]
    Sequence {
        /// Position of the record.
        position: u64,
        /// Its sequence number.
        found: u64,
        /// The sequence number that the reader has reached.
        next: u64,
    },
    /// The writer overtook every attempt to find a place to begin.
    #[error("the writer overtook {ATTEMPTS_MAX} attempts to find a place to begin")]
    Overtaken,
}

/// A reading end of a ring. Any number of them exist, and the writer knows none of them.
#[derive(Debug)]
pub struct Reader<W> {
    words: W,
    capacity: Capacity,
    next: Cursor,
}

impl<W: Words> Reader<W> {
    /// Reads the ring in `words`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the words are not a ring of this version and of exactly this size.
    pub fn open(words: W, start: Start) -> Result<Self, Corrupt> {
        let count = words.count();
        let found = if count > HEADER_WORDS { words.load(at::MAGIC, Acquire) } else { 0 };
        if found != MAGIC {
            return Err(Corrupt::Magic { found, expected: MAGIC });
        }
        let stated = words.load(at::CAPACITY, Relaxed);
        let capacity = layout::capacity(count)
            .filter(|capacity| capacity.words() == stated)
            .ok_or(Corrupt::Capacity { stated, words: count })?;
        let mut reader = Self { words, capacity, next: Cursor { position: 0, sequence: 0 } };
        reader.next = match start {
            Start::Oldest => reader.oldest()?,
            Start::Newest => reader.newest()?,
            Start::At(cursor) => cursor,
        };
        Ok(reader)
    }

    /// Where the next record begins, and its sequence number.
    pub fn cursor(&self) -> Cursor {
        self.next
    }

    /// Continues at another place, as if the records in between were read.
    pub fn seek(&mut self, cursor: Cursor) {
        self.next = cursor;
    }

    /// Bytes that the frames of all records have which were published since the ring began, or a few less. It never decreases if the writer is
    /// honest.
    pub fn frame_bytes(&self) -> u64 {
        self.words.load(at::FRAME_BYTES, Acquire)
    }

    /// Bytes of the ring between this reader and the newest record, at most all of them.
    #[inline]
    pub(crate) fn published_bytes(&self) -> usize {
        self.capacity.bytes(self.words.load(at::HEAD, Acquire).saturating_sub(self.next.position))
    }

    /// Whether [`poll`](Self::poll) has anything to return but [`Poll::Empty`].
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.words.load(at::HEAD, Acquire) != self.next.position || self.words.load(at::CLOSED, Relaxed) != 0
    }

    /// Copies the next records to the end of `out`, until it has grown by `bytes_max` bytes or more, or all published records are copied. For
    /// each record it appends what `header` returns, the metadata, and the payload. With the header of a frame, `out` then holds the bytes
    /// that a socket would have carried.
    ///
    /// `out` grows by at most the capacity of the ring and a header for each record. `header` may see a record that was overwritten while
    /// it was read; what it returned for such a record is removed.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]. Only records before the corrupt place were copied.
    #[inline]
    pub fn poll<const N: usize>(
        &mut self,
        out: &mut BytesMut,
        bytes_max: usize,
        header: impl Fn(&Record) -> [u8; N],
    ) -> Result<Poll, Corrupt> {
        self.poll_until(None, out, bytes_max, |record, _| Verdict::Accept(header(record)))
    }

    /// The same, but if there is an `end`, the ring counts as closed before the message with that sequence number. Of messages that were overwritten, only
    /// those before it are lost. `judge` sees each record with its metadata and payload.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]. Only records before the corrupt place were copied.
    #[inline]
    pub(crate) fn poll_until<const N: usize>(
        &mut self,
        end: Option<u64>,
        out: &mut BytesMut,
        bytes_max: usize,
        mut judge: impl FnMut(&Record, &[u8]) -> Verdict<N>,
    ) -> Result<Poll, Corrupt> {
        let left = self.messages_to(end);
        if left == 0 {
            return Ok(Poll::Closed);
        }
        // In this order, because the writer closes the ring after it has published the last record.
        let closed = self.words.load(at::CLOSED, Acquire) != 0;
        let head = self.words.load(at::HEAD, Acquire);
        if head == self.next.position {
            return Ok(if closed { Poll::Closed } else { Poll::Empty });
        }
        let full = out.len().saturating_add(bytes_max);
        let mut messages = 0;
        while messages == 0 || (self.next.position != head && messages < left && out.len() < full) {
            let len = out.len();
            let copied = self.copy(head, left - messages, out, &mut judge);
            // The words of the record were loaded before the tail: see the crate's documentation.
            self.words.fence(Acquire);
            let intact = self.words.load(at::TAIL, Relaxed) <= self.next.position;
            match copied {
                Ok(Some(next)) if intact => {
                    messages += next.sequence.wrapping_sub(self.next.sequence);
                    self.next = next;
                }
                _ if messages > 0 => {
                    out.truncate(len); // the next call finds the same
                    break;
                }
                Ok(None) if intact => {
                    out.truncate(len);
                    break;
                }
                Err(corrupt) if intact => {
                    out.truncate(len);
                    return Err(corrupt);
                }
                _ => {
                    out.truncate(len);
                    return self.resume(left);
                }
            }
        }
        Ok(if messages > 0 { Poll::Messages(messages) } else { Poll::Empty })
    }

    /// Messages from here to the one with the sequence number `end`, if there is an end; 0 if that was before.
    fn messages_to(&self, end: Option<u64>) -> u64 {
        let left = end.map_or(u64::MAX, |end| end.wrapping_sub(self.next.sequence));
        if end.is_some() && left > u64::MAX / 2 { 0 } else { left }
    }

    /// Copies the next record, of which `left` messages are wanted at most, and returns where it ends; `None` if it is for the next call. It may
    /// have been overwritten in the meantime, whatever the result.
    #[inline]
    fn copy<const N: usize>(
        &self,
        head: u64,
        left: u64,
        out: &mut BytesMut,
        judge: &mut impl FnMut(&Record, &[u8]) -> Verdict<N>,
    ) -> Result<Option<Cursor>, Corrupt> {
        let Cursor { position, sequence } = self.next;
        let (record, end) = self.record(position, sequence, head)?;
        let (start, metadata_bytes) = (out.len(), usize::from(record.metadata_bytes));
        out.resize(start + N + metadata_bytes + record.payload_bytes as usize, 0);
        let (front, body) = out[start..].split_at_mut(N);
        let (metadata, payload) = body.split_at_mut(metadata_bytes);
        self.load_bytes(position + 1, metadata);
        self.load_bytes(position + record.words_to_payload(), payload);
        match judge(&record, body) {
            Verdict::Accept(header) => front.copy_from_slice(&header),
            Verdict::Postpone => return Ok(None),
            Verdict::Reject => return Err(Corrupt::Record { position, word: record.first_word() }),
        }
        let last = record.last_sequence();
        match self.load(end - 1) {
            found if found == last && record.messages() <= left => {
                Ok(Some(Cursor { position: end, sequence: last.wrapping_add(1) }))
            }
            found => Err(Corrupt::Sequence { position, found, next: sequence }),
        }
    }

    /// The record at `position` and its end, which is not behind `head` nor further away than the capacity.
    #[inline]
    fn record(&self, position: u64, sequence: u64, head: u64) -> Result<(Record, u64), Corrupt> {
        let Some(available) = head.checked_sub(position).filter(|&words| words <= self.capacity.words()) else {
            return Err(Corrupt::Bounds { position, tail: self.words.load(at::TAIL, Relaxed), head });
        };
        let word = self.load(position);
        match Record::parse(word, sequence) {
            Some(record) if record.words() <= available => Ok((record, position + record.words())),
            _ => Err(Corrupt::Record { position, word }),
        }
    }

    /// Continues at the oldest intact record. `left` messages are wanted.
    #[cold]
    fn resume(&mut self, left: u64) -> Result<Poll, Corrupt> {
        let Cursor { position, sequence } = self.next;
        for _ in 0..ATTEMPTS_MAX {
            let (tail, head) = self.bounds();
            if tail <= position || tail >= head {
                return Err(Corrupt::Bounds { position, tail, head });
            }
            let Some(oldest) = self.sequence_at(tail, head) else { continue };
            let found = oldest?;
            let lost = found.wrapping_sub(sequence);
            if lost == 0 || lost > (tail - position).saturating_mul(MESSAGES_PER_WORD_MAX) {
                return Err(Corrupt::Sequence { position: tail, found, next: sequence });
            }
            let lost = lost.min(left);
            self.next = Cursor { position: tail, sequence: sequence.wrapping_add(lost) };
            return Ok(Poll::Lapped { lost });
        }
        Ok(Poll::Empty)
    }

    /// Where the oldest intact record begins.
    fn oldest(&self) -> Result<Cursor, Corrupt> {
        for _ in 0..ATTEMPTS_MAX {
            let (tail, head) = self.bounds();
            if head == 0 {
                return Ok(self.first());
            }
            if tail >= head {
                return Err(Corrupt::Bounds { position: 0, tail, head });
            }
            if let Some(sequence) = self.sequence_at(tail, head) {
                return Ok(Cursor { position: tail, sequence: sequence? });
            }
        }
        Err(Corrupt::Overtaken)
    }

    /// Where the newest published record ends, and the sequence number of the next one.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the writer overtook every attempt to read it.
    pub fn newest(&self) -> Result<Cursor, Corrupt> {
        // The word before the head is the sequence number of the newest record.
        for _ in 0..ATTEMPTS_MAX {
            let head = self.words.load(at::HEAD, Acquire);
            let Some(last) = head.checked_sub(1) else { return Ok(self.first()) };
            let sequence = self.load(last);
            self.words.fence(Acquire);
            if self.words.load(at::TAIL, Relaxed) < head {
                return Ok(Cursor { position: head, sequence: sequence.wrapping_add(1) });
            }
        }
        Err(Corrupt::Overtaken)
    }

    /// Where the first record of the ring begins.
    fn first(&self) -> Cursor {
        Cursor { position: 0, sequence: self.words.load(at::FIRST_SEQUENCE, Relaxed) }
    }

    /// The tail, and a head that is not older.
    fn bounds(&self) -> (u64, u64) {
        let tail = self.words.load(at::TAIL, Acquire);
        (tail, self.words.load(at::HEAD, Relaxed))
    }

    /// The sequence number of the first message at the tail, or `None` if the tail has moved.
    fn sequence_at(&self, tail: u64, head: u64) -> Option<Result<u64, Corrupt>> {
        let first = |(record, end): (Record, u64)| self.load(end - 1).wrapping_sub(record.messages() - 1);
        let sequence = self.record(tail, 0, head).map(first);
        self.words.fence(Acquire);
        (self.words.load(at::TAIL, Relaxed) == tail).then_some(sequence)
    }

    #[inline]
    fn load(&self, position: u64) -> u64 {
        self.words.load(self.capacity.index(position), Relaxed)
    }

    #[inline]
    fn load_bytes(&self, position: u64, bytes: &mut [u8]) {
        let (front, back) = bytes.split_at_mut(bytes.len().min(self.capacity.bytes_to_wrap(position)));
        self.words.load_bytes(self.capacity.index(position), front);
        if !back.is_empty() {
            self.words.load_bytes(HEADER_WORDS, back);
        }
    }
}
