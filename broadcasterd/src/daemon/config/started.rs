//! How the daemon was started, and the defaults that depend on it. It never inspects the process itself.

use super::idle_exit::IdleExit;
use std::fmt;
use std::time::Duration;

/// How the daemon was started. Some defaults depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// By a user, or by a service manager that does not pass a socket.
    InForeground,
    /// By the first client, through `broadcasterd start`.
    OnDemand,
    /// By a service manager that holds the socket and starts the daemon again on the next connection.
    Activated,
}

impl Started {
    /// Every way, in the order in which they are shown.
    pub(crate) const ALL: [Self; 3] = [Self::InForeground, Self::OnDemand, Self::Activated];

    /// How this process was started: with `--detached`, with a socket, or neither.
    pub(crate) fn this(detached: bool, activated: bool) -> Self {
        if detached {
            Self::OnDemand
        } else if activated {
            Self::Activated
        } else {
            Self::InForeground
        }
    }

    pub(crate) fn idle_exit(self) -> IdleExit {
        IdleExit(match self {
            Self::InForeground => None,
            Self::OnDemand => Some(Duration::from_secs(60)),
            Self::Activated => Some(Duration::from_secs(600)),
        })
    }

    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::InForeground | Self::Activated => "info",
            Self::OnDemand => "warn", // stderr belongs to the caller until the daemon is ready, and leads nowhere after that
        }
    }
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InForeground => "in the foreground",
            Self::OnDemand => "when started on demand",
            Self::Activated => "when activated",
        })
    }
}
