//! Who is the daemon, and on which socket. The kernel's lock on one file decides: not a pid, not the existence of a
//! socket, not a refused connection.

use crate::hub::{View, serve};
use crate::os::{self, Beside, Listener, Seat};
use broadcaster_broker::Limits;
use broadcaster_protocol::endpoint::Candidate;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::runtime::LocalOptions;

/// Why this process is not the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process is the daemon of this directory. Connect to it.
    #[error("another process holds {} and serves the bus", lock.display())]
    AlreadyRunning {
        /// Its lock file, or its socket if that is at another candidate.
        lock: PathBuf,
    },
    /// The place for the directory is taken by something else.
    #[error("{} is not a directory: move it away, or set BROADCASTER_SOCKET to another place", path.display())]
    NotADirectory {
        /// The directory's path.
        path: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("the directory {} belongs to uid {owner}, not to uid {uid}: it is not used", path.display())]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Others may write into the directory, and so replace the socket.
    #[error("the directory {} has mode {mode:04o}, so that others can write into it: chmod 0700 it", path.display())]
    Loose {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is something at the socket's path that we must not remove.
    #[error("{} is {what}: move it away, or set BROADCASTER_SOCKET to another path", path.display())]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No candidate was given.
    #[error("there is no place for the socket")]
    NoCandidate,
}

/// The right to be the daemon, and a socket that listens. Both end with it: dropped or run to its end, the socket files
/// that it made are removed if they are still the same, and then the lock is released.
#[derive(Debug)]
pub struct Bound {
    socket: PathBuf,
    listener: Option<Listener>,
    seat: Seat,
}

impl Bound {
    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Listens on one more socket in the directory of the bus, for this user only: a stale one is replaced, and it is removed
    /// with the bus socket.
    ///
    /// # Errors
    ///
    /// If the system refuses, or there is something at `path` that must not be removed.
    pub fn listen_beside(&mut self, path: &Path) -> Result<Beside, BindError> {
        self.seat.listen_beside(path)
    }

    /// Serves on this thread until the future that `beside` makes is ready, or the limits' idle time is over; then stops in
    /// good order: no new connection, all that clients had sent is read and delivered, everybody is told.
    ///
    /// That future runs in the server's own runtime, where it may spawn further local tasks, and may look at the server through
    /// the [`View`]. It must not block: the bus waits for it.
    ///
    /// # Errors
    ///
    /// If the runtime or the socket can not be set up. What happens to single connections is never an error here.
    pub fn run<F>(mut self, limits: Limits, version: &str, beside: impl FnOnce(View) -> F) -> io::Result<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().enable_time().build_local(LocalOptions::default())?;
        let Some(listener) = self.listener.take() else { return Ok(()) };
        runtime.block_on(serve(&Rc::new(self), listener, limits, version, beside))
    }

    /// Whether a client still finds our socket, and a would-be daemon our lock.
    pub(crate) fn is_in_place(&self) -> bool {
        self.seat.is_in_place()
    }

    /// Removes the socket files that we made. The lock stays.
    fn unlink(&self) {
        self.seat.unlink();
    }

    /// Makes known that this daemon is on its way out: new clients find no socket of ours, and whoever only looks finds on the lock
    /// file that nobody is there any more.
    pub(crate) fn leave(&self) {
        if let Err(error) = self.seat.set_leaving() {
            tracing::warn!(%error, "cannot write on the lock file");
        }
        self.unlink();
    }

    /// Lets the next daemon begin.
    pub(crate) fn release(&self) {
        self.seat.release();
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.unlink();
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
        // A daemon that came up when a better place was not there yet still serves everybody who is on it.
        let elsewhere = candidates.iter().find(|other| *other != candidate && os::answers(&other.socket));
        if let Some(other) = elsewhere {
            return Err(BindError::AlreadyRunning { lock: other.socket.clone() });
        }
        match Seat::take(&candidate.socket) {
            Ok((seat, listener)) => {
                for (socket, error) in &problems {
                    tracing::warn!(socket = %socket.display(), %error, "cannot serve here");
                }
                return Ok(Bound { socket: candidate.socket.clone(), listener: Some(listener), seat });
            }
            Err(error @ BindError::AlreadyRunning { .. }) => return Err(error),
            Err(error) => problems.push((&candidate.socket, error)),
        }
    }
    Err(problems.into_iter().next().map_or(BindError::NoCandidate, |(_, error)| error))
}

/// Becomes the daemon on a socket that a service manager made and listens on for us. Its file stays when we end, and so does the
/// manager's listening: who connects in between is served by the next daemon.
///
/// # Errors
///
/// [`BindError::AlreadyRunning`] if another process has the lock; an error too if the socket has no path or its directory can
/// not be trusted. On Windows always: a pipe is served by whoever made it.
pub fn adopt(listener: &Beside) -> Result<Bound, BindError> {
    let (socket, seat, listener) = Seat::adopt(listener)?;
    Ok(Bound { socket, listener: Some(listener), seat })
}
