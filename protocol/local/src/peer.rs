//! The process at the other end of a connection, as the kernel reports it. It never comes from the peer itself.

/// The process at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process; 0 if the system does not report it, or the process is in a pid namespace that this process cannot see.
    pub pid: u32,
    /// The user. On Windows a number for the user, which equals [`euid`](crate::euid) for the user of this process only.
    pub uid: u32,
}
