//! Returns memory to the system after a burst of messages, which the allocator would keep. Without traffic, it never wakes up.

use crate::os;
use broadcaster_server::ServerHandle;
use std::time::{Duration, Instant};

/// From the end of a burst until memory is returned, and so the shortest interval between two returns.
const DELAY: Duration = Duration::from_secs(5);

/// Returns memory after each burst, as long as the server runs.
pub(crate) async fn return_after_bursts(server: ServerHandle) {
    while server.released().await {
        tokio::time::sleep(DELAY).await;
        let began = Instant::now();
        os::return_memory();
        tracing::debug!(took = ?began.elapsed(), "returned unused memory to the system");
    }
}
