//! What the loops need of a connection, whatever carries it. It never decides when to send or to receive.

use super::ring::{Bell, RingInput, RingOutput};
use super::{Ended, Machine, Posted, Publisher, Subscriber, TooLarge};
use broadcaster_protocol::Frame;
use broadcaster_protocol::control::OfferLink;
use std::time::Instant;

/// The result of a step that never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T, W> {
    /// The step is complete.
    Done(T),
    /// The next step is useful once this has happened.
    Wait(W),
}

/// How messages travel at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// As frames, over a connection to a daemon.
    Stream,
    /// One by one, without a daemon: see [`Link::post`].
    Messages,
}

/// The result of one write, or of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer<W> {
    /// This many bytes were taken, or have arrived.
    Bytes(usize),
    /// None; there is room, or something to read, once this has happened.
    Wait(W),
    /// The connection is broken. Call [`Link::lose`].
    Broken,
}

/// Why a connection is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The daemon ended it, or broke the protocol.
    Ended(Ended),
    /// A write failed. What the daemon sent before it closed the connection may state the reason.
    Write,
    /// The daemon closed it, and everything that it sent was read.
    Closed,
}

/// A way to a daemon, and back to the next one when it is gone.
///
/// No method waits. What to wait for is a value of the link's own type.
pub trait Link {
    /// What to wait for.
    type Wait;
    /// Why there is no connection.
    type Error;

    /// Establishes the connection, up to a complete handshake. Returns at once if there is one.
    ///
    /// # Errors
    ///
    /// If there will be no connection. The next call starts over.
    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Self::Wait>, Self::Error>;

    /// Reads once. A `patient` caller has nothing else to do: the link may wait within the call.
    ///
    /// # Errors
    ///
    /// If the connection is lost and must not be replaced.
    fn read(&mut self, subscriber: &mut Subscriber, patient: bool) -> Result<Step<(), Self::Wait>, Self::Error>;

    /// Reads once, for a machine that waits for an answer.
    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Self::Wait>;

    /// Writes `head` and then `body`, once.
    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Self::Wait>;

    /// Gives the connection up. The next [`connect`](Self::connect) looks for another one.
    ///
    /// # Errors
    ///
    /// If the caller must learn of it, because the daemon does not serve this client.
    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), Self::Error>;

    /// Sends one message without a daemon, while the carrier is [`Carrier::Messages`].
    ///
    /// # Errors
    ///
    /// [`TooLarge`]; nothing was sent.
    fn post(&mut self, _publisher: &Publisher, _message: Posted<'_>) -> Result<(), TooLarge> {
        Ok(())
    }

    /// A daemon has this message. The link may also pass it to listeners that are not connected to the daemon.
    fn written(&mut self, _publisher: &Publisher, _message: Posted<'_>) {}

    /// Whether [`written`](Self::written) does anything.
    fn duplicates(&self) -> bool {
        false
    }

    /// Whether a frame that the daemon sent is new to this listener.
    fn is_new(&mut self, _frame: Frame<'_>) -> bool {
        true
    }

    /// The time, if this link has a clock.
    fn time(&self) -> Option<Instant> {
        None
    }

    /// The other side has announced frames with descriptors: what is read from now on may have some.
    fn expect_descriptors(&mut self) {}

    /// Makes a ring, whose descriptor goes with the next frame that [`write_with_descriptors`](Self::write_with_descriptors) writes. `None` if
    /// there is no shared memory on this link, or none is left.
    fn make_ring(&mut self) -> Option<Box<dyn RingOutput>> {
        None
    }

    /// Takes the page and the doorbell that came with a [`RingAccepted`](broadcaster_protocol::control::RingAccepted) or an
    /// [`AddLink`](broadcaster_protocol::control::AddLink). To be called for each of these, in the order in which they came. `None` if
    /// they cannot be used.
    fn take_bell(&mut self) -> Option<Box<dyn Bell>> {
        None
    }

    /// Maps the ring that came with `offer`, and makes a page and a doorbell, whose descriptors go with the next frame that
    /// [`write_with_descriptors`](Self::write_with_descriptors) writes. To be called for each offer, in the order in which they came. `None` if
    /// it cannot be used.
    fn open_ring(&mut self, _offer: &OfferLink) -> Option<Box<dyn RingInput>> {
        None
    }

    /// The same wait, and for the rings that [`open_ring`](Self::open_ring) has returned: there is no connection, but they are read on.
    ///
    /// # Errors
    ///
    /// If it is impossible to wait.
    fn beside_rings(&mut self, wait: Self::Wait) -> Result<Self::Wait, Self::Error> {
        Ok(wait)
    }

    /// Whether it looks for another daemon when the connection is lost.
    fn reconnects(&self) -> bool {
        true
    }

    /// Drops the ring that came with an offer, instead of opening it.
    fn decline_ring(&mut self) {}

    /// Writes a frame, once, with the descriptors that go with it. They go with its first bytes: what is not taken is
    /// written without. If the result is [`Transfer::Wait`], they wait for the next attempt; if it is [`Transfer::Broken`], they are
    /// dropped. The connection itself may be usable then: this user may have too many descriptors in flight.
    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<Self::Wait> {
        self.write(frame, &[])
    }
}
