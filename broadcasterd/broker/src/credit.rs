//! Backpressure: how much the senders that requested it may send, and which listener they wait for. It never touches a message.
//!
//! ```text
//! run accepted -> balance falls -> publication lacks credit -> channel is due
//! turn's end: the listeners of each channel that is due are looked at once
//!   none is behind  -> credit up to the window for every publication that lacks it
//!   one is behind   -> the channel waits for it, until the listener has made room, leaves or is left behind
//! deadline        -> listeners that were behind for a sender's whole patience are left behind
//! ```
//!
//! The system may report a full socket as writable only when most of it is free. So while a sender waits for a listener, the write is tried
//! again every 100 ms, so that a slow reader is not mistaken for one that has stopped.
//!
//! The decision is made at the end of a turn, because only then has every listener been offered what waits for it: before that, a listener
//! that reads would look slow. A channel that lacks credit is looked at once, with all of its listeners, and then waits for the one with the
//! most bytes; it is looked at again when that one has made room or left, or at a deadline. So a byte costs a comparison, a grant costs a
//! look at the listeners, and nothing is scanned in between. What happens after the end of a turn, such as a write that fails, leaves a deadline
//! that has passed, so that the next turn follows at once.
//!
//! A listener is behind while its socket is full and more than half of its room is used at the end of a turn. So a listener is never
//! behind because the turn has not written to it yet, and a moment of room within a turn, which helps no sender, does not count. A listener that
//! reads a ring itself is behind while it has more than a quarter of the ring to read. The memory budget is like one more listener of every
//! channel, whose room is the budget.

use crate::broker::Broker;
use crate::connection::Connection;
use crate::delivery::Published;
use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Moment};
use crate::limits::{Limits, TURN_WORK_MAX, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
use crate::outbox::Room;
use broadcaster_protocol::ChannelId;
use broadcaster_protocol::control::{Control, Credit, Extensions, extension};
use broadcaster_protocol::frame::extent;
use broadcaster_protocol::limits::CREDIT_MESSAGE_BYTES;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The part of an outbox that the windows of a channel fill together, and the part of the memory budget that all windows fill together.
const WINDOWS_SHARE: usize = 4;

/// How long after it was full a socket is tried again while a sender waits for it.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The lowest balance. Only the words of a hostile sender's ring could lead below it, and what such a sender lacks is still a number.
const BALANCE_MIN: i64 = i64::MIN / 2;

/// The balance of a publication with backpressure.
#[derive(Debug)]
pub(crate) struct Pace {
    /// For how long a listener may delay the sender.
    patience: Duration,
    /// Bytes that may be sent. A frame may be sent while it is more than zero.
    balance: i64,
    /// Since when it is not.
    empty: Option<Moment>,
    /// The most that may be granted at a time, if that is less than the window: what the ring of the publication has room for.
    window_max: u32,
}

impl Pace {
    /// No credit yet.
    pub(crate) fn new(patience: Duration, now: Moment) -> Self {
        Self { patience, balance: 0, empty: Some(now), window_max: u32::MAX }
    }

    /// The frames of the publication are in a ring from now on, which has room for so many bytes. False if there is more credit already.
    pub(crate) fn begin_ring(&mut self, room: u64) -> bool {
        let fits = u64::try_from(self.balance).unwrap_or(0) <= room;
        if fits {
            self.window_max = u32::try_from(room).unwrap_or(u32::MAX);
        }
        fits
    }

    pub(crate) fn end_ring(&mut self) {
        self.window_max = u32::MAX;
    }

    /// Bytes and messages of the frames at the front that the credit covers.
    pub(crate) fn covered(&self, frames: &[u8], messages: u64) -> (usize, u64) {
        if self.balance > cost(frames.len() as u64, messages) {
            return (frames.len(), messages);
        }
        let (mut covered, mut balance) = ((0, 0), self.balance);
        while balance > 0 && covered.0 < frames.len() {
            let (bytes, messages) = extent(&frames[covered.0..]);
            balance = balance.saturating_sub(cost(bytes as u64, messages));
            covered = (covered.0 + bytes, covered.1 + messages);
        }
        covered
    }

    /// Whether nothing may be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.balance <= 0
    }

    fn spend(&mut self, now: Moment, bytes: u64, messages: u64) {
        self.balance = self.balance.saturating_sub(cost(bytes, messages)).max(BALANCE_MIN);
        if self.is_empty() {
            self.empty.get_or_insert(now);
        }
    }

    /// What a balance of `window` lacks, if that is at least half of it.
    fn lacks(&self, window: u32) -> Option<u64> {
        let window = window.min(self.window_max);
        let lacking = i64::from(window).saturating_sub(self.balance);
        u64::try_from(lacking).ok().filter(|&lacking| lacking >= u64::from(window / 2))
    }

    fn grant(&mut self, bytes: u64) {
        self.balance = self.balance.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.empty = None;
    }
}

/// What frames use up.
fn cost(bytes: u64, messages: u64) -> i64 {
    i64::try_from(bytes.saturating_add(messages.saturating_mul(CREDIT_MESSAGE_BYTES))).unwrap_or(i64::MAX)
}

/// The longest time for which a listener may delay the sender that sends `extensions` in its Open; `None` without backpressure. The
/// error is the reason for which it is refused.
pub(crate) fn patience(extensions: &Extensions) -> Result<Option<Duration>, String> {
    let Some(extension) = extensions.iter().find(|extension| extension.id == extension::BACKPRESSURE) else {
        return Ok(None);
    };
    match <[u8; 4]>::try_from(&extension.data[..]).map(u32::from_le_bytes) {
        Ok(0) => Ok(None),
        Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds.into()))),
        Err(_) => Err(format!("the backpressure of a publication has {} bytes, not 4", extension.data.len())),
    }
}

/// How a connection keeps up, and which channels wait for it.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Since when it is behind.
    pub(crate) behind: Option<Moment>,
    /// It has delayed senders for long enough, and delays none until it has caught up.
    pub(crate) left_behind: bool,
    /// How far it is behind in the rings of senders with backpressure.
    pub(crate) in_rings: Lag,
    /// The channels that wait for it.
    pub(crate) delays: BTreeSet<ChannelId>,
    /// How often a channel has waited for it with a sender that could not send, and for how long, added over channels; without those
    /// that wait now.
    pub(crate) delayed: (u64, Duration),
}

/// How far a listener is behind the head of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Lag {
    /// It has nothing or little to read.
    #[default]
    None,
    /// It may go on, but has not caught up.
    Late,
    /// It is behind: senders wait for it.
    Behind,
}

/// What the channels with backpressure know.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    channels: BTreeMap<ChannelId, PacedChannel>,
    /// All their publications with backpressure.
    publications: usize,
    /// The connections that were behind, and may not be any more.
    pub(crate) recovering: BTreeSet<ConnId>,
    /// The channels to look at, at the end of the turn, in the order in which they were noted. Some may have ended.
    due: VecDeque<ChannelId>,
    deadlines: BTreeSet<(Moment, ChannelId)>,
    memory: Shortage,
}

/// The memory budget, in the role of a listener.
#[derive(Debug, Default)]
struct Shortage {
    /// Since when more than half of it is held.
    since: Option<Moment>,
    /// It has delayed senders for long enough, and delays none until it is over.
    left_behind: bool,
    /// The channels that wait for its end.
    delays: BTreeSet<ChannelId>,
}

/// A channel that has publications with backpressure.
#[derive(Debug, Default)]
struct PacedChannel {
    publications: usize,
    /// Those that may lack credit. Those that have none are among them.
    wanting: BTreeSet<ConnId>,
    wait: Wait,
    /// When the first sender has waited long enough.
    deadline: Option<Moment>,
    /// It is among the channels to look at.
    due: bool,
}

/// What a channel waits for before it grants credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    #[default]
    Nothing,
    /// A listener that is behind, with the time since which a sender without credit waits for it.
    Listener { conn: ConnId, since: Option<Moment> },
    /// The end of a shortage of memory.
    Memory,
}

impl Credits {
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        if !self.due.is_empty() || !self.recovering.is_empty() {
            return Some(Moment::default()); // they are looked at as soon as possible
        }
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Whether the publication of the connection on the channel may lack credit.
    pub(crate) fn is_wanting(&self, id: ChannelId, conn: ConnId) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.wanting.contains(&conn))
    }

    /// The connection has used up credit on the channel.
    pub(crate) fn spend(&mut self, now: Moment, limits: &Limits, conn: ConnId, published: &Published, pace: &mut Pace) {
        let id = published.channel;
        let had = !pace.is_empty();
        pace.spend(now, published.bytes, published.messages);
        let window = self.window(limits, id);
        if pace.lacks(window).is_none() {
            return;
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.wanting.insert(conn);
        if channel.wait == Wait::Nothing {
            return self.set_due(id);
        }
        if had && pace.is_empty() {
            if let Wait::Listener { since, .. } = &mut channel.wait {
                since.get_or_insert(now);
            }
            let deadline = now.after(pace.patience.min(RETRY_AFTER));
            let deadline = channel.deadline.map_or(deadline, |before| before.min(deadline));
            self.set_deadline(id, Some(deadline));
        }
    }

    /// Bytes up to which a publication on the channel is granted credit.
    fn window(&self, limits: &Limits, id: ChannelId) -> u32 {
        let of_channel = self.channels.get(&id).map_or(1, |channel| channel.publications.max(1));
        let of_outbox = limits.outbox_bytes_max / WINDOWS_SHARE / of_channel;
        let of_memory = limits.held_bytes_max / WINDOWS_SHARE / self.publications.max(1);
        let window = u32::try_from(of_outbox.min(of_memory)).unwrap_or(u32::MAX);
        window.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }

    fn set_due(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id)
            && !std::mem::replace(&mut channel.due, true)
        {
            self.due.push_back(id);
        }
    }

    fn set_deadline(&mut self, id: ChannelId, deadline: Option<Moment>) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut channel.deadline, deadline) {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, id));
        }
    }

    /// The channels whose deadline has come are looked at, after another write to the listeners that they wait for.
    pub(crate) fn expire(&mut self, now: Moment, effects: &mut Effects) {
        while let Some(&(_, id)) = self.deadlines.first().filter(|&&(deadline, _)| deadline <= now) {
            self.set_deadline(id, None);
            self.set_due(id);
            effects.extend(self.delay(id).map(|(conn, _)| Effect::Write(conn)));
        }
    }

    /// The channels that wait for the connection are looked at: it is not behind any more, or does not count.
    pub(crate) fn release(&mut self, now: Moment, backlog: &mut Backlog) {
        for id in std::mem::take(&mut backlog.delays) {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            if let Wait::Listener { since: Some(since), .. } = std::mem::take(&mut channel.wait) {
                backlog.delayed = (backlog.delayed.0 + 1, backlog.delayed.1 + now.since(since));
            }
            self.set_due(id);
        }
    }

    /// More than half of the memory budget is held, or not.
    fn note_memory(&mut self, now: Moment, is_short: bool) {
        if is_short {
            self.memory.since.get_or_insert(now);
        } else if self.memory.since.is_some() {
            self.end_shortage();
        }
    }

    /// The channels that wait for memory are looked at.
    fn release_memory(&mut self) {
        for id in std::mem::take(&mut self.memory.delays) {
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.wait = Wait::Nothing;
            }
            self.set_due(id);
        }
    }

    fn end_shortage(&mut self) {
        (self.memory.since, self.memory.left_behind) = (None, false);
        self.release_memory();
    }

    /// For which listener a sender without credit waits on the channel, and since when.
    pub(crate) fn delay(&self, id: ChannelId) -> Option<(ConnId, Moment)> {
        match self.channels.get(&id)?.wait {
            Wait::Listener { conn, since } => Some((conn, since?)),
            Wait::Nothing | Wait::Memory => None,
        }
    }

    /// Whether the channel waits for the listener.
    fn waits_for(&self, id: ChannelId, conn: ConnId) -> bool {
        let wait = self.channels.get(&id).map(|channel| channel.wait);
        matches!(wait, Some(Wait::Listener { conn: waits_for, .. }) if waits_for == conn)
    }

    /// How many publications with backpressure the channel has.
    pub(crate) fn publications(&self, id: ChannelId) -> usize {
        self.channels.get(&id).map_or(0, |channel| channel.publications)
    }
}

impl Broker {
    /// How much may wait for one connection.
    pub(crate) fn room(&self) -> Room {
        Room { bytes: self.limits.outbox_bytes_max, messages: self.limits.outbox_messages_max }
    }

    /// The connection has opened the channel with backpressure.
    pub(crate) fn begin_pace(&mut self, conn: ConnId, id: ChannelId) {
        let channel = self.credits.channels.entry(id).or_default();
        channel.publications += 1;
        channel.wanting.insert(conn);
        self.credits.publications += 1;
        self.credits.set_due(id);
    }

    /// The publication with backpressure of the connection on the channel has ended.
    pub(crate) fn end_pace(&mut self, now: Moment, conn: ConnId, id: ChannelId) {
        let Some(channel) = self.credits.channels.get_mut(&id) else { return };
        channel.publications -= 1;
        channel.wanting.remove(&conn);
        let ends = channel.publications == 0;
        self.credits.publications -= 1;
        if ends {
            self.set_wait(now, id, Wait::Nothing, None);
            self.credits.channels.remove(&id);
        } else {
            self.credits.set_due(id);
        }
    }

    /// Grants credit on the channels that were noted. Called at the end of a turn, when all writes were tried.
    pub(crate) fn grant_credit(&mut self, now: Moment, effects: &mut Effects) {
        self.credits.note_memory(now, self.ledger.held() > self.limits.held_bytes_max / 2);
        let room = self.room();
        for conn in std::mem::take(&mut self.credits.recovering) {
            let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { continue };
            if !connection.is_behind(room) {
                connection.backlog.behind = None;
                self.credits.release(now, &mut connection.backlog);
            }
        }
        // The next turn has half of its work left at least. The rest of the channels has a deadline that has passed.
        while self.turn_work < TURN_WORK_MAX / 2
            && let Some(id) = self.credits.due.pop_front()
        {
            if let Some(channel) = self.credits.channels.get_mut(&id) {
                channel.due = false;
                self.review(now, id, effects);
            }
        }
    }

    /// Grants credit on the channel, or notes what it waits for.
    fn review(&mut self, now: Moment, id: ChannelId, effects: &mut Effects) {
        let Some(paced) = self.credits.channels.get(&id) else { return };
        if paced.wanting.is_empty() {
            return self.set_wait(now, id, Wait::Nothing, None);
        }
        let wanting: Vec<_> = paced.wanting.iter().copied().collect();
        for conn in wanting {
            self.note_followers(now, conn, id, effects);
        }
        let (Some(paced), Some(channel)) = (self.credits.channels.get(&id), self.registry.channel(id)) else { return };
        self.turn_work += paced.wanting.len() + channel.subscribers().len();

        // Senders without credit: since when, and for how long at most.
        let paces = paced.wanting.iter().filter_map(|conn| pace(&self.connections, *conn, id));
        let waiting: Vec<_> = paces.filter_map(|pace| Some((pace.empty?, pace.patience))).collect();
        let outlasted = waiting.iter().filter(|(since, patience)| since.after(*patience) <= now);
        let outlasted = outlasted.map(|&(_, patience)| patience).min();
        let is_outlasted = |behind: Moment| outlasted.is_some_and(|patience| behind.after(patience) <= now);

        // Listeners that are behind: the earliest, and the one with the longest queue, which is probably the last to make room.
        let (mut earliest, mut longest, mut left) = (None::<Moment>, None::<(usize, ConnId)>, Vec::new());
        let mut note = |behind: Moment| earliest = Some(earliest.map_or(behind, |earliest| earliest.min(behind)));
        for subscriber in channel.subscribers().iter().filter(|subscriber| subscriber.terms.slows_senders()) {
            let Some(Some(connection)) = self.connections.get(subscriber.conn.0) else { continue };
            let Backlog { behind: Some(behind), left_behind: false, .. } = connection.backlog else { continue };
            if is_outlasted(behind) {
                left.push(subscriber.conn);
            } else {
                note(behind);
                longest = longest.max(Some((connection.outbox.queue().1, subscriber.conn)));
            }
        }
        let shortage = self.credits.memory.since.filter(|_| !self.credits.memory.left_behind);
        let memory_left = shortage.is_some_and(is_outlasted);
        let is_short = shortage.is_some() && !memory_left;
        shortage.filter(|_| is_short).map(note);

        if memory_left {
            self.credits.memory.left_behind = true;
            self.credits.release_memory();
        }
        for conn in left {
            self.leave_behind(now, conn, effects);
        }
        let wait = match longest {
            Some((_, conn)) => Wait::Listener { conn, since: waiting.first().map(|_| now) },
            None if is_short => Wait::Memory,
            None => Wait::Nothing,
        };
        let wakes = waiting.iter().filter_map(|(since, patience)| Some((*since).max(earliest?).after(*patience)));
        let retry = matches!(wait, Wait::Listener { since: Some(_), .. }).then(|| now.after(RETRY_AFTER));
        let deadline = if wait == Wait::Nothing { None } else { wakes.chain(retry).min() };
        self.set_wait(now, id, wait, deadline);
        if wait == Wait::Nothing {
            self.grant(now, id, effects);
        }
    }

    /// Grants every publication on the channel that lacks it credit up to the window.
    fn grant(&mut self, now: Moment, id: ChannelId, effects: &mut Effects) {
        let window = self.credits.window(&self.limits, id);
        let wanting = self.credits.channels.get_mut(&id).map(|channel| std::mem::take(&mut channel.wanting));
        for conn in wanting.into_iter().flatten() {
            let Some(pace) =
                self.connection(conn).and_then(|connection| connection.publications.get_mut(&id)?.pace.as_mut())
            else {
                continue;
            };
            let Some(bytes) = pace.lacks(window) else { continue };
            pace.grant(bytes);
            self.reply(now, conn, &Control::Credit(Credit { id: id.0, bytes, extensions: Vec::new() }), effects);
        }
    }

    /// Checks balances, waits and deadlines against each other.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn check_credit(&self) {
        let Credits { channels, publications, recovering, due, deadlines, memory } = &self.credits;
        let mut paced = BTreeMap::<ChannelId, usize>::new();
        for (conn, connection) in self.open_connections() {
            for (&id, publication) in &connection.publications {
                let (Some(pace), false) = (&publication.pace, self.phase.is_over()) else { continue };
                *paced.entry(id).or_default() += 1;
                assert_eq!(pace.is_empty(), pace.empty.is_some(), "since when {conn:?} has no credit on {id:?}");
                let wants = channels.get(&id).is_some_and(|channel| channel.wanting.contains(&conn));
                assert!(wants || !pace.is_empty(), "{conn:?} has no credit on {id:?} and gets none");
            }
            let Backlog { behind, left_behind, in_rings, delays, delayed: _ } = &connection.backlog;
            let (is_behind, recovers) = (connection.is_behind(self.room()), recovering.contains(&conn));
            assert!(behind.is_some() || !is_behind, "since when {conn:?} is behind");
            assert!(behind.is_none() || is_behind || recovers, "{conn:?} is not behind any more");
            let has_caught_up = connection.outbox.is_empty() && *in_rings == Lag::None;
            assert!(!left_behind || !has_caught_up, "{conn:?} has caught up and is left behind");
            assert!(delays.is_empty() || recovers || behind.is_some() && !left_behind, "{delays:?} wait for {conn:?}");
            let all_wait = delays.iter().all(|&id| self.credits.waits_for(id, conn));
            assert!(all_wait, "{conn:?} delays one of {delays:?} that does not know");
        }
        assert_eq!(*publications, paced.values().sum::<usize>(), "publications with backpressure");
        let counted = channels.iter().map(|(&id, channel)| (id, channel.publications)).collect();
        assert_eq!(paced, counted, "publications with backpressure of each channel");
        for (&id, channel) in channels {
            let paces = channel.wanting.iter().map(|&conn| pace(&self.connections, conn, id));
            let empty = paces.map(|pace| pace.expect("a publication that wants credit").is_empty());
            let waits = empty.fold(false, std::ops::BitOr::bitor);
            match channel.wait {
                Wait::Nothing => assert!(channel.due || channel.wanting.is_empty(), "{id:?} waits for nothing"),
                Wait::Listener { conn, since } => {
                    let connection = self.connections.get(conn.0).and_then(Option::as_ref);
                    let delays = connection.is_some_and(|connection| connection.backlog.delays.contains(&id));
                    assert!(delays, "{id:?} waits for {conn:?}, which does not know");
                    assert!(since.is_some() || !waits, "since when {id:?} waits for {conn:?}");
                }
                Wait::Memory => assert!(memory.since.is_some() && !memory.left_behind, "{id:?} waits for memory"),
            }
            assert_eq!(memory.delays.contains(&id), channel.wait == Wait::Memory, "whether {id:?} waits for memory");
            let has_deadline = channel.deadline.is_some() || channel.due;
            assert!(has_deadline || !waits || channel.wait == Wait::Nothing, "{id:?} waits for ever");
        }
        let due_twice = due.iter().filter(|id| channels.get(id).is_some_and(|channel| channel.due)).count();
        assert_eq!(due_twice, channels.values().filter(|channel| channel.due).count(), "channels that are due");
        let own = channels.iter().filter_map(|(&id, channel)| Some((channel.deadline?, id)));
        assert_eq!(*deadlines, own.collect(), "deadlines of channels");
    }

    fn leave_behind(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        connection.backlog.left_behind = true;
        self.credits.release(now, &mut connection.backlog);
        self.stats.listeners_left_behind += 1;
        self.note_lag(now, conn, effects); // it reports when it has caught up
    }

    /// Replaces what the channel waits for. A wait for the same listener goes on.
    fn set_wait(&mut self, now: Moment, id: ChannelId, mut wait: Wait, deadline: Option<Moment>) {
        let Some(channel) = self.credits.channels.get_mut(&id) else { return };
        let before = channel.wait;
        if let (Wait::Listener { conn: old, since: old_since }, Wait::Listener { conn, since }) = (before, &mut wait)
            && old == *conn
        {
            *since = old_since.or(*since);
        }
        channel.wait = wait;
        if let Wait::Listener { conn, since } = before
            && !self.credits.waits_for(id, conn)
            && let Some(connection) = self.connection(conn)
        {
            let backlog = &mut connection.backlog;
            backlog.delays.remove(&id);
            if let Some(since) = since {
                backlog.delayed = (backlog.delayed.0 + 1, backlog.delayed.1 + now.since(since));
            }
        }
        self.credits.memory.delays.remove(&id);
        match wait {
            Wait::Nothing => {}
            Wait::Listener { conn, .. } => {
                if let Some(connection) = self.connection(conn) {
                    connection.backlog.delays.insert(id);
                }
            }
            Wait::Memory => {
                self.credits.memory.delays.insert(id);
            }
        }
        self.credits.set_deadline(id, deadline);
    }
}

/// The pace of the connection's publication on the channel.
fn pace(connections: &[Option<Connection>], conn: ConnId, id: ChannelId) -> Option<&Pace> {
    connections.get(conn.0)?.as_ref()?.publications.get(&id)?.pace.as_ref()
}
