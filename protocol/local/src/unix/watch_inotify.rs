//! Watching paths through inotify. It never examines what has changed.

use super::Paths;
use crate::unix::registration::{Registration, register};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::Interest;

/// What to watch in a directory itself.
const NAMES: WatchFlags = WatchFlags::DELETE
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO);

/// What to watch in a directory above it, whose other names do not matter.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

#[derive(Debug)]
pub(super) struct Events(Registration<Rc<OwnedFd>>);

impl Events {
    /// The events of these paths, and whether all paths are watched.
    pub(super) fn of(paths: &Paths) -> io::Result<(Self, bool)> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut are_all = true;
        let directories = paths.directories.iter().map(|path| (path, NAMES));
        for (path, of_interest) in directories.chain(paths.above.iter().map(|path| (path, ITSELF))) {
            let flags = of_interest | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
            // A directory that may be traversed but not read cannot be watched.
            are_all &= inotify::add_watch(&inotify, path, flags).is_ok();
        }
        Ok((Self(register(Rc::new(inotify), Interest::READABLE)?), are_all))
    }

    pub(super) async fn next(&self) {
        // This fails only when the runtime ends, and this task with it.
        let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.0.get_ref(), &mut buffer);
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}
