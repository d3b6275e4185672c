//! The two colours: what a step waits for, and how a thread or a task waits for it. All else is the same code for both.

use crate::error::ConnectError;
use broadcaster_local::{self as local, Interest, Socket};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far a step that never blocks has come.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// It is done.
    Done(T),
    /// It goes on when this has happened.
    Wait(Wait),
}

/// What has to happen before the next step is of any use.
#[derive(Debug)]
pub(crate) struct Wait {
    /// This descriptor is ready.
    pub(crate) fd: Option<Arc<Socket>>,
    /// Ready for writing, not for reading.
    pub(crate) writable: bool,
    /// Or this time has come.
    pub(crate) until: Option<Instant>,
}

/// When a call gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Before it waits at all.
    Now,
    /// At this time, which is so long after the call.
    Deadline(Instant, Duration),
    /// Never.
    Forever,
}

impl Until {
    /// So long from now.
    pub(crate) fn after(wait: Duration) -> Self {
        match Instant::now().checked_add(wait) {
            Some(deadline) => Self::Deadline(deadline, wait),
            None => Self::Forever,
        }
    }

    /// Whether the time has come.
    pub(crate) fn has_passed(self) -> bool {
        match self {
            Self::Now => true,
            Self::Deadline(deadline, _) => Instant::now() >= deadline,
            Self::Forever => false,
        }
    }

    /// The earlier of this and another time.
    fn or(self, other: Option<Instant>) -> Option<Instant> {
        match self {
            Self::Deadline(deadline, _) => Some(other.map_or(deadline, |other| other.min(deadline))),
            Self::Now | Self::Forever => other,
        }
    }
}

/// Runs `step` to its end on this thread; `None` if `until` came first.
pub(crate) fn block_on<T, E: From<ConnectError>>(
    until: Until,
    mut step: impl FnMut() -> Result<Step<T>, E>,
) -> Result<Option<T>, E> {
    loop {
        let wait = match step()? {
            Step::Done(value) => return Ok(Some(value)),
            Step::Wait(wait) => wait,
        };
        if until.has_passed() {
            return Ok(None);
        }
        let timeout = until.or(wait.until).map(|at| at.saturating_duration_since(Instant::now()));
        let interest = wait.fd.as_ref().map(|socket| Interest { socket, writable: wait.writable });
        local::wait(interest.as_slice(), timeout).map_err(cannot_wait)?;
    }
}

fn cannot_wait(source: io::Error) -> ConnectError {
    ConnectError::Io { action: "wait for", path: "the connection to the daemon".into(), source }
}

#[cfg(feature = "tokio")]
pub(crate) use asynchronous::{Awaiting, poll_on};

#[cfg(feature = "tokio")]
mod asynchronous {
    use super::{Arc, Instant, Socket, Step, Until, Wait};
    use crate::error::ConnectError;
    use broadcaster_local::Registration;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use tokio::io::Interest;
    use tokio::runtime::{Handle, Id};
    use tokio::time::Sleep;

    /// What a handle needs to be awaited: its registration with the runtime that it was last awaited in, and a timer. A
    /// handle may move between runtimes.
    #[derive(Debug, Default)]
    pub(crate) struct Awaiting {
        registered: Option<Registered>,
        timer: Option<(Id, Pin<Box<Sleep>>)>,
    }

    #[derive(Debug)]
    struct Registered {
        runtime: Id,
        interest: Interest,
        fd: Registration<Arc<Socket>>,
    }

    impl Awaiting {
        /// Ready when the descriptor is, in the runtime that this is called in.
        fn poll_ready(&mut self, cx: &mut Context<'_>, fd: Arc<Socket>, interest: Interest) -> Poll<io::Result<()>> {
            let runtime = Handle::current().id();
            let fits = |have: &Registered| {
                have.runtime == runtime && have.interest == interest && Arc::ptr_eq(have.fd.get_ref(), &fd)
            };
            if !self.registered.as_ref().is_some_and(fits) {
                self.registered = None; // one descriptor, one registration
                self.registered =
                    Some(Registered { runtime, interest, fd: broadcaster_local::register(fd, interest)? });
            }
            let Some(registered) = &self.registered else { return Poll::Pending };
            let mut ready = ready!(match interest {
                Interest::WRITABLE => registered.fd.poll_write_ready(cx),
                _ => registered.fd.poll_read_ready(cx),
            })?;
            // The step that comes next finds out for itself; readiness from before it is used up.
            ready.clear_ready();
            Poll::Ready(Ok(()))
        }

        fn poll_time(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
            let runtime = Handle::current().id();
            let timer = match &mut self.timer {
                Some((id, timer)) if *id == runtime => timer,
                none => &mut none.insert((runtime, Box::pin(tokio::time::sleep_until(at.into())))).1,
            };
            if timer.deadline() != at.into() {
                timer.as_mut().reset(at.into());
            }
            timer.as_mut().poll(cx)
        }
    }

    /// Runs `step` to its end in the task of `cx`; `None` if `until` came first.
    pub(crate) fn poll_on<T, E: From<ConnectError>>(
        awaiting: &mut Awaiting,
        cx: &mut Context<'_>,
        until: Until,
        mut step: impl FnMut() -> Result<Step<T>, E>,
    ) -> Poll<Result<Option<T>, E>> {
        loop {
            let Wait { fd, writable, until: pause } = match step()? {
                Step::Done(value) => {
                    awaiting.timer = None; // it may belong to a runtime that ends before the next wait
                    return Poll::Ready(Ok(Some(value)));
                }
                Step::Wait(wait) => wait,
            };
            if until.has_passed() {
                awaiting.timer = None;
                return Poll::Ready(Ok(None));
            }
            let interest = if writable { Interest::WRITABLE } else { Interest::READABLE };
            let ready = match fd.map(|fd| awaiting.poll_ready(cx, fd, interest)) {
                Some(Poll::Ready(Err(error))) => {
                    *awaiting = Awaiting::default();
                    return Poll::Ready(Err(super::cannot_wait(error).into()));
                }
                ready => ready.is_some_and(|ready| ready.is_ready()),
            };
            let over = until.or(pause).is_some_and(|at| awaiting.poll_time(cx, at).is_ready());
            if !ready && !over {
                return Poll::Pending;
            }
        }
    }
}
