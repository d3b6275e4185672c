//! The receive loop, and the wait for the answer to a request. They never wait themselves and never look into a payload.

use super::{Carrier, Change, Link, Loss, Machine, Outcome, Received, Step, Subscriber, Transfer};

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
        match link.connect(subscriber) {
            Ok(Step::Done(_)) => {}
            Ok(Step::Wait(wait)) if !subscriber.reads_rings() => return Ok(Step::Wait(wait)),
            Ok(Step::Wait(wait)) => {
                let wait = link.beside_rings(wait)?;
                if subscriber.arm() {
                    return Ok(Step::Wait(wait));
                }
                continue;
            }
            Err(_) if subscriber.reads_rings() && !subscriber.arm() => continue, // there is something in a ring
            Err(error) => return Err(error),
        }
        if subscriber.is_ready() && !was_ready {
            continue; // frames may have arrived together with the end of the handshake
        }
        write_requests(subscriber, link);
        let patient = patient && !subscriber.writes();
        if let Step::Wait(wait) = link.read(subscriber, patient)?
            && subscriber.arm()
        {
            return Ok(Step::Wait(wait));
        }
    }
}

/// Waits for the answer to `change`, and connects first if there is no connection. What arrives before the answer is kept for
/// [`receive`].
///
/// # Errors
///
/// If there is no connection, and will be none. The change is still requested, unless the daemon refuses it.
pub fn settle<L: Link>(
    subscriber: &mut Subscriber,
    link: &mut L,
    change: Change,
) -> Result<Step<Outcome, L::Wait>, L::Error> {
    loop {
        match subscriber.collect(change) {
            Ok(Some(outcome)) => return Ok(Step::Done(outcome)),
            Ok(None) => {}
            Err(ended) => {
                link.lose(subscriber, Loss::Ended(ended))?;
                continue;
            }
        }
        let was_ready = subscriber.is_ready();
        match link.connect(subscriber)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Stream | Carrier::Messages) => {}
        }
        if subscriber.is_ready() && !was_ready {
            continue; // the answer was a part of the handshake
        }
        write_requests(subscriber, link);
        if let Step::Wait(wait) = link.read(subscriber, false)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// What the daemon retains of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A frame: see [`Subscriber::frame`].
    Frame,
    /// Nothing.
    Nothing,
    /// Something that the daemon had no memory to deliver.
    Lost(Option<u64>),
}

/// Finds what the daemon retains of the only channel of this subscriber, which has asked for replay, and connects first if there is no
/// connection.
///
/// # Errors
///
/// If there is no connection, and will be none.
pub fn value<L: Link>(subscriber: &mut Subscriber, link: &mut L) -> Result<Step<Value, L::Wait>, L::Error> {
    loop {
        let received = match subscriber.poll_next() {
            Ok(received) => received,
            Err(ended) => {
                link.lose(subscriber, Loss::Ended(ended))?;
                continue;
            }
        };
        match (received, subscriber.announced()) {
            (_, Some(0)) => return Ok(Step::Done(Value::Nothing)),
            (Received::Frame, Some(_)) => return Ok(Step::Done(Value::Frame)),
            (Received::Lagged(count), Some(_)) => return Ok(Step::Done(Value::Lost(count))),
            (Received::Frame | Received::Lagged(_), None) => continue, // it is not known yet whether there is a value
            (Received::Nothing, _) => {}
        }
        let was_ready = subscriber.is_ready();
        if let Step::Wait(wait) = link.connect(subscriber)? {
            return Ok(Step::Wait(wait));
        }
        if subscriber.is_ready() && !was_ready {
            continue; // it may have arrived together with the end of the handshake
        }
        if let Step::Wait(wait) = link.read(subscriber, false)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// Writes the requests that wait, as far as that is possible without waiting. The daemon answers each request that the connection has taken, so
/// that there is room for the rest when there is something to read.
fn write_requests<L: Link>(subscriber: &mut Subscriber, link: &mut L) {
    subscriber.expect_descriptors(link);
    subscriber.report_progress();
    while subscriber.writes() {
        if subscriber.outgoing().is_empty() {
            subscriber.answer_offers(link);
            if subscriber.outgoing().is_empty() {
                return;
            }
        }
        match link.write(subscriber.outgoing(), &[]) {
            Transfer::Bytes(bytes) => subscriber.sent(bytes),
            Transfer::Wait(_) => return,
            // The daemon stops or is gone. What it has sent comes first, and then the end of the connection.
            Transfer::Broken => subscriber.discard_requests(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, subscribed, welcome};
    use super::super::{Selector, Subscription};
    use super::*;
    use crate::ChannelName;
    use broadcaster_protocol::control::{Control, Overflow};
    use bytes::BufMut;
    use std::convert::Infallible;

    /// A connection that takes so many bytes, and yields what has arrived.
    #[derive(Debug, Default)]
    struct Scripted {
        /// `None`: the connection takes no more.
        room: Option<usize>,
        written: Vec<u8>,
        arrived: Vec<u8>,
    }

    impl Link for Scripted {
        type Wait = ();
        type Error = Infallible;

        fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, ()>, Infallible> {
            Ok(if machine.is_ready() { Step::Done(Carrier::Stream) } else { Step::Wait(()) })
        }

        fn read(&mut self, subscriber: &mut Subscriber, _: bool) -> Result<Step<(), ()>, Infallible> {
            if self.arrived.is_empty() {
                return Ok(Step::Wait(()));
            }
            subscriber.target().put_slice(&std::mem::take(&mut self.arrived));
            Ok(Step::Done(()))
        }

        fn read_answer(&mut self, _: &mut impl Machine) -> Transfer<()> {
            Transfer::Broken
        }

        fn write(&mut self, head: &[u8], _: &[u8]) -> Transfer<()> {
            match &mut self.room {
                None => Transfer::Broken,
                Some(0) => Transfer::Wait(()),
                Some(room) => {
                    let bytes = head.len().min(*room);
                    *room -= bytes;
                    self.written.extend_from_slice(&head[..bytes]);
                    Transfer::Bytes(bytes)
                }
            }
        }

        fn lose(&mut self, machine: &mut impl Machine, _: Loss) -> Result<(), Infallible> {
            machine.disconnected();
            Ok(())
        }
    }

    fn to(name: &str) -> Subscription {
        let selector = Selector::Name(ChannelName::new(name).expect("a name"));
        Subscription { selector, overflow: Overflow::DropOldest, observer: false, replay: 0 }
    }

    fn joined() -> Subscriber {
        let mut subscriber = Subscriber::new(vec![to("a")], "test", 7);
        accept(&mut subscriber, &[welcome(), subscribed(0)]).expect("ok");
        let bytes = subscriber.outgoing().len();
        subscriber.sent(bytes);
        subscriber
    }

    fn encoded(controls: &[Control]) -> Vec<u8> {
        let mut wire = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut wire).expect("encoded"));
        wire
    }

    #[test]
    fn requests_are_written_while_a_listener_receives() {
        let mut subscriber = joined();
        let mut link = Scripted { room: Some(5), ..Scripted::default() };
        subscriber.subscribe(to("b"));
        let request = subscriber.outgoing().to_vec();
        assert_eq!(receive(&mut subscriber, &mut link, true), Ok(Step::Wait(())));
        assert_eq!(link.written, request[..5], "a part of it, and no call waits for the rest");
        link.room = Some(1000);
        assert_eq!(receive(&mut subscriber, &mut link, true), Ok(Step::Wait(())));
        assert_eq!(link.written, request);
        assert_eq!(receive(&mut subscriber, &mut link, true), Ok(Step::Wait(())));
        assert_eq!(link.written, request, "once");
    }

    #[test]
    fn an_answer_completes_its_change() {
        let mut subscriber = joined();
        let mut link = Scripted { room: Some(1000), ..Scripted::default() };
        let change = subscriber.subscribe(to("b"));
        assert_eq!(settle(&mut subscriber, &mut link, change), Ok(Step::Wait(())));
        link.arrived = encoded(&[subscribed(1)]);
        assert_eq!(settle(&mut subscriber, &mut link, change), Ok(Step::Done(Outcome::Done)));
    }

    #[test]
    fn a_connection_that_takes_no_request_is_read_to_its_end() {
        let mut subscriber = joined();
        let mut link = Scripted::default();
        let change = subscriber.subscribe(to("b"));
        let lagged = Control::Lagged(broadcaster_protocol::control::Lagged { id: 1, count: 5, extensions: Vec::new() });
        let named = super::super::session::tests::named(1, "a");
        link.arrived = encoded(&[named, lagged]);
        assert_eq!(settle(&mut subscriber, &mut link, change), Ok(Step::Wait(())));
        assert_eq!(receive(&mut subscriber, &mut link, false), Ok(Step::Done(Event::Lagged(Some(5)))));
        assert!(subscriber.is_ready());
    }

    fn reader() -> Subscriber {
        let mut subscriber = Subscriber::new(vec![Subscription { replay: 1, ..to("a") }], "test", 7);
        accept(&mut subscriber, &[welcome(), subscribed(0)]).expect("ok");
        subscriber
    }

    fn retained(id: u32, count: u32) -> Control {
        Control::Retained(broadcaster_protocol::control::Retained { id, count, extensions: Vec::new() })
    }

    #[test]
    fn a_value_is_what_is_replayed_first() {
        let (id, sender) = (broadcaster_protocol::ChannelId(1), broadcaster_protocol::SenderId::new(9, 1));
        let frame = |header: broadcaster_protocol::Header| [header.as_bytes(), b"value"].concat();
        let live = frame(broadcaster_protocol::Header::publish(id, sender, 8, 5));
        let named = super::super::session::tests::named(1, "a");
        let mut link = Scripted { room: Some(1000), ..Scripted::default() };

        let mut subscriber = reader();
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Wait(())), "it is not known yet");
        link.arrived = encoded(&[named.clone(), retained(1, 1)]);
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Wait(())));
        link.arrived = [frame(broadcaster_protocol::Header::retain(id, sender, 7, 5)), live.clone()].concat();
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Done(Value::Frame)));
        assert_eq!(subscriber.frame().map(|frame| frame.sequence), Some(7));

        let mut subscriber = reader();
        link.arrived = [encoded(&[named.clone(), retained(1, 0)]), live].concat();
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Done(Value::Nothing)), "what is sent later is no value");
        let mut subscriber = reader();
        link.arrived = encoded(&[retained(0, 0)]);
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Done(Value::Nothing)), "no such channel");
        let mut subscriber = reader();
        let lost = broadcaster_protocol::control::Lagged { id: 1, count: 1, extensions: Vec::new() };
        link.arrived = encoded(&[named, retained(1, 1), lost.into()]);
        assert_eq!(value(&mut subscriber, &mut link), Ok(Step::Done(Value::Lost(Some(1)))));
    }
}
