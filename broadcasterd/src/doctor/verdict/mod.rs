//! What follows from the facts: findings with their remedies, and the most probable cause. Pure; it never looks at
//! anything itself.

mod bus;
mod surroundings;
#[cfg(test)]
pub(super) mod tests;

use super::facts::{Asked, Facts, Holder, Kind, LOOK_WITHIN, Lock, Look, Node, Place};
use super::{Check, Finding, Level};
use broadcaster_protocol::endpoint::lock_file;
use std::path::Path;

/// Connections of a daemon with the limits that it has by itself.
const CONNECTIONS_MAX: u64 = 4096;

/// What was found, at least one finding for each check but the configuration.
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
            findings.push(bus::socket(facts, places, used));
            findings.extend(bus::directories(facts, places, used));
            let place = &places[used];
            match &place.look {
                None => findings.push(Finding::new(
                    Check::File,
                    Level::Error,
                    format!(
                        "{} can not be looked at within {LOOK_WITHIN:?}: its file system hangs",
                        shown(&place.socket)
                    ),
                    "set BROADCASTER_SOCKET to a path on another file system",
                )),
                Some(look) => {
                    findings.push(bus::lock(&lock_file(&place.socket), look));
                    findings.push(bus::file(facts, place, look));
                    findings.extend(bus::daemon(facts, place, look));
                    findings.extend(bus::notifications(facts, place));
                    findings.extend(bus::stats(place, look));
                }
            }
            findings.push(bus::twins(places, used));
            findings.extend(surroundings::service(facts, &places[used]));
        }
    }
    findings.extend(surroundings::limits(facts));
    findings.extend(surroundings::programs(facts));
    findings.extend(surroundings::environment(facts));
    findings
}

/// The most probable cause, in one sentence.
pub(super) fn sentence(facts: &Facts, findings: &[Finding]) -> String {
    // What others follow from comes first.
    let cause = |finding: &&Finding| match finding.check {
        Check::Limits if finding.level == Level::Error => 0,
        Check::Socket => 1,
        Check::Config => 2,
        Check::Directory => 3,
        Check::File => 4,
        Check::Twins => 5,
        Check::Daemon => 6,
        Check::Lock => 7,
        Check::Program => 8,
        Check::Service => 9,
        Check::Limits => 10,
        Check::Environment => 11,
        Check::Stats => 12,
    };
    let first = |level| findings.iter().filter(|finding| finding.level == level).min_by_key(cause);
    if let Some(finding) = first(Level::Error) {
        return format!("The most probable cause of trouble is the {}: {}.", finding.check.name(), finding.finding);
    }
    let warning =
        first(Level::Warning).map(|finding| format!("mind the {}: {}", finding.check.name(), finding.finding));
    let answers = facts.places.iter().flatten().find_map(|place| match place.asked {
        Asked::Answered { pid, .. } => Some(pid),
        Asked::No | Asked::Failed { .. } => None,
    });
    match (answers, warning) {
        (Some(pid), None) => format!("All is well: process {pid} serves the bus."),
        (Some(pid), Some(warning)) => format!("The bus works, process {pid} serves it; {warning}."),
        (None, None) => "Nothing is wrong: no daemon runs, and the first client brings one up.".to_owned(),
        (None, Some(warning)) => format!("No daemon runs; {warning}."),
    }
}

/// The place that clients and the next daemon use.
fn used(places: &[Place], euid: u32) -> Option<usize> {
    let usable = |place: &Place| place.look.as_ref().is_some_and(|look| is_usable(look, euid));
    let first = |is: &dyn Fn(&Place) -> bool| places.iter().position(is);
    let any = (!places.is_empty()).then_some(0);
    // Clients wait for the first that takes connections, even if it does not answer.
    first(&is_held).or_else(|| first(&usable)).or(any)
}

fn is_held(place: &Place) -> bool {
    matches!(place.look, Some(Look { lock: Lock::Held { .. }, .. }))
}

fn is_usable(look: &Look, euid: u32) -> bool {
    let file = matches!(look.file, Node::Missing | Node::There { kind: Kind::Socket, .. });
    file && bus::trouble_with_directory(Path::new(""), look, euid).is_none()
}

fn named(holder: &Holder) -> String {
    match &holder.name {
        Some(name) => format!("process {} ({name})", holder.pid),
        None => format!("process {}", holder.pid),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The path as one word of a shell.
fn quoted(path: &Path) -> String {
    let path = shown(path);
    let plain = |character: char| character.is_alphanumeric() || "/._-+@%:,=".contains(character);
    if !path.is_empty() && path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
