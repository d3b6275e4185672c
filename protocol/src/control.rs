//! The control messages: small structs that set a connection up and report what happens on it. They never carry payload.

use crate::codec::{self, CodecError};
use crate::frame::Header;
use crate::limits::{
    CHANNEL_NAME_BYTES_MAX, CONTROL_BYTES_MAX, PURPOSE_BYTES_MAX, REASON_BYTES_MAX, RECEIPT_LAGGING_MAX,
    VERSION_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

/// Kind numbers of control frames. Numbers that are not listed are free for later additions, in these blocks: `0x30` backpressure and
/// receipts, `0x40` presence, `0x50` retained messages, `0x60` request and reply, `0x70` shared memory.
pub mod kind {
    /// First frame of a client.
    pub const HELLO: u8 = 0x10;
    /// The daemon's answer to a Hello that it accepts.
    pub const WELCOME: u8 = 0x11;
    /// The daemon's last frame on a connection that it does not serve, or no longer serves.
    pub const REFUSED: u8 = 0x12;
    /// The daemon's last frame on a connection that it ends because it stops.
    pub const GOODBYE: u8 = 0x13;
    /// Opens a publication.
    pub const OPEN: u8 = 0x20;
    /// The daemon's answer to Open.
    pub const OPENED: u8 = 0x21;
    /// Adds a subscription.
    pub const SUBSCRIBE: u8 = 0x22;
    /// The daemon's answer to Subscribe; every frame accepted after it is delivered.
    pub const SUBSCRIBED: u8 = 0x23;
    /// Frames were lost at this point of the stream.
    pub const LAGGED: u8 = 0x24;
    /// The name of a channel id.
    pub const NAMED: u8 = 0x25;
    /// Ends a subscription.
    pub const UNSUBSCRIBE: u8 = 0x26;
    /// The daemon's answer to Unsubscribe; nothing is delivered for the subscription after it.
    pub const UNSUBSCRIBED: u8 = 0x27;
    /// The daemon does not carry out a request; the connection continues.
    pub const DECLINED: u8 = 0x28;
    /// How much more a publication with backpressure may send.
    pub const CREDIT: u8 = 0x30;
    /// Requests a Receipt for the last message on a publication.
    pub const CONFIRM: u8 = 0x31;
    /// How many listeners took that message, and which of them lag.
    pub const RECEIPT: u8 = 0x32;
    /// Requests the number of listeners, once there are enough.
    pub const COUNT_LISTENERS: u8 = 0x40;
    /// The number of listeners.
    pub const LISTENERS: u8 = 0x41;
    /// Requests reports of the listeners that a channel has and gets.
    pub const WATCH: u8 = 0x42;
    /// The daemon's answer to Watch.
    pub const WATCHED: u8 = 0x43;
    /// A listener has joined or left.
    pub const PRESENCE: u8 = 0x44;
    /// Ends a watch.
    pub const UNWATCH: u8 = 0x45;
    /// The daemon's answer to Unwatch; no Presence follows for the watch.
    pub const UNWATCHED: u8 = 0x46;
    /// How many of the next messages on a channel are replayed.
    pub const RETAINED: u8 = 0x50;
    /// A message that the client retained is not the value of its channel any more.
    pub const SUPERSEDED: u8 = 0x51;
    /// Opens the inbox of the connection.
    pub const OPEN_INBOX: u8 = 0x60;
    /// The daemon's answer to OpenInbox.
    pub const INBOX_OPENED: u8 = 0x61;
    /// Offers a ring: shared memory for the messages of a publication.
    pub const OFFER_RING: u8 = 0x70;
    /// The daemon takes the ring.
    pub const RING_ACCEPTED: u8 = 0x71;
    /// The messages of the publication are in the ring from here on.
    pub const BEGIN_RING: u8 = 0x72;
    /// The messages of the publication are in its stream again.
    pub const END_RING: u8 = 0x73;
    /// Requests an EndRing.
    pub const RECALL: u8 = 0x74;
    /// Offers a listener to read a ring itself.
    pub const OFFER_LINK: u8 = 0x75;
    /// The listener has mapped the ring.
    pub const LINK_READY: u8 = 0x76;
    /// Gives a sender the doorbell of a listener that reads its ring.
    pub const ADD_LINK: u8 = 0x77;
    /// The sender wakes the listener from here on.
    pub const LINK_ADDED: u8 = 0x78;
    /// The messages of the ring are no longer in this stream: the listener reads them itself.
    pub const FOLLOW: u8 = 0x79;
    /// Where the listener ends reading the ring; what follows is in this stream.
    pub const UNFOLLOW: u8 = 0x7a;
    /// A link has ended, or cannot be used.
    pub const UNLINK: u8 = 0x7b;
    /// Announces frames with descriptors.
    pub const PREPARE: u8 = 0x7c;
    /// The answer to Prepare: frames with descriptors may follow.
    pub const PREPARED: u8 = 0x7d;
    /// Requests a Progress from a listener that a sender with backpressure may have to wait for.
    pub const AWAIT_PROGRESS: u8 = 0x7e;
    /// The listener has read the ring up to the place that was stated.
    pub const PROGRESS: u8 = 0x7f;
    /// Requests the daemon's counters.
    pub const INSPECT: u8 = 0x80;
    /// The daemon's counters.
    pub const REPORT: u8 = 0x81;
    /// Requests an orderly stop of the daemon.
    pub const STOP: u8 = 0x82;
}

/// Bits that announce what a peer can do beyond the base of its protocol version, in [`Hello`] and [`Welcome`].
pub mod capability {
    /// No capability.
    pub const NONE: u64 = 0;
    /// Rings in shared memory, whose descriptors are passed over the socket. Without it on both sides, no frame of the kinds from
    /// [`OFFER_RING`](super::kind::OFFER_RING) to [`UNLINK`](super::kind::UNLINK) is sent.
    pub const RINGS: u64 = 1;
}

/// Ids of extensions. An id has one meaning in all messages.
pub mod extension {
    /// In Open: backpressure. Its data is the longest time, in milliseconds, that a listener which is behind may delay the sender:
    /// a `u32`, little-endian.
    pub const BACKPRESSURE: u16 = 1;
    /// In Subscribe: replay. Its data is the most retained messages of each channel that are replayed: a `u32`, little-endian.
    pub const REPLAY: u16 = 2;
    /// In Receipt: the message was to be retained, and is not. Its data is the reason, in UTF-8.
    pub const NOT_RETAINED: u16 = 3;
    /// In Confirm: if a listener took the message, its receipt may wait for the next reply to this connection. It has no data.
    pub const WITH_REPLY: u16 = 4;
}

/// The four bytes that every Hello begins with.
pub const MAGIC: [u8; 4] = *b"SBUS";

/// What happens when a subscriber does not keep up. The subscriber chooses when it subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Overflow {
    /// 0: drop the oldest waiting frames, whole batches at a time.
    #[default]
    DropOldest,
    /// 1: drop new frames until there is room, whole batches at a time.
    DropNewest,
    /// 2: keep only the newest frame of each channel: one message, or one batch.
    Latest,
    /// 3: disconnect the subscriber, with [`RefusedCode::TooSlow`].
    Disconnect,
    /// Another number, from a newer client. The daemon refuses it as unsupported.
    Other(u16),
}

impl Overflow {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::DropOldest => 0,
            Self::DropNewest => 1,
            Self::Latest => 2,
            Self::Disconnect => 3,
            Self::Other(number) => number,
        }
    }

    /// The policy with this number on the wire.
    pub fn from_number(number: u16) -> Self {
        match number {
            0 => Self::DropOldest,
            1 => Self::DropNewest,
            2 => Self::Latest,
            3 => Self::Disconnect,
            number => Self::Other(number),
        }
    }
}

/// Which channels a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "WireSelector", into = "WireSelector")]
pub enum Selector {
    /// 0: the channel of this name.
    Name(String),
    /// 1: every channel, including those that appear later.
    All,
    /// 2: every channel whose name this pattern covers, including those that appear later: see
    /// [`ChannelPattern`](crate::ChannelPattern).
    Pattern(String),
    /// Another kind, from a newer client. The daemon declines it as unsupported.
    Other {
        /// The kind's number.
        kind: u16,
        /// Its text.
        text: String,
    },
}

/// A selector as it is encoded: open to later kinds.
#[derive(Serialize, Deserialize)]
struct WireSelector {
    kind: u16,
    text: String,
}

impl From<Selector> for WireSelector {
    fn from(selector: Selector) -> Self {
        match selector {
            Selector::Name(text) => Self { kind: 0, text },
            Selector::All => Self { kind: 1, text: String::new() },
            Selector::Pattern(text) => Self { kind: 2, text },
            Selector::Other { kind, text } => Self { kind, text },
        }
    }
}

impl From<WireSelector> for Selector {
    fn from(WireSelector { kind, text }: WireSelector) -> Self {
        match kind {
            0 => Self::Name(text),
            1 if text.is_empty() => Self::All,
            2 => Self::Pattern(text),
            kind => Self::Other { kind, text },
        }
    }
}

/// Room for additions within a protocol version. A receiver ignores extensions that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Which extension; `PROTOCOL.md` assigns the numbers.
    pub id: u16,
    /// Its content.
    #[serde(deserialize_with = "codec::list")]
    pub data: Vec<u8>,
}

impl Extension {
    /// [`extension::REPLAY`]: at most `messages_max` retained messages of each channel.
    pub fn replay(messages_max: u32) -> Self {
        Self { id: extension::REPLAY, data: messages_max.to_le_bytes().to_vec() }
    }

    /// [`extension::WITH_REPLY`].
    pub fn with_reply() -> Self {
        Self { id: extension::WITH_REPLY, data: Vec::new() }
    }

    /// [`extension::NOT_RETAINED`]. A `reason` longer than [`REASON_BYTES_MAX`] is truncated.
    pub fn not_retained(reason: impl Into<String>) -> Self {
        Self { id: extension::NOT_RETAINED, data: truncated(reason.into(), REASON_BYTES_MAX).into_bytes() }
    }
}

/// The extensions of a message: the last field of every control message.
pub type Extensions = Vec<Extension>;

/// The first frame of every client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Oldest protocol version that the client speaks.
    pub protocol_min: u16,
    /// Newest protocol version that the client speaks.
    pub protocol_max: u16,
    /// Bits of what the client can do beyond the version's base: see [`capability`].
    pub capabilities: u64,
    /// The process id that the client sees. For display only: the daemon asks the kernel.
    pub pid: u32,
    /// The number that the client proposes for its sender id. The daemon assigns another one if it is taken.
    pub sender_number: u32,
    /// What the connection is for, for display only.
    pub purpose: String,
    /// The client's version, for display and error messages.
    pub version: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The daemon accepts the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version of this connection: the newest that both sides speak.
    pub protocol: u16,
    /// Bits of what the daemon can do beyond the version's base: see [`capability`].
    pub capabilities: u64,
    /// The sender id of every frame that the client publishes on this connection.
    pub sender: u64,
    /// Largest payload that this daemon accepts, in bytes.
    pub payload_bytes_max: u32,
    /// The daemon's process id, for display.
    pub pid: u32,
    /// The daemon's version, for display and error messages.
    pub version: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Why a daemon ends a connection. Programs read the number, people the text beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusedCode {
    /// 1: the two sides have no protocol version in common.
    Version,
    /// 2: the client runs as another user.
    OtherUser,
    /// 3: too many connections, from this process or in total.
    Connections,
    /// 4: too many channels or subscriptions, on this connection or in total.
    Channels,
    /// 5: the client broke the protocol.
    Protocol,
    /// 6: the handshake took too long.
    Handshake,
    /// 7: the subscriber chose to be disconnected when it is too slow, and was.
    TooSlow,
    /// 8: the daemon's memory budget is used up and this connection holds the most of it.
    Memory,
    /// 9: the daemon is stopping.
    Stopping,
    /// 10: the daemon does not support what the client requested; the reason names it.
    Unsupported,
    /// 11: the client made no progress: it did not finish a frame, or did not read control frames. It may connect again.
    Stalled,
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
            Self::Unsupported => 10,
            Self::Stalled => 11,
            Self::Other(number) => number,
        }
    }

    /// The code with this number on the wire.
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
            10 => Self::Unsupported,
            11 => Self::Stalled,
            number => Self::Other(number),
        }
    }
}

/// Encodes an enum that is open to later values as its number.
macro_rules! as_number {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u16(self.number())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u16::deserialize(deserializer).map(Self::from_number)
            }
        }
    )*};
}

as_number!(Overflow, RefusedCode);

/// The daemon does not serve this connection and closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for programs.
    pub code: RefusedCode,
    /// Why, for people: one sentence with values and limits.
    pub reason: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

impl Refused {
    /// A refusal. A `reason` longer than [`REASON_BYTES_MAX`] is truncated.
    pub fn new(code: RefusedCode, reason: impl Into<String>) -> Self {
        Self { code, reason: truncated(reason.into(), REASON_BYTES_MAX), extensions: Vec::new() }
    }
}

/// The daemon stops and ends the connection; everything accepted before was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why, for people.
    pub reason: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Opens a publication: the connection will publish on this channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The channel's name.
    pub channel: String,
    /// Sequence number of the first message to be published; more than 0 when a sender resumes.
    pub next_sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The channel's name, as requested.
    pub channel: String,
    /// The channel's id in data frames.
    pub id: u32,
    /// Number of listeners that the channel has now.
    pub listeners: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Adds a subscription to the connection.
///
/// With [`extension::REPLAY`], what the daemon retains of the channels that it covers is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The client's number for the subscription, unique on its connection.
    pub subscription: u32,
    /// Which channels it covers.
    pub selector: Selector,
    /// What happens when the connection does not keep up.
    pub overflow: Overflow,
    /// Whether it only observes: it does not count as a listener, and its losses are not losses of the bus.
    pub observer: bool,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Subscribe`]: every frame that the daemon accepts after it on a covered channel is delivered, or counted in
/// a [`Lagged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The number of the subscription.
    pub subscription: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The channel of an id: sent before the first [`Lagged`] or data frame with that id, and with an empty name when the channel
/// ends and the id becomes invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The id in data frames.
    pub id: u32,
    /// The channel's name; empty when the channel has ended.
    pub name: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Messages were lost at this point of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagged {
    /// The id of their channel.
    pub id: u32,
    /// How many messages.
    pub count: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Ends a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// The number of the subscription.
    pub subscription: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Unsubscribe`]: nothing is delivered after it on channels that only this subscription covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {
    /// The number of the subscription, which may be used again.
    pub subscription: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to a request that the daemon does not carry out, because of a limit or because it does not support it. Nothing has
/// changed, and the connection continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// The kind of the request.
    pub request: u8,
    /// The number that the client gave the request; 0 for [`Open`], whose answers come in the order of the requests.
    pub number: u32,
    /// Why, for programs: [`RefusedCode::Connections`], [`RefusedCode::Channels`] or [`RefusedCode::Unsupported`].
    pub code: RefusedCode,
    /// Why, for people: one sentence with values and limits.
    pub reason: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

impl Declined {
    /// The answer to the request of the kind `request`. A `reason` longer than [`REASON_BYTES_MAX`] is truncated.
    pub fn new(request: u8, number: u32, code: RefusedCode, reason: impl Into<String>) -> Self {
        Self { request, number, code, reason: truncated(reason.into(), REASON_BYTES_MAX), extensions: Vec::new() }
    }
}

/// A publication that was opened with [`extension::BACKPRESSURE`] may send more.
///
/// Each frame uses up its bytes, header included, and [`CREDIT_MESSAGE_BYTES`](crate::limits::CREDIT_MESSAGE_BYTES) for each of its messages.
/// A frame may be written as long as any credit is left, even if it uses up more: what it owes is deducted from the next credit. A
/// publication begins without credit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The id of the channel.
    pub id: u32,
    /// How many bytes are added to what is left.
    pub bytes: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests a [`Receipt`] for the last message that this connection has published on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The client's number for the request, which the answer repeats.
    pub number: u32,
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Confirm`]. It has [`extension::NOT_RETAINED`] if the daemon was to retain the last message, and has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The number of the request.
    pub number: u32,
    /// The sequence number that is due next: every message before it was accepted.
    pub next_sequence: u64,
    /// Number of listeners that the channel had when the last message was accepted.
    pub listeners: u32,
    /// Number of those for which that message was queued, rather than lost at once.
    pub took: u32,
    /// Number of listeners that lag now: their sockets are full, and messages wait in the daemon.
    pub lagging: u32,
    /// The listeners that lag most, in descending order of the bytes that wait; at most
    /// [`RECEIPT_LAGGING_MAX`].
    #[serde(deserialize_with = "codec::list")]
    pub worst: Vec<Lagging>,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

impl Receipt {
    /// Why the daemon has not retained the last message, if it was to.
    pub fn not_retained(&self) -> Option<String> {
        let extension = self.extensions.iter().find(|extension| extension.id == extension::NOT_RETAINED)?;
        Some(String::from_utf8_lossy(&extension.data).into_owned())
    }
}

/// A listener that lags, in a [`Receipt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagging {
    /// The sender id of its connection, whose upper half is its process id.
    pub listener: u64,
    /// Messages that wait for it in the daemon, of all channels.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// Requests the number of listeners of a channel, as soon as there are at least `minimum`. A further request for the same channel
/// replaces one that is not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountListeners {
    /// The client's number for the request, which the answer repeats.
    pub number: u32,
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// The number to wait for; 0 for an answer at once.
    pub minimum: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`CountListeners`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// The number of the request.
    pub number: u32,
    /// Number of listeners that the channel has now.
    pub listeners: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests a [`Presence`] for each listener of a channel, and for each that joins or leaves later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The client's number for the watch, unique on its connection.
    pub watch: u32,
    /// The channel's name. A watch does not keep it.
    pub channel: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Watch`]. As many Presence frames follow at once as there are listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The number of the watch.
    pub watch: u32,
    /// Number of listeners that the channel has now.
    pub listeners: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// A listener is there, has joined, or has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The number of the watch.
    pub watch: u32,
    /// Whether the listener is there now; `false` if it has left.
    pub present: bool,
    /// The sender id of its connection, whose upper half is its process id.
    pub listener: u64,
    /// The purpose of its connection, for display; empty if it has left.
    pub purpose: String,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Ends a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatch {
    /// The number of the watch.
    pub watch: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Unwatch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatched {
    /// The number of the watch, which may be used again.
    pub watch: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The next `count` messages on the channel, received or counted in a [`Lagged`], are replayed: the daemon had retained them before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// The id of the channel; 0 in the answer to an observer of a channel that does not exist.
    pub id: u32,
    /// How many messages.
    pub count: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// A message that this client retained is not the value of its channel any more, for another reason than a later message of this client.
/// The client does not declare it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// The id of the channel.
    pub id: u32,
    /// The sequence number of the message.
    pub sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests an inbox: an id to which other connections can address Reply frames. A connection has one at most; a further request
/// gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OpenInbox {
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`OpenInbox`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxOpened {
    /// The id of the inbox, which no channel has. It ends with the connection.
    pub id: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Offers a ring for the messages of a publication, with the descriptor of its memory: a memfd that is sealed against writing by others and
/// against a change of its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferRing {
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// Size of the memory.
    pub bytes: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The daemon takes the ring that was offered. The descriptors of its own page and its doorbell come with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingAccepted {
    /// The id of the channel.
    pub id: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Every message of the publication from here on is in its ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRing {
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// Sequence number of the first message that is in the ring.
    pub sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Every message of the publication from here on is in the stream of its connection again. The ring is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRing {
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// Sequence number of the first message that is not in the ring.
    pub sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests an [`EndRing`] at the next opportunity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// The id of the channel.
    pub id: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Offers a listener to read a ring itself, with the descriptor of its memory. Until [`Follow`], its messages are in the listener's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferLink {
    /// The number of the link, which no other link of the daemon has.
    pub link: u32,
    /// The id of the channel.
    pub id: u32,
    /// The sender id of the messages.
    pub sender: u64,
    /// Size of the memory.
    pub bytes: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The listener has mapped the ring. The descriptors of its page and its doorbell come with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReady {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Gives a sender the page and the doorbell of a listener that is going to read its ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddLink {
    /// The id of the channel, which is open on this connection.
    pub id: u32,
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The sender rings the doorbell of the listener from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAdded {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Every message of the ring from here on is read by the listener itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Position in the ring where the next message begins.
    pub position: u64,
    /// Sequence number of that message.
    pub sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The listener reads the ring up to this message; what follows is in its stream again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfollow {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Sequence number of the first message that it does not read from the ring.
    pub sequence: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests a [`Progress`] as soon as the listener has read the ring up to this position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitProgress {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Position in the ring.
    pub position: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The listener has read the ring up to the position of the last [`AwaitProgress`]. Its page states how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// A link has ended, or the one who sends this cannot use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink {
    /// The number of the link, which the daemon chose.
    pub link: u32,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Announces that frames with descriptors follow, once the other side is [`Prepared`]. Reading descriptors takes longer than reading bytes, so that
/// it begins no sooner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prepare {
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The answer to [`Prepare`]: this side reads descriptors from now on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inspect {
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Requests an orderly stop of the daemon. The answer is a [`Goodbye`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stop {
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// The daemon's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Milliseconds since the daemon began to accept connections.
    pub uptime_ms: u64,
    /// Open connections, including the one that asks.
    pub connections: u64,
    /// Connections with at least one publication.
    pub senders: u64,
    /// Connections with at least one subscription that is not an observer.
    pub listeners: u64,
    /// Channels that have a publication or a listener.
    pub channels: u64,
    /// Messages accepted from senders.
    pub messages_accepted: u64,
    /// Bytes of the frames that carried them.
    pub bytes_accepted: u64,
    /// Messages written to listeners, counted once per listener.
    pub messages_delivered: u64,
    /// Messages lost by slow listeners, counted once per listener.
    pub messages_lost: u64,
    /// Bytes of memory held for frames in transit.
    pub held_bytes: u64,
    /// Upper limit of `held_bytes`.
    pub held_bytes_max: u64,
    /// Additions.
    #[serde(deserialize_with = "codec::list")]
    pub extensions: Extensions,
}

/// Declares [`Control`] and what each variant has: a message type and a kind number.
macro_rules! control {
    ($($message:ident = $kind:ident,)*) => {
        /// A control message of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Control {
            $(#[doc = concat!("See [`", stringify!($message), "`](struct@", stringify!($message), ").")] $message($message),)*
        }

        $(impl From<$message> for Control {
            fn from(message: $message) -> Self {
                Self::$message(message)
            }
        })*

        impl Control {
            /// The kind number in the frame's header.
            pub fn kind(&self) -> u8 {
                match self {
                    $(Self::$message(_) => kind::$kind,)*
                }
            }

            fn body(&self) -> Result<Vec<u8>, CodecError> {
                match self {
                    $(Self::$message(message) => codec::encode(message),)*
                }
            }

            /// Whether `kind` is the number of a control message.
            pub(crate) fn is_known(kind: u8) -> bool {
                matches!(kind, $(kind::$kind)|*)
            }

            /// The message of the kind number `kind` that `body` encodes; `None` for a kind that is not known.
            pub(crate) fn decode(kind: u8, body: &[u8]) -> Option<Result<Self, CodecError>> {
                Some(match kind {
                    $(kind::$kind => codec::decode(body).map(Self::$message),)*
                    _ => return None,
                })
            }
        }
    };
}

control! {
    Hello = HELLO,
    Welcome = WELCOME,
    Refused = REFUSED,
    Goodbye = GOODBYE,
    Open = OPEN,
    Opened = OPENED,
    Subscribe = SUBSCRIBE,
    Subscribed = SUBSCRIBED,
    Lagged = LAGGED,
    Named = NAMED,
    Unsubscribe = UNSUBSCRIBE,
    Unsubscribed = UNSUBSCRIBED,
    Declined = DECLINED,
    Credit = CREDIT,
    Confirm = CONFIRM,
    Receipt = RECEIPT,
    CountListeners = COUNT_LISTENERS,
    Listeners = LISTENERS,
    Watch = WATCH,
    Watched = WATCHED,
    Presence = PRESENCE,
    Unwatch = UNWATCH,
    Unwatched = UNWATCHED,
    Retained = RETAINED,
    Superseded = SUPERSEDED,
    OpenInbox = OPEN_INBOX,
    InboxOpened = INBOX_OPENED,
    OfferRing = OFFER_RING,
    RingAccepted = RING_ACCEPTED,
    BeginRing = BEGIN_RING,
    EndRing = END_RING,
    Recall = RECALL,
    OfferLink = OFFER_LINK,
    LinkReady = LINK_READY,
    AddLink = ADD_LINK,
    LinkAdded = LINK_ADDED,
    Follow = FOLLOW,
    Unfollow = UNFOLLOW,
    Unlink = UNLINK,
    Prepare = PREPARE,
    Prepared = PREPARED,
    AwaitProgress = AWAIT_PROGRESS,
    Progress = PROGRESS,
    Inspect = INSPECT,
    Report = REPORT,
    Stop = STOP,
}

impl Control {
    /// How many descriptors come with the message.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::OfferRing(_) | Self::OfferLink(_) => 1,
            Self::RingAccepted(_) | Self::LinkReady(_) | Self::AddLink(_) => 2,
            _ => 0,
        }
    }

    /// Appends the message to `out` as a whole frame.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if a text or a list makes the body larger than [`CONTROL_BYTES_MAX`]; `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let body = self.body()?;
        let len = u32::try_from(body.len()).ok().filter(|&len| len <= CONTROL_BYTES_MAX);
        let len = len.ok_or(CodecError::TooLarge { len: body.len() })?;
        out.extend_from_slice(Header::control(self.kind(), 0, len).as_bytes());
        out.extend_from_slice(&body);
        Ok(())
    }
}

/// `version`, truncated to what Hello and Welcome may carry.
pub fn version_text(version: &str) -> String {
    truncated(version.to_owned(), VERSION_BYTES_MAX)
}

/// `purpose`, truncated to what Hello may carry.
pub fn purpose_text(purpose: &str) -> String {
    truncated(purpose.to_owned(), PURPOSE_BYTES_MAX)
}

/// Bytes of a [`Lagging`] in a Receipt, at most: three numbers.
const LAGGING_BYTES_MAX: usize = 3 * 9;

/// The longest prefix of `text` of at most `max` bytes that ends at a character boundary.
fn truncated(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

const _: () = assert!(CHANNEL_NAME_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);
const _: () = assert!(REASON_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);
const _: () = assert!(RECEIPT_LAGGING_MAX * LAGGING_BYTES_MAX + REASON_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);
const _: () = assert!(VERSION_BYTES_MAX + PURPOSE_BYTES_MAX + 64 < CONTROL_BYTES_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(purpose_text("a purpose"), "a purpose");
        let long = "ä".repeat(REASON_BYTES_MAX);
        for (text, max) in [(purpose_text(&long), PURPOSE_BYTES_MAX), (version_text(&long), VERSION_BYTES_MAX)] {
            assert!(long.starts_with(&text) && (max - 1..=max).contains(&text.len()), "{} of {max} bytes", text.len());
        }
        let odd = format!("x{long}");
        assert_eq!(
            Refused::new(RefusedCode::Protocol, odd.clone()).reason.len() % 2,
            1,
            "a whole number of characters"
        );
        assert_eq!(
            Refused::new(RefusedCode::Protocol, &odd[..REASON_BYTES_MAX - 1]).reason.len(),
            REASON_BYTES_MAX - 1
        );
    }
}
