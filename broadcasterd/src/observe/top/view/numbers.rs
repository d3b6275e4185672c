//! The upper part of the screen: the daemon, its totals and the slow listeners.

use super::parts::{SLOW_MARK, Theme, process, put, rows_of};
use crate::daemon::stats::model::permille;
use crate::observe::format::{bar, count, fit, size, time};
use crate::observe::top::app::{App, Link};
use crate::observe::top::rates::{Measured, Rate, Totals, byte_rate, rate};
use crate::observe::top::sampler::Missing;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, Widget};

/// Draws everything above the table; small screens omit parts of it.
pub(super) fn draw_numbers(app: &App, theme: Theme, rest: &mut Rect, buffer: &mut Buffer) {
    let Some(shown) = app.shown() else { return };
    let (height, wide) = (rest.height, rest.width >= 76);
    let daemon = &shown.daemon;

    let row = rows_of(rest, 1, true);
    let state = match app.link() {
        _ if app.is_paused() => "PAUSED".into(),
        Link::Gone { why: Missing::NoDaemon, .. } => "STOPPED".into(),
        Link::Gone { why: Missing::Failed(..), .. } => "NO STATISTICS".into(),
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
    let of = |pick: fn(Totals) -> Rate| totals.map(pick);
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

/// Names the slow listeners; or, more important, shows that the daemon no longer answers.
fn draw_verdict(app: &App, shown: &Measured, theme: Theme, row: Rect, buffer: &mut Buffer) {
    let line = match app.link() {
        Link::Gone { seen, why } => {
            let ago = time(u64::try_from(app.ago(*seen).as_millis()).unwrap_or(u64::MAX));
            let sentence = match why {
                Missing::NoDaemon => {
                    format!("{SLOW_MARK} the daemon has stopped, last seen {ago} ago; waiting for one")
                }
                Missing::Failed(_, why) => format!("{SLOW_MARK} no statistics for {ago}: {}", fit(why, 400)),
            };
            Line::styled(sentence, theme.slow())
        }
        Link::Connecting | Link::Waiting(_) | Link::Up => {
            let slow = || shown.peers.iter().filter(|peer| peer.slow);
            match slow().count() {
                0 => Line::styled("no slow listeners", theme.good()),
                many => {
                    let named = slow().take(3).map(|peer| format!("{} ({})", process(peer, 20), peer.stats.pid));
                    let mut names = named.collect::<Vec<_>>().join(", ");
                    if many > 3 {
                        names += ", ...";
                    }
                    let sentence = format!("{SLOW_MARK} {many} slow: {names}");
                    Line::styled(sentence, theme.slow())
                }
            }
        }
    };
    put(buffer, row, line);
}

/// Selects the plotted value of a sample.
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
