//! Statistics as text for people and scripts. It never writes and never uses colour.

use crate::daemon::stats::model::{Channel, Connection, Stats};
use crate::exit::Failure;
use crate::observe::format::{count, size, time};
use crate::observe::table::{Column, Table};
use serde::Serialize;
use std::io;

/// Limit of slow listeners in the summary; `peers` shows all.
const SLOW_MAX: usize = 10;

/// One JSON object per line.
pub(crate) fn lines(items: &[impl Serialize]) -> Result<String, Failure> {
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(item).map_err(io::Error::from)?);
        text.push('\n');
    }
    Ok(text)
}

/// The totals and the slow listeners.
pub(crate) fn summary(stats: &Stats, width: Option<usize>) -> String {
    let daemon = &stats.daemon;
    let rows = [
        ("bus", daemon.socket.clone()),
        ("up", time(daemon.uptime_ms)),
        (
            "connections",
            format!(
                "{} of {} ({} senders, {} listeners, {} observers)",
                daemon.connections, daemon.connections_max, daemon.senders, daemon.listeners, daemon.observers
            ),
        ),
        ("channels", format!("{} of {}", stats.channels.len(), daemon.channels_max)),
        ("accepted", format!("{} messages, {}", count(daemon.messages_accepted), size(daemon.bytes_accepted))),
        ("delivered", format!("{} messages", count(daemon.messages_delivered))),
        ("lost", format!("{} messages", count(daemon.messages_lost))),
        ("left behind", format!("{} times, by senders with backpressure", count(daemon.listeners_left_behind))),
        ("refused", format!("{} connections", count(daemon.connections_refused))),
        ("held", format!("{} of {}", size(daemon.held_bytes), size(daemon.held_bytes_max))),
        (
            "retained",
            format!(
                "{} messages of {} channels, {} of {}",
                count(daemon.retained_messages),
                count(daemon.retained_channels),
                size(daemon.retained_bytes),
                size(daemon.retained_bytes_max)
            ),
        ),
        (
            "rings",
            format!(
                "{} in shared memory, {} links to listeners that read them, {} messages so far",
                daemon.rings,
                daemon.links,
                count(daemon.ring_messages_accepted)
            ),
        ),
        ("queue", format!("at most {} or {} messages each", size(daemon.queue_bytes_max), daemon.queue_messages_max)),
    ];
    let mut text = format!("broadcasterd {}, process {}\n", daemon.version, daemon.pid);
    for (name, value) in rows {
        text.push_str(&format!("  {name:<12} {value}\n"));
    }
    let mut slow: Vec<&Connection> =
        stats.connections.iter().filter(|connection| connection.is_slow(&stats.daemon)).collect();
    if slow.is_empty() {
        return text;
    }
    slow.sort_by_key(|connection| std::cmp::Reverse((connection.queue_bytes, connection.messages_lost)));
    let more = slow.len().saturating_sub(SLOW_MAX);
    slow.truncate(SLOW_MAX);
    text.push_str("\nSlow listeners\n\n");
    text.push_str(&peers(slow).render(width));
    if more > 0 {
        text.push_str(&format!("and {more} more: see broadcasterd peers\n"));
    }
    text
}

/// The channels as a table.
pub(crate) fn channels(channels: &[Channel]) -> Table {
    let mut table = Table::new(&[
        Column::Name("CHANNEL"),
        Column::Number("SENDERS"),
        Column::Number("LISTENERS"),
        Column::Number("MESSAGES"),
        Column::Number("BYTES"),
        Column::Number("LOST"),
    ]);
    for channel in channels {
        table.row([
            channel.name.clone(),
            channel.senders.to_string(),
            channel.listeners.to_string(),
            count(channel.messages_accepted),
            size(channel.bytes_accepted),
            count(channel.messages_lost),
        ]);
    }
    table
}

/// What is retained of these channels, as a table.
pub(crate) fn retained(channels: &[&Channel]) -> Table {
    let mut table = Table::new(&[
        Column::Name("CHANNEL"),
        Column::Number("MESSAGES"),
        Column::Number("BYTES"),
        Column::Number("SENDER"),
        Column::Number("AGE"),
        Column::Number("LEFT"),
    ]);
    for channel in channels {
        let Some(retained) = &channel.retained else { continue };
        table.row([
            channel.name.clone(),
            count(retained.retained_messages),
            size(retained.retained_bytes),
            if retained.sender_pid == 0 { "-".to_owned() } else { retained.sender_pid.to_string() },
            time(retained.age_ms),
            retained.lifetime_ms.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    table
}

/// The connections as a table.
pub(crate) fn peers<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Table {
    let mut table = Table::new(&[
        Column::Number("PID"),
        Column::Name("PROCESS"),
        Column::Name("KIND"),
        Column::Name("PATH"),
        Column::Name("CHANNELS"),
        Column::Number("AGE"),
        Column::Number("MSGS"),
        Column::Number("BYTES"),
        Column::Number("QUEUE"),
        Column::Number("QBYTES"),
        Column::Number("LOST"),
        Column::Number("BLOCKED"),
    ]);
    for connection in connections {
        table.row([
            if connection.pid == 0 { "-".to_owned() } else { connection.pid.to_string() },
            connection.process.clone().unwrap_or_else(|| "-".to_owned()),
            connection.kind().to_owned(),
            connection.path(),
            channels_of(connection),
            time(connection.age_ms),
            count(connection.messages),
            size(connection.bytes),
            count(connection.queue_messages),
            size(connection.queue_bytes),
            count(connection.messages_lost),
            connection.blocked_ms.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    table
}

fn channels_of(connection: &Connection) -> String {
    match connection.channels.as_slice() {
        [] => "-".to_owned(),
        [channel] if connection.channels_total == 1 => channel.clone(),
        [channel, ..] => format!("{} of {channel} ...", connection.channels_total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::stats::sample;
    use crate::observe::format::columns;

    #[test]
    fn summary_shows_totals_and_slow_listeners() {
        let text = summary(&sample::stats(), None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "broadcasterd 1.2.3, process 4321");
        assert!(text.contains("accepted     12.3k messages, 4.0 MiB"), "{text}");
        assert!(text.contains("held         1.0 MiB of 256 MiB"), "{text}");
        assert!(
            text.contains(
                "rings        9 in shared memory, 14 links to listeners that read them, 6000 messages so far"
            ),
            "{text}"
        );
        let slow = lines.iter().position(|&line| line == "Slow listeners").expect("both listeners are slow");
        assert_eq!(lines.len() - slow, 5, "a heading, two rows and no sender: {text}");
        assert!(lines[slow + 3].contains("2147418115"), "the longest queue comes first: {text}");
    }

    #[test]
    fn path_of_each_connection_is_listed() {
        let mut idle = sample::connection(3, "sender", &["news"]);
        idle.rings = 0;
        let connections =
            [sample::connection(1, "listener", &["news"]), sample::connection(2, "sender", &["news"]), idle];
        let text = peers(&connections).render(None);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines[0].find("PATH").expect("a column");
        let paths: Vec<&str> = lines[1..].iter().map(|line| line[at..].split("  ").next().unwrap_or("")).collect();
        assert_eq!(paths, ["memory", "memory 12/13", "socket"], "{text}");
    }

    #[test]
    fn listeners_that_keep_up_are_not_slow() {
        let mut stats = sample::stats();
        for connection in &mut stats.connections {
            (connection.blocked_ms, connection.messages_lost) = (None, 0);
        }
        assert!(!summary(&stats, None).contains("Slow"));
    }

    #[test]
    fn summary_lists_only_the_slowest_listeners() {
        let mut stats = sample::stats();
        stats.connections = (2..=26).map(|id| sample::connection(id, "listener", &["news"])).collect();
        let text = summary(&stats, None);
        assert!(text.ends_with("and 15 more: see broadcasterd peers\n"), "{text}");
        assert!(text.contains(" 2147418138 ") || text.contains("\n2147418138 "), "the slowest is listed: {text}");
    }

    #[test]
    fn tables_fit_eighty_columns() {
        let mut stats = sample::stats();
        let name = "com.example.".repeat(20);
        stats.channels.push(sample::channel(&name, 999_499));
        let mut worst = sample::connection(9, "sender+listener", &[&name]);
        worst.pid = 4_194_304;
        worst.process = Some("a-long-process-name".to_owned());
        (worst.age_ms, worst.blocked_ms) = (86_399_999, Some(86_399_999));
        (worst.messages, worst.messages_lost, worst.queue_messages) = (99_949, 99_949, 65_536);
        (worst.bytes, worst.queue_bytes) = (99 << 20, 4 << 20);
        for table in [channels(&stats.channels), peers([&worst])] {
            let text = table.render(Some(80));
            assert!(text.lines().all(|line| columns(line) <= 80), "{text}");
            assert!(text.contains('…'), "{text}");
        }
    }

    #[test]
    fn each_line_of_json_is_one_object_of_the_schema() {
        let stats = sample::stats();
        let text = lines(&stats.connections).expect("plain data");
        let back: Result<Vec<Connection>, _> = text.lines().map(serde_json::from_str).collect();
        assert_eq!(back.expect("objects"), stats.connections);
    }
}
