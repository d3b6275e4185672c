//! Where `listen` gets its messages: a listener, and what to do while there is no daemon. Nothing is printed here but why it waits.

use super::exec::Commands;
use crate::exit::Failure;
use crate::output::notice;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Listener, Message, RecvError, RefusalCode};

/// The pause between two attempts to reach a daemon; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(250);

const RETRY_PAUSE_MAX: Duration = Duration::from_secs(4);

/// The listener, with what to do while there is no daemon.
pub(super) struct Source {
    pub(super) listener: Listener,
    pub(super) timeout: Option<Duration>,
    pub(super) retry: bool,
    /// The commands that run, whose replies are sent while this waits, and whose failures may end it.
    pub(super) commands: Option<Commands>,
}

impl Source {
    /// The next message, if it has arrived.
    pub(super) fn next_now(&mut self) -> Result<Message, RecvError> {
        if self.commands.as_ref().is_some_and(Commands::is_stopped) {
            return Err(RecvError::Closed);
        }
        match self.listener.try_recv() {
            Err(RecvError::Connecting) => Err(RecvError::Empty),
            Err(RecvError::Connect(error)) if self.retry && is_away(&error) => Err(RecvError::Empty),
            next => next,
        }
    }

    /// Waits for the next message, and for the next daemon if there is none.
    pub(super) fn next(&mut self) -> Result<Message, RecvError> {
        let began = Instant::now();
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let left = self.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            let next = match (&self.commands, left) {
                (Some(commands), left) => commands.recv(&mut self.listener, left),
                (None, Some(left)) => self.listener.recv_timeout(left),
                (None, None) => self.listener.recv(),
            };
            match (next, self.timeout) {
                (Err(RecvError::TimedOut { .. }), Some(after)) => return Err(RecvError::TimedOut { after }),
                (Err(RecvError::Connect(error)), Some(after))
                    if self.retry && left == Some(Duration::ZERO) && is_away(&error) =>
                {
                    return Err(RecvError::TimedOut { after });
                }
                (Err(RecvError::Connect(error)), _) if self.retry && is_away(&error) => {
                    if pause == RETRY_PAUSE_MIN {
                        notice(format_args!("broadcasterd: {}; trying again", Failure::from(error)));
                    }
                    let pause_now = left.map_or(pause, |left| left.min(pause));
                    match &self.commands {
                        Some(commands) => commands.pause(&mut self.listener, pause_now),
                        None => std::thread::sleep(pause_now),
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                (next, _) => return next,
            }
        }
    }
}

/// Whether another attempt may find a daemon.
fn is_away(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::NotRunning { .. }
            | ConnectError::NoProgram { .. }
            | ConnectError::Start { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::Refused { code: RefusalCode::Connections, .. }
            | ConnectError::Io { .. }
    )
}
