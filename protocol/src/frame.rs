//! The fixed header of a frame, and runs of frames. Laid out by hand: no serializer ever touches a payload.

use crate::limits::{HEADER_BYTES, RECORD_HEADER_BYTES};
use bytes::{Buf, Bytes};
use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The kind of a frame that carries one message; kinds from 0x10 on are control messages ([`crate::control`]).
pub const KIND_PUBLISH: u8 = 0x01;

/// The kind of a frame that carries several small messages of one sender on one channel, with sequence numbers that rise by
/// one: for each message its length as four bytes, then its payload. There is at least one, and nothing behind the last.
pub const KIND_BATCH: u8 = 0x02;

/// Flag: a receiver that does not know the frame's kind skips it. Without it an unknown kind ends the connection.
pub const FLAG_OPTIONAL: u8 = 0b0000_0001;

/// A channel, as one daemon numbers it. Valid on every connection to that daemon for as long as somebody has the
/// channel open; never reused while it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// A sender: the process that holds it (upper 32 bits, as the kernel told the daemon) and a number that tells the
/// senders of one process apart (lower 32 bits). It survives a restart of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderId(u64);

impl SenderId {
    /// The sender `number` of the process `pid`.
    pub const fn new(pid: u32, number: u32) -> Self {
        Self((pid as u64) << 32 | number as u64)
    }

    /// The sender that `raw` stands for on the wire.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number on the wire.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The sender's process id, from the kernel's peer credentials; 0 where the kernel does not tell (another pid
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

/// The 28 bytes before every payload, little-endian, without padding.
///
/// | offset | size | field |
/// | --- | --- | --- |
/// | 0 | 4 | bytes of payload that follow |
/// | 4 | 1 | kind |
/// | 5 | 1 | flags |
/// | 6 | 2 | reserved, zero |
/// | 8 | 4 | channel id (publish), else zero |
/// | 12 | 8 | sender id (publish), else zero |
/// | 20 | 8 | sequence number (publish), else zero |
///
/// Bytes 4 to 20 are equal in all frames of one [`Run`], so that a scan compares them at once.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    payload_bytes: U32,
    kind: u8,
    flags: u8,
    reserved: U16,
    channel: U32,
    sender: U64,
    sequence: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// The header of a frame that carries `payload_bytes` bytes on `channel`.
    pub fn publish(channel: ChannelId, sender: SenderId, sequence: u64, payload_bytes: u32) -> Self {
        Self {
            payload_bytes: payload_bytes.into(),
            kind: KIND_PUBLISH,
            flags: 0,
            reserved: 0.into(),
            channel: channel.0.into(),
            sender: sender.0.into(),
            sequence: sequence.into(),
        }
    }

    /// The header of a batch whose first message has the number `sequence`, with a body of `body_bytes` bytes.
    pub fn batch(channel: ChannelId, sender: SenderId, sequence: u64, body_bytes: u32) -> Self {
        Self { kind: KIND_BATCH, ..Self::publish(channel, sender, sequence, body_bytes) }
    }

    /// The same frame as another daemon numbers it.
    #[must_use]
    pub fn restamped(self, channel: ChannelId, sender: SenderId) -> Self {
        Self { channel: channel.0.into(), sender: sender.0.into(), ..self }
    }

    /// The header of a control frame with a body of `body_bytes` bytes.
    pub fn control(kind: u8, flags: u8, body_bytes: u32) -> Self {
        Self {
            payload_bytes: body_bytes.into(),
            kind,
            flags,
            reserved: 0.into(),
            channel: 0.into(),
            sender: 0.into(),
            sequence: 0.into(),
        }
    }

    /// The header at the start of `bytes`, or `None` while fewer than [`HEADER_BYTES`] are there.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// The header as it goes over the wire.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        IntoBytes::as_bytes(self)
    }

    /// Bytes of payload that follow.
    #[inline]
    pub fn payload_bytes(&self) -> u32 {
        self.payload_bytes.get()
    }

    /// Bytes of the whole frame.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes.get() as usize
    }

    /// What the frame is: [`KIND_PUBLISH`] or one of [`crate::control`].
    #[inline]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The frame's flags.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// The channel that a publish frame is for.
    #[inline]
    pub fn channel(&self) -> ChannelId {
        ChannelId(self.channel.get())
    }

    /// The sender of a publish frame.
    #[inline]
    pub fn sender(&self) -> SenderId {
        SenderId(self.sender.get())
    }

    /// The sender's running number of a publish frame on its channel.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    /// Whether the frame carries messages, and is no control message.
    #[inline]
    pub fn is_data(&self) -> bool {
        matches!(self.kind, KIND_PUBLISH | KIND_BATCH)
    }

    /// Whether everything but size and sequence number is equal: kind, flags, channel, sender.
    #[inline]
    pub(crate) fn continues(&self, previous: &Self) -> bool {
        let same = |header: &Self| -> [u8; 16] {
            let mut same = [0; 16];
            same.copy_from_slice(&header.as_bytes()[4..20]);
            same
        };
        u128::from_ne_bytes(same(self)) == u128::from_ne_bytes(same(previous))
    }

    /// The first field that must be zero and is not.
    pub(crate) fn reserved_violation(&self) -> Option<&'static str> {
        let optional = if self.is_data() { 0 } else { FLAG_OPTIONAL };
        if self.flags & !optional != 0 {
            Some("flags")
        } else if self.reserved.get() != 0 {
            Some("reserved")
        } else if self.is_data() {
            None
        } else if self.channel.get() != 0 || self.sender.get() != 0 || self.sequence.get() != 0 {
            Some("channel, sender or sequence of a control frame")
        } else {
            None
        }
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("payload_bytes", &self.payload_bytes())
            .field("kind", &self.kind)
            .field("flags", &self.flags)
            .field("channel", &self.channel())
            .field("sender", &self.sender())
            .field("sequence", &self.sequence())
            .finish()
    }
}

/// How the body of a batch is not what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBatch;

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

/// Bytes and messages of the whole data frame at the start of `frames`, which must have been checked.
///
/// # Panics
///
/// If there is no whole data frame.
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
    /// Who sent it.
    pub sender: SenderId,
    /// The sender's running number for it on its channel.
    pub sequence: u64,
    /// What was sent.
    pub payload: &'a [u8],
}

/// Consecutive data frames of one sender on one channel, with sequence numbers that rise by one from message to message, as
/// the very bytes that came off the wire.
///
/// A daemon hands a run on by reference: the cost per listener is per run, not per message.
#[derive(Clone)]
pub struct Run {
    channel: ChannelId,
    sender: SenderId,
    first: u64,
    messages: u64,
    bytes: Bytes,
    pinned_bytes: usize,
    batched: bool,
    /// Bytes that are left of the batch that the first message stands in; 0 if a header comes next.
    batch_left: usize,
}

impl Run {
    /// A run whose frames have been checked to be complete and consecutive.
    pub(crate) fn from_scanned(messages: u64, bytes: Bytes, pinned_bytes: usize) -> Self {
        let header = Header::peek(&bytes).expect("a scanned run begins with a header");
        Self {
            channel: header.channel(),
            sender: header.sender(),
            first: header.sequence(),
            messages,
            batched: header.kind() == KIND_BATCH,
            batch_left: 0,
            bytes,
            pinned_bytes,
        }
    }

    /// The channel of every message.
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// The sender of every message.
    pub fn sender(&self) -> SenderId {
        self.sender
    }

    /// Sequence number of the first message; the others follow without a hole.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many messages are left.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// What is left of the frames, as they stand on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of memory that stay allocated for as long as somebody keeps the run: its own, or those of the chunk that
    /// it is a part of.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// The first message, or `None` when all were taken off.
    #[inline]
    pub fn front(&self) -> Option<Frame<'_>> {
        let (start, end, _) = self.front_place()?;
        Some(Frame { sender: self.sender, sequence: self.first, payload: &self.bytes[start..end] })
    }

    /// Takes the first message off.
    #[inline]
    pub fn skip_front(&mut self) {
        if let Some((_, end, batch_left)) = self.front_place() {
            self.bytes.advance(end);
            self.batch_left = batch_left;
            self.first = self.first.wrapping_add(1);
            self.messages -= 1;
        }
    }

    /// The messages, first to last.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut rest = self.clone();
        std::iter::from_fn(move || {
            let (start, end, _) = rest.front_place()?;
            let message = (rest.first, rest.bytes.slice(start..end));
            rest.skip_front();
            Some(message)
        })
    }

    /// Where the first payload stands, and how much of its batch is left behind it.
    #[inline]
    fn front_place(&self) -> Option<(usize, usize, usize)> {
        if !self.batched {
            let header = Header::peek(&self.bytes)?;
            return Some((HEADER_BYTES, header.frame_bytes(), 0));
        }
        let (record, left) = match self.batch_left {
            0 => (HEADER_BYTES, Header::peek(&self.bytes)?.payload_bytes() as usize),
            left => (0, left),
        };
        let size = record_bytes(&self.bytes[record..])?;
        Some((record + RECORD_HEADER_BYTES, record + size, left - size))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("channel", &self.channel)
            .field("sender", &self.sender)
            .field("first", &self.first)
            .field("messages", &self.messages)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}
