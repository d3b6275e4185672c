//! The config file: where it is, and what its text sets. Every mistake in it is one sentence with its place. It never looks at
//! variables, arguments or defaults.

use super::idle_exit::IdleExit;
use super::keys::{KEYS, Unit, position};
use crate::daemon::log;
use crate::os;
use directories::ProjectDirs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Name of the file in the user's config directory.
const FILE_NAME: &str = "broadcasterd.toml";

/// Size of the largest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Longest part of a value that is quoted in a sentence about it.
const SHOWN_CHARS_MAX: usize = 60;

/// The file in the user's config directory; `None` if the user has no home directory.
pub(super) fn default_path() -> Option<PathBuf> {
    ProjectDirs::from("", "", "broadcaster").map(|dirs| dirs.config_dir().join(FILE_NAME))
}

/// The text of the file; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, String> {
    let shown = path.display();
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read the config file {shown}: {error}");
    let file = match os::open_without_waiting(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(cannot(&error)),
    };
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if let Some(what) = os::not_text(&metadata) {
        return Err(cannot(&format_args!("it is {what}, not a text file")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(cannot(&format_args!("it is larger than the limit of {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count();
        format!("{shown}:{line}: invalid UTF-8; save the file as UTF-8 text")
    })
}

/// What the text sets, and where.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) log: Option<At<String>>,
    pub(super) idle_exit: Option<At<IdleExit>>,
    /// In the order of [`KEYS`], in the unit of the key, within its bounds.
    pub(super) limits: [Option<At<u64>>; KEYS.len()],
}

/// A value and its place; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What is wrong with a text, and where.
pub(super) type Mistake = At<String>;

impl Document {
    /// Reads the text: the settings that are valid by themselves, and the mistakes in the order of the text. After an error of
    /// syntax there is nothing but that error.
    pub(super) fn parse(text: &str) -> (Self, Vec<Mistake>) {
        let mut reader = Reader { text, document: Self::default(), mistakes: Vec::new() };
        match DeTable::parse(text) {
            Ok(table) => reader.top_level(table.get_ref()),
            Err(error) => {
                let reason = error.message().trim().replace('\n', ", ");
                let sentence = format!("{reason}; a setting is a line such as log = \"info\"");
                reader.mistake(&error.span().unwrap_or(0..0), sentence);
            }
        }
        (reader.document, reader.mistakes)
    }
}

/// Turns the values of the text into settings, and collects mistakes.
struct Reader<'a> {
    text: &'a str,
    document: Document,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn top_level(&mut self, table: &DeTable<'_>) {
        for (key, value) in in_order(table) {
            match key.get_ref().as_ref() {
                "log" => self.document.log = self.log(value),
                "idle_exit" => self.document.idle_exit = self.idle_exit(value),
                "limits" => self.limits(value),
                name => {
                    let remedy = match position(name) {
                        Some(_) => "it belongs below a line [limits]".to_owned(),
                        None => "valid keys are log, idle_exit and the table [limits]".to_owned(),
                    };
                    self.mistake(&key.span(), format!("unknown key {:?}; {remedy}", short(name)));
                }
            }
        }
    }

    fn log(&mut self, value: &Spanned<DeValue<'_>>) -> Option<At<String>> {
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            self.mistyped("log", &span, "a string such as \"info\" or \"broadcaster_server=debug\"");
            return None;
        };
        match log::directives(text) {
            Ok(log) => Some(self.at(&span, log)),
            Err(error) => {
                self.mistake(&span, format!("log: {error}"));
                None
            }
        }
    }

    fn idle_exit(&mut self, value: &Spanned<DeValue<'_>>) -> Option<At<IdleExit>> {
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            self.mistyped("idle_exit", &span, "a string such as \"60s\", \"10min\" or \"never\"");
            return None;
        };
        match text.parse() {
            Ok(idle_exit) => Some(self.at(&span, idle_exit)),
            Err(error) => {
                self.mistake(&span, format!("idle_exit: {error}"));
                None
            }
        }
    }

    fn limits(&mut self, value: &Spanned<DeValue<'_>>) {
        let Some(table) = value.get_ref().as_table() else {
            self.mistyped("limits", &value.span(), "a table: a line [limits] with settings below it");
            return;
        };
        for (name, value) in in_order(table) {
            let Some(index) = position(name.get_ref()) else {
                let remedy = match name.get_ref().as_ref() {
                    "log" | "idle_exit" => "it belongs above the line [limits]".to_owned(),
                    _ => format!("valid keys are {}", KEYS.map(|key| key.name).join(", ")),
                };
                let unknown = format!("unknown key {:?} in [limits]; {remedy}", short(name.get_ref()));
                self.mistake(&name.span(), unknown);
                continue;
            };
            self.document.limits[index] = self.limit(index, value);
        }
    }

    fn limit(&mut self, index: usize, value: &Spanned<DeValue<'_>>) -> Option<At<u64>> {
        let (key, span) = (&KEYS[index], value.span());
        // `None` is a number that does not fit into 64 bits, and so is out of every range.
        let number = match value.get_ref() {
            DeValue::Integer(integer) if key.unit != Unit::Time => {
                Some(u64::from_str_radix(integer.as_str(), integer.radix()).ok())
            }
            DeValue::String(text) => key.unit.parse(text).map(Some),
            _ => None,
        };
        match number {
            Some(Some(number)) if (key.min..=key.max).contains(&number) => Some(self.at(&span, number)),
            Some(_) => {
                let (min, max) = (key.unit.shown(key.min), key.unit.shown(key.max));
                let value = self.shown(&span);
                self.mistake(&span, format!("{} = {value} is out of range; use {min} to {max}", key.name));
                None
            }
            None => {
                self.mistyped(key.name, &span, key.unit.accepted());
                None
            }
        }
    }

    fn mistyped(&mut self, name: &str, span: &Range<usize>, accepted: &str) {
        let value = self.shown(span);
        self.mistake(span, format!("{name} = {value} is invalid; use {accepted}"));
    }

    fn mistake(&mut self, span: &Range<usize>, sentence: String) {
        let mistake = self.at(span, sentence);
        self.mistakes.push(mistake);
    }

    fn at<T>(&self, span: &Range<usize>, value: T) -> At<T> {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.chars().rev().take_while(|&c| c != '\n').count();
        At { value, line, column }
    }

    /// The value as it was written, shortened and on one line.
    fn shown(&self, span: &Range<usize>) -> String {
        short(self.text.get(span.clone()).unwrap_or_default())
    }
}

/// Text of the file, shortened and on one line.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// The entries in the order of the text.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Document {
        let (document, mistakes) = Document::parse(text);
        assert_eq!(mistakes, []);
        document
    }

    /// Line, column and sentence of the only mistake.
    fn mistake(text: &str) -> (usize, usize, String) {
        let (_, mistakes) = Document::parse(text);
        let [mistake] = mistakes.as_slice() else { panic!("{mistakes:?} in {text:?}") };
        (mistake.line, mistake.column, mistake.value.clone())
    }

    #[test]
    fn values_have_their_lines() {
        let text = "# a comment\nlog = \"debug\"\n\nidle_exit = \"never\"\n[limits]\nchannels_max = 0x10\n\
            outbox_bytes_max = '8 MiB'\nheld_bytes_max = 100_000_000\ngoodbye_timeout = \"250ms\"\n";
        let document = parsed(text);
        let log = document.log.expect("set");
        assert_eq!((log.value.as_str(), log.line, log.column), ("debug", 2, 7));
        let idle_exit = document.idle_exit.expect("set");
        assert_eq!((idle_exit.value, idle_exit.line), (IdleExit(None), 4));
        let of = |name| document.limits[position(name).expect("known")].as_ref().map(|at| (at.value, at.line));
        assert_eq!(of("channels_max"), Some((16, 6)));
        assert_eq!(of("outbox_bytes_max"), Some((8 << 20, 7)));
        assert_eq!(of("held_bytes_max"), Some((100_000_000, 8)));
        assert_eq!(of("goodbye_timeout"), Some((250_000_000, 9)));
        assert_eq!(of("connections_max"), None);
    }

    #[test]
    fn empty_and_dotted_texts_are_valid() {
        parsed("");
        parsed("[limits]\n");
        let document = parsed("limits.channels_max = 7");
        assert_eq!(document.limits[2].as_ref().map(|at| (at.value, at.line)), Some((7, 1)));
    }

    #[test]
    fn unknown_key_is_reported_with_the_valid_ones() {
        let (line, column, sentence) = mistake("log = 'info'\n  lgo = 1");
        assert_eq!((line, column), (2, 3));
        assert_eq!(sentence, "unknown key \"lgo\"; valid keys are log, idle_exit and the table [limits]");
        let (line, _, sentence) = mistake("[limits]\n\nconnection_max = 1");
        assert_eq!(line, 3);
        assert!(sentence.starts_with("unknown key \"connection_max\" in [limits]; valid keys are connections_max, "));
        assert!(sentence.ends_with(", goodbye_timeout"));
        assert_eq!(mistake("channels_max = 1").2, "unknown key \"channels_max\"; it belongs below a line [limits]");
        let misplaced = mistake("[limits]\nlog = 'info'").2;
        assert_eq!(misplaced, "unknown key \"log\" in [limits]; it belongs above the line [limits]");
        assert_eq!(mistake("[limit]\nchannels_max = 1").0, 1);
    }

    #[test]
    fn error_of_syntax_is_one_sentence_with_its_place() {
        for (text, line) in [
            ("log = info", 1),
            ("\nlog = \"info", 2),
            ("log = 'info'\nlog = 'warn'", 2),
            ("log = 'info'\n[limits\n", 2),
            ("[limits]\n[limits]\n", 2),
            ("log 'info'", 1),
            ("log = 'info' 'warn'", 1),
        ] {
            let (found, _, sentence) = mistake(text);
            assert_eq!(found, line, "{text:?}: {sentence}");
            assert!(!sentence.contains('\n') && sentence.ends_with("; a setting is a line such as log = \"info\""));
        }
    }

    #[test]
    fn value_of_another_type_is_reported_with_what_is_accepted() {
        for (text, sentence) in [
            ("log = 3", "log = 3 is invalid; use a string such as \"info\" or \"broadcaster_server=debug\""),
            ("idle_exit = 60", "idle_exit = 60 is invalid; use a string such as \"60s\", \"10min\" or \"never\""),
            ("limits = 1", "limits = 1 is invalid; use a table: a line [limits] with settings below it"),
            (
                "[limits]\nchannels_max = \"many\"",
                "channels_max = \"many\" is invalid; use a whole number such as 1024",
            ),
            ("[limits]\nchannels_max = 1.5", "channels_max = 1.5 is invalid; use a whole number such as 1024"),
            (
                "[limits]\nheld_bytes_max = \"4 MB\"",
                "held_bytes_max = \"4 MB\" is invalid; use a number of bytes such as 65536, or a string such as \
                 \"64 KiB\" with B, KiB, MiB or GiB",
            ),
            (
                "[limits]\nhandshake_timeout = 2",
                "handshake_timeout = 2 is invalid; use a string such as \"2s\" or \"500ms\"",
            ),
        ] {
            assert_eq!(mistake(text).2, sentence);
        }
        let long = mistake(&format!("log = [{}]", "\"x\",\n".repeat(1000))).2;
        assert!(long.len() < 200 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn value_out_of_range_is_reported_with_the_range_and_its_line() {
        let (line, column, sentence) = mistake("[limits]\n\nconnections_max = 0");
        assert_eq!((line, column), (3, 19));
        assert_eq!(sentence, "connections_max = 0 is out of range; use 4 to 1000000");
        for (text, sentence) in [
            ("channels_max = -1", "channels_max = -1 is out of range; use 1 to 1000000"),
            (
                "channels_max = 999999999999999999999",
                "channels_max = 999999999999999999999 is out of range; use 1 to 1000000",
            ),
            ("payload_bytes_max = \"65 MiB\"", "payload_bytes_max = \"65 MiB\" is out of range; use 1 to 64 MiB"),
            ("goodbye_timeout = \"0s\"", "goodbye_timeout = \"0s\" is out of range; use 10ms to 2s"),
            ("handshake_timeout = \"1h\"", "handshake_timeout = \"1h\" is out of range; use 10ms to 1m"),
        ] {
            assert_eq!(mistake(&format!("[limits]\n{text}")).2, sentence);
        }
        for key in &KEYS {
            let beyond = [i128::from(key.min) - 1, i128::from(key.max) + 1].map(|value| match key.unit {
                Unit::Time => format!("\"{}ns\"", value),
                Unit::Count | Unit::Bytes => value.to_string(),
            });
            for value in beyond {
                let (line, _, sentence) = mistake(&format!("[limits]\n{} = {value}", key.name));
                assert_eq!(line, 2);
                assert!(sentence.contains("is out of range") && sentence.contains(&value), "{sentence}");
            }
        }
    }

    #[test]
    fn log_and_idle_exit_are_checked_as_on_the_command_line() {
        let (line, _, sentence) = mistake("\nlog = \"inof\"");
        assert_eq!(line, 2);
        assert!(sentence.starts_with("log: \"inof\" is not a log level"), "{sentence}");
        let (_, _, sentence) = mistake("idle_exit = \"soon\"");
        assert!(sentence.starts_with("idle_exit: \"soon\" is not a time"), "{sentence}");
    }

    #[test]
    fn unreadable_file_is_reported_with_its_path() {
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
        assert!(too_long.ends_with("it is larger than the limit of 65536 bytes"), "{too_long}");
        let not_text = of("bytes", b"a = 1\nb = \xff\n").expect_err("not text");
        assert!(not_text.ends_with("bytes:2: invalid UTF-8; save the file as UTF-8 text"), "{not_text}");
        let is_directory = read(&directory).expect_err("a directory");
        assert!(is_directory.ends_with("it is a directory, not a text file"), "{is_directory}");
    }

    #[test]
    fn all_mistakes_are_reported_and_valid_settings_are_kept() {
        let text =
            "log = 3\nidle_exit = \"1h\"\nlgo = 1\n[limits]\nchannels_max = 0\nobservers_max = 3\nchanels_max = 7\n";
        let (document, mistakes) = Document::parse(text);
        assert_eq!(mistakes.iter().map(|mistake| mistake.line).collect::<Vec<_>>(), [1, 3, 5, 7]);
        assert_eq!(document.idle_exit.map(|at| at.line), Some(2));
        assert_eq!(document.limits.iter().flatten().map(|at| at.value).collect::<Vec<_>>(), [3]);
    }

    #[cfg(unix)]
    #[test]
    fn neither_a_pipe_nor_an_endless_device_blocks() {
        let directory = std::env::temp_dir().join(format!("broadcasterd-pipe-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        let pipe = directory.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo"); // not every system has mkfifoat
        assert!(made.success());
        let is_pipe = read(&pipe).expect_err("a pipe");
        assert!(is_pipe.ends_with("it is a pipe, not a text file"), "{is_pipe}");
        assert_eq!(read(Path::new("/dev/null")), Ok(Some(String::new())));
        assert!(read(Path::new("/dev/zero")).is_err(), "an endless device is not read to its end");
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
