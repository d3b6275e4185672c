//! What a notification center provides in order to carry messages. It never chooses between notifications and a daemon.

use super::envelope::{Dialect, Info};
use super::inbox::Inbox;
use crate::capabilities::{Capabilities, Transport};
use std::fmt::Debug;
use std::sync::Arc;

#[cfg(target_os = "macos")]
pub(crate) use super::center::service;

/// The notifications of the system, where it has them.
#[cfg(not(target_os = "macos"))]
pub(crate) fn service(_: Dialect) -> Option<Service> {
    None
}

/// Where notifications are posted and observed.
pub(crate) trait Center: Debug + Send + Sync {
    /// Posts a notification to every process that observes its name. Whether it arrives is unknown.
    fn post(&self, name: &str, info: &Info);

    /// Puts each notification with this name into the inbox, until the result is dropped.
    fn observe(&self, name: &str, inbox: &Arc<Inbox>) -> Box<dyn Observation>;

    /// Whether notifications can be delivered to this process at present.
    fn is_delivering(&self) -> bool;

    /// Whether the notifications of this process can carry a payload.
    fn takes_payloads(&self) -> bool;
}

/// An observed name.
pub(crate) trait Observation: Debug + Send + Sync {}

/// A center, and how messages are put into its notifications.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) center: Arc<dyn Center>,
    pub(crate) dialect: Dialect,
}

impl Service {
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities {
            transport: Transport::Notifications,
            payload: self.center.takes_payloads(),
            metadata: false,
            ordering: false,
            lag_counts: false,
            confirmation: false,
            rings: 0,
            payload_bytes_max: self.dialect.payload_bytes_max(),
        }
    }
}

impl Capabilities {
    /// What notifications of the system can do for this process; `None` where the system has none. See
    /// [`Fallback::Notifications`](crate::Fallback::Notifications).
    pub fn of_notifications() -> Option<Self> {
        service(Dialect::Current).map(|service| service.capabilities())
    }
}
