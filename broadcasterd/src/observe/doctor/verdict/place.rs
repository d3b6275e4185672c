//! Findings about the place of the bus: which one is used, its directory, its lock and its socket.

use super::words::{OWN_PLACE, named, quoted, shown};
use crate::observe::doctor::facts::{Facts, Holder, Kind, Lock, Node, Place, PlaceFiles, Service, Status};
use crate::observe::doctor::finding::{Check, Finding, Level};
use std::path::Path;
use system_broadcaster::Origin;

/// The place that clients and the next daemon use.
pub(super) fn used(places: &[Place], euid: u32) -> Option<usize> {
    let usable = |place: &Place| place.files.as_ref().is_some_and(|files| is_usable(files, euid));
    let first = |is: &dyn Fn(&Place) -> bool| places.iter().position(is);
    let any = (!places.is_empty()).then_some(0);
    // Clients wait for the first place with a daemon, even if it does not answer.
    first(&is_held).or_else(|| first(&usable)).or(any)
}

fn is_held(place: &Place) -> bool {
    matches!(place.files, Some(PlaceFiles { lock: Lock::Held { .. }, .. }))
}

fn is_usable(files: &PlaceFiles, euid: u32) -> bool {
    let socket = matches!(files.socket, Node::Missing | Node::Exists { kind: Kind::Socket, .. });
    socket && directory_problem(Path::new(""), files, euid).is_none()
}

pub(super) fn socket(facts: &Facts, places: &[Place], used: usize) -> Finding {
    let place = &places[used];
    let why = match place.origin {
        Origin::Explicit if facts.socket_given => "given with --socket",
        Origin::Explicit => "named by BROADCASTER_SOCKET",
        Origin::RunUser => "in the user's runtime directory",
        Origin::XdgRuntime => "from XDG_RUNTIME_DIR",
        Origin::State => "in the state directory",
        Origin::Short => "a short path, since the path in the state directory is too long for a socket",
        Origin::Pipe => "the pipe named after the user",
        _ => "by another rule",
    };
    let path = shown(&place.socket);
    let bytes = place.socket.as_os_str().len();
    let mut text = format!("clients use {path}, {why} ({bytes} of {} bytes)", facts.path_bytes_max);
    let others: Vec<_> = places.iter().enumerate().filter(|(at, _)| *at != used).map(|(_, place)| place).collect();
    if !others.is_empty() {
        let others: Vec<_> =
            others.iter().map(|place| format!("{} ({})", shown(&place.socket), at_other(place))).collect();
        text = format!("{text}; next: {}", others.join(", "));
    }
    if used > 0 && is_held(place) {
        let before = shown(&places[0].socket);
        let text = format!("{}, though {before} comes first", text.replace("; next: ", "; other places: "));
        let remedy =
            "nothing to do: all clients find the daemon; after `broadcasterd stop`, the next one uses the first place";
        return Finding::new(Check::Socket, Level::Note, text, remedy);
    }
    if used > 0 {
        text = text.replace("; next: ", "; other places: ");
    }
    Finding::ok(Check::Socket, text)
}

fn at_other(place: &Place) -> &'static str {
    match (&place.status, &place.files) {
        (Status::Answered { .. }, _) => "a daemon answers",
        (_, Some(PlaceFiles { lock: Lock::Held { .. }, .. })) => "a daemon holds its lock",
        (_, Some(PlaceFiles { socket: Node::Missing, .. })) => "unused",
        (_, Some(_)) => "no daemon",
        (_, None) => "cannot be inspected",
    }
}

pub(super) fn directories(facts: &Facts, places: &[Place], used: usize) -> Vec<Finding> {
    let nowhere = !places.iter().any(|place| place.files.as_ref().is_some_and(|files| is_usable(files, facts.euid)));
    let mut findings = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let Some(files) = &place.files else {
            if at < used {
                let finding = format!("cannot inspect {}: its file system hangs", shown(&place.socket));
                let remedy = "repair the mount, or set BROADCASTER_SOCKET to a path on another file system";
                findings.push(Finding::new(Check::Directory, Level::Warning, finding, remedy));
            }
            continue;
        };
        let directory = place.socket.parent().unwrap_or(Path::new("/"));
        if let Some((finding, remedy)) = directory_problem(directory, files, facts.euid) {
            let level = match at {
                _ if nowhere || at == used => Level::Error,
                // Daemons skip it.
                _ if at < used => Level::Warning,
                _ => continue,
            };
            findings.push(Finding::new(Check::Directory, level, finding, remedy));
        } else if at == used {
            findings.push(usable_directory(directory, files));
        }
    }
    findings
}

fn usable_directory(directory: &Path, files: &PlaceFiles) -> Finding {
    let path = shown(directory);
    if let Node::Exists { mode, .. } = files.parent
        && mode & 0o022 != 0
        && mode & 0o1000 == 0
    {
        let parent = directory.parent().map_or_else(|| "/".to_owned(), quoted);
        let finding = format!("the parent of {path} has mode {mode:04o}: other users can replace the directory");
        return Finding::new(Check::Directory, Level::Warning, finding, format!("chmod go-w {parent}"));
    }
    match files.directory {
        Node::Exists { owner, mode, .. } => {
            Finding::ok(Check::Directory, format!("{path} belongs to uid {owner}, mode {mode:04o}"))
        }
        Node::Missing | Node::Unknown(_) => {
            Finding::ok(Check::Directory, format!("{path} does not exist yet: the first daemon creates it"))
        }
    }
}

/// Why no daemon can use this directory, and the remedy.
fn directory_problem(directory: &Path, files: &PlaceFiles, euid: u32) -> Option<(String, String)> {
    let (path, argument) = (shown(directory), quoted(directory));
    match &files.directory {
        Node::Exists { kind: Kind::Directory, owner, .. } if *owner != euid => {
            Some((format!("{path} belongs to uid {owner}, not to uid {euid}: it is not used"), OWN_PLACE.to_owned()))
        }
        Node::Exists { kind: Kind::Directory, mode, .. } if mode & 0o022 != 0 => Some((
            format!("{path} has mode {mode:04o}: other users can write to it, so daemons refuse it"),
            format!("chmod 0700 {argument}"),
        )),
        Node::Exists { kind: Kind::Directory, .. } | Node::Missing => {
            let disk = files.disk.as_ref()?;
            let on = shown(&disk.directory);
            let missing = files.directory == Node::Missing;
            if disk.read_only {
                Some((
                    format!("the file system of {on} is read-only"),
                    "set BROADCASTER_SOCKET to a path elsewhere".to_owned(),
                ))
            } else if missing && !disk.writable {
                Some((
                    format!("{path} does not exist, and uid {euid} cannot create it in {on}"),
                    format!(
                        "create {argument} for uid {euid} with mode 0700, or set BROADCASTER_SOCKET to a path elsewhere"
                    ),
                ))
            } else if !disk.writable {
                Some((format!("uid {euid} cannot write to {on}"), format!("chmod 0700 {argument}")))
            } else if disk.full || disk.out_of_inodes {
                let what = if disk.full { "space" } else { "inodes" };
                Some((format!("the file system of {on} has no {what} left"), "delete files there".to_owned()))
            } else {
                None
            }
        }
        Node::Exists { .. } => Some((
            format!("{path} is not a directory"),
            format!("move {argument} away, or set BROADCASTER_SOCKET to another directory"),
        )),
        Node::Unknown(why) => Some((
            format!("cannot inspect {path}: {why}"),
            "make the directories above it readable, or set BROADCASTER_SOCKET to another directory".to_owned(),
        )),
    }
}

pub(super) fn lock(path: &Path, files: &PlaceFiles) -> Finding {
    let (path, argument) = (shown(path), quoted(path));
    match &files.lock {
        Lock::Missing => Finding::ok(Check::Lock, format!("{path} does not exist: no daemon has run here yet")),
        Lock::NotAFile(kind) => Finding::new(
            Check::Lock,
            Level::Error,
            format!("{path} is {kind}, not a regular file: no daemon can lock it"),
            format!("remove it with `{} {argument}`; the next daemon creates the lock file", removal(*kind)),
        ),
        Lock::Free => Finding::ok(Check::Lock, format!("{path} is free: no daemon runs here")),
        Lock::Unknown(why) => Finding::new(
            Check::Lock,
            Level::Warning,
            format!("cannot determine whether {path} is held: {why}"),
            format!("run `fuser -v {argument}` as the owner of the bus"),
        ),
        Lock::Held { holders, .. } => match holders.first() {
            None => Finding::new(
                Check::Lock,
                Level::Note,
                format!("{path} is held by a process that is not visible from here, for example in another container"),
                "run `broadcasterd doctor` where the daemon runs",
            ),
            Some(holder) => held_by(holder),
        },
    }
}

fn held_by(holder: &Holder) -> Finding {
    let who = named(holder);
    if !holder.is_daemon() {
        let finding = format!("held by {who}, a program that hosts the bus because it found no broadcasterd");
        let remedy = "install broadcasterd in PATH, so that the bus outlives that program";
        return Finding::new(Check::Lock, Level::Note, finding, remedy);
    }
    let exe = holder.exe.as_deref().map(|exe| format!(", {}", shown(exe))).unwrap_or_default();
    if holder.exe_is_gone {
        let finding = format!("held by {who}{exe}: its program was replaced or removed since it started");
        return Finding::new(
            Check::Lock,
            Level::Note,
            finding,
            "run `broadcasterd stop`: the next client starts the new program",
        );
    }
    if holder.elsewhere == Some(true) {
        let finding = format!("held by {who}{exe}, which is in another mount namespace");
        let remedy = "nothing to do if it answers; otherwise share the directory of the socket with both namespaces";
        return Finding::new(Check::Lock, Level::Note, finding, remedy);
    }
    Finding::ok(Check::Lock, format!("held by {who}{exe}"))
}

pub(super) fn file(facts: &Facts, place: &Place, files: &PlaceFiles) -> Finding {
    let (path, argument) = (shown(&place.socket), quoted(&place.socket));
    let held = matches!(files.lock, Lock::Held { .. });
    match &files.socket {
        Node::Missing if held => Finding::ok(Check::File, format!("{path} does not exist at the moment")),
        Node::Missing => Finding::ok(Check::File, "no socket, since no daemon runs"),
        Node::Unknown(why) => Finding::new(
            Check::File,
            Level::Error,
            format!("cannot inspect {path}: {why}"),
            "make its directory accessible, or set BROADCASTER_SOCKET to another path",
        ),
        Node::Exists { kind: Kind::Socket, owner, .. } if *owner != facts.euid => Finding::new(
            Check::File,
            Level::Error,
            format!("{path} is a socket of uid {owner}, not of uid {}: it is not used", facts.euid),
            OWN_PLACE,
        ),
        Node::Exists { kind: Kind::Socket, .. } if held => {
            Finding::ok(Check::File, "a socket, and the process behind it holds the lock")
        }
        Node::Exists { kind: Kind::Socket, .. } => match files.listens {
            Some(true) if manager_listens(facts.service.as_ref(), &place.socket) => {
                Finding::ok(Check::File, "a socket of the service manager")
            }
            Some(true) => Finding::new(
                Check::File,
                Level::Error,
                format!("{path} is served by a program that does not hold the lock: no daemon can start here"),
                format!("find the program with `ss -xlp src {argument}` and end it"),
            ),
            Some(false) | None => Finding::new(
                Check::File,
                Level::Note,
                format!("{path} is stale: it was left by a daemon that was killed"),
                "nothing to do: the next daemon removes it",
            ),
        },
        Node::Exists { kind, .. } => {
            let finding = format!("{path} is {kind}, not a socket: no daemon can start here");
            let remedy = format!("move {argument} away, or set BROADCASTER_SOCKET to another path");
            Finding::new(Check::File, Level::Error, finding, remedy)
        }
    }
}

/// The command that removes a file of this kind.
fn removal(kind: Kind) -> &'static str {
    if kind == Kind::Directory { "rmdir" } else { "rm" }
}

fn manager_listens(service: Option<&Service>, socket: &Path) -> bool {
    service.is_some_and(|known| known.socket.is_active() && known.socket.listens.iter().any(|path| path == socket))
}
