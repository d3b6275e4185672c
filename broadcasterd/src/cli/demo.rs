//! `broadcasterd demo`: the main job, shown with real processes on the user's own bus. It fails if any listener misses a
//! frame.

use super::Bus;
use crate::exit::{Code, Failure};
use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Stdio};

const LISTENERS: usize = 3;
const SENDERS: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Messages of each sender
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    messages: u64,
}

/// A line of `listen --json`: a message or a hole.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Message { pid: u32, sequence: u64 },
    Hole { lagged: Option<u64> },
}

/// A child that is ended with us, whatever happens.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let channel = format!("broadcasterd.demo.{}", std::process::id());
        let running = bus.options()?.daemon().status().is_ok();
        let total = SENDERS as u64 * self.messages;
        let count = total.to_string();

        let mut listeners = Vec::new();
        for _ in 0..LISTENERS {
            let mut child = self.spawn(bus, &["listen", &channel, "--json", "--count", &count, "--timeout", "10s"])?;
            let mut stderr = BufReader::new(child.0.stderr.take().ok_or(LostTrack)?);
            let mut joined = String::new();
            stderr.read_line(&mut joined)?;
            if !joined.starts_with("listening") {
                return Err(Failure::new(Code::Unreachable, format!("a listener did not join: {}", joined.trim())));
            }
            listeners.push((child, stderr));
        }
        let status = bus.options()?.daemon().status()?;
        let how = if running { "was running" } else { "was started" };
        writeln!(out, "daemon     process {:<8} {how}", status.pid)?;
        for (child, _) in &listeners {
            writeln!(out, "listener   process {:<8} joined {channel}", child.0.id())?;
        }

        // Every listener's output is read while it runs, so that none of them is slow on our account.
        let mut readers = Vec::new();
        for (child, _) in &mut listeners {
            let stdout = child.0.stdout.take().ok_or(LostTrack)?;
            let read = || BufReader::new(stdout).lines().collect::<io::Result<Vec<String>>>();
            readers.push(std::thread::spawn(read));
        }

        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            let mut child = self.spawn(bus, &["send", &channel, "--lines"])?;
            let mut stdin = child.0.stdin.take().ok_or(LostTrack)?;
            let lines: String = (0..self.messages).map(|n| format!("message {n} of {}\n", child.0.id())).collect();
            stdin.write_all(lines.as_bytes())?;
            drop(stdin);
            senders.push(child);
        }
        for sender in &mut senders {
            let status = sender.0.wait()?;
            writeln!(out, "sender     process {:<8} sent {} ({status})", sender.0.id(), self.messages)?;
        }

        let mut missed = false;
        for (reader, (child, stderr)) in readers.into_iter().zip(listeners) {
            let heard = reader.join().map_err(|_| LostTrack)??;
            missed |= !self.judge(&mut out, &senders, child.0.id(), &heard, stderr)?;
        }
        if missed {
            return Err(Failure::new(Code::Failed, "a listener missed a frame"));
        }
        writeln!(out, "every listener got every frame, in order: {LISTENERS} x {total}")?;
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

    /// Prints what one listener got, and tells whether it was everything, in order.
    fn judge(
        &self,
        out: &mut impl Write,
        senders: &[Process],
        listener: u32,
        heard: &[String],
        mut stderr: BufReader<ChildStderr>,
    ) -> Result<bool, Failure> {
        let mut next: BTreeMap<u32, u64> = senders.iter().map(|sender| (sender.0.id(), 0)).collect();
        let (mut holes, mut disorder) = (0, 0);
        for line in heard {
            match serde_json::from_str(line).map_err(io::Error::from)? {
                Line::Hole { lagged } => holes += lagged.unwrap_or(1),
                Line::Message { pid, sequence } => match next.get_mut(&pid) {
                    Some(next) if *next == sequence => *next += 1,
                    _ => disorder += 1,
                },
            }
        }
        let complete = next.values().all(|&count| count == self.messages) && holes == 0 && disorder == 0;
        let counts: Vec<String> = next.iter().map(|(pid, count)| format!("{count} from {pid}")).collect();
        let verdict = if complete { "all of them, in order" } else { "NOT all of them" };
        writeln!(out, "listener   process {listener:<8} got {}: {verdict}", counts.join(", "))?;
        let mut said = String::new();
        stderr.read_to_string(&mut said)?;
        if !complete && !said.is_empty() {
            write!(out, "{said}")?;
        }
        Ok(complete)
    }
}

/// A pipe that we asked for is not there, or a thread of ours has died.
struct LostTrack;

impl From<LostTrack> for Failure {
    fn from(_: LostTrack) -> Self {
        Self::new(Code::Failed, "the demo lost track of a process that it started")
    }
}
