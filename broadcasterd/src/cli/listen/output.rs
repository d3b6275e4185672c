//! How `listen` prints messages and gaps. Nothing is received here.

use super::loss::Losses;
use super::template::Template;
use crate::output::{escaped, escaped_bytes, hex, timestamp, write_json};
use clap::Args;
use jiff::Zoned;
use std::io::{self, IsTerminal, StdoutLock, Write};
use system_broadcaster::{ChannelName, Lag, Message, Selector};

/// How a message is printed. Without a choice, as its payload and a newline.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(super) struct Format {
    /// Print one JSON object for each message, with the time at which it was received, and for each gap
    #[arg(long)]
    json: bool,

    /// Print only the payload, byte for byte, without a channel or a newline, also on a terminal
    #[arg(long)]
    raw: bool,

    /// Print the payload in hexadecimal, one message per line
    #[arg(long)]
    hex: bool,

    /// Print the payload and a zero byte, for `xargs -0`
    #[arg(long)]
    print0: bool,

    /// Print this text, in which {channel} {payload} {sender} {pid} {sequence} {size} {time} {replayed} stand for the facts of the message, \n \t \0
    /// \\ for a newline, a tab, a zero byte and a backslash, and {{ }} for braces; nothing is added to it
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Template>,

    /// Whether the channel precedes the payload, as there may be several.
    #[arg(skip)]
    with_channel: bool,
}

/// Stdout, with messages that are written together until it is flushed.
pub(super) struct Output<'a> {
    format: &'a Format,
    out: io::BufWriter<Observed<'a, StdoutLock<'static>>>,
    terminal: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(format: &'a Format, losses: &'a Losses) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { format, out: io::BufWriter::new(Observed { out: stdout.lock(), losses }), terminal }
    }

    /// Prints a message.
    pub(super) fn message(&mut self, message: &Message) -> io::Result<()> {
        self.format.write(&mut self.out, message, self.terminal)
    }

    /// Prints a gap, if the format has a place for it.
    pub(super) fn gap(&mut self, lag: &Lag) -> io::Result<()> {
        match self.format.json {
            true => {
                let channel = lag.channel.as_ref().map(ChannelName::as_str);
                let mut object = serde_json::json!({ "channel": channel, "lagged": lag.count });
                if let Some(pattern) = &lag.pattern {
                    object["pattern"] = pattern.as_str().into();
                }
                write_json(&mut self.out, &object, self.terminal)
            }
            false => Ok(()),
        }
    }

    /// Writes everything that was printed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Stdout. Losses are watched during each write.
struct Observed<'a, W> {
    out: W,
    losses: &'a Losses,
}

impl<W: Write> Write for Observed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.losses.during(|| self.out.write_all(bytes).and_then(|()| self.out.flush()))?;
        Ok(bytes.len())
    }

    /// Nothing is left to flush after a write.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Format {
    /// The format for a listener on these channels.
    pub(super) fn for_selectors(&self, selectors: &[Selector]) -> Self {
        Self { with_channel: !matches!(selectors, [Selector::Name(_)]), ..self.clone() }
    }

    fn write(&self, out: &mut impl Write, message: &Message, terminal: bool) -> io::Result<()> {
        let payload = message.payload();
        if self.json {
            return write_json(out, &object(message), terminal);
        }
        if let Some(template) = &self.format {
            return template.write(out, message, terminal);
        }
        if self.with_channel && !self.raw {
            let channel = message.channel().as_str();
            let channel = if terminal { escaped(channel) } else { channel.into() };
            write!(out, "{channel}\t")?;
        }
        if self.hex {
            return writeln!(out, "{}", hex(payload));
        }
        match terminal && !self.raw {
            true => write!(out, "{}", escaped_bytes(payload))?,
            false => out.write_all(payload)?,
        }
        match self {
            Self { raw: true, .. } => Ok(()),
            Self { print0: true, .. } => out.write_all(b"\0"),
            _ => out.write_all(b"\n"),
        }
    }
}

/// A message as one JSON object.
pub(in super::super) fn object(message: &Message) -> serde_json::Value {
    let (key, payload) = match std::str::from_utf8(message.payload()) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_hex", hex(message.payload())),
    };
    serde_json::json!({
        "time": timestamp(&Zoned::now()),
        "channel": message.channel().as_str(),
        "sender": message.sender().to_string(),
        "pid": message.sender_pid(),
        "sequence": message.sequence(),
        "size": message.payload().len(),
        "replayed": message.is_replayed(),
        "cleared": message.is_cleared(),
        key: payload,
    })
}

/// The sender's process id for text; `-` if it is unknown.
pub(super) fn pid(message: &Message) -> String {
    message.sender_pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}
