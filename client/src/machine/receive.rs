//! The receive loop. It never waits and never looks into a payload.

use super::{Link, Loss, Machine, Received, Step, Subscriber};

/// What the receive loop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A frame: see [`Subscriber::frame`].
    Frame,
    /// A gap on [`Subscriber::channel`]: see [`Received::Lagged`].
    Lagged(Option<u64>),
}

/// Finds the next event of the stream, and connects first if there is no connection. A `patient` caller has nothing else to
/// do: the link may wait within the call.
///
/// # Errors
///
/// If there is no connection, and will be none. Calling again starts over.
#[inline]
pub fn receive<L: Link>(
    subscriber: &mut Subscriber,
    link: &mut L,
    patient: bool,
) -> Result<Step<Event, L::Wait>, L::Error> {
    loop {
        match subscriber.poll_next() {
            Ok(Received::Frame) => match subscriber.frame_from_daemon() {
                Some(frame) if !link.is_new(frame) => continue,
                Some(_) | None => return Ok(Step::Done(Event::Frame)),
            },
            Ok(Received::Lagged(count)) => return Ok(Step::Done(Event::Lagged(count))),
            Ok(Received::Nothing) => {}
            Err(ended) => {
                link.lose(subscriber, Loss::Ended(ended))?;
                continue;
            }
        }
        let was_ready = subscriber.is_ready();
        if let Step::Wait(wait) = link.connect(subscriber)? {
            return Ok(Step::Wait(wait));
        }
        if subscriber.is_ready() && !was_ready {
            continue; // frames may have arrived together with the end of the handshake
        }
        if let Step::Wait(wait) = link.read(subscriber, patient)? {
            return Ok(Step::Wait(wait));
        }
    }
}
