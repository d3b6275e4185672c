//! Shared memory against the connections of the bus, and against a bare ring.

use serde_json::json;

use crate::bench::Bench;
use crate::sections::{latency, throughput};
use crate::system::System::{self, FloorPolled, FloorRing, Memory, Ours};
use crate::table::{Goal, ratio_with_goal};

const SECTION: &str = "memory";
const PAYLOAD_BYTES: usize = 64;
/// What one way may take in relation to the bare ring, on one CPU.
const P50_GOAL: f64 = 1.25;

pub(crate) fn measure(bench: &Bench) {
    one_way(bench, true, &[FloorRing, Ours, Memory]);
    one_way(bench, false, &[FloorRing, FloorPolled, Ours, Memory]);
    throughput::memory(bench);
}

fn one_way(bench: &Bench, pinned: bool, systems: &[System]) {
    for (mut row, system, ratios) in latency::compare(bench, SECTION, systems, PAYLOAD_BYTES, pinned) {
        if system == Memory {
            let ratio = ratios.p50;
            let goal = pinned.then_some(P50_GOAL);
            row.ratio = format!("ring: {}", ratio_with_goal("p50", ratio, "<=", goal));
            row.goal = goal.map_or(Goal::None, |goal| Goal::of(ratio <= goal));
            row.json["p50_ratio"] = json!(ratio);
        }
        bench.push_row(SECTION, row);
    }
}
