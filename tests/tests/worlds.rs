//! The production broker and client cores in simulated worlds. No I/O, no clock; every failure names its seed.

use broadcaster_broker::Limits;
use broadcaster_protocol::control::Overflow;
use broadcaster_tests::world::{Tally, World};
use fastrand::Rng;

const POLICIES: [Overflow; 4] = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect];

/// The seeds to play: the one in `WORLD_SEED`, or `count` of them.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("WORLD_SEED") {
        Ok(seed) => vec![seed.parse().expect("WORLD_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
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
        let ears = [0; 3].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet(); // they have joined
        for _ in 0..2 {
            world.sender("news", 100, 300);
        }
        world.run_until_quiet();
        for ear in ears {
            assert_eq!(world.tally(ear), Tally { received: 200, lost: 0, gaps: 0 }, "seed {seed}");
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
            world.run_until_quiet(); // checks that every hole is in its place and has its size
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
        let ears = [0; 2].map(|_| world.listener("news", Overflow::DropOldest));
        world.run_until_quiet();
        world.sender("news", 200, 100);
        world.run(400);
        world.kill_daemon();
        world.run_until_quiet();
        for ear in ears {
            assert_eq!(world.tally(ear).gaps, 1, "seed {seed}");
        }
    }
}

#[test]
fn stopped_daemon_delivers_what_it_was_sent() {
    for seed in seeds(20) {
        let mut world = World::new(seed);
        let ear = world.listener("news", Overflow::DropOldest);
        world.run_until_quiet();
        let sender = world.sender("news", 50, 100);
        world.run_until_quiet();
        world.kill(sender);
        world.stop_daemon();
        world.run_until_quiet();
        assert_eq!(world.tally(ear), Tally { received: 50, lost: 0, gaps: 1 }, "seed {seed}");
    }
}

#[test]
fn memory_stays_within_its_budget() {
    for seed in seeds(5) {
        let mut limits = Limits::default();
        limits.held_bytes_max = 50_000;
        let mut world = World::with_limits(seed, limits).pipes_of(1000);
        let ears: Vec<_> = (0..4).map(|_| world.listener("news", Overflow::DropOldest)).collect();
        world.run_until_quiet();
        for &ear in &ears[1..] {
            world.stall(ear, true);
        }
        world.sender("news", 1000, 400);
        world.run_until_quiet(); // the world fails if the budget is ever exceeded
        for &ear in &ears {
            world.stall(ear, false);
        }
        world.run_until_quiet();
        let lost: u64 = ears.iter().map(|&ear| world.tally(ear).lost).sum();
        assert!(lost > 0, "the budget was meant to be reached");
        assert_eq!(world.held_bytes(), 0, "everything was given back");
    }
}

/// Joins, leaves, stalls, cuts, kills and restarts at random; the model checks order, duplicates and every hole.
#[test]
fn anything_may_happen() {
    let mut told = 0;
    for seed in seeds(300) {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let mut world = World::with_limits(seed, tight()).pipes_of(rng.usize(64..3000));
        let mut clients = Vec::new();
        for _ in 0..rng.usize(5..40) {
            let channel = ["news", "sync", "log"][rng.usize(0..3)];
            match rng.u32(0..12) {
                0..=2 => clients.push(world.listener(channel, POLICIES[rng.usize(0..4)])),
                3..=5 => clients.push(world.sender(channel, rng.u64(1..120), rng.usize(0..400))),
                6 | 7 if !clients.is_empty() => world.stall(clients[rng.usize(0..clients.len())], rng.bool()),
                8 if !clients.is_empty() => world.kill(clients[rng.usize(0..clients.len())]),
                9 if !clients.is_empty() => world.cut(clients[rng.usize(0..clients.len())]),
                10 if rng.u32(0..3) == 0 => world.kill_daemon(),
                11 if rng.u32(0..3) == 0 => world.stop_daemon(),
                _ => {}
            }
            world.run(rng.u64(0..2000));
        }
        for &client in &clients {
            world.stall(client, false);
        }
        world.run_until_quiet();
        told += clients.iter().map(|&client| world.tally(client).lost).sum::<u64>();
    }
    assert!(told > 0 || std::env::var("WORLD_SEED").is_ok(), "these worlds were meant to be rough");
}
