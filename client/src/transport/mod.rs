//! How a core's bytes get to a daemon and back: the connection and everything that it takes to have one. It never looks
//! into frames.

mod launch;
mod link;
mod wait;

pub(crate) use link::{Link, Plan, Taken};
#[cfg(feature = "tokio")]
pub(crate) use wait::{Awaiting, poll_on};
pub(crate) use wait::{Step, Until, Wait, block_on};
