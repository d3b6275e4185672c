//! `broadcasterd doctor`: what is wrong with the bus, in one line each, with the remedy. It never changes anything and
//! never starts a daemon.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `facts` | what the system says: all that waits, reads or connects |
//! | `verdict` | what follows from it: pure |
//! | `parse` | the texts of the system as values: pure |
//! | `system` | what only one system tells |
//! | `windows` | all of it on Windows |

#[cfg(unix)]
mod facts;
#[cfg(unix)]
#[cfg_attr(not(any(test, target_os = "linux", target_os = "android")), allow(dead_code))]
mod parse;
#[cfg(unix)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "elsewhere.rs")]
mod system;
#[cfg(unix)]
mod verdict;
#[cfg(windows)]
mod windows;

#[cfg(windows)]
pub(crate) use windows::examine;

use crate::config::{Flags, Settings, Started};
use serde::Serialize;
use std::fmt::Write;
#[cfg(unix)]
use system_broadcaster::Options;

/// Version of the JSON. Fields and checks may be added within it; readers ignore those that they do not know.
const SCHEMA: u32 = 1;

/// Columns of the name of a check.
const NAME_COLUMNS: usize = 12;

/// What is looked at, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(windows, allow(dead_code))]
pub(crate) enum Check {
    Socket,
    Directory,
    Lock,
    File,
    Daemon,
    Twins,
    Service,
    Limits,
    Program,
    Environment,
    Config,
    Stats,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Directory => "directory",
            Self::Lock => "lock",
            Self::File => "file",
            Self::Daemon => "daemon",
            Self::Twins => "twins",
            Self::Service => "service",
            Self::Limits => "limits",
            Self::Program => "program",
            Self::Environment => "environment",
            Self::Config => "config",
            Self::Stats => "stats",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// Worth knowing; nothing is broken.
    Note,
    /// The bus works, and may not for everybody or for long.
    Warning,
    /// The bus does not work.
    Error,
}

impl Level {
    fn sign(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Note => "note",
            Self::Warning => "WARN",
            Self::Error => "FAIL",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Note => "\x1b[36m",
            Self::Warning => "\x1b[33m",
            Self::Error => "\x1b[31m",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) level: Level,
    pub(crate) finding: String,
    /// What to do about it; there is one unless all is well.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: Check, finding: impl AsRef<str>) -> Self {
        Self { check, level: Level::Ok, finding: clean(finding.as_ref()), remedy: None }
    }

    pub(crate) fn new(check: Check, level: Level, finding: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self { check, level, finding: clean(finding.as_ref()), remedy: Some(clean(remedy.as_ref())) }
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// The most probable cause in one sentence.
    verdict: String,
    /// The worst of the findings.
    level: Level,
    findings: Vec<Finding>,
}

impl Report {
    #[cfg(unix)]
    fn new(facts: &facts::Facts, config: Option<Finding>) -> Self {
        let mut findings = verdict::findings(facts);
        findings.extend(config);
        findings.sort_by_key(|finding| finding.check);
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Self { schema: SCHEMA, verdict: clean(&verdict::sentence(facts, &findings)), level, findings }
    }

    /// Whether the bus does not work.
    pub(crate) fn is_bad(&self) -> bool {
        self.level == Level::Error
    }

    /// For people: one line for each finding, its remedy below, and the verdict.
    pub(crate) fn text(&self, colours: bool) -> String {
        let mut text = String::new();
        let sign = |level: Level| match colours {
            true => format!("{}{}\x1b[0m", level.colour(), level.sign()),
            false => level.sign().to_owned(),
        };
        for Finding { check, level, finding, remedy } in &self.findings {
            let _ = writeln!(text, "{}  {:NAME_COLUMNS$} {finding}", sign(*level), check.name());
            if let Some(remedy) = remedy {
                let _ = writeln!(text, "      {:NAME_COLUMNS$} -> {remedy}", "");
            }
        }
        let _ = writeln!(text, "\n{}", self.verdict);
        text
    }
}

/// Looks at everything. `socket_given`: the socket of `options` is an argument of the command.
#[cfg(unix)]
pub(crate) fn examine(options: &Options, socket_given: bool) -> Report {
    Report::new(&facts::gather(options, socket_given), config_check())
}

/// What is wrong with the settings that a daemon would be started with; `None` if nothing is.
fn config_check() -> Option<Finding> {
    let error = Settings::load(&Flags::default(), Started::OnDemand).err()?;
    let remedy = "a daemon can not start like this; `broadcasterd config check` tells whether the file is good";
    Some(Finding::new(Check::Config, Level::Error, error.to_string(), remedy))
}

/// Text from outside without what would move the cursor, hide or turn around the rest of the line.
fn clean(text: &str) -> String {
    let is_harmless = |character: char| {
        !character.is_control()
            && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            && !matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) {
            cleaned.push(character);
        } else {
            cleaned.extend(character.escape_unicode());
        }
    }
    cleaned
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// What people see, from invented facts.
    fn screens() -> Vec<(&'static str, String)> {
        let screen = |facts: &facts::Facts| Report::new(facts, None).text(false);
        vec![
            ("doctor-healthy", screen(&verdict::tests::healthy())),
            ("doctor-stopped", screen(&verdict::tests::stopped())),
        ]
    }

    #[test]
    fn screens_in_the_documentation_are_current() {
        screens().iter().for_each(|(name, text)| crate::screens::assert_screen(name, text));
    }

    #[test]
    fn a_screen_has_a_sign_a_check_and_a_remedy() {
        let screens = screens();
        let (healthy, stopped) = (&screens[0].1, &screens[1].1);
        assert!(
            healthy.lines().take_while(|line| !line.is_empty()).all(|line| line.starts_with("ok    ")),
            "{healthy}"
        );
        let at = stopped.lines().position(|line| line.starts_with("FAIL  daemon       ")).expect("a failure");
        assert!(stopped.lines().nth(at + 1).is_some_and(|line| line.trim().starts_with("-> ")), "{stopped}");
        assert!(stopped.lines().last().is_some_and(|line| line.contains("812")), "{stopped}");
    }

    #[test]
    fn colours_are_around_the_signs_only() {
        let report = Report::new(&verdict::tests::stopped(), None);
        let coloured = report.text(true);
        assert!(coloured.contains("\x1b[31mFAIL\x1b[0m  daemon"), "{coloured}");
        let mut plain = coloured;
        for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, report.text(false));
    }

    #[test]
    fn text_from_outside_moves_nothing() {
        assert_eq!(clean("a\x1b[2J\nb\u{202e}c\u{9b}\u{feff}"), r"a\u{1b}[2J\u{a}b\u{202e}c\u{9b}\u{feff}");
        assert_eq!(clean("/home/ü/日本"), "/home/ü/日本");
        let finding = Finding::new(Check::Lock, Level::Note, "\r", "\u{7}");
        assert_eq!((finding.finding.as_str(), finding.remedy.as_deref()), (r"\u{d}", Some(r"\u{7}")));
    }

    #[test]
    fn json_has_the_promised_fields() {
        let report = serde_json::to_value(Report::new(&verdict::tests::stopped(), None)).expect("it is JSON");
        assert_eq!((&report["schema"], &report["level"]), (&1.into(), &"error".into()));
        assert!(report["verdict"].is_string());
        for finding in report["findings"].as_array().expect("a list") {
            assert!(finding["check"].is_string() && finding["finding"].is_string(), "{finding}");
            assert_eq!(finding["remedy"].is_null(), finding["level"] == "ok", "{finding}");
        }
    }

    #[test]
    fn the_configuration_has_its_place_before_the_stats() {
        let config = Finding::new(Check::Config, Level::Error, "a line", "a remedy");
        let report = Report::new(&verdict::tests::healthy(), Some(config));
        let checks: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
        assert!(report.is_bad() && checks.is_sorted() && report.verdict.contains("a line"), "{report:?}");
    }
}
