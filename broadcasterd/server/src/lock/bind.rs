//! The choice of the socket among its candidates, and what the daemon holds then. It never accepts a connection.

use super::daemon_lock::DaemonLock;
use super::error::BindError;
use broadcaster_local::{AuxiliaryListener, Connected, Listener};
use broadcaster_protocol::endpoint::Candidate;
use std::path::{Path, PathBuf};

/// The right to be the daemon, and a socket that listens. Both end when this is dropped, or served to its end: the socket files that it made
/// are removed if they are still the same, and then the lock is released.
#[derive(Debug)]
pub struct Bound {
    socket: PathBuf,
    listener: Option<Listener>,
    lock: DaemonLock,
}

impl Bound {
    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Listens on one more socket in the directory of the bus, for this user only. A stale one is replaced, and it is removed with the bus
    /// socket.
    ///
    /// # Errors
    ///
    /// If the system refuses, or something that must not be removed has this path.
    pub fn listen_auxiliary(&mut self, path: &Path) -> Result<AuxiliaryListener, BindError> {
        self.lock.listen_auxiliary(path)
    }

    /// The socket of the bus, once.
    pub(crate) fn take_listener(&mut self) -> Option<Listener> {
        self.listener.take()
    }

    /// Whether clients still find this socket, and other daemons this lock.
    pub(crate) fn is_in_place(&self) -> bool {
        self.lock.is_in_place()
    }

    /// Announces that this daemon is about to end: new clients find no socket of it, and the mark on the lock file shows that no daemon
    /// serves any more.
    pub(crate) fn leave(&self) {
        if let Err(error) = self.lock.mark_leaving() {
            tracing::warn!(%error, "cannot write on the lock file");
        }
        self.lock.unlink();
    }

    /// Lets the next daemon begin.
    pub(crate) fn release(&self) {
        self.lock.release();
    }
}

/// Becomes the daemon on the first candidate that can be used.
///
/// # Errors
///
/// [`BindError::AlreadyRunning`] if any candidate has a daemon; otherwise the first candidate's error.
pub fn bind(candidates: &[Candidate]) -> Result<Bound, BindError> {
    let mut problems: Vec<(&PathBuf, BindError)> = Vec::new();
    for candidate in candidates {
        // A daemon that started before a better place existed still serves its clients.
        let elsewhere = candidates.iter().find(|other| *other != candidate && answers(&other.socket));
        if let Some(other) = elsewhere {
            return Err(BindError::AlreadyRunning { lock: other.socket.clone() });
        }
        match DaemonLock::take(&candidate.socket) {
            Ok((lock, listener)) => {
                for (socket, error) in &problems {
                    tracing::warn!(socket = %socket.display(), %error, "cannot serve here");
                }
                return Ok(Bound { socket: candidate.socket.clone(), listener: Some(listener), lock });
            }
            Err(error @ BindError::AlreadyRunning { .. }) => return Err(error),
            Err(error) => problems.push((&candidate.socket, error)),
        }
    }
    Err(problems.into_iter().next().map_or(BindError::NoCandidate, |(_, error)| error))
}

/// Becomes the daemon on a socket that a service manager made and listens on. Its file stays when this daemon ends, and so does the manager's
/// listening: the next daemon serves the clients that connect in between.
///
/// # Errors
///
/// [`BindError::AlreadyRunning`] if another process holds the lock; an error too if the socket has no path or its directory cannot be
/// trusted. On Windows always: a pipe is served by the process that made it.
pub fn adopt(listener: &AuxiliaryListener) -> Result<Bound, BindError> {
    let (socket, lock, listener) = DaemonLock::adopt(listener)?;
    Ok(Bound { socket, listener: Some(listener), lock })
}

/// Whether a process of this user accepts connections at `socket`.
fn answers(socket: &Path) -> bool {
    matches!(broadcaster_local::connect(socket), Ok(Connected::Yes(_)))
}
