//! A ring whose daemon is gone, until all listeners that read it are served by the next daemon. It never counts as sent what only a ring has:
//! messages wait for the next daemon as well, which has other listeners.
//!
//! ```text
//! the daemon is gone     what waits is put into the ring; messages go on into it while no other listener is known
//! the next one serves    messages are written, and put into the ring as well
//! every listener left    each has found the next daemon: the ring ends
//! ```
//!
//! A listener that receives a message twice, from the ring and from the next daemon, recognises it by its sequence number.

use super::upload::{Active, Phase};
use super::{Place, Publisher, Rejected};
use crate::machine::frames::Body;
use crate::machine::ring::{Bell, RingOutput};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::HEADER_BYTES;

/// A ring that has survived its daemon.
#[derive(Debug)]
pub(super) struct Surviving {
    ring: Box<dyn RingOutput>,
    /// The listeners that read it still.
    listeners: Vec<Box<dyn Bell>>,
    /// Sequence number of the next message in it.
    next: u64,
    /// Bytes of frames that were put into it since the daemon is gone.
    bytes: u64,
    /// All listeners read the ring: those that the daemon had, of which none has left, and there has been no other daemon since.
    is_complete: bool,
}

impl Surviving {
    /// The ring of a publication whose next message has this sequence number. `None` if no listener reads it.
    pub(super) fn new(active: Active, next: u64) -> Option<Self> {
        let (ring, relay, listeners) = active.into_parts()?;
        let is_complete = !relay.is_relaying();
        (!listeners.is_empty()).then_some(Self { ring, listeners, next, bytes: 0, is_complete })
    }

    /// Whether messages may go on into the ring before there is a daemon. What waits for it meanwhile is bounded.
    fn may_go_on(&self) -> bool {
        self.is_complete && self.bytes <= self.ring.bytes() / 4
    }

    /// Puts a message or a batch into the ring. Its readers see it after [`publish`](Self::publish). False: it cannot be in a ring.
    pub(super) fn push(&mut self, body: Body<'_>) -> bool {
        let (pushed, bytes, messages) = match body {
            Body::Message { metadata, payload } => {
                (self.ring.push(metadata, payload), metadata.len() + payload.len(), 1)
            }
            Body::Batch { messages, body } => (self.ring.push_batch(messages, body), body.len(), messages),
        };
        self.next += u64::from(messages);
        self.bytes += (HEADER_BYTES + bytes) as u64;
        pushed.is_ok()
    }

    /// Shows what was put into the ring. False if no listener reads it any more: one that has more than half of it to read is taken for dead.
    pub(super) fn publish(&mut self) -> bool {
        let published = self.ring.publish();
        let (position, words_max) = (self.ring.position(), self.ring.bytes() / 2 / size_of::<u64>() as u64);
        let before = self.listeners.len();
        self.listeners.retain_mut(|bell| {
            let is_alive = position.checked_sub(bell.position()).is_some_and(|behind| behind <= words_max);
            is_alive && !bell.has_left(&published) && bell.ring(&published)
        });
        self.is_complete &= self.listeners.len() == before;
        !self.listeners.is_empty()
    }

    fn close(mut self) {
        let published = self.ring.close();
        for bell in &mut self.listeners {
            bell.ring(&published);
        }
    }
}

impl Publisher {
    /// Whether the ring of the channel has survived its daemon.
    #[inline]
    pub(in crate::machine) fn survives(&self, place: Place) -> bool {
        self.publications[place.0].upload.survives()
    }

    /// Whether a message can reach all listeners through such a ring, although there is no daemon.
    pub(crate) fn goes_on(&self, place: Place) -> bool {
        matches!(&self.publications[place.0].upload.phase, Phase::Surviving(ring) if ring.may_go_on())
    }

    /// Commits a message on a channel whose ring has survived. Returns whether all listeners can find it in the ring.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub(in crate::machine) fn feed_on(
        &mut self,
        place: Place,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<bool, Rejected> {
        self.report_rejected()?;
        self.check(metadata.len(), payload.len())?;
        let len = self.payload_bytes(payload.len())?;
        self.append(place, KIND_PUBLISH, metadata, payload, len);
        Ok(self.push_on(place, metadata, payload))
    }

    /// Puts the message that was committed last into the ring as well. Returns whether all listeners can find it there.
    #[cold]
    pub(super) fn push_on(&mut self, place: Place, metadata: &[u8], payload: &[u8]) -> bool {
        let publication = &mut self.publications[place.0];
        let Phase::Surviving(ring) = &mut publication.upload.phase else { return false };
        let is_next = ring.next + 1 == publication.next;
        let is_in = is_next && ring.push(Body::Message { metadata, payload });
        let is_read = ring.publish();
        if is_in {
            publication.shown = publication.next;
        }
        if is_in && is_read {
            return ring.is_complete;
        }
        self.end_surviving(place);
        false
    }

    /// Nothing more is put into the ring.
    pub(in crate::machine) fn end_surviving(&mut self, place: Place) {
        let rings = self.uploads.rings;
        if let Some(ring) = self.publications[place.0].upload.take_surviving(rings) {
            (*ring).close();
        }
    }

    /// The next daemon serves. Rings whose listeners have found it end.
    pub(super) fn serve_surviving(&mut self) {
        for at in 0..self.publications.len() {
            let Phase::Surviving(ring) = &mut self.publications[at].upload.phase else { continue };
            ring.is_complete = false; // that daemon may have other listeners
            if !ring.publish() {
                self.end_surviving(Place(at));
            }
        }
    }

    /// The same for all channels.
    pub(super) fn end_all_surviving(&mut self) {
        for at in 0..self.publications.len() {
            self.end_surviving(Place(at));
        }
    }
}
