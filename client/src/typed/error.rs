//! What can go wrong beyond sending and receiving: a value that cannot be encoded, a message of another type, a damaged payload.

use super::codec::Cause;
use crate::{Lag, Message, MetadataError, RecvError, SendError};
use std::fmt;

/// Why a message is not a value of the expected type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message is of another type, was encoded with another codec, or has no mark.
    #[error("it is {}, not {expected}", Found(found.as_deref()))]
    Mismatch {
        /// The mark of the expected type: `codec:name`.
        expected: String,
        /// The mark of the message. It is the sender's claim and can be any text. `None`: the message has no mark.
        found: Option<String>,
    },
    /// The payload is not a value of the type.
    #[error("its payload is not {expected}")]
    Invalid {
        /// The mark of the expected type: `codec:name`.
        expected: String,
        /// What the codec reports.
        source: Cause,
    },
}

/// A mark of a message, which can be any text.
struct Found<'a>(Option<&'a str>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(mark) => write!(f, "{}", mark.escape_debug()),
            None => f.write_str("without a mark"),
        }
    }
}

/// Why there is no value. Only a closed handle ends a listener: after any other error, receive again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedRecvError {
    /// The message is of another type, was encoded with another codec, or has no mark.
    #[error("a message on channel {} from sender {} is {}, not {expected}", message.channel(), message.sender(), Found(found.as_deref()))]
    Mismatch {
        /// The mark of the expected type: `codec:name`.
        expected: String,
        /// The mark of the message. It is the sender's claim and can be any text. `None`: the message has no mark.
        found: Option<String>,
        /// The message. [`Message::decode`] decodes it as another type.
        message: Box<Message>,
    },
    /// The payload is not a value of the type.
    #[error("the payload of a message on channel {} from sender {} is not {expected}", message.channel(), message.sender())]
    Invalid {
        /// The mark of the expected type: `codec:name`.
        expected: String,
        /// The message.
        message: Box<Message>,
        /// What the codec reports.
        source: Cause,
    },
    /// There is no message: messages were lost, the time has passed, or there is no connection.
    #[error(transparent)]
    Recv(#[from] RecvError),
}

impl TypedRecvError {
    pub(super) fn new(error: DecodeError, message: Message) -> Self {
        let message = Box::new(message);
        match error {
            DecodeError::Mismatch { expected, found } => Self::Mismatch { expected, found, message },
            DecodeError::Invalid { expected, source } => Self::Invalid { expected, message, source },
        }
    }

    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Recv(error) if error.is_timeout())
    }

    /// The loss that is reported at this point of the stream, if there is one.
    pub fn lag(&self) -> Option<&Lag> {
        match self {
            Self::Recv(RecvError::Lagged(lag)) => Some(lag),
            Self::Recv(_) | Self::Mismatch { .. } | Self::Invalid { .. } => None,
        }
    }

    /// The message that is not a value of the type, if there is one.
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::Mismatch { message, .. } | Self::Invalid { message, .. } => Some(*message),
            Self::Recv(_) => None,
        }
    }
}

/// Why a value was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedSendError {
    /// The value cannot be encoded.
    #[error("a value of {schema} cannot be encoded")]
    Encode {
        /// The mark of the type: `codec:name`.
        schema: String,
        /// What the codec reports.
        source: Cause,
    },
    /// Only from calls that [retain](crate::Sender::retain) a value: its encoding has no bytes, and an empty message would clear what is
    /// retained. It was not sent.
    #[error("a value of {schema} with an empty encoding cannot be retained: an empty message clears the channel")]
    Empty {
        /// The mark of the type: `codec:name`.
        schema: String,
    },
    /// The metadata and the mark together are too large.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The message was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl TypedSendError {
    /// Whether a timeout has passed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Send(error) if error.is_timeout())
    }
}
