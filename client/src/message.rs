//! What a listener gets. A message is plain memory: it keeps no connection open.

use broadcaster_protocol::{ChannelName, Frame, SenderId};
use bytes::Bytes;
use std::fmt;

/// One message, as the listener's own.
///
/// The payload is shared with the buffer that it was received in if it is at least half of that buffer, and copied otherwise,
/// so that keeping a message keeps at most twice its size.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    channel: ChannelName,
    sender: SenderId,
    sequence: u64,
    payload: Bytes,
}

impl Message {
    pub(crate) fn new(channel: &ChannelName, frame: Frame<'_>, payload: Bytes) -> Self {
        Self { channel: channel.clone(), sender: frame.sender, sequence: frame.sequence, payload }
    }

    /// What was sent; may be empty.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What was sent, without copying it.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The channel that it was sent on.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The sender: stays the same for as long as its handle lives, whatever happens to the daemon.
    pub fn sender(&self) -> SenderId {
        self.sender
    }

    /// The sender's process id, from the kernel's word to the daemon, not from the sender's; 0 where the kernel does not
    /// tell. Of a message that came by [notification](crate::Options::native_fallback) it is the sender's own word.
    pub fn sender_pid(&self) -> u32 {
        self.sender.pid()
    }

    /// The sender's running number for this message on this channel, from 0.
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
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// One message, borrowed from the listener until its next receive: nothing is allocated or copied.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    pub(crate) channel: &'a ChannelName,
    pub(crate) frame: Frame<'a>,
}

impl<'a> MessageRef<'a> {
    /// What was sent; may be empty.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload
    }

    /// The channel that it was sent on.
    pub fn channel(&self) -> &'a ChannelName {
        self.channel
    }

    /// See [`Message::sender`].
    #[inline]
    pub fn sender(&self) -> SenderId {
        self.frame.sender
    }

    /// See [`Message::sender_pid`].
    pub fn sender_pid(&self) -> u32 {
        self.sender().pid()
    }

    /// See [`Message::sequence`].
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.frame.sequence
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRef")
            .field("channel", &self.channel)
            .field("sender", &self.sender())
            .field("sequence", &self.sequence())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}
