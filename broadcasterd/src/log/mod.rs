//! Where the daemon's diagnostics go: to the journal if stderr is connected to it, else to stderr. Payloads are never logged,
//! nothing is logged for single frames, and nobody who does not read the log makes the bus wait.

mod os;
mod stderr;

use crate::exit::{Code, Failure};
use stderr::Stderr;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sets the daemon's log up. A line that can not be written at once is dropped: the bus goes on. `keeps_stderr` tells
/// whether stderr stays what it is for as long as the daemon runs.
pub(crate) fn init(directives: &str, keeps_stderr: bool) -> Result<(), Failure> {
    let registry =
        tracing_subscriber::registry().with(filter(directives).map_err(|error| Failure::new(Code::Usage, error))?);
    if let Some(journal) = os::journal() {
        registry.with(journal).init();
        return Ok(());
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Stderr::new(keeps_stderr))
        .log_internal_errors(false)
        // The library is built without colours, and takes it amiss to be asked for them.
        .with_ansi(false);
    registry.with(lines).init();
    Ok(())
}

/// A level, or directives such as `broadcaster_server=debug`, as they are if they can be used.
pub(crate) fn directives(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    let refused = |why: String| format!("{text:?} is no log level ({why}); try error, warn, info, debug or trace");
    if text.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // A lone word would be the name of a module whose lines are wanted, and a mistyped level would turn the log off.
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok();
    if let Some(word) = text.split(',').map(str::trim).find(|part| !part.contains(['=', '[', ']']) && !is_level(part)) {
        return Err(refused(format!("{word:?} is neither a level nor a module=level")));
    }
    EnvFilter::builder().parse(text).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_as_they_are() {
        for text in
            ["error", "WARN", "info", "off", "warn,broadcaster_server=debug", "broadcaster_server=trace", "a=b=c,info"]
        {
            let taken = directives(text);
            assert_eq!(taken.is_ok(), text != "a=b=c,info", "{text}: {taken:?}");
        }
    }

    #[test]
    fn a_mistyped_level_is_told_and_does_not_turn_the_log_off() {
        for text in ["", " ", "inof", "warn,dbug", "broadcaster_server=loud", "a b"] {
            let refused = directives(text).expect_err(text);
            assert!(refused.starts_with(&format!("{text:?} is no log level (")), "{refused}");
            assert!(
                refused.ends_with("; try error, warn, info, debug or trace") && !refused.contains('\n'),
                "{refused}"
            );
        }
    }
}
