//! Waking a listener that sleeps, without a system call while it is awake. This module decides; its callers wait and write.
//!
//! A listener owns one word, which senders can only load. An odd number is the generation of a sleep that a sender must end; an even number
//! means that the listener is awake.

use crate::words::{Words, WordsMut};
use crate::writer::Published;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// The listener's half of a doorbell.
///
/// A listener that has read everything calls [`arm`](Self::arm), and sleeps only if it returns true: until the event that senders signal has
/// happened. Then it resets the event (reads the eventfd), [`disarm`](Self::disarm)s, and reads all of its rings again, in this order. An event may
/// happen without a reason, at most once for each sender and sleep.
#[derive(Debug)]
pub struct Doorbell<W> {
    words: W,
    index: usize,
    generation: u64,
}

impl<W: WordsMut> Doorbell<W> {
    /// The doorbell in the word at `index`. A sleep that another owner of the word has begun ends.
    pub fn new(words: W, index: usize) -> Self {
        let generation = words.load(index, Relaxed);
        let mut doorbell = Self { words, index, generation };
        doorbell.disarm();
        doorbell
    }

    /// Requests to be woken, and returns whether the listener may sleep. It may not if `is_ready` returns true, which checks everything that the
    /// listener waits for; then the doorbell is disarmed again.
    #[must_use = "a listener that sleeps although something is ready may sleep forever"]
    pub fn arm(&mut self, is_ready: impl FnOnce() -> bool) -> bool {
        self.disarm();
        self.advance();
        // Of this store and the loads of `is_ready`, and a sender's store of the head and its load of this word, at least one load sees
        // the other side's store, because both sides have such a fence in between.
        self.words.fence(SeqCst);
        let ready = is_ready();
        if ready {
            self.disarm();
        }
        !ready
    }

    /// Ends a sleep. Senders need not wake this listener.
    pub fn disarm(&mut self) {
        if is_asleep(self.generation) {
            self.advance();
        }
    }

    pub(crate) fn words(&self) -> &W {
        &self.words
    }

    fn advance(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.words.store(self.index, self.generation, Relaxed);
    }
}

/// A sender's half of the doorbell of one listener.
#[derive(Debug)]
pub struct Ringer<W> {
    words: W,
    index: usize,
    /// The sleep that this sender has ended last; 0 for none.
    rung: u64,
}

impl<W: Words> Ringer<W> {
    /// The doorbell in the word at `index`.
    pub fn new(words: W, index: usize) -> Self {
        Self { words, index, rung: 0 }
    }

    pub(crate) fn words(&self) -> &W {
        &self.words
    }

    /// Whether this sender must signal the listener's event now. True at most once for each sleep of the listener.
    #[inline]
    #[must_use = "a sleeping listener must be woken"]
    pub fn must_ring(&mut self, _: &Published) -> bool {
        let generation = self.words.load(self.index, Relaxed);
        let must = is_asleep(generation) && generation != self.rung;
        if must {
            self.rung = generation;
        }
        must
    }
}

fn is_asleep(generation: u64) -> bool {
    generation % 2 == 1
}
