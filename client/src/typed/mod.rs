//! Values instead of bytes: senders and listeners for types that implement serde's traits.
//!
//! A type gets a name by implementing [`Schema`], and the handles get a [`Codec`]: [`Json`], [`Postcard`] or [`Bincode`], each with the
//! feature of that name, or one of your own.
//!
//! ```
//! # #[cfg(all(feature = "json", feature = "testing"))] {
//! use serde::{Deserialize, Serialize};
//! use system_broadcaster::testing::Bus;
//! use system_broadcaster::typed::{Json, Schema};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Theme {
//!     dark: bool,
//!     accent: String,
//! }
//!
//! impl Schema for Theme {
//!     const NAME: &'static str = "com.example.Theme";
//! }
//!
//! let bus = Bus::new();
//! let mut themes = bus.options().typed_listener::<Theme, Json>("com.example.theme")?;
//! let mut sender = bus.options().typed_sender::<Theme, Json>("com.example.theme")?;
//! sender.send(&Theme { dark: true, accent: "teal".into() })?;
//!
//! let message = themes.recv()?;
//! assert_eq!(message.value().accent, "teal");
//! assert_eq!(message.sender(), sender.sender().id());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`encode`] and [`Message::decode`](crate::Message::decode) do the same for handles that are not typed, such as those that send values of
//! several types.
//!
//! # The mark
//!
//! Every message carries the mark of its type in [`Metadata::schema`]: the names of codec and type, as in `json:com.example.Theme`. A listener
//! compares it with its own before it decodes anything. A message with another mark is [`TypedRecvError::Mismatch`], which names both marks
//! and holds the message. A payload that is not a value of the type is [`TypedRecvError::Invalid`]. The listener continues with the next
//! message after either.
//!
//! A message without a mark, from an untyped sender, is decoded if the codec is [self-describing](Codec::SELF_DESCRIBING), which of those here is
//! JSON only. With other codecs it is a mismatch.
//!
//! # Changing a type
//!
//! Programs of different versions share a channel. A change that both versions can decode keeps the name: with JSON, a new field that has
//! `#[serde(default)]`. Any other change gets a new name, such as `com.example.Theme/2`; with Postcard and Bincode, which write no field names,
//! that is every change. [`Message::decode`](crate::Message::decode) also decodes the message of a mismatch as another type, so that a listener can
//! support several versions.
//!
//! # Limits
//!
//! Payloads have up to 64 MiB, as without types. Values may be nested 128 levels deep. Decoding reserves no memory for a length that a
//! payload only claims, and it neither panics nor exhausts the stack, whatever the payload contains.

#[cfg(any(feature = "postcard", feature = "bincode"))]
mod bounds;
mod codec;
mod error;
mod listener;
mod schema;
mod sender;

#[cfg(feature = "bincode")]
pub use codec::Bincode;
#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "postcard")]
pub use codec::Postcard;
pub use codec::{Cause, Codec};
pub use error::{DecodeError, TypedRecvError, TypedSendError};
#[cfg(feature = "tokio")]
pub use listener::TypedListenerStream;
pub use listener::{TypedListener, TypedMessage};
pub use schema::Schema;
pub use sender::{TypedSender, encode};

#[cfg(doc)]
use crate::Metadata;
