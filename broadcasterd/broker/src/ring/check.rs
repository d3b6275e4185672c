//! The check that rings, links and connections agree. It changes nothing.

use super::{Due, LinkState, RingPhase, Upload};
use crate::broker::Broker;
use crate::credit::Lag;
use crate::event::LinkId;
use crate::limits::{LINKS_MAX, LINKS_PER_RING_MAX, RINGS_PER_CONNECTION_MAX};
use std::collections::{BTreeMap, BTreeSet};

impl Broker {
    /// Checks all bookkeeping of rings.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub(crate) fn check_rings(&self) {
        let (rings, links) = (&self.rings.rings, &self.rings.links);
        assert!(
            rings.len() <= self.rings.max && links.len() <= LINKS_MAX,
            "{} rings, {} links",
            rings.len(),
            links.len()
        );
        assert!(!self.phase.is_over() || rings.is_empty(), "rings without channels");
        let mut uploads = BTreeMap::new();
        for (conn, connection) in self.open_connections() {
            let own = connection.publications.iter().filter_map(|(&channel, publication)| {
                Some((publication.upload.ring()?, (conn, channel, publication.upload, publication.next)))
            });
            let own: Vec<_> = own.collect();
            assert!(own.len() <= RINGS_PER_CONNECTION_MAX, "{conn:?} has {} rings", own.len());
            uploads.extend(own);
            let has_links = links.iter().filter(|(_, link)| link.listener == conn).map(|(&id, _)| id);
            assert_eq!(connection.links, has_links.collect::<BTreeSet<_>>(), "links of {conn:?}");
            assert!(connection.shares_memory || connection.links.is_empty(), "{conn:?} has links and did not agree");
        }
        assert!(uploads.keys().eq(rings.keys()), "rings and publications: {uploads:?}");
        for (id, ring) in rings {
            let (upload, phase) = (uploads[id], ring.phase);
            let expected = match phase {
                RingPhase::Offered => Upload::Offered(*id),
                RingPhase::Active => Upload::Ring(*id),
                RingPhase::Ended => panic!("the end of {id:?} was not reported"),
            };
            assert!(ring.is_announced || phase == RingPhase::Offered, "{id:?} is {phase:?} and was not announced");
            let next = if phase == RingPhase::Active { ring.head.newest.sequence } else { upload.3 };
            assert_eq!(upload, (ring.conn, ring.channel, expected, next), "publication of {id:?}");
            let subscribers = self.registry.channel(ring.channel).map_or(0, |channel| channel.subscribers().len());
            let is_needed = phase == RingPhase::Active && subscribers > ring.followers.len();
            assert_eq!(ring.relay.is_some(), is_needed, "whether {id:?} is relayed");
            let at = ring.relay.map_or(0, |at| at.position);
            assert!(at <= ring.head.newest.position, "the relay of {id:?} is at {at}, behind its head");
            assert!(ring.links.len() <= LINKS_PER_RING_MAX, "{id:?} has {} links", ring.links.len());
            let followers: BTreeSet<_> = ring
                .links
                .iter()
                .filter(|(_, link)| links[link].state == LinkState::Following)
                .map(|(&listener, _)| listener)
                .collect();
            assert_eq!(ring.followers, followers, "listeners that follow {id:?}");
            let can_follow: BTreeSet<_> = self.may_follow(ring.channel).collect();
            assert!(followers.is_subset(&can_follow), "{followers:?} follow {id:?}, but not all may");
            let mut introducing = ring.links.values().filter(|link| links[link].state != LinkState::Following);
            assert_eq!(ring.introducing.as_ref(), introducing.next(), "what {id:?} introduces");
            assert_eq!(introducing.next(), None, "{id:?} introduces two listeners");
            let waits = !followers.is_empty() || ring.is_recalled || ring.deadline.is_some();
            assert!(waits, "{id:?} has no listener, and is never recalled");
        }
        for (id, link) in links {
            let state = link.state;
            assert!(state != LinkState::Ended, "the end of {id:?} was not reported");
            let is_listed = rings.get(&link.ring).is_some_and(|ring| ring.links.get(&link.listener) == Some(id));
            assert_eq!(is_listed, state != LinkState::Draining, "whether the ring of {id:?} has it while {state:?}");
            let is_introduced = matches!(state, LinkState::Following | LinkState::Draining);
            assert_eq!(link.deadline.is_none(), is_introduced, "deadline of {id:?} while {state:?}");
            let (counted, readable) = (link.counted.received + link.counted.lost, self.rings.readable(link));
            let is_bounded = counted <= readable || state == LinkState::Draining;
            assert!(is_bounded, "{counted} messages of {readable} were counted on {id:?}");
        }
        for (conn, connection) in self.open_connections() {
            let reports = |link: &LinkId| links[link].is_awaited || links[link].state == LinkState::Draining;
            let lag = if connection.backlog.left_behind { Lag::Late } else { Lag::Behind };
            let is_behind = connection.backlog.in_rings >= lag;
            assert!(!is_behind || connection.links.iter().any(reports), "{conn:?} is behind for ever");
        }
        let of_rings = rings.iter().filter_map(|(&id, ring)| Some((ring.deadline?, Due::Ring(id))));
        let of_links = links.iter().filter_map(|(&id, link)| Some((link.deadline?, Due::Link(id))));
        assert_eq!(self.rings.deadlines, of_rings.chain(of_links).collect(), "deadlines of rings and links");
    }
}
