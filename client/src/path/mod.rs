//! How the messages of a handle travel: the connection to the daemon, and what replaces it where there can be none. It never
//! interprets a frame.
//!
//! | module | contents |
//! | --- | --- |
//! | `config` | how a handle connects |
//! | `socket` | the connection: finding the daemon, starting it, the handshake, and reconnecting |
//! | `launch` | running the daemon's program |
//! | `descriptors` | descriptors that travel with the frames of a connection |
//! | `ring_input` | a ring in shared memory that a listener reads |
//! | `ring_output` | one that a sender writes, and the readers that it wakes |
//! | `notifications` | notifications of the system in place of a daemon |
//! | `wait` | what a step waits for, and how a thread, a task or an event loop waits for it |
//!
//! A handle owns one [`Path`] and a state machine from [`machine`](crate::machine); the loops there connect the two.

mod config;
mod descriptors;
mod launch;
pub(crate) mod notifications;
mod ring_input;
mod ring_output;
mod socket;
mod wait;

pub(crate) use config::ConnectConfig;
pub(crate) use socket::SocketPath;
pub(crate) use wait::{Clock, Closing, Pending, Polled, Until, Wait, Waited, Waiter, cannot_wait, wait_for_any};
#[cfg(feature = "tokio")]
pub(crate) use wait::{SharedRegistrations, Timer};

use crate::capabilities::Capabilities;
use crate::error::ConnectError;
use crate::machine::{
    Bell, Carrier, Link, Loss, Machine, Posted, Publisher, RingInput, RingOutput, Step, Subscriber, TooLarge, Transfer,
};
use crate::{ChannelName, Selector};
use broadcaster_protocol::Frame;
use broadcaster_protocol::control::OfferLink;
use notifications::{NotificationListener, NotificationPath, NotificationSender};
use std::time::Instant;

/// How the messages of one handle travel.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly every path is a socket
pub(crate) enum Path {
    /// Through the daemon.
    Socket(SocketPath),
    /// Through the daemon while there is one, and through notifications of the system otherwise.
    Notifications(Box<NotificationPath>),
}

impl Path {
    /// The path of a sender on `channel`.
    pub(crate) fn of_sender(config: ConnectConfig, channel: &ChannelName) -> Self {
        match config.notifications.clone() {
            None => Self::Socket(SocketPath::new(config)),
            Some(service) => Self::Notifications(Box::new(NotificationPath::of_sender(
                SocketPath::new(config),
                NotificationSender::new(service, channel),
            ))),
        }
    }

    /// The path of a listener.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoFallback`] if notifications are requested for anything but one channel by its name.
    pub(crate) fn of_listener(config: ConnectConfig, selectors: &[Selector]) -> Result<Self, ConnectError> {
        match (config.notifications.clone(), selectors) {
            (None, _) => Ok(Self::Socket(SocketPath::new(config))),
            (Some(service), [Selector::Name(channel)]) => {
                Ok(Self::Notifications(Box::new(NotificationPath::of_listener(
                    SocketPath::new(config),
                    NotificationListener::new(service, channel.clone()),
                ))))
            }
            (Some(_), _) => Err(ConnectError::NoFallback),
        }
    }

    fn socket(&self) -> &SocketPath {
        match self {
            Self::Socket(socket) => socket,
            Self::Notifications(path) => path.socket(),
        }
    }

    fn socket_mut(&mut self) -> &mut SocketPath {
        match self {
            Self::Socket(socket) => socket,
            Self::Notifications(path) => path.socket_mut(),
        }
    }

    pub(crate) fn config(&self) -> &ConnectConfig {
        self.socket().config()
    }

    /// What the path can do at present.
    pub(crate) fn capabilities(&self) -> Capabilities {
        match self {
            Self::Socket(_) => Capabilities::DAEMON,
            Self::Notifications(path) => path.capabilities(),
        }
    }

    /// Whether messages can travel now, by either carrier.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.is_up(),
            Self::Notifications(path) => path.is_usable(),
        }
    }

    /// Whether there is a connection to a daemon, and this process has made it rather than a process that it was forked from.
    pub(crate) fn is_own(&self) -> bool {
        self.socket().is_own()
    }

    /// Whether every frame that arrives is new, and nothing but frames arrives.
    #[inline]
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// Whether messages travel without a daemon at present.
    #[inline]
    pub(crate) fn carries_messages(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Notifications(path) => path.carries_messages(),
        }
    }

    /// Whether a daemon has accepted and its answer is under way.
    pub(crate) fn is_greeting(&self) -> bool {
        self.socket().is_greeting()
    }

    /// The time on the clock that the path reads.
    pub(crate) fn now(&self) -> Instant {
        self.socket().now()
    }

    /// Which clock the path reads from now on.
    #[inline]
    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.socket_mut().set_clock(clock);
    }
}

impl Link for Path {
    type Wait = Wait;
    type Error = ConnectError;

    #[inline]
    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Wait>, ConnectError> {
        match self {
            Self::Socket(socket) => socket.connect(machine),
            Self::Notifications(path) => path.connect(machine),
        }
    }

    #[inline]
    fn read(&mut self, subscriber: &mut Subscriber, patient: bool) -> Result<Step<(), Wait>, ConnectError> {
        match self {
            Self::Socket(socket) => socket.read(subscriber, patient),
            Self::Notifications(path) => path.read(subscriber, patient),
        }
    }

    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Wait> {
        self.socket_mut().read_answer(machine)
    }

    #[inline]
    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Wait> {
        match self {
            Self::Socket(socket) => socket.write(head, body),
            Self::Notifications(path) => path.write(head, body),
        }
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), ConnectError> {
        match self {
            Self::Socket(socket) => socket.lose(machine, loss),
            Self::Notifications(path) => path.lose(machine, loss),
        }
    }

    fn post(&mut self, publisher: &Publisher, message: Posted<'_>) -> Result<(), TooLarge> {
        match self {
            Self::Socket(socket) => socket.post(publisher, message),
            Self::Notifications(path) => path.post(publisher, message),
        }
    }

    fn written(&mut self, publisher: &Publisher, message: Posted<'_>) {
        if let Self::Notifications(path) = self {
            path.written(publisher, message);
        }
    }

    #[inline]
    fn duplicates(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Notifications(path) => path.duplicates(),
        }
    }

    #[inline]
    fn is_new(&mut self, frame: Frame<'_>) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Notifications(path) => path.is_new(frame),
        }
    }

    fn time(&self) -> Option<Instant> {
        Link::time(self.socket())
    }

    fn make_ring(&mut self) -> Option<Box<dyn RingOutput>> {
        self.socket_mut().make_ring()
    }

    fn expect_descriptors(&mut self) {
        self.socket_mut().expect_descriptors();
    }

    fn take_bell(&mut self) -> Option<Box<dyn Bell>> {
        self.socket_mut().take_bell()
    }

    fn open_ring(&mut self, offer: &OfferLink) -> Option<Box<dyn RingInput>> {
        self.socket_mut().open_ring(offer)
    }

    fn decline_ring(&mut self) {
        self.socket_mut().decline_ring();
    }

    fn beside_rings(&mut self, wait: Wait) -> Result<Wait, ConnectError> {
        self.socket_mut().beside_rings(wait)
    }

    fn reconnects(&self) -> bool {
        self.socket().reconnects()
    }

    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<Wait> {
        self.socket_mut().write_with_descriptors(frame)
    }
}
