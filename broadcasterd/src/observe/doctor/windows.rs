//! The checks on Windows, where a pipe has no directory and leaves no stale file. Checks of other systems that do not apply are
//! omitted.

use super::config::config_check;
use super::finding::{Check, Finding, Level};
use super::report::Report;
use super::shared_memory::SharedMemory;
use broadcaster_protocol::endpoint::{SOCKET_VARIABLE, stats_socket};
use std::path::{Path, PathBuf};
use system_broadcaster::{ConnectError, NO_AUTOSTART_VARIABLE, Options, Origin};

/// Runs all checks. `socket_given`: the pipe of `options` is an argument of the command.
pub(crate) fn examine(options: &Options, socket_given: bool) -> Report {
    let mut findings = Vec::new();
    let sentence = match options.candidates() {
        Ok(places) => {
            let mut sentence = "the bus has no place".to_owned();
            for place in places {
                findings.push(pipe(&place.socket, place.origin, socket_given));
                let (daemon, verdict) = daemon(options);
                findings.push(daemon);
                findings.push(stats(&place.socket));
                sentence = verdict;
            }
            sentence
        }
        Err(error) => {
            let remedy = format!(r"set {SOCKET_VARIABLE} to \\.\pipe\NAME, or unset it");
            findings.push(Finding::new(Check::Socket, Level::Error, error.to_string(), remedy));
            error.to_string()
        }
    };
    findings.push(SharedMemory::inspect().finding());
    findings.push(program());
    findings.push(environment());
    findings.extend(config_check());
    let cause = findings.iter().filter(|finding| finding.level == Level::Error).min_by_key(|finding| finding.check);
    let verdict = cause.map_or(sentence, |cause| cause.finding.clone());
    Report::new(&verdict, findings)
}

fn pipe(name: &Path, origin: Origin, socket_given: bool) -> Finding {
    let why = match origin {
        Origin::Explicit if socket_given => "named by --socket",
        Origin::Explicit => "named by BROADCASTER_SOCKET",
        _ => "named after this user",
    };
    Finding::ok(Check::Socket, format!("{} ({why})", name.display()))
}

/// The finding about the daemon, and the verdict without an error.
fn daemon(options: &Options) -> (Finding, String) {
    match options.daemon().status() {
        Ok(status) => {
            let finding = format!("process {} answers: version {}", status.pid, status.version);
            (Finding::ok(Check::Daemon, finding), "The bus works.".to_owned())
        }
        Err(ConnectError::NotRunning { .. }) => {
            let remedy = "nothing to do: the first client starts it; `broadcasterd start` starts it now";
            (
                Finding::new(Check::Daemon, Level::Note, "not running", remedy),
                "No problem found: no daemon runs, and the first client starts one.".to_owned(),
            )
        }
        Err(error) => {
            let remedy = match &error {
                ConnectError::OtherUser { .. } => "use another pipe, and find the process that serves this one",
                ConnectError::SharedMemory { .. } => "unset BROADCASTER_SHARED_MEMORY",
                _ => "end the process that serves the pipe; the next client starts another",
            };
            (Finding::new(Check::Daemon, Level::Error, error.to_string(), remedy), error.to_string())
        }
    }
}

/// Whether the stats pipe exists. Looking it up does not use one of its connections.
fn stats(socket: &Path) -> Finding {
    let pipe = stats_socket(socket);
    match std::fs::exists(&pipe) {
        Ok(true) => Finding::ok(Check::Stats, format!("{} exists", pipe.display())),
        _ => {
            let finding = format!("{} does not exist", pipe.display());
            Finding::new(
                Check::Stats,
                Level::Note,
                finding,
                "nothing to do unless a daemon runs: a program that hosts the bus has none",
            )
        }
    }
}

/// The program that clients would start.
fn program() -> Finding {
    let named = std::env::var_os("BROADCASTERD").filter(|path| !path.is_empty()).map(PathBuf::from);
    match named {
        Some(path) if !path.is_absolute() => {
            let finding = format!("BROADCASTERD is {}, which is not absolute", path.display());
            Finding::new(Check::Program, Level::Error, finding, "set it to an absolute path, or unset it")
        }
        Some(path) if !path.is_file() => {
            let finding = format!("BROADCASTERD is {}, which does not exist", path.display());
            Finding::new(Check::Program, Level::Error, finding, "correct it, or unset it")
        }
        Some(path) => Finding::ok(Check::Program, format!("clients start {}, named by BROADCASTERD", path.display())),
        None => Finding::ok(Check::Program, "clients start the broadcasterd.exe beside them, or the first in PATH"),
    }
}

fn environment() -> Finding {
    let off = std::env::var_os(NO_AUTOSTART_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    if off {
        let finding = format!("{NO_AUTOSTART_VARIABLE} is set: clients start no daemon");
        return Finding::new(Check::Environment, Level::Warning, finding, "unset it, or run `broadcasterd start`");
    }
    Finding::ok(Check::Environment, "clients may start a daemon")
}
