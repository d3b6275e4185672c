//! Why this process is not the daemon. Each error names a path and, if there is one, the remedy; it never holds an open file.

use std::io;
use std::path::PathBuf;

/// Why this process is not the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process is the daemon of this directory. Connect to it.
    #[error("another process holds {} and serves the bus", lock.display())]
    AlreadyRunning {
        /// Its lock file, or its socket if that is at another candidate.
        lock: PathBuf,
    },
    /// Its path leads to something other than a directory.
    #[error("{} is not a directory: move it away, or set BROADCASTER_SOCKET to another place", path.display())]
    NotADirectory {
        /// The directory's path.
        path: PathBuf,
    },
    /// The directory belongs to another user.
    #[error(
        "the directory {} belongs to uid {owner}, not to uid {uid}: it is not used; set BROADCASTER_SOCKET to another place",
        path.display()
    )]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        uid: u32,
    },
    /// Other users may write into the directory, and so replace the socket.
    #[error("the directory {} has mode {mode:04o}, so others can write to it: run `chmod 0700` on it", path.display())]
    Loose {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something that must not be removed exists at the socket's path.
    #[error("{} is {what}: move it away, or set BROADCASTER_SOCKET to another path", path.display())]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There are no candidates.
    #[error("there is no place for the socket")]
    NoCandidate,
}
