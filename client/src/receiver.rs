//! What listeners and monitors share: the subscriptions, the path, and every way to wait for the next message. It never decides what to
//! subscribe to.

use crate::error::{ConnectError, Lag, RecvError, ReplyError, SubscribeError};
use crate::machine::{self, Change, Event, Link, Outcome, Replying, Subscriber, Subscription, Value, receive, settle};
use crate::message::{Message, MessageRef, ReplyTo};
use crate::metadata::Metadata;
use crate::path::{Clock, Closing, Path, Pending, Polled, Until, Waited, Waiter};
use broadcaster_protocol::control::{Declined, RefusedCode};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    futures_core::Stream,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// How long a call that does not wait allows for a handshake that is under way.
pub(crate) const HANDSHAKE_ALLOWANCE: Duration = Duration::from_millis(1);

/// Ends the receives of a handle, from any thread: see [`Listener::closer`](crate::Listener::closer).
///
/// It is `Clone`, `Send` and `Sync`: all clones close the same handle. Dropping it closes nothing.
#[derive(Debug, Clone)]
pub struct Closer(Arc<Closing>);

impl Closer {
    /// The closer of the handle that waits with `waiter`.
    pub(crate) fn of(waiter: &mut Waiter) -> Result<Self, ConnectError> {
        let closing = waiter.closing().map_err(|source| {
            let path = "the handle".into();
            ConnectError::Io { action: "make a closer for", path, source }
        })?;
        Ok(Self(Arc::clone(closing)))
    }

    /// Closes the handle: a receive that waits ends with [`RecvError::Closed`], and so does every later one. Streams and iterators end.
    ///
    /// The connection is closed when the handle is dropped.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether the handle was closed.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

#[derive(Debug)]
pub(crate) struct Receiver {
    subscriber: Subscriber,
    path: Path,
    waiter: Waiter,
    lost: u64,
    gaps: u64,
    /// Found already, and not handed out yet.
    deferred: Option<Deferred>,
}

#[derive(Debug)]
enum Deferred {
    /// The message that [`select`](crate::select()) has found.
    Message,
    /// What [`select`](crate::select()) has found, or [`recv_many`](Receiver::recv_many) behind its messages.
    Error(RecvError),
}

impl Receiver {
    pub(crate) fn new(subscriber: Subscriber, path: Path) -> Self {
        Self { subscriber, path, waiter: Waiter::default(), lost: 0, gaps: 0, deferred: None }
    }

    /// Waits until the path can be used.
    pub(crate) fn connect(&mut self) -> Result<(), ConnectError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        waiter.block_on(Until::Forever, || path.connect(subscriber))?;
        Ok(())
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn connect_async(&mut self) -> Result<(), ConnectError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        std::future::poll_fn(|cx| waiter.poll_on(cx, Until::Forever, || path.connect(subscriber))).await?;
        Ok(())
    }

    /// What it receives, in the order in which that was requested.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = &machine::Selector> {
        self.subscriber.selectors()
    }

    /// What the daemon retains of the only channel.
    pub(crate) fn value(&mut self) -> Result<Option<Message>, RecvError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let until = Until::after(path.config().timeout);
        let waited = waiter.block_on(until, || machine::value(subscriber, path))?;
        self.valued(&waited)
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn value_async(&mut self) -> Result<Option<Message>, RecvError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let until = Until::after_by(Clock::Runtime, path.config().timeout);
        let waited = std::future::poll_fn(|cx| waiter.poll_on(cx, until, || machine::value(subscriber, path))).await?;
        self.valued(&waited)
    }

    fn valued(&mut self, waited: &Waited<Value>) -> Result<Option<Message>, RecvError> {
        match waited {
            Waited::Done(Value::Frame) => self.message().map(Some),
            Waited::Done(Value::Nothing) => Ok(None),
            Waited::Done(Value::Lost(count)) => Err(self.lagged(*count)),
            Waited::Elapsed | Waited::Closed => Err(RecvError::TimedOut { after: self.path.config().timeout }),
        }
    }

    /// Adds a subscription.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) -> Result<(), SubscribeError> {
        self.check_changeable()?;
        let change = self.subscriber.subscribe(subscription);
        self.settle(change)
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn subscribe_async(&mut self, subscription: Subscription) -> Result<(), SubscribeError> {
        self.check_changeable()?;
        let change = self.subscriber.subscribe(subscription);
        self.settle_async(change).await
    }

    /// Ends the subscription with this selector, if there is one.
    pub(crate) fn unsubscribe(&mut self, selector: &machine::Selector) -> Result<(), SubscribeError> {
        self.check_changeable()?;
        self.subscriber.unsubscribe(selector).map_or(Ok(()), |change| self.settle(change))
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn unsubscribe_async(&mut self, selector: &machine::Selector) -> Result<(), SubscribeError> {
        self.check_changeable()?;
        match self.subscriber.unsubscribe(selector) {
            Some(change) => self.settle_async(change).await,
            None => Ok(()),
        }
    }

    fn check_changeable(&self) -> Result<(), SubscribeError> {
        match &self.path {
            _ if self.waiter.is_closed() => Err(SubscribeError::Closed),
            Path::Socket(_) => Ok(()),
            Path::Notifications(_) => Err(SubscribeError::NoFallback),
        }
    }

    fn settle(&mut self, change: Change) -> Result<(), SubscribeError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let until = Until::after(path.config().timeout);
        let waited = waiter.block_on(until, || settle(subscriber, path, change))?;
        self.settled(waited)
    }

    #[cfg(feature = "tokio")]
    async fn settle_async(&mut self, change: Change) -> Result<(), SubscribeError> {
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let until = Until::after_by(Clock::Runtime, path.config().timeout);
        let waited = std::future::poll_fn(|cx| waiter.poll_on(cx, until, || settle(subscriber, path, change))).await?;
        self.settled(waited)
    }

    fn settled(&mut self, waited: Waited<Outcome>) -> Result<(), SubscribeError> {
        self.waiter.report_ready(); // messages may have arrived before the answer, or before the time was over
        match waited {
            Waited::Done(Outcome::Done) => Ok(()),
            Waited::Done(Outcome::Full) => Err(SubscribeError::Unread),
            Waited::Done(Outcome::Declined(Declined { code: RefusedCode::Unsupported, reason, .. })) => {
                let (what, version) = (reason, self.subscriber.daemon_version().to_owned());
                Err(ConnectError::Unsupported { what, version }.into())
            }
            Waited::Done(Outcome::Declined(Declined { code, reason, .. })) => {
                Err(SubscribeError::Declined { code: code.into(), reason })
            }
            Waited::Closed => Err(SubscribeError::Closed),
            Waited::Elapsed => Err(SubscribeError::TimedOut { after: self.path.config().timeout }),
        }
    }

    /// Replies to a request.
    pub(crate) fn reply(&mut self, to: Option<ReplyTo>, metadata: &Metadata, payload: &[u8]) -> Result<(), ReplyError> {
        let Self { subscriber, path, waiter, .. } = self;
        let to = to.ok_or(ReplyError::NotRequested)?;
        let mut replying = Replying::new(subscriber, to.parts(), metadata.as_bytes(), payload)?;
        path.set_clock(Clock::System);
        let timeout = path.config().timeout;
        let waited = waiter.block_on(Until::after(timeout), || Ok(replying.poll(subscriber, path)?));
        let begun = replying.has_begun();
        replying.leave(subscriber);
        self.replied(waited, begun, timeout)
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn reply_async(
        &mut self,
        to: Option<ReplyTo>,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        let to = to.ok_or(ReplyError::NotRequested)?;
        let timeout = self.path.config().timeout;
        let until = Until::after_by(Clock::Runtime, timeout);
        self.path.set_clock(Clock::Runtime);
        let mut pending = PendingReply::new(self, to, metadata, payload)?;
        let waited = std::future::poll_fn(|cx| pending.poll(cx, until)).await;
        let begun = pending.replying.has_begun();
        drop(pending);
        self.replied(waited, begun, timeout)
    }

    fn replied(
        &mut self,
        waited: Result<Waited<()>, ReplyError>,
        begun: bool,
        after: Duration,
    ) -> Result<(), ReplyError> {
        self.waiter.report_ready(); // messages may have arrived in the meantime
        match waited? {
            Waited::Done(()) => Ok(()),
            Waited::Closed => Err(ReplyError::Closed),
            Waited::Elapsed if begun => Err(ReplyError::Unfinished { after }),
            Waited::Elapsed => Err(ReplyError::TimedOut { after }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn gaps(&self) -> u64 {
        self.gaps
    }

    pub(crate) fn closer(&mut self) -> Result<Closer, ConnectError> {
        Closer::of(&mut self.waiter)
    }

    #[cfg(unix)]
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.waiter.as_fd()
    }

    /// Waits for the next message.
    #[inline]
    pub(crate) fn wait(&mut self, until: Until) -> Result<(), RecvError> {
        // Most messages arrive together with the one before them.
        let is_next_of_run = self.deferred.is_none()
            && self.path.is_direct()
            && !self.waiter.is_closed()
            && self.subscriber.next_of_run();
        if is_next_of_run { Ok(()) } else { self.wait_for_event(until) }
    }

    #[inline(never)]
    fn wait_for_event(&mut self, until: Until) -> Result<(), RecvError> {
        match self.deferred.take() {
            Some(Deferred::Message) => return Ok(()),
            Some(Deferred::Error(error)) => return Err(error),
            None => {}
        }
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let patient = until == Until::Forever && waiter.may_be_patient();
        let waited = waiter.block_on(until, || receive(subscriber, path, patient))?;
        self.outcome(&waited, until)
    }

    #[inline]
    fn outcome(&mut self, waited: &Waited<Event>, until: Until) -> Result<(), RecvError> {
        match waited {
            Waited::Done(Event::Frame) => Ok(()),
            Waited::Done(Event::Lagged(count)) => Err(self.lagged(*count)),
            Waited::Closed => Err(RecvError::Closed),
            Waited::Elapsed => self.elapsed(until),
        }
    }

    #[cold]
    fn elapsed(&mut self, until: Until) -> Result<(), RecvError> {
        match until {
            Until::Deadline(_, after) => Err(RecvError::TimedOut { after }),
            Until::Now | Until::Forever if self.path.is_usable() => Err(RecvError::Empty),
            Until::Now | Until::Forever if !self.path.is_greeting() => Err(RecvError::Connecting),
            Until::Now | Until::Forever => {
                let Self { subscriber, path, waiter, .. } = self;
                match waiter.block_on(Until::after(HANDSHAKE_ALLOWANCE), || path.connect(subscriber))? {
                    Waited::Done(_) => self.wait(Until::Now),
                    Waited::Closed => Err(RecvError::Closed),
                    Waited::Elapsed => Err(RecvError::Connecting),
                }
            }
        }
    }

    #[cold]
    fn lagged(&mut self, count: Option<u64>) -> RecvError {
        match count {
            Some(count) => self.lost = self.lost.saturating_add(count),
            None => self.gaps += 1,
        }
        let Self { subscriber, .. } = self;
        RecvError::Lagged(Lag { channel: subscriber.channel().cloned(), pattern: subscriber.pattern().cloned(), count })
    }

    /// What to wait for; `None` if the next wait does not.
    pub(crate) fn poll_ready(&mut self) -> Result<Option<Pending>, ConnectError> {
        if self.deferred.is_some() {
            return Ok(None);
        }
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::System);
        let deferred = match waiter.poll_once(|| receive(subscriber, path, false)) {
            Ok(Polled::Pending(pending)) => return Ok(Some(pending)),
            Ok(Polled::Done(Event::Frame)) => Deferred::Message,
            Ok(Polled::Done(Event::Lagged(count))) => Deferred::Error(self.lagged(count)),
            Ok(Polled::Closed) => Deferred::Error(RecvError::Closed),
            Err(error) => Deferred::Error(RecvError::Connect(error)),
        };
        self.deferred = Some(deferred);
        Ok(None)
    }

    /// The message that was found, until the next wait.
    #[inline]
    pub(crate) fn message_ref(&self) -> Result<MessageRef<'_>, RecvError> {
        MessageRef::new(&self.subscriber).ok_or(RecvError::Empty)
    }

    pub(crate) fn message(&self) -> Result<Message, RecvError> {
        self.message_ref().map(|message| message.to_message())
    }

    /// Waits for one message and appends it and those behind it that have arrived, `max` in total.
    pub(crate) fn recv_many(&mut self, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        self.wait(Until::Forever)?;
        self.take_many(messages, max)
    }

    fn take_many(&mut self, messages: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        messages.push(self.message()?);
        let mut count = 1;
        while count < max {
            match self.wait(Until::Now) {
                Ok(()) => messages.push(self.message()?),
                Err(RecvError::Empty | RecvError::Connecting) => break,
                Err(error) => {
                    self.deferred = Some(Deferred::Error(error));
                    break;
                }
            }
            count += 1;
        }
        Ok(count)
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn recv_many_async(
        &mut self,
        messages: &mut Vec<Message>,
        max: usize,
    ) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        std::future::poll_fn(|cx| self.poll_wait(cx)).await?;
        self.take_many(messages, max)
    }

    #[cfg(feature = "tokio")]
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        match self.deferred.take() {
            Some(Deferred::Message) => return Poll::Ready(Ok(())),
            Some(Deferred::Error(error)) => return Poll::Ready(Err(error)),
            None => {}
        }
        let Self { subscriber, path, waiter, .. } = self;
        path.set_clock(Clock::Runtime);
        let waited = ready!(waiter.poll_on(cx, Until::Forever, || receive(subscriber, path, false)))?;
        Poll::Ready(self.outcome(&waited, Until::Forever))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, RecvError>> {
        ready!(self.poll_wait(cx))?;
        Poll::Ready(self.message())
    }

    /// As an item of a stream or an iterator: closing ends it.
    pub(crate) fn item(received: Result<Message, RecvError>) -> Option<Result<Message, RecvError>> {
        match received {
            Err(RecvError::Closed) => None,
            received => Some(received),
        }
    }
}

/// A reply that a task waits for. When it is dropped after a part of the reply was written, the handle keeps the rest.
#[cfg(feature = "tokio")]
struct PendingReply<'a> {
    receiver: &'a mut Receiver,
    replying: Replying<'a>,
}

#[cfg(feature = "tokio")]
impl<'a> PendingReply<'a> {
    fn new(
        receiver: &'a mut Receiver,
        to: ReplyTo,
        metadata: &Metadata,
        payload: &'a [u8],
    ) -> Result<Self, ReplyError> {
        let replying = Replying::new(&receiver.subscriber, to.parts(), metadata.as_bytes(), payload)?;
        Ok(Self { receiver, replying })
    }

    fn poll(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<Waited<()>, ReplyError>> {
        let Self { receiver: Receiver { subscriber, path, waiter, .. }, replying } = self;
        waiter.poll_on(cx, until, || Ok(replying.poll(subscriber, path)?))
    }
}

#[cfg(feature = "tokio")]
impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        self.replying.leave(&mut self.receiver.subscriber);
    }
}

/// The messages of a handle, with gaps in their places.
#[cfg(feature = "tokio")]
pub(crate) struct Messages<'a>(pub(crate) &'a mut Receiver);

#[cfg(feature = "tokio")]
impl Stream for Messages<'_> {
    type Item = Result<Message, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(Receiver::item)
    }
}

/// The payloads of a handle.
#[cfg(feature = "tokio")]
pub(crate) struct Payloads<'a>(pub(crate) &'a mut Receiver);

#[cfg(feature = "tokio")]
impl Stream for Payloads<'_> {
    type Item = Vec<u8>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        loop {
            match ready!(self.0.poll_recv(cx)) {
                Ok(message) => return Poll::Ready(Some(message.into_payload().into())),
                Err(RecvError::Connect(_) | RecvError::Closed) => return Poll::Ready(None),
                Err(RecvError::Lagged(_) | RecvError::TimedOut { .. } | RecvError::Empty | RecvError::Connecting) => {}
            }
        }
    }
}
