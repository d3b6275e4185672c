//! From an accepted run to the outboxes, and from there to the counters. It never decides who may publish or subscribe.

use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::{Effect, Effects};
use crate::event::{ConnId, Moment};
use crate::outbox::{Losses, Pushed, Room, Span};
use crate::registry::Subscriber;
use broadcaster_protocol::control::{Control, Named, RefusedCode};
use broadcaster_protocol::{ChannelId, ChannelName, Header, Run, SenderId};
use std::cell::LazyCell;

/// Consecutive messages that a sender has published.
#[derive(Debug, Clone, Copy)]
struct Published {
    channel: ChannelId,
    sender: SenderId,
    first: u64,
    messages: u64,
    bytes: u64,
}

impl Broker {
    pub(crate) fn run(&mut self, now: Moment, conn: ConnId, run: Run, effects: &mut Effects) {
        let published = Published {
            channel: run.channel(),
            sender: run.sender(),
            first: run.first(),
            messages: run.messages(),
            bytes: run.bytes().len() as u64,
        };
        if self.accept(now, conn, published, effects) {
            self.fan_out(run, effects);
        }
    }

    /// A message whose body was dropped is accepted, and lost by each subscriber.
    pub(crate) fn discarded(&mut self, now: Moment, conn: ConnId, header: &Header, effects: &mut Effects) {
        let published = Published {
            channel: header.channel(),
            sender: header.sender(),
            first: header.sequence(),
            messages: 1,
            bytes: header.frame_bytes() as u64,
        };
        if self.accept(now, conn, published, effects) {
            self.lose(published.channel, effects);
        }
    }

    /// Counts what the connection has published, or refuses it if it may not publish that.
    fn accept(&mut self, now: Moment, conn: ConnId, published: Published, effects: &mut Effects) -> bool {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return false };
        if connection.is_leaving() {
            return false;
        }
        let Published { channel, sender, first, messages, bytes } = published;
        let problem = match (connection.sender, connection.publications.get_mut(&channel)) {
            (None, _) => "a frame was published before the Hello".to_owned(),
            (Some(id), _) if id != sender => format!("a frame carries the sender {sender}, not {id}"),
            (Some(_), None) => format!("a frame was published on channel {}, which is not open here", channel.0),
            (Some(_), Some(next)) if *next != first => {
                format!("a frame carries the sequence number {first}, where {next} was due")
            }
            (Some(_), Some(next)) => {
                *next = next.wrapping_add(messages);
                connection.tally.messages += messages;
                connection.tally.bytes += bytes;
                self.stats.messages_accepted += messages;
                self.stats.bytes_accepted += bytes;
                if let Some(channel) = self.registry.channel_mut(channel) {
                    channel.messages_accepted += messages;
                    channel.bytes_accepted += bytes;
                }
                return true;
            }
        };
        self.refuse(now, conn, RefusedCode::Protocol, &problem, effects);
        false
    }

    fn fan_out(&mut self, run: Run, effects: &mut Effects) {
        let room = Room { bytes: self.limits.outbox_bytes_max, messages: self.limits.outbox_messages_max };
        let (channel, ledger) = (run.channel(), self.ledger.clone());
        let span = LazyCell::new(|| Span::new(run, &ledger));
        let mut too_slow = Vec::new();
        self.each_subscriber(channel, effects, |connection, subscriber, losses| {
            if connection.outbox.push_span(&span, subscriber.terms, room, losses) == Pushed::TooSlow {
                too_slow.push(subscriber.conn);
            }
        });
        for conn in too_slow {
            let reason = format!(
                "this subscriber chose to be disconnected when it is too slow, and more than {} bytes or {} messages wait \
                 for it",
                room.bytes, room.messages
            );
            self.to_refuse.push((conn, RefusedCode::TooSlow, reason));
        }
    }

    /// Every subscriber of the channel loses a message.
    fn lose(&mut self, channel: ChannelId, effects: &mut Effects) {
        self.each_subscriber(channel, effects, |connection, subscriber, losses| {
            connection.outbox.push_loss(channel, 1, subscriber.terms, losses);
        });
    }

    /// Lets `queue` add to the outbox of each connection that receives the channel, and counts what is lost by that.
    fn each_subscriber(
        &mut self,
        id: ChannelId,
        effects: &mut Effects,
        mut queue: impl FnMut(&mut Connection, Subscriber, &mut Losses),
    ) {
        let Some(channel) = self.registry.channel_mut(id) else { return };
        let (name, subscribers) = channel.name_and_subscribers_mut();
        self.turn_work += subscribers.len();
        let mut losses = Losses::default();
        for subscriber in subscribers {
            let conn = subscriber.conn;
            let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { continue };
            if !std::mem::replace(&mut subscriber.named, true) {
                connection.push_control(&named(id, name));
            }
            let before = losses.total() + losses.observed();
            queue(connection, *subscriber, &mut losses);
            let lost = losses.total() + losses.observed() - before;
            if lost > 0 {
                connection.tally.lost += lost;
                self.stats.messages_delivered += connection.parted().bus.messages;
            }
            connection.request_write(conn, effects);
        }
        self.count_losses(&losses);
    }

    /// Counts what the bus has lost, in total and for each channel. The caller counts it for the connection.
    pub(crate) fn count_losses(&mut self, losses: &Losses) {
        self.stats.messages_lost += losses.total();
        for &(channel, lost) in losses.by_channel() {
            if let Some(channel) = self.registry.channel_mut(channel) {
                channel.messages_lost += lost;
            }
        }
    }

    /// Drops messages that wait for the connection, as `drop` does it, and counts them.
    pub(crate) fn drop_waiting(&mut self, conn: ConnId, drop: impl FnOnce(&mut Connection, &mut Losses)) {
        let Some(connection) = self.connection(conn) else { return };
        let mut losses = Losses::default();
        drop(connection, &mut losses);
        connection.tally.lost += losses.total() + losses.observed();
        let delivered = connection.parted();
        self.stats.messages_delivered += delivered.bus.messages;
        self.count_losses(&losses);
    }

    pub(crate) fn written(&mut self, now: Moment, conn: ConnId, bytes: usize, blocked: bool, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let delivered = connection.written(now, bytes);
        self.stats.messages_delivered += delivered.bus.messages;
        if connection.outbox.is_empty() {
            if connection.is_leaving() {
                effects.push(Effect::Close(conn));
            }
            return;
        }
        if blocked && connection.block(now) {
            self.drop_waiting(conn, |connection, losses| connection.outbox.collapse_latest(losses));
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
