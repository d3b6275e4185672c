//! Frames in transit, shared by all connections that they wait for. It never copies or changes them.

use super::Terms;
use crate::memory::{Charge, Ledger};
use broadcaster_protocol::control::Overflow;
use broadcaster_protocol::frame::extent;
use broadcaster_protocol::{ChannelId, Run};
use bytes::Bytes;
use std::cell::OnceCell;
use std::ops::{AddAssign, SubAssign};
use std::rc::Rc;

/// Bytes of bookkeeping for each span: itself, and the counts of its owners.
const SPAN_BYTES: usize = size_of::<Span>() + 2 * size_of::<usize>();

/// Whole frames: their bytes, and how many messages they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub(super) bytes: usize,
    pub(super) messages: u64,
}

impl Extent {
    /// The extent of the first of `frames`.
    fn of_first(frames: &[u8]) -> Self {
        let (bytes, messages) = extent(frames);
        Self { bytes, messages }
    }
}

impl AddAssign for Extent {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.messages += more.messages;
    }
}

impl SubAssign for Extent {
    fn sub_assign(&mut self, less: Self) {
        self.bytes -= less.bytes;
        self.messages -= less.messages;
    }
}

/// A run of frames in transit, with the memory that it holds.
#[derive(Debug)]
pub(crate) struct Span {
    channel: ChannelId,
    messages: u64,
    bytes: Bytes,
    /// The last frame, once it was asked for.
    newest: OnceCell<Extent>,
    charge: Charge,
}

impl Span {
    pub(crate) fn new(run: Run, ledger: &Ledger) -> Rc<Self> {
        Rc::new(Self {
            channel: run.channel(),
            messages: run.messages(),
            newest: OnceCell::new(),
            charge: ledger.charge(Self::bytes_of(run.pinned_bytes())),
            bytes: run.into_bytes(),
        })
    }

    /// Bytes of memory of a span whose run has `bytes` in memory of its own.
    pub(crate) fn bytes_of(bytes: usize) -> usize {
        bytes + SPAN_BYTES
    }

    /// Bytes of memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { bytes: self.bytes.len(), messages: self.messages }
    }

    /// Whether it is one frame: one message or one batch.
    pub(super) fn is_one_frame(&self) -> bool {
        self.messages == 1 || Extent::of_first(&self.bytes).bytes == self.bytes.len()
    }

    /// The last frame.
    fn newest(&self) -> Extent {
        *self.newest.get_or_init(|| {
            let mut rest = &self.bytes[..];
            loop {
                let frame = Extent::of_first(rest);
                if frame.bytes == rest.len() {
                    return frame;
                }
                rest = &rest[frame.bytes..];
            }
        })
    }
}

/// The part of a span that waits for one connection: whole frames, one at least.
#[derive(Debug)]
pub(super) struct Piece {
    span: Rc<Span>,
    start: usize,
    extent: Extent,
    latest: bool,
    observer: bool,
}

impl Piece {
    /// All of the span.
    pub(super) fn of(span: &Rc<Span>, terms: Terms) -> Self {
        Self {
            span: Rc::clone(span),
            start: 0,
            extent: span.extent(),
            latest: terms.overflow == Overflow::Latest,
            observer: terms.observer,
        }
    }

    pub(super) fn channel(&self) -> ChannelId {
        self.span.channel
    }

    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether a newer frame of its channel may replace it.
    pub(super) fn latest(&self) -> bool {
        self.latest
    }

    pub(super) fn observer(&self) -> bool {
        self.observer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.span.bytes[self.start..self.start + self.extent.bytes]
    }

    /// Bytes of memory that stay allocated because of it.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.span.held_bytes()
    }

    /// What distinguishes its span from others.
    pub(super) fn span_address(&self) -> usize {
        Rc::as_ptr(&self.span).addr()
    }

    pub(super) fn first_frame(&self) -> Extent {
        Extent::of_first(self.bytes())
    }

    /// The longest row of frames, counted from the first, to each of which `wanted` agrees. It is given what precedes the
    /// frame and the frame itself.
    pub(super) fn frames_while(&self, mut wanted: impl FnMut(Extent, Extent) -> bool) -> Extent {
        let mut taken = Extent::default();
        while taken.bytes < self.extent.bytes {
            let frame = Extent::of_first(&self.bytes()[taken.bytes..]);
            if !wanted(taken, frame) {
                break;
            }
            taken += frame;
        }
        taken
    }

    /// The frames before the last frame of the span, which must be a part of the piece.
    pub(super) fn before_newest(&self) -> Extent {
        let mut older = self.extent;
        older -= self.span.newest();
        older
    }

    /// Takes frames off the front and returns them.
    pub(super) fn split_front(&mut self, front: Extent) -> Self {
        let piece = Self { span: Rc::clone(&self.span), extent: front, ..*self };
        self.start += front.bytes;
        self.extent -= front;
        piece
    }

    /// Keeps no more than these frames at the front.
    pub(super) fn truncate(&mut self, front: Extent) {
        self.extent = front;
    }
}
