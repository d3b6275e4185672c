//! Noticing that the names in a directory change, through kqueue. It never looks at what has changed, and never polls.

use super::registration::{Registration, register};
use rustix::event::Timespec;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent_timespec, kqueue};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;

/// A watched directory.
#[derive(Debug)]
pub struct Watch {
    /// First, so that it is gone before the directory is closed.
    events: Registration<Rc<OwnedFd>>,
    _directory: OwnedFd,
}

/// Does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Watch {
    /// Watches the names in `directory`, and its own, in the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// If the system cannot watch it.
    #[allow(unsafe_code)]
    pub fn new(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let queue = kqueue()?;
        let of_interest = EventFilter::Vnode {
            vnode: directory.as_raw_fd(),
            flags: VnodeEvents::WRITE | VnodeEvents::DELETE | VnodeEvents::RENAME | VnodeEvents::REVOKE,
        };
        // Cleared when it is reported, so that a change during the caller's look is reported again.
        let watch = Event::new(of_interest, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
        let mut none: [MaybeUninit<Event>; 0] = [];
        // SAFETY: the directory is open, and stays open for as long as the queue: both are owned by what is returned, which drops the
        // queue first.
        unsafe { kevent_timespec(&queue, &[watch], &mut none, Some(&AT_ONCE)) }?;
        Ok(Self { events: register(Rc::new(queue), Interest::READABLE)?, _directory: directory })
    }

    /// Waits until a name has changed. The caller looks at what it is interested in.
    ///
    /// # Errors
    ///
    /// If the runtime ends.
    #[allow(unsafe_code)]
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut events = [const { MaybeUninit::<Event>::uninit() }; 1];
        // SAFETY: nothing is added to the queue, and the directory that it watches is still open.
        unsafe { kevent_timespec(self.events.get_ref(), &[], &mut events, Some(&AT_ONCE)) }?;
        ready.clear_ready();
        Ok(())
    }
}
