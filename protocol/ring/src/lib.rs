//! A ring of messages in shared memory, with one writer and any number of readers, and doorbells that wake readers.
//!
//! The writer never waits: it overwrites the oldest records. A reader that was overtaken, *lapped*, learns exactly how many records it lost and
//! continues at an intact one. Readers only load. The writer is not trusted: whatever the words contain, a reader neither panics nor loops
//! without bound, and it copies at most the capacity of the ring.
//!
//! This crate is logic over atomic [`Words`]. It makes no system call, reads no clock, waits for nothing and contains no `unsafe` code. The
//! same code runs over a mapping, over a vector in a simulation and under a model checker.
//!
//! | type | owner | does |
//! | --- | --- | --- |
//! | [`Writer`] | sender | `push`, `publish`, `close` |
//! | [`Reader`] | listener, or the daemon | `poll`: records, the number that was lost, or neither |
//! | [`Intake`] | listener, or the daemon | `take`: the next messages, as frames |
//! | [`Doorbell`] | listener | requests to be woken |
//! | [`Ringer`] | sender, one per listener | decides whether a listener must be woken |
//! | [`PageWriter`] | listener, or the daemon | its doorbell and its counters |
//! | [`PageReader`] | sender, and the daemon | the same, as they see them |
//!
//! # One ring, one publication
//!
//! All records of a ring belong to one channel and one sender, and neither is stored in it. The daemon states both when it introduces a ring. So a
//! hostile writer cannot use the name of another sender, and a ring outlives the daemon that numbered its channel. Everything else
//! of a frame is in its record, so that a listener obtains the bytes that a socket would have carried (`tests/frames.rs`). Each record is one
//! data frame: a message, or a batch of them.
//!
//! # Layout
//!
//! A ring is a row of 64-bit words. A position counts words since the ring began and never decreases; the word at position `p` is the word
//! `HEADER_WORDS + p % capacity`.
//!
//! | word | content | stored |
//! | --- | --- | --- |
//! | 0 | [`MAGIC`], which includes the version of this layout | once |
//! | 1 | capacity: words of data, a power of two | once |
//! | 2 | sequence number of the first record | once |
//! | 16 | head: where the newest published record ends | at each `publish` |
//! | 17 | closed: not zero when no record follows | once |
//! | 18 | bytes of the frames of all records | at the same times, before the head |
//! | 32 | tail: where the oldest intact record begins | when the tail moves |
//! | from 64 | data | |
//!
//! | words of a record | content |
//! | --- | --- |
//! | 1 | bytes 0 to 8 of the frame's header: size of the body, kind, flags, size of the metadata; of a batch, the flags are 1, and its number of messages replaces the last size |
//! | as many as needed | metadata, padded with zeros |
//! | as many as needed | payload, padded with zeros |
//! | 1 | sequence number of its last message |
//!
//! Records follow each other without a gap, and continue at the start of the data: the last record before the end needs no padding, and a copy has at most two parts.
//! Positions in words cannot be misaligned. Integers are words, and bytes are converted in little-endian order, so that the layout does
//! not depend on the processor.
//!
//! The sequence number is the *last* word, so that one word states each fact: the word before the head is the number of the newest message, and
//! the first record after the tail ends with that of the oldest, or of the batch that has it. A reader can begin anywhere without a pair of words that must be stored at once.
//!
//! # Order of memory accesses
//!
//! | writer | | reader |
//! | --- | --- | --- |
//! | 1. store the tail (Release), if it moves | | 5. load the head (Acquire) |
//! | 2. fence (Release) | | 6. load the words of the record (Relaxed) |
//! | 3. store the words of records (Relaxed) | | 7. fence (Acquire) |
//! | 4. store the head (Release) | | 8. load the tail (Relaxed), compare it with the record's position |
//!
//! - **Published records are complete.** 4 synchronizes with 5: a reader that knows a head sees every word before it, or a newer one.
//! - **A torn copy is noticed**, as in a seqlock. If 6 loads a word from 3, then 2 synchronizes with 7, and 8 loads a tail that is behind the
//!   overwritten record. The reader compares positions, which never repeat, so that no number of laps can deceive it.
//! - **A lapped reader finds a record.** It loads the tail (Acquire) and then the head: 1 comes after a head that is further on, so the record
//!   at the tail is published. It is validated like any other. The tail moves by at least an eighth of the ring, so that the reader has
//!   time, and the tail's cache line stays shared in between. At least an eighth of the ring remains published and intact.
//! - **A dead writer harms nothing.** Before 4 no reader looks at what 3 has stored, and what 3 overwrites is before the tail already.
//! - **`closed` is stored after the last head** (Release) and loaded before the head (Acquire), so that `Closed` follows the last record.
//! - **No wake-up is lost.** A sender stores the head, executes a SeqCst fence, and loads the doorbell. A listener stores the doorbell, executes a
//!   SeqCst fence, and loads the heads. One of the fences is first, and what precedes it is visible to the loads after the other: the sender rings,
//!   or the listener does not sleep. Release and Acquire alone would let both loads miss both stores. In the same way, a reader that
//!   [leaves](PageWriter::leave) finds the last record, or its writer [finds that it has left](PageReader::has_left).
//!
//! `tests/loom.rs` checks this with every value that the memory model allows a load to return.
//!
//! # Limits
//!
//! - The capacity is from [`CAPACITY_WORDS_MIN`] to [`CAPACITY_WORDS_MAX`] words. Positions do not wrap: at 100 GB/s, 64 bits last 46 years.
//! - A record has at most a quarter of the ring; the socket carries larger messages. At most half of the ring waits for `publish`.
//! - A hostile writer can store any payload, number and kind, and can report any number of losses that its positions allow: it spoils its own ring. The
//!   reader's owner checks the kind, as for frames from a socket.
//! - The memory itself is the owner's responsibility: a mapping of a file that its writer can truncate is not safe to read.

#![forbid(unsafe_code)]

mod doorbell;
mod intake;
mod layout;
mod page;
mod reader;
mod words;
mod writer;

pub use doorbell::{Doorbell, Ringer};
pub use intake::{Intake, Taken};
pub use layout::{CAPACITY_WORDS_MAX, CAPACITY_WORDS_MIN, HEADER_WORDS, MAGIC, MESSAGES_PER_WORD_MAX, Record};
pub use page::{PAGE_BYTES, PAGE_MAGIC, PageReader, PageWriter, Sample};
pub use reader::{Corrupt, Cursor, Poll, Reader, Start};
pub use words::{Words, WordsMut};
pub use writer::{Published, PushError, Writer};
