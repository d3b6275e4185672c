//! Several doorbells as one descriptor to wait for. It never reads a doorbell.

use super::{Descriptor, failed};
use crate::Socket;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The most doorbells that one system call consumes.
const EVENTS_MAX: usize = 32;

/// The doorbells that one listener waits for: an epoll instance that reports each ring once.
///
/// [`readable`](Self::readable) is its descriptor, to wait for like for a socket: on a thread, in a task, or in a
/// [`Readiness`](crate::Readiness). It is readable from a ring until [`consume`](Self::consume) is called, however many doorbells were rung.
/// A doorbell that was rung before it was added makes it readable too.
///
/// A forked child shares it with its parent, so only one of both must use it.
#[derive(Debug)]
pub struct Doorbells {
    epoll: Arc<Socket>,
}

impl Doorbells {
    /// No doorbells.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if this process or the system is out of descriptors or memory, which may pass.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|errno| failed("epoll_create1", errno))?;
        Ok(Self { epoll: Arc::new(epoll) })
    }

    /// Adds a doorbell, unless it was added before. [`remove`](Self::remove) it before it is dropped: what another process holds keeps ringing.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system is out of memory for it. Another error if the user waits for too
    /// many descriptors.
    pub fn add(&self, doorbell: &Descriptor) -> io::Result<()> {
        match epoll::add(&self.epoll, doorbell, EventData::new_u64(0), EventFlags::IN | EventFlags::ET) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("EPOLL_CTL_ADD", errno)),
        }
    }

    /// Removes a doorbell, if it was added.
    pub fn remove(&self, doorbell: &Descriptor) {
        let _ = epoll::delete(&self.epoll, doorbell);
    }

    /// Makes the descriptor unreadable until the next ring. What the rings announce must be looked for afterwards.
    ///
    /// # Errors
    ///
    /// If the system call fails, which it has no reason to.
    pub fn consume(&self) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            let consumed = retry_on_intr(|| {
                let (consumed, _) = epoll::wait(&self.epoll, &mut events, Some(&now))?;
                Ok(consumed.len())
            });
            if consumed.map_err(|errno| failed("epoll_wait", errno))? < EVENTS_MAX {
                return Ok(());
            }
        }
    }

    /// The descriptor, to wait for something to read.
    pub fn readable(&self) -> Arc<Socket> {
        Arc::clone(&self.epoll)
    }
}
