//! `broadcasterd monitor`: observes the messages of the bus with sender, size and time. It never starts a daemon and is not counted as
//! a listener.

use crate::exit::{Code, Failure};
use crate::output::{escaped, hex, is_active, notice, reader_gone, timestamp, write_json};
use jiff::Zoned;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use system_broadcaster::{ChannelName, ConnectError, Message, Monitor, Options, RecvError};

/// Pause between attempts to reach the next daemon.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Limit of payload characters in a text line.
const PREVIEW_CHARS_MAX: usize = 60;

/// What to observe and how to print it.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The channels; all channels if empty.
    pub(crate) channels: Vec<String>,
    /// Exit after this many messages.
    pub(crate) count: Option<u64>,
    /// Fail when no message arrives for this long.
    pub(crate) timeout: Option<Duration>,
    /// Print payloads.
    pub(crate) payload: bool,
    /// Print one JSON object per message and per gap.
    pub(crate) json: bool,
}

impl Watch {
    pub(crate) fn run(&self, options: &Options) -> Result<(), Failure> {
        let mut handle = match options.daemon().monitor(&self.channels) {
            Err(error @ ConnectError::NotRunning { .. }) => return Err(Failure::new(Code::NotRunning, error)),
            other => other?,
        };
        let what = if self.channels.is_empty() { "all channels".to_owned() } else { self.channels.join(", ") };
        notice(format_args!("observing {what}"));
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let mut out = io::BufWriter::new(stdout.lock());
        if terminal && !self.json {
            writeln!(out, "{:<18}  {:>7}  {:>10}  {:>10}  CHANNEL", "TIME", "PID", "SEQUENCE", "BYTES")?;
        }
        let mut left = self.count;
        while left != Some(0) {
            let next = match handle.try_recv() {
                Err(RecvError::Empty | RecvError::Connecting) => {
                    // Messages that are available are written together, and flushed before this waits.
                    if reader_gone(out.flush())? {
                        return Ok(());
                    }
                    self.wait(&mut handle)
                }
                next => next,
            };
            let written = match next {
                Ok(message) => {
                    left = left.map(|left| left - 1);
                    self.write(&mut out, &message, terminal)
                }
                Err(RecvError::Lagged(lag)) if self.json => {
                    let (channel, count) = (lag.channel.as_ref().map(ChannelName::as_str), lag.count);
                    write_json(&mut out, &serde_json::json!({ "channel": channel, "lagged": count }), terminal)
                }
                Err(lagged @ RecvError::Lagged(_)) => {
                    reader_gone(out.flush())?;
                    notice(format_args!("broadcasterd: {lagged}"));
                    Ok(())
                }
                Err(RecvError::Connect(ConnectError::NotRunning { .. })) => {
                    reader_gone(out.flush())?;
                    self.wait_for_daemon(options, &mut handle)?;
                    Ok(())
                }
                Err(error) => {
                    reader_gone(out.flush())?;
                    return Err(error.into());
                }
            };
            if reader_gone(written)? {
                return Ok(());
            }
        }
        reader_gone(out.flush())?;
        Ok(())
    }

    fn wait(&self, handle: &mut Monitor) -> Result<Message, RecvError> {
        match self.timeout {
            Some(timeout) => handle.recv_timeout(timeout),
            None => handle.recv(),
        }
    }

    /// Waits until a client has started the next daemon, and observes that one.
    fn wait_for_daemon(&self, options: &Options, handle: &mut Monitor) -> Result<(), Failure> {
        notice(format_args!("broadcasterd: the daemon has stopped; waiting for the next one"));
        let daemon = options.daemon();
        let began = Instant::now();
        loop {
            match daemon.monitor(&self.channels) {
                Ok(next) => *handle = next,
                Err(ConnectError::NotRunning { .. }) => {
                    if let Some(after) = self.timeout.filter(|timeout| began.elapsed() >= *timeout) {
                        return Err(RecvError::TimedOut { after }.into());
                    }
                    std::thread::sleep(RETRY_PAUSE);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            notice(format_args!("broadcasterd: connected again; messages in between were not observed"));
            return Ok(());
        }
    }

    fn write(&self, out: &mut impl Write, message: &Message, terminal: bool) -> io::Result<()> {
        let (now, payload) = (Zoned::now(), message.payload());
        if self.json {
            let mut object = serde_json::json!({
                "time": timestamp(&now),
                "channel": message.channel().as_str(),
                "sender": message.sender().to_string(),
                "pid": message.sender_pid(),
                "sequence": message.sequence(),
                "size": payload.len(),
            });
            if self.payload {
                match std::str::from_utf8(payload) {
                    Ok(text) => object["payload"] = text.into(),
                    Err(_) => object["payload_hex"] = hex(payload).into(),
                }
            }
            return write_json(out, &object, terminal);
        }
        let pid = message.sender_pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (sequence, bytes) = (message.sequence(), payload.len());
        let (time, channel) = (now.strftime("%H:%M:%S%.3f%:z"), escaped(message.channel().as_str()));
        write!(out, "{time}  {pid:>7}  {sequence:>10}  {bytes:>10}  {channel}")?;
        if self.payload {
            write!(out, "  {}", preview(payload))?;
        }
        writeln!(out)
    }
}

/// The beginning of a payload, without control characters.
fn preview(payload: &[u8]) -> String {
    let head = &payload[..payload.len().min(PREVIEW_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(head);
    let mut line: String = text.chars().take(PREVIEW_CHARS_MAX).map(|c| if is_active(c) { '.' } else { c }).collect();
    if text.chars().count() > PREVIEW_CHARS_MAX || head.len() < payload.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preview_is_short_and_contains_no_control_characters() {
        assert_eq!(preview(b"hello"), "hello");
        assert_eq!(preview(b"\x1b[31mred\nline\xff"), ".[31mred.line\u{fffd}");
        assert_eq!(preview("a\u{9b}b\u{202e}c".as_bytes()), "a.b.c");
        let long = preview("ä".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), PREVIEW_CHARS_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
