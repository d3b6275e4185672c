//! Why a directory, a lock file or an inherited socket cannot be used. These are facts; the caller words the errors.

use std::io;
use std::path::PathBuf;

/// What is wrong with a directory.
#[derive(Debug)]
pub enum DirectoryProblem {
    /// The path leads to something else, or to a link.
    NotADirectory,
    /// It does not exist, and the nearest directory above it that does belongs to another user; or it belongs to another user itself.
    OtherOwner {
        /// The directory that exists.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Its mode, which lets other users write into it.
    WritableByOthers(u32),
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockProblem {
    /// Another process holds it.
    Held,
    /// Its file was removed each time, before the lock on it was taken.
    Removed,
    /// Something other than a file has its path.
    NotAFile,
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}

/// Why an inherited socket cannot be served.
#[derive(Debug)]
pub enum AdoptProblem {
    /// It has no absolute path.
    NoPath,
    /// It has this path and does not listen.
    NotListening(PathBuf),
    /// Clients that connect to this path do not reach it.
    Elsewhere(PathBuf),
    /// The system cannot pass on what serves this path.
    Unsupported(PathBuf),
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}
