//! The time without connections after which the daemon exits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest time that is not `never`.
pub(super) const IDLE_EXIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time without connections after which the daemon exits; `None` is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleExit(pub(crate) Option<Duration>);

impl FromStr for IdleExit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(time) if (Duration::from_millis(1)..=IDLE_EXIT_MAX).contains(&time) => Ok(Self(Some(time))),
            Ok(_) => Err(format!("{text:?} is out of range; use 1ms to 365days, or never")),
            Err(error) => Err(format!("{text:?} is not a time ({error}); try 60s, 10min or never")),
        }
    }
}

impl fmt::Display for IdleExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => humantime::format_duration(time).fmt(f),
            None => f.write_str("never"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_exit_is_a_time_within_bounds_or_never() {
        let parse = |text: &str| text.parse::<IdleExit>();
        assert_eq!(parse("never"), Ok(IdleExit(None)));
        assert_eq!(parse("10min"), Ok(IdleExit(Some(Duration::from_secs(600)))));
        assert_eq!(parse("1ms"), Ok(IdleExit(Some(Duration::from_millis(1)))));
        assert_eq!(parse("365days"), Ok(IdleExit(Some(IDLE_EXIT_MAX))));
        for text in ["0s", "366days", "999999years"] {
            let wrong = parse(text).expect_err("out of range");
            assert!(wrong.contains(text) && wrong.contains("use 1ms to 365days, or never"), "{wrong}");
        }
        for text in ["", "60", "Never", "-1s"] {
            assert!(parse(text).expect_err("not a time").ends_with("try 60s, 10min or never"));
        }
    }
}
