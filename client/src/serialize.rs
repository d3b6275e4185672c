//! Names and ids as serde values, so that a channel can be sent over a channel. What is deserialized obeys the same rules as what is
//! created.

use crate::{ChannelName, ChannelPattern, Selector, SenderId};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// A value whose text obeys rules.
struct Text<T> {
    what: &'static str,
    value: PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// As a string.
impl Serialize for ChannelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// From a string, which must be allowed as a name.
impl<'de> Deserialize<'de> for ChannelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { what: "the name of a channel", value: PhantomData })
    }
}

/// As a string.
impl Serialize for ChannelPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// From a string, which must be a pattern.
impl<'de> Deserialize<'de> for ChannelPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { what: "a pattern of channel names", value: PhantomData })
    }
}

/// A [`Selector`] to read.
#[derive(Deserialize)]
#[serde(rename = "Selector", rename_all = "snake_case")]
enum Selected {
    Name(ChannelName),
    Pattern(ChannelPattern),
}

/// As the variant `name` or `pattern`, so that a name is never read as a pattern.
impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_newtype_variant("Selector", 0, "name", name),
            Self::Pattern(pattern) => serializer.serialize_newtype_variant("Selector", 1, "pattern", pattern),
        }
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Selected::deserialize(deserializer)? {
            Selected::Name(name) => Self::Name(name),
            Selected::Pattern(pattern) => Self::Pattern(pattern),
        })
    }
}

/// A [`SenderId`] in its parts: 0 for a process id that is not known.
#[derive(Serialize, Deserialize)]
#[serde(rename = "SenderId")]
struct Parts {
    pid: u32,
    number: u32,
}

/// As a struct with the fields `pid`, 0 if it is not known, and `number`.
impl Serialize for SenderId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts { pid: self.pid().unwrap_or_default(), number: self.number() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SenderId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { pid, number } = Parts::deserialize(deserializer)?;
        Ok(broadcaster_protocol::SenderId::new(pid, number).into())
    }
}
