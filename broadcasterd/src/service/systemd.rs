//! The systemd user manager: a socket unit and its service. It never uses the system manager, and needs no privileges.

use super::order::{Order, Wanted, failed};
use super::steps::{Action, Found, MARK, Steps, look, run};
use crate::exit::Failure;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOCKET: &str = "broadcasterd.socket";
const SERVICE: &str = "broadcasterd.service";

/// The link that enables the socket, relative to a directory of units.
const ENABLED: &str = "sockets.target.wants/broadcasterd.socket";

/// The units as packages install them.
const SOCKET_TEXT: &str = include_str!("../../packaging/systemd/broadcasterd.socket");
const SERVICE_TEXT: &str = include_str!("../../packaging/systemd/broadcasterd.service");

/// The line of [`SERVICE_TEXT`] that names the program.
const PACKAGED_START: &str = "ExecStart=/usr/bin/broadcasterd run";

/// The directories of packages and administrators, with units for all users.
const SYSTEM_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"];

pub(super) fn install(order: &Order<'_>, wanted: &Wanted) -> Result<(), Failure> {
    let steps = Steps::new(order.dry_run);
    let files = [(SOCKET, socket_text()), (SERVICE, service_text(&wanted.program).map_err(failed)?)];
    let manager = Manager::find()?;
    let directory = own_directory()?;
    // All files are checked before any is written.
    let mut found = Vec::new();
    for (unit, _) in &files {
        found.push(look(&directory.join(unit))?);
    }
    let packaged = packaged_in(&SYSTEM_DIRECTORIES.map(Path::new), &wanted.program);
    let mut wrote_socket = false;
    if let Some(packaged) = packaged.filter(|_| found.iter().all(|found| *found == Found::Nothing)) {
        steps.note(format_args!("{} already contains the units of this program", packaged.display()))?;
    } else {
        manager.check_that_it_reads(&directory)?;
        let mut wrote = false;
        for ((unit, text), found) in files.iter().zip(&found) {
            let path = directory.join(unit);
            if matches!(found, Found::Ours(old) if old == text) {
                steps.note(format_args!("{} is already up to date", path.display()))?;
                continue;
            }
            steps.write(&path, text)?;
            wrote = true;
            wrote_socket |= *unit == SOCKET;
        }
        if wrote {
            steps.command(Action::Reload, "the units of systemd", &mut manager.command(&["daemon-reload"]))?;
        }
    }
    let socket = manager.look(SOCKET)?;
    if socket.is("UnitFileState", "enabled") {
        steps.note(format_args!("{SOCKET} is already enabled"))?;
    } else {
        let what = format!("{SOCKET}, from the next login on");
        steps.command(Action::Enable, &what, &mut manager.command(&["--quiet", "enable", SOCKET]))?;
    }
    let listens = socket.is("ActiveState", "active");
    match (wanted.now, listens) {
        (true, false) => {
            let running = order.running();
            steps.command(Action::Start, SOCKET, &mut manager.command(&["start", SOCKET]))?;
            if let Some(pid) = running {
                let then = "clients move to the service, and each listener reports one gap";
                steps.note(format_args!("process {pid}, the previous daemon, stops: {then}"))?;
            }
        }
        (true, true) if wrote_socket => {
            steps.command(Action::Restart, SOCKET, &mut manager.command(&["restart", SOCKET]))?;
        }
        (_, true) => steps.note(format_args!("{SOCKET} is already listening"))?,
        (false, false) => {
            steps.note(format_args!("nothing changes until then; `broadcasterd install --now` starts it now"))?;
        }
    }
    if let Some(pid) = manager.look(SERVICE)?.main_pid() {
        steps.note(format_args!("the daemon already runs as process {pid}; `broadcasterd restart` restarts it"))?;
    }
    Ok(())
}

pub(super) fn uninstall(order: &Order<'_>) -> Result<(), Failure> {
    let steps = Steps::new(order.dry_run);
    let manager = Manager::find()?;
    let directory = own_directory()?;
    let mut ours = Vec::new();
    for unit in [SOCKET, SERVICE] {
        let path = directory.join(unit);
        if look(&path)? != Found::Nothing {
            ours.push(path);
        }
    }
    let (socket, service) = (manager.look(SOCKET)?, manager.look(SERVICE)?);
    let enabled = directory.join(ENABLED).is_symlink();
    let for_all = SYSTEM_DIRECTORIES.iter().any(|directory| Path::new(directory).join(ENABLED).is_symlink());
    if ours.is_empty() && !enabled && for_all {
        let remedy = format!("`systemctl --user mask --now {SOCKET}` disables it for this user");
        return steps
            .note(format_args!("{SOCKET} is enabled for all users, but not by `broadcasterd install`: {remedy}"));
    }
    let listens = socket.is("ActiveState", "active");
    if enabled {
        steps.command(Action::Disable, SOCKET, &mut manager.command(&["--quiet", "disable", SOCKET]))?;
    }
    if listens || service.main_pid().is_some() {
        steps.command(Action::Stop, SOCKET, &mut manager.command(&["stop", SOCKET, SERVICE]))?;
    }
    if let Some(pid) = service.main_pid() {
        let then = "after delivering what was sent; programs that use the bus start a daemon themselves";
        steps.note(format_args!("process {pid}, the daemon, stops {then}"))?;
    }
    for path in &ours {
        steps.remove(path)?;
    }
    if !ours.is_empty() {
        steps.command(Action::Reload, "the units of systemd", &mut manager.command(&["daemon-reload"]))?;
    }
    let failed = [&socket, &service].into_iter().any(|unit| unit.is("ActiveState", "failed"));
    if failed {
        steps.command(
            Action::Reset,
            "the failed state of the units",
            &mut manager.command(&["reset-failed", SOCKET, SERVICE]),
        )?;
    }
    if ours.is_empty() && !enabled && !listens && !failed {
        steps.note(format_args!("not installed: nothing to undo"))?;
    }
    if for_all {
        let remedy = format!("`systemctl --user mask {SOCKET}` disables it for this user");
        steps.note(format_args!("{SOCKET} remains enabled for all users from the next login on: {remedy}"))?;
    }
    Ok(())
}

pub(super) fn restart(order: &Order<'_>) -> Result<bool, Failure> {
    // Without a manager, the daemon is not a service.
    let Ok(manager) = Manager::find() else { return Ok(false) };
    let Some(pid) = manager.look(SERVICE)?.main_pid() else { return Ok(false) };
    if order.named && order.running() != Some(pid) {
        return Ok(false);
    }
    Steps::new(order.dry_run).command(Action::Restart, SERVICE, &mut manager.command(&["restart", SERVICE]))?;
    Ok(true)
}

/// A user manager that responds.
struct Manager {
    /// Its runtime directory, if the environment does not contain it.
    runtime: Option<PathBuf>,
}

/// The properties of a unit.
struct Unit(BTreeMap<String, String>);

impl Unit {
    fn is(&self, property: &str, value: &str) -> bool {
        self.0.get(property).is_some_and(|is| is == value)
    }

    /// The process of the daemon, while the service runs.
    fn main_pid(&self) -> Option<u32> {
        self.0.get("MainPID")?.parse().ok().filter(|pid| *pid != 0)
    }
}

impl Manager {
    /// The manager of this user, or one sentence with the remedy if there is none.
    fn find() -> Result<Self, Failure> {
        let variable = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
        let uid = rustix::process::geteuid().as_raw();
        let run_user = PathBuf::from(format!("/run/user/{uid}"));
        let is_ours = std::fs::symlink_metadata(&run_user).is_ok_and(|it| it.is_dir() && it.uid() == uid);
        let manager = Self { runtime: (variable.is_none() && is_ours).then_some(run_user) };
        match run(&mut manager.command(&["show", "--property=Version"])) {
            Ok(_) => Ok(manager),
            Err(why) => Err(failed(format!(
                "{why}; this user has no systemd manager, and nothing was changed: log in, or have root run `loginctl enable-linger \
                 {uid}`, and set XDG_RUNTIME_DIR to /run/user/{uid}"
            ))),
        }
    }

    /// Checks that the manager reads units from this directory. Its home may not be that of this process.
    fn check_that_it_reads(&self, directory: &Path) -> Result<(), Failure> {
        let paths = run(&mut self.command(&["show", "--property=UnitPath", "--value"]))?;
        if paths.contains(&*directory.to_string_lossy()) {
            return Ok(());
        }
        Err(failed(format!(
            "the systemd manager of this user does not read units from {}, and nothing was changed: it was started with another \
             HOME or XDG_CONFIG_HOME; use the same values, or unset them",
            directory.display()
        )))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments).env("LC_ALL", "C");
        if let Some(runtime) = &self.runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        command
    }

    fn look(&self, unit: &str) -> Result<Unit, Failure> {
        let shown = run(&mut self.command(&["show", "--property=ActiveState,UnitFileState,MainPID", unit]))?;
        let properties = shown.lines().filter_map(|line| line.split_once('='));
        Ok(Unit(properties.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}

/// The directory of the user's own units.
fn own_directory() -> Result<PathBuf, Failure> {
    let variable = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || directories::BaseDirs::new().map(|directories| directories.home_dir().join(".config"));
    match variable.or_else(home) {
        Some(config) => Ok(config.join("systemd/user")),
        None => Err(failed("no directory for the units: set HOME or XDG_CONFIG_HOME to an absolute path".to_owned())),
    }
}

/// The first of `directories` with both units, if its service runs `program`. It is also the one that systemd reads.
fn packaged_in<'a>(directories: &[&'a Path], program: &Path) -> Option<&'a Path> {
    let directory = directories.iter().find(|directory| directory.join(SERVICE).exists())?;
    let text = std::fs::read_to_string(directory.join(SERVICE)).ok()?;
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    let theirs = std::fs::canonicalize(start.strip_suffix(" run")?).ok()?;
    let same = theirs == std::fs::canonicalize(program).ok()? && directory.join(SOCKET).exists();
    same.then_some(directory)
}

fn socket_text() -> String {
    format!("# {MARK}\n{SOCKET_TEXT}")
}

/// The service's unit with `program` as the daemon.
fn service_text(program: &Path) -> Result<String, String> {
    let start = format!("ExecStart={} run", escaped(program)?);
    Ok(format!("# {MARK}\n{}", SERVICE_TEXT.replace(PACKAGED_START, &start)))
}

/// The path of a program, as `ExecStart=` requires it.
fn escaped(program: &Path) -> Result<String, String> {
    let bytes = program.as_os_str().as_bytes();
    // systemd 252 refuses a program whose path contains one of these, in any notation.
    if let Some(byte) = bytes.iter().find(|byte| byte.is_ascii_control() || b"\"'\\".contains(byte)) {
        return Err(format!(
            "the path of this program, {:?}, contains the character {:?}, which systemd does not allow: install it elsewhere",
            program,
            char::from(*byte),
        ));
    }
    // After a colon, systemd does not expand dollar signs. A doubled dollar sign would name a file with two.
    let mut text = String::from(if bytes.contains(&b'$') { ":" } else { "" });
    for part in OsStr::from_bytes(bytes).as_bytes().utf8_chunks() {
        for character in part.valid().chars() {
            match character {
                '%' => text.push_str("%%"),
                ' ' => text.push_str("\\x20"),
                other => text.push(other),
            }
        }
        text.extend(part.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packaged_service_contains_the_line_that_is_replaced() {
        assert_eq!(SERVICE_TEXT.lines().filter(|line| *line == PACKAGED_START).count(), 1);
    }

    #[test]
    fn units_begin_with_the_mark_and_name_the_program() {
        let service = service_text(Path::new("/opt/bus/broadcasterd")).expect("a plain path");
        assert!(service.lines().any(|line| line == "ExecStart=/opt/bus/broadcasterd run"), "{service}");
        for text in [service, socket_text()] {
            assert_eq!(text.lines().next(), Some(format!("# {MARK}").as_str()));
        }
    }

    #[test]
    fn path_is_escaped_as_systemd_requires() {
        for (path, text) in [
            (&b"/usr/bin/broadcasterd"[..], "/usr/bin/broadcasterd"),
            (b"/a b/c", "/a\\x20b/c"),
            (b"/100%/c", "/100%%/c"),
            (b"/$HOME/c", ":/$HOME/c"),
            ("/\u{e9}/c".as_bytes(), "/\u{e9}/c"),
            (b"/\xff/c", "/\\xff/c"),
        ] {
            assert_eq!(escaped(Path::new(OsStr::from_bytes(path))).as_deref(), Ok(text));
        }
    }

    #[test]
    fn path_that_systemd_does_not_allow_is_refused_with_the_character() {
        for (path, character) in
            [("/a\nb", r"'\n'"), ("/a\"b", "'\"'"), ("/a'b", r"'\''"), ("/a\\b", r"'\\'"), ("/a\x7fb", r"'\u{7f}'")]
        {
            let sentence = escaped(Path::new(path)).expect_err(path);
            assert!(sentence.contains(character) && sentence.contains("install it elsewhere"), "{sentence}");
            assert!(!sentence.contains('\n'));
        }
    }

    #[test]
    fn units_of_a_package_count_only_for_this_program() {
        let directory = std::env::temp_dir().join(format!("broadcasterd-units-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a temporary directory");
        let program = directory.join("broadcasterd");
        std::fs::write(&program, "").expect("written");
        let other = directory.join("other");
        std::fs::write(&other, "").expect("written");
        std::fs::write(directory.join(SERVICE), format!("[Service]\nExecStart={} run\n", program.display()))
            .expect("written");
        let places = [Path::new("/nonexistent"), directory.as_path()];
        assert_eq!(packaged_in(&places, &program), None, "the socket unit is missing");
        std::fs::write(directory.join(SOCKET), "").expect("written");
        assert_eq!(packaged_in(&places, &program), Some(directory.as_path()));
        assert_eq!(packaged_in(&places, &other), None);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
