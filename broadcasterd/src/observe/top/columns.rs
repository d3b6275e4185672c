//! The tables, their columns and sort orders. Nothing here knows the selection or the visible rows.

use super::rates::{ChannelRow, Measured, PeerRow};
use std::cmp::{Ordering, Reverse};

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Channels,
    Peers,
}

impl Table {
    /// Its columns in order, which are also its sort keys.
    pub(crate) fn columns(self) -> &'static [Column] {
        use Column::{Blocked, Bytes, Channel, Kind, Listeners, Lost, LostRate, Messages, Name, Pid, Process, Queue};
        match self {
            Self::Channels => &[Column::Slow, Name, Column::Senders, Listeners, Messages, Bytes, LostRate, Lost],
            Self::Peers => {
                &[Column::Slow, Pid, Process, Kind, Channel, Messages, Bytes, Queue, LostRate, Lost, Blocked]
            }
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Channels => Self::Peers,
            Self::Peers => Self::Channels,
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// The mark of a slow row.
    Slow,
    Name,
    Senders,
    Listeners,
    Pid,
    Process,
    Kind,
    Channel,
    Messages,
    Bytes,
    Queue,
    LostRate,
    Lost,
    Blocked,
}

/// The rows of `table` that match `filter`, sorted by `sort`. Rows with equal keys keep their order between samples.
pub(crate) fn ordered(table: Table, shown: &Measured, filter: &str, sort: Column, reversed: bool) -> Vec<usize> {
    let filter = filter.to_lowercase();
    let matches = |name: &str| filter.is_empty() || name.to_lowercase().contains(&filter);
    let directed = |order: Ordering| if reversed { order.reverse() } else { order };
    match table {
        Table::Channels => {
            let rows = &shown.channels;
            let mut order: Vec<usize> = (0..rows.len()).filter(|&row| matches(&rows[row].stats.name)).collect();
            order.sort_unstable_by(|&a, &b| {
                let (a, b) = (&rows[a], &rows[b]);
                directed(compare_channels(sort, a, b)).then_with(|| a.stats.name.cmp(&b.stats.name))
            });
            order
        }
        Table::Peers => {
            let rows = &shown.peers;
            let has_match = |row: &PeerRow| {
                let stats = &row.stats;
                filter.is_empty()
                    || stats.process.as_deref().is_some_and(matches)
                    || stats.channels.iter().any(|name| matches(name))
            };
            let mut order: Vec<usize> = (0..rows.len()).filter(|&row| has_match(&rows[row])).collect();
            order.sort_unstable_by(|&a, &b| {
                let (a, b) = (&rows[a], &rows[b]);
                directed(compare_peers(sort, a, b)).then_with(|| a.serial.cmp(&b.serial))
            });
            order
        }
    }
}

/// Names in ascending order, numbers in descending order.
fn compare_channels(column: Column, a: &ChannelRow, b: &ChannelRow) -> Ordering {
    let rates = |row: &ChannelRow| row.rates.unwrap_or_default();
    let descending = |number: fn(&ChannelRow) -> u64| number(b).cmp(&number(a));
    match column {
        Column::Senders => descending(|row| row.stats.senders),
        Column::Listeners => descending(|row| row.stats.listeners),
        Column::Messages => rates(b).messages.cmp(&rates(a).messages),
        Column::Bytes => rates(b).bytes.cmp(&rates(a).bytes),
        Column::LostRate => rates(b).lost.cmp(&rates(a).lost),
        Column::Lost => descending(|row| row.stats.messages_lost),
        Column::Slow => {
            let key = |row: &ChannelRow| Reverse((row.slow, rates(row).lost, rates(row).messages));
            key(a).cmp(&key(b))
        }
        Column::Name
        | Column::Channel
        | Column::Pid
        | Column::Process
        | Column::Kind
        | Column::Queue
        | Column::Blocked => a.stats.name.cmp(&b.stats.name),
    }
}

/// Names in ascending order, numbers in descending order.
fn compare_peers(column: Column, a: &PeerRow, b: &PeerRow) -> Ordering {
    let rates = |row: &PeerRow| row.rates.unwrap_or_default();
    match column {
        Column::Pid => a.stats.pid.cmp(&b.stats.pid),
        Column::Process => a.stats.process.cmp(&b.stats.process),
        Column::Kind => a.stats.kind().cmp(b.stats.kind()),
        Column::Channel => a.stats.channels.cmp(&b.stats.channels),
        Column::Messages => rates(b).messages.cmp(&rates(a).messages),
        Column::Bytes => rates(b).bytes.cmp(&rates(a).bytes),
        Column::Queue => (b.queue_permille, b.stats.queue_bytes).cmp(&(a.queue_permille, a.stats.queue_bytes)),
        Column::LostRate => rates(b).lost.cmp(&rates(a).lost),
        Column::Lost => b.stats.messages_lost.cmp(&a.stats.messages_lost),
        Column::Blocked => b.stats.blocked_ms.cmp(&a.stats.blocked_ms),
        Column::Slow => {
            let severity = |row: &PeerRow| {
                let blocked_ms = if row.slow { row.stats.blocked_ms } else { None };
                let queue = if row.slow { row.queue_permille } else { 0 };
                Reverse((row.slow, rates(row).lost, queue, blocked_ms, rates(row).messages))
            };
            severity(a).cmp(&severity(b))
        }
        Column::Name | Column::Senders | Column::Listeners => Ordering::Equal,
    }
}
