//! The command's system calls on Windows, through `broadcaster-local` and tokio.

use broadcaster_local::windows::process::{self, Detached};
use broadcaster_local::windows::user;
use broadcaster_server::AuxiliaryListener;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::future::poll_fn;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer};
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown,
};

/// What a daemon inherits beside the variables that it inherits on every system: what libraries of Windows look for.
pub(crate) const INHERITED: [&str; 8] =
    ["APPDATA", "LOCALAPPDATA", "SystemDrive", "SystemRoot", "TEMP", "TMP", "USERNAME", "USERPROFILE"];

/// Every instance of a pipe is taken at the moment.
const ERROR_PIPE_BUSY: i32 = 231;

/// Without it, a directory can not be opened.
const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;

/// The server may find out who we are, and not act in our name.
const SECURITY_IDENTIFICATION: u32 = 0x0001_0000;

/// No service manager passes pipes on.
pub(crate) fn inherited_socket() -> io::Result<(Option<AuxiliaryListener>, usize)> {
    Ok((None, 0))
}

/// A daemon outlives its first client: it does not stand in its directory, which could not be removed otherwise.
pub(crate) fn leave_caller() -> io::Result<()> {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\".into());
    std::env::set_current_dir(root)
}

/// The caller reads stdout to its end to learn that the daemon is ready, and stderr to learn why it is not.
pub(crate) fn drop_output() -> io::Result<()> {
    process::drop_output()
}

/// A daemon that was started, with nothing of ours but standard error.
pub(crate) struct Started(Detached);

impl Started {
    /// Starts this program with these arguments and these variables alone.
    pub(crate) fn new(program: &Path, arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        Detached::start(program, arguments, variables).map(Self)
    }

    /// All its output.
    pub(crate) fn output(&mut self) -> io::Result<String> {
        io::read_to_string(self.0.output())
    }

    /// How it has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().map(ExitStatus::from_raw)
    }
}

/// The ways in which a console asks for an orderly stop. After the last three, the system ends the process within seconds.
pub(crate) struct Ends {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

impl Ends {
    pub(crate) fn catch() -> io::Result<Self> {
        let (c, pause, close) = (ctrl_c()?, ctrl_break()?, ctrl_close()?);
        Ok(Self { c, pause, close, logoff: ctrl_logoff()?, shutdown: ctrl_shutdown()? })
    }

    /// Ready when one of them has come.
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

/// What has woken up a program that has a terminal to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It is asked to end.
    End,
    /// It was stopped, and goes on: never here.
    #[allow(dead_code)]
    Continued,
}

/// What such a program heeds.
pub(crate) struct Wakes(Ends);

impl Wakes {
    pub(crate) fn catch() -> io::Result<Self> {
        Ends::catch().map(Self)
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) -> Wake {
        poll_fn(|cx| self.0.poll_any(cx)).await;
        Wake::End
    }
}

/// No shell here stops jobs: nothing happens.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn suspend() -> io::Result<()> {
    Ok(())
}

/// Columns of the terminal that is our output; 0 if it does not tell.
pub(crate) fn terminal_width() -> u16 {
    ratatui::crossterm::terminal::size().map_or(0, |(columns, _)| columns)
}

/// A number for the user of this process, which no other user has in an answer of [`stats_owner`].
pub(crate) fn uid() -> u32 {
    user::current().map_or(0, |user| user.number())
}

/// The stats pipe.
pub(crate) type StatsListener = AuxiliaryListener;

/// Somebody who asks at the stats pipe.
pub(crate) type StatsConn = NamedPipeServer;

/// Who asks at a stats pipe.
pub(crate) type StatsClient = NamedPipeClient;

/// The stats pipe.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn stats_listener(listener: AuxiliaryListener) -> io::Result<StatsListener> {
    Ok(listener)
}

/// The next who connects.
pub(crate) fn poll_accept_stats(listener: &mut StatsListener, cx: &mut Context<'_>) -> Poll<io::Result<StatsConn>> {
    listener.poll_accept(cx)
}

/// Others were turned away when they connected.
pub(crate) fn is_ours(_: &StatsConn) -> bool {
    true
}

/// Connects to a stats pipe; `WouldBlock` if it can not take one more at the moment.
#[allow(clippy::unused_async)]
pub(crate) async fn connect_stats(socket: &Path) -> io::Result<StatsClient> {
    match ClientOptions::new().security_qos_flags(SECURITY_IDENTIFICATION).open(socket) {
        Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => Err(io::ErrorKind::WouldBlock.into()),
        other => other,
    }
}

/// Whose process serves the stats pipe.
pub(crate) fn stats_owner(pipe: &NamedPipeClient) -> io::Result<u32> {
    Ok(user::owner(pipe)?.number_unlike(&user::current()?))
}

/// Opens a file, or a directory, to be told that it is one.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)
}

/// What it is, if no text can be in it.
pub(crate) fn not_text(metadata: &Metadata) -> Option<&'static str> {
    metadata.is_dir().then_some("a directory")
}
