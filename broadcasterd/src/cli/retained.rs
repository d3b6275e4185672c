//! `broadcasterd get` and `retained`: what the daemon retains. Neither starts one.

use super::bus::Bus;
use super::listen::object;
use crate::daemon::stats::model::{self, Channel};
use crate::exit::{Code, Failure};
use crate::observe::stats::fetch::Client;
use crate::observe::stats::text::{lines, retained};
use crate::output::{escaped, escaped_bytes, escaped_json, notice, write_json};
use clap::Args;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use system_broadcaster::{ConnectError, Message, Options, RecvError};

#[derive(Debug, Args)]
pub(super) struct Get {
    /// The channel, such as com.example.theme
    channel: String,

    /// Print one JSON object, as listen does
    #[arg(long)]
    json: bool,
}

impl Get {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let value = running(bus)?.retained_value(&self.channel).map_err(|error| match error {
            RecvError::Connect(error) => failure(error),
            error => error.into(),
        })?;
        let nothing = || Failure::new(Code::Retained, format!("nothing is retained on channel {:?}", self.channel));
        self.write(&value.ok_or_else(nothing)?)?;
        Ok(())
    }

    /// The payload byte for byte; on a terminal with active characters escaped, and a newline.
    fn write(&self, value: &Message) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match (self.json, out.is_terminal()) {
            (true, terminal) => write_json(&mut out, &object(value), terminal)?,
            (false, true) => writeln!(out, "{}", escaped_bytes(value.payload()))?,
            (false, false) => out.write_all(value.payload())?,
        }
        out.flush()
    }
}

#[derive(Debug, Args)]
pub(super) struct Retained {
    /// Clear what is retained on these channels, rather than list anything
    #[arg(long, value_name = "CHANNEL", num_args = 1..)]
    clear: Vec<String>,

    /// Print one JSON object for each channel (see STATS.md)
    #[arg(long, conflicts_with = "clear")]
    json: bool,
}

impl Retained {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        if let Some((first, others)) = self.clear.split_first() {
            let mut sender = running(bus)?.sender(first).map_err(failure)?;
            sender.clear_retained()?;
            return others.iter().try_for_each(|channel| {
                sender.clear_retained_on(channel)?;
                Ok(())
            });
        }
        let stats = Client::new(bus.options()?)?.fetch()?;
        let channels: Vec<&Channel> = stats.channels.iter().filter(|channel| channel.retained.is_some()).collect();
        if stats.channels_omitted > 0 {
            let omitted = stats.channels_omitted;
            notice(format_args!("broadcasterd: note: {omitted} channels with fewer messages are not searched"));
        }
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        let text = match self.json {
            true => lines(&channels.iter().map(|channel| Entry::of(channel)).collect::<Vec<_>>())?,
            false => retained(&channels).render(super::stats::terminal_width()),
        };
        let text = match (terminal, self.json) {
            (false, _) => text.into(),
            (true, true) => escaped_json(&text),
            (true, false) => escaped(&text),
        };
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// What is retained of one channel, as one object.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    channel: &'a str,
    #[serde(flatten)]
    retained: Option<&'a model::Retained>,
}

impl<'a> Entry<'a> {
    fn of(channel: &'a Channel) -> Self {
        Self { channel: &channel.name, retained: channel.retained.as_ref() }
    }
}

/// How to connect to a daemon that is running: another one retains nothing.
fn running(bus: &Bus) -> Result<Options, Failure> {
    Ok(bus.options()?.autostart(false).embedded(false))
}

fn failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::NotRunning { .. } => Failure::new(Code::NotRunning, error),
        error => error.into(),
    }
}
