//! `broadcasterd stats`, `channels` and `peers`: the numbers of the running daemon. None of them starts one.

use super::bus::Bus;
use crate::daemon::stats::route::Route;
use crate::exit::Failure;
use crate::observe::stats::fetch::{self, Client};
use crate::observe::stats::text::{channels, lines, peers, summary};
use crate::os;
use crate::output::{escaped, escaped_json};
use clap::Args;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

#[derive(Debug, Args)]
pub(super) struct Totals {
    /// Print all numbers as one JSON object, as the daemon reports them (see STATS.md)
    #[arg(long)]
    json: bool,

    /// Print all numbers as OpenMetrics text, for monitoring systems
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

impl Totals {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let client = Client::new(bus.options()?)?;
        if self.metrics {
            return print(&client.text(Route::Metrics)?, escaped);
        }
        let text = client.text(Route::Json)?;
        let stats = fetch::parse(&text)?;
        if self.json {
            print(&format!("{text}\n"), escaped_json)
        } else {
            print(&summary(&stats, terminal_width()), escaped)
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Channels {
    /// Print one JSON object for each channel (see STATS.md)
    #[arg(long)]
    json: bool,

    /// Print only the names, one per line
    #[arg(long, conflicts_with = "json")]
    names: bool,
}

impl Channels {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let stats = Client::new(bus.options()?)?.fetch()?;
        if self.names {
            let names = stats.channels.iter().map(|channel| format!("{}\n", channel.name));
            print(&names.collect::<String>(), escaped)
        } else if self.json {
            print(&lines(&stats.channels)?, escaped_json)
        } else {
            print(&channels(&stats.channels).render(terminal_width()), escaped)
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Print one JSON object for each connection (see STATS.md)
    #[arg(long)]
    json: bool,
}

impl Peers {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let stats = Client::new(bus.options()?)?.fetch()?;
        if self.json {
            print(&lines(&stats.connections)?, escaped_json)
        } else {
            print(&peers(&stats.connections).render(terminal_width()), escaped)
        }
    }
}

/// Prints the text; on a terminal, with active characters escaped.
fn print(text: &str, escape: fn(&str) -> Cow<'_, str>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { escape(text) } else { Cow::Borrowed(text) };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The width of the terminal; `None` if the output is not a terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let width = os::terminal_width();
    Some(if width == 0 { 80 } else { usize::from(width) })
}
