//! The time until a thousand client processes are back after `kill -9` of their daemon, which one of them replaces.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::bench::Bench;
use crate::children::Process;
use crate::clock;
use crate::error::Result;
use crate::fields::Fields;
use crate::stats::{median, quantile};
use crate::system::System;
use crate::table::{Goal, Row};
use crate::traffic::{Broker, stop_started};

const SECTION: &str = "recovery";
const CLIENTS: usize = 1000;
/// Processes that start at a time.
const STARTING: usize = 50;
const READY_MAX: Duration = Duration::from_secs(60);
const BACK_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(60);
/// From the first client that is back, when the next daemon is ready at the latest, to the last one.
const GOAL_MS: f64 = 1000.0;

/// Times in milliseconds.
struct Recovery {
    /// From the kill to the first client that is back.
    first: f64,
    /// From the first one to half of them, and to all.
    half: f64,
    all: f64,
    /// Receives that failed.
    errors: u64,
}

pub(crate) fn measure(bench: &Bench) {
    let Some(daemon) = &bench.daemon else {
        return;
    };
    let runs: Vec<Recovery> =
        (0..bench.options.runs()).filter_map(|_| bench.ok_or_record(SECTION, run(bench, daemon))).collect();
    let of = |value: fn(&Recovery) -> f64| median(runs.iter().map(value));
    let (first, half, all) = (of(|run| run.first), of(|run| run.half), of(|run| run.all));
    let worst = runs.iter().map(|run| run.all).fold(0.0, f64::max);
    let errors: u64 = runs.iter().map(|run| run.errors).sum();
    let row = Row {
        case: format!("{CLIENTS} processes"),
        system: System::Ours.label().to_owned(),
        figure: format!("first {first:.0} ms, then half {half:.0}, all {all:.0} (..{worst:.0})"),
        lost: errors.to_string(),
        ratio: format!("(all <={GOAL_MS} ms, 0 failed receives)"),
        goal: Goal::of(all <= GOAL_MS && errors == 0),
        json: json!({ "first_ms": first, "half_ms": half, "all_ms": all, "worst_ms": worst, "errors": errors }),
        ..Row::default()
    };
    bench.push_row(SECTION, row);
}

fn run(bench: &Bench, daemon: &Path) -> Result<Recovery> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, System::Ours, &dir, None)?;
    let fields = Fields::new().with("socket", broker.socket.display());
    let mut clients: Vec<Process> = Vec::with_capacity(CLIENTS);
    let ready_by = Instant::now() + READY_MAX;
    while clients.len() < CLIENTS {
        let begun = clients.len();
        for _ in 0..STARTING.min(CLIENTS - begun) {
            clients.push(bench.children.spawn_with("survivor", &fields, &[], |command| {
                command.env("BROADCASTERD", daemon);
                Ok(())
            })?);
        }
        for client in &clients[begun..] {
            client.report(ready_by)?;
        }
    }
    let killed_at = clock::now();
    broker.process.signal(Signal::KILL)?;
    let outcome = collect(&clients, killed_at);
    // Stop the next daemon even if a client failed. No client may start another one after that.
    drop(clients);
    let stopped = stop_started(bench, daemon, &broker.socket, STOP_MAX);
    let recovery = outcome?;
    stopped?;
    Ok(recovery)
}

fn collect(clients: &[Process], killed_at: u64) -> Result<Recovery> {
    let deadline = Instant::now() + BACK_MAX;
    let (mut errors, mut back) = (0, Vec::with_capacity(clients.len()));
    for client in clients {
        let report = client.report(deadline)?;
        errors += report.require::<u64>("errors")?;
        back.push(report.require::<u64>("back")?.saturating_sub(killed_at));
    }
    back.sort_unstable();
    let ms = |ns: u64| ns as f64 / 1e6;
    let first = quantile(&back, 0.0);
    let [half, all] = [0.5, 1.0].map(|share| ms(quantile(&back, share) - first));
    Ok(Recovery { first: ms(first), half, all, errors })
}
