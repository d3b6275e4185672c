//! The broker of system-broadcaster as a value: events and the time go in, effects come out.
//!
//! It knows nothing about sockets, clocks, threads, files, environment variables or random numbers; connections are
//! opaque numbers to it. So the simulation in `tests` runs the code that the daemon runs.
//!
//! | module | contents |
//! | --- | --- |
//! | [`broker`](Broker) | the state machine: its contract, and which event goes where |
//! | `session` | what a connection may request, and the answers |
//! | `registry` | channels, their ids and their subscribers |
//! | `patterns` | subscriptions to patterns, and which of them cover a name |
//! | `presence` | watches of names, and the listeners that each watched name has |
//! | `delivery` | from an accepted run to the outboxes, and from there to the counters |
//! | `credit` | how much senders with backpressure may send, and which listener they wait for |
//! | `ring` | rings in shared memory, and the listeners that read them themselves |
//! | `receipt` | how many listeners took a message, and which of them lag |
//! | `retained` | retained messages: what is kept of each channel, and its replay |
//! | `inbox` | inboxes, and the replies that are addressed to them |
//! | `outbox` | the queue of one connection, and what was lost from it |
//! | `memory` | the ledger of held memory |
//! | `budget` | what is given up when held memory exceeds its budget |
//! | `lifecycle` | the beginning and the end of connections, and of the broker |
//! | `snapshot` | a picture of everything |
//! | `limits` | every limit, by name |
//! | `invariants` | the check that all of this adds up |

#![forbid(unsafe_code)]

mod broker;
mod budget;
mod connection;
mod credit;
mod delivery;
mod effect;
mod event;
mod inbox;
mod invariants;
mod lifecycle;
mod limits;
mod memory;
mod outbox;
mod patterns;
mod presence;
mod receipt;
mod registry;
mod retained;
mod ring;
mod session;
mod snapshot;

pub use broker::{Broker, Stats};
pub use connection::ConnPhase;
pub use effect::{Attachment, Effect, Effects};
pub use event::{ConnId, Event, Head, Incomplete, LinkId, Moment, RingId};
pub use limits::{Limits, PATTERN_SEGMENTS, TURN_WORK_MAX};
pub use retained::HistorySnapshot;
pub use snapshot::{ChannelSnapshot, ConnSnapshot, Snapshot};
