//! Daemons and clients as processes on Windows, each on a pipe of its own: what the conformance suite can not show, since it needs
//! more than one process, or one that dies.

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
fn fifty_clients_at_once_all_connect_and_all_hear() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let (options, barrier) = (bus.options().deadline(Duration::from_secs(30)), std::sync::Barrier::new(50));
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
                assert_eq!((message.payload(), message.sender_pid()), (&[n][..], std::process::id()));
            }
        }
    });
}

#[test]
fn first_users_at_once_get_one_daemon() {
    let bus = Bus::new();
    let mut probes: Vec<_> = (0..6).map(|_| probe(&bus, &["first", "news"])).collect();
    for probe in &mut probes {
        assert_eq!(probe.line(), "ready");
    }
    for probe in &mut probes {
        probe.tell("go");
    }
    for probe in &mut probes {
        assert_eq!(probe.line(), "ok");
    }
    let status = bus.options().daemon().status().unwrap();
    assert_eq!((status.report.senders, status.report.listeners), (6, 6), "all of them are on one daemon");
}

#[test]
fn megabytes_arrive_whole_or_are_told_lost() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listeners: Vec<_> = (0..3).map(|_| probe(&bus, &["listen", "news", "64"])).collect();
    for listener in &mut listeners {
        assert_eq!(listener.line(), "joined");
    }
    let mut sender = probe(&bus, &["send", "news", "64", &MEGABYTE.to_string()]);
    assert_eq!(sender.line(), "ready");
    sender.tell("go");
    assert_eq!(sender.line(), "sent");
    for listener in &mut listeners {
        let line = listener.line();
        let words: Vec<&str> = line.split(' ').collect();
        let [_, received, _, lost, _, "0", _, "0"] = words[..] else { panic!("{line}") };
        let (received, lost): (u64, u64) = (received.parse().unwrap(), lost.parse().unwrap());
        assert_eq!(received + lost, 64, "{line}");
        assert!(received > 0, "{line}");
    }
}

#[test]
fn listener_is_told_of_one_gap_when_the_daemon_is_killed() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listener = bus.options().listener("news").unwrap();
    let mut idle = bus.options().listener("news").unwrap(); // it holds its end of the dead daemon's pipe, and does not notice
    let mut sender = bus.options().sender("news").unwrap();
    sender.send(b"before").unwrap();
    assert_eq!(listener.recv().unwrap().payload(), b"before");
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
fn a_killed_client_disturbs_nobody_and_is_forgotten() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").unwrap();
    let mut doomed = probe(&bus, &["listen", "news", "1000"]);
    assert_eq!(doomed.line(), "joined");
    let mut doomed_sender = probe(&bus, &["send", "news", "100000", "4000"]);
    assert_eq!(doomed_sender.line(), "ready");
    doomed_sender.tell("go");
    listener.recv().unwrap(); // it is in the middle of it
    doomed_sender.kill();
    doomed.kill();
    let mut sender = bus.options().sender("news").unwrap();
    sender.send(b"still here").unwrap();
    loop {
        match listener.recv() {
            Ok(message) if message.payload() == b"still here" => break,
            Ok(message) => assert_eq!(message.payload().len(), 4000, "a message arrives whole"),
            Err(error) => assert!(matches!(error, RecvError::Lagged(_)), "{error}"),
        }
    }
    // The daemon answers in order: by now it has read that both have ended, or reads it in the same turn.
    let gone = Instant::now() + Duration::from_secs(10);
    while bus.options().daemon().status().unwrap().report.connections != 3 {
        assert!(Instant::now() < gone, "this one, the listener and the sender are the only ones left");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_sent_is_delivered_before_an_orderly_stop() {
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
fn a_started_daemon_holds_nothing_of_its_caller() {
    let bus = Bus::new();
    let started = bus.run(&["start"]); // reads output and diagnostics to their ends
    assert!(started.status.success(), "{started:?}");
    assert!(String::from_utf8_lossy(&started.stdout).starts_with("listening on"), "{started:?}");
    assert!(bus.options().daemon().status().is_ok(), "and it runs");
    let again = bus.run(&["start"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), "already running");
    bus.options().daemon().stop().unwrap();
    assert_eq!(bus.run(&["status"]).status.code(), Some(4), "and has gone");
}

#[test]
fn no_call_hangs_on_a_server_that_never_answers() {
    let bus = Bus::new();
    let _silent = Server::new(bus.socket().as_os_str()).unwrap();
    let options = bus.options().deadline(Duration::from_millis(200));
    let started = Instant::now();
    let errors = [options.listener("news").unwrap_err(), options.daemon().status().unwrap_err()];
    for error in errors {
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    }
    assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&started.elapsed()));
}

#[test]
fn a_pipe_that_only_looks_busy_is_nobodys() {
    let bus = Bus::new();
    let left_over = instance(bus.socket().as_os_str(), true).unwrap();
    let _client = std::fs::File::options().read(true).write(true).open(bus.socket()).unwrap();
    let error = bus.options().listener("news").unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning { .. }), "nobody has the lock: {error}");
    let _daemon = bus.start();
    assert!(bus.options().listener("news").is_ok(), "and the name can be served");
    drop(left_over);
}

#[test]
fn the_second_daemon_is_told_that_there_is_one() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let second = bus.run(&["run"]);
    assert_eq!(String::from_utf8_lossy(&second.stdout).trim(), "already running", "{second:?}");
}

#[test]
fn the_numbers_are_told_over_the_stats_pipe() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let _listener = bus.options().listener("news").unwrap();
    let told = bus.run(&["stats", "--json"]);
    let numbers: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&numbers["daemon"]["listeners"], &numbers["channels"][0]["name"]), (&1.into(), &"news".into()));
    for command in ["channels", "peers", "doctor", "stats"] {
        let said = bus.run(&[command]);
        assert!(said.status.success(), "{command}: {said:?}");
    }
}
