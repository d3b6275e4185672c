//! `broadcasterd install`, `uninstall` and `restart`: the daemon as a service of the user's service manager. None of them changes
//! a file that `install` did not write.

use super::bus::Bus;
use super::status;
use crate::daemon::config::{Flags, Settings, Started};
use crate::daemon::detach;
use crate::exit::Failure;
use crate::service::{self, Order};
use clap::Args;
use std::io::{self, Write};

#[derive(Debug, Args)]
pub(super) struct Install {
    /// Start the service at once; it replaces a running daemon
    #[arg(long)]
    now: bool,

    #[command(flatten)]
    uninstall: Uninstall,
}

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Only print the steps
    #[arg(long)]
    dry_run: bool,
}

impl Install {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        with_order(bus, self.uninstall.dry_run, |order| service::install(order, self.now))
    }
}

impl Uninstall {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        with_order(bus, self.dry_run, service::uninstall)
    }
}

/// Restarts the daemon through its service manager, or else directly. Clients reconnect. With settings that the next daemon could not
/// use, the running one stays.
pub(super) fn restart(bus: &Bus) -> Result<(), Failure> {
    Settings::load(&Flags::default(), Started::OnDemand)?;
    if with_order(bus, false, service::restart)? {
        return Ok(());
    }
    let stopped = status::stop_daemon(bus)?;
    writeln!(io::stdout(), "stopped the daemon, process {}", stopped.pid)?;
    detach::start(bus.socket()?)
}

fn with_order<T>(bus: &Bus, dry_run: bool, act: impl FnOnce(&Order<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    act(&Order { options: &bus.options()?, named: bus.is_named(), dry_run })
}
