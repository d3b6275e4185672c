//! What notifications must offer to carry messages, and what they can do. It never chooses between them and a daemon.

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
    /// Posts one to every process that observes its name. What becomes of it is not known.
    fn post(&self, name: &str, info: &Info);

    /// Puts each one with this name into the inbox, until the result is dropped.
    fn observe(&self, name: &str, inbox: &Arc<Inbox>) -> Box<dyn Observation>;

    /// Whether anything delivers them to this process at the moment.
    fn is_driven(&self) -> bool;

    /// Whether this process may post more than a name.
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
