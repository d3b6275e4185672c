//! The daemon's log: to the journal if stderr is connected to it, otherwise to stderr. Payloads are never logged, nothing is
//! logged for single frames, and a log that is not read never makes the bus wait.

#[cfg(target_os = "linux")]
mod journal;
mod queue;

use crate::exit::{Code, Failure};
use crate::os;
use queue::Queue;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How long [`Log::flush`] waits for a reader.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log of this process. A line that does not find room at once is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Log(Queue);

impl Log {
    /// Initializes the log; once per process.
    pub(crate) fn init(directives: &str) -> Result<Self, Failure> {
        let registry =
            tracing_subscriber::registry().with(filter(directives).map_err(|error| Failure::new(Code::Usage, error))?);
        #[cfg(target_os = "linux")]
        if let Some(journal) = journal::Journal::of_stderr()? {
            let queue = journal.queue();
            registry.with(journal).init();
            return Ok(Self(queue));
        }
        let queue = Queue::start(os::write_stderr, report_of_loss)?;
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(queue.clone())
            .log_internal_errors(false)
            // Colors come with a feature of the library that another package may enable.
            .with_ansi(false);
        registry.with(lines).init();
        Ok(Self(queue))
    }

    /// Waits until every line is written, but not for long: its reader may be gone or hang.
    pub(crate) fn flush(&self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

fn report_of_loss(lost: u64) -> Vec<u8> {
    format!("broadcasterd: {lost} lines of this log were lost because it was not read in time\n").into_bytes()
}

/// Checks a level, or directives such as `broadcaster_server=debug`, and returns them unchanged.
pub(crate) fn directives(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

fn filter(text: &str) -> Result<Targets, String> {
    let refused = |why: String| format!("{text:?} is not a log level ({why}); try error, warn, info, debug or trace");
    if text.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // The library takes a lone word for the name of a module, so that a mistyped level would turn the log off.
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok();
    if let Some(word) = text.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part)) {
        return Err(refused(format!("{word:?} is neither a level nor a module=level")));
    }
    text.parse().map_err(|error: ParseError| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted_unchanged() {
        for text in
            ["error", "WARN", "info", "off", "warn,broadcaster_server=debug", "broadcaster_server=trace", "a=b=c,info"]
        {
            let accepted = directives(text);
            assert_eq!(accepted.is_ok(), text != "a=b=c,info", "{text}: {accepted:?}");
        }
    }

    #[test]
    fn mistyped_level_is_reported_and_does_not_turn_the_log_off() {
        for text in ["", " ", "inof", "warn,dbug", "broadcaster_server=loud", "a b"] {
            let refused = directives(text).expect_err(text);
            assert!(refused.starts_with(&format!("{text:?} is not a log level (")), "{refused}");
            assert!(
                refused.ends_with("; try error, warn, info, debug or trace") && !refused.contains('\n'),
                "{refused}"
            );
        }
    }
}
