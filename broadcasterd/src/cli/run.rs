//! `broadcasterd run`: the daemon itself, in the foreground.

use super::{Bus, duration};
use crate::exit::Failure;
use crate::log::{self, LOG_VARIABLE};
use broadcaster_server::{BindError, Bound, Limits, bind, raise_descriptor_limit};
use clap::Args;
use rustix::fs::Mode;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use system_broadcaster::Options;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A daemon that holds the lock and does not answer is stopping, and gone within this time, or hangs.
const TWIN_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait before asking again.
const TWIN_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// End when nobody has been connected for this long [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_exit: Option<Duration>,

    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = LOG_VARIABLE, default_value = "info")]
    log: String,

    /// Leave the caller's session, directory and output, as `broadcasterd start` asks for
    #[arg(long, hide = true)]
    detached: bool,
}

impl Run {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        log::init(&self.log)?;
        if self.detached {
            leave_caller()?;
        }
        raise_descriptor_limit();
        let Some(bound) = self.become_the_daemon(&bus.options()?)? else {
            // Whoever wanted a daemon has one: no failure for a service manager to act on.
            writeln!(io::stdout(), "already running")?;
            return Ok(());
        };
        let mut limits = Limits::default();
        limits.idle_exit_after = self.idle_exit;
        let socket = bound.socket().to_owned();
        let detached = self.detached;
        let until_signal = async move {
            let mut signals = match Signals::catch() {
                Ok(signals) => signals,
                Err(error) => return tracing::error!(%error, "cannot catch signals"),
            };
            tracing::info!(socket = %socket.display(), "ready");
            // Ready means that the next connect is served and the next signal is heeded. Nobody may be there to read it.
            let _ = writeln!(io::stdout(), "listening on {}", socket.display());
            if detached && let Err(error) = drop_output() {
                tracing::warn!(%error, "cannot let go of the caller's output");
            }
            signals.any().await;
            tracing::info!("stopping");
        };
        Ok(bound.run(limits, env!("CARGO_PKG_VERSION"), until_signal)?)
    }
}

impl Run {
    /// The right to serve; `None` if another process has it. One that is about to end is waited for.
    fn become_the_daemon(&self, options: &Options) -> Result<Option<Bound>, Failure> {
        let candidates = options.candidates()?;
        let give_up_at = Instant::now() + TWIN_ENDS_WITHIN;
        loop {
            match bind(&candidates) {
                Ok(bound) => return Ok(Some(bound)),
                Err(error @ BindError::AlreadyRunning { .. }) => {
                    let answers = options.clone().deadline(TWIN_ENDS_WITHIN).daemon().status().is_ok();
                    if answers || Instant::now() >= give_up_at {
                        tracing::info!("{error}");
                        return Ok(None);
                    }
                    std::thread::sleep(TWIN_PAUSE);
                }
                Err(error) => return Err(Failure::new(crate::exit::Code::Failed, error)),
            }
        }
    }
}

/// The signals that ask for an orderly stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        std::future::poll_fn(|cx| {
            let signals = [&mut self.terminate, &mut self.interrupt, &mut self.hang_up];
            match signals.into_iter().any(|signal| signal.poll_recv(cx).is_ready()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}

/// A daemon outlives its first client: it keeps neither its session and terminal nor its directory and umask. (Open files,
/// variables and the signal mask were left behind by `broadcasterd start`.)
fn leave_caller() -> io::Result<()> {
    // Fails only for a leader of a process group, which a freshly started child is not.
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    std::env::set_current_dir("/")
}

/// The caller reads stdout to its end to learn that the daemon is ready, and stderr to learn why it is not.
fn drop_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
