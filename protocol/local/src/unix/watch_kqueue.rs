//! Noticing that the paths of directories, or the names in them, change, through kqueue. It never looks at what has changed.

use super::registration::{Registration, register};
use super::watched::{CHECK_EVERY, Paths};
use rustix::event::Timespec;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent_timespec, kqueue};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;

/// Watched directories.
#[derive(Debug)]
pub struct Watch {
    /// First, so that it is gone before the directories are closed. `None` if the system cannot watch anything.
    events: Option<Registration<Rc<OwnedFd>>>,
    _directories: Vec<OwnedFd>,
    /// Nothing that matters can change without an event.
    is_complete: bool,
}

/// Does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What is of interest in a directory above. Its names are not.
const ITSELF: VnodeEvents = VnodeEvents::DELETE.union(VnodeEvents::RENAME).union(VnodeEvents::REVOKE);

impl Watch {
    /// Watches the names in `directories`, and the path of each, in the runtime that this is called in. Where the system cannot watch all of
    /// it, a change is noticed within three seconds.
    pub fn new<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths = Paths::of(directories);
        let mut watch = Self { events: None, _directories: Vec::new(), is_complete: paths.are_complete };
        let Ok(queue) = kqueue() else { return watch };
        let directories = paths.directories.iter().map(|path| (path, ITSELF | VnodeEvents::WRITE));
        for (path, of_interest) in directories.chain(paths.above.iter().map(|path| (path, ITSELF))) {
            match add(&queue, path, of_interest) {
                Ok(directory) => watch._directories.push(directory),
                // A directory that may be passed through and not read cannot be watched.
                Err(_) => watch.is_complete = false,
            }
        }
        watch.events = register(Rc::new(queue), Interest::READABLE).ok();
        watch
    }

    /// Waits until something may have changed. The caller looks at what it is interested in.
    pub async fn changed(&self) {
        match &self.events {
            Some(events) if self.is_complete => next(events).await,
            // Either way, the caller looks.
            Some(events) => drop(tokio::time::timeout(CHECK_EVERY, next(events)).await),
            None => tokio::time::sleep(CHECK_EVERY).await,
        }
    }
}

/// Adds a directory to the queue. It stays in it for as long as what is returned is open.
#[allow(unsafe_code)]
fn add(queue: &OwnedFd, directory: &Path, of_interest: VnodeEvents) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let of_interest = EventFilter::Vnode { vnode: directory.as_raw_fd(), flags: of_interest };
    // Cleared when it is reported, so that a change during the caller's look is reported again.
    let watch = Event::new(of_interest, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
    let mut none: [MaybeUninit<Event>; 0] = [];
    // SAFETY: the directory is open. The caller keeps it open for as long as the queue, which is dropped first.
    unsafe { kevent_timespec(queue, &[watch], &mut none, Some(&AT_ONCE)) }?;
    Ok(directory)
}

#[allow(unsafe_code)]
async fn next(events: &Registration<Rc<OwnedFd>>) {
    // It fails if the runtime ends, and this task with it.
    let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
    let mut buffer = [const { MaybeUninit::<Event>::uninit() }; 8];
    // SAFETY: nothing is added to the queue, and the directories in it are still open.
    let taken = unsafe { kevent_timespec(events.get_ref(), &[], &mut buffer, Some(&AT_ONCE)) };
    // Without an error, what was not taken is reported again.
    if taken.is_err() {
        return std::future::pending().await;
    }
    ready.clear_ready();
}
