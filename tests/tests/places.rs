//! Where daemons and clients meet: environments that differ, directories that move, descriptors that run out. Each test has places of its own.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Options};
use tempfile::TempDir;

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");
const FORK_PROBE: &str = env!("CARGO_BIN_EXE_fork-probe");

/// A user with a home directory and a runtime directory that only some environments name.
struct Home(TempDir);

impl Home {
    /// `None` where the system has a directory for this user, which all environments share.
    fn new() -> Option<Self> {
        let shared = PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()));
        if shared.exists() || cfg!(target_vendor = "apple") {
            eprintln!("SKIPPED: {} exists, so that environments cannot differ", shared.display());
            return None;
        }
        let home = tempfile::Builder::new().prefix("home-").tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join("run")).expect("made");
        Some(Self(home))
    }

    fn command(&self, program: impl AsRef<Path>, arguments: &[&str], with_runtime: bool) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_clear().env("HOME", self.0.path()).env("BROADCASTERD", self::program());
        if with_runtime {
            command.env("XDG_RUNTIME_DIR", self.0.path().join("run"));
        }
        command
    }

    fn run(&self, arguments: &[&str], with_runtime: bool) -> std::process::Output {
        self.command(program(), arguments, with_runtime).stdin(Stdio::null()).output().expect("broadcasterd runs")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for with_runtime in [true, false] {
            self.run(&["stop"], with_runtime);
        }
    }
}

fn rounds() -> usize {
    std::env::var("BUS_ROUNDS").ok().map_or(5, |rounds| rounds.parse().expect("BUS_ROUNDS is a number"))
}

/// The bus sockets below `directory` on which a process listens.
#[cfg(target_os = "linux")]
fn served_below(directory: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").expect("Linux has it");
    let directory = directory.to_str().expect("text");
    let listening = table.lines().filter(|line| line.contains("00010000") && line.ends_with("bus.sock"));
    listening
        .filter_map(|line| line.split(' ').next_back())
        .filter(|path| path.starts_with(directory))
        .map(str::to_owned)
        .collect()
}

#[test]
fn environments_that_differ_meet_on_one_daemon() {
    for round in 0..rounds() {
        let Some(home) = Home::new() else { return };
        let mut clients: Vec<Process> = (0..8)
            .map(|client| Process::spawn(&mut home.command(PROBE, &["first", "news"], client % 2 == 0)))
            .collect();
        for client in &mut clients {
            assert_eq!(client.line(), "ready");
        }
        clients.iter_mut().for_each(|client| client.write_line("go"));
        for client in &mut clients {
            assert_eq!(client.line(), "ok", "round {round}");
        }
        let status = |with_runtime| {
            let output = home.run(&["status", "--json"], with_runtime);
            let text = String::from_utf8(output.stdout).expect("text");
            let status: serde_json::Value = serde_json::from_str(&text).expect("a document");
            status["pid"].as_u64().expect("a pid")
        };
        assert_eq!(status(true), status(false), "round {round}: two daemons");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn daemon_serves_every_place_that_it_knows() {
    let Some(home) = Home::new() else { return };
    let mut daemon = Process::spawn(&mut home.command(program(), &["run"], true));
    assert!(daemon.line().starts_with("listening on"));
    assert_eq!(served_below(home.0.path()).len(), 2, "the runtime and the state directory");
    let mut outside = Process::spawn(&mut home.command(PROBE, &["listen", "news", "1"], false));
    assert_eq!(outside.line(), "joined");
    let mut inside = Process::spawn(&mut home.command(PROBE, &["ping", "news"], true));
    assert_eq!(inside.line(), "ready");
    inside.write_line("x");
    assert_eq!(outside.line(), "received 1 lost 0 gaps 0 disorder 0");
    for with_runtime in [true, false] {
        let stats = home.run(&["stats"], with_runtime);
        assert!(stats.status.success(), "{}", String::from_utf8_lossy(&stats.stderr));
        let report = home.run(&["doctor"], with_runtime);
        assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stdout));
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
    assert!(served_below(home.0.path()).is_empty());
}

#[test]
fn renamed_directory_above_the_bus_leaves_one_daemon() {
    let bus = Bus::new();
    let inner = bus.directory().join("a/b");
    std::fs::create_dir_all(&inner).expect("made");
    let socket = inner.join("bus.sock");
    let mut daemon = bus.command(program(), &["run"]);
    let mut daemon = Process::spawn(daemon.env("BROADCASTER_SOCKET", &socket));
    assert!(daemon.line().starts_with("listening on"));
    let options = Options::new().socket(&socket).autostart(false).embedded(false);
    let _listener = options.listener("news").expect("connected");
    std::fs::rename(bus.directory().join("a"), bus.directory().join("z")).expect("renamed");
    assert_eq!(daemon.wait(), Some(0), "it has noticed, though a client is connected");
}

#[test]
fn path_of_a_directory_gets_no_lock_file_beside_it() {
    let bus = Bus::new();
    let directory = bus.directory().join("directory");
    std::fs::create_dir(&directory).expect("made");
    let output = bus.run(&["run", "--socket", directory.to_str().expect("text")]);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && printed.contains("not a socket"), "{printed}");
    assert!(!bus.directory().join("directory.lock").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn lock_that_is_a_pipe_is_named() {
    let bus = Bus::new();
    let lock = bus.directory().join("bus.lock");
    rustix::fs::mkfifoat(rustix::fs::CWD, &lock, rustix::fs::Mode::RWXU).expect("made");
    let output = bus.run(&["start"]);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && printed.contains("bus.lock is not a file"), "{printed}");
    let error = bus.options().autostart(true).program(program()).sender("news").expect_err("no daemon");
    let ConnectError::Start { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("bus.lock is not a file"), "{source}");
}

#[test]
fn client_that_finds_the_lock_held_names_the_holder() {
    let bus = Bus::new();
    let daemon = bus.start();
    daemon.signal(Signal::STOP);
    let options = bus.options().autostart(true).program(program()).timeout(Duration::from_millis(300));
    let holder = format!("process {} holds its lock", daemon.pid());
    let error = options.sender("news").expect_err("it does not answer");
    assert!(error.to_string().contains(&holder), "{error}");
    std::fs::remove_file(bus.socket()).expect("removed");
    let error = options.sender("news").expect_err("it cannot be found");
    assert!(error.to_string().contains(&holder), "{error}");
}

#[test]
fn second_daemon_fails_unless_the_first_one_answers() {
    let bus = Bus::new();
    let fails = |command: &str, words: &[&str]| {
        let output = bus.run(&[command]);
        let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(5), "{command}: {printed}{complaint}");
        assert!(printed.is_empty(), "{command}: {printed}");
        assert!(words.iter().all(|word| complaint.contains(word)), "{command}: {complaint}");
    };
    let daemon = bus.start();
    daemon.signal(Signal::STOP);
    let holder = format!("process {} holds its lock", daemon.pid());
    for command in ["run", "start"] {
        fails(command, &["does not answer", &holder]);
    }
    drop(daemon);
    std::fs::remove_file(bus.socket()).expect("removed");
    let lock = std::fs::File::create(bus.directory().join("bus.lock")).expect("made");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("locked");
    writeln!(&lock, "serving 17").expect("written");
    fails("start", &["process 17 holds its lock and does not listen"]);
    drop(lock);
    assert!(bus.run(&["start"]).status.success(), "the lock is free");
}

#[test]
fn daemon_at_its_limit_of_connections_is_a_running_daemon() {
    let bus = Bus::new();
    let file = bus.directory().join("few.toml");
    std::fs::write(&file, "[limits]\nconnections_max = 4\n").expect("written");
    let mut daemon = bus.command(program(), &["run", "--config", file.to_str().expect("text")]);
    let mut daemon = Process::spawn(&mut daemon);
    assert!(daemon.line().starts_with("listening on"));
    let _listeners: Vec<_> = (0..4).map(|_| bus.options().listener("news").expect("connected")).collect();
    let output = bus.run(&["start"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "already running\n");
    assert!(output.status.success());
}

/// Writes a program, in another process: no thread of this one may have it open for writing when it runs.
fn write_program(path: &Path, text: &str) {
    let write = "printf %s \"$1\" > \"$0\" && chmod 700 \"$0\"";
    let written = Command::new("sh").args(["-c", write]).arg(path).arg(text).status().expect("sh runs");
    assert!(written.success());
}

#[test]
fn client_whose_program_fails_waits_for_the_daemon_that_holds_the_lock() {
    let bus = Bus::new();
    let fails = bus.directory().join("fails");
    let daemon = program().display();
    let script = format!("#!/bin/sh\n{{ '{daemon}' run --log error & }} | read -r line\necho impatient >&2\nexit 5\n");
    write_program(&fails, &script);
    let options = bus.options().autostart(true).program(&fails);
    options.sender("news").expect("the daemon answers").send(b"x").expect("sent");
    bus.options().daemon().stop().expect("stopped");
    write_program(&fails, "#!/bin/sh\necho impatient >&2\nexit 5\n");
    let error = options.sender("news").expect_err("no process holds the lock");
    let ConnectError::Start { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().starts_with("impatient"), "{source}");
}

/// `broadcasterd` with so many descriptors.
fn command_with_descriptors(bus: &Bus, descriptors: u64, command: &str) -> Command {
    let script = format!("ulimit -n {descriptors}; exec \"$0\" {command}");
    bus.command("sh", &["-c", &script, program().to_str().expect("text")])
}

/// A daemon with so many descriptors.
fn start_with_descriptors(bus: &Bus, descriptors: u64) -> Process {
    let mut daemon = Process::spawn(&mut command_with_descriptors(bus, descriptors, "run"));
    assert!(daemon.line().starts_with("listening on"));
    daemon
}

#[test]
fn daemon_with_too_few_descriptors_does_not_start() {
    const NEEDED: u64 = 53;
    let bus = Bus::new();
    for descriptors in [8, 11, 14, 48, NEEDED - 1] {
        for (command, code) in [("run", 1), ("start", 5)] {
            let mut command = command_with_descriptors(&bus, descriptors, command);
            let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().expect("it runs");
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{descriptors}: {complaint}");
            let sentence =
                format!("the limit on open files is {descriptors}, and the daemon needs at least {NEEDED}: ");
            assert!(complaint.starts_with(&format!("broadcasterd: {sentence}")), "{descriptors}: {complaint}");
            assert!(!bus.socket().exists());
        }
    }
    let _daemon = start_with_descriptors(&bus, NEEDED);
    let _listeners: Vec<_> = (0..4).map(|_| bus.options().listener("news").expect("connected")).collect();
    let error = bus.options().listener("news").expect_err("it has none to spare");
    assert!(error.to_string().contains("the daemon has 4 connections, which is the limit"), "{error}");
}

#[test]
fn clients_of_a_daemon_without_descriptors_learn_the_reason() {
    let bus = Bus::new();
    let mut daemon = start_with_descriptors(&bus, 64);
    let (mut connected, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        let started = Instant::now();
        match bus.options().listener("news") {
            Ok(listener) => connected.push(listener),
            Err(ConnectError::Refused { reason, .. }) => {
                assert!(reason.contains("limit"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{} connected, after {:?}: {error}", connected.len(), started.elapsed()),
        }
    }
    assert!(!connected.is_empty() && refused > 0, "{} connected, {refused} refused", connected.len());
    drop(connected);
    drop(bus.options().sender("news"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
}

/// A copy of a program in a directory of its own: no daemon's program is beside it.
fn alone(directory: &Path, program: &str) -> PathBuf {
    // Copied by another process: no thread of this one may have it open for writing when it runs.
    let copy = directory.join("probe");
    assert!(Command::new("cp").arg(program).arg(&copy).status().expect("cp runs").success());
    copy
}

#[test]
fn hosting_without_descriptors_is_one_clear_error() {
    for descriptors in 5..40 {
        let bus = Bus::new();
        let probe = alone(bus.directory(), PROBE);
        let script = format!("ulimit -n {descriptors}; exec {} ping news", probe.display());
        let mut command = bus.command("/bin/sh", &["-c", &script]);
        let command = command.env_remove("BROADCASTERD").env("PATH", "/nonexistent").stdin(Stdio::null());
        let output = command.stderr(Stdio::piped()).output().expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some(), "{descriptors}: a signal ended it: {complaint}");
        assert!(!complaint.contains("panicked"), "{descriptors}: {complaint}");
        let is_clear = printed.contains("could not host the daemon") || printed.contains("open files");
        assert!(printed == "ready\n" || is_clear, "{descriptors}: {printed}{complaint}");
    }
}

#[test]
fn forked_child_of_a_host_does_not_keep_the_bus() {
    let bus = Bus::new();
    let probe = alone(bus.directory(), FORK_PROBE);
    let mut command = bus.command(&probe, &[]);
    let mut host: Child =
        command.env_remove("BROADCASTERD").env("PATH", "/nonexistent").spawn().expect("the probe starts");
    let mut output = BufReader::new(host.stdout.take().expect("a pipe"));
    let mut input = host.stdin.take().expect("a pipe");
    let mut line = String::new();
    output.read_line(&mut line).expect("readable");
    assert_eq!(line, "hosting\n");
    host.wait().expect("the parent ends");
    // The child lives on, and holds nothing: a daemon can begin.
    let mut daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("connected");
    writeln!(input, "from the child").expect("written");
    let message = listener.recv_timeout(Duration::from_secs(10)).expect("the child has found the new daemon");
    assert_eq!(message.payload(), b"from the child");
    drop(input);
    output.read_to_string(&mut line).expect("readable");
    assert_eq!(line, "hosting\nok\n");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn handle_finds_a_directory_that_was_made_after_it() {
    let Some(home) = Home::new() else { return };
    let run = home.0.path().join("run");
    std::fs::remove_dir(&run).expect("removed");
    let mut listener = Process::spawn(&mut home.command(PROBE, &["listen", "news", "1"], true));
    assert_eq!(listener.line(), "joined", "through a daemon in the state directory");
    std::fs::create_dir(&run).expect("made");
    let socket = run.join("broadcaster/bus.sock");
    let mut daemon = home.command(program(), &["run"], true);
    let mut daemon = Process::spawn(daemon.env("BROADCASTER_SOCKET", &socket));
    assert!(daemon.line().starts_with("listening on"));
    assert!(home.run(&["stop"], false).status.success());
    assert_eq!(listener.line(), "gap");
    let bus = Options::new().socket(&socket).autostart(false).embedded(false);
    bus.sender("news").expect("connected").send(b"x").expect("sent");
    assert_eq!(listener.line(), "received 1 lost 0 gaps 1 disorder 0", "the directory was not there when it was made");
}

/// Runs a program in a copy of the file system, in which a marker of a sandbox is below the root directory. `$1` becomes the new root, `$2` is
/// the program, and `$3` is where it is run from.
#[cfg(target_os = "linux")]
const IN_SANDBOX: &str = "
    set -e
    mount -t tmpfs tmpfs \"$1\"
    for entry in /*; do
        if [ -L \"$entry\" ]; then
            cp -P \"$entry\" \"$1$entry\"
        elif [ -d \"$entry\" ] && [ \"$entry\" != /snap ]; then
            mkdir \"$1$entry\"
            mount --rbind \"$entry\" \"$1$entry\"
        fi
    done
    case $3 in
        /snap/*) mkdir -p \"$1${3%/*}\" && cp \"$2\" \"$1$3\" ;;
        *) : > \"$1/.flatpak-info\" ;;
    esac
    exec chroot \"$1\" \"$3\" ping news";

#[test]
#[cfg(target_os = "linux")]
fn sandbox_without_a_daemon_is_named() {
    let works = Command::new("unshare").args(["-rm", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there are no user namespaces");
        return;
    }
    for (sandbox, program) in [("flatpak", PROBE), ("snap", "/snap/app/1/probe")] {
        if sandbox == "snap" && std::fs::read("/proc/self/attr/current").is_ok() {
            eprintln!("SKIPPED: this process has a security profile, which is not that of a snap");
            continue;
        }
        let bus = Bus::new();
        let root = bus.directory().join("root");
        std::fs::create_dir(&root).expect("made");
        let root = root.to_str().expect("text");
        let probe = || {
            let mut command = bus.command("unshare", &["-rm", "sh", "-c", IN_SANDBOX, "sh", root, PROBE, program]);
            if sandbox == "snap" {
                command.env("SNAP", "/snap/app/1");
            }
            let output = command.stdin(Stdio::null()).output().expect("it runs");
            String::from_utf8(output.stdout).expect("text")
        };
        let socket = bus.socket();
        let sentence = format!(
            "failed: no broadcaster daemon answers at {} from within the {sandbox} sandbox; give the sandbox access to its \
             directory and run a daemon outside\n",
            socket.display()
        );
        assert_eq!(probe(), sentence);
        assert!(!socket.exists(), "it neither starts nor hosts a daemon that only the sandbox could reach");
        let _daemon = bus.start();
        assert_eq!(probe(), "ready\n", "a daemon that is reachable is used");
    }
}
