//! Publishing on one channel, and opening channels, next to 10,000 other channels and 10,000 patterns that cover one of those each.

use std::time::Instant;

use serde_json::json;

use crate::bench::Bench;
use crate::error::Result;
use crate::fields::Fields;
use crate::stats::{median, spread};
use crate::system::System;
use crate::table::{Goal, Row};
use crate::traffic::{Broker, Crowd, Plan, READY_MAX, Traffic, calibrate, run};

const SECTION: &str = "patterns";
const PAYLOAD_BYTES: usize = 64;
const CROWD: usize = 10_000;
/// Channels that are opened one after the other. Each takes a round trip.
const OPENED: usize = 500;

/// What the other channels and patterns may cost. Nothing, but the runs differ by as much.
const SPEED_GOAL: f64 = 0.9;
const OPEN_GOAL: f64 = 1.5;

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_none() {
        return;
    }
    let mut alone = Plan::new(System::OursBatched, PAYLOAD_BYTES, 1, 1);
    if bench.ok_or_record(SECTION, calibrate(bench, &mut alone)).is_none() {
        return;
    }
    let crowded = Plan { crowd: CROWD, ..alone };
    let (mut published, mut opened) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.runs() {
        let turn = run(bench, &alone).and_then(|alone| Ok([alone, run(bench, &crowded)?]));
        published.extend(bench.ok_or_record(SECTION, turn).map(|turn| turn.map(|run| Traffic::deliveries_per_s(&run))));
        let turn = open(bench, 0).and_then(|alone| Ok([alone, open(bench, CROWD)?]));
        opened.extend(bench.ok_or_record(SECTION, turn));
    }
    push_rows(bench, "64 B 1->1", &published, |ratio| ratio >= SPEED_GOAL, |rate| format!("{:.2} M/s", rate / 1e6));
    push_rows(bench, "open a channel", &opened, |ratio| ratio <= OPEN_GOAL, |ns| format!("{:.1} us", ns / 1e3));
}

/// The typical time to open a channel, in nanoseconds, with so many other channels and patterns.
fn open(bench: &Bench, crowd: usize) -> Result<f64> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, System::Ours, &dir, None)?;
    let _crowd = Crowd::start(bench, &broker, crowd)?;
    let fields = Fields::new().with("socket", broker.socket.display()).with("count", OPENED);
    let opener = bench.children.spawn("opener", &fields)?;
    opener.report(Instant::now() + READY_MAX)?.require("typical")
}

/// A row for the turns without the crowd, and one with it.
fn push_rows(bench: &Bench, case: &str, turns: &[[f64; 2]], keeps: impl Fn(f64) -> bool, show: impl Fn(f64) -> String) {
    let ratio = median(turns.iter().map(|[alone, crowded]| crowded / alone));
    for (side, label) in ["alone", "crowded"].into_iter().enumerate() {
        let figures = || turns.iter().map(|turn| turn[side]);
        let (low, high) = spread(figures());
        let mut row = Row {
            case: format!("{case}, {label}"),
            system: System::Ours.label().to_owned(),
            figure: format!("{} ({}..{})", show(median(figures())), show(low), show(high)),
            json: json!({ "figure": median(figures()), "low": low, "high": high }),
            ..Row::default()
        };
        if side == 1 {
            row.ratio = format!("{ratio:.2} of alone");
            row.goal = Goal::of(keeps(ratio));
            row.json["ratio"] = json!(ratio);
        }
        bench.push_row(SECTION, row);
    }
}
