//! The name of a pipe that this process serves, with some instances ready for those who connect at once. Takes no decision about
//! who may: the descriptor has decided, and what the caller makes of the other end's process.

use crate::event::Waiter;
use crate::operation::{Operation, code};
use crate::pipe::Pipe;
use crate::security::Descriptor;
use crate::user::{self, Sid};
use crate::wide;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::task::{Context, Poll};
use windows_sys::Win32::Foundation::{ERROR_NO_DATA, ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, GetNamedPipeClientProcessId, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};

/// How many instances wait for somebody to connect. More who come at the very same moment find the pipe busy and try again.
const READY: usize = 16;

/// How much a pipe takes in each direction before its writer has to wait.
const BUFFER_BYTES: u32 = 256 * 1024;

/// A pipe's name, served by this process.
#[derive(Debug)]
pub struct Server {
    name: OsString,
    descriptor: Descriptor,
    instances: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    connect: Operation,
    connected: bool,
    waiter: Waiter,
    handle: Option<OwnedHandle>,
}

impl Server {
    /// Serves this name, for the user of this process only, and for this machine only. Who connects from now on is accepted by
    /// and by.
    ///
    /// # Errors
    ///
    /// If another user serves it already, or the system refuses.
    pub fn new(name: &OsStr) -> io::Result<Self> {
        let mut server = Self { name: name.to_owned(), descriptor: Descriptor::own_user()?, instances: Vec::new() };
        server.instances.push(Instance::new(create_first(name, &server.descriptor)?)?);
        while server.instances.len() < READY {
            server.instances.push(Instance::new(create(name, &server.descriptor, false)?)?);
        }
        Ok(server)
    }

    /// Somebody who has connected, with process and user.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Pipe, u32, Sid)>> {
        for instance in &mut self.instances {
            match instance.poll_connected(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    // The next one first: the name is never without an instance that somebody can connect to.
                    let next = create(&self.name, &self.descriptor, false).and_then(Instance::new);
                    let next = match next {
                        Ok(next) => next,
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    return Poll::Ready(std::mem::replace(instance, next).into_pipe());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }
}

impl Instance {
    fn new(handle: OwnedHandle) -> io::Result<Self> {
        let (connect, waiter) = (Operation::new()?, Waiter::new()?);
        let mut instance = Self { connect, connected: false, waiter, handle: Some(handle) };
        instance.listen()?;
        Ok(instance)
    }

    #[allow(unsafe_code)]
    fn listen(&mut self) -> io::Result<()> {
        let Some(handle) = self.handle.as_ref().map(AsRawHandle::as_raw_handle) else { return Ok(()) };
        // SAFETY: the handle is open, and the operation keeps its memory in place until it has ended.
        match self.connect.start(|overlapped| unsafe { ConnectNamedPipe(handle, overlapped) } != 0) {
            // It came, and may have gone again, before we asked: the first read will tell.
            Err(error) if matches!(code(&error), ERROR_PIPE_CONNECTED | ERROR_NO_DATA) => self.connected = true,
            other => other?,
        }
        Ok(())
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(handle) = self.handle.as_ref().map(AsRawHandle::as_raw_handle) else { return Poll::Pending };
        loop {
            if self.connected {
                return Poll::Ready(Ok(()));
            }
            // Whatever it says, somebody was there: the first read tells the rest.
            self.connected = self.connect.outcome(handle, false).is_some();
            if !self.connected {
                std::task::ready!(self.waiter.poll(cx, self.connect.event()))?;
            }
        }
    }

    fn into_pipe(mut self) -> io::Result<(Pipe, u32, Sid)> {
        let Some(handle) = self.handle.take() else { return Err(io::ErrorKind::NotConnected.into()) };
        let (pid, sid) = client_of(&handle)?;
        Ok((Pipe::new(handle)?, pid, sid))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            self.connect.cancel(handle.as_raw_handle());
        }
    }
}

/// Who is at the other end of a pipe's server end: process and user.
///
/// # Errors
///
/// [`NotConnected`](io::ErrorKind::NotConnected) if there is nobody, or nobody any more.
#[allow(unsafe_code)]
pub fn client_of(pipe: &impl AsRawHandle) -> io::Result<(u32, Sid)> {
    let mut pid = 0;
    // SAFETY: the handle is open, and `pid` is a place for a number.
    if unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) } == 0 {
        return Err(io::ErrorKind::NotConnected.into());
    }
    // Who can not be looked at has ended by now.
    let sid = user::of_process(pid).map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
    Ok((pid, sid))
}

/// An instance of a pipe with this name that somebody may connect to; the first one if nobody serves the name yet, or if `first` is
/// wanted and those who are left of it belong to a server of this user that has ended.
///
/// # Errors
///
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if another user serves the name; or if the system refuses.
pub fn instance(name: &OsStr, first: bool) -> io::Result<OwnedHandle> {
    let descriptor = Descriptor::own_user()?;
    if first { create_first(name, &descriptor) } else { create(name, &descriptor, false) }
}

/// The first instance of this server. A pipe outlives its server for as long as a client has not let go of it; then the name is
/// still there, and ours to go on with if we are its owner. The caller has the lock, so that no other server of ours is alive.
fn create_first(name: &OsStr, descriptor: &Descriptor) -> io::Result<OwnedHandle> {
    match create(name, descriptor, true) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let handle = create(name, descriptor, false)?;
            if user::owner(&handle)? == user::current()? { Ok(handle) } else { Err(error) }
        }
        other => other,
    }
}

/// One more instance of the pipe; `first`: no other may be there, not even somebody else's.
#[allow(unsafe_code)]
pub(crate) fn create(name: &OsStr, descriptor: &Descriptor, first: bool) -> io::Result<OwnedHandle> {
    let name = wide(name)?;
    let first = if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
    let open = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first;
    let mode = PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
    let attributes = descriptor.attributes();
    // SAFETY: the name ends with a zero, and the attributes and the descriptor in them live until the call returns.
    let handle = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            open,
            mode,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER_BYTES,
            BUFFER_BYTES,
            0,
            &raw const attributes,
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}
