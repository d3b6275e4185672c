//! Version negotiation. It looks at values only; the server enforces deadlines and credentials.

use crate::control::{Hello, MAGIC, Refused, RefusedCode, capability, purpose_text, version_text};
use crate::limits::{PROTOCOL_MAX, PROTOCOL_MIN};

/// The Hello of a client that speaks this crate's versions.
pub fn hello(purpose: &str, version: &str, pid: u32, sender_number: u32) -> Hello {
    Hello {
        magic: MAGIC,
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        capabilities: capability::NONE,
        pid,
        sender_number,
        purpose: purpose_text(purpose),
        version: version_text(version),
        extensions: Vec::new(),
    }
}

/// The newest protocol version that the client of `hello` and a daemon for `daemon_min..=daemon_max` both speak.
///
/// # Errors
///
/// The [`Refused`] to answer with if the magic is wrong, the range is empty, or the ranges do not overlap. Its reason names both
/// programs and both ranges.
///
/// ```
/// use broadcaster_protocol::control::RefusedCode;
/// use broadcaster_protocol::handshake::{hello, negotiate};
///
/// let mut client = hello("example", "9.0.0", 42, 0);
/// (client.protocol_min, client.protocol_max) = (3, 5);
/// assert_eq!(negotiate(&client, "1.0.0", 1, 4), Ok(4));
/// assert_eq!(negotiate(&client, "1.0.0", 1, 2).unwrap_err().code, RefusedCode::Version);
/// ```
pub fn negotiate(hello: &Hello, daemon_version: &str, daemon_min: u16, daemon_max: u16) -> Result<u16, Refused> {
    let Hello { magic, protocol_min: min, protocol_max: max, version, .. } = hello;
    if *magic != MAGIC {
        return Err(Refused::new(
            RefusedCode::Protocol,
            format!("the Hello begins with {magic:?} instead of {MAGIC:?}"),
        ));
    }
    if min > max {
        return Err(Refused::new(RefusedCode::Protocol, format!("the Hello offers the empty range {min}..={max}")));
    }
    let best = daemon_max.min(*max);
    if best >= daemon_min.max(*min) {
        return Ok(best);
    }
    let older = if *max < daemon_min { "client" } else { "daemon" };
    Err(Refused::new(
        RefusedCode::Version,
        format!(
            "client {version:?} speaks protocol {min} to {max}, daemon {daemon_version:?} speaks {daemon_min} to \
             {daemon_max}; update the {older}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(min: u16, max: u16) -> Hello {
        Hello { protocol_min: min, protocol_max: max, ..hello("test", "0.9.1", 1, 1) }
    }

    #[test]
    fn the_newest_common_version_wins() {
        assert_eq!(negotiate(&with(1, 1), "d", 1, 1), Ok(1));
        assert_eq!(negotiate(&with(1, 7), "d", 2, 5), Ok(5));
        assert_eq!(negotiate(&with(2, 3), "d", 1, 9), Ok(3));
    }

    #[test]
    fn disjoint_ranges_name_both_programs() {
        let refused = negotiate(&with(3, 4), "0.2.0", 1, 2).expect_err("no common version");
        assert_eq!(refused.code, RefusedCode::Version);
        for part in ["0.9.1", "0.2.0", "3 to 4", "1 to 2", "update the daemon"] {
            assert!(refused.reason.contains(part), "{part} is not in {}", refused.reason);
        }
        assert!(negotiate(&with(1, 2), "0.2.0", 3, 3).expect_err("too old").reason.contains("update the client"));
    }

    #[test]
    fn a_wrong_magic_and_an_empty_range_are_refused() {
        assert_eq!(negotiate(&with(2, 1), "d", 1, 2).expect_err("empty").code, RefusedCode::Protocol);
        let wrong = Hello { magic: *b"HTTP", ..with(1, 1) };
        assert_eq!(negotiate(&wrong, "d", 1, 1).expect_err("magic").code, RefusedCode::Protocol);
    }
}
