//! Where the lock files of this user's buses are, and the pipes themselves, which are in no directory. It never removes a file.

#[cfg(feature = "tokio")]
use super::auxiliary::AuxiliaryListener;
#[cfg(feature = "tokio")]
use super::instance::instance;
use super::server::Server;
#[cfg(feature = "tokio")]
use crate::AdoptProblem;
use crate::DirectoryProblem;
use broadcaster_protocol::endpoint::DIRECTORY_NAME;
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
        local_data().unwrap_or_else(|_| socket.to_owned())
    }

    /// Makes the directory that holds the lock of `socket`, if there is none.
    ///
    /// # Errors
    ///
    /// If the system refuses, or this user has no directory for local data.
    pub fn open(_socket: &Path) -> Result<Self, DirectoryProblem> {
        let path = local_data().map_err(|error| DirectoryProblem::Io("find the directory of", error))?;
        std::fs::create_dir_all(path).map_err(|error| DirectoryProblem::Io("make the directory", error))?;
        Ok(Self(()))
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
    pub fn listen_auxiliary(&self, socket: &Path) -> io::Result<(AuxiliaryListener, SocketFile)> {
        let name = socket.as_os_str().to_owned();
        let ready = instance(&name, true).map_err(in_use)?;
        Ok((AuxiliaryListener::new(name, ready), SocketFile(())))
    }

    /// `true`: a pipe cannot be taken away from a living process.
    pub fn has(&self, _file: &SocketFile) -> bool {
        true
    }

    /// Does nothing: a pipe has no file.
    pub fn remove(&self, _file: &SocketFile) {}
}

/// The user's directory for local data.
pub(super) fn local_data() -> io::Result<PathBuf> {
    directories::ProjectDirs::from("", "", DIRECTORY_NAME)
        .map(|project| project.data_local_dir().to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this user has no directory for local data"))
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
pub fn adopt(listener: &AuxiliaryListener) -> Result<(PathBuf, Server), AdoptProblem> {
    Err(AdoptProblem::Unsupported(listener.name().into()))
}
