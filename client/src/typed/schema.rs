//! The names of types, and the marks that messages carry. It never compares the types themselves.

use super::codec::Codec;
use super::error::DecodeError;
use crate::{ChannelName, ChannelPattern, Message, MessageRef, Metadata, MetadataRef, Selector, SenderId};
use serde::de::DeserializeOwned;

/// Most bytes of a codec's name.
const CODEC_BYTES_MAX: usize = 32;

/// Most bytes of a type's name.
const SCHEMA_BYTES_MAX: usize = 255;

/// The name of a type in the mark of its messages.
///
/// The name is chosen and not derived: `std::any::type_name` is not stable between compilers, and changes when a type moves to another module.
///
/// ```
/// use system_broadcaster::typed::Schema;
///
/// struct Theme;
///
/// impl Schema for Theme {
///     const NAME: &'static str = "com.example.Theme";
/// }
/// ```
///
/// Numbers, `bool`, `char` and `String` have the names that they have in Rust. A collection needs a type of its own, such as
/// `struct Themes(Vec<Theme>)`.
pub trait Schema {
    /// The name, 1 to 255 bytes. Reverse domain names keep programs apart; see [the module](super#changing-a-type) for versions.
    ///
    /// A name of another length does not compile.
    const NAME: &'static str;
}

/// ```compile_fail,E0080
/// use serde::Serialize;
/// use system_broadcaster::typed::{Json, Schema, encode};
///
/// #[derive(Serialize)]
/// struct Theme;
///
/// impl Schema for Theme {
///     const NAME: &'static str = "";
/// }
///
/// let _ = encode::<Theme, Json>(&Theme);
/// ```
#[cfg(all(doctest, feature = "json"))]
struct _NameWithoutBytes;

macro_rules! named {
    ($($type:ty: $name:literal)*) => {$(
        impl Schema for $type {
            const NAME: &'static str = $name;
        }
    )*};
}

named! {
    bool: "bool" char: "char" String: "String" f32: "f32" f64: "f64"
    i8: "i8" i16: "i16" i32: "i32" i64: "i64" i128: "i128" u8: "u8" u16: "u16" u32: "u32" u64: "u64" u128: "u128"
    ChannelName: "system-broadcaster.ChannelName" ChannelPattern: "system-broadcaster.ChannelPattern"
    Selector: "system-broadcaster.Selector" SenderId: "system-broadcaster.SenderId"
}

/// The mark of a type, as text.
pub(super) fn mark<T: Schema, C: Codec>() -> String {
    const {
        assert!(!C::NAME.is_empty() && C::NAME.len() <= CODEC_BYTES_MAX, "the codec's name has 1 to 32 bytes");
        assert!(!T::NAME.is_empty() && T::NAME.len() <= SCHEMA_BYTES_MAX, "the schema's name has 1 to 255 bytes");
    }
    format!("{}:{}", C::NAME, T::NAME)
}

/// The metadata of a type's messages.
pub(super) fn metadata<T: Schema, C: Codec>() -> Metadata {
    let marked = Metadata::new().schema(mark::<T, C>().as_bytes());
    let typed = match C::CONTENT_TYPE {
        Some(content_type) => marked.and_then(|metadata| metadata.content_type(content_type)),
        None => marked,
    };
    typed.expect("a mark and a media type have a few hundred bytes")
}

/// Whether a message is of the type, by its mark.
pub(super) fn check<T: Schema, C: Codec>(metadata: MetadataRef<'_>) -> Result<(), DecodeError> {
    let found = metadata.schema();
    let is_expected = match found {
        Some(found) => {
            let named = found.strip_prefix(C::NAME.as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
            named == Some(T::NAME.as_bytes())
        }
        None => C::SELF_DESCRIBING,
    };
    match is_expected {
        true => Ok(()),
        false => Err(DecodeError::Mismatch {
            expected: mark::<T, C>(),
            found: found.map(|found| String::from_utf8_lossy(found).into_owned()),
        }),
    }
}

fn decode<T, C>(metadata: MetadataRef<'_>, payload: &[u8]) -> Result<T, DecodeError>
where
    T: Schema + DeserializeOwned,
    C: Codec,
{
    check::<T, C>(metadata)?;
    C::decode(payload).map_err(|source| DecodeError::Invalid { expected: mark::<T, C>(), source })
}

impl Message {
    /// The value that the message carries, if a [`TypedSender`](crate::typed::TypedSender) of this type has sent it; see
    /// [`typed`](crate::typed) for messages without a mark.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] names the expected and the found type, or why the payload is not a value.
    pub fn decode<T: Schema + DeserializeOwned, C: Codec>(&self) -> Result<T, DecodeError> {
        decode::<T, C>(self.metadata(), self.payload())
    }
}

impl MessageRef<'_> {
    /// See [`Message::decode`].
    ///
    /// # Errors
    ///
    /// As [`Message::decode`].
    pub fn decode<T: Schema + DeserializeOwned, C: Codec>(&self) -> Result<T, DecodeError> {
        decode::<T, C>(self.metadata(), self.payload())
    }
}
