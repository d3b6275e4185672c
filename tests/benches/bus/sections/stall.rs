//! Two listeners, one of them stopped by signal, beside two that both run. The floors are never asked: they block.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::fail::{Outcome, fail};
use crate::link::System;
use crate::stats::median;
use crate::table::{Goal, Row};
use crate::traffic::{Plan, Traffic, run};

const SECTION: &str = "stall";
const PAYLOAD_BYTES: usize = 64;
/// A pace that a listener keeps easily, so that any loss is the stalled one's doing.
const FRAMES_PER_S: f64 = 100_000.0;
/// A sender that waited for the stalled listener would have waited for as long as it slept.
const LONGEST_SEND_MS_GOAL: f64 = 50.0;

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_none() {
        return;
    }
    let seconds = if bench.options.quick { 0.5 } else { 1.5 };
    let awake = Plan {
        frames_per_sender: (FRAMES_PER_S * seconds) as u64,
        rate: Some(FRAMES_PER_S),
        timed: true,
        ..Plan::new(System::Ours, PAYLOAD_BYTES, 1, 2)
    };
    let stalled = Plan { stalled: true, ..awake };
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.options.runs() {
        for (plan, runs) in [awake, stalled].iter().zip(&mut runs) {
            runs.extend(bench.noted(SECTION, run(bench, plan)));
        }
    }
    let [awake, stalled] = runs;
    healthy(bench, "both awake", &awake);
    healthy(bench, "one stalled", &stalled);
    bench.noted(SECTION, told(bench, &stalled));
}

/// The sender and the first listener, which is never stopped.
fn healthy(bench: &Bench, case: &str, runs: &[Traffic]) {
    let ms = |send: Duration| send.as_secs_f64() * 1e3;
    let p999 = median(runs.iter().map(|traffic| ms(traffic.p999_send)));
    let typical = median(runs.iter().map(|traffic| ms(traffic.longest_send)));
    let worst = runs.iter().map(|traffic| ms(traffic.longest_send)).fold(0.0, f64::max);
    let lost: u64 = runs.iter().filter_map(|traffic| Some(traffic.sent - traffic.heard.first()?.received)).sum();
    let row = Row {
        case: case.to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("send p99.9 {p999:.3} max {typical:.2} (..{worst:.2}) ms"),
        lost: lost.to_string(),
        ratio: format!("(<={LONGEST_SEND_MS_GOAL} ms, healthy one loses 0)"),
        goal: Goal::of(worst <= LONGEST_SEND_MS_GOAL && lost == 0),
        json: json!({ "p999_send_ms": p999, "longest_send_ms": typical, "worst": worst, "healthy_lost": lost }),
        ..Row::default()
    };
    bench.row(SECTION, row);
}

/// What the stalled listener learns once it runs again.
fn told(bench: &Bench, runs: &[Traffic]) -> Outcome<()> {
    let Some((traffic, heard)) = runs.last().and_then(|last| Some((last, last.heard.last()?))) else {
        return fail("no run with a stalled listener");
    };
    let exact = runs.iter().all(|traffic| traffic.unaccounted == 0 && traffic.bad == 0) && heard.unsized_holes == 0;
    let row = Row {
        case: "the stalled one".to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("{} received + {} told lost", heard.received, heard.reported),
        ratio: format!("of {} accepted (exact)", traffic.sent),
        goal: Goal::of(exact),
        json: json!({
            "received": heard.received,
            "reported": heard.reported,
            "accepted": traffic.sent,
        }),
        ..Row::default()
    };
    bench.row(SECTION, row);
    Ok(())
}
