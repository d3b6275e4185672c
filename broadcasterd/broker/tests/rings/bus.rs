//! A broker with rings that consist of numbers only: what the server, senders and listeners make of them, one event after the other.

use crate::run::run_of;
use broadcaster_broker::{
    Attachment, Broker, ConnId, ConnSnapshot, Effect, Event, Head, Limits, LinkId, Moment, RingId,
};
use broadcaster_protocol::control::{
    BeginRing, Confirm, Control, EndRing, LinkAdded, Open, Overflow, Prepared, Receipt, Refused, Selector, Subscribe,
    Unlink, Unsubscribe, Welcome, capability,
};
use broadcaster_protocol::limits::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId, handshake};
use broadcaster_ring::{Cursor, Sample};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const UID: u32 = 1000;

/// Bytes of the frame of every message, and words of it in a ring.
pub(crate) const FRAME_BYTES: u64 = HEADER_BYTES as u64 + 8;
pub(crate) const WORDS: u64 = 3;

/// Messages that a ring holds, and bytes of its memory.
pub(crate) const CAPACITY: u64 = 1000;
pub(crate) const RING_BYTES: u64 = CAPACITY * WORDS * 8;

/// A broker that supports rings, and everything around it.
pub(crate) struct Bus {
    pub(crate) broker: Broker,
    pub(crate) now: Moment,
    pub(crate) peers: Vec<Peer>,
    pub(crate) rings: BTreeMap<RingId, Ring>,
    /// What listeners show of themselves.
    pub(crate) pages: BTreeMap<LinkId, Page>,
    pub(crate) effects: Vec<Effect>,
    to_write: Vec<ConnId>,
    /// The publication for which a ring is being offered.
    offering: Option<(ConnId, ChannelId)>,
}

/// A ring, as the server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) conn: ConnId,
    pub(crate) channel: ChannelId,
    pub(crate) sender: SenderId,
    pub(crate) first: u64,
    /// Messages published.
    pub(crate) published: u64,
    /// Messages that the relay has read, if it reads.
    pub(crate) relay: Option<u64>,
    /// The server has it.
    pub(crate) is_kept: bool,
}

/// What a listener shows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Page {
    pub(crate) sample: Sample,
    /// The ring, once the server has the page.
    pub(crate) ring: Option<RingId>,
}

/// The other end of a connection.
pub(crate) struct Peer {
    decoder: Decoder,
    chunk: BytesMut,
    pub(crate) room: usize,
    pub(crate) ended: bool,
    pub(crate) id: SenderId,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) channels: BTreeMap<String, ChannelId>,
    /// Everything that it has received, in words.
    pub(crate) log: Vec<String>,
    pub(crate) refused: Option<Refused>,
    pub(crate) receipt: Option<Receipt>,
    /// What has come with descriptors.
    pub(crate) attachments: Vec<Attachment>,
    /// Rings that it reads itself, with the next message; a frozen one awaits an answer.
    pub(crate) follows: BTreeMap<LinkId, Follows>,
    /// The rings that it was offered.
    pub(crate) offers: BTreeMap<LinkId, RingId>,
    pub(crate) frozen: bool,
    /// It was asked whether it is prepared for descriptors.
    is_asked: bool,
    /// It does not answer that.
    pub(crate) is_silent: bool,
    /// Channel and messages of what it has received, from whichever side, and losses as `None`.
    pub(crate) stream: Vec<(ChannelId, Option<Range<u64>>, u64)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Follows {
    pub(crate) ring: RingId,
    pub(crate) channel: ChannelId,
    pub(crate) next: u64,
}

/// A connection that has opened one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) conn: ConnId,
    pub(crate) channel: ChannelId,
}

impl Ring {
    pub(crate) fn newest(&self) -> Cursor {
        self.cursor(self.published)
    }

    pub(crate) fn cursor(&self, messages: u64) -> Cursor {
        Cursor { position: messages * WORDS, sequence: self.first + messages }
    }

    pub(crate) fn head(&self) -> Head {
        Head { newest: self.newest(), frame_bytes: self.published * FRAME_BYTES }
    }

    /// The messages that a reader takes which stands at `at`, and how many are lost before.
    fn take(&self, at: u64, max: u64) -> (u64, Range<u64>) {
        let oldest = self.published.saturating_sub(CAPACITY).max(at);
        (oldest - at, oldest..self.published.min(oldest.saturating_add(max)))
    }
}

impl Bus {
    pub(crate) fn new(limits: Limits) -> Self {
        Self::with_rings(limits, 16)
    }

    /// With so many rings at most.
    pub(crate) fn with_rings(limits: Limits, max: usize) -> Self {
        let now = Moment::default();
        let mut broker = Broker::new(limits, UID, 1, "test", now);
        broker.support_rings(max);
        Self {
            broker,
            now,
            peers: Vec::new(),
            rings: BTreeMap::new(),
            pages: BTreeMap::new(),
            effects: Vec::new(),
            to_write: Vec::new(),
            offering: None,
        }
    }

    /// Plays a turn of one event, as the server does: it looks at the rings first.
    pub(crate) fn happen(&mut self, event: Event) {
        for ring in self.broker.rings_before(&event) {
            self.sync(ring);
        }
        self.apply(event);
        self.end_turn();
    }

    pub(crate) fn end_turn(&mut self) {
        self.flush();
        self.apply(Event::Flushed);
        self.flush();
        self.broker.invariants();
        // Clients are prepared as soon as they are asked.
        let asked = self.peers.iter_mut().position(|peer| !peer.ended && std::mem::take(&mut peer.is_asked));
        if let Some(conn) = asked {
            self.send(ConnId(conn), Prepared::default());
        }
    }

    pub(crate) fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        self.effects.extend(&effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) => self.to_write.push(conn),
                Effect::Close(conn) => self.end(conn),
                Effect::Discard(_) | Effect::Drain | Effect::Release | Effect::Exit => {}
                Effect::KeepRing(id) => {
                    let (conn, channel) = self.offering.take().unwrap();
                    let sender = self.peers[conn.0].id;
                    self.rings
                        .insert(id, Ring { conn, channel, sender, first: 0, published: 0, relay: None, is_kept: true });
                }
                Effect::BeginRing { ring, channel, sender, first } => {
                    let ring = self.rings.get_mut(&ring).unwrap();
                    assert_eq!((channel, sender), (ring.channel, ring.sender));
                    ring.first = first;
                }
                Effect::Relay { ring, from } => {
                    let ring = self.rings.get_mut(&ring).unwrap();
                    ring.relay = from.map(|at| {
                        let messages = at.position / WORDS;
                        assert_eq!(at, ring.cursor(messages), "a place that the ring does not have");
                        messages
                    });
                }
                Effect::EndRing(id) => self.end_ring(id),
                Effect::KeepLink { link, ring } => self.pages.get_mut(&link).unwrap().ring = Some(ring),
                Effect::EndLink(id) => {
                    let page = self.pages.remove(&id).filter(|page| page.ring.is_some());
                    if let Some(ring) = page.and_then(|page| page.ring) {
                        self.sample(ring);
                    }
                    self.apply(Event::LinkEnded { link: id, sample: page.map(|page| page.sample) });
                }
            }
        }
    }

    pub(crate) fn end_ring(&mut self, id: RingId) {
        let ring = self.rings.get_mut(&id).unwrap();
        assert!(std::mem::replace(&mut ring.is_kept, false));
        let head = Some(ring.head());
        self.apply(Event::RingEnded { ring: id, head });
    }

    pub(crate) fn end(&mut self, conn: ConnId) {
        if !std::mem::replace(&mut self.peers[conn.0].ended, true) {
            for ring in self.broker.rings_before(&Event::Closed { conn }) {
                self.sync(ring);
            }
            self.apply(Event::Closed { conn });
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.end(conn);
        self.end_turn();
    }

    /// The server reads the ring up to its newest message, and looks at its head.
    pub(crate) fn sync(&mut self, id: RingId) {
        while self.rings[&id].is_kept && self.rings[&id].relay.is_some_and(|relay| relay < self.rings[&id].published) {
            self.relay_once(id, 64);
        }
        self.sample(id);
    }

    /// The server looks at the ring and at the listeners that read it.
    pub(crate) fn sample(&mut self, id: RingId) {
        let Some(ring) = self.rings.get(&id).filter(|ring| ring.is_kept) else { return };
        let event = Event::RingSampled { ring: id, head: ring.head() };
        self.apply(event);
        for link in self.broker.links_of(id).collect::<Vec<_>>() {
            self.sample_link(link);
        }
    }

    pub(crate) fn sample_link(&mut self, link: LinkId) {
        if let Some(page) = self.pages.get(&link).filter(|page| page.ring.is_some()) {
            self.apply(Event::LinkSampled { link, sample: page.sample });
        }
    }

    /// As before a snapshot.
    pub(crate) fn sample_all(&mut self) {
        for ring in self.rings.keys().copied().collect::<Vec<_>>() {
            self.sample(ring);
        }
        for link in self.pages.keys().copied().collect::<Vec<_>>() {
            self.sample_link(link);
        }
        self.end_turn();
    }

    /// The relay reads as many messages at most, in a turn of its own.
    pub(crate) fn relay(&mut self, id: RingId, max: u64) {
        self.relay_once(id, max);
        self.end_turn();
    }

    fn relay_once(&mut self, id: RingId, max: u64) {
        let ring = self.rings.get_mut(&id).unwrap();
        let Some(at) = ring.relay else { return };
        let (lost, taken) = ring.take(at, max);
        ring.relay = Some(taken.end);
        let ring = ring.clone();
        let run = (!taken.is_empty())
            .then(|| run(ring.channel, ring.sender, ring.first + taken.start..ring.first + taken.end));
        let at = ring.cursor(taken.end);
        self.apply(Event::Relayed { ring: id, head: ring.head(), at, lost, run });
    }

    fn flush(&mut self) {
        for conn in std::mem::take(&mut self.to_write) {
            self.write(conn);
        }
    }

    /// The connection takes what it has room for.
    pub(crate) fn write(&mut self, conn: ConnId) {
        while !self.peers[conn.0].ended {
            let attachment = self.broker.attachment(conn);
            let exists = |attachment: Attachment| match attachment {
                Attachment::Ring(ring) | Attachment::Relay(ring) => self.rings[&ring].is_kept,
                Attachment::Link(link) => self.pages.get(&link).is_some_and(|page| page.ring.is_some()),
            };
            if attachment.is_some_and(|attachment| !exists(attachment)) {
                self.apply(Event::Withdrawn { conn });
                continue;
            }
            let slices: Vec<Vec<u8>> = self.broker.outgoing(conn).map(<[u8]>::to_vec).collect();
            let outgoing = slices.concat();
            if outgoing.is_empty() {
                return;
            }
            let peer = &mut self.peers[conn.0];
            let bytes = outgoing.len().min(peer.room);
            if let Some(attachment) = attachment.filter(|_| bytes > 0) {
                assert_eq!(slices.len(), 1, "a frame with an attachment is written alone");
                assert_eq!(Header::peek(&outgoing).unwrap().frame_bytes(), outgoing.len());
                peer.attachments.push(attachment);
            }
            peer.room -= bytes;
            peer.read(&outgoing[..bytes], &self.rings, &mut self.pages);
            let blocked = bytes < outgoing.len();
            self.apply(Event::Written { conn, bytes, blocked });
            if blocked {
                return;
            }
        }
    }

    /// The connection takes so many bytes more.
    pub(crate) fn take(&mut self, conn: ConnId, bytes: usize) {
        self.peers[conn.0].room = self.peers[conn.0].room.saturating_add(bytes);
        self.write(conn);
        self.end_turn();
    }

    pub(crate) fn take_all(&mut self, conn: ConnId) {
        self.peers[conn.0].room = 0;
        self.take(conn, usize::MAX);
    }

    /// The connection takes nothing from now on.
    pub(crate) fn stall(&mut self, conn: ConnId) {
        self.peers[conn.0].room = 0;
    }

    /// So much time passes, and the broker ticks when it asked for it.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(deadline) = self.broker.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            if self.broker.is_recalling() {
                self.sample_all();
            }
            self.happen(Event::Tick);
            assert!(self.broker.next_deadline().is_none_or(|next| next > self.now), "what is due does not happen");
        }
        self.now = end;
    }

    // ---- clients ----

    /// A connection whose Hello was accepted, and which has these capabilities.
    pub(crate) fn connect_with(&mut self, capabilities: u64) -> ConnId {
        let conn = ConnId(self.peers.len());
        self.connect_as(conn, capabilities);
        conn
    }

    /// The same, with a number that may have belonged to a connection that has ended.
    pub(crate) fn connect_as(&mut self, conn: ConnId, capabilities: u64) {
        self.peers.truncate(conn.0);
        self.peers.push(Peer {
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            room: usize::MAX,
            ended: false,
            id: SenderId::new(0, 0),
            welcome: None,
            channels: BTreeMap::new(),
            log: Vec::new(),
            refused: None,
            receipt: None,
            attachments: Vec::new(),
            follows: BTreeMap::new(),
            offers: BTreeMap::new(),
            frozen: false,
            is_asked: false,
            is_silent: false,
            stream: Vec::new(),
        });
        let pid = u32::try_from(conn.0).unwrap() + 100;
        self.happen(Event::Opened { conn, pid, uid: UID });
        let mut hello = handshake::hello("a test", "test", pid, 1);
        hello.capabilities = capabilities;
        self.send(conn, hello);
    }

    pub(crate) fn connect(&mut self) -> ConnId {
        self.connect_with(capability::RINGS)
    }

    pub(crate) fn send(&mut self, conn: ConnId, control: impl Into<Control>) {
        self.happen(Event::Control { conn, control: control.into() });
    }

    pub(crate) fn open(&mut self, conn: ConnId, channel: &str) -> Sender {
        self.send(conn, Open { channel: channel.to_owned(), next_sequence: 0, extensions: Vec::new() });
        Sender { conn, channel: self.peers[conn.0].channels[channel] }
    }

    pub(crate) fn sender(&mut self, channel: &str) -> Sender {
        let conn = self.connect();
        self.open(conn, channel)
    }

    /// A listener that can read rings.
    pub(crate) fn listener(&mut self, channel: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, subscribe(1, channel));
        conn
    }

    /// A listener that cannot.
    pub(crate) fn plain_listener(&mut self, channel: &str) -> ConnId {
        let conn = self.connect_with(capability::NONE);
        self.send(conn, subscribe(1, channel));
        conn
    }

    pub(crate) fn offer(&mut self, sender: Sender) {
        self.offering = Some((sender.conn, sender.channel));
        let Sender { conn, channel } = sender;
        self.happen(Event::RingOffered { conn, channel, bytes: Ok(RING_BYTES) });
    }

    /// The ring of the sender.
    pub(crate) fn ring_of(&self, sender: Sender) -> RingId {
        let mut rings = self.rings.iter();
        let ring = rings.find(|(_, ring)| ring.is_kept && (ring.conn, ring.channel) == (sender.conn, sender.channel));
        *ring.expect("a ring was accepted").0
    }

    /// The sender offers a ring, and begins to use it with this message.
    pub(crate) fn begin(&mut self, sender: Sender, sequence: u64) -> RingId {
        self.offer(sender);
        let id = self.ring_of(sender);
        self.send(sender.conn, begin(sender, sequence));
        id
    }

    /// The sender publishes into its ring. The daemon does not notice yet.
    pub(crate) fn publish(&mut self, ring: RingId, messages: u64) {
        self.rings.get_mut(&ring).unwrap().published += messages;
    }

    /// The sender publishes into its ring, and the relay reads it.
    pub(crate) fn publish_and_relay(&mut self, ring: RingId, messages: u64) {
        self.publish(ring, messages);
        self.relay(ring, u64::MAX);
    }

    /// The sender publishes by its socket.
    pub(crate) fn send_messages(&mut self, sender: Sender, messages: Range<u64>) {
        let run = run(sender.channel, self.peers[sender.conn.0].id, messages);
        self.happen(Event::Run { conn: sender.conn, run });
    }

    pub(crate) fn end_upload(&mut self, sender: Sender, sequence: u64) {
        self.send(sender.conn, EndRing { id: sender.channel.0, sequence, extensions: Vec::new() });
    }

    pub(crate) fn ready(&mut self, listener: ConnId, link: LinkId) {
        self.pages.entry(link).or_default();
        self.happen(Event::LinkReady { conn: listener, link, is_usable: true });
        if self.pages.get(&link).is_some_and(|page| page.ring.is_none()) {
            self.pages.remove(&link);
        }
    }

    pub(crate) fn added(&mut self, sender: Sender, link: LinkId) {
        self.send(sender.conn, LinkAdded { link: link.0, extensions: Vec::new() });
    }

    pub(crate) fn unlink(&mut self, conn: ConnId, link: LinkId) {
        self.send(conn, Unlink { link: link.0, extensions: Vec::new() });
    }

    /// The link that was offered to the listener last.
    pub(crate) fn offered(&self, listener: ConnId) -> Option<LinkId> {
        self.peers[listener.0].offers.keys().next_back().copied()
    }

    /// Everything until the listener follows.
    pub(crate) fn introduce(&mut self, sender: Sender, listener: ConnId) -> LinkId {
        let ring = self.ring_of(sender);
        self.publish_and_relay(ring, 1);
        let link = self
            .offered(listener)
            .unwrap_or_else(|| panic!("no offer: {:?}, {:?}", self.log(listener), self.log(sender.conn)));
        self.ready(listener, link);
        self.added(sender, link);
        assert!(self.peers[listener.0].follows.contains_key(&link), "{:?}", self.peers[listener.0].log);
        link
    }

    /// The listener reads as many messages at most of each ring that it follows, unless it awaits an answer.
    pub(crate) fn read_rings(&mut self, listener: ConnId, max: u64) {
        let peer = &mut self.peers[listener.0];
        if peer.frozen || peer.ended {
            return;
        }
        for link in peer.follows.keys().copied().collect::<Vec<_>>() {
            let Some(ring) = self.rings.get(&peer.follows[&link].ring) else { continue };
            let ring = ring.clone();
            peer.read_ring(link, &ring, u64::MAX, max, &mut self.pages);
        }
    }

    pub(crate) fn unsubscribe(&mut self, listener: ConnId, subscription: u32) {
        self.peers[listener.0].frozen = true;
        self.send(listener, Unsubscribe { subscription, extensions: Vec::new() });
    }

    pub(crate) fn confirm(&mut self, sender: Sender) -> Receipt {
        self.send(sender.conn, Confirm { number: 1, id: sender.channel.0, extensions: Vec::new() });
        self.peers[sender.conn.0].receipt.take().expect("a receipt")
    }

    pub(crate) fn log(&self, conn: ConnId) -> &[String] {
        &self.peers[conn.0].log
    }

    /// Forgets what the connection has received; returns that.
    pub(crate) fn take_log(&mut self, conn: ConnId) -> Vec<String> {
        std::mem::take(&mut self.peers[conn.0].log)
    }

    pub(crate) fn snapshot(&self, conn: ConnId) -> ConnSnapshot {
        let mut connections = self.broker.snapshot(self.now).connections.into_iter();
        connections.find(|snapshot| snapshot.conn == conn).unwrap()
    }
}

impl Peer {
    fn read(&mut self, mut rest: &[u8], rings: &BTreeMap<RingId, Ring>, pages: &mut BTreeMap<LinkId, Page>) {
        while !rest.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
            target.put_slice(now);
            rest = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).unwrap() {
                self.receive(item, rings, pages);
            }
        }
    }

    fn receive(&mut self, item: Item, rings: &BTreeMap<RingId, Ring>, pages: &mut BTreeMap<LinkId, Page>) {
        let control = match item {
            Item::Run(run) => {
                let messages = run.first()..run.first() + run.messages();
                return self.received("", run.channel(), messages);
            }
            Item::Control(control) => control,
            Item::Discarded(header) => panic!("{header:?}"),
        };
        let line = match control {
            Control::Welcome(welcome) => {
                self.id = SenderId::from_raw(welcome.sender);
                self.welcome = Some(welcome);
                return;
            }
            Control::Opened(opened) => {
                self.channels.insert(opened.channel, ChannelId(opened.id));
                return;
            }
            Control::Named(named) => {
                self.channels.insert(named.name, ChannelId(named.id));
                return;
            }
            Control::Prepare(_) => {
                self.is_asked = !self.is_silent;
                return;
            }
            Control::Receipt(receipt) => {
                self.receipt = Some(receipt);
                return;
            }
            Control::Lagged(lagged) => {
                self.stream.push((ChannelId(lagged.id), None, lagged.count));
                format!("lost {}", lagged.count)
            }
            Control::Subscribed(_) => "subscribed".to_owned(),
            Control::Unsubscribed(_) => {
                self.frozen = false;
                "unsubscribed".to_owned()
            }
            Control::RingAccepted(_) => "accepted".to_owned(),
            Control::Declined(declined) => format!("declined {}: {}", declined.code.number(), declined.reason),
            Control::Recall(_) => "recall".to_owned(),
            Control::Prepared(_) => "prepared".to_owned(),
            Control::OfferLink(offer) => {
                assert_eq!(offer.bytes, RING_BYTES);
                let Some(Attachment::Ring(ring)) = self.attachments.last() else { panic!("an offer without a ring") };
                self.offers.insert(LinkId(offer.link), *ring);
                format!("offer {}", offer.link)
            }
            Control::AddLink(add) => format!("add {}", add.link),
            Control::Unlink(unlink) => format!("unlink {}", unlink.link),
            Control::Follow(follow) => {
                let link = LinkId(follow.link);
                let (ring, at) = (self.offers[&link], Cursor { position: follow.position, sequence: follow.sequence });
                assert_eq!(rings[&ring].cursor(follow.sequence - rings[&ring].first), at);
                let channel = rings[&ring].channel;
                self.follows.insert(link, Follows { ring, channel, next: follow.sequence });
                format!("follow {} from {}", follow.link, follow.sequence)
            }
            Control::Unfollow(unfollow) => {
                let link = LinkId(unfollow.link);
                let ring = rings[&self.follows[&link].ring].clone();
                self.read_ring(link, &ring, unfollow.sequence, u64::MAX, pages);
                let follows = self.follows.remove(&link).unwrap();
                assert_eq!(follows.next, unfollow.sequence, "the listener has read up to the end, and no further");
                format!("unfollow {} at {}", unfollow.link, unfollow.sequence)
            }
            Control::Refused(refused) => {
                let line = format!("refused {}: {}", refused.code.number(), refused.reason);
                self.refused = Some(refused);
                line
            }
            Control::Goodbye(_) => "goodbye".to_owned(),
            Control::Credit(credit) => format!("credit {}", credit.bytes),
            Control::AwaitProgress(request) => format!("await {}", request.position),
            other => panic!("{other:?}"),
        };
        self.log.push(line);
    }

    fn received(&mut self, from: &str, channel: ChannelId, messages: Range<u64>) {
        self.log.push(format!("{from}{}..{}", messages.start, messages.end));
        self.stream.push((channel, Some(messages), 0));
    }

    fn read_ring(&mut self, link: LinkId, ring: &Ring, end: u64, max: u64, pages: &mut BTreeMap<LinkId, Page>) {
        let Some(follows) = self.follows.get_mut(&link) else { return };
        let left = end.saturating_sub(follows.next);
        let (lost, taken) = ring.take(follows.next - ring.first, max);
        let lost = lost.min(left);
        let messages = (taken.end - taken.start).min(left - lost);
        let first = follows.next + lost;
        follows.next = first + messages;
        let (channel, next) = (follows.channel, follows.next);
        if let Some(page) = pages.get_mut(&link) {
            page.sample.received += messages;
            page.sample.lost += lost;
            page.sample.position = ring.cursor(next - ring.first).position;
        }
        if lost > 0 {
            self.stream.push((channel, None, lost));
            self.log.push(format!("ring lost {lost}"));
        }
        if messages > 0 {
            self.received("ring ", channel, first..next);
        }
    }
}

/// Messages that were published.
pub(crate) fn run(channel: ChannelId, sender: SenderId, messages: Range<u64>) -> Run {
    let frames = messages.flat_map(|sequence| {
        let header = Header::publish(channel, sender, sequence, 8);
        [header.as_bytes(), &sequence.to_le_bytes()[..]].concat()
    });
    run_of(&frames.collect::<Vec<_>>())
}

pub(crate) fn begin(sender: Sender, sequence: u64) -> BeginRing {
    BeginRing { id: sender.channel.0, sequence, extensions: Vec::new() }
}

pub(crate) fn subscribe(subscription: u32, channel: &str) -> Subscribe {
    subscribe_to(subscription, Selector::Name(channel.to_owned()), Overflow::DropOldest, false)
}

pub(crate) fn subscribe_to(subscription: u32, selector: Selector, overflow: Overflow, observer: bool) -> Subscribe {
    Subscribe { subscription, selector, overflow, observer, extensions: Vec::new() }
}
