//! The daemon from start to end: it takes the sockets of the bus, serves, and ends on a signal, on request or when idle. It decides
//! nothing about messages.

use super::activation;
use super::config::keys::CONNECTIONS_MIN;
use super::config::{Flags, Settings, Started};
use super::log::Log;
use super::memory;
use super::stats::{self, About};
use crate::exit::{Code, Failure};
use crate::os;
use broadcaster_protocol::endpoint::{Candidate, Origin, stats_socket};
use broadcaster_server::{
    AuxiliaryListener, BindError, Bound, LockState, ServerHandle, adopt, bind, connections_within, descriptors_for,
    lock_state, raise_descriptor_limit, serve,
};
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Options, Stage};
use tokio::task::{JoinHandle, spawn_local};

/// A process that holds the lock without listening is about to listen or to end within this time, or it hangs. By default, an orderly stop
/// takes up to two seconds.
const OTHER_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A daemon that listens answers within this time, or it is stopped or hangs.
const OTHER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A daemon whose socket a service manager has replaced notices that and ends within this time, or it hangs.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The pause between two attempts to take the lock.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);

/// The outcome of an attempt to become the daemon.
enum Claim {
    Ours(Bound),
    /// Another daemon serves the bus and has answered; its process, unless it has refused the connection.
    Taken(Option<u32>),
}

/// Runs the daemon until it is asked to end. `detached`: leave the caller's session, directory and output.
pub(crate) fn run(options: &Options, flags: &Flags, detached: bool) -> Result<(), Failure> {
    os::reset_signals()?;
    let descriptors = raise_descriptor_limit();
    check_descriptors(descriptors)?;
    let inherited = activation::socket().map_err(|error| Failure::new(Code::Failed, error))?;
    let activated = inherited.is_some();
    let settings = Settings::load(flags, Started::this(detached, activated))?;
    let log = Log::init(&settings.log.value)?;
    let served = run_with(options, &settings, descriptors, inherited, detached, &log);
    log.flush();
    served
}

/// Checks the limit on open files before anything is opened: the runtime panics if it cannot open its own files.
fn check_descriptors(descriptors: Option<u64>) -> Result<(), Failure> {
    let needed = descriptors_for(CONNECTIONS_MIN);
    match descriptors.filter(|&descriptors| descriptors < needed) {
        None => Ok(()),
        Some(descriptors) => Err(Failure::new(
            Code::Failed,
            format!(
                "the limit on open files is {descriptors}, and the daemon needs at least {needed}: raise the hard limit \
                 (`ulimit -Hn`, LimitNOFILE=)"
            ),
        )),
    }
}

fn run_with(
    options: &Options,
    settings: &Settings,
    descriptors: Option<u64>,
    inherited: Option<AuxiliaryListener>,
    detached: bool,
    log: &Log,
) -> Result<(), Failure> {
    let activated = inherited.is_some();
    if detached {
        os::leave_caller()?;
    }
    let claim = match inherited {
        Some(socket) => Claim::Ours(take_over(&socket, options)?),
        None => claim(options)?,
    };
    let mut bound = match claim {
        Claim::Ours(bound) => bound,
        // The caller has its daemon. This is no failure that a service manager should act on.
        Claim::Taken(Some(pid)) => return Ok(writeln!(io::stdout(), "already running, process {pid}")?),
        Claim::Taken(None) => return Ok(writeln!(io::stdout(), "already running")?),
    };
    let stats_sockets: Vec<_> = bound.sockets().map(stats_socket).collect();
    let mut stats_listeners = Vec::new();
    for socket in &stats_sockets {
        match bound.listen_auxiliary(socket) {
            Ok(listener) => stats_listeners.push(listener),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, socket = %socket.display(), "serving without this stats socket");
            }
        }
    }
    let mut limits = settings.limits();
    limits.connections_max = limits.connections_max.min(connections_within(descriptors));
    let log = log.clone();
    let about = About { socket: bound.socket().to_owned(), limits: limits.clone() };
    let until_stop = |server: ServerHandle| async move {
        let mut signals = match os::StopSignals::catch() {
            Ok(signals) => signals,
            Err(error) => return tracing::error!(%error, "cannot catch signals"),
        };
        tracing::info!(socket = %about.socket.display(), activated, "ready");
        // From here on the next connection is served and the next signal is handled. A closed stdout changes nothing.
        let _ = writeln!(io::stdout(), "listening on {}", about.socket.display());
        if detached {
            log.flush(); // to the caller, which still waits
            if let Err(error) = os::drop_output() {
                tracing::warn!(%error, "cannot close the caller's output");
            }
        }
        let memory = spawn_local(memory::return_after_bursts(server.clone()));
        let reports = spawn_local(activation::report_to_manager(server.clone()));
        let stats = stats_listeners.into_iter();
        let stats: Vec<_> =
            stats.map(|listener| spawn_local(stats::serve(listener, about.clone(), server.clone()))).collect();
        let mut requested = pin!(server.stopping());
        poll_fn(|cx| match requested.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => signals.poll_any(cx),
        })
        .await;
        tracing::info!("stopping");
        activation::report_stopping();
        reports.abort();
        memory.abort();
        stats.iter().for_each(JoinHandle::abort);
    };
    Ok(serve(bound, limits, env!("CARGO_PKG_VERSION"), until_stop)?)
}

/// Takes the right to serve, unless another daemon has it and answers. A daemon that is starting or stopping is waited for.
fn claim(options: &Options) -> Result<Claim, Failure> {
    let candidates: Vec<_> = options.candidates()?.into_iter().map(|candidate| place(candidate.socket)).collect();
    let other = options.clone().timeout(OTHER_ANSWERS_WITHIN).daemon();
    let give_up_at = Instant::now() + OTHER_ENDS_WITHIN;
    loop {
        let held = match bind(&candidates) {
            Ok(bound) => return Ok(Claim::Ours(bound)),
            Err(error @ BindError::AlreadyRunning { .. }) => error,
            Err(error) => return Err(Failure::new(Code::Failed, error)),
        };
        match other.status() {
            Ok(status) => {
                tracing::info!("{held}");
                return Ok(Claim::Taken(Some(status.pid)));
            }
            // That is an answer as well: the daemon may have all the connections that it accepts.
            Err(ConnectError::Refused { .. } | ConnectError::Unsupported { .. }) => {
                tracing::info!("{held}");
                return Ok(Claim::Taken(None));
            }
            Err(error @ ConnectError::TimedOut { .. }) => return Err(error.into()),
            Err(ConnectError::NotRunning { .. }) if Instant::now() >= give_up_at => {
                return Err(not_listening(&candidates).into());
            }
            Err(error) if Instant::now() >= give_up_at => return Err(error.into()),
            Err(_) => std::thread::sleep(ATTEMPT_PAUSE),
        }
    }
}

/// A process holds the lock of one of these places, and no process listens.
fn not_listening(candidates: &[Candidate]) -> ConnectError {
    let holder = candidates.iter().find_map(|candidate| match lock_state(&candidate.socket) {
        LockState::Held { pid } | LockState::Leaving { pid } => pid,
        LockState::Free | LockState::NotAFile => None,
    });
    let socket = candidates.first().map(|first| first.socket.clone()).unwrap_or_default();
    ConnectError::TimedOut { socket, after: OTHER_ENDS_WITHIN, stage: Stage::Locked, holder }
}

/// A socket to serve on, whatever rule led to it.
fn place(socket: PathBuf) -> Candidate {
    Candidate { socket, origin: Origin::Explicit }
}

/// Takes the right to serve on a socket that a service manager created, and on the other candidates. The previous daemon ends: at the same
/// path because its socket was replaced, at another candidate on request. Clients that wait on the socket are served after that.
fn take_over(socket: &AuxiliaryListener, options: &Options) -> Result<Bound, Failure> {
    let give_up_at = Instant::now() + PREDECESSOR_ENDS_WITHIN;
    let mut bound = loop {
        match adopt(socket) {
            Ok(bound) => break bound,
            Err(BindError::AlreadyRunning { .. }) if Instant::now() < give_up_at => std::thread::sleep(ATTEMPT_PAUSE),
            Err(error) => return Err(Failure::new(Code::Failed, error)),
        }
    };
    let elsewhere =
        options.candidates()?.into_iter().filter(|candidate| candidate.origin != system_broadcaster::Origin::Explicit);
    let elsewhere: Vec<_> = elsewhere.map(|candidate| place(candidate.socket)).collect();
    loop {
        match bound.extend(&elsewhere) {
            Ok(()) => return Ok(bound),
            Err(error) if Instant::now() >= give_up_at => {
                tracing::warn!(%error, "another daemon keeps serving at another path");
                return Ok(bound);
            }
            Err(_) => {
                stop_others(&bound, &elsewhere, options);
                std::thread::sleep(ATTEMPT_PAUSE);
            }
        }
    }
}

/// Requests daemons at other candidates to stop.
fn stop_others(bound: &Bound, candidates: &[Candidate], options: &Options) {
    let is_other = |candidate: &&Candidate| bound.sockets().all(|socket| socket != candidate.socket);
    for candidate in candidates.iter().filter(is_other) {
        let daemon = options.clone().socket(&candidate.socket).timeout(OTHER_ANSWERS_WITHIN).daemon();
        match daemon.stop() {
            Ok(()) => tracing::info!(socket = %candidate.socket.display(), "stopped the previous daemon"),
            Err(ConnectError::NotRunning { .. }) => {}
            Err(error) => {
                tracing::warn!(socket = %candidate.socket.display(), %error, "cannot stop the daemon at another path");
            }
        }
    }
}
