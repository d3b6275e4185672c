//! What the parts cost by themselves, in one process, without a system call: the sender's stamping, the decoder, the broker's
//! fan-out, the listener's hearing. All per frame of 64 bytes, in batches of 64 KiB as they come off a socket.

#![allow(missing_docs, clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::{Control, Open, Overflow, Role, Subscribe};
use broadcaster_protocol::decode::CHUNK_BYTES;
use broadcaster_protocol::{ChannelId, ChannelName, Decoder, Header, Item, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use system_broadcaster::core::{Core, Heard, ListenerCore, SenderCore};

const PAYLOAD: [u8; 64] = [7; 64];

/// Frames that fit into a chunk.
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

/// A broker with listeners and a sender that has opened a channel.
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
            let role = if conn == bus.conn { Role::Sender } else { Role::Listener };
            let pid = if conn == bus.conn { 1 } else { 2 };
            bus.happen(Event::Opened { conn, pid, uid: 0 });
            bus.happen(Event::Control { conn, control: Control::Hello(handshake::hello(role, "bench", 1, 1)) });
            let channel = "bench".to_owned();
            let control = match role {
                Role::Sender => Control::Open(Open { channel, next_sequence: 0 }),
                _ => Control::Subscribe(Subscribe { channel, overflow: Overflow::DropOldest }),
            };
            bus.happen(Event::Control { conn, control });
        }
        bus
    }

    fn happen(&mut self, event: Event) {
        self.broker.handle(Moment::default(), event, &mut self.effects);
        for effect in std::mem::take(&mut self.effects) {
            let Effect::Write(conn) = effect else { panic!("{effect:?}") };
            loop {
                let bytes = self.broker.outgoing(conn).map(<[u8]>::len).sum();
                if bytes == 0 {
                    break;
                }
                self.broker.handle(Moment::default(), Event::Written { conn, bytes }, &mut self.effects);
            }
        }
    }

    fn publish(&mut self, wire: &mut [u8]) {
        // The numbers must go on.
        for frame in wire.chunks_exact_mut(28 + PAYLOAD.len()) {
            frame[20..28].copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
        }
        self.decoder.target(&mut self.buffer).put_slice(wire);
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(item) = self.decoder.next(&mut buffer).unwrap() {
            let Item::Run(run) = item else { panic!("only frames") };
            self.happen(Event::Run { conn: self.conn, run });
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

/// Gives a core what the daemon answers to it.
fn greet(core: &mut impl Core, answers: &[Control]) {
    core.connected();
    for answer in answers {
        let outgoing = core.outgoing().len();
        core.sent(outgoing);
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        core.target().put_slice(&bytes);
        core.received().unwrap();
    }
    assert!(core.is_ready());
}

fn welcome() -> Control {
    use broadcaster_protocol::control::Welcome;
    Control::Welcome(Welcome {
        protocol: 1,
        capabilities: 0,
        sender: SenderId::new(1, 1).raw(),
        payload_bytes_max: 1 << 20,
        pid: 1,
        version: String::new(),
        extensions: Vec::new(),
    })
}

fn client(criterion: &mut Criterion) {
    use broadcaster_protocol::control::{Opened, Subscribed};
    let name = ChannelName::new("bench").unwrap();
    let mut group = criterion.benchmark_group("client");
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("sender feeds a chunk of 64 B", |bencher| {
        let mut core = SenderCore::new(name.clone(), 1, 1);
        greet(&mut core, &[welcome(), Control::Opened(Opened { channel: 1, listeners: 0 })]);
        bencher.iter(|| {
            for _ in 0..FRAMES {
                core.feed(black_box(&PAYLOAD)).unwrap();
            }
            let outgoing = core.outgoing().len();
            core.sent(outgoing);
        });
    });
    group.bench_function("listener hears a chunk of 64 B", |bencher| {
        let mut core = ListenerCore::new(name.clone(), Overflow::DropOldest, 1);
        let subscribed = Subscribed { channel: "bench".to_owned(), id: 1 };
        greet(&mut core, &[welcome(), Control::Subscribed(subscribed)]);
        let wire = chunk(ChannelId(1), SenderId::new(1, 1), 0);
        bencher.iter(|| {
            core.target().put_slice(&wire);
            while core.hear().unwrap() == Heard::Frame {
                black_box(core.frame().unwrap().payload);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decoder, broker, client);
criterion_main!(benches);
