//! Numbers and names in few columns. It never writes anything, and never returns text wider than requested.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Longer names are cut before they are measured.
const NAME_CHARS_MAX: usize = 512;

/// A count in at most five columns: `9999`, `12.3k`, `4.5M`.
pub(crate) fn count(count: u64) -> String {
    if count < 10_000 { count.to_string() } else { scaled(count, 1000, ["k", "M", "G", "T", "P", "E"]) }
}

/// Bytes in at most five columns: `1023`, `1.5K`, `256M`.
#[cfg(any(test, feature = "top"))]
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1024 { bytes.to_string() } else { scaled(bytes, 1024, ["K", "M", "G", "T", "P", "E"]) }
}

/// Bytes with their unit: `512 B`, `34.0 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => scaled(bytes, 1024, [" KiB", " MiB", " GiB", " TiB", " PiB", " EiB"]),
    }
}

/// A time in at most seven columns: `340ms`, `3.4s`, `2h13m`.
pub(crate) fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        1_000..10_000 => format!("{seconds}.{}s", milliseconds / 100 % 10),
        10_000..60_000 => format!("{seconds}s"),
        60_000..3_600_000 => format!("{minutes}m{:02}s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours}h{:02}m", minutes % 60),
        86_400_000..86_400_000_000 => format!("{days}d{:02}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// A bar of `width` columns; any share above 0 fills at least one.
#[cfg(any(test, feature = "top"))]
pub(crate) fn bar(permille: u16, width: usize) -> String {
    let full = (usize::from(permille) * width).div_ceil(1000).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

/// The width of the text on a terminal, in columns.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// `name` in at most `width` columns, cut in the middle, since names differ at either end. Characters that could move the cursor or
/// change the writing direction are replaced.
pub(crate) fn fit(name: &str, width: usize) -> String {
    let safe = |c| if breaks_layout(c) { '\u{fffd}' } else { c };
    let clean: String = name.chars().take(NAME_CHARS_MAX).map(safe).collect();
    let symbols: Vec<(&str, usize)> =
        clean.graphemes(true).map(|symbol| (symbol, columns(symbol))).filter(|&(_, columns)| columns > 0).collect();
    if symbols.iter().map(|&(_, columns)| columns).sum::<usize>() <= width {
        return symbols.iter().map(|&(symbol, _)| symbol).collect();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let within = |limit: usize| {
        let mut used = 0;
        move |&&(_, columns): &&(&str, usize)| {
            used += columns;
            used <= limit
        }
    };
    let head = symbols.iter().take_while(within(room / 2)).count();
    let tail = symbols.iter().rev().take_while(within(room - room / 2)).count();
    let kept = symbols[..head].iter().map(|&(symbol, _)| symbol);
    kept.chain(["…"]).chain(symbols[symbols.len() - tail..].iter().map(|&(symbol, _)| symbol)).collect()
}

/// Control characters, line and paragraph separators, and marks that change the writing direction.
fn breaks_layout(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `value` in steps of `step`, with one digit after the point below a hundred.
fn scaled(value: u64, step: u64, units: [&str; 6]) -> String {
    let mut unit = step;
    let mut name = units[0];
    for next in &units[1..] {
        if value / unit < step {
            break;
        }
        unit *= step;
        name = next;
    }
    let whole = value / unit;
    if whole < 100 {
        let tenths = u128::from(value % unit) * 10 / u128::from(unit);
        format!("{whole}.{tenths}{name}")
    } else {
        format!("{whole}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_five_columns() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift, 10u64.pow(shift % 20)] {
                assert!(count(number).len() <= 5, "{number} is {}", count(number));
                assert!(bytes(number).len() <= 5, "{number} is {}", bytes(number));
                assert!(time(number).len() <= 7 || number > 1 << 36, "{number} is {}", time(number));
            }
        }
    }

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(
            [0, 9999, 10_000, 12_345, 999_999, 4_560_000].map(count),
            ["0", "9999", "10.0k", "12.3k", "999k", "4.5M"]
        );
        assert_eq!([0, 1023, 1536, 268_435_456].map(bytes), ["0", "1023", "1.5K", "256M"]);
        assert_eq!([5, 35_651_584].map(size), ["5 B", "34.0 MiB"]);
        assert_eq!(
            [7, 3_400, 59_999, 65_000, 7_980_000, 90_000_000].map(time),
            ["7ms", "3.4s", "59s", "1m05s", "2h13m", "1d01h"]
        );
    }

    #[test]
    fn bar_shows_small_shares_and_never_overflows() {
        assert_eq!([0, 1, 500, 1000].map(|permille| bar(permille, 4)), ["░░░░", "█░░░", "██░░", "████"]);
    }

    #[test]
    fn long_name_keeps_both_ends() {
        assert_eq!(fit("com.example.sync", 16), "com.example.sync");
        assert_eq!(fit("com.example.sync", 9), "com.…sync");
        assert_eq!(fit("com.example.sync", 1), "…");
        assert_eq!(fit("com.example.sync", 0), "");
    }

    #[test]
    fn name_is_never_wider_than_its_column() {
        let names = [
            "同步頻道同步頻道",
            "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}",
            "👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦",
            "🇩🇪🇩🇪🇩🇪🇩🇪",
            "a\u{200d}b",
            "ｗｉｄｅ",
        ];
        for name in names.into_iter().chain([&*"長".repeat(300), &*"\u{301}".repeat(300)]) {
            for room in 0..30 {
                assert!(columns(&fit(name, room)) <= room, "{name} in {room}");
            }
        }
    }

    #[test]
    fn control_characters_in_names_are_replaced() {
        assert_eq!(fit("\u{1b}[2Jx\ny\u{202e}z", 20), "\u{fffd}[2Jx\u{fffd}y\u{fffd}z");
    }
}
