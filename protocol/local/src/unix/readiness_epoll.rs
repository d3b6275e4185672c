//! Readiness through epoll. It never reads or writes a socket.

use crate::{Interest, Socket};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct State {
    sockets: Vec<Registered>,
    timer: Option<OwnedFd>,
    /// The time that the timer is set to.
    armed: Option<Instant>,
    /// Always readable; reported while `ready`.
    signal: Option<OwnedFd>,
    ready: bool,
}

/// A socket in the epoll instance. It stays open until it is taken out.
#[derive(Debug)]
struct Registered {
    socket: Arc<Socket>,
    flags: EventFlags,
}

pub(super) fn create() -> io::Result<OwnedFd> {
    Ok(epoll::create(CreateFlags::CLOEXEC)?)
}

/// There is nothing to refresh: epoll reports levels, also of the timer.
#[allow(clippy::unnecessary_wraps)]
pub(super) fn refresh(_: &OwnedFd) -> io::Result<bool> {
    Ok(false)
}

impl State {
    pub(super) fn set_sockets(&mut self, epoll: &OwnedFd, interests: &[Interest<'_>]) -> io::Result<()> {
        // Unwanted sockets are removed first: a new socket may have the number of an old one.
        self.sockets.retain(|registered| {
            let wanted = interests.iter().any(|interest| registered.is(interest.socket));
            if !wanted {
                // This fails only for a socket that is not in the instance.
                let _ = epoll::delete(epoll, &*registered.socket);
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
                    self.sockets.push(Registered { socket: Arc::clone(interest.socket), flags });
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_timer(&mut self, epoll: &OwnedFd, at: Option<Instant>) -> io::Result<()> {
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

    pub(super) fn set_ready(&mut self, epoll: &OwnedFd, ready: bool) -> io::Result<()> {
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
    fn is(&self, socket: &Arc<Socket>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }
}

/// Every direction of interest for this socket.
fn wanted_flags(interests: &[Interest<'_>], socket: &Arc<Socket>) -> EventFlags {
    let same = interests.iter().filter(|interest| Arc::ptr_eq(interest.socket, socket));
    same.fold(EventFlags::empty(), |flags, interest| {
        flags | if interest.writable { EventFlags::OUT } else { EventFlags::IN }
    })
}

/// Adds a descriptor, or changes its flags if it was added before.
fn add(epoll: &OwnedFd, descriptor: BorrowedFd<'_>, flags: EventFlags) -> io::Result<()> {
    match epoll::add(epoll, descriptor, EventData::new_u64(0), flags) {
        Err(Errno::EXIST) => Ok(epoll::modify(epoll, descriptor, EventData::new_u64(0), flags)?),
        other => Ok(other?),
    }
}
