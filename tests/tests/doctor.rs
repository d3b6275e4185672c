//! `broadcasterd doctor` with real daemons, signals and tools that hang. It must start nothing.

#![cfg(unix)]

use broadcaster_protocol::endpoint::{Env, candidates};
use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use system_broadcaster::ConnectError;

/// Time limit of a run, whatever hangs.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The output of one run.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    /// Examines the bus without the tools of this machine.
    fn of(bus: &Bus) -> Self {
        Self::with(bus, |command| command.env("PATH", "/nonexistent"))
    }

    fn with(bus: &Bus, change: impl Fn(&mut std::process::Command) -> &mut std::process::Command) -> Self {
        let mut command = bus.command(program(), &["doctor", "--json"]);
        change(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let began = Instant::now();
        let output = command.output().expect("broadcasterd runs");
        assert!(began.elapsed() < TIME_LIMIT, "the run took {:?}", began.elapsed());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let json = serde_json::from_slice(&output.stdout).expect("JSON");
        Self { code: output.status.code(), json }
    }

    /// Asserts a finding of this check and level whose text and remedy contain all the words.
    #[track_caller]
    fn assert_finds(&self, check: &str, level: &str, words: &[&str]) {
        let findings = self.json["findings"].as_array().expect("a list");
        let matches = |finding: &&Value| {
            let text = format!("{} {}", finding["finding"], finding["remedy"]);
            finding["check"] == check && finding["level"] == level && words.iter().all(|word| text.contains(word))
        };
        assert!(
            findings.iter().any(|finding| matches(&finding)),
            "no {level} of {check} with {words:?} in {:#}",
            self.json
        );
    }

    #[track_caller]
    fn assert_fails(&self, check: &str, words: &[&str]) {
        self.assert_finds(check, "error", words);
        assert_eq!(self.code, Some(1));
        let verdict = self.json["verdict"].as_str().expect("a sentence");
        assert!(verdict.contains(&format!("{check}: ")), "{verdict}");
    }
}

/// A program in a directory of its own.
fn tool(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).expect("made");
    let path = directory.join(name);
    // Written by another process: a file that this one has open for writing cannot be executed.
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(&path)
        .arg(format!("#!/bin/sh\n{script}\n"))
        .status();
    assert!(written.expect("a shell runs").success());
}

#[test]
fn healthy_daemon_is_reported() {
    let bus = Bus::new();
    let daemon = bus.start();
    let report = Report::of(&bus);
    let process = format!("process {}", daemon.pid());
    report.assert_finds("lock", "ok", &[&process, "broadcasterd"]);
    report.assert_finds("daemon", "ok", &[&process, "answers", env!("CARGO_PKG_VERSION")]);
    report.assert_finds("socket", "ok", &[bus.socket().to_str().expect("text"), "BROADCASTER_SOCKET"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert_eq!(report.json["verdict"], format!("The bus works: {process} serves it."));
}

#[test]
fn text_in_a_pipe_has_no_colours() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let output = bus.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("ok    socket  ") && text.contains("\nok    daemon  "), "{text}");
    assert!(!text.contains('\x1b') && output.status.success(), "{text}");
}

#[test]
fn shared_memory_is_reported_with_its_variable() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let with = |value: &str| {
        Report::with(&bus, |command| command.env("PATH", "/nonexistent").env("BROADCASTER_SHARED_MEMORY", value))
    };
    match broadcaster_local::shared_memory_problem() {
        None => Report::of(&bus).assert_finds("memory", "ok", &["can be made"]),
        Some(problem) => Report::of(&bus).assert_finds("memory", "note", &["cannot be made", &problem]),
    }
    let off = with("0");
    off.assert_finds("memory", "note", &["BROADCASTER_SHARED_MEMORY is 0", "unset"]);
    assert_eq!(off.code, Some(0), "{:#}", off.json);
    let invalid = with("off");
    invalid.assert_fails("memory", &["must be 0 or 1", "unset BROADCASTER_SHARED_MEMORY"]);
    // The daemon is not at fault.
    invalid.assert_finds("daemon", "error", &["unset BROADCASTER_SHARED_MEMORY"]);
}

#[test]
fn missing_daemon_is_noted_and_none_is_started() {
    let bus = Bus::new();
    let report = Report::of(&bus);
    report.assert_finds("daemon", "note", &["not running", "the first client"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert!(matches!(bus.options().daemon().status(), Err(ConnectError::NotRunning { .. })));
    assert_eq!(fs::read_dir(bus.directory()).expect("there").count(), 0, "the run left a file behind");
}

#[test]
fn stopped_daemon_is_reported_with_the_remedy() {
    let bus = Bus::new();
    let daemon = bus.start();
    daemon.signal(Signal::STOP);
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    waitpid(pid, WaitOptions::UNTRACED).expect("a child").expect("stopped");
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
    assert!(bus.socket().exists(), "the run removed the socket");
}

#[test]
fn obstacles_to_starting_a_daemon_are_reported() {
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
fn directory_of_another_user_is_reported() {
    let bus = Bus::new();
    let foreign = bus.directory().join("foreign");
    fs::create_dir(&foreign).expect("made");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can create a directory of another owner");
        return;
    }
    std::os::unix::fs::chown(&foreign, Some(65534), None).expect("given away");
    let report = Report::with(&bus, |command| command.env("BROADCASTER_SOCKET", foreign.join("bus.sock")));
    report.assert_fails("directory", &["belongs to uid 65534", "not to uid 0"]);
}

#[test]
fn two_daemons_of_one_user_are_both_listed() {
    let bus = Bus::new();
    let (runtime, state) = (bus.directory().join("run"), bus.directory().join("state"));
    fs::create_dir(&runtime).expect("made");
    let places = candidates(&Env {
        xdg_runtime_dir: Some(runtime.clone()),
        state_dir: Some(state.join("broadcaster")),
        machine_id: broadcaster_local::machine_id(),
        path_bytes_max: 107,
        ..Env::default()
    });
    let places = places.expect("two places");
    let at = |place: usize| {
        let socket = &places[place].socket;
        let arguments = ["run", "--log", "warn", "--socket", socket.to_str().expect("text")];
        let mut daemon = Process::spawn(&mut bus.command(program(), &arguments));
        assert!(daemon.line().starts_with("listening on"));
        daemon
    };
    let daemons = [at(0), at(1)];
    let report = Report::with(&bus, |command| {
        let command = command.env_remove("BROADCASTER_SOCKET").env("PATH", "/nonexistent");
        command.env("XDG_RUNTIME_DIR", &runtime).env("XDG_STATE_HOME", &state).env("HOME", bus.directory())
    });
    let [one, two] = daemons.each_ref().map(|daemon| format!("process {} ", daemon.pid()));
    report.assert_fails("duplicates", &[&one, &two, "stop"]);
}

#[test]
fn hanging_tools_do_not_delay_the_report() {
    let bus = Bus::new();
    let tools = bus.directory().join("tools");
    tool(&tools, "systemctl", "kill -STOP $$");
    tool(&tools, "broadcasterd", "kill -STOP $$");
    let report = Report::with(&bus, |command| command.env("PATH", &tools));
    report.assert_finds("service", "note", &["no answer within"]);
    report.assert_finds("program", "warning", &["tools/broadcasterd (unknown version)"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
}

#[test]
fn other_versions_and_unusable_programs_are_reported() {
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
fn socket_of_the_service_manager_is_not_connected_to() {
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
    report.assert_finds("daemon", "ok", &["starts it on the first connection"]);
    report.assert_finds("file", "ok", &["service manager"]);
    report.assert_finds("service", "ok", &["broadcasterd.socket active (enabled)"]);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert_eq!(listener.accept().expect_err("no connection").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn lock_that_is_not_a_regular_file_is_reported() {
    let bus = Bus::new();
    let lock = bus.directory().join("bus.lock");
    // Not every system has a call for this in `rustix`.
    assert!(std::process::Command::new("mkfifo").arg(&lock).status().expect("it runs").success());
    Report::of(&bus).assert_fails("lock", &["bus.lock is a FIFO, not a regular file", "rm "]);
    fs::remove_file(&lock).expect("removed");
    fs::create_dir(&lock).expect("a directory");
    Report::of(&bus).assert_fails("lock", &["bus.lock is a directory"]);
}

#[test]
fn daemon_at_its_connection_limit_is_not_blamed() {
    let bus = Bus::new();
    let config = bus.config_home().join("broadcaster");
    fs::create_dir_all(&config).expect("made");
    fs::write(config.join("broadcasterd.toml"), "[limits]\nconnections_max = 4\n").expect("written");
    let daemon = bus.start();
    let open = || bus.options().sender("news").expect("a connection");
    let _senders = [open(), open(), open(), open()];
    let report = Report::of(&bus);
    let (test, daemon) = (std::process::id(), format!("process {}", daemon.pid()));
    report.assert_fails(
        "connections",
        &["4 connections, which is the limit", &format!("process {test} (doctor"), "holds 4", "connections_max"],
    );
    report.assert_finds("daemon", "ok", &[&daemon]);
}

#[test]
fn daemon_without_free_descriptors_is_not_blamed() {
    const DESCRIPTORS: usize = 60;
    let bus = Bus::new();
    let limited = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" run --log error");
    let mut daemon = bus.command("/bin/sh", &["-c", &limited, program().to_str().expect("text")]);
    let mut daemon = Process::spawn(&mut daemon);
    assert!(daemon.line().starts_with("listening on"));
    // Connected in the kernel's queue, whether or not the daemon has a descriptor left to accept them.
    let _connections: Vec<_> =
        (0..DESCRIPTORS).map(|_| UnixStream::connect(bus.socket()).expect("connected")).collect();
    let report = Report::of(&bus);
    report.assert_fails("connections", &["the limit", &format!("process {}", daemon.pid()), "LimitNOFILE"]);
    report.assert_finds("daemon", "ok", &[&format!("process {}", daemon.pid())]);
}
