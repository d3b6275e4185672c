//! Lines of `key=value` fields: how parent and children communicate. Values are never quoted and contain no spaces.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Result, fail};

#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, key: &str, value: impl Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    pub(crate) fn from_args(args: &[String]) -> Self {
        let pairs = args.iter().filter_map(|arg| arg.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    pub(crate) fn from_line(line: &str) -> Self {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Self::from_args(&args)
    }

    pub(crate) fn args(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(key, value)| format!("{key}={value}"))
    }

    pub(crate) fn line(&self) -> String {
        self.args().collect::<Vec<_>>().join(" ")
    }

    /// The value of `key`, which must be present.
    pub(crate) fn require<T: FromStr>(&self, key: &str) -> Result<T> {
        match self.0.get(key).map(|value| value.parse()) {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) => fail(format!("the value of `{key}` does not parse")),
            None => fail(format!("the field `{key}` is missing")),
        }
    }

    /// The value of `key`, or `default` if it is absent.
    pub(crate) fn value_or<T: FromStr>(&self, key: &str, default: T) -> T {
        self.0.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}
