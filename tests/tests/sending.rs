//! What `send` does about its listeners: it waits for them, requires them, and loses nothing to slow ones.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use std::fs::File;
use std::io::Write;
use std::process::{Output, Stdio};
use system_broadcaster::{Listener, RecvError};

/// Lines of 200 bytes: 40 MB, ten times as much as waits for a listener.
const LINES: u32 = 200_000;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `send news --lines` with these lines.
fn send_lines(bus: &Bus, arguments: &[&str], lines: &str) -> Output {
    let mut command = bus.command(program(), &[&["send", "news", "--lines"], arguments].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    // It may end without reading all of them.
    let _ = child.stdin.take().expect("a pipe").write_all(lines.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// Starts `send news --lines` with [`LINES`] lines from a file.
fn send_many(bus: &Bus, arguments: &[&str]) -> Process {
    let path = bus.directory().join("lines");
    std::fs::write(&path, (0..LINES).map(|line| format!("{line:0199}\n")).collect::<String>()).expect("written");
    let mut command = bus.command(program(), &[&["send", "news", "--lines"], arguments].concat());
    Process::spawn(command.stdin(File::open(path).expect("a file")))
}

/// Receives the lines more slowly than they are sent; the number of those that were lost.
fn receive_slowly(bus: &Bus, mut listener: Listener) -> u64 {
    let (mut received, mut lost) = (0, 0);
    while received + lost < u64::from(LINES) {
        match listener.recv() {
            Ok(message) => {
                assert_eq!(message.sequence(), received + lost);
                received += 1;
                if received % 100 == 0 {
                    bus.options().daemon().status().expect("it answers");
                }
            }
            Err(RecvError::Lagged(lag)) => lost += lag.count.expect("a count"),
            Err(error) => panic!("{error}"),
        }
    }
    lost
}

#[test]
fn lines_wait_for_a_slow_listener_unless_that_is_turned_off() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listener = bus.options().listener("news").expect("joined");
    let mut sending = send_many(&bus, &[]);
    assert_eq!(receive_slowly(&bus, listener), 0);
    assert_eq!(sending.wait(), Some(0));

    let listener = bus.options().listener("news").expect("joined");
    assert_eq!(send_many(&bus, &["--no-backpressure"]).wait(), Some(0), "it does not wait for anything to be received");
    assert!(receive_slowly(&bus, listener) > 0);
}

#[test]
fn listener_that_never_reads_delays_lines_for_the_given_time_only() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let _stalled = bus.options().listener("news").expect("joined");
    assert_eq!(send_many(&bus, &["--backpressure", "10ms"]).wait(), Some(0));
}

#[test]
fn send_waits_for_listeners_and_sends_nothing_without_them() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let output = bus.run(&["send", "news", "x", "--wait-for", "1", "--timeout", "0.5"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.starts_with("broadcasterd: ") && stderr.ends_with(": nothing was sent\n"), "{stderr}");
    assert_eq!(bus.options().daemon().status().expect("it answers").messages_accepted, 0);

    let arguments = ["send", "news", "x", "--wait-for", "2", "--timeout", "200"];
    let mut sending = Process::spawn(&mut bus.command(program(), &arguments));
    let mut listeners = [(); 2].map(|()| bus.options().listener("news").expect("joined"));
    for listener in &mut listeners {
        assert_eq!(listener.recv().expect("received").payload(), b"x");
    }
    assert_eq!(sending.wait(), Some(0));
}

#[test]
fn send_fails_if_fewer_listeners_than_required_take_a_message() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let wanted = "broadcasterd: the message was sent, and 0 listeners took it; --require requests 1\n";
    let output = bus.run(&["send", "news", "x", "--require", "1"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(9), wanted));
    let output = send_lines(&bus, &["--require", "1"], "one\ntwo\n");
    let wanted = "broadcasterd: line 1 was sent, and 0 listeners took it; --require requests 1\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(9), wanted));
    assert_eq!(bus.options().daemon().status().expect("it answers").messages_accepted, 2, "line 2 was not sent");

    let mut listener = bus.options().listener("news").expect("joined");
    assert_eq!(bus.run(&["send", "news", "x", "--require", "1"]).status.code(), Some(0));
    assert_eq!(bus.run(&["send", "news", "x", "--require", "2"]).status.code(), Some(9));
    assert!(send_lines(&bus, &["--require", "1"], "one\ntwo\n").status.success());
    let received = [(); 4].map(|()| listener.recv().expect("received").payload().to_vec());
    assert_eq!(received, [&b"x"[..], b"x", b"one", b"two"]);
}

#[test]
fn options_of_send_that_make_no_sense_are_refused() {
    let bus = Bus::new();
    for (arguments, wanted) in [
        (["--wait-for", "-1"].as_slice(), "unexpected argument"),
        (&["--require", "some"], "invalid digit"),
        (&["--backpressure", "soon"], "try 500ms, 5s or 2min"),
        (&["--backpressure", "1s", "--no-backpressure"], "cannot be used with"),
    ] {
        let output = bus.run(&[&["send", "news", "x"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(wanted), "{arguments:?}: {}", text(&output.stderr));
    }
}
