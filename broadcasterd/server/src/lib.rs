//! Sockets, clock and operating system around the pure [`Broker`](broadcaster_broker::Broker): what the daemon runs, and
//! what a client with the feature `embedded` hosts. It takes no decision about frames, quotas or listeners.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `bind` | the lock that decides who is the daemon, the directory, the socket |
//! | `hub` | the broker with its connections: events in, effects applied |
//! | `conn` | one connection: reading, and writing when the socket is full |
//! | `os` | the system calls |
//!
//! ```no_run
//! use broadcaster_protocol::endpoint::{Candidate, Origin};
//! use broadcaster_server::{Limits, bind};
//!
//! let socket = "/run/user/1000/broadcaster/bus.sock".into();
//! let bound = bind(&[Candidate { socket, origin: Origin::Explicit }])?;
//! bound.run(Limits::default(), "1.0.0", |_| std::future::pending())?; // until it exits by itself
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bind;
mod conn;
mod hub;
mod os;

pub use bind::{BindError, Bound, adopt, bind};
pub use broadcaster_broker::{ChannelSnapshot, ConnSnapshot, Limits, PeerRole, Snapshot, Stats};
pub use hub::View;
pub use os::{Beside, raise_descriptor_limit};
