//! Which process is the daemon, and on which sockets. The kernel's lock on a file decides; a pid, the existence of a socket and a refused
//! connection never do.
//!
//! | module | contents |
//! | --- | --- |
//! | `bind` | the locks and sockets of all candidates |
//! | `daemon_lock` | one lock, and the socket files that are created and removed under it |
//! | `error` | why this process is not the daemon |

mod bind;
mod daemon_lock;
mod error;

pub use bind::{Bound, adopt, bind};
pub use error::BindError;
