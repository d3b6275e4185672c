//! Derives rates from two samples. It never reads a clock; a counter that decreases marks a restart, never a rate.

use crate::daemon::stats::model::{Channel, Connection, Daemon, Stats};
use crate::observe::format::{bytes, count};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Start times are whole milliseconds and may differ slightly between samples.
const START_TOLERANCE_MS: u64 = 100;

/// The uptime grows with the time between samples, except for the duration of the answers.
const UPTIME_TOLERANCE: Duration = Duration::from_secs(5);

/// A rate per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(u64);

impl Rate {
    /// `count` within `time`, which is at least a millisecond.
    pub(crate) fn of(count: u64, time: Duration) -> Self {
        let thousandths = u128::from(count) * 1_000_000 / time.as_millis().max(1);
        Self(u64::try_from(thousandths).unwrap_or(u64::MAX))
    }

    pub(crate) fn thousandths(self) -> u64 {
        self.0
    }

    pub(crate) fn whole(self) -> u64 {
        self.0 / 1000
    }
}

/// Rates of a channel or a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) messages: Rate,
    pub(crate) bytes: Rate,
    pub(crate) lost: Rate,
}

/// Rates of the daemon as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: Rate,
    pub(crate) bytes: Rate,
    pub(crate) delivered: Rate,
    pub(crate) lost: Rate,
}

/// A channel and its rates, if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelRow {
    pub(crate) stats: Channel,
    pub(crate) rates: Option<Rates>,
    /// It is losing messages, or has a slow listener.
    pub(crate) slow: bool,
}

/// A connection and its rates, if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerRow {
    pub(crate) stats: Connection,
    pub(crate) rates: Option<Rates>,
    pub(crate) slow: bool,
    /// How full its queue is, by messages or by bytes, whichever is fuller.
    pub(crate) queue_permille: u16,
    /// Identifies the connection; never reused.
    pub(crate) serial: u64,
}

/// A sample with its rates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) daemon: Daemon,
    pub(crate) totals: Option<Totals>,
    pub(crate) channels: Vec<ChannelRow>,
    pub(crate) peers: Vec<PeerRow>,
}

/// Keeps what the next measurement needs of the last sample.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Option<Last>,
    serials: u64,
}

impl Meter {
    /// Adds rates to `stats`, taken at `at`, from the sample before it.
    pub(crate) fn measure(&mut self, at: Duration, stats: Stats) -> Measured {
        let last = self.last.take().filter(|last| last.is_same_daemon(at, &stats.daemon));
        let time = last.as_ref().map(|last| at.saturating_sub(last.at)).filter(|time| !time.is_zero());
        let mut next = Last { at, daemon: stats.daemon.clone(), channels: HashMap::new(), peers: HashMap::new() };

        let mut slow_channels = HashSet::new();
        let mut peers = Vec::with_capacity(stats.connections.len());
        for stats in stats.connections {
            let now = Counters { messages: stats.messages, bytes: stats.bytes, lost: stats.messages_lost };
            let started_ms = next.daemon.uptime_ms.saturating_sub(stats.age_ms);
            let before = last.as_ref().and_then(|last| last.peers.get(&stats.id));
            let before = before.filter(|before| before.pid == stats.pid);
            let before = before.filter(|before| before.started_ms.abs_diff(started_ms) <= START_TOLERANCE_MS);
            let grown = before.and_then(|before| now.since(before.counters).map(|grown| (before.serial, grown)));
            let (serial, grown) = match grown {
                Some((serial, grown)) => (serial, Some(grown)),
                None => {
                    self.serials += 1;
                    // A connection that opened after the last sample has counted from zero.
                    let opened_since = last
                        .as_ref()
                        .is_some_and(|last| started_ms.saturating_add(START_TOLERANCE_MS) >= last.daemon.uptime_ms);
                    (self.serials, opened_since.then_some(now))
                }
            };
            let rates = grown.zip(time).map(|(grown, time)| grown.per_second(time));
            let queue_permille = stats.queue_permille(&next.daemon);
            let slow = stats.is_slow(&next.daemon) || rates.is_some_and(|rates| rates.lost > Rate::default());
            if slow {
                slow_channels.extend(stats.channels.iter().cloned());
            }
            next.peers.insert(stats.id, LastPeer { pid: stats.pid, started_ms, serial, counters: now });
            peers.push(PeerRow { stats, rates, slow, queue_permille, serial });
        }

        let mut channels = Vec::with_capacity(stats.channels.len());
        for stats in stats.channels {
            let now =
                Counters { messages: stats.messages_accepted, bytes: stats.bytes_accepted, lost: stats.messages_lost };
            let before = last.as_ref().and_then(|last| last.channels.get(&stats.name)).copied();
            // A channel that is new, or whose counters decreased, was opened after the last sample and has counted from zero.
            let grown = before.and_then(|before| now.since(before)).unwrap_or(now);
            let rates = time.map(|time| grown.per_second(time));
            let slow = slow_channels.contains(&stats.name) || rates.is_some_and(|rates| rates.lost > Rate::default());
            next.channels.insert(stats.name.clone(), now);
            channels.push(ChannelRow { stats, rates, slow });
        }

        let totals = last.as_ref().zip(time).and_then(|(last, time)| totals(&last.daemon, &next.daemon, time));
        let daemon = next.daemon.clone();
        self.last = Some(next);
        Measured { daemon, totals, channels, peers }
    }
}

/// `None` if any counter decreases, which means another daemon.
fn totals(last: &Daemon, daemon: &Daemon, time: Duration) -> Option<Totals> {
    let rate = |last: u64, now: u64| Some(Rate::of(now.checked_sub(last)?, time));
    Some(Totals {
        accepted: rate(last.messages_accepted, daemon.messages_accepted)?,
        bytes: rate(last.bytes_accepted, daemon.bytes_accepted)?,
        delivered: rate(last.messages_delivered, daemon.messages_delivered)?,
        lost: rate(last.messages_lost, daemon.messages_lost)?,
    })
}

#[derive(Debug)]
struct Last {
    at: Duration,
    daemon: Daemon,
    channels: HashMap<String, Counters>,
    peers: HashMap<u64, LastPeer>,
}

impl Last {
    /// Whether the uptime has grown by the time that has passed; a process id alone may be reused.
    fn is_same_daemon(&self, at: Duration, daemon: &Daemon) -> bool {
        let grown = daemon.uptime_ms.checked_sub(self.daemon.uptime_ms).map(Duration::from_millis);
        let passed = at.saturating_sub(self.at);
        daemon.pid == self.daemon.pid && grown.is_some_and(|grown| grown.abs_diff(passed) <= UPTIME_TOLERANCE)
    }
}

#[derive(Debug)]
struct LastPeer {
    pid: u32,
    /// In the daemon's time.
    started_ms: u64,
    serial: u64,
    counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    messages: u64,
    bytes: u64,
    lost: u64,
}

impl Counters {
    fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            messages: self.messages.checked_sub(before.messages)?,
            bytes: self.bytes.checked_sub(before.bytes)?,
            lost: self.lost.checked_sub(before.lost)?,
        })
    }

    fn per_second(self, time: Duration) -> Rates {
        let Self { messages, bytes, lost } = self;
        Rates { messages: Rate::of(messages, time), bytes: Rate::of(bytes, time), lost: Rate::of(lost, time) }
    }
}

/// A rate in at most five columns; a dash if unknown.
pub(super) fn rate(rate: Option<Rate>) -> String {
    match rate.map(|rate| (rate, rate.thousandths())) {
        None => "-".into(),
        Some((_, 0)) => "0".into(),
        Some((_, 1..50)) => "<0.1".into(),
        Some((_, few @ 50..9_950)) => format!("{}.{}", (few + 50) / 1000, (few + 50) / 100 % 10),
        Some((rate, _)) => count(rate.whole()),
    }
}

/// A rate of bytes in at most five columns; a dash if unknown.
pub(super) fn byte_rate(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "-".into(), |rate| bytes(rate.whole()))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{at, channel, connection, daemon, stats};
    use super::*;
    use crate::daemon::stats::model::BLOCKED_SLOW_MS;

    #[test]
    fn rate_is_the_difference_over_the_time_between_samples() {
        let mut meter = Meter::default();
        let mut sample = stats(daemon(5_000), vec![channel("a")], vec![connection(1, 10, "sender")]);
        assert_eq!(meter.measure(at(1), sample.clone()).totals, None);
        sample.daemon.uptime_ms += 2_000;
        sample.daemon.messages_accepted += 100;
        sample.daemon.messages_lost += 10;
        sample.channels[0].bytes_accepted += 4_000;
        sample.connections[0].age_ms += 2_000;
        sample.connections[0].messages += 100;
        let measured = meter.measure(at(3), sample);
        let totals = measured.totals.expect("two samples");
        assert_eq!((totals.accepted.whole(), totals.lost.whole()), (50, 5));
        assert_eq!(measured.channels[0].rates.expect("two samples").bytes.whole(), 2_000);
        assert_eq!(measured.peers[0].rates.expect("two samples").messages.whole(), 50);
    }

    #[test]
    fn restarted_daemon_has_no_rates() {
        // The second sample has another process id, or a smaller uptime, or an uptime that has not grown with the time.
        let restart = |pid, uptime_ms, accepted, seconds| {
            let mut meter = Meter::default();
            let mut first = daemon(60_000);
            first.messages_accepted = 1_000;
            meter.measure(at(1), stats(first.clone(), vec![channel("a")], vec![connection(1, 10, "sender")]));
            let next = Daemon { pid, uptime_ms, messages_accepted: accepted, ..first };
            let measured =
                meter.measure(at(seconds), stats(next, vec![channel("a")], vec![connection(1, 10, "sender")]));
            (measured.totals, measured.channels[0].rates, measured.peers[0].rates, measured.peers[0].serial)
        };
        assert_eq!(restart(4712, 61_000, 1_000_000, 2), (None, None, None, 2));
        assert_eq!(restart(4711, 500, 5, 2), (None, None, None, 2));
        assert_eq!(restart(4711, 70_000, 1_000_000, 600), (None, None, None, 2));
        assert!(restart(4711, 61_000, 1_000, 2).0.is_some());
    }

    #[test]
    fn reused_connection_id_is_another_connection() {
        let mut meter = Meter::default();
        let mut old = connection(7, 10, "listener");
        (old.age_ms, old.messages) = (4_000, 1_000_000);
        meter.measure(at(1), stats(daemon(5_000), vec![], vec![old.clone()]));

        // Another process; the same process with a new connection; and the same connection.
        let mut other = Connection { pid: 11, age_ms: 500, messages: 10, ..old.clone() };
        let measured = meter.measure(at(2), stats(daemon(6_000), vec![], vec![other.clone()]));
        assert_eq!((measured.peers[0].serial, measured.peers[0].rates.expect("new").messages.whole()), (2, 10));
        (other.age_ms, other.messages) = (100, 20_000_000);
        let measured = meter.measure(at(3), stats(daemon(7_000), vec![], vec![other.clone()]));
        assert_eq!((measured.peers[0].serial, measured.peers[0].rates.expect("new").messages.whole()), (3, 20_000_000));
        (other.age_ms, other.messages) = (1_130, 20_000_005);
        let measured = meter.measure(at(4), stats(daemon(8_000), vec![], vec![other]));
        assert_eq!((measured.peers[0].serial, measured.peers[0].rates.expect("old").messages.whole()), (3, 5));

        // An old connection that is new in the samples has no known rate.
        old.id = 8;
        let measured = meter.measure(at(5), stats(daemon(9_000), vec![], vec![old]));
        assert_eq!(measured.peers[0].rates, None);
    }

    #[test]
    fn reopened_channel_counts_from_zero() {
        let mut meter = Meter::default();
        let mut sample = channel("a");
        sample.messages_accepted = 1_000_000;
        meter.measure(at(1), stats(daemon(5_000), vec![sample.clone()], vec![]));
        sample.messages_accepted = 30;
        let mut new = channel("b");
        new.messages_accepted = 40;
        let measured = meter.measure(at(2), stats(daemon(6_000), vec![sample, new], vec![]));
        let rates: Vec<u64> =
            measured.channels.iter().map(|row| row.rates.expect("two samples").messages.whole()).collect();
        assert_eq!(rates, [30, 40]);
    }

    #[test]
    fn samples_at_the_same_moment_have_no_rates() {
        let mut meter = Meter::default();
        let sample = stats(daemon(5_000), vec![channel("a")], vec![]);
        meter.measure(at(1), sample.clone());
        assert_eq!(meter.measure(at(1), sample).totals, None);
    }

    #[test]
    fn blocked_half_full_or_losing_connections_and_their_channels_are_slow() {
        let mut meter = Meter::default();
        let mut peers: Vec<Connection> = (0..5).map(|id| connection(id, 10, "listener")).collect();
        for (peer, name) in peers.iter_mut().zip(["a", "b", "c", "d", "e"]) {
            peer.channels = vec![name.into()];
        }
        let channels: Vec<Channel> = ["a", "b", "c", "d", "e"].map(channel).into();
        meter.measure(at(1), stats(daemon(5_000), channels.clone(), peers.clone()));
        peers.iter_mut().for_each(|peer| peer.age_ms += 1_000);
        peers[0].blocked_ms = Some(BLOCKED_SLOW_MS - 1);
        peers[1].blocked_ms = Some(BLOCKED_SLOW_MS);
        peers[2].queue_bytes = daemon(0).queue_bytes_max / 2 + 8192;
        peers[3].messages_lost += 1;
        let measured = meter.measure(at(2), stats(daemon(6_000), channels, peers));
        assert_eq!(measured.peers.iter().map(|row| row.slow).collect::<Vec<_>>(), [false, true, true, true, false]);
        assert_eq!(measured.channels.iter().map(|row| row.slow).collect::<Vec<_>>(), [false, true, true, true, false]);
    }

    #[test]
    fn rates_keep_to_five_columns() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift, 10u64.pow(shift % 20)] {
                let rate = rate(Some(Rate::of(number, Duration::from_millis(700))));
                assert!(rate.len() <= 5, "{number} is {rate}");
            }
        }
    }

    #[test]
    fn slow_rates_keep_a_digit() {
        let per_minute = |count| rate(Some(Rate::of(count, Duration::from_secs(60))));
        assert_eq!([0, 1, 20, 594, 600, 900].map(per_minute), ["0", "<0.1", "0.3", "9.9", "10", "15"]);
        assert_eq!(rate(None), "-");
    }
}
