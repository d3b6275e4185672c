//! Where the lock files of this user's buses are, and the pipes themselves, which are in no directory. It never removes a file.

#[cfg(feature = "tokio")]
use super::instance::instance;
use super::lock::{self, LockFile};
use super::server::Server;
#[cfg(feature = "tokio")]
use crate::AdoptProblem;
use crate::{DirectoryProblem, LockProblem};
use std::io;
use std::path::{Path, PathBuf};

/// The user's directory for local data, which holds the lock of a bus.
#[derive(Debug)]
pub struct Directory(());

/// A pipe that this process serves. There is no file: a name ends with its last handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile(());

/// What has the name of a socket. A pipe has no file, so that this is always [`Absent`](Self::Absent).
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A socket.
    Socket(SocketFile),
    /// Something else.
    Other,
}

impl Directory {
    /// The path of the directory that holds the lock of `socket`; `socket` if this user has none.
    pub fn path_of(socket: &Path) -> PathBuf {
        lock::directory().unwrap_or_else(|_| socket.to_owned())
    }

    /// Makes the directory that holds the lock of `socket`, if there is none.
    ///
    /// # Errors
    ///
    /// If the system refuses, or this user has no directory for local data.
    pub fn open(_socket: &Path) -> Result<Self, DirectoryProblem> {
        let path = lock::directory().map_err(|error| DirectoryProblem::Io("find the directory of", error))?;
        std::fs::create_dir_all(path).map_err(|error| DirectoryProblem::Io("make the directory", error))?;
        Ok(Self(()))
    }

    /// Takes the lock that belongs to `socket`, and clears the mark that its last holder left.
    ///
    /// # Errors
    ///
    /// [`LockProblem::Held`] if another process holds it.
    pub fn lock(&self, socket: &Path) -> Result<LockFile, LockProblem> {
        let path = LockFile::path_of(socket).map_err(|error| LockProblem::Io("find the user of", error))?;
        lock::take(&path)
    }

    /// Nothing: a pipe has no file.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub fn find(&self, _socket: &Path) -> io::Result<Entry> {
        Ok(Entry::Absent)
    }

    /// Serves the pipe `socket`, for this user only.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) if another program serves it.
    pub fn listen(&self, socket: &Path) -> io::Result<(Server, SocketFile)> {
        Ok((Server::new(socket.as_os_str()).map_err(in_use)?, SocketFile(())))
    }

    /// Serves one more pipe, which need not be that of a bus.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    #[cfg(feature = "tokio")]
    pub fn listen_auxiliary(&self, socket: &Path) -> io::Result<(super::AuxiliaryListener, SocketFile)> {
        let name = socket.as_os_str().to_owned();
        let ready = instance(&name, true).map_err(in_use)?;
        Ok((super::AuxiliaryListener::new(name, ready), SocketFile(())))
    }

    /// `true`: a pipe cannot be taken away from a living process.
    pub fn has(&self, _file: &SocketFile) -> bool {
        true
    }

    /// `true`: an open lock file cannot be removed.
    pub fn has_lock(&self, _lock: &LockFile) -> bool {
        true
    }

    /// Does nothing: a pipe has no file.
    pub fn remove(&self, _file: &SocketFile) {}
}

fn in_use(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(io::ErrorKind::AddrInUse, error),
        _ => error,
    }
}

/// Fails: a pipe is served by the process that made it, and cannot be passed on.
///
/// # Errors
///
/// Always [`AdoptProblem::Unsupported`].
#[cfg(feature = "tokio")]
pub fn adopt(listener: &super::AuxiliaryListener) -> Result<(PathBuf, Server), AdoptProblem> {
    Err(AdoptProblem::Unsupported(listener.name().into()))
}
