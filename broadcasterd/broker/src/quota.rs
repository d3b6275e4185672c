//! Every limit of the broker, named, and the ledger of the memory that frames in transit hold. Never per user: all
//! clients are the same user, and one bad program must not cut off the others.

use broadcaster_protocol::limits::{HANDSHAKE_WITHIN, PAYLOAD_BYTES_MAX};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// The limits of one broker. The defaults are what `broadcasterd` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections in all (4096).
    pub connections_max: usize,
    /// Connections of one process (1024).
    pub connections_per_process_max: usize,
    /// Channels in all (65 536).
    pub channels_max: usize,
    /// Channels of one connection (1024).
    pub channels_per_connection_max: usize,
    /// Largest payload of one frame, in bytes (64 MiB).
    pub payload_bytes_max: u32,
    /// Bytes that wait for one listener (4 MiB): frames, and 64 bytes of bookkeeping for each run of them. One frame
    /// always fits, however large it is.
    pub outbox_bytes_max: usize,
    /// Messages that wait for one listener (65 536).
    pub outbox_messages_max: u64,
    /// Bytes of answers that wait for one connection (64 KiB); who does not read its answers is disconnected.
    pub replies_bytes_max: usize,
    /// Bytes of memory that frames in transit may hold in all (256 MiB). Beyond it, whoever holds most gives up most.
    pub held_bytes_max: usize,
    /// Connections that watch messages as they pass (16).
    pub monitors_max: usize,
    /// From accept to a complete Hello (2 s).
    pub handshake_within: Duration,
    /// From the decision to end a connection to its end, so that its last words can be read (1 s).
    pub goodbye_within: Duration,
    /// Without any connection for this long, the broker ends; `None`: never. Unset by default.
    pub idle_exit_after: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_process_max: 1024,
            channels_max: 65_536,
            channels_per_connection_max: 1024,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            outbox_bytes_max: 4 * 1024 * 1024,
            outbox_messages_max: 65_536,
            replies_bytes_max: 64 * 1024,
            held_bytes_max: 256 * 1024 * 1024,
            monitors_max: 16,
            handshake_within: HANDSHAKE_WITHIN,
            goodbye_within: Duration::from_secs(1),
            idle_exit_after: None,
        }
    }
}

/// How many bytes of memory are held. Cloning gives another handle to the same ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Rc<Cell<usize>>);

impl Ledger {
    /// Books `bytes` until the token is dropped.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.take(bytes);
        Charge { ledger: self.clone(), bytes }
    }

    /// Books `bytes` until [`give_back`](Self::give_back).
    pub(crate) fn take(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }

    /// Ends what [`take`](Self::take) began.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }

    /// Bytes that are booked now.
    pub(crate) fn held(&self) -> usize {
        self.0.get()
    }
}

/// Booked bytes; given back on drop, so that no path can forget them.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Ledger,
    bytes: usize,
}

impl Charge {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.give_back(self.bytes);
    }
}
