//! The private bus for tests: what it promises to tests of other programs.

#![cfg(all(feature = "testing", feature = "tokio", feature = "json"))]
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};
use system_broadcaster::testing::{Bus, MessageBuilder, lag, sender_id};
use system_broadcaster::typed::{Json, Schema};
use system_broadcaster::{
    ChannelPattern, ConnectError, Lag, Listener, Message, Metadata, Overflow, RecvError, Selector, SendError, Stage,
};
use tokio::runtime::{Builder, Runtime};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The count of the gap that comes next.
fn lagged(listener: &mut Listener) -> Option<u64> {
    match listener.recv_timeout(WATCHDOG) {
        Err(RecvError::Lagged(lag)) => lag.count,
        other => panic!("no loss is reported, but {other:?}"),
    }
}

fn received(listener: &mut Listener) -> Message {
    listener.recv_timeout(WATCHDOG).unwrap()
}

#[test]
fn each_bus_is_private() {
    let buses = [0; 4].map(|_| Bus::new());
    let listeners = buses.each_ref().map(|bus| bus.listener("news").unwrap());
    for (bus, text) in buses.iter().zip(["a", "b", "c", "d"]) {
        bus.sender("news").unwrap().send(text.as_bytes()).unwrap();
    }
    for (mut listener, text) in listeners.into_iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(received(&mut listener).payload(), text.as_bytes());
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    }
}

#[test]
fn tests_in_parallel_have_their_own_bus() {
    let threads = (0..8_u8).map(|number| {
        std::thread::spawn(move || {
            for _ in 0..5 {
                let bus = Bus::new();
                let mut listener = bus.listener("news").unwrap();
                bus.sender("news").unwrap().send(&[number]).unwrap();
                assert_eq!(received(&mut listener).payload(), [number]);
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

/// In a process of its own, because the environment of a process belongs to all of its tests.
#[test]
fn no_variable_has_an_influence() {
    const ROLE: &str = "BROADCASTER_TEST_ROLE";
    if std::env::var_os(ROLE).is_some() {
        let bus = Bus::new();
        let mut listener = bus.listener("news").unwrap();
        bus.sender("news").unwrap().send(b"received").unwrap();
        assert_eq!(received(&mut listener).payload(), b"received");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "no_variable_has_an_influence"]).env(ROLE, "child");
    child.env("BROADCASTER_SOCKET", "/nonexistent/bus.sock").env("BROADCASTERD", "not an absolute path");
    child.env("BROADCASTER_NO_AUTOSTART", "1").env("XDG_RUNTIME_DIR", "/nonexistent").env_remove("HOME");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_bus_leaves_nothing_behind() {
    let bus = Bus::new();
    let (socket, options) = (bus.socket().to_owned(), bus.options());
    let mut listener = options.listener("news").unwrap();
    drop(bus);
    assert!(cfg!(windows) || !socket.parent().unwrap().exists());
    assert!(matches!(listener.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    assert!(options.listener("news").is_err());
}

#[test]
fn exactly_so_many_messages_are_lost_at_this_point() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect] {
        let bus = Bus::new();
        let mut listener = bus.options().overflow(overflow).listener("news").unwrap();
        let (mut second, mut other) = (bus.listener("news").unwrap(), bus.listener("other").unwrap());
        let mut sender = bus.sender("news").unwrap();
        sender.send(b"before").unwrap();
        sender.confirm().unwrap();
        assert_eq!(bus.lose("news", 3), 2);
        sender.send(b"between").unwrap();
        sender.confirm().unwrap();
        assert_eq!(bus.lose("news", 1), 2);
        sender.send(b"after").unwrap();
        for listener in [&mut listener, &mut second] {
            assert_eq!(received(listener).payload(), b"before");
            assert_eq!(lagged(listener), Some(3));
            assert_eq!(received(listener).payload(), b"between");
            assert_eq!(lagged(listener), Some(1));
            assert_eq!(received(listener).payload(), b"after");
            assert_eq!(listener.lost(), 4);
        }
        let status = bus.options().daemon().status().unwrap();
        assert_eq!((status.messages_accepted, status.messages_lost), (7, 8), "received + lost = accepted");
        assert!(matches!(other.try_recv(), Err(RecvError::Empty)));
        assert_eq!(bus.lose("unknown", 3), 0);
    }
}

#[test]
fn a_task_sees_the_same_losses() {
    let mut bus = Bus::new();
    runtime().block_on(async {
        let mut listener = bus.options().listener_async("news").await.unwrap();
        let mut sender = bus.options().sender_async("news").await.unwrap();
        bus.lose("news", 2);
        sender.send_async(b"after").await.unwrap();
        assert!(matches!(listener.recv_async().await, Err(RecvError::Lagged(Lag { count: Some(2), .. }))));
        assert_eq!(listener.recv_async().await.unwrap().payload(), b"after");
        bus.restart();
        assert!(matches!(listener.recv_async().await, Err(RecvError::Lagged(Lag { count: None, .. }))));
        sender.send_async(b"on the next daemon").await.unwrap();
        assert_eq!(listener.recv_async().await.unwrap().payload(), b"on the next daemon");
        bus.stop();
        assert!(matches!(listener.recv_async().await, Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    });
}

#[test]
fn a_restart_leaves_one_gap() {
    let mut bus = Bus::new();
    let mut listener = bus.listener("news").unwrap();
    let mut sender = bus.sender("news").unwrap();
    let id = sender.id();
    sender.send(b"delivered by an orderly stop").unwrap();
    bus.restart();
    assert_eq!(received(&mut listener).payload(), b"delivered by an orderly stop");
    assert_eq!(lagged(&mut listener), None);
    sender.send(b"next").unwrap();
    let message = received(&mut listener);
    assert_eq!((message.payload(), message.sender(), message.sequence()), (&b"next"[..], id, 1));
    assert_eq!(listener.gaps(), 1);
}

#[test]
fn without_a_daemon_connecting_fails_until_it_starts_again() {
    let mut bus = Bus::new();
    assert!(bus.is_running());
    bus.start(); // it runs already
    let mut listener = bus.listener("news").unwrap();
    bus.stop();
    bus.stop();
    assert!(!bus.is_running());
    assert!(matches!(bus.sender("news"), Err(ConnectError::NotRunning { .. })));
    assert!(matches!(listener.recv(), Err(RecvError::Connect(ConnectError::NotRunning { .. }))));
    bus.start();
    assert!(bus.is_running());
    assert_eq!(lagged(&mut listener), None);
    bus.sender("news").unwrap().send(b"again").unwrap();
    assert_eq!(received(&mut listener).payload(), b"again");
}

#[test]
fn a_bus_whose_daemon_was_stopped_by_a_client_starts_again() {
    let mut bus = Bus::new();
    bus.options().daemon().stop().unwrap();
    bus.restart();
    bus.sender("news").unwrap().send(b"x").unwrap();
}

#[test]
fn a_killed_daemon_loses_what_it_has_not_read() {
    let mut bus = Bus::new();
    let mut listener = bus.listener("news").unwrap();
    let mut sender = bus.sender("news").unwrap();
    sender.send(b"accepted").unwrap();
    sender.confirm().unwrap();
    bus.kill();
    assert_eq!(received(&mut listener).payload(), b"accepted", "it was in the socket of the listener");
    bus.start();
    assert_eq!(lagged(&mut listener), None);
    sender.send(b"in doubt").unwrap();
    bus.kill();
    bus.start();
    assert!(matches!(sender.confirm(), Err(SendError::InDoubt { count: 1 })));
}

#[test]
fn a_paused_daemon_answers_nothing_and_loses_nothing() {
    let bus = Bus::new();
    let mut listener = bus.listener("news").unwrap();
    let brief = bus.options().timeout(Duration::from_millis(500));
    let mut sender = brief.sender("news").unwrap();
    let paused = bus.pause();
    sender.send(b"in its socket").unwrap();
    assert!(matches!(sender.confirm(), Err(SendError::Unconfirmed { .. })));
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    let Err(error) = brief.listener("news") else { panic!("nothing answers") };
    assert!(matches!(error, ConnectError::TimedOut { stage: Stage::Handshake, .. }), "{error}");
    drop(paused);
    assert_eq!(received(&mut listener).payload(), b"in its socket");
    sender.confirm().unwrap();
}

#[test]
fn a_daemon_can_be_paused_again() {
    let bus = Bus::new();
    let first = bus.pause();
    drop(first);
    drop(bus.pause());
    bus.sender("news").unwrap();
}

#[test]
#[should_panic(expected = "the private bus has stopped")]
fn a_bus_that_has_stopped_cannot_lose() {
    let mut bus = Bus::new();
    bus.stop();
    bus.lose("news", 1);
}

#[test]
fn a_bus_takes_milliseconds() {
    let began = Instant::now();
    for _ in 0..20 {
        let bus = Bus::new();
        bus.sender("news").unwrap().send(b"x").unwrap();
    }
    // Typically 1 ms each. The limit only shows that nothing waits for a time limit.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Theme {
    dark: bool,
}

impl Schema for Theme {
    const NAME: &'static str = "com.example.Theme";
}

#[test]
fn values_of_a_listener_can_be_created() {
    let metadata = Metadata::new().content_type("text/plain").unwrap();
    let builder = MessageBuilder::new("news").unwrap().payload("hello").metadata(&metadata);
    let message = builder.sender(12, 7).sequence(3).build();
    assert_eq!((message.channel().as_str(), message.payload(), message.sequence()), ("news", &b"hello"[..], 3));
    assert_eq!((message.sender(), message.sender_pid()), (sender_id(12, 7), Some(12)));
    assert_eq!(message.metadata().content_type(), Some("text/plain"));
    let plain = MessageBuilder::new("news").unwrap().build();
    assert!(plain.payload().is_empty() && plain.metadata().is_empty() && plain.sender_pid().is_none());
    assert!(MessageBuilder::new("no/slash").is_err());

    let typed = MessageBuilder::new("news").unwrap().value::<Theme, Json>(&Theme { dark: true }).unwrap().build();
    assert!(typed.decode::<Theme, Json>().unwrap().dark);
    assert_eq!(typed.metadata().schema(), Some(&b"json:com.example.Theme"[..]));
    let lost = lag(Selector::name("news").unwrap(), Some(2));
    assert_eq!((lost.count, lost.channel.as_ref().map(AsRef::as_ref)), (Some(2), Some("news")));
    let gap = lag(ChannelPattern::new("com.*").unwrap(), None);
    assert_eq!((gap.count, gap.pattern.as_ref().map(AsRef::as_ref)), (None, Some("com.*")));
}
