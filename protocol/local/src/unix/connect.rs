//! Connecting to a socket by its path, and checking which user serves it. It never waits, and never sends a byte.

use super::socket::LINUX;
use super::{lock, peer, process, stream};
use crate::Connected;
use interprocess::ConnectWaitMode;
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, ToFsName};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Whether connecting to a socket can make a service manager start a daemon. A caller that must not cause that calls
/// [`is_unlocked`](crate::is_unlocked) first.
pub const CONNECT_ACTIVATES: bool = true;

/// Connects to the daemon at `socket` without waiting, and checks that it belongs to this user.
///
/// # Errors
///
/// If connecting fails for a reason that [`Connected`] does not list.
pub fn connect(socket: &Path) -> io::Result<Connected> {
    let stream = match open(socket) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                // Only Linux distinguishes a full backlog from a dead socket. A process that holds the lock listens, or is about to.
                io::ErrorKind::ConnectionRefused if !LINUX && !lock::is_unlocked(socket) => Ok(Connected::Busy),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(Connected::NotListening),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Connected::Busy),
                _ => Err(error),
            };
        }
    };
    // With a full backlog Linux leaves the socket unconnected, which shows only now.
    match rustix::net::getpeername(&stream) {
        Ok(_) => {}
        Err(Errno::NOTCONN) => return Ok(Connected::Busy),
        Err(errno) => return Err(errno.into()),
    }
    let owner = peer::peer(&stream)?.uid;
    if owner != process::euid() {
        return Ok(Connected::OtherUser(owner));
    }
    stream::set_up(&stream)?;
    Ok(Connected::Yes(stream))
}

/// Whether a process of any user accepts connections at `socket`; `false` if the system refuses the connection, as it does when the process
/// that created the socket has ended.
///
/// # Errors
///
/// If connecting fails for another reason, so that the answer is unknown.
pub fn is_accepting(socket: &Path) -> io::Result<bool> {
    match open(socket) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// Connects without waiting, whichever process listens there.
pub(super) fn open(socket: &Path) -> io::Result<OwnedFd> {
    let name = socket.to_fs_name::<GenericFilePath>()?;
    let options = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
    let Stream::UdSocket(stream) = Stream::from_options(&options)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn dead_and_missing_sockets_are_not_listening() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("bus.sock");
        assert!(matches!(connect(&path), Ok(Connected::NotListening)));
        let listener = UnixListener::bind(&path).expect("bound");
        assert!(matches!(connect(&path), Ok(Connected::Yes(_))));
        assert!(is_accepting(&path).expect("known"));
        drop(listener);
        assert!(matches!(connect(&path), Ok(Connected::NotListening)));
        assert!(!is_accepting(&path).expect("known"));
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn full_backlog_is_busy() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("bus.sock");
        let _listener = UnixListener::bind(&path).expect("bound");
        let mut connected = Vec::new();
        loop {
            match connect(&path).expect("no error") {
                Connected::Yes(socket) => connected.push(socket),
                Connected::Busy => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(!connected.is_empty());
    }
}
