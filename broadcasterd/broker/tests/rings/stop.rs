//! An orderly stop: senders end their rings first, and those that are silent are not waited for.

use crate::bus;
use crate::bus::{Bus, begin};
use broadcaster_broker::{Effect, Event};
use std::time::Duration;

fn is_draining(bus: &Bus) -> bool {
    bus.effects.contains(&Effect::Drain)
}

/// What the server does after Effect::Drain.
fn drained(bus: &mut Bus) {
    let rings: Vec<_> = bus.rings.iter().filter(|(_, ring)| ring.is_kept).map(|(&id, _)| id).collect();
    for ring in rings {
        bus.sync(ring);
        bus.end_ring(ring);
    }
    bus.happen(Event::Drained);
}

#[test]
fn without_rings_a_stop_does_not_wait() {
    let mut bus = bus();
    bus.listener("news");
    bus.happen(Event::Stop);
    assert!(is_draining(&bus));
}

#[test]
fn senders_end_their_rings_before_the_broker_stops() {
    let mut bus = bus();
    let (follower, plain) = (bus.listener("news"), bus.plain_listener("news"));
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, follower).0;
    bus.take_log(sender.conn);
    bus.happen(Event::Stop);
    bus.happen(Event::Stop);
    assert!(bus.broker.is_recalling() && !is_draining(&bus));
    assert_eq!(bus.take_log(sender.conn), ["recall"]);
    bus.publish(ring, 3);
    bus.end_upload(sender, 4);
    assert!(is_draining(&bus) && !bus.broker.is_recalling());
    bus.send_messages(sender, 4..5);
    drained(&mut bus);
    let expected = ["ring 1..4", &format!("unfollow {link} at 4"), "4..5", "goodbye"];
    assert_eq!(bus.log(follower)[4..], expected);
    assert_eq!(bus.log(plain), ["subscribed", "0..1", "1..4", "4..5", "goodbye"]);
}

#[test]
fn a_silent_sender_delays_a_stop_by_20_milliseconds() {
    let mut bus = bus();
    let (follower, plain) = (bus.listener("news"), bus.plain_listener("news"));
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, follower).0;
    bus.publish(ring, 2);
    bus.sync(ring);
    bus.happen(Event::Stop);
    bus.wait(Duration::from_millis(19));
    assert!(!is_draining(&bus));
    bus.wait(Duration::from_millis(1));
    assert!(is_draining(&bus));
    bus.publish(ring, 3);
    drained(&mut bus);
    assert_eq!(bus.log(follower)[4..], ["ring 1..6", &format!("unfollow {link} at 6"), "goodbye"]);
    assert_eq!(bus.log(plain), ["subscribed", "0..1", "1..3", "3..6", "goodbye"]);
    assert_eq!(bus.broker.stats().messages_accepted, 6);
}

#[test]
fn a_sender_that_goes_on_delays_a_stop_by_the_timeout_at_most() {
    let mut bus = bus();
    let follower = bus.listener("news");
    let sender = bus.sender("news");
    let ring = bus.begin(sender, 0);
    bus.introduce(sender, follower);
    bus.happen(Event::Stop);
    for _ in 0..49 {
        bus.publish(ring, 1);
        bus.wait(Duration::from_millis(20));
        assert!(!is_draining(&bus));
    }
    bus.publish(ring, 1);
    bus.wait(Duration::from_millis(20));
    assert!(is_draining(&bus), "a second is over");
}

#[test]
fn a_stopping_broker_accepts_no_ring_and_introduces_nothing() {
    let mut bus = bus();
    let (follower, sender) = (bus.listener("news"), bus.sender("news"));
    let ring = bus.begin(sender, 0);
    let second = bus.sender("news");
    bus.happen(Event::Stop);
    bus.offer(second);
    assert_eq!(bus.log(second.conn), ["declined 10: the daemon is stopping"]);
    bus.publish_and_relay(ring, 1);
    assert_eq!(bus.log(follower), ["subscribed", "0..1"]);
}

#[test]
fn a_ring_that_begins_while_the_broker_drains_is_read_to_its_end() {
    let mut bus = bus();
    let (plain, sender) = (bus.plain_listener("news"), bus.sender("news"));
    bus.listener("news");
    bus.offer(sender);
    bus.happen(Event::Stop);
    bus.wait(Duration::from_millis(20));
    assert!(is_draining(&bus));
    bus.send(sender.conn, begin(sender, 0));
    let ring = bus.ring_of(sender);
    bus.publish(ring, 2);
    drained(&mut bus);
    assert_eq!(bus.log(plain), ["subscribed", "0..2", "goodbye"]);
}

#[test]
fn a_sender_that_leaves_while_the_broker_waits_for_it_is_not_waited_for() {
    let mut bus = bus();
    let (_, sender) = (bus.listener("news"), bus.sender("news"));
    bus.begin(sender, 0);
    bus.happen(Event::Stop);
    bus.close(sender.conn);
    assert!(is_draining(&bus));
}
