//! What a step waits for, and how a thread, a task or an event loop waits for it. Everything else is the same code for all three.
//! It never decides what to do next.

use crate::error::ConnectError;
use broadcaster_local::{self as local, Bell, Interest, Socket};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use crate::machine::Step;

/// What must happen before the next step is useful: one of the sockets is ready, or a time has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wait {
    /// The connection.
    socket: Option<Watched>,
    /// There is something to write to it as well.
    also_writable: bool,
    /// Another socket, to read from.
    other: Option<Arc<Socket>>,
    /// The time.
    until: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Watched {
    socket: Arc<Socket>,
    writable: bool,
}

impl Wait {
    /// For something to read.
    pub(crate) fn readable(socket: &Arc<Socket>) -> Self {
        Self { socket: Some(Watched { socket: Arc::clone(socket), writable: false }), ..Self::default() }
    }

    /// For room to write.
    pub(crate) fn writable(socket: &Arc<Socket>) -> Self {
        Self { socket: Some(Watched { socket: Arc::clone(socket), writable: true }), ..Self::default() }
    }

    /// Or for room to write to the same connection, if `writes`.
    pub(crate) fn or_writable(self, writes: bool) -> Self {
        Self { also_writable: writes, ..self }
    }

    /// For a time.
    pub(crate) fn until(at: Instant) -> Self {
        Self { until: Some(at), ..Self::default() }
    }

    /// Or for something to read from another socket.
    pub(crate) fn or_readable(self, other: Option<Arc<Socket>>) -> Self {
        Self { other, ..self }
    }

    /// At most until `at`.
    pub(crate) fn at_most(self, at: Option<Instant>) -> Self {
        Self { until: earlier(self.until, at), ..self }
    }

    fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let socket =
            self.socket.as_ref().map(|watched| Interest { socket: &watched.socket, writable: watched.writable });
        let writable = self.socket.as_ref().filter(|_| self.also_writable);
        let writable = writable.map(|watched| Interest { socket: &watched.socket, writable: true });
        socket.into_iter().chain(writable).chain(self.other.as_ref().map(Interest::readable))
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The clock that deadlines refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Clock {
    /// The system's.
    #[default]
    System,
    /// The runtime's, which tests can pause.
    #[cfg(feature = "tokio")]
    Runtime,
}

impl Clock {
    pub(crate) fn now(self) -> Instant {
        match self {
            Self::System => Instant::now(),
            #[cfg(feature = "tokio")]
            Self::Runtime => tokio::time::Instant::now().into_std(),
        }
    }
}

/// When a call gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Before it waits at all.
    Now,
    /// At this time, which is this long after the call.
    Deadline(Instant, Duration),
    /// Never.
    Forever,
}

impl Until {
    /// This long from now.
    pub(crate) fn after(wait: Duration) -> Self {
        Self::after_by(Clock::System, wait)
    }

    /// This long from now, by `clock`.
    pub(crate) fn after_by(clock: Clock, wait: Duration) -> Self {
        match clock.now().checked_add(wait) {
            Some(deadline) => Self::Deadline(deadline, wait),
            None => Self::Forever,
        }
    }

    /// How long a call with this limit may take.
    #[cfg(feature = "tokio")]
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Deadline(_, after) => after,
            Self::Forever => Duration::MAX,
        }
    }

    /// How long it is until then.
    pub(crate) fn left(self, clock: Clock) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Deadline(deadline, _) => deadline.saturating_duration_since(clock.now()),
            Self::Forever => Duration::MAX,
        }
    }

    /// How long ago its time came.
    #[cfg(feature = "tokio")]
    pub(crate) fn overdue(self, clock: Clock) -> Duration {
        match self {
            Self::Deadline(deadline, _) => clock.now().saturating_duration_since(deadline),
            Self::Now | Self::Forever => Duration::ZERO,
        }
    }

    pub(crate) fn has_passed(self, clock: Clock) -> bool {
        match self {
            Self::Now => true,
            Self::Deadline(deadline, _) => clock.now() >= deadline,
            Self::Forever => false,
        }
    }

    fn at(self) -> Option<Instant> {
        match self {
            Self::Deadline(deadline, _) => Some(deadline),
            Self::Now | Self::Forever => None,
        }
    }
}

/// The end of a wait.
#[derive(Debug)]
pub(crate) enum Waited<T> {
    /// The step was completed.
    Done(T),
    /// The time came first.
    Elapsed,
    /// A [`Closing`] came first.
    Closed,
}

/// What one of several handles waits for.
#[derive(Debug)]
pub struct Pending {
    wait: Wait,
    /// Readable once the handle is closed.
    bell: Option<Arc<Socket>>,
}

/// Waits on this thread until one of the handles may have something to do. Returns whether that was before the time.
pub(crate) fn wait_for_any(pending: &[Pending], until: Until) -> Result<bool, ConnectError> {
    if until.has_passed(Clock::System) {
        return Ok(false);
    }
    let at = pending.iter().fold(until.at(), |at, pending| earlier(at, pending.wait.until));
    let interests: Vec<_> = pending
        .iter()
        .flat_map(|pending| pending.wait.interests().chain(pending.bell.as_ref().map(Interest::readable)))
        .collect();
    local::wait(&interests, at.map(|at| at.saturating_duration_since(Instant::now()))).map_err(cannot_wait)?;
    Ok(true)
}

/// The result of [`Waiter::poll_once`].
#[derive(Debug)]
pub(crate) enum Polled<T> {
    /// The step was completed.
    Done(T),
    /// The handle was closed.
    Closed,
    /// It waits for this.
    Pending(Pending),
}

/// The closed state of a handle, which any thread can set.
#[derive(Debug)]
pub(crate) struct Closing {
    closed: AtomicBool,
    bell: Bell,
}

impl Closing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { closed: AtomicBool::new(false), bell: Bell::new()? })
    }

    /// Ends the present wait and every later one.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Waits on behalf of a handle: on a thread, in a task, or in another event loop.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    closing: Option<Arc<Closing>>,
    #[cfg(feature = "tokio")]
    registrations: asynchronous::Registrations,
    #[cfg(unix)]
    readiness: std::sync::OnceLock<local::Readiness>,
}

impl Waiter {
    /// The closed state of this handle. From now on waits also end when it is set.
    pub(crate) fn closing(&mut self) -> io::Result<&Arc<Closing>> {
        if self.closing.is_none() {
            self.closing = Some(Arc::new(Closing::new()?));
            // What the descriptor for event loops waits for does not include it yet; the next call sees to that.
            self.report_ready();
        }
        self.closing.as_ref().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Whether a step may wait within a system call of its own.
    #[inline]
    pub(crate) fn may_be_patient(&self) -> bool {
        self.closing.is_none()
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.is_closed())
    }

    /// Runs `step` to its end on this thread.
    #[inline]
    pub(crate) fn block_on<T, E: From<ConnectError>>(
        &mut self,
        until: Until,
        mut step: impl FnMut() -> Result<Step<T, Wait>, E>,
    ) -> Result<Waited<T>, E> {
        if self.is_closed() {
            return Ok(Waited::Closed);
        }
        match self.reported(step())? {
            Step::Done(value) => Ok(Waited::Done(value)),
            Step::Wait(wait) => self.block_on_waiting(until, wait, step),
        }
    }

    fn block_on_waiting<T, E: From<ConnectError>>(
        &mut self,
        until: Until,
        mut wait: Wait,
        mut step: impl FnMut() -> Result<Step<T, Wait>, E>,
    ) -> Result<Waited<T>, E> {
        loop {
            if until.has_passed(Clock::System) {
                self.report_waiting(&wait)?;
                return Ok(Waited::Elapsed);
            }
            let timeout = earlier(wait.until, until.at()).map(|at| at.saturating_duration_since(Instant::now()));
            match &self.closing {
                None => {
                    let mut interests = wait.interests();
                    match (interests.next(), interests.next(), interests.next()) {
                        (None, ..) => local::wait(&[], timeout),
                        (Some(one), None, _) => local::wait(&[one], timeout),
                        (Some(one), Some(other), None) => local::wait(&[one, other], timeout),
                        (Some(one), Some(other), Some(third)) => local::wait(&[one, other, third], timeout),
                    }
                }
                Some(closing) => {
                    let bell = closing.bell.readable();
                    let interests: Vec<_> = wait.interests().chain([Interest::readable(&bell)]).collect();
                    local::wait(&interests, timeout)
                }
            }
            .map_err(cannot_wait)?;
            if self.is_closed() {
                return Ok(Waited::Closed);
            }
            match self.reported(step())? {
                Step::Done(value) => return Ok(Waited::Done(value)),
                Step::Wait(next) => wait = next,
            }
        }
    }

    /// Takes one step, on behalf of a caller that waits for several handles.
    pub(crate) fn poll_once<T, E: From<ConnectError>>(
        &mut self,
        step: impl FnOnce() -> Result<Step<T, Wait>, E>,
    ) -> Result<Polled<T>, E> {
        if self.is_closed() {
            return Ok(Polled::Closed);
        }
        match self.reported(step())? {
            Step::Done(value) => Ok(Polled::Done(value)),
            Step::Wait(wait) => {
                self.report_waiting(&wait)?;
                let bell = self.closing.as_ref().map(|closing| closing.bell.readable());
                Ok(Polled::Pending(Pending { wait, bell }))
            }
        }
    }

    /// A step that does not wait completes the call, and another call may succeed at once.
    #[inline]
    fn reported<T, E>(&mut self, step: Result<Step<T, Wait>, E>) -> Result<Step<T, Wait>, E> {
        if !matches!(step, Ok(Step::Wait(_))) {
            self.report_ready();
        }
        step
    }

    /// [`block_on`](Self::block_on) for at most `timeout`. The clock is read only if the step has to wait.
    #[inline]
    pub(crate) fn block_on_for<T, E: From<ConnectError>>(
        &mut self,
        timeout: Duration,
        mut step: impl FnMut() -> Result<Step<T, Wait>, E>,
    ) -> Result<Waited<T>, E> {
        match self.reported(step())? {
            Step::Done(value) => Ok(Waited::Done(value)),
            Step::Wait(wait) => self.block_on_waiting(Until::after(timeout), wait, step),
        }
    }

    /// The descriptor that other event loops wait for; readable at first.
    ///
    /// # Panics
    ///
    /// If this process or the system is out of descriptors.
    #[cfg(unix)]
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        let readiness = self.readiness.get_or_init(|| {
            let readiness = local::Readiness::new().and_then(|readiness| {
                readiness.set(&[], None, true)?;
                Ok(readiness)
            });
            readiness.expect("a process that waits for a handle has a descriptor for it")
        });
        readiness.as_fd()
    }

    /// Another call may succeed at once.
    #[inline]
    pub(crate) fn report_ready(&mut self) {
        #[cfg(unix)]
        if let Some(readiness) = self.readiness.get() {
            // If the system is out of memory, the descriptor stays as it is, and the next call tries again.
            let _ = readiness.set(&[], None, true);
        }
        #[cfg(feature = "tokio")]
        self.registrations.release_lost();
    }

    /// Another call may succeed after `wait`.
    #[cfg_attr(not(unix), allow(clippy::unnecessary_wraps))]
    fn report_waiting(&mut self, wait: &Wait) -> Result<(), ConnectError> {
        #[cfg(unix)]
        if let Some(readiness) = self.readiness.get() {
            let bell = self.closing.as_ref().map(|closing| closing.bell.readable());
            let interests: Vec<_> = wait.interests().chain(bell.as_ref().map(Interest::readable)).collect();
            readiness.set(&interests, wait.until, false).map_err(cannot_wait)?;
        }
        #[cfg(not(unix))]
        let _ = wait;
        #[cfg(feature = "tokio")]
        self.registrations.release_lost();
        Ok(())
    }
}

pub(crate) fn cannot_wait(source: io::Error) -> ConnectError {
    ConnectError::Io { action: "wait for", path: "the connection to the daemon".into(), source }
}

#[cfg(feature = "tokio")]
pub(crate) use asynchronous::{SharedRegistrations, Timer};

#[cfg(feature = "tokio")]
mod asynchronous {
    use super::{Clock, Instant, Interest, Socket, Step, Until, Wait, Waited, Waiter, cannot_wait, earlier};
    use crate::error::ConnectError;
    use broadcaster_local::{Registration, register};
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, ready};
    use tokio::runtime::{Handle, Id};
    use tokio::task::coop;
    use tokio::time::Sleep;

    /// The registrations of a handle with the runtime that it was last awaited in, and a timer. A handle may move between
    /// runtimes.
    #[derive(Debug, Default)]
    pub(super) struct Registrations {
        sockets: Vec<Registered>,
        timer: Option<(Id, Pin<Box<Sleep>>)>,
    }

    #[derive(Debug)]
    struct Registered {
        runtime: Id,
        writable: bool,
        registration: Registration<Arc<Socket>>,
    }

    impl Registrations {
        /// Called when a wait is over. The timer may belong to a runtime that ends before the next wait, and sockets that the handle has
        /// lost must be closed.
        fn rest(&mut self) {
            self.timer = None;
            self.release_lost();
        }

        pub(super) fn release_lost(&mut self) {
            self.sockets.retain(|registered| Arc::strong_count(registered.registration.get_ref()) > 1);
        }

        /// Drops every registration that none of `interests` needs in this runtime.
        fn keep(&mut self, runtime: Id, interests: &[Interest<'_>]) {
            self.sockets.retain(|registered| {
                let is_same = |interest: &Interest<'_>| registered.is(runtime, interest);
                interests.iter().any(is_same)
            });
        }

        /// Ready when the socket is.
        fn poll_ready(&mut self, cx: &mut Context<'_>, runtime: Id, interest: Interest<'_>) -> Poll<io::Result<()>> {
            let at = match self.sockets.iter().position(|registered| registered.is(runtime, &interest)) {
                Some(at) => at,
                None => {
                    let direction =
                        if interest.writable { tokio::io::Interest::WRITABLE } else { tokio::io::Interest::READABLE };
                    let registration = register(Arc::clone(interest.socket), direction)?;
                    self.sockets.push(Registered { runtime, writable: interest.writable, registration });
                    self.sockets.len() - 1
                }
            };
            let registration = &self.sockets[at].registration;
            let mut ready = ready!(match interest.writable {
                true => registration.poll_write_ready(cx),
                false => registration.poll_read_ready(cx),
            })?;
            // The next step tries for itself. Readiness from before it no longer counts.
            ready.clear_ready();
            Poll::Ready(Ok(()))
        }

        fn poll_time(&mut self, cx: &mut Context<'_>, runtime: Id, at: Instant) -> Poll<()> {
            poll_time(&mut self.timer, cx, runtime, at)
        }
    }

    fn poll_time(
        timer: &mut Option<(Id, Pin<Box<Sleep>>)>,
        cx: &mut Context<'_>,
        runtime: Id,
        at: Instant,
    ) -> Poll<()> {
        let timer = match timer {
            Some((id, timer)) if *id == runtime => timer,
            none => &mut none.insert((runtime, Box::pin(tokio::time::sleep_until(at.into())))).1,
        };
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        timer.as_mut().poll(cx)
    }

    /// The timer of one task.
    #[derive(Debug, Default)]
    pub(crate) struct Timer(Option<(Id, Pin<Box<Sleep>>)>);

    impl Timer {
        /// Ready at the time until which to wait, if there is one.
        pub(crate) fn poll(&mut self, cx: &mut Context<'_>, wait: &Wait, until: Until) -> Poll<()> {
            let Some(at) = earlier(wait.until, until.at()) else { return Poll::Pending };
            poll_time(&mut self.0, cx, Handle::current().id(), at)
        }
    }

    /// The registrations of a connection that many tasks wait for, in any runtime. All of them are woken when it is ready.
    #[derive(Debug, Default)]
    pub(crate) struct SharedRegistrations(Vec<(Id, Registration<Arc<Socket>>)>);

    /// Registrations that are kept at most: of runtimes that may be over, and of connections that are.
    const SHARED_REGISTRATIONS_MAX: usize = 16;

    impl SharedRegistrations {
        /// Ready when one of the sockets is; `cx` wakes all tasks.
        pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>, wait: &Wait) -> Poll<Result<(), ConnectError>> {
            let runtime = Handle::current().id();
            let mut ready = Poll::Pending;
            for interest in wait.interests() {
                if self.poll_interest(cx, runtime, interest).map_err(cannot_wait)?.is_ready() {
                    ready = Poll::Ready(Ok(()));
                }
            }
            ready
        }

        fn poll_interest(&mut self, cx: &mut Context<'_>, runtime: Id, interest: Interest<'_>) -> Poll<io::Result<()>> {
            let is_same = |(id, registration): &(Id, Registration<Arc<Socket>>)| {
                *id == runtime && Arc::ptr_eq(registration.get_ref(), interest.socket)
            };
            let at = match self.0.iter().position(is_same) {
                Some(at) => at,
                None => {
                    if self.0.len() >= SHARED_REGISTRATIONS_MAX {
                        self.0.clear();
                        cx.waker().wake_by_ref(); // the other tasks register again
                    }
                    let directions = tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE;
                    self.0.push((runtime, register(Arc::clone(interest.socket), directions)?));
                    self.0.len() - 1
                }
            };
            let registration = &self.0[at].1;
            let mut ready = ready!(match interest.writable {
                true => registration.poll_write_ready(cx),
                false => registration.poll_read_ready(cx),
            })?;
            ready.clear_ready();
            Poll::Ready(Ok(()))
        }

        /// Closes sockets that the handle has lost.
        pub(crate) fn release_lost(&mut self) {
            self.0.retain(|(_, registration)| Arc::strong_count(registration.get_ref()) > 1);
        }
    }

    impl Registered {
        fn is(&self, runtime: Id, interest: &Interest<'_>) -> bool {
            self.runtime == runtime
                && self.writable == interest.writable
                && Arc::ptr_eq(self.registration.get_ref(), interest.socket)
        }
    }

    impl Waiter {
        /// Runs `step` to its end in the task of `cx`, as a part of the task's cooperative budget.
        ///
        /// # Panics
        ///
        /// Outside a tokio runtime with I/O and time enabled.
        pub(crate) fn poll_on<T, E: From<ConnectError>>(
            &mut self,
            cx: &mut Context<'_>,
            until: Until,
            mut step: impl FnMut() -> Result<Step<T, Wait>, E>,
        ) -> Poll<Result<Waited<T>, E>> {
            let runtime = Handle::current().id();
            let budget = ready!(coop::poll_proceed(cx));
            // The state of the descriptor for other event loops is not known after this.
            self.report_ready();
            loop {
                if self.is_closed() {
                    budget.made_progress();
                    return Poll::Ready(Ok(Waited::Closed));
                }
                let wait = match step() {
                    Ok(Step::Wait(wait)) => wait,
                    Ok(Step::Done(value)) => {
                        self.registrations.rest();
                        budget.made_progress();
                        return Poll::Ready(Ok(Waited::Done(value)));
                    }
                    Err(error) => {
                        self.registrations.rest();
                        budget.made_progress();
                        return Poll::Ready(Err(error));
                    }
                };
                if until.has_passed(Clock::Runtime) {
                    self.registrations.rest();
                    budget.made_progress();
                    return Poll::Ready(Ok(Waited::Elapsed));
                }
                let bell = self.closing.as_ref().map(|closing| closing.bell.readable());
                let interests: Vec<_> = wait.interests().chain(bell.as_ref().map(Interest::readable)).collect();
                self.registrations.keep(runtime, &interests);
                let mut progress = false;
                for interest in interests {
                    match self.registrations.poll_ready(cx, runtime, interest) {
                        Poll::Ready(Ok(())) => progress = true,
                        Poll::Ready(Err(error)) => {
                            self.registrations.sockets.clear();
                            return Poll::Ready(Err(cannot_wait(error).into()));
                        }
                        Poll::Pending => {}
                    }
                }
                let at = earlier(wait.until, until.at());
                progress |= at.is_some_and(|at| self.registrations.poll_time(cx, runtime, at).is_ready());
                if !progress {
                    return Poll::Pending;
                }
            }
        }
    }
}
