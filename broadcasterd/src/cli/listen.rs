//! `broadcasterd listen`: the messages on a channel, on stdout.

use super::{Bus, duration, hex, reader_left};
use crate::exit::{Failure, say};
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::time::Duration;
use system_broadcaster::{Lag, Message, Overflow, RecvError};

#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// The channel, such as com.example.sync
    channel: String,

    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,

    /// Give up, with exit code 3, when no message has come for this long
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// What the daemon drops when this listener does not keep up
    #[arg(long, value_name = "POLICY", default_value = "drop-oldest")]
    overflow: Policy,

    #[command(flatten)]
    format: Format,
}

/// How a message looks. Without a choice: the payload and a line end.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
struct Format {
    /// One JSON object per message, and per hole
    #[arg(long)]
    json: bool,

    /// The payload alone, byte for byte, without a line end
    #[arg(long)]
    raw: bool,

    /// The payload in hexadecimal, a line each
    #[arg(long)]
    hex: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    DropOldest,
    DropNewest,
    Latest,
    Disconnect,
}

impl From<Policy> for Overflow {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::DropOldest => Self::DropOldest,
            Policy::DropNewest => Self::DropNewest,
            Policy::Latest => Self::Latest,
            Policy::Disconnect => Self::Disconnect,
        }
    }
}

impl Listen {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let mut listener = bus.options()?.overflow(self.overflow.into()).listener(&self.channel)?;
        say(format_args!("listening on {}", listener.channel()));
        let mut stdout = io::BufWriter::new(io::stdout().lock());
        let mut left = self.count;
        while left != Some(0) {
            // What is there already goes out in one write; it is flushed before this waits.
            let next = match listener.try_recv() {
                Err(RecvError::Empty) => {
                    if reader_left(stdout.flush())? {
                        return Ok(());
                    }
                    match self.timeout {
                        Some(timeout) => listener.recv_timeout(timeout),
                        None => listener.recv(),
                    }
                }
                next => next,
            };
            let written = match next {
                Ok(message) => {
                    left = left.map(|left| left - 1);
                    self.format.write(&mut stdout, &message)
                }
                Err(RecvError::Lagged(lag)) => self.format.write_lag(&mut stdout, &lag),
                Err(error) => {
                    reader_left(stdout.flush())?;
                    return Err(error.into());
                }
            };
            if reader_left(written)? {
                return Ok(());
            }
        }
        reader_left(stdout.flush())?;
        Ok(())
    }
}

impl Format {
    fn write(self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        let payload = message.payload();
        if self.json {
            let (key, payload) = match std::str::from_utf8(payload) {
                Ok(text) => ("payload", text.to_owned()),
                Err(_) => ("payload_hex", hex(payload)),
            };
            let object = serde_json::json!({
                "channel": message.channel().as_str(),
                "sender": message.sender().to_string(),
                "pid": message.sender_pid(),
                "sequence": message.sequence(),
                key: payload,
            });
            writeln!(out, "{object}")
        } else if self.raw {
            out.write_all(payload)
        } else if self.hex {
            writeln!(out, "{}", hex(payload))
        } else {
            out.write_all(payload)?;
            out.write_all(b"\n")
        }
    }

    fn write_lag(self, out: &mut impl Write, lag: &Lag) -> io::Result<()> {
        if self.json {
            writeln!(out, "{}", serde_json::json!({ "channel": lag.channel.as_str(), "lagged": lag.count }))
        } else {
            out.flush()?;
            say(format_args!("broadcasterd: {}", RecvError::Lagged(lag.clone())));
            Ok(())
        }
    }
}
