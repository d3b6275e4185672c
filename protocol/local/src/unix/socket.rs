//! The types of sockets on Unix. Nothing here opens one.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// A connection, or this process's end of a child's output.
pub type Socket = OwnedFd;

/// A socket that accepts connections.
pub type Listener = UnixListener;

/// A socket that listens beside the bus.
#[cfg(feature = "tokio")]
pub type AuxiliaryListener = UnixListener;

/// Whether the kernel is Linux, whose sockets can do more than those of others.
pub(super) const LINUX: bool = cfg!(any(target_os = "linux", target_os = "android"));
