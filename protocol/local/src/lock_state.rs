//! The lock of a bus as a process that does not hold it finds it. It never decides by the pid.

/// The lock of a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// No process holds it.
    Free,
    /// A process holds it: it serves the bus, or is about to.
    Held {
        /// The process, as it has written; for display only. `None` if it has written nothing yet, or the system cannot report it.
        pid: Option<u32>,
    },
    /// A process holds it and is about to end.
    Leaving {
        /// The process, as for [`Held`](Self::Held).
        pid: Option<u32>,
    },
    /// Something other than a file has its path, so that no process can hold it.
    NotAFile,
}
