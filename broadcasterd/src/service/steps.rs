//! The steps of an installation: each is done and reported in one line, or, in a dry run, only reported. It never decides which
//! steps are needed.

use super::order::failed;
use crate::exit::Failure;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// A line of every file that `broadcasterd install` writes, which distinguishes it from all other files.
pub(super) const MARK: &str = "Written by `broadcasterd install`; `broadcasterd uninstall` removes it.";

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Write,
    Remove,
    Reload,
    Enable,
    Disable,
    Load,
    Unload,
    Start,
    Restart,
    Stop,
    Reset,
}

impl Action {
    /// The verb as in `would write`, and as in `wrote`.
    fn verb(self) -> (&'static str, &'static str) {
        match self {
            Self::Write => ("write", "wrote"),
            Self::Remove => ("remove", "removed"),
            Self::Reload => ("reload", "reloaded"),
            Self::Enable => ("enable", "enabled"),
            Self::Disable => ("disable", "disabled"),
            Self::Load => ("load", "loaded"),
            Self::Unload => ("unload", "unloaded"),
            Self::Start => ("start", "started"),
            Self::Restart => ("restart", "restarted"),
            Self::Stop => ("stop", "stopped"),
            Self::Reset => ("reset", "reset"),
        }
    }
}

/// Takes the steps and reports them.
pub(super) struct Steps {
    dry_run: bool,
}

/// What is at the path of a file that `broadcasterd install` writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A file that `broadcasterd install` wrote, with this text.
    Ours(String),
}

impl Steps {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run }
    }

    /// Reports something that is not a step.
    pub(super) fn note(&self, line: fmt::Arguments<'_>) -> Result<(), Failure> {
        Ok(writeln!(io::stdout(), "{line}")?)
    }

    fn step(&self, action: Action, what: &str, act: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let (would, did) = action.verb();
        if self.dry_run {
            return self.note(format_args!("would {would} {what}"));
        }
        act()?;
        self.note(format_args!("{did} {what}"))
    }

    /// Writes a file, completely or not at all.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        self.step(Action::Write, &path.display().to_string(), || {
            replace(path, text).map_err(|error| failed(format!("cannot write {}: {error}", path.display())))
        })
    }

    /// Removes a file that `broadcasterd install` wrote.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Failure> {
        self.step(Action::Remove, &path.display().to_string(), || match std::fs::remove_file(path) {
            // Otherwise, another process was faster.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed(format!("cannot remove {}: {error}", path.display())))
            }
            Ok(()) | Err(_) => Ok(()),
        })
    }

    /// Runs a command of the service manager.
    pub(super) fn command(&self, action: Action, what: &str, command: &mut Command) -> Result<(), Failure> {
        self.step(action, what, || run(command).map(drop))
    }
}

/// Runs a program of the service manager and returns its output. An error contains the command line and the diagnostics.
pub(super) fn run(command: &mut Command) -> Result<String, Failure> {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let line = words.join(" ");
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed(format!("{} was not found", command.get_program().display())),
        _ => failed(format!("cannot run `{line}`: {error}")),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    let diagnostics = diagnostics.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(failed(format!("`{line}` failed ({}): {diagnostics}", output.status)))
}

/// What is at `path`. A file that `broadcasterd install` did not write is an error.
pub(super) fn look(path: &Path) -> Result<Found, Failure> {
    let foreign = || {
        let remedy = "move it away, or keep it and do not use `broadcasterd install`";
        failed(format!("{} exists, and `broadcasterd install` did not write it: {remedy}", path.display()))
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(failed(format!("cannot read {}: {error}", path.display()))),
        Ok(metadata) if !metadata.is_file() => return Err(foreign()),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.lines().take(MARKED_WITHIN).any(|line| line.contains(MARK)) => Ok(Found::Ours(text)),
        _ => Err(foreign()),
    }
}

/// The mark is in the first line. In XML, the declaration precedes it.
const MARKED_WITHIN: usize = 2;

/// Replaces the file atomically, so that a manager never reads half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(directory)?;
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{}.new", std::process::id()));
    let fresh = directory.join(fresh);
    let written = File::options().write(true).create_new(true).mode(0o644).open(&fresh).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    });
    if written.is_err() {
        // If it remains, no manager reads a file of this name.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}
