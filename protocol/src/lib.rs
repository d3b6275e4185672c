//! The wire protocol of system-broadcaster: names, limits, frames, control messages, handshake and endpoint rule.
//!
//! Everything here is a value or a pure function. This crate never opens a socket, reads a clock, draws a random
//! number or looks at the environment, and it contains no `unsafe` code.
//!
//! The normative description, from which a client in another language can be written, is `PROTOCOL.md` beside this
//! crate's manifest; `tests/golden.rs` pins its bytes.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`limits`] | every number of the wire, named |
//! | [`name`] | [`ChannelName`] |
//! | [`frame`] | the fixed [`Header`], [`Run`]s of frames |
//! | [`control`] | the control messages: Hello, Welcome, Subscribe, Lagged, ... |
//! | [`decode`] | the incremental [`Decoder`] |
//! | [`handshake`] | who may speak which version with whom |
//! | [`endpoint`] | where the socket is, as a pure function |

#![forbid(unsafe_code)]

mod codec;
pub mod control;
pub mod decode;
pub mod endpoint;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod name;

pub use codec::CodecError;
pub use control::Control;
pub use decode::{DecodeError, Decoder, Item};
pub use frame::{ChannelId, Frame, Header, Run, SenderId};
pub use name::{ChannelName, NameError};
