//! Which programs may be run on behalf of the user. It never runs one.

use crate::system;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a program is not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProgramProblem {
    /// This process has more rights than its caller, and therefore starts nothing on the caller's behalf.
    Elevated,
    /// The path leads to something other than a file.
    NotAFile,
    /// The file is not executable for this user.
    NotExecutable,
    /// The file, or a directory on the way to it, belongs neither to the effective user nor to root.
    OtherOwner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Group or others can write to the file, or replace it in its directory.
    WritableByOthers {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system cannot examine it, or cannot run it.
    Io(io::Error),
}

impl fmt::Display for ProgramProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elevated => write!(f, "this process has more rights than its caller"),
            Self::NotAFile => write!(f, "it is not a file"),
            Self::NotExecutable => write!(f, "it is not executable"),
            Self::OtherOwner { path, owner } => write!(f, "{} belongs to uid {owner}", path.display()),
            Self::WritableByOthers { path, mode } => {
                write!(f, "{} has mode {mode:04o}, so that others can write to it", path.display())
            }
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// The existing programs called `name`, best first: beside the running program, then in the absolute entries of `PATH`. Relative entries
/// are ignored, since they depend on the current directory. Empty if this process [is elevated](is_elevated).
///
/// Whether one may be run is for [`check_program`].
pub fn programs(name: &str) -> Vec<PathBuf> {
    if is_elevated() {
        return Vec::new();
    }
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let sibling = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    let mut found: Vec<PathBuf> = Vec::new();
    for program in sibling.into_iter().chain(in_path).map(|directory| directory.join(&name)) {
        if !found.contains(&program) && program.symlink_metadata().is_ok() {
            found.push(program);
        }
    }
    found
}

/// Checks that no other user but root can have placed or changed `program`, and that it can be run.
///
/// On Unix the file, each link that leads to it, and the directory of each belong to the effective user or root, and are writable
/// by neither group nor others; the sticky bit makes no difference. On macOS the group `admin`, whose members can become root, may
/// write. On Windows the system's access lists decide.
///
/// # Errors
///
/// The first reason not to run it.
pub fn check_program(program: &Path) -> Result<(), ProgramProblem> {
    if is_elevated() {
        return Err(ProgramProblem::Elevated);
    }
    system::check_program(program)
}

/// Whether this process runs with more rights than its caller: a set-user-ID or set-group-ID program, or one with capabilities of
/// its own. The caller chose its environment, which must then be ignored.
pub fn is_elevated() -> bool {
    system::is_elevated()
}
