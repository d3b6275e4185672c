//! The settings of the daemon: a flag overrides a variable, a variable overrides the config file, and the file overrides the
//! default. The path of the bus is never one of them: clients must agree on it without reading the daemon's file.

mod file;
mod idle_exit;
pub(crate) mod keys;
mod settings;
mod sources;
mod started;

pub(crate) use idle_exit::IdleExit;
pub(crate) use settings::{Origin, Settings};
pub(crate) use sources::{Environment, Flags, Source};
pub(crate) use started::Started;
