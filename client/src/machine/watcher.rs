//! The listeners of one channel, as a daemon reports them: those that are there, and then each that joins or leaves. It never receives a
//! message.

use super::session::{Ended, Machine, Phase, Session};
use super::{Carrier, Link, Loss, Step, Transfer};
use crate::ChannelName;
use broadcaster_protocol::control::{Control, Presence, Watch, kind};
use broadcaster_protocol::{Item, SenderId};
use std::collections::{BTreeMap, VecDeque};

/// The number of the only watch on its connection.
const WATCH: u32 = 0;

/// Listeners of one channel that are remembered at most. No daemon has as many connections.
const PRESENT_MAX: usize = 1 << 20;

/// A listener has joined or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Whether it is there now.
    pub present: bool,
    /// The sender id of its connection.
    pub listener: SenderId,
    /// The purpose of its connection.
    pub purpose: String,
}

/// One watch. After a reconnection it yields what has changed in between.
#[derive(Debug)]
pub struct Watcher {
    session: Session,
    channel: ChannelName,
    /// The listeners that are there, with their purposes, as far as the daemon has reported.
    present: BTreeMap<SenderId, String>,
    /// Those that the present daemon has reported in its first answer, and how many are missing.
    snapshot: BTreeMap<SenderId, String>,
    missing: Option<u32>,
    /// What was found and not handed out yet.
    found: VecDeque<Presented>,
}

impl Watcher {
    /// A watch of `channel` by the process `pid`; `purpose` is for display.
    pub fn new(channel: ChannelName, purpose: &str, pid: u32) -> Self {
        Self {
            session: Session::new(purpose, pid),
            channel,
            present: BTreeMap::new(),
            snapshot: BTreeMap::new(),
            missing: None,
            found: VecDeque::new(),
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The listeners that are there, with their purposes, as far as the daemon's reports have arrived.
    pub fn present(&self) -> impl Iterator<Item = (SenderId, &str)> {
        self.present.iter().map(|(&listener, purpose)| (listener, purpose.as_str()))
    }

    /// The next change.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be given up.
    pub fn poll_next(&mut self) -> Result<Option<Presented>, Ended> {
        while self.found.is_empty() && self.is_ready() {
            let Some(item) = self.session.next()? else { break };
            self.handle(item)?;
        }
        Ok(self.found.pop_front())
    }

    fn handle(&mut self, item: Item) -> Result<(), Ended> {
        match (self.session.phase, item) {
            (Phase::Greeting, Item::Control(Control::Welcome(_))) => {
                let channel = self.channel.as_str().to_owned();
                self.session.push(&Watch { watch: WATCH, channel, extensions: Vec::new() }.into());
                self.session.phase = Phase::Joining;
            }
            (Phase::Joining, Item::Control(Control::Watched(watched)))
                if watched.watch == WATCH && self.missing.is_none() =>
            {
                self.missing = Some(watched.listeners);
                self.complete();
            }
            (Phase::Joining, Item::Control(Control::Presence(presence))) => self.count(presence)?,
            (Phase::Ready, Item::Control(Control::Presence(presence))) if presence.watch == WATCH => {
                self.change(presence)?;
            }
            (_, item) => return Err(self.session.declined_or_unexpected(item)),
        }
        Ok(())
    }

    /// One of the listeners that are there when the watch begins.
    fn count(&mut self, presence: Presence) -> Result<(), Ended> {
        let Presence { watch: WATCH, present: true, listener, purpose, .. } = presence else {
            return Err(Ended::Unexpected(kind::PRESENCE));
        };
        let missing = self.missing.as_mut().ok_or(Ended::Unexpected(kind::PRESENCE))?;
        *missing = missing.checked_sub(1).ok_or(Ended::Unexpected(kind::PRESENCE))?;
        if self.snapshot.len() >= PRESENT_MAX || self.snapshot.insert(SenderId::from_raw(listener), purpose).is_some() {
            return Err(Ended::Unexpected(kind::PRESENCE));
        }
        self.complete();
        Ok(())
    }

    /// Once every listener is known: what differs from what was reported before.
    fn complete(&mut self) {
        if self.missing != Some(0) {
            return;
        }
        let (now, before) = (std::mem::take(&mut self.snapshot), std::mem::take(&mut self.present));
        let differs = |other: &BTreeMap<SenderId, String>, listener, purpose| other.get(listener) != Some(purpose);
        for (&listener, purpose) in before.iter().filter(|(listener, purpose)| differs(&now, listener, purpose)) {
            self.found.push_back(Presented { present: false, listener, purpose: purpose.clone() });
        }
        for (&listener, purpose) in now.iter().filter(|(listener, purpose)| differs(&before, listener, purpose)) {
            self.found.push_back(Presented { present: true, listener, purpose: purpose.clone() });
        }
        (self.present, self.missing) = (now, None);
        self.session.phase = Phase::Ready;
    }

    /// A listener has joined or left.
    fn change(&mut self, Presence { present, listener, purpose, .. }: Presence) -> Result<(), Ended> {
        let listener = SenderId::from_raw(listener);
        let (is_change, purpose) = match present {
            true => (!self.present.contains_key(&listener) && self.present.len() < PRESENT_MAX, purpose),
            false => match self.present.remove(&listener) {
                Some(purpose) => (true, purpose),
                None => (false, purpose),
            },
        };
        if !is_change {
            return Err(Ended::Unexpected(kind::PRESENCE));
        }
        if present {
            self.present.insert(listener, purpose.clone());
        }
        self.found.push_back(Presented { present, listener, purpose });
        Ok(())
    }
}

impl Machine for Watcher {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.session.connected(0);
    }

    fn disconnected(&mut self) {
        self.session.disconnected();
        (self.missing, self.snapshot) = (None, BTreeMap::new());
    }

    fn received(&mut self) -> Result<(), Ended> {
        while !self.is_ready() {
            let Some(item) = self.session.next()? else { break };
            self.handle(item)?;
        }
        Ok(())
    }
}

/// Finds the next change, and connects first if there is no connection.
///
/// # Errors
///
/// If there is no connection, and will be none. Calling again starts over.
pub fn watch<L: Link>(watcher: &mut Watcher, link: &mut L) -> Result<Step<Presented, L::Wait>, L::Error> {
    loop {
        match watcher.poll_next() {
            Ok(Some(presented)) => return Ok(Step::Done(presented)),
            Ok(None) => {}
            Err(ended) => {
                link.lose(watcher, Loss::Ended(ended))?;
                continue;
            }
        }
        let was_ready = watcher.is_ready();
        match link.connect(watcher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Stream | Carrier::Messages) => {}
        }
        if watcher.is_ready() && !was_ready {
            continue; // the listeners that are there are a part of the handshake
        }
        match link.read_answer(watcher) {
            Transfer::Bytes(_) => {}
            Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
            Transfer::Broken => link.lose(watcher, Loss::Closed)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, declined, feed, welcome};
    use super::*;
    use broadcaster_protocol::control::{Refused, RefusedCode, Watched};

    fn watcher() -> Watcher {
        Watcher::new(ChannelName::new("news").expect("a name"), "test", 7)
    }

    fn watched(listeners: u32) -> Control {
        Watched { watch: WATCH, listeners, extensions: Vec::new() }.into()
    }

    fn presence(present: bool, listener: u64, purpose: &str) -> Control {
        let purpose = purpose.to_owned();
        Presence { watch: WATCH, present, listener, purpose, extensions: Vec::new() }.into()
    }

    fn joins(listener: u64, purpose: &str) -> Control {
        presence(true, listener, purpose)
    }

    fn leaves(listener: u64) -> Control {
        presence(false, listener, "")
    }

    /// The ids and purposes of those that have joined (`true`) and left, until nothing is left.
    fn changes(watcher: &mut Watcher) -> Vec<(bool, u64, String)> {
        let next = || watcher.poll_next().expect("the stream is well formed");
        std::iter::from_fn(next).map(|change| (change.present, change.listener.raw(), change.purpose)).collect()
    }

    fn change(present: bool, listener: u64, purpose: &str) -> (bool, u64, String) {
        (present, listener, purpose.to_owned())
    }

    fn present(watcher: &Watcher) -> Vec<(u64, &str)> {
        watcher.present().map(|(listener, purpose)| (listener.raw(), purpose)).collect()
    }

    #[test]
    fn those_that_are_there_come_first_and_complete_the_handshake() {
        let mut watcher = watcher();
        accept(&mut watcher, &[welcome(), watched(2), joins(5, "b")]).expect("ok");
        assert!(!watcher.is_ready() && present(&watcher).is_empty());
        assert_eq!(watcher.poll_next(), Ok(None));
        feed(&mut watcher, &[joins(3, "a"), joins(9, "c"), leaves(5)]).expect("ok");
        assert!(watcher.is_ready());
        assert_eq!(present(&watcher), [(3, "a"), (5, "b")]);
        let all = [change(true, 3, "a"), change(true, 5, "b"), change(true, 9, "c"), change(false, 5, "b")];
        assert_eq!(changes(&mut watcher), all);
        assert_eq!(present(&watcher), [(3, "a"), (9, "c")]);
        let mut watcher = self::watcher();
        accept(&mut watcher, &[welcome(), watched(0)]).expect("ok");
        assert!(watcher.is_ready() && changes(&mut watcher).is_empty(), "a channel without listeners");
    }

    #[test]
    fn a_reconnection_yields_the_differences() {
        let mut watcher = watcher();
        accept(&mut watcher, &[welcome(), watched(3), joins(1, "stays"), joins(2, "leaves"), joins(3, "changes")])
            .expect("ok");
        assert_eq!(changes(&mut watcher).len(), 3);
        feed(&mut watcher, &[joins(4, "not yielded yet")]).expect("ready");
        watcher.poll_next().expect("ok").expect("found");
        watcher.disconnected();
        assert_eq!(present(&watcher).len(), 4, "the last that is known");
        accept(&mut watcher, &[welcome(), watched(2), joins(1, "stays")]).expect("ok");
        watcher.disconnected(); // an attempt that fails changes nothing
        assert_eq!((changes(&mut watcher), present(&watcher).len()), (Vec::new(), 4));
        let again = [welcome(), watched(4), joins(3, "changed"), joins(1, "stays"), joins(9, "new"), joins(4, "x")];
        accept(&mut watcher, &again).expect("ok");
        let left = [change(false, 2, "leaves"), change(false, 3, "changes"), change(false, 4, "not yielded yet")];
        let joined = [change(true, 3, "changed"), change(true, 4, "x"), change(true, 9, "new")];
        assert_eq!(changes(&mut watcher), [left, joined].concat());
    }

    #[test]
    fn a_watch_that_is_declined_is_refused() {
        let refused = accept(&mut watcher(), &[welcome(), declined(kind::WATCH, WATCH, RefusedCode::Channels)]);
        assert_eq!(refused, Err(Ended::Refused(Refused::new(RefusedCode::Channels, "patterns"))));
        let unsupported = accept(&mut watcher(), &[welcome(), declined(kind::WATCH, WATCH, RefusedCode::Unsupported)]);
        assert!(matches!(unsupported, Err(Ended::Unsupported { .. })));
    }

    #[test]
    fn reports_that_contradict_others_end_the_connection() {
        let unexpected = Err(Ended::Unexpected(kind::PRESENCE));
        for handshake in [
            &[welcome(), joins(1, "before the answer")][..],
            &[welcome(), watched(2), leaves(1)],
            &[welcome(), watched(2), joins(1, "a"), joins(1, "a")],
        ] {
            assert_eq!(accept(&mut watcher(), handshake), unexpected);
        }
        for later in [joins(1, "twice"), leaves(2)] {
            let mut watcher = watcher();
            accept(&mut watcher, &[welcome(), watched(1), joins(1, "a")]).expect("ok");
            changes(&mut watcher);
            feed(&mut watcher, &[later]).expect("ready");
            assert_eq!(watcher.poll_next().map(drop), unexpected);
        }
        let mut watcher = watcher();
        accept(&mut watcher, &[welcome(), watched(0)]).expect("ok");
        feed(&mut watcher, &[watched(0)]).expect("ready");
        assert_eq!(watcher.poll_next(), Err(Ended::Unexpected(kind::WATCHED)));
    }
}
