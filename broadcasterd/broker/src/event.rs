//! What can happen to the broker, in the past tense, and when. Nothing else ever reaches it.

use broadcaster_protocol::{ChannelName, Control, DecodeError, Header, Run};
use std::time::Duration;

/// A connection, as the server numbers it. A number may be used again only after [`Event::Closed`] was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub usize);

/// A point in time: the duration since a start that the server chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment and `wait` more.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The duration from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The incomplete frame at the end of a connection's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Incomplete {
    /// There is none.
    #[default]
    None,
    /// A small frame, or the rest of a discarded one: [`Effect::Discard`](crate::Effect::Discard) does not apply to it.
    Kept,
    /// A Publish or Reply frame that [`Effect::Discard`](crate::Effect::Discard) can apply to.
    Discardable,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted. `pid` is 0 where the kernel does not report it.
    Opened {
        /// The new connection.
        conn: ConnId,
        /// Process at the other end, from the kernel.
        pid: u32,
        /// User at the other end, from the kernel.
        uid: u32,
    },
    /// Data frames were read.
    Run {
        /// The connection that they came from.
        conn: ConnId,
        /// The frames.
        run: Run,
    },
    /// A Publish or Reply frame has arrived whose body was dropped, after [`Effect::Discard`](crate::Effect::Discard).
    Discarded {
        /// The connection that it came from.
        conn: ConnId,
        /// Its header.
        header: Header,
    },
    /// Messages on a channel were lost before they reached the broker; nothing if there is no such channel. No daemon makes this happen: it
    /// is for tests of programs that must cope with losses.
    Lost {
        /// The channel.
        channel: ChannelName,
        /// How many messages.
        messages: u64,
    },
    /// A control message was read.
    Control {
        /// The connection that it came from.
        conn: ConnId,
        /// The message.
        control: Control,
    },
    /// The bytes that were read are not a frame; nothing more can be read from the connection.
    Malformed {
        /// The connection that they came from.
        conn: ConnId,
        /// What is wrong with them.
        error: DecodeError,
    },
    /// After a read, the server holds input of the connection that is not a frame yet. Reported after each read that ends within
    /// a frame, and once when that is over.
    Holding {
        /// The connection.
        conn: ConnId,
        /// Bytes of memory in use for it.
        bytes: usize,
        /// The frame that the input ends with.
        frame: Incomplete,
    },
    /// The connection took bytes of what [`Broker::outgoing`](crate::Broker::outgoing) offers.
    Written {
        /// The connection.
        conn: ConnId,
        /// How many bytes.
        bytes: usize,
        /// Whether it took less than it was offered.
        blocked: bool,
    },
    /// The turn is over: every [`Effect::Write`](crate::Effect::Write) of it was tried.
    Flushed,
    /// The connection has ended, from whichever side. The last event with this number.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The time that [`Broker::next_deadline`](crate::Broker::next_deadline) named has come.
    Tick,
    /// The daemon was requested to stop.
    Stop,
    /// After [`Effect::Drain`](crate::Effect::Drain): everything that clients had sent was read.
    Drained,
}
