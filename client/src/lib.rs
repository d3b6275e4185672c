#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[doc(hidden)]
pub mod core;
mod daemon;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
mod listener;
mod message;
mod monitor;
// Only a center fills an inbox, and only macOS has one: what is for it is tested everywhere.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod native;
mod options;
mod os;
mod sender;
mod transport;

pub use broadcaster_protocol::control::{Overflow, RefusedCode, Report};
pub use broadcaster_protocol::endpoint::{Candidate, EndpointError, Origin};
pub use broadcaster_protocol::{ChannelName, NameError, SenderId};
pub use bytes::Bytes;
pub use daemon::{Daemon, Status};
pub use error::{ConnectError, Lag, RecvError, SendError};
pub use listener::Listener;
pub use message::{Message, MessageRef};
pub use monitor::Monitor;
pub use native::{Capabilities, Transport};
pub use options::{DEADLINE_DEFAULT, NO_AUTOSTART_VARIABLE, Options};
pub use sender::Sender;

/// An error and its causes, as one sentence.
#[cfg(feature = "embedded")]
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
