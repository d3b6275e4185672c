//! Whether a program can be trusted and run, by the owners and modes of files. It never runs one.

use super::directory::mode;
use super::process;
use crate::program::ProgramProblem;
use rustix::fs::{Access, FileType, Stat};
use std::io;
use std::path::Path;

/// The group whose members administer the machine.
const ADMIN: Option<u32> = if cfg!(target_vendor = "apple") { Some(80) } else { None };

/// How many links may lead to a program, as in the kernel.
const LINKS_MAX: usize = 40;

/// Like [`check_program`](crate::check_program), for a process that is not elevated.
pub(crate) fn check_program(program: &Path) -> Result<(), ProgramProblem> {
    let mut path = program.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = path.parent().ok_or(ProgramProblem::NotAFile)?;
        check_owner_and_mode(directory, &rustix::fs::stat(directory).map_err(refused)?)?;
        let stat = rustix::fs::lstat(&path).map_err(refused)?;
        match FileType::from_raw_mode(stat.st_mode) {
            // A link has no mode of its own. Its directory decides who can replace it.
            FileType::Symlink => path = directory.join(std::fs::read_link(&path).map_err(ProgramProblem::Io)?),
            FileType::RegularFile => {
                check_owner_and_mode(&path, &stat)?;
                return rustix::fs::access(&path, Access::EXEC_OK).map_err(|_| ProgramProblem::NotExecutable);
            }
            _ => return Err(ProgramProblem::NotAFile),
        }
    }
    Err(refused(rustix::io::Errno::LOOP))
}

fn check_owner_and_mode(path: &Path, stat: &Stat) -> Result<(), ProgramProblem> {
    if ![0, process::euid()].contains(&stat.st_uid) {
        return Err(ProgramProblem::OtherOwner { path: path.to_owned(), owner: stat.st_uid });
    }
    let mode = mode(stat);
    let writable = if ADMIN == Some(stat.st_gid) { 0o002 } else { 0o022 };
    if mode & writable != 0 {
        return Err(ProgramProblem::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(())
}

fn refused(error: impl Into<io::Error>) -> ProgramProblem {
    ProgramProblem::Io(error.into())
}

/// Whether the kernel has marked this process as one that must not trust its environment.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn is_elevated() -> bool {
    // SAFETY: the call has no precondition; it returns 0 for an entry that does not exist.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether the kernel has marked this process as one that must not trust its environment.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(unsafe_code)]
pub(crate) fn is_elevated() -> bool {
    // SAFETY: the call has no precondition.
    unsafe { libc::issetugid() != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
    }

    fn program(directory: &Path) -> PathBuf {
        let program = directory.join("broadcasterd");
        std::fs::write(&program, "#!/bin/sh\n").expect("written");
        set_mode(&program, 0o755);
        program
    }

    #[test]
    fn only_owner_and_root_may_write_to_a_program_and_its_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let program = program(place.path());
        for (of_directory, of_file, trusted) in [
            (0o755, 0o755, true),
            (0o755, 0o500, true),
            (0o1777, 0o755, false),
            (0o775, 0o755, false),
            (0o755, 0o775, false),
            (0o755, 0o757, false),
        ] {
            set_mode(place.path(), of_directory);
            set_mode(&program, of_file);
            let checked = check_program(&program);
            assert_eq!(checked.is_ok(), trusted, "{of_directory:o} {of_file:o}: {checked:?}");
            if let Err(problem) = checked {
                assert!(matches!(problem, ProgramProblem::WritableByOthers { .. }), "{problem}");
            }
        }
    }

    #[test]
    fn every_link_on_the_way_is_checked() {
        let (near, middle, far) =
            (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"), tempfile::tempdir().expect("three"));
        let program = program(far.path());
        symlink(&program, middle.path().join("link")).expect("linked");
        let link = near.path().join("broadcasterd");
        symlink(middle.path().join("link"), &link).expect("linked");
        check_program(&link).expect("all of it is ours");
        for place in [&near, &middle, &far] {
            set_mode(place.path(), 0o1777);
            let problem = check_program(&link).expect_err("anyone can replace it");
            let ProgramProblem::WritableByOthers { path, mode: 0o1777 } = problem else { panic!("{problem}") };
            assert_eq!(path, place.path());
            set_mode(place.path(), 0o700);
        }
        check_program(&link).expect("all of it is ours again");
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let inside = |name: &str| place.path().join(name);
        std::fs::create_dir(inside("directory")).expect("made");
        assert!(matches!(check_program(&inside("directory")), Err(ProgramProblem::NotAFile)));
        std::fs::write(inside("text"), "").expect("written");
        set_mode(&inside("text"), 0o644);
        assert!(matches!(check_program(&inside("text")), Err(ProgramProblem::NotExecutable)));
        symlink(inside("loop"), inside("loop")).expect("linked");
        assert!(matches!(check_program(&inside("loop")), Err(ProgramProblem::Io(_))));
        assert!(matches!(check_program(&inside("absent")), Err(ProgramProblem::Io(_))));
    }

    #[test]
    fn program_of_another_user_is_refused() {
        if process::euid() != 0 {
            return eprintln!("SKIPPED: only root can give a file away");
        }
        let place = tempfile::tempdir().expect("a directory");
        let program = program(place.path());
        std::os::unix::fs::chown(&program, Some(65534), None).expect("given away");
        let problem = check_program(&program).expect_err("another owner");
        assert!(matches!(&problem, ProgramProblem::OtherOwner { path, owner: 65534 } if *path == program), "{problem}");
        std::os::unix::fs::chown(&program, Some(0), None).expect("taken back");
        std::os::unix::fs::chown(place.path(), Some(65534), None).expect("given away");
        assert!(matches!(check_program(&program), Err(ProgramProblem::OtherOwner { owner: 65534, .. })));
    }
}
