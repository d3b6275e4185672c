//! What waits for one connection, in order, and what was dropped from it. It never looks past its own connection.
//!
//! Frames wait as spans: references to runs as they came off the wire, shared by all listeners of the channel. Dropping
//! leaves a hole in the very place, which the listener is told as a `Lagged` with the exact count.

use crate::quota::{Charge, Ledger};
use broadcaster_protocol::control::{Control, Lagged, Overflow};
use broadcaster_protocol::{ChannelId, Header, Run};
use bytes::Bytes;
use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of bookkeeping for each run that waits for a listener.
const ENTRY_BYTES: usize = 64;

/// Bytes of bookkeeping for each run in transit, whoever it waits for.
const SPAN_BYTES: usize = 128;

/// An outbox that has run empty keeps room for this many entries.
const IDLE_ENTRIES_MAX: usize = 32;

/// A run of frames on its way to any number of listeners, with the memory that it holds.
#[derive(Debug)]
pub(crate) struct Span {
    channel: ChannelId,
    frames: u64,
    bytes: Bytes,
    _charge: Charge,
}

impl Span {
    pub(crate) fn new(run: &Run, ledger: &Ledger) -> Rc<Self> {
        Rc::new(Self {
            channel: run.channel(),
            frames: run.frames(),
            bytes: run.bytes().clone(),
            _charge: ledger.charge(run.pinned_bytes() + SPAN_BYTES),
        })
    }
}

#[derive(Debug)]
enum Entry {
    /// An answer; never dropped.
    Control(Vec<u8>),
    /// Frames of this channel are missing here. `frame` is the encoded `Lagged`, or empty while the count may grow.
    Hole { channel: ChannelId, count: u64, frame: Vec<u8> },
    /// `frames` whole frames, at `start..end` of the span.
    Frames { span: Rc<Span>, start: usize, end: usize, frames: u64 },
}

impl Entry {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Control(frame) | Self::Hole { frame, .. } => frame,
            Self::Frames { span, start, end, .. } => &span.bytes[*start..*end],
        }
    }
}

const _: () = assert!(size_of::<Entry>() <= ENTRY_BYTES);

#[derive(Debug)]
pub(crate) struct Outbox {
    ledger: Ledger,
    entries: VecDeque<Entry>,
    /// Bytes of the first entry that were written already.
    written: usize,
    /// Bytes, with their bookkeeping, and frames of all `Frames` entries.
    bytes: usize,
    frames: u64,
    /// Bytes of all `Control` entries.
    replies_bytes: usize,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) frames: u64,
}

impl Outbox {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), entries: VecDeque::new(), written: 0, bytes: 0, frames: 0, replies_bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of frames that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of answers that wait.
    pub(crate) fn replies_bytes(&self) -> usize {
        self.replies_bytes
    }

    pub(crate) fn push_control(&mut self, frame: Vec<u8>) {
        self.replies_bytes += frame.len();
        self.entries.push_back(Entry::Control(frame));
    }

    /// Queues a span under `overflow`; returns how many frames were dropped for it, or `None` if the listener asked to
    /// be disconnected in such a case. `blocked` tells that the connection does not take bytes at the moment.
    pub(crate) fn push_span(&mut self, span: &Rc<Span>, overflow: Overflow, room: Room, blocked: bool) -> Option<u64> {
        let bytes = self.bytes + span.bytes.len() + ENTRY_BYTES;
        let fits = bytes <= room.bytes && self.frames + span.frames <= room.frames;
        if overflow == Overflow::DropNewest && !fits {
            return Some(self.push_what_fits(span, room));
        }
        self.push_frames(span, 0, span.bytes.len(), span.frames);
        match overflow {
            Overflow::Latest if blocked || !fits => Some(self.keep_latest(span.channel)),
            Overflow::DropOldest if !fits => Some(self.drop_oldest(room)),
            Overflow::Disconnect if !fits && self.frames > 1 => None,
            Overflow::DropOldest | Overflow::DropNewest | Overflow::Latest | Overflow::Disconnect => Some(0),
        }
    }

    /// Drops from the front until what waits fits into `room`, but never the newest frame; returns how many.
    pub(crate) fn drop_oldest(&mut self, room: Room) -> u64 {
        let mut lost = 0;
        while self.bytes > room.bytes || self.frames > room.frames {
            let Some(at) = self.first_droppable() else { break };
            let Entry::Frames { span, start, end, frames } = &self.entries[at] else { break };
            let (excess_bytes, excess_frames) =
                (self.bytes.saturating_sub(room.bytes), self.frames.saturating_sub(room.frames));
            let newest = !self.entries.range(at + 1..).any(|entry| matches!(entry, Entry::Frames { .. }));
            let spare = u64::from(newest);
            let (mut cut, mut count) = (0, 0);
            if !newest && (end - start <= excess_bytes || *frames <= excess_frames) {
                (cut, count) = (end - start, *frames);
            } else {
                while count + spare < *frames && (cut < excess_bytes || count < excess_frames) {
                    cut += frame_bytes(&span.bytes[start + cut..]);
                    count += 1;
                }
            }
            if count == 0 {
                break;
            }
            self.cut_front(at, cut, count);
            lost += count;
        }
        lost
    }

    /// Drops the oldest entry of frames whole, the newest frame too; returns how many frames went.
    pub(crate) fn drop_oldest_entry(&mut self) -> u64 {
        let Some(at) = self.first_droppable() else { return 0 };
        let Entry::Frames { start, end, frames, .. } = &self.entries[at] else { return 0 };
        let (cut, count) = (end - start, *frames);
        self.cut_front(at, cut, count);
        count
    }

    /// Drops all frames of `channel` but the newest; returns how many. For a listener that wants the latest only.
    pub(crate) fn keep_latest(&mut self, wanted: ChannelId) -> u64 {
        let mut lost = 0;
        let mut keep = 1;
        let Some(first) = self.first_droppable() else { return 0 };
        for at in (first..self.entries.len()).rev() {
            let Entry::Frames { span, start, end, frames } = &self.entries[at] else { continue };
            if span.channel != wanted {
                continue;
            }
            let count = frames - keep;
            let cut = if keep == 0 { end - start } else { offset_of(&span.bytes[*start..*end], count) };
            keep = 0;
            if count > 0 {
                self.cut_front(at, cut, count);
                lost += count;
            }
        }
        lost
    }

    /// Drops every frame that is not half written, without a word: the connection is about to end.
    pub(crate) fn clear_frames(&mut self) -> u64 {
        let mut lost = 0;
        while self.first_droppable().is_some() {
            lost += self.drop_oldest_entry();
        }
        self.entries.retain(|entry| !matches!(entry, Entry::Hole { frame, .. } if frame.is_empty()));
        lost
    }

    /// What is to be written, in order.
    pub(crate) fn outgoing(&mut self, slices_max: usize) -> impl Iterator<Item = &[u8]> {
        for entry in self.entries.iter_mut().take(slices_max) {
            if let Entry::Hole { channel, count, frame } = entry
                && frame.is_empty()
            {
                let lagged = Control::Lagged(Lagged { channel: channel.0, count: *count });
                lagged.encode(frame).expect("two numbers fit into a control frame");
            }
        }
        let written = self.written;
        self.entries.iter().take(slices_max).enumerate().map(move |(at, entry)| {
            let bytes = entry.bytes();
            if at == 0 { &bytes[written..] } else { bytes }
        })
    }

    /// The connection took `bytes` of what is outgoing; returns how many frames went out whole with it.
    pub(crate) fn advance(&mut self, bytes: usize) -> u64 {
        let mut delivered = 0;
        let mut left = bytes;
        while let Some(entry) = self.entries.front() {
            let size = entry.bytes().len() - self.written;
            if left < size || (left == 0 && size == 0) {
                break;
            }
            left -= size;
            self.written = 0;
            match self.entries.pop_front() {
                Some(Entry::Control(frame)) => self.replies_bytes -= frame.len(),
                Some(Entry::Frames { start, end, frames, .. }) => {
                    self.forget(end - start + ENTRY_BYTES, frames);
                    self.ledger.give_back(ENTRY_BYTES);
                    delivered += frames;
                }
                Some(Entry::Hole { .. }) | None => {}
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > IDLE_ENTRIES_MAX {
            self.entries.shrink_to(IDLE_ENTRIES_MAX);
        }
        self.written += left;
        debug_assert!(left == 0 || !self.entries.is_empty(), "more was written than was outgoing");
        delivered
    }

    fn push_frames(&mut self, span: &Rc<Span>, start: usize, end: usize, frames: u64) {
        self.bytes += end - start + ENTRY_BYTES;
        self.frames += frames;
        self.ledger.take(ENTRY_BYTES);
        self.entries.push_back(Entry::Frames { span: Rc::clone(span), start, end, frames });
    }

    fn forget(&mut self, bytes: usize, frames: u64) {
        self.bytes -= bytes;
        self.frames -= frames;
    }

    /// Queues the first frames of the span that fit and drops the others; the hole comes after what was queued.
    fn push_what_fits(&mut self, span: &Rc<Span>, room: Room) -> u64 {
        let (mut end, mut count) = (0, 0);
        while count < span.frames && self.frames + count < room.frames {
            let next = end + frame_bytes(&span.bytes[end..]);
            if self.bytes + next + ENTRY_BYTES > room.bytes && self.frames + count > 0 {
                break;
            }
            (end, count) = (next, count + 1);
        }
        if count > 0 {
            self.push_frames(span, 0, end, count);
        }
        let lost = span.frames - count;
        if lost > 0 {
            self.note_hole(self.entries.len(), span.channel, lost);
        }
        lost
    }

    /// The first entry of frames of which nothing is written. A half-written frame is parted from those behind it.
    fn first_droppable(&mut self) -> Option<usize> {
        if let (1.., Some(Entry::Frames { span, start, end, frames })) = (self.written, self.entries.front()) {
            let (mut cut, mut count) = (0, 0);
            while cut < self.written {
                cut += frame_bytes(&span.bytes[start + cut..]);
                count += 1;
            }
            if count < *frames {
                let (kept, behind) = ((*start, start + cut, count), (start + cut, *end, frames - count));
                let span = Rc::clone(span);
                let entry = |(start, end, frames)| Entry::Frames { span: Rc::clone(&span), start, end, frames };
                self.entries[0] = entry(kept);
                self.entries.insert(1, entry(behind));
                self.bytes += ENTRY_BYTES;
                self.ledger.take(ENTRY_BYTES);
            }
        }
        let half = usize::from(self.written > 0);
        (half..self.entries.len()).find(|&at| matches!(self.entries[at], Entry::Frames { .. }))
    }

    /// Cuts `count` frames, `cut` bytes, off the front of the entry `at`, and notes the hole in their place.
    fn cut_front(&mut self, at: usize, cut: usize, count: u64) {
        let Entry::Frames { span, start, frames, .. } = &mut self.entries[at] else { return };
        *start += cut;
        *frames -= count;
        let (channel, gone) = (span.channel, *frames == 0);
        self.forget(cut, count);
        if gone {
            self.entries.remove(at);
            self.forget(ENTRY_BYTES, 0);
            self.ledger.give_back(ENTRY_BYTES);
        }
        self.note_hole(at, channel, count);
    }

    /// Adds `lost` to the hole of `channel` at the place `at`, or makes one.
    fn note_hole(&mut self, at: usize, wanted: ChannelId, lost: u64) {
        let holes_before = |entry: &&Entry| matches!(entry, Entry::Hole { .. });
        let fixed = usize::from(self.written > 0);
        let first = at - self.entries.range(fixed..at).rev().take_while(holes_before).count();
        let last = self.entries.len().min(at + 1);
        for entry in self.entries.range_mut(first..last) {
            if let Entry::Hole { channel, count, frame } = entry
                && *channel == wanted
            {
                *count += lost;
                frame.clear();
                return;
            }
        }
        self.entries.insert(at, Entry::Hole { channel: wanted, count: lost, frame: Vec::new() });
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let frames = self.entries.iter().filter(|entry| matches!(entry, Entry::Frames { .. })).count();
        self.ledger.give_back(frames * ENTRY_BYTES);
    }
}

fn frame_bytes(bytes: &[u8]) -> usize {
    Header::peek(bytes).expect("a span holds whole frames").frame_bytes()
}

fn offset_of(bytes: &[u8], frames: u64) -> usize {
    (0..frames).fold(0, |at, _| at + frame_bytes(&bytes[at..]))
}
