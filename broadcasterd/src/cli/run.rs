//! `broadcasterd run`: the daemon itself, in the foreground.

use super::Bus;
use crate::activation;
use crate::config::{Flags, Settings, Started};
use crate::exit::{Code, Failure};
use crate::log;
use crate::os;
use crate::stats::{self, About};
use broadcaster_protocol::endpoint::{Origin, stats_socket};
use broadcaster_server::{AuxiliaryListener, BindError, Bound, View, adopt, bind, raise_descriptor_limit, serve};
use clap::Args;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Options};
use tokio::task::spawn_local;

/// A daemon that holds the lock and does not answer is stopping, and gone within this time, or hangs.
const TWIN_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// A daemon whose socket a service manager has replaced finds that out by itself, and is gone within this time, or hangs.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait before asking again.
const TWIN_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    flags: Flags,

    /// Leave the caller's session, directory and output, as `broadcasterd start` asks for
    #[arg(long, hide = true)]
    detached: bool,
}

impl Run {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let inherited = activation::socket().map_err(|error| Failure::new(Code::Failed, error))?;
        let activated = inherited.is_some();
        let settings = Settings::load(&self.flags, Started::this(self.detached, activated))?;
        log::init(&settings.log.value, !self.detached)?;
        if self.detached {
            os::leave_caller()?;
        }
        raise_descriptor_limit();
        let options = bus.options()?;
        let bound = match inherited {
            Some(socket) => Some(take_over(&socket, &options)?),
            None => become_the_daemon(&options)?,
        };
        let Some(mut bound) = bound else {
            // Whoever wanted a daemon has one: no failure for a service manager to act on.
            writeln!(io::stdout(), "already running")?;
            return Ok(());
        };
        let stats = match bound.listen_auxiliary(&stats_socket(bound.socket())) {
            Ok(stats) => Some(stats),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the bus serves without a stats socket");
                None
            }
        };
        let limits = settings.limits();
        let about = About { socket: bound.socket().to_owned(), limits: limits.clone() };
        let detached = self.detached;
        let until_signal = |view: View| async move {
            let mut signals = match os::Ends::catch() {
                Ok(signals) => signals,
                Err(error) => return tracing::error!(%error, "cannot catch signals"),
            };
            tracing::info!(socket = %about.socket.display(), activated, "ready");
            // Ready means that the next connect is served and the next signal is heeded. Nobody may be there to read it.
            let _ = writeln!(io::stdout(), "listening on {}", about.socket.display());
            if detached && let Err(error) = os::drop_output() {
                tracing::warn!(%error, "cannot let go of the caller's output");
            }
            let keeping_told = spawn_local(activation::keep_told(view.clone()));
            let telling = stats.map(|listener| spawn_local(stats::tell(listener, about, view.clone())));
            let mut asked = pin!(view.stopping());
            poll_fn(|cx| if asked.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { signals.poll_any(cx) }).await;
            tracing::info!("stopping");
            activation::stopping();
            keeping_told.abort();
            if let Some(telling) = telling {
                telling.abort();
            }
        };
        Ok(serve(bound, limits, env!("CARGO_PKG_VERSION"), until_signal)?)
    }
}

/// The right to serve; `None` if another process has it. One that is about to end is waited for.
fn become_the_daemon(options: &Options) -> Result<Option<Bound>, Failure> {
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
            Err(error) => return Err(Failure::new(Code::Failed, error)),
        }
    }
}

/// The right to serve on a socket that a service manager has made. Whoever served before makes way: on the same path, since it has
/// lost its socket; at another candidate, since it is asked to. Clients that wait on the socket are served after that.
fn take_over(socket: &AuxiliaryListener, options: &Options) -> Result<Bound, Failure> {
    let give_up_at = Instant::now() + PREDECESSOR_ENDS_WITHIN;
    let bound = loop {
        match adopt(socket) {
            Ok(bound) => break bound,
            Err(BindError::AlreadyRunning { .. }) if Instant::now() < give_up_at => std::thread::sleep(TWIN_PAUSE),
            Err(error) => return Err(Failure::new(Code::Failed, error)),
        }
    };
    let elsewhere = options.candidates()?.into_iter().filter(|candidate| candidate.origin != Origin::Explicit);
    for candidate in elsewhere.filter(|candidate| candidate.socket != bound.socket()) {
        let daemon = options.clone().socket(&candidate.socket).deadline(TWIN_ENDS_WITHIN).daemon();
        match daemon.stop() {
            Ok(()) => tracing::info!(socket = %candidate.socket.display(), "the daemon there has made way"),
            Err(ConnectError::NotRunning { .. }) => {}
            Err(error) => tracing::warn!(socket = %candidate.socket.display(), %error, "a daemon there stays"),
        }
    }
    Ok(bound)
}
