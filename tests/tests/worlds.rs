//! The production driver and client loops in simulated worlds. No I/O, no clock; every failure names its seed.

use broadcaster_broker::Limits;
use broadcaster_protocol::control::Overflow;
use broadcaster_tests::world::{Faults, Tally, World};
use fastrand::Rng;
use std::time::Duration;

const POLICIES: [Overflow; 4] = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect];

/// The seeds to play: the one in `WORLD_SEED`, or `count` of them.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("WORLD_SEED") {
        Ok(seed) => vec![seed.parse().expect("WORLD_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// What a few seeds are meant to bring about, one alone need not.
fn assert_happened(happened: bool, what: &str) {
    assert!(happened || std::env::var("WORLD_SEED").is_ok(), "{what}");
}

fn tight() -> Limits {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 3000;
    limits.outbox_messages_max = 20;
    limits
}

#[test]
fn every_listener_gets_every_frame() {
    for seed in seeds(20) {
        let mut world = World::new(seed);
        let listeners = [0; 3].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet(); // they have joined
        for _ in 0..2 {
            world.sender("news", 100, 300);
        }
        world.run_until_quiet();
        for listener in listeners {
            assert_eq!(world.tally(listener), Tally { received: 200, lost: 0, gaps: 0 }, "seed {seed}");
        }
    }
}

#[test]
fn slow_listener_lags_alone() {
    for seed in seeds(20) {
        let mut world = World::with_limits(seed, tight());
        let (fast, slow) = (world.listener("news", Overflow::DropOldest), world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.stall(slow, true);
        // Paced, so that the one which reads is never behind by more than its room.
        for _ in 0..100 {
            world.sender("news", 3, 100);
            world.run_until_quiet();
        }
        world.stall(slow, false);
        world.run_until_quiet();
        assert_eq!(world.tally(fast), Tally { received: 300, lost: 0, gaps: 0 }, "seed {seed}");
        let slow = world.tally(slow);
        assert_eq!((slow.received + slow.lost, slow.gaps), (300, 0), "seed {seed}");
        assert!(slow.lost > 100, "the stall was meant to hurt: {slow:?}");
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn senders_with_backpressure_lose_nothing_to_slow_listeners() {
    let mut waits = 0;
    for seed in seeds(20) {
        let mut world = World::with_limits(seed, tight()).pipes_of(600);
        let (fast, slow) = (world.listener("news", Overflow::DropOldest), world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        for _ in 0..3 {
            world.paced_sender("news", 150, 100, PATIENCE);
        }
        // It reads only while a sender waits for it.
        loop {
            let is_awaited = world.waits_for_a_listener();
            waits += u64::from(is_awaited);
            world.stall(slow, !is_awaited);
            if !world.step() {
                break;
            }
        }
        world.stall(slow, false);
        world.run_until_quiet();
        assert_eq!(world.broker().stats().listeners_left_behind, 0, "seed {seed}");
        for listener in [fast, slow] {
            assert_eq!(world.tally(listener), Tally { received: 450, lost: 0, gaps: 0 }, "seed {seed}");
        }
    }
    assert_happened(waits > 100, "senders were meant to wait");
}

/// The same in rings: listeners that read them, and one by pattern, which the daemon serves.
#[test]
fn senders_with_backpressure_lose_nothing_in_rings() {
    let (mut waits, mut faults) = (0, Faults::default());
    for seed in seeds(40) {
        let mut rng = Rng::with_seed(seed ^ 0x9acd);
        let mut world = World::with_limits(seed, tight()).pipes_of(600).sharing_memory(2048 << rng.usize(0..2));
        let mut listeners: Vec<_> = (0..3).map(|_| world.listener("news", Overflow::DropOldest)).collect();
        if rng.bool() {
            listeners.push(world.subscriber(&[(Some("*"), Overflow::DropOldest, false)]));
        }
        let slow = listeners[rng.usize(0..listeners.len())];
        world.run_until_quiet();
        for messages in [1000, 500] {
            world.paced_sender("news", messages, 100, PATIENCE);
        }
        let introduced = rng.u64(0..6);
        loop {
            // It reads only while a sender waits for it, until it and others read rings, and when everything was sent: nothing happens until
            // the daemon loses patience with it then.
            let is_awaited = world.waits_for_a_listener();
            let stalls = !is_awaited && world.faults().followed >= introduced && world.accepted("news") < 1500;
            waits += u64::from(is_awaited);
            world.stall(slow, stalls);
            if !world.step() {
                break;
            }
        }
        world.stall(slow, false);
        world.run_until_quiet();
        assert_eq!(world.broker().stats().listeners_left_behind, 0, "seed {seed}");
        for listener in listeners {
            assert_eq!(world.tally(listener), Tally { received: 1500, lost: 0, gaps: 0 }, "seed {seed}");
        }
        faults += world.faults();
    }
    let Faults { rings_begun, followed, lapped, relayed, .. } = faults;
    let rings = [rings_begun, followed, relayed, waits];
    assert_happened(rings.iter().all(|&count| count > 40), &format!("rings were meant to be used: {rings:?}"));
    assert_eq!(lapped, 0, "a reader for which its sender waits is not lapped");
}

/// The daemon is killed while all listeners read the rings of all senders: those go on with each other, and with the next daemon.
#[test]
fn ring_peers_lose_nothing_when_the_daemon_is_killed() {
    let mut survived = 0;
    let mut worlds = 0;
    for seed in seeds(60) {
        let mut world = World::with_limits(seed, tight()).pipes_of(600).sharing_memory(4096);
        let listeners: Vec<_> = (0..3).map(|_| world.listener("news", Overflow::DropOldest)).collect();
        world.run_until_quiet();
        let patience = [Duration::ZERO, PATIENCE][usize::from(seed % 2 == 0)];
        for _ in 0..2 {
            world.paced_sender("news", 500, 30, patience);
        }
        while world.faults().followed < 6 && world.step() {}
        if world.faults().followed < 6 {
            continue; // a sender was done before, or uses no ring
        }
        world.kill_daemon();
        world.run_until_quiet();
        for &listener in &listeners {
            assert_eq!(world.tally(listener).gaps, 1, "seed {seed}: other senders may have lost something");
            assert_eq!(world.arrived(listener), 1000, "seed {seed}");
        }
        assert_eq!(world.faults().lapped, 0, "seed {seed}");
        survived += world.faults().survived;
        worlds += 1;
    }
    assert_happened(worlds > 10 && survived > 100, &format!("{survived} messages in {worlds} worlds"));
}

#[test]
fn a_stalled_listener_is_left_behind_and_catches_up() {
    for seed in seeds(20) {
        let mut world = World::with_limits(seed, tight()).pipes_of(600);
        let (fast, slow) = (world.listener("news", Overflow::DropOldest), world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.stall(slow, true);
        world.paced_sender("news", 200, 100, PATIENCE);
        world.run_until_quiet(); // the sender is done, whatever the listener does
        assert_eq!(world.broker().stats().listeners_left_behind, 1, "seed {seed}");
        assert_eq!(world.tally(fast), Tally { received: 200, lost: 0, gaps: 0 }, "seed {seed}");
        world.stall(slow, false);
        world.run_until_quiet();
        let lost = world.tally(slow).lost;
        assert!(lost > 0, "it was left behind, seed {seed}");
        world.paced_sender("news", 200, 100, PATIENCE);
        world.run_until_quiet();
        assert_eq!(world.tally(slow), Tally { received: 400 - lost, lost, gaps: 0 }, "it has caught up, seed {seed}");
    }
}

#[test]
fn each_policy_keeps_what_it_promises() {
    for seed in seeds(20) {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest] {
            let mut world = World::with_limits(seed, tight()).pipes_of(600);
            let slow = world.listener("news", overflow);
            world.run_until_quiet();
            world.stall(slow, true);
            world.sender("news", 200, 50);
            world.run_until_quiet();
            world.stall(slow, false);
            world.run_until_quiet(); // checks that every gap is in its place and has its size
            let tally = world.tally(slow);
            assert_eq!(tally.received + tally.lost, 200, "{overflow:?}, seed {seed}");
            assert!(tally.lost > 0, "the stall was meant to hurt: {overflow:?}, seed {seed}");
        }
    }
}

#[test]
fn a_listener_that_asks_for_it_is_disconnected() {
    let mut world = World::with_limits(7, tight()).pipes_of(600);
    let slow = world.listener("news", Overflow::Disconnect);
    world.run_until_quiet();
    world.stall(slow, true);
    world.sender("news", 200, 50);
    world.run_until_quiet();
    world.stall(slow, false);
    world.run_until_quiet();
    assert_eq!(world.tally(slow).gaps, 1, "it was cut off once and came back");
}

#[test]
fn killed_daemon_is_one_gap() {
    for seed in seeds(20) {
        let mut world = World::new(seed);
        let listeners = [0; 2].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.sender("news", 200, 100);
        world.run(400);
        world.kill_daemon();
        world.run_until_quiet();
        for listener in listeners {
            assert_eq!(world.tally(listener).gaps, 1, "seed {seed}");
        }
    }
}

/// Each reply states whose request it answers: it reaches that requester alone, once from each listener, or is late and counted.
#[test]
fn replies_reach_their_requesters_whatever_fails() {
    let mut happened = Faults::default();
    for seed in seeds(40) {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed).short_of_memory(if rng.bool() { 30 } else { 0 });
        let listeners = [
            world.listener("com.a", Overflow::DropOldest),
            world.subscriber(&[(Some("com.*"), Overflow::DropOldest, false)]),
            world
                .subscriber(&[(Some("com.b"), Overflow::Latest, false), (Some("com.**"), Overflow::DropOldest, false)]),
        ];
        let requesters = ["com.a", "com.a", "com.b"].map(|channel| world.requester(channel, 30));
        world.sender("com.a", 100, 200);
        world.observer(None);
        for _ in 0..rng.u32(2..12) {
            world.run(rng.u64(..600));
            match rng.u32(..5) {
                0 => world.kill_daemon(),
                1 => world.stop_daemon(),
                2 => world.cut(listeners[rng.usize(..3)]),
                3 => world.cut(requesters[rng.usize(..3)]),
                _ => {
                    let listener = listeners[rng.usize(..3)];
                    world.stall(listener, true);
                    world.run(rng.u64(..600));
                    world.stall(listener, false);
                }
            }
        }
        world.run_until_quiet();
        happened += world.faults();
    }
    assert_happened(happened.replies > 1000 && happened.requests_answered > 300, &format!("{happened:?}"));
    assert_happened(happened.late_replies > 10 && happened.requests_lost > 10, &format!("{happened:?}"));
}

#[test]
fn stopped_daemon_delivers_what_it_was_sent() {
    for seed in seeds(20) {
        let mut world = World::new(seed);
        let listener = world.listener("news", Overflow::DropOldest);
        world.run_until_quiet();
        let sender = world.sender("news", 50, 100);
        world.run_until_quiet();
        world.kill(sender);
        world.stop_daemon();
        world.run_until_quiet();
        assert_eq!(world.tally(listener), Tally { received: 50, lost: 0, gaps: 1 }, "seed {seed}");
    }
}

#[test]
fn an_orderly_stop_under_load_loses_nothing() {
    let mut under_way = 0;
    for seed in seeds(15) {
        let mut world = World::new(seed).pipes_of(2000);
        let listeners = [0; 3].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        for _ in 0..6 {
            world.sender("news", 200, 300);
        }
        world.run(3000);
        let accepted = world.accepted("news");
        under_way += listeners.iter().map(|&listener| accepted - world.tally(listener).received).sum::<u64>();
        world.stop_daemon();
        world.run_until_quiet(); // checks at each Goodbye that everything had arrived
        for listener in listeners {
            let Tally { received, lost, gaps } = world.tally(listener);
            assert_eq!((lost, gaps), (0, 1), "seed {seed}");
            assert!(received >= accepted, "seed {seed}: {received} of {accepted}");
        }
    }
    assert_happened(under_way > 100, "messages were meant to be on their way");
}

#[test]
fn one_connection_receives_several_channels() {
    for seed in seeds(20) {
        let mut world = World::new(seed).pipes_of(1500);
        let drop = Overflow::DropOldest;
        let two = world.subscriber(&[(Some("news"), drop, false), (Some("sync"), drop, false)]);
        let all = world.subscriber(&[(None, drop, false), (Some("news"), drop, false), (Some("log"), drop, true)]);
        let observer = world.subscriber(&[(Some("log"), drop, true), (Some("news"), drop, true)]);
        world.run_until_quiet();
        for (channel, count) in [("news", 100), ("sync", 50), ("log", 70), ("news", 10), ("other", 30)] {
            world.sender(channel, count, 200);
        }
        world.run_until_quiet();
        for (client, received) in [(two, 160), (all, 260), (observer, 180)] {
            assert_eq!(world.tally(client), Tally { received, lost: 0, gaps: 0 }, "seed {seed}");
        }
        world.cut(two);
        world.cut(all);
        world.run_until_quiet();
        assert_eq!(
            (world.tally(two).gaps, world.tally(all).gaps),
            (2, 3),
            "one gap for each subscription, seed {seed}"
        );
    }
}

#[test]
fn a_listener_joins_and_leaves_channels_over_its_connection() {
    let drop = Overflow::DropOldest;
    for seed in seeds(20) {
        let mut world = World::new(seed).pipes_of(1500);
        let listener = world.subscriber(&[(Some("news"), drop, false), (Some("log.*"), drop, false)]);
        world.run_until_quiet();
        let send_to_all = |world: &mut World| {
            for channel in ["news", "log.a", "log.b", "log.a.b"] {
                world.sender(channel, 10, 200);
            }
            world.run_until_quiet();
        };
        send_to_all(&mut world);
        assert_eq!(world.tally(listener).received, 30, "seed {seed}");
        world.join(listener, "log.**", drop);
        world.run_until_quiet();
        send_to_all(&mut world);
        world.leave(listener, "log.*");
        world.leave(listener, "news");
        world.run_until_quiet();
        send_to_all(&mut world);
        assert_eq!(world.tally(listener).received, 30 + 40 + 30, "seed {seed}");
        world.cut(listener);
        world.run_until_quiet();
        send_to_all(&mut world);
        assert_eq!(world.tally(listener), Tally { received: 130, lost: 0, gaps: 1 }, "seed {seed}");
    }
}

/// The model checks that exactly those messages arrive that are accepted between joining and leaving.
#[test]
fn channels_are_joined_and_left_under_load() {
    let (mut received, mut lost, mut faults) = (0, 0, Faults::default());
    let selectors = ["news", "log.a", "log.b", "log.*", "*"];
    for seed in seeds(25) {
        let mut rng = Rng::with_seed(seed ^ 0x10ad);
        let mut world = World::with_limits(seed, tight()).pipes_of(rng.usize(200..3000));
        let listeners: Vec<_> =
            (0..4).map(|_| world.listener(selectors[rng.usize(0..3)], POLICIES[rng.usize(0..3)])).collect();
        for _ in 0..rng.usize(40..80) {
            let listener = listeners[rng.usize(0..listeners.len())];
            let selector = selectors[rng.usize(0..selectors.len())];
            match rng.u32(0..24) {
                0..=6 => world.join(listener, selector, POLICIES[rng.usize(0..3)]),
                7..=12 => world.leave(listener, selector),
                13..=18 => drop(world.sender(selectors[rng.usize(0..3)], rng.u64(1..200), 200)),
                19 | 20 => world.stall(listener, rng.bool()),
                21 => world.cut(listener),
                22 if rng.u32(0..3) == 0 => world.kill_daemon(),
                23 if rng.u32(0..3) == 0 => world.stop_daemon(),
                _ => {}
            }
            world.run(rng.u64(0..400));
        }
        listeners.iter().for_each(|&listener| world.stall(listener, false));
        world.run_until_quiet();
        received += listeners.iter().map(|&listener| world.tally(listener).received).sum::<u64>();
        lost += listeners.iter().map(|&listener| world.tally(listener).lost).sum::<u64>();
        faults += world.faults();
    }
    assert_happened(received > 1000 && lost > 100, &format!("much was meant to happen: {received} and {lost}"));
    let Faults { channels_left, channels_joined_again, .. } = faults;
    let changes =
        format!("channels were meant to be left and joined again: {channels_left} and {channels_joined_again}");
    assert_happened(channels_left > 30 && channels_joined_again > 10, &changes);
}

/// Every message that a listener receives, loses or has replayed is in exactly one count.
#[test]
fn replayed_messages_precede_live_ones_and_are_counted() {
    let (mut replayed, mut lost) = (0, 0);
    for seed in seeds(12) {
        let mut rng = Rng::with_seed(seed ^ 0x4e7a);
        let limits = if rng.bool() { tight() } else { Limits::default() };
        let mut world = World::with_limits(seed, limits).pipes_of(rng.usize(300..3000));
        let mut listeners = Vec::new();
        for channel in ["log.a", "log.b", "log.a"] {
            world.retaining_sender(channel, rng.u64(1..60), 200, rng.u32(1..12));
        }
        world.sender("log.a", 100, 200);
        for _ in 0..rng.usize(8..16) {
            let selector = ["log.a", "log.b", "log.*"][rng.usize(0..3)];
            let listener = world.replaying_listener(selector, POLICIES[rng.usize(0..3)], rng.u32(0..15));
            world.stall(listener, rng.usize(0..3) == 0);
            listeners.push(listener);
            world.run(rng.u64(0..150));
        }
        world.run_until_quiet();
        listeners.iter().for_each(|&listener| world.stall(listener, false));
        world.run_until_quiet();
        let tallies: Vec<_> = listeners.iter().map(|&listener| world.tally(listener)).collect();
        let stats = world.broker().stats();
        assert_eq!(stats.messages_delivered, tallies.iter().map(|tally| tally.received).sum::<u64>(), "seed {seed}");
        assert_eq!(stats.messages_lost, tallies.iter().map(|tally| tally.lost).sum::<u64>(), "seed {seed}");
        assert_eq!(stats.retention_declined, 0, "seed {seed}");
        // A listener that joins now is replayed what is retained, and nothing else.
        let (retained, before) = (world.retained_messages(), world.broker().stats().messages_replayed);
        let late = world.replaying_listener("**", Overflow::DropOldest, 100);
        world.run_until_quiet();
        assert_eq!(world.tally(late), Tally { received: retained, lost: 0, gaps: 0 }, "seed {seed}");
        assert_eq!(world.broker().stats().messages_replayed, before + retained, "seed {seed}");
        assert!(retained > 0, "seed {seed}");
        replayed += before;
        lost += stats.messages_lost;
    }
    assert_happened(replayed > 100 && lost > 100, &format!("much was meant to happen: {replayed} and {lost}"));
}

/// The model knows what each daemon retains, which messages each listener has had, and checks that nothing is missing or arrives twice.
#[test]
fn retained_messages_survive_the_daemon_with_their_senders() {
    let (mut received, mut faults) = (0, Faults::default());
    for seed in seeds(15) {
        let mut rng = Rng::with_seed(seed ^ 0xdec1);
        let limits = if rng.bool() { tight() } else { Limits::default() };
        let mut world = World::with_limits(seed, limits).pipes_of(rng.usize(300..3000));
        let listeners: Vec<_> = (0..4)
            .map(|_| {
                let selector = ["log.a", "log.b", "log.*"][rng.usize(0..3)];
                world.replaying_listener(selector, POLICIES[rng.usize(0..3)], rng.u32(0..6))
            })
            .collect();
        for _ in 0..rng.usize(40..80) {
            let listener = listeners[rng.usize(0..listeners.len())];
            let channel = ["log.a", "log.b"][rng.usize(0..2)];
            match rng.u32(0..24) {
                0..=7 => drop(world.retaining_sender(channel, rng.u64(1..100), 200, rng.u32(1..8))),
                8 | 9 => drop(world.sender(channel, rng.u64(1..50), 200)),
                10..=12 => world.stall(listener, rng.bool()),
                13..=15 => world.cut(listener),
                16..=18 => world.kill_daemon(),
                19 => world.stop_daemon(),
                _ => {}
            }
            world.run(rng.u64(0..400));
        }
        listeners.iter().for_each(|&listener| world.stall(listener, false));
        world.run_until_quiet();
        received += listeners.iter().map(|&listener| world.tally(listener).received).sum::<u64>();
        faults += world.faults();
    }
    let Faults { declared_again, restored, replayed, .. } = faults;
    let counts =
        format!("{received} received, {declared_again} declared again, {restored} restored, {replayed} replayed");
    assert_happened(
        received > 1000 && declared_again > restored && restored > 10 && replayed > 10,
        &format!("much was meant to happen: {counts}"),
    );
}

#[test]
fn observing_never_affects_delivery() {
    for seed in seeds(20) {
        let mut world = World::with_limits(seed, tight()).pipes_of(800);
        let listener = world.listener("news", Overflow::DropOldest);
        let observers = [Some("news"), None].map(|channel| world.observer(channel));
        world.run_until_quiet();
        for observer in observers {
            world.stall(observer, true);
        }
        for _ in 0..100 {
            world.sender("news", 3, 100);
            world.run_until_quiet();
        }
        for observer in observers {
            world.stall(observer, false);
        }
        world.run_until_quiet();
        assert_eq!(world.tally(listener), Tally { received: 300, lost: 0, gaps: 0 }, "seed {seed}");
        for observer in observers {
            let Tally { received, lost, gaps } = world.tally(observer);
            assert_eq!((received + lost, gaps), (300, 0), "seed {seed}");
            assert!(lost > 100, "the stall was meant to hurt, seed {seed}");
        }
        let stats = world.broker().stats();
        assert_eq!((stats.messages_delivered, stats.messages_lost), (300, 0), "seed {seed}");
    }
}

#[test]
fn memory_stays_within_its_budget() {
    for seed in seeds(5) {
        let mut limits = Limits::default();
        limits.held_bytes_max = 50_000;
        let mut world = World::with_limits(seed, limits).pipes_of(1000);
        let listeners: Vec<_> = (0..4).map(|_| world.listener("news", Overflow::DropOldest)).collect();
        world.run_until_quiet();
        for &listener in &listeners[1..] {
            world.stall(listener, true);
        }
        world.sender("news", 1000, 400);
        world.run_until_quiet(); // the world fails if the budget is exceeded after any turn
        for &listener in &listeners {
            world.stall(listener, false);
        }
        world.run_until_quiet();
        let lost: u64 = listeners.iter().map(|&listener| world.tally(listener).lost).sum();
        assert!(lost > 0, "the budget was meant to be reached");
        assert_eq!(world.broker().held_bytes(), 0, "everything was released");
    }
}

/// Limits in which a few messages of the largest size fill the budget.
fn large_messages() -> Limits {
    let mut limits = Limits::default();
    limits.payload_bytes_max = 12_000;
    limits.held_bytes_max = 60_000;
    limits.outbox_bytes_max = 30_000;
    limits
}

#[test]
fn messages_of_the_largest_size_share_a_small_budget() {
    let (mut lost, mut largest) = (0, 0);
    for seed in seeds(20) {
        let mut world = World::with_limits(seed, large_messages()).pipes_of(700);
        let listeners: Vec<_> = (0..6).map(|_| world.listener("news", Overflow::DropOldest)).collect();
        world.run_until_quiet();
        for &listener in &listeners[..3] {
            world.stall(listener, true);
        }
        let senders: Vec<_> = (0..12).map(|_| world.sender("news", 10, 12_000)).collect();
        world.run_until_quiet(); // no sender is refused, or it would not be done
        for &listener in &listeners {
            world.stall(listener, false);
        }
        world.run_until_quiet();
        assert_eq!(world.accepted("news"), 10 * senders.len() as u64, "seed {seed}");
        lost += listeners.iter().map(|&listener| world.tally(listener).lost).sum::<u64>();
        largest += world.faults().largest_messages;
    }
    assert_happened(lost > 0, "the budget was meant to be reached");
    assert_happened(largest > 100, "messages of the largest size were meant to be sent");
}

#[test]
fn listeners_stalled_inside_a_message_do_not_silence_the_bus() {
    for seed in seeds(20) {
        for observes in [false, true] {
            let mut limits = large_messages();
            limits.outbox_bytes_max = 100_000;
            let mut world = World::with_limits(seed, limits).pipes_of(700);
            let stalled = ["a", "b", "c", "d"].map(|channel| {
                let client = world.subscriber(&[(Some(channel), Overflow::DropOldest, observes)]);
                world.run_until_quiet();
                world.stall(client, true);
                // Nearly always several kilobytes, whatever the seed.
                world.sender(channel, 8, 12_000);
                world.run_until_quiet();
                client
            });
            assert!(stalled.iter().all(|&client| world.is_half_written(client)), "seed {seed}");
            let listener = world.listener("news", Overflow::DropOldest);
            world.run_until_quiet();
            world.pass(if observes { Duration::ZERO } else { Duration::from_secs(5) });
            for _ in 0..20 {
                world.sender("news", 1, 12_000);
                world.run_until_quiet();
            }
            assert_eq!(world.tally(listener), Tally { received: 20, lost: 0, gaps: 0 }, "seed {seed}");
            for client in stalled {
                world.stall(client, false);
            }
            world.run_until_quiet();
        }
    }
}

#[test]
fn shortage_of_memory_for_sockets_ends_no_connection() {
    let mut failed = 0;
    for seed in seeds(10) {
        let mut world = World::new(seed).short_of_memory(3);
        let listeners = [0; 3].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.sender("news", 200, 300);
        world.run_until_quiet();
        for listener in listeners {
            assert_eq!(world.tally(listener), Tally { received: 200, lost: 0, gaps: 0 }, "seed {seed}");
        }
        failed += world.faults().writes_without_memory;
    }
    assert_happened(failed > 100, "writes were meant to fail");
}

#[test]
fn clients_that_are_turned_away_for_lack_of_a_descriptor_come_back() {
    let mut turned_away = 0;
    for seed in seeds(20) {
        let mut world = World::new(seed).short_of_descriptors(2);
        let listeners = [0; 4].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.sender("news", 50, 300);
        world.run_until_quiet();
        listeners.iter().for_each(|&listener| world.cut(listener));
        world.run_until_quiet();
        world.sender("news", 50, 300);
        world.run_until_quiet();
        for listener in listeners {
            assert_eq!(world.tally(listener), Tally { received: 100, lost: 0, gaps: 1 }, "seed {seed}");
        }
        assert_eq!(world.broker().stats().connections_refused, 0, "no connection of the others is affected");
        turned_away += world.faults().clients_turned_away;
    }
    assert_happened(turned_away > 100, "clients were meant to be turned away");
}

/// Joins, leaves, stalls, cuts, kills and restarts at random; the model checks order, duplicates and every gap.
#[test]
fn anything_may_happen() {
    let (mut lost, mut half_written) = (0, 0);
    let mut faults = Faults::default();
    for seed in seeds(200) {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let (limits, payload_max) = if seed % 3 == 0 { (large_messages(), 12_000) } else { (tight(), 400) };
        let mut shortage = || [0, 0, 5][rng.usize(0..3)];
        let (memory, descriptors) = (shortage(), shortage());
        let mut world = World::with_limits(seed, limits).pipes_of(rng.usize(64..3000));
        world = world.short_of_memory(memory).short_of_descriptors(descriptors);
        let mut clients = Vec::new();
        for _ in 0..rng.usize(5..40) {
            let channels = ["news", "sync", "log"];
            let channel = channels[rng.usize(0..3)];
            match rng.u32(0..22) {
                0 | 1 => clients.push(world.listener(channel, POLICIES[rng.usize(0..4)])),
                2..=4 => {
                    let payload_max = if rng.bool() { payload_max } else { rng.usize(0..=payload_max) };
                    let patience = Duration::from_millis([0, 1, 5000][rng.usize(0..3)]);
                    clients.push(world.paced_sender(channel, rng.u64(1..120), payload_max, patience));
                }
                5 | 6 => {
                    let selectors = [Some("news"), Some("sync"), None].into_iter().filter(|_| rng.bool());
                    let selectors: Vec<_> = selectors.collect();
                    let subscriptions =
                        selectors.into_iter().map(|selector| (selector, POLICIES[rng.usize(0..4)], rng.bool()));
                    let subscriptions: Vec<_> = subscriptions.collect();
                    if !subscriptions.is_empty() {
                        clients.push(world.subscriber(&subscriptions));
                    }
                }
                7 | 8 if !clients.is_empty() => world.stall(clients[rng.usize(0..clients.len())], rng.bool()),
                9 if !clients.is_empty() => world.kill(clients[rng.usize(0..clients.len())]),
                10 if !clients.is_empty() => world.cut(clients[rng.usize(0..clients.len())]),
                11 if rng.u32(0..3) == 0 => world.kill_daemon(),
                12 if rng.u32(0..3) == 0 => world.stop_daemon(),
                13 => world.pass(Duration::from_secs(rng.u64(0..7))),
                14 | 20 if !clients.is_empty() => {
                    let selector = ["news", "sync", "*", "**"][rng.usize(0..4)];
                    world.join(clients[rng.usize(0..clients.len())], selector, POLICIES[rng.usize(0..4)]);
                }
                15 | 21 if !clients.is_empty() => {
                    world.leave(clients[rng.usize(0..clients.len())], ["news", "sync", "*", "**"][rng.usize(0..4)]);
                }
                16 => clients.push(world.requester(channel, rng.u64(1..20))),
                // Where memory is short, the daemon may decline to retain a message, of which the model knows nothing.
                17 if seed % 3 != 0 => {
                    clients.push(world.retaining_sender(channel, rng.u64(1..60), payload_max, rng.u32(1..4)));
                }
                18 | 19 => {
                    let selector = ["news", "sync", "log", "**"][rng.usize(0..4)];
                    clients.push(world.replaying_listener(selector, POLICIES[rng.usize(0..4)], rng.u32(1..4)));
                }
                _ => {}
            }
            world.run(rng.u64(0..2000));
            half_written += clients.iter().filter(|&&client| world.is_half_written(client)).count() as u64;
        }
        for &client in &clients {
            world.stall(client, false);
        }
        world.run_until_quiet();
        lost += clients.iter().map(|&client| world.tally(client).lost).sum::<u64>();
        faults += world.faults();
    }
    let Faults {
        writes_without_memory,
        clients_turned_away,
        largest_messages,
        channels_left,
        channels_joined_again,
        replayed,
        replies,
        late_replies,
        ..
    } = faults;
    let rough = [lost, half_written, writes_without_memory, clients_turned_away, largest_messages];
    let served = [replayed, replies, late_replies];
    assert_happened(
        !served.contains(&0),
        &format!("messages were meant to be replayed and requests answered: {served:?}"),
    );
    let changing = [channels_left, channels_joined_again];
    assert_happened(!changing.contains(&0), &format!("channels were meant to be left and joined again: {changing:?}"));
    assert_happened(!rough.contains(&0), &format!("these worlds were meant to be rough: {rough:?}"));
}

/// Senders publish into a ring, over their connections, and into the next ring, while listeners join and leave, by name and by pattern. Each listener
/// receives all messages from its subscription on, once and in the order of their sender, or a report of their loss.
#[test]
fn senders_enter_and_leave_rings_while_listeners_come_and_go() {
    let mut faults = Faults::default();
    let (mut received, mut lost, mut exact) = (0, 0, 0);
    for seed in seeds(40) {
        let mut rng = Rng::with_seed(seed ^ 0xe14d);
        let limits = if rng.bool() { tight() } else { Limits::default() };
        let mut world = World::with_limits(seed, limits).pipes_of(rng.usize(300..3000));
        world = world.sharing_memory(64 << rng.usize(0..4)).short_of_shared_memory([0, 0, 8][rng.usize(0..3)]);
        // Readers of a ring lose the oldest messages: the other policies are those of listeners that need the relay.
        let policy = |rng: &mut Rng| if rng.u32(0..3) > 0 { Overflow::DropOldest } else { POLICIES[rng.usize(0..4)] };
        let by_name = world.listener("news", POLICIES[rng.usize(0..3)]);
        let by_pattern = world.subscriber(&[(Some("*"), POLICIES[rng.usize(0..3)], rng.bool())]);
        let staying = [by_name, by_pattern];
        let mut listeners: Vec<_> = (0..3).map(|_| world.listener("news", policy(&mut rng))).collect();
        listeners.extend(staying);
        world.run_until_quiet(); // they have joined
        let senders = [1200, 400].map(|messages| world.roaming_sender("news", messages, 60, rng.usize(50..250)));
        for _ in 0..rng.usize(30..60) {
            let (any, sender) = (listeners[rng.usize(0..listeners.len())], senders[rng.usize(0..2)]);
            let comes_and_goes = listeners[rng.usize(0..3)];
            let selector = ["news", "news", "*"][rng.usize(0..3)];
            match rng.u32(0..20) {
                0..=4 => world.join(comes_and_goes, selector, policy(&mut rng)),
                5..=8 => world.leave(comes_and_goes, selector),
                9..=11 => world.stall(any, rng.bool()),
                12 => world.cut(comes_and_goes),
                13 => world.cut(sender),
                14 | 15 => {
                    senders.iter().for_each(|&sender| world.pause(sender, true));
                    world.run_until_quiet(); // whatever is due happens
                    senders.iter().for_each(|&sender| world.pause(sender, false));
                }
                16 | 17 => world.pass(Duration::from_secs(rng.u64(0..15))),
                18 => world.pause(sender, true),
                _ => world.pause(sender, false),
            }
            world.run(rng.u64(0..800));
        }
        listeners.iter().for_each(|&listener| world.stall(listener, false));
        senders.iter().for_each(|&sender| world.pause(sender, false));
        world.run_until_quiet();
        for listener in staying {
            let tally = world.tally(listener);
            let (accepted, strays) = (world.accepted("news"), world.strays("news"));
            let is_complete = (accepted..=accepted + strays).contains(&(tally.received + tally.lost));
            assert!(is_complete && tally.gaps == 0, "seed {seed}: {tally:?} of {accepted}, and {strays} strays");
            exact += u64::from(strays == 0);
        }
        received += listeners.iter().map(|&listener| world.tally(listener).received).sum::<u64>();
        lost += listeners.iter().map(|&listener| world.tally(listener).lost).sum::<u64>();
        faults += world.faults();
    }
    let Faults { rings_begun, rings_begun_again, rings_ended, followed, lapped, relayed, .. } = faults;
    let Faults { rings_left_to_retain, rings_left_for_size, rings_recalled, .. } = faults;
    let Faults { channels_left, channels_joined_again, .. } = faults;
    let turns = [rings_begun, rings_begun_again, rings_ended, followed, relayed];
    assert_happened(turns.iter().all(|&count| count > 20), &format!("rings were meant to begin and end: {turns:?}"));
    assert_happened(lapped > 0, "a reader was meant to be lapped");
    let reasons = [rings_left_to_retain, rings_left_for_size, rings_recalled];
    assert_happened(reasons.iter().all(|&count| count > 10), &format!("rings were meant to end for it: {reasons:?}"));
    let changes = [channels_left, channels_joined_again, received, lost];
    assert_happened(exact > 20, &format!("most worlds were meant to have no strays: {exact}"));
    assert_happened(changes.iter().all(|&count| count > 40), &format!("much was meant to happen: {changes:?}"));
}

/// Clients that share memory join, leave, stall, are killed, and stop; messages change between sockets and rings. The model checks the order of each
/// sender's messages, that none arrives twice, and that each listener receives the rest or a report of its loss.
#[test]
fn anything_may_happen_with_rings() {
    let mut faults = Faults::default();
    let mut lost = 0;
    for seed in seeds(40) {
        let mut rng = Rng::with_seed(seed ^ 0x2176);
        let limits = if rng.bool() { tight() } else { Limits::default() };
        let mut world = World::with_limits(seed, limits).pipes_of(rng.usize(300..3000));
        world = world.sharing_memory(64 << rng.usize(0..6)).short_of_shared_memory([0, 0, 8][rng.usize(0..3)]);
        world = world.short_of_memory([0, 0, 10][rng.usize(0..3)]);
        let mut clients = vec![world.listener("news", Overflow::DropOldest), world.sender("news", 600, 50)];
        for _ in 0..rng.usize(10..30) {
            let channel = ["news", "sync"][rng.usize(0..2)];
            let client = clients[rng.usize(0..clients.len())];
            match rng.u32(0..26) {
                0..=3 => clients.push(world.listener(channel, Overflow::DropOldest)),
                4 => clients.push(world.listener(channel, POLICIES[rng.usize(0..4)])),
                5..=7 => clients.push(world.sender(channel, rng.u64(1..500), [10, 50, 100][rng.usize(0..3)])),
                8 => clients.push(world.sender(channel, rng.u64(1..40), 2000)),
                9 => clients.push(world.observer([None, Some(channel)][rng.usize(0..2)])),
                10 => clients.push(world.subscriber(&[(Some("*"), POLICIES[rng.usize(0..4)], rng.bool())])),
                11 | 12 => world.stall(client, rng.bool()),
                13 => world.kill(client),
                14 => world.kill_within_a_write(client),
                15 => world.cut(client),
                16 => world.kill_daemon(),
                17 if rng.u32(0..3) == 0 => world.stop_daemon(),
                18 => world.pass(Duration::from_secs(rng.u64(0..12))),
                19 | 20 => world.join(client, ["news", "sync", "*"][rng.usize(0..3)], POLICIES[rng.usize(0..4)]),
                21 => world.leave(client, ["news", "sync", "*"][rng.usize(0..3)]),
                22 => clients.push(world.retaining_sender(channel, rng.u64(1..30), 100, 3)),
                23 => clients.push(world.paced_sender(channel, rng.u64(1..60), 100, Duration::from_millis(5))),
                24 => clients.push(world.roaming_sender(channel, rng.u64(100..500), 60, rng.usize(10..100))),
                25 => world.pause(client, rng.bool()),
                _ => {}
            }
            world.run(rng.u64(0..1500));
        }
        clients.iter().for_each(|&client| {
            world.stall(client, false);
            world.pause(client, false);
        });
        world.run_until_quiet();
        lost += clients.iter().map(|&client| world.tally(client).lost).sum::<u64>();
        faults += world.faults();
    }
    let Faults { rings_begun, followed, lapped, relayed, links_refused, joined_during_introduction, .. } = faults;
    let Faults { rings_begun_again, rings_ended, .. } = faults;
    let rings = [
        rings_begun,
        rings_begun_again,
        rings_ended,
        followed,
        lapped,
        relayed,
        links_refused,
        joined_during_introduction,
        lost,
    ];
    assert_happened(rings.iter().all(|&count| count > 0), &format!("rings were meant to be used: {rings:?}"));
}
