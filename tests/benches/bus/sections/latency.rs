//! One-way latency: one frame at a time, from before its send to after its receipt. It never has two frames under way.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::fail::{Outcome, fail};
use crate::link::System;
use crate::procfs;
use crate::stats::median;
use crate::table::{Goal, Row, beside, bytes};
use crate::traffic::Broker;
use crate::words::Words;

const SECTION: &str = "latency";
const SYSTEMS: [System; 2] = [System::FloorB, System::Ours];
const P50_GOAL: f64 = 1.15;
const P99_GOAL: f64 = 1.3;
const CPU_GOAL: f64 = 1.3;
/// Waking an idle CPU takes what the host pleases; many short turns even that out better than few long ones.
const TURNS_PER_RUN: usize = 3;
const RUN_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
struct Way {
    p50_us: f64,
    p99_us: f64,
    cpu_s_per_million: f64,
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
    for _ in 0..bench.options.runs() * TURNS_PER_RUN {
        for (system, ways) in systems.iter().zip(&mut ways) {
            let way = run(bench, *system, payload_bytes, pin);
            ways.push(bench.noted(&format!("{SECTION} {case} {}", system.label()), way));
        }
    }
    for (system, own) in systems.iter().zip(&ways) {
        let typical = |figure: fn(&Way) -> f64| median(own.iter().flatten().map(figure));
        let (p50, p99) = (typical(|way| way.p50_us), typical(|way| way.p99_us));
        let cpu = typical(|way| way.cpu_s_per_million);
        let mut row = Row {
            case: case.clone(),
            system: system.label().to_owned(),
            figure: format!("p50 {p50:.1} us  p99 {p99:.1} us"),
            cpu: format!("{cpu:.3}"),
            json: json!({ "p50_us": p50, "p99_us": p99, "cpu_s_per_million": cpu }),
            ..Row::default()
        };
        if system.is_ours() {
            let ratio = |figure: fn(&Way) -> f64| {
                let turns = own.iter().zip(&ways[0]);
                median(turns.filter_map(|(own, floor)| Some(figure(own.as_ref()?) / figure(floor.as_ref()?))))
            };
            let (p50, p99) = (ratio(|way| way.p50_us), ratio(|way| way.p99_us));
            let cpu = ratio(|way| way.cpu_s_per_million);
            row.ratio = format!(
                "b: {}, {}, {}",
                beside("p50", p50, "<=", Some(P50_GOAL)),
                beside("p99", p99, "<=", Some(P99_GOAL)),
                beside("cpu", cpu, "<=", Some(CPU_GOAL)),
            );
            row.goal = Goal::of(p50 <= P50_GOAL && p99 <= P99_GOAL && cpu <= CPU_GOAL);
            row.json["p50_ratio"] = json!(p50);
            row.json["p99_ratio"] = json!(p99);
            row.json["cpu_ratio"] = json!(cpu);
        }
        bench.row(SECTION, row);
    }
}

fn run(bench: &Bench, system: System, payload_bytes: usize, pin: Option<usize>) -> Outcome<Way> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, system, &dir, pin)?;
    let pings = if bench.options.quick { 1_500 } else { 4_000 };
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
    let pids = [&broker.process, &ponger, &pinger].map(|process| process.pid);
    let cpu_before = procfs::cpu_ns_of(&pids);
    pinger.tell("go")?;
    let report = ponger.report(deadline)?;
    let cpu_ns = procfs::cpu_ns_of(&pids).saturating_sub(cpu_before);
    let (lost, bad): (u64, u64) = (report.need("lost")?, report.need("bad")?);
    if bad > 0 {
        return fail(format!("{bad} frames of wrong content or order"));
    }
    if lost > 0 {
        return fail(format!("lost {lost} of {pings} frames that went one at a time"));
    }
    Ok(Way {
        p50_us: report.need::<f64>("p50")? / 1e3,
        p99_us: report.need::<f64>("p99")? / 1e3,
        // Nanoseconds by frames, times a million, by a thousand million.
        cpu_s_per_million: cpu_ns as f64 / (pings + pings / 10) as f64 / 1e3,
    })
}
