//! The metadata of a message: a small typed list before its payload. The daemon forwards it unread.
//!
//! An entry is `tag: u8`, `len: u16` (little-endian), then `len` bytes. Entries fill the metadata exactly. A reader skips tags that
//! it does not know and stops at the first entry that is cut off.

use crate::frame::ChannelId;
use crate::limits::META_BYTES_MAX;
use std::fmt;

/// Bytes of a reply address that a Reply frame can be sent to: the inbox and the number of the request, little-endian. Other addresses
/// belong to applications.
pub const REPLY_ADDRESS_BYTES: usize = 12;

/// Where replies to a message go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyAddress {
    /// The inbox of the requester.
    pub inbox: ChannelId,
    /// The number of the request.
    pub number: u64,
}

impl ReplyAddress {
    /// The value of a metadata entry with the tag [`tag::REPLY_ADDRESS`].
    pub fn to_bytes(self) -> [u8; REPLY_ADDRESS_BYTES] {
        let mut bytes = [0; REPLY_ADDRESS_BYTES];
        let (inbox, number) = bytes.split_at_mut(size_of::<u32>());
        inbox.copy_from_slice(&self.inbox.0.to_le_bytes());
        number.copy_from_slice(&self.number.to_le_bytes());
        bytes
    }
}

/// Bytes of the value of a retention entry: the lifetime and the number of messages to keep, little-endian.
pub const RETENTION_BYTES: usize = 12;

/// For how long a message is retained, and how many messages of its channel with it. The default is the value of a frame without such an
/// entry: one message, without a limit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds from the moment at which the daemon accepts the message; 0 for no limit.
    pub lifetime_ms: u64,
    /// How many messages the channel's history keeps, this one included, at least 1.
    pub keep: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { lifetime_ms: 0, keep: 1 }
    }
}

impl Retention {
    /// The value of a metadata entry with the tag [`tag::RETENTION`].
    pub fn to_bytes(self) -> [u8; RETENTION_BYTES] {
        let mut bytes = [0; RETENTION_BYTES];
        let (lifetime_ms, keep) = bytes.split_at_mut(size_of::<u64>());
        lifetime_ms.copy_from_slice(&self.lifetime_ms.to_le_bytes());
        keep.copy_from_slice(&self.keep.to_le_bytes());
        bytes
    }

    /// The retention that `value` encodes; 0 messages to keep count as one. `None` unless it has [`RETENTION_BYTES`].
    fn from_bytes(value: &[u8]) -> Option<Self> {
        let (lifetime_ms, keep) = value.split_first_chunk()?;
        let keep = u32::from_le_bytes(keep.try_into().ok()?).max(1);
        Some(Self { lifetime_ms: u64::from_le_bytes(*lifetime_ms), keep })
    }
}

/// Tags of metadata entries.
pub mod tag {
    /// Where replies go: opaque bytes.
    pub const REPLY_ADDRESS: u8 = 1;
    /// Identifies the schema of the payload: opaque bytes.
    pub const SCHEMA: u8 = 2;
    /// Media type of the payload: UTF-8.
    pub const CONTENT_TYPE: u8 = 3;
    /// Where the message came from before this bus: UTF-8.
    pub const ORIGIN: u8 = 4;
    /// A header of the application: `key_len: u8`, the key in UTF-8, the value.
    pub const HEADER: u8 = 5;
    /// For how long the message is retained, and how many messages with it: see [`Retention`](super::Retention).
    pub const RETENTION: u8 = 6;
}

/// One entry of a message's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry<'a> {
    /// Where replies go.
    ReplyAddress(&'a [u8]),
    /// The schema of the payload.
    Schema(&'a [u8]),
    /// The media type of the payload, such as `application/json`.
    ContentType(&'a str),
    /// Where the message came from before this bus.
    Origin(&'a str),
    /// A header of the application.
    Header(&'a str, &'a [u8]),
    /// For how long the message is retained, and how many messages with it.
    Retention(Retention),
}

/// The metadata of a received message, borrowed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct MetadataRef<'a>(&'a [u8]);

impl<'a> MetadataRef<'a> {
    /// The metadata in `bytes`. Any bytes are accepted; malformed entries are not yielded.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes of the metadata.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no metadata.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The well-formed entries of known tags, in order.
    pub fn entries(self) -> impl Iterator<Item = Entry<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (&[tag, low, high], tail) = rest.split_first_chunk()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
            rest = tail;
            Some((tag, value))
        })
        .filter_map(|(tag, value)| entry(tag, value))
    }

    /// The media type of the payload, if the sender stated it.
    pub fn content_type(self) -> Option<&'a str> {
        self.entries().find_map(|entry| match entry {
            Entry::ContentType(text) => Some(text),
            _ => None,
        })
    }

    /// Where replies to the message go, if its sender requests replies.
    pub fn reply_address(self) -> Option<ReplyAddress> {
        let address = self.entries().find_map(|entry| match entry {
            Entry::ReplyAddress(address) => Some(address),
            _ => None,
        })?;
        let (inbox, number) = address.split_first_chunk()?;
        let number = number.try_into().ok()?;
        Some(ReplyAddress { inbox: ChannelId(u32::from_le_bytes(*inbox)), number: u64::from_le_bytes(number) })
    }

    /// For how long a retained message is retained, and how many messages with it; the default if its sender stated nothing.
    pub fn retention(self) -> Retention {
        let stated = self.entries().find_map(|entry| match entry {
            Entry::Retention(retention) => Some(retention),
            _ => None,
        });
        stated.unwrap_or_default()
    }

    /// The value of the first header with this key.
    pub fn header(self, key: &str) -> Option<&'a [u8]> {
        self.entries().find_map(|entry| match entry {
            Entry::Header(name, value) if name == key => Some(value),
            _ => None,
        })
    }
}

impl fmt::Debug for MetadataRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

fn entry(tag: u8, value: &[u8]) -> Option<Entry<'_>> {
    Some(match tag {
        tag::REPLY_ADDRESS => Entry::ReplyAddress(value),
        tag::SCHEMA => Entry::Schema(value),
        tag::CONTENT_TYPE => Entry::ContentType(str::from_utf8(value).ok()?),
        tag::ORIGIN => Entry::Origin(str::from_utf8(value).ok()?),
        tag::HEADER => {
            let (&key_len, rest) = value.split_first()?;
            let (key, value) = rest.split_at_checked(usize::from(key_len))?;
            Entry::Header(str::from_utf8(key).ok()?, value)
        }
        tag::RETENTION => Entry::Retention(Retention::from_bytes(value)?),
        _ => return None,
    })
}

/// Metadata to send with a message.
///
/// ```
/// use broadcaster_protocol::meta::{Entry, Metadata};
///
/// let metadata = Metadata::new().content_type("application/json")?.header("trace", b"42")?;
/// assert_eq!(metadata.as_ref().content_type(), Some("application/json"));
/// assert_eq!(metadata.as_ref().header("trace"), Some(&b"42"[..]));
/// assert_eq!(metadata.as_ref().entries().count(), 2);
/// # Ok::<(), broadcaster_protocol::meta::MetadataError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Vec<u8>);

impl Metadata {
    /// No metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds where replies go.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] if the metadata would exceed its limit; the same for the methods below.
    pub fn reply_address(self, address: &[u8]) -> Result<Self, MetadataError> {
        self.with(tag::REPLY_ADDRESS, &[address])
    }

    /// Adds what identifies the schema of the payload.
    ///
    /// # Errors
    ///
    /// See [`reply_address`](Self::reply_address).
    pub fn schema(self, schema: &[u8]) -> Result<Self, MetadataError> {
        self.with(tag::SCHEMA, &[schema])
    }

    /// Adds the media type of the payload, such as `application/json`.
    ///
    /// # Errors
    ///
    /// See [`reply_address`](Self::reply_address).
    pub fn content_type(self, content_type: &str) -> Result<Self, MetadataError> {
        self.with(tag::CONTENT_TYPE, &[content_type.as_bytes()])
    }

    /// Adds where the message came from before this bus.
    ///
    /// # Errors
    ///
    /// See [`reply_address`](Self::reply_address).
    pub fn origin(self, origin: &str) -> Result<Self, MetadataError> {
        self.with(tag::ORIGIN, &[origin.as_bytes()])
    }

    /// Adds a header of the application, with a key of at most 255 bytes. A key may occur several times.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] if the key is too long or the metadata would exceed its limit.
    pub fn header(self, key: &str, value: &[u8]) -> Result<Self, MetadataError> {
        let key_len = u8::try_from(key.len()).map_err(|_| MetadataError::KeyTooLong { len: key.len() })?;
        self.with(tag::HEADER, &[&[key_len], key.as_bytes(), value])
    }

    /// Adds for how long the message is retained, and how many messages with it.
    ///
    /// # Errors
    ///
    /// See [`reply_address`](Self::reply_address).
    pub fn retention(self, retention: Retention) -> Result<Self, MetadataError> {
        self.with(tag::RETENTION, &[&retention.to_bytes()])
    }

    /// The entries of this metadata, then those of `other`. A reader of a single entry, such as the media type, finds the first.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`] if both together exceed the limit.
    pub fn followed_by(mut self, other: &Self) -> Result<Self, MetadataError> {
        let len = self.0.len() + other.0.len();
        if len > usize::from(META_BYTES_MAX) {
            return Err(MetadataError::TooLarge { len });
        }
        self.0.extend_from_slice(&other.0);
        Ok(self)
    }

    /// The bytes of the metadata.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The metadata as a receiver reads it.
    #[allow(clippy::should_implement_trait)]
    pub fn as_ref(&self) -> MetadataRef<'_> {
        MetadataRef(&self.0)
    }

    /// Size of the metadata, as the header of a frame states it.
    pub fn meta_bytes(&self) -> u16 {
        u16::try_from(self.0.len()).expect("metadata never exceeds its limit")
    }

    fn with(mut self, tag: u8, parts: &[&[u8]]) -> Result<Self, MetadataError> {
        let value_len: usize = parts.iter().map(|part| part.len()).sum();
        let len = self.0.len() + 3 + value_len;
        let fits = u16::try_from(value_len).ok().filter(|_| len <= usize::from(META_BYTES_MAX));
        let value_len = fits.ok_or(MetadataError::TooLarge { len })?;
        self.0.push(tag);
        self.0.extend_from_slice(&value_len.to_le_bytes());
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
        Ok(self)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Why an entry cannot be added to metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The metadata would exceed [`META_BYTES_MAX`].
    #[error("the metadata would have {len} bytes; the limit is {META_BYTES_MAX}")]
    TooLarge {
        /// Bytes that it would have.
        len: usize,
    },
    /// The key of a header is longer than 255 bytes.
    #[error("the header's key has {len} bytes; the limit is 255")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_malformed_entries_are_skipped() {
        let mut bytes = vec![200, 2, 0, 7, 7]; // a tag of a later version
        bytes.extend([tag::CONTENT_TYPE, 1, 0, 0xff]); // not UTF-8
        bytes.extend([tag::HEADER, 2, 0, 9, b'k']); // a key longer than the entry
        bytes.extend([tag::ORIGIN, 1, 0, b'o']);
        bytes.extend([tag::SCHEMA, 9, 0, 1]); // cut off
        assert!(MetadataRef::new(&bytes).entries().eq([Entry::Origin("o")]));
    }

    #[test]
    fn a_reply_address_has_twelve_bytes() {
        let address = ReplyAddress { inbox: ChannelId(0x0403_0201), number: 0x1817_1615_1413_1211 };
        let bytes = address.to_bytes();
        assert_eq!(bytes, [1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        let of = |address: &[u8]| Metadata::new().reply_address(address).expect("small").as_ref().reply_address();
        assert_eq!(of(&bytes), Some(address));
        for other in [&bytes[..0], &bytes[..3], &bytes[..11], &[0; 13]] {
            assert_eq!(of(other), None, "an address of an application");
        }
        assert_eq!(Metadata::new().as_ref().reply_address(), None);
    }

    #[test]
    fn a_retention_has_twelve_bytes() {
        let retention = Retention { lifetime_ms: 0x1817_1615_1413_1211, keep: 0x0403_0201 };
        let bytes = retention.to_bytes();
        assert_eq!(bytes, [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 1, 2, 3, 4]);
        let of = |value: &[u8]| Metadata::new().with(tag::RETENTION, &[value]).expect("small").as_ref().retention();
        assert_eq!(of(&bytes), retention);
        assert_eq!(Metadata::new().retention(retention).expect("small").as_ref().retention(), retention);
        for malformed in [&bytes[..0], &bytes[..4], &bytes[..11], &[1; 13]] {
            assert_eq!(of(malformed), Retention::default(), "a malformed entry is skipped");
        }
        assert_eq!(of(&[0; 12]), Retention { lifetime_ms: 0, keep: 1 }, "no messages to keep count as one");
        assert_eq!(Metadata::new().as_ref().retention(), Retention { lifetime_ms: 0, keep: 1 });
    }

    #[test]
    fn limits_are_enforced_and_named() {
        let most = usize::from(META_BYTES_MAX) - 3;
        assert!(Metadata::new().schema(&vec![0; most]).is_ok());
        let text = Metadata::new().schema(&vec![0; most + 1]).expect_err("one byte too many").to_string();
        assert!(text.contains("4097") && text.contains("4096"), "{text}");
        assert_eq!(Metadata::new().header(&"k".repeat(256), b""), Err(MetadataError::KeyTooLong { len: 256 }));
        let both = Metadata::new().header("", b"").and_then(|empty| empty.header("k", b"v")).expect("small");
        assert!(both.as_ref().entries().eq([Entry::Header("", b""), Entry::Header("k", b"v")]));
    }

    #[test]
    fn the_first_of_two_entries_is_found() {
        let first = Metadata::new().content_type("a").expect("small");
        let second = Metadata::new().content_type("b").and_then(|both| both.header("k", b"v")).expect("small");
        let both = first.clone().followed_by(&second).expect("small");
        assert_eq!((both.as_ref().content_type(), both.as_ref().header("k")), (Some("a"), Some(&b"v"[..])));
        let full = Metadata::new().schema(&vec![0; usize::from(META_BYTES_MAX) - 7]).expect("it fits");
        assert!(full.clone().followed_by(&first).is_ok(), "4096 bytes together");
        let second = Metadata::new().content_type("ab").expect("small");
        assert_eq!(full.followed_by(&second), Err(MetadataError::TooLarge { len: 4097 }));
    }

    #[test]
    fn what_was_not_stated_is_not_found() {
        let metadata = Metadata::new().header("a", b"1").and_then(|one| one.header("b", b"2")).expect("small");
        let (metadata, none) = (metadata.as_ref(), MetadataRef::default());
        assert_eq!(
            (metadata.header("b"), metadata.header("c"), metadata.content_type()),
            (Some(&b"2"[..]), None, None)
        );
        assert_eq!((metadata.is_empty(), none.is_empty(), none.header("")), (false, true, None));
    }
}
