//! The system calls of the client, one function each, and the facts that decide where the bus is. No policy lives here.

#[cfg(not(any(unix, windows)))]
compile_error!("system-broadcaster has no transport for this platform: it needs unix domain sockets or named pipes");

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(unix)]
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod bell;
#[cfg(windows)]
#[path = "no_bell.rs"]
mod bell;
#[cfg(target_os = "macos")]
mod center;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use bell::Bell;
#[cfg(target_os = "macos")]
pub(crate) use center::notifications;
#[cfg(feature = "embedded")]
pub(crate) use system::descriptors_max;
pub(crate) use system::{
    Connected, Socket, abandon, connect, endpoint_env, euid, is_unlocked, output_pipe, pid, prepare, read, read_output,
    wait, write,
};
#[cfg(feature = "tokio")]
pub(crate) use system::{Registration, register};

/// The system's notifications, where it has them.
#[cfg(not(target_os = "macos"))]
pub(crate) fn notifications(_: crate::native::Dialect) -> Option<crate::native::Native> {
    None
}
