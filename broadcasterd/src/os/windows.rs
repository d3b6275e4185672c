//! The system calls of the command on Windows, through `broadcaster-local` and tokio.

use broadcaster_local::windows::process::{self, Detached};
use broadcaster_local::windows::user;
use broadcaster_server::AuxiliaryListener;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::task::{Context, Poll};
use tokio::io::AsyncReadExt;
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer};
use tokio::process::ChildStdout;
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown,
};

#[cfg(feature = "top")]
mod terminal;

#[cfg(feature = "top")]
pub(crate) use terminal::{TerminalSignal, TerminalSignals, suspend};

/// Variables that a daemon inherits on this system only: those that system libraries require.
pub(crate) const INHERITED: [&str; 8] =
    ["APPDATA", "LOCALAPPDATA", "SystemDrive", "SystemRoot", "TEMP", "TMP", "USERNAME", "USERPROFILE"];

/// Every instance of the pipe is busy.
const ERROR_PIPE_BUSY: i32 = 231;

/// Required to open a directory.
const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;

/// The server may identify the client, but not impersonate it.
const SECURITY_IDENTIFICATION: u32 = 0x0001_0000;

/// The exit code of a process that a console event has ended.
const STATUS_CONTROL_C_EXIT: i32 = 0xC000_013A_u32.cast_signed();

/// No service manager passes pipes.
pub(crate) fn inherited_socket() -> io::Result<(Option<AuxiliaryListener>, usize)> {
    Ok((None, 0))
}

/// Does nothing: processes on this system inherit no signals.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn reset_signals() -> io::Result<()> {
    Ok(())
}

/// Leaves the directory of the first client, which could not be removed otherwise.
pub(crate) fn leave_caller() -> io::Result<()> {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\".into());
    std::env::set_current_dir(root)
}

/// Closes the caller's output. The end of stdout means that the daemon is ready; stderr would have explained a failure.
pub(crate) fn drop_output() -> io::Result<()> {
    process::drop_output()
}

/// Writes all of the bytes to stderr.
pub(crate) fn write_stderr(bytes: &[u8]) -> io::Result<()> {
    io::stderr().write_all(bytes)
}

/// A daemon that was started in the background. It inherits nothing but standard error.
pub(crate) struct DetachedChild(Detached);

impl DetachedChild {
    /// Starts the program with these arguments and only these variables.
    pub(crate) fn start(program: &Path, arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        Detached::start(program, arguments, variables).map(Self)
    }

    /// Its output, to the end.
    pub(crate) fn output(&mut self) -> io::Result<String> {
        io::read_to_string(self.0.output())
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().map(ExitStatus::from_raw)
    }
}

/// The console events that request an orderly stop. After the last three, the system ends the process within seconds.
pub(crate) struct StopSignals {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (c, pause, close) = (ctrl_c()?, ctrl_break()?, ctrl_close()?);
        Ok(Self { c, pause, close, logoff: ctrl_logoff()?, shutdown: ctrl_shutdown()? })
    }

    /// Ready when one of them has arrived.
    pub(crate) fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { c, pause, close, logoff, shutdown } = self;
        let console = c.poll_recv(cx).is_ready() || pause.poll_recv(cx).is_ready() || close.poll_recv(cx).is_ready();
        if console || logoff.poll_recv(cx).is_ready() || shutdown.poll_recv(cx).is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// A caught console event that requests the end of the program, which acts before it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndSignal;

impl EndSignal {
    /// Ends the process as the event would have done.
    pub(crate) fn end_process(self) -> ! {
        std::process::exit(STATUS_CONTROL_C_EXIT)
    }

    /// Does nothing: the console reports the event to every process that uses it.
    pub(crate) fn forward(self, _: u32) {}
}

/// Does nothing: a process on this system has no group that ends with it.
pub(crate) fn own_group(_: &mut Command) {}

/// Does nothing: the console has reported the event twice.
pub(crate) fn kill_group(_: u32) {}

/// Passes on what a command that has ended has printed, until no more is wanted. It waits for processes that it has left behind and that may
/// still print.
pub(crate) async fn read_printed(mut stdout: ChildStdout, mut wants_more: impl FnMut(&[u8]) -> bool) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(read @ 1..) = stdout.read(&mut chunk).await
        && wants_more(&chunk[..read])
    {}
}

/// The exit status of a process as a shell states it.
pub(crate) fn exit_status(status: ExitStatus) -> Option<i32> {
    status.code()
}

/// A command that the shell reads from this line.
pub(crate) fn shell(line: &OsStr) -> Command {
    let mut command = Command::new("cmd");
    command.args(["/D", "/S", "/C"]).raw_arg(quoted(line));
    command
}

/// The line between quotes, which `cmd /S` removes again.
fn quoted(line: &OsStr) -> OsString {
    let mut quoted = OsString::from("\"");
    quoted.push(line);
    quoted.push("\"");
    quoted
}

/// Always: the system has rules of its own for the extension and the directories.
pub(crate) fn is_program(_: &OsStr) -> bool {
    true
}

/// The console events that request the end of a program.
pub(crate) struct EndSignals(StopSignals);

impl EndSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        StopSignals::catch().map(Self)
    }

    /// The next event.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<EndSignal> {
        self.0.poll_any(cx).map(|()| EndSignal)
    }
}

/// Width of the terminal on stdout, in columns; 0 if it is unknown.
#[cfg(feature = "top")]
pub(crate) fn terminal_width() -> u16 {
    ratatui::crossterm::terminal::size().map_or(0, |(columns, _)| columns)
}

/// Unknown: the library that asks for it is only a part of this program if `top` is.
#[cfg(not(feature = "top"))]
pub(crate) fn terminal_width() -> u16 {
    0
}

/// A number for the user of this process that [`stats_owner`] returns for no other user.
pub(crate) fn uid() -> u32 {
    user::current().map_or(0, |user| user.number())
}

/// The stats pipe.
pub(crate) type StatsListener = AuxiliaryListener;

/// A connection accepted on the stats pipe.
pub(crate) type StatsConn = NamedPipeServer;

/// A connection to a stats pipe.
pub(crate) type StatsClient = NamedPipeClient;

/// The stats pipe.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn stats_listener(listener: AuxiliaryListener) -> io::Result<StatsListener> {
    Ok(listener)
}

/// Accepts the next connection.
pub(crate) fn poll_accept_stats(listener: &mut StatsListener, cx: &mut Context<'_>) -> Poll<io::Result<StatsConn>> {
    listener.poll_accept(cx)
}

/// Always: other users were refused when they connected.
pub(crate) fn is_same_user(_: &StatsConn) -> bool {
    true
}

/// Connects to a stats pipe; `WouldBlock` if every instance is busy.
#[allow(clippy::unused_async)]
pub(crate) async fn connect_stats(socket: &Path) -> io::Result<StatsClient> {
    match ClientOptions::new().security_qos_flags(SECURITY_IDENTIFICATION).open(socket) {
        Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => Err(io::ErrorKind::WouldBlock.into()),
        other => other,
    }
}

/// The user whose process serves the stats pipe.
pub(crate) fn stats_owner(pipe: &NamedPipeClient) -> io::Result<u32> {
    Ok(user::owner(pipe)?.number_unlike(&user::current()?))
}

/// Opens a file, or a directory, so that it can be reported as one.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)
}

/// What it is, if it cannot contain text.
pub(crate) fn not_text(metadata: &Metadata) -> Option<&'static str> {
    metadata.is_dir().then_some("a directory")
}
