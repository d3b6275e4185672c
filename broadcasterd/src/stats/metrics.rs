//! The numbers as OpenMetrics text, for monitoring systems. It names a bounded number of channels and listeners, whatever
//! clients do.

use super::model::{Channel, Connection, Role, Stats};
use super::process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::cmp::Reverse;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Channels that are named: the busiest, by messages accepted.
pub(crate) const CHANNELS_MAX: usize = 200;

/// Listeners and monitors that are named: those with most bytes waiting, then those that lost most.
pub(crate) const CONNECTIONS_MAX: usize = 200;

/// The whole text of `GET /metrics`. The names of the processes are looked up here.
pub(crate) fn render(stats: Stats) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition::of(stats)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// What is told, chosen.
#[derive(Debug)]
struct Exposition {
    stats: Stats,
    /// How many connections are in each role, in the order of the roles.
    roles: [(Role, u64); 6],
    channels: u64,
    channels_omitted: u64,
    /// Those of `stats.connections` that messages wait for.
    connections_omitted: u64,
}

impl Exposition {
    fn of(mut stats: Stats) -> Self {
        let roles = [Role::Greeting, Role::Sender, Role::Listener, Role::Inspector, Role::Monitor, Role::Leaving];
        let roles = roles.map(|role| (role, len(stats.connections.iter().filter(|other| other.role == role))));
        let channels = stats.channels_omitted + len(&stats.channels);
        stats.channels.sort_by_key(|channel| Reverse(channel.messages_accepted));
        let channels_omitted = stats.channels_omitted + len(stats.channels.iter().skip(CHANNELS_MAX));
        stats.channels.truncate(CHANNELS_MAX);
        stats.connections.retain(|connection| matches!(connection.role, Role::Listener | Role::Monitor));
        stats.connections.sort_by_key(|connection| Reverse((connection.queue_bytes, connection.messages_lost)));
        let connections_omitted = len(stats.connections.iter().skip(CONNECTIONS_MAX));
        stats.connections.truncate(CONNECTIONS_MAX);
        process::name(&mut stats.connections);
        Self { stats, roles, channels, channels_omitted, connections_omitted }
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
            "The version of the daemon and the newest one of the wire protocol that it speaks.",
            &[("version", daemon.version.as_str()), ("protocol", &daemon.protocol.to_string())],
        )?;
        page.seconds("broadcaster_uptime", "Since the daemon began.", [(NONE, daemon.uptime_ms)])?;
        let roles = self.roles.map(|(role, count)| ([("role", role.word())], count));
        page.gauge("broadcaster_connections", "Connections that are open, by what they are.", roles)?;
        page.gauge("broadcaster_connections_max", "Connections that may be open.", [(NONE, daemon.connections_max)])?;
        page.gauge("broadcaster_channels", "Channels that somebody has open.", [(NONE, self.channels)])?;
        page.gauge("broadcaster_channels_max", "Channels that may be open.", [(NONE, daemon.channels_max)])?;
        page.counter(
            "broadcaster_messages_accepted",
            "Messages accepted from senders.",
            [(NONE, daemon.messages_accepted)],
        )?;
        page.counter_bytes(
            "broadcaster_accepted",
            "Bytes of the frames that accepted messages came in.",
            [(NONE, daemon.bytes_accepted)],
        )?;
        page.counter(
            "broadcaster_messages_delivered",
            "Messages written to listeners, counted once for each listener.",
            [(NONE, daemon.messages_delivered)],
        )?;
        page.counter(
            "broadcaster_messages_lost",
            "Messages dropped for slow listeners, counted once for each listener.",
            [(NONE, daemon.messages_lost)],
        )?;
        page.counter(
            "broadcaster_connections_refused",
            "Connections that the daemon refused or ended.",
            [(NONE, daemon.connections_refused)],
        )?;
        page.bytes("broadcaster_held", "Memory that frames in transit hold.", [(NONE, daemon.held_bytes)])?;
        page.bytes("broadcaster_held_max", "Memory that frames in transit may hold.", [(NONE, daemon.held_bytes_max)])?;
        page.bytes("broadcaster_queue_max", "Bytes that may wait for one listener.", [(NONE, daemon.queue_bytes_max)])?;
        page.gauge(
            "broadcaster_queue_messages_max",
            "Messages that may wait for one listener.",
            [(NONE, daemon.queue_messages_max)],
        )
    }

    fn channels(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "broadcaster_channels_omitted",
            "Channels without numbers of their own here, because there are too many.",
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
            "Messages of the channel dropped for slow listeners, counted once for each listener.",
            each(|channel| channel.messages_lost),
        )
    }

    fn listeners(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "broadcaster_listeners_omitted",
            "Listeners without numbers of their own here, because there are too many.",
            [(NONE, self.connections_omitted)],
        )?;
        let labels: Vec<Vec<(&str, String)>> = self.stats.connections.iter().map(labels).collect();
        let each = |number: fn(&Connection) -> u64| {
            labels.iter().map(Vec::as_slice).zip(self.stats.connections.iter().map(number))
        };
        page.gauge(
            "broadcaster_listener_queue_messages",
            "Messages that wait in the daemon for the listener.",
            each(|listener| listener.queue_messages),
        )?;
        page.bytes(
            "broadcaster_listener_queue",
            "Bytes that wait in the daemon for the listener.",
            each(|listener| listener.queue_bytes),
        )?;
        page.counter(
            "broadcaster_listener_messages_lost",
            "Messages dropped for the listener because it was slow.",
            each(|listener| listener.messages_lost),
        )?;
        page.seconds(
            "broadcaster_listener_blocked",
            "For how long the listener has not taken all that waits for it.",
            each(|listener| listener.blocked_ms.unwrap_or(0)),
        )
    }
}

/// Who a listener is. Its channel is told if it has exactly one.
fn labels(connection: &Connection) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("id", connection.id.to_string()),
        ("pid", connection.pid.to_string()),
        ("process", connection.process.clone().unwrap_or_default()),
        ("role", connection.role.word().to_owned()),
    ];
    if let ([channel], 1) = (connection.channels.as_slice(), connection.channels_total) {
        labels.push(("channel", channel.clone()));
    }
    labels
}

/// Without labels.
const NONE: [(&str, &str); 0] = [];

/// One family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info<S: EncodeLabelSet>(&mut self, name: &str, help: &str, labels: &S) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    fn gauge<S: Labels>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (S, u64)>) -> fmt::Result {
        self.gauges(name, help, None, values)
    }

    /// `name` gets the unit appended.
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

    /// `name` gets the unit appended; the values are milliseconds.
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

    /// The samples get `_total` appended.
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
    /// Whether there is one; an empty pair of braces is nothing that every reader takes.
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
    use crate::stats::sample;
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
            (r#"broadcaster_connections{role="listener"}"#, "2"),
            (r#"broadcaster_connections{role="monitor"}"#, "0"),
            ("broadcaster_connections_max", "4096"),
            ("broadcaster_channels", "2"),
            ("broadcaster_channels_max", "65537"),
            ("broadcaster_messages_accepted_total", "12345"),
            ("broadcaster_accepted_bytes_total", "4194304"),
            ("broadcaster_messages_delivered_total", "24680"),
            ("broadcaster_messages_lost_total", "11"),
            ("broadcaster_connections_refused_total", "2"),
            ("broadcaster_held_bytes", "1048576"),
            ("broadcaster_held_max_bytes", "268435456"),
            ("broadcaster_queue_max_bytes", "4194304"),
            ("broadcaster_queue_messages_max", "65536"),
            ("broadcaster_channels_omitted", "0"),
            ("broadcaster_listeners_omitted", "0"),
            (r#"broadcaster_channel_accepted_bytes_total{channel="com.example.sync"}"#, "700"),
        ] {
            assert_eq!(value_of(&text, name), Some(wanted), "{name}:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn only_the_busiest_channels_and_the_slowest_listeners_are_named() {
        let mut stats = sample::stats();
        stats.channels = (0..1000).map(|n| sample::channel(&format!("news.{n}"), n)).collect();
        stats.connections = (0..1000).map(|id| sample::connection(id, Role::Listener, &["news"])).collect();
        stats.connections.push(sample::connection(5000, Role::Sender, &["news"]));
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
        let document = include_str!("../../STATS.md");
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

    /// What a reader that is not ours makes of the text: one line per sample, name, labels and value, all sorted.
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

    fn read_by_another(text: &str) -> Option<String> {
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
                .expect("it ran a moment ago");
            reader.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
            let output = reader.wait_with_output().expect("it ends");
            assert!(output.status.success(), "it does not take this:\n{text}");
            return Some(String::from_utf8(output.stdout).expect("ASCII"));
        }
        None
    }

    #[test]
    fn another_reader_understands_it() {
        let text = render(sample::stats()).expect("text");
        let Some(read) = read_by_another(&text) else {
            // Not through eprintln, which says nothing in a test that passes.
            let why = "no python3 has the package prometheus_client (Debian: python3-prometheus-client)";
            writeln!(std::io::stderr(), "SKIPPED: another_reader_understands_it: {why}").expect("stderr is open");
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
            [["channel", sample::ODD_NAME], ["id", "3"], ["pid", "2147418115"], ["process", ""], ["role", "listener"]],
            4.5
        ]);
        assert!(samples.contains(&listener), "{read}");
    }
}
