//! Accepting connections in a task, each with its peer, from several sockets at once. It never decides whether a peer is welcome, except that
//! it turns away one for which there is no descriptor.

use super::fork::open_unshared;
use super::registration::{Registration, register};
use super::socket::{Listener, Socket};
use super::{peer, stream};
use crate::Peer;
use rustix::fs::{Mode, OFlags};
use rustix::net::RecvFlags;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;

/// The sockets of a bus, to accept from in the runtime in which this was made.
///
/// It keeps one spare descriptor. When this process or the system is out of descriptors, it gives up the spare one, accepts with it,
/// answers the client with a refusal and hangs up, so that a client learns the reason at once and does not wait for an answer.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<Registration<Arc<Listener>>>,
    /// Which listener is asked first, so that one with many clients does not keep those of another waiting.
    first: Cell<usize>,
    /// What a client receives for which there is no descriptor.
    refusal: Vec<u8>,
    spare: RefCell<Option<OwnedFd>>,
}

impl Acceptor {
    /// Accepts from all `listeners`. A client for which there is no descriptor receives `refusal`, as far as a new connection holds it.
    ///
    /// # Errors
    ///
    /// If one cannot be registered with this runtime, or there is no spare descriptor.
    pub fn new(listeners: Vec<Listener>, refusal: Vec<u8>) -> io::Result<Self> {
        let register_one = |listener: Listener| {
            listener.set_nonblocking(true)?;
            register(Arc::new(listener), Interest::READABLE)
        };
        let listeners = listeners.into_iter().map(register_one).collect::<io::Result<_>>()?;
        Ok(Self { listeners, first: Cell::new(0), refusal, spare: RefCell::new(Some(spare()?)) })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) if the peer is gone; or if this process or the system is out of
    /// descriptors, and the spare one is not available either.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        let first = self.first.get();
        let (before, after) = self.listeners.split_at(first.min(self.listeners.len()));
        for (step, listener) in after.iter().chain(before).enumerate() {
            while let Poll::Ready(ready) = listener.poll_read_ready(cx) {
                let mut ready = ready?;
                match accept_from(ready.get_inner()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    // The system reports this even if no client waits.
                    Err(error) if is_out_of_descriptors(&error) => match self.refuse(ready.get_inner(), error) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(()) => {
                            // There may be many of them, and the connections that are open get their turn.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    },
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(socket) => {
                        self.first.set((first + step + 1) % self.listeners.len());
                        return Poll::Ready(introduce(socket));
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Accepts with the spare descriptor, and turns the client away. [`WouldBlock`](io::ErrorKind::WouldBlock) if none waits.
    fn refuse(&self, listener: &Listener, error: io::Error) -> io::Result<()> {
        let mut place = self.spare.borrow_mut();
        let Some(given_up) = place.take().or_else(|| spare().ok()) else { return Err(error) };
        drop(given_up);
        let accepted = accept_from(listener);
        if let Ok(socket) = &accepted {
            // What the client has sent is discarded: to close a socket with something unread in it may cost the client the refusal. It
            // may as well be gone. Either way there is nothing to be done about it.
            let _ = rustix::net::recv(socket, &mut [0; 4096][..], RecvFlags::DONTWAIT);
            let _ = stream::write(socket, &self.refusal);
        }
        let outcome = accepted.map(drop);
        *place = spare().ok();
        outcome
    }
}

fn accept_from(listener: &Listener) -> io::Result<Socket> {
    open_unshared(|| listener.accept().map(|(stream, _)| stream.into()))
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A descriptor of no use but to be given up.
fn spare() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn introduce(socket: Socket) -> io::Result<(Socket, Peer)> {
    stream::set_up(&socket)?;
    let peer = peer::peer(&socket)?;
    Ok((socket, peer))
}

/// These systems can neither report nor set anything for a peer that has gone already, and each fails in its own way.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn introduce(socket: Socket) -> io::Result<(Socket, Peer)> {
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    let peer = peer::peer(&socket).map_err(gone)?;
    stream::set_up(&socket).map_err(gone)?;
    Ok((socket, peer))
}
