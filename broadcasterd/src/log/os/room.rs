//! Stderr as others share it: written only while it has room, and never changed.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;

/// Writes as much of the line as there is room for; `None` if there is none.
pub(crate) fn write_shared(line: &[u8]) -> Option<usize> {
    // XXX: who shares the pipe may take the room between these two calls; then this waits until somebody reads.
    if has_room() { rustix::io::write(io::stderr(), line).ok() } else { None }
}

fn has_room() -> bool {
    let stderr = io::stderr();
    let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
    let ready = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    ready.is_ok() && asked[0].revents().contains(PollFlags::OUT)
}
