//! A bus for each test, and the ways to call the library.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
pub mod rings;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use system_broadcaster::{
    ConnectError, Listener, Message, Metadata, Options, Receipt, RecvError, Reply, ReplyError, RequestError, Selector,
    SendError, Sender, SharedMemory, SharedSender, SubscribeError,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// One way to call the library.
pub trait Colour: Sync {
    fn listener(&self, options: &Options, channel: &str) -> Result<Listener, ConnectError> {
        options.listener(channel)
    }

    fn listener_on(&self, options: &Options, selectors: &[Selector]) -> Result<Listener, ConnectError> {
        options.listener_on(selectors)
    }

    fn subscribe(&self, listener: &mut Listener, selector: &Selector) -> Result<(), SubscribeError> {
        listener.subscribe(selector)
    }

    fn unsubscribe(&self, listener: &mut Listener, selector: &Selector) -> Result<(), SubscribeError> {
        listener.unsubscribe(selector)
    }

    fn sender(&self, options: &Options, channel: &str) -> Result<Sender, ConnectError> {
        options.sender(channel)
    }

    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError>;
    fn send_with(&self, sender: &mut Sender, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        sender.send_with(metadata, payload)
    }

    fn send_to(&self, sender: &mut Sender, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        sender.send_to(channel, payload)
    }

    fn send_to_with(
        &self,
        sender: &mut Sender,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), SendError> {
        sender.send_to_with(channel, metadata, payload)
    }

    fn feed(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        sender.feed(payload)
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError>;

    fn send_confirmed(&self, sender: &mut Sender, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.send_confirmed(payload)
    }

    fn retain(&self, sender: &mut Sender, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.retain(payload)
    }

    fn retain_for(&self, sender: &mut Sender, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        sender.retain_for(payload, lifetime)
    }

    fn retain_with(&self, sender: &mut Sender, metadata: &Metadata, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.retain_with(metadata, payload, None)
    }

    fn retain_to(&self, sender: &mut Sender, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.retain_to(channel, payload)
    }

    fn clear_retained(&self, sender: &mut Sender) -> Result<Receipt, SendError> {
        sender.clear_retained()
    }

    fn clear_retained_on(&self, sender: &mut Sender, channel: &str) -> Result<Receipt, SendError> {
        sender.clear_retained_on(channel)
    }

    fn retain_shared(&self, sender: &SharedSender, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.retain(payload)
    }

    fn clear_shared(&self, sender: &SharedSender) -> Result<Receipt, SendError> {
        sender.clear_retained()
    }

    fn retained_value(&self, options: &Options, channel: &str) -> Result<Option<Message>, RecvError> {
        options.retained_value(channel)
    }

    fn listeners(&self, sender: &mut Sender) -> Result<u32, SendError> {
        sender.listeners()
    }

    fn wait_for_listeners(&self, sender: &mut Sender, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        sender.wait_for_listeners(minimum, timeout)
    }

    fn send_shared(&self, sender: &SharedSender, payload: &[u8]) -> Result<(), SendError> {
        sender.send(payload)
    }

    fn send_shared_to(&self, sender: &SharedSender, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        sender.send_to(channel, payload)
    }

    fn confirm_shared(&self, sender: &SharedSender) -> Result<(), SendError> {
        sender.confirm()
    }

    fn send_shared_confirmed(&self, sender: &SharedSender, payload: &[u8]) -> Result<Receipt, SendError> {
        sender.send_confirmed(payload)
    }

    fn wait_for_shared_listeners(&self, sender: &SharedSender, minimum: u32) -> Result<u32, SendError> {
        sender.wait_for_listeners(minimum, Duration::from_secs(30))
    }

    fn confirm(&self, sender: &mut Sender) -> Result<(), SendError> {
        sender.confirm()
    }

    fn recv_many(&self, from: &mut Listener, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        from.recv_many(messages, max)
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError>;

    /// The first `max` items of the replies to a request, and whether they are complete then.
    fn request(
        &self,
        sender: &mut Sender,
        payload: &[u8],
        timeout: Duration,
        max: usize,
    ) -> Result<Replied, RequestError> {
        let mut replies = sender.request(payload, timeout)?;
        let items = replies.by_ref().take(max).collect();
        Ok(Replied { items, expected: replies.expected(), complete: replies.is_complete(), lost: replies.lost() })
    }

    fn request_one(&self, sender: &mut Sender, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        sender.request_one(payload, timeout)
    }

    fn reply(&self, listener: &mut Listener, to: &Message, payload: &[u8]) -> Result<(), ReplyError> {
        listener.reply(to, payload)
    }
}

/// The replies to a request.
#[derive(Debug)]
pub struct Replied {
    pub items: Vec<Result<Reply, RequestError>>,
    pub expected: u32,
    pub complete: bool,
    pub lost: u64,
}

impl Replied {
    /// Their payloads, sorted.
    pub fn payloads(&self) -> Vec<&[u8]> {
        let mut payloads: Vec<_> = self.items.iter().map(|item| item.as_ref().unwrap().payload()).collect();
        payloads.sort_unstable();
        payloads
    }
}

struct Blocking;

impl Colour for Blocking {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        sender.send(payload)
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        sender.flush()
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        listener.recv()
    }
}

/// The same with a timeout, which takes other system calls.
struct Timed;

impl Colour for Timed {
    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        match sender.try_send(payload) {
            Err(SendError::Full | SendError::Connecting) => sender.send(payload),
            Err(SendError::Unfinished { .. }) => sender.flush(),
            other => other,
        }
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        sender.flush()
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        match listener.try_recv() {
            Err(RecvError::Empty | RecvError::Connecting) => listener.recv_timeout(Duration::from_secs(30)),
            other => other,
        }
    }
}

struct Async(Runtime);

impl Colour for Async {
    fn listener(&self, options: &Options, channel: &str) -> Result<Listener, ConnectError> {
        self.0.block_on(options.listener_async(channel))
    }

    fn listener_on(&self, options: &Options, selectors: &[Selector]) -> Result<Listener, ConnectError> {
        self.0.block_on(options.listener_on_async(selectors))
    }

    fn subscribe(&self, listener: &mut Listener, selector: &Selector) -> Result<(), SubscribeError> {
        self.0.block_on(listener.subscribe_async(selector))
    }

    fn unsubscribe(&self, listener: &mut Listener, selector: &Selector) -> Result<(), SubscribeError> {
        self.0.block_on(listener.unsubscribe_async(selector))
    }

    fn sender(&self, options: &Options, channel: &str) -> Result<Sender, ConnectError> {
        self.0.block_on(options.sender_async(channel))
    }

    fn send_with(&self, sender: &mut Sender, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_with_async(metadata, payload))
    }

    fn send_to(&self, sender: &mut Sender, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_to_async(channel, payload))
    }

    fn send_to_with(
        &self,
        sender: &mut Sender,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), SendError> {
        self.0.block_on(sender.send_to_with_async(channel, metadata, payload))
    }

    fn feed(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.feed_async(payload))
    }

    fn recv_many(&self, from: &mut Listener, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.0.block_on(from.recv_many_async(messages, max))
    }

    fn send(&self, sender: &mut Sender, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_async(payload))
    }

    fn flush(&self, sender: &mut Sender) -> Result<(), SendError> {
        self.0.block_on(sender.flush_async())
    }

    fn send_confirmed(&self, sender: &mut Sender, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.send_confirmed_async(payload))
    }

    fn retain(&self, sender: &mut Sender, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.retain_async(payload))
    }

    fn retain_for(&self, sender: &mut Sender, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        self.0.block_on(sender.retain_for_async(payload, lifetime))
    }

    fn retain_with(&self, sender: &mut Sender, metadata: &Metadata, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.retain_with_async(metadata, payload, None))
    }

    fn retain_to(&self, sender: &mut Sender, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.retain_to_async(channel, payload))
    }

    fn clear_retained(&self, sender: &mut Sender) -> Result<Receipt, SendError> {
        self.0.block_on(sender.clear_retained_async())
    }

    fn clear_retained_on(&self, sender: &mut Sender, channel: &str) -> Result<Receipt, SendError> {
        self.0.block_on(sender.clear_retained_on_async(channel))
    }

    fn retain_shared(&self, sender: &SharedSender, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.retain_async(payload))
    }

    fn clear_shared(&self, sender: &SharedSender) -> Result<Receipt, SendError> {
        self.0.block_on(sender.clear_retained_async())
    }

    fn retained_value(&self, options: &Options, channel: &str) -> Result<Option<Message>, RecvError> {
        self.0.block_on(options.retained_value_async(channel))
    }

    fn listeners(&self, sender: &mut Sender) -> Result<u32, SendError> {
        self.0.block_on(sender.listeners_async())
    }

    fn wait_for_listeners(&self, sender: &mut Sender, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        self.0.block_on(sender.wait_for_listeners_async(minimum, timeout))
    }

    fn send_shared(&self, sender: &SharedSender, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_async(payload))
    }

    fn send_shared_to(&self, sender: &SharedSender, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        self.0.block_on(sender.send_to_async(channel, payload))
    }

    fn confirm_shared(&self, sender: &SharedSender) -> Result<(), SendError> {
        self.0.block_on(sender.confirm_async())
    }

    fn send_shared_confirmed(&self, sender: &SharedSender, payload: &[u8]) -> Result<Receipt, SendError> {
        self.0.block_on(sender.send_confirmed_async(payload))
    }

    fn wait_for_shared_listeners(&self, sender: &SharedSender, minimum: u32) -> Result<u32, SendError> {
        self.0.block_on(sender.wait_for_listeners_async(minimum, Duration::from_secs(30)))
    }

    fn confirm(&self, sender: &mut Sender) -> Result<(), SendError> {
        self.0.block_on(sender.confirm_async())
    }

    fn recv(&self, listener: &mut Listener) -> Result<Message, RecvError> {
        self.0.block_on(listener.recv_async())
    }

    fn request(
        &self,
        sender: &mut Sender,
        payload: &[u8],
        timeout: Duration,
        max: usize,
    ) -> Result<Replied, RequestError> {
        self.0.block_on(async {
            let mut replies = sender.request_async(payload, timeout).await?;
            let mut items = Vec::new();
            while items.len() < max
                && let Some(item) = replies.next().await
            {
                items.push(item);
            }
            Ok(Replied { items, expected: replies.expected(), complete: replies.is_complete(), lost: replies.lost() })
        })
    }

    fn request_one(&self, sender: &mut Sender, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        self.0.block_on(sender.request_one_async(payload, timeout))
    }

    fn reply(&self, listener: &mut Listener, to: &Message, payload: &[u8]) -> Result<(), ReplyError> {
        self.0.block_on(listener.reply_async(to, payload))
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a behaviour in every colour, over the connection and through shared memory, each on a new bus.
pub fn in_every_colour(behaviour: impl Fn(&dyn Colour, &Options)) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let colours: [&dyn Colour; 4] = [&Blocking, &Timed, &Async(runtime()), &Async(threads)];
    for memory in [SharedMemory::Never, SharedMemory::Always] {
        for colour in colours {
            let (_host, options) = bus();
            behaviour(colour, &options.shared_memory(memory));
        }
    }
}

/// Keeps the bus running, and ends it.
pub struct Host {
    _directory: TempDir,
    _listener: Listener,
    daemon: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A socket of its own: in a new directory, or a pipe that is named after it.
pub fn socket(directory: &TempDir) -> PathBuf {
    if cfg!(windows) {
        let name = directory.path().file_name().unwrap();
        format!(r"\\.\pipe\broadcaster-test{}", name.to_str().unwrap()).into()
    } else {
        directory.path().join("bus.sock")
    }
}

pub fn bus() -> (Host, Options) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().socket(socket(&directory)).autostart(false);
    let daemon = std::env::var_os("BROADCASTER_TEST_PROGRAM").map(|program| {
        let mut command = Command::new(program);
        command.arg("--socket").arg(socket(&directory)).args(["run", "--log", "warn"]);
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "it printed {line:?}");
        daemon
    });
    let options = options.embedded(daemon.is_none());
    // Its listener stays connected, so that the daemon's counts change only with what the test does.
    let listener = options.listener("host").unwrap();
    (Host { _directory: directory, _listener: listener, daemon }, options)
}
