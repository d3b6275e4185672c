//! What a client meets when the process that serves it is out of descriptors. One test, since the limit is the whole process's.

#![cfg(all(unix, feature = "tokio"))]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{Acceptor, Directory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::future::poll_fn;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::Duration;

#[test]
fn client_without_a_descriptor_is_refused_with_the_reason_and_the_next_one_is_served() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("bus.sock");
    let directory = Directory::open(&socket).unwrap();
    let (listener, _file) = directory.listen(&socket).unwrap();
    let (second, _second_file) = directory.listen(&place.path().join("second.sock")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    runtime.block_on(async {
        let acceptor = Acceptor::new(vec![listener, second], b"full".to_vec()).unwrap();
        let soon = |acceptor| tokio::time::timeout(Duration::from_millis(50), Acceptor::accept(acceptor));
        let mut clients: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        clients.push(UnixStream::connect(place.path().join("second.sock")).unwrap());

        let served = soon(&acceptor).await.unwrap().unwrap();
        let also_served = soon(&acceptor).await.unwrap().unwrap();
        drop(also_served);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
        let mut files = Vec::new();
        while let Ok(file) = File::open("/") {
            files.push(file);
        }
        soon(&acceptor).await.expect_err("no connection, and no error");
        let refused = |client: &mut UnixStream| {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut answer = String::new();
            let _ = client.read_to_string(&mut answer); // its end may be that the connection was reset
            answer
        };
        for client in &mut clients[1..5] {
            assert_eq!(refused(client), "full");
        }
        let (mut accept, mut polls) = (pin!(acceptor.accept()), 0);
        let idle = poll_fn(|cx| {
            polls += 1;
            accept.as_mut().poll(cx)
        });
        tokio::time::timeout(Duration::from_millis(50), idle).await.expect_err("no client waits");
        assert!(polls < 10, "{polls} polls while no client waits");
        files.truncate(files.len() - 1);
        let mut last = UnixStream::connect(&socket).unwrap();
        soon(&acceptor).await.expect_err("the client itself has taken that descriptor");
        assert_eq!(refused(&mut last), "full", "the spare descriptor was taken back");
        files.clear();
        let _client = UnixStream::connect(&socket).unwrap();
        soon(&acceptor).await.unwrap().expect("served again");
        drop(served);
    });
}
