//! When frames with descriptors may be written, in either direction: each side is asked first, because to read descriptors takes longer. It knows
//! nothing of what is passed.

use crate::broker::Broker;
use crate::effect::Effects;
use crate::event::{ConnId, Moment, RingId};
use crate::session::Refusal;
use broadcaster_protocol::control::{Control, Prepare, Prepared, RefusedCode};

/// Whether frames with descriptors may be written to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    /// None were needed.
    Unasked,
    /// It was asked, for this ring.
    Asked(RingId),
    /// They may.
    Ready,
}

impl Broker {
    /// Whether the connection may send frames that concern rings.
    pub(super) fn check_shares_memory(&self, conn: ConnId) -> Result<(), Refusal> {
        match self.connections.get(conn.0) {
            Some(Some(connection)) if connection.shares_memory => Ok(()),
            _ => Err((RefusedCode::Protocol, "this connection has not agreed on rings in its handshake".to_owned())),
        }
    }

    pub(crate) fn prepare(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        if let Some(connection) = self.connection(conn) {
            connection.expects_descriptors = true;
        }
        self.reply(now, conn, &Control::Prepared(Prepared::default()), effects);
        Ok(())
    }

    /// Whether frames with descriptors may be written to the connection. If not, it is asked, for this ring.
    pub(super) fn may_pass(&mut self, now: Moment, conn: ConnId, ring: RingId, effects: &mut Effects) -> bool {
        let Some(connection) = self.connection(conn) else { return false };
        if connection.passing == Passing::Unasked {
            connection.passing = Passing::Asked(ring);
            self.reply(now, conn, &Control::Prepare(Prepare::default()), effects);
            return false;
        }
        connection.passing == Passing::Ready
    }

    pub(crate) fn prepared(&mut self, now: Moment, conn: ConnId, effects: &mut Effects) -> Result<(), Refusal> {
        self.check_shares_memory(conn)?;
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        let Passing::Asked(ring) = connection.passing else {
            return Err((RefusedCode::Protocol, "a Prepared answers no Prepare".to_owned()));
        };
        connection.passing = Passing::Ready;
        for id in self.rings_of(conn) {
            self.announce_ring(now, id, effects);
        }
        self.introduce(now, ring, effects);
        Ok(())
    }
}
