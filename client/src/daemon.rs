//! Looking at the running daemon, and stopping it. Never starts one.

use crate::core::{Ended, InspectorCore};
use crate::error::ConnectError;
use crate::monitor::Monitor;
use crate::transport::{Link, Plan, Step, Taken, Until, block_on};
use broadcaster_protocol::ChannelName;
use broadcaster_protocol::control::Report;

/// The running daemon of this user.
#[derive(Debug)]
pub struct Daemon {
    plan: Plan,
}

/// What the daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process; for display only.
    pub pid: u32,
    /// The protocol version that it and this library speak.
    pub protocol: u16,
    /// Its numbers.
    pub report: Report,
}

impl Daemon {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan }
    }

    /// Asks the daemon for its numbers.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is none; [`ConnectError::TimedOut`] if it does not answer.
    pub fn status(&self) -> Result<Status, ConnectError> {
        let mut core = InspectorCore::inspect(broadcaster_local::pid());
        let mut link = Link::new(self.plan.clone())?;
        block_on(Until::Forever, || link.ready(&mut core))?;
        let (welcome, report) = (core.welcome().cloned(), core.report().cloned());
        let (Some(welcome), Some(report)) = (welcome, report) else {
            return Err(link.why(Ended::Goodbye));
        };
        Ok(Status { version: welcome.version, pid: welcome.pid, protocol: welcome.protocol, report })
    }

    /// Watches the messages on these channels as they pass, from every sender; on all channels, also those that begin later, if
    /// `channels` is empty. The bus does not notice: a monitor is not counted as a listener, and what it misses is no loss
    /// of the bus.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is no daemon; [`ConnectError::Name`] if a name is not allowed;
    /// [`ConnectError::Refused`] if the daemon has 16 monitors already, or is too old to have any.
    pub fn monitor(&self, channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Monitor, ConnectError> {
        let names = channels.into_iter().map(|name| ChannelName::new(name.as_ref()));
        Monitor::connect(names.collect::<Result<_, _>>()?, self.plan.clone())
    }

    /// Asks the daemon to stop in good order, and waits until it has said goodbye: what senders had handed over is
    /// delivered by then.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is none; [`ConnectError::TimedOut`] if it does not answer.
    pub fn stop(&self) -> Result<(), ConnectError> {
        let mut core = InspectorCore::stop(broadcaster_local::pid());
        let mut link = Link::new(self.plan.clone())?;
        // The goodbye to whoever asked is the daemon's last word; what is left is that it lets go of its lock.
        match block_on(Until::Forever, || link.ready(&mut core)) {
            Err(ConnectError::NotRunning { .. }) if core.welcome().is_some() => return Ok(()),
            other => other?,
        };
        let ended = block_on(Until::after(self.plan.deadline), || {
            Ok::<_, ConnectError>(match link.read(&mut core, false) {
                Taken::Lost | Taken::Bytes(_) => Step::Done(()),
                Taken::Wait(wait) => Step::Wait(wait),
            })
        })?;
        ended.ok_or_else(|| link.timed_out())
    }
}
