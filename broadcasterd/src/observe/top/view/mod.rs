//! Draws an [`App`]. It never waits, never writes to a terminal, and formats only visible rows.

mod numbers;
mod parts;
mod plain;
mod table;

pub(crate) use parts::Theme;
pub(crate) use plain::PlainText;

use super::app::{App, Link};
use super::sampler::Missing;
use crate::observe::format::fit;
use numbers::draw_numbers;
use parts::{put, rows_of};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget, Wrap};
use table::draw_table;

/// The smallest supported screen.
pub(crate) const SMALLEST: (u16, u16) = (40, 10);

/// Each line fits on the smallest screen.
const KEYS: [(&str, &str); 10] = [
    ("q Esc ^C", "quit (Esc: clear filter first)"),
    ("Tab c p", "channels, peers"),
    ("Up Down", "move; j k PgUp PgDn Home End"),
    ("s r", "next sort column, reverse"),
    ("/", "filter by channel or process"),
    ("Space", "pause, continue"),
    ("+ -", "longer, shorter interval"),
    ("^Z", "suspend"),
    ("!", "slow: losing messages, blocked,"),
    ("", "or queue more than half full"),
];

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
            Link::Waiting(Missing::Failed(_, why)) => format!("no statistics: {}; retrying", fit(why, 400)),
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
    let text = if border > 0 { text.block(Block::bordered().title(" keys; any key closes this ")) } else { text };
    text.render(place, buffer);
}

#[cfg(test)]
mod tests {
    use super::super::columns::Table;
    use super::super::samples::{at, busy, busy_app, channel, connection, daemon, press, stats, type_in, watched_app};
    use super::table::{shape, slots};
    use super::*;
    use crate::daemon::stats::model::{Channel, Connection};
    use crate::exit::Code;
    use crate::observe::screens::assert_screen;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;
    use ratatui::crossterm::event::KeyCode;
    use ratatui::style::{Color, Modifier};

    const PLAIN: Theme = Theme { colours: false };

    fn drawn(app: &mut App, theme: Theme, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend");
        terminal.draw(|frame| draw(app, theme, frame.area(), frame.buffer_mut())).expect("a test backend");
        terminal.backend().buffer().clone()
    }

    fn screen(app: &mut App, width: u16, height: u16) -> String {
        PlainText(&drawn(app, PLAIN, width, height)).to_string()
    }

    /// The rows below the table's header.
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
    fn slow_listener_comes_first_and_is_marked_at_every_size() {
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
    fn slow_rows_are_red_only_with_colours() {
        for colours in [true, false] {
            let buffer = drawn(&mut busy_app(Table::Peers), Theme { colours }, 80, 24);
            let red = buffer.content().iter().any(|cell| cell.fg == Color::Red);
            let coloured = buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
            assert_eq!((red, coloured), (colours, colours));
        }
    }

    #[test]
    fn header_shows_the_daemon_and_its_rates() {
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
    fn columns_are_aligned_with_their_titles_whatever_the_names() {
        for (table, width) in [(Table::Channels, 80), (Table::Channels, 200), (Table::Peers, 80), (Table::Peers, 200)] {
            let mut app = busy_app(table);
            let buffer = drawn(&mut app, PLAIN, width, 50);
            let text = |y: u16, x: u16, width: u16| -> String {
                (x..x + width).filter_map(|x| buffer.cell((x, y))).map(Cell::symbol).collect()
            };
            let header = (0..50).find(|&y| text(y, 0, width).contains("MSG/S")).expect("a header");
            for slot in slots(table.columns(), 0, width) {
                for y in header..header + 1 + u16::try_from(app.order().len()).expect("few") {
                    let gap = slot.x + slot.width;
                    assert!(gap >= width || text(y, gap, 1) == " ", "row {y}: {:?}", text(y, 0, width));
                    let cell = text(y, slot.x, slot.width);
                    assert!(!shape(slot.column).right || !cell.ends_with(' '), "row {y}: {cell:?}");
                }
            }
        }
    }

    #[test]
    fn every_size_is_drawn_and_too_small_ones_name_the_minimum() {
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
    fn states_of_the_daemon_are_shown() {
        let mut app = App::new(at(1), Table::Channels);
        assert!(screen(&mut app, 80, 24).contains("connecting"));
        app.sampled(at(1), Err(Missing::NoDaemon));
        assert!(screen(&mut app, 80, 24).contains("no daemon runs; waiting for one (top never starts one)"));
        app.sampled(at(2), Err(Missing::Failed(Code::Failed, "the socket \u{1b}[2J is odd".into())));
        assert!(screen(&mut app, 80, 24).contains("no statistics: the socket \u{fffd}[2J is odd; retrying"));

        let mut app = busy_app(Table::Peers);
        app.sampled(at(10), Err(Missing::NoDaemon));
        app.tick(at(22));
        let last = screen(&mut app, 80, 24);
        assert!(
            last.contains("! the daemon has stopped, last seen 20s ago; waiting for one") && last.contains("tray-icon"),
            "{last}"
        );
        app.sampled(at(23), Ok(busy(2)));
        app.tick(at(24));
        assert!(app.wants_sample());
        app.tick(at(29));
        assert!(screen(&mut app, 80, 24).contains("no answer for 5 s"));
        press(&mut app, " ");
        assert!(screen(&mut app, 80, 24).contains("PAUSED"));
    }

    #[test]
    fn quiet_bus_is_described() {
        let mut app = App::new(at(1), Table::Channels);
        app.sampled(at(1), Ok(stats(daemon(5_000), vec![], vec![])));
        let quiet = screen(&mut app, 80, 24);
        assert!(quiet.contains("no slow listeners") && quiet.contains("no open channels"), "{quiet}");
        assert!(quiet.contains("accepted    - messages/s"), "{quiet}");
    }

    #[test]
    fn filter_and_help_are_shown() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "/");
        type_in(&mut app, "backup");
        let found = screen(&mut app, 80, 24);
        assert!(found.contains("filter: backup_") && found.contains("1 match"), "{found}");
        type_in(&mut app, "!");
        assert!(screen(&mut app, 80, 24).contains("no row matches the filter; Esc clears it"));
        app.key(KeyCode::Esc.into());
        press(&mut app, "?");
        for (width, height) in [(80, 24), (40, 10)] {
            let help = screen(&mut app, width, height);
            assert!(help.contains("quit") && help.contains("channels, peers"), "{help}");
        }
    }

    #[test]
    fn selected_row_is_reversed_and_visible() {
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
            ..connection(most, 1, "listener")
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
