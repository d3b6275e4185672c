//! The part that all roles share: the Hello, what is to be said, and the bytes that were heard.

use broadcaster_protocol::control::{Control, Refused, RefusedCode, Role};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_MAX, PROTOCOL_MIN};
use broadcaster_protocol::{DecodeError, Decoder, Item, handshake};
use bytes::BytesMut;
use bytes::buf::Limit;

/// The protocol versions that we speak.
const OFFERED: std::ops::RangeInclusive<u16> = PROTOCOL_MIN..=PROTOCOL_MAX;

/// Why the daemon does not serve this connection any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The daemon will not serve it; asking again at once gives the same answer.
    Refused(Refused),
    /// The daemon is stopping; another one will serve.
    Goodbye,
    /// What it sent is not the protocol.
    Garbage(DecodeError),
    /// What it sent is a frame of this kind, which was not due.
    OutOfPlace(u8),
    /// It chose this protocol version, which was not offered.
    NotOffered(u16),
    /// It is too old for what it was asked for.
    Lacks {
        /// What was asked for.
        what: &'static str,
        /// Its version.
        version: String,
    },
}

/// What a listener or a monitor found next in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A frame.
    Frame,
    /// At this place frames are missing: this many, or an unknown number because the daemon that counted is gone.
    Lagged(Option<u64>),
    /// Nothing, until more bytes were read.
    Nothing,
}

/// What the shell around a core needs of it, whatever its role.
pub trait Core {
    /// A connection was made: the handshake begins.
    fn connected(&mut self);
    /// The connection is gone.
    fn disconnected(&mut self);
    /// The bytes to write, in order.
    fn outgoing(&self) -> &[u8];
    /// The connection took the first `bytes` bytes of what is outgoing.
    fn sent(&mut self, bytes: usize);
    /// Where the next bytes of the connection must be read to.
    fn target(&mut self) -> Limit<&mut BytesMut>;
    /// Bytes were read to the target: the handshake moves on.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be closed, and [`disconnected`](Self::disconnected) called.
    fn received(&mut self) -> Result<(), Ended>;
    /// Whether the handshake is complete.
    fn is_ready(&self) -> bool;
}

/// Where a connection is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Down,
    /// Hello was said.
    Greeting,
    /// The channel was asked for.
    Joining,
    /// Frames may pass.
    Ready,
}

/// The buffers of one connection after the other.
#[derive(Debug)]
pub(super) struct Session {
    role: Role,
    pid: u32,
    pub(super) phase: Phase,
    decoder: Decoder,
    chunk: BytesMut,
    out: Vec<u8>,
    /// Bytes of `out` that were written.
    written: usize,
}

impl Session {
    pub(super) fn new(role: Role, pid: u32) -> Self {
        Self {
            role,
            pid,
            phase: Phase::Down,
            decoder: Decoder::consumer(PAYLOAD_BYTES_MAX),
            chunk: BytesMut::new(),
            out: Vec::new(),
            written: 0,
        }
    }

    /// Says Hello, as the sender `number` of this process.
    pub(super) fn connected(&mut self, number: u32) {
        self.disconnected();
        self.phase = Phase::Greeting;
        self.say(&Control::Hello(handshake::hello(self.role, env!("CARGO_PKG_VERSION"), self.pid, number)));
    }

    pub(super) fn disconnected(&mut self) {
        self.phase = Phase::Down;
        self.decoder = Decoder::consumer(PAYLOAD_BYTES_MAX);
        self.chunk.clear();
        self.out.clear();
        self.written = 0;
    }

    pub(super) fn say(&mut self, control: &Control) {
        control.encode(&mut self.out).expect("names and versions are shorter than a control frame");
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        &self.out[self.written..]
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }

    pub(super) fn target(&mut self) -> Limit<&mut BytesMut> {
        self.decoder.target(&mut self.chunk)
    }

    /// The next item, or `None` until more was read; the daemon's last words are an error.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Ended> {
        match self.decoder.next(&mut self.chunk).map_err(Ended::Garbage)? {
            Some(Item::Control(Control::Goodbye(_))) => Err(Ended::Goodbye),
            Some(Item::Control(Control::Refused(refused))) => Err(match refused.code {
                RefusedCode::Stopping => Ended::Goodbye,
                _ => Ended::Refused(refused),
            }),
            Some(Item::Control(Control::Welcome(welcome))) if !OFFERED.contains(&welcome.protocol) => {
                Err(Ended::NotOffered(welcome.protocol))
            }
            item => Ok(item),
        }
    }
}

/// An item that was not due.
pub(super) fn out_of_place(item: &Item) -> Ended {
    Ended::OutOfPlace(match item {
        Item::Control(control) => control.kind(),
        Item::Run(_) => KIND_PUBLISH,
    })
}
