//! A pipe that is waited for in a task, in any runtime. It never reads or writes.

use super::event::Waiter;
use super::pipe::Pipe;
use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;

/// Shared ownership of a pipe: [`Arc`] or [`Rc`].
pub trait Shared: Deref<Target = Pipe> + sealed::Sealed {}

impl Shared for Arc<Pipe> {}
impl Shared for Rc<Pipe> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::sync::Arc<super::Pipe> {}
    impl Sealed for std::rc::Rc<super::Pipe> {}
}

/// A pipe that a task can wait for.
#[derive(Debug)]
pub struct Registration<S> {
    /// First, so that it ends before the event that it waits for.
    waiter: Waiter,
    socket: S,
}

/// The pipe was ready. The next use shows whether it still is, so there is nothing to clear.
#[derive(Debug)]
pub struct Ready;

impl Ready {
    /// Does nothing.
    pub fn clear_ready(&mut self) {}
}

/// Prepares to wait for the pipe in a task.
///
/// # Errors
///
/// If the system has no memory for it.
pub fn register<S: Shared>(socket: S, _: Interest) -> io::Result<Registration<S>> {
    Ok(Registration { socket, waiter: Waiter::new()? })
}

/// Prepares to wait for the same pipe a second time.
///
/// # Errors
///
/// If the system has no memory for it.
pub fn register_again(socket: &Rc<Pipe>, interest: Interest) -> io::Result<Registration<Rc<Pipe>>> {
    register(Rc::clone(socket), interest)
}

impl<S: Shared> Registration<S> {
    /// The pipe.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Ready when there is something to read, or no writer is left.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket.poll_readable(cx, &self.waiter).map_ok(|()| Ready)
    }

    /// Ready when the pipe has taken what is under way.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket.poll_writable(cx, &self.waiter).map_ok(|()| Ready)
    }

    /// Waits until the pipe has taken what is under way.
    ///
    /// # Errors
    ///
    /// If the system refuses to wait.
    pub async fn writable(&self) -> io::Result<Ready> {
        poll_fn(|cx| self.poll_write_ready(cx)).await
    }
}
