//! Which channels a listener receives. It never looks a channel up.

use crate::{ChannelName, ChannelPattern, NameError, PatternError};
use std::fmt;

/// Which channels a listener receives: one by its name, or all that a pattern covers.
///
/// The two are different types, so that a name is never read as a pattern. A pattern covers a channel from the moment it appears.
///
/// ```
/// use system_broadcaster::{ChannelName, Selector};
///
/// let one = Selector::name("com.example.*")?; // the channel of exactly this name
/// let many = Selector::pattern("com.example.*")?;
/// let sync = ChannelName::new("com.example.sync")?;
/// assert!(!one.covers(&sync) && many.covers(&sync));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// The channel of this name.
    Name(ChannelName),
    /// Every channel whose name this pattern covers, including those that appear later.
    Pattern(ChannelPattern),
}

impl Selector {
    /// The channel `name`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the name is not allowed.
    pub fn name(name: &str) -> Result<Self, NameError> {
        ChannelName::new(name).map(Self::Name)
    }

    /// The channels that `pattern` covers.
    ///
    /// # Errors
    ///
    /// [`PatternError`] if it is not a pattern.
    pub fn pattern(pattern: &str) -> Result<Self, PatternError> {
        ChannelPattern::new(pattern).map(Self::Pattern)
    }

    /// The name or the pattern as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    /// Whether it selects the channel `name`.
    pub fn covers(&self, name: &ChannelName) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Pattern(pattern) => pattern.covers(name),
        }
    }
}

impl From<ChannelName> for Selector {
    fn from(name: ChannelName) -> Self {
        Self::Name(name)
    }
}

impl From<ChannelPattern> for Selector {
    fn from(pattern: ChannelPattern) -> Self {
        Self::Pattern(pattern)
    }
}

impl From<&Self> for Selector {
    fn from(selector: &Self) -> Self {
        selector.clone()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
