//! A ring in shared memory that this sender writes, and the readers that it wakes. It never waits, and makes no system call except to wake a
//! reader that sleeps.

use crate::machine::{Bell, RingOutput};
use broadcaster_local::{self as local, Descriptor, ReadOnlyMemory, WritableMemory, failpoint};
use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH};
use broadcaster_ring::{HEADER_WORDS, PAGE_BYTES, PageReader, Published, PushError, Sample, Writer};
use std::io;

/// Bytes of messages, with 16 for each, that a ring keeps for readers that are behind. The memory is used when it is first written to.
const CAPACITY_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of metadata and payload of the largest message. Larger ones would overwrite too much at once.
const BODY_BYTES_MAX: usize = CAPACITY_BYTES / 8;

const MEMORY_BYTES: usize = HEADER_WORDS * size_of::<u64>() + CAPACITY_BYTES;

/// The ring of one publication.
#[derive(Debug)]
pub(super) struct SharedRing {
    /// Until it begins.
    memory: Option<WritableMemory>,
    writer: Option<Writer<WritableMemory>>,
}

impl SharedRing {
    /// Makes a ring, and the descriptor by which its readers map it.
    pub(super) fn make() -> io::Result<(Descriptor, Self)> {
        let (descriptor, memory) = local::make_memory("broadcaster-ring", MEMORY_BYTES)?;
        Ok((descriptor, Self { memory: Some(memory), writer: None }))
    }

    #[inline]
    fn writer(&mut self) -> &mut Writer<WritableMemory> {
        self.writer.as_mut().expect("a ring begins before its first message")
    }
}

impl RingOutput for SharedRing {
    fn begin(&mut self, first: u64) {
        failpoint::step("sender: begins the ring");
        self.writer = self.memory.take().map(|memory| Writer::new(memory, first));
    }

    #[inline]
    fn push(&mut self, metadata: &[u8], payload: &[u8]) -> Result<(), PushError> {
        let len = metadata.len() + payload.len();
        if len > BODY_BYTES_MAX {
            return Err(PushError::TooLarge { len, max: BODY_BYTES_MAX });
        }
        self.writer().push(KIND_PUBLISH, metadata, payload)
    }

    fn push_batch(&mut self, messages: u16, body: &[u8]) -> Result<(), PushError> {
        self.writer().push_batch(KIND_BATCH, messages, body)
    }

    #[inline]
    fn publish(&mut self) -> Published {
        failpoint::step("sender: publishes");
        self.writer().publish()
    }

    fn close(&mut self) -> Published {
        failpoint::step("sender: ends the ring");
        self.writer().close()
    }

    fn bytes(&self) -> u64 {
        MEMORY_BYTES as u64
    }

    fn position(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.cursor().position)
    }
}

/// The page and the doorbell of a reader.
#[derive(Debug)]
pub(super) struct SharedBell {
    page: PageReader<ReadOnlyMemory>,
    doorbell: Descriptor,
}

impl SharedBell {
    /// `None` if the descriptor does not refer to a page, or this process lacks memory. What `doorbell` refers to is verified when it is rung.
    pub(super) fn open(page: &Descriptor, doorbell: Descriptor) -> Option<Self> {
        let memory = local::open_memory(page, PAGE_BYTES..=PAGE_BYTES).ok()?;
        Some(Self { page: PageReader::open(memory).ok()?, doorbell })
    }
}

impl Bell for SharedBell {
    #[inline]
    fn ring(&mut self, published: &Published) -> bool {
        failpoint::step("sender: looks at the page of a reader");
        !self.page.must_ring(published) || local::ring_doorbell(&self.doorbell).is_ok()
    }

    fn call(&mut self) {
        let _ = local::ring_doorbell(&self.doorbell); // a daemon that is gone has ended the connection
    }

    fn counted(&self) -> u64 {
        let Sample { received, lost, .. } = self.page.sample();
        received.saturating_add(lost)
    }

    #[inline]
    fn is_called(&mut self) -> bool {
        self.page.is_called()
    }

    fn position(&self) -> u64 {
        self.page.sample().position
    }

    fn has_left(&self, published: &Published) -> bool {
        self.page.has_left(published)
    }

    fn is_relaying(&self) -> bool {
        self.page.is_relaying()
    }
}
