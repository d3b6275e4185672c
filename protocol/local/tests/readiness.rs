//! What an event loop relies on in a `Readiness`. It only ever waits for the descriptor.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{Interest, Readiness, Socket};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn pair() -> (Arc<Socket>, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Arc::new(one.into()), other.into())
}

/// Whether it becomes readable within this time.
fn within(readiness: &Readiness, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).unwrap();
    rustix::event::poll(&mut [PollFd::new(readiness, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn is_readable(readiness: &Readiness) -> bool {
    within(readiness, Duration::ZERO)
}

fn write(socket: &Socket) {
    assert_eq!(broadcaster_local::write(socket, b"x").unwrap(), 1);
}

fn drain(socket: &Socket) {
    let mut buffer = bytes::BytesMut::with_capacity(64);
    let mut target = bytes::BufMut::limit(&mut buffer, 64);
    while broadcaster_local::read(socket, &mut target).is_ok() {}
}

const SOON: Duration = Duration::from_millis(20);
const AT_MOST: Duration = Duration::from_secs(10);

#[test]
fn nothing_makes_a_new_one_readable() {
    let readiness = Readiness::new().unwrap();
    assert!(!is_readable(&readiness));
    readiness.set(&[], None, false).unwrap();
    assert!(!is_readable(&readiness));
}

#[test]
fn readable_socket_makes_it_readable_until_it_is_drained() {
    let readiness = Readiness::new().unwrap();
    let (socket, peer) = pair();
    let interests = [Interest::readable(&socket)];
    readiness.set(&interests, None, false).unwrap();
    assert!(!is_readable(&readiness));
    write(&peer);
    assert!(is_readable(&readiness) && is_readable(&readiness), "for as long as it lasts");
    drain(&socket);
    readiness.set(&interests, None, false).unwrap();
    assert!(!is_readable(&readiness));
    write(&peer);
    assert!(is_readable(&readiness), "again");
    drain(&socket);
    drop(peer);
    assert!(is_readable(&readiness), "by the end of the stream");
}

#[test]
fn any_of_several_sockets_makes_it_readable() {
    let readiness = Readiness::new().unwrap();
    let ((one, one_peer), (two, two_peer)) = (pair(), pair());
    readiness.set(&[Interest::readable(&one), Interest::readable(&two)], None, false).unwrap();
    assert!(!is_readable(&readiness));
    write(&two_peer);
    assert!(is_readable(&readiness));
    readiness.set(&[Interest::readable(&one)], None, false).unwrap();
    assert!(!is_readable(&readiness), "the second is no longer of interest");
    write(&one_peer);
    assert!(is_readable(&readiness));
}

#[test]
fn directions_can_be_replaced_and_combined() {
    let readiness = Readiness::new().unwrap();
    let (socket, peer) = pair();
    readiness.set(&[Interest::writable(&socket)], None, false).unwrap();
    assert!(is_readable(&readiness), "there is room to write");
    readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
    assert!(!is_readable(&readiness), "there is nothing to read");
    readiness.set(&[Interest::readable(&socket), Interest::writable(&socket)], None, false).unwrap();
    assert!(is_readable(&readiness), "there is room to write");
    readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
    write(&peer);
    assert!(is_readable(&readiness), "there is something to read");
    readiness.set(&[], None, false).unwrap();
    assert!(!is_readable(&readiness));
}

#[test]
fn deadline_makes_it_readable_until_it_is_replaced() {
    let readiness = Readiness::new().unwrap();
    let at = Instant::now() + SOON;
    readiness.set(&[], Some(at), false).unwrap();
    assert!(within(&readiness, AT_MOST));
    assert!(Instant::now() >= at);
    assert!(is_readable(&readiness), "for as long as it is set");
    readiness.set(&[], Some(at), false).unwrap();
    assert!(is_readable(&readiness), "the same time has still come");
    readiness.set(&[], Some(Instant::now() + AT_MOST), false).unwrap();
    assert!(!is_readable(&readiness), "another time has not");
    readiness.set(&[], Some(Instant::now()), false).unwrap();
    assert!(is_readable(&readiness), "at once");
    readiness.set(&[], None, false).unwrap();
    assert!(!is_readable(&readiness));
    let at = Instant::now() + SOON;
    readiness.set(&[], Some(at), false).unwrap();
    assert!(within(&readiness, AT_MOST) && Instant::now() >= at, "a second time");
}

#[test]
fn ready_now_lasts_until_it_is_withdrawn() {
    let readiness = Readiness::new().unwrap();
    for _ in 0..3 {
        readiness.set(&[], None, true).unwrap();
        assert!(is_readable(&readiness) && is_readable(&readiness));
        readiness.set(&[], Some(Instant::now() + AT_MOST), false).unwrap();
        assert!(!is_readable(&readiness));
    }
}

#[test]
fn sockets_are_replaced_even_if_a_number_is_used_again() {
    let readiness = Readiness::new().unwrap();
    let mut reused = false;
    for _ in 0..100 {
        let (socket, peer) = pair();
        let number = socket.as_raw_fd();
        readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
        write(&peer);
        assert!(is_readable(&readiness));
        drop(socket);
        readiness.set(&[], None, false).unwrap();
        assert!(!is_readable(&readiness), "a closed socket is not ready");
        let (socket, peer) = pair();
        reused |= socket.as_raw_fd() == number;
        readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
        assert!(!is_readable(&readiness), "the new socket has nothing to read");
        write(&peer);
        assert!(is_readable(&readiness), "the new socket is watched");
    }
    assert!(reused || cfg!(not(target_os = "linux")), "no number was used again, which this test is about");
}

#[test]
fn a_socket_that_another_process_holds_as_well_can_be_replaced() {
    let readiness = Readiness::new().unwrap();
    let (socket, peer) = pair();
    let copy = socket.try_clone().unwrap(); // a forked child has one
    readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
    write(&peer);
    assert!(is_readable(&readiness));
    drop(socket);
    let (next, next_peer) = pair();
    readiness.set(&[Interest::readable(&next)], None, false).unwrap();
    assert!(!is_readable(&readiness), "the copy is not of interest");
    write(&next_peer);
    assert!(is_readable(&readiness), "the next socket is");
    drop(copy);
}

#[test]
fn it_keeps_a_socket_open_until_it_is_replaced() {
    let readiness = Readiness::new().unwrap();
    let (socket, peer) = pair();
    readiness.set(&[Interest::readable(&socket)], None, false).unwrap();
    drop(socket);
    write(&peer);
    readiness.set(&[], None, false).unwrap();
    let error = broadcaster_local::write(&peer, b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}
