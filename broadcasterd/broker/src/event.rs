//! What can happen to the broker, in the past tense, and when. Nothing else ever reaches it.

use broadcaster_protocol::{Control, DecodeError, Run};
use std::time::Duration;

/// A connection, as the server numbers it. A number may be used again only after [`Event::Closed`] was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub usize);

/// A point in time: what has passed since a start that the server chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment and `wait` more.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted. `pid` is 0 where the kernel does not tell.
    Opened {
        /// The new connection.
        conn: ConnId,
        /// Process at the other end, from the kernel.
        pid: u32,
        /// User at the other end, from the kernel.
        uid: u32,
    },
    /// Publish frames were read.
    Run {
        /// Who sent them.
        conn: ConnId,
        /// The frames.
        run: Run,
    },
    /// A control message was read.
    Control {
        /// Who sent it.
        conn: ConnId,
        /// The message.
        control: Control,
    },
    /// What was read is not a frame; nothing more can be read from the connection.
    Malformed {
        /// Who sent it.
        conn: ConnId,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The server holds this many bytes of memory for an incomplete frame of the connection.
    Holding {
        /// Who sends the frame.
        conn: ConnId,
        /// Bytes of memory; 0 when the frame is complete.
        bytes: usize,
    },
    /// The connection took bytes of what [`Broker::outgoing`](crate::Broker::outgoing) offers.
    Written {
        /// Who took them.
        conn: ConnId,
        /// How many bytes.
        bytes: usize,
    },
    /// The connection is gone, whoever ended it. The last event with this number.
    Closed {
        /// Which connection.
        conn: ConnId,
    },
    /// The time that [`Broker::next_deadline`](crate::Broker::next_deadline) named has come.
    Tick,
    /// The daemon was asked to stop.
    Stop,
    /// After [`Effect::Drain`](crate::Effect::Drain): all that clients had sent was read.
    Drained,
}
