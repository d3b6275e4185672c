//! The outbox as a list of runs, in which every question is answered by a walk. It never remembers what it can count.

use super::{ENTRY_BYTES, Pushed, Room, Terms};
use broadcaster_protocol::control::Overflow;
use std::collections::BTreeSet;

/// One frame: its bytes, the number of its first message, and how many it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: usize,
    pub(super) first: u64,
    pub(super) messages: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) channel: u32,
    pub(super) frames: Vec<Frame>,
    pub(super) terms: Terms,
    /// The only frame of the run is half written.
    begun: bool,
    /// A message of the channel was lost, or a subscription began or ended, behind it: no newer frame replaces it.
    settled: bool,
}

impl Run {
    pub(super) fn new(channel: u32, frames: Vec<Frame>, terms: Terms) -> Self {
        Self { channel, frames, terms, begun: false, settled: false }
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.bytes).sum()
    }

    fn messages(&self) -> u64 {
        self.frames.iter().map(|frame| frame.messages).sum()
    }

    fn is_latest(&self) -> bool {
        self.terms.overflow == Overflow::Latest
    }
}

#[derive(Debug, Clone)]
enum Item {
    Control { number: u32, bytes: usize },
    Run(Run),
}

#[derive(Debug, Default)]
pub(super) struct Model {
    items: Vec<Item>,
    latest_only: bool,
    /// Bytes and messages beyond the room that credited runs brought.
    overshoot: (usize, u64),
    /// Channel and number of every message that was lost.
    pub(super) lost: BTreeSet<(u32, u64)>,
    pub(super) lost_by_bus: u64,
    pub(super) lost_by_observers: u64,
}

impl Model {
    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.items.iter().filter_map(|item| match item {
            Item::Run(run) => Some(run),
            Item::Control { .. } => None,
        })
    }

    pub(super) fn queue(&self) -> (u64, usize) {
        let bookkeeping = |run: &Run| if run.begun { 0 } else { ENTRY_BYTES };
        (self.runs().map(Run::messages).sum(), self.runs().map(|run| run.bytes() + bookkeeping(run)).sum())
    }

    pub(super) fn droppable_bytes(&self) -> usize {
        self.runs().filter(|run| !run.begun).map(|run| run.bytes() + ENTRY_BYTES).sum()
    }

    pub(super) fn replies_bytes(&self) -> usize {
        let sizes = self.items.iter().map(|item| match item {
            Item::Control { bytes, .. } => *bytes,
            Item::Run(_) => 0,
        });
        sizes.sum()
    }

    pub(super) fn push_control(&mut self, number: u32, bytes: usize) {
        self.items.push(Item::Control { number, bytes });
    }

    pub(super) fn push_credited(&mut self, run: Run, room: Room) {
        let before = self.overshoot(room);
        self.overshoot = (before.0 + run.bytes() + ENTRY_BYTES, before.1 + run.messages());
        self.items.push(Item::Run(run));
        self.overshoot = self.overshoot(room);
    }

    fn overshoot(&self, room: Room) -> (usize, u64) {
        let (messages, bytes) = self.queue();
        let beyond = (bytes.saturating_sub(room.bytes), messages.saturating_sub(room.messages));
        (self.overshoot.0.min(beyond.0), self.overshoot.1.min(beyond.1))
    }

    pub(super) fn push(&mut self, mut run: Run, room: Room) -> Pushed {
        self.overshoot = self.overshoot(room);
        let room = Room { bytes: room.bytes + self.overshoot.0, messages: room.messages + self.overshoot.1 };
        let fits = self.fits(run.bytes(), run.messages(), room);
        let empty = self.queue().0 == 0;
        match run.terms.overflow {
            Overflow::DropOldest | Overflow::Other(_) => {
                self.items.push(Item::Run(run));
                self.drop_oldest(room);
            }
            Overflow::DropNewest => {
                let (mut bytes, mut messages, mut taken) = (0, 0, 0);
                for frame in &run.frames {
                    (bytes, messages) = (bytes + frame.bytes, messages + frame.messages);
                    let alone = empty && taken == 0;
                    if !alone && !self.fits(bytes, messages, room) {
                        break;
                    }
                    taken += 1;
                }
                let rest = Run { frames: run.frames.split_off(taken), ..run.clone() };
                if taken > 0 {
                    self.items.push(Item::Run(run));
                }
                if !rest.frames.is_empty() {
                    self.settle(rest.channel);
                    self.lose(&rest);
                    return Pushed::Lost;
                }
            }
            Overflow::Latest if fits && !self.latest_only => self.items.push(Item::Run(run)),
            Overflow::Latest => {
                self.collapse_latest();
                if let Some(at) = self.last_of(run.channel)
                    && let Item::Run(old) = &self.items[at]
                    && old.is_latest()
                    && !old.settled
                    && !old.begun
                {
                    self.remove(at);
                }
                let newest = run.frames.split_off(run.frames.len() - 1);
                self.lose(&run);
                self.items.push(Item::Run(Run { frames: newest, ..run }));
                self.drop_oldest(room);
            }
            Overflow::Disconnect => {
                let alone = empty && run.frames.len() == 1;
                self.items.push(Item::Run(run));
                return if fits || alone { Pushed::Queued } else { Pushed::TooSlow };
            }
        }
        Pushed::Queued
    }

    /// The run is lost before it is queued.
    pub(super) fn push_loss(&mut self, run: &Run) {
        self.settle(run.channel);
        self.lose(run);
    }

    pub(super) fn collapse_latest(&mut self) {
        if std::mem::replace(&mut self.latest_only, true) {
            return;
        }
        for at in (0..self.items.len()).rev() {
            let Item::Run(run) = &self.items[at] else { continue };
            if !run.is_latest() || run.begun {
                continue;
            }
            if self.last_of(run.channel) == Some(at) {
                let older = run.frames.len() - 1;
                self.cut(at, older);
            } else {
                self.remove(at);
            }
        }
    }

    /// The outbox has run empty, of gaps too.
    pub(super) fn keep_all(&mut self) {
        assert!(self.items.is_empty(), "{:?} wait", self.items);
        self.latest_only = false;
    }

    pub(super) fn drop_oldest_half(&mut self) {
        let kept = self.queue().1 - self.droppable_bytes().div_ceil(2);
        while self.queue().1 > kept
            && let Some(at) = self.oldest()
        {
            self.remove(at);
        }
    }

    pub(super) fn clear_frames(&mut self) {
        while let Some(at) = self.oldest() {
            self.remove(at);
        }
    }

    /// The first frame is written in part.
    pub(super) fn begin(&mut self) {
        if let Some(Item::Run(run)) = self.items.first_mut()
            && !run.begun
        {
            let rest = Run { frames: run.frames.split_off(1), ..run.clone() };
            run.begun = true;
            if !rest.frames.is_empty() {
                self.items.insert(1, Item::Run(rest));
            }
        }
    }

    /// The control frame that must have been written now.
    pub(super) fn finish_control(&mut self) -> u32 {
        let number = match &self.items[0] {
            Item::Control { number, .. } => *number,
            Item::Run(run) => panic!("a control frame was written, {run:?} is due"),
        };
        self.items.remove(0);
        number
    }

    /// The frame that must have been written now, its channel, and whether an observer receives it.
    pub(super) fn finish_frame(&mut self) -> (u32, Frame, bool) {
        let Item::Run(run) = &mut self.items[0] else { panic!("frames were written, a control frame is due") };
        let finished = (run.channel, run.frames.remove(0), run.terms.observer);
        if run.frames.is_empty() {
            self.items.remove(0);
        }
        finished
    }

    fn fits(&self, bytes: usize, messages: u64, room: Room) -> bool {
        let waiting = self.queue();
        waiting.1 + bytes + ENTRY_BYTES <= room.bytes && waiting.0 + messages <= room.messages
    }

    fn drop_oldest(&mut self, room: Room) {
        loop {
            let (messages, bytes) = self.queue();
            let excess = (bytes.saturating_sub(room.bytes), messages.saturating_sub(room.messages));
            let Some(at) = self.oldest().filter(|_| excess != (0, 0)) else { return };
            let Item::Run(run) = &self.items[at] else { return };
            let newest = self.runs().filter(|run| !run.begun).count() == 1;
            if !newest && (run.bytes() <= excess.0 || run.messages() <= excess.1) {
                self.remove(at);
                continue;
            }
            let (mut cut, mut gone) = (0, (0, 0));
            let droppable = run.frames.len() - usize::from(newest);
            while cut < droppable && (gone.0 < excess.0 || gone.1 < excess.1) {
                gone = (gone.0 + run.frames[cut].bytes, gone.1 + run.frames[cut].messages);
                cut += 1;
            }
            if cut == 0 {
                return;
            }
            self.cut(at, cut);
        }
    }

    fn oldest(&self) -> Option<usize> {
        self.items.iter().position(|item| matches!(item, Item::Run(run) if !run.begun))
    }

    fn last_of(&self, channel: u32) -> Option<usize> {
        self.items.iter().rposition(|item| matches!(item, Item::Run(run) if run.channel == channel))
    }

    fn settle(&mut self, channel: u32) {
        self.settle_if(|run| run.channel == channel);
    }

    /// A subscription begins or ends.
    pub(super) fn settle_all(&mut self) {
        self.settle_if(|_| true);
    }

    fn settle_if(&mut self, is_settled: impl Fn(&Run) -> bool) {
        for item in &mut self.items {
            if let Item::Run(run) = item {
                run.settled |= is_settled(run);
            }
        }
    }

    fn remove(&mut self, at: usize) {
        if let Item::Run(run) = self.items.remove(at) {
            self.lose(&run);
        }
    }

    /// Drops the first frames of a run.
    fn cut(&mut self, at: usize, frames: usize) {
        let Item::Run(run) = &mut self.items[at] else { return };
        let rest = run.frames.split_off(frames);
        let lost = std::mem::replace(run, Run { frames: rest, ..run.clone() });
        if run.frames.is_empty() {
            self.items.remove(at);
        }
        self.lose(&lost);
    }

    fn lose(&mut self, run: &Run) {
        let sum = if run.terms.observer { &mut self.lost_by_observers } else { &mut self.lost_by_bus };
        *sum += run.messages();
        for frame in &run.frames {
            self.lost.extend((frame.first..frame.first + frame.messages).map(|number| (run.channel, number)));
        }
    }
}
