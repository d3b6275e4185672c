//! `broadcasterd monitor`: the messages of the bus as they pass. It never starts a daemon.

use super::bus::Bus;
use super::time::timeout;
use crate::exit::Failure;
use crate::observe::monitor::Watch;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// The channels to observe; all channels if omitted
    channels: Vec<String>,

    /// Exit after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,

    /// Exit with code 3 when no message has arrived for this long, such as 500ms or 5s; a plain number is in seconds
    #[arg(short, long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,

    /// Show the payload as well: its beginning, or all of it with --json
    #[arg(short, long)]
    payload: bool,

    /// Print one JSON object for each message and for each gap
    #[arg(long)]
    json: bool,
}

impl Monitor {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let watch = Watch {
            channels: self.channels.clone(),
            count: self.count,
            timeout: self.timeout,
            payload: self.payload,
            json: self.json,
        };
        watch.run(&bus.options()?)
    }
}
