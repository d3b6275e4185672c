//! Channels, their ids and their subscribers. It knows nothing of messages that wait.
//!
//! A channel exists while it has a publication or a listener that subscribed to its name. Observers and subscriptions to all
//! channels do not keep it; they are attached to each channel that they cover when it appears.

use crate::event::ConnId;
use crate::outbox::Terms;
use broadcaster_protocol::{ChannelId, ChannelName};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Which channels a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// The channel of this name.
    Name(ChannelName),
    /// Every channel.
    All,
}

/// A connection that receives the messages of a channel: the subscription that decides how, if several cover the channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) conn: ConnId,
    pub(crate) terms: Terms,
    /// How many subscriptions the connection had before this one.
    order: u32,
    /// The connection knows the name of the channel.
    pub(crate) named: bool,
}

impl Subscriber {
    pub(crate) fn new(conn: ConnId, terms: Terms, order: u32) -> Self {
        Self { conn, terms, order, named: false }
    }

    /// The lowest rank decides: a listener's before an observer's, then the first.
    fn rank(&self) -> (bool, u32) {
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

    fn is_unused(&self) -> bool {
        self.publications == 0 && self.by_name == 0
    }
}

/// A channel that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) id: ChannelId,
    /// The connections that know its name.
    pub(crate) named: Vec<ConnId>,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    ids: BTreeMap<ChannelName, ChannelId>,
    channels: BTreeMap<ChannelId, Channel>,
    last: u32,
    /// Subscriptions to all channels.
    wildcards: Vec<Subscriber>,
    /// Observers of one channel each, by its name, whether it exists or not.
    observers: BTreeMap<ChannelName, Vec<Subscriber>>,
    /// For each connection, the channels that it receives, and its position among their subscribers.
    positions: Vec<BTreeMap<ChannelId, usize>>,
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

    /// Adds a subscription; returns the channel that its selector names, if that exists now.
    pub(crate) fn subscribe(&mut self, selector: &Selector, subscriber: Subscriber) -> Option<ChannelId> {
        match selector {
            Selector::All => {
                self.wildcards.push(subscriber);
                let ids: Vec<_> = self.channels.keys().copied().collect();
                ids.into_iter().for_each(|id| self.attach(id, subscriber));
                None
            }
            Selector::Name(name) if subscriber.terms.observer => {
                self.observers.entry(name.clone()).or_default().push(subscriber);
                let id = self.id_of(name)?;
                self.attach(id, subscriber);
                Some(id)
            }
            Selector::Name(name) => {
                let id = self.id_for(name);
                self.attach(id, subscriber);
                self.channels.get_mut(&id)?.by_name += 1;
                Some(id)
            }
        }
    }

    /// Notes that the connection knows the name of a channel that it receives.
    pub(crate) fn set_named(&mut self, id: ChannelId, conn: ConnId) {
        let position = self.positions.get(conn.0).and_then(|positions| positions.get(&id));
        if let (Some(&position), Some(channel)) = (position, self.channels.get_mut(&id)) {
            channel.subscribers[position].named = true;
        }
    }

    /// Removes all `subscriptions` of the connection; returns the channels that ended by that.
    pub(crate) fn unsubscribe<'a>(
        &mut self,
        conn: ConnId,
        subscriptions: impl Iterator<Item = (&'a Selector, Terms)>,
    ) -> Vec<Ended> {
        for (id, position) in self.positions.get_mut(conn.0).map(std::mem::take).unwrap_or_default() {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let gone = channel.subscribers.swap_remove(position);
            channel.listeners -= usize::from(!gone.terms.observer);
            if let Some(moved) = channel.subscribers.get(position) {
                self.positions[moved.conn.0].insert(id, position);
            }
        }
        let mut ended = Vec::new();
        for (selector, terms) in subscriptions {
            match selector {
                Selector::All => self.wildcards.retain(|wildcard| wildcard.conn != conn),
                Selector::Name(name) if terms.observer => {
                    if let Entry::Occupied(mut observers) = self.observers.entry(name.clone()) {
                        observers.get_mut().retain(|observer| observer.conn != conn);
                        if observers.get().is_empty() {
                            observers.remove();
                        }
                    }
                }
                Selector::Name(name) => {
                    let Some(&id) = self.ids.get(name) else { continue };
                    if let Some(channel) = self.channels.get_mut(&id) {
                        channel.by_name -= 1;
                    }
                    ended.extend(self.end_if_unused(id));
                }
            }
        }
        ended
    }

    /// Forgets all channels and subscriptions.
    pub(crate) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// The id of the channel `name`, which begins to exist if it did not.
    fn id_for(&mut self, name: &ChannelName) -> ChannelId {
        if let Some(id) = self.id_of(name) {
            return id;
        }
        let id = loop {
            self.last = self.last.wrapping_add(1);
            if !self.channels.contains_key(&ChannelId(self.last)) {
                break ChannelId(self.last);
            }
        };
        self.ids.insert(name.clone(), id);
        self.channels.insert(id, Channel::new(name.clone()));
        let observers = self.observers.get(name).into_iter().flatten();
        let covering: Vec<_> = self.wildcards.iter().chain(observers).copied().collect();
        covering.into_iter().for_each(|subscriber| self.attach(id, subscriber));
        id
    }

    /// Lets the connection receive the channel under these terms, unless it does under others that outrank them.
    fn attach(&mut self, id: ChannelId, subscriber: Subscriber) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let conn = subscriber.conn.0;
        if self.positions.len() <= conn {
            self.positions.resize_with(conn + 1, BTreeMap::new);
        }
        match self.positions[conn].entry(id) {
            Entry::Vacant(position) => {
                position.insert(channel.subscribers.len());
                channel.subscribers.push(subscriber);
                channel.listeners += usize::from(!subscriber.terms.observer);
            }
            Entry::Occupied(position) => {
                let present = &mut channel.subscribers[*position.get()];
                if subscriber.rank() < present.rank() {
                    channel.listeners += usize::from(present.terms.observer && !subscriber.terms.observer);
                    *present = Subscriber { named: present.named, ..subscriber };
                }
            }
        }
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
        let named = channel.subscribers.iter().filter(|subscriber| subscriber.named);
        Some(Ended { id, named: named.map(|subscriber| subscriber.conn).collect() })
    }

    /// Checks its tables against each other, and against the `publications` on each channel and the `subscriptions` of each
    /// connection, with whether they observe.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn invariants(
        &self,
        publications: &BTreeMap<ChannelId, usize>,
        subscriptions: &[(ConnId, &Selector, bool)],
    ) {
        // For each name, the connections that subscribed to it, with whether they observe; and the same for all channels.
        let mut by_name = BTreeMap::<&ChannelName, BTreeMap<ConnId, bool>>::new();
        let mut all = BTreeMap::<ConnId, bool>::new();
        for (conn, selector, observer) in subscriptions {
            let covering = match selector {
                Selector::Name(name) => by_name.entry(name).or_default(),
                Selector::All => &mut all,
            };
            assert!(covering.insert(*conn, *observer).is_none(), "{conn:?} has {selector:?} twice");
        }
        let wildcards: BTreeSet<_> = self.wildcards.iter().map(|wildcard| wildcard.conn).collect();
        assert_eq!(wildcards, all.keys().copied().collect(), "subscriptions to all channels");
        assert_eq!(self.wildcards.len(), wildcards.len(), "subscriptions to all channels, each once");
        let observers = |of: &BTreeMap<ConnId, bool>| of.values().filter(|&&observer| observer).count();
        for (name, covering) in &by_name {
            let kept = self.observers.get(*name).map_or(0, Vec::len);
            assert_eq!(kept, observers(covering), "observers of the channel {name:?}");
            let listeners = covering.len() - kept;
            assert!(listeners == 0 || self.ids.contains_key(*name), "{name:?} has listeners and does not exist");
        }
        assert!(self.observers.keys().all(|name| by_name.contains_key(name)), "observers that are gone");

        assert_eq!(self.ids.len(), self.channels.len(), "each channel has one name");
        let mut received = 0;
        let none = BTreeMap::new();
        for (name, id) in &self.ids {
            let channel = self.channels.get(id).filter(|channel| channel.name == *name);
            let channel = channel.unwrap_or_else(|| panic!("{id:?} does not have the name {name:?}"));
            assert!(!channel.is_unused(), "{id:?} is unused and still exists");
            assert_eq!(channel.publications, publications.get(id).copied().unwrap_or(0), "publications of {id:?}");
            let named = by_name.get(name).unwrap_or(&none);
            assert_eq!(channel.by_name, named.len() - observers(named), "listeners by name of {id:?}");
            let listeners = channel.subscribers.iter().filter(|subscriber| !subscriber.terms.observer);
            assert_eq!(channel.listeners, listeners.count(), "listeners of {id:?}");
            for (position, subscriber) in channel.subscribers.iter().enumerate() {
                let conn = subscriber.conn;
                assert_eq!(self.positions[conn.0].get(id), Some(&position), "position of {conn:?} in {id:?}");
                let covering = [named.get(&conn), all.get(&conn)].into_iter().flatten().copied();
                let observes = covering.reduce(|one, other| one && other);
                assert_eq!(observes, Some(subscriber.terms.observer), "whether {conn:?} observes {id:?}");
            }
            let covering = all.len() + named.keys().filter(|conn| !all.contains_key(conn)).count();
            assert_eq!(channel.subscribers.len(), covering, "connections that receive {id:?}");
            received += covering;
        }
        let positions = self.positions.iter().map(BTreeMap::len).sum::<usize>();
        assert_eq!(positions, received, "positions in channels");
    }
}
