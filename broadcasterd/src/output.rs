//! What all commands share about stdout and stderr: lines for people, the end of a reader, and text that is safe on a terminal.

use jiff::Zoned;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Writes a line to stderr. The line may contain text from outside; it reaches the terminal escaped.
pub(crate) fn notice(line: fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    // Nothing can be done if stderr is closed.
    let _ = io::stderr().write_all(escaped(&line).as_bytes());
}

/// Whether the user permits colors: `NO_COLOR` is unset or empty.
pub(crate) fn permits_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the reader of stdout is gone, which is a normal end of a command.
pub(crate) fn reader_gone(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error),
    }
}

/// The time, in RFC 3339 with microseconds and the zone of the user.
pub(crate) fn timestamp(now: &Zoned) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()
}

/// The bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing to a String does not fail.
        text
    })
}

/// Whether a terminal would act on this character, or hide or reorder what surrounds it. Newline and tab are included.
pub(crate) fn is_active(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

fn passes(character: char) -> bool {
    matches!(character, '\n' | '\t') || !is_active(character)
}

/// The text with each active character but newline and tab written as an escape such as `\u{1b}`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escaped_by(text, passes, char::escape_default)
}

/// The text on one line: each active character is written as an escape such as `\u{1b}`.
pub(crate) fn escaped_line(text: &str) -> Cow<'_, str> {
    escaped_by(text, |character| !is_active(character), char::escape_unicode)
}

fn escaped_by<E: fmt::Display>(text: &str, passes: fn(char) -> bool, escape: fn(char) -> E) -> Cow<'_, str> {
    use std::fmt::Write;
    if text.chars().all(passes) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if passes(character) {
            clean.push(character);
        } else {
            let _ = write!(clean, "{}", escape(character)); // Writing to a String does not fail.
        }
    }
    Cow::Owned(clean)
}

/// The bytes as text: valid UTF-8 as in [`escaped`], each other byte as an escape such as `\xff`.
pub(crate) fn escaped_bytes(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // Writing to a String does not fail.
        }
    }
    text
}

/// JSON with each active character but newline and tab as a JSON escape. It is the same document: such characters occur within
/// strings only.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    escaped_by(json, passes, |character| format!("\\u{:04x}", u32::from(character)))
}

/// Writes a JSON object as a line; on a terminal, with active characters escaped.
pub(crate) fn write_json(out: &mut impl Write, object: &serde_json::Value, terminal: bool) -> io::Result<()> {
    let text = object.to_string();
    match terminal {
        true => writeln!(out, "{}", escaped_json(&text)),
        false => writeln!(out, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_characters_are_escaped_and_text_stays() {
        assert!(matches!(escaped("größe\t新聞\n"), Cow::Borrowed("größe\t新聞\n")));
        assert_eq!(escaped("\x1b[2Ja\rb\u{9b}c\u{202e}d\x7f"), r"\u{1b}[2Ja\rb\u{9b}c\u{202e}d\u{7f}");
        assert_eq!(escaped_bytes(b"a\x1b\xff\xc3\xa9\xe2\x82"), r"a\u{1b}\xffé\xe2\x82");
    }

    #[test]
    fn escaped_json_is_the_same_document() {
        let value = serde_json::json!({ "payload": "\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{feff} é" });
        let text = value.to_string();
        let clean = escaped_json(&text);
        assert!(!clean.chars().any(is_active), "{clean}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).expect("JSON"), value);
        assert!(matches!(escaped_json("{\"a\":1}"), Cow::Borrowed(_)));
    }
}
