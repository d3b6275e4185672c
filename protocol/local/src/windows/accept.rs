//! Accepting connections in a task, each with its peer. It never decides whether a peer is welcome.

use super::pipe::Pipe;
use super::server::Server;
use super::user;
use crate::Peer;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;

/// A pipe's name, to accept connections from.
#[derive(Debug)]
pub struct Acceptor(RefCell<Server>);

impl Acceptor {
    /// Accepts from `listener`.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub fn new(listener: Server) -> io::Result<Self> {
        Ok(Self(RefCell::new(listener)))
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the peer is gone; or if the system has no more pipes.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<(Pipe, Peer)> {
        let own = user::current()?;
        let (pipe, pid, user) = poll_fn(|cx| self.0.borrow_mut().poll_accept(cx)).await?;
        Ok((pipe, Peer { pid, uid: user.number_unlike(&own) }))
    }
}
