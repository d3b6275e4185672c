//! The wire protocol of system-broadcaster: names, limits, frames, control messages, handshake and endpoint rule.
//!
//! Everything here is a value or a pure function. This crate never opens a socket, reads a clock, draws a random
//! number or reads the environment, and it contains no `unsafe` code.
//!
//! `PROTOCOL.md`, next to this crate's manifest, is the normative description, from which a client in another language can be
//! written; `tests/golden.rs` pins its bytes.
//!
//! | module | contents |
//! | --- | --- |
//! | [`limits`] | every number of the wire, named |
//! | [`name`] | [`ChannelName`] |
//! | [`pattern`] | [`ChannelPattern`] |
//! | [`frame`] | the fixed [`Header`], [`Run`]s of frames |
//! | [`meta`] | the metadata of a message |
//! | [`control`] | the control messages: Hello, Welcome, Subscribe, Lagged, ... |
//! | [`decode`] | the incremental [`Decoder`] |
//! | [`handshake`] | version negotiation |
//! | [`endpoint`] | the location of the socket, as a pure function |

#![forbid(unsafe_code)]

mod codec;
pub mod control;
pub mod decode;
pub mod endpoint;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod meta;
pub mod name;
pub mod pattern;

pub use codec::CodecError;
pub use control::Control;
pub use decode::{DecodeError, Decoder, Item};
pub use frame::{ChannelId, Frame, Header, Run, SenderId};
pub use name::{ChannelName, NameError};
pub use pattern::{ChannelPattern, PatternError};
