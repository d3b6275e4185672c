//! The location of the bus on Windows, also a pure function: a named pipe, and a lock file in a directory of the user. It never
//! accesses either.

use super::{Candidate, EndpointError, Env, Origin};
use std::path::{Path, PathBuf};

/// Start of the name of every pipe on this machine, in any combination of upper and lower case.
pub const PIPE_PREFIX: &str = r"\\.\pipe\";

/// Most UTF-16 code units after [`PIPE_PREFIX`] in the name of a bus. The names of its stats pipe and of its lock file then stay
/// within what Windows allows.
pub const PIPE_NAME_UNITS_MAX: usize = 240;

/// Part of the name of the user's default pipe between [`PIPE_PREFIX`] and the user's security identifier.
const DEFAULT: &str = "broadcaster-";

/// What the name of the stats pipe appends to the name of the bus.
const STATS_SUFFIX: &str = "-stats";

/// The only location of this user's bus.
pub(super) fn candidates(env: &Env, sid: &str) -> Result<Vec<Candidate>, EndpointError> {
    let (socket, origin) = match &env.socket {
        Some(given) if name(given).is_some_and(is_usable) => (given.clone(), Origin::Explicit),
        Some(given) => return Err(EndpointError::NotAPipe { path: given.clone() }),
        None => (default_pipe(sid), Origin::Pipe),
    };
    Ok(vec![Candidate { socket, origin }])
}

/// The lock file of a bus on a pipe, in the user's `directory` for local data: `bus.lock` for the user's default pipe,
/// `bus-NAME.lock` for any other `NAME`.
pub fn pipe_lock_file(directory: &Path, socket: &Path, sid: &str) -> PathBuf {
    match name(socket) {
        Some(name) if !name.eq_ignore_ascii_case(&format!("{DEFAULT}{sid}")) => {
            directory.join(format!("bus-{name}.lock"))
        }
        _ => directory.join(super::LOCK_NAME),
    }
}

/// The stats pipe of a bus on a pipe; `None` if `socket` is not a pipe.
pub(super) fn stats(socket: &Path) -> Option<PathBuf> {
    name(socket)?;
    let mut path = socket.as_os_str().to_owned();
    path.push(STATS_SUFFIX);
    Some(path.into())
}

fn default_pipe(sid: &str) -> PathBuf {
    format!("{PIPE_PREFIX}{DEFAULT}{sid}").into()
}

/// The part of the name after the prefix.
fn name(path: &Path) -> Option<&str> {
    let (prefix, name) = path.to_str()?.split_at_checked(PIPE_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PIPE_PREFIX).then_some(name)
}

/// Whether a pipe and a file can have this name: it is a part of the lock file's name.
fn is_usable(name: &str) -> bool {
    let allowed = |c: char| !c.is_control() && !r#"\/:*?"<>|"#.contains(c);
    (1..=PIPE_NAME_UNITS_MAX).contains(&name.encode_utf16().count()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::super::{Env, candidates, stats_socket};
    use super::*;

    const SID: &str = "S-1-5-21-1004336348-1177238915-682003330-1001";

    fn env(socket: Option<&str>) -> Env {
        Env { user_sid: Some(SID.to_owned()), socket: socket.map(PathBuf::from), ..Env::default() }
    }

    #[test]
    fn the_users_pipe_is_the_only_candidate_whatever_the_other_facts_are() {
        let env = Env { xdg_runtime_dir: Some("/run/x".into()), state_dir: Some("/home/u/.state".into()), ..env(None) };
        let places = candidates(&env).expect("a pipe");
        let socket = PathBuf::from(format!(r"\\.\pipe\broadcaster-{SID}"));
        assert_eq!(places, [Candidate { socket, origin: Origin::Pipe }]);
    }

    #[test]
    fn a_given_pipe_is_used_unchanged() {
        for given in [r"\\.\pipe\my bus", r"\\.\PIPE\x"] {
            let places = candidates(&env(Some(given))).expect("a pipe");
            assert_eq!(places, [Candidate { socket: given.into(), origin: Origin::Explicit }]);
        }
    }

    #[test]
    fn paths_that_are_not_local_pipes_are_refused_with_the_expected_form() {
        let longest = format!("{PIPE_PREFIX}{}", "n".repeat(PIPE_NAME_UNITS_MAX));
        assert!(candidates(&env(Some(&longest))).is_ok());
        let too_long = format!("{longest}n");
        let remote = r"\\server\pipe\x";
        for bad in [r"\\.\pipe\", r"C:\bus.sock", remote, r"\\.\pipe\a\b", r"\\.\pipe\a:b", "x", "", &too_long] {
            let text = candidates(&env(Some(bad))).expect_err(bad).to_string();
            assert!(text.contains(r"\\.\pipe\") && text.contains("240"), "{text}");
        }
    }

    #[test]
    fn lock_and_stats_pipe_follow_the_name() {
        let of = |pipe: &str| {
            let pipe = Path::new(pipe);
            (pipe_lock_file(Path::new("d"), pipe, SID), stats_socket(pipe))
        };
        let own = format!(r"\\.\pipe\broadcaster-{SID}");
        assert_eq!(of(&own), (Path::new("d").join("bus.lock"), format!("{own}-stats").into()));
        assert_eq!(of(&own.to_uppercase()).0, Path::new("d").join("bus.lock"), "names are compared without case");
        assert_eq!(of(r"\\.\pipe\con"), (Path::new("d").join("bus-con.lock"), r"\\.\pipe\con-stats".into()));
    }
}
