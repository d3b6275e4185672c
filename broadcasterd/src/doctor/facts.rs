//! The facts: everything that the doctor asks of the system, each with a deadline, each missing if it can not be had.
//! It never writes, never starts a daemon, and connects only to a socket whose lock somebody holds.

use super::parse::{self, Login, Unit};
use super::system;
use crate::service::LAUNCHD_LABEL;
use broadcaster_protocol::endpoint::{lock_file, stats_socket};
use rustix::fs::{Access, AtFlags, FileType, FlockOperation, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Signal};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use system_broadcaster::{Capabilities, ConnectError, NO_AUTOSTART_VARIABLE, Options, Origin};

/// How long to look around; a file system or a tool that takes longer hangs.
pub(crate) const LOOK_WITHIN: Duration = Duration::from_millis(2000);

/// How long a tool of the system may take, within that; then it is ended.
const TOOL_WITHIN: Duration = Duration::from_millis(1500);

/// How long a daemon may take for its answer.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// What has a deadline of its own is waited for a little longer than that.
const TO_BE_SURE: Duration = Duration::from_millis(250);

/// How long to wait before asking a daemon again that does not listen yet.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Most bytes that are read of what a tool prints.
const PRINTED_BYTES_MAX: u64 = 64 * 1024;

/// Most programs in `PATH` that are asked for their version.
const PROGRAMS_MAX: usize = 8;

/// File name of the daemon's program.
pub(crate) const PROGRAM_NAME: &str = "broadcasterd";

/// What is known. `None` everywhere: it could not be found out in time.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The version of this program.
    pub(crate) version: String,
    pub(crate) euid: u32,
    /// The socket was given as an argument.
    pub(crate) socket_given: bool,
    pub(crate) path_bytes_max: usize,
    /// Where the bus may be, best first; or why there is no such place.
    pub(crate) places: Result<Vec<Place>, String>,
    pub(crate) service: Option<Service>,
    pub(crate) limits: Limits,
    pub(crate) programs: Option<Programs>,
    pub(crate) environment: Option<Environment>,
    /// What the system has in place of a daemon, for programs that ask for it.
    pub(crate) notifications: Option<Notifications>,
}

/// What notifications of the system can do.
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
    pub(crate) look: Option<Look>,
    pub(crate) asked: Asked,
    /// Whether the stats socket takes connections; only looked at where somebody serves.
    pub(crate) stats: Option<Stats>,
}

/// What is at a place.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) directory: Node,
    /// The directory that the directory is in.
    pub(crate) parent: Node,
    pub(crate) disk: Option<Disk>,
    pub(crate) file: Node,
    /// Whether somebody listens on the path.
    pub(crate) listens: Option<bool>,
    pub(crate) lock: Lock,
}

impl Look {
    /// Whose the place is, unless it is this user's.
    pub(crate) fn owner_if_not(&self, euid: u32) -> Option<u32> {
        [&self.file, &self.directory].into_iter().find_map(|node| match node {
            Node::There { owner, .. } if *owner != euid => Some(*owner),
            Node::There { .. } | Node::Missing | Node::Unknown(_) => None,
        })
    }
}

/// A name in the file system, not followed through a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Missing,
    There {
        kind: Kind,
        owner: u32,
        mode: u32,
    },
    /// What the system said.
    Unknown(String),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Socket,
    File,
    Link,
    Other,
}

/// The file system of the nearest directory that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) directory: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) full: bool,
    pub(crate) out_of_inodes: bool,
    /// Whether this user may write into the directory.
    pub(crate) writable: bool,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::cast_sign_loss)]
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// The lock that decides who is the daemon.
#[derive(Debug, Clone)]
pub(crate) enum Lock {
    NoFile,
    Free,
    /// By nobody that can be seen, if the list is empty.
    Held {
        id: FileId,
        holders: Vec<Holder>,
    },
    /// What the system said.
    Unknown(String),
}

/// A process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) name: Option<String>,
    pub(crate) exe: Option<PathBuf>,
    /// The program's file was replaced or removed since the process began.
    pub(crate) exe_is_gone: bool,
    /// The letter of `/proc/<pid>/stat`.
    pub(crate) state: Option<char>,
    /// Soft and hard limit.
    pub(crate) open_files: Option<(u64, u64)>,
    /// Whether it is in another mount namespace, where the same path may be another file.
    pub(crate) elsewhere: Option<bool>,
}

impl Holder {
    /// Whether it is the daemon's own program, rather than one that hosts the broker on the side.
    pub(crate) fn is_daemon(&self) -> bool {
        let file = self.exe.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
        let file = file.map(|file| file.trim_end_matches(" (deleted)"));
        file.or(self.name.as_deref()).is_none_or(|name| name == PROGRAM_NAME)
    }
}

/// What became of the question for a status.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// Nobody is there to be asked, or the question would start a daemon.
    No,
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
        trouble: Trouble,
        sentence: String,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Silent,
    NobodyListens,
    OtherUser,
    NotADaemon,
    Refused,
    Other,
}

/// The stats socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) path: PathBuf,
    pub(crate) file: Node,
    /// Whether it takes connections, or what the system said.
    pub(crate) connects: Result<(), String>,
}

/// The service manager and what it knows of us.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    /// Files with our name where the manager looks for them.
    pub(crate) files: Vec<PathBuf>,
    /// Why the manager tells nothing.
    pub(crate) silent: Option<String>,
    pub(crate) socket: Unit,
    pub(crate) service: Unit,
    /// What there is of the service's program.
    pub(crate) program: Option<ProgramFile>,
    pub(crate) login: Option<Login>,
    /// The user manager stays when the user has no session.
    pub(crate) lingers: bool,
}

/// What there is at a program's path.
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
    /// No thread can be started, without which most can not be found out.
    pub(crate) no_thread: bool,
}

/// The programs that may be started for a daemon.
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

/// Around this process.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) uid: u32,
    pub(crate) home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<(PathBuf, Node)>,
    /// `/run/user/<euid>`.
    pub(crate) run_user: (PathBuf, Node),
    pub(crate) sudo_user: Option<String>,
    /// Sandboxes and namespaces.
    pub(crate) walls: Vec<&'static str>,
}

/// Looks around, and then asks whoever serves. Takes at most [`LOOK_WITHIN`] and [`ANSWER_WITHIN`].
pub(crate) fn gather(options: &Options, socket_given: bool) -> Facts {
    let look_until = Instant::now() + LOOK_WITHIN;
    let euid = rustix::process::geteuid().as_raw();
    let tools_until = Instant::now() + TOOL_WITHIN;
    let service = Pending::begin(move || look_at_service(euid, tools_until));
    let programs = Pending::begin(move || look_at_programs(tools_until));
    let environment = Pending::begin(move || look_at_environment(euid));
    let candidates = {
        let options = options.clone();
        Pending::begin(move || options.candidates().map_err(|error| error.to_string()))
    };
    let candidates = candidates.get(look_until).unwrap_or_else(|| {
        Err(format!("where the bus is can not be found out within {LOOK_WITHIN:?}: a directory or the system hangs"))
    });
    let places = candidates.map(|candidates| {
        let looks = candidates.into_iter().map(|candidate| {
            let socket = candidate.socket.clone();
            (candidate, Pending::begin(move || look_at_place(&socket)))
        });
        looks.collect::<Vec<_>>()
    });
    let service = service.get(look_until);
    let places = places.map(|looks| {
        let places = looks.into_iter().map(|(candidate, look)| Place {
            socket: candidate.socket,
            origin: candidate.origin,
            look: look.get(look_until),
            asked: Asked::No,
            stats: None,
        });
        ask(options, euid, service.as_ref(), places.collect())
    });
    let open_files = rustix::process::getrlimit(Resource::Nofile);
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        euid,
        socket_given,
        path_bytes_max: path_bytes_max(),
        places,
        service,
        limits: Limits {
            open_files: Some((open_files.current.unwrap_or(u64::MAX), open_files.maximum.unwrap_or(u64::MAX))),
            inotify_instances_max: system::inotify_instances_max(),
            no_thread: std::thread::Builder::new().spawn(|| ()).is_err(),
        },
        programs: programs.get(look_until),
        environment: environment.get(look_until),
        notifications: Capabilities::of_notifications()
            .map(|can| Notifications { payload: can.payload, payload_bytes_max: can.max_payload }),
    }
}

fn path_bytes_max() -> usize {
    use broadcaster_protocol::limits::{SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX};
    let linux = cfg!(any(target_os = "linux", target_os = "android"));
    if linux { SOCKET_PATH_BYTES_MAX_LINUX } else { SOCKET_PATH_BYTES_MAX_BSD }
}

/// Something that may hang, on a thread of its own, which is left to itself when its time is over.
struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    fn begin(look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, result) = channel();
        // Without a thread nothing will come, and that is found out at once.
        let _ = std::thread::Builder::new().spawn(move || done.send(look()));
        Self(result)
    }

    fn get(self, until: Instant) -> Option<T> {
        self.0.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// Asks at every place where somebody serves, all at once.
fn ask(options: &Options, euid: u32, service: Option<&Service>, mut places: Vec<Place>) -> Vec<Place> {
    let until = Instant::now() + ANSWER_WITHIN;
    let questions = places.iter().map(|place| {
        let somebody = place.look.as_ref().is_some_and(|look| {
            // Another user's daemon would refuse us, and we it.
            matches!(look.lock, Lock::Held { .. }) && look.owner_if_not(euid).is_none()
        });
        if !somebody || starts_at_connect(service, &place.socket) {
            return None;
        }
        let options = options.clone().socket(&place.socket).deadline(ANSWER_WITHIN);
        let stats = stats_socket(&place.socket);
        let path = stats.clone();
        let file = Pending::begin(move || node(&path));
        let path = stats.clone();
        let connects = Pending::begin(move || UnixStream::connect(path).map(|_| ()));
        Some((Pending::begin(move || question(&options, until)), stats, file, connects))
    });
    let questions: Vec<_> = questions.collect();
    // The deadline of the answer itself comes first, so that the daemon's silence is told in the client's words.
    let until = until + TO_BE_SURE;
    for (place, question) in places.iter_mut().zip(questions) {
        let Some((answer, path, file, connects)) = question else { continue };
        place.asked = answer.get(until).unwrap_or_else(|| Asked::Failed {
            trouble: Trouble::Silent,
            sentence: format!("no answer within {ANSWER_WITHIN:?}"),
        });
        let late = || "no answer in time".to_owned();
        let file = file.get(until).unwrap_or_else(|| Node::Unknown(late()));
        let connects = connects.get(until).map_or_else(|| Err(late()), |done| done.map_err(|error| error.to_string()));
        place.stats = Some(Stats { path, file, connects });
    }
    places
}

/// Whether the service manager listens there and would start the service for whoever connects.
pub(crate) fn starts_at_connect(service: Option<&Service>, socket: &Path) -> bool {
    service.is_some_and(|known| {
        let listens = known.socket.is_active() && known.socket.listens.iter().any(|path| path == socket);
        listens && !known.service.is_active()
    })
}

fn question(options: &Options, until: Instant) -> Asked {
    loop {
        match options.daemon().status() {
            Ok(status) => {
                return Asked::Answered {
                    version: status.version,
                    pid: status.pid,
                    protocol: status.protocol,
                    uptime: Duration::from_secs(status.report.uptime_ms / 1000),
                    connections: status.report.connections,
                    held_bytes: status.report.held_bytes,
                    held_bytes_max: status.report.held_bytes_max,
                };
            }
            // Between its lock and its socket, at its beginning and at its end, nobody listens for a moment.
            Err(ConnectError::NotRunning { .. }) if Instant::now() + ASK_AGAIN_AFTER < until => {
                std::thread::sleep(ASK_AGAIN_AFTER);
            }
            Err(error) => {
                let trouble = match &error {
                    ConnectError::TimedOut { .. } => Trouble::Silent,
                    ConnectError::NotRunning { .. } => Trouble::NobodyListens,
                    ConnectError::OtherUser { .. } => Trouble::OtherUser,
                    ConnectError::NotADaemon { .. } => Trouble::NotADaemon,
                    ConnectError::Refused { .. } => Trouble::Refused,
                    _ => Trouble::Other,
                };
                return Asked::Failed { trouble, sentence: in_one_sentence(&error) };
            }
        }
    }
}

fn in_one_sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence
}

fn look_at_place(socket: &Path) -> Look {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let file = node(socket);
    let listens = system::listens(socket);
    Look {
        directory: node(directory),
        parent: directory.parent().map_or(Node::Missing, node),
        disk: disk(directory),
        lock: lock(&lock_file(socket), &file),
        file,
        listens,
    }
}

fn node(path: &Path) -> Node {
    match rustix::fs::lstat(path) {
        Ok(stat) => {
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Kind::Directory,
                FileType::Socket => Kind::Socket,
                FileType::RegularFile => Kind::File,
                FileType::Symlink => Kind::Link,
                _ => Kind::Other,
            };
            #[allow(clippy::useless_conversion)]
            let mode = u32::from(stat.st_mode) & 0o7777;
            Node::There { kind, owner: stat.st_uid, mode }
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Node::Missing,
        Err(errno) => Node::Unknown(io::Error::from(errno).to_string()),
    }
}

fn disk(directory: &Path) -> Option<Disk> {
    let directory = directory.ancestors().find(|directory| directory.is_dir())?;
    let stat = rustix::fs::statvfs(directory).ok()?;
    let root = rustix::process::geteuid().is_root();
    let blocks_left = if root { stat.f_bfree } else { stat.f_bavail };
    // A file system without a limit tells zero of zero.
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
        Err(Errno::NOENT | Errno::NOTDIR) => return Lock::NoFile,
        Err(errno) => return Lock::Unknown(io::Error::from(errno).to_string()),
    };
    let id = FileId::of(&stat);
    let seen = system::lock_holders(&stat).unwrap_or(None);
    match &seen {
        Some(pids) if !pids.is_empty() => {
            Lock::Held { id, holders: pids.iter().map(|&pid| system::process(pid)).collect() }
        }
        // Whoever ends in good order removes its socket.
        Some(_) if *socket == Node::Missing => Lock::Free,
        _ => match is_held(path) {
            Ok(true) => Lock::Held { id, holders: Vec::new() },
            Ok(false) => Lock::Free,
            Err(error) => Lock::Unknown(error.to_string()),
        },
    }
}

/// Asks the kernel itself, since a holder in another pid namespace is not listed: by a shared lock that is given back
/// at once. A daemon that starts in this very moment waits 10 ms and takes its lock then.
fn is_held(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn look_at_environment(euid: u32) -> Environment {
    let with_node = |path: PathBuf| {
        let node = node(&path);
        (path, node)
    };
    let marks = [
        (Path::new("/.flatpak-info").exists(), "a Flatpak sandbox"),
        (variable("SNAP").is_some(), "a Snap sandbox"),
        (Path::new("/run/.containerenv").exists() || Path::new("/.dockerenv").exists(), "a container"),
    ];
    let marks = marks.into_iter().filter_map(|(there, mark)| there.then_some(mark));
    Environment {
        uid: rustix::process::getuid().as_raw(),
        home: variable("HOME"),
        runtime_dir: variable("XDG_RUNTIME_DIR").map(with_node),
        run_user: with_node(PathBuf::from(format!("/run/user/{euid}"))),
        sudo_user: variable("SUDO_USER").map(|name| name.to_string_lossy().into_owned()),
        walls: marks.chain(system::walls()).collect(),
    }
}

fn look_at_programs(tools_until: Instant) -> Programs {
    let this = std::env::current_exe().ok();
    let with_file = |path: PathBuf| {
        let file = program_file(&path);
        (path, file)
    };
    let mut seen = Vec::new();
    let mut in_path = Vec::new();
    for path in in_path_of_this_process(PROGRAM_NAME) {
        let Ok(stat) = rustix::fs::stat(&path) else { continue };
        let id = FileId::of(&stat);
        if seen.contains(&id) || in_path.len() == PROGRAMS_MAX {
            continue;
        }
        seen.push(id);
        let (path, file) = with_file(path);
        let version = match file {
            ProgramFile::This => Ok(env!("CARGO_PKG_VERSION").to_owned()),
            ProgramFile::Another => {
                let path = path.clone();
                Err(Some(Pending::begin(move || tool(&path, &["--version"], false, tools_until))))
            }
            ProgramFile::Missing | ProgramFile::NotAFile | ProgramFile::NotExecutable => Err(None),
        };
        in_path.push((path, file, version));
    }
    // All of them have ended by then, one way or the other.
    let until = tools_until + TO_BE_SURE;
    let in_path = in_path.into_iter().map(|(path, file, version)| {
        let version =
            version.map_or_else(|asked| parse::version(&asked.and_then(|asked| asked.get(until))?.ok()?), Some);
        InPath { path, file, version }
    });
    Programs {
        this,
        variable: variable("BROADCASTERD").map(with_file),
        in_path: in_path.collect(),
        no_autostart: variable(NO_AUTOSTART_VARIABLE).is_some_and(|value| value != Path::new("0")),
    }
}

/// The files of this name in the absolute directories of `PATH`.
fn in_path_of_this_process(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    let name = name.to_owned();
    directories.into_iter().map(move |directory| directory.join(&name)).filter(|program| program.is_file())
}

fn program_file(path: &Path) -> ProgramFile {
    let Ok(stat) = rustix::fs::stat(path) else { return ProgramFile::Missing };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return ProgramFile::NotAFile;
    }
    if rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        return ProgramFile::NotExecutable;
    }
    let this = std::env::current_exe().ok().and_then(|this| rustix::fs::stat(&this).ok());
    if this.is_some_and(|this| FileId::of(&this) == FileId::of(&stat)) {
        ProgramFile::This
    } else {
        ProgramFile::Another
    }
}

fn look_at_service(euid: u32, tools_until: Instant) -> Service {
    let mut known = if cfg!(target_os = "macos") { ask_launchd(euid, tools_until) } else { ask_systemd(tools_until) };
    known.program = known.service.program.as_deref().map(program_file);
    known.files = service_files();
    known.login = std::fs::read_to_string(format!("/run/systemd/users/{euid}")).ok().as_deref().and_then(parse::login);
    known.lingers =
        known.login.as_ref().is_some_and(|login| Path::new("/var/lib/systemd/linger").join(&login.name).exists());
    known
}

fn ask_systemd(until: Instant) -> Service {
    let properties = "-pId,LoadState,ActiveState,UnitFileState,Result,MainPID,ExecStart,Listen,NeedDaemonReload";
    let arguments = ["--user", "show", "--no-pager", properties, "broadcasterd.socket", "broadcasterd.service"];
    match in_path_of_this_process("systemctl").next().map(|program| tool(&program, &arguments, true, until)) {
        None => Service { silent: Some("there is no systemctl in PATH".to_owned()), ..Service::default() },
        Some(Err(why)) => Service { silent: Some(format!("systemctl --user: {why}")), ..Service::default() },
        Some(Ok(shown)) => Service {
            socket: parse::unit(&shown, "broadcasterd.socket"),
            service: parse::unit(&shown, "broadcasterd.service"),
            ..Service::default()
        },
    }
}

fn ask_launchd(euid: u32, until: Instant) -> Service {
    let job = format!("gui/{euid}/{LAUNCHD_LABEL}");
    match tool(Path::new("/bin/launchctl"), &["print", &job], true, until) {
        Ok(printed) => {
            let service = parse::launchd_job(&printed);
            // One job is both: launchd listens for as long as it knows the job.
            let active = if service.exists() { "active".to_owned() } else { String::new() };
            let socket = Unit { active, main_pid: None, program: None, ..service.clone() };
            Service { socket, service, ..Service::default() }
        }
        Err(why) => Service { silent: Some(format!("launchctl print {job}: {why}")), ..Service::default() },
    }
}

fn service_files() -> Vec<PathBuf> {
    let below = |name: &str, rest: &str| variable(name).map(|directory| directory.join(rest));
    let mut directories: Vec<PathBuf> = vec![
        "/etc/systemd/user".into(),
        "/run/systemd/user".into(),
        "/usr/local/lib/systemd/user".into(),
        "/usr/local/share/systemd/user".into(),
        "/usr/lib/systemd/user".into(),
        "/usr/share/systemd/user".into(),
    ];
    directories.extend(below("XDG_CONFIG_HOME", "systemd/user").or_else(|| below("HOME", ".config/systemd/user")));
    directories.extend(below("XDG_DATA_HOME", "systemd/user").or_else(|| below("HOME", ".local/share/systemd/user")));
    directories.extend(below("XDG_RUNTIME_DIR", "systemd/user"));
    let names = ["broadcasterd.socket", "broadcasterd.service"];
    let files = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    let mut files: Vec<_> = files.filter(|file| file.symlink_metadata().is_ok()).collect();
    files.extend(below("HOME", &format!("Library/LaunchAgents/{LAUNCHD_LABEL}.plist")).filter(|file| file.exists()));
    files
}

/// What a tool prints, on either of its outputs; or its complaint, or that it took too long and was ended.
fn tool(program: &Path, arguments: &[&str], with_variables: bool, until: Instant) -> Result<String, String> {
    let (mut child, output) = begin(program, arguments, with_variables).map_err(|error| error.to_string())?;
    let printed = Pending::begin(move || {
        let mut printed = Vec::new();
        let _ = output.take(PRINTED_BYTES_MAX).read_to_end(&mut printed);
        String::from_utf8_lossy(&printed).into_owned()
    });
    let printed = printed.get(until);
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => {
                let printed = printed.unwrap_or_default();
                let complaint = || printed.lines().next().map_or_else(|| status.to_string(), str::to_owned);
                return if status.success() { Ok(printed) } else { Err(complaint()) };
            }
            None if printed.is_none() || Instant::now() >= until => {
                end(child);
                return Err(format!("no answer within {TOOL_WITHIN:?}"));
            }
            // It has closed its output and is about to end.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn begin(program: &Path, arguments: &[&str], with_variables: bool) -> io::Result<(Child, io::PipeReader)> {
    let (output, input) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    if !with_variables {
        command.env_clear();
    }
    let child = command.env("LC_ALL", "C").process_group(0).spawn()?;
    // `command` has our ends for writing and drops them here: the output ends with the child.
    Ok((child, output))
}

fn end(mut child: Child) {
    // With what it has started itself.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    // It may take its time to die, and nobody waits for that.
    let _ = std::thread::Builder::new().spawn(move || child.wait());
}
