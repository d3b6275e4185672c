//! What every connection has, whatever it is for: the Hello, outgoing control messages, and the bytes that arrive. It never
//! interprets a data frame.

use broadcaster_protocol::control::{Control, Declined, Refused, RefusedCode, Welcome, capability};
use broadcaster_protocol::frame::{KIND_PUBLISH, KIND_RETAIN};
use broadcaster_protocol::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_MAX, PROTOCOL_MIN};
use broadcaster_protocol::{DecodeError, Decoder, Item, handshake};
use bytes::BytesMut;
use bytes::buf::Limit;
use std::time::Instant;

/// The protocol versions that this library speaks.
const OFFERED: std::ops::RangeInclusive<u16> = PROTOCOL_MIN..=PROTOCOL_MAX;

/// Memory that is kept for control messages that are to be written.
const IDLE_BYTES_MAX: usize = 16 * 1024;

/// Why the daemon no longer serves this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The daemon refuses it. Another attempt gets the same answer.
    Refused(Refused),
    /// The daemon does not support what was requested.
    Unsupported {
        /// What was requested.
        what: String,
        /// The daemon's version.
        version: String,
    },
    /// The daemon stops. Another one will serve.
    Goodbye,
    /// The client made no progress. The same daemon will serve it again.
    Stalled(Refused),
    /// The bytes are not frames.
    Garbage(DecodeError),
    /// A frame of this kind arrived when none was expected.
    Unexpected(u8),
    /// The daemon chose this protocol version, which was not offered.
    NotOffered(u16),
}

/// What the shell around a machine needs of it, whatever it is for.
pub trait Machine {
    /// The session of this machine.
    fn session(&self) -> &Session;

    /// The session of this machine.
    fn session_mut(&mut self) -> &mut Session;

    /// An attempt to connect is made at this time.
    fn set_time(&mut self, _now: Instant) {}

    /// A connection was made: the handshake begins.
    fn connected(&mut self);

    /// The connection is gone.
    fn disconnected(&mut self) {
        self.session_mut().disconnected();
    }

    /// Bytes were read to the [target](Self::target): the handshake continues.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be given up.
    fn received(&mut self) -> Result<(), Ended>;

    /// The bytes to write, in order.
    fn outgoing(&self) -> &[u8] {
        self.session().outgoing()
    }

    /// The connection took the first `bytes` bytes of what is outgoing.
    fn sent(&mut self, bytes: usize) {
        self.session_mut().sent(bytes);
    }

    /// Where the next bytes of the connection must be read to.
    fn target(&mut self) -> Limit<&mut BytesMut> {
        self.session_mut().target()
    }

    /// Whether the handshake is complete.
    fn is_ready(&self) -> bool {
        self.session().phase == Phase::Ready
    }

    /// Whether the daemon has been informed of the next sequence number and has not answered yet.
    fn is_opening(&self) -> bool {
        false
    }

    /// The daemon has stopped, and has accepted everything that the connection took.
    fn accepted(&mut self) {}

    /// The daemon has closed the connection without a word: it is gone. [`disconnected`](Self::disconnected) follows.
    fn abandoned(&mut self) {}

    /// Messages arrive without a daemon from now on.
    fn detached(&mut self) {}

    /// Whether this machine uses rings in shared memory if both sides can.
    fn wants_rings(&self) -> bool {
        false
    }
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Down,
    /// Hello was sent.
    Greeting,
    /// Welcome has arrived, and the requests that follow were sent.
    Joining,
    /// The handshake is complete.
    Ready,
}

/// The state and the buffers of one connection after the other.
#[derive(Debug)]
pub struct Session {
    purpose: String,
    pid: u32,
    /// The capabilities that the next Hello announces.
    announced: u64,
    /// Those of them that the present daemon has as well.
    common: u64,
    pub(super) phase: Phase,
    /// The version of the daemon, once it has introduced itself.
    version: String,
    decoder: Decoder,
    chunk: BytesMut,
    /// Bytes that the last target had room for.
    room: usize,
    out: Vec<u8>,
    /// Bytes of `out` that were written.
    written: usize,
}

impl Session {
    /// A session of the process `pid`; `purpose` is for display.
    pub(super) fn new(purpose: &str, pid: u32) -> Self {
        Self {
            purpose: purpose.to_owned(),
            pid,
            announced: capability::NONE,
            common: capability::NONE,
            phase: Phase::Down,
            version: String::new(),
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            room: 0,
            out: Vec::new(),
            written: 0,
        }
    }

    /// Whether the next connection announces that rings can be used, which requires that its link passes descriptors. To be called before
    /// [`Machine::connected`].
    pub fn announce_rings(&mut self, can_use: bool) {
        self.announced = if can_use { capability::RINGS } else { capability::NONE };
    }

    /// Whether both sides of the present connection can use rings.
    pub fn has_rings(&self) -> bool {
        self.common & capability::RINGS != 0
    }

    /// Sends Hello and proposes the sender number `number`.
    pub(super) fn connected(&mut self, number: u32) {
        self.disconnected();
        self.phase = Phase::Greeting;
        let mut hello = handshake::hello(&self.purpose, env!("CARGO_PKG_VERSION"), self.pid, number);
        hello.capabilities = self.announced;
        self.push(&Control::Hello(hello));
    }

    pub(super) fn disconnected(&mut self) {
        self.phase = Phase::Down;
        self.common = capability::NONE;
        self.decoder = Decoder::consumer(PAYLOAD_BYTES_MAX);
        self.chunk = BytesMut::new();
        self.discard_outgoing();
    }

    /// What is outgoing will not be written: the connection takes no more.
    pub(super) fn discard_outgoing(&mut self) {
        self.out.clear();
        self.written = 0;
    }

    /// Appends the rest of a frame to what is outgoing.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a control message to what is outgoing.
    pub(super) fn push(&mut self, control: &Control) {
        control.encode(&mut self.out).expect("names, versions and purposes are shorter than a control frame");
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        &self.out[self.written..]
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.out.len() {
            self.out.clear();
            self.out.shrink_to(IDLE_BYTES_MAX);
            self.written = 0;
        }
    }

    fn target(&mut self) -> Limit<&mut BytesMut> {
        let target = self.decoder.target(&mut self.chunk);
        self.room = target.limit();
        target
    }

    /// Bytes that the last target had room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Bytes of memory for what arrives.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.chunk.capacity() + self.decoder.held_bytes()
    }

    /// Nothing arrives for now: releases memory that only a busy connection needs. Returns whether the next read takes much memory.
    pub(super) fn idle(&mut self) -> bool {
        self.decoder.idle(&mut self.chunk)
    }

    /// The next item, or `None` until more was read. The daemon's last words are an error.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Ended> {
        match self.decoder.next(&mut self.chunk).map_err(Ended::Garbage)? {
            Some(Item::Control(Control::Goodbye(_))) => Err(Ended::Goodbye),
            Some(Item::Control(Control::Refused(refused))) => Err(self.refused(refused)),
            Some(Item::Control(Control::Welcome(Welcome { protocol, .. }))) if !OFFERED.contains(&protocol) => {
                Err(Ended::NotOffered(protocol))
            }
            Some(Item::Control(Control::Welcome(welcome))) => {
                self.version.clone_from(&welcome.version);
                self.common = self.announced & welcome.capabilities;
                Ok(Some(Item::Control(Control::Welcome(welcome))))
            }
            item => Ok(item),
        }
    }

    /// The version of the daemon.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The daemon declines a request without which this connection is of no use.
    pub(super) fn declined(&self, declined: Declined) -> Ended {
        self.refused(Refused { code: declined.code, reason: declined.reason, extensions: declined.extensions })
    }

    /// An item arrived when none of its kind was expected, or the daemon declines the only request.
    pub(super) fn declined_or_unexpected(&self, item: Item) -> Ended {
        match item {
            Item::Control(Control::Declined(declined)) => self.declined(declined),
            item => unexpected(&item),
        }
    }

    fn refused(&self, refused: Refused) -> Ended {
        match refused.code {
            RefusedCode::Stopping => Ended::Goodbye,
            RefusedCode::Stalled => Ended::Stalled(refused),
            RefusedCode::Unsupported => Ended::Unsupported { what: refused.reason, version: self.version.clone() },
            _ => Ended::Refused(refused),
        }
    }
}

/// An item arrived when none of its kind was expected.
pub(super) fn unexpected(item: &Item) -> Ended {
    Ended::Unexpected(match item {
        Item::Control(control) => control.kind(),
        Item::Discarded(header) => header.kind(),
        Item::Run(run) if run.is_retained() => KIND_RETAIN,
        Item::Run(_) => KIND_PUBLISH,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use broadcaster_protocol::control::{Named, Subscribed, Unsubscribed, kind};
    use bytes::BufMut;

    pub(in super::super) fn welcome() -> Control {
        welcome_as("9.9.9", PROTOCOL_MAX)
    }

    fn welcome_as(version: &str, protocol: u16) -> Control {
        Control::Welcome(Welcome {
            protocol,
            capabilities: 0,
            sender: 77,
            payload_bytes_max: 1 << 20,
            pid: 1,
            version: version.to_owned(),
            extensions: Vec::new(),
        })
    }

    pub(in super::super) fn subscribed(subscription: u32) -> Control {
        Control::Subscribed(Subscribed { subscription, extensions: Vec::new() })
    }

    pub(in super::super) fn unsubscribed(subscription: u32) -> Control {
        Control::Unsubscribed(Unsubscribed { subscription, extensions: Vec::new() })
    }

    pub(in super::super) fn declined(request: u8, number: u32, code: RefusedCode) -> Control {
        Control::Declined(Declined::new(request, number, code, "patterns"))
    }

    pub(in super::super) fn named(id: u32, name: &str) -> Control {
        Control::Named(Named { id, name: name.to_owned(), extensions: Vec::new() })
    }

    /// Bytes arrive; the machine has not looked at them.
    pub(in super::super) fn feed_bytes(machine: &mut impl Machine, bytes: &[u8]) {
        machine.target().put_slice(bytes);
    }

    /// Control messages arrive, in one read.
    pub(in super::super) fn feed(machine: &mut impl Machine, controls: &[Control]) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        controls.iter().for_each(|control| control.encode(&mut bytes).expect("encoded"));
        feed_bytes(machine, &bytes);
        machine.received()
    }

    /// A daemon accepts the connection and sends these messages.
    pub(in super::super) fn accept(machine: &mut impl Machine, controls: &[Control]) -> Result<(), Ended> {
        machine.connected();
        let hello = machine.outgoing().len();
        assert!(hello > 0);
        machine.sent(hello);
        feed(machine, controls)
    }

    struct Bare(Session);

    impl Machine for Bare {
        fn session(&self) -> &Session {
            &self.0
        }

        fn session_mut(&mut self) -> &mut Session {
            &mut self.0
        }

        fn connected(&mut self) {
            self.0.connected(3);
        }

        fn received(&mut self) -> Result<(), Ended> {
            while let Some(item) = self.0.next()? {
                if !matches!(item, Item::Control(Control::Welcome(_))) {
                    return Err(self.0.declined_or_unexpected(item));
                }
            }
            Ok(())
        }
    }

    #[test]
    fn last_words_have_their_meaning() {
        let bare = || Bare(Session::new("test", 7));
        let refused = |code| Control::Refused(Refused::new(code, "patterns"));
        assert_eq!(accept(&mut bare(), &[welcome(), refused(RefusedCode::Stopping)]), Err(Ended::Goodbye));
        let ended = accept(&mut bare(), &[welcome(), refused(RefusedCode::Stalled)]);
        assert_eq!(ended, Err(Ended::Stalled(Refused::new(RefusedCode::Stalled, "patterns"))));
        let ended = accept(&mut bare(), &[welcome(), refused(RefusedCode::Unsupported)]);
        assert_eq!(ended, Err(Ended::Unsupported { what: "patterns".into(), version: "9.9.9".into() }));
        let declined = Control::Declined(Declined::new(kind::OPEN, 0, RefusedCode::Channels, "patterns"));
        let ended = accept(&mut bare(), &[welcome(), declined]);
        assert_eq!(ended, Err(Ended::Refused(Refused::new(RefusedCode::Channels, "patterns"))));
        let ended = accept(&mut bare(), &[refused(RefusedCode::Memory)]);
        assert_eq!(ended, Err(Ended::Refused(Refused::new(RefusedCode::Memory, "patterns"))));
        let ended = accept(&mut bare(), &[welcome_as("", PROTOCOL_MAX + 1)]);
        assert_eq!(ended, Err(Ended::NotOffered(PROTOCOL_MAX + 1)));
        let mut garbage = bare();
        garbage.connected();
        feed_bytes(&mut garbage, &[0xff; 64]);
        assert!(matches!(garbage.received(), Err(Ended::Garbage(_))));
    }

    #[test]
    fn rings_are_used_if_both_sides_announce_them() {
        let capable = |capabilities| match welcome() {
            Control::Welcome(welcome) => Control::Welcome(Welcome { capabilities, ..welcome }),
            other => other,
        };
        for (announces, daemon) in [(false, 0), (false, 1), (true, 0), (true, 1), (true, u64::MAX), (true, !1)] {
            let mut bare = Bare(Session::new("test", 7));
            bare.0.announce_rings(announces);
            assert_eq!(accept(&mut bare, &[capable(daemon)]), Ok(()));
            assert_eq!(bare.0.has_rings(), announces && daemon & 1 == 1, "{announces}, {daemon}");
            bare.disconnected();
            assert!(!bare.0.has_rings(), "that was the daemon before");
            bare.connected();
            let mut hello = Decoder::consumer(PAYLOAD_BYTES_MAX);
            let mut chunk = BytesMut::from(bare.outgoing());
            hello.target(&mut BytesMut::new());
            let Ok(Some(Item::Control(Control::Hello(hello)))) = hello.next(&mut chunk) else { panic!("a Hello") };
            assert_eq!(hello.capabilities, u64::from(announces));
        }
    }

    #[test]
    fn a_new_connection_begins_with_hello_alone() {
        let mut bare = Bare(Session::new("test", 7));
        bare.connected();
        let hello = bare.outgoing().to_vec();
        bare.sent(5);
        assert_eq!(bare.outgoing(), &hello[5..]);
        bare.sent(hello.len() - 5);
        assert!(bare.outgoing().is_empty() && !bare.is_opening());
        bare.disconnected();
        assert!(bare.outgoing().is_empty());
        bare.connected();
        assert_eq!(bare.outgoing(), hello);
    }
}
