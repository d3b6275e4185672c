//! Observing the bus: its statistics, its messages and its problems. Nothing here starts or changes a daemon.

pub(crate) mod doctor;
mod format;
pub(crate) mod monitor;
#[cfg(test)]
mod screens;
pub(crate) mod stats;
mod table;
#[cfg(feature = "top")]
pub(crate) mod top;
