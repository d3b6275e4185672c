//! What there is to say of the bus itself: its place, its lock, its socket, and who serves it.

use super::super::facts::{
    ANSWER_WITHIN, Asked, Facts, Holder, Kind, Lock, Look, Node, Place, Service, Trouble, starts_at_connect,
};
use super::super::{Check, Finding, Level};
use super::{CONNECTIONS_MAX, is_held, is_usable, named, quoted, shown};
use std::path::Path;
use system_broadcaster::Origin;

/// What to do about a place of another user.
const ELSEWHERE: &str = "set BROADCASTER_SOCKET or XDG_RUNTIME_DIR to a place of your own, or log in as that user \
                         rather than with su";

pub(super) fn socket(facts: &Facts, places: &[Place], used: usize) -> Finding {
    let place = &places[used];
    let why = match place.origin {
        Origin::Explicit if facts.socket_given => "given with --socket",
        Origin::Explicit => "named by BROADCASTER_SOCKET",
        Origin::RunUser => "in the user's runtime directory",
        Origin::XdgRuntime => "from XDG_RUNTIME_DIR",
        Origin::State => "in the state directory",
        Origin::Short => "a short path, since the one in the state directory is too long for a socket",
        Origin::Pipe => "the pipe that is named after the user",
    };
    let path = shown(&place.socket);
    let bytes = place.socket.as_os_str().len();
    let mut text = format!("clients use {path}, {why} ({bytes} of {} bytes)", facts.path_bytes_max);
    let others: Vec<_> = places.iter().enumerate().filter(|(at, _)| *at != used).map(|(_, place)| place).collect();
    if !others.is_empty() {
        let others: Vec<_> =
            others.iter().map(|place| format!("{} ({})", shown(&place.socket), at_other(place))).collect();
        text = format!("{text}; after it {}", others.join(", "));
    }
    if used > 0 && is_held(place) {
        let before = shown(&places[0].socket);
        let text = format!("{}, though {before} comes first", text.replace("; after it ", "; other places: "));
        let remedy =
            "nothing to do: all clients find the daemon; after `broadcasterd stop` the next one takes the first place";
        return Finding::new(Check::Socket, Level::Note, text, remedy);
    }
    if used > 0 {
        text = text.replace("; after it ", "; other places: ");
    }
    Finding::ok(Check::Socket, text)
}

fn at_other(place: &Place) -> &'static str {
    match (&place.asked, &place.look) {
        (Asked::Answered { .. }, _) => "a daemon answers",
        (_, Some(Look { lock: Lock::Held { .. }, .. })) => "a daemon holds its lock",
        (_, Some(Look { file: Node::Missing, .. })) => "nothing there",
        (_, Some(_)) => "no daemon",
        (_, None) => "it can not be looked at",
    }
}

pub(super) fn directories(facts: &Facts, places: &[Place], used: usize) -> Vec<Finding> {
    let nowhere = !places.iter().any(|place| place.look.as_ref().is_some_and(|look| is_usable(look, facts.euid)));
    let mut findings = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let Some(look) = &place.look else {
            if at < used {
                let finding = format!("{} can not be looked at: its file system hangs", shown(&place.socket));
                let remedy = "free the file system, or set BROADCASTER_SOCKET to a path on another one";
                findings.push(Finding::new(Check::Directory, Level::Warning, finding, remedy));
            }
            continue;
        };
        let directory = place.socket.parent().unwrap_or(Path::new("/"));
        if let Some((finding, remedy)) = trouble_with_directory(directory, look, facts.euid) {
            let level = match at {
                _ if nowhere || at == used => Level::Error,
                // Daemons pass it over.
                _ if at < used => Level::Warning,
                _ => continue,
            };
            findings.push(Finding::new(Check::Directory, level, finding, remedy));
        } else if at == used {
            findings.push(directory_without_trouble(directory, look));
        }
    }
    findings
}

fn directory_without_trouble(directory: &Path, look: &Look) -> Finding {
    let path = shown(directory);
    if let Node::There { mode, .. } = look.parent
        && mode & 0o022 != 0
        && mode & 0o1000 == 0
    {
        let parent = directory.parent().map_or_else(|| "/".to_owned(), quoted);
        let finding =
            format!("the directory around {path} has mode {mode:04o}: others can put another one in its place");
        return Finding::new(Check::Directory, Level::Warning, finding, format!("chmod go-w {parent}"));
    }
    match look.directory {
        Node::There { owner, mode, .. } => {
            Finding::ok(Check::Directory, format!("{path} is of uid {owner}, mode {mode:04o}"))
        }
        Node::Missing | Node::Unknown(_) => {
            Finding::ok(Check::Directory, format!("{path} does not exist yet: the first daemon makes it"))
        }
    }
}

/// What programs that ask for it have while there is no daemon, where the system has such a thing.
pub(super) fn notifications(facts: &Facts, place: &Place) -> Option<Finding> {
    let can = facts.notifications?;
    if let Asked::Answered { .. } = place.asked {
        return None;
    }
    let payload = match can.payload {
        true => format!("with payloads of at most {} bytes", can.payload_bytes_max),
        false => "without payloads".to_owned(),
    };
    let finding = format!(
        "without a daemon, programs with `native_fallback` go by notifications of the system: {payload}, not counted, not in order, \
         open to every process of the session"
    );
    Some(Finding::new(Check::Daemon, Level::Note, finding, "nothing to do: they return to the daemon by themselves"))
}

/// Why no daemon can serve in this directory, and the remedy.
pub(super) fn trouble_with_directory(directory: &Path, look: &Look, euid: u32) -> Option<(String, String)> {
    let (path, argument) = (shown(directory), quoted(directory));
    match &look.directory {
        Node::There { kind: Kind::Directory, owner, .. } if *owner != euid => {
            Some((format!("{path} belongs to uid {owner}, not to uid {euid}: it is not used"), ELSEWHERE.to_owned()))
        }
        Node::There { kind: Kind::Directory, mode, .. } if mode & 0o022 != 0 => Some((
            format!("{path} has mode {mode:04o}, so that others can write into it: daemons refuse it"),
            format!("chmod 0700 {argument}"),
        )),
        Node::There { kind: Kind::Directory, .. } | Node::Missing => {
            let disk = look.disk.as_ref()?;
            let on = shown(&disk.directory);
            let missing = look.directory == Node::Missing;
            if disk.read_only {
                Some((
                    format!("the file system of {on} is read-only"),
                    "set BROADCASTER_SOCKET to a path elsewhere".to_owned(),
                ))
            } else if missing && !disk.writable {
                Some((
                    format!("{path} does not exist, and uid {euid} can not write into {on} to make it"),
                    format!("make {argument} for uid {euid}, mode 0700, or set BROADCASTER_SOCKET to a path elsewhere"),
                ))
            } else if !disk.writable {
                Some((format!("uid {euid} can not write into {on}"), format!("chmod 0700 {argument}")))
            } else if disk.full || disk.out_of_inodes {
                let what = if disk.full { "space" } else { "room for more files" };
                Some((format!("the file system of {on} has no {what} left"), "delete something there".to_owned()))
            } else {
                None
            }
        }
        Node::There { .. } => Some((
            format!("{path} is not a directory"),
            format!("move {argument} away, or set BROADCASTER_SOCKET to another place"),
        )),
        Node::Unknown(why) => Some((
            format!("{path} can not be looked at: {why}"),
            "make the directories above it readable, or set BROADCASTER_SOCKET to another place".to_owned(),
        )),
    }
}

pub(super) fn lock(path: &Path, look: &Look) -> Finding {
    let (path, argument) = (shown(path), quoted(path));
    match &look.lock {
        Lock::NoFile => Finding::ok(Check::Lock, format!("{path} is not there: nobody has served here yet")),
        Lock::Free => Finding::ok(Check::Lock, format!("{path} is free: nobody serves")),
        Lock::Unknown(why) => Finding::new(
            Check::Lock,
            Level::Warning,
            format!("whether somebody holds {path} can not be seen: {why}"),
            format!("`fuser -v {argument}`, as the user whose bus it is"),
        ),
        Lock::Held { holders, .. } => match holders.first() {
            None => Finding::new(
                Check::Lock,
                Level::Note,
                format!("{path} is held by a process that can not be seen from here, as in another container"),
                "to see it, run `broadcasterd doctor` where the daemon runs",
            ),
            Some(holder) => held_by(holder),
        },
    }
}

fn held_by(holder: &Holder) -> Finding {
    let who = named(holder);
    if !holder.is_daemon() {
        let finding = format!("held by {who}, a program that hosts the bus itself since it found no broadcasterd");
        let remedy = "install broadcasterd into PATH, so that the bus outlives that program";
        return Finding::new(Check::Lock, Level::Note, finding, remedy);
    }
    let exe = holder.exe.as_deref().map(|exe| format!(", {}", shown(exe))).unwrap_or_default();
    if holder.exe_is_gone {
        let finding = format!("held by {who}{exe}: the program's file was replaced or removed since it began");
        return Finding::new(
            Check::Lock,
            Level::Note,
            finding,
            "`broadcasterd stop`: the next client starts the new one",
        );
    }
    if holder.elsewhere == Some(true) {
        let finding = format!("held by {who}{exe}, which is in another mount namespace");
        let remedy = "nothing to do if it answers; otherwise expose the socket's directory to both";
        return Finding::new(Check::Lock, Level::Note, finding, remedy);
    }
    Finding::ok(Check::Lock, format!("held by {who}{exe}"))
}

pub(super) fn file(facts: &Facts, place: &Place, look: &Look) -> Finding {
    let (path, argument) = (shown(&place.socket), quoted(&place.socket));
    let held = matches!(look.lock, Lock::Held { .. });
    match &look.file {
        Node::Missing if held => Finding::ok(Check::File, format!("{path} is not there at the moment")),
        Node::Missing => Finding::ok(Check::File, "no socket, as nobody serves"),
        Node::Unknown(why) => Finding::new(
            Check::File,
            Level::Error,
            format!("{path} can not be looked at: {why}"),
            "make its directory accessible, or set BROADCASTER_SOCKET to another path",
        ),
        Node::There { kind: Kind::Socket, owner, .. } if *owner != facts.euid => Finding::new(
            Check::File,
            Level::Error,
            format!("{path} is a socket of uid {owner}, not of uid {}: it is not used", facts.euid),
            ELSEWHERE,
        ),
        Node::There { kind: Kind::Socket, .. } if held => {
            Finding::ok(Check::File, "a socket, and whoever serves it holds the lock")
        }
        Node::There { kind: Kind::Socket, .. } => match look.listens {
            Some(true) if manager_listens(facts.service.as_ref(), &place.socket) => {
                Finding::ok(Check::File, "a socket that the service manager holds")
            }
            Some(true) => Finding::new(
                Check::File,
                Level::Error,
                format!("{path} is served by a program that does not hold the lock: no daemon can start here"),
                format!("find it with `ss -xlp src {argument}` and end it"),
            ),
            Some(false) | None => Finding::new(
                Check::File,
                Level::Note,
                format!("{path} is stale: a daemon that was killed left it behind"),
                "nothing to do: the next daemon removes it",
            ),
        },
        Node::There { kind, .. } => {
            let what = match kind {
                Kind::Directory => "a directory",
                Kind::File => "a regular file",
                Kind::Link => "a symbolic link",
                Kind::Socket | Kind::Other => "something else",
            };
            let finding = format!("{path} is {what}, not a socket: no daemon can start here");
            let remedy = format!("move {argument} away, or set BROADCASTER_SOCKET to another path");
            Finding::new(Check::File, Level::Error, finding, remedy)
        }
    }
}

fn manager_listens(service: Option<&Service>, socket: &Path) -> bool {
    service.is_some_and(|known| known.socket.is_active() && known.socket.listens.iter().any(|path| path == socket))
}

pub(super) fn daemon(facts: &Facts, place: &Place, look: &Look) -> Vec<Finding> {
    let holder = match &look.lock {
        Lock::Held { holders, .. } => holders.first(),
        Lock::NoFile | Lock::Free | Lock::Unknown(_) => None,
    };
    if let Some(owner) = look.owner_if_not(facts.euid) {
        let finding = format!("whoever serves here would serve uid {owner}, not uid {}", facts.euid);
        return vec![Finding::new(Check::Daemon, Level::Error, finding, ELSEWHERE)];
    }
    match &place.asked {
        Asked::No if starts_at_connect(facts.service.as_ref(), &place.socket) => {
            vec![Finding::ok(Check::Daemon, "not running: the service manager starts it at the first connect")]
        }
        Asked::No => vec![nobody(facts)],
        Asked::Answered { version, pid, protocol, uptime, connections, held_bytes, held_bytes_max } => {
            let up = humantime::format_duration(*uptime);
            let text = format!(
                "process {pid} answers: version {version}, protocol {protocol}, up {up}, connections: {connections}, \
                 {held_bytes} of {held_bytes_max} bytes held"
            );
            let mut findings = Vec::new();
            let descriptors = holder.and_then(|holder| holder.open_files).map(|(soft, _)| soft);
            let max = descriptors.unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
            // Nine tenths.
            if connections.saturating_mul(10) >= max.saturating_mul(9) {
                let text =
                    format!("process {pid} has {connections} of about {max} connections: it refuses more than that");
                let remedy = "end programs that connect again and again, and let one handle serve a program; \
                              `broadcasterd status` shows the number";
                findings.push(Finding::new(Check::Daemon, Level::Warning, text, remedy));
            } else if *version != facts.version {
                let text = format!("{text}; this program is version {}", facts.version);
                let remedy =
                    "nothing to do if clients work; `broadcasterd stop` makes way for the version that clients start";
                findings.push(Finding::new(Check::Daemon, Level::Note, text, remedy));
            } else {
                findings.push(Finding::ok(Check::Daemon, text));
            }
            if held_bytes.saturating_mul(10) >= held_bytes_max.saturating_mul(9) {
                let text = format!(
                    "{held_bytes} of {held_bytes_max} bytes are held for listeners that do not read: they lose messages"
                );
                let remedy = "find the listener that is stopped or slow, and end or continue it";
                findings.push(Finding::new(Check::Daemon, Level::Warning, text, remedy));
            }
            findings
        }
        Asked::Failed { trouble, sentence } => vec![no_answer(facts, holder, *trouble, sentence)],
    }
}

fn nobody(facts: &Facts) -> Finding {
    if facts.programs.as_ref().is_some_and(|programs| programs.no_autostart) {
        return Finding::new(
            Check::Daemon,
            Level::Warning,
            "not running, and BROADCASTER_NO_AUTOSTART keeps clients of this environment from starting one",
            "`broadcasterd start`, or unset BROADCASTER_NO_AUTOSTART",
        );
    }
    let remedy = "nothing to do: the first client starts one; `broadcasterd start` does it now";
    Finding::new(Check::Daemon, Level::Note, "not running", remedy)
}

fn no_answer(facts: &Facts, holder: Option<&Holder>, trouble: Trouble, sentence: &str) -> Finding {
    let who = holder.map_or_else(|| "a process that can not be seen".to_owned(), named);
    let state = holder.and_then(|holder| holder.state);
    let error = |finding: String, remedy: String| Finding::new(Check::Daemon, Level::Error, finding, remedy);
    let end = end_it(facts, holder);
    match (trouble, holder, state) {
        (Trouble::Silent, Some(holder), Some('T')) => error(
            format!("{who} holds the lock and is stopped (state T): no answer within {ANSWER_WITHIN:?}"),
            format!("`kill -CONT {0}` lets it go on; or {1}", holder.pid, kill_hard(holder)),
        ),
        (Trouble::Silent, Some(holder), Some('t')) => error(
            format!("{who} holds the lock and is stopped by a debugger (state t)"),
            format!("let the debugger go on or detach; or {}", kill_hard(holder)),
        ),
        (Trouble::Silent, Some(_), Some('D')) => error(
            format!("{who} holds the lock and waits for a device (state D), which no signal ends"),
            "find what its file system or device waits for (`dmesg`)".to_owned(),
        ),
        (Trouble::Silent, _, state) => {
            let state = state.map(|state| format!(" (state {state})")).unwrap_or_default();
            error(format!("{who} holds the lock and hangs{state}: no answer within {ANSWER_WITHIN:?}"), end)
        }
        (Trouble::NobodyListens, ..) => error(format!("{who} holds the lock, and nobody listens on the socket"), end),
        (Trouble::OtherUser, ..) => {
            error(sentence.to_owned(), "set BROADCASTER_SOCKET to a path in a directory of your own".to_owned())
        }
        (Trouble::NotADaemon, ..) => error(sentence.to_owned(), end),
        (Trouble::Refused, ..) => error(
            sentence.to_owned(),
            "if versions do not meet, `broadcasterd stop` of the daemon's version; if it is full, end some clients"
                .to_owned(),
        ),
        (Trouble::Other, ..) => error(sentence.to_owned(), end),
    }
}

fn kill_hard(holder: &Holder) -> String {
    let what = if holder.is_daemon() {
        "the next client starts another"
    } else {
        "that ends the whole program, and the next client takes over"
    };
    format!("`kill -KILL {}`: {what}", holder.pid)
}

fn end_it(facts: &Facts, holder: Option<&Holder>) -> String {
    let Some(holder) = holder else {
        return "let clients and daemon share a pid namespace, or look with `broadcasterd doctor` where it runs, and \
                end it there if it hangs"
            .to_owned();
    };
    let pid = holder.pid;
    if facts.service.as_ref().is_some_and(|known| known.service.main_pid == Some(pid)) {
        return "`systemctl --user restart broadcasterd.service`".to_owned();
    }
    format!("`kill {pid}`, and if it stays {}", kill_hard(holder))
}

pub(super) fn twins(places: &[Place], used: usize) -> Finding {
    let id_at = |place: &Place| match &place.look {
        Some(Look { lock: Lock::Held { id, .. }, .. }) => Some(*id),
        _ => None,
    };
    let ours = id_at(&places[used]);
    // The same directory under another name is no other daemon.
    let others: Vec<&Place> = places.iter().filter(|place| id_at(place).is_some() && id_at(place) != ours).collect();
    let Some(other) = others.first() else {
        return Finding::ok(
            Check::Twins,
            if ours.is_some() { "one daemon, and no other" } else { "no daemon anywhere" },
        );
    };
    let one = |place: &Place| match &place.look {
        Some(Look { lock: Lock::Held { holders, .. }, .. }) if !holders.is_empty() => {
            format!("{} at {}", named(&holders[0]), shown(&place.socket))
        }
        _ => format!("a process at {}", shown(&place.socket)),
    };
    let all: Vec<_> = std::iter::once(&places[used]).chain(others.iter().copied()).map(one).collect();
    let finding =
        format!("{} daemons serve this user: {}; clients of one do not hear the other's", all.len(), all.join(", "));
    let remedy =
        format!("`broadcasterd --socket {} stop`: its clients go to the one that is left", quoted(&other.socket));
    Finding::new(Check::Twins, Level::Error, finding, remedy)
}

pub(super) fn stats(place: &Place, look: &Look) -> Option<Finding> {
    let stats = place.stats.as_ref()?;
    if !matches!(place.asked, Asked::Answered { .. }) {
        return None;
    }
    if let Lock::Held { holders, .. } = &look.lock
        && holders.first().is_some_and(|holder| !holder.is_daemon())
    {
        return Some(Finding::ok(Check::Stats, "none, as a program hosts the bus on the side"));
    }
    let path = shown(&stats.path);
    let note = |finding: String| {
        let remedy =
            "if numbers are wanted, `broadcasterd stop`: the next daemon makes it anew, unless it is switched off";
        Some(Finding::new(Check::Stats, Level::Note, finding, remedy))
    };
    match (&stats.file, &stats.connects) {
        (Node::Missing, _) => {
            note(format!("{path} is not there: the daemon tells no numbers beyond `broadcasterd status`"))
        }
        (Node::There { kind: Kind::Socket, .. }, Ok(())) => {
            Some(Finding::ok(Check::Stats, format!("{path} takes connections")))
        }
        (Node::There { kind: Kind::Socket, .. }, Err(why)) => note(format!("{path} does not take connections: {why}")),
        (Node::There { .. }, _) => note(format!("{path} is not a socket")),
        (Node::Unknown(why), _) => note(format!("{path} can not be looked at: {why}")),
    }
}
