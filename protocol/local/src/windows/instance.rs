//! Single instances of a pipe that this process serves, and the process at their other end. It never accepts a connection.

use super::security::Descriptor;
use super::text::wide;
use super::user::{self, Sid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::atomic::{AtomicU32, Ordering};
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, GetNamedPipeClientProcessId, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE,
    PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};

/// How much a pipe takes in each direction before its writer has to wait.
const BUFFER_BYTES: u32 = 256 * 1024;

/// The process and the user at the other end of a pipe's server end.
///
/// # Errors
///
/// [`NotConnected`](io::ErrorKind::NotConnected) if there is none, or it has ended.
#[allow(unsafe_code)]
pub fn client_of(pipe: &impl AsRawHandle) -> io::Result<(u32, Sid)> {
    let mut pid = 0;
    // SAFETY: the handle is open, and `pid` is a place for a number.
    if unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) } == 0 {
        return Err(io::ErrorKind::NotConnected.into());
    }
    // A process that cannot be looked at has ended by now.
    let sid = user::of_process(pid).map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
    Ok((pid, sid))
}

/// An instance of a pipe with this name, to connect to. With `first` it is the first one, or goes on with a name that a server of this user has
/// left.
///
/// # Errors
///
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if another user serves the name; or if the system refuses.
pub fn instance(name: &OsStr, first: bool) -> io::Result<OwnedHandle> {
    let descriptor = Descriptor::own_user()?;
    if first { create_first(name, &descriptor) } else { create(name, &descriptor, false) }
}

/// The first instance of this server. A pipe outlives its server for as long as a client holds it; then the name is still there, and can be
/// gone on with by its owner. The caller holds the lock, so that no other server of this user is alive.
pub(super) fn create_first(name: &OsStr, descriptor: &Descriptor) -> io::Result<OwnedHandle> {
    match create(name, descriptor, true) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let handle = create(name, descriptor, false)?;
            if user::owner(&handle)? == user::current()? { Ok(handle) } else { Err(error) }
        }
        other => other,
    }
}

/// The only instance of a new pipe whose other end this process opens, and the name of that pipe.
pub(super) fn own_instance(purpose: &str) -> io::Result<(OwnedHandle, OsString)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = OsString::from(format!(r"\\.\pipe\broadcaster-{purpose}-{}-{number}", std::process::id()));
    Ok((create(&name, &Descriptor::own_user()?, true)?, name))
}

/// One more instance of the pipe. With `first` there must be no other, not even another user's.
#[allow(unsafe_code)]
pub(super) fn create(name: &OsStr, descriptor: &Descriptor, first: bool) -> io::Result<OwnedHandle> {
    let name = wide(name)?;
    let first = if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
    let open = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first;
    let mode = PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
    let attributes = descriptor.attributes();
    // SAFETY: the name ends with a zero, and the attributes and the descriptor in them live until the call returns.
    let handle = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            open,
            mode,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER_BYTES,
            BUFFER_BYTES,
            0,
            &raw const attributes,
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}
