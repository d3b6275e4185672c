//! Support for the tests of system-broadcaster: simulated worlds, and real daemons. The user's own bus is never used.
//!
//! | module | contents |
//! | --- | --- |
//! | [`world`] | the production driver and the production client loops over pipes in memory, in virtual time |
//! | [`model`] | the plain model that knows what a listener must have received |
//! | [`daemon`] | real daemons and clients as processes, each on a bus of its own |
//! | `listening` | `broadcasterd listen` as a process, on Unix |

// A test fails by panicking.
#![allow(clippy::missing_panics_doc)]

pub mod daemon;
#[cfg(unix)]
pub mod listening;
pub mod model;
pub mod world;
