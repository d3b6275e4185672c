//! A served bus with a ring in real memory: descriptors pass through its sockets, and a doorbell wakes it.

#![cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{
    self as local, Descriptor, Interest, Socket, make_doorbell, make_memory, open_memory, read_with_descriptors,
    ring_doorbell, write_with_descriptors,
};
use broadcaster_protocol::control::{
    BeginRing, Control, EndRing, LinkAdded, LinkReady, OfferLink, OfferRing, Open, Overflow, Prepare, Prepared,
    Selector, Subscribe, Unsubscribe, capability,
};
use broadcaster_protocol::endpoint::{Candidate, Origin};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Item, SenderId, handshake};
use broadcaster_ring::{Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PageReader, PageWriter, Start, Writer};
use broadcaster_server::{Limits, ServerHandle, Snapshot, bind, serve};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Longer than anything takes.
const WATCHDOG: Duration = Duration::from_secs(30);

const RING_BYTES: usize = 8 * (HEADER_WORDS + 4096);

/// A client by hand, which waits for what it expects.
struct Client {
    socket: Arc<Socket>,
    decoder: Decoder,
    chunk: BytesMut,
    received: VecDeque<Descriptor>,
    items: VecDeque<Item>,
    offer: Option<OfferLink>,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let socket = Arc::new(UnixStream::connect(path).unwrap().into());
        let (decoder, chunk) = (Decoder::consumer(PAYLOAD_BYTES_MAX), BytesMut::new());
        let mut client =
            Self { socket, decoder, chunk, received: VecDeque::new(), items: VecDeque::new(), offer: None };
        let mut hello = handshake::hello("test", "test", std::process::id(), 1);
        hello.capabilities = capability::RINGS;
        client.send(hello);
        let Control::Welcome(welcome) = client.control() else { panic!("no Welcome") };
        assert_eq!(welcome.capabilities, capability::RINGS);
        client
    }

    fn send(&self, control: impl Into<Control>) {
        self.send_with(control, &[]);
    }

    fn send_with(&self, control: impl Into<Control>, descriptors: &[&Descriptor]) {
        let mut frame = Vec::new();
        control.into().encode(&mut frame).unwrap();
        assert_eq!(write_with_descriptors(&self.socket, &frame, descriptors).unwrap(), frame.len());
    }

    /// Both sides may pass descriptors. The daemon asks when it needs that.
    fn prepare(&mut self) {
        self.send(Prepare::default());
        assert!(matches!(self.control(), Control::Prepared(_)));
    }

    fn next(&mut self) -> Item {
        let end = Instant::now() + WATCHDOG;
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing arrives");
            local::wait(&[Interest::readable(&self.socket)], Some(left)).unwrap();
            let mut target = self.decoder.target(&mut self.chunk);
            match read_with_descriptors(&self.socket, &mut target, &mut self.received) {
                Ok(bytes) => assert!(bytes > 0, "the connection has ended"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            while let Some(item) = self.decoder.next(&mut self.chunk).unwrap() {
                self.items.push_back(item);
            }
        }
    }

    /// The next control frame, after an answer if it asks for one.
    fn control(&mut self) -> Control {
        match self.next() {
            Item::Control(Control::Prepare(_)) => {
                self.send(Prepared::default());
                self.control()
            }
            Item::Control(Control::Named(_)) => self.control(),
            Item::Control(control) => control,
            other => panic!("{other:?}"),
        }
    }

    /// The next messages; something is answered before them if it asks for that.
    fn messages(&mut self, count: usize) -> Vec<Bytes> {
        let mut messages = Vec::new();
        while messages.len() < count {
            match self.next() {
                Item::Run(run) => messages.extend(run.iter().map(|(_, payload)| payload)),
                Item::Control(Control::Prepare(_)) => self.send(Prepared::default()),
                Item::Control(Control::Named(_)) => {}
                Item::Control(Control::OfferLink(offer)) => self.offer = Some(offer),
                other => panic!("{other:?}"),
            }
        }
        messages
    }

    /// The link that it is offered.
    fn offer(&mut self) -> OfferLink {
        match self.offer.take() {
            Some(offer) => offer,
            None => match self.control() {
                Control::OfferLink(offer) => offer,
                other => panic!("{other:?}"),
            },
        }
    }

    fn subscribe(&mut self, selector: Selector) {
        let overflow = Overflow::DropOldest;
        self.send(Subscribe { subscription: 1, selector, overflow, observer: false, extensions: Vec::new() });
        assert!(matches!(self.control(), Control::Subscribed(_)));
    }
}

/// Runs `clients` beside a bus, with the path of its socket and a way to ask for its state.
fn on_a_bus(clients: impl FnOnce(&Path, &dyn Fn() -> Snapshot) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus.sock");
    let bound = bind(&[Candidate { socket: socket.clone(), origin: Origin::Explicit }]).unwrap();
    let (questions, asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::SyncSender<Snapshot>>();
    let thread = std::thread::spawn(move || {
        let snapshot = || {
            let (answer, snapshot) = mpsc::sync_channel(1);
            questions.send(answer).unwrap();
            snapshot.recv_timeout(WATCHDOG).expect("an answer")
        };
        clients(&socket, &snapshot);
    });
    let beside = |server: ServerHandle| async move {
        let mut asked = asked;
        while let Some(answer) = asked.recv().await {
            answer.send(server.snapshot().expect("it serves")).unwrap();
        }
    };
    serve(bound, Limits::default(), "test", beside).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn messages_pass_through_memory_to_a_listener_and_to_the_daemon() {
    on_a_bus(|path, snapshot| {
        let (mut listener, mut monitor) = (Client::connect(path), Client::connect(path));
        listener.subscribe(Selector::Name("news".to_owned()));
        listener.prepare();
        monitor.subscribe(Selector::All);
        let mut sender = Client::connect(path);
        sender.send(Open { channel: "news".to_owned(), next_sequence: 0, extensions: Vec::new() });
        let Control::Opened(opened) = sender.control() else { panic!("not opened") };
        let id = opened.id;

        // The ring.
        sender.prepare();
        let (descriptor, memory) = make_memory("ring", RING_BYTES).unwrap();
        sender.send_with(OfferRing { id, bytes: RING_BYTES as u64, extensions: Vec::new() }, &[&descriptor]);
        assert!(matches!(sender.control(), Control::RingAccepted(_)));
        let mut of_daemon = sender.received.drain(..);
        let (page, doorbell) = (of_daemon.next().unwrap(), of_daemon.next().unwrap());
        drop(of_daemon);
        let mut relay = PageReader::open(open_memory(&page, PAGE_BYTES..=PAGE_BYTES).unwrap()).unwrap();
        let mut writer = Writer::new(memory, 0);
        sender.send(BeginRing { id, sequence: 0, extensions: Vec::new() });
        let mut publish = |payload: &[u8]| {
            writer.push(KIND_PUBLISH, b"", payload).unwrap();
            let published = writer.publish();
            let must_ring = relay.must_ring(&published);
            if must_ring {
                ring_doorbell(&doorbell).unwrap();
            }
            must_ring
        };
        // The daemon is woken each time that it sleeps.
        for payload in [b"one", b"two"] {
            publish(payload);
            assert_eq!(monitor.messages(1), [&payload[..]]);
            assert_eq!(listener.messages(1), [&payload[..]]);
        }

        // The link.
        let offer = listener.offer();
        let bytes = usize::try_from(offer.bytes).unwrap();
        let memory = open_memory(&listener.received.pop_front().unwrap(), bytes..=bytes).unwrap();
        let (page, own) = make_memory("page", PAGE_BYTES).unwrap();
        let mut own = PageWriter::new(own);
        let bell = make_doorbell().unwrap();
        listener.send_with(LinkReady { link: offer.link, extensions: Vec::new() }, &[&page, &bell]);
        assert!(matches!(sender.control(), Control::AddLink(_)));
        assert_eq!(sender.received.len(), 2);
        sender.send(LinkAdded { link: offer.link, extensions: Vec::new() });
        let Control::Follow(follow) = listener.control() else { panic!("it does not follow") };
        let at = Start::At(Cursor { position: follow.position, sequence: follow.sequence });
        let mut intake = Intake::open(memory, at, ChannelId(offer.id), SenderId::from_raw(offer.sender)).unwrap();
        publish(b"three");
        assert_eq!(monitor.messages(1), [&b"three"[..]]);
        let run = intake.take(None, 4096).unwrap().run.unwrap();
        assert_eq!(run.iter().map(|(_, payload)| payload).collect::<Vec<_>>(), [&b"three"[..]]);
        own.count(intake.cursor().position, 1, 0);
        let state = snapshot();
        assert_eq!((state.rings, state.links, state.stats.messages_accepted), (1, 1, 3));
        assert_eq!((state.stats.messages_delivered, state.stats.messages_lost), (6, 0));

        // Without the monitor, the daemon sleeps. It is woken again for the next one.
        monitor.send(Unsubscribe { subscription: 1, extensions: Vec::new() });
        assert!(matches!(monitor.control(), Control::Unsubscribed(_)));
        assert!(!publish(b"unheard"));
        monitor.subscribe(Selector::All);
        publish(b"heard");
        assert_eq!(monitor.messages(1), [&b"heard"[..]]);

        // The end, which the daemon reads although it was not woken.
        writer.push(KIND_PUBLISH, b"", b"four").unwrap();
        let _ = writer.close();
        sender.send(EndRing { id, sequence: 6, extensions: Vec::new() });
        assert_eq!(monitor.messages(1), [&b"four"[..]]);
        assert!(matches!(listener.control(), Control::Unfollow(unfollow) if unfollow.sequence == 6));
        assert_eq!(snapshot().rings, 0);
    });
}
