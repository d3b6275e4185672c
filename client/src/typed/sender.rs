//! The sending handle for values. It encodes, and leaves everything else to the sender underneath.

use super::codec::Codec;
use super::error::TypedSendError;
use super::schema::{Schema, mark, metadata};
use crate::{ConnectError, Metadata, Options, Receipt, Sender};
use serde::Serialize;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A buffer that is larger is released after the message.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;

/// Sends values of one type: a [`Sender`] with a [`Codec`].
///
/// Each message carries the mark of its type; see [the module](super) for an example, and [`Sender`] for what a send means. What has no
/// counterpart here is reached through [`sender`](Self::sender) and [`sender_mut`](Self::sender_mut): confirmation and flushing, for example.
pub struct TypedSender<T, C> {
    sender: Sender,
    metadata: Metadata,
    payload: Vec<u8>,
    types: PhantomData<fn(&T) -> C>,
}

impl<T: Schema + Serialize, C: Codec> TypedSender<T, C> {
    /// A typed handle that owns `sender`.
    pub fn new(sender: Sender) -> Self {
        Self { sender, metadata: metadata::<T, C>(), payload: Vec::new(), types: PhantomData }
    }

    /// Sends `value`, in one write, and waits until the daemon's socket has taken it.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`] if the codec cannot represent the value; [`TypedSendError::Send`] as for [`Sender::send`].
    pub fn send(&mut self, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        Ok(self.sender.send_with(&self.metadata, &self.payload)?)
    }

    /// Sends `value` with `metadata`. The mark of the type is added, and precedes a schema that `metadata` has.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Metadata`] if metadata and mark have more than 4096 bytes; otherwise as [`send`](Self::send).
    pub fn send_with(&mut self, metadata: &Metadata, value: &T) -> Result<(), TypedSendError> {
        let metadata = self.metadata.clone().followed_by(metadata)?;
        self.encode(value)?;
        Ok(self.sender.send_with(&metadata, &self.payload)?)
    }

    /// Sends `value` on another channel: see [`Sender::send_to`].
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`] if the codec cannot represent the value; [`TypedSendError::Send`] as for [`Sender::send_to`].
    pub fn send_to(&mut self, channel: &str, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        Ok(self.sender.send_to_with(channel, &self.metadata, &self.payload)?)
    }

    /// Sends `value` if the daemon's socket takes it at once.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`] if the codec cannot represent the value; [`TypedSendError::Send`] as for [`Sender::try_send`].
    pub fn try_send(&mut self, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        Ok(self.sender.try_send_with(&self.metadata, &self.payload)?)
    }

    /// Sends `value`, and lets the daemon retain it for listeners that join later: see [`Sender::retain`]. [`Sender::clear_retained`] of
    /// [`sender_mut`](Self::sender_mut) clears it.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`] if the codec cannot represent the value; [`TypedSendError::Empty`] if its encoding is empty, which would
    /// clear the channel; [`TypedSendError::Send`] as for [`Sender::retain`].
    ///
    /// ```
    /// # #[cfg(all(feature = "json", feature = "testing"))] {
    /// use system_broadcaster::testing::Bus;
    /// use system_broadcaster::typed::Json;
    ///
    /// let bus = Bus::new();
    /// bus.options().typed_sender::<u32, Json>("com.example.volume")?.retain(&70)?;
    /// let mut late = bus.options().typed_listener::<u32, Json>("com.example.volume")?;
    /// let message = late.recv()?;
    /// assert_eq!((message.value(), message.is_replayed()), (&70, true));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain(&mut self, value: &T) -> Result<Receipt, TypedSendError> {
        self.encode_to_retain(value)?;
        Ok(self.sender.retain_with(&self.metadata, &self.payload, None)?)
    }

    /// [`retain`](Self::retain) for at most `lifetime` from now: see [`Sender::retain_for`].
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    pub fn retain_for(&mut self, value: &T, lifetime: Duration) -> Result<Receipt, TypedSendError> {
        self.encode_to_retain(value)?;
        Ok(self.sender.retain_with(&self.metadata, &self.payload, Some(lifetime))?)
    }

    /// [`retain`](Self::retain) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_confirmed_async`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_async(&mut self, value: &T) -> Result<Receipt, TypedSendError> {
        self.encode_to_retain(value)?;
        Ok(self.sender.retain_with_async(&self.metadata, &self.payload, None).await?)
    }

    /// [`retain_for`](Self::retain_for) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`retain_for`](Self::retain_for).
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_confirmed_async`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn retain_for_async(&mut self, value: &T, lifetime: Duration) -> Result<Receipt, TypedSendError> {
        self.encode_to_retain(value)?;
        Ok(self.sender.retain_with_async(&self.metadata, &self.payload, Some(lifetime)).await?)
    }

    fn encode_to_retain(&mut self, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        if self.payload.is_empty() { Err(TypedSendError::Empty { schema: mark::<T, C>() }) } else { Ok(()) }
    }

    /// Sends `value` without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_async`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_async(&mut self, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        Ok(self.sender.send_with_async(&self.metadata, &self.payload).await?)
    }

    /// [`send_with`](Self::send_with) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send_with`](Self::send_with).
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_async`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_with_async(&mut self, metadata: &Metadata, value: &T) -> Result<(), TypedSendError> {
        let metadata = self.metadata.clone().followed_by(metadata)?;
        self.encode(value)?;
        Ok(self.sender.send_with_async(&metadata, &self.payload).await?)
    }

    /// [`send_to`](Self::send_to) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_to_async`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn send_to_async(&mut self, channel: &str, value: &T) -> Result<(), TypedSendError> {
        self.encode(value)?;
        Ok(self.sender.send_to_with_async(channel, &self.metadata, &self.payload).await?)
    }

    fn encode(&mut self, value: &T) -> Result<(), TypedSendError> {
        self.payload.clear();
        self.payload.shrink_to(BUFFER_BYTES_KEPT);
        encode_into::<T, C>(value, &mut self.payload)
    }
}

fn encode_into<T: Schema + Serialize, C: Codec>(value: &T, payload: &mut Vec<u8>) -> Result<(), TypedSendError> {
    C::encode(value, payload).map_err(|source| TypedSendError::Encode { schema: mark::<T, C>(), source })
}

/// The metadata and the payload of a message that carries `value`, to send with a handle that is not typed.
/// [`Message::decode`](crate::Message::decode) is its counterpart.
///
/// # Errors
///
/// [`TypedSendError::Encode`] if the codec cannot represent the value.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use system_broadcaster::typed::{Json, encode};
///
/// let (metadata, payload) = encode::<u32, Json>(&7)?;
/// assert_eq!((metadata.as_ref().schema(), &payload[..]), (Some(&b"json:u32"[..]), &b"7"[..]));
/// # }
/// # Ok::<(), system_broadcaster::typed::TypedSendError>(())
/// ```
pub fn encode<T: Schema + Serialize, C: Codec>(value: &T) -> Result<(Metadata, Vec<u8>), TypedSendError> {
    let mut payload = Vec::new();
    encode_into::<T, C>(value, &mut payload)?;
    Ok((metadata::<T, C>(), payload))
}

impl<T, C> TypedSender<T, C> {
    /// The sender underneath.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The sender underneath, for what concerns bytes: [`flush`](Sender::flush), [`confirm`](Sender::confirm). What it sends itself has no
    /// mark.
    pub fn sender_mut(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The sender without its type.
    pub fn into_inner(self) -> Sender {
        self.sender
    }
}

impl<T, C> fmt::Debug for TypedSender<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender, metadata, .. } = self;
        f.debug_struct("TypedSender").field("sender", sender).field("metadata", metadata).finish_non_exhaustive()
    }
}

/// The descriptor of the sender underneath.
///
/// # Panics
///
/// The first call, if this process or the system is out of descriptors.
#[cfg(unix)]
impl<T, C> std::os::fd::AsFd for TypedSender<T, C> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.sender.as_fd()
    }
}

impl Options {
    /// A connected sender of values on `channel`: see [`typed`](crate::typed).
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the name is not allowed, or there is no connection within the timeout.
    pub fn typed_sender<T, C>(&self, channel: &str) -> Result<TypedSender<T, C>, ConnectError>
    where
        T: Schema + Serialize,
        C: Codec,
    {
        self.sender(channel).map(TypedSender::new)
    }

    /// [`typed_sender`](Self::typed_sender) without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`typed_sender`](Self::typed_sender).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    #[cfg(feature = "tokio")]
    pub async fn typed_sender_async<T, C>(&self, channel: &str) -> Result<TypedSender<T, C>, ConnectError>
    where
        T: Schema + Serialize,
        C: Codec,
    {
        self.sender_async(channel).await.map(TypedSender::new)
    }
}
