//! The daemon's statistics: the service on the stats socket, and the schema that the command reads. No request changes anything.

pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod model;
mod pages;
mod process;
pub(crate) mod route;
#[cfg(test)]
pub(crate) mod sample;
mod service;

use crate::os;
#[cfg(target_os = "linux")]
use broadcaster_protocol::control::Report;
use broadcaster_protocol::limits::PROTOCOL_MAX;
use broadcaster_server::{AuxiliaryListener, ChannelSnapshot, ConnPhase, ConnSnapshot, Limits, ServerHandle, Snapshot};
use model::{CONNECTION_CHANNELS_MAX, Channel, Connection, Daemon, ENTRIES_MAX, Phase, Retained, SCHEMA, Stats};
use pages::IntoStats;
use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Serves the statistics of `server` on `listener` for as long as the server runs.
pub(crate) async fn serve(listener: AuxiliaryListener, about: About, server: ServerHandle) {
    let listener = match os::stats_listener(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "cannot serve statistics"),
    };
    let about = Arc::new(about);
    let source = move || -> Option<IntoStats> {
        let (snapshot, about) = (server.snapshot()?, Arc::clone(&about));
        Some(Box::new(move || about.stats(&snapshot)))
    };
    http::serve_all(listener, source).await;
}

/// What does not change while a daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) socket: PathBuf,
    pub(crate) limits: Limits,
}

impl About {
    /// The statistics of a snapshot, without the names of processes.
    pub(crate) fn stats(&self, snapshot: &Snapshot) -> Stats {
        let count =
            |has: fn(&ConnSnapshot) -> usize| snapshot.connections.iter().filter(|conn| has(conn) > 0).count() as u64;
        let (totals, limits) = (&snapshot.stats, &self.limits);
        let mut connections: Vec<Connection> = snapshot.connections.iter().map(connection).collect();
        connections.sort_by_key(|it| (Reverse(it.queue_bytes), Reverse(it.messages_lost), Reverse(it.age_ms)));
        let connections_omitted = truncate(&mut connections);
        connections.sort_by_key(|connection| Reverse(connection.age_ms));
        let mut channels: Vec<&ChannelSnapshot> = snapshot.channels.iter().collect();
        channels.sort_by_key(|channel| Reverse(channel.messages_accepted));
        let channels_omitted = truncate(&mut channels);
        channels.sort_by(|one, other| one.name.cmp(&other.name));
        Stats {
            schema: SCHEMA,
            daemon: Daemon {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                protocol: PROTOCOL_MAX,
                pid: std::process::id(),
                socket: self.socket.display().to_string(),
                uptime_ms: ms(snapshot.uptime),
                connections: snapshot.connections.len() as u64,
                senders: count(|conn| conn.publications),
                listeners: count(|conn| conn.subscriptions),
                observers: count(|conn| conn.observers),
                messages_accepted: totals.messages_accepted,
                bytes_accepted: totals.bytes_accepted,
                messages_delivered: totals.messages_delivered,
                messages_lost: totals.messages_lost,
                replies_accepted: totals.replies_accepted,
                replies_dropped: totals.replies_dropped,
                messages_replayed: totals.messages_replayed,
                retention_declined: totals.retention_declined,
                connections_refused: totals.connections_refused,
                listeners_left_behind: totals.listeners_left_behind,
                held_bytes: snapshot.held_bytes as u64,
                held_bytes_max: limits.held_bytes_max as u64,
                retained_messages: snapshot.retained_messages as u64,
                retained_channels: snapshot.retained_channels as u64,
                retained_bytes: snapshot.retained_bytes as u64,
                retained_bytes_max: limits.retained_bytes_effective() as u64,
                queue_bytes_max: limits.outbox_bytes_max as u64,
                queue_messages_max: limits.outbox_messages_max,
                rings: snapshot.rings as u64,
                links: snapshot.links as u64,
                ring_messages_accepted: totals.ring_messages_accepted,
                connections_max: limits.connections_max as u64,
                channels_max: limits.channels_max as u64,
            },
            channels: channels.into_iter().map(channel).collect(),
            channels_omitted,
            connections,
            connections_omitted,
        }
    }
}

/// Keeps the first [`ENTRIES_MAX`] entries and returns how many were dropped.
fn truncate<T>(entries: &mut Vec<T>) -> u64 {
    let omitted = entries.len().saturating_sub(ENTRIES_MAX);
    entries.truncate(ENTRIES_MAX);
    omitted as u64
}

/// The state of the bus in one line, for a service manager.
#[cfg(target_os = "linux")]
pub(crate) fn one_line(report: &Report) -> String {
    format!(
        "{} senders, {} listeners, {} channels; {} messages accepted, {} delivered, {} lost",
        report.senders,
        report.listeners,
        report.channels,
        report.messages_accepted,
        report.messages_delivered,
        report.messages_lost
    )
}

fn channel(channel: &ChannelSnapshot) -> Channel {
    Channel {
        name: channel.name.as_str().to_owned(),
        senders: channel.senders as u64,
        listeners: channel.listeners as u64,
        messages_accepted: channel.messages_accepted,
        bytes_accepted: channel.bytes_accepted,
        messages_lost: channel.messages_lost,
        backpressure: channel.backpressure as u64,
        waits_for: channel.waits_for.map(|conn| conn.0 as u64),
        retained: channel.history.as_ref().map(|history| Retained {
            retained_messages: history.messages as u64,
            retained_bytes: history.bytes as u64,
            sender: history.sender.to_string(),
            sender_pid: history.sender.pid(),
            age_ms: ms(history.age),
            lifetime_ms: history.lifetime.map(ms),
        }),
    }
}

fn connection(connection: &ConnSnapshot) -> Connection {
    let mut channels: Vec<String> = connection.channels.iter().map(|name| name.as_str().to_owned()).collect();
    channels.sort_unstable();
    channels.truncate(CONNECTION_CHANNELS_MAX);
    Connection {
        id: connection.conn.0 as u64,
        pid: connection.pid,
        process: None,
        phase: match connection.phase {
            ConnPhase::Greeting => Phase::Greeting,
            ConnPhase::Active => Phase::Active,
            ConnPhase::Leaving => Phase::Leaving,
        },
        purpose: connection.purpose.clone(),
        publications: connection.publications as u64,
        subscriptions: connection.subscriptions as u64,
        observers: connection.observers as u64,
        age_ms: ms(connection.age),
        channels,
        channels_total: connection.channels_total as u64,
        messages: connection.messages,
        bytes: connection.bytes,
        messages_lost: connection.messages_lost,
        queue_messages: connection.queue_messages,
        queue_bytes: connection.queue_bytes as u64,
        blocked_ms: connection.blocked.map(ms),
        backpressure: connection.backpressure as u64,
        waits_for: connection.waits_for.map(|conn| conn.0 as u64),
        delaying: connection.delaying as u64,
        delays: connection.delays,
        delayed_ms: ms(connection.delayed),
        left_behind: connection.left_behind,
        rings: connection.rings as u64,
        ring_readers: connection.readers as u64,
        ring_listeners: connection.ring_listeners as u64,
        links: connection.links as u64,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
