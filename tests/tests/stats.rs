//! The statistics of a real daemon, compared with what happened. Each test has a bus of its own.

#![cfg(unix)]

use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_tests::daemon::{Bus, Process};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use system_broadcaster::{Overflow, SharedMemory};

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

fn stats_socket(bus: &Bus) -> PathBuf {
    bus.directory().join("stats.sock")
}

/// Head and body of the answer to `GET path`.
fn get(bus: &Bus, path: &str) -> (String, String) {
    let mut stream = UnixStream::connect(stats_socket(bus)).expect("a stats socket");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("requested");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.to_owned(), body.to_owned())
}

fn json(bus: &Bus) -> Value {
    serde_json::from_str(&get(bus, "/stats.json").1).expect("JSON")
}

/// The value of a sample of `GET /metrics`.
fn sample(metrics: &str, name: &str) -> String {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).to_owned()
}

/// The output of a command, which must succeed.
fn command(bus: &Bus, arguments: &[&str]) -> String {
    let output = bus.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn listener(bus: &Bus) -> Process {
    let mut probe = Process::spawn(&mut bus.command(PROBE, &["listen", "news", &u64::MAX.to_string()]));
    assert_eq!(probe.line(), "joined");
    probe
}

#[test]
fn statistics_match_what_was_sent_and_received() {
    let bus = Bus::new();
    let daemon = bus.start();
    let options = bus.options();
    let (mut one, mut two) = (options.listener("news").expect("joined"), options.listener("news").expect("joined"));
    let (mut news, mut odd) = (options.sender("news").expect("open"), options.sender(r#"a "b" \c"#).expect("open"));
    for _ in 0..10 {
        news.send(&[7; 100]).expect("sent");
    }
    for _ in 0..10 {
        one.recv().expect("received");
        two.recv().expect("received");
    }
    for _ in 0..3 {
        odd.send(b"without effect").expect("sent");
    }
    // The daemon answers after it has read what was sent before.
    while options.daemon().status().expect("it answers").messages_accepted < 13 {}

    let news_bytes = 10 * (HEADER_BYTES + 100);
    let odd_bytes = 3 * (HEADER_BYTES + 14);
    let stats = json(&bus);
    let daemon_stats = &stats["daemon"];
    assert_eq!(daemon_stats["pid"], daemon.pid());
    assert_eq!(daemon_stats["socket"], bus.socket().display().to_string());
    for (field, wanted) in [
        ("connections", 4),
        ("senders", 2),
        ("listeners", 2),
        ("messages_accepted", 13),
        ("bytes_accepted", news_bytes + odd_bytes),
        ("messages_delivered", 20),
        ("messages_lost", 0),
        ("connections_refused", 0),
    ] {
        assert_eq!(daemon_stats[field], wanted, "{field} of {daemon_stats}");
    }
    let channels = stats["channels"].as_array().expect("an array");
    let channel = |at: usize, field: &str| channels[at][field].clone();
    assert_eq!((channels.len(), channel(0, "name"), channel(1, "name")), (2, r#"a "b" \c"#.into(), "news".into()));
    let numbers = |at| ["senders", "listeners", "messages_accepted", "bytes_accepted"].map(|field| channel(at, field));
    assert_eq!(numbers(0), [1, 0, 3, odd_bytes].map(Value::from));
    assert_eq!(numbers(1), [1, 2, 10, news_bytes].map(Value::from));

    let ours = std::fs::read_to_string("/proc/self/comm").ok().map(|name| name.trim_end().to_owned());
    let connections = stats["connections"].as_array().expect("an array");
    let of_each = |field: &str| connections.iter().map(|it| it[field].clone()).collect::<Vec<_>>();
    assert_eq!(of_each("subscriptions"), [1, 1, 0, 0].map(Value::from), "oldest first");
    assert_eq!(of_each("publications"), [0, 0, 1, 1].map(Value::from));
    assert_eq!(of_each("observers"), [0, 0, 0, 0].map(Value::from));
    assert_eq!(of_each("phase"), ["active"; 4].map(Value::from));
    for (connection, messages) in connections.iter().zip([10, 10, 10, 3]) {
        assert_eq!(connection["pid"], std::process::id());
        assert_eq!(connection["process"].as_str(), ours.as_deref());
        assert_eq!((&connection["messages"], &connection["queue_messages"]), (&messages.into(), &0.into()));
        assert_eq!((&connection["messages_lost"], &connection["blocked_ms"]), (&0.into(), &Value::Null));
    }

    let (head, metrics) = get(&bus, "/metrics");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    for (name, wanted) in [
        (r#"broadcaster_connections{phase="active"}"#, 4),
        ("broadcaster_senders", 2),
        ("broadcaster_listeners", 2),
        ("broadcaster_observers", 0),
        ("broadcaster_channels", 2),
        ("broadcaster_messages_accepted_total", 13),
        ("broadcaster_accepted_bytes_total", news_bytes + odd_bytes),
        ("broadcaster_messages_delivered_total", 20),
        (r#"broadcaster_channel_messages_accepted_total{channel="a \"b\" \\c"}"#, 3),
        (r#"broadcaster_channel_accepted_bytes_total{channel="news"}"#, news_bytes),
    ] {
        assert_eq!(sample(&metrics, name), wanted.to_string(), "{name}");
    }

    let summary = command(&bus, &["stats"]);
    assert!(summary.contains("accepted     13 messages, "), "{summary}");
    assert!(!summary.contains("Slow"), "{summary}");
    let document: Value = serde_json::from_str(&command(&bus, &["stats", "--json"])).expect("JSON");
    assert_eq!(document["channels"], stats["channels"]);
    assert_eq!(sample(&command(&bus, &["stats", "--metrics"]), "broadcaster_messages_accepted_total"), "13");
    let lines: Vec<Value> = command(&bus, &["channels", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object on each line"))
        .collect();
    assert_eq!(&lines, channels);
    let table = command(&bus, &["channels"]);
    let row: Vec<&str> = table.lines().last().expect("a row").split_whitespace().collect();
    assert_eq!(row, ["news", "1", "2", "10", "1.2", "KiB", "0"], "{table}");
    assert_eq!(command(&bus, &["peers", "--json"]).lines().count(), 4);
    assert_eq!(command(&bus, &["peers"]).lines().count(), 5);
}

/// Of three listeners, two read the ring themselves: the third one asks for the newest message.
#[test]
fn rings_and_their_readers_are_listed() {
    if broadcaster_local::shared_memory_problem().is_some() {
        return;
    }
    let bus = Bus::new();
    let _daemon = bus.start();
    let options = bus.options();
    let mut direct = [options.listener("news").expect("joined"), options.listener("news").expect("joined")];
    let mut latest = options.clone().overflow(Overflow::Latest).listener("news").expect("joined");
    let mut sender = options.shared_memory(SharedMemory::Always).sender("news").expect("open");
    let stats = loop {
        sender.send(b"x").expect("sent");
        for listener in &mut direct {
            listener.recv().expect("received");
        }
        while latest.try_recv().is_ok() {}
        let metrics = get(&bus, "/metrics").1;
        if sample(&metrics, "broadcaster_links") == "2" {
            assert_eq!(sample(&metrics, "broadcaster_rings"), "1");
            break json(&bus);
        }
    };
    assert_eq!((&stats["daemon"]["rings"], &stats["daemon"]["links"]), (&1.into(), &2.into()));
    let in_rings = stats["daemon"]["ring_messages_accepted"].as_u64().expect("a number");
    assert!((1..stats["daemon"]["messages_accepted"].as_u64().expect("a number")).contains(&in_rings), "{in_rings}");
    let connections = stats["connections"].as_array().expect("an array");
    let of_each = |field: &str| connections.iter().map(|it| it[field].clone()).collect::<Vec<_>>();
    assert_eq!(of_each("rings"), [0, 0, 0, 1].map(Value::from), "oldest first");
    assert_eq!(of_each("ring_readers"), [0, 0, 0, 2].map(Value::from));
    assert_eq!(of_each("ring_listeners"), [0, 0, 0, 3].map(Value::from));
    assert_eq!(of_each("links"), [1, 1, 0, 0].map(Value::from));
    let table = command(&bus, &["peers"]);
    let path = table.lines().next().and_then(|titles| titles.find("PATH")).expect("a column");
    let paths: Vec<_> = table.lines().skip(1).map(|row| row[path..].split("  ").next().unwrap_or_default()).collect();
    assert_eq!(paths, ["memory", "memory", "socket", "memory 2/3"], "{table}");
    assert!(command(&bus, &["stats"]).contains("rings        1 in shared memory, 2 links"));
}

#[test]
fn observer_is_no_listener() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let monitor = bus.options().daemon().monitor(["news"]).expect("connected");
    let stats = json(&bus);
    let connection = &stats["connections"][0];
    assert_eq!((&connection["observers"], &connection["subscriptions"]), (&1.into(), &0.into()), "{stats}");
    assert_eq!((&stats["daemon"]["observers"], &stats["daemon"]["listeners"]), (&1.into(), &0.into()), "{stats}");
    let table = command(&bus, &["peers"]);
    assert!(table.lines().last().is_some_and(|row| row.contains("observer")), "{table}");
    drop(monitor);
}

#[test]
fn stopped_listener_is_listed_with_its_queue() {
    const FRAMES: u64 = 1000;
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut stopped = listener(&bus);
    stopped.signal(Signal::STOP);
    let mut sender = bus.options().sender("news").expect("open");
    for _ in 0..FRAMES {
        sender.send(&[0; 16 * 1024]).expect("a sender never waits for a listener");
    }
    while bus.options().daemon().status().expect("it answers").messages_accepted < FRAMES {}

    let stats = json(&bus);
    let connections = stats["connections"].as_array().expect("an array");
    let slow = connections.iter().find(|connection| connection["pid"] == stopped.pid()).expect("listed");
    assert_eq!((&slow["subscriptions"], &slow["process"]), (&1.into(), &"bus-probe".into()));
    assert_eq!((&slow["channels"], &slow["channels_total"]), (&serde_json::json!(["news"]), &1.into()));
    assert!(slow["blocked_ms"].is_u64(), "{slow}");
    let number = |field: &str| slow[field].as_u64().unwrap_or_else(|| panic!("{field} of {slow}"));
    assert!(number("queue_messages") > 0 && number("messages_lost") > 0, "16 MB exceed its queue: {slow}");
    assert_eq!(number("messages") + number("queue_messages") + number("messages_lost"), FRAMES, "{slow}");
    assert!(number("queue_bytes") <= stats["daemon"]["queue_bytes_max"].as_u64().expect("a limit"), "{slow}");
    assert_eq!(stats["daemon"]["messages_lost"], number("messages_lost"));
    assert_eq!(stats["channels"][0]["messages_lost"], number("messages_lost"));

    let metrics = get(&bus, "/metrics").1;
    let labels = format!(
        r#"{{id="{}",pid="{}",process="bus-probe",kind="listener",channel="news"}}"#,
        number("id"),
        stopped.pid()
    );
    let of_listener = |family: &str| sample(&metrics, &format!("broadcaster_listener_{family}{labels}"));
    assert_eq!(of_listener("queue_messages"), number("queue_messages").to_string());
    assert_eq!(of_listener("queue_bytes"), number("queue_bytes").to_string());
    assert_eq!(of_listener("messages_lost_total"), number("messages_lost").to_string());
    assert!(of_listener("blocked_seconds").parse::<f64>().expect("a number") >= 0.0);

    let summary = command(&bus, &["stats"]);
    let (_, slow) = summary.split_once("Slow listeners").expect("one is slow");
    assert!(slow.contains(&stopped.pid().to_string()) && slow.contains("bus-probe"), "{summary}");

    stopped.signal(Signal::CONT);
    stopped.end_input();
    assert!(stopped.line().starts_with("received "));
    while bus.options().daemon().status().expect("it answers").listeners > 0 {}
    // Requests within a quarter of a second share one snapshot.
    while get(&bus, "/metrics").1.contains("bus-probe") {}
}

#[test]
fn commands_start_no_daemon_and_report_that_none_runs() {
    let bus = Bus::new();
    for command in ["stats", "channels", "peers"] {
        let output = bus.run(&[command]);
        assert_eq!(output.status.code(), Some(4), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(std::fs::read_dir(bus.directory()).expect("listed").count(), 0);
}

#[test]
fn host_without_a_stats_socket_is_reported() {
    let bus = Bus::new();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let lone = directory.path().join("bus-probe");
    std::fs::hard_link(PROBE, &lone).expect("linked within the target directory");
    let mut host = bus.command(&lone, &["listen", "news", "1"]);
    let mut host = Process::spawn(host.env_remove("BROADCASTERD").env("PATH", "/nonexistent"));
    assert_eq!(host.line(), "joined");
    let output = bus.run(&["stats"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("process {}", host.pid())) && stderr.contains("no stats socket"), "{stderr}");
}

#[test]
fn stopped_daemon_times_out_and_an_ended_one_leaves_no_socket() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    assert!(stats_socket(&bus).exists());
    daemon.signal(Signal::STOP);
    let output = bus.run(&["stats"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("within 5s"), "{stderr}");
    daemon.signal(Signal::CONT);
    let _open = UnixStream::connect(stats_socket(&bus)).expect("connected");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0), "an open stats connection does not delay the stop");
    assert!(!stats_socket(&bus).exists());
}

#[test]
fn other_user_gets_no_statistics() {
    const OTHER_UID: u32 = 65_534;
    let bus = Bus::new();
    let _daemon = bus.start();
    let mode = std::fs::metadata(stats_socket(&bus)).expect("listed").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if rustix::process::geteuid().as_raw() != 0 {
        let why = "only root can become another user";
        writeln!(std::io::stderr(), "SKIPPED: other_user_gets_no_statistics: {why}").expect("stderr is open");
        return;
    }
    // A place where the other user may run the program.
    let directory = tempfile::tempdir().expect("a directory");
    let open = |path: PathBuf, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
    open(directory.path().to_owned(), 0o755);
    let probe = directory.path().join("bus-probe");
    // Copied by another process: a file that this one has open for writing, also in a child of another test, cannot be executed.
    let copied = Command::new("install").args(["-m", "755", PROBE]).arg(&probe).status();
    assert!(copied.expect("install runs").success());
    let ask = |uid| {
        let mut probe = bus.command(&probe, &["stats", "/healthz"]);
        Process::spawn(probe.uid(uid).gid(uid).current_dir("/")).rest()
    };
    assert!(ask(0).starts_with("answered HTTP/1.1 200 OK"));
    open(bus.directory().to_owned(), 0o755);
    let answer = ask(OTHER_UID);
    assert!(answer.contains("Permission denied"), "{answer}");
    // Even if the modes admit it, the daemon checks the user.
    open(stats_socket(&bus), 0o666);
    assert_eq!(ask(OTHER_UID), "answered \n");
}
