//! The descriptors that travel with the frames of one connection. It never looks at a frame.

use broadcaster_local::{self as local, Descriptor, Socket};
use bytes::BytesMut;
use bytes::buf::Limit;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What waits for its frame, in both directions. The order of sets is the order of their frames.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// They have arrived. Their frames were not handled yet.
    received: VecDeque<Descriptor>,
    /// Sets whose frames were not written yet.
    queued: VecDeque<Vec<Arc<Descriptor>>>,
    /// This process could not take all that had arrived.
    lost: bool,
}

impl Descriptors {
    /// Reads what has arrived, with the descriptors that came with it.
    pub(super) fn read(&mut self, socket: &Socket, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let read = local::read_with_descriptors(socket, target, &mut self.received);
        self.note_loss(read)
    }

    /// The same, except that it waits for something to read, where the system allows that.
    pub(super) fn read_blocking(&mut self, socket: &Socket, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let read = local::read_blocking_with_descriptors(socket, target, &mut self.received);
        self.note_loss(read)
    }

    #[inline]
    fn note_loss(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        if let Err(error) = &read {
            // The end of the connection has a number of the system, and a peer that sends too many is invalid data.
            self.lost |= error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none();
        }
        read
    }

    /// Whether this process could not take all that had arrived, because it cannot have more. That ends the connection.
    pub(super) fn has_lost(&self) -> bool {
        self.lost
    }

    /// Those of the next frame that has any.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[Descriptor; N]> {
        let count = N.min(self.received.len());
        self.received.drain(..count).collect::<Vec<_>>().try_into().ok()
    }

    /// These go with a frame that is written after those of the sets before.
    pub(super) fn queue(&mut self, set: Vec<Arc<Descriptor>>) {
        self.queued.push_back(set);
    }

    /// Writes as much of `frame` as the socket accepts, with the set that is next. If it takes nothing, the set waits for the next attempt,
    /// unless the connection is broken or the system has no room for descriptors.
    pub(super) fn write(&mut self, socket: &Socket, frame: &[u8]) -> io::Result<usize> {
        let set: Vec<&Descriptor> = self.queued.front().into_iter().flatten().map(|descriptor| &**descriptor).collect();
        let written = local::write_with_descriptors(socket, frame, &set);
        if !matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.queued.pop_front();
        }
        written
    }
}
