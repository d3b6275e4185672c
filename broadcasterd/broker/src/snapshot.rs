//! A picture of everything that a broker knows at one moment. Nothing decides by it.

use crate::broker::{Broker, Stats};
use crate::connection::{ConnPhase, Connection};
use crate::event::{ConnId, Moment};
use crate::registry::{Channel, Selector};
use crate::retained::HistorySnapshot;
use broadcaster_protocol::control::Report;
use broadcaster_protocol::{ChannelName, SenderId};
use std::time::Duration;

/// Most channels that are named for one connection in a [`Snapshot`].
const CONN_CHANNELS_MAX: usize = 4;

/// Everything that a broker knows at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Time since the broker began.
    pub uptime: Duration,
    /// What it has done since then.
    pub stats: Stats,
    /// Bytes of memory that messages in transit hold now.
    pub held_bytes: usize,
    /// Channels of which messages are retained.
    pub retained_channels: usize,
    /// Messages that are retained.
    pub retained_messages: usize,
    /// Bytes of memory that they take; a part of `held_bytes`.
    pub retained_bytes: usize,
    /// Rings in shared memory.
    pub rings: usize,
    /// Listeners that read a ring themselves, counted for each ring.
    pub links: usize,
    /// Every channel, in the order of their names.
    pub channels: Vec<ChannelSnapshot>,
    /// Every connection, in the order of their numbers.
    pub connections: Vec<ConnSnapshot>,
}

/// One channel. Its counters begin and end with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// Its name.
    pub name: ChannelName,
    /// Connections that may publish on it.
    pub senders: usize,
    /// Connections that listen on it.
    pub listeners: usize,
    /// Messages accepted on it.
    pub messages_accepted: u64,
    /// Bytes of the frames that carried them.
    pub bytes_accepted: u64,
    /// Messages on it that listeners lost, each counted once per listener.
    pub messages_lost: u64,
    /// Messages of it that are retained; `None` if there are none.
    pub history: Option<HistorySnapshot>,
    /// Connections that publish on it with backpressure.
    pub backpressure: usize,
    /// The listener that senders on it wait for now, without credit.
    pub waits_for: Option<ConnId>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnSnapshot {
    /// Its number.
    pub conn: ConnId,
    /// Process at the other end, from the kernel; 0 where the kernel does not report it.
    pub pid: u32,
    /// The sender of what it publishes; `None` before its Hello.
    pub sender: Option<SenderId>,
    /// The life of the connection.
    pub phase: ConnPhase,
    /// What it is for, as the client declared.
    pub purpose: String,
    /// Time since it was accepted.
    pub age: Duration,
    /// Channels that it may publish on.
    pub publications: usize,
    /// Subscriptions that are not observers.
    pub subscriptions: usize,
    /// Subscriptions that are observers.
    pub observers: usize,
    /// The first of its channels: 4 at most, each once, those that it publishes on first.
    pub channels: Vec<ChannelName>,
    /// Number of its publications, and of its subscriptions to one channel each.
    pub channels_total: usize,
    /// Messages accepted from it and written to it.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Messages that it lost because it was slow.
    pub messages_lost: u64,
    /// Messages that wait for it.
    pub queue_messages: u64,
    /// Bytes of their frames, with 64 bytes of bookkeeping for each run of them.
    pub queue_bytes: usize,
    /// Time for which it has not taken everything that it was offered; `None` if it has.
    pub blocked: Option<Duration>,
    /// Channels that it publishes on with backpressure.
    pub backpressure: usize,
    /// The listener that it waits for now, without credit, on one of them.
    pub waits_for: Option<ConnId>,
    /// Channels whose senders wait for it now.
    pub delaying: usize,
    /// How often senders of a channel have waited for it, those that wait now included.
    pub delays: u64,
    /// For how long, added over channels.
    pub delayed: Duration,
    /// Publications whose messages are in a ring in shared memory.
    pub rings: usize,
    /// Listeners that read these rings themselves, counted for each ring. The daemon reads them for all others.
    pub readers: usize,
    /// All listeners of the channels of these rings, counted for each ring.
    pub ring_listeners: usize,
    /// Rings that it reads itself. What it has read of them counts as written to it, with an average number of bytes, and what it has not
    /// read counts as waiting.
    pub links: usize,
    /// Whether it is left behind: it has delayed a sender for as long as that allows, and delays none until it has caught up.
    pub left_behind: bool,
}

impl Broker {
    /// Everything that the broker knows.
    pub fn snapshot(&self, now: Moment) -> Snapshot {
        let channels = self.registry.by_name().map(|(id, channel)| ChannelSnapshot {
            name: channel.name().clone(),
            senders: channel.publications(),
            listeners: channel.listeners(),
            messages_accepted: channel.messages_accepted,
            bytes_accepted: channel.bytes_accepted,
            messages_lost: channel.messages_lost,
            history: self.retained.snapshot(now, id),
            backpressure: self.credits.publications(id),
            waits_for: self.credits.delay(id).map(|(conn, _)| conn),
        });
        let connections = self.open_connections();
        let (retained_channels, retained_messages, retained_bytes) = self.retained.totals();
        Snapshot {
            uptime: now.since(self.started),
            stats: self.stats,
            held_bytes: self.ledger.held(),
            retained_channels,
            retained_messages,
            retained_bytes,
            rings: self.rings.len(),
            links: self.rings.followers(),
            channels: channels.collect(),
            connections: connections.map(|(conn, connection)| self.conn_snapshot(now, conn, connection)).collect(),
        }
    }

    fn conn_snapshot(&self, now: Moment, conn: ConnId, connection: &Connection) -> ConnSnapshot {
        let subscriptions = &connection.subscriptions;
        let published = connection.publications.keys().filter_map(|&id| self.registry.channel(id)).map(Channel::name);
        let subscribed = subscriptions.iter().filter_map(|(selector, _)| match selector {
            Selector::Name(name) => Some(name),
            Selector::All | Selector::Pattern(_) => None,
        });
        let mut channels: Vec<ChannelName> = Vec::new();
        for name in published.chain(subscribed).take(2 * CONN_CHANNELS_MAX) {
            if channels.len() < CONN_CHANNELS_MAX && !channels.contains(name) {
                channels.push(name.clone());
            }
        }
        let (mut queue_messages, mut queue_bytes) = connection.outbox.queue();
        let mut links = 0;
        for (messages, bytes) in self.rings.followed(&connection.links) {
            links += 1;
            queue_messages += messages;
            queue_bytes += bytes;
        }
        let paced =
            connection.publications.iter().filter_map(|(&id, publication)| Some((id, publication.pace.as_ref()?)));
        let without_credit = paced.clone().filter(|(_, pace)| pace.is_empty());
        let backlog = &connection.backlog;
        let delays = backlog.delays.iter().filter_map(|&id| self.credits.delay(id));
        ConnSnapshot {
            conn,
            pid: connection.pid,
            sender: connection.sender,
            phase: connection.phase,
            purpose: connection.purpose.clone(),
            age: now.since(connection.opened),
            publications: connection.publications.len(),
            subscriptions: subscriptions.listeners(),
            observers: subscriptions.observers(),
            channels,
            channels_total: connection.publications.len() + subscriptions.by_name(),
            messages: connection.tally.messages,
            bytes: connection.tally.bytes,
            messages_lost: connection.tally.lost,
            queue_messages,
            queue_bytes,
            blocked: connection.blocked.map(|since| now.since(since)),
            backpressure: paced.count(),
            waits_for: without_credit.filter_map(|(id, _)| self.credits.delay(id)).map(|(conn, _)| conn).next(),
            delaying: delays.clone().count(),
            delays: backlog.delayed.0 + delays.clone().count() as u64,
            delayed: delays.map(|(_, since)| now.since(since)).fold(backlog.delayed.1, Duration::saturating_add),
            rings: connection.rings(),
            readers: if connection.rings() > 0 { self.rings.readers(conn) } else { 0 },
            ring_listeners: self.ring_listeners(connection),
            links,
            left_behind: backlog.left_behind,
        }
    }

    /// The listeners of the channels whose messages the connection puts into rings.
    fn ring_listeners(&self, connection: &Connection) -> usize {
        let in_rings = connection.publications.iter().filter(|(_, publication)| publication.upload.is_ring());
        in_rings.filter_map(|(&id, _)| self.registry.channel(id)).map(Channel::listeners).sum()
    }

    /// The totals, as a client receives them.
    pub fn report(&self, now: Moment) -> Report {
        Report {
            uptime_ms: u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX),
            connections: self.counts.open as u64,
            senders: self.counts.senders as u64,
            listeners: self.counts.listeners as u64,
            channels: self.registry.len() as u64,
            messages_accepted: self.stats.messages_accepted,
            bytes_accepted: self.stats.bytes_accepted,
            messages_delivered: self.stats.messages_delivered,
            messages_lost: self.stats.messages_lost,
            held_bytes: self.ledger.held() as u64,
            held_bytes_max: self.limits.held_bytes_max as u64,
            extensions: Vec::new(),
        }
    }
}
