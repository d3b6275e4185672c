//! The child processes of the bench, and the watchdog that ends them if the bench exceeds its time limit.
//!
//! Signals go through handles only, never to a process id that may have been reused.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Result, fail};
use crate::fields::Fields;

/// Environment variables that would lead a child to the user's own bus or change what is measured.
const FOREIGN_VARIABLES: [&str; 3] = ["BROADCASTER_SOCKET", "BROADCASTER_NO_AUTOSTART", "BROADCASTERD"];
const TIME_LIMIT_EXIT_CODE: i32 = 3;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All processes that must not outlive the bench.
#[derive(Default)]
struct Running {
    children: Vec<Arc<Mutex<Child>>>,
    /// Processes that are not our children: daemons that a client started.
    adopted: Vec<Arc<OwnedFd>>,
}

impl Running {
    fn kill_all(&self) {
        for child in &self.children {
            // An error means that it has already ended.
            let _ = lock(child).kill();
        }
        for process in &self.adopted {
            let _ = pidfd_send_signal(&**process, Signal::KILL);
        }
    }
}

pub(crate) struct Children {
    program: PathBuf,
    running: Arc<Mutex<Running>>,
    /// Whether the bench is finished, for the watchdog.
    finished: Arc<(Mutex<bool>, Condvar)>,
}

impl Children {
    /// Starts the watchdog of a bench that may take `time_max` and keeps its files below `root`.
    ///
    /// Children must be spawned on the main thread: they die with the thread that started them.
    pub(crate) fn new(time_max: Duration, root: &Path) -> Result<Self> {
        let children = Self { program: std::env::current_exe()?, running: Arc::default(), finished: Arc::default() };
        let (running, finished) = (Arc::clone(&children.running), Arc::clone(&children.finished));
        let root = root.to_owned();
        thread::spawn(move || {
            let guard = lock(&finished.0);
            let waited = finished.1.wait_timeout_while(guard, time_max, |finished| !*finished);
            let (finished, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if !*finished {
                eprintln!("time limit of {time_max:?} exceeded: killing all child processes");
                // Locked until the exit, so that no child is started or dropped in between.
                let running = lock(&running);
                running.kill_all();
                // `exit` skips the destructor of the temporary directory.
                let _ = std::fs::remove_dir_all(root);
                std::process::exit(TIME_LIMIT_EXIT_CODE);
            }
        });
        Ok(children)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts this program again, in `role`.
    pub(crate) fn spawn(&self, role: &str, fields: &Fields) -> Result<Process> {
        self.spawn_with(role, fields, &[], |_| Ok(()))
    }

    /// Like [`spawn`](Self::spawn), with more arguments, and with a last change to the command.
    pub(crate) fn spawn_with(
        &self,
        role: &str,
        fields: &Fields,
        more_args: &[&std::ffi::OsStr],
        prepare: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(["--role", role]).args(fields.args()).args(more_args);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command)?;
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        lock(&self.running).children.push(Arc::clone(&child));
        let (sender, lines) = channel();
        if let Some(stdout) = stdout {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Process {
            role: if role == "exec" { "daemon" } else { role }.to_owned(),
            pid,
            stdin,
            lines,
            child,
            running: Arc::clone(&self.running),
        })
    }

    /// Takes charge of a process that is not our child.
    pub(crate) fn adopt(&self, pid: Pid) -> Result<AdoptedProcess> {
        let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        lock(&self.running).adopted.push(Arc::clone(&handle));
        Ok(AdoptedProcess { handle, running: Arc::clone(&self.running) })
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        *lock(&self.finished.0) = true;
        self.finished.1.notify_all();
        lock(&self.running).kill_all();
    }
}

/// A child process. Dropping it kills it and waits for its end.
pub(crate) struct Process {
    role: String,
    pub(crate) pid: u32,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    child: Arc<Mutex<Child>>,
    running: Arc<Mutex<Running>>,
}

impl Process {
    /// The next line of output, or `None` if the deadline passes first.
    pub(crate) fn line_until(&self, deadline: Instant) -> Result<Option<String>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => fail(format!("the {} exited early", self.role)),
        }
    }

    /// The next line of output. Fails if the deadline passes first.
    pub(crate) fn line(&self, deadline: Instant) -> Result<String> {
        match self.line_until(deadline)? {
            Some(line) => Ok(line),
            None => fail(format!("the {} did not answer in time", self.role)),
        }
    }

    /// The next report. Fails if the deadline passes first or if the child reports a failure.
    pub(crate) fn report(&self, deadline: Instant) -> Result<Fields> {
        self.parse_report(&self.line(deadline)?)
    }

    pub(crate) fn parse_report(&self, line: &str) -> Result<Fields> {
        let fields = Fields::from_line(line);
        match fields.require::<String>("failed") {
            Ok(sentence) => {
                let sentence = sentence.replace('_', " ");
                fail(format!("the {} failed: {sentence}", self.role))
            }
            Err(_) => Ok(fields),
        }
    }

    /// Writes a line to the child's standard input.
    pub(crate) fn command(&mut self, line: &str) -> Result<()> {
        match &mut self.stdin {
            Some(stdin) => Ok(writeln!(stdin, "{line}")?),
            None => fail(format!("the {} has no standard input", self.role)),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let child = lock(&self.child);
        // The child has not been waited for, so its id cannot have been reused.
        Ok(rustix::process::kill_process(Pid::from_child(&child), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        lock(&self.running).children.retain(|child| !Arc::ptr_eq(child, &self.child));
    }
}

/// A process that is not our child. Dropping it kills it.
pub(crate) struct AdoptedProcess {
    handle: Arc<OwnedFd>,
    running: Arc<Mutex<Running>>,
}

impl AdoptedProcess {
    /// Whether the process ends within `time_max`.
    pub(crate) fn ends_within(&self, time_max: Duration) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec::try_from(time_max)?;
        let mut fds = [PollFd::new(&*self.handle, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}

impl Drop for AdoptedProcess {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = pidfd_send_signal(&*self.handle, Signal::KILL);
        lock(&self.running).adopted.retain(|process| !Arc::ptr_eq(process, &self.handle));
    }
}
