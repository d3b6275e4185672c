//! What `GET /stats.json` says, as one set of types for the daemon that writes it and the command that reads it.
//! `broadcasterd/STATS.md` describes every field for people.

use crate::format::permille;
use serde::{Deserialize, Serialize};

/// Version of the schema. Fields may be added within it; readers ignore those that they do not know.
pub(crate) const SCHEMA: u32 = 1;

/// Most channels that are named for one connection.
pub(crate) const CONNECTION_CHANNELS_MAX: usize = 4;

/// Most channels that are told of, and most connections.
pub(crate) const ENTRIES_MAX: usize = 4096;

/// Who has not taken all that waits for it for this long is slow. A shorter wait is an ordinary burst.
pub(crate) const BLOCKED_SLOW_MS: u64 = 100;

/// Whose queue is fuller than this is slow.
const QUEUE_SLOW_PERMILLE: u16 = 500;

/// All numbers of one daemon at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    pub(crate) daemon: Daemon,
    /// In the order of their names: at most [`ENTRIES_MAX`], those with most messages accepted.
    pub(crate) channels: Vec<Channel>,
    /// How many there are beside them.
    pub(crate) channels_omitted: u64,
    /// In the order in which they came: at most [`ENTRIES_MAX`], those with most bytes waiting, then most lost.
    pub(crate) connections: Vec<Connection>,
    /// How many there are beside them.
    pub(crate) connections_omitted: u64,
}

/// The daemon as a whole. Counters count since it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Daemon {
    pub(crate) version: String,
    /// The newest version of the wire protocol that it speaks.
    pub(crate) protocol: u16,
    pub(crate) pid: u32,
    /// The path of the bus socket.
    pub(crate) socket: String,
    pub(crate) uptime_ms: u64,
    /// Open now.
    pub(crate) connections: u64,
    pub(crate) senders: u64,
    pub(crate) listeners: u64,
    /// Messages accepted from senders, and the bytes of the frames that they came in.
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    /// Messages written to listeners, counted once for each listener.
    pub(crate) messages_delivered: u64,
    /// Messages dropped for slow listeners, counted once for each listener.
    pub(crate) messages_lost: u64,
    /// Connections that were refused or ended by the daemon.
    pub(crate) connections_refused: u64,
    /// Bytes of memory that frames in transit hold, and may hold.
    pub(crate) held_bytes: u64,
    pub(crate) held_bytes_max: u64,
    /// What may wait for one listener.
    pub(crate) queue_bytes_max: u64,
    pub(crate) queue_messages_max: u64,
    pub(crate) connections_max: u64,
    pub(crate) channels_max: u64,
}

/// A channel that somebody has open. Its counters count since it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) senders: u64,
    pub(crate) listeners: u64,
    pub(crate) messages_accepted: u64,
    pub(crate) bytes_accepted: u64,
    /// Messages dropped for slow listeners of the channel, counted once for each listener.
    pub(crate) messages_lost: u64,
}

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// It has not said Hello yet.
    Greeting,
    Sender,
    Listener,
    Inspector,
    /// An inspector that watches messages as they pass.
    Monitor,
    /// It was told goodbye, or refused, and has not read it yet.
    Leaving,
}

impl Role {
    /// As it is written in the schema.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Sender => "sender",
            Self::Listener => "listener",
            Self::Inspector => "inspector",
            Self::Monitor => "monitor",
            Self::Leaving => "leaving",
        }
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// The daemon's number for it; used again after it has ended.
    pub(crate) id: u64,
    /// From the kernel; 0 where it does not tell.
    pub(crate) pid: u32,
    /// Name of the process, where the system tells it.
    pub(crate) process: Option<String>,
    pub(crate) role: Role,
    /// Since it was accepted.
    pub(crate) age_ms: u64,
    /// At most [`CONNECTION_CHANNELS_MAX`] of its channels, in the order of their names.
    pub(crate) channels: Vec<String>,
    /// How many channels it has.
    pub(crate) channels_total: u64,
    /// Messages accepted from a sender, or written to a listener; and bytes of their frames.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Messages dropped for it because it was slow.
    pub(crate) messages_lost: u64,
    /// What waits for it in the daemon.
    pub(crate) queue_messages: u64,
    pub(crate) queue_bytes: u64,
    /// For how long it has not taken all that waits for it; `null` if it has.
    pub(crate) blocked_ms: Option<u64>,
}

impl Connection {
    /// How full its queue is, in thousandths of what may wait for it in this daemon.
    pub(crate) fn queue_permille(&self, daemon: &Daemon) -> u16 {
        permille(self.queue_messages, daemon.queue_messages_max).max(permille(self.queue_bytes, daemon.queue_bytes_max))
    }

    /// Whether it does not keep up at this moment: it is blocked for more than a burst, or its queue is more than half full.
    pub(crate) fn is_slow(&self, daemon: &Daemon) -> bool {
        self.queue_permille(daemon) > QUEUE_SLOW_PERMILLE
            || self.blocked_ms.is_some_and(|blocked_ms| blocked_ms >= BLOCKED_SLOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::sample;
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
        let document = include_str!("../../STATS.md");
        let mut found = Vec::new();
        keys(&serde_json::to_value(sample::stats()).expect("plain data"), &mut found);
        assert!(found.len() > 50, "{found:?}");
        for key in found {
            assert!(document.contains(&format!("\n| `{key}` |")), "STATS.md does not describe {key}");
        }
        for role in [Role::Greeting, Role::Sender, Role::Listener, Role::Inspector, Role::Monitor, Role::Leaving] {
            let word = serde_json::to_value(role).expect("a word");
            assert_eq!(word, role.word());
            assert!(document.contains(&format!("`{}`", role.word())), "STATS.md does not describe {role:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_unknown_fields_are_ignored() {
        let mut value = serde_json::to_value(sample::stats()).expect("plain data");
        value["later"] = true.into();
        value["daemon"]["later"] = true.into();
        assert_eq!(serde_json::from_value::<Stats>(value).expect("the same"), sample::stats());
    }
}
