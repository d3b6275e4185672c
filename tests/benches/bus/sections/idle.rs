//! What the daemon costs while nothing happens. It never sends a frame.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::fail::Outcome;
use crate::link::System;
use crate::nursery::Process;
use crate::procfs;
use crate::table::{Goal, Row};
use crate::traffic::Broker;
use crate::words::Words;

const SECTION: &str = "idle";
const PROCESSES: usize = 8;
const LISTENERS_PER_PROCESS: usize = 125;
const LISTENERS: usize = PROCESSES * LISTENERS_PER_PROCESS;
const CONNECT_MAX: Duration = Duration::from_secs(30);

const RESIDENT_KIB_GOAL: f64 = 4096.0;
const PER_LISTENER_KIB_GOAL: f64 = 4.0;

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_some() {
        bench.noted(SECTION, run(bench));
    }
}

fn run(bench: &Bench) -> Outcome<()> {
    let window = Duration::from_secs(if bench.options.quick { 1 } else { 3 });
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, System::Ours, &dir, None)?;
    let pid = broker.process.pid;

    let alone = procfs::resident_kib(pid)? as f64;
    fact(bench, "resident, nobody there", alone, "KiB", Some(RESIDENT_KIB_GOAL));
    let wake_ups = wake_ups(pid, window);
    fact(bench, "wake-ups, nobody there", wake_ups, "", Some(0.0));

    let words = Words::new().with("socket", broker.socket.display()).with("count", LISTENERS_PER_PROCESS);
    let deadline = Instant::now() + CONNECT_MAX;
    let idlers: Vec<Process> = (0..PROCESSES).map(|_| bench.nursery.spawn("idlers", &words)).collect::<Outcome<_>>()?;
    for idlers in &idlers {
        idlers.report(deadline)?;
    }
    let crowded = procfs::resident_kib(pid)? as f64;
    fact(bench, &format!("resident, {LISTENERS} listeners"), crowded, "KiB", None);
    let each = (crowded - alone) / LISTENERS as f64;
    fact(bench, "resident per listener", each, "KiB", Some(PER_LISTENER_KIB_GOAL));
    // Deadlines of the handshakes may still pass in the first window.
    let first = self::wake_ups(pid, window);
    fact(bench, "wake-ups after joining", first, "", None);
    let settled = self::wake_ups(pid, window);
    fact(bench, &format!("wake-ups, {LISTENERS} listeners"), settled, "", Some(0.0));
    Ok(())
}

fn wake_ups(pid: u32, window: Duration) -> f64 {
    let before = procfs::sleeps(pid);
    thread::sleep(window);
    (procfs::sleeps(pid) - before) as f64
}

fn fact(bench: &Bench, case: &str, figure: f64, unit: &str, goal: Option<f64>) {
    let row = Row {
        case: case.to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("{} {unit}", (figure * 100.0).round() / 100.0).trim_end().to_owned(),
        ratio: goal.map_or(String::new(), |goal| format!("(<={})", format!("{goal} {unit}").trim_end())),
        goal: goal.map_or(Goal::None, |goal| Goal::of(figure <= goal)),
        json: json!({ "figure": figure, "unit": unit }),
        ..Row::default()
    };
    bench.row(SECTION, row);
}
