//! The cost of each part alone, in one process and without system calls: decoder, broker fan-out, sender and listener.
//!
//! All figures are per frame of 64 bytes, in batches of 64 KiB as they arrive from a socket.

#![allow(missing_docs, clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::{Control, Named, Open, Opened, Overflow, Selector, Subscribe, Subscribed, Welcome};
use broadcaster_protocol::decode::CHUNK_BYTES;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use system_broadcaster::ChannelName;
use system_broadcaster::machine::{self, Machine, Publisher, Received, Subscriber, Subscription};

const PAYLOAD: [u8; 64] = [7; 64];

/// The number of frames that fit into a chunk.
const FRAMES: u64 = (CHUNK_BYTES / (28 + PAYLOAD.len())) as u64;

/// A chunk of frames, numbered from `first`.
fn chunk(channel: ChannelId, sender: SenderId, first: u64) -> Vec<u8> {
    let frame = |n| [Header::publish(channel, sender, first + n, 64).as_bytes(), &PAYLOAD].concat();
    (0..FRAMES).flat_map(frame).collect()
}

fn decoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decoder");
    group.throughput(Throughput::Elements(FRAMES));
    let wire = chunk(ChannelId(1), SenderId::new(1, 1), 0);
    let (mut decoder, mut buffer) = (Decoder::lender(1 << 20), BytesMut::new());
    group.bench_function("one chunk of 64 B frames into one run", |bencher| {
        bencher.iter(|| {
            decoder.target(&mut buffer).put_slice(&wire);
            while let Some(item) = decoder.next(&mut buffer).unwrap() {
                black_box(item);
            }
        });
    });
    group.finish();
}

/// A broker with its listeners, and a sender that has opened a channel.
struct Bus {
    broker: Broker,
    channel: ChannelId,
    sender: SenderId,
    conn: ConnId,
    effects: Vec<Effect>,
    decoder: Decoder,
    buffer: BytesMut,
    next: u64,
}

impl Bus {
    fn new(listeners: usize) -> Self {
        let mut bus = Self {
            broker: Broker::new(Limits::default(), 0, 1, "bench", Moment::default()),
            channel: ChannelId(1),
            sender: SenderId::new(1, 1),
            conn: ConnId(listeners),
            effects: Vec::new(),
            decoder: Decoder::lender(1 << 20),
            buffer: BytesMut::new(),
            next: 0,
        };
        for conn in (0..=listeners).map(ConnId) {
            let is_sender = conn == bus.conn;
            bus.handle(Event::Opened { conn, pid: if is_sender { 1 } else { 2 }, uid: 0 });
            bus.handle(Event::Control { conn, control: handshake::hello("bench", "bench", 1, 1).into() });
            let channel = "bench".to_owned();
            let control = match is_sender {
                true => Open { channel, next_sequence: 0, extensions: Vec::new() }.into(),
                false => Subscribe {
                    subscription: 0,
                    selector: Selector::Name(channel),
                    overflow: Overflow::DropOldest,
                    observer: false,
                    extensions: Vec::new(),
                }
                .into(),
            };
            bus.handle(Event::Control { conn, control });
        }
        bus
    }

    fn handle(&mut self, event: Event) {
        self.broker.handle(Moment::default(), event, &mut self.effects);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            let Effect::Write(conn) = effect else { panic!("{effect:?}") };
            loop {
                let bytes = self.broker.outgoing(conn).map(<[u8]>::len).sum();
                if bytes == 0 {
                    break;
                }
                let written = Event::Written { conn, bytes, blocked: false };
                self.broker.handle(Moment::default(), written, &mut self.effects);
            }
        }
        self.broker.handle(Moment::default(), Event::Flushed, &mut effects);
        self.effects = effects;
    }

    fn publish(&mut self, wire: &mut [u8]) {
        // Sequence numbers must be consecutive across chunks.
        for frame in wire.chunks_exact_mut(28 + PAYLOAD.len()) {
            frame[20..28].copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
        }
        self.decoder.target(&mut self.buffer).put_slice(wire);
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(item) = self.decoder.next(&mut buffer).unwrap() {
            let Item::Run(run) = item else { panic!("the chunk contains only frames") };
            self.handle(Event::Run { conn: self.conn, run });
        }
        self.buffer = buffer;
    }
}

fn broker(criterion: &mut Criterion) {
    for (name, frames) in [("one frame", 1), ("one chunk", FRAMES)] {
        let mut group = criterion.benchmark_group(format!("broker, {name} of 64 B"));
        for listeners in [1, 8, 64] {
            group.throughput(Throughput::Elements(frames * listeners as u64));
            group.bench_function(BenchmarkId::from_parameter(listeners), |bencher| {
                let mut bus = Bus::new(listeners);
                let mut wire = chunk(bus.channel, bus.sender, 0);
                wire.truncate(usize::try_from(frames).unwrap() * (28 + PAYLOAD.len()));
                bencher.iter(|| bus.publish(&mut wire));
            });
        }
        group.finish();
    }
}

/// Completes the handshake of a machine with the daemon's answers.
fn complete_handshake(machine: &mut impl Machine, answers: impl IntoIterator<Item = Control>) {
    machine.connected();
    for answer in answers {
        let outgoing = machine.outgoing().len();
        machine.sent(outgoing);
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        machine.target().put_slice(&bytes);
        machine.received().unwrap();
    }
    assert!(machine.is_ready());
}

fn welcome() -> Control {
    let welcome = Welcome {
        protocol: 1,
        capabilities: 0,
        sender: SenderId::new(1, 1).raw(),
        payload_bytes_max: 1 << 20,
        pid: 1,
        version: String::new(),
        extensions: Vec::new(),
    };
    welcome.into()
}

fn client(criterion: &mut Criterion) {
    let name = ChannelName::new("bench").unwrap();
    let mut group = criterion.benchmark_group("client");
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("sender feeds a chunk of 64 B", |bencher| {
        let mut publisher = Publisher::new(name.clone(), "bench", 1, 1);
        let opened = Opened { channel: name.to_string(), id: 1, listeners: 0, extensions: Vec::new() };
        complete_handshake(&mut publisher, [welcome(), opened.into()]);
        bencher.iter(|| {
            for _ in 0..FRAMES {
                publisher.feed(black_box(&PAYLOAD)).unwrap();
            }
            let outgoing = publisher.outgoing().len();
            publisher.sent(outgoing);
        });
    });
    group.bench_function("listener receives a chunk of 64 B", |bencher| {
        let subscription = Subscription {
            selector: machine::Selector::Name(name.clone()),
            overflow: Overflow::DropOldest,
            observer: false,
            replay: 0,
        };
        let mut subscriber = Subscriber::new(vec![subscription], "bench", 1);
        let subscribed = Subscribed { subscription: 0, extensions: Vec::new() };
        let named = Named { id: 1, name: name.to_string(), extensions: Vec::new() };
        complete_handshake(&mut subscriber, [welcome(), subscribed.into(), named.into()]);
        let wire = chunk(ChannelId(1), SenderId::new(1, 1), 0);
        bencher.iter(|| {
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let mut target = subscriber.target();
                let (part, behind) = rest.split_at(rest.len().min(target.remaining_mut()));
                target.put_slice(part);
                rest = behind;
                subscriber.has_read(part.len());
                while subscriber.poll_next().unwrap() == Received::Frame {
                    black_box(subscriber.frame().unwrap().payload);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decoder, broker, client);
criterion_main!(benches);
