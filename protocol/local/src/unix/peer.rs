//! The process and user at the other end of a socket, as the kernel reports them. It never trusts what the peer sends.
//!
//! `rustix` and `interprocess` do not fit: both require a pid other than 0, and Linux reports 0 for a process in a pid namespace that this
//! process cannot see.

use crate::Peer;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The process at the other end of a connected socket.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, libc::ucred { pid: 0, uid: 0, gid: 0 })?;
    Ok(Peer { pid: credentials.pid.unsigned_abs(), uid: credentials.uid })
}

/// The process at the other end of a connected socket. macOS reports the last process that used the socket.
#[cfg(target_vendor = "apple")]
pub(super) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let pid: libc::pid_t = option(&socket, libc::SOL_LOCAL, libc::LOCAL_PEEREPID, 0)?;
    Ok(Peer { pid: pid.unsigned_abs(), uid: effective_uid(socket)? })
}

/// The process at the other end of a connected socket; these systems report its user only.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub(super) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    Ok(Peer { pid: 0, uid: effective_uid(socket)? })
}

/// Reads a socket option of type `T` over `value`.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
#[allow(unsafe_code)]
fn option<T: Copy>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, mut value: T) -> io::Result<T> {
    let socket = socket.as_fd();
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, `value` has `len` bytes, and every caller names the type that the option has, all of whose bit
    // patterns are valid.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The effective user at the other end.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(unsafe_code)]
fn effective_uid(socket: impl AsFd) -> io::Result<u32> {
    let socket = socket.as_fd();
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the descriptor is open, and both variables may be written to.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut uid, &raw mut gid) };
    if result == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn this_process_is_at_the_other_end_of_its_own_pair() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let peer = peer(&one).expect("reported");
        assert_eq!(peer.uid, crate::euid());
        assert!(peer.pid == crate::pid() || peer.pid == 0, "{peer:?}");
    }
}
