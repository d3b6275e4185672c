//! What every way of calling the library must do, each behaviour once, on a bus of its own. The broker is hosted by the test's own
//! process; or, if `BROADCASTER_TEST_PROGRAM` names a `broadcasterd`, by a daemon that runs it.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, in_every_colour, runtime, socket};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::pin::pin;
use std::time::Duration;
use system_broadcaster::{ConnectError, Metadata, NameError, Options, Overflow, RecvError, SendError};

#[test]
fn every_listener_receives_every_message_in_order() {
    in_every_colour(|colour, options| {
        let mut listeners = [0; 3].map(|_| colour.listener(options, "news").unwrap());
        let mut other = options.listener("other").unwrap();
        let mut senders = [0; 2].map(|_| colour.sender(options, "news").unwrap());
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
                assert_eq!(message.sender_pid(), Some(std::process::id()));
                assert!(message.metadata().is_empty());
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
            colour.feed(&mut sender, n.to_string().as_bytes()).unwrap();
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
fn confirmed_messages_have_been_accepted() {
    in_every_colour(|colour, options| {
        let mut sender = options.sender("news").unwrap();
        assert!(sender.capabilities().confirmation);
        colour.confirm(&mut sender).unwrap(); // nothing was sent
        let before = options.daemon().status().unwrap().messages_accepted;
        let accepted = || options.daemon().status().unwrap().messages_accepted - before;
        for n in 0..100_u32 {
            colour.send(&mut sender, &n.to_le_bytes()).unwrap();
            sender.feed(&[7; 1000]).unwrap();
        }
        colour.confirm(&mut sender).unwrap();
        assert_eq!(accepted(), 200);
        colour.send(&mut sender, &vec![7; 3_000_000]).unwrap();
        colour.confirm(&mut sender).unwrap();
        assert_eq!(accepted(), 201);
        colour.confirm(&mut sender).unwrap();
    });
}

#[test]
fn dropped_confirmation_changes_nothing() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut sender = options.sender("news").unwrap();
        for _ in 0..50 {
            sender.send_async(b"before the question").await.unwrap();
            let _: Option<_> = sender.confirm_async().now_or_never();
            sender.send_async(b"after the question").await.unwrap();
        }
        sender.confirm_async().await.unwrap();
        assert_eq!(options.daemon().status().unwrap().messages_accepted, 100);
    });
}

#[test]
fn sending_without_a_listener_is_not_an_error() {
    in_every_colour(|colour, options| {
        let mut sender = options.sender("news").unwrap();
        colour.send(&mut sender, b"without a listener").unwrap();
        let mut listener = options.listener("news").unwrap();
        colour.send(&mut sender, b"received").unwrap();
        // The daemon may take the first message from its socket only after the listener has joined.
        let mut message = colour.recv(&mut listener).unwrap();
        if message.sequence() == 0 {
            message = colour.recv(&mut listener).unwrap();
        }
        assert_eq!((message.payload(), message.sequence()), (&b"received"[..], 1));
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
        assert_eq!((message.payload(), message.sequence()), (&b"small"[..], 0), "it left no gap");
    });
}

#[test]
fn slow_listener_receives_its_loss_in_place() {
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
                    assert_eq!(lag.channel.unwrap().as_str(), "news");
                    due += lag.count.unwrap();
                    lost += lag.count.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lost > 0, "15 MB were meant to be too much");
        assert_eq!((listener.lost(), listener.gaps()), (lost, 0));
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
        // The daemon has accepted all of them before the first is received.
        while options.daemon().status().unwrap().messages_accepted < 3000 {}
        let mut last = None;
        while last != Some(2999) {
            match colour.recv(&mut listener) {
                Ok(message) => last = Some(message.sequence()),
                Err(error) => assert!(matches!(error, RecvError::Lagged(_)), "{error}"),
            }
        }
        assert!(listener.lost() > 1000, "1.5 MB do not fit into a socket: {}", listener.lost());
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
fn dropped_send_is_complete_or_not_at_all() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.sender("news").unwrap();
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut cancelled = 0;
        for n in 0..20_u8 {
            // No socket takes 3 MB at once: this is cancelled in the middle.
            cancelled += u32::from(sender.send_async(&large).now_or_never().is_none());
            sender.send_async(&[n]).await.unwrap();
            loop {
                let message = listener.recv_async().await.unwrap();
                if message.payload() == [n] {
                    break;
                }
                assert!(message.payload() == large, "a message arrives completely");
            }
        }
        assert!(cancelled > 0, "sends were meant to be cancelled");
    });
}

#[test]
fn timeout_of_zero_never_waits_for_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let absent = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
    let error = absent.timeout(Duration::ZERO).listener("news").unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&socket(&directory).display().to_string()) && text.contains("broadcasterd start"), "{text}");
}

#[test]
fn names_are_checked_before_anything_is_tried() {
    let options = Options::new().socket("/nonexistent/bus.sock");
    let error = options.sender("a/b").unwrap_err();
    assert!(matches!(error, ConnectError::Name(NameError::Forbidden { .. })), "{error}");
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

#[test]
fn metadata_arrives_with_its_message_and_no_other() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "news").unwrap();
        let mut sender = colour.sender(options, "news").unwrap();
        let metadata = Metadata::new()
            .content_type("text/plain")
            .and_then(|metadata| metadata.schema(b"v1"))
            .and_then(|metadata| metadata.origin("sensor 7"))
            .and_then(|metadata| metadata.reply_address(b"back"))
            .and_then(|metadata| metadata.header("k", b"1"))
            .and_then(|metadata| metadata.header("k", b"2"))
            .unwrap();
        for size in [0, 5, 4096, 300_000] {
            colour.feed(&mut sender, b"fed").unwrap();
            colour.send_with(&mut sender, &metadata, &vec![7; size]).unwrap();
            colour.send_with(&mut sender, &Metadata::new(), b"bare").unwrap();
            assert!(colour.recv(&mut listener).unwrap().metadata().is_empty());
            let message = colour.recv(&mut listener).unwrap();
            let received = message.metadata();
            assert_eq!(message.payload(), vec![7; size]);
            assert_eq!((received.content_type(), received.schema()), (Some("text/plain"), Some(&b"v1"[..])));
            assert_eq!((received.origin(), received.reply_address()), (Some("sensor 7"), Some(&b"back"[..])));
            assert!(received.headers().eq([("k", &b"1"[..]), ("k", b"2")]));
            let bare = colour.recv(&mut listener).unwrap();
            assert!(bare.metadata().is_empty() && bare.payload() == b"bare");
        }
    });
}

#[test]
fn many_messages_are_received_at_once_and_a_gap_behind_them_next() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "news").unwrap();
        let mut sender = colour.sender(options, "news").unwrap();
        for n in 0..100_u8 {
            colour.feed(&mut sender, &[n]).unwrap();
        }
        colour.flush(&mut sender).unwrap();
        let mut messages = Vec::new();
        assert_eq!(colour.recv_many(&mut listener, &mut messages, 0).unwrap(), 0);
        while messages.len() < 100 {
            let before = messages.len();
            let count = colour.recv_many(&mut listener, &mut messages, 30).unwrap();
            assert!((1..=30).contains(&count) && messages.len() == before + count);
        }
        assert!(messages.iter().zip(0..).all(|(message, n)| message.payload() == [n]));
        // 20 MB are too much. The messages before the gap come first, and the gap is not forgotten.
        for n in 0..20_000_u32 {
            colour.send(&mut sender, &[n.to_le_bytes(); 256].concat()).unwrap();
        }
        let (mut due, mut lags) = (100, 0);
        while due < 20_100 {
            messages.clear();
            match colour.recv_many(&mut listener, &mut messages, usize::MAX) {
                Ok(_) => {
                    for message in &messages {
                        assert_eq!(message.sequence(), due);
                        due += 1;
                    }
                }
                Err(RecvError::Lagged(lag)) => {
                    due += lag.count.unwrap();
                    lags += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lags > 0);
    });
}

#[test]
fn borrowed_messages_become_owned_and_outlive_the_next_receive() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    let metadata = Metadata::new().origin("here").unwrap();
    sender.send_with(&metadata, b"kept").unwrap();
    sender.send(b"next").unwrap();
    let kept = listener.recv_ref_timeout(Duration::from_secs(30)).unwrap().to_message();
    while listener.try_recv_ref().is_err() {}
    assert_eq!((kept.payload(), kept.metadata().origin(), kept.sequence()), (&b"kept"[..], Some("here"), 0));
    assert_eq!((kept.sender(), kept.channel().as_str()), (sender.id(), "news"));
    let timed_out = listener.recv_ref_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(timed_out.is_timeout() && matches!(timed_out, RecvError::TimedOut { .. }), "{timed_out}");
}

#[test]
fn a_closer_ends_every_kind_of_receive() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let closer = listener.closer().unwrap();
        let mut sender = options.sender("news").unwrap();
        colour.send(&mut sender, b"before").unwrap();
        assert_eq!(colour.recv(&mut listener).unwrap().payload(), b"before", "it can still wait");
        std::thread::scope(|scope| {
            scope.spawn(|| closer.clone().close());
            let received = loop {
                match colour.recv(&mut listener) {
                    Err(RecvError::TimedOut { .. }) => {}
                    other => break other,
                }
            };
            assert!(matches!(received, Err(RecvError::Closed)), "{received:?}");
        });
        assert!(closer.is_closed());
        assert!(matches!(listener.try_recv(), Err(RecvError::Closed)), "for good");
        assert!(listener.iter().next().is_none());
        runtime().block_on(async {
            assert!(listener.messages().next().await.is_none());
            assert!(listener.listen().next().await.is_none());
        });
    });
}

#[test]
fn owned_streams_and_sinks_move_into_tasks() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let listener = options.listener_async("news").await.unwrap();
        let receiving = tokio::spawn(async move {
            let mut stream = listener.into_stream();
            let numbers = stream.by_ref().take(2000).map(|message| message.unwrap().sequence());
            let received: Vec<_> = numbers.collect().await;
            (received, stream.into_inner())
        });
        let sink = options.sender_async("news").await.unwrap().into_sink();
        let payloads = futures_util::stream::iter((0..2000).map(|n: u32| Ok(n.to_string())));
        tokio::spawn(payloads.forward(sink)).await.unwrap().unwrap();
        let (received, mut listener) = receiving.await.unwrap();
        assert!(received.into_iter().eq(0..2000));
        let mut sink = options.sender("news").unwrap().into_sink();
        SinkExt::<&[u8]>::feed(&mut sink, b"gathered").await.unwrap();
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)), "it is not written yet");
        sink.into_inner().flush_async().await.unwrap();
        assert_eq!(listener.recv_async().await.unwrap().payload(), b"gathered");
    });
}

/// Counts how often another task runs while `busy` does.
async fn turns_beside(busy: impl Future<Output = ()>) -> u32 {
    let mut turns = 0;
    let other = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = busy => {}
        () = other => {}
    }
    turns
}

#[test]
fn busy_handles_leave_room_for_other_tasks() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener_async("news").await.unwrap();
        let mut sender = options.sender_async("news").await.unwrap();
        let turns = turns_beside(async {
            for n in 0..10_000_u32 {
                sender.feed_async(&n.to_le_bytes()).await.unwrap();
            }
            sender.flush_async().await.unwrap();
        });
        let turns = turns.await;
        assert!(turns > 50, "the other task ran {turns} times beside 10000 fed messages");
        while options.daemon().status().unwrap().messages_delivered < 10_000 {}
        let turns = turns_beside(async {
            for _ in 0..10_000 {
                listener.recv_async().await.unwrap();
            }
        });
        let turns = turns.await;
        assert!(turns > 50, "the other task ran {turns} times beside 10000 received messages");
    });
}

#[test]
fn async_methods_outside_a_runtime_always_panic() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    sender.send(b"it does not have to wait").unwrap();
    while options.daemon().status().unwrap().messages_delivered == 0 {}
    let panics = |call: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err();
    assert!(panics(&mut || drop(listener.recv_async().now_or_never())));
    assert!(panics(&mut || drop(sender.send_async(b"nor does this").now_or_never())));
    assert!(panics(&mut || drop(sender.flush_async().now_or_never())));
    assert_eq!(listener.recv().unwrap().payload(), b"it does not have to wait", "nothing was lost");
}

#[test]
fn observers_receive_messages_without_being_listeners() {
    in_every_colour(|colour, options| {
        let daemon = options.daemon();
        let before = daemon.status().unwrap();
        let mut all = daemon.monitor([""; 0]).unwrap();
        let mut one = runtime().block_on(daemon.monitor_async(["b", "b"])).unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let mut other = colour.sender(options, "b").unwrap();
        colour.send(&mut sender, b"1").unwrap();
        colour.send(&mut other, b"2").unwrap();
        let mut seen = [all.recv().unwrap(), all.recv().unwrap()];
        seen.sort_by_key(|message| message.payload().to_vec());
        assert_eq!([0, 1].map(|n: usize| seen[n].channel().as_str().to_owned()), ["a", "b"]);
        assert_eq!(one.recv_ref().unwrap().channel().as_str(), "b");
        assert!(matches!(one.try_recv(), Err(RecvError::Empty)));
        let status = runtime().block_on(daemon.status_async()).unwrap();
        assert_eq!((status.listeners, status.senders), (before.listeners, before.senders + 2));
        assert_eq!(status.messages_accepted, before.messages_accepted + 2);
        runtime().block_on(async {
            sender.send_async(b"3").await.unwrap();
            assert_eq!(all.messages().next().await.unwrap().unwrap().payload(), b"3");
        });
    });
}
