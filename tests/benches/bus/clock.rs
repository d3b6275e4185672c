//! The clock that all processes of a run share. Time within one process is measured with `Instant` instead.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
///
/// An `Instant` cannot be passed to another process. If the clock is stepped, the affected run is wrong; the median over the
/// runs discards it.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
