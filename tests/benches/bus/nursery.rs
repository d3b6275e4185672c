//! The child processes and the one who ends them. It never signals a process that it does not hold by handle, and never
//! lets the bench run past its deadline.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::fail::{Outcome, fail};
use crate::words::Words;

/// Environment that would lead a child to the user's own bus or forbid it what is measured.
const FOREIGN_VARIABLES: [&str; 3] = ["BROADCASTER_SOCKET", "BROADCASTER_NO_AUTOSTART", "BROADCASTERD"];
const OVERDUE_EXIT_CODE: i32 = 3;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Held {
    children: Vec<Arc<Mutex<Child>>>,
    /// Processes that are not our children: daemons that a client started.
    strays: Vec<Arc<OwnedFd>>,
}

impl Held {
    fn kill_all(&self) {
        for child in &self.children {
            // An error means that it is gone already.
            let _ = lock(child).kill();
        }
        for stray in &self.strays {
            let _ = pidfd_send_signal(&**stray, Signal::KILL);
        }
    }
}

pub(crate) struct Nursery {
    program: PathBuf,
    held: Arc<Mutex<Held>>,
    /// Whether all is done, for the watchdog.
    done: Arc<(Mutex<bool>, Condvar)>,
}

impl Nursery {
    /// A bench that may take so long and keeps its files below `root`.
    ///
    /// Must live on the main thread: the kernel ties children to the thread that started them.
    pub(crate) fn new(time_max: Duration, root: &Path) -> Outcome<Self> {
        let nursery = Self { program: std::env::current_exe()?, held: Arc::default(), done: Arc::default() };
        let (held, done) = (Arc::clone(&nursery.held), Arc::clone(&nursery.done));
        let root = root.to_owned();
        thread::spawn(move || {
            let guard = lock(&done.0);
            let waited = done.1.wait_timeout_while(guard, time_max, |done| !*done);
            let (done, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if !*done {
                eprintln!("not done within {time_max:?}: ending all children and leaving");
                // Held until the exit, so that nobody starts or drops a child meanwhile.
                let held = lock(&held);
                held.kill_all();
                // `exit` skips the destructor that would do it.
                let _ = std::fs::remove_dir_all(root);
                std::process::exit(OVERDUE_EXIT_CODE);
            }
        });
        Ok(nursery)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts this program again, in `role`.
    pub(crate) fn spawn(&self, role: &str, words: &Words) -> Outcome<Process> {
        self.spawn_with(role, words, &[], |_| Ok(()))
    }

    pub(crate) fn spawn_with(
        &self,
        role: &str,
        words: &Words,
        rest: &[&std::ffi::OsStr],
        prepare: impl FnOnce(&mut Command) -> Outcome<()>,
    ) -> Outcome<Process> {
        let mut command = Command::new(&self.program);
        command.args(["--role", role]).args(words.args()).args(rest);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command)?;
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        lock(&self.held).children.push(Arc::clone(&child));
        let (sender, lines) = channel();
        if let Some(stdout) = stdout {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
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
            held: Arc::clone(&self.held),
        })
    }

    /// Holds a process that somebody else has started on our behalf.
    pub(crate) fn adopt(&self, pid: Pid) -> Outcome<Stray> {
        let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        lock(&self.held).strays.push(Arc::clone(&handle));
        Ok(Stray { handle, held: Arc::clone(&self.held) })
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        *lock(&self.done.0) = true;
        self.done.1.notify_all();
        lock(&self.held).kill_all();
    }
}

/// A child. Dropped, it is ended and waited for.
pub(crate) struct Process {
    role: String,
    pub(crate) pid: u32,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    child: Arc<Mutex<Child>>,
    held: Arc<Mutex<Held>>,
}

impl Process {
    /// The next line, as it is; none when it does not come in time.
    pub(crate) fn line_until(&self, deadline: Instant) -> Outcome<Option<String>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => fail(format!("the {} has ended early", self.role)),
        }
    }

    /// The next line, which must come in time.
    pub(crate) fn line(&self, deadline: Instant) -> Outcome<String> {
        match self.line_until(deadline)? {
            Some(line) => Ok(line),
            None => fail(format!("the {} did not answer in time", self.role)),
        }
    }

    /// The next report, which must come in time and not tell a failure.
    pub(crate) fn report(&self, deadline: Instant) -> Outcome<Words> {
        self.understood(&self.line(deadline)?)
    }

    pub(crate) fn understood(&self, line: &str) -> Outcome<Words> {
        let words = Words::from_line(line);
        match words.need::<String>("failed") {
            Ok(sentence) => {
                let sentence = sentence.replace('_', " ");
                fail(format!("the {} has failed: {sentence}", self.role))
            }
            Err(_) => Ok(words),
        }
    }

    pub(crate) fn tell(&mut self, line: &str) -> Outcome<()> {
        match &mut self.stdin {
            Some(stdin) => Ok(writeln!(stdin, "{line}")?),
            None => fail("this child does not listen"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Outcome<()> {
        let child = lock(&self.child);
        // The handle is not waited for yet, so the id is still its own.
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
        lock(&self.held).children.retain(|held| !Arc::ptr_eq(held, &self.child));
    }
}

/// A process that is held by handle alone. Dropped, it is killed.
pub(crate) struct Stray {
    handle: Arc<OwnedFd>,
    held: Arc<Mutex<Held>>,
}

impl Stray {
    /// Whether it has ended within `time_max`.
    pub(crate) fn ends_within(&self, time_max: Duration) -> Outcome<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec::try_from(time_max)?;
        let mut fds = [PollFd::new(&*self.handle, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = pidfd_send_signal(&*self.handle, Signal::KILL);
        lock(&self.held).strays.retain(|held| !Arc::ptr_eq(held, &self.handle));
    }
}
