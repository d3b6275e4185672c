//! What a sender does with rings in shared memory. The daemon and the listener are played by the test, with memory and doorbells of the
//! system.

#![cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{
    self as local, Descriptor, Doorbells, Interest, ReadOnlyMemory, Socket, WritableMemory, make_doorbell, make_memory,
    open_memory, read_with_descriptors, write_with_descriptors,
};
use broadcaster_protocol::control::{
    AddLink, Control, Credit, Opened, Prepare, Prepared, Recall, Receipt, Report, RingAccepted, Welcome, capability,
    extension,
};
use broadcaster_protocol::limits::PROTOCOL_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Item, SenderId};
use broadcaster_ring::{Cursor, Intake, PAGE_BYTES, PageWriter, Start};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use system_broadcaster::{Options, SendError, Sender, SharedMemory};
use tempfile::TempDir;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

const CHANNEL: ChannelId = ChannelId(5);

/// A page with its doorbell, as its owner sees it.
struct Page {
    page: PageWriter<WritableMemory>,
    descriptor: Descriptor,
    doorbell: Descriptor,
    doorbells: Doorbells,
}

impl Page {
    fn new() -> Self {
        let (descriptor, memory) = make_memory("test-page", PAGE_BYTES).unwrap();
        let (page, doorbell, doorbells) =
            (PageWriter::new(memory), make_doorbell().unwrap(), Doorbells::new().unwrap());
        doorbells.add(&doorbell).unwrap();
        Self { page, descriptor, doorbell, doorbells }
    }
}

/// A message that has arrived.
type Message = (u64, Vec<u8>);

fn take(intake: &mut Intake<ReadOnlyMemory>, end: Option<u64>, messages: &mut Vec<Message>) {
    loop {
        let taken = intake.take(end, 64 * 1024).unwrap();
        assert_eq!(taken.lost, 0, "the reader keeps up");
        let Some(run) = taken.run else { return };
        messages.extend(run.iter().map(|(sequence, payload)| (sequence, payload.to_vec())));
    }
}

/// A listener that reads the ring itself, and passes on what it receives.
struct Listener {
    intake: Intake<ReadOnlyMemory>,
    own: Page,
}

impl Listener {
    fn run(mut self, received: &mpsc::Sender<Message>) {
        let mut messages = Vec::new();
        loop {
            take(&mut self.intake, None, &mut messages);
            if messages.is_empty() && self.own.page.arm(|| self.intake.is_ready()) {
                local::wait(&[Interest::readable(&self.own.doorbells.readable())], Some(PATIENCE)).unwrap();
                self.own.doorbells.consume().unwrap();
                self.own.page.disarm();
            }
            for message in messages.drain(..) {
                let is_last = message.1.is_empty();
                if received.send(message).is_err() || is_last {
                    return;
                }
            }
        }
    }
}

/// How the daemon behaves.
#[derive(Clone, Default)]
struct Plan {
    /// It introduces a listener, which passes on what it receives. It ends with a message without a payload.
    listener: Option<mpsc::Sender<Message>>,
    /// It is killed when it has so many messages, and reports that.
    dies_at: Option<(usize, mpsc::Sender<()>)>,
    /// It recalls the ring when it has so many messages.
    recalls_at: Option<usize>,
    /// The sender does not ask for rings.
    has_no_rings: bool,
}

/// What the daemon has seen of a connection.
#[derive(Debug, Default)]
struct Seen {
    /// The number of the first message.
    first: u64,
    messages: Vec<Message>,
    relayed: usize,
    kinds: Vec<u8>,
}

impl Seen {
    /// The number of the next message.
    fn next(&self) -> u64 {
        self.first + self.messages.len() as u64
    }
}

struct Daemon {
    plan: Plan,
    socket: Arc<Socket>,
    received: VecDeque<Descriptor>,
    ring: Option<Descriptor>,
    intake: Option<Intake<ReadOnlyMemory>>,
    relay: Page,
    seen: Seen,
    /// The listener that is being introduced.
    link: Option<Page>,
    recalled: bool,
    /// The sender reads descriptors.
    sender_prepared: bool,
}

/// A bus that the test plays: what each of its connections has seen.
fn bus(plans: Vec<Plan>) -> (TempDir, Options, JoinHandle<Vec<Seen>>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let options = Options::new().socket(path).autostart(false).embedded(false).shared_memory(SharedMemory::Always);
    let thread = std::thread::spawn(move || {
        let serve = |plan| {
            let (stream, _) = listener.accept().unwrap();
            Daemon {
                plan,
                socket: Arc::new(stream.into()),
                received: VecDeque::new(),
                ring: None,
                intake: None,
                relay: Page::new(),
                seen: Seen::default(),
                link: None,
                recalled: false,
                sender_prepared: false,
            }
            .run()
        };
        plans.into_iter().map(serve).collect()
    });
    (directory, options, thread)
}

impl Daemon {
    fn write(&self, control: impl Into<Control>, descriptors: &[&Descriptor]) {
        let mut frame = Vec::new();
        control.into().encode(&mut frame).unwrap();
        assert_eq!(write_with_descriptors(&self.socket, &frame, descriptors).unwrap(), frame.len());
    }

    /// Takes what is in the ring.
    fn take(&mut self, end: Option<u64>) {
        if let Some(intake) = &mut self.intake {
            let before = self.seen.messages.len();
            take(intake, end, &mut self.seen.messages);
            self.seen.relayed += self.seen.messages.len() - before;
        }
    }

    /// Serves the connection to its end.
    fn run(mut self) -> Seen {
        let (mut decoder, mut chunk) = (Decoder::consumer(1 << 20), BytesMut::new());
        loop {
            self.take(None);
            let count = self.seen.messages.len();
            if let Some((_, died)) = self.plan.dies_at.take_if(|(at, _)| count >= *at) {
                let Self { seen, socket, .. } = self;
                drop(socket);
                died.send(()).unwrap();
                return seen;
            }
            if self.plan.recalls_at.is_some_and(|at| count >= at) && self.intake.is_some() && !self.recalled {
                self.recalled = true;
                self.write(Recall { id: CHANNEL.0, extensions: Vec::new() }, &[]);
                self.relay.page.call();
            }
            while let Some(item) = decoder.next(&mut chunk).unwrap() {
                self.handle(item);
            }
            match read_with_descriptors(&self.socket, &mut decoder.target(&mut chunk), &mut self.received) {
                Ok(0) => {
                    self.take(None);
                    return self.seen;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let intake = &self.intake;
                    if self.relay.page.arm(|| intake.as_ref().is_some_and(Intake::is_ready)) {
                        let (socket, doorbells) = (&self.socket, self.relay.doorbells.readable());
                        local::wait(&[Interest::readable(socket), Interest::readable(&doorbells)], Some(PATIENCE))
                            .unwrap();
                        self.relay.doorbells.consume().unwrap();
                        self.relay.page.disarm();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn handle(&mut self, item: Item) {
        let control = match item {
            Item::Run(run) => {
                assert!(self.intake.is_none(), "a data frame although the messages are in a ring");
                return self.seen.messages.extend(run.iter().map(|(sequence, payload)| (sequence, payload.to_vec())));
            }
            Item::Control(control) => control,
            Item::Discarded(header) => panic!("{header:?}"),
        };
        self.seen.kinds.push(control.kind());
        let extensions = Vec::new();
        match control {
            Control::Hello(hello) => {
                assert_eq!(hello.capabilities, if self.plan.has_no_rings { 0 } else { capability::RINGS });
                let (sender, pid, version) = (77, 1, "9.9.9".to_owned());
                let (protocol, capabilities, payload_bytes_max) = (PROTOCOL_MAX, capability::RINGS, 1 << 20);
                self.write(
                    Welcome { protocol, capabilities, sender, payload_bytes_max, pid, version, extensions },
                    &[],
                );
            }
            Control::Open(open) => {
                self.seen.first = open.next_sequence;
                self.write(Opened { channel: open.channel, id: CHANNEL.0, listeners: 1, extensions }, &[]);
                if open.extensions.iter().any(|extension| extension.id == extension::BACKPRESSURE) {
                    self.write(Credit { id: CHANNEL.0, bytes: 1 << 40, extensions: Vec::new() }, &[]);
                }
            }
            Control::Prepare(_) => self.write(Prepared::default(), &[]),
            Control::OfferRing(offer) => {
                assert_eq!(offer.bytes, 4 * 1024 * 1024 + 512);
                self.ring = self.received.pop_front();
                if self.sender_prepared {
                    self.accept_ring();
                } else {
                    self.write(Prepare::default(), &[]);
                }
            }
            Control::Prepared(_) => {
                self.sender_prepared = true;
                self.accept_ring();
            }
            Control::BeginRing(begin) => {
                assert_eq!(begin.sequence, self.seen.next());
                let start = Cursor { position: 0, sequence: begin.sequence };
                self.intake = Some(self.open(start));
                if self.plan.listener.is_some() {
                    let link = self.link.insert(Page::new());
                    let (page, doorbell) = (&link.descriptor, &link.doorbell);
                    let mut frame = Vec::new();
                    Control::from(AddLink { id: begin.id, link: 9, extensions }).encode(&mut frame).unwrap();
                    write_with_descriptors(&self.socket, &frame, &[page, doorbell]).unwrap();
                    self.relay.page.call();
                }
            }
            Control::LinkAdded(added) => {
                assert_eq!(added.link, 9);
                self.take(None);
                let own = self.link.take().unwrap();
                let start = self.intake.as_ref().unwrap().cursor();
                let listener = Listener { intake: self.open(start), own };
                let received = self.plan.listener.take().unwrap();
                std::thread::spawn(move || listener.run(&received));
            }
            Control::EndRing(end) => {
                self.take(Some(end.sequence));
                assert_eq!(self.seen.next(), end.sequence);
                (self.intake, self.ring) = (None, None);
            }
            Control::Confirm(confirm) => {
                self.take(None);
                let next_sequence = self.seen.next();
                let (number, listeners, took, lagging, worst) = (confirm.number, 1, 1, 0, Vec::new());
                self.write(Receipt { number, next_sequence, listeners, took, lagging, worst, extensions }, &[]);
            }
            Control::Inspect(_) => {
                self.take(None);
                self.write(Report::default(), &[]);
            }
            other => panic!("{other:?}"),
        }
    }

    fn accept_ring(&self) {
        let (page, doorbell) = (&self.relay.descriptor, &self.relay.doorbell);
        self.write(RingAccepted { id: CHANNEL.0, extensions: Vec::new() }, &[page, doorbell]);
    }

    fn open(&self, start: Cursor) -> Intake<ReadOnlyMemory> {
        let memory = open_memory(self.ring.as_ref().unwrap(), 4096..=1 << 24).unwrap();
        Intake::open(memory, Start::At(start), CHANNEL, SenderId::from_raw(77)).unwrap()
    }
}

/// A payload of its own for each sequence number, never empty.
fn payload(sequence: u64) -> Vec<u8> {
    let len = usize::try_from(sequence * 37 % 700).unwrap();
    let mut payload = sequence.to_le_bytes().to_vec();
    payload.resize(8 + len, sequence.to_le_bytes()[0]);
    payload
}

#[track_caller]
fn check(messages: &[Message], numbers: std::ops::Range<u64>) {
    assert_eq!(messages.len() as u64, numbers.end - numbers.start);
    for (message, sequence) in messages.iter().zip(numbers) {
        assert_eq!(message, &(sequence, payload(sequence)));
    }
}

/// Everything up to `count` has arrived, and all of it from `begun` on through a ring.
#[track_caller]
fn check_all(seen: Vec<Seen>, begun: u64, count: u64) {
    let [seen] = <[Seen; 1]>::try_from(seen).unwrap();
    check(&seen.messages, 0..count);
    assert_eq!(seen.relayed as u64, count - begun);
}

/// Sends until the next message is one for a ring. Returns its number. The daemon has accepted all of them.
fn begin(sender: &mut Sender, first: u64) -> u64 {
    let mut next = first;
    while sender.capabilities().rings == 0 {
        sender.send(&payload(next)).unwrap();
        sender.confirm().unwrap();
        next += 1;
        assert!(next < first + 100, "no ring");
    }
    next
}

#[test]
fn messages_reach_the_daemon_through_the_ring() {
    let (_directory, options, daemon) = bus(vec![Plan::default()]);
    let mut sender = options.sender("news").unwrap();
    assert_eq!(sender.capabilities().rings, 0);
    let begun = begin(&mut sender, 0);
    for sequence in begun..4000 {
        sender.send(&payload(sequence)).unwrap();
        if sequence % 500 == 0 {
            // In between, so that a daemon that gets no processor time loses nothing.
            sender.confirm().unwrap();
        }
    }
    assert_eq!(sender.send_confirmed(&payload(4000)).unwrap().listeners, 1);
    assert_eq!(sender.capabilities().rings, 1);
    drop(sender);
    check_all(daemon.join().unwrap(), begun, 4001);
}

#[test]
fn messages_that_are_fed_reach_the_daemon_through_the_ring() {
    let (_directory, options, daemon) = bus(vec![Plan::default()]);
    let mut sender = options.sender("news").unwrap();
    let begun = begin(&mut sender, 0);
    for sequence in begun..4000 {
        sender.feed(&payload(sequence)).unwrap();
        if sequence % 700 == 0 {
            sender.confirm().unwrap();
        }
    }
    // What was fed last is published when the sender is dropped.
    drop(sender);
    check_all(daemon.join().unwrap(), begun, 4000);
}

#[test]
fn each_kind_of_sender_uses_the_ring() {
    let (_directory, options, daemon) = bus(vec![Plan::default()]);
    let mut sender = options.sender("news").unwrap();
    let begun = begin(&mut sender, 0);
    let sender = sender.into_shared();
    for first in (begun..begun + 1000).step_by(100) {
        // One thread after the other: the order of the messages is known.
        let sender = sender.clone();
        let send = move || (first..first + 100).try_for_each(|sequence| sender.send(&payload(sequence)));
        std::thread::spawn(send).join().unwrap().unwrap();
    }
    assert_eq!(sender.capabilities().rings, 1);
    drop(sender);
    check_all(daemon.join().unwrap(), begun, begun + 1000);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_task_uses_the_ring() {
    let (_directory, options, daemon) = bus(vec![Plan::default()]);
    let mut sender = options.sender_async("news").await.unwrap();
    let begun = begin(&mut sender, 0);
    for sequence in begun..1000 {
        sender.send_async(&payload(sequence)).await.unwrap();
    }
    sender.confirm_async().await.unwrap();
    assert_eq!(sender.capabilities().rings, 1);
    drop(sender);
    check_all(daemon.join().unwrap(), begun, 1000);
}

#[test]
fn listener_that_sleeps_is_woken_for_each_message() {
    let (received, messages) = mpsc::channel();
    let (_directory, options, daemon) = bus(vec![Plan { listener: Some(received), ..Plan::default() }]);
    let mut sender = options.sender("news").unwrap();
    let mut sent = begin(&mut sender, 0);
    // Until the listener is there.
    let first = loop {
        sender.send(&payload(sent)).unwrap();
        sent += 1;
        if let Ok(message) = messages.recv_timeout(Duration::from_millis(1)) {
            break message;
        }
        assert!(sent < 10_000, "no listener was introduced");
    };
    let mut seen = vec![first];
    while (seen.last().unwrap().0) + 1 < sent {
        seen.push(messages.recv_timeout(PATIENCE).expect("it is woken"));
    }
    // From here on the listener has read everything, and sleeps or is about to.
    for round in 0..2000 {
        match round % 3 {
            0 => sender.send(&payload(sent)).unwrap(),
            1 => sender.try_send(&payload(sent)).unwrap(),
            _ => {
                sender.feed(&payload(sent)).unwrap();
                sender.flush().unwrap();
            }
        }
        sent += 1;
        seen.push(messages.recv_timeout(PATIENCE).expect("it is woken"));
    }
    let first = seen[0].0;
    check(&seen, first..sent);
    sender.send(b"").unwrap(); // the end of the listener
    assert_eq!(messages.recv_timeout(PATIENCE).unwrap(), (sent, Vec::new()));
    drop(sender);
    assert_eq!(daemon.join().unwrap()[0].messages.len() as u64, sent + 1);
}

#[test]
fn large_message_and_recall_lead_back_to_the_socket() {
    let (_directory, options, daemon) = bus(vec![Plan { recalls_at: Some(1000), ..Plan::default() }]);
    let mut sender = options.sender("news").unwrap();
    let large = vec![7; 512 * 1024 + 1];
    for sequence in begin(&mut sender, 0)..2000 {
        match sequence {
            100 => {
                assert_eq!(sender.capabilities().rings, 1);
                sender.send(&large[1..]).unwrap();
                assert_eq!(sender.capabilities().rings, 1, "this is the largest");
            }
            200 => {
                sender.send(&large).unwrap();
                assert_eq!(sender.capabilities().rings, 0);
            }
            _ => sender.send(&payload(sequence)).unwrap(),
        }
        if sequence % 50 == 0 {
            sender.confirm().unwrap();
        }
    }
    drop(sender);
    let seen = daemon.join().unwrap().remove(0);
    let expected = |sequence| match sequence {
        100 => large[1..].to_vec(),
        200 => large.clone(),
        _ => payload(sequence),
    };
    assert_eq!(seen.messages.len(), 2000);
    for (sequence, message) in seen.messages.iter().enumerate() {
        let sequence = sequence as u64;
        assert!(message == &(sequence, expected(sequence)), "message {sequence}");
    }
    use broadcaster_protocol::control::kind::{BEGIN_RING, END_RING, OFFER_RING};
    let rings = [OFFER_RING, BEGIN_RING, END_RING];
    let kinds: Vec<u8> = seen.kinds.into_iter().filter(|kind| rings.contains(kind)).collect();
    assert_eq!(kinds[..6], [rings, rings].concat());
}

#[test]
fn sender_notices_that_its_daemon_is_gone_and_continues_with_the_next() {
    let (died, has_died) = mpsc::channel();
    let dies_at = Some((200, died));
    let (_directory, options, daemon) = bus(vec![Plan { dies_at, ..Plan::default() }, Plan::default()]);
    let mut sender = options.sender("news").unwrap();
    let confirmed = begin(&mut sender, 0);
    let mut sent = confirmed;
    while sent < 200 {
        sender.send(&payload(sent)).unwrap();
        sent += 1;
    }
    has_died.recv_timeout(PATIENCE).unwrap();
    while sender.capabilities().rings == 1 {
        sender.send(&payload(sent)).unwrap();
        sent += 1;
        assert!(sent <= 200 + 1024 + 8, "it does not notice");
    }
    sender.send(&payload(sent)).unwrap();
    let Err(SendError::InDoubt { count }) = sender.confirm() else { panic!("messages were lost") };
    let sent = begin(&mut sender, sent + 1);
    drop(sender);
    let [before, after] = <[Seen; 2]>::try_from(daemon.join().unwrap()).unwrap();
    check(&before.messages, 0..before.messages.len() as u64);
    assert_eq!(after.first, confirmed + count, "everything else was in doubt");
    check(&after.messages, after.first..sent);
    let lost = after.first - before.messages.len() as u64;
    assert!(lost <= 1024 + 8, "{lost} messages");
}

#[test]
fn busy_sender_with_backpressure_offers_a_ring_and_another_one_does_not() {
    let (_directory, options, daemon) = bus(vec![Plan { has_no_rings: true, ..Plan::default() }, Plan::default()]);
    let options = options.shared_memory(SharedMemory::default());
    let mut unpaced = options.sender("news").unwrap();
    for number in 0..2000 {
        unpaced.send(&payload(number)).unwrap();
        assert_eq!(unpaced.capabilities().rings, 0);
    }
    drop(unpaced);
    let mut sender = options.backpressure(PATIENCE).sender("news").unwrap();
    let mut sent = 0;
    while sent < 512 || sender.capabilities().rings == 0 {
        sender.send(&payload(sent)).unwrap();
        sent += 1;
        assert!(sent > 512 || sender.capabilities().rings == 0, "it is not known to be busy yet");
        assert!(sent < 1_000_000, "nothing changes");
    }
    drop(sender);
    assert_eq!(daemon.join().unwrap()[1].messages.len() as u64, sent);
}
