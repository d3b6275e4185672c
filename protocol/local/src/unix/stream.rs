//! Moving bytes through a connected socket, without waiting and without SIGPIPE. It never keeps bytes: the caller repeats what the kernel
//! does not accept.

use super::socket::{LINUX, Socket};
use crate::{buffer, failpoint};
use bytes::BytesMut;
use bytes::buf::Limit;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

/// The send buffer to request for a socket with much to send. `cargo bench --bench bus` has the figures.
const SOCKET_BUFFER_BYTES: usize = 512 * 1024;

/// Without waiting and without SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// [`set_up`] has made the socket itself non-blocking and silent.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

/// Whether what was sent can still be read after [`stop_reading`].
pub const STOPPED_SOCKET_KEEPS_BYTES: bool = LINUX;

/// Prepares a connected socket for the functions of this module. On Linux there is nothing to prepare.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::unnecessary_wraps)]
pub(super) fn set_up(_: impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Prepares a connected socket for the functions of this module.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn set_up(socket: impl AsFd) -> io::Result<()> {
    // macOS ignores `MSG_DONTWAIT` when it sends, and has no `MSG_NOSIGNAL`.
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(&socket, true)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(())
}

/// Requests a larger send buffer: fewer wake-ups per byte, for more kernel memory. Repeating it changes nothing.
///
/// The size of the buffer, which includes the kernel's overhead, bounds the kernel memory that a peer can hold by not reading. The bound is
/// 208 KiB on Linux unless configured otherwise, and after this call twice 512 KiB, or twice `net.core.wmem_max` if that is less. Call it
/// when a full socket has accepted bytes again: then its peer reads and is worth the memory. A peer that has stopped for good stays at the
/// smaller bound.
pub fn widen(socket: &Socket) {
    // The kernel may grant less. A socket that has ended needs none.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES);
}

/// Reads what has arrived into `target`, without waiting; 0 is the end of the stream.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived.
#[inline]
pub fn read(socket: &Socket, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    receive(socket, target, RecvFlags::DONTWAIT)
}

/// On Linux, reads into `target` and waits for something to read. On other systems, where a connected socket never waits, this is the same
/// as [`read`].
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived, except on Linux.
#[inline]
pub fn read_blocking(socket: &Socket, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    receive(socket, target, RecvFlags::empty())
}

#[inline]
fn receive(socket: &Socket, target: &mut Limit<&mut BytesMut>, flags: RecvFlags) -> io::Result<usize> {
    loop {
        match buffer::fill(target, |spare| Ok(rustix::net::recv(socket, spare, flags)?.0.0)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(bytes @ 1..) => {
                failpoint::step("socket: read");
                return Ok(bytes);
            }
            other => return other,
        }
    }
}

/// Writes as much of `bytes` as the socket accepts.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is full, [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no
/// buffer for it at the moment.
#[inline]
pub fn write(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    retry(|| rustix::net::send(socket, bytes, SEND_FLAGS))
}

/// Writes as much of `slices`, in order, as the socket accepts.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is full, [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no
/// buffer for it at the moment.
#[inline]
pub fn write_vectored(socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    retry(|| rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS))
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    failpoint::step("socket: to be written");
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::NOBUFS) => return Err(io::ErrorKind::OutOfMemory.into()),
            other => {
                failpoint::step("socket: written");
                return Ok(other?);
            }
        }
    }
}

/// Ends both directions. The other end can still read what was written.
pub fn shutdown(socket: &Socket) {
    // It fails only if the other end is gone, and then there is nothing to end.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Ends the direction towards this process: the other end can no longer write. What it has written can still be read if
/// [`STOPPED_SOCKET_KEEPS_BYTES`], and is discarded otherwise.
pub fn stop_reading(socket: &Socket) {
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn fill(socket: &Socket) -> usize {
        let mut taken = 0;
        while let Ok(bytes) = write(socket, &[0; 4096]) {
            taken += bytes;
        }
        taken
    }

    #[test]
    fn full_socket_holds_little_until_it_is_widened() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let one = Socket::from(one);
        set_up(&one).expect("set up");
        let default = rustix::net::sockopt::socket_send_buffer_size(&one).expect("reported");
        let taken = fill(&one);
        assert!(taken > 0 && taken <= default, "{taken} of {default}");
        widen(&one);
        let wide = rustix::net::sockopt::socket_send_buffer_size(&one).expect("reported");
        assert!(wide > default, "{wide} after {default}");
        assert!(fill(&one) > 0, "there is room again");
    }
}
