//! Every limit that the config file may set: its name, its unit, its bounds and its place in [`Limits`]. Nothing here knows
//! about files.

use broadcaster_server::Limits;
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Time,
}

/// One key of the table `[limits]`.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name: the name of the field.
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// The least and the most that it may be set to.
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// The value in these limits, in its unit.
    pub(crate) read: fn(&Limits) -> u64,
    /// Sets the value, which is within the bounds.
    pub(crate) write: fn(&mut Limits, u64),
}

/// The keys, in the order of the fields. The least values leave a daemon that still serves somebody; the most are far
/// beyond use, and bounded.
pub(crate) const KEYS: [Key; 12] = [
    Key {
        name: "connections_max",
        unit: Unit::Count,
        min: 4, // a sender, a listener, and whoever asks for the status or a stop
        max: 1_000_000,
        read: |limits| number(limits.connections_max),
        write: |limits, value| limits.connections_max = size(value),
    },
    Key {
        name: "connections_per_process_max",
        unit: Unit::Count,
        min: 1,
        max: 1_000_000,
        read: |limits| number(limits.connections_per_process_max),
        write: |limits, value| limits.connections_per_process_max = size(value),
    },
    Key {
        name: "channels_max",
        unit: Unit::Count,
        min: 1,
        max: 1_000_000,
        read: |limits| number(limits.channels_max),
        write: |limits, value| limits.channels_max = size(value),
    },
    Key {
        name: "channels_per_connection_max",
        unit: Unit::Count,
        min: 1,
        max: 1_000_000,
        read: |limits| number(limits.channels_per_connection_max),
        write: |limits, value| limits.channels_per_connection_max = size(value),
    },
    Key {
        name: "payload_bytes_max",
        unit: Unit::Bytes,
        min: 1,
        max: 64 * MIB, // of the wire
        read: |limits| u64::from(limits.payload_bytes_max),
        write: |limits, value| limits.payload_bytes_max = u32::try_from(value).unwrap_or(u32::MAX),
    },
    Key {
        name: "outbox_bytes_max",
        unit: Unit::Bytes,
        min: 4 * KIB,
        max: GIB,
        read: |limits| number(limits.outbox_bytes_max),
        write: |limits, value| limits.outbox_bytes_max = size(value),
    },
    Key {
        name: "outbox_messages_max",
        unit: Unit::Count,
        min: 1,
        max: 100_000_000,
        read: |limits| limits.outbox_messages_max,
        write: |limits, value| limits.outbox_messages_max = value,
    },
    Key {
        name: "replies_bytes_max",
        unit: Unit::Bytes,
        min: 8 * KIB, // one answer may have 4 KiB
        max: 16 * MIB,
        read: |limits| number(limits.replies_bytes_max),
        write: |limits, value| limits.replies_bytes_max = size(value),
    },
    Key {
        name: "held_bytes_max",
        unit: Unit::Bytes,
        min: HELD_ROOM_BYTES,
        max: 16 * GIB,
        read: |limits| number(limits.held_bytes_max),
        write: |limits, value| limits.held_bytes_max = size(value),
    },
    Key {
        name: "monitors_max",
        unit: Unit::Count,
        min: 0,
        max: 1024,
        read: |limits| number(limits.monitors_max),
        write: |limits, value| limits.monitors_max = size(value),
    },
    Key {
        name: "handshake_within",
        unit: Unit::Time,
        min: 10 * MILLISECOND,
        max: 60 * SECOND,
        read: |limits| nanoseconds(limits.handshake_within),
        write: |limits, value| limits.handshake_within = Duration::from_nanos(value),
    },
    Key {
        name: "goodbye_within",
        unit: Unit::Time,
        min: 10 * MILLISECOND,
        // Twice that, for listeners and then for those who only look, and a service manager still does not kill the daemon.
        max: 2 * SECOND,
        read: |limits| nanoseconds(limits.goodbye_within),
        write: |limits, value| limits.goodbye_within = Duration::from_nanos(value),
    },
];

/// What must be held beside the largest payload, so that small messages pass while it is under way.
pub(crate) const HELD_ROOM_BYTES: u64 = MIB;

/// Where a key is in [`KEYS`].
pub(crate) fn position(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

impl Unit {
    /// What may be written in the file.
    pub(crate) fn accepted(self) -> &'static str {
        match self {
            Self::Count => "a whole number such as 1024",
            Self::Bytes => "a number of bytes such as 65536, or a text such as \"64 KiB\" with B, KiB, MiB or GiB",
            Self::Time => "a text such as \"2s\" or \"500ms\"",
        }
    }

    /// As a person reads it, and as the file takes it (numbers as they are, the rest in quotes).
    pub(crate) fn shown(self, value: u64) -> String {
        match self {
            Self::Count => value.to_string(),
            Self::Bytes => {
                match [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")].iter().find(|unit| value.is_multiple_of(unit.0)) {
                    Some((bytes, name)) if value > 0 => format!("{} {name}", value / bytes),
                    _ => value.to_string(),
                }
            }
            Self::Time => humantime::format_duration(Duration::from_nanos(value)).to_string(),
        }
    }

    /// A text in quotes; `None` if it is not [`accepted`](Self::accepted). What is beyond all bounds is the largest number.
    pub(crate) fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Count => None,
            Self::Bytes => {
                let text = text.trim();
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at(digits);
                let unit = match unit.trim_start() {
                    "" | "B" => 1,
                    "KiB" => KIB,
                    "MiB" => MIB,
                    "GiB" => GIB,
                    _ => return None,
                };
                if number.is_empty() {
                    return None;
                }
                Some(number.parse::<u64>().map_or(u64::MAX, |number| number.saturating_mul(unit)))
            }
            Self::Time => humantime::parse_duration(text).ok().map(nanoseconds),
        }
    }
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// Where a machine can not address as much, it is as much as it can.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_broker_is_a_key() {
        let limits = format!("{:#?}", Limits::default());
        let fields = limits.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
        let fields = fields.filter_map(|line| line.trim().split_once(':')).map(|(name, _)| name);
        let fields: Vec<&str> = fields.filter(|name| *name != "idle_exit_after").collect();
        assert_eq!(KEYS.map(|key| key.name).to_vec(), fields);
    }

    #[test]
    fn every_default_is_within_its_bounds_and_every_key_writes_what_it_reads() {
        for key in &KEYS {
            let mut limits = Limits::default();
            let before = (key.read)(&limits);
            assert!((key.min..=key.max).contains(&before), "{}", key.name);
            for value in [key.min, key.max] {
                (key.write)(&mut limits, value);
                assert_eq!((key.read)(&limits), value, "{}", key.name);
            }
            (key.write)(&mut limits, before);
            assert_eq!(limits, Limits::default(), "{} writes one field", key.name);
        }
    }

    #[test]
    fn sizes_and_times_are_read_as_they_are_shown() {
        for (unit, value, text) in [
            (Unit::Bytes, 4 * MIB, "4 MiB"),
            (Unit::Bytes, 64 * KIB, "64 KiB"),
            (Unit::Bytes, 16 * GIB, "16 GiB"),
            (Unit::Bytes, 1000, "1000"),
            (Unit::Bytes, 0, "0"),
            (Unit::Time, 2 * SECOND, "2s"),
            (Unit::Time, 1500 * MILLISECOND, "1s 500ms"),
        ] {
            assert_eq!(unit.shown(value), text);
            assert_eq!(unit.parse(text), Some(value), "{text}");
        }
        assert_eq!(Unit::Bytes.parse("4MiB"), Some(4 * MIB));
        assert_eq!(Unit::Bytes.parse("7 B"), Some(7));
        assert_eq!(Unit::Bytes.parse("99999999999999999999 GiB"), Some(u64::MAX), "which no bound admits");
        for text in ["", "MiB", "4 MB", "4 mib", "-1", "1.5 MiB", "4 MiB MiB", "4 4"] {
            assert_eq!(Unit::Bytes.parse(text), None, "{text}");
        }
        for text in ["", "2", "-2s", "soon"] {
            assert_eq!(Unit::Time.parse(text), None, "{text}");
        }
        assert_eq!(Unit::Count.parse("7"), None, "a count is a number");
    }
}
