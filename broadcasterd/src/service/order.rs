//! What to install, and for which bus. It does nothing by itself.

use crate::exit::{Code, Failure};
use std::path::PathBuf;
use system_broadcaster::Options;

/// How to reach a running daemon, and whether to act or only to report the steps.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) struct Order<'a> {
    pub(crate) options: &'a Options,
    /// An argument or a variable names the bus, which then may not be the one of the service.
    pub(crate) named: bool,
    pub(crate) dry_run: bool,
}

impl Order<'_> {
    /// The process of the running daemon, if there is one.
    #[cfg(unix)]
    pub(super) fn running(&self) -> Option<u32> {
        self.options.daemon().status().ok().map(|status| status.pid)
    }
}

/// What to install.
#[cfg_attr(not(unix), allow(dead_code))]
pub(super) struct Wanted {
    /// This program.
    pub(super) program: PathBuf,
    /// Start the service at once, instead of at the next login.
    pub(super) now: bool,
}

/// An error of the system, as one sentence.
pub(super) fn failed(sentence: String) -> Failure {
    Failure::new(Code::Failed, sentence)
}
