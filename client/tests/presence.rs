//! Which processes listen to a channel, in every way of calling the library.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, runtime, socket};
use futures_util::{FutureExt, StreamExt};
use std::time::Duration;
use system_broadcaster::{ConnectError, Listener, Options, Peer, Presence, PresenceEvent, RecvError, Selector};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

/// One way to receive.
type Recv<'a> = &'a dyn Fn(&mut Presence) -> Result<PresenceEvent, RecvError>;

/// Runs a behaviour with each way to receive.
fn in_every_colour(behaviour: impl Fn(&Options, Recv<'_>)) {
    let runtime = runtime();
    let colours: [Recv<'_>; 4] = [
        &|presence| presence.recv(),
        &|presence| match presence.try_recv() {
            Err(RecvError::Empty | RecvError::Connecting) => presence.recv_timeout(WATCHDOG),
            received => received,
        },
        &|presence| runtime.block_on(presence.recv_async()),
        &|presence| runtime.block_on(async { presence.events().next().await.unwrap_or(Err(RecvError::Closed)) }),
    ];
    for colour in colours {
        let (_host, options) = bus();
        behaviour(&options, colour);
    }
}

fn listener(options: &Options, channel: &str, purpose: &str) -> Listener {
    options.clone().purpose(purpose).listener(channel).unwrap()
}

/// The purpose of a listener of this process that has joined.
fn joined(event: &PresenceEvent) -> String {
    assert!(matches!(event, PresenceEvent::Joined(_)), "{event:?}");
    purpose(event.peer())
}

fn left(event: &PresenceEvent) -> String {
    assert!(matches!(event, PresenceEvent::Left(_)), "{event:?}");
    purpose(event.peer())
}

fn purpose(peer: &Peer) -> String {
    assert_eq!(peer.pid(), Some(std::process::id()));
    peer.purpose().to_owned()
}

fn present(presence: &Presence) -> Vec<String> {
    let mut present: Vec<_> = presence.present().map(|peer| purpose(&peer)).collect();
    present.sort();
    present
}

#[test]
fn those_that_are_there_come_first_and_then_each_that_joins_or_leaves() {
    in_every_colour(|options, recv| {
        let first = listener(options, "news", "first");
        let second = listener(options, "news", "second");
        let _other = listener(options, "other", "on another channel");
        let _sender = options.sender("news").unwrap();
        let mut presence = options.presence("news").unwrap();
        assert_eq!((present(&presence), presence.channel().as_str()), (vec!["first".into(), "second".into()], "news"));
        let mut there = [recv(&mut presence), recv(&mut presence)].map(|event| joined(&event.unwrap()));
        there.sort();
        assert_eq!(there, ["first", "second"]);
        assert!(matches!(presence.try_recv(), Err(RecvError::Empty)));
        drop(first);
        assert_eq!(left(&recv(&mut presence).unwrap()), "first");
        let _third = listener(options, "news", "third");
        assert_eq!(joined(&recv(&mut presence).unwrap()), "third");
        drop(second);
        assert_eq!(left(&recv(&mut presence).unwrap()), "second");
        assert_eq!(present(&presence), ["third"]);
    });
}

#[test]
fn patterns_and_changes_at_run_time_count_and_observers_do_not() {
    in_every_colour(|options, recv| {
        let mut presence = options.presence("com.example.x").unwrap();
        assert_eq!(presence.present().count(), 0);
        let _monitor = options.daemon().monitor(["com.example.x"]).unwrap();
        let mut listener = listener(options, "elsewhere", "changing");
        let (one, many) = (Selector::name("com.example.x").unwrap(), Selector::pattern("com.**").unwrap());
        listener.subscribe(&many).unwrap();
        assert_eq!(joined(&recv(&mut presence).unwrap()), "changing");
        listener.subscribe(&one).unwrap();
        listener.unsubscribe(&many).unwrap();
        assert!(matches!(presence.try_recv(), Err(RecvError::Empty)), "it was there all the time");
        listener.unsubscribe(&one).unwrap();
        assert_eq!(left(&recv(&mut presence).unwrap()), "changing");
    });
}

#[test]
fn a_new_daemon_yields_the_differences() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let mut stays = listener(&options, "news", "stays");
    let leaves = listener(&options, "news", "leaves");
    let mut presence = options.presence("news").unwrap();
    for _ in 0..2 {
        presence.try_recv().unwrap();
    }
    drop(leaves);
    options.daemon().stop().unwrap();
    assert!(matches!(stays.recv(), Err(RecvError::Lagged(_))), "it has joined again");
    let _new = listener(&options, "news", "new");
    let mut events = Vec::new();
    while present(&presence) != ["new", "stays"] {
        events.push(presence.recv().unwrap());
    }
    events.extend(std::iter::from_fn(|| presence.try_recv().ok()));
    let of = |purpose: &str| events.iter().filter(|event| event.peer().purpose() == purpose).count();
    assert_eq!((of("leaves"), of("new")), (1, 1), "{events:?}");
    assert!(of("stays") % 2 == 0, "its id may have changed: {events:?}");
}

#[test]
fn dropped_receives_lose_nothing() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut presence = options.presence_async("news").await.unwrap();
        for n in 0..20 {
            assert!(presence.recv_async().now_or_never().is_none());
            let listener = options.clone().purpose(&n.to_string()).listener_async("news").await.unwrap();
            let _: Option<_> = presence.present().next();
            assert_eq!(joined(&presence.recv_async().await.unwrap()), n.to_string());
            drop(listener);
            assert_eq!(left(&presence.events().next().await.unwrap().unwrap()), n.to_string());
        }
    });
}

#[test]
fn a_closer_ends_every_kind_of_receive() {
    in_every_colour(|options, recv| {
        let mut presence = options.presence("news").unwrap();
        let closer = presence.closer().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| closer.close());
            assert!(matches!(recv(&mut presence), Err(RecvError::Closed)));
        });
        assert!(matches!(presence.try_recv(), Err(RecvError::Closed)));
        runtime().block_on(async { assert!(presence.events().next().await.is_none()) });
    });
}

#[test]
fn names_are_checked_and_time_is_limited() {
    let (_host, options) = bus();
    assert!(matches!(options.presence("a/b"), Err(ConnectError::Name(_))));
    let mut presence = options.presence("news").unwrap();
    let elapsed = presence.recv_timeout(Duration::from_millis(1));
    assert!(matches!(elapsed, Err(RecvError::TimedOut { .. })), "{elapsed:?}");
}

#[cfg(unix)]
#[test]
fn a_descriptor_is_readable_while_there_is_an_event() {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use std::os::fd::{AsFd, AsRawFd};

    let (_host, options) = bus();
    let mut presence = options.presence("news").unwrap();
    let mut poll = Poll::new().unwrap();
    let descriptor = presence.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1);
    assert!(matches!(presence.try_recv(), Err(RecvError::Empty)));
    poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
    assert!(events.is_empty());
    let _listener = listener(&options, "news", "x");
    poll.poll(&mut events, Some(WATCHDOG)).unwrap();
    assert!(!events.is_empty());
    assert_eq!(joined(&presence.try_recv().unwrap()), "x");
}
