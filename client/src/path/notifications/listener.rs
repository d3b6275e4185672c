//! Receives notifications for a listener: validates them, drops those that were received before, and reports gaps. It never waits.

use super::envelope::Content;
use super::inbox::{Found, Inbox};
use super::service::{Observation, Service};
use super::window::{NextSequences, Recent};
use crate::ChannelName;
use crate::capabilities::Capabilities;
use crate::machine::External;
use broadcaster_local::Socket;
use broadcaster_protocol::{Frame, SenderId};
use std::io;
use std::sync::Arc;

/// Receives the messages on one channel.
#[derive(Debug)]
pub(crate) struct NotificationListener {
    service: Service,
    channel: ChannelName,
    /// Present while notifications are observed. The observation is dropped first.
    observing: Option<(Box<dyn Observation>, Arc<Inbox>)>,
    recent: Recent,
    next_sequences: NextSequences,
    /// A message behind a gap, which is reported first.
    after_gap: Option<External>,
}

impl NotificationListener {
    pub(crate) fn new(service: Service, channel: ChannelName) -> Self {
        let (recent, next_sequences) = (Recent::default(), NextSequences::default());
        Self { service, channel, observing: None, recent, next_sequences, after_gap: None }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities { payload: true, ..self.service.capabilities() }
    }

    /// Observes from now on.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.observing.is_none() {
            let inbox = Inbox::new()?;
            let observation = self.service.center.observe(&self.service.dialect.name(&self.channel), &inbox);
            self.observing = Some((observation, inbox));
        }
        Ok(())
    }

    /// Stops observing, and forgets what was received.
    pub(super) fn close(&mut self) {
        self.observing = None;
        (self.recent, self.next_sequences) = (Recent::default(), NextSequences::default());
    }

    pub(super) fn is_open(&self) -> bool {
        self.observing.is_some()
    }

    /// Readable while something waits.
    pub(super) fn readable(&self) -> Option<Arc<Socket>> {
        self.observing.as_ref().map(|(_, inbox)| inbox.readable())
    }

    /// The next message or gap. `alone`: no daemon delivers messages at the same time.
    pub(super) fn poll_next(&mut self, alone: bool) -> Option<External> {
        if let Some(message) = self.after_gap.take() {
            return Some(message);
        }
        let (_, inbox) = self.observing.as_ref()?;
        loop {
            let info = match inbox.take()? {
                Found::Lost => return Some(External::Gap),
                Found::Notice(info) => info,
            };
            let (sender, sequence, payload) = match self.service.dialect.decode(&self.channel, &info) {
                Err(_) => continue, // any process may post anything under this name
                Ok(Content::Doorbell) => return Some(External::Gap),
                Ok(Content::Anonymous(payload)) => {
                    return Some(External::Message { sender: SenderId::from_raw(0), sequence: 0, payload });
                }
                Ok(Content::Message { sender, sequence, payload }) => (sender, sequence, payload),
            };
            if !self.recent.is_new(sender, sequence, &payload) {
                continue;
            }
            let message = External::Message { sender, sequence, payload };
            // While a daemon delivers as well, messages that seem to be missing may have arrived from it.
            if self.next_sequences.leaves_gap(sender, sequence) && alone {
                self.after_gap = Some(message);
                return Some(External::Gap);
            }
            return Some(message);
        }
    }

    /// Whether a message from the daemon is new to this listener.
    pub(super) fn is_new(&mut self, frame: Frame<'_>) -> bool {
        if self.observing.is_none() || frame.payload.len() > self.service.dialect.payload_bytes_max() as usize {
            return true;
        }
        self.recent.is_new_from_daemon(frame.sender, frame.sequence, frame.payload)
    }
}
