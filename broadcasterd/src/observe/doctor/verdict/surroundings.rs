//! Findings about the surroundings of the bus: service manager, limits, programs, environment. Nothing here uses the daemon's
//! answers.

use super::words::{connections_max, named, quoted, shown};
use crate::daemon::config::keys::CONNECTIONS_MIN;
use crate::observe::doctor::facts::{
    Facts, GATHER_TIMEOUT, InPath, Lock, Node, PROGRAM_NAME, Place, PlaceFiles, ProgramFile, Service,
};
use crate::observe::doctor::finding::{Check, Finding, Level};
use crate::observe::doctor::parse::Unit;
use broadcaster_server::descriptors_for;
use std::path::Path;
use system_broadcaster::Origin;

/// Fewer descriptors than this are too few for a desktop.
const DESCRIPTORS_FEW: u64 = 1024;

/// Inotify instances that other programs of a user need.
const INOTIFY_FEW: u64 = 16;

pub(super) fn service(facts: &Facts, place: &Place) -> Vec<Finding> {
    let note = |finding: &str, remedy: &str| Finding::new(Check::Service, Level::Note, finding, remedy);
    let Some(known) = &facts.service else {
        let finding = format!("cannot query the service manager within {GATHER_TIMEOUT:?}");
        return vec![note(&finding, "nothing to do: clients start the daemon themselves")];
    };
    let mut findings = vec![match &known.silent {
        Some(why) if known.files.is_empty() => note(
            &format!("not installed, and the user's service manager does not answer: {why}"),
            "nothing to do: clients start the daemon themselves",
        ),
        Some(why) => note(
            &format!("{} is installed, and the user's service manager does not answer: {why}", shown(&known.files[0])),
            "log in instead of using su; until then, clients start the daemon themselves",
        ),
        None if !known.socket.exists() && !known.service.exists() && known.files.is_empty() => {
            Finding::ok(Check::Service, "not installed: clients start the daemon themselves")
        }
        None if !known.socket.exists() && !known.service.exists() => note(
            &format!("{} is installed, and the service manager has not loaded it", shown(&known.files[0])),
            "run `systemctl --user daemon-reload`",
        ),
        None => units(known, place),
    }];
    if let Some(login) = &known.login
        && (known.socket.exists() || place.origin == Origin::RunUser)
        && login.sessions == 0
        && !known.lingers
    {
        findings.push(note(
            &format!(
                "{} has no session and does not linger: the user manager and /run/user/{} may end at any time",
                login.name, facts.euid
            ),
            &format!(
                "run `loginctl enable-linger {}` if programs use the bus without a login",
                quoted(Path::new(&login.name))
            ),
        ));
    }
    findings
}

fn units(known: &Service, place: &Place) -> Finding {
    let (socket, service) = (&known.socket, &known.service);
    let finding = |level, finding: String, remedy: &str| Finding::new(Check::Service, level, finding, remedy);
    let program = service.program.as_deref().map(shown).unwrap_or_default();
    let holder = match &place.files {
        Some(PlaceFiles { lock: Lock::Held { holders, .. }, .. }) => holders.first(),
        _ => None,
    };
    let another_bus = !socket.listens.is_empty() && !socket.listens.contains(&place.socket);
    if matches!(known.program, Some(ProgramFile::Missing | ProgramFile::NotAFile | ProgramFile::NotExecutable)) {
        let level = if socket.is_active() && !another_bus { Level::Error } else { Level::Warning };
        let text = format!("broadcasterd.service runs {program}, which is not an executable program");
        return finding(
            level,
            text,
            "install broadcasterd there, or correct ExecStart and run `systemctl --user daemon-reload`",
        );
    }
    if service.active == "failed" || socket.active == "failed" {
        let (name, result) =
            if service.active == "failed" { ("service", &service.result) } else { ("socket", &socket.result) };
        let text = format!("broadcasterd.{name} has failed ({result})");
        let remedy = "see `journalctl --user -u broadcasterd.service -u broadcasterd.socket`; then run \
                      `systemctl --user reset-failed broadcasterd.socket broadcasterd.service`";
        return finding(Level::Warning, text, remedy);
    }
    if socket.load == "masked" || service.load == "masked" {
        let remedy = "nothing to do: clients start the daemon themselves; `systemctl --user unmask` reverts it";
        return finding(Level::Note, "broadcasterd's units are masked".to_owned(), remedy);
    }
    if another_bus {
        let listens = socket.listens.first().map(|path| shown(path)).unwrap_or_default();
        let text =
            format!("broadcasterd.socket listens on {listens}, and clients of this environment use another path");
        let remedy = "nothing to do if this is intended; otherwise unset BROADCASTER_SOCKET, or correct ListenStream";
        let level = if place.origin == Origin::Explicit { Level::Note } else { Level::Warning };
        return finding(level, text, remedy);
    }
    if let (Some(holder), Some(main)) = (holder, service.main_pid)
        && holder.pid != main
    {
        let text = format!("broadcasterd.service is process {main}, and {} holds the lock", named(holder));
        let remedy = "run `broadcasterd stop`, then `systemctl --user restart broadcasterd.socket`";
        return finding(Level::Warning, text, remedy);
    }
    if let Some(holder) = holder
        && socket.is_active()
        && !service.is_active()
    {
        let text =
            format!("broadcasterd.socket is active, and the lock is held by {}, which it did not start", named(holder));
        return finding(
            Level::Warning,
            text,
            "run `broadcasterd stop`, then `systemctl --user restart broadcasterd.socket`",
        );
    }
    if socket.outdated || service.outdated {
        return finding(
            Level::Note,
            "the unit files have changed since they were loaded".to_owned(),
            "run `systemctl --user daemon-reload`",
        );
    }
    if known.program == Some(ProgramFile::Another) {
        let remedy = "nothing to do if both have the same version; otherwise install this program there";
        return finding(Level::Note, format!("broadcasterd.service runs {program}, which is not this program"), remedy);
    }
    if socket.exists() && !socket.is_active() && !service.is_active() {
        let text = format!("broadcasterd.socket is installed ({}) and inactive", or_dash(&socket.enabled));
        let remedy = "run `systemctl --user enable --now broadcasterd.socket`, unless clients should start the daemon themselves";
        return finding(Level::Note, text, remedy);
    }
    let main = service.main_pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let of = |unit: &Unit| format!("{} ({})", or_dash(&unit.active), or_dash(&unit.enabled));
    Finding::ok(
        Check::Service,
        format!("broadcasterd.socket {}, broadcasterd.service {}{main}", of(socket), of(service)),
    )
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(super) fn limits(facts: &Facts) -> Vec<Finding> {
    let wanted = connections_max(None);
    let needed = descriptors_for(wanted);
    let mut findings = Vec::new();
    let serving = facts.places.iter().flatten().find_map(|place| match &place.files {
        Some(PlaceFiles { lock: Lock::Held { holders, .. }, .. }) => {
            holders.first().filter(|holder| holder.is_daemon())
        }
        _ => None,
    });
    // A daemon raises its soft limit to the hard limit, which it inherits from the client that starts it.
    let daemon = serving.and_then(|holder| Some((holder.pid, holder.open_files?.0)));
    let of_daemon = daemon.map(|(pid, files)| (format!("the daemon, process {pid},"), files));
    let of_this = facts.limits.open_files.map(|(_, hard)| ("a daemon started from here".to_owned(), hard));
    for (who, files) in of_daemon.into_iter().chain(of_this) {
        if files < needed {
            let level = if files < DESCRIPTORS_FEW { Level::Warning } else { Level::Note };
            let finding = match descriptors_for(CONNECTIONS_MIN) {
                least if files < least => format!("{who} may open {files} files, and needs at least {least}"),
                _ => {
                    let enough_for = connections_max(Some(files));
                    format!("{who} may open {files} files, enough for {enough_for} of {wanted} connections")
                }
            };
            let remedy =
                format!("raise the hard limit to {needed} (`ulimit -Hn`, LimitNOFILE=) and restart the daemon");
            findings.push(Finding::new(Check::Limits, level, finding, remedy));
        }
    }
    if facts.limits.no_thread {
        let finding = "cannot start threads, so most checks are incomplete: this user has too many processes";
        findings.push(Finding::new(Check::Limits, Level::Error, finding, "end some processes, or raise `ulimit -u`"));
    }
    if let Some(instances) = facts.limits.inotify_instances_max.filter(|&instances| instances < INOTIFY_FEW) {
        let finding =
            format!("fs.inotify.max_user_instances is {instances}, and the daemon needs one beside other programs");
        findings.push(Finding::new(
            Check::Limits,
            Level::Warning,
            finding,
            "run `sysctl fs.inotify.max_user_instances=128` as root",
        ));
    }
    if findings.is_empty() {
        let number = |files: u64| if files == u64::MAX { "no limit".to_owned() } else { files.to_string() };
        let daemon = daemon.map(|(_, files)| format!("daemon {}, ", number(files))).unwrap_or_default();
        let here = facts
            .limits
            .open_files
            .map_or_else(|| "unknown".to_owned(), |(soft, hard)| format!("{} to {}", number(soft), number(hard)));
        let inotify = facts
            .limits
            .inotify_instances_max
            .map(|instances| format!("; inotify instances: {instances}"))
            .unwrap_or_default();
        findings.push(Finding::ok(Check::Limits, format!("open files: {daemon}here {here}, needed {needed}{inotify}")));
    }
    findings
}

pub(super) fn programs(facts: &Facts) -> Vec<Finding> {
    let Some(programs) = &facts.programs else {
        let finding = format!("cannot inspect the programs in PATH within {GATHER_TIMEOUT:?}");
        return vec![Finding::new(
            Check::Program,
            Level::Warning,
            finding,
            "remove directories on hanging file systems from PATH",
        )];
    };
    let mut findings = vec![first_program(facts)];
    let listed = |program: &InPath| {
        format!("{} {}", shown(&program.path), program.version.as_deref().unwrap_or("(unknown version)"))
    };
    let differs = |program: &&InPath| program.version.as_deref() != Some(&facts.version);
    let others: Vec<_> = programs.in_path.iter().filter(differs).map(listed).collect();
    if !others.is_empty() {
        let finding = format!("PATH contains other versions than this one ({}): {}", facts.version, others.join(", "));
        let remedy = "remove or replace them: the first client decides which version serves all";
        findings.push(Finding::new(Check::Program, Level::Warning, finding, remedy));
    }
    if programs.no_autostart {
        let finding = "BROADCASTER_NO_AUTOSTART is set: clients of this environment start no daemon";
        findings.push(Finding::new(
            Check::Program,
            Level::Note,
            finding,
            "unset it, unless the daemon is started by other means",
        ));
    }
    findings.retain(|finding| finding.level != Level::Ok);
    if findings.is_empty() {
        findings.push(first_program(facts));
    }
    findings
}

/// The program that a client starts, unless one is beside its own program.
fn first_program(facts: &Facts) -> Finding {
    let Some(programs) = &facts.programs else { return Finding::ok(Check::Program, "unknown") };
    if let Some((path, file)) = &programs.variable {
        let shown = shown(path);
        let error = |what: &str| {
            let remedy = "set BROADCASTERD to the absolute path of broadcasterd, or unset it";
            Finding::new(
                Check::Program,
                Level::Error,
                format!("BROADCASTERD is {shown}, {what}: clients start no daemon"),
                remedy,
            )
        };
        return match file {
            _ if !path.is_absolute() => error("a relative path"),
            ProgramFile::Missing => error("which does not exist"),
            ProgramFile::NotAFile => error("which is not a file"),
            ProgramFile::NotExecutable => error("which is not executable"),
            ProgramFile::This => {
                Finding::ok(Check::Program, format!("clients start {shown}, this program, named by BROADCASTERD"))
            }
            ProgramFile::Another => Finding::ok(
                Check::Program,
                format!("clients start {shown}, which is not this program, named by BROADCASTERD"),
            ),
        };
    }
    match programs.in_path.first() {
        None => Finding::new(
            Check::Program,
            Level::Note,
            format!("no {PROGRAM_NAME} in PATH: clients without one beside their program host the bus themselves"),
            programs.this.as_deref().and_then(Path::parent).map_or_else(
                || "install it in a directory of PATH".to_owned(),
                |directory| format!("add {} to PATH, or install it in a directory of PATH", quoted(directory)),
            ),
        ),
        Some(InPath { path, file: ProgramFile::NotExecutable, .. }) => Finding::new(
            Check::Program,
            Level::Error,
            format!("clients start {}, the first in PATH, which is not executable", shown(path)),
            format!("run `chmod +x {}`", quoted(path)),
        ),
        Some(InPath { path, file: ProgramFile::This, .. }) => {
            Finding::ok(Check::Program, format!("clients start {}, this program, the first in PATH", shown(path)))
        }
        Some(InPath { path, version, .. }) => {
            let version = version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
            Finding::ok(Check::Program, format!("clients start {}{version}, the first in PATH", shown(path)))
        }
    }
}

pub(super) fn environment(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found =
        |level, finding: String, remedy: &str| findings.push(Finding::new(Check::Environment, level, finding, remedy));
    let Some(environment) = &facts.environment else {
        let finding = format!("cannot inspect the environment within {GATHER_TIMEOUT:?}");
        found(Level::Warning, finding, "check whether XDG_RUNTIME_DIR is on a file system that hangs");
        return findings;
    };
    let euid = facts.euid;
    let explicit = facts.places.iter().flatten().any(|place| place.origin == Origin::Explicit);
    let worth = |level| if explicit { Level::Note } else { level };
    match &environment.runtime_dir {
        Some((path, _)) if !path.is_absolute() => {
            found(
                worth(Level::Warning),
                format!("XDG_RUNTIME_DIR is {}, a relative path: it is ignored", shown(path)),
                "set it to an absolute path, or unset it",
            );
        }
        Some((path, Node::Exists { owner, .. })) if *owner != euid => {
            let finding = format!(
                "XDG_RUNTIME_DIR is {}, which belongs to uid {owner}, not to uid {euid}, as after su or sudo",
                shown(path)
            );
            found(
                worth(Level::Warning),
                finding,
                "unset XDG_RUNTIME_DIR, or log in as that user (`su -`, `machinectl shell`)",
            );
        }
        Some((path, Node::Missing | Node::Unknown(_))) => {
            found(
                worth(Level::Warning),
                format!("XDG_RUNTIME_DIR is {}, which does not exist", shown(path)),
                "unset it, or log in again",
            );
        }
        None if !matches!(environment.run_user.1, Node::Exists { owner, .. } if owner == euid) && !explicit => {
            let finding = format!(
                "neither {} nor XDG_RUNTIME_DIR exists: the bus is in the state directory",
                shown(&environment.run_user.0)
            );
            found(Level::Note, finding, "nothing to do: all programs of this user with the same HOME find it there");
        }
        Some(_) | None => {}
    }
    if environment.uid != euid {
        let finding =
            format!("the real user id is {}, and the bus belongs to the effective one, {euid}", environment.uid);
        found(Level::Warning, finding, "run programs that use the bus without the set-user-ID bit");
    }
    if let Some(user) = &environment.sudo_user
        && euid == 0
    {
        let finding = format!("this is the bus of root: {user} runs this through sudo");
        found(Level::Note, finding, "run this without sudo for your own bus");
    }
    if environment.home.is_none() {
        found(Level::Note, "HOME is not set, so the user database provides it".to_owned(), "set HOME");
    }
    if !environment.isolation.is_empty() {
        let finding =
            format!("this runs in {}: programs outside may use another bus", environment.isolation.join(" and "));
        found(
            Level::Note,
            finding,
            "to share one bus, share the directory of the socket and name the socket in BROADCASTER_SOCKET",
        );
    }
    if findings.is_empty() {
        let runtime = environment.runtime_dir.as_ref().map_or_else(|| "not set".to_owned(), |(path, _)| shown(path));
        findings.push(Finding::ok(Check::Environment, format!("uid {euid}, XDG_RUNTIME_DIR {runtime}")));
    }
    findings
}
