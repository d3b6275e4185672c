//! Whether clients of this environment can send and receive through rings in shared memory. The bus works without them.

use super::finding::{Check, Finding, Level};
use broadcaster_local as local;
use std::ffi::OsString;
use system_broadcaster::SHARED_MEMORY_VARIABLE;

/// What decides whether rings are used.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedMemory {
    /// Why this process cannot make rings.
    problem: Option<String>,
    /// The value of the variable, where it has an effect.
    variable: Option<OsString>,
}

impl SharedMemory {
    /// Makes a page of shared memory and removes it, unless that was done before.
    pub(crate) fn inspect() -> Self {
        Self {
            problem: local::shared_memory_problem(),
            variable: std::env::var_os(SHARED_MEMORY_VARIABLE).filter(|_| !local::is_elevated()),
        }
    }

    /// The finding. Only an invalid value of the variable is an error: no client connects with it.
    pub(crate) fn finding(&self) -> Finding {
        let note = |finding: &str, remedy: &str| Finding::new(Check::Memory, Level::Note, finding, remedy);
        match self.variable.as_ref().map(|value| (value, value.to_str())) {
            Some((_, Some("0"))) => {
                let finding = format!("{SHARED_MEMORY_VARIABLE} is 0: clients of this environment use sockets only");
                note(&finding, &format!("nothing to do if this is intended; otherwise unset {SHARED_MEMORY_VARIABLE}"))
            }
            None | Some((_, Some("" | "1"))) => match &self.problem {
                None => Finding::ok(Check::Memory, "rings in shared memory can be made"),
                Some(problem) => note(
                    &format!("rings in shared memory cannot be made: {problem}"),
                    "nothing to do: messages go through sockets",
                ),
            },
            Some((value, _)) => {
                let finding = format!("{SHARED_MEMORY_VARIABLE} must be 0 or 1, not {value:?}: no client can connect");
                Finding::new(Check::Memory, Level::Error, finding, format!("unset {SHARED_MEMORY_VARIABLE}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_counts_before_what_the_system_can() {
        let finding = |variable: Option<&str>, problem: Option<&str>| {
            let shared_memory =
                SharedMemory { problem: problem.map(str::to_owned), variable: variable.map(OsString::from) };
            let Finding { level, finding, .. } = shared_memory.finding();
            (level, finding)
        };
        for variable in [None, Some(""), Some("1")] {
            assert_eq!(finding(variable, None), (Level::Ok, "rings in shared memory can be made".to_owned()));
            let (level, text) = finding(variable, Some("memfd_create: not here"));
            assert_eq!(
                (level, text.ends_with(" cannot be made: memfd_create: not here")),
                (Level::Note, true),
                "{text}"
            );
        }
        for problem in [None, Some("memfd_create: not here")] {
            let (level, text) = finding(Some("0"), problem);
            assert_eq!((level, text.starts_with("BROADCASTER_SHARED_MEMORY is 0: ")), (Level::Note, true), "{text}");
            let (level, text) = finding(Some("off"), problem);
            assert_eq!((level, text.contains("must be 0 or 1, not \"off\"")), (Level::Error, true), "{text}");
        }
    }
}
