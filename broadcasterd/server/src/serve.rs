//! The driver in a tokio runtime, on one thread: readiness, the clock, and the watch over the paths of the sockets. It decides nothing
//! about frames or connections.

use crate::driver::{Drain, Driver, Input, Output, Request, Socket};
use crate::lock::Bound;
use crate::peak::Peak;
use broadcaster_broker::{Broker, ConnId, Limits, Moment, RingId, Snapshot};
use broadcaster_local::{self as local, Acceptor, Peer, Registration, failpoint};
use broadcaster_protocol::ChannelName;
use broadcaster_protocol::control::{Control, Refused, RefusedCode, Report};
use broadcaster_ring::PAGE_BYTES;
use bytes::BytesMut;
use bytes::buf::Limit;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep, timeout_at};

/// The variable that turns shared memory off, in the daemon as in clients.
const SHARED_MEMORY_VARIABLE: &str = "BROADCASTER_SHARED_MEMORY";

/// How long to pause when the process or the system is out of descriptors or of memory for sockets.
const RESOURCE_PAUSE: Duration = Duration::from_millis(50);

/// The state of a running server. Everything happens on one thread, and no borrow of it is held across an await.
#[derive(Debug)]
struct Server {
    myself: Weak<RefCell<Self>>,
    bound: Rc<Bound>,
    driver: Driver<Conn>,
    started: Instant,
    /// The deadline that the timer sleeps for.
    armed: Option<Moment>,
    peak: Peak,
    signals: Rc<Signals>,
    /// The tasks that read rings, and what wakes them besides doorbells.
    relays: BTreeMap<RingId, (JoinHandle<()>, Rc<Notify>)>,
}

/// What tasks wait for.
#[derive(Debug, Default)]
struct Signals {
    /// The deadline has changed.
    timer: Notify,
    /// The driver is to be drained.
    drain: Notify,
    /// As `drain`, for the handle.
    stopping: Notify,
    /// A full connection has accepted bytes again.
    written: Notify,
    /// Most of the held memory was released.
    released: Notify,
    exit: Notify,
    /// The server is to end at once.
    abort: Notify,
}

/// A connected socket, shared by the driver and the tasks that wait for it.
#[derive(Debug, Clone)]
struct Conn {
    socket: Rc<local::Socket>,
    /// The connection has ended, and its id may belong to another one.
    gone: Rc<Cell<bool>>,
}

impl Socket for Conn {
    const KEEPS_BYTES_WHEN_STOPPED: bool = local::STOPPED_SOCKET_KEEPS_BYTES;

    type Descriptor = local::Descriptor;
    type Memory = local::ReadOnlyMemory;
    type Page = local::WritableMemory;

    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        local::read(&self.socket, target)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => local::write(&self.socket, slice),
            slices => local::write_vectored(&self.socket, slices),
        }
    }

    fn rings_max(connections_max: usize) -> usize {
        let is_off = std::env::var_os(SHARED_MEMORY_VARIABLE).is_some_and(|value| value == "0");
        let can_make = !is_off && local::shared_memory_problem().is_none();
        if can_make { local::rings_within(connections_max) } else { 0 }
    }

    fn read_with_descriptors(
        &self,
        target: &mut Limit<&mut BytesMut>,
        received: &mut VecDeque<local::Descriptor>,
    ) -> io::Result<usize> {
        local::read_with_descriptors(&self.socket, target, received)
    }

    fn write_with_descriptors(&self, frame: &[u8], descriptors: &[&local::Descriptor]) -> io::Result<usize> {
        local::write_with_descriptors(&self.socket, frame, descriptors)
    }

    fn open_memory(descriptor: &local::Descriptor, bytes: RangeInclusive<usize>) -> io::Result<local::ReadOnlyMemory> {
        local::open_memory(descriptor, bytes)
    }

    fn make_page() -> io::Result<(local::Descriptor, local::WritableMemory)> {
        local::make_memory("broadcaster-page", PAGE_BYTES)
    }

    fn make_doorbell() -> io::Result<local::Descriptor> {
        local::make_doorbell()
    }

    fn stop_reading(&self) {
        local::stop_reading(&self.socket);
    }

    fn shut_down(&self) {
        self.gone.set(true);
        local::shutdown(&self.socket);
    }
}

/// A handle to a running server, for use within its own runtime.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    server: Weak<RefCell<Server>>,
}

impl ServerHandle {
    /// The current state of every connection and channel; `None` if the server has ended. It takes a few hundred nanoseconds for each of
    /// them.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(self.server.upgrade()?.borrow_mut().turn(Driver::snapshot))
    }

    /// The current totals alone; `None` if the server has ended.
    pub fn report(&self) -> Option<Report> {
        Some(self.server.upgrade()?.borrow_mut().turn(Driver::report))
    }

    /// Waits until the server has begun to stop, for whatever reason. One task may wait at a time.
    pub async fn stopping(&self) {
        if let Some(signals) = self.read(|server| Rc::clone(&server.signals)) {
            signals.stopping.notified().await;
        }
    }

    /// Waits until the memory held for messages has fallen to a quarter of a peak of at least 16 MiB; `false` if the server has ended. One
    /// task may wait at a time. If the memory falls between two calls, the second returns at once.
    pub async fn released(&self) -> bool {
        let Some(signals) = self.read(|server| Rc::clone(&server.signals)) else { return false };
        signals.released.notified().await;
        true
    }

    /// Ends the server at once, as if its process was killed: nothing more is read or delivered, and connections end without a goodbye. It
    /// removes its sockets, though. For tests of programs that must cope with that.
    pub fn abort(&self) {
        self.read(|server| server.signals.abort.notify_one());
    }

    /// Lets the listeners of a channel lose this many messages at this point of their streams, as if the memory budget had not sufficed for
    /// them. Returns how many listeners there are. For tests of programs that must cope with losses.
    pub fn lose(&self, channel: &ChannelName, messages: u32) -> usize {
        let Some(server) = self.server.upgrade() else { return 0 };
        let mut server = server.borrow_mut();
        server.turn(|driver, now| driver.lose(now, channel.clone(), messages.into()));
        let channels = server.turn(Driver::snapshot).channels;
        channels.iter().find(|present| present.name == *channel).map_or(0, |present| present.listeners)
    }

    fn read<T>(&self, read: impl FnOnce(&Server) -> T) -> Option<T> {
        let server = self.server.upgrade()?;
        let server = server.borrow();
        Some(read(&server))
    }
}

/// Serves on this thread until the future that `beside` creates is ready, or the idle time of the limits has passed. It then stops in an
/// orderly way: it accepts no new connections, reads and delivers everything that clients have sent, and sends every client a goodbye.
///
/// The future runs in the server's runtime, may spawn further local tasks there, and may use the [`ServerHandle`]. It must not block,
/// because the bus waits for it.
///
/// # Errors
///
/// If the runtime or a socket cannot be set up. A failure of a single connection is never an error here.
pub fn serve<F>(bound: Bound, limits: Limits, version: &str, beside: impl FnOnce(ServerHandle) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().build_local(LocalOptions::default())?;
    runtime.block_on(serve_until_exit(bound, limits, version, beside))
}

/// Serves `bound` until the driver has nothing left to do.
async fn serve_until_exit<F: Future<Output = ()> + 'static>(
    mut bound: Bound,
    limits: Limits,
    version: &str,
    beside: impl FnOnce(ServerHandle) -> F,
) -> io::Result<()> {
    let acceptor = Acceptor::new(bound.take_listeners(), out_of_descriptors()?)?;
    let bound = Rc::new(bound);
    let broker = Broker::new(limits, local::euid(), local::pid(), version, Moment::default());
    let signals = Rc::new(Signals::default());
    let server = Rc::new_cyclic(|myself| {
        RefCell::new(Server {
            myself: myself.clone(),
            bound: Rc::clone(&bound),
            driver: Driver::new(broker),
            started: Instant::now(),
            armed: None,
            peak: Peak::default(),
            signals: Rc::clone(&signals),
            relays: BTreeMap::new(),
        })
    });
    let accepting = spawn_local(accept_all(Rc::clone(&server), acceptor));
    let ticking = spawn_local(tick(Rc::clone(&server), Rc::clone(&signals)));
    let stop = beside(ServerHandle { server: Rc::downgrade(&server) });
    let stopping = spawn_local({
        let server = Rc::clone(&server);
        async move {
            stop.await;
            server.borrow_mut().turn(Driver::stop);
        }
    });
    let watching = spawn_local(watch(Rc::clone(&server), Rc::clone(&bound)));
    server.borrow_mut().turn(Driver::tick);
    let orderly = async {
        signals.drain.notified().await;
        // From here on new clients find no socket; the lock is held until everything is delivered. The watch has ended, so that it does not
        // report this as the act of another process.
        end(watching).await;
        bound.leave();
        end(accepting).await;
        drain(&server, &signals).await;
        signals.exit.notified().await;
        end(ticking).await;
        end(stopping).await;
    };
    let (mut orderly, mut aborted) = (pin!(orderly), pin!(signals.abort.notified()));
    // The tasks of an aborted server end with the runtime, and its sockets with them.
    poll_fn(|cx| match aborted.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => orderly.as_mut().poll(cx),
    })
    .await;
    Ok(())
}

async fn end(task: JoinHandle<()>) {
    task.abort();
    // The result only shows whether it was cancelled or had ended before.
    let _ = task.await;
}

async fn accept_all(server: Rc<RefCell<Server>>, acceptor: Acceptor) {
    let mut failing = false;
    loop {
        match acceptor.accept().await {
            Ok((socket, peer)) => {
                failing = false;
                if let Err(error) = server.borrow_mut().accept(socket, peer) {
                    tracing::warn!(%error, pid = peer.pid, "a connection was lost on arrival");
                }
            }
            Err(error) if is_about_one_peer(&error) => {}
            Err(error) => {
                // Only the first of consecutive failures is logged.
                if !std::mem::replace(&mut failing, true) {
                    let open = server.borrow().driver.connections();
                    tracing::warn!(%error, open, "cannot accept; trying again every {RESOURCE_PAUSE:?}");
                }
                sleep(RESOURCE_PAUSE).await;
            }
        }
    }
}

/// Whether the error concerns a single peer, so that the next accept may succeed at once.
fn is_about_one_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted)
}

/// The frame that a client receives if there is no descriptor for its connection.
fn out_of_descriptors() -> io::Result<Vec<u8>> {
    let reason = "the daemon has reached its connection limit: it cannot open any more files";
    let mut refusal = Vec::new();
    let refused = Control::Refused(Refused::new(RefusedCode::Connections, reason));
    refused.encode(&mut refusal).map_err(io::Error::other)?;
    Ok(refusal)
}

/// Stops in an orderly way when a socket or lock is removed, for example by a cleaner of temporary files: some clients could no longer find
/// this daemon, and would start another one.
async fn watch(server: Rc<RefCell<Server>>, bound: Rc<Bound>) {
    let socket = bound.taken_away().await;
    tracing::warn!(socket = %socket.display(), "the socket or its lock was removed: stopping");
    server.borrow_mut().turn(Driver::stop);
}

async fn tick(server: Rc<RefCell<Server>>, signals: Rc<Signals>) {
    loop {
        let (deadline, started) = (server.borrow().armed, server.borrow().started);
        match deadline.and_then(|Moment(after)| started.checked_add(after)) {
            None => signals.timer.notified().await,
            Some(at) => {
                if timeout_at(at, signals.timer.notified()).await.is_err() {
                    server.borrow_mut().turn(Driver::tick);
                }
            }
        }
    }
}

/// Reads what clients have sent before the stop.
async fn drain(server: &RefCell<Server>, signals: &Signals) {
    let started = server.borrow().started;
    loop {
        let drained = server.borrow_mut().turn(Driver::drain);
        match drained {
            Drain::Done => return,
            Drain::More => yield_now().await,
            Drain::Crowded(until) => {
                let written = signals.written.notified();
                match started.checked_add(until.0) {
                    // In either case, the driver is called again.
                    Some(at) => drop(timeout_at(at, written).await),
                    None => written.await,
                }
            }
        }
    }
}

/// Reads from the connection until it ends.
async fn read_all(server: Rc<RefCell<Server>>, id: ConnId, conn: Conn, readable: Registration<Rc<local::Socket>>) {
    while let Ok(mut ready) = poll_fn(|cx| readable.poll_read_ready(cx)).await {
        loop {
            if conn.gone.get() {
                return;
            }
            let input = server.borrow_mut().turn(|driver, now| driver.read(now, id));
            match input {
                Input::More => yield_now().await, // other connections get their turn
                Input::Empty => break ready.clear_ready(),
                Input::Ended => return,
            }
        }
    }
}

/// Reads a ring for those that do not read it themselves, whenever its doorbell is rung, or `wake` is notified.
async fn relay_all(server: Rc<RefCell<Server>>, ring: RingId, socket: Arc<local::Socket>, wake: Rc<Notify>) {
    let mut failing = false;
    let mut doorbell = None;
    loop {
        if doorbell.is_none() {
            doorbell = match local::register(Arc::clone(&socket), Interest::READABLE) {
                Ok(doorbell) => Some(doorbell),
                Err(error) => {
                    // Only the first failure is logged.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(ring = ring.0, %error, "cannot wait for a doorbell; reading every {RESOURCE_PAUSE:?}");
                    }
                    None
                }
            };
        }
        loop {
            failpoint::step("daemon: reads a ring");
            let input = server.borrow_mut().turn(|driver, now| driver.relay(now, ring));
            match input {
                Input::More => yield_now().await, // connections get their turn
                Input::Empty => break,
                Input::Ended => return,
            }
        }
        let mut woken = pin!(wake.notified());
        let Some(doorbell) = &doorbell else {
            sleep(RESOURCE_PAUSE).await;
            continue;
        };
        poll_fn(|cx| match (woken.as_mut().poll(cx), doorbell.poll_read_ready(cx)) {
            // Nothing reads the doorbell: it stays readable, but each ring is a change. This one is over before the ring is read.
            (_, Poll::Ready(Ok(mut ready))) => {
                ready.clear_ready();
                Poll::Ready(())
            }
            (Poll::Ready(()), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        })
        .await;
    }
}

/// Writes to a connection whose socket is full, until nothing is left.
async fn write_all(server: Rc<RefCell<Server>>, id: ConnId, conn: Conn) {
    let mut failing = false;
    let mut writable = None;
    while !conn.gone.get() {
        if writable.is_none() {
            writable = match local::register_again(&conn.socket, Interest::WRITABLE) {
                Ok(writable) => Some(writable),
                Err(error) => {
                    // Only the first failure is logged.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(conn = id.0, %error, "cannot wait for a full socket; trying every {RESOURCE_PAUSE:?}");
                    }
                    None
                }
            };
        }
        let mut ready = match &writable {
            None => {
                sleep(RESOURCE_PAUSE).await;
                None
            }
            Some(writable) => match writable.writable().await {
                Ok(ready) => Some(ready),
                Err(_) => return,
            },
        };
        if conn.gone.get() {
            return;
        }
        local::widen(&conn.socket); // its peer reads
        let output = server.borrow_mut().turn(|driver, now| driver.write(now, id));
        server.borrow().signals.written.notify_one();
        match (output, &mut ready) {
            (Output::Done, _) => return,
            (Output::Full, Some(ready)) => ready.clear_ready(),
            (Output::Full, None) => {}
            (Output::Exhausted, _) => sleep(RESOURCE_PAUSE).await,
        }
    }
}

impl Server {
    fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    /// Runs a turn of the driver, and carries out what it requests. The clock is read once.
    fn turn<T>(&mut self, turn: impl FnOnce(&mut Driver<Conn>, Moment) -> T) -> T {
        let now = self.now();
        let result = turn(&mut self.driver, now);
        while let Some(request) = self.driver.next_request() {
            match request {
                Request::ContinueWriting(conn) => self.continue_writing(conn),
                Request::WatchRing(ring) => self.watch_ring(ring),
                Request::UnwatchRing(ring) => {
                    if let Some((task, _)) = self.relays.remove(&ring) {
                        task.abort();
                    }
                }
                Request::Drain => {
                    self.signals.drain.notify_one();
                    self.signals.stopping.notify_one();
                }
                Request::Release => {
                    self.bound.release();
                    self.driver.released(now);
                }
                Request::Exit => self.signals.exit.notify_one(),
            }
        }
        if self.peak.is_released(self.driver.broker().held_bytes()) {
            self.signals.released.notify_one();
        }
        let deadline = self.driver.next_deadline();
        if deadline != self.armed {
            self.armed = deadline;
            self.signals.timer.notify_one();
        }
        result
    }

    fn accept(&mut self, socket: local::Socket, peer: Peer) -> io::Result<()> {
        let Some(myself) = self.myself.upgrade() else { return Ok(()) };
        let socket = Rc::new(socket);
        let readable = local::register(Rc::clone(&socket), Interest::READABLE)?;
        let conn = Conn { socket, gone: Rc::default() };
        let id = self.turn(|driver, now| driver.accept(now, conn.clone(), peer.pid, peer.uid));
        spawn_local(read_all(myself, id, conn, readable));
        Ok(())
    }

    fn watch_ring(&mut self, ring: RingId) {
        if let Some((_, wake)) = self.relays.get(&ring) {
            return wake.notify_one();
        }
        if let (Some(myself), Some(doorbell)) = (self.myself.upgrade(), self.driver.doorbell(ring)) {
            let wake = Rc::new(Notify::new());
            let task = spawn_local(relay_all(myself, ring, doorbell.readable(), Rc::clone(&wake)));
            self.relays.insert(ring, (task, wake));
        }
    }

    fn continue_writing(&self, id: ConnId) {
        if let (Some(myself), Some(conn)) = (self.myself.upgrade(), self.driver.socket(id)) {
            spawn_local(write_all(myself, id, conn.clone()));
        }
    }
}
