//! The functions of this crate on Unix, using `rustix`, `interprocess` and, where neither fits, `libc`. It never starts a thread.

#[cfg(feature = "tokio")]
mod accept;
#[cfg(feature = "tokio")]
mod adopt;
mod bell;
mod child;
#[cfg(target_vendor = "apple")]
mod confstr;
mod connect;
mod directory;
mod fork;
mod lock;
mod machine;
mod passwd;
mod peer;
mod process;
mod program;
mod readiness;
#[cfg(feature = "tokio")]
mod registration;
mod signals;
mod socket;
mod stream;
mod user_directory;
mod wait;
#[cfg(feature = "tokio")]
mod watch;

#[cfg(feature = "tokio")]
pub use accept::Acceptor;
#[cfg(feature = "tokio")]
pub use adopt::adopt;
pub use bell::Bell;
pub use child::{PipeWriter, abandon, output_pipe, prepare, read_output};
pub use connect::{CONNECT_ACTIVATES, connect, is_accepting};
pub use directory::{Directory, Entry, SocketFile};
pub(crate) use fork::open_unshared;
pub use lock::{LockFile, is_unlocked, lock_state};
pub use machine::machine_id;
pub use passwd::home_directory;
pub use process::{check_descriptors, descriptors_max, euid, pid, raise_descriptor_limit};
pub(crate) use program::{check_program, is_elevated};
pub use readiness::Readiness;
#[cfg(feature = "tokio")]
pub use registration::{Registration, Shared, register, register_again};
pub use signals::without_signals;
#[cfg(feature = "tokio")]
pub use socket::AuxiliaryListener;
pub use socket::{Listener, Socket};
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
pub(crate) use stream::SEND_FLAGS;
pub use stream::{
    STOPPED_SOCKET_KEEPS_BYTES, read, read_blocking, shutdown, stop_reading, widen, write, write_vectored,
};
pub use user_directory::{is_or_would_be_own, is_own, user_directory};
pub use wait::wait;
#[cfg(feature = "tokio")]
pub use watch::Watch;
