//! The name of a pipe that this process serves, with some instances ready for clients that connect at once. It never decides which client
//! is welcome.

use super::event::Waiter;
use super::instance::{client_of, create, create_first};
use super::operation::{Operation, code};
use super::pipe::Pipe;
use super::security::Descriptor;
use super::user::Sid;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::task::{Context, Poll};
use windows_sys::Win32::Foundation::{ERROR_NO_DATA, ERROR_PIPE_CONNECTED};
use windows_sys::Win32::System::Pipes::ConnectNamedPipe;

/// How many instances wait for a client. More clients at the same moment find the pipe busy and try again.
const READY: usize = 16;

/// A pipe's name, served by this process.
#[derive(Debug)]
pub struct Server {
    name: OsString,
    descriptor: Descriptor,
    instances: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    /// First, so that it ends before the event that it waits for.
    waiter: Waiter,
    connect: Operation,
    connected: bool,
    handle: Option<OwnedHandle>,
}

impl Server {
    /// Serves this name, for the user of this process only, and for this machine only. Clients may connect from now
    /// on.
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

    /// The next client, with its process and user.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Pipe, u32, Sid)>> {
        for instance in &mut self.instances {
            match instance.poll_connected(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    // The next one first: the name is never without an instance to connect to.
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
            // The client came, and may have gone again, before this call. The first read shows it.
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
            // Whatever the outcome, a client was there. The first read shows the rest.
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
