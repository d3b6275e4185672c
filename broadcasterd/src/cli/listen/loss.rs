//! What a listener has lost. Losses are reported on stderr at most once a second, even while the output is not read and the losses are
//! still queued behind messages. The total is reported when the command ends, also by a signal. Nothing is received here.

use super::list;
use crate::exit::Code;
use crate::observe::stats::fetch::Client;
use crate::output::notice;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use system_broadcaster::{ChannelName, Options, Selector};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The shortest interval between two reports, and how long a write must last until the daemon is asked for losses.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause, in intervals, between two questions to the daemon during one write.
const PAUSE_MAX: u32 = 32;

/// What takes the messages, and is slow if some are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consumer {
    /// The reader of stdout.
    Reader,
    /// The commands of `--exec`.
    Commands,
}

impl Consumer {
    /// Why messages are lost.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Reader => "the output is read too slowly",
            Self::Commands => "the commands are too slow",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Reader => {
                "; its output is read too slowly: read it faster, or choose what is dropped with --overflow"
            }
            Self::Commands => {
                "; its commands are too slow: run more with --jobs, or choose what is dropped with --overflow"
            }
        }
    }
}

/// The losses of one listener. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Losses(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    selectors: Vec<Selector>,
    options: Options,
    consumer: Consumer,
    fail_on_loss: bool,
    state: Mutex<State>,
    /// Held during a report; true once the total is reported, which is the last one.
    is_over: Mutex<bool>,
    /// Wakes the reporter up, unless it is awake.
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    account: Account,
    /// What was reported last.
    reported: Account,
    /// Writes to stdout and waits for commands that have begun, and whether the last one is under way.
    writes: u64,
    writing: bool,
    /// The reporter looks again within an interval.
    awake: bool,
}

/// What is known to be lost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Account {
    /// Messages, as far as the stream has reported them.
    in_stream: u64,
    /// `in_stream` when the current connection began.
    before_connection: u64,
    /// Messages that the daemon counts for the current connection. Their reports may still be queued.
    in_daemon: u64,
    /// Times at which messages may have been lost uncounted, because the daemon was replaced.
    gaps: u64,
}

impl Account {
    /// Counts a gap of the stream; `None` is one between two daemons.
    fn read(&mut self, count: Option<u64>) {
        match count {
            Some(count) => self.in_stream += count,
            None => {
                *self = Self {
                    in_stream: self.in_stream,
                    before_connection: self.in_stream,
                    in_daemon: 0,
                    gaps: self.gaps + 1,
                }
            }
        }
    }

    fn messages(&self) -> u64 {
        self.in_stream.max(self.before_connection + self.in_daemon)
    }

    fn is_empty(&self) -> bool {
        self.messages() == 0 && self.gaps == 0
    }
}

/// As in `3 messages were lost, and the daemon was replaced`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.messages() {
            0 => {}
            1 => f.write_str("1 message was lost")?,
            many => write!(f, "{many} messages were lost")?,
        }
        if self.messages() > 0 && self.gaps > 0 {
            f.write_str(", and ")?;
        }
        match self.gaps {
            0 => Ok(()),
            1 => f.write_str("the daemon was replaced (messages sent in between, if any, are lost)"),
            many => write!(f, "the daemon was replaced {many} times (messages sent in between, if any, are lost)"),
        }
    }
}

impl Losses {
    /// Nothing is lost yet.
    pub(super) fn new(selectors: Vec<Selector>, options: Options, consumer: Consumer, fail_on_loss: bool) -> Self {
        let (state, is_over) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { selectors, options, consumer, fail_on_loss, state, is_over, wake: Notify::new() }))
    }

    /// Reports losses, forever.
    pub(super) async fn report_all(&self) -> Infallible {
        self.0.report_all().await
    }

    /// Reports the total, and ends the process if losses are a failure.
    pub(super) fn exit_if_any(&self) {
        if self.report_total(None) && self.0.fail_on_loss {
            std::process::exit(Code::Lost as i32);
        }
    }

    /// Counts a gap of the stream.
    pub(super) fn read(&self, count: Option<u64>) {
        let mut state = self.0.lock();
        state.account.read(count);
        self.0.wake(&mut state);
    }

    /// Runs a write to stdout, which may last as long as the reader likes, or waits for a command.
    pub(super) fn during<T>(&self, write: impl FnOnce() -> T) -> T {
        {
            let mut state = self.0.lock();
            state.writes += 1;
            state.writing = true;
            self.0.wake(&mut state);
        }
        let written = write();
        self.0.lock().writing = false;
        written
    }

    /// Reports the total and returns true if anything was lost. `received`: the number of messages that were requested and have arrived.
    pub(super) fn report_total(&self, received: Option<u64>) -> bool {
        let mut is_over = lock(&self.0.is_over);
        let (account, channel) = (self.0.lock().account, list(&self.0.selectors));
        if account.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut *is_over, true) {
            match received {
                Some(received) => notice(format_args!(
                    "broadcasterd: the {received} messages on {channel} are not consecutive: in all, {account}"
                )),
                None => notice(format_args!("broadcasterd: on {channel}, in all, {account}")),
            }
        }
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wake(&self, state: &mut State) {
        if !std::mem::replace(&mut state.awake, true) {
            self.wake.notify_one();
        }
    }

    /// Reports what is new, once per interval as long as something happens, and otherwise sleeps.
    async fn report_all(self: &Arc<Self>) -> Infallible {
        loop {
            self.wake.notified().await;
            let mut pause = 0;
            loop {
                self.report_new();
                let seen = self.lock().writes;
                sleep(INTERVAL).await;
                match self.since(seen) {
                    Progress::Stuck => {
                        // The longer a reader stays stuck, the less often the daemon is asked, because an answer costs it some work.
                        pause = (pause * 2).clamp(1, PAUSE_MAX);
                        self.ask_daemon().await;
                        sleep(INTERVAL * (pause - 1)).await;
                    }
                    Progress::Moving => pause = 0,
                    Progress::None => break,
                }
            }
        }
    }

    fn report_new(&self) {
        let is_over = lock(&self.is_over);
        if *is_over {
            return;
        }
        let account = {
            let mut state = self.lock();
            let account = state.account;
            let before = std::mem::replace(&mut state.reported, account);
            if (before.messages(), before.gaps) == (account.messages(), account.gaps) {
                return;
            }
            account
        };
        let channel = list(&self.selectors);
        let remedy = match account.messages() {
            0 => "",
            _ => self.consumer.remedy(),
        };
        notice(format_args!("broadcasterd: listening on {channel}: {account}{remedy}"));
    }

    /// What has happened since `writes` writes had begun. If nothing has, the reporter is no longer awake.
    fn since(&self, writes: u64) -> Progress {
        let mut state = self.lock();
        if state.writing && state.writes == writes {
            Progress::Stuck
        } else if state.writes != writes || state.reported != state.account {
            Progress::Moving
        } else {
            state.awake = false;
            Progress::None
        }
    }

    /// Asks the daemon how much the listener has lost. Without an answer, nothing changes.
    async fn ask_daemon(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        if let Ok(Some(lost)) = spawn_blocking(move || shared.lost_in_daemon()).await {
            self.lock().account.in_daemon = lost;
        }
    }

    fn lost_in_daemon(&self) -> Option<u64> {
        let stats = Client::new(self.options.clone()).ok()?.fetch().ok()?;
        let pid = std::process::id();
        let listeners = stats.connections.iter().filter(|it| it.pid == pid && it.subscriptions > 0);
        let own = listeners.filter(|it| it.channels.iter().all(|channel| self.covers(channel)));
        own.map(|connection| connection.messages_lost).max()
    }

    fn covers(&self, channel: &str) -> bool {
        ChannelName::new(channel).is_ok_and(|channel| self.selectors.iter().any(|selector| selector.covers(&channel)))
    }
}

/// No code panics under a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has happened within an interval.
enum Progress {
    None,
    Moving,
    /// One write, or one wait for a command, lasts for all of it.
    Stuck,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_that_the_daemon_counts_are_not_counted_again_when_they_are_read() {
        let mut account = Account::default();
        account.read(Some(2));
        account.in_daemon = 10;
        assert_eq!(account.messages(), 10);
        account.read(Some(8));
        assert_eq!(account.to_string(), "10 messages were lost");
        account.read(None);
        account.in_daemon = 1;
        assert_eq!((account.messages(), account.gaps), (11, 1));
    }

    #[test]
    fn daemon_that_was_replaced_without_a_known_loss_is_not_a_number() {
        let mut account = Account::default();
        assert!(account.is_empty());
        account.read(None);
        assert_eq!(account.to_string(), "the daemon was replaced (messages sent in between, if any, are lost)");
    }
}
