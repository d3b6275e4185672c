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
    /// Nothing is left to do: end.
    Exit,
}

/// What one call of [`Broker::handle`](crate::Broker::handle) wants done, in order.
pub type Effects = Vec<Effect>;
