//! Where the daemon's diagnostics go: stderr, at the level of `--log` or `BROADCASTERD_LOG`. Payloads are never logged, and
//! nothing is logged for single frames.

use crate::exit::{Code, Failure};
use std::io;
use tracing_subscriber::EnvFilter;

/// Environment variable with the level, or with directives such as `broadcaster_server=debug`.
pub(crate) const LOG_VARIABLE: &str = "BROADCASTERD_LOG";

/// Sets the daemon's log up. A log line that can not be written is dropped: the bus goes on.
pub(crate) fn init(directives: &str) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(directives).map_err(|error| {
        let sentence = format!("{directives:?} is no log level ({error}); try error, warn, info, debug or trace");
        Failure::new(Code::Usage, sentence)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .init();
    Ok(())
}
