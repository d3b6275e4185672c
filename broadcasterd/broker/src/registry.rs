//! Channel names, their ids, and who listens. A channel exists while somebody has it open; its id is never given to
//! another channel while it does.

use crate::event::ConnId;
use broadcaster_protocol::{ChannelId, ChannelName};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

#[derive(Debug)]
pub(crate) struct Channel {
    name: ChannelName,
    listeners: Vec<ConnId>,
    senders: usize,
    /// Monitors that know its name.
    told: Vec<ConnId>,
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    pub(crate) messages_lost: u64,
}

impl Channel {
    fn new(name: ChannelName) -> Self {
        Self {
            name,
            listeners: Vec::new(),
            senders: 0,
            told: Vec::new(),
            messages_accepted: 0,
            bytes_accepted: 0,
            messages_lost: 0,
        }
    }

    pub(crate) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Who listens, in the order in which they joined.
    pub(crate) fn listeners(&self) -> &[ConnId] {
        &self.listeners
    }

    /// Notes that the monitor knows the name from now on; whether it did not before.
    pub(crate) fn tell(&mut self, monitor: ConnId) -> bool {
        let news = !self.told.contains(&monitor);
        if news {
            self.told.push(monitor);
        }
        news
    }

    /// How many send.
    pub(crate) fn senders(&self) -> usize {
        self.senders
    }
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    ids: BTreeMap<ChannelName, ChannelId>,
    channels: BTreeMap<ChannelId, Channel>,
    last: u32,
}

impl Registry {
    /// Channels that somebody has open.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
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
    pub(crate) fn by_name(&self) -> impl Iterator<Item = &Channel> {
        self.ids.values().filter_map(|id| self.channels.get(id))
    }

    /// The id of `name`, which begins to exist now if it did not.
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
        id
    }

    pub(crate) fn add_listener(&mut self, name: &ChannelName, conn: ConnId) -> ChannelId {
        let id = self.id_for(name);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.listeners.push(conn);
        }
        id
    }

    pub(crate) fn add_sender(&mut self, name: &ChannelName) -> ChannelId {
        let id = self.id_for(name);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.senders += 1;
        }
        id
    }

    /// Takes a listener off the channel; returns the monitors that must be told if that was its end.
    pub(crate) fn remove_listener(&mut self, id: ChannelId, conn: ConnId) -> Vec<ConnId> {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.listeners.retain(|&listener| listener != conn);
        }
        self.forget_if_unused(id)
    }

    /// Takes a sender off the channel; returns the monitors that must be told if that was its end.
    pub(crate) fn remove_sender(&mut self, id: ChannelId) -> Vec<ConnId> {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.senders -= 1;
        }
        self.forget_if_unused(id)
    }

    /// The monitor is gone.
    pub(crate) fn forget_monitor(&mut self, monitor: ConnId) {
        self.channels.values_mut().for_each(|channel| channel.told.retain(|&told| told != monitor));
    }

    fn forget_if_unused(&mut self, id: ChannelId) -> Vec<ConnId> {
        match self.channels.entry(id) {
            Entry::Occupied(entry) if entry.get().listeners.is_empty() && entry.get().senders == 0 => {
                let channel = entry.remove();
                self.ids.remove(&channel.name);
                channel.told
            }
            Entry::Occupied(_) | Entry::Vacant(_) => Vec::new(),
        }
    }
}
