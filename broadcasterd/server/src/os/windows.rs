//! The server's system calls on Windows: named pipes instead of sockets, and a lock file apart from them. Two `unsafe` blocks:
//! telling a buffer how much was read into it, and giving a handle that we own to tokio.

use crate::bind::BindError;
use broadcaster_protocol::endpoint::{DIRECTORY_NAME, pipe_lock_file};
use broadcaster_windows::{Connected, Pipe, Server, Waiter, user};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, TryLockError};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{IntoRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::net::windows::named_pipe::NamedPipeServer;

/// A connected pipe.
pub(crate) type Socket = Pipe;

/// A pipe's name that is served.
pub(crate) type Listener = Server;

/// Who others may be while we have the lock file open: readers and writers, but nobody who deletes it.
const SHARE_READ_AND_WRITE: u32 = 3;

/// A number for the user of this process, which no other user has in an answer of [`Acceptor::accept`].
pub(crate) fn euid() -> u32 {
    user::current().map_or(0, |user| user.number())
}

/// This process.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Reads what is there into `target`, without waiting; 0 is the end of the stream.
#[allow(unsafe_code)]
pub(crate) fn read(socket: &Pipe, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
    let room = target.remaining_mut();
    let buffer = target.get_mut();
    let spare = buffer.spare_capacity_mut();
    let room = room.min(spare.len());
    let len = socket.read(&mut spare[..room])?;
    // SAFETY: the pipe has initialised the first `len` bytes of the spare capacity, and `len` is at most its size.
    unsafe { buffer.advance_mut(len) };
    Ok(len)
}

/// Writes what the pipe takes of `bytes`, without waiting.
pub(crate) fn write(socket: &Pipe, bytes: &[u8]) -> io::Result<usize> {
    socket.write(&[IoSlice::new(bytes)])
}

/// Writes what the pipe takes of `slices`, in order, without waiting.
pub(crate) fn write_vectored(socket: &Pipe, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    socket.write(slices)
}

/// A pipe that is waited for until it is readable, or has ended.
#[derive(Debug)]
pub(crate) struct Readable(Rc<Pipe>, Waiter);

/// A pipe that is waited for until it takes more.
#[derive(Debug)]
pub(crate) struct Writable(Rc<Pipe>, Waiter);

/// It was ready. Whether it still is shows when it is used, so there is nothing to clear.
#[derive(Debug)]
pub(crate) struct Ready;

/// Waits for the pipe to be readable.
pub(crate) fn readable(socket: &Rc<Pipe>) -> io::Result<Readable> {
    Ok(Readable(Rc::clone(socket), Waiter::new()?))
}

/// Waits for the pipe to be writable.
pub(crate) fn writable(socket: &Rc<Pipe>) -> io::Result<Writable> {
    Ok(Writable(Rc::clone(socket), Waiter::new()?))
}

impl Readable {
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.0.poll_readable(cx, &self.1).map_ok(|()| Ready)
    }
}

impl Writable {
    pub(crate) async fn writable(&self) -> io::Result<Ready> {
        poll_fn(|cx| self.0.poll_writable(cx, &self.1)).await.map(|()| Ready)
    }
}

impl Ready {
    pub(crate) fn clear_ready(&mut self) {}
}

/// Ends both directions, as far as a pipe has directions: whoever waits for it looks again and lets go of it. What was written can
/// still be read at the other end.
pub(crate) fn shut_down(socket: &Pipe) {
    socket.interrupt();
}

/// What was sent before [`stop_reading`] can be read after it.
pub(crate) const STOPPED_SOCKET_KEEPS_BYTES: bool = true;

/// A pipe can not be closed towards us alone: what the other end writes from now on is lost.
pub(crate) fn stop_reading(_: &Pipe) {}

/// Whether a process of this user serves this pipe.
pub(crate) fn answers(path: &Path) -> bool {
    matches!(broadcaster_windows::connect(path.as_os_str()), Ok(Connected::Yes(_) | Connected::Busy))
}

/// Who connects to a pipe.
#[derive(Debug)]
pub(crate) struct Acceptor(Server);

impl Acceptor {
    pub(crate) fn new(listener: Listener) -> io::Result<Self> {
        Ok(Self(listener))
    }

    /// The next who connects, with process and user.
    pub(crate) async fn accept(&mut self) -> io::Result<(Socket, u32, u32)> {
        let own = user::current()?;
        let (pipe, pid, user) = poll_fn(|cx| self.0.poll_accept(cx)).await?;
        Ok((pipe, pid, user.number_beside(&own)))
    }
}

/// There is no limit to raise: `None`.
pub fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// The lock. Neither it nor a pipe's name can be taken away from a living process.
#[derive(Debug)]
pub(crate) struct Seat {
    lock: RefCell<Option<File>>,
}

impl Seat {
    /// The right to serve this pipe, which can be connected to then.
    pub(crate) fn take(socket: &Path) -> Result<(Self, Listener), BindError> {
        let lock = take_lock(&lock_path(socket)?)?;
        let listener = Server::new(socket.as_os_str()).map_err(|error| not_served(socket, error))?;
        Ok((Self { lock: RefCell::new(Some(lock)) }, listener))
    }

    /// A pipe is served by whoever made it: none can be passed on.
    pub(crate) fn adopt(listener: &Beside) -> Result<(PathBuf, Self, Listener), BindError> {
        Err(BindError::Occupied { path: listener.name.clone().into(), what: "a pipe, and can not be passed on" })
    }

    /// One more pipe.
    #[allow(clippy::unused_self)]
    pub(crate) fn listen_beside(&mut self, path: &Path) -> Result<Beside, BindError> {
        let name = path.as_os_str().to_owned();
        match broadcaster_windows::instance(&name, true) {
            Ok(ready) => Ok(Beside { name, ready: Some(ready), next: None }),
            Err(error) => Err(not_served(path, error)),
        }
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn is_in_place(&self) -> bool {
        true
    }

    /// A name ends with the last handle: there is nothing to remove.
    #[allow(clippy::unused_self)]
    pub(crate) fn unlink(&self) {}

    /// Writes on the lock file that this daemon is on its way out.
    pub(crate) fn set_leaving(&self) -> io::Result<()> {
        self.lock.borrow().as_ref().map_or(Ok(()), |lock| lock.set_len(1))
    }

    /// Lets the next daemon begin.
    pub(crate) fn release(&self) {
        self.lock.take();
    }
}

fn not_served(path: &Path, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            BindError::Occupied { path: path.to_owned(), what: "a pipe that another program serves" }
        }
        _ => BindError::Io { action: "serve", path: path.to_owned(), source },
    }
}

/// The lock file of a bus: in the user's local data, since a pipe is in no directory.
fn lock_path(socket: &Path) -> Result<PathBuf, BindError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Io { action, path, source }
    };
    let project = directories::ProjectDirs::from("", "", DIRECTORY_NAME).ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::NotFound, "this user has no directory for local data");
        io("find the lock of", socket)(source)
    })?;
    let directory = project.data_local_dir();
    std::fs::create_dir_all(directory).map_err(io("make the directory", directory))?;
    let user = user::current().map_err(io("find the user of", socket))?;
    Ok(pipe_lock_file(directory, socket, user.as_str()))
}

fn take_lock(path: &Path) -> Result<File, BindError> {
    let io = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    let mut options = File::options();
    options.create(true).truncate(false).write(true).share_mode(SHARE_READ_AND_WRITE);
    let file = options.open(path).map_err(io("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map(|()| file).map_err(io("write on")),
        Err(TryLockError::WouldBlock) => Err(BindError::AlreadyRunning { lock: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io("lock")(source)),
    }
}

/// A pipe beside the bus, for this user only.
pub struct Beside {
    name: OsString,
    /// The instance that the next client finds, before it is in a runtime.
    ready: Option<OwnedHandle>,
    next: Option<Next>,
}

/// Waits for the next client of an instance.
type Next = Pin<Box<dyn Future<Output = io::Result<NamedPipeServer>>>>;

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Beside {
    /// The next who connects, in the runtime that this is called in. Somebody who is not this user is turned away.
    ///
    /// # Errors
    ///
    /// If the system has no more pipes, or who connected is gone or another user.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<NamedPipeServer>> {
        if self.next.is_none() {
            let handle = match self.ready.take() {
                Some(handle) => handle,
                None => broadcaster_windows::instance(&self.name, false)?,
            };
            self.next = Some(next(handle)?);
        }
        let Some(next) = &mut self.next else { return Poll::Pending };
        let connected = ready!(next.as_mut().poll(cx));
        // The next one first: the name is never without an instance.
        self.ready = Some(broadcaster_windows::instance(&self.name, false)?);
        self.next = None;
        let pipe = connected?;
        let (_, user) = broadcaster_windows::client_of(&pipe)?;
        if user != user::current()? {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "another user")));
        }
        Poll::Ready(Ok(pipe))
    }
}

#[allow(unsafe_code)]
fn next(handle: OwnedHandle) -> io::Result<Next> {
    // SAFETY: the handle is that of a pipe's server end, opened for overlapped use; it is ours and is given away.
    let pipe = unsafe { NamedPipeServer::from_raw_handle(handle.into_raw_handle()) }?;
    Ok(Box::pin(async move {
        pipe.connect().await?;
        Ok(pipe)
    }))
}
