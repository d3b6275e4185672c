//! Sockets, clock and operating system around the pure [`Broker`](broadcaster_broker::Broker). The daemon runs it, and a client with the
//! feature `embedded` hosts it. It makes no decision about frames, limits or listeners.
//!
//! | module | contents |
//! | --- | --- |
//! | [`driver`] | the work of one turn, without clock or runtime |
//! | `serve` | the driver in a runtime: readiness, the clock, the watch over the socket |
//! | `peak` | notices that most of the held memory was released |
//! | `lock` | the lock that decides which process is the daemon, and the sockets that are created under it |
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

pub mod driver;
mod lock;
mod peak;
mod serve;

pub use broadcaster_broker::{ChannelSnapshot, ConnPhase, ConnSnapshot, Limits, Snapshot, Stats};
pub use broadcaster_local::{
    AuxiliaryListener, LockState, connections_within, descriptors_for, lock_state, raise_descriptor_limit,
};
pub use lock::{BindError, Bound, adopt, bind};
pub use serve::{ServerHandle, serve};
