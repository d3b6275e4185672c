//! The queue of one connection: what waits, in order, and what was lost from it. It never looks beyond its connection.
//!
//! Frames wait as pieces of spans, which all listeners of a channel share. What is dropped leaves a gap: a `Lagged` with
//! the exact count, behind every older message of the channel and before every newer one. Each frame that is queued,
//! dropped or replaced costs a bounded number of steps, the index of gaps being searched in logarithmic time.
//!
//! ```text
//! begun | head: controls and gaps | body: frames, controls and gaps
//!       |                         |
//!       |                         +- the oldest frame that can be dropped; its gap goes to the end of the head
//!       +- the rest of a half-written entry comes first and is never dropped; it is parted from a run when that is cut
//! ```

mod line;
mod losses;
#[cfg(test)]
mod model;
mod span;
#[cfg(test)]
mod tests;

pub(crate) use losses::{Delivered, Losses};
pub(crate) use span::Span;

use crate::effect::Attachment;
use crate::memory::{Charge, Ledger};
use broadcaster_protocol::ChannelId;
use broadcaster_protocol::control::{Control, Lagged, Overflow};
use broadcaster_protocol::frame::Header;
use line::{ControlFrame, Entry, Line};
use span::{Extent, Piece};
use std::rc::Rc;

/// Bytes of bookkeeping for each run of frames, as [`Outbox::queue`] and [`Room`] count them.
const ENTRY_BYTES: usize = 64;

/// Slots that an empty outbox may keep, so that a connection that reads does not allocate in each turn. They are 1.5 KiB, belong
/// to the fixed cost of a connection and are not charged.
const IDLE_SLOTS: usize = 32;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
}

/// The terms of the subscription for which a span is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) overflow: Overflow,
    pub(crate) observer: bool,
    /// The most retained messages of each channel that are replayed. No matter for what is queued.
    pub(crate) replay: u32,
}

impl Terms {
    /// Whether senders with backpressure wait for a subscription with these terms.
    pub(crate) fn slows_senders(self) -> bool {
        self.overflow == Overflow::DropOldest && !self.observer
    }
}

/// The result of [`Outbox::push_span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pushed {
    /// The span waits, at least its last message.
    Queued,
    /// The last message of the span is a part of the losses.
    Lost,
    /// The span exceeds the room of a subscription that asked to be disconnected then. It waits, to be counted when the
    /// outbox is cleared.
    TooSlow,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    charge: Charge,
    /// What is half written, once it was parted from what can be dropped: a control frame, a gap, or a single frame.
    begun: Option<Entry>,
    /// Bytes of the first entry that were written.
    written: usize,
    /// What precedes the oldest frames that wait: no frames.
    head: Line,
    body: Line,
    /// All frames, with [`ENTRY_BYTES`] for each entry but `begun`.
    waiting: Extent,
    /// How much of it exceeded the room when credited frames were last queued. It is brought up to date before it is used.
    overshoot: Extent,
    /// All control frames.
    replies_bytes: usize,
    /// Control frames with an attachment.
    attachments: usize,
    /// Frames that were written completely before what follows them was parted, until [`advance`](Self::advance) or
    /// [`take_parted`](Self::take_parted) reports them.
    parted: Delivered,
    /// The gaps of the last [`outgoing`](Self::outgoing), as frames.
    lagged: Vec<u8>,
}

impl Outbox {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self {
            charge: ledger.charge(0),
            begun: None,
            written: 0,
            head: Line::default(),
            body: Line::default(),
            waiting: Extent::default(),
            overshoot: Extent::default(),
            replies_bytes: 0,
            attachments: 0,
            parted: Delivered::default(),
            lagged: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.head.is_empty() && self.body.is_empty()
    }

    /// Messages that wait, and bytes of their frames with their bookkeeping.
    pub(crate) fn queue(&self) -> (u64, usize) {
        (self.waiting.messages, self.waiting.bytes)
    }

    /// Bytes of the frames that wait, without bookkeeping.
    pub(crate) fn frames_bytes(&self) -> usize {
        self.waiting.bytes - self.body.runs() * ENTRY_BYTES
    }

    /// Whether more than half of `room` is used.
    #[inline]
    pub(crate) fn exceeds_half(&self, room: Room) -> bool {
        self.waiting.bytes > room.bytes / 2 || self.waiting.messages > room.messages / 2
    }

    /// Bytes of control frames that wait.
    pub(crate) fn replies_bytes(&self) -> usize {
        self.replies_bytes
    }

    /// Bytes, as [`queue`](Self::queue) counts them, that can be dropped while the connection goes on. The run at which the
    /// writer stands is not among them.
    pub(crate) fn droppable_bytes(&self) -> usize {
        let kept = match &self.begun {
            Some(Entry::Frames(piece)) => piece.extent().bytes,
            Some(_) => 0,
            None => self.half_written().map_or(0, |piece| with_bookkeeping(piece.extent()).bytes),
        };
        self.waiting.bytes - kept
    }

    /// Bytes of memory that the run at which the writer stands keeps allocated. If dropping does not release them, only the
    /// end of the connection does.
    pub(crate) fn half_written_bytes(&self) -> usize {
        self.half_written().map_or(0, Piece::pinned_bytes)
    }

    /// Bytes of memory of the outbox, as they are charged: slots, the index of gaps, and control frames. Spans are charged
    /// by themselves.
    pub(crate) fn footprint(&self) -> usize {
        self.head.footprint(0) + self.body.footprint(IDLE_SLOTS) + self.replies_bytes + self.lagged.capacity()
    }

    pub(crate) fn push_control(&mut self, frame: Vec<u8>, attachment: Option<Attachment>) {
        self.replies_bytes += frame.len();
        self.attachments += usize::from(attachment.is_some());
        self.body.push_control(ControlFrame { bytes: frame.into_boxed_slice(), attachment });
        self.recharge();
    }

    /// What has to be written with the first byte of [`outgoing`](Self::outgoing), which is one frame then.
    #[inline]
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        if self.attachments == 0 || self.written > 0 {
            return None;
        }
        match self.front() {
            Some(Entry::Control(frame)) => frame.attachment,
            Some(Entry::Frames(_) | Entry::Gap { .. } | Entry::Vacant) | None => None,
        }
    }

    /// Drops the frame of the [`attachment`](Self::attachment): what was attached does not exist any more.
    pub(crate) fn withdraw(&mut self) {
        if self.attachment().is_some() {
            self.finish(&mut Delivered::default());
            self.recharge();
        }
    }

    /// Queues a span under `terms`, and adds what is dropped for it to `losses`.
    ///
    /// A single frame always fits into an outbox without frames, whatever its size.
    #[inline]
    pub(crate) fn push_span(&mut self, span: &Rc<Span>, terms: Terms, room: Room, losses: &mut Losses) -> Pushed {
        if self.fits(span.extent(), room) && self.body.has_room() {
            self.push_frames(Piece::of(span, terms));
            return Pushed::Queued;
        }
        self.push_and_drop(span, terms, room, losses)
    }

    /// Queues a span whatever waits, because its sender was granted credit for it, or because it is replayed. What exceeds `room` by that is
    /// room for the spans that follow, until it is written or dropped: no more is dropped for them than if the outbox were just full.
    #[inline]
    pub(crate) fn push_credited(&mut self, span: &Rc<Span>, terms: Terms, room: Room) {
        if !self.fits(span.extent(), room) || self.overshoot != Extent::default() {
            self.part();
            self.overshoot = self.overshoot(room);
            self.overshoot += with_bookkeeping(span.extent());
        }
        self.push_frames(Piece::of(span, terms));
        self.overshoot = self.overshoot(room);
        self.recharge();
    }

    /// How much of what exceeds `room` does so because of credited frames.
    fn overshoot(&self, room: Room) -> Extent {
        Extent {
            bytes: self.overshoot.bytes.min(self.waiting.bytes.saturating_sub(room.bytes)),
            messages: self.overshoot.messages.min(self.waiting.messages.saturating_sub(room.messages)),
        }
    }

    /// Queues a span for which memory is needed, or something has to be dropped.
    #[cold]
    fn push_and_drop(&mut self, span: &Rc<Span>, terms: Terms, room: Room, losses: &mut Losses) -> Pushed {
        let mut room = room;
        let mut fits = self.fits(span.extent(), room);
        if !fits || self.body.latest_only {
            self.part();
            self.overshoot = self.overshoot(room);
            room.bytes += self.overshoot.bytes;
            room.messages += self.overshoot.messages;
            fits = self.fits(span.extent(), room);
        }
        let fits_alone = || self.waiting.messages == 0 && span.is_one_frame();
        let mut pushed = Pushed::Queued;
        match terms.overflow {
            Overflow::Disconnect if !fits && !fits_alone() => {
                pushed = Pushed::TooSlow;
                self.push_frames(Piece::of(span, terms));
            }
            Overflow::DropNewest if !fits => pushed = self.push_what_fits(Piece::of(span, terms), room, losses),
            Overflow::Latest if !fits || self.body.latest_only => {
                self.replace_latest(Piece::of(span, terms), losses);
                self.drop_oldest(room, losses);
            }
            Overflow::DropOldest
            | Overflow::DropNewest
            | Overflow::Latest
            | Overflow::Disconnect
            | Overflow::Other(_) => {
                self.push_frames(Piece::of(span, terms));
                if !fits {
                    self.drop_oldest(room, losses);
                }
            }
        }
        self.recharge();
        pushed
    }

    /// Adds messages that were never queued to `losses`, as lost behind everything that waits.
    pub(crate) fn push_loss(&mut self, channel: ChannelId, count: u64, terms: Terms, losses: &mut Losses) {
        self.part(); // a gap that is half written must not grow
        losses.add(channel, count, terms.observer);
        self.body.push_loss(channel, count);
        self.recharge();
    }

    /// Reduces each channel that is queued under `Latest` to its newest frame, now and until the outbox runs empty. For the
    /// moment at which the connection stops taking bytes.
    pub(crate) fn collapse_latest(&mut self, losses: &mut Losses) {
        self.keep_latest(losses);
        self.recharge();
    }

    /// Drops the oldest half of the bytes that can be dropped, in whole runs, the newest too.
    pub(crate) fn drop_oldest_half(&mut self, losses: &mut Losses) {
        self.part();
        let kept = self.waiting.bytes - self.droppable_bytes().div_ceil(2);
        while self.waiting.bytes > kept
            && let Some(extent) = self.oldest().map(Piece::extent)
        {
            self.drop_front(extent, losses);
        }
        self.recharge();
    }

    /// Drops all frames and gaps that are not half written. For a connection that is about to end: nothing on it reports
    /// the loss.
    pub(crate) fn clear_frames(&mut self, losses: &mut Losses) {
        self.part();
        let waiting = &mut self.waiting;
        self.head.keep_controls(|_| {});
        self.body.keep_controls(|piece| {
            losses.add(piece.channel(), piece.extent().messages, piece.observer());
            *waiting -= with_bookkeeping(piece.extent());
        });
        self.recharge();
    }

    /// The bytes to write, in order, in at most `slices_max` slices. There are none only if the outbox is empty. They end before a frame with
    /// an attachment, and behind it if it is the first.
    #[inline]
    pub(crate) fn outgoing(&mut self, slices_max: usize) -> Outgoing<'_> {
        if self.begun.is_some() || self.head.gaps() + self.body.gaps() > 0 {
            self.encode_gaps(slices_max);
        }
        Outgoing { outbox: Some(self), at: 0, end: slices_max, written: self.written, gaps: &self.lagged }
    }

    /// Returns the frames that were written before a loss parted them from what follows, and that no
    /// [`advance`](Self::advance) has returned.
    pub(crate) fn take_parted(&mut self) -> Delivered {
        std::mem::take(&mut self.parted)
    }

    /// The connection took `bytes` of the last [`outgoing`](Self::outgoing), since which nothing else has happened here.
    /// Returns the runs that are thereby written completely, and the frames in front of a run that was parted.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: usize) -> Delivered {
        let mut delivered = std::mem::take(&mut self.parted);
        let mut left = bytes;
        while left > 0 {
            if self.begun.is_none()
                && self.head.is_empty()
                && let Some((extent, observer)) = self.body.drop_frames(self.written + left)
            {
                left -= extent.bytes - std::mem::take(&mut self.written);
                self.waiting -= with_bookkeeping(extent);
                delivered.add(extent, observer);
            } else if let Some(size) = self.front().map(entry_bytes) {
                let taken = left.min(size - self.written);
                (left, self.written) = (left - taken, self.written + taken);
                if self.written == size {
                    self.finish(&mut delivered);
                }
            } else {
                break;
            }
        }
        debug_assert!(left == 0, "{left} bytes more were written than were outgoing");
        self.body.latest_only &= !self.is_empty();
        if self.charge.bytes() > 0 {
            // To write never needs more memory.
            self.lagged = Vec::new();
            self.recharge();
        }
        delivered
    }

    /// The spans that it holds, as their addresses, with the memory charged for each.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        self.window(usize::MAX).filter_map(|entry| match entry {
            Entry::Frames(piece) => Some((piece.span_address(), piece.pinned_bytes())),
            Entry::Control(_) | Entry::Gap { .. } | Entry::Vacant => None,
        })
    }

    /// Panics if any part contradicts another.
    pub(crate) fn invariants(&self) {
        self.head.invariants();
        self.body.invariants();
        assert_eq!(self.head.runs(), 0, "frames wait in the head");
        let (mut waiting, mut replies_bytes, mut attachments) = (Extent::default(), 0, 0);
        for entry in self.window(usize::MAX) {
            match entry {
                Entry::Control(frame) => {
                    replies_bytes += frame.bytes.len();
                    attachments += usize::from(frame.attachment.is_some());
                }
                Entry::Frames(piece) => waiting += with_bookkeeping(piece.extent()),
                Entry::Gap { .. } | Entry::Vacant => {}
            }
        }
        if let Some(Entry::Frames(_)) = self.begun {
            waiting.bytes -= ENTRY_BYTES;
        }
        assert_eq!((self.waiting, self.replies_bytes), (waiting, replies_bytes), "what waits is counted wrongly");
        assert_eq!(self.attachments, attachments, "attachments are counted wrongly");
        assert_eq!(self.charge.bytes(), self.footprint(), "the charge is not the footprint");
        let (written, size) = (self.written, self.front().map_or(1, entry_bytes));
        assert!(written < size, "{written} bytes of an entry of {size} are written");
        assert!(self.begun.is_none() || written > 0, "an entry is parted, and nothing of it is written");
        if let Some(Entry::Frames(piece)) = &self.begun {
            assert_eq!(piece.first_frame(), piece.extent(), "more than one frame is parted");
        }
    }

    /// The entry at the index; some of them are vacant, but never the first.
    #[inline]
    fn entry(&self, at: usize) -> Option<&Entry> {
        let at = match &self.begun {
            Some(begun) if at == 0 => return Some(begun),
            Some(_) => at - 1,
            None => at,
        };
        self.head.entry(at).or_else(|| self.body.entry(at - self.head.len()))
    }

    /// The first entry.
    fn front(&self) -> Option<&Entry> {
        self.begun.as_ref().or_else(|| self.head.front()).or_else(|| self.body.front())
    }

    fn half_written(&self) -> Option<&Piece> {
        match self.front() {
            Some(Entry::Frames(piece)) if self.written > 0 => Some(piece),
            Some(_) | None => None,
        }
    }

    /// The first `max` entries without those that are vacant: one at least, unless the outbox is empty.
    fn window(&self, max: usize) -> impl Iterator<Item = &Entry> {
        (0..max).map_while(|at| self.entry(at)).filter(|entry| !matches!(entry, Entry::Vacant))
    }

    /// Writes the gaps among the first `max` entries as frames.
    #[cold]
    fn encode_gaps(&mut self, max: usize) {
        let mut lagged = std::mem::take(&mut self.lagged);
        lagged.clear();
        for entry in self.window(max) {
            if let Entry::Gap { channel, count } = entry {
                encode_lagged(*channel, *count, &mut lagged);
            }
        }
        self.lagged = lagged;
        self.recharge();
    }

    fn fits(&self, more: Extent, room: Room) -> bool {
        let more = with_bookkeeping(more);
        self.waiting.bytes + more.bytes <= room.bytes && self.waiting.messages + more.messages <= room.messages
    }

    #[inline]
    fn push_frames(&mut self, piece: Piece) {
        self.waiting += with_bookkeeping(piece.extent());
        self.body.push_frames(piece);
    }

    /// Queues the first frames that fit and loses the others.
    fn push_what_fits(&mut self, mut piece: Piece, room: Room, losses: &mut Losses) -> Pushed {
        let alone = self.waiting.messages == 0;
        let taken = piece.frames_while(|mut taken, frame| {
            let first = taken == Extent::default();
            taken += frame;
            self.fits(taken, room) || (alone && first)
        });
        let (channel, lost) = (piece.channel(), piece.extent().messages - taken.messages);
        let observer = piece.observer();
        if taken.messages > 0 {
            piece.truncate(taken);
            self.push_frames(piece);
        }
        if lost == 0 {
            return Pushed::Queued;
        }
        losses.add(channel, lost, observer);
        self.body.push_loss(channel, lost);
        Pushed::Lost
    }

    /// Queues the newest frame in place of all that waits of its channel under `Latest`.
    fn replace_latest(&mut self, mut piece: Piece, losses: &mut Losses) {
        self.keep_latest(losses);
        let channel = piece.channel();
        if let Some(old) = self.body.lose_newest(channel) {
            losses.add(channel, old.extent().messages, old.observer());
            self.waiting -= with_bookkeeping(old.extent());
        }
        let older = piece.before_newest();
        if older.messages > 0 {
            losses.add(channel, older.messages, piece.observer());
            self.body.push_loss(channel, older.messages);
            piece.split_front(older);
        }
        self.push_frames(piece);
    }

    fn keep_latest(&mut self, losses: &mut Losses) {
        if std::mem::replace(&mut self.body.latest_only, true) || self.body.latest() == 0 {
            return;
        }
        self.part();
        let waiting = &mut self.waiting;
        self.body.keep_newest(|piece, lost| {
            losses.add(piece.channel(), lost.messages, piece.observer());
            *waiting -= if lost == piece.extent() { with_bookkeeping(lost) } else { lost };
        });
    }

    /// Drops from the front until what waits fits into `room`, but never the newest frame.
    fn drop_oldest(&mut self, room: Room, losses: &mut Losses) {
        while self.waiting.bytes > room.bytes || self.waiting.messages > room.messages {
            let excess = Extent {
                bytes: self.waiting.bytes.saturating_sub(room.bytes),
                messages: self.waiting.messages.saturating_sub(room.messages),
            };
            let newest = self.body.runs() == 1;
            let Some(piece) = self.oldest() else { return };
            let whole = piece.extent();
            let cut = if !newest && (whole.bytes <= excess.bytes || whole.messages <= excess.messages) {
                whole
            } else {
                piece.frames_while(|cut, frame| {
                    let is_newest = newest && cut.bytes + frame.bytes == whole.bytes;
                    !is_newest && (cut.bytes < excess.bytes || cut.messages < excess.messages)
                })
            };
            if cut.messages == 0 {
                return;
            }
            self.drop_front(cut, losses);
        }
    }

    /// The oldest frames that can be dropped. What precedes them moves to the head.
    fn oldest(&mut self) -> Option<&Piece> {
        while self.body.runs() > 0 && !matches!(self.body.front(), Some(Entry::Frames(_))) {
            match self.body.pop_front() {
                Some(Entry::Control(frame)) => self.head.push_control(frame),
                Some(Entry::Gap { channel, count }) => self.head.push_loss(channel, count),
                Some(Entry::Frames(_) | Entry::Vacant) | None => {}
            }
        }
        match self.body.front() {
            Some(Entry::Frames(piece)) => Some(piece),
            Some(Entry::Control(_) | Entry::Gap { .. } | Entry::Vacant) | None => None,
        }
    }

    /// Drops these frames from the front of the [`oldest`](Self::oldest) ones.
    fn drop_front(&mut self, cut: Extent, losses: &mut Losses) {
        let Some(piece) = self.take_front(cut) else { return };
        losses.add(piece.channel(), cut.messages, piece.observer());
        self.head.push_loss(piece.channel(), cut.messages);
    }

    /// Takes these frames off the frames at the front of the body.
    fn take_front(&mut self, front: Extent) -> Option<Piece> {
        let Some(Entry::Frames(piece)) = self.body.front_mut() else { return None };
        if front != piece.extent() {
            self.waiting -= front;
            return Some(piece.split_front(front));
        }
        self.waiting -= with_bookkeeping(front);
        match self.body.pop_front() {
            Some(Entry::Frames(piece)) => Some(piece),
            Some(Entry::Control(_) | Entry::Gap { .. } | Entry::Vacant) | None => None,
        }
    }

    /// Parts the half-written entry from what can be dropped. Whole frames in front of it are delivered, those behind it stay
    /// in the body. Lazily, because a connection that takes its bytes in small portions would walk through every frame.
    fn part(&mut self) {
        if self.written == 0 || self.begun.is_some() {
            return;
        }
        let line = if self.head.is_empty() { &mut self.body } else { &mut self.head };
        let Some(Entry::Frames(piece)) = line.front() else {
            self.begun = line.pop_front();
            return;
        };
        let written = self.written;
        let whole = piece.frames_while(|before, frame| before.bytes + frame.bytes <= written);
        if whole.messages > 0
            && let Some(piece) = self.take_front(whole)
        {
            self.written -= whole.bytes;
            self.parted.add(piece.extent(), piece.observer());
        }
        if self.written > 0
            && let Some(Entry::Frames(piece)) = self.body.front()
            && let frame = piece.first_frame()
            && let Some(piece) = self.take_front(frame)
        {
            self.waiting += frame;
            self.begun = Some(Entry::Frames(piece));
        }
    }

    /// The first entry was written completely. If it is frames, they were parted.
    #[cold]
    fn finish(&mut self, delivered: &mut Delivered) {
        self.written = 0;
        let entry = if self.begun.is_some() {
            self.begun.take()
        } else if self.head.is_empty() {
            self.body.pop_front()
        } else {
            self.head.pop_front()
        };
        match entry {
            Some(Entry::Control(frame)) => {
                self.replies_bytes -= frame.bytes.len();
                self.attachments -= usize::from(frame.attachment.is_some());
            }
            Some(Entry::Frames(piece)) => {
                self.waiting -= piece.extent();
                delivered.add(piece.extent(), piece.observer());
            }
            Some(Entry::Gap { .. } | Entry::Vacant) | None => {}
        }
    }

    /// Gives back unused slots and brings the charge up to date. Every operation ends with it that may change the footprint.
    #[inline]
    fn recharge(&mut self) {
        self.head.shrink(0);
        self.body.shrink(IDLE_SLOTS);
        self.charge.set(self.footprint());
    }
}

/// The first entries of an outbox as slices of bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing<'a> {
    outbox: Option<&'a Outbox>,
    at: usize,
    end: usize,
    /// Bytes of the next entry that were written.
    written: usize,
    /// The gaps that follow, as frames.
    gaps: &'a [u8],
}

impl<'a> Iterator for Outgoing<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while self.at < self.end {
            let entry = self.outbox?.entry(self.at)?;
            self.at += 1;
            let slice = match entry {
                Entry::Frames(piece) => piece.bytes(),
                Entry::Control(ControlFrame { bytes, attachment: None }) => bytes,
                Entry::Control(frame) => self.attached(frame)?,
                Entry::Gap { .. } => self.next_gap(),
                Entry::Vacant => continue,
            };
            return Some(&slice[std::mem::take(&mut self.written)..]);
        }
        None
    }
}

impl<'a> Outgoing<'a> {
    /// A frame with an attachment is written alone, unless that was written with its first bytes.
    #[cold]
    fn attached(&mut self, frame: &'a ControlFrame) -> Option<&'a [u8]> {
        let is_first = self.at == 1;
        if !is_first || self.written == 0 {
            self.end = 0;
        }
        is_first.then_some(&frame.bytes)
    }

    #[cold]
    fn next_gap(&mut self) -> &'a [u8] {
        let (frame, rest) = self.gaps.split_at(Header::peek(self.gaps).map_or(0, |header| header.frame_bytes()));
        self.gaps = rest;
        frame
    }
}

/// What an entry of frames counts for.
fn with_bookkeeping(frames: Extent) -> Extent {
    Extent { bytes: frames.bytes + ENTRY_BYTES, ..frames }
}

/// Bytes of an entry on the wire.
fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Control(frame) => frame.bytes.len(),
        Entry::Frames(piece) => piece.extent().bytes,
        Entry::Gap { channel, count } => {
            let mut frame = Vec::new();
            encode_lagged(*channel, *count, &mut frame);
            frame.len()
        }
        Entry::Vacant => 0,
    }
}

fn encode_lagged(channel: ChannelId, count: u64, out: &mut Vec<u8>) {
    let lagged = Control::Lagged(Lagged { id: channel.0, count, extensions: Vec::new() });
    lagged.encode(out).expect("two numbers fit into a control frame");
}
