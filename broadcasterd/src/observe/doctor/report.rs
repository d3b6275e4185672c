//! All findings as text and as JSON. It checks nothing itself.

use super::finding::{Finding, Level};
use crate::output::escaped_line;
use serde::Serialize;
use std::fmt::Write;

/// Version of the JSON. A version may gain fields and checks; readers ignore the ones they do not know.
const SCHEMA: u32 = 1;

/// Columns for the name of a check.
const NAME_COLUMNS: usize = 12;

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// The most likely cause in one sentence.
    verdict: String,
    /// The most serious level of the findings.
    level: Level,
    findings: Vec<Finding>,
}

impl Report {
    /// A report of these findings, sorted by check.
    pub(super) fn new(verdict: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.check);
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Self { schema: SCHEMA, verdict: escaped_line(verdict).into_owned(), level, findings }
    }

    #[cfg(all(test, unix))]
    pub(super) fn verdict(&self) -> &str {
        &self.verdict
    }

    #[cfg(all(test, unix))]
    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether a finding is an error.
    pub(crate) fn is_bad(&self) -> bool {
        self.level == Level::Error
    }

    /// The report as text: one line per finding with the remedy below, then the verdict.
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
