//! `broadcasterd`: the per-user broadcast daemon and the command line of system-broadcaster. Data goes to stdout,
//! diagnostics to stderr; [`exit::Code`] lists how it ends.

mod activation;
mod cli;
mod config;
mod doctor;
mod exit;
mod format;
mod log;
mod os;
#[cfg(test)]
mod screens;
mod service;
mod stats;
mod top;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(&arguments) {
        Ok(()) => exit::Code::Ok.into(),
        Err(failure) => failure.report(),
    }
}
