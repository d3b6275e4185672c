//! A broker whose connections take as many bytes as a test lets them. What each of them makes of what it receives is up to the test.

use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::Control;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{Decoder, Item, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

const UID: u32 = 1000;

/// The process of every client.
const PID: u32 = 50;

/// A broker with connections whose sockets are as large as a test lets them be.
pub(crate) struct Turns<P> {
    pub(crate) broker: Broker,
    pub(crate) now: Moment,
    pub(crate) peers: Vec<Peer<P>>,
    to_write: Vec<ConnId>,
}

/// The other end of a connection.
pub(crate) struct Peer<P> {
    decoder: Decoder,
    chunk: BytesMut,
    /// Bytes that its socket still takes.
    pub(crate) room: usize,
    pub(crate) ended: bool,
    pub(crate) id: SenderId,
    client: P,
}

/// What a test notes of what a connection receives.
pub(crate) trait Client {
    fn receive(&mut self, item: Item);
}

impl<P> Deref for Peer<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.client
    }
}

impl<P> DerefMut for Peer<P> {
    fn deref_mut(&mut self) -> &mut P {
        &mut self.client
    }
}

impl<P: Client> Turns<P> {
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

    pub(crate) fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) => self.to_write.push(conn),
                Effect::Close(conn) => self.end(conn),
                Effect::Discard(_) | Effect::Drain | Effect::Release | Effect::Exit => {}
                other => panic!("rings are not supported here: {other:?}"),
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
            self.tick(deadline);
        }
        self.now = end;
    }

    /// What is due at this time happens.
    pub(crate) fn tick(&mut self, deadline: Moment) {
        self.now = self.now.max(deadline);
        self.turn([Event::Tick]);
        assert!(self.is_at_rest(), "what is due does not happen");
    }

    /// The broker has nothing to do at once.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.broker.next_deadline().is_none_or(|deadline| deadline > self.now)
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.end(conn);
        self.turn([]);
    }

    /// A connection whose Hello was accepted, and which takes everything. It proposes this sender number.
    pub(crate) fn join(&mut self, number: u32, client: P) -> ConnId {
        let conn = ConnId(self.peers.len());
        let decoder = Decoder::consumer(PAYLOAD_BYTES_MAX);
        let id = SenderId::new(PID, number);
        self.peers.push(Peer { decoder, chunk: BytesMut::new(), room: usize::MAX, ended: false, id, client });
        self.turn([Event::Opened { conn, pid: PID, uid: UID }]);
        self.send(conn, handshake::hello("a test", "test", PID, number));
        conn
    }

    pub(crate) fn send(&mut self, conn: ConnId, control: impl Into<Control>) {
        self.turn([Event::Control { conn, control: control.into() }]);
    }
}

impl<P: Client> Peer<P> {
    fn read(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
            target.put_slice(now);
            rest = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).unwrap() {
                if let Item::Control(Control::Welcome(welcome)) = &item {
                    self.id = SenderId::from_raw(welcome.sender);
                }
                self.client.receive(item);
            }
        }
    }
}

/// Prints the seed of a failing sequence.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing seed is {}", self.0);
        }
    }
}
