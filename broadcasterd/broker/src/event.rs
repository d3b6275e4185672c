//! What can happen to the broker, in the past tense, and when. Nothing else ever reaches it.

use broadcaster_protocol::{ChannelId, ChannelName, Control, DecodeError, Header, Run};
use broadcaster_ring::{Cursor, Sample};
use std::time::Duration;

/// A connection, as the server numbers it. A number may be used again only after [`Event::Closed`] was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub usize);

/// A ring, as the broker numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u32);

/// A ring that one listener reads, as the broker and the protocol number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// How far the sender has come in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where the newest message ends, and the sequence number of the next one.
    pub newest: Cursor,
    /// Bytes of the frames of all messages so far.
    pub frame_bytes: u64,
}

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
    /// An OfferRing was read, and the memory that came with it was verified.
    RingOffered {
        /// The connection that it came from.
        conn: ConnId,
        /// The channel of the publication.
        channel: ChannelId,
        /// Bytes of the memory; or why it cannot be used.
        bytes: Result<u64, String>,
    },
    /// A LinkReady was read.
    LinkReady {
        /// The connection that it came from.
        conn: ConnId,
        /// The link that it names.
        link: LinkId,
        /// Whether the page that came with it is mapped.
        is_usable: bool,
    },
    /// A frame was read to which descriptors belong, and they have not come with it.
    DescriptorsMissing {
        /// The connection that it came from.
        conn: ConnId,
    },
    /// Messages of a ring were read, or were overwritten before. Only after [`Effect::Relay`](crate::Effect::Relay).
    Relayed {
        /// The ring.
        ring: RingId,
        /// How far its sender had come.
        head: Head,
        /// Where the reader stands now.
        at: Cursor,
        /// Messages that were overwritten, in front of the run.
        lost: u64,
        /// Messages.
        run: Option<Run>,
    },
    /// The head of a ring was looked at.
    RingSampled {
        /// The ring.
        ring: RingId,
        /// How far its sender had come.
        head: Head,
    },
    /// The words of a ring are not those of a correct one.
    RingCorrupt {
        /// The ring.
        ring: RingId,
        /// What is wrong with them.
        problem: String,
    },
    /// The ring was forgotten, after [`Effect::EndRing`](crate::Effect::EndRing) or before [`Event::Drained`]. The last event with this
    /// number.
    RingEnded {
        /// The ring.
        ring: RingId,
        /// How far its sender had come; `None` if its words are not those of a ring.
        head: Option<Head>,
    },
    /// The page of a listener was looked at.
    LinkSampled {
        /// The link.
        link: LinkId,
        /// What it has read.
        sample: Sample,
    },
    /// The link was forgotten, after [`Effect::EndLink`](crate::Effect::EndLink). The last event with this number.
    LinkEnded {
        /// The link.
        link: LinkId,
        /// What its listener has read; `None` if its page was never mapped.
        sample: Option<Sample>,
    },
    /// The frame with the [attachment](crate::Broker::attachment) cannot be written: what was attached has ended.
    Withdrawn {
        /// The connection.
        conn: ConnId,
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
