//! The environment of this process: its variables and its sandboxes.

use super::place::node;
use crate::observe::doctor::facts::Environment;
use crate::observe::doctor::system;
use std::path::{Path, PathBuf};

/// The path in a variable, unless it is empty.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub(super) fn inspect_environment(euid: u32) -> Environment {
    let with_node = |path: PathBuf| {
        let node = node(&path);
        (path, node)
    };
    let marks = [
        (Path::new("/.flatpak-info").exists(), "a Flatpak sandbox"),
        (variable("SNAP").is_some(), "a Snap sandbox"),
        (Path::new("/run/.containerenv").exists() || Path::new("/.dockerenv").exists(), "a container"),
    ];
    let marks = marks.into_iter().filter_map(|(there, mark)| there.then_some(mark));
    Environment {
        uid: rustix::process::getuid().as_raw(),
        home: variable("HOME"),
        runtime_dir: variable("XDG_RUNTIME_DIR").map(with_node),
        run_user: with_node(PathBuf::from(format!("/run/user/{euid}"))),
        sudo_user: variable("SUDO_USER").map(|name| name.to_string_lossy().into_owned()),
        isolation: marks.chain(system::isolation()).collect(),
    }
}
