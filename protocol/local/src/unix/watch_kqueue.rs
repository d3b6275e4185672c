//! Watching paths through kqueue. It never examines what has changed.

use super::Paths;
use crate::unix::registration::{Registration, register};
use rustix::event::Timespec;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent_timespec, kqueue};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;

/// Does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What to watch in a directory above, whose names do not matter.
const ITSELF: VnodeEvents = VnodeEvents::DELETE.union(VnodeEvents::RENAME).union(VnodeEvents::REVOKE);

#[derive(Debug)]
pub(super) struct Events {
    /// First, so that it is dropped before the directories are closed.
    queue: Registration<Rc<OwnedFd>>,
    _directories: Vec<OwnedFd>,
}

impl Events {
    /// The events of these paths, and whether all paths are watched.
    pub(super) fn of(paths: &Paths) -> io::Result<(Self, bool)> {
        let queue = kqueue()?;
        let mut opened = Vec::new();
        let directories = paths.directories.iter().map(|path| (path, ITSELF | VnodeEvents::WRITE));
        for (path, of_interest) in directories.chain(paths.above.iter().map(|path| (path, ITSELF))) {
            // A directory that may be traversed but not read cannot be watched.
            opened.extend(add(&queue, path, of_interest));
        }
        let are_all = opened.len() == paths.directories.len() + paths.above.len();
        Ok((Self { queue: register(Rc::new(queue), Interest::READABLE)?, _directories: opened }, are_all))
    }

    #[allow(unsafe_code)]
    pub(super) async fn next(&self) {
        // This fails only when the runtime ends, and this task with it.
        let Ok(mut ready) = self.queue.readable().await else { return std::future::pending().await };
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; 8];
        // SAFETY: nothing is added to the queue, and the directories in it are still open.
        let taken = unsafe { kevent_timespec(self.queue.get_ref(), &[], &mut buffer, Some(&AT_ONCE)) };
        // Events that did not fit into the buffer are reported again.
        if taken.is_err() {
            return std::future::pending().await;
        }
        ready.clear_ready();
    }
}

/// Adds a directory to the queue, where it stays as long as the returned descriptor is open.
#[allow(unsafe_code)]
fn add(queue: &OwnedFd, directory: &Path, of_interest: VnodeEvents) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let of_interest = EventFilter::Vnode { vnode: directory.as_raw_fd(), flags: of_interest };
    // An event is cleared when it is reported, so that a change while the caller checks is reported again.
    let watch = Event::new(of_interest, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
    let mut none: [MaybeUninit<Event>; 0] = [];
    // SAFETY: the directory is open. The caller keeps it open as long as the queue, which is dropped first.
    unsafe { kevent_timespec(queue, &[watch], &mut none, Some(&AT_ONCE)) }?;
    Ok(directory)
}
