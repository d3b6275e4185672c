//! How the command ends: one code per kind of outcome, and one sentence on stderr. The codes are part of the interface.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use system_broadcaster::{ConnectError, RecvError, SendError};

/// Exit codes; `broadcasterd --help` lists them. 2 is given by the argument parser too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    TimedOut = 3,
    NobodyThere = 4,
    Unreachable = 5,
    Refused = 6,
}

/// The same list, for people.
pub(crate) const CODES_HELP: &str = "Exit codes:
  0  done
  1  failed: an error of the system, the demo missed a frame, or the doctor found an error
  2  usage: an argument, a variable or a setting can not be used
  3  timeout: nothing came in time
  4  nobody there: no daemon runs (status, stop, monitor, stats, ...)
  5  cannot reach the daemon, or start one
  6  refused by the daemon";

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// A line on stderr, if anybody reads it.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Why the command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: Box<dyn Error>,
}

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<Box<dyn Error>>) -> Self {
        Self { code, error: error.into() }
    }

    /// The output says already what is wrong.
    pub(crate) fn told(code: Code) -> Self {
        Self::new(code, Told)
    }

    /// How the command ends.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Says why on stderr, with all causes in one sentence. That nobody reads our output any more is no failure.
    pub(crate) fn report(&self) -> ExitCode {
        if self.error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Code::Ok.into();
        }
        if !self.error.is::<Told>() {
            say(format_args!("broadcasterd: {self}"));
        }
        self.code.into()
    }
}

/// There is nothing left to say.
#[derive(Debug)]
struct Told;

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("see the output")
    }
}

impl Error for Told {}

/// The error and all its causes, as one sentence.
impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
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
            ConnectError::Name(_) | ConnectError::Endpoint(_) | ConnectError::RelativeProgram { .. } => Code::Usage,
            ConnectError::Refused { .. } => Code::Refused,
            _ => Code::Unreachable,
        };
        Self::new(code, error)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(error) => error.into(),
            SendError::TimedOut { .. } | SendError::Unfinished { .. } => Self::new(Code::TimedOut, error),
            SendError::TooLarge { .. } => Self::new(Code::Usage, error),
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
