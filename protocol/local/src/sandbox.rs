//! Whether this process runs in a sandbox that hides the user's directories. It never looks outside.

use std::ffi::OsStr;
use std::path::Path;

/// The file in which flatpak describes a sandbox, inside it.
const FLATPAK_INFO: &str = "/.flatpak-info";

/// Where snapd mounts the programs that it confines.
const SNAP_DIRECTORIES: [&str; 2] = ["/snap", "/var/lib/snapd/snap"];

/// The file in which the kernel reports the profile that confines this process.
const PROFILE: &str = "/proc/self/attr/current";

/// The kind of sandbox that this process runs in, if any. Its runtime and state directories are then private, and a daemon that it
/// started or hosted would serve no program outside.
pub fn sandbox() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let profile = std::fs::read_to_string(PROFILE).ok();
    recognise(
        Path::new(FLATPAK_INFO).exists(),
        std::env::var_os("SNAP").as_deref(),
        std::env::current_exe().ok().as_deref(),
        profile.as_deref(),
    )
}

/// A program started from a snap inherits its variable. It is confined only if it is part of that snap, and snapd enforces the profile.
fn recognise(
    has_flatpak_info: bool,
    snap: Option<&OsStr>,
    program: Option<&Path>,
    profile: Option<&str>,
) -> Option<&'static str> {
    if has_flatpak_info {
        return Some("flatpak");
    }
    let snap =
        snap.map(Path::new).filter(|snap| SNAP_DIRECTORIES.iter().any(|directory| snap.starts_with(directory)))?;
    let is_part = program.is_some_and(|program| program.starts_with(snap));
    let is_enforced =
        profile.is_none_or(|profile| profile.starts_with("snap.") && profile.trim_end().ends_with("(enforce)"));
    (is_part && is_enforced).then_some("snap")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_confined_program_is_in_a_sandbox() {
        let of = |snap: &str, program: &str, profile: Option<&str>| {
            recognise(false, Some(OsStr::new(snap)), Some(Path::new(program)), profile)
        };
        let (snap, program) = ("/snap/app/17", "/snap/app/17/bin/app");
        let enforced = Some("snap.app.app (enforce)\n");
        assert_eq!(recognise(true, None, None, None), Some("flatpak"));
        assert_eq!(recognise(false, None, Some(Path::new(program)), enforced), None);
        assert_eq!(of(snap, program, enforced), Some("snap"));
        assert_eq!(of(snap, program, None), Some("snap"), "the profile cannot be read");
        assert_eq!(of("/var/lib/snapd/snap/app/17", "/var/lib/snapd/snap/app/17/a", enforced), Some("snap"));
        assert_eq!(of(snap, program, Some("snap.app.app (complain)")), None, "a classic snap");
        assert_eq!(of(snap, "/usr/bin/app", enforced), None, "started from a terminal that is a snap");
        assert_eq!(of("/home/u/snap", "/home/u/snap/app", None), None);
    }
}
