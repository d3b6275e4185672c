//! Patterns of channel names. It never looks a channel up.

use crate::limits::CHANNEL_NAME_BYTES_MAX;
use crate::name::{ChannelName, NameError};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Stands for exactly one segment.
const ONE: &str = "*";

/// Stands for one or more segments, up to the end.
const REST: &str = "**";

/// A pattern that covers channel names: segments separated by `.`, each of them literal or a wildcard.
///
/// `*` covers exactly one segment. `**` covers one or more segments, and may only be the last one. A wildcard is always a whole segment.
/// Everything else is compared byte by byte. A name is never read as a pattern: the name `a.*` is covered by the pattern `a.*`, and
/// is a channel like any other. The rules for names apply to the text of a pattern, too. Cloning increments a reference count.
///
/// | pattern | covers | does not cover |
/// | --- | --- | --- |
/// | `com.example.*` | `com.example.sync` | `com.example`, `com.example.sync.done` |
/// | `com.*.sync` | `com.example.sync` | `com.sync` |
/// | `com.**` | `com.example`, `com.example.sync` | `com`, `org.example` |
/// | `**` | every name | |
///
/// ```
/// use broadcaster_protocol::{ChannelName, ChannelPattern};
///
/// let pattern = ChannelPattern::new("com.example.*")?;
/// assert!(pattern.covers(&ChannelName::new("com.example.sync")?));
/// assert!(!pattern.covers(&ChannelName::new("com.example")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelPattern(Arc<str>);

impl ChannelPattern {
    /// Checks `pattern` and copies it.
    ///
    /// # Errors
    ///
    /// [`PatternError`] names the rule that the pattern breaks, and the value.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        ChannelName::new(pattern).map_err(PatternError::Name)?;
        let mut segments = pattern.split('.').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                REST if segments.peek().is_some() => return Err(PatternError::RestNotLast { pattern: pattern.into() }),
                ONE | REST => {}
                segment if segment.contains('*') => {
                    return Err(PatternError::PartOfSegment { pattern: pattern.into(), segment: segment.into() });
                }
                _ => {}
            }
        }
        Ok(Self(pattern.into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments of the pattern, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.0.split('.').map(|segment| match segment {
            ONE => Segment::One,
            REST => Segment::Rest,
            literal => Segment::Literal(literal),
        })
    }

    /// Whether the pattern covers `name`. The effort is one pass over both.
    pub fn covers(&self, name: &ChannelName) -> bool {
        let mut names = name.segments();
        for segment in self.segments() {
            match (segment, names.next()) {
                (_, None) => return false,
                (Segment::Rest, Some(_)) => return true,
                (Segment::Literal(literal), Some(name)) if literal != name => return false,
                (Segment::One | Segment::Literal(_), Some(_)) => {}
            }
        }
        names.next().is_none()
    }

    /// What every covered name begins with: the text before the first wildcard.
    pub fn literal_prefix(&self) -> &str {
        // A wildcard is a whole segment, so that the first `*` begins one.
        self.0.find('*').map_or(&self.0, |at| &self.0[..at])
    }
}

/// One segment of a [`ChannelPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    /// This segment.
    Literal(&'a str),
    /// `*`: any one segment.
    One,
    /// `**`: one or more segments, up to the end.
    Rest,
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
}

const _: () = assert!(CHANNEL_NAME_BYTES_MAX == 255, "the longest pattern");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> ChannelPattern {
        ChannelPattern::new(text).expect("a pattern")
    }

    fn covers(text: &str, name: &str) -> bool {
        pattern(text).covers(&ChannelName::new(name).expect("a name"))
    }

    #[test]
    fn wildcards_cover_whole_segments() {
        assert!(covers("com.example.*", "com.example.sync"));
        assert!(covers("com.*.sync", "com.example.sync"));
        assert!(covers("*", "news") && covers("*.*", "a.b") && covers("*", "*"));
        assert!(covers("a.*", "a.") && covers("*.b", ".b"), "a segment may be empty");
        for (text, name) in [
            ("com.example.*", "com.example"),
            ("com.example.*", "com.example.a.b"),
            ("com.*.sync", "com.sync"),
            ("*", "a.b"),
        ] {
            assert!(!covers(text, name), "{text} {name}");
        }
    }

    #[test]
    fn the_rest_is_one_segment_or_more() {
        assert!(covers("com.**", "com.example") && covers("com.**", "com.example.sync") && covers("com.**", "com."));
        assert!(covers("**", "x") && covers("**", "x.y.z"));
        assert!(!covers("com.**", "com") && !covers("com.**", "come.on"));
        assert!(covers("a.*.**", "a.b.c") && !covers("a.*.**", "a.b"));
    }

    #[test]
    fn text_without_wildcards_covers_its_name_alone() {
        assert!(covers("com.example", "com.example"));
        assert!(!covers("com.example", "com.example.sync") && !covers("com.example", "com"));
    }

    #[test]
    fn every_rule_has_its_error() {
        let error = |text| ChannelPattern::new(text).expect_err("not a pattern").to_string();
        for (text, part) in [
            ("", "empty"),
            ("a/*", "'/'"),
            ("a.b*", "\"b*\""),
            ("***", "\"***\""),
            ("a.**.b", "goes on after"),
            ("**.**", "goes on after"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }

    #[test]
    fn the_literal_prefix_ends_before_the_first_wildcard() {
        for (text, prefix) in [("a.b.*", "a.b."), ("**", ""), ("a.b", "a.b"), ("a.*.c", "a.")] {
            assert_eq!(pattern(text).literal_prefix(), prefix);
        }
    }

    /// The definition, in another way: recursion over both lists.
    fn model(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], [_, ..]) => true,
            ([first, rest @ ..], [segment, names @ ..]) => (*first == "*" || first == segment) && model(rest, names),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_covers_what_its_definition_covers(
            mut segments in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*"), Just("")], 1..5),
            rest in any::<bool>(),
            names in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("")], 1..6),
        ) {
            if rest {
                segments.push("**");
            }
            let (text, name) = (segments.join("."), names.join("."));
            prop_assume!(!text.is_empty() && !name.is_empty());
            prop_assert_eq!(covers(&text, &name), model(&segments, &names));
            if covers(&text, &name) {
                prop_assert!(name.starts_with(pattern(&text).literal_prefix()));
            }
        }
    }
}
