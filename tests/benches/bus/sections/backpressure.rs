//! What backpressure costs a sender whose listeners keep up: the same rate with it and without it.

use serde_json::json;

use crate::bench::Bench;
use crate::error::Result;
use crate::sections::latency::{self, Latency};
use crate::stats::{median, spread};
use crate::system::System;
use crate::table::{Goal, Row, ratio_with_goal};
use crate::traffic::{Plan, Traffic, run};

const SECTION: &str = "backpressure";
const PAYLOAD_BYTES: usize = 64;
/// A rate that a listener sustains easily.
const FRAMES_PER_S: f64 = 100_000.0;
const SYSTEMS: [System; 2] = [System::Ours, System::Lossless];
/// No slowdown, but for the noise.
const GOAL: f64 = 1.05;
const CPU_GOAL: f64 = 1.1;
const TURNS_PER_RUN: usize = 3;

/// One run without backpressure, or with it.
struct Run {
    traffic: Traffic,
    latency: Latency,
}

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_none() {
        return;
    }
    let mut turns: Vec<[Run; 2]> = Vec::new();
    for _ in 0..bench.options.runs() * TURNS_PER_RUN {
        let [off, on] = SYSTEMS.map(|system| -> Result<Run> {
            let plan = Plan {
                frames_per_sender: (FRAMES_PER_S * bench.options.run_time().as_secs_f64()) as u64,
                rate: Some(FRAMES_PER_S),
                timed: true,
                ..Plan::new(system, PAYLOAD_BYTES, 1, 1)
            };
            let traffic = run(bench, &plan)?;
            Ok(Run { traffic, latency: latency::run(bench, system, PAYLOAD_BYTES, Some(bench.pin_cpu))? })
        });
        turns.extend(bench.ok_or_record(SECTION, off.and_then(|off| Ok([off, on?]))));
    }
    let rows = |case, figure: fn(&Run) -> f64, unit, goal| push_rows(bench, case, &turns, figure, unit, goal);
    rows("100,000/s, duration", |run| run.traffic.wall_s * 1e3, "ms", Some(GOAL));
    rows("100,000/s, send p99.9", |run| run.traffic.p999_send.as_secs_f64() * 1e6, "us", None);
    rows("100,000/s, cpu s/M", |run| run.traffic.cpu_s_per_million(), "", Some(CPU_GOAL));
    rows("latency p50, one CPU", |run| run.latency.p50_us, "us", Some(GOAL));
}

fn push_rows(bench: &Bench, case: &str, turns: &[[Run; 2]], figure: fn(&Run) -> f64, unit: &str, goal: Option<f64>) {
    let ratio = median(turns.iter().map(|[off, on]| figure(on) / figure(off)));
    for (side, system) in SYSTEMS.into_iter().enumerate() {
        let figures = || turns.iter().map(|turn| figure(&turn[side]));
        let (low, high) = spread(figures());
        let typical = median(figures());
        let lost: u64 = turns.iter().map(|turn| turn[side].traffic.lost).sum();
        let mut row = Row {
            case: case.to_owned(),
            system: system.label().to_owned(),
            figure: format!("{typical:.3} {unit} ({low:.3}..{high:.3})"),
            lost: lost.to_string(),
            json: json!({ "figure": typical, "low": low, "high": high, "lost": lost }),
            ..Row::default()
        };
        if system.is_lossless() {
            row.ratio = ratio_with_goal("without:", ratio, "<=", goal);
            row.goal = goal.map_or(Goal::None, |goal| Goal::of(ratio <= goal && lost == 0));
            row.json["ratio"] = json!(ratio);
        }
        bench.push_row(SECTION, row);
    }
}
