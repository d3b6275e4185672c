//! A whole bus in one thread: the production driver and the production client loops over pipes that split bytes
//! anywhere, in virtual time, driven by one seed. No socket, no clock, no thread.
//!
//! Scenarios touch the world through its methods only; [`World::step`] plays one random move of a participant that has
//! something to do. Every check is made as it happens, against the plain [`model`](crate::model), and all bookkeeping of the daemon
//! is checked after every turn of it. A failure prints the seed, the command that replays it, and the last moves.

mod daemon;
mod link;
mod memory;
mod pipe;
mod tap;

use crate::model::{Channel, Heard, Mark};
use broadcaster_broker::{Broker, Limits, Moment};
use broadcaster_protocol::control::Overflow;
use daemon::{Connected, Daemon};
use fastrand::Rng;
use link::{Never, SendError, WorldLink};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;
use system_broadcaster::machine::{
    Change, Confirmation, Event, Lifetime, Machine, OWN, Outcome, Publisher, Received, Replied, Replying, Requested,
    RequesterGone, Requesting, Rings, Selector, Sending, Step, Subscriber, Subscription, confirm, flush, next_reply,
    receive, settle,
};
use system_broadcaster::{ChannelName, ChannelPattern};

/// How many of the last moves a failure shows.
const TRACE_MAX: usize = 60;

/// A client of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(usize);

#[derive(Debug)]
enum Role {
    Sender {
        publisher: Publisher,
        load: Load,
        /// It does nothing for a while.
        paused: bool,
        /// Messages that were reported as in doubt.
        in_doubt: u64,
    },
    Listener {
        subscriber: Subscriber,
        /// A change of its subscriptions that it waits for.
        change: Option<Change>,
        /// Its subscriptions have changed since it was created.
        has_changed: bool,
        stalled: bool,
        gaps: u64,
        gaps_due: u64,
        was_ready: bool,
        /// Replies to the requests that it has received, oldest first.
        replies: VecDeque<Replying<'static>>,
    },
    /// A client that requests, and waits for the replies to one request before the next one.
    Requester { publisher: Publisher, to_request: u64, current: Option<Asking> },
}

/// What a sender sends.
#[derive(Debug)]
struct Load {
    /// Messages that are left.
    to_send: u64,
    payload_max: usize,
    /// It feeds many messages before it writes.
    batch: bool,
    /// One in so many messages cannot be in a ring: it is retained, or too large; 0: none is chosen for that.
    strays: usize,
}

/// A request of a requester.
#[derive(Debug)]
struct Asking {
    number: u64,
    /// Until the daemon has delivered it.
    requesting: Option<Requesting<'static>>,
    expected: u64,
    /// The listeners that have replied.
    repliers: BTreeSet<u64>,
}

#[derive(Debug)]
struct Participant {
    role: Role,
    pid: u32,
    connected: Option<Connected>,
    /// It has left for good.
    gone: bool,
    /// Its connections that have ended, by their numbers. What it reads from rings may belong to one of them.
    ended: BTreeMap<u64, Ended>,
    /// What it knows of each channel from all connections.
    heard: BTreeMap<ChannelName, Heard>,
    /// The retained messages that it has received last, between two connections.
    seen: BTreeMap<ChannelName, VecDeque<Mark>>,
}

/// A connection that has ended.
#[derive(Debug)]
struct Ended {
    connected: Connected,
    /// In an orderly stop: everything that its daemon has accepted arrives in the end, at the latest from rings.
    is_complete: bool,
}

impl Participant {
    /// Whether it waits for its connection and its doorbells, and neither has anything. A wake-up that is lost shows because it waits forever.
    fn sleeps(&self) -> bool {
        let Role::Listener { subscriber, change: None, replies, .. } = &self.role else { return false };
        self.connected.as_ref().is_some_and(|connected| {
            let shared = connected.shared.borrow();
            let waits = shared.sleeps && shared.has_links() && replies.is_empty() && subscriber.outgoing().is_empty();
            waits && !shared.is_rung() && !connected.pipe.borrow().has_news()
        })
    }
}

/// What one listener has received in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Messages that have arrived.
    pub received: u64,
    /// Messages that were reported as lost, with a count.
    pub lost: u64,
    /// Gaps without a count.
    pub gaps: u64,
}

/// What has made a world difficult, so that a scenario can assert that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Writes of a daemon that failed because the system was short of memory.
    pub writes_without_memory: u64,
    /// Clients that a daemon turned away because it was out of descriptors.
    pub clients_turned_away: u64,
    /// Messages accepted whose payload had the largest size that the daemon allows.
    pub largest_messages: u64,
    /// Channels with messages that a connection has ceased to receive.
    pub channels_left: u64,
    /// Channels that a connection has begun to receive again.
    pub channels_joined_again: u64,
    /// Messages that were declared again.
    pub declared_again: u64,
    /// Those of them that a daemon has retained.
    pub restored: u64,
    /// Replayed messages that have arrived.
    pub replayed: u64,
    /// Replies that have arrived in time.
    pub replies: u64,
    /// Replies to requests that no longer awaited any.
    pub late_replies: u64,
    /// Requests that ended with their connection.
    pub requests_lost: u64,
    /// Requests to which each listener that took them has replied.
    pub requests_answered: u64,
    /// Rings into which a sender has begun to publish.
    pub rings_begun: u64,
    /// Those of them that are not the first on their connection.
    pub rings_begun_again: u64,
    /// Those of them that their sender has ended.
    pub rings_ended: u64,
    /// How often a sender has ended its ring for a message that is retained.
    pub rings_left_to_retain: u64,
    /// How often a sender has ended its ring for a message that is too large for it.
    pub rings_left_for_size: u64,
    /// How often a sender has ended its ring because the daemon has recalled it.
    pub rings_recalled: u64,
    /// Listeners that have begun to read a ring themselves.
    pub followed: u64,
    /// How often one of them found that messages were overwritten.
    pub lapped: u64,
    /// How often a daemon has found messages in a ring for other subscribers.
    pub relayed: u64,
    /// Rings that a listener could not map.
    pub links_refused: u64,
    /// Subscriptions while another listener was being introduced to a sender.
    pub joined_during_introduction: u64,
    /// Messages that were published in a ring when its daemon was gone, and that the next one has accepted.
    pub survived: u64,
}

impl AddAssign for Faults {
    fn add_assign(&mut self, more: Self) {
        self.writes_without_memory += more.writes_without_memory;
        self.clients_turned_away += more.clients_turned_away;
        self.largest_messages += more.largest_messages;
        self.channels_left += more.channels_left;
        self.channels_joined_again += more.channels_joined_again;
        self.declared_again += more.declared_again;
        self.restored += more.restored;
        self.replayed += more.replayed;
        self.replies += more.replies;
        self.late_replies += more.late_replies;
        self.requests_lost += more.requests_lost;
        self.requests_answered += more.requests_answered;
        self.rings_begun += more.rings_begun;
        self.rings_begun_again += more.rings_begun_again;
        self.rings_ended += more.rings_ended;
        self.rings_left_to_retain += more.rings_left_to_retain;
        self.rings_left_for_size += more.rings_left_for_size;
        self.rings_recalled += more.rings_recalled;
        self.followed += more.followed;
        self.lapped += more.lapped;
        self.relayed += more.relayed;
        self.links_refused += more.links_refused;
        self.joined_during_introduction += more.joined_during_introduction;
        self.survived += more.survived;
    }
}

/// The bus and all its clients.
#[derive(Debug)]
pub struct World {
    seed: u64,
    rng: Rc<RefCell<Rng>>,
    daemon: Daemon,
    participants: Vec<Participant>,
    trace: VecDeque<String>,
}

impl World {
    /// A world in which everything that happens follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    /// The same with other limits of the broker.
    pub fn with_limits(seed: u64, limits: Limits) -> Self {
        let rng = Rc::new(RefCell::new(Rng::with_seed(seed)));
        let daemon = Daemon::new(limits, Moment::default(), Rc::clone(&rng));
        Self { seed, rng, daemon, participants: Vec::new(), trace: VecDeque::new() }
    }

    /// Bytes that each direction of a connection holds, as a socket's buffer does.
    #[must_use]
    pub fn pipes_of(mut self, bytes: usize) -> Self {
        self.daemon.capacity = bytes;
        self
    }

    /// One in so many writes of the daemon fails because the system is short of memory.
    #[must_use]
    pub fn short_of_memory(mut self, one_in: usize) -> Self {
        self.daemon.shortage = one_in;
        self
    }

    /// The daemon is out of descriptors when one in so many clients connects.
    #[must_use]
    pub fn short_of_descriptors(mut self, one_in: usize) -> Self {
        self.daemon.descriptor_shortage = one_in;
        self
    }

    /// Clients can share memory, in rings with so many words of data.
    #[must_use]
    pub fn sharing_memory(mut self, words: usize) -> Self {
        self.daemon.ring_words = Some(words);
        self
    }

    /// One in so many attempts of a client to map memory fails.
    #[must_use]
    pub fn short_of_shared_memory(mut self, one_in: usize) -> Self {
        self.daemon.memory_shortage = one_in;
        self
    }

    /// A client that will send `frames` messages with payloads of at most `payload_max` bytes.
    pub fn sender(&mut self, channel: &str, frames: u64, payload_max: usize) -> Client {
        self.paced_sender(channel, frames, payload_max, Duration::ZERO)
    }

    /// The same with backpressure: a listener may delay it for `patience`, if that is not zero.
    pub fn paced_sender(&mut self, channel: &str, frames: u64, payload_max: usize, patience: Duration) -> Client {
        self.add_sender(channel, frames, payload_max, |publisher| publisher.with_backpressure(patience))
    }

    /// A client whose messages are retained, so that the channel keeps the last `keep` of them.
    pub fn retaining_sender(&mut self, channel: &str, frames: u64, payload_max: usize, keep: u32) -> Client {
        self.add_sender(channel, frames, payload_max, |publisher| publisher.with_history(keep))
    }

    /// A client whose messages take turns between rings and its connection: one in so many is retained, or too large for a ring.
    pub fn roaming_sender(&mut self, channel: &str, frames: u64, payload_max: usize, strays: usize) -> Client {
        let rings = Rings::After(self.rng.borrow_mut().u32(..8));
        let client = self.add_sender(channel, frames, payload_max, |publisher| publisher.with_rings(rings));
        if let Role::Sender { load, .. } = &mut self.participants[client.0].role {
            load.strays = strays;
        }
        client
    }

    fn add_sender(
        &mut self,
        channel: &str,
        frames: u64,
        payload_max: usize,
        with: impl FnOnce(Publisher) -> Publisher,
    ) -> Client {
        let batch = self.rng.borrow_mut().bool();
        let number = self.rng.borrow_mut().u32(..);
        let mut publisher = Publisher::new(name(channel), "world", self.next_pid(), number);
        if self.daemon.ring_words.is_some() {
            let rng = &mut *self.rng.borrow_mut();
            publisher =
                publisher.with_rings(if rng.u32(..8) == 0 { Rings::Never } else { Rings::After(rng.u32(..30)) });
        }
        let publisher = with(publisher);
        let load = Load { to_send: frames, payload_max, batch, strays: 0 };
        self.add(Role::Sender { publisher, load, paused: false, in_doubt: 0 })
    }

    /// A client that sends so many requests, one after the other. It gives a request up at random.
    pub fn requester(&mut self, channel: &str, requests: u64) -> Client {
        let number = self.rng.borrow_mut().u32(..);
        let publisher = Publisher::new(name(channel), "world", self.next_pid(), number);
        self.add(Role::Requester { publisher, to_request: requests, current: None })
    }

    /// A client that listens to one channel.
    pub fn listener(&mut self, channel: &str, overflow: Overflow) -> Client {
        self.subscriber(&[(Some(channel), overflow, false)])
    }

    /// A client that listens to a channel, or to those that a pattern covers (with a `*`), and receives up to `replay` retained messages of
    /// each first.
    pub fn replaying_listener(&mut self, channel: &str, overflow: Overflow, replay: u32) -> Client {
        self.add_listener(vec![Subscription { selector: selector(channel), overflow, observer: false, replay }])
    }

    /// A client that observes one channel, or all.
    pub fn observer(&mut self, channel: Option<&str>) -> Client {
        self.subscriber(&[(channel, Overflow::DropOldest, true)])
    }

    /// A client with several subscriptions: to a channel, to those that a pattern covers (with a `*`), or to all channels, with a policy, as an
    /// observer or not.
    pub fn subscriber(&mut self, subscriptions: &[(Option<&str>, Overflow, bool)]) -> Client {
        let subscription = |&(selector, overflow, observer): &(Option<&str>, Overflow, bool)| Subscription {
            selector: selector.map_or(Selector::All, self::selector),
            overflow,
            observer,
            replay: 0,
        };
        self.add_listener(subscriptions.iter().map(subscription).collect())
    }

    fn add_listener(&mut self, subscriptions: Vec<Subscription>) -> Client {
        let subscriber = Subscriber::new(subscriptions, "world", self.next_pid());
        self.add(Role::Listener {
            subscriber,
            change: None,
            has_changed: false,
            stalled: false,
            gaps: 0,
            gaps_due: 0,
            was_ready: false,
            replies: VecDeque::new(),
        })
    }

    /// The listener requests to join a channel, or those that a pattern covers (with a `*`).
    pub fn join(&mut self, client: Client, channel: &str, overflow: Overflow) {
        if let Role::Listener { subscriber, change, has_changed, .. } = &mut self.participants[client.0].role {
            let subscription = Subscription { selector: selector(channel), overflow, observer: false, replay: 0 };
            (*change, *has_changed) = (Some(subscriber.subscribe(subscription)), true);
            self.note(format!("{client:?} joins {channel}"));
        }
    }

    /// The listener requests to leave them, if it has joined with this selector.
    pub fn leave(&mut self, client: Client, channel: &str) {
        if let Role::Listener { subscriber, change, has_changed, .. } = &mut self.participants[client.0].role {
            (*change, *has_changed) = (subscriber.unsubscribe(&selector(channel)), true);
            self.note(format!("{client:?} leaves {channel}"));
        }
    }

    fn add(&mut self, role: Role) -> Client {
        let pid = self.next_pid();
        let participant = Participant {
            role,
            pid,
            connected: None,
            gone: false,
            ended: BTreeMap::new(),
            heard: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        self.participants.push(participant);
        Client(self.participants.len() - 1)
    }

    fn next_pid(&self) -> u32 {
        u32::try_from(self.participants.len()).map_or(0, |count| 100 + count)
    }

    /// The listener reads nothing until this is called again.
    pub fn stall(&mut self, client: Client, on: bool) {
        if let Role::Listener { stalled, .. } = &mut self.participants[client.0].role {
            *stalled = on;
            self.note(format!("{client:?} {}", if on { "stalls" } else { "reads again" }));
        }
    }

    /// The sender does nothing until this is called again.
    pub fn pause(&mut self, client: Client, on: bool) {
        if let Role::Sender { paused, .. } = &mut self.participants[client.0].role {
            *paused = on;
            self.note(format!("{client:?} {}", if on { "pauses" } else { "goes on" }));
        }
    }

    /// The client is killed: what it had not read is lost with it; what it had sent, the daemon still gets.
    pub fn kill(&mut self, client: Client) {
        self.note(format!("{client:?} is killed"));
        self.participants[client.0].gone = true;
        self.disconnect(client);
    }

    /// The client is killed in its next move, after a few more words that it stores in shared memory: mostly within a write.
    pub fn kill_within_a_write(&mut self, client: Client) {
        if let Some(connected) = &self.participants[client.0].connected {
            let stores = self.rng.borrow_mut().i64(0..40);
            connected.shared.borrow_mut().life.ends_after(stores);
            self.client_moves(client);
            self.accept_from_rings();
        }
        self.kill(client);
    }

    /// The connection breaks; the client finds its way back.
    pub fn cut(&mut self, client: Client) {
        self.note(format!("{client:?} is cut off"));
        if let Some(connected) = &self.participants[client.0].connected {
            connected.pipe.borrow_mut().cut = true;
        }
    }

    /// `kill -9` of the daemon: everything in flight is gone. The next one serves at once.
    pub fn kill_daemon(&mut self) {
        self.note("the daemon is killed".to_owned());
        self.daemon.replace();
    }

    /// The daemon is requested to stop in an orderly way.
    pub fn stop_daemon(&mut self) {
        self.note("the daemon is requested to stop".to_owned());
        self.daemon.stop();
    }

    /// Whether a sender without credit waits for a listener.
    pub fn waits_for_a_listener(&self) -> bool {
        let snapshot = self.broker().snapshot(self.daemon.now);
        snapshot.connections.iter().any(|connection| connection.waits_for.is_some())
    }

    /// Lets so much time pass. What is due then happens at once.
    pub fn pass(&mut self, time: Duration) {
        self.note(format!("{time:?} pass"));
        self.daemon.pass(time);
    }

    /// Plays random moves until no participant has anything to do, and checks that everything adds up.
    pub fn run_until_quiet(&mut self) {
        let mut moves = 0_u64;
        while self.step() {
            moves += 1;
            assert!(moves < 20_000_000, "the world does not come to rest");
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

    /// One random move of a participant that has something to do; `false` if none has.
    pub fn step(&mut self) -> bool {
        let moved = self.play();
        self.accept_from_rings();
        self.daemon.invariants();
        moved
    }

    /// The model accepts what was published in rings.
    fn accept_from_rings(&mut self) {
        if let Err(problem) = self.daemon.accept_from_rings() {
            panic!("{problem}");
        }
    }

    fn play(&mut self) -> bool {
        let conns = self.daemon.connections();
        let actors = self.participants.len() + conns.len() * 2 + 1 + usize::from(self.daemon.ring_words.is_some());
        let first = self.rng.borrow_mut().usize(0..actors);
        for turn in 0..actors {
            let at = (first + turn) % actors;
            let moved = match at.checked_sub(self.participants.len()) {
                None => self.client_moves(Client(at)),
                Some(0) => {
                    let drained = self.daemon.drain();
                    self.daemon_moved(drained)
                }
                Some(at) if at == conns.len() * 2 + 1 => {
                    let relayed = self.daemon.relay();
                    self.daemon_moved(Ok(relayed))
                }
                Some(at) if at % 2 == 1 => {
                    let read = self.daemon.read(conns[(at - 1) / 2]);
                    self.daemon_moved(read)
                }
                Some(at) => {
                    let written = self.daemon.write(conns[(at - 1) / 2]);
                    self.daemon_moved(Ok(written))
                }
            };
            if moved {
                return true;
            }
        }
        if self.daemon.over {
            self.note("the daemon has ended, and another one begins".to_owned());
            self.daemon.replace();
            return true;
        }
        let slept = self.daemon.sleep();
        self.daemon_moved(Ok(slept))
    }

    fn daemon_moved(&mut self, moved: Result<Option<String>, String>) -> bool {
        match moved {
            Ok(None) => false,
            Ok(Some(line)) => {
                self.note(line);
                true
            }
            Err(problem) => panic!("{problem}"),
        }
    }

    /// What the listener has received.
    pub fn tally(&self, client: Client) -> Tally {
        let participant = &self.participants[client.0];
        let Role::Listener { gaps, .. } = &participant.role else { return Tally::default() };
        let ended = participant.ended.values().map(|ended| &ended.connected);
        let totals = ended.chain(&participant.connected).map(|connected| connected.joined.borrow().totals());
        let (received, lost) = totals.fold((0, 0), |sum, (received, lost)| (sum.0 + received, sum.1 + lost));
        Tally { received, lost, gaps: *gaps }
    }

    /// How many different messages have arrived at the listener.
    pub fn arrived(&self, client: Client) -> usize {
        self.participants[client.0].heard.values().map(|heard| heard.marks.len()).sum()
    }

    /// What has happened so far.
    pub fn faults(&self) -> Faults {
        self.daemon.faults()
    }

    /// Whether the daemon has written a part of a frame to the client, and cannot go on before the client reads.
    pub fn is_half_written(&self, client: Client) -> bool {
        let connected = self.participants[client.0].connected.as_ref();
        connected.is_some_and(|connected| connected.pipe.borrow().front.is_incomplete())
    }

    /// How many messages the present daemon has accepted on the channel.
    pub fn accepted(&self, channel: &str) -> u64 {
        self.daemon.accepted(self.daemon.number(), &name(channel)).map_or(0, |channel| channel.len() as u64)
    }

    /// How many messages were published on the channel behind the end of a ring of the present daemon, whose sender did not know of it.
    /// A listener may receive or lose them, in addition to those that were accepted.
    pub fn strays(&self, channel: &str) -> u64 {
        self.daemon.accepted(self.daemon.number(), &name(channel)).map_or(0, |channel| channel.strays() as u64)
    }

    /// How many messages the present daemon should retain, on all channels.
    pub fn retained_messages(&self) -> u64 {
        self.daemon.channels(self.daemon.number()).map(|(_, channel)| channel.newest(usize::MAX).len() as u64).sum()
    }

    /// The present broker.
    pub fn broker(&self) -> &Broker {
        self.daemon.broker()
    }

    // ---- clients ----

    fn client_moves(&mut self, client: Client) -> bool {
        let participant = &mut self.participants[client.0];
        if participant.gone || participant.sleeps() {
            return false;
        }
        if let Some(connected) = &participant.connected {
            connected.shared.borrow_mut().wake();
        }
        if let (Role::Sender { publisher, .. }, Some(connected)) = (&participant.role, &participant.connected) {
            connected.shared.borrow_mut().sender = publisher.id().raw();
        }
        let mut rng = Rng::with_seed(self.rng.borrow_mut().u64(..));
        let before = participant.connected.clone();
        let channel = match &participant.role {
            Role::Sender { publisher, .. } | Role::Requester { publisher, .. } => Some(publisher.channel().clone()),
            Role::Listener { .. } => None,
        };
        let mut link = WorldLink {
            client,
            pid: participant.pid,
            channel: channel.as_ref(),
            connected: &mut participant.connected,
            daemon: &mut self.daemon,
            rng: &mut rng,
            reads: 0,
            moved: false,
            lost: false,
            goodbye: false,
        };
        let event = match &mut participant.role {
            Role::Sender { paused: true, .. } => return false,
            Role::Sender { publisher, load: Load { to_send: 0, .. }, in_doubt, .. } => {
                let waiting = publisher.waiting_bytes();
                match confirm::<_, SendError>(publisher, &mut link, publisher.commits()).expect("messages are small") {
                    Step::Wait(()) if !link.moved && publisher.waiting_bytes() == waiting => return false,
                    Step::Wait(()) => {}
                    Step::Done(Confirmation::InDoubt(count)) => *in_doubt += count,
                    Step::Done(Confirmation::Accepted) => {
                        let (committed, in_doubt) = (publisher.committed(), *in_doubt);
                        let accepted = self.daemon.accepted_from(client);
                        let due = committed - in_doubt..=committed;
                        assert!(due.contains(&accepted), "{client:?}: {accepted} accepted, {due:?} confirmed");
                        self.kill(client);
                    }
                }
                return true;
            }
            Role::Sender { publisher, load, .. } => {
                if send(publisher, load, &mut link) {
                    return true;
                } else {
                    None
                }
            }
            Role::Requester { publisher, to_request, current } => {
                let faults = Rc::clone(&link.daemon.faults);
                let late = publisher.late_replies();
                let mut asked = Faults::default();
                let moved = ask(publisher, to_request, current, &mut link, &mut asked);
                asked.late_replies += publisher.late_replies() - late;
                *faults.borrow_mut() += asked;
                return moved;
            }
            Role::Listener { stalled: true, .. } => return false,
            Role::Listener { subscriber, change, gaps_due, was_ready, replies, .. } => {
                let joined = subscriber.selectors().count() as u64;
                if let Some(reply) = replies.front_mut().filter(|_| link.rng.bool()) {
                    match reply.poll(subscriber, &mut link) {
                        Ok(Step::Wait(())) if !reply.has_begun() => {}
                        Ok(Step::Wait(())) => reply.leave(subscriber), // receives write the rest
                        Ok(Step::Done(())) | Err(RequesterGone) => link.moved = true,
                    }
                    if link.moved {
                        replies.pop_front();
                    }
                }
                if let Some(requested) = change.filter(|_| link.rng.bool()) {
                    match settle(subscriber, &mut link, requested).unwrap_or_else(|never: Never| match never {}) {
                        Step::Done(Outcome::Done) => (*change, link.moved) = (None, true),
                        Step::Done(outcome) => panic!("{client:?}: {outcome:?}"),
                        Step::Wait(()) => {}
                    }
                }
                let event = match link.moved {
                    true => Step::Wait(()),
                    false => receive(subscriber, &mut link, false).unwrap_or_else(|never: Never| match never {}),
                };
                if link.lost && std::mem::take(was_ready) {
                    *gaps_due += joined;
                }
                *was_ready |= subscriber.is_ready();
                match event {
                    Step::Done(event) => Some(event),
                    Step::Wait(()) => None,
                }
            }
        };
        let (moved, lost, goodbye) = (link.moved, link.lost, link.goodbye);
        if let Some(connected) = link.connected {
            connected.shared.borrow_mut().sleeps = event.is_none() && !moved;
        }
        if before.is_none()
            && let Some(connected) = &self.participants[client.0].connected
        {
            let connected = connected.clone();
            let participant = &mut self.participants[client.0];
            let joined = &mut *connected.joined.borrow_mut();
            joined.set_seen(std::mem::take(&mut participant.seen));
            participant.heard.iter().for_each(|(name, heard)| *joined.heard(name) = heard.clone());
        }
        if let Some(connected) = before.filter(|_| lost) {
            let has_rings = self.daemon.ring_words.is_some();
            self.ended(client, &connected, goodbye && has_rings);
            self.check_kept(client);
            if goodbye && !has_rings {
                self.check_complete(client, &connected);
            }
            self.participants[client.0].seen = connected.joined.borrow_mut().take_seen();
            self.note(format!("{client:?} has lost its connection"));
        }
        match event {
            Some(event) => {
                let connected = self.participants[client.0].connected.clone();
                if let Err(problem) = self.check(client, event, connected.as_ref()) {
                    panic!("{client:?}: {problem}");
                }
                true
            }
            None => moved,
        }
    }

    /// The connection of the client has ended.
    fn ended(&mut self, client: Client, connected: &Connected, is_complete: bool) {
        let participant = &mut self.participants[client.0];
        if let Role::Listener { subscriber, .. } = &participant.role {
            let ended = Ended { connected: connected.clone(), is_complete };
            participant.ended.insert(subscriber.connection(), ended);
        }
    }

    /// Checks what a listener that waited for an answer had received before its connection ended.
    fn check_kept(&mut self, client: Client) {
        loop {
            let Role::Listener { subscriber, .. } = &mut self.participants[client.0].role else { return };
            let event = match subscriber.poll_next() {
                Ok(Received::Frame) => Event::Frame,
                Ok(Received::Lagged(count)) => Event::Lagged(count),
                Ok(Received::Nothing) => return,
                Err(ended) => panic!("{client:?}: {ended:?} without a connection"),
            };
            if let Err(problem) = self.check(client, event, None) {
                panic!("{client:?}: {problem}");
            }
        }
    }

    /// Checks what a listener has received.
    fn check(&mut self, client: Client, event: Event, connected: Option<&Connected>) -> Result<(), String> {
        let participant = &mut self.participants[client.0];
        let Role::Listener { subscriber, gaps, gaps_due, replies, .. } = &mut participant.role else { return Ok(()) };
        let channel = subscriber.channel().cloned();
        let count = match event {
            Event::Lagged(None) => {
                *gaps += 1;
                return if *gaps <= *gaps_due { Ok(()) } else { Err("a gap was reported twice".to_owned()) };
            }
            Event::Lagged(Some(count)) => Some(count),
            Event::Frame => None,
        };
        let ended = participant.ended.get(&subscriber.origin()).map(|ended| &ended.connected);
        let Some(connected) = ended.or(connected) else { return Err(format!("{event:?} without a connection")) };
        let name = channel.ok_or("no channel is named")?;
        let joined = &mut *connected.joined.borrow_mut();
        let empty = Channel::default();
        let accepted = self.daemon.accepted(connected.daemon, &name).unwrap_or(&empty);
        if let Some(count) = count {
            let cursor = joined
                .cursor(&name, accepted)
                .ok_or_else(|| format!("{event:?} of {name}, which it has not joined"))?;
            cursor.lagged(count);
            if ended.is_some() {
                participant.heard.entry(name.clone()).or_default().lost += count;
                if let Some(present) = &participant.connected {
                    present.joined.borrow_mut().heard(&name).lost += count;
                }
            }
            return Ok(());
        }
        let frame = subscriber.frame().ok_or("no frame was found")?;
        let (sender, sequence) = (frame.sender.raw(), frame.sequence);
        if frame.payload != payload_of(sequence, frame.payload.len()) {
            return Err(format!("message {sequence} of {sender:x} has another payload: {:?}", frame.payload));
        }
        if let Some(address) = frame.metadata.reply_address() {
            // The requester checks that it is the one to which this goes.
            let payload = [sender.to_le_bytes(), address.number.to_le_bytes()].concat();
            let reply = Replying::new(subscriber, (subscriber.origin(), address), &[], payload.leak());
            replies.push_back(reply.map_err(|error| format!("{error:?}"))?);
        }
        let (retained, replayed) = (subscriber.is_retained(), subscriber.is_replayed());
        self.daemon.faults.borrow_mut().replayed += u64::from(replayed);
        let mark = Mark { sender, sequence };
        joined.received(&name, accepted, mark, retained, replayed).map_err(|problem| format!("{name}: {problem}"))?;
        if !replayed {
            participant.heard.entry(name.clone()).or_default().marks.insert(mark);
        }
        // Over the present connection, it must not arrive again.
        if let Some(present) = participant.connected.as_ref().filter(|_| ended.is_some()) {
            present.joined.borrow_mut().heard(&name).marks.insert(mark);
        }
        Ok(())
    }

    /// Everything that the daemon accepted has reached the client, or a report of its loss.
    fn check_complete(&self, client: Client, connected: &Connected) {
        let joined = &mut *connected.joined.borrow_mut();
        for (name, channel) in self.daemon.channels(connected.daemon) {
            if let Err(problem) = joined.check_complete(name, channel) {
                panic!("{client:?} on {name}: {problem}");
            }
        }
    }

    /// Ends the connection of the client.
    fn disconnect(&mut self, client: Client) {
        if let Some(connected) = self.participants[client.0].connected.take() {
            connected.pipe.borrow_mut().client_left = true;
            self.ended(client, &connected, false);
        }
    }

    fn check_rest(&mut self) {
        let mut problems = BTreeSet::new();
        for (at, participant) in self.participants.iter().enumerate().filter(|(_, participant)| !participant.gone) {
            match (&participant.role, &participant.connected) {
                (Role::Sender { paused: true, .. }, _) => {}
                (Role::Sender { load: Load { to_send, .. }, .. }, _) => {
                    problems.insert(format!("sender {at} is not done: {to_send} messages left, or not confirmed"));
                }
                (Role::Requester { to_request, current, .. }, _) => {
                    if *to_request > 0 || current.is_some() {
                        problems.insert(format!("requester {at} is not done: {to_request} requests left, {current:?}"));
                    }
                }
                (Role::Listener { stalled: true, .. }, _) => {}
                (Role::Listener { gaps, gaps_due, has_changed, .. }, Some(connected)) => {
                    let ended = participant.ended.values().filter(|ended| ended.is_complete);
                    let complete = ended.map(|ended| &ended.connected).chain([connected]);
                    complete.for_each(|connected| self.check_complete(Client(at), connected));
                    // What a listener has left in between, or has not joined yet, leaves no gap.
                    if gaps != gaps_due && !has_changed {
                        problems.insert(format!("{gaps} of {gaps_due} gaps were reported to listener {at}"));
                    }
                }
                (Role::Listener { .. }, None) => {
                    problems.insert(format!("listener {at} is not connected"));
                }
            }
        }
        assert!(problems.is_empty(), "{}", problems.into_iter().collect::<Vec<_>>().join("; "));
    }

    fn note(&mut self, line: String) {
        if std::env::var("TR").is_ok() {
            eprintln!("T {line}");
        }
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }
}

impl Drop for World {
    /// A failure in the middle of production code has a story, too.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut story = String::from("last moves:\n");
            for line in &self.trace {
                let _ = writeln!(story, "  {line}");
            }
            let seed = self.seed;
            eprintln!(
                "{story}seed {seed}; replay: WORLD_SEED={seed} cargo test -p broadcaster-tests --test worlds -- --nocapture"
            );
        }
    }
}

/// Lets a requester go on with its request, or begin the next one; whether it could.
fn ask(
    publisher: &mut Publisher,
    to_request: &mut u64,
    current: &mut Option<Asking>,
    link: &mut WorldLink<'_>,
    faults: &mut Faults,
) -> bool {
    if current.is_none() && *to_request > 0 {
        let number = link.rng.u64(..);
        publisher.begin_request(number);
        let payload = payload_of(publisher.committed(), link.rng.usize(..100)).leak();
        let requesting = Some(Requesting::new(OWN, number, &[], payload));
        *current = Some(Asking { number, requesting, expected: 0, repliers: BTreeSet::new() });
        *to_request -= 1;
    }
    let Some(asking) = current else { return false };
    let number = asking.number;
    let lost = publisher.lost_replies(number);
    let is_over = if let Some(requesting) = &mut asking.requesting {
        match requesting.poll::<_, SendError>(publisher, link).expect("messages are small") {
            Step::Wait(()) => {
                requesting.pass_on(publisher);
                false
            }
            Step::Done(Requested::Taken(listeners)) => {
                (asking.expected, asking.requesting) = (u64::from(listeners), None);
                listeners == 0
            }
            Step::Done(Requested::Lost) => {
                faults.requests_lost += 1;
                true
            }
            Step::Done(other) => panic!("{other:?}"),
        }
    } else {
        match next_reply::<_, SendError>(publisher, link, number, lost).expect("the daemon refuses nothing") {
            Step::Wait(()) => false,
            Step::Done(Replied::Lagged) => false,
            Step::Done(Replied::Lost) => {
                faults.requests_lost += 1;
                true
            }
            Step::Done(Replied::Reply(run)) => {
                let reply = run.front().expect("a reply is one message");
                let wanted = [publisher.id().raw().to_le_bytes(), number.to_le_bytes()].concat();
                assert_eq!(reply.payload, wanted, "a reply to another request, or of another requester");
                assert!(asking.repliers.insert(reply.sender.raw()), "two replies of {:?}", reply.sender);
                faults.replies += 1;
                let replies = asking.repliers.len() as u64;
                assert!(replies <= asking.expected, "{replies} replies of {} listeners", asking.expected);
                let is_answered = replies == asking.expected;
                faults.requests_answered += u64::from(is_answered);
                is_answered
            }
        }
    };
    // Listeners may have lost the request, or left. What arrives later is late.
    if is_over || (!link.moved && link.rng.usize(..200) == 0) {
        if let Some(requesting) = &mut asking.requesting {
            requesting.leave(publisher);
        }
        publisher.forget_request(number);
        *current = None;
    }
    true
}

/// Why a message is not put into a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stray {
    Retained,
    TooLarge,
}

/// Lets a sender that has messages left feed one, send one directly, or write what waits; whether it could.
fn send(publisher: &mut Publisher, load: &mut Load, link: &mut WorldLink<'_>) -> bool {
    let feeds = load.batch && load.to_send > 0 && publisher.waiting_bytes() < 2000 && link.rng.bool();
    // A record has two words more, and at most a quarter of the ring.
    let ring_payload_max = link.daemon.ring_words.map_or(usize::MAX, |words| (words / 4 - 2) * size_of::<u64>());
    let is_stray = load.strays > 0 && link.rng.usize(..load.strays) == 0;
    let stray = is_stray.then(|| if link.rng.bool() { Stray::Retained } else { Stray::TooLarge });
    let payload = |publisher: &Publisher, rng: &mut Rng| {
        // The largest size often enough to matter.
        let len = match stray {
            Some(Stray::TooLarge) => ring_payload_max + 1,
            _ if rng.usize(..4) == 0 => load.payload_max,
            Some(Stray::Retained) => rng.usize(1..=load.payload_max), // an empty one clears what is retained
            None => rng.usize(0..=load.payload_max),
        };
        payload_of(publisher.committed(), len)
    };
    if feeds && publisher.is_ready() && stray != Some(Stray::Retained) {
        let payload = payload(publisher, link.rng);
        publisher.feed(&payload).expect("the payload is small");
        load.to_send -= 1;
        return true;
    }
    // What waits for the next daemon may be in a ring as well, and then more may follow.
    let goes_on = !publisher.is_ready() && link.rng.bool();
    let is_direct = !load.batch && (publisher.waiting_bytes() == 0 || goes_on);
    if !(is_direct || (load.to_send > 0 && stray == Some(Stray::Retained))) {
        if publisher.waiting_bytes() == 0 {
            // Nothing to write yet: at least the connection must be made before the next message is fed.
            let connected = system_broadcaster::machine::Link::connect(link, publisher);
            return matches!(connected, Ok(Step::Done(_))) || link.moved;
        }
        let waiting = publisher.waiting_bytes();
        flush::<_, SendError>(publisher, link).expect("messages are small");
        return link.moved || publisher.waiting_bytes() < waiting; // what goes into a ring moves nothing else
    }
    let payload = payload(publisher, link.rng);
    let (before, waiting, had_ring) = (publisher.committed(), publisher.waiting_bytes(), publisher.rings() > 0);
    let mut sending = match stray {
        Some(Stray::Retained) => Sending::retain(OWN, Lifetime::default(), &[], &payload),
        Some(Stray::TooLarge) | None => Sending::new(OWN, &[], &payload),
    };
    sending.poll::<_, SendError>(publisher, link).expect("messages are small");
    // What was written in part is the publisher's now.
    sending.leave(publisher);
    if had_ring && publisher.rings() == 0 && !link.lost {
        let faults = &mut *link.daemon.faults.borrow_mut();
        match stray {
            Some(Stray::Retained) => faults.rings_left_to_retain += 1,
            _ if payload.len() > ring_payload_max => faults.rings_left_for_size += 1,
            _ if waiting == 0 => faults.rings_recalled += 1,
            _ => {} // perhaps for a message that was fed
        }
    }
    // What is in shared memory has moved nothing else.
    let committed = publisher.committed() - before;
    load.to_send -= committed;
    link.moved || committed > 0 || publisher.waiting_bytes() < waiting
}

fn selector(channel: &str) -> Selector {
    match channel.contains('*') {
        true => Selector::Pattern(ChannelPattern::new(channel).expect("scenarios use valid patterns")),
        false => Selector::Name(name(channel)),
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).expect("scenarios use valid names")
}

/// What a message of this number carries: recognisable, and different for each number.
fn payload_of(sequence: u64, len: usize) -> Vec<u8> {
    let pattern = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    pattern.iter().copied().cycle().take(len).collect()
}
