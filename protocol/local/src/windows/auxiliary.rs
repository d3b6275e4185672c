//! A pipe that is served next to the bus, for clients of this user only. It never accepts another user.

use super::instance::{client_of, instance};
use super::user;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::windows::io::{IntoRawHandle, OwnedHandle};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::net::windows::named_pipe::NamedPipeServer;

/// A pipe next to the bus, for this user only.
pub struct AuxiliaryListener {
    name: OsString,
    /// The instance for the next client, before it is in a runtime.
    ready: Option<OwnedHandle>,
    next: Option<Next>,
}

/// Waits for the next client of an instance.
type Next = Pin<Box<dyn Future<Output = io::Result<NamedPipeServer>>>>;

impl fmt::Debug for AuxiliaryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuxiliaryListener").field("name", &self.name).finish_non_exhaustive()
    }
}

impl AuxiliaryListener {
    pub(super) fn new(name: OsString, ready: OwnedHandle) -> Self {
        Self { name, ready: Some(ready), next: None }
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The next client, in the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// If the system has no more pipes; [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) if the client belongs to another user.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<NamedPipeServer>> {
        if self.next.is_none() {
            let handle = match self.ready.take() {
                Some(handle) => handle,
                None => instance(&self.name, false)?,
            };
            self.next = Some(next(handle)?);
        }
        let Some(next) = &mut self.next else { return Poll::Pending };
        let connected = ready!(next.as_mut().poll(cx));
        // The next one first: the name is never without an instance.
        self.ready = Some(instance(&self.name, false)?);
        self.next = None;
        let pipe = connected?;
        let (_, user) = client_of(&pipe)?;
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
