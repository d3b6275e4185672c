//! Limits, processes and paths as findings spell them.

use crate::observe::doctor::facts::Holder;
use broadcaster_server::{Limits, connections_within};
use std::path::Path;

/// How many connections a daemon accepts by default if it may open this many files; `None` if that is unknown.
pub(super) fn connections_max(open_files: Option<u64>) -> usize {
    let max = Limits::default().connections_max;
    open_files.map_or(max, |files| max.min(connections_within(Some(files))))
}

/// The remedy for a place that belongs to another user.
pub(super) const OWN_PLACE: &str = "set BROADCASTER_SOCKET or XDG_RUNTIME_DIR to a directory of your own, or log in as that user \
                         instead of using su";

pub(super) fn named(holder: &Holder) -> String {
    match &holder.name {
        Some(name) => format!("process {} ({name})", holder.pid),
        None => format!("process {}", holder.pid),
    }
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The path as one shell word.
pub(super) fn quoted(path: &Path) -> String {
    let path = shown(path);
    let plain = |character: char| character.is_alphanumeric() || "/._-+@%:,=".contains(character);
    if !path.is_empty() && path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
