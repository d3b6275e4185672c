//! The lock file of a bus: the kernel's lock on it decides which process is the daemon. It never decides by a pid or by the file's existence.

use super::directory::{Directory, FileId, name_of};
use crate::LockProblem;
use broadcaster_protocol::endpoint::lock_file;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How often to take the lock again, when its file was removed before the lock was on it.
const ATTEMPTS_MAX: usize = 16;

/// A lock file with the lock on it, which ends when this is dropped. The file stays.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: OwnedFd,
    id: FileId,
}

impl LockFile {
    /// The path of the lock file that belongs to `socket`.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub fn path_of(socket: &Path) -> io::Result<PathBuf> {
        Ok(lock_file(socket))
    }

    /// Marks the file, so that others see that its holder is about to end.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to.
    pub fn mark_leaving(&self) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.file, 1)?)
    }

    /// Whether another process that looks for the lock in `directory` finds this file.
    pub fn is_in(&self, directory: &Directory) -> bool {
        directory.is_in_place() && name_of(&self.path).is_ok_and(|name| directory.is_named(name, self.id))
    }

    /// Takes the lock that belongs to `socket`, which is in `directory`, and clears the mark that its last holder left.
    ///
    /// # Errors
    ///
    /// [`LockProblem::Held`] if another process holds it.
    pub fn take(directory: &Directory, socket: &Path) -> Result<Self, LockProblem> {
        let path = lock_file(socket);
        let name = name_of(&path).map_err(|error| LockProblem::Io("open the lock file", error))?;
        // Another process may remove the file between opening and locking it. Then the lock is on a file that no other process finds.
        for _ in 0..ATTEMPTS_MAX {
            let file = directory.open_lock(name).map_err(|error| LockProblem::Io("open the lock file", error))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(LockProblem::Held),
                Err(errno) => return Err(LockProblem::Io("lock", errno.into())),
            }
            rustix::fs::ftruncate(&file, 0).map_err(|errno| LockProblem::Io("write on", errno.into()))?;
            let stat = rustix::fs::fstat(&file).map_err(|errno| LockProblem::Io("look at", errno.into()))?;
            let id = FileId::of(&stat);
            if directory.is_named(name, id) {
                return Ok(Self { path, file, id });
            }
        }
        Err(LockProblem::Removed)
    }
}

/// Whether no process holds the lock of `socket`, or its holder has marked that it is about to end.
///
/// This takes the lock, shared, for the time of the call. A daemon that starts at this moment tries again.
pub fn is_unlocked(socket: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(lock_file(socket), flags, Mode::empty()) {
        Ok(file) => {
            rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size > 0)
                || rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
        }
        Err(errno) => errno == Errno::NOENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_held_until_it_is_marked_or_dropped() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        assert!(is_unlocked(&socket), "there is no file");
        let directory = Directory::open(&socket).expect("opened");
        let lock = LockFile::take(&directory, &socket).expect("taken");
        assert!(!is_unlocked(&socket));
        assert!(matches!(LockFile::take(&directory, &socket), Err(LockProblem::Held)));
        lock.mark_leaving().expect("marked");
        assert!(is_unlocked(&socket));
        drop(lock);
        let lock = LockFile::take(&directory, &socket).expect("taken again");
        assert!(!is_unlocked(&socket), "the mark is cleared");
        drop(lock);
        assert!(is_unlocked(&socket));
    }

    #[test]
    fn removed_lock_file_is_noticed() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        let directory = Directory::open(&socket).expect("opened");
        let lock = LockFile::take(&directory, &socket).expect("taken");
        std::fs::remove_file(place.path().join("bus.lock")).expect("removed");
        assert!(!lock.is_in(&directory));
        assert!(LockFile::take(&directory, &socket).expect("a new file").is_in(&directory));
    }

    #[test]
    fn lock_in_a_directory_that_was_replaced_is_noticed() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus/bus.sock");
        let directory = Directory::open(&socket).expect("opened");
        let lock = LockFile::take(&directory, &socket).expect("taken");
        assert!(lock.is_in(&directory));
        std::fs::rename(place.path().join("bus"), place.path().join("aside")).expect("moved");
        std::fs::create_dir(place.path().join("bus")).expect("made");
        assert!(!lock.is_in(&directory));
    }
}
