//! `broadcasterd status` and `stop`: the running daemon, looked at or ended. Neither ever starts one.

use super::Bus;
use crate::exit::{Code, Failure};
use clap::Args;
use std::io::{self, Write};
use std::time::Duration;
use system_broadcaster::ConnectError;

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let status = bus.options()?.daemon().status().map_err(nobody_there)?;
        let report = &status.report;
        let mut out = io::stdout().lock();
        if self.json {
            let object = serde_json::json!({
                "version": status.version,
                "pid": status.pid,
                "protocol": status.protocol,
                "uptime_ms": report.uptime_ms,
                "connections": report.connections,
                "senders": report.senders,
                "listeners": report.listeners,
                "channels": report.channels,
                "messages_accepted": report.messages_accepted,
                "bytes_accepted": report.bytes_accepted,
                "messages_delivered": report.messages_delivered,
                "messages_lost": report.messages_lost,
                "held_bytes": report.held_bytes,
                "held_bytes_max": report.held_bytes_max,
            });
            return Ok(writeln!(out, "{object}")?);
        }
        let uptime = Duration::from_secs(report.uptime_ms / 1000);
        writeln!(out, "broadcasterd {}, process {}", status.version, status.pid)?;
        writeln!(out, "  protocol     {}", status.protocol)?;
        writeln!(out, "  up           {}", humantime::format_duration(uptime))?;
        let (senders, listeners) = (report.senders, report.listeners);
        writeln!(out, "  connections  {} ({senders} senders, {listeners} listeners, this one)", report.connections)?;
        writeln!(out, "  channels     {}", report.channels)?;
        writeln!(out, "  accepted     {} messages, {} bytes", report.messages_accepted, report.bytes_accepted)?;
        writeln!(out, "  delivered    {} messages", report.messages_delivered)?;
        writeln!(out, "  lost         {} messages", report.messages_lost)?;
        writeln!(out, "  held         {} of {} bytes", report.held_bytes, report.held_bytes_max)?;
        Ok(())
    }
}

pub(crate) fn stop(bus: &Bus) -> Result<(), Failure> {
    bus.options()?.daemon().stop().map_err(nobody_there)
}

fn nobody_there(error: ConnectError) -> Failure {
    match error {
        ConnectError::NotRunning { .. } => Failure::new(Code::NobodyThere, error),
        error => error.into(),
    }
}
