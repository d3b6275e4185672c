//! Retained messages: which of them are kept and for how long, who receives them again, and what becomes of them when memory is short.

#![allow(clippy::unwrap_used)]

mod bus;
#[path = "../common/run.rs"]
mod run;
mod sequences;
#[path = "../common/turns.rs"]
mod turns;

use crate::bus::{Bus, Got, Kind, frame, keep, lifetime, name, seconds, subscribe};
use crate::run::run_of;
use broadcaster_broker::{Event, Incomplete, Limits, Moment};
use broadcaster_protocol::control::{
    Control, Extension, Open, Overflow, RefusedCode, Selector, Subscribe, Unsubscribe, extension,
};
use broadcaster_protocol::meta::{Metadata, Retention, tag};
use broadcaster_protocol::{ChannelId, Header, SenderId};
use std::time::Duration;

const ONCE: Retention = Retention { lifetime_ms: 0, keep: 1 };

fn limits() -> Limits {
    Limits::default()
}

fn all(subscription: u32, replay: u32) -> Subscribe {
    subscribe(subscription, Selector::All, replay)
}

fn pattern(subscription: u32, pattern: &str, replay: u32) -> Subscribe {
    subscribe(subscription, Selector::Pattern(pattern.to_owned()), replay)
}

#[test]
fn a_new_listener_receives_the_value_first_and_then_what_follows() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    bus.publish(sender, "theme", b"not retained");
    bus.retain(sender, "theme", b"light", ONCE);
    bus.retain(sender, "theme", b"dark", ONCE);
    bus.publish(sender, "theme", b"not retained either");
    let listener = bus.listener("theme", 1);
    bus.retain(sender, "theme", b"light", ONCE);
    let channel = bus.id(sender, "theme");
    let message = |sequence, payload: &[u8]| Got::Message {
        channel,
        sender: 1,
        sequence,
        payload: payload.to_vec(),
        retained: true,
    };
    let expected = [
        Got::Subscribed(1),
        Got::Named(channel, "theme".to_owned()),
        Got::Retained(channel, 1),
        message(2, b"dark"),
        message(4, b"light"),
    ];
    assert_eq!(bus.got(listener), expected);
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_replayed), (5, 2, 1));
}

#[test]
fn only_subscriptions_that_request_it_are_sent_retained_messages() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"dark", ONCE);
    let channel = bus.id(sender, "theme");
    let plain = [Got::Subscribed(1), Got::Named(channel, "theme".to_owned())];
    let listener = bus.listener("theme", 0);
    assert_eq!(bus.got(listener), plain);
    let zero = bus.connect(0);
    let extensions = vec![Extension::replay(0)];
    bus.send(zero, Subscribe { extensions, ..subscribe(1, name("theme"), 0) });
    assert_eq!(bus.got(zero), plain, "0 is the same as no extension");
    for len in [0, 3, 5] {
        let wrong = bus.connect(0);
        let extensions = vec![Extension { id: extension::REPLAY, data: vec![1; len] }];
        bus.send(wrong, Subscribe { extensions, ..subscribe(1, name("theme"), 0) });
        bus.is_refused(wrong, RefusedCode::Protocol, &format!("{len} bytes, not 4"));
    }
    assert_eq!(bus.broker.stats().messages_replayed, 0);
}

#[test]
fn a_subscription_by_name_learns_that_nothing_is_retained() {
    let mut bus = Bus::new(limits());
    let observe = |bus: &mut Bus, channel: &str| {
        let conn = bus.connect(0);
        bus.send(conn, Subscribe { observer: true, ..subscribe(1, name(channel), 1) });
        bus.got(conn)
    };
    assert_eq!(observe(&mut bus, "theme"), [Got::Subscribed(1), Got::Retained(0, 0)], "there is no such channel");
    assert!(bus.channel("theme").is_none(), "an observer creates no channel");
    let listener = bus.listener("theme", 9);
    let got = bus.got(listener);
    let Some(&Got::Named(channel, _)) = got.get(1) else { panic!("{got:?}") };
    let nothing = [Got::Subscribed(1), Got::Named(channel, "theme".to_owned()), Got::Retained(channel, 0)];
    assert_eq!(got, nothing);
    assert_eq!(observe(&mut bus, "theme"), nothing);
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"dark", ONCE);
    assert_eq!(bus.payloads(listener), "dark", "live messages follow");
    assert!(matches!(observe(&mut bus, "theme")[2], Got::Retained(id, 1) if id == channel));
    assert_eq!(bus.broker.stats().messages_replayed, 0, "observers are not counted");
}

#[test]
fn a_history_keeps_the_newest_messages_and_replays_them_oldest_first() {
    let mut bus = Bus::new(limits());
    let (one, two) = (bus.sender(1, "log"), bus.sender(2, "log"));
    for (conn, payload) in [(one, b"a"), (two, b"b"), (one, b"c"), (two, b"d")] {
        bus.retain(conn, "log", payload, keep(3));
    }
    for (replay, expected) in [(1, "~d"), (2, "~c ~d"), (3, "~b ~c ~d"), (1024, "~b ~c ~d"), (u32::MAX, "~b ~c ~d")] {
        let listener = bus.listener("log", replay);
        assert_eq!(bus.payloads(listener), expected, "{replay}");
    }
    bus.retain(one, "log", b"e", keep(2));
    let listener = bus.listener("log", 9);
    assert_eq!(bus.payloads(listener), "~d ~e", "the newest message decides how many are kept");
    bus.retain(one, "log", b"f", Retention { lifetime_ms: 0, keep: 0 });
    let listener = bus.listener("log", 9);
    assert_eq!(bus.payloads(listener), "~f", "no messages to keep count as one");
}

/// The frames of one read are one run.
#[test]
fn every_message_of_a_run_is_retained_or_clears() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "log");
    let (channel, id) = (ChannelId(bus.id(sender, "log")), bus.peers[sender.0].id);
    let frames = [(keep(9), "a"), (keep(9), ""), (keep(9), "b"), (keep(2), "c"), (keep(9), "d"), (keep(9), "e")];
    let frames = frames.into_iter().zip(0..);
    let wire: Vec<u8> = frames
        .flat_map(|((retention, payload), sequence)| {
            frame(Kind::Retain(retention), channel, id, sequence, payload.as_bytes())
        })
        .collect();
    let before = bus.listener("log", 9);
    bus.turn([Event::Run { conn: sender, run: run_of(&wire) }]);
    assert_eq!(bus.payloads(before), "a  b c d e", "all are delivered, the one that clears too");
    let after = bus.listener("log", 9);
    assert_eq!(bus.payloads(after), "~b ~c ~d ~e");
    assert_eq!(bus.superseded(sender), [], "the client knows what it has done");
}

#[test]
fn malformed_and_missing_retention_is_the_default() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    let (channel, id) = (ChannelId(bus.id(sender, "theme")), bus.peers[sender.0].id);
    let mut short = vec![tag::RETENTION, 11, 0];
    short.extend([1; 11]);
    let cut_off = vec![tag::RETENTION, 12, 0, 1];
    for (metadata, sequence) in [short, cut_off].into_iter().zip(0..) {
        let header = Header::retain(channel, id, sequence, 1).with_metadata(u16::try_from(metadata.len()).unwrap());
        let run = run_of(&[header.as_bytes(), &metadata, b"x"].concat());
        bus.turn([Event::Run { conn: sender, run }]);
        let history = bus.channel("theme").unwrap().history.unwrap();
        assert_eq!((history.messages, history.lifetime), (1, None));
    }
}

#[test]
fn a_message_leaves_its_history_at_the_end_of_its_lifetime() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "log");
    let all_of = |bus: &mut Bus| {
        let listener = bus.listener("log", 9);
        bus.payloads(listener)
    };
    for (payload, seconds) in [(b"a", 30), (b"b", 10), (b"c", 0), (b"d", 20)] {
        bus.retain(sender, "log", payload, Retention { lifetime_ms: seconds * 1000, keep: 4 });
    }
    assert_eq!(bus.broker.next_deadline(), Some(Moment(seconds(10))));
    assert_eq!(all_of(&mut bus), "~a ~b ~c ~d");
    bus.wait(seconds(10) - Duration::from_millis(1));
    assert_eq!(all_of(&mut bus), "~a ~b ~c ~d");
    bus.now = Moment(seconds(10));
    assert_eq!(all_of(&mut bus), "~a ~c ~d", "not even if the tick comes later");
    bus.got(sender);
    bus.wait(seconds(10));
    assert_eq!(all_of(&mut bus), "~a ~c");
    assert_eq!(bus.superseded(sender), [3], "the value has expired");
    bus.wait(seconds(10));
    assert_eq!(all_of(&mut bus), "~c");
    assert_eq!(bus.superseded(sender), [], "an older message has expired");
    assert_eq!(bus.broker.next_deadline(), None);
    bus.retain(sender, "log", b"e", Retention { lifetime_ms: u64::MAX, keep: 1 });
    bus.wait(seconds(1 << 40));
    assert_eq!(all_of(&mut bus), "~e");
}

/// A message that is replaced must not leave a deadline that removes the next one.
#[test]
fn a_new_message_has_a_lifetime_of_its_own() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"light", lifetime(10));
    bus.wait(seconds(5));
    bus.retain(sender, "theme", b"dark", lifetime(10));
    bus.wait(seconds(9));
    let listener = bus.listener("theme", 1);
    assert_eq!(bus.payloads(listener), "~dark");
    bus.wait(seconds(1));
    assert!(bus.channel("theme").unwrap().history.is_none());
}

#[test]
fn an_empty_message_clears_the_history_and_reaches_every_listener() {
    let mut bus = Bus::new(limits());
    let (one, two) = (bus.sender(1, "log"), bus.sender(2, "log"));
    bus.retain(one, "log", b"a", keep(9));
    bus.retain(two, "log", b"b", keep(9));
    assert_eq!(bus.superseded(one), [0]);
    let before = bus.listener("log", 9);
    bus.retain(one, "log", b"", keep(9));
    assert_eq!(bus.payloads(before), "~a ~b ");
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![], vec![0]));
    assert_eq!((bus.not_retained(one, "log"), bus.broker.stats().retention_declined), (None, 0));
    let after = bus.listener("log", 9);
    assert_eq!(bus.payloads(after), "");
    let snapshot = bus.broker.snapshot(bus.now);
    assert_eq!((snapshot.retained_channels, snapshot.retained_messages, snapshot.retained_bytes), (0, 0, 0));
}

#[test]
fn a_channel_exists_for_as_long_as_it_has_a_history() {
    let mut bus = Bus::new(limits());
    let watcher = bus.connect(0);
    bus.send(watcher, pattern(1, "**", 1));
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"dark", lifetime(60));
    let channel = bus.id(sender, "theme");
    bus.close(sender);
    let snapshot = bus.channel("theme").unwrap();
    assert_eq!((snapshot.senders, snapshot.listeners, snapshot.history.unwrap().messages), (0, 1, 1));
    let listener = bus.listener("theme", 1);
    assert_eq!(bus.payloads(listener), "~dark");
    bus.close(listener);
    bus.got(watcher);
    bus.wait(seconds(60));
    assert_eq!(bus.got(watcher), [Got::Named(channel, String::new())]);
    assert!(bus.channel("theme").is_none());

    let sender = bus.sender(1, "theme");
    assert_ne!(bus.id(sender, "theme"), channel);
    bus.retain(sender, "theme", b"dark", ONCE);
    bus.close(sender);
    let sender = bus.sender(2, "theme");
    bus.retain(sender, "theme", b"", ONCE);
    assert!(bus.channel("theme").is_some(), "it has a publication");
    bus.close(sender);
    assert!(bus.channel("theme").is_none());
}

#[test]
fn an_idle_broker_stays_for_what_it_retains() {
    let mut limits = limits();
    limits.idle_exit_after = Some(seconds(5));
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"dark", lifetime(60));
    bus.close(sender);
    assert_eq!(bus.broker.next_deadline(), Some(Moment(seconds(60))));
    bus.wait(seconds(59));
    let listener = bus.listener("theme", 1);
    assert_eq!(bus.payloads(listener), "~dark");
    bus.close(listener);
    bus.wait(seconds(1));
    assert_eq!(bus.broker.next_deadline(), Some(Moment(seconds(64))), "five seconds after the last connection");
}

#[test]
fn what_does_not_fit_is_delivered_and_empties_the_history() {
    let mut limits = limits();
    limits.retained_bytes_max = 4000;
    let mut bus = Bus::new(limits);
    let (one, two) = (bus.sender(1, "theme"), bus.sender(2, "theme"));
    bus.retain(one, "theme", b"light", keep(9));
    bus.retain(two, "theme", b"dark", keep(9));
    assert_eq!((bus.superseded(one), bus.not_retained(two, "theme")), (vec![0], None));
    let listener = bus.listener("theme", 9);
    assert_eq!(bus.payloads(listener), "~light ~dark");
    bus.retain(one, "theme", &[b'x'; 4000], keep(9));
    assert_eq!(bus.payloads(listener).len(), 4000, "it is delivered");
    assert!(bus.channel("theme").unwrap().history.is_none(), "an older message must not pass for the value");
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![1], vec![0]));
    let reason = bus.not_retained(one, "theme").unwrap();
    assert!(reason.contains("4043 bytes") && reason.contains("the limit is 4000"), "{reason}");
    assert_eq!(bus.broker.stats().retention_declined, 1);
    bus.publish(one, "theme", b"not to be retained");
    assert_eq!(bus.not_retained(one, "theme"), None, "the last message was not to be retained");
    bus.retain(one, "theme", b"small", keep(9));
    assert_eq!(bus.not_retained(one, "theme"), None);
    let listener = bus.listener("theme", 9);
    assert_eq!(bus.payloads(listener), "~small");
}

#[test]
fn the_oldest_messages_of_the_same_channel_make_room() {
    let mut limits = limits();
    limits.retained_bytes_max = 10_000;
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "other");
    bus.open(sender, "log", 0);
    bus.retain(sender, "other", &[b'o'; 5000], ONCE);
    for payload in [[b'a'; 1000], [b'b'; 1000], [b'c'; 1000]] {
        bus.retain(sender, "log", &payload, keep(9));
        assert_eq!(bus.not_retained(sender, "log"), None);
    }
    assert_eq!(bus.channel("log").unwrap().history.unwrap().messages, 3);
    bus.retain(sender, "log", &[b'd'; 2000], keep(9));
    assert_eq!(bus.not_retained(sender, "log"), None);
    let listener = bus.listener("log", 9);
    let starts: Vec<_> = bus.payloads(listener).split(' ').map(|payload| payload[..2].to_owned()).collect();
    assert_eq!(starts, ["~c", "~d"]);
    bus.retain(sender, "log", &[b'e'; 5000], keep(9));
    let reason = bus.not_retained(sender, "log").unwrap();
    assert!(reason.contains("other channels"), "{reason}");
    assert!(bus.channel("log").unwrap().history.is_none());
    assert_eq!(bus.channel("other").unwrap().history.unwrap().messages, 1, "other channels keep theirs");
    assert_eq!(bus.superseded(sender), [4]);
}

/// No connection can give up what is retained, so that it must leave room for messages in transit.
#[test]
fn retained_messages_take_a_quarter_of_the_memory_at_most() {
    let mut limits = limits();
    limits.held_bytes_max = 64 * 1024;
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "log");
    for _ in 0..10 {
        bus.retain(sender, "log", &[b'x'; 3000], keep(1000));
    }
    let history = bus.channel("log").unwrap().history.unwrap();
    assert_eq!(history.messages, 4);
    assert!((13_000..=16 * 1024).contains(&history.bytes), "{} bytes", history.bytes);
    assert_eq!(bus.broker.held_bytes(), history.bytes);
    bus.retain(sender, "log", &[b'x'; 16 * 1024], keep(1000));
    assert!(bus.not_retained(sender, "log").unwrap().contains("the limit is 16384"));
    assert_eq!(bus.broker.held_bytes(), 0);
}

#[test]
fn channels_and_messages_that_are_retained_have_limits() {
    let mut limits = limits();
    (limits.retained_channels_max, limits.retained_messages_max) = (2, 3);
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "a");
    for channel in ["b", "c"] {
        bus.open(sender, channel, 0);
    }
    bus.retain(sender, "a", b"x", keep(3));
    bus.retain(sender, "b", b"x", ONCE);
    bus.retain(sender, "c", b"x", ONCE);
    let reason = bus.not_retained(sender, "c").unwrap();
    assert!(reason.contains("2 channels"), "{reason}");
    bus.retain(sender, "a", b"y", keep(3));
    assert_eq!(bus.not_retained(sender, "a"), None, "a channel that has a history needs no other");
    bus.retain(sender, "a", b"z", keep(4));
    let reason = bus.not_retained(sender, "a").unwrap();
    assert!(reason.contains("keep 4 messages; the limit is 3"), "{reason}");
    assert!(bus.channel("a").unwrap().history.is_none());
    bus.retain(sender, "c", b"x", ONCE);
    assert_eq!(bus.not_retained(sender, "c"), None, "there is room for another channel");
    assert_eq!(bus.broker.stats().retention_declined, 2);
}

#[test]
fn a_message_without_its_body_is_lost_and_not_retained() {
    let mut bus = Bus::new(limits());
    let (one, two) = (bus.sender(1, "theme"), bus.sender(2, "theme"));
    let listener = bus.listener("theme", 1);
    bus.retain(two, "theme", b"dark", ONCE);
    let (channel, id) = (ChannelId(bus.id(one, "theme")), bus.peers[one.0].id);
    bus.turn([
        Event::Holding { conn: one, bytes: 500, frame: Incomplete::Discardable },
        Event::Discarded { conn: one, header: Header::retain(channel, id, 0, 1000) },
        Event::Holding { conn: one, bytes: 0, frame: Incomplete::None },
    ]);
    bus.peers[one.0].publications.get_mut("theme").unwrap().1 = 1;
    assert_eq!(bus.payloads(listener), "dark -1");
    assert!(bus.channel("theme").unwrap().history.is_none());
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![0], vec![0]));
    assert_eq!(bus.not_retained(one, "theme").as_deref(), Some("the daemon had no memory for it"));
    assert_eq!(bus.broker.stats().retention_declined, 1);

    bus.retain(two, "theme", b"dark", ONCE);
    let clear = Header::retain(channel, id, 1, 0).with_metadata(4000);
    bus.turn([Event::Discarded { conn: one, header: clear }]);
    bus.peers[one.0].publications.get_mut("theme").unwrap().1 = 2;
    assert!(bus.channel("theme").unwrap().history.is_none(), "only the metadata of the clearing message was dropped");
    assert_eq!((bus.superseded(one), bus.not_retained(one, "theme")), (vec![], None));

    let new = bus.sender(3, "fresh");
    bus.peers[new.0].publications.get_mut("fresh").unwrap().1 = 0;
    let (channel, id) = (ChannelId(bus.id(new, "fresh")), bus.peers[new.0].id);
    let header = Header::redeclare(channel, id, u64::MAX, 1000);
    bus.turn([Event::Discarded { conn: new, header }]);
    assert_eq!(bus.superseded(new), [u64::MAX]);
    assert!(bus.not_retained(new, "fresh").is_some());
    assert_eq!(bus.broker.stats().messages_accepted, 4, "what is declared again is not accepted once more");
}

#[test]
fn patterns_and_all_channels_are_replayed_channel_by_channel() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "a.x");
    for channel in ["a.y", "a.z", "b"] {
        bus.open(sender, channel, 0);
    }
    for (channel, payload) in [("a.x", b"1"), ("a.x", b"2"), ("a.y", b"3"), ("b", b"4")] {
        bus.retain(sender, channel, payload, keep(2));
    }
    let ids = ["a.x", "a.y", "a.z", "b"].map(|channel| bus.id(sender, channel));
    let by_pattern = bus.connect(1000);
    bus.send(by_pattern, pattern(1, "a.*", 2));
    let controls: Vec<_> = bus.got(by_pattern);
    let kinds: Vec<_> = controls.iter().filter(|got| !matches!(got, Got::Message { .. })).cloned().collect();
    let expected = [
        Got::Subscribed(1),
        Got::Named(ids[0], "a.x".to_owned()),
        Got::Retained(ids[0], 2),
        Got::Named(ids[1], "a.y".to_owned()),
        Got::Retained(ids[1], 1),
    ];
    assert_eq!(kinds, expected, "nothing precedes the first message of a channel without a history");
    assert!(matches!(controls[3], Got::Message { channel, sequence: 0, .. } if channel == ids[0]));

    let everything = bus.connect(0);
    bus.send(everything, all(1, 1));
    assert_eq!(bus.payloads(everything), "~2 ~3 ~4");
    bus.publish(sender, "a.z", b"live");
    assert_eq!(bus.payloads(everything), "live");
    assert_eq!(bus.got(by_pattern)[0], Got::Named(ids[2], "a.z".to_owned()));
}

#[test]
fn a_channel_that_the_connection_receives_already_is_not_replayed() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "a.x");
    bus.open(sender, "a.y", 0);
    bus.retain(sender, "a.x", b"x", ONCE);
    bus.retain(sender, "a.y", b"y", ONCE);
    let listener = bus.listener("a.x", 0);
    bus.got(listener);
    bus.send(listener, pattern(2, "a.*", 9));
    assert_eq!(bus.payloads(listener), "~y");
    bus.send(listener, subscribe(3, name("a.y"), 9));
    let channel = bus.id(sender, "a.y");
    let got = bus.got(listener);
    assert_eq!(got, [Got::Subscribed(3), Got::Named(channel, "a.y".to_owned()), Got::Retained(channel, 0)]);
    // It no longer receives the channel, and then again.
    for number in [2, 3] {
        bus.send(listener, Unsubscribe { subscription: number, extensions: Vec::new() });
    }
    bus.got(listener);
    bus.send(listener, subscribe(2, name("a.y"), 9));
    assert_eq!(bus.payloads(listener), "~y");
    // An observer's subscription outranks no listener's, and is outranked without another replay.
    let observer = bus.connect(0);
    bus.send(observer, Subscribe { observer: true, ..all(1, 1) });
    assert_eq!(bus.payloads(observer), "~x ~y");
    bus.send(observer, subscribe(2, name("a.x"), 1));
    assert_eq!(bus.payloads(observer), "");
}

#[test]
fn a_client_learns_when_its_message_is_the_value_no_more() {
    let mut bus = Bus::new(limits());
    let (one, two) = (bus.sender(1, "theme"), bus.sender(2, "theme"));
    bus.retain(one, "theme", b"light", keep(9));
    bus.retain(one, "theme", b"dark", keep(9));
    assert_eq!(bus.superseded(one), [], "the client knows what it has done");
    bus.retain(two, "theme", b"light", keep(9));
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![1], vec![]));
    bus.retain(two, "theme", b"dark", ONCE);
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![], vec![]), "older messages were the value before");
    // Another connection with the same sender id, and one that has not opened the channel.
    bus.close(two);
    let again = bus.connect(2);
    bus.open(again, "theme", 2);
    bus.got(again);
    bus.retain(one, "theme", b"light", ONCE);
    assert_eq!(bus.superseded(again), [1]);
    bus.close(one);
    let elsewhere = bus.sender(1, "elsewhere");
    bus.got(elsewhere);
    bus.retain(again, "theme", b"dark", ONCE);
    assert_eq!(bus.got(elsewhere), []);
}

#[test]
fn what_an_earlier_daemon_retained_is_declared_again_and_replayed() {
    let mut bus = Bus::new(limits());
    let waiting = bus.listener("theme", 5);
    let plain = bus.listener("theme", 0);
    let by_pattern = bus.connect(1000);
    bus.send(by_pattern, pattern(1, "**", 1));
    bus.got(waiting);
    let sender = bus.connect(1);
    bus.open(sender, "theme", 8);
    let channel = bus.id(sender, "theme");
    let (id, next) = (bus.peers[sender.0].id, 8);
    let run = run_of(&frame(Kind::Redeclare(lifetime(9)), ChannelId(channel), id, 5, b"dark"));
    bus.turn([Event::Run { conn: sender, run }]);
    let message = Got::Message { channel, sender: 1, sequence: 5, payload: b"dark".to_vec(), retained: true };
    assert_eq!(bus.got(waiting), [Got::Retained(channel, 1), message.clone()]);
    let named = Got::Named(channel, "theme".to_owned());
    assert_eq!(bus.got(by_pattern), [Got::Subscribed(1), named, Got::Retained(channel, 1), message]);
    assert_eq!(bus.payloads(plain), "", "it has not requested replay");
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.bytes_accepted, stats.messages_replayed), (0, 0, 2));
    assert_eq!(bus.channel("theme").unwrap().messages_accepted, 0);
    let later = bus.listener("theme", 1);
    assert_eq!(bus.payloads(later), "~dark");
    assert_eq!(bus.not_retained(sender, "theme"), None);
    // The sequence goes on where it was.
    assert_eq!(bus.peers[sender.0].publications["theme"].1, next);
    bus.publish(sender, "theme", b"hello");
    assert_eq!(bus.payloads(plain), "hello");
    // The lifetime is that of the frame.
    assert_eq!(bus.superseded(sender), []);
    bus.wait(seconds(9));
    assert_eq!(bus.superseded(sender), [5]);
    assert!(bus.channel("theme").unwrap().history.is_none());
}

#[test]
fn only_the_first_message_that_is_declared_again_becomes_the_value() {
    let mut bus = Bus::new(limits());
    let listener = bus.listener("theme", 1);
    let (one, two) = (bus.connect(1), bus.connect(2));
    for sender in [one, two] {
        bus.open(sender, "theme", 100);
    }
    bus.redeclare(one, "theme", 10, b"first");
    bus.redeclare(two, "theme", 10, b"second");
    assert_eq!((bus.superseded(one), bus.superseded(two)), (vec![], vec![10]));
    assert!(bus.not_retained(two, "theme").unwrap().contains("newer"));
    bus.redeclare(one, "theme", 10, b"first");
    assert_eq!((bus.superseded(one), bus.not_retained(one, "theme")), (vec![], None), "it is the value already");
    bus.redeclare(one, "theme", 9, b"an older one");
    assert_eq!(bus.superseded(one), [9]);
    assert_eq!(bus.payloads(listener), "~first");
}

#[test]
fn what_happened_since_wins_against_what_is_declared_again() {
    type Happens = fn(&mut Bus, broadcaster_broker::ConnId);
    let cases: [(&str, Happens); 4] = [
        ("retained", |bus, live| bus.retain(live, "theme", b"live", ONCE)),
        ("cleared", |bus, live| bus.retain(live, "theme", b"", ONCE)),
        ("expired", |bus, live| {
            bus.retain(live, "theme", b"live", lifetime(1));
            bus.wait(seconds(1));
        }),
        ("too large", |bus, live| bus.retain(live, "theme", b"live", keep(9999))),
    ];
    for (case, happens) in cases {
        let mut bus = Bus::new(limits());
        let (live, old) = (bus.sender(1, "theme"), bus.connect(2));
        bus.open(old, "theme", 100);
        happens(&mut bus, live);
        let retained = bus.channel("theme").unwrap().history;
        let listener = bus.listener("theme", 1);
        bus.got(listener);
        bus.redeclare(old, "theme", 99, b"old");
        assert_eq!(bus.channel("theme").unwrap().history, retained, "{case}");
        assert_eq!((bus.superseded(old), bus.payloads(listener)), (vec![99], String::new()), "{case}");
    }
    // A channel that has ended has no past.
    let mut bus = Bus::new(limits());
    let live = bus.sender(1, "theme");
    bus.retain(live, "theme", b"", ONCE);
    bus.close(live);
    let old = bus.connect(2);
    bus.open(old, "theme", 100);
    bus.redeclare(old, "theme", 99, b"old");
    assert_eq!(bus.channel("theme").unwrap().history.unwrap().messages, 1);
}

#[test]
fn a_client_that_declares_again_what_it_may_not_is_refused() {
    type Lie = fn(SenderId, ChannelId) -> Vec<u8>;
    const KIND: Kind = Kind::Redeclare(ONCE);
    let lies: [(&str, Lie); 6] = [
        ("is empty", |id, channel| frame(KIND, channel, id, 5, b"")),
        ("not before 8", |id, channel| frame(KIND, channel, id, 8, b"x")),
        ("not before 8", |id, channel| frame(KIND, channel, id, 9, b"x")),
        ("not before 8", |id, channel| frame(KIND, channel, id, 7_u64.wrapping_sub(1 << 63), b"x")),
        ("carries the sender", |id, channel| frame(KIND, channel, SenderId::new(id.pid(), 99), 5, b"x")),
        ("is not open here", |id, channel| frame(KIND, ChannelId(channel.0 + 1), id, 5, b"x")),
    ];
    for (reason, lie) in lies {
        let mut bus = Bus::new(limits());
        let conn = bus.connect(1);
        bus.open(conn, "theme", 8);
        let listener = bus.listener("theme", 1);
        bus.got(listener);
        let run = run_of(&lie(bus.peers[conn.0].id, ChannelId(bus.id(conn, "theme"))));
        bus.turn([Event::Run { conn, run }]);
        bus.is_refused(conn, RefusedCode::Protocol, reason);
        assert_eq!(bus.payloads(listener), "");
    }
    for sequence in [7, 0, u64::MAX, 8_u64.wrapping_sub(1 << 63)] {
        let mut bus = Bus::new(limits());
        let conn = bus.connect(1);
        bus.open(conn, "theme", 8);
        bus.redeclare(conn, "theme", sequence, b"x");
        assert!(bus.channel("theme").unwrap().history.is_some(), "{sequence} is before 8");
    }
    let mut bus = Bus::new(limits());
    let conn = broadcaster_broker::ConnId(0);
    bus.connect(1);
    bus.close(conn);
    let run = run_of(&frame(KIND, ChannelId(1), SenderId::new(0, 0), 0, b"x"));
    bus.turn([Event::Run { conn, run }]);
}

/// Two messages fill the outbox of a listener that does not read.
fn small_outbox() -> Limits {
    let mut limits = limits();
    limits.outbox_messages_max = 2;
    limits
}

#[test]
fn replayed_messages_push_out_nothing_and_are_not_dropped_for_lack_of_room() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect] {
        let mut bus = Bus::new(small_outbox());
        let sender = bus.sender(1, "live");
        bus.open(sender, "log", 0);
        for payload in [b"a", b"b", b"c", b"d"] {
            bus.retain(sender, "log", payload, keep(9));
        }
        let listener = bus.listener("live", 0);
        bus.stall(listener);
        for payload in [b"1", b"2"] {
            bus.publish(sender, "live", payload);
        }
        bus.send(listener, Subscribe { overflow, ..subscribe(2, name("log"), 9) });
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_lost, bus.broker.queue(listener).0), (0, 6), "{overflow:?}");
        bus.take_all(listener);
        assert_eq!(bus.payloads(listener), "1 2 ~a ~b ~c ~d", "{overflow:?}");
    }
}

/// The count of Retained includes what is lost, and the loss of earlier messages is not mixed with it.
#[test]
fn a_loss_among_replayed_messages_is_reported_behind_retained() {
    let mut bus = Bus::new(small_outbox());
    let sender = bus.connect(1);
    bus.open(sender, "log", 100);
    let listener = bus.listener("log", 9);
    bus.got(listener);
    bus.stall(listener);
    for payload in [b"1", b"2", b"3", b"4"] {
        bus.publish(sender, "log", payload);
    }
    bus.redeclare(sender, "log", 50, b"old");
    for payload in [b"5", b"6", b"7"] {
        bus.publish(sender, "log", payload);
    }
    bus.take_all(listener);
    let channel = bus.id(sender, "log");
    let got = bus.got(listener);
    let lost: Vec<_> = got
        .split(|got| matches!(got, Got::Retained(..)))
        .map(|part| {
            let lost = part.iter().map(|got| if let Got::Lagged(_, count) = got { *count } else { 0 }).sum::<u64>();
            lost + part.iter().filter(|got| matches!(got, Got::Message { .. })).count() as u64
        })
        .collect();
    assert_eq!(lost, [4, 4], "{got:?}");
    assert!(got.contains(&Got::Retained(channel, 1)), "{got:?}");
    let stats = bus.broker.stats();
    assert_eq!(stats.messages_delivered + stats.messages_lost, 7 + 1);
}

#[test]
fn a_listener_may_be_slow_to_read_the_values_of_hundreds_of_channels() {
    let mut limits = limits();
    limits.channels_per_connection_max = 4096;
    let mut bus = Bus::new(limits);
    let names: Vec<_> = (0..400).map(|number| format!("{number}.{}", "x".repeat(200))).collect();
    let sender = bus.connect(1);
    for name in &names {
        bus.open(sender, name, 0);
        bus.retain(sender, name, b"v", ONCE);
    }
    let listener = bus.connect(0);
    bus.stall(listener);
    bus.send(listener, all(1, 1));
    for _ in 0..5 {
        bus.wait(seconds(3));
        bus.write(listener);
        bus.turn([]);
    }
    assert!(!bus.peers[listener.0].ended);
    bus.take_all(listener);
    assert_eq!(bus.payloads(listener).split(' ').filter(|&payload| payload == "~v").count(), names.len());
}

#[test]
fn the_name_of_a_channel_that_is_not_replayed_counts_as_unread() {
    let mut limits = limits();
    limits.replies_bytes_max = 200;
    let mut bus = Bus::new(limits);
    let channel = "x".repeat(200);
    bus.sender(1, &channel);
    let listener = bus.connect(0);
    bus.stall(listener);
    bus.send(listener, subscribe(1, name(&channel), 0));
    bus.wait(seconds(3));
    bus.write(listener);
    bus.turn([]);
    bus.take_all(listener);
    bus.is_refused(listener, RefusedCode::Stalled, "more than 200 bytes of control frames");
}

#[test]
fn the_memory_budget_can_drop_replayed_messages_but_not_what_is_retained() {
    let mut limits = limits();
    limits.held_bytes_max = 256 * 1024;
    limits.retained_bytes_max = 40 * 1024;
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "log");
    bus.open(sender, "live", 0);
    for payload in [b'a', b'b', b'c'] {
        bus.retain(sender, "log", &[payload; 10_000], keep(9));
    }
    let listener = bus.connect(0);
    bus.stall(listener);
    bus.send(listener, subscribe(1, name("log"), 9));
    bus.send(listener, subscribe(2, name("live"), 0));
    let before = bus.broker.held_bytes();
    assert!(before < 40 * 1024, "the messages that wait are those that are retained: {before} bytes");
    for _ in 0..10 {
        bus.publish(sender, "live", &[b'x'; 60_000]);
    }
    assert!(bus.broker.held_bytes() <= 256 * 1024);
    assert!(bus.broker.stats().messages_lost >= 3);
    assert_eq!(bus.channel("log").unwrap().history.unwrap().messages, 3);
    bus.take_all(listener);
    let got = bus.got(listener);
    let log = bus.id(sender, "log");
    let retained = got.iter().position(|got| *got == Got::Retained(log, 3)).unwrap();
    assert_eq!(got[retained + 1], Got::Lagged(log, 3), "{got:?}");
    let other = bus.listener("log", 9);
    assert_eq!(bus.payloads(other).len(), 3 * 10_001 + 2);
}

/// A run of a few messages pins the whole chunk that it was read into.
#[test]
fn a_retained_message_pins_no_more_than_its_own_bytes() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "log");
    let (channel, id) = (ChannelId(bus.id(sender, "log")), bus.peers[sender.0].id);
    let wire: Vec<u8> =
        (0..30).flat_map(|sequence| frame(Kind::Retain(ONCE), channel, id, sequence, &[b'x'; 1000])).collect();
    let run = run_of(&wire);
    assert!(run.pinned_bytes() >= 64 * 1024, "the run pins its chunk");
    bus.turn([Event::Run { conn: sender, run }]);
    let held = bus.broker.held_bytes();
    assert!((1028..1500).contains(&held), "{held} bytes are held for a message of 1028 bytes");
    let snapshot = bus.broker.snapshot(bus.now);
    assert_eq!((snapshot.retained_messages, snapshot.retained_bytes), (1, held));
    let two = bus.sender(2, "one large frame");
    bus.retain(two, "one large frame", &vec![1; 1 << 20], ONCE);
    let more = bus.broker.held_bytes() - held;
    assert!(((1 << 20)..(1 << 20) + 500).contains(&more), "{more} bytes are held for a message of 1 MiB");
}

#[test]
fn a_retained_message_uses_credit_and_one_that_is_declared_again_does_not() {
    let mut bus = Bus::new(limits());
    let conn = bus.connect(1);
    let extensions = vec![Extension { id: extension::BACKPRESSURE, data: 1000_u32.to_le_bytes().to_vec() }];
    bus.send(conn, Open { channel: "log".to_owned(), next_sequence: 10, extensions });
    bus.peers[conn.0].publications.get_mut("log").unwrap().1 = 10;
    let credits = |bus: &mut Bus| bus.got(conn).into_iter().filter(|got| *got == Got::Other(0x30)).count();
    assert_eq!(credits(&mut bus), 1);
    bus.redeclare(conn, "log", 5, &vec![1; 600_000]);
    assert_eq!(credits(&mut bus), 0);
    bus.retain(conn, "log", &vec![1; 600_000], ONCE);
    assert_eq!(credits(&mut bus), 1, "it is granted anew, because more than half was used");
}

#[test]
fn retaining_and_replaying_is_work() {
    let mut limits = limits();
    limits.retained_messages_max = 50_000;
    let mut bus = Bus::new(limits);
    let sender = bus.sender(1, "log");
    let (channel, id) = (ChannelId(bus.id(sender, "log")), bus.peers[sender.0].id);
    let mut events = 0;
    while !bus.broker.turn_is_full() {
        let frames = |sequence| frame(Kind::Retain(keep(50_000)), channel, id, sequence, b"x");
        let wire: Vec<u8> = (events * 1000..(events + 1) * 1000).flat_map(frames).collect();
        bus.apply(Event::Run { conn: sender, run: run_of(&wire) });
        events += 1;
        assert!(events < 100, "a turn never ends");
    }
    assert_eq!(events, 33);
    bus.turn([]);
    let listener = bus.connect(0);
    let control = Control::from(all(1, 50_000));
    bus.apply(Event::Control { conn: listener, control });
    assert!(bus.broker.turn_is_full());
    bus.turn([]);
    assert_eq!(bus.broker.stats().messages_replayed, 33_000);
}

#[test]
fn a_picture_shows_what_is_retained() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    bus.open(sender, "log", 0);
    bus.publish(sender, "log", b"x");
    bus.retain(sender, "theme", b"light", keep(2));
    bus.retain(sender, "theme", b"dark", Retention { lifetime_ms: 60_000, keep: 2 });
    bus.wait(seconds(20));
    let history = bus.channel("theme").unwrap().history.unwrap();
    assert_eq!((history.messages, history.sender), (2, bus.peers[sender.0].id));
    assert_eq!((history.age, history.lifetime), (seconds(20), Some(seconds(40))));
    assert!(bus.channel("log").unwrap().history.is_none());
    let snapshot = bus.broker.snapshot(bus.now);
    let totals = (snapshot.retained_channels, snapshot.retained_messages, snapshot.retained_bytes);
    assert_eq!(totals, (1, 2, history.bytes));
    assert_eq!(bus.broker.held_bytes(), history.bytes);
}

#[test]
fn nothing_is_retained_any_more_when_the_broker_leaves() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    bus.retain(sender, "theme", b"dark", lifetime(60));
    bus.turn([Event::Stop, Event::Drained]);
    assert_eq!(bus.broker.held_bytes(), 0);
    assert_eq!(bus.superseded(sender), [], "the client declares it again to the next daemon");
}

#[test]
fn metadata_is_replayed_as_it_was_published() {
    let mut bus = Bus::new(limits());
    let sender = bus.sender(1, "theme");
    let (channel, id) = (ChannelId(bus.id(sender, "theme")), bus.peers[sender.0].id);
    let metadata = Metadata::new().content_type("text/plain").unwrap().retention(lifetime(9)).unwrap();
    let header = Header::retain(channel, id, 0, 4).with_metadata(metadata.meta_bytes());
    let wire = [header.as_bytes(), metadata.as_bytes(), b"dark"].concat();
    bus.turn([Event::Run { conn: sender, run: run_of(&wire) }]);
    let listener = bus.connect(0);
    bus.stall(listener);
    bus.send(listener, subscribe(1, name("theme"), 1));
    let outgoing: Vec<u8> = bus.broker.outgoing(listener).flatten().copied().collect();
    assert!(outgoing.ends_with(&wire), "the same bytes");
}
