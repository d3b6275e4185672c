//! A descriptor that this process has made, or that a peer has sent. It never says what the descriptor refers to: each use verifies that.

use crate::Socket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A descriptor of memory or of a doorbell, to be sent to another process or received from one. It is closed on drop, and on `exec`.
///
/// What a peer has sent may be anything. [`open_memory`](crate::open_memory) and [`ring_doorbell`](crate::ring_doorbell) verify what they
/// are given.
#[derive(Debug)]
pub struct Descriptor {
    file: Arc<Socket>,
    /// It can be written to like an eventfd, as far as this can be verified.
    pub(super) is_doorbell: AtomicBool,
}

impl Descriptor {
    /// The descriptor of a doorbell, to register it in a task. It stays readable once it was rung, because nothing reads an eventfd, but each
    /// ring wakes the task: a task registers for changes. To wait on a thread, or for several, use [`Doorbells`](crate::Doorbells).
    pub fn readable(&self) -> Arc<Socket> {
        Arc::clone(&self.file)
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(file: OwnedFd) -> Self {
        Self { file: Arc::new(file), is_doorbell: AtomicBool::new(false) }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
