//! The beginning and the end of connections, and of the broker itself. It knows nothing of what they request.
//!
//! An orderly stop loses nothing that was sent before it:
//!
//! 1. Senders with rings are requested to end them, because what they publish by their sockets afterwards goes to the next daemon. A sender
//!    that publishes nothing for 20 ms is not waited for. What a ring holds when the last input was read is delivered.
//! 2. The server removes its socket, stops accepting and closes every connection for reading: what was sent is still read, and what is sent
//!    afterwards fails in the sender and goes to the next daemon. Where closing for reading discards bytes (everywhere but Linux), each
//!    connection is read before it is closed.
//! 3. It alternates reading and writing until everything is delivered or one second is over, ends the connections with a Goodbye,
//!    releases the lock, and then ends those that only observe.

use crate::broker::{Broker, Phase};
use crate::connection::{ConnPhase, Connection};
use crate::credit::{Backlog, Credits};
use crate::delivery::ended;
use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Incomplete, Moment};
use crate::limits::counted;
use crate::outbox::Outbox;
use crate::registry::Ended;
use crate::retained::Histories;
use broadcaster_protocol::control::{Control, Goodbye, Refused, RefusedCode};

impl Broker {
    pub(crate) fn opened(&mut self, now: Moment, conn: ConnId, pid: u32, uid: u32, effects: &mut Effects) {
        if self.connections.len() <= conn.0 {
            self.connections.resize_with(conn.0 + 1, || None);
        }
        self.connections[conn.0] = Some(Connection::new(pid, now, &self.ledger));
        self.set_deadline(conn, Some(now.after(self.limits.handshake_timeout)));
        self.counts.open += 1;
        let of_process = self.processes.entry(pid).or_default();
        *of_process += 1;
        let of_process = *of_process;
        if let Phase::Idle(_) = self.phase {
            self.phase = Phase::Serving;
        }
        let limits = &self.limits;
        let (code, reason) = if uid != self.uid {
            (RefusedCode::OtherUser, format!("this bus belongs to uid {}; you are uid {uid}", self.uid))
        } else if matches!(self.phase, Phase::Draining | Phase::Leaving | Phase::Over) {
            (RefusedCode::Stopping, "the daemon is stopping; connect again".to_owned())
        } else if self.counts.open > limits.connections_max {
            let connections = counted(limits.connections_max, "connection");
            (RefusedCode::Connections, format!("the daemon has {connections}, which is the limit"))
        } else if pid != 0 && of_process > limits.connections_per_process_max {
            let connections = counted(limits.connections_per_process_max, "connection");
            (RefusedCode::Connections, format!("process {pid} has {connections}, which is the limit"))
        } else {
            return;
        };
        self.refuse(now, conn, code, &reason, effects);
    }

    pub(crate) fn refuse(&mut self, now: Moment, conn: ConnId, code: RefusedCode, reason: &str, effects: &mut Effects) {
        self.refuse_with(now, conn, Refused::new(code, reason), effects);
    }

    pub(crate) fn refuse_with(&mut self, now: Moment, conn: ConnId, refused: Refused, effects: &mut Effects) {
        if self.connection(conn).is_none_or(|connection| connection.is_leaving()) {
            return;
        }
        self.change_waiting(now, conn, |connection, losses| connection.outbox.clear_frames(losses));
        self.stats.connections_refused += 1;
        self.leave(now, conn, &Control::Refused(refused), effects);
    }

    /// Ends a connection for the memory that it holds, at once: it could not read a reason.
    pub(crate) fn cut(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        self.change_waiting(now, conn, |connection, losses| connection.outbox.clear_frames(losses));
        if self.connection(conn).is_some_and(|connection| !connection.is_leaving()) {
            self.stats.connections_refused += 1;
            self.detach(now, conn, effects);
        }
        let outbox = Outbox::new(&self.ledger);
        if let Some(connection) = self.connection(conn) {
            (connection.outbox, connection.blocked, connection.backlog) = (outbox, None, Backlog::default());
        }
        effects.push(Effect::Close(conn));
    }

    /// Queues the last frame of a connection, which is closed once that is written or the time for it is over.
    fn leave(&mut self, now: Moment, conn: ConnId, last: &Control, effects: &mut Effects) {
        self.detach(now, conn, effects);
        self.set_deadline(conn, Some(now.after(self.limits.goodbye_timeout)));
        if let Some(connection) = self.connection(conn) {
            connection.push_control(last);
            connection.request_write(conn, effects);
        }
    }

    /// Ends everything that the connection has but what waits for it.
    fn detach(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        if std::mem::replace(&mut connection.phase, ConnPhase::Leaving) == ConnPhase::Leaving {
            return;
        }
        connection.incoming.set(0);
        if std::mem::take(&mut connection.incomplete) == Incomplete::Discardable {
            effects.push(Effect::Discard(conn));
        }
        self.credits.release(now, &mut connection.backlog);
        self.leave_rings(now, conn, effects);
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let publications = std::mem::take(&mut connection.publications);
        let counting = std::mem::take(&mut connection.counting);
        let watches = std::mem::take(&mut connection.watches);
        let inbox = connection.inbox.take();
        let subscriptions = std::mem::take(&mut connection.subscriptions);
        if let Some(sender) = connection.sender {
            self.senders.remove(&sender);
        }
        self.counts.leaving += 1;
        self.counts.senders -= usize::from(!publications.is_empty());
        self.counts.listeners -= usize::from(subscriptions.listeners() > 0);
        self.counts.observers -= usize::from(subscriptions.observers() > 0);
        self.set_deadline(conn, None);
        if self.phase.is_over() {
            return; // the registry is empty
        }
        for (number, name) in watches {
            self.registry.unwatch(&name, conn, number);
        }
        if let Some(inbox) = inbox {
            self.registry.close_inbox(inbox);
        }
        for (id, minimum) in counting {
            self.registry.stop_counting(id, minimum, conn);
        }
        let mut ended = self.registry.unsubscribe_all(conn, subscriptions.iter());
        for (id, publication) in publications {
            if publication.pace.is_some() {
                self.end_pace(now, conn, id);
            }
            ended.extend(self.registry.unpublish(id));
        }
        self.review_rings(effects);
        self.report_changes(now, effects);
        for channel in ended {
            self.announce_end(now, &channel, effects);
        }
    }

    /// The connections that know the channel's name may forget it.
    pub(crate) fn announce_end(&mut self, now: Moment, channel: &Ended, effects: &mut Effects) {
        for &conn in &channel.named {
            self.reply(now, conn, &ended(channel.id), effects);
        }
    }

    /// Replaces the deadline of the connection.
    pub(crate) fn set_deadline(&mut self, conn: ConnId, deadline: Option<Moment>) {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        if let Some(old) = std::mem::replace(&mut connection.deadline, deadline) {
            self.deadlines.remove(&(old, conn));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, conn));
        }
    }

    pub(crate) fn closed(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        if self.connection(conn).is_none() {
            return;
        }
        self.detach(now, conn, effects);
        self.set_deadline(conn, None);
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::take) else { return };
        if let Some(count) = self.processes.get_mut(&connection.pid) {
            *count -= 1;
            if *count == 0 {
                self.processes.remove(&connection.pid);
            }
        }
        self.counts.open -= 1;
        self.counts.leaving -= 1;
        match self.phase {
            Phase::Idle(_) | Phase::Serving if self.counts.open == 0 => self.phase = Phase::Idle(now),
            Phase::Leaving => self.release_or_exit(now, effects),
            Phase::Idle(_) | Phase::Serving | Phase::Recalling { .. } | Phase::Draining | Phase::Over => {}
        }
    }

    pub(crate) fn tick(&mut self, now: Moment, effects: &mut Effects) {
        self.credits.expire(now, effects);
        self.expire_retained(now, effects);
        self.tick_rings(now, effects);
        while let Some(&(_, conn)) = self.deadlines.first().filter(|&&(deadline, _)| deadline <= now) {
            self.set_deadline(conn, None);
            match self.connection(conn).map(|connection| connection.phase) {
                Some(ConnPhase::Greeting) => {
                    let reason = format!("no Hello within {:?}", self.limits.handshake_timeout);
                    self.refuse(now, conn, RefusedCode::Handshake, &reason, effects);
                }
                Some(ConnPhase::Active) => {
                    let reason = format!("no further byte of a frame within {:?}", self.limits.frame_timeout);
                    self.refuse(now, conn, RefusedCode::Stalled, &reason, effects);
                }
                Some(ConnPhase::Leaving) => effects.push(Effect::Close(conn)),
                None => {}
            }
        }
        if self.idle_exit().is_some_and(|exit| exit <= now) {
            self.stop(now, effects);
        }
    }

    pub(crate) fn stop(&mut self, now: Moment, effects: &mut Effects) {
        match self.phase {
            Phase::Idle(_) | Phase::Serving if self.rings.len() > 0 => self.recall_all(now, effects),
            Phase::Idle(_) | Phase::Serving => self.drain(effects),
            Phase::Recalling { .. } | Phase::Draining | Phase::Leaving | Phase::Over => {}
        }
    }

    /// What clients have sent up to now is read, and then nothing more.
    pub(crate) fn drain(&mut self, effects: &mut Effects) {
        self.phase = Phase::Draining;
        effects.push(Effect::Drain);
    }

    pub(crate) fn drained(&mut self, now: Moment, effects: &mut Effects) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Leaving;
            // Nothing is published any more. To take thousands of connections out of thousands of channels would take seconds.
            self.registry.clear();
            self.retained = Histories::new(&self.ledger);
            self.credits = Credits::default();
            self.send_goodbye(now, |connection| !connection.only_looks(), effects);
            self.release_or_exit(now, effects);
        }
    }

    fn send_goodbye(&mut self, now: Moment, to: fn(&Connection) -> bool, effects: &mut Effects) {
        const REASON: &str = "the daemon is stopping";
        let goodbye = Control::Goodbye(Goodbye { reason: REASON.to_owned(), extensions: Vec::new() });
        // Nothing else may precede the Welcome.
        let refused = Control::Refused(Refused::new(RefusedCode::Stopping, REASON));
        for at in 0..self.connections.len() {
            let Some(connection) = self.connections[at].as_ref().filter(|connection| to(connection)) else { continue };
            match connection.phase {
                ConnPhase::Leaving => {}
                ConnPhase::Greeting => self.leave(now, ConnId(at), &refused, effects),
                ConnPhase::Active => self.leave(now, ConnId(at), &goodbye, effects),
            }
        }
    }

    /// On the way out. Connections that only look, such as the one that requested the stop, get their Goodbye when all others have
    /// ended and the lock is free. A client that looks must not start a daemon, and would take one that still has its lock for one
    /// that serves.
    fn release_or_exit(&mut self, now: Moment, effects: &mut Effects) {
        if self.counts.open == 0 {
            self.phase = Phase::Over;
            effects.push(Effect::Exit);
        } else if self.counts.leaving == 0 {
            effects.push(Effect::Release);
            self.send_goodbye(now, |_| true, effects);
        }
    }
}
