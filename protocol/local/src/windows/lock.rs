//! The lock file of a bus: the kernel's lock on it decides which process is the daemon. It never decides by a pid or by the file's existence.

use super::directory::{Directory, local_data};
use super::user;
use crate::{LockProblem, LockState};
use broadcaster_protocol::endpoint::pipe_lock_file;
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
        Ok(pipe_lock_file(&local_data()?, socket, user::current()?.as_str()))
    }

    /// Marks the file, so that others see that its holder is about to end.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to.
    pub fn mark_leaving(&self) -> io::Result<()> {
        self.0.set_len(1)
    }

    /// `true`: an open lock file cannot be removed.
    pub fn is_in(&self, _directory: &Directory) -> bool {
        true
    }

    /// Takes the lock that belongs to `socket`, and clears the mark that its last holder left.
    ///
    /// # Errors
    ///
    /// [`LockProblem::Held`] if another process holds it.
    pub fn take(_directory: &Directory, socket: &Path) -> Result<Self, LockProblem> {
        let io = |action| move |error| LockProblem::Io(action, error);
        let path = Self::path_of(socket).map_err(io("find the user of"))?;
        let mut options = File::options();
        options.create(true).truncate(false).write(true).share_mode(SHARE_READ_AND_WRITE);
        let file = options.open(path).map_err(io("open the lock file"))?;
        match file.try_lock() {
            Ok(()) => file.set_len(0).map_err(io("write on"))?,
            Err(TryLockError::WouldBlock) => return Err(LockProblem::Held),
            Err(TryLockError::Error(error)) => return Err(LockProblem::Io("lock", error)),
        }
        Ok(Self(file))
    }
}

/// The lock of `socket`, as another process finds it. A file that is locked cannot be read on this system, so that the pid is not reported.
///
/// This takes the lock, shared, for the time of the call. A daemon that starts at this moment tries again.
pub fn lock_state(socket: &Path) -> LockState {
    let held = LockState::Held { pid: None };
    let Ok(path) = LockFile::path_of(socket) else { return held };
    match File::open(path) {
        Ok(file) if file.try_lock_shared().is_ok() => LockState::Free,
        Ok(file) if file.metadata().is_ok_and(|file| file.len() > 0) => LockState::Leaving { pid: None },
        Err(error) if error.kind() == io::ErrorKind::NotFound => LockState::Free,
        Ok(_) | Err(_) => held,
    }
}

/// Whether no process holds the lock of `socket`, or its holder has marked that it is about to end.
///
/// As [`lock_state`], this takes the lock, shared, for the time of the call.
pub fn is_unlocked(socket: &Path) -> bool {
    !matches!(lock_state(socket), LockState::Held { .. })
}
