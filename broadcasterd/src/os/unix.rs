//! The system calls of the command on Unix, through `rustix`, `close_fds` and tokio.

use super::signals;
pub(crate) use super::signals::reset_signals;

use broadcaster_server::AuxiliaryListener;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal as SignalNumber, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::task::{Context, Poll};
use tokio::net::UnixStream;
use tokio::process::ChildStdout;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(target_os = "macos")]
#[path = "launchd.rs"]
mod launchd;
#[cfg(feature = "top")]
mod terminal;

#[cfg(feature = "top")]
pub(crate) use terminal::{TerminalSignal, TerminalSignals, suspend};

/// Variables that a daemon inherits on this system only.
pub(crate) const INHERITED: [&str; 0] = [];

/// The socket that systemd passed, if it is the only one, and the number of sockets passed.
#[cfg(not(target_os = "macos"))]
pub(crate) fn inherited_socket() -> io::Result<(Option<UnixListener>, usize)> {
    // The library would accept sockets without `LISTEN_PID`, and allocate for any number of them.
    let count = sockets_passed();
    Ok((if count == 1 { listenfd::ListenFd::from_env().take_unix_listener(0)? } else { None }, count))
}

/// The number of sockets that systemd passed to this process: none without `LISTEN_PID`, or if that names another process.
#[cfg(not(target_os = "macos"))]
fn sockets_passed() -> usize {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match number("LISTEN_PID") == Some(std::process::id()) {
        true => number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
        false => 0,
    }
}

/// A socket that launchd passed, and the number of sockets passed.
#[cfg(target_os = "macos")]
pub(crate) fn inherited_socket() -> io::Result<(Option<UnixListener>, usize)> {
    let mut passed = launchd::sockets(c"bus")?;
    let count = passed.len();
    Ok((passed.pop().map(UnixListener::from), count))
}

/// Leaves the session, terminal, directory and umask of the first client, which the daemon outlives. (`broadcasterd start` has left
/// its open files and variables.)
pub(crate) fn leave_caller() -> io::Result<()> {
    // Fails only for the leader of a process group, which a new child is not.
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    std::env::set_current_dir("/")
}

/// Closes the caller's output. The end of stdout means that the daemon is ready; stderr would have explained a failure.
pub(crate) fn drop_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Writes all of the bytes to stderr, without the lock of the standard library: a write that waits for its reader must not stop
/// other threads from writing there.
pub(crate) fn write_stderr(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(rustix::stdio::stderr(), bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// A daemon that was started in the background. It inherits nothing but standard error.
pub(crate) struct DetachedChild(Child);

impl DetachedChild {
    /// Starts the program with these arguments and only these variables.
    pub(crate) fn start(program: &Path, arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        // Otherwise, files of the caller would stay open as long as the daemon runs.
        close_fds::set_fds_cloexec(3, &[]);
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// Its output, to the end.
    pub(crate) fn output(&mut self) -> io::Result<String> {
        self.0.stdout.take().map_or_else(|| Ok(String::new()), io::read_to_string)
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

/// The signals that request an orderly stop.
pub(crate) struct StopSignals([Signal; 3]);

impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hang_up] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, hang_up?]))
    }

    /// Ready when one of them has arrived.
    pub(crate) fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// A caught signal that requests the end of the program, which acts before it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndSignal(i32);

impl EndSignal {
    /// Ends the process as the signal would have done.
    pub(crate) fn end_process(self) -> ! {
        signals::end_by(self.0);
        std::process::exit(128 + self.0)
    }

    /// Passes the signal to a process group that [`own_group`] has made, unless it has ended.
    pub(crate) fn forward(self, group: u32) {
        if let Some(signal) = SignalNumber::from_named_raw(self.0) {
            signal_group(group, signal);
        }
    }
}

/// Makes the command the leader of a process group, which contains the processes that it starts. A signal of the terminal does not
/// reach them.
pub(crate) fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Kills a process group that [`own_group`] has made, unless it has ended.
pub(crate) fn kill_group(group: u32) {
    signal_group(group, SignalNumber::KILL);
}

/// The process with this id must not have been waited for: the id could be that of another process.
fn signal_group(group: u32, signal: SignalNumber) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // Fails if all of its processes have ended.
        let _ = kill_process_group(group, signal);
    }
}

/// Passes on what a command that has ended has printed, until no more is wanted. What processes print later that it has left behind is not
/// waited for.
#[allow(clippy::unused_async)] // it waits on other systems
pub(crate) async fn read_printed(stdout: ChildStdout, mut wants_more: impl FnMut(&[u8]) -> bool) {
    let mut chunk = [0; 16 * 1024];
    // The descriptor does not block: tokio has seen to that.
    while let Ok(read @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(&stdout, &mut chunk))
        && wants_more(&chunk[..read])
    {}
}

/// The exit status of a process as a shell states it.
pub(crate) fn exit_status(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

/// A command that the shell reads from this line.
pub(crate) fn shell(line: &OsStr) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line);
    command
}

/// Whether this is the path of a file, or the name of one in a directory of `PATH`. The system decides whether it can be run.
pub(crate) fn is_program(name: &OsStr) -> bool {
    if name.as_encoded_bytes().contains(&b'/') {
        return Path::new(name).is_file();
    }
    // Without PATH, the system searches directories of its own.
    std::env::var_os("PATH").is_none_or(|path| std::env::split_paths(&path).any(|it| it.join(name).is_file()))
}

/// The signals that request the end of a program, except those that its parent ignores, as `nohup` does.
pub(crate) struct EndSignals(Vec<(EndSignal, Signal)>);

impl EndSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let caught = kinds.into_iter().filter(|kind| !signals::is_ignored(kind.as_raw_value()));
        caught.map(|kind| Ok((EndSignal(kind.as_raw_value()), signal(kind)?))).collect::<io::Result<_>>().map(Self)
    }

    /// The next signal.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<EndSignal> {
        let mut caught = self.0.iter_mut();
        let arrived = caught.find_map(|(number, signal)| signal.poll_recv(cx).is_ready().then_some(*number));
        arrived.map_or(Poll::Pending, Poll::Ready)
    }
}

/// Width of the terminal on stdout, in columns; 0 if it is unknown.
pub(crate) fn terminal_width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col)
}

/// Effective user id of this process.
pub(crate) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The listening stats socket.
pub(crate) type StatsListener = tokio::net::UnixListener;

/// A connection accepted on the stats socket.
pub(crate) type StatsConn = UnixStream;

/// A connection to a stats socket.
pub(crate) type StatsClient = UnixStream;

/// Registers the stats socket with this runtime.
pub(crate) fn stats_listener(listener: AuxiliaryListener) -> io::Result<StatsListener> {
    listener.set_nonblocking(true)?;
    StatsListener::from_std(listener)
}

/// Accepts the next connection.
pub(crate) fn poll_accept_stats(listener: &mut StatsListener, cx: &mut Context<'_>) -> Poll<io::Result<StatsConn>> {
    listener.poll_accept(cx).map_ok(|(stream, _)| stream)
}

/// Whether the client runs as the same user.
pub(crate) fn is_same_user(stream: &StatsConn) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid())
}

/// Connects to a stats socket; `WouldBlock` if its backlog is full.
pub(crate) async fn connect_stats(socket: &Path) -> io::Result<StatsClient> {
    UnixStream::connect(socket).await
}

/// The user whose process serves the stats socket.
pub(crate) fn stats_owner(stream: &UnixStream) -> io::Result<u32> {
    Ok(stream.peer_cred()?.uid())
}

/// Opens a file without blocking, as a pipe without a writer would.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

/// What it is, if it cannot contain text. A device such as `/dev/null` can.
pub(crate) fn not_text(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_char_device() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else {
        Some("a special file")
    }
}
