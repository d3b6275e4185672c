//! Memory that other processes share, as a row of atomic words. All `unsafe` of it is here. It never decides what may be mapped.

use crate::failpoint;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// A shared mapping of a whole file.
///
/// There is no reference to its bytes, which other processes change at any time, but to atomic words only: they may be changed while
/// references to them exist.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: a mapping belongs to the whole process, and any thread may unmap it.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}

// SAFETY: threads share references to atomic words only.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of `file`, which are a multiple of 8 and not zero.
    ///
    /// The caller has verified that the file can neither shrink nor be without memory: otherwise an access would end this process.
    #[allow(unsafe_code)]
    pub(super) fn new(file: BorrowedFd<'_>, bytes: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        // SAFETY: the kernel chooses an address, so no other memory of this process changes.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::FAULT)?;
        Ok(Self { base, words: bytes / size_of::<AtomicU64>() })
    }

    /// The words. Those of a mapping without write access must only be loaded from, with relaxed ordering: any other operation may store.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that many words as long as `self` lives, at the address of a page, and each value is a valid word. What
        // changes them elsewhere is outside this process, and what does so in this process uses atomic operations too.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        failpoint::step("memory: to be unmapped");
        // SAFETY: these are the address and the size of the mapping, and no reference into it outlives `self`. In a forked child
        // this is the child's own mapping.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
        failpoint::step("memory: unmapped");
        debug_assert!(unmapped.is_ok(), "{:?}", unmapped.map_err(io::Error::from));
    }
}
