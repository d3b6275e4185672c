//! Encodes and decodes the bodies of control frames. It is the only module that names `bincode`, and payload bytes never pass
//! through it.
//!
//! Upstream has discontinued bincode (3.0.0 is a deliberate compile error, RUSTSEC-2025-0141). It stays because `tests/golden.rs`
//! fixes its bytes and `PROTOCOL.md` describes them, because every decode has a limit, and because the frame's length is checked
//! first. `wincode` with varint encoding writes the same bytes and can replace it here alone.

use crate::limits::CONTROL_BYTES_MAX;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// Largest decoded size of a body. bincode counts an integer with its full width, up to 8 bytes, where the wire has one byte.
/// The limit guards against texts that announce more bytes than any body has.
const DECODED_BYTES_MAX: usize = CONTROL_BYTES_MAX as usize * 8;

/// bincode 2 standard configuration (little-endian, variable-length integers), with our limit.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Why a control message and its bytes could not be converted into one another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes are not a value of the message's type.
    #[error("the body is not valid: {reason}")]
    Invalid {
        /// What the decoder found.
        reason: String,
    },
    /// The message does not fit into a control frame.
    #[error("the body has {len} bytes; the limit is {CONTROL_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the body.
        len: usize,
    },
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, CONFIG).map_err(|e| invalid(&e))
}

/// Decodes the value at the start of `body`. Bytes after it are skipped: a later version may have appended fields.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    bincode::serde::decode_from_slice(body, CONFIG).map(|(value, _)| value).map_err(|e| invalid(&e))
}

/// Reads a list element by element. serde's own implementation reserves room for the announced length first, up to 1 MiB.
pub(crate) fn list<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Elements<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                elements.push(element);
            }
            Ok(elements)
        }
    }

    deserializer.deserialize_seq(Elements(PhantomData))
}

fn invalid(error: &dyn fmt::Display) -> CodecError {
    CodecError::Invalid { reason: error.to_string() }
}
