//! Running the daemon's program: which one may be run, and the progress of a started one. The program detaches itself, and its lock
//! decides whether it is needed. It is never run on behalf of another user.

use super::wait::Wait;
use crate::error::{ConnectError, Skipped};
use broadcaster_local::{self as local, ProgramProblem, Socket};
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The variable that names the daemon's program.
const PROGRAM_VARIABLE: &str = "BROADCASTERD";

/// File name of the daemon's program.
const PROGRAM_NAME: &str = "broadcasterd";

/// How often to check whether the program has ended without closing its output.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How many bytes of the program's output are kept.
const OUTPUT_BYTES_MAX: usize = 2048;

/// The result of an attempt to run the daemon's program.
#[derive(Debug)]
pub(super) enum Started {
    /// It runs.
    Running(Launch),
    /// There is none that can be run. These were found and skipped.
    None(Vec<Skipped>),
}

/// Runs the program that the caller has named, else the one named in `BROADCASTERD`, else the first of those beside the running program
/// and in `PATH` that can be trusted and run. `socket` is passed on if the caller has named it.
pub(super) fn start(named: Option<&Path>, socket: Option<&Path>) -> Result<Started, ConnectError> {
    if let Some(program) = named {
        return Launch::begin(program, socket).map(Started::Running).map_err(|source| failed(program, source));
    }
    if let Some(path) = std::env::var_os(PROGRAM_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        if !path.is_absolute() {
            return Err(ConnectError::RelativeProgram { path });
        }
        let launched = check(&path).and_then(|()| Launch::begin(&path, socket));
        return launched.map(Started::Running).map_err(|source| failed(&path, source));
    }
    Ok(start_first(local::programs(PROGRAM_NAME), socket))
}

/// Runs the first of these programs that can be trusted and run.
fn start_first(programs: Vec<PathBuf>, socket: Option<&Path>) -> Started {
    let mut skipped = Vec::new();
    for program in programs {
        match check(&program).and_then(|()| Launch::begin(&program, socket)) {
            Ok(launch) => return Started::Running(launch),
            Err(error) => skipped.push(Skipped { program, reason: error.to_string() }),
        }
    }
    Started::None(skipped)
}

/// Checks that only this user or root can have installed the program.
fn check(program: &Path) -> io::Result<()> {
    local::check_program(program).map_err(|problem| match problem {
        ProgramProblem::Io(error) => error,
        problem => io::Error::other(problem.to_string()),
    })
}

fn failed(program: &Path, source: io::Error) -> ConnectError {
    ConnectError::Start { program: program.to_owned(), source }
}

/// A program that is starting a daemon.
#[derive(Debug)]
pub(super) struct Launch {
    program: PathBuf,
    child: Child,
    output: Arc<Socket>,
    text: Vec<u8>,
}

/// The progress of a [`Launch`].
#[derive(Debug)]
pub(super) enum Progress {
    /// It is still running.
    Pending(Wait),
    /// A daemon answers: this one, or another that was started at the same time.
    Started,
}

impl Launch {
    /// Runs `program start`, which ensures that the daemon inherits nothing from this process.
    fn begin(program: &Path, socket: Option<&Path>) -> io::Result<Self> {
        let (output, writer) = local::output_pipe()?;
        let mut command = Command::new(program);
        command.arg("start");
        command.envs(socket.map(|socket| (SOCKET_VARIABLE, socket)));
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        local::prepare(&mut command);
        let child = command.spawn()?;
        Ok(Self { program: program.to_owned(), child, output: Arc::new(output), text: Vec::new() })
    }

    /// Checks the progress; never waits.
    pub(super) fn poll(&mut self, now: Instant) -> Result<Progress, ConnectError> {
        let mut buffer = [0; 512];
        loop {
            match local::read_output(&self.output, &mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    let room = OUTPUT_BYTES_MAX.saturating_sub(self.text.len());
                    self.text.extend_from_slice(&buffer[..read.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The end of the program counts. A process that it left behind may keep the pipe open.
                    if let Ok(Some(_)) = self.child.try_wait() {
                        break;
                    }
                    return Ok(Progress::Pending(Wait::readable(&self.output).at_most(Some(now + CHECK_EVERY))));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        match self.child.try_wait() {
            // It has closed its output and is about to exit.
            Ok(None) => Ok(Progress::Pending(Wait::until(now + Duration::from_millis(1)))),
            Ok(Some(status)) if !status.success() => {
                let (program, source) = (self.program.clone(), self.failure(status));
                Err(ConnectError::Start { program, source })
            }
            // In a process that ignores SIGCHLD, the result is unknown. The next connection attempt shows it.
            Ok(Some(_)) | Err(_) => Ok(Progress::Started),
        }
    }

    fn failure(&self, status: ExitStatus) -> io::Error {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim();
        // The program begins its error messages with its name, which the enclosing sentence contains already.
        let text = text.strip_prefix(PROGRAM_NAME).and_then(|text| text.strip_prefix(": ")).unwrap_or(text);
        io::Error::other(if text.is_empty() { status.to_string() } else { format!("{text} ({status})") })
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        local::abandon(&mut self.child);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_that_cannot_be_run_does_not_hide_the_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let programs =
            [("text", 0o644), ("loose", 0o777), ("no format", 0o755), ("good", 0o755)].map(|(name, mode)| {
                let program = directory.path().join(name);
                let text = if name == "good" { "#!/bin/sh\nexit 0\n" } else { "\u{7f}ELF, but not really" };
                std::fs::write(&program, text).expect("written");
                std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).expect("set");
                program
            });
        match start_first(programs.to_vec(), None) {
            Started::Running(launch) => assert_eq!(launch.program, programs[3]),
            Started::None(skipped) => panic!("{skipped:?}"),
        }
        let Started::None(skipped) = start_first(programs[..3].to_vec(), None) else { panic!("none can be run") };
        assert!(skipped.iter().map(|skipped| &skipped.program).eq(&programs[..3]));
        let error = ConnectError::NoProgram { socket: "/run/bus.sock".into(), skipped };
        let text = error.to_string();
        assert!(text.contains("/loose has mode 0777") && text.contains("no format is not run: "), "{text}");
    }
}
