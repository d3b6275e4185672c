//! Subscriptions to patterns, and which of them cover a name. It never looks at a channel.
//!
//! Patterns are kept in the order of their texts. The search for those that cover a name goes from segment to segment of the name,
//! with the segment itself and with `*`, and only on if a pattern begins with what it has by then. Patterns that begin otherwise cost it
//! nothing but the depth of the tree.

use crate::event::ConnId;
use crate::registry::Subscriber;
use broadcaster_protocol::{ChannelName, ChannelPattern};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

/// The subscriptions to one pattern.
pub(crate) type Covering = BTreeMap<ConnId, Subscriber>;

#[derive(Debug, Default)]
pub(crate) struct Patterns {
    by_text: BTreeMap<Box<str>, Covering>,
    len: usize,
    segments: usize,
}

impl Patterns {
    /// Number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of segments in the patterns of all subscriptions.
    pub(crate) fn segments(&self) -> usize {
        self.segments
    }

    pub(crate) fn insert(&mut self, pattern: &ChannelPattern, subscriber: Subscriber) {
        let covering = self.by_text.entry(pattern.as_str().into()).or_default();
        if covering.insert(subscriber.conn, subscriber).is_none() {
            self.len += 1;
            self.segments += pattern.segments().count();
        }
    }

    pub(crate) fn remove(&mut self, pattern: &ChannelPattern, conn: ConnId) {
        let Entry::Occupied(mut covering) = self.by_text.entry(pattern.as_str().into()) else { return };
        if covering.get_mut().remove(&conn).is_some() {
            self.len -= 1;
            self.segments -= pattern.segments().count();
        }
        if covering.get().is_empty() {
            covering.remove();
        }
    }

    /// Calls `found` with the subscriptions to each pattern that covers `name`. Returns the effort: one for each step from a segment to
    /// the next.
    pub(crate) fn each_covering(&self, name: &ChannelName, found: &mut dyn FnMut(&Covering)) -> usize {
        if self.by_text.is_empty() {
            return 0;
        }
        self.search(&mut String::new(), name.as_str(), found)
    }

    /// The same for the patterns that begin with `prefix`, which covers all of the name in front of `name`.
    fn search(&self, prefix: &mut String, name: &str, found: &mut dyn FnMut(&Covering)) -> usize {
        let (segment, rest) = name.split_once('.').map_or((name, None), |(segment, rest)| (segment, Some(rest)));
        let mut steps = 1;
        let end = prefix.len();
        let mut with = |next: &str, goes_on: bool, prefix: &mut String| {
            prefix.truncate(end);
            prefix.push_str(next);
            match rest.filter(|_| goes_on) {
                Some(rest) => {
                    prefix.push('.');
                    if self.begins_with(prefix) {
                        steps += self.search(prefix, rest, found);
                    }
                }
                None => self.by_text.get(prefix.as_str()).into_iter().for_each(&mut *found),
            }
            prefix.truncate(end);
        };
        with("**", false, prefix);
        with("*", true, prefix);
        // A segment with a `*` in a pattern is never literal.
        if !segment.contains('*') {
            with(segment, true, prefix);
        }
        steps
    }

    fn begins_with(&self, prefix: &str) -> bool {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.by_text.range::<str, _>(from).next().is_some_and(|(text, _)| text.starts_with(prefix))
    }

    /// Checks the counts, and that these are all subscriptions.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn invariants<'a>(&self, subscriptions: impl Iterator<Item = (&'a ChannelPattern, ConnId, bool)>) {
        let (mut len, mut segments) = (0, 0);
        for (pattern, conn, observer) in subscriptions {
            let subscriber = self.by_text.get(pattern.as_str()).and_then(|covering| covering.get(&conn));
            let kept = subscriber.map(|subscriber| (subscriber.conn, subscriber.terms.observer));
            assert_eq!(kept, Some((conn, observer)), "the subscription to {pattern:?}");
            (len, segments) = (len + 1, segments + pattern.segments().count());
        }
        let kept = self.by_text.values().map(BTreeMap::len).sum::<usize>();
        assert_eq!((kept, self.len, self.segments), (len, len, segments), "subscriptions to patterns");
        assert!(self.by_text.values().all(|covering| !covering.is_empty()), "a pattern without a subscription");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::outbox::Terms;
    use broadcaster_protocol::control::Overflow;
    use fastrand::Rng;
    use std::collections::BTreeSet;

    fn subscriber(conn: usize) -> Subscriber {
        Subscriber::new(ConnId(conn), Terms { overflow: Overflow::DropOldest, observer: false, replay: 0 }, 0)
    }

    fn found(patterns: &Patterns, name: &str) -> (Vec<ConnId>, usize) {
        let mut conns = Vec::new();
        let steps =
            patterns.each_covering(&ChannelName::new(name).unwrap(), &mut |covering| conns.extend(covering.keys()));
        conns.sort_unstable();
        (conns, steps)
    }

    fn text(rng: &mut Rng, segments: &[&str]) -> String {
        let count = rng.usize(1..5);
        (0..count).map(|_| segments[rng.usize(..segments.len())]).collect::<Vec<_>>().join(".")
    }

    #[test]
    fn the_search_finds_what_each_pattern_covers() {
        let mut rng = Rng::with_seed(7);
        let (mut covered, mut emptied) = (0, 0);
        for _ in 0..200 {
            let (mut patterns, mut kept) = (Patterns::default(), BTreeSet::new());
            for _ in 0..rng.usize(1..60) {
                let mut text = text(&mut rng, &["a", "b", "", "*", "a*"]);
                if rng.u32(..3) == 0 {
                    text += ".**";
                }
                let (Ok(pattern), conn) = (ChannelPattern::new(&text), rng.usize(..4)) else { continue };
                if rng.u32(..3) == 0 {
                    patterns.remove(&pattern, ConnId(conn));
                    kept.remove(&(pattern, conn));
                } else {
                    patterns.insert(&pattern, subscriber(conn));
                    kept.insert((pattern, conn));
                }
                patterns.invariants(kept.iter().map(|(pattern, conn)| (pattern, ConnId(*conn), false)));
            }
            emptied += usize::from(kept.is_empty());
            for _ in 0..20 {
                let Ok(name) = ChannelName::new(&text(&mut rng, &["a", "b", "", "c", "*", "**"])) else { continue };
                let mut expected: Vec<_> =
                    kept.iter().filter(|(pattern, _)| pattern.covers(&name)).map(|(_, conn)| ConnId(*conn)).collect();
                expected.sort_unstable();
                covered += expected.len();
                assert_eq!(found(&patterns, name.as_str()).0, expected, "{name:?} with {kept:?}");
            }
        }
        assert!(covered > 1000 && emptied > 0, "{covered} patterns were found, {emptied} times none was left");
    }

    #[test]
    fn patterns_that_begin_otherwise_cost_the_search_nothing() {
        let mut patterns = Patterns::default();
        assert_eq!(found(&patterns, "com.example.a.b"), (vec![], 0));
        for number in 0..10_000 {
            patterns.insert(&ChannelPattern::new(&format!("com.example{number}.*.b")).unwrap(), subscriber(1));
        }
        patterns.insert(&ChannelPattern::new("com.**").unwrap(), subscriber(2));
        patterns.insert(&ChannelPattern::new("*.*.x").unwrap(), subscriber(3));
        // "com", "com.*.a", "com.example.a" and what "*" begins: no more than twice for each segment.
        let (conns, steps) = found(&patterns, "com.other.a.b");
        assert_eq!(conns, [ConnId(2)]);
        assert!(steps <= 6, "{steps} steps");
        assert_eq!(found(&patterns, "com.example77.a.b").0, [ConnId(1), ConnId(2)]);
    }
}
