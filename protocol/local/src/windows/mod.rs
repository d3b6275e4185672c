//! The functions of this crate on Windows: named pipes instead of sockets, and lock files apart from them. It never starts a thread of its
//! own.
//!
//! | type or module | what it is |
//! | --- | --- |
//! | [`Pipe`] | one end of a connected pipe, with two ways to wait for it: on this thread, or with a waker |
//! | [`Server`] | the name of a pipe that this process serves, with some instances ready |
//! | [`user`] | the user of a process |
//! | [`process`] | what a started process inherits |

#[cfg(feature = "tokio")]
mod accept;
#[cfg(feature = "tokio")]
mod auxiliary;
mod bell;
mod child;
mod connect;
mod directory;
mod event;
mod instance;
mod lock;
mod operation;
mod pipe;
pub mod process;
mod program;
#[cfg(feature = "tokio")]
mod registration;
mod security;
mod server;
mod signals;
mod socket;
mod stream;
mod text;
mod this_process;
pub mod user;
mod wait;
#[cfg(feature = "tokio")]
mod watch;

#[cfg(feature = "tokio")]
pub use accept::Acceptor;
#[cfg(feature = "tokio")]
pub use auxiliary::AuxiliaryListener;
pub use bell::Bell;
pub use child::{PipeWriter, abandon, output_pipe, prepare, read_output};
pub use connect::{CONNECT_ACTIVATES, connect, connect_pipe, is_accepting};
#[cfg(feature = "tokio")]
pub use directory::adopt;
pub use directory::{Directory, Entry, SocketFile};
pub use event::Waiter;
pub use instance::{client_of, instance};
pub use lock::{LockFile, is_unlocked, lock_state};
pub use pipe::Pipe;
pub(crate) use program::{check_program, is_elevated};
#[cfg(feature = "tokio")]
pub use registration::{Ready, Registration, Shared, register, register_again};
pub use server::Server;
pub use signals::without_signals;
pub use socket::{Listener, Socket};
pub use stream::{
    STOPPED_SOCKET_KEEPS_BYTES, read, read_blocking, shutdown, stop_reading, widen, write, write_vectored,
};
pub use this_process::{check_descriptors, descriptors_max, euid, pid, raise_descriptor_limit};
pub use wait::wait;
#[cfg(feature = "tokio")]
pub use watch::Watch;
