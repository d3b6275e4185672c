//! The example programs of the client, as processes that share a daemon.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, example};
use serde_json::Value;
use std::io::Write;
use std::process::{Output, Stdio};

/// A bus with a daemon, once the examples are built.
fn start_bus() -> (Bus, Process) {
    example("");
    let bus = Bus::new();
    let daemon = bus.start();
    (bus, daemon)
}

/// Starts an example, and waits for its first line.
fn start(bus: &Bus, name: &str, arguments: &[&str], first: &str) -> Process {
    let mut process = Process::spawn(&mut bus.command(example(name), arguments));
    assert_eq!(process.line(), first, "{name} {arguments:?}");
    process
}

/// Runs an example with this input to its end.
fn run(bus: &Bus, name: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = bus.command(example(name), arguments).stderr(Stdio::piped()).spawn().expect("it starts");
    // An example that fails does not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn a_formatter_serves_plugins_and_a_status_line() {
    const TEXT: &str = "fn main() {\nlet x = [\n1,   \n];\n}\n";
    const FORMATTED: &str = "fn main() {\n    let x = [\n        1,\n    ];\n}\n";
    let (bus, _daemon) = start_bus();

    let alone = run(&bus, "formatter", &["format"], TEXT);
    assert_eq!(alone.status.code(), Some(1));
    assert!(text(&alone.stderr).contains("formatter serve"), "{alone:?}");

    let mut status = start(&bus, "formatter", &["status"], "0 formatters");
    let mut service = start(&bus, "formatter", &["serve"], "serving");
    assert_eq!(status.line(), format!("+ formatter {}", service.pid()));

    let plugins = [0; 4].map(|_| bus.command(example("formatter"), &["format"]).spawn().expect("it starts"));
    for mut plugin in plugins {
        plugin.stdin.take().expect("a pipe").write_all(TEXT.as_bytes()).expect("it reads");
        let output = plugin.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), FORMATTED));
    }
    let unbalanced = run(&bus, "formatter", &["format"], "fn main() {\n]\n");
    assert_eq!(unbalanced.status.code(), Some(1));
    assert_eq!(text(&unbalanced.stderr), "formatter: line 2: ']' closes nothing\n");

    // An ordinary message is not a request, and does not end the service.
    assert!(bus.run(&["send", "com.example.format", "not a request"]).status.success());
    let output = run(&bus, "formatter", &["format"], TEXT);
    assert_eq!(text(&output.stdout), FORMATTED);

    let gone = format!("- formatter {}", service.pid());
    service.kill();
    assert_eq!(status.line(), gone);
    let output = run(&bus, "formatter", &["format"], TEXT);
    assert!(text(&output.stderr).contains("no formatter is running"), "{output:?}");
}

/// Until a sender of fewer than `messages` waits for a listener.
fn wait_until_a_sender_waits(bus: &Bus, messages: usize) {
    loop {
        let stats: Value = serde_json::from_slice(&bus.run(&["stats", "--json"]).stdout).expect("JSON");
        if stats["channels"].as_array().expect("a list").iter().any(|channel| !channel["waits_for"].is_null()) {
            return;
        }
        let accepted = stats["daemon"]["messages_accepted"].as_u64().expect("a number");
        assert!(accepted < messages as u64, "all {messages} messages were sent, and no sender has waited");
    }
}

#[test]
fn logs_reach_readers_without_loss_however_slow_they_are() {
    const LINES: usize = 20_000;
    let (bus, _daemon) = start_bus();
    let mut all = start(&bus, "log_fanout", &["follow"], "following com.example.log.**");
    let errors = "com.example.log.*.error";
    let mut errors = start(&bus, "log_fanout", &["follow", errors], &format!("following {errors}"));

    let input: String = (1..=LINES)
        .map(|line| match line % 1000 {
            0 => format!("ERROR: failure {line}\n"),
            _ => format!("step {line} {}\n", "x".repeat(500)),
        })
        .collect();
    // 10 MB that the slow reader has not read: more than sockets and the daemon hold for it.
    let mut collector = Process::spawn(&mut bus.command(example("log_fanout"), &["collect", "app"]));
    let writing = std::thread::spawn({
        let mut stdin = collector.take_input();
        move || stdin.write_all(input.as_bytes()).expect("it reads")
    });

    // The reader of the errors goes on while the collector waits for the reader of everything.
    wait_until_a_sender_waits(&bus, LINES);
    assert_eq!(errors.line(), "app:1000: Error: ERROR: failure 1000");
    for line in 1..=LINES {
        let record = all.line();
        let level = if line % 1000 == 0 { "Error: ERROR: failure" } else { "Info: step" };
        assert!(record.starts_with(&format!("app:{line}: {level} {line}")), "{record} in place of line {line}");
    }
    for line in 2..=LINES / 1000 {
        assert_eq!(errors.line(), format!("app:{line}000: Error: ERROR: failure {line}000"));
    }
    writing.join().expect("it writes");
    assert_eq!(collector.wait(), Some(0));
}

#[test]
fn windows_have_the_theme_that_was_set_before_they_opened() {
    let (bus, _daemon) = start_bus();
    let set = |theme| assert!(run(&bus, "theme", &["set", theme], "").status.success());

    let mut first = start(&bus, "theme", &["window"], "open");
    set("dark");
    assert_eq!(first.line(), "theme dark");
    // The process that has set it is gone, and the daemon keeps it.
    let mut second = start(&bus, "theme", &["window"], "open");
    assert_eq!(second.line(), "theme dark");
    for window in [&mut first, &mut second] {
        window.write_line("a");
        assert_eq!(window.line(), "key a");
    }
    set("light");
    assert_eq!((first.line(), second.line()), ("theme light".into(), "theme light".into()));
    assert!(run(&bus, "theme", &["clear"], "").status.success());
    assert_eq!((first.line(), second.line()), ("theme default".into(), "theme default".into()));
    let mut third = start(&bus, "theme", &["window"], "open");
    set("dark");
    assert_eq!(third.line(), "theme dark", "nothing was kept before");
    for mut window in [first, second, third] {
        window.end_input();
        let rest = window.rest();
        assert!(rest.is_empty() || rest == "theme dark\n", "{rest}");
        assert_eq!(window.wait(), Some(0));
    }
}
