//! `broadcasterd doctor` beside real daemons, real signals and tools that hang. It must start nothing.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use system_broadcaster::ConnectError;

/// No look may take longer, whatever hangs.
const FEW_SECONDS: Duration = Duration::from_secs(5);

/// What the doctor said.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    /// Of the bus, without the tools of this machine.
    fn of(bus: &Bus) -> Self {
        Self::with(bus, |command| command.env("PATH", "/nonexistent"))
    }

    fn with(bus: &Bus, change: impl Fn(&mut std::process::Command) -> &mut std::process::Command) -> Self {
        let mut command = bus.command(program(), &["doctor", "--json"]);
        change(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let began = Instant::now();
        let output = command.output().expect("broadcasterd runs");
        assert!(began.elapsed() < FEW_SECONDS, "it took {:?}", began.elapsed());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let json = serde_json::from_slice(&output.stdout).expect("it is JSON");
        Self { code: output.status.code(), json }
    }

    /// A finding of this check at this level that holds all the words, in itself or in its remedy.
    #[track_caller]
    fn assert_finds(&self, check: &str, level: &str, words: &[&str]) {
        let findings = self.json["findings"].as_array().expect("a list");
        let fits = |finding: &&Value| {
            let text = format!("{} {}", finding["finding"], finding["remedy"]);
            finding["check"] == check && finding["level"] == level && words.iter().all(|word| text.contains(word))
        };
        assert!(
            findings.iter().any(|finding| fits(&finding)),
            "no {level} of {check} with {words:?} in {:#}",
            self.json
        );
    }

    #[track_caller]
    fn assert_fails(&self, check: &str, words: &[&str]) {
        self.assert_finds(check, "error", words);
        assert_eq!(self.code, Some(1));
        let verdict = self.json["verdict"].as_str().expect("a sentence");
        assert!(verdict.contains(&format!("the {check}: ")), "{verdict}");
    }
}

/// A program in a directory of its own.
fn tool(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).expect("made");
    let path = directory.join(name);
    // No other thread of this process may hold it open for writing when it is run.
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(&path)
        .arg(format!("#!/bin/sh\n{script}\n"))
        .status();
    assert!(written.expect("a shell runs").success());
}

#[test]
fn healthy_daemon_is_named() {
    let bus = Bus::new();
    let daemon = bus.start();
    let report = Report::of(&bus);
    let process = format!("process {}", daemon.pid());
    report.assert_finds("lock", "ok", &[&process, "broadcasterd"]);
    report.assert_finds("daemon", "ok", &[&process, "answers", env!("CARGO_PKG_VERSION")]);
    report.assert_finds("socket", "ok", &[bus.socket().to_str().expect("text"), "BROADCASTER_SOCKET"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert_eq!(report.json["verdict"], format!("All is well: {process} serves the bus."));
}

#[test]
fn people_get_lines_without_colours_in_a_pipe() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let output = bus.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("ok    socket  ") && text.contains("\nok    daemon  "), "{text}");
    assert!(!text.contains('\x1b') && output.status.success(), "{text}");
}

#[test]
fn no_daemon_is_said_and_none_is_started() {
    let bus = Bus::new();
    let report = Report::of(&bus);
    report.assert_finds("daemon", "note", &["not running", "the first client"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert!(matches!(bus.options().daemon().status(), Err(ConnectError::NotRunning { .. })));
    assert_eq!(fs::read_dir(bus.directory()).expect("there").count(), 0, "it left something behind");
}

#[test]
fn stopped_daemon_is_named_with_the_remedy() {
    let bus = Bus::new();
    let daemon = bus.start();
    daemon.signal(Signal::STOP);
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    waitpid(pid, WaitOptions::UNTRACED).expect("it is our child").expect("it has stopped");
    let report = Report::of(&bus);
    let pid = daemon.pid();
    report.assert_fails("daemon", &[&format!("process {pid}"), "state T", &format!("kill -CONT {pid}")]);
    daemon.signal(Signal::CONT);
    Report::of(&bus).assert_finds("daemon", "ok", &["answers"]);
}

#[test]
fn socket_of_a_killed_daemon_is_stale() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    daemon.signal(Signal::KILL);
    daemon.wait();
    let report = Report::of(&bus);
    report.assert_finds("file", "note", &["stale", "nothing to do"]);
    report.assert_finds("lock", "ok", &["free"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert!(bus.socket().exists(), "it removed the socket");
}

#[test]
fn what_keeps_a_daemon_from_starting_is_named() {
    let bus = Bus::new();
    fs::set_permissions(bus.directory(), Permissions::from_mode(0o777)).expect("ours");
    Report::of(&bus).assert_fails("directory", &["mode 0777", "chmod 0700"]);
    fs::set_permissions(bus.directory(), Permissions::from_mode(0o700)).expect("ours");

    fs::write(bus.socket(), "not a socket").expect("written");
    Report::of(&bus).assert_fails("file", &["a regular file", "move"]);
    fs::remove_file(bus.socket()).expect("removed");

    let foreign = UnixListener::bind(bus.socket()).expect("bound");
    Report::of(&bus).assert_fails("file", &["does not hold the lock"]);
    drop(foreign);

    let long = format!("/{}", "d".repeat(200));
    Report::with(&bus, |command| command.env("BROADCASTER_SOCKET", &long))
        .assert_fails("socket", &["201 bytes", "107"]);
}

#[test]
fn directory_of_another_user_is_named() {
    let bus = Bus::new();
    let foreign = bus.directory().join("foreign");
    fs::create_dir(&foreign).expect("made");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a directory of another owner");
        return;
    }
    std::os::unix::fs::chown(&foreign, Some(65534), None).expect("given away");
    let report = Report::with(&bus, |command| command.env("BROADCASTER_SOCKET", foreign.join("bus.sock")));
    report.assert_fails("directory", &["belongs to uid 65534", "not to uid 0"]);
}

#[test]
fn two_daemons_of_one_user_are_both_named() {
    let bus = Bus::new();
    let (runtime, state) = (bus.directory().join("run"), bus.directory().join("state"));
    fs::create_dir(&runtime).expect("made");
    let at = |directory: &Path| {
        let socket = directory.join("broadcaster/bus.sock");
        let arguments = ["run", "--log", "warn", "--socket", socket.to_str().expect("text")];
        let mut daemon = Process::spawn(&mut bus.command(program(), &arguments));
        assert!(daemon.line().starts_with("listening on"));
        daemon
    };
    let daemons = [at(&runtime), at(&state)];
    let report = Report::with(&bus, |command| {
        let command = command.env_remove("BROADCASTER_SOCKET").env("PATH", "/nonexistent");
        command.env("XDG_RUNTIME_DIR", &runtime).env("XDG_STATE_HOME", &state).env("HOME", bus.directory())
    });
    let [one, two] = daemons.each_ref().map(|daemon| format!("process {} ", daemon.pid()));
    report.assert_fails("twins", &[&one, &two, "stop"]);
}

#[test]
fn tools_that_hang_hold_nothing_up() {
    let bus = Bus::new();
    let tools = bus.directory().join("tools");
    tool(&tools, "systemctl", "kill -STOP $$");
    tool(&tools, "broadcasterd", "kill -STOP $$");
    let report = Report::with(&bus, |command| command.env("PATH", &tools));
    report.assert_finds("service", "note", &["no answer within"]);
    report.assert_finds("program", "warning", &["tools/broadcasterd without a version"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
}

#[test]
fn other_versions_and_useless_programs_are_named() {
    let bus = Bus::new();
    let tools = bus.directory().join("tools");
    tool(&tools, "broadcasterd", "echo broadcasterd 0.0.9");
    let report = Report::with(&bus, |command| command.env("PATH", &tools));
    report.assert_finds("program", "warning", &["tools/broadcasterd 0.0.9"]);
    for useless in ["broadcasterd", "/nonexistent/broadcasterd", "/etc/passwd", "/etc"] {
        let report = Report::with(&bus, |command| command.env("PATH", "/nonexistent").env("BROADCASTERD", useless));
        report.assert_fails("program", &[useless, "clients start no daemon"]);
    }
}

#[test]
fn socket_of_a_service_manager_is_not_connected_to() {
    let bus = Bus::new();
    let tools = bus.directory().join("tools");
    let listener = UnixListener::bind(bus.socket()).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let program = program().display();
    let shown = format!(
        "Id=broadcasterd.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nListen={} (Stream)\n\n\
         Id=broadcasterd.service\nLoadState=loaded\nActiveState=inactive\nExecStart={{ path={program} ; pid=0 }}",
        bus.socket().display()
    );
    tool(&tools, "systemctl", &format!("echo '{shown}'"));
    let report = Report::with(&bus, |command| command.env("PATH", &tools));
    report.assert_finds("daemon", "ok", &["starts it at the first connect"]);
    report.assert_finds("file", "ok", &["service manager"]);
    report.assert_finds("service", "ok", &["broadcasterd.socket active (enabled)"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert_eq!(listener.accept().expect_err("nobody connected").kind(), io::ErrorKind::WouldBlock);
}
