//! Senders that obey credit, and what each connection receives.

use crate::run::run_of;
use crate::turns::{Client, Turns};
use broadcaster_broker::{ConnId, ConnSnapshot, Event};
use broadcaster_protocol::control::{Control, Extension, Open, Overflow, Refused, Selector, Subscribe, extension};
use broadcaster_protocol::limits::CREDIT_MESSAGE_BYTES;
use broadcaster_protocol::{ChannelId, Header, Item, SenderId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

pub(crate) type Bus = Turns<Seen>;

/// What a connection has received.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) refused: Option<Refused>,
    /// By the id of the channel.
    pub(crate) publications: BTreeMap<ChannelId, Publication>,
    pub(crate) messages: BTreeMap<(ChannelId, SenderId), u64>,
    pub(crate) lost: BTreeMap<ChannelId, u64>,
    /// Every control frame, in order.
    pub(crate) controls: Vec<Control>,
}

/// What a sender knows of a channel that it publishes on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Publication {
    pub(crate) next: u64,
    /// With backpressure: what it may send.
    pub(crate) balance: Option<i64>,
}

/// A channel of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) conn: ConnId,
    pub(crate) channel: ChannelId,
}

impl Bus {
    /// A connection whose Hello was accepted, and which takes everything.
    pub(crate) fn connect(&mut self) -> ConnId {
        let number = u32::try_from(self.peers.len()).unwrap();
        self.join(number, Seen::default())
    }

    /// Opens a channel on the connection, with backpressure if there is a patience.
    pub(crate) fn open(&mut self, conn: ConnId, channel: &str, patience: Option<Duration>) -> Sender {
        self.send(conn, open(channel, patience));
        let opened = self.peers[conn.0].controls.iter().rev().find_map(|control| match control {
            Control::Opened(opened) if opened.channel == channel => Some(ChannelId(opened.id)),
            _ => None,
        });
        let channel = opened.unwrap();
        // A Credit may have arrived in the same turn.
        let publication = self.peers[conn.0].publications.entry(channel).or_default();
        publication.balance = patience.map(|_| publication.balance.unwrap_or(0));
        Sender { conn, channel }
    }

    pub(crate) fn sender(&mut self, channel: &str, patience: Option<Duration>) -> Sender {
        let conn = self.connect();
        self.open(conn, channel, patience)
    }

    pub(crate) fn listener(&mut self, channel: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, subscribe(1, channel));
        conn
    }

    pub(crate) fn publication(&self, sender: Sender) -> Publication {
        self.peers[sender.conn.0].publications[&sender.channel]
    }

    pub(crate) fn balance(&self, sender: Sender) -> i64 {
        self.publication(sender).balance.unwrap()
    }

    /// Publishes frames of one message each, whether there is credit or not.
    pub(crate) fn publish(&mut self, sender: Sender, frames: u64, payload: usize) {
        let event = self.frames(sender, frames, payload);
        self.turn([event]);
    }

    /// The event of [`publish`](Self::publish), which the sender must write before anything else.
    pub(crate) fn frames(&mut self, sender: Sender, frames: u64, payload: usize) -> Event {
        let peer = &mut self.peers[sender.conn.0];
        let id = peer.id;
        let publication = peer.publications.get_mut(&sender.channel).unwrap();
        let wire = wire(sender.channel, id, publication.next..publication.next + frames, payload);
        publication.next += frames;
        if let Some(balance) = &mut publication.balance {
            *balance -= i64::try_from(wire.len() as u64 + frames * CREDIT_MESSAGE_BYTES).unwrap();
        }
        Event::Run { conn: sender.conn, run: run_of(&wire) }
    }

    /// Publishes frame after frame, in turns of their own, while the sender has credit; returns how many.
    pub(crate) fn publish_all(&mut self, sender: Sender, payload: usize) -> u64 {
        let mut frames = 0;
        while self.balance(sender) > 0 {
            self.publish(sender, 1, payload);
            frames += 1;
            assert!(frames < 1_000_000, "credit without end");
        }
        frames
    }

    /// What the listener received of the sender.
    pub(crate) fn received(&self, listener: ConnId, sender: Sender) -> u64 {
        let id = self.peers[sender.conn.0].id;
        self.peers[listener.0].messages.get(&(sender.channel, id)).copied().unwrap_or(0)
    }

    pub(crate) fn lost(&self, listener: ConnId) -> u64 {
        self.peers[listener.0].lost.values().sum()
    }

    pub(crate) fn snapshot_of(&self, conn: ConnId) -> ConnSnapshot {
        let snapshot = self.broker.snapshot(self.now);
        snapshot.connections.into_iter().find(|connection| connection.conn == conn).unwrap()
    }

    pub(crate) fn left_behind(&self, conn: ConnId) -> bool {
        self.snapshot_of(conn).left_behind
    }
}

impl Client for Seen {
    fn receive(&mut self, item: Item) {
        match item {
            Item::Run(run) => *self.messages.entry((run.channel(), run.sender())).or_default() += run.messages(),
            Item::Discarded(_) => panic!("a consumer discards nothing"),
            Item::Control(control) => {
                match &control {
                    Control::Lagged(lagged) => *self.lost.entry(ChannelId(lagged.id)).or_default() += lagged.count,
                    Control::Refused(refused) => self.refused = Some(refused.clone()),
                    Control::Credit(credit) => {
                        let balance = &mut self.publications.entry(ChannelId(credit.id)).or_default().balance;
                        *balance = Some(balance.unwrap_or(0) + i64::try_from(credit.bytes).unwrap());
                    }
                    _ => {}
                }
                self.controls.push(control);
            }
        }
    }
}

pub(crate) fn open(channel: &str, patience: Option<Duration>) -> Open {
    let extensions = patience.map(|patience| {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap();
        Extension { id: extension::BACKPRESSURE, data: milliseconds.to_le_bytes().to_vec() }
    });
    Open { channel: channel.to_owned(), next_sequence: 0, extensions: extensions.into_iter().collect() }
}

pub(crate) fn subscribe(subscription: u32, channel: &str) -> Subscribe {
    let (selector, overflow) = (Selector::Name(channel.to_owned()), Overflow::DropOldest);
    Subscribe { subscription, selector, overflow, observer: false, extensions: Vec::new() }
}

fn wire(channel: ChannelId, sender: SenderId, sequences: Range<u64>, payload: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    for sequence in sequences {
        let header = Header::publish(channel, sender, sequence, u32::try_from(payload).unwrap());
        frames.extend_from_slice(header.as_bytes());
        frames.resize(frames.len() + payload, 7);
    }
    frames
}
