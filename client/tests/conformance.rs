//! What every colour of the client must do, each behaviour once, on a bus of its own. The broker is hosted by the test's own
//! process; or, if `BROADCASTER_TEST_PROGRAM` names a `broadcasterd`, by a daemon that runs it.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

use futures_util::{FutureExt, StreamExt};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use system_broadcaster::{Listener, Message, NameError, Options, Overflow, RecvError, SendError, Sender};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// One way to call the library.
trait Colour {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError>;
    fn flush(&self, sender: &mut Sender) -> Result<(), SendError>;
    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError>;
}

struct Blocking;

impl Colour for Blocking {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        sender.send(payload)
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        sender.flush()
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        listener.recv()
    }
}

/// The same with a deadline, which takes another way through the system.
struct Timed;

impl Colour for Timed {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        match sender.try_send(payload) {
            Err(SendError::Full) => sender.send(payload),
            Err(SendError::Unfinished { .. }) => sender.flush(),
            other => other,
        }
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        sender.flush()
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        match listener.try_recv() {
            Err(RecvError::Empty) => listener.recv_timeout(Duration::from_secs(30)),
            other => other,
        }
    }
}

struct Async(Runtime);

impl Colour for Async {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_async(payload))
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        self.0.block_on(sender.flush_async())
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        self.0.block_on(listener.recv_async())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Plays a behaviour in every colour, each on a new bus.
fn in_every_colour(behaviour: impl Fn(&dyn Colour, &Options)) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let colours: [&dyn Colour; 4] = [&Blocking, &Timed, &Async(runtime()), &Async(threads)];
    for colour in colours {
        let (_host, options) = bus();
        behaviour(colour, &options);
    }
}

/// Keeps the bus alive, and ends it.
struct Host {
    _directory: TempDir,
    daemon: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A socket that nobody else has: in a directory of its own, or a pipe that is named after it.
fn socket(directory: &TempDir) -> PathBuf {
    if cfg!(windows) {
        let name = directory.path().file_name().unwrap();
        format!(r"\\.\pipe\broadcaster-test{}", name.to_str().unwrap()).into()
    } else {
        directory.path().join("bus.sock")
    }
}

fn bus() -> (Host, Options) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let daemon = std::env::var_os("BROADCASTER_TEST_PROGRAM").map(|program| {
        let mut command = Command::new(program);
        command.arg("--socket").arg(socket(&directory)).args(["run", "--log", "warn"]);
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "it says {line:?}");
        daemon
    });
    let options = options.embedded(daemon.is_none());
    // A host that nobody is connected to for a minute ends; within a test that does not happen.
    options.listener("host").unwrap();
    (Host { _directory: directory, daemon }, options)
}

#[test]
fn every_listener_gets_every_message_in_order() {
    in_every_colour(|colour, options| {
        let mut listeners = [0; 3].map(|_| options.listener("news").unwrap());
        let mut other = options.listener("other").unwrap();
        let mut senders = [0; 2].map(|_| options.sender("news").unwrap());
        for n in 0..50_u32 {
            for sender in &mut senders {
                colour.send(sender, &n.to_le_bytes()).unwrap();
            }
        }
        for listener in &mut listeners {
            let mut due = [0_u32; 2];
            for _ in 0..100 {
                let message = colour.recv(listener).unwrap();
                let which = senders.iter().position(|sender| sender.id() == message.sender()).unwrap();
                assert_eq!(message.payload(), due[which].to_le_bytes());
                assert_eq!(message.sequence(), u64::from(due[which]));
                assert_eq!(message.sender_pid(), std::process::id());
                assert_eq!(message.channel().as_str(), "news");
                due[which] += 1;
            }
            assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
        }
        assert!(matches!(other.try_recv(), Err(RecvError::Empty)), "channels do not mix");
    });
}

#[test]
fn sizes_from_nothing_to_megabytes() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        for size in [0, 1, 27, 28, 29, 65_507, 65_508, 65_509, 300_000, 3_000_000, 0, 70_000, 5] {
            let payload: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            colour.send(&mut sender, &payload).unwrap();
            assert!(colour.recv(&mut listener).unwrap().payload() == payload, "{size} bytes");
        }
    });
}

#[test]
fn fed_messages_go_out_together_and_in_order() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        sender.feed(b"0").unwrap();
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)), "it is not written yet");
        for n in 1..5000 {
            sender.feed(n.to_string().as_bytes()).unwrap();
        }
        colour.send(&mut sender, b"5000").unwrap(); // does not overtake
        sender.feed(b"5001").unwrap();
        colour.flush(&mut sender).unwrap();
        for n in 0..=5001 {
            assert_eq!(colour.recv(&mut listener).unwrap().payload(), n.to_string().as_bytes());
        }
    });
}

#[test]
fn nobody_listening_is_fine() {
    in_every_colour(|colour, options| {
        let mut sender = options.sender("news").unwrap();
        colour.send(&mut sender, b"into the void").unwrap();
        let mut listener = options.listener("news").unwrap();
        colour.send(&mut sender, b"heard").unwrap();
        let message = colour.recv(&mut listener).unwrap();
        assert_eq!((message.payload(), message.sequence()), (&b"heard"[..], 1));
    });
}

#[test]
fn too_large_is_an_error_and_nothing_is_sent() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        let huge = vec![0; 64 * 1024 * 1024 + 1];
        let error = colour.send(&mut sender, &huge).unwrap_err();
        assert_eq!(error.to_string(), "the payload has 67108865 bytes; the limit is 67108864");
        assert!(matches!(sender.feed(&huge), Err(SendError::TooLarge { .. })));
        colour.send(&mut sender, b"small").unwrap();
        let message = colour.recv(&mut listener).unwrap();
        assert_eq!((message.payload(), message.sequence()), (&b"small"[..], 0), "it left no hole");
    });
}

#[test]
fn slow_listener_is_told_its_loss_in_place() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        const COUNT: u64 = 30_000;
        for n in 0..COUNT {
            let mut payload = [0; 512];
            payload[..8].copy_from_slice(&n.to_le_bytes());
            colour.send(&mut sender, &payload).unwrap();
        }
        colour.send(&mut sender, b"end").unwrap();
        let (mut due, mut lost) = (0, 0);
        loop {
            match colour.recv(&mut listener) {
                Ok(message) => {
                    assert_eq!(message.sequence(), due);
                    due += 1;
                    if message.payload() == b"end" {
                        break;
                    }
                }
                Err(RecvError::Lagged(lag)) => {
                    assert_eq!(lag.channel.as_str(), "news");
                    due += lag.count.unwrap();
                    lost += lag.count.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lost > 0, "15 MB were meant to be too much");
        assert_eq!(listener.missed(), lost);
        assert_eq!(due, COUNT + 1);
    });
}

#[test]
fn latest_keeps_the_newest_only() {
    in_every_colour(|colour, options| {
        let mut listener = options.clone().overflow(Overflow::Latest).listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        for n in 0..3000_u64 {
            colour.send(&mut sender, &[n.to_le_bytes(); 64].concat()).unwrap();
        }
        // All of them are the daemon's before the first is received: what it says of itself is the clock.
        while options.daemon().status().unwrap().report.messages_accepted < 3000 {}
        let mut last = None;
        while last != Some(2999) {
            match colour.recv(&mut listener) {
                Ok(message) => last = Some(message.sequence()),
                Err(error) => assert!(matches!(error, RecvError::Lagged(_)), "{error}"),
            }
        }
        assert!(listener.missed() > 1000, "1.5 MB do not fit into a socket: {}", listener.missed());
    });
}

#[test]
fn a_handle_may_move_between_runtimes_and_colours() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    for n in 0..3_u8 {
        let runtime = runtime();
        runtime.block_on(async {
            assert!(listener.recv_async().now_or_never().is_none(), "it is registered and waits");
            sender.send_async(&[n]).await.unwrap();
            assert_eq!(listener.recv_async().await.unwrap().payload(), [n]);
        });
        drop(runtime);
        sender.send(&[n]).unwrap();
        assert_eq!(listener.recv().unwrap().payload(), [n]);
    }
}

#[test]
fn handles_can_be_made_inside_a_runtime() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("com.example.sync").unwrap();
        let mut stream = pin!(listener.listen());
        let mut sender = options.sender("com.example.sync").unwrap();
        sender.send(b"hello").unwrap();
        assert_eq!(stream.next().await, Some(b"hello".to_vec()));
    });
}

#[test]
fn streams_yield_messages_with_lag_in_place() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        for n in 0..20_000_u32 {
            sender.send(&[n.to_le_bytes(); 256].concat()).unwrap();
        }
        let (mut due, mut lags) = (0, 0);
        let mut messages = listener.messages();
        while due < 20_000 {
            match messages.next().await.unwrap() {
                Ok(message) => {
                    assert_eq!(message.sequence(), due);
                    due += 1;
                }
                Err(RecvError::Lagged(lag)) => {
                    due += lag.count.unwrap();
                    lags += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lags > 0, "20 MB were meant to be too much");
    });
}

#[test]
fn dropped_receive_loses_no_message() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        for n in 0..100_u8 {
            assert!(listener.recv_async().now_or_never().is_none());
            sender.send_async(&[n]).await.unwrap();
            assert_eq!(listener.recv_async().await.unwrap().payload(), [n]);
        }
    });
}

#[test]
fn dropped_send_is_whole_or_not_at_all() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut cancelled = 0;
        for n in 0..20_u8 {
            // No socket takes 3 MB at once: this is given up in the middle.
            cancelled += u32::from(sender.send_async(&large).now_or_never().is_none());
            sender.send_async(&[n]).await.unwrap();
            loop {
                let message = listener.recv_async().await.unwrap();
                if message.payload() == [n] {
                    break;
                }
                assert!(message.payload() == large, "a message arrives whole");
            }
        }
        assert!(cancelled > 0, "sends were meant to be cancelled");
    });
}

#[test]
fn deadline_of_zero_never_waits_for_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
    let error = nobody.deadline(Duration::ZERO).listener("news").unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&socket(&directory).display().to_string()) && text.contains("broadcasterd start"), "{text}");
}

#[test]
fn bad_names_are_refused_before_anything_is_tried() {
    let options = Options::new().socket("/nonexistent/bus.sock");
    let error = options.sender("a/b").unwrap_err();
    assert!(matches!(error, system_broadcaster::ConnectError::Name(NameError::Forbidden { .. })), "{error}");
}

#[test]
fn lent_messages_are_the_same_messages() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    for n in 0..1000_u32 {
        sender.feed(&n.to_le_bytes()).unwrap();
    }
    sender.flush().unwrap();
    for n in 0..1000_u32 {
        let message = listener.recv_ref().unwrap();
        assert_eq!((message.payload(), message.sequence()), (&n.to_le_bytes()[..], u64::from(n)));
        assert_eq!((message.sender(), message.channel().as_str()), (sender.id(), "news"));
    }
}
