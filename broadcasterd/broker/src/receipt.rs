//! How many listeners took a message, and which of them lag. It changes nothing.

use crate::broker::Broker;
use crate::effect::Effects;
use crate::event::{ConnId, Moment};
use crate::session::Refusal;
use broadcaster_protocol::ChannelId;
use broadcaster_protocol::control::{Confirm, Control, Extension, Lagging, Receipt, RefusedCode, extension};
use broadcaster_protocol::limits::RECEIPT_LAGGING_MAX;
use std::cmp::Reverse;

impl Broker {
    pub(crate) fn confirm(
        &mut self,
        now: Moment,
        conn: ConnId,
        confirm: &Confirm,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let id = ChannelId(confirm.id);
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        let Some(publication) = connection.publications.get(&id) else {
            return Err((RefusedCode::Protocol, format!("the channel {} is not open on this connection", id.0)));
        };
        let (next_sequence, reach) = (publication.next, publication.reach);
        let not_retained = publication.not_retained.as_ref().map(Extension::not_retained);
        let mut worst = self.lagging(conn, id);
        let lagging = u32::try_from(worst.len()).unwrap_or(u32::MAX);
        worst.sort_unstable_by_key(|lagging| (Reverse(lagging.bytes), lagging.listener));
        worst.truncate(RECEIPT_LAGGING_MAX);
        let receipt = Receipt {
            number: confirm.number,
            next_sequence,
            listeners: reach.listeners,
            took: reach.took,
            lagging,
            worst,
            extensions: not_retained.into_iter().collect(),
        };
        let may_wait = confirm.extensions.iter().any(|extension| extension.id == extension::WITH_REPLY);
        let receipt = Control::Receipt(receipt);
        match self.connection(conn) {
            Some(connection)
                if may_wait && reach.took > 0 && connection.inbox.is_some() && connection.deferred.is_none() =>
            {
                connection.deferred = Some(receipt.into());
            }
            Some(_) | None => self.reply(now, conn, &receipt, effects),
        }
        Ok(())
    }

    /// The listeners of the channel whose sockets are full while messages wait, or which have not read half of the sender's ring.
    fn lagging(&mut self, sender: ConnId, id: ChannelId) -> Vec<Lagging> {
        let Some(channel) = self.registry.channel(id) else { return Vec::new() };
        self.turn_work += channel.subscribers().len();
        let listeners = channel.subscribers().iter().filter(|subscriber| !subscriber.terms.observer);
        let lagging = listeners.filter_map(|subscriber| {
            let connection = self.connections.get(subscriber.conn.0)?.as_ref()?;
            let (messages, _) = connection.outbox.queue();
            let bytes = connection.outbox.frames_bytes() as u64;
            let listener = connection.sender?.raw();
            let behind = (connection.blocked.is_some() && messages > 0).then_some((messages, bytes));
            let unread = self.far_behind_in_ring(sender, id, subscriber.conn);
            let (messages, bytes) = match (behind, unread) {
                (Some(behind), Some(unread)) => (behind.0 + unread.0, behind.1 + unread.1),
                (behind, unread) => behind.or(unread)?,
            };
            Some(Lagging { listener, messages, bytes })
        });
        lagging.collect()
    }
}
