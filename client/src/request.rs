//! Requests of a sender, and the replies as they arrive. It never decides who replies.

use crate::SenderId;
use crate::error::{RequestError, SendError};
use crate::machine::{self, First, OWN, Place, Publisher, Replied, Requested, Requesting};
use crate::metadata::{Metadata, MetadataRef};
use crate::path::{Clock, Until, Waited};
use crate::sender::{Sender, place_of};
use broadcaster_protocol::Run;
use broadcaster_protocol::meta::{self, REPLY_ADDRESS_BYTES};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    futures_core::Stream,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// One reply to a [request](Sender::request), owned.
///
/// The payload shares the buffer that it was received in if it is at least half of that buffer, and is copied otherwise.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    replier: SenderId,
    metadata: Bytes,
    payload: Bytes,
}

impl Reply {
    fn new(run: &Run) -> Option<Self> {
        let frame = run.front()?;
        let payload = match frame.payload.len() * 2 >= run.pinned_bytes() {
            true => run.bytes().slice_ref(frame.payload),
            false => Bytes::copy_from_slice(frame.payload),
        };
        let metadata = Bytes::copy_from_slice(frame.metadata.as_bytes());
        Some(Self { replier: frame.sender.into(), metadata, payload })
    }

    /// The payload; may be empty.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, without copying it.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// What the listener attached to the payload.
    pub fn metadata(&self) -> MetadataRef<'_> {
        MetadataRef::new(meta::MetadataRef::new(&self.metadata))
    }

    /// The listener: a number of its own for each of its connections. It distinguishes the listeners that reply to one request.
    pub fn replier(&self) -> SenderId {
        self.replier
    }

    /// The listener's process id, as the kernel reports it to the daemon; `None` where it does not.
    pub fn replier_pid(&self) -> Option<u32> {
        self.replier.pid()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("replier", &self.replier)
            .field("metadata", &self.metadata())
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// # Requests
///
/// A request is a message whose sender waits for replies of its listeners, which reach no other client.
impl Sender {
    /// Sends `payload` to every listener and requests replies, which the result yields as they arrive.
    ///
    /// Returns when the daemon has delivered the request to its listeners, without waiting for a reply. All of it, from the request to
    /// the last reply, takes at most `timeout`. Replies that arrive later, or after the result was dropped, are dropped and
    /// [counted](Self::late_replies). The request is an ordinary message otherwise: it has a sequence number, and listeners that know
    /// nothing of requests receive it.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoListeners`], at once, if no listener took the request. [`RequestError::Send`] if it was not sent.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::{Options, RequestError};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut sender = bus.sender("com.example.ping")?;
    /// let timeout = Duration::from_secs(5);
    /// assert!(matches!(sender.request(b"?", timeout), Err(RequestError::NoListeners)));
    ///
    /// for name in ["one", "two"] {
    ///     let mut listener = bus.listener("com.example.ping")?;
    ///     std::thread::spawn(move || {
    ///         let message = listener.recv().expect("a request");
    ///         listener.reply(&message, name.as_bytes()).expect("replied");
    ///     });
    /// }
    /// let mut names = Vec::new();
    /// for reply in sender.request(b"?", timeout)? {
    ///     names.push(reply?.into_payload());
    /// }
    /// names.sort();
    /// assert_eq!(names, ["one", "two"]); // both listeners have replied, so the loop has ended before the timeout
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request(&mut self, payload: &[u8], timeout: Duration) -> Result<Replies<'_>, RequestError> {
        self.request_with(&Metadata::new(), payload, timeout)
    }

    /// [`request`](Self::request) with metadata, which may have up to 15 bytes less than that of other messages.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); [`RequestError::Metadata`] if there is too much metadata.
    pub fn request_with(
        &mut self,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Replies<'_>, RequestError> {
        self.request_bytes(OWN, metadata, payload, timeout)
    }

    /// [`request`](Self::request) on another channel, over the same connection: see [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request) and [`send_to`](Self::send_to).
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let (mut listener, mut sender) = (bus.listener("com.example.ping")?, bus.sender("com.example.log")?);
    /// std::thread::spawn(move || {
    ///     let message = listener.recv().expect("a request");
    ///     listener.reply(&message, b"here").expect("replied");
    /// });
    /// let mut replies = sender.request_to("com.example.ping", b"?", Duration::from_secs(5))?;
    /// assert_eq!(replies.next().expect("a reply")?.payload(), b"here");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request_to(
        &mut self,
        channel: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Replies<'_>, RequestError> {
        self.request_to_with(channel, &Metadata::new(), payload, timeout)
    }

    /// [`request_to`](Self::request_to) with metadata, as in [`request_with`](Self::request_with).
    ///
    /// # Errors
    ///
    /// As [`request_to`](Self::request_to) and [`request_with`](Self::request_with).
    pub fn request_to_with(
        &mut self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Replies<'_>, RequestError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.request_bytes(place, metadata, payload, timeout)
    }

    fn request_bytes(
        &mut self,
        place: Place,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Replies<'_>, RequestError> {
        check_metadata(metadata)?;
        let (until, allowed) = (Until::after(timeout), timeout.min(self.path.config().timeout));
        let mut pending = Pending::begin(self, until);
        let mut requesting = Requesting::new(place, pending.progress.number, metadata.as_bytes(), payload);
        let Sender { publisher, path, waiter, .. } = &mut *pending.sender;
        path.set_clock(Clock::System);
        let waited = waiter.block_on_for(allowed, || requesting.poll::<_, RequestError>(publisher, path));
        let progress = (requesting.has_begun(), requesting.is_sent());
        requesting.leave(publisher);
        pending.progress.requested(waited?, progress, allowed)?;
        Ok(Replies(pending))
    }

    /// [`request`](Self::request) for the first reply. Further ones are dropped and [counted](Self::late_replies).
    ///
    /// This is faster than `request`, because the daemon reports together with the reply that it has delivered the request.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); [`RequestError::NoReply`] if none has arrived within `timeout`, for whatever reason, such as a daemon
    /// that does not answer: [`Options::timeout`](crate::Options::timeout) does not apply.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::{Options, RequestError};
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let (mut listener, mut sender) = (bus.listener("com.example.ping")?, bus.sender("com.example.ping")?);
    /// let nothing = sender.request_one(b"?", Duration::from_millis(10));
    /// assert!(matches!(nothing, Err(RequestError::NoReply { .. })));
    ///
    /// let message = listener.recv()?;
    /// listener.reply(&message, b"too late")?; // this is no error, and reaches no later request
    /// std::thread::spawn(move || {
    ///     let message = listener.recv().expect("a request");
    ///     listener.reply(&message, b"in time").expect("replied");
    /// });
    /// assert_eq!(sender.request_one(b"?", Duration::from_secs(5))?.payload(), b"in time");
    /// assert_eq!(sender.late_replies(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request_one(&mut self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        let pending = Pending::begin(self, Until::after(timeout));
        let mut requesting = Requesting::new(OWN, pending.progress.number, &[], payload);
        let Sender { publisher, path, waiter, .. } = &mut *pending.sender;
        path.set_clock(Clock::System);
        let waited =
            waiter.block_on(pending.progress.until, || requesting.poll_first::<_, RequestError>(publisher, path));
        let progress = (requesting.has_begun(), requesting.is_sent());
        requesting.leave(publisher);
        first_reply(waited?, progress, timeout)
    }

    /// [`request`](Self::request) without blocking the thread. The replies are a stream.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the message is either not sent at all, or begun, or sent. If it was begun, it is
    /// sent completely when [`flush`](Self::flush), or a later send, succeeds. Replies to it are dropped and counted.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn request_async(&mut self, payload: &[u8], timeout: Duration) -> Result<ReplyStream<'_>, RequestError> {
        self.request_with_async(&Metadata::new(), payload, timeout).await
    }

    /// [`request_with`](Self::request_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`request_with`](Self::request_with).
    ///
    /// # Cancel safety
    ///
    /// As [`request_async`](Self::request_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn request_with_async(
        &mut self,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<ReplyStream<'_>, RequestError> {
        self.request_bytes_async(OWN, metadata, payload, timeout).await
    }

    /// [`request_to`](Self::request_to) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`request_to`](Self::request_to).
    ///
    /// # Cancel safety
    ///
    /// As [`request_async`](Self::request_async). The channel may be open already, or be opened by then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn request_to_async(
        &mut self,
        channel: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<ReplyStream<'_>, RequestError> {
        self.request_to_with_async(channel, &Metadata::new(), payload, timeout).await
    }

    /// [`request_to_with`](Self::request_to_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`request_to_with`](Self::request_to_with).
    ///
    /// # Cancel safety
    ///
    /// As [`request_to_async`](Self::request_to_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn request_to_with_async(
        &mut self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<ReplyStream<'_>, RequestError> {
        let place = place_of(&mut self.publisher, channel)?;
        self.request_bytes_async(place, metadata, payload, timeout).await
    }

    #[cfg(feature = "tokio")]
    async fn request_bytes_async(
        &mut self,
        place: Place,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<ReplyStream<'_>, RequestError> {
        check_metadata(metadata)?;
        let (until, allowed) = (Until::after_by(Clock::Runtime, timeout), timeout.min(self.path.config().timeout));
        let sent_by = Until::after_by(Clock::Runtime, allowed);
        let mut pending = Pending::begin(self, until);
        let requesting = Requesting::new(place, pending.progress.number, metadata.as_bytes(), payload);
        pending.sender.path.set_clock(Clock::Runtime);
        let mut leaving = Leaving { sender: &mut *pending.sender, requesting };
        let waited = poll_fn(|cx| leaving.poll(cx, sent_by)).await;
        let progress = (leaving.requesting.has_begun(), leaving.requesting.is_sent());
        drop(leaving);
        pending.progress.requested(waited?, progress, allowed)?;
        Ok(ReplyStream(pending))
    }

    /// [`request_one`](Self::request_one) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`request_one`](Self::request_one).
    ///
    /// # Cancel safety
    ///
    /// As [`request_async`](Self::request_async).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn request_one_async(&mut self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        let until = Until::after_by(Clock::Runtime, timeout);
        let pending = Pending::begin(self, until);
        let requesting = Requesting::new(OWN, pending.progress.number, &[], payload);
        pending.sender.path.set_clock(Clock::Runtime);
        let mut leaving = Leaving { sender: &mut *pending.sender, requesting };
        let waited = poll_fn(|cx| leaving.poll_first(cx, until)).await;
        let progress = (leaving.requesting.has_begun(), leaving.requesting.is_sent());
        drop(leaving);
        first_reply(waited?, progress, timeout)
    }

    /// How many replies have arrived for requests that no longer awaited any: after their timeout, or after their replies were dropped.
    /// They are counted when they are read, which later requests and confirmations do.
    pub fn late_replies(&self) -> u64 {
        self.publisher.late_replies()
    }
}

pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), RequestError> {
    const ADDRESS: [u8; REPLY_ADDRESS_BYTES] = [0; REPLY_ADDRESS_BYTES];
    metadata.clone().reply_address(&ADDRESS)?;
    Ok(())
}

/// What became of a request for one reply, of which a part or all was written.
fn first_reply(waited: Waited<First>, (begun, sent): (bool, bool), after: Duration) -> Result<Reply, RequestError> {
    Err(match waited {
        Waited::Done(First::Reply(run)) => match Reply::new(&run) {
            Some(reply) => return Ok(reply),
            None => RequestError::NoReply { after },
        },
        Waited::Done(First::NoListeners) => RequestError::NoListeners,
        Waited::Done(First::NoDaemon) => RequestError::NoDaemon,
        Waited::Done(First::Declined(declined)) => RequestError::Send((*declined).into()),
        Waited::Done(First::Lost) => RequestError::ConnectionLost,
        Waited::Done(First::Dropped) => RequestError::NoReply { after },
        Waited::Elapsed | Waited::Closed if sent => RequestError::NoReply { after },
        Waited::Elapsed | Waited::Closed if begun => SendError::Unfinished { after }.into(),
        Waited::Elapsed | Waited::Closed => SendError::TimedOut { after }.into(),
    })
}

/// The replies to a request, as they arrive: a blocking iterator.
///
/// It ends when each listener that took the request has replied, or when the time is over. An error is its last item:
/// [`RequestError::ConnectionLost`] if the daemon is gone, whose successor knows nothing of the request. Dropping it ends the request: what
/// arrives later is dropped and [counted](Sender::late_replies).
///
/// A listener that loses the request later, ends, or never replies is waited for until the time is over. Several replies of one listener
/// are yielded as they arrive, until the last listener has replied.
#[derive(Debug)]
#[must_use = "the request ends when its replies are dropped"]
pub struct Replies<'a>(Pending<'a>);

impl Replies<'_> {
    /// How many listeners took the request.
    pub fn expected(&self) -> u32 {
        self.0.progress.expected
    }

    /// Whether each of them has replied. Otherwise the iterator has not ended yet, or the time is over.
    pub fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// How many replies the daemon has dropped because too many waited for this sender while the request awaited some: late replies to
    /// earlier requests included.
    pub fn lost(&self) -> u64 {
        self.0.lost()
    }
}

impl Iterator for Replies<'_> {
    type Item = Result<Reply, RequestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pending = &mut self.0;
        while !pending.is_over() {
            let Sender { publisher, path, waiter, .. } = &mut *pending.sender;
            let (number, lost) = (pending.progress.number, pending.progress.lost);
            path.set_clock(Clock::System);
            let step = || machine::next_reply::<_, RequestError>(publisher, path, number, lost);
            let waited = waiter.block_on(pending.progress.until, step);
            if let Some(item) = pending.received(waited) {
                return Some(item);
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Replies<'_> {}

/// The replies to a request, as they arrive: a stream. Everything else is as for [`Replies`].
///
/// # Cancel safety
///
/// If the future of its next item is dropped before it is ready, no reply is lost.
///
/// # Panics
///
/// When it is polled outside a tokio runtime with I/O and time enabled.
#[cfg(feature = "tokio")]
#[derive(Debug)]
#[must_use = "the request ends when its replies are dropped"]
pub struct ReplyStream<'a>(Pending<'a>);

#[cfg(feature = "tokio")]
impl ReplyStream<'_> {
    /// The next reply, as the stream yields it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no reply is lost.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener_async("com.example.ping").await?;
    /// let mut sender = bus.sender_async("com.example.ping").await?;
    /// let replier = tokio::spawn(async move {
    ///     let message = listener.recv_async().await.expect("a request");
    ///     listener.reply_async(&message, b"here").await
    /// });
    /// let mut replies = sender.request_async(b"?", Duration::from_secs(5)).await?;
    /// while let Some(reply) = replies.next().await {
    ///     assert_eq!(reply?.payload(), b"here");
    /// }
    /// assert!(replies.is_complete());
    /// replier.await??;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Reply, RequestError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// See [`Replies::expected`].
    pub fn expected(&self) -> u32 {
        self.0.progress.expected
    }

    /// See [`Replies::is_complete`].
    pub fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// See [`Replies::lost`].
    pub fn lost(&self) -> u64 {
        self.0.lost()
    }
}

#[cfg(feature = "tokio")]
impl Stream for ReplyStream<'_> {
    type Item = Result<Reply, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let pending = &mut self.0;
        while !pending.is_over() {
            let Sender { publisher, path, waiter, .. } = &mut *pending.sender;
            let (number, lost) = (pending.progress.number, pending.progress.lost);
            path.set_clock(Clock::Runtime);
            let step = || machine::next_reply::<_, RequestError>(publisher, path, number, lost);
            let waited = ready!(waiter.poll_on(cx, pending.progress.until, step));
            if let Some(item) = pending.received(waited) {
                return Poll::Ready(Some(item));
            }
        }
        Poll::Ready(None)
    }
}

/// A request of a sender. When it is dropped, its replies are no longer wanted.
#[derive(Debug)]
struct Pending<'a> {
    sender: &'a mut Sender,
    progress: Progress,
}

impl<'a> Pending<'a> {
    fn begin(sender: &'a mut Sender, until: Until) -> Self {
        let progress = Progress::begin(&mut sender.publisher, until);
        Self { sender, progress }
    }

    fn lost(&self) -> u64 {
        self.sender.publisher.lost_replies(self.progress.number)
    }

    fn is_complete(&self) -> bool {
        self.progress.is_complete(self.lost())
    }

    fn is_over(&self) -> bool {
        self.progress.is_over(self.lost())
    }

    fn received(&mut self, waited: Result<Waited<Replied>, RequestError>) -> Option<Result<Reply, RequestError>> {
        let lost = self.lost();
        self.progress.received(waited, lost)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.sender.publisher.forget_request(self.progress.number);
    }
}

/// How far a request is.
#[derive(Debug)]
pub(crate) struct Progress {
    number: u64,
    until: Until,
    expected: u32,
    repliers: BTreeSet<SenderId>,
    /// How many replies were lost when that was looked at last.
    lost: u64,
    /// No further replies will arrive, or are wanted.
    is_over: bool,
}

impl Progress {
    /// The request awaits replies until it is forgotten.
    pub(crate) fn begin(publisher: &mut Publisher, until: Until) -> Self {
        let number = crate::random(); // also unlike those of other senders: a stray reply must not be taken for one to this request
        publisher.begin_request(number);
        Self { number, until, expected: 0, repliers: BTreeSet::new(), lost: 0, is_over: false }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn until(&self) -> Until {
        self.until
    }

    /// How many listeners took the request.
    pub(crate) fn expected(&self) -> u32 {
        self.expected
    }

    /// How many replies were lost when that was looked at last.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// What became of the message, of which a part or all was written within the time `allowed`.
    pub(crate) fn requested(
        &mut self,
        waited: Waited<Requested>,
        (begun, sent): (bool, bool),
        after: Duration,
    ) -> Result<(), RequestError> {
        Err(match waited {
            Waited::Done(Requested::Taken(0)) => RequestError::NoListeners,
            Waited::Done(Requested::Taken(listeners)) => {
                self.expected = listeners;
                return Ok(());
            }
            Waited::Done(Requested::NoDaemon) => RequestError::NoDaemon,
            Waited::Done(Requested::Declined(declined)) => RequestError::Send((*declined).into()),
            Waited::Done(Requested::Lost) => RequestError::ConnectionLost,
            Waited::Elapsed | Waited::Closed if sent => SendError::Unconfirmed { after }.into(),
            Waited::Elapsed | Waited::Closed if begun => SendError::Unfinished { after }.into(),
            Waited::Elapsed | Waited::Closed => SendError::TimedOut { after }.into(),
        })
    }

    /// The next item; without one, it is over, or replies were lost: so many in total.
    pub(crate) fn received(
        &mut self,
        waited: Result<Waited<Replied>, RequestError>,
        lost: u64,
    ) -> Option<Result<Reply, RequestError>> {
        let error = match waited {
            Ok(Waited::Done(Replied::Reply(run))) => {
                let reply = Reply::new(&run)?;
                self.repliers.insert(reply.replier);
                return Some(Ok(reply));
            }
            Ok(Waited::Done(Replied::Lagged)) => {
                self.lost = lost;
                return None;
            }
            Ok(Waited::Done(Replied::Lost)) => Some(Err(RequestError::ConnectionLost)),
            Ok(Waited::Elapsed | Waited::Closed) => None,
            Err(error) => Some(Err(error)),
        };
        self.is_over = true;
        error
    }

    /// A reply that was lost does not arrive any more, so that its listener counts as one that has replied.
    pub(crate) fn is_complete(&self, lost: u64) -> bool {
        self.repliers.len() as u64 + lost >= u64::from(self.expected)
    }

    pub(crate) fn is_over(&self, lost: u64) -> bool {
        self.is_over || self.is_complete(lost)
    }
}

/// A request that a task waits for. When it is dropped after a part of the message was written, the sender keeps the rest.
#[cfg(feature = "tokio")]
struct Leaving<'a> {
    sender: &'a mut Sender,
    requesting: Requesting<'a>,
}

#[cfg(feature = "tokio")]
impl Leaving<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<Waited<Requested>, RequestError>> {
        let Self { sender: Sender { publisher, path, waiter, .. }, requesting } = self;
        waiter.poll_on(cx, until, || requesting.poll::<_, RequestError>(publisher, path))
    }

    fn poll_first(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<Waited<First>, RequestError>> {
        let Self { sender: Sender { publisher, path, waiter, .. }, requesting } = self;
        waiter.poll_on(cx, until, || requesting.poll_first::<_, RequestError>(publisher, path))
    }
}

#[cfg(feature = "tokio")]
impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.requesting.leave(&mut self.sender.publisher);
    }
}
