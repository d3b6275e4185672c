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
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    channel: ChannelName,
    sender: SenderId,
    sequence: u64,
    metadata: Bytes,
    payload: Bytes,
}

impl Message {
    #[cfg(feature = "testing")]
    pub(crate) fn new(channel: ChannelName, sender: SenderId, sequence: u64, metadata: Bytes, payload: Bytes) -> Self {
        Self { channel, sender, sequence, metadata, payload }
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
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("channel", &self.channel)
            .field("sender", &self.sender)
            .field("sequence", &self.sequence)
            .field("metadata", &self.metadata())
            .field("payload_bytes", &self.payload.len())
            .finish()
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

    /// The message, owned: see [`Message`] for when its payload is copied.
    pub fn to_message(&self) -> Message {
        let metadata = self.frame.metadata.as_bytes();
        Message {
            channel: self.channel.clone(),
            sender: self.sender(),
            sequence: self.sequence(),
            metadata: Bytes::copy_from_slice(metadata),
            payload: self.owner.own(self.frame.payload),
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
