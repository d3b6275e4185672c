//! Accepting connections in a task, each with its peer. It never decides whether a peer is welcome.

use super::registration::{Registration, register};
use super::socket::{Listener, Socket};
use super::{peer, stream};
use crate::Peer;
use std::io;
use std::sync::Arc;
use tokio::io::Interest;

/// A listening socket, to accept from in the runtime in which it was made.
#[derive(Debug)]
pub struct Acceptor {
    listener: Registration<Arc<Listener>>,
}

impl Acceptor {
    /// Accepts from `listener`.
    ///
    /// # Errors
    ///
    /// If it cannot be registered with this runtime.
    pub fn new(listener: Listener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: register(Arc::new(listener), Interest::READABLE)? })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) if the peer is gone; or if this process or the system is out of
    /// descriptors.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        loop {
            let mut ready = self.listener.readable().await?;
            match ready.get_inner().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
                Ok((stream, _)) => return introduce(stream.into()),
            }
        }
    }
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
