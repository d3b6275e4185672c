//! What waits for one connection, in order, and what was dropped from it. It never looks past its own connection.
//!
//! Frames wait as spans: references to runs as they came off the wire, shared by all listeners of the channel. Dropping
//! leaves a hole in the very place, which the listener is told as a `Lagged` with the exact count.

use crate::quota::{Charge, Ledger};
use broadcaster_protocol::control::{Control, Lagged, Overflow};
use broadcaster_protocol::frame::extent;
use broadcaster_protocol::{ChannelId, Run};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
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
    messages: u64,
    bytes: Bytes,
    _charge: Charge,
}

impl Span {
    pub(crate) fn new(run: &Run, ledger: &Ledger) -> Rc<Self> {
        Rc::new(Self {
            channel: run.channel(),
            messages: run.messages(),
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
    /// Whole frames with so many messages, at `start..end` of the span.
    Frames { span: Rc<Span>, start: usize, end: usize, messages: u64 },
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
    /// Bytes, with their bookkeeping, and messages of all `Frames` entries.
    bytes: usize,
    messages: u64,
    /// Bytes of all `Control` entries.
    replies_bytes: usize,
    /// What went out in front of an entry that was parted since; [`advance`](Self::advance) tells it with the next bytes.
    untold: Delivered,
}

/// What was dropped from an outbox, for the counters: in all, and by channel.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    total: u64,
    by_channel: Vec<(ChannelId, u64)>,
}

impl Losses {
    fn add(&mut self, channel: ChannelId, count: u64) {
        self.total += count;
        match self.by_channel.last_mut() {
            Some((last, lost)) if *last == channel => *lost += count,
            _ => self.by_channel.push((channel, count)),
        }
    }

    /// Messages in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Messages by channel; a channel may come more than once.
    pub(crate) fn by_channel(&self) -> &[(ChannelId, u64)] {
        &self.by_channel
    }
}

/// What went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delivered {
    pub(crate) messages: u64,
    /// Bytes of their frames.
    pub(crate) bytes: u64,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
}

impl Outbox {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            entries: VecDeque::new(),
            written: 0,
            bytes: 0,
            messages: 0,
            replies_bytes: 0,
            untold: Delivered::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that can be given up without ending the connection.
    pub(crate) fn droppable_bytes(&self) -> usize {
        match self.entries.front() {
            Some(Entry::Frames { start, end, .. }) if self.written > 0 => self.bytes - (end - start + ENTRY_BYTES),
            _ => self.bytes,
        }
    }

    /// Messages that wait, and bytes of their frames with their bookkeeping.
    pub(crate) fn queue(&self) -> (u64, usize) {
        (self.messages, self.bytes)
    }

    /// Bytes of answers that wait.
    pub(crate) fn replies_bytes(&self) -> usize {
        self.replies_bytes
    }

    pub(crate) fn push_control(&mut self, frame: Vec<u8>) {
        self.replies_bytes += frame.len();
        self.entries.push_back(Entry::Control(frame));
    }

    /// Queues a span under `overflow`, and adds what was dropped for it to `losses`; `false` if the listener asked to be
    /// disconnected in such a case. `blocked` tells that the connection does not take bytes at the moment.
    pub(crate) fn push_span(
        &mut self,
        span: &Rc<Span>,
        overflow: Overflow,
        room: Room,
        blocked: bool,
        losses: &mut Losses,
    ) -> bool {
        let bytes = self.bytes + span.bytes.len() + ENTRY_BYTES;
        let fits = bytes <= room.bytes && self.messages + span.messages <= room.messages;
        if overflow == Overflow::DropNewest && !fits {
            self.push_what_fits(span, room, losses);
            return true;
        }
        self.push_frames(span, 0, span.bytes.len(), span.messages);
        match overflow {
            Overflow::Latest if blocked || !fits => self.keep_latest(span.channel, losses),
            Overflow::DropOldest if !fits => self.drop_oldest(room, losses),
            Overflow::Disconnect if !fits && self.messages > 1 => return false,
            Overflow::DropOldest | Overflow::DropNewest | Overflow::Latest | Overflow::Disconnect => {}
        }
        true
    }

    /// Drops from the front until what waits fits into `room`, but never the newest frame.
    fn drop_oldest(&mut self, room: Room, losses: &mut Losses) {
        while self.bytes > room.bytes || self.messages > room.messages {
            let Some(at) = self.first_droppable() else { break };
            let Entry::Frames { span, start, end, messages } = &self.entries[at] else { break };
            let (excess_bytes, excess_messages) =
                (self.bytes.saturating_sub(room.bytes), self.messages.saturating_sub(room.messages));
            let newest = !self.entries.range(at + 1..).any(|entry| matches!(entry, Entry::Frames { .. }));
            let (mut cut, mut count) = (0, 0);
            if !newest && (end - start <= excess_bytes || *messages <= excess_messages) {
                (cut, count) = (end - start, *messages);
            } else {
                while cut < excess_bytes || count < excess_messages {
                    let (size, more) = extent(&span.bytes[start + cut..*end]);
                    if newest && start + cut + size == *end {
                        break;
                    }
                    (cut, count) = (cut + size, count + more);
                    if start + cut == *end {
                        break;
                    }
                }
            }
            if count == 0 {
                break;
            }
            self.cut_front(at, cut, count, losses);
        }
    }

    /// Drops the oldest half of what can be dropped, and at least one run, the newest too.
    pub(crate) fn drop_oldest_half(&mut self, losses: &mut Losses) {
        let keep = self.bytes - self.droppable_bytes().div_ceil(2);
        while self.bytes > keep && self.drop_oldest_entry(losses) {}
    }

    /// Drops the oldest run that waits whole, the newest too; whether there was one.
    fn drop_oldest_entry(&mut self, losses: &mut Losses) -> bool {
        let Some(at) = self.first_droppable() else { return false };
        let Entry::Frames { start, end, messages, .. } = &self.entries[at] else { return false };
        let (cut, count) = (end - start, *messages);
        self.cut_front(at, cut, count, losses);
        true
    }

    /// Drops all frames of `channel` but the newest. For a listener that wants the latest only.
    pub(crate) fn keep_latest(&mut self, wanted: ChannelId, losses: &mut Losses) {
        let mut newest = true;
        let Some(first) = self.first_droppable() else { return };
        for at in (first..self.entries.len()).rev() {
            let Entry::Frames { span, start, end, messages } = &self.entries[at] else { continue };
            if span.channel != wanted {
                continue;
            }
            let (mut cut, mut count) = (end - start, *messages);
            if std::mem::take(&mut newest) {
                (cut, count) = (0, 0);
                loop {
                    let (size, more) = extent(&span.bytes[start + cut..*end]);
                    if start + cut + size == *end {
                        break;
                    }
                    (cut, count) = (cut + size, count + more);
                }
            }
            if count > 0 {
                self.cut_front(at, cut, count, losses);
            }
        }
    }

    /// Drops every frame that is not half written, without a word: the connection is about to end.
    pub(crate) fn clear_frames(&mut self, losses: &mut Losses) {
        while self.drop_oldest_entry(losses) {}
        let before = self.entries.len();
        let mut at = 0;
        let half_written = usize::from(self.written > 0);
        self.entries.retain(|entry| {
            at += 1;
            at <= half_written || !matches!(entry, Entry::Hole { .. })
        });
        self.ledger.give_back((before - self.entries.len()) * ENTRY_BYTES);
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

    /// The connection took `bytes` of what is outgoing; returns what went out whole with it.
    pub(crate) fn advance(&mut self, bytes: usize) -> Delivered {
        let mut delivered = std::mem::take(&mut self.untold);
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
                Some(Entry::Frames { start, end, messages, .. }) => {
                    self.forget(end - start + ENTRY_BYTES, messages);
                    self.ledger.give_back(ENTRY_BYTES);
                    delivered.messages += messages;
                    delivered.bytes += (end - start) as u64;
                }
                Some(Entry::Hole { .. }) => self.ledger.give_back(ENTRY_BYTES),
                None => {}
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > IDLE_ENTRIES_MAX {
            self.entries.shrink_to(IDLE_ENTRIES_MAX);
        }
        self.written += left;
        debug_assert!(left == 0 || !self.entries.is_empty(), "more was written than was outgoing");
        delivered
    }

    fn push_frames(&mut self, span: &Rc<Span>, start: usize, end: usize, messages: u64) {
        self.bytes += end - start + ENTRY_BYTES;
        self.messages += messages;
        self.ledger.take(ENTRY_BYTES);
        self.entries.push_back(Entry::Frames { span: Rc::clone(span), start, end, messages });
    }

    fn forget(&mut self, bytes: usize, messages: u64) {
        self.bytes -= bytes;
        self.messages -= messages;
    }

    /// Queues the first frames of the span that fit and drops the others; the hole comes after what was queued.
    fn push_what_fits(&mut self, span: &Rc<Span>, room: Room, losses: &mut Losses) {
        let (mut end, mut count) = (0, 0);
        while end < span.bytes.len() {
            let (size, more) = extent(&span.bytes[end..]);
            let waits = self.messages + count;
            let fits = self.bytes + end + size + ENTRY_BYTES <= room.bytes && waits + more <= room.messages;
            if !fits && waits > 0 {
                break;
            }
            (end, count) = (end + size, count + more);
        }
        if count > 0 {
            self.push_frames(span, 0, end, count);
        }
        let lost = span.messages - count;
        if lost > 0 {
            self.note_hole(self.entries.len(), span.channel, lost, losses);
        }
    }

    /// The first entry of frames of which nothing is written. A half-written frame is parted from those behind it.
    fn first_droppable(&mut self) -> Option<usize> {
        if let (1.., Some(Entry::Frames { span, start, end, messages })) = (self.written, self.entries.front_mut()) {
            let (mut cut, mut count) = (0, 0);
            while cut < self.written {
                let (size, more) = extent(&span.bytes[*start + cut..*end]);
                (cut, count) = (cut + size, count + more);
            }
            if cut == self.written && count < *messages {
                // Whole frames were written: what is left begins with one.
                *start += cut;
                *messages -= count;
                self.untold.messages += count;
                self.untold.bytes += cut as u64;
                self.forget(cut, count);
                self.written = 0;
            } else if count < *messages {
                let behind = Entry::Frames {
                    span: Rc::clone(span),
                    start: *start + cut,
                    end: *end,
                    messages: *messages - count,
                };
                (*end, *messages) = (*start + cut, count);
                self.entries.insert(1, behind);
                self.bytes += ENTRY_BYTES;
                self.ledger.take(ENTRY_BYTES);
            }
        }
        let half = usize::from(self.written > 0);
        (half..self.entries.len()).find(|&at| matches!(self.entries[at], Entry::Frames { .. }))
    }

    /// Cuts `count` frames, `cut` bytes, off the front of the entry `at`, and notes the hole in their place.
    fn cut_front(&mut self, at: usize, cut: usize, count: u64, losses: &mut Losses) {
        let Entry::Frames { span, start, messages, .. } = &mut self.entries[at] else { return };
        *start += cut;
        *messages -= count;
        let (channel, gone) = (span.channel, *messages == 0);
        self.forget(cut, count);
        if gone {
            self.entries.remove(at);
            self.forget(ENTRY_BYTES, 0);
            self.ledger.give_back(ENTRY_BYTES);
        }
        self.note_hole(at, channel, count, losses);
    }

    /// Adds `lost` to the hole of `channel` at the place `at`, or makes one. Holes that have come to stand side by side become
    /// one for each channel, so that their number is bounded by what stands between them.
    fn note_hole(&mut self, at: usize, wanted: ChannelId, lost: u64, losses: &mut Losses) {
        losses.add(wanted, lost);
        let is_hole = |entry: &&Entry| matches!(entry, Entry::Hole { .. });
        let fixed = usize::from(self.written > 0);
        let first = at - self.entries.range(fixed..at).rev().take_while(is_hole).count();
        let last = at + self.entries.range(at..).take_while(is_hole).count();
        let mut counts = BTreeMap::from([(wanted, lost)]);
        for entry in self.entries.range(first..last) {
            if let Entry::Hole { channel, count, .. } = entry {
                *counts.entry(*channel).or_default() += count;
            }
        }
        let (had, have) = (last - first, counts.len());
        let mut holes = counts.into_iter().map(|(channel, count)| Entry::Hole { channel, count, frame: Vec::new() });
        for (entry, hole) in self.entries.range_mut(first..last).zip(&mut holes) {
            *entry = hole;
        }
        if have > had {
            self.ledger.take(ENTRY_BYTES);
            holes.for_each(|hole| self.entries.insert(last, hole));
        } else {
            self.ledger.give_back((had - have) * ENTRY_BYTES);
            self.entries.drain(first + have..last);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let booked = self.entries.iter().filter(|entry| !matches!(entry, Entry::Control(_))).count();
        self.ledger.give_back(booked * ENTRY_BYTES);
    }
}
