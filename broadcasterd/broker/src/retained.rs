//! Retained messages: what is kept of each channel for later subscriptions, for how long, and its replay. It never decides how a message
//! reaches those that listen already.
//!
//! ```text
//! Retain    -> the channel's history, oldest first; the newest is its value
//! Subscribe -> Named, Retained, the newest of the history; in one event, so that the next message accepted is the next delivered
//! Redeclare -> the history of a channel that has had none, and at once to the subscribers that requested replay
//! ```
//!
//! A retained message is copied once, into memory of its own, because it may stay long after the chunk that it was read into. Its span is then
//! shared like any other: a replay queues references. Live delivery does not know of it; a Retain frame goes through `delivery` like a
//! Publish frame. Replayed messages are queued like messages within credit: they drop nothing, and nothing but the memory budget drops
//! them before they are behind others. No connection can give up retained memory; hence its own limit, a quarter of that of the ledger at most.
//!
//! A history that cannot take a new message is emptied, because an older message must not pass for the value. A channel remembers that
//! it has had a history, so while it exists, a message that is declared again never wins against one that was retained, cleared or has
//! expired since.

use crate::broker::Broker;
use crate::delivery::named;
use crate::effect::Effects;
use crate::event::{ConnId, Moment};
use crate::limits::{Limits, counted};
use crate::memory::{Charge, Ledger};
use crate::outbox::{Span, Terms};
use crate::registry::Channel;
use broadcaster_protocol::control::{Control, Extensions, RefusedCode, Retained, Superseded, extension};
use broadcaster_protocol::frame::extent;
use broadcaster_protocol::meta::Retention;
use broadcaster_protocol::{ChannelId, Header, Run, SenderId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Upper bound of the bookkeeping for each message beside its span: a slot of a queue that may be half empty, and one in the index of
/// deadlines, whose nodes may be half empty too.
const MESSAGE_BYTES: usize = 2 * (size_of::<Message>() + size_of::<(Moment, ChannelId, u64)>());

/// A number of a redeclared message that is so far before the one that is due would be one after it.
const SEQUENCES_BEFORE_MAX: u64 = 1 << 63;

/// Why a message without a body is not retained.
const NO_MEMORY: &str = "the daemon had no memory for it";

/// The message of a sender with this sequence number.
pub(crate) type Identity = (SenderId, u64);

/// A retained message.
#[derive(Debug)]
struct Message {
    /// Distinguishes it from all others: the numbers of a history rise.
    number: u64,
    identity: Identity,
    span: Rc<Span>,
    accepted: Moment,
    expires: Option<Moment>,
}

impl Message {
    fn bytes(&self) -> usize {
        self.span.held_bytes() + MESSAGE_BYTES
    }
}

/// What is retained of all channels.
#[derive(Debug)]
pub(crate) struct Histories {
    /// Of the channels that have one, oldest message first. None is empty.
    histories: BTreeMap<ChannelId, VecDeque<Message>>,
    /// When the messages that do not stay expire.
    deadlines: BTreeSet<(Moment, ChannelId, u64)>,
    messages: usize,
    /// Of spans and bookkeeping.
    bytes: usize,
    last: u64,
    /// For the bookkeeping: each span has its own charge.
    charge: Charge,
}

/// The value of a channel, and the size of its history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistorySnapshot {
    /// Messages that are retained, at least 1.
    pub messages: usize,
    /// Bytes of memory that they take.
    pub bytes: usize,
    /// The sender of the newest of them, which is the value of the channel.
    pub sender: SenderId,
    /// Time since that was accepted.
    pub age: Duration,
    /// Time until it expires; `None` if it stays.
    pub lifetime: Option<Duration>,
}

impl Histories {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self {
            histories: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            messages: 0,
            bytes: 0,
            last: 0,
            charge: ledger.charge(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.histories.is_empty()
    }

    /// Channels with a history, messages and bytes of memory.
    pub(crate) fn totals(&self) -> (usize, usize, usize) {
        (self.histories.len(), self.messages, self.bytes)
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|&(deadline, ..)| deadline)
    }

    pub(crate) fn snapshot(&self, now: Moment, id: ChannelId) -> Option<HistorySnapshot> {
        let history = self.histories.get(&id)?;
        let value = history.back()?;
        Some(HistorySnapshot {
            messages: history.len(),
            bytes: history.iter().map(Message::bytes).sum(),
            sender: value.identity.0,
            age: now.since(value.accepted),
            lifetime: value.expires.map(|expires| expires.since(now)),
        })
    }

    /// The newest message of the channel.
    fn value(&self, id: ChannelId) -> Option<Identity> {
        Some(self.histories.get(&id)?.back()?.identity)
    }

    /// The newest messages of the channel, at most `max`, oldest first.
    fn newest(&self, id: ChannelId, max: u32) -> Vec<Rc<Span>> {
        let Some(history) = self.histories.get(&id) else { return Vec::new() };
        let older = history.len().saturating_sub(usize::try_from(max).unwrap_or(usize::MAX));
        history.range(older..).map(|message| Rc::clone(&message.span)).collect()
    }

    /// Retains the message of `run`, or explains why not. Older messages of the channel make room for it.
    fn insert(
        &mut self,
        now: Moment,
        limits: &Limits,
        ledger: &Ledger,
        run: &Run,
        retention: Retention,
    ) -> Result<(), String> {
        let id = run.channel();
        let keep = usize::try_from(retention.keep).unwrap_or(usize::MAX);
        let (messages_max, channels_max) = (limits.retained_messages_max, limits.retained_channels_max);
        if keep > messages_max {
            return Err(format!("its history would keep {keep} messages; the limit is {messages_max}"));
        }
        if self.histories.len() >= channels_max && !self.histories.contains_key(&id) {
            let channels = counted(channels_max, "channel");
            return Err(format!("the daemon retains messages of {channels}, which is the limit"));
        }
        let bytes = Span::bytes_of(run.bytes().len()) + MESSAGE_BYTES;
        let bytes_max = limits.retained_bytes_effective();
        if bytes > bytes_max {
            let len = run.bytes().len();
            return Err(format!("it takes {bytes} bytes of memory with its {len} bytes; the limit is {bytes_max}"));
        }
        while self.histories.get(&id).is_some_and(|history| history.len() >= keep || self.bytes + bytes > bytes_max) {
            self.remove(id, 0);
        }
        if self.bytes + bytes > bytes_max {
            let taken = self.bytes;
            return Err(format!(
                "it takes {bytes} bytes of memory, and the messages of other channels take {taken} of {bytes_max}"
            ));
        }
        let lifetime = Some(retention.lifetime_ms).filter(|&lifetime_ms| lifetime_ms > 0);
        let expires = lifetime.map(|lifetime_ms| now.after(Duration::from_millis(lifetime_ms)));
        self.last += 1;
        let message = Message {
            number: self.last,
            identity: (run.sender(), run.first()),
            span: Span::new(run.to_retained(), ledger),
            accepted: now,
            expires,
        };
        self.deadlines.extend(expires.map(|expires| (expires, id, message.number)));
        self.messages += 1;
        self.bytes += message.bytes();
        self.charge.set(self.messages * MESSAGE_BYTES);
        self.histories.entry(id).or_default().push_back(message);
        Ok(())
    }

    /// Removes the message at the index of the channel's history.
    fn remove(&mut self, id: ChannelId, at: usize) {
        let Some(history) = self.histories.get_mut(&id) else { return };
        let Some(message) = history.remove(at) else { return };
        if history.is_empty() {
            self.histories.remove(&id);
        }
        if let Some(expires) = message.expires {
            self.deadlines.remove(&(expires, id, message.number));
        }
        self.messages -= 1;
        self.bytes -= message.bytes();
        self.charge.set(self.messages * MESSAGE_BYTES);
    }

    fn clear(&mut self, id: ChannelId) {
        while self.histories.contains_key(&id) {
            self.remove(id, 0);
        }
    }

    /// Removes a message that has expired; returns its channel, and which it was if it was the value.
    fn expire(&mut self, now: Moment) -> Option<(ChannelId, Option<Identity>)> {
        let &(_, id, number) = self.deadlines.first().filter(|&&(deadline, ..)| deadline <= now)?;
        let history = self.histories.get(&id)?;
        let at = history.binary_search_by_key(&number, |message| message.number).ok()?;
        let value = history.back().filter(|value| value.number == number).map(|value| value.identity);
        self.remove(id, at);
        Some((id, value))
    }

    /// The spans that it holds, as their addresses, with the memory charged for each.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let messages = self.histories.values().flatten();
        messages.map(|message| (Rc::as_ptr(&message.span).addr(), message.span.held_bytes()))
    }

    /// Bytes of bookkeeping, as they are charged.
    pub(crate) fn footprint(&self) -> usize {
        self.messages * MESSAGE_BYTES
    }

    /// Checks its counts and limits; returns the channels that have a history.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn invariants(&self, limits: &Limits) -> BTreeSet<ChannelId> {
        let (mut messages, mut bytes, mut deadlines) = (0, 0, BTreeSet::new());
        for (&id, history) in &self.histories {
            assert!((1..=limits.retained_messages_max).contains(&history.len()), "{} of {id:?}", history.len());
            assert!(history.iter().is_sorted_by(|one, next| one.number < next.number), "numbers of {id:?}");
            messages += history.len();
            bytes += history.iter().map(Message::bytes).sum::<usize>();
            deadlines.extend(history.iter().filter_map(|message| Some((message.expires?, id, message.number))));
        }
        assert_eq!((self.messages, self.bytes), (messages, bytes), "retained messages and their bytes");
        assert_eq!(self.deadlines, deadlines, "deadlines of retained messages");
        assert_eq!(self.charge.bytes(), self.footprint(), "the bookkeeping of retained messages");
        let bytes_max = limits.retained_bytes_effective();
        assert!(bytes <= bytes_max, "{bytes} bytes are retained; the limit is {bytes_max}");
        assert!(self.histories.len() <= limits.retained_channels_max, "{} histories", self.histories.len());
        self.histories.keys().copied().collect()
    }
}

impl Broker {
    /// Retains the messages that were accepted as `run`, or clears the history where one is empty. Returns why the last of them is not
    /// retained, if it is not.
    pub(crate) fn retain(&mut self, now: Moment, run: &Run, effects: &mut Effects) -> Option<String> {
        self.expire_retained(now, effects);
        let id = run.channel();
        let before = self.retained.value(id);
        let (mut rest, mut declined) = (run.clone(), None);
        while rest.messages() > 0 {
            let message = rest.split_front(extent(rest.bytes()).0, 1);
            let Some((retention, is_empty)) =
                message.front().map(|front| (front.metadata.retention(), front.payload.is_empty()))
            else {
                break;
            };
            declined = match is_empty {
                true => {
                    self.retained.clear(id);
                    None
                }
                false => self.keep(now, &message, retention).err(),
            };
        }
        self.turn_work += usize::try_from(run.messages()).unwrap_or(usize::MAX);
        self.superseded(now, id, before.filter(|&(sender, _)| sender != run.sender()), effects);
        if declined.is_some() {
            let last = run.first().wrapping_add(run.messages() - 1);
            self.superseded(now, id, Some((run.sender(), last)), effects);
        }
        self.note_history(now, id, effects);
        declined
    }

    /// A message that was to be retained was accepted without its body; returns why it is not retained.
    pub(crate) fn retain_discarded(&mut self, now: Moment, header: &Header, effects: &mut Effects) -> Option<String> {
        self.expire_retained(now, effects);
        let id = header.channel();
        let before = self.retained.value(id).filter(|&(sender, _)| sender != header.sender());
        self.retained.clear(id);
        self.superseded(now, id, before, effects);
        self.note_history(now, id, effects);
        if header.payload_bytes() == 0 {
            return None; // only its metadata was dropped
        }
        self.stats.retention_declined += 1;
        self.superseded(now, id, Some((header.sender(), header.sequence())), effects);
        Some(NO_MEMORY.to_owned())
    }

    /// Retains one message. If that is not possible, nothing of the channel is retained: an older message must not pass for its value.
    fn keep(&mut self, now: Moment, message: &Run, retention: Retention) -> Result<(), String> {
        let kept = self.retained.insert(now, &self.limits, &self.ledger, message, retention);
        if kept.is_err() {
            self.retained.clear(message.channel());
            self.stats.retention_declined += 1;
        }
        kept
    }

    /// A message that an earlier daemon retained becomes the history of its channel, unless that has had another.
    pub(crate) fn redeclare(&mut self, now: Moment, conn: ConnId, run: &Run, effects: &mut Effects) {
        let (id, identity) = (run.channel(), (run.sender(), run.first()));
        let Some(front) = run.front() else { return };
        let (retention, is_empty) = (front.metadata.retention(), front.payload.is_empty());
        if !self.may_redeclare(now, conn, id, identity, is_empty, effects) {
            return;
        }
        self.expire_retained(now, effects);
        let kept = match self.registry.channel(id).is_some_and(Channel::has_had_history) {
            false => self.keep(now, run, retention).map(|()| true),
            true if self.retained.value(id) == Some(identity) => Ok(false),
            true => Err("a newer message was retained on the channel, or its history was cleared".to_owned()),
        };
        self.note_history(now, id, effects);
        match &kept {
            Ok(true) => self.replay_to_subscribers(now, id, effects),
            Ok(false) => {}
            Err(_) => self.superseded(now, id, Some(identity), effects),
        }
        self.set_not_retained(conn, id, kept.err());
    }

    /// A message that was declared again has arrived without its body.
    pub(crate) fn redeclare_discarded(&mut self, now: Moment, conn: ConnId, header: &Header, effects: &mut Effects) {
        let (id, identity) = (header.channel(), (header.sender(), header.sequence()));
        let is_empty = header.payload_bytes() == 0;
        if self.may_redeclare(now, conn, id, identity, is_empty, effects) {
            self.stats.retention_declined += 1;
            self.superseded(now, id, Some(identity), effects);
            self.set_not_retained(conn, id, Some(NO_MEMORY.to_owned()));
        }
    }

    /// Whether the connection may declare this message again. If it is not about to end, it is refused otherwise.
    fn may_redeclare(
        &mut self,
        now: Moment,
        conn: ConnId,
        id: ChannelId,
        (sender, sequence): Identity,
        is_empty: bool,
        effects: &mut Effects,
    ) -> bool {
        let Some(connection) = self.connection(conn).filter(|connection| !connection.is_leaving()) else {
            return false;
        };
        let problem = match (connection.sender, connection.publications.get(&id)) {
            (None, _) => "a message was declared again before the Hello".to_owned(),
            (Some(own), _) if own != sender => {
                format!("a message that is declared again carries the sender {sender}, not {own}")
            }
            (Some(_), None) => format!("a message was declared again on channel {}, which is not open here", id.0),
            (Some(_), Some(_)) if is_empty => "a message that is declared again is empty".to_owned(),
            (Some(_), Some(publication)) => match publication.next.wrapping_sub(sequence) {
                1..=SEQUENCES_BEFORE_MAX => return true,
                _ => format!(
                    "a message that is declared again carries the sequence number {sequence}, which is not before {}",
                    publication.next
                ),
            },
        };
        self.refuse(now, conn, RefusedCode::Protocol, &problem, effects);
        false
    }

    /// Notes why the last message of the publication is not retained.
    fn set_not_retained(&mut self, conn: ConnId, id: ChannelId, reason: Option<String>) {
        let connection = self.connection(conn);
        if let Some(publication) = connection.and_then(|connection| connection.publications.get_mut(&id)) {
            publication.not_retained = reason;
        }
    }

    /// What has expired is retained no more.
    pub(crate) fn expire_retained(&mut self, now: Moment, effects: &mut Effects) {
        while let Some((id, value)) = self.retained.expire(now) {
            self.turn_work += 1;
            self.superseded(now, id, value, effects);
            self.note_history(now, id, effects);
        }
    }

    /// Notes whether the channel has a history now: a channel that nothing else keeps ends with it.
    fn note_history(&mut self, now: Moment, id: ChannelId, effects: &mut Effects) {
        let retains = self.retained.value(id).is_some();
        if let Some(ended) = self.registry.set_history(id, retains) {
            self.announce_end(now, &ended, effects);
        }
    }

    /// Informs the client that has retained the message, if it is connected and still has the channel open.
    fn superseded(&mut self, now: Moment, id: ChannelId, message: Option<Identity>, effects: &mut Effects) {
        let Some((sender, sequence)) = message else { return };
        let Some(&conn) = self.senders.get(&sender) else { return };
        if self.connection(conn).is_some_and(|connection| connection.publications.contains_key(&id)) {
            let superseded = Superseded { id: id.0, sequence, extensions: Vec::new() };
            self.reply(now, conn, &Control::Superseded(superseded), effects);
        }
    }

    /// Replays the channel to a subscription that begins to cover it. Its connection knows the name.
    pub(crate) fn replay(&mut self, now: Moment, conn: ConnId, id: ChannelId, terms: Terms, effects: &mut Effects) {
        let spans = self.retained.newest(id, terms.replay);
        let count = u32::try_from(spans.len()).unwrap_or(u32::MAX);
        self.announce(conn, &Control::Retained(Retained { id: id.0, count, extensions: Vec::new() }), effects);
        let room = self.room();
        self.change_waiting(now, conn, |connection, _| {
            spans.iter().for_each(|span| connection.outbox.push_credited(span, terms, room));
        });
        self.turn_work += spans.len();
        self.stats.messages_replayed += if terms.observer { 0 } else { spans.len() as u64 };
        if let Some(connection) = self.connection(conn) {
            connection.request_write(conn, effects);
        }
    }

    /// Replays a channel whose history has just begun to the subscribers that requested replay.
    fn replay_to_subscribers(&mut self, now: Moment, id: ChannelId, effects: &mut Effects) {
        let Some(channel) = self.registry.channel_mut(id) else { return };
        let (name, subscribers) = channel.name_and_subscribers_mut();
        let name = named(id, name);
        let mut wanting = Vec::new();
        for subscriber in subscribers.iter_mut().filter(|subscriber| subscriber.terms.replay > 0) {
            wanting.push((subscriber.conn, subscriber.terms, std::mem::replace(&mut subscriber.named, true)));
        }
        for (conn, terms, is_named) in wanting {
            if !is_named {
                self.announce(conn, &name, effects);
            }
            self.replay(now, conn, id, terms, effects);
        }
    }
}

/// How many retained messages of each channel a subscription requests.
pub(crate) fn replay_of(extensions: &Extensions) -> Result<u32, String> {
    let Some(extension) = extensions.iter().find(|extension| extension.id == extension::REPLAY) else { return Ok(0) };
    let number = <[u8; size_of::<u32>()]>::try_from(extension.data.as_slice());
    number.map(u32::from_le_bytes).map_err(|_| format!("a replay extension has {} bytes, not 4", extension.data.len()))
}
