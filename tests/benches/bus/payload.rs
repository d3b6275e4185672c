//! The content of the payloads, and the checks that listeners make. They are the same for the bus and for the floors.
//!
//! A payload is an 8-byte word (the sender's index in the high bits, a counter in the low bits), an 8-byte timestamp, then a
//! fixed pattern.

use crate::clock;

/// Word and timestamp: no payload is shorter.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 16;

const COUNTER_BITS: u32 = 56;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;
/// The counter of the end frame, after which a sender sends no more data.
const END: u64 = COUNTER_MASK;
/// One in so many payloads is compared in full.
const COMPARE_EVERY: u64 = 64;
/// From this size on, the time of receipt is taken for every payload; below it, only for those that are compared.
const TIME_EACH_BYTES_MIN: usize = 4096;

fn pattern(bytes: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..bytes).map(|at| (at * 31 + 7) as u8).collect();
    payload[..PAYLOAD_BYTES_MIN].fill(0);
    payload
}

/// One sender's payload, updated in place for each frame.
pub(crate) struct PayloadBuilder {
    payload: Vec<u8>,
    index: u64,
}

impl PayloadBuilder {
    pub(crate) fn new(bytes: usize, index: u64) -> Self {
        Self { payload: pattern(bytes), index }
    }

    fn with_counter(&mut self, counter: u64) -> &[u8] {
        let word = self.index << COUNTER_BITS | counter;
        self.payload[..8].copy_from_slice(&word.to_le_bytes());
        &self.payload
    }

    pub(crate) fn data(&mut self, counter: u64) -> &[u8] {
        self.with_counter(counter)
    }

    /// The payload of a frame that carries the current time.
    pub(crate) fn timed(&mut self, counter: u64) -> &[u8] {
        self.payload[8..16].copy_from_slice(&clock::now().to_le_bytes());
        self.with_counter(counter)
    }

    pub(crate) fn end(&mut self) -> &[u8] {
        self.with_counter(END)
    }
}

/// The time that a timed payload carries.
pub(crate) fn timestamp(payload: &[u8]) -> u64 {
    payload.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Counts and checks the payloads that one listener receives.
pub(crate) struct PayloadChecker {
    expected: Vec<u8>,
    /// For each sender, the smallest counter that may still arrive.
    next: Vec<u64>,
    ended: Vec<bool>,
    senders_left: usize,
    frames_per_sender: u64,
    time_each: bool,
    pub(crate) received: u64,
    pub(crate) ends: u64,
    /// Payloads with a wrong size, order or content.
    pub(crate) bad: u64,
    /// When the last data frame arrived.
    pub(crate) last_at: u64,
}

impl PayloadChecker {
    pub(crate) fn new(bytes: usize, senders: usize, frames_per_sender: u64) -> Self {
        Self {
            expected: pattern(bytes),
            next: vec![0; senders],
            ended: vec![false; senders],
            senders_left: senders,
            frames_per_sender,
            time_each: bytes >= TIME_EACH_BYTES_MIN,
            received: 0,
            ends: 0,
            bad: 0,
            last_at: 0,
        }
    }

    /// Whether the end frame of every sender has arrived.
    pub(crate) fn complete(&self) -> bool {
        self.senders_left == 0
    }

    #[inline]
    pub(crate) fn check(&mut self, payload: &[u8]) {
        let Some(word) = payload.first_chunk::<8>() else {
            self.bad += 1;
            return;
        };
        let word = u64::from_le_bytes(*word);
        let (index, counter) = ((word >> COUNTER_BITS) as usize, word & COUNTER_MASK);
        let Some(next) = self.next.get_mut(index) else {
            self.bad += 1;
            return;
        };
        if payload.len() != self.expected.len() {
            self.bad += 1;
            return;
        }
        if counter == END {
            self.end(index);
            return;
        }
        self.bad += u64::from(counter < *next);
        *next = counter + 1;
        self.received += 1;
        let sampled = counter % COMPARE_EVERY == 0;
        if sampled && payload[PAYLOAD_BYTES_MIN..] != self.expected[PAYLOAD_BYTES_MIN..] {
            self.bad += 1;
        }
        if sampled || self.time_each || *next == self.frames_per_sender {
            self.last_at = clock::now();
        }
    }

    #[cold]
    fn end(&mut self, index: usize) {
        self.ends += 1;
        if !std::mem::replace(&mut self.ended[index], true) {
            self.senders_left -= 1;
        }
    }
}
