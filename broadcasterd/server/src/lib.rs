//! Sockets, clock and operating system around the pure [`Broker`](broadcaster_broker::Broker): what the daemon runs, and
//! what a client with the feature `embedded` hosts. It takes no decision about frames, quotas or listeners.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `hub` | the broker with its connections: events in, effects applied |
//! | `conn` | one connection: reading, and writing when the socket is full |
//! | `lock` | the lock that decides which process is the daemon, and the sockets that are made under it |
//!
//! ```no_run
//! use broadcaster_protocol::endpoint::{Candidate, Origin};
//! use broadcaster_server::{Limits, bind, serve};
//!
//! let socket = "/run/user/1000/broadcaster/bus.sock".into();
//! let bound = bind(&[Candidate { socket, origin: Origin::Explicit }])?;
//! serve(bound, Limits::default(), "1.0.0", |_| std::future::pending())?; // until it exits by itself
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod conn;
mod hub;
mod lock;

pub use broadcaster_broker::{ChannelSnapshot, ConnSnapshot, Limits, PeerRole, Snapshot, Stats};
pub use broadcaster_local::{AuxiliaryListener, raise_descriptor_limit};
pub use hub::{View, serve};
pub use lock::{BindError, Bound, adopt, bind};
