//! The state of one connection. It never looks at another connection.

use crate::credit::{Backlog, Lag, Pace};
use crate::effect::{Attachment, Effect, Effects};
use crate::event::{ConnId, Incomplete, LinkId, Moment};
use crate::memory::{Charge, Ledger};
use crate::outbox::{Delivered, Outbox, Room, Terms};
use crate::registry::{Selector, Subscriber};
use crate::ring::{Passing, Upload};
use broadcaster_protocol::control::Control;
use broadcaster_protocol::{ChannelId, ChannelName, ChannelPattern, SenderId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnPhase {
    /// Its Hello has not arrived.
    Greeting,
    /// It is served.
    Active,
    /// Its last frame is queued, and it is closed when that is written.
    Leaving,
}

/// Unread control frames may exceed their limit by this factor for as long as the connection makes progress: a client may write
/// all of its requests before it reads an answer.
const REPLIES_BURST_FACTOR: usize = 16;

/// Bytes of control frames that announce replayed messages and do not count as unread: one [`Subscribe`] may ask for the history of
/// every channel, which is 4096 channels whose names have up to 255 bytes each.
///
/// [`Subscribe`]: broadcaster_protocol::control::Subscribe
const ANNOUNCEMENTS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A connection that takes no byte for this long does not read.
const UNREAD_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) pid: u32,
    pub(crate) phase: ConnPhase,
    /// For display.
    pub(crate) purpose: String,
    /// The sender id of its frames, once it was greeted.
    pub(crate) sender: Option<SenderId>,
    pub(crate) publications: BTreeMap<ChannelId, Publication>,
    /// Those of them of which it waits for so many listeners.
    pub(crate) counting: BTreeMap<ChannelId, usize>,
    pub(crate) subscriptions: Subscriptions,
    /// The names that it watches, by its numbers for that.
    pub(crate) watches: BTreeMap<u32, ChannelName>,
    /// Both ends can share memory.
    pub(crate) shares_memory: bool,
    /// Its frames may come with descriptors.
    pub(crate) expects_descriptors: bool,
    /// Whether frames with descriptors may be written to it.
    pub(crate) passing: Passing,
    /// The rings that it reads itself, is about to read, or reads the rest of.
    pub(crate) links: BTreeSet<LinkId>,
    /// The id to which replies for it are addressed, once it has requested one.
    pub(crate) inbox: Option<ChannelId>,
    /// Whether it has had a publication, or a subscription that is not an observer. It may reply from then on, even after the end of
    /// that subscription: a request may have come before.
    pub(crate) may_reply: bool,
    /// When it is ended, unless what is awaited from it happens first.
    pub(crate) deadline: Option<Moment>,
    pub(crate) outbox: Outbox,
    /// Bytes of control frames that announced replayed messages since no control frame waited.
    pub(crate) announcements_bytes: usize,
    /// An `Effect::Write` was issued and the outbox has not run empty since.
    pub(crate) writing: bool,
    /// A receipt that goes out in front of the next answer or reply, so that the client wakes up once for both.
    pub(crate) deferred: Option<Box<Control>>,
    /// Since when it has not taken everything that it was offered.
    pub(crate) blocked: Option<Moment>,
    /// When it was last found to take bytes.
    pub(crate) progress: Moment,
    /// What the server holds of its input.
    pub(crate) incoming: Charge,
    pub(crate) incomplete: Incomplete,
    pub(crate) opened: Moment,
    pub(crate) backlog: Backlog,
    pub(crate) tally: Tally,
}

/// A channel that a connection publishes on.
#[derive(Debug)]
pub(crate) struct Publication {
    /// The sequence number that is due.
    pub(crate) next: u64,
    /// What became of its last message.
    pub(crate) reach: Reach,
    /// Its backpressure, if it has.
    pub(crate) pace: Option<Pace>,
    /// Where its messages are.
    pub(crate) upload: Upload,
    /// Why its last message is not retained, if it was to be.
    pub(crate) not_retained: Option<String>,
}

/// How many listeners a message had, and for how many of them it was queued.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reach {
    pub(crate) listeners: u32,
    pub(crate) took: u32,
}

/// What one connection has done: messages accepted from it or written to it, bytes of their frames, and messages lost for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, delivered: &Delivered) {
        self.messages += delivered.bus.messages + delivered.observers.messages;
        self.bytes += delivered.bus.bytes + delivered.observers.bytes;
    }
}

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// The client's numbers for them.
    numbers: BTreeMap<u32, Selector>,
    /// Their terms, and how many had been made before each.
    terms: BTreeMap<Selector, (Terms, u64)>,
    observers: usize,
    /// How many are to one channel each.
    by_name: usize,
    /// How many have been made, with those that have ended.
    made: u64,
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }

    /// How many are observers.
    pub(crate) fn observers(&self) -> usize {
        self.observers
    }

    /// How many are to one channel each.
    pub(crate) fn by_name(&self) -> usize {
        self.by_name
    }

    /// How many are not observers.
    pub(crate) fn listeners(&self) -> usize {
        self.terms.len() - self.observers
    }

    pub(crate) fn has_number(&self, number: u32) -> bool {
        self.numbers.contains_key(&number)
    }

    /// The selector of the subscription with this number.
    pub(crate) fn selector(&self, number: u32) -> Option<&Selector> {
        self.numbers.get(&number)
    }

    pub(crate) fn covers(&self, selector: &Selector) -> bool {
        self.terms.contains_key(selector)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Selector, Terms)> {
        self.terms.iter().map(|(selector, &(terms, _))| (selector, terms))
    }

    /// Its subscriptions to patterns, those that decide first.
    pub(crate) fn patterns(&self, conn: ConnId) -> Vec<(&ChannelPattern, Subscriber)> {
        let mut patterns: Vec<_> = self
            .terms
            .iter()
            .filter_map(|(selector, &(terms, order))| match selector {
                Selector::Pattern(pattern) => Some((pattern, Subscriber::new(conn, terms, order))),
                Selector::Name(_) | Selector::All => None,
            })
            .collect();
        patterns.sort_by_key(|(_, subscriber)| subscriber.rank());
        patterns
    }

    /// The one that decides how the connection receives the channel `name`, of these `patterns` and the others; and the effort: one for
    /// each pattern that was compared.
    pub(crate) fn best(
        &self,
        conn: ConnId,
        name: &ChannelName,
        patterns: &[(&ChannelPattern, Subscriber)],
    ) -> (Option<Subscriber>, usize) {
        let at = patterns.iter().position(|(pattern, _)| pattern.covers(name));
        let others = [Selector::Name(name.clone()), Selector::All].map(|selector| self.get(conn, &selector));
        let covering = at.map(|at| patterns[at].1).into_iter().chain(others.into_iter().flatten());
        (covering.min_by_key(Subscriber::rank), at.map_or(patterns.len(), |at| at + 1))
    }

    /// Adds a subscription; returns what the registry has to know of it.
    pub(crate) fn add(&mut self, conn: ConnId, number: u32, selector: Selector, terms: Terms) -> Subscriber {
        let order = self.made;
        self.made += 1;
        self.numbers.insert(number, selector.clone());
        self.observers += usize::from(terms.observer);
        self.by_name += usize::from(matches!(selector, Selector::Name(_)));
        self.terms.insert(selector, (terms, order));
        Subscriber::new(conn, terms, order)
    }

    /// Removes a subscription; returns what the registry has to know of it.
    pub(crate) fn remove(&mut self, conn: ConnId, number: u32) -> Option<(Selector, Subscriber)> {
        let selector = self.numbers.remove(&number)?;
        let (terms, order) = self.terms.remove(&selector)?;
        self.observers -= usize::from(terms.observer);
        self.by_name -= usize::from(matches!(selector, Selector::Name(_)));
        Some((selector, Subscriber::new(conn, terms, order)))
    }

    /// The subscription with this selector.
    pub(crate) fn get(&self, conn: ConnId, selector: &Selector) -> Option<Subscriber> {
        self.terms.get(selector).map(|&(terms, order)| Subscriber::new(conn, terms, order))
    }
}

impl Connection {
    pub(crate) fn new(pid: u32, now: Moment, ledger: &Ledger) -> Self {
        Self {
            pid,
            phase: ConnPhase::Greeting,
            purpose: String::new(),
            sender: None,
            publications: BTreeMap::new(),
            counting: BTreeMap::new(),
            subscriptions: Subscriptions::default(),
            watches: BTreeMap::new(),
            shares_memory: false,
            expects_descriptors: false,
            passing: Passing::Unasked,
            links: BTreeSet::new(),
            inbox: None,
            may_reply: false,
            deadline: None,
            outbox: Outbox::new(ledger),
            announcements_bytes: 0,
            writing: false,
            deferred: None,
            blocked: None,
            progress: now,
            incoming: ledger.charge(0),
            incomplete: Incomplete::None,
            opened: now,
            backlog: Backlog::default(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.phase == ConnPhase::Leaving
    }

    /// Whether it neither sends nor listens: at most it observes.
    pub(crate) fn only_looks(&self) -> bool {
        self.phase == ConnPhase::Active && self.publications.is_empty() && self.subscriptions.listeners() == 0
    }

    /// Whether everything that waits for it is for observers.
    pub(crate) fn only_observes(&self) -> bool {
        self.subscriptions.observers() > 0 && self.subscriptions.listeners() == 0
    }

    /// Publications, subscriptions and watches.
    pub(crate) fn channels(&self) -> usize {
        self.publications.len() + self.subscriptions.len() + self.watches.len()
    }

    pub(crate) fn push_control(&mut self, control: &Control) {
        self.push_control_with(control, None);
    }

    /// Queues a control frame, and what is written with its first byte.
    pub(crate) fn push_control_with(&mut self, control: &Control, attachment: Option<Attachment>) {
        let mut frame = Vec::new();
        control.encode(&mut frame).expect("every text in an answer is shorter than the limit");
        self.outbox.push_control(frame, attachment);
    }

    /// The receipt that waits for an answer or a reply is in front of it.
    #[inline]
    pub(crate) fn push_deferred(&mut self) {
        if let Some(receipt) = self.deferred.take() {
            self.push_control(&receipt);
        }
    }

    #[inline]
    pub(crate) fn request_write(&mut self, conn: ConnId, effects: &mut Effects) {
        if !self.writing && !self.outbox.is_empty() {
            self.writing = true;
            effects.push(Effect::Write(conn));
        }
    }

    /// The connection has taken `bytes`; returns what that delivered.
    #[inline]
    pub(crate) fn written(&mut self, now: Moment, bytes: usize) -> Delivered {
        let delivered = self.outbox.advance(bytes);
        self.tally.add(&delivered);
        if bytes > 0 {
            self.progress = now;
        }
        if self.outbox.replies_bytes() == 0 {
            self.announcements_bytes = 0;
        }
        if self.outbox.is_empty() {
            self.blocked = None;
            self.writing = false;
        }
        delivered
    }

    /// A loss has parted frames that were written from those that wait; returns what that delivered.
    pub(crate) fn parted(&mut self) -> Delivered {
        let delivered = self.outbox.take_parted();
        self.tally.add(&delivered);
        delivered
    }

    /// The connection takes no more bytes, although some wait; returns whether it took them before.
    pub(crate) fn block(&mut self, now: Moment) -> bool {
        let begins = self.blocked.is_none();
        if begins {
            self.blocked = Some(now);
            self.progress = now;
        }
        begins
    }

    /// Notes whether it is behind, after any change of what waits for it; returns whether it was and may not be any more. That is
    /// decided at the end of the turn.
    #[inline]
    pub(crate) fn note_backlog(&mut self, now: Moment, room: Room) -> bool {
        let is_behind = self.is_behind(room);
        let backlog = &mut self.backlog;
        if is_behind {
            backlog.behind.get_or_insert(now);
            return false;
        }
        if self.outbox.is_empty() && backlog.in_rings == Lag::None {
            (backlog.left_behind, backlog.behind) = (false, None);
            return !backlog.delays.is_empty();
        }
        backlog.behind.is_some()
    }

    /// Whether its socket is full, and more than half of its room is used; or it is behind in a ring.
    #[inline]
    pub(crate) fn is_behind(&self, room: Room) -> bool {
        self.blocked.is_some() && self.outbox.exceeds_half(room) || self.backlog.in_rings == Lag::Behind
    }

    /// Whether it has not taken a byte for `timeout`, although bytes wait for it.
    pub(crate) fn is_stalled(&self, now: Moment, timeout: Duration) -> bool {
        self.blocked.is_some() && now.since(self.progress) >= timeout
    }

    /// Whether more control frames wait for it than for a connection that reads.
    pub(crate) fn neglects_replies(&self, now: Moment, replies_bytes_max: usize) -> bool {
        let announcements = self.announcements_bytes.min(ANNOUNCEMENTS_BYTES_MAX);
        let waiting = self.outbox.replies_bytes().saturating_sub(announcements);
        let burst = replies_bytes_max.saturating_mul(REPLIES_BURST_FACTOR);
        waiting > replies_bytes_max
            && self.blocked.is_some()
            && (waiting > burst || self.is_stalled(now, UNREAD_AFTER))
            && !self.is_leaving()
    }

    /// Bytes of memory that an end of the incomplete frame would release.
    pub(crate) fn discardable_bytes(&self) -> usize {
        match self.incomplete {
            Incomplete::Discardable => self.incoming.bytes(),
            Incomplete::None | Incomplete::Kept => 0,
        }
    }

    /// Bytes of memory that only its end would release.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.outbox.half_written_bytes() + self.outbox.replies_bytes()
    }

    /// The same, if bytes have waited for it for `timeout` without a break. It may have made progress, however little.
    pub(crate) fn long_pinned_bytes(&self, now: Moment, timeout: Duration) -> usize {
        let is_long = self.blocked.is_some_and(|since| now.since(since) >= timeout);
        if is_long { self.pinned_bytes() } else { 0 }
    }
}
