//! The bodies of control frames, to and from bytes. The only module that names `bincode`, so that it can be swapped
//! alone; payload bytes never pass through it.
//!
//! Upstream has ended bincode (3.0.0 is a deliberate compile error, RUSTSEC-2025-0141). It stays because its bytes are
//! fixed by `tests/golden.rs` and described in `PROTOCOL.md`, because a limit is set on every decode, and because the
//! frame's length has been checked before. `wincode` with varint encoding writes the same bytes: the exit, if needed.

use crate::limits::CONTROL_BYTES_MAX;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// What a body of the largest size may decode to. bincode counts an integer with its full width, up to 8 bytes, where
/// one byte is on the wire; the limit is there for texts that claim to be longer than any body.
const DECODED_BYTES_MAX: usize = CONTROL_BYTES_MAX as usize * 8;

/// bincode 2 standard configuration (little-endian, variable-length integers), with our limit.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Why a control message and bytes could not be turned into one another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes are not a value of the message's type.
    #[error("the body is not valid: {reason}")]
    Invalid {
        /// What the decoder met.
        reason: String,
    },
    /// The value ended before the body did.
    #[error("the body has {len} bytes, of which the message takes {used}")]
    Trailing {
        /// Bytes of the body.
        len: usize,
        /// Bytes that the message took.
        used: usize,
    },
}

pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let body = bincode::serde::encode_to_vec(value, CONFIG).map_err(|e| invalid(&e))?;
    out.extend_from_slice(&body);
    Ok(())
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(body, CONFIG).map_err(|e| invalid(&e))?;
    if used == body.len() { Ok(value) } else { Err(CodecError::Trailing { len: body.len(), used }) }
}

/// Reads a list as its elements come. serde's own way makes room for as many as the list claims to have, up to 1 MiB.
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
