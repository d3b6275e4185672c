//! The client as values: what to say, what was heard, what follows. It never sees a socket, a clock or a random number,
//! so that the simulation in the project's `tests` runs this very code.
//!
//! Public for that simulation only; programs use [`Sender`](crate::Sender) and [`Listener`](crate::Listener).

mod inspector;
mod listener;
mod sender;
mod session;

pub use inspector::InspectorCore;
pub use listener::{Heard, ListenerCore};
pub use sender::{SenderCore, TooLarge};
pub use session::{Core, Ended};
