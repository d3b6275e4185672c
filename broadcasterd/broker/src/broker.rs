//! The state machine: who may do what, and who gets what. It owns every queue, quota and counter, and nothing else.

use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Event, Moment};
use crate::outbox::{Losses, Outbox, Room, Span};
use crate::quota::{Charge, Ledger, Limits};
use crate::registry::Registry;
use crate::stats::{CONN_CHANNELS_MAX, ChannelSnapshot, ConnSnapshot, PeerRole, Snapshot, Stats};
use broadcaster_protocol::control::{
    Control, Goodbye, Hello, Monitor, Named, Open, Opened, Overflow, Refused, RefusedCode, Report, Role, Subscribe,
    Subscribed, Welcome, capability, version_text,
};
use broadcaster_protocol::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use broadcaster_protocol::{ChannelId, ChannelName, Run, SenderId, handshake};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The most slices that one write offers.
const SLICES_MAX: usize = 64;

/// The broker: a value that turns events into effects.
///
/// # Contract
///
/// - [`handle`](Self::handle) is total: it takes every event at any time, never blocks, never fails and never panics on
///   anything that a client can cause. A misbehaving client is an event like any other; what follows from it is an
///   effect.
/// - `now` never decreases from call to call.
/// - Effects are complete when `handle` returns, and are applied before the next event of the same connection.
/// - [`Effect::Write`] is issued once, and again only after [`outgoing`](Self::outgoing) ran empty. Until then the
///   server writes as the connection takes it, and tells each step with [`Event::Written`]. So all backlog stays here,
///   where policy and quota see it.
/// - [`next_deadline`](Self::next_deadline) says until when the server may sleep; then it tells [`Event::Tick`].
/// - Events and effects are closed enums and matched without a wildcard: a new one is a compile error in each place
///   that must think about it.
///
/// # Delivery
///
/// A listener gets every frame that is accepted after its `Subscribed`, in order, or is told in the very place how many
/// it lost. Per sender, channel and listener: received + told lost = accepted. A listener that stalls, leaves or dies
/// changes nothing for another one.
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    version: String,
    uid: u32,
    pid: u32,
    started: Moment,
    peers: Vec<Option<Peer>>,
    open: usize,
    processes: BTreeMap<u32, usize>,
    senders: BTreeSet<SenderId>,
    registry: Registry,
    monitors: Vec<ConnId>,
    deadlines: BTreeSet<(Moment, ConnId)>,
    ledger: Ledger,
    stats: Stats,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody is connected since then.
    Idle(Moment),
    Serving,
    /// Waiting for what clients have sent up to now.
    Draining,
    /// Waiting until everybody has read what is theirs.
    Leaving,
    Over,
}

#[derive(Debug)]
struct Peer {
    pid: u32,
    state: State,
    deadline: Option<Moment>,
    outbox: Outbox,
    /// An `Effect::Write` was issued and the outbox has not run empty since.
    writing: bool,
    /// Since when the connection has not taken all that it was offered.
    blocked: Option<Moment>,
    /// What the server holds for a frame under way.
    holding: Option<Charge>,
    opened: Moment,
    tally: Tally,
    /// It is, or was, a monitor: what it gets and loses is no traffic of the bus.
    watches: bool,
}

/// What one connection has done: messages accepted from it or written to it, bytes of their frames, and messages dropped for it.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    messages: u64,
    bytes: u64,
    lost: u64,
}

#[derive(Debug)]
enum State {
    /// No Hello yet.
    Greeting,
    Sender {
        id: SenderId,
        next: BTreeMap<ChannelId, u64>,
    },
    Listener {
        overflow: BTreeMap<ChannelId, Overflow>,
    },
    Inspector,
    /// Watches the messages on these channels; on all if there are none.
    Monitor {
        wanted: BTreeSet<ChannelName>,
    },
    /// Its last words are queued; nothing that it says counts any more.
    Leaving,
}

impl Broker {
    /// A broker for the user `uid`, which runs in the process `pid` as program version `version`.
    pub fn new(limits: Limits, uid: u32, pid: u32, version: &str, now: Moment) -> Self {
        Self {
            limits,
            version: version_text(version),
            uid,
            pid,
            started: now,
            peers: Vec::new(),
            open: 0,
            processes: BTreeMap::new(),
            senders: BTreeSet::new(),
            registry: Registry::default(),
            monitors: Vec::new(),
            deadlines: BTreeSet::new(),
            ledger: Ledger::default(),
            stats: Stats::default(),
            phase: Phase::Idle(now),
        }
    }

    /// Takes one event at the time `now` and appends what is to be done to `effects`.
    pub fn handle(&mut self, now: Moment, event: Event, effects: &mut Effects) {
        match event {
            Event::Run { conn, run } => self.run(now, conn, &run, effects),
            Event::Written { conn, bytes } => self.written(now, conn, bytes, effects),
            Event::Control { conn, control } => self.control(now, conn, control, effects),
            Event::Malformed { conn, error } => {
                let reason = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                self.refuse(now, conn, RefusedCode::Protocol, &reason, effects);
            }
            Event::Holding { conn, bytes } => self.holding(now, conn, bytes, effects),
            Event::Opened { conn, pid, uid } => self.opened(now, conn, pid, uid, effects),
            Event::Closed { conn } => self.closed(now, conn, effects),
            Event::Tick => self.tick(now, effects),
            Event::Stop => self.stop(effects),
            Event::Drained => self.drained(now, effects),
        }
    }

    /// When the next [`Event::Tick`] is due; `None`: not before something else happens.
    pub fn next_deadline(&self) -> Option<Moment> {
        let idle = match (self.phase, self.limits.idle_exit_after) {
            (Phase::Idle(since), Some(wait)) => Some(since.after(wait)),
            _ => None,
        };
        let first = self.deadlines.first().map(|&(deadline, _)| deadline);
        [idle, first].into_iter().flatten().min()
    }

    /// The bytes that are to be written to the connection, as slices in order, at most 64 of them; none if nothing is.
    pub fn outgoing(&mut self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        self.peer(conn).into_iter().flat_map(|peer| peer.outbox.outgoing(SLICES_MAX))
    }

    /// The largest payload that the connection may send now, in bytes: 0 unless it is a sender.
    pub fn payload_bytes_max(&self, conn: ConnId) -> u32 {
        match self.peers.get(conn.0) {
            Some(Some(Peer { state: State::Sender { .. }, .. })) => self.limits.payload_bytes_max,
            _ => 0,
        }
    }

    /// Whether nothing that the connection says counts any more.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        matches!(self.peers.get(conn.0), Some(Some(Peer { state: State::Leaving, .. })))
    }

    /// What the broker has done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes of memory that frames in transit hold now.
    pub fn held_bytes(&self) -> usize {
        self.ledger.held()
    }

    /// The limits that the broker was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn peer(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.get_mut(conn.0)?.as_mut()
    }

    // ---- frames ----

    fn run(&mut self, now: Moment, conn: ConnId, run: &Run, effects: &mut Effects) {
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let tally = &mut peer.tally;
        let (id, next) = match &mut peer.state {
            State::Sender { id, next } => (*id, next),
            State::Leaving => return,
            State::Greeting | State::Listener { .. } | State::Inspector | State::Monitor { .. } => {
                let reason = "a frame was published on a connection that is not a sender's";
                return self.refuse(now, conn, RefusedCode::Protocol, reason, effects);
            }
        };
        let problem = match next.get_mut(&run.channel()) {
            _ if run.sender() != id => format!("a frame carries the sender {}, not {id}", run.sender()),
            None => format!("a frame was published on channel {}, which is not open here", run.channel().0),
            Some(next) if *next != run.first() => {
                format!("a frame carries the sequence number {}, where {next} was due", run.first())
            }
            Some(next) => {
                *next = next.wrapping_add(run.messages());
                let bytes = run.bytes().len() as u64;
                tally.messages += run.messages();
                tally.bytes += bytes;
                self.stats.messages_accepted += run.messages();
                self.stats.bytes_accepted += bytes;
                return self.fan_out(now, run, effects);
            }
        };
        self.refuse(now, conn, RefusedCode::Protocol, &problem, effects);
    }

    fn fan_out(&mut self, now: Moment, run: &Run, effects: &mut Effects) {
        let Some(channel) = self.registry.channel_mut(run.channel()) else { return };
        channel.messages_accepted += run.messages();
        channel.bytes_accepted += run.bytes().len() as u64;
        if channel.listeners().is_empty() && self.monitors.is_empty() {
            return;
        }
        let span = Span::new(run, &self.ledger);
        let room = Room { bytes: self.limits.outbox_bytes_max, messages: self.limits.outbox_messages_max };
        let mut losses = Losses::default();
        let mut too_slow = Vec::new();
        for &listener in channel.listeners() {
            let Some(peer) = self.peers.get_mut(listener.0).and_then(Option::as_mut) else { continue };
            let State::Listener { overflow } = &peer.state else { continue };
            let overflow = overflow.get(&run.channel()).copied().unwrap_or_default();
            let before = losses.total();
            if !peer.outbox.push_span(&span, overflow, room, peer.blocked.is_some(), &mut losses) {
                too_slow.push(listener);
            }
            peer.tally.lost += losses.total() - before;
            peer.ask_to_write(listener, effects);
        }
        if !self.monitors.is_empty() {
            self.show(now, &span, run.channel(), room, effects);
        }
        drop(span);
        self.note_losses(&losses);
        for listener in too_slow {
            let reason = format!(
                "this listener asked to be disconnected when it is too slow, and more than {} bytes or {} messages wait \
                 for it",
                room.bytes, room.messages
            );
            self.refuse(now, listener, RefusedCode::TooSlow, &reason, effects);
        }
        if self.ledger.held() > self.limits.held_bytes_max {
            self.relieve(now, effects);
        }
    }

    /// Puts a span before the monitors that want its channel.
    fn show(&mut self, now: Moment, span: &Rc<Span>, id: ChannelId, room: Room, effects: &mut Effects) {
        let Some(channel) = self.registry.channel_mut(id) else { return };
        let mut too_slow = Vec::new();
        for &monitor in &self.monitors {
            let Some(peer) = self.peers.get_mut(monitor.0).and_then(Option::as_mut) else { continue };
            let State::Monitor { wanted } = &peer.state else { continue };
            if !wanted.is_empty() && !wanted.contains(channel.name()) {
                continue;
            }
            if channel.tell(monitor) {
                let name = channel.name().as_str().to_owned();
                peer.push_control(&Control::Named(Named { channel: id.0, name }));
                if peer.outbox.replies_bytes() > self.limits.replies_bytes_max {
                    too_slow.push(monitor);
                    continue;
                }
            }
            let mut losses = Losses::default();
            peer.outbox.push_span(span, Overflow::DropOldest, room, peer.blocked.is_some(), &mut losses);
            peer.tally.lost += losses.total();
            peer.ask_to_write(monitor, effects);
        }
        too_slow.into_iter().for_each(|monitor| self.refuse_unread(now, monitor, effects));
    }

    /// Counts what was dropped, for the whole and for each channel; the connection's own count is kept by the caller.
    fn note_losses(&mut self, losses: &Losses) {
        self.stats.messages_lost += losses.total();
        for &(channel, lost) in losses.by_channel() {
            if let Some(channel) = self.registry.channel_mut(channel) {
                channel.messages_lost += lost;
            }
        }
    }

    fn written(&mut self, now: Moment, conn: ConnId, bytes: usize, effects: &mut Effects) {
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let delivered = peer.outbox.advance(bytes);
        peer.tally.messages += delivered.messages;
        peer.tally.bytes += delivered.bytes;
        if !peer.watches {
            self.stats.messages_delivered += delivered.messages;
        }
        if peer.outbox.is_empty() {
            peer.blocked = None;
            peer.writing = false;
            if matches!(peer.state, State::Leaving) {
                effects.push(Effect::Close(conn));
            }
        } else if peer.blocked.is_none() {
            peer.blocked = Some(now);
            let mut losses = Losses::default();
            if let State::Listener { overflow } = &peer.state {
                let latest = overflow.iter().filter(|&(_, &overflow)| overflow == Overflow::Latest);
                latest.for_each(|(&channel, _)| peer.outbox.keep_latest(channel, &mut losses));
            }
            peer.tally.lost += losses.total();
            self.note_losses(&losses);
        }
    }

    fn holding(&mut self, now: Moment, conn: ConnId, bytes: usize, effects: &mut Effects) {
        let charge = self.ledger.charge(bytes);
        if let Some(peer) = self.peer(conn) {
            peer.holding = Some(charge).filter(|charge| charge.bytes() > 0);
        }
        if self.ledger.held() > self.limits.held_bytes_max {
            self.relieve(now, effects);
        }
    }

    /// The memory budget is used up: whoever holds most of what can be given up gives it up, until the budget is kept.
    fn relieve(&mut self, now: Moment, effects: &mut Effects) {
        while self.ledger.held() > self.limits.held_bytes_max {
            let incoming = |peer: &Peer| peer.holding.as_ref().map_or(0, Charge::bytes);
            let gives = |peer: &Peer| peer.outbox.droppable_bytes().max(incoming(peer));
            let peers = self.peers.iter().enumerate();
            let sizes = peers.filter_map(|(at, peer)| Some((gives(peer.as_ref()?), Reverse(at))));
            // What is half written can not be given up; but that was within the budget before, so somebody else can.
            let Some((1.., Reverse(at))) = sizes.max() else { return };
            let Some(peer) = &mut self.peers[at] else { return };
            if peer.outbox.droppable_bytes() >= incoming(peer) {
                // Half of it at once: to look for the largest holder for each frame would cost more than the frame.
                let mut losses = Losses::default();
                peer.outbox.drop_oldest_half(&mut losses);
                peer.tally.lost += losses.total();
                if !peer.watches {
                    self.note_losses(&losses);
                }
                continue;
            }
            peer.holding = None;
            let reason = format!(
                "all {} bytes for frames in transit are in use and this connection holds the most of them: send again \
                 later, or smaller frames",
                self.limits.held_bytes_max
            );
            self.refuse(now, ConnId(at), RefusedCode::Memory, &reason, effects);
        }
    }

    // ---- control messages ----

    fn control(&mut self, now: Moment, conn: ConnId, control: Control, effects: &mut Effects) {
        let Some(peer) = self.peer(conn) else { return };
        match (&peer.state, control) {
            (State::Leaving, _) => {}
            (State::Greeting, Control::Hello(hello)) => self.hello(now, conn, &hello, effects),
            (State::Greeting, _) => {
                self.refuse(now, conn, RefusedCode::Protocol, "the first frame is not a Hello", effects);
            }
            (State::Sender { .. }, Control::Open(open)) => self.open_channel(now, conn, &open, effects),
            (State::Listener { .. }, Control::Subscribe(subscribe)) => {
                self.subscribe(now, conn, &subscribe, effects);
            }
            (State::Inspector, Control::Inspect) => {
                let report = self.report(now);
                self.reply(now, conn, &Control::Report(report), effects);
            }
            (State::Inspector, Control::Stop) => self.stop(effects),
            (State::Inspector, Control::Monitor(monitor)) => self.monitor(now, conn, &monitor, effects),
            (State::Sender { .. } | State::Listener { .. } | State::Inspector | State::Monitor { .. }, control) => {
                let reason = format!("a frame of kind {:#04x} is not allowed in this role", control.kind());
                self.refuse(now, conn, RefusedCode::Protocol, &reason, effects);
            }
        }
    }

    fn hello(&mut self, now: Moment, conn: ConnId, hello: &Hello, effects: &mut Effects) {
        let protocol = match handshake::negotiate(hello, &self.version, PROTOCOL_MIN, PROTOCOL_MAX) {
            Ok(protocol) => protocol,
            Err(refused) => return self.refuse_with(now, conn, refused, effects),
        };
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::as_mut) else { return };
        if let Some(deadline) = peer.deadline.take() {
            self.deadlines.remove(&(deadline, conn));
        }
        let mut sender = 0;
        peer.state = match hello.role {
            Role::Sender => {
                let mut number = hello.sender_number;
                while !self.senders.insert(SenderId::new(peer.pid, number)) {
                    number = number.wrapping_add(1);
                }
                let id = SenderId::new(peer.pid, number);
                sender = id.raw();
                State::Sender { id, next: BTreeMap::new() }
            }
            Role::Listener => State::Listener { overflow: BTreeMap::new() },
            Role::Inspector => State::Inspector,
        };
        let welcome = Welcome {
            protocol,
            capabilities: capability::MONITOR,
            sender,
            payload_bytes_max: self.limits.payload_bytes_max,
            pid: self.pid,
            version: self.version.clone(),
            extensions: Vec::new(),
        };
        self.reply(now, conn, &Control::Welcome(welcome), effects);
    }

    fn open_channel(&mut self, now: Moment, conn: ConnId, open: &Open, effects: &mut Effects) {
        let Some(name) = self.channel_name(now, conn, &open.channel, effects) else { return };
        let Some(State::Sender { next, .. }) = self.peers[conn.0].as_mut().map(|peer| &mut peer.state) else { return };
        let id = self.registry.add_sender(&name);
        next.insert(id, open.next_sequence);
        let listeners = self.registry.channel(id).map_or(0, |channel| channel.listeners().len());
        let listeners = u32::try_from(listeners).unwrap_or(u32::MAX);
        self.reply(now, conn, &Control::Opened(Opened { channel: id.0, listeners }), effects);
    }

    fn subscribe(&mut self, now: Moment, conn: ConnId, subscribe: &Subscribe, effects: &mut Effects) {
        let Some(name) = self.channel_name(now, conn, &subscribe.channel, effects) else { return };
        let Some(State::Listener { overflow }) = self.peers[conn.0].as_mut().map(|peer| &mut peer.state) else {
            return;
        };
        let id = self.registry.add_listener(&name, conn);
        overflow.insert(id, subscribe.overflow);
        let subscribed = Subscribed { channel: subscribe.channel.clone(), id: id.0 };
        self.reply(now, conn, &Control::Subscribed(subscribed), effects);
    }

    fn monitor(&mut self, now: Moment, conn: ConnId, monitor: &Monitor, effects: &mut Effects) {
        let max = self.limits.monitors_max;
        if self.monitors.len() >= max {
            let reason = format!("{max} programs watch the bus already, which is the limit");
            return self.refuse(now, conn, RefusedCode::Connections, &reason, effects);
        }
        let wanted = match monitor.channels.iter().map(|name| ChannelName::new(name)).collect() {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse(now, conn, RefusedCode::Protocol, &error.to_string(), effects),
        };
        let Some(peer) = self.peer(conn) else { return };
        (peer.state, peer.watches) = (State::Monitor { wanted }, true);
        self.monitors.push(conn);
        self.reply(now, conn, &Control::Monitoring, effects);
    }

    /// The name, if the connection may open a channel of that name now.
    fn channel_name(&mut self, now: Moment, conn: ConnId, name: &str, effects: &mut Effects) -> Option<ChannelName> {
        let name = match ChannelName::new(name) {
            Ok(name) => name,
            Err(error) => {
                self.refuse(now, conn, RefusedCode::Protocol, &error.to_string(), effects);
                return None;
            }
        };
        let known = self.registry.id_of(&name);
        let (held, joined) = match &self.peer(conn)?.state {
            State::Sender { next, .. } => (next.len(), known.is_some_and(|id| next.contains_key(&id))),
            State::Listener { overflow } => (overflow.len(), known.is_some_and(|id| overflow.contains_key(&id))),
            State::Greeting | State::Inspector | State::Monitor { .. } | State::Leaving => return None,
        };
        let limits = &self.limits;
        let (code, reason) = if joined {
            (RefusedCode::Protocol, format!("the channel {name:?} is open on this connection already"))
        } else if held >= limits.channels_per_connection_max {
            let max = limits.channels_per_connection_max;
            (RefusedCode::Channels, format!("this connection has {held} channels; the limit is {max}"))
        } else if known.is_none() && self.registry.len() >= limits.channels_max {
            let max = limits.channels_max;
            (RefusedCode::Channels, format!("the daemon has {max} channels, which is the limit"))
        } else {
            return Some(name);
        };
        self.refuse(now, conn, code, &reason, effects);
        None
    }

    /// All that the broker knows, for people and programs that look at it.
    pub fn snapshot(&self, now: Moment) -> Snapshot {
        let since = |then: Moment| now.0.saturating_sub(then.0);
        let channels = self.registry.by_name().map(|channel| ChannelSnapshot {
            name: channel.name().clone(),
            senders: channel.senders(),
            listeners: channel.listeners().len(),
            messages_accepted: channel.messages_accepted,
            bytes_accepted: channel.bytes_accepted,
            messages_lost: channel.messages_lost,
        });
        let peers = self.peers.iter().enumerate();
        let connections = peers.filter_map(|(at, peer)| {
            let peer = peer.as_ref()?;
            let names = |ids: &mut dyn Iterator<Item = &ChannelId>| {
                let known = ids.take(CONN_CHANNELS_MAX).filter_map(|&id| self.registry.channel(id));
                known.map(|channel| channel.name().clone()).collect()
            };
            let (role, channels, channels_total) = match &peer.state {
                State::Greeting => (PeerRole::Greeting, Vec::new(), 0),
                State::Sender { next, .. } => (PeerRole::Sender, names(&mut next.keys()), next.len()),
                State::Listener { overflow } => (PeerRole::Listener, names(&mut overflow.keys()), overflow.len()),
                State::Inspector => (PeerRole::Inspector, Vec::new(), 0),
                State::Monitor { wanted } => {
                    let first = wanted.iter().take(CONN_CHANNELS_MAX).cloned();
                    (PeerRole::Monitor, first.collect(), wanted.len())
                }
                State::Leaving => (PeerRole::Leaving, Vec::new(), 0),
            };
            let (queue_messages, queue_bytes) = peer.outbox.queue();
            Some(ConnSnapshot {
                conn: ConnId(at),
                pid: peer.pid,
                role,
                age: since(peer.opened),
                channels,
                channels_total,
                messages: peer.tally.messages,
                bytes: peer.tally.bytes,
                messages_lost: peer.tally.lost,
                queue_messages,
                queue_bytes,
                blocked: peer.blocked.map(since),
            })
        });
        Snapshot {
            uptime: since(self.started),
            stats: self.stats,
            held_bytes: self.ledger.held(),
            channels: channels.collect(),
            connections: connections.collect(),
        }
    }

    /// The totals, as an inspector gets them.
    pub fn report(&self, now: Moment) -> Report {
        let count =
            |wanted: fn(&State) -> bool| self.peers.iter().flatten().filter(|peer| wanted(&peer.state)).count() as u64;
        Report {
            uptime_ms: u64::try_from((now.0.saturating_sub(self.started.0)).as_millis()).unwrap_or(u64::MAX),
            connections: self.open as u64,
            senders: count(|state| matches!(state, State::Sender { .. })),
            listeners: count(|state| matches!(state, State::Listener { .. })),
            channels: self.registry.len() as u64,
            messages_accepted: self.stats.messages_accepted,
            bytes_accepted: self.stats.bytes_accepted,
            messages_delivered: self.stats.messages_delivered,
            messages_lost: self.stats.messages_lost,
            held_bytes: self.ledger.held() as u64,
            held_bytes_max: self.limits.held_bytes_max as u64,
            extensions: Vec::new(),
        }
    }

    fn reply(&mut self, now: Moment, conn: ConnId, control: &Control, effects: &mut Effects) {
        let replies_bytes_max = self.limits.replies_bytes_max;
        let Some(peer) = self.peer(conn) else { return };
        peer.push_control(control);
        peer.ask_to_write(conn, effects);
        if peer.outbox.replies_bytes() > replies_bytes_max {
            self.refuse_unread(now, conn, effects);
        }
    }

    /// The connection asks and does not read what it is told.
    fn refuse_unread(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let reason = format!("more than {} bytes of answers wait to be read", self.limits.replies_bytes_max);
        self.refuse(now, conn, RefusedCode::Protocol, &reason, effects);
    }

    // ---- coming and going ----

    fn opened(&mut self, now: Moment, conn: ConnId, pid: u32, uid: u32, effects: &mut Effects) {
        if self.peers.len() <= conn.0 {
            self.peers.resize_with(conn.0 + 1, || None);
        }
        let deadline = now.after(self.limits.handshake_within);
        self.deadlines.insert((deadline, conn));
        self.peers[conn.0] = Some(Peer {
            pid,
            state: State::Greeting,
            deadline: Some(deadline),
            outbox: Outbox::new(&self.ledger),
            writing: false,
            blocked: None,
            holding: None,
            opened: now,
            tally: Tally::default(),
            watches: false,
        });
        self.open += 1;
        let of_process = self.processes.entry(pid).or_default();
        *of_process += 1;
        let of_process = *of_process;
        if let Phase::Idle(_) = self.phase {
            self.phase = Phase::Serving;
        }
        let limits = &self.limits;
        let (code, reason) = if uid != self.uid {
            (RefusedCode::OtherUser, format!("this bus belongs to uid {}; you are uid {uid}", self.uid))
        } else if matches!(self.phase, Phase::Draining | Phase::Leaving | Phase::Over) {
            (RefusedCode::Stopping, "the daemon is stopping; connect again".to_owned())
        } else if self.open > limits.connections_max {
            let max = limits.connections_max;
            (RefusedCode::Connections, format!("the daemon has {max} connections, which is the limit"))
        } else if pid != 0 && of_process > limits.connections_per_process_max {
            let max = limits.connections_per_process_max;
            (RefusedCode::Connections, format!("process {pid} has {max} connections, which is the limit"))
        } else {
            return;
        };
        self.refuse(now, conn, code, &reason, effects);
    }

    fn refuse(&mut self, now: Moment, conn: ConnId, code: RefusedCode, reason: &str, effects: &mut Effects) {
        self.refuse_with(now, conn, Refused::new(code, reason), effects);
    }

    fn refuse_with(&mut self, now: Moment, conn: ConnId, refused: Refused, effects: &mut Effects) {
        let Some(peer) = self.peer(conn) else { return };
        if matches!(peer.state, State::Leaving) {
            return;
        }
        let mut losses = Losses::default();
        peer.outbox.clear_frames(&mut losses);
        peer.tally.lost += losses.total();
        if !peer.watches {
            self.note_losses(&losses);
        }
        self.stats.connections_refused += 1;
        self.leave(now, conn, &Control::Refused(refused), effects);
    }

    /// Says the last word to a connection; it is closed once that is written, or when the time for it is over.
    fn leave(&mut self, now: Moment, conn: ConnId, last_word: &Control, effects: &mut Effects) {
        self.forget_state(now, conn, effects);
        let deadline = now.after(self.limits.goodbye_within);
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::as_mut) else { return };
        if let Some(old) = peer.deadline.replace(deadline) {
            self.deadlines.remove(&(old, conn));
        }
        self.deadlines.insert((deadline, conn));
        peer.holding = None;
        peer.push_control(last_word);
        peer.ask_to_write(conn, effects);
    }

    /// Takes the connection out of everything that knows it but `peers`.
    fn forget_state(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::as_mut) else { return };
        match std::mem::replace(&mut peer.state, State::Leaving) {
            State::Greeting | State::Inspector | State::Leaving => {}
            State::Sender { id, next } => {
                self.senders.remove(&id);
                for channel in next.into_keys() {
                    let told = self.registry.remove_sender(channel);
                    self.tell_end(now, channel, told, effects);
                }
            }
            State::Listener { overflow } => {
                for channel in overflow.into_keys() {
                    let told = self.registry.remove_listener(channel, conn);
                    self.tell_end(now, channel, told, effects);
                }
            }
            State::Monitor { .. } => {
                self.monitors.retain(|&monitor| monitor != conn);
                self.registry.forget_monitor(conn);
            }
        }
    }

    /// Tells monitors that a channel id stands for nothing any more, so that they need not remember it.
    fn tell_end(&mut self, now: Moment, channel: ChannelId, told: Vec<ConnId>, effects: &mut Effects) {
        for monitor in told {
            self.reply(now, monitor, &Control::Named(Named { channel: channel.0, name: String::new() }), effects);
        }
    }

    fn closed(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        self.forget_state(now, conn, effects);
        let Some(peer) = self.peers.get_mut(conn.0).and_then(Option::take) else { return };
        if let Some(deadline) = peer.deadline {
            self.deadlines.remove(&(deadline, conn));
        }
        if let Some(count) = self.processes.get_mut(&peer.pid) {
            *count -= 1;
            if *count == 0 {
                self.processes.remove(&peer.pid);
            }
        }
        self.open -= 1;
        match self.phase {
            Phase::Idle(_) | Phase::Serving if self.open == 0 => self.phase = Phase::Idle(now),
            Phase::Leaving => self.leave_or_end(now, effects),
            Phase::Idle(_) | Phase::Serving | Phase::Draining | Phase::Over => {}
        }
    }

    fn tick(&mut self, now: Moment, effects: &mut Effects) {
        while let Some(&(deadline, conn)) = self.deadlines.first().filter(|&&(deadline, _)| deadline <= now) {
            self.deadlines.remove(&(deadline, conn));
            let Some(peer) = self.peer(conn) else { continue };
            peer.deadline = None;
            if matches!(peer.state, State::Greeting) {
                let reason = format!("no Hello within {:?}", self.limits.handshake_within);
                self.refuse(now, conn, RefusedCode::Handshake, &reason, effects);
            } else {
                effects.push(Effect::Close(conn));
            }
        }
        if let (Phase::Idle(since), Some(wait)) = (self.phase, self.limits.idle_exit_after)
            && since.after(wait) <= now
        {
            self.stop(effects);
        }
    }

    fn stop(&mut self, effects: &mut Effects) {
        if matches!(self.phase, Phase::Idle(_) | Phase::Serving) {
            self.phase = Phase::Draining;
            effects.push(Effect::Drain);
        }
    }

    fn drained(&mut self, now: Moment, effects: &mut Effects) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Leaving;
            self.say_goodbye(now, |state| !looks_on(state), effects);
            self.leave_or_end(now, effects);
        }
    }

    fn say_goodbye(&mut self, now: Moment, to: fn(&State) -> bool, effects: &mut Effects) {
        let goodbye = Control::Goodbye(Goodbye { reason: "the daemon is stopping".to_owned() });
        for at in 0..self.peers.len() {
            let stays = |peer: &Peer| !matches!(peer.state, State::Leaving) && to(&peer.state);
            if self.peers[at].as_ref().is_some_and(stays) {
                self.leave(now, ConnId(at), &goodbye, effects);
            }
        }
    }

    /// On the way out: whoever asked for the stop, and whoever looks on, is told when everybody else is served and the lock is
    /// free. A look must not start a daemon, and would take one that still has its lock for one that serves.
    fn leave_or_end(&mut self, now: Moment, effects: &mut Effects) {
        if self.open == 0 {
            self.phase = Phase::Over;
            effects.push(Effect::Exit);
        } else if self.peers.iter().flatten().all(|peer| looks_on(&peer.state)) {
            effects.push(Effect::Release);
            self.say_goodbye(now, |_| true, effects);
        }
    }
}

/// Whether the connection sends and receives nothing of its own.
fn looks_on(state: &State) -> bool {
    matches!(state, State::Inspector | State::Monitor { .. })
}

impl Peer {
    fn push_control(&mut self, control: &Control) {
        let mut frame = Vec::new();
        control.encode(&mut frame).expect("every text in an answer is shorter than the limit");
        self.outbox.push_control(frame);
    }

    fn ask_to_write(&mut self, conn: ConnId, effects: &mut Effects) {
        if !self.writing && !self.outbox.is_empty() {
            self.writing = true;
            effects.push(Effect::Write(conn));
        }
    }
}
