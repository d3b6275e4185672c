//! Being told when something happens to the names in a directory, without ever looking in vain. macOS and the BSDs, by kqueue. Two
//! `unsafe` blocks: asking a kqueue, which needs the directory to stay open.

use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent_timespec, kqueue};
use rustix::fs::{Mode, OFlags};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched directory.
#[derive(Debug)]
pub(crate) struct Watch {
    /// First, so that it is gone before the directory is closed.
    events: AsyncFd<Rc<OwnedFd>>,
    _directory: OwnedFd,
}

/// Never to wait.
const AT_ONCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };

impl Watch {
    /// Watches the names in `directory`, and its own.
    #[allow(unsafe_code)]
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let queue = kqueue()?;
        let of_interest = EventFilter::Vnode {
            vnode: directory.as_raw_fd(),
            flags: VnodeEvents::WRITE | VnodeEvents::DELETE | VnodeEvents::RENAME | VnodeEvents::REVOKE,
        };
        // Cleared when it is told, so that what happens while somebody looks is told again.
        let watch = Event::new(of_interest, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
        let mut none: [MaybeUninit<Event>; 0] = [];
        // SAFETY: the directory is open, and stays so for as long as the queue: both are owned by what is returned, which lets go of
        // the queue first.
        unsafe { kevent_timespec(&queue, &[watch], &mut none, Some(&AT_ONCE)) }?;
        Ok(Self { events: super::register(Rc::new(queue), Interest::READABLE)?, _directory: directory })
    }

    /// Waits until something has happened to a name.
    #[allow(unsafe_code)]
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut ready = poll_fn(|cx| self.events.poll_read_ready(cx)).await?;
        let mut events = [const { MaybeUninit::<Event>::uninit() }; 1];
        // What exactly happened does not matter: the caller looks for itself.
        // SAFETY: nothing is added to the queue, and the directory that it was told of is still open.
        unsafe { kevent_timespec(self.events.get_ref(), &[], &mut events, Some(&AT_ONCE)) }?;
        ready.clear_ready();
        Ok(())
    }
}
