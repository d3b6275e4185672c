//! One thing done after the other, each of them said in a line; or, for a dry run, only said. It never decides what is to be done.

use super::failed;
use crate::exit::Failure;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// What a line of a file that `broadcasterd install` wrote says, so that it can be told from anybody else's.
pub(super) const MARK: &str = "Written by `broadcasterd install`; `broadcasterd uninstall` removes it.";

/// Does and says.
pub(super) struct Steps {
    dry_run: bool,
}

/// What is at a path where a file of ours goes.
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

    /// Says a line that is no step: how things are already, or what follows.
    pub(super) fn note(&self, line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
        Ok(writeln!(io::stdout(), "{line}")?)
    }

    /// A step: `verb` in the form of `wrote`, for a dry run `would write`.
    fn step<T: Default>(
        &self,
        (would, did): (&str, &str),
        what: &str,
        act: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.dry_run {
            self.note(format_args!("would {would} {what}"))?;
            return Ok(T::default());
        }
        let done = act()?;
        self.note(format_args!("{did} {what}"))?;
        Ok(done)
    }

    /// Puts `text` at `path`, whole or not at all.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        self.step(("write", "wrote"), &path.display().to_string(), || {
            replace(path, text).map_err(|error| failed(format!("cannot write {}: {error}", path.display())))
        })
    }

    /// Removes the file at `path`, which is ours.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Failure> {
        self.step(("remove", "removed"), &path.display().to_string(), || {
            match std::fs::remove_file(path) {
                // Somebody else was faster, at the same thing.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(failed(format!("cannot remove {}: {error}", path.display())))
                }
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    /// Has a service manager do something, in the form of `("enable", "enabled")`.
    pub(super) fn command(&self, verb: (&str, &str), what: &str, command: &mut Command) -> Result<(), Failure> {
        self.step(verb, what, || run(command).map(drop))
    }
}

/// Runs a program of the service manager to its end, for what it prints. If it fails, the sentence has the command and what it said.
pub(super) fn run(command: &mut Command) -> Result<String, Failure> {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let line = words.join(" ");
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed(format!("there is no {}", command.get_program().display())),
        _ => failed(format!("cannot run `{line}`: {error}")),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(failed(format!("`{line}` failed ({}): {said}", output.status)))
}

/// What is at `path`, which is an error if it is somebody else's.
pub(super) fn look(path: &Path) -> Result<Found, Failure> {
    let foreign = || {
        let remedy = "move it away, or keep it and do without `broadcasterd install`";
        failed(format!("{} is there, and `broadcasterd install` did not write it: {remedy}", path.display()))
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(failed(format!("cannot look at {}: {error}", path.display()))),
        Ok(metadata) if !metadata.is_file() => return Err(foreign()),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.lines().take(MARKED_WITHIN).any(|line| line.contains(MARK)) => Ok(Found::Ours(text)),
        _ => Err(foreign()),
    }
}

/// The mark is in the first line, but for XML, where a declaration stands before it.
const MARKED_WITHIN: usize = 2;

/// A file of its own that takes the place of the old one in one step: a manager never reads half a file.
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
        // What is left of it has a name that no manager reads.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}
