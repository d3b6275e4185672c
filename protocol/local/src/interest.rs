//! What a wait is for: one socket in one direction. It never keeps a socket open.

use crate::Socket;
use std::sync::Arc;

/// One socket to wait for, in one direction. A socket that has ended is ready in both.
#[derive(Debug, Clone, Copy)]
pub struct Interest<'a> {
    /// The socket.
    pub socket: &'a Arc<Socket>,
    /// Whether to wait for room to write, rather than for something to read.
    pub writable: bool,
}

impl<'a> Interest<'a> {
    /// Interest in something to read.
    pub fn readable(socket: &'a Arc<Socket>) -> Self {
        Self { socket, writable: false }
    }

    /// Interest in room to write.
    pub fn writable(socket: &'a Arc<Socket>) -> Self {
        Self { socket, writable: true }
    }
}
