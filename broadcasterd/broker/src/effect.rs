//! What the broker wants done, in the imperative. The broker itself does none of it.

use crate::event::{ConnId, LinkId, RingId};
use broadcaster_protocol::{ChannelId, SenderId};
use broadcaster_ring::Cursor;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write what [`Broker::outgoing`](crate::Broker::outgoing) offers for the connection until nothing is left, and report each
    /// step with [`Event::Written`](crate::Event::Written). At the end of the turn at the latest. Issued again before nothing is left
    /// only while a sender waits for the connection: a full socket may have room before the system reports it.
    Write(ConnId),
    /// Close the connection, before the next event. What waits for it is dropped.
    Close(ConnId),
    /// Drop what has arrived of the connection's incomplete frame, before the next event, and the rest of it as it arrives. Then
    /// report [`Event::Discarded`](crate::Event::Discarded) in its place. Nothing if the connection has ended.
    Discard(ConnId),
    /// What has come with the OfferRing that is being reported is this ring from now on.
    KeepRing(RingId),
    /// The ring begins: its first message has this sequence number, and is at the position 0. Report
    /// [`Event::RingCorrupt`](crate::Event::RingCorrupt) if its memory is not a ring.
    BeginRing {
        /// The ring.
        ring: RingId,
        /// The channel of its messages.
        channel: ChannelId,
        /// Their sender.
        sender: SenderId,
        /// Sequence number of the first one.
        first: u64,
    },
    /// Read the ring from here on, and report [`Event::Relayed`](crate::Event::Relayed); or, with `None`, read no more of it.
    Relay {
        /// The ring.
        ring: RingId,
        /// Where to begin.
        from: Option<Cursor>,
    },
    /// Forget the ring, before the next event, and report its last head with [`Event::RingEnded`](crate::Event::RingEnded).
    EndRing(RingId),
    /// What has come with the LinkReady that is being reported belongs to this link from now on.
    KeepLink {
        /// The link.
        link: LinkId,
        /// The ring that its listener is about to read.
        ring: RingId,
    },
    /// Forget the link, before the next event, and report its last sample with [`Event::LinkEnded`](crate::Event::LinkEnded).
    EndLink(LinkId),
    /// Accept no more connections, read what clients have sent up to now, then report
    /// [`Event::Drained`](crate::Event::Drained).
    Drain,
    /// Let the next daemon begin: everything is delivered, and the connections that are left neither send nor listen. Issued at
    /// most once, before those connections receive their Goodbye. So the client that requested the stop finds no daemon, or the
    /// next one, but never this one.
    Release,
    /// Nothing is left to do: end.
    Exit,
}

/// What is written with the first byte of a control frame, as descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The memory of a ring.
    Ring(RingId),
    /// The server's own page and doorbell, as a reader of the ring.
    Relay(RingId),
    /// The page and the doorbell of a listener.
    Link(LinkId),
}

/// What one call of [`Broker::handle`](crate::Broker::handle) wants done, in order.
pub type Effects = Vec<Effect>;
