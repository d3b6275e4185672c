//! The daemon as a service of the user's own service manager: systemd on Linux, launchd on macOS. It never replaces or removes a
//! file that `broadcasterd install` did not write.

#[cfg(unix)]
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod launchd;
#[cfg(unix)]
mod steps;
#[cfg(unix)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod systemd;

/// What launchd knows the agent by, and what its file is called.
#[cfg(unix)]
pub(crate) use launchd::LABEL as LAUNCHD_LABEL;

#[cfg(target_os = "linux")]
use systemd as manager;

#[cfg(target_os = "macos")]
use launchd as manager;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod manager {
    //! No service manager that is known here.

    use super::{Failure, Order, Wanted};
    use crate::exit::Code;

    fn not_here() -> Failure {
        let system = std::env::consts::OS;
        let remedy = "programs start the daemon themselves, or let your service manager run `broadcasterd run`";
        Failure::new(Code::Failed, format!("installing a service is not supported on {system}: {remedy}"))
    }

    pub(super) fn install(_: &Order<'_>, _: &Wanted) -> Result<(), Failure> {
        Err(not_here())
    }

    pub(super) fn uninstall(_: &Order<'_>) -> Result<(), Failure> {
        Err(not_here())
    }

    pub(super) fn restart(_: &Order<'_>) -> Result<bool, Failure> {
        Ok(false)
    }
}

use crate::exit::{Code, Failure, say};
use std::path::{Path, PathBuf};
#[cfg(unix)]
use steps::Steps;
use system_broadcaster::Options;

/// What was asked for: how to reach a running daemon, and whether to act or only to say.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) struct Order<'a> {
    pub(crate) options: &'a Options,
    /// Whether the bus was named, by an argument or a variable, so that it may be another one than the service's.
    pub(crate) named: bool,
    pub(crate) dry_run: bool,
}

impl Order<'_> {
    #[cfg(unix)]
    fn steps(&self) -> Steps {
        Steps::new(self.dry_run)
    }

    /// The process of the running daemon, if there is one.
    #[cfg(unix)]
    fn running(&self) -> Option<u32> {
        self.options.daemon().status().ok().map(|status| status.pid)
    }
}

/// What to install.
#[cfg_attr(not(unix), allow(dead_code))]
struct Wanted {
    /// This very program.
    program: PathBuf,
    /// Whether to start it at once, and not only from the next login on.
    now: bool,
}

/// Has the service manager start the daemon on first use, from now or from the next login on.
pub(crate) fn install(order: &Order<'_>, now: bool) -> Result<(), Failure> {
    let wanted = Wanted { program: own_program()?, now };
    if let Some(why) = why_not_there_for_long(&wanted.program) {
        say(format_args!("broadcasterd: warning: {} {why}", wanted.program.display()));
    }
    if order.named {
        let what = "the service is for the user's own bus, not for one that --socket or BROADCASTER_SOCKET names";
        say(format_args!("broadcasterd: warning: {what}"));
    }
    manager::install(order, &wanted)
}

/// Takes back what [`install`] did.
pub(crate) fn uninstall(order: &Order<'_>) -> Result<(), Failure> {
    manager::uninstall(order)
}

/// Has the service manager start the daemon again, if it is the one who runs it; whether it is.
pub(crate) fn restart(order: &Order<'_>) -> Result<bool, Failure> {
    manager::restart(order)
}

/// This program, as others can run it.
fn own_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    if program.is_file() {
        return Ok(program);
    }
    // Linux names a program that was removed while it ran so that there is no such file.
    Err(failed(format!("{} is not there any more: run the program that is installed now", program.display())))
}

/// Why a service should not rely on a program that is there.
fn why_not_there_for_long(program: &Path) -> Option<&'static str> {
    let is_build = program.ancestors().any(|directory| directory.join("CACHEDIR.TAG").is_file());
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()];
    if is_build {
        Some("is in a build directory: the service fails when that is cleaned; `cargo install` puts it where it stays")
    } else if temporary.iter().any(|directory| program.starts_with(directory)) {
        Some("is in a temporary directory: the service fails when that is cleaned; install the program where it stays")
    } else {
        None
    }
}

fn failed(sentence: String) -> Failure {
    Failure::new(Code::Failed, sentence)
}
