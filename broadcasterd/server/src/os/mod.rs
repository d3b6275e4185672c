//! The system calls of the server, one function each. No policy lives here.

mod unix;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod watch;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "watch_bsd.rs"]
mod watch;

pub use unix::raise_descriptor_limit;
pub(crate) use unix::{
    DirectoryProblem, FileId, STOPPED_SOCKET_KEEPS_BYTES, accept_from, adopt, answers, duplicate, euid, listen,
    listens, lock_exclusive, open_lock, pid, plain, prepare_directory, read, register, set_leaving, shut_down,
    socket_file_id, stop_reading, take_descriptor, unlink_own_socket, write, write_vectored,
};
pub(crate) use watch::Watch;
