//! The bench as a whole: what was asked for, what it runs in, what it found. It never measures; the sections do.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};
use tempfile::TempDir;

use crate::fail::{Outcome, fail};
use crate::link::System;
use crate::nursery::Nursery;
use crate::sections;
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
    pub(crate) fn parse(args: &[String]) -> Outcome<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--floors" => options.floors_only = true,
                "--runs" => match args.next().and_then(|runs| runs.parse().ok()) {
                    Some(runs @ 1..=100) => options.runs = Some(runs),
                    _ => return fail("--runs takes a number from 1 to 100"),
                },
                "--json" => match args.next() {
                    Some(path) => options.json = Some(path.into()),
                    None => return fail("--json takes a file"),
                },
                name if sections::ALL.iter().any(|(section, _)| *section == name) => {
                    options.filters.push(name.to_owned());
                }
                other => return fail(format!("`{other}` is neither a section nor an option")),
            }
        }
        Ok(options)
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// How long one run should take.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 500 })
    }

    fn wants(&self, section: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter == section)
    }
}

pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) nursery: Nursery,
    /// The daemon's binary; none means that only floors are measured.
    pub(crate) daemon: Option<PathBuf>,
    /// The CPU for what is measured on one CPU.
    pub(crate) pin_cpu: usize,
    cpus: usize,
    root: TempDir,
    dirs: Cell<u32>,
    table: RefCell<Table>,
    failures: RefCell<Vec<String>>,
}

impl Bench {
    fn new(options: Options) -> Outcome<Self> {
        let time_max = if options.quick { QUICK_TIME_MAX } else { FULL_TIME_MAX };
        let root = tempfile::tempdir()?;
        let nursery = Nursery::new(time_max, root.path())?;
        let daemon = if options.floors_only { None } else { find_daemon(nursery.program()) };
        let allowed = sched_getaffinity(None)?;
        Ok(Self {
            options,
            nursery,
            daemon,
            // The last one: interrupts tend to go to the first.
            pin_cpu: (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)).unwrap_or(0),
            cpus: allowed.count() as usize,
            root,
            dirs: Cell::default(),
            table: RefCell::default(),
            failures: RefCell::default(),
        })
    }

    /// A new directory for one run, which the daemon will not find too open.
    pub(crate) fn fresh_dir(&self) -> Outcome<PathBuf> {
        let number = self.dirs.get() + 1;
        self.dirs.set(number);
        let dir = self.root.path().join(number.to_string());
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Keeps those of `systems` that can be measured now.
    pub(crate) fn at_hand(&self, systems: &[System]) -> Vec<System> {
        let at_hand = |system: &System| self.daemon.is_some() || !system.is_ours();
        systems.iter().copied().filter(at_hand).collect()
    }

    pub(crate) fn row(&self, section: &'static str, row: Row) {
        self.table.borrow_mut().push(section, row);
    }

    /// Notes what went wrong; the bench goes on and fails at its end.
    pub(crate) fn failed(&self, what: &str, why: impl std::fmt::Display) {
        let sentence = format!("{what}: {why}");
        eprintln!("FAILED {sentence}");
        self.failures.borrow_mut().push(sentence);
    }

    /// The outcome's value, or none and a note.
    pub(crate) fn noted<T>(&self, what: &str, outcome: Outcome<T>) -> Option<T> {
        outcome.map_err(|error| self.failed(what, error)).ok()
    }
}

/// The binary named by the environment, or the one that cargo built beside the bench.
fn find_daemon(program: &Path) -> Option<PathBuf> {
    let beside = || Some(program.parent()?.parent()?.join("broadcasterd"));
    let named = std::env::var_os("BROADCASTERD").map(PathBuf::from);
    named.or_else(beside).filter(|daemon| daemon.is_file())
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
        eprintln!("floors alone: no daemon (cargo build --release -p broadcasterd, or BROADCASTERD=path)");
    }
    for (name, section) in sections::ALL {
        if bench.options.wants(name) {
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
            table.missed(),
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
