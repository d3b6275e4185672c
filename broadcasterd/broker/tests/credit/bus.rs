//! A broker whose connections take as many bytes as a test lets them, and senders that obey credit.

use broadcaster_broker::{Broker, ConnId, ConnSnapshot, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::{Control, Extension, Open, Overflow, Refused, Selector, Subscribe, extension};
use broadcaster_protocol::frame::extent;
use broadcaster_protocol::limits::{CREDIT_MESSAGE_BYTES, PAYLOAD_BYTES_MAX};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const UID: u32 = 1000;

/// A broker with connections whose sockets are as large as a test lets them be.
pub(crate) struct Bus {
    pub(crate) broker: Broker,
    pub(crate) now: Moment,
    pub(crate) peers: Vec<Peer>,
    to_write: Vec<ConnId>,
}

/// The other end of a connection.
pub(crate) struct Peer {
    decoder: Decoder,
    chunk: BytesMut,
    /// Bytes that its socket still takes.
    pub(crate) room: usize,
    pub(crate) ended: bool,
    pub(crate) refused: Option<Refused>,
    /// The sender id.
    pub(crate) id: Option<SenderId>,
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
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Moment::default();
        let broker = Broker::new(limits, UID, 1, "test", now);
        Self { broker, now, peers: Vec::new(), to_write: Vec::new() }
    }

    /// Plays a turn of these events.
    pub(crate) fn turn(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.apply(event);
        }
        self.flush();
        self.apply(Event::Flushed);
        self.flush();
        self.broker.invariants();
    }

    fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) => self.to_write.push(conn),
                Effect::Close(conn) => self.end(conn),
                Effect::Discard(_) | Effect::Drain | Effect::Release | Effect::Exit => {}
            }
        }
    }

    /// The connection ends, without a turn's end.
    pub(crate) fn end(&mut self, conn: ConnId) {
        if !std::mem::replace(&mut self.peers[conn.0].ended, true) {
            self.apply(Event::Closed { conn });
        }
    }

    fn flush(&mut self) {
        for conn in std::mem::take(&mut self.to_write) {
            self.write(conn);
        }
    }

    /// The connection takes what it has room for, without a turn's end.
    pub(crate) fn write(&mut self, conn: ConnId) {
        while !self.peers[conn.0].ended {
            let outgoing: Vec<u8> = self.broker.outgoing(conn).flatten().copied().collect();
            if outgoing.is_empty() {
                return;
            }
            let peer = &mut self.peers[conn.0];
            let bytes = outgoing.len().min(peer.room);
            peer.room = peer.room.saturating_sub(bytes);
            peer.read(&outgoing[..bytes]);
            let blocked = bytes < outgoing.len();
            self.apply(Event::Written { conn, bytes, blocked });
            if blocked {
                return;
            }
        }
    }

    /// The connection takes `bytes` more, in a turn of its own.
    pub(crate) fn take(&mut self, conn: ConnId, bytes: usize) {
        self.peers[conn.0].room = self.peers[conn.0].room.saturating_add(bytes);
        self.write(conn);
        self.turn([]);
    }

    /// The connection takes everything from now on.
    pub(crate) fn take_all(&mut self, conn: ConnId) {
        self.take(conn, usize::MAX);
    }

    /// The connection takes nothing from now on.
    pub(crate) fn stall(&mut self, conn: ConnId) {
        self.peers[conn.0].room = 0;
    }

    /// So much time passes. The broker ticks when it asked for it.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(deadline) = self.broker.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            self.turn([Event::Tick]);
        }
        self.now = end;
    }

    /// The broker has nothing to do at once.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.broker.next_deadline().is_none_or(|deadline| deadline > self.now)
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.end(conn);
        self.turn([]);
    }

    /// A connection whose Hello was accepted, and which takes everything.
    pub(crate) fn connect(&mut self) -> ConnId {
        let conn = ConnId(self.peers.len());
        self.peers.push(Peer {
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            room: usize::MAX,
            ended: false,
            refused: None,
            id: None,
            publications: BTreeMap::new(),
            messages: BTreeMap::new(),
            lost: BTreeMap::new(),
            controls: Vec::new(),
        });
        self.turn([Event::Opened { conn, pid: 50, uid: UID }]);
        let number = u32::try_from(conn.0).unwrap();
        self.send(conn, handshake::hello("a test", "test", 50, number));
        conn
    }

    pub(crate) fn send(&mut self, conn: ConnId, control: impl Into<Control>) {
        self.turn([Event::Control { conn, control: control.into() }]);
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
        let id = peer.id.unwrap();
        let publication = peer.publications.get_mut(&sender.channel).unwrap();
        let wire = wire(sender.channel, id, publication.next..publication.next + frames, payload);
        publication.next += frames;
        if let Some(balance) = &mut publication.balance {
            *balance -= i64::try_from(wire.len() as u64 + frames * CREDIT_MESSAGE_BYTES).unwrap();
        }
        Event::Run { conn: sender.conn, run: decode(&wire) }
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
        let id = self.peers[sender.conn.0].id.unwrap();
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

impl Peer {
    fn read(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
            target.put_slice(now);
            rest = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).unwrap() {
                self.receive(item);
            }
        }
    }

    fn receive(&mut self, item: Item) {
        match item {
            Item::Run(run) => *self.messages.entry((run.channel(), run.sender())).or_default() += run.messages(),
            Item::Discarded(_) => panic!("a consumer discards nothing"),
            Item::Control(control) => {
                match &control {
                    Control::Welcome(welcome) => self.id = Some(SenderId::from_raw(welcome.sender)),
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

/// The frames as one run.
pub(crate) fn decode(wire: &[u8]) -> Run {
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    let mut rest = wire;
    assert!(extent(wire).0 <= wire.len());
    loop {
        let mut target = decoder.target(&mut chunk);
        let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
        target.put_slice(now);
        rest = later;
        match decoder.next(&mut chunk).unwrap() {
            Some(Item::Run(run)) if rest.is_empty() => return run,
            None if !rest.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
}
