//! Handles that use notifications, with a center that lives in this process. The daemon is a real one, on a bus of its own.

use super::envelope::{Info, Value};
use super::inbox::Inbox;
use super::service::{Center, Observation, Service};
use super::*;
use crate::Transport;
use crate::{ChannelName, Lag, Listener, Options, RecvError, Selector, SendError, Sender, SubscribeError};
use broadcaster_protocol::SenderId;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tempfile::TempDir;

/// Delivers at once, on the thread that posts.
#[derive(Debug, Default)]
struct Here {
    observers: Mutex<Vec<(String, Weak<Inbox>)>>,
    posted: Mutex<Vec<(String, Info)>>,
    is_asleep: AtomicBool,
    is_sandboxed: AtomicBool,
}

#[derive(Debug)]
struct Observed;

impl Observation for Observed {}

impl Center for Here {
    fn post(&self, name: &str, info: &Info) {
        self.posted.lock().expect("no panic").push((name.to_owned(), info.clone()));
        for (observed, inbox) in self.observers.lock().expect("no panic").iter() {
            if let (true, Some(inbox)) = (observed == name, inbox.upgrade()) {
                inbox.put(info.clone());
            }
        }
    }

    fn observe(&self, name: &str, inbox: &Arc<Inbox>) -> Box<dyn Observation> {
        self.observers.lock().expect("no panic").push((name.to_owned(), Arc::downgrade(inbox)));
        Box::new(Observed)
    }

    fn is_delivering(&self) -> bool {
        !self.is_asleep.load(Ordering::Relaxed)
    }

    fn takes_payloads(&self) -> bool {
        !self.is_sandboxed.load(Ordering::Relaxed)
    }
}

struct Place {
    directory: TempDir,
    center: Arc<Here>,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), center: Arc::default() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("bus.sock")
    }

    /// Without a daemon, and without a way to one.
    fn options(&self, dialect: Dialect) -> Options {
        let options = Options::new().socket(self.socket()).autostart(false).embedded(false);
        options.with_service(Service { center: self.center.clone(), dialect })
    }

    fn handles(&self) -> (Sender, Listener) {
        let options = self.options(Dialect::Current);
        let listener = options.listener("news").expect("without a daemon");
        (options.sender("news").expect("without a daemon"), listener)
    }

    fn post(&self, info: &Info) {
        let channel = ChannelName::new("news").expect("a name");
        self.center.post(&Dialect::Current.name(&channel), info);
    }
}

fn is_gap(received: &Result<crate::Message, RecvError>) -> bool {
    matches!(received, Err(RecvError::Lagged(Lag { count: None, .. })))
}

#[test]
fn without_a_daemon_messages_travel_as_notifications() {
    let place = Place::new();
    let (mut sender, mut listener) = place.handles();
    let capabilities = sender.capabilities();
    assert_eq!(capabilities, listener.capabilities());
    assert_eq!((capabilities.transport, capabilities.payload_bytes_max), (Transport::Notifications, 4096));
    assert!(capabilities.payload && !capabilities.metadata && !capabilities.ordering && !capabilities.lag_counts);
    sender.send(b"hello").expect("posted");
    sender.try_send(b"").expect("posted");
    sender.feed(b"fed").expect("posted");
    sender.flush().expect("nothing waits");
    for (sequence, payload) in [(0, &b"hello"[..]), (1, b""), (2, b"fed")] {
        let message = listener.recv().expect("delivered");
        assert_eq!((message.sender(), message.sequence(), message.payload()), (sender.id(), sequence, payload));
    }
    sender.send(b"lent").expect("posted");
    assert_eq!(listener.recv_ref().expect("delivered").payload(), b"lent");
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    let too_large = sender.send(&[0; 4097]);
    assert!(matches!(too_large, Err(SendError::TooLarge { len: 4097, max: 4096 })), "{too_large:?}");
    sender.send(&[1; 4096]).expect("posted");
    assert_eq!(listener.recv().expect("delivered").sequence(), 4, "a refused message has no number");
}

#[test]
fn nothing_confirms_notifications() {
    let place = Place::new();
    let (mut sender, _listener) = place.handles();
    assert!(!sender.capabilities().confirmation);
    sender.send(b"posted").expect("posted");
    sender.feed(b"fed").expect("posted");
    let error = sender.confirm().expect_err("nothing is known of them");
    assert!(matches!(error, SendError::NoConfirmation), "{error}");
}

#[test]
fn nothing_retains_notifications() {
    let place = Place::new();
    let (mut sender, mut listener) = place.handles();
    let error = sender.retain(b"value").expect_err("there is no daemon");
    assert!(matches!(error, SendError::NoConfirmation), "{error}");
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)), "it was not sent");
    let error = sender.keep_retained(Duration::from_secs(60)).expect_err("there is no daemon");
    assert!(matches!(error, SendError::NoConfirmation), "{error}");
}

#[test]
fn a_handle_without_the_option_gets_the_error() {
    let place = Place::new();
    let options =
        Options::new().socket(place.socket()).autostart(false).embedded(false).fallback(crate::Fallback::None);
    assert!(matches!(options.sender("news"), Err(ConnectError::NotRunning { .. })));
    assert!(matches!(options.listener("news"), Err(ConnectError::NotRunning { .. })));
}

#[test]
fn a_process_that_answers_is_never_bypassed() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).expect("bound");
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        stream.write_all(&[0xff; 64]).expect("written");
        stream
    });
    let sender = place.options(Dialect::Current).sender("news");
    assert!(matches!(sender, Err(ConnectError::NotADaemon { .. })), "{sender:?}");
    drop(stranger.join());
}

#[test]
fn junk_under_the_name_is_ignored() {
    let place = Place::new();
    let (mut sender, mut listener) = place.handles();
    place.post(&Info::Other);
    place.post(&Info::Entries(BTreeMap::from([("payload".to_owned(), Value::TooLarge)])));
    sender.send(b"true").expect("posted");
    assert_eq!(listener.recv().expect("delivered").payload(), b"true");
}

#[test]
fn missing_and_repeated_numbers_are_noticed() {
    let place = Place::new();
    let (_, mut listener) = place.handles();
    let channel = ChannelName::new("news").expect("a name");
    for sequence in [5, 6, 6, 9, 8] {
        place.post(&Dialect::Current.encode(&channel, SenderId::new(1, 2), sequence, b""));
    }
    let mut next = || listener.try_recv().map(|message| message.sequence());
    assert_eq!([next().expect("5"), next().expect("6")], [5, 6]);
    assert!(matches!(next(), Err(RecvError::Lagged(Lag { count: None, .. }))));
    assert_eq!([next().expect("9"), next().expect("8")], [9, 8]);
    assert!(matches!(next(), Err(RecvError::Empty)));
    assert_eq!((listener.gaps(), listener.lost()), (1, 0));
}

#[test]
fn a_sandboxed_sender_posts_no_payload() {
    let place = Place::new();
    place.center.is_sandboxed.store(true, Ordering::Relaxed);
    let (mut sender, mut listener) = place.handles();
    assert!(!sender.capabilities().payload);
    sender.send(b"secret").expect("posted");
    assert!(is_gap(&listener.recv()));
    assert!(place.center.posted.lock().expect("no panic").iter().all(|(_, info)| *info == Info::Absent));
}

#[test]
fn a_listener_without_delivery_gets_an_error() {
    let place = Place::new();
    place.center.is_asleep.store(true, Ordering::Relaxed);
    let options = place.options(Dialect::Current).timeout(Duration::from_millis(50));
    let mut listener = options.listener("news").expect("its main thread may be about to begin");
    let received = listener.recv();
    assert!(matches!(received, Err(RecvError::Connect(ConnectError::NoRunLoop { .. }))), "{received:?}");
    place.center.is_asleep.store(false, Ordering::Relaxed);
    options.sender("news").expect("posting needs no delivery").send(b"now").expect("posted");
    assert_eq!(listener.recv().expect("delivered").payload(), b"now");
}

#[test]
fn programs_of_0_1_send_and_receive() {
    let place = Place::new();
    let options = place.options(Dialect::V01);
    let (mut sender, mut listener) =
        (options.sender("news").expect("no daemon"), options.listener("news").expect("no daemon"));
    assert_eq!(sender.capabilities().payload_bytes_max, 1000);
    let old = |payload: &'static [u8]| {
        let entry = ("sys-broadcaster-payload".to_owned(), Value::Bytes(payload.into()));
        Info::Entries(BTreeMap::from([entry]))
    };
    place.center.post("news", &old(b"from 0.1"));
    place.center.post("news", &old(b"from 0.1"));
    for _ in 0..2 {
        assert_eq!(listener.recv().expect("delivered").payload(), b"from 0.1", "nothing shows that it is the same");
    }
    sender.send(b"to 0.1").expect("posted");
    assert_eq!(place.center.posted.lock().expect("no panic").last(), Some(&("news".to_owned(), old(b"to 0.1"))));
}

#[cfg(feature = "embedded")]
#[test]
fn when_the_daemon_comes_back_no_message_arrives_twice() {
    use broadcaster_protocol::endpoint::{Candidate, Origin};
    let place = Place::new();
    let (mut sender, mut listener) = place.handles();
    let candidate = Candidate { socket: place.socket(), origin: Origin::Explicit };
    let bound = broadcaster_server::bind(&[candidate]).expect("bound");
    let daemon = std::thread::spawn(move || {
        broadcaster_server::serve(bound, broadcaster_server::Limits::default(), "test", |_| std::future::pending())
            .expect("served");
    });
    let is_up = |capabilities: Capabilities| capabilities == Capabilities::DAEMON;
    let (mut sent, mut received, mut gaps) = (0, Vec::new(), 0);
    let mut after = 0;
    // Each of the two finds the daemon in its own time; then some messages travel by both.
    while after < 20 {
        after += u32::from(is_up(sender.capabilities()) && is_up(listener.capabilities()));
        sender.send(&[7; 10]).expect("sent");
        sent += 1;
        loop {
            match listener.recv_timeout(Duration::from_millis(20)) {
                Ok(message) => received.push(message.sequence()),
                Err(RecvError::Lagged(lag)) => gaps += u32::from(lag.count.is_none()),
                Err(RecvError::TimedOut { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(gaps, 1, "one gap, when the carrier changed");
    assert!(received.windows(2).all(|pair| pair[0] < pair[1]), "in order and once: {received:?}");
    let last: Vec<u64> = (sent - 20..sent).collect();
    assert!(received.ends_with(&last), "all that was sent since: {received:?} of {sent}");
    let posted = place.center.posted.lock().expect("no panic").len();
    assert_eq!(posted, usize::try_from(sent).expect("few"), "for listeners that have not found the daemon");

    // And back again when it is gone.
    let options = Options::new().socket(place.socket()).autostart(false).embedded(false);
    options.daemon().stop().expect("stopped");
    daemon.join().expect("no panic");
    assert!(is_gap(&listener.recv_timeout(Duration::from_secs(30))));
    sender.send(b"alone").expect("posted");
    assert_eq!(listener.recv().expect("delivered").payload(), b"alone");
    assert_eq!(sender.capabilities().transport, Transport::Notifications);
}

#[cfg(feature = "embedded")]
#[test]
fn while_both_are_used_either_ends_a_blocking_receive() {
    use broadcaster_protocol::endpoint::{Candidate, Origin};
    let place = Place::new();
    let mut listener = place.options(Dialect::Current).listener("news").expect("no daemon");
    let candidate = Candidate { socket: place.socket(), origin: Origin::Explicit };
    let bound = broadcaster_server::bind(&[candidate]).expect("bound");
    std::thread::spawn(move || {
        broadcaster_server::serve(bound, broadcaster_server::Limits::default(), "test", |_| std::future::pending())
    });
    while listener.capabilities() != Capabilities::DAEMON {
        let received = listener.recv_timeout(Duration::from_millis(20));
        assert!(matches!(received, Err(RecvError::TimedOut { .. })) || is_gap(&received), "{received:?}");
    }
    while is_gap(&listener.try_recv()) {}
    let (ready, received) = std::sync::mpsc::channel();
    let receiving = std::thread::spawn(move || {
        for _ in 0..2 {
            ready.send(listener.recv().map(crate::Message::into_payload)).expect("the test waits");
        }
    });
    let channel = ChannelName::new("news").expect("a name");
    place.post(&Dialect::Current.encode(&channel, SenderId::new(1, 2), 0, b"notification"));
    assert_eq!(&received.recv().expect("received").expect("a message")[..], b"notification");
    let daemon_only = Options::new().socket(place.socket()).autostart(false).embedded(false);
    daemon_only.sender("news").expect("connected").send(b"frame").expect("sent");
    assert_eq!(&received.recv().expect("received").expect("a message")[..], b"frame");
    receiving.join().expect("no panic");
}

#[cfg(feature = "tokio")]
#[test]
fn a_task_is_woken_by_a_notification() {
    let place = Place::new();
    let (mut sender, mut listener) = place.handles();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let received = runtime.spawn(async move { listener.recv_async().await.expect("delivered") });
    runtime.block_on(sender.send_async(b"wake")).expect("posted");
    assert_eq!(runtime.block_on(received).expect("no panic").payload(), b"wake");
}

#[test]
fn only_a_listener_on_one_channel_has_notifications() {
    let place = Place::new();
    let options = place.options(Dialect::Current);
    let (news, all) = (Selector::name("news").expect("a name"), Selector::pattern("**").expect("a pattern"));
    for selectors in [vec![], vec![&all], vec![&news, &all]] {
        let listener = options.listener_on(selectors);
        assert!(matches!(listener, Err(ConnectError::NoFallback)), "{listener:?}");
    }
    let mut listener = options.listener_on([&news, &news]).expect("one channel");
    assert!(matches!(listener.subscribe(&all), Err(SubscribeError::NoFallback)));
    assert!(matches!(listener.unsubscribe(&news), Err(SubscribeError::NoFallback)));
    let mut sender = options.sender("news").expect("without a daemon");
    sender.send(b"hello").expect("posted");
    assert_eq!(listener.recv().expect("delivered").payload(), b"hello");
}
