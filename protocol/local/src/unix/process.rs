//! Facts about this process and its limit on open files. It never examines another process.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use std::io;
use std::os::fd::OwnedFd;

/// Effective user id of this process.
pub fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This process.
pub fn pid() -> u32 {
    std::process::id()
}

/// How many files this process may have open.
pub fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Raises the soft limit on open files to the hard limit, as far as the kernel allows. Returns the limit now in force, where `None` is no
/// limit.
pub fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = wanted_descriptors(current, maximum, DESCRIPTORS_MAX);
    if wanted == current {
        return current;
    }
    match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

/// Checks that this process can open `count` more files.
///
/// # Errors
///
/// If it cannot, for its own limit or the system's.
pub fn check_descriptors(count: usize) -> io::Result<()> {
    (0..count).map(|_| open_root()).collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// Opens a file that exists on every system.
pub(super) fn open_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The highest limit that the kernel accepts, whatever the hard limit: `OPEN_MAX`.
const DESCRIPTORS_MAX: Option<u64> = if cfg!(target_vendor = "apple") { Some(10_240) } else { None };

/// The limit to request; `None` is no limit. It is never lower than the current one.
fn wanted_descriptors(current: Option<u64>, hard: Option<u64>, most: Option<u64>) -> Option<u64> {
    let wanted = [hard, most].into_iter().flatten().min();
    match (wanted, current) {
        (Some(wanted), Some(current)) => Some(wanted.max(current)),
        (Some(_), None) | (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::wanted_descriptors;

    #[test]
    fn soft_limit_is_raised_to_the_hard_one_as_far_as_the_kernel_allows() {
        let most = Some(10_240);
        assert_eq!(wanted_descriptors(Some(256), Some(4096), None), Some(4096));
        assert_eq!(wanted_descriptors(Some(256), None, None), None);
        assert_eq!(
            wanted_descriptors(Some(256), None, most),
            Some(10_240),
            "`OPEN_MAX` is requested if there is no hard limit"
        );
        assert_eq!(wanted_descriptors(Some(256), Some(4096), most), Some(4096));
        assert_eq!(wanted_descriptors(Some(20_000), None, most), Some(20_000), "never lowered");
        assert_eq!(wanted_descriptors(None, None, most), None);
    }
}
