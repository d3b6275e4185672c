//! One sender for several threads and tasks. A call holds its lock for one attempt that does not wait, and never while it waits.

use crate::capabilities::Capabilities;
use crate::error::{ConnectError, SendError};
use crate::machine::{self, Confirmation, Confirming, Counted, Lifetime, OWN, Place, Publisher, Sending, Step, Ticket};
use crate::metadata::Metadata;
use crate::path::{Clock, Path, Wait, Waited, Waiter, cannot_wait};
use crate::receipt::Receipt;
use crate::sender::{Sender, attended, confirmed, counted, lifetime_from, outcome, place_of, received, retained};
use crate::{ChannelName, SenderId};
use broadcaster_local::Bell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    crate::path::{SharedRegistrations, Timer, Until},
    std::collections::BTreeMap,
    std::convert::Infallible,
    std::future::poll_fn,
    std::sync::atomic::{AtomicU64, Ordering},
    std::task::{Context, Poll, Wake, Waker, ready},
    tokio::runtime::Handle,
    tokio::task::coop,
};

/// A sender for several threads and tasks at a time, over one connection: see [`Sender::into_shared`]. Clones are handles of the same
/// sender.
///
/// # Order and fairness
///
/// There is one order of messages, in which calls have got their turn, and all listeners receive each channel in that order. A call that begins
/// after another one has returned follows it. Calls at the same time take turns in no particular order; none waits for another one that
/// waits, except that a message of which a part was written is finished first. With [backpressure](crate::Options::backpressure), calls on a channel
/// whose listeners are behind wait, and those on other channels pass them.
///
/// # Threads and tasks
///
/// Blocking and async calls can be mixed freely. A call never waits while it excludes others: an async call keeps its thread for no longer
/// than an attempt that does not wait. A call whose message is written in part leaves the rest to the sender, which copies it; the call
/// returns when all of it was written.
///
/// # What is different from a [`Sender`]
///
/// Messages cannot be fed in batches, there is no sink, and there is no descriptor for event loops. [`confirm`](Self::confirm) reports messages
/// in doubt once, to one of the calls. If the socket is full, and another clone sends on the same channel, a
/// [receipt](Self::send_confirmed) may be about its message, which follows. If the connection changes at that moment, a receipt may report 0
/// listeners although the message had some.
///
/// ```
/// use system_broadcaster::Options;
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let mut listener = bus.listener("com.example.log")?;
/// let sender = bus.sender("com.example.log")?.into_shared();
/// std::thread::scope(|scope| {
///     for n in 0..4 {
///         let sender = sender.clone();
///         scope.spawn(move || sender.send(&[n]));
///     }
/// });
/// let mut received: Vec<u8> = (0..4).map(|_| listener.recv().map(|message| message.payload()[0])).collect::<Result<_, _>>()?;
/// received.sort();
/// assert_eq!(received, [0, 1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SharedSender(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    channel: ChannelName,
    /// How long a send may wait.
    timeout: Duration,
    /// How long an answer of the daemon may take.
    pub(crate) answer_timeout: Duration,
    state: Mutex<State>,
    #[cfg(feature = "tokio")]
    tasks: Arc<Tasks>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sender: Sender,
    /// Rung, and replaced, when what another thread waits for may have happened other than on the socket. None if no thread waits.
    bell: Option<Bell>,
    #[cfg(feature = "tokio")]
    registrations: SharedRegistrations,
}

impl SharedSender {
    pub(crate) fn new(sender: Sender) -> Self {
        let (channel, timeout) = (sender.channel().clone(), sender.timeout);
        let answer_timeout = sender.path.config().timeout;
        let state = State {
            sender,
            bell: None,
            #[cfg(feature = "tokio")]
            registrations: SharedRegistrations::default(),
        };
        Self(Arc::new(Shared {
            channel,
            timeout,
            answer_timeout,
            state: Mutex::new(state),
            #[cfg(feature = "tokio")]
            tasks: Arc::default(),
        }))
    }

    /// The name of the channel that the sender was created for.
    pub fn channel(&self) -> &ChannelName {
        &self.0.channel
    }

    /// The sender as listeners see it.
    pub fn id(&self) -> SenderId {
        self.0.lock().sender.id()
    }

    /// What the path can do at present: see [`Sender::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.0.lock().sender.capabilities()
    }

    /// [`Sender::send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&self, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(OWN, &[], payload)
    }

    /// [`Sender::send_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_with(&self, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(OWN, metadata.as_bytes(), payload)
    }

    /// [`Sender::send_to`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_to(&self, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(self.0.place_of(channel)?, &[], payload)
    }

    /// [`Sender::send_to_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_to_with(&self, channel: &str, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes(self.0.place_of(channel)?, metadata.as_bytes(), payload)
    }

    fn send_bytes(&self, place: Place, metadata: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let mut sending = Sending::new(place, metadata, payload);
        let waited = self.0.block(self.0.timeout, |publisher, path| send_step(&mut sending, publisher, path))?;
        outcome(&waited, sending.has_begun(), self.0.timeout)
    }

    /// Sends `payload` if the daemon's socket takes it at once: see [`Sender::try_send`]. It waits for other calls, none of which waits while
    /// it excludes this one.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_send(&self, payload: &[u8]) -> Result<(), SendError> {
        let mut sending = Sending::new(OWN, &[], payload);
        let mut state = self.0.lock();
        match self.0.attempt(&mut state, Clock::System, |publisher, path| send_step(&mut sending, publisher, path))? {
            Step::Done(()) => Ok(()),
            Step::Wait(_) if sending.has_begun() => Err(SendError::Unfinished { after: Duration::ZERO }),
            Step::Wait(_) if state.sender.path.is_usable() => Err(SendError::Full),
            Step::Wait(_) => Err(SendError::Connecting),
        }
    }

    /// [`Sender::confirm`], for everything that was sent before this call, by any clone.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn confirm(&self) -> Result<(), SendError> {
        let (timeout, commits) = (self.0.timeout, self.0.lock().sender.publisher.commits());
        let waited = self.0.block(timeout, |publisher, path| confirm_step(publisher, path, commits))?;
        confirmed(&waited, &self.0.lock().sender.path, timeout)
    }

    /// [`Sender::send_confirmed`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_confirmed(&self, payload: &[u8]) -> Result<Receipt, SendError> {
        let timeout = self.0.timeout;
        let mut receipt = WantedReceipt { shared: &self.0, confirming: Confirming::new(OWN, &[], payload) };
        let waited =
            self.0.block(timeout, |publisher, path| confirming_step(&mut receipt.confirming, publisher, path))?;
        received(waited, &receipt.confirming, timeout)
    }

    /// [`Sender::retain`].
    ///
    /// # Errors
    ///
    /// As there. If this message is so large that it is written in parts, and another thread sends on the same channel meanwhile, then
    /// the result is that of the later message.
    pub fn retain(&self, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, None, &[], payload)
    }

    /// [`Sender::retain_for`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn retain_for(&self, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, Some(lifetime), &[], payload)
    }

    /// [`Sender::retain_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn retain_with(
        &self,
        metadata: &Metadata,
        payload: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, lifetime, metadata.as_bytes(), payload)
    }

    /// [`Sender::retain_to`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn retain_to(&self, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes(self.0.place_of(channel)?, None, &[], payload)
    }

    /// [`Sender::clear_retained`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn clear_retained(&self) -> Result<Receipt, SendError> {
        self.retain_bytes(OWN, None, &[], &[])
    }

    /// [`Sender::clear_retained_on`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn clear_retained_on(&self, channel: &str) -> Result<Receipt, SendError> {
        self.retain_bytes(self.0.place_of(channel)?, None, &[], &[])
    }

    /// [`Sender::keep_retained`]. Other clones send meanwhile.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn keep_retained(&self, duration: Duration) -> Result<(), SendError> {
        attended(&self.0.block(duration, machine::attend::<_, SendError>)?)
    }

    fn retain_bytes(
        &self,
        place: Place,
        lifetime: Option<Duration>,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<Receipt, SendError> {
        let timeout = self.0.timeout;
        let confirming = Confirming::retain(place, self.0.lifetime_from(lifetime, Clock::System), metadata, payload);
        let mut receipt = WantedReceipt { shared: &self.0, confirming };
        let waited =
            self.0.block(timeout, |publisher, path| confirming_step(&mut receipt.confirming, publisher, path))?;
        retained(received(waited, &receipt.confirming, timeout)?, || self.0.name(place))
    }

    /// [`Sender::listeners`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn listeners(&self) -> Result<u32, SendError> {
        let timeout = self.0.answer_timeout;
        counted(self.count(0, timeout)?, || SendError::Unanswered { after: timeout })
    }

    /// [`Sender::wait_for_listeners`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn wait_for_listeners(&self, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        counted(self.count(minimum, timeout)?, || SendError::TooFewListeners { minimum, after: timeout })
    }

    fn count(&self, minimum: u32, timeout: Duration) -> Result<Waited<Counted>, SendError> {
        let wanted = WantedCount::new(&self.0, minimum);
        self.0.block(timeout, |publisher, path| machine::count(publisher, path, wanted.ticket))
    }
}

#[cfg(feature = "tokio")]
impl SharedSender {
    /// [`Sender::send_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the message is either not sent at all, or begun: then the sender keeps the rest, and the
    /// next call sends it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn send_async(&self, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes_async(OWN, &[], payload).await
    }

    /// [`Sender::send_with_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn send_with_async(&self, metadata: &Metadata, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes_async(OWN, metadata.as_bytes(), payload).await
    }

    /// [`Sender::send_to_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn send_to_async(&self, channel: &str, payload: &[u8]) -> Result<(), SendError> {
        self.send_bytes_async(self.0.place_of(channel)?, &[], payload).await
    }

    /// [`Sender::send_to_with_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn send_to_with_async(
        &self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), SendError> {
        self.send_bytes_async(self.0.place_of(channel)?, metadata.as_bytes(), payload).await
    }

    async fn send_bytes_async(&self, place: Place, metadata: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let timeout = self.0.timeout;
        let mut sending = Sending::new(place, metadata, payload);
        let waited = self.0.run(timeout, |publisher, path| send_step(&mut sending, publisher, path)).await?;
        outcome(&waited, sending.has_begun(), timeout)
    }

    /// [`Sender::confirm_async`], for everything that was sent before this call, by any clone.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes if the future is dropped before it is ready.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn confirm_async(&self) -> Result<(), SendError> {
        let (timeout, commits) = (self.0.timeout, self.0.lock().sender.publisher.commits());
        let waited = self.0.run(timeout, |publisher, path| confirm_step(publisher, path, commits)).await?;
        confirmed(&waited, &self.0.lock().sender.path, timeout)
    }

    /// [`Sender::send_confirmed_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn send_confirmed_async(&self, payload: &[u8]) -> Result<Receipt, SendError> {
        let timeout = self.0.timeout;
        let mut receipt = WantedReceipt { shared: &self.0, confirming: Confirming::new(OWN, &[], payload) };
        let step =
            |publisher: &mut Publisher, path: &mut Path| confirming_step(&mut receipt.confirming, publisher, path);
        let waited = self.0.run(timeout, step).await?;
        received(waited, &receipt.confirming, timeout)
    }

    /// [`Sender::retain_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn retain_async(&self, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, None, &[], payload).await
    }

    /// [`Sender::retain_for_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn retain_for_async(&self, payload: &[u8], lifetime: Duration) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, Some(lifetime), &[], payload).await
    }

    /// [`Sender::retain_with_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn retain_with_async(
        &self,
        metadata: &Metadata,
        payload: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, lifetime, metadata.as_bytes(), payload).await
    }

    /// [`Sender::retain_to_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn retain_to_async(&self, channel: &str, payload: &[u8]) -> Result<Receipt, SendError> {
        self.retain_bytes_async(self.0.place_of(channel)?, None, &[], payload).await
    }

    /// [`Sender::clear_retained_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn clear_retained_async(&self) -> Result<Receipt, SendError> {
        self.retain_bytes_async(OWN, None, &[], &[]).await
    }

    /// [`Sender::clear_retained_on_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As [`send_async`](Self::send_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn clear_retained_on_async(&self, channel: &str) -> Result<Receipt, SendError> {
        self.retain_bytes_async(self.0.place_of(channel)?, None, &[], &[]).await
    }

    /// [`Sender::keep_retained_async`]. Other clones send meanwhile.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn keep_retained_async(&self) -> Result<Infallible, SendError> {
        loop {
            attended(&self.0.run(Duration::MAX, machine::attend::<_, SendError>).await?)?;
        }
    }

    async fn retain_bytes_async(
        &self,
        place: Place,
        lifetime: Option<Duration>,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<Receipt, SendError> {
        let timeout = self.0.timeout;
        let confirming = Confirming::retain(place, self.0.lifetime_from(lifetime, Clock::Runtime), metadata, payload);
        let mut receipt = WantedReceipt { shared: &self.0, confirming };
        let step =
            |publisher: &mut Publisher, path: &mut Path| confirming_step(&mut receipt.confirming, publisher, path);
        let waited = self.0.run(timeout, step).await?;
        retained(received(waited, &receipt.confirming, timeout)?, || self.0.name(place))
    }

    /// [`Sender::listeners_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes if the future is dropped before it is ready.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn listeners_async(&self) -> Result<u32, SendError> {
        let timeout = self.0.answer_timeout;
        counted(self.count_async(0, timeout).await?, || SendError::Unanswered { after: timeout })
    }

    /// [`Sender::wait_for_listeners_async`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes if the future is dropped before it is ready.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn wait_for_listeners_async(&self, minimum: u32, timeout: Duration) -> Result<u32, SendError> {
        let waited = self.count_async(minimum, timeout).await?;
        counted(waited, || SendError::TooFewListeners { minimum, after: timeout })
    }

    async fn count_async(&self, minimum: u32, timeout: Duration) -> Result<Waited<Counted>, SendError> {
        let wanted = WantedCount::new(&self.0, minimum);
        self.0.run(timeout, |publisher, path| machine::count(publisher, path, wanted.ticket)).await
    }
}

/// One attempt to send. What was begun is the publisher's before another call has its turn.
fn send_step(
    sending: &mut Sending<'_>,
    publisher: &mut Publisher,
    path: &mut Path,
) -> Result<Step<(), Wait>, SendError> {
    let step = sending.poll(publisher, path);
    if matches!(step, Ok(Step::Wait(_))) {
        sending.leave(publisher);
    }
    step
}

/// The same with a receipt.
fn confirming_step(
    confirming: &mut Confirming<'_>,
    publisher: &mut Publisher,
    path: &mut Path,
) -> Result<Step<machine::Receipted, Wait>, SendError> {
    let step = confirming.poll(publisher, path);
    if matches!(step, Ok(Step::Wait(_))) {
        confirming.leave(publisher);
    }
    step
}

fn confirm_step(
    publisher: &mut Publisher,
    path: &mut Path,
    commits: u64,
) -> Result<Step<Confirmation, Wait>, SendError> {
    machine::confirm(publisher, path, commits)
}

/// A receipt that a call waits for. It is forgotten when the call is over.
struct WantedReceipt<'a> {
    shared: &'a Shared,
    confirming: Confirming<'a>,
}

impl Drop for WantedReceipt<'_> {
    fn drop(&mut self) {
        self.confirming.forget(&mut self.shared.lock().sender.publisher);
    }
}

/// A number of listeners that a call waits for. It is forgotten when the call is over.
struct WantedCount<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl<'a> WantedCount<'a> {
    fn new(shared: &'a Shared, minimum: u32) -> Self {
        Self { shared, ticket: shared.lock().sender.publisher.count_listeners(minimum) }
    }
}

impl Drop for WantedCount<'_> {
    fn drop(&mut self) {
        self.shared.lock().sender.publisher.forget_count(self.ticket);
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, place: Place) -> ChannelName {
        self.lock().sender.publisher.name(place).clone()
    }

    /// The lifetime of a message that is sent now.
    fn lifetime_from(&self, lifetime: Option<Duration>, clock: Clock) -> Lifetime {
        let mut state = self.lock();
        state.sender.path.set_clock(clock);
        lifetime_from(lifetime, &state.sender.path)
    }

    pub(crate) fn place_of(&self, channel: &str) -> Result<Place, SendError> {
        place_of(&mut self.lock().sender.publisher, channel)
    }

    /// Tries a step, which does not wait, and lets other calls try again if something has happened that they may wait for.
    fn attempt<T, E>(
        &self,
        state: &mut State,
        clock: Clock,
        step: impl FnOnce(&mut Publisher, &mut Path) -> Result<Step<T, Wait>, E>,
    ) -> Result<Step<T, Wait>, E> {
        let Sender { publisher, path, .. } = &mut state.sender;
        path.set_clock(clock);
        let before = publisher.generation();
        let step = step(publisher, path);
        let has_moved = publisher.generation() != before;
        if has_moved && let Some(bell) = state.bell.take() {
            bell.ring();
        }
        #[cfg(feature = "tokio")]
        if has_moved {
            state.registrations.release_lost();
            self.tasks.wake_all();
        }
        step
    }

    /// Runs `step` to its end on this thread.
    pub(crate) fn block<T, E: From<ConnectError>>(
        &self,
        timeout: Duration,
        mut step: impl FnMut(&mut Publisher, &mut Path) -> Result<Step<T, Wait>, E>,
    ) -> Result<Waited<T>, E> {
        let mut attempt = || -> Result<Step<T, Wait>, E> {
            let mut state = self.lock();
            Ok(match self.attempt(&mut state, Clock::System, &mut step)? {
                Step::Wait(wait) => {
                    let bell = match &mut state.bell {
                        Some(bell) => bell,
                        none => none.insert(Bell::new().map_err(cannot_wait)?),
                    };
                    Step::Wait(wait.or_readable(Some(bell.readable())))
                }
                done @ Step::Done(_) => done,
            })
        };
        match Waiter::default().block_on_for(timeout, &mut attempt)? {
            // Another call may have completed this one.
            Waited::Elapsed => Ok(match attempt()? {
                Step::Done(value) => Waited::Done(value),
                Step::Wait(_) => Waited::Elapsed,
            }),
            waited => Ok(waited),
        }
    }
}

/// The tasks that wait.
#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
struct Tasks {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    next: AtomicU64,
}

#[cfg(feature = "tokio")]
impl Tasks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_values().for_each(Waker::wake);
    }
}

#[cfg(feature = "tokio")]
impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

/// One task that waits.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Turn {
    tasks: Arc<Tasks>,
    number: u64,
    timer: Timer,
}

#[cfg(feature = "tokio")]
impl Drop for Turn {
    fn drop(&mut self) {
        self.tasks.lock().remove(&self.number);
    }
}

#[cfg(feature = "tokio")]
impl Shared {
    /// Runs `step` to its end in this task.
    pub(crate) async fn run<T, E: From<ConnectError>>(
        &self,
        timeout: Duration,
        mut step: impl FnMut(&mut Publisher, &mut Path) -> Result<Step<T, Wait>, E>,
    ) -> Result<Waited<T>, E> {
        let until = Until::after_by(Clock::Runtime, timeout);
        let mut turn = self.turn();
        poll_fn(|cx| self.poll(cx, until, &mut turn, &mut step)).await
    }

    /// One more task that waits, from the first [`poll`](Self::poll) on.
    pub(crate) fn turn(&self) -> Turn {
        let number = self.tasks.next.fetch_add(1, Ordering::Relaxed);
        Turn { tasks: Arc::clone(&self.tasks), number, timer: Timer::default() }
    }

    /// Runs `step` to its end in the task of `cx`.
    pub(crate) fn poll<T, E: From<ConnectError>>(
        &self,
        cx: &mut Context<'_>,
        until: Until,
        turn: &mut Turn,
        mut step: impl FnMut(&mut Publisher, &mut Path) -> Result<Step<T, Wait>, E>,
    ) -> Poll<Result<Waited<T>, E>> {
        let _runtime = Handle::current(); // without one, this panics even if nothing has to wait
        let budget = ready!(coop::poll_proceed(cx));
        budget.made_progress();
        let mut state = self.lock();
        loop {
            let wait = match self.attempt(&mut state, Clock::Runtime, &mut step)? {
                Step::Done(value) => return Poll::Ready(Ok(Waited::Done(value))),
                Step::Wait(_) if until.has_passed(Clock::Runtime) => return Poll::Ready(Ok(Waited::Elapsed)),
                Step::Wait(wait) => wait,
            };
            self.tasks.lock().insert(turn.number, cx.waker().clone());
            let all = Waker::from(Arc::clone(&self.tasks));
            let mut all = Context::from_waker(&all);
            let ready = state.registrations.poll_ready(&mut all, &wait)?;
            if ready.is_pending() && turn.timer.poll(cx, &wait, until).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
