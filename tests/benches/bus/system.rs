//! The systems under measurement, and what their senders and listeners have in common.
//!
//! The roles are generic over both traits, so that no measured call is a virtual call.

use crate::error::Result;

/// The systems under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    FloorA,
    FloorB,
    FloorC,
    FloorWide,
    /// A ring in shared memory, whose listeners sleep or poll.
    FloorRing,
    FloorPolled,
    Ours,
    OursBatched,
    /// With backpressure.
    Lossless,
    LosslessBatched,
    /// Through shared memory.
    Memory,
    MemoryBatched,
    /// Through shared memory, with backpressure.
    LosslessMemory,
    LosslessMemoryBatched,
}

impl System {
    const ALL: [(Self, &str); 14] = [
        (Self::FloorA, "floor-a"),
        (Self::FloorB, "floor-b"),
        (Self::FloorC, "floor-c"),
        (Self::FloorWide, "floor-wide"),
        (Self::FloorRing, "floor-ring"),
        (Self::FloorPolled, "floor-polled"),
        (Self::Ours, "ours"),
        (Self::OursBatched, "ours-batched"),
        (Self::Lossless, "lossless"),
        (Self::LosslessBatched, "lossless-batched"),
        (Self::Memory, "memory"),
        (Self::MemoryBatched, "memory-batched"),
        (Self::LosslessMemory, "lossless-memory"),
        (Self::LosslessMemoryBatched, "lossless-memory-batched"),
    ];

    pub(crate) fn label(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(system, _)| *system == self);
        entry.map_or("?", |(_, label)| label)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursBatched | Self::Memory | Self::MemoryBatched) || self.is_lossless()
    }

    /// Whether senders wait for listeners, so that any loss is a failure.
    pub(crate) fn is_lossless(self) -> bool {
        matches!(self, Self::Lossless | Self::LosslessBatched | Self::LosslessMemory | Self::LosslessMemoryBatched)
    }
}

impl std::str::FromStr for System {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let entry = Self::ALL.iter().find(|(_, label)| *label == text);
        entry.map(|(system, _)| *system).ok_or(())
    }
}

/// A sender of any system.
pub(crate) trait FrameSink {
    /// Sends one payload, or adds it to the batch.
    fn send(&mut self, payload: &[u8]) -> Result<()>;

    /// Sends the batch.
    fn flush(&mut self) -> Result<()>;
}

/// What one call of [`FrameSource::recv`] returned.
pub(crate) enum Received {
    Frame,
    /// A gap in the stream, with the number of lost frames if it is known.
    Lagged(Option<u64>),
}

/// A listener of any system.
pub(crate) trait FrameSource {
    /// Waits for one frame, and passes its payload to `on_payload`.
    fn recv(&mut self, on_payload: impl FnOnce(&[u8])) -> Result<Received>;
}
