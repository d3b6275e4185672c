//! One connection as two bounded pipes that split bytes anywhere. Its two ends are a socket of the daemon and a link of a client.

use super::Faults;
use super::memory::{Descriptor, Doorbell, Memory};
use super::tap::Tap;
use broadcaster_protocol::Header;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_ring::PAGE_BYTES;
use broadcaster_server::driver::Socket;
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::rc::Rc;

/// One direction of a connection: bytes, and sets of descriptors, each on the first byte of a write.
#[derive(Debug, Default)]
pub(super) struct Stream {
    bytes: VecDeque<u8>,
    /// In the order of their bytes.
    sets: VecDeque<Set>,
}

/// Descriptors on their way.
#[derive(Debug)]
struct Set {
    /// Bytes in front of the write that carries them.
    before: usize,
    /// Bytes of that write.
    len: usize,
    descriptors: Vec<Descriptor>,
}

impl Stream {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends one write. If it has any bytes, `descriptors` go with the first.
    pub(super) fn write(&mut self, bytes: &[u8], descriptors: &[Descriptor]) {
        if !bytes.is_empty() && !descriptors.is_empty() {
            let set = Set { before: self.len(), len: bytes.len(), descriptors: descriptors.to_vec() };
            self.sets.push_back(set);
        }
        self.bytes.extend(bytes);
    }

    /// How many bytes one read takes at most: it may begin with those of earlier writes, and ends behind the first write with descriptors.
    pub(super) fn readable(&self) -> usize {
        self.sets.front().map_or(self.len(), |set| set.before + set.len)
    }

    /// Takes so many of the [`readable`](Self::readable) bytes, and the descriptors that are on one of them.
    pub(super) fn take(&mut self, count: usize, received: &mut VecDeque<Descriptor>) -> Vec<u8> {
        assert!(count <= self.readable(), "one read takes at most {} bytes, and not {count}", self.readable());
        if self.sets.front().is_some_and(|set| count > set.before) {
            received.extend(self.sets.pop_front().into_iter().flat_map(|set| set.descriptors));
        }
        for set in &mut self.sets {
            set.before -= count;
        }
        self.bytes.drain(..count).collect()
    }
}

impl From<Vec<u8>> for Stream {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), sets: VecDeque::new() }
    }
}

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) to_daemon: Stream,
    pub(super) to_client: Stream,
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
            to_daemon: Stream::default(),
            to_client: Stream::default(),
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

    /// Writes a random part of `bytes` towards the daemon, with `descriptors` on its first byte; `None` if the connection is broken, 0 if there is
    /// no room.
    pub(super) fn write(&mut self, rng: &mut Rng, bytes: &[u8], descriptors: &[Descriptor]) -> Option<usize> {
        if self.daemon_left || self.stopped || self.cut {
            return None;
        }
        let taken = part(rng, bytes.len().min(self.capacity.saturating_sub(self.to_daemon.len())));
        self.to_daemon.write(&bytes[..taken], descriptors);
        Some(taken)
    }

    /// Reads a random part of what the daemon has sent, with the descriptors that came with it; `None` at the end, 0 if nothing has arrived.
    pub(super) fn read(
        &mut self,
        rng: &mut Rng,
        target: &mut Limit<&mut BytesMut>,
        received: &mut VecDeque<Descriptor>,
    ) -> Option<usize> {
        let taken = part(rng, self.to_client.readable().min(target.remaining_mut()));
        target.put_slice(&self.to_client.take(taken, received));
        if taken == 0 && (self.daemon_left || self.cut) { None } else { Some(taken) }
    }

    /// Whether the daemon would find something.
    pub(super) fn is_readable(&self) -> bool {
        !self.to_daemon.is_empty() || self.client_left || self.cut
    }

    /// Whether the client would find something.
    pub(super) fn has_news(&self) -> bool {
        !self.to_client.is_empty() || self.daemon_left || self.cut
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

impl DaemonEnd {
    /// Writes as much of `slices` as there is room for, or less, with `descriptors` on the first byte.
    fn write_once(&self, slices: &[IoSlice<'_>], descriptors: &[Descriptor]) -> io::Result<usize> {
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
        let (mut left, mut descriptors) = (taken, descriptors);
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            pipe.to_client.write(part, std::mem::take(&mut descriptors));
            pipe.front.write(part);
            left -= part.len();
        }
        Ok(taken)
    }
}

impl Socket for DaemonEnd {
    const KEEPS_BYTES_WHEN_STOPPED: bool = true;

    type Descriptor = Descriptor;
    type Memory = Memory;
    type Page = Memory;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        // The system closes descriptors that are not expected.
        self.read_with_descriptors(target, &mut VecDeque::new())
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_once(slices, &[])
    }

    fn rings_max(connections_max: usize) -> usize {
        connections_max
    }

    fn read_with_descriptors(
        &self,
        target: &mut Limit<&mut BytesMut>,
        received: &mut VecDeque<Descriptor>,
    ) -> io::Result<usize> {
        let pipe = &mut *self.pipe.borrow_mut();
        let taken = part(&mut self.rng.borrow_mut(), pipe.to_daemon.readable().min(target.remaining_mut()));
        let bytes = pipe.to_daemon.take(taken, received);
        assert!(received.len() <= 4, "{} descriptors without frames", received.len());
        self.tap.borrow_mut().read(&bytes);
        target.put_slice(&bytes);
        if taken == 0 && !pipe.client_left && !pipe.stopped && !pipe.cut {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn write_with_descriptors(&self, frame: &[u8], descriptors: &[&Descriptor]) -> io::Result<usize> {
        let descriptors: Vec<_> = descriptors.iter().map(|&descriptor| descriptor.clone()).collect();
        self.write_once(&[IoSlice::new(frame)], &descriptors)
    }

    fn open_memory(descriptor: &Descriptor, bytes: RangeInclusive<usize>) -> io::Result<Memory> {
        descriptor.open(&bytes)
    }

    fn make_page() -> io::Result<(Descriptor, Memory)> {
        let page = Memory::new(PAGE_BYTES / size_of::<u64>());
        Ok((Descriptor::Memory(page.clone()), page))
    }

    fn make_doorbell() -> io::Result<Descriptor> {
        Ok(Descriptor::Doorbell(Doorbell::default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn doorbell() -> Descriptor {
        Descriptor::Doorbell(Doorbell::default())
    }

    /// One read of at most so many bytes, and how many descriptors came with it.
    fn read(stream: &mut Stream, max: usize) -> (Vec<u8>, usize) {
        let mut received = VecDeque::new();
        let bytes = stream.take(max.min(stream.readable()), &mut received);
        (bytes, received.len())
    }

    #[test]
    fn read_may_begin_before_a_set_and_ends_behind_its_write() {
        let mut stream = Stream::from(b"plain ".to_vec());
        stream.write(b"first ", &[doorbell(), doorbell()]);
        stream.write(b"more ", &[]);
        stream.write(b"second ", &[doorbell()]);
        stream.write(b"rest", &[]);
        assert_eq!(read(&mut stream, 100), (b"plain first ".to_vec(), 2));
        assert_eq!(read(&mut stream, 100), (b"more second ".to_vec(), 1));
        assert_eq!(read(&mut stream, 100), (b"rest".to_vec(), 0));
        assert!(stream.is_empty());
    }

    #[test]
    fn set_arrives_with_the_first_byte_of_its_write() {
        let mut stream = Stream::from(b"ab".to_vec());
        stream.write(b"cde", &[doorbell()]);
        stream.write(b"f", &[doorbell()]);
        assert_eq!(read(&mut stream, 2), (b"ab".to_vec(), 0));
        assert_eq!(read(&mut stream, 1), (b"c".to_vec(), 1));
        assert_eq!(read(&mut stream, 100), (b"def".to_vec(), 1), "what is left of the write is plain");
        stream.write(b"g", &[doorbell()]);
        stream.clear();
        stream.write(b"h", &[]);
        assert_eq!(read(&mut stream, 100), (b"h".to_vec(), 0));
    }

    #[test]
    fn write_that_takes_nothing_sends_no_descriptors() {
        let (mut pipe, mut rng) = (Pipe::new(3), Rng::with_seed(1));
        let set = [Descriptor::Memory(Memory::new(1))];
        let mut taken = 0;
        while let Some(more @ 1..) = pipe.write(&mut rng, b"frame", &set) {
            taken += more;
        }
        assert_eq!((taken, pipe.write(&mut rng, b"frame", &set)), (3, Some(0)));
        let (mut bytes, mut sets) = (0, 0);
        while let (read, received) = read(&mut pipe.to_daemon, 100)
            && !read.is_empty()
        {
            (bytes, sets) = (bytes + read.len(), sets + received);
        }
        assert!(bytes == 3 && (1..=3).contains(&sets), "{bytes} bytes with {sets} descriptors");
    }
}
