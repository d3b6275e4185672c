//! What differs between systems in how a log is written: whether there is a journal, and whether stderr can be opened again.
//! No policy lives here.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod system;

pub(crate) use system::{journal, reopen_stderr};
