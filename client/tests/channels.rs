//! Many channels over one connection: names and patterns, joined and left at any time. Each behaviour in every way of calling the library.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, in_every_colour, runtime};
use futures_util::{FutureExt, StreamExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use system_broadcaster::{
    ConnectError, Lag, Listener, Message, Options, RecvError, RefusalCode, Selector, SubscribeError,
};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn name(name: &str) -> Selector {
    Selector::name(name).unwrap()
}

fn pattern(pattern: &str) -> Selector {
    Selector::pattern(pattern).unwrap()
}

fn send(options: &Options, channel: &str, payload: &[u8]) {
    let mut sender = options.sender(channel).unwrap();
    sender.send(payload).unwrap();
    sender.confirm().unwrap(); // what the next sender sends comes later
}

/// The channel and the payload.
fn parts(message: &Message) -> (&str, &[u8]) {
    (message.channel().as_str(), message.payload())
}

fn is_empty(listener: &mut Listener) -> bool {
    matches!(listener.try_recv(), Err(RecvError::Empty))
}

#[test]
fn one_listener_receives_many_channels() {
    in_every_colour(|colour, options| {
        let selectors = [name("a"), name("b"), name("a"), pattern("com.*")];
        let mut listener = colour.listener_on(options, &selectors).unwrap();
        assert!(listener.selectors().eq([name("a"), name("b"), pattern("com.*")]));
        for channel in ["a", "b", "c", "com.x", "com.x.y", "com.*", "com.z"] {
            send(options, channel, channel.as_bytes());
            if !["c", "com.x.y"].contains(&channel) {
                let message = colour.recv(&mut listener).unwrap();
                assert_eq!(parts(&message), (channel, channel.as_bytes()));
            }
        }
        assert!(is_empty(&mut listener));
    });
}

#[test]
fn a_name_is_never_read_as_a_pattern() {
    in_every_colour(|colour, options| {
        let mut one = colour.listener(options, "com.*").unwrap();
        let mut many = colour.listener_on(options, &[pattern("com.*")]).unwrap();
        send(options, "com.x", b"covered");
        send(options, "com.*", b"the name itself");
        assert_eq!(parts(&colour.recv(&mut one).unwrap()), ("com.*", &b"the name itself"[..]));
        assert_eq!(parts(&colour.recv(&mut many).unwrap()), ("com.x", &b"covered"[..]));
        assert_eq!(parts(&colour.recv(&mut many).unwrap()), ("com.*", &b"the name itself"[..]));
        assert!(is_empty(&mut one) && is_empty(&mut many));
    });
}

#[test]
fn a_message_that_several_selectors_cover_is_received_once() {
    in_every_colour(|colour, options| {
        let selectors = [pattern("**"), name("a.b"), pattern("a.*")];
        let mut listener = colour.listener_on(options, &selectors).unwrap();
        for selector in [pattern("*.b"), pattern("a.**")] {
            colour.subscribe(&mut listener, &selector).unwrap();
        }
        let mut sender = colour.sender(options, "a.b").unwrap();
        for (n, selector) in (0..).zip(listener.selectors().collect::<Vec<_>>()) {
            colour.send(&mut sender, &[n]).unwrap();
            assert_eq!(parts(&colour.recv(&mut listener).unwrap()), ("a.b", &[n][..]));
            assert!(is_empty(&mut listener));
            colour.unsubscribe(&mut listener, &selector).unwrap();
        }
        colour.send(&mut sender, b"to no listener").unwrap();
        colour.confirm(&mut sender).unwrap();
        assert!(is_empty(&mut listener));
    });
}

#[test]
fn channels_are_joined_and_left_while_messages_arrive() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "steady").unwrap();
        let mut changing = colour.sender(options, "a.changing").unwrap();
        let is_done = AtomicBool::new(false);
        let (mut due, mut round) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sender = options.sender("steady").unwrap();
                while !is_done.load(Ordering::Relaxed) {
                    sender.send(&[7; 100]).unwrap();
                }
            });
            for selector in [name("a.changing"), pattern("a.*")].iter().cycle().take(10) {
                colour.subscribe(&mut listener, selector).unwrap();
                colour.send(&mut changing, &[round]).unwrap();
                colour.confirm(&mut changing).unwrap();
                colour.unsubscribe(&mut listener, selector).unwrap();
                colour.send(&mut changing, b"while it has left").unwrap();
                colour.confirm(&mut changing).unwrap(); // the daemon has it before the next request
                loop {
                    match colour.recv(&mut listener) {
                        Ok(message) if message.channel().as_str() == "steady" => {
                            assert_eq!(message.sequence(), due, "nothing is lost, received twice or out of order");
                            due += 1;
                        }
                        Ok(message) => {
                            assert_eq!(parts(&message), ("a.changing", &[round][..]));
                            break;
                        }
                        Err(RecvError::Lagged(Lag { count: Some(count), .. })) => due += count,
                        Err(error) => panic!("{error}"),
                    }
                }
                round += 1;
            }
            is_done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn joining_twice_and_leaving_twice_have_no_effect() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        for _ in 0..2 {
            colour.subscribe(&mut listener, &name("a")).unwrap();
            colour.subscribe(&mut listener, &pattern("b.*")).unwrap();
        }
        send(options, "a", b"once");
        assert_eq!(parts(&colour.recv(&mut listener).unwrap()), ("a", &b"once"[..]));
        assert!(is_empty(&mut listener));
        for _ in 0..2 {
            colour.unsubscribe(&mut listener, &name("a")).unwrap();
            colour.unsubscribe(&mut listener, &name("b.*")).unwrap();
        }
        assert!(listener.selectors().eq([pattern("b.*")]));
    });
}

#[test]
fn a_listener_may_begin_and_end_without_channels() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener_on(options, &[]).unwrap();
        assert!(is_empty(&mut listener));
        for round in 0..3 {
            colour.subscribe(&mut listener, &name("a")).unwrap();
            send(options, "a", &[round]);
            assert_eq!(colour.recv(&mut listener).unwrap().payload(), [round]);
            colour.unsubscribe(&mut listener, &name("a")).unwrap();
        }
        assert_eq!(listener.selectors().count(), 0);
    });
}

#[test]
fn a_subscription_over_the_limit_is_declined_and_the_listener_is_as_it_was() {
    in_every_colour(|colour, options| {
        let names: Vec<_> = (0..1024).map(|n| name(&n.to_string())).collect();
        let mut listener = colour.listener_on(options, &names).unwrap();
        for selector in [name("one more"), pattern("one.*")] {
            let error = colour.subscribe(&mut listener, &selector).unwrap_err();
            assert!(
                matches!(&error, SubscribeError::Declined { code: RefusalCode::Channels, reason } if reason.contains("1024")),
                "{error}"
            );
        }
        send(options, "1023", b"received");
        assert_eq!(colour.recv(&mut listener).unwrap().payload(), b"received");
        assert!(listener.selectors().eq(names.iter().cloned()));
        colour.unsubscribe(&mut listener, &names[0]).unwrap();
        colour.subscribe(&mut listener, &pattern("one.*")).unwrap();
        let many: Vec<_> = names.into_iter().chain([name("one more")]).collect();
        let error = colour.listener_on(options, &many).unwrap_err();
        assert!(matches!(error, ConnectError::Refused { code: RefusalCode::Channels, .. }), "{error}");
    });
}

#[test]
fn every_selector_is_joined_again_with_a_gap_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(common::socket(&directory)).autostart(false);
    let mut listener = options.listener_on([name("a"), pattern("b.*")]).unwrap();
    for selector in [name("c"), pattern("d.**"), name("left")] {
        listener.subscribe(selector).unwrap();
    }
    listener.unsubscribe(&name("left")).unwrap();
    listener.unsubscribe(&name("a")).unwrap();
    options.daemon().stop().unwrap(); // the broker that this process hosts
    for selector in [pattern("b.*"), name("c"), pattern("d.**")] {
        let Err(RecvError::Lagged(lag)) = listener.recv_timeout(WATCHDOG) else { panic!("a new daemon leaves a gap") };
        assert_eq!(lag.count, None);
        let concerned = lag.channel.clone().map(Selector::Name).or(lag.pattern.clone().map(Selector::Pattern));
        assert_eq!(concerned, Some(selector.clone()));
        assert!(lag.to_string().contains(&format!("{:?}", selector.as_str())), "{lag}");
    }
    for channel in ["a", "left", "b.x", "c", "d.x.y"] {
        send(&options, channel, b"");
    }
    for channel in ["b.x", "c", "d.x.y"] {
        assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().channel().as_str(), channel);
    }
    assert_eq!((listener.gaps(), listener.lost()), (3, 0));
}

#[test]
fn a_request_to_the_next_daemon_is_a_part_of_joining_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(common::socket(&directory)).autostart(false);
    let mut listener = options.listener("a").unwrap();
    options.daemon().stop().unwrap();
    listener.subscribe(name("b")).unwrap(); // finds that the daemon is gone, and hosts the next one
    send(&options, "b", b"x");
    let Err(RecvError::Lagged(lag)) = listener.recv_timeout(WATCHDOG) else { panic!("a new daemon leaves a gap") };
    assert_eq!(lag.channel.unwrap().as_str(), "a", "there can be none on b");
    assert_eq!(parts(&listener.recv_timeout(WATCHDOG).unwrap()), ("b", &b"x"[..]));
}

#[test]
fn what_had_arrived_before_the_daemon_stopped_is_received_first() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(common::socket(&directory)).autostart(false);
    let mut listener = options.listener("a").unwrap();
    let mut sender = options.sender("a").unwrap();
    for n in 0..100 {
        sender.send(&[n]).unwrap();
    }
    drop(sender);
    options.daemon().stop().unwrap(); // everything is delivered
    listener.subscribe(name("b")).unwrap();
    for n in 0..100 {
        assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().payload(), [n]);
    }
    assert!(matches!(listener.recv_timeout(WATCHDOG), Err(RecvError::Lagged(Lag { count: None, .. }))));
}

#[test]
fn a_dropped_request_stands_and_confuses_nothing() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("a").unwrap();
        let (mut a, mut b) = (options.sender("a").unwrap(), options.sender("b.x").unwrap());
        for n in 0..100_u8 {
            let selector = if n % 2 == 0 { pattern("b.*") } else { name("b.x") };
            let _: Option<_> = listener.subscribe_async(&selector).now_or_never();
            a.send_async(&[n]).await.unwrap();
            if n % 3 == 0 {
                assert_eq!(listener.recv_async().await.unwrap().payload(), [n], "it may be answered meanwhile");
            }
            listener.subscribe_async(&selector).await.unwrap();
            b.send_async(&[n]).await.unwrap();
            if n % 3 != 0 {
                assert_eq!(parts(&listener.recv_async().await.unwrap()), ("a", &[n][..]));
            }
            assert_eq!(parts(&listener.recv_async().await.unwrap()), ("b.x", &[n][..]));
            let _: Option<_> = listener.unsubscribe_async(&selector).now_or_never();
            assert!(listener.selectors().eq([name("a")]));
            if n % 4 == 0 {
                listener.unsubscribe_async(&selector).await.unwrap();
            }
        }
        listener.unsubscribe_async(&name("a")).await.unwrap();
    });
}

#[test]
fn streams_yield_the_messages_of_channels_that_are_joined_between() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener_async("a").await.unwrap();
        for n in 0..10_u8 {
            let channel = format!("b.{n}");
            listener.subscribe_async(name(&channel)).await.unwrap();
            options.sender_async(&channel).await.unwrap().send_async(&[n]).await.unwrap();
            assert_eq!(parts(&listener.messages().next().await.unwrap().unwrap()), (&*channel, &[n][..]));
            options.sender_async("a").await.unwrap().send_async(&[n]).await.unwrap();
            assert_eq!(listener.listen().next().await.unwrap(), [n]);
        }
        let mut stream = listener.into_stream();
        send(&options, "b.3", b"owned");
        assert_eq!(stream.next().await.unwrap().unwrap().payload(), b"owned");
        let mut listener = stream.into_inner();
        listener.unsubscribe_async(&name("b.3")).await.unwrap();
        assert_eq!(listener.selectors().count(), 10);
    });
}

#[test]
fn a_closed_listener_changes_no_more() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        listener.closer().unwrap().close();
        assert!(matches!(colour.subscribe(&mut listener, &name("b")), Err(SubscribeError::Closed)));
        assert!(matches!(colour.unsubscribe(&mut listener, &name("a")), Err(SubscribeError::Closed)));
        assert!(listener.selectors().eq([name("a")]));
    });
}

#[cfg(unix)]
#[test]
fn a_descriptor_is_readable_for_what_a_request_has_read_ahead() {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use std::os::fd::{AsFd, AsRawFd};

    let (_host, options) = bus();
    let mut listener = options.listener("a").unwrap();
    let mut poll = Poll::new().unwrap();
    let descriptor = listener.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    assert!(is_empty(&mut listener));
    send(&options, "a", b"x");
    listener.subscribe(name("b")).unwrap();
    let mut events = Events::with_capacity(1);
    poll.poll(&mut events, Some(WATCHDOG)).unwrap();
    assert!(!events.is_empty());
    assert_eq!(listener.try_recv().unwrap().payload(), b"x");
}

/// A daemon that answers when the test lets it.
#[cfg(unix)]
#[test]
fn a_request_that_is_not_answered_in_time_stands() {
    use broadcaster_protocol::control::{Control, Named, Subscribed, Welcome};
    use broadcaster_protocol::{ChannelId, Header, SenderId};
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use std::io::Write;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixListener;

    let encoded = |controls: &[Control]| {
        let mut bytes = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut bytes).unwrap());
        bytes
    };
    let subscribed = |subscription| Control::from(Subscribed { subscription, extensions: Vec::new() });
    let named = |id, name: &str| Control::from(Named { id, name: name.to_owned(), extensions: Vec::new() });
    let frame = |id, payload: &[u8; 1]| {
        let header = Header::publish(ChannelId(id), SenderId::new(1, 2), 0, 1);
        [header.as_bytes(), &payload[..]].concat()
    };
    let welcome = Control::from(Welcome {
        protocol: 1,
        capabilities: 0,
        sender: 3,
        payload_bytes_max: 1000,
        pid: 1,
        version: "9.9.9".to_owned(),
        extensions: Vec::new(),
    });

    let directory = tempfile::tempdir().unwrap();
    let daemon = UnixListener::bind(common::socket(&directory)).unwrap();
    let options = Options::new().socket(common::socket(&directory)).autostart(false).embedded(false);
    let options = options.timeout(Duration::from_millis(500));
    let (mut listener, mut connection) = std::thread::scope(|scope| {
        let connection = scope.spawn(|| {
            let (mut connection, _) = daemon.accept().unwrap();
            connection.write_all(&encoded(&[welcome, subscribed(0), named(1, "a")])).unwrap();
            connection
        });
        (options.listener("a").unwrap(), connection.join().unwrap())
    });
    let mut poll = Poll::new().unwrap();
    let descriptor = listener.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    assert!(is_empty(&mut listener));
    connection.write_all(&frame(1, b"x")).unwrap();

    let error = listener.subscribe(name("b")).unwrap_err();
    assert!(matches!(error, SubscribeError::TimedOut { .. }) && error.is_timeout(), "{error}");
    let mut events = Events::with_capacity(1);
    poll.poll(&mut events, Some(WATCHDOG)).unwrap();
    assert!(!events.is_empty(), "what has arrived before the time was over can be received");
    assert_eq!(parts(&listener.try_recv().unwrap()), ("a", &b"x"[..]));

    connection.write_all(&[encoded(&[subscribed(1), named(2, "b")]), frame(2, b"y")].concat()).unwrap();
    assert_eq!(parts(&listener.recv().unwrap()), ("b", &b"y"[..]), "it took effect meanwhile");
    listener.subscribe(name("b")).unwrap();
}
