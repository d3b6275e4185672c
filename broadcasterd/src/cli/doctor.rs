//! `broadcasterd doctor`: diagnoses problems and suggests fixes. It never starts a daemon and changes nothing.

use super::bus::Bus;
use crate::exit::{Code, Failure};
use crate::observe::doctor;
use crate::output::permits_colours;
use clap::Args;
use std::io::{self, IsTerminal, Write};
use system_broadcaster::Options;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print one JSON object: schema, verdict, level, and findings with check, level, finding and remedy
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        // Not `bus.options()`: the path of this program is not needed, and may not be known.
        let options = match bus.socket()? {
            Some(socket) => Options::new().socket(socket),
            None => Options::new(),
        };
        let report = doctor::examine(&options, bus.is_given());
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            let colours = out.is_terminal() && permits_colours();
            out.write_all(report.text(colours).as_bytes())?;
        }
        out.flush()?;
        if report.is_bad() { Err(Failure::reported(Code::Failed)) } else { Ok(()) }
    }
}
