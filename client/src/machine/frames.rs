//! Frames that are not written completely, in the order in which they go out. It never gives a message its number.

use broadcaster_protocol::control::Control;
use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH, KIND_REDECLARE, KIND_RETAIN, extent};
use broadcaster_protocol::limits::{BATCH_BYTES_MAX, HEADER_BYTES, RECORD_HEADER_BYTES};
use broadcaster_protocol::{ChannelId, Header, SenderId};
use bytes::{Buf, Bytes};

/// Memory that is kept after a small burst.
pub(super) const IDLE_BYTES_MAX: usize = 16 * 1024;

/// The same after a large one: twice what [`Sender::feed`](crate::Sender::feed) gathers.
pub(super) const BUSY_BYTES_MAX: usize = 128 * 1024;

/// Frames in one buffer. The first of them may be written in part.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were written.
    written: usize,
    /// The batch that the next small message may join.
    batch: Option<Batch>,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    start: usize,
    channel: ChannelId,
}

/// What is in a frame that waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body<'a> {
    /// A Publish frame.
    Message { metadata: &'a [u8], payload: &'a [u8] },
    /// A batch.
    Batch { messages: u16, body: &'a [u8] },
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The kind of a frame that carries it alone.
    pub(super) kind: u8,
    pub(super) channel: ChannelId,
    pub(super) sequence: u64,
    pub(super) metadata: Bytes,
    pub(super) payload: Bytes,
}

impl Frames {
    /// Appends a message in a frame of this kind; a small one to publish joins the batch before it if that is of the same channel and has
    /// room.
    #[inline]
    pub(super) fn append(
        &mut self,
        (channel, sender): (ChannelId, SenderId),
        kind: u8,
        sequence: u64,
        metadata: &[u8],
        payload: &[u8],
        len: u32,
    ) {
        let is_large = payload.len() + RECORD_HEADER_BYTES > BATCH_BYTES_MAX as usize;
        if kind != KIND_PUBLISH || !metadata.is_empty() || is_large {
            self.batch = None;
            let meta_bytes = u16::try_from(metadata.len()).expect("metadata never exceeds its limit");
            let header = single(kind, (channel, sender), sequence, len).with_metadata(meta_bytes);
            self.bytes.extend_from_slice(header.as_bytes());
            self.bytes.extend_from_slice(metadata);
        } else {
            let room = HEADER_BYTES + BATCH_BYTES_MAX as usize - RECORD_HEADER_BYTES - payload.len();
            let start = match self.batch {
                Some(batch) if batch.channel == channel && self.bytes.len() - batch.start <= room => batch.start,
                _ => self.begin_batch(channel, sender, sequence),
            };
            let body_bytes = self.bytes.len() - start - HEADER_BYTES + RECORD_HEADER_BYTES + payload.len();
            let body_bytes = u32::try_from(body_bytes).expect("a batch has a few kilobytes");
            self.bytes[start..start + 4].copy_from_slice(&body_bytes.to_le_bytes());
            self.bytes.extend_from_slice(&len.to_le_bytes());
        }
        self.bytes.extend_from_slice(payload);
    }

    fn begin_batch(&mut self, channel: ChannelId, sender: SenderId, sequence: u64) -> usize {
        let start = self.bytes.len();
        self.bytes.reserve(HEADER_BYTES + BATCH_BYTES_MAX as usize);
        self.bytes.extend_from_slice(Header::batch(channel, sender, sequence, 0).as_bytes());
        self.batch = Some(Batch { start, channel });
        start
    }

    /// The frame with this header is the next one, and its first `written` bytes were written. Nothing else waits.
    pub(super) fn adopt(&mut self, header: &Header, metadata: &[u8], payload: &[u8], written: usize) {
        debug_assert!(self.bytes.is_empty(), "frames must not overtake one another");
        self.batch = None;
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(metadata);
        self.bytes.extend_from_slice(payload);
        self.written = written;
    }

    /// The control frame is the next one, and its first `written` bytes were written. Nothing else waits.
    pub(super) fn adopt_control(&mut self, frame: &[u8], written: usize) {
        debug_assert!(self.bytes.is_empty(), "frames must not overtake one another");
        self.batch = None;
        self.bytes.extend_from_slice(frame);
        self.written = written;
    }

    /// Appends a control message.
    pub(super) fn append_control(&mut self, control: &Control) {
        self.batch = None;
        control.encode(&mut self.bytes).expect("a request is shorter than a control frame");
    }

    /// Appends frames of `other` from its front, until `enough` returns true for bytes and messages of the one before.
    pub(super) fn take_from(&mut self, other: &mut Self, mut goes_on: impl FnMut(usize, u64) -> bool) {
        self.batch = None;
        while let rest @ [_, ..] = other.outgoing() {
            let (bytes, messages) = extent(rest);
            self.bytes.extend_from_slice(&rest[..bytes]);
            other.sent(bytes);
            if !goes_on(bytes, messages) {
                return;
            }
        }
    }

    /// Bytes that wait.
    #[inline]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.written
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes to write.
    #[inline]
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// So many bytes were written.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        self.batch = None; // a part of it may be written
        if self.written == self.bytes.len() {
            // The next burst is likely to be as large as this one.
            let kept_bytes = (2 * self.written).clamp(IDLE_BYTES_MAX, BUSY_BYTES_MAX);
            self.bytes.clear();
            self.bytes.shrink_to(kept_bytes);
            self.written = 0;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
        self.batch = None;
    }

    /// The connection is gone: drops what was written completely, all control messages, and what declares a message again. A frame
    /// that was written in part waits again completely.
    pub(super) fn rewind(&mut self) {
        self.batch = None;
        let places: Vec<_> = self.data().map(|(at, header)| at..at + header.frame_bytes()).collect();
        let mut kept = 0;
        for place in places {
            let size = place.len();
            self.bytes.copy_within(place, kept);
            kept += size;
        }
        self.bytes.truncate(kept);
        self.written = 0;
    }

    /// Position and header of each data frame that is not written completely, except for those that declare a message again.
    pub(super) fn data(&self) -> impl Iterator<Item = (usize, Header)> {
        let (bytes, written) = (&*self.bytes, self.written);
        let mut at = 0;
        std::iter::from_fn(move || {
            let header = Header::peek(&bytes[at..])?;
            let start = at;
            at += header.frame_bytes();
            Some((start, at, header))
        })
        .filter(move |(_, end, header)| *end > written && header.is_data() && header.kind() != KIND_REDECLARE)
        .map(|(start, _, header)| (start, header))
    }

    /// How many messages of the channel are not written completely.
    pub(super) fn messages(&self, channel: ChannelId) -> u64 {
        let of_channel = self.data().filter(|(_, header)| header.channel() == channel);
        of_channel.map(|(at, _)| extent(&self.bytes[at..]).1).sum()
    }

    /// Replaces the channel ids, and the sender id, in all frames that are not written completely.
    pub(super) fn assign_ids(&mut self, sender: SenderId, mut channel: impl FnMut(ChannelId) -> ChannelId) {
        let new: Vec<_> =
            self.data().map(|(at, header)| (at, header.with_ids(channel(header.channel()), sender))).collect();
        for (at, header) in new {
            self.bytes[at..at + HEADER_BYTES].copy_from_slice(header.as_bytes());
        }
        self.batch = None;
    }

    /// Passes each frame to `takes`, in order, until that returns false. Returns how many messages those frames have for which it returned true.
    /// Nothing but complete Publish frames and batches waits.
    pub(super) fn take_while(&self, mut takes: impl FnMut(Body<'_>) -> bool) -> usize {
        let (mut rest, mut taken) = (self.outgoing(), 0);
        while let Some(header) = Header::peek(rest) {
            let (bytes, messages) = extent(rest);
            let (frame, others) = rest.split_at(bytes);
            let (metadata, body) = frame[HEADER_BYTES..].split_at(usize::from(header.meta_bytes()));
            let messages = u16::try_from(messages).expect("a batch has a few kilobytes");
            let frame = match header.kind() {
                KIND_BATCH => Body::Batch { messages, body },
                _ => Body::Message { metadata, payload: body },
            };
            if !takes(frame) {
                break;
            }
            taken += usize::from(messages);
            rest = others;
        }
        taken
    }

    /// Drops the first `count` messages. No part of them was written, and nothing but messages waits.
    pub(super) fn drop_messages(&mut self, ids: (ChannelId, SenderId), count: usize) {
        let mut messages = Vec::new();
        self.take_messages(&mut messages);
        for Waiting { kind, sequence, metadata, payload, .. } in messages.drain(count..) {
            let len = u32::try_from(payload.len()).expect("it was committed");
            self.append(ids, kind, sequence, &metadata, &payload, len);
        }
    }

    /// Takes the messages that are not written completely, in order.
    pub(super) fn take_messages(&mut self, messages: &mut Vec<Waiting>) {
        let places: Vec<usize> = self.data().map(|(at, _)| at).collect();
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.clear();
        for at in places {
            let Some(header) = Header::peek(&bytes[at..]) else { break };
            let (channel, mut sequence) = (header.channel(), header.sequence());
            let mut body = bytes.slice(at..at + header.frame_bytes());
            body.advance(HEADER_BYTES);
            let metadata = body.split_to(usize::from(header.meta_bytes()));
            if header.kind() != KIND_BATCH {
                messages.push(Waiting { kind: header.kind(), channel, sequence, metadata, payload: body });
                continue;
            }
            while body.len() >= RECORD_HEADER_BYTES {
                let len = usize::try_from(body.get_u32_le()).expect("a batch has a few kilobytes");
                let (metadata, payload) = (Bytes::new(), body.split_to(len));
                messages.push(Waiting { kind: KIND_PUBLISH, channel, sequence, metadata, payload });
                sequence += 1;
            }
        }
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The header of a frame of this kind that carries one message.
#[inline]
fn single(kind: u8, (channel, sender): (ChannelId, SenderId), sequence: u64, len: u32) -> Header {
    match kind {
        KIND_RETAIN => Header::retain(channel, sender, sequence, len),
        KIND_REDECLARE => Header::redeclare(channel, sender, sequence, len),
        _ => Header::publish(channel, sender, sequence, len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broadcaster_protocol::control::Inspect;

    const SENDER: SenderId = SenderId::from_raw(9);

    fn append(frames: &mut Frames, channel: u32, sequence: u64, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("small");
        frames.append((ChannelId(channel), SENDER), KIND_PUBLISH, sequence, &[], payload, len);
    }

    #[test]
    fn only_consecutive_messages_of_one_channel_share_a_batch() {
        let mut frames = Frames::default();
        for (channel, sequence) in [(1, 0), (1, 1), (2, 0), (1, 2), (1, 3)] {
            append(&mut frames, channel, sequence, b"x");
        }
        let seen: Vec<_> = frames.data().map(|(_, header)| (header.channel().0, header.sequence())).collect();
        assert_eq!(seen, [(1, 0), (2, 0), (1, 2)]);
        assert_eq!((frames.messages(ChannelId(1)), frames.messages(ChannelId(2))), (4, 1));
    }

    #[test]
    fn a_lost_connection_takes_control_messages_and_whole_frames() {
        let mut frames = Frames::default();
        append(&mut frames, 1, 0, &[7; 5000]);
        frames.append_control(&Inspect::default().into());
        append(&mut frames, 1, 1, &[8; 5000]);
        append(&mut frames, 2, 0, &[9; 5000]);
        frames.sent(frames.waiting_bytes() - 5100);
        frames.rewind();
        frames.assign_ids(SENDER, |ChannelId(id)| ChannelId(id + 10));
        let mut messages = Vec::new();
        frames.take_messages(&mut messages);
        let seen: Vec<_> =
            messages.iter().map(|message| (message.channel.0, message.sequence, message.payload[0])).collect();
        assert_eq!(seen, [(11, 1, 8), (12, 0, 9)]);
        assert!(frames.is_empty());
    }
}
