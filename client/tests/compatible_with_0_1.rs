//! A program as it was written for version 0.1, unchanged: forgotten listeners, a listener made inside a runtime, a sender in a plain
//! closure. It runs on the user's bus, so that it is given one of its own through the environment, in a child process.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used, unused_must_use)]

use futures_util::StreamExt;
use std::pin::pin;
use std::process::Command;
use system_broadcaster::{Listener, Sender};

const CHANNEL: &str = "com.example.sync";

/// Set in the child process.
const IS_CHILD: &str = "BROADCASTER_TEST_IS_CHILD";

#[test]
fn a_program_of_0_1_compiles_and_works() {
    if std::env::var_os(IS_CHILD).is_some() {
        return program();
    }
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
    let socket = match cfg!(windows) {
        true => format!(r"\\.\pipe\broadcaster-test{name}").into(),
        false => directory.path().join("bus.sock"),
    };
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_program_of_0_1_compiles_and_works", "--nocapture"]);
    child.env(IS_CHILD, "1").env("BROADCASTER_SOCKET", socket).env("PATH", "").env_remove("BROADCASTERD");
    assert!(child.status().unwrap().success());
}

fn program() {
    let channel = CHANNEL;
    for _ in 0..2 {
        let listener = Listener::create(channel).unwrap();
        std::mem::forget(listener);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut listener = Listener::create(channel).unwrap();
        let sending = std::thread::spawn(|| {
            let mut sender = Sender::create(CHANNEL).unwrap();
            sender.send(b"first").unwrap();
            sender.send(&vec![2; 1000]).unwrap();
        });
        let mut stream = pin!(listener.listen());
        assert_eq!(stream.next().await, Some(b"first".to_vec()));
        assert_eq!(stream.next().await, Some(vec![2; 1000]));
        sending.join().unwrap();
    });
    let name: &'static str = channel;
    let closure = std::thread::spawn(|| Sender::create(name).map(drop));
    closure.join().unwrap().unwrap();
}
