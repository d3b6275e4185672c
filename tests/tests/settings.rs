//! Settings and log of real daemons, each with its own bus and config directory.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The config file of the user of this bus.
fn config_file(bus: &Bus) -> PathBuf {
    bus.config_home().join("broadcaster").join("broadcasterd.toml")
}

fn write_config(bus: &Bus, text: &str) -> PathBuf {
    let path = config_file(bus);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(&path, text).expect("written");
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(command: &mut Command) -> serde_json::Value {
    let output = command.output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).expect("one object")
}

fn daemon(command: &mut Command) -> Process {
    let mut daemon = Process::spawn(command);
    let line = daemon.line();
    assert!(line.starts_with("listening on"), "the first line is {line:?}");
    daemon
}

/// Messages pass, connections come and go, and the daemon stops on request.
fn serves_and_stops(bus: &Bus, daemon: &mut Process) {
    serves(bus);
    bus.options().daemon().stop().expect("it stops");
    assert_eq!(daemon.wait(), Some(0));
}

fn serves(bus: &Bus) {
    for round in 0..20_u8 {
        let mut listener = bus.options().listener("news").expect("joined");
        bus.options().sender("news").expect("opened").send(&[round]).expect("sent");
        assert_eq!(listener.recv_timeout(Duration::from_secs(20)).expect("received").payload(), [round]);
    }
}

#[test]
fn settings_show_their_origin() {
    let bus = Bus::new();
    let path = config_file(&bus).display().to_string();
    assert_eq!(text(&bus.run(&["config", "path"]).stdout).trim_end(), path);

    let unset = show(&mut bus.command(program(), &["config", "show", "--json"]));
    assert_eq!((&unset["file"], &unset["exists"]), (&path.clone().into(), &false.into()));
    let defaults = serde_json::json!({ "foreground": "never", "on_demand": "1m", "activated": "10m" });
    assert_eq!(unset["idle_exit"]["defaults"], defaults);
    assert_eq!(unset["limits"]["channels_max"], serde_json::json!({ "value": 65_536, "origin": "default" }));
    let table = text(&bus.run(&["config", "show"]).stdout);
    assert!(table.starts_with(&format!("config file {path} (does not exist)\n")), "{table}");
    assert!(table.contains("never in the foreground, 1m when started on demand, 10m when activated"), "{table}");

    write_config(&bus, "log = \"error\"\nidle_exit = \"3h\"\n[limits]\noutbox_bytes_max = \"1 MiB\"\n");
    let mut command = bus.command(program(), &["config", "show", "--json"]);
    let set = show(command.env("BROADCASTERD_LOG", "debug"));
    assert_eq!(set["exists"], true);
    let by_variable = serde_json::json!({ "value": "debug", "origin": "environment", "variable": "BROADCASTERD_LOG" });
    assert_eq!(set["log"], by_variable);
    assert_eq!(set["idle_exit"], serde_json::json!({ "value": "3h", "origin": "file", "line": 2 }));
    let by_file = serde_json::json!({ "value": 1_048_576, "origin": "file", "line": 4 });
    assert_eq!(set["limits"]["outbox_bytes_max"], by_file);
    let table = text(&bus.run(&["config", "show"]).stdout);
    assert!(table.lines().any(|line| line.contains("limits.outbox_bytes_max") && line.ends_with("toml:4")), "{table}");

    assert_eq!(bus.run(&["config", "check"]).status.code(), Some(0));
}

#[test]
fn invalid_config_file_is_one_sentence_and_no_daemon_starts() {
    let bus = Bus::new();
    let path = write_config(&bus, "[limits]\n\nconnections_max = 0\n").display().to_string();
    let sentence = format!("broadcasterd: {path}:3:19: connections_max = 0 is out of range; use 4 to 1000000\n");
    for arguments in [["run"].as_slice(), &["config", "check"], &["config", "check", &path], &["config", "show"]] {
        let output = bus.run(arguments);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(2), sentence.clone()), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let start = bus.run(&["start"]);
    assert_eq!(start.status.code(), Some(2));
    assert!(text(&start.stderr).starts_with(&sentence), "{}", text(&start.stderr));
    // Another file may be valid, and a file that is named must exist.
    assert_eq!(bus.run(&["config", "check", "--config", "/dev/null"]).status.code(), Some(0));
    let missing = bus.directory().join("none.toml").display().to_string();
    let by_flag = bus.run(&["run", "--config", &missing]);
    let by_variable =
        bus.command(program(), &["run"]).env("BROADCASTERD_CONFIG", &missing).stderr(Stdio::piped()).output();
    for (named_by, output) in [("--config", by_flag), ("BROADCASTERD_CONFIG", by_variable.expect("runs"))] {
        let wanted = format!(
            "broadcasterd: there is no config file {missing}, which {named_by} names; create it, or omit {named_by}\n"
        );
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(2), wanted));
    }
    assert_eq!(bus.run(&["status"]).status.code(), Some(4), "no daemon runs");
}

#[test]
fn invalid_flag_or_variable_is_reported() {
    let bus = Bus::new();
    let check = |output: Output, wanted: &str| {
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(wanted), "{}", text(&output.stderr));
    };
    check(bus.run(&["run", "--log", "inof"]), "\"inof\" is not a log level");
    check(bus.run(&["run", "--idle-exit", "soon"]), "\"soon\" is not a time");
    let mut command = bus.command(program(), &["start"]);
    command.env("BROADCASTERD_IDLE_EXIT", "soon").stderr(Stdio::piped());
    check(command.output().expect("runs"), "the variable BROADCASTERD_IDLE_EXIT is invalid: \"soon\" is not a time");
}

#[test]
fn limits_of_the_file_apply_to_the_daemon() {
    let bus = Bus::new();
    write_config(&bus, "[limits]\npayload_bytes_max = 10\nheld_bytes_max = \"2 MiB\"\n");
    let _daemon = bus.start();
    assert_eq!(bus.options().daemon().status().expect("it runs").held_bytes_max, 2 << 20);
    let mut sender = bus.options().sender("news").expect("opened");
    sender.send(&[0; 10]).expect("at the limit");
    let refused = sender.send(&[0; 11]).expect_err("too large").to_string();
    assert!(refused.contains("10"), "{refused}");
}

#[test]
fn idle_exit_of_file_and_variable_reach_a_daemon_started_on_demand() {
    // `broadcasterd start` runs the daemon like this. By default it would stay for a minute.
    for by_variable in [false, true] {
        let bus = Bus::new();
        let mut command = bus.command(program(), &["run", "--detached", "--log", "error"]);
        match by_variable {
            true => drop(command.env("BROADCASTERD_IDLE_EXIT", "20ms")),
            false => drop(write_config(&bus, "idle_exit = \"20ms\"\n")),
        }
        assert_eq!(daemon(&mut command).wait(), Some(0));
    }
    let bus = Bus::new();
    let config = write_config(&bus, "idle_exit = \"never\"\n[limits]\nheld_bytes_max = \"99 MiB\"\n");
    let other = bus.directory().join("other.toml");
    std::fs::rename(config, &other).expect("moved");
    let mut command = bus.command(program(), &["start"]);
    command.env("BROADCASTERD_CONFIG", &other).env("BROADCASTERD_IDLE_EXIT", "1h").stdin(Stdio::null());
    assert!(command.output().expect("runs").status.success());
    let status = bus.options().daemon().status().expect("it runs");
    assert_eq!(status.held_bytes_max, 99 << 20, "the file that the variable names was read");
    let environment = std::fs::read(format!("/proc/{}/environ", status.pid)).expect("open");
    assert!(text(&environment).split('\0').any(|variable| variable == "BROADCASTERD_IDLE_EXIT=1h"));
}

#[test]
fn log_on_a_full_disk_affects_nothing() {
    for level in ["debug", "trace"] {
        let bus = Bus::new();
        let full = File::options().write(true).open("/dev/full").expect("it is there");
        let mut daemon = daemon(bus.command(program(), &["run", "--log", level]).stderr(full));
        serves_and_stops(&bus, &mut daemon);
    }
}

#[test]
fn log_without_a_reader_affects_nothing() {
    let bus = Bus::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut daemon = daemon(bus.command(program(), &["run", "--log", "trace"]).stderr(writer));
    serves_and_stops(&bus, &mut daemon);
}

#[test]
fn closed_stderr_affects_nothing() {
    let bus = Bus::new();
    let shell = "exec \"$0\" run --log trace 2>&-";
    let mut daemon = daemon(&mut bus.command("sh", &["-c", shell, program().to_str().expect("text")]));
    serves_and_stops(&bus, &mut daemon);
}

/// A pipe that is completely full, and the number of bytes in it. Its writer blocks.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Only a non-blocking file can fill it completely.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("small");
    let mut open = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(open.write(true), flags);
    let mut filler = open.open(path).expect("opened again");
    let mut filled = 0;
    while let Ok(bytes) = filler.write(&[b'x'; 4096]) {
        filled += bytes;
    }
    (reader, writer, filled)
}

#[test]
fn unread_log_never_blocks_the_bus() {
    for detached in [false, true] {
        let bus = Bus::new();
        let (reader, writer, _) = full_pipe();
        let shared = writer.try_clone().expect("cloned");
        let mut command = bus.command(program(), &["run", "--log", "trace"]);
        let mut daemon = daemon(command.args(detached.then_some("--detached")).stderr(writer));
        serves_and_stops(&bus, &mut daemon);
        let flags = rustix::fs::fcntl_getfl(&shared).expect("open");
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the mode of the shared pipe is unchanged");
        drop(reader);
    }
}

#[test]
fn lost_lines_of_the_log_are_reported_when_it_is_read_again() {
    let bus = Bus::new();
    let (mut reader, writer, filled) = full_pipe();
    let mut command = bus.command(program(), &["run", "--log", "debug"]);
    let mut daemon = daemon(command.stderr(writer));
    drop(command);
    // Two lines for each of 60 connections, several times what the daemon keeps for a reader.
    (0..10).for_each(|_| serves(&bus));
    let mut filling = vec![0; filled];
    reader.read_exact(&mut filling).expect("the filling");
    assert!(filling.iter().all(|&byte| byte == b'x'), "nothing was written");
    serves_and_stops(&bus, &mut daemon);
    let mut log = String::new();
    reader.read_to_string(&mut log).expect("text");
    let lost = " lines of this log were lost because it was not read in time";
    assert!(log.lines().any(|line| line.starts_with("broadcasterd: ") && line.ends_with(lost)), "{log}");
}

#[test]
fn log_contains_connections_and_never_payloads() {
    let bus = Bus::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let reads = std::thread::spawn(move || {
        let mut log = Vec::new();
        reader.read_to_end(&mut log).map(|_| log).expect("the log can be read")
    });
    let mut command = bus.command(program(), &["run", "--log", "trace"]);
    let mut daemon = daemon(command.stderr(writer));
    drop(command);
    let secret = b"swordfish-0123456789";
    let mut listener = bus.options().listener("news").expect("joined");
    let mut sender = bus.options().sender("news").expect("opened");
    sender.send(secret).expect("sent");
    sender.feed(secret).expect("fed");
    sender.flush().expect("sent");
    for _ in 0..2 {
        assert_eq!(listener.recv_timeout(Duration::from_secs(20)).expect("received").payload(), secret);
    }
    serves_and_stops(&bus, &mut daemon);
    let log = reads.join().expect("read");
    let lines = text(&log);
    assert!(lines.contains("ready") && lines.contains("opened") && lines.contains("closed"), "{lines}");
    let numbers = secret.map(|byte| byte.to_string()).join(", ");
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for form in ["swordfish", &numbers, &hex] {
        assert!(!lines.to_lowercase().contains(form), "{lines}");
    }
}

#[test]
fn nothing_is_logged_at_info_for_connections_and_frames() {
    let bus = Bus::new();
    let mut command = bus.command(program(), &["run"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let mut stderr = child.stderr.take().expect("a pipe");
    let mut ready = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("it is ready");
    serves(&bus);
    bus.options().daemon().stop().expect("it stops");
    let mut log = String::new();
    stderr.read_to_string(&mut log).expect("text");
    child.wait().expect("open");
    assert!(log.contains("ready"), "the log is at info: {log}");
    assert!(log.lines().count() < 5, "a few lines for the daemon, and none for 60 connections: {log}");
}

#[test]
fn without_a_journal_the_log_goes_to_stderr_even_if_a_stream_is_named() {
    if std::path::Path::new("/run/systemd/journal/socket").exists() {
        return; // The test must not write to a real journal.
    }
    let bus = Bus::new();
    let path = bus.directory().join("log");
    let log = File::create(&path).expect("made");
    let stat = rustix::fs::fstat(&log).expect("open");
    let mut command = bus.command(program(), &["run", "--log", "debug"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino)).stderr(log);
    serves_and_stops(&bus, &mut daemon(&mut command));
    assert!(std::fs::read_to_string(path).expect("text").contains("opened"));
}
