//! The security descriptor of what this process makes, which only this user may open. It never grants anything to another user.

use super::text::{length, wide};
use super::user;
use std::ffi::OsStr;
use std::io;
use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};

/// A security descriptor.
#[derive(Debug)]
pub(super) struct Descriptor(PSECURITY_DESCRIPTOR);

// SAFETY: it is memory that is only read until it is freed, and belongs to no thread.
#[allow(unsafe_code)]
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// The user of this process is the owner and has full access. No other user has any, and nothing is inherited.
    #[allow(unsafe_code)]
    pub(super) fn own_user() -> io::Result<Self> {
        let sid = user::current()?;
        let text = wide(OsStr::new(&format!("O:{sid}D:P(A;;GA;;;{sid})")))?;
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and `descriptor` is a place for a pointer.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                std::ptr::null_mut(),
            )
        };
        if made == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(descriptor)) }
    }

    /// As the system wants it; the handle is not inherited by other processes.
    pub(super) fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: length(size_of::<SECURITY_ATTRIBUTES>()),
            lpSecurityDescriptor: self.0,
            bInheritHandle: 0,
        }
    }
}

impl Drop for Descriptor {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the system has allocated it for us in this way, and it is freed once.
        unsafe { LocalFree(self.0) };
    }
}
