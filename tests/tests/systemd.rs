//! The daemon as a service of a real `systemd --user`. Each test runs again inside `tests/user-manager`, as a user created for it: no
//! test touches a bus, a service or a file of the user who runs it.
#![cfg(target_os = "linux")]

use broadcaster_tests::daemon::{Process, program};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Set for the inner run.
const INSIDE: &str = "TEST_INSIDE";

/// If set, a test that cannot run fails.
const MUST_RUN: &str = "BUS_SYSTEMD_TESTS_MUST_RUN";

/// The exit code of `tests/user-manager` on a system where it cannot run.
const CANNOT_RUN: i32 = 125;

/// An inner run that takes longer hangs.
const HUNG_AFTER: Duration = Duration::from_secs(180);

const SOCKET_UNIT: &str = "broadcasterd.socket";
const SERVICE_UNIT: &str = "broadcasterd.service";

/// Prints a line even if the test passes.
fn print_always(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs `facts`, the body of the test `name`, as a user with a manager.
fn with_user_manager(name: &str, facts: fn(&Home)) {
    run_inside(name, &[], facts);
}

/// The same as root, next to that user.
fn as_root_beside_the_user(name: &str, facts: fn(&Home)) {
    run_inside(name, &["--root"], facts);
}

fn run_inside(name: &str, options: &[&str], facts: fn(&Home)) {
    if std::env::var_os(INSIDE).is_some() {
        std::thread::spawn(|| {
            std::thread::sleep(HUNG_AFTER);
            print_always("a test under systemd hangs");
            std::process::abort();
        });
        return facts(&Home::new());
    }
    let test = std::env::current_exe().expect("a test is a program");
    // The manager and everything it runs end with this test.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("user-manager")).args(options);
    command.arg("--copy").arg(program()).arg("--copy").arg(&test);
    command.arg(test.file_name().expect("a name")).args(["--exact", name, "--nocapture", "--test-threads=1"]);
    let output = command.env(INSIDE, "1").stdin(Stdio::null()).output();
    let (code, stdout, stderr) = match &output {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
        }
        Err(error) => (Some(CANNOT_RUN), String::new(), format!("setpriv: {error}")),
    };
    if code == Some(CANNOT_RUN) {
        let must_run = std::env::var_os(MUST_RUN).is_some_and(|value| !value.is_empty());
        assert!(!must_run, "{MUST_RUN} is set, and {name} cannot run: {stderr}");
        return print_always(&format!("SKIPPED: {name}: {}", stderr.trim()));
    }
    assert!(code == Some(0), "{name} fails inside ({code:?}):\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{name} is the test that ran: {stdout}");
    stderr.lines().filter(|line| line.starts_with("measured: ")).for_each(print_always);
}

/// The directories of the user.
struct Home {
    home: PathBuf,
    runtime: PathBuf,
}

impl Home {
    fn new() -> Self {
        let directory = |name| PathBuf::from(std::env::var_os(name).expect("tests/user-manager sets it"));
        Self { home: directory("HOME"), runtime: directory("XDG_RUNTIME_DIR") }
    }

    fn uid(&self) -> u32 {
        std::fs::metadata(&self.runtime).expect("the runtime directory").uid()
    }

    fn units(&self) -> PathBuf {
        self.home.join(".config/systemd/user")
    }

    fn socket(&self) -> PathBuf {
        self.runtime.join("broadcaster/bus.sock")
    }

    /// A command that runs as the user, even if the test is root.
    fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.uid(self.uid()).gid(self.uid()).current_dir("/");
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn broadcasterd(&self, arguments: &[&str]) -> Ran {
        Ran::new(&mut self.command(self.home.join("bin/broadcasterd"), arguments))
    }

    fn systemctl(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command("systemctl", &["--user"]);
        Ran::new(command.args(arguments))
    }

    fn property(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "--property", property, unit]).ok().trim().to_owned()
    }

    fn main_pid(&self) -> u32 {
        self.property(SERVICE_UNIT, "MainPID").parse().expect("a process id")
    }

    /// Adds settings to the service.
    fn change_service(&self, lines: &str) {
        let settings = self.units().join("broadcasterd.service.d");
        std::fs::create_dir_all(&settings).expect("a directory");
        std::fs::write(settings.join("test.conf"), format!("[Service]\n{lines}\n")).expect("written");
        self.systemctl(&["daemon-reload"]).ok();
    }

    fn install(&self) {
        self.broadcasterd(&["install", "--now"]).ok();
    }

    fn send(&self, message: &str) {
        self.broadcasterd(&["send", "news", message]).ok();
    }

    /// The process id that the daemon reports.
    fn status_pid(&self) -> u32 {
        let status: serde_json::Value =
            serde_json::from_str(&self.broadcasterd(&["status", "--json"]).ok()).expect("one JSON object");
        status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process id")
    }

    /// Checks that exactly one daemon runs, as the service.
    fn expect_service_alone(&self) -> u32 {
        assert_eq!(self.systemctl(&["is-active", SERVICE_UNIT]).ok().trim(), "active");
        let pid = self.main_pid();
        assert_eq!(self.status_pid(), pid, "the service serves");
        assert_eq!(daemons(), [pid], "no other daemon runs");
        pid
    }

    /// A listener that has joined.
    fn listener(&self, channel: &str) -> Process {
        let mut listener = Process::spawn(&mut self.command("broadcasterd", &["listen", channel, "--json"]));
        listener.expect_error_line("listening on");
        listener
    }
}

/// The result of a command.
struct Ran {
    line: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let Output { status, stdout, stderr } = command.output().expect("it can be run");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { line, code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        let Self { line, code: ended, stdout, stderr } = &self;
        assert!(*ended == Some(code), "{line} ends with {ended:?}, not {code}\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    #[track_caller]
    fn ok(self) -> String {
        self.ends(0).stdout
    }
}

/// All processes that are a daemon.
fn daemons() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("a list of processes");
    let mut daemons: Vec<u32> = processes
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let arguments = std::fs::read(path.join("cmdline")).ok()?;
            let mut arguments = arguments.split(|byte| *byte == 0);
            let is_daemon = arguments.next()?.ends_with(b"broadcasterd") && arguments.next()? == b"run";
            is_daemon.then_some(pid)
        })
        .collect();
    daemons.sort_unstable();
    daemons
}

fn signal(pid: u32, signal: Signal) {
    rustix::process::kill_process(process(pid), signal).expect("the process is there");
}

fn process(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id")
}

/// A process that is not a child, whose end can be awaited.
struct Watched(OwnedFd);

impl Watched {
    fn new(pid: u32) -> Self {
        Self(rustix::process::pidfd_open(process(pid), PidfdFlags::empty()).expect("the process is there"))
    }

    fn wait_for_end(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).expect("it can be waited for");
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("its type").is_dir() {
            true => files.extend(self::files(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    files
}

fn has_line(text: &str, start: &str) -> bool {
    text.lines().any(|line| line.starts_with(start))
}

#[test]
fn dry_run_lists_the_steps_and_changes_nothing() {
    with_user_manager("dry_run_lists_the_steps_and_changes_nothing", |home| {
        let output = home.broadcasterd(&["install", "--now", "--dry-run"]).ok();
        for line in ["would write /", "would reload", "would enable", "would start"] {
            assert!(has_line(&output, line), "{line}: {output}");
        }
        assert_eq!(files(&home.units()), [""; 0].map(PathBuf::from));
        assert_eq!(home.property(SOCKET_UNIT, "LoadState"), "not-found");
        home.install();
        let before = files(&home.units());
        let output = home.broadcasterd(&["uninstall", "--dry-run"]).ok();
        for line in ["would disable", "would stop", "would remove /", "would reload"] {
            assert!(has_line(&output, line), "{line}: {output}");
        }
        assert_eq!(files(&home.units()), before);
        assert_eq!(home.systemctl(&["is-active", SOCKET_UNIT]).ok().trim(), "active");
    });
}

#[test]
fn install_reports_each_step_and_changes_nothing_the_second_time() {
    with_user_manager("install_reports_each_step_and_changes_nothing_the_second_time", |home| {
        let output = home.broadcasterd(&["install"]).ok();
        let units = home.units();
        for unit in [SOCKET_UNIT, SERVICE_UNIT] {
            assert!(has_line(&output, &format!("wrote {}", units.join(unit).display())), "{output}");
            let mode = std::fs::metadata(units.join(unit)).expect("written").permissions().mode();
            assert_eq!(mode & 0o7777, 0o644);
        }
        assert!(has_line(&output, "reloaded") && has_line(&output, "enabled broadcasterd.socket"), "{output}");
        assert!(has_line(&output, "nothing changes until then"), "{output}");
        assert!(!home.socket().exists(), "it starts at the next login");
        let identities = |files: &[PathBuf]| {
            files.iter().map(|file| std::fs::symlink_metadata(file).expect("there").ino()).collect::<Vec<_>>()
        };
        let (before, numbers) = (files(&units), identities(&files(&units)));
        assert_eq!(before.len(), 3, "two units and the enabling link: {before:?}");

        let output = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&output, "started broadcasterd.socket"), "{output}");
        let output = home.broadcasterd(&["install", "--now"]).ok();
        assert!(output.lines().all(|line| line.contains("already")) && output.lines().count() == 4, "{output}");
        assert_eq!((files(&units), identities(&files(&units))), (before, numbers), "no file was touched");
        assert_eq!(home.systemctl(&["is-enabled", SOCKET_UNIT]).ok().trim(), "enabled");
        assert_eq!(daemons(), [0; 0], "the bus is unused");
    });
}

#[test]
fn units_verify_clean() {
    with_user_manager("units_verify_clean", |home| {
        home.install();
        let units = [SOCKET_UNIT, SERVICE_UNIT].map(|unit| home.units().join(unit));
        // The manual page belongs to the package.
        let mut verify = home.command("systemd-analyze", &["--user", "--man=no", "verify"]);
        let verified = Ran::new(verify.args(units)).ends(0);
        assert_eq!(verified.stderr, "");
        for (unit, property, value) in [
            (SERVICE_UNIT, "Slice", "session.slice"),
            (SERVICE_UNIT, "LimitNOFILE", "16384"),
            (SERVICE_UNIT, "Restart", "on-failure"),
            (SERVICE_UNIT, "Type", "notify"),
            (SOCKET_UNIT, "SocketMode", "0600"),
            (SOCKET_UNIT, "DirectoryMode", "0700"),
            (SOCKET_UNIT, "RemoveOnStop", "yes"),
        ] {
            assert_eq!(home.property(unit, property), value, "{property}");
        }
    });
}

#[test]
fn first_connect_starts_the_service() {
    with_user_manager("first_connect_starts_the_service", |home| {
        home.install();
        assert_eq!(daemons(), [0; 0]);
        home.send("first");
        home.expect_service_alone();
    });
}

#[test]
fn observing_does_not_start_the_service() {
    with_user_manager("observing_does_not_start_the_service", |home| {
        home.install();
        let commands = ["status", "stats", "channels", "peers", "monitor", "restart", "stop"];
        for command in commands.map(|command| [command]) {
            home.broadcasterd(&command).ends(4);
            assert_eq!(daemons(), [0; 0], "{command:?}");
            assert_eq!(home.property(SERVICE_UNIT, "ActiveState"), "inactive", "{command:?}");
        }
    });
}

#[test]
fn send_right_after_a_kill_succeeds() {
    with_user_manager("send_right_after_a_kill_succeeds", |home| {
        home.install();
        home.send("before");
        for _ in 0..3 {
            let pid = home.expect_service_alone();
            let killed = Watched::new(pid);
            signal(pid, Signal::KILL);
            home.send("after");
            killed.wait_for_end();
            assert_ne!(home.expect_service_alone(), pid);
        }
    });
}

#[test]
fn enabled_socket_listens_from_the_login_on() {
    with_user_manager("enabled_socket_listens_from_the_login_on", |home| {
        home.broadcasterd(&["install"]).ok();
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "inactive");
        // A login starts this target, and with it everything enabled.
        home.systemctl(&["start", "sockets.target"]).ok();
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "active");
        home.send("x");
        home.expect_service_alone();
    });
}

#[test]
fn idle_service_ends_and_starts_with_the_next_send() {
    with_user_manager("idle_service_ends_and_starts_with_the_next_send", |home| {
        home.install();
        home.change_service("ExecStart=\nExecStart=%h/bin/broadcasterd run --idle-exit 50ms");
        let listener = home.listener("news");
        let pid = home.expect_service_alone();
        let idle = Watched::new(pid);
        drop(listener);
        idle.wait_for_end();
        home.send("after");
        assert_ne!(home.property(SERVICE_UNIT, "ExecMainPID"), pid.to_string());
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "0", "an idle exit is not a failure");
    });
}

#[test]
fn daemon_needs_no_system_call_that_the_service_refuses() {
    with_user_manager("daemon_needs_no_system_call_that_the_service_refuses", |home| {
        home.install();
        // By default a refused call is an error, which a daemon may handle.
        home.change_service("SystemCallErrorNumber=kill");
        let mut listener = home.listener("news");
        let pid = home.expect_service_alone();
        home.send("x");
        assert!(listener.line().contains(r#""payload":"x""#));
        let large = home.home.join("large");
        std::fs::write(&large, vec![b'x'; 8 << 20]).expect("written");
        home.broadcasterd(&["send", "news", "--file", large.to_str().expect("text")]).ok();
        assert!(listener.line().len() > 8 << 20);
        assert_eq!(home.expect_service_alone(), pid);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its state");
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(has_line(&status, line), "{line}: {status}");
        }
        home.systemctl(&["stop", SOCKET_UNIT, SERVICE_UNIT]).ok();
        assert_eq!(home.property(SERVICE_UNIT, "Result"), "success", "nor does a stop need one");
    });
}

#[test]
fn service_that_cannot_run_leaves_the_bus_to_daemons_that_clients_start() {
    with_user_manager("service_that_cannot_run_leaves_the_bus_to_daemons_that_clients_start", |home| {
        home.install();
        home.change_service("ExecStart=\nExecStart=/bin/false");
        let since = Instant::now();
        home.send("x");
        print_always(&format!("measured: a send past a service that cannot run took {:?}", since.elapsed()));
        let pid = home.status_pid();
        assert_eq!((daemons(), home.main_pid()), (vec![pid], 0));
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "failed");
        home.broadcasterd(&["uninstall"]).ok();
        assert_eq!(
            home.systemctl(&["list-units", "--all", "--quiet", "broadcasterd.*"]).ok(),
            "",
            "no trace of the failure remains"
        );
    });
}

#[test]
fn stopped_service_starts_with_the_next_send() {
    with_user_manager("stopped_service_starts_with_the_next_send", |home| {
        home.install();
        home.send("before");
        let pid = home.expect_service_alone();
        let stopped = Watched::new(pid);
        home.broadcasterd(&["stop"]).ok();
        stopped.wait_for_end();
        home.send("after");
        assert_ne!(home.expect_service_alone(), pid);
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "0", "a stop is not a failure");
    });
}

#[test]
fn uninstall_leaves_nothing_and_programs_start_their_daemon_again() {
    with_user_manager("uninstall_leaves_nothing_and_programs_start_their_daemon_again", |home| {
        for round in 0..2 {
            home.install();
            home.send("by the service");
            let pid = home.expect_service_alone();
            let output = home.broadcasterd(&["uninstall"]).ok();
            assert!(has_line(&output, &format!("process {pid}, the daemon, stops")), "{output}");
            for line in ["disabled", "stopped", "removed /", "reloaded"] {
                assert!(has_line(&output, line), "{line}: {output}");
            }
            assert_eq!(files(&home.units()), [""; 0].map(PathBuf::from));
            assert!(!home.socket().exists());
            assert_eq!(daemons(), [0; 0]);
            assert_eq!(home.property(SOCKET_UNIT, "LoadState"), "not-found");
            let output = home.broadcasterd(&["uninstall"]).ok();
            assert_eq!(output, "not installed: nothing to undo\n", "round {round}");
            home.send("without the service");
            let own = home.status_pid();
            assert_eq!((daemons(), home.main_pid()), (vec![own], 0));
        }
    });
}

#[test]
fn service_replaces_a_running_daemon_and_its_listener_continues() {
    with_user_manager("service_replaces_a_running_daemon_and_its_listener_continues", |home| {
        let mut listener = home.listener("news");
        let old = home.status_pid();
        assert_eq!(daemons(), [old]);
        let previous = Watched::new(old);
        let output = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&output, &format!("process {old}, the previous daemon, stops")), "{output}");
        assert_eq!(listener.line(), r#"{"channel":"news","lagged":null}"#);
        previous.wait_for_end();
        home.expect_service_alone();
        home.send("after");
        assert!(listener.line().contains(r#""payload":"after""#), "no second gap, no loss");
    });
}

#[test]
fn foreign_unit_is_neither_replaced_nor_removed() {
    with_user_manager("foreign_unit_is_neither_replaced_nor_removed", |home| {
        let unit = home.units().join(SERVICE_UNIT);
        std::fs::create_dir_all(home.units()).expect("a directory");
        std::fs::write(&unit, "[Service]\nExecStart=/bin/true\n").expect("written");
        for command in ["install", "uninstall"] {
            let failed = home.broadcasterd(&[command]).ends(1);
            let sentence = &failed.stderr;
            assert!(sentence.contains(&unit.display().to_string()) && sentence.contains("move it away"), "{sentence}");
            assert_eq!(files(&home.units()), std::slice::from_ref(&unit), "{command}");
        }
        std::fs::remove_file(&unit).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &unit).expect("masked");
        home.broadcasterd(&["install"]).ends(1);
        assert_eq!(files(&home.units()), [unit]);
    });
}

#[test]
fn install_works_from_any_directory_and_without_xdg_runtime_dir() {
    with_user_manager("install_works_from_any_directory_and_without_xdg_runtime_dir", |home| {
        let unusual = home.home.join("a b $HOME 100%n é;#");
        std::fs::create_dir(&unusual).expect("a directory");
        let program = unusual.join("broadcasterd");
        std::fs::copy(home.home.join("bin/broadcasterd"), &program).expect("copied");
        let mut install = home.command(&program, &["install", "--now"]);
        let installed = Ran::new(install.env_remove("XDG_RUNTIME_DIR")).ends(0);
        assert_eq!(installed.stderr, "", "no warning");
        home.send("x");
        let pid = home.expect_service_alone();
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).expect("a running process"), program);

        let quoted = home.home.join("it's");
        std::fs::create_dir(&quoted).expect("a directory");
        let program = quoted.join("broadcasterd");
        std::fs::copy(home.home.join("bin/broadcasterd"), &program).expect("copied");
        let refused = Ran::new(&mut home.command(&program, &["install"])).ends(1);
        assert!(refused.stderr.contains(r"'\''"), "the character is named: {}", refused.stderr);
    });
}

#[test]
fn directory_that_the_manager_does_not_read_is_refused() {
    with_user_manager("directory_that_the_manager_does_not_read_is_refused", |home| {
        let elsewhere = home.home.join("elsewhere");
        let mut install = home.command("broadcasterd", &["install", "--now"]);
        let refused = Ran::new(install.env("XDG_CONFIG_HOME", &elsewhere)).ends(1);
        assert!(
            refused.stderr.contains("XDG_CONFIG_HOME") && refused.stderr.contains("elsewhere"),
            "{}",
            refused.stderr
        );
        assert_eq!((files(&elsewhere), refused.stdout), (Vec::new(), String::new()));
    });
}

#[test]
fn program_in_a_temporary_place_causes_a_warning() {
    with_user_manager("program_in_a_temporary_place_causes_a_warning", |home| {
        let build = home.home.join("project/target");
        std::fs::create_dir_all(build.join("debug")).expect("a directory");
        std::fs::write(build.join("CACHEDIR.TAG"), "").expect("written");
        let temporary = home.home.join("temporary");
        std::fs::create_dir(&temporary).expect("a directory");
        for (directory, word) in [(build.join("debug"), "build directory"), (temporary.clone(), "temporary directory")]
        {
            let program = directory.join("broadcasterd");
            std::fs::hard_link(home.home.join("bin/broadcasterd"), &program).expect("linked");
            let mut install = home.command(&program, &["install", "--dry-run"]);
            let warned = Ran::new(install.env("TMPDIR", &temporary)).ends(0);
            assert!(warned.stderr.contains(word) && warned.stderr.contains("warning"), "{}", warned.stderr);
        }
    });
}

#[test]
fn journal_has_what_the_daemon_logs() {
    with_user_manager("journal_has_what_the_daemon_logs", |home| {
        home.install();
        home.send("x");
        let pid = home.expect_service_alone().to_string();
        let arguments = ["--user", "--unit", "broadcasterd", "--output", "json", "--follow", "--lines", "all"];
        let mut journal = Process::spawn(&mut home.command("journalctl", &arguments));
        loop {
            let line = journal.line();
            assert_ne!(line, "", "the journal ends");
            let entry: serde_json::Value = serde_json::from_str(&line).expect("one JSON object a line");
            if entry["_PID"] == *pid && entry["MESSAGE"].as_str().is_some_and(|message| message.contains("ready")) {
                assert_eq!(entry["_SYSTEMD_USER_UNIT"], SERVICE_UNIT);
                break;
            }
        }
    });
}

#[test]
fn hanging_daemon_is_ended_by_the_watchdog_and_replaced() {
    with_user_manager("hanging_daemon_is_ended_by_the_watchdog_and_replaced", |home| {
        home.install();
        home.change_service("WatchdogSec=1s");
        home.send("before");
        let pid = home.expect_service_alone();
        let hung = Watched::new(pid);
        let since = Instant::now();
        signal(pid, Signal::STOP);
        hung.wait_for_end();
        print_always(&format!(
            "measured: a daemon that hangs was ended after {:?}, with a watchdog of 1 s",
            since.elapsed()
        ));
        home.send("after");
        assert_ne!(home.expect_service_alone(), pid);
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "1");
    });
}

/// What a listener under load received.
struct Received {
    gaps: usize,
    /// From the last message before the gap to the first one after it.
    silent_for: Duration,
}

/// Reads the output of a listener up to the message `end`. Signals once when messages flow, and once when they flow again after a
/// gap.
fn receive(lines: impl BufRead, flows: &std::sync::mpsc::Sender<()>) -> Received {
    let mut received = Received { gaps: 0, silent_for: Duration::ZERO };
    let (mut messages, mut last, mut in_gap) = (0_u64, Instant::now(), false);
    for line in lines.lines() {
        let line = line.expect("the listener's output");
        if line.contains(r#""lagged":null"#) {
            received.gaps += 1;
            in_gap = true;
        } else if line.contains(r#""payload":"end""#) {
            break;
        } else if line.contains(r#""payload""#) {
            if messages == 0 || in_gap {
                flows.send(()).expect("the test waits");
            }
            if std::mem::take(&mut in_gap) {
                received.silent_for = last.elapsed();
            }
            messages += 1;
            last = Instant::now();
        }
    }
    received
}

#[test]
fn restart_under_load_is_one_gap_for_each_listener() {
    with_user_manager("restart_under_load_is_one_gap_for_each_listener", |home| {
        home.install();
        let (flows, flowing) = channel();
        let mut listeners = Vec::new();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut child =
                    home.command("broadcasterd", &["listen", "load", "--json"]).spawn().expect("a listener");
                let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
                let mut line = String::new();
                stderr.read_line(&mut line).expect("its diagnostics");
                assert!(line.starts_with("listening on"), "{line}");
                let (lines, flows) = (BufReader::new(child.stdout.take().expect("a pipe")), flows.clone());
                listeners.push((child, stderr));
                std::thread::spawn(move || receive(lines, &flows))
            })
            .collect();
        let old = home.expect_service_alone();
        let done = Arc::new(AtomicBool::new(false));
        let sender = {
            let done = done.clone();
            std::thread::spawn(move || {
                let mut sender = system_broadcaster::Sender::create("load").expect("the daemon is there");
                let mut sent = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    sender.feed(b"sixty-four bytes or so, again and again, as fast as it can be").expect("fed");
                    sent += 1;
                }
                sender.send(b"end").expect("sent");
                sent
            })
        };
        for _ in 0..3 {
            flowing.recv_timeout(HUNG_AFTER).expect("messages flow");
        }
        let since = Instant::now();
        let output = home.broadcasterd(&["restart"]).ok();
        let took = since.elapsed();
        assert_eq!(output, "restarted broadcasterd.service\n");
        for _ in 0..3 {
            flowing.recv_timeout(HUNG_AFTER).expect("messages flow again");
        }
        let back = since.elapsed();
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender ends");
        let received: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("the reader ends")).collect();
        for (mut child, _) in listeners {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
        assert_eq!(received.iter().map(|received| received.gaps).collect::<Vec<_>>(), [1, 1, 1], "one gap each");
        assert_ne!(home.expect_service_alone(), old);
        let silent: Vec<_> = received.iter().map(|received| received.silent_for).collect();
        print_always(&format!(
            "measured: a restart under load took {took:?}; all listeners were back after {back:?}, and received \
             nothing for {silent:?}; {sent} messages sent"
        ));
    });
}

#[test]
fn restart_without_a_service_restarts_the_daemon() {
    with_user_manager("restart_without_a_service_restarts_the_daemon", |home| {
        home.broadcasterd(&["restart"]).ends(4);
        let mut listener = home.listener("news");
        let old = home.status_pid();
        let stopped = Watched::new(old);
        home.broadcasterd(&["restart"]).ok();
        stopped.wait_for_end();
        assert_eq!(listener.line(), r#"{"channel":"news","lagged":null}"#);
        let new = home.status_pid();
        assert_ne!(new, old);
        assert_eq!((daemons(), home.main_pid()), (vec![new], 0));
    });
}

#[test]
fn restart_of_another_bus_leaves_the_service_alone() {
    with_user_manager("restart_of_another_bus_leaves_the_service_alone", |home| {
        home.install();
        home.send("x");
        let service = home.expect_service_alone();
        let other = home.home.join("other/bus.sock");
        let other = other.to_str().expect("text");
        home.broadcasterd(&["restart", "--socket", other]).ends(4);
        home.broadcasterd(&["start", "--socket", other]).ok();
        home.broadcasterd(&["restart", "--socket", other]).ok();
        assert_eq!(home.main_pid(), service);
        home.broadcasterd(&["stop", "--socket", other]).ok();
    });
}

#[test]
fn units_of_a_package_are_used_unchanged() {
    as_root_beside_the_user("units_of_a_package_are_used_unchanged", |home| {
        // The directory for all users, replaced in these namespaces only.
        let directory = Path::new("/etc/systemd/user");
        Ran::new(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "none"]).arg(directory)).ends(0);
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        for unit in [SOCKET_UNIT, SERVICE_UNIT] {
            let text = std::fs::read_to_string(packaging.join(unit)).expect("packaged");
            let program = home.home.join("bin/broadcasterd");
            let text = text.replace("/usr/bin/broadcasterd", program.to_str().expect("text"));
            std::fs::write(directory.join(unit), text).expect("written");
        }
        home.systemctl(&["daemon-reload"]).ok();
        let packaged = files(directory);
        let output = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&output, "/etc/systemd/user already contains the units of this program"), "{output}");
        assert_eq!(files(&home.units()), [home.units().join("sockets.target.wants/broadcasterd.socket")]);
        home.send("x");
        home.expect_service_alone();
        home.broadcasterd(&["uninstall"]).ok();
        assert_eq!((files(&home.units()), files(directory), daemons()), (Vec::new(), packaged, Vec::new()));
        assert!(!home.socket().exists());

        // As a package does that enables it for all users.
        Ran::new(Command::new("systemctl").args(["--global", "--quiet", "enable", SOCKET_UNIT])).ends(0);
        home.systemctl(&["daemon-reload"]).ok();
        let output = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&output, "broadcasterd.socket is already enabled"), "{output}");
        let output = home.broadcasterd(&["uninstall"]).ok();
        assert!(output.contains("mask --now") && output.lines().count() == 1, "{output}");
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "active", "uninstall must not stop it");
    });
}

#[test]
fn another_user_sees_nothing() {
    as_root_beside_the_user("another_user_sees_nothing", |home| {
        home.install();
        home.send("x");
        let places = ["", "bus.sock", "stats.sock"].map(|name| home.runtime.join("broadcaster").join(name));
        for (place, mode) in places.iter().zip([0o700, 0o600, 0o600]) {
            let is = std::fs::metadata(place).expect("root can read it").permissions().mode();
            assert_eq!(is & 0o7777, mode, "{}", place.display());
        }
        // A copy for the other user, in a file system of these namespaces.
        let program = Path::new("/run/broadcasterd");
        std::fs::copy(home.home.join("bin/broadcasterd"), program).expect("copied");
        let own = Path::new("/run/stranger");
        std::fs::create_dir(own).expect("made");
        std::os::unix::fs::chown(own, Some(home.uid() + 1), Some(home.uid() + 1)).expect("given away");
        let stranger = |program: &Path, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.uid(home.uid() + 1).gid(home.uid() + 1).current_dir("/").args(arguments).stdin(Stdio::null());
            Ran::new(command.env("HOME", own).env("XDG_RUNTIME_DIR", "/nonexistent"))
        };
        for place in &places {
            let place = place.to_str().expect("text");
            let refused = stranger(Path::new("/usr/bin/stat"), &[place]).ends(1);
            assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
            if place.ends_with(".sock") {
                let refused = stranger(program, &["status", "--socket", place]);
                assert!(refused.code != Some(0) && refused.stdout.is_empty(), "{}", refused.stdout);
            }
        }
        let refused = stranger(program, &["status"]).ends(4);
        assert!(refused.stderr.contains("no broadcaster daemon"), "{}", refused.stderr);
        let sockets = std::fs::read_to_string("/proc/net/unix").expect("the list of sockets");
        let sockets_of_bus: Vec<&str> = sockets.lines().filter(|line| line.contains("broadcast")).collect();
        assert!(sockets_of_bus.iter().any(|line| line.ends_with(&*home.socket().to_string_lossy())), "{sockets}");
        assert!(!sockets_of_bus.iter().any(|line| line.contains('@')), "no abstract name: {sockets_of_bus:?}");
    });
}

/// Needs no manager and no root: only the command is tested.
#[test]
fn without_a_user_manager_nothing_is_written_and_the_remedy_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = |path: &str, command: &str| {
        let argument = command;
        let mut command = Command::new(program());
        command.arg(argument);
        command.env("HOME", directory.path()).env("XDG_CONFIG_HOME", directory.path().join("config"));
        command.env("XDG_RUNTIME_DIR", directory.path()).env("PATH", path);
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("BROADCASTER_SOCKET");
        Ran::new(command.stdin(Stdio::null())).ends(1)
    };
    for path in ["/nonexistent", &std::env::var("PATH").expect("PATH")] {
        for command in ["install", "uninstall"] {
            let failed = run(path, command);
            assert!(failed.stderr.contains("loginctl enable-linger"), "{}", failed.stderr);
            assert_eq!(failed.stderr.lines().filter(|line| !line.contains("warning")).count(), 1, "{}", failed.stderr);
            assert_eq!(failed.stdout, "");
            assert_eq!(files(directory.path()), [""; 0].map(PathBuf::from));
        }
    }
}
