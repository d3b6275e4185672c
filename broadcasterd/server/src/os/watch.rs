//! Being told when something happens to the names in a directory, without ever looking in vain. Linux only.

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched directory.
#[derive(Debug)]
pub(crate) struct Watch(AsyncFd<Rc<OwnedFd>>);

impl Watch {
    /// Watches the names in `directory`, and its own.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let of_interest = WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, directory, of_interest)?;
        Ok(Self(super::register(Rc::new(inotify), Interest::READABLE)?))
    }

    /// Waits until something has happened to a name.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut ready = poll_fn(|cx| self.0.poll_read_ready(cx)).await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(self.0.get_ref(), &mut buffer);
        // What exactly happened does not matter: the caller looks for itself.
        while events.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
