//! What a socket is on this system. It never opens one.

use super::pipe::Pipe;
use super::server::Server;

/// A connection, or our end of a child's output.
pub type Socket = Pipe;

/// A pipe's name that this process serves.
pub type Listener = Server;
