//! The clock that all processes of a run share. It never measures time within one process; `Instant` does that.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds on the machine's clock.
///
/// Not `Instant`, which has no form that another process could read. A stepped clock spoils the run it falls into, and
/// medians over runs drop that one.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
