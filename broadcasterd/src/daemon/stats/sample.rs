//! Statistics for tests: every field has a distinct value.

use super::model::{Channel, Connection, Daemon, Phase, Retained, SCHEMA, Stats};

/// A name that every format has to escape.
pub(crate) const ODD_NAME: &str = r#"a "quoted" \name\n, {x="y"} 新聞"#;

/// A daemon with two channels and three connections.
pub(crate) fn stats() -> Stats {
    let channels = vec![channel("com.example.sync", 7), channel(ODD_NAME, 50)];
    let connections = vec![
        connection(1, "listener", &["com.example.sync"]),
        connection(2, "sender", &["com.example.sync", ODD_NAME]),
        connection(3, "listener", &[ODD_NAME]),
    ];
    Stats { schema: SCHEMA, daemon: daemon(), channels, channels_omitted: 0, connections, connections_omitted: 0 }
}

fn daemon() -> Daemon {
    Daemon {
        version: "1.2.3".to_owned(),
        protocol: 1,
        pid: 4321,
        socket: "/run/user/1000/broadcaster/bus.sock".to_owned(),
        uptime_ms: 61_500,
        connections: 3,
        senders: 1,
        listeners: 2,
        observers: 0,
        messages_accepted: 12_345,
        bytes_accepted: 4 << 20,
        messages_delivered: 24_680,
        messages_lost: 11,
        replies_accepted: 7,
        replies_dropped: 3,
        messages_replayed: 21,
        retention_declined: 5,
        connections_refused: 2,
        listeners_left_behind: 8,
        held_bytes: 1 << 20,
        held_bytes_max: 256 << 20,
        retained_messages: 4,
        retained_channels: 2,
        retained_bytes: 4200,
        retained_bytes_max: 16 << 20,
        queue_bytes_max: 4 << 20,
        queue_messages_max: 65_536,
        rings: 9,
        links: 14,
        ring_messages_accepted: 6000,
        connections_max: 4096,
        channels_max: 65_537,
    }
}

/// A channel with this many accepted messages.
pub(crate) fn channel(name: &str, messages: u64) -> Channel {
    Channel {
        name: name.to_owned(),
        senders: 1,
        listeners: 2,
        messages_accepted: messages,
        bytes_accepted: messages * 100,
        messages_lost: 3,
        backpressure: 1,
        waits_for: Some(3),
        retained: Some(Retained {
            retained_messages: 2,
            retained_bytes: 2100,
            sender: "4321.0000002a".to_owned(),
            sender_pid: 4321,
            age_ms: 1500,
            lifetime_ms: Some(58_500),
        }),
    }
}

/// A connection of this kind whose counters follow from its id. No process has its process id.
pub(crate) fn connection(id: u64, kind: &str, channels: &[&str]) -> Connection {
    let open = |is: bool| if is { channels.len().max(1) as u64 } else { 0 };
    Connection {
        id,
        pid: 0x7fff_0000 + u32::try_from(id).expect("a small id"),
        process: None,
        phase: Phase::Active,
        purpose: kind.to_owned(),
        publications: open(kind.contains("sender")),
        subscriptions: open(kind.contains("listener")),
        observers: open(kind == "observer"),
        age_ms: 1000 * id,
        channels: channels.iter().map(ToString::to_string).collect(),
        channels_total: u64::try_from(channels.len()).expect("few"),
        messages: 100 * id,
        bytes: 10_000 * id,
        messages_lost: 5 * id,
        queue_messages: 2 * id,
        queue_bytes: 2000 * id,
        blocked_ms: (id > 1).then_some(1500 * id),
        backpressure: u64::from(kind.contains("sender")),
        waits_for: kind.contains("sender").then_some(3),
        delaying: id / 3,
        delays: id / 2,
        delayed_ms: 700 * (id / 2),
        left_behind: false,
        rings: u64::from(kind.contains("sender")),
        ring_readers: if kind.contains("sender") { 12 } else { 0 },
        ring_listeners: if kind.contains("sender") { 13 } else { 0 },
        links: u64::from(kind.contains("listener")),
    }
}
