//! The home directory of a user, from the user database. It never reads the environment.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Size limit of an entry of the user database.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// The home directory of the effective user, from the user database; `None` if the user has no entry.
#[allow(unsafe_code)]
pub fn home_directory() -> Option<PathBuf> {
    let mut buffer = vec![0; ENTRY_BYTES_MAX];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: `entry` and `found` may be written to, and the buffer has the length that is passed.
    let result = unsafe {
        libc::getpwuid_r(super::process::euid(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
    };
    if result != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call has found an entry, and has written it to `entry`.
    let directory = unsafe { entry.assume_init() }.pw_dir;
    if directory.is_null() {
        return None;
    }
    // SAFETY: it points to a string in the buffer that ends with a zero byte.
    let directory = unsafe { CStr::from_ptr(directory) };
    let directory = PathBuf::from(OsStr::from_bytes(directory.to_bytes()));
    directory.is_absolute().then_some(directory)
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_has_a_home_directory() {
        if crate::euid() == 0 {
            assert!(super::home_directory().is_some_and(|home| home.is_dir()));
        }
    }
}
