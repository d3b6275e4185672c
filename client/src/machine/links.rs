//! The rings that a listener reads beside the stream of its connection. It takes messages from them in turn, and never decides when to wait.

use super::RingInput;
use super::heard::Heard;
use crate::ChannelName;
use broadcaster_protocol::SenderId;
use broadcaster_protocol::control::{Control, LinkReady, OfferLink};
use broadcaster_ring::Taken;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Deref, DerefMut};

/// Links at a time. What is offered beyond that stays in the stream.
const LINKS_MAX: usize = 32;

/// Bytes of the rings that are mapped at a time.
const MAPPED_BYTES_MAX: u64 = 128 << 20;

/// Runs that are taken from rings before the socket has its turn.
const RUNS_MAX: u32 = 16;

/// How often a record is looked for that is published, and that its writer may be about to overwrite.
const ATTEMPTS_MAX: u32 = 16;

/// A link by the number of its connection and the one that the daemon has chosen.
pub(super) type Key = (u64, u32);

/// What the stream states about a link, at its place among the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkChange {
    /// The messages from here on are in the ring.
    Followed {
        /// Where the next one begins.
        position: u64,
        /// Its sequence number.
        sequence: u64,
    },
    /// The messages from here on are in the stream again.
    Unfollowed {
        /// Sequence number of the first of them.
        sequence: u64,
    },
    /// The link has ended.
    Unlinked,
}

/// A change of a link that the daemon cannot have meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misplaced;

/// Messages of a ring.
#[derive(Debug)]
pub(super) struct FromRing {
    /// The link.
    pub(super) key: Key,
    /// Their channel.
    pub(super) channel: ChannelName,
    /// The messages; `None` if the ring is corrupt, and was given up.
    pub(super) taken: Option<Taken>,
}

/// What there is to read of the link that ends.
#[derive(Debug)]
pub(super) enum Rest {
    /// These messages.
    Messages(FromRing),
    /// No more: it was read up to where the daemon has ended it.
    Read(Key),
    /// No more. The stream may contain again what was in it.
    Left(Heard),
    /// Nothing.
    Nothing,
}

/// The links of one connection, and those of earlier ones: while there is no daemon, and until the next one has confirmed the subscriptions,
/// their rings are read on.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<Key, Link>,
    /// What the daemon has offered and was not answered yet.
    offers: VecDeque<Offer>,
    /// The answer that is to be written with descriptors.
    answer: Option<(Key, Vec<u8>)>,
    /// The link that is being read to its end, before anything else is.
    ending: Option<Ending>,
    /// The link whose turn was last.
    last: Key,
    /// Runs that were taken since the socket had its turn.
    runs: u32,
    /// Runs that were taken since it was read.
    runs_unread: u32,
    /// A wait has ended, and no ring has shown why.
    is_unexplained: bool,
    /// Senders wake this listener.
    is_armed: bool,
    /// The daemon may await progress of a link.
    is_awaited: bool,
}

#[derive(Debug)]
struct Link {
    state: State,
    channel: ChannelName,
    sender: SenderId,
    /// Sequence number of the first message that was read from it, once it is known.
    start: u64,
    /// Bytes of its memory.
    bytes: u64,
    /// A request that concerns its channel is not answered: where the daemon has ended it is not known yet. Or it is not wanted any more.
    is_paused: bool,
    /// While there was no daemon, no subscription wanted it.
    is_unwanted: bool,
    /// The daemon awaits a report that everything before this position was taken.
    awaited: Option<u64>,
}

#[derive(Debug)]
enum State {
    /// Its messages are in the stream.
    Ready(OpenRing),
    /// Its messages are in the ring.
    Following(OpenRing),
    /// The ring is corrupt. This was the sequence number of the next message.
    Corrupt(u64),
}

/// A ring, which the listener leaves when it has no more use for it.
#[derive(Debug)]
struct OpenRing(Box<dyn RingInput>);

impl Deref for OpenRing {
    type Target = dyn RingInput;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for OpenRing {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl Drop for OpenRing {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[derive(Debug)]
struct Offer {
    offer: OfferLink,
    channel: ChannelName,
    /// The daemon has withdrawn it.
    is_withdrawn: bool,
}

#[derive(Debug)]
struct Ending {
    key: Key,
    /// Sequence number of the first message behind the end; `None`: what is there now.
    end: Option<u64>,
    /// Bytes that are read at most, if the end is not known: as many as the ring can hold.
    bytes_left: u64,
}

/// What to do about the ring that is offered next.
#[derive(Debug)]
pub(super) enum Offered {
    /// Open it.
    Open(OfferLink, ChannelName),
    /// There is no room for it.
    Decline(u32),
    /// It was withdrawn.
    Ignore,
}

impl Links {
    /// Whether there is neither a link nor an offer of one.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.offers.is_empty()
    }

    /// Whether any ring may have messages.
    #[inline]
    pub(super) fn is_reading(&self) -> bool {
        !self.links.is_empty()
    }

    // ---- introduction ----

    /// Notes an offer; `false` if there is a link with this number.
    pub(super) fn offer(&mut self, connection: u64, offer: OfferLink, channel: ChannelName) -> bool {
        let is_known = |known: &Offer| known.offer.link == offer.link && !known.is_withdrawn;
        if self.links.contains_key(&(connection, offer.link)) || self.offers.iter().any(is_known) {
            return false;
        }
        self.offers.push_back(Offer { offer, channel, is_withdrawn: false });
        true
    }

    /// Withdraws an offer that was not answered yet.
    pub(super) fn withdraw(&mut self, link: u32) -> bool {
        let mut offers = self.offers.iter_mut();
        let offer = offers.find(|known| known.offer.link == link && !known.is_withdrawn);
        offer.is_some_and(|offer| !std::mem::replace(&mut offer.is_withdrawn, true))
    }

    /// Whether something is to be answered.
    #[inline]
    pub(super) fn must_answer(&self) -> bool {
        self.answer.is_some() || !self.offers.is_empty()
    }

    /// The answer that is to be written with descriptors.
    pub(super) fn answer(&self) -> Option<&[u8]> {
        self.answer.as_ref().map(|(_, frame)| &frame[..])
    }

    /// The first `written` bytes of the answer were written. Returns the rest.
    pub(super) fn answered(&mut self, written: usize) -> Vec<u8> {
        self.answer.take().map_or_else(Vec::new, |(_, mut frame)| frame.split_off(written.min(frame.len())))
    }

    /// The answer could not be written. Returns the number of its link, which is dropped.
    pub(super) fn not_answered(&mut self) -> Option<u32> {
        let (key, _) = self.answer.take()?;
        self.links.remove(&key);
        Some(key.1)
    }

    /// The offer that is next, unless an answer is to be written first.
    pub(super) fn next_offer(&mut self) -> Option<Offered> {
        let Offer { offer, channel, is_withdrawn } = self.offers.pop_front()?;
        let mapped: u64 = self.links.values().map(|link| link.bytes).sum();
        let has_room = self.links.len() < LINKS_MAX && offer.bytes <= MAPPED_BYTES_MAX - mapped.min(MAPPED_BYTES_MAX);
        Some(match is_withdrawn {
            true => Offered::Ignore,
            false if has_room => Offered::Open(offer, channel),
            false => Offered::Decline(offer.link),
        })
    }

    /// The ring that was offered is open. The answer is to be written.
    pub(super) fn opened(
        &mut self,
        connection: u64,
        offer: &OfferLink,
        channel: ChannelName,
        ring: Box<dyn RingInput>,
    ) {
        let mut frame = Vec::new();
        let ready = Control::from(LinkReady { link: offer.link, extensions: Vec::new() });
        ready.encode(&mut frame).expect("a number is shorter than a control frame");
        let key = (connection, offer.link);
        self.answer = Some((key, frame));
        let (sender, bytes) = (SenderId::from_raw(offer.sender), offer.bytes);
        let state = State::Ready(OpenRing(ring));
        self.links.insert(
            key,
            Link { state, channel, sender, start: 0, bytes, is_paused: false, is_unwanted: false, awaited: None },
        );
    }

    // ---- what the stream states ----

    /// The stream has reached this change. The link that ends must be [read to its end](Self::poll_ending) before anything else.
    pub(super) fn change(&mut self, key: Key, change: LinkChange) -> Result<(), Misplaced> {
        let Some(link) = self.links.get_mut(&key) else {
            return if change == LinkChange::Unlinked { Ok(()) } else { Err(Misplaced) };
        };
        match change {
            LinkChange::Followed { position, sequence } => {
                let State::Ready(_) = &link.state else { return Err(Misplaced) };
                if let State::Ready(mut ring) = std::mem::replace(&mut link.state, State::Corrupt(sequence)) {
                    ring.follow(position, sequence);
                    link.start = sequence;
                    link.state = State::Following(ring);
                }
            }
            LinkChange::Unfollowed { sequence } => match &link.state {
                State::Ready(_) => return Err(Misplaced),
                State::Following(_) | State::Corrupt(_) => self.end(key, Some(sequence)),
            },
            LinkChange::Unlinked => self.end(key, None),
        }
        Ok(())
    }

    /// The daemon awaits a report that the listener has taken everything before this position. Of a link that has ended, it awaits nothing.
    pub(super) fn await_progress(&mut self, key: Key, position: u64) {
        if let Some(link) = self.links.get_mut(&key) {
            link.awaited = Some(position);
            self.is_awaited = true;
        }
    }

    /// A link of the connection whose listener has come to where the daemon awaits it.
    pub(super) fn next_progress(&mut self, connection: u64) -> Option<u32> {
        if !self.is_awaited {
            return None;
        }
        let mut own = self.links.range_mut((connection, 0)..=(connection, u32::MAX));
        let found = own.find(|(_, link)| link.has_come());
        let Some((&(_, number), link)) = found else {
            self.is_awaited = self.links.values().any(|link| link.awaited.is_some());
            return None;
        };
        link.awaited = None;
        Some(number)
    }

    /// The next link of the connections before this one is to be read to its end. `false` if there is none any more.
    pub(super) fn end_next_before(&mut self, connection: u64) -> bool {
        let Some((&key, link)) = self.links.range_mut(..(connection, 0)).next() else { return false };
        if let State::Following(ring) = &mut link.state {
            ring.leave(); // before it is read for the last time
        }
        self.end(key, None);
        true
    }

    /// Whether there are links of connections before this one.
    pub(super) fn has_before(&self, connection: u64) -> bool {
        self.links.range(..(connection, 0)).next().is_some()
    }

    fn end(&mut self, key: Key, end: Option<u64>) {
        let bytes_left = self.links.get(&key).map_or(0, |link| link.bytes);
        self.ending = Some(Ending { key, end, bytes_left });
    }

    /// The connection is gone: there is nothing left to answer. The senders of rings learn of it, because they may not notice it by themselves.
    pub(super) fn disconnected(&mut self) {
        (self.offers, self.answer, self.is_awaited) = (VecDeque::new(), None, false);
        for link in self.links.values_mut() {
            (link.awaited, link.is_paused) = (None, false);
            if let State::Ready(ring) | State::Following(ring) = &mut link.state {
                ring.call_sender();
            }
        }
    }

    /// Ends the links of channels before this connection that are no longer wanted.
    pub(super) fn retain(&mut self, connection: u64, is_wanted: impl Fn(&ChannelName) -> bool) {
        self.links.retain(|&(made_by, _), link| made_by >= connection || !link.is_unwanted && is_wanted(&link.channel));
    }

    /// Pauses the links of the present connection for which this is necessary, and no others of it. Gives up those of earlier ones that nothing
    /// wants any more.
    pub(super) fn pause(
        &mut self,
        connection: u64,
        must_pause: impl Fn(&ChannelName) -> bool,
        must_give_up: impl Fn(&ChannelName) -> bool,
    ) {
        for ((made_by, _), link) in &mut self.links {
            if *made_by >= connection {
                link.is_paused = must_pause(&link.channel);
            } else if must_give_up(&link.channel) {
                link.give_up();
            }
        }
    }

    // ---- messages ----

    /// What is next of the link that ends, if one does.
    pub(super) fn poll_ending(&mut self) -> Rest {
        let Some(ending) = &mut self.ending else { return Rest::Nothing };
        let (key, is_stated) = (ending.key, ending.end.is_some());
        let link = self.links.get_mut(&key);
        let found = link.and_then(|link| Some((link.channel.clone(), ending.take(&mut link.state)?)));
        match found {
            Some((channel, taken)) => Rest::Messages(FromRing { key, channel, taken: Some(taken) }),
            None => {
                self.ending = None;
                match self.links.remove(&key) {
                    _ if is_stated => Rest::Read(key),
                    Some(Link { state: State::Following(ring), channel, sender, start, .. }) => {
                        Rest::Left(Heard { channel, sender, sequences: start..ring.next_sequence() })
                    }
                    Some(_) | None => Rest::Nothing,
                }
            }
        }
    }

    /// Whether any link has come to where the daemon awaits it.
    fn has_come(&self) -> bool {
        self.is_awaited && self.links.values().any(Link::has_come)
    }

    /// The next messages of any link, unless the socket has its turn.
    pub(super) fn poll(&mut self) -> Option<FromRing> {
        self.disarm();
        if self.runs >= RUNS_MAX || self.has_come() {
            return None;
        }
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        let found = first_of(self.links.range_mut(behind)).or_else(|| first_of(self.links.range_mut(..=self.last)))?;
        self.last = found.key;
        self.runs += 1;
        self.runs_unread = self.runs_unread.saturating_add(1);
        self.is_unexplained = false;
        Some(found)
    }

    // ---- waiting ----

    /// The socket was read.
    #[inline]
    pub(super) fn has_read_socket(&mut self) {
        (self.runs_unread, self.is_unexplained) = (0, false);
    }

    /// Everything is received that was read from the socket.
    #[inline]
    pub(super) fn has_received_stream(&mut self) {
        if self.runs_unread == 0 {
            self.runs = 0;
        }
    }

    /// Whether the socket must be read before the next wait.
    pub(super) fn must_read_socket(&self) -> bool {
        self.is_unexplained || self.runs_unread >= RUNS_MAX
    }

    /// The socket has nothing for now. Requests to be woken for each ring; `false` if one has something already.
    pub(super) fn arm(&mut self) -> bool {
        self.runs = 0;
        self.is_armed = true;
        let mut rings = self.links.values_mut().filter_map(Link::readable);
        let is_quiet = rings.all(|ring| ring.arm());
        self.is_unexplained |= is_quiet;
        is_quiet
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.is_armed) {
            self.links.values_mut().filter_map(Link::readable).for_each(|ring| ring.disarm());
        }
    }
}

impl Link {
    /// Whether everything was taken before the position that the daemon awaits.
    fn has_come(&self) -> bool {
        let position = match &self.state {
            State::Following(ring) => ring.position(),
            State::Ready(_) => 0,
            State::Corrupt(_) => u64::MAX,
        };
        self.awaited.is_some_and(|awaited| position >= awaited)
    }

    /// Nothing more is taken from its ring, except up to an end that the daemon has stated.
    fn give_up(&mut self) {
        (self.is_paused, self.is_unwanted) = (true, true);
        if let State::Ready(ring) | State::Following(ring) = &mut self.state {
            ring.leave();
        }
    }

    /// Its ring, if that may be read now.
    fn readable(&mut self) -> Option<&mut OpenRing> {
        match &mut self.state {
            State::Following(ring) if !self.is_paused => Some(ring),
            State::Following(_) | State::Ready(_) | State::Corrupt(_) => None,
        }
    }

    /// Takes the next messages; `Some(None)` if the ring is corrupt.
    fn take(&mut self) -> Option<Option<Taken>> {
        let ring = self.readable()?;
        let next = ring.next_sequence();
        match ring.take(None) {
            Ok(taken) if taken.is_empty() => None,
            Ok(taken) => Some(Some(taken)),
            Err(_) => {
                (self.state, self.bytes) = (State::Corrupt(next), 0);
                Some(None)
            }
        }
    }
}

/// The messages of the first link that has any.
fn first_of<'a>(mut links: impl Iterator<Item = (&'a Key, &'a mut Link)>) -> Option<FromRing> {
    links.find_map(|(&key, link)| {
        let taken = link.take()?;
        Some(FromRing { key, channel: link.channel.clone(), taken })
    })
}

impl Ending {
    /// The next messages; `None` at the end.
    fn take(&mut self, state: &mut State) -> Option<Taken> {
        let next = match (&mut *state, self.end) {
            (State::Ready(_), _) | (State::Corrupt(_), None) => return None,
            (State::Following(ring), None) => return self.take_rest(&mut **ring),
            (State::Following(ring), Some(end)) => {
                let next = ring.next_sequence();
                if let Some(taken) = take_until(&mut **ring, end) {
                    return Some(taken);
                }
                next
            }
            (State::Corrupt(next), Some(_)) => *next,
        };
        // What it does not contain, although it was published, is lost.
        let end = self.end?;
        *state = State::Corrupt(end);
        lost_between(next, end)
    }

    /// What is in the ring now, or was overwritten. A sender that goes on does not prolong it.
    fn take_rest(&mut self, ring: &mut dyn RingInput) -> Option<Taken> {
        if self.bytes_left == 0 {
            return None;
        }
        let taken = ring.take(None).ok().filter(|taken| !taken.is_empty())?;
        let bytes = taken.run.as_ref().map_or(0, |run| run.bytes().len() as u64);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        Some(taken)
    }
}

/// The next messages before `end`. All of them were published; `None` if there are no more, or the ring does not contain them.
fn take_until(ring: &mut dyn RingInput, end: u64) -> Option<Taken> {
    for _ in 0..ATTEMPTS_MAX {
        let taken = ring.take(Some(end)).ok()?;
        if !taken.is_empty() {
            return Some(taken);
        }
        let is_complete = lost_between(ring.next_sequence(), end).is_none();
        if is_complete || ring.arm() {
            return None;
        }
    }
    None
}

/// The loss of all messages from `next` to `end`, if these are any.
fn lost_between(next: u64, end: u64) -> Option<Taken> {
    let lost = end.wrapping_sub(next);
    (lost > 0 && lost <= u64::MAX / 2).then_some(Taken { lost, run: None })
}

#[cfg(test)]
mod tests;
