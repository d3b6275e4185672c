//! Real daemons, real clients, real signals. Each test has its own bus.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, RecvError, SendError, Status};

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

/// The number of repetitions of a race. `BUS_ROUNDS` overrides it.
fn rounds() -> usize {
    std::env::var("BUS_ROUNDS").ok().map_or(4, |rounds| rounds.parse().expect("BUS_ROUNDS is a number"))
}

fn probe(bus: &Bus, arguments: &[&str]) -> Process {
    let mut process = Process::spawn(&mut bus.command(PROBE, arguments));
    let line = process.line();
    assert!(line == "joined" || line == "ready", "output of the probe: {line:?}");
    process
}

fn sender(bus: &Bus, count: u64, bytes: usize) -> Process {
    probe(bus, &["send", "news", &count.to_string(), &bytes.to_string()])
}

fn listener(bus: &Bus, count: u64) -> Process {
    probe(bus, &["listen", "news", &count.to_string()])
}

/// Requests the daemon's report until it satisfies `condition`. Each round trip gives the daemon a turn.
fn wait_until(bus: &Bus, condition: impl Fn(&Status) -> bool) -> Status {
    loop {
        let report = bus.options().daemon().status().expect("the daemon answers");
        if condition(&report) {
            return report;
        }
    }
}

#[test]
fn killed_listener_does_not_affect_the_others() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut one = listener(&bus, 10_000);
    let mut two = listener(&bus, 10_000);
    let victim = listener(&bus, 10_000);
    let mut senders = [sender(&bus, 5000, 64), sender(&bus, 5000, 64)];
    senders.iter_mut().for_each(|sender| sender.write_line("go"));
    wait_until(&bus, |report| report.messages_accepted > 1000);
    victim.signal(Signal::KILL);
    drop(victim);
    for sender in &mut senders {
        assert_eq!(sender.line(), "sent");
    }
    for listener in [&mut one, &mut two] {
        assert_eq!(listener.line(), "received 10000 lost 0 gaps 0 disorder 0");
    }
}

/// The probe in a directory of its own, in which it finds no `broadcasterd`.
struct IsolatedProbe {
    _directory: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl IsolatedProbe {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let program = directory.path().join("bus-probe");
        std::fs::hard_link(PROBE, &program).expect("linked within the target directory");
        Self { _directory: directory, program }
    }

    fn spawn(&self, bus: &Bus, arguments: &[&str]) -> Process {
        let mut command = bus.command(&self.program, arguments);
        Process::spawn(command.env_remove("BROADCASTERD").env("PATH", "/nonexistent"))
    }
}

fn first_users_start_at_once(embedded: bool) {
    let isolated = IsolatedProbe::new();
    for round in 0..rounds() {
        let bus = Bus::new();
        let mut users: Vec<Process> = (0..64)
            .map(|_| match embedded {
                true => isolated.spawn(&bus, &["first", "news"]),
                false => Process::spawn(&mut bus.command(PROBE, &["first", "news"])),
            })
            .collect();
        for user in &mut users {
            assert_eq!(user.line(), "ready");
        }
        users.iter_mut().for_each(|user| user.write_line("go"));
        for user in &mut users {
            assert_eq!(user.line(), "ok", "round {round}");
        }
        let status = bus.options().daemon().status().expect("one daemon");
        assert_eq!(status.listeners, 64, "all clients share one daemon, round {round}");
        let is_a_user = users.iter().any(|user| user.pid() == status.pid);
        assert_eq!(is_a_user, embedded, "round {round}");
    }
}

#[test]
fn sixty_four_first_users_start_one_daemon() {
    first_users_start_at_once(false);
}

#[test]
fn sixty_four_first_users_agree_on_one_host() {
    first_users_start_at_once(true);
}

#[test]
fn next_client_takes_over_from_a_killed_host() {
    let bus = Bus::new();
    let isolated = IsolatedProbe::new();
    let mut host = isolated.spawn(&bus, &["first", "news"]);
    assert_eq!(host.line(), "ready");
    host.write_line("go");
    assert_eq!(host.line(), "ok");
    let mut guest = isolated.spawn(&bus, &["listen", "news", "1"]);
    assert_eq!(guest.line(), "joined");
    host.signal(Signal::KILL);
    drop(host);
    assert_eq!(guest.line(), "gap", "it reconnects to a new host, which is itself");
    bus.options().sender("news").expect("the guest is the new host").send(b"x").expect("sent");
    assert_eq!(guest.line(), "received 1 lost 0 gaps 1 disorder 0");
}

#[test]
fn killed_daemon_is_replaced_and_listeners_report_one_gap() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut listeners = [listener(&bus, u64::MAX), listener(&bus, u64::MAX)];
    let mut pinger = probe(&bus, &["ping", "news"]);
    for _ in 0..10 {
        pinger.write_line("before");
        assert_eq!(pinger.line(), "ok");
    }
    daemon.signal(Signal::KILL);
    drop(daemon);
    for listener in &mut listeners {
        assert_eq!(listener.line(), "gap");
    }
    for _ in 0..10 {
        pinger.write_line("after");
        assert_eq!(pinger.line(), "ok");
    }
    for listener in &mut listeners {
        listener.end_input();
        let line = listener.line();
        assert!(line.ends_with("lost 0 gaps 1 disorder 0"), "{line}");
        let received: u64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a count");
        assert!(received >= 10, "at least the ten messages after the gap arrive: {line}");
    }
}

#[test]
fn stalled_listener_loses_messages_alone() {
    const FRAMES: u64 = 4000;
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut healthy = listener(&bus, FRAMES);
    let mut stalled = listener(&bus, FRAMES);
    stalled.signal(Signal::STOP);
    // The healthy listener sets the pace, so that only the stalled one could make it lose messages.
    let mut sender = bus.options().sender("news").expect("connected");
    let payload = vec![1; 16 * 1024];
    for sent in 1..=FRAMES {
        sender.send(&payload).expect("a sender never waits for a listener");
        if sent % 50 == 0 {
            let report = wait_until(&bus, |report| report.messages_delivered >= sent);
            assert!(report.held_bytes <= report.held_bytes_max);
        }
    }
    assert_eq!(healthy.line(), format!("received {FRAMES} lost 0 gaps 0 disorder 0"));
    stalled.signal(Signal::CONT);
    let line = stalled.line();
    let numbers: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
    let [received, lost, gaps, disorder] = numbers[..] else { panic!("{line}") };
    assert_eq!((received + lost, gaps, disorder), (FRAMES, 0, 0), "{line}");
    assert!(lost > 0, "64 MB exceed what can be queued: {line}");
}

#[test]
fn calls_time_out_while_the_daemon_is_suspended() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let bus = Bus::new();
    let daemon = bus.start();
    let options = bus.options().timeout(TIMEOUT);
    let mut sender = options.sender("news").expect("connected");
    let mut listener = options.listener("news").expect("connected");
    daemon.signal(Signal::STOP);
    let error = loop {
        // The socket buffer still has room for some messages.
        if let Err(error) = sender.send(&[0; 4096]) {
            break error;
        }
    };
    assert!(matches!(error, SendError::TimedOut { after: TIMEOUT }), "{error}");
    assert!(matches!(sender.try_send(b"x"), Err(SendError::Full)));
    assert!(matches!(listener.recv_timeout(TIMEOUT), Err(RecvError::TimedOut { .. })));
    assert!(
        matches!(options.listener("news"), Err(ConnectError::TimedOut { .. })),
        "it accepts the connection and does not answer"
    );
    assert!(matches!(options.daemon().status(), Err(ConnectError::TimedOut { .. })));
    let before = sender.id();
    daemon.signal(Signal::CONT);
    // Every message reported as sent arrives, in order and without a gap.
    sender.send(b"last").expect("the daemon runs again");
    let mut next = 0;
    loop {
        let message = listener.recv().expect("no loss");
        assert_eq!((message.sender(), message.sequence()), (before, next));
        next += 1;
        if message.payload() == b"last" {
            break;
        }
    }
}

#[test]
fn confirmation_waits_for_a_suspended_daemon_and_fails_with_a_killed_one() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let bus = Bus::new();
    let daemon = bus.start();
    let mut sender = bus.options().timeout(TIMEOUT).sender("news").expect("connected");
    daemon.signal(Signal::STOP);
    sender.send(b"in the socket").expect("its buffer has room");
    let error = sender.confirm().expect_err("the daemon has not read it");
    assert!(matches!(error, SendError::Unconfirmed { after: TIMEOUT }), "{error}");
    daemon.signal(Signal::CONT);
    while let Err(error) = sender.confirm() {
        assert!(matches!(error, SendError::Unconfirmed { .. }), "{error}");
    }
    assert_eq!(bus.options().daemon().status().expect("it runs").messages_accepted, 1);

    daemon.signal(Signal::STOP);
    (0..3).for_each(|_| sender.send(b"lost with the daemon").expect("its buffer has room"));
    daemon.signal(Signal::KILL);
    drop(daemon);
    let error = sender.confirm().expect_err("the daemon is gone");
    assert!(matches!(error, SendError::InDoubt { count: 3 }), "{error}");
    let _next = bus.start();
    while sender.send(b"accepted").is_err() {}
    sender.confirm().expect("the next daemon answers");
    assert_eq!(bus.options().daemon().status().expect("it runs").messages_accepted, 1);
}

#[test]
fn full_backlog_does_not_hang_a_client() {
    let bus = Bus::new();
    // A socket that never accepts, with the smallest possible backlog.
    let address = rustix::net::SocketAddrUnix::new(bus.socket()).expect("a short path");
    let socket = || {
        use rustix::net::{AddressFamily, SocketType, socket};
        socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket")
    };
    let never_accepts = socket();
    rustix::net::bind(&never_accepts, &address).expect("bound");
    rustix::net::listen(&never_accepts, 0).expect("listening");
    let in_backlog = socket();
    rustix::net::connect(&in_backlog, &address).expect("the backlog has room for one");
    let options = bus.options().timeout(Duration::from_millis(100));
    let started = Instant::now();
    let error = options.sender("news").expect_err("the socket never accepts");
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "the timeout ends it");
}

#[test]
fn daemon_that_closes_every_connection_does_not_hang_a_client() {
    let bus = Bus::new();
    let socket = std::os::unix::net::UnixListener::bind(bus.socket()).expect("bound");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let acceptor = std::thread::spawn(move || {
        let mut accepted = 0;
        socket.set_nonblocking(true).expect("set");
        while stopped.try_recv().is_err() {
            accepted += u32::from(socket.accept().is_ok());
        }
        accepted
    });
    let error = bus.options().timeout(Duration::from_millis(500)).sender("news").expect_err("no handshake");
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    stop.send(()).expect("the acceptor runs");
    assert!(acceptor.join().expect("no panic") > 1, "the client tries again");
}

#[test]
fn stale_socket_is_replaced() {
    let bus = Bus::new();
    let daemon = bus.start();
    daemon.signal(Signal::KILL);
    drop(daemon);
    assert!(bus.socket().exists(), "kill -9 leaves the file behind");
    let mut daemon = bus.start();
    assert!(bus.options().daemon().status().is_ok());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
    assert!(!bus.socket().exists(), "an orderly stop removes the socket");
}

#[test]
fn daemon_whose_files_are_gone_stops_and_is_replaced() {
    type Remove = fn(&Bus);
    let removals: [Remove; 3] = [
        |bus| std::fs::remove_file(bus.socket()).expect("removed"),
        |bus| std::fs::remove_file(bus.directory().join("bus.lock")).expect("removed"),
        |bus| std::fs::rename(bus.socket(), bus.directory().join("elsewhere")).expect("renamed"),
    ];
    for remove in removals {
        let bus = Bus::new();
        let mut daemon = bus.start();
        let mut listener = listener(&bus, 1);
        remove(&bus);
        assert_eq!(daemon.wait(), Some(0), "it notices, and stops in an orderly way");
        assert_eq!(listener.line(), "gap", "its listener reconnects to the next daemon");
        bus.options().sender("news").expect("connected").send(b"x").expect("sent");
        assert_eq!(listener.line(), "received 1 lost 0 gaps 1 disorder 0");
    }
}

/// In a user namespace of its own, the daemon has no inotify instance: the limit holds for that namespace only.
#[test]
#[cfg(target_os = "linux")]
fn daemon_without_a_watch_makes_way_when_its_socket_is_removed() {
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" run --log warn";
    let arguments = ["-r", "sh", "-c", script, program().to_str().expect("text")];
    let works = std::process::Command::new("unshare").args(["-r", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there are no user namespaces");
        return;
    }
    let bus = Bus::new();
    let mut daemon = Process::spawn(&mut bus.command("unshare", &arguments));
    assert!(daemon.line().starts_with("listening on"));
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("our process");
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    assert!(!targets.map(|target| target.display().to_string()).any(|target| target.contains("inotify")));
    let mut listener = listener(&bus, 1);
    std::fs::remove_file(bus.socket()).expect("removed");
    assert_eq!(daemon.wait(), Some(0), "it checks every three seconds");
    assert_eq!(listener.line(), "gap", "its listener reconnects to the next daemon");
    bus.options().sender("news").expect("connected").send(b"x").expect("sent");
    assert_eq!(listener.line(), "received 1 lost 0 gaps 1 disorder 0");
}

#[test]
fn socket_of_another_program_is_left_alone() {
    let bus = Bus::new();
    let own = std::os::unix::net::UnixListener::bind(bus.socket()).expect("bound");
    let output = bus.run(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("a program that does not hold the lock"), "{errors}");
    assert!(bus.socket().exists());
    drop(own);
}

#[test]
fn error_names_an_unusable_socket_path() {
    let bus = Bus::new();
    let fails_with = |socket: &std::path::Path, parts: &[&str]| {
        let output = bus.run(&["run", "--socket", socket.to_str().expect("UTF-8")]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{errors}");
        for part in parts {
            assert!(errors.contains(part), "{part:?} is not in {errors:?}");
        }
    };
    let inside = |name: &str| bus.directory().join(name);

    let long = inside(&"d".repeat(120));
    fails_with(&long, &["107", &long.display().to_string()]);

    std::fs::write(inside("file"), b"").expect("written");
    fails_with(&inside("file").join("bus.sock"), &["not a directory"]);
    fails_with(&inside("file"), &["not a socket"]);

    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(inside("loose")).expect("made");
    std::fs::set_permissions(inside("loose"), PermissionsExt::from_mode(0o777)).expect("set");
    fails_with(&inside("loose").join("bus.sock"), &["0777", "chmod 0700"]);

    if rustix::process::geteuid().as_raw() == 0 {
        std::fs::create_dir(inside("foreign")).expect("made");
        std::os::unix::fs::chown(inside("foreign"), Some(65534), None).expect("owner changed");
        fails_with(&inside("foreign").join("bus.sock"), &["belongs to uid 65534, not to uid 0"]);
    } else {
        eprintln!("SKIPPED: only root can create a directory with another owner");
    }

    std::os::unix::fs::symlink(inside("elsewhere"), inside("link")).expect("linked");
    fails_with(&inside("link").join("bus.sock"), &["not a directory"]);
    assert!(!inside("elsewhere").exists(), "the link was not followed");
}

#[test]
fn orderly_stop_loses_nothing() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listener = listener(&bus, u64::MAX);
    listener.signal(Signal::STOP); // messages now wait in the daemon and its sockets
    let mut sender = bus.options().sender("news").expect("connected");
    for _ in 0..500 {
        sender.send(&[0; 1000]).expect("sent");
    }
    daemon.signal(Signal::TERM);
    listener.signal(Signal::CONT);
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(listener.line(), "gap", "it reconnects to the next daemon");
    listener.end_input();
    assert_eq!(listener.line(), "received 500 lost 0 gaps 1 disorder 0");
}

/// A test runner may have a lower descriptor limit than its daemon.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("raised to the hard limit");
}

#[test]
fn a_thousand_connections_end_with_an_orderly_stop() {
    // Each connection receives its Goodbye in the same turn.
    let bus = Bus::new();
    let mut daemon = bus.start();
    raise_descriptor_limit();
    let listeners: Vec<_> = (0..1000).map(|_| bus.options().listener("news").expect("connected")).collect();
    assert_eq!(wait_until(&bus, |report| report.listeners == 1000).listeners, 1000);
    assert!(bus.run(&["stop"]).status.success());
    assert_eq!(daemon.wait(), Some(0));
    drop(listeners);
}

#[test]
fn start_after_stop_starts_a_new_daemon() {
    let bus = Bus::new();
    for _ in 0..10 {
        assert!(bus.run(&["start"]).status.success());
        let _listener = bus.options().listener("news").expect("connected");
        assert!(bus.run(&["stop"]).status.success());
        assert!(bus.run(&["start"]).status.success());
        assert!(bus.options().daemon().status().is_ok(), "a daemon runs");
    }
}

#[test]
fn large_message_is_unfinished_while_the_daemon_is_suspended() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("connected");
    let mut sender = bus.options().timeout(Duration::from_millis(500)).sender("news").expect("connected");
    daemon.signal(Signal::STOP);
    let large = vec![3; 8 << 20];
    assert!(matches!(sender.send(&large), Err(SendError::Unfinished { .. })));
    daemon.signal(Signal::CONT);
    while let Err(error) = sender.flush() {
        assert!(matches!(error, SendError::TimedOut { .. }), "{error}");
    }
    assert!(listener.recv().expect("no loss").payload() == large);
}

#[test]
fn idle_daemon_exits_without_losing_a_client() {
    let bus = Bus::new();
    let mut daemon = Process::spawn(&mut bus.command(program(), &["run", "--log", "warn", "--idle-exit", "1s"]));
    assert!(daemon.line().starts_with("listening"));
    let held = bus.options().listener("news").expect("connected");
    assert!(bus.options().daemon().status().is_ok());
    drop(held);
    assert_eq!(daemon.wait(), Some(0));
    // Clients that connect while a daemon exits find it or start the next one.
    let send_during_exit = |_| {
        let mut command = bus.command(program(), &["send", "news", "x"]);
        let mut exiting = Process::spawn(&mut bus.command(program(), &["run", "--idle-exit", "1ms", "--log", "error"]));
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        exiting.wait();
    };
    (0..20).for_each(send_during_exit);
}

#[test]
fn started_daemon_inherits_nothing() {
    let bus = Bus::new();
    // The daemon must not inherit the caller's open descriptors and environment.
    let (mut leak, leaked) = std::io::pipe().expect("a pipe");
    let leaked = std::os::fd::OwnedFd::from(leaked);
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("inheritable");
    let mut command = bus.command(program(), &["start"]);
    command.env("SECRET", "1").current_dir(bus.directory()).stdin(std::process::Stdio::null());
    // Reads the output to its end, which would hang if the daemon kept the pipe open.
    let output = command.output().expect("runs");
    assert!(output.status.success());
    drop(leaked);
    let mut end = Vec::new();
    std::io::Read::read_to_end(&mut leak, &mut end).expect("the daemon does not hold the pipe");

    let pid = bus.options().daemon().status().expect("it runs").pid;
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let text = |name: &str| String::from_utf8_lossy(&std::fs::read(path(name)).expect("readable")).into_owned();
    assert_eq!(std::fs::read_link(path("cwd")).expect("readable"), std::path::Path::new("/"));
    assert!(!text("environ").contains("SECRET"));
    assert!(text("status").lines().any(|line| line == "SigBlk:\t0000000000000000"));
    let stat = text("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a stat").split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "it leads its own session");
    assert_eq!(fields[4], "0", "it has no terminal");
    for fd in 0..3 {
        let target = std::fs::read_link(path(&format!("fd/{fd}"))).expect("open");
        assert_eq!(target, std::path::Path::new("/dev/null"));
    }
}

#[test]
fn error_names_a_program_that_cannot_start_a_daemon() {
    let bus = Bus::new();
    let options = bus.options().autostart(true);
    let error = options.clone().program("/bin/false").sender("news").expect_err("it fails");
    assert!(error.to_string().contains("/bin/false could not start the daemon"), "{error}");
    let error = options.clone().program("/bin/true").sender("news").expect_err("it does nothing");
    assert!(error.to_string().contains("it was started and does not answer"), "{error}");
    let error = options.clone().program("/nonexistent").sender("news").expect_err("it does not exist");
    assert!(error.to_string().contains("/nonexistent could not start the daemon"), "{error}");
    // A program that hangs does not hang its caller.
    let hangs = bus.directory().join("hangs");
    // Another process writes it. A file cannot be run while a child of another test holds it open for writing.
    let write = r#"printf '#!/bin/sh\nexec sleep 30\n' >"$0" && chmod 700 "$0""#;
    assert!(std::process::Command::new("sh").args(["-c", write]).arg(&hangs).status().expect("it runs").success());
    let error = options.timeout(Duration::from_millis(200)).program(&hangs).sender("news").expect_err("it hangs");
    assert!(matches!(error, ConnectError::TimedOut { .. } | ConnectError::Io { .. }), "{error}");
    assert!(!bus.socket().exists());
}

#[test]
fn status_and_stop_never_start_a_daemon() {
    let bus = Bus::new();
    for command in ["status", "stop"] {
        let output = bus.run(&[command]);
        assert_eq!(output.status.code(), Some(4), "not running");
        assert!(!bus.socket().exists());
    }
}

#[test]
fn shell_commands_send_and_listen() {
    let bus = Bus::new();
    let listen = |format: &str| {
        let mut command = bus.command(program(), &["listen", "news", "--count", "2", "--timeout", "60s", format]);
        let mut process = Process::spawn(command.stderr(std::process::Stdio::piped()));
        process.expect_error_line("listening on news");
        process
    };
    let mut listeners = ["--raw", "--hex", "--json"].map(listen);
    assert!(bus.run(&["send", "news", "h\u{e9}"]).status.success());
    let mut lines = Process::spawn(&mut bus.command(program(), &["send", "news", "--lines"]));
    lines.write_line("two");
    assert_eq!(lines.wait(), Some(0));
    assert_eq!(listeners[0].rest(), "h\u{e9}two");
    assert_eq!(listeners[1].rest(), "68c3a9\n74776f\n");
    let json = listeners[2].rest();
    let payloads: Vec<String> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["payload"].to_string())
        .collect();
    assert_eq!(payloads, ["\"h\u{e9}\"", "\"two\""]);
    assert_eq!(listeners.map(|mut listener| listener.wait()), [Some(0); 3]);
    let silent = bus.run(&["listen", "news", "--count", "1", "--timeout", "1ms"]);
    assert_eq!(silent.status.code(), Some(3));
    assert_eq!(bus.run(&["send", "no/slash", "x"]).status.code(), Some(2));
}

#[test]
fn demo_delivers_every_message_to_every_listener() {
    let bus = Bus::new();
    let output = bus.run(&["demo"]);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("every listener received every message in order: 3 x 2000"), "{shown}");
}

#[test]
fn garbage_is_refused_and_affects_no_other_connection() {
    use std::io::{Read, Write};
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("connected");
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..200 {
        let mut stream = std::os::unix::net::UnixStream::connect(bus.socket()).expect("connected");
        let garbage: Vec<u8> = match round {
            0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            1 => vec![0xff; 4096],
            _ => {
                let len = random.usize(28..2000);
                std::iter::repeat_with(|| random.u8(..)).take(len).collect()
            }
        };
        // The daemon may refuse the connection before it has read everything.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    bus.options().sender("news").expect("connected").send(b"still here").expect("sent");
    assert_eq!(listener.recv().expect("no loss").payload(), b"still here");
}

/// Needs root, to run programs as another user.
#[test]
fn other_users_are_refused_on_both_sides() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().as_raw() != 0 {
        eprintln!("SKIPPED: other_users_are_refused_on_both_sides needs root");
        return;
    }
    let bus = Bus::new();
    let _daemon = bus.start();
    // Permissions allow everything, so that only the check of the user id can refuse.
    let set_mode =
        |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
    set_mode(bus.directory(), 0o755);
    set_mode(&bus.socket(), 0o666);
    // Another process makes the copy: exec would fail if a child of another test inherited the descriptor open for writing.
    let copy = |program: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg(program).arg(bus.directory()).status();
        assert!(copied.expect("cp runs").success());
        bus.directory().join(program.file_name().expect("a program"))
    };
    let (daemon, probe) = (copy(program()), copy(std::path::Path::new(PROBE)));
    let as_nobody = |program: &std::path::Path, arguments: &[&str]| {
        let mut command = bus.command(program, arguments);
        let output = command.uid(65534).gid(65534).stderr(std::process::Stdio::piped()).output().expect("runs");
        let output_and_errors = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&output_and_errors).into_owned())
    };
    let (code, answer) = as_nobody(&daemon, &["status"]);
    assert!(answer.contains("served by uid 0, not by uid 65534"), "the client refuses: {answer}");
    assert_eq!(code, Some(5));
    let (_, answer) = as_nobody(&probe, &["unchecked-hello"]);
    assert!(answer.contains("belongs to uid 0; you are uid 65534"), "the daemon refuses: {answer}");
}

/// Needs root, to mount a file system that is full or read-only.
#[test]
fn error_names_a_full_or_read_only_file_system() {
    if rustix::process::geteuid().as_raw() != 0 {
        eprintln!("SKIPPED: error_names_a_full_or_read_only_file_system needs root");
        return;
    }
    let bus = Bus::new();
    for (options, wanted) in [("nr_inodes=1", "No space left"), ("ro", "Read-only file system")] {
        let script = format!(
            "mount -t tmpfs -o mode=0700,{options} tmpfs {dir} && exec {program} run",
            dir = bus.directory().display(),
            program = program().display()
        );
        let mut command = bus.command("unshare", &["--mount", "sh", "-c", &script]);
        let output = command.stderr(std::process::Stdio::piped()).output().expect("unshare runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(wanted) && errors.contains("bus.lock"), "{errors}");
    }
}

#[test]
fn processes_in_separate_pid_namespaces_communicate() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: processes_in_separate_pid_namespaces_communicate needs root, to create a pid namespace");
        return;
    }
    let namespace = ["--pid", "--fork", "--kill-child", "--mount-proc", program().to_str().expect("a path in UTF-8")];
    // A daemon in its own namespace sees no pid for its clients.
    let bus = Bus::new();
    let mut daemon = Process::spawn(&mut bus.command("unshare", &[&namespace[..], &["run", "--log", "warn"]].concat()));
    assert!(daemon.line().starts_with("listening on"));
    let mut listener = bus.options().listener("news").expect("joined");
    bus.options().sender("news").expect("connected").send(b"hello").expect("sent");
    let message = listener.recv_timeout(Duration::from_secs(30)).expect("received");
    assert_eq!((message.payload(), message.sender_pid()), (&b"hello"[..], None));
    bus.options().daemon().stop().expect("stopped");

    // A client in its own namespace cannot use the daemon's pid.
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("joined");
    let sent =
        bus.command("unshare", &[&namespace[..], &["send", "news", "hello"]].concat()).status().expect("it runs");
    assert!(sent.success());
    let message = listener.recv_timeout(Duration::from_secs(30)).expect("received");
    assert!(message.sender_pid() > Some(1), "the pid in the daemon's namespace: {:?}", message.sender_pid());
}

#[test]
fn monitor_observes_all_channels_and_does_not_count_as_a_listener() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut command = bus.command(program(), &["monitor", "--json", "--payload", "--count", "3"]);
    let mut monitor = Process::spawn(command.stderr(std::process::Stdio::piped()));
    monitor.expect_error_line("observing all channels");
    let mut sender = bus.options().sender("news").expect("connected");
    sender.send(b"one").expect("sent");
    sender.send(b"\xff").expect("sent");
    let other = bus.run(&["send", "other", "three"]);
    assert!(other.status.success());
    let seen: Vec<serde_json::Value> =
        monitor.rest().lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect();
    let facts = |at: usize| (seen[at]["channel"].as_str(), seen[at]["sequence"].as_u64(), seen[at]["size"].as_u64());
    assert_eq!(facts(0), (Some("news"), Some(0), Some(3)));
    assert_eq!(facts(1), (Some("news"), Some(1), Some(1)));
    assert_eq!(facts(2), (Some("other"), Some(0), Some(5)));
    assert_eq!((&seen[0]["payload"], &seen[1]["payload_hex"]), (&"one".into(), &"ff".into()));
    assert_eq!(seen[0]["pid"].as_u64(), Some(u64::from(std::process::id())));
    assert_eq!(monitor.wait(), Some(0));
    let report = bus.options().daemon().status().expect("answers");
    assert_eq!((report.messages_accepted, report.messages_delivered, report.listeners), (3, 0, 0));
}

#[test]
fn monitor_waits_for_the_next_daemon_and_starts_none() {
    let bus = Bus::new();
    let without_daemon = bus.run(&["monitor"]);
    assert_eq!(without_daemon.status.code(), Some(4));
    let daemon = bus.start();
    let mut monitor = bus.options().daemon().monitor(["news"]).expect("a daemon runs");
    drop(daemon);
    assert!(matches!(monitor.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    assert!(matches!(monitor.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    let _next = bus.start();
    let mut sender = bus.options().sender("news").expect("connected");
    // It reconnects while it receives, so the first messages may pass before that. Then the first thing is the gap.
    let mut gaps = 0;
    let seen = loop {
        sender.send(b"again").expect("sent");
        match monitor.recv_timeout(Duration::from_millis(50)) {
            Ok(message) => break message,
            Err(RecvError::Lagged(lag)) => gaps += u32::from(lag.count.is_none()),
            Err(error) => assert!(matches!(error, RecvError::TimedOut { .. }), "{error}"),
        }
    };
    assert_eq!(gaps, 1);
    assert_eq!(seen.payload(), b"again");
}

#[test]
fn sockets_passed_to_another_process_are_not_used() {
    // No descriptor is open there, so using it would fail. The last count is too large to allocate for.
    for (pid, count) in [(None, "1"), (Some(""), "1"), (Some("1"), "1"), (None, "2147483646")] {
        let bus = Bus::new();
        let mut command = bus.command(program(), &["run", "--log", "warn"]);
        command.env("LISTEN_FDS", count);
        match pid {
            Some(pid) => command.env("LISTEN_PID", pid),
            None => command.env_remove("LISTEN_PID"),
        };
        let line = Process::spawn(&mut command).line();
        assert_eq!(line.trim_end(), format!("listening on {}", bus.socket().display()), "{pid:?} {count}");
    }
}

#[test]
fn monitor_times_out_after_the_daemon_is_gone() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut command = bus.command(program(), &["monitor", "--timeout", "1s"]);
    let mut monitor = Process::spawn(command.stderr(std::process::Stdio::piped()));
    monitor.expect_error_line("observing all channels");
    drop(daemon);
    assert_eq!(monitor.wait(), Some(3));
}

#[test]
fn status_reports_a_stopping_daemon_as_not_running() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let stalled = bus.options().listener("news").expect("joined");
    let mut other = bus.options().listener("other").expect("joined");
    let mut sender = bus.options().sender("news").expect("connected");
    for _ in 0..64 {
        sender.send(&[7; 64 * 1024]).expect("sent");
    }
    wait_until(&bus, |report| report.messages_accepted == 64);
    daemon.signal(Signal::TERM);
    // The daemon has sent Goodbye to the listener that reads, and waits for the stalled one.
    assert!(matches!(other.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    let lock = bus.directory().join("bus.lock");
    let state = || std::fs::read_to_string(&lock).expect("the lock file");
    assert_eq!(state(), format!("leaving {}\n", daemon.pid()), "the lock file marks it as stopping");
    // A service manager keeps listening on its socket, and a connection would start the next daemon.
    let manager = std::os::unix::net::UnixListener::bind(bus.socket()).expect("the path is free");
    assert!(matches!(bus.options().daemon().status(), Err(ConnectError::NotRunning { .. })));
    manager.set_nonblocking(true).expect("a flag");
    assert!(manager.accept().is_err(), "no client has connected");
    drop((manager, stalled));
    std::fs::remove_file(bus.socket()).expect("it was ours");
    assert_eq!(daemon.wait(), Some(0));
    let _next = bus.start();
    assert!(state().starts_with("serving "));
    bus.options().daemon().status().expect("the next daemon is found");
}

#[test]
fn hanging_service_manager_does_not_block_the_daemon() {
    use std::os::unix::net::UnixDatagram;
    let bus = Bus::new();
    let path = bus.directory().join("manager");
    let manager = UnixDatagram::bind(&path).expect("bound");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("a flag");
    let mut fillers = 0;
    while filler.send_to(b"full", &path).is_ok() {
        fillers += 1;
    }
    let mut command = bus.command(program(), &["run", "--log", "warn"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000");
    let mut daemon = Process::spawn(&mut command);
    assert!(daemon.line().starts_with("listening on"));
    bus.options().daemon().status().expect("it serves while its manager hangs");
    // Once the manager reads again, it receives every required notification.
    let mut buffer = [0; 512];
    let mut next = || {
        let len = manager.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    (0..fillers).for_each(|_| assert_eq!(next(), "full"));
    assert_eq!(next(), "READY=1\nSTATUS=ready");
    let watchdog = next();
    assert!(watchdog.starts_with("WATCHDOG=1\nSTATUS=0 senders, 0 listeners, 0 channels; "), "{watchdog}");
    daemon.signal(Signal::TERM);
    while !next().starts_with("STOPPING=1") {}
    assert_eq!(daemon.wait(), Some(0));
}
