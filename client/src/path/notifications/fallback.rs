//! When a handle uses the daemon and when notifications, as a value: it is given what happened and at what time. It never
//! looks at a clock, a socket or a notification.

use std::time::{Duration, Instant};

/// How long to leave the daemon alone after a look for it failed; doubles up to [`LOOK_AFTER_MAX`].
const LOOK_AFTER_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two looks.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(30);

/// How soon to continue a look that has made progress.
const CONTINUE_AFTER: Duration = Duration::from_millis(20);

/// How long a handle that has found the daemon uses both, for the benefit of handles that have not found it yet.
const BOTH_FOR: Duration = Duration::from_secs(40);

/// What a handle uses.
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
    /// Notifications, from the first use on.
    Beginning,
    /// Notifications; the daemon is looked for at a time.
    Notifications { look_at: Instant, pause: Duration, driven_at: Instant },
    /// The daemon, and until a time notifications as well.
    Both { until: Instant },
}

impl Fallback {
    /// Uses the daemon as long as there is one.
    pub(super) fn new() -> Self {
        Self { state: State::Daemon, only: false }
    }

    /// Uses notifications, and never looks for a daemon.
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
            self.fall(now);
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

    /// No daemon is available.
    pub(super) fn fall(&mut self, now: Instant) {
        self.state = State::Notifications { look_at: now + LOOK_AFTER_MIN, pause: LOOK_AFTER_MIN, driven_at: now };
    }

    /// Whether it is time to look for the daemon.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        self.look_at().is_some_and(|at| now >= at)
    }

    /// When it will be time; `None`: never.
    pub(super) fn look_at(&self) -> Option<Instant> {
        match self.state {
            State::Notifications { look_at, .. } if !self.only => Some(look_at),
            State::Notifications { .. } | State::Beginning | State::Daemon | State::Both { .. } => None,
        }
    }

    /// There is still no daemon.
    pub(super) fn looked_in_vain(&mut self, now: Instant) {
        if let State::Notifications { look_at, pause, .. } = &mut self.state {
            *pause = (*pause * 2).min(LOOK_AFTER_MAX);
            *look_at = now + *pause;
        }
    }

    /// A daemon may be there: the look continues.
    pub(super) fn looks_on(&mut self, now: Instant) {
        if let State::Notifications { look_at, .. } = &mut self.state {
            *look_at = now + CONTINUE_AFTER;
        }
    }

    /// A daemon is there again.
    pub(super) fn found(&mut self, now: Instant) {
        self.state = State::Both { until: now + BOTH_FOR };
    }

    /// Whether nothing has delivered notifications to this process for `patience`. `driven`: something does now.
    pub(super) fn is_undelivered(&mut self, now: Instant, driven: bool, patience: Duration) -> bool {
        let State::Notifications { driven_at, .. } = &mut self.state else { return false };
        let undelivered = !driven && now.saturating_duration_since(*driven_at) >= patience;
        if driven || undelivered {
            *driven_at = now; // reported once, and again after the same time
        }
        undelivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn looks_for_the_daemon_become_rarer() {
        let mut now = Instant::now();
        let mut fallback = Fallback::new();
        assert!(!fallback.is_active() && !fallback.may_look(now));
        fallback.fall(now);
        assert!(fallback.is_active());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!fallback.may_look(now + pause * SECOND - Duration::from_millis(1)), "{pause} s");
            now += pause * SECOND;
            assert_eq!(fallback.look_at(), Some(now));
            assert!(fallback.may_look(now));
            fallback.looked_in_vain(now);
        }
    }

    #[test]
    fn a_look_that_makes_progress_continues_soon() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        fallback.fall(now);
        fallback.looks_on(now + SECOND);
        assert!(fallback.is_active() && !fallback.may_look(now + SECOND));
        assert!(fallback.may_look(now + SECOND + CONTINUE_AFTER));
    }

    #[test]
    fn using_both_outlasts_the_longest_pause_of_another_handle() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        fallback.fall(now);
        fallback.found(now);
        assert!(!fallback.is_active());
        assert!(fallback.is_both(now + LOOK_AFTER_MAX + SECOND));
        assert!(!fallback.is_both(now + BOTH_FOR) && !fallback.is_both(now), "and then it is over");
        fallback.fall(now);
        assert!(fallback.is_active() && !fallback.is_both(now), "it may fall again");
    }

    #[test]
    fn missing_delivery_is_reported_once_per_patience() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        assert!(!fallback.is_undelivered(now, false, SECOND), "the daemon delivers");
        fallback.fall(now);
        assert!(!fallback.is_undelivered(now, false, SECOND), "its main thread may be about to begin");
        assert!(fallback.is_undelivered(now + SECOND, false, SECOND));
        assert!(!fallback.is_undelivered(now + SECOND, false, SECOND));
        assert!(!fallback.is_undelivered(now + 2 * SECOND, true, SECOND));
        assert!(!fallback.is_undelivered(now + 2 * SECOND, false, SECOND));
    }

    #[test]
    fn a_handle_that_never_uses_the_daemon_looks_for_none() {
        let now = Instant::now();
        let mut fallback = Fallback::only();
        assert!(fallback.is_active() && fallback.begins(now) && !fallback.begins(now));
        assert!(fallback.is_active() && !fallback.may_look(now + 1000 * SECOND));
        assert_eq!(fallback.look_at(), None);
    }
}
