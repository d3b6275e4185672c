//! What the service manager knows about the daemon, and its unit files. It never changes a unit.

use super::bounded::tool;
use super::environment::variable;
use super::programs::{find_in_path, program_file};
use crate::observe::doctor::facts::Service;
use crate::observe::doctor::parse::{self, Unit};
use crate::service::LAUNCHD_LABEL;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(super) fn inspect_service(euid: u32, tools_until: Instant) -> Service {
    let mut known =
        if cfg!(target_os = "macos") { query_launchd(euid, tools_until) } else { query_systemd(tools_until) };
    known.program = known.service.program.as_deref().map(program_file);
    known.files = service_files();
    known.login = std::fs::read_to_string(format!("/run/systemd/users/{euid}")).ok().as_deref().and_then(parse::login);
    known.lingers =
        known.login.as_ref().is_some_and(|login| Path::new("/var/lib/systemd/linger").join(&login.name).exists());
    known
}

fn query_systemd(until: Instant) -> Service {
    let properties = "-pId,LoadState,ActiveState,UnitFileState,Result,MainPID,ExecStart,Listen,NeedDaemonReload";
    let arguments = ["--user", "show", "--no-pager", properties, "broadcasterd.socket", "broadcasterd.service"];
    match find_in_path("systemctl").next().map(|program| tool(&program, &arguments, true, until)) {
        None => Service { silent: Some("no systemctl in PATH".to_owned()), ..Service::default() },
        Some(Err(why)) => Service { silent: Some(format!("systemctl --user: {why}")), ..Service::default() },
        Some(Ok(shown)) => Service {
            socket: parse::unit(&shown, "broadcasterd.socket"),
            service: parse::unit(&shown, "broadcasterd.service"),
            ..Service::default()
        },
    }
}

fn query_launchd(euid: u32, until: Instant) -> Service {
    let job = format!("gui/{euid}/{LAUNCHD_LABEL}");
    match tool(Path::new("/bin/launchctl"), &["print", &job], true, until) {
        Ok(printed) => {
            let service = parse::launchd_job(&printed);
            // One job is both units: launchd listens as long as the job is loaded.
            let active = if service.exists() { "active".to_owned() } else { String::new() };
            let socket = Unit { active, main_pid: None, program: None, ..service.clone() };
            Service { socket, service, ..Service::default() }
        }
        Err(why) => Service { silent: Some(format!("launchctl print {job}: {why}")), ..Service::default() },
    }
}

fn service_files() -> Vec<PathBuf> {
    let below = |name: &str, rest: &str| variable(name).map(|directory| directory.join(rest));
    let mut directories: Vec<PathBuf> = vec![
        "/etc/systemd/user".into(),
        "/run/systemd/user".into(),
        "/usr/local/lib/systemd/user".into(),
        "/usr/local/share/systemd/user".into(),
        "/usr/lib/systemd/user".into(),
        "/usr/share/systemd/user".into(),
    ];
    directories.extend(below("XDG_CONFIG_HOME", "systemd/user").or_else(|| below("HOME", ".config/systemd/user")));
    directories.extend(below("XDG_DATA_HOME", "systemd/user").or_else(|| below("HOME", ".local/share/systemd/user")));
    directories.extend(below("XDG_RUNTIME_DIR", "systemd/user"));
    let names = ["broadcasterd.socket", "broadcasterd.service"];
    let files = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    let mut files: Vec<_> = files.filter(|file| file.symlink_metadata().is_ok()).collect();
    files.extend(below("HOME", &format!("Library/LaunchAgents/{LAUNCHD_LABEL}.plist")).filter(|file| file.exists()));
    files
}
