//! The system calls of the command: leaving the caller, signals, other processes, the terminal, files, and the stats socket. Nothing
//! here decides anything.

mod memory;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use memory::return_memory;
pub(crate) use system::{
    DetachedChild, EndSignal, EndSignals, INHERITED, StatsClient, StatsConn, StatsListener, StopSignals, connect_stats,
    drop_output, exit_status, inherited_socket, is_program, is_same_user, kill_group, leave_caller, not_text,
    open_without_waiting, own_group, poll_accept_stats, read_printed, reset_signals, shell, stats_listener,
    stats_owner, terminal_width, uid, write_stderr,
};
#[cfg(feature = "top")]
pub(crate) use system::{TerminalSignal, TerminalSignals, suspend};
