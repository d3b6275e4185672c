//! What the child processes do. A child never outlives the process that started it and never waits by the clock for another.
//!
//! A child says `ready` on its standard output, acts on lines of its standard input, reports in one line, and leaves when
//! its standard input ends.

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
use crate::fail::{Outcome, fail};
use crate::floor::{self, BatchListener, FloorSender, FrameListener, Style};
use crate::link::{Inbox, Met, Outbox, System};
use crate::ours::{self, OursListener, OursSender};
use crate::payload::{Check, Stamp, made_at};
use crate::stats::quantile;
use crate::words::Words;

/// A paced sender wakes so often and sends what has become due.
const PACE_TICK: Duration = Duration::from_micros(250);
/// A paced sender that was held up lets pass what is older than this many ticks: a burst would not be a pace.
const PACE_TICKS_BEHIND_MAX: u32 = 2;

pub(crate) fn main(args: &[String]) -> ExitCode {
    match role(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Words::new().with("failed", error.to_string().replace(char::is_whitespace, "_")));
            ExitCode::FAILURE
        }
    }
}

fn role(args: &[String]) -> Outcome<()> {
    // Without this a killed bench would leave its children behind.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let Some((role, rest)) = args.split_first() else {
        return fail("a role is missing");
    };
    let words = Words::from_args(rest);
    if let Ok(cpu) = words.need("pin") {
        pin(cpu)?;
    }
    match role.as_str() {
        "broker" => broker(&words),
        "exec" => exec(rest),
        "listener" => on_listener(&words, Listen),
        "ponger" => on_listener(&words, Pong),
        "sender" => on_sender(&words, Send),
        "pinger" => on_sender(&words, Ping),
        "idlers" => idlers(&words),
        "cold" => cold(&words),
        _ => fail(format!("there is no role `{role}`")),
    }
}

fn pin(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

fn say(words: &Words) {
    // Nobody is left to tell when this fails; the end of standard input follows.
    let _ = writeln!(std::io::stdout(), "{}", words.line());
}

fn ready() {
    say(&Words::new().with("ready", 1));
}

/// Waits for the parent's next line; none means that it is time to leave.
fn told() -> Option<String> {
    std::io::stdin().lines().next()?.ok()
}

fn broker(words: &Words) -> Outcome<()> {
    let socket: PathBuf = words.need("socket")?;
    let style = match words.need("system")? {
        System::FloorA => Style::FrameByFrame,
        System::FloorB | System::FloorC => Style::Batched,
        System::FloorWide => Style::Wide,
        System::Ours | System::OursBatched => return fail("ours is another program"),
    };
    floor::serve(&socket, style, || {
        ready();
        Ok(())
    })
}

/// Becomes the program behind `--`, pinned and tied to the parent's life as every child.
fn exec(args: &[String]) -> Outcome<()> {
    let program: Vec<&String> = args.iter().skip_while(|arg| *arg != "--").collect();
    match program.as_slice() {
        [_, name, args @ ..] => Err(Command::new(name).args(args).exec().into()),
        _ => fail("no program to execute"),
    }
}

trait OnListener {
    fn run(self, words: &Words, inbox: impl Inbox) -> Outcome<()>;
}

fn on_listener(words: &Words, role: impl OnListener) -> Outcome<()> {
    let socket: PathBuf = words.need("socket")?;
    match words.need("system")? {
        System::FloorA => role.run(words, FrameListener::join(&socket)?),
        System::FloorB | System::FloorC | System::FloorWide => role.run(words, BatchListener::join(&socket)?),
        System::Ours | System::OursBatched => role.run(words, OursListener::join(&socket)?),
    }
}

trait OnSender {
    fn run(self, words: &Words, outbox: impl Outbox) -> Outcome<()>;
}

fn on_sender(words: &Words, role: impl OnSender) -> Outcome<()> {
    let socket: PathBuf = words.need("socket")?;
    let system: System = words.need("system")?;
    match system {
        System::FloorA | System::FloorB => role.run(words, FloorSender::join(&socket, false)?),
        System::FloorC => role.run(words, FloorSender::join(&socket, true)?),
        System::FloorWide => role.run(words, FloorSender::join_wide(&socket)?),
        System::Ours => role.run(words, OursSender::join(&socket, false)?),
        System::OursBatched => role.run(words, OursSender::join(&socket, true)?),
    }
}

/// Receives until each sender's end was seen.
struct Listen;

impl OnListener for Listen {
    fn run(self, words: &Words, mut inbox: impl Inbox) -> Outcome<()> {
        let mut check = Check::new(words.need("bytes")?, words.need("senders")?, words.need("frames")?);
        let (mut lost, mut lags, mut unsized_lags) = (0, 0_u64, 0_u64);
        ready();
        while !check.complete() {
            if let Met::Lost(count) = inbox.next(|payload| check.take(payload))? {
                lags += 1;
                lost += count.unwrap_or(0);
                unsized_lags += u64::from(count.is_none());
            }
        }
        say(&Words::new()
            .with("received", check.received)
            .with("ends", check.ends)
            .with("bad", check.bad)
            .with("reported", lost)
            .with("lags", lags)
            .with("unsized", unsized_lags)
            .with("last", check.last_at));
        while told().is_some() {}
        Ok(())
    }
}

/// Sends its frames, as fast as it can or at a rate, then an end for each `end` it is told.
struct Send;

impl OnSender for Send {
    fn run(self, words: &Words, mut outbox: impl Outbox) -> Outcome<()> {
        let frames: u64 = words.need("frames")?;
        let rate: f64 = words.or("rate", 0.0);
        let timed: bool = words.or("timed", false);
        let mut stamp = Stamp::new(words.need("bytes")?, words.need("index")?);
        ready();
        if told().is_none() {
            return Ok(());
        }
        let mut sends = Vec::with_capacity(if timed { frames as usize } else { 0 });
        let mut push = |outbox: &mut _, counter| {
            let payload = stamp.data(counter);
            if !timed {
                return Outbox::push(outbox, payload);
            }
            let before = Instant::now();
            let pushed = Outbox::push(outbox, payload);
            sends.push(before.elapsed().as_nanos() as u64);
            pushed
        };
        let first = clock::now();
        if rate > 0.0 {
            paced(&mut outbox, rate, frames, &mut push)?;
        } else {
            for counter in 0..frames {
                push(&mut outbox, counter)?;
            }
            outbox.flush()?;
        }
        let sent = clock::now();
        sends.sort_unstable();
        say(&Words::new()
            .with("first", first)
            .with("sent", sent)
            .with("p999", quantile(&sends, 0.999))
            .with("longest", quantile(&sends, 1.0)));
        while told().is_some() {
            outbox.push(stamp.end())?;
            outbox.flush()?;
        }
        Ok(())
    }
}

fn paced<O: Outbox>(
    outbox: &mut O,
    rate: f64,
    frames: u64,
    push: &mut impl FnMut(&mut O, u64) -> Outcome<()>,
) -> Outcome<()> {
    let per_tick = rate * PACE_TICK.as_secs_f64();
    let (mut due, mut sent) = (0.0, 0);
    let mut next_tick = Instant::now();
    while sent < frames {
        due += per_tick;
        let upto = (due as u64).min(frames);
        for counter in sent..upto {
            push(outbox, counter)?;
        }
        if upto > sent {
            outbox.flush()?;
        }
        sent = upto;
        next_tick += PACE_TICK;
        let now = Instant::now();
        match next_tick.checked_duration_since(now) {
            Some(early) => thread::sleep(early),
            None => next_tick = next_tick.max(now - PACE_TICK * PACE_TICKS_BEHIND_MAX),
        }
    }
    Ok(())
}

/// Takes the time of each frame's way and answers beside the bus, so that one frame at a time is under way.
struct Pong;

impl OnListener for Pong {
    fn run(self, words: &Words, mut inbox: impl Inbox) -> Outcome<()> {
        let (warm_up, pings): (usize, usize) = (words.need("warmup")?, words.need("frames")?);
        let side = UnixListener::bind(words.need::<PathBuf>("side")?)?;
        ready();
        let (mut side, _) = side.accept()?;
        let mut ways = Vec::with_capacity(warm_up + pings);
        let mut check = Check::new(words.need("bytes")?, 1, (warm_up + pings) as u64);
        let mut lost = 0;
        while ways.len() < warm_up + pings {
            let met = inbox.next(|payload| {
                ways.push(clock::now().saturating_sub(made_at(payload)));
                check.take(payload);
            })?;
            if let Met::Lost(count) = met {
                lost += count.unwrap_or(1);
            }
            side.write_all(&[0])?;
        }
        let mut ways = ways.split_off(warm_up);
        ways.sort_unstable();
        say(&Words::new()
            .with("p50", quantile(&ways, 0.50))
            .with("p99", quantile(&ways, 0.99))
            .with("longest", quantile(&ways, 1.0))
            .with("bad", check.bad)
            .with("lost", lost));
        while told().is_some() {}
        Ok(())
    }
}

struct Ping;

impl OnSender for Ping {
    fn run(self, words: &Words, mut outbox: impl Outbox) -> Outcome<()> {
        let pings: u64 = words.need::<u64>("warmup")? + words.need::<u64>("frames")?;
        let mut stamp = Stamp::new(words.need("bytes")?, 0);
        let mut side = UnixStream::connect(words.need::<PathBuf>("side")?)?;
        ready();
        if told().is_none() {
            return Ok(());
        }
        for counter in 0..pings {
            outbox.push(stamp.timed(counter))?;
            side.read_exact(&mut [0])?;
        }
        while told().is_some() {}
        Ok(())
    }
}

/// Holds listeners that never hear anything.
fn idlers(words: &Words) -> Outcome<()> {
    let socket: PathBuf = words.need("socket")?;
    let count: usize = words.need("count")?;
    let idlers: Outcome<Vec<OursListener>> = (0..count).map(|_| OursListener::join(&socket)).collect();
    let _idlers = idlers?;
    ready();
    while told().is_some() {}
    Ok(())
}

fn cold(words: &Words) -> Outcome<()> {
    let took = ours::cold_start(&words.need::<PathBuf>("socket")?)?;
    say(&Words::new().with("took", took.as_nanos()));
    Ok(())
}
