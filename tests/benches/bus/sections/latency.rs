//! One-way latency: one frame at a time, from before its send to after its receipt. It never has two frames under way.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::fail::Outcome;
use crate::link::System;
use crate::stats::median;
use crate::table::{Goal, Row, beside, bytes};
use crate::traffic::Broker;
use crate::words::Words;

const SECTION: &str = "latency";
const SYSTEMS: [System; 2] = [System::FloorB, System::Ours];
const P50_GOAL: f64 = 1.15;
const P99_GOAL: f64 = 1.3;
const RUN_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
struct Way {
    p50_us: f64,
    p99_us: f64,
}

pub(crate) fn measure(bench: &Bench) {
    for pinned in [false, true] {
        for payload_bytes in [64, 1024] {
            case(bench, payload_bytes, pinned);
        }
    }
}

fn case(bench: &Bench, payload_bytes: usize, pinned: bool) {
    let place = if pinned { "one CPU" } else { "unpinned" };
    let case = format!("{} {place}", bytes(payload_bytes));
    let systems = bench.at_hand(&SYSTEMS);
    let pin = pinned.then_some(bench.pin_cpu);
    let mut ways = vec![Vec::new(); systems.len()];
    for _ in 0..bench.options.runs() {
        for (system, ways) in systems.iter().zip(&mut ways) {
            let way = run(bench, *system, payload_bytes, pin);
            ways.push(bench.noted(&format!("{SECTION} {case} {}", system.label()), way));
        }
    }
    for (system, own) in systems.iter().zip(&ways) {
        let p50 = median(own.iter().flatten().map(|way| way.p50_us));
        let p99 = median(own.iter().flatten().map(|way| way.p99_us));
        let mut row = Row {
            case: case.clone(),
            system: system.label().to_owned(),
            figure: format!("p50 {p50:.1} us  p99 {p99:.1} us"),
            json: json!({ "p50_us": p50, "p99_us": p99 }),
            ..Row::default()
        };
        if system.is_ours() {
            let pairs = || own.iter().zip(&ways[0]).filter_map(|(own, floor)| (*own).zip(*floor));
            let p50 = median(pairs().map(|(own, floor)| own.p50_us / floor.p50_us));
            let p99 = median(pairs().map(|(own, floor)| own.p99_us / floor.p99_us));
            row.ratio = format!(
                "b: {}, {}",
                beside("p50", p50, "<=", Some(P50_GOAL)),
                beside("p99", p99, "<=", Some(P99_GOAL)),
            );
            row.goal = Goal::of(p50 <= P50_GOAL && p99 <= P99_GOAL);
            row.json["p50_ratio"] = json!(p50);
            row.json["p99_ratio"] = json!(p99);
        }
        bench.row(SECTION, row);
    }
}

fn run(bench: &Bench, system: System, payload_bytes: usize, pin: Option<usize>) -> Outcome<Way> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, system, &dir, pin)?;
    let pings = if bench.options.quick { 4_000 } else { 12_000 };
    let mut words = Words::new()
        .with("system", system.label())
        .with("socket", broker.socket.display())
        .with("side", dir.join("side.sock").display())
        .with("bytes", payload_bytes)
        .with("warmup", pings / 10)
        .with("frames", pings);
    if let Some(cpu) = pin {
        words = words.with("pin", cpu);
    }
    let deadline = Instant::now() + RUN_MAX;
    let ponger = bench.nursery.spawn("ponger", &words)?;
    ponger.report(deadline)?;
    let mut pinger = bench.nursery.spawn("pinger", &words)?;
    pinger.report(deadline)?;
    pinger.tell("go")?;
    let report = ponger.report(deadline)?;
    let lost: u64 = report.need("lost")?;
    if lost > 0 {
        return crate::fail::fail(format!("lost {lost} of {pings} frames that went one at a time"));
    }
    Ok(Way { p50_us: report.need::<f64>("p50")? / 1e3, p99_us: report.need::<f64>("p99")? / 1e3 })
}
