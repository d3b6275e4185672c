//! A descriptor that another thread makes readable. It never carries data.

use super::socket::Socket;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A pipe from this process to itself. Both ends are open as long as it lives, so that ringing never fails on a closed pipe.
#[derive(Debug)]
pub struct Bell {
    reader: Arc<Socket>,
    writer: OwnedFd,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    ///
    /// If this process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let bell = Self { reader: Arc::new(reader.into()), writer: writer.into() };
        rustix::io::ioctl_fionbio(&bell.reader, true)?;
        rustix::io::ioctl_fionbio(&bell.writer, true)?;
        Ok(bell)
    }

    /// Makes the descriptor readable.
    pub fn ring(&self) {
        // It fails only if the pipe is full, and a full pipe is readable.
        let _ = rustix::io::write(&self.writer, &[0]);
    }

    /// Makes the descriptor unreadable.
    pub fn silence(&self) {
        let mut discarded = [0; 64];
        while rustix::io::read(&self.reader, &mut discarded).is_ok_and(|read| read == discarded.len()) {}
    }

    /// The descriptor, to wait for.
    pub fn readable(&self) -> Arc<Socket> {
        Arc::clone(&self.reader)
    }
}
