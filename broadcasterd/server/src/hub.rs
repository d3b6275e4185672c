//! The broker with its connections and its clock: what was read becomes events, and effects become system calls. It
//! decides nothing about frames.

use crate::conn::{self, Conn};
use crate::lock::Bound;
use broadcaster_broker::{Broker, ConnId, Effect, Effects, Event, Limits, Moment, Snapshot};
use broadcaster_local::{self as local, Acceptor, Listener, Peer, Socket, Watch};
use broadcaster_protocol::control::Report;
use broadcaster_protocol::{DecodeError, Decoder, Item};
use bytes::{BufMut, BytesMut};
use slab::Slab;
use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

/// How long to pause when the process or the system is out of descriptors.
pub(crate) const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// The most slices of one write; the broker offers no more.
const SLICES_MAX: usize = 64;

/// How often a connection is read before it is closed towards us, where closing discards what is in it: several times what a
/// socket holds.
const READS_BEFORE_STOP_MAX: usize = 64;

/// All state of a running server. Everything happens on one thread; no borrow of it lives across an await.
#[derive(Debug)]
pub(crate) struct Hub {
    myself: Weak<RefCell<Self>>,
    bound: Rc<Bound>,
    broker: Broker,
    conns: Slab<Rc<Conn>>,
    /// What every connection is read into; it is shared because frames leave it before the next read.
    chunk: BytesMut,
    effects: Effects,
    /// Connections with an `Effect::Write` that was not tried yet.
    dirty: Vec<ConnId>,
    started: Instant,
    /// The time at which this turn began.
    now: Moment,
    /// The deadline that the timer sleeps for.
    armed: Option<Moment>,
    timer: Rc<Notify>,
    drain: Rc<Notify>,
    /// For whoever looks on: the same moment.
    stopping: Rc<Notify>,
    exit: Rc<Notify>,
}

/// A look at a running server, from within its own runtime.
#[derive(Debug, Clone)]
pub struct View {
    hub: Weak<RefCell<Hub>>,
}

impl View {
    /// What the server knows now; `None` if it has ended. Takes time and memory for each connection and channel: a few
    /// hundred nanoseconds each.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let hub = self.hub.upgrade()?;
        let mut hub = hub.borrow_mut();
        hub.begin_turn();
        Some(hub.broker.snapshot(hub.now))
    }

    /// The totals, without any channel or connection; `None` if the server has ended.
    pub fn report(&self) -> Option<Report> {
        let hub = self.hub.upgrade()?;
        let mut hub = hub.borrow_mut();
        hub.begin_turn();
        Some(hub.broker.report(hub.now))
    }

    /// Waits until the server has begun to stop, whoever asked for it. One task may wait at a time.
    pub async fn stopping(&self) {
        let stopping = self.hub.upgrade().map(|hub| Rc::clone(&hub.borrow().stopping));
        if let Some(stopping) = stopping {
            stopping.notified().await;
        }
    }
}

/// Serves on this thread until the future that `beside` makes is ready, or the limits' idle time is over. Then it stops in an orderly way: no
/// new connection, everything that clients had sent is read and delivered, and every client receives a goodbye.
///
/// That future runs in the server's own runtime, where it may spawn further local tasks, and may look at the server through the [`View`]. It
/// must not block: the bus waits for it.
///
/// # Errors
///
/// If the runtime or the socket cannot be set up. What happens to single connections is never an error here.
pub fn serve<F>(mut bound: Bound, limits: Limits, version: &str, beside: impl FnOnce(View) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().build_local(LocalOptions::default())?;
    let Some(listener) = bound.take_listener() else { return Ok(()) };
    runtime.block_on(serve_until_exit(&Rc::new(bound), listener, limits, version, beside))
}

/// Serves `bound` until the broker says that it is over.
async fn serve_until_exit<F: Future<Output = ()> + 'static>(
    bound: &Rc<Bound>,
    listener: Listener,
    limits: Limits,
    version: &str,
    beside: impl FnOnce(View) -> F,
) -> io::Result<()> {
    let acceptor = Acceptor::new(listener)?;
    let (timer, drain, exit) = (Rc::new(Notify::new()), Rc::new(Notify::new()), Rc::new(Notify::new()));
    let hub = Rc::new_cyclic(|myself| {
        RefCell::new(Hub {
            myself: myself.clone(),
            bound: Rc::clone(bound),
            broker: Broker::new(limits, local::euid(), local::pid(), version, Moment::default()),
            conns: Slab::new(),
            chunk: BytesMut::new(),
            effects: Effects::new(),
            dirty: Vec::new(),
            started: Instant::now(),
            now: Moment::default(),
            armed: None,
            timer: Rc::clone(&timer),
            drain: Rc::clone(&drain),
            stopping: Rc::new(Notify::new()),
            exit: Rc::clone(&exit),
        })
    });
    let accepting = spawn_local(accept_all(Rc::clone(&hub), acceptor));
    let ticking = spawn_local(tick(Rc::clone(&hub), timer));
    let stop = beside(View { hub: Rc::downgrade(&hub) });
    let stopping = spawn_local({
        let hub = Rc::clone(&hub);
        async move {
            stop.await;
            hub.borrow_mut().happen(Event::Stop);
        }
    });
    let watching = spawn_local(watch(Rc::clone(&hub), Rc::clone(bound)));
    hub.borrow_mut().settle();
    drain.notified().await;
    // New clients go elsewhere from here on; the lock stays ours until everything is said and done. The watch sees what we do
    // ourselves, too, and must not take it for somebody else's doing.
    end(watching).await;
    bound.leave();
    end(accepting).await;
    hub.borrow_mut().read_what_was_sent();
    exit.notified().await;
    end(ticking).await;
    end(stopping).await;
    Ok(())
}

async fn end(task: JoinHandle<()>) {
    task.abort();
    // It was cancelled, or it had ended: both are what we want.
    let _ = task.await;
}

async fn accept_all(hub: Rc<RefCell<Hub>>, acceptor: Acceptor) {
    let mut failing = false;
    loop {
        match acceptor.accept().await {
            Ok((socket, Peer { pid, uid })) => {
                failing = false;
                if let Err(error) = hub.borrow_mut().welcome(socket, pid, uid) {
                    tracing::warn!(%error, pid, "a connection was lost on arrival");
                }
            }
            Err(error) if is_about_one_peer(&error) => {}
            Err(error) => {
                // Once for each time that it begins: it can last.
                if !std::mem::replace(&mut failing, true) {
                    let open = hub.borrow().conns.len();
                    tracing::warn!(%error, open, "cannot accept; trying again every {DESCRIPTOR_PAUSE:?}");
                }
                tokio::time::sleep(DESCRIPTOR_PAUSE).await;
            }
        }
    }
}

/// Stops in good order when our socket or lock is taken away, by a cleaner of temporary files for example: nobody could
/// find us any more, and clients find the way to the next daemon.
async fn watch(hub: Rc<RefCell<Hub>>, bound: Rc<Bound>) {
    let directory = bound.socket().parent().unwrap_or(Path::new("/"));
    let watch = match Watch::new(directory) {
        Ok(watch) => watch,
        Err(error) => return tracing::warn!(%error, "cannot watch the directory of the socket"),
    };
    while bound.is_in_place() {
        if let Err(error) = watch.changed().await {
            return tracing::warn!(%error, "cannot watch the directory of the socket any longer");
        }
    }
    tracing::warn!(socket = %bound.socket().display(), "the socket or its lock was taken away: stopping");
    hub.borrow_mut().happen(Event::Stop);
}

/// Whether the next accept may well succeed at once.
fn is_about_one_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted)
}

async fn tick(hub: Rc<RefCell<Hub>>, timer: Rc<Notify>) {
    loop {
        let (deadline, started) = (hub.borrow().armed, hub.borrow().started);
        match deadline.and_then(|Moment(after)| started.checked_add(after)) {
            None => timer.notified().await,
            Some(at) => {
                if tokio::time::timeout_at(at, timer.notified()).await.is_err() {
                    hub.borrow_mut().happen(Event::Tick);
                }
            }
        }
    }
}

impl Hub {
    /// Takes an accepted connection in.
    fn welcome(&mut self, socket: Socket, pid: u32, uid: u32) -> io::Result<()> {
        let Some(myself) = self.myself.upgrade() else { return Ok(()) };
        let entry = self.conns.vacant_entry();
        let id = ConnId(entry.key());
        let decoder = Decoder::lender(0);
        let (conn, readable) = Conn::new(id, socket, decoder)?;
        let conn = Rc::clone(entry.insert(Rc::new(conn)));
        tracing::debug!(conn = id.0, pid, uid, "opened");
        self.happen(Event::Opened { conn: id, pid, uid });
        spawn_local(conn::read_all(myself, conn, readable));
        Ok(())
    }

    /// Reads once from the connection and does what follows from it; returns what the read gave.
    pub(crate) fn read(&mut self, conn: &Conn) -> Read {
        self.begin_turn();
        let mut decoder = conn.decoder.borrow_mut();
        decoder.set_payload_bytes_max(self.broker.payload_bytes_max(conn.id));
        let mut target = decoder.target(&mut self.chunk);
        let room = target.remaining_mut();
        let read = match local::read(&conn.socket, &mut target) {
            Ok(0) => Read::End,
            Ok(read) if read < room => Read::All,
            Ok(_) => Read::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::All,
            Err(_) => Read::End,
        };
        self.feed(conn, &mut decoder);
        if self.broker.is_leaving(conn.id) {
            decoder.give_up(); // nothing that it says counts any more, and nothing is kept of it
        }
        self.charge(conn, &decoder);
        self.settle();
        read
    }

    /// Turns what was read into events.
    fn feed(&mut self, conn: &Conn, decoder: &mut Decoder) {
        loop {
            let event = match decoder.next(&mut self.chunk) {
                Ok(None) => return,
                Ok(Some(Item::Run(run))) => Event::Run { conn: conn.id, run },
                Ok(Some(Item::Control(control))) => Event::Control { conn: conn.id, control },
                Err(error) => return self.malformed(conn, error),
            };
            // A frame that is complete is charged as such, and no longer as one under way.
            self.charge(conn, decoder);
            self.apply(event);
        }
    }

    /// Tells the broker what is held for a frame under way, if that has changed.
    fn charge(&mut self, conn: &Conn, decoder: &Decoder) {
        let bytes = decoder.held_bytes();
        if conn.held_bytes.replace(bytes) != bytes {
            self.apply(Event::Holding { conn: conn.id, bytes });
        }
    }

    fn malformed(&mut self, conn: &Conn, error: DecodeError) {
        tracing::debug!(conn = conn.id.0, %error, "malformed");
        self.apply(Event::Malformed { conn: conn.id, error });
    }

    /// Writes as much as the connection takes; a full socket gets a task that goes on when there is room.
    fn write(&mut self, id: ConnId) -> Write {
        let Some(conn) = self.conns.get(id.0).map(Rc::clone) else { return Write::Done };
        loop {
            let (offered, wrote) = offer(&conn, self.broker.outgoing(id));
            match wrote {
                _ if offered == 0 => return Write::Done,
                Ok(bytes) => {
                    self.apply(Event::Written { conn: id, bytes });
                    if bytes < offered {
                        return Write::Blocked;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.apply(Event::Written { conn: id, bytes: 0 });
                    return Write::Blocked;
                }
                Err(_) => {
                    self.close(&conn);
                    return Write::Done;
                }
            }
        }
    }

    /// Goes on writing to a connection whose socket was full.
    pub(crate) fn write_on(&mut self, id: ConnId) -> Write {
        self.begin_turn();
        let wrote = self.write(id);
        self.settle();
        wrote
    }

    /// The connection has ended from the other side.
    pub(crate) fn end(&mut self, conn: &Conn) {
        self.begin_turn();
        self.close(conn);
        self.settle();
    }

    /// Closes the connection, if it is not closed yet. Never settles: what follows waits for the turn's end, so that the end
    /// of many connections is a loop and no recursion.
    fn close(&mut self, conn: &Conn) {
        if !conn.gone.replace(true) {
            local::shutdown(&conn.socket);
            self.conns.remove(conn.id.0);
            tracing::debug!(conn = conn.id.0, "closed");
            self.apply(Event::Closed { conn: conn.id });
        }
    }

    /// Something has happened outside: a turn begins. The clock is read once in it.
    fn begin_turn(&mut self) {
        self.now = Moment(self.started.elapsed());
    }

    /// Tells the broker one event and does all that follows.
    fn happen(&mut self, event: Event) {
        self.begin_turn();
        self.apply(event);
        self.settle();
    }

    /// Tells the broker one event and takes its effects; writes are put off until [`settle`](Self::settle).
    fn apply(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.broker.handle(self.now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Write(conn) => self.dirty.push(conn),
                Effect::Close(conn) => {
                    if let Some(conn) = self.conns.get(conn.0).map(Rc::clone) {
                        self.close(&conn);
                    }
                }
                Effect::Drain => {
                    self.drain.notify_one();
                    self.stopping.notify_one();
                }
                Effect::Release => self.bound.release(),
                Effect::Exit => self.exit.notify_one(),
            }
        }
        self.effects = effects;
    }

    /// Tries every write that is due, once per connection, and arms the timer.
    pub(crate) fn settle(&mut self) {
        while let Some(conn) = self.dirty.pop() {
            if let (Write::Blocked, Some(myself)) = (self.write(conn), self.myself.upgrade())
                && let Some(conn) = self.conns.get(conn.0).map(Rc::clone)
            {
                spawn_local(conn::write_all(myself, conn));
            }
        }
        let deadline = self.broker.next_deadline();
        if deadline != self.armed {
            self.armed = deadline;
            self.timer.notify_one();
        }
    }

    /// Before the end: closes every connection towards us and takes what is in it, so that no frame which a sender
    /// handed over is forgotten.
    fn read_what_was_sent(&mut self) {
        let conns: Vec<_> = self.conns.iter().map(|(_, conn)| Rc::clone(conn)).collect();
        for conn in conns {
            conn.draining.set(true);
            if !local::STOPPED_SOCKET_KEEPS_BYTES {
                // Closing would discard what is there, so it is read before. What is left to chance is a frame that is written
                // between the last of these reads and the next call; a sender that writes all the time must not hold up the stop.
                let mut reads = 0..READS_BEFORE_STOP_MAX;
                while !conn.gone.get() && reads.next().is_some() && matches!(self.read(&conn), Read::Some) {}
            }
            local::stop_reading(&conn.socket);
            while !conn.gone.get() && matches!(self.read(&conn), Read::Some) {}
        }
        self.happen(Event::Drained);
    }
}

/// Writes the slices to the connection, as one; returns how many bytes they are, and how many it took.
fn offer<'a>(conn: &Conn, mut outgoing: impl Iterator<Item = &'a [u8]>) -> (usize, io::Result<usize>) {
    let Some(first) = outgoing.next() else { return (0, Ok(0)) };
    let Some(second) = outgoing.next() else { return (first.len(), local::write(&conn.socket, first)) };
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut offered = 0;
    let mut count = 0;
    for (slot, slice) in slices.iter_mut().zip([first, second].into_iter().chain(outgoing)) {
        *slot = IoSlice::new(slice);
        offered += slice.len();
        count += 1;
    }
    (offered, local::write_vectored(&conn.socket, &slices[..count]))
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// All that there was.
    All,
    /// Something, and there may be more.
    Some,
    /// The stream has ended.
    End,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Nothing is left to write.
    Done,
    /// The socket is full.
    Blocked,
}
