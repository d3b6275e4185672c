//! Systems without `/proc`: lock holders and details of processes stay unknown.

use super::facts::Holder;
use rustix::fs::Stat;
use std::io;
use std::path::Path;

/// Unknown.
pub(super) fn lock_holders(_stat: &Stat) -> io::Result<Option<Vec<u32>>> {
    Ok(None)
}

/// Only the process id is known.
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

/// Unknown.
pub(super) fn isolation() -> Vec<&'static str> {
    Vec::new()
}
