//! The output pipe and the process of a child. It never starts one.

use super::socket::Socket;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

/// The end of a pipe that a child writes to.
pub type PipeWriter = OwnedFd;

/// A pipe for the output of a child that is about to be started: this process's end, which never blocks, and the child's.
///
/// # Errors
///
/// If this process or the system is out of descriptors.
pub fn output_pipe() -> io::Result<(Socket, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer.into()))
}

/// Reads what a child has written, without waiting; 0 when every writer is gone.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing was written.
pub fn read_output(output: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(output, buffer)?)
}

/// Prepares a program to be started in the background. On Unix there is nothing to prepare.
pub fn prepare(_: &mut Command) {}

/// Kills and reaps a child whose result is no longer wanted, so that it does not stay as a zombie.
pub fn abandon(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = child.kill();
        let _ = child.wait();
    }
}
