//! Signals, of which this system has none.

/// Runs `start`. A thread takes no signals on this system.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    start()
}
