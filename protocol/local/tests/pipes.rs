//! What the rest of the project relies on in named pipes, with both ends in this process. No daemon is involved.

#![cfg(windows)]
#![allow(clippy::unwrap_used)]

use broadcaster_local::windows::{Pipe, Server, Waiter, connect_pipe as connect, instance, output_pipe, user};
use broadcaster_local::{Bell, Connected, Interest, wait};
use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn name() -> OsString {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(r"\\.\pipe\broadcaster-test-{}-{number}", std::process::id()).into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn pair() -> (Pipe, Pipe) {
    let name = name();
    let mut server = Server::new(&name).unwrap();
    let Connected::Yes(client) = connect(&name).unwrap() else { panic!("not connected") };
    let (pipe, pid, sid) = runtime().block_on(poll_fn(|cx| server.poll_accept(cx))).unwrap();
    assert_eq!((pid, sid), (std::process::id(), user::current().unwrap()));
    (pipe, client)
}

fn read(pipe: &Pipe, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; most];
    let len = pipe.read_over(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn is_full<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn a_wait_ends_with_its_time_or_with_something_to_read_and_takes_nothing() {
    let (server, client) = pair();
    assert!(is_full(read(&server, 10)));
    let started = Instant::now();
    assert!(!server.wait_readable(Some(Duration::from_millis(50))).unwrap());
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(client.write(&[IoSlice::new(b"hel"), IoSlice::new(b"lo")]).unwrap(), 5);
    assert!(server.wait_readable(None).unwrap());
    assert!(server.wait_readable(Some(Duration::ZERO)).unwrap(), "it is still there");
    assert_eq!(read(&server, 2).unwrap(), b"he");
    assert!(server.wait_readable(None).unwrap());
    assert_eq!(read(&server, 10).unwrap(), b"llo");
    assert!(is_full(read(&server, 10)));
    assert!(!server.wait_readable(Some(Duration::ZERO)).unwrap());
}

#[test]
fn what_was_counted_as_written_is_readable_after_the_end() {
    for turned in [false, true] {
        let (mut one, mut two) = pair();
        if turned {
            std::mem::swap(&mut one, &mut two);
        }
        let sent = bytes(100_000);
        assert_eq!(one.write(&[IoSlice::new(&sent)]).unwrap(), sent.len());
        drop(one);
        let mut received = Vec::new();
        while two.wait_readable(Some(Duration::from_secs(5))).unwrap() {
            match read(&two, 7000).unwrap() {
                none if none.is_empty() => break,
                some => received.extend(some),
            }
        }
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert!(read(&two, 10).unwrap().is_empty(), "the end stays the end");
        let error = two.write(&[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
}

#[test]
fn a_full_pipe_counts_exactly_what_it_took() {
    let (server, client) = pair();
    let sent = bytes(3_000_000);
    let (mut written, mut received) = (0, Vec::new());
    let mut full = 0;
    while received.len() < sent.len() {
        match client.write(&[IoSlice::new(&sent[written..])]) {
            Ok(more) => written += more,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                assert!(!client.wait_writable(Some(Duration::from_millis(1))).unwrap(), "nothing was read");
                while let Ok(more) = read(&server, 50_000) {
                    received.extend(more);
                }
                assert!(client.wait_writable(None).unwrap());
            }
        }
        while written == sent.len() && received.len() < sent.len() {
            server.wait_readable(None).unwrap();
            received.extend(read(&server, 50_000).unwrap());
        }
    }
    assert!(full > 3, "3 MB were meant to be too much: {full}");
    assert!(received == sent);
}

#[test]
fn a_task_is_woken_by_what_comes_and_by_room_and_by_the_end() {
    let (server, client) = pair();
    runtime().block_on(async {
        let waiter = Waiter::new().unwrap();
        let mut readable = pin!(poll_fn(|cx| server.poll_readable(cx, &waiter)));
        let nothing = tokio::time::timeout(Duration::from_millis(20), &mut readable).await;
        assert!(nothing.is_err());
        std::thread::scope(|scope| {
            scope.spawn(|| client.write(&[IoSlice::new(b"news")]).unwrap());
        });
        readable.await.unwrap();
        assert_eq!(read(&server, 10).unwrap(), b"news");
        let block = vec![7; 1 << 20];
        let (room, mut written, mut received) = (Waiter::new().unwrap(), 0, 0);
        while let Ok(more) = server.write(&[IoSlice::new(&block)]) {
            written += more;
        }
        let reading = std::thread::spawn(move || {
            while client.wait_readable(None).unwrap() {
                match read(&client, 1 << 16) {
                    Ok(some) if some.is_empty() => break,
                    Ok(some) => received += some.len(),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            received
        });
        poll_fn(|cx| server.poll_writable(cx, &room)).await.unwrap();
        drop(server);
        assert_eq!(reading.join().unwrap(), written + 1, "with the byte that was not counted yet");
    });
}

#[test]
fn a_waiter_may_be_dropped_by_the_very_task_that_it_wakes() {
    struct DropsItself(std::sync::Mutex<Option<Waiter>>);
    impl std::task::Wake for DropsItself {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.lock().unwrap().take();
        }
    }
    let (server, client) = pair();
    for _ in 0..100 {
        let waiter = Waiter::new().unwrap();
        let holder = std::sync::Arc::new(DropsItself(std::sync::Mutex::new(None)));
        let waker = std::sync::Arc::clone(&holder).into();
        assert!(server.poll_readable(&mut Context::from_waker(&waker), &waiter).is_pending());
        let mut place = holder.0.lock().unwrap();
        *place = Some(waiter);
        drop(place);
        client.write(&[IoSlice::new(b"x")]).unwrap();
        while holder.0.lock().unwrap().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(read(&server, 10).unwrap(), b"x");
    }
}

#[test]
fn fifty_clients_at_once_are_all_accepted() {
    let name = name();
    let mut server = Server::new(&name).unwrap();
    let threads: Vec<_> = (0..50)
        .map(|_| {
            let name = name.clone();
            std::thread::spawn(move || {
                loop {
                    match connect(&name).unwrap() {
                        Connected::Yes(pipe) => return pipe,
                        Connected::Busy => std::thread::sleep(Duration::from_millis(1)),
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    let mut accepted = Vec::new();
    runtime().block_on(async {
        while accepted.len() < 50 {
            accepted.push(poll_fn(|cx| server.poll_accept(cx)).await.unwrap().0);
        }
    });
    for (n, thread) in threads.into_iter().enumerate() {
        let client = thread.join().unwrap();
        client.write(&[IoSlice::new(&[u8::try_from(n).unwrap()])]).unwrap();
        std::mem::forget(client);
    }
    let mut received: Vec<u8> =
        accepted.iter().map(|pipe| pipe.wait_readable(None).map(|_| read(pipe, 9).unwrap()[0]).unwrap()).collect();
    received.sort_unstable();
    assert!(received.into_iter().eq(0..50));
}

#[test]
fn a_dropped_name_is_not_served() {
    let name = name();
    assert!(matches!(connect(&name).unwrap(), Connected::NotListening));
    let server = Server::new(&name).unwrap();
    drop(server);
    assert!(matches!(connect(&name).unwrap(), Connected::NotListening));
}

#[test]
fn the_output_of_a_program_is_read_without_waiting() {
    let (ours, theirs) = output_pipe().unwrap();
    assert!(is_full(read(&ours, 10)));
    let mut writer = std::fs::File::from(theirs);
    writer.write_all(b"ready").unwrap();
    assert!(ours.wait_readable(None).unwrap());
    assert_eq!(read(&ours, 10).unwrap(), b"ready");
    drop(writer);
    assert!(ours.wait_readable(None).unwrap());
    assert!(read(&ours, 10).unwrap().is_empty());
}

#[test]
fn an_interrupted_wait_ends() {
    let (server, _client) = pair();
    runtime().block_on(async {
        let waiter = Waiter::new().unwrap();
        let mut first = true;
        poll_fn(|cx| {
            let polled = server.poll_readable(cx, &waiter);
            if std::mem::take(&mut first) {
                assert!(matches!(polled, Poll::Pending));
                server.interrupt();
            }
            polled
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_pipe_belongs_to_the_user_that_serves_it() {
    let name = name();
    let instance = instance(&name, true).unwrap();
    assert_eq!(user::owner(&instance).unwrap(), user::current().unwrap());
    drop(instance);
}

#[test]
fn either_pipe_ends_the_wait() {
    let ((quiet, quiet_client), (loud, loud_client)) = (pair(), pair());
    let (quiet, loud) = (std::sync::Arc::new(quiet), std::sync::Arc::new(loud));
    let both = [Interest::readable(&quiet), Interest::readable(&loud)];
    let started = Instant::now();
    wait(&both, Some(Duration::from_millis(50))).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50));
    std::thread::scope(|scope| {
        scope.spawn(|| loud_client.write(&[IoSlice::new(b"x")]).unwrap());
        wait(&both, None).unwrap();
    });
    assert_eq!(read(&loud, 10).unwrap(), b"x");
    wait(&[both[0], Interest::writable(&loud)], None).unwrap();
    drop(quiet_client);
    wait(&both, None).unwrap();
}

#[test]
fn bell_ends_the_wait_of_a_thread_and_of_a_task_until_it_is_silenced() {
    let (quiet, _client) = pair();
    let (quiet, bell) = (std::sync::Arc::new(quiet), Bell::new().unwrap());
    let readable = bell.readable();
    let both = [Interest::readable(&quiet), Interest::readable(&readable)];
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| bell.ring()));
        wait(&both, None).unwrap();
    });
    assert!(readable.wait_readable(Some(Duration::ZERO)).unwrap(), "it rings until it is silenced");
    bell.silence();
    assert!(!readable.wait_readable(Some(Duration::ZERO)).unwrap());
    let waiter = Waiter::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| bell.ring());
        runtime().block_on(poll_fn(|cx| readable.poll_readable(cx, &waiter))).unwrap();
    });
}
