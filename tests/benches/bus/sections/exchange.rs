//! Round trips: a request and its reply, and a message with its receipt, against two messages that cross each other's way.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::error::Result;
use crate::exchange::Exchange;
use crate::fields::Fields;
use crate::procfs;
use crate::stats::{median, spread};
use crate::system::System;
use crate::table::{Goal, Row, ratio_with_goal};
use crate::traffic::Broker;

const SECTION: &str = "exchange";
const PAYLOAD_BYTES: usize = 64;
/// What a request may take in relation to two messages.
const REQUEST_GOAL: f64 = 1.1;
/// As for the latency: many short turns even out better than few long ones.
const TURNS_PER_RUN: usize = 3;
const RUN_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
struct Timing {
    p50_us: f64,
    p99_us: f64,
    cpu_s_per_million: f64,
}

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_none() {
        return;
    }
    for pinned in [false, true] {
        case(bench, pinned);
    }
}

fn case(bench: &Bench, pinned: bool) {
    let place = if pinned { "one CPU" } else { "unpinned" };
    let pin = pinned.then_some(bench.pin_cpu);
    let mut turns = Vec::new();
    for _ in 0..bench.options.runs() * TURNS_PER_RUN {
        let turn: Result<Vec<Timing>> = Exchange::ALL.into_iter().map(|exchange| run(bench, exchange, pin)).collect();
        turns.extend(bench.ok_or_record(&format!("{SECTION} {place}"), turn));
    }
    for (at, exchange) in Exchange::ALL.into_iter().enumerate() {
        let figures = |figure: fn(&Timing) -> f64| turns.iter().map(move |turn| figure(&turn[at]));
        let ratio = |figure: fn(&Timing) -> f64| median(turns.iter().map(|turn| figure(&turn[at]) / figure(&turn[0])));
        let (p50, p99) = (median(figures(|timing| timing.p50_us)), median(figures(|timing| timing.p99_us)));
        let (low, high) = spread(figures(|timing| timing.p50_us));
        let cpu = median(figures(|timing| timing.cpu_s_per_million));
        let mut row = Row {
            case: format!("{PAYLOAD_BYTES} B {place}"),
            system: exchange.label().to_owned(),
            figure: format!("p50 {p50:.1} us ({low:.1}..{high:.1})  p99 {p99:.1} us"),
            cpu: format!("{cpu:.3}"),
            json: json!({ "p50_us": p50, "p99_us": p99, "low": low, "high": high, "cpu_s_per_million": cpu }),
            ..Row::default()
        };
        if exchange != Exchange::Messages {
            let is_request = matches!(exchange, Exchange::Request | Exchange::MemoryRequest);
            let goal = is_request.then_some(REQUEST_GOAL);
            let (p50, cpu) = (ratio(|timing| timing.p50_us), ratio(|timing| timing.cpu_s_per_million));
            row.ratio = format!("messages: {}, cpu {cpu:.2}x", ratio_with_goal("p50", p50, "<=", goal));
            row.goal = goal.map_or(Goal::None, |goal| Goal::of(p50 <= goal));
            row.json["p50_ratio"] = json!(p50);
            row.json["cpu_ratio"] = json!(cpu);
        }
        bench.push_row(SECTION, row);
    }
}

fn run(bench: &Bench, exchange: Exchange, pin: Option<usize>) -> Result<Timing> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, System::Ours, &dir, pin)?;
    let calls = if bench.options.quick { 1_500 } else { 4_000 };
    let mut fields = Fields::new()
        .with("exchange", exchange.label())
        .with("socket", broker.socket.display())
        .with("bytes", PAYLOAD_BYTES)
        .with("warmup", calls / 10)
        .with("frames", calls);
    if let Some(cpu) = pin {
        fields = fields.with("pin", cpu);
    }
    let deadline = Instant::now() + RUN_MAX;
    let answerer = bench.children.spawn("answerer", &fields)?;
    answerer.report(deadline)?;
    let mut caller = bench.children.spawn("caller", &fields)?;
    caller.report(deadline)?;
    let pids = [&broker.process, &answerer, &caller].map(|process| process.pid);
    let cpu_before = procfs::cpu_ns_of(&pids);
    caller.command("go")?;
    let report = caller.report(deadline)?;
    let cpu_ns = procfs::cpu_ns_of(&pids).saturating_sub(cpu_before);
    Ok(Timing {
        p50_us: report.require::<f64>("p50")? / 1e3,
        p99_us: report.require::<f64>("p99")? / 1e3,
        cpu_s_per_million: cpu_ns as f64 / (calls + calls / 10) as f64 / 1e3,
    })
}
