//! Connecting to a pipe by its name, with a look at who serves it. It never waits, and never sends a byte.

use super::lock;
use super::operation::code;
use super::pipe::Pipe;
use super::text::wide;
use super::user;
use crate::Connected;
use std::ffi::OsStr;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use windows_sys::Win32::Foundation::{
    ERROR_FILE_NOT_FOUND, ERROR_INVALID_PARAMETER, ERROR_PIPE_BUSY, GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, FILE_SHARE_NONE, OPEN_EXISTING, SECURITY_IDENTIFICATION, SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::Pipes::GetNamedPipeServerProcessId;

/// Whether connecting to a pipe can make a service manager start a daemon: it never does.
pub const CONNECT_ACTIVATES: bool = false;

/// Connects to the daemon at `socket` without waiting, and checks that it belongs to this user.
///
/// A pipe whose server has died stays, and looks busy, for as long as a client holds its end. The lock decides then.
///
/// # Errors
///
/// If the system refuses for another reason than those in [`Connected`].
pub fn connect(socket: &Path) -> io::Result<Connected> {
    match connect_pipe(socket.as_os_str())? {
        Connected::Busy if lock::is_unlocked(socket) => Ok(Connected::NotListening),
        connected => Ok(connected),
    }
}

/// Whether a process serves this pipe, whichever user owns it.
///
/// # Errors
///
/// If it cannot be known.
pub fn is_accepting(socket: &Path) -> io::Result<bool> {
    Ok(!matches!(connect_pipe(socket.as_os_str())?, Connected::NotListening))
}

/// Connects to the pipe with this name, without waiting, and checks that a process of this user serves it. The server can identify this
/// process, and cannot act in its name.
///
/// # Errors
///
/// If the system refuses for another reason than those in [`Connected`].
#[allow(unsafe_code)]
pub fn connect_pipe(name: &OsStr) -> io::Result<Connected> {
    let name = wide(name)?;
    let access = GENERIC_READ | GENERIC_WRITE;
    let flags = FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION;
    let (null, none) = (std::ptr::null(), std::ptr::null_mut());
    // SAFETY: the name ends with a zero; null means no attributes, and no template.
    let handle = unsafe { CreateFileW(name.as_ptr(), access, FILE_SHARE_NONE, null, OPEN_EXISTING, flags, none) };
    if handle == INVALID_HANDLE_VALUE {
        let error = io::Error::last_os_error();
        return match code(&error) {
            ERROR_FILE_NOT_FOUND => Ok(Connected::NotListening),
            ERROR_PIPE_BUSY => Ok(Connected::Busy),
            _ => Err(error),
        };
    }
    // SAFETY: the handle was just opened, and nothing else has it.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    let mut pid = 0;
    // SAFETY: the handle is open, and `pid` is a place for a number.
    if unsafe { GetNamedPipeServerProcessId(handle.as_raw_handle(), &raw mut pid) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let own = user::current()?;
    // The owner is the one fact that no other user can forge; a process id may belong to another process by now.
    let owner = user::owner(&handle)?;
    if owner != own {
        return Ok(Connected::OtherUser(owner.number_unlike(&own)));
    }
    match user::of_process(pid) {
        Ok(server) if server == own => Ok(Connected::Yes(Pipe::new(handle)?)),
        Ok(server) => Ok(Connected::OtherUser(server.number_unlike(&own))),
        // It has just ended. Another error means that this process may not look at it.
        Err(error) if code(&error) == ERROR_INVALID_PARAMETER => Ok(Connected::Busy),
        Err(error) => Err(error),
    }
}
