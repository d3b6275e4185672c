//! Where `listen` gets its messages: a listener, and what to do while there is no daemon. Nothing is printed here but why it waits.

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
}

impl Source {
    /// The next message, if it has arrived.
    pub(super) fn next_now(&mut self) -> Result<Message, RecvError> {
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
            let next = match left {
                Some(left) => self.listener.recv_timeout(left),
                None => self.listener.recv(),
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
                    std::thread::sleep(left.map_or(pause, |left| left.min(pause)));
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
