//! Readiness through kqueue. It never reads or writes a socket.

use crate::{Interest, Socket};
use rustix::event::Timespec;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, UserDefinedFlags, UserFlags, kevent_timespec, kqueue};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct State {
    sockets: Vec<Registered>,
    /// The time that the timer is set to.
    armed: Option<Instant>,
    ready: bool,
}

/// A socket in the queue, in one direction. It stays open until it is taken out.
#[derive(Debug)]
struct Registered {
    socket: Arc<Socket>,
    writable: bool,
}

/// The timer and the user event each have a number of their own; there is one of each.
const IDENT: isize = 0;

/// Does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

pub(super) fn create() -> io::Result<OwnedFd> {
    let queue = kqueue()?;
    rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
    Ok(queue)
}

/// Makes the queue check again whether what it reports is still ready, and returns whether the timer has fired. This removes the timer's
/// event from the queue.
#[allow(unsafe_code)]
pub(super) fn refresh(queue: &OwnedFd) -> io::Result<bool> {
    let mut events = [const { MaybeUninit::<Event>::uninit() }; 8];
    // SAFETY: nothing is added to the queue.
    let (events, _) = unsafe { kevent_timespec(queue, &[], &mut events, Some(&AT_ONCE)) }?;
    Ok(events.iter().any(|event| matches!(event.filter(), EventFilter::Timer { .. })))
}

impl State {
    pub(super) fn set_sockets(&mut self, queue: &OwnedFd, interests: &[Interest<'_>]) -> io::Result<()> {
        // Unwanted sockets are removed first: a new socket may have the number of an old one.
        self.sockets.retain(|registered| {
            let wanted = interests.iter().any(|interest| registered.is(interest));
            if !wanted {
                // This fails only for a socket that is not in the queue.
                let _ = change(queue, filter(registered.socket.as_fd(), registered.writable), EventFlags::DELETE);
            }
            wanted
        });
        for interest in interests {
            if !self.sockets.iter().any(|registered| registered.is(interest)) {
                change(queue, filter(interest.socket.as_fd(), interest.writable), EventFlags::ADD)?;
                self.sockets.push(Registered { socket: Arc::clone(interest.socket), writable: interest.writable });
            }
        }
        Ok(())
    }

    pub(super) fn set_timer(&mut self, queue: &OwnedFd, at: Option<Instant>) -> io::Result<()> {
        if at == self.armed {
            return Ok(());
        }
        if self.armed.take().is_some() {
            // A timer that has fired is gone already.
            let _ = change(queue, EventFilter::Timer { ident: IDENT, timer: None }, EventFlags::DELETE);
        }
        if let Some(at) = at {
            let timer = Some(at.saturating_duration_since(Instant::now()));
            change(queue, EventFilter::Timer { ident: IDENT, timer }, EventFlags::ADD | EventFlags::ONESHOT)?;
            self.armed = Some(at);
        }
        Ok(())
    }

    pub(super) fn set_ready(&mut self, queue: &OwnedFd, ready: bool) -> io::Result<()> {
        if ready == self.ready {
            return Ok(());
        }
        let user = |flags| EventFilter::User { ident: IDENT, flags, user_flags: UserDefinedFlags::new(0) };
        if ready {
            change(queue, user(UserFlags::NOINPUT), EventFlags::ADD)?;
            change(queue, user(UserFlags::TRIGGER), EventFlags::empty())?;
        } else {
            change(queue, user(UserFlags::NOINPUT), EventFlags::DELETE)?;
        }
        self.ready = ready;
        Ok(())
    }
}

impl Registered {
    fn is(&self, interest: &Interest<'_>) -> bool {
        Arc::ptr_eq(&self.socket, interest.socket) && self.writable == interest.writable
    }
}

fn filter(socket: BorrowedFd<'_>, writable: bool) -> EventFilter {
    let descriptor = socket.as_raw_fd();
    if writable { EventFilter::Write(descriptor) } else { EventFilter::Read(descriptor) }
}

/// Makes one change to the queue.
#[allow(unsafe_code)]
fn change(queue: &OwnedFd, filter: EventFilter, flags: EventFlags) -> io::Result<()> {
    let event = Event::new(filter, flags, std::ptr::null_mut());
    let mut none: [MaybeUninit<Event>; 0] = [];
    // SAFETY: a descriptor in the event is that of a socket which the caller borrows. The kernel takes a socket that is closed out of the
    // queue, and the queue holds no pointer of ours.
    unsafe { kevent_timespec(queue, &[event], &mut none, Some(&AT_ONCE)) }?;
    Ok(())
}
