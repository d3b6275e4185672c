//! What one sender does on many channels, with backpressure, for many threads and tasks, and what it learns about listeners; in every
//! colour, on a bus of its own.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bus, in_every_colour, runtime};
use futures_util::FutureExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use system_broadcaster::{Metadata, NameError, Overflow, RecvError, RefusalCode, SendError, SharedMemory};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(60);

#[test]
fn one_sender_reaches_many_channels_in_one_order() {
    in_every_colour(|colour, options| {
        // In shared memory, only the messages of one channel have an order.
        let options = &options.clone().shared_memory(SharedMemory::Never);
        let mut all = options.daemon().monitor([""; 0]).unwrap();
        let mut listener = colour.listener(options, "b").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let channels = ["a", "b", "c"];
        let metadata = Metadata::new().content_type("text/plain").unwrap();
        for n in 0..300_usize {
            let (channel, payload) = (channels[n % 3], n.to_string());
            match n % 4 {
                0 => colour.send_to_with(&mut sender, channel, &metadata, payload.as_bytes()).unwrap(),
                _ => colour.send_to(&mut sender, channel, payload.as_bytes()).unwrap(),
            }
        }
        for n in 0..300_usize {
            let message = all.recv().unwrap();
            assert_eq!((message.channel().as_str(), message.payload()), (channels[n % 3], n.to_string().as_bytes()));
            assert_eq!((message.sender(), message.sequence()), (sender.id(), n as u64 / 3));
            assert_eq!(message.metadata().content_type().is_some(), n % 4 == 0);
        }
        for n in 0..100 {
            assert_eq!(colour.recv(&mut listener).unwrap().payload(), (3 * n + 1).to_string().as_bytes());
        }
        let status = options.daemon().status().unwrap();
        assert_eq!(status.senders, 1, "one connection");
        colour.confirm(&mut sender).unwrap();
        assert_eq!(sender.channel().as_str(), "a");
    });
}

#[test]
fn what_was_fed_goes_before_a_message_on_another_channel() {
    in_every_colour(|colour, options| {
        let mut all = options.daemon().monitor([""; 0]).unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        colour.feed(&mut sender, b"1").unwrap();
        colour.feed(&mut sender, b"2").unwrap();
        colour.send_to(&mut sender, "b", b"3").unwrap();
        colour.feed(&mut sender, b"4").unwrap();
        colour.flush(&mut sender).unwrap();
        for n in 1..=4 {
            assert_eq!(all.recv().unwrap().payload(), n.to_string().as_bytes());
        }
    });
}

#[test]
fn a_name_that_is_not_allowed_is_an_error_and_nothing_else() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "a").unwrap();
        let error = colour.send_to(&mut sender, "a/b", b"x").unwrap_err();
        assert!(matches!(error, SendError::Name(NameError::Forbidden { .. })), "{error}");
        colour.send(&mut sender, b"x").unwrap();
        colour.confirm(&mut sender).unwrap();
    });
}

#[test]
fn every_channel_keeps_counting_on_the_next_daemon() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "a").unwrap();
        for _ in 0..3 {
            colour.send_to(&mut sender, "b", b"before").unwrap();
        }
        colour.confirm(&mut sender).unwrap();
        options.daemon().stop().unwrap();
        let mut listener = options.listener("b").unwrap();
        colour.send_to(&mut sender, "b", b"after").unwrap();
        let message = colour.recv(&mut listener).unwrap();
        assert_eq!((message.payload(), message.sequence(), message.sender()), (&b"after"[..], 3, sender.id()));
    });
}

#[test]
fn a_channel_beyond_the_limit_is_declined_and_the_others_go_on() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "own").unwrap();
        let mut opened = 1;
        let declined = loop {
            match colour.send_to(&mut sender, &opened.to_string(), b"x") {
                Ok(()) => opened += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(opened, 1024);
        let SendError::Declined { channel, code, reason } = &declined else { panic!("{declined}") };
        assert_eq!((channel.as_str(), *code), ("1024", RefusalCode::Channels));
        assert!(declined.to_string().contains(reason.as_str()) && reason.contains("1024"), "{declined}");
        colour.send(&mut sender, b"x").unwrap();
        colour.send_to(&mut sender, "1023", b"x").unwrap();
        colour.confirm(&mut sender).unwrap();
        assert_eq!(options.daemon().status().unwrap().messages_accepted, 1025);
    });
}

// ---- backpressure ----

#[test]
fn nothing_is_lost_with_backpressure() {
    in_every_colour(|colour, options| {
        let paced = options.clone().backpressure(WATCHDOG);
        let mut listeners = [0; 2].map(|_| options.listener("news").unwrap());
        const COUNT: u64 = 20_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sender = colour.sender(&paced, "news").unwrap();
                for n in 0..COUNT {
                    match n % 5 {
                        0 => colour.feed(&mut sender, &[1; 700]).unwrap(),
                        1 => colour.send_to(&mut sender, "news", &[1; 700]).unwrap(),
                        _ => colour.send(&mut sender, &[1; 700]).unwrap(),
                    }
                }
                colour.confirm(&mut sender).unwrap();
            });
            for listener in &mut listeners {
                scope.spawn(move || {
                    for n in 0..COUNT {
                        assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().sequence(), n);
                    }
                });
            }
        });
        assert_eq!(options.daemon().status().unwrap().messages_lost, 0);
    });
}

#[test]
fn a_listener_that_stalls_is_left_behind_after_the_duration() {
    in_every_colour(|colour, options| {
        let longest = Duration::from_millis(300);
        let mut stalled = options.listener("news").unwrap();
        let mut sender = colour.sender(&options.clone().backpressure(longest), "news").unwrap();
        let mut waits = Vec::new();
        // 12 MB are more than the daemon keeps for one listener.
        for _ in 0..12_000 {
            let begun = Instant::now();
            colour.send(&mut sender, &[0; 1000]).unwrap();
            waits.push(begun.elapsed());
        }
        waits.sort();
        let (last, others) = waits.split_last().unwrap();
        assert!(*last >= Duration::from_millis(250), "it did not wait: {last:?}");
        assert!(others.last().unwrap() < last, "it waits once");
        let (mut received, mut lost) = (0, 0);
        while received + lost < 12_000 {
            match stalled.recv_timeout(WATCHDOG) {
                Ok(_) => received += 1,
                Err(RecvError::Lagged(lag)) => lost += lag.count.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lost > 0);
    });
}

/// Credit that it has not read when it leaves makes the daemon's next write to it fail.
#[test]
fn what_a_sender_with_backpressure_has_sent_before_it_leaves_is_delivered() {
    for _ in 0..10 {
        let (_host, options) = bus();
        let mut listener = options.listener("news").unwrap();
        let mut sender = options.clone().backpressure(WATCHDOG).sender("news").unwrap();
        let sending = std::thread::spawn(move || (0..10_000).for_each(|_| sender.send(&[0; 1000]).unwrap()));
        for n in 0..10_000 {
            assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().sequence(), n);
        }
        sending.join().unwrap();
    }
}

#[test]
fn listeners_with_other_policies_delay_no_sender() {
    let (_host, options) = bus();
    let policies = [Overflow::Latest, Overflow::DropNewest, Overflow::Disconnect];
    let _stalled = policies.map(|policy| options.clone().overflow(policy).listener("news").unwrap());
    let _observer = options.daemon().monitor(["news"]).unwrap();
    let mut sender = options.clone().backpressure(WATCHDOG).sender("news").unwrap();
    let begun = Instant::now();
    for _ in 0..12_000 {
        sender.send(&[0; 1000]).unwrap();
    }
    assert!(begun.elapsed() < WATCHDOG / 2, "{:?}", begun.elapsed());
}

// ---- receipts and listeners ----

#[test]
fn a_receipt_counts_listeners_and_names_those_that_lag() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "news").unwrap();
        let receipt = colour.send_confirmed(&mut sender, b"x").unwrap();
        assert_eq!((receipt.listeners, receipt.took, receipt.lagging), (0, 0, 0));
        let _stalled = options.listener("news").unwrap();
        let receipt = colour.send_confirmed(&mut sender, b"x").unwrap();
        assert_eq!((receipt.listeners, receipt.took, receipt.lagging), (1, 1, 0));
        assert!(receipt.worst.is_empty());
        for _ in 0..2000 {
            colour.send(&mut sender, &[0; 1000]).unwrap();
        }
        let receipt = colour.send_confirmed(&mut sender, b"x").unwrap();
        assert_eq!((receipt.listeners, receipt.took, receipt.lagging), (1, 1, 1));
        let [worst] = receipt.worst[..] else { panic!("{receipt:?}") };
        assert_eq!(worst.pid(), Some(std::process::id()));
        assert!((1..=2000).contains(&worst.messages) && worst.bytes > 1000, "{worst:?}");
        colour.confirm(&mut sender).unwrap();
    });
}

#[test]
fn a_dropped_receipt_or_count_changes_nothing() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut sender = options.sender("news").unwrap();
        let _listener = options.listener("news").unwrap();
        for _ in 0..50 {
            let _: Option<_> = sender.send_confirmed_async(b"x").now_or_never();
            let _: Option<_> = sender.wait_for_listeners_async(9, WATCHDOG).now_or_never();
            let _: Option<_> = sender.listeners_async().now_or_never();
            assert_eq!(sender.listeners_async().await.unwrap(), 1);
            assert_eq!(sender.send_confirmed_async(b"y").await.unwrap().took, 1);
        }
        sender.confirm_async().await.unwrap();
        assert_eq!(options.daemon().status().unwrap().messages_accepted, 100);
    });
}

#[test]
fn listeners_are_counted_and_waited_for() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "news").unwrap();
        assert_eq!(colour.listeners(&mut sender).unwrap(), 0);
        let too_few = colour.wait_for_listeners(&mut sender, 1, Duration::from_millis(1)).unwrap_err();
        assert!(too_few.is_timeout() && matches!(too_few, SendError::TooFewListeners { minimum: 1, .. }), "{too_few}");
        assert_eq!(too_few.to_string(), "the channel has had fewer than 1 listener for 1ms");
        let first = options.listener("news").unwrap();
        assert_eq!(colour.wait_for_listeners(&mut sender, 1, WATCHDOG).unwrap(), 1);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| options.listener("news").unwrap());
            assert_eq!(colour.wait_for_listeners(&mut sender, 2, WATCHDOG).unwrap(), 2);
            drop(second.join().unwrap());
        });
        drop(first);
        while colour.listeners(&mut sender).unwrap() > 0 {}
    });
}

#[test]
fn a_wait_for_listeners_goes_on_with_the_next_daemon() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "news").unwrap();
        let before = colour.listeners(&mut sender).unwrap();
        assert_eq!(before, 0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| colour.wait_for_listeners(&mut sender, 1, WATCHDOG));
            options.daemon().stop().unwrap();
            let _listener = options.listener("news").unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), 1);
        });
    });
}

// ---- shared senders ----

#[test]
fn clones_in_threads_and_tasks_send_whole_messages_in_one_order() {
    in_every_colour(|colour, options| {
        let mut listener = options.listener("news").unwrap();
        let sender = options.clone().backpressure(WATCHDOG).sender("news").unwrap().into_shared();
        const EACH: usize = 60;
        let size = |n: usize| if n % 10 == 9 { 400_000 } else { 100 };
        std::thread::scope(|scope| {
            // Two threads that block, and two tasks in one of them that do not.
            for from in 0..2_u8 {
                let sender = sender.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        colour.send_shared(&sender, &vec![from; size(n)]).unwrap();
                    }
                    colour.confirm_shared(&sender).unwrap();
                });
            }
            let sender = sender.clone();
            scope.spawn(move || {
                runtime().block_on(async {
                    let from = async |from: u8| {
                        for n in 0..EACH {
                            sender.send_async(&vec![from; size(n)]).await.unwrap();
                        }
                        sender.confirm_async().await.unwrap();
                    };
                    tokio::join!(from(2), from(3));
                });
            });
            let mut counts = [0; 4];
            for n in 0..4 * EACH as u64 {
                let message = listener.recv_timeout(WATCHDOG).unwrap();
                assert_eq!(message.sequence(), n);
                let from = message.payload()[0];
                assert!(message.payload().iter().all(|byte| *byte == from));
                let count = &mut counts[usize::from(from)];
                assert_eq!(message.payload().len(), size(*count), "each clone's own order");
                *count += 1;
            }
        });
        assert_eq!(sender.channel().as_str(), "news");
        drop(sender);
    });
}

#[test]
fn a_clone_whose_channel_is_behind_holds_up_no_other() {
    in_every_colour(|colour, options| {
        let mut stalled = options.listener("slow").unwrap();
        let mut listener = options.listener("fast").unwrap();
        let sender = options.clone().backpressure(WATCHDOG).sender("slow").unwrap().into_shared();
        std::thread::scope(|scope| {
            let (report, reported) = mpsc::channel();
            let slow = sender.clone();
            scope.spawn(move || {
                for n in 0..8000 {
                    colour.send_shared(&slow, &[0; 1000]).unwrap();
                    let _ = report.send(n);
                }
            });
            // It waits, at the latest when the daemon and the sockets are full.
            while reported.recv_timeout(Duration::from_millis(200)).is_ok() {}
            for n in 0..1000 {
                colour.send_shared_to(&sender, "fast", &[0; 1000]).unwrap();
                assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().sequence(), n);
            }
            assert!(matches!(sender.try_send(b"x"), Err(SendError::Full)));
            for n in 0..8000 {
                assert_eq!(stalled.recv_timeout(WATCHDOG).unwrap().sequence(), n);
            }
        });
    });
}

#[test]
fn clones_get_their_own_receipts_and_counts() {
    in_every_colour(|colour, options| {
        let sender = options.sender("news").unwrap().into_shared();
        std::thread::scope(|scope| {
            for minimum in 0..4 {
                let sender = sender.clone();
                scope.spawn(move || {
                    let listeners = colour.wait_for_shared_listeners(&sender, minimum).unwrap();
                    assert!((minimum..=3).contains(&listeners), "{listeners} of {minimum}");
                    for _ in 0..20 {
                        let receipt = colour.send_shared_confirmed(&sender, b"x").unwrap();
                        assert!(receipt.listeners >= minimum && receipt.took == receipt.listeners, "{receipt:?}");
                    }
                });
            }
            let _listeners = [0; 3].map(|_| options.listener("news").unwrap());
            while options.daemon().status().unwrap().messages_accepted < 80 {}
        });
    });
}

#[test]
fn a_shared_send_that_is_dropped_is_complete_or_not_at_all() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.listener("news").unwrap();
        let sender = options.sender("news").unwrap().into_shared();
        let large = vec![7; 3_000_000];
        let mut cancelled = 0;
        for n in 0..20_u8 {
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
fn clones_outlive_the_daemon_together() {
    in_every_colour(|colour, options| {
        let sender = options.sender("news").unwrap().into_shared();
        let id = sender.id();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let sender = sender.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        colour.send_shared(&sender, b"x").unwrap();
                    }
                });
            }
            options.daemon().stop().unwrap();
        });
        let mut listener = options.listener("news").unwrap();
        colour.send_shared(&sender, b"x").unwrap();
        let message = loop {
            match listener.recv_timeout(WATCHDOG) {
                Err(RecvError::Lagged(_)) => {}
                received => break received.unwrap(),
            }
        };
        assert_eq!((message.sender(), id), (sender.id(), sender.id()));
        assert!(message.sequence() <= 600);
    });
}

#[test]
fn clones_move_between_runtimes() {
    let (_host, options) = bus();
    let mut stalled = options.listener("news").unwrap();
    let sender = options.clone().backpressure(WATCHDOG).sender("news").unwrap().into_shared();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let sender = sender.clone();
            scope.spawn(move || {
                for _ in 0..10 {
                    runtime().block_on(async {
                        for _ in 0..200 {
                            sender.send_async(&[0; 1000]).await.unwrap();
                        }
                    });
                }
            });
        }
        for n in 0..6000 {
            assert_eq!(stalled.recv_timeout(WATCHDOG).unwrap().sequence(), n);
        }
    });
}
