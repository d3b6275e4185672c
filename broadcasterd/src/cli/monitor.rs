//! `broadcasterd monitor`: the messages of the bus as they pass, with sender, size and time. Never starts a daemon and is not
//! counted as a listener.

use super::{Bus, duration, hex, reader_left};
use crate::exit::{Code, Failure, say};
use clap::Args;
use jiff::Zoned;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Message, Monitor as Handle, RecvError};

/// How often to look for the next daemon when one has gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Most characters of a payload in a line for people.
const PREVIEW_CHARS_MAX: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// The channels to watch; all of them if none is given
    channels: Vec<String>,

    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,

    /// Give up, with exit code 3, when no message has come for this long
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// Show what was sent, too: its beginning, or all of it with --json
    #[arg(short, long)]
    payload: bool,

    /// One JSON object per message, and per hole
    #[arg(long)]
    json: bool,
}

impl Monitor {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let mut handle = match bus.options()?.daemon().monitor(&self.channels) {
            Err(error @ ConnectError::NotRunning { .. }) => return Err(Failure::new(Code::NobodyThere, error)),
            other => other?,
        };
        let what = if self.channels.is_empty() { "all channels".to_owned() } else { self.channels.join(", ") };
        say(format_args!("watching {what}"));
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let mut out = io::BufWriter::new(stdout.lock());
        if terminal && !self.json {
            writeln!(out, "{:<12}  {:>7}  {:>10}  {:>10}  CHANNEL", "TIME", "PID", "SEQUENCE", "BYTES")?;
        }
        let mut left = self.count;
        while left != Some(0) {
            let next = match handle.try_recv() {
                Err(RecvError::Empty) => {
                    // What is there already goes out in one write; it is flushed before this waits.
                    if reader_left(out.flush())? {
                        return Ok(());
                    }
                    self.wait(&mut handle)
                }
                next => next,
            };
            let written = match next {
                Ok(message) => {
                    left = left.map(|left| left - 1);
                    self.write(&mut out, &message)
                }
                Err(RecvError::Lagged(lag)) if self.json => {
                    let (channel, count) = (lag.channel.as_str(), lag.count);
                    writeln!(out, "{}", serde_json::json!({ "channel": channel, "lagged": count }))
                }
                Err(lagged @ RecvError::Lagged(_)) => {
                    reader_left(out.flush())?;
                    say(format_args!("broadcasterd: {lagged}"));
                    Ok(())
                }
                Err(RecvError::Connect(ConnectError::NotRunning { .. })) => {
                    reader_left(out.flush())?;
                    self.wait_for_daemon(bus, &mut handle)?;
                    Ok(())
                }
                Err(error) => {
                    reader_left(out.flush())?;
                    return Err(error.into());
                }
            };
            if reader_left(written)? {
                return Ok(());
            }
        }
        reader_left(out.flush())?;
        Ok(())
    }

    fn wait(&self, handle: &mut Handle) -> Result<Message, RecvError> {
        match self.timeout {
            Some(timeout) => handle.recv_timeout(timeout),
            None => handle.recv(),
        }
    }

    /// The daemon has gone. The next one is somebody else's to start; it is watched from its first moment that we see.
    fn wait_for_daemon(&self, bus: &Bus, handle: &mut Handle) -> Result<(), Failure> {
        say(format_args!("broadcasterd: the daemon has gone; waiting for the next one"));
        let daemon = bus.options()?.daemon();
        let began = Instant::now();
        loop {
            match daemon.monitor(&self.channels) {
                Ok(next) => *handle = next,
                Err(ConnectError::NotRunning { .. }) => {
                    if let Some(after) = self.timeout.filter(|timeout| began.elapsed() >= *timeout) {
                        return Err(RecvError::TimedOut { after }.into());
                    }
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            say(format_args!("broadcasterd: watching again; what passed in between was not seen"));
            return Ok(());
        }
    }

    fn write(&self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        let (now, payload) = (Zoned::now(), message.payload());
        if self.json {
            let mut object = serde_json::json!({
                "time": now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(),
                "channel": message.channel().as_str(),
                "sender": message.sender().to_string(),
                "pid": message.sender_pid(),
                "sequence": message.sequence(),
                "bytes": payload.len(),
            });
            if self.payload {
                match std::str::from_utf8(payload) {
                    Ok(text) => object["payload"] = text.into(),
                    Err(_) => object["payload_hex"] = hex(payload).into(),
                }
            }
            return writeln!(out, "{object}");
        }
        let (pid, sequence, bytes) = (message.sender_pid(), message.sequence(), payload.len());
        write!(out, "{}  {pid:>7}  {sequence:>10}  {bytes:>10}  {}", now.strftime("%H:%M:%S%.3f"), message.channel())?;
        if self.payload {
            write!(out, "  {}", preview(payload))?;
        }
        writeln!(out)
    }
}

/// The beginning of a payload, safe for any terminal.
fn preview(payload: &[u8]) -> String {
    let head = &payload[..payload.len().min(PREVIEW_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(head);
    let mut line: String = text.chars().take(PREVIEW_CHARS_MAX).map(|c| if c.is_control() { '.' } else { c }).collect();
    if text.chars().count() > PREVIEW_CHARS_MAX || head.len() < payload.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_short_and_holds_no_control_character() {
        assert_eq!(preview(b"hello"), "hello");
        assert_eq!(preview(b"\x1b[31mred\nline\xff"), ".[31mred.line\u{fffd}");
        let long = preview("ä".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), PREVIEW_CHARS_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
