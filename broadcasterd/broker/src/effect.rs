//! What the broker wants done, in the imperative. The broker itself does none of it.

use crate::event::ConnId;

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

/// What one call of [`Broker::handle`](crate::Broker::handle) wants done, in order.
pub type Effects = Vec<Effect>;
