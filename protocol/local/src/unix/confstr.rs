//! The directory that macOS provides for a user. It never creates it.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The directory of this user under `/var/folders`. It is the same for every session, whatever the environment. Unlike the directories for
/// caches and temporary files beside it, it is never cleaned.
#[allow(unsafe_code)]
pub(super) fn darwin_user_directory() -> Option<PathBuf> {
    let mut buffer = [0_u8; 1024];
    // SAFETY: the buffer has the length that is passed.
    let needed = unsafe { libc::confstr(libc::_CS_DARWIN_USER_DIR, buffer.as_mut_ptr().cast(), buffer.len()) };
    if needed == 0 || needed > buffer.len() {
        return None; // unknown, or longer than the buffer
    }
    let path = CStr::from_bytes_until_nul(&buffer).ok()?;
    let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
    path.is_absolute().then_some(path)
}
