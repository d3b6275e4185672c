//! From the offer of a ring to its end.

use crate::bus;
use crate::bus::{Bus, CAPACITY, RING_BYTES, Sender, begin, run, subscribe, subscribe_to};
use broadcaster_broker::{Attachment, Broker, ConnId, Effect, Event, Head, Limits, LinkId, Moment, RingId};
use broadcaster_protocol::control::{
    BeginRing, Confirm, Control, EndRing, Extension, LinkAdded, Open, Overflow, Prepare, Prepared, RingAccepted,
    Selector, Unlink, capability, extension,
};
use broadcaster_protocol::{ChannelId, SenderId, handshake};
use broadcaster_ring::Cursor;
use std::time::Duration;

/// The last line that the connection has received.
fn last(bus: &Bus, conn: ConnId) -> &str {
    bus.log(conn).last().map_or("", String::as_str)
}

#[test]
fn rings_are_announced_only_by_a_server_that_supports_them() {
    let mut bus = bus();
    let conn = bus.connect();
    assert_eq!(bus.peers[conn.0].welcome.as_ref().unwrap().capabilities, capability::RINGS);
    assert!(!bus.broker.expects_descriptors(conn), "to expect them costs time");
    bus.send(conn, Prepare::default());
    assert_eq!(bus.log(conn), ["prepared"]);
    assert!(bus.broker.expects_descriptors(conn));
    for capabilities in [capability::NONE, !capability::RINGS] {
        let other = bus.connect_with(capabilities);
        bus.send(other, Prepare::default());
        assert!(last(&bus, other).contains("has not agreed on rings") && !bus.broker.expects_descriptors(other));
    }

    let mut broker = Broker::new(Limits::default(), 1000, 1, "test", Moment::default());
    let conn = ConnId(0);
    let mut hello = handshake::hello("a test", "test", 1, 1);
    hello.capabilities = capability::RINGS;
    broker.handle(Moment::default(), Event::Opened { conn, pid: 1, uid: 1000 }, &mut Vec::new());
    for control in [Control::Hello(hello), Prepare::default().into()] {
        broker.handle(Moment::default(), Event::Control { conn, control }, &mut Vec::new());
    }
    assert!(!broker.expects_descriptors(conn) && broker.is_leaving(conn));
}

#[test]
fn frames_that_concern_rings_need_the_capability() {
    let extensions = Vec::new;
    let frames: [Control; 5] = [
        Prepared::default().into(),
        BeginRing { id: 1, sequence: 0, extensions: extensions() }.into(),
        EndRing { id: 1, sequence: 0, extensions: extensions() }.into(),
        LinkAdded { link: 1, extensions: extensions() }.into(),
        Unlink { link: 1, extensions: extensions() }.into(),
    ];
    for control in frames {
        let mut bus = bus();
        let conn = bus.connect_with(capability::NONE);
        bus.send(conn, control);
        assert!(last(&bus, conn).contains("has not agreed on rings"), "{:?}", bus.log(conn));
    }
    let events: [fn(ConnId) -> Event; 2] = [
        |conn| Event::RingOffered { conn, channel: ChannelId(1), bytes: Ok(RING_BYTES) },
        |conn| Event::LinkReady { conn, link: LinkId(1), is_usable: true },
    ];
    for event in events {
        let mut bus = bus();
        let conn = bus.connect_with(capability::NONE);
        bus.happen(event(conn));
        assert!(last(&bus, conn).contains("has not agreed on rings"), "{:?}", bus.log(conn));
    }
    // What only the daemon sends is no request at all.
    let mut bus = bus();
    let conn = bus.connect();
    bus.send(conn, RingAccepted { id: 1, extensions: Vec::new() });
    assert!(last(&bus, conn).starts_with("refused 5: a frame of kind 0x71"), "{:?}", bus.log(conn));
}

#[test]
fn a_ring_is_accepted_with_the_page_of_the_relay() {
    let mut bus = bus();
    bus.listener("news");
    let sender = bus.sender("news");
    bus.offer(sender);
    let ring = bus.ring_of(sender);
    assert_eq!(bus.log(sender.conn), ["accepted"]);
    assert_eq!(bus.peers[sender.conn.0].attachments, [Attachment::Relay(ring)]);
    assert_eq!(bus.effects.iter().filter(|effect| matches!(effect, Effect::KeepRing(_))).count(), 1);
    // Until it begins, everything goes on by the socket.
    bus.send_messages(sender, 0..3);
    assert_eq!(bus.snapshot(sender.conn).rings, 0);
}

#[test]
fn a_ring_is_accepted_when_its_sender_is_prepared_for_descriptors() {
    let mut bus = bus();
    bus.listener("news");
    let sender = bus.sender("news");
    bus.stall(sender.conn);
    bus.offer(sender);
    assert_eq!(bus.log(sender.conn), [""; 0]);
    bus.take_all(sender.conn);
    assert_eq!(bus.log(sender.conn), ["accepted"], "it was asked, and has answered");
    // A second one needs no question.
    bus.listener("other");
    let other = bus.open(sender.conn, "other");
    bus.offer(other);
    assert_eq!(bus.log(sender.conn), ["accepted", "accepted"]);
    bus.send(sender.conn, Prepared::default());
    assert_eq!(last(&bus, sender.conn), "refused 5: a Prepared answers no Prepare");
}

#[test]
fn a_ring_whose_sender_is_never_prepared_is_declined() {
    for stops in [false, true] {
        let mut bus = bus();
        bus.listener("news");
        let sender = bus.sender("news");
        bus.stall(sender.conn);
        bus.offer(sender);
        if stops {
            bus.happen(Event::Stop);
            assert!(bus.effects.contains(&Effect::Drain), "nothing is left to wait for");
        } else {
            bus.wait(Duration::from_secs(10));
        }
        assert!(bus.rings.values().all(|ring| !ring.is_kept));
        bus.take_all(sender.conn);
        assert_eq!(bus.log(sender.conn), ["declined 10: the ring is not needed any more"]);
    }
}

#[test]
fn a_ring_that_no_listener_could_read_is_declined() {
    let by_name = || Selector::Name("news".to_owned());
    let subscriptions = [
        subscribe_to(1, Selector::All, Overflow::DropOldest, false),
        subscribe_to(1, Selector::Pattern("*".to_owned()), Overflow::DropOldest, false),
        subscribe_to(1, by_name(), Overflow::DropOldest, true),
        subscribe_to(1, by_name(), Overflow::DropNewest, false),
        subscribe_to(1, by_name(), Overflow::Latest, false),
        subscribe_to(1, by_name(), Overflow::Disconnect, false),
    ];
    let mut bus = bus();
    let sender = bus.sender("news");
    bus.plain_listener("news");
    for subscription in subscriptions {
        let listener = bus.connect();
        bus.send(listener, subscription);
    }
    bus.offer(sender);
    assert_eq!(bus.take_log(sender.conn), ["declined 10: no listener of the channel could read a ring"]);
    // The subscription that came first decides.
    let listener = bus.connect();
    bus.send(listener, subscribe_to(1, Selector::All, Overflow::DropOldest, false));
    bus.send(listener, subscribe(2, "news"));
    bus.offer(sender);
    assert_eq!(bus.take_log(sender.conn), ["declined 10: no listener of the channel could read a ring"]);
    bus.listener("news");
    bus.offer(sender);
    assert_eq!(bus.take_log(sender.conn), ["accepted"]);
}

#[test]
fn a_ring_that_cannot_be_used_is_declined_with_the_reason() {
    let mut bus = bus();
    bus.listener("news");
    let sender = bus.sender("news");
    let event = |bytes| Event::RingOffered { conn: sender.conn, channel: sender.channel, bytes };
    bus.happen(event(Err("the memory lacks a seal".to_owned())));
    assert_eq!(bus.log(sender.conn), ["declined 10: the memory lacks a seal"]);
    bus.happen(Event::DescriptorsMissing { conn: sender.conn });
    assert_eq!(last(&bus, sender.conn), "refused 5: a frame has come without its descriptors");
}

#[test]
fn a_publication_with_backpressure_has_no_ring() {
    let mut bus = bus();
    bus.listener("news");
    let conn = bus.connect();
    let open = Open {
        channel: "news".to_owned(),
        next_sequence: 0,
        extensions: vec![Extension { id: extension::BACKPRESSURE, data: 5000u32.to_le_bytes().to_vec() }],
    };
    // Credit is not of interest here.
    bus.stall(conn);
    bus.send(conn, open);
    let channel = ChannelId(1);
    bus.happen(Event::RingOffered { conn, channel, bytes: Ok(RING_BYTES) });
    assert!(bus.rings.is_empty());
    assert!(!bus.effects.iter().any(|effect| matches!(effect, Effect::KeepRing(_))));
}

#[test]
fn rings_are_limited_for_each_connection_and_in_total() {
    let mut bus = Bus::with_rings(Limits::default(), 6);
    let channels = ["a", "b", "c", "d", "e", "f", "g"];
    let senders = [bus.connect(), bus.connect()];
    for channel in channels {
        bus.listener(channel);
    }
    for (channel, sender) in channels[..5].iter().zip([0; 5]) {
        let sender = bus.open(senders[sender], channel);
        bus.offer(sender);
    }
    assert_eq!(last(&bus, senders[0]), "declined 4: this connection has 4 rings, which is the limit");
    for channel in &channels[4..] {
        let sender = bus.open(senders[1], channel);
        bus.offer(sender);
    }
    assert_eq!(last(&bus, senders[1]), "declined 4: the daemon has 6 rings, which is the limit");
    assert_eq!(bus.broker.snapshot(bus.now).rings, 6);
    bus.close(senders[0]);
    assert_eq!(bus.broker.snapshot(bus.now).rings, 2);
}

#[test]
fn a_client_that_offers_or_uses_a_ring_out_of_turn_is_refused() {
    type Case = fn(&mut Bus, Sender);
    let cases: [(&str, Case); 8] = [
        ("refused 5: channel 99 is not open on this connection", |bus, sender| {
            bus.happen(Event::RingOffered { conn: sender.conn, channel: ChannelId(99), bytes: Ok(RING_BYTES) });
        }),
        ("refused 5: the publication on channel 1 has a ring already", |bus, sender| {
            bus.offer(sender);
            bus.offer(sender);
        }),
        ("refused 5: no ring was accepted for the publication on channel 1", |bus, sender| {
            bus.send(sender.conn, begin(sender, 0));
        }),
        ("refused 5: a ring begins with the sequence number 7, where 0 is due", |bus, sender| {
            bus.begin(sender, 7);
        }),
        ("refused 5: the ring of the publication on channel 1 begins before it was accepted", |bus, sender| {
            bus.stall(sender.conn);
            bus.offer(sender);
            bus.send(sender.conn, begin(sender, 0));
            bus.take_all(sender.conn);
        }),
        ("refused 5: the publication on channel 1 has no ring", |bus, sender| bus.end_upload(sender, 0)),
        ("refused 5: a ring ends with the sequence number 4, where 3 is due", |bus, sender| {
            let ring = bus.begin(sender, 0);
            bus.publish(ring, 3);
            bus.end_upload(sender, 4);
        }),
        ("refused 5: a frame was published on channel 1, whose messages are in a ring", |bus, sender| {
            bus.begin(sender, 0);
            bus.send_messages(sender, 0..1);
        }),
    ];
    for (expected, case) in cases {
        let mut bus = bus();
        bus.listener("news");
        let sender = bus.sender("news");
        case(&mut bus, sender);
        assert_eq!(last(&bus, sender.conn), expected);
        assert!(bus.rings.values().all(|ring| !ring.is_kept), "the ring has ended with its connection");
    }
}

#[test]
fn messages_from_socket_ring_and_socket_are_one_stream() {
    let mut bus = bus();
    let (listener, plain) = (bus.listener("news"), bus.plain_listener("news"));
    let sender = bus.sender("news");
    bus.send_messages(sender, 0..3);
    let ring = bus.begin(sender, 3);
    bus.publish_and_relay(ring, 4);
    bus.publish(ring, 5);
    // The relay reads the rest before the end takes effect.
    bus.end_upload(sender, 12);
    bus.send_messages(sender, 12..14);
    assert_eq!(bus.log(plain), ["subscribed", "0..3", "3..7", "7..12", "12..14"]);
    let offer = bus.offered(listener).unwrap().0;
    let expected =
        ["subscribed", "0..3", "3..7", &format!("offer {offer}"), "7..12", &format!("unlink {offer}"), "12..14"];
    assert_eq!(bus.log(listener), expected, "it did not follow yet");
    assert!(!bus.rings[&ring].is_kept);
    // The next busy phase is another ring.
    let second = bus.begin(sender, 14);
    assert_ne!(second, ring);
    bus.publish_and_relay(second, 1);
    assert_eq!(last(&bus, plain), "14..15");
}

#[test]
fn a_ring_may_end_before_it_begins() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    bus.offer(sender);
    bus.send_messages(sender, 0..2);
    bus.end_upload(sender, 2);
    bus.send_messages(sender, 2..3);
    assert_eq!(bus.log(listener), ["subscribed", "0..2", "2..3"]);
    assert!(bus.rings.values().all(|ring| !ring.is_kept));
}

#[test]
fn what_the_relay_did_not_read_in_time_is_lost_for_those_it_serves() {
    let mut bus = bus();
    let plain = bus.plain_listener("news");
    let follower = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, follower);
    bus.publish(ring, 100);
    bus.read_rings(follower, u64::MAX);
    bus.publish(ring, CAPACITY);
    bus.relay(ring, u64::MAX);
    assert_eq!(bus.log(plain), ["subscribed", "0..1", "lost 100", "101..1101"]);
    let expected =
        ["subscribed", "0..1", &format!("offer {}", link.0), &format!("follow {} from 1", link.0), "ring 1..101"];
    assert_eq!(bus.log(follower), expected, "what the relay does is no matter for it");
}

#[test]
fn the_relay_reads_only_while_a_subscriber_needs_it() {
    let mut bus = bus();
    let follower = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    assert_eq!(bus.rings[&ring].relay, Some(0), "at first for everyone");
    bus.introduce(sender, follower);
    assert_eq!(bus.rings[&ring].relay, None);
    bus.publish(ring, 10);
    // A subscriber joins at the newest message, which the server has looked at.
    let plain = bus.plain_listener("news");
    assert_eq!(bus.rings[&ring].relay, Some(11));
    bus.publish_and_relay(ring, 2);
    assert_eq!(bus.log(plain), ["subscribed", "11..13"]);
    // Monitors count as well, and subscriptions to patterns.
    let monitor = bus.connect();
    bus.send(monitor, subscribe_to(1, Selector::All, Overflow::DropOldest, true));
    bus.close(plain);
    assert_eq!(bus.rings[&ring].relay, Some(13));
    bus.publish(ring, 1);
    bus.unsubscribe(monitor, 1);
    assert_eq!(bus.rings[&ring].relay, None);
    assert_eq!(bus.log(monitor), ["subscribed", "13..14", "unsubscribed"]);
    bus.read_rings(follower, u64::MAX);
    assert_eq!(last(&bus, follower), "ring 1..14");
}

#[test]
fn a_ring_without_a_follower_is_recalled_once() {
    let mut bus = bus();
    let follower = bus.listener("news");
    bus.plain_listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    bus.take_log(sender.conn);
    bus.wait(Duration::from_millis(9_999));
    assert!(bus.take_log(sender.conn).is_empty());
    let link = bus.introduce(sender, follower);
    bus.wait(Duration::from_secs(60));
    assert_eq!(bus.take_log(sender.conn), [format!("add {}", link.0)], "it is used");
    bus.close(follower);
    assert_eq!(bus.take_log(sender.conn), [format!("unlink {}", link.0)]);
    bus.wait(Duration::from_millis(9_999));
    assert!(bus.log(sender.conn).is_empty());
    bus.wait(Duration::from_millis(1));
    bus.wait(Duration::from_secs(60));
    assert_eq!(bus.take_log(sender.conn), ["recall"]);
    // Nothing is introduced to it any more, and it works until its sender ends it.
    let late = bus.listener("news");
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(late), ["subscribed", "1..2"]);
    bus.end_upload(sender, 2);
    assert!(!bus.rings[&ring].is_kept);
}

#[test]
fn a_ring_that_never_begins_is_recalled() {
    let mut bus = bus();
    bus.listener("news");
    let sender = bus.sender("news");
    bus.offer(sender);
    bus.wait(Duration::from_secs(10));
    assert_eq!(bus.log(sender.conn), ["accepted", "recall"]);
}

#[test]
fn a_corrupt_ring_costs_its_sender_the_connection_and_its_listeners_nothing() {
    let heads = [
        Head { newest: Cursor { position: 0, sequence: 0 }, frame_bytes: 0 },
        Head { newest: Cursor { position: 300, sequence: 300 }, frame_bytes: 0 },
        Head { newest: Cursor { position: 600, sequence: 9 }, frame_bytes: 0 },
        Head { newest: Cursor { position: 600, sequence: 100 }, frame_bytes: 0 },
    ];
    for head in heads.map(Some).into_iter().chain([None]) {
        let mut bus = bus();
        let (follower, plain) = (bus.listener("news"), bus.plain_listener("news"));
        let sender = bus.sender("news");
        let ring = bus.begin(sender, 0);
        let link = bus.introduce(sender, follower);
        bus.publish(ring, 99);
        bus.sync(ring);
        bus.happen(match head {
            Some(head) => Event::RingSampled { ring, head },
            None => Event::RingCorrupt { ring, problem: "nonsense".to_owned() },
        });
        assert!(last(&bus, sender.conn).starts_with("refused 5: the ring of channel 1 is not correct: "));
        assert_eq!(last(&bus, plain), "1..100");
        let expected = ["ring 1..100".to_owned(), format!("unfollow {} at 100", link.0)];
        assert!(bus.log(follower).ends_with(&expected), "{:?}", bus.log(follower));
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_accepted, stats.messages_lost), (100, 0));
    }
}

#[test]
fn a_ring_whose_newest_message_has_an_old_number_is_corrupt() {
    let mut bus = bus();
    bus.plain_listener("news");
    bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let (at, newest) = (Cursor { position: 30, sequence: 10 }, Cursor { position: 30, sequence: 9 });
    let run = Some(run(sender.channel, bus.peers[sender.conn.0].id, 0..10));
    bus.happen(Event::Relayed { ring, head: Head { newest, frame_bytes: 80 }, at, lost: 0, run });
    assert!(last(&bus, sender.conn).starts_with("refused 5: the ring of channel 1 is not correct: "));
}

#[test]
fn a_sender_that_leaves_has_sent_what_its_ring_holds() {
    let mut bus = bus();
    let (follower, plain) = (bus.listener("news"), bus.plain_listener("news"));
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, follower);
    bus.publish(ring, 5);
    bus.close(sender.conn);
    assert_eq!(last(&bus, plain), "1..6");
    assert!(bus.log(follower).ends_with(&["ring 1..6".to_owned(), format!("unfollow {} at 6", link.0)]));
    assert_eq!(bus.broker.stats().messages_accepted, 6);
}

#[test]
fn a_sender_confirms_what_is_in_its_ring() {
    let mut bus = bus();
    let follower = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    bus.introduce(sender, follower);
    bus.publish(ring, 4);
    let receipt = bus.confirm(sender);
    assert_eq!((receipt.next_sequence, receipt.listeners, receipt.took, receipt.lagging), (5, 1, 1, 0));
    let second = bus.listener("news");
    bus.introduce(sender, second);
    bus.close(second);
    bus.publish(ring, 1);
    let receipt = bus.confirm(sender);
    assert_eq!((receipt.next_sequence, receipt.listeners, receipt.took), (7, 1, 1));
    // With the relay, both take it.
    let plain = bus.plain_listener("news");
    bus.publish(ring, 1);
    let receipt = bus.confirm(sender);
    assert_eq!((receipt.next_sequence, receipt.listeners, receipt.took), (8, 2, 2));
    assert_eq!(bus.log(plain), ["subscribed", "7..8"], "it was queued before the answer");
    // A follower lags that has not read half of the ring.
    bus.publish(ring, CAPACITY / 2 - 7);
    assert_eq!(bus.confirm(sender).lagging, 0);
    bus.publish(ring, 1);
    let receipt = bus.confirm(sender);
    assert_eq!((receipt.lagging, receipt.worst.len()), (1, 1));
    let worst = &receipt.worst[0];
    assert_eq!(SenderId::from_raw(worst.listener), bus.peers[follower.0].id);
    assert_eq!((worst.messages, worst.bytes), (501, 501 * 24));
    bus.read_rings(follower, u64::MAX);
    assert_eq!(bus.confirm(sender).lagging, 0);
    assert!(matches!(bus.rings_before_confirm(sender).as_slice(), [only] if *only == ring));
}

impl Bus {
    fn rings_before_confirm(&self, sender: Sender) -> Vec<RingId> {
        let confirm = Confirm { number: 1, id: sender.channel.0, extensions: Vec::new() };
        self.broker.rings_before(&Event::Control { conn: sender.conn, control: Control::Confirm(confirm) })
    }
}
