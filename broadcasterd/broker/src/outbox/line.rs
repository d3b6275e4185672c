//! Entries in the order in which they go out, and the last gap of each channel among them. It never decides what is lost.
//!
//! An entry keeps its position for as long as it waits. What is lost behind a gap of its channel, with no frame of that
//! channel and no beginning or end of a subscription between, is added to that gap: a line has at most one gap for each frame entry and
//! channel, and for each such beginning or end and channel.

use super::span::{Extent, Piece};
use crate::effect::Attachment;
use broadcaster_protocol::control::kind;
use broadcaster_protocol::{ChannelId, Header};
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;

/// Upper bound of the bytes that an entry of the index takes: B-tree nodes with room for eleven hold at least five.
const END_BYTES: usize = 2 * size_of::<(ChannelId, End)>();

/// So many vacant slots are never worth a walk.
const VACANT_IGNORED: usize = 16;

#[derive(Debug)]
pub(super) enum Entry {
    /// Never dropped.
    Control(ControlFrame),
    /// Messages of this channel are missing here.
    Gap {
        channel: ChannelId,
        count: u64,
    },
    Frames(Piece),
    /// What was here was dropped, and is counted elsewhere.
    Vacant,
}

/// A control frame.
#[derive(Debug)]
pub(super) struct ControlFrame {
    pub(super) bytes: Box<[u8]>,
    /// What is written with its first byte.
    pub(super) attachment: Option<Attachment>,
}

/// Where an entry stands: positions rise along the line and are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(NonZeroU64);

#[derive(Debug)]
struct Slot {
    at: Position,
    entry: Entry,
}

const _: () = assert!(size_of::<Slot>() <= super::ENTRY_BYTES);

/// The end of one channel in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct End {
    /// The last gap, with no frame of the channel behind it but `newest`.
    gap: Option<Position>,
    /// The last frames, if newer ones may replace them and nothing was lost since.
    newest: Option<Position>,
}

#[derive(Debug)]
pub(super) struct Line {
    slots: VecDeque<Slot>,
    next: Position,
    /// Only channels of which something is known.
    ends: BTreeMap<ChannelId, End>,
    /// `Frames` entries, those of them that newer ones may replace, `Gap` and `Vacant` entries.
    runs: usize,
    latest: usize,
    gaps: usize,
    vacant: usize,
    /// Newer frames replace older ones of a channel that is queued under `Latest`, until the outbox runs empty. Only then does
    /// the index contain the newest frames.
    pub(super) latest_only: bool,
    #[cfg(test)]
    pub(super) visits: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            next: Position(NonZeroU64::MIN),
            ends: BTreeMap::new(),
            runs: 0,
            latest: 0,
            gaps: 0,
            vacant: 0,
            latest_only: false,
            #[cfg(test)]
            visits: 0,
        }
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many entries of frames there are.
    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// How many of them newer frames of their channel may replace.
    pub(super) fn latest(&self) -> usize {
        self.latest
    }

    pub(super) fn gaps(&self) -> usize {
        self.gaps
    }

    /// The number of entries, vacant ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The entry at the index. It may be vacant unless it is the first.
    #[inline]
    pub(super) fn entry(&self, at: usize) -> Option<&Entry> {
        self.slots.get(at).map(|slot| &slot.entry)
    }

    /// Whether [`push_frames`](Self::push_frames) changes neither the memory of the line nor its index.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.slots.len() < self.slots.capacity() && self.ends.is_empty() && !self.latest_only
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.slots.front().map(|slot| &slot.entry)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Entry> {
        self.slots.front_mut().map(|slot| &mut slot.entry)
    }

    pub(super) fn push_control(&mut self, frame: ControlFrame) {
        if parts_losses(&frame.bytes) {
            self.ends.clear(); // what is lost from here on must be reported behind it
        }
        self.push(Entry::Control(frame));
    }

    #[inline]
    pub(super) fn push_frames(&mut self, piece: Piece) {
        let (channel, latest) = (piece.channel(), piece.latest());
        let at = self.push(Entry::Frames(piece));
        self.runs += 1;
        self.latest += usize::from(latest);
        if latest && self.latest_only {
            let end = self.ends.entry(channel).or_default();
            if end.newest.replace(at).is_some() {
                end.gap = None;
            }
        } else if !self.ends.is_empty() {
            self.ends.remove(&channel);
        }
    }

    /// Notes that `count` messages are lost behind everything that waits.
    pub(super) fn push_loss(&mut self, channel: ChannelId, count: u64) {
        if let Some(&End { gap: Some(gap), newest: None }) = self.ends.get(&channel) {
            return self.widen(gap, count);
        }
        let at = self.push(Entry::Gap { channel, count });
        self.gaps += 1;
        self.ends.insert(channel, End { gap: Some(at), newest: None });
    }

    /// Turns the newest frames of the channel into a gap, if newer ones may replace them, and returns them.
    pub(super) fn lose_newest(&mut self, channel: ChannelId) -> Option<Piece> {
        let end = self.ends.get_mut(&channel)?;
        let at = end.newest.take()?;
        let gap = *end.gap.get_or_insert(at);
        let entry = self.get_mut(at)?;
        let Entry::Frames(piece) = std::mem::replace(entry, Entry::Gap { channel, count: 0 }) else { return None };
        if gap == at {
            self.gaps += 1;
        } else {
            *entry = Entry::Vacant;
            self.vacant += 1;
        }
        (self.runs, self.latest) = (self.runs - 1, self.latest - 1);
        self.widen(gap, piece.extent().messages);
        self.compact();
        Some(piece)
    }

    /// Drops all frames that newer ones of their channel may replace, and reports each with what it lost of its front.
    pub(super) fn keep_newest(&mut self, mut lost: impl FnMut(&Piece, Extent)) {
        let slots = self.take_slots();
        let frames = slots.iter().filter_map(|slot| match &slot.entry {
            Entry::Frames(piece) => Some((piece.channel(), slot.at)),
            Entry::Control(_) | Entry::Gap { .. } | Entry::Vacant => None,
        });
        let newest: BTreeMap<ChannelId, Position> = frames.collect();
        for Slot { at, entry } in slots {
            match entry {
                Entry::Vacant => {}
                Entry::Control(frame) => self.push_control(frame),
                Entry::Gap { channel, count } => self.push_loss(channel, count),
                Entry::Frames(piece) if !piece.latest() => self.push_frames(piece),
                Entry::Frames(mut piece) => {
                    let channel = piece.channel();
                    let stays = newest.get(&channel) == Some(&at);
                    let cut = if stays { piece.before_newest() } else { piece.extent() };
                    lost(&piece, cut);
                    if cut.messages > 0 {
                        self.push_loss(channel, cut.messages);
                        piece.split_front(cut);
                    }
                    if stays {
                        self.push_frames(piece);
                    }
                }
            }
        }
    }

    /// Drops everything but control frames, and reports the frames.
    pub(super) fn keep_controls(&mut self, mut lost: impl FnMut(&Piece)) {
        for slot in self.take_slots() {
            match slot.entry {
                Entry::Control(frame) => self.push_control(frame),
                Entry::Frames(piece) => lost(&piece),
                Entry::Gap { .. } | Entry::Vacant => {}
            }
        }
    }

    /// Drops the first entry if it is frames of `bytes_max` bytes at most; returns their extent, and whether they were for an
    /// observer.
    #[inline]
    pub(super) fn drop_frames(&mut self, bytes_max: usize) -> Option<(Extent, bool)> {
        let Slot { at, entry: Entry::Frames(piece) } = self.slots.front()? else { return None };
        let (at, extent, observer) = (*at, piece.extent(), piece.observer());
        let (channel, latest) = (piece.channel(), piece.latest());
        if extent.bytes > bytes_max {
            return None;
        }
        let Some(Slot { entry: Entry::Frames(_piece), .. }) = self.slots.pop_front() else { return None };
        self.visit(1);
        self.forget_frames(channel, latest, at);
        self.compact();
        Some((extent, observer))
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let Slot { at, entry } = self.slots.pop_front()?;
        self.visit(1);
        match &entry {
            Entry::Gap { channel, .. } => {
                self.gaps -= 1;
                self.forget(*channel, at);
            }
            Entry::Frames(piece) => self.forget_frames(piece.channel(), piece.latest(), at),
            Entry::Control(_) | Entry::Vacant => {}
        }
        self.compact();
        Some(entry)
    }

    /// Gives back slots that are not needed, but keeps `idle` of them in any case.
    #[inline]
    pub(super) fn shrink(&mut self, idle: usize) {
        let (len, capacity) = (self.slots.len(), self.slots.capacity());
        if capacity > idle && (len == 0 || len < capacity / 4) {
            self.shrink_to((2 * len).max(idle));
        }
    }

    /// Bytes of memory of the line itself, less `idle` slots. What the entries own is not included.
    pub(super) fn footprint(&self, idle: usize) -> usize {
        self.slots.capacity().saturating_sub(idle) * size_of::<Slot>() + self.ends.len() * END_BYTES
    }

    /// Panics if counts, positions or index contradict the entries.
    pub(super) fn invariants(&self) {
        let (mut runs, mut latest, mut gaps, mut vacant, mut last) = (0, 0, 0, 0, None);
        let mut ends = BTreeMap::<ChannelId, End>::new();
        for Slot { at, entry } in &self.slots {
            assert!(last.is_none_or(|last| last < *at) && *at < self.next, "positions do not rise at {at:?}");
            last = Some(*at);
            match entry {
                Entry::Control(frame) => {
                    assert!(!frame.bytes.is_empty(), "an empty control frame at {at:?}");
                    if parts_losses(&frame.bytes) {
                        ends.clear();
                    }
                }
                Entry::Vacant => vacant += 1,
                Entry::Gap { channel, count } => {
                    gaps += 1;
                    assert!(*count > 0, "an empty gap at {at:?}");
                    let before = ends.insert(*channel, End { gap: Some(*at), newest: None });
                    let parted = before.is_none_or(|end| end.gap.is_none() || end.newest.is_some());
                    assert!(parted, "two gaps of {channel:?} without frames between them, the second at {at:?}");
                }
                Entry::Frames(piece) => {
                    runs += 1;
                    latest += usize::from(piece.latest());
                    assert!(piece.extent().messages > 0, "an empty run at {at:?}");
                    let gap = ends.get(&piece.channel()).filter(|end| end.newest.is_none()).and_then(|end| end.gap);
                    let end = End { gap, newest: Some(*at) };
                    ends.insert(piece.channel(), end);
                    if !(piece.latest() && self.latest_only) {
                        ends.insert(piece.channel(), End { gap: None, newest: None });
                    }
                }
            }
        }
        ends.retain(|_, end| *end != End::default());
        assert_eq!(self.ends, ends, "the index differs from the entries");
        let counts = (self.runs, self.latest, self.gaps, self.vacant);
        assert_eq!(counts, (runs, latest, gaps, vacant), "entries are counted wrongly");
        assert!(!matches!(self.front(), Some(Entry::Vacant)), "the first slot is vacant");
        assert!(
            vacant <= VACANT_IGNORED.max(self.slots.len() / 2),
            "{vacant} of {} slots are vacant",
            self.slots.len()
        );
    }

    #[inline]
    fn push(&mut self, entry: Entry) -> Position {
        self.visit(1);
        let at = self.next;
        self.next = Position(at.0.saturating_add(1));
        self.slots.push_back(Slot { at, entry });
        at
    }

    #[cold]
    fn shrink_to(&mut self, capacity: usize) {
        self.visit(self.slots.len() as u64);
        self.slots.shrink_to(capacity);
    }

    fn get_mut(&mut self, at: Position) -> Option<&mut Entry> {
        self.visit(1);
        let index = self.slots.binary_search_by_key(&at, |slot| slot.at).ok()?;
        self.slots.get_mut(index).map(|slot| &mut slot.entry)
    }

    /// Adds to the gap at the position.
    fn widen(&mut self, at: Position, more: u64) {
        if let Some(Entry::Gap { count, .. }) = self.get_mut(at) {
            *count = count.saturating_add(more);
        }
    }

    /// The frames at the position wait no more.
    #[inline]
    fn forget_frames(&mut self, channel: ChannelId, latest: bool, at: Position) {
        self.runs -= 1;
        self.latest -= usize::from(latest);
        if latest && self.latest_only {
            self.forget(channel, at);
        }
    }

    /// The entry at the position waits no more.
    fn forget(&mut self, channel: ChannelId, at: Position) {
        let Some(end) = self.ends.get_mut(&channel) else { return };
        end.gap = end.gap.filter(|&gap| gap != at);
        end.newest = end.newest.filter(|&newest| newest != at);
        if *end == End::default() {
            self.ends.remove(&channel);
        }
    }

    /// Removes vacant slots at the front; and all of them once they are the majority, which costs no more than to vacate
    /// them did.
    #[inline]
    fn compact(&mut self) {
        if self.vacant > 0 {
            self.remove_vacant();
        }
    }

    #[cold]
    fn remove_vacant(&mut self) {
        while let Some(Entry::Vacant) = self.front() {
            self.slots.pop_front();
            self.vacant -= 1;
            self.visit(1);
        }
        if self.vacant > VACANT_IGNORED.max(self.slots.len() / 2) {
            self.visit(self.slots.len() as u64);
            self.slots.retain(|slot| !matches!(slot.entry, Entry::Vacant));
            self.vacant = 0;
        }
    }

    /// Empties the line for a walk through all that was in it.
    fn take_slots(&mut self) -> VecDeque<Slot> {
        self.visit(self.slots.len() as u64);
        self.ends.clear();
        (self.runs, self.latest, self.gaps, self.vacant) = (0, 0, 0, 0);
        std::mem::take(&mut self.slots)
    }

    /// Counts visits of entries, for the tests that bound the work.
    fn visit(&mut self, _entries: u64) {
        #[cfg(test)]
        {
            self.visits += _entries;
        }
    }
}

/// Whether losses before the frame must not be mixed with those behind it: a subscription begins or ends with it, replayed messages follow it,
/// or messages that the listener reads from a ring have their place there.
fn parts_losses(frame: &[u8]) -> bool {
    const PARTING: [u8; 5] = [kind::SUBSCRIBED, kind::UNSUBSCRIBED, kind::RETAINED, kind::FOLLOW, kind::UNFOLLOW];
    Header::peek(frame).is_some_and(|header| PARTING.contains(&header.kind()))
}
