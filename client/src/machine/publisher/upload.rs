//! How the messages of one channel reach the daemon and those listeners that read rings: over the connection, or through a ring in shared
//! memory. It never reads or writes a connection.

use super::surviving::Surviving;
use super::{Place, Publication, Publisher, State};
use crate::machine::credit::Balance;
use crate::machine::frames::{Body, Frames};
use crate::machine::link::Loss;
use crate::machine::ring::{Bell, RingOutput};
use broadcaster_protocol::control::{BeginRing, Control, EndRing, LinkAdded, OfferRing, Prepare, Prepared, Unlink};
use broadcaster_protocol::frame::KIND_RETAIN;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_ring::Published;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a publisher offers a ring for the messages of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rings {
    /// Never.
    #[default]
    Never,
    /// When the channel is busy.
    WhenBusy,
    /// After so many messages on the connection, however much time they take.
    After(u32),
}

/// How many messages a channel must have sent to be busy, each time within [`BUSY_WITHIN`].
const BUSY_MESSAGES: u32 = 512;

/// See [`BUSY_MESSAGES`].
const BUSY_WITHIN: Duration = Duration::from_millis(250);

/// After how many messages the time is read.
const TIMED_MESSAGES: u32 = 64;

/// After how many messages a publisher looks for the answer to a request on the way to a ring, or writes an offer again.
const ANSWER_MESSAGES: u32 = 8;

/// How many times as many messages must be sent before the next offer, after one that was of no use.
const PATIENCE: u32 = 8;

/// The fewest and the most messages before the next offer.
const PATIENCE_MESSAGES: std::ops::RangeInclusive<u32> = 64..=262_144;

/// The most rings of one publisher.
pub(super) const RINGS_MAX: usize = 4;

/// The most listeners that one publisher wakes for one ring.
const LINKS_MAX: usize = 64;

/// After how many published batches the connection is read, which may have ended.
const UNREAD_MAX: u32 = 1024;

/// How the messages of one channel travel on the present connection.
#[derive(Debug)]
pub(super) struct Upload {
    /// Messages until [`Publisher::next_step`] is due. 0 while they are in a ring.
    due: u32,
    /// Messages before the next offer.
    patience: u32,
    /// Messages since `began`.
    counted: u32,
    /// Since when the channel has been busy, perhaps.
    began: Option<Instant>,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Messages are written to the connection.
    Socket,
    /// The same. A ring is to be made once the daemon reads descriptors.
    Announced,
    /// The same. The offer of this ring is to be written.
    Unsent(Box<dyn RingOutput>),
    /// The same. This ring was offered, and the answer is due.
    Offered(Box<dyn RingOutput>),
    /// Messages are in the ring.
    Active(Box<Active>),
    /// Messages are written to the connection, once there is one. The listeners of this ring receive them from it as well.
    Surviving(Box<Surviving>),
}

#[derive(Debug)]
pub(super) struct Active {
    ring: Box<dyn RingOutput>,
    /// The sequence number of its first message.
    first: u64,
    /// The daemon as a reader.
    relay: Box<dyn Bell>,
    /// The listeners that read it.
    links: Vec<Linked>,
    /// What announces the ring was written: messages may be published.
    begun: bool,
    /// Batches that were published since the connection was read.
    unread: u32,
    /// How urgently the daemon was requested to grant credit, since it did.
    called: Called,
}

/// A listener that reads a ring.
#[derive(Debug)]
struct Linked {
    /// The number of its link.
    number: u32,
    bell: Box<dyn Bell>,
    /// It has lost its connection. If that is not because the daemon is gone, the daemon ends the link.
    has_called: bool,
}

/// See [`Active::into_parts`].
type Parts = (Box<dyn RingOutput>, Box<dyn Bell>, Vec<Box<dyn Bell>>);

/// How a publisher with backpressure has called the daemon, which is not woken by what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Called {
    #[default]
    Not,
    /// When half of the credit was used up.
    Early,
    /// When there was none left.
    Late,
}

/// What the daemon has sent about rings, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum Notice {
    /// Frames with descriptors are going to follow.
    Announced,
    /// It takes the ring that was offered. A bell comes with it.
    Accepted(Place),
    /// It does not.
    Declined(Place),
    /// It requests the end of the ring.
    Recalled(Place),
    /// A listener is going to read the ring. A bell comes with it.
    Linked(Place, u32),
    /// That listener does not read it any more.
    Unlinked(u32),
}

/// What is to be done towards a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum NextStep {
    Nothing,
    /// To make a ring, and offer it.
    Make,
    /// To write the offer.
    Write,
    /// To look for an answer.
    Look,
}

/// Whether the daemon reads descriptors on the present connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum DescriptorReader {
    /// It was not asked to.
    #[default]
    Unprepared,
    /// It was asked to, and has not answered.
    Asked,
    Prepared,
}

/// What a publisher knows of its rings.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    pub(super) rings: Rings,
    /// Whether the daemon reads descriptors.
    reader: DescriptorReader,
    /// The channels that have a ring, or are on the way to one.
    places: Vec<Place>,
    /// What was read and not handled.
    notices: VecDeque<Notice>,
    /// Rings whose end was not written yet, with their first sequence numbers and the daemon as a reader.
    ending: Vec<(Place, u64, Box<dyn Bell>)>,
    /// The connection has ended, which was noticed after a message was published.
    loss: Option<Loss>,
}

impl Default for Upload {
    fn default() -> Self {
        Self { due: u32::MAX, patience: 0, counted: 0, began: None, phase: Phase::Socket }
    }
}

impl Upload {
    /// On a connection on which rings may be offered.
    fn new(rings: Rings) -> Self {
        let patience = match rings {
            Rings::Never => u32::MAX,
            Rings::WhenBusy => BUSY_MESSAGES,
            Rings::After(messages) => messages,
        };
        let mut upload = Self { patience, ..Self::default() };
        upload.wait(rings);
        upload
    }

    /// A message was committed.
    #[inline]
    pub(super) fn count(&mut self) {
        self.due = self.due.saturating_sub(1);
    }

    /// Whether messages are written, and nothing else is to be done.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.due > 0
    }

    #[inline]
    pub(super) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active(_))
    }

    /// The daemon has granted credit.
    pub(super) fn has_credit(&mut self) {
        if let Phase::Active(active) = &mut self.phase {
            active.called = Called::Not;
        }
    }

    fn active(&mut self) -> Option<&mut Active> {
        match &mut self.phase {
            Phase::Active(active) => Some(active),
            Phase::Socket | Phase::Announced | Phase::Unsent(_) | Phase::Offered(_) | Phase::Surviving(_) => None,
        }
    }

    /// The connection is gone; with the daemon, if it was `abandoned`. `waiting` are the messages that were not put into the ring, and
    /// `next` is the sequence number of the first of them.
    pub(super) fn disconnected(&mut self, abandoned: bool, waiting: &Frames, next: u64) {
        let surviving = match std::mem::take(self).phase {
            Phase::Active(active) if abandoned => Surviving::new(*active, next).and_then(|mut ring| {
                let mut is_in = true;
                waiting.take_while(|body| {
                    is_in = ring.push(body);
                    is_in
                });
                (is_in && ring.publish()).then(|| Box::new(ring))
            }),
            Phase::Surviving(ring) => Some(ring),
            Phase::Active(_) | Phase::Socket | Phase::Announced | Phase::Unsent(_) | Phase::Offered(_) => None,
        };
        if let Some(surviving) = surviving {
            (self.phase, self.due) = (Phase::Surviving(surviving), 0);
        }
    }

    /// The channel is open on a connection on which rings may be offered if `rings` states so.
    fn opened(&mut self, rings: Rings) {
        let surviving = self.take_surviving(rings);
        *self = Self::new(rings);
        if let Some(ring) = surviving {
            (self.phase, self.due) = (Phase::Surviving(ring), 0);
        }
    }

    #[inline]
    pub(super) fn survives(&self) -> bool {
        matches!(self.phase, Phase::Surviving(_))
    }

    /// Takes the ring that has survived, if there is one.
    pub(super) fn take_surviving(&mut self, rings: Rings) -> Option<Box<Surviving>> {
        match std::mem::replace(&mut self.phase, Phase::Socket) {
            Phase::Surviving(ring) => {
                self.wait(rings);
                Some(ring)
            }
            phase => {
                self.phase = phase;
                None
            }
        }
    }

    /// The next offer has to wait.
    fn wait(&mut self, rings: Rings) {
        (self.counted, self.began) = (0, None);
        self.due = if rings == Rings::WhenBusy { TIMED_MESSAGES } else { self.patience };
    }

    /// There is no ring, or no longer. The next offer has to wait for longer than the last.
    fn give_up(&mut self, rings: Rings) {
        let (min, max) = PATIENCE_MESSAGES.into_inner();
        self.patience = self.patience.saturating_mul(PATIENCE).clamp(min, max);
        self.phase = Phase::Socket;
        self.wait(rings);
    }

    /// Whether the channel has been busy for long enough to offer a ring, after [`TIMED_MESSAGES`] more messages.
    fn is_busy(&mut self, now: Instant) -> bool {
        self.due = TIMED_MESSAGES;
        self.counted = self.counted.saturating_add(TIMED_MESSAGES);
        let allowed = BUSY_WITHIN * self.counted.max(BUSY_MESSAGES) / BUSY_MESSAGES;
        match self.began {
            Some(began) if now.saturating_duration_since(began) <= allowed => self.counted >= self.patience,
            _ => {
                (self.counted, self.began) = (0, Some(now));
                false
            }
        }
    }
}

impl Active {
    /// The ring, the daemon, and the listeners by the numbers of their links. `None` if no reader knows of the ring.
    pub(super) fn into_parts(self) -> Option<Parts> {
        self.begun.then(|| (self.ring, self.relay, self.links.into_iter().map(|link| link.bell).collect()))
    }

    /// Calls the daemon, which grants credit, when half of the credit is used up and when there is none left.
    #[inline]
    fn call(&mut self, balance: Balance) {
        let due = match balance {
            balance if !balance.is_left() => Called::Late,
            balance if balance.is_low() => Called::Early,
            _ => Called::Not,
        };
        if due > self.called {
            self.called = due;
            self.relay.call();
        }
    }

    /// Shows everything to all readers. False if the daemon cannot be woken.
    #[inline]
    fn publish(&mut self, frames: &mut Frames) -> bool {
        self.unread += 1;
        let published = self.ring.publish();
        self.wake(&published, frames)
    }

    /// Wakes the readers that sleep.
    #[inline]
    fn wake(&mut self, published: &Published, frames: &mut Frames) -> bool {
        self.links.retain_mut(|link| {
            let is_usable = link.bell.ring(published);
            if !is_usable {
                frames.append_control(&unlink(link.number));
            }
            is_usable
        });
        self.relay.ring(published)
    }
}

impl Uploads {
    /// The connection took everything.
    pub(super) fn written(&mut self, publications: &mut [Publication]) {
        self.ending.clear();
        for &Place(at) in &self.places {
            if let Some(active) = publications[at].upload.active() {
                active.begun = true;
            }
        }
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.reader = DescriptorReader::Unprepared;
        self.places.clear();
        self.notices.clear();
        self.ending.clear();
        self.loss = None;
    }

    /// For each ring whose end was not written, the channel and the sequence number of the first message that the daemon, which has
    /// stopped, has not accepted.
    pub(super) fn accepted(&self, publications: &[Publication]) -> Vec<(Place, u64)> {
        let active = self.places.iter().filter_map(|&place| match &publications[place.0].upload.phase {
            Phase::Active(active) => Some((place, active.first, &active.relay)),
            Phase::Socket | Phase::Announced | Phase::Unsent(_) | Phase::Offered(_) | Phase::Surviving(_) => None,
        });
        let ending = self.ending.iter().map(|(place, first, relay)| (*place, *first, relay));
        ending.chain(active).map(|(place, first, relay)| (place, first.saturating_add(relay.counted()))).collect()
    }
}

impl Publisher {
    /// When a ring is offered. A publisher with a history never offers one.
    #[must_use]
    pub fn with_rings(mut self, rings: Rings) -> Self {
        self.uploads.rings = rings;
        self
    }

    /// How many channels have messages in a ring at present.
    pub fn rings(&self) -> usize {
        self.uploads.places.iter().filter(|place| self.publications[place.0].upload.is_active()).count()
    }

    /// The channel is open.
    pub(super) fn begin_upload(&mut self, place: Place) {
        use crate::machine::Machine;
        if self.wants_rings() && self.session.has_rings() {
            self.publications[place.0].upload.opened(self.uploads.rings);
        }
    }

    /// Whether messages on the channel can be put into its ring at once.
    #[inline]
    pub(in crate::machine) fn is_in_ring(&self, place: Place) -> bool {
        self.publications[place.0].upload.is_active() && self.frames.is_empty() && !self.lacks_credit(place)
    }

    // ---- the way to a ring ----

    /// Whether [`next_step`](Self::next_step) is due.
    #[inline]
    pub(in crate::machine) fn is_step_due(&self, place: Place) -> bool {
        let upload = &self.publications[place.0].upload;
        !upload.is_quiet() && !matches!(upload.phase, Phase::Active(_) | Phase::Surviving(_))
    }

    /// What is to be done towards a ring for the channel, which is open. Everything was written. `now` is called now and then.
    pub(in crate::machine) fn next_step(&mut self, place: Place, now: impl FnOnce() -> Option<Instant>) -> NextStep {
        let Self { publications, uploads, frames, .. } = self;
        let is_unsent = |place: &Place| matches!(publications[place.0].upload.phase, Phase::Unsent(_));
        let may_make = !uploads.places.iter().any(is_unsent);
        let upload = &mut publications[place.0].upload;
        match &upload.phase {
            Phase::Socket => {
                upload.due = TIMED_MESSAGES;
                let is_wanted = match uploads.rings {
                    Rings::Never => false,
                    Rings::WhenBusy => now().is_some_and(|now| upload.is_busy(now)),
                    Rings::After(_) => true,
                };
                if is_wanted && uploads.places.len() < RINGS_MAX {
                    uploads.places.push(place);
                    (upload.phase, upload.due) = (Phase::Announced, 0);
                }
                NextStep::Nothing
            }
            Phase::Announced => {
                upload.due = ANSWER_MESSAGES;
                match uploads.reader {
                    DescriptorReader::Unprepared => {
                        uploads.reader = DescriptorReader::Asked;
                        frames.append_control(&Prepare::default().into());
                        NextStep::Nothing
                    }
                    DescriptorReader::Asked => NextStep::Look,
                    DescriptorReader::Prepared if may_make => NextStep::Make,
                    DescriptorReader::Prepared => NextStep::Nothing,
                }
            }
            Phase::Unsent(_) => {
                upload.due = ANSWER_MESSAGES;
                NextStep::Write
            }
            Phase::Offered(_) => {
                upload.due = ANSWER_MESSAGES;
                NextStep::Look
            }
            Phase::Active(_) | Phase::Surviving(_) => NextStep::Nothing,
        }
    }

    /// This ring is for the channel. The offer is to be written.
    pub(in crate::machine) fn offer(&mut self, place: Place, ring: Box<dyn RingOutput>) {
        let upload = &mut self.publications[place.0].upload;
        (upload.phase, upload.due) = (Phase::Unsent(ring), ANSWER_MESSAGES);
    }

    /// The frame of the offer that is to be written.
    pub(in crate::machine) fn offer_frame(&self, place: Place) -> Option<Vec<u8>> {
        let publication = &self.publications[place.0];
        let (State::Open(id), Phase::Unsent(ring)) = (publication.state, &publication.upload.phase) else {
            return None;
        };
        let mut frame = Vec::new();
        let offer = OfferRing { id: id.0, bytes: ring.bytes(), extensions: Vec::new() };
        Control::from(offer).encode(&mut frame).expect("an offer is shorter than a control frame");
        Some(frame)
    }

    /// The first `written` bytes of this offer were written, and its descriptor with them. The rest goes out before anything else.
    pub(in crate::machine) fn offered(&mut self, place: Place, frame: &[u8], written: usize) {
        if written < frame.len() {
            self.frames.adopt_control(frame, written);
        }
        let phase = &mut self.publications[place.0].upload.phase;
        *phase = match std::mem::replace(phase, Phase::Socket) {
            Phase::Unsent(ring) => Phase::Offered(ring),
            other => other,
        };
    }

    /// There is no ring for the channel: none can be made, or the daemon does not take it.
    pub(in crate::machine) fn give_up_ring(&mut self, place: Place) {
        self.uploads.places.retain(|&other| other != place);
        self.publications[place.0].upload.give_up(self.uploads.rings);
    }

    // ---- what the daemon sends ----

    /// The daemon has sent something about the rings of this publisher.
    pub(super) fn noticed(&mut self, notice: Notice) {
        self.uploads.notices.push_back(notice);
    }

    /// The daemon reads descriptors from now on. Returns whether it was asked to.
    pub(super) fn prepared(&mut self) -> bool {
        let was_asked = self.uploads.reader == DescriptorReader::Asked;
        self.uploads.reader = DescriptorReader::Prepared;
        for &Place(at) in &self.uploads.places {
            let upload = &mut self.publications[at].upload;
            if matches!(upload.phase, Phase::Announced) {
                upload.due = 0;
            }
        }
        was_asked
    }

    /// This side reads descriptors from now on.
    pub(in crate::machine) fn answer_announcement(&mut self) {
        self.frames.append_control(&Prepared::default().into());
    }

    /// Whether the answer to an offer is due.
    pub(super) fn awaits_ring(&self, place: Place) -> bool {
        matches!(self.publications[place.0].upload.phase, Phase::Offered(_))
    }

    /// What the daemon has sent, in order.
    pub(in crate::machine) fn next_notice(&mut self) -> Option<Notice> {
        self.uploads.notices.pop_front()
    }

    /// The daemon takes the ring: messages that are committed from now on are in it. Without the daemon's `relay` they cannot be.
    pub(in crate::machine) fn begin_ring(&mut self, place: Place, relay: Option<Box<dyn Bell>>) {
        let Self { publications, frames, .. } = self;
        let publication = &mut publications[place.0];
        let State::Open(id) = publication.state else { return };
        let phase = &mut publication.upload.phase;
        let mut ring = match std::mem::replace(phase, Phase::Socket) {
            Phase::Offered(ring) => ring,
            other => return *phase = other,
        };
        // What lacks credit is in the ring as well, if that can be.
        let waits_for = publication.aside.data().next();
        let first = waits_for.map_or(publication.next, |(_, header)| header.sequence());
        let fits = publication.aside.data().all(|(_, header)| header.kind() != KIND_RETAIN);
        let id = id.0;
        ring.begin(first);
        frames.append_control(&BeginRing { id, sequence: first, extensions: Vec::new() }.into());
        if let Some(relay) = relay.filter(|_| fits) {
            let (links, begun, unread, called) = (Vec::new(), false, 0, Called::Not);
            *phase = Phase::Active(Box::new(Active { ring, first, relay, links, begun, unread, called }));
            publication.upload.due = 0;
        } else {
            let _ = ring.close(); // no reader knows it
            frames.append_control(&EndRing { id, sequence: first, extensions: Vec::new() }.into());
            self.give_up_ring(place);
        }
    }

    /// A listener is going to read the ring, and is woken with `bell` from now on. If the ring has ended, the daemon knows.
    pub(in crate::machine) fn add_link(&mut self, place: Place, link: u32, bell: Option<Box<dyn Bell>>) {
        let Some(active) = self.publications[place.0].upload.active() else { return };
        match bell {
            Some(bell) if active.links.len() < LINKS_MAX => {
                active.links.push(Linked { number: link, bell, has_called: false });
                self.frames.append_control(&LinkAdded { link, extensions: Vec::new() }.into());
            }
            Some(_) | None => self.frames.append_control(&unlink(link)),
        }
    }

    /// That listener does not read the ring any more.
    pub(in crate::machine) fn remove_link(&mut self, link: u32) {
        for &Place(at) in &self.uploads.places {
            if let Some(active) = self.publications[at].upload.active() {
                active.links.retain(|other| other.number != link);
            }
        }
    }

    /// Whether what the daemon has sent is to be read before the next message is published, or after the last: it has requested that, or the end of
    /// the connection would go unnoticed. True once, and whenever a listener has lost its connection, perhaps together with this one.
    #[inline]
    pub(in crate::machine) fn must_look(&mut self, place: Place) -> bool {
        let Some(active) = self.publications[place.0].upload.active() else { return false };
        let mut must = active.relay.is_called();
        for link in &mut active.links {
            link.has_called |= link.bell.is_called();
            must |= link.has_called;
        }
        let must = must || active.unread >= UNREAD_MAX || self.uploads.loss.is_some();
        if must {
            active.unread = 0;
        }
        must
    }

    /// The connection has ended. The next call that sends or reads deals with it.
    pub(in crate::machine) fn set_loss(&mut self, loss: Loss) {
        self.uploads.loss = Some(loss);
    }

    pub(in crate::machine) fn take_loss(&mut self) -> Option<Loss> {
        self.uploads.loss.take()
    }

    // ---- messages ----

    /// Puts the next message, which is not committed yet, into the ring of its channel, and shows it to all readers. False: it has not,
    /// because there is no credit, or the messages are not in a ring any more.
    #[inline]
    pub(in crate::machine) fn put(&mut self, place: Place, metadata: &[u8], payload: &[u8]) -> bool {
        self.publish_on(place);
        if self.lacks_credit(place) {
            return false;
        }
        let is_paced = self.is_paced();
        let Publication { upload, balance, .. } = &mut self.publications[place.0];
        let Some(active) = upload.active() else { return false };
        let is_in = active.ring.push(metadata, payload).is_ok();
        let is_intact = is_in && active.publish(&mut self.frames);
        if is_in && is_paced {
            balance.charge(HEADER_BYTES + metadata.len() + payload.len(), 1);
            active.call(*balance);
        }
        if is_in {
            self.commit(place);
        }
        if !is_intact {
            self.end_ring(place);
        }
        is_in
    }

    /// Commits a message that [`publish`](Self::publish) puts into the ring.
    pub(super) fn stage(&mut self, place: Place, kind: u8, metadata: &[u8], payload: &[u8], len: u32) {
        let publication = &mut self.publications[place.0];
        let before = publication.aside.waiting_bytes();
        publication.aside.append((publication.label, self.id), kind, publication.next, metadata, payload, len);
        self.aside_bytes += publication.aside.waiting_bytes() - before;
        self.commit(place);
    }

    /// Whether [`publish`](Self::publish) has something to do.
    #[inline]
    pub(in crate::machine) fn has_unpublished(&self) -> bool {
        let is_unpublished = |&Place(at): &Place| {
            let publication = &self.publications[at];
            let begun = matches!(&publication.upload.phase, Phase::Active(active) if active.begun);
            begun && !publication.aside.is_empty() && !self.lacks_credit(Place(at))
        };
        self.aside_bytes > 0 && self.uploads.places.iter().any(is_unpublished)
    }

    /// The channels that have a ring, or have offered one, by number.
    pub(in crate::machine) fn ring_place(&self, at: usize) -> Option<Place> {
        self.uploads.places.get(at).copied()
    }

    /// Shows all readers of rings what was fed, unless what announces a ring was not written yet. Messages that cannot be in a ring then wait
    /// to be [written](Machine::outgoing).
    ///
    /// [`flush`](crate::machine::flush) does this. It is for the end of a publisher, which writes what it can and waits for nothing.
    pub fn publish(&mut self) {
        let mut at = 0;
        while let Some(place) = self.ring_place(at) {
            self.publish_on(place);
            at += usize::from(self.ring_place(at) == Some(place));
        }
    }

    #[inline]
    pub(in crate::machine) fn publish_on(&mut self, place: Place) {
        if !self.publications[place.0].aside.is_empty() {
            self.publish_waiting(place);
        }
    }

    fn publish_waiting(&mut self, place: Place) {
        let is_paced = self.is_paced();
        let Self { publications, frames, id, .. } = self;
        let Publication { upload, balance, aside, label, .. } = &mut publications[place.0];
        let Some(active) = upload.active().filter(|active| active.begun) else { return };
        let (mut fits, mut pushed_bytes) = (true, 0);
        let waiting = aside.waiting_bytes();
        let pushed = aside.take_while(|frame| {
            if is_paced && !balance.is_left() {
                return false;
            }
            let (pushed, body_bytes, messages) = match frame {
                Body::Message { metadata, payload } => {
                    (active.ring.push(metadata, payload), metadata.len() + payload.len(), 1)
                }
                Body::Batch { messages, body } => (active.ring.push_batch(messages, body), body.len(), messages),
            };
            fits = pushed.is_ok();
            if fits {
                pushed_bytes += HEADER_BYTES + body_bytes;
                if is_paced {
                    balance.charge(HEADER_BYTES + body_bytes, messages.into());
                }
            }
            fits
        });
        let is_intact = pushed == 0 || active.publish(frames);
        if is_paced {
            active.call(*balance);
        }
        if fits {
            aside.sent(pushed_bytes);
        } else {
            aside.drop_messages((*label, *id), pushed);
        }
        self.aside_bytes = self.aside_bytes - waiting + aside.waiting_bytes();
        if !(fits && is_intact) {
            self.end_ring(place);
        }
    }

    /// The messages of the channel are written to the connection from here on.
    pub(in crate::machine) fn end_ring(&mut self, place: Place) {
        let Self { publications, frames, .. } = self;
        let publication = &mut publications[place.0];
        let (State::Open(id), Some(active)) = (publication.state, publication.upload.active()) else { return };
        let published = active.ring.close();
        active.wake(&published, frames);
        let waiting = publication.aside.data().next();
        let sequence = waiting.map_or(publication.next, |(_, header)| header.sequence());
        frames.append_control(&EndRing { id: id.0, sequence, extensions: Vec::new() }.into());
        let phase = std::mem::replace(&mut publication.upload.phase, Phase::Socket);
        if let Phase::Active(active) = phase {
            self.uploads.ending.push((place, active.first, active.relay));
        }
        self.give_up_ring(place);
        if self.is_paced() {
            return self.promote(place);
        }
        let Self { publications, frames, .. } = self;
        let aside = &mut publications[place.0].aside;
        self.aside_bytes -= aside.waiting_bytes();
        frames.take_from(aside, |_, _| true);
    }
}

fn unlink(link: u32) -> Control {
    Unlink { link, extensions: Vec::new() }.into()
}

#[cfg(test)]
mod tests;
