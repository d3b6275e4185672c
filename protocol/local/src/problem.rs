//! Why a directory, a lock file or an inherited socket cannot be used. These are facts; the caller words the errors.

use std::io;
use std::path::PathBuf;

/// What is wrong with a directory.
#[derive(Debug)]
pub enum DirectoryProblem {
    /// The path leads to a link, or to something else.
    NotADirectory,
    /// It belongs to another user; or it does not exist, and the nearest existing directory above it belongs to another user.
    OtherOwner {
        /// The directory of the other user.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Other users may write into it; this is its mode.
    WritableByOthers(u32),
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockProblem {
    /// Another process holds it.
    Held,
    /// On each attempt, its file was removed before the lock was taken.
    Removed,
    /// Its path leads to something other than a file.
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
    /// This system cannot pass on what serves this path.
    Unsupported(PathBuf),
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}
