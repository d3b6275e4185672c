//! The daemon's numbers: what the stats socket tells, and what the command shows of it.

pub(crate) mod model;
