//! The client's way to the daemon of the world. Each call takes one step at most, so that the world can interleave them.

use super::Client;
use super::daemon::{Connected, Daemon};
use super::memory::Descriptor;
use broadcaster_protocol::control::OfferLink;
use fastrand::Rng;
use std::rc::Rc;
use system_broadcaster::ChannelName;
use system_broadcaster::machine::{
    Bell, Carrier, Ended, Link, Loss, Machine, Rejected, RingInput, RingOutput, Step, Subscriber, Transfer,
};

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

/// The most attempts to read in one call. A client that makes more spins, where it should wait.
const READS_MAX: u32 = 10_000;

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
    /// Attempts to read in this call.
    pub(super) reads: u32,
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

    /// Whether this call has done enough. Without rings that is one step.
    fn must_pause(&mut self) -> bool {
        self.moved && (self.daemon.ring_words.is_none() || self.rng.usize(..3) == 0)
    }

    fn count_read(&mut self) {
        self.reads += 1;
        assert!(self.reads < READS_MAX, "{:?} spins", self.client);
    }

    /// One in so many attempts to map memory fails.
    fn is_short_of_memory(&mut self) -> bool {
        let one_in = self.daemon.memory_shortage;
        one_in > 0 && self.rng.usize(..one_in) == 0
    }

    /// Writes once, with descriptors on the first byte.
    fn write_once(&mut self, bytes: &[u8], descriptors: &[Descriptor]) -> Transfer<()> {
        let must_pause = self.must_pause();
        let Some(connected) = &*self.connected else { return Transfer::Broken };
        if must_pause || connected.shared.borrow().life.is_over() {
            return Transfer::Wait(());
        }
        match connected.pipe.borrow_mut().write(self.rng, bytes, descriptors) {
            Some(0) => Transfer::Wait(()),
            Some(bytes) => {
                self.moved = true;
                Transfer::Bytes(bytes)
            }
            None => Transfer::Broken,
        }
    }

    /// Reads once; `None` if the connection is over.
    fn fill(&mut self, machine: &mut impl Machine) -> Option<usize> {
        let connected = self.connected.as_ref()?;
        let shared = &mut *connected.shared.borrow_mut();
        let received = &mut shared.received;
        let read = connected.pipe.borrow_mut().read(self.rng, &mut machine.target(), received);
        if !shared.expects_descriptors {
            received.clear(); // the system closes them
        }
        let (waiting, has_rings) = (received.len(), machine.session().has_rings());
        assert!(waiting <= if has_rings { 4 } else { 0 }, "{:?} has {waiting} descriptors without frames", self.client);
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
                let can_use = self.daemon.ring_words.is_some() && machine.wants_rings();
                machine.session_mut().announce_rings(can_use);
                machine.connected();
                self.moved = true;
            }
            return Ok(Step::Wait(()));
        };
        if !machine.outgoing().is_empty() {
            match connected.pipe.borrow_mut().write(self.rng, machine.outgoing(), &[]) {
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
        self.count_read();
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
        self.count_read();
        // The end of a connection shows at once.
        let has_ended = self.connected.as_ref().is_some_and(|connected| connected.pipe.borrow().daemon_left);
        if self.must_pause() && !has_ended {
            return Transfer::Wait(());
        }
        match self.fill(machine) {
            Some(0) => Transfer::Wait(()),
            Some(bytes) => Transfer::Bytes(bytes),
            None => Transfer::Broken,
        }
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<()> {
        self.write_once(&[head, body].concat(), &[])
    }

    fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), Never> {
        self.goodbye |= loss == Loss::Ended(Ended::Goodbye);
        let is_closed = |connected: &Connected| connected.pipe.borrow().daemon_left;
        if loss == Loss::Closed && self.connected.as_ref().is_some_and(is_closed) {
            machine.abandoned();
        }
        self.drop_connection(machine);
        Ok(())
    }

    fn expect_descriptors(&mut self) {
        if let Some(connected) = &self.connected {
            connected.shared.borrow_mut().expects_descriptors = true;
        }
    }

    fn make_ring(&mut self) -> Option<Box<dyn RingOutput>> {
        let capacity = self.daemon.ring_words.filter(|_| !self.is_short_of_memory())?;
        let ring = self.connected.as_ref()?.shared.borrow_mut().make_ring(capacity);
        Some(Box::new(ring))
    }

    fn take_bell(&mut self) -> Option<Box<dyn Bell>> {
        let bell = self.connected.as_ref()?.shared.borrow_mut().take_bell()?;
        Some(Box::new(bell))
    }

    fn open_ring(&mut self, offer: &OfferLink) -> Option<Box<dyn RingInput>> {
        if self.is_short_of_memory() {
            self.daemon.faults.borrow_mut().links_refused += 1;
            self.decline_ring();
            return None;
        }
        let rng = Rng::with_seed(self.rng.u64(..));
        let ring = self.connected.as_ref()?.shared.borrow_mut().open_ring(offer, rng)?;
        Some(Box::new(ring))
    }

    fn decline_ring(&mut self) {
        if let Some(connected) = &self.connected {
            connected.shared.borrow_mut().decline_ring();
        }
    }

    fn write_with_descriptors(&mut self, frame: &[u8]) -> Transfer<()> {
        let Some(connected) = &*self.connected else { return Transfer::Broken };
        let shared = Rc::clone(&connected.shared);
        let set = shared.borrow_mut().queued.pop_front().unwrap_or_default();
        let transfer = self.write_once(frame, &set);
        if transfer == Transfer::Wait(()) {
            shared.borrow_mut().queued.push_front(set);
        }
        transfer
    }
}
