//! The fixed header of a frame, and runs of frames. Both are laid out by hand: no serializer ever touches a payload.

use crate::limits::{HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::meta::MetadataRef;
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;

/// The kind of a frame that carries one message; kinds from 0x10 on are control messages ([`crate::control`]).
pub const KIND_PUBLISH: u8 = 0x01;

/// The kind of a frame that carries several small messages of one sender on one channel, with consecutive sequence numbers: for
/// each message its length as four bytes, then its payload. There is at least one, and nothing follows the last.
pub const KIND_BATCH: u8 = 0x02;

/// The kind of a frame that carries one reply. Its channel id is the inbox of the client that sent the request, and its sequence number
/// is the number of that request; otherwise it is laid out like [`KIND_PUBLISH`].
pub const KIND_REPLY: u8 = 0x03;

/// The kind of a frame that carries one message which the daemon retains for later subscriptions; an empty payload clears what it retains
/// of the channel instead. It is laid out like [`KIND_PUBLISH`], and is part of the same sequence.
pub const KIND_RETAIN: u8 = 0x04;

/// The kind of a frame that a client repeats for a daemon that does not have it yet: a message that was retained by an earlier daemon,
/// with the sequence number that it had. It is laid out like [`KIND_PUBLISH`]. No daemon sends it.
pub const KIND_REDECLARE: u8 = 0x05;

/// Flag: a receiver that does not know the frame's kind skips it. Without it an unknown kind ends the connection.
pub const FLAG_OPTIONAL: u8 = 0b0000_0001;

/// A channel, as one daemon numbers it. The id is the same on every connection to that daemon for as long as the channel
/// exists, and is not reused before the channel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// A sender: its process (upper 32 bits, as reported by the kernel to the daemon) and a number that distinguishes the senders
/// of one process (lower 32 bits). It survives a restart of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderId(u64);

impl SenderId {
    /// The sender `number` of the process `pid`.
    pub const fn new(pid: u32, number: u32) -> Self {
        Self((pid as u64) << 32 | number as u64)
    }

    /// The sender with the number `raw` on the wire.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number on the wire.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The sender's process id, from the kernel's peer credentials; 0 where the kernel does not report one (another pid
    /// namespace, some platforms).
    pub const fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The number of the sender within its process.
    pub const fn number(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.pid(), self.number())
    }
}

impl fmt::Debug for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SenderId({self})")
    }
}

/// The 28 bytes at the start of every frame, little-endian, without padding.
///
/// | offset | size | field |
/// | --- | --- | --- |
/// | 0 | 4 | bytes of the body, which follows |
/// | 4 | 1 | kind |
/// | 5 | 1 | flags |
/// | 6 | 2 | bytes of metadata at the start of the body (data frame, but not Batch), else zero |
/// | 8 | 4 | channel id (data frame; the inbox in a Reply), else zero |
/// | 12 | 8 | sender id (data frame), else zero |
/// | 20 | 8 | sequence number (data frame; the number of the request in a Reply), else zero |
///
/// Bytes 4 to 20, apart from the metadata size, are equal in all frames of one [`Run`], so that a scan compares them at once.
#[derive(Clone, Copy)]
pub struct Header([u8; HEADER_BYTES]);

/// Offsets of the fields.
mod at {
    pub(super) const BODY_BYTES: usize = 0;
    pub(super) const KIND: usize = 4;
    pub(super) const FLAGS: usize = 5;
    pub(super) const META_BYTES: usize = 6;
    pub(super) const CHANNEL: usize = 8;
    pub(super) const SENDER: usize = 12;
    pub(super) const SEQUENCE: usize = 20;
}

impl Header {
    /// The header of a frame that carries one message of `payload_bytes` bytes on `channel`, without metadata.
    #[inline]
    pub fn publish(channel: ChannelId, sender: SenderId, sequence: u64, payload_bytes: u32) -> Self {
        Self([0; HEADER_BYTES])
            .with(at::BODY_BYTES, payload_bytes.to_le_bytes())
            .with(at::KIND, [KIND_PUBLISH])
            .with_ids(channel, sender)
            .with(at::SEQUENCE, sequence.to_le_bytes())
    }

    /// The same frame with `meta_bytes` bytes of metadata before its payload. For a frame without metadata whose payload is at
    /// most [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    #[inline]
    #[must_use]
    pub fn with_metadata(self, meta_bytes: u16) -> Self {
        let body_bytes = self.body_bytes() + u32::from(meta_bytes);
        self.with(at::BODY_BYTES, body_bytes.to_le_bytes()).with(at::META_BYTES, meta_bytes.to_le_bytes())
    }

    /// The header of a batch whose first message has the number `sequence`, with a body of `body_bytes` bytes.
    pub fn batch(channel: ChannelId, sender: SenderId, sequence: u64, body_bytes: u32) -> Self {
        Self::publish(channel, sender, sequence, body_bytes).with(at::KIND, [KIND_BATCH])
    }

    /// The header of a frame that carries one reply to the request `request` of the client with this `inbox`, without metadata.
    pub fn reply(inbox: ChannelId, sender: SenderId, request: u64, payload_bytes: u32) -> Self {
        Self::publish(inbox, sender, request, payload_bytes).with(at::KIND, [KIND_REPLY])
    }

    /// The header of a frame that carries one message for the daemon to retain, without metadata. Without a payload, it clears what the
    /// daemon retains of the channel.
    pub fn retain(channel: ChannelId, sender: SenderId, sequence: u64, payload_bytes: u32) -> Self {
        Self::publish(channel, sender, sequence, payload_bytes).with(at::KIND, [KIND_RETAIN])
    }

    /// The header of a frame that repeats a retained message for another daemon, without metadata. `sequence` is the number that the
    /// message had, and its payload is not empty.
    pub fn redeclare(channel: ChannelId, sender: SenderId, sequence: u64, payload_bytes: u32) -> Self {
        Self::publish(channel, sender, sequence, payload_bytes).with(at::KIND, [KIND_REDECLARE])
    }

    /// The same frame with the ids that another daemon assigned.
    #[inline]
    #[must_use]
    pub fn with_ids(self, channel: ChannelId, sender: SenderId) -> Self {
        self.with(at::CHANNEL, channel.0.to_le_bytes()).with(at::SENDER, sender.0.to_le_bytes())
    }

    /// The header of a control frame with a body of `body_bytes` bytes.
    pub fn control(kind: u8, flags: u8, body_bytes: u32) -> Self {
        Self([0; HEADER_BYTES])
            .with(at::BODY_BYTES, body_bytes.to_le_bytes())
            .with(at::KIND, [kind])
            .with(at::FLAGS, [flags])
    }

    /// The header at the start of `bytes`, or `None` while it has fewer than [`HEADER_BYTES`].
    #[inline]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }

    /// The bytes of the header.
    #[inline]
    pub fn into_bytes(self) -> [u8; HEADER_BYTES] {
        self.0
    }

    /// The bytes of the header.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes of the body: metadata and payload, or a batch, or a control message.
    #[inline]
    pub fn body_bytes(&self) -> u32 {
        u32::from_le_bytes(self.field(at::BODY_BYTES))
    }

    /// Bytes of metadata at the start of the body.
    #[inline]
    pub fn meta_bytes(&self) -> u16 {
        u16::from_le_bytes(self.field(at::META_BYTES))
    }

    /// Bytes of the body after the metadata.
    #[inline]
    pub fn payload_bytes(&self) -> u32 {
        self.body_bytes().saturating_sub(u32::from(self.meta_bytes()))
    }

    /// Bytes of the whole frame.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes() as usize
    }

    /// The kind of the frame: [`KIND_PUBLISH`], [`KIND_BATCH`], [`KIND_REPLY`], [`KIND_RETAIN`], [`KIND_REDECLARE`] or one of
    /// [`crate::control::kind`].
    #[inline]
    pub fn kind(&self) -> u8 {
        self.0[at::KIND]
    }

    /// The frame's flags.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.0[at::FLAGS]
    }

    /// The channel of a data frame.
    #[inline]
    pub fn channel(&self) -> ChannelId {
        ChannelId(u32::from_le_bytes(self.field(at::CHANNEL)))
    }

    /// The sender of a data frame.
    #[inline]
    pub fn sender(&self) -> SenderId {
        SenderId(u64::from_le_bytes(self.field(at::SENDER)))
    }

    /// The sequence number of the first message of a data frame.
    #[inline]
    pub fn sequence(&self) -> u64 {
        u64::from_le_bytes(self.field(at::SEQUENCE))
    }

    /// Whether the frame carries messages rather than a control message.
    #[inline]
    pub fn is_data(&self) -> bool {
        matches!(self.kind(), KIND_PUBLISH..=KIND_REDECLARE)
    }

    /// Whether the frame carries one message, which may have metadata.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.kind(), KIND_PUBLISH | KIND_REPLY | KIND_RETAIN | KIND_REDECLARE)
    }

    /// Whether kind, flags, channel and sender are equal.
    #[inline]
    pub(crate) fn continues(&self, previous: &Self) -> bool {
        /// Bytes 6 and 7 of the header, which hold the metadata size, within bytes 4 to 20.
        const META_BYTES: u128 = 0xffff << 16;
        let fields = |header: &Self| u128::from_le_bytes(header.field(at::KIND)) & !META_BYTES;
        fields(self) == fields(previous)
    }

    /// The first field that must be zero and is not.
    pub(crate) fn reserved_violation(&self) -> Option<&'static str> {
        let optional = if self.is_data() { 0 } else { FLAG_OPTIONAL };
        if self.flags() & !optional != 0 {
            Some("flags")
        } else if !self.is_single() && self.meta_bytes() != 0 {
            Some("metadata size of a frame without metadata")
        } else if self.is_data() {
            None
        } else if self.0[at::CHANNEL..] != [0; HEADER_BYTES - at::CHANNEL] {
            Some("channel, sender or sequence of a control frame")
        } else {
            None
        }
    }

    #[inline]
    fn with<const N: usize>(mut self, offset: usize, field: [u8; N]) -> Self {
        self.0[offset..offset + N].copy_from_slice(&field);
        self
    }

    #[inline]
    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.0[offset..offset + N]);
        field
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("body_bytes", &self.body_bytes())
            .field("meta_bytes", &self.meta_bytes())
            .field("kind", &self.kind())
            .field("flags", &self.flags())
            .field("channel", &self.channel())
            .field("sender", &self.sender())
            .field("sequence", &self.sequence())
            .finish()
    }
}

/// The body of a batch is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBatch;

/// How many messages the body of a batch has; `None` if its records do not fill it.
pub fn batched(body: &[u8]) -> Option<u64> {
    messages_in(body).ok()
}

/// The messages in the body of a batch.
pub(crate) fn messages_in(body: &[u8]) -> Result<u64, BadBatch> {
    let (mut rest, mut messages) = (body, 0);
    while let Some((len, records)) = rest.split_first_chunk() {
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| BadBatch)?;
        rest = records.get(len..).ok_or(BadBatch)?;
        messages += 1;
    }
    if rest.is_empty() && messages > 0 { Ok(messages) } else { Err(BadBatch) }
}

/// Bytes of the record at the start of `body`: a length and as many bytes.
#[inline]
fn record_bytes(body: &[u8]) -> Option<usize> {
    let len = body.first_chunk().copied().map(u32::from_le_bytes)?;
    RECORD_HEADER_BYTES.checked_add(usize::try_from(len).ok()?)
}

/// Bytes and messages of the complete data frame at the start of `frames`, which must have been checked.
///
/// # Panics
///
/// If there is no complete data frame.
pub fn extent(frames: &[u8]) -> (usize, u64) {
    let header = Header::peek(frames).expect("a checked frame has a header");
    let size = header.frame_bytes();
    match header.kind() {
        KIND_BATCH => (size, messages_in(&frames[HEADER_BYTES..size]).expect("the batch was checked")),
        _ => (size, 1),
    }
}

/// One message, borrowed from the run that it came in.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The sender.
    pub sender: SenderId,
    /// The sender's count of messages on the channel before this one.
    pub sequence: u64,
    /// What the sender attached; empty unless it attached something.
    pub metadata: MetadataRef<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// Consecutive data frames of one kind, of one sender on one channel, with consecutive sequence numbers, exactly as they were read. A
/// reply is a run of its own, and so is a message that is declared again.
///
/// A daemon forwards a run by reference: the cost per listener is per run, not per message.
#[derive(Clone)]
pub struct Run {
    channel: ChannelId,
    sender: SenderId,
    /// The sequence number behind the last message. That of the first follows from it, so that taking a message off changes one number.
    end: u64,
    messages: u64,
    bytes: Bytes,
    pinned_bytes: usize,
    kind: u8,
    /// Where the first message is, if there is one.
    front: Position,
}

/// Location of the first message of a run in its bytes.
#[derive(Clone, Copy, Default)]
struct Position {
    /// Start of its metadata.
    metadata: usize,
    /// Start of its payload, which is the end of the metadata.
    payload: usize,
    /// End of its payload.
    end: usize,
    /// Bytes of its batch that follow it; 0 if a header comes next.
    batch_left: usize,
}

impl Run {
    /// A run of `messages` messages in frames of one kind, which are complete and consecutive. They come from memory instead of a stream, and
    /// `bytes` is a part of an allocation with `pinned_bytes` bytes.
    ///
    /// # Panics
    ///
    /// If `bytes` is shorter than a header.
    pub fn of_frames(messages: u64, bytes: Bytes, pinned_bytes: usize) -> Self {
        Self::from_scanned(messages, bytes, pinned_bytes)
    }

    /// A run whose frames have been checked to be complete and consecutive.
    pub(crate) fn from_scanned(messages: u64, bytes: Bytes, pinned_bytes: usize) -> Self {
        let header = Header::peek(&bytes).expect("a scanned run begins with a header");
        let kind = header.kind();
        Self {
            channel: header.channel(),
            sender: header.sender(),
            end: header.sequence().wrapping_add(messages),
            messages,
            kind,
            front: position(&bytes, kind, 0).unwrap_or_default(),
            bytes,
            pinned_bytes,
        }
    }

    /// Whether it is a reply: one message, with the inbox as its channel and the number of the request as its sequence number.
    #[inline]
    pub fn is_reply(&self) -> bool {
        self.kind == KIND_REPLY
    }

    /// Whether the daemon retains its messages.
    #[inline]
    pub fn is_retained(&self) -> bool {
        self.kind == KIND_RETAIN
    }

    /// Whether it is one message that an earlier daemon retained, with the sequence number that it had.
    #[inline]
    pub fn is_redeclared(&self) -> bool {
        self.kind == KIND_REDECLARE
    }

    /// The channel of every message.
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// The sender of every message.
    pub fn sender(&self) -> SenderId {
        self.sender
    }

    /// Sequence number of the first message; the others follow without a gap.
    #[inline]
    pub fn first(&self) -> u64 {
        self.end.wrapping_sub(self.messages)
    }

    /// Number of messages that are left.
    #[inline]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The bytes of the remaining frames.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes of the remaining frames, without another reference to them.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Bytes of memory that stay allocated for as long as the run exists: its own, or those of the chunk that it is a part of.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// The only message of this run as a retained one, in memory of its own.
    #[must_use]
    pub fn to_retained(&self) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        if let Some(kind) = bytes.get_mut(at::KIND) {
            *kind = KIND_RETAIN;
        }
        Self { kind: KIND_RETAIN, pinned_bytes: bytes.len(), bytes: bytes.freeze(), ..self.clone() }
    }

    /// Takes whole frames off the front, of which there are `bytes` and `messages`, and returns them.
    ///
    /// # Panics
    ///
    /// If there are not as many bytes.
    #[must_use]
    pub fn split_front(&mut self, bytes: usize, messages: u64) -> Self {
        let end = self.first().wrapping_add(messages);
        let front = Self { bytes: self.bytes.split_to(bytes), messages, end, ..self.clone() };
        self.messages -= messages;
        self.front = position(&self.bytes, self.kind, 0).unwrap_or_default();
        front
    }

    /// The first message, or `None` when none is left.
    #[inline]
    pub fn front(&self) -> Option<Frame<'_>> {
        if self.messages == 0 {
            return None;
        }
        let Position { metadata, payload, end, .. } = self.front;
        Some(Frame {
            sender: self.sender,
            sequence: self.first(),
            metadata: MetadataRef::new(&self.bytes[metadata..payload]),
            payload: &self.bytes[payload..end],
        })
    }

    /// Removes the first message.
    #[inline]
    pub fn skip_front(&mut self) {
        if self.messages > 0 {
            self.messages -= 1;
            self.bytes.advance(self.front.end);
            self.front = position(&self.bytes, self.kind, self.front.batch_left).unwrap_or_default();
        }
    }

    /// The sequence numbers and payloads of the messages, first to last.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut rest = self.clone();
        std::iter::from_fn(move || {
            let Position { payload, end, .. } = rest.front;
            let message = (rest.messages > 0).then(|| (rest.first(), rest.bytes.slice(payload..end)));
            rest.skip_front();
            message
        })
    }
}

/// Location of the first message in frames of this kind, where `batch_left` bytes are left of the batch that holds it, or a header comes
/// next. `None` if there is none.
#[inline]
fn position(frames: &[u8], kind: u8, batch_left: usize) -> Option<Position> {
    if kind != KIND_BATCH {
        let header = Header::peek(frames)?;
        let payload = HEADER_BYTES + usize::from(header.meta_bytes());
        return Some(Position { metadata: HEADER_BYTES, payload, end: header.frame_bytes(), batch_left: 0 });
    }
    let (record, left) = match batch_left {
        0 => (HEADER_BYTES, Header::peek(frames)?.body_bytes() as usize),
        left => (0, left),
    };
    let size = record_bytes(frames.get(record..)?)?;
    let payload = record + RECORD_HEADER_BYTES;
    Some(Position { metadata: payload, payload, end: record + size, batch_left: left - size })
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("channel", &self.channel)
            .field("sender", &self.sender)
            .field("first", &self.first())
            .field("messages", &self.messages)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}
