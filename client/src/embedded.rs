//! Hosting the broker in this process, on the one thread that this library ever starts. Only when no daemon answers and none can be
//! started.

use crate::error::ConnectError;
use broadcaster_local::{check_descriptors, connections_of_host, descriptors_max, pid, without_signals};
use broadcaster_protocol::SenderId;
use broadcaster_protocol::endpoint::Candidate;
use broadcaster_server::{BindError, Limits, ServerHandle, bind, serve};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The host thread ends after this long without a connection.
const IDLE_EXIT_AFTER: Duration = Duration::from_secs(60);

/// How long to wait at most for what this process has sent, before it may end.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How often to check whether the host has read what this process has sent.
const CHECK_EVERY: Duration = Duration::from_micros(200);

/// The host threads of this process, one for each bus, and of those that it was forked from.
static HOSTS: Mutex<Vec<Host>> = Mutex::new(Vec::new());

/// A host thread.
#[derive(Debug)]
struct Host {
    /// The process that it runs in. A forked child inherits everything but the thread.
    pid: u32,
    orders: Arc<Orders>,
}

/// What other threads want of the host thread.
#[derive(Debug, Default)]
struct Orders {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Order>,
    waker: Option<Waker>,
    ended: bool,
}

#[derive(Debug)]
enum Order {
    /// Report whether this sender is still connected.
    IsConnected(SenderId, mpsc::SyncSender<bool>),
    /// Stop in an orderly way. The channel is closed when that is complete.
    Stop(mpsc::SyncSender<bool>),
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes an order on. The answer's channel is closed at once if the host has ended.
    fn order(&self, order: impl FnOnce(mpsc::SyncSender<bool>) -> Order) -> mpsc::Receiver<bool> {
        let (answer, answered) = mpsc::sync_channel(1);
        let mut state = self.lock();
        if !state.ended {
            state.waiting.push_back(order(answer));
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        answered
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Order> {
        let mut state = self.lock();
        match state.waiting.pop_front() {
            Some(order) => Poll::Ready(order),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn end(&self) {
        let mut state = self.lock();
        (state.ended, state.waker) = (true, None);
        state.waiting.clear();
    }
}

/// Carries orders out until one of them is to stop. What is returned lasts until the stop is complete.
async fn attend(orders: Arc<Orders>, server: ServerHandle) -> mpsc::SyncSender<bool> {
    loop {
        match poll_fn(|cx| orders.poll_next(cx)).await {
            Order::Stop(done) => return done,
            Order::IsConnected(sender, answer) => {
                let connections = server.snapshot().map(|snapshot| snapshot.connections).unwrap_or_default();
                let _ = answer.try_send(connections.iter().any(|conn| conn.sender == Some(sender)));
            }
        }
    }
}

/// Files that a host opens before it serves its first client, with some for the first clients: locks, sockets, the runtime's own, the
/// watch. A runtime panics if it cannot open one of its own, so there must be enough of them before it begins.
const DESCRIPTORS_MIN: usize = 24;

/// Becomes the daemon of this user, until this process ends or a minute has passed without connections. `false`: another process is.
pub(crate) fn host(candidates: &[Candidate]) -> Result<bool, ConnectError> {
    check_descriptors(DESCRIPTORS_MIN).map_err(|error| failed(TooFewDescriptors(error)))?;
    let bound = match bind(candidates) {
        Ok(bound) => bound,
        Err(BindError::AlreadyRunning { .. }) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let mut limits = Limits::default();
    limits.idle_exit_after = Some(IDLE_EXIT_AFTER);
    limits.connections_max = limits.connections_max.min(connections_of_host(descriptors_max()));
    let orders = Arc::new(Orders::default());
    let (report, reported) = mpsc::sync_channel(1);
    let run = {
        let orders = Arc::clone(&orders);
        move || {
            let (serving, attending) = (report.clone(), Arc::clone(&orders));
            let stopping = Arc::new(Mutex::new(None));
            let stop = Arc::clone(&stopping);
            let result = serve(bound, limits, env!("CARGO_PKG_VERSION"), move |server| async move {
                let _ = serving.send(Ok(()));
                let done = attend(attending, server).await;
                *stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            });
            orders.end();
            if let Err(error) = result {
                let _ = report.try_send(Err(error));
            }
        }
    };
    let thread = std::thread::Builder::new().name("broadcaster-host".to_owned());
    without_signals(|| thread.spawn(run)).map_err(failed)?;
    match reported.recv() {
        Ok(serving) => serving.map_err(failed)?,
        Err(mpsc::RecvError) => return Err(failed("the host thread ended before it served")),
    }
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let own = pid();
    // Nothing of an inherited host is touched: a thread of the parent may have held its lock.
    hosts.retain(|host| host.pid != own || !host.orders.lock().ended);
    hosts.push(Host { pid: own, orders });
    Ok(true)
}

/// Too few descriptors are left for a host.
#[derive(Debug, thiserror::Error)]
#[error("it needs {DESCRIPTORS_MIN} more open files")]
struct TooFewDescriptors(#[source] io::Error);

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConnectError {
    ConnectError::Host { source: source.into() }
}

/// The orders of the host threads of this process.
fn present() -> Vec<Arc<Orders>> {
    let hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let own = pid();
    hosts.iter().filter(|host| host.pid == own).map(|host| Arc::clone(&host.orders)).collect()
}

/// Waits, when it is dropped, for what a sender has sent.
///
/// By then the sender is gone, and its connection is closed. If this process hosts the broker, it waits until the broker has taken what
/// was sent and has passed it on, for at most a second: a process that ends now takes the broker with it. It does not wait for listeners
/// that do not read.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// The sender, once it is gone.
    pub(crate) sender: Option<SenderId>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(sender) = self.sender else { return };
        let begun = Instant::now();
        let remaining = || DELIVERY_TIMEOUT.saturating_sub(begun.elapsed());
        for orders in present() {
            let is_connected = || orders.order(|answer| Order::IsConnected(sender, answer)).recv_timeout(remaining());
            while let Ok(true) = is_connected() {
                std::thread::sleep(CHECK_EVERY);
            }
        }
    }
}

/// Ends the broker that this process hosts, on each bus where it does, when it is dropped: in an orderly way, so that everything that was
/// sent is delivered to every listener that reads it within a second. Other processes find or host the next daemon.
///
/// Create it first in `main`, so that it is dropped last. Without it, a process that hosts and exits takes what waits for slow listeners
/// with it. Each of its own senders waits, when it is dropped, until what it has sent is passed on, for at most a second. Neither happens in a
/// process that ends without dropping them, as with [`process::exit`](std::process::exit).
///
/// ```
/// use system_broadcaster::{HostGuard, Options};
///
/// let _guard = HostGuard::new();
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// bus.sender("com.example.sync")?.send(b"delivered before the program ends")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "the guard ends the host when it is dropped"]
pub struct HostGuard(());

impl HostGuard {
    /// A guard for the host that this process may become.
    pub fn new() -> Self {
        Self(())
    }
}

impl Drop for HostGuard {
    fn drop(&mut self) {
        let deadline = Instant::now() + 2 * DELIVERY_TIMEOUT;
        let stopping: Vec<_> = present().iter().map(|orders| orders.order(Order::Stop)).collect();
        for stopped in stopping {
            // It answers by closing the channel. An orderly stop has a time limit of its own.
            let _ = stopped.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
