//! One-way latency, from before the send to after the receipt. Only one frame is in flight at a time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::error::{Result, fail};
use crate::fields::Fields;
use crate::procfs;
use crate::stats::median;
use crate::system::System;
use crate::table::{Goal, Row, bytes, ratio_with_goal};
use crate::traffic::Broker;

const SECTION: &str = "latency";
const SYSTEMS: [System; 2] = [System::FloorB, System::Ours];
const P50_GOAL: f64 = 1.15;
const P99_GOAL: f64 = 1.3;
const CPU_GOAL: f64 = 1.3;
/// The time to wake an idle CPU depends on the host. Many short turns even it out better than few long ones.
const TURNS_PER_RUN: usize = 3;
const RUN_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_s_per_million: f64,
}

pub(crate) fn measure(bench: &Bench) {
    for pinned in [false, true] {
        for payload_bytes in [64, 1024] {
            case(bench, payload_bytes, pinned);
        }
    }
}

fn case(bench: &Bench, payload_bytes: usize, pinned: bool) {
    for (mut row, system, Ratios { p50, p99, cpu }) in compare(bench, SECTION, &SYSTEMS, payload_bytes, pinned) {
        if system.is_ours() {
            row.ratio = format!(
                "b: {}, {}, {}",
                ratio_with_goal("p50", p50, "<=", Some(P50_GOAL)),
                ratio_with_goal("p99", p99, "<=", Some(P99_GOAL)),
                ratio_with_goal("cpu", cpu, "<=", Some(CPU_GOAL)),
            );
            row.goal = Goal::of(p50 <= P50_GOAL && p99 <= P99_GOAL && cpu <= CPU_GOAL);
            row.json["p50_ratio"] = json!(p50);
            row.json["p99_ratio"] = json!(p99);
            row.json["cpu_ratio"] = json!(cpu);
        }
        bench.push_row(SECTION, row);
    }
}

/// Latencies and times relative to those of another system, as medians of the ratios within turns.
pub(crate) struct Ratios {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
}

/// Lets the systems take turns. Returns for each of them its row, to which the caller adds what it takes from the ratios to the first system.
pub(crate) fn compare(
    bench: &Bench,
    section: &str,
    systems: &[System],
    payload_bytes: usize,
    pinned: bool,
) -> Vec<(Row, System, Ratios)> {
    let place = if pinned { "one CPU" } else { "unpinned" };
    let case = format!("{} {place}", bytes(payload_bytes));
    let systems = bench.available(systems);
    let pin = pinned.then_some(bench.pin_cpu);
    let mut latencies = vec![Vec::new(); systems.len()];
    for _ in 0..bench.options.runs() * TURNS_PER_RUN {
        for (system, own) in systems.iter().zip(&mut latencies) {
            let latency = run(bench, *system, payload_bytes, pin);
            own.push(bench.ok_or_record(&format!("{section} {case} {}", system.label()), latency));
        }
    }
    let row = |(system, own): (System, &Vec<Option<Latency>>)| {
        let typical = |figure: fn(&Latency) -> f64| median(own.iter().flatten().map(figure));
        let (p50, p99) = (typical(|latency| latency.p50_us), typical(|latency| latency.p99_us));
        let cpu = typical(|latency| latency.cpu_s_per_million);
        let row = Row {
            case: case.clone(),
            system: system.label().to_owned(),
            figure: format!("p50 {p50:.1} us  p99 {p99:.1} us"),
            cpu: format!("{cpu:.3}"),
            json: json!({ "p50_us": p50, "p99_us": p99, "cpu_s_per_million": cpu }),
            ..Row::default()
        };
        let ratio = |figure: fn(&Latency) -> f64| {
            let turns = own.iter().zip(&latencies[0]);
            median(turns.filter_map(|(own, floor)| Some(figure(own.as_ref()?) / figure(floor.as_ref()?))))
        };
        let (p50, p99) = (ratio(|latency| latency.p50_us), ratio(|latency| latency.p99_us));
        (row, system, Ratios { p50, p99, cpu: ratio(|latency| latency.cpu_s_per_million) })
    };
    systems.into_iter().zip(&latencies).map(row).collect()
}

pub(crate) fn run(bench: &Bench, system: System, payload_bytes: usize, pin: Option<usize>) -> Result<Latency> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, system, &dir, pin)?;
    let pings = if bench.options.quick { 1_500 } else { 4_000 };
    let mut fields = Fields::new()
        .with("system", system.label())
        .with("socket", broker.socket.display())
        .with("back_channel", dir.join("back.sock").display())
        .with("bytes", payload_bytes)
        .with("warmup", pings / 10)
        .with("frames", pings);
    if let Some(cpu) = pin {
        fields = fields.with("pin", cpu);
    }
    let deadline = Instant::now() + RUN_MAX;
    let ponger = bench.children.spawn("ponger", &fields)?;
    ponger.report(deadline)?;
    let mut pinger = bench.children.spawn("pinger", &fields)?;
    pinger.report(deadline)?;
    let pids = [&broker.process, &ponger, &pinger].map(|process| process.pid);
    let cpu_before = procfs::cpu_ns_of(&pids);
    pinger.command("go")?;
    let report = ponger.report(deadline)?;
    let cpu_ns = procfs::cpu_ns_of(&pids).saturating_sub(cpu_before);
    let (lost, bad): (u64, u64) = (report.require("lost")?, report.require("bad")?);
    if bad > 0 {
        return fail(format!("{bad} frames with wrong content or order"));
    }
    if lost > 0 {
        return fail(format!("lost {lost} of {pings} frames although only one was in flight at a time"));
    }
    Ok(Latency {
        p50_us: report.require::<f64>("p50")? / 1e3,
        p99_us: report.require::<f64>("p99")? / 1e3,
        // Nanoseconds per frame are thousandths of a second per million frames.
        cpu_s_per_million: cpu_ns as f64 / (pings + pings / 10) as f64 / 1e3,
    })
}
