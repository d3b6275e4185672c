//! The control messages: small structs that set a connection up and tell what happened. They never carry payload.

use crate::codec::{self, CodecError};
use crate::frame::{FLAG_OPTIONAL, Header};
use crate::limits::{CHANNEL_NAME_BYTES_MAX, CONTROL_BYTES_MAX, REASON_BYTES_MAX, VERSION_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Kind numbers of control frames. Numbers that are not listed are free for later minor additions, in these blocks:
/// `0x30` patterns, `0x40` presence, `0x50` retained values, `0x60` request and reply, `0x70` file descriptors.
pub mod kind {
    /// First frame of a client.
    pub const HELLO: u8 = 0x10;
    /// The daemon's answer to a Hello that it accepts.
    pub const WELCOME: u8 = 0x11;
    /// The daemon's last frame on a connection that it will not serve.
    pub const REFUSED: u8 = 0x12;
    /// The daemon's last frame on a connection that it ends in good order.
    pub const GOODBYE: u8 = 0x13;
    /// A sender names its channel.
    pub const OPEN: u8 = 0x20;
    /// The daemon's answer to Open.
    pub const OPENED: u8 = 0x21;
    /// A listener joins a channel.
    pub const SUBSCRIBE: u8 = 0x22;
    /// The daemon's answer to Subscribe; every frame accepted after it is delivered.
    pub const SUBSCRIBED: u8 = 0x23;
    /// Frames are missing at this place of the stream.
    pub const LAGGED: u8 = 0x24;
    /// Asks for the daemon's numbers.
    pub const INSPECT: u8 = 0x80;
    /// The daemon's numbers.
    pub const REPORT: u8 = 0x81;
    /// Asks the daemon to stop in good order.
    pub const STOP: u8 = 0x82;
    /// Asks for the messages of other connections as they pass.
    pub const MONITOR: u8 = 0x83;
    /// The daemon's answer to Monitor; every message accepted after it is shown.
    pub const MONITORING: u8 = 0x84;
    /// The name of a channel id, for a monitor.
    pub const NAMED: u8 = 0x85;
}

/// Bits of what a daemon can do beyond its protocol version's base, in [`Welcome`].
pub mod capability {
    /// It answers [`Monitor`](super::Monitor).
    pub const MONITOR: u64 = 1;
}

/// The four bytes that every Hello begins with.
pub const MAGIC: [u8; 4] = *b"SBUS";

/// What a connection is for. A sender may only publish, a listener may only subscribe, an inspector may do neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Publishes frames.
    Sender,
    /// Receives frames.
    Listener,
    /// Looks at the daemon, or stops it.
    Inspector,
}

/// What happens to a listener that does not keep up, chosen by the listener when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Overflow {
    /// The oldest frames that wait for it are dropped, batches whole.
    #[default]
    DropOldest,
    /// New frames are dropped until there is room, batches whole.
    DropNewest,
    /// Only the newest frame of the channel waits for it: one message, or one batch.
    Latest,
    /// The listener is disconnected, with [`RefusedCode::TooSlow`].
    Disconnect,
}

/// Room for additions inside a protocol version: an extension that the receiver does not know is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Which extension; numbers are given out in `PROTOCOL.md`.
    pub id: u16,
    /// What it says.
    #[serde(deserialize_with = "codec::list")]
    pub data: Vec<u8>,
}

/// The first frame of every client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Oldest protocol version that the client speaks.
    pub protocol_min: u16,
    /// Newest protocol version that the client speaks.
    pub protocol_max: u16,
    /// What the connection is for.
    pub role: Role,
    /// Bits of what the client can do beyond the version's base; none are defined yet.
    pub capabilities: u64,
    /// The client's idea of its process id. For display only: the daemon asks the kernel.
    pub pid: u32,
    /// The number that the client wants in its sender id. The daemon gives another one if it is taken.
    pub sender_number: u32,
    /// The client's version, for display and error texts.
    pub version: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Vec<Extension>,
}

/// The daemon takes the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version that both will speak: the newest that both know.
    pub protocol: u16,
    /// Bits of what the daemon can do beyond the version's base: see [`capability`].
    pub capabilities: u64,
    /// The sender id that the client stamps on its frames.
    pub sender: u64,
    /// Largest payload that this daemon accepts, in bytes.
    pub payload_bytes_max: u32,
    /// The daemon's process id, for display.
    pub pid: u32,
    /// The daemon's version, for display and error texts.
    pub version: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Vec<Extension>,
}

/// Why a daemon ends a connection. The number is on the wire; the text beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusedCode {
    /// 1: no protocol version that both speak.
    Version,
    /// 2: the client runs as another user.
    OtherUser,
    /// 3: too many connections, from this process or in all.
    Connections,
    /// 4: too many channels, on this connection or in all.
    Channels,
    /// 5: the client broke the protocol.
    Protocol,
    /// 6: the handshake took too long.
    Handshake,
    /// 7: the listener chose to be disconnected when it is too slow, and was.
    TooSlow,
    /// 8: the daemon's memory budget is used up and this connection holds the most of it.
    Memory,
    /// 9: the daemon is stopping.
    Stopping,
    /// Another number, from a newer daemon.
    Other(u16),
}

impl RefusedCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::OtherUser => 2,
            Self::Connections => 3,
            Self::Channels => 4,
            Self::Protocol => 5,
            Self::Handshake => 6,
            Self::TooSlow => 7,
            Self::Memory => 8,
            Self::Stopping => 9,
            Self::Other(number) => number,
        }
    }

    /// What the number on the wire stands for.
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Version,
            2 => Self::OtherUser,
            3 => Self::Connections,
            4 => Self::Channels,
            5 => Self::Protocol,
            6 => Self::Handshake,
            7 => Self::TooSlow,
            8 => Self::Memory,
            9 => Self::Stopping,
            number => Self::Other(number),
        }
    }
}

impl Serialize for RefusedCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.number())
    }
}

impl<'de> Deserialize<'de> for RefusedCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u16::deserialize(deserializer).map(Self::from_number)
    }
}

/// The daemon will not serve this connection and closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for programs.
    pub code: RefusedCode,
    /// Why, for people: one sentence with values and limits.
    pub reason: String,
}

impl Refused {
    /// A refusal; a `reason` over [`REASON_BYTES_MAX`] is cut.
    pub fn new(code: RefusedCode, reason: impl Into<String>) -> Self {
        Self { code, reason: cut(reason.into(), REASON_BYTES_MAX) }
    }
}

/// The daemon ends the connection in good order; everything before it was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why, for people.
    pub reason: String,
}

/// A sender names the channel that it will publish on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The channel's name.
    pub channel: String,
    /// Sequence number of the first frame that the sender will publish there; more than 0 when it resumes.
    pub next_sequence: u64,
}

/// The answer to [`Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The channel's id in publish frames.
    pub channel: u32,
    /// How many listeners the channel has now.
    pub listeners: u32,
}

/// A listener joins a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The channel's name.
    pub channel: String,
    /// What happens when the listener does not keep up.
    pub overflow: Overflow,
}

/// The answer to [`Subscribe`]: every frame that the daemon accepts after it goes to the listener or is counted in a
/// [`Lagged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The channel's name, as asked for.
    pub channel: String,
    /// The channel's id in publish frames.
    pub id: u32,
}

/// At this place of the stream messages are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagged {
    /// The channel that they were on.
    pub channel: u32,
    /// How many messages.
    pub count: u64,
}

/// What a daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Milliseconds since the daemon began to accept.
    pub uptime_ms: u64,
    /// Connections that are open, the asking one among them.
    pub connections: u64,
    /// Connections in the role of sender.
    pub senders: u64,
    /// Connections in the role of listener.
    pub listeners: u64,
    /// Channels that somebody has open.
    pub channels: u64,
    /// Messages accepted from senders.
    pub messages_accepted: u64,
    /// Bytes of the frames that they came in.
    pub bytes_accepted: u64,
    /// Messages written to listeners, each counted once per listener.
    pub messages_delivered: u64,
    /// Messages dropped for slow listeners, each counted once per listener.
    pub messages_lost: u64,
    /// Bytes of memory that frames in transit hold now.
    pub held_bytes: u64,
    /// The most that `held_bytes` may become.
    pub held_bytes_max: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Vec<Extension>,
}

/// An inspector wants to see messages as they pass, without being counted as a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// The names of the channels; none for all.
    #[serde(deserialize_with = "codec::list")]
    pub channels: Vec<String>,
}

/// What a channel id stands for, told to a monitor before the first frame with that id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The id.
    pub channel: u32,
    /// The channel's name; empty when the channel has ended and the id stands for nothing any more.
    pub name: String,
}

/// A control message of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`Goodbye`].
    Goodbye(Goodbye),
    /// See [`Open`].
    Open(Open),
    /// See [`Opened`].
    Opened(Opened),
    /// See [`Subscribe`].
    Subscribe(Subscribe),
    /// See [`Subscribed`].
    Subscribed(Subscribed),
    /// See [`Lagged`].
    Lagged(Lagged),
    /// Asks for a [`Report`]; has no body.
    Inspect,
    /// See [`Report`].
    Report(Report),
    /// Asks the daemon to stop in good order; has no body. The answer is a [`Goodbye`].
    Stop,
    /// See [`Monitor`].
    Monitor(Monitor),
    /// The answer to [`Monitor`]; has no body.
    Monitoring,
    /// See [`Named`].
    Named(Named),
}

impl Control {
    /// The kind number in the frame's header.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome(_) => kind::WELCOME,
            Self::Refused(_) => kind::REFUSED,
            Self::Goodbye(_) => kind::GOODBYE,
            Self::Open(_) => kind::OPEN,
            Self::Opened(_) => kind::OPENED,
            Self::Subscribe(_) => kind::SUBSCRIBE,
            Self::Subscribed(_) => kind::SUBSCRIBED,
            Self::Lagged(_) => kind::LAGGED,
            Self::Inspect => kind::INSPECT,
            Self::Report(_) => kind::REPORT,
            Self::Stop => kind::STOP,
            Self::Monitor(_) => kind::MONITOR,
            Self::Monitoring => kind::MONITORING,
            Self::Named(_) => kind::NAMED,
        }
    }

    /// Appends the message to `out` as a whole frame.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if a text or a list in it makes the body larger than [`CONTROL_BYTES_MAX`]; `out` is then as it
    /// was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut body = Vec::new();
        match self {
            Self::Hello(message) => codec::encode(message, &mut body)?,
            Self::Welcome(message) => codec::encode(message, &mut body)?,
            Self::Refused(message) => codec::encode(message, &mut body)?,
            Self::Goodbye(message) => codec::encode(message, &mut body)?,
            Self::Open(message) => codec::encode(message, &mut body)?,
            Self::Opened(message) => codec::encode(message, &mut body)?,
            Self::Subscribe(message) => codec::encode(message, &mut body)?,
            Self::Subscribed(message) => codec::encode(message, &mut body)?,
            Self::Lagged(message) => codec::encode(message, &mut body)?,
            Self::Inspect | Self::Stop | Self::Monitoring => {}
            Self::Report(message) => codec::encode(message, &mut body)?,
            Self::Monitor(message) => codec::encode(message, &mut body)?,
            Self::Named(message) => codec::encode(message, &mut body)?,
        }
        let too_large = || CodecError::Invalid {
            reason: format!("the body has {} bytes; the limit is {CONTROL_BYTES_MAX}", body.len()),
        };
        let len = u32::try_from(body.len()).ok().filter(|&len| len <= CONTROL_BYTES_MAX).ok_or_else(too_large)?;
        out.extend_from_slice(Header::control(self.kind(), 0, len).as_bytes());
        out.extend_from_slice(&body);
        Ok(())
    }

    /// The message that `body` is, for a frame with `kind`; `None` for a kind that is not known.
    pub(crate) fn decode(kind: u8, body: &[u8]) -> Option<Result<Self, CodecError>> {
        Some(match kind {
            kind::HELLO => codec::decode(body).map(Self::Hello),
            kind::WELCOME => codec::decode(body).map(Self::Welcome),
            kind::REFUSED => codec::decode(body).map(Self::Refused),
            kind::GOODBYE => codec::decode(body).map(Self::Goodbye),
            kind::OPEN => codec::decode(body).map(Self::Open),
            kind::OPENED => codec::decode(body).map(Self::Opened),
            kind::SUBSCRIBE => codec::decode(body).map(Self::Subscribe),
            kind::SUBSCRIBED => codec::decode(body).map(Self::Subscribed),
            kind::LAGGED => codec::decode(body).map(Self::Lagged),
            kind::INSPECT => codec::decode(body).map(|()| Self::Inspect),
            kind::REPORT => codec::decode(body).map(Self::Report),
            kind::STOP => codec::decode(body).map(|()| Self::Stop),
            kind::MONITOR => codec::decode(body).map(Self::Monitor),
            kind::MONITORING => codec::decode(body).map(|()| Self::Monitoring),
            kind::NAMED => codec::decode(body).map(Self::Named),
            _ => return None,
        })
    }

    /// Whether a frame with `flags` may be skipped by a receiver that does not know its kind.
    pub(crate) fn is_optional(flags: u8) -> bool {
        flags & FLAG_OPTIONAL != 0
    }
}

/// `version`, cut to what Hello and Welcome may carry.
pub fn version_text(version: &str) -> String {
    cut(version.to_owned(), VERSION_BYTES_MAX)
}

fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

const _: () = assert!(CHANNEL_NAME_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);
const _: () = assert!(REASON_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);
