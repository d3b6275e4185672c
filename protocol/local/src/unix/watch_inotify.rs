//! Noticing that the paths of directories, or the names in them, change, through inotify. It never looks at what has changed.

use super::registration::{Registration, register};
use super::watched::{CHECK_EVERY, Paths};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;

/// Watched directories.
#[derive(Debug)]
pub struct Watch {
    /// `None` if the system cannot watch anything.
    events: Option<Registration<Rc<OwnedFd>>>,
    /// Nothing that matters can change without an event.
    is_complete: bool,
}

/// What is of interest in a directory itself.
const NAMES: WatchFlags = WatchFlags::DELETE
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO);

/// What is of interest in a directory above it. Its other names are not.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

impl Watch {
    /// Watches the names in `directories`, and the path of each, in the runtime that this is called in. Where the system cannot watch all of
    /// it, a change is noticed within three seconds.
    pub fn new<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths = Paths::of(directories);
        let mut is_complete = paths.are_complete;
        let mut start = || -> io::Result<Registration<Rc<OwnedFd>>> {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let directories = paths.directories.iter().map(|path| (path, NAMES));
            for (path, of_interest) in directories.chain(paths.above.iter().map(|path| (path, ITSELF))) {
                let flags = of_interest | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
                // A directory that may be passed through and not read cannot be watched.
                is_complete &= inotify::add_watch(&inotify, path, flags).is_ok();
            }
            register(Rc::new(inotify), Interest::READABLE)
        };
        let events = start().ok();
        Self { events, is_complete }
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

async fn next(events: &Registration<Rc<OwnedFd>>) {
    // It fails if the runtime ends, and this task with it.
    let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(events.get_ref(), &mut buffer);
    while reader.next().is_ok() {}
    ready.clear_ready();
}
