//! Retained messages: what listeners receive that join later, how it ends, and what outlasts the daemon. Each behaviour in every way of calling
//! the library.

#![cfg(all(feature = "testing", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{in_every_colour, runtime};
use std::time::Duration;
use system_broadcaster::testing::{Bus, MessageBuilder};
use system_broadcaster::{ConnectError, Listener, Message, Metadata, Options, RecvError, Selector, SendError};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn received(listener: &mut Listener) -> Message {
    listener.recv_timeout(WATCHDOG).unwrap()
}

/// The payload, and whether it is replayed.
fn parts(message: &Message) -> (&str, bool) {
    (std::str::from_utf8(message.payload()).unwrap(), message.is_replayed())
}

fn is_empty(listener: &mut Listener) -> bool {
    matches!(listener.try_recv(), Err(RecvError::Empty))
}

/// The value of the channel.
fn value(options: &Options, channel: &str) -> Option<String> {
    let value = options.retained_value(channel).unwrap()?;
    assert!(value.is_replayed() && value.channel().as_str() == channel);
    Some(String::from_utf8(value.into_payload().into()).unwrap())
}

#[test]
fn a_late_listener_receives_the_value_first() {
    in_every_colour(|colour, options| {
        let mut early = colour.listener(options, "theme").unwrap();
        let mut sender = colour.sender(options, "theme").unwrap();
        assert_eq!(colour.retained_value(options, "theme").unwrap(), None);
        colour.send(&mut sender, b"an event").unwrap();
        for payload in [&b"light"[..], b"dark"] {
            let receipt = colour.retain(&mut sender, payload).unwrap();
            assert_eq!((receipt.listeners, receipt.took, receipt.not_retained), (1, 1, None));
        }
        colour.send(&mut sender, b"another event").unwrap();
        colour.confirm(&mut sender).unwrap();
        for payload in ["an event", "light", "dark", "another event"] {
            let message = colour.recv(&mut early).unwrap();
            assert_eq!((parts(&message), message.is_cleared()), ((payload, false), false));
        }
        let mut late = colour.listener(options, "theme").unwrap();
        colour.send(&mut sender, b"live").unwrap();
        let message = colour.recv(&mut late).unwrap();
        assert_eq!((parts(&message), message.sender(), message.sequence()), (("dark", true), sender.id(), 2));
        assert_eq!(parts(&colour.recv(&mut late).unwrap()), ("live", false));
        let id = sender.id();
        drop(sender);
        let value = colour.retained_value(options, "theme").unwrap().unwrap();
        assert_eq!((parts(&value), value.sender()), (("dark", true), id), "whether or not its sender lives on");
        let mut borrowed = options.listener("theme").unwrap();
        let message = borrowed.recv_ref().unwrap();
        assert!(message.is_replayed() && !message.is_cleared() && message.to_message() == value);
        assert_eq!(parts(&colour.recv(&mut early).unwrap()), ("live", false));
        assert!(is_empty(&mut early), "nothing is replayed to a listener that was there");
    });
}

#[test]
fn a_history_is_replayed_as_far_as_a_listener_wants() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(&options.clone().history(3), "log").unwrap();
        colour.send(&mut sender, b"1").unwrap();
        colour.feed(&mut sender, b"2").unwrap();
        colour.feed(&mut sender, b"").unwrap();
        colour.feed(&mut sender, b"3").unwrap();
        colour.flush(&mut sender).unwrap();
        assert_eq!(colour.send_confirmed(&mut sender, b"4").unwrap().not_retained, None);
        for (replay, wanted) in [(0, &[][..]), (1, &["4"]), (2, &["3", "4"]), (1024, &["2", "3", "4"])] {
            let mut late = colour.listener(&options.clone().replay(replay), "log").unwrap();
            for payload in wanted {
                assert_eq!(parts(&colour.recv(&mut late).unwrap()), (*payload, true));
            }
            assert!(is_empty(&mut late), "{replay}");
        }
        let mut other = colour.sender(options, "log").unwrap();
        colour.retain(&mut other, b"5").unwrap();
        let mut late = colour.listener(&options.clone().replay(9), "log").unwrap();
        assert_eq!(parts(&colour.recv(&mut late).unwrap()), ("5", true));
        assert!(is_empty(&mut late), "the history is as long as the last sender wants");
    });
}

#[test]
fn clearing_reaches_those_that_listen_and_leaves_nothing_for_others() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "alarm").unwrap();
        colour.retain(&mut sender, b"fire").unwrap();
        let mut listener = colour.listener(options, "alarm").unwrap();
        let mut other = colour.sender(options, "alarm").unwrap();
        colour.clear_retained(&mut other).unwrap();
        assert_eq!(colour.retained_value(options, "alarm").unwrap(), None);
        assert_eq!(parts(&colour.recv(&mut listener).unwrap()), ("fire", true));
        let cleared = colour.recv(&mut listener).unwrap();
        assert!(cleared.is_cleared() && cleared.sender() == other.id());
        colour.retain(&mut sender, b"water").unwrap();
        colour.retain(&mut sender, b"").unwrap();
        assert_eq!(colour.retained_value(options, "alarm").unwrap(), None, "an empty payload clears as well");
        colour.send(&mut sender, b"").unwrap();
        let cleared = [(); 3].map(|()| colour.recv(&mut listener).unwrap().is_cleared());
        assert_eq!(cleared, [false, true, false], "an empty message that is merely sent clears nothing");
    });
}

#[test]
fn lifetimes_end_and_leave_other_messages_alone() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "progress").unwrap();
        colour.retain_for(&mut sender, b"for long", WATCHDOG).unwrap();
        assert_eq!(value(options, "progress").as_deref(), Some("for long"));
        colour.retain_for(&mut sender, b"not for long", Duration::from_millis(1)).unwrap();
        while colour.retained_value(options, "progress").unwrap().is_some() {}
    });
}

#[test]
fn other_channels_and_metadata_are_retained_as_well() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "a").unwrap();
        let json = Metadata::new().content_type("application/json").unwrap();
        colour.retain_with(&mut sender, &json, b"{}").unwrap();
        colour.retain_to(&mut sender, "b.x", b"x").unwrap();
        colour.retain_to(&mut sender, "b.y", b"y").unwrap();
        let own = colour.retained_value(options, "a").unwrap().unwrap();
        assert_eq!((own.metadata().content_type(), own.payload()), (Some("application/json"), &b"{}"[..]));
        let mut listener = colour.listener_on(options, &[Selector::pattern("b.*").unwrap()]).unwrap();
        let mut values = [(); 2].map(|()| colour.recv(&mut listener).unwrap());
        values.sort_by(|one, other| one.payload().cmp(other.payload()));
        assert_eq!(values.each_ref().map(|message| message.channel().as_str()), ["b.x", "b.y"]);
        assert!(values.iter().all(Message::is_replayed));
        colour.subscribe(&mut listener, &Selector::name("b.x").unwrap()).unwrap();
        assert!(is_empty(&mut listener), "it receives that channel already");
        colour.subscribe(&mut listener, &Selector::name("a").unwrap()).unwrap();
        assert_eq!(parts(&colour.recv(&mut listener).unwrap()), ("{}", true));
        colour.clear_retained_on(&mut sender, "b.x").unwrap();
        assert_eq!(["b.x", "b.y"].map(|channel| value(options, channel).is_some()), [false, true]);
        assert!(matches!(sender.retain_to("", b"x"), Err(SendError::Name(_))));
        let full = Metadata::new().schema(&[0; 4090]).unwrap();
        sender.retain_with(&full, b"x", None).unwrap();
        let error = sender.retain_with(&full, b"x", Some(WATCHDOG));
        assert!(matches!(error, Err(SendError::Metadata(_))), "{error:?}");
    });
}

#[test]
fn shared_senders_retain() {
    in_every_colour(|colour, options| {
        let sender = options.sender("theme").unwrap().into_shared();
        let other = sender.clone();
        colour.retain_shared(&sender, b"dark").unwrap();
        assert_eq!(value(options, "theme").as_deref(), Some("dark"));
        other.retain_to("mode", b"night").unwrap();
        assert_eq!(value(options, "mode").as_deref(), Some("night"));
        other.clear_retained_on("mode").unwrap();
        colour.clear_shared(&other).unwrap();
        assert_eq!((value(options, "theme"), value(options, "mode")), (None, None));
        sender.retain_for(b"x", Duration::from_millis(1)).unwrap();
        while value(options, "theme").is_some() {}
        sender.retain_with(&Metadata::new(), b"y", None).unwrap();
        sender.keep_retained(Duration::from_millis(1)).unwrap();
        assert_eq!(value(options, "theme").as_deref(), Some("y"));
    });
}

#[test]
fn what_the_daemon_does_not_retain_is_an_error_with_the_reason() {
    let bus = Bus::new();
    let mut listener = bus.listener("image").unwrap();
    let mut sender = bus.sender("image").unwrap();
    sender.retain(b"small").unwrap();
    let large = vec![7; 17 << 20];
    let error = sender.retain(&large).unwrap_err();
    let SendError::NotRetained { channel, reason } = &error else { panic!("{error}") };
    assert_eq!(channel.as_str(), "image");
    assert!(reason.contains("the limit is 16777216"), "{reason}");
    assert!(error.to_string().starts_with("the daemon does not retain the message on channel \"image\": "), "{error}");
    assert_eq!(value(&bus.options(), "image"), None, "the value before it is outdated");
    assert_eq!(received(&mut listener).payload(), b"small");
    assert_eq!(received(&mut listener).payload().len(), large.len(), "it was delivered");
    let mut sender = bus.options().history(2).sender("image").unwrap();
    let reason = sender.send_confirmed(&large).unwrap().not_retained;
    assert!(reason.is_some_and(|reason| reason.contains("the limit is 16777216")));
}

#[test]
fn reading_a_value_counts_as_no_listener_and_needs_no_place_for_an_observer() {
    let bus = Bus::new();
    let options = bus.options();
    let mut sender = bus.sender("theme").unwrap();
    sender.retain(b"dark").unwrap();
    let mut presence = options.presence("theme").unwrap();
    assert_eq!(value(&options, "theme").as_deref(), Some("dark"));
    assert!(matches!(presence.try_recv(), Err(RecvError::Empty)));
    let mut monitors: Vec<_> = (0..16).map(|_| options.daemon().monitor(["theme"]).unwrap()).collect();
    assert!(monitors.iter_mut().all(|monitor| matches!(monitor.try_recv(), Err(RecvError::Empty))), "without replay");
    assert_eq!(value(&options, "theme").as_deref(), Some("dark"), "as a listener");
    assert_eq!(runtime().block_on(options.retained_value_async("theme")).unwrap().unwrap().payload(), b"dark");
    assert!(matches!(options.retained_value(""), Err(RecvError::Connect(_))));
    drop(bus);
    assert!(matches!(options.retained_value("theme"), Err(RecvError::Connect(_))));
}

// ---- restarts ----

fn replace_daemon(bus: &mut Bus, kill: bool) {
    match kill {
        true => bus.kill(),
        false => bus.stop(),
    }
    bus.start();
}

/// The gap that a restart leaves.
fn skip_gap(listener: &mut Listener) {
    assert!(matches!(listener.recv_timeout(WATCHDOG), Err(RecvError::Lagged(lag)) if lag.count.is_none()));
}

#[test]
fn the_value_of_a_sender_that_lives_on_outlasts_the_daemon() {
    for kill in [false, true] {
        let mut bus = Bus::new();
        let mut sender = bus.sender("theme").unwrap();
        let mut listener = bus.listener("theme").unwrap();
        sender.retain(b"light").unwrap();
        sender.retain(b"dark").unwrap();
        drop(bus.sender("mode").unwrap().retain(b"of a sender that has ended").unwrap());
        assert_eq!([(); 2].map(|()| received(&mut listener).into_payload()), ["light", "dark"]);
        replace_daemon(&mut bus, kill);
        skip_gap(&mut listener);
        let mut waiting = bus.listener("theme").unwrap();
        assert_eq!((value(&bus.options(), "theme"), value(&bus.options(), "mode")), (None, None));
        sender.send(b"an event").unwrap();
        let message = received(&mut waiting);
        assert_eq!((parts(&message), message.sender(), message.sequence()), (("dark", true), sender.id(), 1));
        assert_eq!(parts(&received(&mut waiting)), ("an event", false));
        assert_eq!(parts(&received(&mut bus.listener("theme").unwrap())), ("dark", true));
        assert_eq!(parts(&received(&mut listener)), ("an event", false), "the other one has received the value before");
        // Once more, with a value that is declared again for the second time.
        bus.restart();
        skip_gap(&mut listener);
        sender.send(b"end").unwrap();
        assert_eq!(parts(&received(&mut listener)), ("end", false));
        assert_eq!(value(&bus.options(), "theme").as_deref(), Some("dark"));
    }
}

#[test]
fn a_value_that_another_sender_has_replaced_or_cleared_does_not_come_back() {
    for kill in [false, true] {
        let mut bus = Bus::new();
        let mut senders = ["one", "two"].map(|_| bus.sender("theme").unwrap());
        let [one, two] = &mut senders;
        one.retain(b"of one").unwrap();
        two.retain(b"of two").unwrap();
        replace_daemon(&mut bus, kill);
        one.send_confirmed(b"x").unwrap();
        assert_eq!(value(&bus.options(), "theme"), None, "it was superseded");
        two.send_confirmed(b"x").unwrap();
        assert_eq!(value(&bus.options(), "theme").as_deref(), Some("of two"));
        one.clear_retained().unwrap();
        replace_daemon(&mut bus, kill);
        two.send_confirmed(b"x").unwrap();
        assert_eq!(value(&bus.options(), "theme"), None, "it was cleared");
    }
}

#[test]
fn what_happens_on_the_next_daemon_wins_over_what_is_declared_again() {
    let mut bus = Bus::new();
    let mut sender = bus.sender("theme").unwrap();
    sender.retain(b"before").unwrap();
    bus.restart();
    let mut other = bus.sender("theme").unwrap();
    other.retain(b"after").unwrap();
    sender.send(b"x").unwrap();
    sender.send_confirmed(b"y").unwrap();
    assert_eq!(value(&bus.options(), "theme").as_deref(), Some("after"));
    bus.restart();
    sender.send_confirmed(b"z").unwrap();
    assert_eq!(value(&bus.options(), "theme"), None, "it knows that its own is outdated");
    other.clear_retained().unwrap();
    bus.restart();
    assert!(other.send_confirmed(b"z").is_ok() && value(&bus.options(), "theme").is_none());
}

#[test]
fn a_lifetime_goes_on_while_the_daemon_is_replaced() {
    let mut bus = Bus::new();
    let mut sender = bus.sender("progress").unwrap();
    sender.retain_for(b"not for long", Duration::from_millis(1)).unwrap();
    sender.retain_to("long", b"for long").unwrap();
    while value(&bus.options(), "progress").is_some() {}
    bus.restart();
    sender.send_confirmed(b"x").unwrap();
    assert_eq!(value(&bus.options(), "progress"), None);
    assert_eq!(
        value(&bus.options(), "long").as_deref(),
        Some("for long"),
        "on a channel that the sender does not use now"
    );
}

#[test]
fn a_sender_that_is_attended_hands_its_value_over_at_once() {
    let mut bus = Bus::new();
    let sender = bus.sender("theme").unwrap().into_shared();
    sender.retain(b"dark").unwrap();
    let attended = sender.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let attend = async {
                loop {
                    // A restart takes a moment, in which there is no daemon.
                    let ended = attended.keep_retained_async().await;
                    assert!(matches!(ended, Err(SendError::Connect(ConnectError::NotRunning { .. }))), "{ended:?}");
                }
            };
            tokio::select! {
                () = attend => {}
                _ = stopped => {}
            }
        });
    });
    for _ in 0..3 {
        bus.restart();
        // It is replayed as the listener joins, or as the value is restored.
        assert_eq!(parts(&received(&mut bus.listener("theme").unwrap())), ("dark", true));
    }
    sender.send(b"others send meanwhile").unwrap();
    drop(stop);
    thread.join().unwrap();
    drop(sender);

    let mut sender = bus.sender("mode").unwrap();
    sender.retain(b"night").unwrap();
    bus.restart();
    let mut listener = bus.listener("mode").unwrap();
    runtime().block_on(async {
        tokio::select! {
            ended = sender.keep_retained_async() => panic!("{ended:?}"),
            message = listener.recv_async() => assert_eq!(parts(&message.unwrap()), ("night", true)),
        }
    });
    bus.stop();
    let error = sender.keep_retained(WATCHDOG);
    assert!(matches!(error, Err(SendError::Connect(_))), "{error:?}");
}

#[test]
fn messages_for_unit_tests_are_replayed_or_clear() {
    let message = MessageBuilder::new("theme").unwrap().payload("dark");
    assert!(!message.clone().build().is_replayed());
    assert!(message.clone().replayed().build().is_replayed());
    let cleared = message.cleared().build();
    assert!(cleared.is_cleared() && cleared.payload().is_empty());
}
