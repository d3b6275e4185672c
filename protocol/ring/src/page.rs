//! The page of one reader: the words that it shows to the writer of a ring and to the daemon. This module decides nothing but what a word means.

use crate::doorbell::{Doorbell, Ringer};
use crate::reader::Corrupt;
use crate::words::{Words, WordsMut};
use crate::writer::Published;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// Bytes of the memory of a page.
pub const PAGE_BYTES: usize = 4096;

/// The first word of a page: the letters `SBPAGE` and the version of the layout.
pub const PAGE_MAGIC: u64 = u64::from_le_bytes(*b"SBPAGE\x01\x00");

/// Indices of the words. What writers load for each batch, and what readers store for each intake, are in different cache lines.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const ARMED: usize = 16;
    pub(super) const CALLS: usize = 17;
    pub(super) const LEFT: usize = 18;
    pub(super) const RELAYS: usize = 19;
    pub(super) const POSITION: usize = 32;
    pub(super) const RECEIVED: usize = 33;
    pub(super) const LOST: usize = 34;
    pub(super) const COUNT: usize = 64;
}

/// What a reader has done so far, as its page states it. Each number lags behind at most, and never decreases if the reader is honest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Position in the ring that the reader has reached.
    pub position: u64,
    /// Records that it has copied.
    pub received: u64,
    /// Records that it has lost.
    pub lost: u64,
}

/// The page of a reader, as the reader sees it.
#[derive(Debug)]
pub struct PageWriter<W> {
    doorbell: Doorbell<W>,
    counted: Sample,
    calls: u64,
}

impl<W: WordsMut> PageWriter<W> {
    /// Begins a page in words that are all zero.
    ///
    /// # Panics
    ///
    /// If there are fewer than 64 words.
    pub fn new(words: W) -> Self {
        words.store(at::COUNT - 1, 0, Relaxed);
        words.store(at::MAGIC, PAGE_MAGIC, Release);
        Self { doorbell: Doorbell::new(words, at::ARMED), counted: Sample::default(), calls: 0 }
    }

    /// Requests to be woken: see [`Doorbell::arm`].
    #[must_use = "a reader that sleeps although something is ready may sleep forever"]
    pub fn arm(&mut self, is_ready: impl FnOnce() -> bool) -> bool {
        self.doorbell.arm(is_ready)
    }

    /// Ends a sleep: see [`Doorbell::disarm`].
    pub fn disarm(&mut self) {
        self.doorbell.disarm();
    }

    /// Requests that the writer of the ring looks at its socket. What is there must have been written before, or the daemon that serves both is
    /// gone.
    pub fn call(&mut self) {
        self.calls = self.calls.wrapping_add(1);
        self.doorbell.words().store(at::CALLS, self.calls, Release);
    }

    /// Notes that the reader reads what is in the ring now, and nothing after that: either it finds a record that was published, or the writer
    /// [finds](PageReader::has_left) after publishing it that the reader has left.
    pub fn leave(&mut self) {
        let words = self.doorbell.words();
        words.store(at::LEFT, 1, Relaxed);
        words.fence(SeqCst);
    }

    /// Notes whether the reader passes records on to others. Only the daemon does.
    pub fn set_relaying(&mut self, relays: bool) {
        self.doorbell.words().store(at::RELAYS, relays.into(), Release);
    }

    /// Notes that the reader has reached `position`, after it has copied and lost so many more records.
    #[inline]
    pub fn count(&mut self, position: u64, received: u64, lost: u64) {
        let counted = &mut self.counted;
        counted.position = position;
        counted.received = counted.received.wrapping_add(received);
        counted.lost = counted.lost.wrapping_add(lost);
        let words = self.doorbell.words();
        words.store(at::RECEIVED, counted.received, Relaxed);
        words.store(at::LOST, counted.lost, Relaxed);
        words.store(at::POSITION, counted.position, Release);
    }

    /// Notes the end: the reader has reached `position`, and `total` records in all. Those that it did not count before were not for it to copy.
    pub fn finish(&mut self, position: u64, total: u64) {
        let Sample { received, lost, .. } = self.counted;
        self.count(position, total.saturating_sub(received.saturating_add(lost)), 0);
    }
}

/// The page of a reader, as the writer of the ring and the daemon see it. They trust no word of it.
#[derive(Debug)]
pub struct PageReader<W> {
    ringer: Ringer<W>,
    calls: u64,
}

impl<W: Words> PageReader<W> {
    /// Reads the page in `words`.
    ///
    /// # Errors
    ///
    /// [`Corrupt::Magic`] if the words are not a page of this version.
    pub fn open(words: W) -> Result<Self, Corrupt> {
        let found = if words.count() >= at::COUNT { words.load(at::MAGIC, Acquire) } else { 0 };
        if found != PAGE_MAGIC {
            return Err(Corrupt::Magic { found, expected: PAGE_MAGIC });
        }
        Ok(Self { ringer: Ringer::new(words, at::ARMED), calls: 0 })
    }

    /// Whether the reader sleeps and must be woken now: see [`Ringer::must_ring`].
    #[inline]
    #[must_use = "a sleeping reader must be woken"]
    pub fn must_ring(&mut self, published: &Published) -> bool {
        self.ringer.must_ring(published)
    }

    /// Whether the reader has called the writer to its socket since the last time that this returned true.
    #[inline]
    pub fn is_called(&mut self) -> bool {
        let calls = self.ringer.words().load(at::CALLS, Acquire);
        std::mem::replace(&mut self.calls, calls) != calls
    }

    /// Whether the reader [has left](PageWriter::leave), and may have done so before it found the last record.
    pub fn has_left(&self, _: &Published) -> bool {
        self.ringer.words().load(at::LEFT, Relaxed) != 0
    }

    /// Whether the reader passes records on to others.
    pub fn is_relaying(&self) -> bool {
        self.ringer.words().load(at::RELAYS, Acquire) != 0
    }

    /// What the reader has done.
    pub fn sample(&self) -> Sample {
        let words = self.ringer.words();
        let position = words.load(at::POSITION, Acquire);
        let [received, lost] = [at::RECEIVED, at::LOST].map(|index| words.load(index, Relaxed));
        Sample { position, received, lost }
    }
}
