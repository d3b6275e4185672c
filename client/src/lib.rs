#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capabilities;
mod daemon;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
mod listener;
#[doc(hidden)]
pub mod machine;
mod message;
mod metadata;
mod monitor;
mod name;
mod options;
mod os;
// Only macOS has a notification center. What is for it is tested on every system.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod path;
mod pattern;
mod policy;
mod presence;
mod receipt;
mod receiver;
mod request;
mod retained;
mod select;
mod selector;
mod sender;
#[cfg(feature = "serde")]
mod serialize;
mod shared_request;
mod shared_sender;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "serde")]
pub mod typed;

pub use bytes::Bytes;
pub use capabilities::{Capabilities, Transport};
pub use daemon::{Daemon, Status};
#[cfg(feature = "embedded")]
pub use embedded::HostGuard;
pub use error::{ConnectError, Lag, RecvError, ReplyError, RequestError, SendError, Skipped, Stage, SubscribeError};
pub use listener::Listener;
#[cfg(feature = "tokio")]
pub use listener::ListenerStream;
pub use message::{Message, MessageRef, ReplyTo};
pub use metadata::{Metadata, MetadataError, MetadataRef};
pub use monitor::Monitor;
pub use name::{ChannelName, NameError, SenderId};
pub use options::{HISTORY_MAX, NO_AUTOSTART_VARIABLE, Options, SHARED_MEMORY_VARIABLE, TIMEOUT_DEFAULT};
pub use pattern::{ChannelPattern, PatternError};
pub use policy::{Candidate, EndpointError, Fallback, Origin, Overflow, RefusalCode, SharedMemory};
pub use presence::{Peer, Presence, PresenceEvent};
pub use receipt::{Lagging, Receipt};
pub use receiver::Closer;
#[cfg(feature = "tokio")]
pub use request::ReplyStream;
pub use request::{Replies, Reply};
pub use select::{Select, select};
pub use selector::Selector;
pub use sender::Sender;
#[cfg(feature = "tokio")]
pub use sender::SenderSink;
pub use shared_request::SharedReplies;
#[cfg(feature = "tokio")]
pub use shared_request::SharedReplyStream;
pub use shared_sender::SharedSender;

// The examples on the front page need every feature. They are tested where those are enabled, as with `cargo test --workspace`.
#[cfg(all(doctest, feature = "json", feature = "testing", feature = "tokio"))]
#[doc = include_str!("../README.md")]
mod readme {}

/// A random number, seeded by the system.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Handles and what they yield can be moved between threads and tasks.
const _: fn() = || {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<Sender>();
    check::<SharedSender>();
    check::<Receipt>();
    check::<Listener>();
    check::<Monitor>();
    check::<Presence>();
    check::<PresenceEvent>();
    check::<Daemon>();
    check::<Options>();
    check::<Closer>();
    check::<Message>();
    check::<Reply>();
    check::<ReplyTo>();
    check::<Metadata>();
    check::<ConnectError>();
    check::<SendError>();
    check::<RecvError>();
    check::<RequestError>();
    check::<ReplyError>();
    check::<SubscribeError>();
    #[cfg(feature = "tokio")]
    check::<ListenerStream>();
    #[cfg(feature = "tokio")]
    check::<SenderSink>();
};
