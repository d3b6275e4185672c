//! A ring that another process writes and this listener reads. It never waits: what wakes the listener is in the doorbells of its connection.

use crate::machine::{RingInput, RingReader};
use broadcaster_local::{self as local, Descriptor, Doorbells, ReadOnlyMemory, WritableMemory, failpoint};
use broadcaster_protocol::control::OfferLink;
use broadcaster_protocol::{ChannelId, SenderId};
use broadcaster_ring::{
    CAPACITY_WORDS_MAX, CAPACITY_WORDS_MIN, Corrupt, Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PageWriter, Start, Taken,
};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A mapping of the ring, and the page and the doorbell by which its sender knows this reader.
#[derive(Debug)]
pub(super) struct MappedRing {
    reader: RingReader<ReadOnlyMemory, WritableMemory>,
    doorbell: Arc<Descriptor>,
    doorbells: Arc<Doorbells>,
    /// The process that made it. A forked child shares the doorbells with its parent.
    pid: u32,
}

impl MappedRing {
    /// Maps the ring that was offered, in `memory`. Also returns the page and the doorbell, which its sender is to know. `None` if it is not a
    /// ring, or this process or the system lacks something.
    pub(super) fn open(
        offer: &OfferLink,
        memory: &Descriptor,
        doorbells: &Arc<Doorbells>,
    ) -> Option<(Self, Vec<Arc<Descriptor>>)> {
        let bytes = usize::try_from(offer.bytes).ok().filter(|bytes| sizes().contains(bytes))?;
        let words = local::open_memory(memory, bytes..=bytes).ok()?;
        let (channel, sender) = (ChannelId(offer.id), SenderId::from_raw(offer.sender));
        // Where to begin is stated later.
        let nowhere = Start::At(Cursor { position: 0, sequence: 0 });
        let intake = Intake::open(words, nowhere, channel, sender).ok()?;
        let (descriptor, words) = local::make_memory("broadcaster-page", PAGE_BYTES).ok()?;
        let reader = RingReader::new(intake, PageWriter::new(words));
        let doorbell = Arc::new(local::make_doorbell().ok()?);
        doorbells.add(&doorbell).ok()?;
        failpoint::step("listener: has made a page and a doorbell");
        let set = vec![Arc::new(descriptor), Arc::clone(&doorbell)];
        Some((Self { reader, doorbell, doorbells: Arc::clone(doorbells), pid: local::pid() }, set))
    }
}

/// The sizes that the memory of a ring can have.
fn sizes() -> RangeInclusive<usize> {
    let bytes =
        |capacity: u64| (HEADER_WORDS + usize::try_from(capacity).unwrap_or(usize::MAX / 16)) * size_of::<u64>();
    bytes(CAPACITY_WORDS_MIN)..=bytes(CAPACITY_WORDS_MAX)
}

impl RingInput for MappedRing {
    fn follow(&mut self, position: u64, sequence: u64) {
        failpoint::step("listener: follows");
        self.reader.follow(position, sequence);
    }

    #[inline]
    fn take(&mut self, end: Option<u64>) -> Result<Taken, Corrupt> {
        let taken = self.reader.take(end);
        if taken.as_ref().is_ok_and(|taken| !taken.is_empty()) {
            failpoint::step("listener: has taken messages");
        }
        taken
    }

    fn next_sequence(&self) -> u64 {
        self.reader.next_sequence()
    }

    fn position(&self) -> u64 {
        self.reader.position()
    }

    fn arm(&mut self) -> bool {
        self.reader.arm()
    }

    fn disarm(&mut self) {
        self.reader.disarm();
    }

    fn call_sender(&mut self) {
        if self.pid == local::pid() {
            self.reader.call_sender();
        }
    }

    /// What a forked child drops is still its parent's.
    fn leave(&mut self) {
        if self.pid == local::pid() {
            self.reader.leave();
        }
    }
}

impl Drop for MappedRing {
    fn drop(&mut self) {
        failpoint::step("listener: leaves the ring");
        if self.pid == local::pid() {
            self.doorbells.remove(&self.doorbell);
        }
    }
}
