//! `broadcasterd status` and `stop`: the running daemon. Neither ever starts one.

use super::bus::Bus;
use crate::exit::{Code, Failure};
use crate::output::notice;
use clap::Args;
use std::io::{self, Write};
use std::time::Duration;
use system_broadcaster::{ConnectError, Status as DaemonStatus};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let status = bus.options()?.daemon().status().map_err(failure)?;
        let mut out = io::stdout().lock();
        if self.json {
            let object = serde_json::json!({
                "version": status.version,
                "pid": status.pid,
                "protocol": status.protocol,
                "uptime_ms": u64::try_from(status.uptime.as_millis()).unwrap_or(u64::MAX),
                "connections": status.connections,
                "senders": status.senders,
                "listeners": status.listeners,
                "channels": status.channels,
                "messages_accepted": status.messages_accepted,
                "bytes_accepted": status.bytes_accepted,
                "messages_delivered": status.messages_delivered,
                "messages_lost": status.messages_lost,
                "held_bytes": status.held_bytes,
                "held_bytes_max": status.held_bytes_max,
            });
            return Ok(writeln!(out, "{object}")?);
        }
        let uptime = Duration::from_secs(status.uptime.as_secs());
        writeln!(out, "broadcasterd {}, process {}", status.version, status.pid)?;
        writeln!(out, "  protocol     {}", status.protocol)?;
        writeln!(out, "  up           {}", humantime::format_duration(uptime))?;
        let (senders, listeners) = (status.senders, status.listeners);
        writeln!(out, "  connections  {} ({senders} senders, {listeners} listeners, this one)", status.connections)?;
        writeln!(out, "  channels     {}", status.channels)?;
        writeln!(out, "  accepted     {} messages, {} bytes", status.messages_accepted, status.bytes_accepted)?;
        writeln!(out, "  delivered    {} messages", status.messages_delivered)?;
        writeln!(out, "  lost         {} messages", status.messages_lost)?;
        writeln!(out, "  held         {} of {} bytes", status.held_bytes, status.held_bytes_max)?;
        Ok(())
    }
}

/// Stops the daemon, and warns about listeners that will start it again.
pub(super) fn stop(bus: &Bus) -> Result<(), Failure> {
    let stopped = stop_daemon(bus)?;
    writeln!(io::stdout(), "stopped the daemon, process {}", stopped.pid)?;
    if stopped.listeners > 0 {
        let listeners = match stopped.listeners {
            1 => "1 listener was".to_owned(),
            many => format!("{many} listeners were"),
        };
        let advice = "end them to keep it stopped; `broadcasterd peers` lists them";
        notice(format_args!("broadcasterd: note: {listeners} connected, and may start the daemon again: {advice}"));
    }
    Ok(())
}

/// Stops the daemon and returns its state from just before.
pub(super) fn stop_daemon(bus: &Bus) -> Result<DaemonStatus, Failure> {
    let daemon = bus.options()?.daemon();
    let status = daemon.status().map_err(failure)?;
    daemon.stop().map_err(failure)?;
    Ok(status)
}

fn failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::NotRunning { .. } => Failure::new(Code::NotRunning, error),
        error => error.into(),
    }
}
