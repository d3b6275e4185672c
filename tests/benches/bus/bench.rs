//! The bench as a whole: its options, its environment, its results. The sections do the measuring.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};
use tempfile::TempDir;

use crate::children::Children;
use crate::error::{Result, fail};
use crate::sections;
use crate::system::System;
use crate::table::{Row, Table};

const FULL_TIME_MAX: Duration = Duration::from_secs(15 * 60);
const QUICK_TIME_MAX: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    filters: Vec<String>,
    runs: Option<usize>,
    pub(crate) quick: bool,
    floors_only: bool,
    json: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--floors" => options.floors_only = true,
                "--runs" => match args.next().and_then(|runs| runs.parse().ok()) {
                    Some(runs @ 1..=100) => options.runs = Some(runs),
                    _ => return fail("--runs requires a number from 1 to 100"),
                },
                "--json" => match args.next() {
                    Some(path) => options.json = Some(path.into()),
                    None => return fail("--json requires a file"),
                },
                name if sections::ALL.iter().any(|(section, _)| *section == name) => {
                    options.filters.push(name.to_owned());
                }
                other => return fail(format!("unknown section or option `{other}`")),
            }
        }
        Ok(options)
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// The duration that one run should have.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 500 })
    }

    fn selects(&self, section: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter == section)
    }
}

pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) children: Children,
    /// The daemon's binary. Without it only the floors are measured.
    pub(crate) daemon: Option<PathBuf>,
    /// The CPU for measurements on one CPU.
    pub(crate) pin_cpu: usize,
    cpus: usize,
    root: TempDir,
    dirs: Cell<u32>,
    table: RefCell<Table>,
    failures: RefCell<Vec<String>>,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let time_max = if options.quick { QUICK_TIME_MAX } else { FULL_TIME_MAX };
        let root = tempfile::tempdir()?;
        let children = Children::new(time_max, root.path())?;
        let daemon = if options.floors_only { None } else { find_daemon(children.program()) };
        let allowed = sched_getaffinity(None)?;
        Ok(Self {
            options,
            children,
            daemon,
            // The last one, because interrupts tend to go to the first.
            pin_cpu: (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)).unwrap_or(0),
            cpus: allowed.count() as usize,
            root,
            dirs: Cell::default(),
            table: RefCell::default(),
            failures: RefCell::default(),
        })
    }

    /// A new directory for one run. Its mode is private, as the daemon requires.
    pub(crate) fn fresh_dir(&self) -> Result<PathBuf> {
        let number = self.dirs.get() + 1;
        self.dirs.set(number);
        let dir = self.root.path().join(number.to_string());
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Those of `systems` that can be measured: without a daemon, only the floors.
    pub(crate) fn available(&self, systems: &[System]) -> Vec<System> {
        let is_available = |system: &System| self.daemon.is_some() || !system.is_ours();
        systems.iter().copied().filter(is_available).collect()
    }

    pub(crate) fn push_row(&self, section: &'static str, row: Row) {
        self.table.borrow_mut().push(section, row);
    }

    /// Records a failure. The bench continues, and fails at its end.
    pub(crate) fn record_failure(&self, what: &str, why: impl std::fmt::Display) {
        let sentence = format!("{what}: {why}");
        eprintln!("FAILED {sentence}");
        self.failures.borrow_mut().push(sentence);
    }

    /// The value of `result`. An error is recorded as a failure.
    pub(crate) fn ok_or_record<T>(&self, what: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.record_failure(what, error)).ok()
    }
}

/// The binary named by `BROADCASTERD`, or the one that cargo built next to the bench.
fn find_daemon(program: &Path) -> Option<PathBuf> {
    let built = || Some(program.parent()?.parent()?.join("broadcasterd"));
    let named = std::env::var_os("BROADCASTERD").map(PathBuf::from);
    named.or_else(built).filter(|daemon| daemon.is_file())
}

pub(crate) fn main(options: Options) -> ExitCode {
    let started = Instant::now();
    let bench = match Bench::new(options) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if bench.daemon.is_none() {
        eprintln!("floors only: no daemon found (cargo build --release -p broadcasterd, or set BROADCASTERD)");
    }
    for (name, section) in sections::ALL {
        if bench.options.selects(name) {
            eprintln!("{name} ...");
            section(&bench);
        }
    }
    bench.finish(started.elapsed())
}

impl Bench {
    fn finish(self, took: Duration) -> ExitCode {
        let table = self.table.into_inner();
        let failures = self.failures.into_inner();
        println!(
            "\n{} runs per figure, {} CPUs, {:.0} s; {} goals missed, {} failures",
            self.options.runs(),
            self.cpus,
            took.as_secs_f64(),
            table.goals_missed(),
            failures.len(),
        );
        for failure in &failures {
            println!("FAILED {failure}");
        }
        if let Some(path) = &self.options.json
            && let Err(error) = table.write_json(path, self.options.runs(), self.cpus)
        {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
