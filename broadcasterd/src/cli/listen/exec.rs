//! The commands that `listen` runs: one for each message, and one when it is ready. Each leads a process group of its own, is waited for,
//! and inherits no socket. Messages are received elsewhere.

use crate::exit::{Code, Failure};
use crate::os::{self, EndSignal};
use crate::output::notice;
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use system_broadcaster::{Closer, Message};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// The largest number of commands that run at the same time.
pub(super) const JOBS_MAX: i64 = 256;

const CHANNEL_VARIABLE: &str = "BROADCASTER_CHANNEL";
const SENDER_VARIABLE: &str = "BROADCASTER_SENDER";
const SENDER_PID_VARIABLE: &str = "BROADCASTER_SENDER_PID";
const SEQUENCE_VARIABLE: &str = "BROADCASTER_SEQUENCE";

/// The commands of this process. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Commands(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Drives the commands that run.
    runtime: Handle,
    /// The bus for commands that use one, if it is not the one of the environment.
    socket: Option<PathBuf>,
    /// Ends the receives after the first failure, if that is requested.
    closer: Option<Closer>,
    state: Mutex<State>,
    /// A command has ended. The first is for the thread that receives, the second for the one that handles signals.
    ended: Condvar,
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The commands that run for messages and the one that runs once, as process groups. A process is removed together with its id.
    running: BTreeSet<u32>,
    /// How many of them run for messages.
    jobs: usize,
    failures: u64,
    /// A signal has requested the end. No further command starts.
    ending: bool,
}

/// What a command runs for.
#[derive(Debug)]
enum Cause {
    Ready,
    Message(Message),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("the command of --ready-exec"),
            Self::Message(message) => {
                let (channel, sender, sequence) = (message.channel(), message.sender(), message.sequence());
                write!(f, "the command for message {sequence} of sender {sender} on {}", channel.as_str())
            }
        }
    }
}

impl Commands {
    /// No command runs yet. `runtime` must be driven by another thread.
    pub(super) fn new(runtime: Handle, socket: Option<PathBuf>, closer: Option<Closer>) -> Self {
        let (state, ended, idle) = (Mutex::default(), Condvar::new(), Notify::new());
        Self(Arc::new(Shared { runtime, socket, closer, state, ended, idle }))
    }

    /// Runs this line of the shell. Its output goes to stderr.
    pub(super) fn start_ready(&self, line: &OsStr) -> Result<(), Failure> {
        let mut command = os::shell(line);
        command.stdin(Stdio::null()).stdout(io::stderr());
        self.start(command, Cause::Ready)
    }

    /// Runs the program with these arguments. The payload is its stdin.
    pub(super) fn start_for(&self, words: &[OsString], message: Message) -> Result<(), Failure> {
        let Some((program, arguments)) = words.split_first() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        command.env(CHANNEL_VARIABLE, message.channel().as_str());
        command.env(SENDER_VARIABLE, message.sender().to_string());
        command.env(SEQUENCE_VARIABLE, message.sequence().to_string());
        match message.sender_pid() {
            Some(pid) => command.env(SENDER_PID_VARIABLE, pid.to_string()),
            None => command.env_remove(SENDER_PID_VARIABLE),
        };
        self.start(command, Cause::Message(message))
    }

    fn start(&self, mut command: Command, cause: Cause) -> Result<(), Failure> {
        os::own_group(&mut command);
        if let Some(socket) = &self.0.socket {
            command.env(SOCKET_VARIABLE, socket);
        }
        let program = command.get_program().to_owned();
        let shared = &self.0;
        let _entered = shared.runtime.enter();
        let mut state = shared.wait_while(shared.lock(), |state| state.ending);
        let child = tokio::process::Command::from(command).spawn().map_err(|error| cannot_run(&program, &error))?;
        // Only a process that was waited for has no id.
        let Some(group) = child.id() else { return Ok(()) };
        state.running.insert(group);
        state.jobs += usize::from(matches!(cause, Cause::Message(_)));
        drop(state);
        shared.runtime.spawn(Arc::clone(shared).supervise(child, group, cause));
        Ok(())
    }

    /// Waits until fewer than `jobs` commands run for messages.
    pub(super) fn wait_for_room(&self, jobs: usize) {
        drop(self.0.wait_while(self.0.lock(), |state| state.jobs >= jobs));
    }

    /// Waits for all of them.
    ///
    /// # Errors
    ///
    /// One that is reported already, if any command has failed.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        match self.0.wait_while(self.0.lock(), |state| !state.running.is_empty()).failures {
            0 => Ok(()),
            _ => Err(Failure::reported(Code::Command)),
        }
    }

    /// Passes a signal that requests the end to all of them, and starts no other.
    pub(super) fn pass(&self, signal: EndSignal) {
        let mut state = self.0.lock();
        state.ending = true;
        state.running.iter().for_each(|group| signal.forward(*group));
    }

    /// Kills all of them.
    pub(super) fn kill(&self) {
        self.0.lock().running.iter().for_each(|group| os::kill_group(*group));
    }

    /// Waits until none runs, after [`pass`](Self::pass).
    pub(super) async fn ended(&self) {
        while !self.0.lock().running.is_empty() {
            self.0.idle.notified().await;
        }
    }
}

impl Shared {
    /// No code panics under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the condition is true, and forever once a signal has requested the end: another thread ends the process then.
    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        mut condition: impl FnMut(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.ended.wait_while(state, |state| state.ending || condition(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds the command and waits until it has ended.
    async fn supervise(self: Arc<Self>, mut child: Child, group: u32, cause: Cause) {
        let stdin = child.stdin.take();
        let input = match &cause {
            Cause::Ready => None,
            Cause::Message(message) => Some(message.clone().into_payload()),
        };
        let feeding = stdin.zip(input).map(|(mut stdin, input)| {
            tokio::spawn(async move {
                // It may end, or close its input, without reading it.
                let _ = stdin.write_all(&input).await;
            })
        });
        let status = child.wait().await;
        // Its id may now belong to another process. Signals are passed by this thread, and thus not before it is removed.
        self.remove(group, &cause, &status);
        // A process that it has left behind may hold its input open.
        if let Some(feeding) = feeding {
            feeding.abort();
        }
    }

    fn remove(&self, group: u32, cause: &Cause, status: &io::Result<ExitStatus>) {
        let failure = match status {
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let failure = failure.filter(|_| !self.lock().ending);
        if let Some(failure) = &failure {
            notice(format_args!("broadcasterd: {cause} failed: {failure}"));
        }
        let mut state = self.lock();
        state.running.remove(&group);
        state.jobs -= usize::from(matches!(cause, Cause::Message(_)));
        state.failures += u64::from(failure.is_some());
        drop(state);
        if let Some(closer) = self.closer.as_ref().filter(|_| failure.is_some()) {
            closer.close();
        }
        self.ended.notify_all();
        self.idle.notify_one();
    }
}

/// Fails before the first message, if there is no such program.
pub(super) fn check(words: &[OsString]) -> Result<(), Failure> {
    match words.first() {
        Some(program) if !os::is_program(program) => Err(Failure::new(
            Code::Command,
            match program.as_encoded_bytes().contains(&b' ') {
                true => format!("there is no program {program:?}; pass its arguments as separate words, or run sh -c"),
                false => format!("there is no program {program:?}; name one in PATH, or its path"),
            },
        )),
        _ => Ok(()),
    }
}

fn cannot_run(program: &OsStr, error: &io::Error) -> Failure {
    Failure::new(Code::Command, format!("cannot run {program:?}: {error}"))
}
