//! The functions of this crate on Unix, through `rustix`, `interprocess` and, where neither fits, `libc`. It never starts a thread.

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
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "readiness_epoll.rs"]
mod readiness;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "readiness_kqueue.rs"]
mod readiness;
#[cfg(feature = "tokio")]
mod registration;
mod socket;
mod stream;
mod user_directory;
mod wait;
#[cfg(all(feature = "tokio", any(target_os = "linux", target_os = "android")))]
#[path = "watch_inotify.rs"]
mod watch;
#[cfg(all(feature = "tokio", not(any(target_os = "linux", target_os = "android"))))]
#[path = "watch_kqueue.rs"]
mod watch;

#[cfg(feature = "tokio")]
mod watched;

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
#[cfg(feature = "tokio")]
pub use socket::AuxiliaryListener;
pub use socket::{Listener, Socket};
pub use stream::{
    STOPPED_SOCKET_KEEPS_BYTES, read, read_blocking, shutdown, stop_reading, widen, write, write_vectored,
};
pub use user_directory::{is_or_would_be_own, is_own, user_directory};
pub use wait::wait;
#[cfg(feature = "tokio")]
pub use watch::Watch;
