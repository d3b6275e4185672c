//! Locks, sockets and processes as Linux shows them in `/proc`. Nothing here waits, writes or connects.

use super::facts::{FileId, Holder};
use super::parse;
use rustix::fs::{Stat, major, minor};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The inode of the first pid and user namespace, fixed in the kernel.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// The processes that hold a lock on the file and are visible in this pid namespace.
pub(super) fn lock_holders(stat: &Stat) -> io::Result<Option<Vec<u32>>> {
    let locks = std::fs::read_to_string("/proc/locks")?;
    let device = (major(stat.st_dev), minor(stat.st_dev));
    let holders = parse::lock_holders(&locks, stat.st_ino).into_iter().filter(|line| {
        // Some file systems (btrfs, overlays) show another device here than for the file.
        (line.major, line.minor) == device || has_open(line.pid, FileId { device: stat.st_dev, inode: stat.st_ino })
    });
    Ok(Some(holders.map(|line| line.pid).collect()))
}

fn has_open(pid: u32, id: FileId) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .flatten()
        .any(|file| std::fs::metadata(file.path()).is_ok_and(|file| file.dev() == id.device && file.ino() == id.inode))
}

/// What is visible of a process.
pub(super) fn process(pid: u32) -> Holder {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let text = |name| read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    Holder {
        pid,
        name: text("comm").map(|name| name.trim_end_matches('\n').to_owned()),
        exe_is_gone: exe.as_ref().is_some_and(|exe| exe.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")),
        exe,
        state: text("stat").as_deref().and_then(parse::process_state),
        open_files: text("limits").as_deref().and_then(parse::open_files),
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.map(|_| 1).sum()),
        elsewhere: match (namespace("self"), namespace(&pid.to_string())) {
            (Some(ours), Some(its)) => Some(ours != its),
            _ => None,
        },
    }
}

/// Whether a process listens on a socket bound to this path, determined without connecting to it.
pub(super) fn listens(socket: &Path) -> Option<bool> {
    let sockets = std::fs::read("/proc/net/unix").ok()?;
    Some(parse::listens(&sockets, socket))
}

/// The limit of inotify instances per user.
pub(super) fn inotify_instances_max() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").ok()?.trim().parse().ok()
}

/// What isolates this process from the rest of the machine.
pub(super) fn isolation() -> Vec<&'static str> {
    let is = |name: &str, first: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}")).is_ok_and(|link| link != Path::new(first))
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().to_ascii_lowercase();
    let isolation = [
        (release.contains("microsoft"), "WSL"),
        (is("pid", FIRST_PID_NAMESPACE), "a pid namespace of its own"),
        (is("user", FIRST_USER_NAMESPACE), "a user namespace of its own"),
    ];
    isolation.into_iter().filter_map(|(applies, name)| applies.then_some(name)).collect()
}
