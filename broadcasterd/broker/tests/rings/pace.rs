//! Senders with backpressure whose messages are in rings: credit, listeners that are behind, and those that are left behind.

use crate::bus::{Bus, FRAME_BYTES, RING_BYTES, Sender, WORDS, subscribe_to};
use broadcaster_broker::{ConnId, Event, Head, Limits, LinkId, RingId};
use broadcaster_protocol::control::{AwaitProgress, Extension, Open, Overflow, Progress, Selector, extension};
use broadcaster_protocol::limits::CREDIT_MESSAGE_BYTES;
use broadcaster_ring::Cursor;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// What a message uses up.
const COST: u64 = FRAME_BYTES + CREDIT_MESSAGE_BYTES;

/// The window of a single sender.
const WINDOW: u64 = 4096;

/// Messages that use up the window.
const WINDOW_MESSAGES: u64 = WINDOW.div_ceil(COST);

fn bus() -> Bus {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 4 * 4096;
    Bus::new(limits)
}

fn paced_sender(bus: &mut Bus) -> Sender {
    let conn = bus.connect();
    let milliseconds = u32::try_from(PATIENCE.as_millis()).unwrap();
    let backpressure = Extension { id: extension::BACKPRESSURE, data: milliseconds.to_le_bytes().to_vec() };
    bus.send(conn, Open { channel: "news".to_owned(), next_sequence: 0, extensions: vec![backpressure] });
    Sender { conn, channel: bus.peers[conn.0].channels["news"] }
}

/// A sender and a listener that reads its ring.
fn following(bus: &mut Bus) -> (Sender, RingId, ConnId, LinkId) {
    let listener = bus.listener("news");
    let sender = paced_sender(bus);
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, listener);
    (sender, ring, listener, link)
}

/// Bytes of credit that the sender was granted since its log was taken last.
fn granted(bus: &mut Bus, sender: Sender) -> u64 {
    let log = bus.take_log(sender.conn);
    log.iter().filter_map(|line| line.strip_prefix("credit ")?.parse::<u64>().ok()).sum()
}

/// The sender calls the daemon, which looks at the ring and at those that read it.
fn call(bus: &mut Bus, ring: RingId) {
    bus.sync(ring);
    bus.end_turn();
}

/// The sender publishes until it gets no more credit. Returns how many messages that took.
fn exhaust(bus: &mut Bus, sender: Sender, ring: RingId) -> u64 {
    granted(bus, sender);
    let mut published = 0;
    loop {
        bus.publish(ring, WINDOW_MESSAGES);
        published += WINDOW_MESSAGES;
        call(bus, ring);
        if granted(bus, sender) == 0 {
            return published;
        }
        assert!(published < 10_000, "no listener is behind");
    }
}

/// Where the listener is to report, if it is.
fn awaited(bus: &mut Bus, listener: ConnId) -> Option<u64> {
    let log = bus.take_log(listener);
    let mut requests = log.iter().filter_map(|line| line.strip_prefix("await ")?.parse().ok());
    let position = requests.next();
    assert_eq!(requests.next(), None, "one request at a time: {log:?}");
    position
}

fn report(bus: &mut Bus, ring: RingId, listener: ConnId, link: LinkId) {
    bus.sample(ring);
    bus.send(listener, Progress { link: link.0, extensions: Vec::new() });
    bus.end_turn();
}

#[test]
fn a_ring_without_room_for_the_credit_is_declined() {
    let mut bus = Bus::new(Limits::default());
    bus.listener("news");
    let sender = paced_sender(&mut bus);
    bus.offer(sender);
    let log = bus.log(sender.conn);
    assert!(log.iter().any(|line| line.contains("has no room for the credit of its sender")), "{log:?}");
}

#[test]
fn what_is_in_a_ring_uses_up_credit_when_the_daemon_looks() {
    let mut bus = bus();
    let (sender, ring, listener, _) = following(&mut bus);
    assert_eq!(granted(&mut bus, sender), WINDOW);
    bus.publish(ring, 9);
    call(&mut bus, ring);
    assert_eq!(granted(&mut bus, sender), 0, "more than half of the window is left");
    bus.publish(ring, 30);
    bus.read_rings(listener, u64::MAX);
    bus.end_turn();
    assert_eq!(granted(&mut bus, sender), 0, "nothing has called the daemon");
    call(&mut bus, ring);
    assert_eq!(granted(&mut bus, sender), 40 * COST, "up to the window, with the message that the relay has read");
}

#[test]
fn messages_use_up_the_same_credit_on_every_path() {
    let mut bus = bus();
    let (sender, ring, listener, _) = following(&mut bus);
    let plain = bus.plain_listener("news");
    bus.publish_and_relay(ring, 20);
    bus.publish(ring, 20);
    bus.read_rings(listener, u64::MAX);
    bus.end_upload(sender, 41);
    bus.send_messages(sender, 41..50);
    bus.end_turn();
    let granted = granted(&mut bus, sender);
    assert!(granted >= WINDOW, "{granted}");
    // What is left of the last window is used up by as many messages as there is credit for.
    let left = granted - 50 * COST;
    bus.send_messages(sender, 50..50 + left.div_ceil(COST));
    bus.end_turn();
    assert!(self::granted(&mut bus, sender) > 0, "nothing was left");
    bus.take_all(plain);
    assert_eq!(bus.broker.stats().messages_lost, 0);
}

#[test]
fn a_sender_waits_for_a_listener_that_is_behind_in_the_ring() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    let published = exhaust(&mut bus, sender, ring);
    assert!(published * WORDS * 8 > RING_BYTES / 5, "it was not behind: {published}");
    let position = awaited(&mut bus, listener).expect("it is to report");
    assert!(position < published * WORDS, "{position}");
    // It has read a little, which helps no sender.
    bus.read_rings(listener, 1);
    call(&mut bus, ring);
    assert_eq!((granted(&mut bus, sender), awaited(&mut bus, listener)), (0, None));
    bus.read_rings(listener, position.div_ceil(WORDS));
    report(&mut bus, ring, listener, link);
    assert!(granted(&mut bus, sender) >= WINDOW, "it is not behind any more");
    // The whole ring was never used.
    exhaust(&mut bus, sender, ring);
    bus.read_rings(listener, u64::MAX);
    bus.sample_all();
    assert_eq!((bus.broker.stats().messages_lost, bus.broker.stats().listeners_left_behind), (0, 0));
}

#[test]
fn a_report_that_comes_too_late_is_requested_again() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    exhaust(&mut bus, sender, ring);
    let first = awaited(&mut bus, listener).expect("it is to report");
    bus.publish(ring, 200); // although it may not
    report(&mut bus, ring, listener, link);
    assert!(awaited(&mut bus, listener).expect("it is to report again") > first);
    assert_eq!(granted(&mut bus, sender), 0);
}

#[test]
fn a_listener_that_delays_for_too_long_is_left_behind_until_it_has_caught_up() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    exhaust(&mut bus, sender, ring);
    bus.wait(PATIENCE - Duration::from_secs(1));
    assert_eq!((granted(&mut bus, sender), bus.broker.stats().listeners_left_behind), (0, 0));
    bus.wait(Duration::from_secs(2));
    assert_eq!((granted(&mut bus, sender) >= WINDOW, bus.broker.stats().listeners_left_behind), (true, 1));
    for _ in 0..20 {
        bus.publish(ring, WINDOW_MESSAGES);
        call(&mut bus, ring);
        assert!(granted(&mut bus, sender) > 0, "it delays no sender");
    }
    // It is not behind any more, but has not caught up.
    bus.publish(ring, 300);
    bus.read_rings(listener, u64::MAX);
    bus.publish(ring, 100);
    report(&mut bus, ring, listener, link);
    for _ in 0..20 {
        bus.publish(ring, WINDOW_MESSAGES);
        call(&mut bus, ring);
        assert!(granted(&mut bus, sender) > 0, "it delays no sender yet");
    }
    // It reads again, and counts again.
    bus.read_rings(listener, u64::MAX);
    report(&mut bus, ring, listener, link);
    exhaust(&mut bus, sender, ring);
    assert_eq!(bus.broker.stats().listeners_left_behind, 1);
}

#[test]
fn a_listener_that_was_left_behind_reports_when_it_has_caught_up() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    exhaust(&mut bus, sender, ring);
    let first = awaited(&mut bus, listener).expect("it is to report");
    bus.wait(PATIENCE * 2);
    assert_eq!(bus.broker.stats().listeners_left_behind, 1);
    assert!(granted(&mut bus, sender) > 0, "it delays no sender");
    // It reads as far as it was requested to. The sender never calls again.
    bus.read_rings(listener, first.div_ceil(WORDS));
    report(&mut bus, ring, listener, link);
    let second = awaited(&mut bus, listener).expect("it is to report that it has caught up");
    assert!(second > first, "{second}");
    bus.read_rings(listener, (second - first).div_ceil(WORDS));
    report(&mut bus, ring, listener, link);
    assert_eq!(awaited(&mut bus, listener), None);
    // It counts for every sender.
    let other = paced_sender(&mut bus);
    bus.stall(listener);
    let mut next = 0;
    loop {
        bus.send_messages(other, next..next + WINDOW_MESSAGES);
        bus.end_turn();
        next += WINDOW_MESSAGES;
        if granted(&mut bus, other) == 0 {
            break;
        }
        assert!(next < 10_000, "it does not count");
    }
    assert_eq!(bus.broker.stats().messages_lost, 0);
}

#[test]
fn a_listener_that_leaves_the_ring_delays_no_sender() {
    let leaves: [fn(&mut Bus, ConnId, LinkId); 3] = [
        |bus, listener, _| bus.close(listener),
        |bus, listener, link| bus.unlink(listener, link),
        |bus, listener, _| bus.unsubscribe(listener, 1),
    ];
    for (number, leave) in leaves.into_iter().enumerate() {
        let mut bus = bus();
        let (sender, ring, listener, link) = following(&mut bus);
        exhaust(&mut bus, sender, ring);
        leave(&mut bus, listener, link);
        // What it had to read up to the place where it left.
        bus.sample_all();
        if bus.pages.contains_key(&link) {
            bus.unlink(listener, link);
        }
        bus.end_turn();
        assert!(granted(&mut bus, sender) >= WINDOW, "case {number}");
    }
}

#[test]
fn a_listener_that_reads_its_rest_while_the_relay_serves_it_delays_a_sender() {
    let mut bus = bus();
    let listener = bus.listener("news");
    bus.send(listener, subscribe_to(2, Selector::Pattern("*".to_owned()), Overflow::DropOldest, false));
    let sender = paced_sender(&mut bus);
    let ring = bus.begin(sender, 0);
    let link = bus.introduce(sender, listener);
    exhaust(&mut bus, sender, ring);
    bus.stall(listener);
    bus.unsubscribe(listener, 1);
    bus.publish(ring, 1);
    call(&mut bus, ring);
    bus.sample_all(); // its page as well, although it does not follow any more
    assert_eq!(granted(&mut bus, sender), 0, "the ring goes on, and has what the listener is to read");
    bus.take_all(listener);
    bus.unlink(listener, link);
    bus.end_turn();
    assert!(granted(&mut bus, sender) >= WINDOW);
    assert_eq!(bus.broker.stats().messages_lost, 0);
}

#[test]
fn a_ring_that_ends_delays_no_sender() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    let published = exhaust(&mut bus, sender, ring);
    bus.stall(listener);
    bus.end_upload(sender, published + 1);
    bus.end_turn();
    assert!(granted(&mut bus, sender) >= WINDOW, "what the listener has to read cannot be overwritten");
    assert!(bus.pages[&link].ring.is_some(), "it reads the rest");
}

#[test]
fn listeners_that_the_relay_serves_delay_a_sender_as_well() {
    let mut bus = bus();
    let (sender, ring, listener, _) = following(&mut bus);
    let plain = bus.plain_listener("news");
    bus.stall(plain);
    granted(&mut bus, sender);
    let mut published = 0;
    loop {
        bus.publish(ring, WINDOW_MESSAGES);
        published += WINDOW_MESSAGES;
        bus.read_rings(listener, u64::MAX);
        call(&mut bus, ring);
        if granted(&mut bus, sender) == 0 {
            break;
        }
        assert!(published < 10_000, "the listener is not behind");
    }
    assert_eq!(bus.broker.stats().messages_lost, 0);
    bus.take_all(plain);
    assert!(granted(&mut bus, sender) >= WINDOW);
}

#[test]
fn progress_of_others_is_ignored() {
    let mut bus = bus();
    let (sender, ring, listener, link) = following(&mut bus);
    exhaust(&mut bus, sender, ring);
    awaited(&mut bus, listener).expect("it is to report");
    for conn in [sender.conn, listener] {
        bus.send(conn, Progress { link: link.0 + 7, extensions: Vec::new() });
    }
    bus.send(sender.conn, Progress { link: link.0, extensions: Vec::new() });
    bus.end_turn();
    assert_eq!((granted(&mut bus, sender), awaited(&mut bus, listener)), (0, None));
    let request = AwaitProgress { link: link.0, position: 0, extensions: Vec::new() };
    bus.happen(Event::Control { conn: listener, control: request.into() });
    assert!(bus.log(listener).iter().any(|line| line.starts_with("refused")), "only the daemon awaits");
}

#[test]
fn a_head_that_is_absurd_costs_its_sender_credit_and_others_nothing() {
    let mut bus = bus();
    let (sender, ring, _, _) = following(&mut bus);
    granted(&mut bus, sender);
    for step in 1..4 {
        let newest = Cursor { position: step << 61, sequence: step << 61 };
        bus.apply(Event::RingSampled { ring, head: Head { newest, frame_bytes: u64::MAX } });
        bus.end_turn();
    }
    bus.wait(PATIENCE * 2);
    assert_eq!(bus.broker.stats().listeners_left_behind, 1);
    let other = paced_sender(&mut bus);
    bus.end_turn();
    assert!(granted(&mut bus, other) > 0);
}
