//! What a ring needs of the system: sealed memory, descriptors that travel over a socket, and doorbells. It knows nothing about the contents
//! of a ring, and never sends a descriptor by itself.
//!
//! The system is Linux, or Android, with 64-bit pointers: a reader maps memory that it cannot write to, and there loads of 64 bits
//! never store. Elsewhere the same names exist, but no value of these types does, and [`shared_memory_problem`] states why.
//!
//! A forked child keeps its copies of these descriptors and mappings: a handle that moves to the child goes on working there. Nothing waits
//! for the end of a memfd or an eventfd, as peers do for the end of a socket, and all eventfds of a system have the same inode, by which
//! `fork.rs` recognises what to close.

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
mod elsewhere;
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod linux;

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
pub use elsewhere::{
    CAN_SHARE_MEMORY, Descriptor, Doorbells, ReadOnlyMemory, WritableMemory, make_doorbell, make_memory, open_memory,
    read_blocking_with_descriptors, read_with_descriptors, ring_doorbell, shared_memory_problem,
    write_with_descriptors,
};
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
pub use linux::{
    CAN_SHARE_MEMORY, Descriptor, Doorbells, ReadOnlyMemory, WritableMemory, make_doorbell, make_memory, open_memory,
    read_blocking_with_descriptors, read_with_descriptors, ring_doorbell, shared_memory_problem,
    write_with_descriptors,
};
