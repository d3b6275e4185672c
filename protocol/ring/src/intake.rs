//! From the records of a ring to the frames that a socket would have carried. This module never decides what becomes of them.

use crate::layout::Record;
use crate::reader::{Corrupt, Cursor, Poll, Reader, Start, Verdict};
use crate::words::Words;
use broadcaster_protocol::frame::{KIND_BATCH, KIND_PUBLISH, batched};
use broadcaster_protocol::limits::{BATCH_BYTES_MAX, META_BYTES_MAX};
use broadcaster_protocol::{ChannelId, Header, Run, SenderId};
use bytes::BytesMut;

/// A reader of the ring of one publication, whose records become runs of frames.
///
/// Channel and sender are those that the daemon has stated; the ring contains neither.
#[derive(Debug)]
pub struct Intake<W> {
    reader: Reader<W>,
    channel: ChannelId,
    sender: SenderId,
    /// Memory of the last run, and how much that is. The next one has it if nothing refers to it any more.
    spare: BytesMut,
    spare_bytes: usize,
}

/// What an [`Intake`] has taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Messages that were overwritten before they could be read. They come before those of the run.
    pub lost: u64,
    /// Messages.
    pub run: Option<Run>,
}

impl Taken {
    /// Whether there was nothing to take.
    pub fn is_empty(&self) -> bool {
        self.lost == 0 && self.run.is_none()
    }
}

impl<W: Words> Intake<W> {
    /// Reads the ring in `words`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the words are not a ring of this version and of exactly this size.
    pub fn open(words: W, start: Start, channel: ChannelId, sender: SenderId) -> Result<Self, Corrupt> {
        Ok(Self { reader: Reader::open(words, start)?, channel, sender, spare: BytesMut::new(), spare_bytes: 0 })
    }

    /// Where the next record begins, and its sequence number.
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// Where the newest published record ends, and the sequence number of the next one.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the writer overtook every attempt to read it.
    pub fn newest(&self) -> Result<Cursor, Corrupt> {
        self.reader.newest()
    }

    /// Continues at another place, and leaves out what is in between.
    pub fn seek(&mut self, cursor: Cursor) {
        self.reader.seek(cursor);
    }

    /// Bytes of all frames so far: see [`Reader::frame_bytes`].
    pub fn frame_bytes(&self) -> u64 {
        self.reader.frame_bytes()
    }

    /// Whether [`take`](Self::take) has anything to take, apart from an end.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.reader.is_ready()
    }

    /// Takes the next messages: frames of `bytes_max` bytes and one more, or fewer. With an `end`, only messages with lower sequence numbers, be
    /// they received or lost.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]. Nothing can be taken any more.
    pub fn take(&mut self, end: Option<u64>, bytes_max: usize) -> Result<Taken, Corrupt> {
        let (channel, sender) = (self.channel, self.sender);
        // Headers may be longer than what surrounds a message in the ring. Memory of which a part is in use is not used for another run, which
        // would pin all of it.
        let room = bytes_max.min(self.reader.published_bytes().saturating_mul(2));
        let is_unused = self.spare_bytes >= room && (room == 0 || self.spare.try_reclaim(self.spare_bytes));
        if !is_unused {
            (self.spare, self.spare_bytes) = (BytesMut::with_capacity(room), room);
        }
        let mut other = BytesMut::new(); // for what comes after the look at the ring
        let bytes = if room > 0 { &mut self.spare } else { &mut other };
        let mut lost = 0;
        loop {
            // A run has frames of one kind.
            let mut kind = None;
            let judge = |record: &Record, body: &[u8]| {
                if *kind.get_or_insert(record.kind) != record.kind {
                    return Verdict::Postpone;
                }
                let header = match record.kind {
                    KIND_PUBLISH if record.batch == 0 && record.metadata_bytes <= META_BYTES_MAX => {
                        let header = Header::publish(channel, sender, record.sequence, record.payload_bytes);
                        header.with_metadata(record.metadata_bytes)
                    }
                    KIND_BATCH
                        if body.len() <= BATCH_BYTES_MAX as usize && batched(body) == Some(record.batch.into()) =>
                    {
                        Header::batch(channel, sender, record.sequence, record.payload_bytes)
                    }
                    _ => return Verdict::Reject,
                };
                Verdict::Accept(header.into_bytes())
            };
            match self.reader.poll_until(end, bytes, bytes_max, judge)? {
                Poll::Messages(messages) => {
                    let pinned_bytes = bytes.capacity(); // it may have grown
                    let run = Run::of_frames(messages, bytes.split().freeze(), pinned_bytes);
                    if room > 0 {
                        self.spare_bytes = pinned_bytes;
                    }
                    return Ok(Taken { lost, run: Some(run) });
                }
                // One is the rule: then the reader is an eighth of the ring in front of the writer.
                Poll::Lapped { lost: more } if lost == 0 => lost = more,
                Poll::Lapped { lost: more } => return Ok(Taken { lost: lost.saturating_add(more), run: None }),
                Poll::Empty | Poll::Closed => return Ok(Taken { lost, run: None }),
            }
        }
    }
}
