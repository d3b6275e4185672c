//! Shared memory and doorbells of the world, and what a client does with them. Processes of the world share one thread: they see each
//! store at once, and a process may die between two of its own.

use broadcaster_protocol::control::OfferLink;
use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH};
use broadcaster_protocol::{ChannelId, SenderId};
use broadcaster_ring::{
    Corrupt, Cursor, HEADER_WORDS, Intake, PAGE_BYTES, PageReader, PageWriter, Published, PushError, Sample, Start,
    Taken, Words, WordsMut, Writer,
};
use fastrand::Rng;
use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use system_broadcaster::machine::{Bell, RingInput, RingOutput, RingReader};

/// The bytes of a word.
const WORD_BYTES: usize = size_of::<u64>();

/// Memory that several processes of the world have mapped.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    words: Arc<[AtomicU64]>,
    /// The process whose mapping this is, if it may die within a write.
    life: Option<Life>,
}

impl Memory {
    /// Memory of so many zeros.
    pub(super) fn new(words: usize) -> Self {
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), life: None }
    }

    /// The same memory, as a process maps it that may die within a write.
    fn of(&self, life: &Life) -> Self {
        Self { words: Arc::clone(&self.words), life: Some(life.clone()) }
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * WORD_BYTES
    }

    /// Whether both are mappings of the same memory.
    #[cfg(test)]
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.words, &other.words)
    }
}

impl Words for Memory {
    fn count(&self) -> usize {
        self.words.count()
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.words.load(index, ordering)
    }

    fn fence(&self, ordering: Ordering) {
        self.words.fence(ordering);
    }
}

impl WordsMut for Memory {
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        if self.life.as_ref().is_none_or(Life::goes_on) {
            self.words.store(index, word, ordering);
        }
    }
}

/// How many words a process still stores before it dies. What it does after that has no effect.
#[derive(Debug, Clone)]
pub(super) struct Life(Arc<AtomicI64>);

impl Life {
    /// It dies after so many stores.
    pub(super) fn ends_after(&self, stores: i64) {
        self.0.store(stores, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }

    /// Whether it lives for another store.
    fn goes_on(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) > 0
    }
}

impl Default for Life {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

/// A descriptor that can be sent to another process.
#[derive(Debug, Clone)]
pub(super) enum Descriptor {
    /// Of memory.
    Memory(Memory),
    /// Of a doorbell.
    Doorbell(Doorbell),
}

impl Descriptor {
    /// Maps the memory, if that is what it refers to and its size is one of `sizes`, in bytes.
    pub(super) fn open(&self, sizes: &RangeInclusive<usize>) -> io::Result<Memory> {
        match self {
            Self::Memory(memory) if sizes.contains(&memory.bytes()) => Ok(memory.clone()),
            Self::Memory(_) | Self::Doorbell(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The doorbell, if that is what it refers to.
    pub(super) fn doorbell(&self) -> io::Result<&Doorbell> {
        match self {
            Self::Doorbell(doorbell) => Ok(doorbell),
            Self::Memory(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A doorbell. It stays rung until its owner consumes that.
#[derive(Debug, Clone, Default)]
pub(super) struct Doorbell(Arc<AtomicBool>);

impl Doorbell {
    pub(super) fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn consume(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What has happened with rings.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Links whose listener began to read the ring.
    pub(super) followed: AtomicU64,
    /// How often a listener found that messages were overwritten.
    pub(super) lapped: AtomicU64,
}

/// Rings that have begun, with their first sequence numbers, oldest first.
type Begun = Arc<Mutex<VecDeque<(u64, Memory)>>>;

/// What a client shares with other processes, for as long as it is connected.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The daemon has announced descriptors. Those that arrive before are closed.
    pub(super) expects_descriptors: bool,
    /// A ring was offered to it, and it has not followed since.
    pub(super) is_introduced: Arc<AtomicBool>,
    counts: Arc<Counts>,
    /// The id of the sender that it is, if it has one.
    pub(super) sender: u64,
    /// Its rings of which the model does not know yet that they have begun.
    begun: Begun,
    /// Descriptors whose frames were not handled yet.
    pub(super) received: VecDeque<Descriptor>,
    /// Sets whose frames were not written yet.
    pub(super) queued: VecDeque<Vec<Descriptor>>,
    /// The doorbells of its links.
    doorbells: Vec<Doorbell>,
    /// It waits until something happens.
    pub(super) sleeps: bool,
    pub(super) life: Life,
}

impl Shared {
    pub(super) fn counted_in(counts: Arc<Counts>) -> Self {
        Self { counts, ..Self::default() }
    }

    /// The next descriptors that were received.
    fn take<const N: usize>(&mut self) -> Option<[Descriptor; N]> {
        let count = N.min(self.received.len());
        self.received.drain(..count).collect::<Vec<_>>().try_into().ok()
    }

    /// Makes a ring with so many words of data.
    pub(super) fn make_ring(&mut self, capacity: usize) -> Ring {
        let memory = Memory::new(HEADER_WORDS + capacity);
        self.queued.push_back(vec![Descriptor::Memory(memory.clone())]);
        Ring { memory: memory.of(&self.life), writer: None, begun: Arc::clone(&self.begun) }
    }

    /// The oldest ring whose first message has this number.
    pub(super) fn take_begun(&mut self, first: u64) -> Option<Memory> {
        let begun = &mut *self.begun.lock().expect("the world has one thread");
        let at = begun.iter().position(|&(other, _)| other == first)?;
        begun.drain(..=at).next_back().map(|(_, memory)| memory)
    }

    /// Maps the page and keeps the doorbell that have arrived.
    pub(super) fn take_bell(&mut self) -> Option<WorldBell> {
        let [page, doorbell] = self.take()?;
        let page = PageReader::open(page.open(&(PAGE_BYTES..=PAGE_BYTES)).ok()?).ok()?;
        let doorbell = doorbell.doorbell().ok()?.clone();
        Some(WorldBell { page, doorbell, life: self.life.clone() })
    }

    /// Maps the ring that was offered, and makes a page and a doorbell for it.
    pub(super) fn open_ring(&mut self, offer: &OfferLink, rng: Rng) -> Option<Followed> {
        let [ring] = self.take()?;
        let bytes = usize::try_from(offer.bytes).ok()?;
        let (channel, sender) = (ChannelId(offer.id), SenderId::from_raw(offer.sender));
        let nowhere = Start::At(Cursor { position: 0, sequence: 0 });
        let intake = Intake::open(ring.open(&(bytes..=bytes)).ok()?, nowhere, channel, sender).ok()?;
        let (page, doorbell) = (Memory::new(PAGE_BYTES / WORD_BYTES), Doorbell::default());
        self.queued.push_back(vec![Descriptor::Memory(page.clone()), Descriptor::Doorbell(doorbell.clone())]);
        self.doorbells.push(doorbell);
        self.is_introduced.store(true, Ordering::Relaxed);
        let (counts, is_introduced) = (Arc::clone(&self.counts), Arc::clone(&self.is_introduced));
        let reader = RingReader::new(intake, PageWriter::new(page.of(&self.life)));
        Some(Followed { reader, rng, counts, is_introduced })
    }

    /// Drops the ring that was offered.
    pub(super) fn decline_ring(&mut self) {
        let _: Option<[Descriptor; 1]> = self.take();
    }

    /// Whether it has a link, or had one.
    pub(super) fn has_links(&self) -> bool {
        !self.doorbells.is_empty()
    }

    pub(super) fn is_rung(&self) -> bool {
        self.doorbells.iter().any(Doorbell::is_rung)
    }

    /// Looks for what was announced from now on.
    pub(super) fn wake(&mut self) {
        self.doorbells.iter().for_each(Doorbell::consume);
        self.sleeps = false;
    }
}

/// The ring of a publication.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Memory,
    /// Once it has begun.
    writer: Option<Writer<Memory>>,
    begun: Begun,
}

impl Ring {
    fn writer(&mut self) -> &mut Writer<Memory> {
        self.writer.as_mut().expect("the ring has begun")
    }
}

impl RingOutput for Ring {
    fn begin(&mut self, first: u64) {
        assert!(self.writer.is_none(), "the ring has begun already");
        self.writer = Some(Writer::new(self.memory.clone(), first));
        self.begun.lock().expect("the world has one thread").push_back((first, self.memory.clone()));
    }

    fn push(&mut self, metadata: &[u8], payload: &[u8]) -> Result<(), PushError> {
        self.writer().push(KIND_PUBLISH, metadata, payload)
    }

    fn push_batch(&mut self, messages: u16, body: &[u8]) -> Result<(), PushError> {
        self.writer().push_batch(KIND_BATCH, messages, body)
    }

    fn publish(&mut self) -> Published {
        self.writer().publish()
    }

    fn close(&mut self) -> Published {
        self.writer().close()
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    fn position(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.cursor().position)
    }
}

/// The page and the doorbell of one reader, as the sender sees them.
#[derive(Debug)]
pub(super) struct WorldBell {
    page: PageReader<Memory>,
    doorbell: Doorbell,
    /// The sender's.
    life: Life,
}

impl Bell for WorldBell {
    fn ring(&mut self, published: &Published) -> bool {
        if self.page.must_ring(published) && !self.life.is_over() {
            self.doorbell.ring();
        }
        true
    }

    fn call(&mut self) {
        if !self.life.is_over() {
            self.doorbell.ring();
        }
    }

    fn counted(&self) -> u64 {
        let Sample { received, lost, .. } = self.page.sample();
        received.saturating_add(lost)
    }

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

/// A ring that a listener reads, with the listener's page.
#[derive(Debug)]
pub(super) struct Followed {
    reader: RingReader<Memory, Memory>,
    /// Decides how much one call takes.
    rng: Rng,
    counts: Arc<Counts>,
    /// See [`Shared::is_introduced`].
    is_introduced: Arc<AtomicBool>,
}

impl RingInput for Followed {
    fn follow(&mut self, position: u64, sequence: u64) {
        self.is_introduced.store(false, Ordering::Relaxed);
        self.counts.followed.fetch_add(1, Ordering::Relaxed);
        self.reader.follow(position, sequence);
    }

    fn take(&mut self, end: Option<u64>) -> Result<Taken, Corrupt> {
        let taken = self.reader.take_within(end, self.rng.usize(1..=1000))?;
        self.counts.lapped.fetch_add(u64::from(taken.lost > 0), Ordering::Relaxed);
        Ok(taken)
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
        self.reader.call_sender();
    }

    fn leave(&mut self) {
        self.reader.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 64;

    /// A client whose ring has begun, and one that reads it.
    fn introduced(rng: u64) -> (Shared, Ring, WorldBell, Shared, Followed) {
        let (mut sender, mut listener) = (Shared::default(), Shared::default());
        let mut ring = sender.make_ring(CAPACITY);
        ring.begin(0);
        listener.received.extend(sender.queued.pop_front().expect("the ring"));
        let offer = OfferLink { link: 1, id: 1, sender: 1, bytes: ring.bytes(), extensions: Vec::new() };
        let followed = listener.open_ring(&offer, Rng::with_seed(rng)).expect("mapped");
        sender.received.extend(listener.queued.pop_front().expect("page and doorbell"));
        let bell = sender.take_bell().expect("mapped");
        (sender, ring, bell, listener, followed)
    }

    #[test]
    fn listener_that_sleeps_is_woken_for_each_message() {
        let (_sender, mut ring, mut bell, mut listener, mut followed) = introduced(1);
        followed.follow(0, 0);
        for number in 0..100 {
            assert!(followed.arm() && !listener.is_rung());
            ring.push(b"", &[number]).expect("small");
            assert!(bell.ring(&ring.publish()));
            assert!(listener.is_rung());
            listener.wake();
            let mut run = followed.take(None).expect("intact").run.expect("one message");
            assert_eq!(run.front().expect("one message").payload, [number]);
            run.skip_front();
            assert!(!followed.arm() || followed.next_sequence() == u64::from(number) + 1);
            followed.disarm();
        }
    }

    #[test]
    fn listener_that_is_awake_is_not_rung() {
        let (_sender, mut ring, mut bell, listener, mut followed) = introduced(1);
        assert!(followed.arm());
        followed.disarm();
        ring.push(b"", b"x").expect("small");
        assert!(bell.ring(&ring.publish()) && !listener.is_rung());
        assert!(!followed.arm(), "something is there");
    }

    /// Whatever the last word is that a sender stores: its listener receives the messages that were published before it died.
    #[test]
    fn sender_that_dies_within_a_write_leaves_its_published_messages() {
        let mut counts = [0; 2];
        for stores in 0..40 {
            let (sender, mut ring, mut bell, listener, mut followed) = introduced(stores);
            followed.follow(0, 0);
            assert!(followed.arm());
            sender.life.ends_after(i64::try_from(stores).expect("few"));
            ring.push(b"metadata", &[7; 100]).expect("small");
            ring.push(b"", &[8; 9]).expect("small");
            assert!(bell.ring(&ring.publish()));
            let mut received = Vec::new();
            while let Some(mut run) = followed.take(None).expect("intact").run {
                while let Some(front) = run.front() {
                    received.push(front.payload.to_vec());
                    run.skip_front();
                }
            }
            let all = [vec![7; 100], vec![8; 9]];
            assert!(received.is_empty() || received == all, "{stores}: {received:?}");
            assert_eq!(listener.is_rung(), !sender.life.is_over(), "a dead sender wakes no listener");
            counts[usize::from(received.is_empty())] += 1;
        }
        assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    }

    #[test]
    fn descriptors_are_what_they_refer_to() {
        let memory = Memory::new(4);
        let (made, doorbell) = (Descriptor::Memory(memory.clone()), Descriptor::Doorbell(Doorbell::default()));
        assert!(made.open(&(32..=32)).expect("its size").is(&memory));
        assert!(made.open(&(0..=31)).is_err() && made.open(&(33..=64)).is_err());
        assert!(doorbell.open(&(0..=64)).is_err() && made.doorbell().is_err());
        doorbell.doorbell().expect("a doorbell").ring();
        assert!(doorbell.doorbell().expect("a doorbell").is_rung());
    }
}
