//! Whether a program can be run. Who may write to it is for the system's access lists. It never runs one.

use crate::program::ProgramProblem;
use std::path::Path;

/// As [`check_program`](crate::check_program).
pub(crate) fn check_program(program: &Path) -> Result<(), ProgramProblem> {
    let metadata = program.metadata().map_err(ProgramProblem::Io)?;
    if metadata.is_file() { Ok(()) } else { Err(ProgramProblem::NotAFile) }
}

/// `false`: no program on this system runs with more rights than its caller without the caller's consent.
pub(crate) fn is_elevated() -> bool {
    false
}
