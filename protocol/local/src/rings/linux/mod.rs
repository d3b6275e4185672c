//! Rings on Linux and Android: memfds, eventfds, and descriptors in ancillary data.

mod descriptor;
mod doorbell;
mod doorbells;
mod mapping;
mod memory;
mod problem;
mod transfer;

pub use descriptor::Descriptor;
pub use doorbell::{make_doorbell, ring_doorbell};
pub use doorbells::Doorbells;
pub use memory::{ReadOnlyMemory, WritableMemory, make_memory, open_memory};
pub use problem::shared_memory_problem;
pub use transfer::{read_blocking_with_descriptors, read_with_descriptors, write_with_descriptors};

use rustix::io::Errno;
use std::io;

/// Whether processes of this system can share memory for rings, unless [`shared_memory_problem`] finds an obstacle. Known without a system call.
pub const CAN_SHARE_MEMORY: bool = true;

/// The error of a system call that has failed, with its name.
fn failed(call: &str, errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    let kind = if is_shortage(errno) { io::ErrorKind::OutOfMemory } else { source.kind() };
    io::Error::new(kind, format!("{call}: {source}"))
}

/// Whether this process or the system is out of descriptors or memory, which may pass.
fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::TOOMANYREFS)
}
