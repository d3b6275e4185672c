//! Draws an [`App`]. It never waits, never writes to a terminal, and looks at no row that is out of sight.

use super::app::{App, Column, INTERVALS, Link, Missing, Table};
use super::rates::{ChannelRow, Measured, PeerRow};
use super::rates::{byte_rate, rate};
use crate::format::{bar, bytes, count, fit, permille, size, time};
use crate::stats::model::Role;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, RenderDirection, Sparkline, Widget, Wrap};
use std::fmt;
use std::time::Duration;

/// The smallest screen that a table fits on.
pub(crate) const SMALLEST: (u16, u16) = (40, 10);

/// What stands before whoever is slow, so that it is seen without colours as well.
const SLOW_SIGN: &str = "!";

/// A bar as wide as a thumb.
const QUEUE_BAR: usize = 4;

/// No text is wider than the smallest screen leaves for it.
const KEYS: [(&str, &str); 10] = [
    ("q Esc ^C", "quit (Esc: clear filter first)"),
    ("Tab c p", "channels, peers"),
    ("Up Down", "move; j k PgUp PgDn Home End"),
    ("s r", "next sort column, reverse"),
    ("/", "filter by channel or process"),
    ("Space", "pause, go on"),
    ("+ -", "longer, shorter interval"),
    ("^Z", "suspend"),
    ("!", "slow: loses messages now, or"),
    ("", "blocked, or queue half full"),
];

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    /// Without colours, weight and signs say the same.
    pub(crate) colours: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn slow(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }

    fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws all of `app` on `area`.
pub(crate) fn draw(app: &mut App, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let (columns, rows) = SMALLEST;
    if area.width < columns || area.height < rows {
        let sentence = format!("top needs {columns}x{rows}; this is {}x{}", area.width, area.height);
        return Paragraph::new(sentence).wrap(Wrap { trim: true }).render(area, buffer);
    }
    let mut rest = area;
    let footer = rows_of(&mut rest, 1, false);
    if app.shown().is_some() {
        draw_numbers(app, theme, &mut rest, buffer);
        draw_table(app, theme, rest, buffer);
    } else {
        let sentence = match app.link() {
            Link::Waiting(Missing::NoDaemon) => "no daemon runs; waiting for one (top never starts one)".into(),
            Link::Waiting(Missing::Failed(_, why)) => format!("no numbers: {}; trying again", fit(why, 400)),
            Link::Connecting | Link::Up | Link::Gone { .. } => match app.overdue() {
                Some(time) => format!("connecting; no answer for {} s", time.as_secs()),
                None => "connecting".into(),
            },
        };
        let middle = Rect { y: rest.y + rest.height / 3, height: rest.height - rest.height / 3, ..rest };
        Paragraph::new(sentence).centered().wrap(Wrap { trim: true }).render(middle, buffer);
    }
    draw_footer(app, theme, footer, buffer);
    if app.shows_help() {
        draw_help(theme, area, buffer);
    }
}

/// Takes rows from the top or the bottom of `rest`.
fn rows_of(rest: &mut Rect, height: u16, top: bool) -> Rect {
    let height = height.min(rest.height);
    let y = if top { rest.y } else { rest.bottom() - height };
    let taken = Rect { y, height, ..*rest };
    rest.height -= height;
    rest.y += if top { height } else { 0 };
    taken
}

fn put(buffer: &mut Buffer, area: Rect, line: Line<'_>) {
    line.render(area, buffer);
}

/// Everything above the table; the lower the screen, the less of it.
fn draw_numbers(app: &App, theme: Theme, rest: &mut Rect, buffer: &mut Buffer) {
    let Some(shown) = app.shown() else { return };
    let (height, wide) = (rest.height, rest.width >= 76);
    let daemon = &shown.daemon;

    let row = rows_of(rest, 1, true);
    let state = match app.link() {
        _ if app.is_paused() => "PAUSED".into(),
        Link::Gone { why: Missing::NoDaemon, .. } => "GONE".into(),
        Link::Gone { why: Missing::Failed(..), .. } => "NO NUMBERS".into(),
        Link::Connecting | Link::Waiting(_) | Link::Up => match app.overdue() {
            Some(time) => format!("no answer for {} s", time.as_secs()),
            None => format!("every {}", humantime::format_duration(app.interval())),
        },
    };
    let (version, up) = (fit(&daemon.version, 16), time(daemon.uptime_ms));
    let name = Span::styled(format!("broadcasterd {version}"), theme.title());
    let more = if wide { format!("  process {}  up {up}", daemon.pid) } else { format!(" ({})", daemon.pid) };
    put(buffer, row, Line::from(vec![name, more.into()]));
    let state = format!(" {state}");
    let width = state.cell_width().min(row.width);
    put(buffer, Rect { x: row.right() - width, width, ..row }, Line::styled(state, theme.title()));

    if height >= 17 {
        let socket = fit(&daemon.socket, usize::from(rest.width) - 12);
        put(buffer, rows_of(rest, 1, true), Line::from(format!("socket      {socket}")));
    }
    if height >= 14 {
        let (now, most) = (count(daemon.connections), count(daemon.connections_max));
        let (senders, listeners) = (count(daemon.senders), count(daemon.listeners));
        let mut text = format!("connections {now} of {most}: senders {senders}, listeners {listeners}");
        if wide {
            text += &format!("; refused {}", count(daemon.connections_refused));
        }
        put(buffer, rows_of(rest, 1, true), Line::from(text));
    }
    if height >= 12 {
        draw_memory(shown, theme, rows_of(rest, 1, true), buffer);
    }
    draw_totals(shown, theme, wide, rows_of(rest, 1, true), buffer);
    draw_verdict(app, shown, theme, rows_of(rest, 1, true), buffer);
    let plot = match height {
        0..17 => return,
        17..34 => 1,
        34.. => 4,
    };
    let accepted = rows_of(rest, (plot + 1).min(4), true);
    draw_plot(app, "accepted/s", |sample| sample.0, theme.good(), accepted, buffer);
    draw_plot(app, "lost/s", |sample| sample.1, theme.slow(), rows_of(rest, plot, true), buffer);
}

fn draw_memory(shown: &Measured, theme: Theme, row: Rect, buffer: &mut Buffer) {
    let (held, most) = (shown.daemon.held_bytes, shown.daemon.held_bytes_max);
    let share = permille(held, most);
    let style = if share > 800 { theme.slow() } else { theme.good() };
    let gauge = bar(share, usize::from(row.width.saturating_sub(38).min(40)));
    let parts =
        vec!["memory      ".into(), Span::styled(gauge, style), format!(" {} of {}", size(held), size(most)).into()];
    put(buffer, row, Line::from(parts));
}

fn draw_totals(shown: &Measured, theme: Theme, wide: bool, row: Rect, buffer: &mut Buffer) {
    let totals = shown.totals;
    let of = |pick: fn(super::rates::Totals) -> super::rates::Rate| totals.map(pick);
    let (accepted, delivered) = (rate(of(|totals| totals.accepted)), rate(of(|totals| totals.delivered)));
    let (taken, lost) = (byte_rate(of(|totals| totals.bytes)), rate(of(|totals| totals.lost)));
    let loses = totals.is_some_and(|totals| totals.lost.thousandths() > 0);
    let style = if loses { theme.slow() } else { Style::new() };
    let parts: Vec<Span<'_>> = if wide {
        vec![
            format!("accepted    {accepted} messages/s, {taken} bytes/s; delivered {delivered}/s; ").into(),
            Span::styled(format!("lost {lost}/s"), style),
        ]
    } else {
        let rest = format!(" in {accepted}/s out {delivered}/s");
        vec![Span::styled(format!("lost {lost}/s"), style), rest.into()]
    };
    put(buffer, row, Line::from(parts));
}

/// The answer to "who is slow?"; or, more important, that all this is of the past.
fn draw_verdict(app: &App, shown: &Measured, theme: Theme, row: Rect, buffer: &mut Buffer) {
    let line = match app.link() {
        Link::Gone { seen, why } => {
            let ago = time(u64::try_from(app.ago(*seen).as_millis()).unwrap_or(u64::MAX));
            let sentence = match why {
                Missing::NoDaemon => format!("{SLOW_SIGN} the daemon has gone, last seen {ago} ago; waiting for one"),
                Missing::Failed(_, why) => format!("{SLOW_SIGN} no numbers for {ago}: {}", fit(why, 400)),
            };
            Line::styled(sentence, theme.slow())
        }
        Link::Connecting | Link::Waiting(_) | Link::Up => {
            let slow = || shown.peers.iter().filter(|peer| peer.slow);
            match slow().count() {
                0 => Line::styled("nobody is slow", theme.good()),
                many => {
                    let named = slow().take(3).map(|peer| format!("{} ({})", process(peer, 20), peer.stats.pid));
                    let mut names = named.collect::<Vec<_>>().join(", ");
                    if many > 3 {
                        names += ", ...";
                    }
                    let sentence = format!("{SLOW_SIGN} {many} slow: {names}");
                    Line::styled(sentence, theme.slow())
                }
            }
        }
    };
    put(buffer, row, line);
}

/// What a plot shows of a sample.
type Pick = fn(&(u64, u64)) -> u64;

fn draw_plot(app: &App, title: &str, pick: Pick, style: Style, area: Rect, buffer: &mut Buffer) {
    let plot = Rect { x: area.x + 12, width: area.width.saturating_sub(24), ..area };
    let samples: Vec<u64> = app.history().iter().take(plot.width.into()).map(pick).collect();
    let peak = samples.iter().copied().max().unwrap_or(0);
    put(buffer, area, Line::from(title));
    let label = format!(" peak {}", count(peak));
    put(buffer, Rect { x: plot.right(), width: area.right() - plot.right(), ..area }, Line::from(label));
    let line =
        Sparkline::default().data(&samples).max(peak.max(1)).style(style).direction(RenderDirection::RightToLeft);
    line.render(plot, buffer);
}

/// A column on the screen.
struct Slot {
    column: Column,
    x: u16,
    width: u16,
}

fn draw_table(app: &mut App, theme: Theme, mut rest: Rect, buffer: &mut Buffer) {
    let (table, (sort, reversed)) = (app.table(), app.sort());
    let row = rows_of(&mut rest, 1, true);
    let tabs = app.shown().map_or((0, 0), |shown| (shown.channels.len(), shown.peers.len()));
    let mark = |name: String, on: bool| match on {
        true => Span::styled(format!("[{name}]"), theme.title()),
        false => Span::styled(format!(" {name} "), theme.faint()),
    };
    let (of_channels, of_peers) =
        (format!("channels {}", count(to_u64(tabs.0))), format!("peers {}", count(to_u64(tabs.1))));
    let mut line =
        vec![mark(of_channels, table == Table::Channels), mark(of_peers, table == Table::Peers), "  by ".into()];
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
            (false, _) => "nothing matches the filter; Esc clears it",
            (true, Table::Channels) => "nobody has a channel open",
            (true, Table::Peers) => "nobody is connected",
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
        Column::Slow => sign(row.slow),
        Column::Name => fit(&stats.name, slot.width.into()),
        Column::Senders => count(stats.senders),
        Column::Listeners => count(stats.listeners),
        Column::Messages => rate(rates.map(|rates| rates.messages)),
        Column::Bytes => byte_rate(rates.map(|rates| rates.bytes)),
        Column::LostRate => rate(rates.map(|rates| rates.lost)),
        Column::Lost => count(stats.messages_lost),
        Column::Pid | Column::Process | Column::Role | Column::Channel | Column::Queue | Column::Blocked => {
            String::new()
        }
    }
}

fn peer_cell(row: &PeerRow, slot: &Slot) -> String {
    let (stats, rates, width) = (&row.stats, row.rates, usize::from(slot.width));
    match slot.column {
        Column::Slow => sign(row.slow),
        Column::Pid => stats.pid.to_string(),
        Column::Process => process(row, width),
        Column::Role => match stats.role {
            Role::Greeting => "greeting",
            Role::Sender => "sender",
            Role::Listener => "listener",
            Role::Inspector => "inspect",
            Role::Monitor => "monitor",
            Role::Leaving => "leaving",
        }
        .into(),
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

fn sign(slow: bool) -> String {
    if slow { SLOW_SIGN.into() } else { String::new() }
}

fn process(row: &PeerRow, width: usize) -> String {
    let name = row.stats.process.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.map_or_else(|| "-".into(), |name| fit(name, width))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// How a column looks.
struct Shape {
    title: &'static str,
    width: u16,
    /// How wide it may grow.
    most: u16,
    right: bool,
    /// The higher, the sooner it is left out on a narrow screen.
    rank: u8,
}

fn shape(column: Column) -> Shape {
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
        Column::Role => text("ROLE", 8, 8, 6),
        Column::Listeners => number("LISTENERS", 9, 7),
        Column::Bytes => number("BYTES/S", 7, 8),
        Column::Senders => number("SENDERS", 7, 9),
    }
}

/// As many of `columns` as fit in `width`, the least important left out; what is left over goes to the names.
fn slots(columns: &[Column], x: u16, width: u16) -> Vec<Slot> {
    let mut kept = columns.to_vec();
    // A queue tells of a loss before it happens; without one, the loss itself is what matters.
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

fn draw_footer(app: &App, theme: Theme, row: Rect, buffer: &mut Buffer) {
    if app.is_editing() || !app.filter().is_empty() {
        let room = usize::from(row.width).saturating_sub(30);
        let text = fit(app.filter(), room.max(8));
        let hint = if app.is_editing() { "_  Enter keeps it, Esc clears it" } else { "  Esc clears it" };
        return put(buffer, row, Line::from(vec![Span::styled(format!("filter: {text}"), theme.title()), hint.into()]));
    }
    let keys: &[(&str, &str)] = match row.width {
        0..66 => &[("q", "quit"), ("?", "help"), ("Tab", "table"), ("/", "filter")],
        _ => &[
            ("q", "quit"),
            ("Tab", "table"),
            ("s", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("Space", "pause"),
            ("+-", "interval"),
            ("?", "help"),
        ],
    };
    let spans = keys.iter().flat_map(|&(key, text)| {
        [Span::styled(key, theme.title()), Span::raw(" "), Span::styled(text, theme.faint()), Span::raw("  ")]
    });
    put(buffer, row, Line::from(spans.collect::<Vec<_>>()));
}

fn draw_help(theme: Theme, area: Rect, buffer: &mut Buffer) {
    let lines =
        KEYS.map(|(keys, text)| Line::from(vec![Span::styled(format!("{keys:<9}"), theme.title()), text.into()]));
    let border = u16::from(area.height > 14 && area.width > 44);
    let height = (u16::try_from(lines.len()).unwrap_or(u16::MAX) + 2 * border).min(area.height);
    let width = SMALLEST.0 + 2 * border;
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buffer);
    let text = Paragraph::new(lines.to_vec());
    let text = if border > 0 { text.block(Block::bordered().title(" keys; any key goes back ")) } else { text };
    text.render(place, buffer);
}

/// A drawn screen as lines of plain text.
pub(crate) struct PlainText<'a>(pub(crate) &'a Buffer);

impl fmt::Display for PlainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = self.0.area;
        for y in area.top()..area.bottom() {
            let mut line = String::new();
            let mut x = area.left();
            while let Some(cell) = self.0.cell((x, y)) {
                line.push_str(cell.symbol());
                x += cell.symbol().cell_width().max(1);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The interval's limits in words.
pub(crate) fn interval_limits() -> String {
    let [least, most] = [INTERVALS.start(), INTERVALS.end()].map(|&time: &Duration| humantime::format_duration(time));
    format!("{least} to {most}")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{at, busy, busy_app, channel, connection, daemon, press, stats, type_in, watched_app};
    use super::*;
    use crate::exit::Code;
    use crate::screens::assert_screen;
    use crate::stats::model::{Channel, Connection};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;
    use ratatui::crossterm::event::KeyCode;

    const PLAIN: Theme = Theme { colours: false };

    fn drawn(app: &mut App, theme: Theme, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend");
        terminal.draw(|frame| draw(app, theme, frame.area(), frame.buffer_mut())).expect("a test backend");
        terminal.backend().buffer().clone()
    }

    fn screen(app: &mut App, width: u16, height: u16) -> String {
        PlainText(&drawn(app, PLAIN, width, height)).to_string()
    }

    /// The rows below the table's head.
    fn body<'a>(screen: &'a str, column: &str) -> Vec<&'a str> {
        let body = screen.lines().skip_while(|line| !line.contains(column) || line.starts_with('[')).skip(1);
        body.take_while(|line| !line.starts_with("q quit")).collect()
    }

    #[test]
    fn screens_in_the_documentation_are_current() {
        assert_screen("top-channels-80x24", &screen(&mut watched_app(Table::Channels), 80, 24));
        assert_screen("top-peers-80x24", &screen(&mut watched_app(Table::Peers), 80, 24));
    }

    #[test]
    fn slow_listener_stands_first_and_has_the_sign_at_every_size() {
        for (width, height) in [(80, 24), (200, 50), (40, 10)] {
            let screen = screen(&mut busy_app(Table::Peers), width, height);
            let rows = body(&screen, "PROCESS");
            assert!(rows[0].starts_with('!') && rows[0].contains("tray-icon"), "{screen}");
            assert!(rows[0].contains("41.0k") || rows[0].contains("40.9k"), "{screen}");
            assert!(rows[0].contains("███") && rows[0].contains("1m34s"), "{screen}");
            assert!(rows[1].starts_with('!') && rows[1].contains("indexer"), "{screen}");
            assert!(rows[2..].iter().all(|row| !row.starts_with('!')), "{screen}");
            assert!(screen.contains("! 2 slow: tray-icon (5120)"), "{screen}");
        }
    }

    #[test]
    fn slow_is_red_with_colours_and_never_without() {
        for colours in [true, false] {
            let buffer = drawn(&mut busy_app(Table::Peers), Theme { colours }, 80, 24);
            let red = buffer.content().iter().any(|cell| cell.fg == Color::Red);
            let coloured = buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
            assert_eq!((red, coloured), (colours, colours));
        }
    }

    #[test]
    fn header_tells_the_daemon_and_its_rates() {
        let screen = screen(&mut busy_app(Table::Channels), 80, 24);
        for fact in [
            "broadcasterd 0.2.0  process 4711  up 2h13m",
            "every 1s",
            "/run/user/1000/broadcaster/bus.sock",
            "8 of 4096: senders 3, listeners 3; refused 1",
            "6.3 MiB of 256 MiB",
            "accepted    2460 messages/s, 781K bytes/s; delivered 7000/s; lost 2400/s",
            "[channels 4] peers 8",
        ] {
            assert!(screen.contains(fact), "{fact} is missing:\n{screen}");
        }
    }

    #[test]
    fn columns_stand_under_their_titles_whatever_the_names() {
        for (table, width) in [(Table::Channels, 80), (Table::Channels, 200), (Table::Peers, 80), (Table::Peers, 200)] {
            let mut app = busy_app(table);
            let buffer = drawn(&mut app, PLAIN, width, 50);
            let text = |y: u16, x: u16, width: u16| -> String {
                (x..x + width).filter_map(|x| buffer.cell((x, y))).map(Cell::symbol).collect()
            };
            let head = (0..50).find(|&y| text(y, 0, width).contains("MSG/S")).expect("a head");
            for slot in slots(table.columns(), 0, width) {
                for y in head..head + 1 + u16::try_from(app.order().len()).expect("few") {
                    let gap = slot.x + slot.width;
                    assert!(gap >= width || text(y, gap, 1) == " ", "row {y}: {:?}", text(y, 0, width));
                    let cell = text(y, slot.x, slot.width);
                    assert!(!shape(slot.column).right || !cell.ends_with(' '), "row {y}: {cell:?}");
                }
            }
        }
    }

    #[test]
    fn every_size_is_drawn_and_the_smallest_say_what_they_need() {
        let mut app = busy_app(Table::Peers);
        for width in (1..120).step_by(3) {
            for height in (1..40).step_by(2) {
                drawn(&mut app, PLAIN, width, height);
            }
        }
        assert_eq!(screen(&mut app, 39, 10).lines().next(), Some("top needs 40x10; this is 39x10"));
        assert_eq!(screen(&mut app, 80, 9).lines().next(), Some("top needs 40x10; this is 80x9"));
    }

    #[test]
    fn states_of_the_daemon_are_told() {
        let mut app = App::new(at(1), Table::Channels);
        assert!(screen(&mut app, 80, 24).contains("connecting"));
        app.sampled(at(1), Err(Missing::NoDaemon));
        assert!(screen(&mut app, 80, 24).contains("no daemon runs; waiting for one (top never starts one)"));
        app.sampled(at(2), Err(Missing::Failed(Code::Failed, "the socket \u{1b}[2J is odd".into())));
        assert!(screen(&mut app, 80, 24).contains("no numbers: the socket \u{fffd}[2J is odd; trying again"));

        let mut app = busy_app(Table::Peers);
        app.sampled(at(10), Err(Missing::NoDaemon));
        app.tick(at(22));
        let last = screen(&mut app, 80, 24);
        assert!(
            last.contains("! the daemon has gone, last seen 20s ago; waiting for one") && last.contains("tray-icon"),
            "{last}"
        );
        app.sampled(at(23), Ok(busy(2)));
        app.tick(at(24));
        assert!(app.asks());
        app.tick(at(29));
        assert!(screen(&mut app, 80, 24).contains("no answer for 5 s"));
        press(&mut app, " ");
        assert!(screen(&mut app, 80, 24).contains("PAUSED"));
    }

    #[test]
    fn quiet_bus_says_so() {
        let mut app = App::new(at(1), Table::Channels);
        app.sampled(at(1), Ok(stats(daemon(5_000), vec![], vec![])));
        let quiet = screen(&mut app, 80, 24);
        assert!(quiet.contains("nobody is slow") && quiet.contains("nobody has a channel open"), "{quiet}");
        assert!(quiet.contains("accepted    - messages/s"), "{quiet}");
    }

    #[test]
    fn filter_and_help_are_seen() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "/");
        type_in(&mut app, "backup");
        let found = screen(&mut app, 80, 24);
        assert!(found.contains("filter: backup_") && found.contains("1 match"), "{found}");
        type_in(&mut app, "!");
        assert!(screen(&mut app, 80, 24).contains("nothing matches the filter; Esc clears it"));
        app.key(KeyCode::Esc.into());
        press(&mut app, "?");
        for (width, height) in [(80, 24), (40, 10)] {
            let help = screen(&mut app, width, height);
            assert!(help.contains("quit") && help.contains("channels, peers"), "{help}");
        }
    }

    #[test]
    fn chosen_row_is_reversed_and_in_sight() {
        let mut app = App::new(at(1), Table::Channels);
        let channels = (0..65_536).map(|at| channel(&format!("channel.{at:05}"))).collect();
        app.sampled(at(1), Ok(stats(daemon(5_000), channels, vec![])));
        app.key(KeyCode::End.into());
        let buffer = drawn(&mut app, PLAIN, 80, 24);
        let reversed: Vec<u16> =
            (0..24).filter(|&y| buffer.cell((2, y)).is_some_and(|cell| cell.modifier == Modifier::REVERSED)).collect();
        assert_eq!(reversed, [22]);
        assert!(PlainText(&buffer).to_string().lines().nth(22).is_some_and(|row| row.contains("channel.65535")));
    }

    #[test]
    fn largest_numbers_fit_their_columns() {
        let most = u64::MAX;
        let mut daemon = daemon(most);
        (daemon.messages_accepted, daemon.held_bytes, daemon.connections) = (most, most, most);
        let channel = Channel { senders: most, listeners: most, messages_lost: most, ..channel("c") };
        let peer = Connection {
            pid: u32::MAX,
            process: Some("\u{1b}[2J\n\t\u{202e}".into()),
            channels: vec!["c".repeat(255)],
            channels_total: most,
            messages_lost: most,
            queue_messages: most,
            queue_bytes: most,
            blocked_ms: Some(1 << 36),
            ..connection(most, 1, Role::Listener)
        };
        for table in [Table::Channels, Table::Peers] {
            let mut app = App::new(at(1), table);
            for second in 1..=2 {
                app.sampled(at(second), Ok(stats(daemon.clone(), vec![channel.clone()], vec![peer.clone()])));
            }
            let screen = screen(&mut app, 80, 24);
            assert!(screen.contains("18.4E"), "{screen}");
            assert!(!screen.contains(['\u{1b}', '\t', '\u{202e}']), "{screen}");
        }
    }
}
