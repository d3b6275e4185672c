//! Posts the messages of a sender as notifications. It never waits.

use super::envelope::Info;
use super::service::Service;
use crate::ChannelName;
use crate::capabilities::Capabilities;
use crate::machine::{Posted, Publisher, TooLarge};

/// Posts the messages of one sender.
#[derive(Debug)]
pub(crate) struct NotificationSender {
    service: Service,
    name: String,
}

impl NotificationSender {
    pub(crate) fn new(service: Service, channel: &ChannelName) -> Self {
        let name = service.dialect.name(channel);
        Self { service, name }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.service.capabilities()
    }

    /// Whether messages that a daemon has accepted can be posted as well.
    pub(super) fn can_duplicate(&self) -> bool {
        // Notifications without a payload cannot be distinguished, so listeners would count each as another message.
        self.service.center.takes_payloads()
    }

    /// Posts a message.
    ///
    /// # Errors
    ///
    /// [`TooLarge`]; nothing was posted.
    pub(super) fn post(&self, publisher: &Publisher, message: Posted<'_>) -> Result<(), TooLarge> {
        let Service { center, dialect } = &self.service;
        let (len, max) = (message.payload.len(), dialect.payload_bytes_max());
        if !u32::try_from(len).is_ok_and(|len| len <= max) {
            return Err(TooLarge { len, max });
        }
        let info = match center.takes_payloads() {
            true => dialect.encode(message.channel, publisher.id(), message.sequence, message.payload),
            false => Info::Absent,
        };
        if message.channel == publisher.channel() {
            center.post(&self.name, &info);
        } else {
            center.post(&dialect.name(message.channel), &info);
        }
        Ok(())
    }
}
