//! The sockets that launchd listens on for the agent that it has started. Two calls of C that no library of ours has; nothing else is
//! asked of launchd here.

use rustix::io::Errno;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

#[allow(unsafe_code)]
// SAFETY: as `launch.h` and `stdlib.h` declare them.
unsafe extern "C" {
    fn launch_activate_socket(name: *const c_char, descriptors: *mut *mut c_int, count: *mut usize) -> c_int;
    fn free(memory: *mut c_void);
}

/// The sockets that the agent's property list has under this name; none if launchd has not started this process for them. They are
/// given once: a second call fails.
///
/// # Errors
///
/// Whatever else launchd says.
#[allow(unsafe_code)]
pub(super) fn sockets(name: &CStr) -> io::Result<Vec<OwnedFd>> {
    let (mut descriptors, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: the name ends with a zero, and both places are ours to be written.
    let code = unsafe { launch_activate_socket(name.as_ptr(), &raw mut descriptors, &raw mut count) };
    match Errno::from_raw_os_error(code) {
        _ if code == 0 => {}
        // Not started by launchd; started by launchd for something else.
        Errno::SRCH | Errno::NOENT => return Ok(Vec::new()),
        other => return Err(other.into()),
    }
    if descriptors.is_null() {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: launchd has filled in `count` descriptors.
        let descriptor = unsafe { *descriptors.add(index) };
        // SAFETY: it is open, and given to this process alone.
        sockets.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    // SAFETY: the list was allocated for us, and nobody uses it any more.
    unsafe { free(descriptors.cast()) };
    Ok(sockets)
}
