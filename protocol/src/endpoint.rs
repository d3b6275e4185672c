//! The location of the bus, as a pure function of facts that the caller has gathered. It never touches the file system.
//!
//! # Which directories count
//!
//! The environment of a process may be another user's, as under `sudo -E`. A directory is a fact about the effective user only if it
//! belongs to that user:
//!
//! - the system's directory for the user and `XDG_RUNTIME_DIR` exist and belong to the effective user;
//! - the home directory is `HOME` if that exists and belongs to the effective user, else the one in the user database under the same
//!   condition;
//! - `XDG_STATE_HOME`, or the nearest directory above it that exists, belongs to the effective user.
//!
//! A daemon creates the directory of a socket, and the missing directories above it, only if the nearest directory that exists belongs
//! to the effective user, or is sticky and writable by all, as `/tmp` is. In a program that has more rights than its caller, such as a
//! set-user-ID program, no variable counts.
//!
//! # One bus for all environments
//!
//! Two processes of a user can have different variables. They meet if they have one directory in common, and the home directory nearly
//! always is one:
//!
//! - A client connects to the first candidate that answers.
//! - A daemon takes the lock of every candidate that it can use and listens on all of them. [`binding_order`] is the order of the locks:
//!   the directory that environments most likely share comes first. Of several daemons that start at the same time, exactly one gets
//!   that lock. The others end, and their clients find the winner at that candidate.
//!
//! Two environments without a common directory have two buses.

mod pipe;

pub use pipe::{PIPE_NAME_UNITS_MAX, PIPE_PREFIX, pipe_lock_file};

use std::path::{Path, PathBuf};

/// Environment variable that names the socket, which is then the only candidate.
pub const SOCKET_VARIABLE: &str = "BROADCASTER_SOCKET";

/// Name of the bus socket in its directory.
pub const SOCKET_NAME: &str = "bus.sock";

/// Name of the bus directory in a runtime directory.
pub const DIRECTORY_NAME: &str = "broadcaster";

/// Name of the lock file of a socket called [`SOCKET_NAME`].
const LOCK_NAME: &str = "bus.lock";

/// Name of the stats socket of a socket called [`SOCKET_NAME`].
const STATS_NAME: &str = "stats.sock";

/// The lock file of a bus socket, in the same directory: `bus.lock` for `bus.sock`, `NAME.lock` for any other
/// `NAME`, so that two buses can share a directory.
pub fn lock_file(socket: &Path) -> PathBuf {
    sibling(socket, LOCK_NAME, ".lock")
}

/// The stats socket of a bus socket, in the same directory: `stats.sock` for `bus.sock`, `NAME.stats` for any other `NAME`. For
/// a pipe it is the pipe `NAME-stats`.
pub fn stats_socket(socket: &Path) -> PathBuf {
    pipe::stats(socket).unwrap_or_else(|| sibling(socket, STATS_NAME, ".stats"))
}

fn sibling(socket: &Path, default: &str, suffix: &str) -> PathBuf {
    match socket.file_name() {
        Some(name) if name != SOCKET_NAME => {
            let mut name = name.to_owned();
            name.push(suffix);
            socket.with_file_name(name)
        }
        _ => socket.with_file_name(default),
    }
}

/// The facts that determine the location of the bus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Env {
    /// Effective user id.
    pub euid: u32,
    /// The user's security identifier, on Windows. If it is known, the bus is a named pipe, and only `socket` matters among the
    /// other facts.
    pub user_sid: Option<String>,
    /// Value of [`SOCKET_VARIABLE`], or a path that the program was given.
    pub socket: Option<PathBuf>,
    /// The system's directory for this user, if it exists and belongs to the user: `/run/user/<euid>`, and on macOS
    /// `/var/folders/../../0`.
    pub run_user_dir: Option<PathBuf>,
    /// Value of `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The user's state directory of this project.
    pub state_dir: Option<PathBuf>,
    /// The id of this machine. Several machines may share the directory of `state_dir`, but not a socket or a lock in it: a hash of
    /// the id is part of the path.
    pub machine_id: Option<String>,
    /// A directory with a short path, used only when the path in `state_dir` is too long. `None` on macOS, where the path of the
    /// user's directory is short.
    pub short_dir: Option<PathBuf>,
    /// Longest path of a socket, in bytes.
    pub path_bytes_max: usize,
}

/// The rule that produced a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// [`SOCKET_VARIABLE`], or a path that the program was given.
    Explicit,
    /// The system's directory for this user.
    RunUser,
    /// `XDG_RUNTIME_DIR`.
    XdgRuntime,
    /// The state directory.
    State,
    /// A hashed name in the short directory, because the path in the state directory is too long.
    Short,
    /// The pipe named after the user, on Windows.
    Pipe,
}

/// A possible location of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The socket. Its directory also holds the lock file.
    pub socket: PathBuf,
    /// The rule that produced it.
    pub origin: Origin,
}

/// Why there is no location for the bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The given path does not fit into a socket address.
    #[error("the socket path {} has {len} bytes; the limit is {max}: choose a shorter one", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The given path is relative, or names no file in a directory.
    #[error("the socket path {path:?} must be absolute and name a file, such as /run/user/1000/broadcaster/bus.sock")]
    NotAFilePath {
        /// The path.
        path: PathBuf,
    },
    /// On Windows, the given path is not the name of a pipe.
    #[error(
        "the socket \"{}\" must be {PIPE_PREFIX}NAME, where NAME has 1 to {PIPE_NAME_UNITS_MAX} characters and none of \\ / : * ? \" < > |",
        path.display()
    )]
    NotAPipe {
        /// The path.
        path: PathBuf,
    },
    /// There is neither a runtime directory nor a state directory.
    #[error(
        "no directory for the socket: neither /run/user/{euid} nor XDG_RUNTIME_DIR nor the home directory exists and belongs to \
         uid {euid}; set {SOCKET_VARIABLE} to an absolute path"
    )]
    Nowhere {
        /// Effective user id.
        euid: u32,
    },
}

/// The possible locations of the bus, best first. Clients try all of them in order; a daemon binds every one that it can.
///
/// `/run/user/<euid>` comes before `XDG_RUNTIME_DIR`, so that programs under cron, `su`, `ssh` and `tmux` meet
/// the desktop session. A relative `XDG_RUNTIME_DIR` is ignored, as its specification requires.
///
/// # Errors
///
/// [`EndpointError`] if a given path cannot be used, or no directory is known.
///
/// ```
/// use broadcaster_protocol::endpoint::{candidates, Env, Origin};
///
/// let env = Env {
///     euid: 1000,
///     run_user_dir: Some("/run/user/1000".into()),
///     state_dir: Some("/home/u/.local/state/broadcaster".into()),
///     path_bytes_max: 107,
///     ..Env::default()
/// };
/// let places = candidates(&env)?;
/// assert_eq!(places[0].socket.to_str(), Some("/run/user/1000/broadcaster/bus.sock"));
/// assert_eq!(places[1].origin, Origin::State);
/// # Ok::<(), broadcaster_protocol::endpoint::EndpointError>(())
/// ```
pub fn candidates(env: &Env) -> Result<Vec<Candidate>, EndpointError> {
    if let Some(sid) = &env.user_sid {
        return pipe::candidates(env, sid);
    }
    if let Some(path) = &env.socket {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(EndpointError::NotAFilePath { path: path.clone() });
        }
        let (len, max) = (bytes_of(path), env.path_bytes_max);
        if len > max {
            return Err(EndpointError::TooLong { path: path.clone(), len, max });
        }
        return Ok(vec![Candidate { socket: path.clone(), origin: Origin::Explicit }]);
    }
    let mut places: Vec<Candidate> = Vec::new();
    let mut add = |socket: PathBuf, origin| {
        let fits = bytes_of(&socket) <= env.path_bytes_max;
        if fits && places.iter().all(|place| place.socket != socket) {
            places.push(Candidate { socket, origin });
        }
        fits
    };
    let in_runtime = |dir: &Path| dir.join(DIRECTORY_NAME).join(SOCKET_NAME);
    if let Some(dir) = &env.run_user_dir {
        add(in_runtime(dir), Origin::RunUser);
    }
    if let Some(dir) = env.xdg_runtime_dir.as_deref().filter(|dir| dir.is_absolute()) {
        add(in_runtime(dir), Origin::XdgRuntime);
    }
    if let Some(dir) = &state_dir(env) {
        let fits = add(dir.join(SOCKET_NAME), Origin::State);
        if let (false, Some(short)) = (fits, &env.short_dir) {
            let name = format!("{DIRECTORY_NAME}-{}-{:08x}", env.euid, fnv1a(dir.as_os_str().as_encoded_bytes()));
            add(short.join(name).join(SOCKET_NAME), Origin::Short);
        }
    }
    if places.is_empty() { Err(EndpointError::Nowhere { euid: env.euid }) } else { Ok(places) }
}

/// The order in which a daemon takes the locks of its candidates: the last of the [`candidates`] first, because it depends least on
/// variables, then the others from the first on.
pub fn binding_order(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    let (rest, last) = candidates.split_at(candidates.len().saturating_sub(1));
    last.iter().chain(rest)
}

/// The state directory of this machine.
fn state_dir(env: &Env) -> Option<PathBuf> {
    let dir = env.state_dir.as_deref().filter(|dir| dir.is_absolute())?;
    Some(match &env.machine_id {
        Some(id) => dir.join(format!("{:08x}", fnv1a(id.as_bytes()))),
        None => dir.to_owned(),
    })
}

fn bytes_of(path: &Path) -> usize {
    path.as_os_str().len()
}

/// 32-bit FNV-1a. It distinguishes the few state directories and machines of one user. It is not a defence: the check of the
/// directory's owner is.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The rule for sockets, with the paths of the systems that it applies to.
#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn env() -> Env {
        Env { euid: 1000, short_dir: Some("/tmp".into()), path_bytes_max: 107, ..Env::default() }
    }

    fn sockets(env: &Env) -> Vec<String> {
        let places = candidates(env).expect("a candidate");
        places.iter().map(|place| place.socket.display().to_string()).collect()
    }

    #[test]
    fn order_is_run_user_then_xdg_then_state() {
        let env = Env {
            run_user_dir: Some("/run/user/1000".into()),
            xdg_runtime_dir: Some("/x".into()),
            state_dir: Some("/h/state".into()),
            ..env()
        };
        assert_eq!(
            sockets(&env),
            ["/run/user/1000/broadcaster/bus.sock", "/x/broadcaster/bus.sock", "/h/state/bus.sock"]
        );
    }

    #[test]
    fn machines_that_share_a_home_directory_have_a_bus_each() {
        let on = |id: &str| Env {
            xdg_runtime_dir: Some("/x".into()),
            state_dir: Some("/h/state".into()),
            machine_id: Some(id.to_owned()),
            ..env()
        };
        let expected = ["/x/broadcaster/bus.sock", "/h/state/e40c292c/bus.sock"];
        assert_eq!(sockets(&on("a")), expected);
        assert_ne!(sockets(&on("b"))[1], expected[1]);
    }

    #[test]
    fn lock_of_the_state_directory_decides() {
        let env = Env {
            run_user_dir: Some("/r".into()),
            xdg_runtime_dir: Some("/x".into()),
            state_dir: Some("/h".into()),
            ..env()
        };
        let candidates = candidates(&env).expect("three");
        let order: Vec<Origin> = binding_order(&candidates).map(|candidate| candidate.origin).collect();
        assert_eq!(order, [Origin::State, Origin::RunUser, Origin::XdgRuntime]);
        assert_eq!(binding_order(&candidates[..1]).count(), 1);
        assert_eq!(binding_order(&[]).count(), 0);
    }

    #[test]
    fn the_same_directory_twice_is_one_candidate() {
        let dir = Some(PathBuf::from("/run/user/1000"));
        let env = Env { run_user_dir: dir.clone(), xdg_runtime_dir: dir, ..env() };
        assert_eq!(sockets(&env).len(), 1);
    }

    #[test]
    fn an_explicit_path_is_the_only_candidate() {
        let env = Env { socket: Some("/a/b.sock".into()), state_dir: Some("/h".into()), ..env() };
        assert_eq!(sockets(&env), ["/a/b.sock"]);
    }

    #[test]
    fn lock_and_stats_socket_are_in_the_directory_of_the_socket() {
        let of = |path: &str| (lock_file(Path::new(path)), stats_socket(Path::new(path)));
        assert_eq!(of("/r/bus.sock"), ("/r/bus.lock".into(), "/r/stats.sock".into()));
        assert_eq!(of("/r/my bus"), ("/r/my bus.lock".into(), "/r/my bus.stats".into()));
    }

    #[test]
    fn a_long_explicit_path_names_path_and_limit() {
        let path = format!("/{}", "d".repeat(107));
        let text = candidates(&Env { socket: Some(path.clone().into()), ..env() }).expect_err("108 bytes").to_string();
        assert!(text.contains(&path) && text.contains("108 bytes") && text.contains("107"), "{text}");
        let fits = Env { socket: Some(path[..107].into()), ..env() };
        assert!(candidates(&fits).is_ok());
    }

    #[test]
    fn a_long_state_directory_gets_a_short_hashed_location() {
        let dir = format!("/home/{}/.local/state/broadcaster", "u".repeat(80));
        let long = Env { state_dir: Some(dir.into()), ..env() };
        let places = candidates(&long).expect("a short path");
        assert_eq!((places.len(), places[0].origin), (1, Origin::Short));
        assert!(places[0].socket.starts_with("/tmp") && bytes_of(&places[0].socket) <= 103);
        let other = Env { state_dir: Some(format!("/home/{}", "v".repeat(100)).into()), ..env() };
        assert_ne!(candidates(&other).expect("a short path"), places);
    }

    #[test]
    fn the_location_on_macos_fits_its_socket_addresses() {
        let user = "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/0/";
        let home = format!("/Users/{}/Library/Application Support/broadcaster", "u".repeat(60));
        let env = Env {
            run_user_dir: Some(user.into()),
            state_dir: Some(home.into()),
            short_dir: None,
            path_bytes_max: 103,
            ..env()
        };
        assert_eq!(
            sockets(&env),
            [format!("{user}broadcaster/bus.sock")],
            "the path in the long home directory is left out"
        );
        let stats = stats_socket(Path::new(&sockets(&env)[0]));
        assert!(bytes_of(&stats) <= 103);
    }

    #[test]
    fn relative_and_missing_directories_give_no_candidate() {
        assert_eq!(candidates(&env()), Err(EndpointError::Nowhere { euid: 1000 }));
        let relative = Env { xdg_runtime_dir: Some("run".into()), ..env() };
        assert_eq!(candidates(&relative), Err(EndpointError::Nowhere { euid: 1000 }));
        for bad in ["bus.sock", "/"] {
            let given = Env { socket: Some(bad.into()), ..env() };
            assert!(matches!(candidates(&given), Err(EndpointError::NotAFilePath { .. })), "{bad}");
        }
    }
}
