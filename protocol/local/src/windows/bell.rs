//! The stand-in for a bell: this system has nothing that rings one. There is never one of it.

use super::pipe::Pipe;
use std::io;
use std::sync::Arc;

/// A bell that cannot exist.
#[derive(Debug)]
pub enum Bell {}

impl Bell {
    /// Fails.
    ///
    /// # Errors
    ///
    /// Always [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Cannot be called.
    pub fn ring(&self) {
        match *self {}
    }

    /// Cannot be called.
    pub fn silence(&self) {
        match *self {}
    }

    /// Cannot be called.
    pub fn readable(&self) -> Arc<Pipe> {
        match *self {}
    }
}
