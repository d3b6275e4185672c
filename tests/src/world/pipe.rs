//! One connection as two bounded pipes that split bytes anywhere. Its two ends are a socket of the daemon and a link of a client.

use super::Faults;
use super::tap::Tap;
use broadcaster_protocol::Header;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_server::driver::Socket;
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) to_daemon: VecDeque<u8>,
    pub(super) to_client: VecDeque<u8>,
    /// Bytes that each direction holds.
    pub(super) capacity: usize,
    /// The client has closed its end: the daemon reads what is left, then the end.
    pub(super) client_left: bool,
    /// The daemon has closed its end: the client reads what is left, then the end.
    pub(super) daemon_left: bool,
    /// The daemon reads what is left, and the client can write no more.
    pub(super) stopped: bool,
    /// The connection is broken: no end learns of it before it has read what is left.
    pub(super) cut: bool,
    /// Where the daemon stands in the frame that it writes.
    pub(super) front: Front,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            to_daemon: VecDeque::new(),
            to_client: VecDeque::new(),
            capacity,
            client_left: false,
            daemon_left: false,
            stopped: false,
            cut: false,
            front: Front::default(),
        }
    }

    /// What a client finds that connects when the daemon has no descriptor for it: its last frame, and the end.
    pub(super) fn refused(refusal: Vec<u8>) -> Self {
        Self { to_client: refusal.into(), daemon_left: true, ..Self::new(0) }
    }

    /// Writes a random part of `bytes` towards the daemon; `None` if the connection is broken, 0 if there is no room.
    pub(super) fn write(&mut self, rng: &mut Rng, bytes: &[u8]) -> Option<usize> {
        if self.daemon_left || self.stopped || self.cut {
            return None;
        }
        let taken = part(rng, bytes.len().min(self.capacity.saturating_sub(self.to_daemon.len())));
        self.to_daemon.extend(&bytes[..taken]);
        Some(taken)
    }

    /// Reads a random part of what the daemon has sent; `None` at the end, 0 if nothing has arrived.
    pub(super) fn read(&mut self, rng: &mut Rng, target: &mut Limit<&mut BytesMut>) -> Option<usize> {
        let taken = part(rng, self.to_client.len().min(target.remaining_mut()));
        self.to_client.drain(..taken).for_each(|byte| target.put_u8(byte));
        if taken == 0 && (self.daemon_left || self.cut) { None } else { Some(taken) }
    }

    /// Whether the daemon would find something.
    pub(super) fn is_readable(&self) -> bool {
        !self.to_daemon.is_empty() || self.client_left || self.cut
    }

    /// Whether the daemon could write something, or find out that it cannot.
    pub(super) fn is_writable(&self) -> bool {
        self.to_client.len() < self.capacity || self.client_left || self.cut
    }
}

/// The incomplete frame at the end of a stream.
#[derive(Debug, Default)]
pub(super) struct Front {
    header: Vec<u8>,
    /// Bytes of the body that are still to come.
    body: usize,
}

impl Front {
    /// The stream goes on with `bytes`.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body > 0 {
                let size = self.body.min(bytes.len());
                (self.body, bytes) = (self.body - size, &bytes[size..]);
                continue;
            }
            let (more, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.header.len()));
            self.header.extend_from_slice(more);
            bytes = rest;
            if let Some(header) = Header::peek(&self.header) {
                self.body = header.body_bytes() as usize;
                self.header.clear();
            }
        }
    }

    /// Whether the stream stops within a frame.
    pub(super) fn is_incomplete(&self) -> bool {
        self.body > 0 || !self.header.is_empty()
    }
}

/// A random number from 1 to `max`; 0 if that is 0.
fn part(rng: &mut Rng, max: usize) -> usize {
    if max == 0 { 0 } else { rng.usize(1..=max) }
}

/// The daemon's end.
#[derive(Debug)]
pub(super) struct DaemonEnd {
    pub(super) pipe: Rc<RefCell<Pipe>>,
    pub(super) tap: Rc<RefCell<Tap>>,
    pub(super) rng: Rc<RefCell<Rng>>,
    /// One in so many writes fails for lack of memory; 0: none.
    pub(super) shortage: usize,
    pub(super) faults: Rc<RefCell<Faults>>,
}

impl Socket for DaemonEnd {
    const KEEPS_BYTES_WHEN_STOPPED: bool = true;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let pipe = &mut *self.pipe.borrow_mut();
        let taken = part(&mut self.rng.borrow_mut(), pipe.to_daemon.len().min(target.remaining_mut()));
        let bytes: Vec<u8> = pipe.to_daemon.drain(..taken).collect();
        self.tap.borrow_mut().read(&bytes);
        target.put_slice(&bytes);
        if taken == 0 && !pipe.client_left && !pipe.stopped && !pipe.cut {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (pipe, rng) = (&mut *self.pipe.borrow_mut(), &mut *self.rng.borrow_mut());
        if pipe.client_left || pipe.cut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.shortage > 0 && rng.usize(..self.shortage) == 0 {
            self.faults.borrow_mut().writes_without_memory += 1;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = offered.min(pipe.capacity.saturating_sub(pipe.to_client.len()));
        // All of it as often as not: a socket that is not full takes everything.
        let taken = if rng.bool() { room } else { part(rng, room) };
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut left = taken;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            pipe.to_client.extend(part);
            pipe.front.write(part);
            left -= part.len();
        }
        Ok(taken)
    }

    fn stop_reading(&self) {
        self.pipe.borrow_mut().stopped = true;
    }

    fn shut_down(&self) {
        let pipe = &mut *self.pipe.borrow_mut();
        pipe.daemon_left = true;
        pipe.to_daemon.clear();
    }
}
