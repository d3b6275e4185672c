//! `broadcasterd top`: a live view of the bus. It never starts a daemon.

use super::bus::Bus;
use super::time::duration;
use crate::exit::{Code, Failure};
use crate::observe::top::{
    Choice, INTERVALS, Missing, SMALLEST, Sampler, Table, interval_limits, live, once, replay, watch,
};
use clap::{Args, ValueEnum};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The largest screen of `--size`.
const LARGEST: (u16, u16) = (500, 500);

#[derive(Debug, Args)]
pub(super) struct Top {
    /// The time between samples, from 100ms to 1min; a plain number is in seconds
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// The table to show first
    #[arg(long, value_name = "TABLE", default_value = "channels")]
    view: View,

    /// Show only channels or processes whose name contains this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,

    /// Print one screen as plain text, from two samples an interval apart, and exit
    #[arg(long)]
    once: bool,

    /// The size of that screen, in columns and rows
    #[arg(long, value_name = "WxH", default_value = "80x24", value_parser = size, requires = "once")]
    size: (u16, u16),

    /// Show recorded samples instead, one JSON object per line; `null` stands for no daemon
    #[arg(long, value_name = "FILE", hide = true)]
    replay: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum View {
    Channels,
    Peers,
}

impl Top {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let table = match self.view {
            View::Channels => Table::Channels,
            View::Peers => Table::Peers,
        };
        let choice = Choice { interval: self.interval, table, filter: self.filter.clone() };
        if self.once {
            let (width, height) = self.size;
            let screen = once(&choice, self.sampler(bus)?, width, height).map_err(|missing| match missing {
                Missing::NoDaemon => Failure::new(Code::NotRunning, "no daemon is running, and top never starts one"),
                Missing::Failed(code, why) => Failure::new(code, why),
            })?;
            return Ok(io::stdout().lock().write_all(screen.as_bytes())?);
        }
        if !io::stdout().is_terminal() {
            let sentence = "top needs a terminal, and stdout is not one; `top --once` prints one screen, `stats` prints the numbers";
            return Err(Failure::new(Code::Usage, sentence));
        }
        Ok(watch(&choice, self.sampler(bus)?)?)
    }

    /// The source of the samples.
    fn sampler(&self, bus: &Bus) -> Result<Sampler, Failure> {
        match &self.replay {
            Some(path) => Ok(replay(path)?),
            None => live(bus.options()?),
        }
    }
}

/// An interval within [`INTERVALS`].
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if INTERVALS.contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("an interval must be from {}; try 1s", interval_limits()))
    }
}

/// A size such as `80x24`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let invalid = || {
        let [(least_w, least_h), (most_w, most_h)] = [SMALLEST, LARGEST];
        format!("a size is columns x rows, from {least_w}x{least_h} to {most_w}x{most_h}; try 80x24")
    };
    let (width, height) = text.split_once('x').ok_or_else(invalid)?;
    let size: (u16, u16) = (width.parse().map_err(|_| invalid())?, height.parse().map_err(|_| invalid())?);
    let fits = (SMALLEST.0..=LARGEST.0).contains(&size.0) && (SMALLEST.1..=LARGEST.1).contains(&size.1);
    if fits { Ok(size) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_within_its_limits() {
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(interval("1min"), Ok(Duration::from_secs(60)));
        for invalid in ["99ms", "61s", "0s", "", "soon"] {
            assert!(interval(invalid).is_err_and(|error| error.contains("try")), "{invalid}");
        }
    }

    #[test]
    fn size_is_within_its_limits() {
        assert_eq!(["40x10", "80x24", "500x500"].map(size), [Ok((40, 10)), Ok((80, 24)), Ok((500, 500))]);
        for invalid in ["39x10", "40x9", "501x24", "80", "80x", "x24", "80x24x3", "-1x24", "80X24"] {
            assert!(size(invalid).is_err_and(|error| error.contains("40x10 to 500x500")), "{invalid}");
        }
    }
}
