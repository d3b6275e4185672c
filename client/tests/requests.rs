//! Requests and replies, in every colour, on a bus of its own.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, in_every_colour};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use system_broadcaster::{Listener, Metadata, Options, RecvError, ReplyError, RequestError};

/// Long enough for everything; no test waits for it.
const LONG: Duration = Duration::from_secs(60);

/// No reply is expected. Long enough for the daemon to take a request on a busy machine.
const SHORT: Duration = Duration::from_millis(400);

/// How long [`echo`] waits for another request.
const PAUSE: Duration = Duration::from_millis(20);

/// A listener that replies to so many requests with its name, and then ends.
fn replier(options: &Options, name: &'static str, requests: usize) -> JoinHandle<()> {
    let mut listener = options.listener("a").unwrap();
    std::thread::spawn(move || {
        for _ in 0..requests {
            let message = listener.recv().unwrap();
            listener.reply(&message, name.as_bytes()).unwrap();
        }
    })
}

#[test]
fn replies_reach_their_requester_alone() {
    in_every_colour(|colour, options| {
        let mut monitor = options.daemon().monitor([""; 0]).unwrap();
        let repliers = ["x", "y", "z"].map(|name| replier(options, name, 2));
        let (mut one, mut two) = (colour.sender(options, "a").unwrap(), colour.sender(options, "a").unwrap());
        for sender in [&mut one, &mut two] {
            let replied = colour.request(sender, b"who?", LONG, usize::MAX).unwrap();
            assert_eq!(replied.payloads(), [b"x", b"y", b"z"]);
            assert_eq!((replied.expected, replied.complete, replied.lost), (3, true, 0));
            let mut ids: Vec<_> = replied.items.iter().map(|item| item.as_ref().unwrap().replier()).collect();
            ids.dedup();
            assert_eq!(ids.len(), 3, "each listener has an id of its own");
            assert_eq!(replied.items[0].as_ref().unwrap().replier_pid(), Some(std::process::id()));
        }
        repliers.into_iter().for_each(|replier| replier.join().unwrap());
        colour.send(&mut one, b"end").unwrap();
        for payload in [&b"who?"[..], b"who?", b"end"] {
            assert_eq!(monitor.recv().unwrap().payload(), payload, "a monitor receives requests, and no replies");
        }
        assert_eq!((one.late_replies(), two.late_replies()), (0, 0));
    });
}

#[test]
fn a_request_without_a_listener_ends_at_once() {
    in_every_colour(|colour, options| {
        let _monitor = options.daemon().monitor(["a"]).unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let began = Instant::now();
        let error = colour.request(&mut sender, b"x", LONG, 1).unwrap_err();
        assert!(matches!(error, RequestError::NoListeners) && !error.is_timeout(), "{error}");
        assert!(began.elapsed() < LONG / 2, "an observer is no listener");
    });
}

#[test]
fn late_replies_are_dropped_and_counted() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let error = colour.request_one(&mut sender, b"1", SHORT).unwrap_err();
        assert!(matches!(error, RequestError::NoReply { after: SHORT }) && error.is_timeout(), "{error}");
        let replied = colour.request(&mut sender, b"2", SHORT, 1).unwrap();
        assert_eq!((replied.items.len(), replied.complete), (0, false));
        let late = [colour.recv(&mut listener).unwrap(), colour.recv(&mut listener).unwrap()];
        assert_eq!(sender.late_replies(), 0);
        let replier = std::thread::spawn(move || {
            late.iter().for_each(|message| listener.reply(message, b"late").unwrap());
            let message = listener.recv().unwrap();
            listener.reply(&message, b"first").unwrap();
            listener.reply(&message, b"second").unwrap();
            listener
        });
        let reply = colour.request_one(&mut sender, b"3", LONG).unwrap();
        assert_eq!(reply.payload(), b"first");
        let mut listener = replier.join().unwrap();
        let replier = std::thread::spawn(move || {
            let message = listener.recv().unwrap();
            listener.reply(&message, b"third").unwrap();
        });
        assert_eq!(colour.request_one(&mut sender, b"4", LONG).unwrap().payload(), b"third");
        assert_eq!(sender.late_replies(), 3);
        replier.join().unwrap();
    });
}

#[test]
fn the_first_replies_are_enough() {
    in_every_colour(|colour, options| {
        let repliers = ["x", "y"].map(|name| replier(options, name, 1));
        let _silent = options.listener("a").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let replied = colour.request(&mut sender, b"?", LONG, 2).unwrap();
        assert_eq!(replied.payloads(), [b"x", b"y"]);
        assert_eq!((replied.expected, replied.complete), (3, false));
        repliers.into_iter().for_each(|replier| replier.join().unwrap());
    });
}

#[test]
fn a_listener_replies_later_and_in_any_order_with_metadata() {
    let (_host, options) = bus();
    let mut listener = options.listener("a").unwrap();
    let replier = std::thread::spawn(move || {
        let requests: Vec<_> = (0..3).map(|_| listener.recv_ref().unwrap().reply_to().unwrap()).collect();
        for (number, to) in requests.into_iter().enumerate().rev() {
            let metadata = Metadata::new().content_type("text/plain").unwrap();
            listener.reply_with(to, &metadata, number.to_string().as_bytes()).unwrap();
        }
    });
    let requesters = (0..3).map(|_| {
        let mut sender = options.sender("a").unwrap();
        std::thread::spawn(move || sender.request_one(b"?", LONG).unwrap())
    });
    let replies: Vec<_> = requesters.collect();
    let mut numbers = Vec::new();
    for reply in replies {
        let reply = reply.join().unwrap();
        assert_eq!(reply.metadata().content_type(), Some("text/plain"));
        numbers.push(reply.into_payload());
    }
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2"]);
    replier.join().unwrap();
}

#[test]
fn large_requests_have_large_replies() {
    in_every_colour(|colour, options| {
        const BYTES: usize = 9 << 20;
        let mut listener = colour.listener(options, "a").unwrap();
        let replier = std::thread::spawn(move || {
            for _ in 0..3 {
                let message = listener.recv().unwrap();
                listener.reply(&message, message.payload()).unwrap();
            }
        });
        let mut sender = colour.sender(options, "a").unwrap();
        for fill in 0..3 {
            let reply = colour.request_one(&mut sender, &vec![fill; BYTES], LONG).unwrap();
            assert!(reply.payload().len() == BYTES && reply.payload().iter().all(|&byte| byte == fill));
        }
        replier.join().unwrap();
    });
}

#[test]
fn only_messages_that_request_a_reply_can_have_one() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        colour.send(&mut sender, b"x").unwrap();
        let own = Metadata::new().reply_address(b"an application's own").unwrap();
        colour.send_with(&mut sender, &own, b"x").unwrap();
        for _ in 0..2 {
            let message = colour.recv(&mut listener).unwrap();
            assert_eq!(message.reply_to(), None);
            let error = colour.reply(&mut listener, &message, b"y").unwrap_err();
            assert!(matches!(error, ReplyError::NotRequested), "{error}");
        }
        let too_much = Metadata::new().schema(&[0; 4090]).unwrap();
        let error = sender.request_with(&too_much, b"x", LONG).unwrap_err();
        assert!(matches!(error, RequestError::Metadata(_)), "{error}");
        colour.request(&mut sender, b"x", SHORT, 1).unwrap();
        let message = colour.recv(&mut listener).unwrap();
        let too_large = vec![0; (64 << 20) + 1];
        let error = colour.reply(&mut listener, &message, &too_large).unwrap_err();
        assert!(matches!(error, ReplyError::TooLarge { len, max } if len == max as usize + 1), "{error}");
    });
}

#[test]
fn a_requester_that_is_gone_is_no_error_and_others_are_served() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        let mut gone = colour.sender(options, "a").unwrap();
        colour.request(&mut gone, b"x", SHORT, 1).unwrap();
        drop(gone);
        let message = colour.recv(&mut listener).unwrap();
        for _ in 0..1000 {
            colour.reply(&mut listener, &message, &[7; 1000]).unwrap();
        }
        let replier = std::thread::spawn(move || {
            let message = listener.recv().unwrap();
            listener.reply(&message, b"y").unwrap();
        });
        let mut sender = colour.sender(options, "a").unwrap();
        assert_eq!(colour.request_one(&mut sender, b"x", LONG).unwrap().payload(), b"y");
        replier.join().unwrap();
    });
}

/// The next daemon is hosted by this process as well.
fn after_a_restart(options: &Options) -> Listener {
    options.daemon().stop().unwrap();
    options.listener("other").unwrap()
}

#[test]
fn a_daemon_that_stops_ends_requests_and_the_next_one_serves_new_ones() {
    in_every_colour(|colour, options| {
        let mut listener = colour.listener(options, "a").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let began = Instant::now();
        let mut replies = sender.request(b"x", LONG).unwrap();
        let message = colour.recv(&mut listener).unwrap();
        let _other = after_a_restart(options);
        let error = replies.next().unwrap().unwrap_err();
        assert!(matches!(error, RequestError::ConnectionLost), "{error}");
        assert!(replies.next().is_none() && began.elapsed() < LONG / 2);
        drop(replies);
        let error = loop {
            // The end of the connection is noticed by a write, or by a read.
            match colour.reply(&mut listener, &message, b"y") {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReplyError::Gone), "{error}");
        let lagged = colour.recv(&mut listener).unwrap_err();
        assert!(matches!(lagged, RecvError::Lagged(_)), "{lagged}");
        let error = colour.reply(&mut listener, &message, b"y").unwrap_err();
        assert!(matches!(error, ReplyError::Gone), "its inbox is unknown to the next daemon: {error}");
        let replier = std::thread::spawn(move || {
            let message = listener.recv().unwrap();
            listener.reply(&message, b"z").unwrap();
        });
        assert_eq!(colour.request_one(&mut sender, b"x", LONG).unwrap().payload(), b"z");
        replier.join().unwrap();
    });
}

#[test]
fn replies_to_a_requester_that_does_not_read_are_bounded_and_counted() {
    let (_host, options) = bus();
    let (mut flooding, _silent) = (options.listener("a").unwrap(), options.listener("a").unwrap());
    let mut sender = options.sender("a").unwrap();
    let mut replies = sender.request(b"x", LONG).unwrap();
    let message = flooding.recv().unwrap();
    for number in 0..40_u8 {
        flooding.reply(&message, &vec![number; 1 << 20]).unwrap();
    }
    options.daemon().status().unwrap();
    let numbers: Vec<_> = replies.by_ref().map(|reply| reply.unwrap().payload()[0]).collect();
    assert!(numbers.iter().copied().eq((0..40).take(numbers.len())), "those that came first stay: {numbers:?}");
    assert!(
        replies.lost() > 0 && numbers.len() as u64 + replies.lost() <= 40,
        "{} and {}",
        numbers.len(),
        replies.lost()
    );
}

/// A listener that replies to requests with what they contain, in another order than they arrive: of two at a time the second first.
fn echo(options: &Options, channel: &str) -> system_broadcaster::Closer {
    let mut listener = options.listener(channel).unwrap();
    let closer = listener.closer().unwrap();
    std::thread::spawn(move || {
        let mut kept: Option<system_broadcaster::Message> = None;
        loop {
            // Without a second one, the first need not wait.
            match listener.recv_timeout(if kept.is_some() { PAUSE } else { LONG }) {
                Ok(message) => match kept.take() {
                    None => kept = Some(message),
                    Some(first) => {
                        listener.reply(&message, message.payload()).unwrap();
                        listener.reply(&first, first.payload()).unwrap();
                    }
                },
                Err(RecvError::TimedOut { .. }) => {
                    kept.take().into_iter().for_each(|first| listener.reply(&first, first.payload()).unwrap());
                }
                Err(_) => return,
            }
        }
    });
    closer
}

#[test]
fn each_request_of_a_shared_sender_receives_its_own_replies() {
    let (_host, options) = bus();
    let closers = ["a", "b"].map(|channel| echo(&options, channel));
    let sender = options.sender("a").unwrap().into_shared();
    let payload = |thread: u8, number: u8| {
        // A large one is written in parts. Those of all callers fit into what may wait for one connection, 4 MiB.
        let len = if number % 4 == 3 { 400 << 10 } else { 2 };
        [&[thread, number][..], &vec![thread; len]].concat()
    };
    let requests = |thread: u8, channel: &'static str| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for number in 0..12 {
                let payload = payload(thread, number);
                let mut replies = match channel {
                    "a" => sender.request(&payload, LONG).unwrap(),
                    other => sender.request_to(other, &payload, LONG).unwrap(),
                };
                assert_eq!(replies.expected(), 1);
                let reply = replies.next();
                assert_eq!(replies.lost(), 0, "all of them fit into what may wait for one connection");
                assert_eq!(reply.unwrap().unwrap().payload(), payload);
                assert!(replies.is_complete() && replies.next().is_none());
            }
        })
    };
    let threads = [requests(0, "a"), requests(1, "a"), requests(2, "b"), requests(3, "b")];
    // Tasks of a runtime at the same time.
    let (tasks, shared) = (common::runtime(), sender.clone());
    tasks.block_on(async {
        let requests = [4, 5, 6].map(|task| {
            let sender = shared.clone();
            tokio::spawn(async move {
                for number in 0..12 {
                    let payload = payload(task, number);
                    let mut replies = match task {
                        4 => sender.request_to_async("b", &payload, LONG).await.unwrap(),
                        _ => sender.request_async(&payload, LONG).await.unwrap(),
                    };
                    assert_eq!(replies.next().await.unwrap().unwrap().payload(), payload);
                    assert!(replies.next().await.is_none() && replies.is_complete());
                }
            })
        });
        for request in requests {
            request.await.unwrap();
        }
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(sender.late_replies(), 0);
    closers.iter().for_each(system_broadcaster::Closer::close);
}

#[test]
fn a_shared_request_ends_as_one_of_a_sender() {
    let (_host, options) = bus();
    let sender = options.sender("a").unwrap().into_shared();
    assert!(matches!(sender.request(b"x", LONG), Err(RequestError::NoListeners)));
    let mut listener = options.listener("a").unwrap();
    assert!(matches!(sender.request_one(b"1", SHORT), Err(RequestError::NoReply { after: SHORT })));
    drop(sender.request(b"2", LONG).unwrap());
    for _ in 0..2 {
        let message = listener.recv().unwrap();
        listener.reply(&message, b"late").unwrap();
    }
    let replier = std::thread::spawn(move || {
        let message = listener.recv().unwrap();
        assert_eq!(message.metadata().header("key"), Some(&b"value"[..]));
        listener.reply(&message, b"in time").unwrap();
    });
    let metadata = Metadata::new().header("key", b"value").unwrap();
    let mut replies = sender.request_with(&metadata, b"3", LONG).unwrap();
    assert_eq!(replies.next().unwrap().unwrap().payload(), b"in time");
    assert_eq!((replies.lost(), sender.late_replies()), (0, 2));
    replier.join().unwrap();
}

#[test]
fn requests_on_another_channel_use_the_same_connection() {
    let (_host, options) = bus();
    let _closer = echo(&options, "b");
    let mut sender = options.sender("a").unwrap();
    for payload in [b"1", b"2"] {
        let mut replies = sender.request_to("b", payload, LONG).unwrap();
        assert_eq!(replies.next().unwrap().unwrap().payload(), payload);
    }
    assert!(matches!(sender.request(b"x", LONG), Err(RequestError::NoListeners)), "the channel of the handle");
    assert!(matches!(sender.request_to("a/b", b"x", LONG), Err(RequestError::Send(_))));
    common::runtime().block_on(async {
        let mut replies = sender.request_to_async("b", b"3", LONG).await.unwrap();
        assert_eq!(replies.next().await.unwrap().unwrap().payload(), b"3");
    });
}
