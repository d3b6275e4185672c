//! `broadcasterd presence`: which processes listen to a channel, and each that joins or leaves. It receives no messages and does not count
//! as a listener.

use super::bus::Bus;
use super::time::timeout;
use crate::exit::{Code, Failure};
use crate::output::{escaped_line, notice, timestamp, write_json};
use clap::Args;
use jiff::Zoned;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use system_broadcaster::{PresenceEvent, RecvError};

#[derive(Debug, Args)]
pub(super) struct Presence {
    /// The channel, such as com.example.sync
    channel: String,

    /// List the listeners and exit
    #[arg(long)]
    once: bool,

    /// Exit after this many lines
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "once")]
    count: Option<u64>,

    /// Exit with code 3 when no listener has joined or left for this long, such as 500ms or 5s; a plain number is in seconds
    #[arg(short, long, value_name = "TIME", value_parser = timeout, conflicts_with = "once")]
    timeout: Option<Duration>,

    /// Print one JSON object for each listener that joins or leaves
    #[arg(long)]
    json: bool,
}

impl Presence {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let mut presence = bus.options()?.presence(&self.channel)?;
        if !self.once {
            notice(format_args!("watching {}", self.channel));
        }
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let mut out = stdout.lock();
        let mut left = if self.once { Some(presence.present().count() as u64) } else { self.count };
        while left != Some(0) {
            let event = match self.timeout {
                Some(timeout) => presence.recv_timeout(timeout),
                None => presence.recv(),
            };
            self.write(&mut out, &event.map_err(failure)?, terminal)?;
            left = left.map(|left| left - 1);
        }
        Ok(())
    }

    /// A line is written at once: no other may follow for long.
    fn write(&self, out: &mut impl Write, event: &PresenceEvent, terminal: bool) -> io::Result<()> {
        let (peer, did) = match event {
            PresenceEvent::Left(peer) => (peer, "left"),
            other => (other.peer(), "joined"),
        };
        if self.json {
            let object = serde_json::json!({
                "time": timestamp(&Zoned::now()),
                "channel": self.channel,
                "event": did,
                "listener": peer.id().to_string(),
                "pid": peer.pid(),
                "purpose": peer.purpose(),
            });
            return write_json(out, &object, terminal);
        }
        let pid = peer.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        writeln!(out, "{did:<6}  {pid:>7}  {}", escaped_line(peer.purpose()))
    }
}

fn failure(error: RecvError) -> Failure {
    match error {
        RecvError::TimedOut { after } => {
            Failure::new(Code::TimedOut, format!("no listener has joined or left within {after:?}"))
        }
        error => error.into(),
    }
}
