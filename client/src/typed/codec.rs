//! How values become payloads and payloads become values. It never sees metadata or a handle.

#[cfg(any(feature = "postcard", feature = "bincode"))]
use super::bounds::Bounds;
use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(feature = "postcard")]
use serde::de::DeserializeSeed;

/// Why a codec fails.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A serialization format for the payloads of typed handles: [`Json`], [`Postcard`], [`Bincode`], or one of your own.
///
/// A codec is a type that is never created. It is chosen with a type parameter, as in `TypedSender<Theme, Json>`.
///
/// ```
/// use serde::{Serialize, de::DeserializeOwned};
/// use system_broadcaster::typed::{Cause, Codec};
///
/// # #[cfg(feature = "json")] {
/// /// JSON that people can read.
/// enum PrettyJson {}
///
/// impl Codec for PrettyJson {
///     const NAME: &'static str = "json"; // what it writes is JSON, and every listener for JSON can read it
///     const CONTENT_TYPE: Option<&'static str> = Some("application/json");
///     const SELF_DESCRIBING: bool = true;
///
///     fn encode<T: Serialize + ?Sized>(value: &T, payload: &mut Vec<u8>) -> Result<(), Cause> {
///         Ok(serde_json::to_writer_pretty(payload, value)?)
///     }
///
///     fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Cause> {
///         Ok(serde_json::from_slice(payload)?)
///     }
/// }
/// # }
/// ```
pub trait Codec: 'static {
    /// The name of the format in the mark of a message: 1 to 32 bytes without `:`. Codecs that read each other's payloads have the same
    /// name.
    const NAME: &'static str;

    /// The media type of the payloads, which the metadata of each message states; `None`, the default, if there is none.
    const CONTENT_TYPE: Option<&'static str> = None;

    /// Whether a payload shows what it contains, so that a message without a mark can be decoded. False unless set: the bytes of another
    /// type could pass for the expected one.
    const SELF_DESCRIBING: bool = false;

    /// Appends the value to `payload`.
    ///
    /// # Errors
    ///
    /// If the value cannot be represented.
    fn encode<T: Serialize + ?Sized>(value: &T, payload: &mut Vec<u8>) -> Result<(), Cause>;

    /// The value that `payload` contains from its first to its last byte.
    ///
    /// A payload may come from any program of this user, and a damaged one must be an error. It must not exhaust the stack, or reserve
    /// memory for a length that it only claims.
    ///
    /// # Errors
    ///
    /// If it is not such a value.
    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Cause>;
}

/// JSON, through [`serde_json`]: every language and `broadcasterd listen` can read it.
///
/// Payloads are compact. A value may be nested 128 levels deep. A message without a mark, such as one from `broadcasterd send`, is decoded if
/// it is JSON of the expected type.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy)]
pub enum Json {}

#[cfg(feature = "json")]
impl Codec for Json {
    const NAME: &'static str = "json";
    const CONTENT_TYPE: Option<&'static str> = Some("application/json");
    const SELF_DESCRIBING: bool = true;

    fn encode<T: Serialize + ?Sized>(value: &T, payload: &mut Vec<u8>) -> Result<(), Cause> {
        Ok(serde_json::to_writer(payload, value)?)
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Cause> {
        Ok(serde_json::from_slice(payload)?)
    }
}

/// [postcard](https://postcard.jamesmunns.com): compact, with a specification of its bytes.
///
/// Fields are not named, so that both sides need the same definition of the type, and serde attributes that depend on names, such as
/// `untagged` and `flatten`, do not work. A value may be nested 128 levels deep.
#[cfg(feature = "postcard")]
#[derive(Debug, Clone, Copy)]
pub enum Postcard {}

#[cfg(feature = "postcard")]
impl Codec for Postcard {
    const NAME: &'static str = "postcard";

    fn encode<T: Serialize + ?Sized>(value: &T, payload: &mut Vec<u8>) -> Result<(), Cause> {
        *payload = postcard::to_extend(value, std::mem::take(payload))?;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Cause> {
        let bounds = Bounds::of(payload);
        let mut deserializer = postcard::Deserializer::from_bytes(payload);
        let value = bounds.seed().deserialize(&mut deserializer).map_err(|error| bounds.cause(error))?;
        complete(value, deserializer.finalize()?.len())
    }
}

/// [bincode](https://docs.rs/bincode/2) 2 in its standard configuration: little-endian, integers of variable length.
///
/// The restrictions of [`Postcard`] apply. bincode is no longer maintained (RUSTSEC-2025-0141) and is pinned to version 2.0.1; prefer it only
/// for programs that use it already.
#[cfg(feature = "bincode")]
#[derive(Debug, Clone, Copy)]
pub enum Bincode {}

#[cfg(feature = "bincode")]
impl Codec for Bincode {
    const NAME: &'static str = "bincode";

    fn encode<T: Serialize + ?Sized>(value: &T, payload: &mut Vec<u8>) -> Result<(), Cause> {
        Ok(bincode::serde::encode_into_writer(value, Appending(payload), bincode::config::standard())?)
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Cause> {
        let bounds = Bounds::of(payload);
        let decoded = bincode::serde::seed_decode_from_slice(bounds.seed(), payload, bincode::config::standard());
        let (value, read) = decoded.map_err(|error| bounds.cause(error))?;
        complete(value, payload.len() - read)
    }
}

#[cfg(feature = "bincode")]
struct Appending<'a>(&'a mut Vec<u8>);

#[cfg(feature = "bincode")]
impl bincode::enc::write::Writer for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The value, if it is the whole payload.
#[cfg(any(feature = "postcard", feature = "bincode"))]
fn complete<T>(value: T, trailing: usize) -> Result<T, Cause> {
    match trailing {
        0 => Ok(value),
        _ => Err(format!("bytes follow the value: {trailing}").into()),
    }
}
