//! Retained messages from a shell, and across the deaths of daemons that are processes of their own.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use std::process::Output;
use std::time::Duration;
use system_broadcaster::RecvError;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that succeeds; its output.
fn printed(bus: &Bus, arguments: &[&str]) -> String {
    let output = bus.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Exit code and diagnostics of a command that prints nothing.
fn failed(output: &Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    (output.status.code(), text(&output.stderr))
}

fn nothing(channel: &str) -> (Option<i32>, String) {
    (Some(10), format!("broadcasterd: nothing is retained on channel \"{channel}\"\n"))
}

/// Sends these lines with `arguments`; exit code and diagnostics.
fn send_lines(bus: &Bus, arguments: &[&str], lines: &[&str]) -> Option<i32> {
    let mut sending = Process::spawn(&mut bus.command(program(), &[&["send", "log", "--lines"], arguments].concat()));
    lines.iter().for_each(|line| sending.write_line(line));
    sending.end_input();
    sending.wait()
}

#[test]
fn a_value_is_sent_read_listed_and_cleared() {
    let bus = Bus::new();
    let _daemon = bus.start();
    assert_eq!(failed(&bus.run(&["get", "theme"])), nothing("theme"));
    assert_eq!(printed(&bus, &["send", "theme", "light", "--retain"]), "");
    assert_eq!(printed(&bus, &["send", "theme", "dark\n", "--retain"]), "");
    assert_eq!(printed(&bus, &["send", "theme", "an event"]), "");
    assert_eq!(printed(&bus, &["get", "theme"]), "dark\n", "byte for byte");
    let object: serde_json::Value = serde_json::from_str(&printed(&bus, &["get", "theme", "--json"])).expect("JSON");
    assert_eq!((&object["channel"], &object["payload"]), (&"theme".into(), &"dark\n".into()));
    assert_eq!((&object["replayed"], &object["sequence"]), (&true.into(), &0.into()));

    printed(&bus, &["send", "mode", "night", "--lifetime", "1h"]);
    let table = printed(&bus, &["retained"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["CHANNEL", "MESSAGES", "BYTES", "SENDER", "AGE", "LEFT"]);
    assert_eq!(
        (rows.len(), rows[1][0], rows[1][1], rows[1][rows[1].len() - 1].starts_with("59m")),
        (3, "mode", "1", true),
        "{table}"
    );
    assert_eq!((rows[2][0], rows[2].last()), ("theme", Some(&"-")), "{table}");
    let lines = printed(&bus, &["retained", "--json"]);
    let objects: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&objects[0]["channel"], &objects[1]["channel"]), (&"mode".into(), &"theme".into()));
    assert!(objects[0]["lifetime_ms"].as_u64().is_some_and(|ms| ms > 3_000_000), "{lines}");
    assert_eq!((&objects[1]["lifetime_ms"], &objects[1]["retained_messages"]), (&serde_json::Value::Null, &1.into()));
    let stats = printed(&bus, &["stats"]);
    assert!(stats.contains("  retained     2 messages of 2 channels, "), "{stats}");
    assert!(stats.contains(" of 16.0 MiB\n"), "{stats}");

    printed(&bus, &["send", "theme", "--clear"]);
    assert_eq!(failed(&bus.run(&["get", "theme"])), nothing("theme"));
    printed(&bus, &["send", "theme", "dark", "--retain"]);
    printed(&bus, &["retained", "--clear", "theme", "mode", "never used"]);
    assert_eq!(failed(&bus.run(&["get", "theme"])), nothing("theme"));
    assert_eq!(failed(&bus.run(&["get", "mode"])), nothing("mode"));
}

#[test]
fn listen_begins_with_what_is_retained_as_far_as_it_is_asked() {
    let bus = Bus::new();
    let _daemon = bus.start();
    assert_eq!(send_lines(&bus, &["--history", "3"], &["one", "two", "", "three", "four"]), Some(0));
    let lines = |replay: &str, count: &str, format: &[&str]| {
        printed(&bus, &[&["listen", "log", "--replay", replay, "-n", count], format].concat())
    };
    assert_eq!(lines("1", "1", &[]), "four\n");
    let format = r"{payload} {replayed}\n";
    assert_eq!(lines("1024", "3", &["--format", format]), "two true\nthree true\nfour true\n");
    assert_eq!(printed(&bus, &["listen", "log", "-n", "1"]), "four\n", "the default");
    let silent = bus.run(&["listen", "log", "--replay", "0", "-n", "1", "--timeout", "50ms"]);
    assert_eq!((silent.status.code(), text(&silent.stdout)), (Some(3), String::new()));
    let exec = ["listen", "log", "-n", "1", "--exec", "sh", "-c", "echo $BROADCASTER_REPLAYED; cat"];
    assert_eq!(printed(&bus, &exec), "true\nfour");

    let mut listening = Process::spawn(&mut bus.command(program(), &["listen", "*", "--json"]));
    let mut next = || serde_json::from_str::<serde_json::Value>(&listening.line()).expect("JSON");
    assert_eq!(next()["replayed"], true, "a pattern");
    printed(&bus, &["send", "log", "five", "--retain"]);
    let object = next();
    assert_eq!(
        (&object["payload"], &object["replayed"], &object["cleared"]),
        (&"five".into(), &false.into(), &false.into())
    );
    printed(&bus, &["send", "log", "--clear"]);
    assert_eq!(next()["cleared"], true);
}

#[test]
fn what_is_not_retained_is_a_failure() {
    let bus = Bus::new();
    std::fs::create_dir_all(bus.config_home().join("broadcaster")).expect("created");
    let config = bus.config_home().join("broadcaster").join("broadcasterd.toml");
    std::fs::write(config, "[limits]\nretained_bytes_max = \"1 KiB\"\nretained_messages_max = 2\n").expect("written");
    let _daemon = bus.start();
    let output = bus.run(&["send", "image", &"x".repeat(2000), "--retain"]);
    let (code, stderr) = failed(&output);
    assert_eq!(code, Some(10), "{stderr}");
    assert!(
        stderr.starts_with("broadcasterd: the daemon does not retain the message on channel \"image\": "),
        "{stderr}"
    );
    let (code, stderr) = failed(&bus.run(&["send", "image", "x", "--history", "3"]));
    assert!(code == Some(10) && stderr.contains("the limit is 2"), "{stderr}");
    assert_eq!(send_lines(&bus, &["--retain"], &["small", &"x".repeat(2000)]), Some(10));
    let metrics = printed(&bus, &["stats", "--metrics"]);
    assert!(metrics.contains("\nbroadcaster_retention_declined_total 3\n"), "{metrics}");
    assert!(metrics.contains("\nbroadcaster_retained_max_bytes 1024\n"), "{metrics}");
}

#[test]
fn without_a_daemon_nothing_is_retained_and_none_is_started() {
    let bus = Bus::new();
    for arguments in [&["get", "theme"][..], &["retained"], &["retained", "--clear", "theme"]] {
        assert_eq!(failed(&bus.run(arguments)).0, Some(4), "{arguments:?}");
    }
    assert!(bus.options().daemon().status().is_err());
    for (arguments, wanted) in [
        (&["send", "theme", "", "--retain"][..], "an empty message cannot be retained; --clear clears the channel"),
        (&["send", "theme", "x", "--clear"], "cannot be used with"),
        (&["send", "theme", "--clear", "--retain"], "cannot be used with"),
        (&["send", "theme", "x", "--lifetime", "0"], "a lifetime must be longer than zero"),
        (&["send", "theme", "x", "--history", "0"], "1..=1024"),
        (&["send", "theme", "x", "--history", "1025"], "1..=1024"),
        (&["listen", "theme", "--replay", "1025"], "1025 is not in"),
    ] {
        let (code, stderr) = failed(&bus.run(arguments));
        assert!(code == Some(2) && stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_value_of_a_sender_that_lives_on_outlasts_a_daemon_that_is_killed() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut sender = bus.options().sender("theme").expect("a sender");
    let mut listener = bus.options().listener("theme").expect("joined");
    sender.retain(b"dark").expect("retained");
    printed(&bus, &["send", "mode", "night", "--retain"]);
    assert_eq!(listener.recv().expect("received").payload(), b"dark");
    daemon.kill();
    let _daemon = bus.start();
    let mut late = bus.options().listener("theme").expect("joined");
    assert_eq!(failed(&bus.run(&["get", "theme"])), nothing("theme"));
    assert!(matches!(listener.recv(), Err(RecvError::Lagged(lag)) if lag.count.is_none()));
    sender.keep_retained(Duration::from_millis(1)).expect("connected");
    sender.send(b"next").expect("sent");
    let message = late.recv().expect("received");
    assert_eq!((message.payload(), message.is_replayed(), message.sequence()), (&b"dark"[..], true, 0));
    assert_eq!(late.recv().expect("received").payload(), b"next");
    assert_eq!(printed(&bus, &["get", "theme"]), "dark");
    assert_eq!(failed(&bus.run(&["get", "mode"])), nothing("mode"), "its sender has ended");
    assert_eq!(listener.recv().expect("received").payload(), b"next", "it has received the value before");
}
