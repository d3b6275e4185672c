//! What a listener receives. A message is plain memory, and never keeps a connection open.

use crate::metadata::MetadataRef;
use crate::{ChannelName, SenderId};
use broadcaster_protocol::{Frame, meta};
use bytes::Bytes;
use std::fmt;

/// One message, owned.
///
/// The payload shares the buffer that it was received in if it is at least half of that buffer, and is copied otherwise: keeping a
/// message keeps at most twice its size. Cloning is cheap: it shares the payload.
#[derive(Clone)]
pub struct Message {
    channel: ChannelName,
    sender: SenderId,
    sequence: u64,
    metadata: Bytes,
    payload: Bytes,
    /// The number of its listener's connection.
    origin: u64,
    retained: Retained,
}

/// Whether a message is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retained {
    No,
    /// Its sender has requested that.
    Yes,
    /// The same, and it was accepted before the listener had joined.
    Replayed,
}

impl Retained {
    fn of(subscriber: &crate::machine::Subscriber) -> Self {
        match (subscriber.is_retained(), subscriber.is_replayed()) {
            (false, _) => Self::No,
            (true, false) => Self::Yes,
            (true, true) => Self::Replayed,
        }
    }
}

/// Two messages are equal if they have the same channel, sender, sequence number, metadata and payload.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        let key = |message: &Self| (message.sender, message.sequence);
        key(self) == key(other)
            && self.channel == other.channel
            && self.metadata == other.metadata
            && self.payload == other.payload
    }
}

impl Eq for Message {}

impl Message {
    #[cfg(feature = "testing")]
    pub(crate) fn new(
        (channel, sender, sequence): (ChannelName, SenderId, u64),
        metadata: Bytes,
        payload: Bytes,
        retained: Retained,
    ) -> Self {
        Self { channel, sender, sequence, metadata, payload, origin: 0, retained }
    }

    /// The payload; may be empty.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, without copying it.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// What the sender attached to the payload.
    pub fn metadata(&self) -> MetadataRef<'_> {
        MetadataRef::new(meta::MetadataRef::new(&self.metadata))
    }

    /// The channel that it was sent on.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The sender: the same for as long as its handle lives, across restarts of the daemon.
    pub fn sender(&self) -> SenderId {
        self.sender
    }

    /// The sender's process id, as the kernel reports it to the daemon; `None` where it does not. For a message that arrived as a
    /// [notification](crate::Fallback::Notifications) it is the sender's claim.
    pub fn sender_pid(&self) -> Option<u32> {
        self.sender.pid()
    }

    /// How many messages the sender has sent on the channel before this one.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the daemon has retained the message, and replays it to this listener, which has joined after it was accepted.
    pub fn is_replayed(&self) -> bool {
        self.retained == Retained::Replayed
    }

    /// Whether the message clears what the daemon retained of the channel: see [`Sender::clear_retained`](crate::Sender::clear_retained). Its
    /// payload is empty.
    pub fn is_cleared(&self) -> bool {
        self.retained != Retained::No && self.payload.is_empty()
    }

    /// Where a reply goes, if the sender [requests](crate::Sender::request) replies: for [`Listener::reply`](crate::Listener::reply).
    pub fn reply_to(&self) -> Option<ReplyTo> {
        ReplyTo::new(self.origin, meta::MetadataRef::new(&self.metadata))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("channel", &self.channel)
            .field("sender", &self.sender)
            .field("sequence", &self.sequence)
            .field("metadata", &self.metadata())
            .field("payload_bytes", &self.payload.len())
            .field("retained", &self.retained)
            .finish()
    }
}

/// Where the replies to one message go. It is a small value that outlives the message: a program can reply later, and in any order.
///
/// It is valid for the listener that received the message, and only for as long as the connection lasts on which the message came: a
/// requester does not outlive its daemon either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The number of the listener's connection.
    origin: u64,
    address: meta::ReplyAddress,
}

impl ReplyTo {
    fn new(origin: u64, metadata: meta::MetadataRef<'_>) -> Option<Self> {
        Some(Self { origin, address: metadata.reply_address()? })
    }

    pub(crate) fn parts(self) -> (u64, meta::ReplyAddress) {
        (self.origin, self.address)
    }
}

impl From<&Message> for Option<ReplyTo> {
    fn from(message: &Message) -> Self {
        message.reply_to()
    }
}

/// One message, borrowed from its handle until the next receive: nothing is allocated or copied.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    channel: &'a ChannelName,
    frame: Frame<'a>,
    owner: &'a crate::machine::Subscriber,
}

impl<'a> MessageRef<'a> {
    #[inline]
    pub(crate) fn new(subscriber: &'a crate::machine::Subscriber) -> Option<Self> {
        Some(Self { channel: subscriber.channel()?, frame: subscriber.frame()?, owner: subscriber })
    }

    /// The payload; may be empty.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload
    }

    /// What the sender attached to the payload.
    pub fn metadata(&self) -> MetadataRef<'a> {
        MetadataRef::new(self.frame.metadata)
    }

    /// The channel that it was sent on.
    pub fn channel(&self) -> &'a ChannelName {
        self.channel
    }

    /// See [`Message::sender`].
    #[inline]
    pub fn sender(&self) -> SenderId {
        self.frame.sender.into()
    }

    /// See [`Message::sender_pid`].
    pub fn sender_pid(&self) -> Option<u32> {
        self.sender().pid()
    }

    /// See [`Message::sequence`].
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.frame.sequence
    }

    /// See [`Message::is_replayed`].
    pub fn is_replayed(&self) -> bool {
        self.owner.is_replayed()
    }

    /// See [`Message::is_cleared`].
    pub fn is_cleared(&self) -> bool {
        self.owner.is_retained() && self.frame.payload.is_empty()
    }

    /// See [`Message::reply_to`].
    pub fn reply_to(&self) -> Option<ReplyTo> {
        ReplyTo::new(self.owner.origin(), self.frame.metadata)
    }

    /// The message, owned: see [`Message`] for when its payload is copied.
    pub fn to_message(&self) -> Message {
        let metadata = self.frame.metadata.as_bytes();
        Message {
            channel: self.channel.clone(),
            sender: self.sender(),
            sequence: self.sequence(),
            metadata: Bytes::copy_from_slice(metadata),
            payload: self.owner.own(self.frame.payload),
            origin: self.owner.origin(),
            retained: Retained::of(self.owner),
        }
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRef")
            .field("channel", &self.channel)
            .field("sender", &self.sender())
            .field("sequence", &self.sequence())
            .field("metadata", &self.metadata())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}
