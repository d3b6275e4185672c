//! The console events of a program that controls a terminal. It never touches the terminal itself.

use super::StopSignals;
use std::future::poll_fn;
use std::io;

/// A signal to a program that controls a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalSignal {
    /// It is asked to end.
    Stop,
    /// It was stopped and has been continued; never on this system.
    #[allow(dead_code)]
    Continued,
}

/// The console events that such a program handles.
pub(crate) struct TerminalSignals(StopSignals);

impl TerminalSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        StopSignals::catch().map(Self)
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> TerminalSignal {
        poll_fn(|cx| self.0.poll_any(cx)).await;
        TerminalSignal::Stop
    }
}

/// Does nothing: shells on this system do not stop jobs.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn suspend() -> io::Result<()> {
    Ok(())
}
