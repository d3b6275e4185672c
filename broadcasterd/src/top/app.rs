//! What is shown, and what a key does to it. Pure: it is told what time it is, and never sees a clock, a terminal or a
//! daemon.

use super::rates::{ChannelRow, Measured, Meter, PeerRow};
use crate::exit::Code;
use crate::stats::model::Stats;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// How often samples may be taken.
pub(crate) const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// What `+` and `-` go through.
const INTERVAL_STEPS_MS: [u64; 9] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// Samples that the plot remembers; no screen is wider.
const HISTORY_MAX: usize = 512;

/// While there are no rates yet, or there is no daemon, nobody wants to wait for a long interval.
const IMPATIENT: Duration = Duration::from_secs(1);

/// An answer that takes longer than this is worth a word.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Longest text to filter by, in characters.
const FILTER_CHARS_MAX: usize = 255;

/// Why there is no sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No daemon runs.
    NoDaemon,
    /// There may be one, and this is what went wrong.
    /// Why, and how the command would end for it.
    Failed(Code, String),
}

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Channels,
    Peers,
}

impl Table {
    /// Its columns, in order; also what it can be sorted by.
    pub(crate) fn columns(self) -> &'static [Column] {
        use Column::{Blocked, Bytes, Channel, Listeners, Lost, LostRate, Messages, Name, Pid, Process, Queue, Role};
        match self {
            Self::Channels => &[Column::Slow, Name, Column::Senders, Listeners, Messages, Bytes, LostRate, Lost],
            Self::Peers => {
                &[Column::Slow, Pid, Process, Role, Channel, Messages, Bytes, Queue, LostRate, Lost, Blocked]
            }
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Channels => Self::Peers,
            Self::Peers => Self::Channels,
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// The sign of who is slow.
    Slow,
    Name,
    Senders,
    Listeners,
    Pid,
    Process,
    Role,
    Channel,
    Messages,
    Bytes,
    Queue,
    LostRate,
    Lost,
    Blocked,
}

/// How things stand with the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing is known yet.
    Connecting,
    /// There is none yet, or none that answers.
    Waiting(Missing),
    Up,
    /// There was one, which was seen last at `seen`.
    Gone {
        seen: Duration,
        why: Missing,
    },
}

/// What the terminal's side has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Quit,
    Suspend,
}

/// One screen's worth of state. The caller tells the time ([`App::tick`]), takes a sample whenever [`App::asks`], and hands
/// it to [`App::sampled`].
#[derive(Debug)]
pub(crate) struct App {
    now: Duration,
    interval: Duration,
    /// When the sample that is on its way was asked for.
    asked: Option<Duration>,
    due: Duration,
    /// When the last sample came.
    seen: Duration,
    meter: Meter,
    link: Link,
    shown: Option<Measured>,
    /// Accepted and lost per second, newest first.
    history: VecDeque<(u64, u64)>,
    paused: bool,
    help: bool,
    table: Table,
    channels: Place,
    peers: Place,
    filter: String,
    editing: bool,
    /// The rows of the table that are to be seen, in order.
    order: Vec<usize>,
}

/// Where the user is in a table, and how it is sorted.
#[derive(Debug)]
struct Place {
    sort: Column,
    reversed: bool,
    /// The row that the user chose, if any, and where it stood.
    selected: Option<Identity>,
    index: usize,
    first: usize,
    height: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { sort: Column::Slow, reversed: false, selected: None, index: 0, first: 0, height: 1 }
    }
}

/// What makes a row the same from sample to sample.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    Channel(String),
    Peer(u64),
}

impl App {
    pub(crate) fn new(interval: Duration, table: Table) -> Self {
        Self {
            now: Duration::ZERO,
            interval,
            asked: None,
            due: Duration::ZERO,
            seen: Duration::ZERO,
            meter: Meter::default(),
            link: Link::Connecting,
            shown: None,
            history: VecDeque::new(),
            paused: false,
            help: false,
            table,
            channels: Place::default(),
            peers: Place::default(),
            filter: String::new(),
            editing: false,
            order: Vec::new(),
        }
    }

    /// It is `now`, which never decreases.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = now;
    }

    /// Whether a sample is to be taken now; there is never more than one on its way.
    pub(crate) fn asks(&mut self) -> bool {
        let asks = self.asked.is_none() && self.now >= self.due;
        if asks {
            self.asked = Some(self.now);
        }
        asks
    }

    /// How long nothing will happen by itself. Once a second, times that are shown grow.
    pub(crate) fn idle_for(&self) -> Duration {
        match self.asked {
            Some(_) => IMPATIENT,
            None => self.due.saturating_sub(self.now).min(IMPATIENT),
        }
    }

    /// The answer to [`App::asks`], which came at `at`.
    pub(crate) fn sampled(&mut self, at: Duration, sample: Result<Stats, Missing>) {
        let asked = self.asked.take().unwrap_or(at);
        match sample {
            Ok(stats) => {
                (self.link, self.seen) = (Link::Up, at);
                let measured = self.meter.measure(at, stats);
                let patient = measured.totals.is_some();
                self.due = asked + if patient { self.interval } else { self.interval.min(IMPATIENT) };
                if !self.paused {
                    self.show(measured);
                }
            }
            Err(why) => {
                self.due = asked + self.interval.min(IMPATIENT);
                self.link = match self.shown {
                    Some(_) => Link::Gone { seen: self.seen, why },
                    None => Link::Waiting(why),
                };
            }
        }
        // A slow answer puts the next one off, instead of leaving no pause between them.
        self.due = self.due.max(at);
    }

    /// Does what `key` stands for.
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
        let page = self.place().height.max(1);
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Action::Quit,
            KeyCode::Esc => self.refilter(String::clear),
            KeyCode::Tab | KeyCode::BackTab => self.turn_to(self.table.other()),
            KeyCode::Char('c') => self.turn_to(Table::Channels),
            KeyCode::Char('p') => self.turn_to(Table::Peers),
            KeyCode::Down | KeyCode::Char('j') => self.go_by(1, true),
            KeyCode::Up | KeyCode::Char('k') => self.go_by(1, false),
            KeyCode::PageDown => self.go_by(page, true),
            KeyCode::PageUp => self.go_by(page, false),
            KeyCode::Home => self.go_to(0),
            KeyCode::End => self.go_to(usize::MAX),
            KeyCode::Char('s') => {
                let columns = self.table.columns();
                let at = columns.iter().position(|&column| column == self.place().sort).map_or(0, |at| at + 1);
                let sort = columns[at % columns.len()];
                let place = self.place_mut();
                (place.sort, place.reversed) = (sort, false);
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.place_mut().reversed ^= true;
                self.arrange();
            }
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char(' ') => self.paused ^= true,
            KeyCode::Char('+' | '=') => self.change_interval(true),
            KeyCode::Char('-') => self.change_interval(false),
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

    fn change_interval(&mut self, longer: bool) {
        let mut steps = INTERVAL_STEPS_MS.map(Duration::from_millis).into_iter();
        let next = match longer {
            true => steps.find(|&step| step > self.interval),
            false => steps.rfind(|&step| step < self.interval),
        };
        self.interval = next.unwrap_or(self.interval);
        self.due = self.due.min(self.now + self.interval);
    }

    fn show(&mut self, measured: Measured) {
        if let Some(totals) = measured.totals {
            self.history.truncate(HISTORY_MAX - 1);
            self.history.push_front((totals.accepted.whole(), totals.lost.whole()));
        }
        self.shown = Some(measured);
        self.arrange();
    }

    /// Brings the rows in order, and keeps to the row that the user chose. If that one has gone, the one in its place is
    /// chosen.
    fn arrange(&mut self) {
        let Some(shown) = &self.shown else { return };
        let filter = self.filter.to_lowercase();
        let has = |name: &str| filter.is_empty() || name.to_lowercase().contains(&filter);
        let (table, sort, reversed) = (self.table, self.place().sort, self.place().reversed);
        let turned = |order: Ordering| if reversed { order.reverse() } else { order };
        self.order.clear();
        match table {
            Table::Channels => {
                let rows = &shown.channels;
                self.order.extend((0..rows.len()).filter(|&row| has(&rows[row].stats.name)));
                self.order.sort_unstable_by(|&a, &b| {
                    let (a, b) = (&rows[a], &rows[b]);
                    turned(compare_channels(sort, a, b)).then_with(|| a.stats.name.cmp(&b.stats.name))
                });
            }
            Table::Peers => {
                let rows = &shown.peers;
                self.order.extend((0..rows.len()).filter(|&row| {
                    let stats = &rows[row].stats;
                    filter.is_empty()
                        || stats.process.as_deref().is_some_and(has)
                        || stats.channels.iter().any(|name| has(name))
                }));
                self.order.sort_unstable_by(|&a, &b| {
                    let (a, b) = (&rows[a], &rows[b]);
                    turned(compare_peers(sort, a, b)).then_with(|| a.serial.cmp(&b.serial))
                });
            }
        }
        if let Some(selected) = self.place().selected.clone() {
            let stands = self.order.iter().position(|&row| match &selected {
                Identity::Channel(name) => table == Table::Channels && shown.channels[row].stats.name == *name,
                Identity::Peer(serial) => table == Table::Peers && shown.peers[row].serial == *serial,
            });
            self.go_to(stands.unwrap_or(self.place().index));
        }
    }

    fn go_by(&mut self, rows: usize, down: bool) {
        let place = self.place();
        let at = place.index;
        self.go_to(match place.selected {
            None if rows == 1 => at,
            _ if down => at.saturating_add(rows),
            _ => at.saturating_sub(rows),
        });
    }

    fn go_to(&mut self, index: usize) {
        let index = index.min(self.order.len().saturating_sub(1));
        let selected = match (&self.shown, self.order.get(index)) {
            (Some(shown), Some(&row)) => Some(match self.table {
                Table::Channels => Identity::Channel(shown.channels[row].stats.name.clone()),
                Table::Peers => Identity::Peer(shown.peers[row].serial),
            }),
            _ => None,
        };
        let place = self.place_mut();
        (place.index, place.selected) = (index, selected);
    }

    /// The rows of [`App::order`] that a table of `height` rows shows, such that the chosen one is among them.
    pub(crate) fn visible(&mut self, height: usize) -> Range<usize> {
        let len = self.order.len();
        let place = self.place_mut();
        place.height = height;
        let (lowest, highest) = ((place.index + 1).saturating_sub(height), place.index);
        place.first = place.first.clamp(lowest, highest.max(lowest)).min(len.saturating_sub(height));
        place.first..len.min(place.first + height)
    }

    fn place(&self) -> &Place {
        match self.table {
            Table::Channels => &self.channels,
            Table::Peers => &self.peers,
        }
    }

    fn place_mut(&mut self) -> &mut Place {
        match self.table {
            Table::Channels => &mut self.channels,
            Table::Peers => &mut self.peers,
        }
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The daemon has had this long to answer, if that is too long.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.asked.map(|asked| self.now.saturating_sub(asked)).filter(|&time| time >= ANSWER_WITHIN)
    }

    /// How long ago `moment` was.
    pub(crate) fn ago(&self, moment: Duration) -> Duration {
        self.now.saturating_sub(moment)
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

    /// What the table is sorted by, and whether the other way round.
    pub(crate) fn sort(&self) -> (Column, bool) {
        (self.place().sort, self.place().reversed)
    }

    /// Where in [`App::order`] the chosen row stands.
    pub(crate) fn selected(&self) -> Option<usize> {
        self.place().selected.as_ref().map(|_| self.place().index)
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

/// Names rise, numbers fall.
fn compare_channels(column: Column, a: &ChannelRow, b: &ChannelRow) -> Ordering {
    let rates = |row: &ChannelRow| row.rates.unwrap_or_default();
    let fall = |number: fn(&ChannelRow) -> u64| number(b).cmp(&number(a));
    match column {
        Column::Senders => fall(|row| row.stats.senders),
        Column::Listeners => fall(|row| row.stats.listeners),
        Column::Messages => rates(b).messages.cmp(&rates(a).messages),
        Column::Bytes => rates(b).bytes.cmp(&rates(a).bytes),
        Column::LostRate => rates(b).lost.cmp(&rates(a).lost),
        Column::Lost => fall(|row| row.stats.messages_lost),
        Column::Slow => {
            let key = |row: &ChannelRow| Reverse((row.slow, rates(row).lost, rates(row).messages));
            key(a).cmp(&key(b))
        }
        Column::Name
        | Column::Channel
        | Column::Pid
        | Column::Process
        | Column::Role
        | Column::Queue
        | Column::Blocked => a.stats.name.cmp(&b.stats.name),
    }
}

/// Names rise, numbers fall.
fn compare_peers(column: Column, a: &PeerRow, b: &PeerRow) -> Ordering {
    let rates = |row: &PeerRow| row.rates.unwrap_or_default();
    match column {
        Column::Pid => a.stats.pid.cmp(&b.stats.pid),
        Column::Process => a.stats.process.cmp(&b.stats.process),
        Column::Role => a.stats.role.cmp(&b.stats.role),
        Column::Channel => a.stats.channels.cmp(&b.stats.channels),
        Column::Messages => rates(b).messages.cmp(&rates(a).messages),
        Column::Bytes => rates(b).bytes.cmp(&rates(a).bytes),
        Column::Queue => (b.queue_permille, b.stats.queue_bytes).cmp(&(a.queue_permille, a.stats.queue_bytes)),
        Column::LostRate => rates(b).lost.cmp(&rates(a).lost),
        Column::Lost => b.stats.messages_lost.cmp(&a.stats.messages_lost),
        Column::Blocked => b.stats.blocked_ms.cmp(&a.stats.blocked_ms),
        Column::Slow => {
            let badness = |row: &PeerRow| {
                let blocked_ms = if row.slow { row.stats.blocked_ms } else { None };
                let queue = if row.slow { row.queue_permille } else { 0 };
                Reverse((row.slow, rates(row).lost, queue, blocked_ms, rates(row).messages))
            };
            badness(a).cmp(&badness(b))
        }
        Column::Name | Column::Senders | Column::Listeners => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{at, busy, busy_app, connection, daemon, press, stats, type_in};
    use super::*;
    use crate::stats::model::Role;

    fn processes(app: &App) -> Vec<&str> {
        let peers = &app.shown().expect("a sample").peers;
        app.order().iter().map(|&row| peers[row].stats.process.as_deref().unwrap_or("-")).collect()
    }

    fn channels(app: &App) -> Vec<&str> {
        let channels = &app.shown().expect("a sample").channels;
        app.order().iter().map(|&row| &*channels[row].stats.name).collect()
    }

    fn chosen(app: &App) -> &str {
        processes(app)[app.selected().expect("a chosen row")]
    }

    #[test]
    fn slow_ones_stand_first() {
        let app = busy_app(Table::Peers);
        let slow: Vec<bool> = app.order().iter().map(|&row| app.shown().expect("a sample").peers[row].slow).collect();
        assert_eq!(slow, [true, true, false, false, false, false, false, false]);
        assert_eq!(processes(&app)[..2], ["tray-icon", "indexer"]);
        assert_eq!(channels(&busy_app(Table::Channels))[..2], ["com.example.sync", "com.example.log"]);
    }

    #[test]
    fn sort_goes_through_the_columns_and_turns() {
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
    fn chosen_row_stays_chosen_when_the_order_changes() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "jj"); // The first press chooses the first row.
        assert_eq!((app.selected(), chosen(&app)), (Some(1), "indexer"));
        press(&mut app, "ssr");
        assert_eq!(app.sort(), (Column::Process, true));
        assert_eq!(chosen(&app), "indexer");
        let mut next = busy(3);
        next.connections.rotate_left(3);
        app.sampled(at(3), Ok(next));
        assert_eq!(chosen(&app), "indexer");
    }

    #[test]
    fn row_in_the_place_of_one_that_has_gone_is_chosen() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "j");
        assert_eq!(chosen(&app), "tray-icon");
        let mut next = busy(3);
        next.connections.retain(|peer| peer.process.as_deref() != Some("tray-icon"));
        app.sampled(at(3), Ok(next));
        assert_eq!((app.selected(), chosen(&app)), (Some(0), "indexer"));
        app.sampled(at(4), Ok(stats(daemon(9_000), vec![], vec![])));
        assert_eq!((app.selected(), app.visible(5)), (None, 0..0));
    }

    #[test]
    fn filter_finds_processes_and_their_channels() {
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
        // Escape clears the filter first, and then ends.
        assert_eq!(app.key(KeyCode::Esc.into()), Action::Nothing);
        assert_eq!(app.key(KeyCode::Esc.into()), Action::Quit);
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        let mut app = busy_app(Table::Peers);
        press(&mut app, "/");
        type_in(&mut app, "q?r ");
        assert_eq!((app.filter(), app.is_paused(), app.shows_help()), ("q?r ", false, false));
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)), Action::Nothing);
        assert_eq!(app.filter(), "");
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
    }

    #[test]
    fn moving_keeps_within_the_table_and_the_chosen_row_in_sight() {
        let mut app = App::new(at(1), Table::Peers);
        let peers = (0..4096).map(|id| connection(id, 10, Role::Listener)).collect();
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
    fn pause_freezes_what_is_shown_and_not_what_is_measured() {
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
    fn one_sample_at_a_time_at_the_interval() {
        let mut app = App::new(at(5), Table::Channels);
        assert!(app.asks() && !app.asks());
        app.tick(at(3));
        assert!(!app.asks());
        assert_eq!(app.overdue(), Some(at(3)));
        // The second comes soon, since there are no rates before it; the third after an interval.
        app.sampled(at(3), Ok(busy(1)));
        assert!(app.asks());
        app.sampled(at(4), Ok(busy(2)));
        assert_eq!((app.asks(), app.overdue(), app.idle_for()), (false, None, at(1)));
        app.tick(at(8));
        assert!(app.asks());
    }

    #[test]
    fn interval_goes_in_steps_and_keeps_to_its_limits() {
        let mut app = App::new(Duration::from_millis(1_500), Table::Channels);
        press(&mut app, "-");
        assert_eq!(app.interval(), at(1));
        press(&mut app, "----------");
        assert_eq!(app.interval(), *INTERVALS.start());
        press(&mut app, "++++++++++");
        assert_eq!(app.interval(), *INTERVALS.end());
    }

    #[test]
    fn daemon_that_goes_leaves_its_last_screen_and_may_come_back() {
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
        // The next one has another process id.
        let mut next = busy(0);
        next.daemon.pid += 1;
        app.sampled(at(6), Ok(next));
        assert_eq!((app.link(), app.shown().expect("a sample").totals), (&Link::Up, None));
    }

    #[test]
    fn help_goes_with_any_key() {
        let mut app = busy_app(Table::Channels);
        press(&mut app, "?");
        assert!(app.shows_help());
        assert_eq!(app.key(KeyCode::Char('q').into()), Action::Nothing);
        assert!(!app.shows_help());
        assert_eq!(app.key(KeyCode::Char('q').into()), Action::Quit);
    }
}
