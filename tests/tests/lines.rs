//! Lines through the bus in shell pipelines, as in `tests/lines.sh`: none is lost, unless backpressure is turned off.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, program};
use std::path::Path;
use std::process::{Output, Stdio};

/// More than waits for a listener in the daemon, in its socket and in its pipe.
const LINES: u32 = 200_000;

/// `BUS_LINES` and `BUS_PASSES` override [`LINES`] and one pass. In full: a million lines, ten times.
fn volume() -> (u32, u32) {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse().expect("a number"));
    (number("BUS_LINES").unwrap_or(LINES), number("BUS_PASSES").unwrap_or(1))
}

/// Runs a case of the script, each pass on a bus of its own; returns what the passes have printed.
fn run(case: &str) -> Vec<String> {
    let (lines, passes) = volume();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lines.sh");
    let pass = |number| {
        let bus = Bus::new();
        let _daemon = bus.start();
        let mut command = bus.command("sh", &[]);
        command.arg(&script).arg(case).arg(lines.to_string()).env("BROADCASTERD", program());
        let Output { status, stdout, stderr } =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).output().expect("it runs");
        let [stdout, stderr] = [stdout, stderr].map(|output| String::from_utf8_lossy(&output).into_owned());
        assert!(status.success(), "pass {number}: {status}\n{stdout}{stderr}");
        stdout
    };
    (1..=passes).map(pass).collect()
}

#[test]
fn every_line_arrives_in_a_file() {
    run("file");
}

#[test]
fn every_line_arrives_in_a_file_of_json() {
    run("json");
}

#[test]
fn every_line_arrives_in_a_slow_loop() {
    run("read");
}

#[test]
fn without_backpressure_a_loss_is_reported_at_once_and_in_the_exit_code() {
    for printed in run("loss") {
        assert!(printed.contains(" messages were lost; its output is read too slowly"), "{printed}");
    }
}
