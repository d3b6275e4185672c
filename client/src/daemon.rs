//! Requests to the running daemon: its counters, its stop, and observing its messages. It never starts one.

use crate::error::ConnectError;
use crate::machine::{Link, Request};
use crate::monitor::Monitor;
#[cfg(feature = "tokio")]
use crate::path::Clock;
use crate::path::{ConnectConfig, SocketPath, Until, Waited, Waiter};
use crate::{ChannelName, NameError};
use std::collections::BTreeSet;
use std::time::Duration;

/// The running daemon of this user. It holds no connection; each call makes one. Cloning copies the options.
#[derive(Debug, Clone)]
pub struct Daemon {
    config: ConnectConfig,
}

/// What the daemon reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process; for display only.
    pub pid: u32,
    /// The protocol version that it and this library speak.
    pub protocol: u16,
    /// How long it has accepted connections.
    pub uptime: Duration,
    /// Open connections, including the one that asks.
    pub connections: u64,
    /// Connections that send.
    pub senders: u64,
    /// Connections that listen, not counting observers.
    pub listeners: u64,
    /// Channels with a sender or a listener.
    pub channels: u64,
    /// Messages accepted from senders.
    pub messages_accepted: u64,
    /// Bytes of the frames that carried them.
    pub bytes_accepted: u64,
    /// Messages delivered to listeners, counted once per listener.
    pub messages_delivered: u64,
    /// Messages lost by slow listeners, counted once per listener.
    pub messages_lost: u64,
    /// Bytes of memory held for messages in transit.
    pub held_bytes: u64,
    /// The limit of `held_bytes`.
    pub held_bytes_max: u64,
}

impl Daemon {
    pub(crate) fn new(config: ConnectConfig) -> Self {
        Self { config }
    }

    /// Requests the daemon's counters.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is none; [`ConnectError::TimedOut`] if it does not answer.
    pub fn status(&self) -> Result<Status, ConnectError> {
        let mut call = Call::new(self, Request::inspect);
        call.connect()?;
        call.status()
    }

    /// [`status`](Self::status) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn status_async(&self) -> Result<Status, ConnectError> {
        let mut call = Call::new(self, Request::inspect);
        call.connect_async().await?;
        call.status()
    }

    /// Observes the messages on these channels as they pass, from every sender; on all channels, including those that appear later, if
    /// `channels` is empty. Observing never affects delivery: a monitor is not counted as a listener, and its losses are not the bus's.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is no daemon; [`ConnectError::Name`] if a name is not allowed;
    /// [`ConnectError::Refused`] if the daemon has 16 observers already; [`ConnectError::Unsupported`] if it is too old.
    pub fn monitor(&self, channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Monitor, ConnectError> {
        let mut monitor = Monitor::new(names(channels)?, self.config.clone());
        monitor.receiver().connect()?;
        Ok(monitor)
    }

    /// [`monitor`](Self::monitor) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`monitor`](Self::monitor).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn monitor_async(
        &self,
        channels: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Monitor, ConnectError> {
        let mut monitor = Monitor::new(names(channels)?, self.config.clone());
        monitor.receiver().connect_async().await?;
        Ok(monitor)
    }

    /// Requests an orderly stop of the daemon, and waits until it is complete. By then everything that senders had handed over is
    /// delivered, and the next daemon can start.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NotRunning`] if there is none; [`ConnectError::TimedOut`] if it does not stop.
    pub fn stop(&self) -> Result<(), ConnectError> {
        let until = Until::after(self.config.timeout);
        let mut call = Call::new(self, Request::stop);
        match call.connect() {
            Ok(()) => call.wait_for_end(until),
            Err(error) => call.stopped_or(error),
        }
    }

    /// [`stop`](Self::stop) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn stop_async(&self) -> Result<(), ConnectError> {
        let until = Until::after_by(Clock::Runtime, self.config.timeout);
        let mut call = Call::new(self, Request::stop);
        match call.connect_async().await {
            Ok(()) => call.wait_for_end_async(until).await,
            Err(error) => call.stopped_or(error),
        }
    }
}

fn names(channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<BTreeSet<ChannelName>, NameError> {
    channels.into_iter().map(|name| ChannelName::new(name.as_ref())).collect()
}

/// One request under way.
struct Call {
    request: Request,
    path: SocketPath,
    waiter: Waiter,
}

impl Call {
    fn new(daemon: &Daemon, request: impl FnOnce(&str, u32) -> Request) -> Self {
        let request = request(daemon.config.purpose_or("request"), broadcaster_local::pid());
        Self { request, path: SocketPath::new(daemon.config.clone()), waiter: Waiter::default() }
    }

    fn connect(&mut self) -> Result<(), ConnectError> {
        let Self { request, path, waiter } = self;
        waiter.block_on(Until::Forever, || path.connect(request))?;
        Ok(())
    }

    #[cfg(feature = "tokio")]
    async fn connect_async(&mut self) -> Result<(), ConnectError> {
        let Self { request, path, waiter } = self;
        path.set_clock(Clock::Runtime);
        std::future::poll_fn(|cx| waiter.poll_on(cx, Until::Forever, || path.connect(request))).await?;
        Ok(())
    }

    fn status(&self) -> Result<Status, ConnectError> {
        let (Some(welcome), Some(report)) = (self.request.welcome(), self.request.report()) else {
            return Err(self.path.gone());
        };
        Ok(Status {
            version: welcome.version.clone(),
            pid: welcome.pid,
            protocol: welcome.protocol,
            uptime: Duration::from_millis(report.uptime_ms),
            connections: report.connections,
            senders: report.senders,
            listeners: report.listeners,
            channels: report.channels,
            messages_accepted: report.messages_accepted,
            bytes_accepted: report.bytes_accepted,
            messages_delivered: report.messages_delivered,
            messages_lost: report.messages_lost,
            held_bytes: report.held_bytes,
            held_bytes_max: report.held_bytes_max,
        })
    }

    /// A daemon that received the request and is gone has stopped.
    fn stopped_or(&self, error: ConnectError) -> Result<(), ConnectError> {
        match error {
            ConnectError::NotRunning { .. } if self.request.welcome().is_some() => Ok(()),
            error => Err(error),
        }
    }

    /// Goodbye is the daemon's last message. After it the daemon releases its lock and closes the connection.
    fn wait_for_end(&mut self, until: Until) -> Result<(), ConnectError> {
        let Self { request, path, waiter } = self;
        let ended = waiter.block_on(until, || Ok::<_, ConnectError>(path.end(request)))?;
        self.ended(&ended)
    }

    #[cfg(feature = "tokio")]
    async fn wait_for_end_async(&mut self, until: Until) -> Result<(), ConnectError> {
        let Self { request, path, waiter } = self;
        let ended =
            std::future::poll_fn(|cx| waiter.poll_on(cx, until, || Ok::<_, ConnectError>(path.end(request)))).await?;
        self.ended(&ended)
    }

    fn ended(&self, ended: &Waited<()>) -> Result<(), ConnectError> {
        match ended {
            Waited::Done(()) => Ok(()),
            Waited::Elapsed | Waited::Closed => Err(self.path.timed_out()),
        }
    }
}
