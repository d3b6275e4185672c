//! The client as values: what to write, what was read, what follows. It never sees a socket, a clock or a random number.
//!
//! | module | contents |
//! | --- | --- |
//! | `session` | the handshake, control messages in and out, the buffers of one connection |
//! | `publisher` | the publications of one connection: numbers messages, keeps those that are not written yet, knows those that are confirmed; moves those of a busy channel to a ring and back |
//! | `frames` | frames that are not written yet |
//! | `credit` | what a publication with backpressure may send |
//! | `counting` | requests for numbers of listeners and for receipts |
//! | `retained` | what a publisher keeps of retained messages, for the next daemon |
//! | `subscriber` | the subscriptions of one connection: frames, and gaps in their places |
//! | `replay` | which messages a subscriber receives are replayed, and which of those are new |
//! | `watcher` | the listeners of one channel, and what changes: its loop, too |
//! | `requests` | requests to listeners, and the replies to them |
//! | `reply` | one reply of a subscriber |
//! | `request` | one request on a connection of its own: Inspect or Stop |
//! | `ring` | what the machines need of shared memory |
//! | `ring_reader` | the reader of a ring and its page |
//! | `links` | the rings that a listener reads beside the stream of its connection |
//! | `link` | what the loops need of a connection, whatever carries it |
//! | `receive`, `send` | the receive loop and the send loop |
//!
//! The simulation in the project's `tests` runs this code over links of its own. It is public for that purpose only; programs
//! use [`Sender`](crate::Sender) and [`Listener`](crate::Listener).

mod counting;
mod credit;
mod frames;
mod heard;
mod link;
mod links;
mod publisher;
mod receive;
mod replay;
mod reply;
mod request;
mod requests;
mod retained;
mod ring;
mod ring_reader;
mod send;
mod session;
mod subscriber;
mod watcher;

pub use counting::Ticket;
pub use link::{Carrier, Link, Loss, Step, Transfer};
pub use publisher::{Declined, OWN, PUBLICATIONS_MAX, Place, Posted, Publisher, Rejected, Rings, TooLarge};
pub use receive::{Event, Value, receive, settle, value};
pub use reply::{Replying, RequesterGone};
pub use request::Request;
pub use retained::{Lifetime, RETENTION_ENTRY_BYTES};
pub use ring::{Bell, RingInput, RingOutput};
pub use ring_reader::RingReader;
pub use send::{
    ADDRESS_BYTES, Confirmation, Confirming, Counted, First, PendingSend, Receipted, Replied, Requested, Requesting,
    Sending, Unattended, attend, confirm, count, flush, next_reply, post,
};
pub use session::{Ended, Machine, Session};
pub use subscriber::{Change, External, Outcome, Received, Selector, Subscriber, Subscription};
pub use watcher::{Presented, Watcher, watch};
