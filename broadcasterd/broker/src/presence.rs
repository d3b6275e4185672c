//! Watches of names, and the listeners that each watched name has. It never looks at a channel: a watched name need not be one.

use crate::broker::Broker;
use crate::effect::Effects;
use crate::event::{ConnId, Moment};
use crate::registry::Selector;
use crate::session::{Refusal, channel_name};
use broadcaster_protocol::control::{Control, Presence, RefusedCode, Unwatch, Unwatched, Watch, Watched};
use broadcaster_protocol::{ChannelName, SenderId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The watches of all connections.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_name: BTreeMap<ChannelName, WatchedName>,
    len: usize,
    /// What no watch has reported yet.
    changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct WatchedName {
    /// The connections that watch it, with their numbers for that.
    watches: BTreeSet<(ConnId, u32)>,
    /// The connections with a subscription that covers it and is not an observer.
    listeners: BTreeSet<ConnId>,
}

/// A listener of a watched name has joined or left.
#[derive(Debug)]
struct Change {
    name: ChannelName,
    listener: ConnId,
    present: bool,
}

/// What a change is reported as, to one watch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting {
    watcher: ConnId,
    watch: u32,
    listener: ConnId,
    present: bool,
}

impl Watches {
    /// Number of watches.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a watch of `name`, whose listeners are `listeners` if nothing else watches it; returns the listeners.
    pub(crate) fn add(
        &mut self,
        name: &ChannelName,
        conn: ConnId,
        number: u32,
        listeners: impl FnOnce() -> BTreeSet<ConnId>,
    ) -> &BTreeSet<ConnId> {
        let watched = match self.by_name.entry(name.clone()) {
            Entry::Vacant(name) => name.insert(WatchedName { watches: BTreeSet::new(), listeners: listeners() }),
            Entry::Occupied(name) => name.into_mut(),
        };
        self.len += usize::from(watched.watches.insert((conn, number)));
        &watched.listeners
    }

    pub(crate) fn remove(&mut self, name: &ChannelName, conn: ConnId, number: u32) {
        let Entry::Occupied(mut watched) = self.by_name.entry(name.clone()) else { return };
        self.len -= usize::from(watched.get_mut().watches.remove(&(conn, number)));
        if watched.get().watches.is_empty() {
            watched.remove();
        }
    }

    /// The watched names that the selector covers, among those with its literal beginning.
    pub(crate) fn covered(&self, selector: &Selector) -> Vec<ChannelName> {
        let prefix = match selector {
            Selector::Name(name) => {
                return self.by_name.get_key_value(name).map(|(name, _)| name.clone()).into_iter().collect();
            }
            Selector::Pattern(pattern) => pattern.literal_prefix(),
            Selector::All => "",
        };
        let from = self.by_name.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).map(|(name, _)| name);
        let candidates = from.take_while(|name| name.as_str().starts_with(prefix));
        candidates.filter(|name| selector.covers(name)).cloned().collect()
    }

    /// The connection listens to the name or does not, whatever it did before.
    pub(crate) fn set_listens(&mut self, name: &ChannelName, listener: ConnId, present: bool) {
        let Some(watched) = self.by_name.get_mut(name) else { return };
        let changes = if present { watched.listeners.insert(listener) } else { watched.listeners.remove(&listener) };
        if changes {
            self.changes.push(Change { name: name.clone(), listener, present });
        }
    }

    /// What the watches have to report since the last call.
    pub(crate) fn take_sightings(&mut self) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        for Change { name, listener, present } in std::mem::take(&mut self.changes) {
            let watches = self.by_name.get(&name).into_iter().flat_map(|watched| &watched.watches);
            sightings.extend(watches.map(|&(watcher, watch)| Sighting { watcher, watch, listener, present }));
        }
        sightings
    }

    /// Checks that these are all watches, and that each name has the listeners that `listeners` returns for it.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn invariants(
        &self,
        watches: &BTreeMap<&ChannelName, BTreeSet<(ConnId, u32)>>,
        listeners: impl Fn(&ChannelName) -> BTreeSet<ConnId>,
    ) {
        let kept = self.by_name.iter().map(|(name, watched)| (name, watched.watches.clone()));
        assert_eq!(kept.collect::<BTreeMap<_, _>>(), *watches, "watches");
        assert_eq!(self.len, watches.values().map(BTreeSet::len).sum::<usize>(), "number of watches");
        for (name, watched) in &self.by_name {
            assert_eq!(watched.listeners, listeners(name), "listeners of the watched name {name:?}");
        }
        assert!(self.changes.is_empty(), "watches have not reported {:?}", self.changes);
    }
}

impl Broker {
    pub(crate) fn watch(
        &mut self,
        now: Moment,
        conn: ConnId,
        watch: &Watch,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (number, name) = (watch.watch, channel_name(&watch.channel)?);
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        if connection.watches.contains_key(&number) {
            return Err((RefusedCode::Protocol, format!("this connection has a watch {number} already")));
        }
        let max = self.limits.watches_max;
        if self.registry.watches().len() >= max {
            let reason = format!("the limit of {max} for the watches of all connections is reached");
            return Err((RefusedCode::Channels, reason));
        }
        self.check_channels(conn, None)?;
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        connection.watches.insert(number, name.clone());
        let present: Vec<_> = self.registry.watch(&name, conn, number).iter().copied().collect();
        self.turn_work += present.len() + self.registry.take_work();
        let listeners = u32::try_from(present.len()).unwrap_or(u32::MAX);
        self.reply(now, conn, &Control::Watched(Watched { watch: number, listeners, extensions: Vec::new() }), effects);
        for listener in present {
            self.report_presence(now, Sighting { watcher: conn, watch: number, listener, present: true }, effects);
        }
        Ok(())
    }

    pub(crate) fn unwatch(
        &mut self,
        now: Moment,
        conn: ConnId,
        unwatch: &Unwatch,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let number = unwatch.watch;
        let Some(name) = self.connection(conn).and_then(|connection| connection.watches.remove(&number)) else {
            return Err((RefusedCode::Protocol, format!("this connection has no watch {number}")));
        };
        self.registry.unwatch(&name, conn, number);
        self.reply(now, conn, &Control::Unwatched(Unwatched { watch: number, extensions: Vec::new() }), effects);
        Ok(())
    }

    /// Reports the listeners that have joined or left by what has happened to watches of their names.
    pub(crate) fn report_changes(&mut self, now: Moment, effects: &mut Effects) {
        let sightings = self.registry.take_sightings();
        self.turn_work += sightings.len() + self.registry.take_work();
        for sighting in sightings {
            self.report_presence(now, sighting, effects);
        }
    }

    fn report_presence(&mut self, now: Moment, sighting: Sighting, effects: &mut Effects) {
        let Sighting { watcher, watch, listener, present } = sighting;
        let Some(connection) = self.connection(listener) else { return };
        let purpose = if present { connection.purpose.clone() } else { String::new() };
        let listener = connection.sender.map_or(0, SenderId::raw);
        let presence = Presence { watch, present, listener, purpose, extensions: Vec::new() };
        self.reply(now, watcher, &Control::Presence(presence), effects);
    }
}
