//! Ours, through the public interface of the library alone. It never reaches below it and never starts a daemon, but for
//! the cold start, whose measure that is.

use std::path::Path;
use std::time::{Duration, Instant};

use system_broadcaster::{Listener, Options, RecvError, Sender};

use crate::fail::{Outcome, fail};
use crate::link::{Inbox, Met, Outbox};

const CHANNEL: &str = "bench.channel";
const COLD_TIMEOUT: Duration = Duration::from_secs(10);

fn options(path: &Path) -> Options {
    Options::new().socket(path.to_path_buf()).autostart(false).embedded(false)
}

pub(crate) struct OursSender {
    sender: Sender,
    batched: bool,
}

impl OursSender {
    pub(crate) fn join(path: &Path, batched: bool) -> Outcome<Self> {
        let sender = options(path).sender(CHANNEL)?;
        Ok(Self { sender, batched })
    }
}

impl Outbox for OursSender {
    #[inline]
    fn push(&mut self, payload: &[u8]) -> Outcome<()> {
        if self.batched {
            self.sender.feed(payload)?;
        } else {
            self.sender.send(payload)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        self.sender.flush()?;
        Ok(())
    }
}

pub(crate) struct OursListener(Listener);

impl OursListener {
    pub(crate) fn join(path: &Path) -> Outcome<Self> {
        Ok(Self(options(path).listener(CHANNEL)?))
    }
}

impl Inbox for OursListener {
    #[inline]
    fn next(&mut self, see: impl FnOnce(&[u8])) -> Outcome<Met> {
        match self.0.recv_ref() {
            Ok(message) => {
                see(message.payload());
                Ok(Met::Frame)
            }
            Err(RecvError::Lagged(lag)) => Ok(Met::Lost(lag.count)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Listener, sender, first frame, with a daemon that this has to start. The binary is named by the environment.
pub(crate) fn cold_start(path: &Path) -> Outcome<Duration> {
    const PAYLOAD: &[u8] = b"the first frame";
    let started = Instant::now();
    let options = Options::new().socket(path.to_path_buf()).embedded(false);
    let mut listener = options.listener(CHANNEL)?;
    let mut sender = options.sender(CHANNEL)?;
    sender.send(PAYLOAD)?;
    let message = listener.recv_timeout(COLD_TIMEOUT)?;
    let took = started.elapsed();
    if message.payload() != PAYLOAD {
        return fail("the first frame came with another payload");
    }
    Ok(took)
}
