//! The table: one line per figure, printed as soon as it is known. A small loss is never rounded to zero.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::Result;

/// One line of the table. Cells without a value stay empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) system: String,
    pub(crate) figure: String,
    pub(crate) lost: String,
    pub(crate) cpu: String,
    pub(crate) ratio: String,
    pub(crate) goal: Goal,
    /// The figures in machine-readable form.
    pub(crate) json: Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Goal {
    #[default]
    None,
    Met,
    Missed,
}

impl Goal {
    pub(crate) fn of(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }

    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Met => "ok",
            Self::Missed => "MISSED",
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(&'static str, Row)>,
}

impl Table {
    pub(crate) fn push(&mut self, section: &'static str, row: Row) {
        if self.rows.is_empty() {
            print(["case", "system", "figure", "lost", "cpu s/M", "relative to floor (goal)", ""]);
        }
        if self.rows.last().is_some_and(|(last, _)| *last != section) {
            println!();
        }
        let case = format!("{section} {}", row.case);
        print([&case, &row.system, &row.figure, &row.lost, &row.cpu, &row.ratio, row.goal.text()]);
        self.rows.push((section, row));
    }

    pub(crate) fn goals_missed(&self) -> usize {
        let missed = |(_, row): &&(_, Row)| row.goal == Goal::Missed;
        self.rows.iter().filter(missed).count()
    }

    pub(crate) fn write_json(&self, path: &Path, runs: usize, cpus: usize) -> Result<()> {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(section, row)| {
                json!({
                    "section": section,
                    "case": row.case,
                    "system": row.system,
                    "goal": row.goal.text(),
                    "figures": row.json,
                })
            })
            .collect();
        let document = json!({ "runs": runs, "cpus": cpus, "rows": rows });
        Ok(fs::write(path, format!("{document:#}\n"))?)
    }
}

fn print(cells: [&str; 7]) {
    let [case, system, figure, lost, cpu, ratio, goal] = cells;
    let line = format!("{case:<30} {system:<18} {figure:<36} {lost:>8} {cpu:>8}  {ratio:<58} {goal}");
    println!("{}", line.trim_end());
    // A reader behind a pipe sees each row at once.
    let _ = std::io::stdout().flush();
}

/// A share in percent, precise enough to distinguish a small loss from none.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".to_owned(),
        percent if percent < 0.01 => "<0.01 %".to_owned(),
        percent if percent < 1.0 => format!("{percent:.2} %"),
        percent => format!("{percent:.1} %"),
    }
}

pub(crate) fn millions(per_s: f64) -> String {
    match per_s / 1e6 {
        millions if millions < 0.1 => format!("{millions:.4}"),
        millions if millions < 10.0 => format!("{millions:.2}"),
        millions => format!("{millions:.1}"),
    }
}

pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

/// A ratio and its goal.
pub(crate) fn ratio_with_goal(what: &str, ratio: f64, sign: &str, goal: Option<f64>) -> String {
    match goal {
        Some(goal) => format!("{what} {ratio:.2}x ({sign}{goal})"),
        None => format!("{what} {ratio:.2}x"),
    }
}
