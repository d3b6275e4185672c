//! Lines of `key=value` words, in which parent and children talk. It never quotes: values have no spaces, but for the last.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::fail::{Outcome, fail};

#[derive(Clone, Debug, Default)]
pub(crate) struct Words(BTreeMap<String, String>);

impl Words {
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

    /// The value of `key`, which must be there.
    pub(crate) fn need<T: FromStr>(&self, key: &str) -> Outcome<T> {
        match self.0.get(key).map(|value| value.parse()) {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) => fail(format!("the value of `{key}` does not parse")),
            None => fail(format!("the word `{key}` is missing")),
        }
    }

    /// The value of `key`, or what stands for its absence.
    pub(crate) fn or<T: FromStr>(&self, key: &str, absent: T) -> T {
        self.0.get(key).and_then(|value| value.parse().ok()).unwrap_or(absent)
    }
}
