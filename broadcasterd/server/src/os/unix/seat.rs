//! The right to be the daemon on unix: the lock, the directory it is in, and the socket files that were made under it. Nothing is
//! removed without the lock, and nothing that another process has made.

use super::{
    Beside, DirectoryProblem, FileId, Listener, adopt, listen as listen_on, listens, lock_exclusive, open_lock, plain,
    prepare_directory, set_leaving, socket_file_id, unlink_own_socket,
};
use crate::bind::BindError;
use broadcaster_protocol::endpoint::lock_file;
use interprocess::ConnectWaitMode;
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, ListenerOptions, Stream, ToFsName};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The lock, and what was made under it.
#[derive(Debug)]
pub(crate) struct Seat {
    socket: PathBuf,
    id: FileId,
    /// The socket files that are ours to remove, until they are. One that a service manager made is not.
    made: RefCell<Vec<(PathBuf, FileId)>>,
    lock_path: PathBuf,
    lock_id: FileId,
    lock: RefCell<Option<OwnedFd>>,
}

impl Seat {
    /// The right to serve this socket, which listens then.
    pub(crate) fn take(socket: &Path) -> Result<(Self, Listener), BindError> {
        let lock = lock_directory_of(socket)?;
        make_way(socket)?;
        let (listener, id) = listen(socket)?;
        Ok((Self::new(socket, vec![(socket.to_owned(), id)], lock)?, listener))
    }

    /// The right to serve a socket that somebody else made and listens on.
    pub(crate) fn adopt(listener: &Beside) -> Result<(PathBuf, Self, Listener), BindError> {
        let io = |action| move |source| BindError::Io { action, path: "the inherited socket".into(), source };
        let address = listener.local_addr().map_err(io("look at"))?;
        let Some(socket) = address.as_pathname().filter(|path| path.is_absolute()) else {
            return Err(BindError::Occupied { path: "the inherited socket".into(), what: "without an absolute path" });
        };
        if !listens(listener) {
            return Err(BindError::Occupied {
                path: socket.to_owned(),
                what: "a socket that was passed on and does not listen",
            });
        }
        let lock = lock_directory_of(socket)?;
        let listener = adopt(listener.try_clone().map_err(io("duplicate"))?);
        Ok((socket.to_owned(), Self::new(socket, Vec::new(), lock)?, listener))
    }

    fn new(
        socket: &Path,
        made: Vec<(PathBuf, FileId)>,
        (lock, lock_path, lock_id): (OwnedFd, PathBuf, FileId),
    ) -> Result<Self, BindError> {
        let (made, lock) = (RefCell::new(made), RefCell::new(Some(lock)));
        Ok(Self { socket: socket.to_owned(), id: made_id(socket)?, made, lock_path, lock_id, lock })
    }

    /// One more socket, which is removed with the first.
    pub(crate) fn listen_beside(&mut self, path: &Path) -> Result<Beside, BindError> {
        make_way(path)?;
        let (listener, id) = listen(path)?;
        self.made.get_mut().push((path.to_owned(), id));
        Ok(plain(listener))
    }

    /// Whether a client still finds our socket, and a would-be daemon our lock.
    pub(crate) fn is_in_place(&self) -> bool {
        let is = |path, own| matches!(socket_file_id(path), Ok(Some((id, _))) if id == own);
        is(&self.socket, self.id) && is(&self.lock_path, self.lock_id)
    }

    /// Removes the socket files that we made. The lock stays. Once only: when the lock is gone, a file of the same number can be the
    /// next daemon's.
    pub(crate) fn unlink(&self) {
        self.made.take().iter().for_each(|(path, id)| unlink_own_socket(path, *id));
    }

    /// Writes on the lock file that this daemon is on its way out.
    pub(crate) fn set_leaving(&self) -> io::Result<()> {
        self.lock.borrow().as_ref().map_or(Ok(()), |lock| set_leaving(lock, true))
    }

    /// Lets the next daemon begin.
    pub(crate) fn release(&self) {
        self.unlink();
        self.lock.take();
    }
}

/// Sees that the directory can be trusted, and takes the lock in it.
fn lock_directory_of(socket: &Path) -> Result<(OwnedFd, PathBuf, FileId), BindError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    prepare_directory(directory).map_err(|problem| {
        let path = directory.to_owned();
        match problem {
            DirectoryProblem::NotADirectory => BindError::NotADirectory { path },
            DirectoryProblem::OtherOwner(owner) => BindError::OtherOwner { path, owner, uid: super::euid() },
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
    let listener = listen_on(options).map_err(io("listen on"))?;
    Ok((listener, made_id(socket)?))
}

/// Which file the socket is that was made at this path.
fn made_id(socket: &Path) -> Result<FileId, BindError> {
    let io = |source| BindError::Io { action: "look at", path: socket.to_owned(), source };
    match socket_file_id(socket).map_err(io)? {
        Some((id, true)) => Ok(id),
        _ => Err(BindError::Occupied { path: socket.to_owned(), what: "not the socket that was made there" }),
    }
}

fn take_lock(path: &Path) -> Result<(OwnedFd, FileId), BindError> {
    let io = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    // The file may be removed by others between open and lock: then the lock is on a file that nobody else will see.
    for _ in 0..16 {
        let (file, id) = open_lock(path).map_err(io("open the lock file"))?;
        if !lock_exclusive(&file).map_err(io("lock"))? {
            return Err(BindError::AlreadyRunning { lock: path.to_owned() });
        }
        set_leaving(&file, false).map_err(io("write on"))?;
        if socket_file_id(path).map_err(io("look at"))?.is_some_and(|(now, _)| now == id) {
            return Ok((file, id));
        }
    }
    Err(BindError::Occupied { path: path.to_owned(), what: "removed by somebody again and again" })
}

/// Under the lock: removes the socket that a dead daemon has left, and nothing else.
fn make_way(socket: &Path) -> Result<(), BindError> {
    let io = |action| move |source| BindError::Io { action, path: socket.to_owned(), source };
    match socket_file_id(socket).map_err(io("look at"))? {
        None => Ok(()),
        Some((_, false)) => Err(BindError::Occupied { path: socket.to_owned(), what: "not a socket" }),
        Some((id, true)) => {
            let name = socket.to_fs_name::<GenericFilePath>().map_err(io("name the socket"))?;
            let probe = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
            let what = match Stream::from_options(&probe) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    unlink_own_socket(socket, id);
                    return Ok(());
                }
                Err(_) => "a socket that another program made",
                Ok(_) => "the socket of a program that does not hold our lock",
            };
            Err(BindError::Occupied { path: socket.to_owned(), what })
        }
    }
}
