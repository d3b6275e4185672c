//! Inboxes, and the replies that are addressed to them. It knows nothing of the requests.

use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::Effects;
use crate::event::{ConnId, Moment};
use crate::outbox::{Losses, Span, Terms};
use broadcaster_protocol::control::{Control, InboxOpened, Overflow, RefusedCode};
use broadcaster_protocol::{ChannelId, Header, Run, SenderId};

/// How replies are queued: those that came first stay.
const REPLY_TERMS: Terms = Terms { overflow: Overflow::DropNewest, observer: false, replay: 0 };

impl Broker {
    pub(crate) fn open_inbox(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let id = *connection.inbox.get_or_insert_with(|| self.registry.open_inbox(conn));
        self.reply(now, conn, &Control::InboxOpened(InboxOpened { id: id.0, extensions: Vec::new() }), effects);
    }

    /// Forwards a reply to the connection that has its inbox.
    pub(crate) fn forward_reply(&mut self, now: Moment, conn: ConnId, run: Run, effects: &mut Effects) {
        let (inbox, room) = (run.channel(), self.room());
        if self.accept_reply(now, conn, run.sender(), run.bytes().len() as u64, effects) {
            let span = Span::new(run, &self.ledger);
            self.queue_reply(now, inbox, effects, |connection, losses| {
                // What is lost is reported to the requester; the one that replies does not wait for it.
                let _ = connection.outbox.push_span(&span, REPLY_TERMS, room, losses);
            });
        }
    }

    /// A reply whose body was dropped is accepted, and lost by the connection that has its inbox.
    pub(crate) fn discarded_reply(&mut self, now: Moment, conn: ConnId, header: &Header, effects: &mut Effects) {
        let inbox = header.channel();
        if self.accept_reply(now, conn, header.sender(), header.frame_bytes() as u64, effects) {
            self.queue_reply(now, inbox, effects, |connection, losses| {
                connection.outbox.push_loss(inbox, 1, REPLY_TERMS, losses);
            });
        }
    }

    /// Counts a reply of `bytes`, or refuses the connection if it may not write it. Returns whether it may.
    fn accept_reply(&mut self, now: Moment, conn: ConnId, sender: SenderId, bytes: u64, effects: &mut Effects) -> bool {
        let Some(connection) = self.connection(conn) else { return false };
        if connection.is_leaving() {
            return false;
        }
        let problem = match connection.sender {
            None => "a reply was written before the Hello".to_owned(),
            Some(id) if id != sender => format!("a reply carries the sender {sender}, not {id}"),
            Some(_) if !connection.may_reply => {
                "a reply was written on a connection that has neither published nor listened".to_owned()
            }
            Some(_) => {
                connection.tally.messages = connection.tally.messages.saturating_add(1);
                connection.tally.bytes = connection.tally.bytes.saturating_add(bytes);
                self.stats.messages_accepted = self.stats.messages_accepted.saturating_add(1);
                self.stats.bytes_accepted = self.stats.bytes_accepted.saturating_add(bytes);
                self.stats.replies_accepted += 1;
                return true;
            }
        };
        self.refuse(now, conn, RefusedCode::Protocol, &problem, effects);
        false
    }

    /// Lets `queue` add to the outbox of the connection that has the inbox, or counts the reply as dropped if none has.
    fn queue_reply(
        &mut self,
        now: Moment,
        inbox: ChannelId,
        effects: &mut Effects,
        queue: impl FnOnce(&mut Connection, &mut Losses),
    ) {
        self.turn_work += 1;
        let Some(conn) = self.registry.inbox(inbox) else {
            self.stats.replies_dropped += 1;
            return;
        };
        self.change_waiting(now, conn, |connection, losses| {
            connection.push_deferred();
            queue(connection, losses);
        });
        if let Some(connection) = self.connection(conn) {
            connection.request_write(conn, effects);
        }
    }
}
