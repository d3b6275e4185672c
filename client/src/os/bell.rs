//! A descriptor that is readable when another thread says so. It carries no data.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A pipe to ourselves. Both ends live as long as it does, so that ringing meets no closed pipe.
#[derive(Debug)]
pub(crate) struct Bell {
    reader: Arc<OwnedFd>,
    writer: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let bell = Self { reader: Arc::new(reader.into()), writer: writer.into() };
        rustix::io::ioctl_fionbio(&bell.reader, true)?;
        rustix::io::ioctl_fionbio(&bell.writer, true)?;
        Ok(bell)
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        // A pipe that is full is readable.
        let _ = rustix::io::write(&self.writer, &[0]);
    }

    /// Makes it unreadable.
    pub(crate) fn silence(&self) {
        let mut waste = [0; 64];
        while rustix::io::read(&self.reader, &mut waste).is_ok_and(|read| read == waste.len()) {}
    }

    pub(crate) fn readable(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.reader)
    }
}
