//! What the server does in a turn: read, decode, let the [`Broker`] handle it, write. It knows neither a clock nor a runtime, and
//! the simulation in `tests` runs it over pipes in memory.

mod rings;

use broadcaster_broker::{Broker, ConnId, Effect, Effects, Event, Incomplete, Limits, Moment, RingId, Snapshot};
use broadcaster_protocol::control::Report;
use broadcaster_protocol::{ChannelName, Decoder, Item};
use broadcaster_ring::{Words, WordsMut};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use rings::Shared;
use slab::Slab;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;

/// The most slices of one write; the broker offers no more.
const SLICES_MAX: usize = 64;

/// The most connections whose input waits to be decoded. Others are not read until then.
const PARKED_MAX: usize = 64;

/// Bytes, with their bookkeeping, that a turn may queue for one connection before everything is written. Smaller outboxes are
/// written more often: see [`Unflushed::is_full`].
const UNFLUSHED_BYTES_MAX: usize = 128 * 1024;

/// Bytes of bookkeeping for each run, as outboxes count them.
const RUN_BYTES: usize = 64;

/// How often a connection is read at an orderly stop: several times what a socket holds.
const READS_AT_STOP_MAX: usize = 64;

/// A connected stream socket, and what its system has for sharing memory over it. No call waits.
///
/// A system that shares no memory needs none of the methods that have a default.
pub trait Socket: Sized {
    /// Whether bytes that were sent before [`stop_reading`](Self::stop_reading) can be read after it.
    const KEEPS_BYTES_WHEN_STOPPED: bool;

    /// What travels over the socket to share memory, or to wake its reader.
    type Descriptor: Debug;

    /// Memory of a client, as this process reads it.
    type Memory: Words + Debug;

    /// Memory of this process, which clients read.
    type Page: WordsMut + Debug;

    /// Reads what has arrived into `target`; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived; any other error ends the connection.
    fn read(&self, target: &mut Limit<&mut BytesMut>) -> io::Result<usize>;

    /// Writes as much of `slices`, in order, as the socket takes.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is full; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system
    /// is short of memory for it, which may pass; any other error ends the connection.
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// How many rings this process can read while it has up to so many connections. If it is 0, nothing of the following is called.
    fn rings_max(_connections_max: usize) -> usize {
        0
    }

    /// Reads as [`read`](Self::read) does, and appends the descriptors that have come to `received`: those of one frame at most, which begins in
    /// what was read.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read). [`InvalidData`](io::ErrorKind::InvalidData), and the end of the connection, if more than 4 would wait.
    fn read_with_descriptors(
        &self,
        target: &mut Limit<&mut BytesMut>,
        _received: &mut VecDeque<Self::Descriptor>,
    ) -> io::Result<usize> {
        self.read(target)
    }

    /// Writes as [`write`](Self::write) does, with descriptors on the first byte.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write). Nothing was written then, and no descriptor.
    fn write_with_descriptors(&self, frame: &[u8], _descriptors: &[&Self::Descriptor]) -> io::Result<usize> {
        self.write(&[IoSlice::new(frame)])
    }

    /// Maps the memory of a client, after checking that its size is one of `bytes` and that nothing can change it.
    ///
    /// # Errors
    ///
    /// If it is anything else, or this process is out of memory for it.
    fn open_memory(_descriptor: &Self::Descriptor, _bytes: RangeInclusive<usize>) -> io::Result<Self::Memory> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes memory of [`PAGE_BYTES`](broadcaster_ring::PAGE_BYTES) zeros.
    ///
    /// # Errors
    ///
    /// If this process is out of descriptors or memory for it.
    fn make_page() -> io::Result<(Self::Descriptor, Self::Page)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes what a client rings to wake this process.
    ///
    /// # Errors
    ///
    /// If this process is out of descriptors for it.
    fn make_doorbell() -> io::Result<Self::Descriptor> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Ends the direction towards this process: the other end can write no more.
    fn stop_reading(&self);

    /// Ends both directions. The other end can still read what was written.
    fn shut_down(&self);
}

/// What the owner of the driver must do. Taken from [`Driver::next_request`] after each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The connection's socket is full: call [`Driver::write`] whenever it takes bytes again, until that returns
    /// [`Output::Done`].
    ContinueWriting(ConnId),
    /// Call [`Driver::relay`] for the ring until it returns [`Input::Empty`], and again whenever its [`Driver::doorbell`] was rung, or this is requested once
    /// more.
    WatchRing(RingId),
    /// The ring has ended. It may never have been watched.
    UnwatchRing(RingId),
    /// Accept no more connections, then call [`Driver::drain`] until it returns [`Drain::Done`].
    Drain,
    /// Let the next daemon begin, then call [`Driver::released`]. Nothing is written before.
    Release,
    /// Nothing is left to do.
    Exit,
}

/// The state of a connection's input after [`Driver::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Everything that had arrived is handled: wait until the socket is readable.
    Empty,
    /// There is, or may be, more: call [`Driver::read`] again when other connections had their turn.
    More,
    /// The connection has ended, or is read by [`Driver::drain`] only.
    Ended,
}

/// The state of a connection's output after [`Driver::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nothing is left to write, or the connection has ended.
    Done,
    /// The socket is full: wait until it is writable.
    Full,
    /// The system is short of memory: wait a moment.
    Exhausted,
}

/// The progress of [`Driver::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Call again when other connections had their turn.
    More,
    /// Call again after a [`Driver::write`], or at this moment.
    Crowded(Moment),
    /// Everything that clients had sent is handled.
    Done,
}

/// The broker with its connections.
///
/// Each method that takes `now` is one turn: what it reads is handled, then every connection is written to, then the broker enforces
/// its memory budget. A turn decodes no more than one read, and ends early when the broker has done enough; the rest of the read waits
/// in its connection. After each method, the owner carries out what [`next_request`](Self::next_request) returns.
#[derive(Debug)]
pub struct Driver<S: Socket> {
    broker: Broker,
    connections: Slab<Connection<S>>,
    /// What every connection is read into. It is shared because frames leave it before the next read.
    chunk: BytesMut,
    effects: Effects,
    /// Connections with an [`Effect::Write`] that was not tried yet.
    to_write: Vec<ConnId>,
    unflushed: Unflushed,
    /// How many connections have parked input.
    parked: usize,
    stopping: Stopping,
    /// [`Request::Release`] was issued and is not answered.
    releasing: bool,
    /// Waiting connections are being written to.
    flushing: bool,
    requests: VecDeque<Request>,
    shared: Shared<S>,
}

#[derive(Debug)]
struct Connection<S: Socket> {
    socket: S,
    decoder: Decoder,
    /// A part of a read waits to be decoded.
    parked: bool,
    /// The broker knows that input is held.
    holding: bool,
    /// [`Request::ContinueWriting`] was issued and is not answered with [`Output::Done`], or the client is gone.
    full: bool,
    /// The client is gone and reads nothing more. What it sent before is still to be read; the end of that closes the connection.
    gone: bool,
    /// Descriptors whose frames were not handled yet.
    received: VecDeque<S::Descriptor>,
    /// Its rings.
    rings: Vec<RingId>,
}

/// The most that this turn has queued for any connection since everything was written.
#[derive(Debug, Clone, Copy, Default)]
struct Unflushed {
    bytes: usize,
    messages: u64,
}

impl Unflushed {
    /// Whether to write before more is queued: a connection whose socket is empty must not lose what one turn brings.
    fn is_full(self, limits: &Limits) -> bool {
        self.bytes >= UNFLUSHED_BYTES_MAX.min(limits.outbox_bytes_max / 4)
            || self.messages >= limits.outbox_messages_max / 4
    }
}

#[derive(Debug)]
enum Stopping {
    No,
    /// Reading what clients have sent, until this moment at leisure: the connections to read, and how often they may be read.
    Draining {
        unread: VecDeque<(ConnId, usize)>,
        deadline: Moment,
    },
    Drained,
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// The socket had less than there was room for.
    Some,
    /// There may be more.
    Full,
    /// The socket was not read: too much other input waits.
    Later,
    Nothing,
    End,
}

impl<S: Socket> Driver<S> {
    /// A driver of `broker`, without connections.
    pub fn new(mut broker: Broker) -> Self {
        let rings_max = S::rings_max(broker.limits().connections_max);
        broker.support_rings(rings_max);
        Self {
            broker,
            connections: Slab::new(),
            chunk: BytesMut::new(),
            effects: Effects::new(),
            to_write: Vec::new(),
            unflushed: Unflushed::default(),
            parked: 0,
            stopping: Stopping::No,
            releasing: false,
            flushing: false,
            requests: VecDeque::new(),
            shared: Shared::new(),
        }
    }

    /// What the owner must do next, in order; `None` if nothing.
    pub fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// Until when the owner may sleep if nothing else happens; then it calls [`tick`](Self::tick).
    pub fn next_deadline(&self) -> Option<Moment> {
        self.broker.next_deadline()
    }

    /// Takes an accepted connection, with process and user at the other end; `pid` is 0 where the kernel does not report it.
    pub fn accept(&mut self, now: Moment, socket: S, pid: u32, uid: u32) -> ConnId {
        let connection = Connection {
            socket,
            decoder: Decoder::lender(0),
            parked: false,
            holding: false,
            full: false,
            gone: false,
            received: VecDeque::new(),
            rings: Vec::new(),
        };
        let conn = ConnId(self.connections.insert(connection));
        tracing::debug!(conn = conn.0, pid, uid, "opened");
        self.apply(now, Event::Opened { conn, pid, uid });
        self.finish_turn(now);
        conn
    }

    /// Reads once from the connection, or goes on with what is left of the last read.
    pub fn read(&mut self, now: Moment, conn: ConnId) -> Input {
        if !matches!(self.stopping, Stopping::No) {
            return Input::Ended;
        }
        let read = self.take_input(now, conn);
        if read == Read::End {
            self.close(now, conn);
        }
        self.finish_turn(now);
        match self.connections.get(conn.0) {
            None => Input::Ended,
            Some(connection) if connection.parked => Input::More,
            Some(_) => match read {
                Read::Full | Read::Later => Input::More,
                Read::Some | Read::Nothing | Read::End => Input::Empty,
            },
        }
    }

    /// Goes on writing to a connection whose socket was full.
    pub fn write(&mut self, now: Moment, conn: ConnId) -> Output {
        if self.releasing {
            return Output::Full;
        }
        let output = self.write_waiting(now, conn);
        if output == Output::Done
            && let Some(connection) = self.connections.get_mut(conn.0)
        {
            connection.full = connection.gone; // the caller does not continue
        }
        self.finish_turn(now);
        output
    }

    /// Reports to the broker that its deadline has come, if it has.
    pub fn tick(&mut self, now: Moment) {
        if self.broker.next_deadline().is_some_and(|deadline| deadline <= now) {
            if self.broker.is_recalling() {
                self.sample_all(now);
            }
            self.apply(now, Event::Tick);
            self.finish_turn(now);
        }
    }

    /// Begins an orderly stop.
    pub fn stop(&mut self, now: Moment) {
        self.sample_all(now);
        self.apply(now, Event::Stop);
        self.finish_turn(now);
    }

    /// Lets the listeners of a channel lose messages: see [`Event::Lost`].
    pub fn lose(&mut self, now: Moment, channel: ChannelName, messages: u64) {
        self.apply(now, Event::Lost { channel, messages });
        self.finish_turn(now);
    }

    /// After [`Request::Drain`]: reads from one connection what its client sent before the stop. It pauses while connections do
    /// not keep up, for at most [`goodbye_timeout`](Limits::goodbye_timeout) in total, so that they lose nothing.
    pub fn drain(&mut self, now: Moment) -> Drain {
        let (next, deadline) = match &mut self.stopping {
            Stopping::Drained => return Drain::Done,
            Stopping::No => {
                let unread = self.connections.iter().map(|(at, _)| (ConnId(at), READS_AT_STOP_MAX)).collect();
                let deadline = now.after(self.broker.limits().goodbye_timeout);
                self.stopping = Stopping::Draining { unread, deadline };
                if S::KEEPS_BYTES_WHEN_STOPPED {
                    self.connections.iter().for_each(|(_, connection)| connection.socket.stop_reading());
                }
                return Drain::More;
            }
            Stopping::Draining { unread, deadline } => (unread.front().copied(), *deadline),
        };
        let Some((conn, reads)) = next else {
            self.stopping = Stopping::Drained;
            let gone = self.connections.iter().filter(|(_, connection)| connection.gone).map(|(at, _)| ConnId(at));
            for conn in gone.collect::<Vec<_>>() {
                self.close(now, conn);
            }
            self.end_all_rings(now);
            self.apply(now, Event::Drained);
            self.finish_turn(now);
            return Drain::Done;
        };
        if now < deadline && self.is_crowded() {
            return Drain::Crowded(deadline);
        }
        let resumes = self.connections.get(conn.0).is_some_and(|connection| connection.parked);
        let read = self.take_input(now, conn);
        let reads = if resumes || read == Read::Later { reads } else { reads - 1 };
        let mut is_read = true;
        if let Some(connection) = self.connections.get(conn.0) {
            is_read = !connection.parked && (reads == 0 || matches!(read, Read::Nothing | Read::End));
            if is_read && !S::KEEPS_BYTES_WHEN_STOPPED {
                // What the client writes between the last read and this call is lost.
                connection.socket.stop_reading();
            }
        }
        if let Stopping::Draining { unread, .. } = &mut self.stopping {
            unread.pop_front();
            unread.extend((!is_read).then_some((conn, reads)));
        }
        self.finish_turn(now);
        Drain::More
    }

    /// After [`Request::Release`]: the next daemon can begin.
    pub fn released(&mut self, now: Moment) {
        self.releasing = false;
        self.finish_turn(now);
    }

    /// Everything that the broker knows, after a look at all rings.
    pub fn snapshot(&mut self, now: Moment) -> Snapshot {
        self.look(now);
        self.broker.snapshot(now)
    }

    /// The totals, after a look at all rings.
    pub fn report(&mut self, now: Moment) -> Report {
        self.look(now);
        self.broker.report(now)
    }

    fn look(&mut self, now: Moment) {
        if !self.shared.is_empty() {
            self.sample_all(now);
            self.finish_turn(now);
        }
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The socket of an open connection.
    pub fn socket(&self, conn: ConnId) -> Option<&S> {
        self.connections.get(conn.0).map(|connection| &connection.socket)
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Checks all bookkeeping, the broker's included. For tests: see [`Broker::invariants`].
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub fn invariants(&self) {
        self.broker.invariants();
        self.check_shared();
        assert!(self.chunk.is_empty(), "{} bytes are left in the shared chunk", self.chunk.len());
        assert!(self.releasing || self.to_write.is_empty(), "writes were not tried at the end of the turn");
        let parked = self.connections.iter().filter(|(_, connection)| connection.parked).count();
        assert_eq!(self.parked, parked, "connections with parked input");
        let (held, held_max) = (self.broker.held_bytes(), self.broker.limits().held_bytes_max);
        assert!(self.releasing || held <= held_max, "{held} bytes are held after a turn, the budget is {held_max}");
        for (conn, connection) in &self.connections {
            let waits = self.broker.queue(ConnId(conn)).0 > 0;
            assert!(!waits || connection.full || self.releasing, "messages wait for {conn}, whose socket is not full");
            assert!(connection.holding || connection.decoder.held_bytes() == 0, "input of {conn} is not charged");
        }
    }

    // ---- input ----

    /// Reads once from the connection, unless a part of the last read is left, and handles what was read.
    fn take_input(&mut self, now: Moment, conn: ConnId) -> Read {
        let may_read = self.parked < PARKED_MAX;
        let Some(connection) = self.connections.get_mut(conn.0) else { return Read::End };
        let mut read = Read::Full;
        if std::mem::take(&mut connection.parked) {
            self.parked -= 1;
        } else {
            if !may_read {
                return Read::Later;
            }
            connection.decoder.set_payload_bytes_max(self.broker.payload_bytes_max(conn));
            let mut target = connection.decoder.target(&mut self.chunk);
            let room = target.remaining_mut();
            let waiting = connection.received.len();
            let result = match self.broker.expects_descriptors(conn) {
                true => connection.socket.read_with_descriptors(&mut target, &mut connection.received),
                false => connection.socket.read(&mut target),
            };
            read = match result {
                Ok(0) => Read::End,
                Ok(bytes) if bytes < room && connection.received.len() == waiting => Read::Some,
                Ok(_) => Read::Full, // a read ends behind descriptors, too
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
                Err(_) => Read::End,
            };
        }
        self.decode(now, conn);
        if matches!(read, Read::Some | Read::Full) {
            self.report_holding(now, conn);
        }
        read
    }

    /// Handles the frames that were read, until the turn is full.
    fn decode(&mut self, now: Moment, conn: ConnId) {
        while let Some(connection) = self.connections.get_mut(conn.0) {
            if self.broker.turn_is_full() {
                connection.decoder.park(&mut self.chunk);
                connection.parked = true;
                self.parked += 1;
                return;
            }
            let event = match connection.decoder.next(&mut self.chunk) {
                Ok(None) => return,
                Ok(Some(Item::Run(run))) => {
                    self.unflushed.bytes += run.bytes().len() + RUN_BYTES;
                    self.unflushed.messages += run.messages();
                    Event::Run { conn, run }
                }
                Ok(Some(Item::Discarded(header))) => Event::Discarded { conn, header },
                Ok(Some(Item::Control(control))) if control.descriptors() > 0 => self.take_descriptors(conn, control),
                Ok(Some(Item::Control(control))) => {
                    let event = Event::Control { conn, control };
                    if !self.shared.is_empty() {
                        self.look_before(now, &event);
                    }
                    event
                }
                Err(error) => {
                    tracing::debug!(conn = conn.0, %error, "malformed");
                    Event::Malformed { conn, error }
                }
            };
            self.apply(now, event);
            self.shared.arriving = None; // the broker has not kept it
            if self.unflushed.is_full(self.broker.limits()) {
                self.flush(now);
            }
            if self.broker.is_leaving(conn)
                && let Some(connection) = self.connections.get_mut(conn.0)
            {
                connection.decoder.close(); // its input has no effect any more, and nothing is kept of it
                connection.received.clear();
            }
        }
        self.chunk.clear();
    }

    /// Reports what is held of the connection's input, if anything is or was.
    fn report_holding(&mut self, now: Moment, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn.0) else { return };
        let decoder = &connection.decoder;
        let frame = match decoder.incomplete_frame() {
            _ if connection.parked || !decoder.is_mid_frame() => Incomplete::None,
            Some(_) => Incomplete::Discardable,
            None => Incomplete::Kept,
        };
        let bytes = decoder.held_bytes();
        let holding = bytes > 0 || frame != Incomplete::None;
        if std::mem::replace(&mut connection.holding, holding) || holding {
            self.apply(now, Event::Holding { conn, bytes, frame });
        }
    }

    // ---- output ----

    /// Writes as much as the connection takes.
    fn write_waiting(&mut self, now: Moment, conn: ConnId) -> Output {
        let output = loop {
            let Some(connection) = self.connections.get(conn.0).filter(|connection| !connection.gone) else {
                return Output::Done;
            };
            let (offered, wrote) = match self.broker.attachment(conn) {
                None => offer(&connection.socket, self.broker.outgoing(conn)),
                Some(attachment) => match self.offer_attached(conn, attachment) {
                    Some(result) => result,
                    None => {
                        self.apply(now, Event::Withdrawn { conn });
                        continue;
                    }
                },
            };
            if offered == 0 {
                break Output::Done;
            }
            match wrote {
                Ok(bytes) => {
                    self.call_to_socket(conn);
                    let blocked = bytes < offered;
                    self.apply(now, Event::Written { conn, bytes, blocked });
                    if blocked {
                        break Output::Full;
                    }
                }
                Err(error) => {
                    let output = match error.kind() {
                        io::ErrorKind::WouldBlock => Output::Full,
                        io::ErrorKind::OutOfMemory => Output::Exhausted,
                        // It may have sent something before it left. Nothing that it does not read is a message.
                        _ if self.broker.only_publishes(conn) => {
                            self.apply(now, Event::Written { conn, bytes: offered, blocked: false });
                            continue;
                        }
                        // The same holds for a listener, whose replies may be unread. What it does not read is lost to it, not delivered.
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset if self.reads_on(conn) => {
                            self.apply(now, Event::Written { conn, bytes: 0, blocked: true });
                            if let Some(connection) = self.connections.get_mut(conn.0) {
                                (connection.full, connection.gone) = (true, true);
                            }
                            return Output::Done;
                        }
                        _ => {
                            self.close(now, conn);
                            return Output::Done;
                        }
                    };
                    self.apply(now, Event::Written { conn, bytes: 0, blocked: true });
                    break output;
                }
            }
        };
        if output != Output::Done
            && let Some(connection) = self.connections.get_mut(conn.0)
            && !std::mem::replace(&mut connection.full, true)
        {
            self.requests.push_back(Request::ContinueWriting(conn));
        }
        output
    }

    /// Whether what the connection has sent will be read, up to its end, and has an effect.
    fn reads_on(&self, conn: ConnId) -> bool {
        !self.broker.is_leaving(conn) && !matches!(self.stopping, Stopping::Drained)
    }

    /// Tries every write that is due.
    fn flush(&mut self, now: Moment) {
        if std::mem::replace(&mut self.flushing, true) {
            return; // the one that began writes everything
        }
        self.unflushed = Unflushed::default();
        let mut tried = 0;
        while let Some(&conn) = self.to_write.get(tried) {
            tried += 1;
            self.write_waiting(now, conn);
        }
        self.to_write.clear();
        self.flushing = false;
    }

    /// A sender that is busy with its rings looks at its socket only when it is called.
    fn call_to_socket(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get(conn.0)
            && !connection.rings.is_empty()
        {
            self.shared.call(&connection.rings);
        }
    }

    /// Ends a turn. The lock is released before anything more is written.
    fn finish_turn(&mut self, now: Moment) {
        if self.releasing {
            return;
        }
        self.flush(now);
        self.apply(now, Event::Flushed);
        if !self.releasing {
            self.flush(now);
        }
    }

    /// Whether a connection that does not keep up would soon lose messages.
    fn is_crowded(&self) -> bool {
        let limits = self.broker.limits();
        let is_behind = |conn| {
            let (messages, bytes) = self.broker.queue(conn);
            messages > limits.outbox_messages_max / 2 || bytes > limits.outbox_bytes_max / 2
        };
        let mut full = self.connections.iter().filter(|(_, connection)| connection.full && !connection.gone);
        full.any(|(at, _)| is_behind(ConnId(at))) || self.broker.held_bytes() > limits.held_bytes_max / 2
    }

    // ---- events ----

    /// Closes the connection, if it is open.
    fn close(&mut self, now: Moment, conn: ConnId) {
        // What it has published in its rings is complete now.
        for ring in self.connections.get(conn.0).map(|connection| connection.rings.clone()).unwrap_or_default() {
            self.sync(now, ring);
        }
        if let Some(connection) = self.connections.try_remove(conn.0) {
            connection.socket.shut_down();
            self.parked -= usize::from(connection.parked);
            tracing::debug!(conn = conn.0, "closed");
            self.apply(now, Event::Closed { conn });
        }
    }

    /// Lets the broker handle an event, and does what follows at once. Writes wait for [`flush`](Self::flush).
    fn apply(&mut self, now: Moment, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.broker.handle(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Write(conn) => self.to_write.push(conn),
                Effect::Close(conn) => self.close(now, conn),
                Effect::Discard(conn) => {
                    if let Some(connection) = self.connections.get_mut(conn.0) {
                        connection.decoder.discard_frame();
                    }
                }
                Effect::Drain => self.requests.push_back(Request::Drain),
                Effect::Release => {
                    self.releasing = true;
                    self.requests.push_back(Request::Release);
                }
                Effect::Exit => self.requests.push_back(Request::Exit),
                Effect::KeepRing(ring) => self.keep_ring(ring),
                Effect::BeginRing { ring, channel, sender, first } => {
                    self.begin_ring(now, ring, (channel, sender, first));
                }
                Effect::Relay { ring, from } => self.set_relayed(ring, from),
                Effect::EndRing(ring) => self.end_ring(now, ring),
                Effect::KeepLink { link, ring } => self.keep_link(link, ring),
                Effect::EndLink(link) => self.end_link(now, link),
            }
        }
        self.effects = effects;
    }
}

/// Writes the slices to the socket, as one; returns how many bytes they are, and how many it took.
fn offer<'a, S: Socket>(socket: &S, mut outgoing: impl Iterator<Item = &'a [u8]>) -> (usize, io::Result<usize>) {
    let Some(first) = outgoing.next() else { return (0, Ok(0)) };
    let Some(second) = outgoing.next() else {
        return (first.len(), socket.write(&[IoSlice::new(first)])); // as for most writes, and no other slice is laid out
    };
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let (mut offered, mut count) = (0, 0);
    for (slot, slice) in slices.iter_mut().zip([first, second].into_iter().chain(outgoing)) {
        *slot = IoSlice::new(slice);
        offered += slice.len();
        count += 1;
    }
    (offered, socket.write(&slices[..count]))
}
