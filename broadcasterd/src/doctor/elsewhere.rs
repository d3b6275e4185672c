//! The stand-in where there is no `/proc`: who holds a lock and what a process is remain unknown.

use super::facts::Holder;
use rustix::fs::Stat;
use std::io;
use std::path::Path;

/// Unknown.
pub(super) fn lock_holders(_stat: &Stat) -> io::Result<Option<Vec<u32>>> {
    Ok(None)
}

/// Its number is all that is known.
pub(super) fn process(pid: u32) -> Holder {
    Holder { pid, ..Holder::default() }
}

/// Unknown.
pub(super) fn listens(_socket: &Path) -> Option<bool> {
    None
}

/// There is no such limit.
pub(super) fn inotify_instances_max() -> Option<u64> {
    None
}

/// None are known.
pub(super) fn walls() -> Vec<&'static str> {
    Vec::new()
}
