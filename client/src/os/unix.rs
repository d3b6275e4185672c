//! The facts that decide where the bus is on Unix. It never looks for a socket.

use broadcaster_local as local;
use broadcaster_protocol::endpoint::{DIRECTORY_NAME, Env, SOCKET_VARIABLE};
use broadcaster_protocol::limits::{SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX};
use std::path::PathBuf;

/// The longest path of a socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    SOCKET_PATH_BYTES_MAX_LINUX
} else {
    SOCKET_PATH_BYTES_MAX_BSD
};

/// Where programs keep their state below the home directory.
const STATE_BELOW_HOME: &str =
    if cfg!(target_vendor = "apple") { "Library/Application Support" } else { ".local/state" };

/// The facts that decide where the bus is; `socket` is the path that the program names, if it names one.
///
/// The environment may be that of another user, as under `sudo -E`: a directory counts only if it belongs to the effective user. The
/// environment of a set-user-ID program does not count at all.
pub(crate) fn endpoint_env(socket: Option<PathBuf>) -> Env {
    let trusted = !local::is_elevated();
    let variable = |name| {
        let value = std::env::var_os(name).filter(|value| trusted && !value.is_empty());
        value.map(PathBuf::from)
    };
    let run_user_dir = local::user_directory();
    Env {
        euid: local::euid(),
        user_sid: None,
        socket: socket.or_else(|| variable(SOCKET_VARIABLE)),
        // The user's directory on macOS is short itself, and /tmp is cleaned there after some days.
        short_dir: (cfg!(not(target_vendor = "apple")) || run_user_dir.is_none()).then(|| "/tmp".into()),
        run_user_dir,
        xdg_runtime_dir: variable("XDG_RUNTIME_DIR").filter(|directory| local::is_own(directory)),
        state_dir: state_directory(&variable),
        machine_id: local::machine_id(),
        path_bytes_max: SOCKET_PATH_BYTES_MAX,
    }
}

/// The directory of this project for state, in a directory of the effective user.
fn state_directory(variable: &impl Fn(&'static str) -> Option<PathBuf>) -> Option<PathBuf> {
    let given = variable("XDG_STATE_HOME").filter(|_| cfg!(not(target_vendor = "apple")));
    let given = given.filter(|directory| directory.is_absolute() && local::is_or_would_be_own(directory));
    let state = given.or_else(|| {
        let is_usable = |home: &PathBuf| home.is_absolute() && local::is_own(home);
        let home = variable("HOME").filter(is_usable).or_else(|| local::home_directory().filter(is_usable))?;
        Some(home.join(STATE_BELOW_HOME))
    })?;
    Some(state.join(DIRECTORY_NAME))
}
