//! The sockets that launchd passes to the agent that it started, through two C functions that no dependency wraps. Nothing else of
//! launchd is used here.

use rustix::io::Errno;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

#[allow(unsafe_code)]
// SAFETY: The declarations match `launch.h` and `stdlib.h`.
unsafe extern "C" {
    fn launch_activate_socket(name: *const c_char, descriptors: *mut *mut c_int, count: *mut usize) -> c_int;
    fn free(memory: *mut c_void);
}

/// The sockets with this name in the agent's property list; none if launchd did not start this process for them. A second call fails.
///
/// # Errors
///
/// Any other error of launchd.
#[allow(unsafe_code)]
pub(super) fn sockets(name: &CStr) -> io::Result<Vec<OwnedFd>> {
    let (mut descriptors, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: The name is NUL-terminated, and both pointers are valid for writes.
    let code = unsafe { launch_activate_socket(name.as_ptr(), &raw mut descriptors, &raw mut count) };
    match Errno::from_raw_os_error(code) {
        _ if code == 0 => {}
        // Not started by launchd, or started for another reason.
        Errno::SRCH | Errno::NOENT => return Ok(Vec::new()),
        other => return Err(other.into()),
    }
    if descriptors.is_null() {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: The array has `count` initialized elements.
        let descriptor = unsafe { *descriptors.add(index) };
        // SAFETY: The descriptor is open and owned by this process.
        sockets.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    // SAFETY: The array was allocated with `malloc` for the caller, and is not used afterwards.
    unsafe { free(descriptors.cast()) };
    Ok(sockets)
}
