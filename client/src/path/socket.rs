//! The connection of one handle: finding the daemon, starting it, the handshake, and reconnecting. No method waits; each returns
//! what to wait for.

use super::config::ConnectConfig;
use super::descriptors::Descriptors;
use super::launch::{self, Launch, Progress, Started};
use super::ring_input::MappedRing;
use super::ring_output::{SharedBell, SharedRing};
use super::wait::{Clock, Wait, cannot_wait};
use crate::error::{ConnectError, Skipped, Stage};
use crate::machine::{Bell, Carrier, Ended, Link, Loss, Machine, RingInput, RingOutput, Step, Subscriber, Transfer};
use broadcaster_local::{self as local, CONNECT_ACTIVATES, Connected, Doorbells, LaunchLock, LockState, Socket};
use broadcaster_protocol::control::OfferLink;
use broadcaster_protocol::endpoint::Candidate;
use bytes::BytesMut;
use bytes::buf::Limit;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First pause within an attempt; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause within an attempt.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// First pause between two attempts that fail; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest pause between two attempts that fail.
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// A handle that was not used for twice its timeout plus this time was not waiting in between.
const POLLED_WITHIN: Duration = Duration::from_secs(1);

/// Clients that lose the same daemon start the next one at random times within this, so that few of them do.
const SPREAD: Duration = Duration::from_millis(50);

/// How long to leave the start of a daemon to another client, which may be suspended.
const LAUNCH_PATIENCE_MAX: Duration = Duration::from_millis(2500);

/// Pauses while another client starts a daemon. That takes a few milliseconds, or longer on a busy system, which a thousand clients must not
/// keep busy by looking.
const LAUNCH_PAUSES: RangeInclusive<Duration> = Duration::from_millis(4)..=Duration::from_millis(250);

/// A connection to the daemon, or an attempt to get one.
#[derive(Debug)]
pub(crate) struct SocketPath {
    config: ConnectConfig,
    clock: Clock,
    state: State,
    /// The present attempt, if there is one.
    attempt: Option<Attempt>,
    /// When the next attempt may begin, because the last one failed.
    resume_at: Option<Instant>,
    /// How long to pause if the next attempt fails as well.
    backoff: Duration,
    /// The handle has been connected before.
    was_up: bool,
    /// This process could not take descriptors that came with frames. No later connection uses rings: it would end as that one did.
    lost_descriptors: bool,
    /// Wakes this listener for what is in its rings, once there is one.
    doorbells: Option<Arc<Doorbells>>,
    /// The first place of the most recent attempt.
    place: PathBuf,
}

#[derive(Debug)]
enum State {
    Down,
    Paused(Instant),
    Launching {
        launch: Launch,
        /// Kept until it is clear whether the daemon answers.
        _turn: LaunchLock,
    },
    Greeting(Connection),
    Up(Connection),
}

/// A connected socket, which is shut down when the connection is dropped: a child that was forked may hold a copy of the socket, and
/// closing this one would not end the connection.
#[derive(Debug)]
struct Connection {
    socket: Arc<Socket>,
    place: PathBuf,
    /// The process that made it. A forked child that drops its copy leaves the connection to its parent.
    pid: u32,
    /// The descriptors that go with frames, if any can: both sides use rings, or the daemon has not answered yet.
    descriptors: Option<Descriptors>,
    /// Frames with descriptors may arrive. To read them takes longer.
    expects_descriptors: bool,
}

impl Connection {
    fn new(socket: Socket, place: PathBuf, has_rings: bool) -> Self {
        let descriptors = has_rings.then(Descriptors::default);
        Self { socket: Arc::new(socket), place, pid: local::pid(), descriptors, expects_descriptors: false }
    }

    /// Reads what has arrived, without waiting.
    #[inline]
    fn read(&mut self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        match &mut self.descriptors {
            Some(descriptors) if self.expects_descriptors => descriptors.read(&self.socket, target),
            _ => local::read(&self.socket, target),
        }
    }

    /// The same, except that it waits for something to read, where the system allows that.
    #[inline]
    fn read_blocking(&mut self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        match &mut self.descriptors {
            Some(descriptors) if self.expects_descriptors => descriptors.read_blocking(&self.socket, target),
            _ => local::read_blocking(&self.socket, target),
        }
    }

    /// Maps the ring that was offered, and queues the page and the doorbell of this listener.
    fn open_ring(&mut self, offer: &OfferLink, doorbells: &mut Option<Arc<Doorbells>>) -> Option<MappedRing> {
        let descriptors = self.descriptors.as_mut()?;
        let [memory] = descriptors.take()?;
        if local::shared_memory_problem().is_some() {
            return None;
        }
        let doorbells = match doorbells {
            Some(doorbells) => doorbells,
            None => doorbells.insert(Arc::new(Doorbells::new().ok()?)),
        };
        let (ring, set) = MappedRing::open(offer, &memory, doorbells)?;
        descriptors.queue(set);
        Some(ring)
    }

    fn is_own(&self) -> bool {
        self.pid == local::pid()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_own() {
            local::shutdown(&self.socket);
        }
    }
}

/// One attempt to get connected.
#[derive(Debug)]
struct Attempt {
    /// When it fails.
    deadline: Option<Instant>,
    /// When it was continued last.
    continued_at: Instant,
    /// The next pause.
    pause: Duration,
    /// A program has reported success, and no connection has been tried since.
    launched: bool,
    /// A program has reported success since the attempt began.
    started: bool,
    /// A process held the lock of the bus when every place was tried last.
    locked: bool,
    /// A random pause has spread this client from others.
    spread: bool,
    /// Until when another client may be starting a daemon, if one is.
    awaits_launch_until: Option<Instant>,
    /// The next pause while that is so.
    launch_pause: Duration,
    /// What prevented a connection when every place was tried last.
    problem: Option<ConnectError>,
}

impl SocketPath {
    /// A path that is not connected.
    pub(crate) fn new(config: ConnectConfig) -> Self {
        Self {
            config,
            clock: Clock::default(),
            state: State::Down,
            attempt: None,
            resume_at: None,
            backoff: BACKOFF_MIN,
            was_up: false,
            lost_descriptors: false,
            doorbells: None,
            place: PathBuf::new(),
        }
    }

    pub(crate) fn config(&self) -> &ConnectConfig {
        &self.config
    }

    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether this process has made the connection, rather than a process that it was forked from.
    pub(crate) fn is_own(&self) -> bool {
        matches!(&self.state, State::Up(connection) if connection.is_own())
    }

    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting(_))
    }

    #[cold]
    fn establish(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Wait>, ConnectError> {
        let now = self.now();
        if let Some(at) = self.resume_at.filter(|at| *at > now) {
            return Ok(Step::Wait(Wait::until(at)));
        }
        self.resume_at = None;
        let deadline = self.begin_or_continue(now);
        match self.advance(machine) {
            Ok(None) => {
                (self.attempt, self.backoff, self.was_up) = (None, BACKOFF_MIN, true);
                Ok(Step::Done(Carrier::Stream))
            }
            Ok(Some(_)) if deadline.is_some_and(|deadline| self.now() >= deadline) => {
                let problem = self.attempt.as_mut().and_then(|attempt| attempt.problem.take());
                let error = match (problem, &self.state) {
                    (Some(problem), State::Down | State::Paused(_)) => problem,
                    _ => self.timed_out(),
                };
                self.give_up(machine);
                Err(error)
            }
            Ok(Some(wait)) => Ok(Step::Wait(wait.at_most(deadline))),
            Err(error) => {
                self.give_up(machine);
                Err(error)
            }
        }
    }

    /// The deadline of the present attempt.
    fn begin_or_continue(&mut self, now: Instant) -> Option<Instant> {
        let deadline = now.checked_add(self.config.timeout);
        let attempt = self.attempt.get_or_insert_with(|| Attempt {
            deadline,
            continued_at: now,
            pause: PAUSE_MIN,
            launched: false,
            started: false,
            locked: false,
            spread: false,
            awaits_launch_until: None,
            launch_pause: *LAUNCH_PAUSES.start(),
            problem: None,
        });
        // A handle that is polled only now and then makes progress with each call. The time in between is not the daemon's fault.
        if now.saturating_duration_since(attempt.continued_at)
            > self.config.timeout.saturating_mul(2).saturating_add(POLLED_WITHIN)
        {
            attempt.deadline = deadline;
        }
        attempt.continued_at = now;
        attempt.deadline
    }

    fn attempt(&mut self) -> Option<&mut Attempt> {
        self.attempt.as_mut()
    }

    /// Goes as far as possible; `None`: the connection is up.
    fn advance(&mut self, machine: &mut impl Machine) -> Result<Option<Wait>, ConnectError> {
        loop {
            let now = self.now();
            match &mut self.state {
                State::Up(_) => return Ok(None),
                State::Down => self.find(machine)?,
                State::Paused(until) if now < *until => return Ok(Some(Wait::until(*until))),
                State::Paused(_) => self.state = State::Down,
                State::Launching { launch, .. } => match launch.poll(now) {
                    Ok(Progress::Pending(wait)) => return Ok(Some(wait)),
                    Ok(Progress::Started) => {
                        if let Some(attempt) = self.attempt() {
                            (attempt.launched, attempt.started) = (true, true);
                        }
                        self.state = State::Down;
                    }
                    // Another process has taken the lock, and did not answer the program in time. It may still answer this client.
                    Err(ConnectError::Start { .. }) if is_locked(&self.config.candidates()?) => self.pause(),
                    Err(error) => return Err(error),
                },
                State::Greeting(_) => {
                    if let Some(wait) = self.greet(machine)? {
                        return Ok(Some(wait));
                    }
                }
            }
        }
    }

    /// Tries every place once, and starts a daemon if none answers.
    fn find(&mut self, machine: &mut impl Machine) -> Result<(), ConnectError> {
        let candidates = self.config.candidates()?;
        let has_rings = self.can_use_rings(machine)?;
        let mut problem = None;
        let mut busy = false;
        if let Some(first) = candidates.first() {
            self.place.clone_from(&first.socket);
        }
        for Candidate { socket, .. } in &candidates {
            if CONNECT_ACTIVATES && !self.config.activate && local::is_unlocked(socket) {
                continue; // no daemon serves there, even if a service manager listens
            }
            match local::connect(socket) {
                Ok(Connected::Yes(connection)) => {
                    machine.set_time(self.now());
                    machine.session_mut().announce_rings(has_rings);
                    machine.connected();
                    self.state = State::Greeting(Connection::new(connection, socket.clone(), has_rings));
                    return Ok(());
                }
                Ok(Connected::NotListening) => {}
                Ok(Connected::Busy) => busy = true,
                Ok(Connected::OtherUser(owner)) => {
                    let error = ConnectError::OtherUser { socket: socket.clone(), owner, uid: local::euid() };
                    problem.get_or_insert(error);
                }
                Err(source) => {
                    let (action, path) = ("connect to", socket.clone());
                    problem.get_or_insert(ConnectError::Io { action, path, source });
                }
            }
        }
        let was_up = self.was_up;
        if let Some(attempt) = self.attempt() {
            attempt.problem = problem;
            let launched = std::mem::take(&mut attempt.launched);
            if busy || launched {
                self.pause();
                return Ok(());
            }
            if was_up && !std::mem::replace(&mut attempt.spread, true) {
                // Other clients have lost the same daemon.
                self.state = State::Paused(self.now() + random_below(SPREAD));
                return Ok(());
            }
        }
        self.start(&candidates)
    }

    /// Whether this client announces that it can use rings. While notifications may replace the daemon, it does not.
    ///
    /// Whether the system permits that is tried when there is a ring to make or to map: most processes never see one, and the attempt takes two
    /// dozen system calls, which a sandbox may forbid.
    fn can_use_rings(&self, machine: &impl Machine) -> Result<bool, ConnectError> {
        let is_allowed = ConnectConfig::allows_shared_memory()?;
        let is_wanted = machine.wants_rings() && self.config.notifications.is_none();
        Ok(is_allowed && is_wanted && local::CAN_SHARE_MEMORY && !self.lost_descriptors)
    }

    /// Starts a daemon.
    fn start(&mut self, candidates: &[Candidate]) -> Result<(), ConnectError> {
        let may_start = self.config.autostart || self.config.embedded;
        let turn = match candidates.first() {
            Some(first) if may_start => LaunchLock::take(&first.socket),
            _ => LaunchLock::Ours(None),
        };
        // Only the client that has the turn looks at the lock of the bus: that takes the lock for a moment, in the way of the daemon.
        if matches!(turn, LaunchLock::Theirs) && self.awaits_launch() {
            return Ok(());
        }
        let locked = may_start && is_locked(candidates);
        if let Some(attempt) = self.attempt() {
            attempt.locked = locked;
        }
        if locked {
            self.pause(); // a daemon is about to listen; another one would end at once
            return Ok(());
        }
        if let (None, true, Some(sandbox)) = (&self.config.socket, may_start, local::sandbox()) {
            return Err(ConnectError::Sandboxed { socket: self.place.clone(), sandbox });
        }
        if local::is_elevated() {
            return Err(self.not_started(None));
        }
        let (program, socket) = (self.config.program.as_deref(), self.config.socket.as_deref());
        let started = match self.config.autostart {
            true => launch::start(program, socket)?,
            false => Started::None(Vec::new()),
        };
        match started {
            Started::Running(launch) => self.state = State::Launching { launch, _turn: turn },
            #[cfg(feature = "embedded")]
            Started::None(_) if self.config.embedded => self.host(candidates)?,
            Started::None(skipped) => return Err(self.not_started(Some(skipped))),
        }
        Ok(())
    }

    /// Pauses while another client starts a daemon; `false` if that takes so long that the other one may be suspended.
    fn awaits_launch(&mut self) -> bool {
        let patience = LAUNCH_PATIENCE_MAX.min(self.config.timeout / 2);
        let now = self.now();
        let Some(attempt) = self.attempt() else { return false };
        let until = *attempt.awaits_launch_until.get_or_insert(now + patience + random_below(patience / 2));
        if now >= until {
            return false;
        }
        let pause = attempt.launch_pause;
        attempt.launch_pause = (pause * 2).min(*LAUNCH_PAUSES.end());
        self.state = State::Paused(now + pause + random_below(pause / 2));
        true
    }

    /// Hosts the broker in this process.
    #[cfg(feature = "embedded")]
    fn host(&mut self, candidates: &[Candidate]) -> Result<(), ConnectError> {
        let hosts = crate::embedded::host(candidates)?;
        match self.attempt() {
            Some(attempt) if hosts => attempt.launched = true,
            _ => self.pause(),
        }
        Ok(())
    }

    /// Continues the handshake.
    fn greet(&mut self, machine: &mut impl Machine) -> Result<Option<Wait>, ConnectError> {
        let State::Greeting(connection) = &mut self.state else { return Ok(None) };
        let socket = &connection.socket;
        while !machine.is_ready() && !machine.outgoing().is_empty() {
            match local::write(socket, machine.outgoing()) {
                Ok(bytes) => machine.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Wait::writable(socket))),
                Err(_) => break, // what the daemon sent before it closed the connection can still be read
            }
        }
        if machine.is_ready() {
            if !machine.session().has_rings() {
                connection.descriptors = None; // none can arrive
            }
            self.state = match std::mem::replace(&mut self.state, State::Down) {
                State::Greeting(connection) => State::Up(connection),
                other => other,
            };
            return Ok(None);
        }
        match connection.read(&mut machine.target()) {
            Ok(1..) => match machine.received() {
                Ok(()) => {}
                Err(Ended::Goodbye) => self.try_again(machine),
                Err(ended) => return Err(self.describe(ended)),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Some(Wait::readable(&connection.socket)));
            }
            Ok(0) | Err(_) => self.try_again(machine),
        }
        Ok(None)
    }

    /// The daemon went away during the handshake: it was stopping, or was killed. Another one will serve.
    fn try_again(&mut self, machine: &mut impl Machine) {
        machine.disconnected();
        self.pause();
    }

    fn pause(&mut self) {
        let now = self.now();
        let pause = self.attempt().map_or(PAUSE_MIN, |attempt| {
            let pause = attempt.pause;
            attempt.pause = (pause * 2).min(PAUSE_MAX);
            pause
        });
        // Clients that wait for the same daemon do not all try again at once.
        self.state = State::Paused(now + pause + random_below(pause / 2));
    }

    /// The attempt has failed. The next one begins after a pause, so that a caller that repeats its call does not spin.
    fn give_up(&mut self, machine: &mut impl Machine) {
        machine.disconnected();
        (self.state, self.attempt) = (State::Down, None);
        self.resume_at = Some(self.now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn drop_connection(&mut self, machine: &mut impl Machine) {
        if let State::Up(Connection { descriptors: Some(descriptors), .. }) = &self.state {
            self.lost_descriptors |= descriptors.has_lost();
        }
        machine.disconnected();
        self.state = State::Down;
    }

    /// The connection is lost: the next one takes its place, if one may.
    fn replace_connection(&mut self, machine: &mut impl Machine) -> Result<Step<(), Wait>, ConnectError> {
        self.drop_connection(machine);
        if self.config.reconnect { Ok(Step::Done(())) } else { Err(self.gone()) }
    }

    /// No daemon answers, and none is started. `skipped`: the programs that were found and not run; `None` if none may be.
    fn not_started(&mut self, skipped: Option<Vec<Skipped>>) -> ConnectError {
        let problem = self.attempt().and_then(|attempt| attempt.problem.take());
        let socket = self.place.clone();
        problem.unwrap_or(match skipped {
            _ if !self.config.autostart => ConnectError::NotRunning { socket },
            Some(skipped) => ConnectError::NoProgram { socket, skipped },
            None => ConnectError::Elevated { socket },
        })
    }

    /// What an ended connection means for the caller.
    fn describe(&self, ended: Ended) -> ConnectError {
        let socket = match &self.state {
            State::Greeting(connection) | State::Up(connection) => connection.place.clone(),
            State::Down | State::Paused(_) | State::Launching { .. } => self.place.clone(),
        };
        let reason = match ended {
            Ended::Refused(refused) | Ended::Stalled(refused) => {
                return ConnectError::Refused { code: refused.code.into(), reason: refused.reason };
            }
            Ended::Unsupported { what, version } => return ConnectError::Unsupported { what, version },
            Ended::Goodbye => return ConnectError::NotRunning { socket },
            Ended::Garbage(error) => with_sources(&error),
            Ended::NotOffered(version) => format!("it chose protocol {version}, which was not offered"),
            Ended::Unexpected(kind) => format!("it sent a frame of kind {kind:#04x} when none was expected"),
        };
        ConnectError::NotADaemon { socket, reason }
    }

    /// The daemon is gone, and this handle must not look for another one.
    pub(crate) fn gone(&self) -> ConnectError {
        ConnectError::NotRunning { socket: self.place.clone() }
    }

    /// The timeout has passed.
    pub(crate) fn timed_out(&self) -> ConnectError {
        let attempt = self.attempt.as_ref();
        let locked = attempt.is_some_and(|attempt| attempt.locked);
        let started = attempt.is_some_and(|attempt| attempt.started);
        let awaits_launch = attempt.is_some_and(|attempt| attempt.awaits_launch_until.is_some());
        let (socket, stage) = match &self.state {
            State::Greeting(connection) => (&connection.place, Stage::Handshake),
            _ if locked => (&self.place, Stage::Locked),
            _ if started => (&self.place, Stage::Started),
            State::Launching { .. } => (&self.place, Stage::Start),
            _ if awaits_launch => (&self.place, Stage::Start),
            State::Down | State::Paused(_) | State::Up(_) => (&self.place, Stage::Connect),
        };
        let holder = match &self.state {
            State::Greeting(_) => holder(socket),
            _ => self.config.candidates().ok().and_then(|places| places.iter().find_map(|place| holder(&place.socket))),
        };
        ConnectError::TimedOut { socket: socket.clone(), after: self.config.timeout, stage, holder }
    }
}

impl Link for SocketPath {
    type Wait = Wait;
    type Error = ConnectError;

    /// # Errors
    ///
    /// When the timeout has passed since the attempt began, or it is clear that there will be no connection.
    #[inline]
    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Wait>, ConnectError> {
        if self.is_up() { Ok(Step::Done(Carrier::Stream)) } else { self.establish(machine) }
    }

    #[inline]
    fn read(&mut self, subscriber: &mut Subscriber, patient: bool) -> Result<Step<(), Wait>, ConnectError> {
        let State::Up(connection) = &mut self.state else { return Ok(Step::Done(())) };
        if subscriber.reads_rings() {
            return self.read_beside_rings(subscriber, patient);
        }
        let result = if patient && subscriber.is_drained() {
            if !subscriber.has_drained() {
                let writes = subscriber.writes();
                return Ok(Step::Wait(Wait::readable(&connection.socket).or_writable(writes)));
            }
            connection.read_blocking(&mut subscriber.target())
        } else {
            connection.read(&mut subscriber.target())
        };
        match result {
            Ok(bytes @ 1..) => {
                subscriber.has_read(bytes);
                Ok(Step::Done(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let was_drained = subscriber.is_drained();
                let may_block = subscriber.has_drained() && patient && !was_drained;
                let writes = subscriber.writes();
                let wait = || Wait::readable(&connection.socket).or_writable(writes);
                Ok(if may_block { Step::Done(()) } else { Step::Wait(wait()) })
            }
            Ok(_) | Err(_) => self.replace_connection(subscriber),
        }
    }

    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Wait> {
        let State::Up(connection) = &mut self.state else { return Transfer::Broken };
        match connection.read(&mut machine.target()) {
            Ok(bytes @ 1..) => Transfer::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Transfer::Wait(Wait::readable(&connection.socket))
            }
            Ok(0) | Err(_) => Transfer::Broken,
        }
    }

    #[inline]
    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Wait> {
        let State::Up(Connection { socket, .. }) = &self.state else { return Transfer::Broken };
        let written = match body {
            [] => local::write(socket, head),
            body => local::write_vectored(socket, &[IoSlice::new(head), IoSlice::new(body)]),
        };
        match written {
            Ok(bytes) => Transfer::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                local::widen(socket); // there is much to send
                Transfer::Wait(Wait::writable(socket))
            }
            Err(_) => Transfer::Broken,
        }
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), ConnectError> {
        let (ended, is_closed) = match loss {
            Loss::Ended(ended) => (Some(ended), false),
            Loss::Write => self.last_words(machine),
            Loss::Closed => (None, true),
        };
        if ended.is_none() && is_closed {
            machine.abandoned();
        }
        if ended == Some(Ended::Goodbye) && local::STOPPED_SOCKET_KEEPS_BYTES {
            machine.accepted();
        }
        let error = match ended {
            None => None,
            Some(Ended::Goodbye | Ended::Stalled(_)) if self.config.reconnect => None,
            Some(ended) => Some(self.describe(ended)),
        };
        self.drop_connection(machine);
        error.map_or(Ok(()), Err)
    }

    fn time(&self) -> Option<Instant> {
        Some(self.now())
    }

    fn expect_descriptors(&mut self) {
        if let State::Up(connection) = &mut self.state {
            connection.expects_descriptors = true;
        }
    }

    fn make_ring(&mut self) -> Option<Box<dyn RingOutput>> {
        let descriptors = self.descriptors()?;
        if local::shared_memory_problem().is_some() {
            return None;
        }
        let (descriptor, ring) = SharedRing::make().ok()?;
        descriptors.queue(vec![Arc::new(descriptor)]);
        Some(Box::new(ring))
    }

    fn take_bell(&mut self) -> Option<Box<dyn Bell>> {
        let [page, doorbell] = self.descriptors()?.take()?;
        Some(Box::new(SharedBell::open(&page, doorbell)?))
    }

    fn open_ring(&mut self, offer: &OfferLink) -> Option<Box<dyn RingInput>> {
        let State::Up(connection) = &mut self.state else { return None };
        Some(Box::new(connection.open_ring(offer, &mut self.doorbells)?))
    }

    fn beside_rings(&mut self, wait: Wait) -> Result<Wait, ConnectError> {
        let doorbells = self.doorbells.as_ref();
        doorbells.map_or(Ok(()), |doorbells| doorbells.consume()).map_err(cannot_wait)?;
        Ok(wait.or_readable(doorbells.map(|doorbells| doorbells.readable())))
    }

    fn reconnects(&self) -> bool {
        self.config.reconnect
    }

    fn decline_ring(&mut self) {
        let _: Option<[_; 1]> = self.descriptors().and_then(Descriptors::take);
    }

    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<Wait> {
        let State::Up(Connection { socket, descriptors: Some(descriptors), .. }) = &mut self.state else {
            return Transfer::Broken;
        };
        match descriptors.write(socket, frame) {
            Ok(bytes) => Transfer::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Transfer::Wait(Wait::writable(socket)),
            Err(_) => Transfer::Broken,
        }
    }
}

impl SocketPath {
    /// Reads once from the socket of a listener that reads rings as well, and waits for both. The listener requests to be woken only
    /// after this, so that no ring of a doorbell that announces anything is consumed.
    #[inline(never)]
    fn read_beside_rings(
        &mut self,
        subscriber: &mut Subscriber,
        patient: bool,
    ) -> Result<Step<(), Wait>, ConnectError> {
        let State::Up(connection) = &mut self.state else { return Ok(Step::Done(())) };
        // Most waits end because of a ring. The next one shows whether there is something to read from the socket.
        if patient && subscriber.is_drained() && !subscriber.must_read() {
            subscriber.rest();
        } else {
            match connection.read(&mut subscriber.target()) {
                Ok(bytes @ 1..) => {
                    subscriber.has_read(bytes);
                    return Ok(Step::Done(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => _ = subscriber.has_drained(),
                Ok(_) | Err(_) => return self.replace_connection(subscriber),
            }
        }
        let wait = Wait::readable(&connection.socket).or_writable(subscriber.writes());
        Ok(Step::Wait(self.beside_rings(wait)?))
    }

    /// The descriptors that go with frames, if both sides of the present connection use rings.
    fn descriptors(&mut self) -> Option<&mut Descriptors> {
        match &mut self.state {
            State::Up(connection) => connection.descriptors.as_mut(),
            State::Down | State::Paused(_) | State::Launching { .. } | State::Greeting(_) => None,
        }
    }

    /// Waits until the daemon closes the connection, whatever it sends until then.
    pub(crate) fn end(&mut self, machine: &mut impl Machine) -> Step<(), Wait> {
        let State::Up(connection) = &mut self.state else { return Step::Done(()) };
        match connection.read(&mut machine.target()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait(Wait::readable(&connection.socket)),
            Ok(_) | Err(_) => Step::Done(()),
        }
    }

    /// What the daemon sent before it closed the connection, and whether it has: one that stops closes it for reading first.
    fn last_words(&mut self, machine: &mut impl Machine) -> (Option<Ended>, bool) {
        let State::Up(connection) = &mut self.state else { return (None, false) };
        loop {
            match connection.read(&mut machine.target()) {
                Ok(0) => return (None, true),
                Ok(_) => {
                    if let Err(ended) = machine.received() {
                        return (Some(ended), false);
                    }
                }
                Err(error) => return (None, error.kind() != io::ErrorKind::WouldBlock),
            }
        }
    }
}

/// An error and its causes, as one sentence.
fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Whether a process holds the lock of one of the places.
fn is_locked(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|candidate| !local::is_unlocked(&candidate.socket))
}

/// The process that holds the lock of `socket`, if it is known.
fn holder(socket: &Path) -> Option<u32> {
    match local::lock_state(socket) {
        LockState::Held { pid } => pid,
        LockState::Free | LockState::Leaving { .. } | LockState::NotAFile => None,
    }
}

/// A random time below `limit`.
fn random_below(limit: Duration) -> Duration {
    let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(crate::random() % nanos)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn connection() -> (Connection, UnixStream) {
        let (one, peer) = UnixStream::pair().expect("a pair");
        peer.set_nonblocking(true).expect("set");
        (Connection::new(one.into(), PathBuf::new(), false), peer)
    }

    #[test]
    fn a_connection_that_is_dropped_ends_though_another_process_holds_its_socket() {
        let (connection, mut peer) = connection();
        let copy = connection.socket.try_clone().expect("cloned"); // a forked child has one
        local::write(&connection.socket, b"written before").expect("written");
        drop(connection);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).expect("the connection has ended");
        assert_eq!(received, b"written before");
        assert!(peer.write(b"x").is_err());
        drop(copy);
    }

    #[test]
    fn a_forked_child_that_drops_its_copy_leaves_the_connection_alone() {
        let (mut connection, mut peer) = connection();
        let copy = connection.socket.try_clone().expect("cloned"); // the parent has one
        connection.pid = 1;
        drop(connection);
        assert_eq!(peer.read(&mut [0]).expect_err("it is open").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(local::write(&copy, b"x").expect("it is open"), 1);
    }
}
