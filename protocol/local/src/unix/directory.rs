//! The directory of a bus, held open: whether it can be trusted, and the socket files in it. The last component of its path is never
//! followed if it is a link, and a file that another process created is never removed.
//!
//! A directory is checked through its descriptor, and files are looked up, locked and removed relative to it, so that the directory that
//! was checked is the one that is used. Only creating a socket and connecting to one take a path.
//!
//! A directory is created only where the user could have created it: the nearest existing directory above it belongs to the effective user
//! or is shared by all users, such as `/tmp`. Root in the environment of a user, as with `sudo -E`, thus leaves no directory behind that
//! locks the user out.

use super::fork::open_unshared;
use super::process;
#[cfg(feature = "tokio")]
use super::socket::AuxiliaryListener;
use super::socket::Listener;
use crate::DirectoryProblem;
use interprocess::TryClone;
use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The directory that holds the socket and the lock of a bus.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    descriptor: OwnedFd,
    id: FileId,
}

/// Identifies a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::cast_sign_loss)]
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// A socket file in a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    name: OsString,
    id: FileId,
}

/// What exists under the name of a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A socket.
    Socket(SocketFile),
    /// Something else.
    Other,
}

impl Directory {
    /// The path of the directory that holds `socket`.
    pub fn path_of(socket: &Path) -> PathBuf {
        socket.parent().unwrap_or(Path::new("/")).to_owned()
    }

    /// Opens the directory that holds `socket`. If there is none, creates it for this user only.
    ///
    /// # Errors
    ///
    /// If it is not a directory, belongs to another user, or other users may write into it; or if it does not exist, and the directory above
    /// it belongs to another user.
    pub fn open(socket: &Path) -> Result<Self, DirectoryProblem> {
        let path = Self::path_of(socket);
        let descriptor = open_or_make(&path)?;
        let stat = rustix::fs::fstat(&descriptor).map_err(|errno| DirectoryProblem::Io("look at", errno.into()))?;
        if stat.st_uid != process::euid() {
            return Err(DirectoryProblem::OtherOwner { path, owner: stat.st_uid });
        }
        let mode = mode(&stat);
        if mode & 0o022 != 0 {
            return Err(DirectoryProblem::WritableByOthers(mode));
        }
        Ok(Self { path, descriptor, id: FileId::of(&stat) })
    }

    /// What exists at `socket`, which must be in this directory.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn find(&self, socket: &Path) -> io::Result<Entry> {
        let name = name_of(socket)?;
        Ok(match self.look(name)? {
            None => Entry::Absent,
            Some((id, FileType::Socket)) => Entry::Socket(SocketFile { name: name.to_owned(), id }),
            Some(_) => Entry::Other,
        })
    }

    /// Listens at `socket`, which must be in this directory, for this user only.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) if the path is taken, or another process has replaced the new socket.
    pub fn listen(&self, socket: &Path) -> io::Result<(Listener, SocketFile)> {
        let options = ListenerOptions::new().name(socket.to_fs_name::<GenericFilePath>()?).reclaim_name(false);
        let listener = open_unshared(|| {
            let plain = options.try_clone()?;
            let interprocess::local_socket::Listener::UdSocket(listener) = match options.mode(0o600).create_sync() {
                // Not every system can restrict a socket. There the mode of the directory protects it.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => plain.create_sync()?,
                other => other?,
            };
            Ok(OwnedFd::from(listener))
        })?;
        match self.find(socket)? {
            Entry::Socket(file) => Ok((listener.into(), file)),
            Entry::Absent | Entry::Other => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// Listens at one more path in this directory, which need not be that of a bus.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    #[cfg(feature = "tokio")]
    pub fn listen_auxiliary(&self, socket: &Path) -> io::Result<(AuxiliaryListener, SocketFile)> {
        self.listen(socket)
    }

    /// Whether the path of this directory still leads to it, and `file` still exists in it.
    pub fn has(&self, file: &SocketFile) -> bool {
        self.is_in_place() && self.is_named(&file.name, file.id)
    }

    /// Removes `file` if it is still the same file. The caller must hold the lock that belongs to it.
    pub fn remove(&self, file: &SocketFile) {
        if self.is_named(&file.name, file.id) {
            // If this fails, the next daemon removes the file as a stale one, under the lock.
            let _ = rustix::fs::unlinkat(&self.descriptor, &file.name, AtFlags::empty());
        }
    }

    /// Opens the file with this name in order to lock it, and creates it if there is none.
    pub(super) fn open_lock(&self, name: &OsStr) -> io::Result<OwnedFd> {
        // Without waiting, even if it is a named pipe. The caller checks what it is.
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.descriptor, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// Whether this name still leads to this file.
    pub(super) fn is_named(&self, name: &OsStr, id: FileId) -> bool {
        matches!(self.look(name), Ok(Some((found, _))) if found == id)
    }

    /// Whether the path of this directory still leads to it.
    pub(super) fn is_in_place(&self) -> bool {
        rustix::fs::lstat(&self.path).is_ok_and(|stat| FileId::of(&stat) == self.id)
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<(FileId, FileType)>> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((FileId::of(&stat), FileType::from_raw_mode(stat.st_mode)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The file name of a socket or lock.
pub(super) fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))
}

fn open_or_make(path: &Path) -> Result<OwnedFd, DirectoryProblem> {
    match open(path) {
        Err(Errno::NOENT) => make(path),
        other => other.map_err(|errno| problem(path, errno)),
    }
}

/// Creates the directory, and those that are missing above it, beginning below the nearest one that exists.
fn make(path: &Path) -> Result<OwnedFd, DirectoryProblem> {
    let failed = |errno: Errno| DirectoryProblem::Io("make the directory", errno.into());
    let mut missing = Vec::new();
    let mut at = path;
    let mut directory = loop {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(failed(Errno::NOENT)) };
        missing.push(name);
        at = parent;
        match rustix::fs::open(at, TRAVERSE | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => break other.map_err(|errno| problem(at, errno))?,
        }
    };
    let stat = rustix::fs::fstat(&directory).map_err(failed)?;
    if stat.st_uid != process::euid() && !is_shared(&stat) {
        return Err(DirectoryProblem::OtherOwner { path: at.to_owned(), owner: stat.st_uid });
    }
    for name in missing.into_iter().rev() {
        match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {} // another daemon has just created it, or it is a link
            Err(errno) => return Err(failed(errno)),
        }
        let made = rustix::fs::openat(&directory, name, OPEN, Mode::empty()).map_err(|errno| problem(path, errno))?;
        let stat = rustix::fs::fstat(&made).map_err(failed)?;
        if stat.st_uid != process::euid() {
            return Err(DirectoryProblem::OtherOwner { path: path.to_owned(), owner: stat.st_uid });
        }
        directory = made;
    }
    Ok(directory)
}

/// Whether every user can create files in this directory, and only the owner of a file can replace it.
fn is_shared(stat: &rustix::fs::Stat) -> bool {
    mode(stat) & 0o1002 == 0o1002
}

/// The permission bits of a file.
#[allow(clippy::useless_conversion)]
pub(super) fn mode(stat: &rustix::fs::Stat) -> u32 {
    u32::from(stat.st_mode) & 0o7777
}

fn problem(path: &Path, errno: Errno) -> DirectoryProblem {
    match errno {
        // For a link, systems report any of these.
        Errno::NOTDIR | Errno::LOOP | Errno::MLINK => DirectoryProblem::NotADirectory,
        // A directory that cannot be read may be that of another user.
        Errno::ACCESS => match rustix::fs::lstat(path) {
            Ok(stat) if stat.st_uid != process::euid() => {
                DirectoryProblem::OtherOwner { path: path.to_owned(), owner: stat.st_uid }
            }
            _ => DirectoryProblem::Io("open the directory", errno.into()),
        },
        errno => DirectoryProblem::Io("open the directory", errno.into()),
    }
}

/// How to open the directory of a bus.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How to open a directory that is only traversed, and need not be readable.
#[cfg(any(target_os = "linux", target_os = "android"))]
const TRAVERSE: OFlags = OFlags::PATH;

/// How to open a directory that is only traversed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const TRAVERSE: OFlags = OFlags::RDONLY;

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OPEN, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn directory_is_created_for_this_user_only() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("a/b/bus.sock");
        Directory::open(&socket).expect("made");
        let mode = std::fs::metadata(place.path().join("a/b")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        Directory::open(&socket).expect("opened again");
    }

    #[test]
    fn links_files_and_writable_directories_are_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let inside = |name: &str| place.path().join(name);
        symlink(place.path(), inside("link")).expect("linked");
        symlink(inside("nowhere"), inside("dangling")).expect("linked");
        std::fs::write(inside("file"), b"").expect("written");
        for name in ["link", "dangling", "file"] {
            let problem = Directory::open(&inside(name).join("bus.sock")).expect_err(name);
            assert!(matches!(problem, DirectoryProblem::NotADirectory), "{name}: {problem:?}");
        }
        assert!(!inside("nowhere").exists(), "nothing was created through the link");
        std::fs::create_dir(inside("loose")).expect("made");
        std::fs::set_permissions(inside("loose"), PermissionsExt::from_mode(0o770)).expect("set");
        let problem = Directory::open(&inside("loose/bus.sock")).expect_err("loose");
        assert!(matches!(problem, DirectoryProblem::WritableByOthers(0o770)), "{problem:?}");
    }

    #[test]
    fn nothing_is_created_in_a_directory_of_another_user() {
        if process::euid() != 0 {
            return eprintln!("SKIPPED: only root can give a directory away");
        }
        let place = tempfile::tempdir().expect("a directory");
        let home = place.path().join("home");
        std::fs::create_dir(&home).expect("made");
        std::os::unix::fs::chown(&home, Some(65534), None).expect("given away");
        for socket in ["bus.sock", "a/bus.sock", ".local/state/broadcaster/bus.sock"] {
            let problem = Directory::open(&home.join(socket)).expect_err(socket);
            let DirectoryProblem::OtherOwner { path, owner: 65534 } = problem else { panic!("{problem:?}") };
            assert_eq!(path, home);
        }
        assert_eq!(std::fs::read_dir(&home).expect("readable").count(), 0);
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o1777)).expect("set");
        Directory::open(&home.join("a/bus.sock")).expect("every user may create a directory there");
    }

    #[test]
    fn only_the_same_socket_file_is_removed() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        let directory = Directory::open(&socket).expect("opened");
        assert_eq!(directory.find(&socket).expect("looked"), Entry::Absent);
        let (_listener, file) = directory.listen(&socket).expect("listens");
        assert_eq!(directory.find(&socket).expect("looked"), Entry::Socket(file.clone()));
        assert!(directory.has(&file));
        std::fs::rename(&socket, place.path().join("aside")).expect("moved");
        std::fs::write(&socket, b"").expect("written");
        assert_eq!(directory.find(&socket).expect("looked"), Entry::Other);
        assert!(!directory.has(&file));
        directory.remove(&file);
        assert!(socket.exists(), "it is another file");
        std::fs::rename(place.path().join("aside"), &socket).expect("moved back");
        directory.remove(&file);
        assert!(!socket.exists());
    }

    #[test]
    fn replaced_directory_has_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus/bus.sock");
        let directory = Directory::open(&socket).expect("opened");
        let (_listener, file) = directory.listen(&socket).expect("listens");
        assert!(directory.has(&file));
        std::fs::rename(place.path().join("bus"), place.path().join("aside")).expect("moved");
        std::fs::create_dir(place.path().join("bus")).expect("made");
        assert!(!directory.has(&file));
    }
}
