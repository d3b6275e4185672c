//! `broadcasterd`: the per-user broadcast daemon and the command line of system-broadcaster. Data goes to stdout, diagnostics
//! to stderr; [`exit::Code`] lists the exit codes.
//!
//! The layers depend on each other in one direction: `cli` uses `observe`, `service` and `daemon`; `observe` uses `service` and
//! `daemon`; `service` and `daemon` do not know each other. `exit`, `output` and `os` know none of them.
//!
//! What follows is the map of the whole project.
#![doc = include_str!("../ARCHITECTURE.md")]

mod cli;
mod daemon;
mod exit;
mod observe;
mod os;
mod output;
mod service;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(&cli::Arguments::of_process()) {
        Ok(()) => exit::Code::Ok.into(),
        Err(failure) => failure.report(),
    }
}
