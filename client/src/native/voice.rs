//! The part of a sender that posts notifications. It never waits.

use super::envelope::Info;
use super::fallback::Fallback;
use super::{Capabilities, Native};
use broadcaster_protocol::{ChannelName, SenderId};
use std::time::Instant;

/// How a sender is heard without a daemon.
#[derive(Debug)]
pub(crate) struct Voice {
    native: Native,
    name: String,
    pub(crate) fallback: Fallback,
}

/// A payload is larger than a notification carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub(crate) max: u32,
}

impl Voice {
    pub(crate) fn new(native: &Native, channel: &ChannelName) -> Self {
        Self { native: native.clone(), name: native.dialect.name(channel), fallback: native.begin() }
    }

    /// What it can do, while it is the way.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::notifications(self.native.dialect, self.native.center.takes_payloads())
    }

    /// Whether what the daemon gets is posted as well.
    pub(crate) fn joins_in(&mut self) -> bool {
        // A doorbell can not be told from another one, so that it would be heard as one more message.
        self.fallback.is_both(Instant::now()) && self.native.center.takes_payloads()
    }

    /// Posts a message.
    ///
    /// # Errors
    ///
    /// [`TooLarge`]; nothing was posted.
    pub(crate) fn post(
        &self,
        channel: &ChannelName,
        sender: SenderId,
        sequence: u64,
        payload: &[u8],
    ) -> Result<(), TooLarge> {
        let Native { center, dialect } = &self.native;
        let max = dialect.payload_bytes_max();
        if u32::try_from(payload.len()).is_ok_and(|len| len <= max) {
            let info = match center.takes_payloads() {
                true => dialect.encode(channel, sender, sequence, payload),
                false => Info::Absent,
            };
            center.post(&self.name, &info);
            Ok(())
        } else {
            Err(TooLarge { max })
        }
    }
}
