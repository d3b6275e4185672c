//! Findings about the daemon: whether it answers, whether it can take connections, how it is doing, and whether there is more than
//! one.

use super::words::{OWN_PLACE, connections_max, named, quoted, shown};
use crate::observe::doctor::facts::{
    ANSWER_TIMEOUT, Cause, Facts, Holder, Kind, Lock, Node, Place, PlaceFiles, Status, starts_at_connect,
};
use crate::observe::doctor::finding::{Check, Finding, Level};
use system_broadcaster::SHARED_MEMORY_VARIABLE;

/// Processes listed by the number of their connections.
const LISTED_MAX: usize = 5;

pub(super) fn daemon(facts: &Facts, place: &Place, files: &PlaceFiles) -> Vec<Finding> {
    let holder = files.lock.holder();
    if let Some(owner) = files.owner_if_not(facts.euid) {
        let finding = format!("a daemon here would serve uid {owner}, not uid {}", facts.euid);
        return vec![Finding::new(Check::Daemon, Level::Error, finding, OWN_PLACE)];
    }
    match &place.status {
        Status::NotRequested if starts_at_connect(facts.service.as_ref(), &place.socket) => {
            vec![Finding::ok(Check::Daemon, "not running: the service manager starts it on the first connection")]
        }
        Status::NotRequested => vec![not_running(facts)],
        Status::Answered { .. } => answered(facts, place, holder),
        Status::Failed { cause, sentence } => match limit_reached(holder, *cause, sentence) {
            Some(limit) => vec![
                Finding::ok(Check::Daemon, format!("{} runs and takes no more connections", who(holder))),
                full(place, &limit),
            ],
            None => vec![no_answer(facts, holder, *cause, sentence)],
        },
    }
}

fn answered(facts: &Facts, place: &Place, holder: Option<&Holder>) -> Vec<Finding> {
    let Status::Answered { version, pid, protocol, uptime, connections, held_bytes, held_bytes_max } = &place.status
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let up = humantime::format_duration(*uptime);
    let text = format!(
        "process {pid} answers: version {version}, protocol {protocol}, up {up}, {connections} connections, {held_bytes} of \
         {held_bytes_max} bytes held"
    );
    if *version == facts.version {
        findings.push(Finding::ok(Check::Daemon, text));
    } else {
        let text = format!("{text}; this program is version {}", facts.version);
        let remedy = "nothing to do if clients work; after `broadcasterd stop`, the next client starts its own version";
        findings.push(Finding::new(Check::Daemon, Level::Note, text, remedy));
    }
    let max = connections_max(holder.and_then(|holder| holder.open_files).map(|(soft, _)| soft)) as u64;
    // Nine tenths.
    if connections.saturating_mul(10) >= max.saturating_mul(9) {
        let text = format!("{connections} of about {max} connections are in use{}", holders(place));
        let remedy = "close unused connections: one handle serves a whole program";
        findings.push(Finding::new(Check::Connections, Level::Warning, text, remedy));
    }
    if held_bytes.saturating_mul(10) >= held_bytes_max.saturating_mul(9) {
        let text =
            format!("{held_bytes} of {held_bytes_max} bytes are held for listeners that do not read and lose messages");
        let remedy = "find the stopped or slow listener with `broadcasterd stats`, and end or continue it";
        findings.push(Finding::new(Check::Daemon, Level::Warning, text, remedy));
    }
    findings
}

/// The limit that keeps a healthy daemon from accepting connections.
fn limit_reached(holder: Option<&Holder>, cause: Cause, sentence: &str) -> Option<String> {
    if cause == Cause::Full {
        return Some(format!("{} has reached its connection limit ({sentence})", who(holder)));
    }
    let holder = holder.filter(|holder| cause == Cause::Silent && !matches!(holder.state, Some('T' | 't' | 'D')))?;
    let ((limit, _), used) = (holder.open_files?, holder.descriptors?);
    (used >= limit).then(|| format!("{} has {used} file descriptors open, which is the limit", named(holder)))
}

fn full(place: &Place, limit: &str) -> Finding {
    let remedy = "close connections in these programs, or raise connections_max in broadcasterd.toml and the hard limit of open \
                  files (`ulimit -Hn`, LimitNOFILE=), and restart the daemon";
    Finding::new(Check::Connections, Level::Error, format!("{limit}{}", holders(place)), remedy)
}

/// Which processes have most of the connections, as far as the statistics show.
fn holders(place: &Place) -> String {
    let Some(Ok(clients)) = place.stats.as_ref().map(|stats| &stats.clients) else { return String::new() };
    let listed = clients.iter().take(LISTED_MAX).map(|client| {
        let name = client.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        format!("process {}{name} holds {}", client.pid, client.connections)
    });
    let mut text = listed.fold(String::new(), |text, client| format!("{text}; {client}"));
    let rest: u64 = clients.iter().skip(LISTED_MAX).map(|client| client.connections).sum();
    if rest > 0 {
        text.push_str(&format!("; others hold {rest}"));
    }
    text
}

fn not_running(facts: &Facts) -> Finding {
    if facts.programs.as_ref().is_some_and(|programs| programs.no_autostart) {
        return Finding::new(
            Check::Daemon,
            Level::Warning,
            "not running, and BROADCASTER_NO_AUTOSTART keeps clients of this environment from starting it",
            "run `broadcasterd start`, or unset BROADCASTER_NO_AUTOSTART",
        );
    }
    let remedy = "nothing to do: the first client starts it; `broadcasterd start` starts it now";
    Finding::new(Check::Daemon, Level::Note, "not running", remedy)
}

fn no_answer(facts: &Facts, holder: Option<&Holder>, cause: Cause, sentence: &str) -> Finding {
    let who = who(holder);
    let error = |finding: String, remedy: String| Finding::new(Check::Daemon, Level::Error, finding, remedy);
    let end = end(facts, holder);
    match (cause, holder, holder.and_then(|holder| holder.state)) {
        (Cause::Silent, Some(holder), Some('T')) => error(
            format!("{who} holds the lock and is stopped (state T): no answer within {ANSWER_TIMEOUT:?}"),
            format!("continue it with `kill -CONT {0}`, or {1}", holder.pid, kill(holder)),
        ),
        (Cause::Silent, Some(holder), Some('t')) => error(
            format!("{who} holds the lock and is stopped by a debugger (state t)"),
            format!("continue it in the debugger or detach, or {}", kill(holder)),
        ),
        (Cause::Silent, Some(_), Some('D')) => error(
            format!("{who} holds the lock and waits for a device (state D), which no signal interrupts"),
            "find out which file system or device hangs (`dmesg`)".to_owned(),
        ),
        (Cause::Silent, _, state) => {
            let state = state.map(|state| format!(" (state {state})")).unwrap_or_default();
            error(format!("{who} holds the lock and hangs{state}: no answer within {ANSWER_TIMEOUT:?}"), end)
        }
        (Cause::NotListening, ..) => error(format!("{who} holds the lock and does not listen on the socket"), end),
        (Cause::OtherUser, ..) => {
            error(sentence.to_owned(), "set BROADCASTER_SOCKET to a path in a directory of your own".to_owned())
        }
        (Cause::Refused, ..) => error(
            sentence.to_owned(),
            "if the versions are incompatible, run `broadcasterd stop` with the daemon's version".to_owned(),
        ),
        (Cause::Variable, ..) => error(sentence.to_owned(), format!("unset {SHARED_MEMORY_VARIABLE}")),
        (Cause::NotADaemon | Cause::Full | Cause::Other, ..) => error(sentence.to_owned(), end),
    }
}

fn who(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "a process that is not visible from here".to_owned(), named)
}

fn kill(holder: &Holder) -> String {
    let consequence = if holder.is_daemon() {
        "the next client starts another"
    } else {
        "this ends the whole program, and the next client takes over"
    };
    format!("kill it with `kill -KILL {}`: {consequence}", holder.pid)
}

fn end(facts: &Facts, holder: Option<&Holder>) -> String {
    let Some(holder) = holder else {
        return "run clients and daemon in one pid namespace, or run `broadcasterd doctor` where the daemon runs"
            .to_owned();
    };
    let pid = holder.pid;
    if facts.service.as_ref().is_some_and(|known| known.service.main_pid == Some(pid)) {
        return "run `systemctl --user restart broadcasterd.service`".to_owned();
    }
    format!("run `kill {pid}`; if it stays, {}", kill(holder))
}

/// What programs use while there is no daemon, on systems with notifications.
pub(super) fn notifications(facts: &Facts, place: &Place) -> Option<Finding> {
    let can = facts.notifications?;
    if let Status::Answered { .. } = place.status {
        return None;
    }
    let payload = match can.payload {
        true => format!("payloads of at most {} bytes", can.payload_bytes_max),
        false => "without payloads".to_owned(),
    };
    let finding = format!(
        "without a daemon, programs with `native_fallback` use notifications of the system: {payload}, unordered, losses not \
         counted, visible to every process of the session"
    );
    Some(Finding::new(Check::Daemon, Level::Note, finding, "nothing to do: they return to the daemon when it runs"))
}

pub(super) fn duplicates(places: &[Place], used: usize) -> Finding {
    let id_at = |place: &Place| match &place.files {
        Some(PlaceFiles { lock: Lock::Held { id, .. }, .. }) => Some(*id),
        _ => None,
    };
    let ours = id_at(&places[used]);
    let pids_at = |place: &Place| match &place.files {
        Some(PlaceFiles { lock: Lock::Held { holders, .. }, .. }) => holders.iter().map(|holder| holder.pid).collect(),
        _ => Vec::new(),
    };
    let our_pids = pids_at(&places[used]);
    // A daemon serves every place that it can, and the same directory under another name holds the same daemon.
    let is_another = |place: &&Place| {
        id_at(place).is_some_and(|id| ours != Some(id)) && !pids_at(place).iter().any(|pid| our_pids.contains(pid))
    };
    let others: Vec<&Place> = places.iter().filter(is_another).collect();
    let Some(other) = others.first() else {
        return Finding::ok(Check::Duplicates, if ours.is_some() { "one daemon" } else { "no daemon" });
    };
    let one = |place: &Place| match place.files.as_ref().and_then(|files| files.lock.holder()) {
        Some(holder) => format!("{} at {}", named(holder), shown(&place.socket)),
        None => format!("a process at {}", shown(&place.socket)),
    };
    let all: Vec<_> = std::iter::once(&places[used]).chain(others.iter().copied()).map(one).collect();
    let finding = format!(
        "{} daemons serve this user: {}; clients of one do not receive what clients of another send",
        all.len(),
        all.join(", ")
    );
    let remedy = format!("run `broadcasterd --socket {} stop`: its clients move to the other", quoted(&other.socket));
    Finding::new(Check::Duplicates, Level::Error, finding, remedy)
}

pub(super) fn stats(place: &Place, files: &PlaceFiles) -> Option<Finding> {
    let stats = place.stats.as_ref()?;
    if !matches!(place.status, Status::Answered { .. }) {
        return None;
    }
    if files.lock.holder().is_some_and(|holder| !holder.is_daemon()) {
        return Some(Finding::ok(Check::Stats, "none: a program hosts the bus"));
    }
    let path = shown(&stats.path);
    let note = |finding: String| {
        let remedy = "if statistics are needed, run `broadcasterd stop`: the next daemon makes the socket, unless it is disabled";
        Some(Finding::new(Check::Stats, Level::Note, finding, remedy))
    };
    match (&stats.file, &stats.clients) {
        (Node::Missing, _) => note(format!("{path} does not exist: only `broadcasterd status` is available")),
        (Node::Exists { kind: Kind::Socket, .. }, Ok(_)) => Some(Finding::ok(Check::Stats, format!("{path} answers"))),
        (Node::Exists { kind: Kind::Socket, .. }, Err(why)) => note(format!("{path} does not answer: {why}")),
        (Node::Exists { kind, .. }, _) => note(format!("{path} is {kind}, not a socket")),
        (Node::Unknown(why), _) => note(format!("cannot inspect {path}: {why}")),
    }
}
