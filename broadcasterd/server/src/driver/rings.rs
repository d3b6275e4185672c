//! What the driver holds of shared memory: the rings of senders, the pages of listeners, and their descriptors. It reads rings for the
//! subscribers that do not read them themselves, and reports to the broker what their words state. When nothing needs the relay, it does not
//! request to be woken. A busy sender never reads its socket by itself, so the driver calls it through the relay's page after each write to it.

use super::{Driver, Input, RUN_BYTES, Request, Socket, Stopping};
use broadcaster_broker::{Attachment, ConnId, Event, Head, LinkId, Moment, RingId};
use broadcaster_protocol::control::{Control, LinkReady, OfferRing};
use broadcaster_protocol::{ChannelId, SenderId};
use broadcaster_ring::{CAPACITY_WORDS_MIN, Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PageReader, PageWriter, Start};
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

/// Words of messages that a ring can hold, at most 16 MiB.
const CAPACITY_WORDS: RangeInclusive<u64> = CAPACITY_WORDS_MIN..=2 * 1024 * 1024;

const WORD_BYTES: u64 = size_of::<u64>() as u64;

/// Bytes of messages that one turn reads from a ring.
const RELAY_BYTES_MAX: usize = 64 * 1024;

/// All shared memory.
#[derive(Debug)]
pub(super) struct Shared<S: Socket> {
    rings: BTreeMap<RingId, Ring<S>>,
    links: BTreeMap<LinkId, Link<S>>,
    /// What has come with the frame that is being handled, until the broker keeps it.
    pub(super) arriving: Option<Arriving<S>>,
}

/// A ring of a sender.
#[derive(Debug)]
struct Ring<S: Socket> {
    /// The connection of the sender.
    conn: ConnId,
    descriptor: S::Descriptor,
    memory: Memory<S>,
    page: PageWriter<S::Page>,
    /// Until it is written.
    page_descriptor: Option<S::Descriptor>,
    doorbell: S::Descriptor,
    /// Sequence number of its first message, once it has begun.
    first: u64,
    /// The broker needs the messages.
    is_relayed: bool,
}

#[derive(Debug)]
enum Memory<S: Socket> {
    /// Its sender has not written to it yet.
    Blank(S::Memory),
    Begun(Intake<S::Memory>),
    /// It is no ring.
    Useless,
}

/// The page of a listener.
#[derive(Debug)]
struct Link<S: Socket> {
    ring: RingId,
    page: PageReader<S::Memory>,
    /// Of the page and the doorbell, until they are written.
    descriptors: Option<[S::Descriptor; 2]>,
}

#[derive(Debug)]
pub(super) enum Arriving<S: Socket> {
    Ring(Box<Offered<S>>),
    Link(PageReader<S::Memory>, [S::Descriptor; 2]),
}

#[derive(Debug)]
pub(super) struct Offered<S: Socket> {
    conn: ConnId,
    descriptor: S::Descriptor,
    memory: S::Memory,
    page: (S::Descriptor, S::Page),
    doorbell: S::Descriptor,
}

impl<S: Socket> Shared<S> {
    pub(super) fn new() -> Self {
        Self { rings: BTreeMap::new(), links: BTreeMap::new(), arriving: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rings.is_empty() && self.links.is_empty()
    }

    /// The descriptors that are written with a frame, if they exist still.
    fn descriptors(&self, attachment: Attachment) -> Option<Vec<&S::Descriptor>> {
        match attachment {
            Attachment::Ring(id) => Some(vec![&self.rings.get(&id)?.descriptor]),
            Attachment::Relay(id) => {
                let ring = self.rings.get(&id)?;
                Some(vec![ring.page_descriptor.as_ref()?, &ring.doorbell])
            }
            Attachment::Link(id) => Some(self.links.get(&id)?.descriptors.as_ref()?.iter().collect()),
        }
    }

    /// The descriptors were written. The receiver has its own ones now.
    fn release(&mut self, attachment: Attachment) {
        match attachment {
            Attachment::Ring(_) => {} // other listeners need it
            Attachment::Relay(id) => {
                if let Some(ring) = self.rings.get_mut(&id) {
                    ring.page_descriptor = None;
                }
            }
            Attachment::Link(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.descriptors = None;
                }
            }
        }
    }

    /// The senders of these rings have something to read at their sockets.
    pub(super) fn call(&mut self, rings: &[RingId]) {
        for id in rings {
            if let Some(ring) = self.rings.get_mut(id) {
                ring.page.call();
            }
        }
    }

    /// How far the sender of the ring has come, or what is wrong with its words; `None` if it has not begun.
    fn head(&self, id: RingId) -> Option<Result<Head, String>> {
        let Memory::Begun(intake) = &self.rings.get(&id)?.memory else { return None };
        let newest = intake.newest().map_err(|corrupt| corrupt.to_string());
        Some(newest.map(|newest| Head { newest, frame_bytes: intake.frame_bytes() }))
    }
}

impl<S: Socket> Ring<S> {
    /// Whether there is a message that the driver has not read.
    fn is_ready(memory: &Memory<S>) -> bool {
        match memory {
            // The end of the ring is not its concern: an EndRing follows. A ring in which nothing can be found has nothing: it is corrupt, or
            // its sender is publishing, and looks at the doorbell after that.
            Memory::Begun(intake) => intake.newest().is_ok_and(|newest| newest.position != intake.cursor().position),
            Memory::Blank(_) | Memory::Useless => false,
        }
    }
}

impl<S: Socket> Driver<S> {
    /// After [`Request::WatchRing`], and whenever the doorbell of the ring was rung: reads what is in it, once.
    pub fn relay(&mut self, now: Moment, ring: RingId) -> Input {
        if matches!(self.stopping, Stopping::Drained) {
            return Input::Ended;
        }
        if let Some(ring) = self.shared.rings.get_mut(&ring) {
            ring.page.disarm();
        }
        self.relay_once(now, ring);
        self.heed_call(now, ring);
        self.finish_turn(now);
        match self.shared.rings.get_mut(&ring) {
            None => Input::Ended,
            Some(ring) if !ring.is_relayed => Input::Empty,
            Some(Ring { memory, page, .. }) => match page.arm(|| Ring::<S>::is_ready(memory)) {
                true => Input::Empty,
                false => Input::More,
            },
        }
    }

    /// The doorbell of a ring that is watched: to be waited for.
    pub fn doorbell(&self, ring: RingId) -> Option<&S::Descriptor> {
        self.shared.rings.get(&ring).map(|ring| &ring.doorbell)
    }

    /// Reads from the ring once; returns whether anything was there. If the sender was requested to ring, it still is.
    fn relay_once(&mut self, now: Moment, id: RingId) -> bool {
        let Some(ring) = self.shared.rings.get_mut(&id).filter(|ring| ring.is_relayed) else { return false };
        let Memory::Begun(intake) = &mut ring.memory else { return false };
        let (taken, at) = match intake.take(None, RELAY_BYTES_MAX) {
            Ok(taken) if taken.is_empty() => return false,
            Ok(taken) => (taken, intake.cursor()),
            Err(corrupt) => {
                self.apply(now, Event::RingCorrupt { ring: id, problem: corrupt.to_string() });
                return false;
            }
        };
        let (bytes, messages) = taken.run.as_ref().map_or((0, 0), |run| (run.bytes().len(), run.messages()));
        ring.page.count(at.position, messages, taken.lost);
        self.unflushed.bytes += bytes + RUN_BYTES;
        self.unflushed.messages += messages;
        // Not before: everything that was taken is published.
        match self.shared.head(id) {
            Some(Ok(head)) => {
                self.apply(now, Event::Relayed { ring: id, head, at, lost: taken.lost, run: taken.run });
            }
            Some(Err(problem)) => self.apply(now, Event::RingCorrupt { ring: id, problem }),
            None => return false,
        }
        if self.unflushed.is_full(self.broker.limits()) {
            self.flush(now);
        }
        true
    }

    /// A sender with backpressure has rung because it needs credit, perhaps: looks at what decides whether it gets any.
    fn heed_call(&mut self, now: Moment, id: RingId) {
        if !self.broker.is_paced(id) {
            return;
        }
        match self.shared.rings.get(&id) {
            Some(ring) if !ring.is_relayed => self.sample(now, id),
            Some(_) if self.broker.wants_credit(id) => self.sample_links(now, id),
            Some(_) | None => {}
        }
    }

    /// Reads what is in the ring now for those that do not read it themselves, and looks at everyone else.
    pub(super) fn sync(&mut self, now: Moment, id: RingId) {
        let Some(Ok(end)) = self.shared.head(id) else { return self.sample(now, id) };
        while let Some(Ring { memory: Memory::Begun(intake), is_relayed: true, .. }) = self.shared.rings.get(&id)
            && intake.cursor().position < end.newest.position
            && self.relay_once(now, id)
        {}
        self.sample(now, id);
    }

    /// Looks at the ring, and at the listeners that read it themselves.
    fn sample(&mut self, now: Moment, id: RingId) {
        self.sample_head(now, id);
        self.sample_links(now, id);
    }

    fn sample_links(&mut self, now: Moment, id: RingId) {
        for link in self.broker.links_of(id).collect::<Vec<_>>() {
            self.sample_link(now, link);
        }
    }

    fn sample_head(&mut self, now: Moment, id: RingId) {
        match self.shared.head(id) {
            Some(Ok(head)) => self.apply(now, Event::RingSampled { ring: id, head }),
            Some(Err(problem)) => self.apply(now, Event::RingCorrupt { ring: id, problem }),
            None => {}
        }
    }

    fn sample_link(&mut self, now: Moment, id: LinkId) {
        if let Some(link) = self.shared.links.get(&id) {
            let sample = link.page.sample();
            self.apply(now, Event::LinkSampled { link: id, sample });
        }
    }

    /// Looks at all rings and pages, so that every count is up to date.
    pub(super) fn sample_all(&mut self, now: Moment) {
        for ring in self.shared.rings.keys().copied().collect::<Vec<_>>() {
            self.sample_head(now, ring);
        }
        for link in self.shared.links.keys().copied().collect::<Vec<_>>() {
            self.sample_link(now, link);
        }
    }

    /// Looks at the rings about which the event decides.
    pub(super) fn look_before(&mut self, now: Moment, event: &Event) {
        match event {
            Event::Control { control: Control::Inspect(_) | Control::Stop(_), .. } => self.sample_all(now),
            Event::Control { control: Control::Progress(progress), .. } => {
                let link = LinkId(progress.link);
                if let Some(Link { ring, .. }) = self.shared.links.get(&link) {
                    self.sample_head(now, *ring);
                    self.sample_link(now, link);
                }
            }
            event => {
                for ring in self.broker.rings_before(event) {
                    self.sync(now, ring);
                }
            }
        }
    }

    // ---- what comes with frames ----

    /// The event that the control frame is, with the descriptors that belong to it.
    pub(super) fn take_descriptors(&mut self, conn: ConnId, control: Control) -> Event {
        let needed = control.descriptors();
        let Some(connection) = self.connections.get_mut(conn.0) else { return Event::Control { conn, control } };
        if connection.received.len() < needed {
            return Event::DescriptorsMissing { conn };
        }
        let mut descriptors = connection.received.drain(..needed);
        match (control, descriptors.next(), descriptors.next()) {
            (Control::OfferRing(offer), Some(descriptor), None) => {
                drop(descriptors);
                let OfferRing { id, bytes, .. } = offer;
                let offered = self.open_ring(conn, descriptor, bytes);
                let bytes = offered.map(|offered| {
                    self.shared.arriving = Some(Arriving::Ring(Box::new(offered)));
                    bytes
                });
                Event::RingOffered { conn, channel: ChannelId(id), bytes: bytes.map_err(|error| error.to_string()) }
            }
            (Control::LinkReady(LinkReady { link, .. }), Some(page), Some(doorbell)) => {
                drop(descriptors);
                let opened = S::open_memory(&page, PAGE_BYTES..=PAGE_BYTES);
                let reader = opened.ok().and_then(|memory| PageReader::open(memory).ok());
                self.shared.arriving = reader.map(|reader| Arriving::Link(reader, [page, doorbell]));
                Event::LinkReady { conn, link: LinkId(link), is_usable: self.shared.arriving.is_some() }
            }
            (control, ..) => Event::Control { conn, control },
        }
    }

    /// Maps the ring, and makes what its sender needs to wake this process.
    fn open_ring(&self, conn: ConnId, descriptor: S::Descriptor, bytes: u64) -> io::Result<Offered<S>> {
        let capacity = (bytes / WORD_BYTES).saturating_sub(HEADER_WORDS as u64);
        let is_allowed = CAPACITY_WORDS.contains(&capacity) && capacity.is_power_of_two();
        let size = usize::try_from(bytes).ok().filter(|_| is_allowed && bytes.is_multiple_of(WORD_BYTES));
        let Some(size) = size else {
            let (min, max) = CAPACITY_WORDS.into_inner();
            let problem = format!(
                "a ring of {bytes} bytes: it has {HEADER_WORDS} words of 8 bytes, and a power of two from {min} to {max} more"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        };
        let memory = S::open_memory(&descriptor, size..=size)?;
        let (page, doorbell) = (S::make_page()?, S::make_doorbell()?);
        Ok(Offered { conn, descriptor, memory, page, doorbell })
    }

    /// Writes the frame to which the attachment belongs; returns how many bytes it has, and how many were taken. `None` if the attachment does not
    /// exist any more.
    pub(super) fn offer_attached(
        &mut self,
        conn: ConnId,
        attachment: Attachment,
    ) -> Option<(usize, io::Result<usize>)> {
        let connection = self.connections.get(conn.0)?;
        let descriptors = self.shared.descriptors(attachment)?;
        let frame = self.broker.outgoing(conn).next()?;
        let wrote = connection.socket.write_with_descriptors(frame, &descriptors);
        let offered = frame.len();
        if matches!(wrote, Ok(bytes) if bytes > 0) {
            self.shared.release(attachment);
        }
        Some((offered, wrote))
    }

    // ---- what the broker wants done ----

    pub(super) fn keep_ring(&mut self, id: RingId) {
        let Some(Arriving::Ring(offered)) = self.shared.arriving.take() else { return };
        let Offered { conn, descriptor, memory, page: (page_descriptor, page), doorbell } = *offered;
        let ring = Ring {
            conn,
            descriptor,
            memory: Memory::Blank(memory),
            page: PageWriter::new(page),
            page_descriptor: Some(page_descriptor),
            doorbell,
            first: 0,
            is_relayed: false,
        };
        self.shared.rings.insert(id, ring);
        if let Some(connection) = self.connections.get_mut(conn.0) {
            connection.rings.push(id);
        }
        tracing::debug!(conn = conn.0, ring = id.0, "ring accepted");
    }

    pub(super) fn begin_ring(&mut self, now: Moment, id: RingId, (channel, sender, first): (ChannelId, SenderId, u64)) {
        let Some(ring) = self.shared.rings.get_mut(&id) else { return };
        let Memory::Blank(memory) = std::mem::replace(&mut ring.memory, Memory::Useless) else { return };
        ring.first = first;
        // The oldest message may be overwritten already.
        let start = Start::At(Cursor { position: 0, sequence: first });
        match Intake::open(memory, start, channel, sender) {
            Ok(intake) => {
                ring.memory = Memory::Begun(intake);
                if self.broker.is_paced(id) {
                    self.requests.push_back(Request::WatchRing(id)); // its sender may call, whatever the broker needs
                }
            }
            Err(corrupt) => self.apply(now, Event::RingCorrupt { ring: id, problem: corrupt.to_string() }),
        }
    }

    pub(super) fn set_relayed(&mut self, id: RingId, from: Option<Cursor>) {
        let Some(ring) = self.shared.rings.get_mut(&id) else { return };
        ring.is_relayed = from.is_some();
        ring.page.set_relaying(ring.is_relayed);
        ring.page.disarm();
        if let (Some(from), Memory::Begun(intake)) = (from, &mut ring.memory) {
            intake.seek(from);
            self.requests.push_back(Request::WatchRing(id));
        }
    }

    pub(super) fn end_ring(&mut self, now: Moment, id: RingId) {
        let head = self.shared.head(id).and_then(Result::ok);
        if let Some(mut ring) = self.shared.rings.remove(&id) {
            if let Some(Head { newest, .. }) = head {
                // A sender whose daemon stops learns how much was accepted.
                ring.page.finish(newest.position, newest.sequence.wrapping_sub(ring.first));
            }
            if let Some(connection) = self.connections.get_mut(ring.conn.0) {
                connection.rings.retain(|own| *own != id);
            }
        }
        self.requests.push_back(Request::UnwatchRing(id));
        self.apply(now, Event::RingEnded { ring: id, head });
    }

    /// Before the broker forgets all channels.
    pub(super) fn end_all_rings(&mut self, now: Moment) {
        for id in self.shared.rings.keys().copied().collect::<Vec<_>>() {
            self.sync(now, id);
            if self.shared.rings.contains_key(&id) {
                self.end_ring(now, id);
            }
        }
    }

    pub(super) fn keep_link(&mut self, id: LinkId, ring: RingId) {
        if let Some(Arriving::Link(page, descriptors)) = self.shared.arriving.take() {
            self.shared.links.insert(id, Link { ring, page, descriptors: Some(descriptors) });
        }
    }

    pub(super) fn end_link(&mut self, now: Moment, id: LinkId) {
        let link = self.shared.links.remove(&id);
        if let Some(Ok(head)) = link.as_ref().and_then(|link| self.shared.head(link.ring)) {
            let ring = link.as_ref().map_or(RingId(0), |link| link.ring);
            self.apply(now, Event::RingSampled { ring, head });
        }
        self.apply(now, Event::LinkEnded { link: id, sample: link.map(|link| link.page.sample()) });
    }

    /// Checks that nothing is left of what the broker did not keep.
    pub(super) fn check_shared(&self) {
        assert!(self.shared.arriving.is_none(), "descriptors were left over");
        for (id, ring) in &self.shared.rings {
            let has_it = self.connections.get(ring.conn.0).is_some_and(|connection| connection.rings.contains(id));
            assert!(has_it, "{id:?} belongs to {:?}, which does not know", ring.conn);
        }
        let snapshot_rings = self.connections.iter().map(|(_, connection)| connection.rings.len()).sum::<usize>();
        assert_eq!(snapshot_rings, self.shared.rings.len(), "rings of connections");
    }
}
