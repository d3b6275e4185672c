//! Notifications of the system in place of a daemon, where there can be none. They never replace a daemon that answers and refuses,
//! and a program uses them only if it requests them.
//!
//! | module | contents |
//! | --- | --- |
//! | `envelope` | messages as dictionaries, and the validation of dictionaries |
//! | `fallback` | which carrier a handle uses at which time |
//! | `window` | which messages have already arrived by the other carrier, and which are missing |
//! | `inbox` | notifications that wait for a handle |
//! | `sender`, `listener` | posting and receiving notifications |
//! | `service` | what a notification center provides |
//! | `center` | the notifications of macOS |
//!
//! Everything but `center` is the same on every system and is tested on every system. Only macOS has a [`Center`](service::Center), so that
//! elsewhere [`service()`] is always `None`.

#[cfg(target_os = "macos")]
mod center;
mod envelope;
mod fallback;
mod inbox;
mod listener;
mod sender;
pub(crate) mod service;
#[cfg(all(test, unix))]
mod tests;
mod window;

pub(crate) use envelope::Dialect;
pub(crate) use listener::NotificationListener;
pub(crate) use sender::NotificationSender;
pub(crate) use service::service;

use super::socket::SocketPath;
use super::wait::Wait;
use crate::capabilities::Capabilities;
use crate::error::ConnectError;
use crate::machine::{Carrier, Link, Loss, Machine, Posted, Publisher, Step, Subscriber, TooLarge, Transfer};
use broadcaster_protocol::Frame;
use fallback::Fallback;
use std::time::Instant;

/// How many times to check whether notifications are delivered before the lack of it is an error.
const DELIVERY_CHECKS: u32 = 8;

/// A path through the daemon while there is one, and through notifications otherwise.
#[derive(Debug)]
pub(crate) struct NotificationPath {
    socket: SocketPath,
    fallback: Fallback,
    end: End,
}

#[derive(Debug)]
enum End {
    Sender(NotificationSender),
    Listener(NotificationListener),
}

impl NotificationPath {
    pub(crate) fn of_sender(socket: SocketPath, sender: NotificationSender) -> Self {
        Self::new(socket, sender.service().dialect, End::Sender(sender))
    }

    pub(crate) fn of_listener(socket: SocketPath, listener: NotificationListener) -> Self {
        Self::new(socket, listener.service().dialect, End::Listener(listener))
    }

    fn new(socket: SocketPath, dialect: Dialect, end: End) -> Self {
        let fallback = match dialect {
            Dialect::Current => Fallback::new(),
            Dialect::V01 => Fallback::only(),
        };
        Self { socket, fallback, end }
    }

    pub(crate) fn socket(&self) -> &SocketPath {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut SocketPath {
        &mut self.socket
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        match &self.end {
            _ if !self.fallback.is_active() => Capabilities::DAEMON,
            End::Sender(sender) => sender.capabilities(),
            End::Listener(listener) => listener.capabilities(),
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.socket.is_up() || self.carries_messages()
    }

    pub(crate) fn carries_messages(&self) -> bool {
        self.fallback.is_active()
    }

    /// Uses notifications from now on.
    fn use_notifications(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Wait>, ConnectError> {
        self.fallback.activate(self.socket.now());
        self.begin(machine)?;
        Ok(Step::Done(Carrier::Messages))
    }

    /// Starts receiving notifications, if this is the path of a listener that does not yet.
    fn begin(&mut self, machine: &mut impl Machine) -> Result<(), ConnectError> {
        machine.detached();
        let End::Listener(listener) = &mut self.end else { return Ok(()) };
        let path = || "notifications of the system".into();
        listener.open().map_err(|source| ConnectError::Io { action: "listen to", path: path(), source })
    }

    /// What to wait for while notifications are the carrier.
    fn wait_for_notification(&mut self, now: Instant) -> Result<Wait, ConnectError> {
        let patience = self.socket.config().timeout;
        let End::Listener(listener) = &self.end else { return Ok(Wait::until(now)) };
        if self.fallback.is_undelivered(now, listener.service().center.is_delivering(), patience) {
            return Err(ConnectError::NoRunLoop { after: patience });
        }
        // A main thread that is busy for a moment is not in its run loop either, so several checks come before the error.
        let check_at = now.checked_add(patience / DELIVERY_CHECKS);
        Ok(Wait::default().or_readable(listener.readable()).at_most(self.fallback.search_at()).at_most(check_at))
    }
}

impl Link for NotificationPath {
    type Wait = Wait;
    type Error = ConnectError;

    /// A handle that uses notifications searches for the daemon now and then and does not wait for it. If a daemon has been informed of the
    /// next sequence number, its answer is waited for.
    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Wait>, ConnectError> {
        let now = self.socket.now();
        if !self.fallback.is_active() {
            return match self.socket.connect(machine) {
                Err(error) if means_no_daemon(&error) => self.use_notifications(machine),
                other => other,
            };
        }
        if self.fallback.begins(now) {
            self.begin(machine)?;
        }
        if self.fallback.may_search(now) || machine.is_opening() {
            match self.socket.connect(machine) {
                Ok(Step::Done(carrier)) => {
                    self.fallback.daemon_found(now);
                    return Ok(Step::Done(carrier));
                }
                Ok(Step::Wait(wait)) if machine.is_opening() => return Ok(Step::Wait(wait)),
                Ok(Step::Wait(_)) => self.fallback.search_continues(now),
                Err(error) => {
                    self.fallback.search_failed(now);
                    if !means_no_daemon(&error) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(Step::Done(Carrier::Messages))
    }

    fn read(&mut self, subscriber: &mut Subscriber, patient: bool) -> Result<Step<(), Wait>, ConnectError> {
        let now = self.socket.now();
        let (alone, both) = (self.fallback.is_active(), self.fallback.is_both(now));
        let End::Listener(listener) = &mut self.end else { return self.socket.read(subscriber, patient) };
        if !alone && !both {
            listener.close();
        }
        if let Some(external) = listener.poll_next(alone) {
            subscriber.deliver(external);
            return Ok(Step::Done(()));
        }
        if alone {
            return self.wait_for_notification(now).map(Step::Wait);
        }
        let readable = listener.readable();
        Ok(match self.socket.read(subscriber, patient && !listener.is_open())? {
            Step::Wait(wait) => Step::Wait(wait.or_readable(readable).at_most(self.fallback.both_until())),
            Step::Done(()) => Step::Done(()),
        })
    }

    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Wait> {
        self.socket.read_answer(machine)
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Wait> {
        self.socket.write(head, body)
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), ConnectError> {
        self.socket.lose(machine, loss)
    }

    fn post(&mut self, publisher: &Publisher, message: Posted<'_>) -> Result<(), TooLarge> {
        match &self.end {
            End::Sender(sender) => sender.post(publisher, message),
            End::Listener(_) => Ok(()),
        }
    }

    fn written(&mut self, publisher: &Publisher, message: Posted<'_>) {
        if let End::Sender(sender) = &self.end
            && self.fallback.is_both(self.socket.now())
            && sender.can_duplicate()
        {
            let _ = sender.post(publisher, message); // notifications never carry a message that is too large
        }
    }

    fn duplicates(&self) -> bool {
        self.fallback.both_until().is_some()
    }

    fn is_new(&mut self, frame: Frame<'_>) -> bool {
        match &mut self.end {
            End::Sender(_) => true,
            End::Listener(listener) => listener.is_new(frame),
        }
    }
}

/// Whether the error shows that there is no daemon, and not that one refuses or must not serve this process.
fn means_no_daemon(error: &ConnectError) -> bool {
    match error {
        ConnectError::NotRunning { .. }
        | ConnectError::NoProgram { .. }
        | ConnectError::Elevated { .. }
        | ConnectError::Start { .. }
        | ConnectError::Host { .. }
        | ConnectError::Sandboxed { .. }
        | ConnectError::TimedOut { .. }
        | ConnectError::Io { .. } => true,
        ConnectError::Name(_)
        | ConnectError::Endpoint(_)
        | ConnectError::RelativeProgram { .. }
        | ConnectError::SharedMemory { .. }
        | ConnectError::Refused { .. }
        | ConnectError::Unsupported { .. }
        | ConnectError::OtherUser { .. }
        | ConnectError::NotADaemon { .. }
        | ConnectError::NoFallback
        | ConnectError::NoRunLoop { .. } => false,
    }
}
