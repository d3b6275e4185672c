//! What a sender and a listener of any system can do here. It never costs a virtual call: both sides are generic over it.

use crate::fail::Outcome;

/// The systems under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    FloorA,
    FloorB,
    FloorC,
    FloorWide,
    Ours,
    OursBatched,
}

impl System {
    const ALL: [(Self, &str); 6] = [
        (Self::FloorA, "floor-a"),
        (Self::FloorB, "floor-b"),
        (Self::FloorC, "floor-c"),
        (Self::FloorWide, "floor-wide"),
        (Self::Ours, "ours"),
        (Self::OursBatched, "ours-batched"),
    ];

    pub(crate) fn label(self) -> &'static str {
        let named = Self::ALL.iter().find(|(system, _)| *system == self);
        named.map_or("?", |(_, label)| label)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursBatched)
    }
}

impl std::str::FromStr for System {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let named = Self::ALL.iter().find(|(_, label)| *label == text);
        named.map(|(system, _)| *system).ok_or(())
    }
}

pub(crate) trait Outbox {
    /// Sends one payload, or puts it into the batch.
    fn push(&mut self, payload: &[u8]) -> Outcome<()>;

    /// Sends what the batch holds.
    fn flush(&mut self) -> Outcome<()>;
}

/// What one call of [`Inbox::next`] met.
pub(crate) enum Met {
    Frame,
    /// A hole in the stream, with its size where it is known.
    Lost(Option<u64>),
}

pub(crate) trait Inbox {
    /// Waits for one frame and shows its payload to `see`.
    fn next(&mut self, see: impl FnOnce(&[u8])) -> Outcome<Met>;
}
