//! Systems without rings. No value of the types exists, so that callers compile, and nothing has to be decided twice.

use crate::Socket;
use broadcaster_ring::{Words, WordsMut};
use bytes::BytesMut;
use bytes::buf::Limit;
use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PROBLEM: &str = "only Linux with 64-bit pointers has memory that a sender cannot take away from its listeners";

/// A descriptor of memory or of a doorbell. None exists on this system.
#[derive(Debug)]
pub enum Descriptor {}

/// Memory that this process writes. None exists on this system.
#[derive(Debug)]
pub enum WritableMemory {}

/// Memory of another process. None exists on this system.
#[derive(Debug)]
pub enum ReadOnlyMemory {}

/// The doorbells that one listener waits for. None exist on this system.
#[derive(Debug)]
pub enum Doorbells {}

/// Whether processes of this system can share memory for rings, unless [`shared_memory_problem`] finds an obstacle. Known without a system call.
pub const CAN_SHARE_MEMORY: bool = false;

/// Why this process cannot make and read rings, for people.
#[allow(clippy::unnecessary_wraps)]
pub fn shared_memory_problem() -> Option<String> {
    Some(PROBLEM.to_owned())
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, PROBLEM))
}

/// Makes no memory.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported).
pub fn make_memory(_name: &str, _bytes: usize) -> io::Result<(Descriptor, WritableMemory)> {
    unsupported()
}

/// Maps memory that another process made. None exists on this system.
///
/// # Errors
///
/// None: it cannot be called.
pub fn open_memory(descriptor: &Descriptor, _sizes: RangeInclusive<usize>) -> io::Result<ReadOnlyMemory> {
    match *descriptor {}
}

/// Makes no doorbell.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported).
pub fn make_doorbell() -> io::Result<Descriptor> {
    unsupported()
}

/// Wakes the owner of a doorbell. None exists on this system.
///
/// # Errors
///
/// None: it cannot be called.
pub fn ring_doorbell(doorbell: &Descriptor) -> io::Result<()> {
    match *doorbell {}
}

/// The same as [`write`](crate::write()), because there are no descriptors.
///
/// # Errors
///
/// Those of [`write`](crate::write()).
pub fn write_with_descriptors(socket: &Socket, frame: &[u8], _descriptors: &[&Descriptor]) -> io::Result<usize> {
    crate::write(socket, frame)
}

/// The same as [`read`](crate::read), because there are no descriptors.
///
/// # Errors
///
/// Those of [`read`](crate::read).
pub fn read_with_descriptors(
    socket: &Socket,
    target: &mut Limit<&mut BytesMut>,
    _received: &mut VecDeque<Descriptor>,
) -> io::Result<usize> {
    crate::read(socket, target)
}

/// The same as [`read_blocking`](crate::read_blocking), because there are no descriptors.
///
/// # Errors
///
/// Those of [`read_blocking`](crate::read_blocking).
pub fn read_blocking_with_descriptors(
    socket: &Socket,
    target: &mut Limit<&mut BytesMut>,
    _received: &mut VecDeque<Descriptor>,
) -> io::Result<usize> {
    crate::read_blocking(socket, target)
}

impl Descriptor {
    /// The descriptor of a doorbell, to register it in a task.
    pub fn readable(&self) -> Arc<Socket> {
        match *self {}
    }
}

impl Doorbells {
    /// There are none.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn new() -> io::Result<Self> {
        unsupported()
    }

    /// Adds a doorbell.
    ///
    /// # Errors
    ///
    /// None: it cannot be called.
    pub fn add(&self, _doorbell: &Descriptor) -> io::Result<()> {
        match *self {}
    }

    /// Removes a doorbell.
    pub fn remove(&self, _doorbell: &Descriptor) {
        match *self {}
    }

    /// Makes the descriptor unreadable until the next ring.
    ///
    /// # Errors
    ///
    /// None: it cannot be called.
    pub fn consume(&self) -> io::Result<()> {
        match *self {}
    }

    /// The descriptor, to wait for something to read.
    pub fn readable(&self) -> Arc<Socket> {
        match *self {}
    }
}

impl Words for WritableMemory {
    fn count(&self) -> usize {
        match *self {}
    }

    fn load(&self, _index: usize, _ordering: Ordering) -> u64 {
        match *self {}
    }

    fn fence(&self, _ordering: Ordering) {
        match *self {}
    }
}

impl WordsMut for WritableMemory {
    fn store(&self, _index: usize, _word: u64, _ordering: Ordering) {
        match *self {}
    }
}

impl Words for ReadOnlyMemory {
    fn count(&self) -> usize {
        match *self {}
    }

    fn load(&self, _index: usize, _ordering: Ordering) -> u64 {
        match *self {}
    }

    fn fence(&self, _ordering: Ordering) {
        match *self {}
    }
}
