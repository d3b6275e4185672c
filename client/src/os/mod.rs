//! The system calls of the client, one function each, and the facts that decide where the bus is. No policy lives here.

#[cfg(not(unix))]
compile_error!("system-broadcaster has no transport for this platform yet: it needs unix domain sockets");

mod unix;

#[cfg(feature = "embedded")]
pub(crate) use unix::descriptors_max;
#[cfg(feature = "tokio")]
pub(crate) use unix::register;
pub(crate) use unix::{
    Connected, connect, endpoint_env, euid, is_unlocked, pid, read, read_pipe, set_nonblocking, wait, write,
};
