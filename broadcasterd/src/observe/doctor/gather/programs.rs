//! The programs that a client would start as the daemon, and which of them is this one. They are run only for their version.

use super::bounded::{GRACE, Pending, tool};
use super::environment::variable;
use crate::observe::doctor::facts::{FileId, InPath, PROGRAM_NAME, ProgramFile, Programs};
use crate::observe::doctor::parse;
use rustix::fs::{Access, AtFlags, FileType};
use std::path::{Path, PathBuf};
use std::time::Instant;
use system_broadcaster::NO_AUTOSTART_VARIABLE;

/// Limit of programs in `PATH` whose version is determined.
const PROGRAMS_MAX: usize = 8;

pub(super) fn inspect_programs(tools_until: Instant) -> Programs {
    let this = std::env::current_exe().ok();
    let with_file = |path: PathBuf| {
        let file = program_file(&path);
        (path, file)
    };
    let mut seen = Vec::new();
    let mut in_path = Vec::new();
    for path in find_in_path(PROGRAM_NAME) {
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
                Err(Some(Pending::start(move || tool(&path, &["--version"], false, tools_until))))
            }
            ProgramFile::Missing | ProgramFile::NotAFile | ProgramFile::NotExecutable => Err(None),
        };
        in_path.push((path, file, version));
    }
    // By then, all of them have exited or were killed.
    let until = tools_until + GRACE;
    let in_path = in_path.into_iter().map(|(path, file, version)| {
        let version = version.map_or_else(|tool| parse::version(&tool.and_then(|tool| tool.wait(until))?.ok()?), Some);
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
pub(super) fn find_in_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    let name = name.to_owned();
    directories.into_iter().map(move |directory| directory.join(&name)).filter(|program| program.is_file())
}

pub(super) fn program_file(path: &Path) -> ProgramFile {
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
