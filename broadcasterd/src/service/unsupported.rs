//! A system without a service manager that is supported: nothing can be installed.

use super::order::{Order, Wanted};
use crate::exit::{Code, Failure};

fn not_supported() -> Failure {
    let system = std::env::consts::OS;
    let remedy = "programs start the daemon themselves, or let your service manager run `broadcasterd run`";
    Failure::new(Code::Failed, format!("installing a service is not supported on {system}: {remedy}"))
}

pub(super) fn install(_: &Order<'_>, _: &Wanted) -> Result<(), Failure> {
    Err(not_supported())
}

pub(super) fn uninstall(_: &Order<'_>) -> Result<(), Failure> {
    Err(not_supported())
}

pub(super) fn restart(_: &Order<'_>) -> Result<bool, Failure> {
    Ok(false)
}
