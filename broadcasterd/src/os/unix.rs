//! The command's system calls on unix, through `rustix`, `close_fds` and tokio.

#[cfg(not(target_os = "macos"))]
use crate::activation::sockets_passed;
use broadcaster_server::AuxiliaryListener;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal as SignalNumber, kill_current_process_group};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::task::{Context, Poll};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(target_os = "macos")]
#[path = "launchd.rs"]
mod launchd;

/// What a daemon inherits beside the variables that it inherits on every system.
pub(crate) const INHERITED: [&str; 0] = [];

/// The first socket that a service manager passed, if it is the only one, and how many there were (systemd: `LISTEN_FDS`, with
/// `LISTEN_PID` naming this process; launchd: the socket called `bus`).
#[cfg(not(target_os = "macos"))]
pub(crate) fn inherited_socket() -> io::Result<(Option<UnixListener>, usize)> {
    // The library takes sockets without `LISTEN_PID`, too, and makes room for any number of them.
    let count = sockets_passed();
    Ok((if count == 1 { listenfd::ListenFd::from_env().take_unix_listener(0)? } else { None }, count))
}

/// The first socket that a service manager passed, and how many there were.
#[cfg(target_os = "macos")]
pub(crate) fn inherited_socket() -> io::Result<(Option<UnixListener>, usize)> {
    let mut passed = launchd::sockets(c"bus")?;
    let count = passed.len();
    Ok((passed.pop().map(UnixListener::from), count))
}

/// A daemon outlives its first client: it keeps neither its session and terminal nor its directory and umask. (Open files,
/// variables and the signal mask were left behind by `broadcasterd start`.)
pub(crate) fn leave_caller() -> io::Result<()> {
    // Fails only for a leader of a process group, which a freshly started child is not.
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    std::env::set_current_dir("/")
}

/// The caller reads stdout to its end to learn that the daemon is ready, and stderr to learn why it is not.
pub(crate) fn drop_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// A daemon that was started, with nothing of ours but standard error.
pub(crate) struct Started(Child);

impl Started {
    /// Starts this program with these arguments and these variables alone. The standard library gives it an empty signal mask.
    pub(crate) fn new(program: &Path, arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        // Whatever the caller had open would stay open for as long as the daemon lives.
        close_fds::set_fds_cloexec(3, &[]);
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// All its output.
    pub(crate) fn output(&mut self) -> io::Result<String> {
        self.0.stdout.take().map_or_else(|| Ok(String::new()), io::read_to_string)
    }

    /// How it has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

/// The signals that ask for an orderly stop.
pub(crate) struct Ends([Signal; 3]);

impl Ends {
    pub(crate) fn catch() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hang_up] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, hang_up?]))
    }

    /// Ready when one of them has come.
    pub(crate) fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// What has woken up a program that has a terminal to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It is asked to end.
    End,
    /// It was stopped, and goes on.
    Continued,
}

/// The signals that such a program heeds.
pub(crate) struct Wakes {
    ends: Ends,
    continued: Signal,
}

impl Wakes {
    pub(crate) fn catch() -> io::Result<Self> {
        let continued = SignalKind::from_raw(SignalNumber::CONT.as_raw());
        Ok(Self { ends: Ends::catch()?, continued: signal(continued)? })
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) -> Wake {
        poll_fn(|cx| {
            if self.ends.poll_any(cx).is_ready() {
                return Poll::Ready(Wake::End);
            }
            self.continued.poll_recv(cx).map(|_| Wake::Continued)
        })
        .await
    }
}

/// Stops the whole job, as everything else that runs in a shell does. Without a shell that could go on with it, the system ignores
/// this.
pub(crate) fn suspend() -> io::Result<()> {
    Ok(kill_current_process_group(SignalNumber::TSTP)?)
}

/// Columns of the terminal that is our output; 0 if it does not tell.
pub(crate) fn terminal_width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col)
}

/// Effective user id of this process.
pub(crate) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The stats socket, in this runtime.
pub(crate) type StatsListener = tokio::net::UnixListener;

/// Somebody who asks at the stats socket.
pub(crate) type StatsConn = UnixStream;

/// Who asks at a stats socket.
pub(crate) type StatsClient = UnixStream;

/// The stats socket, in this runtime.
pub(crate) fn stats_listener(listener: AuxiliaryListener) -> io::Result<StatsListener> {
    listener.set_nonblocking(true)?;
    StatsListener::from_std(listener)
}

/// The next who connects.
pub(crate) fn poll_accept_stats(listener: &mut StatsListener, cx: &mut Context<'_>) -> Poll<io::Result<StatsConn>> {
    listener.poll_accept(cx).map_ok(|(stream, _)| stream)
}

/// Whether somebody who asks is of our own user.
pub(crate) fn is_ours(stream: &StatsConn) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid())
}

/// Connects to a stats socket; `WouldBlock` if it can not take one more at the moment.
pub(crate) async fn connect_stats(socket: &Path) -> io::Result<StatsClient> {
    UnixStream::connect(socket).await
}

/// Whose process serves the stats socket.
pub(crate) fn stats_owner(stream: &UnixStream) -> io::Result<u32> {
    Ok(stream.peer_cred()?.uid())
}

/// Opens a file. Opening a pipe that nobody writes to would wait without end.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

/// What it is, if no text can be in it. A device such as `/dev/null` is fine.
pub(crate) fn not_text(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_char_device() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else {
        Some("no file")
    }
}
