//! Every limit that the config file may set: name, unit, bounds and field of [`Limits`]. Nothing here knows about files.

use broadcaster_server::Limits;
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A plain count.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Time,
}

/// One key of the table `[limits]`.
#[derive(Debug)]
pub(crate) struct Key {
    /// The name of the key and of the field.
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// The smallest and the largest value.
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Reads the value, in the unit of the key.
    pub(crate) read: fn(&Limits) -> u64,
    /// Sets the value, which is within the bounds.
    pub(crate) write: fn(&mut Limits, u64),
}

/// A field of [`Limits`] as a number, in the unit of its key. A number that the machine cannot represent saturates.
trait Field {
    fn number(&self) -> u64;
    fn of(number: u64) -> Self;
}

impl Field for usize {
    fn number(&self) -> u64 {
        u64::try_from(*self).unwrap_or(u64::MAX)
    }

    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Field for u32 {
    fn number(&self) -> u64 {
        u64::from(*self)
    }

    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Field for u64 {
    fn number(&self) -> u64 {
        *self
    }

    fn of(number: u64) -> Self {
        number
    }
}

impl Field for Duration {
    fn number(&self) -> u64 {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }

    fn of(number: u64) -> Self {
        Self::from_nanos(number)
    }
}

macro_rules! key {
    ($field:ident, $unit:ident, $min:expr, $max:expr) => {
        Key {
            name: stringify!($field),
            unit: Unit::$unit,
            min: $min,
            max: $max,
            read: |limits| limits.$field.number(),
            write: |limits, value| limits.$field = Field::of(value),
        }
    };
}

/// The keys, in the order of the fields. The smallest values leave a daemon that can serve; the largest are far beyond use, and
/// bounded.
pub(crate) const KEYS: [Key; 21] = [
    key!(connections_max, Count, CONNECTIONS_MIN as u64, 1_000_000),
    key!(connections_per_process_max, Count, 1, 1_000_000),
    key!(channels_max, Count, 1, 1_000_000),
    key!(channels_per_connection_max, Count, 1, 1_000_000),
    key!(payload_bytes_max, Bytes, 1, 64 * MIB), // at most the limit of the wire
    key!(outbox_bytes_max, Bytes, 512 * KIB, GIB), // at least what one turn can queue for a listener that reads
    key!(outbox_messages_max, Count, 1, 100_000_000),
    key!(replies_bytes_max, Bytes, 8 * KIB, 16 * MIB), // one reply has up to 4 KiB
    key!(held_bytes_max, Bytes, HELD_ROOM_BYTES, 16 * GIB),
    key!(observers_max, Count, 0, 1024),
    key!(wildcards_max, Count, 0, 1024),
    key!(patterns_max, Count, 0, 1_000_000),
    key!(attachments_max, Count, 1024, 100_000_000),
    key!(watches_max, Count, 0, 1_000_000),
    key!(retained_bytes_max, Bytes, 0, GIB), // 0: the daemon retains nothing
    key!(retained_channels_max, Count, 0, 1_000_000),
    key!(retained_messages_max, Count, 1, 1_000_000),
    key!(handshake_timeout, Time, 10 * MILLISECOND, 60 * SECOND),
    key!(frame_timeout, Time, 100 * MILLISECOND, 3600 * SECOND),
    key!(stalled_timeout, Time, 100 * MILLISECOND, 3600 * SECOND),
    // An orderly stop takes up to twice that, for listeners and then for observers. A service manager waits longer.
    key!(goodbye_timeout, Time, 10 * MILLISECOND, 2 * SECOND),
];

/// The fewest connections that are of use: a sender, a listener, and requests for status or stop.
pub(crate) const CONNECTIONS_MIN: usize = 4;

/// The memory beyond the largest payload, so that small messages pass while it is in transit.
pub(crate) const HELD_ROOM_BYTES: u64 = MIB;

/// The index of a key in [`KEYS`].
pub(crate) fn position(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

impl Unit {
    /// What the file accepts.
    pub(crate) fn accepted(self) -> &'static str {
        match self {
            Self::Count => "a whole number such as 1024",
            Self::Bytes => "a number of bytes such as 65536, or a string such as \"64 KiB\" with B, KiB, MiB or GiB",
            Self::Time => "a string such as \"2s\" or \"500ms\"",
        }
    }

    /// The value as text, as the file accepts it: numbers as they are, the rest in quotes.
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

    /// The value of a string; `None` if it is not [`accepted`](Self::accepted). A value beyond 64 bits is the largest number.
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
            Self::Time => humantime::parse_duration(text).ok().map(|time| time.number()),
        }
    }
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
    fn default_is_within_its_bounds_and_key_writes_what_it_reads() {
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
    fn sizes_and_times_parse_as_they_are_shown() {
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
        assert_eq!(Unit::Bytes.parse("99999999999999999999 GiB"), Some(u64::MAX), "beyond every bound");
        for text in ["", "MiB", "4 MB", "4 mib", "-1", "1.5 MiB", "4 MiB MiB", "4 4"] {
            assert_eq!(Unit::Bytes.parse(text), None, "{text}");
        }
        for text in ["", "2", "-2s", "soon"] {
            assert_eq!(Unit::Time.parse(text), None, "{text}");
        }
        assert_eq!(Unit::Count.parse("7"), None, "a count is a number");
    }
}
