//! Which process is the daemon, and on which socket. The kernel's lock on one file decides; a pid, the existence of a socket and a refused
//! connection never do.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `bind` | the choice among the candidates, and what the daemon holds then |
//! | `daemon_lock` | the lock, and the socket files that are made and removed under it |
//! | `error` | why this process is not the daemon |

mod bind;
mod daemon_lock;
mod error;

pub use bind::{Bound, adopt, bind};
pub use error::BindError;
