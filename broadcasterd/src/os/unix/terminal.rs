//! The signals of a program that controls a terminal. It never touches the terminal itself.

use super::StopSignals;
use rustix::process::{Signal as SignalNumber, kill_current_process_group};
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal to a program that controls a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalSignal {
    /// It is asked to end.
    Stop,
    /// It was stopped and has been continued.
    Continued,
}

/// The signals that such a program handles.
pub(crate) struct TerminalSignals {
    stop: StopSignals,
    continued: Signal,
}

impl TerminalSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let continued = SignalKind::from_raw(SignalNumber::CONT.as_raw());
        Ok(Self { stop: StopSignals::catch()?, continued: signal(continued)? })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> TerminalSignal {
        poll_fn(|cx| {
            if self.stop.poll_any(cx).is_ready() {
                return Poll::Ready(TerminalSignal::Stop);
            }
            self.continued.poll_recv(cx).map(|_| TerminalSignal::Continued)
        })
        .await
    }
}

/// Stops the job, as Ctrl+Z does. The system ignores this if no shell can continue the job.
pub(crate) fn suspend() -> io::Result<()> {
    Ok(kill_current_process_group(SignalNumber::TSTP)?)
}
