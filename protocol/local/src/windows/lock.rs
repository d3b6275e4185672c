//! The lock file of a bus: the kernel's lock on it decides which process is the daemon. It never decides by a pid or by the file's existence.

use super::user;
use crate::LockProblem;
use broadcaster_protocol::endpoint::{DIRECTORY_NAME, pipe_lock_file};
use std::fs::{File, TryLockError};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What others may do while the lock file is open: read and write, but not delete.
const SHARE_READ_AND_WRITE: u32 = 3;

/// A lock file with the lock on it, which ends when this is dropped. The file stays.
#[derive(Debug)]
pub struct LockFile(File);

impl LockFile {
    /// The path of the lock file that belongs to `socket`.
    ///
    /// # Errors
    ///
    /// If the user of this process, or its directory for local data, is not known.
    pub fn path_of(socket: &Path) -> io::Result<PathBuf> {
        Ok(pipe_lock_file(&directory()?, socket, user::current()?.as_str()))
    }

    /// Marks the file, so that others see that its holder is about to end.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to.
    pub fn mark_leaving(&self) -> io::Result<()> {
        self.0.set_len(1)
    }
}

/// The user's directory for local data.
pub(super) fn directory() -> io::Result<PathBuf> {
    directories::ProjectDirs::from("", "", DIRECTORY_NAME)
        .map(|project| project.data_local_dir().to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this user has no directory for local data"))
}

/// Takes the lock on the file at `path`.
pub(super) fn take(path: &Path) -> Result<LockFile, LockProblem> {
    let io = |action| move |error| LockProblem::Io(action, error);
    let mut options = File::options();
    options.create(true).truncate(false).write(true).share_mode(SHARE_READ_AND_WRITE);
    let file = options.open(path).map_err(io("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(io("write on"))?,
        Err(TryLockError::WouldBlock) => return Err(LockProblem::Held),
        Err(TryLockError::Error(error)) => return Err(LockProblem::Io("lock", error)),
    }
    Ok(LockFile(file))
}

/// Whether no process holds the lock of `socket`, or its holder has marked that it is about to end.
///
/// This takes the lock, shared, for the time of the call. A daemon that starts at this moment tries again.
pub fn is_unlocked(socket: &Path) -> bool {
    let Ok(path) = LockFile::path_of(socket) else { return false };
    match File::open(path) {
        Ok(file) => file.metadata().is_ok_and(|file| file.len() > 0) || file.try_lock_shared().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
