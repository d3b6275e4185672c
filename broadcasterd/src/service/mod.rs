//! The daemon as a service of the user's service manager: systemd on Linux, launchd on macOS. It never replaces or removes a file that
//! `broadcasterd install` did not write.

#[cfg(unix)]
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod launchd;
mod order;
#[cfg(unix)]
mod steps;
#[cfg(unix)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod systemd;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod unsupported;

/// The name of the agent in launchd, and of its file.
#[cfg(unix)]
pub(crate) use launchd::LABEL as LAUNCHD_LABEL;

#[cfg(target_os = "linux")]
use systemd as manager;

#[cfg(target_os = "macos")]
use launchd as manager;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
use unsupported as manager;

pub(crate) use order::Order;

use crate::exit::Failure;
use crate::output::notice;
use order::{Wanted, failed};
use std::path::{Path, PathBuf};

/// Makes the service manager start the daemon on first use, from now or from the next login on.
pub(crate) fn install(order: &Order<'_>, now: bool) -> Result<(), Failure> {
    let wanted = Wanted { program: own_program()?, now };
    if let Some(why) = why_not_permanent(&wanted.program) {
        notice(format_args!("broadcasterd: warning: {} {why}", wanted.program.display()));
    }
    if order.named {
        let what = "the service is for the user's own bus, not for the one that --socket or BROADCASTER_SOCKET names";
        notice(format_args!("broadcasterd: warning: {what}"));
    }
    manager::install(order, &wanted)
}

/// Undoes [`install`].
pub(crate) fn uninstall(order: &Order<'_>) -> Result<(), Failure> {
    manager::uninstall(order)
}

/// Restarts the daemon if the service manager runs it; whether it does.
pub(crate) fn restart(order: &Order<'_>) -> Result<bool, Failure> {
    manager::restart(order)
}

/// The path of this program.
fn own_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    if program.is_file() {
        return Ok(program);
    }
    // On Linux, the path of a program that was removed while it runs does not exist.
    Err(failed(format!("{} no longer exists: run the program that is installed now", program.display())))
}

/// Why a service should not rely on a program in this place.
fn why_not_permanent(program: &Path) -> Option<&'static str> {
    let is_build = program.ancestors().any(|directory| directory.join("CACHEDIR.TAG").is_file());
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()];
    if is_build {
        Some(
            "is in a build directory: the service fails once that is cleaned; install it permanently with `cargo install`",
        )
    } else if temporary.iter().any(|directory| program.starts_with(directory)) {
        Some("is in a temporary directory: the service fails once that is cleaned; install the program permanently")
    } else {
        None
    }
}
