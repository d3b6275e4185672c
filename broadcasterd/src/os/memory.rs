//! The allocator of the C library. Nothing here decides when memory is returned.

/// Returns the free memory of the allocator to the system, where it would be kept otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(crate) fn return_memory() {
    // SAFETY: The function has no preconditions; it locks what it changes.
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn return_memory() {}
