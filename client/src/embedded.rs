//! Hosting the broker in this process, on the one thread that this library ever starts. Only when no daemon answers and
//! none can be started.

use crate::error::ConnectError;
use broadcaster_local::descriptors_max;
use broadcaster_protocol::endpoint::Candidate;
use broadcaster_server::{BindError, Limits, bind, serve};
use std::time::Duration;

/// Without any connection for this long, the host thread ends.
const IDLE_EXIT_AFTER: Duration = Duration::from_secs(60);

/// Becomes the daemon of this user, until this process ends or nobody was connected for a minute. `false`: another
/// process is.
pub(crate) fn host(candidates: &[Candidate]) -> Result<bool, ConnectError> {
    let failed = |reason: String| ConnectError::Host { reason };
    let bound = match bind(candidates) {
        Ok(bound) => bound,
        Err(BindError::AlreadyRunning { .. }) => return Ok(false),
        Err(error) => return Err(failed(crate::chain(&error))),
    };
    let mut limits = Limits::default();
    limits.idle_exit_after = Some(IDLE_EXIT_AFTER);
    // The descriptors are the program's: the bus takes a quarter of them at most.
    limits.connections_max = limits.connections_max.min(descriptors_max() / 4).max(1);
    // The socket listens already: clients may connect before the thread runs.
    std::thread::Builder::new()
        .name("broadcaster-host".to_owned())
        .spawn(move || serve(bound, limits, env!("CARGO_PKG_VERSION"), |_| std::future::pending()))
        .map_err(|error| failed(error.to_string()))?;
    Ok(true)
}
