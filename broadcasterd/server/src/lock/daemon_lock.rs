//! The right to be the daemon: the lock, and the socket files that were created under it. It never removes a file without the lock, nor one
//! that another process has created.

use super::error::BindError;
use broadcaster_local::{
    AdoptProblem, AuxiliaryListener, Directory, DirectoryProblem, Entry, Listener, LockFile, LockProblem, SocketFile,
    euid, is_accepting,
};
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

/// Stands for the path of an inherited socket that has none, in errors.
const INHERITED: &str = "the inherited socket";

/// Describes a path that leads to something other than a socket.
const NOT_A_SOCKET: &str = "not a socket";

/// The lock, and the sockets created under it. Dropping it removes their files, and then releases the lock.
#[derive(Debug)]
pub(super) struct DaemonLock {
    directory: Directory,
    /// The file of the bus socket.
    socket: SocketFile,
    /// The socket files to remove at the end, without one that a service manager created.
    made: RefCell<Vec<SocketFile>>,
    lock: RefCell<Option<LockFile>>,
}

/// The lock of a socket on which this process does not listen yet.
#[derive(Debug)]
pub(super) struct Claim {
    directory: Directory,
    lock: LockFile,
}

impl Claim {
    /// Takes the lock that belongs to `socket`.
    pub(super) fn take(socket: &Path) -> Result<Self, BindError> {
        let directory = open_directory_of(socket)?;
        // No lock file is created beside something that cannot become a socket.
        if find(&directory, socket)? == Entry::Other {
            return Err(occupied(socket, NOT_A_SOCKET));
        }
        let lock = LockFile::take(&directory, socket).map_err(|problem| {
            let path = LockFile::path_of(socket).unwrap_or_else(|_| socket.to_owned());
            match problem {
                LockProblem::Held => BindError::AlreadyRunning { lock: path },
                LockProblem::Removed => occupied(path, "repeatedly removed by another process"),
                LockProblem::NotAFile => occupied(path, "not a file, and cannot be locked"),
                LockProblem::Io(action, source) => BindError::Io { action, path, source },
            }
        })?;
        Ok(Self { directory, lock })
    }

    /// Listens on `socket`, whose lock this is.
    pub(super) fn listen(self, socket: &Path) -> Result<(DaemonLock, Listener), BindError> {
        let Self { directory, lock } = self;
        clear(&directory, socket)?;
        let (listener, file) = directory.listen(socket).map_err(|error| cannot_listen(socket, error))?;
        let made = RefCell::new(vec![file.clone()]);
        Ok((DaemonLock { directory, socket: file, made, lock: RefCell::new(Some(lock)) }, listener))
    }
}

impl DaemonLock {
    /// Takes the lock that belongs to a socket which another process created and listens on.
    pub(super) fn adopt(listener: &AuxiliaryListener) -> Result<(PathBuf, Self, Listener), BindError> {
        let (socket, listener) = broadcaster_local::adopt(listener).map_err(|problem| match problem {
            AdoptProblem::NoPath => occupied(INHERITED, "without an absolute path"),
            AdoptProblem::NotListening(path) => occupied(path, "an inherited socket that does not listen"),
            AdoptProblem::Elsewhere(path) => occupied(path, "not the path of the inherited socket"),
            AdoptProblem::Unsupported(path) => occupied(path, "a pipe, and cannot be passed on"),
            AdoptProblem::Io(action, source) => BindError::Io { action, path: INHERITED.into(), source },
        })?;
        let Claim { directory, lock } = Claim::take(&socket)?;
        let Entry::Socket(file) = find(&directory, &socket)? else {
            return Err(occupied(socket, "not the inherited socket"));
        };
        let lock = Self { directory, socket: file, made: RefCell::default(), lock: RefCell::new(Some(lock)) };
        Ok((socket, lock, listener))
    }

    /// Listens on one more socket, which is removed together with the first.
    pub(super) fn listen_auxiliary(&mut self, path: &Path) -> Result<AuxiliaryListener, BindError> {
        clear(&self.directory, path)?;
        let (listener, file) = self.directory.listen_auxiliary(path).map_err(|error| cannot_listen(path, error))?;
        self.made.get_mut().push(file);
        Ok(listener)
    }

    /// Whether clients still find the socket, and other daemons still find the lock.
    pub(super) fn is_in_place(&self) -> bool {
        let has_lock = self.lock.borrow().as_ref().is_some_and(|lock| lock.is_in(&self.directory));
        has_lock && self.directory.has(&self.socket)
    }

    /// Removes the socket files that this process created, and keeps the lock. Does nothing when called again: once the lock is released, the
    /// inode number of a file may belong to the next daemon's socket.
    pub(super) fn unlink(&self) {
        self.made.take().iter().for_each(|file| self.directory.remove(file));
    }

    /// Marks the lock file, to show other processes that this daemon is about to end.
    pub(super) fn mark_leaving(&self) -> io::Result<()> {
        self.lock.borrow().as_ref().map_or(Ok(()), LockFile::mark_leaving)
    }

    /// Releases the lock, so that the next daemon can begin.
    pub(super) fn release(&self) {
        self.unlink();
        self.lock.take();
    }
}

impl Drop for DaemonLock {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Opens the directory of `socket`, if it can be trusted.
fn open_directory_of(socket: &Path) -> Result<Directory, BindError> {
    Directory::open(socket).map_err(|problem| {
        let path = Directory::path_of(socket);
        match problem {
            DirectoryProblem::NotADirectory => BindError::NotADirectory { path },
            DirectoryProblem::OtherOwner { path, owner } => BindError::OtherOwner { path, owner, uid: euid() },
            DirectoryProblem::WritableByOthers(mode) => BindError::Loose { path, mode },
            DirectoryProblem::Io(action, source) => BindError::Io { action, path, source },
        }
    })
}

/// Removes the socket that a dead daemon has left, and nothing else. The caller holds the lock.
fn clear(directory: &Directory, socket: &Path) -> Result<(), BindError> {
    match find(directory, socket)? {
        Entry::Absent => Ok(()),
        Entry::Other => Err(occupied(socket, NOT_A_SOCKET)),
        Entry::Socket(file) => match is_accepting(socket) {
            Ok(false) => {
                directory.remove(&file);
                Ok(())
            }
            Ok(true) => Err(occupied(socket, "the socket of a program that does not hold the lock")),
            Err(_) => Err(occupied(socket, "a socket that another program made")),
        },
    }
}

fn find(directory: &Directory, socket: &Path) -> Result<Entry, BindError> {
    directory.find(socket).map_err(|source| BindError::Io { action: "look at", path: socket.to_owned(), source })
}

fn cannot_listen(socket: &Path, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => occupied(socket, "in use by another program"),
        _ => BindError::Io { action: "listen on", path: socket.to_owned(), source },
    }
}

fn occupied(path: impl Into<PathBuf>, what: &'static str) -> BindError {
    BindError::Occupied { path: path.into(), what }
}
