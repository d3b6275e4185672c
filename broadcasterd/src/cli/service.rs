//! `broadcasterd install`, `uninstall` and `restart`: the daemon in the hands of the user's service manager. None of them touches
//! anybody else's files.

use super::{Bus, start, status};
use crate::exit::Failure;
use crate::service::{self, Order};
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use clap::Args;
use std::io::{self, Write};

#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Start it at once; a daemon that started itself makes way
    #[arg(long)]
    now: bool,

    #[command(flatten)]
    uninstall: Uninstall,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Install {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        with_order(bus, self.uninstall.dry_run, |order| service::install(order, self.now))
    }
}

impl Uninstall {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        with_order(bus, self.dry_run, service::uninstall)
    }
}

/// Whoever runs the daemon runs it again. Clients come back by themselves.
pub(crate) fn restart(bus: &Bus) -> Result<(), Failure> {
    if with_order(bus, false, service::restart)? {
        return Ok(());
    }
    status::stop(bus)?;
    writeln!(io::stdout(), "stopped the daemon")?;
    start::run(bus)
}

fn with_order<T>(bus: &Bus, dry_run: bool, act: impl FnOnce(&Order<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let named = bus.socket.is_some() || std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| !value.is_empty());
    act(&Order { options: &bus.options()?, named, dry_run })
}
