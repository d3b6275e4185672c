//! The value of a channel, read once. It never waits for a message that is sent later.

use crate::ChannelName;
use crate::error::{ConnectError, RecvError};
use crate::machine::{Selector, Subscriber, Subscription};
use crate::message::Message;
use crate::path::{ConnectConfig, Path, SocketPath};
use crate::policy::{Overflow, RefusalCode};
use crate::receiver::Receiver;

/// A connection that reads one value.
pub(crate) struct ValueReader(Receiver);

impl ValueReader {
    /// A reader that does not count as a listener if it is an `observer`. Either kind never slows a sender.
    pub(crate) fn new(channel: ChannelName, config: ConnectConfig, observer: bool) -> Self {
        let (selector, overflow) = (Selector::Name(channel), Overflow::Latest.into());
        let subscription = Subscription { selector, overflow, observer, replay: 1 };
        let subscriber = Subscriber::new(vec![subscription], config.purpose_or("value"), broadcaster_local::pid());
        Self(Receiver::new(subscriber, Path::Socket(SocketPath::new(config))))
    }

    pub(crate) fn connect(&mut self) -> Result<(), ConnectError> {
        self.0.connect()
    }

    pub(crate) fn value(&mut self) -> Result<Option<Message>, RecvError> {
        self.0.value()
    }
}

#[cfg(feature = "tokio")]
impl ValueReader {
    pub(crate) async fn connect_async(&mut self) -> Result<(), ConnectError> {
        self.0.connect_async().await
    }

    pub(crate) async fn value_async(&mut self) -> Result<Option<Message>, RecvError> {
        self.0.value_async().await
    }
}

/// Whether the daemon has no room for another observer.
pub(crate) fn is_limit(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Refused { code: RefusalCode::Channels | RefusalCode::Connections, .. })
}
