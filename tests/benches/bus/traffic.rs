//! One run: a fresh broker, its listeners, its senders, a number of frames. It never reuses a process of another run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::Bench;
use crate::fail::{Outcome, fail};
use crate::link::System;
use crate::nursery::Process;
use crate::procfs;
use crate::words::Words;

const READY_MAX: Duration = Duration::from_secs(20);
const RUN_MAX: Duration = Duration::from_secs(30);
/// An end can be lost like any frame when other senders' frames follow it; so it is repeated until each listener saw it.
const END_EVERY: Duration = Duration::from_millis(250);

/// A broker process and where it listens.
pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

impl Broker {
    pub(crate) fn start(bench: &Bench, system: System, dir: &Path, pin: Option<usize>) -> Outcome<Self> {
        let socket = dir.join("bus.sock");
        let mut words = Words::new();
        if let Some(cpu) = pin {
            words = words.with("pin", cpu);
        }
        let log = dir.join("broker.log");
        let errors = File::create(&log)?;
        let process = if system.is_ours() {
            let Some(daemon) = &bench.daemon else {
                return fail("there is no daemon to measure");
            };
            let run = ["--", "", "run", "--socket", ""].map(OsStr::new);
            let run = [run[0], daemon.as_os_str(), run[2], run[3], socket.as_os_str()];
            bench.nursery.spawn_with("exec", &words, &run, |command| {
                command.stderr(errors);
                Ok(())
            })?
        } else {
            let words = words.with("system", system.label()).with("socket", socket.display());
            bench.nursery.spawn_with("broker", &words, &[], |command| {
                command.stderr(errors);
                Ok(())
            })?
        };
        match process.line(Instant::now() + READY_MAX).and_then(|line| process.understood(&line)) {
            Ok(_) => Ok(Self { process, socket }),
            Err(error) => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing");
                fail(format!("{} broker: {error}: {last}", system.label()))
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) system: System,
    pub(crate) payload_bytes: usize,
    pub(crate) senders: usize,
    pub(crate) listeners: usize,
    pub(crate) frames_per_sender: u64,
    /// Frames per second and sender; none for as fast as it goes.
    pub(crate) rate: Option<f64>,
    /// Take the time of each send.
    pub(crate) timed: bool,
    /// Stop the last listener while the senders send.
    pub(crate) stalled: bool,
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
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames_per_sender * self.senders as u64
    }
}

/// What one listener reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) received: u64,
    /// Frames that its stream said it lost; may include ends.
    pub(crate) reported: u64,
    /// Holes whose size its stream did not tell.
    pub(crate) unsized_holes: u64,
    bad: u64,
    ends: u64,
    last_at: u64,
}

impl Heard {
    fn parse(words: &Words) -> Outcome<Self> {
        Ok(Self {
            received: words.need("received")?,
            reported: words.need("reported")?,
            unsized_holes: words.need("unsized")?,
            bad: words.need("bad")?,
            ends: words.need("ends")?,
            last_at: words.need("last")?,
        })
    }

    /// Frames that were neither received nor reported, or reported without having been sent.
    fn unaccounted(&self, sent: u64, ends_sent: u64) -> u64 {
        if self.unsized_holes > 0 {
            return 0;
        }
        let known = self.received + self.reported;
        sent.saturating_sub(known) + (known + self.ends).saturating_sub(sent + ends_sent)
    }
}

/// What one run came to.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// From the first send to the last receipt of a listener that was not stalled.
    pub(crate) wall_s: f64,
    /// Until the last sender was done.
    pub(crate) sending_s: f64,
    pub(crate) sent: u64,
    pub(crate) heard: Vec<Heard>,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) unaccounted: u64,
    pub(crate) bad: u64,
    /// Of all processes, between the start of the first sender and the last report.
    pub(crate) cpu_s: f64,
    /// What 999 of 1000 sends do not exceed, and the longest; only of timed runs.
    pub(crate) p999_send: Duration,
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

pub(crate) fn run(bench: &Bench, plan: &Plan) -> Outcome<Traffic> {
    let dir = bench.fresh_dir()?;
    let broker = Broker::start(bench, plan.system, &dir, None)?;
    let words = Words::new()
        .with("system", plan.system.label())
        .with("socket", broker.socket.display())
        .with("bytes", plan.payload_bytes)
        .with("senders", plan.senders)
        .with("frames", plan.frames_per_sender)
        .with("rate", plan.rate.unwrap_or(0.0))
        .with("timed", plan.timed);
    let deadline = Instant::now() + READY_MAX;
    let listeners: Vec<Process> =
        (0..plan.listeners).map(|_| bench.nursery.spawn("listener", &words)).collect::<Outcome<_>>()?;
    let mut senders: Vec<Process> = (0..plan.senders)
        .map(|index| {
            let words = words.clone().with("index", index);
            bench.nursery.spawn("sender", &words)
        })
        .collect::<Outcome<_>>()?;
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
        sender.tell("go")?;
    }
    let deadline = Instant::now() + RUN_MAX;
    let (mut first_at, mut sent_at, mut p999, mut longest) = (u64::MAX, 0_u64, 0, 0);
    for sender in &senders {
        let report = sender.report(deadline)?;
        first_at = first_at.min(report.need("first")?);
        sent_at = sent_at.max(report.need("sent")?);
        p999 = p999.max(report.need("p999")?);
        longest = longest.max(report.need("longest")?);
    }
    if let Some(listener) = stalled {
        listener.signal(Signal::CONT)?;
    }

    let (heard, ends_sent) = end(&mut senders, &listeners, deadline)?;
    let cpu_s = procfs::cpu_ns_of(&pids).saturating_sub(cpu_before) as f64 / 1e9;
    let awake = heard.len() - usize::from(plan.stalled);
    let last_at = heard[..awake].iter().map(|heard| heard.last_at).max();
    let (sent, received) = (plan.frames(), heard.iter().map(|heard| heard.received).sum());
    Ok(Traffic {
        wall_s: last_at.unwrap_or(0).saturating_sub(first_at).max(1) as f64 / 1e9,
        sending_s: sent_at.saturating_sub(first_at).max(1) as f64 / 1e9,
        sent,
        received,
        lost: (sent * heard.len() as u64).saturating_sub(received),
        unaccounted: heard.iter().map(|heard| heard.unaccounted(sent, ends_sent)).sum(),
        bad: heard.iter().map(|heard| heard.bad).sum(),
        heard,
        cpu_s,
        p999_send: Duration::from_nanos(p999),
        longest_send: Duration::from_nanos(longest),
    })
}

/// Has all senders say that they are done until all listeners have heard it.
fn end(senders: &mut [Process], listeners: &[Process], deadline: Instant) -> Outcome<(Vec<Heard>, u64)> {
    let mut heard = Vec::with_capacity(listeners.len());
    let mut ends_sent = 0;
    while heard.len() < listeners.len() {
        if Instant::now() >= deadline {
            let missing = listeners.len() - heard.len();
            return fail(format!("{missing} listeners did not come to an end"));
        }
        for sender in senders.iter_mut() {
            sender.tell("end")?;
            ends_sent += 1;
        }
        let round = (Instant::now() + END_EVERY).min(deadline);
        while let Some(listener) = listeners.get(heard.len()) {
            match listener.line_until(round)? {
                Some(line) => heard.push(Heard::parse(&listener.understood(&line)?)?),
                None => break,
            }
        }
    }
    Ok((heard, ends_sent))
}

/// Sets the number of frames so that a run takes about as long as the bench wishes.
pub(crate) fn calibrate(bench: &Bench, plan: &mut Plan) -> Outcome<()> {
    /// A run of this share of the wished time tells the rate well enough.
    const ENOUGH: f64 = 0.15;
    const PROBE_BYTES: u64 = 4 << 20;
    const FRAMES_MIN: u64 = 16;
    let wished_s = bench.options.run_time().as_secs_f64();
    let per_frame = (plan.payload_bytes * plan.senders * plan.listeners) as u64;
    plan.frames_per_sender = (PROBE_BYTES / per_frame).max(FRAMES_MIN);
    loop {
        let wall_s = run(bench, plan)?.wall_s;
        let grown = plan.frames_per_sender as f64 * (wished_s / wall_s).min(32.0);
        plan.frames_per_sender = (grown as u64).max(FRAMES_MIN);
        if wall_s >= wished_s * ENOUGH {
            return Ok(());
        }
    }
}
