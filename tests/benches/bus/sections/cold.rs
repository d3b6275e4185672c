//! The first frame on a machine where no daemon runs. It never leaves the daemon behind that the first client started.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use serde_json::json;

use crate::bench::Bench;
use crate::fail::{Outcome, fail};
use crate::link::System;
use crate::stats::{median, spread};
use crate::table::{Goal, Row};
use crate::words::Words;

const SECTION: &str = "cold";
const GOAL_MS: f64 = 30.0;
const START_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(5);

pub(crate) fn measure(bench: &Bench) {
    let Some(daemon) = &bench.daemon else {
        return;
    };
    let starts = if bench.options.quick { 8 } else { 20 };
    let times: Vec<f64> = (0..starts).filter_map(|_| bench.noted(SECTION, run(bench, daemon))).collect();
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
    bench.row(SECTION, row);
}

fn run(bench: &Bench, daemon: &Path) -> Outcome<f64> {
    let socket = bench.fresh_dir()?.join("bus.sock");
    let words = Words::new().with("socket", socket.display());
    let client = bench.nursery.spawn_with("cold", &words, &[], |command| {
        command.env("BROADCASTERD", daemon);
        Ok(())
    })?;
    let report = client.report(Instant::now() + START_MAX);
    // Whatever the client says: if a daemon answers there, it is ours to end.
    let stopped = stop(bench, daemon, &socket);
    let took_ns: f64 = report?.need("took")?;
    stopped?;
    Ok(took_ns / 1e6)
}

fn stop(bench: &Bench, daemon: &Path, socket: &Path) -> Outcome<()> {
    let conn = UnixStream::connect(socket)?;
    let stray = bench.nursery.adopt(socket_peercred(&conn)?.pid)?;
    drop(conn);
    let status = Command::new(daemon)
        .args(["stop", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return fail(format!("`stop` failed: {status}"));
    }
    if !stray.ends_within(STOP_MAX)? {
        return fail(format!("the daemon did not end within {STOP_MAX:?} of `stop`"));
    }
    Ok(())
}
