//! Whether a handle uses the daemon, notifications or both, as a state machine that receives events and the time. It never reads a
//! clock, a socket or a notification.

use std::time::{Duration, Instant};

/// The first pause between two searches for the daemon; doubles up to [`SEARCH_PAUSE_MAX`].
const SEARCH_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two searches.
const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How soon to continue a search that has made progress.
const CONTINUE_AFTER: Duration = Duration::from_millis(20);

/// How long a handle that has found the daemon uses both carriers, for handles that have not found it yet.
const BOTH_FOR: Duration = Duration::from_secs(40);

/// The carriers that a handle uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fallback {
    state: State,
    /// The daemon is never used.
    only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The daemon.
    Daemon,
    /// Notifications, which were not used yet.
    Beginning,
    /// Notifications. The next search for the daemon is at `search_at`.
    Notifications { search_at: Instant, pause: Duration, delivering_at: Instant },
    /// The daemon, and notifications as well until this time.
    Both { until: Instant },
}

impl Fallback {
    /// Uses the daemon as long as there is one.
    pub(super) fn new() -> Self {
        Self { state: State::Daemon, only: false }
    }

    /// Uses notifications, and never searches for a daemon.
    pub(super) fn only() -> Self {
        Self { state: State::Beginning, only: true }
    }

    /// Whether it uses notifications alone.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Notifications { .. } | State::Beginning)
    }

    /// Whether this is the first use of notifications by a handle that never uses the daemon.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let begins = self.state == State::Beginning;
        if begins {
            self.activate(now);
        }
        begins
    }

    /// Whether it uses both.
    pub(super) fn is_both(&mut self, now: Instant) -> bool {
        if let State::Both { until } = self.state
            && now >= until
        {
            self.state = State::Daemon;
        }
        self.both_until().is_some()
    }

    /// Until when it uses both.
    pub(super) fn both_until(&self) -> Option<Instant> {
        match self.state {
            State::Both { until } => Some(until),
            State::Daemon | State::Beginning | State::Notifications { .. } => None,
        }
    }

    /// No daemon is available: uses notifications.
    pub(super) fn activate(&mut self, now: Instant) {
        self.state =
            State::Notifications { search_at: now + SEARCH_PAUSE_MIN, pause: SEARCH_PAUSE_MIN, delivering_at: now };
    }

    /// Whether it is time to search for the daemon.
    pub(super) fn may_search(&self, now: Instant) -> bool {
        self.search_at().is_some_and(|at| now >= at)
    }

    /// When to search for the daemon; `None` for never.
    pub(super) fn search_at(&self) -> Option<Instant> {
        match self.state {
            State::Notifications { search_at, .. } if !self.only => Some(search_at),
            State::Notifications { .. } | State::Beginning | State::Daemon | State::Both { .. } => None,
        }
    }

    /// A search found no daemon.
    pub(super) fn search_failed(&mut self, now: Instant) {
        if let State::Notifications { search_at, pause, .. } = &mut self.state {
            *pause = (*pause * 2).min(SEARCH_PAUSE_MAX);
            *search_at = now + *pause;
        }
    }

    /// A search has made progress and continues soon.
    pub(super) fn search_continues(&mut self, now: Instant) {
        if let State::Notifications { search_at, .. } = &mut self.state {
            *search_at = now + CONTINUE_AFTER;
        }
    }

    /// A search found a daemon.
    pub(super) fn daemon_found(&mut self, now: Instant) {
        self.state = State::Both { until: now + BOTH_FOR };
    }

    /// Whether no notifications could be delivered to this process for `patience`. `delivering`: they can be now.
    pub(super) fn is_undelivered(&mut self, now: Instant, delivering: bool, patience: Duration) -> bool {
        let State::Notifications { delivering_at, .. } = &mut self.state else { return false };
        let undelivered = !delivering && now.saturating_duration_since(*delivering_at) >= patience;
        if delivering || undelivered {
            *delivering_at = now; // reported once, and again after the same time
        }
        undelivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn searches_for_the_daemon_become_rarer() {
        let mut now = Instant::now();
        let mut fallback = Fallback::new();
        assert!(!fallback.is_active() && !fallback.may_search(now));
        fallback.activate(now);
        assert!(fallback.is_active());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!fallback.may_search(now + pause * SECOND - Duration::from_millis(1)), "{pause} s");
            now += pause * SECOND;
            assert_eq!(fallback.search_at(), Some(now));
            assert!(fallback.may_search(now));
            fallback.search_failed(now);
        }
    }

    #[test]
    fn a_search_that_makes_progress_continues_soon() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        fallback.activate(now);
        fallback.search_continues(now + SECOND);
        assert!(fallback.is_active() && !fallback.may_search(now + SECOND));
        assert!(fallback.may_search(now + SECOND + CONTINUE_AFTER));
    }

    #[test]
    fn using_both_outlasts_the_longest_pause_of_another_handle() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        fallback.activate(now);
        fallback.daemon_found(now);
        assert!(!fallback.is_active());
        assert!(fallback.is_both(now + SEARCH_PAUSE_MAX + SECOND));
        assert!(!fallback.is_both(now + BOTH_FOR) && !fallback.is_both(now), "and then it is over");
        fallback.activate(now);
        assert!(fallback.is_active() && !fallback.is_both(now), "notifications may be used again");
    }

    #[test]
    fn missing_delivery_is_reported_once_per_patience() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        assert!(!fallback.is_undelivered(now, false, SECOND), "the daemon delivers");
        fallback.activate(now);
        assert!(!fallback.is_undelivered(now, false, SECOND), "its main thread may be about to begin");
        assert!(fallback.is_undelivered(now + SECOND, false, SECOND));
        assert!(!fallback.is_undelivered(now + SECOND, false, SECOND));
        assert!(!fallback.is_undelivered(now + 2 * SECOND, true, SECOND));
        assert!(!fallback.is_undelivered(now + 2 * SECOND, false, SECOND));
    }

    #[test]
    fn a_handle_that_never_uses_the_daemon_never_searches() {
        let now = Instant::now();
        let mut fallback = Fallback::only();
        assert!(fallback.is_active() && fallback.begins(now) && !fallback.begins(now));
        assert!(fallback.is_active() && !fallback.may_search(now + 1000 * SECOND));
        assert_eq!(fallback.search_at(), None);
    }
}
