//! The side of somebody who looks at the daemon or stops it. It never joins a channel.

use super::session::{Core, Ended, Phase, Session, out_of_place};
use broadcaster_protocol::Item;
use broadcaster_protocol::control::{Control, Report, Role, Welcome};
use bytes::BytesMut;
use bytes::buf::Limit;

/// One question to a daemon.
#[derive(Debug)]
pub struct InspectorCore {
    session: Session,
    question: Control,
    welcome: Option<Welcome>,
    report: Option<Report>,
}

impl InspectorCore {
    /// Asks for a report.
    pub fn inspect(pid: u32) -> Self {
        Self::new(Control::Inspect, pid)
    }

    /// Asks the daemon to stop. It answers by saying goodbye, once everything was delivered.
    pub fn stop(pid: u32) -> Self {
        Self::new(Control::Stop, pid)
    }

    fn new(question: Control, pid: u32) -> Self {
        Self { session: Session::new(Role::Inspector, pid), question, welcome: None, report: None }
    }

    /// Who answered: its version, its pid, its protocol.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// What it answered.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }
}

impl Core for InspectorCore {
    fn connected(&mut self) {
        self.session.connected(0);
        if self.welcome.is_some() && self.question == Control::Stop {
            // Not again: the one that was asked is gone, and another one was not meant.
            self.session.disconnected();
            self.session.phase = Phase::Ready;
        }
    }

    fn disconnected(&mut self) {
        self.session.disconnected();
    }

    fn outgoing(&self) -> &[u8] {
        self.session.outgoing()
    }

    fn sent(&mut self, bytes: usize) {
        self.session.sent(bytes);
    }

    fn target(&mut self) -> Limit<&mut BytesMut> {
        self.session.target()
    }

    fn received(&mut self) -> Result<(), Ended> {
        loop {
            let item = match self.session.next() {
                // To a stop, goodbye is the answer.
                Err(Ended::Goodbye) if self.welcome.is_some() && self.question == Control::Stop => {
                    self.session.phase = Phase::Ready;
                    return Ok(());
                }
                item => item?,
            };
            let Some(item) = item else { return Ok(()) };
            match (self.session.phase, item) {
                (Phase::Greeting, Item::Control(Control::Welcome(welcome))) => {
                    self.welcome = Some(welcome);
                    self.session.say(&self.question.clone());
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Item::Control(Control::Report(report))) => {
                    self.report = Some(report);
                    self.session.phase = Phase::Ready;
                }
                (_, item) => return Err(out_of_place(&item)),
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.session.phase == Phase::Ready
    }
}
