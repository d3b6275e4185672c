//! When samples are taken: one at a time, one interval apart. It receives the time and never reads a clock.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The permitted intervals.
pub(crate) const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// The steps of `+` and `-`.
const INTERVAL_STEPS_MS: [u64; 9] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// Maximum wait for the first rates, for a missing daemon, and between two screens.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// An answer that takes longer than this is mentioned on the screen.
const OVERDUE_AFTER: Duration = Duration::from_secs(2);

/// The schedule of one screen.
#[derive(Debug)]
pub(crate) struct Pace {
    now: Duration,
    interval: Duration,
    /// When the pending sample was requested.
    requested: Option<Duration>,
    due: Duration,
}

impl Pace {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { now: Duration::ZERO, interval, requested: None, due: Duration::ZERO }
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Sets the time, which never decreases.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = now;
    }

    /// Whether to take a sample now. At most one is requested at a time.
    pub(crate) fn wants_sample(&mut self) -> bool {
        let wanted = self.requested.is_none() && self.now >= self.due;
        if wanted {
            self.requested = Some(self.now);
        }
        wanted
    }

    /// A sample arrived at `at`. With `soon`, as after the first sample and after a failure, the next one follows within a second.
    pub(crate) fn answered(&mut self, at: Duration, soon: bool) {
        let requested = self.requested.take().unwrap_or(at);
        let pause = if soon { self.interval.min(WAIT_MAX) } else { self.interval };
        // A slow answer postpones the next request.
        self.due = (requested + pause).max(at);
    }

    /// How long the caller may wait for an event. Ages on the screen change once a second.
    pub(crate) fn idle_for(&self) -> Duration {
        match self.requested {
            Some(_) => WAIT_MAX,
            None => self.due.saturating_sub(self.now).min(WAIT_MAX),
        }
    }

    /// How long the current request has waited, if that is too long.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.requested.map(|requested| self.ago(requested)).filter(|&time| time >= OVERDUE_AFTER)
    }

    /// How long ago `moment` was.
    pub(crate) fn ago(&self, moment: Duration) -> Duration {
        self.now.saturating_sub(moment)
    }

    /// Selects the next longer or shorter interval.
    pub(crate) fn change(&mut self, longer: bool) {
        let mut steps = INTERVAL_STEPS_MS.map(Duration::from_millis).into_iter();
        let next = match longer {
            true => steps.find(|&step| step > self.interval),
            false => steps.rfind(|&step| step < self.interval),
        };
        self.interval = next.unwrap_or(self.interval);
        self.due = self.due.min(self.now + self.interval);
    }
}

/// The limits of the interval, as text.
pub(crate) fn interval_limits() -> String {
    let [least, most] = [INTERVALS.start(), INTERVALS.end()].map(|&time| humantime::format_duration(time));
    format!("{least} to {most}")
}
