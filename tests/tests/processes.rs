//! Real daemons, real clients, real signals. Each test has a bus of its own.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, RecvError, SendError};

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

/// How often a race is run; more with `BUS_ROUNDS`.
fn rounds() -> usize {
    std::env::var("BUS_ROUNDS").ok().map_or(4, |rounds| rounds.parse().expect("BUS_ROUNDS is a number"))
}

fn probe(bus: &Bus, arguments: &[&str]) -> Process {
    let mut process = Process::spawn(&mut bus.command(PROBE, arguments));
    let line = process.line();
    assert!(line == "joined" || line == "ready", "the probe says {line:?}");
    process
}

fn sender(bus: &Bus, frames: u64, bytes: usize) -> Process {
    probe(bus, &["send", "news", &frames.to_string(), &bytes.to_string()])
}

fn listener(bus: &Bus, frames: u64) -> Process {
    probe(bus, &["listen", "news", &frames.to_string()])
}

/// Waits until the daemon's numbers are as wanted, by asking again: the daemon is the clock.
fn until(bus: &Bus, wanted: impl Fn(&system_broadcaster::Report) -> bool) -> system_broadcaster::Report {
    loop {
        let report = bus.options().daemon().status().expect("the daemon answers").report;
        if wanted(&report) {
            return report;
        }
    }
}

#[test]
fn everybody_gets_everything_and_a_killed_listener_changes_nothing() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut one = listener(&bus, 10_000);
    let mut two = listener(&bus, 10_000);
    let victim = listener(&bus, 10_000);
    let mut senders = [sender(&bus, 5000, 64), sender(&bus, 5000, 64)];
    senders.iter_mut().for_each(|sender| sender.tell("go"));
    until(&bus, |report| report.messages_accepted > 1000);
    victim.signal(Signal::KILL);
    drop(victim);
    for sender in &mut senders {
        assert_eq!(sender.line(), "sent");
    }
    for listener in [&mut one, &mut two] {
        assert_eq!(listener.line(), "received 10000 lost 0 gaps 0 disorder 0");
    }
}

/// The probe in a directory of its own: no daemon's program is beside it.
struct LoneProbe {
    _directory: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl LoneProbe {
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

fn first_users_at_once(host_in_process: bool) {
    let lone = LoneProbe::new();
    for round in 0..rounds() {
        let bus = Bus::new();
        let mut users: Vec<Process> = (0..64)
            .map(|_| match host_in_process {
                true => lone.spawn(&bus, &["first", "news"]),
                false => Process::spawn(&mut bus.command(PROBE, &["first", "news"])),
            })
            .collect();
        for user in &mut users {
            assert_eq!(user.line(), "ready");
        }
        users.iter_mut().for_each(|user| user.tell("go"));
        for user in &mut users {
            assert_eq!(user.line(), "ok", "round {round}");
        }
        let status = bus.options().daemon().status().expect("one daemon");
        assert_eq!(status.report.listeners, 64, "all of them are on one daemon, round {round}");
        let is_a_user = users.iter().any(|user| user.pid() == status.pid);
        assert_eq!(is_a_user, host_in_process, "round {round}");
    }
}

#[test]
fn sixty_four_first_users_start_one_daemon() {
    first_users_at_once(false);
}

#[test]
fn sixty_four_first_users_agree_on_one_host() {
    first_users_at_once(true);
}

#[test]
fn next_client_takes_over_from_a_host_that_exits() {
    let bus = Bus::new();
    let lone = LoneProbe::new();
    let mut host = lone.spawn(&bus, &["first", "news"]);
    assert_eq!(host.line(), "ready");
    host.tell("go");
    assert_eq!(host.line(), "ok");
    let mut guest = lone.spawn(&bus, &["listen", "news", "1"]);
    assert_eq!(guest.line(), "joined");
    host.signal(Signal::KILL);
    drop(host);
    assert_eq!(guest.line(), "gap", "it has joined a new host, itself");
    bus.options().sender("news").expect("the guest hosts").send(b"x").expect("sent");
    assert_eq!(guest.line(), "received 1 lost 0 gaps 1 disorder 0");
}

#[test]
fn killed_daemon_is_replaced_and_told_as_one_gap() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut listeners = [listener(&bus, u64::MAX), listener(&bus, u64::MAX)];
    let mut pinger = probe(&bus, &["ping", "news"]);
    for _ in 0..10 {
        pinger.tell("before");
        assert_eq!(pinger.line(), "ok");
    }
    daemon.signal(Signal::KILL);
    drop(daemon);
    for listener in &mut listeners {
        assert_eq!(listener.line(), "gap");
    }
    for _ in 0..10 {
        pinger.tell("after");
        assert_eq!(pinger.line(), "ok");
    }
    for listener in &mut listeners {
        listener.end_input();
        let line = listener.line();
        assert!(line.ends_with("lost 0 gaps 1 disorder 0"), "{line}");
        let received: u64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a count");
        assert!(received >= 10, "the ten after the gap arrive at least: {line}");
    }
}

#[test]
fn stalled_listener_learns_its_loss_and_stalls_nobody() {
    const FRAMES: u64 = 4000;
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut healthy = listener(&bus, FRAMES);
    let mut stalled = listener(&bus, FRAMES);
    stalled.signal(Signal::STOP);
    // Paced by the healthy listener's progress, so that what it loses would be the stalled one's doing.
    let mut sender = bus.options().sender("news").expect("connected");
    let payload = vec![1; 16 * 1024];
    for sent in 1..=FRAMES {
        sender.send(&payload).expect("a sender never waits for a listener");
        if sent % 50 == 0 {
            let report = until(&bus, |report| report.messages_delivered >= sent);
            assert!(report.held_bytes <= report.held_bytes_max);
        }
    }
    assert_eq!(healthy.line(), format!("received {FRAMES} lost 0 gaps 0 disorder 0"));
    stalled.signal(Signal::CONT);
    let line = stalled.line();
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [received, lost, gaps, disorder] = numbers[..] else { panic!("{line}") };
    assert_eq!((received + lost, gaps, disorder), (FRAMES, 0, 0), "{line}");
    assert!(lost > 0, "64 MB were meant to be too much for it: {line}");
}

#[test]
fn stopped_daemon_makes_calls_time_out() {
    const DEADLINE: Duration = Duration::from_millis(100);
    let bus = Bus::new();
    let daemon = bus.start();
    let options = bus.options().deadline(DEADLINE);
    let mut sender = options.sender("news").expect("connected");
    let mut listener = options.listener("news").expect("connected");
    daemon.signal(Signal::STOP);
    let failed = loop {
        // Its socket still takes some.
        if let Err(error) = sender.send(&[0; 4096]) {
            break error;
        }
    };
    assert!(matches!(failed, SendError::TimedOut { after: DEADLINE }), "{failed}");
    assert!(matches!(sender.try_send(b"x"), Err(SendError::Full)));
    assert!(matches!(listener.recv_timeout(DEADLINE), Err(RecvError::TimedOut { .. })));
    assert!(matches!(options.listener("news"), Err(ConnectError::TimedOut { .. })), "accepts and does not greet");
    assert!(matches!(options.daemon().status(), Err(ConnectError::TimedOut { .. })));
    let before = sender.id();
    daemon.signal(Signal::CONT);
    // Everything that was reported as sent arrives, in order and without a hole.
    sender.send(b"last").expect("it goes on");
    let mut due = 0;
    loop {
        let message = listener.recv().expect("no loss");
        assert_eq!((message.sender(), message.sequence()), (before, due));
        due += 1;
        if message.payload() == b"last" {
            break;
        }
    }
}

#[test]
fn full_backlog_does_not_hang_a_client() {
    let bus = Bus::new();
    // A socket of which nobody ever accepts, with the smallest backlog there is.
    let address = rustix::net::SocketAddrUnix::new(bus.socket()).expect("a short path");
    let socket = || {
        use rustix::net::{AddressFamily, SocketType, socket};
        socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket")
    };
    let never_accepts = socket();
    rustix::net::bind(&never_accepts, &address).expect("bound");
    rustix::net::listen(&never_accepts, 0).expect("listening");
    let in_backlog = socket();
    rustix::net::connect(&in_backlog, &address).expect("room for one");
    let options = bus.options().deadline(Duration::from_millis(100));
    let started = Instant::now();
    let error = options.sender("news").expect_err("nobody accepts");
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "it gave up by itself");
}

#[test]
fn daemon_that_accepts_and_dies_does_not_hold_up_a_client() {
    let bus = Bus::new();
    let socket = std::os::unix::net::UnixListener::bind(bus.socket()).expect("bound");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let accepts = std::thread::spawn(move || {
        let mut accepted = 0;
        socket.set_nonblocking(true).expect("set");
        while stopped.try_recv().is_err() {
            accepted += u32::from(socket.accept().is_ok());
        }
        accepted
    });
    let error = bus.options().deadline(Duration::from_millis(50)).sender("news").expect_err("no handshake");
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    stop.send(()).expect("it listens");
    assert!(accepts.join().expect("it has accepted") > 1, "it was meant to be tried again");
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
    assert!(!bus.socket().exists(), "an orderly stop takes its own file away");
}

#[test]
fn daemon_that_nobody_can_find_any_more_makes_way() {
    type Take = fn(&Bus);
    let ways: [Take; 3] = [
        |bus| std::fs::remove_file(bus.socket()).expect("removed"),
        |bus| std::fs::remove_file(bus.directory().join("bus.lock")).expect("removed"),
        |bus| std::fs::rename(bus.socket(), bus.directory().join("elsewhere")).expect("renamed"),
    ];
    for take_away in ways {
        let bus = Bus::new();
        let mut daemon = bus.start();
        let mut ear = listener(&bus, 1);
        take_away(&bus);
        assert_eq!(daemon.wait(), Some(0), "it has noticed, and stopped in good order");
        assert_eq!(ear.line(), "gap", "its listeners are on the next daemon");
        bus.options().sender("news").expect("connected").send(b"x").expect("sent");
        assert_eq!(ear.line(), "received 1 lost 0 gaps 1 disorder 0");
    }
}

#[test]
fn foreign_socket_file_is_left_alone() {
    let bus = Bus::new();
    let own = std::os::unix::net::UnixListener::bind(bus.socket()).expect("bound");
    let output = bus.run(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a program that does not hold our lock"), "{said}");
    assert!(bus.socket().exists());
    drop(own);
}

#[test]
fn unusable_places_are_named() {
    let bus = Bus::new();
    let says = |socket: &std::path::Path, wanted: &[&str]| {
        let output = bus.run(&["run", "--socket", socket.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        for part in wanted {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    };
    let inside = |name: &str| bus.directory().join(name);

    let long = inside(&"d".repeat(120));
    says(&long, &["107", &long.display().to_string()]);

    std::fs::write(inside("file"), b"").expect("written");
    says(&inside("file").join("bus.sock"), &["not a directory"]);
    says(&inside("file"), &["not a socket"]);

    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(inside("loose")).expect("made");
    std::fs::set_permissions(inside("loose"), PermissionsExt::from_mode(0o777)).expect("set");
    says(&inside("loose").join("bus.sock"), &["0777", "chmod 0700"]);

    if rustix::process::geteuid().as_raw() == 0 {
        std::fs::create_dir(inside("foreign")).expect("made");
        std::os::unix::fs::chown(inside("foreign"), Some(65534), None).expect("given away");
        says(&inside("foreign").join("bus.sock"), &["belongs to uid 65534, not to uid 0"]);
    } else {
        eprintln!("SKIPPED: only root can make a directory of another owner");
    }

    std::os::unix::fs::symlink(inside("elsewhere"), inside("link")).expect("linked");
    says(&inside("link").join("bus.sock"), &["not a directory"]);
    assert!(!inside("elsewhere").exists(), "nothing was made through the link");
}

#[test]
fn orderly_stop_loses_nothing() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut ear = listener(&bus, u64::MAX);
    ear.signal(Signal::STOP); // what is sent now waits in the daemon and its sockets
    let mut sender = bus.options().sender("news").expect("connected");
    for _ in 0..500 {
        sender.send(&[0; 1000]).expect("sent");
    }
    daemon.signal(Signal::TERM);
    ear.signal(Signal::CONT);
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(ear.line(), "gap", "the next daemon is another one");
    ear.end_input();
    assert_eq!(ear.line(), "received 500 lost 0 gaps 1 disorder 0");
}

/// A test runner may have fewer descriptors than its daemon.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}

#[test]
fn thousands_of_connections_end_in_good_order() {
    // As many as one process may have; each is told goodbye in the same turn.
    let bus = Bus::new();
    let mut daemon = bus.start();
    raise_descriptor_limit();
    let listeners: Vec<_> = (0..1000).map(|_| bus.options().listener("news").expect("connected")).collect();
    assert_eq!(until(&bus, |report| report.listeners == 1000).listeners, 1000);
    assert!(bus.run(&["stop"]).status.success());
    assert_eq!(daemon.wait(), Some(0));
    drop(listeners);
}

#[test]
fn stop_and_start_gives_a_daemon() {
    let bus = Bus::new();
    for _ in 0..10 {
        assert!(bus.run(&["start"]).status.success());
        let _ear = bus.options().listener("news").expect("connected");
        assert!(bus.run(&["stop"]).status.success());
        assert!(bus.run(&["start"]).status.success());
        assert!(bus.options().daemon().status().is_ok(), "start has started one");
    }
}

#[test]
fn large_message_that_a_stopped_daemon_has_begun_to_take_is_told_as_unfinished() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut ear = bus.options().listener("news").expect("connected");
    let mut sender = bus.options().deadline(Duration::from_millis(50)).sender("news").expect("connected");
    daemon.signal(Signal::STOP);
    let large = vec![3; 8 << 20];
    assert!(matches!(sender.send(&large), Err(SendError::Unfinished { .. })));
    daemon.signal(Signal::CONT);
    while let Err(error) = sender.flush() {
        assert!(matches!(error, SendError::TimedOut { .. }), "{error}");
    }
    assert!(ear.recv().expect("no loss").payload() == large);
}

#[test]
fn idle_daemon_ends_and_races_nobody() {
    let bus = Bus::new();
    let mut daemon = Process::spawn(&mut bus.command(program(), &["run", "--log", "warn", "--idle-exit", "20ms"]));
    assert!(daemon.line().starts_with("listening"));
    let held = bus.options().listener("news").expect("connected");
    assert!(bus.options().daemon().status().is_ok());
    drop(held);
    assert_eq!(daemon.wait(), Some(0));
    // Clients that come while daemons end: each finds one, or starts one.
    let keeps_starting = |_| {
        let mut command = bus.command(program(), &["send", "news", "x"]);
        let mut impatient =
            Process::spawn(&mut bus.command(program(), &["run", "--idle-exit", "1ms", "--log", "error"]));
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        impatient.wait();
    };
    (0..20).for_each(keeps_starting);
}

#[test]
fn started_daemon_is_clean() {
    let bus = Bus::new();
    // What the caller has open, and a variable of its own, must not live on in the daemon.
    let (mut leak, leaked) = std::io::pipe().expect("a pipe");
    let leaked = std::os::fd::OwnedFd::from(leaked);
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("inheritable");
    let mut command = bus.command(program(), &["start"]);
    command.env("SECRET", "1").current_dir(bus.directory()).stdin(std::process::Stdio::null());
    // Captured to the end: a daemon that kept the pipe open would hang this.
    let output = command.output().expect("runs");
    assert!(output.status.success());
    drop(leaked);
    let mut end = Vec::new();
    std::io::Read::read_to_end(&mut leak, &mut end).expect("the daemon has not kept the pipe");

    let pid = bus.options().daemon().status().expect("it runs").pid;
    let of = |what: &str| format!("/proc/{pid}/{what}");
    let text = |what: &str| String::from_utf8_lossy(&std::fs::read(of(what)).expect("ours")).into_owned();
    assert_eq!(std::fs::read_link(of("cwd")).expect("ours"), std::path::Path::new("/"));
    assert!(!text("environ").contains("SECRET"));
    assert!(text("status").lines().any(|line| line == "SigBlk:\t0000000000000000"));
    let stat = text("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a stat").split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "its session is its own");
    assert_eq!(fields[4], "0", "it has no terminal");
    for fd in 0..3 {
        let target = std::fs::read_link(of(&format!("fd/{fd}"))).expect("open");
        assert_eq!(target, std::path::Path::new("/dev/null"));
    }
}

#[test]
fn useless_programs_for_a_daemon_are_named() {
    let bus = Bus::new();
    let options = bus.options().autostart(true).deadline(Duration::from_millis(200));
    let error = options.clone().program("/bin/false").sender("news").expect_err("it fails");
    assert!(error.to_string().contains("/bin/false could not start the daemon"), "{error}");
    let error = options.clone().program("/bin/true").sender("news").expect_err("it does nothing");
    assert!(error.to_string().contains("one was started, and none answers there"), "{error}");
    let error = options.clone().program("/nonexistent").sender("news").expect_err("there is none");
    assert!(error.to_string().contains("cannot run /nonexistent"), "{error}");
    // One that hangs does not hold up its caller.
    let hangs = bus.directory().join("hangs");
    std::fs::write(&hangs, "#!/bin/sh\nexec sleep 30\n").expect("written");
    std::fs::set_permissions(&hangs, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    let error = options.program(&hangs).sender("news").expect_err("it hangs");
    assert!(matches!(error, ConnectError::TimedOut { .. } | ConnectError::Io { .. }), "{error}");
    assert!(!bus.socket().exists());
}

#[test]
fn status_and_stop_never_start_a_daemon() {
    let bus = Bus::new();
    for command in ["status", "stop"] {
        let output = bus.run(&[command]);
        assert_eq!(output.status.code(), Some(4), "nobody there");
        assert!(!bus.socket().exists());
    }
}

#[test]
fn a_shell_sends_and_listens() {
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
    lines.tell("two");
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
fn demo_shows_that_nobody_misses_anything() {
    let bus = Bus::new();
    let output = bus.run(&["demo"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("every listener got every frame, in order: 3 x 2000"), "{said}");
}

#[test]
fn garbage_is_answered_and_hurts_nobody() {
    use std::io::{Read, Write};
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut ear = bus.options().listener("news").expect("connected");
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
        // It may be refused before it is all read.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    bus.options().sender("news").expect("connected").send(b"still here").expect("sent");
    assert_eq!(ear.recv().expect("no loss").payload(), b"still here");
}

/// Needs root, to be somebody else as well.
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
    // Open every door but ours: what refuses now is the check of the user id.
    let all =
        |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
    all(bus.directory(), 0o755);
    all(&bus.socket(), 0o666);
    // Copied by another process: a descriptor open for writing that a child of another test inherits makes exec fail.
    let copy = |program: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg(program).arg(bus.directory()).status();
        assert!(copied.expect("cp runs").success());
        bus.directory().join(program.file_name().expect("a program"))
    };
    let (daemon, probe) = (copy(program()), copy(std::path::Path::new(PROBE)));
    let as_nobody = |program: &std::path::Path, arguments: &[&str]| {
        let mut command = bus.command(program, arguments);
        let output = command.uid(65534).gid(65534).stderr(std::process::Stdio::piped()).output().expect("runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = as_nobody(&daemon, &["status"]);
    assert!(said.contains("served by uid 0, not by uid 65534"), "the client refuses: {said}");
    assert_eq!(code, Some(5));
    let (_, said) = as_nobody(&probe, &["careless"]);
    assert!(said.contains("belongs to uid 0; you are uid 65534"), "the daemon refuses: {said}");
}

/// Needs root, to mount a file system that is full or read-only.
#[test]
fn full_and_read_only_disks_are_named() {
    if rustix::process::geteuid().as_raw() != 0 {
        eprintln!("SKIPPED: full_and_read_only_disks_are_named needs root");
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
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted) && said.contains("bus.lock"), "{said}");
    }
}

#[test]
fn processes_that_do_not_see_one_another_meet() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: processes_that_do_not_see_one_another_meet needs root, for a pid namespace");
        return;
    }
    let apart = ["--pid", "--fork", "--kill-child", "--mount-proc", program().to_str().expect("a path in UTF-8")];
    // A daemon apart: to it, its clients have no pid that it could name.
    let bus = Bus::new();
    let mut daemon = Process::spawn(&mut bus.command("unshare", &[&apart[..], &["run", "--log", "warn"]].concat()));
    assert!(daemon.line().starts_with("listening on"));
    let mut listener = bus.options().listener("news").expect("joined");
    bus.options().sender("news").expect("connected").send(b"hello").expect("sent");
    let message = listener.recv_timeout(Duration::from_secs(30)).expect("heard");
    assert_eq!((message.payload(), message.sender_pid()), (&b"hello"[..], 0));
    bus.options().daemon().stop().expect("stopped");

    // A client apart: the daemon's pid says nothing to it.
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("joined");
    let sent = bus.command("unshare", &[&apart[..], &["send", "news", "hello"]].concat()).status().expect("it runs");
    assert!(sent.success());
    let message = listener.recv_timeout(Duration::from_secs(30)).expect("heard");
    assert!(message.sender_pid() > 1, "the daemon's own number for the process: {}", message.sender_pid());
}

#[test]
fn a_monitor_sees_all_channels_and_is_no_listener() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut command = bus.command(program(), &["monitor", "--json", "--payload", "--count", "3"]);
    let mut monitor = Process::spawn(command.stderr(std::process::Stdio::piped()));
    monitor.expect_error_line("watching all channels");
    let mut sender = bus.options().sender("news").expect("connected");
    sender.send(b"one").expect("sent");
    sender.send(b"\xff").expect("sent");
    let other = bus.run(&["send", "other", "three"]);
    assert!(other.status.success());
    let seen: Vec<serde_json::Value> =
        monitor.rest().lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect();
    let facts = |at: usize| (seen[at]["channel"].as_str(), seen[at]["sequence"].as_u64(), seen[at]["bytes"].as_u64());
    assert_eq!(facts(0), (Some("news"), Some(0), Some(3)));
    assert_eq!(facts(1), (Some("news"), Some(1), Some(1)));
    assert_eq!(facts(2), (Some("other"), Some(0), Some(5)));
    assert_eq!((&seen[0]["payload"], &seen[1]["payload_hex"]), (&"one".into(), &"ff".into()));
    assert_eq!(seen[0]["pid"].as_u64(), Some(u64::from(std::process::id())));
    assert_eq!(monitor.wait(), Some(0));
    let report = bus.options().daemon().status().expect("answers").report;
    assert_eq!((report.messages_accepted, report.messages_delivered, report.listeners), (3, 0, 0));
}

#[test]
fn a_monitor_waits_for_a_daemon_that_has_gone_and_starts_none() {
    let bus = Bus::new();
    let alone = bus.run(&["monitor"]);
    assert_eq!(alone.status.code(), Some(4));
    let daemon = bus.start();
    let mut monitor = bus.options().daemon().monitor(["news"]).expect("a daemon is there");
    drop(daemon);
    assert!(matches!(monitor.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    assert!(matches!(monitor.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    let _next = bus.start();
    let mut sender = bus.options().sender("news").expect("connected");
    // It joins while it receives, so the first messages may pass before that.
    let seen = loop {
        sender.send(b"again").expect("sent");
        match monitor.recv_timeout(Duration::from_millis(50)) {
            Ok(message) => break message,
            Err(error) => assert!(matches!(error, RecvError::TimedOut { .. }), "{error}"),
        }
    };
    assert_eq!(seen.payload(), b"again");
}

#[test]
fn sockets_that_were_passed_to_somebody_else_are_not_taken() {
    // Nothing is open there; who takes it fails. The count is one for which nobody has memory.
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
fn a_monitor_gives_up_in_time_though_the_daemon_has_gone() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut command = bus.command(program(), &["monitor", "--timeout", "300ms"]);
    let mut monitor = Process::spawn(command.stderr(std::process::Stdio::piped()));
    monitor.expect_error_line("watching all channels");
    drop(daemon);
    assert_eq!(monitor.wait(), Some(3));
}

#[test]
fn a_look_takes_a_daemon_that_is_leaving_for_gone() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let stalled = bus.options().listener("news").expect("joined");
    let mut other = bus.options().listener("other").expect("joined");
    let mut sender = bus.options().sender("news").expect("connected");
    for _ in 0..64 {
        sender.send(&[7; 64 * 1024]).expect("sent");
    }
    until(&bus, |report| report.messages_accepted == 64);
    daemon.signal(Signal::TERM);
    // It has said goodbye to whoever reads, and waits for the one that does not.
    assert!(matches!(other.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    let lock = bus.directory().join("bus.lock");
    let length = || std::fs::metadata(&lock).expect("the lock file").len();
    assert_eq!(length(), 1, "it says that it leaves");
    // A service manager goes on listening on its socket; to connect there would start the next daemon.
    let manager = std::os::unix::net::UnixListener::bind(bus.socket()).expect("the path is free");
    assert!(matches!(bus.options().daemon().status(), Err(ConnectError::NotRunning { .. })));
    manager.set_nonblocking(true).expect("a flag");
    assert!(manager.accept().is_err(), "nobody has connected");
    drop((manager, stalled));
    std::fs::remove_file(bus.socket()).expect("it was ours");
    assert_eq!(daemon.wait(), Some(0));
    let _next = bus.start();
    assert_eq!(length(), 0);
    bus.options().daemon().status().expect("the next one is found");
}

#[test]
fn service_manager_that_hangs_does_not_hold_up_the_bus() {
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
    bus.options().daemon().status().expect("it serves while its manager hears nothing");
    // Once the manager listens again, it learns all that it must.
    let mut said = [0; 512];
    let mut next = || {
        let len = manager.recv(&mut said).expect("a datagram");
        String::from_utf8_lossy(&said[..len]).into_owned()
    };
    (0..fillers).for_each(|_| assert_eq!(next(), "full"));
    assert_eq!(next(), "READY=1\nSTATUS=ready");
    let beat = next();
    assert!(beat.starts_with("WATCHDOG=1\nSTATUS=0 senders, 0 listeners, 0 channels; "), "{beat}");
    daemon.signal(Signal::TERM);
    while !next().starts_with("STOPPING=1") {}
    assert_eq!(daemon.wait(), Some(0));
}
