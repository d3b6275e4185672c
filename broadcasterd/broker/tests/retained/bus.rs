//! Senders that retain messages, and everything that each connection receives, in order.

use crate::run::run_of;
use crate::turns::{Client, Turns};
use broadcaster_broker::{ChannelSnapshot, ConnId, Event};
use broadcaster_protocol::control::{
    Confirm, Control, Extension, Open, Overflow, Receipt, RefusedCode, Selector, Subscribe,
};
use broadcaster_protocol::meta::{Metadata, Retention};
use broadcaster_protocol::{ChannelId, Header, Item, SenderId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The sender number that listeners propose.
const LISTENER: u32 = 1000;

/// One thing that a connection has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Subscribed(u32),
    Unsubscribed(u32),
    /// The channel has this name; an empty one if it has ended.
    Named(u32, String),
    /// So many messages of this channel are replayed.
    Retained(u32, u32),
    /// A message: its channel, the number of its sender, its sequence number and payload, and whether it is of the kind that is retained.
    Message {
        channel: u32,
        sender: u32,
        sequence: u64,
        payload: Vec<u8>,
        retained: bool,
    },
    Lagged(u32, u64),
    Superseded(u32, u64),
    Refused(RefusedCode, String),
    /// Anything else: the kind of the frame.
    Other(u8),
}

pub(crate) type Bus = Turns<Seen>;

/// What a connection has received.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The ids of the channels that it has opened, and the sequence numbers that are due.
    pub(crate) publications: BTreeMap<String, (ChannelId, u64)>,
    pub(crate) got: Vec<Got>,
    receipts: Vec<Receipt>,
}

impl Bus {
    /// A connection with this sender number, if it is free, which takes everything.
    pub(crate) fn connect(&mut self, number: u32) -> ConnId {
        let conn = self.join(number, Seen::default());
        self.peers[conn.0].got.clear();
        conn
    }

    /// Opens a channel, whose first message will have this sequence number.
    pub(crate) fn open(&mut self, conn: ConnId, channel: &str, next_sequence: u64) {
        self.send(conn, Open { channel: channel.to_owned(), next_sequence, extensions: Vec::new() });
        assert_eq!(self.peers[conn.0].publications[channel].1, 0);
        self.peers[conn.0].publications.get_mut(channel).unwrap().1 = next_sequence;
    }

    pub(crate) fn sender(&mut self, number: u32, channel: &str) -> ConnId {
        let conn = self.connect(number);
        self.open(conn, channel, 0);
        conn
    }

    /// A listener of the channel that requests `replay` messages.
    pub(crate) fn listener(&mut self, channel: &str, replay: u32) -> ConnId {
        let conn = self.connect(LISTENER);
        self.send(conn, subscribe(1, name(channel), replay));
        conn
    }

    /// The frame that the sender writes next on the channel, which counts as written.
    pub(crate) fn next_frame(&mut self, conn: ConnId, channel: &str, kind: Kind, payload: &[u8]) -> Event {
        let peer = &mut self.peers[conn.0];
        let sender = peer.id;
        let (id, next) = peer.publications.get_mut(channel).unwrap();
        let sequence = *next;
        *next = next.wrapping_add(1);
        Event::Run { conn, run: run_of(&frame(kind, *id, sender, sequence, payload)) }
    }

    pub(crate) fn publish(&mut self, conn: ConnId, channel: &str, payload: &[u8]) {
        let event = self.next_frame(conn, channel, Kind::Publish, payload);
        self.turn([event]);
    }

    pub(crate) fn retain(&mut self, conn: ConnId, channel: &str, payload: &[u8], retention: Retention) {
        let event = self.next_frame(conn, channel, Kind::Retain(retention), payload);
        self.turn([event]);
    }

    pub(crate) fn redeclare(&mut self, conn: ConnId, channel: &str, sequence: u64, payload: &[u8]) {
        let peer = &self.peers[conn.0];
        let (id, _) = peer.publications[channel];
        let run = run_of(&frame(Kind::Redeclare(Retention::default()), id, peer.id, sequence, payload));
        self.turn([Event::Run { conn, run }]);
    }

    /// Why the last message of the publication is not retained, if it was to be.
    pub(crate) fn not_retained(&mut self, conn: ConnId, channel: &str) -> Option<String> {
        let (id, next) = self.peers[conn.0].publications[channel];
        self.send(conn, Confirm { number: 7, id: id.0, extensions: Vec::new() });
        let receipt = self.peers[conn.0].receipts.pop().unwrap();
        assert_eq!(receipt.next_sequence, next);
        receipt.not_retained()
    }

    pub(crate) fn id(&self, conn: ConnId, channel: &str) -> u32 {
        self.peers[conn.0].publications[channel].0.0
    }

    /// Everything that the connection has received since the last call.
    pub(crate) fn got(&mut self, conn: ConnId) -> Vec<Got> {
        std::mem::take(&mut self.peers[conn.0].got)
    }

    /// The payloads of the messages among it, as text, with `~` before those that are replayed.
    pub(crate) fn payloads(&mut self, conn: ConnId) -> String {
        let (mut texts, mut replayed) = (Vec::new(), BTreeMap::new());
        for got in self.got(conn) {
            match got {
                Got::Retained(channel, count) => _ = replayed.insert(channel, count),
                Got::Message { channel, payload, retained, .. } => {
                    let left = replayed.entry(channel).or_insert(0);
                    let sign = if *left > 0 { "~" } else { "" };
                    assert!(retained || *left == 0, "a message is replayed that is not retained");
                    *left = left.saturating_sub(1);
                    texts.push(format!("{sign}{}", String::from_utf8(payload).unwrap()));
                }
                Got::Lagged(_, count) => texts.push(format!("-{count}")),
                _ => {}
            }
        }
        assert!(replayed.values().all(|&left| left == 0), "fewer messages are replayed than announced");
        texts.join(" ")
    }

    /// What the connection was informed about that it had retained.
    pub(crate) fn superseded(&mut self, conn: ConnId) -> Vec<u64> {
        let got = self.got(conn).into_iter();
        got.filter_map(|got| if let Got::Superseded(_, sequence) = got { Some(sequence) } else { None }).collect()
    }

    pub(crate) fn is_refused(&mut self, conn: ConnId, code: RefusedCode, reason: &str) {
        let got = self.got(conn);
        assert!(
            matches!(got.last(), Some(Got::Refused(refused, text)) if *refused == code && text.contains(reason)),
            "{got:?}"
        );
    }

    pub(crate) fn channel(&self, name: &str) -> Option<ChannelSnapshot> {
        let snapshot = self.broker.snapshot(self.now);
        snapshot.channels.into_iter().find(|channel| channel.name.as_str() == name)
    }
}

impl Client for Seen {
    fn receive(&mut self, item: Item) {
        let control = match item {
            Item::Run(run) => {
                assert!(!run.is_redeclared() && !run.is_reply(), "no listener receives such a frame");
                for (sequence, payload) in run.iter() {
                    self.got.push(Got::Message {
                        channel: run.channel().0,
                        sender: run.sender().number(),
                        sequence,
                        payload: payload.to_vec(),
                        retained: run.is_retained(),
                    });
                }
                return;
            }
            Item::Discarded(_) => panic!("a consumer discards nothing"),
            Item::Control(control) => control,
        };
        self.got.push(match &control {
            Control::Welcome(_) => return,
            Control::Opened(opened) => {
                self.publications.insert(opened.channel.clone(), (ChannelId(opened.id), 0));
                return;
            }
            Control::Receipt(receipt) => {
                self.receipts.push(receipt.clone());
                return;
            }
            Control::Subscribed(subscribed) => Got::Subscribed(subscribed.subscription),
            Control::Unsubscribed(unsubscribed) => Got::Unsubscribed(unsubscribed.subscription),
            Control::Named(named) => Got::Named(named.id, named.name.clone()),
            Control::Retained(retained) => Got::Retained(retained.id, retained.count),
            Control::Lagged(lagged) => Got::Lagged(lagged.id, lagged.count),
            Control::Superseded(superseded) => Got::Superseded(superseded.id, superseded.sequence),
            Control::Refused(refused) => Got::Refused(refused.code, refused.reason.clone()),
            other => Got::Other(other.kind()),
        });
    }
}

/// The kind of a data frame, with its retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Publish,
    Retain(Retention),
    Redeclare(Retention),
}

/// A frame, without metadata if the retention is the default.
pub(crate) fn frame(kind: Kind, channel: ChannelId, sender: SenderId, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let (header, retention): (fn(_, _, _, _) -> _, _) = match kind {
        Kind::Publish => (Header::publish, Retention::default()),
        Kind::Retain(retention) => (Header::retain, retention),
        Kind::Redeclare(retention) => (Header::redeclare, retention),
    };
    let mut metadata = Metadata::new();
    if retention != Retention::default() {
        metadata = metadata.retention(retention).unwrap();
    }
    let header: Header = header(channel, sender, sequence, u32::try_from(payload.len()).unwrap());
    [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), payload].concat()
}

/// A listener's subscription that requests `replay` messages; without the extension if that is 0.
pub(crate) fn subscribe(subscription: u32, selector: Selector, replay: u32) -> Subscribe {
    let extensions = if replay > 0 { vec![Extension::replay(replay)] } else { Vec::new() };
    Subscribe { subscription, selector, overflow: Overflow::DropOldest, observer: false, extensions }
}

pub(crate) fn name(channel: &str) -> Selector {
    Selector::Name(channel.to_owned())
}

pub(crate) fn keep(keep: u32) -> Retention {
    Retention { lifetime_ms: 0, keep }
}

pub(crate) fn lifetime(seconds: u64) -> Retention {
    Retention { lifetime_ms: seconds * 1000, keep: 1 }
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
