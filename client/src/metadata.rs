//! What a sender can attach to a message, beside its payload. The daemon forwards it unread.

use broadcaster_protocol::meta;
use std::fmt;

/// Metadata to send with a message: see [`Sender::send_with`](crate::Sender::send_with). At most 4096 bytes.
///
/// ```
/// use system_broadcaster::Metadata;
///
/// let metadata = Metadata::new().content_type("application/json")?.header("trace", b"42")?;
/// assert_eq!(metadata.as_ref().content_type(), Some("application/json"));
/// assert_eq!(metadata.as_ref().header("trace"), Some(&b"42"[..]));
/// # Ok::<(), system_broadcaster::MetadataError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(meta::Metadata);

impl Metadata {
    /// No metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the media type of the payload, such as `application/json`.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] if the metadata would exceed its limit; the same for the other methods.
    pub fn content_type(self, content_type: &str) -> Result<Self, MetadataError> {
        Ok(Self(self.0.content_type(content_type)?))
    }

    /// Adds what identifies the schema of the payload.
    ///
    /// # Errors
    ///
    /// See [`content_type`](Self::content_type).
    pub fn schema(self, schema: &[u8]) -> Result<Self, MetadataError> {
        Ok(Self(self.0.schema(schema)?))
    }

    /// Adds where the message came from before it reached this bus.
    ///
    /// # Errors
    ///
    /// See [`content_type`](Self::content_type).
    pub fn origin(self, origin: &str) -> Result<Self, MetadataError> {
        Ok(Self(self.0.origin(origin)?))
    }

    /// Adds where replies go.
    ///
    /// # Errors
    ///
    /// See [`content_type`](Self::content_type).
    pub fn reply_address(self, address: &[u8]) -> Result<Self, MetadataError> {
        Ok(Self(self.0.reply_address(address)?))
    }

    /// Adds a header of the application, with a key of at most 255 bytes. A key may occur several times.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] if the key is too long or the metadata would exceed its limit.
    pub fn header(self, key: &str, value: &[u8]) -> Result<Self, MetadataError> {
        Ok(Self(self.0.header(key, value)?))
    }

    /// The entries of this metadata, then those of `other`.
    #[cfg(feature = "serde")]
    pub(crate) fn followed_by(self, other: &Self) -> Result<Self, MetadataError> {
        Ok(Self(self.0.followed_by(&other.0)?))
    }

    /// The metadata as a listener reads it.
    #[allow(clippy::should_implement_trait)]
    pub fn as_ref(&self) -> MetadataRef<'_> {
        MetadataRef(self.0.as_ref())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The metadata of a message. It is the sender's claim, like the payload.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct MetadataRef<'a>(meta::MetadataRef<'a>);

impl<'a> MetadataRef<'a> {
    pub(crate) fn new(metadata: meta::MetadataRef<'a>) -> Self {
        Self(metadata)
    }

    /// Whether the sender attached nothing.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The media type of the payload.
    pub fn content_type(self) -> Option<&'a str> {
        self.0.content_type()
    }

    /// What identifies the schema of the payload.
    pub fn schema(self) -> Option<&'a [u8]> {
        self.find(|entry| match entry {
            meta::Entry::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// Where the message came from before it reached this bus.
    pub fn origin(self) -> Option<&'a str> {
        self.find(|entry| match entry {
            meta::Entry::Origin(origin) => Some(origin),
            _ => None,
        })
    }

    /// Where replies go.
    pub fn reply_address(self) -> Option<&'a [u8]> {
        self.find(|entry| match entry {
            meta::Entry::ReplyAddress(address) => Some(address),
            _ => None,
        })
    }

    /// The value of the first header with this key.
    pub fn header(self, key: &str) -> Option<&'a [u8]> {
        self.0.header(key)
    }

    /// The headers of the application, in order.
    pub fn headers(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.0.entries().filter_map(|entry| match entry {
            meta::Entry::Header(key, value) => Some((key, value)),
            _ => None,
        })
    }

    fn find<T>(self, pick: impl Fn(meta::Entry<'a>) -> Option<T>) -> Option<T> {
        self.0.entries().find_map(pick)
    }
}

impl fmt::Debug for MetadataRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why an entry cannot be added to [`Metadata`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The metadata would have more than 4096 bytes.
    #[error("the metadata would have {len} bytes; the limit is {}", broadcaster_protocol::limits::META_BYTES_MAX)]
    TooLarge {
        /// Bytes that it would have.
        len: usize,
    },
    /// The key of a header has more than 255 bytes.
    #[error("the header's key has {len} bytes; the limit is 255")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
    },
    /// The entry breaks a rule of a later version.
    #[error("the entry cannot be added")]
    Other,
}

impl From<meta::MetadataError> for MetadataError {
    fn from(error: meta::MetadataError) -> Self {
        match error {
            meta::MetadataError::TooLarge { len } => Self::TooLarge { len },
            meta::MetadataError::KeyTooLong { len } => Self::KeyTooLong { len },
            _ => Self::Other,
        }
    }
}
