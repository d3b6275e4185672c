//! The pace of `send --rate`: when the next message may go. It reads no clock and does not wait.

use std::time::{Duration, Instant};

/// The highest rate, in messages per second.
const RATE_MAX: f64 = 1e6;

/// How much a late message may catch up, so that waits that last too long do not lower the rate. Later ones do not hurry.
const CATCH_UP_MAX: Duration = Duration::from_millis(20);

/// Messages per second, on the command line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate(f64);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = text.parse().ok().filter(|rate| (1e-6..=RATE_MAX).contains(rate));
        rate.map(Self)
            .ok_or_else(|| format!("a rate is a number of messages per second, from 0.000001 to {RATE_MAX}; try 100"))
    }
}

/// Spaces messages evenly.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next message may go; `None` for the first.
    next: Option<Instant>,
}

impl Pace {
    pub(super) fn new(Rate(rate): Rate) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / rate), next: None }
    }

    /// How long the next message has to wait.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// A message goes now.
    pub(super) fn pass(&mut self, now: Instant) {
        let next = self.next.unwrap_or(now);
        self.next = Some(next.max(now.checked_sub(CATCH_UP_MAX).unwrap_or(now)) + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: &str) -> Pace {
        Pace::new(rate.parse().expect("a rate"))
    }

    /// How many messages go within `total`, if each wait lasts `late` too long.
    fn count(mut pace: Pace, total: Duration, late: Duration) -> u32 {
        let began = Instant::now();
        let (mut now, mut count) = (began, 0);
        loop {
            let wait = pace.wait(now);
            if !wait.is_zero() {
                now += wait + late;
            }
            if now >= began + total {
                return count;
            }
            pace.pass(now);
            count += 1;
        }
    }

    #[test]
    fn messages_are_spaced_evenly_and_the_first_goes_at_once() {
        let second = Duration::from_secs(1);
        assert_eq!(count(pace("100"), second, Duration::ZERO), 100);
        assert_eq!(count(pace("0.5"), second * 6, Duration::ZERO), 3);
        // A late wait is caught up.
        for rate in ["1000", "20000"] {
            let wanted: u32 = rate.parse().expect("a number");
            let count = count(pace(rate), second, Duration::from_millis(1));
            assert!((wanted * 99 / 100..=wanted).contains(&count), "{count} at {rate}/s");
        }
    }

    #[test]
    fn pause_of_the_input_is_not_made_up_for() {
        let mut pace = pace("1000");
        let began = Instant::now();
        pace.pass(began);
        let now = began + Duration::from_secs(60);
        let mut burst = 0;
        while pace.wait(now).is_zero() {
            pace.pass(now);
            burst += 1;
        }
        assert_eq!(burst, 21, "those of 20 ms, and the one that is due");
    }

    #[test]
    fn rate_out_of_range_is_refused_with_the_range() {
        for text in ["0", "-1", "nan", "inf", "1e7", "fast", "", "1e-9"] {
            let refused = text.parse::<Rate>();
            assert!(
                refused.as_ref().is_err_and(|error| error.contains("from 0.000001 to 1000000; try 100")),
                "{refused:?}"
            );
        }
        assert_eq!("1e6".parse(), Ok(Rate(1e6)));
        assert_eq!("0.1".parse(), Ok(Rate(0.1)));
    }
}
