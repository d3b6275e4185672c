//! The files at a place: directory, disk, socket and lock. It never connects to the socket.

use crate::observe::doctor::facts::{Disk, FileId, Kind, Lock, Node, PlaceFiles};
use crate::observe::doctor::system;
use broadcaster_protocol::endpoint::lock_file;
use rustix::fs::{Access, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;
use std::io;
use std::path::Path;

pub(super) fn inspect_place(socket: &Path) -> PlaceFiles {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let node_of_socket = node(socket);
    PlaceFiles {
        directory: node(directory),
        parent: directory.parent().map_or(Node::Missing, node),
        disk: disk(directory),
        lock: lock(&lock_file(socket), &node_of_socket),
        socket: node_of_socket,
        listens: system::listens(socket),
    }
}

pub(super) fn node(path: &Path) -> Node {
    match rustix::fs::lstat(path) {
        Ok(stat) => {
            #[allow(clippy::useless_conversion)]
            let mode = u32::from(stat.st_mode) & 0o7777;
            Node::Exists { kind: kind(&stat), owner: stat.st_uid, mode }
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Node::Missing,
        Err(errno) => Node::Unknown(io::Error::from(errno).to_string()),
    }
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Socket => Kind::Socket,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        FileType::Fifo => Kind::Fifo,
        _ => Kind::Device,
    }
}

fn disk(directory: &Path) -> Option<Disk> {
    let directory = directory.ancestors().find(|directory| directory.is_dir())?;
    let stat = rustix::fs::statvfs(directory).ok()?;
    let root = rustix::process::geteuid().is_root();
    let blocks_left = if root { stat.f_bfree } else { stat.f_bavail };
    // A file system without a limit reports 0 of 0.
    Some(Disk {
        directory: directory.to_owned(),
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        full: stat.f_blocks > 0 && blocks_left == 0,
        out_of_inodes: stat.f_files > 0 && stat.f_ffree == 0,
        writable: rustix::fs::accessat(rustix::fs::CWD, directory, Access::WRITE_OK, AtFlags::EACCESS).is_ok(),
    })
}

fn lock(path: &Path, socket: &Node) -> Lock {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Lock::Missing,
        Err(errno) => return Lock::Unknown(io::Error::from(errno).to_string()),
    };
    let kind = kind(&stat);
    if kind != Kind::File {
        return Lock::NotAFile(kind);
    }
    let id = FileId::of(&stat);
    let visible = system::lock_holders(&stat).unwrap_or(None);
    match &visible {
        Some(pids) if !pids.is_empty() => {
            Lock::Held { id, holders: pids.iter().map(|&pid| system::process(pid)).collect() }
        }
        // A daemon that stops in an orderly way removes its socket.
        Some(_) if *socket == Node::Missing => Lock::Free,
        _ => match is_held(path) {
            Ok(true) => Lock::Held { id, holders: Vec::new() },
            Ok(false) => Lock::Free,
            Err(error) => Lock::Unknown(error.to_string()),
        },
    }
}

/// Tries a shared lock, released at once, since a holder in another pid namespace is not listed. A daemon that starts at this
/// moment retries after 10 ms.
fn is_held(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
