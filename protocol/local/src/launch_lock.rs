//! Which of several clients starts the daemon: a lock on the directory of the bus. It never decides which process is the daemon.

#[cfg(unix)]
use crate::unix::open_unshared;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The turn to start a daemon, among clients that need one at the same time.
///
/// It saves work and guarantees nothing: where the directory does not exist yet, or cannot be locked, every client has the turn. The turn of a
/// client that dies ends. A forked child has no part in it.
#[derive(Debug)]
pub enum LaunchLock {
    /// This process has the turn until the value is dropped.
    Ours(Option<File>),
    /// Another process has it.
    Theirs,
}

impl LaunchLock {
    /// Takes the turn to start a daemon for `socket`, unless another process has it. Never waits.
    pub fn take(socket: &Path) -> Self {
        let Some(Ok(directory)) = socket.parent().map(open) else { return Self::Ours(None) };
        match directory.try_lock() {
            Ok(()) => Self::Ours(Some(directory)),
            Err(TryLockError::WouldBlock) => Self::Theirs,
            Err(TryLockError::Error(_)) => Self::Ours(None),
        }
    }
}

#[cfg(unix)]
fn open(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_unshared(|| Ok(File::from(rustix::fs::open(directory, flags, Mode::empty())?)))
}

/// A pipe is in no directory that can be locked.
#[cfg(windows)]
fn open(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_until_it_is_dropped() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        let turn = LaunchLock::take(&socket);
        assert!(matches!(turn, LaunchLock::Ours(Some(_))));
        assert!(matches!(LaunchLock::take(&socket), LaunchLock::Theirs));
        drop(turn);
        assert!(matches!(LaunchLock::take(&socket), LaunchLock::Ours(Some(_))));
        let absent = place.path().join("absent/bus.sock");
        assert!(matches!(LaunchLock::take(&absent), LaunchLock::Ours(None)), "there is nothing to lock yet");
    }
}
