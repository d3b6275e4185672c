//! What a socket is on this system. It never opens one.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// A connection, or our end of a child's output.
pub type Socket = OwnedFd;

/// A socket that accepts connections.
pub type Listener = UnixListener;

/// A socket that listens next to the bus, as the standard library has it.
#[cfg(feature = "tokio")]
pub type AuxiliaryListener = UnixListener;

/// Linux, with or without the rest of Android: its sockets can do more than others.
pub(super) const LINUX: bool = cfg!(any(target_os = "linux", target_os = "android"));
