//! Backpressure and receipts, one event after the other.

#![allow(clippy::unwrap_used)]

mod bus;
#[path = "../common/run.rs"]
mod run;
mod sequences;
#[path = "../common/turns.rs"]
mod turns;

use broadcaster_broker::{ConnId, Event, Incomplete, Limits};
use broadcaster_protocol::control::{
    Confirm, Control, Extension, OpenInbox, Overflow, Receipt, RefusedCode, Selector, Subscribe, Unsubscribe, extension,
};
use broadcaster_protocol::limits::{CREDIT_MESSAGE_BYTES, RECEIPT_LAGGING_MAX};
use broadcaster_protocol::{ChannelId, Header, SenderId};
use bus::{Bus, Sender, open, subscribe};
use run::run_of;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

/// A quarter of it is a window of 16 KiB for one sender.
const ROOM: usize = 64 * 1024;
const WINDOW: i64 = 16 * 1024;
const WINDOW_BYTES: usize = ROOM / 4;

fn bus() -> Bus {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = ROOM;
    Bus::new(limits)
}

/// What a frame with this payload uses up.
fn cost(payload: usize) -> i64 {
    i64::try_from(28 + payload + 64).unwrap()
}

/// A listener that is behind, and a sender that waits for it.
fn waiting() -> (Bus, ConnId, Sender) {
    let mut bus = bus();
    let listener = bus.listener("news");
    let sender = bus.sender("news", PATIENCE);
    bus.stall(listener);
    bus.publish_all(sender, 1000);
    assert!(bus.is_at_rest());
    (bus, listener, sender)
}

fn with(overflow: Overflow, observer: bool) -> Subscribe {
    Subscribe { overflow, observer, ..subscribe(1, "news") }
}

#[test]
fn the_window_is_a_share_of_the_room_within_bounds() {
    let mut bus = bus();
    let first = bus.sender("news", PATIENCE);
    assert_eq!(bus.balance(first), WINDOW);
    let second = bus.sender("news", PATIENCE);
    assert_eq!((bus.balance(first), bus.balance(second)), (WINDOW, WINDOW / 2), "what is granted is not taken back");
    let elsewhere = bus.sender("other", PATIENCE);
    assert_eq!(bus.balance(elsewhere), WINDOW, "each channel has its own");
    (0..20).for_each(|_| _ = bus.sender("news", PATIENCE));
    let last = bus.sender("news", PATIENCE);
    assert_eq!(bus.balance(last), 4 * 1024, "not less than 4 KiB");
    let without = bus.sender("news", None);
    assert_eq!(bus.publication(without).balance, None);

    let mut bus = Bus::new(Limits::default());
    let alone = bus.sender("news", PATIENCE);
    assert_eq!(bus.balance(alone), 1024 * 1024, "a quarter of what may wait for a listener");

    let mut limits = Limits::default();
    limits.held_bytes_max = 1024 * 1024;
    let mut bus = Bus::new(limits);
    let many: Vec<_> = (0..16).map(|at| bus.sender(&format!("c{at}"), PATIENCE)).collect();
    assert_eq!(bus.balance(many[15]), 16 * 1024, "all windows are a share of the memory budget");
}

#[test]
fn credit_comes_when_half_of_the_window_is_used() {
    let mut bus = bus();
    let sender = bus.sender("news", PATIENCE);
    let frames = (WINDOW / 2) / cost(1000);
    for left in 1..=frames {
        bus.publish(sender, 1, 1000);
        assert_eq!(bus.balance(sender), WINDOW - left * cost(1000));
    }
    bus.publish(sender, 1, 1000);
    assert_eq!(bus.balance(sender), WINDOW);
}

#[test]
fn a_full_socket_is_tried_again_while_a_sender_waits() {
    let (mut bus, listener, sender) = waiting();
    for _ in 0..20 {
        // The listener reads a little, and the system does not report it.
        bus.peers[listener.0].room = 8 * 1024;
        bus.wait(SECOND);
        assert_eq!(bus.peers[listener.0].room, 0, "the write was tried again");
        bus.publish_all(sender, 1000);
    }
    bus.take_all(listener);
    assert_eq!((bus.lost(listener), bus.snapshot_of(listener).left_behind), (0, false));
}

#[test]
fn a_frame_may_use_up_more_than_is_left() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let sender = bus.sender("news", PATIENCE);
    bus.publish(sender, 1, 50_000);
    assert_eq!(bus.balance(sender), WINDOW, "what it owed was deducted");
    let credit: Vec<_> = bus.peers[sender.conn.0]
        .controls
        .iter()
        .filter_map(|control| match control {
            Control::Credit(credit) => Some(i64::try_from(credit.bytes).unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(credit, [WINDOW, cost(50_000)]);
    assert_eq!((bus.received(listener, sender), bus.lost(listener)), (1, 0));
}

#[test]
fn wrong_extensions_are_refused_and_zero_means_none() {
    for size in [0, 1, 3, 5] {
        let mut bus = bus();
        let conn = bus.connect();
        let data = vec![1; size];
        let extensions = vec![Extension { id: extension::BACKPRESSURE, data }];
        bus.send(conn, broadcaster_protocol::control::Open { extensions, ..open("news", None) });
        let refused = bus.peers[conn.0].refused.clone().unwrap();
        assert_eq!((refused.code, refused.reason.contains(&format!("{size} bytes"))), (RefusedCode::Protocol, true));
    }
    let mut bus = bus();
    let sender = bus.sender("news", Some(Duration::ZERO));
    assert_eq!(bus.balance(sender), 0);
    bus.publish(sender, 1, 100_000);
    let credits = bus.peers[sender.conn.0].controls.iter().filter(|control| matches!(control, Control::Credit(_)));
    assert_eq!(credits.count(), 0);
    assert_eq!(bus.snapshot_of(sender.conn).backpressure, 0);
}

#[test]
fn a_sender_waits_while_a_listener_is_behind_and_loses_nothing() {
    let (mut bus, listener, sender) = waiting();
    let sent = bus.publication(sender).next;
    assert!(bus.balance(sender) <= 0);
    let (messages, bytes) = bus.broker.queue(listener);
    assert!(bytes > ROOM / 2 && bytes <= ROOM / 2 + WINDOW_BYTES + 2000, "{bytes} bytes wait");
    assert_eq!(messages, sent);
    bus.take(listener, bytes - ROOM / 2 - 2000);
    assert!(bus.balance(sender) <= 0, "more than half is left");
    bus.take(listener, 4000);
    assert_eq!(bus.balance(sender), WINDOW);
    bus.publish_all(sender, 1000);
    bus.take_all(listener);
    assert_eq!(bus.balance(sender), WINDOW, "nothing waits for ever");
    assert_eq!((bus.received(listener, sender), bus.lost(listener)), (bus.publication(sender).next, 0));
}

#[test]
fn many_small_messages_are_a_backlog_too() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 1024 * 1024;
    limits.outbox_messages_max = 1000;
    let mut bus = Bus::new(limits);
    let listener = bus.listener("news");
    let sender = bus.sender("news", PATIENCE);
    bus.stall(listener);
    bus.publish_all(sender, 0);
    let (messages, bytes) = bus.broker.queue(listener);
    assert!(messages > 1000 && bytes < 1024 * 1024, "{messages} messages, {bytes} bytes");
    bus.take_all(listener);
    assert_eq!((bus.balance(sender) > 0, bus.lost(listener)), (true, 0), "credited messages exceed the room");
}

#[test]
fn only_listeners_that_drop_the_oldest_delay_senders() {
    for (overflow, observer, delays) in [
        (Overflow::DropOldest, false, true),
        (Overflow::DropOldest, true, false),
        (Overflow::DropNewest, false, false),
        (Overflow::Latest, false, false),
        (Overflow::Disconnect, false, false),
    ] {
        let mut bus = bus();
        let listener = bus.connect();
        bus.send(listener, with(overflow, observer));
        let sender = bus.sender("news", PATIENCE);
        bus.stall(listener);
        let mut frames = 0;
        while bus.balance(sender) > 0 && frames < 200 {
            bus.publish(sender, 1, 1000);
            frames += 1;
        }
        assert_eq!(frames < 200, delays, "{overflow:?}");
    }
}

#[test]
fn a_listener_that_leaves_delays_nothing() {
    let (mut bus, listener, sender) = waiting();
    bus.close(listener);
    assert_eq!(bus.balance(sender), WINDOW);
}

#[test]
fn a_listener_that_unsubscribes_delays_nothing_unless_another_subscription_is_left() {
    let (mut bus, listener, sender) = waiting();
    bus.send(listener, Unsubscribe { subscription: 1, extensions: Vec::new() });
    assert_eq!(bus.balance(sender), WINDOW);
    for (overflow, observer, delays) in
        [(Overflow::DropOldest, false, true), (Overflow::DropNewest, false, false), (Overflow::DropOldest, true, false)]
    {
        let (mut bus, listener, sender) = waiting();
        let selector = Selector::Pattern("*".to_owned());
        bus.send(listener, Subscribe { subscription: 2, selector, ..with(overflow, observer) });
        assert!(bus.balance(sender) <= 0);
        bus.send(listener, Unsubscribe { subscription: 1, extensions: Vec::new() });
        assert_eq!(bus.balance(sender) <= 0, delays, "{overflow:?}, observer: {observer}");
    }
}

#[test]
fn a_sender_that_leaves_waits_no_more() {
    let (mut bus, listener, sender) = waiting();
    assert_eq!(bus.snapshot_of(listener).delaying, 1);
    bus.close(sender.conn);
    assert_eq!(bus.snapshot_of(listener).delaying, 0);
    assert_eq!(bus.broker.next_deadline(), None);
    bus.wait(10 * SECOND);
    assert!(!bus.left_behind(listener));
}

#[test]
fn a_listener_is_left_behind_when_the_patience_is_over() {
    let (mut bus, listener, sender) = waiting();
    bus.wait(5 * SECOND - Duration::from_millis(1));
    assert!(!bus.left_behind(listener) && bus.balance(sender) <= 0);
    bus.wait(Duration::from_millis(1));
    assert!(bus.left_behind(listener));
    assert_eq!(bus.balance(sender), WINDOW, "the sender goes on");
    assert_eq!(bus.broker.stats().listeners_left_behind, 1);
    (0..100).for_each(|_| bus.publish(sender, 1, 1000));
    assert!(bus.balance(sender) > 0, "it delays no sender");
    assert!(bus.broker.queue(listener).1 <= ROOM, "it loses like any listener");
    let other = bus.sender("news", Some(SECOND));
    assert!(bus.balance(other) > 0, "whichever it is");

    let waits = bus.broker.queue(listener).1;
    bus.take(listener, waits / 2);
    assert!(bus.left_behind(listener), "it has not caught up");
    bus.take_all(listener);
    assert!(!bus.left_behind(listener));
    let sent = bus.publication(sender).next;
    assert_eq!(bus.received(listener, sender) + bus.lost(listener), sent);
    assert!(bus.lost(listener) > 0);
    bus.stall(listener);
    bus.publish_all(sender, 1000);
    assert_eq!(bus.snapshot_of(listener).delaying, 1, "it counts again");
}

#[test]
fn the_patience_begins_when_both_wait() {
    // The listener was behind for long before the sender lacked credit.
    let mut bus = bus();
    let listener = bus.listener("news");
    let (unpaced, sender) = (bus.sender("news", None), bus.sender("news", PATIENCE));
    bus.stall(listener);
    bus.publish(unpaced, 40, 1000);
    bus.wait(20 * SECOND);
    assert!(!bus.left_behind(listener), "no sender lacks credit");
    bus.publish_all(sender, 1000);
    bus.wait(4 * SECOND);
    assert!(!bus.left_behind(listener));

    // The sender was without credit before this listener was behind.
    let second = bus.listener("news");
    bus.stall(second);
    bus.publish(unpaced, 40, 1000);
    bus.wait(2 * SECOND);
    assert_eq!((bus.left_behind(listener), bus.left_behind(second)), (true, false));
    assert!(bus.balance(sender) <= 0);
    bus.wait(SECOND);
    bus.take_all(second);
    assert_eq!(bus.balance(sender), WINDOW);
}

#[test]
fn listeners_that_were_behind_for_as_long_are_left_behind_together() {
    let mut bus = bus();
    let listeners: Vec<_> = (0..5).map(|_| bus.listener("news")).collect();
    let sender = bus.sender("news", PATIENCE);
    listeners.iter().for_each(|&listener| bus.stall(listener));
    bus.publish_all(sender, 1000);
    bus.wait(5 * SECOND);
    assert!(listeners.iter().all(|&listener| bus.left_behind(listener)));
    assert_eq!(bus.balance(sender), WINDOW, "a sender waits once");
}

#[test]
fn the_shortest_patience_decides() {
    let (mut bus, listener, sender) = waiting();
    bus.wait(SECOND);
    let hasty = bus.sender("news", Some(SECOND));
    assert_eq!(bus.balance(hasty), 0, "a publication begins without credit");
    bus.wait(SECOND);
    assert!(bus.left_behind(listener));
    assert!(bus.balance(sender) > 0 && bus.balance(hasty) > 0);
}

#[test]
fn a_listener_that_makes_room_begins_anew() {
    let (mut bus, listener, sender) = waiting();
    for _ in 0..5 {
        bus.wait(4 * SECOND);
        bus.take(listener, WINDOW_BYTES + 3000);
        bus.publish_all(sender, 1000);
        assert!(bus.balance(sender) <= 0);
    }
    assert!(!bus.left_behind(listener));
    assert_eq!(bus.lost(listener), 0);
    let snapshot = bus.snapshot_of(listener);
    assert_eq!((snapshot.delays, snapshot.delayed, snapshot.delaying), (6, 20 * SECOND, 1));
}

#[test]
fn credited_frames_exceed_the_room_and_others_push_out_the_oldest() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let (unpaced, sender) = (bus.sender("news", None), bus.sender("news", PATIENCE));
    bus.stall(listener);
    bus.publish(unpaced, 63, 1000);
    assert_eq!(bus.broker.stats().messages_lost, 0);
    bus.publish_all(sender, 1000);
    let credited = bus.publication(sender).next;
    let (messages, bytes) = bus.broker.queue(listener);
    assert_eq!((messages, bus.broker.stats().messages_lost), (63 + credited, 0));
    assert!(bytes > ROOM && bytes <= ROOM + WINDOW_BYTES + 2000, "{bytes} bytes");
    bus.publish(unpaced, 1, 1000);
    let lost = bus.broker.stats().messages_lost;
    assert!((1..=2).contains(&lost), "{lost} messages make room for one");
    bus.publish(sender, 1, 1000);
    assert!(bus.broker.stats().messages_lost - lost <= 2, "a frame beyond the credit is like any other");
    bus.take_all(listener);
    assert!(bus.balance(sender) > 0);
}

#[test]
fn a_run_is_within_credit_frame_by_frame() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let (unpaced, sender) = (bus.sender("news", None), bus.sender("news", PATIENCE));
    bus.stall(listener);
    bus.publish(unpaced, 63, 1000);
    // One run: frames that the credit covers, the one that uses it up, and ten more.
    let covered = u64::try_from(WINDOW / cost(1000)).unwrap() + 1;
    bus.publish(sender, covered + 10, 1000);
    assert_eq!(bus.balance(sender), WINDOW - i64::try_from(covered + 10).unwrap() * cost(1000));
    let lost = bus.broker.stats().messages_lost;
    assert!((10..=11).contains(&lost), "{lost} messages are lost for ten");
    bus.take_all(listener);
    assert_eq!(bus.balance(sender), WINDOW, "both ends compute the same balance");
}

#[test]
fn frames_that_the_daemon_could_not_keep_cost_the_same() {
    let mut bus = bus();
    let listener = bus.listener("news");
    let sender = bus.sender("news", PATIENCE);
    let id = bus.peers[sender.conn.0].id;
    let header = Header::publish(sender.channel, id, 0, 50_000);
    let credits = |bus: &Bus| -> u64 {
        let credits = bus.peers[sender.conn.0].controls.iter();
        credits.map(|control| if let Control::Credit(credit) = control { credit.bytes } else { 0 }).sum()
    };
    let before = credits(&bus);
    bus.turn([Event::Discarded { conn: sender.conn, header }]);
    assert_eq!(credits(&bus) - before, 50_000 + 28 + CREDIT_MESSAGE_BYTES);
    assert_eq!(bus.lost(listener), 1);
}

#[test]
fn other_senders_and_channels_are_not_delayed() {
    let (mut bus, listener, sender) = waiting();
    let elsewhere = bus.open(sender.conn, "other", PATIENCE);
    let fast = bus.listener("other");
    for _ in 0..100 {
        bus.publish(elsewhere, 1, 1000);
        assert!(bus.balance(elsewhere) > 0);
    }
    assert_eq!((bus.received(fast, elsewhere), bus.lost(fast)), (100, 0));
    let unpaced = bus.sender("news", None);
    (0..100).for_each(|_| bus.publish(unpaced, 1, 1000));
    assert!(bus.broker.queue(listener).1 > ROOM / 2 && bus.broker.stats().messages_lost > 0);
    assert!(bus.balance(sender) <= 0);
}

#[test]
fn a_listener_of_many_channels_delays_them_all_and_releases_them_all() {
    let mut bus = bus();
    let listener = bus.connect();
    bus.send(listener, Subscribe { selector: Selector::All, ..subscribe(1, "") });
    let senders: Vec<_> = (0..10).map(|at| bus.sender(&format!("c{at}"), PATIENCE)).collect();
    bus.stall(listener);
    for &sender in &senders {
        bus.publish_all(sender, 1000);
    }
    assert_eq!(bus.snapshot_of(listener).delaying, 10);
    let (_, bytes) = bus.broker.queue(listener);
    assert!(bytes <= ROOM / 2 + 10 * (WINDOW_BYTES + 2000), "{bytes} bytes: a window for each sender");
    bus.take_all(listener);
    assert!(senders.iter().all(|&sender| bus.balance(sender) > 0));
    assert_eq!(bus.lost(listener), 0);
}

#[test]
fn grants_stop_while_memory_is_short_but_not_for_longer_than_the_patience() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1024 * 1024;
    let mut bus = Bus::new(limits);
    let hoarder = bus.connect();
    bus.send(hoarder, Subscribe { overflow: Overflow::DropNewest, ..subscribe(1, "bulk") });
    let (bulk, sender) = (bus.sender("bulk", None), bus.sender("news", PATIENCE));
    bus.stall(hoarder);
    (0..9).for_each(|_| bus.publish(bulk, 1, 64 * 1024));
    assert!(bus.broker.held_bytes() > 512 * 1024);
    bus.publish_all(sender, 1000);
    assert!(bus.balance(sender) <= 0, "more than half of the budget is held");
    bus.wait(4 * SECOND);
    assert!(bus.balance(sender) <= 0);
    bus.take(hoarder, 256 * 1024);
    assert!(bus.balance(sender) > 0, "memory was released");

    (0..4).for_each(|_| bus.publish(bulk, 1, 64 * 1024));
    bus.publish_all(sender, 1000);
    bus.wait(5 * SECOND);
    assert!(bus.balance(sender) > 0, "the patience is over");
    (0..100).for_each(|_| bus.publish(sender, 1, 1000));
    assert!(bus.balance(sender) > 0, "until the shortage ends");
}

#[test]
fn what_happens_after_the_end_of_a_turn_is_looked_at_at_once() {
    let after: [fn(&mut Bus, ConnId); 2] = [
        |bus, listener| bus.end(listener),
        |bus, listener| {
            bus.peers[listener.0].room = usize::MAX;
            bus.write(listener);
        },
    ];
    for happens in after {
        let (mut bus, listener, sender) = waiting();
        happens(&mut bus, listener);
        assert!(!bus.is_at_rest() && bus.balance(sender) <= 0);
        bus.wait(Duration::ZERO);
        assert!(bus.is_at_rest() && bus.balance(sender) > 0);
    }
}

#[test]
fn nothing_waits_at_a_stop() {
    let (mut bus, listener, sender) = waiting();
    bus.turn([Event::Stop]);
    bus.turn([Event::Drained]);
    assert!(matches!(bus.peers[sender.conn.0].controls.last(), Some(Control::Goodbye(_))));
    bus.take_all(listener);
    assert_eq!(bus.lost(listener), 0);
    bus.wait(10 * SECOND);
    assert_eq!(bus.broker.next_deadline(), None);
}

#[test]
fn a_snapshot_shows_who_waits_for_whom() {
    let (mut bus, listener, sender) = waiting();
    bus.wait(SECOND);
    let (of_sender, of_listener) = (bus.snapshot_of(sender.conn), bus.snapshot_of(listener));
    assert_eq!((of_sender.backpressure, of_sender.waits_for), (1, Some(listener)));
    assert_eq!((of_listener.backpressure, of_listener.waits_for), (0, None));
    assert_eq!((of_listener.delaying, of_listener.delays, of_listener.delayed), (1, 1, SECOND));
    let channel = &bus.broker.snapshot(bus.now).channels[0];
    assert_eq!((channel.backpressure, channel.waits_for), (1, Some(listener)));
    bus.take_all(listener);
    let (of_sender, of_listener) = (bus.snapshot_of(sender.conn), bus.snapshot_of(listener));
    assert_eq!(of_sender.waits_for, None);
    assert_eq!((of_listener.delaying, of_listener.delays, of_listener.delayed), (0, 1, SECOND));
    assert_eq!(bus.broker.snapshot(bus.now).channels[0].waits_for, None);
}

// ---- receipts ----

fn receipt(bus: &mut Bus, sender: Sender) -> Receipt {
    let number = u32::try_from(bus.peers[sender.conn.0].controls.len()).unwrap();
    bus.send(sender.conn, Confirm { number, id: sender.channel.0, extensions: Vec::new() });
    match bus.peers[sender.conn.0].controls.last() {
        Some(Control::Receipt(receipt)) if receipt.number == number => receipt.clone(),
        other => panic!("no receipt but {other:?}"),
    }
}

#[test]
fn a_receipt_counts_the_listeners_that_took_the_last_message() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 10_000;
    let mut bus = Bus::new(limits);
    let sender = bus.sender("news", None);
    let none = receipt(&mut bus, sender);
    assert_eq!((none.next_sequence, none.listeners, none.took, none.lagging), (0, 0, 0, 0));
    let (oldest, newest, observer) = (bus.listener("news"), bus.connect(), bus.connect());
    bus.send(newest, with(Overflow::DropNewest, false));
    bus.send(observer, with(Overflow::DropOldest, true));
    assert_eq!(receipt(&mut bus, sender).listeners, 0, "no message was published");
    bus.publish(sender, 3, 10);
    let all = receipt(&mut bus, sender);
    assert_eq!((all.next_sequence, all.listeners, all.took, all.lagging), (3, 2, 2, 0));
    for conn in [oldest, newest, observer] {
        bus.stall(conn);
    }
    bus.publish(sender, 20, 1000);
    let some = receipt(&mut bus, sender);
    assert_eq!((some.next_sequence, some.listeners, some.took, some.lagging), (23, 2, 1, 2));
    let id = |conn: ConnId, bus: &Bus| bus.peers[conn.0].id.raw();
    let worst: Vec<_> = some.worst.iter().map(|lagging| (lagging.listener, lagging.messages, lagging.bytes)).collect();
    let waits = |conn: ConnId, bus: &Bus| (id(conn, bus), bus.broker.queue(conn).0, bus.broker.queue(conn).0 * 1028);
    assert_eq!(worst.len(), 2);
    assert!(worst.contains(&waits(oldest, &bus)) && worst.contains(&waits(newest, &bus)), "{worst:?}");
    let other = bus.sender("news", None);
    bus.publish(other, 1, 10);
    assert_eq!(receipt(&mut bus, sender).took, 1, "of the own last message");
    bus.take_all(oldest);
    assert_eq!(receipt(&mut bus, sender).lagging, 1);
}

#[test]
fn a_message_that_was_dropped_on_arrival_is_taken_by_no_listener() {
    let mut bus = bus();
    bus.listener("news");
    let sender = bus.sender("news", None);
    let header = Header::publish(sender.channel, bus.peers[sender.conn.0].id, 0, 10);
    bus.turn([Event::Holding { conn: sender.conn, bytes: 10, frame: Incomplete::Kept }]);
    bus.turn([Event::Discarded { conn: sender.conn, header }]);
    let receipt = receipt(&mut bus, sender);
    assert_eq!((receipt.next_sequence, receipt.listeners, receipt.took), (1, 1, 0));
}

#[test]
fn a_receipt_names_the_worst_listeners_up_to_its_limit() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender("news", None);
    let mut listeners = Vec::new();
    for _ in 0..RECEIPT_LAGGING_MAX + 10 {
        let listener = bus.listener("news");
        bus.stall(listener);
        bus.publish(sender, 1, 1000);
        listeners.push(SenderId::raw(bus.peers[listener.0].id));
    }
    let receipt = receipt(&mut bus, sender);
    assert_eq!(receipt.lagging as usize, listeners.len());
    assert_eq!(
        receipt.worst.iter().map(|lagging| lagging.listener).collect::<Vec<_>>(),
        listeners[..RECEIPT_LAGGING_MAX]
    );
    assert!(receipt.worst.is_sorted_by(|one, next| one.bytes >= next.bytes));
}

#[test]
fn a_receipt_may_wait_for_the_next_reply_or_answer_if_a_listener_took_the_message() {
    let mut bus = bus();
    let sender = bus.sender("news", None);
    bus.send(sender.conn, OpenInbox::default());
    let Some(Control::InboxOpened(inbox)) = bus.peers[sender.conn.0].controls.last().cloned() else {
        panic!("an inbox")
    };
    let request = |bus: &mut Bus, number| {
        bus.publish(sender, 1, 10);
        bus.send(sender.conn, Confirm { number, id: sender.channel.0, extensions: vec![Extension::with_reply()] });
    };
    let receipts = |bus: &Bus| {
        let receipt =
            |control: &Control| if let Control::Receipt(receipt) = control { Some(receipt.number) } else { None };
        bus.peers[sender.conn.0].controls.iter().filter_map(receipt).collect::<Vec<_>>()
    };
    request(&mut bus, 1);
    assert_eq!(receipts(&bus), [1], "no listener took it");
    let listener = bus.listener("news");
    request(&mut bus, 2);
    assert_eq!(receipts(&bus), [1], "it waits");
    let id = bus.peers[listener.0].id;
    let reply = run_of(Header::reply(ChannelId(inbox.id), id, 7, 0).as_bytes());
    bus.turn([Event::Run { conn: listener, run: reply }]);
    assert_eq!(receipts(&bus), [1, 2]);
    assert_eq!(bus.peers[sender.conn.0].messages.get(&(ChannelId(inbox.id), id)), Some(&1));
    request(&mut bus, 3);
    request(&mut bus, 4);
    assert_eq!(receipts(&bus), [1, 2, 3, 4], "only one waits");
    request(&mut bus, 5);
    assert_eq!(receipt(&mut bus, sender).took, 1);
    assert_eq!(receipts(&bus)[4], 5, "in front of the next answer");

    let without_inbox = bus.sender("news", None);
    bus.publish(without_inbox, 1, 10);
    let extensions = vec![Extension::with_reply()];
    bus.send(without_inbox.conn, Confirm { number: 1, id: without_inbox.channel.0, extensions });
    assert!(matches!(bus.peers[without_inbox.conn.0].controls.last(), Some(Control::Receipt(_))));
}

#[test]
fn a_receipt_for_a_channel_that_is_not_open_is_refused() {
    let mut bus = bus();
    let (sender, other) = (bus.sender("news", None), bus.sender("other", None));
    for id in [other.channel, ChannelId(99)] {
        let conn = bus.connect();
        bus.send(conn, Confirm { number: 1, id: id.0, extensions: Vec::new() });
        assert_eq!(bus.peers[conn.0].refused.as_ref().unwrap().code, RefusedCode::Protocol);
    }
    assert_eq!(receipt(&mut bus, sender).next_sequence, 0);
}
