//! Messages through shared memory, as the machines see it. Where the memory comes from, and how a reader is woken, is the link's concern.

use broadcaster_ring::{Corrupt, Published, PushError, Taken};
use std::fmt::Debug;

/// The page and the doorbell of one reader, as the sender sees them.
pub trait Bell: Debug + Send + Sync {
    /// Wakes the reader if it sleeps. False if it cannot be woken: then it cannot read this ring any more.
    fn ring(&mut self, published: &Published) -> bool;

    /// Wakes the reader whether it sleeps or not, so that it looks at the ring. Only the daemon is called.
    fn call(&mut self);

    /// How many messages of the ring the reader has received and lost. Of a daemon that has stopped, all that it has accepted.
    fn counted(&self) -> u64;

    /// Whether the reader has called this sender to its connection since the last time that this returned true: the daemon because it has written
    /// something, a listener because its own connection has ended.
    fn is_called(&mut self) -> bool;

    /// The position in the ring up to which the reader has taken messages.
    fn position(&self) -> u64;

    /// Whether the reader may not have found what was published last, because it has left.
    fn has_left(&self, published: &Published) -> bool;

    /// Whether the reader passes messages on to others. Only the daemon does.
    fn is_relaying(&self) -> bool;
}

/// The ring of one publication.
pub trait RingOutput: Debug + Send + Sync {
    /// Begins the ring: its first message has the sequence number `first`. Called once, before any other method except
    /// [`bytes`](Self::bytes).
    fn begin(&mut self, first: u64);

    /// Adds a message, which readers see after [`publish`](Self::publish) at the latest.
    ///
    /// # Errors
    ///
    /// If it cannot be in a ring. It is not.
    fn push(&mut self, metadata: &[u8], payload: &[u8]) -> Result<(), PushError>;

    /// Adds so many messages, which are the body of a batch.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    fn push_batch(&mut self, messages: u16, body: &[u8]) -> Result<(), PushError>;

    /// Shows everything to all readers. Those of `bells` that sleep must be woken with the result.
    fn publish(&mut self) -> Published;

    /// Shows everything to all readers, and that nothing follows.
    fn close(&mut self) -> Published;

    /// Bytes of the memory.
    fn bytes(&self) -> u64;

    /// The position of the next message, in words.
    fn position(&self) -> u64;
}

/// A ring that a listener reads, with the listener's page.
pub trait RingInput: Debug + Send + Sync {
    /// Begins to read at a place that the daemon has stated.
    fn follow(&mut self, position: u64, sequence: u64);

    /// Takes the next messages; with an `end`, only those with lower sequence numbers. Counts them in the page.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]. The ring cannot be read any further.
    fn take(&mut self, end: Option<u64>) -> Result<Taken, Corrupt>;

    /// The sequence number of the message that is due.
    fn next_sequence(&self) -> u64;

    /// The position up to which messages were taken.
    fn position(&self) -> u64;

    /// Requests to be woken. False: something is there.
    fn arm(&mut self) -> bool;

    /// Requests not to be woken.
    fn disarm(&mut self);

    /// Calls the sender to its connection, because the one of this listener has ended.
    fn call_sender(&mut self);

    /// States that what is in the ring now is the last that this listener takes from it.
    fn leave(&mut self);
}
