//! A whole bus in one thread: the production broker, decoder and client cores over in-memory links that split bytes
//! anywhere, in virtual time, driven by one seed. No socket, no clock, no thread.
//!
//! Scenarios touch the world through its methods only; [`World::step`] plays one random move of somebody who has
//! something to do. Every check is made as it happens, against the dull [`model`](crate::model); a violation panics with
//! the seed, the command that replays it, and the moves that led there.

use crate::model::{Channel, Ear, Mark};
use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment};
use broadcaster_protocol::control::Overflow;
use broadcaster_protocol::{ChannelName, Decoder, Item};
use bytes::{BufMut, BytesMut};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use system_broadcaster::core::{Core, Heard, ListenerCore, SenderCore};

/// The user of every process in the world.
const UID: u32 = 1000;

/// The last moves that a failure shows.
const TRACE_MAX: usize = 60;

/// A client of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(usize);

/// Both directions of one connection, as two bounded pipes.
#[derive(Debug, Default)]
struct Pipe {
    to_daemon: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// The client has closed its end: the daemon reads what is left, then the end.
    client_left: bool,
    /// The daemon has closed its end.
    daemon_left: bool,
}

#[derive(Debug)]
enum Role {
    Sender { core: SenderCore, to_send: u64, payload_max: usize, batch: bool },
    Listener { core: ListenerCore, stalled: bool, ear: Option<Ear>, gaps: u64, gaps_due: u64, was_ready: bool },
}

#[derive(Debug)]
struct Participant {
    role: Role,
    channel: ChannelName,
    pid: u32,
    conn: Option<ConnId>,
    /// It has left for good.
    gone: bool,
    /// Totals over all daemons that it has met.
    received: u64,
    lost: u64,
}

#[derive(Debug)]
struct Served {
    pipe: Pipe,
    decoder: Decoder,
    client: Client,
    writing: bool,
}

/// What one client can say at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Frames that a listener received.
    pub received: u64,
    /// Frames that it was told it lost, with a count.
    pub lost: u64,
    /// Times that it was told of a loss without a count.
    pub gaps: u64,
}

/// The bus and everybody on it.
#[derive(Debug)]
pub struct World {
    seed: u64,
    rng: Rng,
    now: Moment,
    limits: Limits,
    broker: Broker,
    pipe_bytes_max: usize,
    served: BTreeMap<ConnId, Served>,
    participants: Vec<Participant>,
    channels: BTreeMap<ChannelName, Channel>,
    chunk: BytesMut,
    draining: bool,
    /// The socket is gone: nobody can connect.
    unlinked: bool,
    over: bool,
    trace: VecDeque<String>,
    /// Connections that the daemon has closed and the client has not.
    spares: usize,
}

impl World {
    /// A world in which everything that happens follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    /// The same with other limits of the broker.
    pub fn with_limits(seed: u64, limits: Limits) -> Self {
        let now = Moment::default();
        Self {
            seed,
            rng: Rng::with_seed(seed),
            now,
            broker: Broker::new(limits.clone(), UID, 1, "world", now),
            limits,
            pipe_bytes_max: 4096,
            served: BTreeMap::new(),
            participants: Vec::new(),
            channels: BTreeMap::new(),
            chunk: BytesMut::new(),
            draining: false,
            unlinked: false,
            over: false,
            trace: VecDeque::new(),
            spares: 0,
        }
    }

    /// Bytes that each direction of a connection holds, as a socket's buffer does.
    #[must_use]
    pub fn pipes_of(mut self, bytes: usize) -> Self {
        self.pipe_bytes_max = bytes;
        self
    }

    /// Somebody who will send `frames` frames with payloads of at most `payload_max` bytes.
    pub fn sender(&mut self, channel: &str, frames: u64, payload_max: usize) -> Client {
        let batch = self.rng.bool();
        let (channel, pid) = (name(channel), self.next_pid());
        let number = self.rng.u32(..);
        let core = SenderCore::new(channel.clone(), pid, number);
        self.add(channel, pid, Role::Sender { core, to_send: frames, payload_max, batch })
    }

    /// Somebody who listens.
    pub fn listener(&mut self, channel: &str, overflow: Overflow) -> Client {
        let (channel, pid) = (name(channel), self.next_pid());
        let core = ListenerCore::new(channel.clone(), overflow, pid);
        let role = Role::Listener { core, stalled: false, ear: None, gaps: 0, gaps_due: 0, was_ready: false };
        self.add(channel, pid, role)
    }

    fn add(&mut self, channel: ChannelName, pid: u32, role: Role) -> Client {
        self.participants.push(Participant { role, channel, pid, conn: None, gone: false, received: 0, lost: 0 });
        Client(self.participants.len() - 1)
    }

    fn next_pid(&self) -> u32 {
        u32::try_from(self.participants.len()).map_or(0, |count| 100 + count)
    }

    /// The listener reads nothing until told otherwise.
    pub fn stall(&mut self, client: Client, on: bool) {
        if let Role::Listener { stalled, .. } = &mut self.participants[client.0].role {
            *stalled = on;
            self.note(format!("{client:?} {}", if on { "stalls" } else { "reads again" }));
        }
    }

    /// The client is killed: what it had not read, nobody reads; what it had sent, the daemon still gets.
    pub fn kill(&mut self, client: Client) {
        self.note(format!("{client:?} is killed"));
        self.participants[client.0].gone = true;
        if let Some(conn) = self.participants[client.0].conn.take()
            && let Some(served) = self.served.get_mut(&conn)
        {
            served.pipe.client_left = true;
        }
    }

    /// The connection breaks; the client finds its way back.
    pub fn cut(&mut self, client: Client) {
        self.note(format!("{client:?} is cut off"));
        if let Some(conn) = self.participants[client.0].conn
            && let Some(served) = self.served.get_mut(&conn)
        {
            served.pipe.client_left = true;
        }
        self.lose(client);
    }

    /// `kill -9` of the daemon: all that is in flight is gone. The next one serves at once.
    pub fn kill_daemon(&mut self) {
        self.note("the daemon is killed".to_owned());
        self.served.clear();
        for at in 0..self.participants.len() {
            self.hear_all(Client(at)); // what was in its own buffers is its own
            self.lose(Client(at));
        }
        self.start_daemon();
    }

    /// The daemon is asked to stop in good order.
    pub fn stop_daemon(&mut self) {
        self.note("the daemon is asked to stop".to_owned());
        self.happen(Event::Stop);
    }

    fn start_daemon(&mut self) {
        self.broker = Broker::new(self.limits.clone(), UID, 1, "world", self.now);
        self.channels.clear();
        (self.draining, self.unlinked, self.over) = (false, false, false);
        for participant in &mut self.participants {
            if let Role::Listener { ear, .. } = &mut participant.role
                && let Some(ear) = ear.take()
            {
                participant.received += ear.received_count();
                participant.lost += ear.lost_count();
            }
        }
    }

    /// Plays random moves until nobody has anything to do, and checks that everything adds up.
    pub fn run_until_quiet(&mut self) {
        let mut moves = 0_u64;
        while self.step() {
            moves += 1;
            assert!(moves < 20_000_000, "the world does not come to rest: {}", self.story());
        }
        self.check_rest();
    }

    /// Plays at most `moves` random moves.
    pub fn run(&mut self, moves: u64) {
        for _ in 0..moves {
            if !self.step() {
                return;
            }
        }
    }

    /// One random move of somebody who has something to do; `false` if nobody has.
    pub fn step(&mut self) -> bool {
        let actors = self.participants.len() + self.served.len() * 2;
        let first = self.rng.usize(0..actors.max(1));
        let conns: Vec<ConnId> = self.served.keys().copied().collect();
        for turn in 0..actors {
            let at = (first + turn) % actors;
            let moved = if at < self.participants.len() {
                self.client_moves(Client(at))
            } else {
                let (which, reads) = ((at - self.participants.len()) / 2, at.is_multiple_of(2));
                if reads { self.daemon_reads(conns[which]) } else { self.daemon_writes(conns[which]) }
            };
            if moved {
                return true;
            }
        }
        if self.draining {
            self.draining = false;
            self.happen(Event::Drained);
            return true;
        }
        if self.over {
            // Whoever was left comes back to the next daemon.
            self.served.clear();
            for at in 0..self.participants.len() {
                self.hear_all(Client(at));
                self.lose(Client(at));
            }
            self.start_daemon();
            return true;
        }
        match self.broker.next_deadline() {
            Some(deadline) if !self.served.is_empty() => {
                self.now = deadline.max(self.now);
                self.note(format!("the time is {:?}", self.now.0));
                self.happen(Event::Tick);
                true
            }
            _ => false,
        }
    }

    /// What the client can say.
    pub fn tally(&self, client: Client) -> Tally {
        let participant = &self.participants[client.0];
        match &participant.role {
            Role::Sender { .. } => Tally::default(),
            Role::Listener { ear, gaps, .. } => Tally {
                received: participant.received + ear.as_ref().map_or(0, Ear::received_count),
                lost: participant.lost + ear.as_ref().map_or(0, Ear::lost_count),
                gaps: *gaps,
            },
        }
    }

    /// How many frames the present daemon has accepted on the channel.
    pub fn accepted(&self, channel: &str) -> u64 {
        self.channels.get(&name(channel)).map_or(0, |channel| channel.len() as u64)
    }

    /// Bytes of memory that the broker holds now.
    pub fn held_bytes(&self) -> usize {
        self.broker.held_bytes()
    }

    // ---- the client's side ----

    fn client_moves(&mut self, client: Client) -> bool {
        if self.participants[client.0].gone {
            return false;
        }
        if self.participants[client.0].conn.is_none() {
            return self.connect(client);
        }
        if let Role::Sender { core, to_send: 0, .. } = &self.participants[client.0].role
            && core.is_ready()
            && core.waiting_bytes() == 0
        {
            self.kill(client); // it has said all that it had to say
            return true;
        }
        let writes_first = self.rng.bool();
        (writes_first && self.client_writes(client))
            || self.client_reads(client)
            || (!writes_first && self.client_writes(client))
    }

    fn connect(&mut self, client: Client) -> bool {
        let wanted = match &self.participants[client.0].role {
            Role::Sender { core, to_send, .. } => *to_send > 0 || core.waiting_bytes() > 0,
            Role::Listener { .. } => true,
        };
        if !wanted || self.unlinked || self.over || self.served.len() >= 64 {
            return false;
        }
        let conn = (0..).map(ConnId).find(|conn| !self.served.contains_key(conn)).unwrap_or(ConnId(0));
        let pid = self.participants[client.0].pid;
        let decoder = Decoder::lender(self.limits.payload_bytes_max);
        self.served.insert(conn, Served { pipe: Pipe::default(), decoder, client, writing: false });
        self.participants[client.0].conn = Some(conn);
        core_of(&mut self.participants[client.0].role).connected();
        self.note(format!("{client:?} connects as {conn:?}"));
        self.happen(Event::Opened { conn, pid, uid: UID });
        true
    }

    fn client_writes(&mut self, client: Client) -> bool {
        let participant = &mut self.participants[client.0];
        let Some(served) = participant.conn.and_then(|conn| self.served.get_mut(&conn)) else { return false };
        if served.pipe.daemon_left {
            return false; // the write fails, and the client reads why
        }
        let room = self.pipe_bytes_max.saturating_sub(served.pipe.to_daemon.len());
        if let Role::Sender { core, to_send, payload_max, batch } = &mut participant.role
            && core.is_ready()
            && *to_send > 0
            && (core.waiting_bytes() == 0 || (*batch && core.waiting_bytes() < 2000))
        {
            *to_send -= 1;
            let payload = payload_of(core.committed(), self.rng.usize(0..=*payload_max));
            if *batch || room == 0 {
                core.feed(&payload).expect("the payload is small");
            } else {
                // Straight to the connection, which takes a part of it at least.
                let header = core.stamp(payload.len()).expect("the payload is small");
                let frame = [header.as_bytes(), &payload].concat();
                let taken = self.rng.usize(1..=frame.len()).min(room);
                served.pipe.to_daemon.extend(&frame[..taken]);
                if taken == frame.len() { core.commit() } else { core.adopt(&header, &payload, taken) }
            }
            return true;
        }
        let core = core_of(&mut participant.role);
        let outgoing = core.outgoing();
        if outgoing.is_empty() || room == 0 {
            return false;
        }
        let taken = self.rng.usize(1..=outgoing.len()).min(room);
        served.pipe.to_daemon.extend(&outgoing[..taken]);
        core.sent(taken);
        true
    }

    fn client_reads(&mut self, client: Client) -> bool {
        let participant = &mut self.participants[client.0];
        if matches!(participant.role, Role::Listener { stalled: true, .. }) {
            return false;
        }
        let Some(served) = participant.conn.and_then(|conn| self.served.get_mut(&conn)) else { return false };
        if served.pipe.to_client.is_empty() {
            if !served.pipe.daemon_left {
                return false;
            }
            served.pipe.client_left = true;
            self.lose(client);
            return true;
        }
        let core = core_of(&mut participant.role);
        let taken = read_some(&mut self.rng, &mut served.pipe.to_client, &mut core.target());
        if let Err(ended) = core.received() {
            self.note(format!("{client:?} is told {ended:?} after {taken} bytes"));
            self.cut(client);
            return true;
        }
        self.hear_all(client);
        true
    }

    /// Takes everything that the listener's core has understood, and checks it.
    fn hear_all(&mut self, client: Client) {
        loop {
            let participant = &mut self.participants[client.0];
            let Role::Listener { core, ear, gaps, gaps_due, was_ready, .. } = &mut participant.role else { return };
            let heard = core.hear();
            let channel = self.channels.entry(participant.channel.clone()).or_default();
            if core.is_ready() && !*was_ready {
                *was_ready = true;
            }
            let verdict = match heard {
                Ok(Heard::Nothing) => return,
                Ok(Heard::Lagged(None)) => {
                    *gaps += 1;
                    if *gaps <= *gaps_due { Ok(()) } else { Err("a gap was told twice".to_owned()) }
                }
                Ok(Heard::Lagged(Some(count))) => {
                    let ear = ear.as_mut().expect("it has joined");
                    ear.lagged(count);
                    Ok(())
                }
                Ok(Heard::Frame) => {
                    let frame = core.frame().expect("a frame was heard");
                    let (sender, sequence) = (frame.sender.raw(), frame.sequence);
                    let ear = ear.as_mut().expect("it has joined");
                    match frame.payload == payload_of(sequence, frame.payload.len()) {
                        true => ear.received(channel, Mark { sender, sequence }),
                        false => Err(format!(
                            "frame {sequence} of {sender:x} has another payload than it was sent with: {:?}",
                            frame.payload
                        )),
                    }
                }
                Err(ended) => {
                    self.note(format!("{client:?} hears {ended:?}"));
                    return self.cut(client);
                }
            };
            if let Err(problem) = verdict {
                self.fail(&format!("{client:?}: {problem}"));
            }
        }
    }

    /// The client notices that its connection is gone.
    fn lose(&mut self, client: Client) {
        let participant = &mut self.participants[client.0];
        if participant.conn.take().is_none() {
            return;
        }
        core_of(&mut participant.role).disconnected();
        if let Role::Listener { ear, gaps_due, was_ready, .. } = &mut participant.role {
            if std::mem::take(was_ready) {
                *gaps_due += 1;
            }
            if let Some(ear) = ear.take() {
                participant.received += ear.received_count();
                participant.lost += ear.lost_count();
            }
        }
    }

    // ---- the daemon's side ----

    fn daemon_reads(&mut self, conn: ConnId) -> bool {
        let Some(served) = self.served.get_mut(&conn) else { return false };
        if served.pipe.daemon_left {
            if served.pipe.client_left {
                self.served.remove(&conn);
            }
            return false;
        }
        if served.pipe.to_daemon.is_empty() {
            if !served.pipe.client_left {
                return false;
            }
            self.served.remove(&conn);
            self.happen(Event::Closed { conn });
            return true;
        }
        let held = served.decoder.held_bytes();
        let taken = {
            let mut target = served.decoder.target(&mut self.chunk);
            read_some(&mut self.rng, &mut served.pipe.to_daemon, &mut target)
        };
        self.note(format!("the daemon reads {taken} bytes of {conn:?}"));
        while let Some(served) = self.served.get_mut(&conn) {
            let event = match served.decoder.next(&mut self.chunk) {
                Ok(None) => break,
                Ok(Some(Item::Run(run))) => Event::Run { conn, run },
                Ok(Some(Item::Control(control))) => Event::Control { conn, control },
                Err(error) => self.fail(&format!("{conn:?}: the daemon can not read its own clients: {error}")),
            };
            self.happen(event);
        }
        self.chunk.clear();
        if let Some(bytes) = self.served.get(&conn).map(|served| served.decoder.held_bytes())
            && bytes != held
        {
            self.happen(Event::Holding { conn, bytes });
        }
        true
    }

    fn daemon_writes(&mut self, conn: ConnId) -> bool {
        let Some(served) = self.served.get_mut(&conn).filter(|served| served.writing) else { return false };
        let offered: Vec<u8> = self.broker.outgoing(conn).flatten().copied().collect();
        if offered.is_empty() {
            served.writing = false;
            return false;
        }
        if served.pipe.client_left {
            self.served.remove(&conn); // the write fails
            self.happen(Event::Closed { conn });
            return true;
        }
        let room = self.pipe_bytes_max.saturating_sub(served.pipe.to_client.len());
        if room == 0 {
            return false;
        }
        let bytes = self.rng.usize(1..=offered.len()).min(room);
        served.pipe.to_client.extend(&offered[..bytes]);
        self.happen(Event::Written { conn, bytes });
        true
    }

    fn happen(&mut self, event: Event) {
        self.model_sees(&event);
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) => {
                    if let Some(served) = self.served.get_mut(&conn) {
                        served.writing = true;
                    }
                }
                Effect::Close(conn) => {
                    let gone = match self.served.get_mut(&conn) {
                        Some(served) => !std::mem::replace(&mut served.pipe.daemon_left, true),
                        None => false,
                    };
                    if gone {
                        self.happen_closed(conn);
                    }
                }
                Effect::Drain => (self.draining, self.unlinked) = (true, true),
                Effect::Release => {}
                Effect::Exit => self.over = true,
            }
        }
        let held = self.broker.held_bytes();
        if held > self.limits.held_bytes_max {
            self.fail(&format!("{held} bytes are held, the budget is {}", self.limits.held_bytes_max));
        }
    }

    /// The daemon has closed a connection; the client still reads what is in its pipe.
    fn happen_closed(&mut self, conn: ConnId) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, Event::Closed { conn }, &mut effects);
        if let Some(served) = self.served.get_mut(&conn) {
            served.writing = false;
            served.pipe.to_daemon.clear();
            // The number is free again: what is left of the connection moves out of its way.
            if let Some(served) = self.served.remove(&conn) {
                self.spares += 1;
                let spare = ConnId(1_000_000 + self.spares);
                self.participants[served.client.0].conn =
                    self.participants[served.client.0].conn.map(|own| if own == conn { spare } else { own });
                self.served.insert(spare, served);
            }
        }
        self.over |= effects.contains(&Effect::Exit);
    }

    /// What the dull model makes of an event: frames that a sender may send are accepted, whatever the broker thinks; a
    /// listener that asks to join has joined.
    fn model_sees(&mut self, event: &Event) {
        match event {
            Event::Run { conn, run } => {
                let Some(served) = self.served.get(conn) else { return };
                let name = self.participants[served.client.0].channel.clone();
                let channel = self.channels.entry(name).or_default();
                for (sequence, payload) in run.iter() {
                    let mark = Mark { sender: run.sender().raw(), sequence };
                    if payload != payload_of(sequence, payload.len()) {
                        self.fail(&format!("{mark:?} reaches the daemon with another payload: {payload:?}"));
                    }
                    if let Err(problem) = channel.accept(mark) {
                        self.fail(&problem);
                    }
                }
            }
            Event::Control { conn, control: broadcaster_protocol::Control::Subscribe(_) } => {
                let Some(served) = self.served.get(conn) else { return };
                let participant = &mut self.participants[served.client.0];
                let channel = self.channels.entry(participant.channel.clone()).or_default();
                if let (Role::Listener { ear, .. }, true) = (&mut participant.role, participant.conn == Some(*conn)) {
                    *ear = Some(Ear::join(channel));
                }
            }
            _ => {}
        }
    }

    // ---- the reader's side ----

    fn check_rest(&mut self) {
        let mut problems = BTreeSet::new();
        for (at, participant) in self.participants.iter().enumerate().filter(|(_, participant)| !participant.gone) {
            match &participant.role {
                Role::Sender { core, to_send, .. } => {
                    if *to_send > 0 || core.waiting_bytes() > 0 {
                        problems.insert(format!("sender {at} is not done: {to_send} frames left"));
                    }
                }
                Role::Listener { ear: Some(ear), stalled: false, gaps, gaps_due, .. } => {
                    let empty = Channel::default();
                    let channel = self.channels.get(&participant.channel).unwrap_or(&empty);
                    if let Err(problem) = ear.rest(channel) {
                        problems.insert(format!("listener {at}: {problem}"));
                    }
                    if gaps != gaps_due {
                        problems.insert(format!("listener {at} was told {gaps} gaps of {gaps_due}"));
                    }
                }
                Role::Listener { .. } => {}
            }
        }
        if !problems.is_empty() {
            self.fail(&problems.into_iter().collect::<Vec<_>>().join("; "));
        }
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn story(&self) -> String {
        let mut story = format!(
            "seed {}\nreplay: WORLD_SEED={} cargo test -p broadcaster-tests --test worlds -- --nocapture\nlast moves:\n",
            self.seed, self.seed
        );
        for line in &self.trace {
            let _ = writeln!(story, "  {line}");
        }
        story
    }

    fn fail(&self, problem: &str) -> ! {
        panic!("{problem}\n{}", self.story())
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).expect("scenarios use good names")
}

fn core_of(role: &mut Role) -> &mut dyn Core {
    match role {
        Role::Sender { core, .. } => core,
        Role::Listener { core, .. } => core,
    }
}

/// What a frame of this number carries: recognisable, and another for each number.
fn payload_of(sequence: u64, len: usize) -> Vec<u8> {
    let pattern = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    pattern.iter().copied().cycle().take(len).collect()
}

fn read_some(rng: &mut Rng, from: &mut VecDeque<u8>, target: &mut bytes::buf::Limit<&mut BytesMut>) -> usize {
    let most = from.len().min(target.remaining_mut());
    let taken = rng.usize(1..=most);
    let bytes: Vec<u8> = from.drain(..taken).collect();
    target.put_slice(&bytes);
    taken
}
