//! The client as values: what to say, what was heard, what follows. It never sees a socket, a clock or a random number,
//! so that the simulation in the project's `tests` runs this very code.
//!
//! Public for that simulation only; programs use [`Sender`](crate::Sender) and [`Listener`](crate::Listener).

mod inspector;
mod listener;
mod monitor;
mod sender;
mod session;

pub use inspector::InspectorCore;
pub use listener::ListenerCore;
pub use monitor::MonitorCore;
pub use sender::{SenderCore, TooLarge};
pub use session::{Core, Ended, Heard};

use broadcaster_protocol::Run;
use bytes::Bytes;

/// A payload in `run` as memory of its own: by reference if it is most of what it pins, else copied.
fn own_payload(run: &Run, payload: &[u8]) -> Bytes {
    if payload.len() * 2 >= run.pinned_bytes() {
        run.bytes().slice_ref(payload)
    } else {
        Bytes::copy_from_slice(payload)
    }
}
