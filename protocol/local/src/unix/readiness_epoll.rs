//! One descriptor that is readable whenever a handle has something to do, through epoll. It never reads or writes a socket, and never keeps
//! one open.

use super::socket::Socket;
use crate::Interest;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A descriptor for the whole life of a handle, across reconnects, for event loops such as mio, calloop and GLib.
///
/// It is readable while one of the sockets is ready, or the time has come, or the handle has said that it is ready now: see
/// [`set`](Self::set). Readiness is a level: it lasts until `set` is called with something else, or the sockets are no longer ready. An
/// event loop only waits for the descriptor; it must not read from it.
///
/// A socket that is dropped takes itself out. It must not have been duplicated: the kernel keeps reporting a socket for as long as another
/// descriptor refers to it.
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sockets: Vec<Registered>,
    timer: Option<OwnedFd>,
    /// The time that the timer is set to.
    armed: Option<Instant>,
    /// Always readable; reported while `ready`.
    signal: Option<OwnedFd>,
    ready: bool,
}

/// A socket in the epoll instance. The weak reference distinguishes it from a later socket with the same number.
#[derive(Debug)]
struct Registered {
    socket: Weak<Socket>,
    descriptor: RawFd,
    flags: EventFlags,
}

impl Readiness {
    /// A descriptor that is not readable.
    ///
    /// # Errors
    ///
    /// If this process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, state: Mutex::default() })
    }

    /// Replaces what makes the descriptor readable: one of `interests` being ready, the time `at`, or, if `ready_now`, nothing further.
    ///
    /// This makes no system call if nothing has changed.
    ///
    /// # Errors
    ///
    /// If this process or the system is out of descriptors or memory. Then the descriptor may miss some of the interests, and the next call
    /// tries again.
    pub fn set(&self, interests: &[Interest<'_>], at: Option<Instant>, ready_now: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.set_sockets(&self.epoll, interests)?;
        // A time that has come is the same as ready now, without a timer that fires a moment later.
        let due = at.is_some_and(|at| at <= Instant::now());
        state.set_timer(&self.epoll, at.filter(|_| !due && !ready_now))?;
        state.set_ready(&self.epoll, ready_now || due)
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Readiness {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl State {
    fn set_sockets(&mut self, epoll: &OwnedFd, interests: &[Interest<'_>]) -> io::Result<()> {
        // What is no longer wanted goes first: a new socket may have the number of an old one.
        self.sockets.retain(|registered| {
            let wanted = interests.iter().any(|interest| registered.is(interest.socket));
            if !wanted && let Some(socket) = registered.socket.upgrade() {
                // It fails only for a socket that is not there.
                let _ = epoll::delete(epoll, &*socket);
            }
            wanted
        });
        for interest in interests {
            let flags = wanted_flags(interests, interest.socket);
            match self.sockets.iter_mut().find(|registered| registered.is(interest.socket)) {
                Some(registered) if registered.flags == flags => {}
                Some(registered) => {
                    epoll::modify(epoll, &**interest.socket, EventData::new_u64(0), flags)?;
                    registered.flags = flags;
                }
                None => {
                    add(epoll, interest.socket.as_fd(), flags)?;
                    let (socket, descriptor) = (Arc::downgrade(interest.socket), interest.socket.as_raw_fd());
                    self.sockets.push(Registered { socket, descriptor, flags });
                }
            }
        }
        Ok(())
    }

    fn set_timer(&mut self, epoll: &OwnedFd, at: Option<Instant>) -> io::Result<()> {
        if at == self.armed {
            return Ok(());
        }
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none => {
                let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                add(epoll, timer.as_fd(), EventFlags::IN)?;
                none.insert(timer)
            }
        };
        let it_value = match at {
            // Zero would stop the timer.
            Some(at) => at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)),
            None => Duration::ZERO,
        };
        let it_value = Timespec::try_from(it_value).map_err(io::Error::other)?;
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        self.armed = at;
        Ok(())
    }

    fn set_ready(&mut self, epoll: &OwnedFd, ready: bool) -> io::Result<()> {
        if ready == self.ready {
            return Ok(());
        }
        let flags = if ready { EventFlags::IN } else { EventFlags::empty() };
        match &self.signal {
            Some(signal) => epoll::modify(epoll, signal, EventData::new_u64(0), flags)?,
            None => {
                let signal = eventfd(1, EventfdFlags::CLOEXEC)?;
                add(epoll, signal.as_fd(), flags)?;
                self.signal = Some(signal);
            }
        }
        self.ready = ready;
        Ok(())
    }
}

impl Registered {
    /// Whether this is the same open socket. While a weak reference lives, no other socket has its address.
    fn is(&self, socket: &Arc<Socket>) -> bool {
        std::ptr::eq(self.socket.as_ptr(), Arc::as_ptr(socket)) && self.descriptor == socket.as_raw_fd()
    }
}

/// Every direction in which this socket is wanted.
fn wanted_flags(interests: &[Interest<'_>], socket: &Arc<Socket>) -> EventFlags {
    let same = interests.iter().filter(|interest| Arc::ptr_eq(interest.socket, socket));
    same.fold(EventFlags::empty(), |flags, interest| {
        flags | if interest.writable { EventFlags::OUT } else { EventFlags::IN }
    })
}

/// Adds a descriptor, or changes what it is watched for if it is there.
fn add(epoll: &OwnedFd, descriptor: BorrowedFd<'_>, flags: EventFlags) -> io::Result<()> {
    match epoll::add(epoll, descriptor, EventData::new_u64(0), flags) {
        Err(Errno::EXIST) => Ok(epoll::modify(epoll, descriptor, EventData::new_u64(0), flags)?),
        other => Ok(other?),
    }
}
