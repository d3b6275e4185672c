//! The system calls of system-broadcaster on Windows, one idea each, with all `unsafe` that they need: named pipes that are
//! read and written without waiting, who is at the other end, and what a started process inherits. It knows nothing of frames,
//! of the bus or of where it is. On other systems this crate is empty.
//!
//! | type or module | what it is |
//! | --- | --- |
//! | `Pipe` | one end of a connected pipe, with the two ways to wait for it: on this thread, or with a waker |
//! | `Server` | the name of a pipe that this process serves, with some instances ready |
//! | `user` | who a process is |
//! | `process` | what a started process takes along |

#![cfg(windows)]

mod event;
mod operation;
mod pipe;
pub mod process;
mod security;
mod server;
pub mod user;

pub use event::Waiter;
pub use pipe::{Connected, Pipe, connect, output_pipe};
pub use server::{Server, client_of, instance};

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;

/// The text as Windows wants it: 16-bit units with a zero at the end.
fn wide(text: &OsStr) -> io::Result<Vec<u16>> {
    let mut units: Vec<u16> = text.encode_wide().collect();
    if units.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name with a zero character in it"));
    }
    units.push(0);
    Ok(units)
}

/// A length as Windows wants it. What is longer is cut: every caller takes a part for an answer.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
