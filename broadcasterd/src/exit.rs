//! How the command ends: one exit code per kind of outcome, and one sentence on stderr. The codes are part of the interface.

use crate::output::notice;
use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;
use system_broadcaster::{ConnectError, RecvError, RequestError, SendError};

/// Begins every diagnostic.
const PREFIX: &str = "broadcasterd: ";

/// An exit code. The argument parser uses 2 as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    TimedOut = 3,
    NotRunning = 4,
    Unreachable = 5,
    Refused = 6,
    Lost = 7,
    Command = 8,
    Listeners = 9,
    Retained = 10,
}

impl Code {
    /// Every code with its meaning, for `--help` and the manual pages.
    pub(crate) const MEANINGS: [(Self, &str); 11] = [
        (Self::Ok, "success"),
        (Self::Failed, "failure: a system error, a message lost in the demo, or an error found by doctor"),
        (Self::Usage, "usage: an argument, a variable or a setting is invalid"),
        (
            Self::TimedOut,
            "timeout: nothing arrived in time, send --wait-for saw too few listeners, or the daemon did not confirm what was sent",
        ),
        (Self::NotRunning, "not running: there is no daemon (status, stop, monitor, stats, get, ...)"),
        (Self::Unreachable, "unreachable: the daemon does not answer, or cannot be started"),
        (Self::Refused, "refused or disconnected by the daemon"),
        (Self::Lost, "lost: messages are missing (listen --fail-on-loss) or may be (send: the daemon died)"),
        (
            Self::Command,
            "command: a command of listen --exec or --ready-exec failed or could not be started, or a reply to request reports a failure",
        ),
        (Self::Listeners, "listeners: fewer took a message than send --require or request asks for"),
        (
            Self::Retained,
            "retained: the channel has no value (get), or the daemon does not retain the message (send --retain)",
        ),
    ];
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why the command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: Box<dyn Error>,
}

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<Box<dyn Error>>) -> Self {
        Self { code, error: error.into() }
    }

    /// A failure that the output already describes.
    pub(crate) fn reported(code: Code) -> Self {
        Self::new(code, Reported)
    }

    /// The exit code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Writes the failure to stderr, with all causes in one sentence. A reader of stdout that is gone is not a failure.
    pub(crate) fn report(&self) -> ExitCode {
        if self.error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Code::Ok.into();
        }
        if !self.error.is::<Reported>() {
            notice(format_args!("{PREFIX}{self}"));
        }
        self.code.into()
    }
}

/// Stands for an error that is in the output already.
#[derive(Debug)]
struct Reported;

impl fmt::Display for Reported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("see the output")
    }
}

impl Error for Reported {}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&with_causes(&*self.error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Code::Failed, error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Name(_)
            | ConnectError::Endpoint(_)
            | ConnectError::RelativeProgram { .. }
            | ConnectError::SharedMemory { .. } => Code::Usage,
            ConnectError::Refused { .. } => Code::Refused,
            ConnectError::Start { .. } => return Self::new(Code::Unreachable, without_prefixes(&with_causes(&error))),
            _ => Code::Unreachable,
        };
        Self::new(code, error)
    }
}

/// The error and all its causes, as one sentence.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A sentence that quotes the diagnostics of `broadcasterd`, on one line and without the prefix of each diagnostic.
fn without_prefixes(sentence: &str) -> String {
    let lines = sentence.lines().map(|line| line.strip_prefix(PREFIX).unwrap_or(line));
    lines.collect::<Vec<_>>().join("; ").replace(&format!(": {PREFIX}"), ": ")
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(error) => error.into(),
            SendError::TimedOut { .. }
            | SendError::Unfinished { .. }
            | SendError::Unconfirmed { .. }
            | SendError::Unanswered { .. }
            | SendError::TooFewListeners { .. } => Self::new(Code::TimedOut, error),
            SendError::InDoubt { .. } => Self::new(Code::Lost, error),
            SendError::NotRetained { .. } => Self::new(Code::Retained, error),
            SendError::TooLarge { .. } => Self::new(Code::Usage, error),
            error => Self::new(Code::Failed, error),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Send(error) => error.into(),
            RequestError::NoListeners => Self::new(Code::Listeners, error),
            RequestError::NoReply { .. } => Self::new(Code::TimedOut, error),
            RequestError::ConnectionLost => Self::new(Code::Lost, error),
            error => Self::new(Code::Failed, error),
        }
    }
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Connect(error) => error.into(),
            RecvError::TimedOut { .. } => Self::new(Code::TimedOut, error),
            error => Self::new(Code::Failed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_diagnostics_have_one_prefix_and_one_line() {
        let quoted = "/bin/broadcasterd could not start the daemon: broadcasterd: a: b\nbroadcasterd: it did not start";
        assert_eq!(without_prefixes(quoted), "/bin/broadcasterd could not start the daemon: a: b; it did not start");
    }
}
