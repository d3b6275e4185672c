//! The listening handle for values. It decodes, and leaves everything else to the listener underneath.

use super::codec::Codec;
use super::error::TypedRecvError;
use super::schema::Schema;
use crate::{ChannelName, ConnectError, Listener, Message, MetadataRef, Options, RecvError, SenderId};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};
#[cfg(feature = "tokio")]
use {
    crate::receiver::Receiver,
    futures_core::Stream,
    std::pin::Pin,
    std::task::{Context, Poll, ready},
};

/// Receives values of one type: a [`Listener`] with a [`Codec`].
///
/// A message of another type is an error in its place, which names both types; the next receive continues with the message behind it. See
/// [the module](super) for an example, and [`Listener`] for delivery, lag and reconnection. What has no counterpart here is reached through
/// [`listener`](Self::listener) and [`listener_mut`](Self::listener_mut).
///
/// A value that the daemon [retains](crate::Sender::retain) comes first. An empty message that [clears](crate::Message::is_cleared) it carries no
/// value, and is skipped: only [`listener_mut`](Self::listener_mut) receives it.
#[must_use = "a listener that is dropped receives nothing"]
pub struct TypedListener<T, C> {
    listener: Listener,
    types: PhantomData<fn() -> (T, C)>,
}

impl<T: Schema + DeserializeOwned, C: Codec> TypedListener<T, C> {
    /// A typed handle that owns `listener`, for example one on several channels.
    ///
    /// ```
    /// # #[cfg(all(feature = "json", feature = "testing"))] {
    /// use system_broadcaster::Selector;
    /// use system_broadcaster::testing::Bus;
    /// use system_broadcaster::typed::{Json, TypedListener};
    ///
    /// let bus = Bus::new();
    /// let listener = bus.options().listener_on([Selector::pattern("com.example.*")?])?;
    /// let mut numbers = TypedListener::<u32, Json>::new(listener);
    /// bus.options().typed_sender::<u32, Json>("com.example.number")?.send(&7)?;
    /// let message = numbers.recv()?;
    /// assert_eq!((message.channel().as_str(), message.value()), ("com.example.number", &7));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(listener: Listener) -> Self {
        Self { listener, types: PhantomData }
    }

    /// Waits for the next value. While a daemon is available, this can wait indefinitely.
    ///
    /// # Errors
    ///
    /// [`TypedRecvError::Mismatch`] and [`TypedRecvError::Invalid`] for a message that is not such a value; [`TypedRecvError::Recv`] as for
    /// [`Listener::recv`]. Receive again to continue.
    pub fn recv(&mut self) -> Result<TypedMessage<T>, TypedRecvError> {
        loop {
            if let Some(received) = typed::<T, C>(self.listener.recv()) {
                return received;
            }
        }
    }

    /// Waits for the next value for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if none arrived; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<TypedMessage<T>, TypedRecvError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut left = timeout;
        loop {
            match typed::<T, C>(self.listener.recv_timeout(left)) {
                Some(Err(TypedRecvError::Recv(RecvError::TimedOut { .. }))) => {
                    return Err(RecvError::TimedOut { after: timeout }.into());
                }
                Some(received) => return received,
                None => {
                    left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
                }
            }
        }
    }

    /// The next value, if it has arrived. Does not wait, except for about a millisecond while a handshake is under way.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] if no message has arrived; [`RecvError::Connecting`] if there is no connection yet; otherwise as
    /// [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<TypedMessage<T>, TypedRecvError> {
        loop {
            if let Some(received) = typed::<T, C>(self.listener.try_recv()) {
                return received;
            }
        }
    }

    /// Waits for the next value without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no message is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn recv_async(&mut self) -> Result<TypedMessage<T>, TypedRecvError> {
        loop {
            if let Some(received) = typed::<T, C>(self.listener.recv_async().await) {
                return received;
            }
        }
    }

    /// The values as a blocking iterator, with gaps and errors in their places. Only a [`Closer`](crate::Closer) ends it.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<TypedMessage<T>, TypedRecvError>> + '_ {
        std::iter::from_fn(|| match self.recv() {
            Err(TypedRecvError::Recv(RecvError::Closed)) => None,
            received => Some(received),
        })
    }

    /// The values as a stream, with gaps and errors in their places. Only a [`Closer`](crate::Closer) ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream loses no message.
    ///
    /// # Panics
    ///
    /// When it is polled outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub fn messages(&mut self) -> impl Stream<Item = Result<TypedMessage<T>, TypedRecvError>> + Send + Unpin + '_ {
        Messages(self)
    }

    /// The listener as a stream that owns it, for tasks and for combinators that need `'static`.
    #[cfg(feature = "tokio")]
    pub fn into_stream(self) -> TypedListenerStream<T, C> {
        TypedListenerStream { listener: self }
    }

    #[cfg(feature = "tokio")]
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<TypedMessage<T>, TypedRecvError>>> {
        loop {
            let Some(received) = ready!(self.listener.receiver().poll_recv(cx).map(Receiver::item)) else {
                return Poll::Ready(None);
            };
            if let Some(received) = typed::<T, C>(received) {
                return Poll::Ready(Some(received));
            }
        }
    }
}

/// `None` for a message without a value.
fn typed<T, C>(received: Result<Message, RecvError>) -> Option<Result<TypedMessage<T>, TypedRecvError>>
where
    T: Schema + DeserializeOwned,
    C: Codec,
{
    let message = match received {
        Ok(message) if message.is_cleared() => return None,
        Ok(message) => message,
        Err(error) => return Some(Err(error.into())),
    };
    Some(match message.decode::<T, C>() {
        Ok(value) => Ok(TypedMessage { value, message }),
        Err(error) => Err(TypedRecvError::new(error, message)),
    })
}

impl<T, C> TypedListener<T, C> {
    /// The listener underneath.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The listener underneath. What it receives itself is not decoded.
    pub fn listener_mut(&mut self) -> &mut Listener {
        &mut self.listener
    }

    /// The listener without its type. No message is lost.
    pub fn into_inner(self) -> Listener {
        self.listener
    }
}

impl<T, C> fmt::Debug for TypedListener<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedListener").field(&self.listener).finish()
    }
}

/// The descriptor of the listener underneath.
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl<T, C> std::os::fd::AsFd for TypedListener<T, C> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A value, and the message that carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedMessage<T> {
    value: T,
    message: Message,
}

impl<T> TypedMessage<T> {
    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value, without the message.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The message as it was received, with the encoded value as its payload.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The value and the message.
    pub fn into_parts(self) -> (T, Message) {
        (self.value, self.message)
    }

    /// See [`Message::channel`].
    pub fn channel(&self) -> &ChannelName {
        self.message.channel()
    }

    /// See [`Message::sender`].
    pub fn sender(&self) -> SenderId {
        self.message.sender()
    }

    /// See [`Message::sender_pid`].
    pub fn sender_pid(&self) -> Option<u32> {
        self.message.sender_pid()
    }

    /// See [`Message::sequence`].
    pub fn sequence(&self) -> u64 {
        self.message.sequence()
    }

    /// See [`Message::is_replayed`].
    pub fn is_replayed(&self) -> bool {
        self.message.is_replayed()
    }

    /// See [`Message::metadata`]. It includes the mark of the type.
    pub fn metadata(&self) -> MetadataRef<'_> {
        self.message.metadata()
    }
}

#[cfg(feature = "tokio")]
struct Messages<'a, T, C>(&'a mut TypedListener<T, C>);

#[cfg(feature = "tokio")]
impl<T: Schema + DeserializeOwned, C: Codec> Stream for Messages<'_, T, C> {
    type Item = Result<TypedMessage<T>, TypedRecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(cx)
    }
}

/// The values of a [`TypedListener`] as a stream that owns it, with gaps and errors in their places. Only a [`Closer`](crate::Closer) ends
/// it.
///
/// # Panics
///
/// When it is polled outside a tokio runtime with I/O and time enabled.
#[cfg(feature = "tokio")]
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct TypedListenerStream<T, C> {
    listener: TypedListener<T, C>,
}

#[cfg(feature = "tokio")]
impl<T, C> TypedListenerStream<T, C> {
    /// The listener. No message is lost.
    pub fn into_inner(self) -> TypedListener<T, C> {
        self.listener
    }
}

#[cfg(feature = "tokio")]
impl<T: Schema + DeserializeOwned, C: Codec> Stream for TypedListenerStream<T, C> {
    type Item = Result<TypedMessage<T>, TypedRecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_next(cx)
    }
}

impl Options {
    /// A connected listener for values on `channel`: see [`typed`](crate::typed).
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the timeout.
    pub fn typed_listener<T, C>(&self, channel: &str) -> Result<TypedListener<T, C>, ConnectError>
    where
        T: Schema + DeserializeOwned,
        C: Codec,
    {
        self.listener(channel).map(TypedListener::new)
    }

    /// [`typed_listener`](Self::typed_listener) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`typed_listener`](Self::typed_listener).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn typed_listener_async<T, C>(&self, channel: &str) -> Result<TypedListener<T, C>, ConnectError>
    where
        T: Schema + DeserializeOwned,
        C: Codec,
    {
        self.listener_async(channel).await.map(TypedListener::new)
    }
}
