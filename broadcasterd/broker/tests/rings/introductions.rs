//! From the first message that the relay delivers to the last one that a listener reads from the ring.

use crate::bus;
use crate::bus::{Bus, CAPACITY, Sender, subscribe, subscribe_to};
use broadcaster_broker::{Attachment, ConnId, Event, Limits, LinkId, RingId};
use broadcaster_protocol::control::{Overflow, Selector, Unsubscribe, capability};
use std::time::Duration;

/// A sender with an active ring, and a listener that may follow.
fn pair(bus: &mut Bus) -> (Sender, RingId, ConnId) {
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    (sender, ring, listener)
}

/// The same, but the listener has been prepared for descriptors before, and the next message has the number 1.
fn prepared_pair(bus: &mut Bus) -> (Sender, RingId, ConnId) {
    let (sender, ring, listener) = pair(bus);
    bus.publish_and_relay(ring, 1);
    bus.end_upload(sender, 1);
    let ring = bus.begin(sender, 1);
    assert_eq!(bus.take_log(listener), ["subscribed", "0..1", "offer 1", "unlink 1"]);
    bus.peers[listener.0].attachments.clear();
    (sender, ring, listener)
}

#[test]
fn a_listener_is_asked_before_it_is_offered_a_ring() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    bus.stall(listener);
    bus.publish_and_relay(ring, 1);
    bus.wait(Duration::from_secs(60));
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.peers[listener.0].offers.len(), 0);
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["subscribed", "0..1", "1..2"], "the ring was recalled in the meantime");
    bus.end_upload(sender, 2);
    let ring = bus.begin(sender, 2);
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(listener)[3..], ["2..3", "offer 1"], "it is asked once");
}

#[test]
fn a_listener_follows_behind_everything_that_was_relayed_to_it() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    assert_eq!(bus.log(listener), ["subscribed"], "nothing is offered before a message");
    bus.publish_and_relay(ring, 2);
    assert_eq!(bus.log(listener), ["subscribed", "0..2", "offer 1"]);
    assert_eq!(bus.peers[listener.0].attachments, [Attachment::Ring(ring)]);
    bus.publish_and_relay(ring, 2);
    bus.ready(listener, LinkId(1));
    assert_eq!(bus.log(sender.conn), ["accepted", "add 1"]);
    assert_eq!(bus.peers[sender.conn.0].attachments, [Attachment::Relay(ring), Attachment::Link(LinkId(1))]);
    bus.publish_and_relay(ring, 2);
    bus.publish(ring, 3); // the relay has not read these
    bus.added(sender, LinkId(1));
    assert_eq!(bus.log(listener)[3..], ["2..4", "4..6", "follow 1 from 6"]);
    bus.read_rings(listener, u64::MAX);
    assert_eq!(bus.log(listener)[6..], ["ring 6..9"]);
}

#[test]
fn the_relay_passes_followers_by_and_serves_everyone_else() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    let plain = bus.plain_listener("news");
    bus.introduce(sender, listener);
    bus.take_log(listener);
    bus.publish_and_relay(ring, 3);
    assert!(bus.log(listener).is_empty());
    assert_eq!(bus.log(plain), ["subscribed", "0..1", "1..4"]);
    bus.read_rings(listener, 2);
    assert_eq!(bus.log(listener), ["ring 1..3"]);
}

#[test]
fn listeners_are_introduced_one_after_the_other() {
    let mut bus = bus();
    let listeners = [bus.listener("news"), bus.listener("news")];
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    bus.publish_and_relay(ring, 1);
    bus.publish_and_relay(ring, 1);
    let offered = listeners.map(|listener| bus.offered(listener).is_some());
    assert_eq!(offered.iter().filter(|&&offered| offered).count(), 1, "one at a time");
    let (first, second) = if offered[0] { (listeners[0], listeners[1]) } else { (listeners[1], listeners[0]) };
    bus.introduce(sender, first);
    bus.introduce(sender, second);
    assert_eq!(bus.rings[&ring].relay, None);
}

#[test]
fn a_listener_is_introduced_to_one_sender_at_a_time() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let senders = [bus.sender("news"), bus.sender("news")];
    let rings = senders.map(|sender| bus.begin(sender, 0));
    bus.publish_and_relay(rings[0], 1);
    bus.publish_and_relay(rings[1], 1);
    assert_eq!(bus.log(listener), ["subscribed", "0..1", "offer 1", "0..1"]);
    bus.introduce(senders[0], listener);
    bus.introduce(senders[1], listener);
    assert_eq!(bus.snapshot(listener).links, 2);
}

#[test]
fn a_listener_whose_socket_is_full_is_offered_nothing() {
    let mut bus = bus();
    let (_, ring, listener) = prepared_pair(&mut bus);
    bus.stall(listener);
    bus.publish_and_relay(ring, 1);
    bus.publish_and_relay(ring, 1);
    // The first offer came before the socket was full.
    bus.wait(Duration::from_secs(10));
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["1..2", "offer 2", "2..3", "unlink 2"]);

    let mut bus = crate::bus();
    let (_, ring, listener) = prepared_pair(&mut bus);
    bus.stall(listener);
    let other = bus.sender("news");
    bus.send_messages(other, 0..1);
    bus.publish_and_relay(ring, 1);
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["0..1", "1..2"]);
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(listener)[2..], ["2..3", "offer 2"], "as soon as it reads again");
}

#[test]
fn an_introduction_that_fails_leaves_the_listener_with_the_relay() {
    type Fails = fn(&mut Bus, Sender, ConnId);
    let cases: [(&str, Fails, &[&str], &[&str]); 6] = [
        ("the listener cannot map the ring", |bus, _, listener| bus.unlink(listener, LinkId(1)), &[], &[]),
        (
            "the daemon cannot map the page",
            |bus, _, listener| {
                bus.happen(Event::LinkReady { conn: listener, link: LinkId(1), is_usable: false });
            },
            &["unlink 1"],
            &[],
        ),
        (
            "the sender cannot map the page",
            |bus, sender, listener| {
                bus.ready(listener, LinkId(1));
                bus.unlink(sender.conn, LinkId(1));
            },
            &["unlink 1"],
            &["add 1", "unlink 1"],
        ),
        (
            "the listener changes its mind",
            |bus, _, listener| {
                bus.ready(listener, LinkId(1));
                bus.unlink(listener, LinkId(1));
            },
            &[],
            &["add 1", "unlink 1"],
        ),
        ("the listener does not answer", |bus, _, _| bus.wait(Duration::from_secs(10)), &["unlink 1"], &["recall"]),
        (
            "the sender does not answer",
            |bus, _, listener| {
                bus.wait(Duration::from_secs(5));
                bus.ready(listener, LinkId(1));
                bus.wait(Duration::from_secs(10));
            },
            &["unlink 1"],
            &["add 1", "recall", "unlink 1"],
        ),
    ];
    for (name, fails, to_listener, to_sender) in cases {
        let mut bus = bus();
        let (sender, ring, listener) = pair(&mut bus);
        bus.publish_and_relay(ring, 1);
        bus.take_log(listener);
        bus.take_log(sender.conn);
        fails(&mut bus, sender, listener);
        assert_eq!(bus.take_log(listener), to_listener, "{name}");
        assert_eq!(bus.take_log(sender.conn), to_sender, "{name}");
        bus.publish_and_relay(ring, 2);
        assert_eq!(bus.take_log(listener), ["1..3"], "{name}: it is not offered again");
        // Answers that come too late are harmless.
        bus.added(sender, LinkId(1));
        bus.ready(listener, LinkId(1));
        assert_eq!(bus.take_log(listener), ["unlink 1"], "{name}");
        bus.publish_and_relay(ring, 1);
        assert_eq!(bus.take_log(listener), ["3..4"], "{name}");
        assert!(bus.peers[sender.conn.0].refused.is_none());
    }
}

#[test]
fn a_listener_that_does_not_answer_keeps_no_other_one_from_the_ring() {
    let mut bus = bus();
    let (sender, ring, silent) = pair(&mut bus);
    bus.peers[silent.0].is_silent = true;
    bus.publish_and_relay(ring, 1);
    let listener = bus.listener("news");
    bus.introduce(sender, listener);
    assert!(bus.peers[silent.0].offers.is_empty());
}

#[test]
fn a_listener_that_was_refused_may_come_back() {
    let mut bus = bus();
    let sender = bus.sender("news");
    bus.plain_listener("news");
    let listener = bus.listener("news");
    let ring = bus.begin(sender, 0);
    bus.publish_and_relay(ring, 1);
    let link = bus.offered(listener).unwrap();
    bus.unlink(listener, link);
    bus.close(listener);
    bus.connect_as(listener, capability::RINGS);
    bus.send(listener, subscribe(1, "news"));
    bus.introduce(sender, listener);
}

#[test]
fn listeners_that_join_later_are_introduced_too() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    bus.plain_listener("news");
    bus.introduce(sender, listener);
    bus.publish_and_relay(ring, 1); // nothing is left to introduce
    let late = bus.listener("news");
    bus.introduce(sender, late);
}

#[test]
fn links_of_others_are_out_of_reach() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    let (other, plain) = (bus.sender("news"), bus.plain_listener("other"));
    let stranger = bus.listener("other");
    bus.publish_and_relay(ring, 1);
    bus.happen(Event::LinkReady { conn: stranger, link: LinkId(1), is_usable: true });
    assert_eq!(bus.log(stranger), ["subscribed", "unlink 1"]);
    bus.ready(listener, LinkId(1));
    bus.added(other, LinkId(1));
    bus.unlink(other.conn, LinkId(1));
    bus.unlink(stranger, LinkId(1));
    assert!(bus.peers[listener.0].follows.is_empty());
    bus.added(sender, LinkId(1));
    bus.unlink(other.conn, LinkId(1));
    bus.unlink(stranger, LinkId(1));
    assert!(bus.peers[listener.0].follows.contains_key(&LinkId(1)));
    assert_eq!(bus.log(plain), ["subscribed"]);
    bus.added(sender, LinkId(1));
    assert_eq!(bus.log(sender.conn).last().unwrap(), "refused 5: the link 1 is not being added");
}

#[test]
fn a_listener_that_unsubscribes_receives_everything_up_to_the_answer() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    let link = bus.introduce(sender, listener).0;
    bus.publish(ring, 5);
    bus.take_log(listener);
    bus.take_log(sender.conn);
    bus.unsubscribe(listener, 1);
    assert_eq!(bus.log(listener), ["ring 1..6", &format!("unfollow {link} at 6"), "unsubscribed"]);
    assert_eq!(bus.log(sender.conn), [format!("unlink {link}")]);
    assert_eq!(bus.rings[&ring].relay, None, "nothing is left");
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(listener).len(), 3);
    // It may follow again.
    bus.send(listener, subscribe(2, "news"));
    assert_eq!(bus.rings[&ring].relay, Some(7));
    bus.introduce(sender, listener);
    let log = bus.log(listener);
    assert_eq!(log[3..5], ["subscribed", "7..8"]);
    assert!(log[6].starts_with("follow"), "{log:?}");
}

#[test]
fn a_listener_that_keeps_a_pattern_continues_with_the_relay() {
    for relayed in [false, true] {
        let mut bus = bus();
        let (sender, ring, listener) = pair(&mut bus);
        if relayed {
            bus.plain_listener("news");
        }
        bus.send(listener, subscribe_to(2, Selector::Pattern("*".to_owned()), Overflow::DropOldest, false));
        let link = bus.introduce(sender, listener).0;
        bus.publish(ring, 5);
        bus.read_rings(listener, 2);
        bus.take_log(listener);
        bus.unsubscribe(listener, 1);
        bus.publish_and_relay(ring, 2);
        let expected = ["ring 3..6", &format!("unfollow {link} at 6"), "unsubscribed", "6..8"];
        assert_eq!(bus.log(listener), expected, "relayed before: {relayed}");
        // To end the pattern changes nothing for a listener by name.
        let mut bus = crate::bus();
        let (sender, ring, listener) = pair(&mut bus);
        bus.send(listener, subscribe_to(2, Selector::All, Overflow::DropOldest, false));
        bus.introduce(sender, listener);
        bus.take_log(listener);
        bus.unsubscribe(listener, 2);
        bus.publish_and_relay(ring, 1);
        bus.read_rings(listener, 9);
        assert_eq!(bus.log(listener), ["unsubscribed", "ring 1..2"]);
    }
}

#[test]
fn a_listener_that_unsubscribes_ends_where_the_relay_stands() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    bus.send(listener, subscribe_to(2, Selector::All, Overflow::DropOldest, false));
    bus.plain_listener("news");
    let link = bus.introduce(sender, listener).0;
    bus.publish_and_relay(ring, 3);
    bus.take_log(listener);
    // The sender goes on between the look at the ring and the request.
    bus.publish(ring, 2);
    bus.sample(ring);
    let unsubscribe = Unsubscribe { subscription: 1, extensions: Vec::new() };
    bus.apply(Event::Control { conn: listener, control: unsubscribe.into() });
    bus.end_turn();
    bus.relay(ring, 9);
    assert_eq!(bus.log(listener), ["ring 1..4", &format!("unfollow {link} at 4"), "unsubscribed", "4..6"]);
}

#[test]
fn a_listener_that_unsubscribes_while_it_is_introduced_is_released() {
    for adding in [false, true] {
        let mut bus = bus();
        let (sender, ring, listener) = pair(&mut bus);
        bus.publish_and_relay(ring, 1);
        if adding {
            bus.ready(listener, LinkId(1));
        }
        bus.take_log(listener);
        bus.take_log(sender.conn);
        bus.unsubscribe(listener, 1);
        assert_eq!(bus.log(listener), ["unlink 1", "unsubscribed"]);
        assert_eq!(bus.log(sender.conn), if adding { &["unlink 1"][..] } else { &[] });
        assert!(bus.pages.is_empty());
    }
}

#[test]
fn a_listener_reads_the_ring_to_its_end_and_then_its_socket() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    let link = bus.introduce(sender, listener).0;
    bus.stall(listener);
    bus.publish(ring, 5);
    bus.end_upload(sender, 6);
    bus.send_messages(sender, 6..8);
    bus.take_log(listener);
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["ring 1..6", &format!("unfollow {link} at 6"), "6..8"]);
}

#[test]
fn losses_before_and_behind_a_change_of_source_have_their_places() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 4;
    let mut bus = Bus::new(limits);
    let (sender, ring, listener) = pair(&mut bus);
    bus.publish_and_relay(ring, 1);
    bus.ready(listener, LinkId(1));
    bus.take_log(listener);
    bus.stall(listener);
    for _ in 0..6 {
        bus.publish_and_relay(ring, 1);
    }
    bus.added(sender, LinkId(1)); // from 7 on
    bus.publish(ring, CAPACITY + 3);
    bus.end_upload(sender, CAPACITY + 10);
    let end = CAPACITY + 10;
    for n in 0..5 {
        bus.send_messages(sender, end + n..end + n + 1);
    }
    bus.take_all(listener);
    let log = bus.log(listener).join(", ");
    let expected =
        format!("follow 1 from 7, ring lost 3, ring 10..{end}, unfollow 1 at {end}, lost 1, {}..{}", end + 1, end + 5);
    assert_eq!(log, format!("lost 6, {expected}"));
}

#[test]
fn losses_behind_the_beginning_of_a_ring_have_a_place_of_their_own() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 4;
    let mut bus = Bus::new(limits);
    let (sender, ring, listener) = pair(&mut bus);
    let other = bus.sender("news");
    bus.publish_and_relay(ring, 1);
    bus.ready(listener, LinkId(1));
    bus.take_log(listener);
    bus.stall(listener);
    (0..4).for_each(|n| bus.send_messages(other, n..n + 1));
    bus.added(sender, LinkId(1));
    (4..10).for_each(|n| bus.send_messages(other, n..n + 1));
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["lost 4", "follow 1 from 1", "lost 2", "6..10"]);
}

#[test]
fn losses_of_other_senders_are_not_mixed_with_those_behind_the_ring() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 4;
    let mut bus = Bus::new(limits);
    let (sender, ring, listener) = pair(&mut bus);
    bus.introduce(sender, listener);
    let other = bus.sender("news");
    bus.take_log(listener);
    bus.stall(listener);
    (0..4).for_each(|n| bus.send_messages(other, n..n + 1));
    bus.publish(ring, 1);
    bus.end_upload(sender, 2);
    (2..8).for_each(|n| bus.send_messages(sender, n..n + 1));
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["lost 4", "ring 1..2", "unfollow 1 at 2", "lost 2", "4..8"]);
}

#[test]
fn a_listener_that_gives_up_learns_what_it_did_not_read() {
    for relayed in [false, true] {
        let mut bus = bus();
        let (sender, ring, listener) = pair(&mut bus);
        if relayed {
            bus.plain_listener("news");
        }
        let link = bus.introduce(sender, listener);
        bus.publish(ring, 9);
        bus.read_rings(listener, 2);
        bus.take_log(listener);
        bus.take_log(sender.conn);
        bus.peers[listener.0].follows.clear();
        bus.unlink(listener, link);
        bus.publish_and_relay(ring, 2);
        assert_eq!(bus.log(listener), ["lost 7", "10..12"], "relayed before: {relayed}");
        assert_eq!(bus.log(sender.conn), [format!("unlink {}", link.0)]);
        let stats = bus.broker.stats();
        assert_eq!(stats.messages_lost, 7);
        let delivered = 1 + 2 + 2;
        assert_eq!(stats.messages_delivered, if relayed { delivered + 12 } else { delivered });
        assert_eq!(bus.snapshot(listener).messages_lost, 7);
    }
}

#[test]
fn a_sender_that_cannot_wake_a_follower_is_asked_to_end_the_ring() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    let link = bus.introduce(sender, listener);
    bus.take_log(sender.conn);
    bus.unlink(sender.conn, link);
    bus.unlink(sender.conn, link);
    assert_eq!(bus.log(sender.conn), ["recall"]);
    bus.publish(ring, 1);
    bus.end_upload(sender, 2);
    assert!(bus.log(listener).ends_with(&["ring 1..2".to_owned(), format!("unfollow {} at 2", link.0)]));
}

#[test]
fn a_sender_learns_that_a_follower_has_left() {
    let mut bus = bus();
    let (sender, _, listener) = pair(&mut bus);
    let link = bus.introduce(sender, listener).0;
    bus.take_log(sender.conn);
    bus.close(listener);
    assert_eq!(bus.log(sender.conn), [format!("unlink {link}")]);
    assert!(bus.pages.is_empty());
}

#[test]
fn an_offer_that_was_not_written_is_withdrawn_with_its_ring() {
    let mut bus = bus();
    let (sender, ring, listener) = prepared_pair(&mut bus);
    bus.publish(ring, 1);
    bus.stall(listener);
    bus.relay(ring, 1);
    bus.end_upload(sender, 2);
    bus.send_messages(sender, 2..3);
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["1..2", "unlink 2", "2..3"]);
    assert_eq!(bus.peers[listener.0].attachments, []);
    // The same for a sender, whose last frame it may be.
    let mut bus = crate::bus();
    let (sender, ring, listener) = pair(&mut bus);
    bus.publish_and_relay(ring, 1);
    bus.stall(sender.conn);
    let link = bus.offered(listener).unwrap();
    bus.ready(listener, link);
    bus.close(listener);
    bus.take_log(sender.conn);
    bus.take_all(sender.conn);
    assert_eq!(bus.log(sender.conn), [format!("unlink {}", link.0)]);
}

#[test]
fn what_follows_a_frame_that_was_withdrawn_is_written() {
    let mut bus = bus();
    let (sender, _, _) = prepared_pair(&mut bus);
    bus.end_upload(sender, 1);
    bus.take_log(sender.conn);
    bus.stall(sender.conn);
    bus.offer(sender);
    bus.end_upload(sender, 1); // before it knows the answer
    bus.take_all(sender.conn);
    assert_eq!(bus.log(sender.conn), [""; 0]);
    bus.offer(sender);
    assert_eq!(bus.log(sender.conn), ["accepted"]);
}

#[test]
fn an_introduction_ends_with_the_ring() {
    let mut bus = bus();
    let (sender, ring, listener) = pair(&mut bus);
    bus.publish_and_relay(ring, 1);
    bus.ready(listener, LinkId(1));
    bus.end_upload(sender, 1);
    assert_eq!(bus.log(listener), ["subscribed", "0..1", "offer 1", "unlink 1"]);
    assert_eq!(bus.log(sender.conn), ["accepted", "add 1"], "it has ended the ring itself");
    bus.added(sender, LinkId(1));
    assert!(bus.peers[sender.conn.0].refused.is_none());
}

#[test]
fn a_frame_with_an_attachment_is_written_alone_and_its_rest_as_bytes() {
    let mut bus = bus();
    let (_, ring, listener) = prepared_pair(&mut bus);
    bus.stall(listener);
    bus.publish_and_relay(ring, 1);
    // Behind the offer is more, and the offer goes out in three parts.
    bus.publish_and_relay(ring, 1);
    bus.take(listener, 36); // the first message
    assert_eq!(bus.peers[listener.0].attachments, []);
    bus.take(listener, 1);
    assert_eq!(bus.peers[listener.0].attachments, [Attachment::Ring(ring)]);
    assert_eq!(bus.broker.attachment(listener), None, "it went with the first byte");
    bus.take(listener, 5);
    assert_eq!(bus.log(listener), ["1..2"]);
    bus.take_all(listener);
    assert_eq!(bus.log(listener), ["1..2", "offer 2", "2..3"]);
    assert_eq!(bus.peers[listener.0].attachments, [Attachment::Ring(ring)]);
}

#[test]
fn a_ring_has_as_many_links_as_its_limit() {
    let mut bus = bus();
    let listeners: Vec<_> = (0..65).map(|_| bus.listener("news")).collect();
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    for _ in 0..66 {
        bus.publish_and_relay(ring, 1);
        let offered: Vec<_> = listeners
            .iter()
            .filter(|listener| bus.peers[listener.0].follows.is_empty())
            .filter_map(|&listener| Some((listener, bus.offered(listener)?)))
            .collect();
        for (listener, link) in offered {
            bus.ready(listener, link);
            bus.added(sender, link);
        }
    }
    let snapshot = bus.snapshot(sender.conn);
    assert_eq!((snapshot.readers, snapshot.ring_listeners), (64, 65));
    assert!(bus.rings[&ring].relay.is_some(), "the relay serves the last one");
}

#[test]
fn a_listener_that_reads_many_rings_to_their_ends_follows_no_more_of_them() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    let mut links = Vec::new();
    for sequence in 0..32 {
        bus.begin(sender, sequence);
        links.push(bus.introduce(sender, listener));
        bus.end_upload(sender, sequence + 1);
    }
    let ring = bus.begin(sender, 32);
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(listener).last().unwrap(), "32..33", "and no offer");
    bus.unlink(listener, links[0]);
    bus.introduce(sender, listener);
}
