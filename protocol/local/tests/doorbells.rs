//! What a listener relies on when it waits for several doorbells: each ring wakes it once, wherever the descriptor is waited for.

#![cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{
    Descriptor, Doorbells, Interest, Readiness, make_doorbell, read_with_descriptors, ring_doorbell,
    write_with_descriptors,
};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const AT_MOST: Duration = Duration::from_secs(10);

fn within(descriptor: impl AsFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).unwrap();
    rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn is_readable(descriptor: impl AsFd) -> bool {
    within(descriptor, Duration::ZERO)
}

/// Doorbells, all of which are waited for.
fn rings<const N: usize>() -> (Doorbells, [Descriptor; N]) {
    let doorbells = Doorbells::new().unwrap();
    let all = [(); N].map(|()| make_doorbell().unwrap());
    all.iter().for_each(|doorbell| doorbells.add(doorbell).unwrap());
    (doorbells, all)
}

#[test]
fn any_doorbell_makes_it_readable_until_it_is_consumed() {
    let (doorbells, [one, other]) = rings();
    let waited = doorbells.readable();
    assert!(!is_readable(&waited));
    for rung in [&one, &other, &one, &one] {
        ring_doorbell(rung).unwrap();
        assert!(is_readable(&waited) && is_readable(&waited), "for as long as nothing consumes it");
        doorbells.consume().unwrap();
        assert!(!is_readable(&waited), "although the doorbell has been rung");
    }
    ring_doorbell(&one).unwrap();
    ring_doorbell(&other).unwrap();
    doorbells.consume().unwrap();
    assert!(!is_readable(&waited), "both were consumed");
    doorbells.consume().unwrap();
}

#[test]
fn many_doorbells_are_consumed_at_once() {
    let (doorbells, all) = rings::<100>();
    let waited = doorbells.readable();
    for round in 0..3 {
        all.iter().for_each(|doorbell| ring_doorbell(doorbell).unwrap());
        assert!(is_readable(&waited), "{round}");
        doorbells.consume().unwrap();
        assert!(!is_readable(&waited), "{round}");
    }
}

#[test]
fn doorbell_that_was_rung_before_counts_when_it_is_added() {
    let doorbells = Doorbells::new().unwrap();
    let doorbell = make_doorbell().unwrap();
    ring_doorbell(&doorbell).unwrap();
    doorbells.add(&doorbell).unwrap();
    assert!(is_readable(doorbells.readable()));
    doorbells.consume().unwrap();
    doorbells.add(&doorbell).unwrap();
    assert!(!is_readable(doorbells.readable()), "the second time changes nothing");
}

#[test]
fn removed_doorbell_is_not_waited_for_even_if_a_peer_holds_it() {
    let (doorbells, [one, other]) = rings();
    let waited = doorbells.readable();
    let (here, there) = UnixStream::pair().unwrap();
    write_with_descriptors(&here.into(), b"x", &[&one]).unwrap();
    let (mut received, mut buffer) = (VecDeque::new(), bytes::BytesMut::with_capacity(1));
    read_with_descriptors(&there.into(), &mut bytes::BufMut::limit(&mut buffer, 1), &mut received).unwrap();
    ring_doorbell(&received[0]).unwrap();
    assert!(is_readable(&waited));
    doorbells.remove(&one);
    assert!(!is_readable(&waited));
    doorbells.remove(&one);
    drop(one);
    ring_doorbell(&received[0]).unwrap();
    assert!(!is_readable(&waited));
    ring_doorbell(&other).unwrap();
    assert!(is_readable(&waited));
}

#[test]
fn ring_ends_a_wait_that_has_begun() {
    let (doorbells, [doorbell]) = rings();
    let waited = doorbells.readable();
    for _ in 0..200 {
        std::thread::scope(|scope| {
            scope.spawn(|| ring_doorbell(&doorbell).unwrap());
            assert!(within(&waited, AT_MOST));
        });
        doorbells.consume().unwrap();
        assert!(!is_readable(&waited));
        broadcaster_local::wait(&[Interest::readable(&waited)], Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn readiness_of_another_event_loop_follows_it() {
    let (doorbells, [one, other]) = rings();
    let (readiness, waited) = (Readiness::new().unwrap(), doorbells.readable());
    readiness.set(&[Interest::readable(&waited)], None, false).unwrap();
    assert!(!is_readable(&readiness));
    for rung in [&one, &other, &one] {
        ring_doorbell(rung).unwrap();
        assert!(is_readable(&readiness) && is_readable(&readiness));
        doorbells.consume().unwrap();
        assert!(!is_readable(&readiness));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| ring_doorbell(&other).unwrap());
        assert!(within(&readiness, AT_MOST), "a wait that has begun");
    });
}

/// How an event loop such as mio registers it: for changes, in an epoll instance of its own.
#[test]
fn each_ring_is_a_change_for_another_epoll_instance() {
    let (doorbells, [one, other]) = rings();
    let outer = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&outer, doorbells.readable(), EventData::new_u64(0), EventFlags::IN | EventFlags::ET).unwrap();
    let events = || {
        let mut events = Vec::with_capacity(8);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&outer, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap()
    };
    assert_eq!(events(), 0);
    for rung in [&one, &one, &other] {
        ring_doorbell(rung).unwrap();
        assert_eq!((events(), events()), (1, 0));
        ring_doorbell(rung).unwrap();
        assert_eq!((events(), events()), (1, 0), "nothing was consumed in between");
        doorbells.consume().unwrap();
        assert_eq!(events(), 0);
    }
}

#[cfg(feature = "tokio")]
mod tasks {
    use super::{AT_MOST, Duration, make_doorbell, ring_doorbell, rings};
    use broadcaster_local::{Registration, Socket, register};
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;
    use tokio::io::Interest;
    use tokio::time::timeout;

    async fn is_woken(registration: &Registration<Arc<Socket>>) -> bool {
        let Ok(ready) = timeout(AT_MOST, registration.readable()).await else { return false };
        ready.unwrap().clear_ready();
        true
    }

    async fn is_quiet(registration: &Registration<Arc<Socket>>) -> bool {
        timeout(Duration::from_millis(5), registration.readable()).await.is_err()
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn each_ring_wakes_a_task_that_waits_for_all() {
        run(async {
            let (doorbells, [one, other]) = rings();
            let registration = register(doorbells.readable(), Interest::READABLE).unwrap();
            assert!(is_quiet(&registration).await);
            for rung in [&one, &other, &other] {
                let mut woken = pin!(is_woken(&registration));
                let at_once = poll_fn(|cx| Poll::Ready(woken.as_mut().poll(cx).is_ready())).await;
                assert!(!at_once, "it waits");
                ring_doorbell(rung).unwrap();
                assert!(woken.await);
                doorbells.consume().unwrap();
                assert!(is_quiet(&registration).await);
            }
        });
    }

    #[test]
    fn each_ring_wakes_a_task_that_waits_for_one_doorbell() {
        run(async {
            let doorbell = make_doorbell().unwrap();
            let registration = register(doorbell.readable(), Interest::READABLE).unwrap();
            for _ in 0..3 {
                assert!(is_quiet(&registration).await);
                ring_doorbell(&doorbell).unwrap();
                assert!(is_woken(&registration).await);
            }
        });
    }
}
