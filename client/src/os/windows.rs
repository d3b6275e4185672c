//! The facts that decide where the bus is on Windows. It never looks for a pipe.

use broadcaster_local::windows::user;
use broadcaster_protocol::endpoint::{Env, SOCKET_VARIABLE};
use std::path::PathBuf;

/// The facts that decide where the bus is; `socket` is the pipe that the program names, if it names one.
pub(crate) fn endpoint_env(socket: Option<PathBuf>) -> Env {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user_sid = user::current().ok().map(|user| user.to_string());
    Env { user_sid, socket: socket.or_else(variable), ..Env::default() }
}
