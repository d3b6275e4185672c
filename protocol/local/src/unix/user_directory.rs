//! The directory that the system provides for a user, and who owns a directory. It never reads the environment, and never creates one.

use rustix::fs::Stat;
use std::path::{Path, PathBuf};

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

/// Whether `directory` exists and belongs to the effective user. The environment may name a directory of another user.
pub fn is_own(directory: &Path) -> bool {
    rustix::fs::stat(directory).is_ok_and(|stat| belongs_to_us(&stat))
}

/// Whether `directory` belongs to the effective user, or would if it were created: the nearest existing directory above it does.
pub fn is_or_would_be_own(directory: &Path) -> bool {
    directory.ancestors().find_map(|path| rustix::fs::stat(path).ok()).is_some_and(|stat| belongs_to_us(&stat))
}

fn belongs_to_us(stat: &Stat) -> bool {
    stat.st_uid == super::process::euid()
}
