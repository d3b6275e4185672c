//! The part of a listener that hears notifications: what is believed of them, what was heard before, what is missing. It never waits.

use super::envelope::Said;
use super::fallback::Fallback;
use super::inbox::{Found, Inbox};
use super::window::{Heard, Places};
use super::{Capabilities, Native, Observation};
use broadcaster_local::Socket;
use broadcaster_protocol::{ChannelName, Frame, SenderId};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a listener hears without a daemon.
#[derive(Debug)]
pub(crate) struct Ear {
    native: Native,
    name: String,
    pub(crate) fallback: Fallback,
    /// There while notifications are observed. The observation goes first.
    observing: Option<(Box<dyn Observation>, Arc<Inbox>)>,
    heard: Heard,
    places: Places,
    /// A message was found, and a gap before it was told.
    after_gap: Option<(SenderId, u64, Bytes)>,
    /// The message that was found last.
    found: Option<(SenderId, u64, Bytes)>,
}

/// What an ear finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// A message.
    Message,
    /// Messages are missing here.
    Missing,
    /// Nothing more.
    Nothing,
}

impl Ear {
    pub(crate) fn new(native: &Native, channel: &ChannelName) -> Self {
        Self {
            native: native.clone(),
            name: native.dialect.name(channel),
            fallback: native.begin(),
            observing: None,
            heard: Heard::default(),
            places: Places::default(),
            after_gap: None,
            found: None,
        }
    }

    /// What it can do, while it is the way.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::notifications(self.native.dialect, true)
    }

    /// Observes from now on, if it does not yet.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        if self.observing.is_none() {
            let inbox = Inbox::new()?;
            let observation = self.native.center.observe(&self.name, &inbox);
            self.observing = Some((observation, inbox));
        }
        Ok(())
    }

    /// Whether it is of use beside the daemon; if not, it observes no longer, and forgets.
    pub(crate) fn joins_in(&mut self) -> bool {
        let open = self.observing.is_some();
        if !open || self.fallback.is_active() {
            return open;
        }
        if self.fallback.is_both(Instant::now()) {
            return true;
        }
        self.observing = None;
        (self.heard, self.places) = (Heard::default(), Places::default());
        false
    }

    /// Readable while something waits.
    pub(crate) fn readable(&self) -> Option<Arc<Socket>> {
        self.observing.as_ref().map(|(_, inbox)| inbox.readable())
    }

    /// Whether nothing delivers notifications to this process, and that for so long.
    pub(crate) fn is_deaf(&mut self, patience: Duration) -> bool {
        self.fallback.is_deaf(Instant::now(), self.native.center.is_driven(), patience)
    }

    /// Moves on to what is next.
    pub(crate) fn hear(&mut self, channel: &ChannelName) -> News {
        self.found = self.after_gap.take();
        if self.found.is_some() {
            return News::Message;
        }
        let Some((_, inbox)) = &self.observing else { return News::Nothing };
        loop {
            let info = match inbox.take() {
                None => return News::Nothing,
                Some(Found::Lost) => return News::Missing,
                Some(Found::Notice(info)) => info,
            };
            let message = match self.native.dialect.decode(channel, &info) {
                Err(_) => continue, // anybody may post anything under this name
                Ok(Said::Doorbell) => return News::Missing,
                Ok(Said::Anonymous(payload)) => (SenderId::from_raw(0), 0, payload),
                Ok(Said::Message { sender, sequence, payload }) => {
                    if !self.heard.is_new(sender, sequence, &payload) {
                        continue;
                    }
                    // While the daemon is there as well, a message may have come from it.
                    let gap = self.places.leaves_gap(sender, sequence) && self.fallback.is_active();
                    if gap {
                        self.after_gap = Some((sender, sequence, payload));
                        return News::Missing;
                    }
                    (sender, sequence, payload)
                }
            };
            self.found = Some(message);
            return News::Message;
        }
    }

    /// Whether a message from the daemon is news to this listener.
    pub(crate) fn is_news(&mut self, frame: Frame<'_>) -> bool {
        if self.observing.is_none() || frame.payload.len() > self.native.dialect.payload_bytes_max() as usize {
            return true;
        }
        self.heard.is_new_from_daemon(frame.sender, frame.sequence, frame.payload)
    }

    /// The message that was found last, if it came by notification.
    pub(crate) fn found(&self) -> Option<(Frame<'_>, &Bytes)> {
        let (sender, sequence, payload) = self.found.as_ref()?;
        Some((Frame { sender: *sender, sequence: *sequence, payload }, payload))
    }
}
