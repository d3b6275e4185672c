//! Names of channels, and ids of senders. It never looks a channel up.

use std::fmt;
use std::str::FromStr;

/// The name of a channel: 1 to 255 bytes of UTF-8 without `/` and control characters.
///
/// Reverse domain names (`com.example.sync`) keep programs apart; nothing enforces them. Names are compared byte by byte: no case
/// folding, no Unicode normalization. Cloning increments a reference count.
///
/// ```
/// use system_broadcaster::{ChannelName, NameError};
///
/// let name = ChannelName::new("com.example.sync")?;
/// assert_eq!(name.as_str(), "com.example.sync");
/// assert!(matches!(ChannelName::new("no/slash"), Err(NameError::Forbidden { found: '/', at: 2, .. })));
/// # Ok::<(), NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(broadcaster_protocol::ChannelName);

impl ChannelName {
    /// Checks `name` and copies it.
    ///
    /// # Errors
    ///
    /// [`NameError`] names the rule that the name breaks, the value and the limit.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Ok(Self(broadcaster_protocol::ChannelName::new(name)?))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn wire(&self) -> &broadcaster_protocol::ChannelName {
        &self.0
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
    #[error("the channel name is empty; it must have 1 to {} bytes", Self::MAX)]
    Empty,
    /// The name has more than 255 bytes.
    #[error("the channel name has {len} bytes; the limit is {}", Self::MAX)]
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
    /// The name breaks a rule of a later version.
    #[error("{0}")]
    Other(Box<str>),
}

impl NameError {
    const MAX: usize = broadcaster_protocol::limits::CHANNEL_NAME_BYTES_MAX;
}

impl From<broadcaster_protocol::NameError> for NameError {
    fn from(error: broadcaster_protocol::NameError) -> Self {
        use broadcaster_protocol::NameError as Wire;
        match error {
            Wire::Empty => Self::Empty,
            Wire::TooLong { len } => Self::TooLong { len },
            Wire::Forbidden { name, found, at } => Self::Forbidden { name, found, at },
            other => Self::Other(other.to_string().into()),
        }
    }
}

/// A sender: its process, and a number that distinguishes the senders of one process. It stays the same for as long as the handle
/// lives, across restarts of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderId(broadcaster_protocol::SenderId);

impl SenderId {
    /// The sender's process id, as the kernel reports it to the daemon; `None` where it does not (another pid namespace, some
    /// platforms), and for a message of `system-broadcaster` 0.1.
    pub fn pid(self) -> Option<u32> {
        Some(self.0.pid()).filter(|&pid| pid != 0)
    }

    /// The number of the sender within its process.
    pub fn number(self) -> u32 {
        self.0.number()
    }
}

impl From<broadcaster_protocol::SenderId> for SenderId {
    fn from(id: broadcaster_protocol::SenderId) -> Self {
        Self(id)
    }
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
