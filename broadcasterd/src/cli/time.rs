//! Times on the command line. No clock is read here.

use std::time::Duration;

/// A time such as `500ms`, `5s` or `2min`. A plain number is in seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let is_number = text.chars().all(|character| character.is_ascii_digit() || character == '.');
    let seconds = if is_number { text.parse().ok() } else { None };
    let time = match seconds.map(Duration::try_from_secs_f64) {
        Some(time) => time.map_err(|error| error.to_string()),
        None => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    time.map_err(|error| format!("{error}; try 500ms, 5s or 2min"))
}

/// How long to wait for a message. A timeout of zero would always expire.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    longer_than_zero(text, "omit --timeout to wait without a limit")
}

/// How long to wait for an answer.
pub(super) fn answer_timeout(text: &str) -> Result<Duration, String> {
    longer_than_zero(text, "omit --timeout to wait for 5s")
}

/// For how long a message is retained.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err("a lifetime must be longer than zero; omit --lifetime to retain without a limit".to_owned())
        }
        time => Ok(time),
    }
}

fn longer_than_zero(text: &str, alternative: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("a timeout must be longer than zero; {alternative}")),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_number_is_in_seconds() {
        assert_eq!(duration("1"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        for text in ["", ".", "1.2.3", "-1", "inf", "1e3", "soon", "99999999999999999999999"] {
            assert!(duration(text).is_err_and(|error| error.ends_with("; try 500ms, 5s or 2min")), "{text}");
        }
    }

    #[test]
    fn timeout_of_zero_is_refused_with_the_alternative() {
        for zero in ["0", "0s", "0.0", "0ms"] {
            assert!(timeout(zero).is_err_and(|error| error.contains("omit --timeout to wait without")), "{zero}");
            assert!(answer_timeout(zero).is_err_and(|error| error.contains("omit --timeout to wait for 5s")), "{zero}");
        }
        assert_eq!(timeout("1"), Ok(Duration::from_secs(1)));
        assert_eq!(answer_timeout("1ms"), Ok(Duration::from_millis(1)));
    }
}
