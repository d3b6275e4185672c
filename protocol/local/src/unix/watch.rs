//! Noticing that the paths of directories, or the names in them, change. It never examines what has changed.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "watch_inotify.rs"]
mod events;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "watch_kqueue.rs"]
mod events;

use events::Events;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a caller checks by itself where not everything can be watched.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// Watched directories.
#[derive(Debug)]
pub struct Watch {
    /// `None` if the system cannot watch anything.
    events: Option<Events>,
    /// Nothing that matters can change without an event.
    is_complete: bool,
}

impl Watch {
    /// Watches the path of each of `directories` and the names in it, in the current runtime. Where the system cannot watch all of this, a
    /// change is noticed within three seconds.
    pub fn new<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths = Paths::of(directories);
        let (events, are_all) = Events::of(&paths).map_or((None, false), |(events, are_all)| (Some(events), are_all));
        Self { events, is_complete: paths.are_complete && are_all }
    }

    /// Waits until something may have changed. The caller then checks what it is interested in.
    pub async fn changed(&self) {
        match &self.events {
            Some(events) if self.is_complete => events.next().await,
            // The caller checks in either case.
            Some(events) => drop(tokio::time::timeout(CHECK_EVERY, events.next()).await),
            None => tokio::time::sleep(CHECK_EVERY).await,
        }
    }
}

/// The paths to watch in order to notice that the path of a directory changes.
#[derive(Debug, PartialEq, Eq)]
struct Paths {
    /// The directories themselves.
    directories: BTreeSet<PathBuf>,
    /// All directories above them except the root, which cannot be renamed.
    above: BTreeSet<PathBuf>,
    /// Whether none of the paths contains a link: replacing a link causes no event.
    are_complete: bool,
}

impl Paths {
    fn of<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Self {
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
