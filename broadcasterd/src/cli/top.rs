//! `broadcasterd top`: the bus, watched. It never starts a daemon.

use super::{Bus, duration};
use crate::exit::{Code, Failure};
use crate::stats::fetch::Client;
use crate::stats::model::Stats;
use crate::top::{Choice, INTERVALS, Missing, SMALLEST, Sampler, Table, interval_limits, once, watch};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest screen of `--size`.
const LARGEST: (u16, u16) = (500, 500);

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How often to look, from 100ms to 1min
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// The table to begin with
    #[arg(long, value_name = "TABLE", default_value = "channels")]
    view: View,

    /// Show only channels, or processes, whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,

    /// Print one screen as plain text, from two samples an interval apart, and end
    #[arg(long)]
    once: bool,

    /// How large that screen is, in columns and rows
    #[arg(long, value_name = "WxH", default_value = "80x24", value_parser = size, requires = "once")]
    size: (u16, u16),

    /// Show recorded samples instead, one line of JSON each; `null` stands for no daemon
    #[arg(long, value_name = "FILE", hide = true)]
    replay: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum View {
    Channels,
    Peers,
}

impl Top {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let table = match self.view {
            View::Channels => Table::Channels,
            View::Peers => Table::Peers,
        };
        let choice = Choice { interval: self.interval, table, filter: self.filter.clone() };
        if self.once {
            let (width, height) = self.size;
            let screen = once(&choice, self.sampler(bus)?, width, height).map_err(|missing| match missing {
                Missing::NoDaemon => Failure::new(Code::NobodyThere, "no daemon runs, and top never starts one"),
                Missing::Failed(code, why) => Failure::new(code, why),
            })?;
            return Ok(io::stdout().lock().write_all(screen.as_bytes())?);
        }
        if !io::stdout().is_terminal() {
            let sentence =
                "top needs a terminal, and stdout is none; `top --once` prints one screen, `stats` the numbers";
            return Err(Failure::new(Code::Usage, sentence));
        }
        Ok(watch(&choice, self.sampler(bus)?)?)
    }

    /// Where the numbers come from.
    fn sampler(&self, bus: &Bus) -> Result<Sampler, Failure> {
        match &self.replay {
            Some(path) => Ok(replay(path)?),
            None => live(bus),
        }
    }
}

/// The running daemon.
fn live(bus: &Bus) -> Result<Sampler, Failure> {
    let client = Client::new(bus.options()?)?;
    Ok(Box::new(move || {
        client.fetch().map_err(|failure| match failure.code() {
            Code::NobodyThere => Missing::NoDaemon,
            code => Missing::Failed(code, failure.to_string()),
        })
    }))
}

/// A line for each sample; after the last one the daemon is gone.
fn replay(path: &Path) -> io::Result<Sampler> {
    let file =
        File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut lines = BufReader::new(file).lines();
    Ok(Box::new(move || {
        let failed =
            |error: &dyn std::fmt::Display| Missing::Failed(Code::Failed, format!("the recording is odd: {error}"));
        let line = lines.next().ok_or(Missing::NoDaemon)?.map_err(|error| failed(&error))?;
        let sample: Option<Stats> = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        sample.ok_or(Missing::NoDaemon)
    }))
}

/// A time within [`INTERVALS`].
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if INTERVALS.contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("an interval is {}; try 1s", interval_limits()))
    }
}

/// A size such as `80x24`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let odd = || {
        let [(least_w, least_h), (most_w, most_h)] = [SMALLEST, LARGEST];
        format!("a size is columns x rows, {least_w}x{least_h} to {most_w}x{most_h}; try 80x24")
    };
    let (width, height) = text.split_once('x').ok_or_else(odd)?;
    let size: (u16, u16) = (width.parse().map_err(|_| odd())?, height.parse().map_err(|_| odd())?);
    let fits = (SMALLEST.0..=LARGEST.0).contains(&size.0) && (SMALLEST.1..=LARGEST.1).contains(&size.1);
    if fits { Ok(size) } else { Err(odd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_keeps_to_its_limits() {
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(interval("1min"), Ok(Duration::from_secs(60)));
        for odd in ["99ms", "61s", "0s", "", "soon"] {
            assert!(interval(odd).is_err_and(|error| error.contains("try")), "{odd}");
        }
    }

    #[test]
    fn size_keeps_to_its_limits() {
        assert_eq!(["40x10", "80x24", "500x500"].map(size), [Ok((40, 10)), Ok((80, 24)), Ok((500, 500))]);
        for odd in ["39x10", "40x9", "501x24", "80", "80x", "x24", "80x24x3", "-1x24", "80X24"] {
            assert!(size(odd).is_err_and(|error| error.contains("40x10 to 500x500")), "{odd}");
        }
    }
}
