//! The subscriptions of one connection, for listeners and monitors alike: frames as they arrive, and gaps in their places. It
//! never decides whether to connect again.

use super::heard::AllHeard;
use super::links::{FromRing, Key, LinkChange, Links, Misplaced, Offered, Rest};
use super::replay::{Announced, Seen};
use super::session::{Ended, Machine, Phase, Session, unexpected};
use super::{Link, Transfer};
use crate::{ChannelName, ChannelPattern};
use broadcaster_protocol::control::{
    self, AwaitProgress, Control, Declined, Extension, OfferLink, Overflow, Prepare, Prepared, Progress, Refused,
    RefusedCode, Subscribe, Unlink, Unsubscribe, Welcome, kind,
};
use broadcaster_protocol::frame::{KIND_PUBLISH, KIND_RETAIN};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::meta::MetadataRef;
use broadcaster_protocol::{ChannelId, Frame, Item, Run, SenderId};
use broadcaster_ring::Taken;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Names that are remembered at most. A daemon has no more channels.
const NAMES_MAX: usize = 1 << 20;

/// Bytes of frames that wait until a request is answered: one message of any size, or many. The daemon confirms a thousand subscriptions
/// in a few turns, and traffic does not wait for that.
const HELD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (1 << 20);

/// What a run takes in addition to its bytes while it waits.
const HELD_RUN_BYTES: usize = 128;

/// Items that wait until a request is answered, gaps included.
const HELD_ITEMS_MAX: usize = 1 << 20;

/// Which channels a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// The channel of this name.
    Name(ChannelName),
    /// Every channel whose name the pattern covers, including those that appear later.
    Pattern(ChannelPattern),
    /// Every channel, including those that appear later.
    All,
}

impl Selector {
    fn covers(&self, name: &ChannelName) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Pattern(pattern) => pattern.covers(name),
            Self::All => true,
        }
    }

    fn to_wire(&self) -> control::Selector {
        match self {
            Self::Name(name) => control::Selector::Name(name.as_str().to_owned()),
            Self::Pattern(pattern) => control::Selector::Pattern(pattern.as_str().to_owned()),
            Self::All => control::Selector::All,
        }
    }
}

impl From<crate::Selector> for Selector {
    fn from(selector: crate::Selector) -> Self {
        match selector {
            crate::Selector::Name(name) => Self::Name(name),
            crate::Selector::Pattern(pattern) => Self::Pattern(pattern),
        }
    }
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which channels it covers.
    pub selector: Selector,
    /// What happens when the connection does not keep up.
    pub overflow: Overflow,
    /// Whether it only observes: it does not count as a listener.
    pub observer: bool,
    /// How many of the messages that are retained of each channel it receives when it begins to cover the channel.
    pub replay: u32,
}

impl Subscription {
    /// Whether its messages may come from rings: it loses the oldest messages, as a reader of a ring does, and it does not only observe.
    fn is_for_rings(&self) -> bool {
        self.overflow == Overflow::DropOldest && !self.observer
    }
}

/// What [`Subscriber::poll_next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame,
    /// A gap: this many messages were lost here, or an unknown number because the daemon that counted them is gone.
    Lagged(Option<u64>),
    /// Nothing, until more bytes were read.
    Nothing,
}

/// A message, or a gap, that arrived without a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum External {
    /// A message on the channel of the first subscription.
    Message {
        /// The sender, as claimed.
        sender: SenderId,
        /// The sender's sequence number, as claimed.
        sequence: u64,
        /// The payload.
        payload: Bytes,
    },
    /// An unknown number of messages are missing here.
    Gap,
}

/// A subscription that was requested, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The number of the subscription.
    number: u32,
    /// Whether it was requested, rather than its end.
    joins: bool,
}

/// What became of a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The daemon has carried it out.
    Done,
    /// The daemon has declined it, and nothing has changed.
    Declined(Declined),
    /// So much has arrived before the answer that the rest must wait until some of it was received.
    Full,
}

/// The subscriptions of one connection.
///
/// What arrives before a request is answered waits here, in order: [`collect`](Self::collect) looks for the answer behind it.
#[derive(Debug)]
pub struct Subscriber {
    session: Session,
    /// By the number that the daemon knows them by, which is never used again.
    entries: BTreeMap<u32, Entry>,
    next_number: u32,
    names: BTreeMap<ChannelId, ChannelName>,
    /// What was found and not handed out yet.
    queue: Queue,
    /// What arrived before the handshake was complete.
    early: Queue,
    run: Option<Run>,
    /// The number of the connection on which `run` has arrived.
    run_connection: u64,
    /// The first frame of `run` was handed out.
    used: bool,
    /// The messages behind the loss that was found in a ring, with the number of their connection.
    behind: Option<(Run, u64)>,
    pub(super) links: Links,
    /// What was received from rings while there was no daemon.
    heard: AllHeard,
    passing: Passing,
    /// What was found, if it is not in `run`.
    found: Option<Found>,
    /// The channel of what was found. `None`: a gap that may concern several channels.
    channel: Option<ChannelName>,
    /// The id of `channel`, if it was found in a run.
    channel_id: Option<ChannelId>,
    /// The pattern of a gap that may concern all channels that it covers.
    pattern: Option<ChannelPattern>,
    /// The change that was requested last, and the reason if the daemon has declined it.
    requested: Option<(Change, Option<Declined>)>,
    /// The last read has taken everything that had arrived.
    drained: bool,
    /// The process of the daemon that serves, or that has ended the last connection without a reason.
    daemon: Option<u32>,
    /// How many connections were made.
    connection: u64,
    /// How many messages are replayed next.
    announced: Announced,
    /// The retained messages that were received last.
    seen: Seen,
    /// How many of them are remembered for each channel: the most that any subscription asked for.
    replay_max: u32,
    /// The sender of its replies, and the largest payload of one.
    id: SenderId,
    payload_bytes_max: u32,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    state: State,
    /// Without it the connection is of no use: it was there from the beginning, or a daemon has confirmed it before.
    required: bool,
    /// Messages have been received for it before, so that joining again leaves a gap.
    joined: bool,
}

/// What the present daemon knows of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing yet.
    Unknown,
    /// It was requested.
    Requested,
    /// It was requested, and is to end as soon as it is confirmed.
    Unwanted,
    /// It is confirmed.
    Confirmed,
    /// Its end was requested.
    Ending,
}

impl Entry {
    fn new(subscription: Subscription, required: bool) -> Self {
        Self { subscription, state: State::Unknown, required, joined: false }
    }

    fn selector(&self) -> &Selector {
        &self.subscription.selector
    }

    fn is_wanted(&self) -> bool {
        !matches!(self.state, State::Unwanted | State::Ending)
    }

    fn is_answered(&self) -> bool {
        matches!(self.state, State::Confirmed | State::Ending)
    }

    fn wants(&self, channel: &ChannelName) -> bool {
        self.is_wanted() && self.selector().covers(channel)
    }
}

/// What waits to be handed out.
#[derive(Debug)]
enum Held {
    /// With the number of the connection on which it has arrived.
    Run(ChannelName, Run, u64),
    /// The same, of messages that are retained.
    Retained(ChannelName, Retained, u64),
    Lagged(ChannelName, u64),
    /// An unknown number of messages may be missing.
    Gap(Selector),
    External(External),
    Link(Key, LinkChange),
    /// The connection with this number delivers what the links of earlier ones did.
    Resumed(u64),
}

/// Messages that the daemon retains.
#[derive(Debug)]
struct Retained {
    run: Run,
    /// So many from the front are replayed.
    replayed: u64,
}

/// A message that was found, other than in an ordinary run.
#[derive(Debug)]
enum Found {
    /// It arrived without a daemon.
    External(External),
    /// It is the first of these.
    Retained {
        retained: Retained,
        /// It was handed out.
        used: bool,
        /// It is replayed.
        is_replayed: bool,
    },
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Held>,
    /// Bytes of the runs.
    bytes: usize,
}

impl Queue {
    fn push(&mut self, item: Held) {
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    #[inline]
    fn pop(&mut self) -> Option<Held> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes();
        Some(item)
    }

    fn append(&mut self, mut more: Self) {
        self.items.append(&mut more.items);
        self.bytes += more.bytes;
    }

    /// Unless the same gap is there already, and nothing behind it.
    fn push_gap(&mut self, selector: &Selector) {
        let is_same = |item: &Held| matches!(item, Held::Gap(gap) if gap == selector);
        if !self.items.iter().rev().take_while(|item| matches!(item, Held::Gap(_))).any(is_same) {
            self.push(Held::Gap(selector.clone()));
        }
    }

    /// A loss of so many messages, together with the one before if nothing has arrived in between.
    fn push_lagged(&mut self, channel: ChannelName, count: u64) {
        let gaps = self.items.iter_mut().rev().map_while(|item| match item {
            Held::Lagged(channel, count) => Some((&*channel, count)),
            Held::Run(..)
            | Held::Retained(..)
            | Held::Gap(_)
            | Held::External(_)
            | Held::Link(..)
            | Held::Resumed(_) => None,
        });
        match gaps.into_iter().find(|(other, _)| **other == channel) {
            Some((_, before)) => *before = before.saturating_add(count),
            None => self.push(Held::Lagged(channel, count)),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= HELD_BYTES_MAX || self.items.len() >= HELD_ITEMS_MAX
    }
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Self::Run(_, run, _) | Self::Retained(_, Retained { run, .. }, _) => run.bytes().len() + HELD_RUN_BYTES,
            Self::Lagged(..) | Self::Gap(_) | Self::External(_) | Self::Link(..) | Self::Resumed(_) => 0,
        }
    }
}

/// What has arrived from the daemon.
enum Arrived {
    Run(Run),
    Retained(Retained),
    Lagged(ChannelId, u64),
    Link(u32, LinkChange),
    /// Something that only changes what is known.
    Applied,
}

impl Subscriber {
    /// A subscriber in the process `pid`; `purpose` is for display. No two subscriptions may have the same selector.
    pub fn new(subscriptions: Vec<Subscription>, purpose: &str, pid: u32) -> Self {
        let replay_max = subscriptions.iter().map(|subscription| subscription.replay).max().unwrap_or_default();
        let entries: BTreeMap<_, _> =
            (0..).zip(subscriptions).map(|(number, subscription)| (number, Entry::new(subscription, true))).collect();
        Self {
            session: Session::new(purpose, pid),
            next_number: entries.keys().next_back().map_or(0, |last| last + 1),
            entries,
            names: BTreeMap::new(),
            queue: Queue::default(),
            early: Queue::default(),
            run: None,
            run_connection: 0,
            used: false,
            behind: None,
            links: Links::default(),
            heard: AllHeard::default(),
            passing: Passing::default(),
            found: None,
            channel: None,
            channel_id: None,
            pattern: None,
            requested: None,
            drained: false,
            daemon: None,
            connection: 0,
            announced: Announced::default(),
            seen: Seen::default(),
            replay_max,
            id: SenderId::from_raw(0),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }

    /// Moves on to what is next in the stream.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be given up.
    pub fn poll_next(&mut self) -> Result<Received, Ended> {
        if self.next_of_run() || self.next_retained() {
            return Ok(Received::Frame);
        }
        (self.run, self.found) = (None, None);
        self.poll_sources().map_err(|ended| self.ended(ended))
    }

    /// What is next: behind the loss that was reported last, in a ring that ends, in what was found before, in any ring, and in the stream of the
    /// connection.
    #[inline]
    fn poll_sources(&mut self) -> Result<Received, Ended> {
        if let Some((run, connection)) = self.behind.take()
            && let Some(received) = self.take_up(run, connection)
        {
            return Ok(received);
        }
        let has_links = !self.links.is_empty();
        if has_links && let Some(received) = self.poll_ending() {
            return Ok(received);
        }
        while let Some(item) = self.queue.pop() {
            if let Some(received) = self.hand_out(item)? {
                return Ok(received);
            }
        }
        if has_links && let Some(received) = self.poll_rings() {
            return Ok(received);
        }
        self.poll_arrived()
    }

    /// `None` if everything in it has arrived before.
    fn hand_out(&mut self, item: Held) -> Result<Option<Received>, Ended> {
        (self.channel_id, self.pattern) = (None, None);
        Ok(Some(match item {
            Held::Retained(channel, retained, connection) => {
                self.channel = Some(channel);
                return Ok(self.take_up_retained(retained, connection).then_some(Received::Frame));
            }
            Held::Link(key, change) => return self.change_link(key, change),
            Held::Resumed(connection) => {
                let Self { entries, links, .. } = self;
                links.retain(connection, |channel| entries.values().any(|entry| entry.wants(channel)));
                if self.links.end_next_before(connection) {
                    self.queue.items.push_front(item);
                }
                return Ok(self.poll_ending());
            }
            Held::Run(channel, run, connection) => {
                self.channel = Some(channel);
                return Ok(self.take_up(run, connection));
            }
            Held::Lagged(channel, count) => {
                (self.channel, self.run_connection) = (Some(channel), self.connection);
                Received::Lagged(Some(count))
            }
            Held::Gap(selector) => self.gap(Some(selector)),
            Held::External(external) => {
                // Without a daemon there is one subscription, by name.
                let gap = self.gap(self.entries.values().next().map(Entry::selector).cloned());
                match external {
                    External::Gap => gap,
                    message @ External::Message { .. } => {
                        self.found = Some(Found::External(message));
                        Received::Frame
                    }
                }
            }
        }))
    }

    fn gap(&mut self, selector: Option<Selector>) -> Received {
        (self.channel, self.pattern) = match selector {
            Some(Selector::Name(name)) => (Some(name), None),
            Some(Selector::Pattern(pattern)) => (None, Some(pattern)),
            Some(Selector::All) | None => (None, None),
        };
        Received::Lagged(None)
    }

    /// Moves on to the first of these messages; `None` if all of them were received before.
    #[inline]
    fn take_up(&mut self, mut run: Run, connection: u64) -> Option<Received> {
        if !self.heard.is_empty() {
            self.skip_heard(&mut run)?;
        }
        (self.run, self.used, self.run_connection) = (Some(run), true, connection);
        Some(Received::Frame)
    }

    #[cold]
    fn skip_heard(&mut self, run: &mut Run) -> Option<()> {
        if let Some(channel) = &self.channel {
            self.heard.skip(channel, run);
        }
        (run.messages() > 0).then_some(())
    }

    /// Moves on to the first of these messages; `false` if all of them have arrived before.
    #[cold]
    fn take_up_retained(&mut self, retained: Retained, connection: u64) -> bool {
        self.run_connection = connection;
        self.found = Some(Found::Retained { retained, used: false, is_replayed: false });
        let is_new = self.next_retained();
        if !is_new {
            self.found = None;
        }
        is_new
    }

    /// Moves on within messages that the daemon retains. Those that are replayed, and have arrived before, are left out.
    fn next_retained(&mut self) -> bool {
        let Self { found, seen, channel, replay_max, .. } = self;
        let Some(Found::Retained { retained: Retained { run, replayed }, used, is_replayed }) = found else {
            return false;
        };
        loop {
            if std::mem::replace(used, true) {
                run.skip_front();
            }
            let Some(frame) = run.front() else { return false };
            *is_replayed = *replayed > 0;
            *replayed = replayed.saturating_sub(1);
            let identity = (frame.sender, frame.sequence);
            let Some(channel) = channel.as_ref().filter(|_| *replay_max > 0) else { return true };
            if *is_replayed && seen.contains(channel, identity) {
                continue;
            }
            seen.remember(channel, identity, *replay_max);
            return true;
        }
    }

    fn poll_arrived(&mut self) -> Result<Received, Ended> {
        while self.is_ready() {
            match self.take()? {
                None => break,
                Some(Arrived::Run(run)) => {
                    self.select(run.channel(), KIND_PUBLISH)?;
                    if let Some(received) = self.take_up(run, self.connection) {
                        return Ok(received);
                    }
                }
                Some(Arrived::Retained(retained)) => {
                    self.select(retained.run.channel(), KIND_RETAIN)?;
                    if self.take_up_retained(retained, self.connection) {
                        return Ok(Received::Frame);
                    }
                }
                Some(Arrived::Lagged(id, count)) => {
                    self.select(id, kind::LAGGED)?;
                    self.run_connection = self.connection;
                    return Ok(Received::Lagged(Some(count)));
                }
                Some(Arrived::Link(link, change)) => {
                    if let Some(received) = self.change_link((self.connection, link), change)? {
                        return Ok(received);
                    }
                }
                Some(Arrived::Applied) => {}
            }
        }
        self.links.has_received_stream();
        Ok(Received::Nothing)
    }

    /// The next item that has arrived.
    fn take(&mut self) -> Result<Option<Arrived>, Ended> {
        let Some(item) = self.session.next()? else { return Ok(None) };
        match item {
            Item::Run(run) if run.is_retained() => {
                let replayed = self.announced.take(run.channel(), run.messages());
                return Ok(Some(Arrived::Retained(Retained { run, replayed })));
            }
            Item::Run(run) => return Ok(Some(Arrived::Run(run))),
            Item::Control(Control::Lagged(lagged)) => {
                self.announced.take(ChannelId(lagged.id), lagged.count);
                return Ok(Some(Arrived::Lagged(ChannelId(lagged.id), lagged.count)));
            }
            Item::Control(Control::Named(named)) => self.named(&named)?,
            Item::Control(Control::Retained(retained)) => self.announce(&retained)?,
            Item::Control(Control::Subscribed(subscribed)) => self.subscribed(subscribed.subscription)?,
            Item::Control(Control::Unsubscribed(unsubscribed)) => self.unsubscribed(unsubscribed.subscription)?,
            Item::Control(Control::Declined(declined)) => self.declined(declined)?,
            item if !self.session.has_rings() => return Err(unexpected(&item)),
            Item::Control(Control::Prepare(_)) if self.passing == Passing::Unannounced => {
                self.passing = Passing::Announced;
            }
            Item::Control(Control::Prepared(_)) if self.passing == Passing::Asked => self.passing = Passing::Ready,
            Item::Control(Control::OfferLink(offer)) if self.passing == Passing::Ready => self.offered(offer)?,
            Item::Control(Control::Follow(control::Follow { link, position, sequence, .. })) => {
                return Ok(Some(Arrived::Link(link, LinkChange::Followed { position, sequence })));
            }
            Item::Control(Control::Unfollow(control::Unfollow { link, sequence, .. })) => {
                return Ok(Some(Arrived::Link(link, LinkChange::Unfollowed { sequence })));
            }
            Item::Control(Control::Unlink(Unlink { link, .. })) => {
                if !self.links.withdraw(link) {
                    return Ok(Some(Arrived::Link(link, LinkChange::Unlinked)));
                }
            }
            Item::Control(Control::AwaitProgress(AwaitProgress { link, position, .. })) => {
                self.links.await_progress((self.connection, link), position);
            }
            item => return Err(unexpected(&item)),
        }
        Ok(Some(Arrived::Applied))
    }

    /// Moves on within the frames that were found together. Returns false, and changes nothing else, if there are no more of them:
    /// then [`poll_next`](Self::poll_next) finds what is next.
    #[inline]
    pub fn next_of_run(&mut self) -> bool {
        let Some(run) = &mut self.run else { return false };
        if self.used {
            run.skip_front();
        }
        self.used = run.messages() > 0;
        self.used
    }

    /// The channel with this id is what was found.
    #[inline]
    fn select(&mut self, id: ChannelId, kind: u8) -> Result<(), Ended> {
        if self.channel_id != Some(id) {
            self.channel = Some(self.name_of(id, kind)?);
            self.channel_id = Some(id);
            self.pattern = None;
        }
        Ok(())
    }

    fn name_of(&self, id: ChannelId, kind: u8) -> Result<ChannelName, Ended> {
        self.names.get(&id).cloned().ok_or(Ended::Unexpected(kind))
    }

    fn named(&mut self, named: &control::Named) -> Result<(), Ended> {
        let id = ChannelId(named.id);
        if self.channel_id == Some(id) {
            self.channel_id = None;
        }
        if named.name.is_empty() {
            self.names.remove(&id);
            self.announced.end(id);
            return Ok(());
        }
        match ChannelName::new(&named.name) {
            Ok(name) if self.covers(&name) && self.names.len() < NAMES_MAX => {
                self.names.insert(id, name);
                Ok(())
            }
            Ok(_) | Err(_) => Err(Ended::Unexpected(kind::NAMED)),
        }
    }

    fn announce(&mut self, retained: &control::Retained) -> Result<(), Ended> {
        let id = ChannelId(retained.id);
        if retained.count > 0 && !self.names.contains_key(&id) {
            return Err(Ended::Unexpected(kind::RETAINED));
        }
        self.announced.announce(id, retained.count);
        Ok(())
    }

    fn covers(&self, name: &ChannelName) -> bool {
        self.entries.values().any(|entry| entry.selector().covers(name))
    }

    /// The channel of what [`poll_next`](Self::poll_next) found. `None`: a gap that may concern several channels.
    pub fn channel(&self) -> Option<&ChannelName> {
        self.channel.as_ref()
    }

    /// The pattern of the gap that [`poll_next`](Self::poll_next) found, if it may concern all channels that the pattern covers.
    pub fn pattern(&self) -> Option<&ChannelPattern> {
        self.pattern.as_ref()
    }

    /// The selectors, in the order in which they were requested, without those whose end was requested.
    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.entries.values().filter(|entry| entry.is_wanted()).map(Entry::selector)
    }

    /// The frame that [`poll_next`](Self::poll_next) found, until it is called again.
    #[inline]
    pub fn frame(&self) -> Option<Frame<'_>> {
        match (&self.run, &self.found) {
            (Some(run), _) => run.front(),
            (None, Some(Found::Retained { retained, .. })) => retained.run.front(),
            (None, Some(Found::External(External::Message { sender, sequence, payload }))) => {
                let metadata = MetadataRef::default();
                Some(Frame { sender: *sender, sequence: *sequence, metadata, payload })
            }
            (None, Some(Found::External(External::Gap)) | None) => None,
        }
    }

    /// The same, unless it arrived without a daemon or is replayed.
    #[inline]
    pub(super) fn frame_from_daemon(&self) -> Option<Frame<'_>> {
        match (&self.run, &self.found) {
            (Some(run), _) => run.front(),
            (None, Some(Found::Retained { retained, is_replayed: false, .. })) => retained.run.front(),
            (None, _) => None,
        }
    }

    /// Whether the sender of that frame has requested that the daemon retains it.
    pub fn is_retained(&self) -> bool {
        matches!(&self.found, Some(Found::Retained { .. }))
    }

    /// Whether that frame is replayed: the daemon has accepted it before the subscription began.
    pub fn is_replayed(&self) -> bool {
        matches!(&self.found, Some(Found::Retained { is_replayed: true, .. }))
    }

    /// How many messages are replayed, as the present daemon has announced for the first of its channels.
    pub(super) fn announced(&self) -> Option<u32> {
        self.announced.first()
    }

    /// The number of the connection on which that frame, or the report of a loss, has arrived. A reply to it can only be sent on the same one.
    pub fn origin(&self) -> u64 {
        self.run_connection
    }

    /// The number of the present connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// The sender of its replies.
    pub(super) fn id(&self) -> SenderId {
        self.id
    }

    /// The largest payload of a reply.
    pub(super) fn payload_bytes_max(&self) -> u32 {
        self.payload_bytes_max
    }

    /// The rest of a frame of which a part was written goes out before anything else.
    pub(super) fn keep_outgoing(&mut self, bytes: &[u8]) {
        self.session.push_bytes(bytes);
    }

    /// A part of that frame as memory of its own: by reference if it is most of what it pins, else copied.
    pub fn own(&self, part: &[u8]) -> Bytes {
        match (&self.run, &self.found) {
            (Some(run), _) if part.len() * 2 >= run.pinned_bytes() => run.bytes().slice_ref(part),
            (None, Some(Found::Retained { retained: Retained { run, .. }, .. }))
                if part.len() * 2 >= run.pinned_bytes() =>
            {
                run.bytes().slice_ref(part)
            }
            (None, Some(Found::External(External::Message { payload, .. }))) => payload.slice_ref(part),
            _ => Bytes::copy_from_slice(part),
        }
    }

    /// Bytes were read to the [target](Machine::target).
    #[inline]
    pub fn has_read(&mut self, bytes: usize) {
        self.drained = bytes < self.session.room();
        self.links.has_read_socket();
    }

    /// Nothing has arrived, or is likely to have arrived: releases memory that only a busy connection needs. Returns whether the next read
    /// may wait by itself; otherwise it would hold much memory while it waits.
    pub fn has_drained(&mut self) -> bool {
        self.links.has_read_socket();
        self.rest()
    }

    /// The same before a wait in whose place the socket would be read.
    pub fn rest(&mut self) -> bool {
        self.drained = !self.session.idle();
        self.drained
    }

    /// Whether the last read has taken everything that had arrived, so that the next one is likely to wait.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Appends what arrived without a daemon.
    pub fn deliver(&mut self, external: External) {
        self.queue.push(Held::External(external));
    }
}

/// Changes while the connection is in use.
impl Subscriber {
    /// Requests a subscription, unless there is one with the same selector.
    pub fn subscribe(&mut self, subscription: Subscription) -> Change {
        let same = self.entry_mut(&subscription.selector);
        let (number, is_new) = match same {
            Some((number, entry)) if entry.state != State::Ending => {
                if entry.state == State::Unwanted {
                    entry.state = State::Requested;
                }
                (number, false)
            }
            // The daemon ends the other one first: it carries requests out in order.
            Some(_) | None => (self.unused_number(), true),
        };
        if is_new {
            self.replay_max = self.replay_max.max(subscription.replay);
            self.entries.insert(number, Entry::new(subscription, false));
            if matches!(self.session.phase, Phase::Joining | Phase::Ready) {
                self.request(number);
            }
        }
        self.pause_links();
        self.request_change(Change { number, joins: true })
    }

    /// Requests the end of the subscription with this selector; `None` if there is none.
    ///
    /// What the daemon has accepted before the end, it still delivers.
    pub fn unsubscribe(&mut self, selector: &Selector) -> Option<Change> {
        let (number, entry) = self.entry_mut(selector)?;
        match entry.state {
            State::Unknown => drop(self.entries.remove(&number)),
            // Its answer must come first. If the daemon declines it, there is nothing to end.
            State::Requested => entry.state = State::Unwanted,
            State::Confirmed => self.end(number),
            State::Unwanted | State::Ending => {}
        }
        self.pause_links();
        Some(self.request_change(Change { number, joins: false }))
    }

    /// The last one that was requested with this selector.
    fn entry_mut(&mut self, selector: &Selector) -> Option<(u32, &mut Entry)> {
        let mut entries = self.entries.iter_mut().rev();
        entries.find(|(_, entry)| entry.selector() == selector).map(|(&number, entry)| (number, entry))
    }

    fn unused_number(&mut self) -> u32 {
        while self.entries.contains_key(&self.next_number) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        number
    }

    fn request_change(&mut self, change: Change) -> Change {
        self.requested = Some((change, None));
        change
    }

    /// The version of the daemon that has answered.
    pub fn daemon_version(&self) -> &str {
        self.session.version()
    }

    /// Looks for the answer to the change that was requested last. What has arrived before it waits for
    /// [`poll_next`](Self::poll_next). `None`: until more bytes were read.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be given up. The change is still requested, unless the daemon refuses it.
    pub fn collect(&mut self, change: Change) -> Result<Option<Outcome>, Ended> {
        loop {
            match self.outcome(change) {
                None if self.queue.is_full() => return Ok(Some(Outcome::Full)),
                None if !self.is_ready() => return Ok(None),
                None => {}
                outcome => return Ok(outcome),
            }
            match self.take().and_then(|arrived| self.keep(arrived)) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(ended) => return Err(self.ended(ended)),
            }
        }
    }

    /// Keeps what has arrived; `false` if nothing has.
    fn keep(&mut self, arrived: Option<Arrived>) -> Result<bool, Ended> {
        match arrived {
            None => return Ok(false),
            Some(Arrived::Run(run)) => {
                let channel = self.name_of(run.channel(), KIND_PUBLISH)?;
                self.queue.push(Held::Run(channel, run, self.connection));
            }
            Some(Arrived::Retained(retained)) => {
                let channel = self.name_of(retained.run.channel(), KIND_RETAIN)?;
                self.queue.push(Held::Retained(channel, retained, self.connection));
            }
            Some(Arrived::Lagged(id, count)) => {
                let channel = self.name_of(id, kind::LAGGED)?;
                self.queue.push_lagged(channel, count);
            }
            Some(Arrived::Link(link, change)) => self.queue.push(Held::Link((self.connection, link), change)),
            Some(Arrived::Applied) => {}
        }
        Ok(true)
    }

    fn outcome(&mut self, change: Change) -> Option<Outcome> {
        if let Some((requested, declined)) = &mut self.requested
            && *requested == change
            && let Some(declined) = declined.take()
        {
            return Some(Outcome::Declined(declined));
        }
        let entry = self.entries.get(&change.number);
        let is_done = match change.joins {
            true => entry.is_none_or(|entry| entry.state == State::Confirmed),
            false => entry.is_none(),
        };
        is_done.then_some(Outcome::Done)
    }

    /// The connection takes no more requests. What has arrived on it can still be read, and the next connection begins with all of them.
    pub(super) fn discard_requests(&mut self) {
        self.session.discard_outgoing();
    }

    /// The daemon has ended the connection while it was in use.
    fn ended(&mut self, ended: Ended) -> Ended {
        self.daemon = None;
        self.withdraw(ended)
    }

    /// If the daemon refuses this connection, it would refuse the next one as well. What it has never confirmed may be the reason.
    fn withdraw(&mut self, ended: Ended) -> Ended {
        if matches!(ended, Ended::Refused(_) | Ended::Unsupported { .. }) {
            self.entries.retain(|_, entry| entry.required);
        }
        ended
    }
}

impl Machine for Subscriber {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.session.connected(0);
        self.connection += 1;
        self.names.clear();
        self.announced = Announced::default();
        self.channel_id = None;
    }

    fn disconnected(&mut self) {
        if self.session.phase == Phase::Joining {
            self.daemon = None; // there was nothing yet for which this subscriber could be too slow
        }
        self.session.disconnected();
        self.passing = Passing::default();
        self.early = Queue::default();
        self.entries.retain(|_, entry| entry.is_wanted());
        self.entries.values_mut().for_each(|entry| entry.state = State::Unknown);
        self.links.disconnected();
        self.pause_links();
    }

    /// Only a listener whose losses are those of a ring can read one: the oldest messages.
    fn wants_rings(&self) -> bool {
        self.entries.values().any(|entry| entry.subscription.is_for_rings())
    }

    fn received(&mut self) -> Result<(), Ended> {
        match self.join() {
            Err(ended) if self.session.phase == Phase::Joining => Err(self.withdraw(ended)),
            joined => joined,
        }
    }

    fn detached(&mut self) {
        let Self { entries, queue, .. } = self;
        entries.values_mut().for_each(|entry| entry.join(queue));
    }
}

impl Subscriber {
    /// Continues the handshake.
    fn join(&mut self) -> Result<(), Ended> {
        while !self.is_ready() {
            if self.session.phase == Phase::Greeting {
                match self.session.next()? {
                    None => break,
                    Some(Item::Control(Control::Welcome(welcome))) => {
                        self.check_whether_too_slow(&welcome)?;
                        self.id = SenderId::from_raw(welcome.sender);
                        self.payload_bytes_max = welcome.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
                        self.session.phase = Phase::Joining;
                        let numbers: Vec<_> = self.entries.keys().copied().collect();
                        numbers.into_iter().for_each(|number| self.request(number));
                        self.complete_joining();
                    }
                    Some(item) => return Err(unexpected(&item)),
                }
                continue;
            }
            match self.take()? {
                None => break,
                Some(Arrived::Run(_) | Arrived::Retained(_)) if self.early.items.len() >= HELD_ITEMS_MAX => {
                    return Err(Ended::Unexpected(KIND_PUBLISH));
                }
                Some(Arrived::Lagged(..)) if self.early.items.len() >= HELD_ITEMS_MAX => {
                    return Err(Ended::Unexpected(kind::LAGGED));
                }
                Some(Arrived::Link(..)) if self.early.items.len() >= HELD_ITEMS_MAX => {
                    return Err(Ended::Unexpected(kind::UNLINK));
                }
                Some(Arrived::Run(run)) => {
                    let (channel, messages) = (self.name_of(run.channel(), KIND_PUBLISH)?, run.messages());
                    self.keep_early(Held::Run(channel.clone(), run, self.connection), channel, messages);
                }
                Some(Arrived::Retained(retained)) => {
                    let (id, messages) = (retained.run.channel(), retained.run.messages());
                    let channel = self.name_of(id, KIND_RETAIN)?;
                    self.keep_early(Held::Retained(channel.clone(), retained, self.connection), channel, messages);
                }
                Some(Arrived::Lagged(id, count)) => {
                    let channel = self.name_of(id, kind::LAGGED)?;
                    self.early.push_lagged(channel, count);
                }
                Some(Arrived::Link(link, change)) => self.early.push(Held::Link((self.connection, link), change)),
                Some(Arrived::Applied) => {}
            }
        }
        Ok(())
    }

    /// Keeps what arrives for one subscription until all are confirmed. Frames for which there is no room are lost: a gap takes their place.
    fn keep_early(&mut self, frames: Held, channel: ChannelName, messages: u64) {
        if self.early.bytes + frames.bytes() <= HELD_BYTES_MAX {
            self.early.push(frames);
        } else {
            self.early.push_lagged(channel, messages);
        }
    }

    /// If the same daemon serves again after it ended the connection, a subscriber with the policy *disconnect* was too slow. It may not have
    /// received the reason, which the daemon keeps for a second only.
    fn check_whether_too_slow(&mut self, welcome: &Welcome) -> Result<(), Ended> {
        let before = self.daemon.take();
        let requested = self.entries.values().any(|entry| entry.subscription.overflow == Overflow::Disconnect);
        if requested && before == Some(welcome.pid) {
            let reason = "this subscriber chose to be disconnected when it is too slow";
            return Err(Ended::Refused(Refused::new(RefusedCode::TooSlow, reason)));
        }
        self.daemon = Some(welcome.pid);
        Ok(())
    }

    /// Requests the subscription with this number from the present daemon.
    fn request(&mut self, number: u32) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.state = State::Requested;
        let Subscription { selector, overflow, observer, replay } = &entry.subscription;
        let (selector, overflow, observer) = (selector.to_wire(), *overflow, *observer);
        let extensions = if *replay > 0 { vec![Extension::replay(*replay)] } else { Vec::new() };
        self.session.push(&Subscribe { subscription: number, selector, overflow, observer, extensions }.into());
    }

    /// Requests its end.
    fn end(&mut self, number: u32) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Ending;
            self.session.push(&Unsubscribe { subscription: number, extensions: Vec::new() }.into());
        }
    }

    fn subscribed(&mut self, number: u32) -> Result<(), Ended> {
        let Self { entries, queue, .. } = self;
        match entries.get_mut(&number).map(|entry| (entry.state, entry)) {
            Some((State::Requested, entry)) => {
                (entry.state, entry.required) = (State::Confirmed, true);
                if self.session.phase == Phase::Ready {
                    entry.join(queue);
                }
            }
            Some((State::Unwanted, _)) => self.end(number),
            Some((State::Unknown | State::Confirmed | State::Ending, _)) | None => {
                return Err(Ended::Unexpected(kind::SUBSCRIBED));
            }
        }
        self.pause_links();
        self.complete_joining();
        Ok(())
    }

    fn unsubscribed(&mut self, number: u32) -> Result<(), Ended> {
        match self.entries.remove(&number) {
            Some(ended) if ended.state == State::Ending => {
                let Self { entries, names, seen, .. } = self;
                // Those that no subscription covers are announced again before they are used again.
                let is_covered = |name: &ChannelName| entries.values().any(|entry| entry.selector().covers(name));
                names.retain(|_, name| !ended.selector().covers(name) || is_covered(name));
                seen.retain(is_covered);
                self.channel_id = None;
                self.pause_links();
                Ok(())
            }
            Some(_) | None => Err(Ended::Unexpected(kind::UNSUBSCRIBED)),
        }
    }

    fn declined(&mut self, declined: Declined) -> Result<(), Ended> {
        let number = declined.number;
        let state = self.entries.get(&number).map(|entry| (entry.state, entry.required));
        match (declined.request, state) {
            (kind::SUBSCRIBE, Some((State::Requested, true))) => return Err(self.session.declined(declined)),
            (kind::SUBSCRIBE, Some((State::Requested, false) | (State::Unwanted, _))) => {
                self.entries.remove(&number);
            }
            (kind::UNSUBSCRIBE, Some((State::Ending, _))) => {
                if let Some(entry) = self.entries.get_mut(&number) {
                    entry.state = State::Confirmed;
                }
            }
            _ => return Err(Ended::Unexpected(kind::DECLINED)),
        }
        self.pause_links();
        let joins = declined.request == kind::SUBSCRIBE;
        if let Some((_, answer)) = self.requested.as_mut().filter(|(change, _)| *change == Change { number, joins }) {
            *answer = Some(declined);
        }
        self.complete_joining();
        Ok(())
    }

    /// Completes the handshake if the daemon has answered every request for a subscription.
    fn complete_joining(&mut self) {
        if self.session.phase == Phase::Joining && self.entries.values().all(Entry::is_answered) {
            self.session.phase = Phase::Ready;
            let Self { entries, queue, early, links, .. } = self;
            if links.has_before(self.connection) {
                queue.push(Held::Resumed(self.connection));
            }
            entries.values_mut().filter(|entry| entry.is_wanted()).for_each(|entry| entry.join(queue));
            queue.append(std::mem::take(early));
        }
    }
}

/// The ring is corrupt.
struct Useless;

/// Whether the two sides read descriptors on the present connection, which takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Passing {
    /// Neither does.
    #[default]
    Unannounced,
    /// The daemon has announced some, and awaits an answer.
    Announced,
    /// This side does, and has asked the daemon to.
    Asked,
    /// Both do.
    Ready,
}

/// Messages that come from rings in shared memory.
impl Subscriber {
    /// The daemon offers a ring.
    fn offered(&mut self, offer: OfferLink) -> Result<(), Ended> {
        let channel = self.name_of(ChannelId(offer.id), kind::OFFER_LINK)?;
        let by_name = Selector::Name(channel.clone());
        let has_asked = |entry: &Entry| *entry.selector() == by_name && entry.subscription.is_for_rings();
        let is_expected = self.entries.values().any(has_asked);
        match is_expected && self.links.offer(self.connection, offer, channel) {
            true => Ok(()),
            false => Err(Ended::Unexpected(kind::OFFER_LINK)),
        }
    }

    /// Expects descriptors once the daemon has announced them, and announces those of this listener.
    #[inline]
    pub(super) fn expect_descriptors<L: Link>(&mut self, link: &mut L) {
        if self.passing == Passing::Announced {
            link.expect_descriptors();
            // In this order, so that the answer comes before an offer.
            self.session.push(&Prepare::default().into());
            self.session.push(&Prepared::default().into());
            self.passing = Passing::Asked;
        }
    }

    /// Reports where it has come to in rings, if the daemon awaits that.
    #[inline]
    pub(super) fn report_progress(&mut self) {
        while let Some(link) = self.links.next_progress(self.connection) {
            self.session.push(&Progress { link, extensions: Vec::new() }.into());
        }
    }

    /// Whether something is to be written.
    #[inline]
    pub fn writes(&self) -> bool {
        !self.outgoing().is_empty() || self.links.must_answer()
    }

    /// Answers the offers of the daemon, until one is to be answered in the stream or there is no room. All that is outgoing was written.
    pub(super) fn answer_offers<L: Link>(&mut self, link: &mut L) {
        while self.outgoing().is_empty() && self.links.must_answer() {
            let Some(frame) = self.links.answer() else {
                self.answer_offer(link);
                continue;
            };
            match link.write_with_descriptors(frame) {
                Transfer::Bytes(bytes) => {
                    let rest = self.links.answered(bytes);
                    self.session.push_bytes(&rest);
                }
                Transfer::Wait(_) => return,
                Transfer::Broken => {
                    let link = self.links.not_answered();
                    link.into_iter().for_each(|link| self.unlink(link));
                }
            }
        }
    }

    fn answer_offer<L: Link>(&mut self, link: &mut L) {
        match self.links.next_offer() {
            None => {}
            Some(Offered::Ignore) => link.decline_ring(),
            Some(Offered::Decline(number)) => {
                link.decline_ring();
                self.unlink(number);
            }
            Some(Offered::Open(offer, channel)) => match link.open_ring(&offer) {
                None => self.unlink(offer.link),
                Some(ring) => {
                    self.links.opened(self.connection, &offer, channel, ring);
                    self.pause_links();
                }
            },
        }
    }

    /// This listener does not, or no longer, read that ring.
    fn unlink(&mut self, link: u32) {
        self.session.push(&Unlink { link, extensions: Vec::new() }.into());
    }

    /// While the daemon has not answered a request that concerns a channel, it is not known where it has ended a link. No message behind that
    /// place may be taken from its ring. From rings whose connection has ended, nothing is taken that no subscription wants.
    fn pause_links(&mut self) {
        let living = self.living();
        let Self { entries, links, .. } = self;
        let concerns = |entry: &Entry, channel: &ChannelName| match entry.state {
            State::Requested | State::Unwanted | State::Ending => entry.selector().covers(channel),
            State::Unknown | State::Confirmed => false,
        };
        links.pause(
            living,
            |channel| entries.values().any(|entry| concerns(entry, channel)),
            |channel| !entries.values().any(|entry| entry.wants(channel)),
        );
    }

    /// The number of the present connection; if there is none, of the next one.
    fn living(&self) -> u64 {
        self.connection + u64::from(self.session.phase == Phase::Down)
    }

    /// The stream has reached a change of a link.
    fn change_link(&mut self, key: Key, change: LinkChange) -> Result<Option<Received>, Ended> {
        match self.links.change(key, change) {
            Ok(()) => Ok(self.poll_ending()),
            Err(Misplaced) if key.0 < self.living() => Ok(None), // it went with its connection
            Err(Misplaced) => Err(Ended::Unexpected(match change {
                LinkChange::Followed { .. } => kind::FOLLOW,
                LinkChange::Unfollowed { .. } => kind::UNFOLLOW,
                LinkChange::Unlinked => kind::UNLINK,
            })),
        }
    }

    /// What is next in the ring that ends.
    fn poll_ending(&mut self) -> Option<Received> {
        loop {
            match self.links.poll_ending() {
                Rest::Messages(found) => {
                    if let Ok(Some(received)) = self.take_up_from_ring(found) {
                        return Some(received);
                    }
                }
                Rest::Read((connection, link)) => {
                    // The daemon need not look at its page any more.
                    if connection == self.connection && self.session.has_rings() {
                        self.unlink(link);
                    }
                    return None;
                }
                Rest::Left(heard) => {
                    self.heard.remember(heard);
                    return None;
                }
                Rest::Nothing => return None,
            }
        }
    }

    /// What is next in any ring.
    fn poll_rings(&mut self) -> Option<Received> {
        loop {
            let found = self.links.poll()?;
            let (connection, link) = found.key;
            match self.take_up_from_ring(found) {
                Ok(Some(received)) => return Some(received),
                Err(Useless) if connection == self.connection && self.session.has_rings() => self.unlink(link),
                Ok(None) | Err(Useless) => {}
            }
        }
    }

    /// `Ok(None)` if everything in it was received before.
    #[inline]
    fn take_up_from_ring(&mut self, found: FromRing) -> Result<Option<Received>, Useless> {
        let FromRing { key: (connection, _), channel, taken } = found;
        let Taken { lost, run } = taken.ok_or(Useless)?;
        (self.channel, self.channel_id, self.pattern) = (Some(channel), None, None);
        Ok(match run {
            run if lost > 0 => {
                self.behind = run.map(|run| (run, connection));
                self.run_connection = connection;
                Some(Received::Lagged(Some(lost)))
            }
            run => run.and_then(|run| self.take_up(run, connection)),
        })
    }

    /// Whether it reads rings, so that [`receive`](super::receive) ends a wait when one of them has something.
    #[inline]
    pub fn reads_rings(&self) -> bool {
        self.links.is_reading()
    }

    /// Whether the socket must be read before the next wait, even if the last read has taken everything: the wait before may have ended
    /// because of it.
    pub fn must_read(&self) -> bool {
        self.links.must_read_socket()
    }

    /// Requests to be woken for what is in rings. `false` if there is something already.
    #[inline]
    pub(super) fn arm(&mut self) -> bool {
        !self.links.is_reading() || self.links.arm()
    }
}

impl Entry {
    /// Messages are received for it from now on.
    fn join(&mut self, queue: &mut Queue) {
        if std::mem::replace(&mut self.joined, true) {
            queue.push_gap(self.selector());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, declined, feed, feed_bytes, named, subscribed, unsubscribed, welcome};
    use super::*;
    use broadcaster_protocol::Header;

    fn on(names: &[&str]) -> Subscriber {
        Subscriber::new(names.iter().map(|name| to(name)).collect(), "test", 7)
    }

    /// A subscription to a channel, or to those that a pattern covers.
    fn to(selector: &str) -> Subscription {
        let selector = match selector.contains('*') {
            true => Selector::Pattern(ChannelPattern::new(selector).expect("a pattern")),
            false => Selector::Name(ChannelName::new(selector).expect("a name")),
        };
        Subscription { selector, overflow: Overflow::DropOldest, observer: false, replay: 0 }
    }

    fn lagged(id: u32, count: u64) -> Control {
        Control::Lagged(control::Lagged { id, count, extensions: Vec::new() })
    }

    fn frame(channel: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("small");
        let header = Header::publish(ChannelId(channel), SenderId::new(9, 1), sequence, len);
        [header.as_bytes(), payload].concat()
    }

    fn next(subscriber: &mut Subscriber) -> (Received, Option<String>) {
        let received = subscriber.poll_next().expect("the stream is well formed");
        (received, subscriber.channel().map(ToString::to_string))
    }

    #[test]
    fn frames_carry_the_name_that_was_announced_last() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), subscribed(1), named(1, "a"), named(2, "b")]).expect("ok");
        feed_bytes(&mut subscriber, &[frame(2, 0, b"x"), frame(1, 0, b"y")].concat());
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("b".into())));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        assert_eq!(subscriber.frame().expect("found").payload, b"y");
        feed(&mut subscriber, &[named(1, ""), named(1, "b")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"z"));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("b".into())), "the id stands for another channel now");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn frames_before_the_last_confirmation_are_kept_in_order() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"early"));
        subscriber.received().expect("held");
        assert!(!subscriber.is_ready());
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        feed(&mut subscriber, &[subscribed(1), named(2, "b")]).expect("ok");
        assert!(subscriber.is_ready());
        feed_bytes(&mut subscriber, &frame(1, 1, b"late"));
        for payload in [&b"early"[..], b"late"] {
            assert_eq!(next(&mut subscriber).0, Received::Frame);
            assert_eq!(subscriber.frame().expect("found").payload, payload);
        }
    }

    /// Reads and handles `wire`, as a link does before the handshake is complete.
    fn receive_early(subscriber: &mut Subscriber, mut wire: &[u8]) {
        while !wire.is_empty() {
            let mut target = subscriber.target();
            let size = bytes::BufMut::remaining_mut(&target).min(wire.len());
            bytes::BufMut::put_slice(&mut target, &wire[..size]);
            wire = &wire[size..];
            subscriber.received().expect("the stream is well formed");
        }
    }

    #[test]
    fn many_subscriptions_are_confirmed_under_traffic() {
        let names: Vec<String> = (0..1000).map(|n| format!("{n:0>200}")).collect();
        let mut subscriber = on(&names.iter().map(String::as_str).collect::<Vec<_>>());
        accept(&mut subscriber, &[welcome()]).expect("ok");
        let mut wire = Vec::new();
        for (n, name) in (0..).zip(&names) {
            subscribed(n).encode(&mut wire).expect("encoded");
            named(n, name).encode(&mut wire).expect("encoded");
            for channel in [0, n / 2, n] {
                wire.extend(frame(channel, 0, name.as_bytes()));
            }
        }
        receive_early(&mut subscriber, &wire);
        assert!(subscriber.is_ready());
        for n in 0..1000 {
            for channel in [0, n / 2, n] {
                assert_eq!(next(&mut subscriber), (Received::Frame, Some(names[channel].clone())));
            }
        }
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn frames_that_cannot_be_kept_until_the_last_confirmation_are_counted() {
        let mut subscriber = on(&["a", "b", "c"]);
        let begin = [welcome(), subscribed(0), named(1, "a"), subscribed(1), named(2, "b")];
        accept(&mut subscriber, &begin).expect("ok");
        let payload = vec![7; 1 << 20];
        let round = [frame(1, 0, &payload), frame(2, 0, b""), frame(2, 0, b"")].concat();
        let kept = HELD_BYTES_MAX / (payload.len() + 1000);
        for _ in 0..kept + 10 {
            receive_early(&mut subscriber, &round);
        }
        feed(&mut subscriber, &[subscribed(2), named(3, "c")]).expect("ok");
        let (mut received, mut lost) = ([0; 2], [0; 2]);
        loop {
            let (found, channel) = next(&mut subscriber);
            let at = usize::from(channel.as_deref() == Some("b"));
            match found {
                Received::Frame => received[at] += 1,
                Received::Lagged(count) => lost[at] += count.expect("counted"),
                Received::Nothing => break,
            }
        }
        let rounds = u64::try_from(kept).expect("small") + 10;
        assert!(lost[0] > 0);
        assert_eq!([received[0] + lost[0], received[1] + lost[1]], [rounds, 2 * rounds]);
    }

    #[test]
    fn no_more_is_kept_before_the_last_confirmation_than_a_daemon_sends() {
        let mut subscriber = on(&["a", "b", "c"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), subscribed(1), named(2, "b")]).expect("ok");
        let mut round = frame(1, 0, b"");
        [1, 2].iter().for_each(|&id| lagged(id, 1).encode(&mut round).expect("encoded"));
        for _ in 0..HELD_ITEMS_MAX / 3 {
            receive_early(&mut subscriber, &round);
        }
        receive_early(&mut subscriber, &frame(1, 0, b""));
        assert_eq!(subscriber.early.items.len(), HELD_ITEMS_MAX);
        assert_eq!(feed(&mut subscriber, &[lagged(1, 1)]), Err(Ended::Unexpected(kind::LAGGED)));
    }

    #[test]
    fn a_read_that_does_not_fill_its_room_has_taken_everything() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        let room = subscriber.target().limit();
        for (bytes, is_drained) in [(room, false), (room - 1, true), (room, false)] {
            subscriber.has_read(bytes);
            assert_eq!(subscriber.is_drained(), is_drained, "{bytes} of {room}");
        }
        while !subscriber.has_drained() {} // until the next read needs little memory
        assert!(subscriber.is_drained());
    }

    #[test]
    fn joining_again_leaves_one_gap_for_each_subscription() {
        let mut subscriber = on(&["a", "b"]);
        let all = [welcome(), subscribed(0), subscribed(1), named(1, "a"), named(2, "b")];
        accept(&mut subscriber, &all).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "the first time leaves none");
        subscriber.disconnected();
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "reported once it has joined again");
        accept(&mut subscriber, &all).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("b".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn an_attempt_that_fails_leaves_no_gap_of_its_own() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn a_daemon_that_serves_on_has_disconnected_the_subscriber_for_being_slow() {
        let all = [welcome(), subscribed(0), named(1, "a")];
        let of = |overflow| {
            let mut subscriber = on(&["a"]);
            subscriber.entries.get_mut(&0).expect("the only one").subscription.overflow = overflow;
            subscriber
        };
        let is_too_slow = |joined: Result<(), Ended>| match joined {
            Err(Ended::Refused(refused)) => refused.code == RefusedCode::TooSlow,
            joined => {
                joined.expect("joined");
                false
            }
        };
        let mut subscriber = of(Overflow::Disconnect);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "it had not joined before");
        subscriber.disconnected();
        subscriber.disconnected(); // as after an attempt in between that found nothing
        assert!(is_too_slow(accept(&mut subscriber, &all)));
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "that is reported once");
        assert_eq!(next(&mut subscriber).0, Received::Lagged(None));

        feed(&mut subscriber, &[Control::Refused(Refused::new(RefusedCode::Memory, ""))]).expect("no handshake");
        subscriber.poll_next().expect_err("refused");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "the daemon has given another reason");
        subscriber.disconnected();
        let Control::Welcome(mut next_daemon) = welcome() else { unreachable!("a welcome") };
        next_daemon.pid += 1;
        assert!(!is_too_slow(accept(&mut subscriber, &[next_daemon.into(), subscribed(0)])), "another daemon");

        let mut subscriber = of(Overflow::DropOldest);
        accept(&mut subscriber, &all).expect("ok");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "it has not requested that");
    }

    #[test]
    fn losses_name_their_channel_and_count() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(3, "a")]).expect("ok");
        feed(&mut subscriber, &[lagged(3, 5)]).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(Some(5)), Some("a".into())));
    }

    #[test]
    fn what_was_not_announced_ends_the_connection() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(2, 0, b""));
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(KIND_PUBLISH)), "an id without a name");
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "b")]).expect("ok");
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(kind::NAMED)), "a channel not subscribed to");
        let mut subscriber = on(&["a"]);
        let twice = [welcome(), subscribed(1)];
        assert_eq!(accept(&mut subscriber, &twice), Err(Ended::Unexpected(kind::SUBSCRIBED)));
    }

    /// What the subscriber writes, as a daemon reads it.
    fn requests(subscriber: &mut Subscriber) -> Vec<Control> {
        let (mut decoder, mut chunk) = (broadcaster_protocol::Decoder::consumer(1), bytes::BytesMut::new());
        let out = subscriber.outgoing().to_vec();
        subscriber.sent(out.len());
        bytes::BufMut::put_slice(&mut decoder.target(&mut chunk), &out);
        let mut controls = Vec::new();
        while let Some(Item::Control(control)) = decoder.next(&mut chunk).expect("requests are well formed") {
            controls.push(control);
        }
        controls
    }

    fn subscribes(number: u32, selector: &str) -> Control {
        let Subscription { selector, overflow, observer, .. } = to(selector);
        let selector = selector.to_wire();
        Subscribe { subscription: number, selector, overflow, observer, extensions: Vec::new() }.into()
    }

    fn unsubscribes(subscription: u32) -> Control {
        Unsubscribe { subscription, extensions: Vec::new() }.into()
    }

    /// A subscriber to the channel `a`, which has the id 1 and the subscription 0.
    fn joined() -> Subscriber {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        subscriber
    }

    /// Bytes arrive while a request waits for its answer.
    fn arrive(subscriber: &mut Subscriber, controls: &[Control], frames: &[u8]) {
        let mut wire = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut wire).expect("encoded"));
        wire.extend_from_slice(frames);
        feed_bytes(subscriber, &wire);
    }

    fn next_payload(subscriber: &mut Subscriber) -> (Option<String>, Vec<u8>) {
        let (received, channel) = next(subscriber);
        assert_eq!(received, Received::Frame);
        (channel, subscriber.frame().expect("found").payload.to_vec())
    }

    #[test]
    fn a_subscription_that_is_declined_in_the_handshake_ends_it() {
        let declined = |code| declined(kind::SUBSCRIBE, 0, code);
        let limit = accept(&mut on(&["a"]), &[welcome(), declined(RefusedCode::Channels)]);
        assert_eq!(limit, Err(Ended::Refused(Refused::new(RefusedCode::Channels, "patterns"))));
        let unsupported = accept(&mut on(&["a.*"]), &[welcome(), declined(RefusedCode::Unsupported)]);
        assert_eq!(unsupported, Err(Ended::Unsupported { what: "patterns".into(), version: "9.9.9".into() }));
        // The next daemon may not have that limit.
        let mut subscriber = joined();
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), declined(RefusedCode::Channels)]).expect_err("declined");
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
    }

    #[test]
    fn a_subscriber_without_subscriptions_is_ready_at_once() {
        let mut subscriber = on(&[]);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        assert!(subscriber.is_ready());
        let change = subscriber.subscribe(to("a"));
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
        arrive(&mut subscriber, &[subscribed(0), named(1, "a")], &frame(1, 0, b"x"));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(next_payload(&mut subscriber), (Some("a".into()), b"x".to_vec()));
    }

    #[test]
    fn a_pattern_covers_channels_as_they_appear_and_its_gap_names_it() {
        let mut subscriber = on(&["a.*"]);
        accept(&mut subscriber, &[welcome(), subscribed(0)]).expect("ok");
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a.*")]);
        arrive(&mut subscriber, &[named(1, "a.b"), named(2, "a.*")], &[frame(2, 0, b"x"), frame(1, 0, b"y")].concat());
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a.*".into())), "a channel of that name");
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a.b".into())));
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(3, "a.c")]).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), None));
        assert_eq!(subscriber.pattern().map(ChannelPattern::as_str), Some("a.*"));
        feed_bytes(&mut subscriber, &frame(3, 0, b"z"));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a.c".into())));
        assert_eq!(subscriber.pattern(), None);
        feed(&mut subscriber, &[named(4, "a.b.c")]).expect("ready");
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(kind::NAMED)), "the pattern does not cover it");
    }

    #[test]
    fn what_arrives_before_an_answer_is_kept_in_order() {
        let mut subscriber = joined();
        arrive(&mut subscriber, &[], &[frame(1, 0, b"0"), frame(1, 1, b"1")].concat());
        assert_eq!(next_payload(&mut subscriber).1, b"0", "the rest of the run is not overtaken either");
        let change = subscriber.subscribe(to("b"));
        assert_eq!(requests(&mut subscriber), [subscribes(1, "b")]);
        arrive(&mut subscriber, &[lagged(1, 7), named(1, ""), named(5, "a")], &frame(5, 9, b"9"));
        assert_eq!(subscriber.collect(change), Ok(None));
        arrive(&mut subscriber, &[subscribed(1), named(1, "b")], &[frame(1, 0, b"b"), frame(5, 10, b"10")].concat());
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)), "it stays so");
        let a = || Some("a".to_owned());
        assert_eq!(next_payload(&mut subscriber), (a(), b"1".to_vec()));
        assert_eq!(next(&mut subscriber), (Received::Lagged(Some(7)), a()));
        assert_eq!(next_payload(&mut subscriber), (a(), b"9".to_vec()));
        assert_eq!(next_payload(&mut subscriber), (Some("b".into()), b"b".to_vec()));
        assert_eq!(next_payload(&mut subscriber), (a(), b"10".to_vec()));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        assert_eq!((subscriber.queue.bytes, subscriber.early.bytes), (0, 0));
    }

    #[test]
    fn an_answer_that_no_call_waits_for_takes_effect() {
        let mut subscriber = joined();
        let abandoned = subscriber.subscribe(to("b"));
        arrive(&mut subscriber, &[subscribed(1), named(2, "b")], &frame(2, 0, b"x"));
        assert_eq!(next_payload(&mut subscriber), (Some("b".into()), b"x".to_vec()));
        assert_eq!(subscriber.subscribe(to("b")), abandoned, "the same request");
        assert_eq!(subscriber.collect(abandoned), Ok(Some(Outcome::Done)));
        assert_eq!(requests(&mut subscriber), [subscribes(1, "b")], "it was sent once");
        let declined_later = subscriber.subscribe(to("c"));
        arrive(&mut subscriber, &[declined(kind::SUBSCRIBE, 2, RefusedCode::Channels)], &[]);
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        assert!(subscriber.selectors().eq([&to("a").selector, &to("b").selector]));
        assert_ne!(subscriber.subscribe(to("c")), declined_later, "another request, with another number");
    }

    #[test]
    fn a_request_that_is_declined_changes_nothing() {
        let mut subscriber = joined();
        let change = subscriber.subscribe(to("b"));
        let answer = Declined::new(kind::SUBSCRIBE, 1, RefusedCode::Channels, "too many");
        arrive(&mut subscriber, &[answer.clone().into()], &frame(1, 0, b"x"));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Declined(answer))));
        assert_eq!(next_payload(&mut subscriber), (Some("a".into()), b"x".to_vec()));
        // Nor does the end of a subscription that an old daemon does not know how to end.
        let change = subscriber.unsubscribe(&to("a").selector).expect("there is one");
        arrive(&mut subscriber, &[declined(kind::UNSUBSCRIBE, 0, RefusedCode::Unsupported)], &frame(1, 1, b"y"));
        assert!(matches!(subscriber.collect(change), Ok(Some(Outcome::Declined(_)))));
        assert_eq!(next_payload(&mut subscriber), (Some("a".into()), b"y".to_vec()));
        assert!(subscriber.selectors().eq([&to("a").selector]));
        requests(&mut subscriber);
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
    }

    #[test]
    fn a_request_outlives_its_connection_and_is_answered_once() {
        let mut subscriber = joined();
        let change = subscriber.subscribe(to("b"));
        arrive(&mut subscriber, &[], &frame(1, 0, b"before"));
        assert_eq!(subscriber.collect(change), Ok(None));
        arrive(
            &mut subscriber,
            &[Control::Goodbye(control::Goodbye { reason: String::new(), extensions: vec![] })],
            &[],
        );
        assert_eq!(subscriber.collect(change), Err(Ended::Goodbye));
        subscriber.disconnected();
        assert_eq!(subscriber.collect(change), Ok(None), "it waits for the next connection");
        accept(&mut subscriber, &[welcome(), subscribed(0), named(2, "a")]).expect("ok");
        assert!(!subscriber.is_ready());
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a"), subscribes(1, "b")]);
        arrive(&mut subscriber, &[], &frame(2, 0, b"after"));
        subscriber.received().expect("ok");
        assert_eq!(next_payload(&mut subscriber).1, b"before", "what had arrived is not lost");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        feed(&mut subscriber, &[subscribed(1), named(3, "b")]).expect("ok");
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next_payload(&mut subscriber).1, b"after");
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "it has joined b only now, so that there is no gap");
        let next_change = subscriber.subscribe(to("c"));
        subscriber.disconnected();
        let answers = [welcome(), subscribed(0), declined(kind::SUBSCRIBE, 2, RefusedCode::Channels), subscribed(1)];
        accept(&mut subscriber, &answers).expect("the others have joined");
        assert!(matches!(subscriber.collect(next_change), Ok(Some(Outcome::Declined(_)))));
        assert!(subscriber.is_ready());
    }

    #[test]
    fn a_connection_that_is_refused_withdraws_what_was_never_confirmed() {
        let mut subscriber = joined();
        let change = subscriber.subscribe(to("a.*"));
        let refused = Control::Refused(Refused::new(RefusedCode::Unsupported, "patterns"));
        arrive(&mut subscriber, std::slice::from_ref(&refused), &[]);
        assert!(matches!(subscriber.collect(change), Err(Ended::Unsupported { .. })));
        requests(&mut subscriber);
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
        subscriber.subscribe(to("b.*"));
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), refused]).expect_err("refused");
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert!(subscriber.is_ready(), "the daemon serves it without the pattern");
    }

    #[test]
    fn what_was_accepted_before_the_end_of_a_subscription_arrives() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), subscribed(1), named(1, "a"), named(2, "b")]).expect("ok");
        requests(&mut subscriber);
        let b = to("b").selector;
        let change = subscriber.unsubscribe(&b).expect("there is one");
        assert_eq!(requests(&mut subscriber), [unsubscribes(1)]);
        assert_eq!(subscriber.unsubscribe(&b), Some(change), "the same request");
        assert!(subscriber.selectors().eq([&to("a").selector]));
        arrive(&mut subscriber, &[], &[frame(2, 0, b"b"), frame(1, 0, b"a")].concat());
        arrive(&mut subscriber, &[lagged(2, 3), unsubscribed(1)], &frame(1, 1, b"a"));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(subscriber.unsubscribe(&b), None);
        assert!(requests(&mut subscriber).is_empty());
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("b".into())));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        assert_eq!(next(&mut subscriber), (Received::Lagged(Some(3)), Some("b".into())));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        assert!(subscriber.names.keys().eq(&[ChannelId(1)]), "names that are no longer used are forgotten");
        feed_bytes(&mut subscriber, &frame(2, 1, b"b"));
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(KIND_PUBLISH)));
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn a_channel_that_another_subscription_covers_goes_on() {
        let mut subscriber = on(&["a", "**"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), subscribed(1), named(2, "b")]).expect("ok");
        let change = subscriber.unsubscribe(&to("**").selector).expect("there is one");
        arrive(&mut subscriber, &[unsubscribed(1)], &frame(1, 0, b"x"));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(next_payload(&mut subscriber), (Some("a".into()), b"x".to_vec()));
        feed(&mut subscriber, &[named(2, "")]).expect("ready");
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "the daemon may name what has ended");
    }

    #[test]
    fn the_end_of_a_request_under_way_waits_for_its_answer() {
        let mut subscriber = joined();
        let b = to("b").selector;
        subscriber.subscribe(to("b"));
        let end = subscriber.unsubscribe(&b).expect("requested");
        assert_eq!(requests(&mut subscriber), [subscribes(1, "b")], "a number that is declined must not be ended");
        arrive(&mut subscriber, &[declined(kind::SUBSCRIBE, 1, RefusedCode::Channels)], &[]);
        assert_eq!(subscriber.collect(end), Ok(Some(Outcome::Done)));
        subscriber.subscribe(to("b"));
        let end = subscriber.unsubscribe(&b).expect("requested");
        arrive(&mut subscriber, &[subscribed(2), named(2, "b")], &[]);
        assert_eq!(subscriber.collect(end), Ok(None));
        assert_eq!(requests(&mut subscriber), [subscribes(2, "b"), unsubscribes(2)]);
        // Wanted again: the daemon carries requests out in order.
        let change = subscriber.subscribe(to("b"));
        assert_eq!(requests(&mut subscriber), [subscribes(3, "b")]);
        arrive(&mut subscriber, &[unsubscribed(2), subscribed(3), named(2, "b")], &frame(2, 0, b"x"));
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(next_payload(&mut subscriber), (Some("b".into()), b"x".to_vec()));
        // Not wanted, and wanted again, before the answer.
        subscriber.subscribe(to("c"));
        subscriber.unsubscribe(&to("c").selector);
        let change = subscriber.subscribe(to("c"));
        arrive(&mut subscriber, &[subscribed(4)], &[]);
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(requests(&mut subscriber), [subscribes(4, "c")]);
    }

    #[test]
    fn the_end_of_a_subscription_is_certain_when_the_connection_is_gone() {
        for is_confirmed in [true, false] {
            let mut subscriber = joined();
            subscriber.subscribe(to("b"));
            if is_confirmed {
                arrive(&mut subscriber, &[subscribed(1)], &[]);
                assert_eq!(next(&mut subscriber).0, Received::Nothing);
            }
            let end = subscriber.unsubscribe(&to("b").selector).expect("there is one");
            subscriber.disconnected();
            assert_eq!(subscriber.collect(end), Ok(Some(Outcome::Done)));
            requests(&mut subscriber);
            let never_requested = subscriber.subscribe(to("c"));
            assert_eq!(subscriber.collect(never_requested), Ok(None));
            let end = subscriber.unsubscribe(&to("c").selector).expect("there is one");
            assert_eq!(subscriber.collect(end), Ok(Some(Outcome::Done)));
            accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
            assert_eq!(requests(&mut subscriber), [subscribes(0, "a")]);
        }
    }

    #[test]
    fn changes_during_the_handshake_are_a_part_of_it() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0)]).expect("ok");
        requests(&mut subscriber);
        subscriber.subscribe(to("c"));
        subscriber.unsubscribe(&to("a").selector);
        subscriber.unsubscribe(&to("b").selector);
        assert_eq!(requests(&mut subscriber), [subscribes(2, "c"), unsubscribes(0)]);
        feed(&mut subscriber, &[named(1, "a"), subscribed(1)]).expect("ok");
        assert!(!subscriber.is_ready());
        feed(&mut subscriber, &[subscribed(2), named(3, "c")]).expect("ok");
        assert!(subscriber.is_ready());
        assert_eq!(requests(&mut subscriber), [unsubscribes(1)]);
        arrive(&mut subscriber, &[unsubscribed(0), unsubscribed(1)], &frame(3, 0, b"x"));
        assert_eq!(next_payload(&mut subscriber), (Some("c".into()), b"x".to_vec()));
        assert!(subscriber.selectors().eq([&to("c").selector]));
    }

    #[test]
    fn no_more_is_kept_for_an_answer_than_its_limit_and_nothing_is_lost() {
        let mut subscriber = joined();
        let change = subscriber.subscribe(to("b"));
        let payload = vec![7; 1 << 20];
        let (mut sent, mut received) = (0, 0);
        let full = loop {
            receive_in_pieces_for(&mut subscriber, &frame(1, sent, &payload), change);
            sent += 1;
            match subscriber.collect(change).expect("well formed") {
                None => {}
                outcome => break outcome,
            }
        };
        assert_eq!(full, Some(Outcome::Full));
        assert!(subscriber.queue.bytes < HELD_BYTES_MAX + (2 << 20), "{}", subscriber.queue.bytes);
        assert!(usize::try_from(sent).expect("small") * payload.len() + (2 << 20) > HELD_BYTES_MAX);
        for _ in 0..3 {
            assert_eq!(next(&mut subscriber).0, Received::Frame);
            received += 1;
        }
        arrive(&mut subscriber, &[subscribed(1)], &[]);
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)), "there is room again");
        while next(&mut subscriber).0 == Received::Frame {
            assert_eq!(subscriber.frame().expect("found").sequence, received);
            received += 1;
        }
        assert_eq!(received, sent);
    }

    /// Reads `wire`, and looks for the answer to `change`.
    fn receive_in_pieces_for(subscriber: &mut Subscriber, mut wire: &[u8], change: Change) {
        while !wire.is_empty() {
            let mut target = subscriber.target();
            let size = bytes::BufMut::remaining_mut(&target).min(wire.len());
            bytes::BufMut::put_slice(&mut target, &wire[..size]);
            wire = &wire[size..];
            let _ = subscriber.collect(change).expect("the stream is well formed");
        }
    }

    #[test]
    fn answers_without_a_request_end_the_connection() {
        for (answer, kind) in [
            (subscribed(0), kind::SUBSCRIBED),
            (subscribed(7), kind::SUBSCRIBED),
            (unsubscribed(0), kind::UNSUBSCRIBED),
            (declined(kind::SUBSCRIBE, 0, RefusedCode::Channels), kind::DECLINED),
            (declined(kind::UNSUBSCRIBE, 0, RefusedCode::Channels), kind::DECLINED),
            (declined(kind::OPEN, 0, RefusedCode::Channels), kind::DECLINED),
        ] {
            let mut subscriber = joined();
            arrive(&mut subscriber, &[answer], &[]);
            assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(kind)));
        }
    }

    #[test]
    fn external_messages_are_found_like_frames() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        subscriber.disconnected();
        subscriber.detached();
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())), "a change of carrier is a gap");
        let payload = Bytes::from_static(b"posted");
        subscriber.deliver(External::Message { sender: SenderId::new(1, 2), sequence: 4, payload: payload.clone() });
        subscriber.deliver(External::Gap);
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        let found = subscriber.frame().expect("found");
        assert_eq!((found.sequence, found.payload), (4, &payload[..]));
        assert_eq!(subscriber.own(found.payload).as_ptr(), payload.as_ptr());
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Lagged(None), "and so is the way back");
    }

    #[test]
    fn memory_is_shared_only_where_it_is_used() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"small"));
        assert_eq!(next(&mut subscriber).0, Received::Frame);
        let payload = subscriber.frame().expect("found").payload;
        let own = subscriber.own(payload);
        assert_eq!(&own[..], b"small");
        assert_ne!(own.as_ptr(), payload.as_ptr(), "five bytes do not pin a chunk");
        let sent = frame(1, 1, &[7; 300_000]);
        assert_eq!(receive_in_pieces(&mut subscriber, &sent[..sent.len() - 1], &[usize::MAX]).len(), 0);
        feed_bytes(&mut subscriber, &sent[sent.len() - 1..]);
        assert_eq!(next(&mut subscriber).0, Received::Frame);
        let payload = subscriber.frame().expect("found").payload;
        assert_eq!(subscriber.own(payload).as_ptr(), payload.as_ptr(), "most of what it pins");
        assert_ne!(subscriber.own(&payload[..100_000]).as_ptr(), payload.as_ptr());
    }

    /// Reads `wire` in pieces of these sizes, repeatedly, as a link does; a size of 0 is a read that finds nothing. Returns the
    /// payloads.
    fn receive_in_pieces(subscriber: &mut Subscriber, wire: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let (mut rest, mut payloads) = (wire, Vec::new());
        for &size in sizes.iter().cycle() {
            while next(subscriber).0 == Received::Frame {
                payloads.push(subscriber.frame().expect("found").payload.to_vec());
            }
            if rest.is_empty() {
                break;
            }
            let mut target = subscriber.target();
            let size = size.min(bytes::BufMut::remaining_mut(&target)).min(rest.len());
            bytes::BufMut::put_slice(&mut target, &rest[..size]);
            rest = &rest[size..];
            match size {
                0 => _ = subscriber.has_drained(),
                size => subscriber.has_read(size),
            }
        }
        payloads
    }

    #[test]
    fn a_read_that_finds_nothing_loses_nothing_wherever_it_is() {
        let payloads: Vec<Vec<u8>> = (0..200_usize).map(|n| vec![n.to_le_bytes()[0]; n * n * 7 % 70_000]).collect();
        let wire: Vec<u8> = (0..).zip(&payloads).flat_map(|(n, payload)| frame(1, n, payload)).collect();
        for sizes in [&[1_000_000][..], &[1_000_000, 0], &[100_000, 0, 7], &[16_384, 16_384, 0], &[9_999, 0, 0, 77_777]]
        {
            let mut subscriber = on(&["a"]);
            accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
            assert!(receive_in_pieces(&mut subscriber, &wire, sizes) == payloads, "{sizes:?}");
        }
    }

    #[test]
    fn buffers_grow_while_reads_fill_them_and_shrink_when_nothing_arrives() {
        const SMALL: usize = broadcaster_protocol::decode::CONSUMER_CHUNK_BYTES_MIN;
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        while !subscriber.has_drained() {}
        assert_eq!(subscriber.target().limit(), SMALL);
        let wire: Vec<u8> = (0..10_000).flat_map(|n| frame(1, n, &[0; 100])).collect();
        assert_eq!(receive_in_pieces(&mut subscriber, &wire, &[usize::MAX]).len(), 10_000);
        assert_eq!(subscriber.target().limit(), broadcaster_protocol::decode::CONSUMER_CHUNK_BYTES);
        assert!(!subscriber.has_drained(), "as much may arrive again");
        assert_eq!(subscriber.session.held_bytes(), 0, "while the connection waits for it");
        assert!(!subscriber.has_drained(), "less than that has arrived");
        assert!(subscriber.has_drained(), "and still less");
        assert_eq!(subscriber.target().limit(), SMALL);
    }

    // ---- retained messages ----

    /// A subscriber that has so many messages replayed.
    fn replaying(selectors: &[&str], replay: u32) -> Subscriber {
        let with_replay = |selector: &&str| Subscription { replay, ..to(selector) };
        Subscriber::new(selectors.iter().map(with_replay).collect(), "test", 7)
    }

    fn retained(id: u32, count: u32) -> Control {
        Control::Retained(control::Retained { id, count, extensions: Vec::new() })
    }

    fn retain(channel: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("small");
        let header = Header::retain(ChannelId(channel), SenderId::new(9, 1), sequence, len);
        [header.as_bytes(), payload].concat()
    }

    fn encoded(controls: &[Control]) -> Vec<u8> {
        let mut wire = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut wire).expect("encoded"));
        wire
    }

    /// Number of each message, and whether it is replayed; gaps as their counts.
    fn all(subscriber: &mut Subscriber) -> Vec<Result<(u64, bool), Option<u64>>> {
        let mut all = Vec::new();
        loop {
            match subscriber.poll_next().expect("the stream is well formed") {
                Received::Frame => {
                    all.push(Ok((subscriber.frame().expect("found").sequence, subscriber.is_replayed())));
                }
                Received::Lagged(count) => all.push(Err(count)),
                Received::Nothing => return all,
            }
        }
    }

    #[test]
    fn replay_is_requested_if_it_is_wanted() {
        let mut subscriber = replaying(&["a"], 3);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        let [Control::Subscribe(subscribe)] = &requests(&mut subscriber)[..] else { panic!("it subscribes") };
        assert_eq!(subscribe.extensions, [Extension::replay(3)]);
        let change = subscriber.subscribe(to("b"));
        let [Control::Subscribe(subscribe)] = &requests(&mut subscriber)[..] else { panic!("it subscribes") };
        assert!(subscribe.extensions.is_empty() && subscriber.collect(change) == Ok(None));
    }

    #[test]
    fn the_first_messages_on_a_channel_are_replayed_as_announced() {
        let mut subscriber = replaying(&["a", "b"], 3);
        let begin =
            [welcome(), subscribed(0), named(1, "a"), retained(1, 2), subscribed(1), named(2, "b"), retained(2, 0)];
        accept(&mut subscriber, &begin).expect("ok");
        assert!(subscriber.is_ready());
        let frames =
            [retain(1, 4, b"x"), retain(1, 7, b"y"), retain(1, 8, b"live"), frame(1, 9, b""), retain(2, 0, b"")];
        feed_bytes(&mut subscriber, &frames.concat());
        assert_eq!(all(&mut subscriber), [(4, true), (7, true), (8, false), (9, false), (0, false)].map(Ok));
        assert!(!subscriber.is_replayed() && !subscriber.is_retained(), "nothing is found");
        feed_bytes(
            &mut subscriber,
            &[retain(1, 10, b"live"), encoded(&[retained(1, 1)]), retain(1, 3, b"again")].concat(),
        );
        assert_eq!(all(&mut subscriber), [(10, false), (3, true)].map(Ok), "declared again");
        feed_bytes(&mut subscriber, &retain(1, 11, b"value"));
        assert_eq!(subscriber.poll_next(), Ok(Received::Frame));
        assert!(subscriber.is_retained() && !subscriber.is_replayed());
        let payload = subscriber.frame().expect("found").payload;
        assert_eq!(subscriber.own(payload), b"value"[..]);
    }

    #[test]
    fn frames_that_are_replayed_before_the_last_confirmation_are_marked_in_their_places() {
        let mut subscriber = replaying(&["a", "b"], 1);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), retained(1, 1)]).expect("ok");
        let frames = [retain(1, 4, b"replayed"), retain(1, 5, b"live"), retain(1, 6, b"live")].concat();
        receive_early(&mut subscriber, &frames);
        feed(&mut subscriber, &[subscribed(1), named(2, "b"), retained(2, 0), retained(1, 1)]).expect("ok");
        feed_bytes(&mut subscriber, &retain(1, 2, b"declared again"));
        assert_eq!(all(&mut subscriber), [(4, true), (5, false), (6, false), (2, true)].map(Ok));
    }

    #[test]
    fn frames_that_are_replayed_before_an_answer_are_marked_in_their_places() {
        let mut subscriber = replaying(&["a"], 1);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), retained(1, 0)]).expect("ok");
        requests(&mut subscriber);
        let change = subscriber.subscribe(Subscription { replay: 1, ..to("b") });
        let answer = [subscribed(1), named(2, "b"), retained(2, 1)];
        feed_bytes(&mut subscriber, &[retain(1, 0, b"live"), encoded(&answer), retain(2, 8, b"value")].concat());
        assert_eq!(subscriber.collect(change), Ok(Some(Outcome::Done)));
        assert_eq!(all(&mut subscriber), [(0, false), (8, true)].map(Ok));
    }

    #[test]
    fn replayed_messages_that_are_lost_count_as_announced() {
        let mut subscriber = replaying(&["a"], 3);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), retained(1, 3)]).expect("ok");
        feed_bytes(&mut subscriber, &[encoded(&[lagged(1, 2)]), retain(1, 4, b""), retain(1, 5, b"")].concat());
        assert_eq!(all(&mut subscriber), [Err(Some(2)), Ok((4, true)), Ok((5, false))]);
        feed_bytes(&mut subscriber, &[encoded(&[retained(1, 1), lagged(1, 9)]), retain(1, 6, b"")].concat());
        assert_eq!(all(&mut subscriber), [Err(Some(9)), Ok((6, false))]);
    }

    #[test]
    fn what_was_received_before_is_not_replayed_after_a_reconnection() {
        let mut subscriber = replaying(&["a"], 2);
        let begin = |count| [welcome(), subscribed(0), named(1, "a"), retained(1, count)];
        accept(&mut subscriber, &begin(1)).expect("ok");
        let frames = [retain(1, 3, b"replayed"), retain(1, 4, b"live"), frame(1, 5, b"")].concat();
        feed_bytes(&mut subscriber, &frames);
        assert_eq!(all(&mut subscriber), [(3, true), (4, false), (5, false)].map(Ok));
        subscriber.disconnected();
        accept(&mut subscriber, &begin(2)).expect("ok");
        feed_bytes(&mut subscriber, &[retain(1, 4, b"live"), retain(1, 6, b"new")].concat());
        assert_eq!(all(&mut subscriber), [Err(None), Ok((6, true))]);
        subscriber.disconnected();
        accept(&mut subscriber, &begin(0)).expect("ok");
        let again = [encoded(&[retained(1, 1)]), retain(1, 6, b"declared again"), frame(1, 7, b"live")];
        feed_bytes(&mut subscriber, &again.concat());
        assert_eq!(all(&mut subscriber), [Err(None), Ok((7, false))], "it has that, too");
        feed_bytes(&mut subscriber, &retain(1, 6, b"a sender that has begun anew"));
        assert_eq!(all(&mut subscriber), [Ok((6, false))], "nothing that is live is ever left out");
        subscriber.disconnected();
        accept(&mut subscriber, &begin(2)).expect("ok");
        feed_bytes(&mut subscriber, &[retain(1, 3, b""), retain(1, 4, b"")].concat());
        assert_eq!(all(&mut subscriber), [Err(None), Ok((3, true)), Ok((4, true))], "only the last two are remembered");
    }

    #[test]
    fn joining_a_channel_anew_replays_its_value() {
        let mut subscriber = replaying(&["a"], 1);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a"), retained(1, 1)]).expect("ok");
        feed_bytes(&mut subscriber, &retain(1, 3, b"value"));
        assert_eq!(all(&mut subscriber), [Ok((3, true))]);
        let left = subscriber.unsubscribe(&to("a").selector).expect("it has joined");
        feed_bytes(&mut subscriber, &encoded(&[unsubscribed(0)]));
        assert_eq!(subscriber.collect(left), Ok(Some(Outcome::Done)));
        let joined = subscriber.subscribe(Subscription { replay: 1, ..to("a") });
        let answer = [subscribed(1), named(1, "a"), retained(1, 1)];
        feed_bytes(&mut subscriber, &[encoded(&answer), retain(1, 3, b"value")].concat());
        assert_eq!(subscriber.collect(joined), Ok(Some(Outcome::Done)));
        assert_eq!(all(&mut subscriber), [Ok((3, true))]);
    }

    #[test]
    fn nothing_is_remembered_without_replay() {
        let mut subscriber = joined();
        feed_bytes(&mut subscriber, &[retain(1, 0, b"x"), retain(1, 1, b"")].concat());
        assert_eq!(all(&mut subscriber), [(0, false), (1, false)].map(Ok));
        assert!(!subscriber.seen.contains(&ChannelName::new("a").expect("a name"), (SenderId::new(9, 1), 0)));
    }

    #[test]
    fn replay_on_an_unknown_channel_ends_the_connection() {
        let mut subscriber = joined();
        feed(&mut subscriber, &[retained(0, 0)]).expect("the answer to an observer of a channel that does not exist");
        assert_eq!(subscriber.poll_next(), Ok(Received::Nothing));
        feed(&mut subscriber, &[retained(9, 1)]).expect("arrived");
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(kind::RETAINED)));
    }
}
