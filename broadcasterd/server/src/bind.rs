//! Who is the daemon, and on which socket. The kernel's lock on one file decides: not a pid, not the existence of a
//! socket, not a refused connection.

use crate::hub::{View, serve};
use crate::os::{self, DirectoryProblem, FileId};
use broadcaster_broker::Limits;
use broadcaster_protocol::endpoint::{Candidate, lock_file};
use interprocess::ConnectWaitMode;
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Listener, ListenerOptions, Stream, ToFsName};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
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
    id: FileId,
    listener: Option<Listener>,
    /// The socket files that are ours to remove, until they are. One that a service manager made is not.
    made: RefCell<Vec<(PathBuf, FileId)>>,
    lock_path: PathBuf,
    lock_id: FileId,
    lock: RefCell<Option<OwnedFd>>,
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
    pub fn listen_beside(&mut self, path: &Path) -> Result<UnixListener, BindError> {
        make_way(path)?;
        let (listener, id) = listen(path)?;
        self.made.get_mut().push((path.to_owned(), id));
        Ok(os::plain(listener))
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
        let is = |path, own| matches!(os::socket_file_id(path), Ok(Some((id, _))) if id == own);
        is(&self.socket, self.id) && is(&self.lock_path, self.lock_id)
    }

    /// Removes the socket files that we made, so that new clients do not come here any more. The lock stays. Once only: when the lock
    /// is gone, a file of the same number can be the next daemon's.
    fn unlink(&self) {
        self.made.take().iter().for_each(|(path, id)| os::unlink_own_socket(path, *id));
    }

    /// Makes known that this daemon is on its way out: new clients find no socket of ours, and whoever only looks finds on the lock
    /// file that nobody is there any more.
    pub(crate) fn leave(&self) {
        if let Some(lock) = self.lock.borrow().as_ref()
            && let Err(error) = os::set_leaving(lock, true)
        {
            tracing::warn!(%error, "cannot write on the lock file");
        }
        self.unlink();
    }

    /// Lets the next daemon begin.
    pub(crate) fn release(&self) {
        self.unlink();
        self.lock.take();
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
        match bind_one(&candidate.socket) {
            Ok(bound) => {
                for (socket, error) in &problems {
                    tracing::warn!(socket = %socket.display(), %error, "cannot serve here");
                }
                return Ok(bound);
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
/// not be trusted.
pub fn adopt(listener: &UnixListener) -> Result<Bound, BindError> {
    let io = |action| move |source| BindError::Io { action, path: "the inherited socket".into(), source };
    let address = listener.local_addr().map_err(io("look at"))?;
    let Some(socket) = address.as_pathname().filter(|path| path.is_absolute()) else {
        return Err(BindError::Occupied { path: "the inherited socket".into(), what: "without an absolute path" });
    };
    if !os::listens(listener) {
        return Err(BindError::Occupied {
            path: socket.to_owned(),
            what: "a socket that was passed on and does not listen",
        });
    }
    let (lock, lock_path, lock_id) = lock_directory_of(socket)?;
    let listener = os::adopt(listener.try_clone().map_err(io("duplicate"))?);
    bound(socket, listener, Vec::new(), (lock, lock_path, lock_id))
}

fn bind_one(socket: &Path) -> Result<Bound, BindError> {
    let lock = lock_directory_of(socket)?;
    make_way(socket)?;
    let (listener, id) = listen(socket)?;
    bound(socket, listener, vec![(socket.to_owned(), id)], lock)
}

fn bound(
    socket: &Path,
    listener: Listener,
    made: Vec<(PathBuf, FileId)>,
    (lock, lock_path, lock_id): (OwnedFd, PathBuf, FileId),
) -> Result<Bound, BindError> {
    let id = made_id(socket)?;
    let (made, lock) = (RefCell::new(made), RefCell::new(Some(lock)));
    Ok(Bound { socket: socket.to_owned(), id, listener: Some(listener), made, lock_path, lock_id, lock })
}

/// Sees that the directory can be trusted, and takes the lock in it.
fn lock_directory_of(socket: &Path) -> Result<(OwnedFd, PathBuf, FileId), BindError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    os::prepare_directory(directory).map_err(|problem| {
        let path = directory.to_owned();
        match problem {
            DirectoryProblem::NotADirectory => BindError::NotADirectory { path },
            DirectoryProblem::OtherOwner(owner) => BindError::OtherOwner { path, owner, uid: os::euid() },
            DirectoryProblem::Loose(mode) => BindError::Loose { path, mode },
            DirectoryProblem::Io(source) => BindError::Io { action: "make the directory", path, source },
        }
    })?;
    let lock_path = lock_file(socket);
    let (lock, lock_id) = take_lock(&lock_path)?;
    Ok((lock, lock_path, lock_id))
}

/// Listens at `socket`, where nothing is.
fn listen(socket: &Path) -> Result<(Listener, FileId), BindError> {
    let io = |action| move |source| BindError::Io { action, path: socket.to_owned(), source };
    let name = socket.to_fs_name::<GenericFilePath>().map_err(io("name the socket"))?;
    let options = ListenerOptions::new().name(name).reclaim_name(false);
    let listener = os::listen(options).map_err(io("listen on"))?;
    Ok((listener, made_id(socket)?))
}

/// Which file the socket is that was made at this path.
fn made_id(socket: &Path) -> Result<FileId, BindError> {
    let io = |source| BindError::Io { action: "look at", path: socket.to_owned(), source };
    match os::socket_file_id(socket).map_err(io)? {
        Some((id, true)) => Ok(id),
        _ => Err(BindError::Occupied { path: socket.to_owned(), what: "not the socket that was made there" }),
    }
}

fn take_lock(path: &Path) -> Result<(OwnedFd, FileId), BindError> {
    let io = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    // The file may be removed by others between open and lock: then the lock is on a file that nobody else will see.
    for _ in 0..16 {
        let (file, id) = os::open_lock(path).map_err(io("open the lock file"))?;
        if !os::lock_exclusive(&file).map_err(io("lock"))? {
            return Err(BindError::AlreadyRunning { lock: path.to_owned() });
        }
        os::set_leaving(&file, false).map_err(io("write on"))?;
        if os::socket_file_id(path).map_err(io("look at"))?.is_some_and(|(now, _)| now == id) {
            return Ok((file, id));
        }
    }
    Err(BindError::Occupied { path: path.to_owned(), what: "removed by somebody again and again" })
}

/// Under the lock: removes the socket that a dead daemon has left, and nothing else.
fn make_way(socket: &Path) -> Result<(), BindError> {
    let io = |action| move |source| BindError::Io { action, path: socket.to_owned(), source };
    match os::socket_file_id(socket).map_err(io("look at"))? {
        None => Ok(()),
        Some((_, false)) => Err(BindError::Occupied { path: socket.to_owned(), what: "not a socket" }),
        Some((id, true)) => {
            let name = socket.to_fs_name::<GenericFilePath>().map_err(io("name the socket"))?;
            let probe = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
            let what = match Stream::from_options(&probe) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    os::unlink_own_socket(socket, id);
                    return Ok(());
                }
                Err(_) => "a socket that another program made",
                Ok(_) => "the socket of a program that does not hold our lock",
            };
            Err(BindError::Occupied { path: socket.to_owned(), what })
        }
    }
}
