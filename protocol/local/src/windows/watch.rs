//! The stand-in for watching a directory: on Windows neither lock nor pipe can be taken away. It never looks at anything.

use std::path::Path;

/// Directories that need not be watched.
#[derive(Debug)]
pub struct Watch;

impl Watch {
    /// Watches nothing.
    pub fn new<'a>(_directories: impl IntoIterator<Item = &'a Path>) -> Self {
        Self
    }

    /// Waits forever.
    pub async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}
