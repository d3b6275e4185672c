//! Messages as notifications: a message becomes a small dictionary, and a dictionary, which any process may have posted, becomes a
//! message or is rejected. It never handles values of the system, only the neutral ones below.

use crate::ChannelName;
use broadcaster_protocol::SenderId;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The largest payload of a notification, in bytes. The system copies each notification several times, and guarantees no size.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 4096;

/// The largest payload that `system-broadcaster` 0.1 accepts from a notification, in bytes.
const PAYLOAD_BYTES_MAX_0_1: u32 = 1000;

/// The most entries of a dictionary that is examined.
pub(crate) const ENTRIES_MAX: usize = 16;

/// The longest key or text that is examined, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;

/// The prefix of a notification's name, before the channel's name.
const NAME_PREFIX: &str = "com.system-broadcaster.channel.";

/// The version of the dictionary below.
const VERSION: i64 = 1;

const KEY_VERSION: &str = "version";
const KEY_SENDER: &str = "sender";
const KEY_SEQUENCE: &str = "sequence";
const KEY_CHANNEL: &str = "channel";
const KEY_BYTES: &str = "bytes";
const KEY_PAYLOAD: &str = "payload";

/// The only key of `system-broadcaster` 0.1.
const KEY_0_1: &str = "sys-broadcaster-payload";

/// One value of a dictionary, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text of at most [`TEXT_BYTES_MAX`].
    Text(String),
    /// Bytes, at most [`PAYLOAD_BYTES_MAX`] of them.
    Bytes(Bytes),
    /// An integer.
    Integer(i64),
    /// Text or bytes beyond what is examined. They were not copied.
    TooLarge,
    /// Anything else.
    Other,
}

/// What came with a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Info {
    /// Nothing but its name.
    Absent,
    /// A dictionary of at most [`ENTRIES_MAX`] entries with text as keys.
    Entries(BTreeMap<String, Value>),
    /// Anything else.
    Other,
}

impl Info {
    /// The approximate number of bytes that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        let Self::Entries(entries) = self else { return 0 };
        let of = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Integer(_) | Value::TooLarge | Value::Other => 0,
        };
        entries.iter().map(|(key, value)| key.len() + of(value)).sum()
    }
}

/// How a message is put into a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// With sender and sequence number, so that a message that arrives twice is received once.
    Current,
    /// The one of `system-broadcaster` 0.1: a payload and nothing else, under the channel's own name.
    V01,
}

/// What a notification claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A message with its place among those of its sender.
    Message {
        /// The sender, as claimed.
        sender: SenderId,
        /// Its sequence number.
        sequence: u64,
        /// What was sent.
        payload: Bytes,
    },
    /// A message without a sender.
    Anonymous(Bytes),
    /// Something was sent, by a program that may post only a name.
    Doorbell,
}

/// Why a notification is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It carries something other than a small dictionary.
    NoDictionary,
    /// This key is missing.
    Missing(&'static str),
    /// The value of this key has the wrong type.
    WrongKind(&'static str),
    /// Its version is unknown.
    Version,
    /// It names another channel than the name of the notification does.
    Channel,
    /// The payload has another length than announced.
    Length,
    /// The payload is larger than allowed.
    TooLarge,
    /// The sender or its sequence number is not valid.
    Sender,
}

impl Dialect {
    /// The notification's name for a channel.
    pub(crate) fn name(self, channel: &ChannelName) -> String {
        match self {
            Self::Current => format!("{NAME_PREFIX}{}", channel.as_str()),
            Self::V01 => channel.as_str().to_owned(),
        }
    }

    /// The largest payload, in bytes.
    pub(crate) fn payload_bytes_max(self) -> u32 {
        match self {
            Self::Current => PAYLOAD_BYTES_MAX,
            Self::V01 => PAYLOAD_BYTES_MAX_0_1,
        }
    }

    /// The dictionary for a message, whose payload must fit.
    pub(crate) fn encode(self, channel: &ChannelName, sender: SenderId, sequence: u64, payload: &[u8]) -> Info {
        let payload_value = Value::Bytes(Bytes::copy_from_slice(payload));
        let entry = |key: &str, value| (key.to_owned(), value);
        let integer = |number: Option<i64>| number.map_or(Value::Other, Value::Integer);
        Info::Entries(match self {
            Self::V01 => BTreeMap::from([entry(KEY_0_1, payload_value)]),
            Self::Current => BTreeMap::from([
                entry(KEY_VERSION, Value::Integer(VERSION)),
                entry(KEY_SENDER, Value::Text(format!("{:016x}", sender.raw()))),
                entry(KEY_SEQUENCE, integer(i64::try_from(sequence).ok())),
                entry(KEY_CHANNEL, Value::Text(channel.as_str().to_owned())),
                entry(KEY_BYTES, integer(i64::try_from(payload.len()).ok())),
                entry(KEY_PAYLOAD, payload_value),
            ]),
        })
    }

    /// The content of a notification under the channel's name. It cannot be trusted, because any process may have posted it.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the notification must be ignored.
    pub(crate) fn decode(self, channel: &ChannelName, info: &Info) -> Result<Content, Malformed> {
        let entries = match (info, self) {
            (Info::Entries(entries), _) => entries,
            (Info::Absent, Self::Current) => return Ok(Content::Doorbell),
            (Info::Absent, Self::V01) => return Ok(Content::Anonymous(Bytes::new())),
            (Info::Other, _) => return Err(Malformed::NoDictionary),
        };
        let payload = |key| match entries.get(key) {
            Some(Value::Bytes(bytes)) if bytes.len() <= self.payload_bytes_max() as usize => Ok(bytes.clone()),
            Some(Value::Bytes(_) | Value::TooLarge) => Err(Malformed::TooLarge),
            Some(_) => Err(Malformed::WrongKind(key)),
            None => Err(Malformed::Missing(key)),
        };
        if self == Self::V01 {
            return payload(KEY_0_1).map(Content::Anonymous);
        }
        let integer = |key| match entries.get(key) {
            Some(Value::Integer(number)) => Ok(*number),
            Some(_) => Err(Malformed::WrongKind(key)),
            None => Err(Malformed::Missing(key)),
        };
        let text = |key| match entries.get(key) {
            Some(Value::Text(text)) => Ok(text.as_str()),
            Some(_) => Err(Malformed::WrongKind(key)),
            None => Err(Malformed::Missing(key)),
        };
        if integer(KEY_VERSION)? != VERSION {
            return Err(Malformed::Version);
        }
        if text(KEY_CHANNEL)? != channel.as_str() {
            return Err(Malformed::Channel);
        }
        let sender = text(KEY_SENDER)?;
        let digits = sender.len() == 16 && sender.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let sender = u64::from_str_radix(sender, 16).ok().filter(|_| digits).ok_or(Malformed::Sender)?;
        let sequence = u64::try_from(integer(KEY_SEQUENCE)?).map_err(|_| Malformed::Sender)?;
        let payload = payload(KEY_PAYLOAD)?;
        if usize::try_from(integer(KEY_BYTES)?) != Ok(payload.len()) {
            return Err(Malformed::Length);
        }
        Ok(Content::Message { sender: SenderId::from_raw(sender), sequence, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> ChannelName {
        ChannelName::new("com.example.news").expect("a name")
    }

    fn encoded() -> BTreeMap<String, Value> {
        let Info::Entries(entries) = Dialect::Current.encode(&channel(), SenderId::new(7, 9), 5, b"hello") else {
            unreachable!()
        };
        entries
    }

    fn decoded_with(key: &str, value: Option<Value>) -> Result<Content, Malformed> {
        let mut entries = encoded();
        match value {
            Some(value) => entries.insert(key.to_owned(), value),
            None => entries.remove(key),
        };
        Dialect::Current.decode(&channel(), &Info::Entries(entries))
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for payload in [&b""[..], b"hello", &[0xff; PAYLOAD_BYTES_MAX as usize]] {
            let sender = SenderId::from_raw(u64::MAX);
            let info = Dialect::Current.encode(&channel(), sender, 5, payload);
            let content = Content::Message { sender, sequence: 5, payload: Bytes::copy_from_slice(payload) };
            assert_eq!(Dialect::Current.decode(&channel(), &info), Ok(content));
        }
        let info = Dialect::V01.encode(&channel(), SenderId::new(7, 9), 5, b"hello");
        assert_eq!(Dialect::V01.decode(&channel(), &info), Ok(Content::Anonymous(Bytes::from_static(b"hello"))));
    }

    #[test]
    fn the_notification_of_0_1_is_what_it_always_was() {
        let info = Dialect::V01.encode(&channel(), SenderId::new(7, 9), 5, b"x");
        let entry = ("sys-broadcaster-payload".to_owned(), Value::Bytes(Bytes::from_static(b"x")));
        assert_eq!(info, Info::Entries(BTreeMap::from([entry])));
        assert_eq!(Dialect::V01.name(&channel()), "com.example.news");
        assert_ne!(Dialect::Current.name(&channel()), Dialect::V01.name(&channel()), "they must not meet by chance");
    }

    #[test]
    fn without_a_dictionary_it_is_a_doorbell_and_was_an_empty_message() {
        assert_eq!(Dialect::Current.decode(&channel(), &Info::Absent), Ok(Content::Doorbell));
        assert_eq!(Dialect::V01.decode(&channel(), &Info::Absent), Ok(Content::Anonymous(Bytes::new())));
        for dialect in [Dialect::Current, Dialect::V01] {
            assert_eq!(dialect.decode(&channel(), &Info::Other), Err(Malformed::NoDictionary));
        }
    }

    #[test]
    fn every_key_is_needed_and_of_its_kind() {
        for key in [KEY_VERSION, KEY_SENDER, KEY_SEQUENCE, KEY_CHANNEL, KEY_BYTES, KEY_PAYLOAD] {
            assert_eq!(decoded_with(key, None), Err(Malformed::Missing(key)));
            assert_eq!(decoded_with(key, Some(Value::Other)), Err(Malformed::WrongKind(key)));
        }
        let empty = Info::Entries(BTreeMap::new());
        assert_eq!(Dialect::V01.decode(&channel(), &empty), Err(Malformed::Missing(KEY_0_1)));
        let text = Info::Entries(BTreeMap::from([(KEY_0_1.to_owned(), Value::Text("x".into()))]));
        assert_eq!(Dialect::V01.decode(&channel(), &text), Err(Malformed::WrongKind(KEY_0_1)));
    }

    #[test]
    fn false_claims_are_rejected() {
        let cases = [
            (KEY_VERSION, Value::Integer(2), Malformed::Version),
            (KEY_CHANNEL, Value::Text("com.example.other".into()), Malformed::Channel),
            (KEY_SENDER, Value::Text("7".into()), Malformed::Sender),
            (KEY_SENDER, Value::Text("+000000000000007".into()), Malformed::Sender),
            (KEY_SENDER, Value::TooLarge, Malformed::WrongKind(KEY_SENDER)),
            (KEY_SEQUENCE, Value::Integer(-1), Malformed::Sender),
            (KEY_BYTES, Value::Integer(4), Malformed::Length),
            (KEY_BYTES, Value::Integer(-5), Malformed::Length),
            (KEY_PAYLOAD, Value::TooLarge, Malformed::TooLarge),
            (KEY_PAYLOAD, Value::Bytes(vec![0; PAYLOAD_BYTES_MAX as usize + 1].into()), Malformed::TooLarge),
        ];
        for (key, value, why) in cases {
            assert_eq!(decoded_with(key, Some(value.clone())), Err(why), "{key} {value:?}");
        }
        let entry = (KEY_0_1.to_owned(), Value::Bytes(vec![0; 1001].into()));
        let large = Info::Entries(BTreeMap::from([entry]));
        assert_eq!(Dialect::V01.decode(&channel(), &large), Err(Malformed::TooLarge));
    }

    #[test]
    fn entries_of_later_versions_are_ignored() {
        assert!(decoded_with("colour", Some(Value::Other)).is_ok());
    }
}
