//! Channel names and the rules that they follow. It never looks a channel up.

use crate::limits::CHANNEL_NAME_BYTES_MAX;
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a channel: 1 to 255 bytes of UTF-8 without `/` and control characters.
///
/// Reverse domain names (`com.example.sync`) keep programs apart; nothing enforces them. Names are
/// compared byte by byte: no case folding, no Unicode normalization. Cloning increments a reference count.
///
/// ```
/// use broadcaster_protocol::ChannelName;
///
/// let name = ChannelName::new("com.example.sync")?;
/// assert_eq!(name.as_str(), "com.example.sync");
/// assert!(ChannelName::new("no/slash").is_err());
/// # Ok::<(), broadcaster_protocol::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Checks `name` and copies it.
    ///
    /// # Errors
    ///
    /// [`NameError`] names the rule that the name breaks, the value and the limit.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(NameError::TooLong { len: name.len() });
        }
        match name.char_indices().find(|&(_, c)| c == '/' || c.is_control()) {
            Some((at, found)) => Err(NameError::Forbidden { name: name.into(), found, at }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the name between its dots: at least one, which may be empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl FromStr for ChannelName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a string is not a channel name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no bytes.
    #[error("the channel name is empty; it must have 1 to {CHANNEL_NAME_BYTES_MAX} bytes")]
    Empty,
    /// The name has more than [`CHANNEL_NAME_BYTES_MAX`] bytes.
    #[error("the channel name has {len} bytes; the limit is {CHANNEL_NAME_BYTES_MAX}")]
    TooLong {
        /// Bytes of the name.
        len: usize,
    },
    /// The name contains `/` or a control character.
    #[error("the channel name {name:?} contains {found:?} at byte {at}; '/' and control characters are not allowed")]
    Forbidden {
        /// The name as given.
        name: Box<str>,
        /// The first character that is not allowed.
        found: char,
        /// Its position, in bytes from the start.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_error() {
        assert_eq!(ChannelName::new(""), Err(NameError::Empty));
        assert_eq!(ChannelName::new(&"x".repeat(256)), Err(NameError::TooLong { len: 256 }));
        for bad in ["a/b", "a\0b", "a\nb", "a\u{7f}b", "a\u{85}b"] {
            assert!(matches!(ChannelName::new(bad), Err(NameError::Forbidden { at: 1, .. })), "{bad:?}");
        }
        assert!(ChannelName::new(&"x".repeat(255)).is_ok());
        let plain = ChannelName::new("größe.日本 *").expect("plain names are never read as patterns");
        assert_eq!((plain.as_str(), plain.as_ref()), ("größe.日本 *", "größe.日本 *"));
    }

    #[test]
    fn errors_name_value_and_limit() {
        let text = ChannelName::new(&"x".repeat(300)).expect_err("too long").to_string();
        assert!(text.contains("300") && text.contains("255"), "{text}");
        let text = ChannelName::new("a/b").expect_err("slash").to_string();
        assert!(text.contains("\"a/b\"") && text.contains("byte 1"), "{text}");
    }
}
