//! `broadcasterd demo`: the bus at work, with real processes on the user's own bus. It fails if a listener loses a message.

use super::bus::Bus;
use crate::exit::{Code, Failure};
use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Stdio};

const LISTENERS: usize = 3;
const SENDERS: usize = 2;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many messages each sender sends
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    messages: u64,
}

/// A line of `listen --json`: a message or a gap.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Message { pid: u32, sequence: u64 },
    Gap { lagged: Option<u64> },
}

/// A child process that ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let channel = format!("broadcasterd.demo.{}", std::process::id());
        let running = bus.options()?.daemon().status().is_ok();
        let total = SENDERS as u64 * self.messages;
        let count = total.to_string();

        let mut listeners = Vec::new();
        for _ in 0..LISTENERS {
            let mut child = self.spawn(bus, &["listen", &channel, "--json", "--count", &count, "--timeout", "10s"])?;
            let mut stderr = BufReader::new(child.0.stderr.take().ok_or(LostChild)?);
            let mut joined = String::new();
            stderr.read_line(&mut joined)?;
            if !joined.starts_with("listening") {
                return Err(Failure::new(Code::Unreachable, format!("a listener did not start: {}", joined.trim())));
            }
            listeners.push((child, stderr));
        }
        let status = bus.options()?.daemon().status()?;
        let origin = if running { "was running" } else { "was started" };
        writeln!(out, "daemon     process {:<8} {origin}", status.pid)?;
        for (child, _) in &listeners {
            writeln!(out, "listener   process {:<8} joined {channel}", child.0.id())?;
        }

        // The output of each listener is read while it runs, so that the demo does not slow it down.
        let mut readers = Vec::new();
        for (child, _) in &mut listeners {
            let stdout = child.0.stdout.take().ok_or(LostChild)?;
            let read = || BufReader::new(stdout).lines().collect::<io::Result<Vec<String>>>();
            readers.push(std::thread::spawn(read));
        }

        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            let mut child = self.spawn(bus, &["send", &channel, "--lines"])?;
            let mut stdin = child.0.stdin.take().ok_or(LostChild)?;
            let lines: String = (0..self.messages).map(|n| format!("message {n} of {}\n", child.0.id())).collect();
            stdin.write_all(lines.as_bytes())?;
            drop(stdin);
            senders.push(child);
        }
        for sender in &mut senders {
            let status = sender.0.wait()?;
            writeln!(out, "sender     process {:<8} sent {} ({status})", sender.0.id(), self.messages)?;
        }

        let mut complete = true;
        for (reader, (child, stderr)) in readers.into_iter().zip(listeners) {
            let received = reader.join().map_err(|_| LostChild)??;
            complete &= self.check(&mut out, &senders, child.0.id(), &received, stderr)?;
        }
        if !complete {
            return Err(Failure::new(Code::Failed, "a listener did not receive every message in order"));
        }
        writeln!(out, "every listener received every message in order: {LISTENERS} x {total}")?;
        Ok(())
    }

    fn spawn(&self, bus: &Bus, arguments: &[&str]) -> Result<Process, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        if let Some(socket) = bus.socket()? {
            command.arg("--socket").arg(socket);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if arguments[0] == "send" {
            command.stderr(Stdio::inherit());
        }
        Ok(Process(command.spawn()?))
    }

    /// Prints what one listener received; whether it was every message in order.
    fn check(
        &self,
        out: &mut impl Write,
        senders: &[Process],
        listener: u32,
        received: &[String],
        mut stderr: BufReader<ChildStderr>,
    ) -> Result<bool, Failure> {
        let mut next: BTreeMap<u32, u64> = senders.iter().map(|sender| (sender.0.id(), 0)).collect();
        let (mut lost, mut disorder) = (0, 0);
        for line in received {
            match serde_json::from_str(line).map_err(io::Error::from)? {
                Line::Gap { lagged } => lost += lagged.unwrap_or(1),
                Line::Message { pid, sequence } => match next.get_mut(&pid) {
                    Some(next) if *next == sequence => *next += 1,
                    _ => disorder += 1,
                },
            }
        }
        let complete = next.values().all(|&count| count == self.messages) && lost == 0 && disorder == 0;
        let counts: Vec<String> = next.iter().map(|(pid, count)| format!("{count} from {pid}")).collect();
        let verdict = if complete { "all of them, in order" } else { "NOT all of them in order" };
        writeln!(out, "listener   process {listener:<8} received {}: {verdict}", counts.join(", "))?;
        let mut diagnostics = String::new();
        stderr.read_to_string(&mut diagnostics)?;
        if !complete && !diagnostics.is_empty() {
            write!(out, "{diagnostics}")?;
        }
        Ok(complete)
    }
}

/// A pipe of a child process is missing, or the thread that read it has panicked.
struct LostChild;

impl From<LostChild> for Failure {
    fn from(_: LostChild) -> Self {
        Self::new(Code::Failed, "the demo lost contact with a process that it started")
    }
}
