//! The settings in effect, each with its origin. It resolves values that were read elsewhere.

use super::file::{At, Document, Mistake};
use super::idle_exit::IdleExit;
use super::keys::{self, HELD_ROOM_BYTES, KEYS, Unit};
use super::sources::{Environment, Flags, IDLE_EXIT_VARIABLE, LOG_VARIABLE, Source};
use super::started::Started;
use crate::daemon::log;
use crate::exit::{Code, Failure};
use broadcaster_server::Limits;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value in effect, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// All mistakes in the settings, each one sentence; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<String>);

impl Mistakes {
    /// Each mistake.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// The first mistake, and how many more there are.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.first().map_or("", String::as_str))?;
        match self.0.len() {
            0 | 1 => Ok(()),
            many => write!(f, " (and {} more: `broadcasterd config check` lists them all)", many - 1),
        }
    }
}

/// An invalid setting ends the command like an invalid argument.
impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(Code::Usage, mistakes.to_string())
    }
}

/// All settings of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) log: Setting<String>,
    pub(crate) idle_exit: Setting<IdleExit>,
    limits: Limits,
    /// In the order of [`KEYS`].
    origins: [Origin; KEYS.len()],
}

impl Settings {
    /// The settings of a daemon that was started in this way, in this process.
    pub(crate) fn load(flags: &Flags, started: Started) -> Result<Self, Failure> {
        let environment = Environment::read();
        let source = Source::find(flags.config.as_deref(), &environment)?;
        let text = source.read()?;
        let file = source.path.as_deref().zip(text.as_deref());
        Ok(Self::resolve(flags, &environment, file, started)?)
    }

    /// The settings that follow from flags, environment, and the path and text of the config file; or all mistakes in them.
    pub(crate) fn resolve(
        flags: &Flags,
        environment: &Environment,
        file: Option<(&Path, &str)>,
        started: Started,
    ) -> Result<Self, Mistakes> {
        let path = file.map(|(path, _)| path).unwrap_or(Path::new(""));
        let (document, mut in_file) = file.map(|(_, text)| Document::parse(text)).unwrap_or_default();
        let limits = effective(&document);
        if in_file.is_empty() {
            // Whether values fit together is only known if all of them are valid.
            in_file = conflicts(&document, &limits);
        }
        let placed = |it: Mistake| format!("{}:{}:{}: {}", path.display(), it.line, it.column, it.value);
        let mut mistakes: Vec<String> = in_file.into_iter().map(placed).collect();
        let from_file = |line| Origin::File { path: path.to_owned(), line };

        let by_variable = variable(LOG_VARIABLE, environment.log.as_ref(), log::directives, &mut mistakes);
        let log = match (&flags.log, by_variable, document.log) {
            (Some(log), ..) => Setting { value: log.clone(), origin: Origin::Flag("--log") },
            (None, Some(log), _) => log,
            (None, None, Some(log)) => Setting { value: log.value, origin: from_file(log.line) },
            (None, None, None) => Setting { value: started.log().to_owned(), origin: Origin::Default },
        };
        let by_variable = variable(IDLE_EXIT_VARIABLE, environment.idle_exit.as_ref(), str::parse, &mut mistakes);
        let idle_exit = match (flags.idle_exit, by_variable, document.idle_exit) {
            (Some(value), ..) => Setting { value, origin: Origin::Flag("--idle-exit") },
            (None, Some(idle_exit), _) => idle_exit,
            (None, None, Some(idle_exit)) => Setting { value: idle_exit.value, origin: from_file(idle_exit.line) },
            (None, None, None) => Setting { value: started.idle_exit(), origin: Origin::Default },
        };
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        let origins = document.limits.map(|limit| limit.map_or(Origin::Default, |limit| from_file(limit.line)));
        Ok(Self { log, idle_exit, limits, origins })
    }

    /// The limits of the daemon.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = self.limits.clone();
        limits.idle_exit_after = self.idle_exit.value.0;
        limits
    }

    /// Each key of `[limits]` with its unit, its value and its origin.
    pub(crate) fn each_limit(&self) -> impl Iterator<Item = (&'static str, Unit, u64, &Origin)> {
        KEYS.iter().zip(&self.origins).map(|(key, origin)| (key.name, key.unit, (key.read)(&self.limits), origin))
    }
}

/// The value in a variable, if that is set and valid.
fn variable<T>(
    name: &'static str,
    text: Option<&OsString>,
    parse: impl Fn(&str) -> Result<T, String>,
    mistakes: &mut Vec<String>,
) -> Option<Setting<T>> {
    let value = match text?.to_str() {
        Some(text) => parse(text).map_err(|error| format!("the variable {name} is invalid: {error}")),
        None => Err(format!("the variable {name} is not UTF-8; set it to text, or unset it")),
    };
    match value {
        Ok(value) => Some(Setting { value, origin: Origin::Environment(name) }),
        Err(mistake) => {
            mistakes.push(mistake);
            None
        }
    }
}

/// The limits that the file sets, within the defaults.
fn effective(document: &Document) -> Limits {
    let mut limits = Limits::default();
    for (key, set) in KEYS.iter().zip(&document.limits) {
        if let Some(set) = set {
            (key.write)(&mut limits, set.value);
        }
    }
    if set(document, "connections_per_process_max").is_none() {
        // One process cannot have more connections than all processes together.
        limits.connections_per_process_max = limits.connections_per_process_max.min(limits.connections_max);
    }
    limits
}

/// Limits that do not fit together, each reported where one of them is set.
fn conflicts(document: &Document, limits: &Limits) -> Vec<Mistake> {
    let mut conflicts = Vec::new();
    let mut conflict = |at: Option<&At<u64>>, value| {
        let (line, column) = at.map_or((1, 1), |at| (at.line, at.column));
        conflicts.push(At { value, line, column });
    };
    let (of_process, all) = (limits.connections_per_process_max, limits.connections_max);
    if of_process > all {
        let sentence = format!(
            "connections_per_process_max = {of_process} is more than connections_max, which is {all}; \
             lower it to {all}, or raise connections_max"
        );
        conflict(set(document, "connections_per_process_max"), sentence);
    }
    let (held, payload) = (limits.held_bytes_max as u64, u64::from(limits.payload_bytes_max));
    let needed = payload + HELD_ROOM_BYTES;
    if held < needed {
        let [held, payload, room, needed] = [held, payload, HELD_ROOM_BYTES, needed].map(|n| Unit::Bytes.shown(n));
        let sentence = format!(
            "held_bytes_max = {held} is less than payload_bytes_max, which is {payload}, plus {room}; \
             raise it to {needed} or more, or lower payload_bytes_max"
        );
        conflict(set(document, "held_bytes_max").or(set(document, "payload_bytes_max")), sentence);
    }
    conflicts
}

/// The limit `name`, if the file sets it.
fn set<'a>(document: &'a Document, name: &str) -> Option<&'a At<u64>> {
    document.limits.get(keys::position(name)?)?.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FILE: &str = "/etc/here.toml";

    fn from_text(text: &str) -> Result<Settings, Mistakes> {
        let file = Some((Path::new(FILE), text));
        Settings::resolve(&Flags::default(), &Environment::default(), file, Started::InForeground)
    }

    fn nothing_set(started: Started) -> Settings {
        Settings::resolve(&Flags::default(), &Environment::default(), None, started).expect("valid")
    }

    #[test]
    fn defaults_depend_on_how_the_daemon_was_started() {
        let defaults = Started::ALL.map(|started| {
            let settings = nothing_set(started);
            assert_eq!((&settings.log.origin, &settings.idle_exit.origin), (&Origin::Default, &Origin::Default));
            (settings.log.value.clone(), settings.limits().idle_exit_after)
        });
        let [foreground, on_demand, activated] = defaults;
        assert_eq!(foreground, ("info".to_owned(), None));
        assert_eq!(on_demand, ("warn".to_owned(), Some(Duration::from_secs(60))));
        assert_eq!(activated, ("info".to_owned(), Some(Duration::from_secs(600))));
        assert_eq!(nothing_set(Started::InForeground).limits(), Limits::default());
    }

    #[test]
    fn flag_overrides_variable_overrides_file_overrides_default() {
        let text = "idle_exit = \"1h\"\nlog = \"error\"\n";
        let file = Some((Path::new(FILE), text));
        let environment =
            Environment { config: None, idle_exit: Some("never".into()), log: Some("broadcaster_server=debug".into()) };
        let flags = Flags {
            config: None,
            idle_exit: Some(IdleExit(Some(Duration::from_secs(5)))),
            log: Some("trace".to_owned()),
        };
        let in_file = |line| Origin::File { path: FILE.into(), line };
        for started in Started::ALL {
            let resolve = |flags: &Flags, environment: &Environment, file| {
                let settings = Settings::resolve(flags, environment, file, started).expect("valid");
                let (log, idle_exit) = (settings.log, settings.idle_exit);
                (log.value, log.origin, idle_exit.value.to_string(), idle_exit.origin)
            };
            let by_flag = ("trace".to_owned(), Origin::Flag("--log"), "5s".to_owned(), Origin::Flag("--idle-exit"));
            assert_eq!(resolve(&flags, &environment, file), by_flag);
            let log = "broadcaster_server=debug".to_owned();
            let (of_log, of_idle) = (Origin::Environment(LOG_VARIABLE), Origin::Environment(IDLE_EXIT_VARIABLE));
            let by_variable = (log, of_log, "never".to_owned(), of_idle);
            assert_eq!(resolve(&Flags::default(), &environment, file), by_variable);
            let by_file = ("error".to_owned(), in_file(2), "1h".to_owned(), in_file(1));
            assert_eq!(resolve(&Flags::default(), &Environment::default(), file), by_file);
        }
    }

    #[test]
    fn limit_comes_from_the_file_with_its_line_or_is_the_default() {
        let settings = from_text("[limits]\nchannels_max = 7\n\noutbox_bytes_max = \"1 MiB\"").expect("valid");
        let set: Vec<_> = settings.each_limit().filter(|limit| *limit.3 != Origin::Default).collect();
        let in_file = |line| Origin::File { path: FILE.into(), line };
        let wanted =
            [("channels_max", Unit::Count, 7, &in_file(2)), ("outbox_bytes_max", Unit::Bytes, 1 << 20, &in_file(4))];
        assert_eq!(set, wanted);
        let mut limits = Limits::default();
        limits.channels_max = 7;
        limits.outbox_bytes_max = 1 << 20;
        assert_eq!(settings.limits(), limits);
    }

    #[test]
    fn mistake_names_the_file_the_line_and_the_column() {
        let wrong = from_text("\n[limits]\n  chanels_max = 1").expect_err("unknown").to_string();
        assert!(wrong.starts_with("/etc/here.toml:3:3: unknown key \"chanels_max\" in [limits]; "), "{wrong}");
    }

    #[test]
    fn process_cannot_have_more_connections_than_all() {
        let wrong = from_text("[limits]\nconnections_max = 10\nconnections_per_process_max = 11")
            .expect_err("too many")
            .to_string();
        assert_eq!(
            wrong,
            "/etc/here.toml:3:31: connections_per_process_max = 11 is more than connections_max, which is 10; \
             lower it to 10, or raise connections_max"
        );
        let wrong =
            from_text("[limits]\nconnections_per_process_max = 5000").expect_err("more than the default").to_string();
        assert!(wrong.contains("which is 4096"), "{wrong}");
        assert!(from_text("[limits]\nconnections_max = 10\nconnections_per_process_max = 10").is_ok());
        let settings = from_text("[limits]\nconnections_max = 10").expect("valid");
        assert_eq!(settings.limits().connections_per_process_max, 10, "it follows connections_max");
    }

    #[test]
    fn largest_message_must_fit_into_the_memory_for_all() {
        let wrong = from_text("[limits]\n\nheld_bytes_max = \"32 MiB\"")
            .expect_err("the default payload does not fit")
            .to_string();
        assert_eq!(
            wrong,
            "/etc/here.toml:3:18: held_bytes_max = 32 MiB is less than payload_bytes_max, which is 64 MiB, plus 1 MiB; \
             raise it to 65 MiB or more, or lower payload_bytes_max"
        );
        assert!(from_text("[limits]\nheld_bytes_max = \"65 MiB\"").is_ok());
        assert!(from_text("[limits]\npayload_bytes_max = \"1 MiB\"\nheld_bytes_max = \"2 MiB\"").is_ok());
        assert!(from_text("[limits]\npayload_bytes_max = \"1 MiB\"\nheld_bytes_max = 2097151").is_err());
    }

    #[test]
    fn invalid_variable_is_named() {
        let with = |log: Option<OsString>, idle_exit: Option<OsString>| {
            let environment = Environment { config: None, idle_exit, log };
            Settings::resolve(&Flags::default(), &environment, None, Started::OnDemand).expect_err("wrong").to_string()
        };
        let wrong = with(Some("inof".into()), None);
        assert!(wrong.starts_with("the variable BROADCASTERD_LOG is invalid: \"inof\" is not a log level"), "{wrong}");
        let wrong = with(None, Some("soon".into()));
        assert!(wrong.starts_with("the variable BROADCASTERD_IDLE_EXIT is invalid: \"soon\" is not a time"), "{wrong}");
        #[cfg(unix)]
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        #[cfg(windows)]
        let bytes = std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
        let wrong = with(None, Some(bytes));
        assert_eq!(wrong, "the variable BROADCASTERD_IDLE_EXIT is not UTF-8; set it to text, or unset it");
    }

    #[test]
    fn sample_file_has_every_key_at_its_default() {
        let sample = include_str!("../../../../packaging/broadcasterd.toml");
        assert_eq!(from_text(sample), Ok(nothing_set(Started::InForeground)), "as shipped, it sets nothing");
        // A setting is commented out without a space; prose has one.
        let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(setting) if is_setting(setting) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        let settings = from_text(&sample.lines().map(uncomment).collect::<String>()).expect("valid");
        assert_eq!(settings.limits(), Limits::default());
        assert_eq!(settings.log.value, Started::InForeground.log());
        assert_eq!(settings.idle_exit.value, Started::InForeground.idle_exit());
        let mut origins = settings.origins.iter().chain([&settings.log.origin, &settings.idle_exit.origin]);
        assert!(origins.all(|origin| *origin != Origin::Default), "every key is present");
    }

    #[test]
    fn all_mistakes_of_file_and_environment_are_reported_together() {
        let text = "log = 3\n[limits]\nheld_bytes_max = \"1 MB\"\n";
        let environment = Environment { config: None, idle_exit: Some("soon".into()), log: None };
        let file = Some((Path::new(FILE), text));
        let mistakes =
            Settings::resolve(&Flags::default(), &environment, file, Started::InForeground).expect_err("three");
        let starts: Vec<_> =
            mistakes.iter().map(|mistake| mistake.split([' ', '=']).next().unwrap_or_default()).collect();
        assert_eq!(starts, ["/etc/here.toml:1:7:", "/etc/here.toml:3:18:", "the"]);
        let sentence = mistakes.to_string();
        assert!(sentence.ends_with(" (and 2 more: `broadcasterd config check` lists them all)"), "{sentence}");
    }

    #[test]
    fn conflicts_are_reported_together_and_only_between_valid_values() {
        let text = "[limits]\nconnections_max = 10\nconnections_per_process_max = 11\nheld_bytes_max = \"32 MiB\"\n";
        assert_eq!(from_text(text).expect_err("two").iter().count(), 2);
        let invalid = format!("{text}channels_max = 0\n");
        assert_eq!(from_text(&invalid).expect_err("one").iter().count(), 1);
    }
}
