//! `broadcasterd config`: the settings in effect, where they come from, and the mistakes in them. It changes no setting, and never
//! connects to a daemon.

use crate::daemon::config::keys::Unit;
use crate::daemon::config::{Environment, Flags, Origin, Settings, Source, Started};
use crate::exit::{Code, Failure};
use crate::output::notice;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Config {
    /// Use this file instead of the user's own [env: BROADCASTERD_CONFIG]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the settings that a daemon would use if it started now, and where each comes from
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the path of the config file, whether or not it exists
    Path,
    /// Check a config file: list all mistakes and exit with code 2, or with code 0 if there are none
    Check {
        /// The file to check, instead of the one in use
        file: Option<PathBuf>,
    },
}

impl Config {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let environment = Environment::read();
        let source = Source::find(self.config.as_deref(), &environment)?;
        match &self.command {
            Command::Show { json } => show(&source, &environment, *json),
            Command::Path => {
                let path = source.path.ok_or_else(no_home)?;
                Ok(writeln!(io::stdout(), "{}", path.display())?)
            }
            Command::Check { file: None } => check(&source),
            Command::Check { file: Some(file) } => check(&Source::find(Some(file), &environment)?),
        }
    }
}

fn no_home() -> Failure {
    let sentence = "no config file: there is no home directory; set HOME, or name a file with --config";
    Failure::new(Code::Failed, sentence)
}

fn check(source: &Source) -> Result<(), Failure> {
    let path = source.path.as_deref().ok_or_else(no_home)?;
    let text = source.read()?;
    let file = text.as_deref().map(|text| (path, text));
    if let Err(mistakes) = Settings::resolve(&Flags::default(), &Environment::default(), file, Started::InForeground) {
        for mistake in mistakes.iter() {
            notice(format_args!("broadcasterd: {mistake}"));
        }
        return Err(Failure::reported(Code::Usage));
    }
    let verdict = if text.is_some() { "valid" } else { "does not exist; the defaults are in effect" };
    Ok(writeln!(io::stdout(), "{}: {verdict}", path.display())?)
}

fn show(source: &Source, environment: &Environment, as_json: bool) -> Result<(), Failure> {
    let text = source.read()?;
    let file = source.path.as_deref().zip(text.as_deref());
    let settings = Settings::resolve(&Flags::default(), environment, file, Started::InForeground)?;
    let mut out = io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{}", as_object(source, file.is_some(), &settings))?);
    }
    match &source.path {
        Some(path) if file.is_some() => writeln!(out, "config file {}", path.display())?,
        Some(path) => writeln!(out, "config file {} (does not exist)", path.display())?,
        None => writeln!(out, "config file: none, since there is no home directory")?,
    }
    let rows = rows(&settings);
    let width =
        |column: fn(&[String; 3]) -> &String| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(|row| &row[0]), width(|row| &row[1]));
    for [key, value, origin] in rows {
        writeln!(out, "  {key:keys$}  {value:values$}  {origin}")?;
    }
    Ok(())
}

/// Key, value and origin of each setting.
fn rows(settings: &Settings) -> Vec<[String; 3]> {
    let [(log, _), (idle_exit, _)] = by_start(settings);
    let mut rows = vec![
        ["log".to_owned(), log, settings.log.origin.to_string()],
        ["idle_exit".to_owned(), idle_exit, settings.idle_exit.origin.to_string()],
    ];
    rows.extend(
        settings
            .each_limit()
            .map(|(name, unit, value, origin)| [format!("limits.{name}"), unit.shown(value), origin.to_string()]),
    );
    rows
}

/// `log` and `idle_exit`, as text and as JSON. Their defaults depend on how the daemon is started, and have no single value.
fn by_start(settings: &Settings) -> [(String, Value); 2] {
    let shown = |value: String, origin: &Origin, default: fn(Started) -> String| match origin {
        Origin::Default => {
            let text = Started::ALL.map(|started| format!("{} {started}", default(started))).join(", ");
            let [foreground, on_demand, activated] = Started::ALL.map(default);
            let defaults = json!({ "foreground": foreground, "on_demand": on_demand, "activated": activated });
            (text, json!({ "value": null, "origin": "default", "defaults": defaults }))
        }
        origin => (value.clone(), setting(&value.into(), origin)),
    };
    let Settings { log, idle_exit, .. } = settings;
    [
        shown(log.value.clone(), &log.origin, |started| started.log().to_owned()),
        shown(idle_exit.value.to_string(), &idle_exit.origin, |started| started.idle_exit().to_string()),
    ]
}

fn as_object(source: &Source, exists: bool, settings: &Settings) -> Value {
    let [(_, log), (_, idle_exit)] = by_start(settings);
    let limits: Map<String, Value> = settings
        .each_limit()
        .map(|(name, unit, value, origin)| {
            let value = match unit {
                Unit::Count | Unit::Bytes => value.into(),
                Unit::Time => unit.shown(value).into(),
            };
            (name.to_owned(), setting(&value, origin))
        })
        .collect();
    json!({
        "file": source.path.as_ref().map(|path| path.display().to_string()),
        "exists": exists,
        "log": log,
        "idle_exit": idle_exit,
        "limits": limits,
    })
}

fn setting(value: &Value, origin: &Origin) -> Value {
    match origin {
        Origin::Default => json!({ "value": value, "origin": "default" }),
        Origin::File { line, .. } => json!({ "value": value, "origin": "file", "line": line }),
        Origin::Environment(variable) => json!({ "value": value, "origin": "environment", "variable": variable }),
        Origin::Flag(flag) => json!({ "value": value, "origin": "flag", "flag": flag }),
    }
}
