//! One descriptor that is readable whenever a handle has something to do. It never reads or writes a socket.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "readiness_epoll.rs"]
mod queue;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "readiness_kqueue.rs"]
mod queue;

use crate::Interest;
use queue::State;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A descriptor for the whole life of a handle, across reconnects, for event loops such as mio, calloop and GLib.
///
/// It is readable while one of the sockets is ready, or the time has come, or the handle has reported that it is ready now: see
/// [`set`](Self::set). Readiness is a level: it lasts until `set` is called with something else, or the sockets are no longer ready, which
/// kqueue notices at the next call of `set`. An event loop only waits for the descriptor; it must not read from it.
///
/// It keeps a socket open until `set` is called without it. Closing the socket would not remove it: epoll reports it as long as another
/// descriptor refers to it, such as that of a forked child.
#[derive(Debug)]
pub struct Readiness {
    queue: OwnedFd,
    state: Mutex<State>,
}

impl Readiness {
    /// A descriptor that is not readable.
    ///
    /// # Errors
    ///
    /// If this process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { queue: queue::create()?, state: Mutex::default() })
    }

    /// Replaces what makes the descriptor readable: one of `interests` being ready, the time `at`, or, if `ready_now`, nothing further.
    ///
    /// If nothing has changed, this makes no system call with epoll, and one with kqueue.
    ///
    /// # Errors
    ///
    /// If this process or the system is out of descriptors or memory. Then the descriptor may miss some of the interests, and the next call
    /// tries again.
    pub fn set(&self, interests: &[Interest<'_>], at: Option<Instant>, ready_now: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.set_sockets(&self.queue, interests)?;
        // A time that has come is the same as ready now, without a timer that fires a moment later.
        let due = at.is_some_and(|at| at <= Instant::now());
        state.set_timer(&self.queue, at.filter(|_| !due && !ready_now))?;
        let fired = queue::refresh(&self.queue)?;
        state.set_ready(&self.queue, ready_now || due || fired)
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl AsRawFd for Readiness {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}
