//! Invented statistics for tests: a busy bus. They never change, since the screens in the documentation are drawn from them.

use super::app::{Action, App};
use super::columns::Table;
use crate::daemon::stats::model::{Channel, Connection, Daemon, Phase, SCHEMA, Stats};
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use std::time::Duration;

pub(crate) fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn daemon(uptime_ms: u64) -> Daemon {
    Daemon {
        version: "0.2.0".into(),
        protocol: 1,
        pid: 4711,
        socket: "/run/user/1000/broadcaster/bus.sock".into(),
        uptime_ms,
        connections: 0,
        senders: 0,
        listeners: 0,
        observers: 0,
        messages_accepted: 0,
        bytes_accepted: 0,
        messages_delivered: 0,
        messages_lost: 0,
        replies_accepted: 0,
        replies_dropped: 0,
        connections_refused: 0,
        messages_replayed: 0,
        retention_declined: 0,
        listeners_left_behind: 0,
        held_bytes: 0,
        held_bytes_max: 256 << 20,
        retained_messages: 0,
        retained_channels: 0,
        retained_bytes: 0,
        retained_bytes_max: 16 << 20,
        queue_bytes_max: 4 << 20,
        queue_messages_max: 65_536,
        rings: 0,
        links: 0,
        ring_messages_accepted: 0,
        connections_max: 4096,
        channels_max: 65_536,
    }
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel {
        name: name.into(),
        senders: 1,
        listeners: 1,
        messages_accepted: 0,
        bytes_accepted: 0,
        messages_lost: 0,
        backpressure: 0,
        waits_for: None,
        retained: None,
    }
}

/// A connection of this kind.
pub(crate) fn connection(id: u64, pid: u32, kind: &str) -> Connection {
    Connection {
        id,
        pid,
        process: None,
        phase: if kind == "greeting" { Phase::Greeting } else { Phase::Active },
        purpose: String::new(),
        publications: u64::from(kind.contains("sender")),
        subscriptions: u64::from(kind.contains("listener")),
        observers: u64::from(kind == "observer"),
        age_ms: 0,
        channels: vec![],
        channels_total: 0,
        messages: 0,
        bytes: 0,
        messages_lost: 0,
        queue_messages: 0,
        queue_bytes: 0,
        blocked_ms: None,
        backpressure: 0,
        waits_for: None,
        delaying: 0,
        delays: 0,
        delayed_ms: 0,
        left_behind: false,
        rings: 0,
        ring_readers: 0,
        ring_listeners: 0,
        links: 0,
    }
}

pub(crate) fn stats(daemon: Daemon, channels: Vec<Channel>, connections: Vec<Connection>) -> Stats {
    Stats { schema: SCHEMA, daemon, channels, channels_omitted: 0, connections, connections_omitted: 0 }
}

/// A busy bus at this second: one listener that has stopped reading, one that falls behind, and others that keep up.
pub(crate) fn busy(second: u64) -> Stats {
    let all = |name: &str, senders, listeners, messages, bytes, lost| Channel {
        name: name.into(),
        senders,
        listeners,
        messages_accepted: 500_000 + messages * second,
        bytes_accepted: 90_000_000 + bytes * second,
        messages_lost: lost * second,
        backpressure: 0,
        waits_for: None,
        retained: None,
    };
    let peer = |id, pid, process: &str, kind, channels: &[&str], messages, bytes| Connection {
        process: Some(process.into()),
        age_ms: 7_000_000 + id * 1000 + second * 1000,
        channels: channels.iter().map(|&name| name.into()).collect(),
        channels_total: channels.len() as u64,
        messages: 400_000 + messages * second,
        bytes: 60_000_000 + bytes * second,
        ..connection(id, pid, kind)
    };
    let mut tray = peer(4, 5120, "tray-icon", "listener", &["com.example.sync"], 0, 0);
    (tray.queue_messages, tray.queue_bytes) = (40_960, 4_194_176);
    (tray.messages_lost, tray.blocked_ms) = (12_000 + 2_400 * second, Some(92_000 + 1000 * second));
    let mut indexer = peer(5, 5121, "indexer", "listener", &["com.example.log", "com.example.sync"], 2_100, 860_000);
    (indexer.queue_messages, indexer.queue_bytes, indexer.blocked_ms) = (9_216, 2_500_000, Some(340));
    let mut editor = peer(6, 5200, "editor", "listener", &["com.example.sync"], 2_400, 614_400);
    (editor.queue_messages, editor.queue_bytes) = (12, 3_072);
    let monitor = peer(8, 5300, "broadcasterd", "observer", &[], 2_460, 700_000);
    Stats {
        schema: SCHEMA,
        channels_omitted: 0,
        connections_omitted: 0,
        daemon: Daemon {
            connections: 8,
            senders: 3,
            listeners: 3,
            observers: 1,
            messages_accepted: 1_500_000 + 2_460 * second,
            bytes_accepted: 270_000_000 + 800_000 * second,
            messages_delivered: 3_000_000 + 7_000 * second,
            messages_lost: 12_000 + 2_400 * second,
            connections_refused: 1,
            held_bytes: 6_700_000,
            ..daemon(7_980_000 + 1000 * second)
        },
        channels: vec![
            all("com.example.done", 0, 1, 0, 0, 0),
            all("com.example.log", 1, 1, 60, 185_600, 0),
            all("com.example.sync", 2, 3, 2_400, 614_400, 2_400),
            all("同步.頻道.例え.👩‍👩‍👧‍👦.com.example.a-rather-long-name-for-a-channel", 1, 1, 0, 0, 0),
        ],
        connections: vec![
            peer(1, 4800, "backup", "sender", &["com.example.sync"], 2_000, 512_000),
            peer(2, 4801, "sync-cli", "sender", &["com.example.sync"], 400, 102_400),
            peer(3, 4900, "tail-log", "sender", &["com.example.log"], 60, 185_600),
            tray,
            indexer,
            editor,
            peer(7, 5201, "一つの長い名前のプロセス", "greeting", &["同步.頻道"], 0, 0),
            monitor,
        ],
    }
}

/// An app with two samples of the busy bus.
pub(crate) fn busy_app(table: Table) -> App {
    let mut app = App::new(at(1), table);
    for second in 1..=2 {
        app.tick(at(second));
        assert!(app.wants_sample());
        app.sampled(at(second), Ok(busy(second)));
    }
    app
}

/// An app with fifty samples of the busy bus, with bursts.
pub(crate) fn watched_app(table: Table) -> App {
    let mut app = App::new(at(1), table);
    let (mut accepted, mut lost) = (0, 0);
    for second in 1..=50_u64 {
        accepted += second * 37 % 11 * 180;
        lost += second.saturating_sub(38) * 120;
        let mut sample = busy(second);
        sample.daemon.messages_accepted += accepted;
        sample.daemon.messages_lost = lost;
        app.tick(at(second));
        app.sampled(at(second), Ok(sample));
    }
    app
}

/// Presses keys that do not quit.
pub(crate) fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        assert_eq!(app.key(KeyEvent::from(KeyCode::Char(key))), Action::Nothing);
    }
}

/// Types into the filter.
pub(crate) fn type_in(app: &mut App, text: &str) {
    assert!(app.is_editing());
    press(app, text);
}
