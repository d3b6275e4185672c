//! The facts about this system that decide where the bus is. The decision itself is in `broadcaster_protocol::endpoint`; it is never made here.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::endpoint_env;
#[cfg(windows)]
pub(crate) use windows::endpoint_env;
