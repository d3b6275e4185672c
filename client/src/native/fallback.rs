//! When a handle goes by notifications and when by the daemon, as a value: it is told what happened and at what time, and it never looks
//! at a clock, a socket or a notification.

use std::time::{Duration, Instant};

/// How long to leave the daemon alone after a vain look for it; doubles up to [`LOOK_AFTER_MAX`].
const LOOK_AFTER_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two looks.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(30);

/// How soon to go on with a look that has come to something.
const GO_ON_AFTER: Duration = Duration::from_millis(20);

/// For how long a handle that has found the daemon goes both ways, for the sake of handles that have not found it yet.
const BOTH_FOR: Duration = Duration::from_secs(40);

/// Which way a handle goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fallback {
    way: State,
    /// The daemon was never wanted.
    only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// By the daemon.
    Daemon,
    /// By notifications, and the daemon is looked for at a time.
    Notifications { look_at: Instant, pause: Duration, driven_at: Instant },
    /// By the daemon, and until a time by notifications too.
    Both { until: Instant },
}

impl Fallback {
    /// Goes by the daemon as long as there is one.
    pub(crate) fn new() -> Self {
        Self { way: State::Daemon, only: false }
    }

    /// Goes by notifications, and never looks for a daemon.
    pub(crate) fn only(now: Instant) -> Self {
        Self { way: State::Notifications { look_at: now, pause: LOOK_AFTER_MIN, driven_at: now }, only: true }
    }

    /// Whether it goes by notifications alone.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.way, State::Notifications { .. })
    }

    /// Whether it goes by both.
    pub(crate) fn is_both(&mut self, now: Instant) -> bool {
        if let State::Both { until } = self.way
            && now >= until
        {
            self.way = State::Daemon;
        }
        matches!(self.way, State::Both { .. })
    }

    /// There is no daemon to be had.
    pub(crate) fn fall(&mut self, now: Instant) {
        self.way = State::Notifications { look_at: now + LOOK_AFTER_MIN, pause: LOOK_AFTER_MIN, driven_at: now };
    }

    /// Whether it is time to look for the daemon.
    pub(crate) fn may_look(&self, now: Instant) -> bool {
        !self.only && matches!(self.way, State::Notifications { look_at, .. } if now >= look_at)
    }

    /// When it will be time; `None`: never.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        match self.way {
            State::Notifications { look_at, .. } if !self.only => Some(look_at),
            State::Notifications { .. } | State::Daemon | State::Both { .. } => None,
        }
    }

    /// There is still no daemon.
    pub(crate) fn looked_in_vain(&mut self, now: Instant) {
        if let State::Notifications { look_at, pause, .. } = &mut self.way {
            *pause = (*pause * 2).min(LOOK_AFTER_MAX);
            *look_at = now + *pause;
        }
    }

    /// Somebody may be there: the look goes on.
    pub(crate) fn looks_on(&mut self, now: Instant) {
        if let State::Notifications { look_at, .. } = &mut self.way {
            *look_at = now + GO_ON_AFTER;
        }
    }

    /// There is a daemon again.
    pub(crate) fn found(&mut self, now: Instant) {
        self.way = State::Both { until: now + BOTH_FOR };
    }

    /// Whether nothing has delivered notifications to this process for so long. `driven`: something does now.
    pub(crate) fn is_deaf(&mut self, now: Instant, driven: bool, patience: Duration) -> bool {
        let State::Notifications { driven_at, .. } = &mut self.way else { return false };
        let deaf = !driven && now.saturating_duration_since(*driven_at) >= patience;
        if driven || deaf {
            *driven_at = now; // told once, and again after as long
        }
        deaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_daemon_is_looked_for_ever_more_rarely() {
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
    fn a_look_that_comes_to_something_goes_on_soon() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        fallback.fall(now);
        fallback.looks_on(now + SECOND);
        assert!(fallback.is_active() && !fallback.may_look(now + SECOND));
        assert!(fallback.may_look(now + SECOND + GO_ON_AFTER));
    }

    #[test]
    fn both_ways_outlast_the_longest_pause_of_another_handle() {
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
    fn a_process_that_nothing_is_delivered_to_is_told_once_in_a_while() {
        let now = Instant::now();
        let mut fallback = Fallback::new();
        assert!(!fallback.is_deaf(now, false, SECOND), "by the daemon nobody is deaf");
        fallback.fall(now);
        assert!(!fallback.is_deaf(now, false, SECOND), "its main thread may be about to begin");
        assert!(fallback.is_deaf(now + SECOND, false, SECOND));
        assert!(!fallback.is_deaf(now + SECOND, false, SECOND));
        assert!(!fallback.is_deaf(now + 2 * SECOND, true, SECOND));
        assert!(!fallback.is_deaf(now + 2 * SECOND, false, SECOND));
    }

    #[test]
    fn who_wants_no_daemon_looks_for_none() {
        let now = Instant::now();
        let fallback = Fallback::only(now);
        assert!(fallback.is_active() && !fallback.may_look(now + 1000 * SECOND));
        assert_eq!(fallback.look_at(), None);
    }
}
