//! The pipe and the process of a program that is started. It never starts one.

use super::instance::own_instance;
use super::pipe::Pipe;
use super::text::wide;
use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command};
use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{CreateFileW, FILE_SHARE_NONE, OPEN_EXISTING};

/// The program gets a console without a window.
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// The end of a pipe that a child writes to.
pub type PipeWriter = OwnedHandle;

/// A pipe for the output of a program that is about to be started: our end, which only reads, and the program's.
///
/// # Errors
///
/// If the system has no more pipes.
#[allow(unsafe_code)]
pub fn output_pipe() -> io::Result<(Pipe, PipeWriter)> {
    let (ours, name) = own_instance("output")?;
    let wide = wide(&name)?;
    let (null, none) = (std::ptr::null(), std::ptr::null_mut());
    // SAFETY: the name ends with a zero; null means no attributes, and no template.
    let theirs = unsafe { CreateFileW(wide.as_ptr(), GENERIC_WRITE, FILE_SHARE_NONE, null, OPEN_EXISTING, 0, none) };
    if theirs == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else has it.
    let theirs = unsafe { OwnedHandle::from_raw_handle(theirs) };
    Ok((Pipe::new(ours)?, theirs))
}

/// Reads what a program has written, without waiting; 0 when every writer is gone.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if it has written nothing.
pub fn read_output(output: &Pipe, buffer: &mut [u8]) -> io::Result<usize> {
    output.read_over(buffer)
}

/// Prepares a program to be started in the background: it opens no window.
pub fn prepare(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Leaves a program alone whose result is no longer wanted. It leaves nothing behind when it ends; killed while it starts the daemon, it
/// would leave a process that never begins.
pub fn abandon(_: &mut Child) {}
