//! Accepting connections in a task, each with its peer, from several pipes at once. It never decides whether a peer is welcome.

use super::pipe::Pipe;
use super::server::Server;
use super::user;
use crate::Peer;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

/// The names of pipes, to accept connections from.
#[derive(Debug)]
pub struct Acceptor(RefCell<Vec<Server>>);

impl Acceptor {
    /// Accepts from all `listeners`. There is no limit of descriptors on this system, for which a client would receive `_refusal`.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub fn new(listeners: Vec<Server>, _refusal: Vec<u8>) -> io::Result<Self> {
        Ok(Self(RefCell::new(listeners)))
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
        let (pipe, pid, user) = poll_fn(|cx| {
            let mut servers = self.0.borrow_mut();
            servers.iter_mut().map(|server| server.poll_accept(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await?;
        Ok((pipe, Peer { pid, uid: user.number_unlike(&own) }))
    }
}
