//! `broadcasterd doctor`: names the cause of trouble and the remedy. It never starts a daemon and changes nothing.

use super::Bus;
use crate::doctor;
use crate::exit::{Code, Failure};
use clap::Args;
use std::io::{self, IsTerminal, Write};
use system_broadcaster::Options;

#[derive(Debug, Args)]
#[command(after_help = "\
Each line begins with ok, note, WARN (the bus works, and may not for everybody or for long) or FAIL (it does not work).
A remedy stands below it. Exit code: 0 without a FAIL, 1 with one.")]
pub(crate) struct Doctor {
    /// One JSON object: schema, verdict, level, and findings with check, level, finding and remedy
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        // Without the program to start a daemon: it is not needed, and may not be to be found.
        let options = match bus.socket()? {
            Some(socket) => Options::new().socket(socket),
            None => Options::new(),
        };
        let report = doctor::examine(&options, bus.socket.is_some());
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            out.write_all(report.text(colours).as_bytes())?;
        }
        out.flush()?;
        if report.is_bad() { Err(Failure::told(Code::Failed)) } else { Ok(()) }
    }
}
