//! Registering a socket with a tokio runtime, for one direction. It never reads or writes.

use super::fork::open_unshared;
use super::socket::{Listener, Socket};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket that is registered with a runtime.
pub type Registration<S> = AsyncFd<S>;

/// Shared ownership of a socket: [`Arc`] or [`Rc`]. Its descriptor stays the same as long as it lives.
pub trait Shared: AsRawFd + sealed::Sealed {}

impl Shared for Arc<Socket> {}
impl Shared for Rc<Socket> {}
impl Shared for Arc<Listener> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::sync::Arc<super::Socket> {}
    impl Sealed for std::rc::Rc<super::Socket> {}
    impl Sealed for std::sync::Arc<super::Listener> {}
}

/// Registers `socket` with the current runtime, for one direction only: a socket that is registered for writing wakes its task each time
/// that its peer has read.
///
/// # Errors
///
/// If the socket is registered there already, or the system is out of memory for it.
#[allow(unsafe_code)]
pub fn register<S: Shared>(socket: S, interest: Interest) -> io::Result<Registration<S>> {
    // SAFETY: the registration shares the ownership of the descriptor, which therefore stays open and the same as long as the registration
    // lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Registers `socket` a second time, by a descriptor of its own, so that this registration is independent of the first.
///
/// # Errors
///
/// If this process or the system is out of descriptors, or out of memory for the registration.
pub fn register_again(socket: &Rc<Socket>, interest: Interest) -> io::Result<Registration<Rc<Socket>>> {
    register(Rc::new(open_unshared(|| socket.try_clone())?), interest)
}
