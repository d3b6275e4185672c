//! The watching handle: messages of many channels as they pass. It never starts a daemon and never counts as a listener.

use crate::core::{Ended, Heard, MonitorCore};
use crate::error::{ConnectError, Lag, RecvError};
use crate::message::Message;
use crate::transport::{Link, Plan, Step, Taken, Until, block_on};
use broadcaster_protocol::ChannelName;
use std::time::Duration;

/// Sees the messages of the bus as they pass; made by [`Daemon::monitor`](crate::Daemon::monitor).
///
/// It gets every message that the daemon accepts on its channels, or is told in the very place how many it missed, as a
/// [`Listener`](crate::Listener) does. A slow monitor loses the oldest of what waits for it, and disturbs nobody.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let options = system_broadcaster::Options::new().socket(dir.path().join("bus.sock")).autostart(false);
/// # /*
/// let options = Options::new();
/// # */
/// let mut sender = options.sender("com.example.sync")?;
/// let mut monitor = options.daemon().monitor(["com.example.sync"])?;
/// sender.send(b"nobody listens")?;
/// assert_eq!(monitor.recv()?.payload(), b"nobody listens");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Monitor {
    core: MonitorCore,
    link: Link,
}

impl Monitor {
    pub(crate) fn connect(channels: Vec<ChannelName>, plan: Plan) -> Result<Self, ConnectError> {
        let mut monitor = Self { core: MonitorCore::new(channels, broadcaster_local::pid()), link: Link::new(plan)? };
        block_on(Until::Forever, || monitor.link.ready(&mut monitor.core))?;
        Ok(monitor)
    }

    /// Waits for the next message, without end while the daemon is there.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] where messages are missing. [`RecvError::Connect`] once when the daemon has gone; receive again to
    /// look for the next one, which fails with [`ConnectError::NotRunning`] as long as there is none.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.wait(Until::Forever)
    }

    /// Waits for the next message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if none came; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message, RecvError> {
        self.wait(Until::after(timeout))
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] if none is there; otherwise as [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Message, RecvError> {
        self.wait(Until::Now)
    }

    fn wait(&mut self, until: Until) -> Result<Message, RecvError> {
        match block_on(until, || self.step(until == Until::Forever))? {
            Some(message) => Ok(message),
            None => Err(match until {
                Until::Deadline(_, after) => RecvError::TimedOut { after },
                Until::Now | Until::Forever => RecvError::Empty,
            }),
        }
    }

    fn step(&mut self, patient: bool) -> Result<Step<Message>, RecvError> {
        loop {
            match (self.core.hear(), self.core.channel(), self.core.frame()) {
                (Ok(Heard::Frame), Some(channel), Some((frame, payload))) => {
                    return Ok(Step::Done(Message::new(channel, frame, payload)));
                }
                (Ok(Heard::Lagged(count)), Some(channel), _) => {
                    return Err(RecvError::Lagged(Lag { channel: channel.clone(), count }));
                }
                (Ok(_), ..) => {}
                (Err(ended), ..) => {
                    let error = match ended {
                        Ended::Goodbye => self.link.gone(),
                        ended => self.link.why(ended),
                    };
                    self.link.lose(&mut self.core);
                    return Err(error.into());
                }
            }
            if !self.link.is_up() {
                match self.link.ready(&mut self.core)? {
                    Step::Wait(wait) => return Ok(Step::Wait(wait)),
                    Step::Done(()) => continue, // what came with the handshake is heard before the next read
                }
            }
            match self.link.read(&mut self.core, patient) {
                Taken::Bytes(_) => {}
                Taken::Lost => return Err(self.link.gone().into()),
                Taken::Wait(wait) => return Ok(Step::Wait(wait)),
            }
        }
    }
}
