//! The doctor on Windows, where there is less that can be wrong: a pipe is in no directory, has no file and no stale remains. What
//! is looked at is said; what other systems' doctors look at beyond that is not guessed.

use super::{Check, Finding, Level, Report, SCHEMA, clean, config_check};
use broadcaster_protocol::endpoint::{SOCKET_VARIABLE, stats_socket};
use std::path::{Path, PathBuf};
use system_broadcaster::{ConnectError, NO_AUTOSTART_VARIABLE, Options, Origin};

/// Looks at everything that can be looked at. `socket_given`: the pipe of `options` is an argument of the command.
pub(crate) fn examine(options: &Options, socket_given: bool) -> Report {
    let mut findings = Vec::new();
    let sentence = match options.candidates() {
        Ok(places) => {
            let mut sentence = "there is no place for the bus".to_owned();
            for place in places {
                findings.push(pipe(&place.socket, place.origin, socket_given));
                let (daemon, said) = daemon(options);
                findings.push(daemon);
                findings.push(stats(&place.socket));
                sentence = said;
            }
            sentence
        }
        Err(error) => {
            let remedy = format!(r"set {SOCKET_VARIABLE} to \\.\pipe\NAME, or to nothing");
            findings.push(Finding::new(Check::Socket, Level::Error, error.to_string(), remedy));
            error.to_string()
        }
    };
    findings.push(program());
    findings.push(environment());
    findings.extend(config_check());
    findings.sort_by_key(|finding| finding.check);
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let cause = findings.iter().find(|finding| finding.level == Level::Error);
    let verdict = cause.map_or_else(|| clean(&sentence), |cause| cause.finding.clone());
    Report { schema: SCHEMA, verdict, level, findings }
}

fn pipe(name: &Path, origin: Origin, socket_given: bool) -> Finding {
    let why = match origin {
        Origin::Explicit if socket_given => "named by --socket",
        Origin::Explicit => "named by BROADCASTER_SOCKET",
        _ => "named after this user",
    };
    Finding::ok(Check::Socket, format!("{} ({why})", name.display()))
}

/// What the daemon says of itself, and the sentence that follows from it.
fn daemon(options: &Options) -> (Finding, String) {
    match options.daemon().status() {
        Ok(status) => {
            let said = format!("process {} (version {}) serves the bus and answers", status.pid, status.version);
            (Finding::ok(Check::Daemon, &said), "the bus works".to_owned())
        }
        Err(ConnectError::NotRunning { .. }) => {
            let said = "no daemon runs";
            let remedy = "nothing: the first client starts one; or run `broadcasterd start`";
            (
                Finding::new(Check::Daemon, Level::Note, said, remedy),
                "no daemon runs, and nothing is in its way".to_owned(),
            )
        }
        Err(error) => {
            let remedy = match &error {
                ConnectError::OtherUser { .. } => "use another pipe, and find out who serves this one",
                _ => "end the process that serves the pipe; the next client starts another one",
            };
            (Finding::new(Check::Daemon, Level::Error, error.to_string(), remedy), error.to_string())
        }
    }
}

/// Whether somebody serves the stats pipe. Looking does not take its place in the daemon's list of those who ask.
fn stats(socket: &Path) -> Finding {
    let pipe = stats_socket(socket);
    match std::fs::exists(&pipe) {
        Ok(true) => Finding::ok(Check::Stats, format!("{} is there", pipe.display())),
        _ => {
            let said = format!("{} is not there", pipe.display());
            Finding::new(
                Check::Stats,
                Level::Note,
                said,
                "nothing, unless a daemon runs: a program that hosts the bus has none",
            )
        }
    }
}

/// The program that clients would start.
fn program() -> Finding {
    let named = std::env::var_os("BROADCASTERD").filter(|path| !path.is_empty()).map(PathBuf::from);
    match named {
        Some(path) if !path.is_absolute() => {
            let said = format!("BROADCASTERD is {}, which is not absolute", path.display());
            Finding::new(Check::Program, Level::Error, said, "set it to an absolute path, or to nothing")
        }
        Some(path) if !path.is_file() => {
            let said = format!("BROADCASTERD is {}, and there is no such file", path.display());
            Finding::new(Check::Program, Level::Error, said, "correct it, or set it to nothing")
        }
        Some(path) => Finding::ok(Check::Program, format!("clients start {}, named by BROADCASTERD", path.display())),
        None => Finding::ok(Check::Program, "clients start the broadcasterd.exe beside them, or the first in PATH"),
    }
}

fn environment() -> Finding {
    let off = std::env::var_os(NO_AUTOSTART_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    if off {
        let said = format!("{NO_AUTOSTART_VARIABLE} is set: clients start no daemon");
        return Finding::new(
            Check::Environment,
            Level::Warning,
            said,
            "set it to nothing, or run `broadcasterd start`",
        );
    }
    Finding::ok(Check::Environment, "clients may start a daemon")
}
