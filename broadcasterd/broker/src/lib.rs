//! The broker of system-broadcaster as a value: events and the time go in, effects come out.
//!
//! It knows nothing about sockets, clocks, threads, files, environment variables or random numbers; connections are
//! opaque numbers to it. That is what makes the simulation in `tests` honest: it runs this very code.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`broker`](Broker) | the state machine: who may do what, and who gets what |
//! | `registry` | channel names, ids, and who listens |
//! | `outbox` | what waits for one listener, and what was dropped |
//! | `quota` | every limit, and the ledger of held memory |
//! | `stats` | the counters, and the picture of everything that inspectors get |

#![forbid(unsafe_code)]

mod broker;
mod effect;
mod event;
mod outbox;
mod quota;
mod registry;
mod stats;

pub use broker::Broker;
pub use effect::{Effect, Effects};
pub use event::{ConnId, Event, Moment};
pub use quota::Limits;
pub use stats::{ChannelSnapshot, ConnSnapshot, PeerRole, Snapshot, Stats};
