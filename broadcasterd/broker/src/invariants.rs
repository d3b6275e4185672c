//! The check that all bookkeeping adds up. It repeats every count from what it counts, and changes nothing.

use crate::broker::{Broker, Counts, Phase};
use crate::connection::{ConnPhase, Connection};
use crate::event::{ConnId, Incomplete};
use crate::limits::{Limits, PATTERN_SEGMENTS, TURN_WORK_MAX};
use crate::registry::{Selector, Subscriber};
use broadcaster_protocol::decode::CHUNK_BYTES;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelId, ChannelName};
use std::collections::{BTreeMap, BTreeSet};

impl Broker {
    /// Checks all bookkeeping. For tests: it takes time for each connection, subscription and message run.
    ///
    /// # Panics
    ///
    /// With a description, if anything is inconsistent.
    pub fn invariants(&self) {
        self.check_counts();
        self.check_deadlines();
        self.check_registry();
        self.check_memory();
        self.check_credit();
        self.check_rings();
        self.check_work();
        assert!(self.to_refuse.is_empty(), "connections wait to be refused");
    }

    /// A turn ends with the event that makes it full, and one event costs no more than a search for patterns, and a unit for each
    /// connection, or for each channel and each pattern of one connection.
    fn check_work(&self) {
        let Limits { connections_max, channels_max, wildcards_max, patterns_max, watches_max, .. } = self.limits;
        assert!(self.registry.attachments() <= self.limits.attachments_max, "connections receive too many channels");
        let search_max = patterns_max.saturating_mul(PATTERN_SEGMENTS);
        let channels_max = channels_max.saturating_mul(2 + self.limits.channels_per_connection_max);
        // Every retained message may be replayed, and the run that is being retained has one message for each header at most.
        let retained_max = self.limits.retained_bytes_max.max(CHUNK_BYTES) / HEADER_BYTES;
        let others_max = 2 * search_max + wildcards_max + patterns_max + watches_max + retained_max;
        let event_max = connections_max.max(channels_max).saturating_add(others_max);
        for (turn, event) in [(self.turn_work, self.event_work_max), self.last_turn_work] {
            assert!(turn < TURN_WORK_MAX + event.max(1), "{turn} units of work in one turn");
            assert!(event <= event_max, "{event} units of work in one event");
        }
    }

    fn check_counts(&self) {
        let count = |wanted: fn(&Connection) -> bool| {
            self.open_connections().filter(|(_, connection)| wanted(connection)).count()
        };
        let counts = Counts {
            open: count(|_| true),
            senders: count(|connection| !connection.publications.is_empty()),
            listeners: count(|connection| connection.subscriptions.listeners() > 0),
            observers: count(|connection| connection.subscriptions.observers() > 0),
            leaving: count(Connection::is_leaving),
        };
        assert_eq!(self.counts, counts, "counts of connections");
        let (mut processes, mut senders) = (BTreeMap::new(), BTreeMap::new());
        for (conn, connection) in self.open_connections() {
            *processes.entry(connection.pid).or_default() += 1;
            let (phase, sender) = (connection.phase, connection.sender);
            match phase {
                ConnPhase::Greeting => assert!(sender.is_none(), "{conn:?} has a sender id before its Hello"),
                ConnPhase::Active => {
                    assert!(
                        sender.is_some_and(|sender| senders.insert(sender, conn).is_none()),
                        "{conn:?} has no sender id of its own"
                    );
                }
                ConnPhase::Leaving => {}
            }
            let channels = connection.channels();
            let takes_part = !connection.publications.is_empty() || connection.subscriptions.listeners() > 0;
            assert!(connection.may_reply || !takes_part, "{conn:?} takes part and may not reply");
            assert!(phase == ConnPhase::Active || channels == 0, "{conn:?} has channels while {phase:?}");
            assert!(channels <= self.limits.channels_per_connection_max, "{conn:?} has {channels} channels");
        }
        assert_eq!(self.processes, processes, "connections of each process");
        assert_eq!(self.senders, senders, "sender ids");
        match self.phase {
            Phase::Idle(_) | Phase::Over => assert_eq!(self.counts.open, 0, "connections while {:?}", self.phase),
            Phase::Serving => assert!(self.counts.open > 0, "serving without a connection"),
            Phase::Recalling { .. } | Phase::Draining | Phase::Leaving => {}
        }
    }

    fn check_deadlines(&self) {
        let deadlines = self.open_connections().filter_map(|(conn, connection)| Some((connection.deadline?, conn)));
        assert_eq!(self.deadlines, deadlines.collect(), "deadlines");
        for (conn, connection) in self.open_connections() {
            let (phase, has_deadline) = (connection.phase, connection.deadline.is_some());
            match phase {
                ConnPhase::Greeting => assert!(has_deadline, "{conn:?} has no deadline for its Hello"),
                ConnPhase::Active => {
                    let incomplete = connection.incomplete != Incomplete::None;
                    assert!(!has_deadline || incomplete, "{conn:?} has a deadline for nothing");
                    assert!(has_deadline || !incomplete, "{conn:?} has no deadline for its incomplete frame");
                }
                ConnPhase::Leaving => {}
            }
        }
    }

    fn check_registry(&self) {
        let is_over = self.phase.is_over();
        let mut publications = BTreeMap::<ChannelId, usize>::new();
        let mut subscriptions = Vec::<(&Selector, Subscriber)>::new();
        let mut watches = BTreeMap::<&ChannelName, BTreeSet<(ConnId, u32)>>::new();
        let (mut counting, mut inboxes) = (BTreeSet::new(), BTreeMap::new());
        for (conn, connection) in self.open_connections().filter(|_| !is_over) {
            connection.publications.keys().for_each(|&id| *publications.entry(id).or_default() += 1);
            counting.extend(connection.counting.iter().map(|(&id, &minimum)| (id, minimum, conn)));
            inboxes.extend(connection.inbox.map(|id| (id, conn)));
            let own = &connection.subscriptions;
            subscriptions.extend(own.iter().filter_map(|(selector, _)| Some((selector, own.get(conn, selector)?))));
            for (&number, name) in &connection.watches {
                watches.entry(name).or_default().insert((conn, number));
            }
            for id in connection.counting.keys() {
                assert!(connection.publications.contains_key(id), "{conn:?} waits for listeners of {id:?}");
            }
        }
        for id in publications.keys() {
            assert!(self.registry.channel(*id).is_some(), "{id:?} is published on and does not exist");
        }
        let histories = self.retained.invariants(&self.limits);
        self.registry.invariants(&publications, &subscriptions, &counting, &watches, &histories);
        self.registry.check_inboxes(&inboxes);
    }

    fn check_memory(&self) {
        let mut held = 0;
        let mut spans: BTreeMap<_, _> = self.retained.spans().collect();
        for (conn, connection) in self.open_connections() {
            connection.outbox.invariants();
            held += connection.outbox.footprint() + connection.incoming.bytes();
            spans.extend(connection.outbox.spans());
            let waits = !connection.outbox.is_empty();
            assert!(waits || connection.blocked.is_none(), "{conn:?} is blocked without anything to write");
            assert!(!waits || connection.writing, "bytes wait for {conn:?} and no write was requested");
            let incoming = connection.incoming.bytes();
            assert!(incoming == 0 || !connection.is_leaving(), "{conn:?} is charged {incoming} bytes while it leaves");
        }
        held += self.retained.footprint() + spans.values().sum::<usize>();
        assert_eq!(self.ledger.held(), held, "the ledger is not the sum of all charges");
    }
}
