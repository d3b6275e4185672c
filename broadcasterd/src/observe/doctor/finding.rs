//! One finding: its check, its level, what was found and the remedy. Control characters are escaped.

use crate::output::escaped_line;
use serde::Serialize;

/// What is checked, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(windows, allow(dead_code))]
pub(crate) enum Check {
    Socket,
    Directory,
    Lock,
    File,
    Daemon,
    Connections,
    Duplicates,
    Service,
    Limits,
    Memory,
    Program,
    Environment,
    Config,
    Stats,
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Directory => "directory",
            Self::Lock => "lock",
            Self::File => "file",
            Self::Daemon => "daemon",
            Self::Connections => "connections",
            Self::Duplicates => "duplicates",
            Self::Service => "service",
            Self::Limits => "limits",
            Self::Memory => "memory",
            Self::Program => "program",
            Self::Environment => "environment",
            Self::Config => "config",
            Self::Stats => "stats",
        }
    }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// Worth knowing; nothing is broken.
    Note,
    /// The bus works, but perhaps not for all clients or not for long.
    Warning,
    /// The bus does not work.
    Error,
}

impl Level {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Note => "note",
            Self::Warning => "WARN",
            Self::Error => "FAIL",
        }
    }

    pub(super) fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Note => "\x1b[36m",
            Self::Warning => "\x1b[33m",
            Self::Error => "\x1b[31m",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) level: Level,
    pub(crate) finding: String,
    /// What to do about it; `None` only at [`Level::Ok`].
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: Check, finding: impl AsRef<str>) -> Self {
        Self { check, level: Level::Ok, finding: escaped_line(finding.as_ref()).into_owned(), remedy: None }
    }

    pub(crate) fn new(check: Check, level: Level, finding: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        let [finding, remedy] = [finding.as_ref(), remedy.as_ref()].map(|text| escaped_line(text).into_owned());
        Self { check, level, finding, remedy: Some(remedy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let text = Finding::ok(Check::Lock, "/home/ü/日本 a\x1b[2J\nb\u{202e}c\u{9b}\u{feff}").finding;
        assert_eq!(text, r"/home/ü/日本 a\u{1b}[2J\u{a}b\u{202e}c\u{9b}\u{feff}");
        let finding = Finding::new(Check::Lock, Level::Note, "\r", "\u{7}");
        assert_eq!((finding.finding.as_str(), finding.remedy.as_deref()), (r"\u{d}", Some(r"\u{7}")));
    }
}
