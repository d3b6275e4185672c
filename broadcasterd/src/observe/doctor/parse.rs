//! Parses the system's tables and the output of its tools: pure functions of arbitrary text. They never fail; what cannot be parsed
//! is omitted.

use std::path::{Path, PathBuf};

/// The processes that hold a `flock` on the file, from the lines of `/proc/locks`. Waiting processes are excluded.
pub(super) fn lock_holders(locks: &str, inode: u64) -> Vec<LockLine> {
    locks.lines().filter_map(lock_line).filter(|line| line.inode == inode).collect()
}

/// A held `flock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockLine {
    pub(super) pid: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) inode: u64,
}

fn lock_line(line: &str) -> Option<LockLine> {
    let mut words = line.split_ascii_whitespace();
    let (_number, kind, _advisory, _access) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if kind != "FLOCK" {
        return None;
    }
    let pid = words.next()?.parse().ok().filter(|&pid| pid != 0)?;
    let mut file = words.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let inode = file.next()?.parse().ok()?;
    file.next().is_none().then_some(LockLine { pid, major, minor, inode })
}

/// The state letter in `/proc/<pid>/stat`. The process name before it is in parentheses and may contain parentheses.
pub(super) fn process_state(stat: &str) -> Option<char> {
    let (_, after) = stat.rsplit_once(')')?;
    after.trim_start().chars().next().filter(char::is_ascii_alphabetic)
}

/// Soft and hard limit of open files in `/proc/<pid>/limits`; `u64::MAX` means no limit.
pub(super) fn open_files(limits: &str) -> Option<(u64, u64)> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = rest.split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// Whether a process listens on a socket bound to `path`, from the lines of `/proc/net/unix`.
pub(super) fn listens(sockets: &[u8], path: &Path) -> bool {
    /// `__SO_ACCEPTCON`.
    const ACCEPTS: u32 = 0x1_0000;
    sockets.split(|&byte| byte == b'\n').any(|line| {
        // Seven words, then the path, which may contain spaces.
        let mut rest = line;
        let mut flags = None;
        for word in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
            if word == 3 {
                flags = std::str::from_utf8(&rest[..end]).ok().and_then(|text| u32::from_str_radix(text, 16).ok());
            }
            rest = &rest[end..];
        }
        let accepts = flags.is_some_and(|flags| flags & ACCEPTS != 0);
        accepts && rest.strip_prefix(b" ") == Some(path.as_os_str().as_encoded_bytes())
    })
}

/// The properties of a unit of the service manager that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unit {
    /// `loaded`, `not-found`, `masked`, ...
    pub(crate) load: String,
    /// `active`, `inactive`, `failed`, ...
    pub(crate) active: String,
    /// `enabled`, `disabled`, ...; empty if there is no file.
    pub(crate) enabled: String,
    /// How its last run ended: `success`, `exit-code`, ...
    pub(crate) result: String,
    pub(crate) main_pid: Option<u32>,
    /// The program of a service.
    pub(crate) program: Option<PathBuf>,
    /// The paths of a socket.
    pub(crate) listens: Vec<PathBuf>,
    /// The file is newer than the manager's copy.
    pub(crate) outdated: bool,
}

impl Unit {
    /// Whether the manager has loaded it.
    pub(crate) fn exists(&self) -> bool {
        !self.load.is_empty() && self.load != "not-found"
    }

    /// Whether it runs or listens.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading")
    }
}

/// The unit of this name in the output of `systemctl show`: one block of `Key=value` lines per unit.
pub(super) fn unit(shown: &str, name: &str) -> Unit {
    let wanted = |block: &&str| block.lines().any(|line| line.strip_prefix("Id=") == Some(name));
    let mut unit = Unit::default();
    let Some(block) = shown.split("\n\n").find(wanted) else { return unit };
    for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "LoadState" => unit.load = value.to_owned(),
            "ActiveState" => unit.active = value.to_owned(),
            "UnitFileState" => unit.enabled = value.to_owned(),
            "Result" => unit.result = value.to_owned(),
            "MainPID" => unit.main_pid = value.parse().ok().filter(|&pid| pid != 0),
            "ExecStart" => unit.program = started_program(value),
            "Listen" => {
                // `Listen=/run/user/1000/broadcaster/bus.sock (Stream)`, once for each socket.
                let path = value.rsplit_once(" (").map_or(value, |(path, _)| path);
                unit.listens.extend(path.starts_with('/').then(|| PathBuf::from(path)));
            }
            "NeedDaemonReload" => unit.outdated = value == "yes",
            _ => {}
        }
    }
    unit
}

/// The program in `{ path=/usr/bin/x ; argv[]=/usr/bin/x run ; ... }`.
fn started_program(value: &str) -> Option<PathBuf> {
    let (_, after) = value.split_once("path=")?;
    let path = after.split_once(" ; ").map_or(after, |(path, _)| path).trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// The job in the output of `launchctl print`, in systemd's terms. An empty text means an unknown job.
#[cfg_attr(not(any(test, target_os = "macos")), allow(dead_code))]
pub(super) fn launchd_job(printed: &str) -> Unit {
    let mut unit = Unit { load: "not-found".to_owned(), ..Unit::default() };
    for (key, value) in printed.lines().filter_map(|line| line.trim().split_once(" = ")) {
        match key {
            "state" => {
                unit.load = "loaded".to_owned();
                unit.enabled = "enabled".to_owned();
                unit.active = if value == "running" { "active" } else { "inactive" }.to_owned();
            }
            "pid" => unit.main_pid = value.parse().ok(),
            "program" => unit.program = value.starts_with('/').then(|| PathBuf::from(value)),
            "last exit code" if value != "0" && !value.contains("never") => unit.result = format!("exit-code {value}"),
            // The job's socket, in its block of sockets.
            "path" if value.ends_with(".sock") => unit.listens.push(PathBuf::from(value)),
            _ => {}
        }
    }
    unit
}

/// What the login manager knows about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) name: String,
    pub(crate) sessions: usize,
}

/// Parses a file of `/run/systemd/users`.
pub(super) fn login(text: &str) -> Option<Login> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let name = value("NAME=").filter(|name| !name.is_empty() && !name.contains('/'))?.to_owned();
    let sessions = value("SESSIONS=").unwrap_or_default().split_ascii_whitespace().count();
    Some(Login { name, sessions })
}

/// The version in the output of `broadcasterd --version`.
pub(super) fn version(printed: &str) -> Option<String> {
    let version = printed.lines().next()?.strip_prefix("broadcasterd ")?.trim();
    (!version.is_empty() && version.len() <= 64).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_found_by_inode_without_waiting_processes() {
        let locks = "1: FLOCK  ADVISORY  WRITE 812 00:2d:41 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 999 00:2d:41 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 5 00:2d:41 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 6 fd:01:42 0 EOF\n";
        assert_eq!(lock_holders(locks, 41), [LockLine { pid: 812, major: 0, minor: 0x2d, inode: 41 }]);
        assert_eq!(lock_holders(locks, 42)[0].major, 0xfd);
        assert_eq!(lock_holders(locks, 43), []);
    }

    #[test]
    fn malformed_lock_line_is_omitted() {
        for line in [
            "",
            ":::::",
            "1: FLOCK",
            "1: FLOCK ADVISORY WRITE -1 00:2d:41 0 EOF",
            "1: FLOCK ADVISORY WRITE 0 00:2d:41 0 EOF",
            "1: FLOCK ADVISORY WRITE 5 00:2d 0 EOF",
            "1: FLOCK ADVISORY WRITE 5 00:2d:41:1 0 EOF",
            "1: FLOCK ADVISORY WRITE 5 zz:2d:41 0 EOF",
            "1: FLOCK ADVISORY WRITE 99999999999999999999 00:2d:41 0 EOF",
            "\u{202e}\0 FLOCK \u{7f}",
        ] {
            assert_eq!(lock_holders(line, 41), [], "{line:?}");
        }
    }

    #[test]
    fn process_name_may_contain_parentheses() {
        assert_eq!(process_state("12 (broadcasterd) S 1 12"), Some('S'));
        assert_eq!(process_state("12 () ( T) T 1 12"), Some('T'));
        assert_eq!(process_state("12 (a) R (b)\n) D 1"), Some('D'));
        for bad in ["", "12", "12 (x", "12 (x)", "12 (x) 7", "12 (x) \u{fffd}"] {
            assert_eq!(process_state(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn limits_are_numbers_or_omitted() {
        let head = "Limit                     Soft Limit           Hard Limit           Units\n";
        let line = |rest: &str| format!("{head}Max open files            {rest}     files\n");
        assert_eq!(open_files(&line("1024 524288")), Some((1024, 524_288)));
        assert_eq!(open_files(&line("256 unlimited")), Some((256, u64::MAX)));
        for bad in ["", "Max open files", &line("-1 5"), &line("x y"), head] {
            assert_eq!(open_files(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_a_listening_socket_on_the_exact_path_counts() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 31 /run/a b/bus.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 32 /run/c/bus.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 33 @/run/d/bus.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 34\n\xff\xfe\n";
        assert!(listens(table, Path::new("/run/a b/bus.sock")));
        for other in ["/run/a", "b/bus.sock", "/run/c/bus.sock", "/run/d/bus.sock", ""] {
            assert!(!listens(table, Path::new(other)), "{other}");
        }
    }

    #[test]
    fn units_are_distinguished_by_name() {
        let shown = "Listen=/run/user/1000/broadcaster/bus.sock (Stream)\nId=broadcasterd.socket\nLoadState=loaded\n\
            ActiveState=active\nUnitFileState=enabled\nResult=success\nNeedDaemonReload=no\n\n\
            MainPID=812\nExecStart={ path=/opt/a b/broadcasterd ; argv[]=/opt/a b/broadcasterd run ; pid=0 }\n\
            Id=broadcasterd.service\nLoadState=loaded\nActiveState=failed\nResult=exit-code\nNeedDaemonReload=yes\n";
        let socket = unit(shown, "broadcasterd.socket");
        assert_eq!(socket.listens, [PathBuf::from("/run/user/1000/broadcaster/bus.sock")]);
        assert!(socket.exists() && socket.is_active() && !socket.outdated && socket.main_pid.is_none());
        let service = unit(shown, "broadcasterd.service");
        assert_eq!(service.main_pid, Some(812));
        assert_eq!(service.program, Some("/opt/a b/broadcasterd".into()));
        assert!(!service.is_active() && service.outdated && service.result == "exit-code");
        assert!(!unit("Id=x\nLoadState=not-found", "x").exists());
    }

    #[test]
    fn malformed_unit_is_omitted() {
        for shown in ["", "\n\n\n", "=", "Id=x\nMainPID=-5\nExecStart=path=\nListen=\nListen= (", "Id=x\nExecStart={"] {
            let unit = unit(shown, "x");
            assert_eq!((unit.main_pid, unit.program, unit.listens), (None, None, vec![]), "{shown:?}");
        }
    }

    #[test]
    fn launchd_job_is_described_in_systemd_terms() {
        let job = launchd_job(
            "gui/501/broadcasterd = {\n\tstate = running\n\n\tprogram = /opt/broadcasterd\n\tpid = 812\n\
             \tlast exit code = (never exited)\n\tsockets = {\n\t\tpath = /tmp/bus.sock\n\t}\n}",
        );
        assert!(job.exists() && job.is_active() && job.result.is_empty());
        assert_eq!((job.main_pid, job.program), (Some(812), Some("/opt/broadcasterd".into())));
        assert_eq!(job.listens, [PathBuf::from("/tmp/bus.sock")]);
        assert!(!launchd_job("").exists());
    }

    #[test]
    fn login_name_is_not_a_path() {
        let text = "# private\nNAME=u\nSTATE=active\nSESSIONS=3 c1\nONLINE_SESSIONS=3\n";
        assert_eq!(login(text), Some(Login { name: "u".to_owned(), sessions: 2 }));
        assert_eq!(login("NAME=u\nSESSIONS=\n"), Some(Login { name: "u".to_owned(), sessions: 0 }));
        assert_eq!(login("NAME=../../etc\n"), None);
        assert_eq!(login(""), None);
    }

    #[test]
    fn version_follows_the_program_name() {
        assert_eq!(version("broadcasterd 0.2.0\n"), Some("0.2.0".to_owned()));
        for bad in ["", "broadcasterd ", "other 1.0", &format!("broadcasterd {}", "9".repeat(99))] {
            assert_eq!(version(bad), None, "{bad:?}");
        }
    }
}
