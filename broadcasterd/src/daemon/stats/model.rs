//! The document of `GET /stats.json`: one set of types for the daemon that writes it and the command that reads it.
//! `broadcasterd/STATS.md` describes every field.

use serde::{Deserialize, Serialize};

/// Version of the schema. A version may gain fields; readers ignore the ones they do not know.
pub(crate) const SCHEMA: u32 = 1;

/// Limit of channels listed per connection.
pub(crate) const CONNECTION_CHANNELS_MAX: usize = 4;

/// Limit of listed channels, and of listed connections.
pub(crate) const ENTRIES_MAX: usize = 4096;

/// A connection blocked for at least this long is slow. Shorter waits are ordinary bursts.
pub(crate) const BLOCKED_SLOW_MS: u64 = 100;

/// A connection whose queue is fuller than this is slow.
const QUEUE_SLOW_PERMILLE: u16 = 500;

/// All statistics of a daemon at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    pub(crate) daemon: Daemon,
    /// Sorted by name. At most [`ENTRIES_MAX`]: those with the most accepted messages.
    pub(crate) channels: Vec<Channel>,
    /// How many more there are.
    pub(crate) channels_omitted: u64,
    /// Oldest first. At most [`ENTRIES_MAX`]: those with the most queued bytes, then with the most lost messages.
    pub(crate) connections: Vec<Connection>,
    /// How many more there are.
    pub(crate) connections_omitted: u64,
}

/// The daemon as a whole. Counters start with the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Daemon {
    pub(crate) version: String,
    /// The newest version of the wire protocol that it supports.
    pub(crate) protocol: u16,
    pub(crate) pid: u32,
    /// The path of the bus socket.
    pub(crate) socket: String,
    pub(crate) uptime_ms: u64,
    /// Open connections.
    pub(crate) connections: u64,
    /// Connections with a publication, with a subscription, and with an observer. One connection may be all three.
    pub(crate) senders: u64,
    pub(crate) listeners: u64,
    pub(crate) observers: u64,
    /// Messages accepted from senders, and the bytes of the frames that carried them.
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    /// Messages written to listeners, once per listener.
    pub(crate) messages_delivered: u64,
    /// Messages dropped for slow listeners, once per listener.
    pub(crate) messages_lost: u64,
    /// Replies accepted, which count as messages too, and those of them whose requester had gone.
    #[serde(default)]
    pub(crate) replies_accepted: u64,
    #[serde(default)]
    pub(crate) replies_dropped: u64,
    /// Retained messages written to listeners as they joined, once per listener.
    #[serde(default)]
    pub(crate) messages_replayed: u64,
    /// Messages that were to be retained, and were not.
    #[serde(default)]
    pub(crate) retention_declined: u64,
    /// Connections refused or closed by the daemon.
    pub(crate) connections_refused: u64,
    /// How often a listener that delayed senders with backpressure was left behind.
    pub(crate) listeners_left_behind: u64,
    /// Memory held by frames in transit, and its limit.
    pub(crate) held_bytes: u64,
    pub(crate) held_bytes_max: u64,
    /// Retained messages, their channels, their memory, which is a part of `held_bytes`, and its limit.
    #[serde(default)]
    pub(crate) retained_messages: u64,
    #[serde(default)]
    pub(crate) retained_channels: u64,
    #[serde(default)]
    pub(crate) retained_bytes: u64,
    #[serde(default)]
    pub(crate) retained_bytes_max: u64,
    /// Limits of the queue of one listener.
    pub(crate) queue_bytes_max: u64,
    pub(crate) queue_messages_max: u64,
    /// Rings in shared memory, and listeners that read a ring themselves, counted for each ring.
    #[serde(default)]
    pub(crate) rings: u64,
    #[serde(default)]
    pub(crate) links: u64,
    /// Messages accepted in rings, which are among those that were accepted.
    #[serde(default)]
    pub(crate) ring_messages_accepted: u64,
    pub(crate) connections_max: u64,
    pub(crate) channels_max: u64,
}

/// An open channel. Its counters start when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) senders: u64,
    pub(crate) listeners: u64,
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    /// Messages dropped for slow listeners of the channel, once per listener.
    pub(crate) messages_lost: u64,
    /// Connections that send on it with backpressure.
    pub(crate) backpressure: u64,
    /// The connection that they wait for, if they do.
    pub(crate) waits_for: Option<u64>,
    /// What is retained of it; `None`: nothing.
    #[serde(default)]
    pub(crate) retained: Option<Retained>,
}

/// The history of a channel, and its value, which is the newest message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retained {
    pub(crate) retained_messages: u64,
    /// Memory that they take.
    pub(crate) retained_bytes: u64,
    /// The sender of the value, and its process; 0 if that is unknown.
    pub(crate) sender: String,
    pub(crate) sender_pid: u32,
    /// Time since the value was accepted.
    pub(crate) age_ms: u64,
    /// Time until its lifetime is over; `None` without a limit.
    pub(crate) lifetime_ms: Option<u64>,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Before Hello.
    Greeting,
    Active,
    /// Being closed: it has not read its last frame yet.
    Leaving,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Greeting, Self::Active, Self::Leaving];

    /// The word in the schema.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Active => "active",
            Self::Leaving => "leaving",
        }
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// The daemon's number for the connection; reused after the connection ends.
    pub(crate) id: u64,
    /// From the kernel; 0 if unknown.
    pub(crate) pid: u32,
    /// Name of the process, if known.
    pub(crate) process: Option<String>,
    pub(crate) phase: Phase,
    /// The purpose of the connection, as the client states it.
    pub(crate) purpose: String,
    /// Channels that it has opened for sending.
    pub(crate) publications: u64,
    /// Subscriptions, without observers.
    pub(crate) subscriptions: u64,
    /// Subscriptions that only observe.
    pub(crate) observers: u64,
    /// Time since the connection was accepted.
    pub(crate) age_ms: u64,
    /// At most [`CONNECTION_CHANNELS_MAX`] of its channels, sorted by name.
    pub(crate) channels: Vec<String>,
    /// All of its channels.
    pub(crate) channels_total: u64,
    /// Messages accepted from or written to the connection, and the bytes of their frames.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Messages dropped for the connection because it was slow.
    pub(crate) messages_lost: u64,
    /// What is queued for the connection in the daemon.
    pub(crate) queue_messages: u64,
    pub(crate) queue_bytes: u64,
    /// Time since the connection stopped accepting everything queued for it; `None` if it accepts.
    pub(crate) blocked_ms: Option<u64>,
    /// Channels that it sends on with backpressure.
    pub(crate) backpressure: u64,
    /// The connection that it waits for on one of them, if it does.
    pub(crate) waits_for: Option<u64>,
    /// Channels whose senders wait for it now.
    pub(crate) delaying: u64,
    /// How often, and for how long, senders of a channel have waited for it.
    pub(crate) delays: u64,
    pub(crate) delayed_ms: u64,
    /// It has delayed a sender for as long as that allows, and delays none until nothing is queued for it.
    pub(crate) left_behind: bool,
    /// Rings that it writes, the listeners that read them themselves, and all listeners of their channels, both counted for each ring.
    #[serde(default)]
    pub(crate) rings: u64,
    #[serde(default)]
    pub(crate) ring_readers: u64,
    #[serde(default)]
    pub(crate) ring_listeners: u64,
    /// Rings that it reads itself.
    #[serde(default)]
    pub(crate) links: u64,
}

impl Connection {
    /// What the connection is, in one short word for tables.
    pub(crate) fn kind(&self) -> &'static str {
        match (self.phase, self.publications > 0, self.subscriptions > 0) {
            (Phase::Greeting | Phase::Leaving, ..) => self.phase.word(),
            (Phase::Active, true, true) => "sender+listener",
            (Phase::Active, true, false) => "sender",
            (Phase::Active, false, true) => "listener",
            (Phase::Active, false, false) if self.observers > 0 => "observer",
            (Phase::Active, false, false) => "client",
        }
    }

    /// What its messages go through, for tables. For the rings that it writes, it includes how many of their listeners read them
    /// themselves.
    pub(crate) fn path(&self) -> String {
        match (self.rings, self.links) {
            (0, 0) => "socket".to_owned(),
            (0, _) => "memory".to_owned(),
            _ => format!("memory {}/{}", self.ring_readers, self.ring_listeners),
        }
    }

    /// Whether messages are queued for the connection.
    pub(crate) fn receives(&self) -> bool {
        self.subscriptions > 0 || self.observers > 0
    }

    /// How full its queue is, in thousandths of the limits.
    pub(crate) fn queue_permille(&self, daemon: &Daemon) -> u16 {
        permille(self.queue_messages, daemon.queue_messages_max).max(permille(self.queue_bytes, daemon.queue_bytes_max))
    }

    /// Whether the connection falls behind: it is blocked for longer than a burst, or its queue is more than half full.
    pub(crate) fn is_slow(&self, daemon: &Daemon) -> bool {
        self.queue_permille(daemon) > QUEUE_SLOW_PERMILLE
            || self.blocked_ms.is_some_and(|blocked_ms| blocked_ms >= BLOCKED_SLOW_MS)
    }
}

/// `part` of `whole` in thousandths, at most 1000.
pub(crate) fn permille(part: u64, whole: u64) -> u16 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u16::try_from(share.min(1000)).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::stats::sample;
    use serde_json::Value;

    fn keys(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    found.push(key.clone());
                    keys(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_field_is_documented() {
        let document = include_str!("../../../STATS.md");
        let mut found = Vec::new();
        keys(&serde_json::to_value(sample::stats()).expect("plain data"), &mut found);
        assert!(found.len() > 50, "{found:?}");
        for key in found {
            assert!(document.contains(&format!("\n| `{key}` |")), "STATS.md does not describe {key}");
        }
        for phase in Phase::ALL {
            let word = serde_json::to_value(phase).expect("a word");
            assert_eq!(word, phase.word());
            assert!(document.contains(&format!("`{}`", phase.word())), "STATS.md does not describe {phase:?}");
        }
    }

    #[test]
    fn kind_follows_from_phase_publications_and_subscriptions() {
        let kind = |phase, publications, subscriptions, observers| {
            let connection = sample::connection(1, "client", &[]);
            Connection { phase, publications, subscriptions, observers, ..connection }.kind()
        };
        assert_eq!(kind(Phase::Greeting, 0, 0, 0), "greeting");
        assert_eq!(kind(Phase::Active, 0, 0, 0), "client");
        assert_eq!(kind(Phase::Active, 2, 0, 1), "sender");
        assert_eq!(kind(Phase::Active, 0, 1, 1), "listener");
        assert_eq!(kind(Phase::Active, 1, 1, 0), "sender+listener");
        assert_eq!(kind(Phase::Active, 0, 0, 1), "observer");
        assert_eq!(kind(Phase::Leaving, 1, 1, 1), "leaving");
    }

    #[test]
    fn path_follows_from_rings_and_links() {
        let path = |rings, ring_readers, ring_listeners, links| {
            let connection = sample::connection(1, "client", &[]);
            Connection { rings, ring_readers, ring_listeners, links, ..connection }.path()
        };
        assert_eq!(path(0, 0, 0, 0), "socket");
        assert_eq!(path(2, 2, 3, 0), "memory 2/3");
        assert_eq!(path(1, 0, 0, 0), "memory 0/0");
        assert_eq!(path(0, 0, 0, 1), "memory");
        assert_eq!(path(1, 1, 2, 1), "memory 1/2");
    }

    #[test]
    fn document_of_a_daemon_without_rings_is_understood() {
        let mut value = serde_json::to_value(sample::connection(2, "sender", &["news"])).expect("plain data");
        let fields = value.as_object_mut().expect("an object");
        fields.retain(|name, _| !["rings", "ring_readers", "ring_listeners", "links"].contains(&name.as_str()));
        assert_eq!(serde_json::from_value::<Connection>(value).expect("the same").path(), "socket");
    }

    #[test]
    fn document_round_trips_and_unknown_fields_are_ignored() {
        let mut value = serde_json::to_value(sample::stats()).expect("plain data");
        value["later"] = true.into();
        value["daemon"]["later"] = true.into();
        assert_eq!(serde_json::from_value::<Stats>(value).expect("the same"), sample::stats());
    }

    #[test]
    fn share_is_in_thousandths_and_at_most_1000() {
        assert_eq!([permille(1, 0), permille(0, 0), permille(u64::MAX, 1), permille(1, 2)], [1000, 0, 1000, 500]);
    }
}
