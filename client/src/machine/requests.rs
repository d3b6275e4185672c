//! Requests of a publisher to listeners, and the replies to them. It never decides how long to wait for one.

use super::publisher::{Declined, Rejected};
use broadcaster_protocol::{ChannelId, Run};
use std::collections::VecDeque;

/// The inbox on the present connection, and the requests that await replies.
#[derive(Debug, Default)]
pub(super) struct Requests {
    inbox: Inbox,
    pending: Vec<Pending>,
    /// Replies to requests that no longer awaited any.
    late: u64,
}

#[derive(Debug, Default)]
enum Inbox {
    #[default]
    Closed,
    Requested,
    Open(ChannelId),
    /// Why the daemon does not open it, until that is reported.
    Declined(Box<Declined>),
}

#[derive(Debug)]
struct Pending {
    number: u64,
    /// A part of it was written, on the present connection.
    begun: bool,
    replies: VecDeque<Run>,
    /// Replies to this connection that were lost while it was awaiting some.
    lost: u64,
    /// The connection is gone on which a part of it was written.
    is_over: bool,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Reception {
    /// A reply.
    Reply(Run),
    /// Nothing has arrived yet.
    Due,
    /// The connection is gone: no reply will arrive.
    Over,
}

impl Requests {
    /// A request with this number awaits replies from now on.
    pub(super) fn begin(&mut self, number: u64) {
        let pending = Pending { number, begun: false, replies: VecDeque::new(), lost: 0, is_over: false };
        self.pending.push(pending);
    }

    /// A part of the request was written, or all of it.
    pub(super) fn begun(&mut self, number: u64) {
        if let Some(pending) = self.pending_mut(number) {
            pending.begun = true;
        }
    }

    /// Whether the connection is gone on which a part of the request was written.
    pub(super) fn is_over(&self, number: u64) -> bool {
        self.pending.iter().any(|pending| pending.number == number && pending.is_over)
    }

    fn pending_mut(&mut self, number: u64) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.number == number)
    }

    /// Its replies are no longer wanted. Those that were not taken are late.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(at) = self.pending.iter().position(|pending| pending.number == number) {
            self.late += self.pending.swap_remove(at).replies.len() as u64;
        }
    }

    /// The next reply to the request.
    pub(super) fn take(&mut self, number: u64) -> Reception {
        let Some(pending) = self.pending_mut(number) else { return Reception::Over };
        match pending.replies.pop_front() {
            Some(run) => Reception::Reply(run),
            None if pending.is_over => Reception::Over,
            None => Reception::Due,
        }
    }

    /// How many replies were lost while the request was awaiting some.
    pub(super) fn lost(&self, number: u64) -> u64 {
        self.pending.iter().find(|pending| pending.number == number).map_or(0, |pending| pending.lost)
    }

    pub(super) fn late(&self) -> u64 {
        self.late
    }

    // ---- the connection ----

    /// The id of the inbox.
    #[inline]
    pub(super) fn inbox(&self) -> Option<ChannelId> {
        match self.inbox {
            Inbox::Open(id) => Some(id),
            Inbox::Closed | Inbox::Requested | Inbox::Declined(_) => None,
        }
    }

    /// Whether an inbox must be requested now; it counts as requested from then on.
    ///
    /// # Errors
    ///
    /// [`Rejected::Declined`], once: the daemon has declined it.
    pub(super) fn open(&mut self) -> Result<bool, Rejected> {
        match std::mem::take(&mut self.inbox) {
            Inbox::Closed => {
                self.inbox = Inbox::Requested;
                Ok(true)
            }
            Inbox::Declined(declined) => Err(Rejected::Declined(declined)),
            inbox @ (Inbox::Requested | Inbox::Open(_)) => {
                self.inbox = inbox;
                Ok(false)
            }
        }
    }

    /// The daemon has opened the inbox; returns whether it was requested.
    pub(super) fn opened(&mut self, id: ChannelId) -> bool {
        let was_requested = self.is_requested();
        if was_requested {
            self.inbox = Inbox::Open(id);
        }
        was_requested
    }

    /// The daemon does not open the inbox.
    pub(super) fn declined(&mut self, declined: Declined) {
        self.inbox = Inbox::Declined(declined.into());
    }

    pub(super) fn is_requested(&self) -> bool {
        matches!(self.inbox, Inbox::Requested)
    }

    /// A reply has arrived in the inbox.
    pub(super) fn received(&mut self, run: Run) {
        match self.pending_mut(run.first()).filter(|pending| pending.begun) {
            Some(pending) => pending.replies.push_back(run),
            None => self.late += 1,
        }
    }

    /// Replies were lost. They may belong to any request.
    pub(super) fn lagged(&mut self, count: u64) {
        self.pending.iter_mut().for_each(|pending| pending.lost = pending.lost.saturating_add(count));
    }

    /// The connection is gone, and the inbox with it. What has arrived stays.
    pub(super) fn disconnected(&mut self) {
        self.inbox = Inbox::Closed;
        self.pending.iter_mut().for_each(|pending| pending.is_over |= pending.begun);
    }
}
