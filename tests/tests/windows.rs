//! Daemons and clients as processes on Windows, each test with its own pipe.
//!
//! These tests need more than one process, or one that dies, which the conformance suite does not provide.

#![cfg(windows)]
#![allow(clippy::unwrap_used)]

use broadcaster_local::windows::{Server, instance};
use broadcaster_tests::daemon::{Bus, Process};
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, RecvError};

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

const MEGABYTE: usize = 1 << 20;

fn probe(bus: &Bus, arguments: &[&str]) -> Process {
    Process::spawn(&mut bus.command(PROBE, arguments))
}

#[test]
fn fifty_clients_connect_at_once_and_receive_everything() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let (options, barrier) = (bus.options().timeout(Duration::from_secs(30)), std::sync::Barrier::new(50));
    std::thread::scope(|scope| {
        let listeners: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    options.listener("news").unwrap()
                })
            })
            .collect();
        let mut listeners: Vec<_> = listeners.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut sender = options.sender("news").unwrap();
        for n in 0..100_u8 {
            sender.send(&[n]).unwrap();
        }
        for listener in &mut listeners {
            for n in 0..100_u8 {
                let message = listener.recv_timeout(Duration::from_secs(30)).unwrap();
                assert_eq!((message.payload(), message.sender_pid()), (&[n][..], Some(std::process::id())));
            }
        }
    });
}

#[test]
fn first_users_at_once_start_one_daemon() {
    let bus = Bus::new();
    let mut probes: Vec<_> = (0..6).map(|_| probe(&bus, &["first", "news"])).collect();
    for probe in &mut probes {
        assert_eq!(probe.line(), "ready");
    }
    for probe in &mut probes {
        probe.write_line("go");
    }
    for probe in &mut probes {
        assert_eq!(probe.line(), "ok");
    }
    let status = bus.options().daemon().status().unwrap();
    assert_eq!((status.senders, status.listeners), (6, 6), "all clients share one daemon");
}

#[test]
fn large_messages_arrive_complete_or_count_as_lost() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listeners: Vec<_> = (0..3).map(|_| probe(&bus, &["listen", "news", "64"])).collect();
    for listener in &mut listeners {
        assert_eq!(listener.line(), "joined");
    }
    let mut sender = probe(&bus, &["send", "news", "64", &MEGABYTE.to_string()]);
    assert_eq!(sender.line(), "ready");
    sender.write_line("go");
    assert_eq!(sender.line(), "sent");
    for listener in &mut listeners {
        let line = listener.line();
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, received, _, lost, _, "0", _, "0"] = fields[..] else { panic!("{line}") };
        let (received, lost): (u64, u64) = (received.parse().unwrap(), lost.parse().unwrap());
        assert_eq!(received + lost, 64, "{line}");
        assert!(received > 0, "{line}");
    }
}

#[test]
fn listener_reports_one_gap_after_the_daemon_is_killed() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listener = bus.options().listener("news").unwrap();
    let mut idle = bus.options().listener("news").unwrap(); // does not read, so it keeps the pipe to the dead daemon open
    let mut sender = bus.options().sender("news").unwrap();
    sender.send(b"before").unwrap();
    assert_eq!(listener.recv().unwrap().payload(), b"before");
    // The daemon answers in a later turn than the one in which it has written to both listeners.
    assert_eq!(bus.options().daemon().status().unwrap().messages_delivered, 2);
    daemon.kill();
    let _next = bus.start();
    assert!(matches!(listener.recv(), Err(RecvError::Lagged(lag)) if lag.count.is_none()));
    assert_eq!(listener.gaps(), 1);
    sender.send(b"after").unwrap();
    assert_eq!(listener.recv().unwrap().payload(), b"after");
    assert_eq!(idle.recv().unwrap().payload(), b"before");
    assert!(matches!(idle.recv(), Err(RecvError::Lagged(_))));
}

#[test]
fn killed_client_affects_no_other_and_its_connection_ends() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").unwrap();
    let mut killed_listener = probe(&bus, &["listen", "news", "1000"]);
    assert_eq!(killed_listener.line(), "joined");
    let mut killed_sender = probe(&bus, &["send", "news", "100000", "4000"]);
    assert_eq!(killed_sender.line(), "ready");
    killed_sender.write_line("go");
    listener.recv().unwrap(); // the sender is sending
    killed_sender.kill();
    killed_listener.kill();
    let mut sender = bus.options().sender("news").unwrap();
    sender.send(b"still here").unwrap();
    loop {
        match listener.recv() {
            Ok(message) if message.payload() == b"still here" => break,
            Ok(message) => assert_eq!(message.payload().len(), 4000, "messages arrive complete"),
            Err(error) => assert!(matches!(error, RecvError::Lagged(_)), "{error}"),
        }
    }
    // The daemon notices the end of both connections within a few turns.
    let deadline = Instant::now() + Duration::from_secs(10);
    while bus.options().daemon().status().unwrap().connections != 3 {
        assert!(Instant::now() < deadline, "only this request, the listener and the sender remain");
        std::thread::yield_now();
    }
}

#[test]
fn orderly_stop_delivers_every_sent_message() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listener = probe(&bus, &["listen", "news", "5000"]);
    assert_eq!(listener.line(), "joined");
    let mut sender = bus.options().sender("news").unwrap();
    for _ in 0..5000 {
        sender.send(&[7; 100]).unwrap();
    }
    bus.options().daemon().stop().unwrap();
    assert_eq!(listener.line(), "received 5000 lost 0 gaps 0 disorder 0");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn started_daemon_inherits_nothing() {
    let bus = Bus::new();
    let started = bus.run(&["start"]); // reads both outputs to their ends, which would hang if the daemon held them
    assert!(started.status.success(), "{started:?}");
    assert!(String::from_utf8_lossy(&started.stdout).starts_with("listening on"), "{started:?}");
    assert!(bus.options().daemon().status().is_ok(), "the daemon runs");
    let again = bus.run(&["start"]);
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("already running, process "), "{again:?}");
    bus.options().daemon().stop().unwrap();
    assert_eq!(bus.run(&["status"]).status.code(), Some(4), "the daemon has stopped");
}

#[test]
fn no_call_hangs_on_a_server_that_never_answers() {
    let bus = Bus::new();
    let _silent = Server::new(bus.socket().as_os_str()).unwrap();
    let options = bus.options().timeout(Duration::from_millis(200));
    let started = Instant::now();
    let errors = [options.listener("news").unwrap_err(), options.daemon().status().unwrap_err()];
    for error in errors {
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    }
    assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&started.elapsed()));
}

#[test]
fn busy_pipe_without_a_daemon_counts_as_not_running() {
    let bus = Bus::new();
    let leftover = instance(bus.socket().as_os_str(), true).unwrap();
    let _client = std::fs::File::options().read(true).write(true).open(bus.socket()).unwrap();
    let error = bus.options().listener("news").unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning { .. }), "no daemon holds the lock: {error}");
    let _daemon = bus.start();
    assert!(bus.options().listener("news").is_ok(), "a daemon can still serve the name");
    drop(leftover);
}

#[test]
fn second_daemon_reports_that_one_is_running() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let second = bus.run(&["run"]);
    assert!(String::from_utf8_lossy(&second.stdout).starts_with("already running, process "), "{second:?}");
}

#[test]
fn stats_are_served_over_the_stats_pipe() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let _listener = bus.options().listener("news").unwrap();
    let stats = bus.run(&["stats", "--json"]);
    let numbers: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!((&numbers["daemon"]["listeners"], &numbers["channels"][0]["name"]), (&1.into(), &"news".into()));
    for command in ["channels", "peers", "doctor", "stats"] {
        let output = bus.run(&[command]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
}
