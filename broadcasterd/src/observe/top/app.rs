//! The state of the screen and the effect of keys. It receives the time and never reads a clock, a terminal or a daemon.

use super::columns::{Column, Table, ordered};
use super::cursor::Cursor;
use super::pace::Pace;
use super::rates::{Measured, Meter};
use super::sampler::Missing;
use crate::daemon::stats::model::Stats;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Samples kept for the plot; no screen is wider.
const HISTORY_MAX: usize = 512;

/// Size limit of the filter, in characters.
const FILTER_CHARS_MAX: usize = 255;

/// The initial settings.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) interval: Duration,
    pub(crate) table: Table,
    pub(crate) filter: String,
}

/// The state of the connection to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// No result yet.
    Connecting,
    /// No daemon has answered yet.
    Waiting(Missing),
    Up,
    /// A daemon last answered at `seen`.
    Gone {
        seen: Duration,
        why: Missing,
    },
}

/// What the terminal does after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Quit,
    Suspend,
}

/// The state of one screen. The caller passes the time to [`App::tick`], takes a sample whenever [`App::wants_sample`] returns true,
/// and passes it to [`App::sampled`].
#[derive(Debug)]
pub(crate) struct App {
    pace: Pace,
    /// When the last sample arrived.
    seen: Duration,
    meter: Meter,
    link: Link,
    shown: Option<Measured>,
    /// Accepted and lost per second, newest first.
    history: VecDeque<(u64, u64)>,
    paused: bool,
    help: bool,
    table: Table,
    /// One for each [`Table`], in their order.
    cursors: [Cursor; 2],
    filter: String,
    editing: bool,
    /// The rows of the table that match the filter, sorted.
    order: Vec<usize>,
}

impl App {
    pub(crate) fn new(interval: Duration, table: Table) -> Self {
        Self {
            pace: Pace::new(interval),
            seen: Duration::ZERO,
            meter: Meter::default(),
            link: Link::Connecting,
            shown: None,
            history: VecDeque::new(),
            paused: false,
            help: false,
            table,
            cursors: Default::default(),
            filter: String::new(),
            editing: false,
            order: Vec::new(),
        }
    }

    /// A screen with these initial settings.
    pub(crate) fn showing(choice: &Choice) -> Self {
        let mut app = Self::new(choice.interval, choice.table);
        app.refilter(|filter| filter.clone_from(&choice.filter));
        app
    }

    /// Sets the time, which never decreases.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.pace.tick(now);
    }

    /// Whether to take a sample now. At most one is requested at a time.
    pub(crate) fn wants_sample(&mut self) -> bool {
        self.pace.wants_sample()
    }

    /// How long the caller may wait for an event.
    pub(crate) fn idle_for(&self) -> Duration {
        self.pace.idle_for()
    }

    /// Takes the sample requested by [`App::wants_sample`], which arrived at `at`.
    pub(crate) fn sampled(&mut self, at: Duration, sample: Result<Stats, Missing>) {
        match sample {
            Ok(stats) => {
                (self.link, self.seen) = (Link::Up, at);
                let measured = self.meter.measure(at, stats);
                self.pace.answered(at, measured.totals.is_none());
                if !self.paused {
                    self.show(measured);
                }
            }
            Err(why) => {
                self.pace.answered(at, true);
                self.link = match self.shown {
                    Some(_) => Link::Gone { seen: self.seen, why },
                    None => Link::Waiting(why),
                };
            }
        }
    }

    /// Handles a key.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Action::Quit,
                KeyCode::Char('z') => return Action::Suspend,
                KeyCode::Char('u') if self.editing => self.refilter(String::clear),
                _ => {}
            }
        } else if self.editing {
            self.edit(key.code);
        } else if self.help {
            self.help = false;
        } else {
            return self.command(key.code);
        }
        Action::Nothing
    }

    fn command(&mut self, code: KeyCode) -> Action {
        let page = self.cursor().page();
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Action::Quit,
            KeyCode::Esc => self.refilter(String::clear),
            KeyCode::Tab | KeyCode::BackTab => self.turn_to(self.table.other()),
            KeyCode::Char('c') => self.turn_to(Table::Channels),
            KeyCode::Char('p') => self.turn_to(Table::Peers),
            KeyCode::Down | KeyCode::Char('j') => self.step(1, true),
            KeyCode::Up | KeyCode::Char('k') => self.step(1, false),
            KeyCode::PageDown => self.step(page, true),
            KeyCode::PageUp => self.step(page, false),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('s') => {
                let table = self.table;
                self.cursor_mut().sort_by_next(table);
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.cursor_mut().reverse();
                self.arrange();
            }
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char(' ') => self.paused ^= true,
            KeyCode::Char('+' | '=') => self.pace.change(true),
            KeyCode::Char('-') => self.pace.change(false),
            KeyCode::Char('?') => self.help = true,
            _ => {}
        }
        Action::Nothing
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Esc => {
                self.editing = false;
                self.refilter(String::clear);
            }
            KeyCode::Enter | KeyCode::Tab => self.editing = false,
            KeyCode::Backspace => self.refilter(|filter| {
                filter.pop();
            }),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.refilter(|filter| filter.push(c));
            }
            _ => {}
        }
    }

    pub(crate) fn refilter(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.filter);
        self.arrange();
    }

    fn turn_to(&mut self, table: Table) {
        self.table = table;
        self.arrange();
    }

    fn show(&mut self, measured: Measured) {
        if let Some(totals) = measured.totals {
            self.history.truncate(HISTORY_MAX - 1);
            self.history.push_front((totals.accepted.whole(), totals.lost.whole()));
        }
        self.shown = Some(measured);
        self.arrange();
    }

    /// Sorts and filters the rows, keeping the selection.
    fn arrange(&mut self) {
        let Some(shown) = &self.shown else { return };
        let cursor = &mut self.cursors[self.table as usize];
        let (sort, reversed) = cursor.sort();
        self.order = ordered(self.table, shown, &self.filter, sort, reversed);
        cursor.follow(self.table, shown, &self.order);
    }

    fn step(&mut self, rows: usize, down: bool) {
        self.select(self.cursor().stepped(rows, down));
    }

    fn select(&mut self, index: usize) {
        let cursor = &mut self.cursors[self.table as usize];
        cursor.select(index, self.table, self.shown.as_ref(), &self.order);
    }

    /// The part of [`App::order`] that a table of `height` rows shows, including the selected row.
    pub(crate) fn visible(&mut self, height: usize) -> Range<usize> {
        let len = self.order.len();
        self.cursor_mut().visible(len, height)
    }

    fn cursor(&self) -> &Cursor {
        &self.cursors[self.table as usize]
    }

    fn cursor_mut(&mut self) -> &mut Cursor {
        &mut self.cursors[self.table as usize]
    }

    pub(crate) fn interval(&self) -> Duration {
        self.pace.interval()
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// How long the current request has waited, if that is too long.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.pace.overdue()
    }

    /// How long ago `moment` was.
    pub(crate) fn ago(&self, moment: Duration) -> Duration {
        self.pace.ago(moment)
    }

    pub(crate) fn shown(&self) -> Option<&Measured> {
        self.shown.as_ref()
    }

    pub(crate) fn history(&self) -> &VecDeque<(u64, u64)> {
        &self.history
    }

    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    pub(crate) fn table(&self) -> Table {
        self.table
    }

    /// The column that the table is sorted by, and whether in reverse.
    pub(crate) fn sort(&self) -> (Column, bool) {
        self.cursor().sort()
    }

    /// The index of the selected row in [`App::order`].
    pub(crate) fn selected(&self) -> Option<usize> {
        self.cursor().selected()
    }

    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    pub(crate) fn is_editing(&self) -> bool {
        self.editing
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn shows_help(&self) -> bool {
        self.help
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::INTERVALS;
    use super::super::samples::{at, busy, busy_app, connection, daemon, press, stats, type_in};
    use super::*;
    use crate::exit::Code;

    fn processes(app: &App) -> Vec<&str> {
        let peers = &app.shown().expect("a sample").peers;
        app.order().iter().map(|&row| peers[row].stats.process.as_deref().unwrap_or("-")).collect()
    }

    fn channels(app: &App) -> Vec<&str> {
        let channels = &app.shown().expect("a sample").channels;
        app.order().iter().map(|&row| &*channels[row].stats.name).collect()
    }

    fn selected(app: &App) -> &str {
        processes(app)[app.selected().expect("a selected row")]
    }

    #[test]
    fn slow_rows_come_first() {
        let app = busy_app(Table::Peers);
        let slow: Vec<bool> = app.order().iter().map(|&row| app.shown().expect("a sample").peers[row].slow).collect();
        assert_eq!(slow, [true, true, false, false, false, false, false, false]);
        assert_eq!(processes(&app)[..2], ["tray-icon", "indexer"]);
        assert_eq!(channels(&busy_app(Table::Channels))[..2], ["com.example.sync", "com.example.log"]);
    }

    #[test]
    fn sorting_cycles_through_the_columns_and_reverses() {
        let mut app = busy_app(Table::Channels);
        let by_badness: Vec<String> = channels(&app).into_iter().map(Into::into).collect();
        press(&mut app, "s");
        assert_eq!(app.sort(), (Column::Name, false));
        let mut names = channels(&app);
        assert!(names.is_sorted());
        names.reverse();
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        press(&mut app, "r");
        assert_eq!(channels(&app), names);
        for _ in 1..Table::Channels.columns().len() {
            press(&mut app, "s");
        }
        assert_eq!(
            (app.sort(), channels(&app)),
            ((Column::Slow, false), by_badness.iter().map(|name| &**name).collect())
        );
    }

    #[test]
    fn selection_survives_a_new_order() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "jj"); // The first press selects the first row.
        assert_eq!((app.selected(), selected(&app)), (Some(1), "indexer"));
        press(&mut app, "ssr");
        assert_eq!(app.sort(), (Column::Process, true));
        assert_eq!(selected(&app), "indexer");
        let mut next = busy(3);
        next.connections.rotate_left(3);
        app.sampled(at(3), Ok(next));
        assert_eq!(selected(&app), "indexer");
    }

    #[test]
    fn row_in_the_place_of_a_removed_one_is_selected() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "j");
        assert_eq!(selected(&app), "tray-icon");
        let mut next = busy(3);
        next.connections.retain(|peer| peer.process.as_deref() != Some("tray-icon"));
        app.sampled(at(3), Ok(next));
        assert_eq!((app.selected(), selected(&app)), (Some(0), "indexer"));
        app.sampled(at(4), Ok(stats(daemon(9_000), vec![], vec![])));
        assert_eq!((app.selected(), app.visible(5)), (None, 0..0));
    }

    #[test]
    fn filter_matches_processes_and_their_channels() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "/");
        type_in(&mut app, "INDEX");
        assert_eq!(processes(&app), ["indexer"]);
        assert_eq!(app.key(KeyCode::Esc.into()), Action::Nothing);
        assert_eq!((app.filter(), app.order().len()), ("", 8));
        press(&mut app, "/");
        type_in(&mut app, "example.log");
        assert_eq!(app.key(KeyCode::Enter.into()), Action::Nothing);
        assert!(!app.is_editing() && processes(&app).contains(&"tail-log"));
        assert_eq!(app.order().len(), 2);
        press(&mut app, "c");
        assert_eq!(channels(&app), ["com.example.log"]);
        // Escape clears the filter first, then quits.
        assert_eq!(app.key(KeyCode::Esc.into()), Action::Nothing);
        assert_eq!(app.key(KeyCode::Esc.into()), Action::Quit);
    }

    #[test]
    fn keys_are_text_while_editing_the_filter() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "/");
        type_in(&mut app, "q?r ");
        assert_eq!((app.filter(), app.is_paused(), app.shows_help()), ("q?r ", false, false));
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)), Action::Nothing);
        assert_eq!(app.filter(), "");
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
    }

    #[test]
    fn selection_stays_within_the_table_and_visible() {
        let mut app = App::new(at(1), Table::Peers);
        let peers = (0..4096).map(|id| connection(id, 10, "listener")).collect();
        app.sampled(at(1), Ok(stats(daemon(5_000), vec![], peers)));
        assert_eq!(app.visible(10), 0..10);
        app.key(KeyCode::End.into());
        assert_eq!((app.selected(), app.visible(10)), (Some(4095), 4086..4096));
        press(&mut app, "j");
        assert_eq!(app.selected(), Some(4095));
        app.key(KeyCode::PageUp.into());
        assert_eq!((app.selected(), app.visible(10)), (Some(4085), 4085..4095));
        app.key(KeyCode::Home.into());
        press(&mut app, "k");
        assert_eq!((app.selected(), app.visible(10)), (Some(0), 0..10));
        assert!(app.visible(0).is_empty());
        assert_eq!(app.visible(5000), 0..4096);
    }

    #[test]
    fn pause_freezes_the_screen_but_not_the_measurement() {
        let mut app = busy_app(Table::Channels);
        let before = app.shown().cloned();
        press(&mut app, " ");
        app.sampled(at(3), Ok(busy(3)));
        app.sampled(at(9), Ok(busy(9)));
        assert_eq!(app.shown(), before.as_ref());
        press(&mut app, " ");
        app.sampled(at(10), Ok(busy(10)));
        let totals = |app: &App| app.shown().and_then(|shown| shown.totals);
        assert_eq!(totals(&app), before.and_then(|shown| shown.totals));
        assert_eq!(app.shown().expect("a sample").daemon.uptime_ms, busy(10).daemon.uptime_ms);
    }

    #[test]
    fn samples_are_requested_one_at_a_time_at_the_interval() {
        let mut app = App::new(at(5), Table::Channels);
        assert!(app.wants_sample() && !app.wants_sample());
        app.tick(at(3));
        assert!(!app.wants_sample());
        assert_eq!(app.overdue(), Some(at(3)));
        // The second follows soon, since there are no rates before it; the third after an interval.
        app.sampled(at(3), Ok(busy(1)));
        assert!(app.wants_sample());
        app.sampled(at(4), Ok(busy(2)));
        assert_eq!((app.wants_sample(), app.overdue(), app.idle_for()), (false, None, at(1)));
        app.tick(at(8));
        assert!(app.wants_sample());
    }

    #[test]
    fn interval_changes_in_steps_within_its_limits() {
        let mut app = App::new(Duration::from_millis(1_500), Table::Channels);
        press(&mut app, "-");
        assert_eq!(app.interval(), at(1));
        press(&mut app, "----------");
        assert_eq!(app.interval(), *INTERVALS.start());
        press(&mut app, "++++++++++");
        assert_eq!(app.interval(), *INTERVALS.end());
    }

    #[test]
    fn last_screen_stays_when_the_daemon_stops() {
        let mut app = App::new(at(1), Table::Channels);
        assert_eq!(app.link(), &Link::Connecting);
        app.sampled(at(1), Err(Missing::NoDaemon));
        assert_eq!(app.link(), &Link::Waiting(Missing::NoDaemon));
        app.sampled(at(2), Ok(busy(1)));
        app.sampled(at(3), Ok(busy(2)));
        app.sampled(at(4), Err(Missing::Failed(Code::Failed, "a reason".into())));
        app.sampled(at(5), Err(Missing::NoDaemon));
        assert_eq!(app.link(), &Link::Gone { seen: at(3), why: Missing::NoDaemon });
        assert!(app.shown().is_some_and(|shown| shown.totals.is_some()));
        // The next daemon has another process id.
        let mut next = busy(0);
        next.daemon.pid += 1;
        app.sampled(at(6), Ok(next));
        assert_eq!((app.link(), app.shown().expect("a sample").totals), (&Link::Up, None));
    }

    #[test]
    fn any_key_closes_the_help() {
        let mut app = busy_app(Table::Channels);
        press(&mut app, "?");
        assert!(app.shows_help());
        assert_eq!(app.key(KeyCode::Char('q').into()), Action::Nothing);
        assert!(!app.shows_help());
        assert_eq!(app.key(KeyCode::Char('q').into()), Action::Quit);
    }
}
