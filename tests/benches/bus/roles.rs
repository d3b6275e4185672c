//! The roles of the child processes. A child dies with the process that started it.
//!
//! A child prints `ready` on its standard output, acts on the lines of its standard input, prints a one-line report, and
//! exits at the end of its standard input.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::clock;
use crate::error::{Result, fail};
use crate::exchange::{Answerer, Caller};
use crate::fields::Fields;
use crate::floor::{self, BatchListener, FloorSender, Forwarding, FrameListener};
use crate::ours::{self, OursListener, OursSender};
use crate::payload::{PayloadBuilder, PayloadChecker, timestamp};
use crate::ring::{self, RingListener, RingSender};
use crate::stats::quantile;
use crate::system::{FrameSink, FrameSource, Received, System};

/// The interval at which a paced sender sends the frames that have become due.
const PACE_TICK: Duration = Duration::from_micros(250);
/// A delayed paced sender skips ticks older than this many. A burst to catch up would not be paced.
const PACE_TICKS_BEHIND_MAX: u32 = 2;

pub(crate) fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&Fields::new().with("failed", error.to_string().replace(char::is_whitespace, "_")));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    // Otherwise the children of a killed bench would keep running.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let Some((role, rest)) = args.split_first() else {
        return fail("no role given");
    };
    let fields = Fields::from_args(rest);
    if let Ok(cpu) = fields.require("pin") {
        pin(cpu)?;
    }
    match role.as_str() {
        "broker" => broker(&fields),
        "exec" => exec(rest),
        "listener" => run_listener(&fields, Receive),
        "ponger" => run_listener(&fields, Pong),
        "sender" => run_sender(&fields, Publish),
        "pinger" => run_sender(&fields, Ping),
        "caller" => caller(&fields),
        "answerer" => answerer(&fields),
        "idlers" => idlers(&fields),
        "crowd" => crowd(&fields),
        "opener" => opener(&fields),
        "cold" => cold(&fields),
        "survivor" => survivor(&fields),
        _ => fail(format!("unknown role `{role}`")),
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

fn report(fields: &Fields) {
    // If this fails, the parent has ended, and the end of standard input follows.
    let _ = writeln!(std::io::stdout(), "{}", fields.line());
}

fn report_ready() {
    report(&Fields::new().with("ready", 1));
}

/// Waits for the parent's next line. `None` means that the child should exit.
fn next_command() -> Option<String> {
    std::io::stdin().lines().next()?.ok()
}

/// Waits until the parent closes standard input.
fn wait_for_end() {
    while next_command().is_some() {}
}

fn broker(fields: &Fields) -> Result<()> {
    let socket: PathBuf = fields.require("socket")?;
    let forwarding = match fields.require("system")? {
        System::FloorA => Forwarding::FrameByFrame,
        System::FloorB | System::FloorC => Forwarding::Batched,
        System::FloorWide => Forwarding::Wide,
        System::FloorRing | System::FloorPolled => {
            return ring::own(&socket, || {
                report_ready();
                Ok(())
            });
        }
        _ => return fail("the bus has its own program"),
    };
    floor::serve(&socket, forwarding, || {
        report_ready();
        Ok(())
    })
}

/// Replaces this process by the program after `--`, which stays pinned and tied to the parent's life.
fn exec(args: &[String]) -> Result<()> {
    let program: Vec<&String> = args.iter().skip_while(|arg| *arg != "--").collect();
    match program.as_slice() {
        [_, name, args @ ..] => Err(Command::new(name).args(args).exec().into()),
        _ => fail("no program given"),
    }
}

trait ListenerRole {
    fn run(self, fields: &Fields, source: impl FrameSource) -> Result<()>;
}

fn run_listener(fields: &Fields, role: impl ListenerRole) -> Result<()> {
    let socket: PathBuf = fields.require("socket")?;
    match fields.require("system")? {
        System::FloorA => role.run(fields, FrameListener::connect(&socket)?),
        System::FloorB | System::FloorC | System::FloorWide => role.run(fields, BatchListener::connect(&socket)?),
        System::FloorRing => role.run(fields, RingListener::connect(&socket, true)?),
        System::FloorPolled => role.run(fields, RingListener::connect(&socket, false)?),
        _ => role.run(fields, OursListener::connect(&socket)?),
    }
}

trait SenderRole {
    fn run(self, fields: &Fields, sink: impl FrameSink) -> Result<()>;
}

fn run_sender(fields: &Fields, role: impl SenderRole) -> Result<()> {
    let socket: PathBuf = fields.require("socket")?;
    let system: System = fields.require("system")?;
    match system {
        System::FloorA | System::FloorB => role.run(fields, FloorSender::connect(&socket, false)?),
        System::FloorC => role.run(fields, FloorSender::connect(&socket, true)?),
        System::FloorWide => role.run(fields, FloorSender::connect_wide(&socket)?),
        System::Ours => role.run(fields, OursSender::connect(&socket, false)?),
        System::OursBatched => role.run(fields, OursSender::connect(&socket, true)?),
        System::Lossless => role.run(fields, OursSender::connect_lossless(&socket, false)?),
        System::LosslessBatched => role.run(fields, OursSender::connect_lossless(&socket, true)?),
        System::Memory => role.run(fields, OursSender::connect_memory(&socket, false)?),
        System::MemoryBatched => role.run(fields, OursSender::connect_memory(&socket, true)?),
        System::LosslessMemory => role.run(fields, OursSender::connect_lossless_memory(&socket, false)?),
        System::LosslessMemoryBatched => role.run(fields, OursSender::connect_lossless_memory(&socket, true)?),
        System::FloorRing | System::FloorPolled => role.run(fields, RingSender::connect(&socket)?),
    }
}

/// Receives until every sender's end frame has arrived.
struct Receive;

impl ListenerRole for Receive {
    fn run(self, fields: &Fields, mut source: impl FrameSource) -> Result<()> {
        let mut checker =
            PayloadChecker::new(fields.require("bytes")?, fields.require("senders")?, fields.require("frames")?);
        let (mut lost, mut gaps, mut uncounted_gaps) = (0, 0_u64, 0_u64);
        report_ready();
        while !checker.complete() {
            if let Received::Lagged(count) = source.recv(|payload| checker.check(payload))? {
                gaps += 1;
                lost += count.unwrap_or(0);
                uncounted_gaps += u64::from(count.is_none());
            }
        }
        report(
            &Fields::new()
                .with("received", checker.received)
                .with("ends", checker.ends)
                .with("bad", checker.bad)
                .with("lost", lost)
                .with("gaps", gaps)
                .with("uncounted_gaps", uncounted_gaps)
                .with("last", checker.last_at),
        );
        wait_for_end();
        Ok(())
    }
}

/// Sends its frames, unpaced or at a rate, and then one end frame for each `end` command.
struct Publish;

impl SenderRole for Publish {
    fn run(self, fields: &Fields, mut sink: impl FrameSink) -> Result<()> {
        let frames: u64 = fields.require("frames")?;
        let rate: f64 = fields.value_or("rate", 0.0);
        let timed: bool = fields.value_or("timed", false);
        let mut payloads = PayloadBuilder::new(fields.require("bytes")?, fields.require("index")?);
        report_ready();
        if next_command().is_none() {
            return Ok(());
        }
        let mut durations = Vec::with_capacity(if timed { frames as usize } else { 0 });
        let mut send = |sink: &mut _, counter| {
            let payload = payloads.data(counter);
            if !timed {
                return FrameSink::send(sink, payload);
            }
            let before = Instant::now();
            let result = FrameSink::send(sink, payload);
            durations.push(before.elapsed().as_nanos() as u64);
            result
        };
        let first = clock::now();
        if rate > 0.0 {
            send_paced(&mut sink, rate, frames, &mut send)?;
        } else {
            for counter in 0..frames {
                send(&mut sink, counter)?;
            }
            sink.flush()?;
        }
        let sent = clock::now();
        durations.sort_unstable();
        report(
            &Fields::new()
                .with("first", first)
                .with("sent", sent)
                .with("p999", quantile(&durations, 0.999))
                .with("longest", quantile(&durations, 1.0)),
        );
        while next_command().is_some() {
            sink.send(payloads.end())?;
            sink.flush()?;
        }
        Ok(())
    }
}

fn send_paced<S: FrameSink>(
    sink: &mut S,
    rate: f64,
    frames: u64,
    send: &mut impl FnMut(&mut S, u64) -> Result<()>,
) -> Result<()> {
    let per_tick = rate * PACE_TICK.as_secs_f64();
    let (mut due, mut sent) = (0.0, 0);
    let mut next_tick = Instant::now();
    while sent < frames {
        due += per_tick;
        let end = (due as u64).min(frames);
        for counter in sent..end {
            send(sink, counter)?;
        }
        if end > sent {
            sink.flush()?;
        }
        sent = end;
        next_tick += PACE_TICK;
        let now = Instant::now();
        match next_tick.checked_duration_since(now) {
            Some(early) => thread::sleep(early),
            None => next_tick = next_tick.max(now - PACE_TICK * PACE_TICKS_BEHIND_MAX),
        }
    }
    Ok(())
}

/// Measures the latency of each frame, and answers over a separate socket, so that only one frame at a time is in flight.
struct Pong;

impl ListenerRole for Pong {
    fn run(self, fields: &Fields, mut source: impl FrameSource) -> Result<()> {
        let (warm_up, pings): (usize, usize) = (fields.require("warmup")?, fields.require("frames")?);
        let back_channel = UnixListener::bind(fields.require::<PathBuf>("back_channel")?)?;
        report_ready();
        let (mut back_channel, _) = back_channel.accept()?;
        let mut latencies = Vec::with_capacity(warm_up + pings);
        let mut checker = PayloadChecker::new(fields.require("bytes")?, 1, (warm_up + pings) as u64);
        let mut lost = 0;
        while latencies.len() < warm_up + pings {
            let received = source.recv(|payload| {
                latencies.push(clock::now().saturating_sub(timestamp(payload)));
                checker.check(payload);
            })?;
            if let Received::Lagged(count) = received {
                lost += count.unwrap_or(1);
            }
            back_channel.write_all(&[0])?;
        }
        let mut latencies = latencies.split_off(warm_up);
        latencies.sort_unstable();
        report(
            &Fields::new()
                .with("p50", quantile(&latencies, 0.50))
                .with("p99", quantile(&latencies, 0.99))
                .with("longest", quantile(&latencies, 1.0))
                .with("bad", checker.bad)
                .with("lost", lost),
        );
        wait_for_end();
        Ok(())
    }
}

/// Sends a timed frame, and waits for the answer of [`Pong`] before the next.
struct Ping;

impl SenderRole for Ping {
    fn run(self, fields: &Fields, mut sink: impl FrameSink) -> Result<()> {
        let pings: u64 = fields.require::<u64>("warmup")? + fields.require::<u64>("frames")?;
        let mut payloads = PayloadBuilder::new(fields.require("bytes")?, 0);
        let mut back_channel = UnixStream::connect(fields.require::<PathBuf>("back_channel")?)?;
        report_ready();
        if next_command().is_none() {
            return Ok(());
        }
        for counter in 0..pings {
            sink.send(payloads.timed(counter))?;
            back_channel.read_exact(&mut [0])?;
        }
        wait_for_end();
        Ok(())
    }
}

/// Measures the duration of each exchange with [`answerer`].
fn caller(fields: &Fields) -> Result<()> {
    let mut caller = Caller::connect(&fields.require::<PathBuf>("socket")?, fields.require("exchange")?)?;
    let (warm_up, calls): (usize, usize) = (fields.require("warmup")?, fields.require("frames")?);
    let mut payloads = PayloadBuilder::new(fields.require("bytes")?, 0);
    report_ready();
    if next_command().is_none() {
        return Ok(());
    }
    let mut durations = Vec::with_capacity(warm_up + calls);
    for counter in 0..warm_up + calls {
        let payload = payloads.data(counter as u64);
        let before = Instant::now();
        caller.call(payload)?;
        durations.push(before.elapsed().as_nanos() as u64);
    }
    let mut durations = durations.split_off(warm_up);
    durations.sort_unstable();
    report(&Fields::new().with("p50", quantile(&durations, 0.50)).with("p99", quantile(&durations, 0.99)));
    wait_for_end();
    Ok(())
}

/// Receives, and answers, until the parent kills it.
fn answerer(fields: &Fields) -> Result<()> {
    let mut answerer = Answerer::connect(&fields.require::<PathBuf>("socket")?, fields.require("exchange")?)?;
    report_ready();
    loop {
        answerer.answer()?;
    }
}

/// Holds listeners that receive nothing.
fn idlers(fields: &Fields) -> Result<()> {
    let socket: PathBuf = fields.require("socket")?;
    let count: usize = fields.require("count")?;
    let listeners: Result<Vec<OursListener>> = (0..count).map(|_| OursListener::connect(&socket)).collect();
    let _listeners = listeners?;
    report_ready();
    wait_for_end();
    Ok(())
}

/// Holds channels and patterns.
fn crowd(fields: &Fields) -> Result<()> {
    let _crowd = ours::crowd(&fields.require::<PathBuf>("socket")?, fields.require("count")?)?;
    report_ready();
    wait_for_end();
    Ok(())
}

/// Opens channels one after the other, and reports how long each takes.
fn opener(fields: &Fields) -> Result<()> {
    let mut times = ours::open_channels(&fields.require::<PathBuf>("socket")?, fields.require("count")?)?;
    times.sort_unstable();
    report(&Fields::new().with("typical", quantile(&times, 0.5)));
    wait_for_end();
    Ok(())
}

/// Holds one listener, and reports when it is back after the daemon was killed.
fn survivor(fields: &Fields) -> Result<()> {
    let mut listener = ours::starting_listener(&fields.require::<PathBuf>("socket")?)?;
    report_ready();
    let (errors, back_at) = ours::next_gap(&mut listener)?;
    report(&Fields::new().with("errors", errors).with("back", back_at));
    wait_for_end();
    Ok(())
}

fn cold(fields: &Fields) -> Result<()> {
    let took = ours::cold_start(&fields.require::<PathBuf>("socket")?)?;
    report(&Fields::new().with("took", took.as_nanos()));
    Ok(())
}
