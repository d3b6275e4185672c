//! The stand-in where the system has no notifications that could ring. There is never one of it.

use super::Socket;
use std::io;
use std::sync::Arc;

/// What can not be.
#[derive(Debug)]
pub(crate) enum Bell {}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn ring(&self) {
        match *self {}
    }

    pub(crate) fn silence(&self) {
        match *self {}
    }

    pub(crate) fn readable(&self) -> Arc<Socket> {
        match *self {}
    }
}
