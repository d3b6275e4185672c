//! Operations that may hang, each with a time limit: a function on a thread of its own, and a tool of the system.

use rustix::process::{Pid, Signal};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Time limit of a tool of the system; then it is killed.
pub(super) const TOOL_TIMEOUT: Duration = Duration::from_millis(1500);

/// Extra time to wait for an operation that has a time limit of its own.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// Size limit of a tool's output.
const PRINTED_BYTES_MAX: u64 = 64 * 1024;

/// A function on a thread of its own, which is abandoned when its time is over.
pub(super) struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    pub(super) fn start(function: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, result) = channel();
        // Without a thread, `wait` returns at once.
        let _ = std::thread::Builder::new().spawn(move || done.send(function()));
        Self(result)
    }

    pub(super) fn wait(self, until: Instant) -> Option<T> {
        self.0.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// Runs a tool and returns its output; or its first line of output if it fails, or that it exceeded its time limit.
pub(super) fn tool(program: &Path, arguments: &[&str], with_variables: bool, until: Instant) -> Result<String, String> {
    let (mut child, output) = spawn(program, arguments, with_variables).map_err(|error| error.to_string())?;
    let printed = Pending::start(move || {
        let mut printed = Vec::new();
        let _ = output.take(PRINTED_BYTES_MAX).read_to_end(&mut printed);
        String::from_utf8_lossy(&printed).into_owned()
    });
    let printed = printed.wait(until);
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => {
                let printed = printed.unwrap_or_default();
                let complaint = || printed.lines().next().map_or_else(|| status.to_string(), str::to_owned);
                return if status.success() { Ok(printed) } else { Err(complaint()) };
            }
            None if printed.is_none() || Instant::now() >= until => {
                kill(child);
                return Err(format!("no answer within {TOOL_TIMEOUT:?}"));
            }
            // It has closed its output and is about to exit.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn spawn(program: &Path, arguments: &[&str], with_variables: bool) -> io::Result<(Child, io::PipeReader)> {
    let (output, input) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    if !with_variables {
        command.env_clear();
    }
    let child = command.env("LC_ALL", "C").process_group(0).spawn()?;
    // Dropping `command` closes our writing ends, so the output ends with the child.
    Ok((child, output))
}

fn kill(mut child: Child) {
    // Includes the processes that it started.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    // Reaped in the background, since it may take time to exit.
    let _ = std::thread::Builder::new().spawn(move || child.wait());
}
