//! The daemon as a service of a real `systemd --user`. Each fact runs a second time inside `tests/user-manager`, as a user who exists
//! for it alone: no test touches a bus, a service or a file of the user who runs it.
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

/// Set for the run inside.
const INSIDE: &str = "TEST_INSIDE";

/// Set where it must run, so that a test that can not is a failure.
const MUST_RUN: &str = "BUS_SYSTEMD_TESTS_MUST_RUN";

/// What `tests/user-manager` ends with where it can not run.
const CAN_NOT_RUN: i32 = 125;

/// How long a run inside may take before it is taken for hung.
const HUNG_AFTER: Duration = Duration::from_secs(180);

const SOCKET_UNIT: &str = "broadcasterd.socket";
const SERVICE_UNIT: &str = "broadcasterd.service";

/// A line that is seen whether or not the test fails.
fn loudly(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs `facts`, which are those of the test called `name`, as a user with a manager.
fn with_user_manager(name: &str, facts: fn(&Home)) {
    run_inside(name, &[], facts);
}

/// The same, run by root beside that user.
fn as_root_beside_the_user(name: &str, facts: fn(&Home)) {
    run_inside(name, &["--root"], facts);
}

fn run_inside(name: &str, options: &[&str], facts: fn(&Home)) {
    if std::env::var_os(INSIDE).is_some() {
        std::thread::spawn(|| {
            std::thread::sleep(HUNG_AFTER);
            loudly("a test under systemd hangs");
            std::process::abort();
        });
        return facts(&Home::new());
    }
    let test = std::env::current_exe().expect("a test is a program");
    // Whatever ends this test ends the user's manager and all that it runs.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("user-manager")).args(options);
    command.arg("--copy").arg(program()).arg("--copy").arg(&test);
    command.arg(test.file_name().expect("a name")).args(["--exact", name, "--nocapture", "--test-threads=1"]);
    let output = command.env(INSIDE, "1").stdin(Stdio::null()).output();
    let (code, said, why) = match &output {
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), why)
        }
        Err(error) => (Some(CAN_NOT_RUN), String::new(), format!("setpriv: {error}")),
    };
    if code == Some(CAN_NOT_RUN) {
        let must_run = std::env::var_os(MUST_RUN).is_some_and(|value| !value.is_empty());
        assert!(!must_run, "{MUST_RUN} is set, and {name} can not run: {why}");
        return loudly(&format!("SKIPPED: {name}: {}", why.trim()));
    }
    assert!(code == Some(0), "{name} fails inside ({code:?}):\n{said}\n{why}");
    assert!(said.contains("1 passed"), "{name} is the test that ran: {said}");
    why.lines().filter(|line| line.starts_with("measured: ")).for_each(loudly);
}

/// The user's places.
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

    /// A command of the user's, also if root asks.
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

    /// Settings on top of those of the service.
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

    /// The process that the daemon says it is.
    fn status_pid(&self) -> u32 {
        let status: serde_json::Value =
            serde_json::from_str(&self.broadcasterd(&["status", "--json"]).ok()).expect("one JSON object");
        status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process id")
    }

    /// That one daemon serves, and that it is the service's.
    fn expect_service_alone(&self) -> u32 {
        assert_eq!(self.systemctl(&["is-active", SERVICE_UNIT]).ok().trim(), "active");
        let pid = self.main_pid();
        assert_eq!(self.status_pid(), pid, "the service serves");
        assert_eq!(daemons(), [pid], "nobody else does");
        pid
    }

    /// A listener that has joined.
    fn listener(&self, channel: &str) -> Process {
        let mut listener = Process::spawn(&mut self.command("broadcasterd", &["listen", channel, "--json"]));
        listener.expect_error_line("listening on");
        listener
    }
}

/// What a command did.
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

/// Somebody else's child, whose end can be waited for.
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
fn dry_run_says_what_it_would_do_and_does_nothing() {
    with_user_manager("dry_run_says_what_it_would_do_and_does_nothing", |home| {
        let said = home.broadcasterd(&["install", "--now", "--dry-run"]).ok();
        for line in ["would write /", "would reload", "would enable", "would start"] {
            assert!(has_line(&said, line), "{line}: {said}");
        }
        assert_eq!(files(&home.units()), [""; 0].map(PathBuf::from));
        assert_eq!(home.property(SOCKET_UNIT, "LoadState"), "not-found");
        home.install();
        let before = files(&home.units());
        let said = home.broadcasterd(&["uninstall", "--dry-run"]).ok();
        for line in ["would disable", "would stop", "would remove /", "would reload"] {
            assert!(has_line(&said, line), "{line}: {said}");
        }
        assert_eq!(files(&home.units()), before);
        assert_eq!(home.systemctl(&["is-active", SOCKET_UNIT]).ok().trim(), "active");
    });
}

#[test]
fn install_says_each_step_and_a_second_time_changes_nothing() {
    with_user_manager("install_says_each_step_and_a_second_time_changes_nothing", |home| {
        let said = home.broadcasterd(&["install"]).ok();
        let units = home.units();
        for unit in [SOCKET_UNIT, SERVICE_UNIT] {
            assert!(has_line(&said, &format!("wrote {}", units.join(unit).display())), "{said}");
            let mode = std::fs::metadata(units.join(unit)).expect("written").permissions().mode();
            assert_eq!(mode & 0o7777, 0o644);
        }
        assert!(has_line(&said, "reloaded") && has_line(&said, "enabled broadcasterd.socket"), "{said}");
        assert!(has_line(&said, "until then nothing changes"), "{said}");
        assert!(!home.socket().exists(), "it starts at the next login");
        let identities = |files: &[PathBuf]| {
            files.iter().map(|file| std::fs::symlink_metadata(file).expect("there").ino()).collect::<Vec<_>>()
        };
        let (before, numbers) = (files(&units), identities(&files(&units)));
        assert_eq!(before.len(), 3, "two units and the link that enables: {before:?}");

        let said = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&said, "started broadcasterd.socket"), "{said}");
        let said = home.broadcasterd(&["install", "--now"]).ok();
        assert!(said.lines().all(|line| line.contains("already")) && said.lines().count() == 4, "{said}");
        assert_eq!((files(&units), identities(&files(&units))), (before, numbers), "no file was touched");
        assert_eq!(home.systemctl(&["is-enabled", SOCKET_UNIT]).ok().trim(), "enabled");
        assert_eq!(daemons(), [0; 0], "nobody has used the bus yet");
    });
}

#[test]
fn units_verify_clean() {
    with_user_manager("units_verify_clean", |home| {
        home.install();
        let units = [SOCKET_UNIT, SERVICE_UNIT].map(|unit| home.units().join(unit));
        // The page of the manual belongs to the package.
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
fn a_look_does_not_start_the_service() {
    with_user_manager("a_look_does_not_start_the_service", |home| {
        home.install();
        let looks = ["status", "stats", "channels", "peers", "monitor", "restart", "stop"];
        for look in looks.map(|look| [look]) {
            home.broadcasterd(&look).ends(4);
            assert_eq!(daemons(), [0; 0], "{look:?}");
            assert_eq!(home.property(SERVICE_UNIT, "ActiveState"), "inactive", "{look:?}");
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
        // A login starts this target, and with it what is enabled.
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
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "0", "an idle end is no failure");
    });
}

#[test]
fn daemon_needs_no_system_call_that_the_service_refuses() {
    with_user_manager("daemon_needs_no_system_call_that_the_service_refuses", |home| {
        home.install();
        // A refused call is an error otherwise, which a daemon may get over.
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
        assert_eq!(home.property(SERVICE_UNIT, "Result"), "success", "the stop needs none either");
    });
}

#[test]
fn service_that_can_not_run_leaves_the_bus_to_daemons_that_start_themselves() {
    with_user_manager("service_that_can_not_run_leaves_the_bus_to_daemons_that_start_themselves", |home| {
        home.install();
        home.change_service("ExecStart=\nExecStart=/bin/false");
        let since = Instant::now();
        home.send("x");
        loudly(&format!("measured: a send past a service that can not run took {:?}", since.elapsed()));
        let pid = home.status_pid();
        assert_eq!((daemons(), home.main_pid()), (vec![pid], 0));
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "failed");
        home.broadcasterd(&["uninstall"]).ok();
        assert_eq!(
            home.systemctl(&["list-units", "--all", "--quiet", "broadcasterd.*"]).ok(),
            "",
            "nothing is left of the failure"
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
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "0", "a stop is no failure");
    });
}

#[test]
fn uninstall_leaves_nothing_and_programs_start_their_daemon_again() {
    with_user_manager("uninstall_leaves_nothing_and_programs_start_their_daemon_again", |home| {
        for round in 0..2 {
            home.install();
            home.send("by the service");
            let pid = home.expect_service_alone();
            let said = home.broadcasterd(&["uninstall"]).ok();
            assert!(has_line(&said, &format!("with it goes process {pid}")), "{said}");
            for line in ["disabled", "stopped", "removed /", "reloaded"] {
                assert!(has_line(&said, line), "{line}: {said}");
            }
            assert_eq!(files(&home.units()), [""; 0].map(PathBuf::from));
            assert!(!home.socket().exists());
            assert_eq!(daemons(), [0; 0]);
            assert_eq!(home.property(SOCKET_UNIT, "LoadState"), "not-found");
            let said = home.broadcasterd(&["uninstall"]).ok();
            assert_eq!(said, "it is not installed: nothing to take back\n", "round {round}");
            home.send("by a daemon that started itself");
            let own = home.status_pid();
            assert_eq!((daemons(), home.main_pid()), (vec![own], 0));
        }
    });
}

#[test]
fn daemon_that_started_itself_makes_way_and_its_listener_goes_on() {
    with_user_manager("daemon_that_started_itself_makes_way_and_its_listener_goes_on", |home| {
        let mut listener = home.listener("news");
        let old = home.status_pid();
        assert_eq!(daemons(), [old]);
        let makes_way = Watched::new(old);
        let said = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&said, &format!("process {old}, the daemon until now, makes way")), "{said}");
        assert_eq!(listener.line(), r#"{"channel":"news","lagged":null}"#);
        makes_way.wait_for_end();
        home.expect_service_alone();
        home.send("after");
        assert!(listener.line().contains(r#""payload":"after""#), "no second gap, no loss");
    });
}

#[test]
fn somebody_elses_unit_is_neither_replaced_nor_removed() {
    with_user_manager("somebody_elses_unit_is_neither_replaced_nor_removed", |home| {
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
fn works_from_any_directory_and_without_the_variable_of_the_runtime_directory() {
    with_user_manager("works_from_any_directory_and_without_the_variable_of_the_runtime_directory", |home| {
        let odd = home.home.join("a b $HOME 100%n é;#");
        std::fs::create_dir(&odd).expect("a directory");
        let program = odd.join("broadcasterd");
        std::fs::copy(home.home.join("bin/broadcasterd"), &program).expect("copied");
        let mut install = home.command(&program, &["install", "--now"]);
        let installed = Ran::new(install.env_remove("XDG_RUNTIME_DIR")).ends(0);
        assert_eq!(installed.stderr, "", "no warning");
        home.send("x");
        let pid = home.expect_service_alone();
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).expect("our process"), program);

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
fn program_in_a_place_that_is_cleaned_is_warned_of() {
    with_user_manager("program_in_a_place_that_is_cleaned_is_warned_of", |home| {
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
fn daemon_that_hangs_is_ended_by_the_watchdog_and_replaced() {
    with_user_manager("daemon_that_hangs_is_ended_by_the_watchdog_and_replaced", |home| {
        home.install();
        home.change_service("WatchdogSec=1s");
        home.send("before");
        let pid = home.expect_service_alone();
        let hung = Watched::new(pid);
        let since = Instant::now();
        signal(pid, Signal::STOP);
        hung.wait_for_end();
        loudly(&format!("measured: a daemon that hangs was ended after {:?}, with a watchdog of 1 s", since.elapsed()));
        home.send("after");
        assert_ne!(home.expect_service_alone(), pid);
        assert_eq!(home.property(SERVICE_UNIT, "NRestarts"), "1");
    });
}

/// What a listener under load saw.
struct Heard {
    gaps: usize,
    /// From the last message before the gap to the first one after it.
    silent_for: Duration,
}

/// Reads a listener to the message `end`. Tells once when messages flow, and once when they flow again after a gap.
fn hear(lines: impl BufRead, flows: &std::sync::mpsc::Sender<()>) -> Heard {
    let mut heard = Heard { gaps: 0, silent_for: Duration::ZERO };
    let (mut messages, mut last, mut in_gap) = (0_u64, Instant::now(), false);
    for line in lines.lines() {
        let line = line.expect("the listener's output");
        if line.contains(r#""lagged":null"#) {
            heard.gaps += 1;
            in_gap = true;
        } else if line.contains(r#""payload":"end""#) {
            break;
        } else if line.contains(r#""payload""#) {
            if messages == 0 || in_gap {
                flows.send(()).expect("the test waits");
            }
            if std::mem::take(&mut in_gap) {
                heard.silent_for = last.elapsed();
            }
            messages += 1;
            last = Instant::now();
        }
    }
    heard
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
                std::thread::spawn(move || hear(lines, &flows))
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
        let said = home.broadcasterd(&["restart"]).ok();
        let took = since.elapsed();
        assert_eq!(said, "restarted broadcasterd.service\n");
        for _ in 0..3 {
            flowing.recv_timeout(HUNG_AFTER).expect("messages flow again");
        }
        let back = since.elapsed();
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender ends");
        let heard: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("the reader ends")).collect();
        for (mut child, _) in listeners {
            child.kill().expect("ours");
            child.wait().expect("ours");
        }
        assert_eq!(heard.iter().map(|heard| heard.gaps).collect::<Vec<_>>(), [1, 1, 1], "one gap each");
        assert_ne!(home.expect_service_alone(), old);
        let silent: Vec<_> = heard.iter().map(|heard| heard.silent_for).collect();
        loudly(&format!(
            "measured: a restart under load took {took:?}; all listeners were back {back:?} after it was asked for, and heard \
             nothing for {silent:?}; {sent} messages sent"
        ));
    });
}

#[test]
fn restart_without_a_service_starts_the_daemon_again() {
    with_user_manager("restart_without_a_service_starts_the_daemon_again", |home| {
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
fn units_of_a_package_are_used_as_they_are() {
    as_root_beside_the_user("units_of_a_package_are_used_as_they_are", |home| {
        // A directory for all users, as it is in these namespaces only.
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
        let said = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&said, "/etc/systemd/user has the units of this program already"), "{said}");
        assert_eq!(files(&home.units()), [home.units().join("sockets.target.wants/broadcasterd.socket")]);
        home.send("x");
        home.expect_service_alone();
        home.broadcasterd(&["uninstall"]).ok();
        assert_eq!((files(&home.units()), files(directory), daemons()), (Vec::new(), packaged, Vec::new()));
        assert!(!home.socket().exists());

        // As a package does that enables it for everybody.
        Ran::new(Command::new("systemctl").args(["--global", "--quiet", "enable", SOCKET_UNIT])).ends(0);
        home.systemctl(&["daemon-reload"]).ok();
        let said = home.broadcasterd(&["install", "--now"]).ok();
        assert!(has_line(&said, "broadcasterd.socket is enabled already"), "{said}");
        let said = home.broadcasterd(&["uninstall"]).ok();
        assert!(said.contains("mask --now") && said.lines().count() == 1, "{said}");
        assert_eq!(home.property(SOCKET_UNIT, "ActiveState"), "active", "it is not ours to stop");
    });
}

#[test]
fn another_user_sees_nothing() {
    as_root_beside_the_user("another_user_sees_nothing", |home| {
        home.install();
        home.send("x");
        let places = ["", "bus.sock", "stats.sock"].map(|name| home.runtime.join("broadcaster").join(name));
        for (place, mode) in places.iter().zip([0o700, 0o600, 0o600]) {
            let is = std::fs::metadata(place).expect("it is there to be seen").permissions().mode();
            assert_eq!(is & 0o7777, mode, "{}", place.display());
        }
        // The stranger's own copy, in a file system of these namespaces.
        let program = Path::new("/run/broadcasterd");
        std::fs::copy(home.home.join("bin/broadcasterd"), program).expect("copied");
        let stranger = |program: &Path, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.uid(home.uid() + 1).gid(home.uid() + 1).current_dir("/").args(arguments).stdin(Stdio::null());
            Ran::new(command.env("HOME", "/nonexistent").env("XDG_RUNTIME_DIR", "/nonexistent"))
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
        let nobody = stranger(program, &["status"]).ends(4);
        assert!(nobody.stderr.contains("no broadcaster daemon"), "{}", nobody.stderr);
        let sockets = std::fs::read_to_string("/proc/net/unix").expect("the list of sockets");
        let ours: Vec<&str> = sockets.lines().filter(|line| line.contains("broadcast")).collect();
        assert!(ours.iter().any(|line| line.ends_with(&*home.socket().to_string_lossy())), "{sockets}");
        assert!(!ours.iter().any(|line| line.contains('@')), "no name without a file: {ours:?}");
    });
}

/// Without any manager: no root is needed, and the facts are those of the command alone.
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
