//! From an accepted run to the outboxes, and from there to the counters. It never decides who may publish or subscribe.

use crate::broker::Broker;
use crate::connection::{Connection, Publication, Reach};
use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Moment};
use crate::outbox::{Losses, Pushed, Span};
use crate::registry::Subscriber;
use broadcaster_protocol::control::{Control, Named, RefusedCode};
use broadcaster_protocol::frame::{KIND_REDECLARE, KIND_REPLY, KIND_RETAIN};
use broadcaster_protocol::{ChannelId, ChannelName, Header, Run, SenderId};
use std::cell::LazyCell;
use std::collections::BTreeSet;

/// Consecutive messages that a sender has published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) channel: ChannelId,
    pub(crate) sender: SenderId,
    pub(crate) first: u64,
    pub(crate) messages: u64,
    /// Of their frames.
    pub(crate) bytes: u64,
}

/// How messages are queued.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Admission {
    /// As the policy of each listener decides.
    Uncredited,
    /// Without a loss, whatever waits for the listener, if senders with backpressure wait for it: their sender was granted credit for them.
    Credited,
}

impl Broker {
    pub(crate) fn run(&mut self, now: Moment, conn: ConnId, run: Run, effects: &mut Effects) {
        if run.is_reply() {
            return self.forward_reply(now, conn, run, effects);
        }
        if run.is_redeclared() {
            return self.redeclare(now, conn, &run, effects);
        }
        let published = Published {
            channel: run.channel(),
            sender: run.sender(),
            first: run.first(),
            messages: run.messages(),
            bytes: run.bytes().len() as u64,
        };
        let mut run = run;
        let Some((bytes, messages)) = self.accept(now, conn, published, run.bytes(), effects) else { return };
        let not_retained = if run.is_retained() { self.retain(now, &run, effects) } else { None };
        let mut reach = None;
        if messages > 0 {
            let credited = run.split_front(bytes, messages);
            reach = Some(self.fan_out(now, credited, Admission::Credited, None, effects));
        }
        if run.messages() > 0 {
            reach = Some(self.fan_out(now, run, Admission::Uncredited, None, effects));
        }
        self.set_reach(conn, published.channel, reach.unwrap_or_default(), not_retained);
    }

    /// A message whose body was dropped is accepted, and lost by each subscriber.
    pub(crate) fn discarded(&mut self, now: Moment, conn: ConnId, header: &Header, effects: &mut Effects) {
        match header.kind() {
            KIND_REPLY => return self.discarded_reply(now, conn, header, effects),
            KIND_REDECLARE => return self.redeclare_discarded(now, conn, header, effects),
            _ => {}
        }
        let published = Published {
            channel: header.channel(),
            sender: header.sender(),
            first: header.sequence(),
            messages: 1,
            bytes: header.frame_bytes() as u64,
        };
        if self.accept(now, conn, published, &[], effects).is_some() {
            let is_retained = header.kind() == KIND_RETAIN;
            let not_retained = if is_retained { self.retain_discarded(now, header, effects) } else { None };
            let reach = self.lose(now, published.channel, 1, None, effects);
            self.set_reach(conn, published.channel, reach, not_retained);
        }
    }

    /// Messages that the broker never received count as accepted, and are lost by each subscriber.
    pub(crate) fn lost(&mut self, now: Moment, channel: &ChannelName, messages: u64, effects: &mut Effects) {
        let Some(id) = self.registry.id_of(channel).filter(|_| messages > 0) else { return };
        self.stats.messages_accepted = self.stats.messages_accepted.saturating_add(messages);
        if let Some(channel) = self.registry.channel_mut(id) {
            channel.messages_accepted = channel.messages_accepted.saturating_add(messages);
        }
        self.lose(now, id, messages, None, effects);
    }

    /// What became of the last message of the publication.
    pub(crate) fn set_reach(&mut self, conn: ConnId, channel: ChannelId, reach: Reach, not_retained: Option<String>) {
        let connection = self.connection(conn);
        if let Some(publication) = connection.and_then(|connection| connection.publications.get_mut(&channel)) {
            (publication.reach, publication.not_retained) = (reach, not_retained);
        }
    }

    /// Counts what the connection has published, or refuses it if it may not publish that. Returns bytes and messages of the `frames` at
    /// the front that are covered by credit.
    fn accept(
        &mut self,
        now: Moment,
        conn: ConnId,
        published: Published,
        frames: &[u8],
        effects: &mut Effects,
    ) -> Option<(usize, u64)> {
        let connection = self.connections.get_mut(conn.0)?.as_mut()?;
        if connection.is_leaving() {
            return None;
        }
        let Published { channel, sender, first, messages, bytes } = published;
        let problem = match (connection.sender, connection.publications.get_mut(&channel)) {
            (None, _) => "a frame was published before the Hello".to_owned(),
            (Some(id), _) if id != sender => format!("a frame carries the sender {sender}, not {id}"),
            (Some(_), None) => format!("a frame was published on channel {}, which is not open here", channel.0),
            (Some(_), Some(Publication { next, .. })) if *next != first => {
                format!("a frame carries the sequence number {first}, where {next} was due")
            }
            (Some(_), Some(Publication { upload, .. })) if upload.is_ring() => {
                format!("a frame was published on channel {}, whose messages are in a ring", channel.0)
            }
            (Some(_), Some(Publication { next, pace, .. })) => {
                *next = next.wrapping_add(messages);
                let mut covered = (0, 0);
                if let Some(pace) = pace {
                    covered = pace.covered(frames, messages);
                    self.credits.spend(now, &self.limits, conn, &published, pace);
                }
                connection.tally.messages = connection.tally.messages.saturating_add(messages);
                connection.tally.bytes = connection.tally.bytes.saturating_add(bytes);
                self.stats.messages_accepted = self.stats.messages_accepted.saturating_add(messages);
                self.stats.bytes_accepted = self.stats.bytes_accepted.saturating_add(bytes);
                if let Some(channel) = self.registry.channel_mut(channel) {
                    channel.messages_accepted = channel.messages_accepted.saturating_add(messages);
                    channel.bytes_accepted = channel.bytes_accepted.saturating_add(bytes);
                }
                return Some(covered);
            }
        };
        self.refuse(now, conn, RefusedCode::Protocol, &problem, effects);
        None
    }

    /// Queues messages for every subscriber but the `followers`, which read them from a ring.
    pub(crate) fn fan_out(
        &mut self,
        now: Moment,
        run: Run,
        admission: Admission,
        followers: Option<&BTreeSet<ConnId>>,
        effects: &mut Effects,
    ) -> Reach {
        let room = self.room();
        let (channel, ledger) = (run.channel(), self.ledger.clone());
        let span = LazyCell::new(|| Span::new(run, &ledger));
        let mut too_slow = Vec::new();
        let reach = self.each_subscriber(now, channel, effects, |connection, subscriber, losses| {
            let terms = subscriber.terms;
            if followers.is_some_and(|followers| followers.contains(&subscriber.conn)) {
                return Pushed::Queued;
            }
            match admission {
                Admission::Credited if terms.slows_senders() && !connection.backlog.left_behind => {
                    connection.outbox.push_credited(&span, terms, room);
                    return Pushed::Queued;
                }
                Admission::Credited | Admission::Uncredited => {}
            }
            let pushed = connection.outbox.push_span(&span, terms, room, losses);
            if pushed == Pushed::TooSlow {
                too_slow.push(subscriber.conn);
            }
            pushed
        });
        for conn in too_slow {
            let reason = format!(
                "this subscriber chose to be disconnected when it is too slow, and more than {} bytes or {} messages wait \
                 for it",
                room.bytes, room.messages
            );
            self.to_refuse.push((conn, RefusedCode::TooSlow, reason));
        }
        reach
    }

    /// Every subscriber of the channel loses messages, except for the `followers` that read them from a ring.
    pub(crate) fn lose(
        &mut self,
        now: Moment,
        channel: ChannelId,
        messages: u64,
        followers: Option<&BTreeSet<ConnId>>,
        effects: &mut Effects,
    ) -> Reach {
        self.each_subscriber(now, channel, effects, |connection, subscriber, losses| {
            if followers.is_some_and(|followers| followers.contains(&subscriber.conn)) {
                return Pushed::Queued;
            }
            connection.outbox.push_loss(channel, messages, subscriber.terms, losses);
            Pushed::Lost
        })
    }

    /// Lets `queue` add to the outbox of each connection that receives the channel, and counts what is lost by that, and how many
    /// listeners took it.
    fn each_subscriber(
        &mut self,
        now: Moment,
        id: ChannelId,
        effects: &mut Effects,
        mut queue: impl FnMut(&mut Connection, Subscriber, &mut Losses) -> Pushed,
    ) -> Reach {
        let room = self.room();
        let mut reach = Reach::default();
        let Some(channel) = self.registry.channel_mut(id) else { return reach };
        reach.listeners = u32::try_from(channel.listeners()).unwrap_or(u32::MAX);
        let (name, subscribers) = channel.name_and_subscribers_mut();
        self.turn_work += subscribers.len();
        let mut losses = Losses::default();
        for subscriber in subscribers {
            let conn = subscriber.conn;
            let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { continue };
            if !std::mem::replace(&mut subscriber.named, true) {
                connection.push_control(&named(id, name));
            }
            let before = losses.sum();
            let pushed = queue(connection, *subscriber, &mut losses);
            reach.took += u32::from(pushed == Pushed::Queued && !subscriber.terms.observer);
            let lost = losses.sum() - before;
            if lost > 0 {
                connection.tally.lost = connection.tally.lost.saturating_add(lost);
                self.stats.messages_delivered += connection.parted().bus.messages;
            }
            connection.request_write(conn, effects);
            if connection.note_backlog(now, room) {
                self.credits.recovering.insert(conn);
            }
        }
        self.count_losses(&losses);
        reach
    }

    /// Counts what the bus has lost, in total and for each channel. The caller counts it for the connection.
    pub(crate) fn count_losses(&mut self, losses: &Losses) {
        self.stats.messages_lost = self.stats.messages_lost.saturating_add(losses.total());
        for &(channel, lost) in losses.by_channel() {
            if let Some(channel) = self.registry.channel_mut(channel) {
                channel.messages_lost = channel.messages_lost.saturating_add(lost);
            }
        }
    }

    /// Changes what waits for the connection, as `change` does it, and counts the messages that are lost by that.
    pub(crate) fn change_waiting(
        &mut self,
        now: Moment,
        conn: ConnId,
        change: impl FnOnce(&mut Connection, &mut Losses),
    ) {
        let room = self.room();
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let mut losses = Losses::default();
        change(connection, &mut losses);
        connection.tally.lost = connection.tally.lost.saturating_add(losses.sum());
        let delivered = connection.parted();
        self.stats.messages_delivered += delivered.bus.messages;
        if connection.note_backlog(now, room) {
            self.credits.recovering.insert(conn);
        }
        self.count_losses(&losses);
    }

    /// The first frame that waits for the connection cannot be written.
    pub(crate) fn withdrawn(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        if let Some(connection) = self.connection(conn) {
            connection.outbox.withdraw();
        }
        self.written(now, conn, 0, false, effects);
    }

    pub(crate) fn written(&mut self, now: Moment, conn: ConnId, bytes: usize, blocked: bool, effects: &mut Effects) {
        let room = self.room();
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let delivered = connection.written(now, bytes);
        self.stats.messages_delivered += delivered.bus.messages;
        let begins_to_block = blocked && !connection.outbox.is_empty() && connection.block(now);
        if connection.note_backlog(now, room) {
            self.credits.recovering.insert(conn);
        }
        if connection.outbox.is_empty() {
            if connection.is_leaving() {
                effects.push(Effect::Close(conn));
            }
            return;
        }
        if begins_to_block {
            self.change_waiting(now, conn, |connection, losses| connection.outbox.collapse_latest(losses));
        }
        let replies_bytes_max = self.limits.replies_bytes_max;
        if self.connection(conn).is_some_and(|connection| connection.neglects_replies(now, replies_bytes_max)) {
            self.refuse_unread(conn);
        }
    }
}

/// The message that gives the channel's name to a connection.
pub(crate) fn named(id: ChannelId, name: &ChannelName) -> Control {
    Control::Named(Named { id: id.0, name: name.as_str().to_owned(), extensions: Vec::new() })
}

/// The message that a channel id has become invalid.
pub(crate) fn ended(id: ChannelId) -> Control {
    Control::Named(Named { id: id.0, name: String::new(), extensions: Vec::new() })
}
