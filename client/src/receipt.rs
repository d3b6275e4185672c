//! What the daemon reports about a message that it has accepted.

use crate::SenderId;
use broadcaster_protocol::control;

/// What became of a message, as the daemon reports it at once: see [`Sender::send_confirmed`](crate::Sender::send_confirmed).
///
/// It does not show which listeners will read the message. One for which it is queued may still lose it, if it lags and newer messages
/// displace it, or leave before it reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Listeners that the channel had when the message was accepted.
    pub listeners: u32,
    /// Those of them for which the message was queued. The others have lost it.
    pub took: u32,
    /// Listeners of the channel that lag now: they read more slowly than messages arrive for them.
    pub lagging: u32,
    /// Those that lag most, in descending order of bytes: at most 64.
    pub worst: Vec<Lagging>,
    /// Why the daemon does not retain the message, although the sender has [`Options::history`](crate::Options::history).
    pub not_retained: Option<String>,
}

/// A listener that lags, in a [`Receipt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lagging {
    /// The connection of the listener.
    pub listener: SenderId,
    /// Messages that wait for it in the daemon, on all its channels.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

impl Lagging {
    /// The listener's process id, where the system reports it: see [`SenderId::pid`].
    pub fn pid(&self) -> Option<u32> {
        self.listener.pid()
    }
}

impl From<control::Receipt> for Receipt {
    fn from(receipt: control::Receipt) -> Self {
        let not_retained = receipt.not_retained();
        let control::Receipt { listeners, took, lagging, worst, .. } = receipt;
        let worst = worst.into_iter().map(|lagging| Lagging {
            listener: broadcaster_protocol::SenderId::from_raw(lagging.listener).into(),
            messages: lagging.messages,
            bytes: lagging.bytes,
        });
        Self { listeners, took, lagging, worst: worst.collect(), not_retained }
    }
}
