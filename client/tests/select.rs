//! Waiting for several handles at once.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, runtime, socket};
use futures_util::StreamExt;
use std::time::{Duration, Instant};
use system_broadcaster::{
    ConnectError, Lag, Listener, Message, Options, Overflow, PresenceEvent, RecvError, Selector, select,
};

/// Longer than any step takes.
const WATCHDOG: Option<Duration> = Some(Duration::from_secs(30));

fn send(options: &Options, channel: &str, payload: &[u8]) {
    let mut sender = options.sender(channel).unwrap();
    sender.send(payload).unwrap();
    sender.confirm().unwrap(); // what the next sender sends comes later
}

#[test]
fn it_names_the_handles_that_have_something_to_receive() {
    let (_host, options) = bus();
    let mut a = options.listener("a").unwrap();
    let mut b = options.clone().overflow(Overflow::Latest).listener("b").unwrap();
    let mut all = options.daemon().monitor([""; 0]).unwrap();
    let mut presence = options.presence("c").unwrap();
    let begun = Instant::now();
    let nothing = select(&mut [&mut a, &mut b, &mut all, &mut presence], Some(Duration::from_millis(20)));
    assert!(matches!(nothing, Err(RecvError::TimedOut { .. })), "{nothing:?}");
    assert!(begun.elapsed() >= Duration::from_millis(20));
    for (channel, position) in [("a", 0), ("b", 1), ("a", 0)] {
        send(&options, channel, channel.as_bytes());
        let mut found = [false; 4];
        while !(found[position] && found[2]) {
            let ready = select(&mut [&mut a, &mut b, &mut all, &mut presence], WATCHDOG).unwrap();
            assert!(ready.is_sorted());
            for ready in ready {
                let payload = match ready {
                    0 => a.try_recv().unwrap().into_payload(),
                    1 => b.recv_ref().unwrap().to_message().into_payload(),
                    2 => all.recv().unwrap().into_payload(),
                    other => panic!("nothing was sent to {other}"),
                };
                assert_eq!(payload, channel.as_bytes());
                assert!(!std::mem::replace(&mut found[ready], true), "each message is received once");
            }
        }
    }
    let _listener = options.listener("c").unwrap();
    assert_eq!(select(&mut [&mut a, &mut b, &mut all, &mut presence], WATCHDOG).unwrap(), [3]);
    assert_eq!(select(&mut [&mut presence], Some(Duration::ZERO)).unwrap(), [0], "as long as it was not received");
    assert!(matches!(presence.try_recv(), Ok(PresenceEvent::Joined(_))));
    assert!(select(&mut [], Some(Duration::ZERO)).unwrap_err().is_timeout());
}

#[test]
fn what_was_found_is_received_in_every_way_and_in_order() {
    let (_host, options) = bus();
    let mut listener = options.listener("a").unwrap();
    let mut sender = options.sender("a").unwrap();
    let mut next = 0;
    let mut found = |listener: &mut Listener| {
        for payload in [[next], [next + 1]] {
            sender.send(&payload).unwrap();
        }
        next += 2;
        for _ in 0..2 {
            assert_eq!(select(&mut [listener], WATCHDOG).unwrap(), [0]);
        }
        [next - 2]
    };
    let runtime = runtime();
    let due = found(&mut listener);
    assert_eq!(listener.recv().unwrap().payload(), due);
    assert_eq!(listener.recv().unwrap().payload(), [1]);
    let due = found(&mut listener);
    assert_eq!(listener.recv_ref_timeout(Duration::from_secs(30)).unwrap().payload(), due);
    assert_eq!(listener.recv().unwrap().payload(), [3]);
    let due = found(&mut listener);
    assert_eq!(runtime.block_on(listener.recv_async()).unwrap().payload(), due);
    assert_eq!(runtime.block_on(listener.messages().next()).unwrap().unwrap().payload(), [5]);
    let due = found(&mut listener);
    listener.subscribe(Selector::name("b").unwrap()).unwrap();
    let mut messages = Vec::new();
    while messages.len() < 2 {
        listener.recv_many(&mut messages, 10).unwrap();
    }
    assert!(messages.iter().map(Message::payload).eq([due, [7]]));
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
}

#[test]
fn gaps_and_closed_handles_are_something_to_receive() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let (mut a, mut b) = (options.listener("a").unwrap(), options.listener("b").unwrap());
    options.daemon().stop().unwrap(); // one of the two hosts the next daemon
    let mut gaps = [0; 2];
    while gaps != [1, 1] {
        for ready in select(&mut [&mut a, &mut b], WATCHDOG).unwrap() {
            let received = [&mut a, &mut b][ready].try_recv();
            assert!(matches!(received, Err(RecvError::Lagged(Lag { count: None, .. }))), "{received:?}");
            gaps[ready] += 1;
        }
    }
    assert_eq!((a.gaps(), b.gaps()), (1, 1));
    let closer = b.closer().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| closer.close());
        assert_eq!(select(&mut [&mut a, &mut b], WATCHDOG).unwrap(), [1]);
    });
    assert!(matches!(b.recv(), Err(RecvError::Closed)));
}

#[test]
fn an_error_belongs_to_its_handle() {
    let directory = tempfile::tempdir().unwrap();
    let (_host, options) = bus();
    let ends = Options::new().socket(socket(&directory)).autostart(false);
    let host = ends.sender("a").unwrap(); // hosts the daemon
    let mut gone = ends.clone().embedded(false).listener("a").unwrap();
    let mut listener = options.listener("a").unwrap();
    ends.daemon().stop().unwrap();
    assert_eq!(select(&mut [&mut listener, &mut gone], WATCHDOG).unwrap(), [1]);
    let received = gone.recv();
    assert!(matches!(received, Err(RecvError::Connect(ConnectError::NotRunning { .. }))), "{received:?}");
    drop(host);
    send(&options, "a", b"x");
    while !select(&mut [&mut gone, &mut listener], WATCHDOG).unwrap().contains(&1) {
        let _ = gone.try_recv();
    }
    assert_eq!(listener.recv().unwrap().payload(), b"x");
}

#[test]
fn nothing_is_lost_or_received_twice_from_many_handles() {
    let (_host, options) = bus();
    let names: Vec<_> = (0..8).map(|n| n.to_string()).collect();
    let mut listeners: Vec<_> = names.iter().map(|name| options.listener(name).unwrap()).collect();
    let mut received = vec![0; names.len()];
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| {
                let mut sender = options.sender(name).unwrap();
                (0..500).for_each(|_| sender.send(b"x").unwrap());
            });
        }
        while received.iter().any(|&count| count < 500) {
            let mut handles: Vec<_> = listeners.iter_mut().map(|listener| listener as _).collect();
            for ready in select(&mut handles, WATCHDOG).unwrap() {
                assert_eq!(listeners[ready].try_recv().unwrap().sequence(), received[ready]);
                received[ready] += 1;
            }
        }
    });
    assert!(received.iter().all(|&count| count == 500));
}
