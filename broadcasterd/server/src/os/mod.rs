//! The system calls of the server, one function each. No policy lives here but the one that differs by system: what it takes to
//! be the daemon (`Seat`).

#[cfg(not(any(unix, windows)))]
compile_error!("broadcaster-server has no transport for this platform: it needs unix domain sockets or named pipes");

#[cfg(unix)]
mod unix;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod watch;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
#[path = "watch_bsd.rs"]
mod watch;
#[cfg(windows)]
#[path = "no_watch.rs"]
mod watch;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{
    Acceptor, Listener, Readable, STOPPED_SOCKET_KEEPS_BYTES, Seat, Socket, answers, euid, pid, read, readable,
    shut_down, stop_reading, writable, write, write_vectored,
};
pub use system::{Beside, raise_descriptor_limit};
#[cfg(unix)]
use unix::register;
pub(crate) use watch::Watch;
