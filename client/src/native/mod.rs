//! The degraded way between processes where there can be no daemon: notifications of the system. It never stands in for a daemon that
//! answers and refuses, and a program gets it only if it asks for it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `envelope` | messages as dictionaries, and what is believed of a dictionary |
//! | `fallback` | when a handle goes which way |
//! | `window` | what came already by the other way, and what is missing |
//! | `inbox` | notifications on their way to a handle |
//! | `voice`, `ear` | the part of a sender and of a listener |
//!
//! All of it is the same on every system; the notifications themselves are a [`Center`], which only macOS has (`center`).

#[cfg(target_os = "macos")]
mod center;
mod ear;
mod envelope;
mod fallback;
mod inbox;
mod voice;
mod window;

#[cfg(target_os = "macos")]
pub(crate) use center::notifications;
pub(crate) use ear::{Ear, News};
pub(crate) use envelope::{Dialect, Info};
pub(crate) use inbox::Inbox;
pub(crate) use voice::{TooLarge, Voice};

use crate::core::Core;
use crate::error::ConnectError;
use crate::transport::{Link, Step};
use broadcaster_protocol::limits;
use fallback::Fallback;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

/// The system's notifications, where it has them.
#[cfg(not(target_os = "macos"))]
pub(crate) fn notifications(_: Dialect) -> Option<Native> {
    None
}

/// Where notifications are posted and observed.
pub(crate) trait Center: Debug + Send + Sync {
    /// Posts one, to whoever observes its name; nobody learns what becomes of it.
    fn post(&self, name: &str, info: &Info);

    /// Puts each one with this name into the inbox, until what is returned is dropped.
    fn observe(&self, name: &str, inbox: &Arc<Inbox>) -> Box<dyn Observation>;

    /// Whether anything delivers them to this process at the moment.
    fn is_driven(&self) -> bool;

    /// Whether this process may post more than a name.
    fn takes_payloads(&self) -> bool;
}

/// That a name is observed.
pub(crate) trait Observation: Debug + Send + Sync {}

/// What a handle was told about notifications.
#[derive(Debug, Clone)]
pub(crate) struct Native {
    pub(crate) center: Arc<dyn Center>,
    pub(crate) dialect: Dialect,
}

impl Native {
    fn begin(&self) -> Fallback {
        match self.dialect {
            Dialect::Current => Fallback::new(),
            Dialect::V01 => Fallback::only(Instant::now()),
        }
    }
}

/// The way that a handle's messages take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Through the daemon, with everything that is promised.
    Daemon,
    /// By notifications of the system: see [`Options::native_fallback`](crate::Options::native_fallback).
    Notifications,
}

/// What the way can do that a handle's messages take at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Which way it is.
    pub transport: Transport,
    /// Payloads arrive. Without, listeners learn that something was sent, and not what: they are told of a gap.
    pub payload: bool,
    /// The messages of one sender arrive in order.
    pub ordering: bool,
    /// Listeners are told how many messages they missed. Without, they are told that some are missing, as far as anybody knows.
    pub lag_counts: bool,
    /// The largest payload, in bytes. The daemon may be set to less.
    pub max_payload: u32,
}

impl Capabilities {
    /// Those of the daemon.
    pub(crate) const DAEMON: Self = Self {
        transport: Transport::Daemon,
        payload: true,
        ordering: true,
        lag_counts: true,
        max_payload: limits::PAYLOAD_BYTES_MAX,
    };

    /// What notifications of the system can do for this process; `None` where the system has none. See
    /// [`Options::native_fallback`](crate::Options::native_fallback).
    pub fn of_notifications() -> Option<Self> {
        let native = notifications(Dialect::Current)?;
        Some(Self::notifications(native.dialect, native.center.takes_payloads()))
    }

    fn notifications(dialect: Dialect, payload: bool) -> Self {
        let max_payload = dialect.payload_bytes_max();
        Self { transport: Transport::Notifications, payload, ordering: false, lag_counts: false, max_payload }
    }
}

/// Which way to go now: gets the connection up, or falls back, as far as that goes without waiting. A handle that goes by notifications
/// looks for the daemon in passing and does not wait for it.
/// One whose core is `bound` to what it has told a daemon waits for the answer.
pub(crate) fn way<C: Core>(
    fallback: &mut Fallback,
    link: &mut Link,
    core: &mut C,
    bound: impl Fn(&C) -> bool,
) -> Result<Step<Transport>, ConnectError> {
    let by = |transport| Ok(Step::Done(transport));
    if !fallback.is_active() {
        return match link.ready(core) {
            Ok(Step::Done(())) => by(Transport::Daemon),
            Ok(Step::Wait(wait)) => Ok(Step::Wait(wait)),
            Err(error) if means_no_daemon(&error) => {
                fallback.fall(Instant::now());
                by(Transport::Notifications)
            }
            Err(error) => Err(error),
        };
    }
    if fallback.may_look(Instant::now()) || bound(core) {
        match link.ready(core) {
            Ok(Step::Done(())) => {
                fallback.found(Instant::now());
                return by(Transport::Daemon);
            }
            Ok(Step::Wait(wait)) if bound(core) => return Ok(Step::Wait(wait)),
            Ok(Step::Wait(_)) => fallback.looks_on(Instant::now()),
            Err(error) => {
                fallback.looked_in_vain(Instant::now());
                if !means_no_daemon(&error) {
                    return Err(error);
                }
            }
        }
    }
    by(Transport::Notifications)
}

/// Whether there is no daemon, rather than one that will not or must not serve us.
fn means_no_daemon(error: &ConnectError) -> bool {
    match error {
        ConnectError::NotRunning { .. }
        | ConnectError::NoProgram { .. }
        | ConnectError::Start { .. }
        | ConnectError::Host { .. }
        | ConnectError::TimedOut { .. }
        | ConnectError::Io { .. } => true,
        ConnectError::Name(_)
        | ConnectError::Endpoint(_)
        | ConnectError::RelativeProgram { .. }
        | ConnectError::Refused { .. }
        | ConnectError::OtherUser { .. }
        | ConnectError::NotADaemon { .. }
        | ConnectError::NoRunLoop { .. } => false,
    }
}

#[cfg(all(test, unix))]
mod tests;
