//! An allocator that counts, for the tests of what this package and the server keep in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts per thread, so that tests do not affect one another.
pub(crate) struct Counting;

thread_local! {
    /// Bytes that are allocated now.
    pub(crate) static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most bytes that were allocated at any time. A test may set it back.
    pub(crate) static PEAK: Cell<isize> = const { Cell::new(0) };
    /// Number of allocations.
    pub(crate) static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + usize::from(bytes > 0));
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call is forwarded unchanged to the system's allocator. Counting changes numbers of this thread, which need neither an
// allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}
