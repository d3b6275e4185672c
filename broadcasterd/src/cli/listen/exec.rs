//! The commands that `listen` runs: one for each message, and one when it is ready. Each leads a process group of its own, is waited for,
//! and inherits no socket. They are supervised on another thread; the one that has the listener waits for them here and sends their
//! replies. Messages are received elsewhere.

use super::capture::{Capture, Captured};
use crate::exit::{Code, Failure};
use crate::os::{self, EndSignal};
use crate::output::notice;
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use system_broadcaster::{Listener, Message, Metadata, RecvError, ReplyError, ReplyTo};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// The largest number of commands that run at the same time.
pub(super) const JOBS_MAX: i64 = 256;

/// How long the last replies may take after a signal and the end of all commands. The daemon may be stopped.
const LAST_REPLIES_TIMEOUT: Duration = Duration::from_secs(2);

const CHANNEL_VARIABLE: &str = "BROADCASTER_CHANNEL";
const SENDER_VARIABLE: &str = "BROADCASTER_SENDER";
const SENDER_PID_VARIABLE: &str = "BROADCASTER_SENDER_PID";
const SEQUENCE_VARIABLE: &str = "BROADCASTER_SEQUENCE";
const REPLAYED_VARIABLE: &str = "BROADCASTER_REPLAYED";
const REQUEST_VARIABLE: &str = "BROADCASTER_REQUEST";

/// The header of a reply that states why the command has failed.
pub(in crate::cli) const ERROR_HEADER: &str = "error";

/// The header of a reply that states the exit status of a command that has failed, as a shell does.
pub(in crate::cli) const EXIT_STATUS_HEADER: &str = "exit-status";

/// The commands of this process. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Commands(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Drives the commands that run. Another thread drives it.
    runtime: Handle,
    /// The bus for commands that use one, if it is not the one of the environment.
    socket: Option<PathBuf>,
    /// Nothing more is received after the first failure.
    stops_on_failure: bool,
    state: Mutex<State>,
    /// Something has changed: for the thread that has the listener, and for the one that handles signals.
    changed: Notify,
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The commands that run for messages and the one that runs once, as process groups. A process is removed together with its id.
    running: BTreeSet<u32>,
    /// How many run for messages, or have ended and their replies were not sent yet.
    jobs: usize,
    /// Replies of commands that have ended. Each keeps its job, so that there are never more than jobs.
    replies: VecDeque<Reply>,
    /// A reply is being sent.
    replying: bool,
    failures: u64,
    /// A signal has requested the end. No further command starts.
    ending: bool,
}

/// What a command has printed for a request.
#[derive(Debug)]
struct Reply {
    to: ReplyTo,
    output: Captured,
    cause: Cause,
    /// Why the command has failed.
    failure: Option<String>,
    /// Its exit status as a shell states it.
    status: Option<i32>,
}

/// What a command runs for.
#[derive(Debug)]
enum Cause {
    Ready,
    Message(Message),
}

impl Cause {
    /// Where the output goes, if it is a reply.
    fn reply_to(&self) -> Option<ReplyTo> {
        match self {
            Self::Ready => None,
            Self::Message(message) => message.reply_to(),
        }
    }
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
    pub(super) fn new(runtime: Handle, socket: Option<PathBuf>, stops_on_failure: bool) -> Self {
        let (state, changed, idle) = (Mutex::default(), Notify::new(), Notify::new());
        Self(Arc::new(Shared { runtime, socket, stops_on_failure, state, changed, idle }))
    }

    /// Runs this line of the shell. Its output goes to stderr.
    pub(super) fn start_ready(&self, listener: &mut Listener, line: &OsStr) -> Result<(), Failure> {
        let mut command = os::shell(line);
        command.stdin(Stdio::null()).stdout(io::stderr());
        self.start(listener, command, Cause::Ready)
    }

    /// Runs the program with these arguments. The payload is its stdin. Its stdout is the reply if the message is a request.
    pub(super) fn start_for(
        &self,
        listener: &mut Listener,
        words: &[OsString],
        message: Message,
    ) -> Result<(), Failure> {
        let Some((program, arguments)) = words.split_first() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        command.env(CHANNEL_VARIABLE, message.channel().as_str());
        command.env(SENDER_VARIABLE, message.sender().to_string());
        command.env(SEQUENCE_VARIABLE, message.sequence().to_string());
        command.env(REPLAYED_VARIABLE, message.is_replayed().to_string());
        match message.sender_pid() {
            Some(pid) => command.env(SENDER_PID_VARIABLE, pid.to_string()),
            None => command.env_remove(SENDER_PID_VARIABLE),
        };
        match message.reply_to() {
            Some(_) => command.env(REQUEST_VARIABLE, "1").stdout(Stdio::piped()),
            None => command.env_remove(REQUEST_VARIABLE),
        };
        self.start(listener, command, Cause::Message(message))
    }

    fn start(&self, listener: &mut Listener, mut command: Command, cause: Cause) -> Result<(), Failure> {
        os::own_group(&mut command);
        if let Some(socket) = &self.0.socket {
            command.env(SOCKET_VARIABLE, socket);
        }
        let program = command.get_program().to_owned();
        let shared = &self.0;
        let _entered = shared.runtime.enter();
        let mut state = shared.lock();
        while state.ending {
            drop(state);
            self.wait_until(listener, |_| true);
            state = shared.lock();
        }
        let child = tokio::process::Command::from(command).spawn().map_err(|error| cannot_run(&program, &error))?;
        // Only a process that was waited for has no id.
        let Some(group) = child.id() else { return Ok(()) };
        state.running.insert(group);
        state.jobs += usize::from(matches!(cause, Cause::Message(_)));
        drop(state);
        shared.runtime.spawn(Arc::clone(shared).supervise(child, group, cause));
        Ok(())
    }

    /// The next message, unless there is none before the timeout. Replies are sent in the meantime.
    ///
    /// # Errors
    ///
    /// As those of [`Listener::recv_timeout`]; [`RecvError::Closed`] after a failure that ends the receives.
    pub(super) fn recv(&self, listener: &mut Listener, timeout: Option<Duration>) -> Result<Message, RecvError> {
        let until = timeout.and_then(|after| Some((Instant::now().checked_add(after)?, after)));
        loop {
            let wanted = self.0.reply_or(|state| self.0.is_stopped(state));
            let received = async {
                match until {
                    Some((at, after)) => {
                        let received = timeout_at(at, listener.recv_async()).await;
                        received.unwrap_or(Err(RecvError::TimedOut { after }))
                    }
                    None => listener.recv_async().await,
                }
            };
            match self.0.runtime.block_on(either(wanted, received)) {
                First::One(Some(reply)) => self.send(listener, &reply),
                First::One(None) => return Err(RecvError::Closed),
                First::Other(received) => return received,
            }
        }
    }

    /// Waits for this long, and sends replies in the meantime. Returns early after a failure that ends the receives.
    pub(super) fn pause(&self, listener: &mut Listener, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let wanted = self.0.reply_or(|state| self.0.is_stopped(state));
            match self.0.runtime.block_on(async { either(wanted, sleep_until(until)).await }) {
                First::One(Some(reply)) => self.send(listener, &reply),
                First::One(None) | First::Other(()) => return,
            }
        }
    }

    /// Whether a failure has ended the receives.
    pub(super) fn is_stopped(&self) -> bool {
        self.0.is_stopped(&self.0.lock())
    }

    /// Waits until fewer than `jobs` commands run for messages, and sends replies in the meantime.
    pub(super) fn wait_for_room(&self, listener: &mut Listener, jobs: usize) {
        self.wait_until(listener, |state| state.jobs < jobs);
    }

    /// Waits for all of them, and sends their replies.
    ///
    /// # Errors
    ///
    /// One that is reported already, if any command has failed.
    pub(super) fn finish(&self, listener: &mut Listener) -> Result<(), Failure> {
        self.wait_until(listener, |state| state.running.is_empty());
        match self.0.lock().failures {
            0 => Ok(()),
            _ => Err(Failure::reported(Code::Command)),
        }
    }

    /// Waits until the condition is true, and sends replies in the meantime. Once a signal has requested the end, it waits forever: another
    /// thread ends the process then.
    fn wait_until(&self, listener: &mut Listener, condition: impl Fn(&State) -> bool) {
        while let Some(reply) = self.0.runtime.block_on(self.0.reply_or(|state| !state.ending && condition(state))) {
            self.send(listener, &reply);
        }
    }

    /// Sends a reply, which waits for the daemon at most. Its job ends.
    fn send(&self, listener: &mut Listener, reply: &Reply) {
        let sent = match &reply.output {
            Captured::All(bytes) => {
                match listener.reply_with(reply.to, &metadata(reply.failure.as_deref(), reply.status), bytes) {
                    Err(ReplyError::TooLarge { max, .. }) => {
                        let error = too_large(max as usize);
                        self.0.failed(&reply.cause, &error);
                        listener.reply_with(reply.to, &metadata(Some(&error), reply.status), &[])
                    }
                    sent => sent,
                }
            }
            Captured::TooLarge => listener.reply_with(reply.to, &metadata(reply.failure.as_deref(), reply.status), &[]),
        };
        if let Err(error) = sent {
            notice(format_args!("broadcasterd: the reply of {} was not sent: {error}", reply.cause));
        }
        let mut state = self.0.lock();
        state.replying = false;
        state.jobs -= 1;
        drop(state);
        self.0.idle.notify_one();
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

    /// Waits until none runs, and then until all replies were sent, but not long: after [`pass`](Self::pass).
    pub(super) async fn ended(&self) {
        self.idle(|state| state.running.is_empty()).await;
        let _ = timeout(LAST_REPLIES_TIMEOUT, self.idle(State::is_idle)).await;
    }

    async fn idle(&self, condition: impl Fn(&State) -> bool) {
        while !condition(&self.0.lock()) {
            self.0.idle.notified().await;
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.replies.is_empty() && !self.replying
    }
}

impl Shared {
    /// No code panics under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self, state: &State) -> bool {
        self.stops_on_failure && state.failures > 0
    }

    /// The next reply to send; `None` when there is none and the condition is true.
    async fn reply_or(&self, condition: impl Fn(&State) -> bool) -> Option<Reply> {
        loop {
            if let Some(next) = self.next_reply(&condition) {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn next_reply(&self, condition: impl Fn(&State) -> bool) -> Option<Option<Reply>> {
        let mut state = self.lock();
        let reply = state.replies.pop_front();
        state.replying = reply.is_some();
        (reply.is_some() || condition(&state)).then_some(reply)
    }

    /// Feeds the command, keeps its output for a reply, and waits until it has ended.
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
        let mut capture = child.stdout.take().map(|stdout| Capture::new(stdout, PAYLOAD_BYTES_MAX as usize));
        let status = {
            let mut ended = pin!(child.wait());
            poll_fn(|cx| {
                if let Some(capture) = &mut capture {
                    capture.poll(cx);
                }
                ended.as_mut().poll(cx)
            })
            .await
        };
        // A process that it has left behind may hold its input and its output open.
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        let output = match capture {
            Some(capture) => Some(capture.finish().await),
            None => None,
        };
        // Its id may now belong to another process. Signals are passed by this thread, and thus not before it is removed.
        self.remove(group, cause, &status, output);
    }

    fn remove(&self, group: u32, cause: Cause, status: &io::Result<ExitStatus>, output: Option<Captured>) {
        let failure = match status {
            _ if matches!(output, Some(Captured::TooLarge)) => Some(too_large(PAYLOAD_BYTES_MAX as usize)),
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = &failure {
            self.failed(&cause, failure);
        }
        let status = status.as_ref().ok().and_then(|status| os::exit_status(*status));
        let mut state = self.lock();
        state.running.remove(&group);
        match output.zip(cause.reply_to()) {
            Some((output, to)) => state.replies.push_back(Reply { to, output, cause, failure, status }),
            None => state.jobs -= usize::from(matches!(cause, Cause::Message(_))),
        }
        drop(state);
        self.changed.notify_one();
        self.idle.notify_one();
    }

    /// Reports and counts a failure, unless a signal has requested the end.
    fn failed(&self, cause: &Cause, failure: &str) {
        if !self.lock().ending {
            notice(format_args!("broadcasterd: {cause} failed: {failure}"));
            self.lock().failures += 1;
        }
    }
}

/// What a reply states about the command: nothing if it has succeeded.
fn metadata(failure: Option<&str>, status: Option<i32>) -> Metadata {
    let with =
        |metadata: Metadata, key, value: &str| metadata.clone().header(key, value.as_bytes()).unwrap_or(metadata);
    let metadata = failure.into_iter().fold(Metadata::new(), |metadata, failure| with(metadata, ERROR_HEADER, failure));
    let status = status.filter(|status| *status != 0).map(|status| status.to_string());
    status.into_iter().fold(metadata, |metadata, status| with(metadata, EXIT_STATUS_HEADER, &status))
}

fn too_large(max: usize) -> String {
    format!("its output has more than {max} bytes, the most that a reply can have")
}

/// What was ready first.
enum First<A, B> {
    One(A),
    Other(B),
}

/// Waits for both, and drops the one that is not ready first.
async fn either<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> First<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(First::One(value)),
        Poll::Pending => other.as_mut().poll(cx).map(First::Other),
    })
    .await
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
