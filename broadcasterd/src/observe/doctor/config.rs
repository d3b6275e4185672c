//! Whether the daemon can start with the current settings. It reads them as the daemon does, and changes none.

use super::finding::{Check, Finding, Level};
use crate::daemon::config::{Flags, Settings, Started};

/// The problem with the settings that a daemon would use; `None` if they are valid.
pub(super) fn config_check() -> Option<Finding> {
    let error = Settings::load(&Flags::default(), Started::OnDemand).err()?;
    let remedy = "correct it: no daemon can start with it; `broadcasterd config check` validates the file";
    Some(Finding::new(Check::Config, Level::Error, error.to_string(), remedy))
}
