//! One run: a broker, its listeners, its senders and a number of frames. Every run has new processes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;

use crate::bench::Bench;
use crate::children::Process;
use crate::error::{Result, fail};
use crate::fields::Fields;
use crate::procfs;
use crate::system::System;

pub(crate) const READY_MAX: Duration = Duration::from_secs(20);
const RUN_MAX: Duration = Duration::from_secs(30);
/// An end frame can be lost like any other. It is repeated at this interval until every listener has received it.
const END_EVERY: Duration = Duration::from_millis(250);

/// A broker process and its socket.
pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

impl Broker {
    pub(crate) fn start(bench: &Bench, system: System, dir: &Path, pin: Option<usize>) -> Result<Self> {
        let socket = dir.join("bus.sock");
        let mut fields = Fields::new();
        if let Some(cpu) = pin {
            fields = fields.with("pin", cpu);
        }
        let log = dir.join("broker.log");
        let errors = File::create(&log)?;
        let process = if system.is_ours() {
            let Some(daemon) = &bench.daemon else {
                return fail("no daemon to measure");
            };
            let run = ["--", "", "run", "--socket", ""].map(OsStr::new);
            let run = [run[0], daemon.as_os_str(), run[2], run[3], socket.as_os_str()];
            bench.children.spawn_with("exec", &fields, &run, |command| {
                command.stderr(errors);
                Ok(())
            })?
        } else {
            let fields = fields.with("system", system.label()).with("socket", socket.display());
            bench.children.spawn_with("broker", &fields, &[], |command| {
                command.stderr(errors);
                Ok(())
            })?
        };
        match process.line(Instant::now() + READY_MAX).and_then(|line| process.parse_report(&line)) {
            Ok(_) => Ok(Self { process, socket }),
            Err(error) => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its log is empty");
                fail(format!("{} broker: {error}: {last}", system.label()))
            }
        }
    }
}

/// A process that holds channels and patterns which the run does not use.
pub(crate) struct Crowd {
    _process: Option<Process>,
}

impl Crowd {
    /// `count` channels, and as many patterns that cover one of them each.
    pub(crate) fn start(bench: &Bench, broker: &Broker, count: usize) -> Result<Self> {
        if count == 0 {
            return Ok(Self { _process: None });
        }
        let fields = Fields::new().with("socket", broker.socket.display()).with("count", count);
        let process = bench.children.spawn("crowd", &fields)?;
        process.report(Instant::now() + READY_MAX)?;
        Ok(Self { _process: Some(process) })
    }
}

/// Stops the daemon that a client has started on `socket`, and waits for at most `stop_max` until it has ended.
pub(crate) fn stop_started(bench: &Bench, daemon: &Path, socket: &Path, stop_max: Duration) -> Result<()> {
    let conn = UnixStream::connect(socket)?;
    let started = bench.children.adopt(socket_peercred(&conn)?.pid)?;
    drop(conn);
    let stop = Command::new(daemon).args(["stop", "--socket"]).arg(socket).stdin(Stdio::null()).output()?;
    if !stop.status.success() {
        let reason = String::from_utf8_lossy(&stop.stderr);
        return fail(format!("`stop` failed: {}: {}", stop.status, reason.trim()));
    }
    if !started.ends_within(stop_max)? {
        return fail(format!("the daemon was still running {stop_max:?} after `stop`"));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) system: System,
    pub(crate) payload_bytes: usize,
    pub(crate) senders: usize,
    pub(crate) listeners: usize,
    pub(crate) frames_per_sender: u64,
    /// Frames per second and sender. Without it, senders are not paced.
    pub(crate) rate: Option<f64>,
    /// Measure the duration of each send.
    pub(crate) timed: bool,
    /// Suspend the last listener while the senders send.
    pub(crate) stalled: bool,
    /// As many other channels, and patterns that cover one of them each.
    pub(crate) crowd: usize,
}

impl Plan {
    pub(crate) fn new(system: System, payload_bytes: usize, senders: usize, listeners: usize) -> Self {
        Self {
            system,
            payload_bytes,
            senders,
            listeners,
            frames_per_sender: 1,
            rate: None,
            timed: false,
            stalled: false,
            crowd: 0,
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames_per_sender * self.senders as u64
    }
}

/// What one listener reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerReport {
    pub(crate) received: u64,
    /// Lost frames according to its loss reports, including end frames.
    pub(crate) reported_lost: u64,
    /// Gaps without a count.
    pub(crate) uncounted_gaps: u64,
    bad: u64,
    ends: u64,
    last_at: u64,
}

impl ListenerReport {
    fn parse(fields: &Fields) -> Result<Self> {
        Ok(Self {
            received: fields.require("received")?,
            reported_lost: fields.require("lost")?,
            uncounted_gaps: fields.require("uncounted_gaps")?,
            bad: fields.require("bad")?,
            ends: fields.require("ends")?,
            last_at: fields.require("last")?,
        })
    }

    /// Frames that were neither received nor reported lost, or reported lost without having been sent.
    fn unaccounted(&self, sent: u64, ends_sent: u64) -> u64 {
        if self.uncounted_gaps > 0 {
            return 0;
        }
        let known = self.received + self.reported_lost;
        sent.saturating_sub(known) + (known + self.ends).saturating_sub(sent + ends_sent)
    }
}

/// The result of one run.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// From the first send to the last receipt of a listener that is not stalled.
    pub(crate) wall_s: f64,
    /// From the first send to the end of the last one.
    pub(crate) sending_s: f64,
    pub(crate) sent: u64,
    pub(crate) listeners: Vec<ListenerReport>,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) unaccounted: u64,
    pub(crate) bad: u64,
    /// CPU time of all processes, from the start of the first sender to the last report.
    pub(crate) cpu_s: f64,
    /// The 99.9th percentile of the durations of sends. Only for timed runs.
    pub(crate) p999_send: Duration,
    /// The longest send. Only for timed runs.
    pub(crate) longest_send: Duration,
}

impl Traffic {
    pub(crate) fn deliveries_per_s(&self) -> f64 {
        self.received as f64 / self.wall_s
    }

    pub(crate) fn lost_share(&self) -> f64 {
        self.lost as f64 / (self.lost + self.received).max(1) as f64
    }

    pub(crate) fn cpu_s_per_million(&self) -> f64 {
        self.cpu_s * 1e6 / self.received.max(1) as f64
    }
}

pub(crate) fn run(bench: &Bench, plan: &Plan) -> Result<Traffic> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, plan.system, &dir, None)?;
    let _crowd = Crowd::start(bench, &broker, plan.crowd)?;
    let fields = Fields::new()
        .with("system", plan.system.label())
        .with("socket", broker.socket.display())
        .with("bytes", plan.payload_bytes)
        .with("senders", plan.senders)
        .with("frames", plan.frames_per_sender)
        .with("rate", plan.rate.unwrap_or(0.0))
        .with("timed", plan.timed);
    let deadline = Instant::now() + READY_MAX;
    let listeners: Vec<Process> =
        (0..plan.listeners).map(|_| bench.children.spawn("listener", &fields)).collect::<Result<_>>()?;
    let mut senders: Vec<Process> = (0..plan.senders)
        .map(|index| {
            let fields = fields.clone().with("index", index);
            bench.children.spawn("sender", &fields)
        })
        .collect::<Result<_>>()?;
    for process in listeners.iter().chain(&senders) {
        process.report(deadline)?;
    }

    let stalled = listeners.last().filter(|_| plan.stalled);
    if let Some(listener) = stalled {
        listener.signal(Signal::STOP)?;
    }
    let pids: Vec<u32> =
        std::iter::once(&broker.process).chain(&listeners).chain(&senders).map(|process| process.pid).collect();
    let cpu_before = procfs::cpu_ns_of(&pids);
    for sender in &mut senders {
        sender.command("go")?;
    }
    let deadline = Instant::now() + RUN_MAX;
    let (mut first_at, mut sent_at, mut p999, mut longest) = (u64::MAX, 0_u64, 0, 0);
    for sender in &senders {
        let report = sender.report(deadline)?;
        first_at = first_at.min(report.require("first")?);
        sent_at = sent_at.max(report.require("sent")?);
        p999 = p999.max(report.require("p999")?);
        longest = longest.max(report.require("longest")?);
    }
    if let Some(listener) = stalled {
        listener.signal(Signal::CONT)?;
    }

    let (reports, ends_sent) = end(&mut senders, &listeners, deadline)?;
    let cpu_s = procfs::cpu_ns_of(&pids).saturating_sub(cpu_before) as f64 / 1e9;
    let running = reports.len() - usize::from(plan.stalled);
    let last_at = reports[..running].iter().map(|report| report.last_at).max();
    let (sent, received) = (plan.frames(), reports.iter().map(|report| report.received).sum());
    Ok(Traffic {
        wall_s: last_at.unwrap_or(0).saturating_sub(first_at).max(1) as f64 / 1e9,
        sending_s: sent_at.saturating_sub(first_at).max(1) as f64 / 1e9,
        sent,
        received,
        lost: (sent * reports.len() as u64).saturating_sub(received),
        unaccounted: reports.iter().map(|report| report.unaccounted(sent, ends_sent)).sum(),
        bad: reports.iter().map(|report| report.bad).sum(),
        listeners: reports,
        cpu_s,
        p999_send: Duration::from_nanos(p999),
        longest_send: Duration::from_nanos(longest),
    })
}

/// Makes all senders send end frames until all listeners have received them.
fn end(senders: &mut [Process], listeners: &[Process], deadline: Instant) -> Result<(Vec<ListenerReport>, u64)> {
    let mut reports = Vec::with_capacity(listeners.len());
    let mut ends_sent = 0;
    while reports.len() < listeners.len() {
        if Instant::now() >= deadline {
            let missing = listeners.len() - reports.len();
            return fail(format!("{missing} listeners did not receive the end"));
        }
        for sender in senders.iter_mut() {
            sender.command("end")?;
            ends_sent += 1;
        }
        let round = (Instant::now() + END_EVERY).min(deadline);
        while let Some(listener) = listeners.get(reports.len()) {
            match listener.line_until(round)? {
                Some(line) => reports.push(ListenerReport::parse(&listener.parse_report(&line)?)?),
                None => break,
            }
        }
    }
    Ok((reports, ends_sent))
}

/// Sets the number of frames so that a run has about the duration that the options ask for.
pub(crate) fn calibrate(bench: &Bench, plan: &mut Plan) -> Result<()> {
    /// A run that takes this share of the intended time measures the rate well enough.
    const TIME_SHARE_MIN: f64 = 0.15;
    const PROBE_BYTES: u64 = 4 << 20;
    const FRAMES_MIN: u64 = 16;
    let intended_s = bench.options.run_time().as_secs_f64();
    let per_frame = (plan.payload_bytes * plan.senders * plan.listeners) as u64;
    plan.frames_per_sender = (PROBE_BYTES / per_frame).max(FRAMES_MIN);
    loop {
        let wall_s = run(bench, plan)?.wall_s;
        let frames = plan.frames_per_sender as f64 * (intended_s / wall_s).min(32.0);
        plan.frames_per_sender = (frames as u64).max(FRAMES_MIN);
        if wall_s >= intended_s * TIME_SHARE_MIN {
            return Ok(());
        }
    }
}
