//! The bodies of control frames, to and from bytes. The only module that names `bincode`, so that it can be swapped
//! alone; payload bytes never pass through it.
//!
//! Upstream has ended bincode (3.0.0 is a deliberate compile error, RUSTSEC-2025-0141). It stays because its bytes are
//! fixed by `tests/golden.rs` and described in `PROTOCOL.md`, because a limit is set on every decode, and because the
//! frame's length has been checked before. `wincode` with varint encoding writes the same bytes: the exit, if needed.

use crate::limits::CONTROL_BYTES_MAX;
use serde::{Serialize, de::DeserializeOwned};

/// bincode 2 standard configuration (little-endian, variable-length integers), with our limit.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<{ CONTROL_BYTES_MAX as usize }>,
> = bincode::config::standard().with_limit::<{ CONTROL_BYTES_MAX as usize }>();

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

fn invalid(error: &dyn std::fmt::Display) -> CodecError {
    CodecError::Invalid { reason: error.to_string() }
}
