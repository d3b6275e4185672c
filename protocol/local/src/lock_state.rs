//! The state of a bus's lock, as another process sees it. It never depends on the pid.

/// The state of a bus's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// No process holds it.
    Free,
    /// A process holds it: it serves the bus, or is about to.
    Held {
        /// The process, as written by itself; for display only. `None` if it has written nothing yet, or the system cannot report it.
        pid: Option<u32>,
    },
    /// A process holds it and is about to end.
    Leaving {
        /// The process, as for [`Held`](Self::Held).
        pid: Option<u32>,
    },
    /// Its path leads to something other than a file, so no process can hold it.
    NotAFile,
}
