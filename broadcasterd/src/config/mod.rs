//! The settings of the daemon: a flag goes before a variable, a variable before the config file, the file before the default.
//! Which socket the bus is at is never one of them: clients must agree on it without reading the daemon's file.

pub(crate) mod file;
pub(crate) mod keys;

use crate::exit::{Code, Failure};
use crate::log;
use broadcaster_server::Limits;
use clap::Args;
use file::{At, Document};
use keys::{HELD_ROOM_BYTES, KEYS, Unit};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Environment variable with the level, or with directives such as `broadcaster_server=debug`.
pub(crate) const LOG_VARIABLE: &str = "BROADCASTERD_LOG";

/// Environment variable with a time, or `never`.
pub(crate) const IDLE_EXIT_VARIABLE: &str = "BROADCASTERD_IDLE_EXIT";

/// Environment variable with the path of the config file.
pub(crate) const CONFIG_VARIABLE: &str = "BROADCASTERD_CONFIG";

/// Longest time that is told apart from never.
const IDLE_EXIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How the daemon came to run. Some defaults depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// By a person, or by a service manager that does not pass a socket.
    InForeground,
    /// By the first client, through `broadcasterd start`.
    OnDemand,
    /// By a service manager that holds the socket, and starts the daemon again when it is needed.
    Activated,
}

impl Started {
    /// Every way, in the order in which they are told.
    pub(crate) const ALL: [Self; 3] = [Self::InForeground, Self::OnDemand, Self::Activated];

    /// What this process was started by: with `--detached`, or with a socket.
    pub(crate) fn this(detached: bool, activated: bool) -> Self {
        if detached {
            Self::OnDemand
        } else if activated {
            Self::Activated
        } else {
            Self::InForeground
        }
    }

    pub(crate) fn idle_exit(self) -> IdleExit {
        IdleExit(match self {
            Self::InForeground => None,
            Self::OnDemand => Some(Duration::from_secs(60)),
            Self::Activated => Some(Duration::from_secs(600)),
        })
    }

    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::InForeground | Self::Activated => "info",
            Self::OnDemand => "warn", // stderr is the caller's until the daemon is ready, and nobody's after that
        }
    }
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InForeground => "in the foreground",
            Self::OnDemand => "when started on demand",
            Self::Activated => "when activated",
        })
    }
}

/// After how long without connections the daemon ends, if it ever does.
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
            Err(error) => Err(format!("{text:?} is no time ({error}); try 60s, 10min or never")),
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

/// The settings on the command line of the daemon.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Read the settings from this file instead of the user's own [env: BROADCASTERD_CONFIG]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,

    /// End when nobody has been connected for this long, or `never` [env: BROADCASTERD_IDLE_EXIT] [default: never]
    #[arg(long, value_name = "TIME")]
    pub(crate) idle_exit: Option<IdleExit>,

    /// What to log: error, warn, info, debug or trace [env: BROADCASTERD_LOG] [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = log::directives)]
    pub(crate) log: Option<String>,
}

/// The settings in the environment. An empty variable is as good as none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    config: Option<PathBuf>,
    idle_exit: Option<OsString>,
    log: Option<OsString>,
}

impl Environment {
    /// That of this process.
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            config: variable(CONFIG_VARIABLE).map(PathBuf::from),
            idle_exit: variable(IDLE_EXIT_VARIABLE),
            log: variable(LOG_VARIABLE),
        }
    }
}

/// The config file that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Absolute; `None` if there is no home directory to look in.
    pub(crate) path: Option<PathBuf>,
    /// What named it; a file that was named must be there.
    named_by: Option<&'static str>,
}

impl Source {
    pub(crate) fn find(flag: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let (path, named_by) = match (flag, &environment.config) {
            (Some(path), _) => (Some(path.to_owned()), Some("--config")),
            (None, Some(path)) => (Some(path.clone()), Some(CONFIG_VARIABLE)),
            (None, None) => (file::default_path(), None),
        };
        let path = path.map(std::path::absolute).transpose()?;
        Ok(Self { path, named_by })
    }

    /// Its text; `None` if there is no such file, and need not be.
    pub(crate) fn read(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.path else { return Ok(None) };
        match (file::read(path), self.named_by) {
            (Ok(None), Some(by)) => {
                let shown = path.display();
                Err(unusable(format!(
                    "there is no config file {shown}, which {by} names; create it, or leave {by} out"
                )))
            }
            (text, _) => text.map_err(unusable),
        }
    }
}

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

/// A value that holds, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
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
    /// The settings of a daemon that was started like this, in this process.
    pub(crate) fn load(flags: &Flags, started: Started) -> Result<Self, Failure> {
        let environment = Environment::read();
        let source = Source::find(flags.config.as_deref(), &environment)?;
        let text = source.read()?;
        let file = source.path.as_deref().zip(text.as_deref());
        Self::resolve(flags, &environment, file, started).map_err(unusable)
    }

    /// The settings that follow from flags, environment and the text of the config file at a path, or what is wrong with them.
    pub(crate) fn resolve(
        flags: &Flags,
        environment: &Environment,
        file: Option<(&Path, &str)>,
        started: Started,
    ) -> Result<Self, String> {
        let path = file.map(|(path, _)| path).unwrap_or(Path::new(""));
        let said = |wrong: At<String>| format!("{}:{}:{}: {}", path.display(), wrong.line, wrong.column, wrong.value);
        let document = file.map(|(_, text)| Document::parse(text)).transpose().map_err(said)?.unwrap_or_default();
        let limits = effective(&document).map_err(said)?;
        let from_file = |line| Origin::File { path: path.to_owned(), line };

        let variable = variable(LOG_VARIABLE, environment.log.as_ref(), log::directives)?;
        let log = match (&flags.log, variable, document.log) {
            (Some(log), ..) => Setting { value: log.clone(), origin: Origin::Flag("--log") },
            (None, Some(log), _) => log,
            (None, None, Some(log)) => Setting { value: log.value, origin: from_file(log.line) },
            (None, None, None) => Setting { value: started.log().to_owned(), origin: Origin::Default },
        };
        let variable = self::variable(IDLE_EXIT_VARIABLE, environment.idle_exit.as_ref(), str::parse)?;
        let idle_exit = match (flags.idle_exit, variable, document.idle_exit) {
            (Some(value), ..) => Setting { value, origin: Origin::Flag("--idle-exit") },
            (None, Some(idle_exit), _) => idle_exit,
            (None, None, Some(idle_exit)) => Setting { value: idle_exit.value, origin: from_file(idle_exit.line) },
            (None, None, None) => Setting { value: started.idle_exit(), origin: Origin::Default },
        };
        let origins = document.limits.map(|limit| limit.map_or(Origin::Default, |limit| from_file(limit.line)));
        Ok(Self { log, idle_exit, limits, origins })
    }

    /// What the daemon is to keep to.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = self.limits.clone();
        limits.idle_exit_after = self.idle_exit.value.0;
        limits
    }

    /// Each key of `[limits]` with its unit, its value and where that comes from.
    pub(crate) fn each_limit(&self) -> impl Iterator<Item = (&'static str, Unit, u64, &Origin)> {
        KEYS.iter().zip(&self.origins).map(|(key, origin)| (key.name, key.unit, (key.read)(&self.limits), origin))
    }
}

/// A setting that cannot be used ends the command like an argument that cannot be used.
fn unusable(sentence: String) -> Failure {
    Failure::new(Code::Usage, sentence)
}

/// The value in a variable, if that is set.
fn variable<T>(
    name: &'static str,
    text: Option<&OsString>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Setting<T>>, String> {
    let Some(text) = text else { return Ok(None) };
    let text = text.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8; set it to text, or unset it"))?;
    let value = parse(text).map_err(|error| format!("the variable {name} cannot be used: {error}"))?;
    Ok(Some(Setting { value, origin: Origin::Environment(name) }))
}

/// The limits that the file sets, within the defaults; what is wrong between two of them is told where one of them is set.
fn effective(document: &Document) -> Result<Limits, At<String>> {
    let mut limits = Limits::default();
    for (key, set) in KEYS.iter().zip(&document.limits) {
        if let Some(set) = set {
            (key.write)(&mut limits, set.value);
        }
    }
    let set = |name| document.limits.get(keys::position(name)?)?.as_ref();
    let wrong = |at: Option<&At<u64>>, value| At {
        value,
        line: at.map_or(1, |at| at.line),
        column: at.map_or(1, |at| at.column),
    };
    match set("connections_per_process_max") {
        // It follows when it is not set: a single process cannot have more than all have.
        None => limits.connections_per_process_max = limits.connections_per_process_max.min(limits.connections_max),
        Some(at) if limits.connections_per_process_max > limits.connections_max => {
            let (of_process, all) = (limits.connections_per_process_max, limits.connections_max);
            let sentence = format!(
                "connections_per_process_max = {of_process} is more than connections_max, which is {all}; \
                 lower it to {all}, or raise connections_max"
            );
            return Err(wrong(Some(at), sentence));
        }
        Some(_) => {}
    }
    let (held, payload) = (limits.held_bytes_max as u64, u64::from(limits.payload_bytes_max));
    let needed = payload + HELD_ROOM_BYTES;
    if held < needed {
        let [held, payload, room, needed] = [held, payload, HELD_ROOM_BYTES, needed].map(|n| Unit::Bytes.shown(n));
        let sentence = format!(
            "held_bytes_max = {held} is less than payload_bytes_max, which is {payload}, and {room} of room; \
             raise it to {needed} or more, or lower payload_bytes_max"
        );
        return Err(wrong(set("held_bytes_max").or(set("payload_bytes_max")), sentence));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/here.toml";

    fn from_text(text: &str) -> Result<Settings, String> {
        let file = Some((Path::new(FILE), text));
        Settings::resolve(&Flags::default(), &Environment::default(), file, Started::InForeground)
    }

    fn nothing_set(started: Started) -> Settings {
        Settings::resolve(&Flags::default(), &Environment::default(), None, started).expect("good")
    }

    #[test]
    fn defaults_depend_on_how_the_daemon_was_started() {
        let told = Started::ALL.map(|started| {
            let settings = nothing_set(started);
            assert_eq!((&settings.log.origin, &settings.idle_exit.origin), (&Origin::Default, &Origin::Default));
            (settings.log.value.clone(), settings.limits().idle_exit_after)
        });
        let [foreground, on_demand, activated] = told;
        assert_eq!(foreground, ("info".to_owned(), None));
        assert_eq!(on_demand, ("warn".to_owned(), Some(Duration::from_secs(60))));
        assert_eq!(activated, ("info".to_owned(), Some(Duration::from_secs(600))));
        assert_eq!(nothing_set(Started::InForeground).limits(), Limits::default());
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
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
                let settings = Settings::resolve(flags, environment, file, started).expect("good");
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
    fn a_limit_is_the_file_s_with_its_line_or_the_default() {
        let settings = from_text("[limits]\nchannels_max = 7\n\noutbox_bytes_max = \"1 MiB\"").expect("good");
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
    fn mistakes_name_the_file_the_line_and_the_column() {
        let wrong = from_text("\n[limits]\n  chanels_max = 1").expect_err("unknown");
        assert!(wrong.starts_with("/etc/here.toml:3:3: unknown key \"chanels_max\" in [limits]; "), "{wrong}");
    }

    #[test]
    fn a_process_cannot_have_more_connections_than_all() {
        let wrong =
            from_text("[limits]\nconnections_max = 10\nconnections_per_process_max = 11").expect_err("too many");
        assert_eq!(
            wrong,
            "/etc/here.toml:3:31: connections_per_process_max = 11 is more than connections_max, which is 10; \
             lower it to 10, or raise connections_max"
        );
        let wrong = from_text("[limits]\nconnections_per_process_max = 5000").expect_err("more than the default");
        assert!(wrong.contains("which is 4096"), "{wrong}");
        assert!(from_text("[limits]\nconnections_max = 10\nconnections_per_process_max = 10").is_ok());
        let settings = from_text("[limits]\nconnections_max = 10").expect("good");
        assert_eq!(settings.limits().connections_per_process_max, 10, "it follows");
    }

    #[test]
    fn the_largest_message_must_fit_into_the_memory_for_all() {
        let wrong = from_text("[limits]\n\nheld_bytes_max = \"32 MiB\"").expect_err("the default payload does not fit");
        assert_eq!(
            wrong,
            "/etc/here.toml:3:18: held_bytes_max = 32 MiB is less than payload_bytes_max, which is 64 MiB, and 1 MiB of \
             room; raise it to 65 MiB or more, or lower payload_bytes_max"
        );
        assert!(from_text("[limits]\nheld_bytes_max = \"65 MiB\"").is_ok());
        assert!(from_text("[limits]\npayload_bytes_max = \"1 MiB\"\nheld_bytes_max = \"2 MiB\"").is_ok());
        assert!(from_text("[limits]\npayload_bytes_max = \"1 MiB\"\nheld_bytes_max = 2097151").is_err());
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let with = |log: Option<OsString>, idle_exit: Option<OsString>| {
            let environment = Environment { config: None, idle_exit, log };
            Settings::resolve(&Flags::default(), &environment, None, Started::OnDemand).expect_err("wrong")
        };
        let wrong = with(Some("inof".into()), None);
        assert!(wrong.starts_with("the variable BROADCASTERD_LOG cannot be used: \"inof\" is no log level"), "{wrong}");
        let wrong = with(None, Some("soon".into()));
        assert!(
            wrong.starts_with("the variable BROADCASTERD_IDLE_EXIT cannot be used: \"soon\" is no time"),
            "{wrong}"
        );
        #[cfg(unix)]
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        #[cfg(windows)]
        let bytes = std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
        let wrong = with(None, Some(bytes));
        assert_eq!(wrong, "the variable BROADCASTERD_IDLE_EXIT is not UTF-8; set it to text, or unset it");
    }

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
            assert!(parse(text).expect_err("no time").ends_with("try 60s, 10min or never"));
        }
    }

    #[test]
    fn the_sample_file_has_every_key_at_its_default() {
        let sample = include_str!("../../../packaging/broadcasterd.toml");
        assert_eq!(from_text(sample), Ok(nothing_set(Started::InForeground)), "as it is, it sets nothing");
        // A setting is commented out without a space; prose has one.
        let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(setting) if is_setting(setting) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        let settings = from_text(&sample.lines().map(uncomment).collect::<String>()).expect("good");
        assert_eq!(settings.limits(), Limits::default());
        assert_eq!(settings.log.value, Started::InForeground.log());
        assert_eq!(settings.idle_exit.value, Started::InForeground.idle_exit());
        let mut origins = settings.origins.iter().chain([&settings.log.origin, &settings.idle_exit.origin]);
        assert!(origins.all(|origin| *origin != Origin::Default), "every key is there");
    }
}
