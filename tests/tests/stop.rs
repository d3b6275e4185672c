//! An orderly stop delivers messages that the server has not read yet.
//!
//! The server runs on a thread of this process, so that the stop follows the last send immediately.

use broadcaster_protocol::endpoint::{Candidate, Origin};
use broadcaster_server::{Limits, bind, serve};
use std::time::Duration;
use system_broadcaster::Options;

#[test]
fn stop_delivers_messages_still_in_the_sockets() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("bus.sock");
    let bound = bind(&[Candidate { socket: socket.clone(), origin: Origin::Explicit }]).expect("bound");
    let (hand_over, sender) = tokio::sync::oneshot::channel::<system_broadcaster::Sender>();
    let (keep_open, kept) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        serve(bound, Limits::default(), "test", |_| async move {
            let mut sender = sender.await.expect("a sender");
            // This future runs on the server's thread, so the server reads nothing in between. One read is too small for all of it.
            for number in 0..60_u8 {
                sender.send(&[number; 5000]).expect("its socket has room");
            }
            keep_open.send(sender).expect("kept open");
        })
    });
    let options = Options::new().socket(&socket).autostart(false).embedded(false).timeout(Duration::from_secs(30));
    let mut listener = options.listener("news").expect("connected");
    hand_over.send(options.sender("news").expect("connected")).expect("the server runs");
    for number in 0..60_u8 {
        assert_eq!(listener.recv().expect("delivered").payload(), [number; 5000]);
    }
    drop((listener, kept));
    server.join().expect("no panic").expect("stopped");
}
