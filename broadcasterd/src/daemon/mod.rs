//! The daemon: settings, log, startup and end, and the service that reports its numbers. It parses no arguments.

pub(crate) mod activation;
pub(crate) mod config;
pub(crate) mod detach;
pub(crate) mod log;
mod memory;
pub(crate) mod run;
pub(crate) mod stats;
