//! One request to a daemon: its report, or its end. It never joins a channel.

use super::session::{Ended, Machine, Phase, Session};
use broadcaster_protocol::Item;
use broadcaster_protocol::control::{Control, Inspect, Report, Stop, Welcome};

/// A request and its answer.
#[derive(Debug)]
pub struct Request {
    session: Session,
    question: Control,
    welcome: Option<Welcome>,
    report: Option<Report>,
}

impl Request {
    /// Requests a report.
    pub fn inspect(purpose: &str, pid: u32) -> Self {
        Self::new(Inspect::default().into(), purpose, pid)
    }

    /// Requests an orderly stop. The daemon answers with Goodbye, once everything was delivered.
    pub fn stop(purpose: &str, pid: u32) -> Self {
        Self::new(Stop::default().into(), purpose, pid)
    }

    fn new(question: Control, purpose: &str, pid: u32) -> Self {
        Self { session: Session::new(purpose, pid), question, welcome: None, report: None }
    }

    /// What the daemon introduced itself with: its version, its process, its protocol.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// The report, if the request was for one and it has arrived.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    fn is_stop(&self) -> bool {
        matches!(self.question, Control::Stop(_))
    }
}

impl Machine for Request {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.session.connected(0);
        if self.welcome.is_some() && self.is_stop() {
            // The daemon that was asked to stop is gone. The one that serves now was not asked.
            self.session.disconnected();
            self.session.phase = Phase::Ready;
        }
    }

    fn received(&mut self) -> Result<(), Ended> {
        loop {
            let item = match self.session.next() {
                // Goodbye is the answer to Stop.
                Err(Ended::Goodbye) if self.welcome.is_some() && self.is_stop() => {
                    self.session.phase = Phase::Ready;
                    return Ok(());
                }
                item => item?,
            };
            let Some(item) = item else { return Ok(()) };
            match (self.session.phase, item) {
                (Phase::Greeting, Item::Control(Control::Welcome(welcome))) => {
                    self.welcome = Some(welcome);
                    self.session.push(&self.question);
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Item::Control(Control::Report(report))) => {
                    self.report = Some(report);
                    self.session.phase = Phase::Ready;
                }
                (_, item) => return Err(self.session.declined_or_unexpected(item)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, feed, welcome};
    use super::*;
    use broadcaster_protocol::control::Goodbye;

    #[test]
    fn a_report_completes_an_inspection() {
        let mut request = Request::inspect("test", 7);
        accept(&mut request, &[welcome()]).expect("welcome");
        assert!(!request.is_ready() && request.report().is_none());
        feed(&mut request, &[Report::default().into()]).expect("a report");
        assert!(request.is_ready() && request.report().is_some());
        assert_eq!(request.welcome().map(|welcome| welcome.version.as_str()), Some("9.9.9"));
    }

    #[test]
    fn goodbye_completes_a_stop_and_nothing_else() {
        let goodbye = || Control::Goodbye(Goodbye { reason: String::new(), extensions: Vec::new() });
        let mut stop = Request::stop("test", 7);
        accept(&mut stop, &[welcome(), goodbye()]).expect("stopped");
        assert!(stop.is_ready());
        let mut inspect = Request::inspect("test", 7);
        assert_eq!(accept(&mut inspect, &[welcome(), goodbye()]), Err(Ended::Goodbye));
    }

    #[test]
    fn the_next_daemon_is_not_asked_to_stop() {
        let mut stop = Request::stop("test", 7);
        accept(&mut stop, &[welcome()]).expect("welcome");
        stop.disconnected();
        stop.connected();
        assert!(stop.is_ready() && stop.outgoing().is_empty());
    }
}
