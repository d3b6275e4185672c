//! Every rule and every limit of the broker, one event after the other. No other part of the project takes part.

#![allow(clippy::unwrap_used)]

#[path = "common/run.rs"]
mod run;

use broadcaster_broker::{
    Broker, ConnId, ConnPhase, ConnSnapshot, Effect, Event, Incomplete, Limits, Moment, PATTERN_SEGMENTS, TURN_WORK_MAX,
};
use broadcaster_protocol::control::{
    Control, CountListeners, Declined, Inspect, Open, OpenInbox, Overflow, Presence, Refused, RefusedCode, Selector,
    Stop, Subscribe, Unsubscribe, Unwatch, Watch, Welcome, kind,
};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, ChannelName, Decoder, Header, Item, Run, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use run::run_of;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

const UID: u32 = 1000;

/// A broker whose connections all read at once, and what each received. Each event is a turn.
struct Bus {
    broker: Broker,
    now: Moment,
    received: Vec<Vec<Item>>,
    ended: Vec<bool>,
    effects: Vec<Effect>,
    /// No connection reads.
    stalled: bool,
}

/// A connection that has opened one channel.
#[derive(Clone, Copy)]
struct Sender {
    conn: ConnId,
    id: SenderId,
    channel: ChannelId,
}

impl Bus {
    fn new(limits: Limits) -> Self {
        let now = Moment::default();
        let broker = Broker::new(limits, UID, 1, "test", now);
        Self { broker, now, received: Vec::new(), ended: Vec::new(), effects: Vec::new(), stalled: false }
    }

    /// Plays a turn of one event.
    fn happen(&mut self, event: Event) {
        self.apply(event);
        self.apply(Event::Flushed);
        self.broker.invariants();
    }

    fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        self.effects.extend(&effects);
        for effect in effects {
            match effect {
                Effect::Write(conn) if self.stalled => self.apply(Event::Written { conn, bytes: 0, blocked: true }),
                Effect::Write(conn) => self.read(conn),
                Effect::Close(conn) => self.end(conn),
                Effect::Discard(_) | Effect::Drain | Effect::Release | Effect::Exit => {}
                other => panic!("rings are not supported here: {other:?}"),
            }
        }
    }

    fn read(&mut self, conn: ConnId) {
        let (mut decoder, mut chunk) = (Decoder::consumer(PAYLOAD_BYTES_MAX), BytesMut::new());
        loop {
            let outgoing: Vec<u8> = self.broker.outgoing(conn).flatten().copied().collect();
            if outgoing.is_empty() {
                return;
            }
            for piece in outgoing.chunks(64 * 1024) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let mut target = decoder.target(&mut chunk);
                    let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
                    target.put_slice(now);
                    rest = later;
                    while let Some(item) = decoder.next(&mut chunk).unwrap() {
                        self.received[conn.0].push(item);
                    }
                }
            }
            self.apply(Event::Written { conn, bytes: outgoing.len(), blocked: false });
        }
    }

    /// The connection takes so many bytes and no more; they are lost to the test.
    fn take(&mut self, conn: ConnId, bytes: usize) {
        assert!(self.waiting(conn) > bytes);
        self.happen(Event::Written { conn, bytes, blocked: true });
    }

    fn waiting(&mut self, conn: ConnId) -> usize {
        self.broker.outgoing(conn).map(<[u8]>::len).sum()
    }

    fn end(&mut self, conn: ConnId) {
        if !std::mem::replace(&mut self.ended[conn.0], true) {
            self.apply(Event::Closed { conn });
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.end(conn);
        self.apply(Event::Flushed);
        self.broker.invariants();
    }

    fn connect_as(&mut self, pid: u32, uid: u32) -> ConnId {
        let conn = ConnId(self.received.len());
        self.received.push(Vec::new());
        self.ended.push(false);
        self.happen(Event::Opened { conn, pid, uid });
        conn
    }

    /// A connection whose Hello was accepted.
    fn connect(&mut self, pid: u32) -> ConnId {
        let conn = self.connect_as(pid, UID);
        self.send(conn, handshake::hello("a test", "test", pid, 7));
        conn
    }

    fn send(&mut self, conn: ConnId, control: impl Into<Control>) {
        self.happen(Event::Control { conn, control: control.into() });
    }

    fn welcome(&self, conn: ConnId) -> &Welcome {
        match self.received[conn.0].first() {
            Some(Item::Control(Control::Welcome(welcome))) => welcome,
            other => panic!("{conn:?} was not welcomed, but received {other:?}"),
        }
    }

    fn open(&mut self, conn: ConnId, channel: &str) -> Sender {
        self.send(conn, open(channel));
        let opened = self.received[conn.0].iter().rev().find_map(|item| match item {
            Item::Control(Control::Opened(opened)) if opened.channel == channel => Some(ChannelId(opened.id)),
            _ => None,
        });
        Sender { conn, id: SenderId::from_raw(self.welcome(conn).sender), channel: opened.unwrap() }
    }

    fn sender(&mut self, channel: &str) -> Sender {
        let conn = self.connect(50);
        self.open(conn, channel)
    }

    /// The channel exists for a moment.
    fn open_and_close(&mut self, channel: &str) {
        let sender = self.sender(channel);
        self.close(sender.conn);
    }

    fn listener(&mut self, channel: &str) -> ConnId {
        let conn = self.connect(60);
        self.send(conn, subscribe(1, channel));
        conn
    }

    fn observer(&mut self, selector: Selector) -> ConnId {
        let conn = self.connect(70);
        self.send(conn, observe(1, selector));
        conn
    }

    /// A connection with an inbox.
    fn requester(&mut self) -> (ConnId, ChannelId) {
        let conn = self.connect(80);
        (conn, self.open_inbox(conn))
    }

    fn open_inbox(&mut self, conn: ConnId) -> ChannelId {
        self.send(conn, OpenInbox::default());
        match self.answer(conn) {
            Control::InboxOpened(opened) => ChannelId(opened.id),
            other => panic!("{conn:?} has received {other:?}"),
        }
    }

    fn reply(&mut self, conn: ConnId, inbox: ChannelId, request: u64, payload: &[u8]) {
        let run = reply(inbox, self.id_of(conn), request, payload);
        self.happen(Event::Run { conn, run });
    }

    fn id_of(&self, conn: ConnId) -> SenderId {
        SenderId::from_raw(self.welcome(conn).sender)
    }

    /// The replies that the connection has received: their requests and senders.
    fn replies(&self, conn: ConnId) -> Vec<(u64, SenderId)> {
        let items = self.received[conn.0].iter();
        let replies = items.filter_map(|item| match item {
            Item::Run(run) if run.is_reply() => Some((run.first(), run.sender())),
            _ => None,
        });
        replies.collect()
    }

    fn listen_to_all(&mut self) {
        let conn = self.connect(90);
        self.send(conn, subscribe_all(1));
    }

    fn publish(&mut self, sender: Sender, sequences: Range<u64>, payload: &[u8]) {
        let run = run(sender.channel, sender.id, sequences, payload);
        self.happen(Event::Run { conn: sender.conn, run });
    }

    fn answer(&self, conn: ConnId) -> &Control {
        match self.received[conn.0].last() {
            Some(Item::Control(control)) => control,
            other => panic!("{conn:?} has received {other:?}"),
        }
    }

    /// Numbers of the requests for listeners that were answered, with the listeners.
    fn counted(&self, conn: ConnId) -> Vec<(u32, u32)> {
        let items = self.received[conn.0].iter();
        let counted = items.filter_map(|item| match item {
            Item::Control(Control::Listeners(listeners)) => Some((listeners.number, listeners.listeners)),
            _ => None,
        });
        counted.collect()
    }

    /// The answers to Watch, Presence as `+` or `-` with the pid, and the answers to Unwatch, each with the number of the watch.
    fn presence(&self, conn: ConnId) -> Vec<String> {
        let items = self.received[conn.0].iter();
        let presence = items.filter_map(|item| match item {
            Item::Control(Control::Watched(watched)) => {
                Some(format!("{}: {} listen", watched.watch, watched.listeners))
            }
            Item::Control(Control::Presence(Presence { watch, present, listener, purpose, extensions: _ })) => {
                assert_eq!(purpose, if *present { "a test" } else { "" });
                let sign = if *present { '+' } else { '-' };
                Some(format!("{watch}: {sign}{}", SenderId::from_raw(*listener).pid()))
            }
            Item::Control(Control::Unwatched(unwatched)) => Some(format!("{}: unwatched", unwatched.watch)),
            _ => None,
        });
        presence.collect()
    }

    /// What the connection has received since it began, but for answers to requests.
    fn stream(&self, conn: ConnId) -> Vec<Received> {
        let items = self.received[conn.0].iter();
        let stream = items.filter_map(|item| match item {
            Item::Run(run) => Some(Received::Messages(run.channel().0, run.messages())),
            Item::Control(Control::Named(named)) => Some(Received::Name(named.id, named.name.clone())),
            Item::Control(Control::Lagged(lagged)) => Some(Received::Lost(lagged.id, lagged.count)),
            Item::Control(_) | Item::Discarded(_) => None,
        });
        stream.collect()
    }

    fn messages(&self, conn: ConnId) -> u64 {
        let counts = self.stream(conn).into_iter();
        counts.map(|received| if let Received::Messages(_, count) = received { count } else { 0 }).sum()
    }

    fn lost(&self, conn: ConnId) -> u64 {
        let counts = self.stream(conn).into_iter();
        counts.map(|received| if let Received::Lost(_, count) = received { count } else { 0 }).sum()
    }

    fn snapshot_of(&self, conn: ConnId) -> ConnSnapshot {
        let snapshot = self.broker.snapshot(self.now);
        snapshot.connections.into_iter().find(|connection| connection.conn == conn).unwrap()
    }

    /// Why the connection was refused.
    fn refusal(&self, conn: ConnId) -> &Refused {
        match self.received[conn.0].last() {
            Some(Item::Control(Control::Refused(refused))) => refused,
            other => panic!("{conn:?} was not refused, but received {other:?}"),
        }
    }

    /// The request that was answered last was declined, and the connection goes on; returns the reason.
    fn is_declined(&self, conn: ConnId, request: u8, number: u32, code: RefusedCode) -> String {
        let Some(Item::Control(Control::Declined(declined))) = self.received[conn.0].last() else {
            panic!("{conn:?} was not declined, but received {:?}", self.received[conn.0].last())
        };
        assert_eq!(*declined, Declined::new(request, number, code, declined.reason.clone()));
        assert!(!self.ended[conn.0], "a request is declined, not the connection");
        declined.reason.clone()
    }

    fn is_refused(&self, conn: ConnId, code: RefusedCode) {
        assert_eq!(self.refusal(conn).code, code, "{}", self.refusal(conn).reason);
        assert!(self.ended[conn.0], "a refused connection is closed");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Messages(u32, u64),
    Name(u32, String),
    Lost(u32, u64),
}

fn open(channel: &str) -> Open {
    Open { channel: channel.to_owned(), next_sequence: 0, extensions: Vec::new() }
}

fn subscribe(subscription: u32, channel: &str) -> Subscribe {
    let (selector, overflow) = (Selector::Name(channel.to_owned()), Overflow::DropOldest);
    Subscribe { subscription, selector, overflow, observer: false, extensions: Vec::new() }
}

fn subscribe_all(subscription: u32) -> Subscribe {
    Subscribe { selector: Selector::All, ..subscribe(subscription, "") }
}

fn observe(subscription: u32, selector: Selector) -> Subscribe {
    Subscribe { selector, observer: true, ..subscribe(subscription, "") }
}

fn subscribe_pattern(subscription: u32, pattern: &str) -> Subscribe {
    Subscribe { selector: Selector::Pattern(pattern.to_owned()), ..subscribe(subscription, "") }
}

fn unsubscribe(subscription: u32) -> Unsubscribe {
    Unsubscribe { subscription, extensions: Vec::new() }
}

fn watch(watch: u32, channel: &str) -> Watch {
    Watch { watch, channel: channel.to_owned(), extensions: Vec::new() }
}

fn unwatch(watch: u32) -> Unwatch {
    Unwatch { watch, extensions: Vec::new() }
}

fn count(number: u32, of: Sender, minimum: u32) -> CountListeners {
    CountListeners { number, id: of.channel.0, minimum, extensions: Vec::new() }
}

fn named(channel: &str) -> Selector {
    Selector::Name(channel.to_owned())
}

fn run(channel: ChannelId, sender: SenderId, sequences: Range<u64>, payload: &[u8]) -> Run {
    let mut frames = Vec::new();
    for sequence in sequences {
        let header = Header::publish(channel, sender, sequence, u32::try_from(payload.len()).unwrap());
        frames.extend_from_slice(&[header.as_bytes(), payload].concat());
    }
    run_of(&frames)
}

fn reply(inbox: ChannelId, sender: SenderId, request: u64, payload: &[u8]) -> Run {
    let header = Header::reply(inbox, sender, request, u32::try_from(payload.len()).unwrap());
    run_of(&[header.as_bytes(), payload].concat())
}

fn seconds(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

#[test]
fn a_lying_sender_is_refused_and_no_listener_receives_it() {
    type Lie = fn(SenderId, ChannelId) -> Run;
    let lies: [(&str, Lie); 4] = [
        ("sequence number 1, where 0 was due", |id, channel| run(channel, id, 1..2, b"skipped")),
        ("carries the sender", |id, channel| run(channel, SenderId::new(id.pid(), 99), 0..1, b"another sender")),
        ("carries the sender", |id, channel| run(channel, SenderId::new(1, id.number()), 0..1, b"another process")),
        ("is not open here", |id, channel| run(ChannelId(channel.0 + 1), id, 0..1, b"elsewhere")),
    ];
    for (reason, lie) in lies {
        let mut bus = Bus::new(Limits::default());
        let listener = bus.listener("news");
        let Sender { conn, id, channel } = bus.sender("news");
        bus.happen(Event::Run { conn, run: lie(id, channel) });
        bus.is_refused(conn, RefusedCode::Protocol);
        assert!(bus.refusal(conn).reason.contains(reason), "{}", bus.refusal(conn).reason);
        assert_eq!(bus.messages(listener), 0);
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_accepted, stats.connections_refused), (0, 1));
    }
}

#[test]
fn what_is_not_a_frame_is_refused_with_the_cause() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    let header = Header::control(kind::GOODBYE, 0, 2);
    decoder.target(&mut chunk).put_slice(&[header.as_bytes(), &[251, 9]].concat());
    let error = decoder.next(&mut chunk).unwrap_err();
    let cause = error.source().unwrap().to_string();
    bus.happen(Event::Malformed { conn, error });
    bus.is_refused(conn, RefusedCode::Protocol);
    assert!(bus.refusal(conn).reason.ends_with(&cause), "{}", bus.refusal(conn).reason);
}

#[test]
fn bytes_and_messages_are_counted_wherever_they_pass() {
    let mut bus = Bus::new(Limits::default());
    let (listener, observer) = (bus.listener("news"), bus.observer(Selector::All));
    let (sender, other) = (bus.sender("news"), bus.sender("news"));
    bus.publish(sender, 0..3, b"four");
    bus.publish(sender, 3..5, b"four");
    bus.publish(other, 0..1, b"four");
    let frame = 32;
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.bytes_accepted, stats.messages_delivered), (6, 6 * frame, 6));
    for (conn, messages) in [(sender.conn, 5), (other.conn, 1), (listener, 6), (observer, 6)] {
        let snapshot = bus.snapshot_of(conn);
        assert_eq!((snapshot.messages, snapshot.bytes), (messages, messages * frame), "{conn:?}");
    }
    let channel = &bus.broker.snapshot(bus.now).channels[0];
    assert_eq!((channel.senders, channel.listeners, channel.bytes_accepted), (2, 1, 6 * frame));
}

#[test]
fn what_was_written_counts_as_delivered_once_what_follows_is_lost() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 5;
    let mut bus = Bus::new(limits);
    let (observer, listener) = (bus.observer(named("news")), bus.listener("news"));
    let sender = bus.sender("news");
    bus.stalled = true;
    bus.publish(sender, 0..5, &[7; 100]);
    for conn in [observer, listener] {
        bus.take(conn, 128 * 2 + 50);
    }
    bus.publish(sender, 5..10, &[7; 100]);
    assert_eq!(bus.broker.stats().messages_delivered, 2, "to the listener");
    let lost = bus.broker.stats().messages_lost;
    for conn in [observer, listener] {
        let snapshot = bus.snapshot_of(conn);
        assert_eq!((snapshot.messages, snapshot.messages_lost, lost), (2, lost, 3), "{conn:?}");
    }
    bus.effects.clear();
    bus.publish(sender, 10..11, b"");
    assert_eq!(bus.effects, [], "a write that was not answered is not requested again");
}

/// How often an event can be played until the turn is full.
fn events_in_a_turn(bus: &mut Bus, mut event: impl FnMut(usize) -> Event) -> usize {
    bus.apply(Event::Flushed);
    let mut events = 0;
    while !bus.broker.turn_is_full() {
        assert!(events < TURN_WORK_MAX, "the events cost nothing");
        bus.apply(event(events));
        events += 1;
    }
    bus.broker.invariants();
    bus.apply(Event::Flushed);
    assert!(!bus.broker.turn_is_full());
    events
}

#[test]
fn a_turn_is_full_when_its_share_of_the_work_is_done() {
    let mut limits = Limits::default();
    (limits.wildcards_max, limits.channels_per_connection_max) = (1000, 10_000);
    let mut bus = Bus::new(limits);
    let sender = bus.sender("news");
    (0..128).for_each(|_| bus.listen_to_all());
    let Sender { conn, id, channel } = sender;
    let runs = events_in_a_turn(&mut bus, |at| {
        let run = run(channel, id, at as u64..at as u64 + 1, b"");
        Event::Run { conn, run }
    });
    assert_eq!(runs, TURN_WORK_MAX / 128, "one unit for each subscriber");
    let opened = events_in_a_turn(&mut bus, |at| Event::Control { conn, control: open(&format!("o{at}")).into() });
    assert_eq!(opened, TURN_WORK_MAX / 128, "one unit for each subscription to all channels");
    let listener = bus.connect(60);
    let subscribed = events_in_a_turn(&mut bus, |at| {
        // Every other channel exists, which costs nothing.
        let name = if at % 2 == 0 { format!("o{}", at / 2) } else { format!("s{at}") };
        Event::Control { conn: listener, control: subscribe(u32::try_from(at).unwrap(), &name).into() }
    });
    assert_eq!(subscribed, 2 * TURN_WORK_MAX / 128);
    let channels = bus.broker.snapshot(bus.now).channels.len();
    let conns: Vec<_> = (0..TURN_WORK_MAX / channels + 1).map(|_| bus.connect(60)).collect();
    let wildcards =
        events_in_a_turn(&mut bus, |at| Event::Control { conn: conns[at], control: subscribe_all(1).into() });
    assert_eq!(wildcards, TURN_WORK_MAX.div_ceil(channels), "one unit for each channel");
}

#[test]
fn a_snapshot_names_the_first_channels_of_a_connection_once() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    for name in ["a", "b", "c"] {
        bus.open(conn, name);
    }
    bus.send(conn, subscribe_all(0));
    for (number, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
        bus.send(conn, subscribe(number, name));
    }
    let snapshot = bus.snapshot_of(conn);
    assert_eq!(snapshot.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!((snapshot.publications, snapshot.subscriptions, snapshot.channels_total), (3, 6, 8));
}

#[test]
fn a_repeated_number_is_refused() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender("news");
    bus.publish(sender, 0..3, b"x");
    bus.publish(sender, 2..3, b"x");
    bus.is_refused(sender.conn, RefusedCode::Protocol);
}

#[test]
fn nothing_is_served_before_the_hello() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect_as(60, UID);
    bus.happen(Event::Run { conn, run: run(ChannelId(1), SenderId::new(60, 7), 0..1, b"x") });
    bus.is_refused(conn, RefusedCode::Protocol);
    for control in
        [Control::from(subscribe(1, "x")), open("x").into(), Inspect::default().into(), Stop::default().into()]
    {
        let conn = bus.connect_as(60, UID);
        bus.send(conn, control);
        bus.is_refused(conn, RefusedCode::Protocol);
    }
    assert!(!bus.effects.contains(&Effect::Drain));
}

#[test]
fn a_message_that_is_not_a_request_is_refused() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    let welcome = bus.welcome(conn).clone();
    bus.send(conn, welcome);
    bus.is_refused(conn, RefusedCode::Protocol);
    let conn = bus.connect(60);
    bus.send(conn, handshake::hello("twice", "test", 60, 7));
    bus.is_refused(conn, RefusedCode::Protocol);
}

#[test]
fn any_connection_may_inspect_and_stop() {
    let mut bus = Bus::new(Limits::default());
    let listener = bus.listener("news");
    let sender = bus.sender("news").conn;
    bus.observer(Selector::All);
    bus.send(sender, Inspect::default());
    let Some(Item::Control(Control::Report(report))) = bus.received[sender.0].last() else { panic!("no report") };
    assert_eq!((report.connections, report.senders, report.listeners, report.channels), (3, 1, 1, 1));
    bus.send(listener, Stop::default());
    assert_eq!(bus.effects.last(), Some(&Effect::Drain));
}

#[test]
fn one_connection_holds_several_publications_and_subscriptions() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    bus.send(conn, subscribe(1, "a"));
    bus.send(conn, subscribe(2, "b"));
    let (b, c) = (bus.open(conn, "b"), bus.open(conn, "c"));
    let a = bus.sender("a");
    bus.publish(b, 0..2, b"x");
    bus.publish(c, 0..4, b"x");
    bus.publish(a, 0..3, b"x");
    bus.publish(b, 2..3, b"x");
    let names = [Received::Name(a.channel.0, "a".into()), Received::Name(b.channel.0, "b".into())];
    let messages = [(b, 2), (a, 3), (b, 1)].map(|(of, count)| Received::Messages(of.channel.0, count));
    assert_eq!(bus.stream(conn), names.into_iter().chain(messages).collect::<Vec<_>>());
    let snapshot = bus.snapshot_of(conn);
    assert_eq!((snapshot.publications, snapshot.subscriptions, snapshot.observers), (2, 2, 0));
    assert_eq!((snapshot.phase, snapshot.purpose.as_str()), (ConnPhase::Active, "a test"));
    let names: Vec<_> = snapshot.channels.iter().map(ChannelName::as_str).collect();
    assert_eq!((names, snapshot.channels_total), (vec!["b", "c", "a"], 4));
    bus.close(conn);
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 1, "\"a\" has a publication, the others have ended");
}

#[test]
fn a_message_is_delivered_once_per_connection() {
    let mut bus = Bus::new(Limits::default());
    let early = bus.connect(60);
    bus.send(early, subscribe_all(1));
    bus.send(early, subscribe(2, "news"));
    bus.send(early, observe(3, named("other")));
    let sender = bus.sender("news");
    let late = bus.connect(60);
    bus.send(late, subscribe(1, "news"));
    bus.send(late, subscribe_all(2));
    bus.publish(sender, 0..5, b"x");
    assert_eq!((bus.messages(early), bus.messages(late)), (5, 5));
    let other = bus.sender("other");
    bus.publish(other, 0..1, b"x");
    assert_eq!((bus.messages(early), bus.messages(late)), (6, 6));
    assert_eq!(bus.broker.stats().messages_delivered, 12, "a listener to all channels outranks an observer of one");
}

#[test]
fn the_first_listening_subscription_decides_what_is_lost() {
    // Each is a listener's policy, and whether it observes; the first of them that is not an observer decides.
    let all = |overflow, observer| Subscribe { overflow, observer, ..subscribe_all(1) };
    let one = |overflow, observer| Subscribe { overflow, observer, ..subscribe(2, "news") };
    let cases = [
        (all(Overflow::DropNewest, false), one(Overflow::DropOldest, false), 0),
        (one(Overflow::DropOldest, false), all(Overflow::DropNewest, false), 6),
        (all(Overflow::DropNewest, true), one(Overflow::DropOldest, false), 6),
        (one(Overflow::DropNewest, true), all(Overflow::DropOldest, false), 6),
        (all(Overflow::DropNewest, true), one(Overflow::DropOldest, true), 0),
        (one(Overflow::DropNewest, true), all(Overflow::DropOldest, true), 0),
    ];
    for (first, second, kept) in cases {
        for late in [false, true] {
            let mut limits = Limits::default();
            limits.outbox_messages_max = 4;
            let mut bus = Bus::new(limits);
            let early = (!late).then(|| bus.sender("news"));
            let listener = bus.connect(60);
            let observes = first.observer && second.observer;
            bus.send(listener, first.clone());
            bus.send(listener, second.clone());
            let sender = early.unwrap_or_else(|| bus.sender("news"));
            bus.stalled = true;
            for number in 0..10 {
                bus.publish(sender, number..number + 1, b"x");
            }
            bus.stalled = false;
            bus.read(listener);
            let runs = bus.received[listener.0].iter();
            let first_run =
                runs.filter_map(|item| if let Item::Run(run) = item { Some(run.first()) } else { None }).next();
            assert_eq!(first_run, Some(kept), "{first:?} and {second:?}, late: {late}");
            assert_eq!((bus.messages(listener), bus.lost(listener)), (4, 6));
            assert_eq!(bus.broker.stats().messages_lost, if observes { 0 } else { 6 });
        }
    }
}

#[test]
fn a_subscription_to_all_channels_receives_those_that_appear_later() {
    let mut bus = Bus::new(Limits::default());
    let early = bus.sender("early");
    let listener = bus.connect(60);
    bus.send(listener, subscribe_all(1));
    let late = bus.sender("late");
    bus.publish(late, 0..2, b"x");
    bus.publish(early, 0..3, b"x");
    assert_eq!(
        bus.stream(listener),
        [
            Received::Name(late.channel.0, "late".into()),
            Received::Messages(late.channel.0, 2),
            Received::Name(early.channel.0, "early".into()),
            Received::Messages(early.channel.0, 3),
        ]
    );
    assert_eq!(bus.broker.snapshot(bus.now).channels[0].listeners, 1, "it counts as a listener");
    bus.close(early.conn);
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 1, "but does not keep a channel");
    let Sender { channel, .. } = bus.sender("early");
    assert_ne!(channel, early.channel);
}

#[test]
fn a_name_is_given_before_it_is_used_and_withdrawn_when_the_channel_ends() {
    let mut bus = Bus::new(Limits::default());
    let (all, one) = (bus.observer(Selector::All), bus.observer(named("news")));
    assert_eq!(bus.stream(one), [], "the channel does not exist");
    let by_name = bus.listener("news");
    let Received::Name(id, _) = bus.stream(by_name)[0] else { panic!("{:?}", bus.stream(by_name)) };
    let name = || Received::Name(id, "news".into());
    assert_eq!(bus.stream(by_name), [name()], "the name follows Subscribed at once");
    assert_eq!((bus.stream(all), bus.stream(one)), (vec![], vec![]), "but waits for the first message elsewhere");
    let sender = bus.sender("news");
    let late = bus.observer(named("news"));
    bus.publish(sender, 0..1, b"x");
    for conn in [all, one, by_name, late] {
        assert_eq!(bus.stream(conn), [name(), Received::Messages(id, 1)]);
    }
    bus.close(sender.conn);
    assert_eq!(bus.stream(all).len(), 2, "a listener by name keeps the channel");
    bus.close(by_name);
    for conn in [all, one, late] {
        assert_eq!(bus.stream(conn)[2..], [Received::Name(id, String::new())]);
    }
    let again = bus.sender("news");
    bus.publish(again, 0..1, b"x");
    bus.send(one, subscribe_all(2));
    bus.publish(again, 1..2, b"x");
    bus.close(again.conn);
    for conn in [all, one, late] {
        let id = again.channel.0;
        let message = || Received::Messages(id, 1);
        let news = [Received::Name(id, "news".into()), message(), message(), Received::Name(id, String::new())];
        assert_eq!(bus.stream(conn)[3..], news, "an observer is attached whenever its channel appears");
    }
}

#[test]
fn what_is_not_supported_is_declined_by_name() {
    let cases = [
        (Subscribe { overflow: Overflow::Other(9), ..subscribe(1, "a") }, "overflow policy 9"),
        (
            Subscribe { selector: Selector::Other { kind: 3, text: "com.**".into() }, ..subscribe(1, "a") },
            "selector kind 3",
        ),
    ];
    for (request, what) in cases {
        let mut bus = Bus::new(Limits::default());
        let conn = bus.connect(60);
        bus.send(conn, request);
        assert_eq!(bus.is_declined(conn, kind::SUBSCRIBE, 1, RefusedCode::Unsupported), what);
        bus.send(conn, subscribe(1, "a"));
        assert!(matches!(bus.stream(conn)[..], [Received::Name(..)]), "the number is free");
        assert_eq!(bus.broker.stats().connections_refused, 0);
    }
}

#[test]
fn a_subscription_is_made_once() {
    let twice = [
        (subscribe(1, "a"), subscribe(1, "b")),
        (subscribe(1, "a"), subscribe(2, "a")),
        (subscribe(1, "a"), observe(2, named("a"))),
        (subscribe_all(1), observe(2, Selector::All)),
        (subscribe_pattern(1, "a.*"), observe(2, Selector::Pattern("a.*".into()))),
    ];
    for (first, second) in twice {
        let mut bus = Bus::new(Limits::default());
        let conn = bus.connect(60);
        bus.send(conn, first);
        assert!(!bus.ended[conn.0]);
        bus.send(conn, second);
        bus.is_refused(conn, RefusedCode::Protocol);
    }
    let mut bus = Bus::new(Limits::default());
    let conn = bus.sender("a").conn;
    bus.send(conn, open("a"));
    bus.is_refused(conn, RefusedCode::Protocol);
    for control in [Control::from(subscribe(1, "a/b")), open("a/b").into(), observe(1, named("a/b")).into()] {
        let conn = bus.connect(60);
        bus.send(conn, control);
        bus.is_refused(conn, RefusedCode::Protocol);
        assert!(bus.refusal(conn).reason.contains("\"a/b\""));
    }
    for pattern in ["", "a/b", "a*", "**.a"] {
        let conn = bus.connect(60);
        bus.send(conn, subscribe_pattern(1, pattern));
        bus.is_refused(conn, RefusedCode::Protocol);
        assert!(bus.refusal(conn).reason.contains("pattern"), "{}", bus.refusal(conn).reason);
    }
}

#[test]
fn a_pattern_covers_channels_that_exist_and_those_that_appear_later() {
    let mut bus = Bus::new(Limits::default());
    let [early, other] = ["com.example.early", "com.example"].map(|name| bus.sender(name));
    let listener = bus.connect(60);
    bus.send(listener, subscribe_pattern(1, "com.example.*"));
    assert!(matches!(bus.answer(listener), Control::Subscribed(_)));
    let [late, literal] = ["com.example.late", "com.example.*"].map(|name| bus.sender(name));
    for sender in [other, late, early, literal] {
        bus.publish(sender, 0..2, b"x");
    }
    let received = |sender: Sender, name: &str| {
        [Received::Name(sender.channel.0, name.into()), Received::Messages(sender.channel.0, 2)]
    };
    let expected = [(late, "com.example.late"), (early, "com.example.early"), (literal, "com.example.*")]
        .map(|(s, n)| received(s, n));
    assert_eq!(bus.stream(listener), expected.into_iter().flatten().collect::<Vec<_>>());
    bus.send(listener, subscribe(2, "com.*"));
    let name = bus.sender("com.x");
    bus.publish(name, 0..1, b"x");
    assert_eq!(bus.messages(listener), 6, "a name is not read as a pattern");
    let channels = bus.broker.snapshot(bus.now).channels;
    let listeners: Vec<_> = channels.iter().map(|channel| (channel.name.as_str(), channel.listeners)).collect();
    let expected =
        [("com.*", 1), ("com.example", 0), ("com.example.*", 1), ("com.example.early", 1), ("com.example.late", 1)];
    assert_eq!(listeners[..5], expected, "a listener to a pattern is a listener");
    bus.close(early.conn);
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 5, "but does not keep a channel");
    let ended = Received::Name(early.channel.0, String::new());
    assert_eq!(bus.stream(listener).last(), Some(&ended));
}

#[test]
fn nothing_is_delivered_after_unsubscribed_and_everything_before() {
    for first in [subscribe(1, "a.b"), subscribe_pattern(1, "a.*"), subscribe_all(1), observe(1, named("a.b"))] {
        let mut bus = Bus::new(Limits::default());
        let (listener, sender) = (bus.connect(60), bus.sender("a.b"));
        bus.send(listener, first.clone());
        bus.stalled = true;
        bus.publish(sender, 0..3, b"x");
        bus.send(listener, unsubscribe(1));
        bus.publish(sender, 3..5, b"x");
        bus.stalled = false;
        bus.read(listener);
        assert_eq!((bus.messages(listener), bus.lost(listener)), (3, 0), "{first:?}");
        assert!(matches!(bus.answer(listener), Control::Unsubscribed(of) if of.subscription == 1), "{first:?}");
        let snapshot = bus.snapshot_of(listener);
        assert_eq!((snapshot.subscriptions, snapshot.observers, snapshot.channels_total), (0, 0, 0), "{first:?}");
        assert_eq!(bus.broker.snapshot(bus.now).channels[0].listeners, 0);
        // The number and the selector may be used again, and the name is given again.
        bus.send(listener, first.clone());
        bus.publish(sender, 5..6, b"x");
        let again = [Received::Name(sender.channel.0, "a.b".into()), Received::Messages(sender.channel.0, 1)];
        let stream = bus.stream(listener);
        assert_eq!(stream[stream.len() - 2..], again, "{first:?}");
    }
}

#[test]
fn a_subscription_by_name_that_ends_no_longer_keeps_its_channel() {
    let mut bus = Bus::new(Limits::default());
    let (one, two, all) = (bus.listener("a"), bus.listener("a"), bus.observer(Selector::All));
    let sender = bus.sender("a");
    bus.publish(sender, 0..1, b"x");
    bus.close(sender.conn);
    bus.send(one, unsubscribe(1));
    assert_eq!(bus.stream(all).len(), 2, "another listener keeps it");
    bus.send(two, subscribe_pattern(2, "*"));
    bus.send(two, unsubscribe(1));
    let ended = Received::Name(sender.channel.0, String::new());
    assert_eq!((bus.stream(all).last(), bus.stream(two).last()), (Some(&ended), Some(&ended)));
    assert_eq!(bus.stream(one).len(), 2, "its name is forgotten with the last subscription that covers it");
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 0);
}

#[test]
fn what_is_not_subscribed_cannot_be_unsubscribed() {
    let mut bus = Bus::new(Limits::default());
    let listener = bus.listener("a");
    bus.send(listener, unsubscribe(2));
    bus.is_refused(listener, RefusedCode::Protocol);
    assert_eq!(bus.refusal(listener).reason, "this connection has no subscription 2");
}

#[test]
fn the_best_subscription_that_is_left_decides() {
    let with = |overflow, subscribe| Subscribe { overflow, ..subscribe };
    let newest = Overflow::DropNewest;
    let pattern = |number, text: &str| subscribe_pattern(number, text);
    // The subscriptions, those that end, and the sequence number of the first message that is not lost under the one that is left.
    let cases: [([Subscribe; 3], &[u32], u64); 6] = [
        ([subscribe(1, "a.b"), with(newest, pattern(2, "a.*")), with(newest, subscribe_all(3))], &[1], 0),
        ([with(newest, subscribe(1, "a.b")), subscribe_all(2), with(newest, pattern(3, "a.*"))], &[1], 6),
        ([with(newest, pattern(1, "a.*")), pattern(2, "a.**"), subscribe(3, "a.b")], &[2, 1], 6),
        ([pattern(1, "*.b"), with(newest, subscribe_all(2)), with(newest, pattern(3, "*.*"))], &[1, 2], 0),
        ([observe(1, Selector::All), with(newest, pattern(2, "**")), pattern(3, "*.*")], &[3], 0),
        ([with(newest, observe(1, named("a.b"))), subscribe_all(2), observe(3, named("c"))], &[2], 0),
    ];
    for (subscriptions, ended, kept) in cases {
        let mut limits = Limits::default();
        limits.outbox_messages_max = 4;
        let mut bus = Bus::new(limits);
        let (listener, sender) = (bus.connect(60), bus.sender("a.b"));
        for subscription in &subscriptions {
            bus.send(listener, subscription.clone());
        }
        for &number in ended {
            bus.send(listener, unsubscribe(number));
        }
        bus.stalled = true;
        for number in 0..10 {
            bus.publish(sender, number..number + 1, b"x");
        }
        bus.stalled = false;
        bus.read(listener);
        let runs = bus.received[listener.0].iter();
        let first = runs.filter_map(|item| if let Item::Run(run) = item { Some(run.first()) } else { None }).next();
        assert_eq!(first, Some(kept), "{subscriptions:?} without {ended:?}");
        assert_eq!((bus.messages(listener), bus.lost(listener)), (4, 6));
        let observes = subscriptions
            .iter()
            .all(|subscription| subscription.observer || ended.contains(&subscription.subscription));
        assert_eq!(bus.broker.stats().messages_lost, if observes { 0 } else { 6 });
    }
}

#[test]
fn losses_before_unsubscribed_are_reported_before_it() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 2;
    let mut bus = Bus::new(limits);
    let (listener, sender) = (bus.connect(60), bus.sender("a"));
    bus.send(listener, Subscribe { overflow: Overflow::DropNewest, ..subscribe(1, "a") });
    bus.send(listener, subscribe_pattern(2, "*"));
    bus.stalled = true;
    bus.publish(sender, 0..5, b"x");
    bus.send(listener, unsubscribe(2));
    bus.publish(sender, 5..9, b"x");
    bus.send(listener, unsubscribe(1));
    bus.stalled = false;
    bus.read(listener);
    let from_first = bus.received[listener.0].iter().skip_while(|item| !matches!(item, Item::Run(_)));
    let seen: Vec<_> = from_first
        .map(|item| match item {
            Item::Run(run) => format!("{} messages", run.messages()),
            Item::Control(Control::Lagged(lagged)) => format!("{} lost", lagged.count),
            Item::Control(Control::Unsubscribed(of)) => format!("unsubscribed {}", of.subscription),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["2 messages", "3 lost", "unsubscribed 2", "4 lost", "unsubscribed 1"]);
}

#[test]
fn listeners_are_counted_once_there_are_enough() {
    let mut bus = Bus::new(Limits::default());
    let sender = bus.sender("a.b");
    bus.send(sender.conn, count(1, sender, 0));
    assert_eq!(bus.counted(sender.conn), [(1, 0)]);
    bus.send(sender.conn, count(2, sender, 2));
    bus.observer(named("a.b"));
    let one = bus.listener("a.b");
    bus.send(one, subscribe_pattern(2, "**"));
    assert_eq!(bus.counted(sender.conn), [(1, 0)], "a connection counts once, and an observer does not");
    bus.send(sender.conn, subscribe_pattern(1, "a.*"));
    assert_eq!(bus.counted(sender.conn), [(1, 0), (2, 2)], "a connection may listen to itself");
    bus.send(sender.conn, count(3, sender, 2));
    assert_eq!(bus.counted(sender.conn)[2..], [(3, 2)]);
    bus.listen_to_all();
    assert_eq!(bus.counted(sender.conn).len(), 3, "each request has one answer");
}

#[test]
fn a_request_for_listeners_is_replaced_by_the_next_one_of_its_channel() {
    let mut bus = Bus::new(Limits::default());
    let (sender, twin) = (bus.sender("a"), bus.sender("a"));
    let other = bus.open(sender.conn, "b");
    for request in [count(1, sender, 1), count(2, sender, 3), count(3, other, 1)] {
        bus.send(sender.conn, request);
    }
    bus.send(twin.conn, count(9, twin, 2));
    bus.listener("a");
    assert_eq!(bus.counted(sender.conn), [], "the first was replaced");
    bus.listener("b");
    assert_eq!(bus.counted(sender.conn), [(3, 1)]);
    let leaves = bus.listener("a");
    assert_eq!(bus.counted(twin.conn), [(9, 2)]);
    bus.close(leaves);
    bus.listener("a");
    assert_eq!(bus.counted(sender.conn), [(3, 1)], "those that have left do not count");
    bus.close(twin.conn);
    bus.listener("a");
    assert_eq!(bus.counted(sender.conn), [(3, 1), (2, 3)]);
    for bad in [count(4, other, 0), CountListeners { id: 99, ..count(4, sender, 0) }] {
        let conn = bus.connect(60);
        bus.send(conn, bad);
        bus.is_refused(conn, RefusedCode::Protocol);
    }
    let waits = bus.sender("a");
    bus.send(waits.conn, count(1, waits, 99));
    bus.close(waits.conn);
}

#[test]
fn patterns_cost_their_share_of_a_turn() {
    let mut limits = Limits::default();
    limits.channels_per_connection_max = 10_000;
    let mut bus = Bus::new(limits);
    let (sender, listener) = (bus.connect(50), bus.connect(60));
    for number in 0..100 {
        bus.open(sender, &format!("a.{number}"));
    }
    let subscribed = events_in_a_turn(&mut bus, |at| Event::Control {
        conn: listener,
        control: subscribe_pattern(u32::try_from(at).unwrap(), &format!("a.*.{at}")).into(),
    });
    assert_eq!(subscribed, TURN_WORK_MAX.div_ceil(100), "one unit for each channel with the same beginning");
    let ended = events_in_a_turn(&mut bus, |at| Event::Control {
        conn: listener,
        control: unsubscribe(u32::try_from(at).unwrap()).into(),
    });
    assert_eq!(ended, subscribed);
    let conns: Vec<_> = (0..16).map(|_| bus.connect(60)).collect();
    for (number, &conn) in conns.iter().enumerate() {
        bus.send(conn, subscribe_pattern(1, if number % 2 == 0 { "b.*" } else { "*.*" }));
    }
    let opened =
        events_in_a_turn(&mut bus, |at| Event::Control { conn: sender, control: open(&format!("b.{at}")).into() });
    assert_eq!(opened, TURN_WORK_MAX.div_ceil(16 + 3), "one unit for each subscriber, and for each step of the search");
}

#[test]
fn other_users_are_refused_at_once() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect_as(60, 1001);
    bus.is_refused(conn, RefusedCode::OtherUser);
    assert!(bus.refusal(conn).reason.contains("uid 1000; you are uid 1001"));
}

#[test]
fn a_sender_number_that_is_taken_is_replaced() {
    let mut bus = Bus::new(Limits::default());
    let first = bus.sender("news");
    let second = bus.sender("news");
    assert_eq!((first.id.number(), second.id.number()), (7, 8));
    bus.close(second.conn);
    assert_eq!(bus.sender("news").id, second.id, "it is free again");
}

#[test]
fn handshake_deadline_is_kept() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect_as(60, UID);
    assert_eq!(bus.broker.next_deadline(), Some(seconds(2)));
    bus.now = seconds(2);
    bus.happen(Event::Tick);
    bus.is_refused(conn, RefusedCode::Handshake);
    assert_eq!(bus.broker.next_deadline(), None);
}

#[test]
fn a_frame_that_makes_no_progress_is_refused() {
    let mut bus = Bus::new(Limits::default());
    let holding = |conn, bytes, frame| Event::Holding { conn, bytes, frame };
    let Sender { conn, .. } = bus.sender("news");
    bus.happen(holding(conn, 100, Incomplete::Discardable));
    bus.now = seconds(29);
    bus.happen(holding(conn, 101, Incomplete::Discardable));
    assert_eq!(bus.broker.next_deadline(), Some(seconds(59)), "a byte is progress");
    bus.happen(holding(conn, 0, Incomplete::None));
    assert_eq!(bus.broker.next_deadline(), None, "the frame is complete");
    bus.happen(holding(conn, 10, Incomplete::Discardable));
    bus.now = seconds(59);
    bus.happen(Event::Tick);
    bus.is_refused(conn, RefusedCode::Stalled);
    assert!(bus.effects.contains(&Effect::Discard(conn)), "what has arrived of it is not kept");
    assert!(bus.refusal(conn).reason.contains("30s"), "{}", bus.refusal(conn).reason);
    assert_eq!(bus.broker.held_bytes(), 0);
}

#[test]
fn a_connection_that_does_not_read_its_last_frame_is_closed_all_the_same() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    bus.stalled = true;
    bus.send(conn, bus.welcome(conn).clone());
    assert!(!bus.ended[conn.0]);
    bus.now = seconds(1);
    bus.happen(Event::Tick);
    assert!(bus.ended[conn.0]);
}

#[test]
fn connections_are_limited_in_total_and_for_each_process() {
    let mut limits = Limits::default();
    (limits.connections_max, limits.connections_per_process_max) = (4, 2);
    let mut bus = Bus::new(limits);
    let (first, second) = (bus.connect(60), bus.connect(60));
    let third = bus.connect_as(60, UID);
    bus.is_refused(third, RefusedCode::Connections);
    bus.close(first);
    let others = [60, 61, 62].map(|pid| bus.connect(pid));
    assert!(!bus.ended[second.0] && others.iter().all(|conn| !bus.ended[conn.0]), "four are served");
    let fifth = bus.connect_as(63, UID);
    bus.is_refused(fifth, RefusedCode::Connections);
    assert!(bus.refusal(fifth).reason.contains('4'));
}

#[test]
fn reason_names_a_limit_of_one_in_the_singular() {
    let mut limits = Limits::default();
    (limits.connections_per_process_max, limits.channels_max) = (1, 1);
    (limits.observers_max, limits.wildcards_max, limits.patterns_max) = (1, 1, 1);
    let mut bus = Bus::new(limits);
    bus.listener("a");
    let same_process = bus.connect_as(60, UID);
    let request = |bus: &mut Bus, pid, subscribe| {
        let conn = bus.connect(pid);
        bus.send(conn, subscribe);
        conn
    };
    let listener = request(&mut bus, 61, subscribe(1, "b"));
    let [_, observer] = [62, 63].map(|pid| request(&mut bus, pid, observe(1, named("a"))));
    let [_, wildcard] = [64, 65].map(|pid| request(&mut bus, pid, subscribe_all(1)));
    let [_, pattern] = [66, 67].map(|pid| request(&mut bus, pid, subscribe_pattern(1, "a.*")));
    assert_eq!(bus.refusal(same_process).reason, "process 60 has 1 connection, which is the limit");
    for (conn, code, reason) in [
        (listener, RefusedCode::Channels, "the daemon has 1 channel, which is the limit"),
        (observer, RefusedCode::Connections, "the daemon has 1 observing connection, which is the limit"),
        (wildcard, RefusedCode::Channels, "the daemon has 1 subscription to all channels, which is the limit"),
        (pattern, RefusedCode::Channels, "the daemon has 1 subscription to patterns, which is the limit"),
    ] {
        assert_eq!(bus.is_declined(conn, kind::SUBSCRIBE, 1, code), reason);
    }
}

#[test]
fn channels_are_limited_in_total_and_for_each_connection() {
    let mut limits = Limits::default();
    (limits.channels_max, limits.channels_per_connection_max) = (3, 2);
    let mut bus = Bus::new(limits);
    let one = bus.listener("a");
    bus.send(one, subscribe(2, "b"));
    bus.send(one, subscribe(3, "c"));
    bus.is_declined(one, kind::SUBSCRIBE, 3, RefusedCode::Channels);
    bus.send(one, open("c"));
    bus.is_declined(one, kind::OPEN, 0, RefusedCode::Channels);
    bus.close(one); // and its channels with it
    let two = bus.listener("c");
    bus.send(two, open("d"));
    let three = bus.listener("e");
    let four = bus.listener("f");
    bus.is_declined(four, kind::SUBSCRIBE, 1, RefusedCode::Channels);
    bus.send(four, open("f"));
    bus.is_declined(four, kind::OPEN, 0, RefusedCode::Channels);
    let five = bus.listener("c");
    bus.send(five, observe(2, named("g")));
    assert_eq!([three, five].map(|conn| bus.stream(conn).len()), [1, 1], "what exists can be joined");
    assert!(matches!(bus.answer(five), Control::Subscribed(_)), "an observer makes no channel");
    bus.send(two, subscribe(3, "e"));
    bus.is_declined(two, kind::SUBSCRIBE, 3, RefusedCode::Channels);
    bus.send(two, unsubscribe(1));
    bus.send(two, subscribe(3, "e"));
    assert!(matches!(bus.answer(two), Control::Named(_)), "what has ended counts no more");
}

#[test]
fn subscriptions_to_all_channels_are_limited() {
    let mut limits = Limits::default();
    limits.wildcards_max = 1;
    let mut bus = Bus::new(limits);
    let first = bus.observer(Selector::All);
    let second = bus.connect(60);
    bus.send(second, subscribe_all(1));
    bus.is_declined(second, kind::SUBSCRIBE, 1, RefusedCode::Channels);
    bus.send(first, unsubscribe(1));
    bus.send(second, subscribe_all(1));
    assert!(matches!(bus.answer(second), Control::Subscribed(_)));
    bus.close(second);
    let third = bus.connect(60);
    bus.send(third, subscribe_all(1));
    assert!(matches!(bus.answer(third), Control::Subscribed(_)));
}

#[test]
fn patterns_and_their_segments_are_limited() {
    let mut limits = Limits::default();
    limits.patterns_max = 3;
    let mut bus = Bus::new(limits);
    let (first, second) = (bus.connect(60), bus.connect(61));
    for number in 0..3 {
        bus.send(first, subscribe_pattern(number, &format!("a{number}.*")));
    }
    bus.send(second, subscribe_pattern(7, "b.*"));
    let reason = bus.is_declined(second, kind::SUBSCRIBE, 7, RefusedCode::Channels);
    assert_eq!(reason, "the daemon has 3 subscriptions to patterns, which is the limit");
    bus.send(first, unsubscribe(1));
    let long = vec!["*"; 3 * PATTERN_SEGMENTS - 3].join(".");
    bus.send(second, subscribe_pattern(7, &long));
    let reason = bus.is_declined(second, kind::SUBSCRIBE, 7, RefusedCode::Channels);
    assert_eq!(reason, "the patterns of all subscriptions would have 25 segments; the limit is 24");
    bus.send(second, subscribe_pattern(7, &long[2..]));
    assert!(matches!(bus.answer(second), Control::Subscribed(_)));
    bus.close(second);
    bus.send(first, subscribe_pattern(1, &long[2..]));
    assert!(matches!(bus.answer(first), Control::Subscribed(_)), "the patterns of a connection end with it");
}

#[test]
fn channels_that_patterns_cover_are_limited_in_total() {
    let mut limits = Limits::default();
    limits.attachments_max = 10;
    let mut bus = Bus::new(limits);
    let (sender, first, second) = (bus.connect(50), bus.connect(60), bus.connect(61));
    (0..5).for_each(|number| bus.send(sender, open(&format!("a.{number}"))));
    bus.send(first, subscribe_pattern(1, "a.*"));
    bus.send(second, subscribe_all(1));
    bus.send(first, subscribe_pattern(2, "**"));
    bus.send(second, subscribe(2, "a.0"));
    assert!(matches!(bus.answer(first), Control::Subscribed(_)), "it receives these channels already");
    let third = bus.connect(62);
    bus.send(third, subscribe_pattern(1, "b.*"));
    assert!(matches!(bus.answer(third), Control::Subscribed(_)), "it covers none");
    for (number, request) in [(2, subscribe_pattern(2, "a.*")), (3, subscribe(3, "a.0")), (4, subscribe(4, "b.0"))] {
        bus.send(third, request);
        let reason = bus.is_declined(third, kind::SUBSCRIBE, number, RefusedCode::Channels);
        let wanted = [15, 11, 13][number as usize - 2];
        let counted = format!("connections would receive {wanted} channels, counted for each connection");
        assert_eq!(reason, format!("{counted}; the limit is 10"));
    }
    bus.send(sender, open("a.5"));
    bus.is_declined(sender, kind::OPEN, 0, RefusedCode::Channels);
    bus.send(first, unsubscribe(1));
    bus.send(sender, open("a.5"));
    bus.is_declined(sender, kind::OPEN, 0, RefusedCode::Channels);
    bus.send(first, unsubscribe(2));
    bus.open(sender, "b.1");
    bus.send(third, subscribe(2, "a.1"));
    bus.send(third, subscribe(3, "a.2"));
    assert!(matches!(bus.answer(third), Control::Named(_)), "9 are left: 6 of the second one, and 3");
    bus.close(second);
    bus.open(sender, "a.5");
    bus.close(sender);
    bus.send(first, subscribe_pattern(1, "**"));
    assert!(matches!(bus.answer(first), Control::Subscribed(_)));
}

/// The invariants bound the work of an event: for each channel, it is compared with the patterns of the connection alone.
#[test]
fn end_of_a_pattern_costs_no_search_for_the_patterns_of_others() {
    let mut limits = Limits::default();
    (limits.channels_max, limits.channels_per_connection_max, limits.patterns_max) = (500, 20, 100);
    (limits.connections_max, limits.retained_bytes_max, limits.watches_max) = (100, 0, 0);
    let mut bus = Bus::new(limits);
    let listener = bus.connect(60);
    bus.send(listener, subscribe_pattern(1, "a.**"));
    bus.send(listener, subscribe_pattern(2, "*.a.**"));
    let mut last = listener;
    for number in 0..500 {
        if number % 20 == 0 {
            last = bus.connect(50);
        }
        bus.send(last, open(&format!("a.a.a.a.a.a.{number}")));
    }
    // Each is a branch of every search.
    for number in 0..64_u32 {
        if number % 16 == 0 {
            last = bus.connect(61);
        }
        let pattern = (0..6).map(|bit| if number >> bit & 1 == 0 { "a" } else { "*" }).collect::<Vec<_>>().join(".");
        bus.send(last, subscribe_pattern(number, &format!("{pattern}.x")));
    }
    bus.send(listener, unsubscribe(1));
    assert!(matches!(bus.answer(listener), Control::Unsubscribed(_)));
}

#[test]
fn a_client_that_requests_and_never_reads_is_ended() {
    let mut limits = Limits::default();
    limits.replies_bytes_max = 4096;
    let mut bus = Bus::new(limits);
    let conn = bus.connect(60);
    bus.stalled = true;
    for _ in 0..10_000 {
        bus.send(conn, Inspect::default());
    }
    // 16 times the limit in control frames, and the slots that they wait in.
    assert!(bus.broker.held_bytes() < 64 * 4096, "{} bytes are held", bus.broker.held_bytes());
    bus.stalled = false;
    bus.read(conn);
    bus.is_refused(conn, RefusedCode::Stalled);
    let conn = bus.connect(60);
    bus.stalled = true;
    for _ in 0..100 {
        bus.send(conn, Inspect::default());
    }
    assert_eq!(bus.snapshot_of(conn).phase, ConnPhase::Active, "a burst is no offence");
    bus.now = seconds(1);
    bus.send(conn, Inspect::default());
    assert_eq!(bus.snapshot_of(conn).phase, ConnPhase::Leaving, "but to read nothing for a second is");
}

#[test]
fn a_stalled_listener_with_an_unread_reply_is_not_refused() {
    let mut bus = Bus::new(Limits::default());
    let (listener, sender) = (bus.listener("news"), bus.sender("news"));
    bus.stalled = true;
    bus.publish(sender, 0..1, b"x");
    bus.now = seconds(3);
    bus.send(listener, Inspect::default());
    assert_eq!(bus.snapshot_of(listener).phase, ConnPhase::Active);
}

#[test]
fn a_client_may_request_everything_before_it_reads() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.connect(60);
    bus.stalled = true;
    for number in 0..1024 {
        bus.send(conn, subscribe(number, &format!("{number:0>255}")));
    }
    bus.stalled = false;
    bus.read(conn);
    assert_eq!((bus.ended[conn.0], bus.snapshot_of(conn).subscriptions), (false, 1024));
}

#[test]
fn an_incoming_frame_that_exceeds_the_budget_is_discarded_and_its_sender_goes_on() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1000;
    let mut bus = Bus::new(limits);
    let listener = bus.listener("news");
    let (small, large) = (bus.sender("news"), bus.sender("news"));
    let holding = |conn, bytes| Event::Holding { conn, bytes, frame: Incomplete::Discardable };
    bus.happen(holding(small.conn, 300));
    bus.happen(holding(large.conn, 800));
    assert_eq!(bus.effects.last(), Some(&Effect::Discard(large.conn)));
    assert_eq!(bus.broker.held_bytes(), 300);
    let header = Header::publish(large.channel, large.id, 0, 2000);
    bus.happen(Event::Discarded { conn: large.conn, header });
    bus.happen(Event::Holding { conn: large.conn, bytes: 0, frame: Incomplete::None });
    bus.publish(large, 1..2, b"x");
    let id = large.channel.0;
    let stream = [Received::Name(id, "news".into()), Received::Lost(id, 1), Received::Messages(id, 1)];
    assert_eq!(bus.stream(listener), stream, "the loss is reported at its place");
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_lost, stats.messages_delivered), (2, 1, 1));
    assert_eq!(bus.snapshot_of(listener).messages_lost, 1);
    bus.happen(Event::Holding { conn: small.conn, bytes: 0, frame: Incomplete::None });
    assert_eq!((bus.broker.held_bytes(), bus.ended[small.conn.0], bus.ended[large.conn.0]), (0, false, false));
    let lie = Header::publish(large.channel, large.id, 7, 2000);
    bus.happen(Event::Discarded { conn: large.conn, header: lie });
    bus.is_refused(large.conn, RefusedCode::Protocol);
}

#[test]
fn a_discarded_frame_is_lost_under_every_policy() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect] {
        let mut bus = Bus::new(Limits::default());
        let listener = bus.connect(60);
        bus.send(listener, Subscribe { overflow, ..subscribe(1, "news") });
        let observer = bus.observer(named("news"));
        let sender = bus.sender("news");
        bus.stalled = true;
        bus.publish(sender, 0..1, b"x");
        let header = Header::publish(sender.channel, sender.id, 1, 2000);
        bus.happen(Event::Discarded { conn: sender.conn, header });
        bus.publish(sender, 2..3, b"x");
        bus.stalled = false;
        bus.read(listener);
        bus.read(observer);
        for conn in [listener, observer] {
            assert_eq!(bus.messages(conn) + bus.lost(conn), 3, "{overflow:?}: {:?}", bus.stream(conn));
        }
        assert_eq!(bus.lost(observer), 1);
        assert_eq!(bus.broker.stats().messages_lost, bus.lost(listener), "the observer's loss is not the bus's");
    }
}

#[test]
fn scripted_losses_are_counted_like_others() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect] {
        let mut bus = Bus::new(Limits::default());
        let lost = |channel: &str, messages| Event::Lost { channel: ChannelName::new(channel).unwrap(), messages };
        bus.happen(lost("news", 9)); // there is no such channel
        let listener = bus.connect(60);
        bus.send(listener, Subscribe { overflow, ..subscribe(1, "news") });
        let (other, observer) = (bus.listener("other"), bus.observer(named("news")));
        let sender = bus.sender("news");
        bus.publish(sender, 0..1, b"x");
        bus.happen(lost("news", 3));
        bus.happen(lost("news", 0));
        bus.publish(sender, 1..2, b"x");
        for conn in [listener, observer] {
            let stream = bus.stream(conn);
            let [.., Received::Messages(_, 1), Received::Lost(_, 3), Received::Messages(_, 1)] = stream[..] else {
                panic!("{overflow:?}: {stream:?}");
            };
        }
        assert_eq!(bus.lost(other), 0);
        let stats = bus.broker.stats();
        assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (5, 2, 3));
    }
}

/// Connections with frames of these sizes, each of which has taken all of its frame but 100 bytes.
fn half_written(bus: &mut Bus, sizes: &[usize]) -> Vec<ConnId> {
    bus.stalled = false;
    let names: Vec<_> = (0..sizes.len()).map(|number| format!("channel.{number}")).collect();
    let listeners: Vec<_> = names.iter().map(|name| bus.listener(name)).collect();
    let senders: Vec<_> = names.iter().map(|name| bus.sender(name)).collect();
    bus.stalled = true;
    for ((&listener, &sender), &size) in listeners.iter().zip(&senders).zip(sizes) {
        bus.publish(sender, 0..1, &vec![7; size]);
        // Nothing but a report of the loss waits if the frame exceeded the budget.
        if let Some(taken @ 1..) = bus.waiting(listener).checked_sub(100) {
            bus.take(listener, taken);
        }
    }
    listeners
}

#[test]
fn half_written_frames_of_stalled_listeners_are_given_up_when_the_budget_needs_them() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (40_000, 100_000);
    let mut bus = Bus::new(limits);
    let stalled = half_written(&mut bus, &[6000, 12_000, 9000]);
    assert!(bus.broker.held_bytes() > 27_000, "the half-written frames are counted as held");
    bus.now = seconds(60);
    bus.happen(Event::Tick);
    assert!(stalled.iter().all(|listener| !bus.ended[listener.0]), "nothing happens while the budget suffices");
    bus.stalled = false;
    let healthy = ["news", "sync"].map(|name| (bus.listener(name), bus.sender(name)));
    bus.stalled = true;
    for (_, sender) in healthy {
        bus.publish(sender, 0..1, &[7; 8000]);
    }
    assert!(bus.ended[stalled[1].0], "the largest holder without progress is disconnected");
    assert!(!bus.ended[stalled[0].0] && !bus.ended[stalled[2].0], "no more than needed");
    assert_eq!(bus.broker.stats().connections_refused, 1);
    bus.stalled = false;
    for (listener, sender) in healthy {
        bus.read(listener);
        assert_eq!((bus.messages(listener), bus.ended[sender.conn.0]), (1, false));
    }
    assert_eq!(bus.broker.stats().messages_lost, 0);
}

#[test]
fn a_stalled_connection_loses_what_waits_for_it_before_it_is_ended() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (80_000, 1_000_000);
    let mut bus = Bus::new(limits);
    let (slow, news) = (bus.listener("slow"), bus.listener("news"));
    let (to_slow, to_news) = (bus.sender("slow"), bus.sender("news"));
    bus.stalled = true;
    bus.publish(to_slow, 0..3, &[7; 1000]);
    for number in 3..60 {
        bus.publish(to_slow, number..number + 1, &[7; 1000]);
    }
    bus.take(slow, 2 * 1028 + 10);
    bus.now = seconds(60);
    // More than half of what waits has to go.
    bus.publish(to_news, 0..1, &[7; 60_000]);
    assert!(bus.broker.held_bytes() <= 80_000);
    let lost = bus.snapshot_of(slow).messages_lost;
    assert!(lost > 30 && !bus.ended[slow.0] && bus.snapshot_of(news).messages_lost == 0, "{lost} were lost");
    assert_eq!(bus.broker.stats().messages_delivered, 2, "what was written before the loss");
}

#[test]
fn what_observers_give_up_may_not_suffice() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 20_000;
    let mut bus = Bus::new(limits);
    let sender = bus.sender("news");
    let (observer, listener) = (bus.observer(named("news")), bus.listener("news"));
    bus.stalled = true;
    for number in 0..5 {
        // Both hold the same memory.
        bus.publish(sender, number..number + 1, &[7; 6000]);
    }
    assert!(bus.broker.held_bytes() <= 20_000);
    assert!([observer, listener].iter().all(|conn| bus.snapshot_of(*conn).messages_lost > 0));
}

#[test]
fn a_connection_without_subscriptions_is_no_observer() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (20_000, 100_000);
    let mut bus = Bus::new(limits);
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    bus.stalled = true;
    (0..40).for_each(|_| bus.send(sender.conn, Inspect::default()));
    for number in 0..3 {
        bus.publish(sender, number..number + 1, &[7; 6000]);
    }
    assert!(bus.snapshot_of(listener).messages_lost > 0 && !bus.ended[sender.conn.0]);
}

#[test]
fn a_listener_that_makes_progress_is_not_ended() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (40_000, 100_000);
    let mut bus = Bus::new(limits);
    let [slow, stalled] = half_written(&mut bus, &[14_000, 6000])[..] else { panic!("two listeners") };
    bus.now = seconds(5);
    bus.take(slow, 10);
    bus.stalled = false;
    let other = bus.listener("news");
    let sender = bus.sender("news");
    bus.stalled = true;
    for number in 0..3 {
        bus.publish(sender, number..number + 1, &[7; 8000]);
    }
    assert!(!bus.ended[slow.0], "the largest frame waits for it, but it is not stalled");
    assert_eq!((bus.ended[stalled.0], bus.ended[other.0]), (true, false));
    assert_eq!(
        bus.broker.stats().messages_lost,
        0,
        "nothing is lost while a stalled connection has something to give up"
    );
    bus.publish(sender, 3..4, &[7; 8000]);
    assert_eq!((bus.ended[slow.0], bus.snapshot_of(other).messages_lost > 0), (false, true));
    assert!(bus.broker.held_bytes() <= 40_000);
}

#[test]
fn a_large_frame_that_is_taken_bit_by_bit_gives_way_to_smaller_ones() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (30_000, 100_000);
    let mut bus = Bus::new(limits);
    let [slow, slower] = half_written(&mut bus, &[12_000, 9000])[..] else { panic!("two listeners") };
    for seconds_later in [2, 4, 6] {
        bus.now = seconds(seconds_later);
        [slow, slower].into_iter().for_each(|conn| bus.take(conn, 1));
    }
    bus.stalled = false;
    let (listener, sender) = (bus.listener("news"), bus.sender("news"));
    bus.happen(Event::Holding { conn: sender.conn, bytes: 9500, frame: Incomplete::Discardable });
    assert!(!bus.effects.contains(&Effect::Discard(sender.conn)), "the frame of a healthy sender is smaller");
    assert_eq!((bus.ended[slow.0], bus.ended[slower.0]), (true, false), "one is enough");
    bus.happen(Event::Holding { conn: sender.conn, bytes: 0, frame: Incomplete::None });
    bus.publish(sender, 0..1, &[7; 9000]);
    bus.read(listener);
    assert_eq!((bus.messages(listener), bus.broker.stats().messages_lost), (1, 0));
}

#[test]
fn the_budget_is_kept_even_if_half_written_frames_are_all_there_is() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (20_000, 100_000);
    let mut bus = Bus::new(limits);
    let listeners = half_written(&mut bus, &[6000; 8]);
    assert!(bus.broker.held_bytes() <= 20_000, "{} bytes are held", bus.broker.held_bytes());
    let ended = listeners.iter().filter(|listener| bus.ended[listener.0]).count();
    assert_eq!(ended + usize::try_from(bus.broker.stats().messages_lost).unwrap(), 5, "three of eight fit");
}

#[test]
fn observers_give_up_first() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (50_000, 100_000);
    let mut bus = Bus::new(limits);
    let listener = bus.listener("large");
    let observer = bus.observer(named("small"));
    let (large, small) = (bus.sender("large"), bus.sender("small"));
    bus.stalled = true;
    for number in 0..2 {
        bus.publish(large, number..number + 1, &[7; 15_000]);
        bus.publish(small, number..number + 1, &[7; 8000]);
    }
    bus.publish(small, 2..3, &[7; 8000]);
    assert_eq!(bus.broker.stats().messages_lost, 0, "the observer holds less, and loses first");
    assert!(bus.snapshot_of(observer).messages_lost > 0 && bus.snapshot_of(listener).messages_lost == 0);
    assert!(bus.broker.held_bytes() <= 50_000);
}

#[test]
fn a_stalled_observer_is_ended_before_a_listener_loses() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (100_000, 100_000);
    let mut bus = Bus::new(limits);
    let observer = bus.observer(named("large"));
    let (large, news) = (bus.sender("large"), bus.sender("news"));
    let listener = bus.listener("news");
    bus.stalled = true;
    bus.publish(large, 0..1, &[7; 80_000]);
    let taken = bus.waiting(observer) - 100;
    bus.take(observer, taken);
    bus.publish(news, 0..1, &[7; 30_000]);
    assert!(bus.ended[observer.0], "a half-written frame of an observer is given up without delay");
    bus.stalled = false;
    bus.read(listener);
    assert_eq!((bus.messages(listener), bus.lost(listener)), (1, 0));
}

#[test]
fn unread_replies_are_a_part_of_the_budget() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 100_000;
    let mut bus = Bus::new(limits);
    let unread: Vec<_> = (0..4).map(|_| bus.connect(60)).collect();
    bus.stalled = true;
    for &conn in &unread {
        for _ in 0..500 {
            bus.send(conn, Inspect::default());
        }
        assert!(bus.broker.held_bytes() <= 100_000, "{} bytes are held", bus.broker.held_bytes());
    }
    assert!(unread.iter().any(|conn| bus.ended[conn.0]));
}

#[test]
fn the_client_that_requested_the_stop_gets_its_goodbye_last() {
    let mut bus = Bus::new(Limits::default());
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    let inspector = bus.connect(70);
    bus.stalled = true;
    bus.publish(sender, 0..1, b"x");
    bus.send(inspector, Stop::default());
    bus.happen(Event::Drained);
    bus.stalled = false;
    bus.close(sender.conn);
    assert!(!bus.ended[inspector.0], "the listener has not read yet");
    bus.read(listener);
    assert!(bus.ended[listener.0] && bus.ended[inspector.0]);
    assert_eq!(bus.messages(listener), 1);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn a_client_that_has_not_introduced_itself_is_refused_at_a_stop() {
    let mut bus = Bus::new(Limits::default());
    let (silent, greeted) = (bus.connect_as(60, UID), bus.connect(60));
    bus.happen(Event::Stop);
    bus.happen(Event::Drained);
    bus.is_refused(silent, RefusedCode::Stopping);
    assert!(matches!(bus.received[greeted.0].last(), Some(Item::Control(Control::Goodbye(_)))));
}

#[test]
fn observers_get_their_goodbye_when_the_lock_is_free() {
    let mut bus = Bus::new(Limits::default());
    let listener = bus.listener("news");
    let observer = bus.observer(Selector::All);
    let sender = bus.sender("news");
    bus.stalled = true;
    bus.publish(sender, 0..1, b"x");
    bus.happen(Event::Stop);
    bus.happen(Event::Drained);
    bus.stalled = false;
    bus.close(sender.conn);
    bus.read(observer);
    assert!(!bus.ended[observer.0] && !bus.effects.contains(&Effect::Release), "the listener has not read yet");
    bus.send(observer, subscribe(2, "news"));
    bus.send(observer, open("news"));
    assert_eq!(bus.broker.snapshot(bus.now).channels, [], "requests come too late");
    bus.read(listener);
    bus.read(observer);
    assert!(bus.ended[listener.0] && bus.ended[observer.0]);
    assert_eq!(bus.effects.iter().filter(|&effect| *effect == Effect::Release).count(), 1);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn all_but_those_that_only_look_get_their_goodbye_before_the_lock_is_free() {
    let mut bus = Bus::new(Limits::default());
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    let greeting = bus.connect_as(80, UID);
    bus.stalled = true;
    bus.publish(sender, 0..1, b"x");
    bus.happen(Event::Stop);
    bus.happen(Event::Drained);
    bus.read(sender.conn);
    bus.read(greeting);
    assert_eq!([listener, sender.conn, greeting].map(|conn| bus.ended[conn.0]), [false, true, true]);
    bus.read(listener);
    assert!(!bus.effects.contains(&Effect::Release), "nothing is left that only looks");
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn one_frame_always_fits_and_the_next_one_drops_it() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 100;
    let mut bus = Bus::new(limits);
    let listener = bus.listener("news");
    let sender = bus.sender("news");
    bus.stalled = true;
    for sequence in 0..3 {
        bus.publish(sender, sequence..sequence + 1, &[7; 5000]);
    }
    assert_eq!(bus.broker.stats().messages_lost, 2);
    bus.stalled = false;
    bus.read(listener);
    match &bus.received[listener.0][3..] {
        [Item::Control(Control::Lagged(lagged)), Item::Run(run)] => {
            assert_eq!((lagged.count, run.first(), run.messages()), (2, 2, 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bus.broker.held_bytes(), 0, "what was written is released");
}

#[test]
fn outbox_is_limited_in_messages_too() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 10;
    let mut bus = Bus::new(limits);
    bus.listener("news");
    let sender = bus.sender("news");
    bus.stalled = true;
    bus.publish(sender, 0..25, b"");
    assert_eq!(bus.broker.stats().messages_lost, 15, "no more than needed");
}

#[test]
fn each_channel_counts_its_own_losses() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 5;
    let mut bus = Bus::new(limits);
    let listener = bus.listener("a");
    bus.send(listener, subscribe(2, "b"));
    let (a, b) = (bus.sender("a"), bus.sender("b"));
    bus.stalled = true;
    bus.publish(a, 0..2, b"");
    bus.publish(b, 0..3, b"");
    bus.publish(a, 2..6, b"");
    let lost: Vec<_> = bus.broker.snapshot(bus.now).channels.iter().map(|channel| channel.messages_lost).collect();
    assert_eq!(lost, [2, 2], "the two oldest of each, in one step");
}

#[test]
fn a_subscriber_that_chose_to_be_disconnected_is() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 10;
    let mut bus = Bus::new(limits);
    let listener = bus.connect(60);
    bus.send(listener, Subscribe { overflow: Overflow::Disconnect, ..subscribe(1, "news") });
    let sender = bus.sender("news");
    bus.stalled = true;
    bus.publish(sender, 0..10, b"");
    bus.publish(sender, 10..11, b"");
    bus.stalled = false;
    bus.read(listener);
    bus.is_refused(listener, RefusedCode::TooSlow);
    assert_eq!(bus.broker.stats().messages_lost, 11);
}

#[test]
fn idle_broker_drains_and_exits() {
    let mut limits = Limits::default();
    limits.idle_exit_after = Some(Duration::from_secs(5));
    let mut bus = Bus::new(limits);
    assert_eq!(bus.broker.next_deadline(), Some(seconds(5)));
    bus.now = seconds(4);
    let conn = bus.connect(60);
    assert_eq!(bus.broker.next_deadline(), None, "a daemon with a connection is not idle");
    bus.close(conn);
    assert_eq!(bus.broker.next_deadline(), Some(seconds(9)));
    bus.now = seconds(9);
    bus.happen(Event::Tick);
    assert_eq!(bus.effects.last(), Some(&Effect::Drain));
    let late = bus.connect_as(61, UID);
    bus.is_refused(late, RefusedCode::Stopping);
    bus.happen(Event::Drained);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn an_observer_receives_what_has_no_listener_and_does_not_count() {
    let mut bus = Bus::new(Limits::default());
    let all = bus.observer(Selector::All);
    let some = bus.observer(named("news"));
    let (sender, other) = (bus.sender("news"), bus.sender("other"));
    bus.publish(sender, 0..3, b"x");
    bus.publish(other, 0..1, b"y");
    bus.publish(sender, 3..4, b"x");
    bus.close(sender.conn);
    let (news, end) = (sender.channel.0, other.channel.0);
    let of_news = [
        Received::Name(news, "news".into()),
        Received::Messages(news, 3),
        Received::Messages(news, 1),
        Received::Name(news, String::new()),
    ];
    assert_eq!(bus.stream(some), of_news);
    let [name, three, one, gone] = of_news;
    let others = [Received::Name(end, "other".into()), Received::Messages(end, 1)];
    assert_eq!(bus.stream(all), [name, three].into_iter().chain(others).chain([one, gone]).collect::<Vec<_>>());
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (5, 0, 0));
    let late = bus.sender("news").conn;
    let Some(Item::Control(Control::Opened(opened))) = bus.received[late.0].last() else { panic!("not opened") };
    assert_eq!(opened.listeners, 0, "an observer is not a listener");
}

#[test]
fn a_slow_observer_receives_a_report_of_its_loss_and_the_bus_loses_nothing() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 4;
    let mut bus = Bus::new(limits);
    let sender = bus.sender("news");
    let listener = bus.listener("news");
    let observer = bus.observer(Selector::All);
    bus.stalled = true;
    bus.publish(sender, 0..3, b"x");
    bus.read(listener);
    bus.publish(sender, 3..10, b"x");
    bus.read(listener);
    let lost_by_listener = bus.broker.stats().messages_lost;
    bus.read(observer);
    let (received, lost) = (bus.messages(observer), bus.lost(observer));
    assert_eq!((received + lost, lost > 0), (10, true), "{:?}", bus.stream(observer));
    assert_eq!(bus.broker.stats().messages_lost, lost_by_listener, "what an observer loses is no loss of the bus");
    let of_observer = bus.snapshot_of(observer);
    assert_eq!((of_observer.observers, of_observer.messages, of_observer.messages_lost), (1, received, lost));
    let channel = &bus.broker.snapshot(bus.now).channels[0];
    let of_listener = bus.snapshot_of(listener).messages_lost;
    assert_eq!((of_listener, channel.messages_lost), (lost_by_listener, lost_by_listener));
    assert_eq!((bus.snapshot_of(sender.conn).messages, channel.messages_accepted), (10, 10));
}

#[test]
fn observing_connections_are_limited() {
    let mut limits = Limits::default();
    limits.observers_max = 2;
    let mut bus = Bus::new(limits);
    let first = bus.observer(Selector::All);
    let second = bus.observer(named("a"));
    bus.send(second, observe(2, named("b")));
    let third = bus.observer(Selector::All);
    bus.is_declined(third, kind::SUBSCRIBE, 1, RefusedCode::Connections);
    bus.send(second, unsubscribe(1));
    bus.send(third, observe(1, Selector::All));
    bus.is_declined(third, kind::SUBSCRIBE, 1, RefusedCode::Connections);
    bus.send(second, unsubscribe(2));
    bus.send(third, observe(1, Selector::All));
    assert!(matches!(bus.answer(third), Control::Subscribed(_)), "a connection without an observer does not observe");
    bus.close(first);
    let fourth = bus.observer(Selector::All);
    assert!(matches!(bus.answer(fourth), Control::Subscribed(_)));
}

#[test]
fn an_observer_that_never_reads_names_is_refused() {
    let mut limits = Limits::default();
    limits.replies_bytes_max = 200;
    let mut bus = Bus::new(limits);
    let observer = bus.observer(Selector::All);
    let senders: Vec<_> = (0..10).map(|n| bus.sender(&format!("channel.{n}"))).collect();
    bus.stalled = true;
    for (number, sender) in (0..).zip(senders) {
        bus.now = Moment(Duration::from_millis(200 * number));
        bus.publish(sender, 0..1, b"x");
    }
    bus.happen(Event::Written { conn: observer, bytes: 0, blocked: true });
    bus.stalled = false;
    bus.read(observer);
    bus.is_refused(observer, RefusedCode::Stalled);
}

#[test]
fn a_watch_reports_the_listeners_that_a_name_has_and_gets() {
    let mut bus = Bus::new(Limits::default());
    let [early, late, all] = [11, 12, 13].map(|pid| bus.connect(pid));
    bus.send(early, subscribe(1, "a.b"));
    bus.observer(named("a.b"));
    let watcher = bus.connect(99);
    bus.send(watcher, watch(7, "a.b"));
    assert_eq!(bus.presence(watcher), ["7: 1 listen", "7: +11"]);
    bus.send(late, subscribe_pattern(1, "a.*"));
    bus.send(late, subscribe(2, "a.b"));
    bus.send(early, subscribe_all(2));
    bus.send(all, subscribe_all(1));
    bus.send(all, subscribe(2, "other"));
    bus.send(late, unsubscribe(1));
    bus.send(early, unsubscribe(1));
    let joined = ["7: +12", "7: +13"];
    assert_eq!(
        bus.presence(watcher)[2..],
        joined,
        "a connection joins once, however many of its subscriptions cover the name"
    );
    bus.send(late, unsubscribe(2));
    bus.close(all);
    bus.send(early, observe(3, named("a.b")));
    bus.send(early, unsubscribe(2));
    assert_eq!(bus.presence(watcher)[4..], ["7: -12", "7: -13", "7: -11"], "an observer is no listener");
    bus.send(watcher, unwatch(7));
    bus.send(early, subscribe(1, "a.b"));
    assert_eq!(bus.presence(watcher)[7..], ["7: unwatched"]);
}

#[test]
fn a_watched_name_need_not_be_a_channel_and_a_watch_does_not_keep_it() {
    let mut bus = Bus::new(Limits::default());
    let [pattern, other] = [11, 12].map(|pid| bus.connect(pid));
    bus.send(pattern, subscribe_pattern(1, "a.**"));
    bus.send(other, subscribe_pattern(1, "b.**"));
    let watcher = bus.connect(99);
    bus.send(watcher, watch(1, "a.b"));
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 0);
    bus.open_and_close("a.b");
    assert_eq!(
        bus.presence(watcher),
        ["1: 1 listen", "1: +11"],
        "that a channel begins or ends is no matter of presence"
    );
    assert_eq!(bus.broker.snapshot(bus.now).channels.len(), 0);
    // Another watch of the name begins with what the first one knows, and the connection may watch what it listens to.
    bus.send(other, watch(5, "a.b"));
    bus.send(other, subscribe(2, "a.b"));
    bus.send(other, watch(6, "a.b"));
    assert_eq!(bus.presence(other), ["5: 1 listen", "5: +11", "5: +12", "6: 2 listen", "6: +11", "6: +12"]);
    bus.close(pattern);
    assert_eq!(
        (bus.presence(watcher)[2..].join(" "), bus.presence(other)[6..].join(" ")),
        ("1: +12 1: -11".into(), "5: -11 6: -11".into())
    );
    bus.close(watcher);
    bus.close(other);
    assert_eq!(bus.broker.snapshot(bus.now).connections.len(), 0);
}

#[test]
fn watches_are_made_once_and_limited() {
    let mut limits = Limits::default();
    (limits.watches_max, limits.channels_per_connection_max) = (3, 2);
    let mut bus = Bus::new(limits);
    let (first, second) = (bus.connect(11), bus.connect(12));
    for number in 1..=2 {
        bus.send(first, watch(number, "a"));
    }
    bus.send(first, watch(3, "b"));
    let reason = bus.is_declined(first, kind::WATCH, 3, RefusedCode::Channels);
    assert_eq!(reason, "this connection has 2 publications, subscriptions and watches; the limit is 2");
    bus.send(second, watch(1, "a"));
    bus.send(second, watch(2, "b"));
    let reason = bus.is_declined(second, kind::WATCH, 2, RefusedCode::Channels);
    assert_eq!(reason, "the limit of 3 for the watches of all connections is reached");
    bus.send(first, unwatch(2));
    bus.send(second, watch(2, "b"));
    assert_eq!(bus.presence(second), ["1: 0 listen", "2: 0 listen"]);
    bus.close(second);
    bus.send(first, watch(2, "b"));
    assert_eq!(bus.presence(first).last().unwrap(), "2: 0 listen", "the watches of a connection end with it");
    for bad in [Control::from(watch(1, "c")), unwatch(3).into(), watch(4, "a/b").into()] {
        let conn = bus.connect(13);
        bus.send(conn, watch(1, "a"));
        bus.send(conn, bad);
        bus.is_refused(conn, RefusedCode::Protocol);
    }
}

#[test]
fn presence_costs_its_share_of_a_turn() {
    let mut bus = Bus::new(Limits::default());
    let listeners: Vec<_> = (0..TURN_WORK_MAX / 64).map(|_| bus.connect(0)).collect();
    for &listener in &listeners[..100] {
        bus.send(listener, subscribe(1, "a"));
    }
    let watchers: Vec<_> = (0..TURN_WORK_MAX / 100).map(|_| bus.connect(0)).collect();
    let watched = events_in_a_turn(&mut bus, |at| Event::Control { conn: watchers[at], control: watch(1, "a").into() });
    assert_eq!(watched, (TURN_WORK_MAX - 100).div_ceil(100), "one unit for each listener, and at first to find it");
    let joined = events_in_a_turn(&mut bus, |at| Event::Control {
        conn: listeners[100 + at],
        control: subscribe(1, "a").into(),
    });
    assert_eq!(joined, TURN_WORK_MAX.div_ceil(watched + 1), "one unit for each watch");
}

#[test]
fn a_watcher_that_does_not_read_is_refused() {
    let mut limits = Limits::default();
    limits.replies_bytes_max = 100;
    let mut bus = Bus::new(limits);
    let (watcher, reader) = (bus.connect(11), bus.connect(12));
    bus.send(watcher, watch(1, "a"));
    bus.stalled = true;
    for number in 0..8 {
        let listener = bus.connect_as(20 + number, UID);
        bus.send(listener, handshake::hello("a test", "test", 20 + number, 7));
        bus.send(listener, subscribe(1, "a"));
        bus.happen(Event::Written { conn: watcher, bytes: 0, blocked: true });
        bus.now = bus.now.after(Duration::from_millis(300));
    }
    bus.stalled = false;
    bus.read(watcher);
    bus.is_refused(watcher, RefusedCode::Stalled);
    bus.send(reader, watch(1, "a"));
    assert_eq!(bus.presence(reader)[0], "1: 8 listen", "its next connection begins with those that are there");
}

#[test]
fn a_reply_reaches_exactly_its_requester_and_is_not_copied() {
    let mut bus = Bus::new(Limits::default());
    let (requester, inbox) = bus.requester();
    let (other, other_inbox) = bus.requester();
    assert_ne!(inbox, other_inbox);
    let listener = bus.listener("news");
    bus.listen_to_all();
    bus.stalled = true;
    let run = reply(inbox, bus.id_of(listener), 7, &[9; 70_000]);
    let bytes = run.bytes().clone();
    bus.happen(Event::Run { conn: listener, run });
    let outgoing: Vec<_> = bus.broker.outgoing(requester).map(<[u8]>::as_ptr_range).collect();
    assert_eq!(outgoing, [bytes.as_ptr_range()], "the bytes that were read");
    assert!(bus.broker.held_bytes() > 70_000, "a reply is charged");
    bus.stalled = false;
    bus.read(requester);
    bus.reply(listener, inbox, 8, b"");
    let replier = bus.id_of(listener);
    assert_eq!(bus.replies(requester), [(7, replier), (8, replier)]);
    assert_eq!((bus.broker.held_bytes(), bus.replies(other).len()), (0, 0));
    let stats = bus.broker.stats();
    assert_eq!((stats.replies_accepted, stats.replies_dropped, stats.messages_delivered), (2, 0, 2));
    assert_eq!(bus.snapshot_of(listener).messages, 2);
}

#[test]
fn an_inbox_is_not_a_channel_and_a_connection_has_one() {
    let mut bus = Bus::new(Limits::default());
    let (requester, inbox) = bus.requester();
    assert_eq!(bus.open_inbox(requester), inbox, "the same one");
    let snapshot = bus.broker.snapshot(bus.now);
    assert_eq!((snapshot.channels.len(), bus.broker.report(bus.now).channels), (0, 0));
    let sender = bus.sender("news");
    assert_ne!(sender.channel, inbox, "no channel has its id");
    bus.publish(Sender { channel: inbox, ..sender }, 0..1, b"x");
    bus.is_refused(sender.conn, RefusedCode::Protocol);
}

#[test]
fn a_reply_to_an_inbox_that_is_gone_is_dropped_and_counted() {
    let mut bus = Bus::new(Limits::default());
    let (requester, inbox) = bus.requester();
    let listener = bus.listener("news");
    bus.close(requester);
    bus.reply(listener, inbox, 0, b"late");
    bus.reply(listener, ChannelId(u32::MAX), 0, b"never there");
    let channel = bus.sender("news").channel;
    bus.reply(listener, channel, 0, b"not an inbox");
    let header = Header::reply(inbox, bus.id_of(listener), 0, 100_000);
    bus.happen(Event::Discarded { conn: listener, header });
    let stats = bus.broker.stats();
    assert_eq!((stats.replies_accepted, stats.replies_dropped, stats.messages_lost), (4, 4, 0));
    assert!(!bus.ended[listener.0], "it is not an error");
    assert_eq!((bus.broker.held_bytes(), bus.messages(listener)), (0, 0));
    let (_, next) = bus.requester();
    assert_ne!(next, inbox, "an id is not used again at once");
}

#[test]
fn replies_that_came_first_stay_while_their_requester_does_not_read() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 10;
    let mut bus = Bus::new(limits);
    let (requester, inbox) = bus.requester();
    let (listener, innocent) = (bus.listener("news"), bus.listener("other"));
    let sender = bus.sender("other");
    bus.stalled = true;
    for request in 0..25 {
        bus.reply(listener, inbox, request, b"x");
    }
    let (waiting, held) = (bus.broker.queue(requester).0, bus.broker.held_bytes());
    assert_eq!(waiting, 10);
    bus.reply(listener, inbox, 25, b"x");
    assert_eq!(bus.broker.held_bytes(), held, "what exceeds the outbox costs nothing");
    bus.stalled = false;
    bus.read(requester);
    assert_eq!(bus.replies(requester).iter().map(|reply| reply.0).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(bus.stream(requester).last(), Some(&Received::Lost(inbox.0, 16)));
    let stats = bus.broker.stats();
    assert_eq!((stats.replies_accepted, stats.messages_lost, stats.replies_dropped), (26, 16, 0));
    assert_eq!(bus.snapshot_of(requester).messages_lost, 16);
    bus.publish(sender, 0..5, b"x");
    assert_eq!((bus.messages(innocent), bus.lost(innocent)), (5, 0));
}

#[test]
fn a_requester_that_disappears_releases_the_replies_that_wait_for_it() {
    let mut bus = Bus::new(Limits::default());
    let (requester, inbox) = bus.requester();
    let listener = bus.listener("news");
    bus.stalled = true;
    for request in 0..100 {
        bus.reply(listener, inbox, request, &[7; 10_000]);
    }
    bus.take(requester, 15_000);
    assert!(bus.broker.held_bytes() > 900_000);
    bus.close(requester);
    assert_eq!(bus.broker.held_bytes(), 0);
}

#[test]
fn a_reply_without_its_body_is_lost_by_its_requester() {
    let mut bus = Bus::new(Limits::default());
    let (requester, inbox) = bus.requester();
    let listener = bus.listener("news");
    let header = Header::reply(inbox, bus.id_of(listener), 3, 2000);
    bus.happen(Event::Discarded { conn: listener, header });
    assert_eq!(bus.stream(requester), [Received::Lost(inbox.0, 1)]);
    let stats = bus.broker.stats();
    assert_eq!((stats.replies_accepted, stats.replies_dropped, stats.messages_lost), (1, 0, 1));
}

#[test]
fn replies_have_the_id_of_a_connection_that_has_published_or_listened() {
    let bus = || {
        let mut bus = Bus::new(Limits::default());
        let (_, inbox) = bus.requester();
        (bus, inbox)
    };
    let refused_after = |mut bus: Bus, conn: ConnId, run: Run, reason: &str| {
        bus.happen(Event::Run { conn, run });
        bus.is_refused(conn, RefusedCode::Protocol);
        assert!(bus.refusal(conn).reason.contains(reason), "{}", bus.refusal(conn).reason);
        assert_eq!(bus.broker.stats().replies_accepted, 0);
    };
    let (mut b, inbox) = bus();
    let conn = b.connect_as(1, UID);
    refused_after(b, conn, reply(inbox, SenderId::new(1, 7), 0, b"x"), "before the Hello");
    let (mut b, inbox) = bus();
    let conn = b.connect(1);
    let run = reply(inbox, b.id_of(conn), 0, b"x");
    assert_eq!(b.broker.payload_bytes_max(conn), 0);
    refused_after(b, conn, run, "neither published nor listened");
    let (mut b, inbox) = bus();
    let conn = b.observer(named("news"));
    let run = reply(inbox, b.id_of(conn), 0, b"x");
    assert_eq!(b.broker.payload_bytes_max(conn), 0, "an observer affects nothing");
    refused_after(b, conn, run, "neither published nor listened");
    let (mut b, inbox) = bus();
    let (conn, other) = (b.listener("news"), b.listener("news"));
    let run = reply(inbox, b.id_of(other), 0, b"x");
    refused_after(b, conn, run, "carries the sender");

    let (mut bus, inbox) = bus();
    let (sender, listener) = (bus.sender("news").conn, bus.listener("news"));
    bus.send(listener, unsubscribe(1));
    for conn in [sender, listener] {
        assert_eq!(bus.broker.payload_bytes_max(conn), PAYLOAD_BYTES_MAX);
        bus.reply(conn, inbox, 0, b"x");
    }
    assert_eq!(bus.broker.stats().replies_accepted, 2, "a request may have come before the subscription ended");
}
