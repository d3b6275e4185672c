//! What passes through rings is counted, and no client can make a count fall or exceed what was accepted.

use crate::bus;
use crate::bus::{Bus, CAPACITY, FRAME_BYTES, Sender};
use broadcaster_broker::{ConnId, Event, Head, LinkId, RingId};
use broadcaster_protocol::control::Unlink;
use broadcaster_ring::{Cursor, Sample};
use std::time::Duration;

fn following(bus: &mut Bus) -> (Sender, RingId, ConnId, LinkId) {
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, listener);
    (sender, ring, listener, link)
}

#[test]
fn messages_count_as_if_they_had_come_by_the_socket() {
    let mut bus = bus();
    let (sender, ring, listener, _) = following(&mut bus);
    bus.publish(ring, 9);
    bus.read_rings(listener, 4);
    bus.sample_all();
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.bytes_accepted), (10, 10 * FRAME_BYTES));
    assert_eq!((stats.messages_delivered, stats.messages_lost), (5, 0));
    let channel = &bus.broker.snapshot(bus.now).channels[0];
    assert_eq!((channel.messages_accepted, channel.bytes_accepted), (10, 10 * FRAME_BYTES));
    let snapshot = bus.snapshot(sender.conn);
    assert_eq!((snapshot.messages, snapshot.bytes), (10, 10 * FRAME_BYTES));
    assert_eq!((snapshot.rings, snapshot.readers, snapshot.ring_listeners, snapshot.links), (1, 1, 1, 0));
    let snapshot = bus.snapshot(listener);
    assert_eq!((snapshot.messages, snapshot.bytes), (5, 5 * FRAME_BYTES));
    assert_eq!((snapshot.rings, snapshot.readers, snapshot.ring_listeners, snapshot.links), (0, 0, 0, 1));
    assert_eq!((snapshot.queue_messages, snapshot.queue_bytes), (5, 5 * 24));

    bus.publish(ring, CAPACITY + 2);
    bus.read_rings(listener, u64::MAX);
    bus.sample_all();
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (1012, 1005, 7));
    let snapshot = bus.broker.snapshot(bus.now);
    assert_eq!((snapshot.channels[0].messages_lost, snapshot.rings, snapshot.links), (7, 1, 1));
    let snapshot = bus.snapshot(listener);
    assert_eq!((snapshot.messages, snapshot.messages_lost, snapshot.queue_messages), (1005, 7, 0));
}

#[test]
fn the_rest_that_a_listener_reads_is_counted() {
    for unlinks in [false, true] {
        let mut bus = bus();
        let (sender, ring, listener, link) = following(&mut bus);
        bus.publish(ring, 9);
        bus.stall(listener);
        bus.end_upload(sender, 10);
        bus.sample_all();
        assert_eq!(bus.broker.stats().messages_delivered, 1);
        assert!(bus.pages[&link].ring.is_some(), "its page is looked at until it has read the rest");
        bus.take_all(listener);
        if unlinks {
            bus.unlink(listener, link);
        } else {
            bus.sample_all();
        }
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (10, 10, 0));
        assert!(bus.pages.is_empty(), "nothing is left of it");
    }
}

#[test]
fn the_rest_is_counted_however_late_a_listener_reads_it() {
    for leaves in [false, true] {
        let mut bus = bus();
        let (sender, ring, listener, link) = following(&mut bus);
        bus.publish(ring, 9);
        bus.stall(listener);
        bus.end_upload(sender, 10);
        bus.wait(Duration::from_hours(1));
        assert_eq!((bus.broker.stats().messages_delivered, bus.pages.len()), (1, 1));
        let snapshot = bus.snapshot(listener);
        assert_eq!((snapshot.queue_messages, snapshot.queue_bytes, snapshot.links), (9, 9 * 36, 1));
        if leaves {
            bus.close(listener);
        } else {
            bus.take_all(listener);
            assert_eq!(bus.log(listener).last().unwrap(), &format!("unfollow {} at 10", link.0));
            bus.unlink(listener, link);
        }
        assert_eq!(bus.broker.stats().messages_delivered, if leaves { 1 } else { 10 });
        assert!(bus.pages.is_empty(), "nothing is left of it");
    }
}

#[test]
fn what_the_relay_has_not_read_of_a_refused_sender_is_lost_to_those_that_it_serves() {
    let mut bus = bus();
    let plain = bus.plain_listener("news");
    let (_, ring, follower, link) = following(&mut bus);
    bus.publish(ring, 5);
    bus.sample(ring); // it is accepted, and not read
    bus.happen(Event::RingCorrupt { ring, problem: "nonsense".to_owned() });
    assert_eq!(bus.log(plain).last().unwrap(), "lost 5");
    assert!(bus.log(follower).ends_with(&["ring 1..6".to_owned(), format!("unfollow {} at 6", link.0)]));
    bus.unlink(follower, link);
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (6, 1 + 6, 5));
}

#[test]
fn a_listener_that_leaves_is_counted_once_more() {
    let mut bus = bus();
    let (_, ring, listener, _) = following(&mut bus);
    bus.publish(ring, 9);
    bus.read_rings(listener, 4);
    bus.close(listener);
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (10, 5, 0));
}

#[test]
fn what_was_reported_as_lost_is_not_counted_as_read_afterwards() {
    let mut bus = bus();
    let (_, ring, listener, link) = following(&mut bus);
    bus.publish(ring, 9);
    bus.sample(ring);
    bus.read_rings(listener, 2);
    bus.peers[listener.0].follows.clear();
    // The server has not looked at its page since it has read.
    let unlink = Unlink { link: link.0, extensions: Vec::new() };
    bus.apply(Event::Control { conn: listener, control: unlink.into() });
    bus.end_turn();
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (10, 1, 9));
}

#[test]
fn what_a_listener_states_is_bounded_by_what_was_accepted() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    bus.publish(ring, 9);
    let samples = [
        (Sample { position: u64::MAX, received: u64::MAX, lost: u64::MAX }, (9, 0)),
        (Sample { position: 0, received: 0, lost: 0 }, (9, 0)),
    ];
    for (sample, expected) in samples {
        bus.sample(ring);
        bus.happen(Event::LinkSampled { link, sample });
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_delivered - 1, stats.messages_lost), expected);
        assert_eq!(bus.snapshot(listener).queue_messages, 0);
    }
    // The next ones are counted by what is left.
    bus.publish(ring, 4);
    bus.sample(ring);
    bus.happen(Event::LinkSampled { link, sample: Sample { position: 5, received: 11, lost: 17 } });
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_delivered - 1, stats.messages_lost), (11, 2));
    assert_eq!(bus.confirm(sender).lagging, 0);
}

#[test]
fn what_a_sender_states_is_bounded_by_its_ring() {
    let mut bus = bus();
    let (sender, ring, _, _) = following(&mut bus);
    let head = Head { newest: Cursor { position: 3 + 40, sequence: 1 + 20 }, frame_bytes: u64::MAX };
    bus.happen(Event::RingSampled { ring, head });
    assert!(bus.peers[sender.conn.0].refused.is_none());
    let stats = bus.broker.stats();
    assert_eq!(stats.messages_accepted, 21);
    assert_eq!(stats.bytes_accepted, FRAME_BYTES + 40 * 14);
    let head = Head { newest: Cursor { position: 3 + 42, sequence: 1 + 21 }, frame_bytes: 0 };
    bus.happen(Event::RingSampled { ring, head });
    assert_eq!(bus.broker.stats().bytes_accepted, FRAME_BYTES + 40 * 14);
}

#[test]
fn messages_that_a_test_loses_are_lost_by_followers_too() {
    let mut bus = bus();
    let (_, _, listener, _) = following(&mut bus);
    bus.take_log(listener);
    bus.happen(Event::Lost { channel: "news".parse().unwrap(), messages: 3 });
    assert_eq!(bus.log(listener), ["lost 3"]);
}

#[test]
fn what_a_sender_states_makes_no_count_fall() {
    let mut bus = bus();
    let (_, ring, _, _) = following(&mut bus);
    let before = bus.broker.stats();
    let words = u64::MAX - 3;
    let head = Head { newest: Cursor { position: 3 + words, sequence: 1 + words / 2 }, frame_bytes: u64::MAX };
    bus.happen(Event::RingSampled { ring, head });
    let after = bus.broker.stats();
    assert_eq!(after.messages_accepted, before.messages_accepted + words / 2);
    assert_eq!(after.bytes_accepted, u64::MAX);
}
