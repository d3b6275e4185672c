//! Patterns of channel names. It never looks a channel up.

use crate::{ChannelName, NameError};
use std::fmt;
use std::str::FromStr;

/// A pattern that covers channel names: segments separated by `.`, each of them literal or a wildcard.
///
/// `*` covers exactly one segment. `**` covers one or more segments, and may only be the last one. A wildcard is always a whole segment.
/// Everything else is compared byte by byte. A name is never read as a pattern: `*` in a [`ChannelName`] is an ordinary character. The
/// rules for names apply to the text of a pattern, too. Cloning increments a reference count.
///
/// | pattern | covers | does not cover |
/// | --- | --- | --- |
/// | `com.example.*` | `com.example.sync` | `com.example`, `com.example.sync.done` |
/// | `com.*.sync` | `com.example.sync` | `com.sync` |
/// | `com.**` | `com.example`, `com.example.sync` | `com`, `org.example` |
/// | `**` | every name | |
///
/// ```
/// use system_broadcaster::{ChannelName, ChannelPattern, PatternError};
///
/// let pattern = ChannelPattern::new("com.example.*")?;
/// assert!(pattern.covers(&ChannelName::new("com.example.sync")?));
/// assert!(!pattern.covers(&ChannelName::new("com.example")?));
/// assert!(matches!(ChannelPattern::new("com.ex*"), Err(PatternError::PartOfSegment { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelPattern(broadcaster_protocol::ChannelPattern);

impl ChannelPattern {
    /// Checks `pattern` and copies it.
    ///
    /// # Errors
    ///
    /// [`PatternError`] names the rule that the pattern breaks, and the value.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self(broadcaster_protocol::ChannelPattern::new(pattern)?))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the pattern covers `name`.
    pub fn covers(&self, name: &ChannelName) -> bool {
        self.0.covers(name.wire())
    }
}

impl FromStr for ChannelPattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern)
    }
}

impl AsRef<str> for ChannelPattern {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a string is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The text is not allowed in channel names, either.
    #[error("the pattern can cover no channel: {0}")]
    Name(NameError),
    /// A `*` is only a part of a segment.
    #[error(
        "the pattern {pattern:?} has a wildcard within the segment {segment:?}; a wildcard is a whole segment, between dots"
    )]
    PartOfSegment {
        /// The pattern as given.
        pattern: Box<str>,
        /// The first segment with that fault.
        segment: Box<str>,
    },
    /// Segments follow a `**`.
    #[error("the pattern {pattern:?} goes on after \"**\", which stands for all segments up to the end")]
    RestNotLast {
        /// The pattern as given.
        pattern: Box<str>,
    },
    /// The pattern breaks a rule of a later version.
    #[error("{0}")]
    Other(Box<str>),
}

impl From<broadcaster_protocol::PatternError> for PatternError {
    fn from(error: broadcaster_protocol::PatternError) -> Self {
        use broadcaster_protocol::PatternError as Wire;
        match error {
            Wire::Name(error) => Self::Name(error.into()),
            Wire::PartOfSegment { pattern, segment } => Self::PartOfSegment { pattern, segment },
            Wire::RestNotLast { pattern } => Self::RestNotLast { pattern },
            other => Self::Other(other.to_string().into()),
        }
    }
}
