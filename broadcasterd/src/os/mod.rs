//! What the command does differently on each system: leaving its caller, the ways in which it is asked to end, the stats socket.
//! Nothing here decides anything.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{
    Ends, INHERITED, Started, StatsClient, StatsConn, StatsListener, Wake, Wakes, connect_stats, drop_output,
    inherited_socket, is_ours, leave_caller, not_text, open_without_waiting, poll_accept_stats, stats_listener,
    stats_owner, suspend, terminal_width, uid,
};
