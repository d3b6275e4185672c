//! Waiting on this thread for pipes and a time. It never reads or writes.

use super::pipe::Pipe;
use crate::Interest;
use std::io;
use std::time::Duration;

/// Waits until one of the pipes is ready or has ended, or `timeout` is over. It may also return early. No pipe may be there twice for the
/// same direction.
///
/// # Errors
///
/// If the system refuses to wait, or there are more than 64 pipes.
pub fn wait(interests: &[Interest<'_>], timeout: Option<Duration>) -> io::Result<()> {
    if interests.is_empty() {
        std::thread::sleep(timeout.unwrap_or(Duration::MAX));
        return Ok(());
    }
    Pipe::wait_any(interests.iter().map(|interest| (&**interest.socket, interest.writable)), timeout)
}
