//! Where settings come from: the command line, the environment, and the config file in use. It reads no values.

use super::file;
use super::idle_exit::IdleExit;
use crate::exit::{Code, Failure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variable with the level, or with directives such as `broadcaster_server=debug`.
pub(crate) const LOG_VARIABLE: &str = "BROADCASTERD_LOG";

/// Environment variable with a time, or `never`.
pub(crate) const IDLE_EXIT_VARIABLE: &str = "BROADCASTERD_IDLE_EXIT";

/// Environment variable with the path of the config file.
pub(crate) const CONFIG_VARIABLE: &str = "BROADCASTERD_CONFIG";

/// The settings on the command line of the daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// The config file, instead of the user's own.
    pub(crate) config: Option<PathBuf>,
    pub(crate) idle_exit: Option<IdleExit>,
    /// A level or directives, already checked.
    pub(crate) log: Option<String>,
}

/// The settings in the environment. An empty variable counts as unset.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(super) config: Option<PathBuf>,
    pub(super) idle_exit: Option<OsString>,
    pub(super) log: Option<OsString>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            config: variable(CONFIG_VARIABLE).map(PathBuf::from),
            idle_exit: variable(IDLE_EXIT_VARIABLE),
            log: variable(LOG_VARIABLE),
        }
    }
}

/// The config file in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Absolute; `None` if there is no home directory to look in.
    pub(crate) path: Option<PathBuf>,
    /// The argument or variable that named it; such a file must exist.
    named_by: Option<&'static str>,
}

impl Source {
    /// The file that the flag names, or the variable, or the one in the user's config directory.
    pub(crate) fn find(flag: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let (path, named_by) = match (flag, &environment.config) {
            (Some(path), _) => (Some(path.to_owned()), Some("--config")),
            (None, Some(path)) => (Some(path.clone()), Some(CONFIG_VARIABLE)),
            (None, None) => (file::default_path(), None),
        };
        let path = path.map(std::path::absolute).transpose()?;
        Ok(Self { path, named_by })
    }

    /// Its text; `None` if the file does not exist and is optional.
    pub(crate) fn read(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.path else { return Ok(None) };
        match (file::read(path), self.named_by) {
            (Ok(None), Some(by)) => {
                let shown = path.display();
                Err(unusable(format!("there is no config file {shown}, which {by} names; create it, or omit {by}")))
            }
            (text, _) => text.map_err(unusable),
        }
    }
}

/// An unusable config file ends the command like an invalid argument.
fn unusable(sentence: String) -> Failure {
    Failure::new(Code::Usage, sentence)
}
