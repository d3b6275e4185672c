//! The facts that decide where the bus is on Unix. It never looks for a socket.

use broadcaster_protocol::endpoint::{DIRECTORY_NAME, Env, SOCKET_VARIABLE};
use broadcaster_protocol::limits::{SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX};
use std::path::PathBuf;

/// The longest path of a socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    SOCKET_PATH_BYTES_MAX_LINUX
} else {
    SOCKET_PATH_BYTES_MAX_BSD
};

/// The facts that decide where the bus is; `socket` is the path that the program names, if it names one.
pub(crate) fn endpoint_env(socket: Option<PathBuf>) -> Env {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let run_user_dir = broadcaster_local::user_directory();
    let project = directories::ProjectDirs::from("", "", DIRECTORY_NAME);
    Env {
        euid: broadcaster_local::euid(),
        user_sid: None,
        socket: socket.or_else(|| variable(SOCKET_VARIABLE)),
        // The user's directory on macOS is short itself, and /tmp is cleaned there after some days.
        short_dir: (cfg!(not(target_vendor = "apple")) || run_user_dir.is_none()).then(|| "/tmp".into()),
        run_user_dir,
        xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
        state_dir: project.map(|dirs| dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_owned()),
        path_bytes_max: SOCKET_PATH_BYTES_MAX,
    }
}
