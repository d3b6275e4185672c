//! The connection of one handle: finding the daemon, starting it, the handshake, and all that again when it is lost. No
//! method ever waits; each says what it waits for.

use super::launch::{Launch, Progress, find_program};
use super::wait::{Step, Wait};
use crate::core::{Core, Ended};
use crate::error::ConnectError;
use crate::native::Native;
use crate::os;
use broadcaster_local::{self as local, CONNECT_ACTIVATES, Connected, Socket};
use broadcaster_protocol::control::RefusedCode;
use broadcaster_protocol::endpoint::{Candidate, candidates};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First pause before trying again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause before trying again.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How many steps towards a connection may each begin the deadline anew: a start, an accept and an answered handshake, with some
/// to spare for a daemon that stops in the middle of it.
const EXTENSIONS_MAX: u32 = 8;

/// What a handle was told about its connection.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The socket, if the program names it.
    pub(crate) socket: Option<PathBuf>,
    /// The daemon's program, if the program names it.
    pub(crate) program: Option<PathBuf>,
    /// How long a connection may take to come about, and a send to be taken.
    pub(crate) deadline: Duration,
    /// Whether a daemon may be started.
    pub(crate) autostart: bool,
    /// Whether this process may host the broker.
    pub(crate) embedded: bool,
    /// Whether connecting may start one: a service manager that listens on the socket does that.
    pub(crate) activate: bool,
    /// The notifications to go by if there is no daemon, if the program wants that and the system has them.
    pub(crate) native: Option<Native>,
}

impl Plan {
    /// The places to try, best first.
    pub(crate) fn candidates(&self) -> Result<Vec<Candidate>, ConnectError> {
        Ok(candidates(&os::endpoint_env(self.socket.clone()))?)
    }
}

/// A connection to the daemon, or the way to one.
#[derive(Debug)]
pub(crate) struct Link {
    plan: Plan,
    candidates: Vec<Candidate>,
    state: State,
    /// Since when there is no connection.
    down_since: Option<Instant>,
    pause: Duration,
    /// A start was reported as a success and no connection has come of it yet.
    launched: bool,
    /// A start was reported as a success since the connection was lost.
    started: bool,
    /// What stood against connecting when every place was tried last.
    problem: Option<ConnectError>,
    /// Something has come of the last steps: a daemon was started, has accepted, or has answered.
    progress: bool,
    /// How often the deadline began anew for such a step.
    extensions: u32,
}

#[derive(Debug)]
enum State {
    Down,
    Paused(Instant),
    Launching(Launch),
    Greeting(Arc<Socket>, PathBuf),
    Up(Arc<Socket>, PathBuf),
}

/// What a read or a write came to.
#[derive(Debug)]
pub(crate) enum Taken {
    /// So many bytes.
    Bytes(usize),
    /// None; it goes on after this.
    Wait(Wait),
    /// The connection is lost. The link is down.
    Lost,
}

impl Link {
    /// A link that is not connected.
    pub(crate) fn new(plan: Plan) -> Result<Self, ConnectError> {
        let candidates = plan.candidates()?;
        Ok(Self {
            plan,
            candidates,
            state: State::Down,
            down_since: None,
            pause: PAUSE_MIN,
            launched: false,
            started: false,
            problem: None,
            progress: false,
            extensions: 0,
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(..))
    }

    /// Gets the connection up, as far as that goes without waiting.
    ///
    /// # Errors
    ///
    /// When the plan's deadline has passed since the connection was lost, or it is clear that there will be none. The
    /// next call begins anew.
    #[inline]
    pub(crate) fn ready(&mut self, core: &mut impl Core) -> Result<Step<()>, ConnectError> {
        if self.is_up() { Ok(Step::Done(())) } else { self.establish(core) }
    }

    fn establish(&mut self, core: &mut impl Core) -> Result<Step<()>, ConnectError> {
        let since = *self.down_since.get_or_insert_with(Instant::now);
        let advanced = self.advance(core);
        // A handle that is used now and then only gets a step further each time: what it achieves counts as in time. But not
        // for ever, or a daemon that accepts and dies, again and again, would hold up its clients without end.
        let in_time = std::mem::take(&mut self.progress) && self.extensions < EXTENSIONS_MAX;
        self.extensions += u32::from(in_time);
        let since = if in_time { Instant::now() } else { since };
        self.down_since = Some(since);
        let deadline = since.checked_add(self.plan.deadline);
        match advanced {
            Ok(None) => {
                self.begin_anew();
                Ok(Step::Done(()))
            }
            Ok(Some(_)) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                let error = match (self.problem.take(), &self.state) {
                    (Some(problem), State::Down | State::Paused(_)) => problem,
                    _ => self.timed_out(),
                };
                self.give_up(core);
                Err(error)
            }
            Ok(Some(Wait { fd, writable, until })) => {
                let until = [until, deadline].into_iter().flatten().min();
                Ok(Step::Wait(Wait { fd, writable, until }))
            }
            Err(error) => {
                self.give_up(core);
                Err(error)
            }
        }
    }

    /// Goes as far as possible; `None`: the connection is up.
    fn advance(&mut self, core: &mut impl Core) -> Result<Option<Wait>, ConnectError> {
        loop {
            match &mut self.state {
                State::Up(..) => return Ok(None),
                State::Down => self.find(core)?,
                State::Paused(until) => {
                    if Instant::now() < *until {
                        return Ok(Some(Wait { fd: None, writable: false, until: Some(*until) }));
                    }
                    self.state = State::Down;
                }
                State::Launching(launch) => match launch.poll()? {
                    Progress::Pending(wait) => return Ok(Some(wait)),
                    Progress::Started => {
                        // Once: a program that starts nothing, again and again, gets nowhere.
                        self.progress |= !self.started;
                        (self.launched, self.started) = (true, true);
                        self.state = State::Down;
                    }
                },
                State::Greeting(fd, path) => {
                    let (fd, path) = (Arc::clone(fd), path.clone());
                    if let Some(wait) = self.greet(core, fd, &path)? {
                        return Ok(Some(wait));
                    }
                }
            }
        }
    }

    /// Tries every place once, and starts a daemon if nobody is there.
    fn find(&mut self, core: &mut impl Core) -> Result<(), ConnectError> {
        let mut problem = None;
        let mut busy = false;
        for Candidate { socket, .. } in &self.candidates {
            if CONNECT_ACTIVATES && !self.plan.activate && local::is_unlocked(socket) {
                continue; // nobody serves there, whoever may listen
            }
            match local::connect(socket) {
                Ok(Connected::Yes(fd)) => {
                    core.connected();
                    self.state = State::Greeting(Arc::new(fd), socket.clone());
                    self.progress = true;
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
        self.problem = problem;
        if busy || std::mem::take(&mut self.launched) {
            self.pause();
            return Ok(());
        }
        self.start()
    }

    /// Starts a daemon.
    fn start(&mut self) -> Result<(), ConnectError> {
        let socket = || self.candidates[0].socket.clone();
        let program = match (&self.plan.program, self.plan.autostart) {
            (_, false) => None,
            (Some(program), true) => Some(program.clone()),
            (None, true) => find_program()?,
        };
        if let Some(program) = program {
            let launch = Launch::begin(program, self.plan.socket.as_deref())?;
            self.state = State::Launching(launch);
            return Ok(());
        }
        #[cfg(feature = "embedded")]
        if self.plan.embedded {
            self.launched = crate::embedded::host(&self.candidates)?;
            if !self.launched {
                self.pause();
            }
            return Ok(());
        }
        Err(self.problem.take().unwrap_or_else(|| match self.plan.autostart {
            true => ConnectError::NoProgram { socket: socket() },
            false => ConnectError::NotRunning { socket: socket() },
        }))
    }

    /// Goes on with the handshake.
    fn greet(&mut self, core: &mut impl Core, fd: Arc<Socket>, path: &Path) -> Result<Option<Wait>, ConnectError> {
        while !core.is_ready() && !core.outgoing().is_empty() {
            match local::write(&fd, core.outgoing()) {
                Ok(bytes) => core.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Some(Wait { fd: Some(fd), writable: true, until: None }));
                }
                Err(_) => break, // what it said before it went is still to be read
            }
        }
        if core.is_ready() {
            self.state = State::Up(fd, path.to_owned());
            return Ok(None);
        }
        match local::read(&fd, &mut core.target()) {
            Ok(0) => self.try_again(core),
            Ok(_) => match core.received() {
                Ok(()) => self.progress = true,
                Err(Ended::Goodbye) => self.try_again(core),
                Err(ended) => return Err(self.why(ended)),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Some(Wait { fd: Some(fd), writable: false, until: None }));
            }
            Err(_) => self.try_again(core),
        }
        Ok(None)
    }

    /// The daemon went away in the handshake: it was stopping, or it was killed. Another one will serve.
    fn try_again(&mut self, core: &mut impl Core) {
        core.disconnected();
        self.progress = false;
        self.pause();
    }

    fn pause(&mut self) {
        self.state = State::Paused(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn give_up(&mut self, core: &mut impl Core) {
        core.disconnected();
        self.state = State::Down;
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        (self.down_since, self.pause, self.problem) = (None, PAUSE_MIN, None);
        (self.launched, self.started, self.extensions) = (false, false, 0);
    }

    /// Reads once to the core's target. Waits for it only if `patient`, and then without end.
    #[inline]
    pub(crate) fn read(&mut self, core: &mut impl Core, patient: bool) -> Taken {
        let State::Up(fd, _) = &self.state else { return Taken::Lost };
        let read = if patient { local::read_blocking } else { local::read };
        match read(fd, &mut core.target()) {
            Ok(bytes @ 1..) => Taken::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Taken::Wait(Wait { fd: Some(Arc::clone(fd)), writable: false, until: None })
            }
            Ok(_) | Err(_) => {
                self.lose(core);
                Taken::Lost
            }
        }
    }

    /// Writes `head` and `body` once, as far as the daemon takes them.
    #[inline]
    pub(crate) fn write(&mut self, head: &[u8], body: &[u8]) -> Taken {
        let State::Up(fd, _) = &self.state else { return Taken::Lost };
        let wrote = match body {
            [] => local::write(fd, head),
            body => local::write_vectored(fd, &[IoSlice::new(head), IoSlice::new(body)]),
        };
        match wrote {
            Ok(bytes) => Taken::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Taken::Wait(Wait { fd: Some(Arc::clone(fd)), writable: true, until: None })
            }
            Err(_) => Taken::Lost,
        }
    }

    /// The connection is lost; the next [`ready`](Self::ready) looks for another one.
    pub(crate) fn lose(&mut self, core: &mut impl Core) {
        core.disconnected();
        self.state = State::Down;
    }

    /// A write has failed: reads why, then loses the connection.
    ///
    /// # Errors
    ///
    /// If the daemon said that it will not serve this handle.
    pub(crate) fn lose_with_reason(&mut self, core: &mut impl Core) -> Result<(), ConnectError> {
        let mut ended = Ok(());
        if let State::Up(fd, _) = &self.state
            && let Ok(1..) = local::read(fd, &mut core.target())
        {
            ended = core.received();
        }
        let error = match ended {
            Ok(()) | Err(Ended::Goodbye) => None,
            Err(ended) => Some(self.why(ended)),
        };
        self.lose(core);
        error.map_or(Ok(()), Err)
    }

    /// What an ended connection means for the caller.
    pub(crate) fn why(&self, ended: Ended) -> ConnectError {
        let (State::Greeting(_, socket) | State::Up(_, socket)) = &self.state else {
            return self.timed_out();
        };
        let reason = match ended {
            Ended::Refused(refused) => {
                return ConnectError::Refused { code: refused.code, reason: refused.reason };
            }
            Ended::Goodbye => "it is stopping".to_owned(),
            Ended::Garbage(error) => error.to_string(),
            Ended::NotOffered(version) => format!("it chose protocol {version}, which was not offered"),
            Ended::Lacks { what, version } => {
                let reason = format!("daemon {version:?} is too old to {what}: restart it with a newer broadcasterd");
                return ConnectError::Refused { code: RefusedCode::Version, reason };
            }
            Ended::OutOfPlace(kind) => format!("it sent a frame of kind {kind:#04x} that was not due"),
        };
        ConnectError::NotADaemon { socket: socket.clone(), reason }
    }

    /// What it means that the daemon is gone, for a handle that looks for no other.
    pub(crate) fn gone(&self) -> ConnectError {
        ConnectError::NotRunning { socket: self.candidates[0].socket.clone() }
    }

    /// What it means that the deadline has passed.
    pub(crate) fn timed_out(&self) -> ConnectError {
        let first = &self.candidates[0].socket;
        let (socket, doing) = match &self.state {
            State::Greeting(_, path) => (path, "it accepts and does not greet: it is stopped or hangs"),
            State::Launching(_) => (first, "it is being started"),
            State::Down | State::Paused(_) if self.started => (first, "one was started, and none answers there"),
            State::Down | State::Paused(_) | State::Up(..) => (first, "nobody there, or too busy to accept"),
        };
        ConnectError::TimedOut { socket: socket.clone(), after: self.plan.deadline, doing }
    }
}
