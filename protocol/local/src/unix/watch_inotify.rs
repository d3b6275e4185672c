//! Noticing that the names in a directory change, through inotify. It never looks at what has changed, and never polls.

use super::registration::{Registration, register};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;

/// A watched directory.
#[derive(Debug)]
pub struct Watch(Registration<Rc<OwnedFd>>);

impl Watch {
    /// Watches the names in `directory`, and its own, in the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// If the system cannot watch it.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let of_interest = WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, directory, of_interest)?;
        Ok(Self(register(Rc::new(inotify), Interest::READABLE)?))
    }

    /// Waits until a name has changed. The caller looks at what it is interested in.
    ///
    /// # Errors
    ///
    /// If the runtime ends.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(self.0.get_ref(), &mut buffer);
        while events.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
