//! `broadcasterd run`: the daemon in the foreground. Here are only its arguments.

use super::bus::Bus;
use crate::daemon::config::{Flags, IdleExit};
use crate::daemon::{log, run};
use crate::exit::Failure;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Read the settings from this file instead of the user's own [env: BROADCASTERD_CONFIG]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Exit after this long without connections, or `never` [env: BROADCASTERD_IDLE_EXIT] [default: never]
    #[arg(long, value_name = "TIME")]
    idle_exit: Option<IdleExit>,

    /// What to log: error, warn, info, debug or trace [env: BROADCASTERD_LOG] [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = log::directives)]
    log: Option<String>,

    /// Leave the caller's session, directory and output, as `broadcasterd start` requests
    #[arg(long, hide = true)]
    detached: bool,
}

impl Run {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let flags = Flags { config: self.config.clone(), idle_exit: self.idle_exit, log: self.log.clone() };
        run::run(&bus.options()?, &flags, self.detached)
    }
}
