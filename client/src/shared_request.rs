//! Requests of a shared sender, and the replies as they arrive. It never decides who replies.

use crate::error::RequestError;
use crate::machine::{self, OWN, Place, Publisher, Requested, Requesting, Step};
use crate::metadata::Metadata;
use crate::path::{Clock, Path, Until, Wait};
use crate::request::{Progress, Reply, check_metadata};
use crate::shared_sender::SharedSender;
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    crate::shared_sender::Turn,
    futures_core::Stream,
    std::future::poll_fn,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// # Requests
///
/// Any number of requests may await replies at the same time, and each receives its own: see [`Sender::request`](crate::Sender::request).
impl SharedSender {
    /// [`Sender::request`](crate::Sender::request). The replies keep a clone of the sender.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// use std::time::Duration;
    /// use system_broadcaster::Options;
    ///
    /// let directory = tempfile::tempdir()?; // a bus of its own, for this example
    /// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
    /// let mut listener = bus.listener("com.example.double")?;
    /// std::thread::spawn(move || {
    ///     while let Ok(message) = listener.recv() {
    ///         listener.reply(&message, &[2 * message.payload()[0]]).expect("replied");
    ///     }
    /// });
    /// let sender = bus.sender("com.example.double")?.into_shared();
    /// let timeout = Duration::from_secs(5);
    /// let threads = [3, 4].map(|number| {
    ///     let sender = sender.clone();
    ///     std::thread::spawn(move || sender.request_one(&[number], timeout))
    /// });
    /// for (thread, double) in threads.into_iter().zip([6, 8]) {
    ///     assert_eq!(thread.join().expect("it does not panic")?.payload(), [double]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request(&self, payload: &[u8], timeout: Duration) -> Result<SharedReplies, RequestError> {
        self.request_bytes(OWN, &Metadata::new(), payload, timeout)
    }

    /// [`Sender::request_with`](crate::Sender::request_with).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request_with(
        &self,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplies, RequestError> {
        self.request_bytes(OWN, metadata, payload, timeout)
    }

    /// [`Sender::request_to`](crate::Sender::request_to).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request_to(&self, channel: &str, payload: &[u8], timeout: Duration) -> Result<SharedReplies, RequestError> {
        self.request_bytes(self.0.place_of(channel)?, &Metadata::new(), payload, timeout)
    }

    /// [`Sender::request_to_with`](crate::Sender::request_to_with).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request_to_with(
        &self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplies, RequestError> {
        self.request_bytes(self.0.place_of(channel)?, metadata, payload, timeout)
    }

    /// [`Sender::request_one`](crate::Sender::request_one), in the time of [`request`](Self::request) with one reply: the daemon reports
    /// first that it has delivered the request, for which [`Options::timeout`](crate::Options::timeout) applies.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request_one(&self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        self.request(payload, timeout)?.next().unwrap_or(Err(RequestError::NoReply { after: timeout }))
    }

    fn request_bytes(
        &self,
        place: Place,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplies, RequestError> {
        check_metadata(metadata)?;
        let (until, allowed) = (Until::after(timeout), timeout.min(self.0.answer_timeout));
        let mut pending = Pending::begin(self, until);
        let mut wanted = WantedRequest::new(&pending, place, metadata, payload);
        let step = |publisher: &mut Publisher, path: &mut Path| wanted.poll(publisher, path);
        let waited = self.0.block(allowed, step);
        let written = wanted.written();
        drop(wanted);
        pending.progress.requested(waited?, written, allowed)?;
        Ok(SharedReplies(pending))
    }

    /// [`Sender::late_replies`](crate::Sender::late_replies).
    pub fn late_replies(&self) -> u64 {
        self.0.lock().sender.publisher.late_replies()
    }
}

#[cfg(feature = "tokio")]
impl SharedSender {
    /// [`Sender::request_async`](crate::Sender::request_async). The replies keep a clone of the sender.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn request_async(&self, payload: &[u8], timeout: Duration) -> Result<SharedReplyStream, RequestError> {
        self.request_bytes_async(OWN, &Metadata::new(), payload, timeout).await
    }

    /// [`Sender::request_with_async`](crate::Sender::request_with_async).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn request_with_async(
        &self,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplyStream, RequestError> {
        self.request_bytes_async(OWN, metadata, payload, timeout).await
    }

    /// [`Sender::request_to_async`](crate::Sender::request_to_async).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn request_to_async(
        &self,
        channel: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplyStream, RequestError> {
        self.request_bytes_async(self.0.place_of(channel)?, &Metadata::new(), payload, timeout).await
    }

    /// [`Sender::request_to_with_async`](crate::Sender::request_to_with_async).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn request_to_with_async(
        &self,
        channel: &str,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplyStream, RequestError> {
        self.request_bytes_async(self.0.place_of(channel)?, metadata, payload, timeout).await
    }

    /// [`Sender::request_one_async`](crate::Sender::request_one_async).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn request_one_async(&self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        let mut replies = self.request_async(payload, timeout).await?;
        replies.next().await.unwrap_or(Err(RequestError::NoReply { after: timeout }))
    }

    async fn request_bytes_async(
        &self,
        place: Place,
        metadata: &Metadata,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<SharedReplyStream, RequestError> {
        check_metadata(metadata)?;
        let (until, allowed) = (Until::after_by(Clock::Runtime, timeout), timeout.min(self.0.answer_timeout));
        let mut pending = Pending::begin(self, until);
        let mut wanted = WantedRequest::new(&pending, place, metadata, payload);
        let step = |publisher: &mut Publisher, path: &mut Path| wanted.poll(publisher, path);
        let waited = self.0.run(allowed, step).await;
        let written = wanted.written();
        drop(wanted);
        pending.progress.requested(waited?, written, allowed)?;
        let turn = self.0.turn();
        Ok(SharedReplyStream { pending, turn })
    }
}

/// The replies to a request of a [`SharedSender`], as they arrive: a blocking iterator, as [`Replies`](crate::Replies) is.
#[derive(Debug)]
#[must_use = "the request ends when its replies are dropped"]
pub struct SharedReplies(Pending);

impl SharedReplies {
    /// See [`Replies::expected`](crate::Replies::expected).
    pub fn expected(&self) -> u32 {
        self.0.progress.expected()
    }

    /// See [`Replies::is_complete`](crate::Replies::is_complete).
    pub fn is_complete(&self) -> bool {
        self.0.progress.is_complete(self.0.lost())
    }

    /// See [`Replies::lost`](crate::Replies::lost).
    pub fn lost(&self) -> u64 {
        self.0.lost()
    }
}

impl Iterator for SharedReplies {
    type Item = Result<Reply, RequestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Pending { sender, progress } = &mut self.0;
        while !progress.is_over(lost(sender, progress)) {
            let (number, lost_before) = (progress.number(), progress.lost());
            let waited = sender.0.block(progress.until().left(Clock::System), |publisher, path| {
                machine::next_reply::<_, RequestError>(publisher, path, number, lost_before)
            });
            if let Some(item) = progress.received(waited, lost(sender, progress)) {
                return Some(item);
            }
        }
        None
    }
}

impl std::iter::FusedIterator for SharedReplies {}

/// The replies to a request of a [`SharedSender`], as they arrive: a stream, as [`ReplyStream`](crate::ReplyStream) is.
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
pub struct SharedReplyStream {
    pending: Pending,
    turn: Turn,
}

#[cfg(feature = "tokio")]
impl SharedReplyStream {
    /// The next reply, as the stream yields it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no reply is lost.
    pub async fn next(&mut self) -> Option<Result<Reply, RequestError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// See [`Replies::expected`](crate::Replies::expected).
    pub fn expected(&self) -> u32 {
        self.pending.progress.expected()
    }

    /// See [`Replies::is_complete`](crate::Replies::is_complete).
    pub fn is_complete(&self) -> bool {
        self.pending.progress.is_complete(self.pending.lost())
    }

    /// See [`Replies::lost`](crate::Replies::lost).
    pub fn lost(&self) -> u64 {
        self.pending.lost()
    }
}

#[cfg(feature = "tokio")]
impl Stream for SharedReplyStream {
    type Item = Result<Reply, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { pending: Pending { sender, progress }, turn } = &mut *self;
        while !progress.is_over(lost(sender, progress)) {
            let (number, lost_before) = (progress.number(), progress.lost());
            let waited = ready!(sender.0.poll(cx, progress.until(), turn, |publisher, path| {
                machine::next_reply::<_, RequestError>(publisher, path, number, lost_before)
            }));
            if let Some(item) = progress.received(waited, lost(sender, progress)) {
                return Poll::Ready(Some(item));
            }
        }
        Poll::Ready(None)
    }
}

/// A request of a shared sender. When it is dropped, its replies are no longer wanted.
#[derive(Debug)]
struct Pending {
    sender: SharedSender,
    progress: Progress,
}

impl Pending {
    fn begin(sender: &SharedSender, until: Until) -> Self {
        let progress = Progress::begin(&mut sender.0.lock().sender.publisher, until);
        Self { sender: sender.clone(), progress }
    }

    fn lost(&self) -> u64 {
        lost(&self.sender, &self.progress)
    }
}

fn lost(sender: &SharedSender, progress: &Progress) -> u64 {
    sender.0.lock().sender.publisher.lost_replies(progress.number())
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.sender.0.lock().sender.publisher.forget_request(self.progress.number());
    }
}

/// A request that a call sends. What was begun is the publisher's before another call has its turn.
struct WantedRequest<'a> {
    sender: SharedSender,
    requesting: Requesting<'a>,
}

impl<'a> WantedRequest<'a> {
    fn new(pending: &Pending, place: Place, metadata: &'a Metadata, payload: &'a [u8]) -> Self {
        let requesting = Requesting::new(place, pending.progress.number(), metadata.as_bytes(), payload);
        Self { sender: pending.sender.clone(), requesting }
    }

    fn poll(&mut self, publisher: &mut Publisher, path: &mut Path) -> Result<Step<Requested, Wait>, RequestError> {
        let step = self.requesting.poll(publisher, path);
        if matches!(step, Ok(Step::Wait(_))) {
            self.requesting.pass_on(publisher);
        }
        step
    }

    /// Whether a part of the message was written, and all of it.
    fn written(&self) -> (bool, bool) {
        (self.requesting.has_begun(), self.requesting.is_sent())
    }
}

impl Drop for WantedRequest<'_> {
    fn drop(&mut self) {
        self.requesting.leave(&mut self.sender.0.lock().sender.publisher);
    }
}
