//! The balance of a publication with backpressure: what the daemon lets it send. It never decides to wait.

use broadcaster_protocol::limits::CREDIT_MESSAGE_BYTES;

/// What is left of the credit of one publication on one connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Balance {
    /// Negative: the last frame has used up more than there was.
    left: i64,
    /// At this balance, more credit has probably arrived.
    look_at: i64,
}

impl Balance {
    /// Whether a frame may be written, whatever its size.
    pub(super) fn is_left(self) -> bool {
        self.left > 0
    }

    /// A frame, or a part of one, with so many messages is written.
    pub(super) fn charge(&mut self, bytes: usize, messages: u64) {
        let cost = (bytes as u64).saturating_add(messages.saturating_mul(CREDIT_MESSAGE_BYTES));
        self.left = self.left.saturating_sub_unsigned(cost);
    }

    /// The daemon grants more.
    pub(super) fn grant(&mut self, bytes: u64) {
        self.left = self.left.saturating_add_unsigned(bytes);
        self.look_at = self.left / 2;
    }

    /// Whether it is worth looking for more credit: half of it is used up since the last look. A sender that never waits looks a few
    /// times for each credit, rather than before each message.
    pub(super) fn is_low(self) -> bool {
        self.left <= self.look_at
    }

    /// No more credit had arrived.
    pub(super) fn has_looked(&mut self) {
        self.look_at = (self.left / 2).max(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_may_use_up_more_than_is_left() {
        let mut balance = Balance::default();
        assert!(!balance.is_left(), "a publication begins without credit");
        balance.grant(100);
        balance.charge(1000, 1);
        assert!(!balance.is_left());
        balance.grant(1000 + CREDIT_MESSAGE_BYTES - 100);
        assert!(!balance.is_left(), "the debt is paid, and nothing is left");
        balance.grant(1);
        assert!(balance.is_left());
    }

    #[test]
    fn looks_are_few() {
        let mut balance = Balance::default();
        balance.grant(256 * 1024);
        let mut looks = 0;
        while balance.is_left() {
            balance.charge(100, 1);
            if balance.is_low() {
                balance.has_looked();
                looks += 1;
            }
        }
        assert!((8..=18).contains(&looks), "{looks}");
        assert!(balance.is_low(), "without credit, every look is worth it");
    }

    #[test]
    fn absurd_credit_does_not_overflow() {
        let mut balance = Balance::default();
        balance.grant(u64::MAX);
        balance.grant(u64::MAX);
        balance.charge(usize::MAX, u64::MAX);
        assert!(!balance.is_left());
        (0..9).for_each(|_| balance.charge(usize::MAX, u64::MAX));
        assert!(balance.is_low());
    }
}
