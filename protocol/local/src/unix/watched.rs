//! Which paths to watch so that a change of the path of a directory is noticed. It never watches one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a caller looks where not everything can be watched.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(3);

/// The paths to watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Paths {
    /// The directories themselves.
    pub(super) directories: BTreeSet<PathBuf>,
    /// All directories above them but the root, which cannot be renamed.
    pub(super) above: BTreeSet<PathBuf>,
    /// Whether no link is on the way. One that is replaced makes no event.
    pub(super) are_complete: bool,
}

impl Paths {
    pub(super) fn of<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut paths = Self { directories: BTreeSet::new(), above: BTreeSet::new(), are_complete: true };
        for directory in directories {
            let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
            paths.are_complete &= real == directory;
            for path in [directory, &real] {
                let above = path.ancestors().skip(1).filter(|path| path.parent().is_some());
                paths.above.extend(above.map(Path::to_owned));
            }
            paths.directories.insert(directory.to_owned());
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_above_is_watched_and_links_are_noticed() {
        let place = tempfile::tempdir().expect("a directory");
        let real = place.path().canonicalize().expect("there");
        let (inner, link) = (real.join("a/b"), real.join("link"));
        std::fs::create_dir_all(&inner).expect("made");
        std::os::unix::fs::symlink(real.join("a"), &link).expect("linked");
        let paths = Paths::of([inner.as_path()]);
        assert!(paths.are_complete && paths.above.contains(&real.join("a")) && paths.above.contains(&real));
        assert!(!paths.above.contains(Path::new("/")));
        let linked = Paths::of([link.join("b").as_path()]);
        assert!(!linked.are_complete && linked.above.contains(&link) && linked.above.contains(&real.join("a")));
    }
}
