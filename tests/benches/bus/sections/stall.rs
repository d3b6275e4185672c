//! Two listeners, one of them suspended by a signal, compared with two that both run. The floors would block and are left
//! out.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::error::{Result, fail};
use crate::stats::median;
use crate::system::System;
use crate::table::{Goal, Row};
use crate::traffic::{Plan, Traffic, run};

const SECTION: &str = "stall";
const PAYLOAD_BYTES: usize = 64;
/// A rate that a listener sustains easily, so that any loss is caused by the stalled one.
const FRAMES_PER_S: f64 = 100_000.0;
/// A sender that waits for the stalled listener takes much longer.
const LONGEST_SEND_MS_GOAL: f64 = 50.0;

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_none() {
        return;
    }
    let seconds = if bench.options.quick { 0.5 } else { 1.5 };
    let running = Plan {
        frames_per_sender: (FRAMES_PER_S * seconds) as u64,
        rate: Some(FRAMES_PER_S),
        timed: true,
        ..Plan::new(System::Ours, PAYLOAD_BYTES, 1, 2)
    };
    let stalled = Plan { stalled: true, ..running };
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.options.runs() {
        for (plan, runs) in [running, stalled].iter().zip(&mut runs) {
            runs.extend(bench.ok_or_record(SECTION, run(bench, plan)));
        }
    }
    let [running, stalled] = runs;
    healthy_row(bench, "both running", &running);
    healthy_row(bench, "one stalled", &stalled);
    bench.ok_or_record(SECTION, stalled_row(bench, &stalled));
}

/// The figures of the sender and of the first listener, which always runs.
fn healthy_row(bench: &Bench, case: &str, runs: &[Traffic]) {
    let ms = |send: Duration| send.as_secs_f64() * 1e3;
    let p999 = median(runs.iter().map(|traffic| ms(traffic.p999_send)));
    let typical = median(runs.iter().map(|traffic| ms(traffic.longest_send)));
    let worst = runs.iter().map(|traffic| ms(traffic.longest_send)).fold(0.0, f64::max);
    let lost: u64 = runs.iter().filter_map(|traffic| Some(traffic.sent - traffic.listeners.first()?.received)).sum();
    let row = Row {
        case: case.to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("send p99.9 {p999:.3} max {typical:.2} (..{worst:.2}) ms"),
        lost: lost.to_string(),
        ratio: format!("(<={LONGEST_SEND_MS_GOAL} ms, running listener loses 0)"),
        goal: Goal::of(worst <= LONGEST_SEND_MS_GOAL && lost == 0),
        json: json!({ "p999_send_ms": p999, "longest_send_ms": typical, "worst": worst, "healthy_lost": lost }),
        ..Row::default()
    };
    bench.push_row(SECTION, row);
}

/// The loss that the stalled listener reports after it resumes.
fn stalled_row(bench: &Bench, runs: &[Traffic]) -> Result<()> {
    let Some((traffic, report)) = runs.last().and_then(|last| Some((last, last.listeners.last()?))) else {
        return fail("no run with a stalled listener");
    };
    let exact = runs.iter().all(|traffic| traffic.unaccounted == 0 && traffic.bad == 0) && report.uncounted_gaps == 0;
    let row = Row {
        case: "stalled listener".to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("{} received + {} lost", report.received, report.reported_lost),
        ratio: format!("of {} accepted (exact)", traffic.sent),
        goal: Goal::of(exact),
        json: json!({
            "received": report.received,
            "reported": report.reported_lost,
            "accepted": traffic.sent,
        }),
        ..Row::default()
    };
    bench.push_row(SECTION, row);
    Ok(())
}
