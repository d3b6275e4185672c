//! Accepting connections in a task, each with its peer, from several sockets at once. It refuses a peer only for lack of descriptors, and
//! never for what the peer is.

use super::fork::open_unshared;
use super::process::open_root;
use super::registration::{Registration, register};
use super::socket::{Listener, Socket};
use super::{peer, stream};
use crate::Peer;
use rustix::net::RecvFlags;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;

/// Accepts from the sockets of a bus, in the runtime in which it was created.
///
/// It keeps a spare descriptor. When this process or the system is out of descriptors, it closes the spare one, accepts the next client in
/// its place, sends a refusal and closes the connection. The client learns the reason at once instead of waiting for an answer.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<Registration<Arc<Listener>>>,
    /// The listener to poll first. It changes with each connection, so that a busy listener does not delay the clients of another.
    first: Cell<usize>,
    /// Sent to a client for which there is no descriptor.
    refusal: Vec<u8>,
    /// To be closed when another descriptor is needed.
    spare: RefCell<Option<OwnedFd>>,
}

impl Acceptor {
    /// Accepts from all `listeners`. A client for which there is no descriptor receives as much of `refusal` as a new socket holds.
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
        Ok(Self { listeners, first: Cell::new(0), refusal, spare: RefCell::new(Some(open_root()?)) })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) if the peer is gone. Another error if this process or the system is out of
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
                            // There may be many such clients; open connections get their turn first.
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
        let mut spare = self.spare.borrow_mut();
        let Some(closed) = spare.take().or_else(|| open_root().ok()) else { return Err(error) };
        drop(closed);
        let accepted = accept_from(listener);
        if let Ok(socket) = &accepted {
            // Closing a socket with unread bytes can discard the refusal, so what the client has sent is read first. Both calls may
            // fail because the client is gone, which needs no reaction.
            let _ = rustix::net::recv(socket, &mut [0; 4096][..], RecvFlags::DONTWAIT);
            let _ = stream::write(socket, &self.refusal);
        }
        let outcome = accepted.map(drop);
        *spare = open_root().ok();
        outcome
    }
}

fn accept_from(listener: &Listener) -> io::Result<Socket> {
    open_unshared(|| listener.accept().map(|(stream, _)| stream.into()))
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn introduce(socket: Socket) -> io::Result<(Socket, Peer)> {
    stream::set_up(&socket)?;
    let peer = peer::peer(&socket)?;
    Ok((socket, peer))
}

/// On these systems both calls fail if the peer is gone already, each with an error of its own.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn introduce(socket: Socket) -> io::Result<(Socket, Peer)> {
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    let peer = peer::peer(&socket).map_err(gone)?;
    stream::set_up(&socket).map_err(gone)?;
    Ok((socket, peer))
}
