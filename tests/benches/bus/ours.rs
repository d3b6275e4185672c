//! Sender and listener of the bus, through the public interface of the library only. Only the cold start and the recovery start a
//! daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use system_broadcaster::{Listener, Options, RecvError, Selector, Sender, SharedMemory};

use crate::clock;
use crate::error::{Result, fail};
use crate::system::{FrameSink, FrameSource, Received};

const CHANNEL: &str = "bench.channel";
const COLD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any run: no listener is left behind.
const BACKPRESSURE: Duration = Duration::from_secs(60);

fn options(path: &Path) -> Options {
    Options::new().socket(path.to_path_buf()).autostart(false).embedded(false)
}

pub(crate) struct OursSender {
    sender: Sender,
    batched: bool,
}

impl OursSender {
    pub(crate) fn connect(path: &Path, batched: bool) -> Result<Self> {
        let sender = options(path).sender(CHANNEL)?;
        Ok(Self { sender, batched })
    }

    pub(crate) fn connect_memory(path: &Path, batched: bool) -> Result<Self> {
        let sender = options(path).shared_memory(SharedMemory::Always).sender(CHANNEL)?;
        Ok(Self { sender, batched })
    }

    pub(crate) fn connect_lossless(path: &Path, batched: bool) -> Result<Self> {
        let options = options(path).backpressure(BACKPRESSURE).shared_memory(SharedMemory::Never);
        Ok(Self { sender: options.sender(CHANNEL)?, batched })
    }

    pub(crate) fn connect_lossless_memory(path: &Path, batched: bool) -> Result<Self> {
        let options = options(path).backpressure(BACKPRESSURE).shared_memory(SharedMemory::Always);
        Ok(Self { sender: options.sender(CHANNEL)?, batched })
    }
}

impl FrameSink for OursSender {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        if self.batched {
            self.sender.feed(payload)?;
        } else {
            self.sender.send(payload)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.sender.flush()?;
        Ok(())
    }
}

pub(crate) struct OursListener(Listener);

impl OursListener {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Ok(Self(options(path).listener(CHANNEL)?))
    }
}

impl FrameSource for OursListener {
    #[inline]
    fn recv(&mut self, on_payload: impl FnOnce(&[u8])) -> Result<Received> {
        match self.0.recv_ref() {
            Ok(message) => {
                on_payload(message.payload());
                Ok(Received::Frame)
            }
            Err(RecvError::Lagged(lag)) => Ok(Received::Lagged(lag.count)),
            Err(error) => Err(error.into()),
        }
    }
}

/// `count` channels that `bench.channel` is not among, and as many patterns that cover one of them each.
pub(crate) fn crowd(path: &Path, count: usize) -> Result<(Vec<Sender>, Vec<Listener>)> {
    /// Fewer than one connection may have.
    const PER_CONNECTION: usize = 1000;
    let (mut senders, mut listeners) = (Vec::new(), Vec::new());
    for first in (0..count).step_by(PER_CONNECTION) {
        let numbers = || first..count.min(first + PER_CONNECTION);
        let selectors = numbers().map(|number| Ok(Selector::pattern(&format!("bench.crowd{number}.*"))?));
        listeners.push(options(path).listener_on(selectors.collect::<Result<Vec<_>>>()?)?);
        let mut sender = options(path).sender(&format!("bench.crowd{first}.channel"))?;
        for number in numbers() {
            sender.send_to(&format!("bench.crowd{number}.channel"), b"")?;
        }
        senders.push(sender);
    }
    Ok((senders, listeners))
}

/// Opens `count` channels that no pattern covers; returns how long each took, in nanoseconds.
pub(crate) fn open_channels(path: &Path, count: usize) -> Result<Vec<u64>> {
    let mut sender = options(path).sender(CHANNEL)?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let channel = format!("bench.opened{number}.channel");
        let before = Instant::now();
        sender.send_to(&channel, b"")?;
        times.push(before.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

/// A listener that starts the daemon if there is none. The environment names the daemon's binary.
pub(crate) fn starting_listener(path: &Path) -> Result<Listener> {
    Ok(Options::new().socket(path.to_path_buf()).embedded(false).timeout(COLD_TIMEOUT).listener(CHANNEL)?)
}

/// Waits until the listener is back on a daemon. Returns how many receives failed until then, and when it was back.
pub(crate) fn next_gap(listener: &mut Listener) -> Result<(u64, u64)> {
    let mut errors = 0;
    loop {
        match listener.recv_ref() {
            Err(RecvError::Lagged(lag)) if lag.count.is_none() => return Ok((errors, clock::now())),
            Err(RecvError::Connect(_)) => errors += 1,
            Err(error) => return Err(error.into()),
            Ok(_) => return fail("a message arrived before the gap"),
        }
    }
}

/// The time to create a listener and a sender and to receive the first message, including the start of the daemon.
///
/// The environment names the daemon's binary.
pub(crate) fn cold_start(path: &Path) -> Result<Duration> {
    const PAYLOAD: &[u8] = b"the first message";
    let started = Instant::now();
    let options = Options::new().socket(path.to_path_buf()).embedded(false);
    let mut listener = options.listener(CHANNEL)?;
    let mut sender = options.sender(CHANNEL)?;
    sender.send(PAYLOAD)?;
    let message = listener.recv_timeout(COLD_TIMEOUT)?;
    let took = started.elapsed();
    if message.payload() != PAYLOAD {
        return fail("the first message has the wrong payload");
    }
    Ok(took)
}
