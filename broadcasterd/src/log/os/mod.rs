//! What differs between systems in how a log is written: whether there is a journal, whether stderr can be opened again, and whether
//! it can be asked for room. No policy lives here.

#[cfg(unix)]
mod room;
#[cfg(windows)]
#[path = "no_room.rs"]
mod room;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod system;

pub(crate) use room::write_shared;
pub(crate) use system::{journal, reopen_stderr};
