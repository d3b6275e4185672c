//! A pipe that another thread makes readable. It carries no data.

use super::connect::connect_pipe;
use super::instance::own_instance;
use super::pipe::Pipe;
use crate::Connected;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// A pipe to this process itself. Both ends live as long as it does, so that ringing never meets a closed pipe.
#[derive(Debug)]
pub struct Bell {
    reader: Arc<Pipe>,
    writer: Pipe,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    ///
    /// If the system has no more pipes.
    pub fn new() -> io::Result<Self> {
        let (handle, name) = own_instance("bell")?;
        let reader = Arc::new(Pipe::new(handle)?);
        match connect_pipe(&name)? {
            Connected::Yes(writer) => Ok(Self { reader, writer }),
            // Another process has connected first.
            Connected::NotListening | Connected::Busy | Connected::OtherUser(_) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// Makes the pipe readable.
    pub fn ring(&self) {
        // A full pipe is readable.
        let _ = self.writer.write(&[IoSlice::new(&[0])]);
    }

    /// Makes the pipe unreadable.
    pub fn silence(&self) {
        let mut discarded = [0; 64];
        while self.reader.read_over(&mut discarded).is_ok_and(|read| read == discarded.len()) {}
    }

    /// The pipe, to wait for.
    pub fn readable(&self) -> Arc<Pipe> {
        Arc::clone(&self.reader)
    }
}
