//! The template of `listen --format`: text, escapes, and fields of a message between braces. Nothing is read or received here.

use super::output::pid;
use crate::output::{escaped, escaped_bytes, timestamp};
use jiff::Zoned;
use std::io::{self, Write};
use std::str::FromStr;
use system_broadcaster::Message;

/// A template that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A fact about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Channel,
    Payload,
    Sender,
    Pid,
    Sequence,
    Size,
    Time,
    Replayed,
}

impl Field {
    const NAMES: [(&str, Self); 8] = [
        ("channel", Self::Channel),
        ("payload", Self::Payload),
        ("sender", Self::Sender),
        ("pid", Self::Pid),
        ("sequence", Self::Sequence),
        ("size", Self::Size),
        ("time", Self::Time),
        ("replayed", Self::Replayed),
    ];

    fn named(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, field)| *field).ok_or_else(|| {
            let known: Vec<String> = Self::NAMES.iter().map(|(known, _)| format!("{{{known}}}")).collect();
            format!("the field {{{name}}} is unknown; the fields are {}", known.join(" "))
        })
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(template: &str) -> Result<Self, String> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = template.chars();
        while let Some(character) = rest.next() {
            match character {
                '\\' => text.push(escape(rest.next())?),
                '{' | '}' if rest.as_str().starts_with(character) => {
                    text.push(character);
                    rest.next();
                }
                '{' => {
                    let (name, behind) =
                        rest.as_str().split_once('}').ok_or("a { without a }; write {{ for a literal brace")?;
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Field(Field::named(name)?));
                    rest = behind.chars();
                }
                '}' => return Err("a } without a {; write }} for a literal brace".to_owned()),
                other => text.push(other),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }
}

/// The character that a backslash and this one stand for.
fn escape(character: Option<char>) -> Result<char, String> {
    match character {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        other => {
            let other = other.map_or_else(String::new, String::from);
            Err(format!(r"the escape \{other} is unknown; the escapes are \n \t \0 \\"))
        }
    }
}

impl Template {
    /// Writes the template with the fields of this message; on a terminal, with the active characters of the fields escaped.
    pub(super) fn write(&self, out: &mut impl Write, message: &Message, terminal: bool) -> io::Result<()> {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_all(text.as_bytes()),
                Part::Field(Field::Channel) if terminal => write!(out, "{}", escaped(message.channel().as_str())),
                Part::Field(Field::Channel) => write!(out, "{}", message.channel().as_str()),
                Part::Field(Field::Payload) if terminal => write!(out, "{}", escaped_bytes(message.payload())),
                Part::Field(Field::Payload) => out.write_all(message.payload()),
                Part::Field(Field::Sender) => write!(out, "{}", message.sender()),
                Part::Field(Field::Pid) => write!(out, "{}", pid(message)),
                Part::Field(Field::Sequence) => write!(out, "{}", message.sequence()),
                Part::Field(Field::Size) => write!(out, "{}", message.payload().len()),
                Part::Field(Field::Replayed) => write!(out, "{}", message.is_replayed()),
                Part::Field(Field::Time) => write!(out, "{}", timestamp(&Zoned::now())),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(template: &str) -> Vec<Part> {
        template.parse::<Template>().expect("it is valid").0
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn template_is_text_and_fields() {
        assert_eq!(parts("{payload}"), [Part::Field(Field::Payload)]);
        let wanted = [Part::Field(Field::Channel), text(" ("), Part::Field(Field::Size), text(")\n\t\0\\é")];
        assert_eq!(parts(r"{channel} ({size})\n\t\0\\é"), wanted);
        assert_eq!(parts("{{{pid}}} }}{{"), [text("{"), Part::Field(Field::Pid), text("} }{")]);
        assert_eq!(parts(""), []);
        for (name, field) in Field::NAMES {
            assert_eq!(parts(&format!("{{{name}}}")), [Part::Field(field)]);
        }
    }

    #[test]
    fn mistake_is_named_with_its_remedy() {
        let fields = "the fields are {channel} {payload} {sender} {pid} {sequence} {size} {time} {replayed}";
        for (template, wanted) in [
            ("{chanel}", format!("the field {{chanel}} is unknown; {fields}")),
            ("{}", format!("the field {{}} is unknown; {fields}")),
            ("a{payload", "a { without a }; write {{ for a literal brace".to_owned()),
            ("a}", "a } without a {; write }} for a literal brace".to_owned()),
            (r"\x", r"the escape \x is unknown; the escapes are \n \t \0 \\".to_owned()),
            ("\\", r"the escape \ is unknown; the escapes are \n \t \0 \\".to_owned()),
        ] {
            assert_eq!(template.parse::<Template>(), Err(wanted), "{template}");
        }
    }
}
