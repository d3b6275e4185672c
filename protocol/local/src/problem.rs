//! Why a directory, a lock file or an inherited socket cannot be used. These are facts; the caller words the errors.

use std::io;
use std::path::PathBuf;

/// What is wrong with a directory.
#[derive(Debug)]
pub enum DirectoryProblem {
    /// The path leads to something else, or to a link.
    NotADirectory,
    /// It belongs to the user with this id.
    OtherOwner(u32),
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
    /// The system cannot pass on what serves this path.
    Unsupported(PathBuf),
    /// The system call that failed, as a verb, and its error.
    Io(&'static str, io::Error),
}
