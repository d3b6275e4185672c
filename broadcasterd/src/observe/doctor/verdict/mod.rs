//! Derives findings with their remedies from the facts, and the most likely cause. Pure: it never inspects anything itself.

mod daemon;
mod place;
mod surroundings;
#[cfg(test)]
pub(super) mod tests;
mod words;

use super::facts::{Facts, GATHER_TIMEOUT, Status};
use super::finding::{Check, Finding, Level};
use broadcaster_protocol::endpoint::lock_file;
use place::used;
use words::shown;

/// All findings, at least one for each check except `config` and `connections`.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.places {
        Err(why) => {
            let max = facts.path_bytes_max;
            let remedy =
                format!("set BROADCASTER_SOCKET to an absolute path of at most {max} bytes, or unset it and set HOME");
            findings.push(Finding::new(Check::Socket, Level::Error, why, remedy));
        }
        Ok(places) => {
            let Some(used) = used(places, facts.euid) else { return findings };
            findings.push(place::socket(facts, places, used));
            findings.extend(place::directories(facts, places, used));
            let place = &places[used];
            match &place.files {
                None => findings.push(Finding::new(
                    Check::File,
                    Level::Error,
                    format!("cannot inspect {} within {GATHER_TIMEOUT:?}: its file system hangs", shown(&place.socket)),
                    "set BROADCASTER_SOCKET to a path on another file system",
                )),
                Some(files) => {
                    findings.push(place::lock(&lock_file(&place.socket), files));
                    findings.push(place::file(facts, place, files));
                    findings.extend(daemon::daemon(facts, place, files));
                    findings.extend(daemon::notifications(facts, place));
                    findings.extend(daemon::stats(place, files));
                }
            }
            findings.push(daemon::duplicates(places, used));
            findings.extend(surroundings::service(facts, &places[used]));
        }
    }
    findings.extend(surroundings::limits(facts));
    findings.push(facts.shared_memory.finding());
    findings.extend(surroundings::programs(facts));
    findings.extend(surroundings::environment(facts));
    findings
}

/// The most likely cause, in one sentence.
pub(super) fn sentence(facts: &Facts, findings: &[Finding]) -> String {
    // Causes before their consequences.
    let cause = |finding: &&Finding| match finding.check {
        Check::Limits | Check::Memory if finding.level == Level::Error => 0,
        Check::Socket => 1,
        Check::Config => 2,
        Check::Directory => 3,
        Check::Lock | Check::File => 4,
        Check::Duplicates => 5,
        Check::Daemon => 6,
        Check::Connections => 7,
        Check::Program => 8,
        Check::Service => 9,
        Check::Limits => 10,
        Check::Environment => 11,
        Check::Memory | Check::Stats => 12,
    };
    let first = |level| findings.iter().filter(|finding| finding.level == level).min_by_key(cause);
    if let Some(finding) = first(Level::Error) {
        return format!("Most likely cause: {}: {}.", finding.check.name(), finding.finding);
    }
    let warning = first(Level::Warning).map(|finding| format!("{}: {}", finding.check.name(), finding.finding));
    let answers = facts.places.iter().flatten().find_map(|place| match place.status {
        Status::Answered { pid, .. } => Some(pid),
        Status::NotRequested | Status::Failed { .. } => None,
    });
    match (answers, warning) {
        (Some(pid), None) => format!("The bus works: process {pid} serves it."),
        (Some(pid), Some(warning)) => format!("The bus works: process {pid} serves it. Warning: {warning}."),
        (None, None) => "No problem found: no daemon runs, and the first client starts one.".to_owned(),
        (None, Some(warning)) => format!("No daemon runs. Warning: {warning}."),
    }
}
