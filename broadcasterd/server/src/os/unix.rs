//! The server's system calls on unix, through `rustix`. Two `unsafe` blocks: telling a
//! buffer how much was read into it, and registering a descriptor that we own.

mod seat;

pub(crate) use seat::Seat;

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, ListenerOptions, Stream, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket;
use interprocess::{ConnectWaitMode, TryClone};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::process::{Resource, Rlimit};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use interprocess::local_socket::Listener;

/// A connected socket.
pub(crate) type Socket = OwnedFd;

/// A registration for reading.
pub(crate) type Readable = AsyncFd<Rc<OwnedFd>>;

/// A registration for writing.
pub(crate) type Writable = AsyncFd<Rc<OwnedFd>>;

/// A socket beside the bus, as the standard library has it.
pub type Beside = UnixListener;

/// What we ask the system for as a socket's send buffer. `cargo bench --bench bus` has the figures.
const SOCKET_BUFFER_BYTES: usize = 512 * 1024;

/// Without waiting and without SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// An accepted socket is one that does not wait and raises no signal.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

/// What was sent can still be read after [`stop_reading`].
pub(crate) const STOPPED_SOCKET_KEEPS_BYTES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Effective user id of this process.
pub(crate) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This process.
pub(crate) fn pid() -> u32 {
    rustix::process::getpid().as_raw_pid().unsigned_abs()
}

/// Reads what is there into `target`, without waiting; 0 is the end of the stream.
#[allow(unsafe_code)]
pub(crate) fn read(socket: impl AsFd, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    let room = target.remaining_mut();
    let buffer = target.get_mut();
    let spare = buffer.spare_capacity_mut();
    let room = room.min(spare.len());
    let ((filled, _), _) = loop {
        match rustix::net::recv(&socket, &mut spare[..room], RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let len = filled.len();
    // SAFETY: `recv` has initialised the first `len` bytes of the spare capacity, and `len` is at most its size.
    unsafe { buffer.advance_mut(len) };
    Ok(len)
}

/// Writes what the socket takes of `bytes`, without waiting and without SIGPIPE.
pub(crate) fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    again_if_interrupted(|| rustix::net::send(&socket, bytes, SEND_FLAGS))
}

/// Writes what the socket takes of `slices`, in order, without waiting and without SIGPIPE.
pub(crate) fn write_vectored(socket: impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    again_if_interrupted(|| rustix::net::sendmsg(&socket, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS))
}

fn again_if_interrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Registers the socket for reading. Only for reading: a socket that is registered for writing wakes the server each time that its
/// peer has read something.
pub(crate) fn readable(socket: &Rc<OwnedFd>) -> io::Result<Readable> {
    register(Rc::clone(socket), Interest::READABLE)
}

/// Registers another descriptor of the same socket for writing, so that the registration comes and goes by itself.
pub(crate) fn writable(socket: &Rc<OwnedFd>) -> io::Result<Writable> {
    register(OwnedFd::try_clone(socket).map(Rc::new)?, Interest::WRITABLE)
}

/// Registers the descriptor with this runtime, for one direction only.
#[allow(unsafe_code)]
pub(crate) fn register(socket: Rc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    // SAFETY: the registration shares the ownership of the descriptor, which is therefore open, and the same, for as
    // long as the registration lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Ends both directions; what was written can still be read at the other end.
pub(crate) fn shut_down(socket: impl AsFd) {
    // It fails only if the other end is gone, and then there is nothing to end.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Ends the direction towards us: the other end can write no more. What it has written can still be read where
/// [`STOPPED_SOCKET_KEEPS_BYTES`], and is discarded elsewhere.
pub(crate) fn stop_reading(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
}

/// Whether a process of this user accepts connections at `path`.
pub(crate) fn answers(path: &Path) -> bool {
    let Ok(name) = path.to_fs_name::<GenericFilePath>() else { return false };
    let options = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
    let Ok(Stream::UdSocket(stream)) = Stream::from_options(&options) else { return false };
    // With a full backlog Linux leaves the socket unconnected.
    rustix::net::getpeername(&stream).is_ok() && is_ours(OwnedFd::from(stream))
}

/// A socket that listens for this user only, where the system can restrict a socket; the directory does it elsewhere.
fn listen(options: ListenerOptions<'_>) -> io::Result<Listener> {
    let plain = options.try_clone()?;
    match options.mode(0o600).create_sync() {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => plain.create_sync(),
        other => other,
    }
}

/// Whether somebody can connect to the socket. macOS does not tell: what launchd passes does listen.
#[cfg(target_vendor = "apple")]
fn listens(_: impl AsFd) -> bool {
    true
}

/// Whether somebody can connect to the socket.
#[cfg(not(target_vendor = "apple"))]
fn listens(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// A listening socket that somebody else made, as ours.
fn adopt(listener: UnixListener) -> Listener {
    Listener::UdSocket(listener.into())
}

/// The same socket as the standard library's type.
fn plain(listener: Listener) -> UnixListener {
    let Listener::UdSocket(listener) = listener;
    OwnedFd::from(listener).into()
}

/// A socket that listens, to accept from in this runtime.
#[derive(Debug)]
pub(crate) struct Acceptor(uds_local_socket::tokio::Listener);

impl Acceptor {
    pub(crate) fn new(listener: Listener) -> io::Result<Self> {
        let Listener::UdSocket(listener) = listener;
        uds_local_socket::tokio::Listener::try_from(listener).map(Self)
    }

    /// The next who connects, with pid and uid of the other end as the kernel tells them (pid 0: untold).
    pub(crate) async fn accept(&mut self) -> io::Result<(Socket, u32, u32)> {
        self.0.accept().await.and_then(take_descriptor)
    }
}

/// The descriptor of an accepted stream, with pid and uid of the other end as the kernel tells them (pid 0: untold).
fn take_descriptor(stream: uds_local_socket::tokio::Stream) -> io::Result<(OwnedFd, u32, u32)> {
    let (socket, pid, uid) = introduce(stream)?;
    // Fewer wake-ups per byte for a listener that gets much; the system may give less.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    Ok((socket, pid, uid))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn introduce(stream: uds_local_socket::tokio::Stream) -> io::Result<(OwnedFd, u32, u32)> {
    let socket = OwnedFd::try_from(stream).map_err(io::Error::other)?;
    let (pid, uid) = peer(&socket)?;
    Ok((socket, pid, uid))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn peer(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    // Not through `rustix` or `interprocess`: a process of a pid namespace that we do not see has the pid 0, which they do not expect.
    let peer = getsockopt(socket, PeerCredentials)?;
    Ok((peer.pid().unsigned_abs(), peer.uid()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::needless_pass_by_value)] // elsewhere it is used up
fn is_ours(socket: OwnedFd) -> bool {
    peer(&socket).is_ok_and(|(_, uid)| uid == euid())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_ours(socket: OwnedFd) -> bool {
    use interprocess::local_socket::traits::StreamCommon as _;
    uds_local_socket::Stream::from(socket).peer_creds().is_ok_and(|peer| peer.euid() == Some(euid()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn introduce(stream: uds_local_socket::tokio::Stream) -> io::Result<(OwnedFd, u32, u32)> {
    // These systems can no longer tell of a peer that has gone again, nor set anything for it, and each says so in its own way.
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    let stream = tokio::net::UnixStream::from(stream);
    let peer = stream.peer_cred().map_err(gone)?;
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(&stream, true).map_err(io::Error::from).map_err(gone)?;
    // It stays one that does not wait: macOS does not look at MSG_DONTWAIT when it sends.
    let socket = OwnedFd::from(stream.into_std()?);
    Ok((socket, peer.pid().map_or(0, i32::unsigned_abs), peer.uid()))
}

/// Raises the soft limit of open files to the hard one, as far as the kernel lets; returns the limit now in force.
pub fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = wanted_descriptors(current, maximum, DESCRIPTORS_MAX);
    if wanted == current {
        return current;
    }
    match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

/// The most that the system lets anybody ask for, whatever the hard limit says: `OPEN_MAX`.
const DESCRIPTORS_MAX: Option<u64> = if cfg!(target_vendor = "apple") { Some(10_240) } else { None };

/// The limit to ask for; `None` is no limit. It is never lower than what is in force.
fn wanted_descriptors(current: Option<u64>, hard: Option<u64>, most: Option<u64>) -> Option<u64> {
    let wanted = [hard, most].into_iter().flatten().min();
    match (wanted, current) {
        (Some(wanted), Some(current)) => Some(wanted.max(current)),
        (Some(_), None) | (None, _) => None,
    }
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::cast_sign_loss)]
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// What is wrong with a directory.
#[derive(Debug)]
enum DirectoryProblem {
    NotADirectory,
    OtherOwner(u32),
    Loose(u32),
    Io(io::Error),
}

/// Makes the directory, 0700, unless it is there; then it must be a real one, ours, and writable by us alone.
fn prepare_directory(path: &Path) -> Result<(), DirectoryProblem> {
    let io = |errno: Errno| DirectoryProblem::Io(errno.into());
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(DirectoryProblem::Io)?;
            rustix::fs::lstat(path).map_err(io)?
        }
        Err(Errno::NOTDIR) => return Err(DirectoryProblem::NotADirectory),
        Err(errno) => return Err(io(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(DirectoryProblem::NotADirectory);
    }
    if stat.st_uid != euid() {
        return Err(DirectoryProblem::OtherOwner(stat.st_uid));
    }
    #[allow(clippy::useless_conversion)]
    let mode = u32::from(stat.st_mode) & 0o7777;
    if mode & 0o022 != 0 {
        return Err(DirectoryProblem::Loose(mode));
    }
    Ok(())
}

/// Opens the lock file, which is made if it is not there and never followed through a link.
fn open_lock(path: &Path) -> io::Result<(OwnedFd, FileId)> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let id = FileId::of(&rustix::fs::fstat(&file)?);
    Ok((file, id))
}

/// Takes the kernel's lock on the file; `false` if somebody else has it.
fn lock_exclusive(file: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes on the lock file whether its holder is on its way out: one byte if it is, none if not.
fn set_leaving(file: &OwnedFd, leaving: bool) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(file, u64::from(leaving))?)
}

/// The file at `path`, not followed through a link, and whether it is a socket; `None` if there is none.
fn socket_file_id(path: &Path) -> io::Result<Option<(FileId, bool)>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some((FileId::of(&stat), FileType::from_raw_mode(stat.st_mode) == FileType::Socket))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the socket file if it is still the one that we made.
fn unlink_own_socket(path: &Path, own: FileId) {
    if let Ok(Some((id, true))) = socket_file_id(path)
        && id == own
    {
        // If it can not be removed, the next daemon finds it stale and removes it under the lock.
        let _ = rustix::fs::unlink(path);
    }
}

#[cfg(test)]
mod tests {
    use super::wanted_descriptors;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one_as_far_as_the_system_goes() {
        let most = Some(10_240);
        assert_eq!(wanted_descriptors(Some(256), Some(4096), None), Some(4096));
        assert_eq!(wanted_descriptors(Some(256), None, None), None);
        assert_eq!(wanted_descriptors(Some(256), None, most), Some(10_240), "no hard limit is not asked for");
        assert_eq!(wanted_descriptors(Some(256), Some(4096), most), Some(4096));
        assert_eq!(wanted_descriptors(Some(20_000), None, most), Some(20_000), "never lowered");
        assert_eq!(wanted_descriptors(None, None, most), None);
    }
}
