//! What the broker wants done, in the imperative. The broker itself does none of it.

use crate::event::ConnId;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write what [`Broker::outgoing`](crate::Broker::outgoing) offers for the connection until nothing is left, and
    /// tell each step with [`Event::Written`](crate::Event::Written). Not issued again before nothing is left.
    Write(ConnId),
    /// Close the connection at once; what waits for it is dropped.
    Close(ConnId),
    /// Accept no more connections, read what clients have sent up to now, then tell
    /// [`Event::Drained`](crate::Event::Drained).
    Drain,
    /// All that was sent is delivered, and only who looks at the daemon is still there: let the next daemon begin. Issued at most
    /// once, before those are told goodbye, so that who asked for the stop finds no daemon, or the next one, but never this one.
    Release,
    /// Nothing is left to do: end.
    Exit,
}

/// What one call of [`Broker::handle`](crate::Broker::handle) wants done, in order.
pub type Effects = Vec<Effect>;
