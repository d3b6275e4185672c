//! What the client asks of macOS alone. One `unsafe` block: a call of C that fills a buffer.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory of this user under `/var/folders`: the same for every session and whatever the environment says. Unlike its
/// neighbours for caches and temporary files it is never cleaned.
pub(super) fn user_directory() -> Option<PathBuf> {
    let mut buffer = [0_u8; 1024];
    let path = directory_into(&mut buffer)?;
    path.is_absolute().then(|| path.to_owned())
}

#[allow(unsafe_code)]
fn directory_into(buffer: &mut [u8]) -> Option<&Path> {
    // SAFETY: the buffer is ours and has as many bytes as are named.
    let needed = unsafe { libc::confstr(libc::_CS_DARWIN_USER_DIR, buffer.as_mut_ptr().cast(), buffer.len()) };
    if needed == 0 || needed > buffer.len() {
        return None; // the system does not tell, or has not room enough to
    }
    let path = CStr::from_bytes_until_nul(buffer).ok()?;
    Some(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
}
