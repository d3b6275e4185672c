//! Statistics as OpenMetrics text, for monitoring systems. The number of named channels and listeners is bounded, whatever clients
//! do.

use super::model::{Channel, Connection, Phase, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::cmp::Reverse;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Channels with samples of their own: those with the most accepted messages.
pub(crate) const CHANNELS_MAX: usize = 200;

/// Listeners and observers with samples of their own: those with the most queued bytes, then with the most lost messages.
pub(crate) const CONNECTIONS_MAX: usize = 200;

/// The text of `GET /metrics`.
pub(crate) fn render(stats: Stats) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition::of(stats)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The samples of one page.
#[derive(Debug)]
struct Exposition {
    stats: Stats,
    /// How many connections are in each phase.
    phases: [(Phase, u64); 3],
    channels: u64,
    channels_omitted: u64,
    /// Listeners and observers without samples of their own.
    connections_omitted: u64,
}

impl Exposition {
    fn of(mut stats: Stats) -> Self {
        let phases = Phase::ALL.map(|phase| (phase, len(stats.connections.iter().filter(|it| it.phase == phase))));
        let channels = stats.channels_omitted + len(&stats.channels);
        stats.channels.sort_by_key(|channel| Reverse(channel.messages_accepted));
        let channels_omitted = stats.channels_omitted + len(stats.channels.iter().skip(CHANNELS_MAX));
        stats.channels.truncate(CHANNELS_MAX);
        stats.connections.retain(Connection::receives);
        stats.connections.sort_by_key(|connection| Reverse((connection.queue_bytes, connection.messages_lost)));
        let connections_omitted = len(stats.connections.iter().skip(CONNECTIONS_MAX));
        stats.connections.truncate(CONNECTIONS_MAX);
        Self { stats, phases, channels, channels_omitted, connections_omitted }
    }
}

fn len(items: impl IntoIterator) -> u64 {
    u64::try_from(items.into_iter().count()).unwrap_or(u64::MAX)
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.daemon(&mut page)?;
        self.channels(&mut page)?;
        self.listeners(&mut page)
    }
}

impl Exposition {
    fn daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        let daemon = &self.stats.daemon;
        page.info(
            "broadcaster_daemon",
            "Version of the daemon and newest protocol version that it supports.",
            &[("version", daemon.version.as_str()), ("protocol", &daemon.protocol.to_string())],
        )?;
        page.seconds("broadcaster_uptime", "Time since the daemon started.", [(NONE, daemon.uptime_ms)])?;
        let phases = self.phases.map(|(phase, count)| ([("phase", phase.word())], count));
        page.gauge("broadcaster_connections", "Open connections by phase.", phases)?;
        page.gauge("broadcaster_senders", "Connections with a publication.", [(NONE, daemon.senders)])?;
        page.gauge("broadcaster_listeners", "Connections with a subscription.", [(NONE, daemon.listeners)])?;
        page.gauge("broadcaster_observers", "Connections with an observer.", [(NONE, daemon.observers)])?;
        page.gauge("broadcaster_connections_max", "Limit of open connections.", [(NONE, daemon.connections_max)])?;
        page.gauge("broadcaster_channels", "Open channels.", [(NONE, self.channels)])?;
        page.gauge("broadcaster_channels_max", "Limit of open channels.", [(NONE, daemon.channels_max)])?;
        page.counter(
            "broadcaster_messages_accepted",
            "Messages accepted from senders.",
            [(NONE, daemon.messages_accepted)],
        )?;
        page.counter_bytes(
            "broadcaster_accepted",
            "Bytes of the frames that carried accepted messages.",
            [(NONE, daemon.bytes_accepted)],
        )?;
        page.counter(
            "broadcaster_messages_delivered",
            "Messages written to listeners, once per listener.",
            [(NONE, daemon.messages_delivered)],
        )?;
        page.counter(
            "broadcaster_messages_lost",
            "Messages dropped for slow listeners, once per listener.",
            [(NONE, daemon.messages_lost)],
        )?;
        page.counter(
            "broadcaster_replies_accepted",
            "Replies accepted, which count as messages too.",
            [(NONE, daemon.replies_accepted)],
        )?;
        page.counter(
            "broadcaster_replies_dropped",
            "Replies whose requester had gone.",
            [(NONE, daemon.replies_dropped)],
        )?;
        page.counter(
            "broadcaster_messages_replayed",
            "Retained messages queued for listeners that joined, once per listener.",
            [(NONE, daemon.messages_replayed)],
        )?;
        page.counter(
            "broadcaster_retention_declined",
            "Messages that were to be retained, and were not.",
            [(NONE, daemon.retention_declined)],
        )?;
        page.counter(
            "broadcaster_connections_refused",
            "Connections refused or closed by the daemon.",
            [(NONE, daemon.connections_refused)],
        )?;
        page.counter(
            "broadcaster_listeners_left_behind",
            "How often a listener that delayed senders with backpressure was left behind.",
            [(NONE, daemon.listeners_left_behind)],
        )?;
        page.bytes("broadcaster_held", "Memory held by frames in transit.", [(NONE, daemon.held_bytes)])?;
        page.bytes(
            "broadcaster_held_max",
            "Limit of memory held by frames in transit.",
            [(NONE, daemon.held_bytes_max)],
        )?;
        page.gauge("broadcaster_retained_messages", "Retained messages.", [(NONE, daemon.retained_messages)])?;
        page.gauge(
            "broadcaster_retained_channels",
            "Channels with retained messages.",
            [(NONE, daemon.retained_channels)],
        )?;
        page.bytes("broadcaster_retained", "Memory held by retained messages.", [(NONE, daemon.retained_bytes)])?;
        page.bytes(
            "broadcaster_retained_max",
            "Limit of memory held by retained messages.",
            [(NONE, daemon.retained_bytes_max)],
        )?;
        page.bytes(
            "broadcaster_queue_max",
            "Limit of bytes queued for one listener.",
            [(NONE, daemon.queue_bytes_max)],
        )?;
        page.gauge(
            "broadcaster_queue_messages_max",
            "Limit of messages queued for one listener.",
            [(NONE, daemon.queue_messages_max)],
        )?;
        page.gauge("broadcaster_rings", "Rings in shared memory.", [(NONE, daemon.rings)])?;
        page.gauge(
            "broadcaster_links",
            "Listeners that read a ring themselves, counted for each ring.",
            [(NONE, daemon.links)],
        )?;
        page.counter(
            "broadcaster_ring_messages_accepted",
            "Messages accepted in rings, which are among those that were accepted.",
            [(NONE, daemon.ring_messages_accepted)],
        )
    }

    fn channels(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "broadcaster_channels_omitted",
            "Channels without samples of their own.",
            [(NONE, self.channels_omitted)],
        )?;
        let each = |number: fn(&Channel) -> u64| {
            self.stats.channels.iter().map(move |channel| ([("channel", channel.name.as_str())], number(channel)))
        };
        page.gauge("broadcaster_channel_senders", "Senders on the channel.", each(|channel| channel.senders))?;
        page.gauge("broadcaster_channel_listeners", "Listeners on the channel.", each(|channel| channel.listeners))?;
        page.counter(
            "broadcaster_channel_messages_accepted",
            "Messages accepted on the channel since it was opened.",
            each(|channel| channel.messages_accepted),
        )?;
        page.counter_bytes(
            "broadcaster_channel_accepted",
            "Bytes of the frames accepted on the channel since it was opened.",
            each(|channel| channel.bytes_accepted),
        )?;
        page.counter(
            "broadcaster_channel_messages_lost",
            "Messages of the channel dropped for slow listeners, once per listener.",
            each(|channel| channel.messages_lost),
        )
    }

    fn listeners(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "broadcaster_listeners_omitted",
            "Listeners without samples of their own.",
            [(NONE, self.connections_omitted)],
        )?;
        let labels: Vec<Vec<(&str, String)>> = self.stats.connections.iter().map(labels).collect();
        let each = |number: fn(&Connection) -> u64| {
            labels.iter().map(Vec::as_slice).zip(self.stats.connections.iter().map(number))
        };
        page.gauge(
            "broadcaster_listener_queue_messages",
            "Messages queued for the listener.",
            each(|listener| listener.queue_messages),
        )?;
        page.bytes(
            "broadcaster_listener_queue",
            "Bytes queued for the listener.",
            each(|listener| listener.queue_bytes),
        )?;
        page.counter(
            "broadcaster_listener_messages_lost",
            "Messages dropped for the listener.",
            each(|listener| listener.messages_lost),
        )?;
        page.seconds(
            "broadcaster_listener_blocked",
            "Time since the listener stopped accepting everything queued for it; 0 if it accepts.",
            each(|listener| listener.blocked_ms.unwrap_or(0)),
        )?;
        page.gauge(
            "broadcaster_listener_delaying",
            "Channels whose senders with backpressure wait for the listener.",
            each(|listener| listener.delaying),
        )?;
        page.counter(
            "broadcaster_listener_delays",
            "How often senders of a channel have waited for the listener.",
            each(|listener| listener.delays),
        )?;
        page.gauge(
            "broadcaster_listener_left_behind",
            "1 if the listener delays no sender until it has caught up, else 0.",
            each(|listener| u64::from(listener.left_behind)),
        )
    }
}

/// The labels of a listener. It has a `channel` label if it has exactly one channel.
fn labels(connection: &Connection) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("id", connection.id.to_string()),
        ("pid", connection.pid.to_string()),
        ("process", connection.process.clone().unwrap_or_default()),
        ("kind", connection.kind().to_owned()),
    ];
    if let ([channel], 1) = (connection.channels.as_slice(), connection.channels_total) {
        labels.push(("channel", channel.clone()));
    }
    labels
}

/// No labels.
const NONE: [(&str, &str); 0] = [];

/// Encodes one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info<S: EncodeLabelSet>(&mut self, name: &str, help: &str, labels: &S) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    fn gauge<S: Labels>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (S, u64)>) -> fmt::Result {
        self.gauges(name, help, None, values)
    }

    /// Appends the unit to `name`.
    fn bytes<S: Labels>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (S, u64)>) -> fmt::Result {
        self.gauges(name, help, Some(&Unit::Bytes), values)
    }

    fn gauges<S: Labels>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| match labels.any() {
            true => family.encode_family(&labels)?.encode_gauge(&value),
            false => family.encode_gauge(&value),
        })
    }

    /// Appends the unit to `name`; the values are milliseconds.
    fn seconds<S: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, ms)| {
            let value = Duration::from_millis(ms).as_secs_f64();
            match labels.any() {
                true => family.encode_family(&labels)?.encode_gauge(&value),
                false => family.encode_gauge(&value),
            }
        })
    }

    /// Appends `_total` to the samples.
    fn counter<S: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        self.counters(name, help, None, values)
    }

    fn counter_bytes<S: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        self.counters(name, help, Some(&Unit::Bytes), values)
    }

    fn counters<S: Labels>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| match labels.any() {
            true => family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None),
            false => family.encode_counter::<NoLabelSet, u64, u64>(&value, None),
        })
    }
}

/// A set of labels that may be empty.
trait Labels: EncodeLabelSet {
    /// Whether there is any; not every reader accepts an empty pair of braces.
    fn any(&self) -> bool;
}

impl<const N: usize> Labels for [(&str, &str); N] {
    fn any(&self) -> bool {
        N > 0
    }
}

impl Labels for &[(&str, String)] {
    fn any(&self) -> bool {
        !self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::stats::sample;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn value_of<'a>(text: &'a str, sample: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
    }

    #[test]
    fn the_totals_are_those_of_the_daemon() {
        let text = render(sample::stats()).expect("text");
        for (name, wanted) in [
            (r#"broadcaster_daemon_info{version="1.2.3",protocol="1"}"#, "1"),
            ("broadcaster_uptime_seconds", "61.5"),
            (r#"broadcaster_connections{phase="active"}"#, "3"),
            (r#"broadcaster_connections{phase="greeting"}"#, "0"),
            ("broadcaster_senders", "1"),
            ("broadcaster_listeners", "2"),
            ("broadcaster_observers", "0"),
            ("broadcaster_connections_max", "4096"),
            ("broadcaster_channels", "2"),
            ("broadcaster_channels_max", "65537"),
            ("broadcaster_messages_accepted_total", "12345"),
            ("broadcaster_accepted_bytes_total", "4194304"),
            ("broadcaster_messages_delivered_total", "24680"),
            ("broadcaster_messages_lost_total", "11"),
            ("broadcaster_replies_accepted_total", "7"),
            ("broadcaster_replies_dropped_total", "3"),
            ("broadcaster_connections_refused_total", "2"),
            ("broadcaster_listeners_left_behind_total", "8"),
            ("broadcaster_held_bytes", "1048576"),
            ("broadcaster_held_max_bytes", "268435456"),
            ("broadcaster_queue_max_bytes", "4194304"),
            ("broadcaster_queue_messages_max", "65536"),
            ("broadcaster_rings", "9"),
            ("broadcaster_links", "14"),
            ("broadcaster_ring_messages_accepted_total", "6000"),
            ("broadcaster_channels_omitted", "0"),
            ("broadcaster_listeners_omitted", "0"),
            (r#"broadcaster_channel_accepted_bytes_total{channel="com.example.sync"}"#, "700"),
        ] {
            assert_eq!(value_of(&text, name), Some(wanted), "{name}:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn only_the_busiest_channels_and_the_slowest_listeners_have_samples() {
        let mut stats = sample::stats();
        stats.channels = (0..1000).map(|n| sample::channel(&format!("news.{n}"), n)).collect();
        stats.connections = (0..1000).map(|id| sample::connection(id, "listener", &["news"])).collect();
        stats.connections.push(sample::connection(5000, "sender", &["news"]));
        let text = render(stats).expect("text");
        let named = |prefix: &str| text.lines().filter(|line| line.starts_with(prefix)).count();
        assert_eq!(named("broadcaster_channel_senders{"), CHANNELS_MAX);
        assert_eq!(named("broadcaster_listener_queue_bytes{"), CONNECTIONS_MAX);
        assert_eq!(value_of(&text, "broadcaster_channels"), Some("1000"));
        assert_eq!(value_of(&text, "broadcaster_channels_omitted"), Some("800"));
        assert_eq!(value_of(&text, "broadcaster_listeners_omitted"), Some("800"));
        assert!(text.contains(r#"{channel="news.800"}"#) && !text.contains(r#"{channel="news.799"}"#));
        assert!(text.contains(r#"{id="800","#) && !text.contains(r#"{id="799","#));
    }

    #[test]
    fn every_family_is_documented() {
        let document = include_str!("../../../STATS.md");
        let text = render(sample::stats()).expect("text");
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() > 20, "{families:?}");
        for family in families {
            let (name, kind) = family.split_once(' ').expect("name and type");
            let name = match kind {
                "counter" => format!("`{name}_total`"),
                "info" => format!("`{name}_info`"),
                _ => format!("`{name}`"),
            };
            assert!(document.contains(&name), "STATS.md does not describe {name}");
        }
    }

    /// Parses the text with an independent reader: one line per sample with name, sorted labels and value.
    const READER: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.buffer.read().decode()))
assert all(family.documentation for family in families)
print(len(families))
for family in families:
    for sample in family.samples:
        print(json.dumps([sample.name, sorted(sample.labels.items()), sample.value]))
"#;

    fn parse_independently(text: &str) -> Option<String> {
        for python in ["/usr/bin/python3", "python3"] {
            let has_reader = Command::new(python)
                .args(["-c", "import prometheus_client.openmetrics.parser"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            if !has_reader {
                continue;
            }
            let mut reader = Command::new(python)
                .args(["-c", READER])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("python ran before");
            reader.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("python reads");
            let output = reader.wait_with_output().expect("python ends");
            assert!(output.status.success(), "the reader rejects this:\n{text}");
            return Some(String::from_utf8(output.stdout).expect("ASCII"));
        }
        None
    }

    #[test]
    fn independent_reader_understands_it() {
        let text = render(sample::stats()).expect("text");
        let Some(read) = parse_independently(&text) else {
            // Not with eprintln, whose output a passing test hides.
            let why = "no python3 has the package prometheus_client (Debian: python3-prometheus-client)";
            writeln!(std::io::stderr(), "SKIPPED: independent_reader_understands_it: {why}").expect("stderr is open");
            return;
        };
        let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(read.lines().next(), Some(families.to_string().as_str()));
        let samples: Vec<serde_json::Value> =
            read.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(samples.len(), text.lines().filter(|line| !line.starts_with('#')).count());
        let odd =
            serde_json::json!(["broadcaster_channel_messages_accepted_total", [["channel", sample::ODD_NAME]], 50]);
        assert!(samples.contains(&odd), "{read}");
        let listener = serde_json::json!([
            "broadcaster_listener_blocked_seconds",
            [["channel", sample::ODD_NAME], ["id", "3"], ["kind", "listener"], ["pid", "2147418115"], ["process", ""]],
            4.5
        ]);
        assert!(samples.contains(&listener), "{read}");
    }
}
