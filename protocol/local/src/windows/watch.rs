//! The stand-in for watching a directory: on Windows neither lock nor pipe can be taken away. It never looks at anything.

use std::io;
use std::path::Path;

/// A directory that need not be watched.
#[derive(Debug)]
pub struct Watch;

impl Watch {
    /// Watches nothing.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub fn new(_directory: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits forever.
    ///
    /// # Errors
    ///
    /// Never on this system.
    pub async fn changed(&self) -> io::Result<()> {
        std::future::pending().await
    }
}
