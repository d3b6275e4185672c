//! How a handle connects. It never looks for a daemon itself.

use super::notifications::service::Service;
use crate::error::ConnectError;
use crate::options::SHARED_MEMORY_VARIABLE;
use crate::os;
use broadcaster_local as local;
use broadcaster_protocol::endpoint::{Candidate, candidates};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How a handle connects, and what it does when there is no daemon.
#[derive(Debug, Clone)]
pub(crate) struct ConnectConfig {
    /// The socket, if the program names it.
    pub(crate) socket: Option<PathBuf>,
    /// The daemon's program, if the program names it.
    pub(crate) program: Option<PathBuf>,
    /// What the connection is for, for display.
    pub(crate) purpose: Option<String>,
    /// How long a connection may take, and how long a send may wait.
    pub(crate) timeout: Duration,
    /// Whether a daemon may be started.
    pub(crate) autostart: bool,
    /// Whether this process may host the broker.
    pub(crate) embedded: bool,
    /// Whether connecting may start a daemon: a service manager that listens on the socket does that.
    pub(crate) activate: bool,
    /// Whether a lost connection is replaced. If not, its loss is an error.
    pub(crate) reconnect: bool,
    /// The notifications to use if there is no daemon; `None` unless the program requests them and the system has them.
    pub(crate) notifications: Option<Service>,
}

impl ConnectConfig {
    /// The places to try now, best first. They depend on the environment, so each attempt determines them again.
    pub(crate) fn candidates(&self) -> Result<Vec<Candidate>, ConnectError> {
        Ok(candidates(&os::endpoint_env(self.socket.clone()))?)
    }

    /// Whether `BROADCASTER_SHARED_MEMORY` allows shared memory. It depends on the environment, as the places do.
    pub(super) fn allows_shared_memory() -> Result<bool, ConnectError> {
        allows(std::env::var_os(SHARED_MEMORY_VARIABLE).filter(|_| !local::is_elevated()))
    }

    /// The purpose to announce; `default` unless the program has named one.
    pub(crate) fn purpose_or<'a>(&'a self, default: &'a str) -> &'a str {
        self.purpose.as_deref().unwrap_or(default)
    }
}

/// What this value of the variable means.
fn allows(value: Option<OsString>) -> Result<bool, ConnectError> {
    match value {
        None => Ok(true),
        Some(value) if value.is_empty() || value == "1" => Ok(true),
        Some(value) if value == "0" => Ok(false),
        Some(value) => Err(ConnectError::SharedMemory { value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_turned_off_by_its_variable_alone() {
        for (value, allowed) in [(None, true), (Some(""), true), (Some("1"), true), (Some("0"), false)] {
            assert_eq!(allows(value.map(OsString::from)).ok(), Some(allowed), "{value:?}");
        }
        let error = allows(Some("off".into())).expect_err("neither 0 nor 1");
        assert_eq!(error.to_string(), "BROADCASTER_SHARED_MEMORY must be 0 or 1, not \"off\"");
    }
}
