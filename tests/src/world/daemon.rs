//! The daemon of the world: the production driver over pipes, and the model of what it has accepted.

use super::memory::{Counts, Descriptor, Doorbell, Memory, Shared};
use super::pipe::{DaemonEnd, Pipe};
use super::tap::{Input as Tapped, Tap};
use super::{Client, Faults, payload_of};
use crate::model::{Channel, Cursor, Heard, Mark};
use broadcaster_broker::{Broker, ConnId, Limits, Moment, RingId};
use broadcaster_protocol::control::{Control, Refused, RefusedCode, Selector};
use broadcaster_ring::{Reader, Start};
use broadcaster_server::driver::{Drain, Driver, Input, Output, Request};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use system_broadcaster::{ChannelName, ChannelPattern};

/// The user of every process in the world.
const UID: u32 = 1000;

/// The most connections at a time.
const CONNECTIONS_MAX: usize = 4096;

/// Everything that a daemon has accepted.
type Accepted = BTreeMap<ChannelName, Channel>;

/// The channels that a subscription covers.
#[derive(Debug)]
enum Covered {
    Name(ChannelName),
    Pattern(ChannelPattern),
    All,
}

impl Covered {
    fn new(selector: Selector) -> Result<Self, String> {
        Ok(match selector {
            Selector::Name(name) => Self::Name(ChannelName::new(&name).map_err(|error| error.to_string())?),
            Selector::Pattern(text) => Self::Pattern(ChannelPattern::new(&text).map_err(|error| error.to_string())?),
            Selector::All => Self::All,
            Selector::Other { .. } => return Err("no client makes such a selector".to_owned()),
        })
    }

    fn covers(&self, name: &ChannelName) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Pattern(pattern) => pattern.covers(name),
            Self::All => true,
        }
    }
}

/// What a connection has joined, as far as the daemon has handled its subscriptions.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// By their numbers, with how many messages each has replayed.
    subscriptions: BTreeMap<u32, (Covered, u32)>,
    /// For each channel, its positions since it joined, one for each time. A channel that had accepted nothing then has none at first.
    cursors: BTreeMap<ChannelName, VecDeque<Cursor>>,
    /// Totals of the positions that are over.
    received: u64,
    lost: u64,
    /// The retained messages of each channel that have arrived last, from all daemons, as far as the client remembers them.
    seen: BTreeMap<ChannelName, VecDeque<Mark>>,
    /// The messages that have arrived over earlier connections.
    heard: BTreeMap<ChannelName, Heard>,
    /// Messages of different senders may overtake each other.
    is_loose: bool,
}

impl Joined {
    /// What joins when the channel has accepted so many messages.
    fn cursor_at(&self, len: usize) -> Cursor {
        let cursor = Cursor::joined_at(len);
        if self.is_loose { cursor.loosely() } else { cursor }
    }

    /// Adds a subscription; returns how many channels it receives again.
    fn subscribe(&mut self, number: u32, covered: Covered, replay: u32, accepted: &Accepted) -> u64 {
        let mut again = 0;
        for (name, channel) in accepted.iter().filter(|(name, _)| covered.covers(name)) {
            if !self.covers(name) {
                let mut cursor = self.cursor_at(channel.len());
                let cursors = self.cursors.entry(name.clone()).or_default();
                again += u64::from(!cursors.is_empty());
                cursor.replay(channel.len(), channel.newest(replay as usize));
                cursors.push_back(cursor);
            }
        }
        self.subscriptions.insert(number, (covered, replay));
        again
    }

    /// Removes a subscription; returns how many channels it receives no more.
    fn unsubscribe(&mut self, number: u32, accepted: &Accepted) -> Result<u64, String> {
        let mut left = 0;
        let (covered, _) = self.subscriptions.remove(&number).ok_or_else(|| format!("no subscription {number}"))?;
        for (name, channel) in accepted.iter().filter(|(name, _)| covered.covers(name)) {
            let (is_covered, from_the_start) = (self.covers(name), self.cursor_at(0));
            let cursors = self.cursors.entry(name.clone()).or_default();
            if is_covered {
                continue;
            }
            if !cursors.back().is_some_and(Cursor::is_joined) {
                cursors.push_back(from_the_start); // it had accepted nothing before
            }
            if let Some(cursor) = cursors.back_mut() {
                cursor.leave_at(channel.len());
                left += 1;
            }
        }
        Ok(left)
    }

    fn covers(&self, name: &ChannelName) -> bool {
        self.subscriptions.values().any(|(covered, _)| covered.covers(name))
    }

    /// A message was declared again, and is the first that is retained of the channel, which has accepted so many.
    fn declare(&mut self, name: &ChannelName, len: usize, mark: Mark) {
        if self.subscriptions.values().any(|(covered, replay)| *replay > 0 && covered.covers(name))
            && let Some(cursor) = self.cursors(name).back_mut()
        {
            cursor.replay(len, &[mark]);
        }
    }

    /// The retained messages of all channels that have arrived last.
    pub(super) fn take_seen(&mut self) -> BTreeMap<ChannelName, VecDeque<Mark>> {
        std::mem::take(&mut self.seen)
    }

    pub(super) fn set_seen(&mut self, seen: BTreeMap<ChannelName, VecDeque<Mark>>) {
        self.seen = seen;
    }

    /// What is known of the channel from earlier connections.
    pub(super) fn heard(&mut self, name: &ChannelName) -> &mut Heard {
        self.heard.entry(name.clone()).or_default()
    }

    /// A message has arrived; `replayed` if it was announced as such, and `retained` if its sender has requested that.
    pub(super) fn received(
        &mut self,
        name: &ChannelName,
        channel: &Channel,
        mark: Mark,
        retained: bool,
        replayed: bool,
    ) -> Result<(), String> {
        let seen = self.seen.get(name).cloned().unwrap_or_default();
        let heard = self.heard.get(name).cloned().unwrap_or_default();
        let cursor =
            self.cursor(name, channel).ok_or_else(|| format!("{mark:?} of {name}, which it has not joined"))?;
        let seen_before = |mark: &Mark| seen.contains(mark);
        match replayed {
            true => cursor.received_again(mark, seen_before)?,
            false => cursor.received(channel, mark, seen_before, &heard)?,
        }
        let most = self.subscriptions.values().map(|&(_, replay)| replay).max().unwrap_or(0) as usize;
        if retained && most > 0 {
            let seen = self.seen.entry(name.clone()).or_default();
            seen.push_back(mark);
            seen.drain(..seen.len().saturating_sub(most));
        }
        Ok(())
    }

    /// All positions in the channel.
    fn cursors(&mut self, name: &ChannelName) -> &mut VecDeque<Cursor> {
        let (is_covered, from_the_start) = (self.covers(name), self.cursor_at(0));
        let cursors = self.cursors.entry(name.clone()).or_default();
        if is_covered && !cursors.back().is_some_and(Cursor::is_joined) {
            cursors.push_back(from_the_start);
        }
        cursors
    }

    /// The listener's position in the channel, if it receives it.
    pub(super) fn cursor(&mut self, name: &ChannelName, channel: &Channel) -> Option<&mut Cursor> {
        let seen = self.seen.get(name).cloned().unwrap_or_default();
        let heard = self.heard.get(name).cloned().unwrap_or_default();
        while let cursors = self.cursors(name)
            && cursors.len() > 1
            && cursors.front().is_some_and(|cursor| cursor.is_over(channel, |mark| seen.contains(mark), &heard))
            && let Some(over) = cursors.pop_front()
        {
            self.received += over.received_count();
            self.lost += over.lost_count();
        }
        self.cursors(name).front_mut()
    }

    /// How many messages have arrived, and how many were reported as lost.
    pub(super) fn totals(&self) -> (u64, u64) {
        let cursors = || self.cursors.values().flatten();
        let received: u64 = cursors().map(Cursor::received_count).sum();
        let lost: u64 = cursors().map(Cursor::lost_count).sum();
        (self.received + received, self.lost + lost)
    }

    /// Everything that the channel has accepted while it had joined must have arrived, or a report of its loss.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub(super) fn check_complete(&mut self, name: &ChannelName, channel: &Channel) -> Result<(), String> {
        let seen = self.seen.get(name).cloned().unwrap_or_default();
        let heard = self.heard.get(name).cloned().unwrap_or_default();
        self.cursors(name).iter().try_for_each(|cursor| cursor.rest(channel, |mark| seen.contains(mark), &heard))
    }
}

/// A connection as the world sees it.
#[derive(Debug)]
struct Served {
    client: Client,
    /// The channel of a sender.
    channel: Option<ChannelName>,
    pipe: Rc<RefCell<Pipe>>,
    tap: Rc<RefCell<Tap>>,
    joined: Rc<RefCell<Joined>>,
    /// The client's.
    shared: Rc<RefCell<Shared>>,
    /// There may be more input than the socket shows.
    more: bool,
    /// The driver wants to go on writing.
    full: bool,
    /// Rings that have begun on it.
    rings: Cell<u64>,
}

/// A ring that a daemon has begun to read, for the model.
#[derive(Debug)]
struct BegunRing {
    /// Its connection, while that daemon may accept messages from it.
    conn: Option<ConnId>,
    /// Its connection has ended, which the sender may not know.
    has_ended: bool,
    /// Which daemon it is.
    daemon: usize,
    client: Client,
    channel: ChannelName,
    sender: u64,
    reader: Reader<Memory>,
    /// The number of the next message that is accepted.
    next: u64,
}

impl BegunRing {
    /// The daemon accepts what was published.
    fn accept(&mut self, accepted: &mut Accepted, accepted_from: &mut BTreeMap<Client, u64>) -> Result<(), String> {
        let newest = self.reader.newest().map_err(|corrupt| corrupt.to_string())?;
        while self.next < newest.sequence {
            let mark = Mark { sender: self.sender, sequence: self.next };
            let channel = accepted.entry(self.channel.clone()).or_default();
            self.next += 1;
            if self.has_ended {
                channel.publish_stray(mark);
                continue;
            }
            channel.accept(mark)?;
            *accepted_from.entry(self.client).or_default() += 1;
        }
        Ok(())
    }
}

/// The client's end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) pipe: Rc<RefCell<Pipe>>,
    pub(super) joined: Rc<RefCell<Joined>>,
    pub(super) shared: Rc<RefCell<Shared>>,
    /// Which daemon it leads to.
    pub(super) daemon: usize,
}

#[derive(Debug)]
pub(super) struct Daemon {
    driver: Driver<DaemonEnd>,
    pub(super) now: Moment,
    limits: Limits,
    rng: Rc<RefCell<Rng>>,
    pub(super) capacity: usize,
    pub(super) shortage: usize,
    /// One in so many clients is turned away for lack of a descriptor; 0: none.
    pub(super) descriptor_shortage: usize,
    /// Words of data of the rings that clients make, if they share memory.
    pub(super) ring_words: Option<usize>,
    /// One in so many attempts of a client to map memory fails; 0: none.
    pub(super) memory_shortage: usize,
    pub(super) faults: Rc<RefCell<Faults>>,
    counts: Arc<Counts>,
    /// Rings that the driver reads, and whether it has more to do at once.
    watched: BTreeMap<RingId, bool>,
    /// Rings whose messages are accepted as they are published.
    rings: Vec<BegunRing>,
    served: BTreeMap<ConnId, Served>,
    /// What each daemon has accepted.
    accepted: Vec<Accepted>,
    /// How many messages of each client the daemons have accepted in all.
    accepted_from: BTreeMap<Client, u64>,
    draining: bool,
    /// The socket is gone: no client can connect.
    unlinked: bool,
    pub(super) over: bool,
    /// The driver waits for listeners until then.
    crowded: Option<Moment>,
    /// The driver has had a turn since its bookkeeping was checked.
    unchecked: bool,
}

impl Daemon {
    pub(super) fn new(limits: Limits, now: Moment, rng: Rc<RefCell<Rng>>) -> Self {
        Self {
            driver: Driver::new(Broker::new(limits.clone(), UID, 1, "world", now)),
            now,
            limits,
            rng,
            capacity: 4096,
            shortage: 0,
            descriptor_shortage: 0,
            ring_words: None,
            memory_shortage: 0,
            faults: Rc::default(),
            counts: Arc::default(),
            watched: BTreeMap::new(),
            rings: Vec::new(),
            served: BTreeMap::new(),
            accepted: vec![BTreeMap::new()],
            accepted_from: BTreeMap::new(),
            draining: false,
            unlinked: false,
            over: false,
            crowded: None,
            unchecked: true,
        }
    }

    /// Another daemon takes the place of this one, whose connections end.
    pub(super) fn replace(&mut self) {
        for served in self.served.values() {
            let pipe = &mut *served.pipe.borrow_mut();
            pipe.daemon_left = true;
            pipe.to_daemon.clear();
        }
        self.served.clear();
        self.watched.clear();
        // Their listeners read what is published until they find out.
        self.rings.iter_mut().for_each(|ring| (ring.conn, ring.has_ended) = (None, true));
        self.accepted.push(BTreeMap::new());
        let pid = u32::try_from(self.accepted.len()).unwrap_or(u32::MAX);
        self.driver = Driver::new(Broker::new(self.limits.clone(), UID, pid, "world", self.now));
        (self.draining, self.unlinked, self.over, self.crowded) = (false, false, false, None);
        self.unchecked = true;
    }

    pub(super) fn broker(&self) -> &Broker {
        self.driver.broker()
    }

    /// Checks all bookkeeping, if the driver has had a turn since the last time.
    pub(super) fn invariants(&mut self) {
        if !std::mem::take(&mut self.unchecked) {
            return;
        }
        self.driver.invariants();
        for (conn, served) in &self.served {
            let is_handled = served.more || served.tap.borrow().unhandled.is_empty();
            assert!(is_handled || self.driver.broker().is_leaving(*conn), "input of {conn:?} was not handled");
        }
    }

    /// What daemon number `daemon` has accepted on the channel.
    pub(super) fn accepted(&self, daemon: usize, name: &ChannelName) -> Option<&Channel> {
        self.accepted[daemon].get(name)
    }

    /// All channels of daemon number `daemon` on which a message was accepted.
    pub(super) fn channels(&self, daemon: usize) -> impl Iterator<Item = (&ChannelName, &Channel)> {
        self.accepted[daemon].iter()
    }

    pub(super) fn connections(&self) -> Vec<ConnId> {
        self.served.keys().copied().collect()
    }

    /// How many messages of the client the daemons have accepted in all.
    pub(super) fn accepted_from(&self, client: Client) -> u64 {
        self.accepted_from.get(&client).copied().unwrap_or(0)
    }

    /// Which daemon serves.
    pub(super) fn number(&self) -> usize {
        self.accepted.len() - 1
    }

    // ---- turns ----

    /// A client connects, if it finds the socket.
    pub(super) fn connect(&mut self, client: Client, pid: u32, channel: Option<ChannelName>) -> Option<Connected> {
        if self.unlinked || self.over || self.served.len() >= CONNECTIONS_MAX {
            return None;
        }
        if self.descriptor_shortage > 0 && self.rng.borrow_mut().usize(..self.descriptor_shortage) == 0 {
            self.faults.borrow_mut().clients_turned_away += 1;
            let pipe = Rc::new(RefCell::new(Pipe::refused(self.refusal())));
            return Some(Connected { pipe, joined: Rc::default(), shared: Rc::default(), daemon: self.number() });
        }
        let pipe = Rc::new(RefCell::new(Pipe::new(self.capacity)));
        let tap = Rc::new(RefCell::new(Tap::new()));
        let is_loose = self.ring_words.is_some();
        let joined = Rc::new(RefCell::new(Joined { is_loose, ..Joined::default() }));
        let (rng, shortage, faults) = (Rc::clone(&self.rng), self.shortage, Rc::clone(&self.faults));
        let end = DaemonEnd { pipe: Rc::clone(&pipe), tap: Rc::clone(&tap), rng, shortage, faults };
        let conn = self.driver.accept(self.now, end, pid, UID);
        let shared = Rc::new(RefCell::new(Shared::counted_in(Arc::clone(&self.counts))));
        let daemon = self.number();
        let connected =
            Connected { pipe: Rc::clone(&pipe), joined: Rc::clone(&joined), shared: Rc::clone(&shared), daemon };
        let served =
            Served { client, channel, pipe, tap, joined, shared, more: false, full: false, rings: Cell::new(0) };
        self.served.insert(conn, served);
        self.carry_out();
        Some(connected)
    }

    /// What a client receives for which there is no descriptor: mostly a reason, and nothing if the spare descriptor is in use too.
    fn refusal(&self) -> Vec<u8> {
        let mut refusal = Vec::new();
        if self.rng.borrow_mut().usize(..4) > 0 {
            let refused = Refused::new(RefusedCode::Connections, "no descriptor is left");
            Control::Refused(refused).encode(&mut refusal).expect("the reason is short");
        }
        refusal
    }

    /// Reads from the connection if there is something to read.
    pub(super) fn read(&mut self, conn: ConnId) -> Result<Option<String>, String> {
        let Some(served) = self.served.get(&conn).filter(|_| !self.draining) else { return Ok(None) };
        if !served.more && !served.pipe.borrow().is_readable() {
            return Ok(None);
        }
        let client = served.client;
        let accepted_by_socket = |daemon: &Self| {
            let stats = daemon.broker().stats();
            stats.messages_accepted - stats.ring_messages_accepted
        };
        let before = accepted_by_socket(self);
        let input = self.driver.read(self.now, conn);
        let accepted = accepted_by_socket(self) - before;
        if let Some(served) = self.served.get_mut(&conn) {
            served.more = input == Input::More;
        }
        self.handled(conn, accepted)?;
        self.carry_out();
        match input {
            Input::Ended if self.served.get(&conn).is_some_and(|served| !served.pipe.borrow().daemon_left) => Ok(None),
            Input::Ended | Input::More | Input::Empty => {
                Ok(Some(format!("the daemon reads from {client:?} and accepts {accepted}: {input:?}")))
            }
        }
    }

    /// Goes on writing to the connection if it takes bytes.
    pub(super) fn write(&mut self, conn: ConnId) -> Option<String> {
        let served = self.served.get_mut(&conn).filter(|served| served.full && served.pipe.borrow().is_writable())?;
        let client = served.client;
        let output = self.driver.write(self.now, conn);
        if let Some(served) = self.served.get_mut(&conn) {
            served.full = output != Output::Done;
        }
        self.crowded = None;
        self.carry_out();
        Some(format!("the daemon writes to {client:?}: {output:?}"))
    }

    /// Reads from a ring whose doorbell was rung, or that has more.
    pub(super) fn relay(&mut self) -> Option<String> {
        let is_due = |(ring, more): (&RingId, &bool)| {
            let doorbell = self.driver.doorbell(*ring).and_then(|descriptor| descriptor.doorbell().ok());
            *more || doorbell.is_some_and(Doorbell::is_rung)
        };
        let due: Vec<_> = self.watched.iter().filter(|&ring| is_due(ring)).map(|(&ring, _)| ring).collect();
        let ring = *due.get(self.rng.borrow_mut().usize(..due.len().max(1)))?;
        if let Some(Ok(doorbell)) = self.driver.doorbell(ring).map(Descriptor::doorbell) {
            doorbell.consume();
        }
        let before = self.broker().stats().ring_messages_accepted;
        let input = self.driver.relay(self.now, ring);
        let has_found = self.broker().stats().ring_messages_accepted > before;
        self.faults.borrow_mut().relayed += u64::from(has_found);
        if let Some(more) = self.watched.get_mut(&ring) {
            *more = input == Input::More;
        }
        self.carry_out();
        Some(format!("the daemon reads from {ring:?}: {input:?}"))
    }

    /// Accepts what was published in rings.
    pub(super) fn accept_from_rings(&mut self) -> Result<(), String> {
        let (accepted, accepted_from) = (&mut self.accepted, &mut self.accepted_from);
        self.rings.iter_mut().try_for_each(|ring| ring.accept(&mut accepted[ring.daemon], accepted_from))
    }

    /// What has happened so far.
    pub(super) fn faults(&self) -> Faults {
        let Counts { followed, lapped } = &*self.counts;
        let (followed, lapped) = (followed.load(Ordering::Relaxed), lapped.load(Ordering::Relaxed));
        Faults { followed, lapped, ..*self.faults.borrow() }
    }

    /// Goes on with an orderly stop.
    pub(super) fn drain(&mut self) -> Result<Option<String>, String> {
        if !self.draining || self.crowded.is_some_and(|until| self.now < until) {
            return Ok(None);
        }
        let queued = |daemon: &Self| -> BTreeMap<ConnId, usize> {
            let senders = daemon.served.iter().filter(|(_, served)| served.channel.is_some());
            senders.map(|(&conn, served)| (conn, served.tap.borrow().unhandled.len())).collect()
        };
        let published = |daemon: &Self| {
            let stats = daemon.broker().stats();
            stats.messages_accepted - stats.ring_messages_accepted - stats.replies_accepted
        };
        let (before, published_before) = (queued(self), published(self));
        let drained = self.driver.drain(self.now);
        let accepted = published(self) - published_before;
        // It has read from one connection, or gone on with what it had read from one before.
        let after = queued(self);
        let read = after.iter().find(|&(conn, queued)| before.get(conn) != Some(queued));
        let resumed = after.iter().find(|&(_, &queued)| queued as u64 >= accepted);
        for &conn in after.keys() {
            let is_it = read.or(resumed).is_some_and(|(&it, _)| it == conn);
            self.handled(conn, if is_it { accepted } else { 0 })?;
        }
        for conn in self.connections() {
            if self.served[&conn].channel.is_none() {
                self.handled(conn, 0)?;
            }
        }
        match drained {
            Drain::More => self.served.values_mut().for_each(|served| served.more = true),
            Drain::Crowded(until) => self.crowded = Some(until),
            Drain::Done => {
                self.draining = false;
                self.rings.retain(|ring| ring.conn.is_none());
                self.watched.clear();
                self.served.values_mut().for_each(|served| {
                    served.more = false;
                    served.tap.borrow_mut().unhandled.clear();
                });
            }
        }
        self.carry_out();
        Ok(Some(format!("the daemon drains: {drained:?}")))
    }

    pub(super) fn stop(&mut self) {
        self.driver.stop(self.now);
        self.carry_out();
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.driver.tick(self.now);
        self.carry_out();
    }

    /// Lets the time pass until something is due; `None` if nothing is.
    pub(super) fn sleep(&mut self) -> Option<String> {
        let deadline = [self.driver.next_deadline(), self.crowded].into_iter().flatten().min()?;
        self.now = deadline.max(self.now);
        self.driver.tick(self.now);
        self.carry_out();
        Some(format!("the time is {:?}", self.now.0))
    }

    /// The daemon has handled so many messages of what it has read from the connection, and the subscriptions before them.
    fn handled(&mut self, conn: ConnId, mut messages: u64) -> Result<(), String> {
        let number = self.number();
        let Some(served) = self.served.get(&conn) else { return Ok(()) };
        if served.channel.is_none() {
            messages = 0; // replies of a listener, which their requesters check
        }
        let (earlier, accepted) = self.accepted.split_at_mut(number);
        let (tap, accepted) = (&mut *served.tap.borrow_mut(), &mut accepted[0]);
        while let Some(input) = tap.unhandled.pop_front() {
            match (input, &served.channel) {
                (Tapped::Message(mark, payload, keep), Some(name)) if messages > 0 => {
                    messages -= 1;
                    let is_largest = payload.len() == self.limits.payload_bytes_max as usize;
                    self.faults.borrow_mut().largest_messages += u64::from(is_largest);
                    if payload != payload_of(mark.sequence, payload.len()) {
                        return Err(format!("{mark:?} reaches the daemon with another payload: {payload:?}"));
                    }
                    let has_survived =
                        earlier.iter().filter_map(|accepted| accepted.get(name)).any(|channel| channel.is_stray(mark));
                    self.faults.borrow_mut().survived += u64::from(has_survived);
                    let channel = accepted.entry(name.clone()).or_default();
                    channel.accept(mark)?;
                    if let Some(keep) = keep {
                        channel.retain(mark, keep as usize);
                    }
                    *self.accepted_from.entry(served.client).or_default() += 1;
                }
                (Tapped::Declared(mark, payload), Some(name)) => {
                    if payload != payload_of(mark.sequence, payload.len()) {
                        return Err(format!("{mark:?} is declared again with another payload: {payload:?}"));
                    }
                    let channel = accepted.entry(name.clone()).or_default();
                    self.faults.borrow_mut().declared_again += 1;
                    if channel.declare(mark) {
                        self.faults.borrow_mut().restored += 1;
                        for served in self.served.values() {
                            served.joined.borrow_mut().declare(name, channel.len(), mark);
                        }
                    }
                }
                (Tapped::BeginRing(first), Some(name)) => {
                    let memory =
                        served.shared.borrow_mut().take_begun(first).ok_or("a ring begins that was not made")?;
                    let reader = Reader::open(memory, Start::Oldest).map_err(|corrupt| corrupt.to_string())?;
                    let sender = served.shared.borrow().sender;
                    let (client, channel) = (served.client, name.clone());
                    let conn = Some(conn);
                    let ring = BegunRing {
                        conn,
                        has_ended: false,
                        daemon: number,
                        client,
                        channel,
                        sender,
                        reader,
                        next: first,
                    };
                    self.rings.push(ring);
                    self.rings.last_mut().map_or(Ok(()), |ring| ring.accept(accepted, &mut self.accepted_from))?;
                    let faults = &mut *self.faults.borrow_mut();
                    faults.rings_begun += 1;
                    faults.rings_begun_again += u64::from(served.rings.replace(served.rings.get() + 1) > 0);
                }
                (Tapped::EndRing, Some(_)) => {
                    self.faults.borrow_mut().rings_ended += 1;
                    self.rings.retain(|ring| ring.conn != Some(conn));
                }
                (Tapped::Subscribe(number, selector, replay), _) => {
                    let is_introduced = |served: &Served| served.shared.borrow().is_introduced.load(Ordering::Relaxed);
                    let is_early = self.served.values().any(is_introduced);
                    self.faults.borrow_mut().joined_during_introduction += u64::from(is_early);
                    let again = served.joined.borrow_mut().subscribe(number, Covered::new(selector)?, replay, accepted);
                    self.faults.borrow_mut().channels_joined_again += again;
                }
                (Tapped::Unsubscribe(number), _) => {
                    let left = served.joined.borrow_mut().unsubscribe(number, accepted)?;
                    self.faults.borrow_mut().channels_left += left;
                }
                (input, _) => {
                    tap.unhandled.push_front(input);
                    break;
                }
            }
        }
        if messages > 0 {
            Err(format!("{conn:?} has sent {messages} messages less than were accepted"))
        } else {
            Ok(())
        }
    }

    /// After each turn of the driver: does what it requests, and forgets connections that have ended.
    fn carry_out(&mut self) {
        self.unchecked = true;
        while let Some(request) = self.driver.next_request() {
            match request {
                Request::ContinueWriting(conn) => {
                    if let Some(served) = self.served.get_mut(&conn) {
                        served.full = true;
                    }
                }
                Request::Drain => (self.draining, self.unlinked) = (true, true),
                Request::WatchRing(ring) => _ = self.watched.insert(ring, true),
                Request::UnwatchRing(ring) => _ = self.watched.remove(&ring),
                Request::Release => self.driver.released(self.now),
                Request::Exit => self.over = true,
            }
        }
        let served = &mut self.served;
        served.retain(|_, served| !served.pipe.borrow().daemon_left);
        for ring in &mut self.rings {
            ring.has_ended |= ring.conn.is_some_and(|conn| !served.contains_key(&conn));
        }
    }
}
