//! `broadcasterd doctor`: diagnoses problems with the bus and suggests fixes. It never changes anything and never starts a daemon.
//!
//! | module | content |
//! | --- | --- |
//! | `facts` | what is known: values only |
//! | `gather` | collects the facts: everything that waits, reads or connects |
//! | `system` | facts that only some systems provide |
//! | `parse` | parses the system's files and tools: pure |
//! | `verdict` | derives findings from the facts: pure |
//! | `finding`, `report` | what is shown |
//! | `config` | checks the settings as the daemon reads them |
//! | `shared_memory` | checks whether rings can be used |
//! | `windows` | all checks on Windows |

mod config;
#[cfg(unix)]
mod facts;
mod finding;
#[cfg(unix)]
mod gather;
#[cfg(unix)]
#[cfg_attr(not(any(test, target_os = "linux", target_os = "android")), allow(dead_code))]
mod parse;
mod report;
mod shared_memory;
#[cfg(unix)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "elsewhere.rs")]
mod system;
#[cfg(unix)]
mod verdict;
#[cfg(windows)]
mod windows;

#[cfg(windows)]
pub(crate) use windows::examine;

#[cfg(unix)]
use facts::Facts;
#[cfg(unix)]
use finding::Finding;
#[cfg(unix)]
use report::Report;
#[cfg(unix)]
use system_broadcaster::Options;

/// Runs all checks. `socket_given`: the socket of `options` is an argument of the command.
#[cfg(unix)]
pub(crate) fn examine(options: &Options, socket_given: bool) -> Report {
    report(&gather::gather(options, socket_given), config::config_check())
}

#[cfg(unix)]
fn report(facts: &Facts, config: Option<Finding>) -> Report {
    let mut findings = verdict::findings(facts);
    findings.extend(config);
    Report::new(&verdict::sentence(facts, &findings), findings)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use finding::{Check, Level};

    /// Reports of invented facts.
    fn screens() -> Vec<(&'static str, String)> {
        let screen = |facts: &Facts| report(facts, None).text(false);
        vec![
            ("doctor-healthy", screen(&verdict::tests::healthy())),
            ("doctor-stopped", screen(&verdict::tests::stopped())),
        ]
    }

    #[test]
    fn screens_in_the_documentation_are_current() {
        screens().iter().for_each(|(name, text)| crate::observe::screens::assert_screen(name, text));
    }

    #[test]
    fn report_shows_level_check_and_remedy() {
        let screens = screens();
        let (healthy, stopped) = (&screens[0].1, &screens[1].1);
        assert!(
            healthy.lines().take_while(|line| !line.is_empty()).all(|line| line.starts_with("ok    ")),
            "{healthy}"
        );
        let at = stopped.lines().position(|line| line.starts_with("FAIL  daemon       ")).expect("a failure");
        assert!(stopped.lines().nth(at + 1).is_some_and(|line| line.trim().starts_with("-> ")), "{stopped}");
        assert!(stopped.lines().last().is_some_and(|line| line.contains("812")), "{stopped}");
    }

    #[test]
    fn colours_are_only_around_the_levels() {
        let report = report(&verdict::tests::stopped(), None);
        let coloured = report.text(true);
        assert!(coloured.contains("\x1b[31mFAIL\x1b[0m  daemon"), "{coloured}");
        let mut plain = coloured;
        for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, report.text(false));
    }

    #[test]
    fn json_has_the_documented_fields() {
        let report = serde_json::to_value(report(&verdict::tests::stopped(), None)).expect("it is JSON");
        assert_eq!((&report["schema"], &report["level"]), (&1.into(), &"error".into()));
        assert!(report["verdict"].is_string());
        for finding in report["findings"].as_array().expect("a list") {
            assert!(finding["check"].is_string() && finding["finding"].is_string(), "{finding}");
            assert_eq!(finding["remedy"].is_null(), finding["level"] == "ok", "{finding}");
        }
    }

    #[test]
    fn config_precedes_stats() {
        let config = Finding::new(Check::Config, Level::Error, "a line", "a remedy");
        let report = report(&verdict::tests::healthy(), Some(config));
        let checks: Vec<_> = report.findings().iter().map(|finding| finding.check).collect();
        assert!(report.is_bad() && checks.is_sorted() && report.verdict().contains("a line"), "{report:?}");
    }
}
