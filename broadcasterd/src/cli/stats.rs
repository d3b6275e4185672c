//! `broadcasterd stats`, `channels` and `peers`: the running daemon's numbers. None of them ever starts a daemon, and none
//! colours anything.

use super::Bus;
use super::table::{Column, Table};
use crate::exit::Failure;
use crate::format::{count, size, time};
use crate::os;
use crate::stats::fetch::{self, Client};
use crate::stats::http::Route;
use crate::stats::model::{Channel, Connection, Stats};
use clap::Args;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Slow listeners that the summary shows at most; `peers` shows all.
const SLOW_MAX: usize = 10;

/// How to print the totals.
#[derive(Debug, Args)]
pub(crate) struct Totals {
    /// All numbers as one JSON object, as the daemon tells them (see STATS.md)
    #[arg(long)]
    json: bool,

    /// All numbers as OpenMetrics text, for monitoring systems
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

impl Totals {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let client = Client::new(bus.options()?)?;
        if self.metrics {
            return print(&client.text(Route::Metrics)?);
        }
        let text = client.text(Route::Json)?;
        let stats = fetch::parse(&text)?;
        if self.json { print(&format!("{text}\n")) } else { print(&summary(&stats, terminal_width())) }
    }
}

/// How to print the channels.
#[derive(Debug, Args)]
pub(crate) struct Channels {
    /// One JSON object per channel (see STATS.md)
    #[arg(long)]
    json: bool,
}

impl Channels {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let stats = Client::new(bus.options()?)?.fetch()?;
        print(&if self.json { lines(&stats.channels)? } else { channels(&stats.channels).render(terminal_width()) })
    }
}

/// How to print the connections.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// One JSON object per connection (see STATS.md)
    #[arg(long)]
    json: bool,
}

impl Peers {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let stats = Client::new(bus.options()?)?.fetch()?;
        print(&if self.json { lines(&stats.connections)? } else { peers(&stats.connections).render(terminal_width()) })
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Columns of the terminal; `None` where the output is none.
fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let width = os::terminal_width();
    Some(if width == 0 { 80 } else { usize::from(width) })
}

/// One JSON object per line.
fn lines(items: &[impl Serialize]) -> Result<String, Failure> {
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(item).map_err(io::Error::from)?);
        text.push('\n');
    }
    Ok(text)
}

/// The totals, and who is slow.
fn summary(stats: &Stats, width: Option<usize>) -> String {
    let daemon = &stats.daemon;
    let rows = [
        ("bus", daemon.socket.clone()),
        ("up", time(daemon.uptime_ms)),
        (
            "connections",
            format!(
                "{} of {} ({} senders, {} listeners)",
                daemon.connections, daemon.connections_max, daemon.senders, daemon.listeners
            ),
        ),
        ("channels", format!("{} of {}", stats.channels.len(), daemon.channels_max)),
        ("accepted", format!("{} messages, {}", count(daemon.messages_accepted), size(daemon.bytes_accepted))),
        ("delivered", format!("{} messages", count(daemon.messages_delivered))),
        ("lost", format!("{} messages", count(daemon.messages_lost))),
        ("refused", format!("{} connections", count(daemon.connections_refused))),
        ("held", format!("{} of {}", size(daemon.held_bytes), size(daemon.held_bytes_max))),
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

fn channels(channels: &[Channel]) -> Table {
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

fn peers<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Table {
    let mut table = Table::new(&[
        Column::Number("PID"),
        Column::Name("PROCESS"),
        Column::Word("ROLE"),
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
            connection.role.word().to_owned(),
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
    use crate::format::columns;
    use crate::stats::model::Role;
    use crate::stats::sample;

    #[test]
    fn summary_tells_the_totals_and_who_is_slow() {
        let text = summary(&sample::stats(), None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "broadcasterd 1.2.3, process 4321");
        assert!(text.contains("accepted     12.3k messages, 4.0 MiB"), "{text}");
        assert!(text.contains("held         1.0 MiB of 256 MiB"), "{text}");
        let slow = lines.iter().position(|&line| line == "Slow listeners").expect("both listeners have lost some");
        assert_eq!(lines.len() - slow, 5, "a title, two lines and no sender: {text}");
        assert!(lines[slow + 3].contains("2147418115"), "most bytes wait for it: {text}");
    }

    #[test]
    fn nobody_is_slow_where_nothing_waits_or_is_lost() {
        let mut stats = sample::stats();
        for connection in &mut stats.connections {
            (connection.blocked_ms, connection.messages_lost) = (None, 0);
        }
        assert!(!summary(&stats, None).contains("Slow"));
    }

    #[test]
    fn many_slow_listeners_are_cut_to_the_worst() {
        let mut stats = sample::stats();
        stats.connections = (2..=26).map(|id| sample::connection(id, Role::Listener, &["news"])).collect();
        let text = summary(&stats, None);
        assert!(text.ends_with("and 15 more: see broadcasterd peers\n"), "{text}");
        assert!(text.contains(" 2147418138 ") || text.contains("\n2147418138 "), "the worst is there: {text}");
    }

    #[test]
    fn tables_fit_eighty_columns() {
        let mut stats = sample::stats();
        let name = "com.example.".repeat(20);
        stats.channels.push(sample::channel(&name, 999_499));
        let mut worst = sample::connection(9, Role::Inspector, &[&name]);
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
        let text = lines(&stats.connections).expect("it is plain data");
        let back: Result<Vec<Connection>, _> = text.lines().map(serde_json::from_str).collect();
        assert_eq!(back.expect("objects"), stats.connections);
    }
}
