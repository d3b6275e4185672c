//! Starting the daemon's program: which one, with what became of it. The program detaches itself and decides by its lock
//! whether it is needed.

use super::wait::Wait;
use crate::error::ConnectError;
use broadcaster_local::{self as local, Socket};
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names the daemon's program.
const PROGRAM_VARIABLE: &str = "BROADCASTERD";

/// File name of the daemon's program.
const PROGRAM_NAME: &str = "broadcasterd";

/// How often to look whether the program has ended without closing its output.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Most bytes of the program's complaint that are kept.
const COMPLAINT_BYTES_MAX: usize = 2048;

/// The daemon's program: the one named in `BROADCASTERD`, else one beside the running program, else the first in `PATH`.
pub(super) fn find_program() -> Result<Option<PathBuf>, ConnectError> {
    if let Some(path) = std::env::var_os(PROGRAM_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        return if path.is_absolute() { Ok(Some(path)) } else { Err(ConnectError::RelativeProgram { path }) };
    }
    let name = format!("{PROGRAM_NAME}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative entry of PATH depends on where the user happens to stand.
    let in_path = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    Ok(beside.into_iter().chain(in_path).map(|dir| dir.join(&name)).find(|program| program.is_file()))
}

/// A program on its way to start a daemon.
#[derive(Debug)]
pub(super) struct Launch {
    program: PathBuf,
    child: Child,
    output: Arc<Socket>,
    complaint: Vec<u8>,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// It is still at it.
    Pending(Wait),
    /// A daemon answers, this one or a twin.
    Started,
}

impl Launch {
    /// Runs `program start`, which sees to it that the daemon inherits nothing of this process; `socket` is passed on if
    /// the caller named it.
    pub(super) fn begin(program: PathBuf, socket: Option<&Path>) -> Result<Self, ConnectError> {
        let begin = || -> io::Result<(Child, Socket)> {
            let (output, writer) = local::output_pipe()?;
            let mut command = Command::new(&program);
            command.arg("start");
            command.envs(socket.map(|socket| (SOCKET_VARIABLE, socket)));
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            local::prepare(&mut command);
            Ok((command.spawn()?, output))
        };
        match begin() {
            Ok((child, output)) => Ok(Self { program, child, output: Arc::new(output), complaint: Vec::new() }),
            Err(source) => Err(ConnectError::Io { action: "run", path: program, source }),
        }
    }

    /// Looks how far it has come; never waits.
    pub(super) fn poll(&mut self) -> Result<Progress, ConnectError> {
        let mut buffer = [0; 512];
        loop {
            match local::read_output(&self.output, &mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    let room = COMPLAINT_BYTES_MAX.saturating_sub(self.complaint.len());
                    self.complaint.extend_from_slice(&buffer[..read.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Its end is what counts; something that it left behind may keep the pipe open.
                    if let Ok(Some(_)) = self.child.try_wait() {
                        break;
                    }
                    let fd = Some(Arc::clone(&self.output));
                    let until = Some(Instant::now() + LOOK_EVERY);
                    return Ok(Progress::Pending(Wait { fd, writable: false, until }));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        match self.child.try_wait() {
            Ok(None) => {
                // It has closed its output and is about to exit.
                let until = Some(Instant::now() + Duration::from_millis(1));
                Ok(Progress::Pending(Wait { fd: None, writable: false, until }))
            }
            Ok(Some(status)) if !status.success() => {
                let said = String::from_utf8_lossy(&self.complaint);
                let said = said.trim();
                let reason = if said.is_empty() { status.to_string() } else { format!("{said} ({status})") };
                Err(ConnectError::Start { program: self.program.clone(), reason })
            }
            // A program that ignores SIGCHLD can not learn how its children end; connecting will tell.
            Ok(Some(_)) | Err(_) => Ok(Progress::Started),
        }
    }
}

/// Given up on.
impl Drop for Launch {
    fn drop(&mut self) {
        local::abandon(&mut self.child);
    }
}
