//! The system calls that the client and the server of system-broadcaster share: sockets and pipes, peer identity, waiting,
//! directories and lock files. It knows nothing about frames, and it never decides what a result means for the bus.
//!
//! Every function has the same name on Unix, where the transport is a Unix domain socket, and on Windows, where it is a named pipe.
//! All `unsafe` that both halves need is here.
//!
//! | to ... | use |
//! | --- | --- |
//! | connect to a daemon | [`connect`], [`Connected`], [`lock_state()`], [`is_unlocked`], [`sandbox()`] |
//! | serve a path | [`Directory`], [`LockFile`], [`SocketFile`], and with the feature `tokio` `adopt` and `AuxiliaryListener` |
//! | accept connections in a task | `Acceptor`, [`Peer`] (feature `tokio`) |
//! | move bytes without waiting | [`read`], [`write()`], [`write_vectored`], [`shutdown`], [`stop_reading`], [`widen`] |
//! | wait on a thread | [`wait`], [`read_blocking`], [`Interest`] |
//! | wait in a task | `register`, `register_again`, `Registration` (feature `tokio`) |
//! | wait in another event loop | `Readiness` (Unix) |
//! | wake a thread or a task that waits | [`Bell`] |
//! | share memory with other processes | [`CAN_SHARE_MEMORY`], [`shared_memory_problem`], [`make_memory`], [`open_memory`], [`WritableMemory`], [`ReadOnlyMemory`] |
//! | send descriptors to another process | [`Descriptor`], [`write_with_descriptors`], [`read_with_descriptors`], [`read_blocking_with_descriptors`] |
//! | wake another process | [`make_doorbell`], [`ring_doorbell`], [`Doorbells`] |
//! | notice that a directory changes | `Watch` (feature `tokio`) |
//! | run a child process | [`output_pipe`], [`read_output`], [`prepare`], [`abandon`] |
//! | start a thread that takes no signals | [`without_signals`] |
//! | choose a program to run | [`programs`], [`check_program`], [`is_elevated`], [`LaunchLock`] |
//! | end this process at a step, in tests | [`failpoint`] |
//! | describe this process | [`euid`], [`pid`], [`descriptors_max`], [`raise_descriptor_limit`], [`connections_within`], [`connections_of_host`], [`rings_within`], [`descriptors_for`], [`check_descriptors`], and on Unix `user_directory`, `home_directory`, `is_own`, `machine_id` |

#[cfg(not(any(unix, windows)))]
compile_error!("system-broadcaster has no transport for this platform: it needs unix domain sockets or named pipes");

mod buffer;
mod connected;
mod descriptors;
pub mod failpoint;
mod interest;
mod launch_lock;
mod lock_state;
mod peer;
mod problem;
mod program;
mod rings;
mod sandbox;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
pub mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use connected::Connected;
pub use descriptors::{connections_of_host, connections_within, descriptors_for, rings_within};
pub use interest::Interest;
pub use launch_lock::LaunchLock;
pub use lock_state::LockState;
pub use peer::Peer;
pub use problem::{AdoptProblem, DirectoryProblem, LockProblem};
pub use program::{ProgramProblem, check_program, is_elevated, programs};
pub use rings::{
    CAN_SHARE_MEMORY, Descriptor, Doorbells, ReadOnlyMemory, WritableMemory, make_doorbell, make_memory, open_memory,
    read_blocking_with_descriptors, read_with_descriptors, ring_doorbell, shared_memory_problem,
    write_with_descriptors,
};
pub use sandbox::sandbox;
#[cfg(feature = "tokio")]
pub use system::{Acceptor, AuxiliaryListener, Registration, Shared, Watch, adopt, register, register_again};
pub use system::{
    Bell, CONNECT_ACTIVATES, Directory, Entry, Listener, LockFile, PipeWriter, STOPPED_SOCKET_KEEPS_BYTES, Socket,
    SocketFile, abandon, check_descriptors, connect, descriptors_max, euid, is_accepting, is_unlocked, lock_state,
    output_pipe, pid, prepare, raise_descriptor_limit, read, read_blocking, read_output, shutdown, stop_reading, wait,
    widen, without_signals, write, write_vectored,
};
#[cfg(unix)]
pub use unix::{Readiness, home_directory, is_or_would_be_own, is_own, machine_id, user_directory};
