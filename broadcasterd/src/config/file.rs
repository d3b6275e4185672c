//! The config file: where it is, and what its text says. Whatever is wrong with it is one sentence with its place. It never
//! looks at variables, arguments or defaults.

use super::IdleExit;
use super::keys::{KEYS, Unit, position};
use crate::log;
use crate::os;
use directories::ProjectDirs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Name of the file in the user's config directory.
const FILE_NAME: &str = "broadcasterd.toml";

/// Most that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Most of a value that is repeated in a sentence about it.
const SHOWN_CHARS_MAX: usize = 60;

/// The file in the user's config directory; `None` if the user has no home directory.
pub(crate) fn default_path() -> Option<PathBuf> {
    ProjectDirs::from("", "", "broadcaster").map(|dirs| dirs.config_dir().join(FILE_NAME))
}

/// The text of the file; `None` if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, String> {
    let shown = path.display();
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read the config file {shown}: {error}");
    let file = match os::open_without_waiting(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(cannot(&error)),
    };
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if let Some(what) = os::not_text(&metadata) {
        return Err(cannot(&format_args!("it is {what}; a plain file of text is needed")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(cannot(&format_args!("it has more than the {FILE_BYTES_MAX} bytes that are read")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count();
        format!("{shown}:{line}: a byte that is not UTF-8; save the file as UTF-8 text")
    })
}

/// What the text sets, and where.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) log: Option<At<String>>,
    pub(crate) idle_exit: Option<At<IdleExit>>,
    /// In the order of [`KEYS`], in the unit of the key, within its bounds.
    pub(crate) limits: [Option<At<u64>>; KEYS.len()],
}

/// A value and its place; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What is wrong with a text, and where.
pub(crate) type Wrong = At<String>;

impl Document {
    /// Reads the text. Every key is known and every value by itself is good, or the first that is not is told.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let reader = Reader { text };
        let table = DeTable::parse(text).map_err(|error| {
            let about = error.message().trim().replace('\n', ", ");
            reader.wrong(&error.span().unwrap_or(0..0), format!("{about}; a setting is a line such as log = \"info\""))
        })?;
        let mut document = Self::default();
        for (key, value) in in_order(table.get_ref()) {
            match key.get_ref().as_ref() {
                "log" => document.log = Some(reader.log(value)?),
                "idle_exit" => document.idle_exit = Some(reader.idle_exit(value)?),
                "limits" => document.limits = reader.limits(value)?,
                name => {
                    let remedy = match position(name) {
                        Some(_) => "it belongs below a line [limits]".to_owned(),
                        None => "there are log, idle_exit and the table [limits]".to_owned(),
                    };
                    return Err(reader.wrong(&key.span(), format!("unknown key {:?}; {remedy}", short(name))));
                }
            }
        }
        Ok(document)
    }
}

/// Turns parts of the text into values.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn log(&self, value: &Spanned<DeValue<'_>>) -> Result<At<String>, Wrong> {
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            return Err(self.mistyped("log", &span, "a text such as \"info\" or \"broadcaster_server=debug\""));
        };
        log::directives(text).map_err(|error| self.wrong(&span, format!("log: {error}")))?;
        Ok(self.at(&span, text.to_owned()))
    }

    fn idle_exit(&self, value: &Spanned<DeValue<'_>>) -> Result<At<IdleExit>, Wrong> {
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            return Err(self.mistyped("idle_exit", &span, "a text such as \"60s\", \"10min\" or \"never\""));
        };
        let idle_exit = text.parse().map_err(|error| self.wrong(&span, format!("idle_exit: {error}")))?;
        Ok(self.at(&span, idle_exit))
    }

    fn limits(&self, value: &Spanned<DeValue<'_>>) -> Result<[Option<At<u64>>; KEYS.len()], Wrong> {
        let mut limits = [const { None }; KEYS.len()];
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.mistyped("limits", &value.span(), "a table: a line [limits] and settings below it"));
        };
        for (name, value) in in_order(table) {
            let Some(index) = position(name.get_ref()) else {
                let remedy = match name.get_ref().as_ref() {
                    "log" | "idle_exit" => "it belongs above the line [limits]".to_owned(),
                    _ => format!("there are {}", KEYS.map(|key| key.name).join(", ")),
                };
                let unknown = format!("unknown key {:?} in [limits]; {remedy}", short(name.get_ref()));
                return Err(self.wrong(&name.span(), unknown));
            };
            limits[index] = Some(self.limit(index, value)?);
        }
        Ok(limits)
    }

    fn limit(&self, index: usize, value: &Spanned<DeValue<'_>>) -> Result<At<u64>, Wrong> {
        let (key, span) = (&KEYS[index], value.span());
        let number = match value.get_ref() {
            // What is not a number of 64 bits is out of every range, as what is below 0 is.
            DeValue::Integer(integer) if key.unit != Unit::Time => {
                u64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            DeValue::String(text) => match key.unit.parse(text) {
                Some(number) => Some(number),
                None => return Err(self.mistyped(key.name, &span, key.unit.accepted())),
            },
            _ => return Err(self.mistyped(key.name, &span, key.unit.accepted())),
        };
        match number {
            Some(number) if (key.min..=key.max).contains(&number) => Ok(self.at(&span, number)),
            _ => {
                let (min, max) = (key.unit.shown(key.min), key.unit.shown(key.max));
                let value = self.shown(&span);
                Err(self.wrong(&span, format!("{} = {value} is out of range; use {min} to {max}", key.name)))
            }
        }
    }

    fn mistyped(&self, name: &str, span: &Range<usize>, accepted: &str) -> Wrong {
        self.wrong(span, format!("{name} = {} cannot be used; it must be {accepted}", self.shown(span)))
    }

    fn wrong(&self, span: &Range<usize>, sentence: String) -> Wrong {
        self.at(span, sentence)
    }

    fn at<T>(&self, span: &Range<usize>, value: T) -> At<T> {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.chars().rev().take_while(|&c| c != '\n').count();
        At { value, line, column }
    }

    /// The value as it was written, on one line and not too long.
    fn shown(&self, span: &Range<usize>) -> String {
        short(self.text.get(span.clone()).unwrap_or_default())
    }
}

/// Text of the file on one line and not too long.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// The entries in the order of the text, so that the first mistake is told first.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, usize, String) {
        let wrong = Document::parse(text).expect_err("it is wrong");
        (wrong.line, wrong.column, wrong.value)
    }

    #[test]
    fn values_come_with_their_lines() {
        let text = "# a comment\nlog = \"debug\"\n\nidle_exit = \"never\"\n[limits]\nchannels_max = 0x10\n\
            outbox_bytes_max = '8 MiB'\nheld_bytes_max = 100_000_000\ngoodbye_within = \"250ms\"\n";
        let document = Document::parse(text).expect("good");
        let log = document.log.expect("set");
        assert_eq!((log.value.as_str(), log.line, log.column), ("debug", 2, 7));
        let idle_exit = document.idle_exit.expect("set");
        assert_eq!((idle_exit.value, idle_exit.line), (IdleExit(None), 4));
        let of = |name| document.limits[position(name).expect("known")].as_ref().map(|at| (at.value, at.line));
        assert_eq!(of("channels_max"), Some((16, 6)));
        assert_eq!(of("outbox_bytes_max"), Some((8 << 20, 7)));
        assert_eq!(of("held_bytes_max"), Some((100_000_000, 8)));
        assert_eq!(of("goodbye_within"), Some((250_000_000, 9)));
        assert_eq!(of("connections_max"), None);
    }

    #[test]
    fn empty_and_dotted_texts_are_fine() {
        assert!(Document::parse("").is_ok());
        assert!(Document::parse("[limits]\n").is_ok());
        let document = Document::parse("limits.channels_max = 7").expect("good");
        assert_eq!(document.limits[2].as_ref().map(|at| (at.value, at.line)), Some((7, 1)));
    }

    #[test]
    fn unknown_keys_are_told_with_the_known_ones() {
        let (line, column, sentence) = wrong("log = 'info'\n  lgo = 1");
        assert_eq!((line, column), (2, 3));
        assert_eq!(sentence, "unknown key \"lgo\"; there are log, idle_exit and the table [limits]");
        let (line, _, sentence) = wrong("[limits]\n\nconnection_max = 1");
        assert_eq!(line, 3);
        assert!(sentence.starts_with("unknown key \"connection_max\" in [limits]; there are connections_max, "));
        assert!(sentence.ends_with(", goodbye_within"));
        assert_eq!(wrong("channels_max = 1").2, "unknown key \"channels_max\"; it belongs below a line [limits]");
        let misplaced = wrong("[limits]\nlog = 'info'").2;
        assert_eq!(misplaced, "unknown key \"log\" in [limits]; it belongs above the line [limits]");
        assert_eq!(wrong("[limit]\nchannels_max = 1").0, 1);
    }

    #[test]
    fn mistakes_of_syntax_are_one_sentence_with_their_place() {
        for (text, line) in [
            ("log = info", 1),
            ("\nlog = \"info", 2),
            ("log = 'info'\nlog = 'warn'", 2),
            ("log = 'info'\n[limits\n", 2),
            ("[limits]\n[limits]\n", 2),
            ("log 'info'", 1),
            ("log = 'info' 'warn'", 1),
        ] {
            let (found, _, sentence) = wrong(text);
            assert_eq!(found, line, "{text:?}: {sentence}");
            assert!(!sentence.contains('\n') && sentence.ends_with("; a setting is a line such as log = \"info\""));
        }
    }

    #[test]
    fn values_of_another_kind_are_told_with_what_is_accepted() {
        for (text, sentence) in [
            ("log = 3", "log = 3 cannot be used; it must be a text such as \"info\" or \"broadcaster_server=debug\""),
            (
                "idle_exit = 60",
                "idle_exit = 60 cannot be used; it must be a text such as \"60s\", \"10min\" or \"never\"",
            ),
            ("limits = 1", "limits = 1 cannot be used; it must be a table: a line [limits] and settings below it"),
            (
                "[limits]\nchannels_max = \"many\"",
                "channels_max = \"many\" cannot be used; it must be a whole number such as 1024",
            ),
            (
                "[limits]\nchannels_max = 1.5",
                "channels_max = 1.5 cannot be used; it must be a whole number such as 1024",
            ),
            (
                "[limits]\nheld_bytes_max = \"4 MB\"",
                "held_bytes_max = \"4 MB\" cannot be used; it must be a number of bytes such as 65536, or a text such as \
                 \"64 KiB\" with B, KiB, MiB or GiB",
            ),
            (
                "[limits]\nhandshake_within = 2",
                "handshake_within = 2 cannot be used; it must be a text such as \"2s\" or \"500ms\"",
            ),
        ] {
            assert_eq!(wrong(text).2, sentence);
        }
        let long = wrong(&format!("log = [{}]", "\"x\",\n".repeat(1000))).2;
        assert!(long.len() < 200 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn values_out_of_range_are_told_with_the_range_and_their_line() {
        let (line, column, sentence) = wrong("[limits]\n\nconnections_max = 0");
        assert_eq!((line, column), (3, 19));
        assert_eq!(sentence, "connections_max = 0 is out of range; use 4 to 1000000");
        for (text, sentence) in [
            ("channels_max = -1", "channels_max = -1 is out of range; use 1 to 1000000"),
            (
                "channels_max = 999999999999999999999",
                "channels_max = 999999999999999999999 is out of range; use 1 to 1000000",
            ),
            ("payload_bytes_max = \"65 MiB\"", "payload_bytes_max = \"65 MiB\" is out of range; use 1 to 64 MiB"),
            ("goodbye_within = \"0s\"", "goodbye_within = \"0s\" is out of range; use 10ms to 2s"),
            ("handshake_within = \"1h\"", "handshake_within = \"1h\" is out of range; use 10ms to 1m"),
        ] {
            assert_eq!(wrong(&format!("[limits]\n{text}")).2, sentence);
        }
        for key in &KEYS {
            let beyond = [i128::from(key.min) - 1, i128::from(key.max) + 1].map(|value| match key.unit {
                Unit::Time => format!("\"{}ns\"", value),
                Unit::Count | Unit::Bytes => value.to_string(),
            });
            for value in beyond {
                let (line, _, sentence) = wrong(&format!("[limits]\n{} = {value}", key.name));
                assert_eq!(line, 2);
                assert!(sentence.contains("is out of range") && sentence.contains(&value), "{sentence}");
            }
        }
    }

    #[test]
    fn log_and_idle_exit_are_checked_as_on_the_command_line() {
        let (line, _, sentence) = wrong("\nlog = \"inof\"");
        assert_eq!(line, 2);
        assert!(sentence.starts_with("log: \"inof\" is no log level"), "{sentence}");
        let (_, _, sentence) = wrong("idle_exit = \"soon\"");
        assert!(sentence.starts_with("idle_exit: \"soon\" is no time"), "{sentence}");
    }

    #[test]
    fn files_that_cannot_be_settings_are_named() {
        let holder = tempfile::tempdir().expect("a directory");
        let directory = holder.path().to_owned();
        let of = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).expect("written");
            read(&path)
        };
        assert_eq!(read(&directory.join("none")), Ok(None));
        assert_eq!(of("good", b"log = 'info'\n"), Ok(Some("log = 'info'\n".to_owned())));
        assert_eq!(of("full", &[b'#'; 64 * 1024]).map(|text| text.map(|text| text.len())), Ok(Some(64 * 1024)));
        let too_long = of("long", &[b'#'; 64 * 1024 + 1]).expect_err("too long");
        assert!(too_long.ends_with("it has more than the 65536 bytes that are read"), "{too_long}");
        let not_text = of("bytes", b"a = 1\nb = \xff\n").expect_err("not text");
        assert!(not_text.ends_with("bytes:2: a byte that is not UTF-8; save the file as UTF-8 text"), "{not_text}");
        let is_directory = read(&directory).expect_err("a directory");
        assert!(is_directory.ends_with("it is a directory; a plain file of text is needed"), "{is_directory}");
    }

    #[cfg(unix)]
    #[test]
    fn neither_a_pipe_nor_a_device_without_end_is_waited_for() {
        let directory = std::env::temp_dir().join(format!("broadcasterd-pipe-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        let pipe = directory.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo"); // not every system has mkfifoat
        assert!(made.success());
        let is_pipe = read(&pipe).expect_err("a pipe");
        assert!(is_pipe.ends_with("it is a pipe; a plain file of text is needed"), "{is_pipe}");
        assert_eq!(read(Path::new("/dev/null")), Ok(Some(String::new())));
        assert!(read(Path::new("/dev/zero")).is_err(), "what does not end is not read to its end");
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
