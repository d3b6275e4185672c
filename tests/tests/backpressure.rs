//! Backpressure with a real daemon and real clients: nothing is lost, and only senders that requested it wait.

#![cfg(unix)]

use broadcaster_tests::daemon::Bus;
use serde_json::Value;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};
use system_broadcaster::{ChannelName, Listener, RecvError, Sender};

const PATIENCE: Duration = Duration::from_secs(60);

/// How often the slow listener looks at each message: it takes several times as long as the others would.
const SLOW_WORK: usize = 400;

/// Messages and bytes of each sender; `BUS_MEGABYTES` overrides 8 MB.
fn load() -> (u64, usize) {
    let megabytes = std::env::var("BUS_MEGABYTES").ok().map_or(8, |megabytes| megabytes.parse().expect("a number"));
    (megabytes * 125, 8000)
}

fn paced(bus: &Bus) -> Sender {
    bus.options().backpressure(PATIENCE).sender("news").expect("open")
}

/// Receives `count` messages without a loss, with `work` for each; returns the time that this takes.
fn receive(mut listener: Listener, count: u64, work: usize) -> Duration {
    let begin = Instant::now();
    for received in 0..count {
        let message = match listener.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(error) => panic!("{error} after {received} of {count} messages"),
        };
        for _ in 0..work {
            black_box(black_box(message.payload()).iter().fold(0, |sum, byte| sum ^ *byte));
        }
    }
    assert_eq!((listener.lost(), listener.gaps()), (0, 0));
    begin.elapsed()
}

#[test]
fn eight_senders_lose_nothing_to_a_listener_that_is_much_slower() {
    let (bus, (messages, bytes)) = (Bus::new(), load());
    let _daemon = bus.start();
    let [one, two, slow] = [0; 3].map(|_| bus.options().listener("news").expect("joined"));
    let senders: Vec<_> = (0..8).map(|_| paced(&bus)).collect();
    let times = thread::scope(|scope| {
        for mut sender in senders {
            scope.spawn(move || {
                let payload = vec![7; bytes];
                (0..messages).for_each(|_| sender.send(&payload).expect("sent"));
                sender.confirm().expect("accepted");
            });
        }
        let fast = [one, two].map(|listener| scope.spawn(move || receive(listener, 8 * messages, 0)));
        wait_for_delay(&bus);
        let slow = receive(slow, 8 * messages, SLOW_WORK);
        (fast.map(|listener| listener.join().expect("no message is lost")), slow)
    });
    let status = bus.options().daemon().status().expect("it answers");
    assert_eq!((status.messages_accepted, status.messages_lost), (8 * messages, 0));
    println!("received in {times:?}");
}

/// Until a sender waits for a listener.
fn wait_for_delay(bus: &Bus) {
    while stats(bus)["channels"][0]["waits_for"].is_null() {}
}

/// The document that `broadcasterd stats --json` prints.
fn stats(bus: &Bus) -> Value {
    serde_json::from_slice(&bus.run(&["stats", "--json"]).stdout).expect("JSON")
}

#[test]
fn a_sender_that_waits_delays_neither_others_nor_its_own_other_channels() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut stalled = bus.options().listener("news").expect("joined");
    let mut elsewhere = bus.options().listener("sync").expect("joined");
    let mut waiting = paced(&bus);
    let sent = thread::spawn(move || {
        let payload = vec![7; 8000];
        (0..2000).for_each(|_| waiting.send(&payload).expect("sent"));
    });
    // It waits until the stalled listener reads, and its connection is seen to.
    wait_for_delay(&bus);
    let connections = stats(&bus)["connections"].as_array().expect("an array").clone();
    assert_eq!(connections.iter().filter(|connection| connection["delaying"] == 1).count(), 1);
    let mut sender = bus.options().sender("sync").expect("open");
    let mut shared = paced(&bus);
    for number in 0..1000_u32 {
        sender.send(&number.to_le_bytes()).expect("sent");
        assert_eq!(elsewhere.recv_timeout(PATIENCE).expect("received").payload(), number.to_le_bytes());
    }
    let own = ChannelName::new("sync").expect("a name");
    // On a connection whose own channel has no credit.
    assert!(shared.try_send(b"news").is_err(), "the channel waits for the stalled listener");
    for number in 0..1000_u32 {
        shared.send_to(own.as_str(), &number.to_le_bytes()).expect("sent");
        assert_eq!(elsewhere.recv_timeout(PATIENCE).expect("received").payload(), number.to_le_bytes());
    }
    assert!(!sent.is_finished(), "the sender still waits");
    for received in 0..2000 {
        match stalled.recv_timeout(PATIENCE) {
            Ok(_) => {}
            Err(RecvError::Lagged(lag)) => panic!("{lag:?} after {received} messages"),
            Err(error) => panic!("{error} after {received} messages"),
        }
    }
    sent.join().expect("it does not panic");
}
