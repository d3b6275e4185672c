//! Handles in an event loop of another library: one descriptor for the whole life of a handle.

#![cfg(all(unix, feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

#[allow(dead_code, unreachable_pub)]
#[path = "../examples/event_loop.rs"]
mod example;

use common::{bus, socket};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use system_broadcaster::{Options, RecvError, SendError};

/// Longer than any step takes.
const WATCHDOG: Option<Duration> = Some(Duration::from_secs(30));

#[test]
fn the_example_receives_across_a_restart_of_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    let descriptor = listener.as_fd().as_raw_fd();
    sender.send(b"1").unwrap();
    let (mut seen, mut restarted) = (Vec::new(), false);
    example::event_loop::run(&mut listener, |event| {
        seen.push(event);
        match seen.last().unwrap().as_str() {
            "1" => {
                sender.send(b"2").unwrap();
                true
            }
            "2" => {
                // The host in this process ends; the listener hosts the next one.
                options.daemon().stop().unwrap();
                true
            }
            "3" => false,
            _gap => {
                if !std::mem::replace(&mut restarted, true) {
                    sender.send(b"3").unwrap();
                }
                true
            }
        }
    })
    .unwrap();
    assert!(restarted, "a restart leaves a gap: {seen:?}");
    assert_eq!((seen.first().unwrap().as_str(), seen.last().unwrap().as_str()), ("1", "3"));
    assert_eq!(listener.gaps(), 1);
    assert_eq!(listener.as_fd().as_raw_fd(), descriptor);
}

/// Whether the descriptor of `handle` is readable now.
fn is_readable(handle: &impl AsFd, wait: Duration) -> bool {
    let mut poll = Poll::new().unwrap();
    let descriptor = handle.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1);
    poll.poll(&mut events, Some(wait)).unwrap();
    !events.is_empty()
}

#[test]
fn a_descriptor_is_readable_while_there_is_something_to_receive() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    let mut sender = options.sender("news").unwrap();
    assert!(is_readable(&listener, Duration::ZERO), "at first, so that nothing is overlooked");
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    assert!(!is_readable(&listener, Duration::from_millis(1)));
    for n in 0..3 {
        sender.send(&[n]).unwrap();
    }
    for n in 0..3 {
        assert!(is_readable(&listener, Duration::from_secs(30)), "a level, not an edge");
        assert_eq!(listener.recv().unwrap().payload(), [n], "blocking calls keep it up to date");
    }
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    assert!(!is_readable(&listener, Duration::from_millis(1)));
    let closer = listener.closer().unwrap();
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    closer.close();
    assert!(is_readable(&listener, Duration::from_secs(30)), "closing is something to receive");
    assert!(matches!(listener.try_recv(), Err(RecvError::Closed)));
}

#[test]
fn a_descriptor_that_waits_learns_of_a_closer_that_is_made_later() {
    let (_host, options) = bus();
    let mut listener = options.listener("news").unwrap();
    assert!(is_readable(&listener, Duration::ZERO));
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    assert!(!is_readable(&listener, Duration::from_millis(1)));
    let closer = listener.closer().unwrap();
    closer.close();
    assert!(is_readable(&listener, Duration::ZERO), "closing is something to receive");
    assert!(matches!(listener.try_recv(), Err(RecvError::Closed)));
}

#[test]
fn a_full_sender_is_readable_when_there_is_room() {
    let (host, options) = bus();
    let mut sender = options.sender("news").unwrap();
    assert!(is_readable(&sender, Duration::ZERO));
    let large = vec![0; 3_000_000];
    let mut written = 0;
    let mut poll = Poll::new().unwrap();
    let descriptor = sender.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1);
    while written < 20 {
        match sender.try_send(&large) {
            Ok(()) => written += 1,
            // A part is written: the handle keeps the rest, and the next call continues with it.
            Err(SendError::Unfinished { .. }) => {
                written += 1;
                poll.poll(&mut events, WATCHDOG).unwrap();
                assert!(!events.is_empty());
            }
            Err(SendError::Full) => {
                poll.poll(&mut events, WATCHDOG).unwrap();
                assert!(!events.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
    }
    sender.flush().unwrap();
    drop(host);
}
