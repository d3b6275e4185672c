//! The client's system calls on unix, through `rustix` and `interprocess`. Two `unsafe` blocks: telling a buffer how
//! much was read into it, and registering a descriptor that we own.

use broadcaster_protocol::endpoint::{Env, SOCKET_VARIABLE, lock_file};
use broadcaster_protocol::limits::{SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use interprocess::ConnectWaitMode;
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, ToFsName};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
#[cfg(feature = "tokio")]
use {std::sync::Arc, tokio::io::unix::AsyncFd};

/// A connection, or the output of a program that was started.
pub(crate) type Socket = OwnedFd;

/// A registration with a runtime.
#[cfg(feature = "tokio")]
pub(crate) type Registration = AsyncFd<Arc<OwnedFd>>;

/// What we ask the system for as a socket's send buffer. `cargo bench --bench bus` has the figures.
const SOCKET_BUFFER_BYTES: usize = 512 * 1024;

/// Linux, with or without the rest of Android.
const LINUX: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Effective user id of this process.
pub(crate) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This process.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// How many files this process may have open.
#[cfg(feature = "embedded")]
pub(crate) fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// The facts that decide where the bus is; `socket` is the path that the program was told, if it was.
pub(crate) fn endpoint_env(socket: Option<PathBuf>) -> Env {
    let euid = euid();
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let is_ours = |directory: &PathBuf| rustix::fs::lstat(directory).is_ok_and(|stat| stat.st_uid == euid);
    let run_user_dir = user_directory(euid).filter(is_ours);
    let project = directories::ProjectDirs::from("", "", broadcaster_protocol::endpoint::DIRECTORY_NAME);
    Env {
        euid,
        user_sid: None,
        socket: socket.or_else(|| variable(SOCKET_VARIABLE)),
        // The user's directory on macOS is short itself, and what is in /tmp is removed there after some days.
        short_dir: (cfg!(not(target_vendor = "apple")) || run_user_dir.is_none()).then(|| "/tmp".into()),
        run_user_dir,
        xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
        state_dir: project.map(|dirs| dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_owned()),
        path_bytes_max: if LINUX { SOCKET_PATH_BYTES_MAX_LINUX } else { SOCKET_PATH_BYTES_MAX_BSD },
    }
}

/// The system's own directory for this user, whatever the environment says.
#[cfg(not(target_vendor = "apple"))]
fn user_directory(euid: u32) -> Option<PathBuf> {
    Some(PathBuf::from(format!("/run/user/{euid}")))
}

#[cfg(target_vendor = "apple")]
fn user_directory(_: u32) -> Option<PathBuf> {
    super::apple::user_directory()
}

/// Whether nobody holds this lock, there is none to hold, or whoever holds it is on its way out and has written so. It is held by us, shared, for the time of this call; a daemon that
/// comes up at this very moment tries again.
pub(crate) fn is_unlocked(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => {
            rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size > 0)
                || rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
        }
        Err(errno) => errno == Errno::NOENT,
    }
}

/// What became of an attempt to connect.
#[derive(Debug)]
pub(crate) enum Connected {
    /// To a process of this user.
    Yes(OwnedFd),
    /// Nobody listens there.
    Nobody,
    /// Somebody listens there, and can not take one more at the moment.
    Busy,
    /// Somebody of this user id listens there.
    OtherUser(u32),
}

/// Connects without waiting, and checks whose process it is.
pub(crate) fn connect(path: &Path) -> io::Result<Connected> {
    let name = path.to_fs_name::<GenericFilePath>()?;
    let options = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
    let stream = match Stream::from_options(&options) {
        Ok(Stream::UdSocket(stream)) => stream,
        Err(error) => {
            return match error.kind() {
                // Only Linux tells a full backlog from nobody there. Whoever holds the lock listens, or is about to.
                io::ErrorKind::ConnectionRefused if !LINUX && !is_unlocked(&lock_file(path)) => Ok(Connected::Busy),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(Connected::Nobody),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Connected::Busy),
                _ => Err(error),
            };
        }
    };
    // With a full backlog Linux leaves the socket unconnected, and that shows only now.
    match rustix::net::getpeername(&stream) {
        Ok(_) => {}
        Err(Errno::NOTCONN) => return Ok(Connected::Busy),
        Err(errno) => return Err(errno.into()),
    }
    let stream = OwnedFd::from(stream);
    let uid = owner(&stream)?;
    if uid != euid() {
        return Ok(Connected::OtherUser(uid));
    }
    restrain(&stream)?;
    // Fewer wake-ups for whoever sends much; the system may give less.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER_BYTES);
    Ok(Connected::Yes(stream))
}

/// The user at the other end.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn owner(socket: &OwnedFd) -> io::Result<u32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    // Not through `rustix` or `interprocess`: a process of a pid namespace that we do not see has the pid 0, which they do not expect.
    Ok(getsockopt(socket, PeerCredentials)?.uid())
}

/// The user at the other end.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn owner(socket: &OwnedFd) -> io::Result<u32> {
    use interprocess::local_socket::traits::StreamCommon;
    let stream = std::os::unix::net::UnixStream::from(socket.try_clone()?);
    let uid = interprocess::os::unix::uds_local_socket::Stream::from(stream).peer_creds()?.euid();
    uid.ok_or_else(|| io::Error::other("the kernel does not tell who serves the socket"))
}

/// The flags of each call are enough here.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::unnecessary_wraps)]
fn restrain(_: &impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Makes the socket one that never waits: macOS does not look at `MSG_DONTWAIT` when it sends. It has no `MSG_NOSIGNAL` either.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn restrain(socket: &impl AsFd) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(socket, true)?;
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}

/// Reads what is there into `target`; 0 is the end of the stream. Waits only if `patient`, and only on Linux: a caller that is told
/// to wait elsewhere waits for the descriptor.
#[allow(unsafe_code)]
pub(crate) fn read(socket: impl AsFd, target: &mut Limit<&mut BytesMut>, patient: bool) -> io::Result<usize> {
    let flags = if patient { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let room = target.remaining_mut();
    let buffer = target.get_mut();
    let spare = buffer.spare_capacity_mut();
    let room = room.min(spare.len());
    let ((filled, _), _) = loop {
        match rustix::net::recv(&socket, &mut spare[..room], flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let len = filled.len();
    // SAFETY: `recv` has initialised the first `len` bytes of the spare capacity, and `len` is at most its size.
    unsafe { buffer.advance_mut(len) };
    Ok(len)
}

/// Without waiting and without SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// The socket itself is one that does not wait and raises no signal.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

/// Writes what the socket takes of the two parts, without waiting and without SIGPIPE.
pub(crate) fn write(socket: impl AsFd, head: &[u8], body: &[u8]) -> io::Result<usize> {
    let flags = SEND_FLAGS;
    loop {
        let sent = if body.is_empty() {
            rustix::net::send(&socket, head, flags)
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            rustix::net::sendmsg(&socket, &parts, &mut SendAncillaryBuffer::default(), flags)
        };
        match sent {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The longest wait at a time: macOS counts milliseconds, and has no number for more than 24 days of them.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Waits until `fd` is readable, or writable, or has ended; at most for `timeout`, and for a day. Without `fd`, waits for all of it.
pub(crate) fn wait(fd: Option<&OwnedFd>, writable: bool, timeout: Option<Duration>) -> io::Result<()> {
    let interest = if writable { PollFlags::OUT } else { PollFlags::IN };
    let mut fds: Vec<PollFd<'_>> = fd.into_iter().map(|fd| PollFd::new(fd, interest)).collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout.min(WAIT_MAX)).ok());
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Registers the descriptor with the runtime that this is called in, for one direction only.
#[cfg(feature = "tokio")]
#[allow(unsafe_code)]
pub(crate) fn register(fd: Arc<OwnedFd>, interest: tokio::io::Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the registration shares the ownership of the descriptor, which is therefore open, and the same, for as
    // long as the registration lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// A pipe for the output of a program that is about to be started: our end, which does not wait, and the program's.
pub(crate) fn output_pipe() -> io::Result<(Socket, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer.into()))
}

/// There is nothing to see to before a program is started.
pub(crate) fn prepare(_: &mut Command) {}

/// Ends a program that nobody waits for any more: no zombie may stay in the caller's process.
pub(crate) fn abandon(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Reads what is in a program's output without waiting; 0 when its writers are gone.
pub(crate) fn read_output(output: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(output, buffer)?)
}
