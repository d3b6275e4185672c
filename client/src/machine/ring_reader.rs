//! The reader of a ring and its page, over any memory. It never waits and never wakes anything.

use super::RingInput;
use broadcaster_protocol::Run;
use broadcaster_ring::{Corrupt, Cursor, Intake, PageWriter, Taken, Words, WordsMut};
use std::fmt::Debug;

/// The bytes of frames after which one call takes no further message.
const TURN_BYTES: usize = 64 * 1024;

/// A ring in `W`, whose reader shows its place in the page `P`.
#[derive(Debug)]
pub struct RingReader<W, P> {
    intake: Intake<W>,
    page: PageWriter<P>,
}

impl<W: Words, P: WordsMut> RingReader<W, P> {
    /// Reads `intake` once it [follows](RingInput::follow) the ring.
    pub fn new(intake: Intake<W>, page: PageWriter<P>) -> Self {
        Self { intake, page }
    }

    /// [`take`](RingInput::take) of frames of `bytes_max` bytes and one more, or fewer.
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn take_within(&mut self, end: Option<u64>, bytes_max: usize) -> Result<Taken, Corrupt> {
        let taken = self.intake.take(end, bytes_max)?;
        if !taken.is_empty() {
            let received = taken.run.as_ref().map_or(0, Run::messages);
            self.page.count(self.intake.cursor().position, received, taken.lost);
        }
        Ok(taken)
    }
}

impl<W, P> RingInput for RingReader<W, P>
where
    W: Words + Debug + Send + Sync,
    P: WordsMut + Debug + Send + Sync,
{
    fn follow(&mut self, position: u64, sequence: u64) {
        self.intake.seek(Cursor { position, sequence });
        self.page.count(position, 0, 0);
    }

    #[inline]
    fn take(&mut self, end: Option<u64>) -> Result<Taken, Corrupt> {
        self.take_within(end, TURN_BYTES)
    }

    fn next_sequence(&self) -> u64 {
        self.intake.cursor().sequence
    }

    fn position(&self) -> u64 {
        self.intake.cursor().position
    }

    /// A ring that is closed has nothing that could be taken: its end is stated in the stream of the connection. Neither has one in which
    /// nothing can be found: it is corrupt, or its sender is publishing, and looks at the doorbell after that.
    fn arm(&mut self) -> bool {
        let Self { intake, page } = self;
        let next = intake.cursor().position;
        page.arm(|| intake.newest().is_ok_and(|newest| newest.position != next))
    }

    fn disarm(&mut self) {
        self.page.disarm();
    }

    fn call_sender(&mut self) {
        self.page.call();
    }

    fn leave(&mut self) {
        self.page.leave();
    }
}
