//! The client's way to the daemon of the world. Each call takes one step at most, so that the world can interleave them.

use super::Client;
use super::daemon::{Connected, Daemon};
use fastrand::Rng;
use system_broadcaster::ChannelName;
use system_broadcaster::machine::{Carrier, Ended, Link, Loss, Machine, Rejected, Step, Subscriber, Transfer};

/// No connection fails for good in a world.
#[derive(Debug)]
pub(super) enum Never {}

/// A message of the world was rejected.
#[derive(Debug)]
pub(super) struct SendError(#[expect(dead_code, reason = "a failure shows it")] Rejected);

impl From<Rejected> for SendError {
    fn from(rejected: Rejected) -> Self {
        Self(rejected)
    }
}

impl From<Never> for SendError {
    fn from(never: Never) -> Self {
        match never {}
    }
}

/// The connection of one client, for one call of its loop.
#[derive(Debug)]
pub(super) struct WorldLink<'a> {
    pub(super) client: Client,
    pub(super) pid: u32,
    /// The channel of a sender.
    pub(super) channel: Option<&'a ChannelName>,
    pub(super) connected: &'a mut Option<Connected>,
    pub(super) daemon: &'a mut Daemon,
    pub(super) rng: &'a mut Rng,
    /// Something has happened in this call.
    pub(super) moved: bool,
    /// The connection was given up.
    pub(super) lost: bool,
    /// The daemon ended it in an orderly stop.
    pub(super) goodbye: bool,
}

impl WorldLink<'_> {
    fn drop_connection(&mut self, machine: &mut impl Machine) {
        if let Some(connected) = self.connected.take() {
            connected.pipe.borrow_mut().client_left = true;
            machine.disconnected();
            (self.moved, self.lost) = (true, true);
        }
    }

    /// Reads once; `None` if the connection is over.
    fn fill(&mut self, machine: &mut impl Machine) -> Option<usize> {
        let connected = self.connected.as_ref()?;
        let read = connected.pipe.borrow_mut().read(self.rng, &mut machine.target());
        self.moved |= read != Some(0);
        read
    }
}

impl Link for WorldLink<'_> {
    type Wait = ();
    type Error = Never;

    fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, ()>, Never> {
        if machine.is_ready() {
            return Ok(Step::Done(Carrier::Stream));
        }
        if self.moved {
            return Ok(Step::Wait(()));
        }
        let Some(connected) = &*self.connected else {
            *self.connected = self.daemon.connect(self.client, self.pid, self.channel.cloned());
            if self.connected.is_some() {
                machine.connected();
                self.moved = true;
            }
            return Ok(Step::Wait(()));
        };
        if !machine.outgoing().is_empty() {
            match connected.pipe.borrow_mut().write(self.rng, machine.outgoing()) {
                Some(0) | None => {} // the daemon may have sent why
                Some(bytes) => {
                    machine.sent(bytes);
                    self.moved = true;
                    return Ok(Step::Wait(()));
                }
            }
        }
        match self.fill(machine) {
            Some(0) => {}
            Some(_) if machine.received().is_ok() => {
                if machine.is_ready() {
                    return Ok(Step::Done(Carrier::Stream));
                }
            }
            Some(_) | None => self.drop_connection(machine),
        }
        Ok(Step::Wait(()))
    }

    fn read(&mut self, subscriber: &mut Subscriber, _patient: bool) -> Result<Step<(), ()>, Never> {
        if self.moved {
            return Ok(Step::Wait(()));
        }
        match self.fill(subscriber) {
            Some(0) => {
                subscriber.has_drained();
                return Ok(Step::Wait(()));
            }
            Some(bytes) => subscriber.has_read(bytes),
            None => self.drop_connection(subscriber),
        }
        Ok(Step::Done(()))
    }

    fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<()> {
        if self.moved {
            return Transfer::Wait(());
        }
        match self.fill(machine) {
            Some(0) => Transfer::Wait(()),
            Some(bytes) => Transfer::Bytes(bytes),
            None => Transfer::Broken,
        }
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<()> {
        let Some(connected) = &*self.connected else { return Transfer::Broken };
        if self.moved {
            return Transfer::Wait(());
        }
        match connected.pipe.borrow_mut().write(self.rng, &[head, body].concat()) {
            Some(0) => Transfer::Wait(()),
            Some(bytes) => {
                self.moved = true;
                Transfer::Bytes(bytes)
            }
            None => Transfer::Broken,
        }
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), Never> {
        self.goodbye |= loss == Loss::Ended(Ended::Goodbye);
        self.drop_connection(machine);
        Ok(())
    }
}
