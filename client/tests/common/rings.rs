//! A daemon by hand, with one connection, and the senders of the rings that it offers.

use broadcaster_local::{self as local, Descriptor, ReadOnlyMemory, Socket, WritableMemory};
use broadcaster_protocol::control::{
    Control, Follow, Hello, Named, OfferLink, Prepare, Prepared, Subscribed, Unfollow, Unlink, Welcome, capability,
};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_MAX};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId};
use broadcaster_ring::{HEADER_WORDS, PAGE_BYTES, PageReader, Sample, Writer};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;
use system_broadcaster::{Listener, Options};
use tempfile::TempDir;

/// Longer than any step takes.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// Bytes of a ring.
pub const RING_BYTES: usize = 8 * (HEADER_WORDS + 8192);

/// The channel of the listener, and its id.
const CHANNEL: (&str, u32) = ("news", 1);

/// Runs `body` on a thread of its own, and fails if that takes too long.
pub fn within<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(body()).unwrap());
    let result = result.recv_timeout(WATCHDOG).expect("it ends in time");
    thread.join().unwrap();
    result
}

/// The daemon's end of a connection.
pub struct Daemon {
    socket: Socket,
    decoder: Decoder,
    chunk: BytesMut,
    received: VecDeque<Descriptor>,
    links: u32,
    _directory: TempDir,
}

impl Daemon {
    /// A daemon, and the options of its clients.
    fn listen() -> (TempDir, UnixListener, Options) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (directory, listener, Options::new().socket(path).autostart(false).embedded(false))
    }

    fn accept(directory: TempDir, listener: &UnixListener) -> Self {
        let socket = listener.accept().unwrap().0.into();
        let (decoder, chunk) = (Decoder::consumer(PAYLOAD_BYTES_MAX), BytesMut::new());
        Self { socket, decoder, chunk, received: VecDeque::new(), links: 0, _directory: directory }
    }

    /// The Hello of a client that connects by `connect`, which fails.
    pub fn hello_of(connect: impl FnOnce(Options) + Send) -> Hello {
        let (directory, listener, options) = Self::listen();
        std::thread::scope(|scope| {
            scope.spawn(move || connect(options));
            let mut daemon = Self::accept(directory, &listener);
            let Control::Hello(hello) = daemon.next() else { panic!("a Hello") };
            drop((daemon, listener));
            hello
        })
    }

    /// A daemon with a listener.
    pub fn with_listener() -> (Self, Listener) {
        let (directory, listener, options) = Self::listen();
        std::thread::scope(|scope| {
            let handle = scope.spawn(move || options.listener(CHANNEL.0).unwrap());
            let mut daemon = Self::accept(directory, &listener);
            let Control::Hello(hello) = daemon.next() else { panic!("a Hello") };
            assert_eq!(hello.capabilities, capability::RINGS);
            let welcome = Welcome {
                protocol: PROTOCOL_MAX,
                capabilities: capability::RINGS,
                sender: 77,
                payload_bytes_max: 1 << 20,
                pid: std::process::id(),
                version: "9.9.9".to_owned(),
                extensions: Vec::new(),
            };
            daemon.write(&[welcome.into()]);
            let Control::Subscribe(subscribe) = daemon.next() else { panic!("a Subscribe") };
            let subscribed = Subscribed { subscription: subscribe.subscription, extensions: Vec::new() };
            let named = Named { id: CHANNEL.1, name: CHANNEL.0.to_owned(), extensions: Vec::new() };
            daemon.write(&[subscribed.into(), named.into()]);
            let mut listener = handle.join().unwrap();
            daemon.write(&[Prepare::default().into()]);
            listener.try_recv().expect_err("there is no message");
            assert_eq!([daemon.next(), daemon.next()], [Prepare::default().into(), Prepared::default().into()]);
            daemon.write(&[Prepared::default().into()]);
            (daemon, listener)
        })
    }

    /// The next control message of the client.
    pub fn next(&mut self) -> Control {
        loop {
            match self.decoder.next(&mut self.chunk).unwrap() {
                Some(Item::Control(control)) => return control,
                Some(item) => panic!("{item:?}"),
                None => {
                    let mut target = self.decoder.target(&mut self.chunk);
                    let read = local::read_blocking_with_descriptors(&self.socket, &mut target, &mut self.received);
                    assert!(read.unwrap() > 0, "the client has left");
                }
            }
        }
    }

    fn write_bytes(&self, bytes: &[u8]) {
        assert_eq!(local::write(&self.socket, bytes).unwrap(), bytes.len());
    }

    pub fn write(&self, controls: &[Control]) {
        let mut bytes = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut bytes).unwrap());
        self.write_bytes(&bytes);
    }

    /// Sends a message in the stream.
    pub fn send(&self, sequence: u64, payload: &[u8]) {
        let len = payload.len().try_into().unwrap();
        let header = Header::publish(ChannelId(CHANNEL.1), SenderId::new(5, 5), sequence, len);
        self.write_bytes(&[header.as_bytes(), payload].concat());
    }

    /// Introduces the sender of a ring. The listener has nothing to receive.
    pub fn introduce(&mut self, listener: &mut Listener) -> Ring {
        self.links += 1;
        let link = self.links;
        let (descriptor, memory) = local::make_memory("ring", RING_BYTES).unwrap();
        let writer = Writer::new(memory, 0);
        let (sender, bytes) = (SenderId::new(9, link).raw(), RING_BYTES as u64);
        let mut offer = Vec::new();
        let control = Control::from(OfferLink { link, id: CHANNEL.1, sender, bytes, extensions: Vec::new() });
        control.encode(&mut offer).unwrap();
        // In two parts, as when the socket is nearly full.
        assert_eq!(local::write_with_descriptors(&self.socket, &offer[..5], &[&descriptor]).unwrap(), 5);
        self.write_bytes(&offer[5..]);
        listener.try_recv().expect_err("there is no message");
        let Control::LinkReady(ready) = self.next() else { panic!("a LinkReady") };
        assert_eq!((ready.link, self.received.len()), (link, 2));
        let page = self.received.pop_front().unwrap();
        let page = PageReader::open(local::open_memory(&page, PAGE_BYTES..=PAGE_BYTES).unwrap()).unwrap();
        let doorbell = self.received.pop_front().unwrap();
        self.write(&[Follow { link, position: 0, sequence: 0, extensions: Vec::new() }.into()]);
        Ring { link, writer, page, doorbell }
    }

    /// Offers what is no ring.
    pub fn offer_a_pipe(&self, link: u32) {
        let (reader, _writer) = std::io::pipe().unwrap();
        self.offer(link, &Descriptor::from(std::os::fd::OwnedFd::from(reader)));
    }

    /// Offers memory of the size of a ring.
    pub fn offer(&self, link: u32, memory: &Descriptor) {
        let (sender, bytes) = (SenderId::new(9, link).raw(), RING_BYTES as u64);
        let mut offer = Vec::new();
        let control = Control::from(OfferLink { link, id: CHANNEL.1, sender, bytes, extensions: Vec::new() });
        control.encode(&mut offer).unwrap();
        assert_eq!(local::write_with_descriptors(&self.socket, &offer, &[memory]).unwrap(), offer.len());
    }

    /// What a listener writes that does not read a ring, or no longer.
    pub fn unlinked(link: u32) -> Control {
        Unlink { link, extensions: Vec::new() }.into()
    }

    /// States the end of a link.
    pub fn unfollow(&self, ring: &Ring, sequence: u64) {
        self.write(&[Unfollow { link: ring.link, sequence, extensions: Vec::new() }.into()]);
    }
}

/// A ring, its sender, and what that knows of the listener.
pub struct Ring {
    link: u32,
    writer: Writer<WritableMemory>,
    page: PageReader<ReadOnlyMemory>,
    doorbell: Descriptor,
}

impl Ring {
    /// Publishes a message, and wakes the listener if it sleeps.
    pub fn publish(&mut self, payload: &[u8]) {
        self.writer.push(KIND_PUBLISH, b"", payload).unwrap();
        let published = self.writer.publish();
        if self.page.must_ring(&published) {
            local::ring_doorbell(&self.doorbell).unwrap();
        }
    }

    /// Publishes a message as soon as the listener sleeps, and wakes it.
    pub fn publish_to_sleeper(&mut self, payload: &[u8]) {
        while !self.page.must_ring(&self.writer.publish()) {
            std::thread::yield_now();
        }
        self.publish(payload);
        local::ring_doorbell(&self.doorbell).unwrap();
    }

    pub fn sample(&self) -> Sample {
        self.page.sample()
    }
}
