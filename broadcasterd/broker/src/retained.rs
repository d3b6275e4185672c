//! Messages that clients declare again after a restart of the daemon. Nothing is retained yet: they are ignored.

use crate::broker::Broker;
use crate::effect::Effects;
use crate::event::{ConnId, Moment};
use broadcaster_protocol::Run;
use broadcaster_protocol::control::RefusedCode;

impl Broker {
    pub(crate) fn redeclare(&mut self, now: Moment, conn: ConnId, run: &Run, effects: &mut Effects) {
        let Some(connection) = self.connection(conn) else { return };
        if !connection.is_leaving() && !connection.publications.contains_key(&run.channel()) {
            let reason = format!("a message was declared again on channel {}, which is not open here", run.channel().0);
            self.refuse(now, conn, RefusedCode::Protocol, &reason, effects);
        }
    }
}
