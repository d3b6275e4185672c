//! The lock file of a bus: the kernel's lock on it decides which process is the daemon. A pid or the existence of the file never does.
//!
//! The file contains one line, `serving PID` or `leaving PID`. Only its first byte matters: clients do not wait for a daemon that has begun
//! to stop. The pid is for display; it may belong to another pid namespace.

use super::directory::{Directory, FileId, name_of};
use super::fork::open_unshared;
use crate::{LockProblem, LockState};
use broadcaster_protocol::endpoint::lock_file;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How many times to try, if the file is removed each time before the lock is taken.
const ATTEMPTS_MAX: usize = 16;

/// What a serving daemon writes into the file, before its pid.
const SERVING: &str = "serving";

/// What it writes there when it begins to stop; of the same length.
const LEAVING: &str = "leaving";

/// Enough for the line.
const LINE_BYTES_MAX: usize = 32;

/// A locked lock file. Dropping it releases the lock and leaves the file. A forked child does not hold the lock.
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

    /// Marks the file, to show other processes that its holder is about to end.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to.
    pub fn mark_leaving(&self) -> io::Result<()> {
        rustix::io::pwrite(&self.file, LEAVING.as_bytes(), 0)?;
        Ok(())
    }

    /// Whether another process that opens the lock file in `directory` finds this file.
    pub fn is_in(&self, directory: &Directory) -> bool {
        directory.is_in_place() && name_of(&self.path).is_ok_and(|name| directory.is_named(name, self.id))
    }

    /// Takes the lock that belongs to `socket`, which is in `directory`, and writes the pid of this process into the file. Never waits.
    ///
    /// # Errors
    ///
    /// [`LockProblem::Held`] if another process holds it.
    pub fn take(directory: &Directory, socket: &Path) -> Result<Self, LockProblem> {
        let path = lock_file(socket);
        let name = name_of(&path).map_err(|error| LockProblem::Io("open the lock file", error))?;
        // If another process removes the file before it is locked, the lock is on a file that no other process finds.
        for _ in 0..ATTEMPTS_MAX {
            let file = open_unshared(|| directory.open_lock(name)).map_err(|error| match error.raw_os_error() {
                // A socket cannot be opened at all, and a directory not for writing.
                Some(libc::ENXIO | libc::EISDIR | libc::ELOOP) => LockProblem::NotAFile,
                _ => LockProblem::Io("open the lock file", error),
            })?;
            let stat = rustix::fs::fstat(&file).map_err(|errno| LockProblem::Io("look at", errno.into()))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(LockProblem::NotAFile);
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(LockProblem::Held),
                Err(errno) => return Err(LockProblem::Io("lock", errno.into())),
            }
            let written = rustix::fs::ftruncate(&file, 0).and_then(|()| {
                let line = format!("{SERVING} {}\n", super::process::pid());
                rustix::io::pwrite(&file, line.as_bytes(), 0)
            });
            match written {
                // The bus works without the line. The disk may be full, or the file size limited to zero.
                Ok(_) | Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {}
                Err(errno) => return Err(LockProblem::Io("write on", errno.into())),
            }
            let id = FileId::of(&stat);
            if directory.is_named(name, id) {
                return Ok(Self { path, file, id });
            }
        }
        Err(LockProblem::Removed)
    }
}

/// The state of the lock of `socket`.
///
/// This holds the lock, shared, during the call. A daemon that starts at this moment tries again.
pub fn lock_state(socket: &Path) -> LockState {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(lock_file(socket), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return LockState::Free,
        Err(Errno::NXIO | Errno::LOOP | Errno::MLINK) => return LockState::NotAFile,
        Err(_) => return LockState::Held { pid: None },
    };
    let is_file = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if is_file != Ok(true) {
        return LockState::NotAFile;
    }
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return LockState::Free;
    }
    let mut line = [0; LINE_BYTES_MAX];
    let len = rustix::io::pread(&file, &mut line, 0).unwrap_or(0);
    parse(&line[..len])
}

/// The meaning of what the holder of the lock has written.
fn parse(line: &[u8]) -> LockState {
    let pid = str::from_utf8(line).ok().and_then(|line| line.trim_end().split_once(' ')?.1.parse().ok());
    if line.first() == LEAVING.as_bytes().first() { LockState::Leaving { pid } } else { LockState::Held { pid } }
}

/// Whether no process holds the lock of `socket`, or its holder has marked that it is about to end.
///
/// Like [`lock_state`], this holds the lock, shared, during the call.
pub fn is_unlocked(socket: &Path) -> bool {
    !matches!(lock_state(socket), LockState::Held { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_held_until_it_is_marked_or_dropped() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        let pid = Some(std::process::id());
        assert_eq!(lock_state(&socket), LockState::Free, "there is no file");
        let directory = Directory::open(&socket).expect("opened");
        let lock = LockFile::take(&directory, &socket).expect("taken");
        assert_eq!(lock_state(&socket), LockState::Held { pid });
        assert!(matches!(LockFile::take(&directory, &socket), Err(LockProblem::Held)));
        lock.mark_leaving().expect("marked");
        assert_eq!(lock_state(&socket), LockState::Leaving { pid });
        drop(lock);
        assert_eq!(lock_state(&socket), LockState::Free);
        let lock = LockFile::take(&directory, &socket).expect("taken again");
        assert_eq!(lock_state(&socket), LockState::Held { pid }, "the mark is cleared");
        drop(lock);
        assert!(is_unlocked(&socket));
    }

    #[test]
    fn only_the_first_byte_of_the_line_decides() {
        assert_eq!(parse(b"serving 17\n"), LockState::Held { pid: Some(17) });
        assert_eq!(parse(b"leaving 17\n"), LockState::Leaving { pid: Some(17) });
        for unknown in [&b""[..], b"serving", b"serving x\n", b"\xff"] {
            assert_eq!(parse(unknown), LockState::Held { pid: None });
        }
        assert_eq!(parse(b"l"), LockState::Leaving { pid: None });
    }

    #[test]
    fn what_is_not_a_file_is_named_and_never_waited_for() {
        let place = tempfile::tempdir().expect("a directory");
        let (socket, lock) = (place.path().join("bus.sock"), place.path().join("bus.lock"));
        let directory = Directory::open(&socket).expect("opened");
        let check = || {
            let problem = LockFile::take(&directory, &socket).expect_err("not a file");
            assert!(matches!(problem, LockProblem::NotAFile), "{problem:?}");
            assert_eq!(lock_state(&socket), LockState::NotAFile);
        };
        #[cfg(not(target_vendor = "apple"))]
        {
            rustix::fs::mkfifoat(rustix::fs::CWD, &lock, Mode::RUSR | Mode::WUSR).expect("made");
            check();
            std::fs::remove_file(&lock).expect("removed");
        }
        std::fs::create_dir(&lock).expect("made");
        check();
        std::fs::remove_dir(&lock).expect("removed");
        std::os::unix::fs::symlink(place.path().join("elsewhere"), &lock).expect("linked");
        check();
        std::fs::remove_file(&lock).expect("removed");
        let _listener = std::os::unix::net::UnixListener::bind(&lock).expect("bound");
        check();
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
