//! Who may do what, and every limit reached: the broker by itself, one event after the other.

#![allow(clippy::unwrap_used)]

use broadcaster_broker::{Broker, ConnId, Effect, Event, Limits, Moment, PeerRole};
use broadcaster_protocol::control::{Control, Monitor, Open, Overflow, Refused, RefusedCode, Role, Subscribe};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId, handshake};
use bytes::{BufMut, BytesMut};
use std::time::Duration;

const UID: u32 = 1000;

/// A broker whose connections all read at once, and what was said to each.
struct Bus {
    broker: Broker,
    now: Moment,
    said: Vec<Vec<Item>>,
    ended: Vec<bool>,
    effects: Vec<Effect>,
    /// Nobody reads.
    deaf: bool,
}

impl Bus {
    fn new(limits: Limits) -> Self {
        let now = Moment::default();
        let broker = Broker::new(limits, UID, 1, "test", now);
        Self { broker, now, said: Vec::new(), ended: Vec::new(), effects: Vec::new(), deaf: false }
    }

    fn tell(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.broker.handle(self.now, event, &mut effects);
        for effect in effects {
            self.effects.push(effect);
            match effect {
                Effect::Write(conn) if !self.deaf => self.read(conn),
                Effect::Close(conn) => self.close(conn),
                Effect::Write(_) | Effect::Drain | Effect::Release | Effect::Exit => {}
            }
        }
    }

    fn read(&mut self, conn: ConnId) {
        let outgoing: Vec<u8> = self.broker.outgoing(conn).flatten().copied().collect();
        if outgoing.is_empty() {
            return;
        }
        let (mut decoder, mut chunk) = (Decoder::consumer(PAYLOAD_BYTES_MAX), BytesMut::new());
        decoder.target(&mut chunk).put_slice(&outgoing);
        while let Some(item) = decoder.next(&mut chunk).unwrap() {
            self.said[conn.0].push(item);
        }
        self.tell(Event::Written { conn, bytes: outgoing.len() });
    }

    fn close(&mut self, conn: ConnId) {
        if !std::mem::replace(&mut self.ended[conn.0], true) {
            self.tell(Event::Closed { conn });
        }
    }

    fn open_as(&mut self, pid: u32, uid: u32) -> ConnId {
        let conn = ConnId(self.said.len());
        self.said.push(Vec::new());
        self.ended.push(false);
        self.tell(Event::Opened { conn, pid, uid });
        conn
    }

    fn greet(&mut self, role: Role, pid: u32) -> ConnId {
        let conn = self.open_as(pid, UID);
        self.say(conn, Control::Hello(handshake::hello(role, "test", pid, 7)));
        conn
    }

    fn say(&mut self, conn: ConnId, control: Control) {
        self.tell(Event::Control { conn, control });
    }

    /// Greets and joins without reading an answer.
    fn greet_deaf(&mut self, role: Role, channel: &str) -> ConnId {
        let conn = self.greet(role, 50);
        self.say(
            conn,
            match role {
                Role::Sender => Control::Open(Open { channel: channel.to_owned(), next_sequence: 0 }),
                _ => subscribe(channel),
            },
        );
        let waiting: usize = self.broker.outgoing(conn).map(<[u8]>::len).sum();
        self.deaf = false;
        self.read(conn);
        self.deaf = true;
        assert!(waiting > 0);
        conn
    }

    fn channel_of(&self, sender: ConnId) -> ChannelId {
        let opened = self.said[sender.0].iter().find_map(|item| match item {
            Item::Control(Control::Opened(opened)) => Some(ChannelId(opened.channel)),
            _ => None,
        });
        opened.unwrap()
    }

    fn sender(&mut self, channel: &str) -> (ConnId, SenderId, ChannelId) {
        let conn = self.greet(Role::Sender, 50);
        self.say(conn, Control::Open(Open { channel: channel.to_owned(), next_sequence: 0 }));
        let [Item::Control(Control::Welcome(welcome)), Item::Control(Control::Opened(opened))] = &self.said[conn.0][..]
        else {
            panic!("{:?}", self.said[conn.0]);
        };
        (conn, SenderId::from_raw(welcome.sender), ChannelId(opened.channel))
    }

    fn listener(&mut self, channel: &str) -> ConnId {
        let conn = self.greet(Role::Listener, 60);
        self.say(conn, subscribe(channel));
        conn
    }

    fn monitor(&mut self, channels: &[&str]) -> ConnId {
        let conn = self.greet(Role::Inspector, 70);
        self.say(conn, watch(channels));
        conn
    }

    /// What the connection was told since it began: messages as their channel, others as they are.
    fn shown(&self, conn: ConnId) -> Vec<Shown> {
        let items = self.said[conn.0].iter();
        let shown = items.filter_map(|item| match item {
            Item::Run(run) => Some(Shown::Messages(run.channel().0, run.messages())),
            Item::Control(Control::Named(named)) => Some(Shown::Name(named.channel, named.name.clone())),
            Item::Control(Control::Lagged(lagged)) => Some(Shown::Lost(lagged.channel, lagged.count)),
            Item::Control(_) => None,
        });
        shown.collect()
    }

    /// Why the connection was refused.
    fn refusal(&self, conn: ConnId) -> &Refused {
        match self.said[conn.0].last() {
            Some(Item::Control(Control::Refused(refused))) => refused,
            other => panic!("{conn:?} was not refused but told {other:?}"),
        }
    }

    fn is_refused(&self, conn: ConnId, code: RefusedCode) {
        assert_eq!(self.refusal(conn).code, code, "{}", self.refusal(conn).reason);
        assert!(self.ended[conn.0], "a refused connection is closed");
    }
}

/// What a monitor sees.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Messages(u32, u64),
    Name(u32, String),
    Lost(u32, u64),
}

fn watch(channels: &[&str]) -> Control {
    Control::Monitor(Monitor { channels: channels.iter().map(|&name| name.to_owned()).collect() })
}

fn subscribe(channel: &str) -> Control {
    Control::Subscribe(Subscribe { channel: channel.to_owned(), overflow: Overflow::DropOldest })
}

fn run(channel: ChannelId, sender: SenderId, sequences: std::ops::Range<u64>, payload: &[u8]) -> Run {
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    for sequence in sequences {
        let header = Header::publish(channel, sender, sequence, u32::try_from(payload.len()).unwrap());
        decoder.target(&mut chunk).put_slice(&[header.as_bytes(), payload].concat());
    }
    match decoder.next(&mut chunk).unwrap() {
        Some(Item::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_that_lies_is_refused_and_nobody_hears_it() {
    type Lie = fn(SenderId, ChannelId) -> Run;
    let lies: [(&str, Lie); 4] = [
        ("sequence number 1, where 0 was due", |id, channel| run(channel, id, 1..2, b"skipped")),
        ("carries the sender", |id, channel| run(channel, SenderId::new(id.pid(), 99), 0..1, b"somebody else")),
        ("carries the sender", |id, channel| run(channel, SenderId::new(1, id.number()), 0..1, b"another process")),
        ("is not open here", |id, channel| run(ChannelId(channel.0 + 1), id, 0..1, b"elsewhere")),
    ];
    for (reason, lie) in lies {
        let mut bus = Bus::new(Limits::default());
        let ear = bus.listener("news");
        let (conn, id, channel) = bus.sender("news");
        bus.tell(Event::Run { conn, run: lie(id, channel) });
        bus.is_refused(conn, RefusedCode::Protocol);
        assert!(bus.refusal(conn).reason.contains(reason), "{}", bus.refusal(conn).reason);
        assert!(bus.said[ear.0].iter().all(|item| matches!(item, Item::Control(_))), "nobody hears it");
        assert_eq!(bus.broker.stats().messages_accepted, 0);
    }
}

#[test]
fn a_repeated_number_is_refused() {
    let mut bus = Bus::new(Limits::default());
    let (conn, id, channel) = bus.sender("news");
    bus.tell(Event::Run { conn, run: run(channel, id, 0..3, b"x") });
    bus.tell(Event::Run { conn, run: run(channel, id, 2..3, b"x") });
    bus.is_refused(conn, RefusedCode::Protocol);
}

#[test]
fn roles_are_kept() {
    let publish = run(ChannelId(1), SenderId::new(60, 7), 0..1, b"x");
    for role in [Role::Listener, Role::Inspector] {
        let mut bus = Bus::new(Limits::default());
        let conn = bus.greet(role, 60);
        bus.tell(Event::Run { conn, run: publish.clone() });
        bus.is_refused(conn, RefusedCode::Protocol);
    }
    let wrong = [(Role::Sender, subscribe("x")), (Role::Sender, Control::Inspect), (Role::Listener, Control::Stop)];
    for (role, control) in wrong {
        let mut bus = Bus::new(Limits::default());
        let conn = bus.greet(role, 60);
        bus.say(conn, control);
        bus.is_refused(conn, RefusedCode::Protocol);
    }
    let mut bus = Bus::new(Limits::default());
    let conn = bus.open_as(60, UID);
    bus.tell(Event::Run { conn, run: publish });
    bus.is_refused(conn, RefusedCode::Protocol);
    let conn = bus.open_as(60, UID);
    bus.say(conn, subscribe("x"));
    bus.is_refused(conn, RefusedCode::Protocol);
}

#[test]
fn other_users_are_refused_at_once() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.open_as(60, 1001);
    bus.is_refused(conn, RefusedCode::OtherUser);
    assert!(bus.refusal(conn).reason.contains("uid 1000; you are uid 1001"));
}

#[test]
fn a_sender_number_that_is_taken_is_replaced() {
    let mut bus = Bus::new(Limits::default());
    let (_, first, _) = bus.sender("news");
    let (second_conn, second, _) = bus.sender("news");
    assert_eq!((first.number(), second.number()), (7, 8));
    bus.close(second_conn);
    assert_eq!(bus.sender("news").1, second, "it is free again");
}

#[test]
fn handshake_deadline_is_kept() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.open_as(60, UID);
    assert_eq!(bus.broker.next_deadline(), Some(Moment(Duration::from_secs(2))));
    bus.now = Moment(Duration::from_secs(2));
    bus.tell(Event::Tick);
    bus.is_refused(conn, RefusedCode::Handshake);
    assert_eq!(bus.broker.next_deadline(), None);
}

#[test]
fn who_does_not_read_its_last_word_is_closed_all_the_same() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.greet(Role::Listener, 60);
    bus.deaf = true;
    bus.say(conn, Control::Stop);
    assert!(!bus.ended[conn.0]);
    bus.now = Moment(Duration::from_secs(1));
    bus.tell(Event::Tick);
    assert!(bus.ended[conn.0]);
}

#[test]
fn connections_are_limited_in_all_and_for_each_process() {
    let mut limits = Limits::default();
    (limits.connections_max, limits.connections_per_process_max) = (4, 2);
    let mut bus = Bus::new(limits);
    let first = bus.greet(Role::Listener, 60);
    bus.greet(Role::Listener, 60);
    let third = bus.open_as(60, UID);
    bus.is_refused(third, RefusedCode::Connections);
    bus.close(first);
    bus.greet(Role::Listener, 60);
    bus.greet(Role::Listener, 61);
    bus.greet(Role::Listener, 62);
    let fifth = bus.open_as(63, UID);
    bus.is_refused(fifth, RefusedCode::Connections);
    assert!(bus.refusal(fifth).reason.contains('4'));
}

#[test]
fn channels_are_limited_in_all_and_for_each_connection() {
    let mut limits = Limits::default();
    (limits.channels_max, limits.channels_per_connection_max) = (3, 2);
    let mut bus = Bus::new(limits);
    let one = bus.listener("a");
    bus.say(one, subscribe("b"));
    bus.say(one, subscribe("c"));
    bus.is_refused(one, RefusedCode::Channels);
    // Its channels are gone with it.
    let two = bus.listener("c");
    bus.say(two, subscribe("d"));
    let three = bus.listener("e");
    let four = bus.listener("f");
    bus.is_refused(four, RefusedCode::Channels);
    let five = bus.listener("c");
    assert!(!bus.ended[three.0] && !bus.ended[five.0], "what exists can be joined");
}

#[test]
fn a_channel_is_joined_once_and_named_well() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.listener("a");
    bus.say(conn, subscribe("a"));
    bus.is_refused(conn, RefusedCode::Protocol);
    let conn = bus.listener("a/b");
    bus.is_refused(conn, RefusedCode::Protocol);
    assert!(bus.refusal(conn).reason.contains("\"a/b\""));
}

#[test]
fn who_asks_and_never_reads_is_ended() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.greet(Role::Inspector, 60);
    bus.deaf = true;
    for _ in 0..10_000 {
        bus.say(conn, Control::Inspect);
    }
    let waiting: usize = bus.broker.outgoing(conn).map(<[u8]>::len).sum();
    assert!(waiting < 80 * 1024, "{waiting} bytes wait");
    bus.deaf = false;
    while !bus.ended[conn.0] {
        bus.read(conn);
    }
    bus.is_refused(conn, RefusedCode::Protocol);
}

#[test]
fn frames_under_way_are_charged_and_the_largest_holder_pays() {
    let mut limits = Limits::default();
    limits.held_bytes_max = 1000;
    let mut bus = Bus::new(limits);
    let (small, ..) = bus.sender("news");
    let (large, ..) = bus.sender("news");
    bus.tell(Event::Holding { conn: small, bytes: 300 });
    bus.tell(Event::Holding { conn: large, bytes: 800 });
    bus.is_refused(large, RefusedCode::Memory);
    assert_eq!(bus.broker.held_bytes(), 300);
    bus.tell(Event::Holding { conn: small, bytes: 0 });
    assert_eq!((bus.broker.held_bytes(), bus.ended[small.0]), (0, false));
}

#[test]
fn half_written_frames_do_not_keep_the_budget_from_being_kept() {
    let mut limits = Limits::default();
    (limits.held_bytes_max, limits.outbox_bytes_max) = (20_000, 100_000);
    let mut bus = Bus::new(limits);
    bus.deaf = true;
    let ears: Vec<ConnId> = (0..8).map(|n| bus.greet_deaf(Role::Listener, &n.to_string())).collect();
    for (n, &ear) in ears.iter().enumerate() {
        let conn = bus.greet_deaf(Role::Sender, &n.to_string());
        let channel = bus.channel_of(conn);
        let id = SenderId::new(50, 7 + u32::try_from(n).unwrap());
        bus.tell(Event::Run { conn, run: run(channel, id, 0..1, &[7; 6000]) });
        // Its socket takes all but the end of the frame.
        let waiting: usize = bus.broker.outgoing(ear).map(<[u8]>::len).sum();
        if waiting > 100 {
            bus.tell(Event::Written { conn: ear, bytes: waiting - 100 });
        }
        assert!(bus.broker.held_bytes() <= 20_000, "{} bytes are held", bus.broker.held_bytes());
    }
    assert_eq!(bus.broker.stats().messages_lost, 5, "three of eight fit, the others are told");
}

#[test]
fn whoever_asked_for_the_stop_is_told_last() {
    let mut bus = Bus::new(Limits::default());
    let ear = bus.listener("news");
    let (conn, id, channel) = bus.sender("news");
    let inspector = bus.greet(Role::Inspector, 70);
    bus.deaf = true;
    bus.tell(Event::Run { conn, run: run(channel, id, 0..1, b"x") });
    bus.say(inspector, Control::Stop);
    bus.tell(Event::Drained);
    bus.deaf = false;
    bus.close(conn);
    assert!(!bus.ended[inspector.0], "the listener has not read yet");
    bus.read(ear);
    assert!(bus.ended[ear.0] && bus.ended[inspector.0]);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn monitors_are_told_of_the_stop_when_the_lock_is_free() {
    let mut bus = Bus::new(Limits::default());
    let ear = bus.listener("news");
    let monitor = bus.monitor(&[]);
    let (conn, id, channel) = bus.sender("news");
    bus.deaf = true;
    bus.tell(Event::Run { conn, run: run(channel, id, 0..1, b"x") });
    bus.tell(Event::Stop);
    bus.tell(Event::Drained);
    bus.deaf = false;
    bus.close(conn);
    bus.read(monitor);
    assert!(!bus.ended[monitor.0] && !bus.effects.contains(&Effect::Release), "the listener has not read yet");
    bus.read(ear);
    bus.read(monitor);
    assert!(bus.ended[ear.0] && bus.ended[monitor.0]);
    assert_eq!(bus.effects.iter().filter(|&effect| *effect == Effect::Release).count(), 1);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn one_frame_always_fits_and_the_next_one_drops_it() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 100;
    let mut bus = Bus::new(limits);
    let ear = bus.listener("news");
    let (conn, id, channel) = bus.sender("news");
    bus.deaf = true;
    for sequence in 0..3 {
        bus.tell(Event::Run { conn, run: run(channel, id, sequence..sequence + 1, &[7; 5000]) });
    }
    assert_eq!(bus.broker.stats().messages_lost, 2);
    bus.deaf = false;
    bus.read(ear);
    match &bus.said[ear.0][2..] {
        [Item::Control(Control::Lagged(lagged)), Item::Run(run)] => {
            assert_eq!((lagged.count, run.first(), run.messages()), (2, 2, 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bus.broker.held_bytes(), 0, "what was written is given back");
}

#[test]
fn outbox_is_limited_in_messages_too() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 10;
    let mut bus = Bus::new(limits);
    bus.listener("news");
    let (conn, id, channel) = bus.sender("news");
    bus.deaf = true;
    bus.tell(Event::Run { conn, run: run(channel, id, 0..25, b"") });
    assert_eq!(bus.broker.stats().messages_lost, 15, "no more than needed");
}

#[test]
fn idle_broker_drains_and_exits() {
    let mut limits = Limits::default();
    limits.idle_exit_after = Some(Duration::from_secs(5));
    let mut bus = Bus::new(limits);
    assert_eq!(bus.broker.next_deadline(), Some(Moment(Duration::from_secs(5))));
    bus.now = Moment(Duration::from_secs(4));
    let conn = bus.greet(Role::Listener, 60);
    assert_eq!(bus.broker.next_deadline(), None, "a connection is no idleness");
    bus.close(conn);
    assert_eq!(bus.broker.next_deadline(), Some(Moment(Duration::from_secs(9))));
    bus.now = Moment(Duration::from_secs(9));
    bus.tell(Event::Tick);
    assert_eq!(bus.effects.last(), Some(&Effect::Drain));
    let late = bus.open_as(61, UID);
    bus.is_refused(late, RefusedCode::Stopping);
    bus.tell(Event::Drained);
    assert_eq!(bus.effects.last(), Some(&Effect::Exit));
}

#[test]
fn a_monitor_sees_what_nobody_listens_to_and_counts_for_nothing() {
    let mut bus = Bus::new(Limits::default());
    let all = bus.monitor(&[]);
    let some = bus.monitor(&["news"]);
    let (conn, id, channel) = bus.sender("news");
    let (other, other_id, other_channel) = bus.sender("other");
    bus.tell(Event::Run { conn, run: run(channel, id, 0..3, b"x") });
    bus.tell(Event::Run { conn: other, run: run(other_channel, other_id, 0..1, b"y") });
    bus.tell(Event::Run { conn, run: run(channel, id, 3..4, b"x") });
    bus.close(conn);
    let (news, end) = (channel.0, other_channel.0);
    let of_news = [
        Shown::Name(news, "news".into()),
        Shown::Messages(news, 3),
        Shown::Messages(news, 1),
        Shown::Name(news, String::new()),
    ];
    assert_eq!(bus.shown(some), of_news);
    let [name, three, one, gone] = of_news;
    let others = [Shown::Name(end, "other".into()), Shown::Messages(end, 1)];
    assert_eq!(bus.shown(all), [name, three].into_iter().chain(others).chain([one, gone]).collect::<Vec<_>>());
    let stats = bus.broker.stats();
    assert_eq!((stats.messages_accepted, stats.messages_delivered, stats.messages_lost), (5, 0, 0));
    let (late, _, _) = bus.sender("news");
    let Some(Item::Control(Control::Opened(opened))) = bus.said[late.0].last() else { panic!("not opened") };
    assert_eq!(opened.listeners, 0, "a monitor is no listener");
}

#[test]
fn a_slow_monitor_is_told_what_it_missed_and_the_bus_loses_nothing() {
    let mut limits = Limits::default();
    limits.outbox_messages_max = 4;
    let mut bus = Bus::new(limits);
    let (conn, id, channel) = bus.sender("news");
    let ear = bus.listener("news");
    let monitor = bus.monitor(&[]);
    bus.deaf = true;
    bus.tell(Event::Run { conn, run: run(channel, id, 0..3, b"x") });
    bus.read(ear);
    bus.tell(Event::Run { conn, run: run(channel, id, 3..10, b"x") });
    bus.read(ear);
    let lost_by_listener = bus.broker.stats().messages_lost;
    bus.read(monitor);
    let missed: u64 =
        bus.shown(monitor).iter().map(|shown| if let Shown::Lost(_, count) = shown { *count } else { 0 }).sum();
    let seen: u64 =
        bus.shown(monitor).iter().map(|shown| if let Shown::Messages(_, count) = shown { *count } else { 0 }).sum();
    assert_eq!((seen + missed, missed > 0), (10, true), "{:?}", bus.shown(monitor));
    assert_eq!(bus.broker.stats().messages_lost, lost_by_listener, "what a monitor misses is no loss of the bus");
    let snapshot = bus.broker.snapshot(bus.now);
    let of = |conn| snapshot.connections.iter().find(|connection| connection.conn == conn).unwrap();
    assert_eq!((of(monitor).role, of(monitor).messages, of(monitor).messages_lost), (PeerRole::Monitor, seen, missed));
    assert_eq!((of(ear).messages_lost, snapshot.channels[0].messages_lost), (lost_by_listener, lost_by_listener));
    assert_eq!((of(conn).messages, snapshot.channels[0].messages_accepted), (10, 10));
}

#[test]
fn one_monitor_too_many_is_refused_and_others_may_come_when_one_has_left() {
    let mut limits = Limits::default();
    limits.monitors_max = 2;
    let mut bus = Bus::new(limits);
    let first = bus.monitor(&[]);
    let second = bus.monitor(&["a", "b"]);
    let third = bus.monitor(&[]);
    bus.is_refused(third, RefusedCode::Connections);
    bus.close(first);
    let fourth = bus.monitor(&[]);
    assert!(!bus.ended[second.0] && !bus.ended[fourth.0]);
    let wrong = bus.greet(Role::Inspector, 70);
    bus.close(second);
    bus.say(wrong, watch(&["no/slash"]));
    bus.is_refused(wrong, RefusedCode::Protocol);
}

#[test]
fn a_monitor_that_never_reads_names_is_refused() {
    let mut limits = Limits::default();
    limits.replies_bytes_max = 200;
    let mut bus = Bus::new(limits);
    let monitor = bus.monitor(&[]);
    let senders: Vec<_> = (0..10).map(|n| bus.sender(&format!("channel.{n}"))).collect();
    bus.deaf = true;
    for (conn, id, channel) in senders {
        bus.tell(Event::Run { conn, run: run(channel, id, 0..1, b"x") });
    }
    bus.read(monitor);
    bus.is_refused(monitor, RefusedCode::Protocol);
}
