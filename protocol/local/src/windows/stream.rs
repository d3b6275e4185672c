//! Moving bytes through a connected pipe without waiting. It keeps no byte but the last of a piece that the pipe has not taken yet: see
//! [`Pipe`].

use super::pipe::Pipe;
use crate::buffer;
use bytes::BytesMut;
use bytes::buf::Limit;
use std::io::{self, IoSlice};

/// Whether what was sent can still be read after [`stop_reading`].
pub const STOPPED_SOCKET_KEEPS_BYTES: bool = true;

/// Reads what has arrived into `target`, without waiting; 0 is the end of the stream.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived.
pub fn read(socket: &Pipe, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    buffer::fill(target, |spare| socket.read(spare))
}

/// Reads into `target`, and waits for something to read.
///
/// # Errors
///
/// If the system refuses to read or to wait.
pub fn read_blocking(socket: &Pipe, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    loop {
        match read(socket, target) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.wait_readable(None)?,
            other => return other,
        };
    }
}

/// Writes as much of `bytes` as the pipe takes.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the pipe is full.
pub fn write(socket: &Pipe, bytes: &[u8]) -> io::Result<usize> {
    socket.write(&[IoSlice::new(bytes)])
}

/// Writes as much of `slices`, in order, as the pipe takes.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the pipe is full.
pub fn write_vectored(socket: &Pipe, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    socket.write(slices)
}

/// Ends both directions, as far as a pipe has directions: every wait for it ends. The other end can still read what was written.
pub fn shutdown(socket: &Pipe) {
    socket.interrupt();
}

/// Does nothing: a pipe cannot be closed towards this process alone. What the other end writes from now on is lost.
pub fn stop_reading(_: &Pipe) {}

/// Does nothing: a pipe has the buffer that it was made with.
pub fn widen(_socket: &Pipe) {}
