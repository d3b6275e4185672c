//! The cost of an idle daemon: memory and wake-ups. No frame is sent.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::Bench;
use crate::children::Process;
use crate::error::Result;
use crate::fields::Fields;
use crate::procfs;
use crate::system::System;
use crate::table::{Goal, Row};
use crate::traffic::Broker;

const SECTION: &str = "idle";
const PROCESSES: usize = 8;
const LISTENERS_PER_PROCESS: usize = 125;
const LISTENERS: usize = PROCESSES * LISTENERS_PER_PROCESS;
const CONNECT_MAX: Duration = Duration::from_secs(30);

const RESIDENT_KIB_GOAL: f64 = 4096.0;
const PER_LISTENER_KIB_GOAL: f64 = 4.0;

pub(crate) fn measure(bench: &Bench) {
    if bench.daemon.is_some() {
        bench.ok_or_record(SECTION, run(bench));
    }
}

fn run(bench: &Bench) -> Result<()> {
    let window = Duration::from_secs(if bench.options.quick { 1 } else { 3 });
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, System::Ours, &dir, None)?;
    let pid = broker.process.pid;

    let without_clients = procfs::resident_kib(pid)? as f64;
    push_figure(bench, "resident, no clients", without_clients, "KiB", Some(RESIDENT_KIB_GOAL));
    let before = wake_ups(pid, window);
    push_figure(bench, "wake-ups, no clients", before, "", Some(0.0));

    let fields = Fields::new().with("socket", broker.socket.display()).with("count", LISTENERS_PER_PROCESS);
    let deadline = Instant::now() + CONNECT_MAX;
    let idlers: Vec<Process> =
        (0..PROCESSES).map(|_| bench.children.spawn("idlers", &fields)).collect::<Result<_>>()?;
    for process in &idlers {
        process.report(deadline)?;
    }
    let with_listeners = procfs::resident_kib(pid)? as f64;
    push_figure(bench, &format!("resident, {LISTENERS} listeners"), with_listeners, "KiB", None);
    let each = (with_listeners - without_clients) / LISTENERS as f64;
    push_figure(bench, "resident per listener", each, "KiB", Some(PER_LISTENER_KIB_GOAL));
    // The first window may still contain handshake timeouts.
    let first = wake_ups(pid, window);
    push_figure(bench, "wake-ups after connecting", first, "", None);
    let settled = wake_ups(pid, window);
    push_figure(bench, &format!("wake-ups, {LISTENERS} listeners"), settled, "", Some(0.0));
    Ok(())
}

fn wake_ups(pid: u32, window: Duration) -> f64 {
    let before = procfs::voluntary_switches(pid);
    thread::sleep(window);
    (procfs::voluntary_switches(pid) - before) as f64
}

fn push_figure(bench: &Bench, case: &str, figure: f64, unit: &str, goal: Option<f64>) {
    let row = Row {
        case: case.to_owned(),
        system: System::Ours.label().to_owned(),
        figure: format!("{} {unit}", (figure * 100.0).round() / 100.0).trim_end().to_owned(),
        ratio: goal.map_or(String::new(), |goal| format!("(<={})", format!("{goal} {unit}").trim_end())),
        goal: goal.map_or(Goal::None, |goal| Goal::of(figure <= goal)),
        json: json!({ "figure": figure, "unit": unit }),
        ..Row::default()
    };
    bench.push_row(SECTION, row);
}
