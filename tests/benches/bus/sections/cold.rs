//! The time to the first message when no daemon is running. The daemon that the client starts is stopped after each run.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::error::Result;
use crate::fields::Fields;
use crate::stats::{median, spread};
use crate::system::System;
use crate::table::{Goal, Row};
use crate::traffic::stop_started;

const SECTION: &str = "cold";
const GOAL_MS: f64 = 30.0;
const START_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(5);

pub(crate) fn measure(bench: &Bench) {
    let Some(daemon) = &bench.daemon else {
        return;
    };
    let starts = if bench.options.quick { 8 } else { 20 };
    let times: Vec<f64> = (0..starts).filter_map(|_| bench.ok_or_record(SECTION, run(bench, daemon))).collect();
    let ms = median(times.iter().copied());
    let (low, high) = spread(times.iter().copied());
    let row = Row {
        case: "first send + recv".to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("{ms:.1} ms ({low:.1}..{high:.1})"),
        ratio: format!("(<={GOAL_MS} ms)"),
        goal: Goal::of(ms <= GOAL_MS),
        json: json!({ "ms": ms, "low": low, "high": high, "starts": times.len() }),
        ..Row::default()
    };
    bench.push_row(SECTION, row);
}

fn run(bench: &Bench, daemon: &Path) -> Result<f64> {
    let socket = bench.fresh_dir()?.join("bus.sock");
    let fields = Fields::new().with("socket", socket.display());
    let client = bench.children.spawn_with("cold", &fields, &[], |command| {
        command.env("BROADCASTERD", daemon);
        Ok(())
    })?;
    let report = client.report(Instant::now() + START_MAX);
    // Stop the daemon even if the client failed.
    let stopped = stop_started(bench, daemon, &socket, STOP_MAX);
    let took_ns: f64 = report?.require("took")?;
    stopped?;
    Ok(took_ns / 1e6)
}
