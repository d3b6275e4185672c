//! The source of samples: the running daemon or a recording. It never starts a daemon.

use crate::daemon::stats::model::Stats;
use crate::exit::{Code, Failure};
use crate::observe::stats::fetch::Client;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use system_broadcaster::Options;

/// Takes a sample of a running daemon's statistics. It may block; it runs on a thread of its own.
pub(crate) type Sampler = Box<dyn FnMut() -> Result<Stats, Missing> + Send>;

/// Why there is no sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No daemon is running.
    NoDaemon,
    /// The exit code and message of another failure.
    Failed(Code, String),
}

/// Samples the running daemon.
pub(crate) fn live(options: Options) -> Result<Sampler, Failure> {
    let client = Client::new(options)?;
    Ok(Box::new(move || {
        client.fetch().map_err(|failure| match failure.code() {
            Code::NotRunning => Missing::NoDaemon,
            code => Missing::Failed(code, failure.to_string()),
        })
    }))
}

/// Replays a recording: one line per sample, and no daemon after the last one.
pub(crate) fn replay(path: &Path) -> io::Result<Sampler> {
    let file =
        File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut lines = BufReader::new(file).lines();
    Ok(Box::new(move || {
        let failed = |error: &dyn std::fmt::Display| {
            Missing::Failed(Code::Failed, format!("the recording is malformed: {error}"))
        };
        let line = lines.next().ok_or(Missing::NoDaemon)?.map_err(|error| failed(&error))?;
        let sample: Option<Stats> = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        sample.ok_or(Missing::NoDaemon)
    }))
}
