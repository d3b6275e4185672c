//! Handles of a process that forks. The child keeps copies of the sockets, and of the handles.

#![cfg(all(unix, feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use common::{bus, socket};
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, HostGuard, Options, RecvError};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

/// One test at a time: a child must not be born while a thread of another test holds a lock.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forked child. It ends with this value.
struct Child(libc::pid_t);

impl Child {
    /// A child that only lives.
    fn idle() -> Self {
        Self::running(|| {
            loop {
                // SAFETY: it only waits.
                unsafe { libc::pause() };
            }
        })
    }

    /// A child that runs `body` and ends without running further destructors.
    fn running(body: impl FnOnce()) -> Self {
        // SAFETY: no thread of this program holds a lock that the child takes; see `alone`. The child ends at the end of the block.
        match unsafe { libc::fork() } {
            0 => {
                let outcome = catch_unwind(AssertUnwindSafe(body));
                // SAFETY: it only ends the process.
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => {
                assert!(child > 0);
                Self(child)
            }
        }
    }

    /// Waits for its end; whether `body` has returned.
    fn succeeds(self) -> bool {
        let mut status = 0;
        // SAFETY: it is a child of this process, and there is room for its status.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        std::mem::forget(self);
        status == 0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: it is a child of this process that was not waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Drops the child's copy of a value of the parent.
fn drop_copy<T>(value: &T) {
    // SAFETY: the child ends without dropping or using the value itself.
    drop(unsafe { std::ptr::read(value) });
}

fn is_readable(handle: &impl AsFd, wait: Duration) -> bool {
    let mut poll = libc::pollfd { fd: handle.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(wait.as_millis()).unwrap();
    // SAFETY: it is one descriptor, which is open.
    unsafe { libc::poll(&raw mut poll, 1, millis) > 0 }
}

#[test]
fn handles_that_are_dropped_are_gone_while_a_forked_child_lives() {
    let _alone = alone();
    let (_host, bus) = bus();
    let listener = bus.listener("news").unwrap();
    let mut sender = bus.sender("news").unwrap();
    let mut witness = bus.listener("news").unwrap();
    let _child = Child::idle();
    sender.feed(b"last words").unwrap();
    drop((listener, sender));
    assert_eq!(witness.recv_timeout(WATCHDOG).unwrap().payload(), b"last words");
    let begun = Instant::now();
    loop {
        let status = bus.daemon().status().unwrap();
        // The witness, and the one that hosts.
        if (status.senders, status.listeners) == (0, 2) {
            break;
        }
        assert!(begun.elapsed() < WATCHDOG, "{status:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_descriptor_is_at_rest_after_a_restart_of_the_daemon_while_a_forked_child_lives() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let bus = Options::new().socket(socket(&directory)).autostart(false);
    let mut listener = bus.listener("news").unwrap();
    assert!(is_readable(&listener, Duration::ZERO));
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    let _child = Child::idle();
    bus.daemon().stop().unwrap();
    while listener.gaps() == 0 {
        assert!(is_readable(&listener, WATCHDOG));
        assert!(!matches!(listener.try_recv(), Ok(_) | Err(RecvError::Connect(_))));
    }
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    assert!(!is_readable(&listener, Duration::from_millis(1)), "nothing has happened since");
}

#[test]
fn a_forked_child_that_drops_its_copies_leaves_the_handles_alone() {
    let _alone = alone();
    let (_host, bus) = bus();
    let mut listener = bus.listener("news").unwrap();
    let mut sender = bus.sender("news").unwrap();
    sender.feed(b"fed").unwrap();
    let child = Child::running(|| {
        drop_copy(&sender);
        drop_copy(&listener);
    });
    assert!(child.succeeds());
    sender.flush().unwrap();
    sender.send(b"sent").unwrap();
    for due in [&b"fed"[..], b"sent"] {
        assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().payload(), due);
    }
    assert_eq!(listener.gaps(), 0);
}

#[test]
fn the_signals_of_a_host_are_left_to_the_program() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let bus = Options::new().socket(socket(&directory)).autostart(false);
    let child = Child::running(|| {
        let _host = bus.listener("news").unwrap();
        let (mut set, mut taken) = (std::mem::MaybeUninit::uninit(), 0);
        // SAFETY: the set is filled before it is used, and there is room for the signal.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            libc::kill(libc::getpid(), libc::SIGTERM);
            libc::sigwait(set.as_ptr(), &raw mut taken);
        }
        assert_eq!(taken, libc::SIGTERM);
    });
    assert!(child.succeeds(), "the signal reached the thread of the host");
}

#[test]
fn a_forked_child_does_not_wait_for_the_host_of_its_parent() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let bus = Options::new().socket(socket(&directory)).autostart(false);
    let inherited = bus.sender("news").unwrap();
    let child = Child::running(|| {
        let begun = Instant::now();
        let mut sender = bus.sender("news").unwrap();
        sender.send(b"from the child").unwrap();
        drop(sender);
        drop_copy(&inherited);
        drop(HostGuard::new());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    });
    assert!(child.succeeds());
    assert!(bus.daemon().status().is_ok(), "the host goes on");
}

#[test]
fn a_guard_ends_every_host_of_the_process() {
    let _alone = alone();
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let child = Child::running(|| {
        let buses = directories.each_ref().map(|directory| Options::new().socket(socket(directory)).autostart(false));
        let guard = HostGuard::new();
        let _hosted = buses.each_ref().map(|bus| bus.listener("news").unwrap());
        drop(guard);
        for bus in buses {
            assert!(matches!(bus.daemon().status(), Err(ConnectError::NotRunning { .. })));
        }
    });
    assert!(child.succeeds());
}

#[test]
fn what_was_sent_through_any_host_of_a_process_outlives_it() {
    const COUNT: u64 = 100;
    let _alone = alone();
    for round in 0..20 {
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [one, two] = directories.each_ref().map(|place| Options::new().socket(socket(place)).autostart(false));
        let ((mut hosting, mut hosts), (mut proceeding, mut proceeds)) = (pipe().unwrap(), pipe().unwrap());
        let child = Child::running(|| {
            let mut sender = one.sender("news").unwrap();
            let _other = two.sender("other").unwrap();
            hosts.write_all(b"x").unwrap();
            proceeding.read_exact(&mut [0]).unwrap();
            for _ in 0..COUNT {
                sender.send(&[7; 1000]).unwrap();
            }
            drop(sender);
        });
        hosting.read_exact(&mut [0]).unwrap();
        let mut listener = one.embedded(false).listener("news").unwrap();
        proceeds.write_all(b"x").unwrap();
        for due in 0..COUNT {
            let message = listener.recv_timeout(WATCHDOG).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(message.sequence(), due);
        }
        assert!(child.succeeds());
    }
}

#[test]
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
fn a_forked_child_that_drops_its_copy_of_a_listener_leaves_its_rings_alone() {
    use common::rings::Daemon;
    let _alone = alone();
    let (mut daemon, mut listener) = Daemon::with_listener();
    let mut ring = daemon.introduce(&mut listener);
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    assert!(Child::running(|| drop_copy(&listener)).succeeds());
    assert_eq!(ring.sample().received, 0);
    ring.publish_to_sleeper(b"for the parent");
    assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().payload(), b"for the parent");
    let thread = std::thread::spawn(move || ring.publish_to_sleeper(b"woken"));
    let begun = Instant::now();
    assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().payload(), b"woken");
    assert!(begun.elapsed() < WATCHDOG, "nothing has woken it");
    thread.join().unwrap();
    daemon.send(0, b"the connection is the parent's, too");
    assert!(listener.recv_timeout(WATCHDOG).is_ok());

    // A listener that the parent leaves to its child.
    let (mut daemon, mut listener) = Daemon::with_listener();
    let mut ring = daemon.introduce(&mut listener);
    let child = Child::running(|| {
        // SAFETY: the parent does not use it again before the child has ended.
        let mut listener = unsafe { std::ptr::read(&raw const listener) };
        assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().payload(), b"for the child");
        std::mem::forget(listener);
    });
    ring.publish_to_sleeper(b"for the child");
    assert!(child.succeeds());
    assert_eq!(ring.sample().received, 1);
}
