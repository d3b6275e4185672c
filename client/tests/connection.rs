//! What handles do when daemons misbehave, stop or are missing. The daemon is played by the test, or hosted by its process.

#![cfg(all(unix, feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use broadcaster_local::STOPPED_SOCKET_KEEPS_BYTES;
use broadcaster_protocol::control::{
    Control, Credit, Goodbye, InboxOpened, Named, Opened, Receipt, Refused, RefusedCode, Report, Subscribed, Welcome,
};
use broadcaster_protocol::limits::PROTOCOL_MAX;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId, meta};
use bytes::{BufMut, BytesMut};
use common::{runtime, socket};
use futures_util::{FutureExt, SinkExt};
use std::error::Error;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use system_broadcaster::{
    ConnectError, Options, RecvError, RefusalCode, ReplyError, RequestError, SendError, Sender, Stage,
};
use tempfile::TempDir;

/// A bus that nothing serves, and that no handle starts.
fn absent() -> (TempDir, Options) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false).embedded(false);
    (directory, options)
}

/// One connection of a daemon that is played by the test.
struct Conversation {
    stream: UnixStream,
    decoder: Decoder,
    chunk: BytesMut,
}

impl Conversation {
    fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        Self { stream, decoder: Decoder::consumer(1 << 20), chunk: BytesMut::new() }
    }

    /// The next item; `None` at the end of the stream.
    fn next_item(&mut self) -> Option<Item> {
        loop {
            let item = self.decoder.next(&mut self.chunk).unwrap();
            if item.is_some() {
                return item;
            }
            let mut buffer = [0; 4096];
            let room = self.decoder.target(&mut self.chunk).remaining_mut().min(buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.decoder.target(&mut self.chunk).put_slice(&buffer[..read]),
            }
        }
    }

    /// The next control message; `None` at the end of the stream.
    fn next(&mut self) -> Option<Control> {
        loop {
            if let Item::Control(control) = self.next_item()? {
                return Some(control);
            }
        }
    }

    fn send(&mut self, control: impl Into<Control>) {
        let mut bytes = Vec::new();
        control.into().encode(&mut bytes).unwrap();
        let _ = self.stream.write_all(&bytes); // a client whose time is over is gone
    }

    /// The handshake with a listener on one channel.
    fn join(&mut self) {
        self.join_with(1 << 20);
    }

    /// The same on a daemon that accepts payloads of so many bytes.
    fn join_with(&mut self, payload_bytes_max: u32) {
        assert!(matches!(self.next(), Some(Control::Hello(_))));
        self.decoder.set_payload_bytes_max(payload_bytes_max);
        self.send(Welcome { payload_bytes_max, ..welcome() });
        let Some(Control::Subscribe(subscribe)) = self.next() else { panic!("it subscribes") };
        self.send(Subscribed { subscription: subscribe.subscription, extensions: Vec::new() });
        self.send(Named { id: 1, name: "news".to_owned(), extensions: Vec::new() });
    }

    /// The next messages; `None` at the end of the stream.
    fn run(&mut self) -> Option<Run> {
        loop {
            if let Item::Run(run) = self.next_item()? {
                return Some(run);
            }
        }
    }

    /// Bytes of the next reply, to the request 5 of the inbox 9.
    fn reply_bytes(&mut self) -> usize {
        let run = self.run().unwrap();
        assert!(run.is_reply() && (run.channel().0, run.first()) == (9, 5));
        run.front().unwrap().payload.len()
    }

    /// The handshake with a sender, on a daemon that accepts payloads of so many bytes. Returns the number of its first frame.
    fn open(&mut self, payload_bytes_max: u32) -> u64 {
        assert!(matches!(self.next(), Some(Control::Hello(_))));
        self.send(Welcome { payload_bytes_max, ..welcome() });
        let Some(Control::Open(open)) = self.next() else { panic!("it opens a channel") };
        self.send(Opened { channel: open.channel, id: 1, listeners: 0, extensions: Vec::new() });
        open.next_sequence
    }
}

/// A child of another test that has not yet begun its program shares the descriptor. Closing it does not end the connection until then.
impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both); // or the client has ended it
    }
}

fn welcome() -> Welcome {
    Welcome {
        protocol: PROTOCOL_MAX,
        capabilities: 0,
        sender: 1,
        payload_bytes_max: 1 << 20,
        pid: 1,
        version: "0.0.9".to_owned(),
        extensions: Vec::new(),
    }
}

fn serve(path: &Path, mut conversation: impl FnMut(Conversation) + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        loop {
            conversation(Conversation::accept(&listener));
        }
    });
}

/// How long `operation` takes, in milliseconds. A machine that stops for a moment prolongs it, so that one of a few attempts suffices.
fn takes(expected: &Range<u128>, mut operation: impl FnMut()) {
    let mut times = Vec::new();
    while times.len() < 3 {
        let begun = Instant::now();
        operation();
        let time = begun.elapsed().as_millis();
        assert!(time >= expected.start, "{time} ms, which is less than {expected:?}");
        if expected.contains(&time) {
            return;
        }
        times.push(time);
    }
    panic!("{times:?} ms, not {expected:?}");
}

#[test]
fn a_timeout_is_the_total_whatever_progress_there_is() {
    let (directory, options) = absent();
    // Each connection gets a step further and dies.
    let mut count = 0;
    serve(&socket(&directory), move |mut conversation| {
        count += 1;
        if count % 2 == 0 {
            conversation.next();
            conversation.send(welcome());
        }
    });
    let options = options.timeout(Duration::from_secs(1));
    takes(&(1000..2000), || {
        let error = options.listener("news").unwrap_err();
        assert!(error.is_timeout(), "{error}");
    });
    takes(&(999..2000), || {
        let error = runtime().block_on(options.sender_async("news")).unwrap_err();
        assert!(error.is_timeout(), "{error}");
    });
}

#[test]
fn a_stop_has_one_timeout_in_total() {
    let (directory, options) = absent();
    let place = broadcaster_local::Directory::open(&socket(&directory)).unwrap();
    let _lock = broadcaster_local::LockFile::take(&place, &socket(&directory)).unwrap();
    let mut conversations = Vec::new();
    serve(&socket(&directory), move |mut conversation| {
        conversation.next();
        conversation.send(welcome());
        assert!(matches!(conversation.next(), Some(Control::Stop(_))));
        std::thread::sleep(Duration::from_millis(1000)); // it delivers what was sent
        conversation.send(Goodbye { reason: String::new(), extensions: Vec::new() });
        conversations.push(conversation); // and never ends
    });
    let daemon = options.timeout(Duration::from_millis(1500)).daemon();
    let stops: [&dyn Fn() -> Result<(), ConnectError>; 2] =
        [&|| daemon.stop(), &|| runtime().block_on(daemon.stop_async())];
    for stop in stops {
        takes(&(1500..2500), || {
            let error = stop().unwrap_err();
            assert!(error.is_timeout(), "{error}");
        });
    }
}

#[test]
fn bytes_that_are_no_message_are_described() {
    let (directory, options) = absent();
    serve(&socket(&directory), |mut conversation| {
        conversation.next();
        let header = Header::control(Control::from(welcome()).kind(), 0, 1);
        conversation.stream.write_all(&[header.as_bytes(), b"?"].concat()).unwrap();
    });
    let error = options.listener("news").unwrap_err();
    let ConnectError::NotADaemon { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("0x11") && reason.contains(": the body is not valid: "), "{reason}");
}

#[test]
fn a_daemon_that_does_not_answer_is_named() {
    let (directory, options) = absent();
    let _silent = UnixListener::bind(socket(&directory)).unwrap();
    let error = options.timeout(Duration::from_millis(50)).listener("news").unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { stage: Stage::Handshake, .. }), "{error}");
    assert!(error.to_string().contains("bus.sock") && error.to_string().contains("50ms"), "{error}");
}

#[test]
fn repeated_calls_without_a_daemon_do_not_spin() {
    let (directory, _) = absent();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let host = options.listener("host").unwrap();
    let mut listener = options.clone().embedded(false).listener("news").unwrap();
    let mut sender = options.clone().embedded(false).sender("news").unwrap();
    drop(host);
    options.daemon().stop().unwrap();
    let begun = Instant::now();
    for _ in 0..6 {
        let error = listener.recv().unwrap_err();
        assert!(matches!(error, RecvError::Connect(ConnectError::NotRunning { .. })), "{error}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(10 + 20 + 40 + 80 + 160), "{:?}", begun.elapsed());
    // The pause counts against the timeout of the call, and a call that does not wait reports it.
    let error = listener.recv_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(matches!(error, RecvError::TimedOut { .. }), "{error}");
    assert!(matches!(listener.try_recv(), Err(RecvError::Connecting)));
    assert!(sender.send(b"lost").is_err());
    assert!(matches!(sender.try_send(b"lost"), Err(SendError::Connecting)));
    let begun = Instant::now();
    runtime().block_on(async {
        for _ in 0..3 {
            listener.recv_async().await.unwrap_err();
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(250), "tasks pause as well: {:?}", begun.elapsed());
    // Both find the next daemon.
    let _host = options.listener("host").unwrap();
    while !matches!(listener.recv(), Err(RecvError::Lagged(_))) {}
    while sender.send(b"found").is_err() {}
    assert_eq!(listener.recv().unwrap().payload(), b"found");
}

#[test]
fn a_polled_handle_connects_without_further_calls_once_the_daemon_answers() {
    let (directory, options) = absent();
    let (resume, resumed) = std::sync::mpsc::channel::<()>();
    let mut count = 0;
    serve(&socket(&directory), move |mut conversation| {
        count += 1;
        conversation.join();
        if count > 1 {
            let _ = resumed.recv();
        }
    });
    let mut listener = options.listener("news").unwrap();
    // The first connection ends at once. From then on each call either gets all the way or reports that it is connecting.
    let mut calls = 0_u64;
    loop {
        match listener.try_recv() {
            Err(RecvError::Lagged(_)) => break,
            Err(RecvError::Empty) if calls == 0 => {}
            Err(RecvError::Connecting) => calls += 1,
            other => panic!("{other:?} after {calls} calls"),
        }
    }
    assert!(matches!(listener.try_recv(), Err(RecvError::Empty)));
    resume.send(()).unwrap();
}

#[test]
fn what_a_daemon_does_not_support_is_named_with_its_version() {
    let (directory, options) = absent();
    serve(&socket(&directory), |mut conversation| {
        conversation.next();
        conversation.send(welcome());
        conversation.next();
        conversation.send(Refused::new(RefusedCode::Unsupported, "overflow policy 9"));
    });
    let error = options.listener("news").unwrap_err();
    let ConnectError::Unsupported { what, version } = &error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), version.as_str()), ("overflow policy 9", "0.0.9"));
    assert!(error.to_string().contains("0.0.9") && error.to_string().contains("broadcasterd restart"), "{error}");
}

#[test]
fn an_unfinished_message_is_sent_again_when_the_daemon_has_lost_patience() {
    let (directory, options) = absent();
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (report, received) = std::sync::mpsc::channel();
    let mut is_first = true;
    serve(&socket(&directory), move |mut conversation| {
        let next = conversation.open(1 << 20);
        assert_eq!(next, 0, "no daemon has the whole message");
        if std::mem::take(&mut is_first) {
            begun.recv().unwrap();
            conversation.send(Refused::new(RefusedCode::Stalled, "no further byte of a frame within 30s"));
            drop(conversation);
            return end.send(()).unwrap();
        }
        while let Some(Item::Run(run)) = conversation.next_item() {
            run.iter().for_each(|(sequence, payload)| report.send((sequence, payload.len())).unwrap());
        }
    });
    let mut sender = options.sender("news").unwrap();
    let large = vec![7; 1 << 20];
    assert!(matches!(sender.try_send(&large), Err(SendError::Unfinished { .. })));
    // A socket that was found full gets a larger buffer, so the rest could fit into it until the connection has ended.
    begin.send(()).unwrap();
    ended.recv().unwrap();
    sender.send(b"small").unwrap();
    assert_eq!([received.recv().unwrap(), received.recv().unwrap()], [(0, large.len()), (1, 5)]);
}

#[test]
fn a_lost_connection_is_closed_at_once_though_it_was_awaited() {
    let (directory, options) = absent();
    let (closed, is_closed) = std::sync::mpsc::channel();
    serve(&socket(&directory), move |mut conversation| {
        conversation.join();
        conversation.stream.write_all(&[0xff; 64]).unwrap();
        while conversation.next().is_some() {}
        let _ = closed.send(());
    });
    let mut listener = options.listener("news").unwrap();
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut receive = Box::pin(listener.recv_async());
    let error = loop {
        if let Some(received) = receive.as_mut().now_or_never() {
            break received.unwrap_err();
        }
    };
    drop(receive);
    assert!(matches!(error, RecvError::Connect(ConnectError::NotADaemon { .. })), "{error}");
    is_closed.recv_timeout(Duration::from_secs(30)).expect("the other end sees the end of the stream");
}

#[test]
fn a_program_that_fails_is_the_source_of_the_error() {
    let (directory, options) = absent();
    let program = directory.path().join("broken");
    std::fs::write(&program, "#!/bin/sh\necho 'broadcasterd: the config has 3 errors' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let error = options.clone().autostart(true).program(&program).listener("news").unwrap_err();
    assert_eq!(error.to_string(), format!("{} could not start the daemon", program.display()));
    let source = error.source().unwrap().to_string();
    assert!(source.starts_with("the config has 3 errors (exit status: 3"), "{source}");
    let error = options.autostart(true).program("/nonexistent/broadcasterd").listener("news").unwrap_err();
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_directory_that_cannot_be_used_is_the_source_of_the_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let error = options.listener("news").unwrap_err();
    assert!(matches!(error, ConnectError::Host { .. }), "{error}");
    let source = error.source().unwrap().to_string();
    assert!(source.contains(&directory.path().display().to_string()), "{source}");
}

#[test]
fn time_that_a_test_pauses_passes_at_once() {
    let (_directory, options) = absent();
    let mut host = options.clone().embedded(true).listener("news").unwrap();
    let mut listener = options.listener("news").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        let waited = tokio::time::timeout(Duration::from_secs(3600), listener.recv_async()).await;
        assert!(waited.is_err());
        options.daemon().stop().unwrap();
        for _ in 0..100 {
            let error = listener.recv_async().await.unwrap_err();
            assert!(matches!(error, RecvError::Connect(ConnectError::NotRunning { .. })), "{error}");
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "25 s of pauses take {:?}", begun.elapsed());
    assert!(matches!(host.try_recv(), Err(RecvError::Connecting | RecvError::Lagged(_))));
}

#[test]
fn a_refused_handle_is_served_when_there_is_room() {
    let (directory, options) = absent();
    let mut count = 0;
    serve(&socket(&directory), move |mut conversation| {
        count += 1;
        match count {
            1 => conversation.join(),
            2 => {
                conversation.next();
                conversation.send(Refused::new(RefusedCode::Connections, "no room"));
            }
            _ => {
                conversation.join();
                while conversation.next().is_some() {}
            }
        }
    });
    let mut listener = options.listener("news").unwrap();
    let error = listener.recv().unwrap_err();
    let is_full = matches!(error, RecvError::Connect(ConnectError::Refused { code: RefusalCode::Connections, .. }));
    assert!(is_full, "{error}");
    assert!(matches!(listener.recv(), Err(RecvError::Lagged(_))));
}

#[test]
fn messages_that_no_daemon_has_confirmed_are_in_doubt() {
    let (directory, options) = absent();
    let mut count = 0;
    serve(&socket(&directory), move |mut conversation| {
        count += 1;
        conversation.open(1 << 20);
        match count {
            // The messages are read, and the question is not answered.
            1 => assert!(matches!(conversation.next(), Some(Control::Inspect(_)))),
            2 => {
                assert!(matches!(conversation.next(), Some(Control::Inspect(_))));
                conversation.send(Goodbye { reason: String::new(), extensions: Vec::new() });
            }
            3 => {
                assert!(matches!(conversation.next(), Some(Control::Inspect(_))));
                conversation.send(Refused::new(RefusedCode::Memory, "no memory"));
            }
            _ => {
                while conversation.next().is_some() {
                    conversation.send(Report::default());
                }
            }
        }
    });
    let mut sender = options.sender("news").unwrap();
    for n in 1..=2 {
        (0..n).for_each(|_| sender.send(b"x").unwrap());
        let confirmed = sender.confirm();
        if n == 2 && STOPPED_SOCKET_KEEPS_BYTES {
            confirmed.expect("a daemon that stops has accepted everything");
        } else {
            assert!(matches!(confirmed, Err(SendError::InDoubt { count }) if count == n), "{confirmed:?}");
        }
        sender.confirm().unwrap(); // each message is counted once
    }
    assert_eq!(
        SendError::InDoubt { count: 2 }.to_string(),
        "2 messages may be lost: the connection to the daemon ended before it confirmed them"
    );
    runtime().block_on(async {
        sender.send_async(b"x").await.unwrap();
        let error = sender.confirm_async().await.unwrap_err();
        assert!(
            matches!(error, SendError::Connect(ConnectError::Refused { code: RefusalCode::Memory, .. })),
            "{error}"
        );
        sender.feed(b"y").unwrap(); // for the next connection
        let error = sender.confirm_async().await.unwrap_err();
        assert!(matches!(error, SendError::InDoubt { count: 1 }), "the refused message: {error}");
        sender.confirm_async().await.unwrap();
    });
}

#[test]
fn a_confirmation_that_is_late_is_awaited_again() {
    let (directory, options) = absent();
    let (resume, resumed) = std::sync::mpsc::channel::<()>();
    serve(&socket(&directory), move |mut conversation| {
        conversation.open(1 << 20);
        while conversation.next().is_some() {
            let _ = resumed.recv();
            conversation.send(Report::default());
        }
    });
    let mut sender = options.timeout(Duration::from_millis(500)).sender("news").unwrap();
    sender.send(b"x").unwrap();
    let error = sender.confirm().unwrap_err();
    assert!(matches!(error, SendError::Unconfirmed { after } if after == Duration::from_millis(500)), "{error}");
    assert!(error.is_timeout());
    sender.send(b"y").unwrap();
    resume.send(()).unwrap();
    resume.send(()).unwrap();
    sender.confirm().unwrap();
    drop(resume);
}

#[test]
fn clients_that_need_a_daemon_at_the_same_time_start_one() {
    let (directory, options) = absent();
    let path = |name: &str| directory.path().join(name);
    for fifo in ["started", "proceed"] {
        assert!(Command::new("mkfifo").arg(path(fifo)).status().unwrap().success());
    }
    let script = "#!/bin/sh\ncd \"${0%/*}\"\necho x >> starts\necho > started\nread line < proceed\n";
    std::fs::write(path("program"), script).unwrap();
    std::fs::set_permissions(path("program"), PermissionsExt::from_mode(0o755)).unwrap();
    let options = options.autostart(true).program(path("program"));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let options = options.clone();
            std::thread::spawn(move || options.listener("news").unwrap())
        })
        .collect();
    // One of them has started the program, which is not ready yet.
    std::fs::read(path("started")).unwrap();
    serve(&socket(&directory), |mut conversation| conversation.join());
    std::fs::write(path("proceed"), "\n").unwrap();
    // They stay open until all are connected: a listener that closes early breaks the last write of its conversation.
    let _listeners: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(std::fs::read_to_string(path("starts")).unwrap(), "x\n", "one line for each start");
}

#[test]
fn a_sink_gives_every_flush_its_own_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let (directory, options) = absent();
    let mut conversations = Vec::new();
    serve(&socket(&directory), move |mut conversation| {
        conversation.open(1 << 20);
        conversations.push(conversation); // and nothing further is read
    });
    let mut sink = options.timeout(TIMEOUT).sender("news").unwrap().into_sink();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let fill = async { while sink.feed([0; 60_000]).await.is_ok() {} };
        assert!(tokio::time::timeout(TIMEOUT / 4, fill).await.is_err(), "the socket is full");
        for pause in [Duration::ZERO, TIMEOUT * 2, TIMEOUT * 2] {
            tokio::time::sleep(pause).await;
            let begun = tokio::time::Instant::now();
            let error = SinkExt::<[u8; 60_000]>::flush(&mut sink).await.unwrap_err();
            assert!(matches!(error, SendError::TimedOut { after: TIMEOUT }), "{error}");
            assert!(begun.elapsed() >= TIMEOUT, "after {:?}", begun.elapsed());
            let flush = SinkExt::<[u8; 60_000]>::flush(&mut sink);
            assert!(tokio::time::timeout(TIMEOUT / 4, flush).await.is_err(), "this one was given up");
            let close = SinkExt::<[u8; 60_000]>::close(&mut sink);
            let begun = tokio::time::Instant::now();
            assert!(close.await.is_err() && begun.elapsed() >= TIMEOUT, "closing is another operation");
            let flush = SinkExt::<[u8; 60_000]>::flush(&mut sink);
            assert!(tokio::time::timeout(TIMEOUT / 4, flush).await.is_err());
        }
    });
}

#[test]
fn what_the_next_daemon_does_not_accept_is_reported_and_the_rest_is_sent() {
    type Report = fn(&mut Sender) -> Result<(), SendError>;
    let report: [Report; 3] =
        [|sender| sender.flush(), |sender| sender.send(b"not sent"), |sender| sender.try_send(b"not sent")];
    for report in report {
        let (directory, options) = absent();
        let (gone, is_gone) = std::sync::mpsc::channel();
        let (accepted, is_accepted) = std::sync::mpsc::channel();
        let mut limits = [1 << 20, 1000].into_iter();
        serve(&socket(&directory), move |mut conversation| {
            let is_first = limits.len() == 2;
            conversation.open(limits.next().unwrap());
            while !is_first && let Some(run) = conversation.run() {
                run.iter().for_each(|(sequence, payload)| accepted.send((sequence, payload.len())).unwrap());
            }
            drop(conversation);
            let _ = gone.send(());
        });
        let mut sender = options.sender("news").unwrap();
        is_gone.recv().unwrap();
        for len in [10, 50_000, 20] {
            sender.feed(&vec![7; len]).unwrap();
        }
        let error = loop {
            match report(&mut sender) {
                Err(SendError::Connecting | SendError::Full) => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(error, SendError::TooLarge { len: 50_000, max: 1000 }), "{error:?}");
        sender.send(b"x").unwrap();
        for due in [(0, 10), (1, 20), (2, 1)] {
            assert_eq!(is_accepted.recv_timeout(Duration::from_secs(30)).unwrap(), due);
        }
    }
}

/// The address that the metadata of a request states.
fn address_of(request: &Run) -> (u32, u64) {
    let address = request.front().unwrap().metadata.reply_address().unwrap();
    (address.inbox.0, address.number)
}

#[test]
fn a_request_that_only_a_part_was_written_of_states_the_inbox_of_its_next_connection() {
    let (directory, options) = absent();
    let mut inbox = 10;
    serve(&socket(&directory), move |mut conversation| {
        conversation.open(1 << 20);
        assert!(matches!(conversation.next(), Some(Control::OpenInbox(_))));
        inbox += 1;
        conversation.send(InboxOpened { id: inbox, extensions: Vec::new() });
        if inbox == 11 {
            return; // before the request is complete
        }
        let run = conversation.run().unwrap();
        let (stated, number) = address_of(&run);
        assert_eq!((stated, run.first(), run.front().unwrap().payload.len()), (inbox, 0, 1 << 20));
        let Some(Control::Confirm(confirm)) = conversation.next() else { panic!("it asks who took it") };
        let receipt = Receipt {
            number: confirm.number,
            next_sequence: 1,
            listeners: 1,
            took: 1,
            lagging: 0,
            worst: Vec::new(),
            extensions: Vec::new(),
        };
        conversation.send(receipt);
        for (number, payload) in [(number.wrapping_add(1), b"of another"), (number, b"of its own")] {
            let header = Header::reply(ChannelId(inbox), run.sender(), number, 10);
            conversation.stream.write_all(&[header.as_bytes(), &payload[..]].concat()).unwrap();
        }
        let _ = conversation.next();
    });
    let mut sender = options.sender("news").unwrap();
    let reply = sender.request_one(&vec![7; 1 << 20], Duration::from_secs(30)).unwrap();
    assert_eq!((reply.payload(), sender.late_replies()), (&b"of its own"[..], 1));
}

#[test]
fn a_request_whose_daemon_hangs_is_unconfirmed_after_the_timeout() {
    let (directory, options) = absent();
    serve(&socket(&directory), |mut conversation| {
        conversation.open(1 << 20);
        let _ = conversation.next();
        conversation.send(InboxOpened { id: 2, extensions: Vec::new() });
        while conversation.next_item().is_some() {}
    });
    let mut sender = options.clone().timeout(Duration::from_millis(500)).sender("news").unwrap();
    let error = sender.request(b"x", Duration::from_secs(60)).map(drop).unwrap_err();
    assert!(matches!(error, RequestError::Send(SendError::Unconfirmed { .. })) && error.is_timeout(), "{error}");
}

#[test]
fn a_reply_that_the_daemon_does_not_take_is_bounded_and_its_rest_goes_out_while_the_listener_receives() {
    let (directory, options) = absent();
    /// More than any socket takes.
    const LARGE: u32 = 32 << 20;
    let (ready, taken) = std::sync::mpsc::channel::<()>();
    let (report, reported) = std::sync::mpsc::channel();
    serve(&socket(&directory), move |mut conversation| {
        conversation.join_with(LARGE);
        let address = meta::ReplyAddress { inbox: ChannelId(9), number: 5 };
        let metadata = meta::Metadata::new().reply_address(&address.to_bytes()).unwrap();
        let header = Header::publish(ChannelId(1), SenderId::new(1, 1), 0, 0);
        let header = header.with_metadata(metadata.meta_bytes());
        conversation.stream.write_all(&[header.as_bytes(), metadata.as_bytes()].concat()).unwrap();
        taken.recv().unwrap(); // it reads nothing until then
        assert_eq!(conversation.reply_bytes(), LARGE as usize);
        let header = Header::publish(ChannelId(1), SenderId::new(1, 1), 1, 0);
        conversation.stream.write_all(header.as_bytes()).unwrap();
        report.send(conversation.reply_bytes()).unwrap();
        let _ = conversation.next();
    });
    let mut listener = options.timeout(Duration::from_millis(500)).listener("news").unwrap();
    let message = listener.recv().unwrap();
    let large = vec![7; LARGE as usize];
    let began = Instant::now();
    let error = listener.reply(&message, &large).unwrap_err();
    assert!(matches!(error, ReplyError::Unfinished { .. }) && error.is_timeout(), "{error}");
    let error = listener.reply(&message, b"y").unwrap_err();
    assert!(matches!(error, ReplyError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30));
    ready.send(()).unwrap();
    assert_eq!(listener.recv().unwrap().sequence(), 1, "the daemon has read all of the reply before");
    listener.reply(&message, b"second").unwrap();
    assert_eq!(reported.recv().unwrap(), 6);
}

/// A daemon that grants credit when the test does, and reports what it has read.
fn grants_on_request(
    options: &Options,
    place: &Path,
) -> (Options, std::sync::mpsc::Sender<u64>, std::sync::mpsc::Receiver<u64>) {
    let (grant, grants) = std::sync::mpsc::channel::<u64>();
    let (report, received) = std::sync::mpsc::channel();
    let mut grants = Some(grants);
    serve(place, move |mut conversation| {
        conversation.open(1 << 20);
        let mut granting = Conversation {
            stream: conversation.stream.try_clone().unwrap(),
            decoder: Decoder::consumer(1 << 20),
            chunk: BytesMut::new(),
        };
        let grants = grants.take().unwrap();
        std::thread::spawn(move || {
            for bytes in grants {
                granting.send(Credit { id: 1, bytes, extensions: Vec::new() });
            }
        });
        while let Some(run) = conversation.run() {
            run.iter().for_each(|(sequence, _)| report.send(sequence).unwrap());
        }
    });
    (options.clone().timeout(Duration::from_millis(500)).backpressure(Duration::from_micros(99_500)), grant, received)
}

#[test]
fn a_send_without_credit_gives_up_after_both_durations_and_sends_nothing() {
    let (directory, options) = absent();
    let (options, grant, received) = grants_on_request(&options, &socket(&directory));
    let mut sender = options.sender("news").unwrap();
    type Send<'a> = &'a dyn Fn(&mut Sender) -> Result<(), SendError>;
    let sends: [Send<'_>; 3] =
        [&|sender| sender.send(b"blocking"), &|sender| runtime().block_on(sender.send_async(b"async")), &|sender| {
            sender.feed(b"fed")?;
            sender.flush()
        }];
    for send in sends {
        takes(&(599..1600), || {
            let error = send(&mut sender).unwrap_err();
            assert!(
                matches!(error, SendError::TimedOut { after } if after == Duration::from_micros(599_500)),
                "{error}"
            );
        });
    }
    grant.send(1000).unwrap();
    sender.flush().unwrap();
    sender.send(b"credit is left").unwrap();
    assert_eq!([received.recv().unwrap(), received.recv().unwrap()], [0, 1], "what was fed, and no other");
    assert!(received.try_recv().is_err());
}

#[test]
fn a_descriptor_is_readable_when_there_is_credit() {
    let (directory, options) = absent();
    let (options, grant, _received) = grants_on_request(&options, &socket(&directory));
    let mut sender = options.sender("news").unwrap();
    let is_readable = |sender: &Sender, millis: u64| {
        let (mut poll, mut events) = (mio::Poll::new().unwrap(), mio::Events::with_capacity(1));
        let descriptor = sender.as_fd().as_raw_fd();
        let source = &mut mio::unix::SourceFd(&descriptor);
        poll.registry().register(source, mio::Token(0), mio::Interest::READABLE).unwrap();
        poll.poll(&mut events, Some(Duration::from_millis(millis))).unwrap();
        !events.is_empty()
    };
    assert!(is_readable(&sender, 0), "at first");
    for _ in 0..3 {
        assert!(matches!(sender.try_send(b"x"), Err(SendError::Full)));
        assert!(!is_readable(&sender, 1));
        grant.send(1).unwrap();
        assert!(is_readable(&sender, 30_000));
        while let Err(error) = sender.try_send(b"x") {
            assert!(matches!(error, SendError::Full), "{error}"); // the debt of the message before
            grant.send(1).unwrap();
            assert!(is_readable(&sender, 30_000));
        }
    }
}
