//! What is known about the bus and everything around it: values only. Nothing here inspects anything.

use super::parse::{Login, Unit};
use super::shared_memory::SharedMemory;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_broadcaster::Origin;

/// Time limit for inspecting the surroundings; a file system or tool that takes longer hangs.
pub(crate) const GATHER_TIMEOUT: Duration = Duration::from_millis(2000);

/// Time limit for the daemon's answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// File name of the daemon's program.
pub(crate) const PROGRAM_NAME: &str = "broadcasterd";

/// Everything that is known. `None` means that it could not be determined in time.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Version of this program.
    pub(crate) version: String,
    pub(crate) euid: u32,
    /// The socket was given as an argument.
    pub(crate) socket_given: bool,
    pub(crate) path_bytes_max: usize,
    /// Where the bus may be, best first; or why there is no such place.
    pub(crate) places: Result<Vec<Place>, String>,
    pub(crate) service: Option<Service>,
    pub(crate) limits: Limits,
    pub(crate) shared_memory: SharedMemory,
    pub(crate) programs: Option<Programs>,
    pub(crate) environment: Option<Environment>,
    /// The system's replacement for a daemon, for programs that opt in.
    pub(crate) notifications: Option<Notifications>,
}

/// What notifications of the system can carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notifications {
    pub(crate) payload: bool,
    pub(crate) payload_bytes_max: u32,
}

/// One place where the bus may be.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) socket: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) files: Option<PlaceFiles>,
    pub(crate) status: Status,
    /// The stats socket; only inspected where a daemon holds the lock.
    pub(crate) stats: Option<Stats>,
}

/// The files at a place.
#[derive(Debug, Clone)]
pub(crate) struct PlaceFiles {
    pub(crate) directory: Node,
    /// The parent of the directory.
    pub(crate) parent: Node,
    pub(crate) disk: Option<Disk>,
    pub(crate) socket: Node,
    /// Whether a process listens on the path.
    pub(crate) listens: Option<bool>,
    pub(crate) lock: Lock,
}

impl PlaceFiles {
    /// The owner of the place, unless it is this user.
    pub(crate) fn owner_if_not(&self, euid: u32) -> Option<u32> {
        [&self.socket, &self.directory].into_iter().find_map(|node| match node {
            Node::Exists { owner, .. } if *owner != euid => Some(*owner),
            Node::Exists { .. } | Node::Missing | Node::Unknown(_) => None,
        })
    }
}

/// A name in the file system; symbolic links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Missing,
    Exists {
        kind: Kind,
        owner: u32,
        mode: u32,
    },
    /// The system's error.
    Unknown(String),
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Socket,
    File,
    Link,
    Fifo,
    Device,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Directory => "a directory",
            Self::Socket => "a socket",
            Self::File => "a regular file",
            Self::Link => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Device => "a device",
        })
    }
}

/// The file system of the nearest directory that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) directory: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) full: bool,
    pub(crate) out_of_inodes: bool,
    /// Whether this user may write to the directory.
    pub(crate) writable: bool,
}

/// Identifies a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::cast_sign_loss)]
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// The lock that decides which process is the daemon.
#[derive(Debug, Clone)]
pub(crate) enum Lock {
    Missing,
    /// Something that no daemon can lock.
    NotAFile(Kind),
    Free,
    /// The list is empty if no holder is visible.
    Held {
        id: FileId,
        holders: Vec<Holder>,
    },
    /// The system's error.
    Unknown(String),
}

impl Lock {
    /// The process that holds the lock, if it is visible.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Held { holders, .. } => holders.first(),
            Self::Missing | Self::NotAFile(_) | Self::Free | Self::Unknown(_) => None,
        }
    }
}

/// A process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) name: Option<String>,
    pub(crate) exe: Option<PathBuf>,
    /// The program's file was replaced or removed since the process started.
    pub(crate) exe_is_gone: bool,
    /// The letter of `/proc/<pid>/stat`.
    pub(crate) state: Option<char>,
    /// Soft and hard limit.
    pub(crate) open_files: Option<(u64, u64)>,
    /// File descriptors in use.
    pub(crate) descriptors: Option<u64>,
    /// Whether it is in another mount namespace, where the same path may be another file.
    pub(crate) elsewhere: Option<bool>,
}

impl Holder {
    /// Whether it is the daemon's own program rather than one that hosts the broker.
    pub(crate) fn is_daemon(&self) -> bool {
        let file = self.exe.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
        let file = file.map(|file| file.trim_end_matches(" (deleted)"));
        file.or(self.name.as_deref()).is_none_or(|name| name == PROGRAM_NAME)
    }
}

/// The result of requesting the daemon's status.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// No daemon is there, or the request would start one.
    NotRequested,
    Answered {
        version: String,
        pid: u32,
        protocol: u16,
        uptime: Duration,
        connections: u64,
        held_bytes: u64,
        held_bytes_max: u64,
    },
    Failed {
        cause: Cause,
        sentence: String,
    },
}

/// Why a daemon does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Silent,
    NotListening,
    OtherUser,
    NotADaemon,
    /// It refuses further connections.
    Full,
    Refused,
    /// It was not asked: a variable of this environment has an invalid value.
    Variable,
    Other,
}

/// The stats socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) path: PathBuf,
    pub(crate) file: Node,
    /// The processes with connections to the bus, those with the most first; or why that is unknown.
    pub(crate) clients: Result<Vec<Client>, String>,
}

/// A process and its connections to the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) pid: u32,
    pub(crate) name: Option<String>,
    pub(crate) connections: u64,
}

/// The service manager and what it knows about the daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    /// Unit files of the daemon in the manager's search path.
    pub(crate) files: Vec<PathBuf>,
    /// Why the manager does not answer.
    pub(crate) silent: Option<String>,
    pub(crate) socket: Unit,
    pub(crate) service: Unit,
    /// The file of the service's program.
    pub(crate) program: Option<ProgramFile>,
    pub(crate) login: Option<Login>,
    /// The user manager stays when the user has no session.
    pub(crate) lingers: bool,
}

/// The file at a program's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgramFile {
    Missing,
    NotAFile,
    NotExecutable,
    /// This very program.
    This,
    Another,
}

/// Limits of the system.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Soft and hard limit of open files of this process.
    pub(crate) open_files: Option<(u64, u64)>,
    pub(crate) inotify_instances_max: Option<u64>,
    /// No thread can be started, without which most facts stay unknown.
    pub(crate) no_thread: bool,
}

/// The programs that clients may start as the daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    pub(crate) this: Option<PathBuf>,
    /// The value of `BROADCASTERD`.
    pub(crate) variable: Option<(PathBuf, ProgramFile)>,
    /// In the order of `PATH`, each file once.
    pub(crate) in_path: Vec<InPath>,
    pub(crate) no_autostart: bool,
}

/// A program in `PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InPath {
    pub(crate) path: PathBuf,
    pub(crate) file: ProgramFile,
    pub(crate) version: Option<String>,
}

/// The environment of this process.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) uid: u32,
    pub(crate) home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<(PathBuf, Node)>,
    /// `/run/user/<euid>`.
    pub(crate) run_user: (PathBuf, Node),
    pub(crate) sudo_user: Option<String>,
    /// Sandboxes and namespaces.
    pub(crate) isolation: Vec<&'static str>,
}

/// Whether the service manager listens on the socket and would start the service on the next connection.
pub(crate) fn starts_at_connect(service: Option<&Service>, socket: &Path) -> bool {
    service.is_some_and(|known| {
        let listens = known.socket.is_active() && known.socket.listens.iter().any(|path| path == socket);
        listens && !known.service.is_active()
    })
}
