//! What is given up when the memory that messages in transit hold exceeds its budget. It never looks into a message.

use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Incomplete, Moment};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

impl Broker {
    /// The turn is over: what connections take is written, and what is left counts. Credit comes first, because it takes memory too.
    pub(crate) fn flushed(&mut self, now: Moment, effects: &mut Effects) {
        self.last_turn_work = (std::mem::take(&mut self.turn_work), std::mem::take(&mut self.event_work_max));
        self.grant_credit(now, effects);
        if self.ledger.held() > self.limits.held_bytes_max {
            self.enforce_memory_budget(now, effects);
        }
    }

    /// Releases memory until the budget is kept. Each step begins only if the steps before it do not suffice.
    fn enforce_memory_budget(&mut self, now: Moment, effects: &mut Effects) {
        let timeout = self.limits.stalled_timeout;
        let if_so = |condition: bool, bytes: usize| if condition { bytes } else { 0 };
        // What waits for observers.
        self.release_largest(
            |connection| if_so(connection.only_observes(), connection.outbox.droppable_bytes()),
            |broker, conn, _| broker.drop_oldest_half(now, conn),
        );
        // What waits for connections that do not read; at last the connections themselves.
        self.release_largest(
            |connection| {
                let is_idle = connection.is_leaving() || connection.is_stalled(now, timeout);
                if_so(is_idle, connection.outbox.droppable_bytes() + connection.pinned_bytes())
            },
            |broker, conn, _| {
                let droppable = broker.connection(conn).map_or(0, |connection| connection.outbox.droppable_bytes());
                if droppable > 0 { broker.drop_oldest_half(now, conn) } else { broker.cut(now, conn, effects) }
            },
        );
        // Observers.
        self.release_largest(
            |connection| if_so(connection.only_observes(), connection.pinned_bytes()),
            |broker, conn, _| broker.cut(now, conn, effects),
        );
        // The most that any connection can do without: what waits for it, or the frame that it has sent a part of; or the connection
        // itself, if it takes its time for a frame that is larger than all of these.
        self.release_largest(
            |connection| {
                let droppable = connection.outbox.droppable_bytes().max(connection.discardable_bytes());
                droppable.max(connection.long_pinned_bytes(now, timeout))
            },
            |broker, conn, size| {
                let Some(connection) = broker.connection(conn) else { return };
                if connection.discardable_bytes() >= size {
                    connection.incoming.set(0);
                    connection.incomplete = Incomplete::Kept;
                    effects.push(Effect::Discard(conn));
                } else if connection.outbox.droppable_bytes() >= size {
                    broker.drop_oldest_half(now, conn);
                } else {
                    broker.cut(now, conn, effects);
                }
            },
        );
        // The connections with the largest half-written frames and unread replies.
        self.release_largest(
            |connection| connection.pinned_bytes() + connection.outbox.footprint(),
            |broker, conn, _| broker.cut(now, conn, effects),
        );
    }

    /// Until the budget is kept, lets the connection of the largest `size` give up.
    fn release_largest(
        &mut self,
        size: impl Fn(&Connection) -> usize,
        mut give_up: impl FnMut(&mut Self, ConnId, usize),
    ) {
        if self.ledger.held() <= self.limits.held_bytes_max {
            return;
        }
        let sizes = self.open_connections().map(|(conn, connection)| (size(connection), Reverse(conn)));
        let mut largest: BinaryHeap<_> = sizes.filter(|&(size, _)| size > 0).collect();
        while self.ledger.held() > self.limits.held_bytes_max
            && let Some((released, Reverse(conn))) = largest.pop()
        {
            give_up(self, conn, released);
            let left = self.connection(conn).map_or(0, |connection| size(connection));
            if left > 0 {
                largest.push((left, Reverse(conn)));
            }
        }
    }

    /// Half of it at once, because each step costs a search for the next largest.
    fn drop_oldest_half(&mut self, now: Moment, conn: ConnId) {
        self.change_waiting(now, conn, |connection, losses| connection.outbox.drop_oldest_half(losses));
    }
}
