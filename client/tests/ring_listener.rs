//! Messages that a listener reads from shared memory, and what wakes it, however it waits.

#![cfg(all(
    any(target_os = "linux", target_os = "android"),
    target_pointer_width = "64",
    feature = "embedded",
    feature = "tokio"
))]
#![allow(clippy::unwrap_used)]

mod common;

use broadcaster_local::make_memory;
use broadcaster_ring::Writer;
use common::rings::{Daemon, RING_BYTES, Ring, WATCHDOG, within};
use common::runtime;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;
use system_broadcaster::{ConnectError, Listener, Options, Overflow, RecvError, select};

/// The payload of the next message.
fn payload(listener: &mut Listener) -> u8 {
    listener.recv().unwrap().payload()[0]
}

/// A thread that publishes each of these messages once the listener sleeps.
fn sender(mut ring: Ring, messages: std::ops::Range<u8>) -> std::thread::JoinHandle<Ring> {
    std::thread::spawn(move || {
        messages.for_each(|n| ring.publish_to_sleeper(&[n]));
        ring
    })
}

#[test]
fn a_message_ends_a_blocking_receive() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let ring = daemon.introduce(&mut listener);
        let thread = sender(ring, 0..50);
        for n in 0..50 {
            let message = listener.recv().unwrap();
            assert_eq!(
                (message.payload(), message.sequence(), message.sender_pid()),
                (&[n][..], u64::from(n), Some(9))
            );
            assert_eq!(message.channel().as_str(), "news");
        }
        let ring = thread.join().unwrap();
        assert_eq!((ring.sample().received, ring.sample().lost), (50, 0));
    });
}

#[test]
fn a_message_ends_a_receive_with_a_timeout_or_a_closer() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let mut ring = daemon.introduce(&mut listener);
        for has_closer in [false, true] {
            let closer = has_closer.then(|| listener.closer().unwrap());
            let early = listener.recv_timeout(Duration::from_millis(1));
            assert!(matches!(early, Err(RecvError::TimedOut { .. })));
            let thread = sender(ring, 0..20);
            for n in 0..20 {
                let received = if n % 2 == 0 { listener.recv() } else { listener.recv_timeout(WATCHDOG) };
                assert_eq!(received.unwrap().payload(), [n]);
            }
            ring = thread.join().unwrap();
            if let Some(closer) = closer {
                closer.close();
                ring.publish(b"late");
                assert!(matches!(listener.recv(), Err(RecvError::Closed)));
            }
        }
    });
}

#[test]
fn a_message_ends_an_asynchronous_receive() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let ring = daemon.introduce(&mut listener);
        let thread = sender(ring, 0..50);
        runtime().block_on(async {
            for n in 0..50 {
                assert_eq!(listener.recv_async().await.unwrap().payload(), [n]);
            }
        });
        thread.join().unwrap();
    });
}

#[test]
fn a_message_ends_the_wait_for_several_handles() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let (_other_daemon, mut other) = Daemon::with_listener();
        let ring = daemon.introduce(&mut listener);
        let thread = sender(ring, 0..20);
        for n in 0..20 {
            assert_eq!(select(&mut [&mut other, &mut listener], Some(WATCHDOG)).unwrap(), [1]);
            assert_eq!(listener.try_recv().unwrap().payload(), [n]);
        }
        thread.join().unwrap();
    });
}

/// Whether the descriptor becomes readable within this time.
fn is_readable(listener: &Listener, wait: Duration) -> bool {
    let mut poll = Poll::new().unwrap();
    let descriptor = listener.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1);
    poll.poll(&mut events, Some(wait)).unwrap();
    !events.is_empty()
}

#[test]
fn a_message_makes_the_descriptor_readable_until_it_is_received() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        assert!(is_readable(&listener, Duration::ZERO));
        let mut ring = daemon.introduce(&mut listener);
        let mut other = daemon.introduce(&mut listener);
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
        for n in 0..20 {
            assert!(!is_readable(&listener, Duration::ZERO), "an event loop that has received everything sleeps");
            let thread = std::thread::spawn(move || {
                other.publish_to_sleeper(&[n]);
                ring.publish(&[n]);
                (other, ring)
            });
            assert!(is_readable(&listener, WATCHDOG));
            (other, ring) = thread.join().unwrap();
            assert!(is_readable(&listener, Duration::ZERO), "as long as it was not received");
            for _ in 0..2 {
                assert_eq!(listener.try_recv().unwrap().payload(), [n]);
            }
            assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
        }
        daemon.send(0, b"by socket");
        assert!(is_readable(&listener, WATCHDOG));
    });
}

#[test]
fn every_source_ends_a_receive() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let mut rings =
            [daemon.introduce(&mut listener), daemon.introduce(&mut listener), daemon.introduce(&mut listener)];
        let thread = std::thread::spawn(move || {
            for n in 0..60 {
                match n % 4 {
                    3 => {
                        rings[0].publish_to_sleeper(&[n]);
                        daemon.send(u64::from(n), &[n]); // while it may be awake
                    }
                    at => rings[usize::from(at)].publish_to_sleeper(&[n]),
                }
            }
            (daemon, rings)
        });
        // All of them, in the order of each sender.
        let mut received = BTreeMap::<_, Vec<u8>>::new();
        for _ in 0..75 {
            let message = listener.recv().unwrap();
            received.entry(message.sender_pid()).or_default().push(message.payload()[0]);
        }
        let by_socket = received.remove(&Some(5)).unwrap();
        assert!(by_socket.iter().copied().eq((3..60).step_by(4)), "{by_socket:?}");
        let mut by_ring = received.remove(&Some(9)).unwrap();
        by_ring.sort_unstable();
        assert!(by_ring.iter().copied().eq(0..60), "{by_ring:?}");
        thread.join().unwrap();
    });
}

#[test]
fn a_listener_leaves_a_ring_where_the_daemon_states() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let mut ring = daemon.introduce(&mut listener);
        (0..3).for_each(|n| ring.publish(&[n]));
        daemon.unfollow(&ring, 3);
        daemon.send(3, &[3]);
        assert_eq!([(); 4].map(|()| payload(&mut listener)), [0, 1, 2, 3]);
        // The next one goes by the socket alone, which the listener waits for by itself.
        let thread = std::thread::spawn(move || {
            daemon.send(4, &[4]);
            daemon
        });
        assert_eq!(payload(&mut listener), 4);
        let mut daemon = thread.join().unwrap();
        assert_eq!(daemon.next(), Daemon::unlinked(1), "its counts are final");
        let again = daemon.introduce(&mut listener);
        let thread = sender(again, 5..9);
        assert_eq!([(); 4].map(|()| payload(&mut listener)), [5, 6, 7, 8]);
        thread.join().unwrap();
    });
}

#[test]
fn a_ring_outlives_its_connection_until_it_is_read() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        let mut ring = daemon.introduce(&mut listener);
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
        (0..3).for_each(|n| ring.publish(&[n]));
        drop(daemon);
        assert_eq!([(); 3].map(|()| payload(&mut listener)), [0, 1, 2]);
        assert!(matches!(listener.recv(), Err(RecvError::Connect(_))));
        ring.publish(b"nothing reads it any more");
        assert_eq!(ring.sample().received, 3);
    });
}

#[test]
fn a_descriptor_that_is_not_a_ring_is_declined() {
    within(|| {
        let (mut daemon, mut listener) = Daemon::with_listener();
        daemon.offer_a_pipe(7);
        assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
        assert_eq!(daemon.next(), Daemon::unlinked(7));
        let mut ring = daemon.introduce(&mut listener);
        ring.publish(&[1]);
        assert_eq!(payload(&mut listener), 1, "the next one is not affected");
    });
}

#[test]
fn only_listeners_that_can_use_rings_announce_them() {
    let capabilities = |connect: fn(Options)| Daemon::hello_of(connect).capabilities;
    assert_eq!(capabilities(|options| drop(options.listener("news").unwrap_err())), 1);
    assert_eq!(capabilities(|options| drop(options.overflow(Overflow::Latest).listener("news").unwrap_err())), 0);
    assert_eq!(capabilities(|options| drop(options.sender("news").unwrap_err())), 0);
}

#[test]
fn a_listener_that_cannot_share_memory_finds_out_when_a_ring_is_offered() {
    const VARIABLE: &str = "BROADCASTER_TEST_CHILD";
    const NAME: &str = "a_listener_that_cannot_share_memory_finds_out_when_a_ring_is_offered";
    // In a child, which is this program again: the limit belongs to the process.
    if std::env::var_os(VARIABLE).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME]).env(VARIABLE, "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    within(|| {
        let (memory, words) = make_memory("ring", RING_BYTES).unwrap();
        let _writer = Writer::new(words, 0);
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..before }).unwrap();
        // It announces that it can use rings: it has not tried.
        let (mut daemon, mut listener) = Daemon::with_listener();
        daemon.offer(1, &memory);
        listener.try_recv().expect_err("there is no message");
        assert_eq!(daemon.next(), Daemon::unlinked(1));
        setrlimit(Resource::Fsize, before).unwrap();
        daemon.offer(2, &memory);
        listener.try_recv().expect_err("there is no message");
        assert_eq!(daemon.next(), Daemon::unlinked(2), "it has tried once");
        daemon.send(0, &[1]);
        assert_eq!(payload(&mut listener), 1, "the socket goes on");
    });
}

#[test]
fn the_variable_turns_rings_off() {
    const VARIABLE: &str = "BROADCASTER_SHARED_MEMORY";
    const NAME: &str = "the_variable_turns_rings_off";
    // In a child, which is this program again: the environment belongs to the process.
    match std::env::var(VARIABLE).as_deref() {
        Ok("0") => {
            let hello = Daemon::hello_of(|options| drop(options.listener("news").unwrap_err()));
            assert_eq!(hello.capabilities, 0);
        }
        Ok("off") => {
            let error = Options::new().autostart(false).embedded(false).listener("news").unwrap_err();
            assert!(matches!(&error, ConnectError::SharedMemory { value } if value == "off"), "{error}");
        }
        _ => {
            for value in ["0", "off"] {
                let mut child = Command::new(std::env::current_exe().unwrap());
                let output = child.args(["--exact", NAME]).env(VARIABLE, value).output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        }
    }
}
