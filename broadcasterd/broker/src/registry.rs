//! Channels, their ids and their subscribers. It knows nothing of messages that wait.
//!
//! A channel exists while it has a publication, a listener that subscribed to its name, or a history. Observers and subscriptions to patterns or to
//! all channels do not keep it; they are attached to each channel that they cover when it appears.

use crate::event::ConnId;
use crate::outbox::Terms;
use crate::patterns::Patterns;
use crate::presence::{Sighting, Watches};
use broadcaster_protocol::{ChannelId, ChannelName, ChannelPattern};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Which channels a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// The channel of this name.
    Name(ChannelName),
    /// Every channel.
    All,
    /// Every channel whose name the pattern covers.
    Pattern(ChannelPattern),
}

impl Selector {
    pub(crate) fn covers(&self, name: &ChannelName) -> bool {
        match self {
            Self::Name(covered) => covered == name,
            Self::Pattern(pattern) => pattern.covers(name),
            Self::All => true,
        }
    }
}

/// A connection that receives the messages of a channel: the subscription that decides how, if several cover the channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) conn: ConnId,
    pub(crate) terms: Terms,
    /// How many subscriptions the connection had made before this one.
    order: u64,
    /// The connection knows the name of the channel.
    pub(crate) named: bool,
}

impl Subscriber {
    pub(crate) fn new(conn: ConnId, terms: Terms, order: u64) -> Self {
        Self { conn, terms, order, named: false }
    }

    /// The lowest rank decides: a listener's before an observer's, then the first.
    pub(crate) fn rank(&self) -> (bool, u64) {
        (self.terms.observer, self.order)
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    name: ChannelName,
    subscribers: Vec<Subscriber>,
    /// Subscribers that are not observers.
    listeners: usize,
    publications: usize,
    /// Listeners that subscribed to its name.
    by_name: usize,
    /// Connections that wait for a number of listeners, with the numbers of their requests.
    counting: BTreeMap<(usize, ConnId), u32>,
    /// Messages of it are retained.
    has_history: bool,
    /// They have been, or were to be, or a client has cleared them.
    has_had_history: bool,
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    pub(crate) messages_lost: u64,
}

impl Channel {
    fn new(name: ChannelName) -> Self {
        Self {
            name,
            subscribers: Vec::new(),
            listeners: 0,
            publications: 0,
            by_name: 0,
            counting: BTreeMap::new(),
            has_history: false,
            has_had_history: false,
            messages_accepted: 0,
            bytes_accepted: 0,
            messages_lost: 0,
        }
    }

    pub(crate) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Its name, and the connections that receive its messages, each once, in no order.
    pub(crate) fn name_and_subscribers_mut(&mut self) -> (&ChannelName, &mut [Subscriber]) {
        (&self.name, &mut self.subscribers)
    }

    /// The connections that receive its messages, each once, in no order.
    pub(crate) fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// How many connections listen.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners
    }

    /// How many connections may publish.
    pub(crate) fn publications(&self) -> usize {
        self.publications
    }

    /// Whether messages of it have been retained or cleared, or were to be retained.
    pub(crate) fn has_had_history(&self) -> bool {
        self.has_had_history
    }

    fn is_unused(&self) -> bool {
        self.publications == 0 && self.by_name == 0 && !self.has_history
    }
}

/// What a subscription covers as it begins.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// The channel that its selector names, if that exists.
    pub(crate) named: Option<ChannelId>,
    /// The channels with a history that its connection did not receive before, if it requests replay.
    pub(crate) replayed: Vec<ChannelId>,
}

/// A channel that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) id: ChannelId,
    /// The connections that know its name.
    pub(crate) named: Vec<ConnId>,
}

/// A connection that has waited for the listeners that a channel has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) conn: ConnId,
    pub(crate) id: ChannelId,
    /// The number of its request.
    pub(crate) number: u32,
    pub(crate) listeners: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    ids: BTreeMap<ChannelName, ChannelId>,
    channels: BTreeMap<ChannelId, Channel>,
    last: u32,
    /// Subscriptions to all channels.
    wildcards: Vec<Subscriber>,
    patterns: Patterns,
    watches: Watches,
    /// Observers of one channel each, by its name, whether it exists or not.
    observers: BTreeMap<ChannelName, Vec<Subscriber>>,
    /// For each connection, the channels that it receives, and its position among their subscribers.
    positions: Vec<BTreeMap<ChannelId, usize>>,
    /// How many positions there are.
    attachments: usize,
    /// The connection of each inbox. Their ids are those of no channel.
    inboxes: BTreeMap<ChannelId, ConnId>,
    /// Channels with a listener more that some connection may have waited for.
    joined: Vec<ChannelId>,
    /// Units of work since the last [`take_work`](Self::take_work).
    work: usize,
}

impl Registry {
    /// Number of channels.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Number of subscriptions to all channels.
    pub(crate) fn wildcards(&self) -> usize {
        self.wildcards.len()
    }

    /// Subscriptions to patterns, and which of them cover a name.
    pub(crate) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// How many connections receive a channel, counted for each channel.
    pub(crate) fn attachments(&self) -> usize {
        self.attachments
    }

    /// How many there would be more with this subscription of the connection; without a connection, with a channel of this name.
    pub(crate) fn attachments_added(&mut self, conn: Option<ConnId>, selector: &Selector) -> usize {
        let received = conn.and_then(|conn| self.positions.get(conn.0));
        let is_new = |id: &ChannelId| received.is_none_or(|received| !received.contains_key(id));
        match selector {
            Selector::All => self.channels.len() - received.map_or(0, BTreeMap::len),
            Selector::Pattern(pattern) => {
                let (covered, work) = self.covered(pattern);
                let added = covered.iter().filter(|id| is_new(id)).count();
                self.work += work;
                added
            }
            Selector::Name(name) => match self.id_of(name) {
                Some(id) => usize::from(is_new(&id)),
                None => {
                    let mut conns: BTreeSet<_> = self.wildcards.iter().map(|subscriber| subscriber.conn).collect();
                    let work = self.patterns.each_covering(name, &mut |subscribers| conns.extend(subscribers.keys()));
                    conns.extend(self.observers.get(name).into_iter().flatten().map(|subscriber| subscriber.conn));
                    conns.extend(conn);
                    self.work += work + conns.len();
                    conns.len()
                }
            },
        }
    }

    /// Units of work since the last call: one for each subscription to a pattern or to all channels that a new channel is attached to,
    /// for each step of a search for patterns, and for each channel that such a subscription meets when it begins or ends.
    pub(crate) fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    pub(crate) fn id_of(&self, name: &ChannelName) -> Option<ChannelId> {
        self.ids.get(name).copied()
    }

    pub(crate) fn channel(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(&id)
    }

    pub(crate) fn channel_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.get_mut(&id)
    }

    /// All channels, in the order of their names.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = (ChannelId, &Channel)> {
        self.ids.values().filter_map(|&id| Some((id, self.channels.get(&id)?)))
    }

    /// Adds a publication on the channel `name`, which begins to exist if it did not.
    pub(crate) fn publish(&mut self, name: &ChannelName) -> ChannelId {
        let id = self.id_for(name);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.publications += 1;
        }
        id
    }

    /// Removes a publication; returns the channel if that was its end.
    pub(crate) fn unpublish(&mut self, id: ChannelId) -> Option<Ended> {
        self.channels.get_mut(&id)?.publications -= 1;
        self.end_if_unused(id)
    }

    /// Adds a subscription.
    pub(crate) fn subscribe(&mut self, selector: &Selector, subscriber: Subscriber) -> Begun {
        if !subscriber.terms.observer {
            for name in self.watched(selector) {
                self.watches.set_listens(&name, subscriber.conn, true);
            }
        }
        match selector {
            Selector::All => {
                self.wildcards.push(subscriber);
                self.work += self.channels.len();
                let ids: Vec<_> = self.channels.keys().copied().collect();
                Begun { named: None, replayed: self.attach_all(ids, subscriber) }
            }
            Selector::Pattern(pattern) => {
                self.patterns.insert(pattern, subscriber);
                let (ids, work) = self.covered(pattern);
                self.work += work;
                Begun { named: None, replayed: self.attach_all(ids, subscriber) }
            }
            Selector::Name(name) if subscriber.terms.observer => {
                self.observers.entry(name.clone()).or_default().push(subscriber);
                let named = self.id_of(name);
                Begun { named, replayed: self.attach_all(named.into_iter().collect(), subscriber) }
            }
            Selector::Name(name) => {
                let id = self.id_for(name);
                let replayed = self.attach_all(vec![id], subscriber);
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.by_name += 1;
                }
                Begun { named: Some(id), replayed }
            }
        }
    }

    /// Notes whether messages of the channel are retained, now that one was to be or is no more; returns the channel if that was its end.
    pub(crate) fn set_history(&mut self, id: ChannelId, has_history: bool) -> Option<Ended> {
        let channel = self.channels.get_mut(&id)?;
        (channel.has_history, channel.has_had_history) = (has_history, true);
        self.end_if_unused(id)
    }

    /// The connection as a subscriber of the channel, if it is one.
    pub(crate) fn subscriber(&self, id: ChannelId, conn: ConnId) -> Option<&Subscriber> {
        let position = *self.positions.get(conn.0)?.get(&id)?;
        self.channels.get(&id)?.subscribers.get(position)
    }

    /// Notes that the connection knows the name of a channel that it receives.
    pub(crate) fn set_named(&mut self, id: ChannelId, conn: ConnId) {
        let position = self.positions.get(conn.0).and_then(|positions| positions.get(&id));
        if let (Some(&position), Some(channel)) = (position, self.channels.get_mut(&id)) {
            channel.subscribers[position].named = true;
        }
    }

    /// Removes one subscription of a connection, of which `left` returns the best of those that are left for a channel, and the effort;
    /// returns the channel that ended by that.
    pub(crate) fn unsubscribe(
        &mut self,
        selector: &Selector,
        gone: Subscriber,
        left: impl Fn(&ChannelName) -> (Option<Subscriber>, usize),
    ) -> Option<Ended> {
        let conn = gone.conn;
        let ids = match selector {
            Selector::All => {
                self.work += self.channels.len();
                self.channels.keys().copied().collect()
            }
            Selector::Pattern(pattern) => {
                let (ids, work) = self.covered(pattern);
                self.work += work;
                ids
            }
            Selector::Name(name) => self.id_of(name).into_iter().collect(),
        };
        let by_name = self.forget(conn, selector, gone.terms);
        for id in ids {
            self.detach(id, gone, &left);
        }
        for name in self.watched(selector) {
            let (best, work) = left(&name);
            self.work += work;
            let listens = best.is_some_and(|best| !best.terms.observer);
            self.watches.set_listens(&name, conn, listens);
        }
        self.end_if_unused(by_name?)
    }

    /// Removes all `subscriptions` of the connection; returns the channels that ended by that.
    pub(crate) fn unsubscribe_all<'a>(
        &mut self,
        conn: ConnId,
        subscriptions: impl Iterator<Item = (&'a Selector, Terms)>,
    ) -> Vec<Ended> {
        for (id, position) in self.positions.get_mut(conn.0).map(std::mem::take).unwrap_or_default() {
            self.remove_at(id, position);
        }
        let mut ended = Vec::new();
        for (selector, terms) in subscriptions {
            for name in self.watched(selector) {
                self.watches.set_listens(&name, conn, false);
            }
            let by_name = self.forget(conn, selector, terms);
            ended.extend(by_name.and_then(|id| self.end_if_unused(id)));
        }
        ended
    }

    /// Answers at once if the channel has `minimum` listeners, or notes that the connection waits for them.
    pub(crate) fn count_listeners(
        &mut self,
        id: ChannelId,
        minimum: usize,
        conn: ConnId,
        number: u32,
    ) -> Option<Counted> {
        let channel = self.channels.get_mut(&id)?;
        if channel.listeners >= minimum {
            return Some(Counted { conn, id, number, listeners: channel.listeners });
        }
        channel.counting.insert((minimum, conn), number);
        None
    }

    /// The connection waits no more for `minimum` listeners of the channel.
    pub(crate) fn stop_counting(&mut self, id: ChannelId, minimum: usize, conn: ConnId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.counting.remove(&(minimum, conn));
        }
    }

    /// The connections that have waited for as many listeners as their channels have now. They wait no more.
    pub(crate) fn take_counted(&mut self) -> Vec<Counted> {
        let mut counted = Vec::new();
        for id in std::mem::take(&mut self.joined) {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let listeners = channel.listeners;
            while let Some(first) = channel.counting.first_entry().filter(|first| first.key().0 <= listeners) {
                let ((_, conn), number) = first.remove_entry();
                counted.push(Counted { conn, id, number, listeners });
            }
        }
        self.work += counted.len();
        counted
    }

    /// Adds a watch of the name; returns the connections that listen to it.
    pub(crate) fn watch(&mut self, name: &ChannelName, conn: ConnId, number: u32) -> &BTreeSet<ConnId> {
        let channel = self.ids.get(name).and_then(|id| self.channels.get(id));
        let (patterns, wildcards, work) = (&self.patterns, &self.wildcards, &mut self.work);
        self.watches.add(name, conn, number, || {
            let mut subscribers = channel.map_or(wildcards, |channel| &channel.subscribers).clone();
            if channel.is_none() {
                *work += patterns.each_covering(name, &mut |covering| subscribers.extend(covering.values()));
            }
            *work += subscribers.len();
            subscribers.retain(|subscriber| !subscriber.terms.observer);
            subscribers.into_iter().map(|subscriber| subscriber.conn).collect()
        })
    }

    pub(crate) fn unwatch(&mut self, name: &ChannelName, conn: ConnId, number: u32) {
        self.watches.remove(name, conn, number);
    }

    /// What watches have to report since the last call.
    pub(crate) fn take_sightings(&mut self) -> Vec<Sighting> {
        self.watches.take_sightings()
    }

    /// Gives the connection an inbox.
    pub(crate) fn open_inbox(&mut self, conn: ConnId) -> ChannelId {
        let id = self.new_id();
        self.inboxes.insert(id, conn);
        id
    }

    pub(crate) fn close_inbox(&mut self, id: ChannelId) {
        self.inboxes.remove(&id);
    }

    /// The connection that has this inbox.
    pub(crate) fn inbox(&self, id: ChannelId) -> Option<ConnId> {
        self.inboxes.get(&id).copied()
    }

    /// Forgets all channels, subscriptions and inboxes.
    pub(crate) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// The id of the channel `name`, which begins to exist if it did not.
    fn id_for(&mut self, name: &ChannelName) -> ChannelId {
        if let Some(id) = self.id_of(name) {
            return id;
        }
        let id = self.new_id();
        self.ids.insert(name.clone(), id);
        self.channels.insert(id, Channel::new(name.clone()));
        let mut covering = self.wildcards.clone();
        self.work += self.patterns.each_covering(name, &mut |subscribers| covering.extend(subscribers.values()));
        self.work += covering.len();
        covering.extend(self.observers.get(name).into_iter().flatten());
        for subscriber in covering {
            self.attach(id, subscriber);
        }
        id
    }

    /// The watched names that the selector covers.
    fn watched(&mut self, selector: &Selector) -> Vec<ChannelName> {
        let names = self.watches.covered(selector);
        self.work += names.len();
        names
    }

    /// An id that neither a channel nor an inbox has, and never 0: that stands for a channel that does not exist.
    fn new_id(&mut self) -> ChannelId {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = ChannelId(self.last);
            if id.0 != 0 && !self.channels.contains_key(&id) && !self.inboxes.contains_key(&id) {
                return id;
            }
        }
    }

    /// The channels that the pattern covers, and the effort: one for each that was compared.
    fn covered(&self, pattern: &ChannelPattern) -> (Vec<ChannelId>, usize) {
        let prefix = pattern.literal_prefix();
        let from = self.ids.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let candidates = from.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let mut work = 0;
        let covered = candidates.inspect(|_| work += 1).filter(|(name, _)| pattern.covers(name));
        (covered.map(|(_, &id)| id).collect(), work)
    }

    /// Lets the connection receive these channels; returns those that are to be replayed to it.
    fn attach_all(&mut self, mut ids: Vec<ChannelId>, subscriber: Subscriber) -> Vec<ChannelId> {
        ids.retain(|&id| {
            let is_new = self.attach(id, subscriber);
            is_new && subscriber.terms.replay > 0 && self.channels.get(&id).is_some_and(|channel| channel.has_history)
        });
        ids
    }

    /// Lets the connection receive the channel under these terms, unless it does under others that outrank them. Returns whether it did
    /// not receive it before.
    fn attach(&mut self, id: ChannelId, subscriber: Subscriber) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        let conn = subscriber.conn.0;
        if self.positions.len() <= conn {
            self.positions.resize_with(conn + 1, BTreeMap::new);
        }
        let is_new = match self.positions[conn].entry(id) {
            Entry::Vacant(position) => {
                self.attachments += 1;
                position.insert(channel.subscribers.len());
                channel.subscribers.push(subscriber);
                if subscriber.terms.observer {
                    return true;
                }
                true
            }
            Entry::Occupied(position) => {
                let present = &mut channel.subscribers[*position.get()];
                if subscriber.rank() >= present.rank() {
                    return false;
                }
                let joins = present.terms.observer && !subscriber.terms.observer;
                *present = Subscriber { named: present.named, ..subscriber };
                if !joins {
                    return false;
                }
                false
            }
        };
        channel.listeners += 1;
        if !channel.counting.is_empty() {
            self.joined.push(id);
        }
        is_new
    }

    /// The channel is no longer covered by this subscription: the best of those that are left decides now, if one is.
    fn detach(&mut self, id: ChannelId, gone: Subscriber, left: &impl Fn(&ChannelName) -> (Option<Subscriber>, usize)) {
        let conn = gone.conn;
        let Some(&position) = self.positions.get(conn.0).and_then(|positions| positions.get(&id)) else { return };
        let Some(channel) = self.channels.get(&id).filter(|channel| channel.subscribers[position].order == gone.order)
        else {
            return; // another one has decided
        };
        let (best, work) = left(&channel.name);
        self.work += work;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(best) = best else {
            self.positions[conn.0].remove(&id);
            return self.remove_at(id, position);
        };
        let present = &mut channel.subscribers[position];
        channel.listeners -= usize::from(!present.terms.observer && best.terms.observer);
        *present = Subscriber { named: present.named, ..best };
    }

    /// Removes the subscriber at this position of the channel. The connection has forgotten the position already.
    fn remove_at(&mut self, id: ChannelId, position: usize) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let gone = channel.subscribers.swap_remove(position);
        self.attachments -= 1;
        channel.listeners -= usize::from(!gone.terms.observer);
        if let Some(moved) = channel.subscribers.get(position) {
            self.positions[moved.conn.0].insert(id, position);
        }
    }

    /// Removes a subscription, and leaves its channels as they are; returns the channel that it has helped to keep.
    fn forget(&mut self, conn: ConnId, selector: &Selector, terms: Terms) -> Option<ChannelId> {
        match selector {
            Selector::All => self.wildcards.retain(|wildcard| wildcard.conn != conn),
            Selector::Pattern(pattern) => self.patterns.remove(pattern, conn),
            Selector::Name(name) if terms.observer => {
                if let Entry::Occupied(mut observers) = self.observers.entry(name.clone()) {
                    observers.get_mut().retain(|observer| observer.conn != conn);
                    if observers.get().is_empty() {
                        observers.remove();
                    }
                }
            }
            Selector::Name(name) => {
                let id = self.id_of(name)?;
                self.channels.get_mut(&id)?.by_name -= 1;
                return Some(id);
            }
        }
        None
    }

    fn end_if_unused(&mut self, id: ChannelId) -> Option<Ended> {
        let Entry::Occupied(entry) = self.channels.entry(id) else { return None };
        if !entry.get().is_unused() {
            return None;
        }
        let channel = entry.remove();
        self.ids.remove(&channel.name);
        for subscriber in &channel.subscribers {
            self.positions[subscriber.conn.0].remove(&id);
        }
        self.attachments -= channel.subscribers.len();
        let named = channel.subscribers.iter().filter(|subscriber| subscriber.named);
        Some(Ended { id, named: named.map(|subscriber| subscriber.conn).collect() })
    }

    /// Checks its tables against each other, and against what the connections have: the `publications` on each channel, all
    /// `subscriptions`, what is awaited by requests for a number of listeners, and the watches of each name; and against the channels that
    /// have a history.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn invariants(
        &self,
        publications: &BTreeMap<ChannelId, usize>,
        subscriptions: &[(&Selector, Subscriber)],
        counting: &BTreeSet<(ChannelId, usize, ConnId)>,
        watches: &BTreeMap<&ChannelName, BTreeSet<(ConnId, u32)>>,
        histories: &BTreeSet<ChannelId>,
    ) {
        self.check_subscriptions(subscriptions);
        let noted = self.channels.iter().filter(|(_, channel)| channel.has_history).map(|(&id, _)| id);
        assert_eq!(noted.collect::<BTreeSet<_>>(), *histories, "channels with a history");
        let new = histories.iter().find(|id| self.channels.get(id).is_some_and(|channel| !channel.has_had_history));
        assert_eq!(new, None, "a channel that has a history and has had none");
        self.watches.invariants(watches, |name| {
            let listeners = subscriptions
                .iter()
                .filter(|(selector, subscriber)| !subscriber.terms.observer && selector.covers(name));
            listeners.map(|(_, subscriber)| subscriber.conn).collect()
        });
        assert_eq!(self.ids.len(), self.channels.len(), "each channel has one name");
        let mut by_name = BTreeMap::<&ChannelName, Vec<Subscriber>>::new();
        let mut others = Vec::new();
        for &(selector, subscriber) in subscriptions {
            match selector {
                Selector::Name(name) => by_name.entry(name).or_default().push(subscriber),
                Selector::All | Selector::Pattern(_) => others.push((selector, subscriber)),
            }
        }
        let (mut received, mut awaited) = (0, 0);
        for (name, id) in &self.ids {
            let channel = self.channels.get(id).filter(|channel| channel.name == *name);
            let channel = channel.unwrap_or_else(|| panic!("{id:?} does not have the name {name:?}"));
            assert!(!channel.is_unused(), "{id:?} is unused and still exists");
            assert_eq!(channel.publications, publications.get(id).copied().unwrap_or(0), "publications of {id:?}");
            let covering =
                by_name.get(name).into_iter().flatten().chain(others.iter().filter_map(|(selector, subscriber)| {
                    match selector {
                        Selector::Pattern(pattern) if !pattern.covers(name) => None,
                        Selector::Name(_) | Selector::Pattern(_) | Selector::All => Some(subscriber),
                    }
                }));
            let mut best = BTreeMap::<ConnId, Subscriber>::new();
            for subscriber in covering {
                let best = best.entry(subscriber.conn).or_insert(*subscriber);
                *best = if subscriber.rank() < best.rank() { *subscriber } else { *best };
            }
            let by_name =
                by_name.get(name).into_iter().flatten().filter(|subscriber| !subscriber.terms.observer).count();
            assert_eq!(channel.by_name, by_name, "listeners by name of {id:?}");
            let listeners = best.values().filter(|subscriber| !subscriber.terms.observer);
            assert_eq!(channel.listeners, listeners.count(), "listeners of {id:?}");
            assert_eq!(channel.subscribers.len(), best.len(), "connections that receive {id:?}");
            for (position, subscriber) in channel.subscribers.iter().enumerate() {
                let conn = subscriber.conn;
                assert_eq!(self.positions[conn.0].get(id), Some(&position), "position of {conn:?} in {id:?}");
                let decides = |subscriber: &Subscriber| (subscriber.rank(), subscriber.terms);
                assert_eq!(
                    best.get(&conn).map(decides),
                    Some(decides(subscriber)),
                    "what decides for {conn:?} on {id:?}"
                );
            }
            received += best.len();
            for &(minimum, conn) in channel.counting.keys() {
                assert!(minimum > channel.listeners, "{conn:?} waits for {minimum} listeners of {id:?}, which it has");
                assert!(counting.contains(&(*id, minimum, conn)), "{conn:?} does not wait for {minimum} of {id:?}");
            }
            awaited += channel.counting.len();
        }
        let positions = self.positions.iter().map(BTreeMap::len).sum::<usize>();
        assert_eq!((positions, self.attachments), (received, received), "positions in channels");
        assert_eq!(awaited, counting.len(), "requests that wait for listeners");
        assert_eq!((self.joined.len(), self.work), (0, 0), "what was done was not reported");
    }

    /// Checks that each connection has its inbox, and that no channel has the id of one.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn check_inboxes(&self, inboxes: &BTreeMap<ChannelId, ConnId>) {
        assert_eq!(self.inboxes, *inboxes, "inboxes");
        assert!(!inboxes.keys().any(|id| self.channels.contains_key(id)), "an inbox has the id of a channel");
    }

    /// Checks that the tables of subscriptions contain these, and no others.
    fn check_subscriptions(&self, subscriptions: &[(&Selector, Subscriber)]) {
        let mut selectors = BTreeSet::new();
        let (mut all, mut patterns, mut observers) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        for (selector, subscriber) in subscriptions {
            let Subscriber { conn, terms, .. } = *subscriber;
            assert!(selectors.insert((conn, *selector)), "{conn:?} has {selector:?} twice");
            match selector {
                Selector::All => assert!(all.insert(conn)),
                Selector::Pattern(pattern) => patterns.push((pattern, conn, terms.observer)),
                Selector::Name(name) if terms.observer => *observers.entry(name).or_insert(0) += 1,
                Selector::Name(name) => {
                    assert!(self.ids.contains_key(name), "{name:?} has a listener and does not exist");
                }
            }
        }
        let wildcards: BTreeSet<_> = self.wildcards.iter().map(|wildcard| wildcard.conn).collect();
        assert_eq!(wildcards, all, "subscriptions to all channels");
        assert_eq!(self.wildcards.len(), all.len(), "subscriptions to all channels, each once");
        self.patterns.invariants(patterns.into_iter());
        let kept = self.observers.iter().map(|(name, observers)| (name, observers.len()));
        assert_eq!(kept.collect::<BTreeMap<_, _>>(), observers, "observers of one channel each");
    }
}
