//! The table: the columns that fit and the visible rows.

use super::parts::{SLOW_MARK, Theme, process, put, rows_of};
use crate::observe::format::{bar, bytes, count, fit, time};
use crate::observe::top::app::App;
use crate::observe::top::columns::{Column, Table};
use crate::observe::top::rates::{ChannelRow, PeerRow, byte_rate, rate};
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// Columns of the bar of a queue.
const QUEUE_BAR: usize = 4;

/// A column on the screen.
pub(super) struct Slot {
    pub(super) column: Column,
    pub(super) x: u16,
    pub(super) width: u16,
}

pub(super) fn draw_table(app: &mut App, theme: Theme, mut rest: Rect, buffer: &mut Buffer) {
    let (table, (sort, reversed)) = (app.table(), app.sort());
    let row = rows_of(&mut rest, 1, true);
    let tabs = app.shown().map_or((0, 0), |shown| (shown.channels.len(), shown.peers.len()));
    let tab = |name: String, on: bool| match on {
        true => Span::styled(format!("[{name}]"), theme.title()),
        false => Span::styled(format!(" {name} "), theme.faint()),
    };
    let (of_channels, of_peers) =
        (format!("channels {}", count(to_u64(tabs.0))), format!("peers {}", count(to_u64(tabs.1))));
    let mut line =
        vec![tab(of_channels, table == Table::Channels), tab(of_peers, table == Table::Peers), "  by ".into()];
    line.push(shape(sort).title.into());
    if sort == Column::Slow {
        line.push("slow".into());
    }
    if reversed {
        line.push(" reversed".into());
    }
    if !app.filter().is_empty() {
        let found = app.order().len();
        line.push(format!("  {} match", count(to_u64(found))).into());
    }
    put(buffer, row, Line::from(line));

    let slots = slots(table.columns(), rest.x, rest.width);
    let row = rows_of(&mut rest, 1, true);
    for slot in &slots {
        let mut style = theme.title();
        if slot.column == sort {
            style = style.add_modifier(Modifier::UNDERLINED);
        }
        put_cell(buffer, slot, row.y, shape(slot.column).title, style);
    }

    let visible = app.visible(rest.height.into());
    let selected = app.selected();
    let Some(shown) = app.shown() else { return };
    if app.order().is_empty() {
        let sentence = match (app.filter().is_empty(), table) {
            (false, _) => "no row matches the filter; Esc clears it",
            (true, Table::Channels) => "no open channels",
            (true, Table::Peers) => "no connections",
        };
        return put(buffer, rest, Line::styled(sentence, theme.faint()));
    }
    for (y, at) in (rest.y..rest.bottom()).zip(visible) {
        let row = app.order()[at];
        let slow = match table {
            Table::Channels => shown.channels[row].slow,
            Table::Peers => shown.peers[row].slow,
        };
        let mut style = if slow { theme.slow() } else { Style::new() };
        if selected == Some(at) {
            style = style.add_modifier(Modifier::REVERSED);
        }
        buffer.set_style(Rect { y, height: 1, ..rest }, style);
        for slot in &slots {
            let text = match table {
                Table::Channels => channel_cell(&shown.channels[row], slot),
                Table::Peers => peer_cell(&shown.peers[row], slot),
            };
            put_cell(buffer, slot, y, &text, style);
        }
    }
}

fn put_cell(buffer: &mut Buffer, slot: &Slot, y: u16, text: &str, style: Style) {
    let indent = if shape(slot.column).right { slot.width.saturating_sub(text.cell_width()) } else { 0 };
    buffer.set_stringn(slot.x + indent, y, text, usize::from(slot.width - indent), style);
}

fn channel_cell(row: &ChannelRow, slot: &Slot) -> String {
    let (stats, rates) = (&row.stats, row.rates);
    match slot.column {
        Column::Slow => mark(row.slow),
        Column::Name => fit(&stats.name, slot.width.into()),
        Column::Senders => count(stats.senders),
        Column::Listeners => count(stats.listeners),
        Column::Messages => rate(rates.map(|rates| rates.messages)),
        Column::Bytes => byte_rate(rates.map(|rates| rates.bytes)),
        Column::LostRate => rate(rates.map(|rates| rates.lost)),
        Column::Lost => count(stats.messages_lost),
        Column::Pid | Column::Process | Column::Kind | Column::Channel | Column::Queue | Column::Blocked => {
            String::new()
        }
    }
}

fn peer_cell(row: &PeerRow, slot: &Slot) -> String {
    let (stats, rates, width) = (&row.stats, row.rates, usize::from(slot.width));
    match slot.column {
        Column::Slow => mark(row.slow),
        Column::Pid => stats.pid.to_string(),
        Column::Process => process(row, width),
        Column::Kind => fit(stats.kind(), width),
        Column::Channel => match (stats.channels.first(), stats.channels_total.saturating_sub(1)) {
            (None, _) => "-".into(),
            (Some(name), 0) => fit(name, width),
            (Some(name), more) => {
                let more = format!(" +{}", count(more));
                fit(name, width.saturating_sub(more.len())) + &more
            }
        },
        Column::Messages => rate(rates.map(|rates| rates.messages)),
        Column::Bytes => byte_rate(rates.map(|rates| rates.bytes)),
        Column::Queue => {
            let (messages, waiting) = (count(stats.queue_messages), bytes(stats.queue_bytes));
            format!("{messages:>5} {waiting:>5} {}", bar(row.queue_permille, QUEUE_BAR))
        }
        Column::LostRate => rate(rates.map(|rates| rates.lost)),
        Column::Lost => count(stats.messages_lost),
        Column::Blocked => stats.blocked_ms.map_or_else(|| "-".into(), time),
        Column::Name | Column::Senders | Column::Listeners => String::new(),
    }
}

fn mark(slow: bool) -> String {
    if slow { SLOW_MARK.into() } else { String::new() }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Title, width and alignment of a column.
pub(super) struct Shape {
    title: &'static str,
    width: u16,
    /// Maximum width.
    most: u16,
    pub(super) right: bool,
    /// Columns of higher rank are omitted first on a narrow screen.
    rank: u8,
}

pub(super) fn shape(column: Column) -> Shape {
    let number = |title, width, rank| Shape { title, width, most: width, right: true, rank };
    let text = |title, width, most, rank| Shape { title, width, most, right: false, rank };
    match column {
        Column::Slow => text("", 1, 1, 0),
        Column::Name => text("CHANNEL", 12, 64, 0),
        Column::Process => text("PROCESS", 10, 24, 0),
        Column::Queue => Shape { right: true, ..text("QUEUE", 16, 16, 1) },
        Column::LostRate => number("LOST/S", 6, 2),
        Column::Blocked => number("BLOCKED", 7, 2),
        Column::Channel => text("CHANNEL", 12, 64, 3),
        Column::Lost => number("LOST", 5, 4),
        Column::Messages => number("MSG/S", 5, 5),
        Column::Pid => number("PID", 7, 5),
        Column::Kind => text("KIND", 8, 15, 6),
        Column::Listeners => number("LISTENERS", 9, 7),
        Column::Bytes => number("BYTES/S", 7, 8),
        Column::Senders => number("SENDERS", 7, 9),
    }
}

/// The most important of `columns` that fit in `width`; the names get the remaining space.
pub(super) fn slots(columns: &[Column], x: u16, width: u16) -> Vec<Slot> {
    let mut kept = columns.to_vec();
    // A queue announces losses before they happen; without one, the loss rate matters.
    let queues = columns.contains(&Column::Queue);
    let rank = |column| if queues && column == Column::LostRate { u8::MAX } else { shape(column).rank };
    let needs = |kept: &[Column]| kept.iter().map(|&column| shape(column).width + 1).sum::<u16>().saturating_sub(1);
    while needs(&kept) > width {
        let Some(least) = (0..kept.len()).max_by_key(|&at| rank(kept[at])) else { break };
        kept.remove(least);
    }
    let mut spare = width.saturating_sub(needs(&kept));
    let mut growing = kept.iter().filter(|&&column| shape(column).most > shape(column).width).count();
    let mut x = x;
    let mut slots = Vec::with_capacity(kept.len());
    for column in kept {
        let shape = shape(column);
        let mut width = shape.width;
        if shape.most > shape.width {
            let share = spare / u16::try_from(growing).unwrap_or(1).max(1);
            let grown = share.min(shape.most - shape.width);
            width += grown;
            spare -= grown;
            growing -= 1;
        }
        slots.push(Slot { column, x, width });
        x += width + 1;
    }
    slots
}
