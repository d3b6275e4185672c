//! The publications of one connection: numbers messages, keeps those that are not written yet, and carries them over a lost connection.
//! It never waits for a listener; it only knows how much the daemon lets it send.

mod surviving;
mod upload;

pub use upload::Rings;
pub(super) use upload::{NextStep, Notice};

use super::counting::{Answer, Counting, Receipts, Ticket};
use super::credit::Balance;
use super::frames::{Frames, Waiting};
use super::requests::{Reception, Requests};
use super::retained::{Kept, Lifetime, RETENTION_ENTRY_BYTES, entry};
use super::session::{Ended, Machine, Phase, Session, unexpected};
use crate::ChannelName;
use broadcaster_protocol::control::{
    Confirm, Control, CountListeners, Credit, Declined as WireDeclined, Extension, Inspect, Open, OpenInbox, Opened,
    Receipt, RefusedCode, Superseded, extension, kind,
};
use broadcaster_protocol::frame::{KIND_PUBLISH, KIND_RETAIN};
use broadcaster_protocol::limits::{META_BYTES_MAX, PAYLOAD_BYTES_MAX};
use broadcaster_protocol::{ChannelId, Header, Item, SenderId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};
use upload::{RINGS_MAX, Upload, Uploads};

/// Channels that one publisher knows: it continues to count on each that it has ever used.
pub const PUBLICATIONS_MAX: usize = 65_536;

/// How many messages to retain are sent before what the daemon has sent is read. It sends at most one short frame for each.
const UNREAD_MAX: u32 = 64;

/// A payload is larger than the daemon accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes of the payload.
    pub len: usize,
    /// Bytes allowed.
    pub max: u32,
}

/// The daemon does not carry out a request, because of a limit or because it does not support it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// The channel.
    pub channel: ChannelName,
    /// Why, for programs.
    pub code: RefusedCode,
    /// Why, for people.
    pub reason: String,
}

/// Why a message was not sent, and will not be, although there is a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// Its payload is too large.
    TooLarge(TooLarge),
    /// Its channel cannot be opened.
    Declined(Box<Declined>),
    /// The metadata of a message that is to be retained would have so many bytes, with what states its retention.
    MetadataTooLarge(usize),
}

impl From<TooLarge> for Rejected {
    fn from(too_large: TooLarge) -> Self {
        Self::TooLarge(too_large)
    }
}

/// One message with its place among those of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The sequence number.
    pub sequence: u64,
    /// The payload.
    pub payload: &'a [u8],
}

/// One of the publications of a [`Publisher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(usize);

/// The publication that a publisher was made for.
pub const OWN: Place = Place(0);

/// Publications on one connection after the other.
///
/// A frame is *committed* when its sequence number is final: from then on it is written completely, or written again
/// completely after a lost connection, or its handle is dropped. At most one connection gets a complete copy of it.
///
/// Frames go out in the order in which they were committed. With [backpressure](Self::with_backpressure), each channel has a credit of its
/// own: frames of a channel without credit wait aside, and those of other channels pass them. With [rings](Self::with_rings), frames that were
/// fed on a channel with a ring wait aside until they are put into it.
#[derive(Debug)]
pub struct Publisher {
    session: Session,
    number: u32,
    id: SenderId,
    payload_bytes_max: u32,
    /// How long a listener may delay this publisher, in milliseconds; 0: not at all.
    backpressure_ms: u32,
    /// How many messages the history of each channel keeps; 0: messages are retained on request only, one of each channel.
    history: u32,
    /// The time of the last attempt to connect.
    now: Option<Instant>,
    /// The own one first.
    publications: Vec<Publication>,
    places: BTreeMap<Box<str>, Place>,
    /// The publications that are open on the present connection.
    open: BTreeMap<ChannelId, Place>,
    /// Those whose answer is due, in this order.
    opening: VecDeque<Place>,
    /// Committed frames that may be written, and control messages, in this order.
    frames: Frames,
    /// Bytes of frames that wait aside, in all publications.
    aside_bytes: usize,
    uploads: Uploads,
    /// The daemon has closed the connection without a word.
    is_abandoned: bool,
    /// How many messages were committed in all.
    commits: u64,
    /// How many when the daemon was asked for a confirmation, until it answers.
    asked: Option<u64>,
    /// How many when it was asked for the last confirmation that it gave.
    confirmed: u64,
    /// Messages that may be lost and were not reported yet.
    doubt: u64,
    /// The first of the messages that waited and were rejected by the present daemon, until it is reported.
    rejected: Option<Rejected>,
    counting: Counting,
    receipts: Receipts,
    requests: Requests,
    /// The next number of a request.
    request: u32,
    /// Messages to retain since what the daemon had sent was read last.
    unread: u32,
    /// Changes whenever something has arrived, or a connection was made or lost.
    generation: u64,
    /// The frame being written, as far as it is copied.
    pub(super) scratch: Vec<u8>,
}

/// One channel of a publisher.
#[derive(Debug)]
struct Publication {
    name: ChannelName,
    state: State,
    /// The channel id in the headers of its frames: the one that the daemon has assigned, or its place while the connection is not ready.
    label: ChannelId,
    /// Sequence number of the next message.
    next: u64,
    /// How many messages were committed. Unlike the next sequence number, it never decreases.
    commits: u64,
    /// Those of them that were dropped when messages were dropped last.
    dropped: Range<u64>,
    /// Every message below this sequence number was confirmed by a daemon, or counted as in doubt.
    settled: u64,
    /// The next sequence number when the daemon was asked for a confirmation.
    asked: u64,
    balance: Balance,
    /// Committed frames that lack credit, or that are to be put into the ring.
    aside: Frames,
    upload: Upload,
    /// Why the daemon did not open it, until that is reported.
    declined: Option<Box<Declined>>,
    /// What the next daemon is to retain.
    kept: Kept,
    /// Listeners may have received everything below this sequence number from a ring that has survived its daemon.
    shown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Requested,
    Open(ChannelId),
}

impl Publication {
    fn new(name: ChannelName, place: Place) -> Self {
        Self {
            name,
            state: State::Closed,
            label: place.label(),
            next: 0,
            commits: 0,
            dropped: 0..0,
            settled: 0,
            asked: 0,
            balance: Balance::default(),
            aside: Frames::default(),
            upload: Upload::default(),
            declined: None,
            kept: Kept::default(),
            shown: 0,
        }
    }

    /// Whether a frame would be written now, or be put into the ring, rather than wait for credit.
    fn has_credit(&self) -> bool {
        self.balance.is_left() && (self.aside.is_empty() || self.upload.is_active())
    }
}

impl Place {
    /// What stands in the headers of its frames before the daemon has assigned an id.
    fn label(self) -> ChannelId {
        ChannelId(u32::try_from(self.0).unwrap_or(u32::MAX))
    }

    fn of_label(ChannelId(label): ChannelId) -> Self {
        Self(label as usize)
    }
}

impl Publisher {
    /// A publication on `channel` in the process `pid`; `purpose` is for display, and `number` distinguishes the senders of
    /// one process.
    pub fn new(channel: ChannelName, purpose: &str, pid: u32, number: u32) -> Self {
        Self {
            session: Session::new(purpose, pid),
            number,
            id: SenderId::new(pid, number),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            backpressure_ms: 0,
            history: 0,
            now: None,
            places: BTreeMap::from([(channel.as_str().into(), OWN)]),
            publications: vec![Publication::new(channel, OWN)],
            open: BTreeMap::new(),
            opening: VecDeque::new(),
            frames: Frames::default(),
            aside_bytes: 0,
            uploads: Uploads::default(),
            is_abandoned: false,
            commits: 0,
            asked: None,
            confirmed: 0,
            doubt: 0,
            rejected: None,
            counting: Counting::default(),
            receipts: Receipts::default(),
            requests: Requests::default(),
            request: 0,
            unread: 0,
            generation: 0,
            scratch: Vec::new(),
        }
    }

    /// Sends no faster than listeners receive, each of which may delay it for this long: at least a millisecond, at most `u32::MAX` of them.
    /// Zero is no backpressure.
    #[must_use]
    pub fn with_backpressure(mut self, longest: Duration) -> Self {
        let millis = longest.as_nanos().div_ceil(1_000_000);
        self.backpressure_ms = u32::try_from(millis).unwrap_or(u32::MAX);
        self
    }

    /// Every message that has a payload, and requests no replies, is retained, and the history of each channel keeps so many of them.
    #[must_use]
    pub fn with_history(mut self, messages: u32) -> Self {
        self.history = messages;
        self
    }

    /// How many messages the history of each channel keeps if every message is retained.
    #[inline]
    pub(super) fn history(&self) -> Option<u32> {
        (self.history > 0).then_some(self.history)
    }

    #[inline]
    fn is_paced(&self) -> bool {
        self.backpressure_ms > 0
    }

    /// The name of the own channel.
    pub fn channel(&self) -> &ChannelName {
        self.name(OWN)
    }

    /// The name of a channel.
    pub fn name(&self, place: Place) -> &ChannelName {
        &self.publications[place.0].name
    }

    /// The place of `channel`, which is known from now on.
    ///
    /// # Errors
    ///
    /// [`Rejected::Declined`] if too many channels are known.
    pub fn place(&mut self, channel: &ChannelName) -> Result<Place, Rejected> {
        if let Some(place) = self.known(channel.as_str()) {
            return Ok(place);
        }
        let place = Place(self.publications.len());
        if place.0 >= PUBLICATIONS_MAX {
            let reason = format!("this sender has used {PUBLICATIONS_MAX} channels, which is the limit");
            let declined = Declined { channel: channel.clone(), code: RefusedCode::Channels, reason };
            return Err(Rejected::Declined(declined.into()));
        }
        self.publications.push(Publication::new(channel.clone(), place));
        self.places.insert(channel.as_str().into(), place);
        Ok(place)
    }

    /// The place of `channel`, if it is known.
    #[inline]
    pub fn known(&self, channel: &str) -> Option<Place> {
        self.places.get(channel).copied()
    }

    /// The sender as listeners see it.
    pub fn id(&self) -> SenderId {
        self.id
    }

    /// Sequence number of the next message on the own channel.
    pub fn committed(&self) -> u64 {
        self.next(OWN)
    }

    /// Sequence number of the next message.
    #[inline]
    pub fn next(&self, place: Place) -> u64 {
        self.publications[place.0].next
    }

    /// How many messages were committed in all. The number never decreases.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Changes whenever something has arrived, or a connection was made or lost: what another call waits for may have happened.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The header of the next frame, for a payload of `len` bytes without metadata. It commits nothing.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    #[inline]
    pub fn next_header(&self, place: Place, len: usize) -> Result<Header, TooLarge> {
        let publication = &self.publications[place.0];
        Ok(Header::publish(publication.label, self.id, publication.next, self.payload_bytes(len)?))
    }

    /// The header of the next frame, for a message that is to be retained. It commits nothing.
    pub(super) fn next_retained_header(&self, place: Place, len: usize) -> Result<Header, TooLarge> {
        let publication = &self.publications[place.0];
        Ok(Header::retain(publication.label, self.id, publication.next, self.payload_bytes(len)?))
    }

    /// What states, within the metadata of a message, for how long and in which history it is retained.
    pub(super) fn retention_entry(&self, lifetime: Lifetime) -> Option<[u8; RETENTION_ENTRY_BYTES]> {
        entry(lifetime.retention(self.history.max(1)))
    }

    /// The next message, which the daemon is to retain, is the newest of its channel. It is committed next.
    pub(super) fn keep(&mut self, place: Place, lifetime: Lifetime, metadata: &[u8], payload: &[u8]) {
        let keep = self.history.max(1);
        self.unread += 1;
        let publication = &mut self.publications[place.0];
        publication.kept.replace(publication.next, lifetime, keep, metadata, payload);
    }

    /// Whether a message of this size may be sent.
    #[inline]
    pub(super) fn check(&self, metadata_bytes: usize, payload_bytes: usize) -> Result<(), Rejected> {
        self.payload_bytes(payload_bytes)?;
        match u16::try_from(metadata_bytes) {
            Ok(..=META_BYTES_MAX) => Ok(()),
            _ => Err(Rejected::MetadataTooLarge(metadata_bytes)),
        }
    }

    /// The size of a payload of `len` bytes, as a frame states it.
    #[inline]
    fn payload_bytes(&self, len: usize) -> Result<u32, TooLarge> {
        let max = self.payload_bytes_max;
        u32::try_from(len).ok().filter(|&bytes| bytes <= max).ok_or(TooLarge { len, max })
    }

    /// The next message has its place.
    #[inline]
    pub fn commit(&mut self, place: Place) {
        let publication = &mut self.publications[place.0];
        publication.next += 1;
        publication.commits += 1;
        publication.upload.count();
        self.commits += 1;
    }

    /// A frame with one message was written completely.
    #[inline]
    pub fn wrote(&mut self, place: Place, frame_bytes: usize) {
        if self.is_paced() {
            self.publications[place.0].balance.charge(frame_bytes, 1);
        }
        self.commit(place);
    }

    /// The first `written` bytes of the frame with this header were written, and the caller cannot wait for the others: the
    /// publisher keeps the frame.
    pub fn adopt(&mut self, place: Place, header: &Header, metadata: &[u8], payload: &[u8], written: usize) {
        self.frames.adopt(header, metadata, payload, written);
        self.wrote(place, header.frame_bytes());
    }

    /// Commits a message on the own channel behind those that wait; a small one joins the batch before it, if there is room.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; nothing has changed, or it is an earlier message: see [`report_rejected`](Self::report_rejected).
    #[inline]
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), Rejected> {
        self.feed_to(OWN, payload)
    }

    /// [`feed`](Self::feed) on another channel, which is open if the connection is ready.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    #[inline]
    pub fn feed_to(&mut self, place: Place, payload: &[u8]) -> Result<(), Rejected> {
        debug_assert!(!self.is_ready() || self.is_open(place), "the channel has no id");
        self.report_rejected()?;
        let len = self.payload_bytes(payload.len())?;
        if self.history > 0 && !payload.is_empty() {
            let entry = self.retention_entry(Lifetime::default());
            self.keep(place, Lifetime::default(), &[], payload);
            self.append(place, KIND_RETAIN, entry.as_ref().map_or(&[], |entry| entry), payload, len);
        } else {
            self.append(place, KIND_PUBLISH, &[], payload, len);
            if self.survives(place) {
                self.push_on(place, &[], payload);
            }
        }
        Ok(())
    }

    #[inline]
    fn append(&mut self, place: Place, kind: u8, metadata: &[u8], payload: &[u8], len: u32) {
        let publication = &self.publications[place.0];
        if publication.upload.is_active() {
            return self.stage(place, kind, metadata, payload, len);
        }
        if self.is_paced() {
            return self.append_paced(place, kind, metadata, payload, len);
        }
        self.frames.append((publication.label, self.id), kind, publication.next, metadata, payload, len);
        self.commit(place);
    }

    fn append_paced(&mut self, place: Place, kind: u8, metadata: &[u8], payload: &[u8], len: u32) {
        let is_ready = self.is_ready();
        let publication = &mut self.publications[place.0];
        let ids = (publication.label, self.id);
        if is_ready && publication.has_credit() {
            let before = self.frames.waiting_bytes();
            self.frames.append(ids, kind, publication.next, metadata, payload, len);
            publication.balance.charge(self.frames.waiting_bytes() - before, 1);
        } else {
            let before = publication.aside.waiting_bytes();
            publication.aside.append(ids, kind, publication.next, metadata, payload, len);
            self.aside_bytes += publication.aside.waiting_bytes() - before;
        }
        self.commit(place);
    }

    /// Moves frames of the publication to those that may be written, as far as its credit goes.
    fn promote(&mut self, place: Place) {
        let publication = &mut self.publications[place.0];
        if !publication.balance.is_left() || publication.aside.is_empty() || publication.upload.is_active() {
            return;
        }
        let (balance, aside_bytes) = (&mut publication.balance, &mut self.aside_bytes);
        self.frames.take_from(&mut publication.aside, |bytes, messages| {
            balance.charge(bytes, messages);
            *aside_bytes -= bytes;
            balance.is_left()
        });
    }

    /// Bytes of frames that wait.
    #[inline]
    pub fn waiting_bytes(&self) -> usize {
        self.frames.waiting_bytes() + self.aside_bytes
    }

    /// Whether everything that may be written was written. Frames may still wait aside.
    #[inline]
    pub fn is_written(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether nothing waits: no frame, and no rest of a question to the daemon.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.frames.is_empty() && self.aside_bytes == 0
    }

    /// How many messages of the channel were committed.
    pub(super) fn commits_on(&self, place: Place) -> u64 {
        self.publications[place.0].commits
    }

    /// How many of them no longer wait.
    pub(super) fn departed(&self, place: Place) -> u64 {
        let publication = &self.publications[place.0];
        let waiting =
            self.label_of(place).map_or(0, |label| self.frames.messages(label) + publication.aside.messages(label));
        publication.commits - waiting
    }

    /// Whether that message, counted from 1, was dropped when messages were dropped last.
    pub(super) fn was_dropped(&self, place: Place, commit: u64) -> bool {
        self.publications[place.0].dropped.contains(&(commit - 1))
    }

    // ---- channels and credit ----

    /// Whether the present connection has opened the channel.
    #[inline]
    pub fn is_open(&self, place: Place) -> bool {
        matches!(self.publications[place.0].state, State::Open(_))
    }

    /// Requests the channel, behind all frames, unless that was done. The connection is ready.
    ///
    /// # Errors
    ///
    /// [`Rejected::Declined`], once: the daemon has declined it.
    pub(super) fn open(&mut self, place: Place) -> Result<(), Rejected> {
        let publication = &mut self.publications[place.0];
        if let Some(declined) = publication.declined.take() {
            return Err(Rejected::Declined(declined));
        }
        if publication.state == State::Closed {
            let next = publication.next;
            let open = self.request_open(place, next);
            self.frames.append_control(&open.into());
        }
        Ok(())
    }

    fn request_open(&mut self, place: Place, next_sequence: u64) -> Open {
        let mut extensions = Vec::new();
        if self.is_paced() {
            let data = self.backpressure_ms.to_le_bytes().to_vec();
            extensions.push(Extension { id: extension::BACKPRESSURE, data });
        }
        let publication = &mut self.publications[place.0];
        publication.state = State::Requested;
        publication.declined = None;
        self.opening.push_back(place);
        Open { channel: publication.name.as_str().to_owned(), next_sequence, extensions }
    }

    /// Whether a message can be written at once: nothing waits, and the channel is open, has plenty of credit and no ring.
    #[inline]
    pub(super) fn is_clear(&self, place: Place) -> bool {
        let publication = &self.publications[place.0];
        let is_open = matches!(publication.state, State::Open(_));
        let is_clear = is_open && self.frames.is_empty() && publication.upload.is_quiet();
        is_clear && (!self.is_paced() || publication.has_credit()) && !self.should_look(place)
    }

    /// Whether the channel has no credit, or frames that lack it.
    #[inline]
    pub fn lacks_credit(&self, place: Place) -> bool {
        self.is_paced() && !self.publications[place.0].has_credit()
    }

    /// Whether the daemon has probably sent something that should be read: more credit, or which of the retained messages are superseded. It
    /// disconnects clients that do not read.
    #[inline]
    pub(super) fn should_look(&self, place: Place) -> bool {
        let publication = &self.publications[place.0];
        // The daemon calls a publisher that looks at its ring.
        let is_low = || publication.balance.is_low() && !publication.upload.is_active();
        self.unread >= UNREAD_MAX || (self.is_paced() && is_low())
    }

    /// Everything was read that had arrived.
    pub(super) fn has_looked(&mut self, place: Place) {
        self.unread = 0;
        self.publications[place.0].balance.has_looked();
    }

    // ---- confirmation ----

    /// Whether every committed message is accounted for: confirmed, or reported as in doubt.
    pub(super) fn is_settled(&self) -> bool {
        self.doubt == 0 && self.publications.iter().all(|publication| publication.settled == publication.next)
    }

    /// Whether the daemon has confirmed this many of the messages that were committed, except for those in doubt.
    pub(super) fn has_confirmed(&self, commits: u64) -> bool {
        self.confirmed >= commits
    }

    /// Requests a confirmation, behind all frames, unless one is already requested; returns whether it was requested now. No frame lacks
    /// credit, and the connection is ready.
    pub(super) fn ask(&mut self) -> bool {
        debug_assert!(self.is_ready() && self.aside_bytes == 0, "the question would overtake frames");
        let asks = self.asked.is_none();
        if asks {
            self.asked = Some(self.commits);
            for publication in &mut self.publications {
                publication.asked = publication.next;
            }
            self.frames.append_control(&Inspect::default().into());
        }
        asks
    }

    /// How many messages were handed over and can no longer be confirmed, because the connection that took them is gone or there was none.
    /// Each message is counted once.
    pub(super) fn take_doubt(&mut self) -> u64 {
        if !self.is_ready() {
            self.doubt_departed();
        }
        std::mem::take(&mut self.doubt)
    }

    /// Everything that no longer waits, and was not confirmed, is in doubt.
    fn doubt_departed(&mut self) {
        let firsts = self.firsts_waiting();
        for (publication, first) in self.publications.iter_mut().zip(firsts) {
            let doubtful = first.saturating_sub(publication.settled);
            publication.settled += doubtful;
            self.doubt += doubtful;
        }
    }

    /// For each publication the sequence number of the first message that is not written completely; that of the next one if none waits.
    fn firsts_waiting(&self) -> Vec<u64> {
        let aside = |publication: &Publication| publication.aside.data().next().map(|(_, header)| header.sequence());
        let first = |publication: &Publication| aside(publication).unwrap_or(publication.next);
        let mut firsts: Vec<u64> = self.publications.iter().map(first).collect();
        for (_, header) in self.frames.data() {
            if let Some(first) = self.place_of(header.channel()).and_then(|place| firsts.get_mut(place.0)) {
                *first = header.sequence().min(*first);
            }
        }
        firsts
    }

    /// The publication whose frames have this label.
    fn place_of(&self, label: ChannelId) -> Option<Place> {
        if self.is_ready() { self.open.get(&label).copied() } else { Some(Place::of_label(label)) }
    }

    /// The same the other way around. A channel that is not open on a connection that is ready has no frames.
    fn label_of(&self, place: Place) -> Option<ChannelId> {
        (!self.is_ready() || self.is_open(place)).then_some(self.publications[place.0].label)
    }

    /// Drops the frames that wait.
    pub fn drop_waiting(&mut self) {
        let firsts = self.firsts_waiting();
        for (publication, first) in self.publications.iter_mut().zip(firsts) {
            publication.kept.remove_from(first);
        }
        for at in 0..self.publications.len() {
            let departed = self.departed(Place(at));
            let publication = &mut self.publications[at];
            publication.dropped = departed..publication.commits;
            publication.aside.clear();
        }
        self.frames.clear();
        self.aside_bytes = 0;
    }

    /// Reports, once, that messages were dropped because the daemon that serves now does not accept them.
    ///
    /// # Errors
    ///
    /// [`Rejected`], for the first of them.
    #[inline]
    pub fn report_rejected(&mut self) -> Result<(), Rejected> {
        self.rejected.take().map_or(Ok(()), Err)
    }

    // ---- listeners and receipts ----

    /// A wish for the number of listeners of the own channel, as soon as there are at least `minimum`. Wishes outlast a lost connection,
    /// until they are [forgotten](Self::forget_count).
    pub fn count_listeners(&mut self, minimum: u32) -> Ticket {
        self.counting.begin(minimum)
    }

    /// The number is no longer wanted.
    pub fn forget_count(&mut self, ticket: Ticket) {
        self.counting.forget(ticket);
    }

    /// The number, once it has arrived.
    pub(super) fn take_count(&mut self, ticket: Ticket) -> Option<Result<u32, Box<Declined>>> {
        self.counting.take(ticket)
    }

    /// Asks the daemon for what is wished for, unless that was done.
    pub(super) fn ask_count(&mut self) {
        let State::Open(ChannelId(id)) = self.publications[OWN.0].state else { return };
        if let Some(minimum) = self.counting.ask(self.request) {
            let number = self.next_request();
            self.frames.append_control(&CountListeners { number, id, minimum, extensions: Vec::new() }.into());
        }
    }

    /// Requests a receipt for the message that was committed last, behind it. Returns the number of the request.
    pub(super) fn request_receipt(&mut self, place: Place, with_reply: bool) -> Option<u32> {
        let confirm = self.confirm(place, with_reply)?;
        self.receipts.begin(confirm.number, place);
        let number = confirm.number;
        self.frames.append_control(&confirm.into());
        Some(number)
    }

    /// Lays a request for a receipt out behind the frame in `scratch`. It counts as one when
    /// [`requested_receipt`](Self::requested_receipt) was called.
    pub(super) fn lay_out_receipt_request(&mut self, place: Place, with_reply: bool) -> Option<u32> {
        let confirm = self.confirm(place, with_reply)?;
        let number = confirm.number;
        Control::from(confirm).encode(&mut self.scratch).expect("a request is shorter than a control frame");
        Some(number)
    }

    /// The frame in `scratch`, of `frame_bytes`, was written, and so much of it and the request for a receipt together. The rest of the
    /// request goes out before anything else.
    pub(super) fn requested_receipt(&mut self, number: u32, place: Place, frame_bytes: usize, written: usize) {
        self.receipts.begin(number, place);
        let request = &self.scratch[frame_bytes..];
        if written - frame_bytes < request.len() {
            self.frames.adopt_control(request, written - frame_bytes);
        }
    }

    fn confirm(&mut self, place: Place, with_reply: bool) -> Option<Confirm> {
        let State::Open(ChannelId(id)) = self.publications[place.0].state else { return None };
        let extensions = if with_reply { vec![Extension::with_reply()] } else { Vec::new() };
        Some(Confirm { number: self.next_request(), id, extensions })
    }

    pub(super) fn take_receipt(&mut self, number: u32) -> Answer {
        self.receipts.take(number)
    }

    /// The receipt is no longer wanted.
    pub(super) fn forget_receipt(&mut self, number: u32) {
        self.receipts.forget(number);
    }

    /// It also confirms everything that was sent on its channel before.
    fn received_receipt(&mut self, receipt: Receipt) {
        if let Some(place) = self.receipts.place(receipt.number) {
            let publication = &mut self.publications[place.0];
            publication.settled = receipt.next_sequence.clamp(publication.settled, publication.next);
        }
        self.receipts.answer(receipt.number, Answer::Received(receipt.into()));
    }

    fn next_request(&mut self) -> u32 {
        let number = self.request;
        self.request = self.request.wrapping_add(1);
        number
    }

    /// Whether a request had this number, at least recently. The answer to one that was given up may still arrive.
    fn was_requested(&self, number: u32) -> bool {
        self.request.wrapping_sub(number).wrapping_sub(1) < u32::MAX / 2
    }

    // ---- requests to listeners ----

    /// A request with this number awaits replies, until it is [forgotten](Self::forget_request). No other request of any sender may have
    /// the number.
    pub fn begin_request(&mut self, number: u64) {
        self.requests.begin(number);
    }

    /// The replies are no longer wanted.
    pub fn forget_request(&mut self, number: u64) {
        self.requests.forget(number);
    }

    /// How many replies were lost, because this publisher did not read, while the request was awaiting some. They may belong to others.
    pub fn lost_replies(&self, number: u64) -> u64 {
        self.requests.lost(number)
    }

    /// How many replies have arrived for requests that no longer awaited any.
    pub fn late_replies(&self) -> u64 {
        self.requests.late()
    }

    /// Where replies to this publisher go: the id of its inbox on the present connection.
    #[inline]
    pub(super) fn inbox(&self) -> Option<ChannelId> {
        self.requests.inbox()
    }

    /// Requests an inbox, behind all frames, unless that was done. The connection is ready.
    ///
    /// # Errors
    ///
    /// [`Rejected::Declined`], once: the daemon has declined it.
    pub(super) fn open_inbox(&mut self) -> Result<(), Rejected> {
        if self.requests.open()? {
            self.frames.append_control(&OpenInbox::default().into());
        }
        Ok(())
    }

    /// A part of the request was written, or all of it.
    pub(super) fn begun_request(&mut self, number: u64) {
        self.requests.begun(number);
    }

    /// Whether the connection is gone on which a part of the request was written.
    pub(super) fn is_request_over(&self, number: u64) -> bool {
        self.requests.is_over(number)
    }

    pub(super) fn take_reply(&mut self, number: u64) -> Reception {
        self.requests.take(number)
    }

    /// Frames that may no longer be written, because the credit for them is gone with the connection, wait aside in front of those
    /// that do already.
    fn set_aside(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        for (place, message) in self.take_messages() {
            let label = place.label();
            let len = u32::try_from(message.payload.len()).expect("it was committed");
            let Waiting { kind, sequence, metadata, payload, .. } = &message;
            let publication = &mut self.publications[place.0];
            publication.aside.append((label, self.id), *kind, *sequence, metadata, payload, len);
        }
        self.aside_bytes = self.publications.iter().map(|publication| publication.aside.waiting_bytes()).sum();
    }

    /// Takes all messages out and commits them again, without those that `keep` rejects: the first of its reasons is reported later.
    /// Messages behind those that are rejected move up: a daemon accepts no gap in the numbers of a sender.
    fn recommit(&mut self, keep: impl Fn(&Self, Place, &Waiting) -> Result<u32, Rejected>) {
        let mut firsts = self.firsts_waiting();
        let messages = self.take_messages();
        let is_rejected = |(place, message): &&(Place, Waiting)| keep(self, *place, message).is_err();
        let moving: Vec<Place> = messages.iter().filter(is_rejected).map(|&(place, _)| place).collect();
        for place in moving {
            self.end_surviving(place);
            let (publication, first) = (&mut self.publications[place.0], &mut firsts[place.0]);
            // Listeners know those messages by their present numbers.
            if publication.shown > *first {
                publication.next = publication.shown + (publication.next - *first);
                publication.settled = publication.settled.max(publication.shown);
                *first = publication.shown;
            }
        }
        for (publication, first) in self.publications.iter_mut().zip(firsts) {
            publication.commits -= publication.next - first;
            self.commits -= publication.next - first;
            publication.next = first;
        }
        for (place, message) in messages {
            match keep(self, place, &message) {
                Ok(len) => {
                    let publication = &mut self.publications[place.0];
                    publication.kept.renumber(message.sequence, publication.next);
                    self.append(place, message.kind, &message.metadata, &message.payload, len);
                }
                Err(rejected) => {
                    self.publications[place.0].kept.remove(message.sequence);
                    // It counts as a message that was committed, without a sequence number.
                    self.publications[place.0].commits += 1;
                    self.commits += 1;
                    self.rejected.get_or_insert(rejected);
                }
            }
        }
    }

    /// Drops the messages that wait and are larger than the daemon accepts.
    fn drop_too_large(&mut self) {
        self.recommit(|publisher, _, message| Ok(publisher.payload_bytes(message.payload.len())?));
    }

    /// Takes the messages that wait, in order, each with its channel and its sequence number. Metadata is left out.
    pub fn take_waiting(&mut self) -> Vec<(Place, u64, Bytes)> {
        self.take_messages().into_iter().map(|(place, message)| (place, message.sequence, message.payload)).collect()
    }

    fn take_messages(&mut self) -> Vec<(Place, Waiting)> {
        let mut messages = Vec::new();
        self.frames.take_messages(&mut messages);
        for publication in &mut self.publications {
            publication.aside.take_messages(&mut messages);
        }
        self.aside_bytes = 0;
        messages.into_iter().filter_map(|message| Some((self.place_of(message.channel)?, message))).collect()
    }

    // ---- connections ----

    /// Requests the own channel, those with frames that wait, and those of which this publisher keeps a message. Others are opened when they are
    /// used again.
    fn join(&mut self) {
        self.doubt_departed();
        let (now, payload_bytes_max) = (self.now, self.payload_bytes_max);
        for (at, first) in self.firsts_waiting().into_iter().enumerate() {
            let publication = &mut self.publications[at];
            publication.kept.prune(now, payload_bytes_max);
            if Place(at) == OWN || first < publication.next || publication.kept.is_some() {
                let open = self.request_open(Place(at), first);
                self.session.push(&open.into());
            }
        }
        self.session.phase = Phase::Joining;
    }

    fn opened(&mut self, opened: &Opened) -> Result<(), Ended> {
        let unexpected = || Ended::Unexpected(kind::OPENED);
        let place = self.opening.pop_front().ok_or_else(unexpected)?;
        let (id, publication) = (ChannelId(opened.id), &mut self.publications[place.0]);
        if opened.channel != publication.name.as_str() || self.open.insert(id, place).is_some() {
            return Err(unexpected());
        }
        publication.state = State::Open(id);
        self.begin_upload(place);
        let publication = &mut self.publications[place.0];
        if self.session.phase == Phase::Ready {
            publication.label = id;
            // Nothing on this channel waits.
            publication.kept.declare(&mut self.frames, (id, self.id), publication.next, self.now);
        }
        Ok(())
    }

    /// Declares what an earlier connection took, in front of everything that waits.
    fn declare_again(&mut self) {
        let firsts = self.firsts_waiting();
        let mut frames = Frames::default();
        for (publication, first) in self.publications.iter().zip(firsts) {
            if let State::Open(id) = publication.state {
                publication.kept.declare(&mut frames, (id, self.id), first, self.now);
            }
        }
        if !frames.is_empty() {
            frames.take_from(&mut self.frames, |_, _| true);
            self.frames = frames;
        }
    }

    /// A message that this publisher has sent is not the value of its channel any more.
    fn superseded(&mut self, superseded: &Superseded) -> Result<(), Ended> {
        let place = self.open.get(&ChannelId(superseded.id)).ok_or(Ended::Unexpected(kind::SUPERSEDED))?;
        self.publications[place.0].kept.remove(superseded.sequence);
        Ok(())
    }

    /// The daemon does not open the channel whose answer is due.
    fn not_opened(&mut self, declined: WireDeclined) -> Result<(), Ended> {
        let place = self.opening.pop_front().ok_or(Ended::Unexpected(kind::DECLINED))?;
        if place == OWN {
            return Err(self.session.declined(declined));
        }
        let declined = self.declined(place, declined);
        let publication = &mut self.publications[place.0];
        (publication.state, publication.declined) = (State::Closed, Some(declined.into()));
        Ok(())
    }

    fn declined(&self, place: Place, WireDeclined { code, reason, .. }: WireDeclined) -> Declined {
        Declined { channel: self.name(place).clone(), code, reason }
    }

    /// Every answer to the requests of the handshake has arrived.
    fn ready(&mut self) {
        if self.publications.iter().any(|publication| publication.declined.is_some()) {
            self.recommit(|publisher, place, message| match &publisher.publications[place.0].declined {
                Some(declined) => Err(Rejected::Declined(declined.clone())),
                None => Ok(publisher.payload_bytes(message.payload.len())?),
            });
        }
        let (publications, id) = (&mut self.publications, self.id);
        let label = |ChannelId(at): ChannelId| match publications.get(at as usize).map(|publication| publication.state)
        {
            Some(State::Open(id)) => id,
            Some(State::Closed | State::Requested) | None => ChannelId(at),
        };
        self.frames.assign_ids(id, label);
        for publication in publications {
            publication.declined = None;
            if let State::Open(label) = publication.state {
                publication.label = label;
                publication.aside.assign_ids(id, |_| label);
            }
        }
        self.session.phase = Phase::Ready;
        self.declare_again();
        for at in 0..self.publications.len() {
            self.promote(Place(at));
        }
    }

    fn granted(&mut self, credit: &Credit) -> Result<(), Ended> {
        let place = self.open.get(&ChannelId(credit.id)).copied().filter(|_| self.is_paced());
        let place = place.ok_or(Ended::Unexpected(kind::CREDIT))?;
        let publication = &mut self.publications[place.0];
        publication.balance.grant(credit.bytes);
        publication.upload.has_credit();
        if self.is_ready() {
            self.promote(place);
        }
        Ok(())
    }

    /// The channel with this id, if rings can be offered.
    fn place_of_ring(&self, id: u32) -> Option<Place> {
        self.open.get(&ChannelId(id)).copied().filter(|_| self.session.has_rings())
    }

    /// An answer to something other than Open.
    fn answered(&mut self, item: Item) -> Result<(), Ended> {
        match item {
            // The daemon handles the frames of a connection in order: it has accepted everything before the question.
            Item::Control(Control::Report(_)) if self.asked.is_some() => {
                self.confirmed = self.asked.take().unwrap_or(self.confirmed);
                for publication in &mut self.publications {
                    publication.settled = publication.settled.max(publication.asked);
                }
            }
            Item::Control(Control::Superseded(superseded)) => self.superseded(&superseded)?,
            Item::Control(Control::Receipt(receipt)) if self.was_requested(receipt.number) => {
                self.received_receipt(receipt);
            }
            Item::Control(Control::Listeners(listeners)) if self.was_requested(listeners.number) => {
                self.counting.answered(listeners.number, listeners.listeners);
            }
            Item::Run(run) if run.is_reply() && self.inbox() == Some(run.channel()) => self.requests.received(run),
            Item::Control(Control::Lagged(lagged)) if self.inbox() == Some(ChannelId(lagged.id)) => {
                self.requests.lagged(lagged.count);
            }
            Item::Control(Control::InboxOpened(opened)) if self.requests.opened(ChannelId(opened.id)) => {}
            Item::Control(Control::Prepare(_)) if self.session.has_rings() => self.noticed(Notice::Announced),
            Item::Control(Control::Prepared(_)) if self.prepared() => {}
            Item::Control(Control::RingAccepted(accepted)) => {
                let place = self.place_of_ring(accepted.id).filter(|&place| self.awaits_ring(place));
                self.noticed(Notice::Accepted(place.ok_or(Ended::Unexpected(kind::RING_ACCEPTED))?));
            }
            Item::Control(Control::Declined(declined)) if declined.request == kind::OFFER_RING => {
                let place = self.place_of_ring(declined.number).filter(|&place| self.awaits_ring(place));
                self.noticed(Notice::Declined(place.ok_or(Ended::Unexpected(kind::DECLINED))?));
            }
            Item::Control(Control::Recall(recall)) => {
                let place = self.place_of_ring(recall.id).ok_or(Ended::Unexpected(kind::RECALL))?;
                self.noticed(Notice::Recalled(place));
            }
            Item::Control(Control::AddLink(added)) => {
                let place = self.place_of_ring(added.id).ok_or(Ended::Unexpected(kind::ADD_LINK))?;
                self.noticed(Notice::Linked(place, added.link));
            }
            Item::Control(Control::Unlink(unlink)) if self.session.has_rings() => {
                self.noticed(Notice::Unlinked(unlink.link));
            }
            Item::Control(Control::Declined(declined))
                if declined.request == kind::OPEN_INBOX && self.requests.is_requested() =>
            {
                let declined = self.declined(OWN, declined);
                self.requests.declined(declined);
            }
            Item::Control(Control::Declined(declined)) if self.was_requested(declined.number) => {
                let number = declined.number;
                let request = declined.request;
                let declined = self.declined(OWN, declined);
                match request {
                    kind::COUNT_LISTENERS => self.counting.declined(number, &declined),
                    kind::CONFIRM => self.receipts.answer(number, Answer::Declined(declined.into())),
                    _ => return Err(Ended::Unexpected(kind::DECLINED)),
                }
            }
            item => return Err(unexpected(&item)),
        }
        Ok(())
    }
}

impl Machine for Publisher {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.generation += 1;
        self.session.connected(self.number);
    }

    /// A frame that was written in part is written again completely: no daemon has all of it.
    fn disconnected(&mut self) {
        self.generation += 1;
        if self.is_ready() {
            self.doubt_departed();
            self.frames.rewind();
            let open = std::mem::take(&mut self.open);
            self.frames.assign_ids(self.id, |id| open.get(&id).map_or(id, |place| place.label()));
        }
        self.session.disconnected();
        let is_abandoned = std::mem::take(&mut self.is_abandoned);
        let mut survivors = self.publications.iter().filter(|publication| publication.upload.survives()).count();
        self.open.clear();
        self.opening.clear();
        for (at, publication) in self.publications.iter_mut().enumerate() {
            publication.state = State::Closed;
            publication.label = Place(at).label();
            let label = publication.label;
            let next = publication.aside.data().next().map_or(publication.next, |(_, header)| header.sequence());
            let was_surviving = publication.upload.survives();
            let may_survive = is_abandoned && survivors < RINGS_MAX;
            publication.upload.disconnected(may_survive, &publication.aside, next);
            if publication.upload.survives() {
                survivors += usize::from(!was_surviving);
                publication.shown = publication.next;
            }
            publication.aside.assign_ids(self.id, |_| label);
            publication.balance = Balance::default();
        }
        self.uploads.disconnected();
        if self.is_paced() {
            self.set_aside();
        } else if self.aside_bytes > 0 {
            self.aside_bytes = 0;
            for publication in &mut self.publications {
                self.frames.take_from(&mut publication.aside, |_, _| true);
            }
        }
        self.asked = None;
        self.counting.disconnected();
        self.receipts.disconnected();
        self.requests.disconnected();
    }

    fn outgoing(&self) -> &[u8] {
        if self.is_ready() { self.frames.outgoing() } else { self.session.outgoing() }
    }

    fn sent(&mut self, bytes: usize) {
        if !self.is_ready() {
            return self.session.sent(bytes);
        }
        self.frames.sent(bytes);
        if self.frames.is_empty() {
            self.uploads.written(&mut self.publications);
        }
    }

    /// A ring was accepted as a whole if the connection took what ends it. Otherwise the daemon's page states how much of it was.
    fn accepted(&mut self) {
        let mut firsts = self.firsts_waiting();
        for (place, first) in self.uploads.accepted(&self.publications) {
            firsts[place.0] = firsts[place.0].min(first);
        }
        for (publication, first) in self.publications.iter_mut().zip(firsts) {
            publication.settled = publication.settled.max(first);
        }
    }

    fn abandoned(&mut self) {
        self.is_abandoned = true;
    }

    fn is_opening(&self) -> bool {
        self.session.phase == Phase::Joining
    }

    fn wants_rings(&self) -> bool {
        self.uploads.rings != Rings::Never && self.history == 0
    }

    fn set_time(&mut self, now: Instant) {
        self.now = Some(now);
    }

    fn received(&mut self) -> Result<(), Ended> {
        self.generation += 1;
        while let Some(item) = self.session.next()? {
            match (self.session.phase, item) {
                (Phase::Greeting, Item::Control(Control::Welcome(welcome))) => {
                    if self.id != SenderId::from_raw(welcome.sender) {
                        self.end_all_surviving(); // its listeners would take it for another sender
                    }
                    self.id = SenderId::from_raw(welcome.sender);
                    self.number = self.id.number();
                    self.serve_surviving();
                    let before = self.payload_bytes_max;
                    self.payload_bytes_max = welcome.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
                    if self.payload_bytes_max < before {
                        self.drop_too_large();
                    }
                    self.join();
                }
                (Phase::Joining | Phase::Ready, Item::Control(Control::Opened(opened))) => self.opened(&opened)?,
                (Phase::Joining | Phase::Ready, Item::Control(Control::Declined(declined)))
                    if declined.request == kind::OPEN =>
                {
                    self.not_opened(declined)?;
                }
                (Phase::Joining | Phase::Ready, Item::Control(Control::Credit(credit))) => self.granted(&credit)?,
                (Phase::Ready, item) => self.answered(item)?,
                (_, item) => return Err(unexpected(&item)),
            }
            if self.session.phase == Phase::Joining && self.opening.is_empty() {
                self.ready();
            }
        }
        if self.is_ready() {
            self.session.idle();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{BUSY_BYTES_MAX, IDLE_BYTES_MAX};
    use super::super::session::tests::{accept, feed, welcome};
    use super::*;
    use broadcaster_protocol::control::{Goodbye, Report, Welcome};
    use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH};
    use broadcaster_protocol::limits::{BATCH_BYTES_MAX, HEADER_BYTES, RECORD_HEADER_BYTES};

    fn publisher() -> Publisher {
        Publisher::new(ChannelName::new("news").expect("a name"), "test", 7, 1)
    }

    /// A daemon accepts the connection, and calls the channel `id`.
    fn open(publisher: &mut Publisher, id: u32) {
        open_with(publisher, id, welcome());
    }

    fn open_with(publisher: &mut Publisher, id: u32, welcome: Control) {
        accept(publisher, &[welcome]).expect("welcome");
        write(publisher);
        let opened = Opened { channel: "news".to_owned(), id, listeners: 0, extensions: Vec::new() };
        feed(publisher, &[opened.into()]).expect("opened");
        assert!(publisher.is_ready());
    }

    /// The connection takes everything that is outgoing.
    fn write(publisher: &mut Publisher) {
        while let bytes @ 1.. = publisher.outgoing().len() {
            publisher.sent(bytes);
        }
    }

    /// A message that is written at once.
    fn send(publisher: &mut Publisher) {
        publisher.feed(b"hello").expect("small");
        write(publisher);
    }

    fn answer(publisher: &mut Publisher) -> Result<(), Ended> {
        feed(publisher, &[Report::default().into()])
    }

    #[test]
    fn messages_that_wait_are_taken_with_their_numbers() {
        let mut publisher = publisher();
        publisher.feed(b"a").expect("fed");
        publisher.feed(b"").expect("fed");
        publisher.feed(&[9; 5000]).expect("fed");
        publisher.feed(b"b").expect("fed");
        let taken = publisher.take_waiting();
        let expected = [(0, &b"a"[..]), (1, b""), (2, &[9; 5000]), (3, b"b")];
        assert_eq!(taken, expected.map(|(sequence, payload)| (OWN, sequence, Bytes::copy_from_slice(payload))));
        assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 4));
        assert!(publisher.take_waiting().is_empty());
    }

    #[test]
    fn a_frame_written_in_part_is_written_again_with_new_ids() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let header = publisher.next_header(OWN, 5).expect("small").with_metadata(2);
        publisher.adopt(OWN, &header, b"mm", b"hello", 10);
        assert_eq!(publisher.outgoing().len(), header.frame_bytes() - 10);
        publisher.disconnected();
        open(&mut publisher, 4);
        let again = Header::peek(publisher.outgoing()).expect("a header");
        assert_eq!((again.channel(), again.sequence(), again.meta_bytes()), (ChannelId(4), 0, 2));
        assert!(publisher.outgoing().ends_with(b"mmhello"));
        assert_eq!(publisher.take_waiting(), [(OWN, 0, Bytes::from_static(b"hello"))]);
    }

    /// Kind and bytes of the body of each frame that waits.
    fn waiting(publisher: &Publisher) -> Vec<(u8, usize)> {
        let mut rest = publisher.outgoing();
        let mut frames = Vec::new();
        while let Some(header) = Header::peek(rest) {
            frames.push((header.kind(), header.body_bytes() as usize));
            rest = &rest[header.frame_bytes()..];
        }
        frames
    }

    #[test]
    fn small_messages_fill_a_batch_before_the_next_one_begins() {
        let max = BATCH_BYTES_MAX as usize;
        for (len, kind) in [(max - RECORD_HEADER_BYTES, KIND_BATCH), (max - RECORD_HEADER_BYTES + 1, KIND_PUBLISH)] {
            let mut publisher = publisher();
            open(&mut publisher, 3);
            publisher.feed(&vec![7; len]).expect("fed");
            let body = if kind == KIND_BATCH { max } else { len };
            assert_eq!(waiting(&publisher), [(kind, body)]);
            publisher.drop_waiting();
            assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 1));
        }
        for len in 1..20 {
            let mut publisher = publisher();
            open(&mut publisher, 3);
            (0..max).for_each(|_| publisher.feed(&[7; 20][..len]).expect("fed"));
            assert!(waiting(&publisher).iter().all(|&(_, body)| body <= max), "messages of {len} bytes");
        }
        let mut publisher = publisher();
        open(&mut publisher, 3);
        // The records of 1024 bytes fill a batch exactly.
        let record = 1024;
        let count = 2 * max / record + 1;
        (0..count).for_each(|_| publisher.feed(&vec![7; record - RECORD_HEADER_BYTES]).expect("fed"));
        assert_eq!(waiting(&publisher), [(KIND_BATCH, max), (KIND_BATCH, max), (KIND_BATCH, record)]);
        let before = publisher.waiting_bytes();
        publisher.sent(10);
        assert_eq!((publisher.waiting_bytes(), publisher.outgoing().len()), (before - 10, before - 10));
        publisher.feed(b"x").expect("fed");
        assert_eq!(
            publisher.waiting_bytes(),
            before - 10 + HEADER_BYTES + RECORD_HEADER_BYTES + 1,
            "a batch of its own"
        );
    }

    #[test]
    fn a_frame_written_completely_is_not_written_again() {
        let mut publisher = publisher();
        accept(&mut publisher, &[welcome()]).expect("joining");
        assert!(publisher.is_opening());
        publisher.disconnected();
        open(&mut publisher, 3);
        assert!(!publisher.is_opening());
        (0..3).for_each(|_| publisher.feed(&[9; 5000]).expect("fed"));
        publisher.sent(HEADER_BYTES + 5000);
        publisher.disconnected();
        assert_eq!(publisher.take_waiting().iter().map(|(_, sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_too_large_changes_nothing() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let large = vec![0; (1 << 20) + 1];
        assert_eq!(publisher.feed(&large), Err(TooLarge { len: large.len(), max: 1 << 20 }.into()));
        assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 0));
    }

    fn welcome_with_limit(payload_bytes_max: u32) -> Control {
        match welcome() {
            Control::Welcome(welcome) => Control::Welcome(Welcome { payload_bytes_max, ..welcome }),
            other => other,
        }
    }

    #[test]
    fn messages_that_the_next_daemon_does_not_accept_are_dropped_alone() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let header = publisher.next_header(OWN, 5).expect("small").with_metadata(2);
        publisher.adopt(OWN, &header, b"mm", b"begun", 10);
        for len in [10, 5000, 300, 20, 400] {
            publisher.feed(&vec![7; len]).expect("fed");
        }
        publisher.disconnected();
        open_with(&mut publisher, 4, welcome_with_limit(299));
        let first = Header::peek(publisher.outgoing()).expect("a header");
        assert_eq!((first.channel(), first.sequence(), first.meta_bytes()), (ChannelId(4), 0, 2));
        assert_eq!(publisher.committed(), 3);
        assert_eq!(publisher.feed(b"x"), Err(TooLarge { len: 5000, max: 299 }.into()), "reported once");
        publisher.feed(b"x").expect("fed");
        let taken = publisher.take_waiting();
        let expected = [(0, &b"begun"[..]), (1, &[7; 10]), (2, &[7; 20]), (3, b"x")];
        assert_eq!(taken, expected.map(|(sequence, payload)| (OWN, sequence, Bytes::copy_from_slice(payload))));
    }

    #[test]
    fn memory_of_a_burst_is_released_when_it_is_written() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        (0..1000).for_each(|_| publisher.feed(&[0; 1000]).expect("fed"));
        publisher.sent(publisher.waiting_bytes());
        assert!(publisher.frames.held_bytes() <= BUSY_BYTES_MAX);
        publisher.feed(b"the end of the burst").expect("fed");
        publisher.sent(publisher.waiting_bytes());
        assert!(publisher.frames.held_bytes() <= IDLE_BYTES_MAX);
    }

    #[test]
    fn an_answer_confirms_what_was_sent_before_the_question() {
        let mut publisher = publisher();
        assert!(publisher.is_settled(), "nothing was sent");
        open(&mut publisher, 3);
        send(&mut publisher);
        assert!(!publisher.is_settled() && publisher.ask());
        assert!(!publisher.is_flushed());
        write(&mut publisher);
        assert!(!publisher.ask(), "an answer is due");
        send(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(!publisher.is_settled(), "the second message followed the question");
        assert!(publisher.ask());
        write(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(publisher.is_settled());
        assert_eq!(publisher.take_doubt(), 0);
    }

    #[test]
    fn an_answer_without_a_question_ends_the_connection() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        assert!(matches!(answer(&mut publisher), Err(Ended::Unexpected(_))));
    }

    #[test]
    fn frames_do_not_overtake_a_question_that_is_written_in_part() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        send(&mut publisher);
        assert!(publisher.ask());
        let question = publisher.outgoing().to_vec();
        publisher.sent(5);
        publisher.feed(b"later").expect("small");
        assert!(publisher.outgoing().starts_with(&question[5..]));
        publisher.sent(question.len() - 5);
        assert!(publisher.outgoing().ends_with(b"later") && Header::peek(publisher.outgoing()).is_some());
        write(&mut publisher);
        assert!(publisher.is_flushed());
    }

    #[test]
    fn what_a_lost_connection_took_is_in_doubt_once() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        (0..3).for_each(|_| send(&mut publisher));
        assert!(publisher.ask());
        write(&mut publisher);
        let goodbye = Goodbye { reason: String::new(), extensions: Vec::new() };
        assert_eq!(feed(&mut publisher, &[goodbye.into()]), Err(Ended::Goodbye));
        publisher.feed(b"waits").expect("small");
        publisher.disconnected();
        assert_eq!(publisher.take_doubt(), 3, "the one that waits is not lost");
        open(&mut publisher, 4);
        assert_eq!(publisher.take_doubt(), 0);
        write(&mut publisher);
        assert!(!publisher.is_settled() && publisher.ask(), "the next daemon is asked on its own account");
        write(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(publisher.is_settled());
    }

    #[test]
    fn doubt_outlasts_a_reconnection_that_was_not_noticed() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        send(&mut publisher);
        publisher.disconnected();
        open(&mut publisher, 4);
        send(&mut publisher);
        assert_eq!(publisher.take_doubt(), 1);
        assert!(!publisher.is_settled(), "the second message can still be confirmed");
    }
}
