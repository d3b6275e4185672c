//! The system calls of the client, one function each, and the facts that decide where the bus is. No policy lives here.

#[cfg(not(unix))]
compile_error!("system-broadcaster has no transport for this platform yet: it needs unix domain sockets");

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod bell;
#[cfg(target_os = "macos")]
mod center;
mod unix;

pub(crate) use bell::Bell;
#[cfg(target_os = "macos")]
pub(crate) use center::notifications;
#[cfg(feature = "embedded")]
pub(crate) use unix::descriptors_max;
#[cfg(feature = "tokio")]
pub(crate) use unix::register;
pub(crate) use unix::{
    Connected, connect, endpoint_env, euid, is_unlocked, pid, read, read_pipe, set_nonblocking, wait, write,
};

/// The system's notifications, where it has them.
#[cfg(not(target_os = "macos"))]
pub(crate) fn notifications(_: crate::native::Dialect) -> Option<crate::native::Native> {
    None
}
