//! systemd's user manager: a socket that it listens on, and the service behind it. It never becomes the machine's own manager's
//! business, and needs no privilege.

use super::steps::{Found, MARK, look, run};
use super::{Order, Wanted, failed};
use crate::exit::Failure;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOCKET: &str = "broadcasterd.socket";
const SERVICE: &str = "broadcasterd.service";

/// The link that enables the socket, in a directory of units.
const ENABLED: &str = "sockets.target.wants/broadcasterd.socket";

/// The units as packages install them.
const SOCKET_TEXT: &str = include_str!("../../packaging/systemd/broadcasterd.socket");
const SERVICE_TEXT: &str = include_str!("../../packaging/systemd/broadcasterd.service");

/// The line of [`SERVICE_TEXT`] that names the program.
const PACKAGED_START: &str = "ExecStart=/usr/bin/broadcasterd run";

/// Where packages, and the machine's administrator, have units for all users.
const SYSTEM_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"];

pub(super) fn install(order: &Order<'_>, wanted: &Wanted) -> Result<(), Failure> {
    let steps = order.steps();
    let files = [(SOCKET, socket_text()), (SERVICE, service_text(&wanted.program).map_err(failed)?)];
    let manager = Manager::find()?;
    let directory = own_directory()?;
    // All are looked at before any is written.
    let mut found = Vec::new();
    for (unit, _) in &files {
        found.push(look(&directory.join(unit))?);
    }
    let packaged = packaged_in(&SYSTEM_DIRECTORIES.map(Path::new), &wanted.program);
    let mut wrote_socket = false;
    if let Some(packaged) = packaged.filter(|_| found.iter().all(|found| *found == Found::Nothing)) {
        steps.note(format_args!("{} has the units of this program already", packaged.display()))?;
    } else {
        manager.expect_to_read(&directory)?;
        let mut wrote = false;
        for ((unit, text), found) in files.iter().zip(&found) {
            let path = directory.join(unit);
            if matches!(found, Found::Ours(old) if old == text) {
                steps.note(format_args!("{} is written already", path.display()))?;
                continue;
            }
            steps.write(&path, text)?;
            wrote = true;
            wrote_socket |= *unit == SOCKET;
        }
        if wrote {
            steps.command(("reload", "reloaded"), "the units of systemd", &mut manager.command(&["daemon-reload"]))?;
        }
    }
    let socket = manager.look(SOCKET)?;
    if socket.is("UnitFileState", "enabled") {
        steps.note(format_args!("{SOCKET} is enabled already"))?;
    } else {
        let what = format!("{SOCKET}, from the next login on");
        steps.command(("enable", "enabled"), &what, &mut manager.command(&["--quiet", "enable", SOCKET]))?;
    }
    let listens = socket.is("ActiveState", "active");
    match (wanted.now, listens) {
        (true, false) => {
            let running = order.running();
            steps.command(("start", "started"), SOCKET, &mut manager.command(&["start", SOCKET]))?;
            if let Some(pid) = running {
                let then = "clients go over to the service, and listeners are told of one gap";
                steps.note(format_args!("process {pid}, the daemon until now, makes way: {then}"))?;
            }
        }
        (true, true) if wrote_socket => {
            steps.command(("restart", "restarted"), SOCKET, &mut manager.command(&["restart", SOCKET]))?;
        }
        (_, true) => steps.note(format_args!("{SOCKET} listens already"))?,
        (false, false) => {
            steps.note(format_args!("until then nothing changes; `broadcasterd install --now` starts it now"))?;
        }
    }
    if let Some(pid) = manager.look(SERVICE)?.main_pid() {
        steps.note(format_args!("the daemon runs as process {pid}; `broadcasterd restart` starts it again"))?;
    }
    Ok(())
}

pub(super) fn uninstall(order: &Order<'_>) -> Result<(), Failure> {
    let steps = order.steps();
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
        let remedy = format!("`systemctl --user mask --now {SOCKET}` keeps it from you");
        return steps
            .note(format_args!("{SOCKET} is enabled for all users, and not by `broadcasterd install`: {remedy}"));
    }
    let listens = socket.is("ActiveState", "active");
    if enabled {
        steps.command(("disable", "disabled"), SOCKET, &mut manager.command(&["--quiet", "disable", SOCKET]))?;
    }
    if listens || service.main_pid().is_some() {
        steps.command(("stop", "stopped"), SOCKET, &mut manager.command(&["stop", SOCKET, SERVICE]))?;
    }
    if let Some(pid) = service.main_pid() {
        let then = "after it has delivered what it was sent; programs that use the bus start a daemon themselves";
        steps.note(format_args!("with it goes process {pid}, the daemon, {then}"))?;
    }
    for path in &ours {
        steps.remove(path)?;
    }
    if !ours.is_empty() {
        steps.command(("reload", "reloaded"), "the units of systemd", &mut manager.command(&["daemon-reload"]))?;
    }
    let failed = [&socket, &service].into_iter().any(|unit| unit.is("ActiveState", "failed"));
    if failed {
        steps.command(
            ("forget", "forgot"),
            "that it failed",
            &mut manager.command(&["reset-failed", SOCKET, SERVICE]),
        )?;
    }
    if ours.is_empty() && !enabled && !listens && !failed {
        steps.note(format_args!("it is not installed: nothing to take back"))?;
    }
    if for_all {
        let remedy = format!("`systemctl --user mask {SOCKET}` keeps it from you");
        steps.note(format_args!("{SOCKET} stays enabled for all users, from the next login on: {remedy}"))?;
    }
    Ok(())
}

pub(super) fn restart(order: &Order<'_>) -> Result<bool, Failure> {
    // Without a manager, the daemon is somebody else's.
    let Ok(manager) = Manager::find() else { return Ok(false) };
    let Some(pid) = manager.look(SERVICE)?.main_pid() else { return Ok(false) };
    if order.named && order.running() != Some(pid) {
        return Ok(false);
    }
    order.steps().command(("restart", "restarted"), SERVICE, &mut manager.command(&["restart", SERVICE]))?;
    Ok(true)
}

/// A user manager that answers.
struct Manager {
    /// Its runtime directory, where the environment does not tell.
    runtime: Option<PathBuf>,
}

/// What the manager says of a unit.
struct Unit(BTreeMap<String, String>);

impl Unit {
    fn is(&self, property: &str, value: &str) -> bool {
        self.0.get(property).is_some_and(|is| is == value)
    }

    /// The daemon, while the service has one.
    fn main_pid(&self) -> Option<u32> {
        self.0.get("MainPID")?.parse().ok().filter(|pid| *pid != 0)
    }
}

impl Manager {
    /// The manager of this user; one sentence with the remedy if there is none.
    fn find() -> Result<Self, Failure> {
        let variable = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
        let uid = rustix::process::geteuid().as_raw();
        let run_user = PathBuf::from(format!("/run/user/{uid}"));
        let is_ours = std::fs::symlink_metadata(&run_user).is_ok_and(|it| it.is_dir() && it.uid() == uid);
        let manager = Self { runtime: (variable.is_none() && is_ours).then_some(run_user) };
        match run(&mut manager.command(&["show", "--property=Version"])) {
            Ok(_) => Ok(manager),
            Err(why) => Err(failed(format!(
                "{why}; there is no systemd of this user to install into, and nothing was changed: log in, or let root run \
                 `loginctl enable-linger {uid}`, and see that XDG_RUNTIME_DIR is /run/user/{uid}"
            ))),
        }
    }

    /// Its home, and so the place of its units, is not always that of this process.
    fn expect_to_read(&self, directory: &Path) -> Result<(), Failure> {
        let read = run(&mut self.command(&["show", "--property=UnitPath", "--value"]))?;
        if read.contains(&*directory.to_string_lossy()) {
            return Ok(());
        }
        Err(failed(format!(
            "the systemd of this user reads no units in {}, and nothing was changed: it was started with another HOME or \
             XDG_CONFIG_HOME; use the same ones, or unset them",
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
        let said = run(&mut self.command(&["show", "--property=ActiveState,UnitFileState,MainPID", unit]))?;
        let properties = said.lines().filter_map(|line| line.split_once('='));
        Ok(Unit(properties.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}

/// Where a user's own units are.
fn own_directory() -> Result<PathBuf, Failure> {
    let variable = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || directories::BaseDirs::new().map(|directories| directories.home_dir().join(".config"));
    match variable.or_else(home) {
        Some(config) => Ok(config.join("systemd/user")),
        None => Err(failed("no directory for the units: set HOME or XDG_CONFIG_HOME to an absolute path".to_owned())),
    }
}

/// The first of `directories` that has both units, if its service runs `program`: the one that systemd reads, too.
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

/// The path of a program, as systemd reads it in `ExecStart=`.
fn escaped(program: &Path) -> Result<String, String> {
    let bytes = program.as_os_str().as_bytes();
    // systemd 252 refuses a program whose path has one of these, however it is written.
    if let Some(byte) = bytes.iter().find(|byte| byte.is_ascii_control() || b"\"'\\".contains(byte)) {
        return Err(format!(
            "the path of this program, {:?}, has the character {:?}, which systemd does not allow there: install it elsewhere",
            program,
            char::from(*byte),
        ));
    }
    // With a colon before it, systemd leaves dollar signs alone. Doubled, it would look for a file with two.
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
    fn packaged_service_has_the_line_that_is_replaced() {
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
    fn path_is_escaped_as_systemd_reads_it() {
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
    fn path_that_systemd_does_not_take_is_refused_with_the_character() {
        for (path, character) in
            [("/a\nb", r"'\n'"), ("/a\"b", "'\"'"), ("/a'b", r"'\''"), ("/a\\b", r"'\\'"), ("/a\x7fb", r"'\u{7f}'")]
        {
            let sentence = escaped(Path::new(path)).expect_err(path);
            assert!(sentence.contains(character) && sentence.contains("install it elsewhere"), "{sentence}");
            assert!(!sentence.contains('\n'));
        }
    }

    #[test]
    fn units_of_a_package_count_only_with_this_program() {
        let directory = std::env::temp_dir().join(format!("broadcasterd-units-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a temporary directory");
        let program = directory.join("broadcasterd");
        std::fs::write(&program, "").expect("written");
        let other = directory.join("other");
        std::fs::write(&other, "").expect("written");
        std::fs::write(directory.join(SERVICE), format!("[Service]\nExecStart={} run\n", program.display()))
            .expect("written");
        let places = [Path::new("/nonexistent"), directory.as_path()];
        assert_eq!(packaged_in(&places, &program), None, "there is no socket");
        std::fs::write(directory.join(SOCKET), "").expect("written");
        assert_eq!(packaged_in(&places, &program), Some(directory.as_path()));
        assert_eq!(packaged_in(&places, &other), None);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
