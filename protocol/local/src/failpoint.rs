//! Steps at which a test ends this process as `kill -9` does. They decide nothing, and without the feature `failpoints` they are empty.
//!
//! A step stands next to each act that another process can observe, and beside what holds descriptors or mappings: a process that is killed
//! between two steps leaves the same behind as one that is killed at the second. Steps count from 1, in the order in which the process passes
//! them. Two variables of its environment, which it reads once, select what happens:
//!
//! | variable | value |
//! | --- | --- |
//! | `BROADCASTER_FAILPOINT` | the number of the step at which the process sends itself SIGKILL, or its name: then the first of that name |
//! | `BROADCASTER_FAILPOINTS_LOG` | a file, to which the process appends the name of each step as it passes it, the last one included |

/// Whether this build has steps.
pub const IS_ENABLED: bool = cfg!(all(feature = "failpoints", unix));

/// Passes a step, or ends here.
#[cfg(not(all(feature = "failpoints", unix)))]
#[inline(always)]
pub fn step(_name: &'static str) {}

#[cfg(all(feature = "failpoints", unix))]
pub use enabled::step;

#[cfg(all(feature = "failpoints", unix))]
mod enabled {
    use rustix::process::{Signal, getpid, kill_process};
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What the environment selects.
    struct Plan {
        last: Option<String>,
        log: Option<File>,
        passed: AtomicU64,
    }

    /// Passes a step, or ends here.
    pub fn step(name: &'static str) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        if let Some(plan) = PLAN.get_or_init(Plan::of_environment) {
            plan.pass(name);
        }
    }

    impl Plan {
        fn of_environment() -> Option<Self> {
            let last = std::env::var("BROADCASTER_FAILPOINT").ok();
            let log = std::env::var_os("BROADCASTER_FAILPOINTS_LOG").map(|path| {
                File::options().append(true).create(true).open(path).expect("BROADCASTER_FAILPOINTS_LOG can be written")
            });
            (last.is_some() || log.is_some()).then(|| Self { last, log, passed: AtomicU64::new(0) })
        }

        fn pass(&self, name: &str) {
            let number = 1 + self.passed.fetch_add(1, Ordering::Relaxed);
            if let Some(mut log) = self.log.as_ref() {
                log.write_all(format!("{number} {name}\n").as_bytes()).expect("BROADCASTER_FAILPOINTS_LOG is written");
            }
            if self.last.as_ref().is_some_and(|last| last == name || *last == number.to_string()) {
                let _ = kill_process(getpid(), Signal::KILL);
                std::process::abort(); // not reached
            }
        }
    }
}
