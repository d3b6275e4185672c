//! The seam between the ring and its memory: rows of 64-bit words. This module never interprets a word.

use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The bytes of a word.
pub(crate) const WORD_BYTES: usize = size_of::<u64>();

/// A row of words that other threads or processes may store to at any time, as a reader sees it.
///
/// A read-only mapping implements this trait alone, so that code with such a mapping cannot store into it. An implementation accesses
/// the memory through atomic operations; no reference to its bytes ever exists.
pub trait Words {
    /// The number of words. It never changes.
    fn count(&self) -> usize;

    /// Loads a word.
    ///
    /// # Panics
    ///
    /// If `index` is not less than the [`count`](Self::count).
    fn load(&self, index: usize, ordering: Ordering) -> u64;

    /// Orders accesses to these and other words, like [`std::sync::atomic::fence`].
    fn fence(&self, ordering: Ordering);

    /// Loads consecutive words as little-endian bytes, each once, with relaxed ordering. An implementation may have a faster way.
    ///
    /// # Panics
    ///
    /// If there are not as many words.
    #[inline]
    fn load_words(&self, index: usize, words: &mut [[u8; WORD_BYTES]]) {
        for (offset, word) in words.iter_mut().enumerate() {
            *word = self.load(index + offset, Ordering::Relaxed).to_le_bytes();
        }
    }

    /// Fills `bytes` with the bytes that [`store_bytes`](WordsMut::store_bytes) stored from the word `index` on. Each word is loaded once,
    /// with relaxed ordering. What was stored in the meantime may appear in part.
    ///
    /// # Panics
    ///
    /// If there are not as many words.
    #[inline]
    fn load_bytes(&self, index: usize, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut();
        self.load_words(index, words);
        if !rest.is_empty() {
            let word: [u8; WORD_BYTES] = self.load(index + words.len(), Ordering::Relaxed).to_le_bytes();
            rest.copy_from_slice(&word[..rest.len()]);
        }
    }
}

/// A row of words as its only writer sees it.
pub trait WordsMut: Words {
    /// Stores a word.
    ///
    /// # Panics
    ///
    /// If `index` is not less than the [`count`](Words::count).
    fn store(&self, index: usize, word: u64, ordering: Ordering);

    /// Stores consecutive words, which are little-endian bytes, with relaxed ordering. An implementation may have a faster way.
    ///
    /// # Panics
    ///
    /// If there are not as many words.
    #[inline]
    fn store_words(&self, index: usize, words: &[[u8; WORD_BYTES]]) {
        for (offset, &word) in words.iter().enumerate() {
            self.store(index + offset, u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    /// Stores `bytes` from the word `index` on, with relaxed ordering. The last word is padded with zeros.
    ///
    /// # Panics
    ///
    /// If there are not as many words.
    #[inline]
    fn store_bytes(&self, index: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        self.store_words(index, words);
        if !rest.is_empty() {
            let mut word = [0; WORD_BYTES];
            word[..rest.len()].copy_from_slice(rest);
            self.store(index + words.len(), u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }
}

#[cfg(target_has_atomic = "64")]
mod atomics {
    use super::{WORD_BYTES, Words, WordsMut};
    use std::sync::atomic::{AtomicU64, Ordering, fence};

    /// Memory of one process, for tests and simulations.
    impl Words for [AtomicU64] {
        #[inline]
        fn count(&self) -> usize {
            self.len()
        }

        #[inline]
        fn load(&self, index: usize, ordering: Ordering) -> u64 {
            self[index].load(ordering)
        }

        #[inline]
        fn fence(&self, ordering: Ordering) {
            fence(ordering);
        }

        #[inline]
        fn load_words(&self, index: usize, words: &mut [[u8; WORD_BYTES]]) {
            for (word, bytes) in self[index..][..words.len()].iter().zip(words) {
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
        }
    }

    impl WordsMut for [AtomicU64] {
        #[inline]
        fn store(&self, index: usize, word: u64, ordering: Ordering) {
            self[index].store(word, ordering);
        }

        #[inline]
        fn store_words(&self, index: usize, words: &[[u8; WORD_BYTES]]) {
            for (word, &bytes) in self[index..][..words.len()].iter().zip(words) {
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
        }
    }
}

/// Shares words between the ends of a ring.
macro_rules! forward {
    ($pointer:ty) => {
        impl<W: Words + ?Sized> Words for $pointer {
            #[inline]
            fn count(&self) -> usize {
                (**self).count()
            }

            #[inline]
            fn load(&self, index: usize, ordering: Ordering) -> u64 {
                (**self).load(index, ordering)
            }

            #[inline]
            fn fence(&self, ordering: Ordering) {
                (**self).fence(ordering);
            }

            #[inline]
            fn load_words(&self, index: usize, words: &mut [[u8; WORD_BYTES]]) {
                (**self).load_words(index, words);
            }
        }

        impl<W: WordsMut + ?Sized> WordsMut for $pointer {
            #[inline]
            fn store(&self, index: usize, word: u64, ordering: Ordering) {
                (**self).store(index, word, ordering);
            }

            #[inline]
            fn store_words(&self, index: usize, words: &[[u8; WORD_BYTES]]) {
                (**self).store_words(index, words);
            }
        }
    };
}

forward!(&W);
forward!(Arc<W>);
