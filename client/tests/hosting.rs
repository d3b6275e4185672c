//! What a process that hosts the broker owes to others, shown by a second process: this test program, run again as a child.

#![cfg(all(unix, feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::socket;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use system_broadcaster::{ConnectError, HostGuard, Options, RecvError, RefusalCode, Sender};

/// The role that the child plays.
const ROLE: &str = "BROADCASTER_TEST_ROLE";

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

/// A child that plays `role` in the test `test`, on the bus at `socket`.
fn command(test: &str, role: &str, socket: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).env("BROADCASTER_SOCKET", socket);
    command.env("PATH", "/usr/bin:/bin").env_remove("BROADCASTERD").env_remove("BROADCASTER_NO_AUTOSTART");
    command
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A child that hosts: it reports when it does, and continues with the next line that it is given.
struct Hosting {
    child: Child,
}

impl Hosting {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line.ends_with("hosting")), "it hosts");
        Self { child }
    }

    fn proceed(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Hosting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: hosts, and waits until it may proceed.
fn host() -> Sender {
    let sender = Sender::create("news").unwrap();
    println!("hosting");
    std::io::stdin().lines().next();
    sender
}

#[test]
fn what_a_host_has_sent_outlives_it() {
    match role().as_deref() {
        Some("sender") => {
            host().send(b"last words").unwrap();
            std::process::exit(0);
        }
        Some(_) => return,
        None => {}
    }
    for round in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let mut hosting = Hosting::start(command("what_a_host_has_sent_outlives_it", "sender", &socket(&directory)));
        let guest = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
        let mut listener = guest.listener("news").unwrap();
        hosting.proceed();
        let message = listener.recv_timeout(WATCHDOG).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(message.payload(), b"last words");
    }
}

#[test]
fn a_guard_delivers_to_slow_listeners_as_well() {
    const COUNT: u64 = 3000;
    match role().as_deref() {
        Some("sender") => {
            let guard = HostGuard::new();
            let mut sender = host();
            for _ in 0..COUNT {
                sender.send(&[7; 1000]).unwrap();
            }
            drop(sender);
            drop(guard);
            std::process::exit(0);
        }
        Some(_) => return,
        None => {}
    }
    let directory = tempfile::tempdir().unwrap();
    let test = "a_guard_delivers_to_slow_listeners_as_well";
    let mut hosting = Hosting::start(command(test, "sender", &socket(&directory)));
    let guest = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
    let mut listener = guest.listener("news").unwrap();
    hosting.proceed();
    for due in 0..COUNT {
        let message = listener.recv_timeout(WATCHDOG).unwrap_or_else(|error| panic!("{due} of {COUNT}: {error}"));
        assert_eq!(message.sequence(), due);
    }
    assert!(matches!(listener.recv(), Err(RecvError::Connect(_))), "and then the daemon is gone");
}

#[test]
fn a_process_short_of_descriptors_gets_an_error_and_no_panic() {
    match role().as_deref() {
        Some("short") => {
            let outcome = Options::new().timeout(Duration::from_secs(1)).listener("news");
            println!("outcome {}", outcome.is_ok());
            std::process::exit(0);
        }
        Some(_) => return,
        None => {}
    }
    let test = "a_process_short_of_descriptors_gets_an_error_and_no_panic";
    let (mut failed, mut connected) = (0, 0);
    for limit in (6..24).chain(40..44) {
        let directory = tempfile::tempdir().unwrap();
        let inner = command(test, "short", &socket(&directory));
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(inner.get_program());
        shell.args(inner.get_args()).envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = shell.stderr(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "with {limit} descriptors it ends with {}: {text}", output.status);
        connected += u32::from(text.contains("outcome true"));
        failed += u32::from(text.contains("outcome false"));
    }
    assert!(failed > 0 && connected > 0, "{failed} failed, {connected} connected: the limits meet neither case");
}

#[test]
fn host_leaves_half_of_its_descriptors_to_the_program() {
    let test = "host_leaves_half_of_its_descriptors_to_the_program";
    match role().as_deref() {
        Some("host") => {
            let _sender = host();
            std::io::stdin().lines().next();
            std::process::exit(0);
        }
        Some(_) => return,
        None => {}
    }
    let directory = tempfile::tempdir().unwrap();
    let inner = command(test, "host", &socket(&directory));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -n 400; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("BROADCASTERD");
    let _hosting = Hosting::start(shell);
    let guest = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
    let mut listeners = Vec::new();
    let error = loop {
        match guest.listener("news") {
            Ok(listener) => listeners.push(listener),
            Err(error) => break error,
        }
    };
    assert_eq!(listeners.len(), 113, "the host has a connection, too: {error}");
    let ConnectError::Refused { code, reason } = &error else { panic!("{error}") };
    assert!(*code == RefusalCode::Connections && reason.contains("114"), "{error}");
    // The refusal is not for good: the next attempt after a connection has ended succeeds.
    drop(listeners.pop());
    while guest.listener("news").is_err() {}
}
