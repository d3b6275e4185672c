//! The system's own directory for a user. It never looks at the environment.

use std::path::PathBuf;

/// The system's own directory for this user, if it exists and belongs to the user: `/run/user/UID`, or on macOS
/// `/var/folders/../../0`.
pub fn user_directory() -> Option<PathBuf> {
    let euid = super::process::euid();
    path(euid).filter(|directory| rustix::fs::lstat(directory).is_ok_and(|stat| stat.st_uid == euid))
}

#[cfg(not(target_vendor = "apple"))]
fn path(euid: u32) -> Option<PathBuf> {
    Some(PathBuf::from(format!("/run/user/{euid}")))
}

#[cfg(target_vendor = "apple")]
fn path(_: u32) -> Option<PathBuf> {
    super::confstr::darwin_user_directory()
}
