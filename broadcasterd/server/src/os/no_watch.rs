//! The stand-in where nothing has to be watched: on Windows neither lock nor pipe can be taken away. It never looks at anything.

use std::io;
use std::path::Path;

/// A directory that is not watched.
#[derive(Debug)]
pub(crate) struct Watch;

impl Watch {
    /// Watches nothing.
    pub(crate) fn new(_directory: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for ever.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        std::future::pending().await
    }
}
